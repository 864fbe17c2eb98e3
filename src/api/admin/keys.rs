//! Role `keys`: the store's own keys. Nothing here shows one, and no key comes over the wire.
//!
//! *Takes* the wish for a new term, for everything to be sealed anew, or for another key source. *Gives* what is then so.
//! *Denies* what changes nothing, and a source that the broker's configuration does not name: where keys come from is said on
//! its host, and only when is said here. *Source*: `durability.md` "Records at rest"; NIST SP 800-57 part 1 §5.3.6.

use super::access::Caller;
use super::pending::Intended;
use super::{AdminService, answer};
use crate::proto::admin::*;
use crate::registry::keys::{NextSource, seal_of};
use crate::registry::{ChangeError, Changed};
use crate::store::keysource::{Key, Lock};
use serde_json::json;
use tonic::Status;

pub(super) async fn rotate(
    service: &AdminService,
    caller: &Caller,
    _request: RotateKeyRequest,
) -> Result<RotateKeyResponse, Status> {
    let keys = service.keys();
    let act = caller.act("a new term", json!({ "after": keys.keyring().current_term() }));
    let rotated = keys.rotate(act, caller.at).await;
    let (changed, term) = rotated.map_err(|error| answer::change(&error))?;
    Ok(RotateKeyResponse { change: Some(answered(changed)), term })
}

pub(super) async fn rewrap(
    service: &AdminService,
    caller: &Caller,
    _request: RewrapKeyRequest,
) -> Result<RewrapKeyResponse, Status> {
    let keys = service.keys();
    let keyring = keys.keyring();
    let term = keyring.current_term();
    let to_drop: Vec<u32> = keyring.terms().into_iter().filter(|one| *one != term).collect();
    if to_drop.is_empty() {
        return Err(answer::invalid(format!(
            "all is sealed in term {term}, the only one: `key rotate` first"
        )));
    }
    if keys.work().running {
        return Err(answer::refuse(answer::Refusal::Exists, "a rewrap is under way"));
    }
    let details = json!({ "term": term, "terms_to_drop": to_drop });
    let act = caller.act(&format!("to term {term}"), details);
    let changed = keys.rewrap(act, caller.at).await.map_err(|error: ChangeError| answer::change(&error))?;
    Ok(RewrapKeyResponse { change: Some(answered(changed)), term, terms_to_drop: to_drop })
}

pub(super) async fn rekey(
    service: &AdminService,
    caller: &Caller,
    _request: RekeyRequest,
) -> Result<RekeyResponse, Status> {
    let keys = service.keys();
    let seal = match service.registry.next_source() {
        None => {
            let why = "the broker's configuration names no `key_source_next`: say there what the next key comes from";
            return Err(answer::refuse(answer::Refusal::Changed, why));
        }
        Some(NextSource::Source(source)) => next_seal(source.clone()).await?,
        Some(NextSource::Shares) => {
            return Err(answer::invalid(
                "shares are dealt by `init` alone: a store that is there cannot move to them",
            ));
        }
    };
    let (before, after) = (keys.keyring().lock().to_string(), seal.0.to_string());
    let details = json!({ "locked_before": before, "locked_with": after });
    let prepared = keys.prepare_rekey(seal).await;
    let (mut transaction, next) = prepared.map_err(|error| answer::store(&error))?;
    let about = caller.verb().roles().iter().copied().collect();
    // It rests on the keyring as it is: one that was changed meanwhile is another's to lock anew.
    let intended = Intended { target: &after, details: &details, transaction: Some(&transaction), about };
    if let Some(waits) = service.agree(caller, intended).await? {
        return Ok(RekeyResponse { change: Some(waits), locked_with: String::new() });
    }
    if let Some(approval) = caller.approval() {
        service.registry.vault().remove(&mut transaction, &approval.record);
    }
    let act = caller.act(&after, details);
    let changed = service.registry.change_keyring(act, transaction, next, caller.at).await;
    let changed = changed.map_err(|error| answer::change(&error))?;
    Ok(RekeyResponse { change: Some(answered(changed)), locked_with: after })
}

pub(super) async fn status(
    service: &AdminService,
    _caller: &Caller,
    _request: KeyStatusRequest,
) -> Result<KeyStatusResponse, Status> {
    let keys = service.keys();
    let records = keys.records().await.map_err(|error| answer::store(&error))?;
    let (keyring, work) = (keys.keyring(), keys.work());
    let next = match service.registry.next_source() {
        None => String::new(),
        Some(NextSource::Source(source)) => source.name().to_owned(),
        Some(NextSource::Shares) => "shares".to_owned(),
    };
    Ok(KeyStatusResponse {
        locked_with: keyring.lock().to_string(),
        next_source: next,
        term: keyring.current_term(),
        terms: records.into_iter().map(|(term, records)| KeyTerm { term, records }).collect(),
        rewrapping: work.running,
        sealed_anew: work.sealed,
        stuck: work.stuck,
    })
}

/// Where blocking is allowed: a passphrase takes a second.
async fn next_seal(
    source: std::sync::Arc<dyn crate::store::keysource::KeySource>,
) -> Result<(Lock, Key), Status> {
    let asked = tokio::task::spawn_blocking(move || seal_of(source.as_ref())).await;
    asked.map_err(|_| answer::defect())?.map_err(|error| {
        answer::refuse(answer::Refusal::Unavailable, format!("the next key source gave no key: {error}"))
    })
}

fn answered(changed: Changed) -> ChangeResponse {
    ChangeResponse {
        record: changed.record,
        commit: changed.commit.map_or(0, |commit| commit.0),
        ..Default::default()
    }
}
