//! `portcullis backup verify`: whether a file is a whole backup, offline.
//!
//! *Takes* a file; for its maker, the configuration that names the key source. *Gives* what it holds, and an exit code: 1
//! where it is refused. *Denies* nothing. *Source*: `store::backup`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

use crate::cli::config::Config;
use crate::cli::exit;
use crate::store::StoreError;
use crate::store::backup::{self, BackupError, Head, Reader, Trailer, VouchError};
use crate::store::keyring::Keyring;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Look at backups, offline. (`portcullis admin backup` makes them, `portcullis restore` takes them.)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Find out whether a backup is whole and unchanged; with a configuration, also whether a broker with this store's keys
    /// made it, and so whether they open it. Exit code 1 where not.
    ///
    /// Example: portcullis backup verify portcullis-2027-03-01.bkp --config /etc/portcullis/portcullis.toml
    Verify {
        /// The file.
        file: PathBuf,
        /// The broker's configuration, for its key source.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    let Command::Verify { file, config } = args.command;
    let verified = tokio::task::spawn_blocking(move || verify(&file, config.as_deref())).await;
    match verified {
        Ok(Ok(line)) => {
            println!("{line}");
            exit::OK
        }
        Ok(Err((code, why))) => {
            eprintln!("portcullis: {why}");
            code
        }
        Err(_) => exit::INTERNAL,
    }
}

fn verify(file: &Path, config: Option<&Path>) -> Result<String, (u8, String)> {
    let configuration = |why: String| (exit::CONFIGURATION, why);
    let opened = File::open(file).map_err(|error| configuration(format!("{}: {error}", file.display())))?;
    let refused = |error: BackupError| refusal(&error);
    let (mut reader, head) = Reader::open(BufReader::new(opened)).map_err(refused)?;
    let (trailer, keyring) = backup::read_through(&mut reader).map_err(refused)?;
    let Some(config) = config else {
        let line = told(&head, &trailer);
        return Ok(format!("whole: {line}; with --config, its maker is verified too"));
    };
    let config = Config::read(config).map_err(|error| configuration(error.to_string()))?;
    match check_maker(&config, &head, &trailer, keyring.as_deref()) {
        Ok(()) => Ok(format!("verified: {}", told(&head, &trailer))),
        Err(VouchError::Backup(error)) => Err(refusal(&error)),
        Err(VouchError::Key(error)) => Err((exit::REFUSED, error.to_string())),
    }
}

/// Holds the MAC against the keys in the backup, which one of the configured sources must open.
fn check_maker(
    config: &Config,
    head: &Head,
    trailer: &Trailer,
    keyring: Option<&[u8]>,
) -> Result<(), VouchError> {
    let sealed = keyring.ok_or(BackupError::NotVouched)?;
    let sources = config.storage.key_sources(&Keyring::lock_of(sealed)?).map_err(StoreError::from)?;
    let mut failed = StoreError::KeyringRefused;
    for source in sources {
        match backup::check_vouched(head, trailer, keyring, source.as_ref()) {
            Err(VouchError::Key(error @ (StoreError::KeySource(_) | StoreError::KeyringRefused))) => {
                failed = error;
            }
            checked => return checked,
        }
    }
    Err(failed.into())
}

/// What cannot be read is not refused: that is the machine's fault.
fn refusal(error: &BackupError) -> (u8, String) {
    let code = if matches!(error, BackupError::Io(_)) { exit::CONFIGURATION } else { exit::REFUSED };
    (code, error.to_string())
}

/// What a backup holds, in words.
pub fn told(head: &Head, trailer: &Trailer) -> String {
    format!(
        "store {} at commit {}, {} records, begun {} at record {} of the audit log",
        head.store, trailer.commit, trailer.items, head.made, head.log_records
    )
}
