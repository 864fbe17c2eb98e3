//! What the audit log says since a backup, and what of it narrows: a restored yesterday un-revokes nothing.
//!
//! *Takes* the log's records since the backup was begun, in order. *Gives* [`Since`], and from it a restored store in which
//! nothing stands that was revoked, disabled, destroyed, removed or replaced since. *Denies* nothing itself. *Source*:
//! `durability.md` "sled" (what only narrows is rebuilt from the log); catalogue row 39.
//!
//! What was *replaced* since is not taken from the backup either: an older value, policy, reference set or enrolment is one
//! that somebody put an end to. It is gone until it is put anew, which a log, that holds no values, cannot do.

use super::administrator::Role;
use super::load::StoredRevocation;
use crate::audit::record::{AdminAct, Event, Record};
use crate::evidence::tpm2::{self, Recorded};
use crate::store::marks::{self, HIGHEST_TIME};
use crate::time::WallTime;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What happened since a backup; grows with the number of things that were changed, not of records.
#[derive(Default)]
pub struct Since {
    /// The commit number at which the backup stands.
    commit: u64,
    /// Changes whose end the log has not told yet.
    open: BTreeMap<u64, AdminAct>,
    pub(super) secrets: BTreeMap<String, SecretSince>,
    pub(super) policy: bool,
    pub(super) sets: BTreeSet<String>,
    pub(super) nodes: BTreeSet<String>,
    /// Attestation keys that were enrolled, replaced or removed, by record name.
    pub(super) attestation_keys: BTreeSet<String>,
    /// Counters of TPMs, as the claims of verified quotes state them.
    pub(super) counters: Recorded,
    /// By key: the least that it had since; none: it was removed.
    pub(super) administrators: BTreeMap<String, Option<AdministratorSince>>,
    /// By name: every role that a person was given since. Who was there together is not asked: to wait once more is safe.
    pub(super) persons: BTreeMap<String, BTreeSet<Role>>,
    /// The roles for which two persons were demanded since; none where nobody switched it on.
    pub(super) two_persons: Option<BTreeSet<Role>>,
    /// How often the store's own keys were changed, by verb: a backup has those of then.
    pub(super) keys: BTreeMap<String, u64>,
    /// By name in the store: what stands in the end; none: it was lifted again.
    pub(super) revocations: BTreeMap<String, Option<StoredRevocation>>,
    pub(super) marks: BTreeMap<String, MarkSince>,
    /// Verbs that changed something and are not known here.
    pub(super) unknown: BTreeMap<String, u64>,
    /// Changes since.
    changes: u64,
}

/// What became of a secret.
#[derive(Default)]
pub(super) struct SecretSince {
    /// The newest version that was put.
    pub(super) put: u64,
    pub(super) destroyed: BTreeSet<u64>,
    pub(super) disabled: Option<bool>,
    /// Its terms as they were last set.
    pub(super) terms: Option<Value>,
}

/// What became of an administrator.
pub(super) struct AdministratorSince {
    pub(super) roles: BTreeSet<Role>,
    pub(super) not_after: WallTime,
}

/// What became of a mark.
#[derive(Default)]
pub(super) struct MarkSince {
    /// What an administrator set it to last, if so.
    pub(super) set: Option<Vec<u8>>,
    /// What it was raised to since then.
    pub(super) raised: Option<Vec<u8>>,
}

impl Since {
    /// Nothing yet, since a backup at this commit number.
    pub fn new(commit: u64) -> Self {
        Since { commit, ..Since::default() }
    }

    /// How many changes there were.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Takes the next record.
    pub fn take(&mut self, record: &Record) {
        match &record.event {
            Event::AdminIntent { act, commit: Some(commit) } if *commit > self.commit => {
                self.open.insert(*commit, act.clone());
            }
            Event::Applied { commit } => {
                if let Some(act) = self.open.remove(commit) {
                    self.apply(&act);
                }
            }
            Event::NotApplied { commit } => drop(self.open.remove(commit)),
            Event::Mark { name, value, lowered } => {
                let Ok(value) = hex::decode(value) else { return };
                let mark = self.marks.entry(name.clone()).or_default();
                if *lowered { mark.set(value) } else { mark.raise(value) }
            }
            Event::Released { case, .. } | Event::Renewed { case, .. } | Event::Denied { case, .. } => {
                if let Some(claims) = case.claims.get(tpm2::FORMAT) {
                    self.counters.take(claims, record.time);
                }
                // A clock that was trusted said it; other records' times were perhaps never trusted.
                if !matches!(record.event, Event::Denied { .. }) {
                    self.raise_time(record.time);
                }
            }
            _ => {}
        }
    }

    /// The log has ended: what it left open may have been applied, and to narrow once more than needed is safe.
    pub fn finish(&mut self) {
        for act in std::mem::take(&mut self.open).into_values() {
            self.apply(&act);
        }
    }

    fn apply(&mut self, act: &AdminAct) {
        self.changes = self.changes.saturating_add(1);
        let (verb, details) = approved(act);
        self.apply_as(verb, &act.target, details);
    }

    fn apply_as(&mut self, verb: &str, target: &str, details: &Value) {
        match verb {
            "secret put" | "secret set-disabled" | "secret destroy" | "secret configure" => {
                self.secrets.entry(target.to_owned()).or_default().apply(verb, details);
            }
            "policy put" => self.policy = true,
            "reference put" | "reference import" => self.sets.extend(texts(details, "sets")),
            "reference remove" => drop(self.sets.insert(target.to_owned())),
            "node enrol" => drop(self.nodes.insert(target.to_owned())),
            "node enrol proof" => {
                self.attestation_keys.extend(text(details, "ak_name").map(str::to_owned));
                self.attestation_keys.extend(texts(details, "replaces_ak_names"));
            }
            "node remove" => {
                self.attestation_keys.extend(texts(details, "ak_names"));
                // A key of its TPM alone, or the node with all that it has.
                if details.get("key_sha256").is_some() || details.get("ak_names").is_none() {
                    self.nodes.insert(target.to_owned());
                }
            }
            "administrator put" => self.put_administrator(target, details),
            "administrator remove" => {
                let gone = texts(details, "keys_sha256").map(|key| (key, None));
                self.administrators.extend(gone.collect::<Vec<_>>());
            }
            "revoke" => self.revocation(details, true),
            "unrevoke" => self.revocation(details, false),
            "clock accept" => {
                if let Some(time) = text(details, "time").and_then(WallTime::parse) {
                    let mark = self.marks.entry(HIGHEST_TIME.to_owned()).or_default();
                    mark.set(time.0.to_be_bytes().to_vec());
                }
            }
            // Off is never taken from the log: less would wait than when the backup was made.
            "two-persons set" if details.get("on").and_then(Value::as_bool) != Some(false) => {
                let on = self.two_persons.get_or_insert_default();
                on.extend(texts(details, "roles").filter_map(|role| Role::parse(&role)));
            }
            "two-persons set" => {}
            // No proposal outlives a restore, so whatever became of one is nothing that a backup holds.
            "pending approve" | "pending reject" | "pending withdraw" => {}
            verb if verb.starts_with(PROPOSE) => {}
            // They lower marks, or raise them, which records of their own say.
            "crl accept" | "bundle accept" | "collateral accept" | "collateral refresh"
            | "collateral import" => {}
            "key rotate" | "key rewrap" | "key rekey" | "key confirm" => count(&mut self.keys, verb),
            // They change nothing that a backup holds.
            "node enrol tpm" | "latch clear" | "lease revoke" | "restore" | "restore accept" => {}
            verb => count(&mut self.unknown, verb),
        }
    }

    /// What a key was given last: of that, a restore keeps what the backup has too.
    fn put_administrator(&mut self, name: &str, details: &Value) {
        let Some(key) = text(details, "key_sha256") else { return };
        let roles = texts(details, "roles").filter_map(|role| Role::parse(&role)).collect::<BTreeSet<_>>();
        self.persons.entry(name.to_owned()).or_default().extend(&roles);
        let not_after = text(details, "not_after").and_then(WallTime::parse).unwrap_or(WallTime(0));
        let put = AdministratorSince { roles, not_after };
        self.administrators.insert(key.to_owned(), Some(put));
    }

    fn revocation(&mut self, details: &Value, stands: bool) {
        let Ok(revocation) = serde_json::from_value::<StoredRevocation>(details.clone()) else { return };
        let name = revocation.name();
        self.revocations.insert(name, stands.then_some(revocation));
    }

    fn raise_time(&mut self, time: WallTime) {
        self.marks.entry(HIGHEST_TIME.to_owned()).or_default().raise(time.0.to_be_bytes().to_vec());
    }
}

impl SecretSince {
    fn apply(&mut self, verb: &str, details: &Value) {
        match verb {
            "secret put" => {
                let version = details.get("version").and_then(Value::as_u64).unwrap_or(u64::MAX);
                self.put = self.put.max(version);
                let forgotten = details.get("forgotten_version").and_then(Value::as_u64);
                self.destroyed.extend(forgotten);
            }
            "secret set-disabled" => {
                self.disabled = Some(details.get("disabled").and_then(Value::as_bool).unwrap_or(true));
            }
            "secret destroy" => {
                let versions = details.get("destroyed_versions").and_then(Value::as_array);
                self.destroyed.extend(versions.into_iter().flatten().filter_map(Value::as_u64));
            }
            _ => self.terms = Some(details.clone()),
        }
    }
}

impl MarkSince {
    fn set(&mut self, value: Vec<u8>) {
        *self = MarkSince { set: Some(value), raised: None };
    }

    fn raise(&mut self, value: Vec<u8>) {
        let higher = self.raised.as_ref().is_none_or(|before| marks::is_higher(&value, before));
        if higher {
            self.raised = Some(value);
        }
    }
}

/// The verb that was done, and its details: an approval says them of what it approved.
fn approved(act: &AdminAct) -> (&str, &Value) {
    match (act.verb.as_str(), text(&act.details, "verb")) {
        ("pending approve", Some(verb)) => (verb, act.details.get("details").unwrap_or(&Value::Null)),
        (verb, _) => (verb, &act.details),
    }
}

fn count(verbs: &mut BTreeMap<String, u64>, verb: &str) {
    let count = verbs.entry(verb.to_owned()).or_default();
    *count = count.saturating_add(1);
}

fn text<'a>(details: &'a Value, name: &str) -> Option<&'a str> {
    details.get(name).and_then(Value::as_str)
}

fn texts(details: &Value, name: &str) -> impl Iterator<Item = String> {
    let all = details.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    all.into_iter().filter_map(|one| one.as_str().map(str::to_owned))
}

/// Before the words of a verb that waits for a second person.
const PROPOSE: &str = "propose ";

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
