//! Requests on their way from a reader thread to the data thread, and answers on their way back.
//!
//! Both ways are bounded channels that never fill up: the reader keeps back what is more than
//! either holds until answers come. So neither thread waits for the other, ever.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use uraid_engine::api::{Reply, Request, RequestId};
use uraid_io::driver::Waker;

/// Most requests of one reader that are with the data thread. What more there is waits in the
/// reader: as much as its clients may have under way.
pub const RELAYED_MAX: usize = 1024;

/// A request with its number.
type Numbered = (RequestId, Request);

/// The reader's end.
pub struct Relay {
    requests: SyncSender<Numbered>,
    replies: Receiver<Reply>,
    data_thread: Waker,
    /// Sent, and not answered yet.
    sent: usize,
    waiting: VecDeque<Numbered>,
    /// Something was sent since the data thread was last woken.
    news: bool,
}

/// The data thread's end.
pub struct RelayEnd {
    requests: Receiver<Numbered>,
    replies: SyncSender<Reply>,
    reader: Waker,
    news: bool,
}

/// A way between two threads that these wake.
pub fn relay(reader: Waker, data_thread: Waker) -> (Relay, RelayEnd) {
    let (requests, taken) = sync_channel(RELAYED_MAX);
    let (answers, replies) = sync_channel(RELAYED_MAX);
    let relay = Relay {
        requests,
        replies,
        data_thread,
        sent: 0,
        waiting: VecDeque::new(),
        news: false,
    };
    let end = RelayEnd {
        requests: taken,
        replies: answers,
        reader,
        news: false,
    };
    (relay, end)
}

impl Relay {
    /// Passes a request on, after those before it.
    pub fn push(&mut self, id: RequestId, request: Request) {
        self.waiting.push_back((id, request));
        self.send();
    }

    fn send(&mut self) {
        while self.sent < RELAYED_MAX
            && let Some(request) = self.waiting.pop_front()
        {
            // There is room. If nobody is there any more, nobody waits for the answer either: the
            // server has failed, or its time is up.
            let _ = self.requests.try_send(request);
            self.sent += 1;
            self.news = true;
        }
    }

    /// The next answer.
    pub fn next_reply(&mut self) -> Option<Reply> {
        let reply = self.replies.try_recv().ok()?;
        self.sent -= 1;
        self.send();
        Some(reply)
    }

    /// Wakes the data thread if there is something for it.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.news) {
            self.data_thread.wake();
        }
    }
}

impl RelayEnd {
    /// The next request.
    pub fn next_request(&mut self) -> Option<Numbered> {
        self.requests.try_recv().ok()
    }

    /// Answers a request.
    pub fn reply(&mut self, reply: Reply) {
        // There is room, and whoever has ended waits for no answer.
        let _ = self.replies.try_send(reply);
        self.news = true;
    }

    /// Wakes the reader if there is something for it, or `anyway`.
    pub fn wake(&mut self, anyway: bool) {
        if std::mem::take(&mut self.news) || anyway {
            self.reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_buffer::Pool;
    use uraid_engine::api::Answer;
    use uraid_io::driver::{Backend, Driver, Limits};

    #[test]
    fn more_requests_than_the_channels_hold_are_all_answered_once_and_in_order() {
        let driver = || Driver::new(Backend::Threads, &Pool::heap(), Limits::default()).unwrap();
        let (reader, data_thread) = (driver(), driver());
        let (mut relay, mut end) = relay(reader.waker(), data_thread.waker());
        let count = 3 * RELAYED_MAX as u64 + 7;
        (0..count).for_each(|id| relay.push(RequestId(id), Request::Flush));
        let mut answered = 0;
        while answered < count {
            let mut taken = 0;
            while let Some((id, _)) = end.next_request() {
                let result = Ok(Answer::Done);
                end.reply(Reply { id, result });
                taken += 1;
            }
            assert!((1..=RELAYED_MAX).contains(&taken), "{taken}");
            while let Some(reply) = relay.next_reply() {
                assert_eq!(reply.id, RequestId(answered));
                answered += 1;
            }
        }
        assert!(relay.next_reply().is_none() && relay.waiting.is_empty());
    }
}
