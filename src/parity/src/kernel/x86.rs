//! Vectors of the x86-64 instruction sets.

use super::tables::{MATRICES, NIBBLES};
use super::vector::{Vector, functions};
use crate::gf::POLYNOMIAL;
use std::arch::x86_64::*;

/// What doubling adds to a byte whose highest bit falls out.
const REDUCTION: i8 = (POLYNOMIAL & 0xff) as i8;

functions!(ssse3, crate::kernel::x86::Ssse3, "ssse3");
functions!(avx2, crate::kernel::x86::Avx2, "avx2");
functions!(avx2_gfni, crate::kernel::x86::Avx2Gfni, "avx2", "gfni");
functions!(
    avx512bw,
    crate::kernel::x86::Avx512bw,
    "avx512f",
    "avx512bw"
);
functions!(
    gfni,
    crate::kernel::x86::Gfni,
    "avx512f",
    "avx512bw",
    "gfni"
);

/// 16 bytes, multiplied by shuffles.
#[derive(Clone, Copy)]
pub(super) struct Ssse3(__m128i);

impl Vector for Ssse3 {
    const BYTES: usize = 16;
    type Factor = (__m128i, __m128i);

    #[inline(always)]
    fn unrolled(products: usize) -> usize {
        match products {
            0 => 4,
            1..=2 => 2,
            _ => 1,
        }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm_setzero_si128() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above, and the pointer is good for a vector.
        Self(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as above, and the pointer is good for a vector.
        unsafe { _mm_storeu_si128(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm_xor_si128(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn double(self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe {
            let overflowing = _mm_cmpgt_epi8(_mm_setzero_si128(), self.0);
            let reduction = _mm_and_si128(overflowing, _mm_set1_epi8(REDUCTION));
            Self(_mm_xor_si128(_mm_add_epi8(self.0, self.0), reduction))
        }
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        let nibbles = NIBBLES[factor as usize].0.as_ptr();
        // SAFETY: as above, and the table has 16 bytes for each half.
        unsafe {
            (
                _mm_loadu_si128(nibbles.cast()),
                _mm_loadu_si128(nibbles.add(16).cast()),
            )
        }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self::Factor) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe {
            let (low, high) = factor;
            let nibble = _mm_set1_epi8(0x0f);
            let low = _mm_shuffle_epi8(low, _mm_and_si128(self.0, nibble));
            let high = _mm_shuffle_epi8(high, _mm_and_si128(_mm_srli_epi16::<4>(self.0), nibble));
            Self(_mm_xor_si128(low, high))
        }
    }
}

/// 32 bytes, multiplied by shuffles.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256i);

impl Vector for Avx2 {
    const BYTES: usize = 32;
    type Factor = (__m256i, __m256i);

    #[inline(always)]
    fn unrolled(products: usize) -> usize {
        match products {
            0 => 4,
            1..=2 => 2,
            _ => 1,
        }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above, and the pointer is good for a vector.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as above, and the pointer is good for a vector.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn double(self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe {
            let overflowing = _mm256_cmpgt_epi8(_mm256_setzero_si256(), self.0);
            let reduction = _mm256_and_si256(overflowing, _mm256_set1_epi8(REDUCTION));
            Self(_mm256_xor_si256(_mm256_add_epi8(self.0, self.0), reduction))
        }
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        let nibbles = NIBBLES[factor as usize].0.as_ptr();
        // SAFETY: as above, and the table has 16 bytes for each half.
        unsafe {
            let low = _mm_loadu_si128(nibbles.cast());
            let high = _mm_loadu_si128(nibbles.add(16).cast());
            (
                _mm256_broadcastsi128_si256(low),
                _mm256_broadcastsi128_si256(high),
            )
        }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self::Factor) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe {
            let (low, high) = factor;
            let nibble = _mm256_set1_epi8(0x0f);
            let low = _mm256_shuffle_epi8(low, _mm256_and_si256(self.0, nibble));
            let high = _mm256_shuffle_epi8(
                high,
                _mm256_and_si256(_mm256_srli_epi16::<4>(self.0), nibble),
            );
            Self(_mm256_xor_si256(low, high))
        }
    }
}

/// 32 bytes, multiplied by bit matrices.
#[derive(Clone, Copy)]
pub(super) struct Avx2Gfni(__m256i);

impl Vector for Avx2Gfni {
    const BYTES: usize = 32;
    type Factor = __m256i;

    #[inline(always)]
    fn unrolled(products: usize) -> usize {
        match products {
            0 => 4,
            1..=3 => 2,
            _ => 1,
        }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above, and the pointer is good for a vector.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as above, and the pointer is good for a vector.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn double(self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe { self.mul(Self::factor(2)) }
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe { _mm256_set1_epi64x(MATRICES[factor as usize].cast_signed()) }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self::Factor) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe { Self(_mm256_gf2p8affine_epi64_epi8::<0>(self.0, factor)) }
    }
}

/// 64 bytes, multiplied by shuffles.
#[derive(Clone, Copy)]
pub(super) struct Avx512bw(__m512i);

impl Vector for Avx512bw {
    const BYTES: usize = 64;
    type Factor = (__m512i, __m512i);

    #[inline(always)]
    fn unrolled(products: usize) -> usize {
        match products {
            0..=1 => 4,
            2..=4 => 2,
            _ => 1,
        }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above, and the pointer is good for a vector.
        Self(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as above, and the pointer is good for a vector.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn double(self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe {
            let overflowing = _mm512_movepi8_mask(self.0);
            let reduction = _mm512_maskz_set1_epi8(overflowing, REDUCTION);
            Self(_mm512_xor_si512(_mm512_add_epi8(self.0, self.0), reduction))
        }
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        let nibbles = NIBBLES[factor as usize].0.as_ptr();
        // SAFETY: as above, and the table has 16 bytes for each half.
        unsafe {
            let low = _mm_loadu_si128(nibbles.cast());
            let high = _mm_loadu_si128(nibbles.add(16).cast());
            (_mm512_broadcast_i32x4(low), _mm512_broadcast_i32x4(high))
        }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self::Factor) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe {
            let (low, high) = factor;
            let nibble = _mm512_set1_epi8(0x0f);
            let low = _mm512_shuffle_epi8(low, _mm512_and_si512(self.0, nibble));
            let high = _mm512_shuffle_epi8(
                high,
                _mm512_and_si512(_mm512_srli_epi16::<4>(self.0), nibble),
            );
            Self(_mm512_xor_si512(low, high))
        }
    }
}

/// 64 bytes, multiplied by bit matrices.
#[derive(Clone, Copy)]
pub(super) struct Gfni(__m512i);

impl Vector for Gfni {
    const BYTES: usize = 64;
    type Factor = __m512i;

    #[inline(always)]
    fn unrolled(products: usize) -> usize {
        if products <= 3 { 4 } else { 2 }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above, and the pointer is good for a vector.
        Self(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as above, and the pointer is good for a vector.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn double(self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe { self.mul(Self::factor(2)) }
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe { _mm512_set1_epi64(MATRICES[factor as usize].cast_signed()) }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self::Factor) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe { Self(_mm512_gf2p8affine_epi64_epi8::<0>(self.0, factor)) }
    }
}
