//! Who may do what: a key, its roles now, and one table of verbs.
//!
//! *Takes* a connection and a [`Verb`]. *Gives* [`Caller`], which holds the turn where something is to be changed.
//! *Denies* with PERMISSION_DENIED, recorded; FAILED_PRECONDITION where the clock or the list of administrators cannot be
//! trusted. *Source*: NIST SP 800-53 AC-3, AC-5, AC-6, AU-12.

use super::AdminService;
use super::answer::{self, Refusal};
use super::pending::{Approval, Intended};
use super::persons::{Persons, persons};
use crate::audit::record::{AdminAct, Event};
use crate::proto::admin::{ChangeResponse, LatchKey};
use crate::registry::{Administrator, Change, Role};
use crate::store::{Kind, Transaction};
use crate::time::{Now, Suspect};
use crate::transport::AdminConnection;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;
use tonic::Status;

/// What a verb does to what is released; while the clock is suspect only some may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing; recorded before it is answered.
    Reads,
    /// Changes nothing, and is recorded only where it is refused: monitoring asks it all the time.
    Watches,
    /// Less may be released afterwards, never more: done by a suspect clock too.
    Narrows,
    /// More may be released afterwards: by a trusted clock alone.
    Widens,
    /// Ends the suspicion of the clock.
    AcceptsClock,
    /// Changes nothing and tells nothing: what leaves is ciphertext. Recorded before.
    Copies,
}

macro_rules! verbs {
    ($($verb:ident: $words:literal, $effect:ident, [$($role:ident),+];)+) => {
        /// Each thing that an administrator can ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is the call of that name")]
        pub enum Verb { $($verb,)+ }

        impl Verb {
            /// Every verb.
            pub const ALL: &'static [Verb] = &[$(Verb::$verb,)+];

            /// The words in records and on the command line.
            pub fn words(self) -> &'static str {
                match self { $(Verb::$verb => $words,)+ }
            }

            /// What it does to what is released.
            pub fn effect(self) -> Effect {
                match self { $(Verb::$verb => Effect::$effect,)+ }
            }

            /// The roles of which one is needed.
            pub fn roles(self) -> &'static [Role] {
                match self { $(Verb::$verb => &[$(Role::$role,)+],)+ }
            }
        }
    };
}

verbs! {
    PutSecret: "secret put", Widens, [Secrets];
    ListSecrets: "secret list", Reads, [Secrets, Policy, Audit];
    DescribeSecret: "secret describe", Reads, [Secrets, Policy, Audit];
    SetSecretDisabled: "secret set-disabled", Narrows, [Secrets];
    DestroySecret: "secret destroy", Narrows, [Secrets];
    ConfigureSecret: "secret configure", Widens, [Policy];
    PutPolicy: "policy put", Widens, [Policy];
    ShowPolicy: "policy show", Reads, [Policy, Audit];
    PutReferenceSets: "reference put", Widens, [Reference];
    RemoveReferenceSet: "reference remove", Narrows, [Reference];
    ImportReferenceSets: "reference import", Widens, [Reference];
    ListReferenceSets: "reference list", Reads, [Reference, Audit];
    EnrolNode: "node enrol", Widens, [Nodes];
    BeginTpmEnrolment: "node enrol tpm", Widens, [Nodes];
    FinishTpmEnrolment: "node enrol proof", Widens, [Nodes];
    RemoveNode: "node remove", Narrows, [Nodes];
    ListNodes: "node list", Reads, [Nodes, Audit];
    ListLatches: "latch list", Reads, [Operations, Audit];
    ClearLatch: "latch clear", Widens, [Operations];
    ListLeases: "lease list", Reads, [Operations, Audit];
    RevokeLease: "lease revoke", Narrows, [Operations];
    Revoke: "revoke", Narrows, [Operations];
    Unrevoke: "unrevoke", Widens, [Operations];
    ListRevocations: "revocation list", Reads, [Operations, Audit];
    AcceptClock: "clock accept", AcceptsClock, [Operations];
    AcceptCrl: "crl accept", Widens, [Operations];
    AcceptBundle: "bundle accept", Widens, [Operations];
    Status: "status", Watches, [Operations, Audit];
    Backup: "backup", Copies, [Operations];
    ShowRestore: "restore show", Reads, [Operations, Audit];
    AcceptRestore: "restore accept", Widens, [Operations];
    Explain: "explain", Reads, [Audit];
    PutAdministrator: "administrator put", Widens, [Administrators];
    RemoveAdministrator: "administrator remove", Narrows, [Administrators];
    CollateralStatus: "collateral status", Watches, [Operations, Audit];
    RefreshCollateral: "collateral refresh", Widens, [Operations];
    ImportCollateral: "collateral import", Widens, [Operations];
    AcceptCollateral: "collateral accept", Widens, [Operations];
    ListAdministrators: "administrator list", Reads, [Administrators, Audit];
    RotateKey: "key rotate", Widens, [Keys];
    RewrapKey: "key rewrap", Widens, [Keys];
    Rekey: "key rekey", Widens, [Keys];
    ConfirmRekey: "key confirm", Widens, [Keys];
    KeyStatus: "key status", Reads, [Keys, Audit];
    SetTwoPersons: "two-persons set", Narrows, [Administrators];
    ListPending: "pending list", Reads, [Secrets, Policy, Reference, Nodes, Operations, Keys, Administrators, Audit];
    ShowPending: "pending show", Reads, [Secrets, Policy, Reference, Nodes, Operations, Keys, Administrators, Audit];
    ApprovePending: "pending approve", Widens, [Secrets, Policy, Reference, Nodes, Operations, Keys, Administrators];
    RejectPending: "pending reject", Narrows, [Secrets, Policy, Reference, Nodes, Operations, Keys, Administrators];
    WithdrawPending: "pending withdraw", Narrows, [Secrets, Policy, Reference, Nodes, Operations, Keys, Administrators];
}

/// An administrator whose key has a role for the verb now.
pub(super) struct Caller {
    administrator: String,
    key_sha256: String,
    verb: Verb,
    /// When it was admitted, for judging what has ended; where the clock is suspect, the highest time that was trusted.
    pub(super) now: Now,
    /// The same, for records: what the clock said, trusted or not.
    pub(super) at: Now,
    /// Why the clock is not trusted; none where it is.
    pub(super) suspect: Option<Suspect>,
    roles: BTreeSet<Role>,
    /// The request's bytes, of a verb that may wait for a second person.
    asked: Option<Vec<u8>>,
    /// The proposal that is being made.
    approval: Option<Approval>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Caller {
    /// The act, for the log; of an approved one, by whom it was proposed too.
    pub(super) fn act(&self, target: &str, details: serde_json::Value) -> AdminAct {
        let Some(approval) = &self.approval else { return self.act_as(self.verb.words(), target, details) };
        let details = serde_json::json!({
            "verb": self.verb.words(), "proposal": approval.id, "sha256": approval.sha256,
            "proposed_by": approval.proposer, "proposed_by_key_sha256": approval.proposer_key_sha256,
            "details": details,
        });
        self.act_as(Verb::ApprovePending.words(), target, details)
    }

    /// The act under other words.
    pub(super) fn act_as(&self, words: &str, target: &str, details: serde_json::Value) -> AdminAct {
        AdminAct {
            administrator: self.administrator.clone(),
            key_sha256: self.key_sha256.clone(),
            verb: words.to_owned(),
            target: bounded(target),
            details,
        }
    }

    /// Keeps the request's bytes, for a proposal.
    pub(super) fn asks(&mut self, request: Vec<u8>) {
        self.asked = Some(request);
    }

    /// The request's bytes. That they were not kept is a defect: then nothing is proposed, and nothing done.
    pub(super) fn asked(&self) -> Result<&[u8], Status> {
        self.asked.as_deref().ok_or_else(answer::defect)
    }

    pub(super) fn approval(&self) -> Option<&Approval> {
        self.approval.as_ref()
    }

    pub(super) fn verb(&self) -> Verb {
        self.verb
    }

    pub(super) fn name(&self) -> &str {
        &self.administrator
    }

    pub(super) fn key_sha256(&self) -> &str {
        &self.key_sha256
    }

    pub(super) fn roles(&self) -> &BTreeSet<Role> {
        &self.roles
    }

    /// The same call, of which something else than the request is to wait for a second person.
    pub(super) fn instead(&self, asked: Vec<u8>) -> Caller {
        Caller { asked: Some(asked), ..self.again(self.verb) }
    }

    /// The same person, who now makes what another proposed. The turn stays with the approver's own call.
    pub(super) fn on_behalf(&self, verb: Verb, asked: Vec<u8>, approval: Approval) -> Caller {
        Caller { asked: Some(asked), approval: Some(approval), ..self.again(verb) }
    }

    /// The turn stays where it is.
    fn again(&self, verb: Verb) -> Caller {
        Caller {
            administrator: self.administrator.clone(),
            key_sha256: self.key_sha256.clone(),
            verb,
            now: self.now,
            at: self.at,
            suspect: self.suspect,
            roles: self.roles.clone(),
            asked: None,
            approval: None,
            _turn: None,
        }
    }

    /// Refused where the clock is not trusted: for what a verb that mostly narrows can also widen.
    pub(super) fn check_clock(&self) -> Result<(), Status> {
        match &self.suspect {
            None => Ok(()),
            Some(suspect) => Err(clock_suspect(suspect)),
        }
    }
}

/// What is to be changed, beside the act itself.
pub(super) struct Plan {
    pub(super) target: String,
    pub(super) details: serde_json::Value,
    pub(super) transaction: Transaction,
    pub(super) kinds: Vec<Kind>,
    /// The names under which refusals rest on what changes.
    pub(super) rests: Vec<String>,
    pub(super) keep_latches: bool,
}

impl AdminService {
    /// Admits a call. An act that changes something is admitted once it is alone, so that whoever was removed meanwhile is
    /// refused, and whatever it then checks still holds when it is made.
    pub(super) async fn admit(
        &self,
        extensions: &tonic::Extensions,
        verb: Verb,
        target: &str,
    ) -> Result<Caller, Status> {
        let connection = extensions.get::<Arc<AdminConnection>>().ok_or_else(answer::defect)?;
        let changes = !matches!(verb.effect(), Effect::Reads | Effect::Watches | Effect::Copies);
        let turn = if changes { Some(self.turn.clone().lock_owned().await) } else { None };
        let key_sha256 = hex::encode(connection.leaf_spki_sha256());
        let (now, suspect) = self.moment();
        let known = self.registry.administrators();
        let administrator =
            known.as_ref().as_ref().map(|all| all.current(connection.leaf_spki_sha256(), now));
        let name = administrator.flatten().map_or(UNKNOWN, |one| one.name.as_str()).to_owned();
        let at = if suspect.is_some() { self.registry.broker().clock.untrusted() } else { now };
        let roles = administrator.flatten().map_or_else(BTreeSet::new, |one| one.roles.clone());
        let caller = Caller {
            administrator: name,
            key_sha256,
            verb,
            now,
            at,
            suspect,
            roles,
            asked: None,
            approval: None,
            _turn: turn,
        };
        let verdict = match administrator {
            None => Err(answer::refuse(Refusal::Unavailable, "the administrators cannot be read")),
            Some(found) => may(found, &caller),
        };
        if let Err(status) = verdict {
            if administrator.flatten().is_none() {
                // Whoever is nobody pays for each further record with a handshake.
                connection.go_away();
            }
            self.note_read(&caller, target, Some(status.message().to_owned())).await?;
            return Err(status);
        }
        if matches!(verb.effect(), Effect::Reads | Effect::Copies) {
            self.note_read(&caller, target, None).await?;
        }
        Ok(caller)
    }

    /// Makes a change, and answers once it is in force and no older grant can be redeemed; where two persons are needed for it
    /// (see `persons`), keeps it until another approves it, and answers with the proposal.
    pub(super) async fn change(&self, caller: &Caller, plan: Plan) -> Result<ChangeResponse, Status> {
        match persons(caller.verb) {
            Persons::One => self.change_alone(caller, plan).await,
            Persons::Two | Persons::ByRequest => {
                self.change_about(caller, plan, caller.verb.roles().iter().copied().collect()).await
            }
        }
    }

    /// The same, of a change that is about these roles.
    pub(super) async fn change_about(
        &self,
        caller: &Caller,
        mut plan: Plan,
        about: BTreeSet<Role>,
    ) -> Result<ChangeResponse, Status> {
        let (target, details) = (plan.target.as_str(), &plan.details);
        let intended = Intended { target, details, transaction: Some(&plan.transaction), about };
        if let Some(waits) = self.agree(caller, intended).await? {
            return Ok(waits);
        }
        if let Some(approval) = caller.approval() {
            self.registry.vault().remove(&mut plan.transaction, &approval.record);
        }
        self.change_alone(caller, plan).await
    }

    /// Makes a change that one person makes: only what narrows, where the verb could widen too.
    pub(super) async fn change_alone(&self, caller: &Caller, plan: Plan) -> Result<ChangeResponse, Status> {
        let change = Change {
            act: caller.act(&plan.target, plan.details),
            transaction: Some(plan.transaction),
            kinds: plan.kinds,
            ends_latches_on: if plan.keep_latches { Vec::new() } else { plan.rests },
        };
        let changed =
            self.registry.change(change, caller.at).await.map_err(|error| answer::change(&error))?;
        Ok(ChangeResponse {
            record: changed.record,
            commit: changed.commit.map_or(0, |commit| commit.0),
            latches_ended: changed.latches_ended.into_iter().map(latch_key).collect(),
            ..Default::default()
        })
    }

    /// Records an event; where it cannot be, nothing more is done.
    pub(super) async fn note(&self, caller: &Caller, event: Event) -> Result<String, Status> {
        let noted = self.registry.broker().recorder.note(event, caller.at).await;
        noted.map_err(|error| {
            answer::refuse(Refusal::AuditUnavailable, format!("the audit log cannot be written: {error}"))
        })
    }

    /// Records that an act was refused for what it is about, and gives the refusal on.
    pub(super) async fn refused(&self, caller: &Caller, target: &str, why: Status) -> Status {
        match self.note_read(caller, target, Some(why.message().to_owned())).await {
            Ok(()) => why,
            Err(unrecorded) => unrecorded,
        }
    }

    /// Records that something was looked at, or asked for in vain.
    pub(super) async fn note_read(
        &self,
        caller: &Caller,
        target: &str,
        refused: Option<String>,
    ) -> Result<(), Status> {
        let act = caller.act(target, serde_json::Value::Null);
        self.note(caller, Event::AdminRead { act, refused }).await.map(drop)
    }

    /// Now; and where the clock is suspect, the highest time that was trusted, so that a clock set back revives nobody and
    /// one set forward locks nobody out of accepting or narrowing.
    fn moment(&self) -> (Now, Option<Suspect>) {
        let clock = &self.registry.broker().clock;
        match clock.now() {
            Ok(now) => (now, None),
            Err(suspect) => (Now { wall: clock.highest(), boot: clock.untrusted().boot }, Some(suspect)),
        }
    }
}

fn may(found: Option<&Administrator>, caller: &Caller) -> Result<(), Status> {
    let roles = caller.verb.roles();
    if !found.is_some_and(|one| roles.iter().any(|role| one.roles.contains(role))) {
        let names: Vec<String> = roles.iter().map(|role| format!("`{}`", role.name())).collect();
        let why = format!("`{}` needs the role {}", caller.verb.words(), names.join(" or "));
        return Err(answer::refuse(Refusal::RoleMissing, why));
    }
    match (&caller.suspect, caller.verb.effect()) {
        (Some(suspect), Effect::Widens) => Err(clock_suspect(suspect)),
        _ => Ok(()),
    }
}

fn clock_suspect(suspect: &Suspect) -> Status {
    let why = format!("the clock is suspect ({suspect}): only what narrows is done until it is accepted");
    answer::refuse(Refusal::ClockSuspect, why)
}

pub(super) fn latch_key(key: crate::audit::record::LatchKey) -> LatchKey {
    LatchKey { identity: key.identity.to_string(), subject: key.subject, secret: key.secret }
}

/// A target may be anything that was sent; the log keeps a line of it.
fn bounded(target: &str) -> String {
    target.chars().take(TARGET_CHARACTERS).collect()
}

/// The name in records of a key that is nobody's.
const UNKNOWN: &str = "(unknown)";
/// The longest path, name or digest that is not malformed; of a SPIFFE ID, what a reader needs.
const TARGET_CHARACTERS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_its_own_words_and_a_role() {
        let mut words: Vec<_> = Verb::ALL.iter().map(|verb| verb.words()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Verb::ALL.len());
        assert!(Verb::ALL.iter().all(|verb| !verb.roles().is_empty()));
    }

    #[test]
    fn a_change_needs_exactly_one_role_and_audit_changes_nothing() {
        for verb in Verb::ALL {
            let reads = matches!(verb.effect(), Effect::Reads | Effect::Watches);
            // Who may approve is said by each proposal.
            let second = verb.words().starts_with("pending ");
            assert!(reads || second || verb.roles().len() == 1, "{verb:?}");
            assert!(reads || !verb.roles().contains(&Role::Audit), "{verb:?}");
            assert!(!reads || verb.roles().contains(&Role::Audit), "{verb:?}");
        }
    }
}
