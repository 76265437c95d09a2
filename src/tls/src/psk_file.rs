//! Files of shared secrets, as GnuTLS's psktool writes them and qemu and libnbd read them: a line
//! `user:key` for each, the key in hexadecimal digits.

use crate::SetupError;
use crate::directory::{failed, read, write_new};
use rustls::crypto::ring;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// Length of the keys that are made here.
const KEY_BYTES: usize = 32;
/// Longest user name, and longest and shortest key, that are taken.
const USER_BYTES_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 64;
const KEY_BYTES_MIN: usize = 16;

/// Makes a key for `user` and adds it to the file `path`, which is made if it is not there.
/// Refuses if the user has one.
pub fn add(path: &Path, user: &str) -> Result<(), SetupError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if user.is_empty() || user.len() > USER_BYTES_MAX || !user.chars().all(fits) {
        return Err(SetupError::Failed(format!(
            "{user:?} cannot be the name of a user: use 1 to {USER_BYTES_MAX} letters, digits, \
             '.', '_', '-' or '@'"
        )));
    }
    let line = new_line(user)?;
    if !path.exists() {
        return write_new(path, &line, 0o600);
    }
    let text = read(path)?;
    let known = parse(&text).map_err(|what| malformed(path, &what))?;
    if known.iter().any(|(name, _)| name == user) {
        return Err(SetupError::Refused(format!(
            "{} has a key of {user:?} already: take that line out first, or choose another name",
            path.display()
        )));
    }
    let separator = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let append = || {
        let mut file = OpenOptions::new().append(true).open(path)?;
        file.write_all(format!("{separator}{line}").as_bytes())?;
        file.sync_all()
    };
    append().map_err(|error| failed("write", path, &error))
}

fn new_line(user: &str) -> Result<String, SetupError> {
    let mut key = [0; KEY_BYTES];
    let random = ring::default_provider().secure_random;
    random
        .fill(&mut key)
        .map_err(|_| SetupError::Failed("the system gives no random numbers for a key".into()))?;
    let mut line = format!("{user}:");
    for byte in key {
        write!(line, "{byte:02x}").expect("strings take everything");
    }
    line.push('\n');
    Ok(line)
}

/// Users and keys of a file at `path`, at least one.
pub fn load(path: &Path) -> Result<Vec<(String, Vec<u8>)>, SetupError> {
    let found = parse(&read(path)?).map_err(|what| malformed(path, &what))?;
    if found.is_empty() {
        return Err(malformed(path, "there is no key in it"));
    }
    Ok(found)
}

fn malformed(path: &Path, what: &str) -> SetupError {
    SetupError::Failed(format!(
        "{} is no file of keys: {what}; `uraid tls psk` and psktool make lines `user:key`",
        path.display()
    ))
}

fn parse(text: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        // The text itself is secret: only its number is told.
        let parsed = parse_line(line.trim()).ok_or_else(|| {
            format!(
                "line {number} is not a name, a colon and {} to {} hexadecimal digits",
                2 * KEY_BYTES_MIN,
                2 * KEY_BYTES_MAX
            )
        })?;
        if found.iter().any(|(user, _)| *user == parsed.0) {
            return Err(format!("line {number} is a second key of {:?}", parsed.0));
        }
        found.push(parsed);
    }
    Ok(found)
}

fn parse_line(line: &str) -> Option<(String, Vec<u8>)> {
    let (user, key) = line.split_once(':')?;
    // Newer psktools write names that are not plain text so.
    let user = match user.strip_prefix('#') {
        Some(digits) => String::from_utf8(from_hex(digits)?).ok()?,
        None => user.to_string(),
    };
    let key = from_hex(key)?;
    let fits = !user.is_empty()
        && user.len() <= USER_BYTES_MAX
        && !user.contains(char::is_control)
        && (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len());
    fits.then_some((user, key))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|value| value as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_user_gets_one_key_that_only_the_owner_can_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("keys.psk");
        add(&path, "alice").unwrap();
        add(&path, "bob").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let keys = load(&path).unwrap();
        let users: Vec<&str> = keys.iter().map(|(user, _)| user.as_str()).collect();
        assert_eq!(users, ["alice", "bob"]);
        assert_eq!(
            (keys[0].1.len(), keys[0].1 == keys[1].1),
            (KEY_BYTES, false)
        );
        let again = add(&path, "bob").unwrap_err();
        assert!(matches!(again, SetupError::Refused(_)), "{again}");
        assert_eq!(load(&path).unwrap(), keys);
    }

    #[test]
    fn what_psktool_writes_is_read() {
        let text =
            "alice:00112233445566778899aabbccddeeff\n\n#c3bc:FFeeddccbbaa99887766554433221100";
        let keys = parse(text).unwrap();
        assert_eq!((keys[0].0.as_str(), keys[0].1[1]), ("alice", 0x11));
        assert_eq!((keys[1].0.as_str(), keys[1].1[1]), ("ü", 0xee));
        // Its last line may lack a newline: what is added stands on a line of its own.
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("keys.psk");
        write_new(&path, text, 0o600).unwrap();
        add(&path, "bob").unwrap();
        assert_eq!(load(&path).unwrap().len(), 3);
    }

    #[test]
    fn malformed_files_are_refused_without_telling_secrets() {
        let key = "00112233445566778899aabbccddeeff";
        for (text, what) in [
            ("alice", "line 1"),
            (&format!("a:{key}\nbob:xx{key}"), "line 2"),
            ("alice:0011", "line 1"),
            (&format!("alice:{key}0"), "line 1"),
            (&format!(":{key}"), "line 1"),
            (&format!("a:{key}\na:{key}"), "second key of \"a\""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(what) && !error.contains("0011"), "{error}");
        }
        assert!(add(Path::new("/nowhere"), "a:b").is_err());
    }
}
