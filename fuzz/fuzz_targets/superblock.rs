//! See `hostile::superblock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::superblock::run(data));
