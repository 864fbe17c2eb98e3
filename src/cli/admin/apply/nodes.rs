//! Nodes: whose word counts, for whom, until when. The keys of their TPMs are enrolled in two steps, and not from files.
//!
//! *Takes* `[[node]]` tables and the broker's list. *Gives* changes, and steps. *Denies* an enrolment that has ended, and to prune
//! where the directory names none. *Source*: `deploy/apply.md`.

use super::entries::{NodeEntry, Place};
use super::plan::{Action, Change, How, Plan, difference};
use super::steps::{Call, Phase, Step};
use crate::cli::admin::Failure;
use crate::proto::admin::enrol_node_request::PublicKey;
use crate::proto::admin::*;
use std::collections::BTreeMap;

/// Compares, and says what is to be done.
pub(super) fn compare(
    entries: &BTreeMap<String, (Place, NodeEntry)>,
    present: &BTreeMap<String, Node>,
    how: How,
    plan: &mut Plan,
) -> Result<(), Failure> {
    for (name, (place, entry)) in entries {
        let wanted = listed(entry, place)?;
        let stored = present.get(name).map(ordered);
        let before = stored.as_ref().map_or_else(BTreeMap::new, members);
        let difference = difference(&before, &members(&wanted));
        if difference.is_empty() {
            continue;
        }
        if entry.not_after <= how.now {
            return Err(place.wrong(&format!("node `{name}`: not_after {} has passed", entry.not_after)));
        }
        let phase = match &stored {
            Some(stored) if narrower(stored, &wanted) => Phase::Narrows,
            _ => Phase::Widens,
        };
        let (action, what) = match stored {
            Some(_) => (Action::Changed, "enroll again node"),
            None => (Action::Added, "enroll node"),
        };
        plan.changes.push(Change { action, kind: "node", name: name.clone(), difference });
        let replace = action == Action::Changed;
        let call = Call::Enrol(enrolment(entry, replace, how));
        plan.steps.push(Step { phase, what: format!("{what} {name}"), call });
    }
    remove(entries, present, how, plan)
}

fn remove(
    entries: &BTreeMap<String, (Place, NodeEntry)>,
    present: &BTreeMap<String, Node>,
    how: How,
    plan: &mut Plan,
) -> Result<(), Failure> {
    let alone: Vec<&Node> = present.values().filter(|node| !entries.contains_key(&node.name)).collect();
    if !how.prune {
        plan.kept.extend(alone.iter().map(|node| format!("node {}", node.name)));
        return Ok(());
    }
    if entries.is_empty() && !alone.is_empty() {
        return Err(Failure::usage("--prune: the directory names no node, and would remove every one"));
    }
    for node in alone {
        let mut difference = difference(&members(&ordered(node)), &BTreeMap::new());
        let keys = node.attestation_keys.iter().map(|key| format!("- attestation key: {}", key.name));
        difference.extend(keys);
        let name = node.name.clone();
        plan.changes.push(Change { action: Action::Removed, kind: "node", name: name.clone(), difference });
        plan.steps.push(Step {
            phase: Phase::Narrows,
            what: format!("remove node {name}"),
            call: Call::RemoveNode(RemoveNodeRequest {
                name,
                keep_latches: how.keep_latches,
                ak_name: String::new(),
            }),
        });
    }
    Ok(())
}

/// Whether it may vouch for less, or for less long, and nothing else is otherwise.
fn narrower(stored: &Node, wanted: &Node) -> bool {
    let time = crate::time::WallTime::parse;
    let ends = time(&stored.not_after).zip(time(&wanted.not_after));
    wanted.key_sha256 == stored.key_sha256
        && wanted.measurements == stored.measurements
        && ends.is_some_and(|(before, after)| after <= before)
        && wanted.may_vouch_for.iter().all(|pattern| stored.may_vouch_for.contains(pattern))
}

fn enrolment(entry: &NodeEntry, replace: bool, how: How) -> EnrolNodeRequest {
    EnrolNodeRequest {
        name: entry.name.clone(),
        public_key: entry.public_key.clone().map(PublicKey::Pem),
        not_after: entry.not_after.to_string(),
        may_vouch_for: entry.may_vouch_for.iter().map(ToString::to_string).collect(),
        measurements: entry.measurements.clone(),
        replace,
        keep_latches: how.keep_latches,
    }
}

/// As the broker would list it.
fn listed(entry: &NodeEntry, place: &Place) -> Result<Node, Failure> {
    Ok(ordered(&Node {
        name: entry.name.clone(),
        key_sha256: entry.key_sha256(place)?,
        not_after: entry.not_after.to_string(),
        may_vouch_for: entry.may_vouch_for.iter().map(ToString::to_string).collect(),
        measurements: entry.measurements.clone(),
        ..Node::default()
    }))
}

/// Lists in one order, as theirs says nothing.
fn ordered(node: &Node) -> Node {
    let mut node = node.clone();
    node.may_vouch_for.sort();
    node.may_vouch_for.dedup();
    node.measurements.sort();
    node.measurements.dedup();
    node
}

fn members(node: &Node) -> BTreeMap<String, String> {
    let patterns = node.may_vouch_for.iter().map(|one| (format!("may_vouch_for {one}"), "yes".to_owned()));
    let with = node.measurements.iter().map(|one| (format!("comes with {one}"), "yes".to_owned()));
    let rest = [("key_sha256", node.key_sha256.clone()), ("not_after", node.not_after.clone())];
    patterns.chain(with).chain(rest.map(|(name, value)| (name.to_owned(), value))).collect()
}
