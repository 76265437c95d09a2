//! Erasure codes of uraid: how parity is computed and how lost columns come back.
//!
//! * [`gf`]: the field GF(2^8) all codes are built on.
//! * [`ColumnSet`], [`Code`], [`Plan`]: which columns a stripe has, how they depend on each other
//!   and how wanted columns are computed from available ones. Pure mathematics, no bytes.
//! * [`Kernels`]: the loops over bytes, in the widest instruction set the CPU has.
//!
//! ```
//! use uraid_parity::{Code, ColumnSet, Kernels};
//!
//! let code = Code::mds(3, 2)?;
//! let kernels = Kernels::detect();
//! let data: [&[u8]; 3] = [b"red", b"sun", b"set"];
//! let (mut p, mut q) = ([0; 3], [0; 3]);
//! kernels.encode(&code, &data, &mut [&mut p, &mut q]);
//!
//! // Columns 0 and 2 are lost; 1, P and Q are left.
//! let have = ColumnSet::from_iter([1, 3, 4]);
//! let plan = code.plan(have, ColumnSet::single(2)).expect("two losses are survived");
//! assert_eq!(plan.sources, [1, 3, 4]);
//! let mut lost = [0; 3];
//! kernels.reconstruct(&plan, &[data[1], &p, &q], &mut [&mut lost]);
//! assert_eq!(&lost, b"set");
//! # Ok::<(), uraid_parity::CodeError>(())
//! ```

#[deny(unsafe_code)]
mod code;
#[deny(unsafe_code)]
mod columns;
#[deny(unsafe_code)]
pub mod gf;
mod kernel;
#[deny(unsafe_code)]
mod plan;

pub use code::{Code, CodeError, PARITY_MAX};
pub use columns::{COLUMNS_MAX, ColumnSet};
pub use kernel::{Kernels, Level};
pub use plan::{Plan, PlanRow};
