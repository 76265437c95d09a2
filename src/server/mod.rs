//! Serving arrays: a data thread for each, readers for its clients where there are cores for them,
//! the front thread before them, and what surrounds them.
//!
//! ```text
//! listeners --> front thread: accepts, negotiates
//!                    | clients that have chosen an export, through a bounded inbox (desk)
//!                    |      .-- clients (frontend, client) -- NBD sessions
//!                    +--> reader threads -- driver -- members
//!                    |      | what they cannot read by themselves
//!                    v      v
//! signals --------.                     .-- clients, where there are no readers
//! control socket --+--> service --------+
//! housekeeping ---'     (data thread)   '-- host -- engine -- driver -- members
//! ```
//!
//! Arrays share nothing: each has its engine, its driver, its memory, its control socket.
//! Everything to the left reaches one through bounded inboxes and never makes it wait.

pub mod alert;
pub mod array;
mod availability;
mod budget;
mod client;
mod clock;
mod counter;
mod desk;
pub mod export;
mod failures;
mod fence;
mod front;
mod frontend;
mod gate;
mod heartbeat;
mod history;
pub mod host;
mod housekeeping;
pub mod limits;
pub mod listen;
pub mod local;
pub mod log;
pub mod members;
mod memory;
pub mod metrics;
mod operator;
mod page;
mod program;
pub mod qos;
pub mod random;
pub mod reader;
pub mod reclaim;
mod secure;
pub mod serve;
mod service;
pub mod settings;
mod signals;
pub mod sockets;
pub mod steward;
pub mod succession;
mod systemd;
mod tally;
pub mod tls;
mod translate;
mod transport;
mod trend;
