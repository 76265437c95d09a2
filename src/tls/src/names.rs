//! What a certificate says about its holder.

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The names that a certificate proves: its common name, and the DNS names and mail addresses
/// among its alternative names. Names with control characters do not count: no export allows them.
pub fn names(certificate: &CertificateDer) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let common = certificate.subject().iter_common_name();
    let mut names: Vec<String> = common
        .filter_map(|name| name.as_str().ok())
        .map(str::to_string)
        .collect();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        for name in &alternatives.value.general_names {
            if let GeneralName::DNSName(name) | GeneralName::RFC822Name(name) = name {
                names.push(name.to_string());
            }
        }
    }
    names.retain(|name| !name.is_empty() && !name.contains(char::is_control));
    // Sorting would hide which one is the common name.
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// From when to when a certificate is valid; none if it cannot be read.
pub fn validity(certificate: &CertificateDer) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let times = (
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    );
    Some(times)
}
