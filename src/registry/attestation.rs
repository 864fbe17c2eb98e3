//! Enrolled attestation keys: kept, loaded into the verifiers, and the counters seen of their TPMs kept beside them.
//!
//! *Takes* the vault's records. *Gives* [`StoredAk`], and the trust that quotes are verified against. *Denies* nothing itself:
//! where a key or its counters cannot be read, quotes are `NodesUnavailable`. *Source*: `evidence.md` §3 ("AK enrolment");
//! `durability.md`, "What only narrows"; RFC 9334 §8.2.

use super::Registry;
use crate::evidence::hardware::Held;
use crate::evidence::tpm2::enroll::VouchedBy;
use crate::evidence::tpm2::{self, Counters, EnrolledAk, Seen, SeenOf, Tpm2Trust};
use crate::limits;
use crate::store::vault::Kind;
use crate::store::{StoreError, Vault, marks};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A record of an enrolled key, stored under its Name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredAk {
    /// The key, its node, its TPM's endorsement key, since when and until when.
    pub ak: EnrolledAk,
    /// The administrator who enrolled it.
    pub enrolled_by: String,
    /// Who said that its endorsement key is a TPM's.
    pub vouched_by: StoredVouching,
}

/// Who said that an endorsement key is a TPM's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum StoredVouching {
    /// The TPM's manufacturer, by a certificate.
    Manufacturer {
        /// Such as `id:494E5443`, as the certificate says.
        manufacturer: String,
        /// The TPM's model.
        model: String,
        /// Its version.
        version: String,
        /// SHA-256 of the root's certificate, DER, hex.
        root_sha256: String,
    },
    /// The administrator, who approved the hash of the key.
    Administrator,
}

impl StoredVouching {
    /// What is kept of it.
    pub fn of(vouched_by: &VouchedBy) -> Self {
        match vouched_by {
            VouchedBy::Administrator => StoredVouching::Administrator,
            VouchedBy::Manufacturer(certificate) => StoredVouching::Manufacturer {
                manufacturer: certificate.manufacturer.clone(),
                model: certificate.model.clone(),
                version: certificate.version.clone(),
                root_sha256: hex::encode(certificate.root_sha256),
            },
        }
    }
}

impl std::fmt::Display for StoredVouching {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoredVouching::Administrator => formatter.write_str("approved by an administrator"),
            StoredVouching::Manufacturer { manufacturer, model, version, .. } => {
                write!(formatter, "certified by {manufacturer}, model {model}, version {version}")
            }
        }
    }
}

/// The name of a key's record.
pub fn record_name(ak: &EnrolledAk) -> String {
    hex::encode(ak.key.name().as_bytes())
}

impl Registry {
    /// The enrolled attestation keys; none where they could not be read.
    pub fn attestation_keys(&self) -> Arc<Option<Vec<StoredAk>>> {
        self.attestation_keys.load_full()
    }

    pub(super) async fn load_attestation_keys(&self) {
        let verifiers = &self.broker.verifiers;
        let unknown = |why: &str| Held::Unknown(why.to_owned());
        let (stored, trust) = match self.read_all::<StoredAk>(Kind::AttestationKey, limits::TPM2_KEYS).await {
            None => (None, unknown("the enrolled attestation keys cannot be read")),
            Some((stored, epoch)) => {
                let trust = Tpm2Trust::new(stored.iter().map(|one| one.ak.clone()), epoch);
                match self.load_counters(verifiers.seen(), &stored).await {
                    Ok(()) => (Some(stored), Held::Known(trust)),
                    Err(error) => {
                        tracing::error!(%error, "the counters seen of TPMs cannot be read");
                        (Some(stored), unknown("the counters last seen of TPMs cannot be read"))
                    }
                }
            }
        };
        self.attestation_keys.store(Arc::new(stored));
        let taken = self.broker.offer.formats.iter().any(|format| format == tpm2::FORMAT);
        verifiers.set_tpm2(if taken { trust } else { Held::NotTaken });
    }

    /// What the store has of each enrolment that is new to this process.
    async fn load_counters(&self, seen: &Seen, stored: &[StoredAk]) -> Result<(), StoreError> {
        for StoredAk { ak, .. } in stored.iter().filter(|one| !seen.is_loaded(&one.ak)) {
            let kept = match marks::read(&self.vault, &ak.mark()).await? {
                None => Counters::default(),
                Some(bytes) => Counters::from_bytes(&bytes)
                    .ok_or_else(|| StoreError::Damaged("the counters seen of a TPM".to_owned()))?,
            };
            seen.load(ak, kept);
        }
        Ok(())
    }
}

/// Writes what was seen of TPMs and is not in the store yet. While it cannot be, the verifiers take no quote: the audit log has
/// it, but not for ever in view of a start.
pub async fn keep_counters(seen: &Seen, vault: &Vault) {
    let owed = seen.not_kept(COUNTERS_A_TURN);
    let kept = futures_util::stream::iter(owed)
        .map(|one| async move {
            let raised = marks::raise(vault, &one.mark(), &one.counters.to_bytes()).await;
            (one, raised)
        })
        .buffer_unordered(limits::TPM2_COUNTERS_AT_ONCE)
        .all(|(one, raised): (SeenOf, Result<(), StoreError>)| async move {
            match raised {
                Ok(()) => seen.note_kept(&one),
                Err(ref error) => tracing::error!(%error, "counters that were seen of a TPM are not kept"),
            }
            raised.is_ok()
        })
        .await;
    seen.set_kept(kept);
}

/// Counters that one turn keeps: some seconds' writing.
const COUNTERS_A_TURN: usize = 4096;
