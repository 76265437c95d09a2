//! The loops over bytes, chosen at run time by what the CPU can do.
//!
//! The vector loops are written once ([`vector`]) over small wrappers of each instruction set's
//! registers, and stop at the last whole vector; [`scalar`] finishes the rest.

#[cfg(target_arch = "aarch64")]
mod arm;
mod batch;
#[deny(unsafe_code)]
mod level;
mod scalar;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[deny(unsafe_code)]
mod tables;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports, unused_macros)
)]
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use level::Level;

use crate::code::Code;
use crate::columns::COLUMNS_MAX;
use crate::plan::Plan;
use batch::Batch;
use std::fmt;
use std::sync::OnceLock;
use vector::Functions;

/// Environment variable that lowers the level, by [`Level::name`].
const LEVEL_VARIABLE: &str = "URAID_SIMD";

/// Parity arithmetic on slices of bytes, of any length and alignment.
///
/// Every method panics when slices that belong together differ in length or number: that is the
/// caller's bug.
pub struct Kernels {
    level: Level,
    /// `None` for [`Level::Scalar`]. Otherwise the CPU is known to have the features, because
    /// only [`Kernels::at`] hands this out.
    functions: Option<&'static Functions>,
}

impl Kernels {
    /// The kernels for the best level of this CPU.
    ///
    /// The environment variable `URAID_SIMD` lowers the level to the one it names; a value that
    /// is unknown or that this CPU lacks is ignored. It is read once.
    pub fn detect() -> &'static Kernels {
        static DETECTED: OnceLock<&'static Kernels> = OnceLock::new();
        DETECTED.get_or_init(|| {
            let wanted = std::env::var(LEVEL_VARIABLE).ok();
            Kernels::at(Level::choose(wanted.as_deref())).expect("an available level was chosen")
        })
    }

    /// The kernels for one level, or `None` if this CPU lacks it.
    pub fn at(level: Level) -> Option<&'static Kernels> {
        if !level.is_available() {
            return None;
        }
        KERNELS.iter().find(|kernels| kernels.level == level)
    }

    /// The instruction set in use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// `dst ^= src`.
    pub fn xor_acc(&self, dst: &mut [u8], src: &[u8]) {
        self.mul_acc(dst, 1, src);
    }

    /// `dst ^= factor * src`.
    pub fn mul_acc(&self, dst: &mut [u8], factor: u8, src: &[u8]) {
        assert_eq!(dst.len(), src.len(), "slices of one length");
        if factor == 0 {
            return;
        }
        let done = self.functions.map_or(0, |functions| {
            let accumulate = if factor == 1 {
                functions.xor_acc
            } else {
                functions.mul_acc
            };
            // SAFETY: the functions fit the CPU (see the field), the slices have one length.
            unsafe { accumulate(dst, factor, src) }
        });
        scalar::mul_acc(&mut dst[done..], factor, &src[done..]);
    }

    /// `parity ^= factor * (old ^ new)`: what becomes of a parity when one of its data columns
    /// changes from `old` to `new`.
    pub fn update(&self, factor: u8, old: &[u8], new: &[u8], parity: &mut [u8]) {
        assert!(
            old.len() == parity.len() && new.len() == parity.len(),
            "slices of one length"
        );
        if factor == 0 {
            return;
        }
        let done = self.functions.map_or(0, |functions| {
            let update = if factor == 1 {
                functions.xor_update
            } else {
                functions.mul_update
            };
            // SAFETY: the functions fit the CPU (see the field), the slices have one length.
            unsafe { update(factor, old, new, parity) }
        });
        scalar::update(factor, &old[done..], &new[done..], &mut parity[done..]);
    }

    /// Computes all parity columns from all data columns.
    pub fn encode(&self, code: &Code, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert_eq!(data.len(), code.data(), "one slice for each data column");
        self.combine_many(code.rows(), data, parity);
    }

    /// Computes the columns of `plan.rows` from those of `plan.sources`, each in its order.
    pub fn reconstruct(&self, plan: &Plan, sources: &[&[u8]], wanted: &mut [&mut [u8]]) {
        assert_eq!(
            sources.len(),
            plan.sources.len(),
            "one slice for each source"
        );
        self.combine_many(&plan.rows, sources, wanted);
    }

    /// `dst` becomes the sum of the sources, each multiplied by its coefficient.
    pub fn combine(&self, coefficients: &[u8], sources: &[&[u8]], dst: &mut [u8]) {
        self.combine_many(&[coefficients], sources, &mut [dst]);
    }

    /// Each of `dsts` becomes the sum of the sources, each multiplied by its coefficient in the
    /// row that belongs to the destination. At most [`COLUMNS_MAX`] sources; without any the
    /// destinations become zero.
    pub fn combine_many<R: AsRef<[u8]>>(
        &self,
        rows: &[R],
        sources: &[&[u8]],
        dsts: &mut [&mut [u8]],
    ) {
        assert_eq!(rows.len(), dsts.len(), "one row for each destination");
        assert!(
            sources.len() <= COLUMNS_MAX,
            "at most {COLUMNS_MAX} sources"
        );
        let Some(len) = dsts.first().map(|dst| dst.len()) else {
            return;
        };
        assert!(
            dsts.iter().all(|dst| dst.len() == len),
            "slices of one length"
        );
        assert!(
            sources.iter().all(|source| source.len() == len),
            "slices of one length"
        );
        let mut batch = Batch::new();
        for (row, dst) in rows.iter().zip(dsts) {
            let row = row.as_ref();
            assert_eq!(row.len(), sources.len(), "one coefficient for each source");
            if let Some(source) = copied_source(row) {
                dst.copy_from_slice(sources[source]);
            } else if let Err(dst) = batch.add(row, dst) {
                batch.compute(self.functions, sources, len);
                batch = Batch::new();
                batch.add(row, dst).expect("a new batch has room");
            }
        }
        batch.compute(self.functions, sources, len);
    }
}

/// The source that this row merely copies, as every row of a mirror does.
fn copied_source(row: &[u8]) -> Option<usize> {
    let source = row.iter().position(|&factor| factor != 0)?;
    let alone = row[source] == 1 && row[source + 1..].iter().all(|&factor| factor == 0);
    alone.then_some(source)
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernels").field(&self.level).finish()
    }
}

/// The kernels compiled for this architecture.
static KERNELS: &[Kernels] = &[
    Kernels {
        level: Level::Scalar,
        functions: None,
    },
    #[cfg(target_arch = "x86_64")]
    Kernels {
        level: Level::Ssse3,
        functions: Some(&x86::ssse3::FUNCTIONS),
    },
    #[cfg(target_arch = "x86_64")]
    Kernels {
        level: Level::Avx2,
        functions: Some(&x86::avx2::FUNCTIONS),
    },
    #[cfg(target_arch = "x86_64")]
    Kernels {
        level: Level::Avx2Gfni,
        functions: Some(&x86::avx2_gfni::FUNCTIONS),
    },
    #[cfg(target_arch = "x86_64")]
    Kernels {
        level: Level::Avx512bw,
        functions: Some(&x86::avx512bw::FUNCTIONS),
    },
    #[cfg(target_arch = "x86_64")]
    Kernels {
        level: Level::Gfni,
        functions: Some(&x86::gfni::FUNCTIONS),
    },
    #[cfg(target_arch = "aarch64")]
    Kernels {
        level: Level::Neon,
        functions: Some(&arm::neon::FUNCTIONS),
    },
];
