//! Throughput and latency of an array over the last hour, in memory: a thread asks for the status
//! every ten seconds and keeps what has changed since.

use super::clock;
use super::operator::Mailbox;
use crate::control::wire::{
    MemberReport, MemberTrend, Rate, StatusReport, TrendReport, TrendSample,
};
use crate::failure::{Doing, Failure};
use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(10);

/// Most samples: those of an hour.
const SAMPLES_MAX: usize = 360;

/// How long an array may take to say how it is; the sample is left out then.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Stack of the thread.
const STACK_BYTES: usize = 256 << 10;

/// The samples, for whoever asks. Clones are the same.
#[derive(Clone, Default)]
pub struct Trend(Arc<Mutex<VecDeque<TrendSample>>>);

impl Trend {
    /// Samples from this number on.
    pub fn report(&self, from: u64) -> TrendReport {
        let samples = self.0.lock().expect("no holder panics");
        let wanted = samples.iter().filter(|sample| sample.number >= from);
        TrendReport {
            interval_seconds: INTERVAL.as_secs(),
            samples: wanted.cloned().collect(),
        }
    }

    /// All samples, of what clients did alone.
    pub fn of_clients(&self) -> Vec<TrendSample> {
        let samples = self.0.lock().expect("no holder panics");
        let without_members = |sample: &TrendSample| TrendSample {
            members: Vec::new(),
            ..*sample
        };
        samples.iter().map(without_members).collect()
    }

    /// Takes what changed between two statuses.
    fn add(&self, before: &StatusReport, now: &StatusReport, span: Duration) {
        let mut samples = self.0.lock().expect("no holder panics");
        let number = samples.back().map_or(0, |last| last.number + 1);
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(TrendSample {
            number,
            time_millis: clock::millis(),
            span_millis: span.as_millis() as u64,
            reads: requests(before, now, "read"),
            writes: requests(before, now, "write"),
            members: now
                .members
                .iter()
                .filter_map(|m| member(before, m))
                .collect(),
        });
    }
}

fn requests(before: &StatusReport, now: &StatusReport, kind: &str) -> Rate {
    let of = |status: &StatusReport| status.requests.get(kind).cloned().unwrap_or_default();
    Rate::between(&of(before), &of(now))
}

fn member(before: &StatusReport, now: &MemberReport) -> Option<MemberTrend> {
    let earlier = before.members.iter().find(|m| m.uuid == now.uuid);
    let io = earlier.map(|m| m.io.clone()).unwrap_or_default();
    Some(MemberTrend {
        slot: now.slot?,
        uuid: now.uuid.clone(),
        reads: Rate::between(&io.reads, &now.io.reads),
        writes: Rate::between(&io.writes, &now.io.writes),
    })
}

/// The thread that takes samples; ends when dropped.
pub struct Sampler {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Samples the array behind `mailbox` into `trend`.
    pub fn start(mailbox: Mailbox, trend: Trend) -> Result<Sampler, Failure> {
        let (stop, stopped) = bounded::<()>(0);
        let look = move || {
            let answer = mailbox.ask_status().ok()?;
            answer.recv_timeout(ANSWER_MAX).ok()?.ok()
        };
        let run = move || {
            let mut before: Option<(Instant, StatusReport)> = None;
            loop {
                let now = look().map(|status| (Instant::now(), status));
                if let (Some((then, before)), Some((now, status))) = (&before, &now) {
                    trend.add(before, status, now.duration_since(*then));
                }
                before = now.or(before);
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("uraid-trend".to_string());
        let thread = thread.stack_size(STACK_BYTES).spawn(run);
        Ok(Sampler {
            stop: Some(stop),
            thread: Some(thread.doing(|| "start a thread".to_string())?),
        })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the sampler does not panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::samples;

    #[test]
    fn an_hour_is_kept_and_numbers_go_on() {
        let trend = Trend::default();
        let mut now = samples::optimal();
        now.members[1].io.reads.operations = 7;
        now.members[1].uuid = "another".to_string();
        for _ in 0..SAMPLES_MAX + 5 {
            trend.add(&samples::optimal(), &now, INTERVAL);
        }
        let all = trend.report(0).samples;
        assert_eq!((all.len(), all[0].number), (SAMPLES_MAX, 5));
        assert_eq!(trend.report(SAMPLES_MAX as u64 + 3).samples.len(), 2);
        assert_eq!(all[0].members.len(), 4);
        let of_clients = trend.of_clients();
        assert_eq!(of_clients.len(), SAMPLES_MAX);
        assert!(of_clients.iter().all(|sample| sample.members.is_empty()));
        assert_eq!(
            all[0].members[1].reads.operations, 7,
            "it was not there before"
        );
        assert_eq!(all[0].members[0].reads.operations, 0);
    }
}
