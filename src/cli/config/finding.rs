//! What is wrong with a configuration: where, what, and what to write instead.

use super::files::Place;
use crate::failure::{Exit, Failure};
use serde::Serialize;

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Finding {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What, and what to write instead.
    pub message: String,
    /// What a server would end with: 2 if it cannot be meant like this, 4 if it is refused for
    /// safety, 1 if something that it speaks of is not there.
    pub exit_code: u8,
}

impl Finding {
    /// It cannot be meant like this.
    pub fn wrong(place: Place, message: String) -> Finding {
        Finding::of(place, Failure::usage(message))
    }

    /// What it speaks of is not there.
    pub fn absent(place: Place, message: String) -> Finding {
        Finding::of(place, Failure::failed(message))
    }

    /// A server would not start like this.
    pub fn of(place: Place, failure: Failure) -> Finding {
        Finding {
            place,
            message: failure.message,
            exit_code: failure.exit.code(),
        }
    }

    /// For people.
    pub fn line(&self) -> String {
        format!("{}: {}", self.place, self.message)
    }
}

/// All of them, a line each, in the order of places.
pub fn lines(findings: &mut [Finding]) -> String {
    findings.sort();
    let lines: Vec<String> = findings.iter().map(Finding::line).collect();
    lines.join("\n")
}

/// How a command ends that found these: what is written comes before what is there.
pub fn exit(findings: &[Finding]) -> Option<Exit> {
    let found = |exit: &Exit| findings.iter().any(|found| found.exit_code == exit.code());
    [Exit::Usage, Exit::Refused, Exit::Failed]
        .into_iter()
        .find(found)
}
