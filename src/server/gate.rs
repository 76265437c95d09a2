//! How many clients there are, and whether more may come: counted by the front thread when a
//! client chooses an export, and by whoever drops the client when it has gone.

use crate::control::wire::ClientsReport;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use uraid_nbd::Admission;

/// The way to one export, or to all of them.
pub struct Gate {
    connections: AtomicUsize,
    connections_max: usize,
    stopping: AtomicBool,
}

impl Gate {
    /// A gate for so many clients at once.
    pub fn new(connections_max: usize) -> Arc<Gate> {
        Arc::new(Gate {
            connections: AtomicUsize::new(0),
            connections_max,
            stopping: AtomicBool::new(false),
        })
    }

    /// Nobody comes in any more.
    pub fn close(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// How many clients there are, and may be.
    pub fn clients(&self) -> ClientsReport {
        ClientsReport {
            connected: self.connections.load(Ordering::Acquire) as u64,
            max: self.connections_max as u64,
        }
    }

    /// Whether one more may come in.
    pub fn admission(&self) -> Admission {
        if self.stopping.load(Ordering::Acquire) {
            Admission::Stopping
        } else if self.connections.load(Ordering::Acquire) >= self.connections_max {
            Admission::Full
        } else {
            Admission::Open
        }
    }
}

/// One client inside, until dropped.
pub struct Ticket {
    gates: [Arc<Gate>; 2],
}

impl Ticket {
    /// Lets a client through the gate to all exports and the one to its own.
    pub fn new(gates: [Arc<Gate>; 2]) -> Ticket {
        for gate in &gates {
            gate.connections.fetch_add(1, Ordering::AcqRel);
        }
        Ticket { gates }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        for gate in &self.gates {
            gate.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_full_until_somebody_leaves_and_closed_for_good() {
        let (all, one) = (Gate::new(10), Gate::new(2));
        let enter = || Ticket::new([all.clone(), one.clone()]);
        let (first, _second) = (enter(), enter());
        assert_eq!(one.admission(), Admission::Full);
        assert_eq!(all.admission(), Admission::Open);
        drop(first);
        assert_eq!(one.admission(), Admission::Open);
        one.close();
        assert_eq!(one.admission(), Admission::Stopping);
    }
}
