//! What is shown: what servers said last, and what changed since they were asked before.

use crate::control::wire::{MemberReport, OperationReport, Rate, StatusReport, TrendSample};
use crate::failure::Failure;
use std::time::{Duration, Instant};

/// What a server said.
pub struct Look {
    /// When.
    pub at: Instant,
    /// How the array is.
    pub status: StatusReport,
    /// The last hour, if it was asked for.
    pub trend: Option<Vec<TrendSample>>,
}

/// What came of asking a server.
pub type Answer = Result<Look, Failure>;

/// What is shown, and how.
pub struct View {
    /// The arrays.
    pub arrays: Vec<Watched>,
    /// Which of them is shown.
    pub selected: usize,
    /// Members above those that are shown.
    pub scrolled: usize,
    /// Nothing moves.
    pub paused: bool,
    /// What the keys do is shown.
    pub help: bool,
    /// How long a server may be silent before its numbers are called old.
    pub silence_max: Duration,
}

/// What a server may take to answer, besides the time between two looks.
const ANSWER_MAX: Duration = Duration::from_secs(4);

impl View {
    /// Arrays of these names, of which nothing is known yet, asked every `interval`.
    pub fn new(names: Vec<String>, interval: Duration) -> View {
        View {
            silence_max: interval + ANSWER_MAX,
            arrays: names.into_iter().map(Watched::new).collect(),
            selected: 0,
            scrolled: 0,
            paused: false,
            help: false,
        }
    }

    /// The array that is shown.
    pub fn shown(&self) -> &Watched {
        &self.arrays[self.selected]
    }

    /// Goes to another array; behind the last one is the first.
    pub fn step(&mut self, by: isize) {
        let count = self.arrays.len() as isize;
        self.selected = (self.selected as isize + by).rem_euclid(count) as usize;
        self.scrolled = 0;
    }

    /// Goes up or down through the members.
    pub fn scroll(&mut self, by: isize) {
        let status = self.shown().status.as_ref();
        let members = status.map_or(0, |status| status.members.len());
        let last = members.saturating_sub(1);
        self.scrolled = self.scrolled.saturating_add_signed(by).min(last);
    }

    /// Takes what the server of an array said, unless nothing is to move.
    pub fn take(&mut self, index: usize, answer: Answer) {
        let array = &mut self.arrays[index];
        array.heard = answer.as_ref().ok().map(|look| look.at).or(array.heard);
        if !self.paused {
            array.take(answer);
        }
    }
}

/// One array.
pub struct Watched {
    /// Its name.
    pub name: String,
    /// How it is, as far as is known.
    pub status: Option<StatusReport>,
    /// What clients did since the look before.
    pub clients: Pace,
    /// What members did, in the order of the status.
    pub members: Vec<Pace>,
    /// The last hour, oldest first.
    pub trend: Vec<TrendSample>,
    /// Why the server does not say how it is; none if it does.
    pub silence: Option<String>,
    /// When it said what is shown.
    pub at: Option<Instant>,
    /// When it last said something, shown or not.
    pub heard: Option<Instant>,
}

impl Watched {
    fn new(name: String) -> Watched {
        Watched {
            name,
            status: None,
            clients: Pace::default(),
            members: Vec::new(),
            trend: Vec::new(),
            silence: None,
            at: None,
            heard: None,
        }
    }

    fn take(&mut self, answer: Answer) {
        let look = match answer {
            Ok(look) => look,
            Err(failure) => {
                self.silence = Some(failure.message);
                return;
            }
        };
        let Look { at, status, trend } = look;
        let before = self.status.take().zip(self.at);
        let (clients, members) = match &before {
            Some((before, then)) => paces(before, &status, at.duration_since(*then)),
            // A first look has nothing to compare with.
            None => (Pace::default(), vec![Pace::default(); status.members.len()]),
        };
        (self.clients, self.members) = (clients, members);
        if let Some(trend) = trend {
            self.trend = trend;
        }
        (self.status, self.at, self.silence) = (Some(status), Some(at), None);
    }
}

/// What somebody did in some time.
#[derive(Clone, Copy, Default, Debug)]
pub struct Pace {
    /// Reads.
    pub reads: Rate,
    /// Writes.
    pub writes: Rate,
    /// How long it took; zero if nothing is known.
    pub span: Duration,
}

impl Pace {
    /// So much in [`Pace::span`], for each second of it.
    pub fn per_second(&self, much: u64) -> u64 {
        let millis = self.span.as_millis() as u64;
        (much * 1000).checked_div(millis).unwrap_or(0)
    }
}

fn paces(before: &StatusReport, now: &StatusReport, span: Duration) -> (Pace, Vec<Pace>) {
    let requests = |kind| {
        let of = |status: &StatusReport| status.requests.get(kind).cloned().unwrap_or_default();
        Rate::between(&of(before), &of(now))
    };
    let member = |now: &MemberReport| {
        let earlier = before.members.iter().find(|m| m.uuid == now.uuid);
        // One that has just come has done what it has done in this time.
        let fresh = OperationReport::default();
        let (reads, writes) = earlier.map_or((&fresh, &fresh), |m| (&m.io.reads, &m.io.writes));
        Pace {
            reads: Rate::between(reads, &now.io.reads),
            writes: Rate::between(writes, &now.io.writes),
            span,
        }
    };
    let clients = Pace {
        reads: requests("read"),
        writes: requests("write"),
        span,
    };
    (clients, now.members.iter().map(member).collect())
}
