//! Which server a command talks to.

use super::args::ServerArgs;
use super::output::{Output, table};
use crate::control::client::Client;
use crate::control::paths::{CONTROL_SUFFIX, control_path, socket_directory};
use crate::control::wire::StatusReport;
use crate::failure::Failure;
use crate::sizes::show_size;
use serde::Serialize;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The server that was named, or the only one that runs.
pub fn resolve(args: &ServerArgs) -> Result<Client, Failure> {
    if let Some(path) = &args.control {
        return Ok(Client::new(path));
    }
    if let Some(name) = &args.name {
        return Ok(Client::new(control_path(name)));
    }
    let directory = socket_directory();
    only_one(running(&directory), &directory)
}

/// The server that was named, or all that run.
pub fn resolve_all(args: &ServerArgs) -> Result<Vec<Client>, Failure> {
    let directory = socket_directory();
    let sockets = running(&directory);
    if args.control.is_some() || args.name.is_some() || sockets.is_empty() {
        return resolve(args).map(|client| vec![client]);
    }
    Ok(sockets.into_iter().map(Client::new).collect())
}

/// The name of the array behind a control socket, as far as the socket's own tells it.
pub fn name_of(client: &Client) -> String {
    array_name(client.path())
}

fn only_one(mut sockets: Vec<PathBuf>, directory: &Path) -> Result<Client, Failure> {
    if sockets.len() > 1 {
        let names: Vec<_> = sockets.iter().map(|path| array_name(path)).collect();
        let names = names.join(", ");
        return Err(Failure::usage(format!(
            "several arrays are served ({names}); say --name"
        )));
    }
    sockets.pop().map(Client::new).ok_or_else(|| {
        Failure::failed(format!(
            "no server has its control socket in {}; start one with `uraid serve`, or name its \
             socket with --control",
            directory.display()
        ))
    })
}

/// Control sockets in `directory` with somebody behind them, in order of names.
fn running(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sockets: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(CONTROL_SUFFIX) && is_alive(path))
        .collect();
    sockets.sort();
    sockets
}

/// A socket whose server was killed refuses connections.
fn is_alive(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        ),
    }
}

fn array_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.strip_suffix(CONTROL_SUFFIX)
        .unwrap_or(&file)
        .to_string()
}

/// The status of every server in the default directory that answers.
pub fn all() -> Vec<StatusReport> {
    let sockets = running(&socket_directory());
    let answers = sockets.iter().map(|path| Client::new(path).status());
    answers.filter_map(Result::ok).collect()
}

/// `uraid list`.
pub fn list(output: Output) -> Result<(), Failure> {
    let servers: Vec<Listed> = running(&socket_directory())
        .iter()
        .map(|p| Listed::ask(p))
        .collect();
    output.result(&list_text(&servers), &List { servers: &servers })
}

#[derive(Serialize)]
struct List<'a> {
    servers: &'a [Listed],
}

/// A server in the list.
#[derive(Serialize)]
struct Listed {
    name: String,
    control: String,
    /// None if it does not answer; then `error` says why.
    status: Option<StatusReport>,
    error: Option<String>,
}

impl Listed {
    fn ask(path: &Path) -> Listed {
        let (status, error) = match Client::new(path).status() {
            Ok(status) => (Some(status), None),
            Err(failure) => (None, Some(failure.message)),
        };
        let control = path.display().to_string();
        Listed {
            name: array_name(path),
            control,
            status,
            error,
        }
    }

    fn row(&self) -> Vec<String> {
        match &self.status {
            Some(status) => vec![
                status.name.clone(),
                status.state.clone(),
                status.level.clone(),
                show_size(status.size_bytes),
                status.uris.join(" "),
            ],
            None => {
                let why = self.error.clone().unwrap_or_default();
                vec![
                    self.name.clone(),
                    "no answer".into(),
                    "-".into(),
                    "-".into(),
                    why,
                ]
            }
        }
    }
}

fn list_text(servers: &[Listed]) -> String {
    if servers.is_empty() {
        return "no array is being served".to_string();
    }
    let rows: Vec<_> = servers.iter().map(Listed::row).collect();
    table(&["name", "state", "level", "size", "where"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_live_control_sockets_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("notes.txt"), "").unwrap();
        let _nbd = UnixListener::bind(path("a.nbd")).unwrap();
        drop(UnixListener::bind(path("killed.control")).unwrap());
        assert!(running(directory.path()).is_empty());
        let failure = only_one(running(directory.path()), directory.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);

        let _a = UnixListener::bind(path("a.control")).unwrap();
        let client = only_one(running(directory.path()), directory.path()).unwrap();
        assert_eq!(client.path(), path("a.control"));

        let _b = UnixListener::bind(path("b.control")).unwrap();
        let failure = only_one(running(directory.path()), directory.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("a, b"), "{failure}");
    }

    #[test]
    fn a_list_shows_who_does_not_answer() {
        let servers = [Listed {
            name: "a".to_string(),
            control: "/run/a.control".to_string(),
            status: None,
            error: Some("timed out".to_string()),
        }];
        let text = list_text(&servers);
        assert!(
            text.contains("no answer") && text.contains("timed out"),
            "{text}"
        );
    }
}
