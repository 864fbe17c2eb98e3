//! The policy enforcement point: the flow of one request, as one reads it.
//!
//! *Takes* a connection and what it asks. *Gives* a `Challenge`, then `Released`, or an [`Answered`] denial: latched where
//! it must be, recorded, and told by nothing but its reason and a decision id. *Source*: SP 800-207 §2.1; `house.md` §1.

use crate::appraisal::Appraiser;
use crate::audit::record::Event;
use crate::audit::{Grant, Recorder, random_id};
use crate::case::{Case, Denied, Stage};
use crate::challenge::admission::{Admission, Admitted, Caller};
use crate::challenge::answer::{case_of, case_of_connection};
use crate::challenge::{Answer, Challenge, Offer};
use crate::denial::Denial;
use crate::evidence::Verifiers;
use crate::freshness::Freshness;
use crate::latch::Latches;
use crate::measure::Measures;
use crate::policy::Pdp;
use crate::release::lease::Leases;
use crate::release::{Barrier, Engines, Hold, Released, Renewed};
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
    /// What is counted and timed of all this.
    pub measures: Measures,
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
        let mut laps = self.measures.stages.begin();
        self.answered(laps.of(Stage::Transport, self.open(connection, request))).await
    }

    /// The second half: the answer is verified, appraised, decided, recorded, released.
    pub async fn answer(&self, challenge: Challenge, documents: Vec<Document>) -> Result<Released, Answered> {
        let outcome = match self.decide(challenge, documents).await {
            Ok(grant) => self.redeem(grant).await,
            Err(denied) => Err(denied),
        };
        self.answered(outcome).await.inspect(|_| self.measures.releases.count())
    }

    /// A held lease is challenged again; what must be current is looked at when the answer is.
    pub async fn challenge_again(&self, hold: &mut Hold) -> Result<Challenge, Answered> {
        let question = match self.now() {
            Ok(now) => hold.challenge(&self.trust, &self.offer, now),
            Err(denial) => Err(hold.case().deny(denial)),
        };
        self.answered(question).await
    }

    /// The answer of a later round, through the same flow: the lease goes on, or the denial says how it stands.
    pub async fn answer_again(
        &self,
        challenge: Challenge,
        documents: Vec<Document>,
        hold: &mut Hold,
    ) -> Result<Renewed, Answered> {
        let outcome = match self.decide(challenge, documents).await {
            Ok(grant) => self.renew(grant, hold).await,
            Err(denied) => Err(denied),
        };
        self.answered(outcome).await.inspect(|_| self.measures.renewals.count())
    }

    /// An outcome as its caller may know it: a denial is ended first.
    async fn answered<T>(&self, outcome: Result<T, Denied>) -> Result<T, Answered> {
        match outcome {
            Ok(outcome) => Ok(outcome),
            Err(denied) => Err(self.deny(denied).await),
        }
    }

    /// Lets a stream in. **Denies** `LimitExceeded`; nothing is written then.
    pub fn admit(&self, connection: &Connection) -> Result<Admitted, Answered> {
        let caller = caller_of(connection);
        let admitted = self.admission.admit(&caller, self.clock.untrusted());
        admitted
            .inspect_err(|denial| self.measures.denials.count(*denial))
            .map_err(|denial| Answered { denial, decision_id: None })
    }

    fn open(&self, connection: &Arc<Connection>, request: ReleaseRequest) -> Result<Challenge, Denied> {
        let now = self.now().map_err(|denial| case_of(connection, &request).deny(denial))?;
        let peer = self.trust.prove(connection, now);
        let peer = peer.map_err(|denial| case_of(connection, &request).deny(denial))?;
        if let Some(denial) = self.not_current() {
            return Err(case_of(connection, &request).deny(denial));
        }
        Challenge::issue(peer, request, &self.offer, now)
    }

    async fn decide(&self, challenge: Challenge, documents: Vec<Document>) -> Result<Grant, Denied> {
        let now = match self.current() {
            Ok(now) => now,
            Err(denial) => return Err(challenge.spoiled(denial)),
        };
        let mut laps = self.measures.stages.begin();
        let answer = laps.of(Stage::Challenge, challenge.answered(documents, &self.trust, now))?;
        let (answer, now) = self.supplied(answer, now).await?;
        let verified = laps.of(Stage::Evidence, self.verifiers.verify(answer, now))?;
        let current = laps.of(Stage::Freshness, self.freshness.check(verified, now))?;
        let unlatched = laps.of(Stage::Latch, self.latches.check(current, now))?;
        let result = laps.of(Stage::Appraisal, self.appraiser.appraise(unlatched, now))?;
        let permit = laps.of(Stage::Policy, self.pdp.decide(result).await)?;
        laps.of(Stage::Audit, self.recorder.record(permit, now).await)
    }

    /// Collateral that the evidence lacks is asked for, within its bound. After a wait everything that must be current is
    /// looked at again; the peer is by the freshness stage.
    async fn supplied(&self, mut answer: Answer, now: Now) -> Result<(Answer, Now), Denied> {
        if !self.verifiers.supply(&mut answer, now).await {
            return Ok((answer, now));
        }
        match self.current() {
            Ok(now) => Ok((answer, now)),
            Err(denial) => Err(answer.spoiled(denial)),
        }
    }

    /// A grant that cannot be redeemed was recorded as a release, so a second record takes it back.
    async fn redeem(&self, grant: Grant) -> Result<Released, Denied> {
        let recorded = Recorded::of(&grant);
        let released = async {
            let leave = self.engines.barrier.redeem().await;
            match self.now() {
                Ok(now) => self.engines.release(grant, &leave, now).await,
                Err(denial) => Err(grant.into_case().deny(denial)),
            }
        };
        let mut laps = self.measures.stages.begin();
        let released = laps.of(Stage::Release, AssertUnwindSafe(released).catch_unwind().await);
        self.settle(&recorded, released).await
    }

    /// The same of a later round. The lease itself stands until its end, whatever comes of this.
    async fn renew(&self, grant: Grant, hold: &mut Hold) -> Result<Renewed, Denied> {
        let recorded = Recorded::of(&grant);
        let renewed = async {
            let leave = self.engines.barrier.redeem().await;
            match self.now() {
                Ok(now) => self.engines.renew(grant, hold, &leave, now).await,
                Err(denial) => Err(grant.into_case().deny(denial)),
            }
        };
        let mut laps = self.measures.stages.begin();
        let renewed = laps.of(Stage::Release, AssertUnwindSafe(renewed).catch_unwind().await);
        self.settle(&recorded, renewed).await
    }

    async fn settle<T>(
        &self,
        recorded: &Recorded,
        outcome: std::thread::Result<Result<T, Denied>>,
    ) -> Result<T, Denied> {
        let detail = match &outcome {
            Ok(Ok(_)) => None,
            Ok(Err(denied)) => Some(denied.denial.name()),
            // A bug in an engine is still a release that did not reach its workload; the stream denies it as a defect.
            Err(_) => Some(Denial::Defect.name()),
        };
        if let Some(detail) = detail {
            if recorded.first {
                self.engines.leases.end(&recorded.lease_id);
            }
            self.take_back(&recorded.decision_id, &recorded.lease_id, detail).await;
        }
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The second record of a release that did not reach its workload; its lease ends.
    pub async fn undelivered(&self, decision_id: &str, lease_id: &str, detail: &str) {
        self.engines.leases.end(lease_id);
        self.take_back(decision_id, lease_id, detail).await;
    }

    async fn take_back(&self, decision_id: &str, lease_id: &str, detail: &str) {
        self.measures.undelivered.count();
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
        self.measures.denials.count(denied.denial);
        let Ok(id) = random_id() else {
            return Answered { denial: Denial::Defect, decision_id: None };
        };
        let latches = self.latches.refuse(&denied, &id, now);
        // What becomes of a held lease is the broker's own asking, and no attempt of its caller's.
        let attempt = denied.case.lease.is_none();
        if latches.is_empty() && denied.denial != Denial::LatchHolds && attempt {
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
        self.deny(case_of_connection(connection).deny(denial)).await
    }

    /// The time, where everything that every request needs is current. **Denies** as every request would be now.
    pub fn current(&self) -> Result<Now, Denial> {
        self.now().and_then(|now| self.not_current().map_or(Ok(now), Err))
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
        if !self.recorder.is_healthy() {
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

/// A record that says "released" or "renewed", and what takes it back.
struct Recorded {
    decision_id: String,
    lease_id: String,
    /// Whether the lease began with it.
    first: bool,
}

impl Recorded {
    fn of(grant: &Grant) -> Recorded {
        let (decision_id, lease_id) = (grant.decision_id().to_owned(), grant.lease_id().to_owned());
        Recorded { decision_id, lease_id, first: grant.evidence().held().is_none() }
    }
}

/// Who is on a connection, for the limits.
fn caller_of(connection: &Connection) -> Caller {
    Caller { identity: connection.spiffe_id().clone(), key: *connection.leaf_spki_sha256() }
}
