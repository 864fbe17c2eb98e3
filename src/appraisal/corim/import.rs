//! A manifest whose signature held, as reference sets.
//!
//! *Takes* a [`Manifest`] and what it does not say: [`Wanted`]. *Gives* [`Imported`] sets, one for each triple. *Denies*
//! nothing itself; an [`ImportError`] names the first thing that cannot be taken over, and then there is no set at all.
//! *Source*: draft-ietf-rats-corim §4.1.4 (profile), §4.1.5 (validity); `deploy/reference-values.md`, "Signed manifests".

use super::sections::{Section, Unmappable};
use super::{Environment, Identifier, Manifest, ReferenceTriple};
use crate::appraisal::reference_set::ReferenceSet;
use crate::spiffe::IdPattern;
use crate::time::WallTime;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What the administrator says, as no manifest does.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which section the values are for.
    pub section: Section,
    /// The name of the set; of several triples `name-1`, `name-2`, … by their place in the manifest.
    pub name: String,
    /// Whom the values speak of.
    pub workload: IdPattern,
    /// From when on they count no more; not later than the manifest's own end.
    pub not_after: WallTime,
    /// Which triples, by their place in the manifest, from 1. Empty: every one.
    pub triples: BTreeSet<u32>,
    /// Whether to go on where the manifest holds things that are no reference values.
    pub pass_over: bool,
}

/// A set, and what its triple speaks of.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The set, as if it had been written.
    pub set: ReferenceSet,
    /// The triple's place in the manifest, from 1.
    pub triple: u32,
    /// Its environment, in words.
    pub environment: String,
}

/// Why nothing is imported from a manifest whose signature held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A profile may say that values are to be read in another way than this reader's.
    #[error("the manifest follows the profile `{0}`, which is not known: its values may mean something else")]
    Profile(String),
    /// It would be taken over longer than its author vouches for it.
    #[error("not_after {asked} is later than the manifest's own end, {end}")]
    Outlives {
        /// What was asked for.
        asked: WallTime,
        /// The manifest's or its signature's end.
        end: WallTime,
    },
    /// It holds things that are no reference values.
    #[error("the manifest also holds what is no reference value, and is not imported: {}", .0.join("; "))]
    PassedOver(Vec<String>),
    /// There is no such triple.
    #[error("the manifest has no triple {0}: it has {1}")]
    NoSuchTriple(u32, usize),
    /// One cannot be said by the section.
    #[error("triple {0}: {1}")]
    Triple(u32, Unmappable),
    /// What came of one is no section.
    #[error("triple {0} is no section `{1}`: {2}")]
    Shape(u32, &'static str, String),
}

/// The sets of a manifest: every triple that is wanted, or none.
pub fn sets(manifest: &Manifest, wanted: &Wanted) -> Result<Vec<Imported>, ImportError> {
    let known = |profile: &&Identifier| **profile != Identifier::Text(PROFILE.to_owned());
    if let Some(profile) = manifest.profiles.iter().find(known) {
        return Err(ImportError::Profile(profile.to_string().chars().take(120).collect()));
    }
    if let Some(end) = manifest.not_after.filter(|end| wanted.not_after > *end) {
        return Err(ImportError::Outlives { asked: wanted.not_after, end });
    }
    if !wanted.pass_over && !manifest.passed_over.is_empty() {
        return Err(ImportError::PassedOver(manifest.passed_over.clone()));
    }
    let all = (1_u32..).zip(&manifest.references);
    let taken: Vec<_> =
        all.filter(|(place, _)| wanted.triples.is_empty() || wanted.triples.contains(place)).collect();
    if let Some(missing) = wanted.triples.iter().find(|place| !taken.iter().any(|(taken, _)| taken == *place))
    {
        return Err(ImportError::NoSuchTriple(*missing, manifest.references.len()));
    }
    let single = manifest.references.len() == 1;
    taken.into_iter().map(|(place, triple)| set(place, triple, wanted, single)).collect()
}

fn set(place: u32, triple: &ReferenceTriple, wanted: &Wanted, single: bool) -> Result<Imported, ImportError> {
    let section = wanted.section.of_triple(triple).map_err(|error| ImportError::Triple(place, error))?;
    let name = if single { wanted.name.clone() } else { format!("{}-{place}", wanted.name) };
    // Through the very shape that administrators write: there is no second way to a set.
    let mut written = Map::new();
    written.insert("name".to_owned(), json!(name));
    written.insert("workload".to_owned(), json!(wanted.workload));
    written.insert("not_after".to_owned(), json!(wanted.not_after.to_string()));
    written.insert(wanted.section.name().to_owned(), section);
    let set = serde_json::from_value(Value::Object(written));
    let set = set.map_err(|error| ImportError::Shape(place, wanted.section.name(), error.to_string()))?;
    Ok(Imported { set, triple: place, environment: in_words(&triple.environment) })
}

fn in_words(environment: &Environment) -> String {
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let members = [
        ("class", environment.class_id.as_ref().map(ToString::to_string)),
        ("vendor", environment.vendor.clone()),
        ("model", environment.model.clone()),
        ("layer", number(environment.layer)),
        ("index", number(environment.index)),
    ];
    let words =
        members.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name} `{value}`")));
    words.collect::<Vec<_>>().join(", ")
}

/// The one profile that is known: base CoRIM, with elements named as `deploy/reference-values.md` says. A manifest without a
/// profile is read in the same way.
pub const PROFILE: &str = "urn:portcullis:corim:1";
