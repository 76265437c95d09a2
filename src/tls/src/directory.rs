//! A directory of certificates, with the names of files that qemu and libnbd look for.
//!
//! The directory itself has what the authority, the server and one client need; each further
//! client has a sub-directory of its name, to be copied to where it runs:
//!
//! ```text
//! ca-cert.pem  ca-key.pem  server-cert.pem  server-key.pem  client-cert.pem  client-key.pem
//! NAME/ca-cert.pem  NAME/client-cert.pem  NAME/client-key.pem
//! ```

use crate::SetupError;
use crate::authority::{Authority, COMMON_NAME_CHARS_MAX, Issued};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The authority's certificate: whom to believe.
pub const CA_CERTIFICATE: &str = "ca-cert.pem";
/// The authority's private key; no server or client needs it.
pub const CA_KEY: &str = "ca-key.pem";
/// The server's certificate, and those between it and the authority's.
pub const SERVER_CERTIFICATE: &str = "server-cert.pem";
/// The server's private key.
pub const SERVER_KEY: &str = "server-key.pem";
/// A client's certificate.
pub const CLIENT_CERTIFICATE: &str = "client-cert.pem";
/// A client's private key.
pub const CLIENT_KEY: &str = "client-key.pem";

/// The client whose certificate lies in the directory itself.
pub const FIRST_CLIENT: &str = "client";

/// What [`init`] is to make.
pub struct Plan<'a> {
    /// Host names and addresses of the server, at least one.
    pub server_names: &'a [String],
    /// Clients with directories of their own.
    pub clients: &'a [String],
    /// How long all of it is valid.
    pub days: u32,
}

/// Makes an authority, a server's certificate and clients' certificates in `directory`, which is
/// made if it is not there. Refuses to overwrite anything.
pub fn init(directory: &Path, plan: &Plan) -> Result<(), SetupError> {
    for name in plan.clients {
        check_client_name(name)?;
    }
    let ours = [
        CA_CERTIFICATE,
        CA_KEY,
        SERVER_CERTIFICATE,
        SERVER_KEY,
        CLIENT_CERTIFICATE,
        CLIENT_KEY,
    ];
    let ours = ours
        .into_iter()
        .chain(plan.clients.iter().map(String::as_str));
    for path in ours.map(|name| directory.join(name)) {
        if fs::symlink_metadata(&path).is_ok() {
            return Err(exists(&path));
        }
    }
    let (authority, ca) = Authority::new(&plan.server_names[0], plan.days)?;
    let server = authority.issue_server(plan.server_names, plan.days)?;
    let client = authority.issue_client(FIRST_CLIENT, plan.days)?;

    make_directory(directory)?;
    write_new(&directory.join(CA_CERTIFICATE), &ca.certificate, 0o644)?;
    write_new(&directory.join(CA_KEY), &ca.key, 0o600)?;
    write_pair(directory, SERVER_CERTIFICATE, SERVER_KEY, &server)?;
    write_pair(directory, CLIENT_CERTIFICATE, CLIENT_KEY, &client)?;
    for name in plan.clients {
        write_client(directory, name, &authority, &ca.certificate, plan.days)?;
    }
    Ok(())
}

/// Makes a certificate for one more client, in a sub-directory of its name, which is returned.
pub fn add_client(directory: &Path, name: &str, days: u32) -> Result<PathBuf, SetupError> {
    check_client_name(name)?;
    let place = directory.join(name);
    if fs::symlink_metadata(&place).is_ok() {
        return Err(exists(&place));
    }
    let (ca_path, key_path) = (directory.join(CA_CERTIFICATE), directory.join(CA_KEY));
    let certificate = read(&ca_path)?;
    let key = read(&key_path)?;
    let authority = Authority::load(&certificate, &key).map_err(|what| {
        SetupError::Failed(format!(
            "the authority in {} cannot be used: {what}; make a new one with `uraid tls init`",
            directory.display()
        ))
    })?;
    write_client(directory, name, &authority, &certificate, days)?;
    Ok(place)
}

fn write_client(
    directory: &Path,
    name: &str,
    authority: &Authority,
    ca_certificate: &str,
    days: u32,
) -> Result<(), SetupError> {
    let client = authority.issue_client(name, days)?;
    let place = directory.join(name);
    make_directory(&place)?;
    write_new(&place.join(CA_CERTIFICATE), ca_certificate, 0o644)?;
    write_pair(&place, CLIENT_CERTIFICATE, CLIENT_KEY, &client)
}

/// Names of clients are names of directories too, and stand in logs and on command lines.
fn check_client_name(name: &str) -> Result<(), SetupError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    let bad = name.is_empty()
        || name.len() > COMMON_NAME_CHARS_MAX
        || name.starts_with(['.', '-'])
        || name.ends_with(".pem")
        || !name.chars().all(fits);
    if bad {
        return Err(SetupError::Failed(format!(
            "{name:?} cannot be the name of a client: use 1 to {COMMON_NAME_CHARS_MAX} letters, \
             digits, '.', '_', '-' or '@', beginning with none of the first three signs and not \
             ending in .pem"
        )));
    }
    Ok(())
}

fn write_pair(
    directory: &Path,
    certificate: &str,
    key: &str,
    issued: &Issued,
) -> Result<(), SetupError> {
    write_new(&directory.join(certificate), &issued.certificate, 0o644)?;
    write_new(&directory.join(key), &issued.key, 0o600)
}

fn make_directory(path: &Path) -> Result<(), SetupError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result.map_err(|error| failed("make the directory", path, &error)),
    }
}

pub(crate) fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), SetupError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let write = || {
        let mut file = options.open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => failed("write", path, &error),
    })
}

pub(crate) fn read(path: &Path) -> Result<String, SetupError> {
    fs::read_to_string(path).map_err(|error| failed("read", path, &error))
}

pub(crate) fn failed(what: &str, path: &Path, error: &io::Error) -> SetupError {
    SetupError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

fn exists(path: &Path) -> SetupError {
    SetupError::Refused(format!(
        "{} is there already and would be overwritten: choose another directory or name, or \
         move it away",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn plan<'a>(server_names: &'a [String], clients: &'a [String]) -> Plan<'a> {
        Plan {
            server_names,
            clients,
            days: 30,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let tls = root.path().join("tls");
        init(&tls, &plan(&["a.example".into()], &["bob".into()])).unwrap();
        assert_eq!((mode(&tls), mode(&tls.join("bob"))), (0o700, 0o700));
        for key in [CA_KEY, SERVER_KEY, CLIENT_KEY, "bob/client-key.pem"] {
            assert_eq!(mode(&tls.join(key)), 0o600, "{key}");
        }
        for part in [CA_CERTIFICATE, SERVER_CERTIFICATE, CLIENT_CERTIFICATE] {
            assert!(read(&tls.join(part)).unwrap().contains("BEGIN CERTIFICATE"));
        }
        assert!(!tls.join("bob").join(CA_KEY).exists());
    }

    #[test]
    fn nothing_is_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let names = ["a.example".to_string()];
        init(root.path(), &plan(&names, &[])).unwrap();
        let before = read(&root.path().join(SERVER_KEY)).unwrap();
        let again = init(root.path(), &plan(&names, &[])).unwrap_err();
        assert!(matches!(again, SetupError::Refused(_)), "{again}");
        assert_eq!(read(&root.path().join(SERVER_KEY)).unwrap(), before);
        add_client(root.path(), "bob", 30).unwrap();
        let again = add_client(root.path(), "bob", 30).unwrap_err();
        assert!(matches!(again, SetupError::Refused(_)), "{again}");
    }

    #[test]
    fn names_that_are_no_names_of_directories_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let long = "x".repeat(65);
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "-a",
            "ca-cert.pem",
            "a b",
            "a\n",
            &long,
        ] {
            let error = add_client(root.path(), name, 30).unwrap_err().to_string();
            assert!(error.contains("cannot be the name of a client"), "{error}");
        }
        let missing = add_client(root.path(), "bob", 30).unwrap_err().to_string();
        assert!(missing.contains("ca-cert.pem"), "{missing}");
    }
}
