//! Role `operations`: what holds and what is held, latches and leases.
//!
//! *Takes* an identity, a secret, an id. *Gives* lists; ends one. *Denies* what is not there. *Source*: `protocol.md` "What
//! a refusal latches"; NIST SP 800-53 AC-12.

use super::access::{Caller, latch_key};
use super::{AdminService, answer, written};
use crate::audit::record::Event;
use crate::latch::Hold;
use crate::limits;
use crate::proto::admin::*;
use crate::release::lease;
use crate::spiffe::SpiffeId;
use crate::time::{Now, WallTime};
use serde_json::json;
use tonic::Status;

pub(super) async fn list_latches(
    service: &AdminService,
    caller: &Caller,
    request: ListLatchesRequest,
) -> Result<ListLatchesResponse, Status> {
    let identity = optional_identity(&request.identity)?;
    let wanted = |hold: &Hold| {
        identity.as_ref().is_none_or(|id| hold.key.identity == *id)
            && (request.ended || caller.now.wall < hold.until)
    };
    let all = service.registry.broker().latches.all();
    let (latches, more) = cut(all.into_iter().filter(wanted).map(latch).collect());
    Ok(ListLatchesResponse { latches, more })
}

/// Each hold is ended once its end is on the log: else it would stand again after a restart.
pub(super) async fn clear_latch(
    service: &AdminService,
    caller: &Caller,
    request: ClearLatchRequest,
) -> Result<ClearLatchResponse, Status> {
    let identity = identity(&request.identity)?;
    let fits = |asked: &str, is: &str| asked.is_empty() || asked == is;
    let latches = &service.registry.broker().latches;
    let mut keys = latches.all().into_iter().map(|hold| hold.key).collect::<Vec<_>>();
    keys.retain(|key| {
        key.identity == identity && fits(&request.subject, &key.subject) && fits(&request.secret, &key.secret)
    });
    if keys.is_empty() {
        return Err(answer::not_found("no latch holds that"));
    }
    let details = json!({ "subject": request.subject, "secret": request.secret, "latches": keys.len() });
    let act = caller.act(&request.identity, details);
    let intended = service.registry.intend(act, caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    let mut cleared = Vec::new();
    for key in keys {
        service.note(caller, Event::LatchCleared { key: key.clone(), by: record.clone() }).await?;
        if latches.clear(&key) {
            cleared.push(latch_key(key));
        }
    }
    Ok(ClearLatchResponse { record, cleared })
}

pub(super) async fn list_leases(
    service: &AdminService,
    caller: &Caller,
    request: ListLeasesRequest,
) -> Result<ListLeasesResponse, Status> {
    let identity = optional_identity(&request.identity)?;
    let wanted = |one: &lease::Lease| {
        identity.as_ref().is_none_or(|id| one.identity == *id)
            && (request.secret.is_empty() || one.secrets.iter().any(|(path, _)| *path == request.secret))
    };
    let standing = service.registry.broker().leases().standing(caller.now);
    let (leases, more) = cut(standing.into_iter().filter(wanted).map(listed).collect());
    Ok(ListLeasesResponse { leases, more })
}

pub(super) async fn revoke_lease(
    service: &AdminService,
    caller: &Caller,
    request: RevokeLeaseRequest,
) -> Result<RevokeLeaseResponse, Status> {
    let why = written::why(&request.why)?;
    let leases = service.registry.broker().leases();
    let standing = leases.standing(caller.now);
    let lease = standing.into_iter().find(|lease| lease.id == request.id);
    let lease = lease.ok_or_else(|| answer::not_found("no lease of this id stands"))?;
    let details = json!({ "why": why, "identity": lease.identity, "decision_id": lease.decision_id });
    let intended = service.registry.intend(caller.act(&lease.id, details), caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    end_lease(service, caller, &lease.id, &format!("revoked by {record}")).await?;
    Ok(RevokeLeaseResponse { record })
}

/// Ends a lease, once its end is on the log.
pub(super) async fn end_lease(
    service: &AdminService,
    caller: &Caller,
    id: &str,
    detail: &str,
) -> Result<(), Status> {
    let event = Event::LeaseEnded { lease_id: id.to_owned(), detail: detail.to_owned() };
    service.note(caller, event).await?;
    service.registry.broker().leases().end(id);
    Ok(())
}

pub(super) fn identity(text: &str) -> Result<SpiffeId, Status> {
    SpiffeId::parse(text).map_err(|error| answer::invalid(format!("the identity is no SPIFFE ID: {error}")))
}

fn optional_identity(text: &str) -> Result<Option<SpiffeId>, Status> {
    if text.is_empty() { Ok(None) } else { identity(text).map(Some) }
}

/// A hold in the words of the protocol.
pub(super) fn latch(hold: Hold) -> Latch {
    Latch {
        key: Some(latch_key(hold.key)),
        until: hold.until.to_string(),
        length_ms: hold.length_ms,
        record: hold.record,
        rests_on: hold.rests_on,
    }
}

fn listed(lease: lease::Lease) -> Lease {
    let secrets = lease.secrets.into_iter().map(|(path, version)| LeasedSecret { path, version });
    Lease {
        id: lease.id,
        identity: lease.identity.to_string(),
        key_sha256: lease.key_sha256,
        secrets: secrets.collect(),
        not_after: lease.not_after.to_string(),
        decision_id: lease.decision_id,
    }
}

/// As many as one answer holds, and how many more there are.
fn cut<T: prost::Message>(mut all: Vec<T>) -> (Vec<T>, u64) {
    let mut bytes = 0_usize;
    let fits = |one: &&T| {
        bytes = bytes.saturating_add(one.encoded_len()).saturating_add(FRAMING_BYTES);
        bytes <= limits::ADMIN_LISTED_BYTES
    };
    let fitting = all.iter().take_while(fits).count();
    let more = all.len().saturating_sub(fitting);
    all.truncate(fitting);
    (all, u64::try_from(more).unwrap_or(u64::MAX))
}

/// Whether a hold stands by the wall clock.
pub(super) fn stands(until: WallTime, now: Now) -> bool {
    now.wall < until
}

/// A message's tag and length inside another.
const FRAMING_BYTES: usize = 6;
