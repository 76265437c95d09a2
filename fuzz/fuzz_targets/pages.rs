//! See `hostile::pages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::pages::run(data));
