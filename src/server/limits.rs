//! How many clients the system lets us have.

use super::front::NEGOTIATING_MAX;
use super::log;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Most clients at once, where nothing else is said.
pub const CONNECTIONS_DEFAULT: usize = 1024;

/// More than this is not to be had.
pub const CONNECTIONS_LIMIT: usize = 100_000;

/// Descriptors for everything but clients and members: rings, bells, listeners, control sockets
/// and their clients.
const OTHER_DESCRIPTORS: usize = 128;

/// Raises the limit on open files as far as it goes, and returns how many clients there may be:
/// as many as were `wanted`, or fewer if the limit is low. So many `others` are open as well, of
/// members and readers.
pub fn connections_max(wanted: usize, others: usize) -> usize {
    let descriptors = raise_open_files();
    let other = NEGOTIATING_MAX + OTHER_DESCRIPTORS + others;
    let possible = descriptors.saturating_sub(other).max(1);
    if possible < wanted {
        log::warning(&format!(
            "{descriptors} open files are allowed, enough for {possible} clients, not for \
             {wanted}; raise the limit (ulimit -Hn, LimitNOFILE=)"
        ));
    }
    wanted.min(possible)
}

fn raise_open_files() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return usize::MAX;
    };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let limit = if raised.is_ok() { hard } else { soft };
    usize::try_from(limit).unwrap_or(usize::MAX)
}
