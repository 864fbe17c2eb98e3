//! Role `nodes`: whose word about processes counts, for which identities, until when.
//!
//! *Takes* a name, a public key, an end and patterns. *Gives* the enrolment in force. *Denies* a node that could vouch for
//! nobody, a key that is another node's. *Source*: `protocol.md` "process"; catalogue row 31.

use super::access::{Caller, Plan};
use super::{AdminService, answer, attestation, listing, written};
use crate::evidence::process::{EnrolledNode, NodeKey};
use crate::evidence::{nitro, sev_snp, tdx, tpm2};
use crate::limits;
use crate::proto::admin::enrol_node_request::PublicKey;
use crate::proto::admin::*;
use crate::registry::attestation::record_name;
use crate::spiffe::IdPattern;
use crate::store::{Kind, Transaction};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;

pub(super) async fn enrol(
    service: &AdminService,
    caller: &Caller,
    request: EnrolNodeRequest,
) -> Result<EnrolNodeResponse, Status> {
    let node = parse(&request, caller)?;
    let key_sha256 = hex::encode(node.public_key.key_id());
    check_key(service, &node).await?;
    let vault = service.registry.vault();
    let previous = vault.read(Kind::Node, &node.name).await.map_err(|error| answer::store(&error))?;
    if previous.is_some() && !request.replace {
        let why = "a node of this name is enrolled: say `replace` to put this enrolment in its place";
        return Err(answer::refuse(answer::Refusal::Exists, why));
    }
    let replaced: Option<EnrolledNode> =
        previous.as_ref().map(|record| listing::parse(&record.body)).transpose()?;
    let body = serde_json::to_vec(&node).map_err(|_| answer::defect())?;
    let mut transaction = Transaction::default();
    let put = vault.put(&mut transaction, Kind::Node, &node.name, previous.as_ref(), &body);
    put.map_err(|error| answer::store(&error))?;
    let plan = Plan {
        details: json!({
            "key_sha256": key_sha256,
            "not_after": node.not_after.to_string(),
            "may_vouch_for": node.may_vouch_for,
            "measurements": node.measurements,
            "replaces_key_sha256": replaced.map(|node| hex::encode(node.public_key.key_id())),
        }),
        rests: vec![format!("node:{}", node.name)],
        target: node.name,
        transaction,
        kinds: vec![Kind::Node],
        keep_latches: request.keep_latches,
    };
    let change = service.change(caller, plan).await?;
    Ok(EnrolNodeResponse { change: Some(change), key_sha256 })
}

pub(super) async fn remove(
    service: &AdminService,
    caller: &Caller,
    request: RemoveNodeRequest,
) -> Result<ChangeResponse, Status> {
    if !request.ak_name.is_empty() {
        return remove_attestation_key(service, caller, request).await;
    }
    let vault = service.registry.vault();
    let record = vault.read(Kind::Node, &request.name).await.map_err(|error| answer::store(&error))?;
    let attestation_keys = attestation::keys(service, Some(&request.name))?;
    if record.is_none() && attestation_keys.is_empty() {
        return Err(answer::not_found("no node of this name is enrolled"));
    }
    let node: Option<EnrolledNode> =
        record.as_ref().map(|record| listing::parse(&record.body)).transpose()?;
    let mut transaction = Transaction::default();
    record.iter().for_each(|record| vault.remove(&mut transaction, record));
    for one in &attestation_keys {
        attestation::remove(service, &mut transaction, &one.ak).await?;
    }
    let plan = Plan {
        details: json!({
            "key_sha256": node.map(|node| hex::encode(node.public_key.key_id())),
            "ak_names": attestation_keys.iter().map(|one| record_name(&one.ak)).collect::<Vec<_>>(),
        }),
        rests: vec![format!("node:{}", request.name)],
        target: request.name,
        transaction,
        kinds: vec![Kind::Node, Kind::AttestationKey],
        keep_latches: request.keep_latches,
    };
    service.change(caller, plan).await
}

async fn remove_attestation_key(
    service: &AdminService,
    caller: &Caller,
    request: RemoveNodeRequest,
) -> Result<ChangeResponse, Status> {
    let name = attestation::ak_name(&request.ak_name)?;
    let keys = attestation::keys(service, Some(&request.name))?;
    let key = keys.iter().find(|one| one.ak.key.name() == name);
    let key = key.ok_or_else(|| answer::not_found("this node has no attestation key of this Name"))?;
    let mut transaction = Transaction::default();
    attestation::remove(service, &mut transaction, &key.ak).await?;
    let plan = Plan {
        details: json!({ "ak_names": [record_name(&key.ak)] }),
        rests: vec![format!("node:{}", request.name)],
        target: request.name,
        transaction,
        kinds: vec![Kind::AttestationKey],
        keep_latches: request.keep_latches,
    };
    service.change(caller, plan).await
}

pub(super) async fn list(
    service: &AdminService,
    caller: &Caller,
    request: ListNodesRequest,
) -> Result<ListNodesResponse, Status> {
    let vault = service.registry.vault();
    let page = listing::page::<EnrolledNode>(vault, Kind::Node, &request.after, request.limit).await?;
    let mut keys: BTreeMap<String, Vec<AttestationKey>> = BTreeMap::new();
    for one in attestation::keys(service, None)? {
        let key = attestation::listed(service, &one, caller.now);
        keys.entry(one.ak.node).or_default().push(key);
    }
    let nodes = page.0.into_iter().map(|node| Node {
        key_sha256: hex::encode(node.public_key.key_id()),
        ended: caller.now.wall >= node.not_after,
        not_after: node.not_after.to_string(),
        may_vouch_for: node.may_vouch_for.iter().map(ToString::to_string).collect(),
        measurements: written_measurements(&node),
        attestation_keys: keys.remove(&node.name).unwrap_or_default(),
        name: node.name,
    });
    Ok(ListNodesResponse { nodes: nodes.collect(), next: page.1 })
}

fn written_measurements(node: &EnrolledNode) -> Vec<String> {
    let of = |(format, values): (&String, &BTreeSet<String>)| -> Vec<String> {
        match values.is_empty() {
            true => vec![format.clone()],
            false => values.iter().map(|value| format!("{format}={value}")).collect(),
        }
    };
    node.measurements.iter().flat_map(of).collect()
}

fn parse(request: &EnrolNodeRequest, caller: &Caller) -> Result<EnrolledNode, Status> {
    written::name(&request.name, false)?;
    let spki = match &request.public_key {
        Some(PublicKey::Pem(pem)) => written::public_key(pem)?,
        Some(PublicKey::Spki(spki)) => spki.clone(),
        None => return Err(answer::invalid("the node's public key is missing")),
    };
    let public_key =
        NodeKey::from_spki(&spki).map_err(|error| answer::invalid(format!("the public key is {error}")))?;
    if request.may_vouch_for.is_empty() {
        return Err(answer::invalid("say for which SPIFFE IDs the node may vouch; never all by default"));
    }
    if request.may_vouch_for.len() > limits::NODE_PATTERNS {
        return Err(answer::refuse(answer::Refusal::TooMany, "at most 256 patterns of one node"));
    }
    let pattern = |text: &String| {
        IdPattern::parse(text).map_err(|error| answer::invalid(format!("may_vouch_for: {error}")))
    };
    Ok(EnrolledNode {
        name: request.name.clone(),
        public_key,
        not_after: written::not_after(&request.not_after, caller.now.wall)?,
        may_vouch_for: request.may_vouch_for.iter().map(pattern).collect::<Result<_, _>>()?,
        measurements: measurements(&request.measurements)?,
    })
}

/// `FORMAT=HEX`, several of one format as alternatives; `tpm2` alone, as its keys are enrolled by themselves.
fn measurements(written: &[String]) -> Result<BTreeMap<String, BTreeSet<String>>, Status> {
    let mut measurements: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if written.len() > limits::NODE_MEASUREMENTS {
        return Err(answer::refuse(answer::Refusal::TooMany, "at most 64 measurements of one node"));
    }
    for one in written {
        if one == tpm2::FORMAT {
            measurements.entry(tpm2::FORMAT.to_owned()).or_default();
            continue;
        }
        let (format, value) = one.split_once('=').unwrap_or((one, ""));
        let whole = hex::decode(value).is_ok_and(|bytes| bytes.len() == limits::MEASUREMENT_BYTES);
        if ![nitro::FORMAT, sev_snp::FORMAT, tdx::FORMAT].contains(&format) || !whole {
            let why = format!(
                "measurement `{one}`: FORMAT=HEX, of nitro (PCR0), sev-snp (MEASUREMENT) or tdx (MRTD), 48 bytes; or \
                 `tpm2` alone"
            );
            return Err(answer::invalid(why));
        }
        measurements.entry(format.to_owned()).or_default().insert(value.to_ascii_lowercase());
    }
    Ok(measurements)
}

/// One key under two names would count under neither.
async fn check_key(service: &AdminService, node: &EnrolledNode) -> Result<(), Status> {
    let enrolled: Vec<EnrolledNode> =
        listing::all(service.registry.vault(), Kind::Node, limits::NODES).await?;
    let same_key = |other: &&EnrolledNode| {
        other.name != node.name && other.public_key.key_id() == node.public_key.key_id()
    };
    if let Some(other) = enrolled.iter().find(same_key) {
        let why = format!("this key is enrolled as `{}`: a node has a key of its own", other.name);
        return Err(answer::refuse(answer::Refusal::Exists, why));
    }
    let known = enrolled.iter().any(|other| other.name == node.name);
    match !known && enrolled.len() >= limits::NODES {
        true => Err(answer::refuse(answer::Refusal::TooMany, "as many nodes are enrolled as can be")),
        false => Ok(()),
    }
}
