//! The store's key at a start: which of the configured sources opens it.
//!
//! *Takes* the configuration. *Gives* the opened [`Vault`]. *Denies* where neither the source nor the next one opens the
//! keyring; nothing is changed then. *Source*: `deploy/keys.md`; `durability.md` "Records at rest".

use crate::cli::config::{Config, StorageSection};
use crate::cli::keyplace::KeyPlace;
use crate::cli::serve::StartError;
use crate::cli::serve::check::Checked;
use crate::store::keyring::Keyring;
use crate::store::keysource::{KeySourceError, Lock, ShareSet};
use crate::store::sled::SledStore;
use crate::store::{Store, StoreError, StoreId, Vault};
use std::path::Path;
use std::sync::Arc;

/// What a start found.
pub(super) enum Opened {
    /// A source opened it.
    Vault(Arc<Vault>),
    /// Shares of this set do, once they are given.
    Sealed(Arc<dyn Store>, ShareSet),
}

/// Opens the store and its keyring, with the source or, where that does not open it, the next one: a rekey changes which of
/// both does in one commit, so at each moment one does.
pub(super) async fn open(config: &Config) -> Result<Opened, StartError> {
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&config.storage.data)?);
    let storage = &config.storage;
    let mut first = None;
    for place in storage.key_place().iter().chain(&storage.key_source_next) {
        match open_with(store.clone(), place, &storage.data).await {
            Ok(opened) => return Ok(opened),
            Err(error @ (StoreError::KeySource(_) | StoreError::KeyringRefused)) => {
                tracing::warn!(source = place.kind(), %error, "a key source does not open the store");
                first.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(first.unwrap_or(StoreError::KeyringRefused).into())
}

/// The same beside no running broker: shares are asked for here, at the terminal or as lines of standard input.
pub(in crate::cli) async fn open_offline(config: &Config) -> Result<Arc<Vault>, StartError> {
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&config.storage.data)?);
    Ok(open_any(&config.storage, store).await?)
}

/// Opens a store's keyring, or a restored one's, with the first of the configured sources that does.
pub(in crate::cli) async fn open_any(
    storage: &StorageSection,
    store: Arc<dyn Store>,
) -> Result<Arc<Vault>, StoreError> {
    let lock = Vault::lock_of(store.as_ref()).await?;
    let mut first = None;
    for source in storage.key_sources(&lock)? {
        match Vault::open(store.clone(), source.as_ref()).await {
            Ok(vault) => return Ok(Arc::new(vault)),
            Err(error @ (StoreError::KeySource(_) | StoreError::KeyringRefused)) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or(StoreError::KeyringRefused))
}

/// Whether a key that is read from a place opens this keyring, before the store itself is opened: what is missing, or another
/// store's, changes nothing. Nobody is asked for a passphrase or a share here.
pub(super) fn try_keys(storage: &StorageSection, id: StoreId, sealed: &[u8]) -> Result<(), StoreError> {
    let lock = Keyring::lock_of(sealed)?;
    let mut first = None;
    for place in storage.places(&lock)? {
        if !matches!(place, KeyPlace::File(_) | KeyPlace::Credential(_)) {
            return Ok(());
        }
        let source = place.offline_source(&storage.data);
        match Keyring::open(id, source.as_ref(), sealed) {
            Ok(_) => return Ok(()),
            Err(error) => first.get_or_insert(error),
        };
    }
    Err(first.unwrap_or(StoreError::KeyringRefused))
}

async fn open_with(store: Arc<dyn Store>, place: &KeyPlace, data: &Path) -> Result<Opened, StoreError> {
    // Nobody is asked for a passphrase that cannot open it.
    let lock = Vault::lock_of(store.as_ref()).await?;
    if lock.name() != place.kind() {
        return Err(KeySourceError::OtherKind { wants: lock.name(), has: place.kind() }.into());
    }
    match (lock, place.source(data)) {
        (Lock::Shares(set), None) => Ok(Opened::Sealed(store, set)),
        (_, Some(source)) => {
            Vault::open(store, source.as_ref()).await.map(|vault| Opened::Vault(Arc::new(vault)))
        }
        (_, None) => Err(KeySourceError::LockMalformed.into()),
    }
}

/// What `serve --check` can say of the keys without opening the store.
pub(super) fn check(storage: &StorageSection, checked: &mut Checked) {
    for place in storage.key_place().iter().chain(&storage.key_source_next) {
        match place {
            KeyPlace::File(path) => look(path, checked),
            KeyPlace::Credential(name) => checked.warnings.push(format!(
                "credential `{name}` is the service's alone: whether it opens the store shows at the start"
            )),
            KeyPlace::Passphrase(_) => {
                checked.warnings.push("the passphrase is asked for at the start, not now".to_owned());
            }
            KeyPlace::Shares => {
                let why = "the broker starts sealed: nothing is released until enough shares are given";
                checked.warnings.push(why.to_owned());
            }
        }
    }
    match &storage.audit_key_credential {
        None => look(&storage.audit_key_file, checked),
        Some(name) => {
            checked.warnings.push(format!("credential `{name}` is the service's alone: not looked at"))
        }
    }
}

fn look(path: &Path, checked: &mut Checked) {
    if let Err(error) = std::fs::File::open(path) {
        checked.errors.push(format!("{}: {error}", path.display()));
    }
}
