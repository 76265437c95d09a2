//! Short stories for exhaustive crashes: one small write; small writes side by side in a row and
//! in two stripes; a new place for a stripe, and rows after it; a stripe emptied; a member being
//! filled meanwhile; one more copy, and one less; two journals.

use crate::load::{Draft, DraftKind};
use uraid_engine::api::Nanos;

/// Long enough for the checkpoint of an idle array.
const REST: Nanos = 1_500_000_000;
const BLOCK: u64 = 4096;

/// One step; the next begins when it is done.
#[derive(Clone, Debug)]
pub enum Step {
    /// These requests at once.
    Ask(Vec<Draft>),
    /// A blank disk replaces the holder of a role.
    Replace(u16),
    /// A blank disk becomes one more copy of a mirror.
    AddCopy,
    /// The copy that was added last is given up.
    RemoveCopy,
    /// Nothing is asked for so long.
    Idle(Nanos),
    /// The server stops.
    Stop,
}

/// A story, told by bytes of a stripe and of a chunk.
#[derive(Clone, Copy)]
pub struct Story {
    /// Its name.
    pub name: &'static str,
    /// Journals.
    pub lanes: u16,
    /// What happens.
    pub steps: fn(u64, u64) -> Vec<Step>,
}

impl Draft {
    /// A write that is durable when it is flushed.
    pub fn write(offset: u64, len: u64) -> Draft {
        Draft {
            kind: DraftKind::Write,
            offset,
            len,
            fua: false,
        }
    }

    /// A read.
    pub fn read(offset: u64, len: u64) -> Draft {
        Draft {
            kind: DraftKind::Read,
            ..Draft::write(offset, len)
        }
    }
}

fn small(offset: u64) -> Draft {
    Draft::write(offset, BLOCK)
}

fn flush() -> Step {
    let draft = Draft {
        kind: DraftKind::Flush,
        ..Draft::write(0, 0)
    };
    Step::Ask(vec![draft])
}

fn trim(offset: u64, len: u64) -> Draft {
    Draft {
        kind: DraftKind::Trim,
        ..Draft::write(offset, len)
    }
}

impl std::str::FromStr for Story {
    type Err = String;
    fn from_str(text: &str) -> Result<Story, String> {
        let found = Story::ALL.into_iter().find(|s| s.name == text);
        found.ok_or_else(|| {
            let all = Story::ALL.map(|s| s.name).join(", ");
            format!("unknown story \"{text}\": use any of {all}")
        })
    }
}

impl Story {
    /// All of them.
    pub const ALL: [Story; 10] = [
        Story::new("small", 1, |_, _| {
            vec![
                Step::Ask(vec![small(0)]),
                flush(),
                Step::Ask(vec![small(0)]),
                Step::Idle(REST),
            ]
        }),
        Story::new("row", 1, |stripe, chunk| {
            let second = chunk % stripe;
            vec![
                Step::Ask(vec![small(0), small(second.max(BLOCK))]),
                flush(),
                Step::Ask(vec![small(second.max(BLOCK))]),
                Step::Idle(REST),
            ]
        }),
        Story::new("two-stripes", 1, |stripe, _| {
            vec![
                Step::Ask(vec![small(0), small(stripe)]),
                Step::Ask(vec![small(stripe), small(2 * stripe + BLOCK)]),
                flush(),
                Step::Idle(REST),
            ]
        }),
        Story::new("remap", 1, |stripe, _| {
            vec![
                Step::Ask(vec![Draft::write(0, stripe)]),
                flush(),
                Step::Ask(vec![Draft::write(0, 2 * stripe)]),
                Step::Idle(REST),
            ]
        }),
        Story::new("remap-then-row", 1, |stripe, _| {
            vec![
                Step::Ask(vec![small(BLOCK)]),
                Step::Ask(vec![Draft::write(0, stripe)]),
                Step::Ask(vec![small(0)]),
                flush(),
                Step::Ask(vec![Draft::write(0, stripe)]),
                Step::Idle(REST),
            ]
        }),
        Story::new("unmap", 1, |stripe, _| {
            vec![
                Step::Ask(vec![small(0)]),
                Step::Ask(vec![trim(0, stripe)]),
                flush(),
                Step::Ask(vec![small(0), Draft::write(stripe, stripe)]),
                Step::Idle(REST),
            ]
        }),
        Story::new("replace", 1, |stripe, _| {
            vec![
                Step::Ask(vec![small(0)]),
                Step::Replace(0),
                Step::Ask(vec![small(0), small(stripe)]),
                Step::Ask(vec![Draft::write(0, stripe)]),
                flush(),
                Step::Idle(REST),
            ]
        }),
        Story::new("add-copy", 1, |stripe, _| {
            vec![
                Step::Ask(vec![small(0), Draft::write(stripe, stripe)]),
                Step::AddCopy,
                Step::Ask(vec![small(0), small(stripe)]),
                Step::Ask(vec![Draft::write(0, stripe)]),
                flush(),
                Step::Idle(REST),
            ]
        }),
        Story::new("remove-copy", 1, |stripe, _| {
            vec![
                Step::AddCopy,
                Step::Ask(vec![small(0), Draft::write(stripe, stripe)]),
                Step::RemoveCopy,
                Step::Ask(vec![small(0), small(stripe)]),
                flush(),
                Step::Idle(REST),
            ]
        }),
        Story::new("two-lanes", 2, |stripe, _| {
            vec![
                Step::Ask(vec![small(0), small(stripe)]),
                flush(),
                Step::Ask(vec![Draft::write(0, 2 * stripe), small(2 * stripe)]),
                Step::Idle(REST),
            ]
        }),
    ];

    const fn new(name: &'static str, lanes: u16, steps: fn(u64, u64) -> Vec<Step>) -> Story {
        Story { name, lanes, steps }
    }
}
