//! What may block and must not hold up the data thread: watching whether members are still
//! there, and keeping the witness.

use super::log;
use crate::failure::{Doing, Failure};
use crossbeam::channel::{Receiver, Sender, bounded, tick};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use uraid_engine::api::DeviceId;
use uraid_io::device::{Health, Identity};

/// Between two looks at the members.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Most tasks that wait for the thread. Watching and witnesses come with changes of the member
/// table, a few an hour; more than this means that a file system hangs.
const TASKS_MAX: usize = 1024;

/// Told about a member that is no longer there: which, and why.
pub type OnGone = Box<dyn Fn(DeviceId, String) + Send>;

enum Task {
    Watch(DeviceId, Identity),
    Unwatch(DeviceId),
    KeepWitness(Vec<u8>),
    End,
}

/// The housekeeping thread of one array.
pub struct Housekeeping {
    tasks: Sender<Task>,
    thread: JoinHandle<()>,
}

impl Housekeeping {
    /// Starts the thread. `witness` is where witnesses are kept, if anywhere.
    pub fn start(witness: Option<PathBuf>, on_gone: OnGone) -> Result<Housekeeping, Failure> {
        let (tasks, receiver) = bounded(TASKS_MAX);
        let thread = std::thread::Builder::new()
            .name("uraid-house".to_string())
            .spawn(move || {
                House {
                    witness,
                    on_gone,
                    watched: BTreeMap::new(),
                }
                .run(&receiver)
            })
            .doing(|| "start a thread".to_string())?;
        Ok(Housekeeping { tasks, thread })
    }

    /// Watches a member from now on.
    pub fn watch(&self, device: DeviceId, identity: Identity) {
        self.hand_over(Task::Watch(device, identity));
    }

    /// Watches it no longer.
    pub fn unwatch(&self, device: DeviceId) {
        self.hand_over(Task::Unwatch(device));
    }

    /// Keeps what the engine wants to find at its next start.
    pub fn keep_witness(&self, bytes: Vec<u8>) {
        self.hand_over(Task::KeepWitness(bytes));
    }

    /// Ends the thread after all it was given.
    pub fn end(self) {
        self.hand_over(Task::End);
        self.thread.join().expect("housekeeping does not panic");
    }

    fn hand_over(&self, task: Task) {
        // Without it the array goes on: a missing member still shows by its I/O errors, and a
        // lost witness costs a `--force` at the next start at worst.
        if self.tasks.try_send(task).is_err() {
            log::warning("housekeeping is stuck: a file system does not answer");
        }
    }
}

struct House {
    witness: Option<PathBuf>,
    on_gone: OnGone,
    watched: BTreeMap<DeviceId, Identity>,
}

impl House {
    fn run(mut self, tasks: &Receiver<Task>) {
        let ticks = tick(HEALTH_INTERVAL);
        loop {
            crossbeam::channel::select! {
                recv(tasks) -> task => match task {
                    Ok(Task::Watch(device, identity)) => drop(self.watched.insert(device, identity)),
                    Ok(Task::Unwatch(device)) => drop(self.watched.remove(&device)),
                    Ok(Task::KeepWitness(bytes)) => self.keep_witness(&bytes),
                    Ok(Task::End) | Err(_) => return,
                },
                recv(ticks) -> _ => self.check_members(),
            }
        }
    }

    /// Reports each member that is gone once.
    fn check_members(&mut self) {
        self.watched.retain(|device, identity| {
            let why = match identity.check() {
                Health::Present => return true,
                Health::Gone => "its path no longer leads to it".to_string(),
                Health::Shrunk { size_bytes } => format!("it shrank to {size_bytes} bytes"),
            };
            (self.on_gone)(*device, why);
            false
        });
    }

    fn keep_witness(&self, bytes: &[u8]) {
        let Some(path) = &self.witness else { return };
        if let Err(error) = write_durably(path, bytes) {
            let path = path.display();
            log::warning(&format!(
                "cannot keep the witness in {path}: {error}; without it a start with missing \
                 members may take --force"
            ));
        }
    }
}

/// The witness kept for an array, if there is one.
pub fn load_witness(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read the witness {}", path.display())),
    }
}

/// Replaces `path` so that a crash leaves the old content or the new.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_io::device::{MemberFile, OpenMode, create_sparse};

    #[test]
    fn a_witness_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/array.witness");
        assert_eq!(load_witness(&path).unwrap(), None);
        let house = Housekeeping::start(Some(path.clone()), Box::new(|_, _| ())).unwrap();
        house.keep_witness(b"old".to_vec());
        house.keep_witness(b"new".to_vec());
        house.end();
        assert_eq!(load_witness(&path).unwrap().as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn a_deleted_member_is_reported_once_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let identity = |name: &str| {
            let path = directory.path().join(name);
            create_sparse(&path, 1 << 20).unwrap();
            MemberFile::open(&path, OpenMode::default())
                .unwrap()
                .identity()
        };
        let (sender, gone) = crossbeam::channel::unbounded();
        let mut house = House {
            witness: None,
            on_gone: Box::new(move |device, why| sender.send((device, why)).unwrap()),
            watched: BTreeMap::from([(DeviceId(1), identity("a")), (DeviceId(2), identity("b"))]),
        };
        house.check_members();
        assert!(gone.is_empty());
        fs::remove_file(directory.path().join("a")).unwrap();
        house.check_members();
        house.check_members();
        let reports: Vec<_> = gone.try_iter().collect();
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].0, DeviceId(1));
    }

    #[test]
    fn a_shrunk_member_is_reported_with_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        create_sparse(&path, 1 << 20).unwrap();
        let file = MemberFile::open(&path, OpenMode::default()).unwrap();
        let (sender, gone) = crossbeam::channel::unbounded();
        let mut house = House {
            witness: None,
            on_gone: Box::new(move |_, why| sender.send(why).unwrap()),
            watched: BTreeMap::from([(DeviceId(7), file.identity())]),
        };
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(4096)
            .unwrap();
        house.check_members();
        assert!(gone.try_recv().unwrap().contains("4096"));
    }
}
