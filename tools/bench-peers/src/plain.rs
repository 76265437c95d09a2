//! One plain file without any server: what a durable write costs whoever promises nothing more.

use crate::driven::Driven;
use crate::loads::Work;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;
use uraid_load::{BLOCK_BYTES, Drive, Latency, Limit};

/// A prime: steps of it meet every block once, unless it divides their number.
const STEP: u64 = 1_000_003;
const FILL_BYTES: usize = 1 << 20;

/// The file.
pub struct PlainFile {
    file: File,
    blocks: u64,
    written: u64,
}

impl PlainFile {
    /// A new one.
    pub fn create(dir: &Path, bytes: u64) -> Result<PlainFile, String> {
        let path = dir.join("plain-file");
        let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(PlainFile {
            file,
            blocks: bytes / BLOCK_BYTES,
            written: 0,
        })
    }

    fn write_and_flush(&mut self, limit: Limit) -> std::io::Result<Drive> {
        let block = [0x5a; BLOCK_BYTES as usize];
        let begun = Instant::now();
        let more = |done: usize| match limit {
            Limit::Time(time) => begun.elapsed() < time,
            Limit::Requests(requests) => (done as u64) < requests,
        };
        let mut micros = Vec::new();
        while more(micros.len()) {
            let at = Instant::now();
            let place = self.written.wrapping_mul(STEP) % self.blocks;
            self.file.write_all_at(&block, place * BLOCK_BYTES)?;
            self.file.sync_data()?;
            self.written += 1;
            micros.push(at.elapsed().as_secs_f64() * 1e6);
        }
        let seconds = begun.elapsed().as_secs_f64();
        micros.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let last = micros.len().saturating_sub(1);
            micros
                .get((last as f64 * share) as usize)
                .copied()
                .unwrap_or(0.0)
        };
        Ok(Drive {
            requests: micros.len() as u64,
            read_bytes: 0,
            written_bytes: micros.len() as u64 * BLOCK_BYTES,
            seconds,
            latency: Latency {
                p50_micros: quantile(0.5),
                p99_micros: quantile(0.99),
                p999_micros: quantile(0.999),
                max_micros: quantile(1.0),
            },
        })
    }
}

impl Driven for PlainFile {
    fn fill(&mut self) -> Result<(), String> {
        let content = vec![0x5a; FILL_BYTES];
        let mut at = 0;
        while at < self.blocks * BLOCK_BYTES {
            self.file.write_all_at(&content, at).map_err(of_file)?;
            at += FILL_BYTES as u64;
        }
        self.file.sync_data().map_err(of_file)
    }

    fn drive(&mut self, _: &Work, limit: Limit) -> Result<Drive, String> {
        self.write_and_flush(limit).map_err(of_file)
    }

    fn cpu_seconds(&mut self, _: &Work) -> Result<Option<f64>, String> {
        Ok(None)
    }
}

fn of_file(error: std::io::Error) -> String {
    format!("writing the plain file: {error}")
}
