//! `portcullis restore`: a backup into the place of the store, on the host, with the broker stopped and the key source there.
//!
//! *Takes* a configuration and a backup. *Gives* a store that stands as the backup does, narrowed to what the *current* audit
//! log says since, in the old one's place in one step. *Denies* a backup that is not whole, not vouched for, or older than
//! what the log was; nothing is changed then. *Source*: `durability.md` "sled"; catalogue row 39; `deploy/backup.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

mod load;
mod log;
mod place;

use crate::audit::Recorder;
use crate::audit::record::{AdminAct, Event};
use crate::cli::backup::told;
use crate::cli::config::{Config, ConfigError};
use crate::cli::exit;
use crate::registry::{ChangeError, Restored, Since, conclude, narrow};
use crate::store::backup::{BackupError, Head, Trailer};
use crate::store::{CommitNumber, Store, StoreError, Vault};
use crate::time::{Now, SystemTime, TimeSource};
use log::LogState;
use place::Place;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Put a backup in the place of the store. On the broker's host, as its user, with the broker stopped.
///
/// The audit log stays as it is. What it says since the backup is applied where it narrows, and nothing is released until an
/// administrator says `portcullis admin restore accept`. The store that was there stays beside the new one.
///
/// Example: portcullis restore --config /etc/portcullis/portcullis.toml --from portcullis-2027-03-01.bkp
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker's configuration.
    #[arg(long, env = "PORTCULLIS_CONFIG", default_value = "/etc/portcullis/portcullis.toml")]
    config: PathBuf,
    /// The backup.
    #[arg(long)]
    from: PathBuf,
    /// The last checkpoint of the audit log that was kept elsewhere. Where the log is there it is held against it; where the
    /// log is lost it says how much is.
    #[arg(long, conflicts_with = "log_lost")]
    checkpoint: Option<PathBuf>,
    /// The audit log is lost, and no checkpoint of it was kept: what was revoked since the backup is not known. A new log begins
    /// with this word.
    #[arg(long)]
    log_lost: bool,
}

/// Why nothing was restored. What was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The backup is refused.
    #[error("{0}")]
    Backup(#[from] BackupError),
    /// The store that is there, or the one that is made.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The keyring in the backup does not open.
    #[error(
        "the key source does not open the backup's keyring: it was sealed under another key, such as one from before a \
         `rekey`; restore with the key of then: {0}"
    )]
    OtherKey(StoreError),
    /// The audit log, and how it goes with the backup.
    #[error("the audit log: {0}")]
    Log(String),
    /// What is missing on the command line.
    #[error("{0}")]
    Usage(String),
    /// A file or directory.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The last step.
    #[error("{0}")]
    Change(#[from] ChangeError),
    /// A clock cannot be read.
    #[error("a clock cannot be read")]
    Clock,
}

impl RestoreError {
    fn exit_code(&self) -> u8 {
        match self {
            RestoreError::Backup(BackupError::Io(_)) => exit::CONFIGURATION,
            RestoreError::Backup(_) | RestoreError::OtherKey(_) => exit::REFUSED,
            RestoreError::Usage(_) => exit::USAGE,
            _ => exit::CONFIGURATION,
        }
    }
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    match restore(&args).await {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            exit::OK
        }
        Err(error) => {
            eprintln!("portcullis: not restored: {error}");
            error.exit_code()
        }
    }
}

async fn restore(args: &Args) -> Result<Vec<String>, RestoreError> {
    let config = Config::read(&args.config)?;
    let (Some(wall), Some(boot)) = (SystemTime.wall(), SystemTime.boot()) else {
        return Err(RestoreError::Clock);
    };
    let now = Now { wall, boot };
    // Read to its end before anything else is looked at: most refusals need nothing more.
    let (head, trailer) = load::examine(&args.from)?;
    let mut place = Place::take(&config.storage.data, now.wall)?;
    let state = log::find(&config, args, &head)?;
    let (since, highest) = log::since(&config, &state, &head, &trailer)?;
    let mut restored = Restored {
        to: trailer.commit,
        made: head.made,
        at: now.wall,
        log_lost: matches!(state, LogState::Lost(_)),
        ..Restored::default()
    };
    let changes = since.changes();
    let (recorder, number) = make(&config, args, &place, &state, &since, highest, &mut restored, now).await?;
    let swapped = place.swap(now.wall);
    let second = match &swapped {
        Ok(_) => Event::Applied { commit: number.0 },
        Err(_) => Event::NotApplied { commit: number.0 },
    };
    let noted = recorder.note(second, now).await;
    recorder.log().close();
    let kept = swapped?;
    // The next start finds the store at that number, and records what could not be recorded here.
    if let Err(error) = noted {
        eprintln!("portcullis: the end of the restore could not be recorded; the next start will: {error}");
    }
    Ok(report(&head, &trailer, &restored, kept.as_deref(), changes))
}

/// The new store beside the old one, whole and closed, its last commit announced on the log.
#[expect(clippy::too_many_arguments, reason = "each is something that was found out before")]
async fn make(
    config: &Config,
    args: &Args,
    place: &Place,
    state: &LogState,
    since: &Since,
    highest: u64,
    restored: &mut Restored,
    now: Now,
) -> Result<(Recorder, CommitNumber), RestoreError> {
    let (store, head, trailer) = load::load(&args.from, place.beside(), highest).await?;
    let vault = open(config, Arc::new(store)).await.map_err(|error| match error {
        StoreError::KeyringRefused | StoreError::KeySource(_) => RestoreError::OtherKey(error),
        other => RestoreError::Store(other),
    })?;
    trailer.check(|text| vault.vouch(text))?;
    load::note_damage(&vault, restored).await?;
    narrow(&vault, since, restored, now.wall).await?;
    load::note_administrators(&vault, restored, now).await?;
    let recorder = log::open(config)?;
    let act = act(&head, &trailer, state, restored);
    let number = conclude(&vault, &recorder, restored, act, now).await?;
    Ok((recorder, number))
}

/// Opens the restored store with the first of the configured sources that does.
async fn open(config: &Config, store: Arc<dyn Store>) -> Result<Arc<Vault>, StoreError> {
    let lock = Vault::lock_of(store.as_ref()).await?;
    let mut failed = StoreError::KeyringRefused;
    for source in config.storage.key_sources(&lock)? {
        match Vault::open(store.clone(), source.as_ref()).await {
            Err(error @ (StoreError::KeySource(_) | StoreError::KeyringRefused)) => failed = error,
            opened => return opened.map(Arc::new),
        }
    }
    Err(failed)
}

fn act(head: &Head, trailer: &Trailer, state: &LogState, restored: &Restored) -> AdminAct {
    let log = match state {
        LogState::There => json!("there"),
        LogState::Lost(None) => json!("lost"),
        LogState::Lost(Some(note)) => json!({ "lost": note }),
    };
    AdminAct {
        administrator: "(host)".to_owned(),
        key_sha256: String::new(),
        verb: "restore".to_owned(),
        target: format!("restored to {}", trailer.commit),
        details: json!({
            "commit": trailer.commit,
            "made": head.made.to_string(),
            "log_records": head.log_records,
            "backup_sha256": trailer.sha256,
            "log": log,
            "narrowed": restored.lines.len(),
        }),
    }
}

fn report(
    head: &Head,
    trailer: &Trailer,
    restored: &Restored,
    kept: Option<&Path>,
    changes: u64,
) -> Vec<String> {
    let mut lines = vec![format!("restored: {}", told(head, trailer))];
    match restored.log_lost {
        true => lines.push("the audit log was lost: nothing since the backup is known".to_owned()),
        false => lines.push(format!("the audit log tells of {changes} changes since")),
    }
    lines.extend(restored.lines.iter().cloned());
    if restored.more > 0 {
        lines.push(format!("and {} more", restored.more));
    }
    if let Some(kept) = kept {
        lines.push(format!("the store that was there is now {}", kept.display()));
    }
    lines.push("nothing is released until `portcullis admin restore accept`".to_owned());
    lines
}
