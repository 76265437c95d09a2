//! `uraid examine`: what members say about themselves, without a server.

use super::output::{Output, table};
use crate::failure::{Doing, Failure};
use crate::server::members;
use crate::sizes::show_size;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use uraid_core::config::EntryState;
use uraid_core::geometry::Zones;
use uraid_core::superblock::Superblock;
use uraid_io::device::OpenMode;
use uraid_io::probe;

/// `uraid examine`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  uraid examine /srv/members/*.img")]
pub struct ExamineArgs {
    /// For udev: print KEY=VALUE lines, like ID_FS_TYPE=uraid_member, and nothing for what is no
    /// member
    #[arg(long)]
    pub export: bool,
    /// Files or block devices
    #[arg(value_name = "MEMBER", required = true)]
    pub members: Vec<PathBuf>,
}

/// Shows all of them; fails if one is no member.
pub fn run(args: &ExamineArgs, output: Output) -> Result<(), Failure> {
    let reports: Vec<MemberReport> = args.members.iter().map(|path| examine(path)).collect();
    if args.export && output.json {
        return Err(Failure::usage(
            "--export has a form of its own: leave --json out",
        ));
    }
    if args.export {
        let superblocks = reports.iter().filter_map(|r| r.superblock.as_ref());
        let texts: Vec<String> = superblocks.map(SuperblockReport::properties).collect();
        if !texts.is_empty() {
            output.result(&texts.join("\n"), &())?;
        }
    } else {
        let texts: Vec<String> = reports.iter().map(MemberReport::text).collect();
        output.result(&texts.join("\n\n"), &Report { members: &reports })?;
    }
    let strangers: Vec<&str> = reports
        .iter()
        .filter(|r| r.superblock.is_none())
        .map(|r| r.path.as_str())
        .collect();
    if strangers.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "no valid superblock: {}",
        strangers.join(", ")
    )))
}

#[derive(Serialize)]
struct Report<'a> {
    members: &'a [MemberReport],
}

/// One file or device.
#[derive(Serialize)]
struct MemberReport {
    path: String,
    size_bytes: Option<u64>,
    superblock: Option<SuperblockReport>,
    /// Damage and other remarkable things, in words.
    findings: Vec<String>,
}

#[derive(Serialize)]
struct SuperblockReport {
    name: String,
    uuid: String,
    level: String,
    data: usize,
    parity: usize,
    copies: usize,
    chunk_bytes: u32,
    size_bytes: u64,
    /// This member's own place; None: it has none.
    slot: Option<u16>,
    member_uuid: String,
    /// Where on the member the stripes are.
    data_offset_bytes: u64,
    data_bytes: u64,
    zones: ZonesReport,
    /// How often the superblock was written.
    write: u64,
    config_epoch: u64,
    members: Vec<EntryReport>,
}

/// Where the zones begin, in bytes; they lie in this order (docs/format.md).
#[derive(Serialize)]
struct ZonesReport {
    checkpoints: u64,
    journal: u64,
    relog: u64,
    map: u64,
    checksums: u64,
    data: u64,
    /// First byte after the data.
    end: u64,
}

/// A line of the member table, as this member was last told.
#[derive(Serialize)]
struct EntryReport {
    slot: Option<u16>,
    uuid: String,
    state: &'static str,
    read_errors: u64,
    write_errors: u64,
    checksum_errors: u64,
    #[serde(rename = "self")]
    is_self: bool,
}

fn examine(path: &Path) -> MemberReport {
    let mut report = MemberReport {
        path: members::canonical(path).display().to_string(),
        size_bytes: None,
        superblock: None,
        findings: Vec::new(),
    };
    if let Err(failure) = fill(&mut report, path) {
        report.findings.push(failure.message);
    }
    report
}

fn fill(report: &mut MemberReport, path: &Path) -> Result<(), Failure> {
    let file = members::open(path, OpenMode::inspect())?;
    report.size_bytes = Some(file.size_bytes());
    let inspection = members::inspect(&file)?;
    report.findings.extend(inspection.findings);
    report.superblock = inspection.superblock.as_ref().map(SuperblockReport::new);
    let content = probe::existing_content(&file).doing(|| format!("read {}", path.display()))?;
    if report.superblock.is_none() {
        report
            .findings
            .extend(content.map(|what| format!("holds {what}")));
    }
    Ok(())
}

impl SuperblockReport {
    fn new(superblock: &Superblock) -> SuperblockReport {
        let shape = &superblock.geometry.shape;
        let zones = superblock.geometry.zones();
        let entries = superblock.config.members().map(|(index, entry)| {
            let counters = superblock.counters[usize::from(index.0)];
            EntryReport {
                slot: entry.role,
                uuid: entry.uuid.to_string(),
                state: state_word(entry.state),
                read_errors: counters.read_errors,
                write_errors: counters.write_errors,
                checksum_errors: counters.checksum_errors,
                is_self: index == superblock.index,
            }
        });
        SuperblockReport {
            name: superblock.name.clone(),
            uuid: superblock.array.to_string(),
            level: shape.level.to_string(),
            data: shape.data,
            parity: shape.user_parity(),
            copies: shape.copies,
            chunk_bytes: shape.chunk_bytes,
            size_bytes: superblock.geometry.export_bytes,
            slot: superblock.config.entry(superblock.index).role,
            member_uuid: superblock.member.to_string(),
            data_offset_bytes: zones.data,
            data_bytes: zones.end - zones.data,
            zones: ZonesReport::new(&zones),
            write: superblock.write,
            config_epoch: superblock.config.epoch,
            members: entries.collect(),
        }
    }

    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self.members.iter().map(EntryReport::row).collect();
        format!(
            "  array    {} ({})\n  layout   {}, {}+{}, chunk {}, {} to use\n  \
             member   {}\n  written  superblock {}, config {}\n{}",
            self.name,
            self.uuid,
            self.level,
            self.data,
            self.parity,
            show_size(self.chunk_bytes.into()),
            show_size(self.size_bytes),
            self.member_uuid,
            self.write,
            self.config_epoch,
            indent(&table(
                &["slot", "state", "errors r/w/c", "uuid", ""],
                &rows
            )),
        )
    }
}

impl SuperblockReport {
    /// For udev, in the words that libblkid has for members of RAIDs. Names and UUIDs have no
    /// characters that would have to be encoded.
    fn properties(&self) -> String {
        let mut lines = vec![
            "ID_FS_TYPE=uraid_member".to_string(),
            "ID_FS_USAGE=raid".to_string(),
        ];
        for (key, value) in [
            ("ID_FS_UUID", &self.uuid),
            ("ID_FS_UUID_SUB", &self.member_uuid),
            ("ID_FS_LABEL", &self.name),
        ] {
            lines.push(format!("{key}={value}"));
            lines.push(format!("{key}_ENC={value}"));
        }
        lines.join("\n")
    }
}

impl ZonesReport {
    fn new(zones: &Zones) -> ZonesReport {
        let Zones {
            checkpoints,
            journal,
            relog,
            map,
            checksums,
            data,
            end,
        } = *zones;
        ZonesReport {
            checkpoints,
            journal,
            relog,
            map,
            checksums,
            data,
            end,
        }
    }
}

impl EntryReport {
    fn row(&self) -> Vec<String> {
        vec![
            self.slot.map_or("-".to_string(), |slot| slot.to_string()),
            self.state.to_string(),
            format!(
                "{}/{}/{}",
                self.read_errors, self.write_errors, self.checksum_errors
            ),
            self.uuid.clone(),
            if self.is_self {
                "this one".to_string()
            } else {
                String::new()
            },
        ]
    }
}

impl MemberReport {
    fn text(&self) -> String {
        let size = self
            .size_bytes
            .map_or(String::new(), |bytes| format!(" ({})", show_size(bytes)));
        let mut lines = vec![format!("{}{size}", self.path)];
        lines.extend(self.superblock.as_ref().map(SuperblockReport::text));
        lines.extend(
            self.findings
                .iter()
                .map(|finding| format!("  note     {finding}")),
        );
        if self.superblock.is_none() {
            lines.push("  no valid superblock".to_string());
        }
        lines.join("\n")
    }
}

/// The word for what a member table says.
pub fn state_word(state: EntryState) -> &'static str {
    match state {
        EntryState::Empty => "empty",
        EntryState::InSync => "in-sync",
        EntryState::Rebuilding => "rebuilding",
        EntryState::Replacing => "replacing",
        EntryState::Failed => "failed",
        EntryState::Spare => "spare",
    }
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
