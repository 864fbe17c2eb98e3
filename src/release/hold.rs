//! A lease that lives only while it is attested: what a held stream keeps between its rounds.
//!
//! *Takes* the `Grant` of a release, then those of later rounds. *Gives* [`Hold`], [`Renewed`]. *Denies* what redeeming a
//! grant denies, `SecretUnknown`, `LeaseRevoked`, `HoldExpired`. *Source*: `protocol.md`, "With `hold`".

use crate::audit::Grant;
use crate::case::{Case, Denied};
use crate::challenge::answer::case_of;
use crate::challenge::round::Held;
use crate::challenge::{Challenge, Offer};
use crate::denial::Denial;
use crate::policy::{Permitted, Unknown};
use crate::release::engines::{Engines, Redeeming, denial_of};
use crate::release::lease::{Lease, Leases};
use crate::request::ReleaseRequest;
use crate::time::{BootTime, Now, WallTime};
use crate::transport::peer::Connection;
use crate::transport::trust::Trust;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A held lease and its stream. It releases nothing: each round is challenged, verified, decided and recorded in full, and
/// only a [`Renewed`] of its own moves its end. Dropped, the lease is left to that end.
///
/// Nobody but [`Engines::release`] makes one:
/// ```compile_fail
/// let forged = portcullis::release::Hold {};
/// ```
/// and nobody copies it:
/// ```compile_fail
/// fn copy(hold: &portcullis::release::Hold) -> portcullis::release::Hold { hold.clone() }
/// ```
#[must_use]
pub struct Hold {
    connection: Arc<Connection>,
    request: ReleaseRequest,
    held: Arc<Held>,
    round: u64,
    reattest_within_ms: u32,
    not_after: WallTime,
    not_after_boot: BootTime,
    leases: Arc<Leases>,
    ended: oneshot::Receiver<()>,
}

/// A round of a held lease verified: until when it may be used now.
///
/// Nobody but [`Engines::renew`] makes one:
/// ```compile_fail
/// let forged = portcullis::release::Renewed {};
/// ```
#[must_use]
#[derive(Debug)]
pub struct Renewed {
    not_after: WallTime,
}

impl Hold {
    /// Of a release that is redeemed: its lease stands from now on.
    pub(super) fn of(grant: Grant, leases: Arc<Leases>, lease: Lease) -> Hold {
        let secrets = grant.secrets().iter().map(|secret| (secret.path.clone(), secret.version)).collect();
        let evidence = grant.evidence();
        Hold {
            connection: evidence.peer().connection().clone(),
            request: evidence.request().clone(),
            held: Arc::new(Held { lease_id: lease.id.clone(), secrets }),
            round: 0,
            reattest_within_ms: grant.reattest_within_ms(),
            not_after: lease.not_after,
            not_after_boot: lease.not_after_boot,
            ended: leases.hold(lease),
            leases,
        }
    }

    /// The next question about it. The peer is proven anew. **Denies** what `Trust::prove` denies.
    pub fn challenge(&mut self, trust: &Trust, offer: &Offer, now: Now) -> Result<Challenge, Denied> {
        let peer = match trust.prove(&self.connection, now) {
            Ok(peer) => peer,
            Err(denial) => return Err(self.case().deny(denial)),
        };
        self.round = self.round.saturating_add(1);
        Challenge::again(peer, self.request.clone(), self.held.clone(), self.round, offer, now)
    }

    /// The record of what ends it outside of a round.
    pub fn case(&self) -> Box<Case> {
        let mut case = case_of(&self.connection, &self.request);
        case.round = self.round;
        case.lease = Some(self.held.lease_id.clone());
        for (noted, (_, version)) in case.secrets.iter_mut().zip(&self.held.secrets) {
            noted.version = Some(*version);
        }
        case
    }

    /// Why it is over, if it is: an administrator ended it, or its time has come by either clock.
    pub fn over(&mut self, now: Now) -> Option<Denial> {
        let told = self.ended.try_recv();
        if now.wall >= self.not_after || now.boot >= self.not_after_boot {
            return Some(Denial::HoldExpired);
        }
        (told != Err(oneshot::error::TryRecvError::Empty)).then_some(Denial::LeaseRevoked)
    }

    /// Waits until the lease is ended from outside.
    pub async fn ended(&mut self) {
        let _gone = (&mut self.ended).await;
    }

    /// Ends the lease, as its workload asks or as a refusal has it.
    pub fn end(self) {
        self.leases.end(&self.held.lease_id);
    }

    /// The lease.
    pub fn lease_id(&self) -> &str {
        &self.held.lease_id
    }

    /// The last round that was challenged, from 0.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Within what time the next challenge comes, milliseconds.
    pub fn reattest_within_ms(&self) -> u32 {
        self.reattest_within_ms
    }

    /// The lease's end, wall clock.
    pub fn not_after(&self) -> WallTime {
        self.not_after
    }

    /// The lease's end, boot clock.
    pub fn not_after_boot(&self) -> BootTime {
        self.not_after_boot
    }

    /// When the certificate that holds it ends.
    pub fn certificate_ends(&self) -> WallTime {
        self.connection.not_after()
    }

    /// The connection that it is held on.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.leases.let_go(&self.held.lease_id);
    }
}

impl Engines {
    /// Redeems the grant of a later round: the lease goes on. **Denies** what [`Engines::release`] denies; `SecretUnknown`
    /// where the version that was released is no more; `HoldExpired` and `LeaseRevoked` where the lease has ended meanwhile.
    pub async fn renew(
        &self,
        mut grant: Grant,
        hold: &mut Hold,
        _leave: &Redeeming<'_>,
        now: Now,
    ) -> Result<Renewed, Denied> {
        if let Err((denial, why)) = self.redeemable(&mut grant, now) {
            return Err(grant.into_case().deny_because(denial, why));
        }
        let own = grant.evidence().held().is_some_and(|held| Arc::ptr_eq(held, &hold.held));
        if !own || grant.evidence().case().round != hold.round {
            return Err(grant.into_case().deny(Denial::Defect));
        }
        for permitted in grant.secrets() {
            let denial = match self.stands(permitted).await {
                Ok(true) => continue,
                Ok(false) => Denial::SecretUnknown,
                Err(unknown) => denial_of(unknown),
            };
            let path = permitted.path.to_string();
            let mut case = grant.into_case();
            case.refused_secret = Some(path);
            return Err(case.deny(denial));
        }
        if let Some(denial) = hold.over(now) {
            return Err(grant.into_case().deny(denial));
        }
        let (end, end_boot) = (grant.not_after(), grant.not_after_boot());
        if !self.leases.renew(hold.lease_id(), end, end_boot, now) {
            return Err(grant.into_case().deny(Denial::LeaseRevoked));
        }
        (hold.not_after, hold.not_after_boot) = (end, end_boot);
        hold.reattest_within_ms = grant.reattest_within_ms();
        Ok(Renewed { not_after: end })
    }

    async fn stands(&self, permitted: &Permitted) -> Result<bool, Unknown> {
        let Permitted { path, version, epoch } = permitted;
        let engine = self.engines.get(path.engine()).ok_or(Unknown::Absent)?;
        engine.stands(path, *version, *epoch).await
    }
}

impl Renewed {
    /// The lease's new end.
    pub fn not_after(&self) -> WallTime {
        self.not_after
    }
}
