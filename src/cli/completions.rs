//! `portcullis completions`: what a shell completes, of the program's own command tree.
//!
//! *Takes* a shell's name and the command tree. *Gives* its script on standard output. *Denies* nothing. *Source*: `deploy/README.md`,
//! "Shell completions".
#![allow(clippy::print_stderr, reason = "a command speaks to its terminal")]

use crate::cli::exit;
use clap_complete::{Generator, Shell};
use std::io::Write;

/// Print the script by which a shell completes this program's commands.
///
/// Example: portcullis completions bash > /usr/share/bash-completion/completions/portcullis
///
/// Example: portcullis completions zsh > /usr/local/share/zsh/site-functions/_portcullis
///
/// Example: portcullis completions fish > /etc/fish/completions/portcullis.fish
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Known,
}

/// The shells whose script is tested here.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script; gives the exit code.
pub fn run(args: &Args, mut program: clap::Command) -> u8 {
    let shell = match args.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    program.set_bin_name("portcullis");
    program.build();
    let made = shell.try_generate(&program, &mut script);
    match made.and_then(|()| std::io::stdout().write_all(&script)) {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("portcullis: {error}");
            exit::INTERNAL
        }
    }
}
