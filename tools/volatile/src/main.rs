//! Serves files as disks with a volatile write cache, and does to them what it is told on
//! standard input.

use clap::Parser;
use std::io::{self, BufRead};
use std::path::PathBuf;
use std::process::ExitCode;
use volatile_disk::command::{Command, HELP, parse};
use volatile_disk::disk::Disk;
use volatile_disk::server::Server;

/// Serves files over NBD as disks with a volatile write cache: what is written reaches the file
/// when it is flushed. Commands are read from standard input; its end is an orderly stop.
#[derive(Parser)]
#[command(after_help = format!("Commands, one a line:\n{HELP}"))]
struct Options {
    /// Unix socket to listen on; the disks are its exports 0, 1 and so on
    #[arg(long)]
    socket: PathBuf,
    /// What is lost with the power is chosen by this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Files of whole sectors of 512 bytes
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let open = |(i, path): (usize, &PathBuf)| {
        let seed = options.seed.wrapping_add(i as u64);
        Disk::open(path, seed).map_err(|error| format!("{}: {error}", path.display()))
    };
    let disks: Result<Vec<Disk>, String> = options.files.iter().enumerate().map(open).collect();
    let server = Server::start(&options.socket, disks?)
        .map_err(|error| format!("{}: {error}", options.socket.display()))?;
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match parse(&line) {
            Ok(Command::PowerLoss) => {
                let sectors = server.lose_power();
                println!("{sectors} sectors were not flushed");
                return Ok(());
            }
            Ok(Command::Stop) => return Ok(()),
            Ok(Command::Disk(index, change)) => match server.disks().get(index) {
                Some(disk) => {
                    change.apply(disk);
                    println!("done");
                }
                None => eprintln!("there is no disk {index}"),
            },
            Err(text) => eprintln!("{text}; known are:\n{HELP}"),
        }
    }
    Ok(())
}
