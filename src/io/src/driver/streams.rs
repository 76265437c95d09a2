//! Listeners and streams.

use super::call::{CALL_BYTES_MAX, Call, Segments, total_len};
use super::{Done, Driver, DriverEvent, Key, Operation};
use crate::sockets::tune_stream;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{Shutdown, shutdown};
use nix::sys::time::TimeSpec;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};
use uraid_buffer::{Buf, BufMut};

/// How long to leave a listener alone after the system could not take a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// A listening socket; ids are the caller's and must not be in use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u32);

/// A connected socket; ids are the caller's and must not be in use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

pub(super) struct Listener {
    fd: OwnedFd,
    accepting: Option<Key>,
    pub(super) retry_at: Option<Instant>,
    stopping: bool,
}

pub(super) struct Stream {
    fd: OwnedFd,
    receiving: Option<Key>,
    sending: Option<Key>,
    closing: bool,
}

pub(super) struct ReceiveOperation {
    stream: StreamId,
    buffer: BufMut,
    range: Range<usize>,
}

impl ReceiveOperation {
    fn call(&mut self, fd: &OwnedFd) -> Call {
        let target = &mut self.buffer[self.range.clone()];
        let len = target.len().min(CALL_BYTES_MAX) as u32;
        Call::Receive {
            fd: fd.as_raw_fd(),
            start: target.as_mut_ptr(),
            len,
        }
    }
}

pub(super) struct SendOperation {
    stream: StreamId,
    buffers: Vec<Buf>,
    len: usize,
    done: usize,
    segments: Segments,
}

impl SendOperation {
    fn call(&mut self, fd: &OwnedFd) -> Call {
        let message = self.segments.message(&self.buffers, self.done);
        Call::Send {
            fd: fd.as_raw_fd(),
            message,
        }
    }
}

impl Driver {
    /// Accepts connections until [`Driver::stop_listening`].
    pub fn listen(&mut self, id: ListenerId, fd: OwnedFd) {
        assert!(!self.listeners.contains_key(&id), "{id:?} is in use");
        self.backend
            .socket_added(fd.as_fd())
            .expect("the descriptor is open");
        let listener = Listener {
            fd,
            accepting: None,
            retry_at: None,
            stopping: false,
        };
        self.listeners.insert(id, listener);
        self.accept(id);
    }

    /// Closes a listener, at the latest during the next wait. No connection comes from it then.
    pub fn stop_listening(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return;
        };
        match listener.accepting {
            None => drop(self.listeners.remove(&id)),
            Some(_) if listener.stopping => {}
            Some(key) => {
                listener.stopping = true;
                self.backend.cancel(key);
            }
        }
    }

    fn accept(&mut self, id: ListenerId) {
        let key = self.operations.insert(Operation::Accept(id));
        let listener = self.listeners.get_mut(&id).expect("the caller has it");
        listener.accepting = Some(key);
        self.backend.start(
            key,
            Call::Accept {
                fd: listener.fd.as_raw_fd(),
            },
        );
    }

    pub(super) fn retry_accepts(&mut self, now: Instant) {
        let due = |listener: &Listener| listener.retry_at.is_some_and(|at| at <= now);
        let due: Vec<_> = self
            .listeners
            .iter()
            .filter(|(_, l)| due(l))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.listeners.get_mut(&id).expect("just seen").retry_at = None;
            self.accept(id);
        }
    }

    pub(super) fn finish_accept(&mut self, done: Done, events: &mut Vec<DriverEvent>) {
        let Operation::Accept(id) = self.operations.remove(done.key) else {
            unreachable!()
        };
        let listener = self
            .listeners
            .get_mut(&id)
            .expect("listeners outlive their accepts");
        listener.accepting = None;
        let accepted = match done.result {
            // SAFETY: the kernel has just made this descriptor for us.
            fd @ 0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            result => Err(-result),
        };
        if listener.stopping {
            self.listeners.remove(&id);
            return;
        }
        match accepted {
            Ok(fd) => {
                // It fails when the peer is gone already; then so does the first receive.
                let _ = tune_stream(&fd);
                events.push(DriverEvent::Accepted { listener: id, fd });
                self.accept(id);
            }
            // This connection came to nothing (accept(2) lists what the network may report).
            Err(
                libc::EINTR
                | libc::EAGAIN
                | libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH,
            ) => self.accept(id),
            Err(errno) => {
                listener.retry_at = Some(Instant::now() + ACCEPT_RETRY);
                let error = io::Error::from_raw_os_error(errno);
                events.push(DriverEvent::AcceptFailed {
                    listener: id,
                    error,
                });
            }
        }
    }

    /// Makes a connected socket known.
    pub fn add_stream(&mut self, id: StreamId, fd: OwnedFd) {
        assert!(!self.streams.contains_key(&id), "{id:?} is in use");
        self.backend
            .socket_added(fd.as_fd())
            .expect("the descriptor is open");
        self.streams.insert(
            id,
            Stream {
                fd,
                receiving: None,
                sending: None,
                closing: false,
            },
        );
    }

    /// Gives a connected socket back, for another driver. Nothing may be under way on it.
    pub fn release_stream(&mut self, id: StreamId) -> OwnedFd {
        let stream = open_stream(self.streams.get_mut(&id));
        let idle = stream.receiving.is_none() && stream.sending.is_none();
        assert!(idle, "{id:?} is receiving or sending");
        self.streams.remove(&id).expect("just seen").fd
    }

    /// How many bytes of the present send the kernel has taken so far; none if nothing is sent.
    pub fn send_progress(&self, id: StreamId) -> Option<usize> {
        let key = self.streams.get(&id)?.sending?;
        match &self.operations[key] {
            Operation::Send(operation) => Some(operation.done),
            _ => unreachable!("the stream says that it is a send"),
        }
    }

    /// Streams whose peer sends nothing more: it has closed them, though bytes that it sent
    /// before may be waiting. Asks the kernel about all of them.
    pub fn ended_streams(&self) -> Vec<StreamId> {
        let ends = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let sockets = self.streams.values().map(|stream| stream.fd.as_fd());
        let mut fds: Vec<PollFd<'_>> = sockets.map(|fd| PollFd::new(fd, ends)).collect();
        if let Err(errno) = ppoll(&mut fds, Some(TimeSpec::from(Duration::ZERO)), None) {
            // Kernel memory is short: whoever asks takes all for ended.
            assert!(matches!(errno, Errno::ENOMEM | Errno::EINTR), "{errno}");
            return self.streams.keys().copied().collect();
        }
        let streams = self.streams.keys().zip(&fds);
        let ended = streams.filter(|(_, fd)| fd.any().unwrap_or(true));
        ended.map(|(stream, _)| *stream).collect()
    }

    /// Receives into `range` of `buffer`, which must not be empty: at least one byte, at most all
    /// of it. One at a time for each stream.
    pub fn recv(&mut self, id: StreamId, buffer: BufMut, range: Range<usize>) {
        assert!(
            !range.is_empty() && range.end <= buffer.len(),
            "{range:?} of {buffer:?}"
        );
        let stream = open_stream(self.streams.get_mut(&id));
        assert!(stream.receiving.is_none(), "{id:?} is receiving already");
        let mut operation = ReceiveOperation {
            stream: id,
            buffer,
            range,
        };
        let call = operation.call(&stream.fd);
        let key = self.operations.insert(Operation::Receive(operation));
        stream.receiving = Some(key);
        self.backend.start(key, call);
    }

    /// Sends all bytes of `buffers`. One at a time for each stream.
    pub fn send(&mut self, id: StreamId, buffers: Vec<Buf>) {
        let stream = open_stream(self.streams.get_mut(&id));
        assert!(stream.sending.is_none(), "{id:?} is sending already");
        let len = total_len(&buffers);
        if len == 0 {
            return self.ready.push(DriverEvent::Sent {
                stream: id,
                result: Ok(()),
            });
        }
        let segments = Segments::new();
        let mut operation = SendOperation {
            stream: id,
            buffers,
            len,
            done: 0,
            segments,
        };
        let call = operation.call(&stream.fd);
        let key = self.operations.insert(Operation::Send(operation));
        stream.sending = Some(key);
        self.backend.start(key, call);
    }

    /// Ends a stream at once. The only event it still has is [`DriverEvent::StreamClosed`].
    pub fn close_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.closing {
            return;
        }
        stream.closing = true;
        // Ends calls under way; a stream that is not connected any more has none that wait.
        let _ = shutdown(stream.fd.as_raw_fd(), Shutdown::Both);
        for key in [stream.receiving, stream.sending].into_iter().flatten() {
            self.backend.cancel(key);
        }
        let mut events = std::mem::take(&mut self.ready);
        self.close_if_idle(id, &mut events);
        self.ready = events;
    }

    fn close_if_idle(&mut self, id: StreamId, events: &mut Vec<DriverEvent>) {
        let stream = &self.streams[&id];
        if stream.closing && stream.receiving.is_none() && stream.sending.is_none() {
            self.streams.remove(&id);
            events.push(DriverEvent::StreamClosed(id));
        }
    }

    pub(super) fn finish_receive(&mut self, done: Done, events: &mut Vec<DriverEvent>) {
        let Operation::Receive(operation) = &mut self.operations[done.key] else {
            unreachable!()
        };
        let id = operation.stream;
        let stream = self
            .streams
            .get_mut(&id)
            .expect("streams outlive their operations");
        if asks_to_repeat(done.result) && !stream.closing {
            let call = operation.call(&stream.fd);
            return self.backend.start(done.key, call);
        }
        let removed = self.operations.remove(done.key);
        let Operation::Receive(ReceiveOperation { buffer, .. }) = removed else {
            unreachable!()
        };
        stream.receiving = None;
        if stream.closing {
            return self.close_if_idle(id, events);
        }
        let result = to_result(done.result);
        events.push(DriverEvent::Received {
            stream: id,
            buffer,
            result,
        });
    }

    pub(super) fn finish_send(&mut self, done: Done, events: &mut Vec<DriverEvent>) {
        let Operation::Send(operation) = &mut self.operations[done.key] else {
            unreachable!()
        };
        let id = operation.stream;
        let stream = self
            .streams
            .get_mut(&id)
            .expect("streams outlive their operations");
        operation.done += done.result.max(0) as usize;
        let unfinished = operation.done < operation.len;
        let goes_on = done.result > 0 || asks_to_repeat(done.result);
        if unfinished && goes_on && !stream.closing {
            let call = operation.call(&stream.fd);
            return self.backend.start(done.key, call);
        }
        self.operations.remove(done.key);
        stream.sending = None;
        if stream.closing {
            return self.close_if_idle(id, events);
        }
        let result = match to_result(done.result) {
            Ok(_) if unfinished => Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        events.push(DriverEvent::Sent { stream: id, result });
    }
}

fn open_stream(stream: Option<&mut Stream>) -> &mut Stream {
    let stream = stream.expect("the stream is known");
    assert!(!stream.closing, "the stream is being closed");
    stream
}

fn asks_to_repeat(result: i32) -> bool {
    result == -libc::EINTR || result == -libc::EAGAIN
}

fn to_result(result: i32) -> io::Result<usize> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result as usize)
    }
}
