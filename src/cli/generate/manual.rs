//! The manual: uraid(8) and a page for each command. Options come from the definitions; what the
//! help says after them is sorted into the sections where manuals have it.

use super::Page;
use crate::failure::Failure;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::{env, io};
use time::OffsetDateTime;

/// Tools and daemons of system administration.
const SECTION: &str = "8";

/// Whoever builds packages that are the same each time says here what time it is, in seconds since
/// 1970 (<https://reproducible-builds.org/specs/source-date-epoch/>).
const DATE_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// What a list of exit codes begins with.
const EXIT_CODES: &str = "Exit codes:";

/// What is where, for root.
const FILES: [(&str, &str); 6] = [
    (
        "/etc/uraid/*.toml",
        "Options of uraid serve --config and of the services; `uraid config check` checks them.",
    ),
    (
        "/run/uraid/NAME.nbd",
        "Where clients find the array NAME, unless --listen says otherwise.",
    ),
    (
        "/run/uraid/NAME.control",
        "The control socket of the array NAME, for its owner alone.",
    ),
    (
        "/run/uraid/NAME.attached",
        "What `uraid attach` has attached, and how; the log is in NAME.attached.log.",
    ),
    (
        "/var/lib/uraid/UUID.witness",
        "What this host saw last of the array UUID: a start compares its members with it.",
    ),
    (
        "$XDG_RUNTIME_DIR/uraid, $XDG_STATE_HOME/uraid",
        "Instead of /run/uraid and /var/lib/uraid for users other than root.",
    ),
];

/// Where the parts of a help text go.
#[derive(Default)]
struct Sections {
    description: Vec<String>,
    exit_status: Vec<String>,
    examples: Vec<String>,
}

/// The pages of all commands that `uraid help` shows.
///
/// # Errors
/// The date that the environment sets is no number of seconds.
pub fn pages(command: Command) -> Result<Vec<Page>, Failure> {
    let mut root = command.disable_help_subcommand(true);
    root.build();
    let date = date()?;
    // The same for all commands that do not have their own.
    let exit_codes = Sections::of(&root).exit_status;
    let mut pages = Vec::new();
    let mut pending = vec![(&root, None)];
    while let Some((command, parent)) = pending.pop() {
        let name = page_name(command);
        pages.push(Page {
            name: format!("{name}.{SECTION}"),
            text: page(command, parent, &exit_codes, &date).into_bytes(),
        });
        let visible = command.get_subcommands().filter(|sub| !is_left_out(sub));
        pending.extend(visible.map(|sub| (sub, Some(name.clone()))));
    }
    Ok(pages)
}

fn is_left_out(command: &Command) -> bool {
    command.is_hide_set() || command.get_name() == "help"
}

fn page_name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or_else(|| command.get_name()).to_string()
}

/// Of the manual: today's, unless the environment says another.
fn date() -> Result<String, Failure> {
    let now = match env::var(DATE_VARIABLE) {
        Ok(text) => from_epoch(&text).ok_or_else(|| {
            Failure::usage(format!("{DATE_VARIABLE}={text}: no seconds since 1970"))
        })?,
        Err(_) => OffsetDateTime::now_utc(),
    };
    let (year, month, day) = now.to_calendar_date();
    Ok(format!("{year:04}-{:02}-{day:02}", u8::from(month)))
}

fn from_epoch(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(text.parse().ok()?).ok()
}

fn page(command: &Command, parent: Option<String>, exit_codes: &[String], date: &str) -> String {
    let sections = Sections::of(command);
    let headed = command.clone().subcommand_help_heading("COMMANDS");
    let man = Man::new(headed.subcommand_value_name("command"))
        .section(SECTION)
        .date(date)
        .source(concat!("uraid ", env!("CARGO_PKG_VERSION")))
        .manual("Software RAID in userspace");
    let mut text = String::new();
    type Render<'a> = &'a dyn Fn(&Man, &mut Vec<u8>) -> io::Result<()>;
    let mut add = |render: Render| {
        let mut part = Vec::new();
        render(&man, &mut part).expect("memory takes what is written to it");
        text.push_str(&String::from_utf8(part).expect("our help is UTF-8"));
    };
    add(&|man, out| man.render_title(out));
    add(&|man, out| man.render_name_section(out));
    add(&|man, out| man.render_synopsis_section(out));
    add(&|_, out| section("DESCRIPTION", &sections.description).to_writer(out));
    add(&|man, out| man.render_options_section(out));
    if command.get_subcommands().any(|sub| !is_left_out(sub)) {
        add(&|man, out| man.render_subcommands_section(out));
    }
    let own = !sections.exit_status.is_empty();
    let exit_status = if own {
        &sections.exit_status
    } else {
        exit_codes
    };
    add(&|_, out| section("EXIT STATUS", exit_status).to_writer(out));
    if parent.is_none() || page_name(command) == "uraid-serve" {
        add(&|_, out| files().to_writer(out));
    }
    if !sections.examples.is_empty() {
        add(&|_, out| section("EXAMPLES", &sections.examples).to_writer(out));
    }
    if let Some(parent) = parent {
        add(&|_, out| see_also(&parent).to_writer(out));
    }
    // Blank lines of the help are paragraphs, and make a break.
    let text = text.replace("\n.br\n\n.br\n", "\n\n");
    text.replace("\n\n", "\n.sp\n")
}

impl Sections {
    /// What the help of a command says before and after its options, sorted. Paragraphs are told
    /// apart by how they begin.
    fn of(command: &Command) -> Sections {
        let about = command.get_long_about().or(command.get_about());
        let mut sections = Sections {
            description: about.map(|about| format!("{about}.")).into_iter().collect(),
            ..Sections::default()
        };
        let help = command.get_after_long_help().or(command.get_after_help());
        let help = help.map(|help| help.to_string()).unwrap_or_default();
        for block in help.split("\n\n") {
            let into = match block {
                "" => continue,
                _ if block.starts_with("Example") => &mut sections.examples,
                _ if block.starts_with("Exit code") => &mut sections.exit_status,
                _ => &mut sections.description,
            };
            into.push(block.to_string());
        }
        sections
    }
}

fn section(title: &str, paragraphs: &[String]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    roff.extend([blocks(paragraphs)]);
    roff
}

/// Paragraphs as they are in the help: lines that are indented stand as they are.
fn blocks(paragraphs: &[String]) -> Roff {
    let mut roff = Roff::new();
    for (i, paragraph) in paragraphs.iter().enumerate() {
        if i > 0 {
            roff.control("PP", []);
        }
        if paragraph.starts_with(EXIT_CODES) {
            add_list(&mut roff, paragraph);
            continue;
        }
        let mut indented = false;
        for line in paragraph.lines().filter(|line| !is_title(line)) {
            if line.starts_with(' ') != indented {
                indented = !indented;
                begin_or_end_verbatim(&mut roff, indented);
            }
            let shown = line.strip_prefix("  ").unwrap_or(line);
            roff.text([roman(shown)]);
        }
        if indented {
            begin_or_end_verbatim(&mut roff, false);
        }
    }
    roff
}

fn begin_or_end_verbatim(roff: &mut Roff, begin: bool) {
    match begin {
        true => roff.control("RS", ["4"]).control("nf", []),
        false => roff.control("fi", []).control("RE", []),
    };
}

/// A line that says what the section's title says.
fn is_title(line: &str) -> bool {
    ["Example:", "Examples:", EXIT_CODES].contains(&line)
}

/// Numbers and what they mean, on indented lines; a line without a number goes on.
fn add_list(roff: &mut Roff, paragraph: &str) {
    for line in paragraph.lines().filter(|line| !is_title(line)) {
        let line = line.trim_start();
        let (number, meaning) = line.split_once("  ").unwrap_or(("", line));
        if !number.is_empty() {
            roff.control("TP", ["4"]);
            roff.text([bold(number)]);
        }
        roff.text([roman(meaning)]);
    }
}

fn files() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["FILES"]);
    for (path, meaning) in FILES {
        roff.control("TP", []);
        roff.text([bold(path)]);
        roff.text([roman(meaning)]);
    }
    roff
}

fn see_also(parent: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut names = vec![bold(parent), roman(format!("({SECTION})"))];
    if parent != "uraid" {
        names.extend([roman(", "), bold("uraid"), roman(format!("({SECTION})"))]);
    }
    roff.text(names);
    roff
}
