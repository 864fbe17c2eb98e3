//! Members of CoRIM's maps, each taken out by its number.
//!
//! *Takes* a CBOR map. *Gives* its members as the types of the manifest. *Denies* nothing itself.
//! *Source*: draft-ietf-rats-corim, Appendix A (CDDL); RFC 8949 §3.4 (tags).

use super::{Error, Identifier};
use crate::evidence::cbor::{self, Entries, Rule, Value};
use crate::time::WallTime;

/// A map of CoRIM: its keys are small numbers.
pub(super) struct Fields<'a> {
    name: &'static str,
    entries: Entries<'a>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(name: &'static str, value: Value<'a>) -> Result<Self, Error> {
        Entries::of(value).map(|entries| Fields { name, entries }).ok_or(Error::Wrong(name))
    }

    pub(super) fn take(&mut self, key: u64) -> Option<Value<'a>> {
        self.entries.take(&Value::Unsigned(key))
    }

    pub(super) fn required(&mut self, key: u64, name: &'static str) -> Result<Value<'a>, Error> {
        self.take(key).ok_or(Error::Missing(name))
    }

    /// The member where it is there, read by `read`.
    pub(super) fn optional<T>(
        &mut self,
        key: u64,
        name: &'static str,
        read: impl FnOnce(Value<'a>, &'static str) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        self.take(key).map(|value| read(value, name)).transpose()
    }

    /// What was not taken, by its keys.
    pub(super) fn rest(self) -> Vec<String> {
        self.entries.rest().iter().map(|(key, _)| spelled(key)).collect()
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Error> {
        let name = self.name;
        match self.rest().into_iter().next() {
            Some(key) => Err(Error::Unknown(name, format!("the member {key}"))),
            None => Ok(()),
        }
    }
}

pub(super) fn read<'a>(part: &'static str, bytes: &'a [u8]) -> Result<Value<'a>, Error> {
    cbor::read_by(Rule::AsSigned, bytes).map_err(|error| Error::Encoding { part, error })
}

pub(super) fn text(value: Value<'_>, name: &'static str) -> Result<String, Error> {
    match value {
        Value::Text(text) => Ok(text.to_owned()),
        _ => Err(Error::Wrong(name)),
    }
}

pub(super) fn unsigned(value: Value<'_>, name: &'static str) -> Result<u64, Error> {
    match value {
        Value::Unsigned(number) => Ok(number),
        _ => Err(Error::Wrong(name)),
    }
}

pub(super) fn bytes<'a>(value: Value<'a>, name: &'static str) -> Result<&'a [u8], Error> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(Error::Wrong(name)),
    }
}

/// An array with an element at least.
pub(super) fn some<'a>(value: Value<'a>, name: &'static str) -> Result<Vec<Value<'a>>, Error> {
    match value {
        Value::Array(elements) if !elements.is_empty() => Ok(elements),
        _ => Err(Error::Wrong(name)),
    }
}

/// An array of two.
pub(super) fn pair<'a>(value: Value<'a>, name: &'static str) -> Result<(Value<'a>, Value<'a>), Error> {
    match value {
        Value::Array(elements) => {
            let [first, second] = <[Value<'a>; 2]>::try_from(elements).map_err(|_| Error::Wrong(name))?;
            Ok((first, second))
        }
        _ => Err(Error::Wrong(name)),
    }
}

/// A time in whole seconds, with tag 1 or, in CWT claims, without.
pub(super) fn time(value: Value<'_>, name: &'static str) -> Result<WallTime, Error> {
    let number = match value {
        Value::Tagged(TAG_TIME, inner) => *inner,
        untagged => untagged,
    };
    match number {
        Value::Unsigned(seconds) => seconds.checked_mul(1000).map(WallTime).ok_or(Error::Wrong(name)),
        _ => Err(Error::Wrong(name)),
    }
}

/// An identifier of any of the kinds that CoRIM has.
pub(super) fn identifier(value: Value<'_>, name: &'static str) -> Result<Identifier, Error> {
    match value {
        Value::Text(text) if !text.is_empty() => Ok(Identifier::Text(text.to_owned())),
        Value::Unsigned(number) => Ok(Identifier::Number(number)),
        Value::Bytes(bytes) => uuid(bytes, name),
        Value::Tagged(tag, inner) => match (tag, *inner) {
            (TAG_URI, Value::Text(uri)) if !uri.is_empty() => Ok(Identifier::Text(uri.to_owned())),
            (TAG_UUID, Value::Bytes(bytes)) => uuid(bytes, name),
            (TAG_OID, Value::Bytes(bytes)) if !bytes.is_empty() => Ok(Identifier::Oid(bytes.to_vec())),
            (TAG_UEID, Value::Bytes(bytes)) if !bytes.is_empty() => Ok(Identifier::Ueid(bytes.to_vec())),
            (TAG_INTEGER, Value::Unsigned(number)) => Ok(Identifier::Number(number)),
            (TAG_BYTES, Value::Bytes(bytes)) if !bytes.is_empty() => Ok(Identifier::Bytes(bytes.to_vec())),
            (TAG_URI | TAG_UUID | TAG_OID | TAG_UEID | TAG_INTEGER | TAG_BYTES, _) => Err(Error::Wrong(name)),
            (other, _) => Err(Error::Unknown(name, format!("tag {other}"))),
        },
        _ => Err(Error::Wrong(name)),
    }
}

fn uuid(bytes: &[u8], name: &'static str) -> Result<Identifier, Error> {
    bytes.try_into().map(Identifier::Uuid).map_err(|_| Error::Wrong(name))
}

/// A map's key, as an error names it.
fn spelled(key: &Value<'_>) -> String {
    match key {
        Value::Unsigned(number) => number.to_string(),
        Value::Negative(number) => format!("-1-{number}"),
        Value::Text(text) => format!("`{}`", text.chars().take(40).collect::<String>()),
        _ => "of another kind".to_owned(),
    }
}

/// Epoch time (RFC 8949 §3.4.2).
const TAG_TIME: u64 = 1;
/// A URI (RFC 8949 §3.4.5.3).
const TAG_URI: u64 = 32;
/// A UUID (IANA).
const TAG_UUID: u64 = 37;
/// An object identifier (RFC 9090).
const TAG_OID: u64 = 111;
// CoRIM's own (draft-ietf-rats-corim §10).
const TAG_UEID: u64 = 550;
const TAG_INTEGER: u64 = 551;
const TAG_BYTES: u64 = 560;
