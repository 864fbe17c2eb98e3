//! `portcullis holder …`: what a holder of a share does, on a machine of its own.
//!
//! *Takes* a key file's place, or a sealed share on standard input. *Gives* the public key, or the share, on standard output.
//! *Denies* a key file that others can read, and a share that is another's. *Source*: `deploy/keys.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

use crate::cli::{exit, terminal};
use crate::registry::dealing::{HolderKey, open};
use crate::store::keysource::{KeyFile, KeySource, KeySourceError, Lock};
use std::path::{Path, PathBuf};

/// Make a key to be dealt a share with, and open the share that was dealt.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a private key, and print the public one for `admin key rekey --holder`.
    ///
    /// Example: portcullis holder new ada.holder
    New {
        /// The new file; it is never replaced.
        file: PathBuf,
    },
    /// Open a share that was dealt, given on standard input; prints it. Destroy the file once it is written down and read back.
    ///
    /// Example: portcullis holder open ada.holder
    Open {
        /// The file that `new` made.
        file: PathBuf,
    },
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    let ended = match args.command {
        Command::New { file } => new(&file),
        Command::Open { file } => opened(&file),
    };
    match ended {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("portcullis: {error}");
            exit::CONFIGURATION
        }
    }
}

fn new(file: &Path) -> Result<(), KeySourceError> {
    let key = key_file(file);
    key.create()?;
    println!("{}", HolderKey::of(&key.unlock(&Lock::Key)?)?.text());
    Ok(())
}

fn opened(file: &Path) -> Result<(), KeySourceError> {
    let private = key_file(file).unlock(&Lock::Key)?;
    let given = terminal::ask_or_read("sealed share", SEALED_BYTES);
    let given = given.map_err(|error| KeySourceError::Share(error.to_string()))?;
    let text = std::str::from_utf8(&given).map_err(|_| KeySourceError::ShareMalformed("it is no text"))?;
    println!("{}", open(&private, text)?.as_str());
    Ok(())
}

/// A holder has no data directory; the one that is named in its place holds no key file.
fn key_file(file: &Path) -> KeyFile {
    KeyFile::new(file, &file.with_extension("data"))
}

/// A sealed share has some 350 characters.
const SEALED_BYTES: usize = 1024;
