//! What packages are made of: the manual by the tools that show it, completions by the shells.

mod common;

use common::Sandbox;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// What is typed before the key that completes, and the word that only one thing completes to.
const COMPLETIONS: [(&str, &str); 3] = [
    ("uraid cre", "create"),
    ("uraid scrub star", "start"),
    ("uraid create --exp", "--export-size"),
];

/// Asks as readline does: DIRECTORY WORD...
const ASK_BASH: &str = r#"
. "$0/uraid.bash"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_uraid uraid "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// Types into an interactive shell: DIRECTORY LINE WORD.
const ASK_ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "fpath=(${(q)1} \$fpath); autoload -U compinit; compinit -u -D; echo loaded"
zpty -r shell said '*loaded*loaded*'
zpty -w -n shell "$2"$'\t'
zpty -r -m shell said "*${2% *} $3*" && echo "$3"
zpty -d shell
"#;

/// Writes the manual or the completions.
fn generate(sandbox: &Sandbox, what: &str) -> PathBuf {
    let directory = sandbox.path(what);
    let args = ["generate".as_ref(), what.as_ref(), directory.as_os_str()];
    sandbox.uraid(args).succeeded();
    directory
}

/// The first words of the lines below a heading of a help text, as far as the next empty line.
fn listed(help: &str, heading: &str) -> BTreeSet<String> {
    let lines = help.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let entries = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let words = entries.filter_map(|line| line.split_whitespace().next());
    words.map(str::to_string).collect()
}

/// All commands that help shows, with their subcommands, as words.
fn commands(sandbox: &Sandbox) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut pending = vec![Vec::new()];
    while let Some(words) = pending.pop() {
        let args = words.iter().cloned().chain(["--help".to_string()]);
        let help = sandbox.uraid(args).succeeded().stdout;
        for name in listed(&help, "Commands:") {
            if name != "help" {
                pending.push([words.as_slice(), &[name]].concat());
            }
        }
        found.push(words);
    }
    assert!(found.len() > 25, "help lists fewer commands: {found:?}");
    found
}

#[test]
fn every_command_has_a_page_with_its_options_and_no_other_has() {
    let sandbox = Sandbox::new();
    let directory = generate(&sandbox, "man");
    let mut expected = BTreeSet::new();
    for words in commands(&sandbox) {
        let name = [&["uraid".to_string()], words.as_slice()]
            .concat()
            .join("-");
        let page = fs::read_to_string(directory.join(format!("{name}.8")));
        let page = page
            .unwrap_or_else(|e| panic!("{name}.8: {e}"))
            .replace('\\', "");
        let help = sandbox.uraid(words.iter().map(String::as_str).chain(["--help"]));
        for option in listed(&help.stdout, "Options:") {
            let option = option.trim_end_matches(',');
            assert!(page.contains(&format!("fB{option}fR")), "{name}: {option}");
        }
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "EXAMPLES"] {
            let heading = format!(".SH {section}\n").replace("EXIT STATUS", "\"EXIT STATUS\"");
            assert!(page.contains(&heading), "{name} has no {section}");
        }
        expected.insert(format!("{name}.8"));
    }
    let files = fs::read_dir(directory).expect("pages").flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), expected);
}

#[test]
fn pages_are_what_man_and_mandoc_want() {
    need!("mandoc", "man");
    let sandbox = Sandbox::new();
    let directory = generate(&sandbox, "man");
    for file in fs::read_dir(directory).expect("pages").flatten() {
        let page = file.path();
        let page = page.as_os_str();
        let args = ["-T", "lint", "-W", "warning"].map(AsRef::as_ref);
        let ran = sandbox.run("mandoc", args.into_iter().chain([page]));
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        let args = ["--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l"].map(AsRef::as_ref);
        let ran = sandbox.run("man", args.into_iter().chain([page]));
        assert_eq!(ran.stderr, "", "{page:?}");
    }
}

#[test]
fn pages_of_one_date_are_the_same_each_time() {
    let sandbox = Sandbox::new();
    let page = |seconds: &str| {
        let mut command = sandbox.uraid_command();
        command
            .env("SOURCE_DATE_EPOCH", seconds)
            .args(["generate", "man", "man"]);
        let output = command.output().expect("it runs");
        let page = fs::read_to_string(sandbox.path("man/uraid.8"));
        (output.status.code(), page.unwrap_or_default())
    };
    let (code, first) = page("1700000000");
    assert_eq!(code, Some(0));
    assert!(first.contains(".TH uraid 8 2023-11-14 "), "{first}");
    assert_eq!(page("1700000000").1, first);
    assert_ne!(page("1800000000").1, first);
    assert_eq!(page("yesterday").0, Some(common::USAGE));
}

#[test]
fn bash_completes_commands_options_and_values() {
    need!("bash");
    let sandbox = Sandbox::new();
    let directory = generate(&sandbox, "completions");
    let ask = |line: &str| {
        let mut args = vec!["-c".as_ref(), ASK_BASH.as_ref(), directory.as_os_str()];
        args.extend(line.split(' ').map(AsRef::<std::ffi::OsStr>::as_ref));
        sandbox.run("bash", args).succeeded().stdout
    };
    for (line, word) in COMPLETIONS {
        assert_eq!(ask(line).trim(), word, "{line}");
    }
    assert_eq!(ask("uraid create --level raid1"), "raid1\nraid10\n");
    assert_eq!(ask("uraid superv").trim(), "", "hidden commands");
}

#[test]
fn fish_completes_commands_options_and_values() {
    need!("fish");
    let sandbox = Sandbox::new();
    let directory = generate(&sandbox, "completions");
    let ask = |line: &str| {
        let script = "source $argv[1]/uraid.fish; complete -C $argv[2]";
        let args = [
            "-c".as_ref(),
            script.as_ref(),
            directory.as_os_str(),
            line.as_ref(),
        ];
        let said = sandbox.run("fish", args).succeeded().stdout;
        let words = said
            .lines()
            .map(|line| line.split('\t').next().unwrap_or_default());
        words.map(str::to_string).collect::<Vec<_>>()
    };
    for (line, word) in COMPLETIONS {
        assert_eq!(ask(line), [word], "{line}");
    }
    assert_eq!(ask("uraid create --level raid1"), ["raid1", "raid10"]);
    assert_eq!(ask("uraid superv"), [""; 0], "hidden commands");
}

#[test]
fn zsh_completes_commands_and_options() {
    need!("zsh");
    let sandbox = Sandbox::new();
    let directory = generate(&sandbox, "completions");
    for (line, word) in COMPLETIONS {
        let args = ["-f", "-c", ASK_ZSH, "zsh"].map(AsRef::as_ref).into_iter();
        let args = args.chain([directory.as_os_str(), line.as_ref(), word.as_ref()]);
        let ran = sandbox.run("zsh", args);
        assert_eq!(ran.stdout.trim(), word, "{ran}");
    }
}
