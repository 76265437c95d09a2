//! Options about metadata contexts: listing and choosing them.

use alloc::vec::Vec;

use super::exports::Refusal;
use super::{Negotiation, Step, put_reply, refuse};
use crate::context::{Context, ContextSet};
use crate::output::Output;
use crate::wire::{Dialect, Reader, STRING_BYTES_MAX, option, option_reply};

impl Negotiation {
    /// All contexts, or those that some query asks for.
    pub(super) fn list_meta_context(&self, data: &[u8], output: &mut Output) -> Step {
        let option = option::LIST_META_CONTEXT;
        let (_, queries) = match self.meta_request(data) {
            Ok(request) => request,
            Err((error, text)) => return refuse(output, option, error, &text),
        };
        for context in Context::ALL {
            if queries.is_empty() || queries.iter().any(|query| context.is_listed_by(query)) {
                put_context(output, option, 0, context);
            }
        }
        put_reply(output, option, option_reply::ACK, &[]);
        Step::Continue
    }

    /// Contexts asked for by their names, in place of those chosen before; what is not known is
    /// ignored.
    pub(super) fn set_meta_context(&mut self, data: &[u8], output: &mut Output) -> Step {
        let option = option::SET_META_CONTEXT;
        self.agreed.contexts = None;
        let (index, queries) = match self.meta_request(data) {
            Ok(request) => request,
            Err((error, text)) => return refuse(output, option, error, &text),
        };
        let mut chosen = ContextSet::default();
        for context in Context::ALL {
            if queries.iter().any(|query| context.is_set_by(query)) {
                chosen.insert(context);
                put_context(output, option, context.id(), context);
            }
        }
        put_reply(output, option, option_reply::ACK, &[]);
        self.agreed.contexts = Some((index, chosen));
        Step::Continue
    }

    /// The export and the queries in the data of either option.
    fn meta_request<'a>(&self, data: &'a [u8]) -> Result<(usize, Vec<&'a [u8]>), Refusal> {
        if self.agreed.dialect == Dialect::Simple {
            let text = "metadata contexts need structured replies or extended headers";
            return Err((option_reply::ERR_INVALID, text.into()));
        }
        let Some((name, queries)) = parse_meta(data) else {
            let text = "lengths inside the option do not fit its length";
            return Err((option_reply::ERR_INVALID, text.into()));
        };
        if queries.iter().any(|query| query.len() > STRING_BYTES_MAX) {
            let text = "a query is longer than 4096 bytes";
            return Err((option_reply::ERR_TOO_BIG, text.into()));
        }
        Ok((self.find(name)?, queries))
    }
}

/// The export's name and the queries; `None` if malformed.
fn parse_meta(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut reader = Reader::new(data);
    let name = reader.string()?;
    let count = reader.u32()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(reader.string()?);
    }
    reader.rest().is_empty().then_some((name, queries))
}

fn put_context(output: &mut Output, option: u32, id: u32, context: Context) {
    let parts: [&[u8]; 2] = [&id.to_be_bytes(), context.name().as_bytes()];
    put_reply(output, option, option_reply::META_CONTEXT, &parts);
}
