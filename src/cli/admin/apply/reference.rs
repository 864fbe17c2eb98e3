//! Reference sets.
//!
//! *Takes* `[[set]]` tables and the broker's list. *Gives* changes, and steps. *Denies* a set that has ended, and to prune where
//! the directory names none. *Source*: `deploy/apply.md`; RFC 9334 §8.3.

use super::entries::Place;
use super::plan::{Action, Change, How, Plan, difference};
use super::steps::{Call, Phase, Step};
use crate::appraisal::reference_set::ReferenceSet as Set;
use crate::cli::admin::Failure;
use crate::limits;
use crate::proto::admin::put_reference_sets_request::Sets;
use crate::proto::admin::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// Compares, and says what is to be done.
pub(super) fn compare(
    entries: &BTreeMap<String, (Place, Set)>,
    present: &BTreeMap<String, ReferenceSet>,
    how: How,
    plan: &mut Plan,
) -> Result<(), Failure> {
    let mut puts: BTreeMap<Phase, Vec<Value>> = BTreeMap::new();
    for (name, (place, set)) in entries {
        let wanted = value(set)?;
        let before: Option<Value> = present.get(name).map(|stored| parsed(&stored.json)).transpose()?;
        if before.as_ref() == Some(&wanted) {
            continue;
        }
        if set.not_after <= how.now {
            return Err(place.wrong(&format!("set `{name}`: not_after {} has passed", set.not_after)));
        }
        let action = if before.is_some() { Action::Changed } else { Action::Added };
        let phase = match &before {
            Some(before) if ends_sooner(before, set)? => Phase::Narrows,
            _ => Phase::Widens,
        };
        let before = before.map_or_else(BTreeMap::new, |value| members(&value));
        let difference = difference(&before, &members(&wanted));
        plan.changes.push(Change { action, kind: "reference set", name: name.clone(), difference });
        puts.entry(phase).or_default().push(wanted);
    }
    for (phase, sets) in puts {
        plan.steps.extend(messages(&sets).into_iter().map(|chunk| put(phase, chunk, how)));
    }
    remove(entries, present, how, plan)
}

fn remove(
    entries: &BTreeMap<String, (Place, Set)>,
    present: &BTreeMap<String, ReferenceSet>,
    how: How,
    plan: &mut Plan,
) -> Result<(), Failure> {
    let alone: Vec<&ReferenceSet> = present.values().filter(|set| !entries.contains_key(&set.name)).collect();
    if !how.prune {
        plan.kept.extend(alone.iter().map(|set| format!("reference set {}", set.name)));
        return Ok(());
    }
    if entries.is_empty() && !alone.is_empty() {
        return Err(Failure::usage(
            "--prune: the directory names no reference set, and would remove every one",
        ));
    }
    for set in alone {
        plan.changes.push(Change {
            action: Action::Removed,
            kind: "reference set",
            name: set.name.clone(),
            difference: difference(&members(&parsed(&set.json)?), &BTreeMap::new()),
        });
        // The last set that speaks of a workload goes after the new ones are there: without any, those of a wider pattern
        // would count for it.
        let another =
            |other: &ReferenceSet| other.workload == set.workload && entries.contains_key(&other.name);
        let phase = if present.values().any(another) { Phase::Narrows } else { Phase::Uncovers };
        plan.steps.push(Step {
            phase,
            what: format!("remove reference set {}", set.name),
            call: Call::RemoveSet(RemoveReferenceSetRequest {
                name: set.name.clone(),
                keep_latches: how.keep_latches,
            }),
        });
    }
    Ok(())
}

/// As many sets to a call as it takes, in number and in bytes.
fn messages(mut sets: &[Value]) -> Vec<&[Value]> {
    let mut messages = Vec::new();
    while !sets.is_empty() {
        let mut bytes = 0_usize;
        let fits = |set: &&Value| {
            bytes = bytes.saturating_add(set.to_string().len());
            bytes <= limits::ADMIN_MESSAGE_BYTES / 2
        };
        // One that is too large alone is sent alone: the broker says so by its name.
        let count = sets.iter().take(limits::REFERENCE_SETS_PER_PUT).take_while(fits).count().max(1);
        let (now, later) = sets.split_at_checked(count).unwrap_or((sets, &[]));
        messages.push(now);
        sets = later;
    }
    messages
}

/// All of these, or none.
fn put(phase: Phase, sets: &[Value], how: How) -> Step {
    let names: Vec<&str> = sets.iter().filter_map(|set| set.get("name").and_then(Value::as_str)).collect();
    Step {
        phase,
        what: format!("put reference sets {}", names.join(", ")),
        call: Call::PutSets(PutReferenceSetsRequest {
            sets: Some(Sets::Json(serde_json::json!({ "set": sets }).to_string())),
            keep_latches: how.keep_latches,
        }),
    }
}

/// Whether it is the stored one but for an earlier end.
fn ends_sooner(stored: &Value, set: &Set) -> Result<bool, Failure> {
    let Ok(before) = serde_json::from_value::<Set>(stored.clone()) else { return Ok(false) };
    let sooner = set.not_after < before.not_after;
    Ok(sooner && before == Set { not_after: before.not_after, ..set.clone() })
}

fn value(set: &Set) -> Result<Value, Failure> {
    serde_json::to_value(set).map_err(|error| Failure::internal(error.to_string()))
}

fn parsed(json: &str) -> Result<Value, Failure> {
    serde_json::from_str(json).map_err(|error| Failure::not_the_broker(format!("a reference set: {error}")))
}

/// `process.uids: [1000]`.
fn members(value: &Value) -> BTreeMap<String, String> {
    fn flatten(key: String, value: &Value, members: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(object) => {
                let inner =
                    |name: &String| if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                object.iter().for_each(|(name, value)| flatten(inner(name), value, members));
            }
            Value::String(text) => drop(members.insert(key, text.clone())),
            other => drop(members.insert(key, other.to_string())),
        }
    }
    let mut members = BTreeMap::new();
    flatten(String::new(), value, &mut members);
    members
}
