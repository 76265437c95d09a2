//! Parity on one thread, cache-hot, in bytes of data a second: every kernel this CPU has, beside
//! ISA-L (where it is installed) and `reed-solomon-erasure`.
//!
//! `cargo bench --bench parity`; what computed it is the last part of each figure's name: a kernel
//! of ours, `isa-l` (the code for any shape), `isa-l-raid` (its code for P and Q alone), or the
//! crate. `cargo bench --bench parity_ratio` takes ours and ISA-L's turn by turn.

mod isal;
mod stripe;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isal::IsaL;
use reed_solomon_erasure::galois_8::ReedSolomon;
use std::hint::black_box;
use stripe::{SHAPES, SIZES_BYTES, Stripe};
use uraid_parity::{Kernels, Level};

fn available() -> impl Iterator<Item = &'static Kernels> {
    Level::ALL.into_iter().filter_map(Kernels::at)
}

fn encode(c: &mut Criterion) {
    let isal = IsaL::load();
    for (k, m) in SHAPES {
        for bytes in SIZES_BYTES {
            let mut group = c.benchmark_group(format!("encode/{k}+{m}/{bytes}"));
            group.throughput(Throughput::Bytes((k * bytes) as u64));
            let mut stripe = Stripe::new(k, m, bytes);
            for kernels in available() {
                group.bench_function(BenchmarkId::from_parameter(kernels.level().name()), |b| {
                    b.iter(|| black_box(&mut stripe).encode(kernels))
                });
            }
            if let Some(isal) = &isal {
                let map = isal.encoder(k, m);
                stripe.check_isal(isal);
                group.bench_function("isa-l", |b| {
                    b.iter(|| black_box(&mut stripe).encode_by_isal(isal, &map))
                });
                if m <= 2 {
                    group.bench_function("isa-l-raid", |b| {
                        b.iter(|| black_box(&mut stripe).encode_by_isal_raid(isal))
                    });
                }
            }
            let peer = ReedSolomon::new(k, m).expect("a possible shape");
            group.bench_function("reed-solomon-erasure", |b| {
                b.iter(|| {
                    let (data, mut parity) = black_box(&mut stripe).columns();
                    peer.encode_sep(&data, &mut parity).expect("sizes agree")
                })
            });
        }
    }
}

fn reconstruct(c: &mut Criterion) {
    let isal = IsaL::load();
    for (k, m) in SHAPES {
        for bytes in SIZES_BYTES {
            let mut group = c.benchmark_group(format!("reconstruct/{k}+{m}/{bytes}"));
            group.throughput(Throughput::Bytes((k * bytes) as u64));
            let mut stripe = Stripe::new(k, m, bytes);
            let plan = stripe.plan();
            for kernels in available() {
                stripe.encode(kernels);
                group.bench_function(BenchmarkId::from_parameter(kernels.level().name()), |b| {
                    b.iter(|| black_box(&mut stripe).reconstruct(kernels, &plan))
                });
                stripe.check_reconstructed();
            }
            if let Some(isal) = &isal {
                stripe.encode_by_isal(isal, &isal.encoder(k, m));
                let map = isal.decoder(k, m, stripe.lost());
                group.bench_function("isa-l", |b| {
                    b.iter(|| black_box(&mut stripe).reconstruct_by_isal(isal, &map))
                });
                stripe.check_reconstructed();
            }
        }
    }
}

criterion_group!(benches, encode, reconstruct);
criterion_main!(benches);
