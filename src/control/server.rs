//! The server's end of the control socket, on a thread of its own.

use super::Operator;
use super::wire::{
    AlertTestReport, DRY_RUN, DoneBody, ErrorBody, EventsReport, Order, StatusReport, TrendReport,
};
use crate::failure::{Doing, Exit, Failure};
use crate::server::log;
use crate::server::metrics::{self, Seen, render};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use nix::unistd::Uid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::future::IntoFuture;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::unix::{SocketAddr, UCred};
use tokio::net::{UnixListener as TokioListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use uraid_engine::api::Mode;

/// Most requests worked on at once; more wait.
const REQUESTS_AT_ONCE_MAX: usize = 16;

/// Most bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 << 10;

/// How long to wait after the kernel would not give us a connection (no descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// How long answers may take to leave once the server ends.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// A control plane in service; ends when dropped, after the requests at hand are answered.
pub struct ControlServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl ControlServer {
    /// Serves `listener` until dropped. `operator` does the work.
    pub fn start(
        listener: UnixListener,
        operator: Arc<dyn Operator>,
    ) -> Result<ControlServer, Failure> {
        let what = || "start the control socket".to_string();
        listener.set_nonblocking(true).doing(what)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing(what)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("uraid-control".to_string())
            .spawn(move || {
                runtime.block_on(serve(listener, operator, stopped));
                runtime.shutdown_timeout(GOODBYE_MAX);
            })
            .doing(what)?;
        Ok(ControlServer {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the control thread does not panic");
        }
    }
}

async fn serve(
    listener: UnixListener,
    operator: Arc<dyn Operator>,
    stopped: oneshot::Receiver<()>,
) {
    let listener = TokioListener::from_std(listener).expect("a bound, non-blocking socket");
    let owner_only = OwnerOnly {
        listener,
        owner: Uid::effective(),
    };
    let (begin_goodbye, goodbye) = oneshot::channel::<()>();
    let service = axum::serve(owner_only, router(operator))
        .with_graceful_shutdown(async { goodbye.await.unwrap_or(()) });
    let service = tokio::spawn(service.into_future());
    // The sender says nothing; it goes when the server is dropped.
    let _ = stopped.await;
    drop(begin_goodbye);
    // Whoever connected and never asked anything is not waited for.
    let _ = tokio::time::timeout(GOODBYE_MAX, service).await;
}

/// Accepts connections of the server's owner and of root; others are closed at once.
struct OwnerOnly {
    listener: TokioListener,
    owner: Uid,
}

impl axum::serve::Listener for OwnerOnly {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if may_connect(self.owner, &peer) => return (stream, address),
                    _ => log::warning("the control socket turned another user away"),
                },
                Err(error) => {
                    log::warning(&format!("the control socket cannot accept: {error}"));
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn may_connect(owner: Uid, peer: &UCred) -> bool {
    peer.uid() == owner.as_raw() || peer.uid() == 0
}

#[derive(Clone)]
struct Desk {
    operator: Arc<dyn Operator>,
    turns: Arc<Semaphore>,
}

impl Desk {
    /// Runs blocking `work` in its turn, off the thread that serves the sockets.
    async fn ask<T: Send + 'static>(
        self,
        work: impl FnOnce(&dyn Operator) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let _turn = self
            .turns
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let answer = tokio::task::spawn_blocking(move || work(&*self.operator));
        answer.await.expect("an operator does not panic")
    }
}

fn router(operator: Arc<dyn Operator>) -> Router {
    let desk = Desk {
        operator,
        turns: Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX)),
    };
    let upgrade = post(|desk, body| carry_out(desk, body, Mode::Earnest, Order::Upgrade));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/trend", get(trend))
        .route("/v1/alert/test", post(test_alerts))
        .route("/metrics", get(metrics))
        .route("/v1/upgrade", upgrade)
        .nest("/v1", orders(Mode::Earnest))
        // A place of its own: a server that knows nothing of dry runs must not take one for earnest.
        .nest(DRY_RUN, orders(Mode::DryRun))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is no such resource") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "status is a GET, the rest are POST",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(desk)
}

/// All orders that can be tried.
fn orders(mode: Mode) -> Router<Desk> {
    Router::new()
        .route(
            "/fail",
            post(move |desk, body| carry_out(desk, body, mode, Order::Fail)),
        )
        .route(
            "/remove",
            post(move |desk, body| carry_out(desk, body, mode, Order::Remove)),
        )
        .route(
            "/remove-copy",
            post(move |desk, body| carry_out(desk, body, mode, Order::RemoveCopy)),
        )
        .route(
            "/add",
            post(move |desk, body| carry_out(desk, body, mode, Order::Add)),
        )
        .route(
            "/replace",
            post(move |desk, body| carry_out(desk, body, mode, Order::Replace)),
        )
        .route(
            "/clear",
            post(move |desk, body| carry_out(desk, body, mode, Order::Clear)),
        )
        .route(
            "/set",
            post(move |desk, body| carry_out(desk, body, mode, Order::Set)),
        )
        .route(
            "/scrub/start",
            post(move |desk, body| carry_out(desk, body, mode, Order::ScrubStart)),
        )
        .route(
            "/scrub/pause",
            post(move |desk, body| carry_out(desk, body, mode, Order::ScrubPause)),
        )
        .route(
            "/scrub/resume",
            post(move |desk, body| carry_out(desk, body, mode, Order::ScrubResume)),
        )
        .route(
            "/scrub/stop",
            post(move |desk, body| carry_out(desk, body, mode, Order::ScrubStop)),
        )
        .route(
            "/stop",
            post(move |desk, body| carry_out(desk, body, mode, Order::Stop)),
        )
}

async fn status(State(desk): State<Desk>) -> Result<Json<StatusReport>, Failure> {
    desk.ask(|operator| operator.status()).await.map(Json)
}

/// What is wanted of the events.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    from: u64,
    max: Option<usize>,
}

async fn events(
    State(desk): State<Desk>,
    Query(query): Query<EventsQuery>,
) -> Result<Json<EventsReport>, Failure> {
    let max = query.max.unwrap_or(usize::MAX);
    let events = desk.ask(move |operator| operator.events(query.from, max));
    events.await.map(Json)
}

/// Which samples are wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrendQuery {
    #[serde(default)]
    from: u64,
}

async fn trend(
    State(desk): State<Desk>,
    Query(query): Query<TrendQuery>,
) -> Result<Json<TrendReport>, Failure> {
    let trend = desk.ask(move |operator| operator.trend(query.from));
    trend.await.map(Json)
}

async fn test_alerts(State(desk): State<Desk>) -> Result<Json<AlertTestReport>, Failure> {
    desk.ask(|operator| operator.test_alerts()).await.map(Json)
}

async fn metrics(State(desk): State<Desk>) -> Result<impl IntoResponse, Failure> {
    let status = desk.ask(|operator| operator.status()).await?;
    let name = status.name.clone();
    let status = Some(status);
    let page = render(vec![Seen { name, status }], Vec::new());
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page))
}

async fn carry_out<B: DeserializeOwned + Send + 'static>(
    State(desk): State<Desk>,
    body: Result<Json<B>, JsonRejection>,
    mode: Mode,
    order: fn(B) -> Order,
) -> Result<Json<DoneBody>, Response> {
    let Json(body) = body.map_err(|e| Refusal::new(e.status(), &e.body_text()).into_response())?;
    let done = desk
        .ask(move |operator| operator.carry_out(order(body), mode))
        .await;
    done.map(|message| Json(DoneBody { message }))
        .map_err(IntoResponse::into_response)
}

/// A request that never reached the operator.
struct Refusal(StatusCode, String);

impl Refusal {
    fn new(status: StatusCode, why: &str) -> Refusal {
        Refusal(status, why.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: self.1,
            exit_code: Exit::Usage.code(),
        };
        (self.0, Json(body)).into_response()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.exit {
            Exit::Usage => StatusCode::BAD_REQUEST,
            Exit::Refused => StatusCode::CONFLICT,
            Exit::Failed | Exit::Degraded => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = ErrorBody {
            error: self.message,
            exit_code: self.exit.code(),
        };
        (status, Json(body)).into_response()
    }
}
