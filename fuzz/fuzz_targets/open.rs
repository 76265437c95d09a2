//! See `hostile::open`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::open::run(data));
