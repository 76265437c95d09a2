//! See `hostile::nbd_client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::nbd_client::run(data));
