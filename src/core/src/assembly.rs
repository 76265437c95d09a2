//! Assembly: which members may be believed, and whether the array may start.
//!
//! The rule, for superblocks of one array read from any devices in any order:
//!
//! 1. Of every member the newest valid copy counts.
//! 2. A config that some present member of its own in-sync set does not hold, nor a descendant of
//!    it, was never completed: nothing was answered under it. Its holders fall back to the one
//!    before. (A config that a checkpoint names was completed; it stands.)
//! 3. The newest config left is the reference. Two of the same epoch, or one that is not in the
//!    reference's history, are two sides of a split: refused.
//! 4. Fresh are the members that hold the reference and are in sync in it.
//! 5. The layout is the one its holders tell; of two, the narrower: who has fallen back to the
//!    reference may have been told of one more copy in vain.
//! 6. The array starts when the fresh members can decode it and the absent in-sync members could
//!    not have run it on their own. A witness, the last config served, settles the second.

use crate::config::{Config, Entry, EntryState, Index};
use crate::geometry::Geometry;
use crate::superblock::Superblock;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_parity::ColumnSet;

/// A device with the superblock found on it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which device, as the caller counts them.
    pub device: usize,
    /// What people call it.
    pub path: String,
    /// What it says.
    pub superblock: Superblock,
}

/// How strict to be.
#[derive(Clone, Copy, Default, Debug)]
pub struct Strictness {
    /// The operator's word: start what rule 6 would refuse.
    pub force: bool,
    /// Nothing will be written: any set that decodes will do.
    pub read_only: bool,
    /// Nonce of the last config this host served, if it remembers.
    pub witnessed_nonce: Option<u64>,
}

/// The decision to start.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The reference config.
    pub reference: Config,
    /// The layout under it.
    pub geometry: Geometry,
    /// The highest epoch seen anywhere: a new config goes above it.
    pub epoch_floor: u64,
    /// Devices whose member is in the reference and may be used, with the member's place.
    pub present: Vec<(usize, Index)>,
    /// In-sync members of the reference that are not among `present`.
    pub absent: Vec<Index>,
    /// Devices that may not be used, and why, in words.
    pub rejected: Vec<(usize, String)>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// The decision not to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Whether for safety; else for lack of members.
    pub for_safety: bool,
    /// What, where, what to do next.
    pub text: String,
}

fn unsafe_to_start(text: String) -> Refused {
    Refused {
        for_safety: true,
        text,
    }
}

/// Applies the rule. `completed`: nonces of configs that checkpoints or journal headers name.
pub fn assemble(
    candidates: &[Candidate],
    completed: &BTreeSet<u64>,
    strictness: Strictness,
) -> Result<Assembled, Refused> {
    let first = one_array(candidates)?;
    let members = one_device_each(candidates)?;
    one_table_each(&members)?;
    let held = effective_configs(&members, completed);
    let reference = reference_config(&members, &held)?;
    let mut result = Assembled {
        reference: reference.clone(),
        geometry: geometry_under(reference, &members, &held),
        epoch_floor: members
            .iter()
            .map(|m| m.superblock.config.epoch)
            .max()
            .unwrap_or(0),
        present: Vec::new(),
        absent: Vec::new(),
        rejected: Vec::new(),
        warnings: Vec::new(),
    };
    for (member, config) in members.iter().zip(&held) {
        sort_member(&mut result, member, config);
    }
    let is_present = |i: &Index| result.present.iter().any(|(_, p)| p == i);
    let in_sync =
        |(i, e): (Index, &crate::config::Entry)| (e.state == EntryState::InSync).then_some(i);
    result.absent = reference
        .members()
        .filter_map(in_sync)
        .filter(|i| !is_present(i))
        .collect();
    may_start(&first.name, &mut result, strictness)?;
    Ok(result)
}

/// Whether all are of one array and agree on what it is; else their journals say nothing about
/// each other either.
pub fn one_array(candidates: &[Candidate]) -> Result<&Superblock, Refused> {
    let Some(first) = candidates.first() else {
        return Err(Refused {
            for_safety: false,
            text: "no member of an array was found; `uraid examine` tells what a device holds"
                .into(),
        });
    };
    for other in candidates {
        let (a, b) = (&first.superblock, &other.superblock);
        if a.array != b.array {
            return Err(unsafe_to_start(format!(
                "{} belongs to array \"{}\" ({}), {} to array \"{}\" ({}): \
                 give the members of one array only",
                first.path, a.name, a.array, other.path, b.name, b.array
            )));
        }
        if !a.geometry.is_same_but_for_copies(&b.geometry) || a.key != b.key {
            return Err(unsafe_to_start(format!(
                "{} and {} claim to be of the same array but disagree on its layout: \
                 one of them is damaged, leave it out",
                first.path, other.path
            )));
        }
    }
    Ok(&first.superblock)
}

fn one_device_each(candidates: &[Candidate]) -> Result<Vec<&Candidate>, Refused> {
    let mut members: Vec<&Candidate> = Vec::new();
    for c in candidates {
        if let Some(twin) = members
            .iter()
            .find(|m| m.superblock.member == c.superblock.member)
        {
            return Err(unsafe_to_start(format!(
                "{} and {} are the same member ({}): one is a copy, leave it out",
                twin.path, c.path, c.superblock.member
            )));
        }
        members.push(c);
    }
    Ok(members)
}

/// A nonce names one config, for ever: two tables under one are damage.
fn one_table_each(members: &[&Candidate]) -> Result<(), Refused> {
    let mut known: BTreeMap<u64, (&Config, &str)> = BTreeMap::new();
    for member in members {
        for config in [&member.superblock.config, &member.superblock.previous] {
            let named = known
                .entry(config.nonce)
                .or_insert((config, member.path.as_str()));
            if named.0 != config {
                return Err(unsafe_to_start(format!(
                    "{} and {} know config {} with two different member tables: \
                     one of them is damaged, leave it out",
                    named.1, member.path, config.epoch
                )));
            }
        }
    }
    Ok(())
}

/// Whether `holder`, whose effective config is `effective`, knows `nonce` as that or an ancestor.
fn descends(effective: &Config, holder: &Superblock, nonce: u64) -> bool {
    let known = |c: &Config| {
        c.nonce == nonce
            || c.parent == nonce
            || c.members()
                .any(|(_, e)| e.state == EntryState::Failed && e.left_nonce == nonce)
    };
    known(effective) || (effective.nonce == holder.config.nonce && known(&holder.previous))
}

/// Rule 2: what each member holds once configs that were never completed are taken back.
fn effective_configs(members: &[&Candidate], completed: &BTreeSet<u64>) -> Vec<Config> {
    let mut held: Vec<Config> = members
        .iter()
        .map(|m| m.superblock.config.clone())
        .collect();
    loop {
        let incomplete = |c: &Config| {
            let lacks = |(j, m): (usize, &&Candidate)| {
                let index = c.find(m.superblock.member);
                index.is_some_and(|i| c.is_in_sync(i))
                    && !descends(&held[j], &m.superblock, c.nonce)
            };
            c.parent != 0 && !completed.contains(&c.nonce) && members.iter().enumerate().any(lacks)
        };
        let can_fall_back = |c: &Config, m: &Candidate| m.superblock.previous.nonce != c.nonce;
        // Newest first: taking it back may show that an older one is complete after all.
        let taken_back = held
            .iter()
            .zip(members)
            .filter(|(c, m)| can_fall_back(c, m) && incomplete(c))
            .max_by_key(|(c, _)| (c.epoch, c.nonce));
        let Some(nonce) = taken_back.map(|(c, _)| c.nonce) else {
            return held;
        };
        for (config, member) in held.iter_mut().zip(members) {
            if config.nonce == nonce && can_fall_back(config, member) {
                *config = member.superblock.previous.clone();
            }
        }
    }
}

/// Rule 3.
fn reference_config<'a>(members: &[&Candidate], held: &'a [Config]) -> Result<&'a Config, Refused> {
    let top = held
        .iter()
        .max_by_key(|c| c.epoch)
        .expect("there are members");
    let mut sides: Vec<(u64, Vec<&str>)> = Vec::new();
    let tops = members
        .iter()
        .zip(held)
        .filter(|(_, c)| c.nonce == top.nonce);
    let holders: Vec<&Superblock> = tops.map(|(m, _)| &m.superblock).collect();
    for (member, config) in members.iter().zip(held) {
        let known = |holder: &&Superblock| in_history(top, holder, config, member);
        let strange = if config.epoch == top.epoch {
            config.nonce != top.nonce
        } else {
            !holders.iter().any(known)
        };
        let side = if strange { config.nonce } else { top.nonce };
        match sides.iter_mut().find(|(nonce, _)| *nonce == side) {
            Some((_, paths)) => paths.push(&member.path),
            None => sides.push((side, alloc::vec![&member.path])),
        }
    }
    if sides.len() == 1 {
        return Ok(top);
    }
    let mut text = String::from(
        "split brain: the array was changed on two sides that did not see each other. \
         Decide for one side (`uraid serve --read-only` with the members of a side shows what it \
         holds) and serve only its members; wipe the others with `uraid wipe`, then add them \
         again:",
    );
    for (i, (_, paths)) in sides.iter().enumerate() {
        text.push_str(&format!("\n  side {}: {}", i + 1, paths.join(" ")));
    }
    Err(unsafe_to_start(text))
}

/// Rule 5. While superblocks tell of different layouts all journals are empty: see
/// [`Config::widen`].
fn geometry_under(reference: &Config, members: &[&Candidate], held: &[Config]) -> Geometry {
    let holds = |(_, config): &(&&Candidate, &Config)| config.nonce == reference.nonce;
    let holders = members.iter().zip(held).filter(holds);
    let geometries = holders.map(|(member, _)| member.superblock.geometry);
    let narrowest = geometries.min_by_key(|g| g.shape.columns);
    narrowest.expect("somebody holds it")
}

/// Whether `config`, held by `member`, is known to the reference as part of its own past.
fn in_history(top: &Config, holder: &Superblock, config: &Config, member: &Candidate) -> bool {
    if descends(top, holder, config.nonce) {
        return true;
    }
    match top.find(member.superblock.member) {
        // The table remembers the last config each member that left was part of.
        Some(i) => {
            let entry = top.entry(i);
            entry.state != EntryState::InSync
                && (entry.left_nonce == config.nonce
                    || !matters(config, i)
                    || others_went_on(top, entry, config, i))
        }
        None => true, // removed: whatever it holds, it has no claim
    }
}

/// Whether a member that left, `holder`, cannot have served under `config` since: another one that
/// was in sync in it is known to have been part of the reference's history after that. So `config`
/// is an ancestor too old for the table to name (the member is an older image of itself), or was
/// given up: writing it is what the member failed at, though the write did take effect.
fn others_went_on(top: &Config, entry: &Entry, config: &Config, holder: Index) -> bool {
    let went_on = |other: &Entry| match other.state {
        EntryState::InSync => true,
        EntryState::Failed => {
            let known = [config.nonce, config.parent];
            entry.left_nonce == config.parent && !known.contains(&other.left_nonce)
        }
        _ => false,
    };
    let others = config
        .members()
        .filter(|(i, _)| *i != holder && config.is_in_sync(*i));
    let mut there = others.filter_map(|(_, e)| top.find(e.uuid).map(|i| top.entry(i)));
    entry.left_epoch > config.epoch && there.any(went_on)
}

/// Whether a member could have served under `config`.
fn matters(config: &Config, index: Index) -> bool {
    usize::from(index.0) < config.entries.len() && config.is_in_sync(index)
}

/// How a member left, in words.
pub fn how_it_left(entry: &Entry, config: &Config) -> String {
    match entry.left_epoch {
        0 => String::from("another has its place, or it left before it was filled"),
        epoch => format!(
            "it left the array at config {epoch}, the array is at {}",
            config.epoch
        ),
    }
}

/// Rule 4 for one member.
fn sort_member(result: &mut Assembled, member: &Candidate, held: &Config) {
    let reference = &result.reference;
    let verdict = match reference.find(member.superblock.member) {
        None if held.nonce != member.superblock.config.nonce => Err(format!(
            "{}: was being taken in, and the server ended before that was done",
            member.path
        )),
        None => Err(format!("{}: was removed from the array", member.path)),
        Some(i) => match reference.entry(i).state {
            EntryState::Failed | EntryState::Empty => Err(format!(
                "{}: stale: {}",
                member.path,
                how_it_left(reference.entry(i), reference)
            )),
            EntryState::Spare => Ok(i),
            _ if held.nonce == reference.nonce => Ok(i),
            _ => Err(format!(
                "{}: stale: its config is {}, the array is at {}",
                member.path, held.epoch, reference.epoch
            )),
        },
    };
    match verdict {
        Ok(i) => result.present.push((member.device, i)),
        Err(why) => result.rejected.push((member.device, why)),
    }
}

/// Rule 6.
fn may_start(name: &str, result: &mut Assembled, strictness: Strictness) -> Result<(), Refused> {
    let reference = &result.reference;
    let shape = result.geometry.shape;
    let code = shape.code();
    // Any slot will do: whether a set of roles decodes does not depend on the rotation.
    let columns = |indices: &mut dyn Iterator<Item = Index>| {
        let mut set = ColumnSet::default();
        for i in indices {
            if let Some(role) = reference.entry(i).role {
                set.insert(shape.column_of(crate::geometry::Slot(0), role.into()));
            }
        }
        set
    };
    let fresh = |(_, i): &(usize, Index)| reference.is_in_sync(*i).then_some(*i);
    let have = columns(&mut result.present.iter().filter_map(fresh));
    let absent = columns(&mut result.absent.iter().copied());
    let names = |set: &[Index]| {
        let name = |i: &Index| match reference.entry(*i).role {
            Some(role) => format!("slot {role} ({})", reference.entry(*i).uuid),
            None => format!("{}", reference.entry(*i).uuid),
        };
        set.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    if !code.can_decode(have) {
        let mut text = format!(
            "array \"{}\": {} of {} members are here and up to date, at least {} are needed; \
             missing: {}. Attach what is missing, or put right what follows:",
            name,
            have.len(),
            code.columns(),
            code.data(),
            names(&result.absent)
        );
        for (_, why) in &result.rejected {
            text.push('\n');
            text.push_str(why);
        }
        return Err(unsafe_to_start(text));
    }
    let witnessed = strictness.witnessed_nonce == Some(reference.nonce);
    if !absent.is_empty() && code.can_decode(absent) && !witnessed && !strictness.read_only {
        let text = format!(
            "array \"{}\": the absent members ({}) could have gone on without these: \
             what is here may be old. Attach them, or start with --force if they are dead; \
             then what they alone took in is lost",
            name,
            names(&result.absent)
        );
        if !strictness.force {
            return Err(unsafe_to_start(text));
        }
        result.warnings.push(format!("forced: {text}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
