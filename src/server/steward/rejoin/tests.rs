//! Who is taken back, when, and who is not.

use super::*;
use crate::control::wire::samples;

const WAIT: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A healthy array whose members can be told apart.
fn healthy() -> StatusReport {
    let mut status = samples::optimal();
    for (i, member) in status.members.iter_mut().enumerate() {
        member.uuid = Uuid([i as u8 + 1; 16]).to_string();
    }
    status
}

/// The same without member 1, which failed by itself.
fn without() -> StatusReport {
    let mut status = healthy();
    status.state = "degraded".to_string();
    status.members[1].state = "failed".to_string();
    status.members[1].failure = Some("it is gone".to_string());
    status
}

const GONE: Uuid = Uuid([2; 16]);

#[derive(PartialEq, Eq, Debug)]
enum Did {
    Nothing,
    Look,
    TakeBack,
    GiveUp,
}

fn did(rejoin: &mut Rejoin, status: &StatusReport, now: u64) -> Did {
    match rejoin.step(status, |_| false, at(now)).as_slice() {
        [] => Did::Nothing,
        [Step::Look { member, path }] => {
            assert_eq!((*member, path.as_str()), (GONE, "/m1"));
            Did::Look
        }
        [Step::Do(deed)] => {
            assert!(matches!(&deed.action, Action::TakeBack { member, path, .. }
                if member.uuid == GONE && path == "/m1"));
            assert!(deed.why.contains("it is gone"), "{}", deed.why);
            Did::TakeBack
        }
        [Step::GiveUp { member, text }] => {
            assert_eq!(member.uuid, GONE);
            assert!(text.contains("uraid add --name demo /m1"), "{text}");
            Did::GiveUp
        }
        more => panic!("{more:?}"),
    }
}

/// One that knows the array, and that member 1 has left at that time.
fn left(now: u64) -> Rejoin {
    let mut rejoin = Rejoin::new(WAIT);
    assert_eq!(did(&mut rejoin, &healthy(), 0), Did::Nothing);
    assert_eq!(did(&mut rejoin, &without(), now), Did::Look);
    rejoin
}

/// Looks until the member is taken back; when the first look was, from `now` on.
fn first_look(rejoin: &mut Rejoin, from: u64, until: u64) -> u64 {
    let first = (from..until).find(|now| did(rejoin, &without(), *now) == Did::Look);
    let first = first.expect("a look");
    (0..LOOKS).for_each(|_| rejoin.saw(GONE, true));
    assert_eq!(did(rejoin, &without(), first + 1), Did::TakeBack);
    first
}

#[test]
fn a_member_is_taken_back_after_three_looks_in_a_row() {
    let mut rejoin = left(10);
    for (is_back, then) in [
        (true, Did::Look),
        (true, Did::Look),
        (false, Did::Look),
        (true, Did::Look),
        (true, Did::Look),
        (true, Did::TakeBack),
    ] {
        rejoin.saw(GONE, is_back);
        assert_eq!(did(&mut rejoin, &without(), 11), then, "{is_back}");
    }
    // It is under way, or was not possible: not at once again.
    assert_eq!(did(&mut rejoin, &without(), 12), Did::Nothing);
    assert_eq!(
        did(&mut rejoin, &without(), 11 + RETRY.as_secs()),
        Did::Look
    );
}

#[test]
fn who_did_not_leave_by_itself_is_left_alone() {
    let mut by_operator = without();
    by_operator.members[1].failure = None;
    let mut missing = by_operator.clone();
    missing.members[1].state = "missing".to_string();
    missing.members[1].path = None;
    let mut spare = healthy();
    let mut one = samples::member(None, "failed");
    one.uuid = GONE.to_string();
    spare.members[1].uuid = Uuid([9; 16]).to_string();
    spare.members.push(one);
    for status in [healthy(), by_operator, missing, spare] {
        let mut rejoin = Rejoin::new(WAIT);
        for now in 0..5 {
            assert_eq!(did(&mut rejoin, &status, now), Did::Nothing, "{status:?}");
            rejoin.saw(GONE, true);
        }
    }
}

#[test]
fn while_another_device_is_filled_the_member_is_not_touched() {
    let mut rejoin = left(10);
    (0..LOOKS).for_each(|_| rejoin.saw(GONE, true));
    let mut filling = without();
    filling.members[1].slot = None;
    filling.rebuilds = samples::rebuilding().rebuilds;
    assert_eq!(did(&mut rejoin, &filling, 11), Did::Nothing);
    // Its role is taken: it becomes a spare, after looks that follow the rebuild.
    filling.rebuilds.clear();
    filling.state = "optimal".to_string();
    assert_eq!(did(&mut rejoin, &filling, 12), Did::Look);
    (0..LOOKS).for_each(|_| rejoin.saw(GONE, true));
    assert_eq!(did(&mut rejoin, &filling, 13), Did::TakeBack);
}

#[test]
fn who_leaves_again_waits_and_the_third_time_within_a_day_stays_out() {
    let mut rejoin = left(10);
    assert_eq!(first_look(&mut rejoin, 10, 11), 10);
    assert_eq!(did(&mut rejoin, &healthy(), 20), Did::Nothing);
    assert_eq!(did(&mut rejoin, &without(), 30), Did::Nothing);
    assert_eq!(first_look(&mut rejoin, 31, 200), 30 + WAIT.as_secs());
    assert_eq!(did(&mut rejoin, &healthy(), 100), Did::Nothing);
    assert_eq!(did(&mut rejoin, &without(), 110), Did::GiveUp);
    for now in [111, 200, 3 * DAY.as_secs()] {
        rejoin.saw(GONE, true);
        assert_eq!(did(&mut rejoin, &without(), now), Did::Nothing, "once told");
    }
    // An operator has it back: it is looked after again.
    let day_after = 4 * DAY.as_secs();
    assert_eq!(did(&mut rejoin, &healthy(), day_after), Did::Nothing);
    let wait = WAIT.as_secs() * u64::from(WAIT_GROWS);
    let wait_then = wait * u64::from(WAIT_GROWS);
    assert!(wait_then > WAIT.as_secs() * u64::from(WAIT_TIMES_MAX));
    let most = WAIT.as_secs() * u64::from(WAIT_TIMES_MAX);
    assert_eq!(did(&mut rejoin, &without(), day_after + 1), Did::Nothing);
    let first = first_look(&mut rejoin, day_after + 2, day_after + 2 * most);
    assert_eq!(first, day_after + 1 + most);
}

#[test]
fn who_leaves_seldom_waits_longer_each_time_up_to_an_hour() {
    let mut rejoin = Rejoin::new(WAIT);
    let mut waits = Vec::new();
    for time in 0..6 {
        let now = time * 2 * DAY.as_secs();
        assert_eq!(did(&mut rejoin, &healthy(), now), Did::Nothing);
        let left = now + 1;
        let mut looked = left;
        if did(&mut rejoin, &without(), left) == Did::Nothing {
            looked = first_look(&mut rejoin, left + 1, left + 4000);
        }
        waits.push(looked - left);
    }
    assert_eq!(waits, [0, 60, 600, 3600, 3600, 3600]);
}

#[test]
fn who_was_removed_is_forgotten() {
    let mut rejoin = left(10);
    let mut removed = without();
    removed.members.remove(1);
    assert_eq!(did(&mut rejoin, &removed, 11), Did::Nothing);
    rejoin.saw(GONE, true);
    assert!(!rejoin.pasts.contains_key(&GONE));
}

#[test]
fn who_ails_gets_its_role_back_and_does_not_become_a_spare() {
    let looks = |status: &StatusReport| {
        let mut rejoin = left(10);
        let steps = rejoin.step(status, |m| uuid(&m.uuid) == GONE, at(11));
        !steps.is_empty()
    };
    assert!(looks(&without()));
    let mut taken = without();
    taken.members[1].slot = None;
    taken.state = "optimal".to_string();
    assert!(!looks(&taken));
}
