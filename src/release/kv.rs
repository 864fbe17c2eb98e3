//! The engine `kv`: versioned static secrets.
//!
//! *Takes* paths below `kv/`, and fields. *Gives* metadata to administrators, and to the release stage alone a value.
//! *Denies* by [`KvError`], which the policy stage turns into `SecretUnknown`, `SecretDisabled` or `SecretDamaged`.
//! *Source*: `durability.md` "Records at rest"; `protocol.md` `SecretValue`.
//!
//! A secret is two kinds of record. Its metadata name the current version and the SHA-256 of each version's sealed value,
//! and are written in one transaction with it, so neither can be put back alone. What puts both back is not caught here;
//! the audit log names the versions that were put.
//!
//! Every mutation is *prepared*: it gives a transaction that rests on exactly what was read, and what the audit log is to
//! say; the caller records the intent and commits. A destroyed value is gone from the store, not from the disk's old
//! blocks: there it stays sealed until its term's root key is dropped.

use crate::limits;
use crate::request::SecretPath;
use crate::store::{Entry, Kind, Opened, StoreError, Transaction, Vault};
use crate::time::WallTime;
use arc_swap::ArcSwap;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

mod fields;
mod metadata;
mod rewrap;
mod terms;

pub use fields::SecretFields;
pub use metadata::{SecretMetadata, VersionState};
pub use terms::Terms;

/// Which versions to destroy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// That one.
    One(u64),
    /// All there are.
    All,
}

/// A change, ready to commit.
#[must_use]
pub struct Prepared {
    /// To be committed whole; it conflicts where the secret has changed meanwhile.
    pub transaction: Transaction,
    /// What the audit log says of it; never a value.
    pub details: serde_json::Value,
}

/// A page of secrets, in an order that says nothing of their paths.
pub struct Listing {
    /// Those whose paths begin as asked.
    pub secrets: Vec<SecretMetadata>,
    /// Where the next page begins; none after the last. A page may be empty and have a next.
    pub next: Option<Vec<u8>>,
}

/// Why the engine did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The path does not begin with `kv/`.
    #[error("the path does not begin with `kv/`")]
    NotOfThisEngine,
    /// There is no such secret.
    #[error("there is no such secret")]
    SecretUnknown,
    /// There already is such a secret.
    #[error("there already is such a secret")]
    SecretExists,
    /// The secret has no such version, or it was destroyed.
    #[error("the secret has no such version, or it was destroyed")]
    VersionUnknown,
    /// The secret is disabled.
    #[error("the secret is disabled")]
    Disabled,
    /// A field's name is not `[a-z0-9_.-]{1,64}`.
    #[error("a field's name is not 1 to 64 characters of [a-z0-9_.-]")]
    FieldName,
    /// A secret without fields.
    #[error("a secret has at least one field")]
    FieldsMissing,
    /// The encoded secret is over 24 KiB.
    #[error("the secret is over 24 KiB")]
    TooLarge,
    /// A label's name or value, or their number, is out of bounds.
    #[error("labels are at most 32, names 1 to 64 characters of [a-z0-9_.-], values up to 256 bytes")]
    Labels,
    /// Not 1 ≤ default ≤ maximum ≤ 900 seconds.
    #[error("a lease is 1 second or more by default, and at most its maximum, which is at most 900 seconds")]
    Lease,
    /// The store gave no answer, or a damaged one.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The engine.
pub struct Kv {
    vault: Arc<Vault>,
    /// Sealed in the current term, as whatever it stands in for is or soon will be.
    stand_in: ArcSwap<Entry>,
}

impl Kv {
    /// The engine on that vault.
    pub fn new(vault: Arc<Vault>) -> Result<Self, StoreError> {
        let stand_in = ArcSwap::from_pointee(stand_in(&vault)?);
        Ok(Kv { vault, stand_in })
    }

    /// What is known of a secret. For an unknown path a stand-in of the usual size is opened, checked and parsed by the
    /// same code and then dropped, so that the answer takes as long.
    pub async fn metadata(&self, path: &SecretPath) -> Result<Option<SecretMetadata>, StoreError> {
        let stand_in = self.stand_in()?;
        let stand_in = (ENGINE, stand_in.as_ref());
        let read = self.vault.read_or_stand_in(Kind::SecretMetadata, path.as_str(), stand_in);
        let (opened, there) = read.await?;
        let metadata = std::hint::black_box(SecretMetadata::decode(&opened)?);
        Ok(there.then_some(metadata))
    }

    /// The value of a version, as long as the secret's epoch is `epoch`: the only way to one, and for the release stage alone.
    /// **Denies** `SecretUnknown`, `Disabled`, `VersionUnknown` (another epoch, too), `Store(Damaged)`.
    pub(in crate::release) async fn open(
        &self,
        path: &SecretPath,
        version: u64,
        epoch: u64,
    ) -> Result<SecretFields, KvError> {
        let (mut metadata, mut value) = self.version(path, version).await?;
        if !value.as_ref().is_some_and(|value| metadata.vouches_for(version, value.sealed())) {
            // Destroyed or sealed anew between the two reads; it is damage where the metadata still say otherwise.
            (metadata, value) = self.version(path, version).await?;
        }
        if metadata.epoch != epoch {
            return Err(KvError::VersionUnknown);
        }
        let value = value.ok_or_else(|| damaged("a version's value is missing"))?;
        if !metadata.vouches_for(version, value.sealed()) {
            return Err(damaged("a value is not the one that its metadata name").into());
        }
        SecretFields::decode(&value.body).ok_or_else(|| damaged("a value has no known shape").into())
    }

    /// Prepares a new version, and the secret where it is new. Past 64 versions the oldest is destroyed and forgotten.
    pub async fn put(
        &self,
        path: &SecretPath,
        fields: &SecretFields,
        now: WallTime,
    ) -> Result<Prepared, KvError> {
        self.put_on(path, fields, now, |_| Ok(())).await
    }

    /// Prepares other labels, in place of all there are.
    pub async fn set_labels(
        &self,
        path: &SecretPath,
        labels: BTreeMap<String, String>,
    ) -> Result<Prepared, KvError> {
        terms::check_labels(&labels)?;
        let details = json!({ "labels": labels });
        self.change(path, details, |metadata| metadata.labels = labels).await
    }

    /// Prepares other leases, seconds.
    pub async fn set_lease(
        &self,
        path: &SecretPath,
        default_seconds: u32,
        maximum_seconds: u32,
    ) -> Result<Prepared, KvError> {
        terms::check_lease(default_seconds, maximum_seconds)?;
        let details =
            json!({ "lease_default_seconds": default_seconds, "lease_maximum_seconds": maximum_seconds });
        let leases = |metadata: &mut SecretMetadata| {
            metadata.lease_default_seconds = default_seconds;
            metadata.lease_maximum_seconds = maximum_seconds;
        };
        self.change(path, details, leases).await
    }

    /// Prepares whether the TLS exporter is demanded.
    pub async fn set_exporter_demanded(
        &self,
        path: &SecretPath,
        demanded: bool,
    ) -> Result<Prepared, KvError> {
        let details = json!({ "exporter_demanded": demanded });
        self.change(path, details, |metadata| metadata.exporter_demanded = demanded).await
    }

    /// Prepares that it is released no more (true), or again.
    pub async fn set_disabled(&self, path: &SecretPath, disabled: bool) -> Result<Prepared, KvError> {
        let details = json!({ "disabled": disabled });
        self.change(path, details, |metadata| metadata.disabled = disabled).await
    }

    /// Prepares the end of values; what is known of them stays. An older version never takes the place of a destroyed
    /// newest one.
    pub async fn destroy(
        &self,
        path: &SecretPath,
        versions: Versions,
        now: WallTime,
    ) -> Result<Prepared, KvError> {
        let (previous, mut metadata) = self.current(path).await?;
        let mut transaction = Transaction::default();
        let mut destroyed = Vec::new();
        for (version, state) in &mut metadata.versions {
            let meant = versions == Versions::All || versions == Versions::One(*version);
            if meant && state.destroyed.is_none() {
                state.destroyed = Some(now);
                transaction.deletes.push(self.vault.key_of(Kind::SecretValue, &value_name(path, *version)));
                destroyed.push(*version);
            }
        }
        if destroyed.is_empty() {
            return Err(KvError::VersionUnknown);
        }
        self.finish(transaction, Some(&previous), metadata, json!({ "destroyed_versions": destroyed }))
    }

    /// Prepares that version `version` was put and is lost: what is older is not released in its place, and its number is not
    /// given again.
    pub async fn supersede(
        &self,
        path: &SecretPath,
        version: u64,
        now: WallTime,
    ) -> Result<Prepared, KvError> {
        let (previous, mut metadata) = self.current(path).await?;
        if version <= metadata.current {
            return Err(KvError::VersionUnknown);
        }
        metadata.current = version;
        let lost = VersionState { created: now, destroyed: Some(now), digest: String::new() };
        metadata.versions.insert(version, lost);
        let mut transaction = Transaction::default();
        if let Some(oldest) = metadata.drop_oldest() {
            transaction.deletes.push(self.vault.key_of(Kind::SecretValue, &value_name(path, oldest)));
        }
        self.finish(transaction, Some(&previous), metadata, json!({ "lost_version": version }))
    }

    /// A page of the secrets whose paths begin with `prefix`, past the place `after`.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Listing, StoreError> {
        let limit = limit.clamp(1, limits::STORE_PAGE);
        let (mut secrets, mut next, mut looked_at) = (Vec::new(), after.map(<[u8]>::to_vec), 0_usize);
        loop {
            let wanted = limit.saturating_sub(secrets.len());
            let page = self.vault.list(Kind::SecretMetadata, next.as_deref(), wanted).await?;
            looked_at = looked_at.saturating_add(page.records.len());
            for opened in page.records.iter().filter(|opened| opened.name.starts_with(prefix)) {
                secrets.push(SecretMetadata::decode(opened)?);
            }
            next = page.next;
            if next.is_none() || secrets.len() >= limit || looked_at >= limits::SECRETS_LISTED {
                return Ok(Listing { secrets, next });
            }
        }
    }

    /// A new version, on metadata that `adjust` has seen: they are one change.
    async fn put_on(
        &self,
        path: &SecretPath,
        fields: &SecretFields,
        now: WallTime,
        adjust: impl FnOnce(&mut SecretMetadata) -> Result<(), KvError>,
    ) -> Result<Prepared, KvError> {
        if path.engine() != ENGINE || path.as_str() == ENGINE {
            return Err(KvError::NotOfThisEngine);
        }
        let previous = self.vault.read(Kind::SecretMetadata, path.as_str()).await?;
        let mut metadata =
            previous.as_ref().map_or_else(|| Ok(SecretMetadata::new(path)), SecretMetadata::decode)?;
        adjust(&mut metadata)?;
        let version = metadata.current.checked_add(1).ok_or(KvError::VersionUnknown)?;
        let mut transaction = Transaction::default();
        let name = value_name(path, version);
        let value = self.vault.put(&mut transaction, Kind::SecretValue, &name, None, &fields.encode())?;
        let digest = sha256(&value.value);
        let mut details = json!({ "version": version, "value_sha256": digest, "fields": fields.names() });
        metadata.current = version;
        metadata.versions.insert(version, VersionState { created: now, destroyed: None, digest });
        if let Some(oldest) = metadata.drop_oldest() {
            transaction.deletes.push(self.vault.key_of(Kind::SecretValue, &value_name(path, oldest)));
            note(&mut details, "forgotten_version", json!(oldest));
        }
        self.finish(transaction, previous.as_ref(), metadata, details)
    }

    fn stand_in(&self) -> Result<Arc<Entry>, StoreError> {
        let present = self.stand_in.load_full();
        if self.vault.is_current(&present) {
            return Ok(present);
        }
        let next = Arc::new(stand_in(&self.vault)?);
        self.stand_in.store(next.clone());
        Ok(next)
    }

    async fn version(
        &self,
        path: &SecretPath,
        version: u64,
    ) -> Result<(SecretMetadata, Option<Opened>), KvError> {
        let (_, metadata) = self.current(path).await?;
        if metadata.disabled {
            return Err(KvError::Disabled);
        }
        let state = metadata.versions.get(&version).ok_or(KvError::VersionUnknown)?;
        if state.destroyed.is_some() {
            return Err(KvError::VersionUnknown);
        }
        let value = self.vault.read(Kind::SecretValue, &value_name(path, version)).await?;
        Ok((metadata, value))
    }

    async fn current(&self, path: &SecretPath) -> Result<(Opened, SecretMetadata), KvError> {
        let opened = self.vault.read(Kind::SecretMetadata, path.as_str()).await?;
        let opened = opened.ok_or(KvError::SecretUnknown)?;
        let metadata = SecretMetadata::decode(&opened)?;
        Ok((opened, metadata))
    }

    async fn change(
        &self,
        path: &SecretPath,
        details: serde_json::Value,
        change: impl FnOnce(&mut SecretMetadata),
    ) -> Result<Prepared, KvError> {
        let (previous, mut metadata) = self.current(path).await?;
        change(&mut metadata);
        self.finish(Transaction::default(), Some(&previous), metadata, details)
    }

    fn finish(
        &self,
        mut transaction: Transaction,
        previous: Option<&Opened>,
        mut metadata: SecretMetadata,
        mut details: serde_json::Value,
    ) -> Result<Prepared, KvError> {
        metadata.epoch = metadata.epoch.saturating_add(1);
        note(&mut details, "secret_epoch", json!(metadata.epoch));
        let body = metadata.encode()?;
        self.vault.put(&mut transaction, Kind::SecretMetadata, metadata.path.as_str(), previous, &body)?;
        Ok(Prepared { transaction, details })
    }
}

fn stand_in(vault: &Vault) -> Result<Entry, StoreError> {
    let body = SecretMetadata::stand_in()?.encode()?;
    vault.seal(Kind::SecretMetadata, ENGINE, 1, &body)
}

/// `@` is in no path, so no two names meet.
fn value_name(path: &SecretPath, version: u64) -> String {
    format!("{path}@{version}")
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

fn note(details: &mut serde_json::Value, name: &str, value: serde_json::Value) {
    if let Some(object) = details.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

/// The first segment of its paths; alone it is no secret's path, and so names the stand-in.
const ENGINE: &str = "kv";

#[cfg(test)]
mod tests;
