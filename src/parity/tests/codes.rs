//! Codes and plans: what can be recovered, proved by recovering it.

mod common;

use common::Random;
use uraid_parity::{Code, CodeError, ColumnSet, Kernels, PARITY_MAX, gf};

/// Bytes in each column: enough for the widest vectors and a tail.
const COLUMN_BYTES: usize = 75;

/// All columns of a random codeword.
fn codeword(code: &Code, random: &mut Random) -> Vec<Vec<u8>> {
    let data: Vec<Vec<u8>> = (0..code.data())
        .map(|_| random.bytes(COLUMN_BYTES))
        .collect();
    let mut parity = vec![vec![0; COLUMN_BYTES]; code.parity()];
    {
        let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut dsts: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        Kernels::detect().encode(code, &sources, &mut dsts);
    }
    [data, parity].concat()
}

/// Computes `want` from `have` by a plan and compares with the codeword. Returns the sources.
fn check_plan(code: &Code, word: &[Vec<u8>], have: ColumnSet, want: ColumnSet) -> Vec<usize> {
    let context = || format!("{}+{} {want:?} from {have:?}", code.data(), code.parity());
    let plan = code
        .plan(have, want)
        .unwrap_or_else(|| panic!("no plan: {}", context()));
    assert!(plan.sources.is_sorted(), "{}", context());
    assert!(
        have.contains_all(plan.sources.iter().copied().collect()),
        "{}",
        context()
    );
    assert!(
        plan.rows.iter().map(|row| row.column).eq(want),
        "{}",
        context()
    );
    let sources: Vec<&[u8]> = plan
        .sources
        .iter()
        .map(|&column| &word[column][..])
        .collect();
    let mut computed = vec![vec![0; COLUMN_BYTES]; want.len()];
    let mut dsts: Vec<&mut [u8]> = computed.iter_mut().map(Vec::as_mut_slice).collect();
    Kernels::detect().reconstruct(&plan, &sources, &mut dsts);
    for (column, computed) in want.iter().zip(&computed) {
        assert_eq!(computed, &word[column], "column {column}: {}", context());
    }
    plan.sources
}

/// Every set of columns below `columns`.
fn subsets(columns: usize) -> impl Iterator<Item = ColumnSet> {
    (0..1u128 << columns).map(ColumnSet)
}

/// Rank of the generator matrix's rows of these columns, by plain elimination: what decides
/// decodability, computed without the code under test.
fn rank(code: &Code, have: ColumnSet) -> usize {
    let generator = |column: usize| -> Vec<u8> {
        (0..code.data())
            .map(|j| match column.checked_sub(code.data()) {
                None => u8::from(column == j),
                Some(parity) => code.coefficient(parity, j),
            })
            .collect()
    };
    let mut rows: Vec<Vec<u8>> = have.iter().map(generator).collect();
    let mut rank = 0;
    for j in 0..code.data() {
        let Some(pivot) = (rank..rows.len()).find(|&r| rows[r][j] != 0) else {
            continue;
        };
        rows.swap(rank, pivot);
        let (above, below) = rows.split_at_mut(rank + 1);
        let pivot_row = &above[rank];
        for row in below {
            let factor = gf::div(row[j], pivot_row[j]);
            for (value, &pivot_value) in row.iter_mut().zip(pivot_row) {
                *value ^= gf::mul(factor, pivot_value);
            }
        }
        rank += 1;
    }
    rank
}

/// The small codes that are examined exhaustively.
fn small_codes() -> impl Iterator<Item = Code> {
    let parity_codes = (1..=10usize)
        .flat_map(|k| (0..=PARITY_MAX.min(10 - k)).map(move |m| Code::mds(k, m).unwrap()));
    let mirrors = [
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (2, 2),
        (2, 3),
        (3, 2),
        (3, 3),
        (4, 2),
        (5, 2),
    ];
    parity_codes.chain(mirrors.map(|(k, copies)| Code::mirrored(k, copies).unwrap()))
}

#[test]
fn decodable_is_what_the_generator_matrix_says() {
    for code in small_codes() {
        for have in subsets(code.columns()) {
            assert_eq!(
                code.can_decode(have),
                rank(&code, have) == code.data(),
                "{have:?}"
            );
        }
    }
}

#[test]
fn parity_codes_survive_every_loss_of_m_columns_and_none_beyond() {
    for k in 1..=10usize {
        for m in 0..=PARITY_MAX.min(10 - k) {
            let code = Code::mds(k, m).unwrap();
            for have in subsets(k + m) {
                assert_eq!(rank(&code, have), have.len().min(k), "{k}+{m} {have:?}");
            }
        }
    }
}

#[test]
fn every_erasure_pattern_of_small_arrays_is_recovered() {
    let mut random = Random::for_test(10);
    for code in small_codes() {
        let word = codeword(&code, &mut random);
        let all = ColumnSet::first(code.columns());
        for have in subsets(code.columns()) {
            let lost = all.minus(have);
            if code.can_decode(have) {
                check_plan(&code, &word, have, lost);
                check_plan(&code, &word, have, all);
                for column in all {
                    check_plan(&code, &word, have, ColumnSet::single(column));
                }
            } else {
                assert_eq!(code.plan(have, lost), None, "{have:?}");
            }
        }
    }
}

#[test]
fn sampled_erasure_patterns_of_large_arrays_are_recovered() {
    let mut random = Random::for_test(11);
    for (k, m) in [
        (60, 4),
        (56, 8),
        (20, 8),
        (120, 8),
        (127, 1),
        (126, 2),
        (16, 3),
    ] {
        let code = Code::mds(k, m).unwrap();
        let word = codeword(&code, &mut random);
        for _ in 0..60 {
            let mut lost = ColumnSet::EMPTY;
            while lost.len() < m {
                lost.insert(random.below(k + m));
            }
            let have = ColumnSet::first(k + m).minus(lost);
            check_plan(&code, &word, have, lost);
            let one_more = have.iter().nth(random.below(k)).unwrap();
            let too_few = have.minus(ColumnSet::single(one_more));
            assert!(!code.can_decode(too_few));
            assert_eq!(code.plan(too_few, lost), None);
        }
    }
}

#[test]
fn plans_use_as_few_sources_as_possible() {
    let mut random = Random::for_test(12);
    for code in small_codes() {
        let word = codeword(&code, &mut random);
        for have in subsets(code.columns()) {
            for column in ColumnSet::first(code.columns()) {
                // The search is dear: a sample of the larger arrays will do.
                if code.columns() > 6 && random.below(100) != 0 {
                    continue;
                }
                let want = ColumnSet::single(column);
                let fewest = subsets(code.columns())
                    .filter(|&sources| have.contains_all(sources))
                    .filter(|&sources| rank(&code, sources.union(want)) == rank(&code, sources))
                    .map(ColumnSet::len)
                    .min();
                match fewest {
                    Some(fewest) => {
                        assert_eq!(check_plan(&code, &word, have, want).len(), fewest)
                    }
                    None => assert_eq!(code.plan(have, want), None),
                }
            }
        }
    }
}

#[test]
fn plans_prefer_data_columns() {
    let code = Code::mds(4, 3).unwrap();
    let all = ColumnSet::first(7);
    let have = all.minus(ColumnSet::single(1));
    assert_eq!(
        code.plan(have, ColumnSet::single(1)).unwrap().sources,
        [0, 2, 3, 4]
    );
    assert_eq!(code.plan(all, ColumnSet::single(6)).unwrap().sources, [6]);
    let have = all.minus(ColumnSet::from_iter([1, 4]));
    assert_eq!(
        code.plan(have, ColumnSet::single(4)).unwrap().sources,
        [0, 2, 3, 5]
    );

    let mirrors = Code::mirrored(2, 3).unwrap();
    let want = ColumnSet::from_iter([2, 4]);
    assert_eq!(
        mirrors
            .plan(ColumnSet::from_iter([0, 3]), want)
            .unwrap()
            .sources,
        [0]
    );
    assert_eq!(
        mirrors
            .plan(ColumnSet::from_iter([0, 4]), ColumnSet::EMPTY)
            .unwrap()
            .sources,
        []
    );
}

#[test]
fn losses_survived_is_the_worst_case() {
    for code in small_codes() {
        for have in subsets(code.columns()) {
            // The fewest columns whose loss leaves too little, less one.
            let fatal = subsets(code.columns())
                .filter(|&lost| have.contains_all(lost) && !code.can_decode(have.minus(lost)))
                .map(ColumnSet::len)
                .min();
            let expected = fatal.map(|fatal| fatal.saturating_sub(1));
            assert_eq!(Some(code.losses_survived(have)), expected, "{have:?}");
        }
    }
}

#[test]
fn raid5_is_inside_raid6_is_inside_reed_solomon() {
    let largest = Code::mds(120, 8).unwrap();
    for m in 0..=8 {
        for k in 1..=120 {
            let code = Code::mds(k, m).unwrap();
            for (p, row) in code.rows().iter().enumerate() {
                assert_eq!(row[..], largest.rows()[p][..k], "row {p} of {k}+{m}");
            }
        }
    }
    assert!(largest.rows().iter().flatten().all(|&factor| factor != 0));
}

#[test]
fn p_and_q_are_those_of_md() {
    let mut random = Random::for_test(13);
    let code = Code::mds(7, 2).unwrap();
    let word = codeword(&code, &mut random);
    for i in 0..COLUMN_BYTES {
        let bytes: Vec<u8> = word.iter().map(|column| column[i]).collect();
        let p = bytes[..7].iter().fold(0, |sum, byte| sum ^ byte);
        // md: Q = sum of g^j D_j with g = 2 modulo 0x11d, here by shifts alone.
        let q = bytes[..7].iter().rev().fold(0, |sum, &byte| {
            let doubled = u16::from(sum) << 1;
            let reduced = if doubled & 0x100 == 0 {
                doubled
            } else {
                doubled ^ 0x11d
            };
            reduced as u8 ^ byte
        });
        assert_eq!((bytes[7], bytes[8]), (p, q));
    }
}

#[test]
fn raid10_decodes_with_one_copy_of_each_column() {
    for (k, copies) in [(1, 2), (2, 2), (3, 2), (2, 3), (3, 3), (5, 2)] {
        let code = Code::mirrored(k, copies).unwrap();
        assert_eq!((code.data(), code.columns()), (k, k * copies));
        for have in subsets(k * copies) {
            let one_of_each = (0..k).all(|j| (0..copies).any(|c| have.contains(c * k + j)));
            assert_eq!(
                code.can_decode(have),
                one_of_each,
                "{k} x {copies}: {have:?}"
            );
        }
    }
    let word = codeword(&Code::mirrored(3, 3).unwrap(), &mut Random::for_test(14));
    assert!((0..9).all(|column| word[column] == word[column % 3]));
}

#[test]
fn parities_of_data_are_those_with_a_coefficient() {
    for code in small_codes() {
        for data in subsets(code.data()) {
            let expected: ColumnSet = (0..code.parity())
                .filter(|&p| data.iter().any(|j| code.coefficient(p, j) != 0))
                .map(|p| code.data() + p)
                .collect();
            assert_eq!(code.parities_of(data), expected, "{data:?}");
        }
    }
}

#[test]
fn impossible_codes_are_refused() {
    assert_eq!(Code::mds(0, 2), Err(CodeError::NoData));
    assert_eq!(Code::mirrored(0, 2), Err(CodeError::NoData));
    assert_eq!(Code::mirrored(2, 0), Err(CodeError::NoData));
    assert_eq!(Code::mds(4, 9), Err(CodeError::TooMuchParity { parity: 9 }));
    assert_eq!(Code::mds(121, 8), Err(CodeError::TooManyColumns));
    assert_eq!(Code::mds(usize::MAX, 2), Err(CodeError::TooManyColumns));
    assert_eq!(
        Code::mirrored(usize::MAX, 2),
        Err(CodeError::TooManyColumns)
    );
    assert_eq!(Code::mirrored(65, 2), Err(CodeError::TooManyColumns));
    assert!(Code::mds(120, 8).is_ok() && Code::mirrored(64, 2).is_ok());
    let message = Code::mds(4, 9).unwrap_err().to_string();
    assert!(message.contains("9 parity columns"), "{message}");
}
