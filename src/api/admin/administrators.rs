//! Role `administrators`: keys and their roles. Whoever may do this can give itself every role, and the log says so.
//!
//! *Takes* a name, a key, roles, an end. *Gives* the list in force, at once on open connections too. *Denies* what would
//! leave nobody to put another. *Source*: NIST SP 800-53 AC-2, AC-5; `registry::administrator`.

use super::access::{Caller, Plan};
use super::{AdminService, answer, listing, pending, two_persons, written};
use crate::limits;
use crate::proto::admin::put_administrator_request::Key;
use crate::proto::admin::remove_administrator_request::Whom;
use crate::proto::admin::*;
use crate::registry::{Administrator as Stored, Administrators, Role};
use crate::store::{Kind, Transaction};
use crate::time::Now;
use crate::transport::svid;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use std::collections::BTreeSet;
use tonic::Status;

pub(super) async fn put(
    service: &AdminService,
    caller: &Caller,
    request: PutAdministratorRequest,
) -> Result<ChangeResponse, Status> {
    let one = parse(request, caller)?;
    let mut all = stored(service).await?;
    let before = all.len();
    all.retain(|other| other.key_sha256 != one.key_sha256);
    all.push(one.clone());
    if all.len() > before && all.len() > limits::ADMINISTRATORS {
        return Err(answer::refuse(answer::Refusal::TooMany, "as many administrators are kept as can be"));
    }
    check_keepers(all.clone(), caller.now)?;
    let vault = service.registry.vault();
    let previous =
        vault.read(Kind::Administrator, &one.key_sha256).await.map_err(|error| answer::store(&error))?;
    let body = serde_json::to_vec(&one).map_err(|_| answer::defect())?;
    let mut transaction = Transaction::default();
    let put = vault.put(&mut transaction, Kind::Administrator, &one.key_sha256, previous.as_ref(), &body);
    put.map_err(|error| answer::store(&error))?;
    two_persons::follow(service, caller, &mut transaction, &Administrators::new(all)).await?;
    // A role that it takes two persons to use takes two to give.
    let about = one.roles.iter().copied().chain([Role::Administrators]).collect();
    let plan = Plan {
        details: json!({
            "key_sha256": one.key_sha256,
            "roles": one.roles,
            "not_after": one.not_after.to_string(),
            "replaces": previous.is_some(),
        }),
        target: one.name,
        transaction,
        kinds: vec![Kind::Administrator],
        rests: Vec::new(),
        keep_latches: true,
    };
    service.change_about(caller, plan, about).await
}

pub(super) async fn remove(
    service: &AdminService,
    caller: &Caller,
    request: RemoveAdministratorRequest,
) -> Result<ChangeResponse, Status> {
    let target = target(&request);
    let meant = |one: &Stored| match &request.whom {
        Some(Whom::Name(name)) => one.name == *name,
        Some(Whom::KeySha256(key)) => one.key_sha256 == *key,
        None => false,
    };
    let (gone, left): (Vec<Stored>, Vec<Stored>) = stored(service).await?.into_iter().partition(meant);
    if gone.is_empty() {
        return Err(answer::not_found("there is no such administrator"));
    }
    check_keepers(left, caller.now)?;
    let vault = service.registry.vault();
    let mut transaction = Transaction::default();
    for one in &gone {
        let record =
            vault.read(Kind::Administrator, &one.key_sha256).await.map_err(|error| answer::store(&error))?;
        vault.remove(&mut transaction, &record.ok_or_else(answer::defect)?);
    }
    let keys: Vec<&str> = gone.iter().map(|one| one.key_sha256.as_str()).collect();
    pending::forget(service, &mut transaction, &keys).await?;
    let plan = Plan {
        target,
        details: json!({ "keys_sha256": keys }),
        transaction,
        kinds: vec![Kind::Administrator],
        rests: Vec::new(),
        keep_latches: true,
    };
    service.change(caller, plan).await
}

pub(super) async fn list(
    service: &AdminService,
    caller: &Caller,
    _request: ListAdministratorsRequest,
) -> Result<ListAdministratorsResponse, Status> {
    let mut all = stored(service).await?;
    all.sort_by(|a, b| (&a.name, &a.key_sha256).cmp(&(&b.name, &b.key_sha256)));
    let administrators = all.into_iter().map(|one| Administrator {
        ended: caller.now.wall >= one.not_after,
        not_after: one.not_after.to_string(),
        roles: one.roles.iter().map(|role| role.name().to_owned()).collect(),
        name: one.name,
        key_sha256: one.key_sha256,
    });
    Ok(ListAdministratorsResponse { administrators: administrators.collect() })
}

/// Whom a removal is about, for the log.
pub(super) fn target(request: &RemoveAdministratorRequest) -> String {
    match &request.whom {
        Some(Whom::Name(text) | Whom::KeySha256(text)) => text.clone(),
        None => String::new(),
    }
}

fn parse(request: PutAdministratorRequest, caller: &Caller) -> Result<Stored, Status> {
    written::name(&request.name, true)?;
    let key_sha256 = match request.key {
        Some(Key::CertificatePem(pem)) => key_of(written::certificate(&pem)?)?,
        Some(Key::CertificateDer(der)) => key_of(der)?,
        Some(Key::KeySha256(text)) => written::digest(&text)?,
        None => return Err(answer::invalid("the certificate, or its key's SHA-256, is missing")),
    };
    let role =
        |name: &String| Role::parse(name).ok_or_else(|| answer::invalid(format!("`{name}` is no role")));
    let roles = request.roles.iter().map(role).collect::<Result<BTreeSet<_>, _>>()?;
    if roles.is_empty() {
        return Err(answer::invalid("say at least one role"));
    }
    Ok(Stored {
        name: request.name,
        key_sha256: hex::encode(key_sha256),
        roles,
        not_after: written::not_after(&request.not_after, caller.now.wall)?,
    })
}

/// A certificate that the listener would refuse anyway is refused here, with the cause.
fn key_of(der: Vec<u8>) -> Result<[u8; 32], Status> {
    let wrong = "the certificate is no administrator's: an SVID, a CA, or without digitalSignature";
    let leaf = svid::check_administrator(&[CertificateDer::from(der)]).map_err(|_| answer::invalid(wrong))?;
    Ok(leaf.spki_sha256)
}

async fn stored(service: &AdminService) -> Result<Vec<Stored>, Status> {
    listing::all(service.registry.vault(), Kind::Administrator, limits::ADMINISTRATORS).await
}

fn check_keepers(left: Vec<Stored>, now: Now) -> Result<(), Status> {
    match Administrators::new(left).keepers(now) {
        0 => {
            let why = "nobody could put an administrator any more: put another with the role `administrators` first";
            Err(answer::refuse(answer::Refusal::LastKeeper, why))
        }
        _ => Ok(()),
    }
}
