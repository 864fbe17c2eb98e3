//! The witness that policy permits, for each secret asked, on this attestation result.

use crate::appraisal::AttestationResult;
use crate::case::{Case, Denied, Stage};
use crate::denial::Denial;
use crate::evidence::VerifiedEvidence;
use crate::limits;
use crate::policy::cedar::{Decision, PolicySet};
use crate::policy::question::{Question, SecretFacts};
use crate::request::{ChannelBinding, SecretPath, SecretRequest};
use crate::time::WallTime;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of a secret without opening it.
#[derive(Clone, Debug)]
pub struct SecretStanding {
    /// Labels that policy reads.
    pub labels: BTreeMap<String, String>,
    /// Seconds of a lease where none were asked.
    pub lease_default_seconds: u32,
    /// Most seconds of a lease.
    pub lease_maximum_seconds: u32,
    /// Whether the TLS exporter is demanded as channel binding.
    pub exporter_demanded: bool,
    /// Whether it is disabled.
    pub disabled: bool,
    /// The version to release; 0 for engines without versions.
    pub version: u64,
    /// Changes with each change of the secret.
    pub epoch: u64,
    /// Whether the engine takes parameters.
    pub takes_parameters: bool,
}

/// Why nothing is known of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// There is none, or nothing of it is left.
    Absent,
    /// Its record is damaged.
    Damaged,
    /// The store does not answer.
    Unavailable,
}

/// Where the standing of secrets is looked up; the engines satisfy it.
#[async_trait::async_trait]
pub trait Catalog: Send + Sync {
    /// The standing of one secret. An unknown path costs about the same work as a known one.
    async fn standing(&self, path: &SecretPath) -> Result<SecretStanding, Unknown>;
}

/// The policy decision point.
pub struct Pdp {
    policy: ArcSwap<Option<Snapshot>>,
    catalog: Arc<dyn Catalog>,
}

struct Snapshot {
    set: PolicySet,
    epoch: u64,
}

/// Policy permits these secrets, in these versions, on this attestation result.
///
/// Nobody but [`Pdp::decide`] makes one:
/// ```compile_fail
/// let forged = portcullis::policy::Permit {};
/// ```
#[must_use]
pub struct Permit {
    result: AttestationResult,
    secrets: Vec<Permitted>,
    ttl_seconds: u32,
    reattest_within_ms: u32,
}

/// One permitted secret.
#[derive(Clone, Debug)]
pub struct Permitted {
    /// Which.
    pub path: SecretPath,
    /// Which version.
    pub version: u64,
    /// The secret's epoch when it was decided.
    pub epoch: u64,
}

impl Pdp {
    /// A decision point that has no policy yet, and so denies.
    pub fn new(catalog: Arc<dyn Catalog>) -> Self {
        Pdp { policy: ArcSwap::from_pointee(None), catalog }
    }

    /// Swaps the policy; none = it could not be read.
    pub fn set(&self, set: Option<PolicySet>, epoch: u64) {
        self.policy.store(Arc::new(set.map(|set| Snapshot { set, epoch })));
    }

    /// The epoch of the policy; none where it could not be read.
    pub fn epoch(&self) -> Option<u64> {
        self.policy.load().as_ref().as_ref().map(|snapshot| snapshot.epoch)
    }

    /// Decides every secret of the request: entitlement, then ttl, then what the engine takes. All of them are looked up
    /// and decided, whatever the first says, so that an unknown one costs what a forbidden one does. **Denies**
    /// `PolicyUnavailable`, `StoreUnavailable`, and per secret `PolicyForbids`, `PolicySilent`, `PolicyUnevaluable`,
    /// `SecretUnknown`, `SecretDisabled`, `SecretDamaged`, `ChannelBindingDemanded`, `TtlTooLong`, `HoldUnavailable`,
    /// `ParametersNotTaken`.
    pub async fn decide(&self, mut result: AttestationResult) -> Result<Permit, Denied> {
        result.evidence_mut().case_mut().stage = Stage::Policy;
        let policy = self.policy.load_full();
        let Some(policy) = policy.as_ref() else {
            return Err(result.into_case().deny(Denial::PolicyUnavailable));
        };
        result.evidence_mut().case_mut().epochs.insert("policy".to_owned(), policy.epoch);
        let standings = self.look_up(result.evidence().request().secrets()).await;
        if standings.iter().any(|standing| matches!(standing, Err(Unknown::Unavailable))) {
            return Err(result.into_case().deny(Denial::StoreUnavailable));
        }
        let ttl_seconds = effective_ttl(result.evidence().request().ttl_seconds(), &standings);
        let mut refused = None;
        for index in 0..standings.len() {
            let Some((secret, standing)) = nth(&result, &standings, index) else { continue };
            let (outcome, rules) = decide_one(&policy.set, &result, secret, standing, ttl_seconds);
            let path = secret.path.to_string();
            result.evidence_mut().case_mut().rules.extend(rules);
            if let Err((denial, detail)) = outcome {
                refused.get_or_insert((path, denial, detail));
            }
        }
        let reattest = result.evidence().hold_terms().interval_ms(ttl_seconds);
        let reattest = if result.evidence().request().hold() { reattest } else { Some(0) };
        let refused =
            refused.or_else(|| refuse_terms(result.evidence(), &standings, ttl_seconds, reattest.is_some()));
        if let Some((path, denial, detail)) = refused {
            let mut case = result.into_case();
            case.refused_secret = Some(path);
            return Err(case.deny_because(denial, detail));
        }
        let secrets = permitted(&mut result, &standings);
        let reattest_within_ms = reattest.unwrap_or(0);
        Ok(Permit { result, secrets, ttl_seconds, reattest_within_ms })
    }

    async fn look_up(&self, secrets: &[SecretRequest]) -> Vec<Result<SecretStanding, Unknown>> {
        let mut standings = Vec::with_capacity(secrets.len());
        for secret in secrets {
            standings.push(self.catalog.standing(&secret.path).await);
        }
        standings
    }
}

impl Permit {
    /// The evidence.
    pub fn evidence(&self) -> &VerifiedEvidence {
        self.result.evidence()
    }

    /// The evidence, for a later stage.
    pub fn evidence_mut(&mut self) -> &mut VerifiedEvidence {
        self.result.evidence_mut()
    }

    /// The secrets, in the order asked.
    pub fn secrets(&self) -> &[Permitted] {
        &self.secrets
    }

    /// The lease's length, seconds.
    pub fn ttl_seconds(&self) -> u32 {
        self.ttl_seconds
    }

    /// Within what time the lease is attested again, milliseconds; 0 unless it is held.
    pub fn reattest_within_ms(&self) -> u32 {
        self.reattest_within_ms
    }

    /// The earliest end of all that this rests on, exclusive.
    pub fn usable_until(&self) -> WallTime {
        self.result.usable_until()
    }

    /// Gives the witness up for its record.
    pub fn into_case(self) -> Box<Case> {
        self.result.into_case()
    }
}

type Standing = Result<SecretStanding, Unknown>;
type Outcome = Result<(), (Denial, String)>;

fn nth<'a>(
    result: &'a AttestationResult,
    standings: &'a [Standing],
    index: usize,
) -> Option<(&'a SecretRequest, &'a Standing)> {
    Some((result.evidence().request().secrets().get(index)?, standings.get(index)?))
}

/// Policy first, for what exists and what does not; only then whether it exists, so that no order tells the two apart.
fn decide_one(
    set: &PolicySet,
    result: &AttestationResult,
    secret: &SecretRequest,
    standing: &Standing,
    ttl_seconds: u32,
) -> (Outcome, Vec<String>) {
    let evidence = result.evidence();
    let facts = match standing {
        Ok(standing) => SecretFacts { path: &secret.path, labels: &standing.labels },
        Err(_) => SecretFacts::stand_in(&secret.path),
    };
    let question = Question {
        principal: evidence.peer().connection().spiffe_id(),
        secret: facts,
        claims: result.claims(),
        channel_binding: evidence.channel_binding(),
        ttl_seconds,
        hold: evidence.request().hold(),
    };
    let refuse = |denial, detail: String| Err((denial, detail));
    match set.decide(&question) {
        Decision::Forbidden { rules } => (refuse(Denial::PolicyForbids, rules.join(", ")), rules),
        Decision::Silent => (refuse(Denial::PolicySilent, String::new()), Vec::new()),
        Decision::Unevaluable { errors } => {
            let rules = errors.iter().map(|(rule, _)| rule.clone()).collect();
            let detail: Vec<String> =
                errors.into_iter().map(|(rule, error)| format!("{rule}: {error}")).collect();
            (refuse(Denial::PolicyUnevaluable, detail.join("; ")), rules)
        }
        Decision::Permitted { rules } => (entitled(standing, evidence.channel_binding()), rules),
    }
}

fn entitled(standing: &Standing, channel_binding: ChannelBinding) -> Outcome {
    let denial = match standing {
        Err(Unknown::Absent) => Denial::SecretUnknown,
        Err(Unknown::Damaged) => Denial::SecretDamaged,
        Err(Unknown::Unavailable) => Denial::StoreUnavailable,
        Ok(standing) if standing.disabled => Denial::SecretDisabled,
        Ok(standing) if standing.exporter_demanded && channel_binding != ChannelBinding::TlsExporter => {
            Denial::ChannelBindingDemanded
        }
        Ok(_) => return Ok(()),
    };
    Err((denial, String::new()))
}

/// The lease's terms, once every secret is granted: ttl, hold, then what each engine takes.
fn refuse_terms(
    evidence: &VerifiedEvidence,
    standings: &[Standing],
    ttl_seconds: u32,
    long_enough: bool,
) -> Option<(String, Denial, String)> {
    let known = standings.iter().flatten();
    let paired = || evidence.request().secrets().iter().zip(standings.iter().flatten());
    let smallest = known.map(|standing| standing.lease_maximum_seconds).min().unwrap_or(0);
    let shortest = paired().find(|(_, standing)| standing.lease_maximum_seconds == smallest)?;
    if ttl_seconds > smallest {
        let detail = format!("{ttl_seconds} s asked, {smallest} s are the maximum");
        return Some((shortest.0.path.to_string(), Denial::TtlTooLong, detail));
    }
    if !long_enough {
        let detail = format!("{ttl_seconds} s are too short for a round within them");
        return Some((shortest.0.path.to_string(), Denial::HoldUnavailable, detail));
    }
    let takes = |(secret, standing): &(&SecretRequest, &SecretStanding)| {
        standing.takes_parameters || secret.parameters.is_empty()
    };
    let (secret, _) = paired().find(|pair| !takes(pair))?;
    Some((secret.path.to_string(), Denial::ParametersNotTaken, String::new()))
}

/// What was asked, or the smallest default, which no maximum cuts short.
fn effective_ttl(asked: u32, standings: &[Standing]) -> u32 {
    if asked != 0 {
        return asked;
    }
    let default = |standing: &Standing| match standing {
        Ok(standing) => standing.lease_default_seconds.min(standing.lease_maximum_seconds),
        Err(_) => limits::LEASE_DEFAULT_SECONDS,
    };
    let maximum = standings.iter().flatten().map(|standing| standing.lease_maximum_seconds).min();
    let smallest = standings.iter().map(default).min().unwrap_or(limits::LEASE_DEFAULT_SECONDS);
    smallest.min(maximum.unwrap_or(limits::LEASE_MAXIMUM_SECONDS))
}

fn permitted(result: &mut AttestationResult, standings: &[Standing]) -> Vec<Permitted> {
    let paired = result.evidence().request().secrets().iter().zip(standings.iter().flatten());
    let held = result.evidence().held();
    let of_lease = |path: &SecretPath| {
        held.and_then(|held| held.secrets.iter().find(|(held, _)| held == path)).map(|(_, version)| *version)
    };
    let secrets: Vec<Permitted> = paired
        .map(|(secret, standing)| Permitted {
            path: secret.path.clone(),
            // Within a lease a version does not change.
            version: of_lease(&secret.path).unwrap_or(standing.version),
            epoch: standing.epoch,
        })
        .collect();
    for (noted, secret) in result.evidence_mut().case_mut().secrets.iter_mut().zip(&secrets) {
        noted.version = Some(secret.version);
    }
    secrets
}
