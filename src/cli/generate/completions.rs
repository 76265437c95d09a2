//! Completions for shells.

use super::Page;
use clap::Command;
use clap_complete::{Generator, Shell};

/// The shells that people administer hosts with.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// A file for each shell, called as that shell wants it.
pub fn files(command: &Command) -> Vec<Page> {
    SHELLS.iter().map(|shell| file(*shell, command)).collect()
}

fn file(shell: Shell, command: &Command) -> Page {
    let mut text = Vec::new();
    let name = command.get_name();
    clap_complete::generate(shell, &mut visible(command), name, &mut text);
    Page {
        name: shell.file_name(name),
        text,
    }
}

/// The command without what `uraid help` hides: the generators would offer it.
fn visible(command: &Command) -> Command {
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let mut visible = Command::new(command.get_name().to_string())
        .args(args.cloned())
        .subcommands(subcommands.map(visible));
    if let Some(about) = command.get_about() {
        visible = visible.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        visible = visible.version(version.to_string());
    }
    visible
}
