//! The manifest itself and the tags in it.
//!
//! *Takes* the payload of a signature that verified. *Gives* [`Manifest`], its signer still empty. *Denies* nothing itself.
//! *Source*: draft-ietf-rats-corim §4.1 (corim-map), §5.1 (concise-mid-tag).

use super::envelope::Validity;
use super::fields::{self, Fields};
use super::{Error, Identifier, Manifest, triples};
use crate::evidence::cbor::Value;

pub(super) fn read(payload: &[u8]) -> Result<Manifest, Error> {
    let Value::Tagged(TAG_CORIM, map) = fields::read("payload", payload)? else {
        return Err(Error::Wrong("payload"));
    };
    let mut map = Fields::of("corim", *map)?;
    let validity = map.optional(4, "rim-validity", Validity::read)?.unwrap_or_default();
    let mut manifest = Manifest {
        id: fields::identifier(map.required(0, "id")?, "id")?,
        signer: String::new(),
        profiles: map.optional(3, "profile", profiles)?.unwrap_or_default(),
        not_before: validity.from,
        not_after: validity.to,
        references: Vec::new(),
        passed_over: Vec::new(),
    };
    if map.take(2).is_some() {
        manifest.passed_over.push("dependent-rims: other manifests that this one needs".to_owned());
    }
    map.take(5);
    for tag in fields::some(map.required(1, "tags")?, "tags")? {
        read_tag(tag, &mut manifest)?;
    }
    map.end()?;
    match manifest.references.is_empty() {
        true => Err(Error::Empty),
        false => Ok(manifest),
    }
}

/// One profile, or several as earlier drafts had it.
fn profiles(value: Value<'_>, name: &'static str) -> Result<Vec<Identifier>, Error> {
    match value {
        Value::Array(profiles) => {
            profiles.into_iter().map(|profile| fields::identifier(profile, name)).collect()
        }
        profile => fields::identifier(profile, name).map(|profile| vec![profile]),
    }
}

fn read_tag(tag: Value<'_>, manifest: &mut Manifest) -> Result<(), Error> {
    match tag {
        Value::Tagged(TAG_COMID, body) => {
            let body = fields::bytes(*body, "concise-mid-tag")?;
            read_comid(fields::read("concise-mid-tag", body)?, manifest)
        }
        Value::Tagged(TAG_COSWID, _) => {
            manifest.passed_over.push("a concise software identity tag".to_owned());
            Ok(())
        }
        Value::Tagged(TAG_COTL, _) => {
            manifest.passed_over.push("a list of the tags that are in force".to_owned());
            Ok(())
        }
        Value::Tagged(other, _) => Err(Error::Unknown("tags", format!("tag {other}"))),
        _ => Err(Error::Wrong("tags")),
    }
}

fn read_comid(value: Value<'_>, manifest: &mut Manifest) -> Result<(), Error> {
    let mut comid = Fields::of("concise-mid-tag", value)?;
    comid.optional(0, "language", fields::text)?;
    let mut identity = Fields::of("tag-identity", comid.required(1, "tag-identity")?)?;
    let id = fields::identifier(identity.required(0, "tag-id")?, "tag-id")?;
    identity.optional(1, "tag-version", fields::unsigned)?;
    identity.end()?;
    comid.take(2);
    if comid.take(3).is_some() {
        manifest.passed_over.push(format!("linked-tags: what tag {id} supplements or replaces"));
    }
    let mut kinds = Fields::of("triples", comid.required(4, "triples")?)?;
    comid.end()?;
    if let Some(references) = kinds.take(REFERENCE_TRIPLES) {
        for triple in fields::some(references, "reference-triples")? {
            manifest.references.push(triples::read(triple)?);
        }
    }
    // No other kind takes a reference value back: they add claims, keys, memberships (§5.1.5 and following).
    let others = kinds.rest();
    manifest.passed_over.extend(others.into_iter().map(|kind| format!("triples of kind {kind} in tag {id}")));
    Ok(())
}

const REFERENCE_TRIPLES: u64 = 0;

// CoRIM's tags (draft-ietf-rats-corim §10).
const TAG_CORIM: u64 = 501;
const TAG_COSWID: u64 = 505;
const TAG_COMID: u64 = 506;
const TAG_COTL: u64 = 508;
