//! Secrets: what is known of them. A value neither comes nor goes this way.
//!
//! *Takes* `[[secret]]` tables and the broker's list. *Gives* changes, and steps: what narrows apart from what widens. *Denies* a
//! lease longer than the longest. *Source*: `deploy/apply.md`.

use super::entries::{Place, SecretEntry};
use super::plan::{Action, Change, How, Plan, difference};
use super::steps::{Call, Phase, Step};
use crate::cli::admin::Failure;
use crate::proto::admin::*;
use std::collections::BTreeMap;

/// Compares, and says what is to be done.
pub(super) fn compare(
    entries: &BTreeMap<String, (Place, SecretEntry)>,
    present: &BTreeMap<String, Secret>,
    how: How,
    plan: &mut Plan,
) -> Result<(), Failure> {
    for (path, (place, entry)) in entries {
        match present.get(path) {
            Some(stored) => one(place, entry, stored, how, plan)?,
            None => plan.changes.push(Change {
                action: Action::Missing,
                kind: "secret",
                name: path.clone(),
                difference: vec![format!(
                    "its value makes it: portcullis admin secret put {path} --field NAME=@FILE; then apply again"
                )],
            }),
        }
    }
    // Never removed: a value that is destroyed is destroyed for good.
    let kept = present.keys().filter(|path| !entries.contains_key(*path));
    plan.kept.extend(kept.map(|path| format!("secret {path}")));
    Ok(())
}

fn one(
    place: &Place,
    entry: &SecretEntry,
    stored: &Secret,
    how: How,
    plan: &mut Plan,
) -> Result<(), Failure> {
    let wanted = Secret {
        labels: entry.labels.clone().unwrap_or_else(|| stored.labels.clone()),
        lease_default_seconds: entry.lease_default_seconds.unwrap_or(stored.lease_default_seconds),
        lease_maximum_seconds: entry.lease_maximum_seconds.unwrap_or(stored.lease_maximum_seconds),
        exporter_demanded: entry.exporter_demanded.unwrap_or(stored.exporter_demanded),
        disabled: entry.disabled.unwrap_or(stored.disabled),
        ..stored.clone()
    };
    if wanted.lease_default_seconds > wanted.lease_maximum_seconds {
        return Err(place.wrong(&format!(
            "`{}`: a lease of {} s where none is asked, and of {} s at most",
            wanted.path, wanted.lease_default_seconds, wanted.lease_maximum_seconds
        )));
    }
    let difference = difference(&members(stored), &members(&wanted));
    if difference.is_empty() {
        return Ok(());
    }
    let name = wanted.path.clone();
    plan.changes.push(Change { action: Action::Changed, kind: "secret", name, difference });
    plan.steps.extend(steps(stored, &wanted, how));
    Ok(())
}

/// At most five: disabled; shorter leases and the exporter; labels; longer leases and no exporter; enabled.
fn steps(stored: &Secret, wanted: &Secret, how: How) -> Vec<Step> {
    let path = &wanted.path;
    let step = |phase, what: &str, call| Step { phase, what: format!("{what} {path}"), call };
    let able = |disabled| {
        let keep_latches = how.keep_latches;
        Call::SetDisabled(SetSecretDisabledRequest { path: path.clone(), disabled, keep_latches })
    };
    let mut steps = Vec::new();
    if wanted.disabled && !stored.disabled {
        steps.push(step(Phase::Narrows, "disable secret", able(true)));
    }
    // Both ends of each step are sound: the smaller default is never above the smaller maximum.
    let shorter = Secret {
        lease_default_seconds: wanted.lease_default_seconds.min(stored.lease_default_seconds),
        lease_maximum_seconds: wanted.lease_maximum_seconds.min(stored.lease_maximum_seconds),
        exporter_demanded: wanted.exporter_demanded || stored.exporter_demanded,
        ..stored.clone()
    };
    let labelled = Secret { labels: wanted.labels.clone(), ..shorter.clone() };
    let pairs = [
        (Phase::Narrows, stored, &shorter, "narrow the terms of secret"),
        (Phase::Decides, &shorter, &labelled, "label secret"),
        (Phase::Widens, &labelled, wanted, "widen the terms of secret"),
    ];
    for (phase, before, after, what) in pairs {
        steps.extend(configure(before, after, how).map(|call| step(phase, what, call)));
    }
    if !wanted.disabled && stored.disabled {
        steps.push(step(Phase::Enables, "enable secret", able(false)));
    }
    steps
}

fn configure(before: &Secret, after: &Secret, how: How) -> Option<Call> {
    let request = ConfigureSecretRequest {
        path: after.path.clone(),
        labels: (after.labels != before.labels).then(|| Labels { labels: after.labels.clone() }),
        lease_default_seconds: changed(before.lease_default_seconds, after.lease_default_seconds)
            .unwrap_or(0),
        lease_maximum_seconds: changed(before.lease_maximum_seconds, after.lease_maximum_seconds)
            .unwrap_or(0),
        exporter_demanded: changed(before.exporter_demanded, after.exporter_demanded),
        keep_latches: how.keep_latches,
    };
    let nothing = request.labels.is_none()
        && request.lease_default_seconds == 0
        && request.lease_maximum_seconds == 0
        && request.exporter_demanded.is_none();
    (!nothing).then_some(Call::Configure(request))
}

fn changed<T: PartialEq>(before: T, after: T) -> Option<T> {
    (before != after).then_some(after)
}

fn members(secret: &Secret) -> BTreeMap<String, String> {
    let labels = secret.labels.iter().map(|(name, value)| (format!("labels.{name}"), value.clone()));
    let terms = [
        ("disabled", secret.disabled.to_string()),
        ("exporter_demanded", secret.exporter_demanded.to_string()),
        ("lease_default_seconds", secret.lease_default_seconds.to_string()),
        ("lease_maximum_seconds", secret.lease_maximum_seconds.to_string()),
    ];
    labels.chain(terms.map(|(name, value)| (name.to_owned(), value))).collect()
}
