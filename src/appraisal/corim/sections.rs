//! A CoRIM's reference triple as one section of a reference set.
//!
//! *Takes* a [`ReferenceTriple`] and which section it is to be. *Gives* the section as JSON, in the shape that administrators
//! write. *Denies* nothing itself; a condition that the section cannot say is an [`Unmappable`], never left out.
//! *Source*: draft-ietf-rats-corim §5.1.4; `deploy/reference-values.md`, "Signed manifests".

use super::{Digest, DigestAlgorithm, Identifier, Measurement, ReferenceTriple, Svn};
use serde_json::{Map, Value, json};

/// Which section a triple becomes: the manifest does not say it, so the administrator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// One executable.
    Process,
    /// PCRs by number, a bank for each digest's algorithm.
    Tpm2,
    /// PCRs by number, SHA-384.
    Nitro,
    /// Launch measurement and minimum TCB.
    SevSnp,
    /// MRTD, RTMRs and the like.
    Tdx,
}

/// Why a triple is no such section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmappable {
    /// Its environment is narrower than a class, which no section says.
    #[error("the environment has `{0}`, which a reference set cannot say")]
    Environment(&'static str),
    /// A measurement holds a condition that no section says.
    #[error("the measurement of `{0}` holds {1}, which a reference set cannot say")]
    Condition(String, &'static str),
    /// The section has no such element, or not of this kind.
    #[error("`{element}` is nothing that section `{section}` can name by {kind}")]
    Element {
        /// What the manifest calls it.
        element: String,
        /// By what it is measured.
        kind: &'static str,
        /// The section.
        section: &'static str,
    },
    /// A digest by another algorithm, or several where one counts.
    #[error("`{0}` needs exactly one digest, by {1}")]
    Digest(String, &'static str),
    /// One element twice: all measurements of a triple hold at once, so neither could be chosen.
    #[error("`{0}` stands twice")]
    Repeated(String),
}

impl Section {
    /// Every section.
    pub const ALL: [Section; 5] =
        [Section::Process, Section::Tpm2, Section::Nitro, Section::SevSnp, Section::Tdx];

    /// Its name, as in a reference set.
    pub fn name(self) -> &'static str {
        match self {
            Section::Process => "process",
            Section::Tpm2 => "tpm2",
            Section::Nitro => "nitro",
            Section::SevSnp => "sev-snp",
            Section::Tdx => "tdx",
        }
    }

    /// The section of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Section::ALL.into_iter().find(|section| section.name() == name)
    }

    /// The triple as this section. Its class of environments stands nowhere in it: whose workload it is, is the
    /// administrator's word. The shape is for [`ReferenceSet::check`](crate::appraisal::reference_set::ReferenceSet::check).
    pub fn of_triple(self, triple: &ReferenceTriple) -> Result<Value, Unmappable> {
        let narrower = [
            ("instance", triple.environment.instance.is_some()),
            ("group", triple.environment.group.is_some()),
        ];
        if let Some((name, _)) = narrower.into_iter().find(|(_, stands)| *stands) {
            return Err(Unmappable::Environment(name));
        }
        let mut section = Map::new();
        for element in elements(triple)? {
            let placed = self.place(&element)?.ok_or_else(|| Unmappable::Element {
                element: spelled(element.id),
                kind: element.measure.kind(),
                section: self.name(),
            })?;
            for (place, value) in placed {
                insert(&mut section, &place, value)
                    .map_err(|()| Unmappable::Repeated(spelled(element.id)))?;
            }
        }
        Ok(Value::Object(section))
    }

    /// Where an element stands in the section, and what it says there; several for several digests. None: nowhere.
    fn place(self, element: &Element<'_>) -> Result<Option<Vec<Placed>>, Unmappable> {
        let one = |path: &[&str], value: Value| {
            Some(vec![(path.iter().map(|part| (*part).to_owned()).collect(), value)])
        };
        let name = match element.id {
            Identifier::Text(text) => text.as_str(),
            _ => "",
        };
        Ok(match (self, &element.measure) {
            (Section::Process, Measure::Digests(_)) if name == "executable" => {
                one(&["executables"], json!([{ "sha256": element.digest(DigestAlgorithm::Sha256)? }]))
            }
            (Section::Nitro, Measure::Digests(_)) => match element.id.as_number() {
                Some(index) => {
                    let digest = element.digest(DigestAlgorithm::Sha384)?;
                    one(&["pcrs", &index.to_string()], json!([digest]))
                }
                None => None,
            },
            (Section::Tpm2, Measure::Digests(digests)) => element.id.as_number().map(|index| {
                let place = |digest: &Digest| {
                    let bank = bank(digest.algorithm).to_owned();
                    (vec!["pcrs".to_owned(), bank, index.to_string()], json!([hex::encode(&digest.value)]))
                };
                digests.iter().map(place).collect()
            }),
            (Section::Tdx, Measure::Digests(_)) => match tdx_measurement(element.id) {
                Some(place) => one(&[place], json!([element.digest(DigestAlgorithm::Sha384)?])),
                None => None,
            },
            (Section::Tdx, Measure::Bytes(bytes)) if matches!(name, "td_attributes" | "xfam") => {
                one(&[name], json!([hex::encode(bytes)]))
            }
            (Section::SevSnp, Measure::Digests(_)) => match snp_digest(name) {
                Some((place, algorithm)) => one(&[place], json!([element.digest(algorithm)?])),
                None => None,
            },
            (Section::SevSnp, Measure::Bytes(bytes)) => match name {
                "host_data" => one(&["host_data"], json!([hex::encode(bytes)])),
                "family_id" => one(&["family_ids"], json!([hex::encode(bytes)])),
                "image_id" => one(&["image_ids"], json!([hex::encode(bytes)])),
                _ => None,
            },
            (Section::SevSnp, Measure::AtLeast(svn)) => {
                match name.split('.').collect::<Vec<_>>().as_slice() {
                    ["guest_svn"] => one(&["minimum_guest_svn"], json!(svn)),
                    ["tcb", product, component] => one(&["minimum_tcb", product, component], json!(svn)),
                    _ => None,
                }
            }
            (Section::Process | Section::Nitro | Section::Tpm2 | Section::Tdx, _) => None,
        })
    }
}

/// A place in the section, and what stands there.
type Placed = (Vec<String>, Value);

/// One element of an environment, and one thing that is said of it.
struct Element<'a> {
    id: &'a Identifier,
    measure: Measure<'a>,
}

enum Measure<'a> {
    Digests(&'a [Digest]),
    Bytes(&'a [u8]),
    AtLeast(u64),
}

impl Measure<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Measure::Digests(_) => "a digest",
            Measure::Bytes(_) => "a raw value",
            Measure::AtLeast(_) => "a least SVN",
        }
    }
}

impl Element<'_> {
    /// The one digest, in hex, by this algorithm.
    fn digest(&self, wanted: DigestAlgorithm) -> Result<String, Unmappable> {
        match self.measure {
            Measure::Digests([Digest { algorithm, value }]) if *algorithm == wanted => Ok(hex::encode(value)),
            _ => Err(Unmappable::Digest(spelled(self.id), bank(wanted))),
        }
    }
}

/// Every condition of a triple, taken apart. What no section can say is an error here.
fn elements(triple: &ReferenceTriple) -> Result<Vec<Element<'_>>, Unmappable> {
    let mut elements = Vec::new();
    for measurement in &triple.measurements {
        let id = measurement.key.as_ref();
        check_conditions(measurement)?;
        if let (Some(id), false) = (id, measurement.digests.is_empty()) {
            elements.push(Element { id, measure: Measure::Digests(&measurement.digests) });
        }
        if let (Some(id), Some(raw)) = (id, &measurement.raw_value) {
            elements.push(Element { id, measure: Measure::Bytes(&raw.value) });
        }
        if let (Some(id), Some(Svn::AtLeast(svn))) = (id, measurement.svn) {
            elements.push(Element { id, measure: Measure::AtLeast(svn) });
        }
        let registers = measurement.registers.iter();
        elements.extend(registers.map(|(id, digests)| Element { id, measure: Measure::Digests(digests) }));
    }
    Ok(elements)
}

fn check_conditions(measurement: &Measurement) -> Result<(), Unmappable> {
    let values =
        !measurement.digests.is_empty() || measurement.raw_value.is_some() || measurement.svn.is_some();
    let conditions = [
        ("`version`", measurement.version.is_some()),
        ("`name`", measurement.name.is_some()),
        ("`raw-value-mask`", measurement.raw_value.as_ref().is_some_and(|raw| raw.mask.is_some())),
        ("an exact `svn`", matches!(measurement.svn, Some(Svn::Exactly(_)))),
        ("values of no element", measurement.key.is_none() && values),
        (
            "`integrity-registers` of one element",
            measurement.key.is_some() && !measurement.registers.is_empty(),
        ),
    ];
    match conditions.into_iter().find(|(_, stands)| *stands) {
        Some((name, _)) => {
            Err(Unmappable::Condition(measurement.key.as_ref().map_or("(no key)".to_owned(), spelled), name))
        }
        None => Ok(()),
    }
}

/// Puts a value at a place where none stands.
fn insert(section: &mut Map<String, Value>, place: &[String], value: Value) -> Result<(), ()> {
    match place {
        [] => Err(()),
        [last] => match section.insert(last.clone(), value) {
            None => Ok(()),
            Some(_) => Err(()),
        },
        [first, rest @ ..] => match section.entry(first.clone()).or_insert_with(|| json!({})) {
            Value::Object(inner) => insert(inner, rest, value),
            _ => Err(()),
        },
    }
}

/// RTMRs by number too, as registers of integrity have it.
fn tdx_measurement(id: &Identifier) -> Option<&'static str> {
    let names = [
        "rtmr0",
        "rtmr1",
        "rtmr2",
        "rtmr3",
        "mrtd",
        "mrconfigid",
        "mrowner",
        "mrownerconfig",
        "mrservicetd",
        "mrseam",
    ];
    match id {
        Identifier::Number(number @ 0..=3) => {
            usize::try_from(*number).ok().and_then(|at| names.get(at).copied())
        }
        Identifier::Text(text) => names.into_iter().find(|name| name == text),
        _ => None,
    }
}

fn snp_digest(name: &str) -> Option<(&'static str, DigestAlgorithm)> {
    match name {
        "measurement" => Some(("measurements", DigestAlgorithm::Sha384)),
        "host_data" => Some(("host_data", DigestAlgorithm::Sha256)),
        "id_key_digest" => Some(("id_key_digests", DigestAlgorithm::Sha384)),
        "author_key_digest" => Some(("author_key_digests", DigestAlgorithm::Sha384)),
        _ => None,
    }
}

fn bank(algorithm: DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Sha256 => "sha256",
        DigestAlgorithm::Sha384 => "sha384",
        DigestAlgorithm::Sha512 => "sha512",
    }
}

/// An identifier as a message quotes it.
fn spelled(id: &Identifier) -> String {
    id.to_string().chars().filter(|character| !character.is_control()).take(QUOTED_CHARACTERS).collect()
}

/// Enough for any name that somebody gives an element.
const QUOTED_CHARACTERS: usize = 80;
