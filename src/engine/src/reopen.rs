//! Opening an array anew in the middle of its service: requests and commands wait for it, and the
//! host sees nothing of it but what is told in words.

use crate::api::{
    Command, CommandError, CommandId, Device, Event, Mode, Nanos, OpenOptions, Outcome, Refusal,
};
use crate::array::{Array, Carried};
use crate::commands::Result;
use crate::engine::{Engine, Shared};
use crate::lane::SharedMap;
use crate::members::Member;
use crate::open::Opening;
use crate::widen::Resized;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::pending;
use uraid_core::config::Config;
use uraid_core::events::EventKind;

/// How long requests under way may take to end before the array goes on as it was.
const REST_MAX: Nanos = 10_000_000_000;
/// Nanoseconds of a millisecond.
const MILLI: Nanos = 1_000_000;

/// How far the array is on its way to being opened anew.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Stage {
    /// It serves.
    #[default]
    Serving,
    /// Nothing new is taken up.
    Pausing,
    /// Nothing changes on its members.
    AtRest,
}

/// An array being opened anew, and who waits for it.
#[derive(Default)]
pub(crate) struct Reopening {
    stage: Cell<Stage>,
    /// Commands to be carried out after it.
    deferred: RefCell<VecDeque<(CommandId, Command, Mode)>>,
    next: RefCell<Option<Box<Step>>>,
}

/// What the engine is to do next: no task can, because all end.
enum Step {
    /// The array is at rest.
    Open(Rest),
    /// It was opened, or was not.
    Serve(Rest, core::result::Result<Rc<Array>, Refusal>),
}

/// An array at rest.
struct Rest {
    begun: Nanos,
    /// The command that led to it, and the answer to it, if the array can be opened.
    command: CommandId,
    answer: Result<Resized>,
    /// The config that its members hold.
    config: Config,
}

/// What is to be done about the number of copies.
pub(crate) enum Resize {
    /// One more, on a device, also when that holds another array's superblock.
    Add(Device, bool),
    /// The last one is given up.
    Remove,
}

impl Reopening {
    /// Whether requests and commands are to wait.
    pub fn has_begun(&self) -> bool {
        self.stage.get() != Stage::Serving
    }

    /// Whether nothing more may be asked of the members through the array that was open.
    pub fn is_at_rest(&self) -> bool {
        self.stage.get() == Stage::AtRest
    }

    /// Keeps a command until the array is open.
    pub fn defer(&self, array: &Array, order: (CommandId, Command, Mode)) {
        if matches!(order, (_, Command::Stop, Mode::Earnest)) {
            // It is not to wait for space.
            array.ending.set(true);
            array.ex.fire(&array.changed);
        }
        self.deferred.borrow_mut().push_back(order);
    }
}

impl Shared {
    /// Gives a mirror one more copy, or one less. Returns only why it was not even tried; else the
    /// answer comes once the array is open again.
    pub async fn resize(
        &self,
        array: &Array,
        command: CommandId,
        wanted: Resize,
    ) -> Result<String> {
        array.check_changeable(Mode::Earnest)?;
        let _members = array.membership_lock.lock(&array.ex).await;
        let copies = match wanted {
            Resize::Add(device, force) => array.prepare_copy(device, force).await?,
            Resize::Remove => array.leave_copy().await?,
        };
        if self.commands.get() > 1 {
            // It could wait for what we hold.
            return failed("another command is being carried out: try again when it is answered");
        }
        let begun = array.ex.now();
        self.reopening.stage.set(Stage::Pausing);
        let idle = || self.in_flight.get() == 0;
        let deadline = begun + REST_MAX;
        if !array.ex.until_or(deadline, &self.request_ended, idle).await {
            self.reopening.stage.set(Stage::Serving);
            return failed(
                "requests under way do not end: `uraid status` shows the members, give the command \
                 again when they are well",
            );
        }
        let (_rest, resized) = array.resize(copies).await;
        if array.is_suspended()
            && let Err(why) = resized
        {
            // As it is it serves reads; opened anew it might do worse.
            array.stopping.set(false);
            self.reopening.stage.set(Stage::Serving);
            return Err(why);
        }
        self.reopening.stage.set(Stage::AtRest);
        let config = match &resized {
            Ok((config, _)) => config.clone(),
            Err(_) => array.config.borrow().clone(),
        };
        let rest = Rest {
            begun,
            command,
            answer: resized.map(|(_, resized)| resized),
            config,
        };
        *self.reopening.next.borrow_mut() = Some(Box::new(Step::Open(rest)));
        // What is held here is let go of with all tasks.
        pending().await
    }
}

fn failed<T>(text: &str) -> Result<T> {
    Err(CommandError::Failed(text.into()))
}

impl Engine {
    /// Goes a step on the way to opening the array anew; whether there was one.
    pub(crate) fn reopen(&mut self) -> bool {
        if !self.shared.reopening.has_begun() {
            return self.start_deferred();
        }
        let step = self.shared.reopening.next.borrow_mut().take();
        match step.map(|step| *step) {
            None => return false,
            Some(Step::Open(rest)) => self.open_again(rest),
            Some(Step::Serve(rest, opened)) => self.serve_again(rest, opened),
        }
        true
    }

    fn open_again(&mut self, rest: Rest) {
        let old = self.array_at_rest();
        self.executor.clear();
        if let Some(view) = &old.view {
            view.forget_all();
        }
        let opening = Opening {
            devices: old.live_devices(),
            options: OpenOptions {
                force: false,
                witness: Some(old.witness_of(&rest.config)),
                nonce: old.nonce(),
                reads: old.read_options(),
                ..self.options.clone()
            },
            pool: self.pool.clone(),
            ex: self.executor.clone(),
            port: self.port.clone(),
            carried: Some(Carried {
                view: old.view.clone(),
                traffic: old.traffic.clone(),
                maps: old.maps_in_place(),
            }),
        };
        let shared = self.shared.clone();
        self.executor.spawn(async move {
            let opened = opening.run().await;
            *shared.reopening.next.borrow_mut() = Some(Box::new(Step::Serve(rest, opened)));
        });
    }

    fn serve_again(&mut self, rest: Rest, opened: core::result::Result<Rc<Array>, Refusal>) {
        let old = self.array_at_rest();
        let result = match opened {
            Ok(array) => {
                array.succeed(&old);
                let result = rest
                    .answer
                    .map(|resized| array.tell_resized(resized, rest.begun));
                *self.shared.array.borrow_mut() = Some(array);
                result
            }
            Err(refusal) => {
                // What is at rest can be read as it is.
                self.executor.clear();
                old.stopping.set(false);
                Err(CommandError::Failed(old.give_up(&refusal)))
            }
        };
        let id = rest.command;
        self.shared.commands.set(0);
        self.shared.reopening.stage.set(Stage::Serving);
        self.shared
            .outcomes
            .borrow_mut()
            .push_back(Outcome { id, result });
    }

    /// Begins the commands that have waited; whether there were any.
    fn start_deferred(&mut self) -> bool {
        let deferred = &self.shared.reopening.deferred;
        if deferred.borrow().is_empty() {
            return false;
        }
        for (id, command, mode) in deferred.take() {
            self.start_command(id, command, mode);
        }
        true
    }

    fn array_at_rest(&self) -> Rc<Array> {
        let array = self.shared.array.borrow();
        array.clone().expect("it was open before")
    }
}

impl Array {
    fn live_devices(&self) -> Vec<Device> {
        let members = self.members.borrow();
        let live = members.values().filter(|m| m.alive);
        live.map(|m| m.device.clone()).collect()
    }

    /// The maps, if nobody has to read them again.
    fn maps_in_place(&self) -> Option<Vec<SharedMap>> {
        let maps = || self.lanes.iter().map(|lane| lane.map.clone()).collect();
        self.all_is_in_place().then(maps)
    }

    /// Takes over what `old` knew and no member keeps.
    fn succeed(&self, old: &Array) {
        *self.lost.borrow_mut() = old.lost.take();
        self.former
            .borrow_mut()
            .append(&mut old.former.borrow_mut());
        self.requests.set(old.requests.get());
        // It was open all the time.
        let mut events = old.events.take();
        let own = self.events.take().into_iter();
        events.extend(own.filter(|event| !matches!(event, Event::Opened { .. })));
        *self.events.borrow_mut() = events;
        for gone in old.members.borrow().values().filter(|m| !m.alive) {
            let mut member = Member::new(gone.index, gone.uuid, gone.device.clone());
            member.alive = false;
            self.members.borrow_mut().insert(gone.index, member);
            self.release(gone.index);
        }
    }

    /// Tells how many copies there are now, and for how long clients had to wait for it.
    fn tell_resized(&self, resized: Resized, begun: Nanos) -> String {
        let copies = self.geometry.shape.columns;
        let millis = (self.ex.now() - begun) / MILLI;
        let waited = format!("clients waited for {millis} ms");
        let (index, path) = match resized {
            Resized::Added { index, path } => (index, path),
            Resized::Removed { path } => {
                let gone = path.map(|path| format!("; {path} is no longer a member"));
                let text = format!("the array has {copies} copies now") + &gone.unwrap_or_default();
                self.event(Event::Info(format!("{text}; {waited}")));
                return text;
            }
        };
        let text = format!("{path} is copy {copies} of {copies} now; {waited}");
        self.tell_of(index, EventKind::MemberAdded, text);
        match self.live_device(index) {
            Some(_) => format!("{path} is being rebuilt as copy {copies} of {copies}"),
            None => format!(
                "the array has {copies} copies now, but {path} has failed: add another device with \
                 `uraid add`, or have one copy less with `uraid remove --copy`"
            ),
        }
    }

    /// The array cannot be opened anew: what it has is read, nothing is written any more.
    fn give_up(&self, refusal: &Refusal) -> String {
        let why = format!(
            "the array could not be opened again, writes are suspended; restart the server: {}",
            refusal.text
        );
        self.tell(EventKind::Suspended, why.clone());
        self.suspended.borrow_mut().get_or_insert(why.clone());
        why
    }
}
