//! The command's end of the control socket: one request, one connection.

use super::wire::{
    AlertTestReport, DRY_RUN, DoneBody, ErrorBody, EventReport, EventsReport, Order, StatusReport,
    TrendReport,
};
use crate::failure::{Doing, Exit, Failure};
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uraid_engine::api::Mode;

/// How long a server may take: `fail` waits for flushes of slow members, `stop` for a checkpoint.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Most bytes of an answer: a status of some hundred members has a tenth of it.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Headers of an answer we are ready for; axum sends three.
const HEADERS_MAX: usize = 32;

/// A server's control socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// The server whose control socket is at `path`; nothing is sent yet.
    pub fn new(path: impl Into<PathBuf>) -> Client {
        Client { path: path.into() }
    }

    /// Where the control socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks how the array is.
    pub fn status(&self) -> Result<StatusReport, Failure> {
        self.exchange("GET", "/v1/status", "")
    }

    /// Events from this number on, oldest first; the last `max` of them.
    pub fn events(&self, from: u64, max: usize) -> Result<Vec<EventReport>, Failure> {
        let path = format!("/v1/events?from={from}&max={max}");
        let report: EventsReport = self.exchange("GET", &path, "")?;
        Ok(report.events)
    }

    /// Throughput and latency of the last hour, from this sample on.
    pub fn trend(&self, from: u64) -> Result<TrendReport, Failure> {
        self.exchange("GET", &format!("/v1/trend?from={from}"), "")
    }

    /// Has a test sent by each way that alerts go; says how each did.
    pub fn test_alerts(&self) -> Result<AlertTestReport, Failure> {
        self.exchange("POST", "/v1/alert/test", "{}")
    }

    /// Has `order` carried out; the text says what was done. A dry run says what would be, or
    /// fails as that would.
    pub fn carry_out(&self, order: &Order, mode: Mode) -> Result<String, Failure> {
        let (path, body) = order.to_request();
        let path = match mode {
            Mode::Earnest => path.to_string(),
            Mode::DryRun => path.replacen("/v1", DRY_RUN, 1),
        };
        self.exchange::<DoneBody>("POST", &path, &body)
            .map(|done| done.message)
    }

    fn exchange<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<T, Failure> {
        let mut stream = self.connect()?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: uraid\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let what = || format!("talk to the server at {}", self.path.display());
        stream.write_all(request.as_bytes()).doing(what)?;
        let mut answer = Vec::new();
        stream
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut answer)
            .doing(what)?;
        parse_answer(&answer).doing(what)?
    }

    fn connect(&self) -> Result<UnixStream, Failure> {
        let stream = UnixStream::connect(&self.path).map_err(|error| {
            Failure::failed(format!(
                "no server answers at {}: {error}; `uraid list` shows the running ones",
                self.path.display()
            ))
        })?;
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)))
            .doing(|| "set a timeout".to_string())?;
        Ok(stream)
    }
}

/// The outer error is an answer that makes no sense, the inner one what the server said.
fn parse_answer<T: DeserializeOwned>(answer: &[u8]) -> Result<Result<T, Failure>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response
        .parse(answer)
        .map_err(|e| format!("its answer is not HTTP ({e})"))?;
    let httparse::Status::Complete(head_len) = parsed else {
        return Err("it closed the connection before it answered".to_string());
    };
    let body = &answer[head_len..];
    if response.code == Some(200) {
        return serde_json::from_slice(body)
            .map(Ok)
            .map_err(|e| format!("its answer is not the expected JSON ({e})"));
    }
    let error: ErrorBody = serde_json::from_slice(body).map_err(|_| {
        format!(
            "it answered with HTTP status {}",
            response.code.unwrap_or(0)
        )
    })?;
    Ok(Err(Failure {
        exit: Exit::from_code(error.exit_code),
        message: error.error,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Operator;
    use crate::control::server::ControlServer;
    use crate::control::wire::{EmptyBody, MemberBody, MemberReference, samples};
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    /// Remembers the orders and refuses to fail slot 0.
    #[derive(Default)]
    struct FakeArray {
        orders: Mutex<Vec<(Order, Mode)>>,
    }

    impl Operator for FakeArray {
        fn status(&self) -> Result<StatusReport, Failure> {
            Ok(samples::rebuilding())
        }

        fn events(&self, _from: u64, _max: usize) -> Result<EventsReport, Failure> {
            Ok(EventsReport::default())
        }

        fn trend(&self, _from: u64) -> Result<TrendReport, Failure> {
            Err(Failure::failed("it is too young"))
        }

        fn test_alerts(&self) -> Result<AlertTestReport, Failure> {
            Ok(AlertTestReport::default())
        }

        fn carry_out(&self, order: Order, mode: Mode) -> Result<String, Failure> {
            self.orders.lock().unwrap().push((order.clone(), mode));
            match order {
                Order::Fail(body) if body.member == MemberReference::Slot(0) => {
                    Err(Failure::refused("member 0 is the last one"))
                }
                Order::Stop(_) => Err(Failure::failed("it hangs")),
                other => Ok(format!("did {}", other.to_request().0)),
            }
        }
    }

    struct Served {
        client: Client,
        array: Arc<FakeArray>,
        _server: ControlServer,
        _directory: tempfile::TempDir,
    }

    fn serve() -> Served {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let array = Arc::new(FakeArray::default());
        let listener = UnixListener::bind(&path).unwrap();
        let server = ControlServer::start(listener, array.clone()).unwrap();
        Served {
            client: Client::new(path),
            array,
            _server: server,
            _directory: directory,
        }
    }

    /// What a stranger's HTTP request gets: status line and body.
    fn raw(path: &Path, request: &str) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn fail(slot: u16) -> Order {
        Order::Fail(MemberBody {
            member: MemberReference::Slot(slot),
            force: true,
        })
    }

    #[test]
    fn status_and_orders_arrive_whole() {
        let served = serve();
        assert_eq!(served.client.status().unwrap(), samples::rebuilding());
        for mode in [Mode::Earnest, Mode::DryRun] {
            let did = served.client.carry_out(&fail(1), mode).unwrap();
            assert_eq!(did, "did /v1/fail");
        }
        let orders = served.array.orders.lock().unwrap();
        assert_eq!(*orders, [(fail(1), Mode::Earnest), (fail(1), Mode::DryRun)]);
    }

    #[test]
    fn failures_keep_their_words_and_exit_codes() {
        let served = serve();
        for mode in [Mode::Earnest, Mode::DryRun] {
            let refused = served.client.carry_out(&fail(0), mode).unwrap_err();
            assert_eq!(refused, Failure::refused("member 0 is the last one"));
        }
        let failed = served
            .client
            .carry_out(&Order::Stop(EmptyBody {}), Mode::Earnest)
            .unwrap_err();
        assert_eq!(failed, Failure::failed("it hangs"));
    }

    #[test]
    fn malformed_requests_get_an_error_and_reach_nobody() {
        let served = serve();
        let post = |path: &str, body: &str| {
            let length = body.len();
            raw(
                served.client.path(),
                &format!(
                    "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                     Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                ),
            )
        };
        for (answer, status) in [
            (post("/v1/fail", "{"), "400"),
            (post("/v1/fail", "{\"slot\": 1}"), "422"),
            (post("/v1/status", "{}"), "405"),
            (post("/v1/explode", "{}"), "404"),
            (post("/v1/dry-run/upgrade", "{}"), "404"),
            (post("/v1/fail", &" ".repeat(BODY_TOO_LARGE)), "413"),
        ] {
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
            assert!(answer.contains("\"exit_code\":2"), "{answer}");
        }
        assert!(served.array.orders.lock().unwrap().is_empty());
    }

    const BODY_TOO_LARGE: usize = (64 << 10) + 1;

    #[test]
    fn a_silent_client_does_not_keep_the_server() {
        let served = serve();
        let silent = UnixStream::connect(served.client.path()).unwrap();
        served.client.status().unwrap();
        drop(served);
        drop(silent);
    }

    #[test]
    fn no_server_is_a_failure_that_says_where() {
        let failure = Client::new("/nonexistent/control").status().unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.message.contains("/nonexistent/control"));
    }

    #[test]
    fn answers_that_make_no_sense_are_told_apart() {
        for (answer, words) in [
            ("", "closed the connection"),
            ("garbage\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 200 OK\r\n\r\n{}", "not the expected JSON"),
            ("HTTP/1.1 502 Bad\r\n\r\noops", "HTTP status 502"),
        ] {
            let error = parse_answer::<DoneBody>(answer.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{answer:?}: {error}");
        }
    }
}
