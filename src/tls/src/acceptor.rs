//! Who may connect: certificates and keys read from files, and made ready for connections.

use crate::SetupError;
use crate::directory::{CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY};
use crate::names::validity;
use crate::stream::TlsStream;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// How long before its certificate expires a server says so.
const EXPIRY_NOTICE: Duration = Duration::days(30);

/// Whether clients have to show certificates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// They are not asked for one.
    Off,
    /// One that is shown must be good.
    Allowed,
    /// Nobody comes in without.
    Required,
}

/// Begins TLS on connections. Clones share what they were made of.
#[derive(Clone)]
pub struct Acceptor {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Certificates(Arc<ServerConfig>),
    #[cfg(feature = "psk")]
    Keys(crate::psk::Keys),
}

impl Acceptor {
    /// Proves to be a server with the certificate in `directory`, and asks clients for
    /// certificates of the authority in it as `clients` says. Also returns what an operator should
    /// look at, a sentence each.
    pub fn from_directory(
        directory: &Path,
        clients: ClientCertificates,
    ) -> Result<(Acceptor, Vec<String>), SetupError> {
        let certificate_path = directory.join(SERVER_CERTIFICATE);
        let key_path = directory.join(SERVER_KEY);
        let chain = certificates(&certificate_path)?;
        let mut notices: Vec<String> = expiry_notice(&certificate_path, &chain[0])?
            .into_iter()
            .collect();
        notices.extend(permission_notice(&key_path));
        let key = PrivateKeyDer::from_pem_file(&key_path)
            .map_err(|error| unusable(&key_path, "private key", error))?;

        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("ring has both versions");
        let builder = match clients {
            ClientCertificates::Off => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(verifier(directory, clients, provider)?),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            SetupError::Failed(format!(
                "{} and {} cannot be used together: {error}; take both from the same `uraid tls \
                 init`",
                certificate_path.display(),
                key_path.display()
            ))
        })?;
        // Connections are long: resuming would save little, and let expired certificates in.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let kind = Kind::Certificates(Arc::new(config));
        Ok((Acceptor { kind }, notices))
    }

    /// Lets in whoever knows one of the secrets in the file `path` (see [`crate::psk_file`]).
    #[cfg(feature = "psk")]
    pub fn from_keys_file(path: &Path) -> Result<(Acceptor, Vec<String>), SetupError> {
        let kind = Kind::Keys(crate::psk::Keys::load(path)?);
        Ok((
            Acceptor { kind },
            permission_notice(path).into_iter().collect(),
        ))
    }

    /// TLS on a connection whose peer is about to begin the handshake.
    pub fn accept(&self) -> TlsStream {
        match &self.kind {
            Kind::Certificates(config) => {
                let connection = ServerConnection::new(config.clone());
                let mut connection = connection.expect("the configuration is complete");
                // It is for the caller to encrypt no more at once than it wants to hold.
                connection.set_buffer_limit(None);
                TlsStream::certificates(connection)
            }
            #[cfg(feature = "psk")]
            Kind::Keys(keys) => TlsStream::keys(keys.accept()),
        }
    }
}

fn verifier(
    directory: &Path,
    clients: ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, SetupError> {
    let path = directory.join(CA_CERTIFICATE);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&path)? {
        let result = roots.add(certificate);
        result.map_err(|error| unusable(&path, "certificate of an authority", error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match clients {
        ClientCertificates::Allowed => builder.allow_unauthenticated(),
        _ => builder,
    };
    builder
        .build()
        .map_err(|error| unusable(&path, "certificate of an authority", error))
}

/// The certificates in a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let read = || -> Result<Vec<_>, PemError> { CertificateDer::pem_file_iter(path)?.collect() };
    let found = read().map_err(|error| unusable(path, "certificate", error))?;
    if found.is_empty() {
        return Err(unusable(path, "certificate", "there is none in it"));
    }
    Ok(found)
}

fn unusable(path: &Path, what: &str, error: impl std::fmt::Display) -> SetupError {
    SetupError::Failed(format!(
        "cannot use {} as the {what}: {error}; `uraid tls init` makes a directory with all that \
         is needed",
        path.display()
    ))
}

fn expiry_notice(path: &Path, certificate: &CertificateDer) -> Result<Option<String>, SetupError> {
    let Some((from, until)) = validity(certificate) else {
        return Err(unusable(path, "certificate", "it is not X.509"));
    };
    let now = OffsetDateTime::now_utc();
    if now >= until {
        let days = (now - until).whole_days();
        return Err(unusable(
            path,
            "certificate",
            format!("it expired {days} days ago, and no client would take it"),
        ));
    }
    if now < from {
        let text = "it is not valid yet: look at the clock of this machine";
        return Err(unusable(path, "certificate", text));
    }
    let remaining = until - now;
    Ok((remaining < EXPIRY_NOTICE).then(|| {
        let days = remaining.whole_days();
        format!("{} expires in {days} days", path.display())
    }))
}

fn permission_notice(path: &Path) -> Option<String> {
    let mode = path.metadata().ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        format!(
            "{} is a secret and others can get at it (mode {mode:o}): chmod 600",
            path.display()
        )
    })
}
