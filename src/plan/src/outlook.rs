//! How long an array is likely to live, and how it fares meanwhile.
//!
//! The usual model: each group of members that hold the same data (the whole array for parities,
//! each mirror of a raid10) is a birth-death chain whose state is the number of members that are
//! out. A member fails at the rate `1 / MTBF`, one at a time is repaired at the rate `1 / MTTR`,
//! and one failure more than the redundancy covers is the loss (Patterson, Gibson and Katz, "A case
//! for redundant arrays of inexpensive disks (RAID)", SIGMOD 1988; Chen, Lee, Gibson, Katz and
//! Patterson, "RAID: high-performance, reliable secondary storage", ACM Computing Surveys 26,
//! 1994). It is solved exactly, see [`crate::chain`]; the well-known formulas, such as
//! `MTBF^2 / (n (n-1) MTTR)` for raid5, are its limits where `MTTR` is far below `MTBF`.
//!
//! Extended as usual by blocks that cannot be read when it counts (Dholakia, Eleftheriou, Hu,
//! Iliadis, Menon and Rao, "A new intra-disk redundancy scheme for high-reliability RAID storage
//! systems in the presence of unrecoverable errors", ACM Transactions on Storage 4, 2008): a
//! rebuild that starts without any redundancy left meets one with a probability of
//! `1 - exp(-expected number)`. In this array such a block is lost, and no other; the model counts
//! that as a loss of data all the same ([`Outlook::any_loss`] beside [`Outlook::array_loss`]).
//! Expected are `8 * bytes read * ure_per_bit`, and the blocks that went bad unseen since they were
//! last looked at: with scrubs on average half an interval ago, without them half a service life
//! ago. (Elerath and Pecht, "Enhanced reliability modeling of RAID storage systems", DSN 2007, on
//! why they matter.)
//!
//! What to think of such figures: Elerath and Schindler, "Beyond MTTDL: a closed-form RAID 6
//! reliability equation", ACM Transactions on Storage 10, 2014, and Greenan, Plank and Wylie,
//! "Mean time to meaningless: MTTDL, Markov models, and storage system reliability", HotStorage
//! 2010. They are good for comparing layouts, and no forecast: [`crate::NOT_COVERED`].

use crate::YEAR_HOURS;
use crate::chain::Chain;
use crate::layout::{Groups, Layout};

/// What is assumed of members and of those who look after them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Assumptions {
    /// Mean time between failures of one member, in hours.
    pub mtbf_hours: f64,
    /// From a failure to its being noticed, in hours.
    pub detection_hours: f64,
    /// From there until a new member is in place, in hours: 0 with a spare.
    pub swap_hours: f64,
    /// Speed of a rebuild, in bytes per second written to the new member.
    pub rebuild_bytes_per_second: f64,
    /// Share of the array that holds data, from 0 to 1: only that is rebuilt.
    pub used_share: f64,
    /// Bits that cannot be read, of each bit that is read.
    pub ure_per_bit: f64,
    /// Blocks of one member that go bad unseen, each year.
    pub latent_per_year: f64,
    /// From one scrub to the next, in hours; none if there are none.
    pub scrub_hours: Option<f64>,
    /// How long members stay in service, in hours.
    pub life_hours: f64,
    /// Getting everything back from a backup, in hours; none: swap, and writing it all at the
    /// speed of a rebuild.
    pub restore_hours: Option<f64>,
}

/// When a loss is to be expected.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Loss {
    /// Mean time to it, in hours.
    pub mean_hours: f64,
    /// The chance that it comes within the first year.
    pub within_year: f64,
}

/// What the model says of a layout.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outlook {
    /// What a rebuild copies onto one member, in bytes.
    pub rebuild_bytes: f64,
    /// How long that takes, in hours.
    pub rebuild_hours: f64,
    /// From a failure until the redundancy is back, in hours: MTTR.
    pub repair_hours: f64,
    /// Availability of one member: `MTBF / (MTBF + MTTR)`.
    pub member_availability: f64,
    /// Members that fail in a year, all together.
    pub failures_per_year: f64,
    /// Share of the time in which some member is out and everything is served.
    pub degraded_share: f64,
    /// Too many members are out at once.
    pub array_loss: Loss,
    /// That, or a block that nobody can give any more.
    pub any_loss: Loss,
    /// The chance that a rebuild without redundancy left meets a block that it cannot read.
    pub bad_rebuild: f64,
    /// Share of the time in which everything can be read, losses restored from a backup:
    /// `MTTDL / (MTTDL + restoring)`, by [`Outlook::array_loss`].
    pub availability: f64,
}

impl Outlook {
    /// Works out what is to be expected. Several groups (raid10) are independent: chances of loss
    /// are combined exactly; the mean time is that of one group divided by their number, which is
    /// exact up to parts in `members * MTTR / MTBF`.
    pub fn new(layout: &Layout, a: &Assumptions) -> Outlook {
        let groups = layout.groups();
        let rebuild_bytes = layout.data_bytes_per_member() as f64 * a.used_share;
        let rebuild_hours = rebuild_bytes / a.rebuild_bytes_per_second / 3600.0;
        let repair_hours = a.detection_hours + a.swap_hours + rebuild_hours;
        let bad_rebuild = bad_rebuild(groups, rebuild_bytes, a);
        let latent_per_hour = a.latent_per_year / YEAR_HOURS;
        let rates = Rates {
            failure: 1.0 / a.mtbf_hours,
            repair: 1.0 / repair_hours,
            bad_rebuild: 0.0,
            latent: 0.0,
        };
        let members = chain(groups, rates);
        let blocks = chain(
            groups,
            Rates {
                bad_rebuild,
                latent: latent_per_hour,
                ..rates
            },
        );
        let array_loss = loss(&members, groups.count);
        let restore_hours = a.restore_hours.unwrap_or_else(|| {
            let bytes = layout.usable_bytes() as f64 * a.used_share;
            a.swap_hours + bytes / a.rebuild_bytes_per_second / 3600.0
        });
        let up = 1.0 - members.away_share();
        let member_count = (groups.count * groups.columns) as f64;
        Outlook {
            rebuild_bytes,
            rebuild_hours,
            repair_hours,
            member_availability: a.mtbf_hours / (a.mtbf_hours + repair_hours),
            failures_per_year: member_count * YEAR_HOURS / a.mtbf_hours,
            degraded_share: 1.0 - up.powi(groups.count as i32),
            array_loss,
            any_loss: loss(&blocks, groups.count),
            bad_rebuild,
            availability: 1.0 / (1.0 + restore_hours / array_loss.mean_hours),
        }
    }
}

/// How often things happen to a group, an hour.
#[derive(Clone, Copy)]
struct Rates {
    /// One member fails.
    failure: f64,
    /// One member is repaired.
    repair: f64,
    /// The chance that a repair without redundancy left loses a block.
    bad_rebuild: f64,
    /// A block of one member goes bad.
    latent: f64,
}

/// The chain of one group: its state is how many members are out.
fn chain(groups: Groups, rates: Rates) -> Chain {
    let last = groups.tolerance();
    let mut chain = Chain::new(last + 1);
    for out in 0..=last {
        let left = (groups.columns - out) as f64;
        let bad = if out == last { rates.bad_rebuild } else { 0.0 };
        match out < last {
            true => chain.add(out, out + 1, left * rates.failure),
            // Nothing is left to make good for another member, or for a block of one.
            false => chain.add_loss(out, left * (rates.failure + rates.latent)),
        }
        if out > 0 {
            chain.add(out, out - 1, rates.repair * (1.0 - bad));
            chain.add_loss(out, rates.repair * bad);
        }
    }
    chain
}

fn loss(group: &Chain, count: usize) -> Loss {
    let one = group.loss_within(YEAR_HOURS);
    Loss {
        mean_hours: group.mean_hours() / count as f64,
        within_year: -(count as f64 * (-one).ln_1p()).exp_m1(),
    }
}

/// The chance that a rebuild that reads as few members as will do meets a block that it cannot
/// read. Without redundancy there is no rebuild.
fn bad_rebuild(groups: Groups, rebuild_bytes: f64, a: &Assumptions) -> f64 {
    if groups.tolerance() == 0 {
        return 0.0;
    }
    let unseen_hours = a.scrub_hours.unwrap_or(a.life_hours) / 2.0;
    let latent = a.latent_per_year * unseen_hours / YEAR_HOURS;
    let expected = groups.data as f64 * (8.0 * rebuild_bytes * a.ure_per_bit + latent);
    -(-expected).exp_m1()
}

#[cfg(test)]
mod tests;
