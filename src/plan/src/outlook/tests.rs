//! The outlook beside the formulas of the literature, and beside arrays that are played.

use super::*;
use crate::layout::Request;
use uraid_core::geometry::Level;

fn layout(level: Level, members: usize, parity: Option<u16>) -> Layout {
    let request = Request {
        level,
        members,
        parity,
        copies: None,
        chunk_bytes: None,
        member_bytes: 1 << 40,
    };
    Layout::new(request).unwrap()
}

/// Members that fail every million hours, repaired within `repair_hours`; every block is read.
fn assumptions(mtbf_hours: f64, repair_hours: f64) -> Assumptions {
    Assumptions {
        mtbf_hours,
        detection_hours: repair_hours,
        swap_hours: 0.0,
        rebuild_bytes_per_second: 1e30,
        used_share: 1.0,
        ure_per_bit: 0.0,
        latent_per_year: 0.0,
        scrub_hours: None,
        life_hours: 5.0 * YEAR_HOURS,
        restore_hours: Some(10.0),
    }
}

fn assert_close(found: f64, expected: f64, tolerance: f64) {
    let error = (found / expected - 1.0).abs();
    assert!(error < tolerance, "{found} is not {expected}: {error:e}");
}

#[test]
fn mean_times_to_loss_are_the_textbook_ones() {
    let (mtbf, mttr) = (1e8, 1.0);
    let a = assumptions(mtbf, mttr);
    let mean = |level, members, parity| {
        let outlook = Outlook::new(&layout(level, members, parity), &a);
        assert_eq!(outlook.array_loss, outlook.any_loss);
        outlook.array_loss.mean_hours
    };
    let n = 6.0;
    assert_close(mean(Level::Raid0, 6, None), mtbf / n, 1e-12);
    assert_close(
        mean(Level::Raid1, 2, None),
        mtbf * mtbf / (2.0 * mttr),
        1e-6,
    );
    assert_close(mean(Level::Raid10, 6, None), mtbf * mtbf / (n * mttr), 1e-6);
    let raid5 = mtbf.powi(2) / (n * (n - 1.0) * mttr);
    assert_close(mean(Level::Raid5, 6, None), raid5, 1e-6);
    let raid6 = mtbf.powi(3) / (n * (n - 1.0) * (n - 2.0) * mttr.powi(2));
    assert_close(mean(Level::Raid6, 6, None), raid6, 1e-6);
    let three = mtbf.powi(4) / (n * (n - 1.0) * (n - 2.0) * (n - 3.0) * mttr.powi(3));
    assert_close(mean(Level::Rs, 6, Some(3)), three, 1e-6);
}

#[test]
fn a_mirror_is_solved_exactly_not_in_the_limit() {
    // (3 / MTBF + 1 / MTTR) / (2 / MTBF^2), where the short formula would be off by a third.
    let (mtbf, mttr) = (100.0, 10.0);
    let outlook = Outlook::new(&layout(Level::Raid1, 2, None), &assumptions(mtbf, mttr));
    let exact = (3.0 / mtbf + 1.0 / mttr) * mtbf * mtbf / 2.0;
    assert_close(outlook.array_loss.mean_hours, exact, 1e-12);
    assert_close(outlook.member_availability, 100.0 / 110.0, 1e-12);
    assert_close(outlook.failures_per_year, 2.0 * YEAR_HOURS / mtbf, 1e-12);
    assert_close(outlook.availability, exact / (exact + 10.0), 1e-12);
}

#[test]
fn a_rebuild_reads_what_is_used_at_the_speed_it_has() {
    let layout = layout(Level::Raid5, 5, None);
    let a = Assumptions {
        rebuild_bytes_per_second: 100e6,
        used_share: 0.5,
        detection_hours: 1.0,
        swap_hours: 24.0,
        ..assumptions(1e6, 1.0)
    };
    let outlook = Outlook::new(&layout, &a);
    let bytes = layout.data_bytes_per_member() as f64 / 2.0;
    assert_close(outlook.rebuild_hours, bytes / 100e6 / 3600.0, 1e-12);
    assert_close(outlook.repair_hours, 25.0 + outlook.rebuild_hours, 1e-12);
}

#[test]
fn bad_blocks_count_where_no_redundancy_is_left() {
    let clean = assumptions(1e6, 10.0);
    let a = Assumptions {
        ure_per_bit: 1e-14,
        ..clean
    };
    let outlook = |level| Outlook::new(&layout(level, 6, None), &a);
    let raid5 = outlook(Level::Raid5);
    // Five members of a TiB are some 4.4e13 bits: a third of all rebuilds meet a bad one.
    let bits = 5.0 * 8.0 * layout(Level::Raid5, 6, None).data_bytes_per_member() as f64;
    assert_close(raid5.bad_rebuild, 1.0 - (-bits * 1e-14).exp(), 1e-9);
    // A loss then needs one failure and a bad rebuild: MTBF / n / h.
    let expected = 1e6 / 6.0 / raid5.bad_rebuild;
    assert_close(raid5.any_loss.mean_hours, expected, 1e-3);
    assert!(raid5.array_loss.mean_hours > 1e3 * raid5.any_loss.mean_hours);
    // For raid6 it needs two failures.
    let raid6 = outlook(Level::Raid6);
    let expected = 1e12 / (6.0 * 5.0 * 10.0) / raid6.bad_rebuild;
    assert_close(raid6.any_loss.mean_hours, expected, 1e-3);
}

#[test]
fn scrubs_help_against_blocks_that_go_bad_unseen() {
    let with = |scrub_hours| Assumptions {
        latent_per_year: 0.1,
        scrub_hours,
        ..assumptions(1e6, 10.0)
    };
    let layout = layout(Level::Raid5, 6, None);
    let monthly = Outlook::new(&layout, &with(Some(730.0)));
    let never = Outlook::new(&layout, &with(None));
    let expected = 5.0 * 0.1 * 365.0 / YEAR_HOURS;
    assert_close(monthly.bad_rebuild, 1.0 - (-expected).exp(), 1e-9);
    assert!(never.any_loss.within_year > 10.0 * monthly.any_loss.within_year);
    assert_eq!(never.array_loss, monthly.array_loss);
    // A stripe without redundancy loses every block that goes bad, scrubs or not.
    let stripes = Outlook::new(
        &super::tests::layout(Level::Raid0, 6, None),
        &with(Some(730.0)),
    );
    let expected = 1.0 / (6.0 * (1e-6 + 0.1 / YEAR_HOURS));
    assert_close(stripes.any_loss.mean_hours, expected, 1e-9);
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    /// Evenly from 0 (not included) to 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON / 4.0
    }

    /// Hours until something that happens at this rate.
    fn hours(&mut self, rate: f64) -> f64 {
        -self.unit().ln() / rate
    }
}

/// Plays an array member by member until it has lost data. Knows members and the code, and
/// nothing of chains: every member has its own clock, the longest broken one of each group is
/// repaired.
fn play(layout: &Layout, a: &Assumptions, bad_rebuild: f64, random: &mut Random) -> f64 {
    let groups = layout.groups();
    let (failure, repair) = (1.0 / a.mtbf_hours, 1.0 / a.detection_hours);
    let all = groups.count * groups.columns;
    let code = layout.shape.code();
    let group_of = |member: usize| member % groups.count;
    let mut fails_at: Vec<f64> = (0..all).map(|_| random.hours(failure)).collect();
    let mut broken: Vec<Vec<usize>> = vec![Vec::new(); groups.count];
    let mut repaired_at = vec![f64::INFINITY; groups.count];
    loop {
        let earliest = |times: &[f64]| {
            let ordered = (0..times.len()).min_by(|x, y| times[*x].total_cmp(&times[*y]));
            ordered.unwrap()
        };
        let (member, group) = (earliest(&fails_at), earliest(&repaired_at));
        if fails_at[member] < repaired_at[group] {
            let (now, group) = (fails_at[member], group_of(member));
            fails_at[member] = f64::INFINITY;
            broken[group].push(member);
            let there = |c: &usize| !broken.iter().flatten().any(|b| b == c);
            if !code.can_decode((0..all).filter(there).collect()) {
                return now;
            }
            if broken[group].len() == 1 {
                repaired_at[group] = now + random.hours(repair);
            }
        } else {
            let now = repaired_at[group];
            let critical = broken[group].len() == groups.tolerance();
            if critical && random.unit() < bad_rebuild {
                return now;
            }
            let member = broken[group].remove(0);
            fails_at[member] = now + random.hours(failure);
            repaired_at[group] = match broken[group].is_empty() {
                true => f64::INFINITY,
                false => now + random.hours(repair),
            };
        }
    }
}

#[test]
fn arrays_that_are_played_live_as_long_as_worked_out() {
    const PLAYS: usize = 20_000;
    let seed = std::env::var("URAID_TEST_SEED").ok();
    let seed: u64 = seed.and_then(|s| s.parse().ok()).unwrap_or(20_240_229);
    println!("replay with URAID_TEST_SEED={seed}");
    let mut random = Random(seed);
    // Frail members: with sound ones nobody would live to see a loss.
    let a = Assumptions {
        ure_per_bit: 1e-14,
        ..assumptions(20_000.0, 200.0)
    };
    for (level, members, parity) in [
        (Level::Raid0, 4, None),
        (Level::Raid1, 2, None),
        (Level::Raid1, 3, None),
        (Level::Raid10, 6, None),
        (Level::Raid5, 5, None),
        (Level::Raid6, 6, None),
    ] {
        let layout = layout(level, members, parity);
        let outlook = Outlook::new(&layout, &a);
        for (loss, bad_rebuild) in [
            (outlook.array_loss, 0.0),
            (outlook.any_loss, outlook.bad_rebuild),
        ] {
            // Three failures at once are rare; enough is known from fewer of them.
            let plays = if outlook.array_loss.mean_hours > 1e6 {
                PLAYS / 10
            } else {
                PLAYS
            };
            let lives: Vec<f64> = (0..plays)
                .map(|_| play(&layout, &a, bad_rebuild, &mut random))
                .collect();
            let mean = lives.iter().sum::<f64>() / plays as f64;
            // Lives are spread exponentially: the mean is off by 1/sqrt(plays) at one sigma.
            let tolerance = 5.0 / (plays as f64).sqrt() + 0.01;
            assert_close(mean, loss.mean_hours, tolerance);
            let early = lives.iter().filter(|life| **life < YEAR_HOURS).count();
            let expected = loss.within_year * plays as f64;
            let spread = 5.0 * expected.sqrt() + 5.0;
            let name = layout.name();
            assert!(
                (early as f64 - expected).abs() < spread,
                "{name}: {early}, {expected}"
            );
        }
    }
}
