//! Pages of stored facts, and counts of them.
//!
//! *Takes* a kind and the place to go on at. *Gives* a page, in an order that says nothing of names. *Denies* with
//! STORE_UNAVAILABLE where a record is damaged: half a page is no answer. *Source*: none; `store::vault::Page`.

use super::answer;
use crate::limits;
use crate::store::{Kind, Vault};
use serde::de::DeserializeOwned;
use tonic::Status;

/// Facts of a kind past `after`, and where the next page begins; empty after the last.
pub(super) async fn page<T: DeserializeOwned>(
    vault: &Vault,
    kind: Kind,
    after: &str,
    limit: u32,
) -> Result<(Vec<T>, String), Status> {
    let (after, mut limit) = (place(after)?, size(limit));
    let page = loop {
        let page = vault.list(kind, after.as_deref(), limit).await.map_err(|error| answer::store(&error))?;
        let bytes = page.records.iter().map(|record| record.body.len()).fold(0, usize::saturating_add);
        if bytes <= limits::ADMIN_LISTED_BYTES || limit <= 1 {
            break page;
        }
        limit /= 2;
    };
    let facts = page.records.iter().map(|record| parse(&record.body)).collect::<Result<_, _>>()?;
    Ok((facts, page.next.map(hex::encode).unwrap_or_default()))
}

/// All facts of a kind; refused past `maximum`.
pub(super) async fn all<T: DeserializeOwned>(
    vault: &Vault,
    kind: Kind,
    maximum: usize,
) -> Result<Vec<T>, Status> {
    let records = vault.all(kind, maximum).await.map_err(|error| answer::store(&error))?;
    records.iter().map(|record| parse(&record.body)).collect()
}

/// How many facts of a kind there are; none of them is opened. None where the store does not answer.
pub(super) async fn count(vault: &Vault, kind: Kind) -> Option<u64> {
    let (mut count, mut after) = (0_u64, None::<Vec<u8>>);
    loop {
        let entries = vault.store().scan(&[kind.code()], after.as_deref(), limits::STORE_PAGE).await.ok()?;
        count = count.saturating_add(u64::try_from(entries.len()).ok()?);
        match entries.last() {
            Some(last) if entries.len() >= limits::STORE_PAGE => after = Some(last.key.clone()),
            Some(_) | None => return Some(count),
        }
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    let unknown = |_| answer::refuse(answer::Refusal::Unavailable, "a stored fact has no known shape");
    serde_json::from_slice(body).map_err(unknown)
}

/// `next` of a page before; empty is the beginning.
pub(super) fn place(after: &str) -> Result<Option<Vec<u8>>, Status> {
    if after.is_empty() {
        return Ok(None);
    }
    let place = hex::decode(after).ok().filter(|place| place.len() <= limits::STORE_KEY_BYTES);
    place.map(Some).ok_or_else(|| answer::invalid("`after` is not the `next` of a page"))
}

/// 0 is the most.
pub(super) fn size(limit: u32) -> usize {
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => limit.min(limits::STORE_PAGE),
        Ok(_) | Err(_) => limits::STORE_PAGE,
    }
}
