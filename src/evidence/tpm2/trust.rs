//! The attestation keys that count: enrolled for a node, until then.
//!
//! *Takes* enrolments. *Gives* [`Tpm2Trust`], the snapshot of them that quotes are verified against. *Denies* nothing itself;
//! `verify` does. *Source*: RFC 9334 §8.2 (endorsements); TCG TPM 2.0 Library part 1 §36 (clock and counters).

use super::attest::ClockInfo;
use super::key::AttestationKey;
use super::public::AkName;
use crate::evidence::outcome::Ends;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One enrolment: this key is a TPM's, and stands for this node until then. Made by [`super::enroll`], kept by the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolledAk {
    /// The node's enrolled name: a `process` document beside the quote must be by a key of the same name.
    pub node: String,
    /// The key, with everything that its Name covers. Its Name is computed from it.
    pub key: AttestationKey,
    /// SHA-256 over the SubjectPublicKeyInfo of the endorsement key of its TPM.
    #[serde(with = "hex_32")]
    pub ek_sha256: [u8; 32],
    /// Counters below which none counts.
    pub counters: Counters,
    /// When it was enrolled: counters seen of the same key under an earlier enrolment count no more, as a TPM that was cleared
    /// begins again, and its administrator said so by enrolling it again.
    pub enrolled_at: WallTime,
    /// Its end, exclusive.
    pub not_after: WallTime,
}

/// How often a TPM was reset, and restarted since: they only rise, so that a quote from before the last one is known.
///
/// They change at a reboot and a resume only. The owner keeps the greatest that it saw of each key, durably.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, std::hash::Hash, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// TPM resets since it was last cleared.
    pub reset: u32,
    /// Restarts and resumes since the last reset.
    pub restart: u32,
}

/// Every enrolled key, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Tpm2Trust {
    by_name: BTreeMap<AkName, EnrolledAk>,
    epoch: u64,
}

impl EnrolledAk {
    /// What limits a verdict that rests on it.
    pub fn ends(&self) -> Ends {
        Ends::of("enrolment of the attestation key", self.not_after)
    }
}

impl Counters {
    /// Those that a quote states.
    pub fn of(clock: &ClockInfo) -> Self {
        Counters { reset: clock.reset_count, restart: clock.restart_count }
    }
}

impl Tpm2Trust {
    /// The snapshot of that epoch. Of two enrolments of one key none counts, as it could not be said which.
    pub fn new(enrolled: impl IntoIterator<Item = EnrolledAk>, epoch: u64) -> Self {
        let mut by_name = BTreeMap::new();
        let mut ambiguous = Vec::new();
        for ak in enrolled {
            let name = ak.key.name();
            if by_name.insert(name.clone(), ak).is_some() {
                ambiguous.push(name);
            }
        }
        ambiguous.iter().for_each(|name| drop(by_name.remove(name)));
        Tpm2Trust { by_name, epoch }
    }

    /// The enrolment of the key with this Name.
    pub fn by_name(&self, name: &AkName) -> Option<&EnrolledAk> {
        self.by_name.get(name)
    }

    /// Which snapshot this is; a decision records it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Every enrolment, by Name.
    pub fn iter(&self) -> impl Iterator<Item = (&AkName, &EnrolledAk)> {
        self.by_name.iter()
    }
}

mod hex_32 {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let bytes = hex::decode(String::deserialize(from)?).map_err(serde::de::Error::custom)?;
        bytes.try_into().map_err(|_| serde::de::Error::custom("not 64 hex digits"))
    }
}
