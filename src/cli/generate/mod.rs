//! `uraid generate`: what packages are made of, from the definitions that `uraid help` is made of.

mod completions;
mod manual;

use super::args::Cli;
use super::output::Output;
use crate::failure::{Doing, Failure};
use clap::{Args, CommandFactory, Subcommand, ValueHint};
use std::fs;
use std::path::{Path, PathBuf};

/// `uraid generate`.
#[derive(Args, Debug)]
#[command(after_help = "Example (scripts/package-deb does it):\n  uraid generate man target/man")]
pub struct GenerateArgs {
    /// What to write
    #[command(subcommand)]
    pub what: GenerateWhat,
}

/// What to write.
#[derive(Subcommand, Debug)]
pub enum GenerateWhat {
    /// The manual, a page for each command
    #[command(after_help = "Example:\n  uraid generate man target/man")]
    Man(GenerateTo),
    /// Completions for bash, zsh and fish
    #[command(after_help = "Example:\n  uraid generate completions target/completions")]
    Completions(GenerateTo),
}

/// Where to.
#[derive(Args, Debug)]
pub struct GenerateTo {
    /// Directory, made if it is not there; files of the same names are overwritten
    #[arg(value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

/// A file to be.
struct Page {
    name: String,
    text: Vec<u8>,
}

/// Writes what was asked for.
pub fn run(args: &GenerateArgs, output: Output) -> Result<(), Failure> {
    let command = Cli::command();
    let (pages, directory) = match &args.what {
        GenerateWhat::Man(to) => (manual::pages(command)?, &to.directory),
        GenerateWhat::Completions(to) => (completions::files(&command), &to.directory),
    };
    write(&pages, directory)?;
    let count = pages.len();
    output.done(&format!("{count} files in {}", directory.display()))
}

fn write(pages: &[Page], directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
    for page in pages {
        let path = directory.join(&page.name);
        fs::write(&path, &page.text).doing(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
