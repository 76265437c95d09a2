//! See `hostile::assembly`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::assembly::run(data));
