//! The handshake: fixed newstyle negotiation, from the greeting to the choice of an export.

mod exports;
mod meta;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::context::ContextSet;
use crate::export::Export;
use crate::output::Output;
use crate::tls::TlsPolicy;
use crate::transmission::Chosen;
use crate::wire::{self, Dialect, Reader, handshake_flag, option, option_reply};

/// Most options one client may send.
pub const OPTIONS_MAX: usize = 64;
/// Most data an option may carry and still be looked at: two strings of the greatest length with
/// lengths and information requests around them.
pub const OPTION_DATA_BYTES_MAX: usize = 2 * wire::STRING_BYTES_MAX + 1024;
/// Longer options up to this are skipped and refused; beyond, the connection is closed.
pub const OPTION_SKIP_BYTES_MAX: usize = 64 * 1024;
/// While this much waits to be sent, no further option is taken.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Length of the client's flags.
const CLIENT_FLAGS_BYTES: usize = 4;
/// What a server that shuts down tells.
const SHUTDOWN_TEXT: &str = "the server is shutting down";

/// How negotiation goes on after some input.
pub(crate) enum Step {
    /// With more input.
    Continue,
    /// It is done.
    Transmit(Chosen),
    /// Once what is queued is sent, the TLS handshake begins.
    StartTls,
    /// The client ended it in order; what is queued is still sent.
    Aborted,
    /// The connection must be dropped.
    Violation(String),
}

enum Stage {
    ClientFlags,
    OptionHeader,
    OptionData {
        option: u32,
        len: usize,
    },
    /// Data of an option too long to be looked at.
    Skip {
        option: u32,
        remaining: usize,
    },
}

/// What was agreed on so far, all of which TLS makes void.
struct Agreed {
    dialect: Dialect,
    /// Contexts chosen, and for which export.
    contexts: Option<(usize, ContextSet)>,
}

const NOTHING_AGREED: Agreed = Agreed {
    dialect: Dialect::Simple,
    contexts: None,
};

pub(crate) struct Negotiation {
    exports: Arc<[Export]>,
    tls: TlsPolicy,
    /// Names the client proved to have; none before TLS.
    peer_names: Option<Vec<String>>,
    stage: Stage,
    /// The message of the present stage, as far as it has arrived.
    message: Vec<u8>,
    options: usize,
    fixed_newstyle: bool,
    no_zeroes: bool,
    agreed: Agreed,
    shutting_down: bool,
}

impl Negotiation {
    /// Starts with the greeting in `output`.
    pub fn new(exports: Arc<[Export]>, tls: TlsPolicy, output: &mut Output) -> Negotiation {
        output.push_small(&wire::INIT_MAGIC.to_be_bytes());
        output.push_small(&wire::OPTION_MAGIC.to_be_bytes());
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        output.push_small(&flags.to_be_bytes());
        Negotiation {
            exports,
            tls,
            peer_names: None,
            stage: Stage::ClientFlags,
            message: Vec::new(),
            options: 0,
            fixed_newstyle: false,
            no_zeroes: false,
            agreed: NOTHING_AGREED,
            shutting_down: false,
        }
    }

    /// Knows these exports from now on.
    pub fn set_exports(&mut self, exports: Arc<[Export]>) {
        self.exports = exports;
    }

    /// Refuses every further option but ABORT.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    /// What follows came over TLS, from a client that proved to have these names.
    pub fn tls_established(&mut self, peer_names: Vec<String>) {
        self.peer_names = Some(peer_names);
        self.agreed = NOTHING_AGREED;
    }

    pub fn wants_input(&self, output: &Output) -> bool {
        output.small_bytes() < OUTPUT_BYTES_MAX
    }

    /// Takes some of `bytes`, at least one; says how many and what follows.
    pub fn receive(&mut self, bytes: &[u8], output: &mut Output) -> (usize, Step) {
        let wanted = match self.stage {
            Stage::ClientFlags => CLIENT_FLAGS_BYTES,
            Stage::OptionHeader => wire::OPTION_HEADER_BYTES,
            Stage::OptionData { len, .. } => len,
            Stage::Skip { option, remaining } => {
                let skipped = remaining.min(bytes.len());
                return (skipped, self.skip(option, remaining - skipped, output));
            }
        };
        let taken = (wanted - self.message.len()).min(bytes.len());
        self.message.extend_from_slice(&bytes[..taken]);
        if self.message.len() < wanted {
            return (taken, Step::Continue);
        }
        let message = core::mem::take(&mut self.message);
        let step = match self.stage {
            Stage::ClientFlags => self.client_flags(&message),
            Stage::OptionHeader => self.option_header(&message, output),
            Stage::OptionData { option, .. } => self.option(option, &message, output),
            Stage::Skip { .. } => unreachable!("handled above"),
        };
        (taken, step)
    }

    fn client_flags(&mut self, message: &[u8]) -> Step {
        let flags = Reader::new(message).u32().expect("four bytes");
        let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        if flags & !known != 0 {
            return Step::Violation(format!("client sent unknown handshake flags {flags:#x}"));
        }
        // A client without FIXED_NEWSTYLE can send nothing but EXPORT_NAME, which works alike;
        // only it has no way to TLS.
        self.fixed_newstyle = flags & u32::from(handshake_flag::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
        if self.tls == TlsPolicy::Required && !self.fixed_newstyle {
            return Step::Violation("TLS is required, and the client has no way to it".into());
        }
        self.stage = Stage::OptionHeader;
        Step::Continue
    }

    fn option_header(&mut self, message: &[u8], output: &mut Output) -> Step {
        let mut reader = Reader::new(message);
        let magic = reader.u64().expect("sixteen bytes");
        let option = reader.u32().expect("sixteen bytes");
        let len = reader.u32().expect("sixteen bytes") as usize;
        if magic != wire::OPTION_MAGIC {
            return Step::Violation(format!(
                "option starts with {magic:#x}, not the magic number"
            ));
        }
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return Step::Violation(format!("client sent more than {OPTIONS_MAX} options"));
        }
        if len > OPTION_SKIP_BYTES_MAX {
            return Step::Violation(format!("option {option} carries {len} bytes of data"));
        }
        if len > OPTION_DATA_BYTES_MAX {
            self.stage = Stage::Skip {
                option,
                remaining: len,
            };
        } else if len > 0 {
            self.stage = Stage::OptionData { option, len };
        } else {
            return self.option(option, &[], output);
        }
        Step::Continue
    }

    fn skip(&mut self, option: u32, remaining: usize, output: &mut Output) -> Step {
        self.stage = Stage::Skip { option, remaining };
        if remaining > 0 {
            return Step::Continue;
        }
        self.stage = Stage::OptionHeader;
        match option {
            option::ABORT => abort(output),
            option::EXPORT_NAME => Step::Violation("name of the export is too long".into()),
            option::STARTTLS => self.start_tls(&[0], output),
            _ if self.needs_tls() => refuse_without_tls(output, option),
            option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => {
                self.takes_no_data(option, output)
            }
            option::INFO | option::GO | option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                if option == option::SET_META_CONTEXT {
                    self.agreed.contexts = None;
                }
                refuse(output, option, option_reply::ERR_TOO_BIG, "option too long")
            }
            _ => refuse(output, option, option_reply::ERR_UNSUP, "unknown option"),
        }
    }

    /// Answers an option whose data has all arrived.
    fn option(&mut self, option: u32, data: &[u8], output: &mut Output) -> Step {
        self.stage = Stage::OptionHeader;
        match option {
            option::ABORT => abort(output),
            option::EXPORT_NAME => self.export_name(data, output),
            option::STARTTLS => self.start_tls(data, output),
            _ if self.needs_tls() => refuse_without_tls(output, option),
            _ if self.shutting_down => {
                refuse(output, option, option_reply::ERR_SHUTDOWN, SHUTDOWN_TEXT)
            }
            option::LIST => self.list(data, output),
            option::INFO | option::GO => self.info(option, data, output),
            option::STRUCTURED_REPLY => self.structured_reply(data, output),
            option::LIST_META_CONTEXT => self.list_meta_context(data, output),
            option::SET_META_CONTEXT => self.set_meta_context(data, output),
            option::EXTENDED_HEADERS => self.extended_headers(data, output),
            _ => refuse(output, option, option_reply::ERR_UNSUP, "unknown option"),
        }
    }

    /// Whether nothing may be said before TLS.
    fn needs_tls(&self) -> bool {
        self.tls == TlsPolicy::Required && self.peer_names.is_none()
    }

    fn start_tls(&mut self, data: &[u8], output: &mut Output) -> Step {
        let option = option::STARTTLS;
        let refusal = match self.tls {
            TlsPolicy::Off => Some((option_reply::ERR_UNSUP, "this server has no TLS")),
            _ if !data.is_empty() => Some((option_reply::ERR_INVALID, "STARTTLS takes no data")),
            _ if self.peer_names.is_some() => {
                Some((option_reply::ERR_INVALID, "TLS is in use already"))
            }
            _ if !self.fixed_newstyle => {
                let text = "TLS needs fixed newstyle negotiation";
                Some((option_reply::ERR_POLICY, text))
            }
            _ if self.shutting_down => Some((option_reply::ERR_SHUTDOWN, SHUTDOWN_TEXT)),
            TlsPolicy::Allowed | TlsPolicy::Required => None,
        };
        if let Some((error, text)) = refusal {
            return refuse(output, option, error, text);
        }
        put_reply(output, option, option_reply::ACK, &[]);
        Step::StartTls
    }

    fn structured_reply(&mut self, data: &[u8], output: &mut Output) -> Step {
        let option = option::STRUCTURED_REPLY;
        if !data.is_empty() {
            return self.takes_no_data(option, output);
        }
        if self.agreed.dialect == Dialect::Extended {
            let text = "extended headers are in use already, which include this";
            return refuse(output, option, option_reply::ERR_EXT_HEADER_REQD, text);
        }
        self.agreed.dialect = Dialect::Structured;
        put_reply(output, option, option_reply::ACK, &[]);
        Step::Continue
    }

    fn extended_headers(&mut self, data: &[u8], output: &mut Output) -> Step {
        let option = option::EXTENDED_HEADERS;
        if !data.is_empty() {
            return self.takes_no_data(option, output);
        }
        self.agreed.dialect = Dialect::Extended;
        put_reply(output, option, option_reply::ACK, &[]);
        Step::Continue
    }

    fn takes_no_data(&self, option: u32, output: &mut Output) -> Step {
        let text = format!("option {option} takes no data");
        refuse(output, option, option_reply::ERR_INVALID, &text)
    }
}

fn abort(output: &mut Output) -> Step {
    put_reply(output, option::ABORT, option_reply::ACK, &[]);
    Step::Aborted
}

fn put_reply(output: &mut Output, option: u32, reply: u32, parts: &[&[u8]]) {
    let len = parts.iter().map(|part| part.len()).sum();
    output.push_small(&wire::option_reply_header(option, reply, len));
    for part in parts {
        output.push_small(part);
    }
}

fn refuse(output: &mut Output, option: u32, error: u32, text: &str) -> Step {
    put_reply(output, option, error, &[text.as_bytes()]);
    Step::Continue
}

fn refuse_without_tls(output: &mut Output, option: u32) -> Step {
    let text = "this server talks over TLS only: send STARTTLS first";
    refuse(output, option, option_reply::ERR_TLS_REQD, text)
}
