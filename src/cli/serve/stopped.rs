//! Store and log of a broker that does not run, opened as a start opens them.
//!
//! *Takes* a [`Config`]. *Gives* [`Stopped`], which holds the locks of both. *Denies* as a start does: a broker that runs, what
//! does not fit together. *Source*: `durability.md`.

use super::assemble::{self, StartError};
use super::{keys, recover};
use crate::audit::Recorder;
use crate::cli::config::Config;
use crate::registry::Registry;
use crate::store::Vault;
use crate::time::{Now, TimeSource, WallTime};
use std::sync::Arc;

/// A broker's store and log, of which this process has the only use.
pub struct Stopped {
    /// The store.
    pub vault: Arc<Vault>,
    /// The log.
    pub recorder: Recorder,
    /// The highest wall time that the broker kept.
    pub highest: WallTime,
}

/// Opens them, and settles what an earlier process left open.
pub async fn open_stopped(config: &Config, source: &dyn TimeSource, now: Now) -> Result<Stopped, StartError> {
    let key = assemble::log_key(config)?;
    assemble::examine(config, &key, now)?;
    let vault = keys::open_offline(config).await?;
    recover::check_log_there(&config.storage.audit, vault.store().last_commit().await?)?;
    let (log, report) = assemble::open_log(config, key, recover::horizon(now), |_| ())?;
    let last_intent = Registry::last_applied_intent(&vault).await?;
    let owed = recover::reconcile(&report, vault.store().last_commit().await?, last_intent)?;
    let highest = assemble::highest_time(&vault).await?;
    let recorder = Recorder::new(log, source.boot_id());
    recover::settle(&recorder, owed, now).await?;
    Ok(Stopped { vault, recorder, highest })
}
