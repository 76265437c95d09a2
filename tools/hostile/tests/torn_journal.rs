//! A loss of power may tear every batch since the last flush. Recovery finds the last one that is
//! whole without trying each of the others: that would take hours on a long journal.

use hostile::layouts::LAYOUTS;
use hostile::open::host::Host;
use hostile::open::images::{Past, image, options};
use uraid_buffer::Pool;
use uraid_core::units::{BLOCK, BLOCK_BYTES};
use uraid_engine::api::Request;

/// Small writes, each in a stripe of its own. More, and a checkpoint would be due.
const WRITES: u64 = 8;
/// I/O for one stripe, all told, with what does not depend on their number.
const IO_PER_STRIPE_MAX: u64 = 8;

#[test]
fn torn_batches_are_dropped_at_once() {
    let array = image(0, Past::Stopped);
    let g = array.superblocks[0].geometry;
    assert_eq!(g.shape, LAYOUTS[0].superblocks()[0].geometry.shape);
    let mut host = Host::open(array.members, options(1));
    host.wait_open().expect("it was stopped in order");
    let before = host.io_done();
    let (_, stripe) = host.sizes();
    for number in 0..WRITES {
        // Not the first block: in stripes with content its row must be read and written.
        let offset = number * stripe + BLOCK;
        let data = Pool::heap().copy(&[0xee; BLOCK_BYTES]);
        let replies = host.request([Request::Write {
            offset,
            data,
            fua: false,
        }]);
        assert_eq!(replies, [Ok(Vec::new())]);
    }
    let mut members = host.kill();
    let ring = g.ring_offset(0)..g.ring_offset(0) + g.ring_blocks * BLOCK;
    for member in &mut members {
        let in_ring = |block: &u64| ring.contains(&(block * BLOCK));
        for block in member.written().into_iter().filter(in_ring) {
            if member.get(block * BLOCK, BLOCK_BYTES)[..4] != *b"uJH1" {
                member.write(block * BLOCK, &[0x55; BLOCK_BYTES]);
            }
        }
    }
    let mut host = Host::open(members, options(2));
    host.wait_open().expect("nothing that was flushed is lost");
    let took = host.io_done().saturating_sub(before);
    assert!(took <= WRITES * IO_PER_STRIPE_MAX, "{took} I/Os");
    let len = array.content.len() as u64;
    let read = host.request([Request::Read { offset: 0, len }]);
    assert!(read == [Ok(array.content)], "as it was when it was stopped");
}
