//! Outputs of `smartctl --json -H -A`, in its documented format.

use super::*;
use serde_json::json;

fn ata(passed: bool, reallocated: u64, pending: u64) -> Value {
    let row = |id: u64, name: &str, raw: u64| {
        json!({"id": id, "name": name, "value": 100, "worst": 100, "thresh": 10,
            "when_failed": "",
            "flags": {"value": 51, "string": "PO--CK ", "prefailure": true,
                "updated_online": true, "performance": false, "error_rate": false,
                "event_count": true, "auto_keep": true},
            "raw": {"value": raw, "string": raw.to_string()}})
    };
    json!({
        "json_format_version": [1, 0],
        "smartctl": {"version": [7, 4], "argv": ["smartctl", "--json", "-H", "-A", "/dev/sda"],
            "exit_status": 0},
        "device": {"name": "/dev/sda", "info_name": "/dev/sda [SAT]", "type": "sat",
            "protocol": "ATA"},
        "smart_status": {"passed": passed},
        "ata_smart_attributes": {"revision": 16, "table": [
            row(1, "Raw_Read_Error_Rate", 123_456),
            row(5, "Reallocated_Sector_Ct", reallocated),
            row(194, "Temperature_Celsius", 0x0022_0010_0024),
            row(197, "Current_Pending_Sector", pending),
        ]},
        "power_on_time": {"hours": 20_123},
        "power_cycle_count": 31,
        "temperature": {"current": 36}
    })
}

fn nvme(critical_warning: u64, percentage_used: u64, media_errors: u64) -> Value {
    json!({
        "json_format_version": [1, 0],
        "smartctl": {"version": [7, 4], "argv": ["smartctl", "--json", "-H", "-A", "/dev/nvme0n1"],
            "exit_status": 0},
        "device": {"name": "/dev/nvme0n1", "info_name": "/dev/nvme0n1", "type": "nvme",
            "protocol": "NVMe"},
        "smart_status": {"passed": critical_warning == 0, "nvme": {"value": critical_warning}},
        "nvme_smart_health_information_log": {
            "critical_warning": critical_warning, "temperature": 41, "available_spare": 100,
            "available_spare_threshold": 10, "percentage_used": percentage_used,
            "data_units_read": 12_345_678, "data_units_written": 23_456_789,
            "power_on_hours": 4321, "unsafe_shutdowns": 12, "media_errors": media_errors,
            "num_err_log_entries": 3
        },
        "temperature": {"current": 41}
    })
}

fn read(value: &Value) -> HealthReport {
    parse(&value.to_string()).expect("a report")
}

#[test]
fn healthy_devices_are_well() {
    let disk = read(&ata(true, 0, 0));
    assert_eq!(
        disk,
        HealthReport {
            verdict: "well".to_string(),
            passed: Some(true),
            temperature_celsius: Some(36),
            reallocated_sectors: Some(0),
            pending_sectors: Some(0),
            ..HealthReport::default()
        }
    );
    let flash = read(&nvme(0, 3, 0));
    assert_eq!(
        flash,
        HealthReport {
            verdict: "well".to_string(),
            passed: Some(true),
            temperature_celsius: Some(41),
            media_errors: Some(0),
            percentage_used: Some(3),
            critical_warning: Some(0),
            ..HealthReport::default()
        }
    );
}

#[test]
fn what_is_wrong_is_said_and_judged() {
    let mut warm = nvme(2, 3, 0);
    warm["smart_status"]["passed"] = true.into();
    for (value, verdict, problem) in [
        (ata(false, 0, 0), "failing", "its own assessment"),
        (ata(true, 0, 8), "unwell", "8 sectors that cannot be read"),
        (ata(true, 12, 0), "unwell", "12 sectors replaced"),
        (nvme(1, 3, 0), "failing", "spare blocks are nearly used up"),
        (nvme(4, 3, 0), "failing", "reliability is degraded"),
        (nvme(8, 3, 0), "failing", "it is read-only"),
        (nvme(0, 3, 2), "unwell", "2 media errors"),
        (nvme(0, 104, 0), "unwell", "104 % of its life"),
        (warm, "unwell", "too hot"),
    ] {
        let report = read(&value);
        assert_eq!(report.verdict, verdict, "{value:#}");
        assert!(report.problems.join("; ").contains(problem), "{report:?}");
    }
}

#[test]
fn who_says_nothing_about_its_health_has_none() {
    let silent = json!({
        "json_format_version": [1, 0],
        "smartctl": {"version": [7, 4], "exit_status": 1, "messages": [
            {"string": "/dev/loop0: Unable to detect device type", "severity": "error"}]}
    });
    for text in [&silent.to_string(), "", "[]", "{}", "{\"smart_status\": 7"] {
        assert_eq!(parse(text), None, "{text}");
    }
}
