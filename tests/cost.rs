//! What promises cost, in counts: a flush takes one parallel read, one parallel write and one
//! parallel flush, and nothing moves more bytes than the design says.

mod common;

use common::MIB;
use common::pattern::blocks;
use common::sandbox::{Sandbox, URAID};
use common::volatile::Disks;
use cost::layout::Layout;
use cost::measure::{Measured, Plan, measure};
use cost::report;
use std::time::{Duration, Instant};

const PAIRS: u64 = 200;

fn measured(layout: &str) -> Vec<Measured> {
    let sandbox = Sandbox::new();
    let plan = Plan {
        binary: URAID.into(),
        dir: sandbox.dir().to_owned(),
        layouts: vec![Layout::parse(layout).expect("a layout")],
        rounds: 1,
        time: Duration::from_millis(200),
        pairs: PAIRS,
        array_bytes: 64 * MIB,
        seed: 1,
        baseline: false,
    };
    let measured = measure(&plan, |what| println!("{what}")).expect("a measurement");
    println!("{}", report::text(&plan, &measured));
    measured
}

#[test]
fn a_small_write_and_a_flush_take_one_step_of_each_kind() {
    let measured = measured("raid6-4+2");
    assert_eq!(report::violations(&measured), [""; 0]);
    // The checks looked at something.
    let pairs = measured[0].pairs.counters.as_ref().expect("counters");
    assert_eq!(pairs.client_written_bytes, PAIRS * 4096);
    assert_eq!(pairs.part("commit").count, PAIRS);
}

#[test]
fn nothing_moves_more_bytes_than_the_design_says() {
    let measured = measured("raid5-4+1");
    for (case, results, design) in measured[0].with_design() {
        let traffic = results.counters.as_ref().expect("counters").traffic();
        let name = case.name;
        assert_eq!(design.excesses(&traffic), [""; 0], "{name}");
        assert!(
            traffic.journal >= design.least.journal,
            "{name}: {traffic:?}"
        );
        assert!(
            traffic.headers >= design.least.headers,
            "{name}: {traffic:?}"
        );
        assert!(traffic.slots >= design.least.slots, "{name}: {traffic:?}");
    }
}

/// Counts do not tell what runs side by side: disks do that are so slow that nothing else matters.
#[test]
fn the_members_take_part_in_each_step_side_by_side() {
    const DELAY: Duration = Duration::from_millis(100);
    const MEMBERS: usize = 6;
    need_volatile_disks!();
    let sandbox = Sandbox::new();
    let backing = sandbox.members(MEMBERS);
    sandbox.create("--level raid6 --size 64M", &backing);
    let disks = Disks::attach(&sandbox, &backing, 1);
    let server = sandbox.serve(&disks.members());
    let mut client = server.connect();
    client
        .write(0, &blocks(0, 8 * MIB / 4096, 1))
        .expect("write");
    client.flush().expect("flush");
    (0..MEMBERS).for_each(|disk| disks.set_faults(disk, |f| f.delay = DELAY));
    let mut pair = |number: u64| {
        let block = number * 100; // another stripe each time
        let begun = Instant::now();
        client
            .write(block * 4096, &blocks(block, 1, 2))
            .expect("write");
        client.flush().expect("flush");
        begun.elapsed()
    };
    // The quickest of some: whatever else the machine and the array do only adds to it.
    let quickest = (0..8).map(&mut pair).min().expect("pairs");
    (0..MEMBERS).for_each(|disk| disks.set_faults(disk, |f| f.delay = Duration::ZERO));
    assert!(
        quickest >= 3 * DELAY,
        "{quickest:?}: the disks are not slow"
    );
    assert!(
        quickest < 4 * DELAY,
        "a write and a flush took {quickest:?}, more than three steps of {DELAY:?}"
    );
}
