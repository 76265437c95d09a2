//! `uraid serve`.

use super::args::{IoBackend, ServeArgs};
use super::config;
use super::orders::path_text;
use super::output::Output;
use super::render;
use crate::failure::Failure;
use crate::server::array::Manner;
use crate::server::members::{canonical, choose_all, choose_array, groups, scan};
use crate::server::reader::default_count;
use crate::server::serve::{NotServed, ServeOptions, Served, check_exports, serve};
use crate::server::sockets::{check_metrics_place, check_place};
use crate::server::tls::Tls;
use serde::Serialize;
use std::path::PathBuf;
use uraid_engine::api::ReadOptions;
use uraid_io::driver::Backend;
use uraid_nbd::TlsPolicy;

/// The line for whoever waits for the server.
#[derive(Serialize)]
struct Ready {
    /// Names of all arrays that are served.
    ready: String,
    /// All places of all of them.
    uris: Vec<String>,
    exports: Vec<ReadyExport>,
    failed: Vec<FailedArray>,
}

/// An array that is served.
#[derive(Serialize)]
struct ReadyExport {
    name: String,
    uris: Vec<String>,
    size_bytes: u64,
    read_only: bool,
    hidden: bool,
}

/// One that could not be.
#[derive(Serialize)]
struct FailedArray {
    name: String,
    error: String,
    exit_code: u8,
}

impl Ready {
    fn new(served: &[Served], failed: &[NotServed]) -> Ready {
        let names: Vec<_> = served.iter().map(|s| s.export.name.as_str()).collect();
        let export = |served: &Served| ReadyExport {
            name: served.export.name.clone(),
            uris: served.uris.clone(),
            size_bytes: served.export.size_bytes,
            read_only: served.export.read_only,
            hidden: served.export.hidden,
        };
        let failed_array = |failed: &NotServed| FailedArray {
            name: failed.name.clone(),
            error: failed.failure.message.clone(),
            exit_code: failed.failure.exit.code(),
        };
        Ready {
            ready: names.join(" "),
            uris: served.iter().flat_map(|s| s.uris.clone()).collect(),
            exports: served.iter().map(export).collect(),
            failed: failed.iter().map(failed_array).collect(),
        }
    }

    /// Each name with its places.
    fn line(&self) -> String {
        let words = |export: &ReadyExport| format!("{} {}", export.name, export.uris.join(" "));
        let words: Vec<String> = self.exports.iter().map(words).collect();
        format!("ready {}", words.join(" "))
    }
}

/// Serves in the foreground.
pub fn run(args: &ServeArgs, output: Output) -> Result<(), Failure> {
    match &args.config {
        Some(place) => run_with(&config::serve_args(place)?, output),
        None => run_with(args, output),
    }
}

/// All options are known.
fn run_with(args: &ServeArgs, output: Output) -> Result<(), Failure> {
    if args.trial {
        return try_out(args);
    }
    check_rates(args)?;
    let options = ServeOptions {
        members: all_members(args)?,
        listen: args.listen.clone(),
        control: args.control.clone(),
        exports: args.export.clone(),
        connections_max: args.max_connections,
        tls: args.tls.options()?,
        insecure: args.insecure,
        manner: Manner {
            read_only: args.read_only,
            force: args.force,
            backend: match args.io {
                None => Backend::Auto,
                Some(IoBackend::Uring) => Backend::Uring,
                Some(IoBackend::Threads) => Backend::Threads,
            },
            skip_verification: args.skip_verification,
            rebuild_share_percent: args.rebuild_share,
            rebuild_floor: args.rebuild_floor,
            rebuild_ceiling: args.rebuild_ceiling,
            latency_target_nanos: args.latency_target.nanos,
            reads: read_options(args)?,
        },
        memory: args.memory,
        readers: args.readers.unwrap_or_else(default_count),
        metrics: args.metrics.clone(),
        metrics_insecure: args.metrics_insecure,
        advise: render::advice,
        alerts: args.alerts.options()?,
        steward: args.steward.options(),
        pidfile: args.pidfile.clone(),
    };
    serve(&options, |served, failed| {
        let ready = Ready::new(served, failed);
        output.line(&ready.line(), &ready)
    })
}

/// Whether a rebuild could keep to what it is told.
pub fn check_rates(args: &ServeArgs) -> Result<(), Failure> {
    let (floor, ceiling) = (args.rebuild_floor, args.rebuild_ceiling);
    match ceiling > 0 && floor > ceiling {
        false => Ok(()),
        true => Err(Failure::usage(format!(
            "a rebuild cannot fill {floor} bytes a second at least (--rebuild-floor) and {ceiling} at \
             most (--rebuild-ceiling)"
        ))),
    }
}

/// Whether a server could begin like this; nothing is opened to be written.
fn try_out(args: &ServeArgs) -> Result<(), Failure> {
    check_rates(args)?;
    args.alerts.options()?;
    Tls::load(args.tls.options()?.as_ref(), &args.export)?;
    if args.config.is_some() {
        // Arguments are those of the server that runs; files may have changed since.
        check_exports(&groups(&all_members(args)?), &args.export)?;
        check_places(args)?;
    }
    Ok(())
}

/// Whether nobody could come in who should not.
fn check_places(args: &ServeArgs) -> Result<(), Failure> {
    let open = is_open(args)?;
    let mut places = args.listen.iter();
    places.try_for_each(|place| check_place(place, open))?;
    let mut metrics = args.metrics.iter();
    metrics.try_for_each(|place| check_metrics_place(place, args.metrics_insecure))
}

/// Whether it may listen where other hosts can connect.
pub fn is_open(args: &ServeArgs) -> Result<bool, Failure> {
    let tls = args.tls.options()?;
    Ok(args.insecure || tls.is_some_and(|tls| tls.policy == TlsPolicy::Required))
}

/// How members are chosen for reads; they are known by the paths under which they are opened.
fn read_options(args: &ServeArgs) -> Result<ReadOptions, Failure> {
    let mostly = args.write_mostly.iter().map(|path| path_text(path));
    let weight = |(path, weight): &(PathBuf, u16)| Ok((path_text(path)?, *weight));
    Ok(ReadOptions {
        balance: args.read_balance,
        hedge_percent: args.hedge_percent,
        write_mostly: mostly.collect::<Result<_, Failure>>()?,
        weights: args
            .read_weight
            .iter()
            .map(weight)
            .collect::<Result<_, Failure>>()?,
    })
}

/// Members of all arrays that were named, and of those found in directories.
pub fn all_members(args: &ServeArgs) -> Result<Vec<PathBuf>, Failure> {
    let named = args.members.iter().map(|path| canonical(path)).collect();
    if args.scan.is_empty() {
        return Ok(named);
    }
    let found = choose_all(scan(&args.scan)?, args.name.as_deref())?;
    Ok(with_new(named, found))
}

/// `paths`, and those of `found` that are not among them.
fn with_new(mut paths: Vec<PathBuf>, found: Vec<PathBuf>) -> Vec<PathBuf> {
    for path in found {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// The members of one array. Canonical paths of the members that were named and of those found in `directories`, each once.
pub fn members(
    named: &[PathBuf],
    directories: &[PathBuf],
    name: Option<&str>,
) -> Result<Vec<PathBuf>, Failure> {
    let paths = named.iter().map(|path| canonical(path)).collect();
    if directories.is_empty() {
        return Ok(paths);
    }
    let found = choose_array(scan(directories)?, name)?;
    Ok(with_new(paths, found))
}
