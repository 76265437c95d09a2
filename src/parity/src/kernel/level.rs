//! Instruction sets and which of them this CPU has.

use std::fmt;

/// An instruction set that the kernels are written for, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No vector instructions but those the compiler finds by itself: any CPU.
    Scalar,
    /// 16 byte shuffles on x86-64.
    Ssse3,
    /// 32 byte shuffles on x86-64.
    Avx2,
    /// Galois field affine transformations of 32 bytes on x86-64.
    Avx2Gfni,
    /// 64 byte shuffles on x86-64.
    Avx512bw,
    /// Galois field affine transformations of 64 bytes on x86-64.
    Gfni,
    /// 16 byte table look-ups on 64 bit Arm.
    Neon,
}

impl Level {
    /// Every level, those of other architectures included, worst first.
    pub const ALL: [Level; 7] = [
        Level::Scalar,
        Level::Ssse3,
        Level::Avx2,
        Level::Avx2Gfni,
        Level::Avx512bw,
        Level::Gfni,
        Level::Neon,
    ];

    /// The name by which `URAID_SIMD` selects the level.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Ssse3 => "ssse3",
            Level::Avx2 => "avx2",
            Level::Avx2Gfni => "avx2gfni",
            Level::Avx512bw => "avx512bw",
            Level::Gfni => "gfni",
            Level::Neon => "neon",
        }
    }

    /// The level of this name, in any case.
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(name))
    }

    /// Whether this CPU, and its operating system, can run the level.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        match self {
            Level::Scalar => true,
            Level::Ssse3 => is_x86_feature_detected!("ssse3"),
            Level::Avx2 => is_x86_feature_detected!("avx2"),
            Level::Avx2Gfni => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni"),
            Level::Avx512bw => avx512,
            Level::Gfni => avx512 && is_x86_feature_detected!("gfni"),
            Level::Neon => false,
        }
    }

    /// Whether this CPU can run the level.
    #[cfg(target_arch = "aarch64")]
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            Level::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            _ => false,
        }
    }

    /// Whether this CPU can run the level.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn is_available(self) -> bool {
        self == Level::Scalar
    }

    /// The best level of this CPU, lowered to `wanted` if that names one that it has.
    pub(super) fn choose(wanted: Option<&str>) -> Level {
        let best = Level::ALL.into_iter().rfind(|level| level.is_available());
        wanted
            .and_then(Level::from_name)
            .filter(|level| level.is_available())
            .or(best)
            .expect("every CPU has the scalar level")
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_available_level_is_chosen_by_name() {
        for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
            assert_eq!(Level::choose(Some(level.name())), level);
            assert_eq!(Level::choose(Some(&level.name().to_uppercase())), level);
        }
    }

    #[test]
    fn an_unknown_or_unavailable_level_is_ignored() {
        let best = Level::choose(None);
        assert!(
            Level::ALL
                .iter()
                .all(|&level| level <= best || !level.is_available())
        );
        assert_eq!(Level::choose(Some("")), best);
        assert_eq!(Level::choose(Some("mmx")), best);
        for level in Level::ALL.into_iter().filter(|level| !level.is_available()) {
            assert_eq!(Level::choose(Some(level.name())), best);
        }
    }
}
