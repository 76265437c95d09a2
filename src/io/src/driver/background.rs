//! Calls on memory that nobody waits for. The thread that makes them is the one that serves
//! clients, so it makes a slice of them at a time, and looks what clients want in between.

use super::call::Call;
use super::{Done, Key};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two looks whether there is other work: some 5 to 15 µs.
const SLICE_BYTES: usize = 32 << 10;

/// Calls that wait for their turn; as bounded as the calls under way.
pub(super) struct Background {
    calls: VecDeque<(Key, Call)>,
    /// When the last slice ended, and how long it took.
    last: (Instant, Duration),
    /// Time that slices took, since somebody asked.
    spent: Duration,
}

impl Background {
    pub(super) fn new() -> Background {
        Background {
            calls: VecDeque::new(),
            last: (Instant::now(), Duration::ZERO),
            spent: Duration::ZERO,
        }
    }

    pub(super) fn push(&mut self, key: Key, call: Call) {
        self.calls.push_back((key, call));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Makes a slice of them, if it is their turn: other work (`served`: there was some) goes first,
    /// but gets no more than half of the time. Whoever wants slices to be fewer asks for fewer.
    pub(super) fn take_turn(
        &mut self,
        served: bool,
        make: impl Fn((Key, Call)) -> Done,
        done: &mut Vec<Done>,
    ) {
        let begun = Instant::now();
        if self.is_turn(served, begun) {
            done.extend(self.slice().into_iter().map(make));
            let now = Instant::now();
            self.last = (now, now - begun);
            self.spent += now - begun;
        }
    }

    fn is_turn(&self, served: bool, now: Instant) -> bool {
        let (ended, took) = self.last;
        !self.calls.is_empty() && (!served || now.duration_since(ended) >= took)
    }

    /// The next calls up to the size of a slice. The last may be cut: its operation goes on with
    /// what is left, as after any short result.
    fn slice(&mut self) -> Vec<(Key, Call)> {
        let mut calls = Vec::new();
        let mut left = SLICE_BYTES;
        while left > 0
            && let Some((key, call)) = self.calls.pop_front()
        {
            let call = call.at_most(left);
            left = left.saturating_sub(call.bytes());
            calls.push((key, call));
        }
        calls
    }

    /// Time that slices took since it was last asked.
    pub(super) fn take_time(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(len: usize) -> Call {
        Call::Read {
            fd: 0,
            start: std::ptr::null_mut(),
            len: len as u32,
            offset: 0,
        }
    }

    #[test]
    fn a_slice_is_of_its_size_whatever_the_calls_are() {
        let mut background = Background::new();
        let sizes = [SLICE_BYTES / 2, 3 * SLICE_BYTES, 4096];
        for (key, len) in sizes.into_iter().enumerate() {
            background.push(key, read(len));
        }
        let lens = |calls: Vec<(Key, Call)>| -> Vec<(Key, usize)> {
            calls
                .iter()
                .map(|(key, call)| (*key, call.bytes()))
                .collect()
        };
        let half = SLICE_BYTES / 2;
        assert_eq!(lens(background.slice()), [(0, half), (1, half)]);
        assert_eq!(lens(background.slice()), [(2, 4096)]);
        assert!(background.is_empty());
    }

    #[test]
    fn others_go_first_but_not_for_ever() {
        let mut background = Background::new();
        let begun = background.last.0;
        let ms = Duration::from_millis;
        assert!(!background.is_turn(false, begun), "nothing to do");
        background.push(0, read(4096));
        assert!(background.is_turn(false, begun));
        background.last = (begun, ms(2));
        assert!(!background.is_turn(true, begun + ms(1)));
        assert!(background.is_turn(false, begun + ms(1)), "nobody is there");
        assert!(background.is_turn(true, begun + ms(2)));
    }

    #[test]
    fn a_turn_makes_one_slice_and_counts_its_time() {
        let mut background = Background::new();
        (0..3).for_each(|key| background.push(key, read(SLICE_BYTES)));
        let make = |(key, _): (Key, Call)| {
            std::thread::sleep(Duration::from_micros(60));
            Done { key, result: 0 }
        };
        let mut done = Vec::new();
        background.take_turn(false, make, &mut done);
        assert_eq!((done.len(), background.calls.len()), (1, 2));
        assert!(background.take_time() >= Duration::from_micros(60));
        assert!(background.take_time().is_zero(), "it was asked for");
    }
}
