//! A thread for each way alerts can go: one that hangs holds up no other. Its queue is bounded, it
//! sends so many alerts a minute, tries each several times, and tells how many were left out.

use super::channel::{Alert, Channel};
use crate::control::wire::EventReport;
use crate::failure::{Doing, Failure};
use crate::server::log;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use uraid_core::events::EventKind;

/// Most alerts that wait on one way.
const QUEUE_MAX: usize = 64;

/// Most alerts sent on one way in a [`WINDOW`].
const ALERTS_MAX: u32 = 20;

/// The time those are counted in.
const WINDOW: Duration = Duration::from_secs(60);

/// Pauses between tries; after the last try the alert is given up.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

/// What became of alerts on one way.
#[derive(Default)]
pub struct Count {
    /// They arrived.
    pub sent: AtomicU64,
    /// They were given up after the last try.
    pub failed: AtomicU64,
    /// There were too many of them.
    pub left_out: AtomicU64,
}

impl Count {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One way with its thread.
pub struct Worker {
    channel: Arc<Channel>,
    queue: Sender<EventReport>,
    count: Arc<Count>,
}

impl Worker {
    /// Starts the thread. Nobody waits for it: it may hang with what it talks to.
    pub fn start(channel: Channel) -> Result<Worker, Failure> {
        let channel = Arc::new(channel);
        let (queue, events) = bounded(QUEUE_MAX);
        let count = Arc::<Count>::default();
        let mut sender = AlertSender {
            channel: channel.clone(),
            count: count.clone(),
            told: 0,
            window: (Instant::now(), 0),
        };
        let thread = thread::Builder::new().name("uraid-alert".to_string());
        thread
            .spawn(move || sender.run(&events))
            .doing(|| "start a thread".to_string())?;
        Ok(Worker {
            channel,
            queue,
            count,
        })
    }

    /// Queues an alert; one that finds no room is counted.
    pub fn offer(&self, event: &EventReport) {
        if self.queue.try_send(event.clone()).is_err() {
            Count::add(&self.count.left_out);
        }
    }

    /// Tries once, on the caller's thread.
    pub fn test(&self, event: &EventReport) -> Result<(), String> {
        let host = host();
        self.channel.send(&Alert {
            event,
            host,
            left_out: 0,
        })
    }

    /// Which way it is.
    pub fn name(&self) -> String {
        self.channel.to_string()
    }

    /// What became of alerts.
    pub fn count(&self) -> &Count {
        &self.count
    }
}

fn host() -> String {
    let name = nix::unistd::gethostname();
    name.map_or_else(|_| "?".to_string(), |name| name.display().to_string())
}

struct AlertSender {
    channel: Arc<Channel>,
    count: Arc<Count>,
    /// Of those left out: how many were told of.
    told: u64,
    /// When the window began, and how many were sent in it.
    window: (Instant, u32),
}

impl AlertSender {
    fn run(&mut self, events: &Receiver<EventReport>) {
        let mut last = None;
        loop {
            match events.recv_timeout(self.until_next_window()) {
                Ok(event) => {
                    if self.admit(Instant::now()) {
                        self.deliver(&event);
                    } else {
                        Count::add(&self.count.left_out);
                    }
                    last = Some(event);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(last) = &last
                        && self.untold() > 0
                        && self.admit(Instant::now())
                    {
                        self.deliver(&summary(last, self.untold()));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn until_next_window(&self) -> Duration {
        (self.window.0 + WINDOW)
            .saturating_duration_since(Instant::now())
            .max(Duration::from_secs(1))
    }

    fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.window.0) >= WINDOW {
            self.window = (now, 0);
        }
        self.window.1 += 1;
        self.window.1 <= ALERTS_MAX
    }

    fn untold(&self) -> u64 {
        self.count.left_out.load(Ordering::Relaxed) - self.told
    }

    fn deliver(&mut self, event: &EventReport) {
        let mut pauses = PAUSES.into_iter();
        loop {
            let left_out = self.untold();
            let host = host();
            let sent = self.channel.send(&Alert {
                event,
                host,
                left_out,
            });
            let Err(why) = sent else {
                self.told += left_out;
                return Count::add(&self.count.sent);
            };
            let (channel, kind) = (&self.channel, &event.kind);
            let Some(pause) = pauses.next() else {
                log::warning(&format!("alert by {channel} about {kind}: given up: {why}"));
                return Count::add(&self.count.failed);
            };
            let seconds = pause.as_secs();
            log::warning(&format!(
                "alert by {channel} about {kind} did not arrive: {why}; trying again in {seconds} s"
            ));
            thread::sleep(pause);
        }
    }
}

/// An alert about those that were left out.
fn summary(last: &EventReport, count: u64) -> EventReport {
    EventReport {
        kind: EventKind::LeftOut.as_str().to_string(),
        text: format!("{count} alerts were left out; see `uraid events`"),
        member: None,
        next: Some(format!("uraid events --name {}", last.array)),
        ..last.clone()
    }
}
