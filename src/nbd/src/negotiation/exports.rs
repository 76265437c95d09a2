//! Options about exports: listing, describing and choosing them.

use alloc::format;
use alloc::string::String;

use super::{Negotiation, SHUTDOWN_TEXT, Step, put_reply, refuse};
use crate::context::ContextSet;
use crate::export::{self, Access, Admission, Export, MINIMUM_BLOCK_BYTES};
use crate::output::Output;
use crate::request::PAYLOAD_BYTES_MAX;
use crate::tls::TlsPolicy;
use crate::transmission::Chosen;
use crate::wire::{self, Dialect, Reader, info, option, option_reply};

/// What a client is told that comes when enough are there.
const FULL_TEXT: &str = "as many clients as are allowed are connected; try again later";
/// What a client is told that comes for an export on its way out.
const STOPPING_TEXT: &str = "the export is being taken out of service";

/// Why an export is not to be had: the error and a sentence.
pub(super) type Refusal = (u32, String);

impl Negotiation {
    pub(super) fn list(&self, data: &[u8], output: &mut Output) -> Step {
        let option = option::LIST;
        if !data.is_empty() {
            return self.takes_no_data(option, output);
        }
        let listed = |export: &&Export| !export.hidden && self.check_access(export).is_ok();
        for export in self.exports.iter().filter(listed) {
            let name_len = u32::try_from(export.name.len()).expect("names are short");
            let len = name_len.to_be_bytes();
            let parts = [
                &len[..],
                export.name.as_bytes(),
                export.description.as_bytes(),
            ];
            put_reply(output, option, option_reply::SERVER, &parts);
        }
        put_reply(output, option, option_reply::ACK, &[]);
        Step::Continue
    }

    /// The way of old clients into transmission: no error can be told, only the end.
    pub(super) fn export_name(&mut self, name: &[u8], output: &mut Output) -> Step {
        if self.shutting_down {
            return Step::Violation(SHUTDOWN_TEXT.into());
        }
        if self.needs_tls() {
            return Step::Violation("client chose an export without the TLS it needs".into());
        }
        if self.agreed.dialect == Dialect::Extended {
            return Step::Violation("EXPORT_NAME does not go with extended headers".into());
        }
        let index = match self.find(name) {
            Ok(index) => index,
            Err((_, text)) => return Step::Violation(format!("client chose an export: {text}")),
        };
        let export = &self.exports[index];
        if let Err((_, text)) = check_admission(export) {
            return Step::Violation(format!("export {:?}: {text}", export.name));
        }
        output.push_small(&export.size_bytes.to_be_bytes());
        output.push_small(&self.flags(index).to_be_bytes());
        if !self.no_zeroes {
            output.push_small(&[0; wire::EXPORT_NAME_PADDING_BYTES]);
        }
        self.transmit(index)
    }

    pub(super) fn info(&self, option: u32, data: &[u8], output: &mut Output) -> Step {
        let Some((name, items)) = parse_info(data) else {
            let text = "lengths inside the option do not fit its length";
            return refuse(output, option, option_reply::ERR_INVALID, text);
        };
        let index = match self.find(name) {
            Ok(index) => index,
            Err((error, text)) => return refuse(output, option, error, &text),
        };
        let admission = match option {
            option::GO => check_admission(&self.exports[index]),
            _ => Ok(()),
        };
        if let Err((error, text)) = admission {
            return refuse(output, option, error, &text);
        }
        self.put_export_info(option, index, items, output);
        put_reply(output, option, option_reply::ACK, &[]);
        match option {
            option::GO => self.transmit(index),
            _ => Step::Continue,
        }
    }

    /// The export that a client may have by this name.
    pub(super) fn find(&self, name: &[u8]) -> Result<usize, Refusal> {
        if name.len() > wire::STRING_BYTES_MAX {
            let text = "name of the export is longer than 4096 bytes";
            return Err((option_reply::ERR_TOO_BIG, text.into()));
        }
        let Some(index) = export::find(&self.exports, name) else {
            return Err((self.error_for_unknown(), unknown_export(name)));
        };
        self.check_access(&self.exports[index]).map(|()| index)
    }

    /// Before TLS, a name that is not served must look like one that is hidden behind TLS.
    fn error_for_unknown(&self) -> u32 {
        let secret = |export: &Export| export.hidden && export.access != Access::Anyone;
        let tells = self.tls == TlsPolicy::Off || self.peer_names.is_some();
        match tells || !self.exports.iter().any(secret) {
            true => option_reply::ERR_UNKNOWN,
            false => option_reply::ERR_TLS_REQD,
        }
    }

    /// Whether this client may use an export.
    fn check_access(&self, export: &Export) -> Result<(), Refusal> {
        let name = &export.name;
        match (&export.access, &self.peer_names) {
            (Access::Anyone, _) | (Access::Tls, Some(_)) => Ok(()),
            (Access::Names(allowed), Some(names)) if names.iter().any(|n| allowed.contains(n)) => {
                Ok(())
            }
            (Access::Names(_), Some(_)) if export.hidden => Err((
                option_reply::ERR_UNKNOWN,
                unknown_export(export.name.as_bytes()),
            )),
            (Access::Names(_), Some(names)) => {
                let text = format!("export {name:?} is not for clients named {names:?}");
                Err((option_reply::ERR_POLICY, text))
            }
            (_, None) if self.tls == TlsPolicy::Off => {
                let text = format!("export {name:?} needs TLS, which this server does not have");
                Err((option_reply::ERR_POLICY, text))
            }
            (_, None) => {
                let text = match export.hidden {
                    true => unknown_export(export.name.as_bytes()),
                    false => format!("export {name:?} needs TLS: send STARTTLS first"),
                };
                Err((option_reply::ERR_TLS_REQD, text))
            }
        }
    }

    /// Contexts chosen for an export.
    fn contexts(&self, index: usize) -> ContextSet {
        let chosen = self.agreed.contexts.filter(|(export, _)| *export == index);
        chosen.map_or(ContextSet::default(), |(_, contexts)| contexts)
    }

    fn flags(&self, index: usize) -> u16 {
        let contexts = !self.contexts(index).is_empty();
        self.exports[index].transmission_flags(self.agreed.dialect, contexts)
    }

    fn transmit(&self, index: usize) -> Step {
        Step::Transmit(Chosen {
            export: index,
            dialect: self.agreed.dialect,
            contexts: self.contexts(index),
        })
    }

    /// Size and flags always; each other item once if it is asked for.
    fn put_export_info(&self, option: u32, index: usize, items: &[u8], output: &mut Output) {
        let export = &self.exports[index];
        let size = export.size_bytes.to_be_bytes();
        let flags = self.flags(index).to_be_bytes();
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
            let description = export.description.as_bytes();
            put_info(output, option, info::DESCRIPTION, &[description]);
        }
        if asked(info::BLOCK_SIZE) {
            let minimum = MINIMUM_BLOCK_BYTES.to_be_bytes();
            let preferred = export.preferred_block_bytes.to_be_bytes();
            let payload = PAYLOAD_BYTES_MAX.to_be_bytes();
            let sizes: [&[u8]; 3] = [&minimum, &preferred, &payload];
            put_info(output, option, info::BLOCK_SIZE, &sizes);
        }
    }
}

/// The export's name and the list of items in the data of INFO or GO; `None` if malformed.
fn parse_info(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(data);
    let name = reader.string()?;
    let item_count = usize::from(reader.u16()?);
    let items = reader.rest();
    (items.len() == 2 * item_count).then_some((name, items))
}

/// Whether clients may choose an export at present.
fn check_admission(export: &Export) -> Result<(), Refusal> {
    match export.admission {
        Admission::Open => Ok(()),
        Admission::Full => Err((option_reply::ERR_POLICY, FULL_TEXT.into())),
        Admission::Stopping => Err((option_reply::ERR_SHUTDOWN, STOPPING_TEXT.into())),
    }
}

/// Names an export that is not there, quoting no more of a hostile name than a line can hold.
fn unknown_export(name: &[u8]) -> String {
    if name.is_empty() {
        return "there is no default export: name one".into();
    }
    let shown = &name[..name.len().min(64)];
    format!(
        "export {:?} is not served here",
        String::from_utf8_lossy(shown)
    )
}

fn put_info(output: &mut Output, option: u32, item: u16, parts: &[&[u8]]) {
    let payload = parts.concat();
    let parts: [&[u8]; 2] = [&item.to_be_bytes(), &payload];
    put_reply(output, option, option_reply::INFO, &parts);
}
