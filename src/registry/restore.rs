//! A restored store: narrowed to what the log allows, marked as not accepted, and accepted by an administrator in the end.
//!
//! *Takes* a vault over restored entries, and [`Since`]. *Gives* the vault narrowed, a [`Restored`] that says what was
//! taken away, and one commit that the log knows of. *Denies* `StoreError` where it cannot be written; a record that does
//! not open is reported, as it denies by itself. *Source*: `durability.md` "sled"; catalogue row 39.

use super::administrator::{Administrator, Administrators, Role, TWO_PERSONS, TwoPersons};
use super::attestation::StoredAk;
use super::change::{ChangeError, commit};
use super::replay::{AdministratorSince, MarkSince, SecretSince, Since};
use crate::audit::Recorder;
use crate::audit::record::AdminAct;
use crate::limits;
use crate::release::kv::{Kv, KvError, Prepared, Terms, Versions};
use crate::request::SecretPath;
use crate::store::marks;
use crate::store::vault::{Kind, Vault};
use crate::store::{CommitNumber, StoreError, Transaction};
use crate::time::{BootTime, Now, WallTime};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a restore did, as it is stored until it is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    /// The commit number at which the backup stood.
    pub to: u64,
    /// When the backup was made.
    pub made: WallTime,
    /// When it was restored.
    pub at: WallTime,
    /// Whether the audit log was lost: then nothing since the backup is known, and nothing was narrowed.
    pub log_lost: bool,
    /// What was narrowed, is gone until it is put anew, or needs a look; one thing a line.
    pub lines: Vec<String>,
    /// Lines that were left out.
    pub more: u64,
}

impl Restored {
    /// Adds a line, cut to its bound.
    pub fn say(&mut self, line: String) {
        if self.lines.len() >= limits::RESTORE_REPORT_LINES {
            self.more = self.more.saturating_add(1);
            return;
        }
        let mut line = line;
        while line.len() > limits::RESTORE_REPORT_LINE_BYTES {
            line.pop();
        }
        self.lines.push(line);
    }
}

/// The restore that this store has not been accepted from; none where it was not restored, or that is accepted.
pub async fn not_accepted(vault: &Vault) -> Result<Option<Restored>, StoreError> {
    let Some(record) = vault.read(Kind::State, RESTORED).await? else { return Ok(None) };
    let parsed = serde_json::from_slice(&record.body);
    parsed.map(Some).map_err(|_| StoreError::Damaged("the record of a restore".to_owned()))
}

/// Prepares the acceptance: the record of it is gone. None where there is nothing to accept.
pub async fn prepare_acceptance(vault: &Vault) -> Result<Option<Transaction>, StoreError> {
    let Some(record) = vault.read(Kind::State, RESTORED).await? else { return Ok(None) };
    let mut transaction = Transaction::default();
    vault.remove(&mut transaction, &record);
    Ok(Some(transaction))
}

/// The last commit of a restore: intent on the log, then the mark that nothing is accepted. Its second record follows once the
/// store is in its place.
pub async fn conclude(
    vault: &Vault,
    recorder: &Recorder,
    restored: &Restored,
    act: AdminAct,
    now: Now,
) -> Result<CommitNumber, ChangeError> {
    let body = serde_json::to_vec(restored).map_err(|_| StoreError::TooLarge("the report of a restore"))?;
    let previous = vault.read(Kind::State, RESTORED).await?;
    let mut transaction = Transaction::default();
    vault.put(&mut transaction, Kind::State, RESTORED, previous.as_ref(), &body)?;
    let committed = commit(vault, recorder, act, (transaction, None), now).await;
    committed.map(|(_, number)| number).map_err(|failed| failed.error)
}

/// Narrows a restored store to what the log says since.
pub async fn narrow(
    vault: &Arc<Vault>,
    since: &Since,
    restored: &mut Restored,
    now: WallTime,
) -> Result<(), StoreError> {
    let mut narrowing = Narrowing { vault, kv: Kv::new(vault.clone())?, restored, now };
    for (path, secret) in &since.secrets {
        narrowing.secret(path, secret).await?;
    }
    if since.policy {
        let line =
            "the policy was replaced: none is in force, and nothing is permitted, until it is put anew";
        narrowing.remove(Kind::Policy, super::POLICY, line).await?;
    }
    for name in &since.sets {
        let line = format!("reference set `{name}` was replaced or removed: it is gone until it is put anew");
        narrowing.remove(Kind::ReferenceSet, name, &line).await?;
    }
    for name in &since.nodes {
        let line =
            format!("node `{name}` was removed or enrolled anew: it is gone until it is enrolled again");
        narrowing.remove(Kind::Node, name, &line).await?;
    }
    for name in &since.attestation_keys {
        let line = format!(
            "attestation key {name} was removed, replaced or enrolled: it is gone until it is enrolled again"
        );
        narrowing.remove(Kind::AttestationKey, name, &line).await?;
    }
    narrowing.counters(since).await?;
    narrowing.proposals().await?;
    // Who was there together is asked before anyone is removed.
    narrowing.two_persons(since).await?;
    for (key, administrator) in &since.administrators {
        narrowing.administrator(key, administrator.as_ref()).await?;
    }
    narrowing.revocations(since).await?;
    for (name, mark) in &since.marks {
        narrowing.mark(name, mark).await?;
    }
    for (verb, count) in &since.keys {
        narrowing.restored.say(format!(
            "`{verb}` was done {count} times: the keys are those of the backup, so do it again"
        ));
    }
    for (verb, count) in &since.unknown {
        narrowing.restored.say(format!("`{verb}` was done {count} times: it is undone by this restore"));
    }
    Ok(())
}

struct Narrowing<'a> {
    vault: &'a Arc<Vault>,
    kv: Kv,
    restored: &'a mut Restored,
    now: WallTime,
}

impl Narrowing<'_> {
    async fn secret(&mut self, path: &str, since: &SecretSince) -> Result<(), StoreError> {
        let Ok(parsed) = SecretPath::parse(path) else { return Ok(()) };
        let metadata = match self.kv.metadata(&parsed).await {
            Ok(Some(metadata)) => metadata,
            Ok(None) => {
                if since.put > 0 {
                    self.restored.say(format!("secret {path} is not in the backup: put it anew"));
                }
                return Ok(());
            }
            Err(error) => return self.damaged(&format!("secret {path}"), error),
        };
        for version in &since.destroyed {
            let destroyed = self.kv.destroy(&parsed, Versions::One(*version), self.now).await;
            let line = format!("secret {path}: version {version} was destroyed, and is again");
            self.make(destroyed, line).await?;
        }
        if since.put > metadata.current {
            let superseded = self.kv.supersede(&parsed, since.put, self.now).await;
            let line = format!(
                "secret {path}: its newest version, {}, is not in the backup (which ends at {}): nothing of it is \
                 released until it is put anew",
                since.put, metadata.current
            );
            self.make(superseded, line).await?;
        }
        if since.disabled == Some(true) && !metadata.disabled {
            let disabled = self.kv.set_disabled(&parsed, true).await;
            self.make(disabled, format!("secret {path} was disabled, and is again")).await?;
        }
        if let Some(details) = &since.terms {
            let terms = self.kv.set_terms(&parsed, terms(details)).await;
            self.make(terms, format!("secret {path}: labels and terms are those that were set last")).await?;
        }
        Ok(())
    }

    /// What is done already, or about what is not there, needs nothing.
    async fn make(&mut self, prepared: Result<Prepared, KvError>, line: String) -> Result<(), StoreError> {
        match prepared {
            Ok(prepared) => {
                self.vault.commit(prepared.transaction).await?;
                self.restored.say(line);
                Ok(())
            }
            Err(KvError::Store(error)) => self.damaged(&line, error),
            Err(_) => Ok(()),
        }
    }

    async fn remove(&mut self, kind: Kind, name: &str, line: &str) -> Result<(), StoreError> {
        match self.vault.read(kind, name).await {
            Ok(None) => Ok(()),
            Ok(Some(record)) => {
                let mut transaction = Transaction::default();
                self.vault.remove(&mut transaction, &record);
                self.vault.commit(transaction).await?;
                self.restored.say(line.to_owned());
                Ok(())
            }
            Err(error) => self.damaged(line, error),
        }
    }

    /// A key keeps the roles that it has in the backup and had since, until the earlier end; one that is new stays out.
    async fn administrator(
        &mut self,
        key: &str,
        since: Option<&AdministratorSince>,
    ) -> Result<(), StoreError> {
        let record = match self.vault.read(Kind::Administrator, key).await {
            Ok(Some(record)) => record,
            Ok(None) if since.is_none() => return Ok(()),
            Ok(None) => {
                self.restored.say(format!("administrator {key} was put: put it anew"));
                return Ok(());
            }
            Err(error) => return self.damaged(&format!("administrator {key}"), error),
        };
        let before: Option<Administrator> = serde_json::from_slice(&record.body).ok();
        let narrowed = before.zip(since).map(|(before, since)| Administrator {
            roles: before.roles.intersection(&since.roles).copied().collect(),
            not_after: before.not_after.min(since.not_after),
            ..before
        });
        let Some(narrowed) = narrowed.filter(|one| !one.roles.is_empty()) else {
            return self
                .remove(Kind::Administrator, key, &format!("administrator {key} was removed, and is again"))
                .await;
        };
        let body = serde_json::to_vec(&narrowed).map_err(|_| StoreError::TooLarge("an administrator"))?;
        let line = format!("administrator `{}` has the roles that it had before and since", narrowed.name);
        self.put(Kind::Administrator, key, Some(&record), &body, line).await
    }

    /// No approval of yesterday carries anything out: every change that waited is proposed anew.
    async fn proposals(&mut self) -> Result<(), StoreError> {
        // By their keys: one that does not open goes too.
        let store = self.vault.store();
        loop {
            let page = store.scan(&[Kind::Proposal.code()], None, limits::STORE_PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            let count = page.len();
            let deletes = page.into_iter().map(|entry| entry.key).collect();
            self.vault.commit(Transaction { deletes, ..Transaction::default() }).await?;
            self.restored.say(format!(
                "changes that waited for a second person are gone, {count} of them: propose them anew"
            ));
        }
    }

    /// What waited for a second person in the backup or at any time since, waits.
    async fn two_persons(&mut self, since: &Since) -> Result<(), StoreError> {
        let record = match self.vault.read(Kind::State, TWO_PERSONS).await {
            Ok(record) => record,
            Err(error) => return self.damaged("whether two persons are needed", error),
        };
        let parsed = record.as_ref().map(|record| serde_json::from_slice(&record.body)).transpose();
        let Ok(before) = parsed.map(Option::<TwoPersons>::unwrap_or_default) else { return Ok(()) };
        let mut after = before.clone();
        if let Some(on) = &since.two_persons {
            after.off = false;
            after.roles.extend(on);
        }
        let after = after.with(&self.persons(since).await?, Now { wall: self.now, boot: BootTime(0) });
        if after == before {
            return Ok(());
        }
        let body = serde_json::to_vec(&after).map_err(|_| StoreError::TooLarge("whether two are needed"))?;
        let roles: Vec<&str> = after.roles.iter().map(|role| role.name()).collect();
        let line = format!("changes wait for a second person, of the roles {}", roles.join(", "));
        self.put(Kind::State, TWO_PERSONS, record.as_ref(), &body, line).await
    }

    /// Everyone who was an administrator in the backup or since, under one key a name.
    async fn persons(&mut self, since: &Since) -> Result<Administrators, StoreError> {
        let mut persons = since.persons.clone();
        for record in self.vault.all(Kind::Administrator, limits::ADMINISTRATORS).await.unwrap_or_default() {
            let Ok(one) = serde_json::from_slice::<Administrator>(&record.body) else { continue };
            if self.now < one.not_after {
                persons.entry(one.name).or_default().extend(one.roles);
            }
        }
        let one = |(name, roles): (String, BTreeSet<Role>)| Administrator {
            key_sha256: name.clone(),
            name,
            roles,
            not_after: WallTime(u64::MAX),
        };
        Ok(Administrators::new(persons.into_iter().map(one)))
    }

    /// No TPM that was seen with higher counters is taken with lower ones: its enrolment's mark rises to what the log has.
    async fn counters(&mut self, since: &Since) -> Result<(), StoreError> {
        let stored = match self.vault.all(Kind::AttestationKey, limits::TPM2_KEYS).await {
            Ok(stored) => stored,
            Err(error) => return self.damaged("the attestation keys", error),
        };
        for record in stored {
            let Ok(StoredAk { ak, .. }) = serde_json::from_slice(&record.body) else { continue };
            if let Some(counters) = since.counters.of(&ak.key.name(), ak.enrolled_at) {
                marks::raise(self.vault, &ak.mark(), &counters.to_bytes()).await?;
            }
        }
        Ok(())
    }

    async fn revocations(&mut self, since: &Since) -> Result<(), StoreError> {
        for (name, revocation) in &since.revocations {
            let Some(revocation) = revocation else { continue };
            let body = serde_json::to_vec(revocation).map_err(|_| StoreError::TooLarge("a revocation"))?;
            match self.vault.read(Kind::Revocation, name).await {
                Ok(previous) if previous.as_ref().is_some_and(|record| *record.body == body) => {}
                Ok(previous) => {
                    let line = format!("revoked again: {name}");
                    self.put(Kind::Revocation, name, previous.as_ref(), &body, line).await?;
                }
                Err(error) => self.damaged(&format!("revocation of {name}"), error)?,
            }
        }
        Ok(())
    }

    async fn put(
        &mut self,
        kind: Kind,
        name: &str,
        previous: Option<&crate::store::Opened>,
        body: &[u8],
        line: String,
    ) -> Result<(), StoreError> {
        let mut transaction = Transaction::default();
        self.vault.put(&mut transaction, kind, name, previous, body)?;
        self.vault.commit(transaction).await?;
        self.restored.say(line);
        Ok(())
    }

    async fn mark(&mut self, name: &str, since: &MarkSince) -> Result<(), StoreError> {
        let before = marks::read(self.vault, name).await?;
        if let Some(set) = &since.set {
            let transaction = marks::prepare_reset(self.vault, name, set).await?;
            self.vault.commit(transaction).await?;
        }
        if let Some(raised) = &since.raised {
            marks::raise(self.vault, name, raised).await?;
        }
        let after = marks::read(self.vault, name).await?;
        if before != after {
            let shown = after.map(hex::encode).unwrap_or_default();
            self.restored.say(format!("the mark {name} stands where it stood: {shown}"));
        }
        Ok(())
    }

    /// A record that does not open denies by itself, whatever was to be narrowed of it.
    fn damaged(&mut self, what: &str, error: StoreError) -> Result<(), StoreError> {
        let StoreError::Damaged(why) = error else { return Err(error) };
        self.restored.say(format!("{what}: its record is damaged in the backup ({why}), and is denied"));
        Ok(())
    }
}

fn terms(details: &Value) -> Terms {
    let number = |name: &str| details.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let labels = details.get("labels").cloned();
    Terms {
        labels: labels.and_then(|labels| serde_json::from_value::<BTreeMap<String, String>>(labels).ok()),
        lease_default_seconds: number("lease_default_seconds"),
        lease_maximum_seconds: number("lease_maximum_seconds"),
        exporter_demanded: details.get("exporter_demanded").and_then(Value::as_bool),
    }
}

/// The state record of a restore that nobody has accepted.
const RESTORED: &str = "restored";

/// Leaves a vault as a restore does, for tests of what follows.
#[cfg(test)]
pub(crate) async fn leave_unaccepted(vault: &Vault) {
    let mut transaction = Transaction::default();
    let body = serde_json::to_vec(&Restored::default()).unwrap();
    vault.put(&mut transaction, Kind::State, RESTORED, None, &body).unwrap();
    vault.commit(transaction).await.unwrap();
}
