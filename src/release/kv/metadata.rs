//! What is known of a secret, as it is stored: JSON inside a sealed record.
//!
//! *Takes* an opened record. *Gives* [`SecretMetadata`]. *Denies* `Damaged` where it has no known shape or another path.
//! *Source*: `protocol.md` (versions from 1); this project's own format.

use super::{ENGINE, damaged, sha256};
use crate::limits;
use crate::request::SecretPath;
use crate::store::{Opened, StoreError};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is known of a secret; no value is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretMetadata {
    /// The path.
    pub path: SecretPath,
    /// Labels, which policy reads: at most 32, names `[a-z0-9_.-]{1,64}`, values up to 256 bytes.
    pub labels: BTreeMap<String, String>,
    /// The lease where none is asked, seconds; 1 to the maximum.
    pub lease_default_seconds: u32,
    /// The longest lease, seconds; up to 900.
    pub lease_maximum_seconds: u32,
    /// Whether it is released over the TLS exporter as channel binding only.
    pub exporter_demanded: bool,
    /// Whether it is not released at present.
    pub disabled: bool,
    /// The newest version; from 1.
    pub current: u64,
    /// The versions kept and destroyed, by number; the newest 64.
    pub versions: BTreeMap<u64, VersionState>,
    /// +1 each change: what a grant rests on.
    pub epoch: u64,
}

/// What became of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionState {
    /// When it was put.
    pub created: WallTime,
    /// When it was destroyed; none where its value is still there.
    pub destroyed: Option<WallTime>,
    /// SHA-256 of the sealed value, hex.
    pub digest: String,
}

impl SecretMetadata {
    /// The version to release: the newest, unless it was destroyed.
    pub fn releasable(&self) -> Option<u64> {
        let state = self.versions.get(&self.current)?;
        state.destroyed.is_none().then_some(self.current)
    }

    /// Whether a sealed value is the one of that version.
    pub(super) fn vouches_for(&self, version: u64, sealed: &[u8]) -> bool {
        self.versions.get(&version).is_some_and(|state| state.digest == sha256(sealed))
    }

    pub(super) fn new(path: &SecretPath) -> Self {
        SecretMetadata {
            path: path.clone(),
            labels: BTreeMap::new(),
            lease_default_seconds: limits::LEASE_DEFAULT_SECONDS,
            lease_maximum_seconds: limits::LEASE_MAXIMUM_SECONDS,
            exporter_demanded: false,
            disabled: false,
            current: 0,
            versions: BTreeMap::new(),
            epoch: 0,
        }
    }

    /// What is opened in place of an unknown secret: as large as one with a few labels and versions.
    pub(super) fn stand_in() -> Result<Self, StoreError> {
        let path = SecretPath::parse(ENGINE).map_err(|_| damaged("the stand-in has no path"))?;
        let mut metadata = SecretMetadata::new(&path);
        let label = |name: &str| (name.to_owned(), "stand-in".to_owned());
        metadata.labels = ["environment", "owner"].into_iter().map(label).collect();
        let state = VersionState { created: WallTime(1), destroyed: None, digest: "0".repeat(64) };
        metadata.versions = (1..=STAND_IN_VERSIONS).map(|version| (version, state.clone())).collect();
        metadata.current = STAND_IN_VERSIONS;
        Ok(metadata)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(self).map_err(|_| damaged("metadata cannot be encoded"))
    }

    pub(super) fn decode(opened: &Opened) -> Result<Self, StoreError> {
        let metadata: SecretMetadata =
            serde_json::from_slice(&opened.body).map_err(|_| damaged("metadata have no known shape"))?;
        let whole =
            metadata.path.as_str() == opened.name && metadata.versions.contains_key(&metadata.current);
        whole.then_some(metadata).ok_or_else(|| damaged("metadata are of another secret, or incomplete"))
    }

    /// Forgets the oldest version where there are too many; its number, whose value is to go too.
    pub(super) fn drop_oldest(&mut self) -> Option<u64> {
        let over = self.versions.len() > limits::SECRET_VERSIONS;
        if over { self.versions.pop_first().map(|(version, _)| version) } else { None }
    }
}

/// Between a secret that was put once and one that is rotated daily.
const STAND_IN_VERSIONS: u64 = 3;
