//! Role `reference`: what workloads may be, set by set.
//!
//! *Takes* TOML or JSON. *Gives* the sets in force, all of a request or none. *Denies* a set that has ended, is malformed,
//! or vouches for a launcher alone. *Source*: RFC 9334 §8.3; catalogue rows 5, 40.

use super::access::{Caller, Plan};
use super::{AdminService, answer, listing, written};
use crate::appraisal::reference_set::ReferenceSet as Set;
use crate::appraisal::reference_text;
use crate::appraisal::reference_values::ReferenceValues;
use crate::limits;
use crate::proto::admin::put_reference_sets_request::Sets;
use crate::proto::admin::*;
use crate::store::{Kind, Transaction};
use serde_json::json;
use std::collections::BTreeMap;
use tonic::Status;

pub(super) async fn put(
    service: &AdminService,
    caller: &Caller,
    request: PutReferenceSetsRequest,
) -> Result<ChangeResponse, Status> {
    let (sets, text) = parse(request.sets)?;
    check(service, caller, &sets).await?;
    let details = json!({ "sha256": written::sha256(text.as_bytes()) });
    put_checked(service, caller, &sets, details, request.keep_latches).await
}

/// Whether the sets may be put, each by itself and beside all others. Gives those that are stored.
pub(super) async fn check(service: &AdminService, caller: &Caller, sets: &[Set]) -> Result<Vec<Set>, Status> {
    let launchers = service.registry.launchers();
    for set in sets {
        set.check(caller.now, launchers)
            .map_err(|error| answer::invalid(format!("set `{}`: {error}", set.name)))?;
    }
    check_all_load(service, sets).await
}

/// Puts sets that were checked in this turn; `details`, an object, say in the log where they come from.
pub(super) async fn put_checked(
    service: &AdminService,
    caller: &Caller,
    sets: &[Set],
    mut details: serde_json::Value,
    keep_latches: bool,
) -> Result<ChangeResponse, Status> {
    let vault = service.registry.vault();
    let mut transaction = Transaction::default();
    for set in sets {
        let previous =
            vault.read(Kind::ReferenceSet, &set.name).await.map_err(|error| answer::store(&error))?;
        let body = serde_json::to_vec(set).map_err(|_| answer::defect())?;
        let put = vault.put(&mut transaction, Kind::ReferenceSet, &set.name, previous.as_ref(), &body);
        put.map_err(|error| answer::store(&error))?;
    }
    let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
    if let Some(details) = details.as_object_mut() {
        details.insert("sets".to_owned(), json!(names));
    }
    let plan = Plan {
        target: names.join(","),
        details,
        transaction,
        kinds: vec![Kind::ReferenceSet],
        rests: vec!["reference".to_owned()],
        keep_latches,
    };
    service.change(caller, plan).await
}

pub(super) async fn remove(
    service: &AdminService,
    caller: &Caller,
    request: RemoveReferenceSetRequest,
) -> Result<ChangeResponse, Status> {
    let vault = service.registry.vault();
    let record =
        vault.read(Kind::ReferenceSet, &request.name).await.map_err(|error| answer::store(&error))?;
    let record = record.ok_or_else(|| answer::not_found("there is no such reference set"))?;
    let uncovers = uncovers(service, &record.body, &request.name).await?;
    if uncovers {
        caller.check_clock()?;
    }
    let mut transaction = Transaction::default();
    vault.remove(&mut transaction, &record);
    let plan = Plan {
        target: request.name,
        details: json!({ "sha256": written::sha256(&record.body) }),
        transaction,
        kinds: vec![Kind::ReferenceSet],
        rests: vec!["reference".to_owned()],
        keep_latches: request.keep_latches,
    };
    match uncovers {
        false => service.change_alone(caller, plan).await,
        true => service.change(caller, plan).await,
    }
}

/// Whether the sets of a wider pattern, which may allow more, would count where this one did: it is the last of its workload.
/// What cannot be read could have been.
async fn uncovers(service: &AdminService, removed: &[u8], name: &str) -> Result<bool, Status> {
    let Ok(removed) = serde_json::from_slice::<Set>(removed) else { return Ok(true) };
    let stored: Vec<Set> =
        listing::all(service.registry.vault(), Kind::ReferenceSet, limits::REFERENCE_SETS).await?;
    let mut others = stored.iter().filter(|set| set.name != name).map(|set| &set.workload);
    let last = !others.clone().any(|workload| *workload == removed.workload);
    Ok(last && others.any(|workload| workload.is_wider_than(&removed.workload)))
}

pub(super) async fn list(
    service: &AdminService,
    caller: &Caller,
    request: ListReferenceSetsRequest,
) -> Result<ListReferenceSetsResponse, Status> {
    let vault = service.registry.vault();
    let page = listing::page::<Set>(vault, Kind::ReferenceSet, &request.after, request.limit).await?;
    let sets = page.0.into_iter().map(|set| ReferenceSet {
        json: serde_json::to_string(&set).unwrap_or_default(),
        ended: caller.now.wall >= set.not_after,
        not_after: set.not_after.to_string(),
        workload: set.workload.to_string(),
        name: set.name,
    });
    Ok(ListReferenceSetsResponse { sets: sets.collect(), next: page.1 })
}

fn parse(sets: Option<Sets>) -> Result<(Vec<Set>, String), Status> {
    let (sets, text) = match sets {
        Some(Sets::Toml(text)) => (reference_text::parse_toml(&text).map_err(answer::invalid)?, text),
        Some(Sets::Json(text)) => (reference_text::parse_json(&text).map_err(answer::invalid)?, text),
        None => return Err(answer::invalid("no reference set")),
    };
    match sets.len() {
        0 => Err(answer::invalid("no reference set")),
        1..=limits::REFERENCE_SETS_PER_PUT => Ok((sets, text)),
        _ => Err(answer::invalid("at most 128 reference sets at once")),
    }
}

/// A set that cannot stand beside the others would leave every workload denied, so it is refused here.
async fn check_all_load(service: &AdminService, new: &[Set]) -> Result<Vec<Set>, Status> {
    let stored: Vec<Set> =
        listing::all(service.registry.vault(), Kind::ReferenceSet, limits::REFERENCE_SETS).await?;
    let mut all: BTreeMap<&str, &Set> = stored.iter().map(|set| (set.name.as_str(), set)).collect();
    let before = all.len();
    all.extend(new.iter().map(|set| (set.name.as_str(), set)));
    if all.len() > limits::REFERENCE_SETS && all.len() > before {
        return Err(answer::refuse(answer::Refusal::TooMany, "as many reference sets are kept as can be"));
    }
    let mut names = std::collections::BTreeSet::new();
    if let Some(twice) = new.iter().find(|set| !names.insert(set.name.as_str())) {
        return Err(answer::invalid(format!("two sets are named `{}`", twice.name)));
    }
    let all = all.into_values().cloned().collect();
    let launchers = service.registry.launchers().clone();
    let loaded = tokio::task::spawn_blocking(move || ReferenceValues::new(all, launchers).map(drop)).await;
    loaded.map_err(|_| answer::defect())?.map_err(answer::invalid)?;
    Ok(stored)
}
