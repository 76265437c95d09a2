//! Clients that nobody here wrote: libnbd's tools, qemu's, fio.

mod common;

use common::client::Client;
use common::tools::{Fio, SYSTEM_PYTHON, assert_export_is, copy_in, has_python_nbd, noise_file};
use common::{MIB, Sandbox, tank};
use std::thread;
use std::time::Duration;

// ---- libnbd ----

#[test]
fn nbdinfo_sees_every_promised_ability() {
    need!("nbdinfo");
    let (sandbox, server) = tank();
    let info = sandbox
        .run("nbdinfo", ["--json", &server.uri()])
        .succeeded()
        .json();
    assert_eq!(info["protocol"], "newstyle-fixed");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 128 * MIB);
    assert_eq!(export["is_read_only"], false);
    for ability in [
        "can_multi_conn",
        "can_flush",
        "can_fua",
        "can_trim",
        "can_zero",
        "can_df",
    ] {
        assert_eq!(export[ability], true, "{ability}: {info:#}");
    }
    assert_eq!(
        export["block_size_preferred"].as_u64().expect("a size") % 4096,
        0
    );
    let minimum = export["block_size_minimum"].as_u64().expect("a size");
    assert!(minimum == 1 || minimum == 512, "{minimum}");
    assert!(export["block_size_maximum"].as_u64().expect("a size") >= 32 * MIB);
}

#[test]
fn nbdinfo_lists_the_array_by_name() {
    need!("nbdinfo");
    let (sandbox, server) = tank();
    let list = sandbox
        .run("nbdinfo", ["--list", "--json", &server.uri()])
        .succeeded()
        .json();
    let exports = list["exports"].as_array().expect("exports");
    assert!(
        exports.iter().any(|e| e["export-name"] == "tank"),
        "{list:#}"
    );
}

#[test]
fn export_is_found_by_name_and_as_the_default() {
    let (_sandbox, server) = tank();
    for name in ["", "tank"] {
        assert_eq!(
            Client::connect(&server.socket, name).expect(name).size,
            128 * MIB
        );
    }
    Client::connect(&server.socket, "tonk")
        .err()
        .expect("no such export");
}

#[test]
fn nbdcopy_brings_back_what_it_took() {
    need!("nbdcopy");
    let (sandbox, server) = tank();
    let noise = noise_file(&sandbox, "noise", 128 * MIB, 1);
    copy_in(&sandbox, &noise, &server.uri());
    assert_export_is(&sandbox, &server.uri(), &noise);
}

#[test]
fn nbdcopy_works_over_tcp() {
    need!("nbdcopy");
    let sandbox = Sandbox::new();
    let members = sandbox.members(2);
    sandbox.create("--level raid1 --size 64M --export-size 32M", &members);
    let server = sandbox.serve_with("--listen tcp:127.0.0.1:0", &members);
    let uri = server.ready.split(' ').nth(2).expect("a URI").to_string();
    let noise = noise_file(&sandbox, "noise", 32 * MIB, 2);
    copy_in(&sandbox, &noise, &uri);
    assert_export_is(&sandbox, &uri, &noise);
}

#[test]
fn nbdsh_reads_its_writes_zeroes_and_trims() {
    if !has_python_nbd() {
        skip!("the package python3-libnbd is not installed");
    }
    let (sandbox, server) = tank();
    let script = "
h.pwrite(b'a' * 100000, 1000)
assert h.pread(100000, 1000) == bytearray(b'a' * 100000)
h.zero(50000, 20000)
assert h.pread(50000, 20000) == bytearray(50000)
assert h.pread(19000, 1000) == bytearray(b'a' * 19000)
h.trim(1 << 20, 0)
h.flush()
assert h.pread(4096, 0x100000 - 4096) is not None
h.pwrite(b'b' * 512, 512, nbd.CMD_FLAG_FUA)
assert h.pread(512, 512) == bytearray(b'b' * 512)
";
    let args = ["-m", "nbd", "-u", &server.uri(), "-c", script];
    sandbox.run(SYSTEM_PYTHON, args).succeeded();
}

// ---- qemu ----

#[test]
fn qemu_img_info_sees_the_size() {
    need!("qemu-img");
    let (sandbox, server) = tank();
    let args = ["info", "--output=json", &server.uri()];
    let info = sandbox.run("qemu-img", args).succeeded().json();
    assert_eq!(info["virtual-size"], 128 * MIB);
}

#[test]
fn qemu_img_converts_there_and_compares() {
    need!("qemu-img");
    let (sandbox, server) = tank();
    let noise = noise_file(&sandbox, "noise", 128 * MIB, 3);
    let noise = noise.to_str().expect("UTF-8");
    let uri = server.uri();
    sandbox
        .run(
            "qemu-img",
            ["convert", "-n", "-f", "raw", "-O", "raw", noise, &uri],
        )
        .succeeded();
    sandbox
        .run(
            "qemu-img",
            ["compare", "-f", "raw", "-F", "raw", noise, &uri],
        )
        .succeeded();
}

#[test]
fn qemu_io_script_verifies_its_patterns() {
    need!("qemu-io");
    let (sandbox, server) = tank();
    let script = [
        "aio_write -P 7 0 64k",
        "aio_write -P 8 64k 1M",
        "aio_flush",
        "read -P 7 0 64k",
        "read -P 8 64k 1M",
        "write -z -u 64k 64k",
        "read -P 0 64k 64k",
        "discard 0 64k",
        "write -f -P 9 512 1k",
        "read -P 9 512 1k",
        "flush",
        "read -P 8 128k 960k",
    ];
    let mut args = vec!["-f".to_string(), "raw".to_string(), server.uri()];
    args.extend(
        script
            .iter()
            .flat_map(|line| ["-c".to_string(), line.to_string()]),
    );
    let ran = sandbox.run("qemu-io", args).succeeded();
    assert!(!ran.stdout.contains("failed"), "{ran}");
}

// ---- fio ----

#[test]
fn fio_verifies_on_four_connections() {
    need!("fio");
    let (sandbox, server) = tank();
    let uri = server.uri();
    for pattern in ["write", "randwrite"] {
        let fio = Fio {
            uri: &uri,
            pattern,
            block_sizes: "512-1m",
            bytes_per_connection: 8 * MIB,
            connections: 4,
        };
        fio.run(&sandbox, 11).succeeded();
    }
}

#[test]
fn fio_would_notice_a_wrong_byte() {
    need!("fio");
    let (sandbox, server) = tank();
    let uri = server.uri();
    let mut fio = Fio {
        uri: &uri,
        pattern: "write",
        block_sizes: "4k-4k",
        bytes_per_connection: MIB,
        connections: 1,
    };
    fio.run(&sandbox, 5).succeeded();
    fio.pattern = "read";
    fio.run(&sandbox, 5).succeeded();
    server.connect().write(123_456, b"?").expect("write");
    let ran = fio.run(&sandbox, 5);
    assert!(ran.code != 0 && ran.stderr.contains("verify"), "{ran}");
}

#[test]
fn memory_is_bounded_under_deep_queues_of_large_requests() {
    need!("fio");
    let (sandbox, server) = tank();
    let uri = server.uri();
    let peak = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let args = format!(
                "--name=load --ioengine=nbd --uri={uri} --rw=randrw --bs=1m --size=32M \
                 --offset_increment=32M --numjobs=4 --iodepth=64 --thread --time_based --runtime=5"
            );
            sandbox.run("fio", args.split_whitespace()).succeeded();
        });
        let mut peak = 0;
        while !load.is_finished() {
            peak = peak.max(server.resident_mib());
            thread::sleep(Duration::from_millis(50));
        }
        peak
    });
    println!("peak resident memory under 4 x queue depth 64 of 1 MiB: {peak} MiB");
    assert!(peak < 1024, "{peak} MiB resident");
}
