//! Commands that have a server do something: fail, remove, add, replace, clear, stop,
//! upgrade.

use super::args::{
    AddArgs, ClearArgs, FailArgs, RemoveArgs, ReplaceArgs, ServerArgs, StopArgs, UpgradeArgs,
    WaitArgs,
};
use super::dry_run::{self, DryRunArgs};
use super::output::Output;
use super::{target, wait};
use crate::control::wire::{
    AddBody, ClearBody, EmptyBody, MemberBody, MemberReference, Order, ReplaceBody, StatusReport,
};
use crate::failure::Failure;
use crate::server::members::canonical;
use std::path::Path;
use std::time::{Duration, Instant};
use uraid_core::units::Uuid;
use uraid_engine::api::Mode;

/// How long a server may take from the answer to `stop` until it is gone.
const GOODBYE_MAX: Duration = Duration::from_secs(10);

/// How long a server may take to become another program: as long as it may drain and flush.
const UPGRADE_MAX: Duration = Duration::from_secs(120);

/// Between two looks whether it is gone.
const GOODBYE_POLL: Duration = Duration::from_millis(20);

/// `uraid fail`.
pub fn fail(args: &FailArgs, output: Output) -> Result<(), Failure> {
    let body = MemberBody {
        member: member(&args.member),
        force: args.force,
    };
    let (wait, dry_run) = (args.wait, args.dry_run);
    carry_out(&args.server, (wait, dry_run), &Order::Fail(body), output)
}

/// `uraid remove`.
pub fn remove(args: &RemoveArgs, output: Output) -> Result<(), Failure> {
    let order = match &args.member {
        Some(name) => Order::Remove(MemberBody {
            member: member(name),
            force: args.force,
        }),
        // --copy
        None => Order::RemoveCopy(EmptyBody {}),
    };
    carry_out(&args.server, (args.wait, args.dry_run), &order, output)
}

/// `uraid add`.
pub fn add(args: &AddArgs, output: Output) -> Result<(), Failure> {
    let body = AddBody {
        path: path_text(&args.path)?,
        force: args.force,
        copy: args.copy,
    };
    let (wait, dry_run) = (args.wait, args.dry_run);
    carry_out(&args.server, (wait, dry_run), &Order::Add(body), output)
}

/// `uraid replace`.
pub fn replace(args: &ReplaceArgs, output: Output) -> Result<(), Failure> {
    let body = ReplaceBody {
        old: member(&args.old),
        new: path_text(&args.new)?,
        force: args.force,
    };
    let (wait, dry_run) = (args.wait, args.dry_run);
    carry_out(&args.server, (wait, dry_run), &Order::Replace(body), output)
}

/// `uraid clear`.
pub fn clear(args: &ClearArgs, output: Output) -> Result<(), Failure> {
    let body = ClearBody {
        member: args.member.as_deref().map(member),
    };
    carry_out(
        &args.server,
        (WaitArgs::default(), args.dry_run),
        &Order::Clear(body),
        output,
    )
}

/// `uraid stop`; returns when the server is gone.
pub fn stop(args: &StopArgs, output: Output) -> Result<(), Failure> {
    let client = target::resolve(&args.server)?;
    let mode = args.dry_run.mode();
    let message = client.carry_out(&Order::Stop(EmptyBody {}), mode)?;
    if mode == Mode::DryRun {
        return dry_run::tell(output, &message);
    }
    let asked = Instant::now();
    while std::os::unix::net::UnixStream::connect(client.path()).is_ok() {
        if asked.elapsed() > GOODBYE_MAX {
            return Err(Failure::failed(
                "the server has flushed, but does not end; see its log",
            ));
        }
        std::thread::sleep(GOODBYE_POLL);
    }
    output.done(&message)
}

/// `uraid upgrade`; returns when the new program serves.
pub fn upgrade(args: &UpgradeArgs, output: Output) -> Result<(), Failure> {
    let client = target::resolve(&args.server)?;
    let before = client.status()?.upgrades;
    output.note(&client.carry_out(&Order::Upgrade(EmptyBody {}), Mode::Earnest)?);
    let asked = Instant::now();
    loop {
        // Connecting waits for the new program, unless the old one is still there, or none is.
        let status = client.status();
        match status {
            Ok(status) if status.upgrades > before => {
                let (name, version) = (&status.name, &status.version);
                return output.done(&format!("{name} is served by uraid {version}"));
            }
            Err(failure) if asked.elapsed() > UPGRADE_MAX => return Err(failure),
            _ if asked.elapsed() > UPGRADE_MAX => {
                return Err(Failure::failed(
                    "the server does not become another program; see its log",
                ));
            }
            _ => std::thread::sleep(GOODBYE_POLL),
        }
    }
}

pub fn carry_out(
    server: &ServerArgs,
    (wait, dry_run): (WaitArgs, DryRunArgs),
    order: &Order,
    output: Output,
) -> Result<(), Failure> {
    let mut client = target::resolve(server)?;
    let message = client.carry_out(order, dry_run.mode())?;
    if dry_run.dry_run {
        return dry_run::tell(output, &message);
    }
    if !wait.wait {
        return output.done(&message);
    }
    output.note(&message);
    let settled = wait::until_settled(output, &mut client)?;
    output.done(&judge(&settled.status, settled.rebuilt)?)
}

/// What remains missing was missing for want of a spare.
fn judge(last: &StatusReport, rebuilt: bool) -> Result<String, Failure> {
    let name = &last.name;
    match last.state.as_str() {
        "failed" => Err(Failure::failed(format!(
            "{name} has failed; see `uraid status`"
        ))),
        "optimal" => Ok(format!("{name} is optimal")),
        state if rebuilt => Ok(format!("the rebuild has ended; {name} is still {state}")),
        state => Ok(format!("no rebuild is going on; {name} is {state}")),
    }
}

/// A member as typed: slot numbers and UUIDs go as they are, paths must not depend on where the
/// command was typed.
pub fn member(typed: &str) -> MemberReference {
    if typed.parse::<u16>().is_ok() || typed.parse::<Uuid>().is_ok() {
        return MemberReference::Text(typed.to_string());
    }
    MemberReference::Text(canonical(Path::new(typed)).display().to_string())
}

/// The absolute path as text; JSON carries no other bytes.
pub fn path_text(path: &Path) -> Result<String, Failure> {
    let absolute = canonical(path);
    absolute.to_str().map(str::to_string).ok_or_else(|| {
        Failure::usage(format!(
            "{} is not UTF-8; give it another name",
            absolute.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::samples;
    use crate::failure::Exit;

    #[test]
    fn members_are_told_apart_by_how_they_are_typed() {
        let text = |typed: &str| match member(typed) {
            MemberReference::Text(text) => text,
            MemberReference::Slot(slot) => panic!("{slot}"),
        };
        assert_eq!(text("3"), "3");
        let uuid = "00112233-4455-4677-8899-aabbccddeeff";
        assert_eq!(text(uuid), uuid);
        assert_eq!(text("/nonexistent/m3"), "/nonexistent/m3");
        assert!(text("./3").starts_with('/') && text("./3").ends_with("/3"));
    }

    #[test]
    fn waiting_fails_only_if_the_array_did() {
        let mut status = samples::optimal();
        assert!(judge(&status, true).unwrap().contains("optimal"));
        status.state = "degraded".to_string();
        assert!(judge(&status, false).unwrap().contains("degraded"));
        status.state = "failed".to_string();
        assert_eq!(judge(&status, true).unwrap_err().exit, Exit::Failed);
    }
}
