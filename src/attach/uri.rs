//! NBD URIs, as libnbd and qemu read them: where a server is, and which of its exports is meant
//! (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md>).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The port of NBD, where a URI names none.
const PORT: u16 = 10809;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A host name or address, without the brackets of IPv6, and a port.
    Tcp(String, u16),
}

/// An export of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    /// As it was written.
    text: String,
    /// Where the server is.
    pub place: Place,
    /// Name of the export; empty for the default one.
    pub export: String,
    /// The connection is to be encrypted.
    pub tls: bool,
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Uri, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("{text:?} is not a URI"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (tls, place) = match scheme {
            "nbd" => (false, tcp(authority)?),
            "nbds" => (true, tcp(authority)?),
            "nbd+unix" => (false, unix(query)?),
            "nbds+unix" => (true, unix(query)?),
            other => {
                return Err(format!(
                    "{other}:// is not known; nbd://HOST:PORT/NAME and \
                     nbd+unix:///NAME?socket=PATH are"
                ));
            }
        };
        Ok(Uri {
            text: text.to_string(),
            place,
            export: decode(path)?,
            tls,
        })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn tcp(authority: &str) -> Result<Place, String> {
    // A user may stand before the host; it matters to TLS with pre-shared keys only.
    let host_port = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let bracketed = host_port.strip_prefix('[');
    let (host, port) = match bracketed {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a '[' without its ']'")?;
            (host, after.strip_prefix(':').unwrap_or(after))
        }
        None => host_port.split_once(':').unwrap_or((host_port, "")),
    };
    if host.is_empty() {
        return Err("the URI names no host".to_string());
    }
    let port = match port {
        "" => PORT,
        digits => digits
            .parse()
            .map_err(|_| format!("{digits:?} is not a port number"))?,
    };
    Ok(Place::Tcp(host.to_string(), port))
}

fn unix(query: &str) -> Result<Place, String> {
    let socket = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("socket="))
        .filter(|path| !path.is_empty())
        .ok_or("the URI names no socket (?socket=PATH)")?;
    Ok(Place::Unix(PathBuf::from(decode(socket)?)))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| format!("{text:?}: '%' without two hexadecimal digits"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::listen::{tcp_uri, unix_uri};
    use std::path::Path;

    fn parsed(text: &str) -> Uri {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn what_a_server_says_can_be_read() {
        let uri = parsed(&unix_uri(Path::new("/tmp/my socket&.nbd"), "demo"));
        assert_eq!(uri.place, Place::Unix("/tmp/my socket&.nbd".into()));
        assert_eq!((uri.export.as_str(), uri.tls), ("demo", false));
        let uri = parsed(&tcp_uri("[::1]:4000".parse().unwrap(), "d"));
        assert_eq!(uri.place, Place::Tcp("::1".to_string(), 4000));
        assert_eq!(uri.export, "d");
    }

    #[test]
    fn defaults_are_those_of_the_specification() {
        let uri = parsed("nbds://me@example.org");
        assert_eq!(uri.place, Place::Tcp("example.org".to_string(), 10809));
        assert_eq!((uri.export.as_str(), uri.tls), ("", true));
        assert_eq!(uri.to_string(), "nbds://me@example.org");
    }

    #[test]
    fn malformed_uris_are_refused() {
        for text in [
            "",
            "tank",
            "http://example.org/",
            "nbd:///tank",
            "nbd://host:port/",
            "nbd://[::1/",
            "nbd+unix:///tank",
            "nbd+unix:///tank?socket=",
            "nbd+unix:///%4?socket=/x",
            "nbd+unix:///%zz?socket=/x",
            "nbd+unix:///%ff?socket=/x",
        ] {
            assert!(text.parse::<Uri>().is_err(), "{text}");
        }
    }
}
