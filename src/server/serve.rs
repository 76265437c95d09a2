//! Setting up a server, and taking it down: arrays, sockets, threads, signals.

use super::alert::{AlertOptions, Alerts};
use super::array::{Job, Manner, Running};
use super::export::ExportOptions;
use super::failures::Failures;
pub use super::failures::NotServed;
use super::front::{Front, Guard, Place};
use super::gate::Gate;
use super::heartbeat::{Heartbeat, Watched};
use super::limits;
use super::listen::Listen;
use super::members::{Access, Group, OpenArray, groups, open_array};
use super::memory::Memory;
use super::metrics::{MetricsServer, Shown};
use super::operator::Mailbox;
use super::qos::Throttle;
use super::reader::READER_DESCRIPTORS;
use super::service::Message;
use super::sockets::{Listener, Pidfile, SocketFile, open_control, open_listeners, open_metrics};
use super::steward::{Charge, Steward, StewardOptions};
use super::succession::Succession;
use super::systemd::Notifier;
use super::tls::{Tls, TlsOptions};
use super::{log, reclaim, signals};
use crate::control::wire::{Advice, StatusReport};
use crate::failure::{Doing, Exit, Failure};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use uraid_buffer::Pool;
use uraid_io::driver::{Driver, Limits, Waker};
use uraid_io::sockets::{Inherited, take_inherited};
use uraid_nbd::{Export, TlsPolicy};

/// What is to be served, and how.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Canonical paths of the members, of one array or of several.
    pub members: Vec<PathBuf>,
    /// Where to listen; none means what a service manager has passed, or the default place.
    pub listen: Vec<Listen>,
    /// Control socket, or a directory for those of several arrays; none means the default place.
    pub control: Option<PathBuf>,
    /// How some of the arrays are offered.
    pub exports: Vec<ExportOptions>,
    /// Most clients at once, of all arrays together.
    pub connections_max: usize,
    /// Whether and how connections are encrypted.
    pub tls: Option<TlsOptions>,
    /// Listen where other hosts can connect, encrypted or not.
    pub insecure: bool,
    /// How arrays are opened.
    pub manner: Manner,
    /// Most memory for all arrays together, in bytes, if it is limited.
    pub memory: Option<u64>,
    /// Threads that serve the clients of each array; with none its data thread does.
    pub readers: usize,
    /// Where metrics and the page are to be had, if anywhere.
    pub metrics: Option<Listen>,
    /// There, also if other hosts can connect.
    pub metrics_insecure: bool,
    /// Puts a status into words for the page.
    pub advise: fn(&StatusReport) -> Advice,
    /// Where alerts go.
    pub alerts: AlertOptions,
    /// What it does by itself.
    pub steward: StewardOptions,
    /// Where to write the process id.
    pub pidfile: Option<PathBuf>,
}

impl ServeOptions {
    fn export(&self, name: &str) -> ExportOptions {
        let said = self.exports.iter().find(|export| export.name == name);
        said.cloned().unwrap_or_default()
    }

    fn requires_tls(&self) -> bool {
        let policy = self.tls.as_ref().map(|tls| tls.policy);
        policy == Some(TlsPolicy::Required)
    }
}

/// An array in service, for whoever waits for it.
pub struct Served {
    /// What clients are told of it.
    pub export: Export,
    /// Where they find it.
    pub uris: Vec<String>,
}

/// Serves until told to stop, or to become another program. `ready` is told what is served once clients can connect, and what
/// is not: of several arrays it is enough that one can be.
pub fn serve(
    options: &ServeOptions,
    ready: impl FnOnce(&[Served], &[NotServed]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // Before any thread is started: all of them inherit it.
    reclaim::prepare_for(&options.listen);
    let notifier = Notifier::from_environment()?;
    let succession = Succession::from_environment()?;
    let inherited = inherited(&succession)?;
    let found = groups(&options.members);
    check_exports(&found, &options.exports)?;
    let tls = Tls::load(options.tls.as_ref(), &options.exports)?;
    let names: Vec<String> = found.iter().map(|group| group.name.clone()).collect();
    let mut failures = Failures::of(found.len());
    let arrays = open_arrays(found, options.manner.read_only, &mut failures)?;
    // After the wait for locks, which a signal may end as it likes, and before any thread is
    // started: all of them inherit what is blocked.
    let signals = signals::block()?;
    let open = options.insecure || options.requires_tls();
    let listeners = open_listeners(&options.listen, inherited, &names, open, &succession)?;
    let open = options.metrics_insecure;
    let metrics = options.metrics.as_ref();
    let metrics = metrics.map(|place| open_metrics(place, open, &succession));
    let metrics = metrics.transpose()?;
    let front = Driver::new(options.manner.backend, &Pool::heap(), Limits::default())
        .map_err(|error| Failure::failed(error.to_string()))?;
    let members: usize = arrays.iter().map(|array| array.files.len()).sum();
    let readers = arrays.len() * options.readers * READER_DESCRIPTORS;
    let connections_max = limits::connections_max(options.connections_max, members + readers);

    let alerts = Alerts::start(&options.alerts)?;
    let jobs = Jobs {
        options,
        connections_max,
        listeners: &listeners,
        succession: &succession,
        alerts: &alerts,
    };
    let jobs = jobs.of(arrays, &mut failures)?;
    let running = jobs.into_iter().map(Running::start);
    let running: Vec<Running> = running.collect::<Result<_, _>>()?;
    let stop = Stop {
        begun: Arc::default(),
        arrays: running.iter().map(Running::mailbox).collect(),
        front: front.waker(),
        notifier,
        succession: succession.clone(),
    };
    let (on_signal, on_hangup) = (stop.clone(), succession.clone());
    signals.forward_to(move || on_signal.end(), move || on_hangup.begin())?;
    let (mut running, exports) = wait_until_open(running, &mut failures)?;
    if stop.has_begun() {
        return wait_for_end(running);
    }

    let uris = running.iter().map(|running| running.uris.clone());
    let exports = exports.into_iter().map(|export| offered(export, options));
    let served = exports.zip(uris);
    let served: Vec<Served> = served
        .map(|(export, uris)| Served { export, uris })
        .collect();
    let places = places(listeners, &served, default_name(&names, options));
    let everyone = Gate::new(connections_max);
    let guard = Guard { everyone, tls };
    let charges = running.iter().map(|r| Charge::from(&*r.operator()));
    let _steward = Steward::start(&options.steward, charges.collect())?;
    let (front, watched) = start_front(front, &mut running, &served, guard, places, &stop)?;
    let pidfile = options.pidfile.as_deref().map(Pidfile::write).transpose();
    let arrays = running.iter().map(Running::operator).collect();
    let shown = Shown {
        arrays,
        alerts,
        advise: options.advise,
        any_host: options.metrics_insecure,
    };
    let metrics = metrics.map(|place| MetricsServer::start(place, shown));
    let told = metrics
        .transpose()
        .and_then(|metrics| Ok((metrics, pidfile?)));
    let told = told.and_then(|(metrics, pidfile)| {
        // Whoever started the first program may have gone since it was ready.
        ready(&served, &failures.failed)
            .or_else(|failure| succession.has_predecessor().then_some(()).ok_or(failure))?;
        stop.notifier.ready(&status_line(&served, &failures.failed));
        stop.notifier.start_watchdog(watched)?;
        Ok((metrics, pidfile))
    });
    let stop_all = stop.clone();
    succession.enable(move || stop_all.all());
    succession.done();
    if told.is_err() {
        stop.end()?;
    }
    let ended = wait_for_end(running);
    // No array is left that could take the message; the front thread is told in any case.
    let _ = stop.all();
    front.join().expect("the front thread does not panic");
    match told {
        Ok((metrics, pidfile)) if succession.has_begun() => {
            drop(metrics);
            Err(hand_on(pidfile, ended, &succession))
        }
        told => told.and(ended),
    }
}

/// Sockets that were passed, to us or to a former program of this process.
fn inherited(succession: &Succession) -> Result<Vec<Inherited>, Failure> {
    let inherited = take_inherited().doing(|| "use the sockets that were passed".to_string())?;
    let passed = succession.take_passed().into_iter();
    let passed = passed.map(|(fd, name)| Inherited { fd, name });
    Ok(inherited.into_iter().chain(passed).collect())
}

/// Becomes another program; returns only if that is not possible.
fn hand_on(
    pidfile: Option<Pidfile>,
    ended: Result<(), Failure>,
    succession: &Succession,
) -> Failure {
    if let Err(failure) = ended {
        log::warning(&format!("{failure}; the new program will recover"));
    }
    pidfile.into_iter().for_each(Pidfile::leave);
    succession.execute()
}

/// Arrays must be told apart by their names, and `--export` speaks of what is there.
pub fn check_exports(found: &[Group], exports: &[ExportOptions]) -> Result<(), Failure> {
    for (index, group) in found.iter().enumerate() {
        let twin = found[..index].iter().find(|twin| twin.name == group.name);
        if let Some(twin) = twin {
            return Err(Failure::refused(format!(
                "two arrays are called {}: {} and {}; serve them apart, each by the names of its \
                 members",
                group.name,
                twin.describe(),
                group.describe()
            )));
        }
    }
    for (index, export) in exports.iter().enumerate() {
        let name = &export.name;
        if exports[..index].iter().any(|twin| twin.name == *name) {
            return Err(Failure::usage(format!(
                "--export speaks of {name} twice; say it all at once"
            )));
        }
        export.check().map_err(Failure::usage)?;
        // One whose superblocks cannot be read has no name; opening it says why.
        if !found
            .iter()
            .any(|group| group.name == *name || group.name.is_empty())
        {
            let names: Vec<_> = found.iter().map(|group| group.name.as_str()).collect();
            return Err(Failure::usage(format!(
                "--export speaks of {name}, which is none of the arrays found: {}",
                names.join(", ")
            )));
        }
    }
    Ok(())
}

/// Opens and locks the members of all arrays.
fn open_arrays(
    found: Vec<Group>,
    read_only: bool,
    failures: &mut Failures,
) -> Result<Vec<OpenArray>, Failure> {
    let access = match read_only {
        true => Access::Read,
        false => Access::Serve,
    };
    let mut arrays = Vec::new();
    for group in found {
        match open_array(&group.paths, access) {
            Ok(array) => arrays.push(array),
            Err(failure) => failures.add(group.name, failure)?,
        }
    }
    failures.check(arrays.len())?;
    Ok(arrays)
}

/// What holds for the data threads of all arrays.
struct Jobs<'a> {
    options: &'a ServeOptions,
    connections_max: usize,
    listeners: &'a [Listener],
    succession: &'a Succession,
    alerts: &'a Alerts,
}

impl Jobs<'_> {
    /// What the data threads are to do.
    fn of(&self, arrays: Vec<OpenArray>, failures: &mut Failures) -> Result<Vec<Job>, Failure> {
        let control = self.options.control.as_deref();
        let mut jobs = Vec::new();
        let each = self.options.memory.map(|all| all / arrays.len() as u64);
        for array in arrays {
            let name = &array.name;
            let parts = (self.connections_max, self.options.readers > 0);
            let memory = Memory::of(each, &array.geometry, parts);
            let opened = memory.and_then(|memory| {
                let control = open_control(control, name, failures.alone, self.succession)?;
                Ok((control, memory))
            });
            match opened {
                Ok((control, memory)) => jobs.push(self.job(array, control, memory)),
                Err(failure) if failure.exit == Exit::Usage => return Err(failure),
                Err(failure) => failures.add(name.clone(), failure)?,
            }
        }
        failures.check(jobs.len())?;
        Ok(jobs)
    }

    fn job(&self, array: OpenArray, control: (OwnedFd, SocketFile), memory: Memory) -> Job {
        let options = self.options;
        let here = self.listeners.iter().filter(|l| l.offers(&array.name));
        let uri = |listener: &Listener| listener.reach.uri(&array.name, options.requires_tls());
        let export = options.export(&array.name);
        Job {
            manner: options.manner.clone(),
            memory,
            control,
            uris: here.filter_map(uri).collect(),
            succession: self.succession.clone(),
            alerts: self.alerts.clone(),
            gate: Gate::new(export.connections_max.unwrap_or(self.connections_max)),
            throttle: Throttle::new(export.limits),
            connections_max: self.connections_max,
            readers: options.readers,
            array,
        }
    }
}

/// The way to stop everything.
#[derive(Clone)]
struct Stop {
    begun: Arc<AtomicBool>,
    arrays: Arc<[Mailbox]>,
    front: Waker,
    notifier: Notifier,
    succession: Succession,
}

impl Stop {
    /// The same for good: no other program follows, even if an upgrade has begun.
    fn end(&self) -> Result<(), Failure> {
        self.succession.renounce();
        self.all()
    }

    /// Asks all threads to stop. Fails when there is no data thread that would.
    fn all(&self) -> Result<(), Failure> {
        if !self.begun.swap(true, Ordering::AcqRel) {
            match self.succession.has_begun() {
                true => self.notifier.reloading(),
                false => self.notifier.stopping(),
            }
        }
        self.front.wake();
        let asked: Vec<_> = self
            .arrays
            .iter()
            .map(|mailbox| mailbox.send(Message::Terminate))
            .collect();
        // Some may have ended before.
        asked
            .into_iter()
            .reduce(Result::or)
            .expect("there are arrays")
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }
}

/// Waits until all arrays are open, or known to stay closed.
fn wait_until_open(
    running: Vec<Running>,
    failures: &mut Failures,
) -> Result<(Vec<Running>, Vec<Export>), Failure> {
    let (mut open, mut exports) = (Vec::new(), Vec::new());
    let mut cut_short = 0;
    for running in running {
        match running.wait_until_open() {
            Ok(Some(export)) => {
                open.push(running);
                exports.push(export);
            }
            Ok(None) => cut_short += 1,
            Err(failure) => failures.add(running.name, failure)?,
        }
    }
    failures.check(open.len() + cut_short)?;
    Ok((open, exports))
}

/// What clients are told of an array, with what the operator has to say to it.
fn offered(export: Export, options: &ServeOptions) -> Export {
    let said = options.export(&export.name);
    Export {
        read_only: export.read_only || said.read_only,
        hidden: said.hidden,
        access: said.access(),
        description: said.description.unwrap_or(export.description),
        ..export
    }
}

/// What the empty name means where all arrays are offered: the only one that is not hidden. One
/// that could not be opened counts: nobody gets another array than yesterday for that.
fn default_name<'a>(names: &'a [String], options: &ServeOptions) -> Option<&'a str> {
    let mut visible = names.iter().filter(|name| !options.export(name).hidden);
    let first = visible.next()?;
    visible.next().is_none().then_some(first)
}

/// What is offered where.
fn places(listeners: Vec<Listener>, served: &[Served], default: Option<&str>) -> Vec<Place> {
    let place = |listener: Listener| {
        let here = |(_, served): &(usize, &Served)| listener.offers(&served.export.name);
        let here: Vec<_> = served.iter().enumerate().filter(here).collect();
        let default = here.iter().find(|(_, served)| {
            let own = listener.only.is_some() && !served.export.hidden;
            own || default == Some(&served.export.name)
        });
        Place {
            default: default.map(|(index, _)| *index),
            offers: here.iter().map(|(index, _)| *index).collect(),
            listener,
        }
    };
    listeners.into_iter().map(place).collect()
}

/// Starts the front thread; returns it, and all threads that a watchdog should watch.
fn start_front(
    driver: Driver,
    running: &mut [Running],
    served: &[Served],
    guard: Guard,
    places: Vec<Place>,
    stop: &Stop,
) -> Result<(JoinHandle<()>, Vec<Watched>), Failure> {
    let heartbeat = Heartbeat::default();
    let mut watched: Vec<Watched> = running.iter_mut().flat_map(Running::watched).collect();
    let name = "the front thread".to_string();
    watched.push(Watched::new(name, heartbeat.clone(), driver.waker()));
    let offer = |(running, served): (&Running, &Served)| running.offer(served.export.clone());
    let offers = running.iter().zip(served).map(offer).collect();
    let front = Front::new(driver, offers, guard, places, stop.begun.clone(), heartbeat);
    let thread = thread::Builder::new()
        .name("uraid-front".to_string())
        .spawn(move || front.run())
        .doing(|| "start a thread".to_string())?;
    Ok((thread, watched))
}

/// One line for `systemctl status`.
fn status_line(served: &[Served], failed: &[NotServed]) -> String {
    let names: Vec<_> = served.iter().map(|s| s.export.name.as_str()).collect();
    let mut line = format!("serving {}", names.join(", "));
    if !failed.is_empty() {
        let names: Vec<_> = failed.iter().map(|f| f.name.as_str()).collect();
        line += &format!("; not served: {}", names.join(", "));
    }
    line
}

/// Waits until all arrays have ended; the first that did not end well is the result.
fn wait_for_end(running: Vec<Running>) -> Result<(), Failure> {
    let ends: Vec<_> = running
        .into_iter()
        .map(|running| (running.name.clone(), running.wait_for_end()))
        .collect();
    let alone = ends.len() == 1;
    let mut result = Ok(());
    for (name, end) in ends {
        if let Err(failure) = end {
            if !alone {
                log::warning(&format!("{name}: {failure}"));
            }
            result = result.and(Err(failure));
        }
    }
    result
}
