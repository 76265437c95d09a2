//! Random numbers from the kernel, for identifiers.

use crate::failure::{Doing, Failure};
use std::fs::File;
use std::io::Read;

/// An endless source of random words.
pub fn words() -> Result<impl FnMut() -> u64, Failure> {
    let mut source = File::open("/dev/urandom").doing(|| "open /dev/urandom".to_string())?;
    Ok(move || {
        let mut word = [0; 8];
        source
            .read_exact(&mut word)
            .expect("the kernel's random numbers do not end");
        u64::from_ne_bytes(word)
    })
}
