//! What the steward does to arrays: by the orders that an operator would give.

use super::Charge;
use super::look::is_member;
use crate::control::wire::{
    AddBody, MemberBody, MemberReference, Order, ReplaceBody, ScrubStartBody,
};
use crate::failure::Failure;
use std::collections::BTreeMap;
use uraid_core::events::{EventKind, EventMember};
use uraid_core::units::Uuid;
use uraid_io::device::MemberFile;

/// Something to do to an array, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deed {
    /// Name of the array.
    pub array: String,
    /// Why it is to be done: the beginning of a sentence.
    pub why: String,
    /// What.
    pub action: Action,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Take back a member that had left.
    TakeBack {
        /// Who.
        member: EventMember,
        /// Of the array with this identity.
        array: Uuid,
        /// Where it is.
        path: String,
    },
    /// Give the array the spare of another one.
    MoveSpare {
        /// Name of that one.
        from: String,
        /// Its spare.
        spare: Spare,
    },
    /// Have a spare of the array take the place of a member that still serves.
    Replace {
        /// The member.
        old: EventMember,
        /// The spare.
        spare: Spare,
    },
    /// Begin a scrub.
    Scrub,
}

/// A spare, and the array that it is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spare {
    /// Identity of the array.
    pub array: Uuid,
    /// Its own.
    pub uuid: Uuid,
    /// Where it is.
    pub path: String,
}

/// Something to tell of the array with this name.
pub type News<'a> = (&'a str, EventKind, Option<EventMember>, String);

impl Deed {
    /// Names of all arrays that it concerns.
    pub fn arrays(&self) -> impl Iterator<Item = &str> {
        let other = match &self.action {
            Action::MoveSpare { from, .. } => Some(from.as_str()),
            _ => None,
        };
        [self.array.as_str()].into_iter().chain(other)
    }

    /// What is told before it is done: whatever leaves a trace if it is cut short.
    pub fn announcement(&self) -> Vec<News<'_>> {
        let (array, why) = (&self.array, &self.why);
        match &self.action {
            Action::TakeBack { .. } => Vec::new(),
            Action::MoveSpare { from, spare } => {
                let path = &spare.path;
                let text = format!("{why}: the spare {path} goes from {from} to {array}");
                let news = |name| (name, EventKind::SpareMoved, None, text.clone());
                vec![news(from.as_str()), news(array.as_str())]
            }
            Action::Replace { old, spare } => {
                let text = format!(
                    "{why}: the spare {} replaces it while it serves",
                    spare.path
                );
                vec![(array, EventKind::ReplacedEarly, Some(*old), text)]
            }
            Action::Scrub => vec![(array, EventKind::ScrubDue, None, why.clone())],
        }
    }

    /// What is told when it is done.
    pub fn success(&self, answer: &str) -> Option<(EventKind, Option<EventMember>, String)> {
        match &self.action {
            Action::TakeBack { member, .. } => {
                let text = format!("{}: {answer}", self.why);
                Some((EventKind::TakenBack, Some(*member), text))
            }
            _ => None,
        }
    }

    /// What is told when it was not done.
    pub fn failure(&self, failure: &Failure) -> String {
        let what = match &self.action {
            Action::TakeBack { .. } => "it was not taken back",
            Action::MoveSpare { .. } => "no spare was moved",
            Action::Replace { .. } => "it was not replaced",
            Action::Scrub => "it did not begin",
        };
        format!("{}, but {what}: {failure}", self.why)
    }

    /// Does it. Waits for devices, and for the arrays.
    pub fn carry_out(&self, charges: &BTreeMap<String, Charge>) -> Result<String, Failure> {
        let here = &charges[&self.array];
        match &self.action {
            Action::TakeBack {
                member,
                array,
                path,
            } => {
                let check = |file: &MemberFile| check_identity(file, *array, member.uuid);
                here.mailbox.carry_out_if(add(path, false), check)
            }
            Action::MoveSpare { from, spare } => {
                let order = add(&spare.path, true);
                hand_over(spare, &charges[from], here, order)
            }
            Action::Replace { old, spare } => {
                let order = Order::Replace(ReplaceBody {
                    old: MemberReference::Text(old.uuid.to_string()),
                    new: spare.path.clone(),
                    force: false,
                });
                hand_over(spare, here, here, order)
            }
            Action::Scrub => {
                let order = Order::ScrubStart(ScrubStartBody::default());
                here.mailbox.carry_out_if(order, |_| Ok(()))
            }
        }
    }
}

/// Takes a spare out of `from` and has `to` take it in by `order`. If `to` does not want it, it goes
/// back. A crash between the two leaves it with neither: it still says whose spare it was.
fn hand_over(spare: &Spare, from: &Charge, to: &Charge, order: Order) -> Result<String, Failure> {
    let body = MemberBody {
        member: MemberReference::Text(spare.uuid.to_string()),
        force: false,
    };
    from.mailbox.carry_out_if(Order::Remove(body), |_| Ok(()))?;
    let check = |file: &MemberFile| check_identity(file, spare.array, spare.uuid);
    let taken = to.mailbox.carry_out_if(order, check);
    taken.map_err(|failure| {
        let back = from.mailbox.carry_out_if(add(&spare.path, false), check);
        let (path, name) = (&spare.path, &from.name);
        Failure {
            message: match back {
                Ok(_) => format!("{failure}; {name} has its spare {path} again"),
                Err(why) => format!(
                    "{failure}; {path} is a spare of nobody now ({why}): uraid add --name {name} \
                     {path}"
                ),
            },
            ..failure
        }
    })
}

fn add(path: &str, force: bool) -> Order {
    Order::Add(AddBody {
        path: path.to_string(),
        force,
        copy: false,
    })
}

/// Refuses what has come to that path meanwhile.
fn check_identity(file: &MemberFile, array: Uuid, member: Uuid) -> Result<(), Failure> {
    match is_member(file, array, member) {
        true => Ok(()),
        false => Err(Failure::refused(format!(
            "{} is another device now, or cannot be read",
            file.path().display()
        ))),
    }
}
