//! The policy enforcement point: the flow of one request, as one reads it.
//!
//! *Takes* a connection and what it asks. *Gives* a `Challenge`, then `Released`, or an [`Answered`] denial: latched where
//! it must be, recorded, and told by nothing but its reason and a decision id. *Source*: SP 800-207 §2.1; `house.md` §1.

use crate::appraisal::Appraiser;
use crate::audit::record::Event;
use crate::audit::{Recorder, random_id};
use crate::case::{Case, Denied};
use crate::challenge::admission::{Admission, Admitted, Caller};
use crate::challenge::{Challenge, Offer};
use crate::denial::Denial;
use crate::evidence::Verifiers;
use crate::freshness::Freshness;
use crate::latch::Latches;
use crate::policy::Pdp;
use crate::release::lease::Leases;
use crate::release::{Barrier, Engines, Released};
use crate::request::{Document, ReleaseRequest};
use crate::time::{Clock, Now};
use crate::transport::peer::Connection;
use crate::transport::trust::Trust;
use futures_util::FutureExt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Every stage, and the clock.
pub struct Broker {
    /// What is offered to everyone.
    pub offer: Offer,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Bundles, lists and revocations.
    pub trust: Arc<Trust>,
    /// Whether the broker's own revocations could be read; while not, everyone is denied.
    pub revocations_known: AtomicBool,
    /// Limits on callers.
    pub admission: Admission,
    /// Verifiers of evidence.
    pub verifiers: Arc<Verifiers>,
    /// The freshness stage.
    pub freshness: Freshness,
    /// The latches.
    pub latches: Arc<Latches>,
    /// The appraiser.
    pub appraiser: Arc<Appraiser>,
    /// The policy decision point.
    pub pdp: Arc<Pdp>,
    /// The recorder.
    pub recorder: Arc<Recorder>,
    /// The engines.
    pub engines: Arc<Engines>,
}

/// A denial as its caller may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Why; only its reason goes out.
    pub denial: Denial,
    /// The audit record's id; none where the request was only counted.
    pub decision_id: Option<String>,
}

impl Broker {
    /// The first half: the peer is proven, everything that must be current is, and the question is put.
    pub async fn challenge(
        &self,
        connection: &Arc<Connection>,
        request: ReleaseRequest,
    ) -> Result<Challenge, Answered> {
        match self.open(connection, request) {
            Ok(challenge) => Ok(challenge),
            Err(denied) => Err(self.deny(denied).await),
        }
    }

    /// The second half: the answer is verified, appraised, decided, recorded, released.
    pub async fn answer(&self, challenge: Challenge, documents: Vec<Document>) -> Result<Released, Answered> {
        match self.decide(challenge, documents).await {
            Ok(released) => Ok(released),
            Err(denied) => Err(self.deny(denied).await),
        }
    }

    /// Lets a stream in. **Denies** `LimitExceeded`; nothing is written then.
    pub fn admit(&self, connection: &Connection) -> Result<Admitted, Answered> {
        let caller = caller_of(connection);
        let admitted = self.admission.admit(&caller, self.clock.untrusted());
        admitted.map_err(|denial| Answered { denial, decision_id: None })
    }

    fn open(&self, connection: &Arc<Connection>, request: ReleaseRequest) -> Result<Challenge, Denied> {
        let now = self.now().map_err(|denial| case_of_connection(connection, &request).deny(denial))?;
        let peer = self.trust.prove(connection, now);
        let peer = peer.map_err(|denial| case_of_connection(connection, &request).deny(denial))?;
        if let Some(denial) = self.not_current() {
            return Err(case_of_connection(connection, &request).deny(denial));
        }
        Challenge::issue(peer, request, &self.offer, now)
    }

    async fn decide(&self, challenge: Challenge, documents: Vec<Document>) -> Result<Released, Denied> {
        let now = match self.now().and_then(|now| self.not_current().map_or(Ok(now), Err)) {
            Ok(now) => now,
            Err(denial) => return Err(challenge.spoiled(denial)),
        };
        let answer = challenge.answered(documents, &self.trust, now)?;
        let verified = self.verifiers.verify(answer, now)?;
        let current = self.freshness.check(verified, now)?;
        let unlatched = self.latches.check(current, now)?;
        let result = self.appraiser.appraise(unlatched, now)?;
        let permit = self.pdp.decide(result).await?;
        let grant = self.recorder.record(permit, now).await?;
        self.redeem(grant).await
    }

    /// A grant that cannot be redeemed was recorded as a release, so a second record takes it back.
    async fn redeem(&self, grant: crate::audit::Grant) -> Result<Released, Denied> {
        let (decision_id, lease_id) = (grant.decision_id().to_owned(), grant.lease_id().to_owned());
        let leave = self.engines.barrier.redeem().await;
        let now = match self.now() {
            Ok(now) => now,
            Err(denial) => {
                self.undelivered(&decision_id, &lease_id, denial.name()).await;
                return Err(grant.into_case().deny(denial));
            }
        };
        // A bug in an engine is still a release that did not reach its workload; the stream denies it as a defect.
        let released = match AssertUnwindSafe(self.engines.release(grant, &leave, now)).catch_unwind().await {
            Ok(released) => released,
            Err(panic) => {
                self.undelivered(&decision_id, &lease_id, Denial::Defect.name()).await;
                resume_unwind(panic);
            }
        };
        if let Err(denied) = &released {
            self.undelivered(&decision_id, &lease_id, denied.denial.name()).await;
        }
        released
    }

    /// The second record of a release that did not reach its workload; its lease ends.
    pub async fn undelivered(&self, decision_id: &str, lease_id: &str, detail: &str) {
        self.engines.leases.end(lease_id);
        let event = Event::Undelivered {
            decision_id: decision_id.to_owned(),
            lease_id: lease_id.to_owned(),
            detail: detail.to_owned(),
        };
        if let Err(error) = self.recorder.note(event, self.clock.untrusted()).await {
            tracing::error!(%error, decision_id, "a release that was not delivered could not be recorded as such");
        }
    }

    /// Ends a request: latches where it must, records, and says what the caller may know. A denial whose record fails is
    /// still a denial, and its id names nothing.
    pub async fn deny(&self, denied: Denied) -> Answered {
        let now = self.clock.untrusted();
        let Ok(id) = random_id() else {
            return Answered { denial: Denial::Defect, decision_id: None };
        };
        let latches = self.latches.refuse(&denied, &id, now);
        if latches.is_empty() && denied.denial != Denial::LatchHolds {
            self.note_unlatched(&denied.case, now);
        }
        if let Err(error) = self.recorder.denied(id.clone(), &denied, latches, now).await {
            tracing::error!(%error, denial = %denied.denial, "a denial could not be recorded; it stands");
        }
        tracing::info!(denial = %denied.denial, class = denied.denial.class().name(), decision_id = %id, "denied");
        Answered { denial: denied.denial, decision_id: Some(id) }
    }

    /// A request that ended before it had a shape: only its connection is known.
    pub async fn deny_connection(&self, connection: &Connection, denial: Denial) -> Answered {
        self.deny(connection_case(connection).deny(denial)).await
    }

    /// What every request needs and no request can change; looked at before any secret is, so that it tells of none.
    fn not_current(&self) -> Option<Denial> {
        if !self.revocations_known.load(Ordering::SeqCst) {
            return Some(Denial::RevocationUnknown);
        }
        if self.verifiers.nodes_epoch().is_none() {
            return Some(Denial::NodesUnavailable);
        }
        if self.appraiser.epoch().is_none() {
            return Some(Denial::ReferenceValuesUnavailable);
        }
        if self.pdp.epoch().is_none() {
            return Some(Denial::PolicyUnavailable);
        }
        if !self.recorder.log().healthy() {
            return Some(Denial::AuditUnavailable);
        }
        if self.recorder.is_withheld() {
            return Some(Denial::RestoreNotAccepted);
        }
        None
    }

    fn now(&self) -> Result<Now, Denial> {
        self.clock.now().map_err(|_| Denial::ClockSuspect)
    }

    fn note_unlatched(&self, case: &Case, now: Now) {
        let key = hex::decode(&case.key_sha256).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        if let (Some(identity), Some(key)) = (case.identity.clone(), key) {
            self.admission.note_unlatched_denial(&Caller { identity, key }, now);
        }
    }

    /// The leases that stand.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.engines.leases
    }

    /// What acts that narrow take whole.
    pub fn barrier(&self) -> &Arc<Barrier> {
        &self.engines.barrier
    }
}

/// Who is on a connection, for the limits.
fn caller_of(connection: &Connection) -> Caller {
    Caller { identity: connection.spiffe_id().clone(), key: *connection.leaf_spki_sha256() }
}

fn connection_case(connection: &Connection) -> Box<Case> {
    let mut case = Box::new(Case::new());
    case.identity = Some(connection.spiffe_id().clone());
    case.key_sha256 = hex::encode(connection.leaf_spki_sha256());
    case.serial = connection.serial().to_owned();
    case
}

fn case_of_connection(connection: &Connection, request: &ReleaseRequest) -> Box<Case> {
    let mut case = connection_case(connection);
    let paths = request.secrets().iter().map(|secret| secret.path.to_string());
    case.secrets = paths.map(|path| crate::case::PathVersion { path, version: None }).collect();
    case.ttl_seconds = request.ttl_seconds();
    case.hold = request.hold();
    case
}
