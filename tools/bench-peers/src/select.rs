//! `--only WORD`: which targets and loads are measured.

use crate::loads::{self, Work};
use crate::target::{self, Target};

/// Targets and loads whose names contain one of the words. Words that name no target leave all
/// targets in, and likewise for loads. The baseline is always in: everything is compared with it.
///
/// # Errors
/// A word that is in no name.
pub fn select(words: &[String]) -> Result<(Vec<Target>, Vec<Work>), String> {
    let has = |name: &str, word: &String| name.contains(word.as_str());
    for word in words {
        let target = target::ALL.iter().any(|t| has(t.name(), word));
        if !target && !loads::ALL.iter().any(|w| has(w.name, word)) {
            return Err(format!(
                "--only {word:?}: no target or load has that in its name; there are {}",
                all_names().join("; ")
            ));
        }
    }
    let wanted = |name: &str| words.iter().any(|word| has(name, word));
    let any_target = target::ALL.iter().any(|t| wanted(t.name()));
    let any_load = loads::ALL.iter().any(|w| wanted(w.name));
    let target = |t: &Target| !any_target || *t == Target::NbdkitFile || wanted(t.name());
    let load = |w: &Work| !any_load || wanted(w.name);
    Ok((
        target::ALL.into_iter().filter(target).collect(),
        loads::ALL.into_iter().filter(load).collect(),
    ))
}

fn all_names() -> Vec<&'static str> {
    let targets = target::ALL.iter().map(|t| t.name());
    targets.chain(loads::ALL.iter().map(|w| w.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> (Vec<&'static str>, Vec<&'static str>) {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let (targets, loads) = select(&words).expect("known words");
        let targets = targets.iter().map(|t| t.name()).collect();
        (targets, loads.iter().map(|w| w.name).collect())
    }

    #[test]
    fn without_words_everything_is_measured() {
        let (targets, loads) = names(&[]);
        assert_eq!((targets.len(), loads.len()), (13, 9));
    }

    #[test]
    fn words_for_targets_leave_loads_alone_and_the_other_way_round() {
        let (targets, loads) = names(&["raid6"]);
        assert_eq!(
            targets,
            ["nbdkit file (A)", "uraid raid6 4+2", "btrfs raid6 4+2"]
        );
        assert_eq!(loads.len(), 9);
        let (targets, loads) = names(&["sequential"]);
        assert_eq!((targets.len(), loads.len()), (13, 2));
        let (targets, loads) = names(&["uraid raid5", "FLUSH"]);
        assert_eq!(targets, ["nbdkit file (A)", "uraid raid5 4+1"]);
        assert_eq!(loads, ["write 4 KiB and FLUSH, depth 1"]);
    }

    #[test]
    fn unknown_words_are_refused() {
        let error = select(&["raid7".to_string()]).expect_err("no such thing");
        assert!(
            error.contains("raid7") && error.contains("uraid raid6 4+2"),
            "{error}"
        );
    }
}
