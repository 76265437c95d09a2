//! Clients: give requests their content, and hold every answer against the model.

use crate::content::{Contents, UNIT_BYTES, Value};
use crate::load::{Draft, DraftKind};
use crate::model::{Crash, Model, Tick};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use uraid_buffer::{Buf, Pool, Span};
use uraid_engine::api::{Answer, Nanos, Reply, Request, RequestError, RequestId};

/// A request that has not been answered.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was asked.
    pub draft: Draft,
    /// When in the history it was.
    pub begun: Tick,
    /// At what time it was.
    pub at: Nanos,
}

/// All clients of the export together.
#[derive(Clone)]
pub struct Clients {
    pool: Pool,
    contents: Contents,
    model: Model,
    stripe_bytes: u64,
    asked: BTreeMap<RequestId, Asked>,
    next_id: u64,
    tick: Tick,
    /// Units that a request in flight changes in part: nothing else may write them meanwhile,
    /// because what comes out would depend on the order.
    merging: BTreeSet<u64>,
}

fn units_touched(offset: u64, len: u64) -> Range<u64> {
    offset / UNIT_BYTES..(offset + len).div_ceil(UNIT_BYTES)
}

impl Clients {
    /// Clients of a new export of so many bytes, in stripes of so many (multiples of the unit).
    pub fn new(export_bytes: u64, stripe_bytes: u64) -> Clients {
        Clients {
            pool: Pool::heap(),
            contents: Contents::default(),
            model: Model::new(export_bytes / UNIT_BYTES),
            stripe_bytes,
            asked: BTreeMap::new(),
            next_id: 1,
            tick: 1,
            merging: BTreeSet::new(),
        }
    }

    /// The number of the next request.
    pub fn next_id(&self) -> RequestId {
        RequestId(self.next_id)
    }

    /// Requests not yet answered.
    pub fn in_flight(&self) -> usize {
        self.asked.len()
    }

    /// The request that waits longest.
    pub fn oldest(&self) -> Option<(RequestId, &Asked)> {
        self.asked.iter().next().map(|(id, asked)| (*id, asked))
    }

    /// Whether some of what a request wrote may have been emptied again before it reached any
    /// member, by a request that came later and is still being carried out.
    pub fn is_emptied_by_later(&self, id: RequestId, asked: &Asked) -> bool {
        let written = &asked.draft;
        let mut later = self.asked.range(id..).map(|(_, later)| &later.draft);
        later.any(|later| {
            matches!(later.kind, DraftKind::Trim | DraftKind::WriteZeroes)
                && later.offset < written.offset + written.len
                && written.offset < later.offset + later.len
        })
    }

    fn next_tick(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    /// Gives `draft` its content and notes it; `None` if it must not be asked just now.
    pub fn ask(&mut self, at: Nanos, draft: Draft) -> Option<(RequestId, Request)> {
        let draft = self.fit(draft);
        let touched = units_touched(draft.offset, draft.len);
        let changes = !matches!(draft.kind, DraftKind::Read | DraftKind::Flush);
        if changes && self.merging.range(touched).next().is_some() {
            return None;
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let begun = self.next_tick();
        self.asked.insert(id, Asked { draft, begun, at });
        let Draft {
            kind,
            offset,
            len,
            fua,
        } = draft;
        let request = match kind {
            DraftKind::Read => {
                self.model.read_begins(begun);
                Request::Read { offset, len }
            }
            DraftKind::Write => Request::Write {
                offset,
                data: self.change(begun, id, draft),
                fua,
            },
            DraftKind::Flush => Request::Flush,
            DraftKind::Trim => {
                self.change(begun, id, draft);
                Request::Trim { offset, len, fua }
            }
            DraftKind::WriteZeroes => {
                self.change(begun, id, draft);
                Request::WriteZeroes {
                    offset,
                    len,
                    fua,
                    keep_space: id.0.is_multiple_of(3),
                    only_if_fast: false,
                }
            }
        };
        Some((id, request))
    }

    /// Rounds a change to units where the outcome of a merge could not be predicted.
    fn fit(&self, draft: Draft) -> Draft {
        let Draft { offset, len, .. } = draft;
        let end = offset + len;
        let cut = |byte: u64| !byte.is_multiple_of(UNIT_BYTES);
        let unsure = |byte: u64| {
            let unit = byte / UNIT_BYTES;
            cut(byte) && self.model.certain(unit, self.tick).is_none()
        };
        let merges = matches!(draft.kind, DraftKind::Write | DraftKind::WriteZeroes);
        if !merges || !(unsure(offset) || unsure(end)) {
            return draft;
        }
        let offset = offset / UNIT_BYTES * UNIT_BYTES;
        Draft {
            offset,
            len: end.next_multiple_of(UNIT_BYTES) - offset,
            ..draft
        }
    }

    /// Notes what a change does to each unit; gives back the bytes it writes.
    fn change(&mut self, begun: Tick, id: RequestId, draft: Draft) -> Buf {
        let Draft {
            kind, offset, len, ..
        } = draft;
        let mut data = self.pool.zeroed(len as usize);
        for unit in units_touched(offset, len) {
            let start = unit * UNIT_BYTES;
            let part = start.max(offset)..(start + UNIT_BYTES).min(offset + len);
            let of_data = (part.start - offset) as usize..(part.end - offset) as usize;
            let of_unit = (part.start - start) as usize..(part.end - start) as usize;
            let mut content = [0; UNIT_BYTES as usize];
            let mut value = Value::ZERO;
            if kind == DraftKind::Write {
                value = Value::of_write(id.0);
                self.contents.fill(value, unit, &mut content);
                data[of_data].copy_from_slice(&content[of_unit.clone()]);
            }
            if of_unit.len() as u64 != UNIT_BYTES {
                if kind == DraftKind::Trim {
                    continue; // only whole stripes are trimmed
                }
                let before = self
                    .model
                    .certain(unit, begun)
                    .expect("merges are foreseeable");
                let mut merged = [0; UNIT_BYTES as usize];
                self.contents.fill(before, unit, &mut merged);
                merged[of_unit.clone()].copy_from_slice(&content[of_unit]);
                value = self.contents.keep_mixed(&merged);
                self.merging.insert(unit);
            }
            self.model.issue(begun, id.0, unit, value);
        }
        data.freeze()
    }

    /// Checks an answer. The error says in words what is wrong with it.
    /// `stopping`: the server was told to stop, and may say so or give up on full members.
    pub fn answer(&mut self, reply: Reply, stopping: bool) -> Result<Asked, String> {
        let id = reply.id;
        let asked = self
            .asked
            .remove(&id)
            .ok_or("an answer to nothing that was asked")?;
        let ended = self.next_tick();
        let Draft {
            kind,
            offset,
            len,
            fua,
        } = asked.draft;
        if kind == DraftKind::Read {
            self.model.read_ends(asked.begun);
        }
        let data = match reply.result {
            Ok(Answer::Data(spans)) => Span::joined(&spans),
            Ok(Answer::Done | Answer::Extents(_)) => Vec::new(),
            Err(RequestError::Stopping | RequestError::Io { .. }) if stopping => {
                self.refused(id, &asked, ended);
                return Ok(asked);
            }
            Err(error) => {
                return Err(format!(
                    "request {} {:?} failed: {error:?}",
                    id.0, asked.draft
                ));
            }
        };
        let touched = units_touched(offset, len);
        match kind {
            DraftKind::Read => self.check(&asked, ended, &data)?,
            DraftKind::Flush => self.model.flushed(asked.begun),
            DraftKind::Write | DraftKind::WriteZeroes => {
                touched.clone().for_each(|unit| {
                    self.merging.remove(&unit);
                });
                self.model.answer(ended, id.0, touched, fua);
            }
            DraftKind::Trim => {
                let whole = whole_stripes(offset, len, self.stripe_bytes);
                self.model
                    .answer_maybe(ended, id.0, touched.start..whole.start);
                self.model.answer_maybe(ended, id.0, whole.end..touched.end);
                self.model.answer(ended, id.0, whole, fua);
            }
        }
        Ok(asked)
    }

    /// The server did not want it any more; it may have been done in part.
    fn refused(&mut self, id: RequestId, asked: &Asked, ended: Tick) {
        let touched = units_touched(asked.draft.offset, asked.draft.len);
        if !matches!(asked.draft.kind, DraftKind::Read | DraftKind::Flush) {
            self.model.answer_maybe(ended, id.0, touched);
        }
    }

    fn check(&mut self, asked: &Asked, ended: Tick, found: &[u8]) -> Result<(), String> {
        let Draft { offset, len, .. } = asked.draft;
        if found.len() as u64 != len {
            return Err(format!("a read of {len} bytes returned {}", found.len()));
        }
        for unit in units_touched(offset, len) {
            let start = unit * UNIT_BYTES;
            let part = start.max(offset)..(start + UNIT_BYTES).min(offset + len);
            let bytes = &found[(part.start - offset) as usize..(part.end - offset) as usize];
            let times = (asked.begun, ended);
            self.model.check(
                &self.contents,
                times,
                unit,
                (part.start - start) as usize,
                bytes,
            )?;
        }
        Ok(())
    }

    /// Everything answered so far is durable: the server stopped by itself.
    pub fn all_durable(&mut self) {
        let tick = self.next_tick();
        self.model.flushed(tick);
    }

    /// Checks the whole export as somebody read it while nothing else went on.
    pub fn check_all(&mut self, bytes: &[u8]) -> Result<(), String> {
        let begun = self.next_tick();
        let ended = self.next_tick();
        let units = bytes.chunks(UNIT_BYTES as usize).enumerate();
        for (unit, part) in units {
            self.model
                .check(&self.contents, (begun, ended), unit as u64, 0, part)?;
        }
        match bytes.len() as u64 / UNIT_BYTES == self.model.units() {
            true => Ok(()),
            false => Err(format!(
                "the export has {} bytes when read from outside",
                bytes.len()
            )),
        }
    }

    /// The server is gone, and with it all requests in flight.
    pub fn crash(&mut self, crash: Crash) {
        let tick = self.next_tick();
        self.model.crash(tick, crash);
        self.asked.clear();
        self.merging.clear();
    }
}

/// Units of the whole stripes in a byte range: those that a trim makes zero.
fn whole_stripes(offset: u64, len: u64, stripe_bytes: u64) -> Range<u64> {
    let per_stripe = stripe_bytes / UNIT_BYTES;
    let first = offset.div_ceil(stripe_bytes);
    let end = ((offset + len) / stripe_bytes).max(first);
    let touched = units_touched(offset, len);
    // A range inside one stripe holds no whole one.
    let start = (first * per_stripe).clamp(touched.start, touched.end);
    start..(end * per_stripe).clamp(start, touched.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(kind: DraftKind, offset: u64, len: u64) -> Draft {
        Draft {
            kind,
            offset,
            len,
            fua: false,
        }
    }

    fn answer(c: &mut Clients, id: RequestId, data: Vec<Buf>) -> Result<Asked, String> {
        let spans = data.into_iter().map(Span::Data).collect();
        c.answer(
            Reply {
                id,
                result: Ok(Answer::Data(spans)),
            },
            false,
        )
    }

    #[test]
    fn reads_are_held_against_writes_down_to_the_byte() {
        let mut c = Clients::new(1 << 16, 4096);
        let (id, request) = c.ask(0, draft(DraftKind::Write, 1000, 100)).unwrap();
        let Request::Write { data, .. } = request else {
            panic!()
        };
        assert!(
            c.ask(0, draft(DraftKind::Write, 1024, 512)).is_none(),
            "a merge is under way"
        );
        answer(&mut c, id, vec![]).unwrap();
        let (id, _) = c.ask(0, draft(DraftKind::Read, 1000, 100)).unwrap();
        answer(&mut c, id, vec![data.slice(0..50), data.slice(50..100)]).unwrap();
        let (id, _) = c.ask(0, draft(DraftKind::Read, 1001, 100)).unwrap();
        assert!(answer(&mut c, id, vec![data]).is_err(), "shifted by a byte");
    }

    #[test]
    fn a_trim_zeroes_whole_stripes_and_perhaps_the_rest() {
        let mut c = Clients::new(1 << 16, 4096);
        let (id, request) = c.ask(0, draft(DraftKind::Write, 0, 12288)).unwrap();
        let Request::Write { data, .. } = request else {
            panic!()
        };
        answer(&mut c, id, vec![]).unwrap();
        let (id, _) = c.ask(0, draft(DraftKind::Trim, 512, 8192 + 512)).unwrap();
        answer(&mut c, id, vec![]).unwrap();
        let zeros = Pool::heap().zeroed(4096).freeze();
        let (id, _) = c.ask(0, draft(DraftKind::Read, 0, 12288)).unwrap();
        let found = vec![data.slice(0..4096), zeros, data.slice(8192..12288)];
        answer(&mut c, id, found).unwrap();
        let (id, _) = c.ask(0, draft(DraftKind::Read, 4096, 4096)).unwrap();
        assert!(answer(&mut c, id, vec![data.slice(4096..8192)]).is_err());
    }

    #[test]
    fn what_was_written_can_be_emptied_by_what_was_asked_later_and_overlaps() {
        let mut c = Clients::new(1 << 16, 4096);
        let mut ask = |kind, offset| c.ask(0, draft(kind, offset, 4096)).unwrap().0;
        ask(DraftKind::Trim, 0);
        let written = ask(DraftKind::Write, 0);
        let elsewhere = ask(DraftKind::WriteZeroes, 4096);
        ask(DraftKind::Read, 0);
        let emptied = |c: &mut Clients, id| {
            let asked = answer(c, id, vec![]).unwrap();
            c.is_emptied_by_later(id, &asked)
        };
        let mut before = c.clone();
        assert!(!emptied(&mut before, written));
        let later = c.ask(0, draft(DraftKind::Trim, 0, 4096)).unwrap().0;
        let mut after = c.clone();
        assert!(emptied(&mut c, written));
        assert!(!emptied(&mut c, elsewhere));
        emptied(&mut after, later);
        assert!(!emptied(&mut after, written), "it was answered first");
    }

    #[test]
    fn whole_stripes_of_odd_ranges() {
        assert_eq!(whole_stripes(0, 8192, 4096), 0..16);
        assert_eq!(whole_stripes(1, 8191, 4096), 8..16);
        assert!(whole_stripes(1, 4096, 4096).is_empty());
        assert!(whole_stripes(5000, 10, 4096).is_empty());
        assert_eq!(whole_stripes(1, 30000, 12288), 24..48);
    }
}
