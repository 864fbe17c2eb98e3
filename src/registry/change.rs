//! One change: intent on the log, commit, in force, second record.

use crate::audit::Recorder;
use crate::audit::record::{AdminAct, Event, LatchKey};
use crate::limits;
use crate::registry::Registry;
use crate::registry::administrator::{Administrator, Administrators, TWO_PERSONS, TwoPersons};
use crate::store::vault::{Kind, Vault};
use crate::store::{CommitNumber, NextKeyring, StoreError, Transaction};
use crate::time::Now;

/// A change that is ready to be made.
pub struct Change {
    /// Who asks for what; goes into the log before anything happens.
    pub act: AdminAct,
    /// What is written; none for an act that changes no store.
    pub transaction: Option<Transaction>,
    /// What to load anew once it is written.
    pub kinds: Vec<Kind>,
    /// The names under which refusals rest on what changes (`policy`, `reference`, `secret:…`, `node:…`): their holds end,
    /// unless the administrator keeps them.
    pub ends_latches_on: Vec<String>,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The id of the intent's record.
    pub record: String,
    /// The commit number; none for an act that changes no store.
    pub commit: Option<CommitNumber>,
    /// The holds that it ended.
    pub latches_ended: Vec<LatchKey>,
}

/// Why a change was not made, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The log cannot be written; nothing was changed.
    #[error("the audit log cannot be written; nothing was changed: {0}")]
    AuditUnavailable(String),
    /// The store refused or failed; nothing was changed, unless it says so.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// It is changed and in force, but the second record could not be written; it is written before the next change.
    #[error("the change is in force, but its second record could not be written: {0}")]
    Unsettled(String),
}

impl Registry {
    /// Makes a change. It returns only after no older grant can be redeemed.
    pub async fn change(&self, change: Change, now: Now) -> Result<Changed, ChangeError> {
        self.settle(now).await?;
        let Some(transaction) = change.transaction else {
            let record = self.note(Event::AdminIntent { act: change.act, commit: None }, now).await?;
            let latches_ended = self.end_latches(&change.ends_latches_on, &record, now).await;
            return Ok(Changed { record, commit: None, latches_ended });
        };
        let (record, number) = self.commit(change.act, transaction, None, now).await?;
        self.enforce(&change.kinds).await;
        let latches_ended = self.end_latches(&change.ends_latches_on, &record, now).await;
        self.second_record(Event::Applied { commit: number.0 }, now).await?;
        Ok(Changed { record, commit: Some(number), latches_ended })
    }

    /// Changes the store's keys: as [`Registry::change`], and `next` is what the vault seals with before anything else
    /// commits.
    pub async fn change_keyring(
        &self,
        act: AdminAct,
        transaction: Transaction,
        next: NextKeyring,
        now: Now,
    ) -> Result<Changed, ChangeError> {
        self.settle(now).await?;
        let (record, number) = self.commit(act, transaction, Some(next), now).await?;
        self.second_record(Event::Applied { commit: number.0 }, now).await?;
        Ok(Changed { record, commit: Some(number), latches_ended: Vec::new() })
    }

    /// Records an act that changes nothing in the store before the caller does it.
    pub async fn intend(&self, act: AdminAct, now: Now) -> Result<String, ChangeError> {
        self.settle(now).await?;
        self.note(Event::AdminIntent { act, commit: None }, now).await
    }

    async fn commit(
        &self,
        act: AdminAct,
        transaction: Transaction,
        next: Option<NextKeyring>,
        now: Now,
    ) -> Result<(String, CommitNumber), ChangeError> {
        match commit(&self.vault, &self.broker.recorder, act, (transaction, next), now).await {
            Ok(committed) => Ok(committed),
            Err(Failed { error, owed }) => {
                if let Some(event) = owed {
                    let _ = self.second_record(event, now).await;
                }
                Err(error)
            }
        }
    }

    /// Puts what was written in force. While the barrier is held no grant is redeemed, so none that was decided on what
    /// stood before is redeemed after.
    async fn enforce(&self, kinds: &[Kind]) {
        let _narrowed = self.broker.barrier().narrow().await;
        for kind in kinds {
            self.load_kind(*kind).await;
        }
    }

    async fn end_latches(&self, names: &[String], record: &str, now: Now) -> Vec<LatchKey> {
        let mut ended = Vec::new();
        for name in names {
            for key in self.broker.latches.resting_on(name) {
                let event = Event::LatchCleared { key: key.clone(), by: record.to_owned() };
                // A hold whose end is not on the log would stand again after a restart, so it goes on standing now.
                if self.note(event, now).await.is_ok() && self.broker.latches.clear(&key) {
                    ended.push(key);
                }
            }
        }
        ended
    }

    /// Writes second records that are owed. Nothing is changed while one is.
    async fn settle(&self, now: Now) -> Result<(), ChangeError> {
        let mut unsettled = self.unsettled.lock().await;
        while let Some(event) = unsettled.first().cloned() {
            self.note(event, now).await?;
            unsettled.remove(0);
        }
        Ok(())
    }

    async fn second_record(&self, event: Event, now: Now) -> Result<(), ChangeError> {
        match self.note(event.clone(), now).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.unsettled.lock().await.push(event);
                Err(ChangeError::Unsettled(error.to_string()))
            }
        }
    }

    async fn note(&self, event: Event, now: Now) -> Result<String, ChangeError> {
        let noted = self.broker.recorder.note(event, now).await;
        noted.map_err(|error| ChangeError::AuditUnavailable(error.to_string()))
    }

    /// At start: the commit number of the last intent that was applied; 0 for none. An older intent is settled before a
    /// newer one is made, so of those still open only this one was applied.
    pub async fn last_applied_intent(vault: &Vault) -> Result<u64, StoreError> {
        let Some(last) = vault.read(Kind::State, LAST_INTENT).await? else { return Ok(0) };
        let text = std::str::from_utf8(&last.body).unwrap_or_default();
        let number = text.split(':').next().and_then(|number| number.parse().ok());
        number.ok_or_else(|| StoreError::Damaged("the last intent's number".to_owned()))
    }
}

/// The first administrator, made by `init` before there is a broker.
pub async fn enrol_first(
    vault: &Vault,
    recorder: &Recorder,
    administrator: &Administrator,
    now: Now,
) -> Result<(), ChangeError> {
    enrol_offline(vault, recorder, administrator, "init", now).await
}

/// An administrator, made on the host while no broker runs. Two persons are needed from then on where it is the second.
pub async fn enrol_offline(
    vault: &Vault,
    recorder: &Recorder,
    administrator: &Administrator,
    by: &str,
    now: Now,
) -> Result<(), ChangeError> {
    let body = serde_json::to_vec(administrator).map_err(|_| StoreError::TooLarge("an administrator"))?;
    let mut transaction = Transaction::default();
    let previous = vault.read(Kind::Administrator, &administrator.key_sha256).await?;
    let (key, replaces) = (&administrator.key_sha256, previous.is_some());
    vault.put(&mut transaction, Kind::Administrator, key, previous.as_ref(), &body)?;
    follow(vault, &mut transaction, administrator, now).await?;
    let act = AdminAct {
        administrator: by.to_owned(),
        key_sha256: String::new(),
        verb: "administrator put".to_owned(),
        target: administrator.name.clone(),
        details: serde_json::json!({
            "key_sha256": administrator.key_sha256,
            "roles": administrator.roles,
            "not_after": administrator.not_after.to_string(),
            "replaces": replaces,
        }),
    };
    let committed =
        commit(vault, recorder, act, (transaction, None), now).await.map_err(|failed| failed.error)?;
    let applied = recorder.note(Event::Applied { commit: committed.1.0 }, now).await;
    applied.map(drop).map_err(|error| ChangeError::Unsettled(error.to_string()))
}

/// Adds to the transaction what two persons can do together once this one is there.
async fn follow(
    vault: &Vault,
    transaction: &mut Transaction,
    new: &Administrator,
    now: Now,
) -> Result<(), StoreError> {
    let damaged = |_| StoreError::Damaged("an administrator, or whether two are needed".to_owned());
    let records = vault.all(Kind::Administrator, limits::ADMINISTRATORS).await?;
    let parsed = records.iter().map(|record| serde_json::from_slice(&record.body));
    let mut all = parsed.collect::<Result<Vec<Administrator>, _>>().map_err(damaged)?;
    all.retain(|one| one.key_sha256 != new.key_sha256);
    all.push(new.clone());
    let previous = vault.read(Kind::State, TWO_PERSONS).await?;
    let before = previous.as_ref().map(|record| serde_json::from_slice(&record.body)).transpose();
    let before: TwoPersons = before.map_err(damaged)?.unwrap_or_default();
    let after = before.with(&Administrators::new(all), now);
    if after != before {
        let body = serde_json::to_vec(&after).map_err(|_| StoreError::TooLarge("whether two are needed"))?;
        vault.put(transaction, Kind::State, TWO_PERSONS, previous.as_ref(), &body)?;
    }
    Ok(())
}

/// A commit that failed, and the second record that is owed for its intent.
pub(super) struct Failed {
    pub(super) error: ChangeError,
    owed: Option<Event>,
}

/// Intent, then commit, under one number.
pub(super) async fn commit(
    vault: &Vault,
    recorder: &Recorder,
    act: AdminAct,
    (mut transaction, next): (Transaction, Option<NextKeyring>),
    now: Now,
) -> Result<(String, CommitNumber), Failed> {
    let before = |error: StoreError| Failed { error: error.into(), owed: None };
    let turn = vault.turn().await.map_err(before)?;
    let number = turn.number();
    let last = vault.read(Kind::State, LAST_INTENT).await.map_err(before)?;
    let noted = recorder.note(Event::AdminIntent { act, commit: Some(number.0) }, now).await;
    // A record in doubt may be found at the next start, which then settles it: the store never reached that number.
    let record = noted.map_err(|error| Failed {
        error: ChangeError::AuditUnavailable(error.to_string()),
        owed: Some(Event::NotApplied { commit: number.0 }),
    })?;
    let after = |error: StoreError| Failed {
        // Undecided stays an open intent: the next start knows from the store what became of it.
        owed: (error != StoreError::Undecided).then_some(Event::NotApplied { commit: number.0 }),
        error: error.into(),
    };
    let body = format!("{}:{record}", number.0);
    vault.put(&mut transaction, Kind::State, LAST_INTENT, last.as_ref(), body.as_bytes()).map_err(after)?;
    let committed = match next {
        None => turn.commit(transaction).await,
        Some(next) => turn.commit_keyring(transaction, next).await,
    };
    let number = committed.map_err(after)?;
    Ok((record, number))
}

/// The state record that each change writes beside its own, so that a start knows whether the last intent was applied.
const LAST_INTENT: &str = "last-intent";
