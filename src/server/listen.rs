//! Where a server listens, and how clients name that place.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An address of `--listen`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A host name or address, with a port; port 0 takes a free one.
    Tcp {
        /// Without the brackets of an IPv6 address.
        host: String,
        /// In host byte order.
        port: u16,
    },
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        let malformed = || "an address is unix:PATH or tcp:HOST:PORT".to_string();
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Listen::Unix(PathBuf::from(path))),
            Some(("tcp", rest)) => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(malformed)?;
                let port = port
                    .parse()
                    .map_err(|_| format!("{port:?} is not a port number"))?;
                let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                let host = bracketed.unwrap_or(host);
                if host.is_empty() || bracketed.is_none() && host.contains(':') {
                    return Err(malformed());
                }
                Ok(Listen::Tcp {
                    host: host.to_string(),
                    port,
                })
            }
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Listen::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// The URI of export `name` on a unix socket, as libnbd and qemu read it
/// (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md>).
pub fn unix_uri(path: &Path, name: &str) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut socket = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => {
                socket.push(char::from(*byte));
            }
            _ => socket.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("nbd+unix:///{name}?socket={socket}")
}

/// The URI of export `name` at a TCP address.
pub fn tcp_uri(address: SocketAddr, name: &str) -> String {
    format!("nbd://{address}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for text in [
            "unix:/run/x.nbd",
            "tcp:localhost:10809",
            "tcp:0.0.0.0:0",
            "tcp:[::1]:10809",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!(
            "tcp:[::1]:1".parse(),
            Ok(Listen::Tcp {
                host: "::1".to_string(),
                port: 1
            })
        );
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            "unix:",
            "/run/x",
            "tcp:",
            "tcp:host",
            "tcp::1",
            "tcp:h:65536",
            "tcp:::1:5",
            "udp:h:1",
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn uris_are_what_libnbd_reads() {
        assert_eq!(
            unix_uri(Path::new("/tmp/my socket&.nbd"), "demo"),
            "nbd+unix:///demo?socket=/tmp/my%20socket%26.nbd"
        );
        assert_eq!(
            tcp_uri("127.0.0.1:10809".parse().unwrap(), "d"),
            "nbd://127.0.0.1:10809/d"
        );
        assert_eq!(
            tcp_uri("[::1]:10809".parse().unwrap(), "d"),
            "nbd://[::1]:10809/d"
        );
    }
}
