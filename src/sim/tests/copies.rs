//! A mirror is given one more copy while one of its disks breaks, at every step in turn.

use uraid_sim::disk::Breakdown;
use uraid_sim::exhaust::Exhaust;
use uraid_sim::scenario::Layout;
use uraid_sim::stories::Story;

#[test]
fn whichever_disk_breaks_while_a_copy_is_added_nothing_is_lost() {
    let story: Story = "add-copy".parse().expect("there is one");
    let mirror = Layout::ALL.into_iter().find(|l| l.name == "raid1x2");
    let new = 2; // the disks of the array come first
    for disk in 0..=new {
        for how in [Breakdown::NoWrites, Breakdown::Gone] {
            let exhaust = Exhaust::new(mirror.expect("there is one"), story);
            let steps = exhaust.and_then(|e| e.run_broken(disk, how));
            let steps = steps.unwrap_or_else(|what| panic!("{what}"));
            assert!(steps > 100, "only {steps} steps");
        }
    }
}
