//! Every level against the scalar one and against `reed_solomon_erasure`.

mod common;

use common::Random;
use reed_solomon_erasure::galois_8 as oracle;
use uraid_parity::{Code, Kernels, Level};

/// Bytes in front of and behind every slice under test that must stay as they are.
const GUARD_BYTES: usize = 70;
const GUARD: u8 = 0xa5;

/// All levels of this CPU.
fn levels() -> impl Iterator<Item = &'static Kernels> {
    Level::ALL.into_iter().filter_map(Kernels::at)
}

/// Runs `write` on `initial` as a slice `offset` bytes into a larger buffer, checks that nothing
/// around it was touched and returns the result.
fn guarded(initial: &[u8], offset: usize, write: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut buffer = vec![GUARD; GUARD_BYTES + offset];
    let start = buffer.len();
    buffer.extend_from_slice(initial);
    buffer.extend_from_slice(&[GUARD; GUARD_BYTES]);
    write(&mut buffer[start..start + initial.len()]);
    let end = start + initial.len();
    assert!(
        buffer[..start]
            .iter()
            .chain(&buffer[end..])
            .all(|&b| b == GUARD),
        "wrote outside"
    );
    buffer[start..end].to_vec()
}

/// Sum of the sources times their factors, by the oracle alone.
fn expected_sum(factors: &[u8], sources: &[&[u8]], len: usize) -> Vec<u8> {
    let mut sum = vec![0; len];
    for (&factor, source) in factors.iter().zip(sources) {
        oracle::mul_slice_xor(factor, source, &mut sum);
    }
    sum
}

fn slices(columns: &[Vec<u8>]) -> Vec<&[u8]> {
    columns.iter().map(Vec::as_slice).collect()
}

#[test]
fn the_levels_of_this_cpu_are_found() {
    assert!(Kernels::at(Level::Scalar).is_some());
    #[cfg(target_arch = "x86_64")]
    assert_eq!(
        Kernels::at(Level::Avx2).is_some(),
        is_x86_feature_detected!("avx2")
    );
    for kernels in levels() {
        assert!(kernels.level().is_available());
        assert_eq!(
            Kernels::at(kernels.level()).map(Kernels::level),
            Some(kernels.level())
        );
    }
    assert!(Kernels::detect().level().is_available());
}

#[test]
fn accumulating_and_updating_match_the_oracle_at_every_length() {
    let mut random = Random::for_test(1);
    for len in 0..=300 {
        let (old, new, before) = (random.bytes(len), random.bytes(len), random.bytes(len));
        let difference: Vec<u8> = old.iter().zip(&new).map(|(a, b)| a ^ b).collect();
        let offset = random.below(64);
        for factor in [0, 1, 2, random.next() as u8] {
            let mut multiplied = before.clone();
            oracle::mul_slice_xor(factor, &new, &mut multiplied);
            let mut updated = before.clone();
            oracle::mul_slice_xor(factor, &difference, &mut updated);
            for kernels in levels() {
                let context = format!("{kernels:?} factor {factor} len {len} offset {offset}");
                let got = guarded(&before, offset, |dst| kernels.mul_acc(dst, factor, &new));
                assert_eq!(got, multiplied, "mul_acc {context}");
                let got = guarded(&before, offset, |dst| {
                    kernels.update(factor, &old, &new, dst)
                });
                assert_eq!(got, updated, "update {context}");
                if factor == 1 {
                    let got = guarded(&before, offset, |dst| kernels.xor_acc(dst, &new));
                    assert_eq!(got, multiplied, "xor_acc {context}");
                }
            }
        }
    }
}

#[test]
fn every_factor_times_every_byte_matches_the_oracle() {
    let all: Vec<u8> = (0..=255).collect();
    for factor in 0..=255 {
        let mut expected = vec![0; all.len()];
        oracle::mul_slice(factor, &all, &mut expected);
        for kernels in levels() {
            let mut product = vec![0; all.len()];
            kernels.mul_acc(&mut product, factor, &all);
            assert_eq!(product, expected, "mul_acc {kernels:?} factor {factor}");
            let mut product = vec![0x55; all.len()];
            kernels.combine(&[factor], &[&all], &mut product);
            assert_eq!(product, expected, "combine {kernels:?} factor {factor}");
            let mut product = vec![0; all.len()];
            kernels.update(factor, &vec![0; all.len()], &all, &mut product);
            assert_eq!(product, expected, "update {kernels:?} factor {factor}");
        }
    }
}

#[test]
fn combining_matches_the_oracle_at_every_length() {
    let mut random = Random::for_test(2);
    for len in 0..=300 {
        let sources: Vec<Vec<u8>> = (0..1 + len % 9).map(|_| random.bytes(len)).collect();
        let factors = random.bytes(sources.len());
        let expected = expected_sum(&factors, &slices(&sources), len);
        for kernels in levels() {
            let garbage = random.bytes(len);
            let got = guarded(&garbage, len % 64, |dst| {
                kernels.combine(&factors, &slices(&sources), dst);
            });
            assert_eq!(got, expected, "{kernels:?} len {len}");
        }
    }
}

/// Rows that take every special path, in random order: zeros, copies, sums, powers of two, any.
fn random_row(random: &mut Random, sources: usize) -> Vec<u8> {
    match random.below(6) {
        0 => vec![1; sources],
        1 => (0..sources).map(|j| oracle::exp(2, j)).collect(),
        2 => (0..sources).map(|j| u8::from(j == sources / 2)).collect(),
        3 => vec![0; sources],
        _ => random.bytes(sources),
    }
}

#[test]
fn many_outputs_at_once_match_the_oracle() {
    let mut random = Random::for_test(3);
    for round in 0..300 {
        let (count, outputs) = (random.below(12), random.below(20));
        let len = random.below(5000);
        let offsets: Vec<usize> = (0..count).map(|_| random.below(64)).collect();
        let buffers: Vec<Vec<u8>> = offsets
            .iter()
            .map(|offset| random.bytes(offset + len))
            .collect();
        let sources: Vec<&[u8]> = buffers
            .iter()
            .zip(&offsets)
            .map(|(buffer, &offset)| &buffer[offset..])
            .collect();
        let rows: Vec<Vec<u8>> = (0..outputs)
            .map(|_| random_row(&mut random, count))
            .collect();
        let expected: Vec<Vec<u8>> = rows
            .iter()
            .map(|row| expected_sum(row, &sources, len))
            .collect();
        for kernels in levels() {
            let mut got: Vec<Vec<u8>> = rows.iter().map(|_| random.bytes(len)).collect();
            let mut dsts: Vec<&mut [u8]> = got.iter_mut().map(Vec::as_mut_slice).collect();
            kernels.combine_many(&rows, &sources, &mut dsts);
            assert!(
                got == expected,
                "{kernels:?} round {round}: {rows:?} over {len} bytes"
            );
        }
    }
}

#[test]
fn encoding_matches_the_coefficients_for_every_shape() {
    let mut random = Random::for_test(4);
    for m in 0..=8 {
        for k in [1, 2, 3, 4, 8, 10, 31, 64, 128 - m] {
            let code = Code::mds(k, m).unwrap();
            let len = 4096 + random.below(300);
            let data: Vec<Vec<u8>> = (0..k).map(|_| random.bytes(len)).collect();
            let expected: Vec<Vec<u8>> = (0..m)
                .map(|p| {
                    let factors: Vec<u8> = (0..k).map(|j| code.coefficient(p, j)).collect();
                    expected_sum(&factors, &slices(&data), len)
                })
                .collect();
            for kernels in levels() {
                let mut parity: Vec<Vec<u8>> = (0..m).map(|_| random.bytes(len)).collect();
                let mut dsts: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
                kernels.encode(&code, &slices(&data), &mut dsts);
                assert!(parity == expected, "{kernels:?} {k}+{m}");
            }
        }
    }
}

#[test]
fn updating_parity_equals_encoding_anew() {
    let mut random = Random::for_test(5);
    let code = Code::mds(5, 4).unwrap();
    let mut data: Vec<Vec<u8>> = (0..5).map(|_| random.bytes(4096)).collect();
    let encode = |kernels: &Kernels, data: &[Vec<u8>]| {
        let mut parity = vec![vec![0; 4096]; 4];
        let mut dsts: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        kernels.encode(&code, &slices(data), &mut dsts);
        parity
    };
    for kernels in levels() {
        let mut parity = encode(kernels, &data);
        for (j, data) in data.iter_mut().enumerate() {
            let old = std::mem::replace(data, random.bytes(4096));
            for (p, parity) in parity.iter_mut().enumerate() {
                kernels.update(code.coefficient(p, j), &old, data, parity);
            }
        }
        assert!(parity == encode(kernels, &data), "{kernels:?}");
    }
}

#[test]
#[should_panic(expected = "slices of one length")]
fn slices_of_different_lengths_are_a_bug() {
    Kernels::detect().combine(&[1, 1], &[&[0; 64], &[0; 63]], &mut [0; 64]);
}
