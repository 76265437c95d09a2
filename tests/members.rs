//! Members that fail, leave, come, are replaced, come back.

mod common;

use common::client::EIO;
use common::pattern::blocks;
use common::server::{count_in_state, member, slot_of};
use common::{Array, MIB, REFUSED, Server, wait_for};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

// ---- fail and remove ----

#[test]
fn failed_member_leaves_the_array_degraded_and_readable() {
    let array = Array::new("--level raid6", 6);
    array.run("fail", &[&array.members[2]]).succeeded();
    let status = array.status();
    assert_eq!(status["state"], "degraded");
    assert_eq!(status["redundancy_left"], 1);
    assert_eq!(member(&status, 2)["state"], "failed");
    array.assert_intact();
}

#[test]
fn members_are_named_by_path_slot_or_uuid() {
    let array = Array::new("--level rs --parity 3", 6);
    let uuid = member(&array.status(), 1)["uuid"]
        .as_str()
        .expect("a UUID")
        .to_string();
    array.run("fail", &[&array.members[0]]).succeeded();
    array.run("fail", &[Path::new(&uuid)]).succeeded();
    array.run("fail", &[Path::new("2")]).succeeded();
    assert_eq!(count_in_state(&array.status(), "failed"), 3);
    array.assert_intact();
}

#[test]
fn fail_of_an_unknown_member_is_an_error() {
    let array = Array::new("--level raid1", 2);
    let ran = array.run("fail", &[Path::new("/no/such/member")]);
    assert_ne!(ran.code, 0, "{ran}");
    assert_eq!(array.status()["state"], "optimal");
}

#[test]
fn fail_beyond_the_redundancy_is_refused() {
    let array = Array::new("--level raid5", 3);
    array.run("fail", &[&array.members[0]]).succeeded();
    array
        .run("fail", &[&array.members[1]])
        .exits(REFUSED)
        .says(&["redundancy", "--force"]);
    array.assert_intact();
}

#[test]
fn forced_failure_beyond_the_redundancy_fails_the_array() {
    let array = Array::new("--level raid5", 3);
    array.run("fail", &[&array.members[0]]).succeeded();
    array
        .run("fail", &[Path::new("--force"), &array.members[1]])
        .succeeded();
    let ran = array.run("status", &[Path::new("--json")]).exits(1);
    assert_eq!(ran.json()["state"], "failed");
    array
        .server
        .connect()
        .read(0, 64 << 10)
        .expect_err("beyond the redundancy")
        .errno();
}

#[test]
fn writes_while_degraded_read_back() {
    let mut array = Array::new("--level raid6", 6);
    array.run("fail", &[&array.members[0]]).succeeded();
    array.run("fail", &[&array.members[3]]).succeeded();
    array.rewrite(3, 1, 2); // part of a row
    array.rewrite(100, 700, 3); // whole stripes and edges
    array.assert_intact();
}

#[test]
fn failed_member_is_removed_and_becomes_missing() {
    let array = Array::new("--level raid5", 3);
    array.run("fail", &[&array.members[1]]).succeeded();
    array.run("remove", &[&array.members[1]]).succeeded();
    assert_eq!(member(&array.status(), 1)["state"], "missing");
    array.assert_intact();
}

#[test]
fn removing_a_member_in_service_is_refused() {
    let array = Array::new("--level raid5", 3);
    array.run("remove", &[&array.members[1]]).exits(REFUSED);
    assert_eq!(array.status()["state"], "optimal");
}

// ---- add, replace, spares, rebuild ----

#[test]
fn added_disk_is_a_spare_while_nothing_is_missing() {
    let array = Array::new("--level raid5", 3);
    array.run("add", &[&array.blank("spare")]).succeeded();
    let status = array.status();
    assert_eq!(status["state"], "optimal");
    assert_eq!(count_in_state(&status, "spare"), 1);
    let spare = status["members"]
        .as_array()
        .expect("members")
        .last()
        .expect("a member");
    assert_eq!(spare["slot"], Value::Null);
}

#[test]
fn spare_is_removed() {
    let array = Array::new("--level raid5", 3);
    let spare = array.blank("spare");
    array.run("add", &[&spare]).succeeded();
    array.run("remove", &[&spare]).succeeded();
    assert_eq!(count_in_state(&array.status(), "spare"), 0);
}

#[test]
fn added_disk_takes_the_place_of_a_failed_member() {
    let array = Array::new("--level raid5", 3);
    array.run("fail", &[&array.members[1]]).succeeded();
    let new = array.blank("new");
    array.run("add", &[&new]).succeeded();
    let status = array.server.wait_state(&array.sandbox, "optimal");
    assert_eq!(slot_of(&status, &new), 1);
    assert_eq!(status["redundancy_left"], 1);
    array.run("fail", &[&array.members[0]]).succeeded();
    array.assert_intact(); // now the new disk must carry its share
}

#[test]
fn spare_starts_by_itself() {
    let spare = PathBuf::from("spare");
    let array = Array::new("--level raid6 --spare spare", 6);
    let spare = array.sandbox.path(spare);
    // `serve` was not given the spare's path: it joins like any other member.
    array.run("add", &[&spare]).succeeded();
    assert_eq!(count_in_state(&array.status(), "spare"), 1);
    array.run("fail", &[&array.members[4]]).succeeded();
    let status = array.server.wait_state(&array.sandbox, "optimal");
    assert_eq!(slot_of(&status, &spare), 4);
    array.run("fail", &[&array.members[0]]).succeeded();
    array.run("fail", &[&array.members[1]]).succeeded();
    array.assert_intact();
}

#[test]
fn replace_keeps_the_redundancy_and_frees_the_old_disk() {
    let array = Array::new("--level raid5", 3);
    let new = array.blank("new");
    array
        .run("replace", &[Path::new("--wait"), &array.members[2], &new])
        .succeeded();
    let status = array.status();
    assert_eq!(status["state"], "optimal");
    assert_eq!(slot_of(&status, &new), 2);
    let old = array.members[2].to_str().expect("UTF-8");
    let listed = status["members"].as_array().expect("members");
    assert!(
        !listed
            .iter()
            .any(|m| m["path"] == old && m["state"] == "in-sync"),
        "{status:#}"
    );
    array.run("fail", &[&array.members[0]]).succeeded();
    array.assert_intact();
}

#[test]
fn replace_of_a_failed_member_rebuilds_onto_the_new_disk() {
    let array = Array::new("--level raid1", 2);
    array.run("fail", &[&array.members[0]]).succeeded();
    let new = array.blank("new");
    array
        .run("replace", &[Path::new("--wait"), &array.members[0], &new])
        .succeeded();
    array.run("fail", &[&array.members[1]]).succeeded();
    array.assert_intact();
}

#[test]
fn rebuild_command_makes_a_degraded_array_whole() {
    let array = Array::new("--level raid6", 6);
    array.run("fail", &[&array.members[5]]).succeeded();
    let new = array.blank("new");
    let ran = array.run("rebuild", &[&new]).succeeded();
    assert!(!ran.stdout.is_empty(), "it says what it does: {ran}");
    let status = array.status();
    assert_eq!(status["state"], "optimal");
    assert_eq!(slot_of(&status, &new), 5);
}

#[test]
fn rebuild_command_on_a_whole_array_says_there_is_nothing_to_do() {
    let array = Array::new("--level raid5", 3);
    let ran = array.run("rebuild", &[]).succeeded();
    let text = (ran.stdout.clone() + &ran.stderr).to_lowercase();
    assert!(
        text.contains("nothing") || text.contains("whole") || text.contains("optimal"),
        "{ran}"
    );
}

#[test]
fn too_small_a_replacement_is_refused_and_named() {
    let array = Array::new("--level raid5", 3);
    array.run("fail", &[&array.members[1]]).succeeded();
    let small = array.sandbox.file("small", 16 * MIB);
    array.run("add", &[&small]).exits(1).says(&["small"]);
    assert_eq!(array.status()["state"], "degraded");
}

#[test]
fn disk_with_a_filesystem_is_not_added_unforced() {
    need!("mkfs.ext4");
    let array = Array::new("--level raid5", 3);
    let disk = array.blank("disk");
    array
        .sandbox
        .run("mkfs.ext4", ["-q", "-F", disk.to_str().expect("UTF-8")])
        .succeeded();
    array.run("add", &[&disk]).exits(REFUSED);
    array.run("add", &[Path::new("--force"), &disk]).succeeded();
    assert_eq!(count_in_state(&array.status(), "spare"), 1);
}

#[test]
fn member_of_another_array_is_not_added_unforced() {
    let array = Array::new("--level raid5", 3);
    let others: Vec<PathBuf> = (0..2)
        .map(|i| array.sandbox.path(format!("other{i}")))
        .collect();
    array.sandbox.create("--level raid1 --size 96M", &others);
    array
        .run("add", &[&others[0]])
        .exits(REFUSED)
        .says(&["array", "foreign"]);
    assert_eq!(count_in_state(&array.status(), "spare"), 0);
}

#[test]
fn raid0_cannot_lose_a_member_but_can_replace_one() {
    let array = Array::new("--level raid0", 3);
    array.run("fail", &[&array.members[0]]).exits(REFUSED);
    let new = array.blank("new");
    array
        .run("replace", &[Path::new("--wait"), &array.members[0], &new])
        .succeeded();
    assert_eq!(slot_of(&array.status(), &new), 0);
    array.assert_intact();
}

#[test]
fn returning_member_catches_up_only_what_changed() {
    let mut array = Array::new("--level raid1", 2);
    let large = blocks(0, 48 * MIB / 4096, 1);
    for (i, part) in large.chunks(16 << 20).enumerate() {
        array
            .server
            .connect()
            .write(i as u64 * 16 * MIB, part)
            .expect("write");
    }
    array.content = large;

    let before = bytes_written(&array.server);
    array.run("fail", &[&array.members[1]]).succeeded();
    let new = array.blank("new");
    array.run("add", &[&new]).succeeded();
    array.server.wait_state(&array.sandbox, "optimal");
    let full = bytes_written(&array.server) - before;
    if full < 48 * MIB {
        skip!("the kernel does not account writes here ({full} bytes for a full rebuild)");
    }

    array.run("fail", &[&new]).succeeded();
    array.rewrite(50, 30, 2);
    array.rewrite(4000, 1, 3);
    let before = bytes_written(&array.server);
    array.run("add", &[&new]).succeeded();
    array.server.wait_state(&array.sandbox, "optimal");
    let caught_up = bytes_written(&array.server) - before;
    println!(
        "full rebuild {} MiB, catching up {} MiB",
        full / MIB,
        caught_up / MIB
    );
    assert!(
        caught_up < full / 4,
        "catching up wrote {caught_up} bytes, a full rebuild {full}"
    );
    array.run("fail", &[&array.members[0]]).succeeded();
    array.assert_intact();
}

/// Bytes the server has caused to be written to storage.
fn bytes_written(server: &Server) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", server.pid())).expect("process I/O");
    let line = io
        .lines()
        .find(|l| l.starts_with("write_bytes:"))
        .expect("write_bytes");
    line.split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number")
}

// ---- members that break ----

#[test]
fn truncated_member_fails_and_the_data_stays() {
    let mut array = Array::new("--level raid6", 6);
    truncate(&array.members[3]);
    // The server learns of it when it next needs the member.
    wait_for("the truncated member to fail", || {
        array.rewrite(0, 600, 2);
        array.assert_intact();
        (member(&array.status(), 3)["state"] == "failed").then_some(())
    });
    assert!(array.server.log().contains("m3"), "{}", array.server.log());
}

#[test]
fn vanished_member_file_fails_the_member() {
    let mut array = Array::new("--level raid5", 3);
    fs::remove_file(&array.members[1]).expect("remove");
    wait_for("the vanished member to fail", || {
        array.rewrite(0, 600, 2);
        array.assert_intact();
        (member(&array.status(), 1)["state"] == "failed").then_some(())
    });
}

#[test]
fn rotten_blocks_are_read_right_counted_and_healed() {
    let mut array = Array::new("--level raid5", 3);
    let report = array.sandbox.examine(&array.members[0]);
    let offset = report["data_offset_bytes"]
        .as_u64()
        .expect("data_offset_bytes");
    array.stop();
    let file = OpenOptions::new()
        .write(true)
        .open(&array.members[0])
        .expect("open");
    for block in 0..64 {
        file.write_all_at(b"rot", offset + block * 4096 + 100)
            .expect("write");
    }
    array.server = array.sandbox.serve(&array.members);
    array.assert_intact();
    let status = array.status();
    let errors = member(&status, 0)["checksum_errors"]
        .as_u64()
        .expect("a count");
    assert!(errors > 0, "rot was not noticed: {status:#}");
    assert_eq!(status["state"], "optimal", "one bad block costs one block");
    array.assert_intact();
    let after = member(&array.status(), 0)["checksum_errors"]
        .as_u64()
        .expect("a count");
    assert_eq!(after, errors, "healed blocks are not met again");
    array.run("clear", &[]).succeeded();
    assert_eq!(member(&array.status(), 0)["checksum_errors"], 0);
}

#[test]
fn blocks_lost_beyond_the_redundancy_are_errors_and_only_they() {
    let mut array = Array::new("--level raid1", 2);
    array.stop();
    for member in &array.members {
        let report = array.sandbox.examine(member);
        let offset = report["data_offset_bytes"]
            .as_u64()
            .expect("data_offset_bytes");
        let file = OpenOptions::new().write(true).open(member).expect("open");
        file.write_all_at(&[0xee; 3 * 4096], offset + 10 * 4096)
            .expect("write");
    }
    array.server = array.sandbox.serve(&array.members);
    let mut client = array.server.connect();
    let mut lost = Vec::new();
    for (block, expected) in array.content.chunks(4096).enumerate() {
        match client.read(block as u64 * 4096, 4096) {
            Ok(found) => assert!(found == expected, "block {block} is wrong"),
            Err(failure) => {
                assert_eq!(failure.errno(), EIO);
                lost.push(block as u64);
            }
        }
    }
    assert_eq!(
        lost.len(),
        3,
        "exactly the damaged blocks are errors: {lost:?}"
    );
    for block in lost {
        client
            .write(
                block * 4096,
                &array.content[block as usize * 4096..][..4096],
            )
            .expect("write");
    }
    array.assert_intact(); // overwritten, they are whole again
}

fn truncate(path: &Path) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|f| f.set_len(0))
        .expect("truncate");
}
