//! The calls, one by one.
//!
//! *Takes* a [`Step`]. *Gives* what became of it. *Denies* nothing itself: each is the ordinary call of the operators' API, so
//! that roles, the second person and the audit log stand as they do for the verb itself. *Source*: `deploy/apply.md`, "The order".

use crate::cli::admin::link::Link;
use crate::cli::admin::{Failure, Operators};
use crate::proto::admin::admin_client::AdminClient;
use crate::proto::admin::*;
use serde::Serialize;

/// When a step comes: nothing is widened before what narrows is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Less is released afterwards, never more.
    Narrows,
    /// Who gets what: labels, then the policy that reads them.
    Decides,
    /// What the policy now in force may rest on: longer leases, reference sets, nodes.
    Widens,
    /// The last reference set of a workload goes, once what takes its place is there.
    Uncovers,
    /// What was disabled is released again, once all of that stands.
    Enables,
}

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) phase: Phase,
    /// In words.
    pub(super) what: String,
    pub(super) call: Call,
}

/// What is called.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    SetDisabled(SetSecretDisabledRequest),
    Configure(ConfigureSecretRequest),
    PutPolicy(PutPolicyRequest),
    PutSets(PutReferenceSetsRequest),
    RemoveSet(RemoveReferenceSetRequest),
    Enrol(EnrolNodeRequest),
    RemoveNode(RemoveNodeRequest),
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Taken {
    pub(super) what: String,
    /// The record in the audit log; empty where it only waits.
    pub(super) record: String,
    /// The proposal that waits for another person; empty where it was done.
    pub(super) proposal: String,
}

impl Step {
    /// Sends it.
    pub(super) async fn take(
        &self,
        operators: &Operators,
        client: &mut AdminClient<Link>,
    ) -> Result<Taken, Failure> {
        let change = match self.call.clone() {
            Call::SetDisabled(request) => Some(operators.wait(client.set_secret_disabled(request)).await?),
            Call::Configure(request) => Some(operators.wait(client.configure_secret(request)).await?),
            Call::PutPolicy(request) => operators.wait(client.put_policy(request)).await?.change,
            Call::PutSets(request) => Some(operators.wait(client.put_reference_sets(request)).await?),
            Call::RemoveSet(request) => Some(operators.wait(client.remove_reference_set(request)).await?),
            Call::Enrol(request) => operators.wait(client.enrol_node(request)).await?.change,
            Call::RemoveNode(request) => Some(operators.wait(client.remove_node(request)).await?),
        };
        let change = change.ok_or_else(|| Failure::not_the_broker("an answer that says no change"))?;
        Ok(Taken { what: self.what.clone(), record: change.record, proposal: change.proposal })
    }
}
