//! The service manager's protocols: sockets that are passed, and word of how far the server is.

mod common;

use common::client::Client;
use common::manager::Manager;
use common::sandbox::{URAID, raid5};
use common::tools::SYSTEM_PYTHON;
use common::{Sandbox, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Opens unix sockets and becomes the program, as a service manager does: PATH... -- PROGRAM...
const ACTIVATE: &str = "
import fcntl, os, socket, sys
split = sys.argv.index('--')
high = []
for path in sys.argv[1:split]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    high.append(fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 100))
    listener.close()
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ['LISTEN_PID'] = str(os.getpid())
os.environ['LISTEN_FDS'] = str(split - 1)
os.execv(sys.argv[split + 1], sys.argv[split + 1:])
";

/// A running server; killed when dropped.
struct Service(Child);

impl Service {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("signal");
    }

    fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = wait_for("the end of the server", || {
            self.0.try_wait().expect("exit status")
        });
        assert!(status.success(), "{status}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn activated(sandbox: &Sandbox, sockets: &[&PathBuf], members: &[PathBuf]) -> Command {
    let mut command = sandbox.command(SYSTEM_PYTHON);
    command.args(["-c", ACTIVATE]).args(sockets);
    command.args(["--", URAID, "serve", "--control"]);
    command.arg(sandbox.dir()).args(members);
    command.stdout(Stdio::piped());
    command
}

/// Starts it and returns the line that says it is ready.
fn start(mut command: Command) -> (Service, String) {
    let mut service = Service(command.spawn().expect("a server"));
    let mut line = String::new();
    let stdout = service.0.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    (service, line)
}

#[test]
fn sockets_that_are_passed_take_the_place_of_our_own() {
    need!(SYSTEM_PYTHON);
    let (sandbox, members) = raid5();
    let [one, two] = ["one.sock", "two.sock"].map(|name| sandbox.path(name));
    let (service, ready) = start(activated(&sandbox, &[&one, &two], &members));
    let uri = |path: &PathBuf| format!("nbd+unix:///raid5?socket={}", path.display());
    let expected = format!("ready raid5 {} {}\n", uri(&one), uri(&two));
    assert_eq!(ready, expected);
    for socket in [&one, &two] {
        let mut client = Client::connect(socket, "").expect("connect");
        client.write(0, &[1; 4096]).expect("write");
    }
    service.stop();
    assert!(one.exists(), "the service manager's socket stays");
}

#[test]
fn a_socket_named_like_an_array_offers_that_array_alone() {
    need!(SYSTEM_PYTHON, "nbdinfo");
    let (sandbox, mut members) = raid5();
    let others: Vec<PathBuf> = (0..2).map(|i| sandbox.path(format!("t{i}"))).collect();
    sandbox.create("--level raid1 --name tank --size 64M", &others);
    members.extend(others);
    let [all, own] = ["all.sock", "own.sock"].map(|name| sandbox.path(name));
    let mut command = activated(&sandbox, &[&all, &own], &members);
    command.env("LISTEN_FDNAMES", "uraid.socket:tank");
    let (service, _) = start(command);
    let offered = |socket: &PathBuf| {
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let ran = sandbox.run("nbdinfo", ["--list", "--json", &uri]);
        let exports = ran.succeeded().json()["exports"].take();
        let exports = exports.as_array().expect("exports").clone();
        let name = |export: &Value| export["export-name"].as_str().expect("a name").to_string();
        exports.iter().map(name).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        assert_eq!(offered(&all), ["raid5", "tank"]);
        assert_eq!(offered(&own), ["tank"]);
        // The program that follows finds them, too.
        let control = sandbox.path("tank.control");
        let args = [
            "upgrade".as_ref(),
            "--control".as_ref(),
            control.as_os_str(),
        ];
        sandbox.uraid(args).succeeded();
    }
    service.stop();
    assert!(
        all.exists() && own.exists(),
        "sockets of the service manager"
    );
}

#[test]
fn descriptors_of_others_and_wrong_ones_are_not_used() {
    let (sandbox, members) = raid5();
    let serve = |pid: &str| {
        // $$ is the server's own process id.
        let script = format!("LISTEN_PID={pid} LISTEN_FDS=2 exec \"$@\" 3<&- 4<&-");
        let mut command = sandbox.command("sh");
        command.args(["-c", &script, "sh", URAID, "serve", "--control"]);
        command.arg(sandbox.path("control"));
        let place = format!("unix:{}", sandbox.path("own.sock").display());
        command.args(["--listen", &place]).args(&members);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let output = serve("$$").output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("descriptor 3, which is not open"), "{said}");
    let (service, ready) = start(serve("1"));
    assert!(ready.contains("own.sock"), "{ready}");
    service.stop();
}

#[test]
fn the_service_manager_hears_of_readiness_life_and_the_end() {
    let (sandbox, members) = raid5();
    let manager = Manager::new(&sandbox);
    let hear = || manager.hear();
    let mut command = sandbox.uraid_command();
    command.arg("serve").arg("--control").arg(sandbox.dir());
    let socket = format!("unix:{}", sandbox.path("s.sock").display());
    command.args(["--listen", &socket]).args(&members);
    command.env("NOTIFY_SOCKET", &manager.place);
    command.env("WATCHDOG_USEC", "400000");
    command.stdout(Stdio::piped());
    let (service, _) = start(command);
    assert_eq!(hear(), "READY=1\nSTATUS=serving raid5");
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    service.stop();
    let last = std::iter::from_fn(|| Some(hear())).find(|word| word != "WATCHDOG=1");
    let last = last.expect("there is one");
    assert_eq!(last, "STOPPING=1\nSTATUS=flushing and stopping");
}
