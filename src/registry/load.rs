//! From the vault into force: each kind by itself, and what cannot be read is unknown, never what it was.

use crate::appraisal::reference_values::{ReferenceSet, ReferenceValues};
use crate::evidence::process::{EnrolledNode, Nodes};
use crate::limits;
use crate::policy::cedar::PolicySet;
use crate::registry::Registry;
use crate::registry::administrator::{Administrator, Administrators};
use crate::spiffe::IdPattern;
use crate::store::vault::Kind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A revocation by the broker itself, durable, beside whatever the trust domain does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum StoredRevocation {
    /// An identity, or all below one.
    Identity {
        /// Which.
        identity: IdPattern,
        /// Why, in an administrator's words.
        why: String,
    },
    /// A leaf key.
    Key {
        /// SHA-256 of the SPKI, hex.
        key_sha256: String,
        /// Why, in an administrator's words.
        why: String,
    },
}

impl StoredRevocation {
    /// The name that it is stored under.
    pub fn name(&self) -> String {
        match self {
            StoredRevocation::Identity { identity, .. } => format!("identity {identity}"),
            StoredRevocation::Key { key_sha256, .. } => format!("key {key_sha256}"),
        }
    }
}

/// The name of the one policy record.
pub const POLICY: &str = "policy";

impl Registry {
    /// Loads everything.
    pub async fn load(&self) {
        for kind in [Kind::Node, Kind::ReferenceSet, Kind::Policy, Kind::Administrator, Kind::Revocation] {
            self.load_kind(kind).await;
        }
        self.load_kind(Kind::AttestationKey).await;
    }

    /// Loads one kind; kinds that are read on demand need nothing.
    pub(super) async fn load_kind(&self, kind: Kind) {
        match kind {
            Kind::Node => self.load_nodes().await,
            Kind::ReferenceSet => self.load_reference().await,
            Kind::Policy => self.load_policy().await,
            Kind::Administrator => self.load_administrators().await,
            Kind::Revocation => self.load_revocations().await,
            Kind::AttestationKey => self.load_attestation_keys().await,
            Kind::SecretMetadata
            | Kind::SecretValue
            | Kind::Mark
            | Kind::Lease
            | Kind::Latch
            | Kind::Proposal
            | Kind::State => {}
        }
    }

    async fn load_nodes(&self) {
        let nodes = self.read_all::<EnrolledNode>(Kind::Node, limits::NODES).await;
        self.broker.verifiers.set_nodes(nodes.map(|(nodes, epoch)| Nodes::new(nodes, epoch)));
    }

    async fn load_reference(&self) {
        let read = self.read_all::<ReferenceSet>(Kind::ReferenceSet, limits::REFERENCE_SETS).await;
        let Some((sets, epoch)) = read else { return self.broker.appraiser.set(None, 0) };
        match ReferenceValues::new(sets, self.launchers.clone()) {
            Ok(values) => self.broker.appraiser.set(Some(values), epoch),
            Err(error) => {
                tracing::error!(%error, "the stored reference values cannot be used");
                self.broker.appraiser.set(None, 0);
            }
        }
    }

    /// No policy record is an empty policy, which permits nothing; one that does not compile is unknown.
    async fn load_policy(&self) {
        let (record, epoch) = match (self.vault.read(Kind::Policy, POLICY).await, self.epoch().await) {
            (Ok(record), Some(epoch)) => (record, epoch),
            _ => return self.broker.pdp.set(None, 0),
        };
        let text =
            record.map_or_else(String::new, |record| String::from_utf8_lossy(&record.body).into_owned());
        match PolicySet::compile(&text) {
            Ok(set) => self.broker.pdp.set(Some(set), epoch),
            Err(error) => {
                tracing::error!(%error, "the stored policy cannot be used");
                self.broker.pdp.set(None, 0);
            }
        }
    }

    async fn load_administrators(&self) {
        let read = self.read_all::<Administrator>(Kind::Administrator, limits::ADMINISTRATORS).await;
        self.administrators.store(Arc::new(read.map(|(list, _)| Administrators::new(list))));
    }

    /// Where revocations cannot be read, who is not revoked is not known, and the broker denies everyone.
    async fn load_revocations(&self) {
        let mut revocations = crate::transport::Revocations::default();
        let read = self.read_all::<StoredRevocation>(Kind::Revocation, limits::REVOCATIONS).await;
        self.broker.revocations_known.store(read.is_some(), Ordering::SeqCst);
        let Some((list, _)) = read else { return };
        for one in list {
            match one {
                StoredRevocation::Identity { identity, .. } => revocations.identities.push(identity),
                StoredRevocation::Key { key_sha256, .. } => {
                    let key = hex::decode(key_sha256).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                    revocations.keys.extend(key);
                }
            }
        }
        self.broker.trust.set_revocations(revocations);
    }

    pub(super) async fn read_all<T: DeserializeOwned>(
        &self,
        kind: Kind,
        maximum: usize,
    ) -> Option<(Vec<T>, u64)> {
        let epoch = self.epoch().await?;
        let records = match self.vault.all(kind, maximum).await {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(%error, ?kind, "stored facts cannot be read");
                return None;
            }
        };
        let parsed: Result<Vec<T>, _> =
            records.iter().map(|record| serde_json::from_slice(&record.body)).collect();
        match parsed {
            Ok(list) => Some((list, epoch)),
            Err(error) => {
                tracing::error!(%error, ?kind, "a stored fact cannot be parsed");
                None
            }
        }
    }

    /// The commit number: what is loaded now rests on all up to it.
    async fn epoch(&self) -> Option<u64> {
        match self.vault.store().last_commit().await {
            Ok(number) => Some(number.0),
            Err(error) => {
                tracing::error!(%error, "the store does not answer");
                None
            }
        }
    }
}
