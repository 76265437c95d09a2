//! The whole engine on hostile members: opened or refused, it keeps to its limits; once open it
//! answers every request, and what it then writes it can read again, also after a restart.

pub mod host;
pub mod images;
pub mod member;
mod mischief;

use crate::choices::Choices;
use crate::layouts::LAYOUTS;
use host::Host;
use images::{Image, PASTS, options};
use member::Member;
use uraid_buffer::Pool;
use uraid_core::units::BLOCK;
use uraid_engine::api::{Command, MemberName, OpenOptions, Request, ScrubOrder};

/// Bytes of one read.
const READ_BYTES: u64 = 128 << 10;

/// Opens an array that hostile hands were at, and uses it.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    let layout = c.index(LAYOUTS.len());
    // Forged checkpoints that announce less than there is make a start overlook it; no fault does
    // that to a checkpoint that is valid. Such an array must keep to its limits, no more.
    let bounded = c.one_in(2);
    let mut image = images::made(layout, *c.pick(&PASTS), bounded);
    if c.one_in(4) {
        return run_damaged(c, image);
    }
    for _ in 0..c.below(6) {
        mischief::forge(&mut c, &mut image);
    }
    let left_out = c.one_in(4).then(|| {
        let index = c.index(image.members.len());
        image.members.remove(index)
    });
    // A member and its copy are refused, unless the copy shows to be older than the rest. What the
    // others do meanwhile can change that.
    let copied = c.one_in(16);
    if copied {
        image.members.push(image.members[0].clone());
    }
    let options = OpenOptions {
        read_only: c.one_in(4),
        force: !c.one_in(4),
        witness: c.one_in(4).then(|| c.bytes(30).to_vec()),
        ..options(100)
    };
    let read_only = options.read_only;
    let mut host = Host::open(image.members, options);
    if host.wait_open().is_ok() {
        read_all(&mut host);
        if read_only {
            host.stop();
        } else {
            use_it(c, host, left_out, (bounded, copied));
        }
    }
}

/// Damage that the checksums show, to no more members than the array survives: nothing is lost.
fn run_damaged(mut c: Choices<'_>, mut image: Image) {
    let first = c.index(image.members.len());
    for i in 0..image.redundancy {
        let victim = (first + i) % image.members.len();
        mischief::damage(&mut c, &mut image.members[victim]);
    }
    let mut host = Host::open(image.members, options(100));
    host.wait_open()
        .unwrap_or_else(|refusal| panic!("refused: {}", refusal.text));
    let mut at = 0;
    for piece in read_all(&mut host) {
        let piece = piece.unwrap_or_else(|| panic!("lost at {at}"));
        let expected = &image.content[at..at + piece.len()];
        if piece != expected {
            let wrong = piece.iter().zip(expected).position(|(a, b)| a != b);
            panic!("wrong byte at {}", at + wrong.expect("they differ"));
        }
        at += piece.len();
    }
    assert_eq!(at, image.content.len());
}

/// Reads the export from end to end, in pieces; `None` for those that are lost.
fn read_all(host: &mut Host) -> Vec<Option<Vec<u8>>> {
    let (size, _) = host.sizes();
    let piece = |offset: u64| Request::Read {
        offset,
        len: READ_BYTES.min(size - offset),
    };
    let pieces: Vec<u64> = (0..size).step_by(READ_BYTES as usize).collect();
    let replies = host.request(pieces.iter().map(|offset| piece(*offset)));
    let mut found = Vec::new();
    for (offset, reply) in pieces.into_iter().zip(replies) {
        if let Ok(bytes) = &reply {
            assert_eq!(
                bytes.len() as u64,
                READ_BYTES.min(size - offset),
                "a short read"
            );
        }
        found.push(reply.ok());
    }
    found
}

/// Everything a client and an operator do.
fn use_it(
    mut c: Choices<'_>,
    mut host: Host,
    mut left_out: Option<Member>,
    (bounded, copied): (bool, bool),
) {
    let (size, stripe) = host.sizes();
    let mut forced = false;
    for _ in 0..c.below(4) {
        let requests: Vec<Request> = (0..1 + c.below(4))
            .map(|_| any_request(&mut c, size, stripe))
            .collect();
        host.request(requests);
        if c.one_in(3) {
            host.wait(c.below(10) * 1_000_000_000);
        }
        if c.one_in(3) {
            let force = c.one_in(4);
            forced |= force;
            let command = any_command(&mut c, &mut host, &mut left_out, force);
            let _ = host.command(command);
        }
        let _ = host.engine().status();
    }
    let status = host.engine().status().expect("it is open");
    let may_be_refused = forced || copied || status.suspended.is_some();
    let before = read_all(&mut host);
    let members = host.stop();
    let mut again = Host::open(members, options(101));
    match again.wait_open() {
        _ if bounded => {}
        Ok(()) => assert_kept(&before, &read_all(&mut again)),
        Err(refusal) => assert!(may_be_refused, "what it wrote is refused: {}", refusal.text),
    }
}

/// What could be read before the restart can be read after it, and is the same.
fn assert_kept(before: &[Option<Vec<u8>>], after: &[Option<Vec<u8>>]) {
    for (i, (before, after)) in before.iter().zip(after).enumerate() {
        if let Some(before) = before {
            assert!(
                Some(before) == after.as_ref(),
                "piece {i} is another after a restart"
            );
        }
    }
}

fn any_request(c: &mut Choices<'_>, size: u64, stripe: u64) -> Request {
    let whole = c.one_in(2);
    let offset = match whole {
        true => c.below(size.div_ceil(stripe).max(1)) * stripe,
        false => c.below(size.max(1)),
    };
    let longest = if whole { stripe } else { 1 + c.word(2) };
    let len = longest.min(size.saturating_sub(offset)).max(1);
    let fua = c.one_in(4);
    match c.below(6) {
        0 | 1 => {
            let data = Pool::heap().copy(&vec![c.byte(); len as usize]);
            Request::Write { offset, data, fua }
        }
        2 => Request::Trim { offset, len, fua },
        3 => Request::WriteZeroes {
            offset,
            len,
            fua,
            keep_space: len % 3 == 1,
            only_if_fast: len % 5 == 1,
        },
        4 => Request::Flush,
        _ if len % 4 == 3 => Request::Extents { offset, len },
        _ => Request::Read { offset, len },
    }
}

/// An order of an operator who adds what was left out at the start before anything else.
fn any_command(
    c: &mut Choices<'_>,
    host: &mut Host,
    left_out: &mut Option<Member>,
    force: bool,
) -> Command {
    let member = MemberName::Slot(c.below(6) as u16);
    let (size, _) = host.sizes();
    let blank = || Member::new((size + (64 << 20)) / BLOCK * BLOCK);
    match c.below(7) {
        0 => Command::Fail { member, force },
        1 => Command::Remove { member, force },
        2 => {
            let device = host.attach(left_out.take().unwrap_or_else(blank));
            Command::Add { device, force }
        }
        3 => Command::Replace {
            old: member,
            new: host.attach(left_out.take().unwrap_or_else(blank)),
            force,
        },
        4 => Command::Clear { member: None },
        5 => Command::Scrub(ScrubOrder::Start {
            rate_max: c.one_in(4).then(|| c.number(1 << 20)),
        }),
        _ => Command::Scrub(*c.pick(&[ScrubOrder::Resume, ScrubOrder::Pause, ScrubOrder::Stop])),
    }
}
