//! Effects: everything on the data path that touches the kernel.
//!
//! * [`device`]: opening, locking and sizing the files and block devices that are members
//! * [`probe`]: what a file or device already holds, and where it is mounted
//! * [`driver`]: the asynchronous I/O of one data thread, on io_uring or on worker threads
//! * [`local_time`]: the hour of the day
//! * [`reclaim`]: what a process must not wait for while the kernel waits for it
//! * [`sockets`]: listening and tuning

mod block_device;
pub mod device;
pub mod driver;
mod identity;
pub mod local_time;
pub mod probe;
pub mod reclaim;
pub mod sockets;
