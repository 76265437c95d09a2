//! What can be seen of one file or device without touching it.

use super::super::examine::state_word;
use crate::failure::{Doing, Failure};
use crate::server::members::{self, SCAN_ENTRIES_MAX};
use std::fs;
use std::path::{Path, PathBuf};
use uraid_core::superblock::Superblock;
use uraid_io::device::{MemberFile, OpenError, OpenMode};

/// A file or device, looked at.
pub struct Look {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is; none if it could not be opened.
    pub size_bytes: Option<u64>,
    /// The newest of its superblock copies that is whole.
    pub superblock: Option<Superblock>,
    /// Damaged copies, other content, errors: in words.
    pub findings: Vec<String>,
    /// Somebody holds it.
    pub in_use: bool,
}

/// Looks at what was named, and at what looks like a member in `directories`.
pub fn all(named: &[PathBuf], directories: &[PathBuf]) -> Result<Vec<Look>, Failure> {
    let paths: Vec<PathBuf> = named.iter().map(|path| members::canonical(path)).collect();
    members::check_distinct(&paths)?;
    let mut looks: Vec<Look> = paths.iter().map(|path| Look::at(path)).collect();
    for directory in directories {
        let what = || format!("scan the directory {}", directory.display());
        let entries = fs::read_dir(directory).doing(what)?;
        let mut found = Vec::new();
        for entry in entries.take(SCAN_ENTRIES_MAX) {
            found.push(members::canonical(&entry.doing(what)?.path()));
        }
        found.sort();
        found.retain(|path| path.is_file() && !looks.iter().any(|look| look.path == *path));
        let found = found.iter().map(|path| Look::at(path));
        looks.extend(found.filter(Look::is_of_an_array));
    }
    if looks.is_empty() {
        return Err(Failure::failed(
            "the scan found nothing that looks like a member",
        ));
    }
    Ok(looks)
}

impl Look {
    fn at(path: &Path) -> Look {
        let mut look = Look {
            path: path.to_owned(),
            size_bytes: None,
            superblock: None,
            findings: Vec::new(),
            in_use: false,
        };
        if let Err(failure) = look.fill() {
            look.findings.push(failure.message);
        }
        look
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let file = members::open(&self.path, OpenMode::inspect())?;
        self.size_bytes = Some(file.size_bytes());
        let inspection = members::inspect(&file)?;
        self.findings = inspection.findings;
        self.superblock = inspection.superblock;
        if self.superblock.is_none() && self.findings.is_empty() {
            let content = members::holds(&file)?;
            let content = content.map_or("nothing that is known".to_string(), |what| what);
            self.findings
                .push(format!("holds {content}: it is no member"));
        }
        let locked = MemberFile::open(&self.path, OpenMode::read_only());
        self.in_use = matches!(
            locked,
            Err(OpenError::Locked { .. } | OpenError::Mounted { .. } | OpenError::Busy { .. })
        );
        Ok(())
    }

    /// Whether it is, or was, a member.
    fn is_of_an_array(&self) -> bool {
        let damaged = self
            .findings
            .iter()
            .any(|f| !f.ends_with("it is no member"));
        self.superblock.is_some() || (self.size_bytes.is_some() && damaged)
    }

    /// What it says of itself.
    pub fn says(&self) -> String {
        let Some(superblock) = &self.superblock else {
            return "no valid superblock".to_string();
        };
        let entry = superblock.config.entry(superblock.index);
        let role = entry
            .role
            .map_or("no slot".to_string(), |role| format!("slot {role}"));
        format!(
            "{role}, {} under config {}",
            state_word(entry.state),
            superblock.config.epoch
        )
    }

    /// The path as text.
    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }
}
