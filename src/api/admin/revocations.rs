//! Role `operations`: the broker's own revocations, durable beside whatever a trust domain does.
//!
//! *Takes* an identity pattern or a key. *Gives* it denied from now on, its leases ended. *Denies* what is malformed.
//! *Source*: `protocol.md` "Connection" (checked again at every release); NIST SP 800-53 AC-2(13); catalogue row 41.

use super::access::{Caller, Plan};
use super::{AdminService, answer, listing, operations, written};
use crate::limits;
use crate::proto::admin::revoke_request::Whom;
use crate::proto::admin::unrevoke_request::Whom as Lifted;
use crate::proto::admin::*;
use crate::registry::StoredRevocation;
use crate::release::lease::Lease as Standing;
use crate::spiffe::IdPattern;
use crate::store::{Kind, Transaction};
use serde_json::json;
use tonic::Status;

pub(super) async fn revoke(
    service: &AdminService,
    caller: &Caller,
    request: RevokeRequest,
) -> Result<RevokeResponse, Status> {
    let target = target(request.whom.as_ref());
    let why = written::why(&request.why)?;
    let revocation = parse(request.whom, why)?;
    let (name, body) = stored(&revocation)?;
    let vault = service.registry.vault();
    let previous = vault.read(Kind::Revocation, &name).await.map_err(|error| answer::store(&error))?;
    if previous.is_none() {
        check_room(service).await?;
    }
    let mut transaction = Transaction::default();
    let put = vault.put(&mut transaction, Kind::Revocation, &name, previous.as_ref(), &body);
    put.map_err(|error| answer::store(&error))?;
    let plan = Plan {
        target,
        details: serde_json::to_value(&revocation).map_err(|_| answer::defect())?,
        transaction,
        kinds: vec![Kind::Revocation],
        rests: Vec::new(),
        keep_latches: true,
    };
    let change = service.change(caller, plan).await?;
    let leases_ended = end_leases(service, caller, &revocation, &change.record).await?;
    Ok(RevokeResponse { change: Some(change), leases_ended })
}

pub(super) async fn unrevoke(
    service: &AdminService,
    caller: &Caller,
    request: UnrevokeRequest,
) -> Result<ChangeResponse, Status> {
    let target = lifted(request.whom.as_ref());
    let whom = match request.whom {
        Some(Lifted::Identity(identity)) => Some(Whom::Identity(identity)),
        Some(Lifted::KeySha256(key)) => Some(Whom::KeySha256(key)),
        None => None,
    };
    let (name, _) = stored(&parse(whom, String::new())?)?;
    let vault = service.registry.vault();
    let record = vault.read(Kind::Revocation, &name).await.map_err(|error| answer::store(&error))?;
    let record = record.ok_or_else(|| answer::not_found("there is no such revocation"))?;
    let mut transaction = Transaction::default();
    vault.remove(&mut transaction, &record);
    let plan = Plan {
        target,
        details: listing::parse(&record.body)?,
        transaction,
        kinds: vec![Kind::Revocation],
        rests: Vec::new(),
        keep_latches: true,
    };
    service.change(caller, plan).await
}

pub(super) async fn list(
    service: &AdminService,
    _caller: &Caller,
    request: ListRevocationsRequest,
) -> Result<ListRevocationsResponse, Status> {
    let vault = service.registry.vault();
    let page =
        listing::page::<StoredRevocation>(vault, Kind::Revocation, &request.after, request.limit).await?;
    let revocations = page.0.into_iter().map(|one| match one {
        StoredRevocation::Identity { identity, why } => {
            Revocation { identity: identity.to_string(), key_sha256: String::new(), why }
        }
        StoredRevocation::Key { key_sha256, why } => Revocation { identity: String::new(), key_sha256, why },
    });
    Ok(ListRevocationsResponse { revocations: revocations.collect(), next: page.1 })
}

/// Whom an act is about, for the log.
pub(super) fn target(whom: Option<&Whom>) -> String {
    match whom {
        Some(Whom::Identity(text) | Whom::KeySha256(text)) => text.clone(),
        None => String::new(),
    }
}

/// The same, of an act that lifts one.
pub(super) fn lifted(whom: Option<&Lifted>) -> String {
    match whom {
        Some(Lifted::Identity(text) | Lifted::KeySha256(text)) => text.clone(),
        None => String::new(),
    }
}

/// Whether a revocation is about this identity, or this key.
pub(super) fn concerns(revocation: &StoredRevocation, lease: &Standing) -> bool {
    match revocation {
        StoredRevocation::Identity { identity, .. } => identity.matches(&lease.identity),
        StoredRevocation::Key { key_sha256, .. } => *key_sha256 == lease.key_sha256,
    }
}

fn parse(whom: Option<Whom>, why: String) -> Result<StoredRevocation, Status> {
    match whom {
        Some(Whom::Identity(text)) => {
            let identity = IdPattern::parse(&text)
                .map_err(|error| answer::invalid(format!("the identity is no SPIFFE ID: {error}")))?;
            Ok(StoredRevocation::Identity { identity, why })
        }
        Some(Whom::KeySha256(text)) => {
            Ok(StoredRevocation::Key { key_sha256: hex::encode(written::digest(&text)?), why })
        }
        None => Err(answer::invalid("say whom: an identity or a key")),
    }
}

/// The name that it is stored under, and its form.
fn stored(revocation: &StoredRevocation) -> Result<(String, Vec<u8>), Status> {
    Ok((revocation.name(), serde_json::to_vec(revocation).map_err(|_| answer::defect())?))
}

/// One more than are kept would leave all of them unread, and so everyone denied.
async fn check_room(service: &AdminService) -> Result<(), Status> {
    let count = listing::count(service.registry.vault(), Kind::Revocation).await;
    let count = count.and_then(|count| usize::try_from(count).ok());
    match count.is_some_and(|count| count < limits::REVOCATIONS) {
        true => Ok(()),
        false => Err(answer::refuse(answer::Refusal::TooMany, "as many revocations are kept as can be")),
    }
}

/// It is in force already: no new lease of it can come. What could not be recorded is said, and the act can be repeated.
async fn end_leases(
    service: &AdminService,
    caller: &Caller,
    revocation: &StoredRevocation,
    record: &str,
) -> Result<Vec<String>, Status> {
    let standing = service.registry.broker().leases().standing(caller.now);
    let mut ended = Vec::new();
    for lease in standing.into_iter().filter(|lease| concerns(revocation, lease)) {
        let detail = format!("revoked by {record}");
        if operations::end_lease(service, caller, &lease.id, &detail).await.is_err() {
            let why =
                "the revocation is in force, but the end of a lease could not be recorded: revoke again";
            return Err(answer::refuse(answer::Refusal::Unsettled, why));
        }
        ended.push(lease.id);
    }
    Ok(ended)
}

/// The revocations, for `explain`.
pub(super) async fn all(service: &AdminService) -> Result<Vec<StoredRevocation>, Status> {
    listing::all(service.registry.vault(), Kind::Revocation, limits::REVOCATIONS).await
}

/// Nothing of a revocation is more than its record says.
pub(super) fn words(revocation: &StoredRevocation) -> String {
    let value = match revocation {
        StoredRevocation::Identity { identity, why } => json!({ "identity": identity, "why": why }),
        StoredRevocation::Key { key_sha256, why } => json!({ "key_sha256": key_sha256, "why": why }),
    };
    value.to_string()
}
