//! Every crash of a short story on a tiny array: the power fails at each step, each unflushed
//! write is then whole, lost, torn or only begun, members are lost with it, and the power fails
//! again while recovery is at work. After all that every block must read as allowed, and what was
//! read once must stay.
//!
//! The engine cannot be copied in the middle of its work, so a story is told from its beginning
//! up to each step.

use crate::array::create;
use crate::bench::Bench;
use crate::clients::Clients;
use crate::disk::{Breakdown, Disk};
use crate::load::Draft;
use crate::medium::{Fate, Medium};
use crate::model::Crash;
use crate::rng::Rng;
use crate::scenario::{Layout, Limits, Scenario};
use crate::stories::{Step, Story};
use crate::watch::Watch;
use std::collections::{BTreeSet, VecDeque};
use uraid_core::geometry::{Geometry, Level, Slot};
use uraid_core::units::BLOCK;

/// Chunk of the tiny arrays: two rows.
const CHUNK_BYTES: u32 = 8 << 10;
/// Slots of each lane.
const SLOTS: u64 = 8;

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Images of the members tried at each crash; all there are, if no more.
    pub images_max: usize,
    /// Sets of lost members tried with each image; all there are, if no more.
    pub losses_max: usize,
    /// Crashes tried in each recovery.
    pub nested_max: usize,
    /// One of so many crash points is tried.
    pub stride: u64,
}

impl Depth {
    /// Everything up to a thousand images.
    pub const FULL: Depth = Depth {
        images_max: 1 << 10,
        losses_max: usize::MAX,
        nested_max: 16,
        stride: 1,
    };
    /// A sample that takes seconds.
    pub const QUICK: Depth = Depth {
        images_max: 3,
        losses_max: 1,
        nested_max: 1,
        stride: 4,
    };
}

/// What was tried.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tried {
    /// Steps at which the power failed.
    pub crashes: u64,
    /// Images of members from which the array was recovered, those of nested crashes included.
    pub images: u64,
}

/// What becomes of a member's unflushed writes.
type Fates = Vec<(u64, Fate)>;

/// A story on a layout, ready to be told.
pub struct Exhaust {
    layout: Layout,
    story: Story,
    geometry: Geometry,
    key: u64,
    /// Members and clients before the story begins.
    media: Vec<Medium>,
    clients: Clients,
    rng: Rng,
    tried: Tried,
}

fn scenario(layout: Layout, lanes: u16) -> Scenario {
    Scenario {
        layout,
        chunk_bytes: CHUNK_BYTES,
        lanes,
        short_rings: true,
        slots: SLOTS * u64::from(lanes),
        export_share: 1.0,
        faults: BTreeSet::new(),
        ..Scenario::new(1, &Limits::default())
    }
}

impl Exhaust {
    /// All layouts with all stories that they can tell.
    pub fn all(layouts: &[Layout]) -> impl Iterator<Item = (Layout, Story)> {
        let of = |layout: &Layout| {
            let layout = *layout;
            // Nobody can be replaced where nobody can be missed.
            let tells = move |s: &Story| match s.name {
                "replace" => layout.redundancy > 0,
                "add-copy" | "remove-copy" => layout.level == Level::Raid1,
                _ => true,
            };
            Story::ALL
                .into_iter()
                .filter(tells)
                .map(move |s| (layout, s))
        };
        layouts.iter().flat_map(of)
    }

    /// Prepares a story: the array is written once from end to end.
    pub fn new(layout: Layout, story: Story) -> Result<Exhaust, String> {
        let scenario = scenario(layout, story.lanes);
        let mut rng = Rng::new(7);
        let array = create(&scenario, &mut rng);
        let geometry = array.geometry;
        let stripe_bytes = geometry.shape.stripe_bytes();
        let mut exhaust = Exhaust {
            layout,
            story,
            geometry,
            key: array.key,
            media: array.media,
            clients: Clients::new(geometry.export_bytes, stripe_bytes),
            rng,
            tried: Tried::default(),
        };
        let media = exhaust.media.clone();
        let clients = exhaust.clients.clone();
        let mut bench = exhaust.bench(media, clients);
        let prefill = [Step::Ask(vec![exhaust.whole_export()]), Step::Stop];
        bench.tell(prefill.into())?;
        bench.clients.all_durable();
        bench.clients.crash(Crash::Kill);
        exhaust.media = bench.disks.into_iter().map(Disk::drop_dead).collect();
        exhaust.media.iter_mut().for_each(|m| m.flush(m.mark()));
        exhaust.clients = bench.clients;
        Ok(exhaust)
    }

    fn whole_export(&self) -> Draft {
        Draft::write(0, self.geometry.export_bytes)
    }

    fn bench(&mut self, media: Vec<Medium>, clients: Clients) -> Bench {
        let watch = Watch {
            geometry: self.geometry,
            key: self.key,
        };
        Bench::open(media, clients, watch, self.rng.next())
    }

    fn steps(&self) -> VecDeque<Step> {
        let stripe_bytes = self.geometry.shape.stripe_bytes();
        (self.story.steps)(stripe_bytes, CHUNK_BYTES.into()).into()
    }

    /// Tries all crashes, as far as `depth` goes. The error says what was violated, and where.
    pub fn run(mut self, depth: Depth) -> Result<Tried, String> {
        for crash in (0..).step_by(depth.stride as usize) {
            let (media, clients) = (self.media.clone(), self.clients.clone());
            let mut bench = self.bench(media, clients);
            bench.host.crash_after(crash);
            let over = bench.tell(self.steps())?;
            if over {
                return Ok(self.tried);
            }
            self.tried.crashes += 1;
            let mut clients = bench.clients;
            clients.crash(Crash::Power);
            let dead: Vec<Medium> = bench.disks.into_iter().map(Disk::drop_dead).collect();
            for image in self.images(&dead, depth.images_max) {
                for lost in self.losses(depth.losses_max) {
                    self.recover(&dead, &image, &lost, &clients, depth)
                        .map_err(|what| {
                            let (layout, story) = (self.layout.name, self.story.name);
                            format!(
                                "{what}\n  {layout}, {story}: power lost at step {crash}, writes \
                                 {image:?}, members lost {lost:?}"
                            )
                        })?;
                }
            }
        }
        unreachable!("every story ends")
    }

    /// Has one disk break, at each step of the story in turn, and reads everything: while it is
    /// served, and after a crash from the other members. Gives the number of steps.
    pub fn run_broken(mut self, disk: usize, how: Breakdown) -> Result<u64, String> {
        for at in 0.. {
            let (media, clients) = (self.media.clone(), self.clients.clone());
            let mut bench = self.bench(media, clients);
            (bench.breaks, bench.forgiving) = (Some((at, vec![disk], how)), true);
            let told = bench.tell(self.steps()).and_then(|_| {
                let over = bench.breaks.is_some();
                bench.tell([self.read()].into()).map(|_| over)
            });
            let context =
                |what| format!("{what}\n  disk {disk} broke ({how:?}) at step {at} of the story");
            if told.map_err(context)? {
                return Ok(at);
            }
            let mut clients = bench.clients;
            clients.crash(Crash::Kill);
            let left = bench.disks.into_iter().filter(|disk| !disk.is_broken());
            let media = left.map(Disk::drop_dead).collect();
            let mut again = self.bench(media, clients);
            again.tell([self.read()].into()).map_err(context)?;
        }
        unreachable!("every story ends")
    }

    /// Kills the server at each step while a mirror is given one more copy and after it; a member is
    /// put back to what it was before that. Gives the number of steps.
    pub fn run_rolled_back(mut self) -> Result<u64, String> {
        for at in 0.. {
            let (media, clients) = (self.media.clone(), self.clients.clone());
            let mut bench = self.bench(media, clients);
            bench.host.crash_after(at);
            let write = |offset| Step::Ask(vec![Draft::write(offset, BLOCK)]);
            let over = bench.tell([Step::AddCopy, write(0), write(BLOCK), write(0)].into())?;
            let mut clients = bench.clients;
            clients.crash(Crash::Kill);
            let mut media: Vec<Medium> = bench.disks.into_iter().map(Disk::drop_dead).collect();
            media[1] = self.media[1].clone();
            let told = self.bench(media, clients).tell([self.read()].into());
            told.map_err(|what| format!("{what}\n  killed at step {at}, disk 1 rolled back"))?;
            if over {
                return Ok(at);
            }
        }
        unreachable!("every story ends")
    }

    /// Has all disks of a mirror refuse writes, at each step in turn while it is given one more
    /// copy, and reads everything. Gives the number of steps.
    pub fn run_suspended(mut self) -> Result<u64, String> {
        for at in 0.. {
            let (media, clients) = (self.media.clone(), self.clients.clone());
            let all = (0..media.len()).collect();
            let mut bench = self.bench(media, clients);
            bench.tell([].into())?;
            bench.breaks = Some((bench.host.steps() + at, all, Breakdown::NoWrites));
            bench.forgiving = true;
            let told = bench.tell([Step::AddCopy, self.read()].into());
            told.map_err(|what| format!("{what}\n  all disks refused writes at step {at}"))?;
            if bench.breaks.is_some() {
                return Ok(at);
            }
        }
        unreachable!("every story ends")
    }

    /// Recovers from one image, and again after crashes in that recovery and after it.
    fn recover(
        &mut self,
        dead: &[Medium],
        image: &[Fates],
        lost: &BTreeSet<usize>,
        clients: &Clients,
        depth: Depth,
    ) -> Result<(), String> {
        let media = apply(dead, image, lost);
        let mut bench = self.bench(media.clone(), clients.clone());
        bench.tell([].into())?;
        let steps = bench.host.steps();
        bench.tell([self.read()].into())?;
        self.tried.images += 1;
        // What was read once stays, though nothing was flushed since.
        self.recover_again(bench, &mut |_| Fate::Lost)
            .map_err(|what| format!("{what}\n  read, then power lost once more"))?;
        for _ in 0..(depth.nested_max as u64).min(steps) {
            let crash = self.rng.below(steps);
            let mut bench = self.bench(media.clone(), clients.clone());
            bench.host.crash_after(crash);
            bench.tell([].into())?;
            let mut rng = self.rng.fork();
            let fates = [Fate::Whole, Fate::Lost, Fate::Torn, Fate::Head];
            let extreme = *rng.pick(&[None, Some(Fate::Torn), Some(Fate::Lost)]);
            self.recover_again(bench, &mut |_| extreme.unwrap_or_else(|| *rng.pick(&fates)))
                .map_err(|what| {
                    format!("{what}\n  power lost again at step {crash} of recovery")
                })?;
        }
        Ok(())
    }

    fn recover_again(
        &mut self,
        bench: Bench,
        fate: &mut dyn FnMut(u64) -> Fate,
    ) -> Result<(), String> {
        let mut clients = bench.clients;
        clients.crash(Crash::Power);
        let mut media: Vec<Medium> = bench.disks.into_iter().map(Disk::drop_dead).collect();
        for medium in &mut media {
            let writes = medium.unflushed_writes();
            let fates: Fates = writes.into_keys().map(|w| (w, fate(w))).collect();
            medium.lose_power_as(|write| fate_in(&fates, write));
        }
        self.tried.images += 1;
        let read = self.read();
        self.bench(media, clients).tell([read].into()).map(|_| ())
    }

    fn read(&self) -> Step {
        Step::Ask(vec![Draft::read(0, self.geometry.export_bytes)])
    }

    /// What may become of the unflushed writes, by member: all there is, or no choice but few
    /// deviations from the extremes, and a sample of the others.
    fn images(&mut self, dead: &[Medium], max: usize) -> Vec<Vec<Fates>> {
        let mut writes: Vec<(usize, u64, Vec<Fate>)> = Vec::new();
        for (member, medium) in dead.iter().enumerate() {
            for (write, sectors) in medium.unflushed_writes() {
                let mut fates = vec![Fate::Whole, Fate::Lost, Fate::Torn];
                fates.extend((sectors > 8).then_some(Fate::Head));
                writes.push((member, write, fates));
            }
        }
        let all = writes
            .iter()
            .try_fold(1usize, |n, (_, _, fates)| n.checked_mul(fates.len()))
            .filter(|n| *n <= max);
        let choices = match all {
            Some(count) => (0..count).map(|n| nth_choice(&writes, n)).collect(),
            None => self.sample(&writes, max),
        };
        let by_member = |choice: Vec<Fate>| {
            let mut image = vec![Vec::new(); dead.len()];
            for ((member, write, _), fate) in writes.iter().zip(choice) {
                image[*member].push((*write, fate));
            }
            image
        };
        choices.into_iter().map(by_member).collect()
    }

    fn sample(&mut self, writes: &[(usize, u64, Vec<Fate>)], max: usize) -> Vec<Vec<Fate>> {
        let mut choices = Vec::new();
        for base in [Fate::Whole, Fate::Lost] {
            let base = vec![base; writes.len()];
            for (i, (_, _, fates)) in writes.iter().enumerate() {
                for fate in fates {
                    let mut one = base.clone();
                    one[i] = *fate;
                    choices.push(one);
                }
            }
            choices.push(base);
        }
        self.rng.shuffle(&mut choices);
        choices.truncate(max.div_ceil(2));
        while choices.len() < max {
            let pick = |(_, _, fates): &(usize, u64, Vec<Fate>)| *self.rng.pick(fates);
            choices.push(writes.iter().map(pick).collect());
        }
        choices
    }

    /// Sets of members that may be lost: those that are left decode.
    fn losses(&mut self, max: usize) -> Vec<BTreeSet<usize>> {
        let members = self.layout.members;
        let m = self.layout.redundancy;
        let shape = self.geometry.shape;
        let mut sets: Vec<BTreeSet<usize>> = (0u32..1 << members)
            .filter(|set| set.count_ones() as usize <= m)
            .map(|set| (0..members).filter(|i| set >> i & 1 == 1).collect())
            .collect();
        sets.retain(|set: &BTreeSet<usize>| {
            let left = (0..members).filter(|i| !set.contains(i));
            let columns = left.map(|role| shape.column_of(Slot(0), role));
            shape.code().can_decode(columns.collect())
        });
        self.rng.shuffle(&mut sets);
        sets.truncate(max);
        sets
    }
}

/// The members after the power failed, less those that are lost. Disks that came later stay.
fn apply(dead: &[Medium], image: &[Fates], lost: &BTreeSet<usize>) -> Vec<Medium> {
    let mut left = Vec::new();
    for (member, (medium, fates)) in dead.iter().zip(image).enumerate() {
        if !lost.contains(&member) {
            let mut medium = medium.clone();
            medium.lose_power_as(|write| fate_in(fates, write));
            left.push(medium);
        }
    }
    left
}

fn fate_in(fates: &[(u64, Fate)], write: u64) -> Fate {
    let found = fates.iter().find(|(w, _)| *w == write);
    found.expect("every unflushed write has a fate").1
}

/// The `n`th of all choices of fates.
fn nth_choice(writes: &[(usize, u64, Vec<Fate>)], mut n: usize) -> Vec<Fate> {
    let mut digit = |(_, _, fates): &(usize, u64, Vec<Fate>)| {
        let fate = fates[n % fates.len()];
        n /= fates.len();
        fate
    };
    writes.iter().map(&mut digit).collect()
}
