//! Parity on one thread, cache-hot, in bytes of data a second: every kernel this CPU has, beside
//! `reed-solomon-erasure`.
//!
//! `cargo bench --bench parity`; the level is part of the name of each figure.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reed_solomon_erasure::galois_8::ReedSolomon;
use std::hint::black_box;
use uraid_parity::{Code, ColumnSet, Kernels, Level};

const SHAPES: [(usize, usize); 4] = [(4, 1), (4, 2), (8, 3), (10, 4)];
const SIZES_BYTES: [usize; 2] = [4 << 10, 64 << 10];

fn columns(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let byte = |c: usize, i: usize| (c * 31 + i * 7 + i / 251) as u8;
    (0..count)
        .map(|c| (0..bytes).map(|i| byte(c, i)).collect())
        .collect()
}

fn encode(c: &mut Criterion) {
    for (k, m) in SHAPES {
        for bytes in SIZES_BYTES {
            let mut group = c.benchmark_group(format!("encode/{k}+{m}/{bytes}"));
            group.throughput(Throughput::Bytes((k * bytes) as u64));
            let code = Code::mds(k, m).expect("a possible shape");
            let data = columns(k, bytes);
            let sources: Vec<&[u8]> = data.iter().map(|d| &d[..]).collect();
            for kernels in Level::ALL.into_iter().filter_map(Kernels::at) {
                let mut parity = columns(m, bytes);
                group.bench_function(BenchmarkId::from_parameter(kernels.level().name()), |b| {
                    b.iter(|| {
                        let mut out: Vec<&mut [u8]> =
                            parity.iter_mut().map(|p| &mut p[..]).collect();
                        kernels.encode(&code, black_box(&sources), &mut out);
                    })
                });
            }
            let peer = ReedSolomon::new(k, m).expect("a possible shape");
            let mut parity = columns(m, bytes);
            group.bench_function("reed-solomon-erasure", |b| {
                b.iter(|| {
                    peer.encode_sep(black_box(&sources), &mut parity)
                        .expect("sizes agree")
                })
            });
        }
    }
}

fn reconstruct(c: &mut Criterion) {
    for (k, m) in SHAPES {
        for bytes in SIZES_BYTES {
            let mut group = c.benchmark_group(format!("reconstruct/{k}+{m}/{bytes}"));
            group.throughput(Throughput::Bytes((k * bytes) as u64));
            let code = Code::mds(k, m).expect("a possible shape");
            let all = columns(k + m, bytes);
            let have = ColumnSet::first(k + m).minus(ColumnSet::first(m.min(k)));
            let plan = code
                .plan(have, ColumnSet::single(0))
                .expect("m losses are survived");
            let sources: Vec<&[u8]> = plan.sources.iter().map(|s| &all[*s][..]).collect();
            let mut lost = vec![0; bytes];
            for kernels in Level::ALL.into_iter().filter_map(Kernels::at) {
                group.bench_function(BenchmarkId::from_parameter(kernels.level().name()), |b| {
                    b.iter(|| {
                        kernels.reconstruct(&plan, black_box(&sources), &mut [&mut lost[..]]);
                    })
                });
            }
        }
    }
}

criterion_group!(benches, encode, reconstruct);
criterion_main!(benches);
