//! Alerts as they are typed: where they go, and `uraid alert`.

use super::args::ServerArgs;
use super::events_args::SeverityName;
use crate::failure::Failure;
use crate::server::alert::AlertOptions;
use clap::{ArgAction, Args, Subcommand, ValueHint};
use std::path::PathBuf;
use uraid_core::events::Severity;

/// Options of `serve` about alerts.
#[derive(Args, Debug)]
pub struct ServeAlertArgs {
    /// Run this program for each alert, with the event as JSON on its standard input (repeatable)
    #[arg(long, value_name = "PATH", action = ArgAction::Append,
          value_hint = ValueHint::ExecutablePath)]
    pub alert_exec: Vec<PathBuf>,
    /// Post each alert there as JSON: http://... or https://... (repeatable)
    #[arg(long, value_name = "URL", action = ArgAction::Append, value_parser = parse_url)]
    pub alert_webhook: Vec<String>,
    /// Mail each alert there (repeatable)
    #[arg(long, value_name = "ADDRESS", action = ArgAction::Append, value_parser = parse_address)]
    pub alert_mail: Vec<String>,
    /// What takes mails from its standard input, as `sendmail -t` does
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/sendmail",
          value_hint = ValueHint::ExecutablePath)]
    pub alert_mail_program: PathBuf,
    /// Which events are alerts: these, and what matters more
    #[arg(long, value_name = "SEVERITY", value_enum, default_value_t = SeverityName::Warning)]
    pub alert_severity: SeverityName,
}

impl ServeAlertArgs {
    /// The options; programs have to be there.
    pub fn options(&self) -> Result<AlertOptions, Failure> {
        let mut programs: Vec<&PathBuf> = self.alert_exec.iter().collect();
        programs.extend((!self.alert_mail.is_empty()).then_some(&self.alert_mail_program));
        if let Some(missing) = programs.into_iter().find(|path| !path.is_file()) {
            return Err(Failure::usage(format!(
                "{} is no program that alerts could be given to",
                missing.display()
            )));
        }
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or(path.clone());
        Ok(AlertOptions {
            exec: self.alert_exec.iter().map(absolute).collect(),
            webhook: self.alert_webhook.clone(),
            mail: self.alert_mail.clone(),
            mail_program: absolute(&self.alert_mail_program),
            severity: match self.alert_severity {
                SeverityName::Info => Severity::Info,
                SeverityName::Warning => Severity::Warning,
                SeverityName::Critical => Severity::Critical,
            },
        })
    }
}

/// `uraid alert`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  uraid alert test --name demo

Where alerts go is said to `uraid serve`: --alert-exec, --alert-webhook, --alert-mail.")]
pub struct AlertArgs {
    #[command(subcommand)]
    pub action: AlertAction,
}

/// What is to become of alerts.
#[derive(Subcommand, Debug)]
pub enum AlertAction {
    /// Send a test by each way, and say which arrived
    #[command(after_help = "\
Example:
  uraid alert test --name demo

Exit code: 0 all arrived, 1 one did not, or there are none.")]
    Test(AlertTestArgs),
}

/// `uraid alert test`.
#[derive(Args, Debug)]
pub struct AlertTestArgs {
    #[command(flatten)]
    pub server: ServerArgs,
}

fn parse_url(text: &str) -> Result<String, String> {
    let scheme = ["http://", "https://"]
        .iter()
        .find(|s| text.starts_with(**s));
    match scheme {
        Some(scheme) if text.len() > scheme.len() && !text.contains(char::is_whitespace) => {
            Ok(text.to_string())
        }
        _ => Err("a URL begins with http:// or https://".to_string()),
    }
}

fn parse_address(text: &str) -> Result<String, String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '<' | '>');
    match text.is_empty() || text.starts_with('-') || text.contains(odd) {
        true => Err("one mail address, like root or admin@example.org".to_string()),
        false => Ok(text.to_string()),
    }
}
