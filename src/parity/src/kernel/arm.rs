//! Vectors of 64 bit Arm.

use super::tables::NIBBLES;
use super::vector::{Vector, functions};
use crate::gf::POLYNOMIAL;
use std::arch::aarch64::*;

/// What doubling adds to a byte whose highest bit falls out.
const REDUCTION: u8 = (POLYNOMIAL & 0xff) as u8;

functions!(neon, crate::kernel::arm::Neon, "neon");

/// 16 bytes, multiplied by table look-ups.
#[derive(Clone, Copy)]
pub(super) struct Neon(uint8x16_t);

impl Vector for Neon {
    const BYTES: usize = 16;
    type Factor = (uint8x16_t, uint8x16_t);

    #[inline(always)]
    fn unrolled(products: usize) -> usize {
        if products <= 4 { 2 } else { 1 }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { vdupq_n_u8(0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above, and the pointer is good for a vector.
        Self(unsafe { vld1q_u8(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as above, and the pointer is good for a vector.
        unsafe { vst1q_u8(to, self.0) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        Self(unsafe { veorq_u8(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn double(self) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe {
            let overflowing = vreinterpretq_u8_s8(vshrq_n_s8::<7>(vreinterpretq_s8_u8(self.0)));
            let reduction = vandq_u8(overflowing, vdupq_n_u8(REDUCTION));
            Self(veorq_u8(vshlq_n_u8::<1>(self.0), reduction))
        }
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        let nibbles = NIBBLES[factor as usize].0.as_ptr();
        // SAFETY: as above, and the table has 16 bytes for each half.
        unsafe { (vld1q_u8(nibbles), vld1q_u8(nibbles.add(16))) }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self::Factor) -> Self {
        // SAFETY: the trait's caller knows that the CPU has the instructions.
        unsafe {
            let (low, high) = factor;
            let low = vqtbl1q_u8(low, vandq_u8(self.0, vdupq_n_u8(0x0f)));
            let high = vqtbl1q_u8(high, vshrq_n_u8::<4>(self.0));
            Self(veorq_u8(low, high))
        }
    }
}
