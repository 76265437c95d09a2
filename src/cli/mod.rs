//! What people type: definitions in [`args`], one module for each command or small group.

mod alert;
mod alert_args;
pub mod args;
mod attach;
mod bench;
mod check;
mod config;
mod create;
mod dry_run;
mod events;
mod events_args;
mod examine;
mod explain;
mod findings;
mod generate;
mod orders;
mod output;
mod plan;
mod rebuild;
mod render;
mod scrub;
mod scrub_args;
mod serve;
mod serve_args;
mod set;
mod status;
mod steward_args;
mod target;
mod tls;
mod tls_args;
mod top;
mod wait;
mod wipe;

use crate::failure::{Exit, Failure};
use args::{Cli, Command};
use output::Output;

/// Does what was typed, and says on standard error why not. None is success.
pub fn run(cli: &Cli) -> Option<Exit> {
    let output = Output { json: cli.json };
    let result = carry_out(&cli.command, output);
    result.unwrap_or_else(|failure| {
        output.failure(&failure);
        Some(failure.exit)
    })
}

fn carry_out(command: &Command, output: Output) -> Result<Option<Exit>, Failure> {
    match command {
        Command::Config(args) => return config::run(args, output),
        Command::Create(args) => create::run(args, output),
        Command::Plan(args) => plan::run(args, output),
        Command::Serve(args) => serve::run(args, output),
        Command::Status(args) => return status::run(args, output),
        Command::Top(args) => top::run(args, output),
        Command::Alert(args) => return alert::run(args, output),
        Command::Events(args) => events::run(args, output),
        Command::Examine(args) => examine::run(args, output),
        Command::Explain(args) => return explain::run(args, output),
        Command::Fail(args) => orders::fail(args, output),
        Command::Remove(args) => orders::remove(args, output),
        Command::Add(args) => orders::add(args, output),
        Command::Replace(args) => orders::replace(args, output),
        Command::Rebuild(args) => rebuild::run(args, output),
        Command::Scrub(args) => return scrub::run(args, output),
        Command::Check(args) => return check::run(args, output),
        Command::Stop(args) => orders::stop(args, output),
        Command::Upgrade(args) => orders::upgrade(args, output),
        Command::Bench(args) => bench::run(args, output),
        Command::BenchClient(_) => bench::client::run(),
        Command::List => target::list(output),
        Command::Wipe(args) => wipe::run(args, output),
        Command::Clear(args) => orders::clear(args, output),
        Command::Set(args) => set::run(args, output),
        Command::Tls(args) => tls::run(args, output),
        Command::Attach(args) => attach::attach(args, output),
        Command::Detach(args) => attach::detach(args, output),
        Command::Generate(args) => generate::run(args, output),
        Command::Supervise(args) => crate::attach::supervise(&args.name),
    }
    .map(|()| None)
}
