//! Alerts: events that matter enough go to people, by ways that may fail, hang or be away. Whoever
//! has an event to tell never waits for any of it.

mod channel;
mod worker;

use crate::control::wire::{AlertResult, AlertTestReport, EventReport};
use crate::failure::Failure;
use crate::server::clock;
use channel::Channel;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uraid_core::events::{EventKind, EventRecord, Severity};
use worker::Worker;

/// Where alerts go.
#[derive(Clone, Debug)]
pub struct AlertOptions {
    /// Programs.
    pub exec: Vec<PathBuf>,
    /// Addresses of web servers.
    pub webhook: Vec<String>,
    /// Mail addresses.
    pub mail: Vec<String>,
    /// What takes mails.
    pub mail_program: PathBuf,
    /// What does not matter so much is not sent.
    pub severity: Severity,
}

/// What became of alerts on one way, since the server started.
#[derive(Clone, Debug)]
pub struct AlertCount {
    /// The way.
    pub channel: String,
    /// How many arrived.
    pub sent: u64,
    /// How many were given up.
    pub failed: u64,
    /// How many were too many.
    pub left_out: u64,
}

/// All ways of a server. Clones are the same.
#[derive(Clone)]
pub struct Alerts {
    workers: Arc<[Worker]>,
    severity: Severity,
}

impl Alerts {
    /// Starts a thread for each way.
    pub fn start(options: &AlertOptions) -> Result<Alerts, Failure> {
        let exec = options.exec.iter().cloned().map(Channel::Exec);
        let webhook = options.webhook.iter().cloned().map(Channel::webhook);
        let mail = options.mail.iter().cloned();
        let mail = mail.map(|address| Channel::Mail(address, options.mail_program.clone()));
        let workers = exec.chain(webhook).chain(mail).map(Worker::start);
        Ok(Alerts {
            workers: workers.collect::<Result<_, _>>()?,
            severity: options.severity,
        })
    }

    /// An event of the array with this name; waits for nothing.
    pub fn offer(&self, array: &str, record: &EventRecord) {
        if record.severity >= self.severity && !self.workers.is_empty() {
            let event = EventReport::new(array, record);
            self.workers.iter().for_each(|worker| worker.offer(&event));
        }
    }

    /// Sends a test event once by each way, and says how each did. Takes as long as they take.
    pub fn test(&self, array: &str) -> AlertTestReport {
        let kind = EventKind::Test;
        let event = EventReport::new(
            array,
            &EventRecord {
                sequence: 0,
                time_millis: clock::millis(),
                severity: kind.severity(),
                kind,
                member: None,
                text: "this is a test: alerts arrive".to_string(),
            },
        );
        let result = |worker: &Worker| AlertResult {
            channel: worker.name(),
            error: worker.test(&event).err(),
        };
        AlertTestReport {
            results: self.workers.iter().map(result).collect(),
        }
    }

    /// What became of alerts so far.
    pub fn counts(&self) -> Vec<AlertCount> {
        let count = |worker: &Worker| {
            let count = worker.count();
            AlertCount {
                channel: worker.name(),
                sent: count.sent.load(Ordering::Relaxed),
                failed: count.failed.load(Ordering::Relaxed),
                left_out: count.left_out.load(Ordering::Relaxed),
            }
        };
        self.workers.iter().map(count).collect()
    }
}
