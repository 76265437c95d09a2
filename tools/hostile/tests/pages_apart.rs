//! A loss of power in a checkpoint leaves some map pages new and others old. Until the journal is
//! replayed two stripes may then claim one slot; afterwards every slot must have its true owner,
//! or it is given away while it is in use.

use std::cell::Cell;

use hostile::layouts::{LAYOUTS, MANY_STRIPES};
use hostile::open::host::{Fate, Host};
use hostile::open::images::{Past, image, options};
use uraid_buffer::Pool;
use uraid_core::units::BLOCK;
use uraid_engine::api::{IoKind, Request};

/// A stripe of each of the two pages.
const STRIPES: [u64; 2] = [10, 550];

/// Writes whole stripes, one after the other.
fn write(host: &mut Host, content: &mut [u8], stripes: impl IntoIterator<Item = u64>, fill: u8) {
    let (_, stripe) = host.sizes();
    for number in stripes {
        let offset = number * stripe;
        let data = vec![fill ^ number as u8; stripe as usize];
        content[offset as usize..][..data.len()].copy_from_slice(&data);
        let data = Pool::heap().copy(&data);
        let fua = true; // what it replaces is free at once
        for reply in host.request([Request::Write { offset, data, fua }]) {
            reply.unwrap_or_else(|error| panic!("{error:?}"));
        }
    }
}

fn read(host: &mut Host) -> Vec<u8> {
    let (len, _) = host.sizes();
    let mut replies = host.request([Request::Read { offset: 0, len }]);
    let reply = replies.remove(0);
    reply.unwrap_or_else(|error| panic!("{error:?}"))
}

/// Plays the story: the stripe of the page that is lost leaves its place to the other one.
fn lose_page(lost: usize) {
    let (leaves, takes) = (STRIPES[lost], STRIPES[1 - lost]);
    let layout = LAYOUTS.iter().position(|l| l.slots == MANY_STRIPES.slots);
    let mut image = image(layout.expect("it is one of them"), Past::New);
    let g = image.superblocks[0].geometry;
    let mut host = Host::open(image.members, options(1));
    host.wait_open().expect("a new array opens");
    // Full: each whole stripe written goes where the one before it was.
    write(&mut host, &mut image.content, 0..g.stripes, 1);
    host.wait(5_000_000_000);
    // Four slots were free and are taken in order; then comes the one left first.
    let moves = [leaves, leaves, takes, leaves, takes];
    write(&mut host, &mut image.content, moves, 2);
    let lost = lost as u64;
    let page = g.map_page_offset(0, lost, 0)..g.map_page_offset(0, lost + 1, 0);
    let written = Cell::new(false);
    host.run_to_death(|io| match &io.kind {
        IoKind::Write { offset, .. } if page.contains(offset) => {
            written.set(true);
            Fate::Lost
        }
        IoKind::Flush if written.get() => Fate::Killed,
        _ => Fate::Done,
    });
    let mut host = Host::open(host.kill(), options(2));
    host.wait_open()
        .unwrap_or_else(|refusal| panic!("{}", refusal.text));
    assert!(read(&mut host) == image.content, "after the crash");
    write(&mut host, &mut image.content, (0..g.stripes).step_by(7), 9);
    assert!(read(&mut host) == image.content, "after further writes");
    let mut host = Host::open(host.stop(), options(3));
    host.wait_open()
        .unwrap_or_else(|refusal| panic!("{}", refusal.text));
    assert!(read(&mut host) == image.content, "after a restart");
    assert_eq!(image.content.len() as u64, g.stripes * BLOCK);
}

#[test]
fn the_first_page_is_lost() {
    lose_page(0);
}

#[test]
fn the_second_page_is_lost() {
    lose_page(1);
}
