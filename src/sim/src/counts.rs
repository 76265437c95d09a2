//! What plays came to, in numbers.

/// What a play came to.
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs)]
pub struct Counts {
    pub requests: u64,
    pub kills: u64,
    pub power_losses: u64,
    pub crashes_in_recovery: u64,
    pub restarts: u64,
    pub degraded_starts: u64,
    pub refused_starts: u64,
    pub breakdowns: u64,
    pub other_faults: u64,
    pub commands: u64,
    pub repairs: u64,
    pub io: u64,
    pub reads_aside: u64,
    pub hedges: u64,
    pub sit_outs: u64,
}

impl Counts {
    /// Names and numbers.
    pub fn fields(&self) -> [(&'static str, u64); 15] {
        [
            ("requests", self.requests),
            ("io", self.io),
            ("kills", self.kills),
            ("power_losses", self.power_losses),
            ("crashes_in_recovery", self.crashes_in_recovery),
            ("restarts", self.restarts),
            ("degraded_starts", self.degraded_starts),
            ("refused_starts", self.refused_starts),
            ("breakdowns", self.breakdowns),
            ("other_faults", self.other_faults),
            ("commands", self.commands),
            ("repairs", self.repairs),
            ("reads_aside", self.reads_aside),
            ("hedges", self.hedges),
            ("sit_outs", self.sit_outs),
        ]
    }

    /// Adds those of another play.
    pub fn add(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.io += other.io;
        self.reads_aside += other.reads_aside;
        self.hedges += other.hedges;
        self.sit_outs += other.sit_outs;
        self.kills += other.kills;
        self.power_losses += other.power_losses;
        self.crashes_in_recovery += other.crashes_in_recovery;
        self.restarts += other.restarts;
        self.degraded_starts += other.degraded_starts;
        self.refused_starts += other.refused_starts;
        self.breakdowns += other.breakdowns;
        self.other_faults += other.other_faults;
        self.commands += other.commands;
        self.repairs += other.repairs;
    }
}
