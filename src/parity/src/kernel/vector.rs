//! The kernels in terms of an abstract vector of bytes; each instruction set supplies the vector.
//!
//! Everything here is `#[inline(always)]`, so that it is compiled inside the functions of the
//! instruction set, with its features enabled. That is also why all of it is unsafe: whoever
//! calls must know that the CPU has them.

/// Most outputs that are sums of sources each multiplied by a table, in one [`Pass`]. With as
/// many, the accumulators just fit into 16 registers.
pub(super) const PRODUCTS_MAX: usize = 6;

/// A vector of bytes in registers of one instruction set.
///
/// # Safety
/// No method may be called on a CPU without the instruction set. `load` and `store` need `BYTES`
/// readable or writable bytes at the pointer, of any alignment.
pub(super) trait Vector: Copy {
    /// Size in bytes.
    const BYTES: usize;
    /// Vectors (4, 2 or 1) to work on at a time with `products` general sums: as many as the
    /// registers hold, so that loading a factor pays and the sums do not wait for each other.
    fn unrolled(products: usize) -> usize;
    /// A factor, ready to multiply by.
    type Factor: Copy;

    unsafe fn zero() -> Self;
    unsafe fn load(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut u8);
    unsafe fn xor(self, other: Self) -> Self;
    /// Every byte times 2.
    unsafe fn double(self) -> Self;
    unsafe fn factor(factor: u8) -> Self::Factor;
    /// Every byte times the factor.
    unsafe fn mul(self, factor: Self::Factor) -> Self;
}

/// Outputs that are computed together, so that each source is read once for all of them.
pub(super) struct Pass<'a> {
    pub sources: &'a [&'a [u8]],
    /// First the sum of all sources if wanted, then their Horner sum (source j times 2^j) if
    /// wanted, then the general sums.
    pub outputs: &'a [*mut u8],
    /// The factors of the general sums: for each source in turn one for each sum.
    pub factors: &'a [u8],
    /// Bytes of every source and output.
    pub len: usize,
}

/// Computes a pass as far as whole vectors go and returns where it stopped.
///
/// `SUM` and `HORNER` say whether those outputs are wanted, `PRODUCTS` how many general ones.
///
/// # Safety
/// The CPU has V's instructions; sources and outputs are valid for `len` bytes and no output
/// overlaps anything else; `outputs` and `factors` have the lengths that the constants imply.
#[inline(always)]
pub(super) unsafe fn combine<
    V: Vector,
    const SUM: bool,
    const HORNER: bool,
    const PRODUCTS: usize,
>(
    pass: &Pass,
) -> usize {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        let done = match V::unrolled(PRODUCTS) {
            4 => combine_from::<V, SUM, HORNER, PRODUCTS, 4>(pass, 0),
            2 => combine_from::<V, SUM, HORNER, PRODUCTS, 2>(pass, 0),
            _ => 0,
        };
        combine_from::<V, SUM, HORNER, PRODUCTS, 1>(pass, done)
    }
}

/// [`combine`] from byte `at` on, `UNROLLED` vectors at a time.
///
/// # Safety
/// As for [`combine`], and `at` is not above the length.
#[inline(always)]
unsafe fn combine_from<
    V: Vector,
    const SUM: bool,
    const HORNER: bool,
    const PRODUCTS: usize,
    const UNROLLED: usize,
>(
    pass: &Pass,
    mut at: usize,
) -> usize {
    while pass.len - at >= UNROLLED * V::BYTES {
        // SAFETY: the vectors from `at` on end within the length; the rest is the caller's.
        unsafe { combine_at::<V, SUM, HORNER, PRODUCTS, UNROLLED>(pass, at) };
        at += UNROLLED * V::BYTES;
    }
    at
}

/// Computes `UNROLLED` vectors of all outputs from byte `at` on.
///
/// # Safety
/// As for [`combine`], and the vectors from `at` on end within `len`.
#[inline(always)]
unsafe fn combine_at<
    V: Vector,
    const SUM: bool,
    const HORNER: bool,
    const PRODUCTS: usize,
    const UNROLLED: usize,
>(
    pass: &Pass,
    at: usize,
) {
    // SAFETY: indices are below the lengths that the caller vouches for.
    unsafe {
        let mut sum = [V::zero(); UNROLLED];
        let mut horner = [V::zero(); UNROLLED];
        let mut products = [[V::zero(); UNROLLED]; PRODUCTS];
        // Horner's rule takes the highest power first.
        for s in (0..pass.sources.len()).rev() {
            let source = pass.sources.get_unchecked(s).as_ptr().add(at);
            let factors = pass.factors.as_ptr().add(s * PRODUCTS);
            let mut x = [V::zero(); UNROLLED];
            for u in 0..UNROLLED {
                x[u] = V::load(source.add(u * V::BYTES));
                if SUM {
                    sum[u] = sum[u].xor(x[u]);
                }
                if HORNER {
                    horner[u] = horner[u].double().xor(x[u]);
                }
            }
            for (p, products) in products.iter_mut().enumerate() {
                let factor = V::factor(*factors.add(p));
                for u in 0..UNROLLED {
                    products[u] = products[u].xor(x[u].mul(factor));
                }
            }
        }
        let mut outputs = pass.outputs.as_ptr();
        let mut emit = |vectors: [V; UNROLLED]| {
            for (u, vector) in vectors.into_iter().enumerate() {
                vector.store((*outputs).add(at + u * V::BYTES));
            }
            outputs = outputs.add(1);
        };
        if SUM {
            emit(sum);
        }
        if HORNER {
            emit(horner);
        }
        for vectors in products {
            emit(vectors);
        }
    }
}

/// `dst ^= src`, or `dst ^= factor * src` if `MULTIPLY`, as far as whole vectors go; returns
/// where it stopped.
///
/// # Safety
/// The CPU has V's instructions and the slices have the same length.
#[inline(always)]
pub(super) unsafe fn accumulate<V: Vector, const MULTIPLY: bool>(
    dst: &mut [u8],
    factor: u8,
    src: &[u8],
) -> usize {
    let mut at = 0;
    // SAFETY: every access lies in a vector that ends within the slices.
    unsafe {
        let factor = V::factor(factor);
        while dst.len() - at >= V::BYTES {
            let x = V::load(src.as_ptr().add(at));
            let x = if MULTIPLY { x.mul(factor) } else { x };
            let to = dst.as_mut_ptr().add(at);
            V::load(to).xor(x).store(to);
            at += V::BYTES;
        }
    }
    at
}

/// `parity ^= old ^ new`, or `parity ^= factor * (old ^ new)` if `MULTIPLY`, as far as whole
/// vectors go; returns where it stopped.
///
/// # Safety
/// The CPU has V's instructions and the slices have the same length.
#[inline(always)]
pub(super) unsafe fn update<V: Vector, const MULTIPLY: bool>(
    factor: u8,
    old: &[u8],
    new: &[u8],
    parity: &mut [u8],
) -> usize {
    let mut at = 0;
    // SAFETY: every access lies in a vector that ends within the slices.
    unsafe {
        let factor = V::factor(factor);
        while parity.len() - at >= V::BYTES {
            let x = V::load(old.as_ptr().add(at)).xor(V::load(new.as_ptr().add(at)));
            let x = if MULTIPLY { x.mul(factor) } else { x };
            let to = parity.as_mut_ptr().add(at);
            V::load(to).xor(x).store(to);
            at += V::BYTES;
        }
    }
    at
}

/// The compiled functions of one instruction set.
pub(super) struct Functions {
    /// [`combine`] with neither sum nor Horner sum, by the number of general sums.
    pub products: [CombineFn; PRODUCTS_MAX + 1],
    /// [`combine`] with the sum.
    pub sum: [CombineFn; PRODUCTS_MAX + 1],
    /// [`combine`] with the Horner sum.
    pub horner: [CombineFn; PRODUCTS_MAX + 1],
    /// [`combine`] with sum and Horner sum.
    pub sum_horner: [CombineFn; PRODUCTS_MAX + 1],
    pub xor_acc: unsafe fn(&mut [u8], u8, &[u8]) -> usize,
    pub mul_acc: unsafe fn(&mut [u8], u8, &[u8]) -> usize,
    pub xor_update: unsafe fn(u8, &[u8], &[u8], &mut [u8]) -> usize,
    pub mul_update: unsafe fn(u8, &[u8], &[u8], &mut [u8]) -> usize,
}

/// See [`combine`] for what a caller must know.
pub(super) type CombineFn = unsafe fn(&Pass) -> usize;

/// Makes a module with the [`Functions`] for a vector, compiled with the named target features.
macro_rules! functions {
    ($module:ident, $vector:ty, $($feature:literal),+) => {
        pub(in crate::kernel) mod $module {
            use crate::kernel::vector::{self, Functions, Pass};

            // These ask of their callers what the functions of the same names in `vector` ask; to
            // have the features is a part of that.
            $(#[target_feature(enable = $feature)])+
            unsafe fn combine<const SUM: bool, const HORNER: bool, const PRODUCTS: usize>(
                pass: &Pass,
            ) -> usize {
                // SAFETY: the caller's promise, passed on; the features are enabled here.
                unsafe { vector::combine::<$vector, SUM, HORNER, PRODUCTS>(pass) }
            }

            $(#[target_feature(enable = $feature)])+
            unsafe fn accumulate<const MULTIPLY: bool>(
                dst: &mut [u8],
                factor: u8,
                src: &[u8],
            ) -> usize {
                // SAFETY: the caller's promise, passed on; the features are enabled here.
                unsafe { vector::accumulate::<$vector, MULTIPLY>(dst, factor, src) }
            }

            $(#[target_feature(enable = $feature)])+
            unsafe fn update<const MULTIPLY: bool>(
                factor: u8,
                old: &[u8],
                new: &[u8],
                parity: &mut [u8],
            ) -> usize {
                // SAFETY: the caller's promise, passed on; the features are enabled here.
                unsafe { vector::update::<$vector, MULTIPLY>(factor, old, new, parity) }
            }

            macro_rules! by_products {
                ($sum:literal, $horner:literal) => {
                    [
                        combine::<$sum, $horner, 0>,
                        combine::<$sum, $horner, 1>,
                        combine::<$sum, $horner, 2>,
                        combine::<$sum, $horner, 3>,
                        combine::<$sum, $horner, 4>,
                        combine::<$sum, $horner, 5>,
                        combine::<$sum, $horner, 6>,
                    ]
                };
            }

            pub(in crate::kernel) static FUNCTIONS: Functions = Functions {
                products: by_products!(false, false),
                sum: by_products!(true, false),
                horner: by_products!(false, true),
                sum_horner: by_products!(true, true),
                xor_acc: accumulate::<false>,
                mul_acc: accumulate::<true>,
                xor_update: update::<false>,
                mul_update: update::<true>,
            };
        }
    };
}

pub(super) use functions;
