//! Where a server listens.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A server's socket and the export wanted of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// A unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Name of the export; empty for the default one.
        export: String,
    },
    /// A TCP socket.
    Tcp {
        /// Host and port, with a colon between.
        host_port: String,
        /// Name of the export; empty for the default one.
        export: String,
    },
}

impl Address {
    /// The default export behind a unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Address {
        Address::Unix {
            path: path.into(),
            export: String::new(),
        }
    }

    /// The default export behind a TCP socket.
    pub fn tcp(host_port: impl Into<String>) -> Address {
        Address::Tcp {
            host_port: host_port.into(),
            export: String::new(),
        }
    }

    pub(crate) fn export(&self) -> &str {
        match self {
            Address::Unix { export, .. } | Address::Tcp { export, .. } => export,
        }
    }
}

/// Formatted as an NBD URI.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix { path, export } => {
                write!(f, "nbd+unix:///{export}?socket={}", path.display())
            }
            Address::Tcp { host_port, export } => write!(f, "nbd://{host_port}/{export}"),
        }
    }
}
