//! Whether and how a server encrypts.

use super::export::ExportOptions;
use super::log;
use crate::failure::Failure;
use std::path::PathBuf;
use uraid_nbd::{Access, TlsPolicy};
pub use uraid_tls::ClientCertificates;
use uraid_tls::{Acceptor, SetupError};

/// What an operator says about TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsOptions {
    /// Whether clients may or must use it.
    pub policy: TlsPolicy,
    /// By what server and clients know each other.
    pub proof: Proof,
}

/// By what server and clients know each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proof {
    /// Certificates.
    Certificates {
        /// Where ours are.
        directory: PathBuf,
        /// Whether clients have to show theirs.
        clients: ClientCertificates,
    },
    /// Shared secrets, in this file.
    Keys(PathBuf),
}

/// TLS, ready for connections.
pub struct Tls {
    /// Whether clients may or must use it.
    pub policy: TlsPolicy,
    /// Begins it on a connection.
    pub acceptor: Acceptor,
}

impl Tls {
    /// Reads certificates or keys. Fails also if some of `exports` are for clients that could not
    /// prove who they are.
    pub fn load(
        options: Option<&TlsOptions>,
        exports: &[ExportOptions],
    ) -> Result<Option<Tls>, Failure> {
        check_exports(options, exports)?;
        let Some(TlsOptions { policy, proof }) = options else {
            return Ok(None);
        };
        let loaded = match proof {
            Proof::Certificates { directory, clients } => {
                if *clients != ClientCertificates::Required {
                    log::warning(
                        "clients need no certificate: whoever connects may use exports without \
                         tls-client=NAME",
                    );
                }
                Acceptor::from_directory(directory, *clients)
            }
            Proof::Keys(path) => from_keys_file(path),
        };
        let (acceptor, notices) = loaded?;
        notices.iter().for_each(|notice| log::warning(notice));
        let policy = *policy;
        Ok(Some(Tls { policy, acceptor }))
    }
}

#[cfg(feature = "psk")]
fn from_keys_file(path: &std::path::Path) -> Result<(Acceptor, Vec<String>), SetupError> {
    Acceptor::from_keys_file(path)
}

#[cfg(not(feature = "psk"))]
fn from_keys_file(_: &std::path::Path) -> Result<(Acceptor, Vec<String>), SetupError> {
    Err(SetupError::Failed(
        "this build has no TLS with shared secrets: build uraid with --features psk, or use \
         --tls-certificates"
            .into(),
    ))
}

/// Whether somebody could use each of `exports`.
pub fn check_exports(
    options: Option<&TlsOptions>,
    exports: &[ExportOptions],
) -> Result<(), Failure> {
    for export in exports {
        let name = &export.name;
        let problem = match (export.access(), options.map(|options| &options.proof)) {
            (Access::Anyone, _) => None,
            (_, None) => Some("--tls-certificates is not given"),
            (Access::Names(_), Some(Proof::Certificates { clients, .. }))
                if *clients == ClientCertificates::Off =>
            {
                Some("--tls-clients off asks nobody for a certificate")
            }
            (_, Some(_)) => None,
        };
        if let Some(problem) = problem {
            return Err(Failure::usage(format!(
                "nobody could use the export {name}: it is for TLS clients only, and {problem}"
            )));
        }
    }
    Ok(())
}
