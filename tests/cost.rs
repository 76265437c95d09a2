//! What promises cost, in counts: a flush takes one parallel read, one parallel write and one
//! parallel flush, and nothing moves more bytes than the design says. Times are not judged here.

mod common;

use common::sandbox::{Sandbox, URAID};
use cost::layout::Layout;
use cost::measure::{Case, Measured, Plan, measure};
use cost::report;
use std::time::Duration;

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
        array_bytes: 64 << 20,
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
    // How much of a deep stream finds a free slot depends on the machine.
    let certain = |c: &Case| c.load.random || c.load.depth == 1;
    for (case, results, design) in measured[0].with_design().filter(|(c, ..)| certain(c)) {
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
