//! An array one of whose members comes and goes.

use crate::measure::{Plan, WARM_UP};
use crate::slow::{Slow, SlowPart};
use cost::layout::Layout;
use cost::server::{Server, Uraid};
use cost::tool::of_client;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use uraid_load::{Drive, Limit, Load};

const NAME: &str = "array";
/// The member that comes and goes, and one that stays.
const VICTIM: u64 = 0;
const SURVIVOR: u64 = 1;
/// Members are so much larger than their data: journal, checksums, spare slots.
const MEMBER_SLACK: (u64, u64) = (64 << 20, 16);
/// A rebuild that has not begun by then does not.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// How far a rebuild is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// There is none.
    None,
    /// So many bytes of the member are filled.
    At(u64),
}

/// An array that is served, and its client.
pub struct Array {
    /// Before its members, which may be mounts.
    server: Server,
    uraid: PathBuf,
    dir: PathBuf,
    member_bytes: u64,
    /// The member that comes and goes.
    victim: PathBuf,
    slow: Option<(SlowPart, Slow)>,
}

impl Array {
    /// Makes one, serves and fills it.
    pub fn serve(plan: &Plan, layout: &Layout, dir: &Path) -> Result<Array, String> {
        let uraid = Uraid {
            binary: &plan.uraid,
            dir,
        };
        let data = plan.data_bytes;
        let member_bytes = data + data / MEMBER_SLACK.1 + MEMBER_SLACK.0;
        uraid.create(NAME, layout, member_bytes)?;
        let paths = uraid.members(NAME, layout);
        let share = plan.share.map(|share| share.to_string());
        let mut options = Vec::new();
        if let Some(share) = &share {
            options.extend(["--rebuild-share", share]);
        }
        let mut server = uraid.serve(NAME, layout, &options, plan.seed)?;
        let bytes = data * layout.data;
        server.clients.fill(bytes, |_| ()).map_err(of_client)?;
        let mut array = Array {
            server,
            uraid: plan.uraid.clone(),
            dir: dir.to_path_buf(),
            member_bytes,
            victim: paths[VICTIM as usize].clone(),
            slow: None,
        };
        if let Some((part, rate)) = plan.slow {
            let member = match part {
                SlowPart::Source => SURVIVOR,
                SlowPart::Target => VICTIM,
            };
            array.slow_down(part, &paths[member as usize], rate, member)?;
        }
        Ok(array)
    }

    /// Has a member served through something slow.
    fn slow_down(
        &mut self,
        part: SlowPart,
        member: &Path,
        rate: u64,
        slot: u64,
    ) -> Result<(), String> {
        let slow = Slow::mount(&self.dir, member, rate)?;
        match part {
            // The server is to open it anew: it leaves, and comes back through the slow file.
            SlowPart::Source => {
                self.order("fail", &[&slot.to_string()])?;
                self.order("add", &[&text(slow.path())?])?;
                self.wait_until(|status| status["state"] == "optimal")?;
            }
            SlowPart::Target => self.victim = slow.path().to_path_buf(),
        }
        self.slow = Some((part, slow));
        Ok(())
    }

    /// Random writes, until the journals have been used.
    pub fn warm_up(&mut self, requests: u64) -> Result<(), String> {
        self.drive(&WARM_UP, Limit::Requests(requests))?;
        self.settle()
    }

    /// Waits until the array does nothing more by itself.
    pub fn settle(&mut self) -> Result<(), String> {
        self.server.settle().map(drop)
    }

    /// Puts a load on it.
    pub fn drive(&mut self, load: &Load, limit: Limit) -> Result<Drive, String> {
        let driven = self.server.clients.drive(load, limit, |_| ());
        driven.map_err(of_client)
    }

    /// Takes the member out of service.
    pub fn break_it(&mut self) -> Result<(), String> {
        self.order("fail", &[&VICTIM.to_string()])?;
        self.order("remove", &[&VICTIM.to_string()])
    }

    /// Has the member filled from the others, and returns since when.
    pub fn begin_rebuild(&mut self) -> Result<Instant, String> {
        if !matches!(&self.slow, Some((SlowPart::Target, _))) {
            let blank = std::fs::remove_file(&self.victim)
                .and_then(|()| std::fs::File::create(&self.victim)?.set_len(self.member_bytes));
            blank.map_err(|e| format!("{}: {e}", self.victim.display()))?;
        }
        let path = text(&self.victim)?;
        let begun = Instant::now();
        self.order("add", &["--force", &path])?;
        let runs = |status: &Value| !status["rebuild"].is_null() || status["state"] == "optimal";
        self.wait_until(runs)?;
        Ok(begun)
    }

    /// How far the rebuild is.
    pub fn progress(&mut self) -> Result<Progress, String> {
        let status = self.server.status()?;
        let done = status["rebuild"]["done_bytes"].as_u64();
        Ok(done.map_or(Progress::None, Progress::At))
    }

    /// Bytes that are used of each member.
    pub fn used_bytes(&mut self) -> Result<u64, String> {
        let status = self.server.status()?;
        let number = |what: &str| {
            let missing = || format!("uraid status --json does not tell {what}");
            status[what].as_u64().ok_or_else(missing)
        };
        Ok(number("used_stripes")? * number("chunk_bytes")?)
    }

    /// What a plain copy is made of, and where to: from and to members of the same kind.
    pub fn copied(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let survivor = dir.join(format!("{NAME}.m{SURVIVOR}"));
        let source = match &self.slow {
            Some((_, slow)) => slow.path().to_path_buf(),
            None => survivor,
        };
        (source, dir.join("copy"))
    }

    fn order(&self, verb: &str, arguments: &[&str]) -> Result<(), String> {
        let uraid = Uraid {
            binary: &self.uraid,
            dir: &self.dir,
        };
        uraid.order(NAME, verb, arguments)
    }

    fn wait_until(&mut self, condition: impl Fn(&Value) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.server.status()?) {
            if Instant::now() > deadline {
                return Err(format!("the array is not as expected after {PATIENCE:?}"));
            }
            sleep(LOOK);
        }
        Ok(())
    }
}

fn text(path: &Path) -> Result<String, String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("{}: not UTF-8", path.display()))
}
