//! Redeeming a grant: the last look at everything it rests on, then the secret, sealed.

use crate::appraisal::Appraiser;
use crate::audit::Grant;
use crate::case::{Denied, Stage};
use crate::denial::Denial;
use crate::evidence::{HARDWARE, Verifiers};
use crate::policy::{Catalog, Pdp, Permitted, SecretStanding, Unknown};
use crate::release::hold::Hold;
use crate::release::kv::{Kv, KvError};
use crate::release::lease::{Lease, Leases};
use crate::release::sealing;
use crate::request::SecretPath;
use crate::store::StoreError;
use crate::time::{Now, WallTime};
use crate::transport::trust::Trust;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use zeroize::Zeroizing;

/// A kind of secret, under the first segment of its paths.
#[async_trait::async_trait]
pub trait Engine: Catalog {
    /// The secret as an encoded `SecretValue`, zeroized when dropped. Asked only for what is granted; `Unknown::Absent` where
    /// it is not, any more, the enabled secret of that version and epoch.
    async fn open(&self, path: &SecretPath, version: u64, epoch: u64) -> Result<Zeroizing<Vec<u8>>, Unknown>;

    /// Whether a version that was released is still kept, and so may go on being used; `Unknown::Absent` where the secret is
    /// not any more the enabled one of that epoch.
    async fn stands(&self, path: &SecretPath, version: u64, epoch: u64) -> Result<bool, Unknown>;
}

/// What a grant waits behind: an act that narrows takes it whole, and so returns only after every older grant has been
/// redeemed or can be no more.
#[derive(Default)]
pub struct Barrier(RwLock<()>);

impl Barrier {
    /// Waits for redemptions under way, and holds new ones back while the guard lives.
    pub async fn narrow(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write().await
    }

    /// Waits for acts that narrow. The time to redeem at is read after this: the wait counts against the grant.
    pub async fn redeem(&self) -> Redeeming<'_> {
        Redeeming(self.0.read().await)
    }
}

/// Leave to redeem: while it lives, no act that narrows returns.
#[must_use]
pub struct Redeeming<'a>(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'a, ()>);

/// All engines, and what a grant is held against when it is redeemed.
pub struct Engines {
    /// By first path segment.
    pub engines: BTreeMap<String, Arc<dyn Engine>>,
    /// Trust, for the peer.
    pub trust: Arc<Trust>,
    /// Enrolled nodes.
    pub verifiers: Arc<Verifiers>,
    /// Reference values.
    pub appraiser: Arc<Appraiser>,
    /// Policy.
    pub pdp: Arc<Pdp>,
    /// Leases that stand.
    pub leases: Arc<Leases>,
    /// What acts that narrow take whole.
    pub barrier: Arc<Barrier>,
}

/// One secret, sealed to the attested key.
pub struct SealedSecret {
    /// Which.
    pub path: SecretPath,
    /// Which version; 0 for engines without versions.
    pub version: u64,
    /// The sealed value.
    pub sealed: sealing::Sealed,
}

/// A release: the lease, and the secrets, sealed, in the order asked.
///
/// Nobody but [`Engines::release`] makes one:
/// ```compile_fail
/// let forged = portcullis::release::Released {};
/// ```
#[must_use]
pub struct Released {
    lease_id: String,
    decision_id: String,
    not_after: WallTime,
    secrets: Vec<SealedSecret>,
    hold: Option<Hold>,
}

impl Engines {
    /// Redeems a grant, at a time read since leave was had. **Denies** as the module says; nothing partial leaves.
    pub async fn release(
        &self,
        mut grant: Grant,
        _leave: &Redeeming<'_>,
        now: Now,
    ) -> Result<Released, Denied> {
        if let Err((denial, why)) = self.redeemable(&mut grant, now) {
            return Err(grant.into_case().deny_because(denial, why));
        }
        let mut secrets = Vec::with_capacity(grant.secrets().len());
        for permitted in grant.secrets() {
            match self.seal(&grant, permitted).await {
                Ok(sealed) => secrets.push(sealed),
                Err((denial, path)) => {
                    let mut case = grant.into_case();
                    case.refused_secret = Some(path);
                    return Err(case.deny(denial));
                }
            }
        }
        let (lease_id, decision_id) = (grant.lease_id().to_owned(), grant.decision_id().to_owned());
        let not_after = grant.not_after();
        let lease = lease_of(&grant);
        let hold = if grant.evidence().request().hold() {
            Some(Hold::of(grant, self.leases.clone(), lease))
        } else {
            self.leases.enter(lease);
            None
        };
        Ok(Released { lease_id, decision_id, not_after, secrets, hold })
    }

    /// The last look before a grant counts: its time, its peer, and all that it rests on.
    pub(super) fn redeemable(&self, grant: &mut Grant, now: Now) -> Result<(), (Denial, &'static str)> {
        grant.evidence_mut().case_mut().stage = Stage::Release;
        if now.boot >= grant.expires() {
            return Err((Denial::GrantExpired, ""));
        }
        grant.evidence_mut().reprove(&self.trust, now).map_err(|denial| (denial, ""))?;
        self.superseded(grant).map_or(Ok(()), |changed| Err((Denial::GrantSuperseded, changed)))
    }

    /// What changed since the decision, if anything did: an older grant is not redeemed (catalogue row 41).
    fn superseded(&self, grant: &Grant) -> Option<&'static str> {
        let epochs = &grant.evidence().case().epochs;
        let same =
            |name: &str, current: Option<u64>| epochs.get(name).copied() == current && current.is_some();
        let inputs = [
            ("nodes", self.verifiers.nodes_epoch()),
            ("reference", self.appraiser.epoch()),
            ("policy", self.pdp.epoch()),
        ];
        let hardware = epochs.get(HARDWARE).is_some_and(|epoch| *epoch != self.verifiers.hardware_epoch());
        if hardware {
            return Some(HARDWARE);
        }
        inputs.into_iter().find(|(name, current)| !same(name, *current)).map(|(name, _)| name)
    }

    async fn seal(&self, grant: &Grant, permitted: &Permitted) -> Result<SealedSecret, (Denial, String)> {
        let path = &permitted.path;
        let refuse = |denial| (denial, path.to_string());
        let engine = self.engines.get(path.engine()).ok_or_else(|| refuse(Denial::GrantSuperseded))?;
        let value = engine.open(path, permitted.version, permitted.epoch).await;
        let value = value.map_err(|unknown| refuse(denial_of(unknown)))?;
        let evidence = grant.evidence();
        let info = evidence.binding().sealing_info(path.as_str(), permitted.version, grant.lease_id());
        let sealed = sealing::seal(evidence.request().recipient_key(), &info, &value);
        let sealed = sealed.map_err(|_| refuse(Denial::Defect))?;
        Ok(SealedSecret { path: path.clone(), version: permitted.version, sealed })
    }
}

#[async_trait::async_trait]
impl Catalog for BTreeMap<String, Arc<dyn Engine>> {
    /// An unknown engine's path is an unknown path: it is looked up in `kv`, where it costs what a known one does.
    async fn standing(&self, path: &SecretPath) -> Result<SecretStanding, Unknown> {
        let engine = self.get(path.engine()).or_else(|| self.values().next()).ok_or(Unknown::Absent)?;
        engine.standing(path).await
    }
}

#[async_trait::async_trait]
impl Catalog for Kv {
    async fn standing(&self, path: &SecretPath) -> Result<SecretStanding, Unknown> {
        let metadata = self.metadata(path).await.map_err(|error| unknown(&error))?;
        let metadata = metadata.ok_or(Unknown::Absent)?;
        let version = metadata.releasable().ok_or(Unknown::Absent)?;
        Ok(SecretStanding {
            labels: metadata.labels,
            lease_default_seconds: metadata.lease_default_seconds,
            lease_maximum_seconds: metadata.lease_maximum_seconds,
            exporter_demanded: metadata.exporter_demanded,
            disabled: metadata.disabled,
            version,
            epoch: metadata.epoch,
            takes_parameters: false,
        })
    }
}

#[async_trait::async_trait]
impl Engine for Kv {
    async fn open(&self, path: &SecretPath, version: u64, epoch: u64) -> Result<Zeroizing<Vec<u8>>, Unknown> {
        match Kv::open(self, path, version, epoch).await {
            Ok(fields) => Ok(fields.encode()),
            Err(KvError::Store(error)) => Err(unknown(&error)),
            Err(_) => Err(Unknown::Absent),
        }
    }

    async fn stands(&self, path: &SecretPath, version: u64, epoch: u64) -> Result<bool, Unknown> {
        let metadata = self.metadata(path).await.map_err(|error| unknown(&error))?;
        let metadata = metadata.filter(|metadata| metadata.epoch == epoch && !metadata.disabled);
        let versions = metadata.ok_or(Unknown::Absent)?.versions;
        Ok(versions.get(&version).is_some_and(|state| state.destroyed.is_none()))
    }
}

fn unknown(error: &StoreError) -> Unknown {
    match error {
        StoreError::Damaged(_) => Unknown::Damaged,
        _ => Unknown::Unavailable,
    }
}

impl Released {
    /// The lease.
    pub fn lease_id(&self) -> &str {
        &self.lease_id
    }

    /// The record of the decision.
    pub fn decision_id(&self) -> &str {
        &self.decision_id
    }

    /// When the lease ends.
    pub fn not_after(&self) -> WallTime {
        self.not_after
    }

    /// The hold, where one was asked for; to be taken once.
    pub fn take_hold(&mut self) -> Option<Hold> {
        self.hold.take()
    }

    /// The secrets, in the order asked; the release is spent.
    pub fn into_secrets(self) -> Vec<SealedSecret> {
        self.secrets
    }
}

/// What a grant is denied for where its secret is not there any more.
pub(super) fn denial_of(unknown: Unknown) -> Denial {
    match unknown {
        Unknown::Absent => Denial::GrantSuperseded,
        Unknown::Damaged => Denial::SecretDamaged,
        Unknown::Unavailable => Denial::StoreUnavailable,
    }
}

fn lease_of(grant: &Grant) -> Lease {
    let connection = grant.evidence().peer().connection();
    Lease {
        id: grant.lease_id().to_owned(),
        identity: connection.spiffe_id().clone(),
        key_sha256: hex::encode(connection.leaf_spki_sha256()),
        secrets: grant.secrets().iter().map(|secret| (secret.path.to_string(), secret.version)).collect(),
        not_after: grant.not_after(),
        not_after_boot: grant.not_after_boot(),
        decision_id: grant.decision_id().to_owned(),
    }
}
