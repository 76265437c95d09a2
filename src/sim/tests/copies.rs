//! A mirror is given one more copy, or has one less, while one of its disks breaks, at every step in
//! turn.

use uraid_sim::disk::Breakdown;
use uraid_sim::exhaust::Exhaust;
use uraid_sim::scenario::Layout;
use uraid_sim::stories::Story;

fn mirror(story: &str) -> Result<Exhaust, String> {
    let story: Story = story.parse().expect("there is one");
    let mirror = Layout::ALL.into_iter().find(|l| l.name == "raid1x2");
    Exhaust::new(mirror.expect("there is one"), story)
}

/// Each disk breaks at each step of a story.
fn tell(name: &str) {
    let new = 2; // the disks of the array come first
    for disk in 0..=new {
        for how in [Breakdown::NoWrites, Breakdown::Gone] {
            let steps = mirror(name).and_then(|e| e.run_broken(disk, how));
            let steps = steps.unwrap_or_else(|what| panic!("{what}"));
            assert!(steps > 100, "only {steps} steps");
        }
    }
}

#[test]
fn whichever_disk_breaks_while_a_copy_is_added_nothing_is_lost() {
    tell("add-copy");
}

#[test]
fn whichever_disk_breaks_while_a_copy_is_given_up_nothing_is_lost() {
    tell("remove-copy");
}

#[test]
fn what_can_be_written_no_more_is_still_read_when_a_copy_is_added() {
    let steps = mirror("add-copy").and_then(Exhaust::run_suspended);
    let steps = steps.unwrap_or_else(|what| panic!("{what}"));
    assert!(steps > 50, "only {steps} steps");
}

#[test]
fn who_is_put_back_to_before_a_copy_was_added_changes_nothing() {
    let steps = mirror("add-copy").and_then(Exhaust::run_rolled_back);
    let steps = steps.unwrap_or_else(|what| panic!("{what}"));
    assert!(steps > 100, "only {steps} steps");
}
