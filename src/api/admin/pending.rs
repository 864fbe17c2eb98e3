//! Changes that wait for a second person: proposed, looked at, and then made as they were proposed or not at all.
//!
//! *Takes* an act, checked and ready, or the id of one. *Gives* a proposal, durable and bound to the request's exact bytes
//! and to every record that it rests on; or the change. *Denies* whoever proposed it, an end that has passed, and whatever is
//! not as it was. *Source*: NIST SP 800-53 AC-3(2), AC-5, AU-10.
//!
//! An approval does the whole act again: what was checked then is checked now, so a proposal can go stale and can never
//! smuggle. What it rests on are the sealed records themselves, each of which is sealed anew at every writing.

use super::access::{Caller, Verb};
use super::answer::{self, Refusal};
use super::{
    AdminService, administrators, attestation, backup, import, keys, listing, nodes, policy, reference,
    revocations,
};
use super::{secrets, trust, two_persons, written};
use crate::audit::random_id;
use crate::limits;
use crate::proto::admin::*;
use crate::registry::{Change, Role};
use crate::store::{Expect, Kind, Opened, Transaction};
use crate::time::WallTime;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use tonic::Status;

/// An act as it would be made.
pub(super) struct Intended<'a> {
    pub(super) target: &'a str,
    pub(super) details: &'a serde_json::Value,
    /// What it writes, and what must stand for that; none where it changes no store.
    pub(super) transaction: Option<&'a Transaction>,
    /// The roles whose changes it is one of.
    pub(super) about: BTreeSet<Role>,
}

/// An approved proposal, on its way to be made.
pub(super) struct Approval {
    pub(super) id: String,
    pub(super) sha256: String,
    pub(super) proposer: String,
    pub(super) proposer_key_sha256: String,
    pub(super) record: Opened,
}

/// A proposal, as stored under its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    id: String,
    verb: String,
    /// The request, base64 of its protobuf; never one that carries a value.
    request: String,
    target: String,
    details: serde_json::Value,
    sha256: String,
    proposer: String,
    key_sha256: String,
    proposed: WallTime,
    expires: WallTime,
    approvers: BTreeSet<Role>,
}

impl AdminService {
    /// Whether an act may be made now: none, where it may; else the answer that it waits, under which proposal.
    pub(super) async fn agree(
        &self,
        caller: &Caller,
        intended: Intended<'_>,
    ) -> Result<Option<ChangeResponse>, Status> {
        let sha256 = digest(caller.verb(), caller.asked()?, &intended);
        if let Some(approval) = caller.approval() {
            if approval.sha256 != sha256 {
                let why = "what this proposal rests on has changed since; withdraw it and propose it again";
                return Err(answer::refuse(Refusal::Changed, why));
            }
            return Ok(None);
        }
        let in_force = two_persons::in_force(self).await?;
        let waits: BTreeSet<Role> = intended.about.intersection(&in_force).copied().collect();
        if waits.is_empty() {
            return Ok(None);
        }
        self.propose(caller, &intended, sha256, approvers(waits)).await.map(Some)
    }

    /// Spends an approval of an act that writes nothing of its own, before it is made.
    pub(super) async fn spend(&self, caller: &Caller) -> Result<(), Status> {
        let Some(approval) = caller.approval() else { return Ok(()) };
        let mut transaction = Transaction::default();
        self.registry.vault().remove(&mut transaction, &approval.record);
        let act = caller.act(&approval.id, json!(null));
        self.commit(caller, act, transaction).await.map(drop)
    }

    async fn propose(
        &self,
        caller: &Caller,
        intended: &Intended<'_>,
        sha256: String,
        approvers: BTreeSet<Role>,
    ) -> Result<ChangeResponse, Status> {
        let vault = self.registry.vault();
        let mut transaction = Transaction::default();
        let mut kept = 0_usize;
        for record in all(self).await? {
            let stored: Stored = listing::parse(&record.body)?;
            if stored.ended(caller) {
                vault.remove(&mut transaction, &record);
            } else if stored.sha256 == sha256 && stored.key_sha256 == caller.key_sha256() {
                // The same again, of the same state: it waits already.
                return Ok(ChangeResponse { proposal: stored.id, ..Default::default() });
            } else {
                kept = kept.saturating_add(1);
            }
        }
        if kept >= limits::PROPOSALS {
            return Err(answer::refuse(Refusal::TooMany, "as many changes wait for a second person as can"));
        }
        let stored = Stored {
            id: random_id().map_err(|_| answer::defect())?,
            verb: caller.verb().words().to_owned(),
            request: STANDARD.encode(caller.asked()?),
            target: intended.target.to_owned(),
            details: intended.details.clone(),
            sha256,
            proposer: caller.name().to_owned(),
            key_sha256: caller.key_sha256().to_owned(),
            proposed: caller.now.wall,
            expires: caller.now.wall.plus(limits::PROPOSAL_MS),
            approvers,
        };
        let body = serde_json::to_vec(&stored).map_err(|_| answer::defect())?;
        let put = vault.put(&mut transaction, Kind::Proposal, &stored.id, None, &body);
        put.map_err(|error| answer::store(&error))?;
        let details = json!({
            "proposal": stored.id, "sha256": stored.sha256, "expires": stored.expires.to_string(),
            "approvers": stored.approvers, "details": stored.details,
        });
        let act = caller.act_as(&format!("propose {}", stored.verb), intended.target, details);
        let record = self.commit(caller, act, transaction).await?;
        Ok(ChangeResponse { proposal: stored.id, ..record })
    }

    async fn commit(
        &self,
        caller: &Caller,
        act: crate::audit::record::AdminAct,
        transaction: Transaction,
    ) -> Result<ChangeResponse, Status> {
        let change =
            Change { act, transaction: Some(transaction), kinds: Vec::new(), ends_latches_on: Vec::new() };
        let changed =
            self.registry.change(change, caller.at).await.map_err(|error| answer::change(&error))?;
        let commit = changed.commit.map_or(0, |commit| commit.0);
        Ok(ChangeResponse { record: changed.record, commit, ..Default::default() })
    }
}

pub(super) async fn list(
    service: &AdminService,
    caller: &Caller,
    _request: ListPendingRequest,
) -> Result<ListPendingResponse, Status> {
    let mut found: Vec<Stored> = listing::all(service.registry.vault(), Kind::Proposal, MOST).await?;
    found.sort_by(|a, b| (a.proposed, &a.id).cmp(&(b.proposed, &b.id)));
    Ok(ListPendingResponse { proposals: found.iter().map(|one| one.shown(caller)).collect() })
}

pub(super) async fn show(
    service: &AdminService,
    caller: &Caller,
    request: ShowPendingRequest,
) -> Result<ShowPendingResponse, Status> {
    let (_, stored) = read(service, &request.id).await?;
    Ok(ShowPendingResponse {
        proposal: Some(stored.shown(caller)),
        request: readable(stored.verb()?, &stored.request()?)?,
        details: stored.details.to_string(),
    })
}

/// Makes the change, in the approver's name and on the proposer's behalf; the proposal goes in the same commit.
pub(super) async fn approve(
    service: &AdminService,
    caller: &Caller,
    request: ApprovePendingRequest,
) -> Result<ChangeResponse, Status> {
    let (record, stored) = read(service, &request.id).await?;
    if !request.sha256.is_empty() && request.sha256 != stored.sha256 {
        let why = format!("the proposal's sha256 is {}, not the expected one", stored.sha256);
        return Err(answer::refuse(Refusal::Changed, why));
    }
    check_second(caller, &stored)?;
    let verb = stored.verb()?;
    check_proposer(service, caller, &stored, verb)?;
    let approval = Approval {
        id: stored.id.clone(),
        sha256: stored.sha256.clone(),
        proposer: stored.proposer.clone(),
        proposer_key_sha256: stored.key_sha256.clone(),
        record,
    };
    let asked = stored.request()?;
    carry_out(service, &caller.on_behalf(verb, asked.clone(), approval), verb, &asked).await
}

pub(super) async fn reject(
    service: &AdminService,
    caller: &Caller,
    request: RejectPendingRequest,
) -> Result<ChangeResponse, Status> {
    let why = written::why(&request.why)?;
    let (record, stored) = read(service, &request.id).await?;
    check_second(caller, &stored)?;
    end(service, caller, record, &stored, json!(why)).await
}

pub(super) async fn withdraw(
    service: &AdminService,
    caller: &Caller,
    request: WithdrawPendingRequest,
) -> Result<ChangeResponse, Status> {
    let (record, stored) = read(service, &request.id).await?;
    if stored.proposer != caller.name() {
        let why = format!("`{}` proposed it: others reject it", stored.proposer);
        return Err(answer::refuse(Refusal::SecondPerson, why));
    }
    end(service, caller, record, &stored, json!(null)).await
}

/// Adds to a removal: the proposals of whoever goes are gone too.
pub(super) async fn forget(
    service: &AdminService,
    transaction: &mut Transaction,
    gone: &[&str],
) -> Result<(), Status> {
    for record in all(service).await? {
        let stored: Stored = listing::parse(&record.body)?;
        if gone.contains(&stored.key_sha256.as_str()) {
            service.registry.vault().remove(transaction, &record);
        }
    }
    Ok(())
}

async fn end(
    service: &AdminService,
    caller: &Caller,
    record: Opened,
    stored: &Stored,
    why: serde_json::Value,
) -> Result<ChangeResponse, Status> {
    let mut transaction = Transaction::default();
    service.registry.vault().remove(&mut transaction, &record);
    let details = json!({
        "verb": stored.verb, "target": stored.target, "sha256": stored.sha256,
        "proposed_by": stored.proposer, "why": why,
    });
    service.commit(caller, caller.act(&stored.id, details), transaction).await
}

/// Another person, with a role for it, in time.
fn check_second(caller: &Caller, stored: &Stored) -> Result<(), Status> {
    if stored.ended(caller) {
        let why = format!("the proposal ended at {}: propose it again", stored.expires);
        return Err(answer::refuse(Refusal::SecondPerson, why));
    }
    if stored.proposer == caller.name() || stored.key_sha256 == caller.key_sha256() {
        let why = "whoever proposed a change does not approve it, whatever the certificate: withdraw it, or ask another";
        return Err(answer::refuse(Refusal::SecondPerson, why));
    }
    if stored.approvers.is_disjoint(caller.roles()) {
        let names: Vec<&str> = stored.approvers.iter().map(|role| role.name()).collect();
        let why = format!("to approve `{}` one of the roles {} is needed", stored.verb, names.join(", "));
        return Err(answer::refuse(Refusal::RoleMissing, why));
    }
    Ok(())
}

/// Whoever proposed it must still be one who may ask for it.
fn check_proposer(
    service: &AdminService,
    caller: &Caller,
    stored: &Stored,
    verb: Verb,
) -> Result<(), Status> {
    let known = service.registry.administrators();
    let still = known.as_ref().as_ref().is_some_and(|all| {
        all.all().any(|one| {
            one.key_sha256 == stored.key_sha256
                && one.name == stored.proposer
                && caller.now.wall < one.not_after
                && verb.roles().iter().any(|role| one.roles.contains(role))
        })
    });
    match still {
        true => Ok(()),
        false => {
            let why = format!("`{}`, who proposed it, may not ask for it any more", stored.proposer);
            Err(answer::refuse(Refusal::SecondPerson, why))
        }
    }
}

/// `administrators` can have every role, so it may approve everything, and alone what gives that role.
fn approvers(waits: BTreeSet<Role>) -> BTreeSet<Role> {
    match waits.contains(&Role::Administrators) {
        true => [Role::Administrators].into(),
        false => waits.into_iter().chain([Role::Administrators]).collect(),
    }
}

/// Over the verb, the request's bytes, what the log will say, and every record that must stand.
fn digest(verb: Verb, asked: &[u8], intended: &Intended<'_>) -> String {
    let details = intended.details.to_string();
    let mut parts: Vec<Vec<u8>> =
        [verb.words().as_bytes(), asked, intended.target.as_bytes(), details.as_bytes()]
            .map(<[u8]>::to_vec)
            .into();
    let mut checks: Vec<_> = intended.transaction.iter().flat_map(|one| &one.checks).collect();
    checks.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, expect) in checks {
        parts.push(key.clone());
        parts.push(match expect {
            Expect::Absent => b"absent".to_vec(),
            Expect::Any => b"any".to_vec(),
            Expect::Value(value) => [b"value".as_slice(), value].concat(),
        });
    }
    let mut whole = b"portcullis proposal".to_vec();
    for part in parts {
        whole.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        whole.extend(part);
    }
    written::sha256(&whole)
}

async fn all(service: &AdminService) -> Result<Vec<Opened>, Status> {
    service.registry.vault().all(Kind::Proposal, MOST).await.map_err(|error| answer::store(&error))
}

async fn read(service: &AdminService, id: &str) -> Result<(Opened, Stored), Status> {
    let record = service.registry.vault().read(Kind::Proposal, id).await;
    let record = record.map_err(|error| answer::store(&error))?;
    let record = record.ok_or_else(|| answer::not_found("no change of this id waits"))?;
    let stored = listing::parse(&record.body)?;
    Ok((record, stored))
}

impl Stored {
    fn ended(&self, caller: &Caller) -> bool {
        caller.now.wall >= self.expires
    }

    fn verb(&self) -> Result<Verb, Status> {
        Verb::ALL.iter().copied().find(|verb| verb.words() == self.verb).ok_or_else(answer::defect)
    }

    fn request(&self) -> Result<Vec<u8>, Status> {
        STANDARD.decode(&self.request).map_err(|_| answer::defect())
    }

    fn shown(&self, caller: &Caller) -> Proposal {
        Proposal {
            id: self.id.clone(),
            verb: self.verb.clone(),
            target: self.target.clone(),
            proposed_by: self.proposer.clone(),
            proposed_by_key_sha256: self.key_sha256.clone(),
            proposed: self.proposed.to_string(),
            expires: self.expires.to_string(),
            ended: self.ended(caller),
            sha256: self.sha256.clone(),
            approvers: self.approvers.iter().map(|role| role.name().to_owned()).collect(),
        }
    }
}

fn decode<T: prost::Message + Default>(request: &[u8]) -> Result<T, Status> {
    T::decode(request).map_err(|_| answer::defect())
}

/// Each verb that `persons` lets wait: its request, its act, and the change in its answer.
macro_rules! proposable {
    ($($verb:ident: $request:ident, $act:path, |$answer:ident| $change:expr;)+) => {
        async fn carry_out(
            service: &AdminService,
            caller: &Caller,
            verb: Verb,
            request: &[u8],
        ) -> Result<ChangeResponse, Status> {
            match verb {
                $(Verb::$verb => {
                    let $answer = $act(service, caller, decode::<$request>(request)?).await?;
                    Ok($change)
                })+
                Verb::FinishTpmEnrolment => attestation::enrol_proven(service, caller, request).await,
                _ => Err(answer::defect()),
            }
        }

        fn readable(verb: Verb, request: &[u8]) -> Result<String, Status> {
            let text = match verb {
                $(Verb::$verb => serde_json::to_string_pretty(&decode::<$request>(request)?),)+
                // What was proven, as it is kept.
                Verb::FinishTpmEnrolment => return String::from_utf8(request.to_vec()).map_err(|_| answer::defect()),
                _ => return Err(answer::defect()),
            };
            text.map_err(|_| answer::defect())
        }

        #[cfg(test)]
        const PROPOSABLE: &[Verb] = &[$(Verb::$verb,)+ Verb::FinishTpmEnrolment];
    };
}

proposable! {
    ConfigureSecret: ConfigureSecretRequest, secrets::configure, |answer| answer;
    SetSecretDisabled: SetSecretDisabledRequest, secrets::set_disabled, |answer| answer;
    AcceptCollateral: AcceptCollateralRequest, super::collateral::accept, |answer| accepted(answer);
    PutPolicy: PutPolicyRequest, policy::put, |answer| answer.change.unwrap_or_default();
    PutReferenceSets: PutReferenceSetsRequest, reference::put, |answer| answer;
    RemoveReferenceSet: RemoveReferenceSetRequest, reference::remove, |answer| answer;
    ImportReferenceSets: ImportReferenceSetsRequest, import::import, |answer| answer.change.unwrap_or_default();
    EnrolNode: EnrolNodeRequest, nodes::enrol, |answer| answer.change.unwrap_or_default();
    Unrevoke: UnrevokeRequest, revocations::unrevoke, |answer| answer;
    AcceptCrl: AcceptCrlRequest, trust::accept_crl, |answer| accepted(answer);
    AcceptBundle: AcceptBundleRequest, trust::accept_bundle, |answer| accepted(answer);
    PutAdministrator: PutAdministratorRequest, administrators::put, |answer| answer;
    SetTwoPersons: SetTwoPersonsRequest, two_persons::set, |answer| answer;
    Rekey: RekeyRequest, keys::rekey, |answer| answer.change.unwrap_or_default();
    AcceptRestore: AcceptRestoreRequest, backup::accept_restore, |answer| answer;
}

fn accepted(answer: AcceptResponse) -> ChangeResponse {
    ChangeResponse { record: answer.record, proposal: answer.proposal, ..Default::default() }
}

/// Ended ones are gone with the next proposal; no more than that many are ever stored.
const MOST: usize = limits::PROPOSALS;

#[cfg(test)]
mod tests {
    use super::super::persons::{Persons, persons};
    use super::*;

    #[test]
    fn whatever_may_wait_can_be_carried_out_and_nothing_else() {
        for verb in Verb::ALL {
            assert_eq!(PROPOSABLE.contains(verb), persons(*verb) != Persons::One, "{verb:?}");
        }
    }
}
