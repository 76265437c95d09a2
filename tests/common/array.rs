//! An array being served whose content is known.

use super::MIB;
use super::pattern::blocks;
use super::sandbox::{Ran, Sandbox};
use super::server::Server;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Size of every member.
const MEMBER_BYTES: u64 = 96 * MIB;

/// Requests are at most 32 MiB.
const PIECE_BYTES: usize = 8 << 20;

/// An array being served, with content.
pub struct Array {
    // In the order of dropping: the server goes before its files do.
    pub server: Server,
    pub members: Vec<PathBuf>,
    /// What the export holds from offset 0 on.
    pub content: Vec<u8>,
    pub sandbox: Sandbox,
}

impl Array {
    /// Makes an array and writes 8 MiB at its start.
    pub fn new(options: &str, count: usize) -> Array {
        let sandbox = Sandbox::new();
        let members = sandbox.members(count);
        sandbox.create(&format!("--size {MEMBER_BYTES} {options}"), &members);
        let server = sandbox.serve(&members);
        let content = blocks(0, 8 * MIB / 4096, 1);
        server.connect().write(0, &content).expect("write");
        Array {
            server,
            members,
            content,
            sandbox,
        }
    }

    pub fn run(&self, command: &str, args: &[&Path]) -> Ran {
        self.server.uraid(&self.sandbox, command, args)
    }

    pub fn status(&self) -> Value {
        self.server.status(&self.sandbox)
    }

    /// Every byte is still what was written, as a new connection reads it.
    #[track_caller]
    pub fn assert_intact(&self) {
        let mut client = self.server.connect();
        let mut at = 0;
        for expected in self.content.chunks(PIECE_BYTES) {
            let found = client.read(at, expected.len()).expect("read");
            assert!(found == expected, "the content has changed after byte {at}");
            at += PIECE_BYTES as u64;
        }
    }

    /// Writes a part of the content anew.
    pub fn rewrite(&mut self, first: u64, count: u64, version: u64) {
        let data = blocks(first, count, version);
        self.server
            .connect()
            .write(first * 4096, &data)
            .expect("write");
        let at = first as usize * 4096;
        self.content[at..at + data.len()].copy_from_slice(&data);
    }

    /// Stops the server and starts one on these members only.
    pub fn restart_on(&mut self, members: &[PathBuf]) {
        self.stop();
        self.server = self.sandbox.serve(members);
    }

    /// Stops the server; the next use must be a start.
    pub fn stop(&mut self) {
        self.server.signal(Signal::SIGTERM);
        assert!(self.server.wait_end().success(), "{}", self.server.log());
    }

    /// Kills the server; the next use must be a start.
    pub fn kill(&mut self) {
        self.server.signal(Signal::SIGKILL);
        self.server.wait_end();
    }

    /// Kills the server and starts one on all members.
    pub fn restart_killed(&mut self) {
        self.kill();
        self.server = self.sandbox.serve(&self.members);
    }

    /// A blank file as large as the members.
    pub fn blank(&self, name: &str) -> PathBuf {
        self.sandbox.file(name, MEMBER_BYTES)
    }
}
