//! The store's keys while it serves: a new term, everything sealed anew in it, another key source.
//!
//! *Takes* an act, under the administrators' turn. *Gives* the change, audited like every other; a rewrap goes on in the
//! background, after a restart too. *Denies* by [`ChangeError`]; a term is dropped only after a whole pass met no record of it.
//! *Source*: `durability.md` "Records at rest".
//!
//! Why a pass proves it: the vault commits nothing that is sealed in another term than the current one, so behind the place
//! where a pass is, none can appear again.

use crate::audit::record::AdminAct;
use crate::limits;
use crate::registry::dealing::Dealing;
use crate::registry::{Change, ChangeError, Changed, Registry};
use crate::release::kv::Kv;
use crate::store::keysource::{Key, KeySource, KeySourceError, Lock};
use crate::store::{Entry, Kind, NextKeyring, StoreError, Transaction, Vault};
use crate::time::Now;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;

/// Where the next key is to come from.
#[derive(Clone)]
pub enum NextSource {
    /// From a source that gives one.
    Source(Arc<dyn KeySource>),
    /// From shares that are dealt in the act itself.
    Shares,
}

/// The keys' doings.
pub struct Keys {
    registry: Arc<Registry>,
    kv: Arc<Kv>,
    /// The administrators' turn: a rewrap takes it for each commit, so that no change meets a record that moved.
    turn: Arc<Mutex<()>>,
    work: std::sync::Mutex<Work>,
    dealing: Dealing,
}

/// What a rewrap is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Whether one is under way in this process.
    pub running: bool,
    /// Records that it sealed anew.
    pub sealed: u64,
    /// Why records were left as they are; they keep their term from being dropped.
    pub stuck: Vec<String>,
}

/// The state record of a rewrap that has not ended.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    administrator: String,
    key_sha256: String,
}

impl Keys {
    /// Over that registry and engine, taking `turn` with every other administrators' act.
    pub fn new(registry: Arc<Registry>, kv: Arc<Kv>, turn: Arc<Mutex<()>>) -> Self {
        Keys { registry, kv, turn, work: std::sync::Mutex::default(), dealing: Dealing::default() }
    }

    /// Starts a term. Held: the administrators' turn. Gives its number too.
    pub async fn rotate(&self, act: AdminAct, now: Now) -> Result<(Changed, u32), ChangeError> {
        let (transaction, next) = self.vault().prepare_keyring(|keyring| keyring.next_term()).await?;
        let changed = self.registry.change_keyring(act, transaction, next, now).await?;
        Ok((changed, self.vault().keyring().current_term()))
    }

    /// Begins to seal everything anew in the current term; it goes on by itself. Held: the administrators' turn.
    pub async fn rewrap(self: &Arc<Self>, act: AdminAct, now: Now) -> Result<Changed, ChangeError> {
        let asked = Asked { administrator: act.administrator.clone(), key_sha256: act.key_sha256.clone() };
        let body = serde_json::to_vec(&asked).map_err(|_| StoreError::TooLarge("the state of a rewrap"))?;
        let mut transaction = Transaction::default();
        let before = self.vault().read(Kind::State, REWRAP).await?;
        self.vault().put(&mut transaction, Kind::State, REWRAP, before.as_ref(), &body)?;
        let change =
            Change { act, transaction: Some(transaction), kinds: Vec::new(), ends_latches_on: Vec::new() };
        let changed = self.registry.change(change, now).await?;
        self.start();
        Ok(changed)
    }

    /// Prepares the keyring locked with another source's key: what to commit, and what is then used. Held until it is made:
    /// the administrators' turn. **Denies** `SameKey`.
    pub async fn prepare_rekey(&self, seal: (Lock, Key)) -> Result<(Transaction, NextKeyring), StoreError> {
        self.vault().prepare_keyring(|keyring| keyring.locked_by(seal)).await
    }

    /// The shares that were dealt and do not open the store yet.
    pub fn dealing(&self) -> &Dealing {
        &self.dealing
    }

    /// Goes on with a rewrap that an earlier process did not end.
    pub fn resume(self: &Arc<Self>) {
        let keys = self.clone();
        tokio::spawn(async move {
            match keys.vault().read(Kind::State, REWRAP).await {
                Ok(None) => {}
                Ok(Some(_)) => keys.start(),
                Err(error) => tracing::error!(%error, "whether a rewrap is to be resumed is not known"),
            }
        });
    }

    /// What a rewrap is at.
    pub fn work(&self) -> Work {
        self.lock_work().clone()
    }

    /// The keys as they are now.
    pub fn keyring(&self) -> Arc<crate::store::keyring::Keyring> {
        self.vault().keyring()
    }

    /// How many records are sealed in each term that the keyring has or a record names.
    pub async fn records(&self) -> Result<BTreeMap<u32, u64>, StoreError> {
        let mut counts: BTreeMap<u32, u64> =
            self.vault().keyring().terms().into_iter().map(|term| (term, 0)).collect();
        for kind in Kind::ALL {
            let mut after = None;
            loop {
                let page = self.vault().sealed(*kind, after.as_deref(), COUNT_PAGE).await?;
                for entry in &page {
                    let count = counts.entry(Vault::term_of(entry)?).or_default();
                    *count = count.saturating_add(1);
                }
                match page.into_iter().last() {
                    Some(last) => after = Some(last.key),
                    None => break,
                }
            }
        }
        Ok(counts)
    }

    fn start(self: &Arc<Self>) {
        {
            let mut work = self.lock_work();
            if work.running {
                return;
            }
            *work = Work { running: true, ..Work::default() };
        }
        tokio::spawn(run(Arc::downgrade(self)));
    }

    fn vault(&self) -> &Vault {
        self.registry.vault()
    }

    fn lock_work(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn stuck(&self, why: String) {
        tracing::error!(why, "a record cannot be sealed anew");
        let mut work = self.lock_work();
        if work.stuck.len() < STUCK_NAMED {
            work.stuck.push(why);
        }
    }

    fn sealed(&self, count: usize) {
        let mut work = self.lock_work();
        work.sealed = work.sealed.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// One batch of a kind past a place, under the turn.
    async fn step(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        seen: &mut Seen,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let _turn = self.turn.lock().await;
        let page = self.vault().sealed(kind, after, limits::REWRAP_BATCH).await?;
        let next = page.last().map(|entry| entry.key.clone());
        let old: Vec<Entry> = page.into_iter().filter(|entry| !self.vault().is_current(entry)).collect();
        seen.old = seen.old.saturating_add(old.len());
        match kind {
            Kind::SecretMetadata | Kind::SecretValue => self.seal_secrets(kind, old, seen).await?,
            _ => self.seal_facts(kind, old, seen).await?,
        }
        Ok(next)
    }

    /// Facts that nothing else vouches for: each alone, in one commit.
    async fn seal_facts(&self, kind: Kind, old: Vec<Entry>, seen: &mut Seen) -> Result<(), StoreError> {
        let mut transaction = Transaction::default();
        for entry in old {
            let place = place(kind, &entry);
            match self.vault().open_sealed(kind, entry) {
                Ok(opened) => {
                    self.vault().seal_again(&mut transaction, kind, &opened, &opened.body)?;
                }
                Err(error) => self.stuck(format!("{place}: {error}")),
            }
            // Half of what one commit may hold, as one record may be as large as the other half.
            if transaction.bytes() > limits::STORE_TRANSACTION_BYTES / 2 {
                self.commit(std::mem::take(&mut transaction), seen).await?;
            }
        }
        self.commit(transaction, seen).await
    }

    /// Secrets: metadata and values together. A value that no metadata vouch for is left, and named.
    async fn seal_secrets(&self, kind: Kind, old: Vec<Entry>, seen: &mut Seen) -> Result<(), StoreError> {
        for entry in old {
            let (place, key) = (place(kind, &entry), entry.key.clone());
            let path = match self.vault().open_sealed(kind, entry) {
                Ok(opened) => opened.name.split('@').next().unwrap_or_default().to_owned(),
                Err(error) => {
                    self.stuck(format!("{place}: {error}"));
                    continue;
                }
            };
            match self.kv.rewrap(&path).await {
                Ok(Some(transaction)) => self.commit(transaction, seen).await?,
                // Done with an earlier record of this batch, or what is left has no metadata.
                Ok(None) => {}
                Err(error @ StoreError::Damaged(_)) => self.stuck(format!("{place}: {error}")),
                Err(error) => return Err(error),
            }
            let left = self.vault().store().get(&key).await?.map(|value| Entry { key, value });
            if left.is_some_and(|left| !self.vault().is_current(&left)) && kind == Kind::SecretValue {
                self.stuck(format!("{place}: no metadata vouch for this value"));
            }
        }
        Ok(())
    }

    /// A conflict is no failure: whatever changed the record sealed it in the current term, and the next pass sees.
    async fn commit(&self, transaction: Transaction, seen: &mut Seen) -> Result<(), StoreError> {
        let count = transaction.puts.len();
        if count == 0 {
            return Ok(());
        }
        match self.vault().commit(transaction).await {
            Ok(_) => {
                self.sealed(count);
                seen.sealed = seen.sealed.saturating_add(count);
                Ok(())
            }
            Err(StoreError::Conflict) => {
                seen.conflicts = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Drops every term but the current one, which must still be the one that the pass was for.
    async fn finish(&self, term: u32) -> Result<(), ChangeError> {
        let _turn = self.turn.lock().await;
        let vault = self.vault();
        let Some(asked) = vault.read(Kind::State, REWRAP).await? else { return Ok(()) };
        let by: Asked = serde_json::from_slice(&asked.body)
            .map_err(|_| StoreError::Damaged("the state of a rewrap has no known shape".to_owned()))?;
        let dropped: Vec<u32> = vault.keyring().terms().into_iter().filter(|one| *one != term).collect();
        let only = |keyring: &crate::store::keyring::Keyring| match keyring.current_term() == term {
            true => Ok(keyring.only_current()),
            false => Err(StoreError::Conflict),
        };
        let (mut transaction, next) = vault.prepare_keyring(only).await?;
        vault.remove(&mut transaction, &asked);
        let act = AdminAct {
            administrator: by.administrator,
            key_sha256: by.key_sha256,
            verb: "key rewrap".to_owned(),
            target: format!("done: all records are sealed in term {term}"),
            details: serde_json::json!({ "term": term, "dropped_terms": dropped }),
        };
        let now = self.registry.broker().clock.untrusted();
        self.registry.change_keyring(act, transaction, next, now).await.map(drop)
    }
}

/// What a pass met.
#[derive(Default)]
struct Seen {
    old: usize,
    sealed: usize,
    conflicts: bool,
}

/// Passes until one meets nothing old. It holds nothing between its steps, so that a stop need not wait for it.
async fn run(keys: Weak<Keys>) {
    let outcome = loop {
        let Some(term) = keys.upgrade().map(|keys| keys.vault().keyring().current_term()) else { return };
        match pass(&keys, term).await {
            Pass::Gone => return,
            Pass::Clean => match keys.upgrade() {
                None => return,
                Some(keys) => match keys.finish(term).await {
                    Err(ChangeError::Store(StoreError::Conflict)) => {}
                    outcome => break outcome.map_err(|error| error.to_string()),
                },
            },
            Pass::Moved => {}
            Pass::Stuck => break Err("records are left that cannot be sealed anew".to_owned()),
            Pass::Failed(error) => break Err(error.to_string()),
        }
        if let Some(keys) = keys.upgrade() {
            keys.lock_work().stuck.clear();
        }
    };
    let Some(keys) = keys.upgrade() else { return };
    if let Err(why) = outcome {
        tracing::error!(why, "the rewrap has stopped; `admin key rewrap` goes on with it");
        keys.stuck(why);
    }
    keys.lock_work().running = false;
}

enum Pass {
    /// The broker has ended.
    Gone,
    /// No record of another term was met.
    Clean,
    /// Some were, and it went on.
    Moved,
    /// Some were, and nothing could be done.
    Stuck,
    /// The store gave no answer.
    Failed(StoreError),
}

async fn pass(keys: &Weak<Keys>, term: u32) -> Pass {
    let mut seen = Seen::default();
    for kind in Kind::ALL {
        let mut after = None;
        loop {
            {
                let Some(keys) = keys.upgrade() else { return Pass::Gone };
                if keys.vault().keyring().current_term() != term {
                    return Pass::Moved;
                }
                match keys.step(*kind, after.as_deref(), &mut seen).await {
                    Ok(Some(next)) => after = Some(next),
                    Ok(None) => break,
                    Err(error) => return Pass::Failed(error),
                }
            }
            tokio::time::sleep(Duration::from_millis(limits::REWRAP_PAUSE_MS)).await;
        }
    }
    match seen {
        Seen { old: 0, .. } => Pass::Clean,
        Seen { sealed: 0, conflicts: false, .. } => Pass::Stuck,
        _ => Pass::Moved,
    }
}

/// A key of `source` for a rekey; what it gives is asked for twice, so that a source that would not open the store tomorrow is
/// found today. Blocks.
pub fn seal_of(source: &dyn KeySource) -> Result<(Lock, Key), KeySourceError> {
    let (lock, key) = source.lock()?;
    let again = source.unlock(&lock)?;
    let same = bool::from(again.expose_secret().ct_eq(key.expose_secret()));
    if same { Ok((lock, key)) } else { Err(KeySourceError::Changing) }
}

/// A record by what is not secret of it.
fn place(kind: Kind, entry: &Entry) -> String {
    let key = hex::encode(entry.key.get(1..9).unwrap_or_default());
    format!("{kind:?} record {key}…")
}

/// The state record of a rewrap under way.
const REWRAP: &str = "rewrap";
/// How many stuck records are named.
const STUCK_NAMED: usize = 16;
/// Records of one look of a count.
const COUNT_PAGE: usize = 256;
