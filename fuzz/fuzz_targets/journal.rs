//! See `hostile::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::journal::run(data));
