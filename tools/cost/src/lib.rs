//! What each promise costs: arrays served by the real program over the real socket, driven round
//! by round beside a server that promises nothing, with the engine's own counters next to the
//! arithmetic of the design.

pub mod counters;
pub mod design;
pub mod document;
pub mod flush_rule;
pub mod json;
pub mod layout;
pub mod measure;
pub mod place;
pub mod report;
pub mod server;
pub mod table;
pub mod tool;
