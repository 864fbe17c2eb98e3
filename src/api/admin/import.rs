//! Role `reference`: reference values out of a signed CoRIM.
//!
//! *Takes* the file, the keys that may have signed it, and what no manifest says: section, name, workload, end. *Gives* the sets
//! in force, all of a request or none, or for a dry run what would change. *Denies* with INVALID_ARGUMENT and the cause.
//! *Source*: `appraisal/corim`; RFC 9334 §8.3; `deploy/reference-values.md`, "Signed manifests".
//!
//! The signature is verified here and nowhere before: a command line of another machine is no witness. Whoever has the role
//! `reference` may also write sets by hand, so which key counts is theirs to say, and the record keeps it.

use super::access::Caller;
use super::{AdminService, answer, reference, written};
use crate::appraisal::corim::{self, Imported, Manifest, Section, SignerKey, Wanted};
use crate::appraisal::reference_set::ReferenceSet as Set;
use crate::limits;
use crate::proto::admin::*;
use crate::spiffe::IdPattern;
use crate::time::Now;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;

pub(super) async fn import(
    service: &AdminService,
    caller: &Caller,
    request: ImportReferenceSetsRequest,
) -> Result<ImportReferenceSetsResponse, Status> {
    let target = request.name.clone();
    let prepared = prepare(service, caller, &request).await;
    match prepared {
        Ok(prepared) if request.dry_run => {
            service.note_read(caller, &target, None).await?;
            Ok(prepared.answer)
        }
        Ok(Prepared { sets, details, answer }) => {
            let change =
                reference::put_checked(service, caller, &sets, details, request.keep_latches).await?;
            Ok(ImportReferenceSetsResponse { change: Some(change), ..answer })
        }
        // A signature that is another's is worth a record, as is all else that was tried in vain.
        Err(status) => {
            service.note_read(caller, &target, Some(status.message().to_owned())).await?;
            Err(status)
        }
    }
}

/// All that is to be put, and what will be said of it.
struct Prepared {
    sets: Vec<Set>,
    details: Value,
    answer: ImportReferenceSetsResponse,
}

async fn prepare(
    service: &AdminService,
    caller: &Caller,
    request: &ImportReferenceSetsRequest,
) -> Result<Prepared, Status> {
    let wanted = wanted(request, caller.now)?;
    let (manifest, signer_sha256) = read(request, caller.now)?;
    let imported = corim::sets(&manifest, &wanted).map_err(answer::invalid)?;
    if imported.len() > limits::REFERENCE_SETS_PER_PUT {
        return Err(answer::invalid("at most 128 reference sets at once"));
    }
    let sets: Vec<Set> = imported.iter().map(|one| one.set.clone()).collect();
    let stored = reference::check(service, caller, &sets).await?;
    let details = json!({
        "corim_sha256": written::sha256(&request.corim),
        "manifest": manifest.id.to_string().chars().take(SHOWN_CHARACTERS).collect::<String>(),
        "signer_sha256": signer_sha256,
        "passed_over": manifest.passed_over.len(),
    });
    let answer = described(manifest, signer_sha256, imported, &stored, &wanted.workload);
    Ok(Prepared { sets, details, answer })
}

fn wanted(request: &ImportReferenceSetsRequest, now: Now) -> Result<Wanted, Status> {
    let section = Section::of_name(&request.format)
        .ok_or_else(|| answer::invalid("`format` is one of process, tpm2, nitro, sev-snp, tdx"))?;
    let workload = IdPattern::parse(&request.workload);
    let workload = workload.map_err(|error| answer::invalid(format!("workload: {error}")))?;
    if request.not_after.is_empty() {
        return Err(answer::invalid("not_after is missing: a reference set never lasts without an end"));
    }
    Ok(Wanted {
        section,
        name: request.name.clone(),
        workload,
        not_after: written::not_after(&request.not_after, now.wall)?,
        triples: request.triples.iter().copied().collect::<BTreeSet<u32>>(),
        pass_over: request.pass_over,
    })
}

/// The manifest, and the SHA-256 of the key's file whose signature it has.
fn read(request: &ImportReferenceSetsRequest, now: Now) -> Result<(Manifest, String), Status> {
    if !(1..=limits::CORIM_SIGNERS).contains(&request.signers.len()) {
        return Err(answer::invalid("1 to 8 signers' public keys are needed: an unsigned word is nobody's"));
    }
    let parse = |file: &Vec<u8>| {
        let key = SignerKey::parse(file).map_err(|error| answer::invalid(format!("signer: {error}")));
        key.map(|key| (key, written::sha256(file)))
    };
    // All of them first: a file that is no key must not depend on who signed.
    let keys = request.signers.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let mut refused = None;
    for (key, sha256) in keys {
        match corim::read(&request.corim, &key, now) {
            Ok(manifest) => return Ok((manifest, sha256)),
            Err(error @ (corim::Error::Signature | corim::Error::Algorithm)) => refused = Some(error),
            Err(error) => return Err(answer::invalid(format!("CoRIM: {error}"))),
        }
    }
    let refused = refused.map_or(String::new(), |error| error.to_string());
    Err(answer::invalid(format!("CoRIM: {refused}")))
}

fn described(
    manifest: Manifest,
    signer_sha256: String,
    imported: Vec<Imported>,
    stored: &[Set],
    workload: &IdPattern,
) -> ImportReferenceSetsResponse {
    let names: BTreeSet<String> = imported.iter().map(|one| one.set.name.clone()).collect();
    let others = stored.iter().filter(|set| set.workload == *workload && !names.contains(&set.name));
    let others = others.map(|set| set.name.clone()).collect();
    let describe = |one: Imported| {
        let before = stored.iter().find(|set| set.name == one.set.name);
        ImportedReferenceSet {
            environment: one.environment,
            triple: one.triple,
            json: serde_json::to_string(&one.set).unwrap_or_default(),
            difference: difference(before, &one.set),
            is_new: before.is_none(),
            name: one.set.name,
        }
    };
    ImportReferenceSetsResponse {
        change: None,
        manifest: manifest.id.to_string(),
        signer: manifest.signer,
        signer_sha256,
        sets: imported.into_iter().map(describe).collect(),
        passed_over: manifest.passed_over,
        others,
    }
}

/// What goes and what comes, member by member.
fn difference(before: Option<&Set>, after: &Set) -> Vec<String> {
    let flat = |set: Option<&Set>| {
        let mut members = BTreeMap::new();
        if let Some(Ok(value)) = set.map(serde_json::to_value) {
            flatten(String::new(), &value, &mut members);
        }
        members
    };
    let (before, after) = (flat(before), flat(Some(after)));
    let gone = before.iter().filter(|(key, value)| after.get(*key) != Some(value));
    let come = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let gone = gone.map(|(key, value)| format!("- {key}: {value}"));
    gone.chain(come.map(|(key, value)| format!("+ {key}: {value}"))).collect()
}

fn flatten(key: String, value: &Value, members: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(object) => {
            let inner = |name: &String| if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            object.iter().for_each(|(name, value)| flatten(inner(name), value, members));
        }
        Value::String(text) => drop(members.insert(key, text.clone())),
        other => drop(members.insert(key, other.to_string())),
    }
}

/// What a record keeps of a manifest's id.
const SHOWN_CHARACTERS: usize = 200;
