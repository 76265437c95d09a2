//! The contract between the engine and its host.
//!
//! The engine knows no clock, file, socket or thread. A host (the server, the rebuild tool, the
//! simulator) drives it:
//!
//! ```text
//! loop {
//!     engine.advance(now);                     // time goes in
//!     engine.request(..) / engine.command(..)  // work goes in
//!     engine.complete(..)                      // I/O results go in
//!     engine.run();                            // until nothing can move
//!     while let Some(io) = engine.next_io()       { start it }
//!     while let Some(r)  = engine.next_reply()    { answer the client }
//!     while let Some(r)  = engine.next_outcome()  { answer the operator }
//!     while let Some(e)  = engine.next_event()    { log it }
//!     wait for a completion, a request, or engine.deadline()
//! }
//! ```
//!
//! Time goes in before the results that it brought: how long members take is measured by it.
//!
//! I/O may complete in any order. The host never retries on its own and never reports success
//! for anything that did not wholly succeed.

use crate::status::ReadBalance;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_buffer::{Buf, BufMut, Span};
use uraid_core::events::{EventKind, EventMember};
use uraid_core::units::Uuid;

/// A point in time or a duration, in nanoseconds since an origin the host chooses.
pub type Nanos = u64;

/// A member device as the host opened it. Ids are chosen by the host and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u32);

/// A device offered to the engine.
#[derive(Clone, Debug)]
pub struct Device {
    /// How I/O names it.
    pub id: DeviceId,
    /// What people call it: a path. Used in messages and stored nowhere.
    pub path: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// One I/O the host is to perform on a device. Offsets and lengths are multiples of 4096.
#[derive(Debug)]
pub struct Io {
    /// Names this operation in [`Completion`].
    pub token: u64,
    /// The device.
    pub device: DeviceId,
    /// What to do.
    pub kind: IoKind,
    /// No client waits for it: what clients wait for goes first, where the host does one after the
    /// other. It is to be done all the same, however many of those there are.
    pub background: bool,
}

/// The operations a member must be able to perform.
#[derive(Debug)]
pub enum IoKind {
    /// Fill `buffer` from `offset`.
    Read {
        /// Byte offset on the device.
        offset: u64,
        /// Filled wholly on success; goes back in the completion.
        buffer: BufMut,
    },
    /// Write `buffers`, one after the other, at `offset`.
    Write {
        /// Byte offset on the device.
        offset: u64,
        /// The content; the host drops them only after the kernel is done with them.
        buffers: Vec<Buf>,
        /// The data must be durable when this completes.
        fua: bool,
    },
    /// Make everything completed so far durable.
    Flush,
    /// Give the range back to the device (punch a hole); the content may then be anything.
    /// Best effort: a device that cannot answers success.
    Discard {
        /// Byte offset on the device.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// Why an I/O failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    /// The device answered with this errno (always positive).
    Errno(i32),
    /// Fewer bytes than asked for: the file or device is shorter than it was.
    Short,
    /// The device answered success and holds something else: it lost the write, or put it
    /// elsewhere.
    NotKept,
    /// The device did not answer within the host's limit. The buffers are not yet free: the
    /// completion comes only when the kernel has let go of them.
    TimedOut,
}

/// The result of an [`Io`].
#[derive(Debug)]
pub struct Completion {
    /// The token of the operation.
    pub token: u64,
    /// Success, or why not.
    pub result: Result<(), IoError>,
    /// For reads: the buffer, also after an error.
    pub buffer: Option<BufMut>,
}

/// Names a client's request; chosen by the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// What a client may ask of the array. Any byte offset and length inside the export.
#[derive(Debug)]
pub enum Request {
    /// Read `len` bytes.
    Read {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to read.
        len: u64,
    },
    /// Write `data`.
    Write {
        /// Byte offset in the export.
        offset: u64,
        /// The bytes.
        data: Buf,
        /// Durable before the answer.
        fua: bool,
    },
    /// Everything answered so far becomes durable.
    Flush,
    /// The content is no longer needed. Whole stripes inside the range give up their slots and
    /// read as zero afterwards; what covers a stripe in part is a hint and is ignored.
    Trim {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to trim.
        len: u64,
        /// Durable before the answer.
        fua: bool,
    },
    /// Exactly this range reads as zero afterwards.
    WriteZeroes {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes to zero.
        len: u64,
        /// Durable before the answer.
        fua: bool,
        /// The range takes up space afterwards, as if zeros had been written.
        keep_space: bool,
        /// Refuse with [`RequestError::NotFast`] and change nothing if it would cost as much as
        /// writing the zeros.
        only_if_fast: bool,
    },
    /// What is known of a range: which parts were ever written, and how safe they are. The
    /// answer may end before the range does, but tells of at least one byte.
    Extents {
        /// Byte offset in the export.
        offset: u64,
        /// Bytes of interest: at least one.
        len: u64,
    },
}

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// Blocks are lost beyond the redundancy, or the array has failed.
    Io {
        /// Which, and why.
        text: String,
        /// Byte offset in the export, if it concerns a place there.
        offset: Option<u64>,
    },
    /// Out of the export's bounds (reads).
    Invalid(String),
    /// No space: a write past the end of the export, or members are full.
    NoSpace(String),
    /// The array is read-only.
    ReadOnly,
    /// The engine is stopping.
    Stopping,
    /// Zeroing would not be faster than writing, and nothing else was wanted.
    NotFast,
}

/// What a request gave.
#[derive(Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// The bytes read, in order. What was never written comes as zeros without memory.
    Data(Vec<Span>),
    /// What is known of a range, from its start, without gaps.
    Extents(Vec<Extent>),
}

/// A part of the export all of which is in the same state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its length in bytes.
    pub len: u64,
    /// How its content is kept; none if it was never written, or given up since: it reads as
    /// zero.
    pub stored: Option<Stored>,
}

/// How safe the content of an extent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// How many further members may be lost, whichever they are, before it cannot be read.
    pub losses_survived: u16,
    /// A member being filled will add to its redundancy and has not come to it yet.
    pub rebuilding: bool,
    /// It cannot be read now: too few members have it.
    pub lost: bool,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Reply {
    /// Which request.
    pub id: RequestId,
    /// What it gave: data for reads, extents for questions about them.
    pub result: Result<Answer, RequestError>,
}

/// Names an operator's command; chosen by the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandId(pub u64);

/// How an operator names a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberName {
    /// The device the host opened (from a path).
    Device(DeviceId),
    /// The role in the array, as `status` shows it under "slot".
    Slot(u16),
    /// The member's UUID.
    Uuid(Uuid),
}

/// What an operator may ask of a running array.
#[derive(Debug)]
pub enum Command {
    /// Take a member out of service. Beyond the redundancy only with `force`.
    Fail {
        /// Which.
        member: MemberName,
        /// Also when data becomes unavailable.
        force: bool,
    },
    /// Forget a failed, missing or spare member. In service only with `force`.
    Remove {
        /// Which.
        member: MemberName,
        /// Also when it is in service.
        force: bool,
    },
    /// Take in a device: a former member catches up, anything else becomes a spare.
    Add {
        /// The device, already opened by the host.
        device: Device,
        /// Also when it holds another array's superblock (the host checks for other data).
        force: bool,
    },
    /// Make a mirror one of one more copy, on a new device. Clients wait meanwhile, as at a
    /// restart; nothing is lost of what they have, at no moment.
    AddCopy {
        /// The device, already opened by the host.
        device: Device,
        /// As for `Add`.
        force: bool,
    },
    /// Give up the copy that a mirror was given last, whether its member is there or not. Clients
    /// wait meanwhile, as for `AddCopy`.
    RemoveCopy,
    /// Copy a member's role onto a new device while the old one serves.
    Replace {
        /// The member to be replaced.
        old: MemberName,
        /// The new device.
        new: Device,
        /// As for `Add`.
        force: bool,
    },
    /// Zero the error counters of one member, or of all.
    Clear {
        /// Which; none means all.
        member: Option<MemberName>,
    },
    /// Change how it runs, from now until it is closed. All of it or, if a member is not there,
    /// nothing.
    Set(Vec<Setting>),
    /// Verify everything that is in use, and repair what checksums prove.
    Scrub(ScrubOrder),
    /// Flush, checkpoint, release the members, refuse further requests.
    Stop,
}

/// Whether a command is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It is carried out.
    Earnest,
    /// Everything that could refuse it is asked, and the answer says what would be done and what
    /// that would risk. Nothing is changed.
    DryRun,
}

/// What an operator may ask of a scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubOrder {
    /// Begin one. On a read-only array it repairs nothing.
    Start {
        /// Bytes per second to read of each member at most.
        rate_max: Option<u64>,
    },
    /// Keep its place and do nothing.
    Pause,
    /// Go on after a pause.
    Resume,
    /// End it where it is.
    Stop,
}

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// Refused for safety; the text says why and what would help.
    Refused(String),
    /// It was tried and failed.
    Failed(String),
}

/// The answer to a command; the text tells the operator what was done.
#[derive(Debug)]
pub struct Outcome {
    /// Which command.
    pub id: CommandId,
    /// A sentence for the operator.
    pub result: Result<String, CommandError>,
}

/// Things that happened, for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The array is open: recovery is done, requests are served.
    Opened {
        /// A sentence: what recovery found and did.
        summary: String,
    },
    /// The array was not opened.
    Refused(Refusal),
    /// Something of which programs know what it means.
    Happened(Happening),
    /// Normal progress worth a line.
    Info(String),
    /// Something an operator should look at.
    Warning(String),
    /// The host is to close this device; no I/O on it is outstanding.
    Released(DeviceId),
    /// The host is to keep this witness where it will find it at the next start.
    Witness(Vec<u8>),
    /// `Stop` is done.
    Stopped,
}

/// Something that happened; how much it matters its kind says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Happening {
    /// What.
    pub kind: EventKind,
    /// To which member.
    pub member: Option<EventMember>,
    /// A sentence.
    pub text: String,
}

/// Why an array was not started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Whether it was for safety (exit code 4) or for lack of working parts (exit code 1).
    pub for_safety: bool,
    /// What, where, and what to do next; one line per finding.
    pub text: String,
}

/// How an array is to be opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Write nothing; replay in memory; start any set that decodes.
    pub read_only: bool,
    /// With `read_only`: start only what would be started to be written, and answer commands
    /// that are not meant as if it could be.
    pub dry_run: bool,
    /// Start what the rules would refuse, short of merging two sides.
    pub force: bool,
    /// The witness kept from the last time, if any.
    pub witness: Option<Vec<u8>>,
    /// Hand out blocks without checking them: only to measure what checking costs.
    pub skip_verification: bool,
    /// Memory for [`Engine::view`](crate::Engine::view): 0 for none.
    pub view_bytes_max: u64,
    /// A number nobody else has: seeds identifiers. The host takes it from the system.
    pub nonce: u64,
    /// Share of the time that a rebuild takes while clients are at work, in percent from 1 to
    /// 100; 0 means 20.
    pub rebuild_share_percent: u8,
    /// Bytes of a member that a rebuild fills in a second, whatever clients do; 0: none.
    pub rebuild_floor: u64,
    /// Bytes of a member that a rebuild fills in a second at most; 0: no limit.
    pub rebuild_ceiling: u64,
    /// While 99 of 100 requests of clients take longer, rebuilds and scrubs step back; 0: never.
    pub latency_target: Nanos,
    /// Most bytes of request payload to work on at once; more wait their turn.
    pub in_flight_bytes_max: u64,
    /// Most bytes of journalled blocks to keep in memory until they are in place; 0 means 96 MiB.
    pub journalled_bytes_max: u64,
    /// Most bytes of checksum pages to keep in memory; 0 means 96 MiB.
    pub checksum_bytes_max: u64,
    /// How members are chosen for reads.
    pub reads: ReadOptions,
}

/// How members are chosen for reads, to begin with.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Which copy is read where there are several.
    pub balance: ReadBalance,
    /// Extra reads that may be made for late ones, in percent of all; 0: none.
    pub hedge_percent: u8,
    /// Paths of devices that are read only when others cannot be.
    pub write_mostly: Vec<String>,
    /// Weights of devices, by path; the others have 1.
    pub weights: Vec<(String, u16)>,
}

impl ReadOptions {
    /// Extra reads for late ones, in percent, where nothing is said.
    pub const HEDGE_PERCENT: u8 = 5;
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions {
            balance: ReadBalance::default(),
            hedge_percent: ReadOptions::HEDGE_PERCENT,
            write_mostly: Vec::new(),
            weights: Vec::new(),
        }
    }
}

/// Something of a running array that can be set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Setting {
    /// Which copy is read where there are several.
    ReadBalance(ReadBalance),
    /// Extra reads that may be made for late ones, in percent of all; 0: none.
    HedgePercent(u8),
    /// Share of the time that a rebuild takes while clients are at work, in percent: 1 to 100.
    RebuildShare(u8),
    /// Bytes of a member that a rebuild fills in a second, whatever clients do; 0: none.
    RebuildFloor(u64),
    /// Bytes of a member that a rebuild fills in a second at most; 0: no limit.
    RebuildCeiling(u64),
    /// While 99 of 100 requests of clients take longer, rebuilds and scrubs step back; 0: never.
    LatencyTarget(Nanos),
    /// Bytes of each member that the scrub under way reads in a second at most; 0: no limit.
    ScrubRate(u64),
    /// Whether a member is read only when others cannot be.
    WriteMostly(MemberName, bool),
    /// A member's share of the reads where they are weighted: at least 1.
    ReadWeight(MemberName, u16),
}
