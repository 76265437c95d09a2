//! Which members are replaced before they fail.

use super::*;
use crate::control::wire::samples;

const MAX: u64 = 50;

/// Who is what in [`array`]: member `slot`, and the spare.
fn id(slot: u16) -> Uuid {
    Uuid([slot as u8 + 1; 16])
}

/// An optimal array with a spare.
fn array() -> StatusReport {
    let mut status = samples::optimal();
    status.members.push(samples::member(None, "spare"));
    for (i, member) in status.members.iter_mut().enumerate() {
        member.uuid = id(i as u16).to_string();
    }
    status
}

/// Which slot is replaced, and why.
fn replaced(status: &StatusReport, failing: &Failing) -> Option<(u16, String)> {
    let deed = Early::new(MAX).step(status, failing, Duration::ZERO)?;
    match deed.action {
        Action::Replace { old, spare } => {
            assert_eq!((spare.uuid, spare.path.as_str()), (id(4), "/m9"));
            assert_eq!(old.uuid, id(old.slot.expect("a slot")));
            Some((old.slot.expect("a slot"), deed.why))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_errors_than_allowed_are_too_many() {
    let mut status = array();
    (
        status.members[2].read_errors,
        status.members[2].checksum_errors,
    ) = (20, 30);
    assert_eq!(replaced(&status, &Failing::new()), None);
    status.members[2].checksum_errors += 1;
    let (slot, why) = replaced(&status, &Failing::new()).expect("a replacement");
    assert_eq!(slot, 2);
    assert!(why.contains("member 2 (/m2) has had 51 errors"), "{why}");
    status.members[1].read_errors = 52;
    assert_eq!(
        replaced(&status, &Failing::new()).expect("one").0,
        1,
        "the worst"
    );
}

#[test]
fn what_a_device_says_of_itself_counts_more_than_errors() {
    let mut status = array();
    status.members[1].read_errors = 1000;
    let failing = Failing::from([(id(3), "spare blocks are used up".to_string())]);
    let (slot, why) = replaced(&status, &failing).expect("a replacement");
    assert_eq!(slot, 3);
    assert!(why.contains("spare blocks are used up"), "{why}");
}

#[test]
fn nothing_is_replaced_without_a_spare_or_while_redundancy_is_missing() {
    let mut status = array();
    status.members[1].read_errors = 1000;
    let failing = Failing::from([(id(1), "it says so".to_string())]);
    assert!(replaced(&status, &failing).is_some());
    for state in ["degraded", "rebuilding", "failed"] {
        let mut status = status.clone();
        status.state = state.to_string();
        assert_eq!(replaced(&status, &failing), None, "{state}");
    }
    let mut without = status.clone();
    without.members.pop();
    assert_eq!(replaced(&without, &failing), None);
    let mut dead = status.clone();
    dead.members[4].state = "failed".to_string();
    assert_eq!(replaced(&dead, &failing), None);
    // Neither a member that is out already nor the spare itself has anything to be replaced.
    let mut out = array();
    (out.members[1].state, out.members[1].slot) = ("failed".to_string(), None);
    out.members[1].read_errors = 1000;
    out.members[4].read_errors = 1000;
    let failing = Failing::from([(id(1), String::new()), (id(4), String::new())]);
    assert_eq!(replaced(&out, &failing), None);
}

#[test]
fn what_was_not_possible_is_not_tried_again_at_once() {
    let mut status = array();
    status.members[1].read_errors = 1000;
    let mut early = Early::new(MAX);
    let second = Duration::from_secs(1);
    early.put_off("demo", second);
    assert_eq!(early.step(&status, &Failing::new(), RETRY), None);
    assert!(
        early
            .step(&status, &Failing::new(), RETRY + second)
            .is_some()
    );
}
