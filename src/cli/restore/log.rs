//! The audit log at a restore: the current one, held against the backup; or known to be lost.

use super::{Args, RestoreError};
use crate::audit::Recorder;
use crate::audit::checkpoint::{Checkpoint, LogKey};
use crate::audit::log::Log;
use crate::audit::record::{Event, Record};
use crate::audit::show;
use crate::audit::verify::verify;
use crate::cli::config::Config;
use crate::limits;
use crate::registry::Since;
use crate::store::backup::{Head, Trailer};
use crate::time::{SystemTime, TimeSource, WallTime};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Whether the log is there.
pub(super) enum LogState {
    /// It is, and goes with the backup.
    There,
    /// It is not; the last checkpoint of it, where one was kept.
    Lost(Option<String>),
}

/// Finds the log, verifies all of it, and that it goes on from what it was when the backup was made.
pub(super) fn find(config: &Config, args: &Args, head: &Head) -> Result<LogState, RestoreError> {
    let key = load_key(config)?;
    let backups = Checkpoint::verify(&head.checkpoint, key.public())
        .map_err(|error| refused(&format!("the checkpoint in the backup: {error}")))?;
    let kept = args.checkpoint.as_deref().map(read_note).transpose()?;
    if let Some(note) = &kept {
        let kept = Checkpoint::verify(note, key.public())
            .map_err(|error| refused(&format!("the checkpoint given: {error}")))?;
        if kept.size < backups.size {
            let why = format!(
                "the checkpoint given is of {} records, and the backup was made at {}: it is not the last one",
                kept.size, backups.size
            );
            return Err(refused(&why));
        }
    }
    let absent = crate::audit::is_absent(&config.storage.audit);
    let there = !absent.map_err(|error| refused(&error.to_string()))?;
    match (there, args.log_lost, kept) {
        (true, true, _) => {
            let path = config.storage.audit.display();
            Err(refused(&format!(
                "it is not lost: there are records in {path}; say so only where there are none"
            )))
        }
        (true, false, kept) => {
            for note in [Some(head.checkpoint.as_str()), kept.as_deref()].into_iter().flatten() {
                verify(&config.storage.audit, key.public(), Some(note))
                    .map_err(|error| refused(&format!("it does not go with the backup: {error}")))?;
            }
            Ok(LogState::There)
        }
        (false, false, None) => Err(RestoreError::Usage(format!(
            "there is no audit log in {}: put it back; where it is lost, give the last checkpoint that was kept \
             (--checkpoint FILE), or say that none was (--log-lost)",
            config.storage.audit.display()
        ))),
        (false, _, kept) => Ok(LogState::Lost(kept)),
    }
}

/// What it says since the backup was begun, and the highest commit number that it or the backup names.
pub(super) fn since(
    config: &Config,
    state: &LogState,
    head: &Head,
    trailer: &Trailer,
) -> Result<(Since, u64), RestoreError> {
    let mut since = Since::new(trailer.commit);
    let mut highest = trailer.commit;
    if let LogState::There = state {
        let failed = |error: show::ShowError| refused(&error.to_string());
        for found in show::records_from(&config.storage.audit, head.log_records).map_err(failed)? {
            let (_, record) = found.map_err(failed)?;
            highest = highest.max(number(&record));
            since.take(&record);
        }
        since.finish();
    }
    Ok((since, highest))
}

/// Opens the log to go on with it; a lost one begins anew.
pub(super) fn open(config: &Config) -> Result<Recorder, RestoreError> {
    let key = load_key(config)?;
    let opened = Log::open(&config.storage.audit, key, WallTime(u64::MAX), |_| ());
    let (log, _) = opened.map_err(|error| refused(&error.to_string()))?;
    Ok(Recorder::new(Arc::new(log), SystemTime.boot_id()))
}

fn number(record: &Record) -> u64 {
    match &record.event {
        Event::AdminIntent { commit: Some(commit), .. }
        | Event::Applied { commit }
        | Event::NotApplied { commit }
        | Event::Started { commit, .. } => *commit,
        _ => 0,
    }
}

fn load_key(config: &Config) -> Result<LogKey, RestoreError> {
    LogKey::load(&config.storage.audit_key_file).map_err(|error| refused(&error.to_string()))
}

fn read_note(path: &Path) -> Result<String, RestoreError> {
    let failed = |error| RestoreError::File { path: path.to_owned(), error };
    let mut note = String::new();
    let limit = u64::try_from(limits::NOTE_BYTES).unwrap_or(0);
    std::fs::File::open(path).map_err(failed)?.take(limit).read_to_string(&mut note).map_err(failed)?;
    Ok(note)
}

fn refused(why: &str) -> RestoreError {
    RestoreError::Log(why.to_owned())
}
