//! Arrays in all states in which a server may find them, made by the engine itself.

use super::host::{Fate, Host};
use super::member::Member;
use crate::layouts::{LAYOUTS, Layout};
use std::cell::RefCell;
use std::collections::HashMap;
use uraid_buffer::Pool;
use uraid_core::journal::{Checkpoint, Following};
use uraid_core::listed::ListedPages;
use uraid_core::superblock::Superblock;
use uraid_core::units::BLOCK;
use uraid_engine::api::{Command, IoKind, OpenOptions, Request};
use uraid_sim::rng::Rng;

/// What happened to the array before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Past {
    /// Nothing was ever written.
    New,
    /// The server was stopped in order.
    Stopped,
    /// It was killed with writes of all kinds in the journal.
    Killed,
    /// Then the next one was killed between re-log and checkpoint.
    Recovering,
    /// A member was absent for a while, and is back.
    Degraded,
    /// It was being filled when the server was killed.
    Rebuilding,
}

/// All of them.
pub const PASTS: [Past; 6] = [
    Past::Killed,
    Past::Stopped,
    Past::Recovering,
    Past::Degraded,
    Past::Rebuilding,
    Past::New,
];

/// An array at rest.
#[derive(Clone)]
pub struct Image {
    /// Its members, spares last.
    pub members: Vec<Member>,
    /// What their superblocks said at creation: geometry, key, places.
    pub superblocks: Vec<Superblock>,
    /// What it must read as.
    pub content: Vec<u8>,
    /// Further member failures it survives.
    pub redundancy: usize,
}

thread_local! {
    static MADE: RefCell<HashMap<(usize, Past, bool), Image>> = RefCell::default();
}

/// The array of a layout, by its place in [`LAYOUTS`], with this past. Made once, then copied.
pub fn image(layout: usize, past: Past) -> Image {
    made(layout, past, true)
}

/// The same, `bounded` if its checkpoints announce what a start has to read; those of arrays made
/// long ago do not.
pub fn made(layout: usize, past: Past, bounded: bool) -> Image {
    let key = (layout, past, bounded);
    if let Some(made) = MADE.with_borrow(|made| made.get(&key).cloned()) {
        return made;
    }
    let mut image = make(layout, past, bounded);
    image.members = image.members.into_iter().map(Member::settled).collect();
    MADE.with_borrow_mut(|made| made.insert(key, image.clone()));
    image
}

/// How the images are opened. No two servers have the same nonce.
pub fn options(nonce: u64) -> OpenOptions {
    OpenOptions {
        nonce,
        force: true,
        ..OpenOptions::default()
    }
}

fn make(layout: usize, past: Past, bounded: bool) -> Image {
    match past {
        Past::New => new(&LAYOUTS[layout], bounded),
        Past::Stopped => {
            let mut image = new(&LAYOUTS[layout], bounded);
            let mut host = opened(image.members, past);
            write_all_kinds(&mut host, &mut image.content);
            image.members = host.stop();
            image
        }
        Past::Killed => {
            let mut image = made(layout, Past::Stopped, bounded);
            let mut host = opened(image.members, past);
            write_all_kinds(&mut host, &mut image.content);
            image.members = host.kill();
            image
        }
        Past::Recovering => {
            let mut image = made(layout, Past::Killed, bounded);
            let mut host = Host::open(image.members, options(past as u64));
            let g = image.superblocks[0].geometry;
            let checkpoints = g.zones().checkpoints..g.zones().journal;
            host.run_to_death(|io| match &io.kind {
                IoKind::Write { offset, .. } if checkpoints.contains(offset) => Fate::Killed,
                _ => Fate::Done,
            });
            image.members = host.kill();
            image
        }
        Past::Degraded | Past::Rebuilding if LAYOUTS[layout].redundancy == 0 => {
            made(layout, Past::Killed, bounded)
        }
        Past::Degraded => {
            let mut image = made(layout, Past::Killed, bounded);
            let absent = image.members.remove(1);
            let mut host = opened(image.members, past);
            write_all_kinds(&mut host, &mut image.content);
            image.members = host.kill();
            image.members.insert(1, absent);
            image.redundancy -= 1;
            image
        }
        Past::Rebuilding => {
            let mut image = made(layout, Past::Degraded, bounded);
            let back = image.members.remove(1);
            let mut host = opened(image.members, past);
            let device = host.attach(back);
            host.command(Command::Add {
                device,
                force: false,
            })
            .unwrap_or_else(|error| panic!("{layout}: {error:?}"));
            image.members = host.kill();
            let back = image.members.pop().expect("it was added");
            image.members.insert(1, back);
            image
        }
    }
}

fn new(layout: &Layout, bounded: bool) -> Image {
    let mut superblocks = layout.superblocks();
    if !bounded {
        superblocks.iter_mut().for_each(|s| s.features = 0);
    }
    let member = |s: &Superblock| {
        let g = s.geometry;
        let mut member = Member::new(g.member_bytes());
        for lane in 0..g.lanes {
            let mut first = Checkpoint::first(lane, s.index, s.config.nonce);
            let none = ListedPages::none(&g);
            if !bounded {
                first.following = Following::Anything;
            }
            let bytes = first.encode(s.key, bounded.then_some(&none));
            member.write(g.checkpoint_offset(lane.into(), 1), &bytes);
        }
        for offset in Superblock::offsets(s.write, member.len) {
            member.write(offset, &s.encode());
        }
        member
    };
    Image {
        members: superblocks.iter().map(member).collect(),
        content: vec![0; superblocks[0].geometry.export_bytes as usize],
        redundancy: layout.redundancy,
        superblocks,
    }
}

fn opened(members: Vec<Member>, past: Past) -> Host {
    let mut host = Host::open(members, options(past as u64));
    host.wait_open()
        .unwrap_or_else(|refusal| panic!("{}", refusal.text));
    host
}

/// Whole stripes, parts of blocks, parts of stripes, zeroes and trims, in rounds.
fn write_all_kinds(host: &mut Host, content: &mut [u8]) {
    let (size, stripe) = host.sizes();
    let mut rng = Rng::new(content.iter().map(|b| u64::from(*b)).sum());
    for round in 0..3 {
        let mut requests = Vec::new();
        let base = round * stripe * 2;
        let mut write = |offset: u64, len: u64| {
            let mut data = vec![0; len as usize];
            rng.fill(&mut data);
            content[offset as usize..(offset + len) as usize].copy_from_slice(&data);
            requests.push(Request::Write {
                offset,
                data: Pool::heap().copy(&data),
                fua: false,
            });
        };
        write(base, stripe);
        write(base + stripe, stripe);
        write(base + 6 * stripe, BLOCK);
        write(size - 2 * stripe + 100, 500);
        for reply in host.request(requests) {
            reply.unwrap_or_else(|error| panic!("{error:?}"));
        }
        let empty = base..base + stripe;
        content[empty.start as usize..empty.end as usize].fill(0);
        let trim = Request::Trim {
            offset: empty.start,
            len: stripe,
            fua: false,
        };
        let zeroed = base + stripe..base + stripe + 300;
        content[zeroed.start as usize..zeroed.end as usize].fill(0);
        let zeroes = Request::WriteZeroes {
            offset: zeroed.start,
            len: 300,
            fua: round == 1,
            keep_space: round == 1,
            only_if_fast: false,
        };
        for reply in host.request([trim, zeroes]) {
            reply.unwrap_or_else(|error| panic!("{error:?}"));
        }
    }
}
