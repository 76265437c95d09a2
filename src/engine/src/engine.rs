//! The engine as its host drives it; see [`crate::api`].

use crate::api::{
    Answer, Command, CommandError, CommandId, Completion, Device, DeviceId, Event, Io, Mode, Nanos,
    OpenOptions, Outcome, Reply, Request, RequestError, RequestId,
};
use crate::array::Array;
use crate::executor::{Executor, Signal};
use crate::latency::ReadTimes;
use crate::mutants::{Mutant, active};
use crate::open::Opening;
use crate::port::Port;
use crate::reopen::{Reopening, Resize};
use crate::status::Status;
use crate::traffic::add;
use crate::view::ReadView;
use crate::write::Content;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use uraid_buffer::Pool;

/// Bytes of request payload worked on at once when the host names no limit.
const IN_FLIGHT_BYTES_DEFAULT: u64 = 64 << 20;

/// What a client needs to know about the export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// A full stripe: the I/O size that costs least.
    pub stripe_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// What tasks and the facade share.
pub(crate) struct Shared {
    pub array: RefCell<Option<Rc<Array>>>,
    events: RefCell<VecDeque<Event>>,
    replies: RefCell<VecDeque<Reply>>,
    pub outcomes: RefCell<VecDeque<Outcome>>,
    waiting: RefCell<VecDeque<(RequestId, Request)>>,
    pub in_flight: Cell<usize>,
    in_flight_bytes: Cell<u64>,
    in_flight_bytes_max: u64,
    pub request_ended: Signal,
    /// Commands under way.
    pub commands: Cell<usize>,
    /// The array is closed and opened again.
    pub reopening: Reopening,
}

/// One array, driven by a host.
pub struct Engine {
    pub(crate) executor: Executor,
    pub(crate) port: Rc<Port>,
    pub(crate) shared: Rc<Shared>,
    /// How the array was opened.
    pub(crate) options: OpenOptions,
    pub(crate) pool: Pool,
}

impl Engine {
    /// Begins to assemble and recover; the result comes as an event.
    pub fn open(devices: Vec<Device>, options: OpenOptions, pool: Pool) -> Engine {
        let executor = Executor::default();
        let port = Rc::new(Port::new(&executor));
        let limit = match options.in_flight_bytes_max {
            0 => IN_FLIGHT_BYTES_DEFAULT,
            limit => limit,
        };
        let shared = Rc::new(Shared {
            array: RefCell::new(None),
            events: RefCell::default(),
            replies: RefCell::default(),
            outcomes: RefCell::default(),
            waiting: RefCell::default(),
            in_flight: Cell::new(0),
            in_flight_bytes: Cell::new(0),
            in_flight_bytes_max: limit,
            request_ended: Signal::default(),
            commands: Cell::new(0),
            reopening: Reopening::default(),
        });
        let opening = Opening {
            devices,
            options: options.clone(),
            pool: pool.clone(),
            ex: executor.clone(),
            port: port.clone(),
            carried: None,
        };
        let result = shared.clone();
        executor.spawn(async move {
            match opening.run().await {
                Ok(array) => *result.array.borrow_mut() = Some(array),
                Err(refusal) => result
                    .events
                    .borrow_mut()
                    .push_back(Event::Refused(refusal)),
            }
        });
        Engine {
            executor,
            port,
            shared,
            options,
            pool,
        }
    }

    /// Tells the time.
    pub fn advance(&mut self, now: Nanos) {
        self.executor.advance(now);
    }

    /// Runs until nothing can move.
    pub fn run(&mut self) {
        self.executor.run();
        while self.admit() || self.reopen() {
            self.executor.run();
        }
    }

    /// When to call [`Engine::advance`] at the latest.
    pub fn deadline(&self) -> Option<Nanos> {
        self.executor.deadline()
    }

    /// What may be read without asking; none before the array is open, or if nobody wants it.
    pub fn view(&self) -> Option<ReadView> {
        let array = self.shared.array.borrow();
        let open = array.as_ref().filter(|array| array.open.get());
        open.and_then(|array| array.view.clone())
    }

    /// Other threads have read from a device, as the view says: how long that took.
    pub fn absorb_reads(&mut self, device: DeviceId, times: &ReadTimes) {
        if let Some(array) = &*self.shared.array.borrow() {
            array.background.absorb(times, array.ex.now());
        }
        self.port.absorb(device, times);
    }

    /// The next I/O to start.
    pub fn next_io(&mut self) -> Option<Io> {
        self.port.next()
    }

    /// The result of an I/O.
    pub fn complete(&mut self, completion: Completion) {
        self.port.complete(completion);
    }

    /// The host was kept from other work for so long by I/O in the background; never told of I/O
    /// that others do meanwhile.
    pub fn spent_in_background(&mut self, nanos: Nanos) {
        self.port.spent_in_background(nanos);
    }

    /// Other threads have answered so many reads in all, as the view says: whoever is to leave
    /// time for clients leaves it for those too.
    pub fn reads_elsewhere(&mut self, reads: u64) {
        if let Some(array) = &*self.shared.array.borrow() {
            array.reads_elsewhere.set(reads);
        }
    }

    /// The next answer for a client.
    pub fn next_reply(&mut self) -> Option<Reply> {
        self.shared.replies.borrow_mut().pop_front()
    }

    /// The next answer for an operator.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.shared.outcomes.borrow_mut().pop_front()
    }

    /// The next thing to log.
    pub fn next_event(&mut self) -> Option<Event> {
        let array = self.shared.array.borrow();
        let from_array = array
            .as_ref()
            .and_then(|a| a.events.borrow_mut().pop_front());
        from_array.or_else(|| self.shared.events.borrow_mut().pop_front())
    }

    /// A device vanished or hangs: its member is taken out of service, and nobody waits for it.
    pub fn device_gone(&mut self, device: DeviceId, why: String) {
        // At rest nobody asks anything of it; what is opened next finds out by itself.
        let in_use = self.shared.array.borrow().clone();
        if let Some(array) = in_use.filter(|_| !self.shared.reopening.is_at_rest()) {
            let members = array.members.borrow();
            let index = members
                .values()
                .find(|m| m.device.id == device && m.alive)
                .map(|m| m.index);
            drop(members);
            if let Some(index) = index {
                array.condemn(index, &why);
            }
        }
        // Also those that wait for it whatever becomes of the member: recovery, the change of
        // config that is being written to it, the operator who adds it.
        self.port.give_up(device);
    }

    /// What the array says about itself, once it is open.
    pub fn status(&self) -> Option<Status> {
        self.shared.array.borrow().as_ref().map(|a| a.status())
    }

    /// What clients see, once it is open.
    pub fn export(&self) -> Option<ExportInfo> {
        let array = self.shared.array.borrow();
        let array = array.as_ref()?;
        Some(ExportInfo {
            name: array.name.clone(),
            size_bytes: array.geometry.export_bytes,
            stripe_bytes: array.geometry.shape.stripe_bytes(),
            read_only: array.read_only,
        })
    }

    /// A client's request. Requests beyond the limit wait their turn.
    pub fn request(&mut self, id: RequestId, request: Request) {
        self.shared.waiting.borrow_mut().push_back((id, request));
    }

    /// Takes up requests as the limit allows; whether there were any.
    fn admit(&mut self) -> bool {
        let Some(array) = self.shared.array.borrow().clone() else {
            return false; // answered once the array is open
        };
        if self.shared.reopening.has_begun() {
            return false; // as well
        }
        let mut any = false;
        loop {
            let shared = &self.shared;
            let Some(bytes) = shared
                .waiting
                .borrow()
                .front()
                .map(|(_, r)| payload_bytes(r))
            else {
                return any;
            };
            let now = shared.in_flight_bytes.get();
            if now > 0 && now + bytes > shared.in_flight_bytes_max {
                return any;
            }
            any = true;
            let (id, request) = shared
                .waiting
                .borrow_mut()
                .pop_front()
                .expect("it is the front");
            array.requests.set(array.requests.get() + 1);
            shared.in_flight.set(shared.in_flight.get() + 1);
            shared.in_flight_bytes.set(now + bytes);
            let (shared, array) = (shared.clone(), array.clone());
            self.executor.spawn(async move {
                let begun = array.ex.now();
                let result = serve(&array, request).await;
                let now = array.ex.now();
                array.background.served(now - begun, now);
                shared.replies.borrow_mut().push_back(Reply { id, result });
                shared.in_flight.set(shared.in_flight.get() - 1);
                shared
                    .in_flight_bytes
                    .set(shared.in_flight_bytes.get() - bytes);
                array.ex.fire(&shared.request_ended);
            });
        }
    }

    /// An operator's command. `Stop` waits for requests under way and refuses new ones.
    pub fn command(&mut self, id: CommandId, command: Command) {
        self.start_command(id, command, Mode::Earnest);
    }

    /// Says what [`Engine::command`] would do now, what that would risk, or why it would be
    /// refused. Changes nothing; a device that comes with the command may be closed after the
    /// answer.
    pub fn rehearse(&mut self, id: CommandId, command: Command) {
        self.start_command(id, command, Mode::DryRun);
    }

    pub(crate) fn start_command(&mut self, id: CommandId, command: Command, mode: Mode) {
        let shared = self.shared.clone();
        let array = shared.array.borrow().clone();
        if let Some(array) = &array
            && shared.reopening.has_begun()
        {
            return shared.reopening.defer(array, (id, command, mode));
        }
        let Some(array) = array else {
            let result = Err(CommandError::Failed(
                "the array is not open yet: try again".into(),
            ));
            shared
                .outcomes
                .borrow_mut()
                .push_back(Outcome { id, result });
            return;
        };
        shared.commands.set(shared.commands.get() + 1);
        self.executor.spawn(async move {
            let result = match (command, mode) {
                (Command::AddCopy { device, force }, Mode::Earnest) => {
                    shared.resize(&array, id, Resize::Add(device, force)).await
                }
                (Command::RemoveCopy, Mode::Earnest) => {
                    shared.resize(&array, id, Resize::Remove).await
                }
                (Command::Stop, Mode::Earnest) => {
                    array.stopping.set(true);
                    array.ending.set(true);
                    array.ex.fire(&array.changed);
                    let idle = || shared.in_flight.get() == 0 && shared.waiting.borrow().is_empty();
                    array.ex.until(&shared.request_ended, idle).await;
                    array.command(Command::Stop, mode).await
                }
                (command, mode) => array.command(command, mode).await,
            };
            shared.commands.set(shared.commands.get() - 1);
            shared
                .outcomes
                .borrow_mut()
                .push_back(Outcome { id, result });
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Tasks hold the array and the array holds the executor: cut the circle.
        self.executor.clear();
        *self.shared.array.borrow_mut() = None;
    }
}

fn payload_bytes(request: &Request) -> u64 {
    match request {
        Request::Read { len, .. } => *len,
        Request::Write { data, .. } => data.len() as u64,
        Request::Flush
        | Request::Trim { .. }
        | Request::WriteZeroes { .. }
        | Request::Extents { .. } => 0,
    }
}

async fn serve(array: &Array, request: Request) -> Result<Answer, RequestError> {
    if array.stopping.get() {
        return Err(RequestError::Stopping);
    }
    check_bounds(array, &request)?;
    let done = |()| Answer::Done;
    match request {
        Request::Read { offset, len } => {
            add(&array.traffic.client_read_bytes, len);
            array.read_range(offset, len).await.map(Answer::Data)
        }
        Request::Write { offset, data, fua } => {
            add(&array.traffic.client_written_bytes, data.len() as u64);
            write(array, offset, Content::Data(data), fua)
                .await
                .map(done)
        }
        Request::Flush => flush(array).await.map(done),
        Request::Trim { offset, len, fua } => {
            write(array, offset, Content::Trim(len as usize), fua)
                .await
                .map(done)
        }
        Request::WriteZeroes {
            offset,
            len,
            fua,
            keep_space,
            only_if_fast,
        } => {
            if only_if_fast && (keep_space || !array.zeroes_fast(offset, len)) {
                return Err(RequestError::NotFast);
            }
            let content = match keep_space {
                true => Content::StoredZeros(len as usize),
                false => Content::Zeros(len as usize),
            };
            write(array, offset, content, fua).await.map(done)
        }
        Request::Extents { offset, len } => Ok(Answer::Extents(array.extents(offset, len))),
    }
}

fn check_bounds(array: &Array, request: &Request) -> Result<(), RequestError> {
    let (offset, len, writes) = match request {
        Request::Read { offset, len } | Request::Extents { offset, len } => (*offset, *len, false),
        Request::Write { offset, data, .. } => (*offset, data.len() as u64, true),
        Request::Trim { offset, len, .. } | Request::WriteZeroes { offset, len, .. } => {
            (*offset, *len, true)
        }
        Request::Flush => return Ok(()),
    };
    let size = array.geometry.export_bytes;
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return if writes && array.read_only {
            Err(RequestError::ReadOnly)
        } else {
            Ok(())
        };
    }
    let text = format!("{len} bytes at {offset} go beyond the end of the export ({size} bytes)");
    Err(if writes {
        RequestError::NoSpace(text)
    } else {
        RequestError::Invalid(text)
    })
}

async fn write(
    array: &Array,
    offset: u64,
    content: Content,
    fua: bool,
) -> Result<(), RequestError> {
    array.write_range(offset, content).await?;
    let durable = fua && !active(Mutant::FuaIgnored);
    if durable { flush(array).await } else { Ok(()) }
}

async fn flush(array: &Array) -> Result<(), RequestError> {
    if array.read_only || active(Mutant::FlushAtOnce) {
        return Ok(());
    }
    array.flush_journals().await;
    array.check_writable()
}
