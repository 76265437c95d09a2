//! A directory of its own for each test, and `uraid` run inside it.

use super::server::Server;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program under test.
pub const URAID: &str = env!("CARGO_BIN_EXE_uraid");

/// Variables that say where a program keeps its things.
const HOMES: [&str; 6] = [
    "HOME",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
];

/// Lays the sandbox, the current directory, over the places where root's servers keep witnesses
/// and sockets.
const BIND_SYSTEM_DIRECTORIES: &str = "
for place in /var/lib/uraid /run/uraid; do
    mkdir -p \"$place\" \"$PWD/system$place\"
    mount --bind \"$PWD/system$place\" \"$place\"
done";

/// A command that takes longer than this hangs.
const COMMAND_SECONDS_MAX: &str = "120";

/// A temporary directory, removed at the end, that also serves as the home, the run-time and the
/// state directory of everything started in it: tests meet neither each other's servers nor
/// those of the user.
pub struct Sandbox {
    dir: tempfile::TempDir,
    elsewhere: bool,
}

/// A finished command.
pub struct Ran {
    what: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Sandbox {
    pub fn new() -> Sandbox {
        let dir = tempfile::Builder::new().prefix("uraid-").tempdir();
        Sandbox {
            dir: dir.expect("temporary directory"),
            elsewhere: false,
        }
    }

    /// Like another host: also what root's servers keep in system directories is not shared with
    /// other sandboxes. (Not the default: a mount namespace holds on to others' mounts.)
    pub fn elsewhere() -> Sandbox {
        Sandbox {
            elsewhere: true,
            ..Sandbox::new()
        }
    }

    /// Leaves the directory behind: evidence of a failure that may not come again.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir().to_owned()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Paths `m0` .. of `count` members; no files yet.
    pub fn members(&self, count: usize) -> Vec<PathBuf> {
        (0..count).map(|i| self.path(format!("m{i}"))).collect()
    }

    /// A sparse file of that size.
    pub fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path)
            .and_then(|f| f.set_len(bytes))
            .expect("sparse file");
        path
    }

    /// Prepares `program` to run with this sandbox as its home.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir());
        for variable in HOMES {
            command.env(variable, self.dir());
        }
        command
    }

    /// Prepares `uraid` to run here.
    pub fn uraid_command(&self) -> Command {
        if !(self.elsewhere && super::tools::is_root()) {
            return self.command(URAID);
        }
        let mut command = self.command("unshare");
        let script = format!("{BIND_SYSTEM_DIRECTORIES}\nexec \"$0\" \"$@\"");
        command.args(["--mount", "sh", "-e", "-c", &script, URAID]);
        command
    }

    /// Runs `program` to its end; a hang is cut off and shows as exit code 124.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Ran {
        let mut command = self.command(program);
        command.args(args);
        run_to_end(command)
    }

    /// Runs `uraid` with these arguments.
    pub fn uraid<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        let mut command = self.uraid_command();
        command.args(args);
        run_to_end(command)
    }

    /// Creates an array; `options` are what stands before the members on the command line.
    pub fn create(&self, options: &str, members: &[PathBuf]) {
        self.try_create(options, members).succeeded();
    }

    /// Tries to create an array.
    pub fn try_create(&self, options: &str, members: &[PathBuf]) -> Ran {
        let words = options.split_whitespace().map(OsStr::new);
        self.uraid(
            ["create"]
                .map(OsStr::new)
                .into_iter()
                .chain(words)
                .chain(as_args(members)),
        )
    }

    /// Serves an array from these members until the value is dropped.
    pub fn serve(&self, members: &[PathBuf]) -> Server {
        self.serve_with("", members)
    }

    /// Serves with further options.
    pub fn serve_with(&self, options: &str, members: &[PathBuf]) -> Server {
        match Server::start(self, options, members) {
            Ok(server) => server,
            Err(ran) => panic!("the server did not start: {ran}"),
        }
    }

    /// Expects that serving these members is refused, and returns how.
    pub fn serve_refused(&self, options: &str, members: &[PathBuf]) -> Ran {
        match Server::start(self, options, members) {
            Ok(mut server) => {
                server.show_log();
                panic!("the server started although it should not");
            }
            Err(ran) => ran,
        }
    }

    /// Copies members under new names, holes kept; the copies can be served on their own.
    pub fn copies(&self, prefix: &str, members: &[PathBuf]) -> Vec<PathBuf> {
        let copy = |member: &PathBuf| {
            let name = member.file_name().expect("a file name").to_string_lossy();
            let to = self.path(format!("{prefix}{name}"));
            let args = [
                OsStr::new("--sparse=always"),
                member.as_os_str(),
                to.as_os_str(),
            ];
            self.run("cp", args).succeeded();
            to
        };
        members.iter().map(copy).collect()
    }

    /// What `uraid examine --json` says about one member: its superblock, with its own slot.
    pub fn examine(&self, member: &Path) -> Value {
        let args = [
            OsStr::new("examine"),
            OsStr::new("--json"),
            member.as_os_str(),
        ];
        let mut superblock = self.uraid(args).succeeded().json()["members"][0]["superblock"].take();
        let entries = superblock["members"].as_array().expect("a member table");
        let own = entries
            .iter()
            .find(|e| e["self"] == true)
            .expect("the member's own entry");
        superblock["slot"] = own["slot"].clone();
        superblock
    }
}

/// The command as a person would type it, without the mount namespace around it.
pub fn spoken(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    let from = words.iter().position(|word| word == URAID).unwrap_or(0);
    words[from..].join(" ")
}

/// Runs a command to its end, or until it has taken far too long.
fn run_to_end(command: Command) -> Ran {
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=5", COMMAND_SECONDS_MAX]);
    limited.arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    limited.current_dir(
        command
            .get_current_dir()
            .expect("commands run in a sandbox"),
    );
    let output = limited
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let what = spoken(&command);
    Ran::new(what, output)
}

/// A sandbox with a stopped array of three members of 64 MiB.
pub fn raid5() -> (Sandbox, Vec<PathBuf>) {
    let sandbox = Sandbox::new();
    let members = sandbox.members(3);
    sandbox.create("--level raid5 --size 64M", &members);
    (sandbox, members)
}

/// Content of all files: proof that nothing on disk has changed.
pub fn contents(members: &[PathBuf]) -> Vec<Vec<u8>> {
    let read = |member| std::fs::read(member).expect("read the member");
    members.iter().map(read).collect()
}

/// Paths as command line arguments.
pub fn as_args(paths: &[PathBuf]) -> impl Iterator<Item = &OsStr> {
    paths.iter().map(|p| p.as_os_str())
}

impl Ran {
    pub fn new(what: String, output: Output) -> Ran {
        use std::os::unix::process::ExitStatusExt;
        let signal = output.status.signal().map(|s| -s);
        Ran {
            what,
            code: output
                .status
                .code()
                .or(signal)
                .expect("an exit code or a signal"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Panics, with all there is to see, unless the command succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Ran {
        self.exits(0)
    }

    /// Panics unless the command ended with this exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert!(self.code == code, "expected exit code {code}: {self}");
        self
    }

    /// Panics unless standard error contains one of the alternatives, in any case: an error must
    /// say what is wrong, in words a person would look for.
    #[track_caller]
    pub fn says(self, alternatives: &[&str]) -> Ran {
        let text = self.stderr.to_lowercase();
        let said = alternatives
            .iter()
            .any(|a| text.contains(&a.to_lowercase()));
        assert!(
            said,
            "expected one of {alternatives:?} on standard error: {self}"
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nexit code {}", self.what, self.code)?;
        write!(
            f,
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        )
    }
}
