//! What uraid is meant to reach beside its peers, and whether it does.

use crate::loads::{
    DEGRADED_READ, RANDOM_READ, RANDOM_READ_4, RANDOM_WRITE, READ_ALONE, SEQUENTIAL_READ,
    SEQUENTIAL_WRITE, WRITE_AND_FLUSH, Work,
};
use crate::results::{Quantity, Ratio, Results};
use crate::target::{Array, RAID1, RAID5, RAID6, RAID10, Target};
use serde::Serialize;

/// A bound on a ratio.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
}

/// A ratio that is wanted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Wish {
    /// Of which array.
    pub array: &'static Array,
    /// Under which load.
    pub work: Work,
    /// Of what.
    pub quantity: Quantity,
    /// To whom,
    pub of: Target,
    /// under which load.
    pub of_work: Work,
    /// How large.
    pub bound: Bound,
    /// Says nothing when members are in memory, where making data durable costs nothing.
    pub needs_disk: bool,
}

/// What became of a wish.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Finding {
    /// What was found; none if it was not measured.
    pub ratio: Option<Ratio>,
    /// Whether the median of the rounds keeps to the bound; none if that cannot be told here.
    pub met: Option<bool>,
}

impl Bound {
    fn admits(self, ratio: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => ratio >= bound,
            Bound::AtMost(bound) => ratio <= bound,
        }
    }
}

impl Wish {
    /// Compares with what was found.
    pub fn judge(&self, results: &Results) -> Finding {
        let ours = (&self.work, Target::Uraid(self.array).name());
        let ratio = results.ratio(ours, (&self.of_work, self.of.name()), self.quantity);
        let telling = !(self.needs_disk && results.setup.in_memory);
        let admitted = ratio.map(|r| self.bound.admits(r.by_round.median));
        Finding {
            ratio,
            met: admitted.filter(|_| telling),
        }
    }
}

const MAIN: [&Array; 3] = [&RAID1, &RAID5, &RAID6];

/// All wishes.
pub fn wishes() -> Vec<Wish> {
    let mut all = Vec::new();
    of_baseline(&mut all);
    of_itself(&mut all);
    of_quorum(&mut all);
    of_btrfs(&mut all);
    all.push(Wish {
        needs_disk: true,
        ..rate(&RAID1, WRITE_AND_FLUSH, Target::PlainFile, 1.0)
    });
    all
}

/// Rates, latencies and CPU time beside a server that promises nothing of the kind.
fn of_baseline(all: &mut Vec<Wish>) {
    let rates = [
        (SEQUENTIAL_READ, [0.95, 0.9, 0.9]),
        (SEQUENTIAL_WRITE, [0.6, 0.65, 0.55]),
        (RANDOM_READ, [1.0, 1.0, 1.0]),
        (RANDOM_READ_4, [1.0, 1.0, 1.0]),
        (RANDOM_WRITE, [0.5, 0.3, 0.25]),
    ];
    for (work, bounds) in rates {
        let pairs = MAIN.into_iter().zip(bounds);
        all.extend(pairs.map(|(array, bound)| rate(array, work, Target::NbdkitFile, bound)));
    }
    let at_most = |array, work, quantity, bound| Wish {
        quantity,
        bound: Bound::AtMost(bound),
        ..rate(array, work, Target::NbdkitFile, bound)
    };
    for quantity in [Quantity::P50, Quantity::P99] {
        all.extend(MAIN.map(|array| at_most(array, READ_ALONE, quantity, 1.2)));
    }
    all.extend(MAIN.map(|array| at_most(array, SEQUENTIAL_READ, Quantity::CpuPerGib, 1.3)));
    all.push(at_most(&RAID6, SEQUENTIAL_WRITE, Quantity::CpuPerGib, 2.5));
}

/// Degraded beside healthy.
fn of_itself(all: &mut Vec<Wish>) {
    for (array, bound) in MAIN.into_iter().zip([1.0, 0.6, 0.6]) {
        all.push(Wish {
            of_work: RANDOM_READ,
            ..rate(array, DEGRADED_READ, Target::Uraid(array), bound)
        });
    }
}

/// The mirror beside another mirror in userspace.
fn of_quorum(all: &mut Vec<Wish>) {
    let bounds = [
        (SEQUENTIAL_READ, 1.4),
        (SEQUENTIAL_WRITE, 1.4),
        (RANDOM_READ, 2.0),
        (RANDOM_WRITE, 2.0),
    ];
    all.extend(bounds.map(|(work, bound)| rate(&RAID1, work, Target::QemuQuorum, bound)));
}

/// Writes beside the same layouts in the kernel, which need no socket.
fn of_btrfs(all: &mut Vec<Wish>) {
    for (array, random) in [(&RAID1, 2.0), (&RAID10, 2.0), (&RAID5, 5.0), (&RAID6, 5.0)] {
        let peer = Target::Btrfs(array);
        all.push(rate(array, SEQUENTIAL_WRITE, peer, 1.3));
        all.push(rate(array, RANDOM_WRITE, peer, random));
    }
}

fn rate(array: &'static Array, work: Work, of: Target, bound: f64) -> Wish {
    Wish {
        array,
        work,
        quantity: Quantity::Rate,
        of,
        of_work: work,
        bound: Bound::AtLeast(bound),
        needs_disk: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::OfWork;
    use crate::results::tests::{of_target, results};

    fn found(work: Work, ours: &[u64], theirs: &[u64]) -> Results {
        let targets = vec![
            of_target("uraid raid1 x2", ours),
            of_target("nbdkit file (A)", theirs),
            of_target("plain file", theirs),
        ];
        results(vec![OfWork { work, targets }])
    }

    fn verdicts(results: &Results) -> Vec<Option<bool>> {
        let judged = wishes().into_iter().map(|w| w.judge(results));
        judged
            .filter(|f| f.ratio.is_some())
            .map(|f| f.met)
            .collect()
    }

    #[test]
    fn the_median_of_the_rounds_decides() {
        // The rate, then the CPU time for a GiB.
        let fast = found(SEQUENTIAL_READ, &[96, 10, 97], &[100, 100, 100]);
        assert_eq!(verdicts(&fast), [Some(true), Some(true)]);
        let slow = found(SEQUENTIAL_READ, &[70, 200, 71], &[100, 100, 100]);
        assert_eq!(verdicts(&slow), [Some(false), Some(false)]);
    }

    #[test]
    fn durability_is_not_judged_in_memory() {
        let mut results = found(WRITE_AND_FLUSH, &[90], &[100]);
        assert_eq!(verdicts(&results), [None]);
        results.setup.in_memory = false;
        assert_eq!(verdicts(&results), [Some(false)]);
    }

    #[test]
    fn a_degraded_array_is_compared_with_itself() {
        let of = |work, mib| OfWork {
            work,
            targets: vec![of_target("uraid raid5 4+1", &[mib])],
        };
        let results = results(vec![of(RANDOM_READ, 100), of(DEGRADED_READ, 61)]);
        assert_eq!(verdicts(&results), [Some(true)]);
    }
}
