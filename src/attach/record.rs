//! What is attached, on disk: enough for `uraid detach` to find and undo it, and for the
//! supervisor to know what to do. One file `NAME.attached` for each, beside the sockets.

use crate::control::paths;
use crate::failure::{Doing, Failure};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".attached";

/// How an export becomes a block device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By the kernel's nbd driver.
    Kernel,
    /// Like [`Way::Nbdfuse`], with nbdkit in between, which connects anew.
    Nbdkit,
    /// As a file by nbdfuse, with a loop device over it where there is the right to make one.
    Nbdfuse,
}

/// An export that is attached, or on its way to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// The array's name, or what the export is called.
    pub name: String,
    /// Where the server is.
    pub uri: String,
    /// How it is attached.
    pub way: Way,
    /// Connections to the server; null before they are made: as many as make sense.
    pub connections: Option<u16>,
    /// Kernel, several connections: seconds until a request counts as lost.
    pub timeout_seconds: u64,
    /// Not nbdfuse alone: seconds that requests wait for the server to come back before they fail.
    pub dead_timeout_seconds: u64,
    /// The block device.
    pub device: Option<PathBuf>,
    /// nbdfuse: the file.
    pub file: Option<PathBuf>,
    /// Where it is mounted by us.
    pub mount: Option<PathBuf>,
    /// The process that keeps it up: our supervisor, or nbdfuse.
    pub pid: Option<u32>,
    /// nbdkit's process.
    pub nbdkit_pid: Option<u32>,
}

impl Attachment {
    /// Whether the device still is its own. A loop device is, as long as it is over its file.
    pub fn has(&self, device: &Path) -> bool {
        let Some(file) = &self.file else {
            return true;
        };
        let name = device.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("/sys/block/{name}/loop/backing_file");
        fs::read_to_string(path).is_ok_and(|backing| Path::new(backing.trim_end()) == file)
    }

    /// What to call it in a sentence: the best there is to open.
    pub fn place(&self) -> String {
        let place = self.mount.as_ref().or(self.device.as_ref());
        let place = place.or(self.file.as_ref());
        place.map_or_else(|| "not yet a device".into(), |p| p.display().to_string())
    }
}

/// The directory of all records.
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// Those of this user, or of root.
    pub fn open() -> Result<Records, Failure> {
        let directory = paths::socket_directory();
        paths::make_private_directory(&directory)?;
        Ok(Records { directory })
    }

    /// A file beside the record of `name`.
    pub fn beside(&self, name: &str, suffix: &str) -> PathBuf {
        self.directory.join(format!("{name}{suffix}"))
    }

    /// Writes a new record; refused when the name is taken.
    pub fn claim(&self, attachment: &Attachment) -> Result<(), Failure> {
        let path = self.beside(&attachment.name, SUFFIX);
        let mut options = fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => file
                .write_all(&encode(attachment))
                .doing(|| format!("write {}", path.display())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let name = &attachment.name;
                let place = self.load(name).map(|other| other.place());
                Err(Failure::refused(format!(
                    "{name} is attached already ({}); `uraid detach {name}` first",
                    place.unwrap_or_else(|failure| failure.message)
                )))
            }
            Err(error) => Err(error).doing(|| format!("create {}", path.display())),
        }
    }

    /// Writes a record anew, all or nothing.
    pub fn save(&self, attachment: &Attachment) -> Result<(), Failure> {
        let path = self.beside(&attachment.name, SUFFIX);
        let new = self.beside(&attachment.name, ".attached-new");
        fs::write(&new, encode(attachment))
            .and_then(|()| fs::rename(&new, &path))
            .doing(|| format!("write {}", path.display()))
    }

    /// Reads the record of `name`.
    pub fn load(&self, name: &str) -> Result<Attachment, Failure> {
        read(&self.beside(name, SUFFIX))
    }

    /// Removes the record of `name`.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        let path = self.beside(name, SUFFIX);
        fs::remove_file(&path).doing(|| format!("remove {}", path.display()))
    }

    /// The record that `what` speaks of: a name, a device, a file or a mount point.
    pub fn find(&self, what: &str) -> Result<Attachment, Failure> {
        let path = fs::canonicalize(what).ok();
        let is_meant = |attachment: &Attachment| {
            // The device of one that is just being detached may be another's by now.
            let device = attachment.device.as_ref().filter(|d| attachment.has(d));
            let places = [device, attachment.file.as_ref(), attachment.mount.as_ref()];
            attachment.name == what || path.is_some() && places.contains(&path.as_ref())
        };
        // A record that cannot be read, by another version or half written, is no one else's
        // trouble.
        let (read, unread): (Vec<_>, Vec<_>) = self.all()?.into_iter().partition(Result::is_ok);
        let all: Vec<Attachment> = read.into_iter().flatten().collect();
        if let Some(meant) = all.iter().find(|a| is_meant(a)) {
            return Ok(meant.clone());
        }
        let known: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
        let known = match known[..] {
            [] => "nothing is".to_string(),
            _ => format!("attached: {}", known.join(", ")),
        };
        let mut text = format!("{what} is not attached by uraid here; {known}");
        for failure in unread.into_iter().filter_map(Result::err) {
            text.push_str(&format!("\n{}", failure.message));
        }
        Err(Failure::failed(text))
    }

    fn all(&self) -> Result<Vec<Result<Attachment, Failure>>, Failure> {
        let entries = fs::read_dir(&self.directory)
            .doing(|| format!("read the directory {}", self.directory.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.to_string_lossy().ends_with(SUFFIX));
        paths.sort();
        Ok(paths.iter().map(|path| read(path)).collect())
    }
}

fn encode(attachment: &Attachment) -> Vec<u8> {
    serde_json::to_vec_pretty(attachment).expect("plain data becomes JSON")
}

fn read(path: &Path) -> Result<Attachment, Failure> {
    let text = fs::read(path).doing(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).doing(|| {
        format!(
            "understand {}; if nothing is attached, remove it",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn attachment(name: &str) -> Attachment {
        Attachment {
            name: name.to_string(),
            uri: "nbd://localhost/".to_string(),
            way: Way::Kernel,
            connections: None,
            timeout_seconds: 15,
            dead_timeout_seconds: 300,
            device: None,
            file: None,
            mount: None,
            pid: None,
            nbdkit_pid: None,
        }
    }

    #[test]
    fn one_name_is_attached_once() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records {
            directory: directory.path().to_owned(),
        };
        let mut tank = attachment("tank");
        records.claim(&tank).unwrap();
        tank.device = Some(PathBuf::from("/dev/nbd3"));
        records.save(&tank).unwrap();
        let failure = records.claim(&attachment("tank")).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.message.contains("/dev/nbd3"), "{failure}");
        records.claim(&attachment("pool")).unwrap();
        records.remove("tank").unwrap();
        records.claim(&attachment("tank")).unwrap();
    }

    #[test]
    fn attachments_are_found_by_name_and_by_place() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records {
            directory: directory.path().to_owned(),
        };
        let mountpoint = directory.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let mut tank = attachment("tank");
        tank.mount = Some(fs::canonicalize(&mountpoint).unwrap());
        records.claim(&attachment("pool")).unwrap();
        records.claim(&tank).unwrap();
        let roundabout = mountpoint.join("..").join("mnt");
        for what in ["tank", roundabout.to_str().unwrap()] {
            assert_eq!(records.find(what).unwrap(), tank, "{what}");
        }
        // What another version wrote hides none of these.
        fs::write(records.beside("newer", SUFFIX), "{\"way\": \"unheard of\"}").unwrap();
        assert_eq!(records.find("tank").unwrap(), tank);
        let failure = records.find("tonk").unwrap_err();
        assert!(failure.message.contains("pool, tank"), "{failure}");
        assert!(failure.message.contains("newer.attached"), "{failure}");
    }
}
