//! What clients ask and are answered, in the engine's words and back.

use uraid_engine::api::{Answer, Extent, Request, RequestError, Stored};
use uraid_nbd::context::{allocation, redundancy};
use uraid_nbd::{NbdError, ReplyError, RequestKind};

/// A client's request, for the engine.
pub fn engine_request(kind: RequestKind) -> Request {
    match kind {
        RequestKind::Read { offset, len } => Request::Read {
            offset,
            len: len.into(),
        },
        RequestKind::Write { offset, data, fua } => Request::Write { offset, data, fua },
        RequestKind::Flush => Request::Flush,
        RequestKind::Trim { offset, len, fua } => Request::Trim { offset, len, fua },
        RequestKind::WriteZeroes {
            offset,
            len,
            fua,
            keep_space,
            only_if_fast,
        } => Request::WriteZeroes {
            offset,
            len,
            fua,
            keep_space,
            only_if_fast,
        },
        RequestKind::BlockStatus { offset, len } => Request::Extents { offset, len },
    }
}

/// The engine's answer, for the client.
pub fn client_answer(
    result: Result<Answer, RequestError>,
) -> Result<uraid_nbd::Answer, ReplyError> {
    match result {
        Ok(Answer::Done) => Ok(uraid_nbd::Answer::Done),
        Ok(Answer::Data(spans)) => Ok(uraid_nbd::Answer::Data(spans)),
        Ok(Answer::Extents(extents)) => {
            let extents = extents.into_iter().map(client_extent).collect();
            Ok(uraid_nbd::Answer::Extents(extents))
        }
        Err(error) => Err(client_error(error)),
    }
}

fn client_extent(extent: Extent) -> uraid_nbd::Extent {
    let (allocation, redundancy) = match extent.stored {
        None => (allocation::HOLE | allocation::ZERO, redundancy::EMPTY),
        Some(stored) => (0, redundancy_status(stored)),
    };
    uraid_nbd::Extent {
        len: extent.len,
        allocation,
        redundancy,
    }
}

fn redundancy_status(stored: Stored) -> u32 {
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    u32::from(stored.losses_survived).min(redundancy::LEFT_MASK)
        | flag(stored.rebuilding, redundancy::REBUILDING)
        | flag(stored.lost, redundancy::LOST)
}

fn client_error(error: RequestError) -> ReplyError {
    let not_fast = "zeroing this range would take as long as writing it";
    let (errno, text) = match error {
        RequestError::Io { text, offset } => {
            return ReplyError {
                offset,
                ..ReplyError::new(NbdError::Io, text)
            };
        }
        RequestError::Invalid(text) => (NbdError::Invalid, text),
        RequestError::NoSpace(text) => (NbdError::NoSpace, text),
        RequestError::ReadOnly => (NbdError::NotPermitted, "the array is read-only".into()),
        RequestError::Stopping => (NbdError::ShuttingDown, "the server is stopping".into()),
        RequestError::NotFast => (NbdError::NotSupported, not_fast.into()),
    };
    ReplyError::new(errno, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_become_statuses() {
        let stored = |losses_survived, rebuilding, lost| Stored {
            losses_survived,
            rebuilding,
            lost,
        };
        for (stored, allocation, redundancy) in [
            (None, 3, 0x400),
            (Some(stored(2, false, false)), 0, 2),
            (Some(stored(0, true, false)), 0, 0x100),
            (Some(stored(0, false, true)), 0, 0x200),
        ] {
            let extent = client_extent(Extent { len: 7, stored });
            let expected = uraid_nbd::Extent {
                len: 7,
                allocation,
                redundancy,
            };
            assert_eq!(extent, expected);
        }
    }
}
