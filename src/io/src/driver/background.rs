//! Calls on memory that nobody waits for. The thread that makes them is the one that serves
//! clients, so it makes a slice of them at a time, and looks what clients want in between.

use super::Key;
use super::call::Call;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A slice while there are clients: some 5 to 15 µs.
const SLICE_BYTES: usize = 32 << 10;
/// At once when there are none: who comes then waits for it once.
const BATCH_BYTES: usize = 1 << 20;
/// Time without other work after which there are no clients.
const QUIET: Duration = Duration::from_millis(100);

/// What is to be made now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Nothing.
    None,
    /// A slice.
    Slice,
    /// A batch: nobody is there.
    Batch,
}

/// Calls that wait for their turn; as bounded as the calls under way.
pub(super) struct Background {
    calls: VecDeque<(Key, Call)>,
    /// When there was other work last.
    served: Instant,
    /// When the last slice ended, and how long it took.
    last: (Instant, Duration),
    /// Time that slices took, since somebody asked.
    spent: Duration,
}

impl Background {
    pub(super) fn new() -> Background {
        let now = Instant::now();
        Background {
            calls: VecDeque::new(),
            served: now,
            last: (now, Duration::ZERO),
            spent: Duration::ZERO,
        }
    }

    pub(super) fn push(&mut self, key: Key, call: Call) {
        self.calls.push_back((key, call));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// What to make at `now`. Other work goes first, but gets no more than half of the time: whoever
    /// wants slices to be fewer asks for fewer.
    pub(super) fn turn(&mut self, served: bool, now: Instant) -> Turn {
        if served {
            self.served = now;
        }
        let (ended, took) = self.last;
        if self.calls.is_empty() {
            Turn::None
        } else if now.duration_since(self.served) >= QUIET {
            Turn::Batch
        } else if !served || now.duration_since(ended) >= took {
            Turn::Slice
        } else {
            Turn::None
        }
    }

    /// The next calls up to the size of a slice. The last may be cut: its operation goes on with
    /// what is left, as after any short result.
    pub(super) fn slice(&mut self) -> Vec<(Key, Call)> {
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

    /// The next calls up to the size of a batch, and at least one.
    pub(super) fn batch(&mut self) -> Vec<(Key, Call)> {
        let mut bytes = 0;
        let mut fits = |(_, call): &(Key, Call)| {
            bytes += call.bytes();
            bytes <= BATCH_BYTES
        };
        let count = self.calls.iter().take_while(|c| fits(c)).count();
        self.calls.drain(..count.max(1)).collect()
    }

    /// A slice that began then has been made.
    pub(super) fn count(&mut self, begun: Instant) {
        let now = Instant::now();
        self.last = (now, now - begun);
        self.spent += self.last.1;
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
        background.push(3, read(2 * BATCH_BYTES));
        assert_eq!(lens(background.batch()), [(3, 2 * BATCH_BYTES)]);
    }

    #[test]
    fn others_go_first_but_not_for_ever() {
        let mut background = Background::new();
        let begun = background.served;
        let ms = Duration::from_millis;
        assert_eq!(background.turn(false, begun), Turn::None, "nothing to do");
        background.push(0, read(4096));
        assert_eq!(background.turn(false, begun), Turn::Slice);
        background.last = (begun, ms(2));
        assert_eq!(background.turn(true, begun + ms(1)), Turn::None);
        assert_eq!(background.turn(true, begun + ms(2)), Turn::Slice);
        assert_eq!(background.turn(false, begun + ms(3)), Turn::Slice);
        assert_eq!(background.turn(false, begun + ms(2) + QUIET), Turn::Batch);
        assert_eq!(background.turn(true, begun + ms(3) + QUIET), Turn::Slice);
    }
}
