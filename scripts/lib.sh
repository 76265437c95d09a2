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

# Ends a script that cannot run here; the reason is its last line.
skip() {
    say "SKIPPED: $(basename "$0"): $*"
    exit $exit_skipped
}

# need_programs PROGRAM...: skips unless all are installed.
need_programs() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || skip "$program is not installed"
    done
}

# Sets $kernel, a Linux that runs as a process, and $modules, where its modules are. Unpacks
# Debian's package into a cache; nothing is installed.
need_user_mode_linux() {
    local cache="${XDG_CACHE_HOME:-$HOME/.cache}/uraid/user-mode-linux"
    need_programs dpkg insmod
    [[ $(uname -m) == x86_64 ]] || skip "Debian's user-mode-linux is for x86-64 only"
    kernel="$cache/usr/bin/linux.uml"
    if [[ ! -x $kernel ]]; then
        say "fetching Debian's user-mode-linux package (40 MB, unpacked into $cache)"
        mkdir -p "$cache"
        (cd "$cache" && apt-get download user-mode-linux >apt.log 2>&1) ||
            skip "the package user-mode-linux cannot be had: $(tail -n1 "$cache/apt.log")"
        dpkg -x "$cache"/user-mode-linux_*.deb "$cache"
        rm -f "$cache"/*.deb
    fi
    modules=$(echo "$cache"/usr/lib/uml/modules/*)
}

# write_guest DIRECTORY <SCRIPT: makes of the script what a guest does from power on to power
# off, with this host's programs, read only, and DIRECTORY as /mnt/host to leave its findings in.
write_guest() {
    local directory=$1
    {
        cat <<END
#!/bin/sh
set -e
trap 'echo o >/proc/sysrq-trigger; sleep 10' EXIT # power off
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /mnt
mkdir /mnt/host
mount -t hostfs -o "$directory" none /mnt/host
END
        cat
    } >"$directory/init"
    chmod +x "$directory/init"
}

# run_guest DIRECTORY SECONDS ARGUMENT...: boots what write_guest made and waits for its end. Its
# exit code says nothing; the files it leaves do, and kernel.log.
run_guest() {
    local directory=$1 seconds_max=$2
    shift 2
    TMPDIR="$directory" timeout --kill-after=5 "$seconds_max" "$kernel" \
        root=/dev/root rootfstype=hostfs rootflags=/ ro init="$directory/init" \
        con=null con0=fd:0,fd:1 umid="uraid-$$" "$@" </dev/null >"$directory/kernel.log" 2>&1 ||
        true
}

# Skips if the guest in this directory has not even begun to boot.
need_boot() { grep -q 'Linux version' "$1/kernel.log" || skip "user-mode-linux does not boot here"; }

# need_debian PACKAGE,...: sets $debian, a directory with a minimal system of this release and these
# packages, not to be written to. Fetched once, from apt's own mirror, into a cache.
need_debian() {
    local packages=$1
    need_programs debootstrap
    local release mirror cache
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    cache="${XDG_CACHE_HOME:-$HOME/.cache}/uraid"
    # Another list of packages is another system.
    debian="$cache/$release-$(cksum <<<"$packages" | cut -d' ' -f1)"
    [[ ! -d $debian ]] || return 0
    # shellcheck disable=SC2016 # these are apt's
    mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 2>/dev/null |
        sed -n "s/^$release main //p" | head -n1)
    [[ -n $mirror ]] || skip "apt here has no mirror of Debian $release"
    say "fetching a minimal Debian $release (into $cache)"
    rm -rf "$debian.new"
    mkdir -p "$debian.new"
    debootstrap --variant=minbase --include=$packages "$release" "$debian.new" "$mirror" \
        >"$cache/debootstrap.log" 2>&1 ||
        skip "debootstrap could not fetch it: $(tail -n1 "$cache/debootstrap.log")"
    rm -rf "$debian.new"/var/cache/apt/archives/*.deb "$debian.new"/var/lib/apt/lists/*
    mv "$debian.new" "$debian"
}
