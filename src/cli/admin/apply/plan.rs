//! What a directory and a broker differ in, and the calls that make them equal, in their order.
//!
//! *Takes* what is wanted and what there is. *Gives* [`Plan`]. *Denies* what could not be put: a lease longer than the longest,
//! an enrolment that has ended. *Source*: `deploy/apply.md`, "The order".

use super::directory::Wanted;
use super::state::Present;
use super::steps::{Call, Phase, Step};
use super::{nodes, reference, secrets};
use crate::cli::admin::Failure;
use crate::policy::cedar::PolicySet;
use crate::proto::admin::PutPolicyRequest;
use crate::time::WallTime;
use serde::Serialize;
use std::collections::BTreeMap;

/// What is to be done, and what it comes to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// What differs, kind by kind, ascending by name.
    pub(super) changes: Vec<Change>,
    /// What the broker alone has and keeps.
    pub(super) kept: Vec<String>,
    /// In the order in which they are sent.
    pub(super) steps: Vec<Step>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) action: Action,
    /// `secret`, `policy`, `reference set`, `node`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    /// `- member: value` of what goes, `+ member: value` of what comes.
    pub(super) difference: Vec<String>,
}

/// How it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// It is not there yet.
    Added,
    /// It is there, and otherwise.
    Changed,
    /// It is there, and is not to be.
    Removed,
    /// It is not there, and only a value makes it.
    Missing,
}

/// Options that every call carries or that shape the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) prune: bool,
    pub(super) keep_latches: bool,
    pub(super) now: WallTime,
}

impl Plan {
    /// Compares.
    pub(super) fn of(wanted: &Wanted, present: &Present, how: How) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        if let Some(entries) = &wanted.secrets {
            secrets::compare(entries, &present.secrets, how, &mut plan)?;
        }
        if let Some(text) = &wanted.policy {
            policy(text, present, how, &mut plan);
        }
        if let Some(sets) = &wanted.sets {
            reference::compare(sets, &present.sets, how, &mut plan)?;
        }
        if let Some(entries) = &wanted.nodes {
            nodes::compare(entries, &present.nodes, how, &mut plan)?;
        }
        // Stable: within a phase secrets come first, then policy, sets, nodes.
        plan.steps.sort_by_key(|step| step.phase);
        Ok(plan)
    }
}

/// The text as it stands is what is put; what is shown is policy by policy, as that is what decides.
fn policy(text: &str, present: &Present, how: How, plan: &mut Plan) {
    let stored = &present.policy;
    if stored.text == text {
        return;
    }
    // A text that this program cannot read is shown whole.
    let parts = |text: &str| match PolicySet::compile(text) {
        Ok(set) => set.texts().map(|(name, text)| (name.to_owned(), text)).collect(),
        Err(_) => BTreeMap::from([("(whole)".to_owned(), text.to_owned())]),
    };
    let (before, after): (BTreeMap<String, String>, _) = (parts(&stored.text), parts(text));
    let mut difference = Vec::new();
    for (sign, these, others) in [('-', &before, &after), ('+', &after, &before)] {
        for (name, text) in these.iter().filter(|(name, text)| others.get(*name) != Some(text)) {
            difference.extend(text.lines().map(|line| format!("{sign} {name}: {line}")));
        }
    }
    difference.sort_by(|one, other| policy_of(one).cmp(policy_of(other)));
    if difference.is_empty() {
        difference.push("the same policies: comments, order or spaces alone".to_owned());
    }
    let action = if stored.text.is_empty() { Action::Added } else { Action::Changed };
    let name = "policy".to_owned();
    plan.changes.push(Change { action, kind: "policy", name, difference });
    plan.steps.push(Step {
        phase: Phase::Decides,
        what: "put policy".to_owned(),
        call: Call::PutPolicy(PutPolicyRequest {
            text: text.to_owned(),
            expected_sha256: stored.sha256.clone(),
            keep_latches: how.keep_latches,
        }),
    });
}

/// `payments-api`, of `+ payments-api: permit (`.
fn policy_of(line: &str) -> &str {
    line.get(2..).and_then(|rest| rest.split(':').next()).unwrap_or_default()
}

/// What goes and what comes, member by member.
pub(super) fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let gone = before.iter().filter(|(key, value)| after.get(*key) != Some(value));
    let come = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let gone = gone.map(|(key, value)| format!("- {key}: {value}"));
    gone.chain(come.map(|(key, value)| format!("+ {key}: {value}"))).collect()
}
