//! What clients write: every 512 bytes say which write made them, and for which place.
//!
//! A [`Value`] names the content of one unit. Content of whole units is computed from the value
//! and the place; units that were written in part are kept in a table.

use crate::rng::Rng;
use std::collections::HashMap;
use std::rc::Rc;

/// The unit of checking, in bytes.
pub const UNIT_BYTES: u64 = 512;

/// Names the content of one unit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Value(u64);

const MIXED: u64 = 1 << 63;

impl Value {
    /// All zeros.
    pub const ZERO: Value = Value(0);

    /// The content that write number `id` (from 1) gives to the units it covers.
    pub fn of_write(id: u64) -> Value {
        assert!(id != 0 && id < MIXED);
        Value(id)
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("zeros"),
            n if n & MIXED != 0 => write!(f, "merge #{}", n & !MIXED),
            n => write!(f, "write #{n}"),
        }
    }
}

/// Computes and recognises content.
#[derive(Clone, Default)]
pub struct Contents {
    mixed: HashMap<Value, Rc<[u8]>>,
}

impl Contents {
    /// Writes the content of `value` at `unit` into `bytes`, which are one unit.
    pub fn fill(&self, value: Value, unit: u64, bytes: &mut [u8]) {
        assert_eq!(bytes.len() as u64, UNIT_BYTES);
        match (value, self.mixed.get(&value)) {
            (Value::ZERO, _) => bytes.fill(0),
            (_, Some(content)) => bytes.copy_from_slice(content),
            (Value(id), None) => {
                bytes[..8].copy_from_slice(&id.to_le_bytes());
                bytes[8..16].copy_from_slice(&unit.to_le_bytes());
                Rng::new(id << 20 ^ unit).fill(&mut bytes[16..]);
            }
        }
    }

    /// Whether `part`, the bytes from `start` of a unit, is what `value` looks like there.
    pub fn matches(&self, value: Value, unit: u64, start: usize, part: &[u8]) -> bool {
        let mut whole = [0; UNIT_BYTES as usize];
        self.fill(value, unit, &mut whole);
        whole[start..start + part.len()] == *part
    }

    /// The value of a unit whose content was put together from several writes.
    pub fn keep_mixed(&mut self, bytes: &[u8]) -> Value {
        if bytes.iter().all(|b| *b == 0) {
            return Value::ZERO;
        }
        let value = Value(MIXED | (self.mixed.len() as u64 + 1));
        self.mixed.insert(value, bytes.into());
        value
    }

    /// What `bytes` found at `unit` seem to be, in words.
    pub fn describe(&self, bytes: &[u8], unit: u64) -> String {
        if bytes.iter().all(|b| *b == 0) {
            return "zeros".into();
        }
        if let Some((value, _)) = self.mixed.iter().find(|(_, content)| ***content == *bytes) {
            return value.to_string();
        }
        if bytes.len() as u64 != UNIT_BYTES {
            return format!("bytes {:02x?}", &bytes[..bytes.len().min(16)]);
        }
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let (id, place) = (field(0), field(8));
        let known = id != 0 && id & MIXED == 0;
        if known && self.matches(Value(id), place, 0, bytes) {
            return match place == unit {
                true => Value(id).to_string(),
                false => format!("write #{id} for unit {place}: misplaced"),
            };
        }
        format!("garbage {:02x?}", &bytes[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_names_its_write_and_place() {
        let contents = Contents::default();
        let mut bytes = [0; 512];
        contents.fill(Value::of_write(7), 3, &mut bytes);
        assert!(contents.matches(Value::of_write(7), 3, 0, &bytes));
        assert!(!contents.matches(Value::of_write(8), 3, 0, &bytes));
        assert!(contents.matches(Value::of_write(7), 3, 100, &bytes[100..200]));
        assert_eq!(contents.describe(&bytes, 3), "write #7");
        assert_eq!(
            contents.describe(&bytes, 4),
            "write #7 for unit 3: misplaced"
        );
        bytes[200] ^= 1;
        assert!(contents.describe(&bytes, 3).starts_with("garbage"));
    }

    #[test]
    fn mixed_units_are_kept() {
        let mut contents = Contents::default();
        let bytes = [5; 512];
        let value = contents.keep_mixed(&bytes);
        assert!(contents.matches(value, 9, 10, &bytes[10..20]));
        assert_eq!(contents.describe(&bytes, 0), "merge #1");
        assert_eq!(contents.keep_mixed(&[0; 512]), Value::ZERO);
    }
}
