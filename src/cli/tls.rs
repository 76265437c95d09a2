//! `uraid tls`: certificates and keys.

use super::args::{TlsAction, TlsArgs};
use super::output::Output;
use super::tls_args::{TlsClientArgs, TlsInitArgs, TlsPskArgs};
use crate::failure::Failure;
use nix::unistd::gethostname;
use uraid_tls::directory::{self, Plan};
use uraid_tls::psk_file;

/// Makes what was asked for.
pub fn run(args: &TlsArgs, output: Output) -> Result<(), Failure> {
    let message = match &args.action {
        TlsAction::Init(args) => init(args)?,
        TlsAction::Client(args) => client(args)?,
        TlsAction::Psk(args) => psk(args)?,
    };
    output.done(&message)
}

fn init(args: &TlsInitArgs) -> Result<String, Failure> {
    let server_names = match args.server_name.is_empty() {
        true => names_of_this_host(),
        false => args.server_name.clone(),
    };
    let plan = Plan {
        server_names: &server_names,
        clients: &args.client,
        days: args.validity.days,
    };
    directory::init(&args.directory, &plan)?;
    let place = args.directory.display();
    let mut message = format!(
        "{place} has certificates for a server called {} and a client called {}, valid for {} days",
        server_names.join(", "),
        directory::FIRST_CLIENT,
        args.validity.days
    );
    for name in &args.client {
        message += &format!("\n{place}/{name} is for the client {name}");
    }
    Ok(message)
}

/// By which clients may know this host.
fn names_of_this_host() -> Vec<String> {
    let own = gethostname().ok().and_then(|name| name.into_string().ok());
    let usual = ["localhost", "127.0.0.1", "::1"].map(str::to_string);
    let mut names: Vec<String> = own.into_iter().filter(|name| !name.is_empty()).collect();
    names.retain(|name| !usual.contains(name));
    names.extend(usual);
    names
}

fn client(args: &TlsClientArgs) -> Result<String, Failure> {
    let place = directory::add_client(&args.directory, &args.name, args.validity.days)?;
    Ok(format!(
        "{} is for the client {}, valid for {} days",
        place.display(),
        args.name,
        args.validity.days
    ))
}

fn psk(args: &TlsPskArgs) -> Result<String, Failure> {
    psk_file::add(&args.file, &args.user)?;
    Ok(format!(
        "{} has a key of {}",
        args.file.display(),
        args.user
    ))
}
