//! What administrators keep: nodes, reference sets, policy, administrators, revocations, secrets.
//!
//! *Takes* prepared transactions with the act that asks for them. *Gives* the change: audited before, durable, in force,
//! audited after, and only then acknowledged. *Denies* by [`ChangeError`]. *Source*: `durability.md` "sled"; SP 800-53
//! AU-12, AC-3. Each kind is loaded by itself: one that cannot be read is *unknown*, and touches no other.

pub mod administrator;
pub mod attestation;
mod change;
pub mod dealing;
pub mod keys;
mod load;
mod replay;
mod restore;

pub use load::{POLICY, StoredRevocation};

pub use administrator::{Administrator, Administrators, Role, TWO_PERSONS, TwoPersons};
pub use change::{Change, ChangeError, Changed, enrol_first, enrol_offline};
pub use replay::Since;
#[cfg(test)]
pub(crate) use restore::leave_unaccepted;
pub use restore::{Restored, conclude, narrow, not_accepted, prepare_acceptance};

use crate::broker::Broker;
use crate::store::vault::Vault;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::OnceLock;
use tokio::sync::Mutex;

/// The facts that administrators keep, over the vault, in force in the broker.
pub struct Registry {
    vault: Arc<Vault>,
    broker: Arc<Broker>,
    administrators: ArcSwap<Option<Administrators>>,
    /// The enrolled attestation keys, with the facts of their enrolment.
    attestation_keys: ArcSwap<Option<Vec<attestation::StoredAk>>>,
    /// Digests of executables that run others, which no reference set may vouch for alone.
    launchers: std::collections::BTreeSet<[u8; 32]>,
    /// Second records that could not be written yet; nothing is changed before they are.
    unsettled: Mutex<Vec<crate::audit::record::Event>>,
    /// What `key rekey` moves to, where the configuration names it.
    next_source: OnceLock<keys::NextSource>,
    /// Whether changes wait for a second person whatever is stored.
    two_persons_always: std::sync::atomic::AtomicBool,
}

impl Registry {
    /// A registry that has loaded nothing; `load` follows.
    pub fn new(
        vault: Arc<Vault>,
        broker: Arc<Broker>,
        launchers: std::collections::BTreeSet<[u8; 32]>,
    ) -> Self {
        Registry {
            vault,
            broker,
            administrators: ArcSwap::from_pointee(None),
            attestation_keys: ArcSwap::from_pointee(None),
            launchers,
            unsettled: Mutex::new(Vec::new()),
            next_source: OnceLock::new(),
            two_persons_always: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// The vault, for reading and for preparing transactions.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// Says what `key rekey` may move to; once, at the start.
    pub fn offer_next_source(&self, next: keys::NextSource) {
        // A second offer is never made; the first one stands.
        let _ = self.next_source.set(next);
    }

    /// What `key rekey` may move to.
    pub fn next_source(&self) -> Option<&keys::NextSource> {
        self.next_source.get()
    }

    /// The broker whose facts these are.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Digests of executables that run others.
    pub fn launchers(&self) -> &std::collections::BTreeSet<[u8; 32]> {
        &self.launchers
    }

    /// From now on changes wait for a second person, whatever is stored: the configuration says so.
    pub fn demand_two_persons(&self) {
        self.two_persons_always.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Whether the configuration demands it.
    pub fn two_persons_always(&self) -> bool {
        self.two_persons_always.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The administrators; none where they could not be read, and then nobody is one.
    pub fn administrators(&self) -> Arc<Option<Administrators>> {
        self.administrators.load_full()
    }
}
