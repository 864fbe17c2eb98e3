//! `portcullis admin backup`, `restore show|accept`.

use super::output::Lines;
use super::{Failure, Operators};
use crate::proto::admin::backup_response::Step;
use crate::proto::admin::*;
use crate::store::backup::{Next, Reader};
use aws_lc_rs::digest::{Context, SHA256};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Copy everything that the broker stores, as it is stored, into one file: ciphertext, at one commit number.
///
/// Example: portcullis admin backup --out /backup/portcullis-2027-03-01.bkp
#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// The file, which must not be there yet; `-` is standard output.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum RestoreCommand {
    /// Show what a restore could not bring back, and took away.
    ///
    /// Example: portcullis admin restore show
    Show,
    /// Say that a restored store may release again.
    ///
    /// Example: portcullis admin restore accept
    Accept,
}

pub(super) async fn backup(command: Backup, operators: &Operators) -> Result<(), Failure> {
    if command.out == Path::new("-") {
        let done = receive(operators, &mut io::stdout()).await?;
        done.lines().iter().for_each(|line| eprintln!("portcullis: {line}"));
        return Ok(());
    }
    let partial = Partial::begin(&command.out)?;
    let done = receive(operators, &mut &partial.file).await?;
    partial.finish(&command.out)?;
    operators.output.show(&done)
}

pub(super) async fn restore(command: RestoreCommand, operators: &Operators) -> Result<(), Failure> {
    match command {
        RestoreCommand::Show => {
            operators.answer(operators.open().await?.show_restore(ShowRestoreRequest {})).await
        }
        RestoreCommand::Accept => {
            operators.answer(operators.open().await?.accept_restore(AcceptRestoreRequest {})).await
        }
    }
}

/// Takes every piece, and holds what came against what the broker says that it sent.
async fn receive(operators: &Operators, out: &mut impl Write) -> Result<BackupDone, Failure> {
    let mut client = operators.open().await?;
    let mut pieces = operators.wait(client.backup(BackupRequest {})).await?;
    let (mut hash, mut bytes) = (Context::new(&SHA256), 0_u64);
    loop {
        let late = |_| Failure::connect("the broker sends no more: the backup is not whole");
        let message = tokio::time::timeout(PIECE_WITHIN, pieces.message()).await.map_err(late)??;
        match message.and_then(|message| message.step) {
            Some(Step::Piece(piece)) => {
                hash.update(&piece);
                bytes = bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                out.write_all(&piece).map_err(|error| written(&error))?;
            }
            Some(Step::Done(done)) => {
                out.flush().map_err(|error| written(&error))?;
                let same = done.bytes == bytes && done.sha256 == hex::encode(hash.finish());
                let other = "what came is not what the broker sent: the backup is not whole";
                return same.then_some(done).ok_or_else(|| Failure::not_the_broker(other));
            }
            None => return Err(Failure::connect("the broker ended early: the backup is not whole")),
        }
    }
}

/// A file that has its name only once it is whole and on the disk.
struct Partial {
    file: File,
    path: PathBuf,
    named: bool,
}

impl Partial {
    fn begin(out: &Path) -> Result<Self, Failure> {
        if out.exists() {
            return Err(Failure::no(format!("{}: it is there already, and stays", out.display())));
        }
        let mut path = out.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        let options =
            File::options().read(true).write(true).create(true).truncate(true).mode(0o600).to_owned();
        let file = options.open(&path).map_err(|error| unusable(&path, &error))?;
        Ok(Partial { file, path, named: false })
    }

    /// Reads it all again: what is on the disk is what counts.
    fn finish(mut self, out: &Path) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| written(&error))?;
        let file = File::open(&self.path).map_err(|error| unusable(&self.path, &error))?;
        let checked = Reader::open(io::BufReader::new(file)).and_then(|(mut reader, _)| {
            loop {
                if let Next::End(trailer) = reader.read_item()? {
                    return Ok(trailer);
                }
            }
        });
        checked.map_err(|error| Failure::internal(error.to_string()))?;
        let here = rustix::fs::CWD;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let renamed = rustix::fs::renameat_with(here, &self.path, here, out, flags);
        renamed.map_err(|error| unusable(out, &error.into()))?;
        self.named = true;
        let directory = out.parent().filter(|parent| !parent.as_os_str().is_empty());
        let synced = File::open(directory.unwrap_or(Path::new("."))).and_then(|parent| parent.sync_all());
        synced.map_err(|error| written(&error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.named {
            // What is left of it nobody can use.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn written(error: &io::Error) -> Failure {
    Failure::internal(format!("the backup cannot be written: {error}"))
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}

impl Lines for BackupDone {
    fn lines(&self) -> Vec<String> {
        vec![format!(
            "backed up at commit {}: {} records, {} bytes, sha256 {} (record {})",
            self.commit, self.items, self.bytes, self.sha256, self.record
        )]
    }
}

impl Lines for ShowRestoreResponse {
    fn lines(&self) -> Vec<String> {
        if !self.pending {
            return vec!["no restore waits to be accepted".to_owned()];
        }
        let mut lines = vec![format!(
            "restored at {} to commit {}, from a backup of {}: nothing is released until `admin restore accept`",
            self.restored, self.to, self.made
        )];
        if self.log_lost {
            lines.push(
                "the audit log was lost: what was revoked or removed since the backup is not known"
                    .to_owned(),
            );
        }
        lines.extend(self.lines.iter().cloned());
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        lines
    }
}

/// Between two pieces: the broker reads a page, or waits for the store.
const PIECE_WITHIN: Duration = Duration::from_secs(60);
