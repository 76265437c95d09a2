//! `uraid serve`.

use super::args::{IoBackend, ServeArgs};
use super::output::Output;
use crate::failure::Failure;
use crate::server::members::{canonical, choose_array, scan};
use crate::server::serve::{ServeOptions, serve};
use serde::Serialize;
use std::path::PathBuf;
use uraid_io::driver::Backend;

/// The line for whoever waits for the server.
#[derive(Serialize)]
struct Ready<'a> {
    ready: &'a str,
    uris: &'a [String],
}

/// Serves in the foreground.
pub fn run(args: &ServeArgs, output: Output) -> Result<(), Failure> {
    let options = ServeOptions {
        members: members(&args.members, &args.scan, args.name.as_deref())?,
        listen: args.listen.clone(),
        control: args.control.clone(),
        read_only: args.read_only,
        force: args.force,
        backend: match args.io {
            None => Backend::Auto,
            Some(IoBackend::Uring) => Backend::Uring,
            Some(IoBackend::Threads) => Backend::Threads,
        },
        skip_verification: args.skip_verification,
        pidfile: args.pidfile.clone(),
    };
    serve(&options, |name, uris| {
        output.line(
            &format!("ready {name} {}", uris.join(" ")),
            &Ready { ready: name, uris },
        )
    })
}

/// Canonical paths of the members that were named and of those found in `directories`, each once.
pub fn members(
    named: &[PathBuf],
    directories: &[PathBuf],
    name: Option<&str>,
) -> Result<Vec<PathBuf>, Failure> {
    let mut paths: Vec<PathBuf> = named.iter().map(|path| canonical(path)).collect();
    if !directories.is_empty() {
        let found = choose_array(scan(directories)?, name)?;
        let new: Vec<PathBuf> = found
            .into_iter()
            .filter(|path| !paths.contains(path))
            .collect();
        paths.extend(new);
    }
    Ok(paths)
}
