//! Checksums on one thread, cache-hot: as the engine computes them, beside the plain `crc32c`.
//!
//! `cargo bench --bench checksum [-- --quick]`. The engine's sum of a block starts from a seed
//! made of the block's place; a chunk is so many blocks, each with a sum of its own.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use uraid_buffer::{BufMut, Pool};
use uraid_core::checksum;
use uraid_core::geometry::Slot;
use uraid_core::units::BLOCK_BYTES;

/// Of the arrays that most people make.
const CHUNK_BYTES: usize = 64 << 10;

fn content(bytes: usize) -> BufMut {
    let mut content = Pool::heap().zeroed(bytes);
    let byte = |i: usize| (i * 7 + i / 251) as u8;
    content
        .iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = byte(i));
    content
}

fn blocks(bytes: &[u8]) -> u32 {
    let sum = |(row, block)| checksum::block(1, Slot(5), row, 2, block);
    let sums = bytes.chunks_exact(BLOCK_BYTES).enumerate().map(sum);
    sums.fold(0, |all, sum| all ^ sum)
}

fn sums(c: &mut Criterion) {
    for (name, bytes) in [("block", BLOCK_BYTES), ("chunk", CHUNK_BYTES)] {
        let content = content(bytes);
        let mut group = c.benchmark_group(format!("checksum/{name}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter("engine"), |b| {
            b.iter(|| blocks(black_box(&content)))
        });
        group.bench_function(BenchmarkId::from_parameter("crc32c"), |b| {
            b.iter(|| crc32c::crc32c(black_box(&content)))
        });
    }
}

criterion_group!(benches, sums);
criterion_main!(benches);
