//! A small certificate authority: makes itself, servers' and clients' certificates.
//!
//! Keys are ECDSA on P-256, which GnuTLS, OpenSSL and rustls all take in every version of use.

use crate::SetupError;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// Longest validity of a certificate: a hundred years.
pub const DAYS_MAX: u32 = 36_500;

/// Certificates are valid from so long ago, for machines whose clocks differ.
const BACKDATED: Duration = Duration::days(1);

/// Longest common name in a certificate (X.520, ub-common-name).
pub const COMMON_NAME_CHARS_MAX: usize = 64;

/// A certificate and its private key, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

/// What signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority for the server `name`, with its certificate.
    pub fn new(name: &str, days: u32) -> Result<(Authority, Issued), SetupError> {
        let key = new_key()?;
        // Two authorities of one name would be taken for one, and errors would not make sense.
        let mark: String = key.public_key_raw().iter().rev().take(4).map(hex).collect();
        let name: String = name.chars().take(COMMON_NAME_CHARS_MAX / 2).collect();
        let mut params = params(&format!("uraid CA of {name} {mark}"), &[], days)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(unmade)?;
        let issued = Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        let issuer = Issuer::new(params, key);
        Ok((Authority { issuer }, issued))
    }

    /// The authority of this certificate and private key; says what is wrong with them.
    pub fn load(certificate: &str, key: &str) -> Result<Authority, String> {
        let key = KeyPair::from_pem(key).map_err(|error| format!("its private key: {error}"))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key);
        let issuer = issuer.map_err(|error| format!("its certificate: {error}"))?;
        Ok(Authority { issuer })
    }

    /// A certificate for a server with these host names and addresses, at least one.
    pub fn issue_server(&self, names: &[String], days: u32) -> Result<Issued, SetupError> {
        let common = names.first().expect("a server has a name");
        let common: String = common.chars().take(COMMON_NAME_CHARS_MAX).collect();
        self.issue(&common, names, days, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client of this name.
    pub fn issue_client(&self, name: &str, days: u32) -> Result<Issued, SetupError> {
        self.issue(name, &[], days, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        common: &str,
        names: &[String],
        days: u32,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<Issued, SetupError> {
        let key = new_key()?;
        let mut params = params(common, names, days)?;
        params.use_authority_key_identifier_extension = true;
        // qemu insists on the second one, which such keys have no use for.
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).map_err(unmade)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn hex(byte: &u8) -> String {
    format!("{byte:02x}")
}

fn new_key() -> Result<KeyPair, SetupError> {
    KeyPair::generate().map_err(unmade)
}

fn params(common: &str, names: &[String], days: u32) -> Result<CertificateParams, SetupError> {
    let mut params = CertificateParams::new(names)
        .map_err(|error| SetupError::Failed(format!("not a host name or address: {error}")))?;
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, common);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(days.min(DAYS_MAX).into());
    Ok(params)
}

fn unmade(error: rcgen::Error) -> SetupError {
    SetupError::Failed(format!("cannot make a certificate: {error}"))
}
