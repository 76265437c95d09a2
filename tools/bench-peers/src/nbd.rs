//! Servers of NBD: uraid, nbdkit and qemu-nbd, all on unix sockets.

use crate::driven::{Absence, Driven, Started, need, sparse};
use crate::loads::{CONNECTIONS, DEGRADED_READ, Work};
use crate::target::Array;
use cost::server::{Server, Sizes, Uraid};
use cost::tool::of_client;
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};
use uraid_load::{Clients, Drive, Limit};

/// Members are so much larger than their share of the export: journal, checksums, spare slots.
const MEMBER_SLACK: (u64, u64) = (16 << 20, 16);
/// Most clients that qemu-nbd is to take at once.
const QEMU_CLIENTS_MAX: &str = "--shared=16";

/// A server, and for arrays a twin of it with a member out of service.
pub struct Nbd {
    seed: u64,
    server: Server,
    /// Connections beside the one that the server comes with: opened before anything is measured,
    /// so that a server that does not take them is found at once.
    more: Option<Clients>,
    degraded: Option<Server>,
    journals_bytes: Option<u64>,
}

/// Where and how large.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The `uraid` program.
    pub uraid: &'a Path,
    /// Where files and sockets are.
    pub dir: &'a Path,
    /// Size of each export in bytes.
    pub export_bytes: u64,
    /// Chooses content and places.
    pub seed: u64,
}

impl Nbd {
    fn boxed(server: Server, seed: u64) -> Box<dyn Driven> {
        Box::new(Nbd {
            seed,
            server,
            more: None,
            degraded: None,
            journals_bytes: None,
        })
    }

    /// nbdkit's file plugin, as it comes.
    pub fn nbdkit_file(site: &Site<'_>) -> Started {
        let server = Server::nbdkit(site.dir, site.export_bytes, site.seed)?;
        let absent = || Absence::Skipped("nbdkit is not installed".into());
        Ok(Nbd::boxed(server.ok_or_else(absent)?, site.seed))
    }

    /// nbdkit's memory plugin, without the sparse array that it uses by default.
    pub fn nbdkit_memory(site: &Site<'_>) -> Started {
        need("nbdkit")?;
        let socket = site.dir.join("memory.nbd");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]);
        command.arg(&socket).arg("memory");
        command.args([site.export_bytes.to_string(), "allocator=malloc".into()]);
        start(command, &socket, site)
    }

    /// qemu-nbd over one file, with io_uring and without the page cache.
    pub fn qemu_raw(site: &Site<'_>) -> Started {
        let file = site.dir.join("qemu-raw");
        sparse(&file, site.export_bytes)?;
        let mut command = Command::new("qemu-nbd");
        command.args(["--format=raw", "--cache=none", "--aio=io_uring"]);
        command.arg(&file);
        qemu_nbd(command, "qemu-raw.nbd", site)
    }

    /// qemu-nbd over two files of which the first that answers is believed.
    pub fn qemu_quorum(site: &Site<'_>) -> Started {
        let mut children = Vec::new();
        for copy in 0..2 {
            let file = site.dir.join(format!("quorum.{copy}"));
            sparse(&file, site.export_bytes)?;
            children.push(json!({"driver": "raw", "file": {
                "driver": "file", "filename": file, "aio": "io_uring",
                "cache": {"direct": true},
            }}));
        }
        let quorum = json!({
            "driver": "quorum", "vote-threshold": 1, "read-pattern": "fifo",
            "children": children,
        });
        let mut command = Command::new("qemu-nbd");
        command.arg(format!("json:{quorum}"));
        qemu_nbd(command, "quorum.nbd", site)
    }

    /// An array of uraid; with a twin that has lost a member if that is to be measured.
    pub fn uraid(site: &Site<'_>, array: &Array, with_degraded: bool) -> Started {
        let (layout, seed) = (&array.layout, site.seed);
        let uraid = Uraid {
            binary: site.uraid,
            dir: site.dir,
        };
        let share = site.export_bytes / layout.data;
        let member_bytes = share + share / MEMBER_SLACK.1 + MEMBER_SLACK.0;
        let up = |name: &str| -> Result<(Sizes, Server), String> {
            let sizes = uraid.create(name, layout, member_bytes)?;
            sizes.check(layout)?;
            Ok((sizes, uraid.serve(name, layout, &[], seed)?))
        };
        let (sizes, server) = up(layout.level)?;
        let mut degraded = None;
        if with_degraded {
            let name = format!("{}-degraded", layout.level);
            let (_, mut twin) = up(&name)?;
            twin.clients
                .fill(site.export_bytes, |_| ())
                .map_err(of_client)?;
            twin.settle()?;
            uraid.fail(&name, 0)?;
            degraded = Some(twin);
        }
        Ok(Box::new(Nbd {
            seed,
            server,
            more: None,
            degraded,
            journals_bytes: Some(sizes.journals_bytes(layout)),
        }))
    }

    fn clients(&mut self, work: &Work) -> &mut Clients {
        if work.degraded {
            return &mut self.twin().clients;
        }
        match work.connections {
            1 => &mut self.server.clients,
            CONNECTIONS => self.more.as_mut().expect("opened when it was filled"),
            other => unreachable!("no load has {other} connections"),
        }
    }

    fn twin(&mut self) -> &mut Server {
        self.degraded
            .as_mut()
            .expect("who takes degraded loads has a twin")
    }
}

impl Driven for Nbd {
    fn fill(&mut self) -> Result<(), String> {
        self.more = Some(self.server.open(CONNECTIONS, self.seed)?);
        self.server
            .clients
            .fill(u64::MAX, |_| ())
            .map_err(of_client)
    }

    fn drive(&mut self, work: &Work, limit: Limit) -> Result<Drive, String> {
        let clients = self.clients(work);
        let drive = clients
            .drive(&work.load, limit, |_| ())
            .map_err(of_client)?;
        if work.load.writes() {
            clients.flush().map_err(of_client)?;
        }
        Ok(drive)
    }

    fn cpu_seconds(&mut self, work: &Work) -> Result<Option<f64>, String> {
        let server = match work.degraded {
            true => self.twin(),
            false => &mut self.server,
        };
        server.cpu_seconds().map(Some)
    }

    fn has_afterwork(&self) -> bool {
        self.journals_bytes.is_some()
    }

    fn settle(&mut self) -> Result<(), String> {
        // The twin is only read.
        self.server.settle().map(drop)
    }

    fn journal_uses(&mut self) -> Result<Option<f64>, String> {
        let counters = self.server.counters()?;
        let written = counters.map(|c| c.zone("journal").written_bytes as f64);
        let uses = written.zip(self.journals_bytes);
        Ok(uses.map(|(written, bytes)| written / bytes as f64))
    }
}

fn qemu_nbd(mut command: Command, socket: &str, site: &Site<'_>) -> Started {
    need("qemu-nbd")?;
    let socket = site.dir.join(socket);
    command.args(["--persistent", QEMU_CLIENTS_MAX, "--socket"]);
    command.arg(&socket);
    start(command, &socket, site)
}

fn start(mut command: Command, socket: &Path, site: &Site<'_>) -> Started {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let server = Server::start(&mut command, socket, site.seed)?;
    Ok(Nbd::boxed(server, site.seed))
}

/// Whether an array needs its twin for one of these loads.
pub fn needs_twin(works: &[Work]) -> bool {
    works.contains(&DEGRADED_READ)
}
