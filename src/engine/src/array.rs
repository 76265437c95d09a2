//! The array while it runs: what all parts of the engine share.

use crate::api::{Device, Event, Nanos, OpenOptions};
use crate::balance::Balance;
use crate::executor::{Executor, Lock, Signal};
use crate::hedge::Hedges;
use crate::lane::{Lane, SharedMap};
use crate::lost::LostBlocks;
use crate::members::Member;
use crate::mutants::{Mutant, active};
use crate::pace::{Background, Policy, SHARE_DEFAULT};
use crate::port::Port;
use crate::rebuild::Progress;
use crate::scrub::Scrub;
use crate::slow::Watch;
use crate::stripes::Stripes;
use crate::traffic::Traffic;
use crate::view::ReadView;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use uraid_buffer::{Buf, Pool};
use uraid_core::config::{Config, EntryState, Index};
use uraid_core::geometry::{Geometry, Slot, Stripe, Zones};
use uraid_core::superblock::{Counters, Superblock};
use uraid_core::units::{BLOCK, BLOCK_BYTES, Uuid};
use uraid_parity::{Code, ColumnSet, Kernels};

/// Most bytes of journalled blocks in memory, if nothing else is said.
const JOURNALLED_BYTES_DEFAULT: u64 = 96 << 20;

/// Who holds a role.
#[derive(Clone, Copy, Default, Debug)]
pub struct RoleMembers {
    /// The member that holds all of its data.
    pub holder: Option<Index>,
    /// A member being filled with it.
    pub filling: Option<Index>,
}

/// What an array has from the one that it is opened in place of, if there was one.
#[derive(Clone)]
pub struct Carried {
    /// What may be read without asking: nothing yet.
    pub view: Option<ReadView>,
    /// What went to and came from the members.
    pub traffic: Rc<Traffic>,
    /// The maps of all lanes, if they are on the members as they are in memory.
    pub maps: Option<Vec<SharedMap>>,
}

impl Carried {
    /// There was none.
    pub fn nothing(superblock: &Superblock, options: &OpenOptions) -> Carried {
        let (geometry, key) = (superblock.geometry, superblock.key);
        Carried {
            view: ReadView::new(geometry, key, options.view_bytes_max),
            traffic: Rc::default(),
            maps: None,
        }
    }
}

/// Everything about one array. Shared by all tasks; nothing here is borrowed across an await.
pub struct Array {
    /// The executor.
    pub ex: Executor,
    me: Weak<Array>,
    /// I/O.
    pub port: Rc<Port>,
    /// Buffers.
    pub pool: Pool,
    /// Parity kernels.
    pub kernels: &'static Kernels,
    /// Layout.
    pub geometry: Geometry,
    /// The layout that superblocks tell of from now on, if that is another one; see
    /// [`crate::widen`].
    pub geometry_told: Cell<Option<Geometry>>,
    /// Erasure code.
    pub code: Code,
    /// Seed of all checksums.
    pub key: u64,
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Incompatible features of its format.
    pub features: u64,
    /// Nothing may be written.
    pub read_only: bool,
    /// Commands that are not meant are answered as if something could be written.
    pub dry_run: bool,
    /// Devices in use, by place in the member table.
    pub members: RefCell<BTreeMap<Index, Member>>,
    /// The config in force.
    pub config: RefCell<Config>,
    /// The one before it.
    pub previous: RefCell<Config>,
    /// Derived from the config: who holds which role.
    pub roles: RefCell<Vec<RoleMembers>>,
    /// Error counters and durable cursors, by place in the member table.
    pub counters: RefCell<Vec<Counters>>,
    /// Held while a config is being changed.
    pub config_lock: Lock,
    /// Members with a fatal error that no config has recorded yet, and why.
    pub condemned: RefCell<BTreeMap<Index, String>>,
    /// Whether a verdict on the condemned is being made.
    pub judging: Cell<bool>,
    /// Why writes are suspended.
    pub suspended: RefCell<Option<String>>,
    /// Members that have no space.
    pub full: RefCell<BTreeSet<Index>>,
    /// No more requests, no more work in the background.
    pub stopping: Cell<bool>,
    /// The server must go: nobody waits for space any more.
    pub ending: Cell<bool>,
    /// Requests are served.
    pub open: Cell<bool>,
    /// Held while an operator or a spare changes who is a member.
    pub membership_lock: Lock,
    /// Devices that were let go, by the place of the member they held.
    pub former: RefCell<BTreeMap<Index, Device>>,
    /// Why members in service failed by themselves, not by an operator's word, since they were taken
    /// in.
    pub failures: RefCell<BTreeMap<Index, String>>,
    /// Fired when config, suspension, stopping or rebuild progress change.
    pub changed: Signal,
    /// Fired when a flush of a member ends.
    pub flushed: Signal,
    /// Journals.
    pub lanes: Vec<Lane>,
    /// Stripes with work or locks on them.
    pub stripes: Stripes,
    /// Rebuilds under way.
    pub rebuilds: RefCell<BTreeMap<Index, Progress>>,
    /// For the log.
    pub events: RefCell<VecDeque<Event>>,
    /// State of the identifier generator.
    pub random: Cell<u64>,
    /// A block of zeros.
    pub zero: Buf,
    /// Blocks found lost beyond redundancy.
    pub lost: RefCell<LostBlocks>,
    /// The scrub under way, or the last one.
    pub scrub: RefCell<Scrub>,
    /// Where the geometry puts everything, computed once.
    pub zones: Zones,
    /// What goes to and comes from the members.
    pub traffic: Rc<Traffic>,
    /// Blocks are not checked when they are read: for measuring what checking costs.
    pub skip_verification: bool,
    /// What may be read without asking.
    pub view: Option<ReadView>,
    /// Most blocks of a lane that are journalled and not yet in place.
    pub journalled_blocks_max: u64,
    /// How rebuilds and scrubs get on with clients.
    pub background: Background,
    /// Requests taken up so far.
    pub requests: Cell<u64>,
    /// How members are chosen for reads.
    pub balance: Balance,
    /// Repairs that wait for a place lock.
    pub late_repairs: Cell<usize>,
    /// Late reads.
    pub hedges: Hedges,
    /// When members are looked at.
    pub watch: Watch,
    /// Reads that others have answered so far, as the view says.
    pub reads_elsewhere: Cell<u64>,
}

impl Array {
    /// The array that this superblock describes, with `config` in force and nothing loaded.
    pub fn new(
        superblock: &Superblock,
        config: Config,
        ex: &Executor,
        port: Rc<Port>,
        pool: Pool,
        options: &OpenOptions,
        carried: Carried,
    ) -> Rc<Array> {
        let geometry = superblock.geometry;
        let array = Rc::new_cyclic(|me| Array {
            me: me.clone(),
            ex: ex.clone(),
            port,
            kernels: Kernels::detect(),
            geometry,
            geometry_told: Cell::new(None),
            code: geometry.shape.code(),
            key: superblock.key,
            uuid: superblock.array,
            name: superblock.name.clone(),
            features: superblock.features,
            read_only: options.read_only,
            dry_run: options.dry_run,
            members: RefCell::default(),
            previous: RefCell::new(config.clone()),
            config: RefCell::new(config),
            roles: RefCell::default(),
            counters: RefCell::new(superblock.counters.clone()),
            config_lock: Lock::default(),
            condemned: RefCell::default(),
            judging: Cell::new(false),
            suspended: RefCell::default(),
            full: RefCell::default(),
            stopping: Cell::new(false),
            ending: Cell::new(false),
            open: Cell::new(false),
            membership_lock: Lock::default(),
            former: RefCell::default(),
            failures: RefCell::default(),
            changed: Signal::default(),
            flushed: Signal::default(),
            lanes: (0..usize::from(geometry.lanes))
                .map(|l| {
                    let map = carried.maps.as_ref().map(|maps| maps[l].clone());
                    Lane::new(l, &geometry, options, map)
                })
                .collect(),
            stripes: Stripes::default(),
            rebuilds: RefCell::default(),
            events: RefCell::default(),
            random: Cell::new(options.nonce),
            zero: pool.zeroed(BLOCK_BYTES).freeze(),
            pool,
            lost: RefCell::default(),
            scrub: RefCell::new(Scrub::load(superblock)),
            zones: geometry.zones(),
            traffic: carried.traffic,
            skip_verification: options.skip_verification,
            view: carried.view,
            journalled_blocks_max: match options.journalled_bytes_max {
                0 => JOURNALLED_BYTES_DEFAULT,
                bytes => bytes,
            } / BLOCK
                / u64::from(geometry.lanes),
            background: Background::new(Policy {
                share_percent: match options.rebuild_share_percent {
                    0 => SHARE_DEFAULT,
                    share => share.min(100),
                },
                floor: options.rebuild_floor,
                ceiling: options.rebuild_ceiling,
                latency_target: options.latency_target,
            }),
            requests: Cell::new(0),
            balance: Balance::new(&options.reads),
            late_repairs: Cell::new(0),
            hedges: Hedges::new(options.reads.hedge_percent),
            watch: Watch::default(),
            reads_elsewhere: Cell::new(0),
        });
        array.refresh_roles();
        array
    }

    /// Requests of clients so far, whoever took them up.
    pub fn requests_so_far(&self) -> u64 {
        self.requests.get() + self.reads_elsewhere.get()
    }

    /// A handle for a task of its own.
    pub fn me(&self) -> Rc<Array> {
        self.me.upgrade().expect("whoever calls holds it")
    }

    /// A number nobody else has.
    pub fn nonce(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        uraid_core::checksum::mix(state) | 1
    }

    /// Tells the log.
    pub fn event(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
    }

    /// The lane of a stripe.
    pub fn lane(&self, stripe: Stripe) -> &Lane {
        &self.lanes[self.geometry.lane_of_stripe(stripe)]
    }

    /// Whether writes are refused because too much has failed.
    pub fn is_suspended(&self) -> bool {
        self.suspended.borrow().is_some()
    }

    /// Recomputes who holds which role.
    pub fn refresh_roles(&self) {
        let config = self.config.borrow();
        let mut roles = alloc::vec![RoleMembers::default(); self.geometry.shape.columns];
        for (index, entry) in config.members() {
            let Some(role) = entry.role else { continue };
            let role = &mut roles[usize::from(role)];
            match entry.state {
                EntryState::InSync => role.holder = Some(index),
                EntryState::Rebuilding | EntryState::Replacing => role.filling = Some(index),
                _ => {}
            }
        }
        *self.roles.borrow_mut() = roles;
    }

    /// The member from which `column` of `slot` can be read, if any.
    pub fn reader(&self, slot: Slot, column: usize) -> Option<Index> {
        let role = self.roles.borrow()[self.geometry.shape.role_of(slot, column)];
        let live = |i: &Index| self.live_device(*i).is_some();
        let filled = |i: &Index| self.is_filled(*i, slot);
        role.holder
            .filter(live)
            .or_else(|| role.filling.filter(live).filter(filled))
    }

    /// Whether a slot lies below the cursor of a member being filled.
    pub fn is_filled(&self, index: Index, slot: Slot) -> bool {
        let rebuilds = self.rebuilds.borrow();
        let filled = |p: &Progress| slot.0 < p.cursor || active(Mutant::ReadsAboveCursor);
        rebuilds.get(&index).is_some_and(filled)
    }

    /// The members that take writes of `column` of `slot`.
    pub fn writers(&self, slot: Slot, column: usize) -> impl Iterator<Item = Index> {
        let role = self.roles.borrow()[self.geometry.shape.role_of(slot, column)];
        let filling = role.filling.filter(|_| !active(Mutant::RebuildUnwritten));
        let sits_out = |i: &Index| self.members.borrow().get(i).is_some_and(|m| m.sits_out());
        let unwritten = |i: &Index| active(Mutant::SlowUnwritten) && sits_out(i);
        let holder = role.holder.filter(|i| !unwritten(i));
        holder.into_iter().chain(filling)
    }

    /// All members that take writes.
    pub fn all_writers(&self) -> Vec<Index> {
        let roles = self.roles.borrow();
        roles
            .iter()
            .flat_map(|r| r.holder.into_iter().chain(r.filling))
            .collect()
    }

    /// Whether the in-sync members of `config` that can be reached hold all data.
    pub fn config_decodes(&self, config: &Config) -> bool {
        self.code.can_decode(self.columns_of(config, Slot(0)))
    }

    /// Columns of `slot` that can be read.
    pub fn readable(&self, slot: Slot) -> ColumnSet {
        let columns = 0..self.geometry.shape.columns;
        columns
            .filter(|c| self.reader(slot, *c).is_some())
            .collect()
    }

    /// Whether the in-sync members, less those in `without`, hold all data.
    pub fn decodes_without(&self, without: &dyn Fn(Index) -> bool) -> bool {
        let roles = self.roles.borrow();
        let alive = |i: &Index| !without(*i);
        let have = (0..roles.len())
            .filter(|c| {
                let role = self.geometry.shape.role_of(Slot(0), *c);
                roles[role].holder.as_ref().is_some_and(alive)
            })
            .collect();
        self.code.can_decode(have)
    }

    /// The first slot from `slot` on that may be in use: what no lane has used is not looked at.
    pub fn skip_unused(&self, slot: Slot) -> Slot {
        let local = self.geometry.in_lane(slot.0);
        let used = self.lanes.iter();
        let used = used.map(|lane| lane.slots.borrow().skip_unused(local));
        match used.min() {
            Some(next) if next > local => self.geometry.slot_in_lane(0, next),
            _ => slot,
        }
    }

    /// `count` blocks of zeros.
    pub fn zeros(&self, count: usize) -> Vec<Buf> {
        alloc::vec![self.zero.clone(); count]
    }

    /// Time `delay` from now.
    pub fn after(&self, delay: Nanos) -> Nanos {
        self.ex.now() + delay
    }

    /// A frozen 4 KiB block whose content `fill` writes.
    pub fn block(&self, fill: impl FnOnce(&mut [u8])) -> Buf {
        let mut block = self.pool.take(BLOCK_BYTES);
        fill(&mut block);
        block.freeze()
    }
}
