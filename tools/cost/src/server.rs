//! Servers that are measured: `uraid` over files in a directory, and nbdkit over one plain file.

use crate::counters::Counters;
use crate::layout::Layout;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use uraid_load::{Address, Clients, cpu_time};

/// A server that takes longer to start, or to settle, hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// An array whose counters stand still for so long has made its last checkpoint: it looks every
/// second, and makes one when there was nothing to do since the last look.
const SETTLED: Duration = Duration::from_millis(2300);
/// An array is at least so many times as large as all its journals.
const JOURNALS_IN_EXPORT_MIN: u64 = 4;
/// What `uraid status` ends with while the array lacks a member or is being rebuilt.
const NOT_WHOLE: i32 = 3;
/// Between looks at the counters.
const LOOK: Duration = Duration::from_millis(100);

/// Variables that say where `uraid` keeps its things: in the directory of the measurement.
const HOMES: [&str; 5] = [
    "HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
];

/// A program to be measured and the directory it works in.
pub struct Uraid<'a> {
    /// The program.
    pub binary: &'a Path,
    /// Where members and sockets are.
    pub dir: &'a Path,
}

/// Sizes of an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Chunk in bytes.
    pub chunk_bytes: u64,
    /// Size of the export in bytes.
    pub export_bytes: u64,
    /// Blocks of each member's journal, all lanes together.
    pub journal_blocks: u64,
    /// Rows for which a lane is checkpointed: a quarter of a re-log area.
    pub rows_per_checkpoint: u64,
}

impl Sizes {
    /// Bytes of all journals of the array.
    pub fn journals_bytes(&self, layout: &Layout) -> u64 {
        layout.members() * self.journal_blocks * 4096
    }

    /// Whether the array is so much larger than its journals that random writes are measured with
    /// what follows from them.
    ///
    /// # Errors
    /// What is too small.
    pub fn check(&self, layout: &Layout) -> Result<(), String> {
        let journals_bytes = self.journals_bytes(layout);
        if self.export_bytes >= JOURNALS_IN_EXPORT_MIN * journals_bytes {
            return Ok(());
        }
        Err(format!(
            "{}: an array of {} bytes is less than {JOURNALS_IN_EXPORT_MIN} times its journals \
             ({journals_bytes} bytes), so what goes in place would not be measured: make it larger",
            layout.name, self.export_bytes
        ))
    }
}

/// A running server with a connection to it. Dropping it kills it.
pub struct Server {
    child: Child,
    address: Address,
    /// The connection.
    pub clients: Clients,
    /// For `uraid` only: the command that tells its status.
    status: Option<Command>,
}

impl Uraid<'_> {
    /// Makes an array named `name` of sparse files of `member_bytes` each.
    ///
    /// # Errors
    /// What the program says.
    pub fn create(&self, name: &str, layout: &Layout, member_bytes: u64) -> Result<Sizes, String> {
        let mut create = self.command("create");
        create.args(["--level", layout.level, "--name", name]);
        create.args(["--size", &member_bytes.to_string()]);
        create.args(self.members(name, layout));
        run(&mut create)?;
        let mut examine = self.command("examine");
        examine.arg("--json").arg(&self.members(name, layout)[0]);
        let report = parse(&run(&mut examine)?)?;
        let superblock = &report["members"][0]["superblock"];
        let number = |value: &Value, what: &str| {
            let missing = || format!("uraid examine --json does not tell {what}");
            value[what].as_u64().ok_or_else(missing)
        };
        let zones = &superblock["zones"];
        let journal_bytes = number(zones, "relog")? - number(zones, "journal")?;
        let relogs_bytes = number(zones, "map")? - number(zones, "relog")?;
        let lanes = (number(zones, "journal")? - number(zones, "checkpoints")?) / (2 * 4096);
        Ok(Sizes {
            chunk_bytes: number(superblock, "chunk_bytes")?,
            export_bytes: number(superblock, "size_bytes")?,
            journal_blocks: journal_bytes / 4096,
            rows_per_checkpoint: relogs_bytes / 4096 / (2 * lanes) / 4,
        })
    }

    /// Serves the array `name`; `options` go to `uraid serve`.
    ///
    /// # Errors
    /// What the program says, with its log.
    pub fn serve(
        &self,
        name: &str,
        layout: &Layout,
        options: &[&str],
        seed: u64,
    ) -> Result<Server, String> {
        let place = |ending: &str| self.place(name, ending);
        let (socket, control, log) = (place("nbd"), place("control"), place("log"));
        let mut command = self.command("serve");
        // A read that is late on this machine would be made twice, and counted.
        command.args(["--hedge-percent", "0"]);
        command.arg("--control").arg(&control).args(options);
        command
            .arg("--listen")
            .arg(format!("unix:{}", socket.display()));
        command.args(self.members(name, layout));
        let stderr = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = spawn(&mut command)?;
        let mut ready = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut ready);
        if read.is_err() || !ready.starts_with("ready ") {
            let _ = child.kill();
            let _ = child.wait();
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("uraid serve did not get ready:\n{log}"));
        }
        let mut status = self.command("status");
        status.arg("--json").arg("--control").arg(&control);
        Server::connect(child, &socket, seed, Some(status))
    }

    /// Takes a member of the array `name`, which is being served, out of service.
    ///
    /// # Errors
    /// What the program says.
    pub fn fail(&self, name: &str, member: u64) -> Result<(), String> {
        self.order(name, "fail", &[&member.to_string()])
    }

    /// Has the server of the array `name` carry out an order, as `uraid VERB ARGUMENTS` does.
    ///
    /// # Errors
    /// What the program says.
    pub fn order(&self, name: &str, verb: &str, arguments: &[&str]) -> Result<(), String> {
        let mut order = self.command(verb);
        order.arg("--control").arg(self.place(name, "control"));
        run(order.args(arguments)).map(drop)
    }

    fn place(&self, name: &str, ending: &str) -> PathBuf {
        self.dir.join(format!("{name}.{ending}"))
    }

    /// Paths of the members of the array `name`.
    pub fn members(&self, name: &str, layout: &Layout) -> Vec<PathBuf> {
        let member = |i| self.dir.join(format!("{name}.m{i}"));
        (0..layout.members()).map(member).collect()
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(self.binary);
        command.arg(verb);
        HOMES.iter().for_each(|home| {
            command.env(home, self.dir);
        });
        command
    }
}

impl Server {
    /// nbdkit's file plugin over a plain file of this size; `None` where nbdkit is not installed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn nbdkit(dir: &Path, bytes: u64, seed: u64) -> Result<Option<Server>, String> {
        let (file, socket) = (dir.join("plain"), dir.join("plain.nbd"));
        let made = File::create(&file).and_then(|f| f.set_len(bytes));
        made.map_err(|e| format!("{}: {e}", file.display()))?;
        if Command::new("nbdkit").arg("--version").output().is_err() {
            return Ok(None);
        }
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]);
        command.args([socket.as_os_str(), OsStr::new("file"), file.as_os_str()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Server::start(&mut command, &socket, seed).map(Some)
    }

    /// Starts any server of NBD that is going to listen on `socket`, and connects to it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(command: &mut Command, socket: &Path, seed: u64) -> Result<Server, String> {
        Server::connect(spawn(command)?, socket, seed, None)
    }

    /// Opens so many more connections.
    ///
    /// # Errors
    /// What the server says.
    pub fn open(&self, connections: usize, seed: u64) -> Result<Clients, String> {
        let opened = Clients::open(&self.address, connections, seed);
        opened.map_err(|e| format!("connecting to {}: {e}", self.address))
    }

    /// Takes charge of a server that listens, or soon will.
    fn connect(
        mut child: Child,
        socket: &Path,
        seed: u64,
        status: Option<Command>,
    ) -> Result<Server, String> {
        let deadline = Instant::now() + PATIENCE;
        let address = Address::unix(socket);
        loop {
            let error = match Clients::open(&address, 1, seed) {
                Ok(clients) => {
                    return Ok(Server {
                        child,
                        address,
                        clients,
                        status,
                    });
                }
                Err(error) => error,
            };
            let ended = !matches!(child.try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("connecting to {}: {error}", socket.display()));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// CPU time used so far, in seconds, all threads together.
    ///
    /// # Errors
    /// When the server has ended.
    pub fn cpu_seconds(&self) -> Result<f64, String> {
        let time = cpu_time(self.child.id()).map_err(|e| format!("the server has ended: {e}"))?;
        Ok(time.as_secs_f64())
    }

    /// What `uraid status --json` says.
    ///
    /// # Errors
    /// When nobody answers, or the array has failed; servers of another kind have no status.
    pub fn status(&mut self) -> Result<Value, String> {
        let status = self.status.as_mut().ok_or("only uraid has a status")?;
        let output = status.output().map_err(|e| format!("{status:?}: {e}"))?;
        match output.status.code() {
            Some(0 | NOT_WHOLE) => parse(&String::from_utf8_lossy(&output.stdout)),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("{status:?} ended with {}:\n{said}", output.status))
            }
        }
    }

    /// The counters of the engine; `None` where there is no engine.
    ///
    /// # Errors
    /// What `uraid status` says.
    pub fn counters(&mut self) -> Result<Option<Counters>, String> {
        if self.status.is_none() {
            return Ok(None);
        }
        let report = self.status()?;
        let counters = serde_json::from_value(report["io"].clone());
        counters
            .map(Some)
            .map_err(|e| format!("uraid status --json, under \"io\": {e}"))
    }

    /// Waits until the array has made its last checkpoint and does nothing more by itself.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn settle(&mut self) -> Result<Option<Counters>, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.counters()?;
        let mut since = Instant::now();
        while last.is_some() && since.elapsed() < SETTLED {
            sleep(LOOK);
            let now = self.counters()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if Instant::now() > deadline {
                return Err(format!("the array does not come to rest in {PATIENCE:?}"));
            }
        }
        Ok(last)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    let program = command.get_program().to_owned();
    let error = |e| format!("{}: {e}", Path::new(&program).display());
    command.spawn().map_err(error)
}

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_owned();
    let error = |e| format!("{}: {e}", Path::new(&program).display());
    let output = command.output().map_err(error)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}:\n{said}", output.status))
}

fn parse(json: &str) -> Result<Value, String> {
    serde_json::from_str(json).map_err(|e| format!("uraid printed no JSON: {e}"))
}
