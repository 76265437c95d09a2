//! Reads what `smartctl --json -H -A` prints about ATA and NVMe devices.
//!
//! The fields are those of smartctl(8), JSON format 1.0; the bits of NVMe's critical warning those
//! of the NVM Express Base Specification, "SMART / Health Information".

use crate::control::wire::HealthReport;
use serde_json::Value;

/// ATA attributes.
const REALLOCATED: u64 = 5;
const PENDING: u64 = 197;

/// The bit of the critical warning that passes when it is cooler; the others are for good.
const TOO_HOT: u64 = 1 << 1;

/// The bits of the critical warning, from the lowest.
const WARNINGS: [&str; 6] = [
    "its spare blocks are nearly used up",
    "it is too hot or too cold",
    "its reliability is degraded",
    "it is read-only",
    "its backup of volatile memory has failed",
    "its persistent memory is read-only",
];

/// What the device says; none if it says nothing about its health.
pub fn parse(json: &str) -> Option<HealthReport> {
    let found: Value = serde_json::from_str(json).ok()?;
    let nvme = &found["nvme_smart_health_information_log"];
    let attribute = |id: u64| {
        let table = found["ata_smart_attributes"]["table"].as_array()?;
        let row = table.iter().find(|row| row["id"].as_u64() == Some(id))?;
        row["raw"]["value"].as_u64()
    };
    let report = HealthReport {
        passed: found["smart_status"]["passed"].as_bool(),
        temperature_celsius: found["temperature"]["current"].as_i64(),
        reallocated_sectors: attribute(REALLOCATED),
        pending_sectors: attribute(PENDING),
        media_errors: nvme["media_errors"].as_u64(),
        percentage_used: nvme["percentage_used"].as_u64(),
        critical_warning: nvme["critical_warning"].as_u64(),
        ..HealthReport::default()
    };
    let speaks = report.passed.is_some()
        || report.critical_warning.is_some()
        || report.reallocated_sectors.is_some();
    speaks.then(|| judged(report))
}

fn judged(report: HealthReport) -> HealthReport {
    let warning = report.critical_warning.unwrap_or(0);
    let failing = report.passed == Some(false) || warning & !TOO_HOT != 0;
    let problems = problems(&report);
    let verdict = match (failing, problems.is_empty()) {
        (true, _) => "failing",
        (false, false) => "unwell",
        (false, true) => "well",
    };
    HealthReport {
        verdict: verdict.to_string(),
        problems,
        ..report
    }
}

fn problems(report: &HealthReport) -> Vec<String> {
    let mut problems = Vec::new();
    if report.passed == Some(false) {
        problems.push("it does not pass its own assessment".to_string());
    }
    let warning = report.critical_warning.unwrap_or(0);
    let bits = WARNINGS.iter().enumerate();
    let warned = bits.filter(|(bit, _)| warning >> bit & 1 == 1);
    problems.extend(warned.map(|(_, words)| words.to_string()));
    for (count, what) in [
        (report.pending_sectors, "sectors that cannot be read"),
        (report.reallocated_sectors, "sectors replaced"),
        (report.media_errors, "media errors"),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            problems.push(format!("{count} {what}"));
        }
    }
    if let Some(percent) = report.percentage_used.filter(|percent| *percent >= 100) {
        problems.push(format!("{percent} % of its life are used up"));
    }
    problems
}

#[cfg(test)]
mod tests;
