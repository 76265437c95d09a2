//! See `hostile::nbd_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::nbd_session::run(data));
