//! Which spare goes where.

use super::*;
use crate::control::wire::samples;
use uraid_core::units::Uuid;

fn optimal(name: &str, spares: &[u64]) -> StatusReport {
    let mut status = samples::optimal();
    status.name = name.to_string();
    for (i, size_bytes) in spares.iter().enumerate() {
        let mut spare = samples::member(None, "spare");
        spare.uuid = Uuid([i as u8 + 1; 16]).to_string();
        spare.path = Some(format!("/{name}/spare{i}"));
        spare.size_bytes = Some(*size_bytes);
        status.members.push(spare);
    }
    status
}

/// Without member 1, and without anything that fills its role.
fn degraded(name: &str) -> StatusReport {
    let mut status = optimal(name, &[]);
    status.state = "degraded".to_string();
    status.members[1].state = "failed".to_string();
    status
}

const FITS: u64 = 1 << 30;

fn group(names: &[&str]) -> Spares {
    Spares::new(vec![names.iter().map(|name| name.to_string()).collect()])
}

/// Which spares move, after the patience is over.
fn moves(spares: &mut Spares, statuses: &[StatusReport]) -> Vec<(String, String)> {
    assert_eq!(spares.step(statuses, Duration::ZERO), []);
    let deeds = spares.step(statuses, PATIENCE);
    let path = |deed: Deed| match deed.action {
        Action::MoveSpare { spare, .. } => (deed.array, spare.path),
        other => panic!("{other:?}"),
    };
    deeds.into_iter().map(path).collect()
}

fn is_moved(statuses: &[StatusReport]) -> bool {
    !moves(&mut group(&["a", "b"]), statuses).is_empty()
}

#[test]
fn the_smallest_spare_that_fits_goes_to_who_has_none() {
    let statuses = [
        degraded("a"),
        optimal("b", &[FITS * 4, FITS / 2, FITS]),
        optimal("c", &[FITS * 2]),
    ];
    let found = moves(&mut group(&["a", "b", "c"]), &statuses);
    assert_eq!(found, [("a".to_string(), "/b/spare2".to_string())]);
}

#[test]
fn whoever_has_a_reason_to_keep_its_spare_keeps_it() {
    let (needy, giver) = (degraded("a"), optimal("b", &[FITS]));
    assert!(is_moved(&[needy.clone(), giver.clone()]));

    let mut with_own = needy.clone();
    with_own.members.push(samples::member(None, "spare"));
    assert!(!is_moved(&[with_own, giver.clone()]), "it has one");

    let mut failed = needy.clone();
    failed.state = "failed".to_string();
    assert!(!is_moved(&[failed, giver.clone()]), "it would not help");

    let mut filled = needy.clone();
    filled.members[1].state = "rebuilding".to_string();
    assert!(!is_moved(&[filled, giver.clone()]), "it is being filled");

    for state in ["degraded", "rebuilding", "failed"] {
        let mut giver = giver.clone();
        giver.state = state.to_string();
        assert!(!is_moved(&[needy.clone(), giver]), "{state}");
    }
    assert!(
        !is_moved(&[needy.clone(), optimal("b", &[FITS - 1])]),
        "too small"
    );
    assert!(
        !is_moved(&[needy.clone(), optimal("c", &[FITS])]),
        "no group"
    );
    assert!(!is_moved(&[optimal("a", &[]), giver]), "nothing is missing");

    let mut gone = optimal("b", &[FITS]);
    let spare = gone.members.last_mut().expect("the spare");
    (spare.state, spare.path) = ("missing".to_string(), None);
    assert!(!is_moved(&[needy, gone]), "it is not there");
}

#[test]
fn one_spare_goes_to_one_array() {
    let statuses = [degraded("a"), degraded("b"), optimal("c", &[FITS])];
    let found = moves(&mut group(&["a", "b", "c"]), &statuses);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn it_waits_anew_when_the_member_was_back_and_after_a_failure() {
    let (needy, giver) = (degraded("a"), optimal("b", &[FITS]));
    let needy = [needy, giver.clone()];
    let well = [optimal("a", &[]), giver];
    let mut spares = group(&["a", "b"]);
    let second = Duration::from_secs(1);
    assert!(spares.step(&needy, Duration::ZERO).is_empty());
    assert!(spares.step(&needy, PATIENCE - second).is_empty());
    assert!(spares.step(&well, PATIENCE).is_empty());
    assert!(spares.step(&needy, PATIENCE + second).is_empty());
    assert_eq!(spares.step(&needy, 2 * PATIENCE + second).len(), 1);
    let now = 2 * PATIENCE + second;
    spares.put_off("a", now);
    assert!(spares.step(&needy, now + RETRY - second).is_empty());
    assert_eq!(spares.step(&needy, now + RETRY).len(), 1);
}
