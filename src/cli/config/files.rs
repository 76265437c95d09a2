//! Configuration files: which there are, and where in them something is.

use crate::failure::{Doing, Failure};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Where files are looked for if no place is named.
pub const DIRECTORY_DEFAULT: &str = "/etc/uraid";

/// Longest file, in bytes: a thousand times what anybody writes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Most files in a directory.
const FILES_MAX: usize = 1000;

/// A file that was read.
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// A place in a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, line, column } = self;
        write!(f, "{}:{line}:{column}", file.display())
    }
}

impl File {
    /// Where the byte at `offset` is.
    pub fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            file: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// Reads the file `path`, or the files `*.toml` of a directory in the order of their names.
///
/// # Errors
/// There is none, or one cannot be read.
pub fn read(path: &Path) -> Result<Vec<File>, Failure> {
    let what = || format!("read the configuration {}", path.display());
    // Messages name files in full: a log is read anywhere.
    let path = std::path::absolute(path).doing(what)?;
    if !fs::metadata(&path).doing(what)?.is_dir() {
        return Ok(vec![read_file(&path)?]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(&path).doing(what)?.take(FILES_MAX) {
        paths.push(entry.doing(what)?.path());
    }
    paths.retain(|path| is_configuration(path));
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::failed(format!(
            "there is no file *.toml in {}; docs/uraid.toml is an example",
            path.display()
        )));
    }
    paths.iter().map(|path| read_file(path)).collect()
}

/// What editors leave begins with a dot or ends otherwise.
fn is_configuration(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".toml") && !name.starts_with('.')
}

fn read_file(path: &Path) -> Result<File, Failure> {
    let what = || format!("read the configuration {}", path.display());
    let length = fs::metadata(path).doing(what)?.len();
    if length > FILE_BYTES_MAX {
        return Err(Failure::usage(format!(
            "{} is no configuration: it has {length} bytes, and {FILE_BYTES_MAX} are the most",
            path.display()
        )));
    }
    Ok(File {
        path: path.to_owned(),
        text: fs::read_to_string(path).doing(what)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let file = File {
            path: PathBuf::from("/a.toml"),
            text: "ä = 1\nb = 2\n".to_string(),
        };
        let shown = |offset| file.place(offset).to_string();
        assert_eq!(shown(0), "/a.toml:1:1");
        assert_eq!(shown(3), "/a.toml:1:3");
        assert_eq!(shown(7), "/a.toml:2:1");
        assert_eq!(shown(1000), "/a.toml:3:1");
    }

    #[test]
    fn a_directory_is_its_toml_files_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &&str| fs::write(directory.path().join(name), name).unwrap();
        ["notes.txt", ".c.toml", "b.toml~"].iter().for_each(write);
        let failure = read(directory.path()).err().expect("there is none");
        assert_eq!(failure.exit, Exit::Failed);
        ["b.toml", "a.toml"].iter().for_each(write);
        let files = read(directory.path()).unwrap();
        let texts: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
        assert_eq!(texts, ["a.toml", "b.toml"]);
        assert!(read(&directory.path().join("none.toml")).is_err());
    }
}
