//! The handshake: fixed newstyle negotiation, from the greeting to the choice of an export.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::export::{self, Admission, Export, MINIMUM_BLOCK_BYTES};
use crate::output::Output;
use crate::transmission::PAYLOAD_BYTES_MAX;
use crate::wire::{self, Reader, handshake_flag, info, option, option_reply};

/// Most options one client may send.
pub const OPTIONS_MAX: usize = 64;
/// Most data an option may carry and still be looked at: a name of the greatest length with
/// lengths and information requests around it.
pub const OPTION_DATA_BYTES_MAX: usize = wire::STRING_BYTES_MAX + 1024;
/// Longer options up to this are skipped and refused; beyond, the connection is closed.
pub const OPTION_SKIP_BYTES_MAX: usize = 64 * 1024;
/// While this much waits to be sent, no further option is taken.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Length of the client's flags.
const CLIENT_FLAGS_BYTES: usize = 4;
/// What a client is told that comes when enough are there.
const FULL_TEXT: &str = "as many clients as are allowed are connected; try again later";
/// What a client is told that comes for an export on its way out.
const STOPPING_TEXT: &str = "the export is being taken out of service";
/// What a server that shuts down tells.
const SHUTDOWN_TEXT: &str = "the server is shutting down";

/// How negotiation goes on after some input.
pub(crate) enum Step {
    /// With more input.
    Continue,
    /// It is done.
    Transmit { export: usize, structured: bool },
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

pub(crate) struct Negotiation {
    exports: Arc<[Export]>,
    stage: Stage,
    /// The message of the present stage, as far as it has arrived.
    message: Vec<u8>,
    options: usize,
    no_zeroes: bool,
    structured: bool,
    shutting_down: bool,
}

impl Negotiation {
    /// Starts with the greeting in `output`.
    pub fn new(exports: Arc<[Export]>, output: &mut Output) -> Negotiation {
        output.push_small(&wire::INIT_MAGIC.to_be_bytes());
        output.push_small(&wire::OPTION_MAGIC.to_be_bytes());
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        output.push_small(&flags.to_be_bytes());
        Negotiation {
            exports,
            stage: Stage::ClientFlags,
            message: Vec::new(),
            options: 0,
            no_zeroes: false,
            structured: false,
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
        // A client without FIXED_NEWSTYLE can send nothing but EXPORT_NAME, which works alike.
        self.no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
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
            option::EXPORT_NAME => Step::Violation("name of the export is too long".into()),
            option::ABORT => self.abort(output),
            option::LIST | option::STRUCTURED_REPLY | option::INFO | option::GO => {
                refuse(output, option, option_reply::ERR_TOO_BIG, "option too long")
            }
            _ => refuse(output, option, option_reply::ERR_UNSUP, "unknown option"),
        }
    }

    /// Answers an option whose data has all arrived.
    fn option(&mut self, option: u32, data: &[u8], output: &mut Output) -> Step {
        self.stage = Stage::OptionHeader;
        match option {
            option::ABORT => self.abort(output),
            option::EXPORT_NAME => self.export_name(data, output),
            _ if self.shutting_down => {
                refuse(output, option, option_reply::ERR_SHUTDOWN, SHUTDOWN_TEXT)
            }
            option::LIST => self.list(data, output),
            option::INFO | option::GO => self.info(option, data, output),
            option::STRUCTURED_REPLY => self.structured_reply(data, output),
            // Extensions of the protocol that this server does not offer.
            option::STARTTLS
            | option::LIST_META_CONTEXT
            | option::SET_META_CONTEXT
            | option::EXTENDED_HEADERS => refuse(
                output,
                option,
                option_reply::ERR_UNSUP,
                "not offered by this server",
            ),
            _ => refuse(output, option, option_reply::ERR_UNSUP, "unknown option"),
        }
    }

    fn abort(&mut self, output: &mut Output) -> Step {
        put_reply(output, option::ABORT, option_reply::ACK, &[]);
        Step::Aborted
    }

    /// The way of old clients into transmission: no error can be told, only the end.
    fn export_name(&mut self, name: &[u8], output: &mut Output) -> Step {
        if self.shutting_down {
            return Step::Violation(SHUTDOWN_TEXT.into());
        }
        let Some(index) = export::find(&self.exports, name) else {
            return Step::Violation(format!("client asked for {}", unknown_export(name)));
        };
        let export = &self.exports[index];
        if let Some((_, text)) = not_admitted(export) {
            return Step::Violation(format!("export {:?}: {text}", export.name));
        }
        output.push_small(&export.size_bytes.to_be_bytes());
        output.push_small(&export.transmission_flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            output.push_small(&[0; wire::EXPORT_NAME_PADDING_BYTES]);
        }
        Step::Transmit {
            export: index,
            structured: self.structured,
        }
    }

    fn list(&self, data: &[u8], output: &mut Output) -> Step {
        if !data.is_empty() {
            return refuse(
                output,
                option::LIST,
                option_reply::ERR_INVALID,
                "LIST takes no data",
            );
        }
        for export in self.exports.iter().filter(|export| !export.hidden) {
            let name_len = u32::try_from(export.name.len()).expect("names are short");
            let len = name_len.to_be_bytes();
            let parts = [
                &len[..],
                export.name.as_bytes(),
                export.description.as_bytes(),
            ];
            put_reply(output, option::LIST, option_reply::SERVER, &parts);
        }
        put_reply(output, option::LIST, option_reply::ACK, &[]);
        Step::Continue
    }

    fn structured_reply(&mut self, data: &[u8], output: &mut Output) -> Step {
        let option = option::STRUCTURED_REPLY;
        if !data.is_empty() {
            let text = "STRUCTURED_REPLY takes no data";
            return refuse(output, option, option_reply::ERR_INVALID, text);
        }
        self.structured = true;
        put_reply(output, option, option_reply::ACK, &[]);
        Step::Continue
    }

    fn info(&self, option: u32, data: &[u8], output: &mut Output) -> Step {
        let Some((name, items)) = parse_info(data) else {
            let text = "lengths inside the option do not fit its length";
            return refuse(output, option, option_reply::ERR_INVALID, text);
        };
        if name.len() > wire::STRING_BYTES_MAX {
            let text = "name of the export is longer than 4096 bytes";
            return refuse(output, option, option_reply::ERR_TOO_BIG, text);
        }
        let Some(index) = export::find(&self.exports, name) else {
            return refuse(
                output,
                option,
                option_reply::ERR_UNKNOWN,
                &unknown_export(name),
            );
        };
        let export = &self.exports[index];
        if option == option::GO
            && let Some((error, text)) = not_admitted(export)
        {
            return refuse(output, option, error, text);
        }
        self.put_export_info(option, export, items, output);
        put_reply(output, option, option_reply::ACK, &[]);
        if option == option::GO {
            Step::Transmit {
                export: index,
                structured: self.structured,
            }
        } else {
            Step::Continue
        }
    }

    /// Size and flags always; each other item once if it is asked for.
    fn put_export_info(&self, option: u32, export: &Export, items: &[u8], output: &mut Output) {
        let size = export.size_bytes.to_be_bytes();
        let flags = export.transmission_flags(self.structured).to_be_bytes();
        put_info(output, option, info::EXPORT, &[&size, &flags]);
        let asked = |item: u16| {
            items
                .chunks_exact(2)
                .any(|bytes| bytes == item.to_be_bytes())
        };
        if asked(info::NAME) {
            put_info(output, option, info::NAME, &[export.name.as_bytes()]);
        }
        if asked(info::DESCRIPTION) {
            put_info(
                output,
                option,
                info::DESCRIPTION,
                &[export.description.as_bytes()],
            );
        }
        if asked(info::BLOCK_SIZE) {
            let minimum = MINIMUM_BLOCK_BYTES.to_be_bytes();
            let preferred = export.preferred_block_bytes.to_be_bytes();
            let payload = PAYLOAD_BYTES_MAX.to_be_bytes();
            put_info(
                output,
                option,
                info::BLOCK_SIZE,
                &[&minimum, &preferred, &payload],
            );
        }
    }
}

/// The export's name and the list of items in the data of INFO or GO; `None` if malformed.
fn parse_info(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(data);
    let name_len = reader.u32()? as usize;
    let name = reader.bytes(name_len)?;
    let item_count = usize::from(reader.u16()?);
    let items = reader.rest();
    (items.len() == 2 * item_count).then_some((name, items))
}

/// Why clients may not choose `export` at present, as an error and in words.
fn not_admitted(export: &Export) -> Option<(u32, &'static str)> {
    match export.admission {
        Admission::Open => None,
        Admission::Full => Some((option_reply::ERR_POLICY, FULL_TEXT)),
        Admission::Stopping => Some((option_reply::ERR_SHUTDOWN, STOPPING_TEXT)),
    }
}

/// Names an export that is not there, quoting no more of a hostile name than a line can hold.
fn unknown_export(name: &[u8]) -> String {
    if name.is_empty() {
        return "the default export, which there is not: name one".into();
    }
    let shown = &name[..name.len().min(64)];
    format!(
        "export {:?}, which is not served here",
        String::from_utf8_lossy(shown)
    )
}

fn put_reply(output: &mut Output, option: u32, reply: u32, parts: &[&[u8]]) {
    let len = parts.iter().map(|part| part.len()).sum();
    output.push_small(&wire::option_reply_header(option, reply, len));
    for part in parts {
        output.push_small(part);
    }
}

fn put_info(output: &mut Output, option: u32, item: u16, parts: &[&[u8]]) {
    let payload = parts.concat();
    put_reply(
        output,
        option,
        option_reply::INFO,
        &[&item.to_be_bytes(), &payload],
    );
}

fn refuse(output: &mut Output, option: u32, error: u32, text: &str) -> Step {
    put_reply(output, option, error, &[text.as_bytes()]);
    Step::Continue
}
