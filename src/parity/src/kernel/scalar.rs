//! The kernels without vector instructions: the reference for all others, the fallback, and what
//! finishes the bytes at the end of a range that fill no vector.
#![deny(unsafe_code)]

use crate::gf::PRODUCTS;

/// `dst ^= src`.
pub(super) fn xor(dst: &mut [u8], src: &[u8]) {
    for (d, s) in dst.iter_mut().zip(src) {
        *d ^= s;
    }
}

/// `dst ^= factor * src`.
pub(super) fn mul_acc(dst: &mut [u8], factor: u8, src: &[u8]) {
    if factor == 1 {
        return xor(dst, src);
    }
    let products = &PRODUCTS[factor as usize];
    for (d, s) in dst.iter_mut().zip(src) {
        *d ^= products[*s as usize];
    }
}

/// `parity ^= factor * (old ^ new)`.
pub(super) fn update(factor: u8, old: &[u8], new: &[u8], parity: &mut [u8]) {
    let products = &PRODUCTS[factor as usize];
    for ((p, o), n) in parity.iter_mut().zip(old).zip(new) {
        *p ^= products[(o ^ n) as usize];
    }
}
