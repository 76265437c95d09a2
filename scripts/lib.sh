# What the scripts share. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Where other users' shells find mkfs and losetup, and where rustup puts cargo.
PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin

# What a command that could not run here exits with, after saying why.
exit_skipped=77

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Where cargo builds, whatever the environment says.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$root/target}"; }

# wait_until SECONDS COMMAND...: polls until the command succeeds.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# start_server LOG ARGUMENT...: starts `$uraid serve` and waits until it is ready. Sets server_pid.
start_server() {
    local log=$1
    shift
    : >"$log"
    # Out of reach of Ctrl-C: the caller unmounts first, then stops it.
    setsid "$uraid" serve "$@" >"$log" 2>&1 </dev/null &
    server_pid=$!
    if ! wait_until 60 server_has_spoken "$log" || ! grep -q '^ready ' "$log"; then
        cat "$log" >&2
        die "the server did not start"
    fi
}

server_has_spoken() { grep -q '^ready ' "$1" || ! kill -0 "$server_pid" 2>/dev/null; }
