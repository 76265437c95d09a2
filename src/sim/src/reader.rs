//! Reads a whole array, read-only, from copies of its members: a second opinion.

use crate::disk::{Disk, Speed};
use crate::host::{Host, Told};
use crate::medium::Medium;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::watch::Watch;
use uraid_buffer::Span;
use uraid_engine::api::{Answer, DeviceId, Event, OpenOptions, Request, RequestId};

/// Bytes of one read.
const READ_BYTES_MAX: u64 = 256 << 10;

/// Opens the array on `media` without writing and reads it from end to end. The error says in
/// words why that does not work.
pub fn read_all(media: Vec<Medium>, options: OpenOptions, watch: Watch) -> Result<Vec<u8>, String> {
    assert!(options.read_only, "a second opinion changes nothing");
    let speed = Speed {
        least: 1000,
        spread: 2,
        flush: 1,
    };
    let new = |medium| Disk::with_medium(medium, speed, Rng::new(1));
    let mut disks: Vec<Disk> = media.into_iter().map(new).collect();
    let offered: Vec<_> = (0..disks.len()).map(|i| (DeviceId(i as u32), i)).collect();
    let mut host = Host::open(&offered, &disks, options, watch);
    let mut trace = Trace::default();
    let mut now = 0;
    let mut bytes: Option<Vec<u8>> = None;
    loop {
        let told = host
            .pump(now, &mut disks, &mut trace)?
            .expect("no crash is planned");
        let idle = told.is_empty();
        for one in told {
            match one {
                Told::Event(Event::Opened { .. }) => bytes = Some(Vec::new()),
                Told::Event(Event::Refused(refusal)) => return Err(refusal.text),
                Told::Event(_) | Told::Outcome(_) => continue,
                Told::Reply(reply) => {
                    let read = reply.result.map_err(|error| format!("{error:?}"))?;
                    let Answer::Data(read) = read else {
                        return Err(format!("a read was answered with {read:?}"));
                    };
                    let bytes = bytes.as_mut().expect("it is open");
                    bytes.extend(Span::joined(&read));
                }
            }
            let offset = bytes.as_ref().map_or(0, |b| b.len() as u64);
            let size = host.engine.export().expect("it is open").size_bytes;
            if offset == size {
                return Ok(bytes.unwrap_or_default());
            }
            let len = READ_BYTES_MAX.min(size - offset);
            host.engine
                .request(RequestId(offset), Request::Read { offset, len });
        }
        if !idle {
            continue; // what was just asked has not been worked on
        }
        match host.next_time(&disks) {
            Some(next) => now = now.max(next),
            None => return Err("the engine is stuck: nothing is in flight".into()),
        }
    }
}
