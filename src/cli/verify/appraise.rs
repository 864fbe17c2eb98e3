//! Whether verified documents are acceptable: by reference values where there are some, else by the safe defaults.
//!
//! *Takes* the documents' claims, sets, the time. *Gives* [`Appraisal`]: further checks, each of a document and a set. *Denies*
//! `PlatformNotAcceptable`, `MeasurementMismatch`, `EvidenceNodeMismatch`, `ReferenceValuesMissing`,
//! `ReferenceValuesExpired`. *Source*: RFC 9334 §7.1; `protocol.md` (documents of one node).

use super::Format;
use super::reference::Set;
use super::report::Part;
use crate::denial::Denial;
use crate::evidence::outcome::{Check, Checks, Outcome, Refusal};
use crate::time::{Now, WallTime};

/// What became of claims that verified.
#[derive(Default)]
pub(super) struct Appraisal {
    pub(super) checks: Vec<Noted>,
    /// The set that fits, and its end.
    pub(super) fits: Option<(String, WallTime)>,
}

/// One check, and what it is of.
#[derive(Clone)]
pub(super) struct Noted {
    /// The document's format; none for what is of all documents.
    pub(super) document: Option<&'static str>,
    /// The reference set that it was held against.
    pub(super) set: Option<String>,
    pub(super) check: Check,
}

/// Appraises all documents together: one set must fit them all, as parts of two do not add up.
pub(super) fn appraise(parts: &[Part], sets: Option<&[Set]>, now: Now) -> Appraisal {
    let mut appraisal = Appraisal::default();
    for part in parts {
        let allows_debug = |sets: &[Set]| sets.iter().any(|set| set.allows_debug(part.format));
        if let Some(never) = part.never.clone().filter(|_| !sets.is_some_and(allows_debug)) {
            appraisal.checks.extend(noted(part.name(), None, "platform", Err(never)));
        }
    }
    if parts.iter().any(|part| part.outcome.is_err()) {
        return appraisal;
    }
    if let Some(outcome) = of_one_node(parts) {
        appraisal.checks.extend(noted(None, None, "one-node", outcome));
    }
    match sets {
        None => appraisal.checks.extend(parts.iter().flat_map(|part| platform(part, None))),
        Some(sets) => against_sets(parts, sets, now, &mut appraisal),
    }
    appraisal
}

fn against_sets(parts: &[Part], sets: &[Set], now: Now, appraisal: &mut Appraisal) {
    let current = match current(parts, sets, now) {
        Ok(current) => current,
        Err(refusal) => {
            appraisal.checks.extend(noted(None, None, "reference-values", Err(refusal)));
            return;
        }
    };
    let mut all = Vec::new();
    for set in current {
        let checks = against(parts, set);
        if checks.iter().all(|noted| noted.check.outcome == Outcome::Passed) {
            appraisal.checks.extend(checks);
            appraisal.fits = Some((set.name.clone(), set.not_after));
            return;
        }
        all.extend(checks.into_iter().filter(|noted| noted.check.outcome != Outcome::Passed));
    }
    all.truncate(DIFFERENCES_SHOWN);
    appraisal.checks.extend(all);
}

/// The sets that speak of the document and have not ended.
fn current<'s>(parts: &[Part], sets: &'s [Set], now: Now) -> Result<Vec<&'s Set>, Refusal> {
    let speaks = |set: &&Set| parts.last().is_some_and(|part| set.speaks_of(part.format));
    let speaking: Vec<&Set> = sets.iter().filter(speaks).collect();
    let Some(last) = speaking.iter().max_by_key(|set| set.not_after) else {
        let format = parts.last().map_or("nothing", |part| part.format.name());
        let detail = format!("no set speaks of `{format}`");
        return Err(Refusal::new(Denial::ReferenceValuesMissing, detail));
    };
    let current: Vec<&Set> = speaking.iter().copied().filter(|set| now.wall < set.not_after).collect();
    if current.is_empty() {
        let detail = format!("set `{}` ended at {}, and no other goes on", last.name, last.not_after);
        return Err(Refusal::new(Denial::ReferenceValuesExpired, detail));
    }
    Ok(current)
}

/// As the broker does: a section demands its document; a document without a section must be acceptable by the defaults.
fn against(parts: &[Part], set: &Set) -> Vec<Noted> {
    let of_part = |part: &Part| {
        let measured = if set.speaks_of(part.format) { measurements(part, set) } else { Vec::new() };
        [platform(part, Some(set)), measured].concat()
    };
    let is_there = |format: &Format| parts.iter().any(|part| part.format == *format);
    let missing = Format::ALL.into_iter().filter(|format| set.speaks_of(*format) && !is_there(format));
    let missing = missing.flat_map(|format| {
        let detail = format!("evidence without a `{}` document", format.name());
        let refusal = Refusal::new(Denial::MeasurementMismatch, detail);
        noted(Some(format.name()), Some(set), "measurements", Err(refusal))
    });
    parts.iter().flat_map(of_part).chain(missing).collect()
}

fn platform(part: &Part, set: Option<&Set>) -> Vec<Noted> {
    let Ok(examined) = &part.outcome else { return Vec::new() };
    noted(part.name(), set, "platform", examined.claims.acceptable(set))
}

fn measurements(part: &Part, set: &Set) -> Vec<Noted> {
    let Ok(examined) = &part.outcome else { return Vec::new() };
    let differences = examined.claims.differences(set);
    let outcome = match differences.is_empty() {
        true => Ok(()),
        false => Err(Refusal::new(Denial::MeasurementMismatch, differences.join("; "))),
    };
    noted(part.name(), Some(set), "measurements", outcome)
}

/// Good documents of two machines are not one: where two name their node, it is the same.
fn of_one_node(parts: &[Part]) -> Option<Result<(), Refusal>> {
    let nodes = parts.iter().filter_map(|part| part.outcome.as_ref().ok()?.claims.node());
    let [one, other] = nodes.collect::<Vec<_>>().try_into().ok()?;
    let refusal = || {
        let detail = "the attestation key and the node key are of two nodes";
        Refusal::new(Denial::EvidenceNodeMismatch, detail)
    };
    Some(if one == other { Ok(()) } else { Err(refusal()) })
}

fn noted(
    document: Option<&'static str>,
    set: Option<&Set>,
    name: &'static str,
    outcome: Result<(), Refusal>,
) -> Vec<Noted> {
    let mut checks = Checks::new();
    // The refusal stands in the check, which the verdict is made of.
    let _ = checks.note(name, outcome);
    let set = set.map(|set| set.name.clone());
    checks.all().iter().map(|check| Noted { document, set: set.clone(), check: check.clone() }).collect()
}

/// Of many sets of which none fits the first ones are shown.
const DIFFERENCES_SHOWN: usize = 16;
