//! Role `nodes`: the attestation key of a node's TPM, enrolled in two steps, so that it is proven to live in that TPM.
//!
//! *Takes* what a node says of its TPM, then the answer to the credential that was made for it. *Gives* the credential, then the
//! enrolment in force. *Denies* an EK that nobody vouches for, a wrong or late answer, a TPM that is another node's. *Source*:
//! `evidence.md` §3 ("AK enrolment"); TCG TPM 2.0 Library part 1 §24; CVE-2021-3406, CVE-2023-38201.
//!
//! What waits for its answer is in memory alone: a few at most, ten minutes, one answer each, none after a restart.

use super::access::{Caller, Plan};
use super::{AdminService, answer, listing, written};
use crate::audit::random_id;
use crate::denial::{Class, Denial};
use crate::evidence::hardware::Held;
use crate::evidence::outcome::{Checks, Refusal as Unproven};
use crate::evidence::process::EnrolledNode;
use crate::evidence::tpm2::enroll::{self, Credential, Manufacturers, Pending};
use crate::evidence::tpm2::{AkName, Counters, EnrolledAk};
use crate::limits;
use crate::proto::admin::*;
use crate::registry::attestation::{StoredAk, StoredVouching, record_name};
use crate::store::{Kind, Transaction};
use crate::time::{Now, WallTime};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use tonic::Status;

/// Enrolments that wait for their answer, by id.
#[derive(Default)]
pub(super) struct Waiting(BTreeMap<String, Begun>);

/// One of them.
struct Begun {
    pending: Pending,
    node: String,
    not_after: WallTime,
    replace: bool,
    /// The id of its record in the audit log.
    record: String,
}

pub(super) async fn begin(
    service: &AdminService,
    caller: &Caller,
    request: BeginTpmEnrolmentRequest,
) -> Result<BeginTpmEnrolmentResponse, Status> {
    let node = enrolled_node(service, &request.node).await?;
    let not_after = match request.not_after.as_str() {
        "" => node.not_after,
        text => written::not_after(text, caller.now.wall)?,
    };
    let approved = approved(&request.approved_ek_sha256)?;
    let manufacturers = manufacturers(service)?;
    service.enrolments().make_room(caller.now)?;
    let begun = challenge(&request, manufacturers, approved, caller.now).await?;
    let (credential, pending) = match begun {
        Ok(begun) => begun,
        Err(unproven) => return Err(service.refused(caller, &request.node, not_proven(&unproven)).await),
    };
    check_key(service, of(&pending), &request.node, request.replace)?;
    let ak_name = hex::encode(pending.attestation_key().name().as_bytes());
    let (ek_sha256, vouched_by) =
        (hex::encode(pending.ek_sha256()), StoredVouching::of(pending.vouched_by()));
    let details = json!({
        "ak_name": ak_name,
        "ek_sha256": ek_sha256,
        "vouched_by": vouched_by,
        "not_after": not_after.to_string(),
        "replace": request.replace,
    });
    let intended = service.registry.intend(caller.act(&request.node, details), caller.at).await;
    let record = intended.map_err(|error| answer::change(&error))?;
    let answer_before = pending.until().to_string();
    let id = random_id().map_err(|_| answer::defect())?;
    let begun =
        Begun { pending, node: request.node, not_after, replace: request.replace, record: record.clone() };
    service.enrolments().0.insert(id.clone(), begun);
    let Credential { id_object, encrypted_secret } = credential;
    let vouched_by = vouched_by.to_string();
    Ok(BeginTpmEnrolmentResponse {
        id,
        id_object,
        encrypted_secret,
        ak_name,
        ek_sha256,
        vouched_by,
        answer_before,
        record,
    })
}

pub(super) async fn finish(
    service: &AdminService,
    caller: &Caller,
    request: FinishTpmEnrolmentRequest,
) -> Result<FinishTpmEnrolmentResponse, Status> {
    // Taken whatever follows: a second answer has nothing to be tried against.
    let Some(begun) = service.enrolments().take(&request.id, &request.node) else {
        let why = answer::not_found(
            "no enrolment of this node waits for this answer: it was answered, ten minutes have passed, or the broker was \
             restarted since; begin again with a new `--tpm` request",
        );
        return Err(service.refused(caller, &request.node, why).await);
    };
    enrolled_node(service, &begun.node).await?;
    check_key(service, of(&begun.pending), &begun.node, begun.replace)?;
    let vouched_by = StoredVouching::of(begun.pending.vouched_by());
    let finished =
        begun.pending.finish(&begun.node, &request.answer, begun.not_after, caller.now, &mut Checks::new());
    let ak = match finished {
        Ok(ak) => ak,
        Err(unproven) => return Err(service.refused(caller, &request.node, not_proven(&unproven)).await),
    };
    let proven = Proven {
        begun_in: begun.record,
        replace: begun.replace,
        keep_latches: request.keep_latches,
        stored: StoredAk { ak, enrolled_by: caller.name().to_owned(), vouched_by },
    };
    // The answer is good once. Where a second person is needed, what waits is what it proved.
    let asked = serde_json::to_vec(&proven).map_err(|_| answer::defect())?;
    let change = enrol(service, &caller.instead(asked), &proven).await?;
    let attestation_key = Some(listed(service, &proven.stored, caller.now));
    Ok(FinishTpmEnrolmentResponse { change: Some(change), attestation_key })
}

/// Enrols what was proven when a second person was asked for.
pub(super) async fn enrol_proven(
    service: &AdminService,
    caller: &Caller,
    asked: &[u8],
) -> Result<ChangeResponse, Status> {
    let proven: Proven = serde_json::from_slice(asked).map_err(|_| answer::defect())?;
    let ak = &proven.stored.ak;
    enrolled_node(service, &ak.node).await?;
    check_key(service, (ak.key.name(), &ak.ek_sha256), &ak.node, proven.replace)?;
    enrol(service, caller, &proven).await
}

async fn enrol(service: &AdminService, caller: &Caller, proven: &Proven) -> Result<ChangeResponse, Status> {
    let plan = proven.plan(service).await?;
    service.change(caller, plan).await
}

/// The enrolled keys of a node, or of all.
pub(super) fn keys(service: &AdminService, node: Option<&str>) -> Result<Vec<StoredAk>, Status> {
    let all = service.registry.attestation_keys();
    let unread =
        || answer::refuse(answer::Refusal::Unavailable, "the enrolled attestation keys cannot be read");
    let all = all.as_ref().as_ref().ok_or_else(unread)?;
    let wanted = all.iter().filter(|one| node.is_none_or(|node| one.ak.node == node));
    Ok(wanted.cloned().collect())
}

/// A key as listings have it.
pub(super) fn listed(service: &AdminService, stored: &StoredAk, now: Now) -> AttestationKey {
    let ak = &stored.ak;
    let seen = service.registry.broker().verifiers.seen().last(ak).unwrap_or_default();
    let Counters { reset, restart } = seen.max(ak.counters);
    AttestationKey {
        name: record_name(ak),
        algorithm: ak.key.algorithm(),
        ek_sha256: hex::encode(ak.ek_sha256),
        vouched_by: stored.vouched_by.to_string(),
        enrolled_at: ak.enrolled_at.to_string(),
        enrolled_by: stored.enrolled_by.clone(),
        not_after: ak.not_after.to_string(),
        ended: now.wall >= ak.not_after,
        reset_count: reset,
        restart_count: restart,
    }
}

/// Adds to `transaction`: this key is enrolled no more, and what was seen under the enrolment is forgotten.
pub(super) async fn remove(
    service: &AdminService,
    transaction: &mut Transaction,
    ak: &EnrolledAk,
) -> Result<(), Status> {
    let vault = service.registry.vault();
    let record = vault.read(Kind::AttestationKey, &record_name(ak)).await;
    let record = record.map_err(|error| answer::store(&error))?;
    let record = record.ok_or_else(|| answer::not_found("this key is not enrolled any more"))?;
    vault.remove(transaction, &record);
    transaction.deletes.push(vault.key_of(Kind::Mark, &ak.mark()));
    Ok(())
}

impl AdminService {
    fn enrolments(&self) -> MutexGuard<'_, Waiting> {
        // A panic while the lock was held leaves whole entries.
        self.enrolments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Forgets what is too late; refused where as many wait as can.
    fn make_room(&mut self, now: Now) -> Result<(), Status> {
        self.0.retain(|_, begun| begun.pending.is_open(now));
        match self.0.len() < limits::TPM2_ENROLMENTS {
            true => Ok(()),
            false => {
                let why = "64 enrolments wait for their answer: finish them, or wait ten minutes";
                Err(answer::refuse(answer::Refusal::TooMany, why))
            }
        }
    }

    fn take(&mut self, id: &str, node: &str) -> Option<Begun> {
        self.0.get(id).filter(|begun| begun.node == node)?;
        self.0.remove(id)
    }
}

/// What is written to enrol a key, once it is proven.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proven {
    begun_in: String,
    replace: bool,
    keep_latches: bool,
    stored: StoredAk,
}

impl Proven {
    async fn plan(&self, service: &AdminService) -> Result<Plan, Status> {
        let (vault, ak) = (service.registry.vault(), &self.stored.ak);
        let mut transaction = Transaction::default();
        let replaced = if self.replace { keys(service, Some(&ak.node))? } else { Vec::new() };
        for old in replaced.iter().filter(|old| old.ak.key != ak.key) {
            remove(service, &mut transaction, &old.ak).await?;
        }
        let name = record_name(ak);
        let previous =
            vault.read(Kind::AttestationKey, &name).await.map_err(|error| answer::store(&error))?;
        let body = serde_json::to_vec(&self.stored).map_err(|_| answer::defect())?;
        let put = vault.put(&mut transaction, Kind::AttestationKey, &name, previous.as_ref(), &body);
        put.map_err(|error| answer::store(&error))?;
        Ok(Plan {
            details: json!({
                "ak_name": name,
                "ek_sha256": hex::encode(ak.ek_sha256),
                "vouched_by": self.stored.vouched_by,
                "not_after": ak.not_after.to_string(),
                "begun_in": self.begun_in,
                "replaces_ak_names": replaced.iter().map(|old| record_name(&old.ak)).collect::<Vec<_>>(),
            }),
            rests: vec![format!("node:{}", ak.node)],
            target: ak.node.clone(),
            transaction,
            kinds: vec![Kind::AttestationKey],
            keep_latches: self.keep_latches,
        })
    }
}

/// A quote alone vouches for whom the node's own enrolment says, so there must be one.
async fn enrolled_node(service: &AdminService, name: &str) -> Result<EnrolledNode, Status> {
    written::name(name, false)?;
    let record = service.registry.vault().read(Kind::Node, name).await;
    let record = record.map_err(|error| answer::store(&error))?;
    let why = "no node of this name is enrolled: enrol its own key first (`node enroll NAME --public-key …`)";
    let record = record.ok_or_else(|| answer::not_found(why))?;
    listing::parse(&record.body)
}

fn approved(hashes: &[String]) -> Result<BTreeSet<[u8; 32]>, Status> {
    if hashes.len() > limits::TPM2_APPROVED_EKS {
        return Err(answer::refuse(
            answer::Refusal::TooMany,
            "at most 8 endorsement keys are approved at once",
        ));
    }
    hashes.iter().map(|hash| written::digest(hash)).collect()
}

fn manufacturers(service: &AdminService) -> Result<Arc<Manufacturers>, Status> {
    match service.registry.broker().verifiers.manufacturers() {
        Held::Known(manufacturers) => Ok(manufacturers),
        Held::NotTaken => {
            let why = "the broker does not take evidence of format `tpm2`: its configuration's `evidence.formats` lacks it";
            Err(answer::refuse(answer::Refusal::Changed, why))
        }
        Held::Unknown(why) => Err(answer::refuse(answer::Refusal::CollateralUnavailable, why)),
    }
}

/// Some signatures, a point multiplication: off the threads that answer others.
async fn challenge(
    request: &BeginTpmEnrolmentRequest,
    manufacturers: Arc<Manufacturers>,
    approved: BTreeSet<[u8; 32]>,
    now: Now,
) -> Result<Result<(Credential, Pending), Unproven>, Status> {
    let request = request.clone();
    let begun = tokio::task::spawn_blocking(move || {
        let certificate = (!request.ek_certificate.is_empty()).then_some(request.ek_certificate.as_slice());
        let said = enroll::Request {
            ek_public: &request.ek_public,
            ek_certificate: certificate,
            issuers: &request.issuers,
            ak_public: &request.ak_public,
        };
        enroll::begin(&said, &manufacturers, &approved, now, &mut Checks::new())
    });
    begun.await.map_err(|_| answer::defect())
}

fn of(pending: &Pending) -> (AkName, &[u8; 32]) {
    (pending.attestation_key().name(), pending.ek_sha256())
}

/// One key, and one TPM, is of one node: what is enrolled twice would count for none.
fn check_key(
    service: &AdminService,
    (name, ek_sha256): (AkName, &[u8; 32]),
    node: &str,
    replace: bool,
) -> Result<(), Status> {
    let all = keys(service, None)?;
    let exists = |why: String| Err(answer::refuse(answer::Refusal::Exists, why));
    let same_tpm = |other: &&StoredAk| other.ak.key.name() == name || other.ak.ek_sha256 == *ek_sha256;
    if let Some(other) = all.iter().filter(|other| other.ak.node != node).find(same_tpm) {
        return exists(format!(
            "this TPM is enrolled as that of node `{}`: remove it there first",
            other.ak.node
        ));
    }
    let own: Vec<&StoredAk> = all.iter().filter(|other| other.ak.node == node).collect();
    if !replace && own.iter().any(|other| other.ak.key.name() == name) {
        return exists(
            "this key is enrolled: say `replace` to enrol it anew, its counters from the beginning"
                .to_owned(),
        );
    }
    match !replace && (own.len() >= limits::TPM2_KEYS_PER_NODE || all.len() >= limits::TPM2_KEYS) {
        true => {
            Err(answer::refuse(answer::Refusal::TooMany, "as many attestation keys are enrolled as can be"))
        }
        false => Ok(()),
    }
}

/// An administrator hears why: the denial's name and its cause.
fn not_proven(unproven: &Unproven) -> Status {
    let why = format!("{}: {}", unproven.denial, unproven.detail);
    match (unproven.denial, unproven.denial.class()) {
        (Denial::Defect, _) => answer::defect(),
        (_, Class::Uncertain) => answer::refuse(answer::Refusal::CollateralUnavailable, why),
        (_, Class::Refused) => answer::refuse(answer::Refusal::NotProven, why),
    }
}

/// A key's Name as a request has it.
pub(super) fn ak_name(text: &str) -> Result<AkName, Status> {
    let name = hex::decode(text).ok().and_then(|bytes| AkName::parse(&bytes));
    name.ok_or_else(|| answer::invalid("the Name of an attestation key is hex, as `node list` shows it"))
}
