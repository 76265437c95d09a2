//! A server, or what keeps a device up, on the host that uses the device: when memory runs short
//! the kernel writes to it, and it must go on without memory that only those writes would free.

use super::listen::Listen;
use super::log;
use std::net::IpAddr;
use uraid_io::reclaim::{become_io_flusher, lock_memory};

/// For a server: prepares if a client may be on this host. Call it before any thread is started.
pub fn prepare_for(places: &[Listen]) {
    if places.is_empty() || places.iter().any(is_local) {
        prepare();
    }
}

/// Locks memory and has allocations not wait for write-back; says what it had no right to.
pub fn prepare() {
    let lacks = [
        (
            "become an I/O flusher (CAP_SYS_RESOURCE)",
            become_io_flusher(),
        ),
        ("lock memory (LimitMEMLOCK=infinity)", lock_memory()),
    ];
    let lacks: Vec<_> = lacks.iter().filter(|(_, result)| result.is_err()).collect();
    if let [(first, _), rest @ ..] = &lacks[..] {
        let and = rest.iter().map(|(what, _)| format!(" and to {what}"));
        log::info(&format!(
            "no right to {first}{}: mounted on this very host, the array may stall when memory \
             runs out",
            and.collect::<String>()
        ));
    }
}

/// The part of it that programs we start inherit. Without the right things stay as they are.
pub fn do_not_wait_for_writeback() {
    let _ = become_io_flusher();
}

/// Whether clients on this host can come this way.
fn is_local(place: &Listen) -> bool {
    match place {
        Listen::Unix(_) => true,
        Listen::Tcp { host, .. } => match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address.is_unspecified(),
            Err(_) => host == "localhost",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_places_are_told_from_others() {
        for (text, local) in [
            ("unix:/x", true),
            ("tcp:127.0.0.1:1", true),
            ("tcp:[::1]:1", true),
            ("tcp:localhost:1", true),
            ("tcp:0.0.0.0:1", true),
            ("tcp:10.0.0.1:1", false),
            ("tcp:example.org:1", false),
        ] {
            assert_eq!(is_local(&text.parse().unwrap()), local, "{text}");
        }
    }
}
