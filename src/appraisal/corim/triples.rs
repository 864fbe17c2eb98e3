//! Reference triples: an environment and what it measures.
//!
//! *Takes* one `reference-triple-record`. *Gives* [`ReferenceTriple`]. *Denies* nothing itself; whatever is not understood is an
//! error, as a reference that lost a condition would let more in.
//! *Source*: draft-ietf-rats-corim §5.1.4 (environment-map, measurement-map).

use super::fields::{self, Fields};
use super::{
    Digest, DigestAlgorithm, Environment, Error, Identifier, Measurement, RawValue, ReferenceTriple, Svn,
};
use crate::evidence::cbor::{Entries, Value};

pub(super) fn read(value: Value<'_>) -> Result<ReferenceTriple, Error> {
    let (environment, measurements) = fields::pair(value, "reference-triple")?;
    let measurements = match measurements {
        // One measurement without its array, as early drafts had it.
        single @ Value::Map(_) => vec![single],
        several => fields::some(several, "measurements")?,
    };
    Ok(ReferenceTriple {
        environment: read_environment(environment)?,
        measurements: measurements.into_iter().map(read_measurement).collect::<Result<_, _>>()?,
    })
}

fn read_environment(value: Value<'_>) -> Result<Environment, Error> {
    let mut map = Fields::of("environment", value)?;
    let mut environment = Environment::default();
    if let Some(class) = map.take(0) {
        let mut class = Fields::of("class", class)?;
        environment.class_id = class.optional(0, "class-id", fields::identifier)?;
        environment.vendor = class.optional(1, "vendor", fields::text)?;
        environment.model = class.optional(2, "model", fields::text)?;
        environment.layer = class.optional(3, "layer", fields::unsigned)?;
        environment.index = class.optional(4, "index", fields::unsigned)?;
        class.end()?;
    }
    environment.instance = map.optional(1, "instance", fields::identifier)?;
    environment.group = map.optional(2, "group", fields::identifier)?;
    map.end()?;
    match environment == Environment::default() {
        true => Err(Error::Wrong("environment")),
        false => Ok(environment),
    }
}

fn read_measurement(value: Value<'_>) -> Result<Measurement, Error> {
    let mut map = Fields::of("measurement", value)?;
    let key = map.optional(0, "mkey", fields::identifier)?;
    let mut values = Fields::of("measurement-values", map.required(1, "mval")?)?;
    map.end()?;
    let measurement = Measurement {
        key: None,
        version: values.optional(0, "version", version)?,
        svn: values.optional(1, "svn", svn)?,
        digests: values.optional(2, "digests", digests)?.unwrap_or_default(),
        raw_value: raw_value(&mut values)?,
        name: values.optional(11, "name", fields::text)?,
        registers: values.optional(14, "integrity-registers", registers)?.unwrap_or_default(),
    };
    values.end()?;
    match measurement == Measurement::default() {
        true => Err(Error::Wrong("measurement-values")),
        false => Ok(Measurement { key, ..measurement }),
    }
}

fn version(value: Value<'_>, name: &'static str) -> Result<(String, Option<Identifier>), Error> {
    let mut map = Fields::of(name, value)?;
    let version = fields::text(map.required(0, name)?, name)?;
    let scheme = map.optional(1, "version-scheme", fields::identifier)?;
    map.end()?;
    Ok((version, scheme))
}

fn svn(value: Value<'_>, name: &'static str) -> Result<Svn, Error> {
    match value {
        Value::Unsigned(number) => Ok(Svn::Exactly(number)),
        Value::Tagged(TAG_SVN, inner) => fields::unsigned(*inner, name).map(Svn::Exactly),
        Value::Tagged(TAG_MIN_SVN, inner) => fields::unsigned(*inner, name).map(Svn::AtLeast),
        Value::Tagged(other, _) => Err(Error::Unknown(name, format!("tag {other}"))),
        _ => Err(Error::Wrong(name)),
    }
}

fn raw_value(values: &mut Fields<'_>) -> Result<Option<RawValue>, Error> {
    let name = "raw-value";
    let mask = values.optional(5, "raw-value-mask", fields::bytes)?;
    let raw = match (values.take(4), mask) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(Error::Missing(name)),
        (Some(Value::Tagged(TAG_BYTES, inner)), mask) => (fields::bytes(*inner, name)?, mask),
        (Some(Value::Tagged(TAG_MASKED_RAW_VALUE, inner)), None) => {
            let (value, mask) = fields::pair(*inner, name)?;
            (fields::bytes(value, name)?, Some(fields::bytes(mask, name)?))
        }
        (Some(Value::Tagged(other, _)), _) => return Err(Error::Unknown(name, format!("tag {other}"))),
        (Some(_), _) => return Err(Error::Wrong(name)),
    };
    match raw {
        ([], _) => Err(Error::Wrong(name)),
        // A mask of another length, or one of which no bit counts, would match what its author never saw.
        (value, Some(mask)) if mask.len() != value.len() || mask.iter().all(|byte| *byte == 0) => {
            Err(Error::Wrong("raw-value-mask"))
        }
        (value, mask) => Ok(Some(RawValue { value: value.to_vec(), mask: mask.map(<[u8]>::to_vec) })),
    }
}

fn registers(value: Value<'_>, name: &'static str) -> Result<Vec<(Identifier, Vec<Digest>)>, Error> {
    let entries = Entries::of(value).ok_or(Error::Wrong(name))?.rest();
    if entries.is_empty() {
        return Err(Error::Wrong(name));
    }
    let register = |(id, value)| Ok((fields::identifier(id, name)?, digests(value, name)?));
    entries.into_iter().map(register).collect()
}

/// One digest by each algorithm at most: of two it could not be said which one counts.
fn digests(value: Value<'_>, name: &'static str) -> Result<Vec<Digest>, Error> {
    let mut digests: Vec<Digest> = Vec::new();
    for value in fields::some(value, name)? {
        let digest = digest(value, name)?;
        if digests.iter().any(|other| other.algorithm == digest.algorithm) {
            return Err(Error::Wrong(name));
        }
        digests.push(digest);
    }
    Ok(digests)
}

/// The algorithm by its number or name among Named Information hashes (RFC 6920 §9.4), or by its COSE number (RFC 9054 §2).
fn digest(value: Value<'_>, name: &'static str) -> Result<Digest, Error> {
    let (algorithm, value) = fields::pair(value, name)?;
    let (algorithm, length) = match algorithm {
        Value::Unsigned(1) | Value::Text("sha-256") | Value::Negative(15) => (DigestAlgorithm::Sha256, 32),
        Value::Unsigned(7) | Value::Text("sha-384") | Value::Negative(42) => (DigestAlgorithm::Sha384, 48),
        Value::Unsigned(8) | Value::Text("sha-512") | Value::Negative(43) => (DigestAlgorithm::Sha512, 64),
        Value::Unsigned(other) => return Err(Error::Unknown(name, format!("digest algorithm {other}"))),
        Value::Text(_) | Value::Negative(_) => {
            return Err(Error::Unknown(name, "a digest algorithm".to_owned()));
        }
        _ => return Err(Error::Wrong(name)),
    };
    let value = fields::bytes(value, name)?;
    match value.len() == length && value.iter().any(|byte| *byte != 0) {
        true => Ok(Digest { algorithm, value: value.to_vec() }),
        false => Err(Error::Wrong(name)),
    }
}

// CoRIM's tags (draft-ietf-rats-corim §10).
const TAG_SVN: u64 = 552;
const TAG_MIN_SVN: u64 = 553;
const TAG_BYTES: u64 = 560;
const TAG_MASKED_RAW_VALUE: u64 = 563;
