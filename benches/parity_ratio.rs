//! Our parity against ISA-L's, turn by turn in one run, so that what the machine does otherwise
//! falls on both: cache-hot, on one thread, as a table.
//!
//! `cargo bench --bench parity_ratio [-- --quick]`. The rate is data bytes a second of our best
//! kernel; a ratio is ISA-L's time over ours, median (least-most) of the rounds: above 1 we are
//! faster.

mod isal;
mod stripe;

use cost::table::{Spread, Table};
use isal::IsaL;
use std::time::{Duration, Instant};
use stripe::{SHAPES, SIZES_BYTES, Stripe};
use uraid_parity::Kernels;

/// Rounds, and with `--quick`.
const ROUNDS: [usize; 2] = [21, 7];
/// Time of one turn: much longer than the clock's resolution, short beside what a scheduler does.
const TURN: Duration = Duration::from_millis(2);

/// Turns of each before rounds count: clocks rise, tables get warm.
const WARM_UP: usize = 20;

/// A way to compute the same thing.
type Work<'a> = &'a mut dyn FnMut(&mut Stripe);

fn main() {
    let Some(isal) = IsaL::load() else {
        println!("SKIPPED: ISA-L is not installed (Debian and Ubuntu: libisal2)");
        return;
    };
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = ROUNDS[usize::from(quick)];
    let kernels = Kernels::detect();
    let ours = format!("{}, GB/s", kernels.level().name());
    let headings = ["work", "KiB", &ours, "of isa-l", "of isa-l-raid"];
    let mut table = Table::new(headings);
    for (k, m) in SHAPES {
        for bytes in SIZES_BYTES {
            let mut stripe = Stripe::new(k, m, bytes);
            stripe.check_isal(&isal);
            let encoder = isal.encoder(k, m);
            let mut work: Vec<Work<'_>> = vec![];
            let mut by_us = |s: &mut Stripe| s.encode(kernels);
            let mut by_isal = |s: &mut Stripe| s.encode_by_isal(&isal, &encoder);
            let mut by_raid = |s: &mut Stripe| s.encode_by_isal_raid(&isal);
            work.push(&mut by_us);
            work.push(&mut by_isal);
            if m <= 2 {
                work.push(&mut by_raid);
            }
            let times = measure(&mut stripe, &mut work, rounds);
            table.row(row(&format!("encode {k}+{m}"), k, bytes, &times));

            let (plan, decoder) = (stripe.plan(), isal.decoder(k, m, stripe.lost()));
            stripe.encode(kernels);
            stripe.reconstruct(kernels, &plan);
            stripe.check_reconstructed();
            stripe.encode_by_isal(&isal, &encoder);
            stripe.reconstruct_by_isal(&isal, &decoder);
            stripe.check_reconstructed();
            let mut by_us = |s: &mut Stripe| s.reconstruct(kernels, &plan);
            let mut by_isal = |s: &mut Stripe| s.reconstruct_by_isal(&isal, &decoder);
            let times = measure(&mut stripe, &mut [&mut by_us, &mut by_isal], rounds);
            table.row(row(&format!("reconstruct {k}+{m}"), k, bytes, &times));
        }
    }
    print!("{table}");
}

/// Seconds of one call, by who and by round.
fn measure(stripe: &mut Stripe, work: &mut [Work<'_>], rounds: usize) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); work.len()];
    let calls: Vec<u32> = work
        .iter_mut()
        .map(|w| calls_in_a_turn(stripe, w))
        .collect();
    for _ in 0..WARM_UP {
        for (work, calls) in work.iter_mut().zip(&calls) {
            time(stripe, work, *calls);
        }
    }
    for _ in 0..rounds {
        for ((work, times), calls) in work.iter_mut().zip(&mut times).zip(&calls) {
            times.push(time(stripe, work, *calls).as_secs_f64() / f64::from(*calls));
        }
    }
    times
}

fn calls_in_a_turn(stripe: &mut Stripe, work: &mut Work<'_>) -> u32 {
    let mut calls = 1;
    while time(stripe, work, calls) < TURN {
        calls *= 2;
    }
    calls
}

fn time(stripe: &mut Stripe, work: &mut Work<'_>, calls: u32) -> Duration {
    let begun = Instant::now();
    (0..calls).for_each(|_| work(std::hint::black_box(stripe)));
    begun.elapsed()
}

fn row(name: &str, data: usize, bytes: usize, times: &[Vec<f64>]) -> Vec<String> {
    let ours = &times[0];
    let rates = ours
        .iter()
        .map(|seconds| (data * bytes) as f64 / seconds / 1e9);
    let ratio = |theirs: &Vec<f64>| {
        let ratios = theirs.iter().zip(ours).map(|(theirs, ours)| theirs / ours);
        Spread::of(ratios).expect("there were rounds").to_string()
    };
    let or_dash = |who: usize| times.get(who).map_or_else(|| "-".into(), ratio);
    let rate = Spread::of(rates).expect("there were rounds").to_string();
    vec![
        name.into(),
        (bytes >> 10).to_string(),
        rate,
        or_dash(1),
        or_dash(2),
    ]
}
