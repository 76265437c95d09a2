//! The ways an alert can go: to a program, to a web server, by mail. Each try takes so long at most.

use crate::control::wire::EventReport;
use crate::server::program;
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

/// How long one try may take.
pub const TRY_MAX: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Serialize)]
pub struct Alert<'a> {
    /// The event.
    #[serde(flatten)]
    pub event: &'a EventReport,
    /// Name of the host.
    pub host: String,
    /// Alerts that went lost on this way since the last one that arrived.
    pub left_out: u64,
}

impl Alert<'_> {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data becomes JSON")
    }

    fn mail(&self, address: &str) -> String {
        let EventReport {
            array,
            severity,
            kind,
            time,
            text,
            next,
            ..
        } = self.event;
        let mut mail = format!(
            "To: {address}\nSubject: uraid on {}: {array}: {severity}: {kind}\n\
             Content-Type: text/plain; charset=utf-8\n\n{text}\n\nat {time}\n",
            self.host
        );
        if let Some(next) = next {
            mail += &format!("next: {next}\n");
        }
        if self.left_out > 0 {
            mail += &format!("{} alerts before this one were left out\n", self.left_out);
        }
        mail
    }
}

/// One way.
pub enum Channel {
    /// A program that reads a line of JSON from its standard input.
    Exec(PathBuf),
    /// An address that JSON is posted to.
    Webhook(String, Agent),
    /// A mail address, and a program that takes mails as `sendmail -t` does.
    Mail(String, PathBuf),
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Channel::Exec(path) => write!(f, "exec {}", path.display()),
            Channel::Webhook(url, _) => write!(f, "webhook {url}"),
            Channel::Mail(address, _) => write!(f, "mail {address}"),
        }
    }
}

impl Channel {
    /// The way to a web server.
    pub fn webhook(url: String) -> Channel {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder()
            .timeout_global(Some(TRY_MAX))
            .max_redirects(0)
            .tls_config(tls);
        Channel::Webhook(url, config.build().new_agent())
    }

    /// Tries once. The error says why it did not arrive.
    pub fn send(&self, alert: &Alert) -> Result<(), String> {
        match self {
            Channel::Exec(path) => feed(Command::new(path), &(alert.json() + "\n")),
            Channel::Mail(address, program) => {
                let mut command = Command::new(program);
                command.arg("-t");
                feed(command, &alert.mail(address))
            }
            Channel::Webhook(url, agent) => {
                let request = agent.post(url).content_type("application/json");
                let sent = request.send(alert.json());
                sent.map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

/// Runs a program with this input; it has to end well, and in time.
fn feed(mut command: Command, input: &str) -> Result<(), String> {
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let child = program::start(command.stderr(Stdio::null()));
    let mut child = child.map_err(|error| format!("cannot be started: {error}"))?;
    let mut stdin = child.stdin.take().expect("piped");
    // What is sent fits in a pipe; a program that does not read it may still end well.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    match program::wait(&mut child, TRY_MAX) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("ended with {status}")),
        Ok(None) => Err(format!("took longer than {} s", TRY_MAX.as_secs())),
        Err(error) => Err(error.to_string()),
    }
}
