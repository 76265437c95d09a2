//! Metrics for Prometheus and whoever reads OpenMetrics: a small HTTP server on a thread of its own,
//! beside everything that serves clients. Data threads are asked for their status as by any
//! operator, once a second at most, however many ask here.

mod encode;
mod families;
mod visit;

pub use encode::{CONTENT_TYPE, Seen, render};

use super::alert::Alerts;
use super::operator::Mailbox;
use super::sockets::MetricsListener;
use crate::failure::{Doing, Failure};
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use visit::Door;

/// How old what is shown may be: many that look at once cost an array no more than one.
const AGE_MAX: Duration = Duration::from_secs(1);

/// How long all arrays together may take to say how they are; who has not by then is shown as down.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Stack of each of the two threads: all of it is locked in memory, where memory is.
const STACK_BYTES: usize = 512 << 10;

/// How long answers under way may take once the server ends.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

/// The endpoint in service; ends when dropped.
pub struct MetricsServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    /// Removes the socket's file.
    _listener: Option<super::sockets::SocketFile>,
}

impl MetricsServer {
    /// Serves the metrics of these arrays at `listener` until dropped.
    pub fn start(
        listener: MetricsListener,
        arrays: Vec<(String, Mailbox)>,
        alerts: Alerts,
    ) -> Result<MetricsServer, Failure> {
        let what = || "start the metrics endpoint".to_string();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .thread_stack_size(STACK_BYTES)
            .build()
            .doing(what)?;
        let door = {
            let _inside = runtime.enter();
            Door::open(listener.fd, listener.is_unix).doing(what)?
        };
        let (stop, stopped) = oneshot::channel();
        let exporter = Arc::new(Exporter {
            arrays,
            alerts,
            shown: Mutex::default(),
        });
        let thread = thread::Builder::new()
            .name("uraid-metrics".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                runtime.block_on(serve(door, exporter, stopped));
                runtime.shutdown_timeout(GOODBYE_MAX);
            })
            .doing(what)?;
        Ok(MetricsServer {
            stop: Some(stop),
            thread: Some(thread),
            _listener: listener.file,
        })
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the metrics thread does not panic");
        }
    }
}

async fn serve(door: Door, exporter: Arc<Exporter>, stopped: oneshot::Receiver<()>) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(exporter);
    // It ends with the runtime: nobody is owed an answer.
    drop(tokio::spawn(axum::serve(door, router).into_future()));
    let _ = stopped.await;
}

async fn metrics(State(exporter): State<Arc<Exporter>>) -> impl IntoResponse {
    let page = tokio::task::spawn_blocking(move || exporter.page()).await;
    let page = page.expect("the exporter does not panic");
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page)
}

/// What is asked, and what it said last.
struct Exporter {
    arrays: Vec<(String, Mailbox)>,
    alerts: Alerts,
    shown: Mutex<Option<(Instant, String)>>,
}

impl Exporter {
    /// The page, at most [`AGE_MAX`] old.
    fn page(&self) -> String {
        let mut shown = self.shown.lock().expect("no holder panics");
        if let Some((at, page)) = &*shown
            && at.elapsed() < AGE_MAX
        {
            return page.clone();
        }
        let page = render(self.look(), self.alerts.counts());
        *shown = Some((Instant::now(), page.clone()));
        page
    }

    /// Asks all arrays at once.
    fn look(&self) -> Vec<Seen> {
        let deadline = Instant::now() + ANSWER_MAX;
        let asked = self.arrays.iter().map(|(name, mailbox)| {
            let answer = mailbox.ask_status();
            (name.clone(), answer)
        });
        let asked: Vec<_> = asked.collect();
        let seen = |(name, answer): (String, _)| {
            let left = deadline.saturating_duration_since(Instant::now());
            let status: Option<Result<_, _>> = Result::ok(answer)
                .and_then(|answer: std::sync::mpsc::Receiver<_>| answer.recv_timeout(left).ok());
            let status = status.and_then(Result::ok);
            Seen { name, status }
        };
        asked.into_iter().map(seen).collect()
    }
}
