//! `uraid plan`: what it says agrees with what `create` makes, and it opens nothing.

mod common;

use common::{Sandbox, USAGE};

#[test]
fn a_plan_promises_the_size_that_create_delivers() {
    let sandbox = Sandbox::new();
    for (options, count) in [
        ("--level raid5", 3),
        ("--level raid10 --copies 2", 4),
        ("--level rs --parity 3 --chunk 256K", 7),
        ("--level raid1", 2),
    ] {
        let plan = format!("plan --json --members {count} --size 256M {options}");
        let plan = sandbox.uraid(plan.split_whitespace()).succeeded().json();
        let members: Vec<_> = (0..count)
            .map(|i| sandbox.path(format!("{count}-m{i}")))
            .collect();
        let made = sandbox.try_create(&format!("--json --size 256M {options}"), &members);
        let made = made.succeeded().json();
        let layout = &plan["layouts"][0];
        assert_eq!(layout["size_bytes"], made["size_bytes"], "{options}");
        assert_eq!(plan["layouts"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn without_a_level_all_layouts_are_compared() {
    let sandbox = Sandbox::new();
    let ran = sandbox.uraid("plan --members 4 --size 8T".split_whitespace());
    let text = ran.succeeded().stdout;
    for layout in ["raid0", "raid1", "raid10 x2", "raid5", "raid6", "rs +3"] {
        let row = text.lines().find(|line| line.starts_with(layout));
        assert!(row.is_some(), "no {layout}: {text}");
    }
    assert!(text.contains("any 1, up to 2"), "{text}");
    // What the model does not know is said wherever its figures are shown.
    assert!(
        text.contains("beware  members are taken to fail independently"),
        "{text}"
    );
}

#[test]
fn more_redundancy_and_faster_repairs_lose_less() {
    let sandbox = Sandbox::new();
    let plan = |options: &str| {
        let line = format!("plan --json --members 6 --size 8T {options}");
        let mut plan = sandbox.uraid(line.split_whitespace()).succeeded().json();
        plan["layouts"][0].take()
    };
    let chance = |options: &str| {
        let layout = plan(options);
        layout["any_loss"]["within_year"]
            .as_f64()
            .expect("a chance")
    };
    assert!(chance("--level raid6") < chance("--level raid5") / 10.0);
    let array = |options: &str| plan(options)["array_loss"]["within_year"].as_f64();
    assert!(array("--level raid5 --spares 1") < array("--level raid5"));
    assert!(chance("--level raid6 --rebuild-rate 10M") > chance("--level raid6"));
    assert!(chance("--level raid5 --ure-rate 1e-14") > chance("--level raid5"));
    let raid6 = plan("--level raid6");
    assert!(
        raid6["repair_hours"].as_f64() > Some(24.0),
        "the swap counts: {raid6}"
    );
    let spare = plan("--level raid6 --spares 1");
    assert_eq!(spare["rebuild_hours"], raid6["rebuild_hours"]);
    assert!(spare["repair_hours"].as_f64() < Some(24.0), "{spare}");
    assert!(spare["efficiency"].as_f64() < raid6["efficiency"].as_f64());
}

#[test]
fn the_text_for_one_layout_tells_the_whole_story() {
    let sandbox = Sandbox::new();
    let line = "plan --level raid10 --members 6 --size 1T --mtbf 30y";
    let text = sandbox.uraid(line.split_whitespace()).succeeded().stdout;
    for words in [
        "usable  ",
        "any one member; with luck more: 2 with 80.0 %, 3 with 40.0 %",
        "the redundancy is back",
        "4 KiB: 2 blocks in place, 2 journalled",
        "loss    of the array: 1 in ",
        "without scrubs: ",
        "a member fails every 30 y",
        "beware ",
    ] {
        assert!(text.contains(words), "no {words:?}: {text}");
    }
}

#[test]
fn plans_that_make_no_sense_are_usage_errors() {
    let sandbox = Sandbox::new();
    for (line, words) in [
        ("plan --level raid6 --members 2 --size 1T", "raid6"),
        ("plan --level raid5 --members 3 --size 1M", "too small"),
        ("plan --members 3 --size 1M", "too small"),
        (
            "plan --level raid5 --members 3 --size 1T --mtbf 0",
            "--mtbf",
        ),
        ("plan --members 119 --spares 2 --size 1T", "at most"),
    ] {
        sandbox
            .uraid(line.split_whitespace())
            .exits(USAGE)
            .says(&[words]);
    }
}
