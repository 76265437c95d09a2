//! What onlookers see: metrics for Prometheus and whoever reads OpenMetrics, and the page for people
//! ([`super::page`]). A small HTTP server on a thread of its own, beside everything that serves
//! clients; it gives, and takes nothing. Data threads are asked for their status as by any operator,
//! once a second at most, however many ask here.

mod encode;
mod families;
mod service;
mod visit;

pub use encode::{CONTENT_TYPE, Seen, render};

use super::alert::Alerts;
use super::operator::{Served, ask_all};
use super::page;
use super::sockets::MetricsListener;
use crate::control::wire::{
    Advice, ArrayOverview, ArrayTrend, OverviewReport, StatusReport, TrendsReport,
};
use crate::failure::{Doing, Failure};
use axum::extract::State;
use axum::http::header;
use axum::middleware::from_fn;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use nix::unistd::gethostname;
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

/// Most events of each array on the page.
const EVENTS_MAX: usize = 20;

/// What there is to be seen.
pub struct Shown {
    /// The arrays.
    pub arrays: Vec<Arc<Served>>,
    /// Where alerts about them go.
    pub alerts: Alerts,
    /// Puts a status into words.
    pub advise: fn(&StatusReport) -> Advice,
    /// The page is given under any name of this host, not only under its addresses.
    pub any_host: bool,
}

/// The endpoint in service; ends when dropped.
pub struct MetricsServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    /// Removes the socket's file.
    _listener: Option<super::sockets::SocketFile>,
}

impl MetricsServer {
    /// Shows it at `listener` until dropped.
    pub fn start(listener: MetricsListener, shown: Shown) -> Result<MetricsServer, Failure> {
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
            shown,
            looked: Mutex::default(),
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
    let mut page = Router::new()
        .route("/", get(page::page))
        .route("/overview", get(overview))
        .route("/trends", get(trends));
    if !exporter.shown.any_host {
        page = page.layer(from_fn(page::only_by_address));
    }
    let router = Router::new()
        .route("/metrics", get(metrics))
        .merge(page)
        .with_state(exporter);
    // It ends with the runtime: nobody is owed an answer.
    drop(tokio::spawn(axum::serve(door, router).into_future()));
    let _ = stopped.await;
}

async fn metrics(State(exporter): State<Arc<Exporter>>) -> impl IntoResponse {
    let page = off_thread(move || render(exporter.look(), exporter.shown.alerts.counts()));
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page.await)
}

async fn overview(State(exporter): State<Arc<Exporter>>) -> impl IntoResponse {
    (
        page::HEADERS,
        Json(off_thread(move || exporter.overview()).await),
    )
}

async fn trends(State(exporter): State<Arc<Exporter>>) -> impl IntoResponse {
    let arrays = exporter.shown.arrays.iter().map(|array| ArrayTrend {
        name: array.name.clone(),
        samples: array.trend.of_clients(),
    });
    let arrays = arrays.collect();
    (page::HEADERS, Json(TrendsReport { arrays }))
}

/// What waits for data threads must not keep those who ask for nothing of them.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("the exporter does not panic")
}

/// What is asked, and what it said last.
struct Exporter {
    shown: Shown,
    looked: Mutex<Option<(Instant, Vec<Seen>)>>,
}

impl Exporter {
    /// All arrays, as they were [`AGE_MAX`] ago at most.
    fn look(&self) -> Vec<Seen> {
        let mut looked = self.looked.lock().expect("no holder panics");
        if let Some((at, seen)) = &*looked
            && at.elapsed() < AGE_MAX
        {
            return seen.clone();
        }
        let seen = self.ask();
        *looked = Some((Instant::now(), seen.clone()));
        seen
    }

    /// Asks all arrays at once.
    fn ask(&self) -> Vec<Seen> {
        let arrays = &self.shown.arrays;
        let statuses = ask_all(arrays.iter().map(|array| &array.mailbox), ANSWER_MAX);
        let seen = arrays.iter().zip(statuses).map(|(array, status)| Seen {
            name: array.name.clone(),
            status: status.map(|status| array.complete(status)),
        });
        seen.collect()
    }

    fn overview(&self) -> OverviewReport {
        let seen = self.look().into_iter().zip(&self.shown.arrays);
        let arrays = seen.map(|(seen, array)| ArrayOverview {
            name: seen.name,
            advice: seen.status.as_ref().map(self.shown.advise),
            status: seen.status,
            events: array.events_from(0, EVENTS_MAX),
        });
        let host = gethostname().ok().and_then(|name| name.into_string().ok());
        OverviewReport {
            host: host.unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            arrays: arrays.collect(),
        }
    }
}
