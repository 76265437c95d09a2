//! `uraid tls` as it is typed, and what `uraid serve` is told about TLS.

use crate::failure::Failure;
use crate::server::tls::{ClientCertificates, Proof, TlsOptions};
use clap::{ArgAction, Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use uraid_nbd::TlsPolicy;

/// Ten years: machines that nobody looks at do not stop on some Sunday.
const DAYS_DEFAULT: &str = "3650";

/// `uraid tls`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  uraid tls init /etc/uraid/tls --server-name nas.example --client backup
  uraid tls client /etc/uraid/tls desktop
  uraid tls psk /etc/uraid/keys.psk alice
  uraid serve --listen tcp:0.0.0.0:10809 --tls-certificates /etc/uraid/tls --scan /srv/members
  nbdinfo 'nbds://nas.example/demo?tls-certificates=/etc/uraid/tls/backup'")]
pub struct TlsArgs {
    #[command(subcommand)]
    pub action: TlsAction,
}

/// What is to be made.
#[derive(Subcommand, Debug)]
pub enum TlsAction {
    /// Make an authority, a certificate for the server and one for a client
    #[command(after_help = "\
Example:
  uraid tls init /etc/uraid/tls --server-name nas.example --server-name 192.0.2.7 --client backup

DIRECTORY gets ca-cert.pem, ca-key.pem, server-cert.pem, server-key.pem, client-cert.pem and
client-key.pem, as qemu and libnbd expect them. Each --client gets DIRECTORY/NAME with all that
a client needs: copy it to where the client runs. The authority's key, ca-key.pem, is needed for
`uraid tls client` only and may be kept elsewhere. Nothing is overwritten.")]
    Init(TlsInitArgs),
    /// Make a certificate for one more client
    #[command(after_help = "\
Example:
  uraid tls client /etc/uraid/tls desktop

DIRECTORY/NAME gets all that the client needs: copy it to where the client runs.")]
    Client(TlsClientArgs),
    /// Make a secret key for one more user, for TLS without certificates
    #[command(after_help = "\
Example:
  uraid tls psk /etc/uraid/keys.psk alice

FILE has lines `user:key` as psktool makes them; server and client need the same one. qemu wants
it to be called keys.psk.")]
    Psk(TlsPskArgs),
}

/// `uraid tls init`.
#[derive(Args, Debug)]
pub struct TlsInitArgs {
    /// Where to; made if it is not there
    pub directory: PathBuf,
    /// Host name or address by which clients know the server (repeatable) [default: this host's
    /// name, localhost, 127.0.0.1 and ::1]
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub server_name: Vec<String>,
    /// A client that gets a directory of its own (repeatable)
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub client: Vec<String>,
    #[command(flatten)]
    pub validity: ValidityArgs,
}

/// `uraid tls client`.
#[derive(Args, Debug)]
pub struct TlsClientArgs {
    /// Where `uraid tls init` has made an authority
    pub directory: PathBuf,
    /// The client's name: what `--export ...,tls-client=NAME` of `uraid serve` compares with
    pub name: String,
    #[command(flatten)]
    pub validity: ValidityArgs,
}

/// `uraid tls psk`.
#[derive(Args, Debug)]
pub struct TlsPskArgs {
    /// The file of keys; made if it is not there
    pub file: PathBuf,
    /// The user's name
    pub user: String,
}

/// `--days`.
#[derive(Args, Clone, Copy, Debug)]
pub struct ValidityArgs {
    /// How long certificates are valid
    #[arg(long, value_name = "DAYS", default_value = DAYS_DEFAULT,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(uraid_tls::DAYS_MAX)))]
    pub days: u32,
}

/// What `uraid serve` is told about TLS.
#[derive(Args, Debug)]
pub struct ServeTlsArgs {
    /// Whether clients may or must speak TLS [default: required if certificates or keys are
    /// given, else off]
    #[arg(long, value_name = "WHEN", value_enum)]
    tls: Option<When>,
    /// Directory with ca-cert.pem, server-cert.pem and server-key.pem, see `uraid tls init`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    tls_certificates: Option<PathBuf>,
    /// Whether clients have to show a certificate of the authority in ca-cert.pem
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Required,
          requires = "tls_certificates")]
    tls_clients: When,
    /// File of shared secrets, instead of certificates, see `uraid tls psk`
    #[arg(long, value_name = "FILE", conflicts_with = "tls_certificates",
          value_hint = ValueHint::FilePath)]
    tls_psk: Option<PathBuf>,
}

/// The choices of `--tls` and `--tls-clients`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    /// Never
    Off,
    /// If the client wants to
    Allowed,
    /// Always
    Required,
}

impl ServeTlsArgs {
    /// What is to be done.
    pub fn options(&self) -> Result<Option<TlsOptions>, Failure> {
        let policy = match self.tls.unwrap_or(When::Required) {
            When::Off => return Ok(None),
            When::Allowed => TlsPolicy::Allowed,
            When::Required => TlsPolicy::Required,
        };
        let proof = match (&self.tls_certificates, &self.tls_psk) {
            (Some(directory), _) => Proof::Certificates {
                directory: directory.clone(),
                clients: match self.tls_clients {
                    When::Off => ClientCertificates::Off,
                    When::Allowed => ClientCertificates::Allowed,
                    When::Required => ClientCertificates::Required,
                },
            },
            (None, Some(file)) => Proof::Keys(file.clone()),
            (None, None) if self.tls.is_none() => return Ok(None),
            (None, None) => {
                return Err(Failure::usage(
                    "--tls needs certificates: --tls-certificates DIR, made by `uraid tls init`",
                ));
            }
        };
        Ok(Some(TlsOptions { policy, proof }))
    }
}
