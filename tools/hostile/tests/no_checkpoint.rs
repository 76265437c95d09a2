//! Without any checkpoint of a lane nobody knows where its journal begins. To begin a new one
//! beside the old would let the old one be replayed over it at the next start.

use hostile::open::host::Host;
use hostile::open::images::{Past, image, options};
use uraid_core::units::BLOCK_BYTES;

#[test]
fn an_array_without_checkpoints_is_refused() {
    let mut array = image(0, Past::Stopped);
    let g = array.superblocks[0].geometry;
    for member in &mut array.members {
        for copy in [0, 1] {
            member.write(g.checkpoint_offset(0, copy), &[0x55; BLOCK_BYTES]);
        }
    }
    let mut host = Host::open(array.members, options(1));
    let refusal = host.wait_open().expect_err("it was opened");
    assert!(
        refusal.text.contains("checkpoint is damaged"),
        "{}",
        refusal.text
    );
}
