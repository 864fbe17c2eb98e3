//! Role `keys`: the store's own keys. Nothing here shows one, and no key comes over the wire.
//!
//! *Takes* the wish for a new term, for everything to be sealed anew, or for another key source. *Gives* what is then so.
//! *Denies* what changes nothing, and a source that the broker's configuration does not name: where keys come from is said on
//! its host, and only when is said here. *Source*: `durability.md` "Records at rest"; NIST SP 800-57 part 1 §5.3.6.

use super::access::Caller;
use super::pending::Intended;
use super::{AdminService, answer, written};
use crate::proto::admin::*;
use crate::registry::dealing::{Confirmed, HolderKey};
use crate::registry::keys::{NextSource, seal_of};
use crate::registry::{ChangeError, Changed};
use crate::store::keysource::{Key, KeySourceError, Lock, ShareSet};
use serde_json::json;
use tonic::Status;
use zeroize::Zeroizing;

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
    request: RekeyRequest,
) -> Result<RekeyResponse, Status> {
    let keys = service.keys();
    if let (Some(NextSource::Shares), false) = (service.registry.next_source(), request.holders.is_empty()) {
        return deal(service, caller, request).await;
    }
    if !request.holders.is_empty() || request.threshold != 0 {
        return Err(answer::invalid(
            "holders are named where `key_source_next` is \"shares\", and only there",
        ));
    }
    let seal = match service.registry.next_source() {
        None => {
            let why = "the broker's configuration names no `key_source_next`: say there what the next key comes from";
            return Err(answer::refuse(answer::Refusal::Changed, why));
        }
        Some(NextSource::Source(source)) => next_seal(source.clone()).await?,
        Some(NextSource::Shares) => {
            return Err(answer::invalid(
                "the next source is shares: name their holders (`portcullis holder new`)",
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

/// Deals shares to the holders that were named. Nothing opens the store that did not, until enough of them were read back.
async fn deal(
    service: &AdminService,
    caller: &Caller,
    request: RekeyRequest,
) -> Result<RekeyResponse, Status> {
    let mut keys = Vec::with_capacity(request.holders.len());
    for holder in &request.holders {
        let wrong = |why: &dyn std::fmt::Display| answer::invalid(format!("holder `{}`: {why}", holder.name));
        written::name(&holder.name, true)?;
        let key = HolderKey::parse(&holder.key).map_err(|error| wrong(&error))?;
        if request.holders.iter().filter(|one| one.key == holder.key || one.name == holder.name).count() > 1 {
            return Err(wrong(&"there twice: each holds one share, with a key of its own"));
        }
        keys.push(key);
    }
    let invalid = |error| answer::invalid(error);
    let threshold = u8::try_from(request.threshold).map_err(|_| invalid(KeySourceError::ShareNumbers))?;
    let count = u8::try_from(keys.len()).map_err(|_| invalid(KeySourceError::ShareNumbers))?;
    ShareSet::new(threshold, count).map_err(invalid)?;
    let holders: Vec<_> =
        request.holders.iter().map(|one| json!({ "name": one.name, "key": one.key })).collect();
    let target = format!("{threshold} of {count} shares, dealt");
    let before = service.keys().keyring().lock().to_string();
    let details = json!({ "locked_before": before, "threshold": threshold, "holders": holders });
    let about = caller.verb().roles().iter().copied().collect();
    let intended = Intended { target: &target, details: &details, transaction: None, about };
    if let Some(waits) = service.agree(caller, intended).await? {
        return Ok(RekeyResponse { change: Some(waits), locked_with: String::new() });
    }
    service.spend(caller).await?;
    let intended = service.registry.intend(caller.act(&target, details), caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    let dealt = service.keys().dealing().deal(&keys, threshold, caller.at);
    let dealt = dealt.map_err(|error| answer::refuse(answer::Refusal::Unavailable, error))?;
    let names = request.holders.into_iter().map(|one| one.name);
    let shares = names.zip(dealt).map(|(holder, share)| SealedShare { holder, share }).collect();
    let change = ChangeResponse { record, shares, ..Default::default() };
    Ok(RekeyResponse { change: Some(change), locked_with: before })
}

pub(super) async fn confirm(
    service: &AdminService,
    caller: &Caller,
    request: ConfirmRekeyRequest,
) -> Result<ConfirmRekeyResponse, Status> {
    let dealing = service.keys().dealing();
    let share = Zeroizing::new(request.share);
    let standing = dealing.standing(caller.at);
    let needed = standing.map_or(0, |(set, _)| u32::from(set.threshold));
    let seal = match dealing.confirm(&share, caller.at) {
        Err(KeySourceError::NotDealt) => {
            let why = answer::refuse(answer::Refusal::Changed, KeySourceError::NotDealt);
            return Err(service.refused(caller, "key", why).await);
        }
        Err(error) => return Err(service.refused(caller, "key", answer::invalid(error)).await),
        Ok(Confirmed::Waiting(have)) => {
            let target = format!("share {have} of {needed} was read back");
            let intended = service.registry.intend(caller.act(&target, json!(null)), caller.at).await;
            intended.map_err(|error| answer::change(&error))?;
            let have = u32::try_from(have).unwrap_or(u32::MAX);
            return Ok(ConfirmRekeyResponse { have, needed, ..Default::default() });
        }
        Ok(Confirmed::Whole(seal)) => seal,
    };
    let (before, after) = (service.keys().keyring().lock().to_string(), seal.0.to_string());
    let prepared = service.keys().prepare_rekey(seal).await;
    let (transaction, next) = prepared.map_err(|error| answer::store(&error))?;
    let act = caller.act(&after, json!({ "locked_before": before, "locked_with": after }));
    let changed = service.registry.change_keyring(act, transaction, next, caller.at).await;
    let changed = changed.map_err(|error| answer::change(&error))?;
    dealing.forget();
    let change = Some(answered(changed));
    Ok(ConfirmRekeyResponse { change, have: needed, needed, locked_with: after })
}

pub(super) async fn status(
    service: &AdminService,
    caller: &Caller,
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
    let dealt = keys
        .dealing()
        .standing(caller.at)
        .map(|(set, have)| format!("{}: {have} of {} read back", Lock::Shares(set), set.threshold));
    Ok(KeyStatusResponse {
        locked_with: keyring.lock().to_string(),
        next_source: next,
        term: keyring.current_term(),
        terms: records.into_iter().map(|(term, records)| KeyTerm { term, records }).collect(),
        rewrapping: work.running,
        sealed_anew: work.sealed,
        stuck: work.stuck,
        dealt: dealt.unwrap_or_default(),
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

/// A share is shown by none.
impl std::fmt::Debug for ConfirmRekeyRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ConfirmRekeyRequest").finish_non_exhaustive()
    }
}

fn answered(changed: Changed) -> ChangeResponse {
    ChangeResponse {
        record: changed.record,
        commit: changed.commit.map_or(0, |commit| commit.0),
        ..Default::default()
    }
}
