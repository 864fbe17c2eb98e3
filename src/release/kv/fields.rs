//! A secret's value: fields by name, zeroized when dropped.
//!
//! *Takes* fields, or a stored `SecretValue`. *Gives* [`SecretFields`] and their encoding. *Denies* `FieldName`,
//! `FieldsMissing`, `TooLarge`. *Source*: `protocol.md` `SecretValue`; the protobuf encoding of maps.

use super::KvError;
use crate::limits;
use prost::encoding::{encode_varint, encoded_len_varint};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// The fields of a value: at least one, names `[a-z0-9_.-]{1,64}`, at most 24 KiB encoded. Not `Clone`; shows nothing.
pub struct SecretFields(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl SecretFields {
    /// Checks the fields. **Denies** `FieldName`, `FieldsMissing`, `TooLarge`.
    pub fn new(fields: BTreeMap<String, Zeroizing<Vec<u8>>>) -> Result<Self, KvError> {
        if fields.is_empty() {
            return Err(KvError::FieldsMissing);
        }
        if !fields.keys().all(|name| is_name(name)) {
            return Err(KvError::FieldName);
        }
        let fields = SecretFields(fields);
        (fields.encoded_length() <= limits::SECRET_BYTES).then_some(fields).ok_or(KvError::TooLarge)
    }

    /// The names, ascending.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The `SecretValue` message, fields ascending; written by hand, as prost leaves copies that are not zeroized.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // All of its length at once: a buffer that grows leaves a copy behind.
        let mut out = Zeroizing::new(Vec::with_capacity(self.encoded_length()));
        for (name, value) in &self.0 {
            out.push(FIELDS);
            encode_varint(wide(entry_length(name, value)), &mut *out);
            for (tag, bytes) in [(KEY, name.as_bytes()), (VALUE, value.as_slice())] {
                out.push(tag);
                encode_varint(wide(bytes.len()), &mut *out);
                out.extend_from_slice(bytes);
            }
        }
        out
    }

    /// Reads a stored `SecretValue`; none where it is not one that [`SecretFields::encode`] gave.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let message: crate::proto::v1::SecretValue = prost::Message::decode(bytes).ok()?;
        let fields = message.fields.into_iter().map(|(name, value)| (name, Zeroizing::new(value)));
        SecretFields::new(fields.collect()).ok()
    }

    fn encoded_length(&self) -> usize {
        self.0.iter().fold(0, |sum, (name, value)| sum.saturating_add(delimited(entry_length(name, value))))
    }
}

impl fmt::Debug for SecretFields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretFields")
    }
}

/// Whether it is a name of a field or a label.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
    (1..=limits::FIELD_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

fn entry_length(name: &str, value: &[u8]) -> usize {
    delimited(name.len()).saturating_add(delimited(value.len()))
}

/// A one-byte tag, a length, and so many bytes.
fn delimited(length: usize) -> usize {
    length.saturating_add(1).saturating_add(encoded_len_varint(wide(length)))
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Field 1, length-delimited: an entry of `fields`.
const FIELDS: u8 = 0x0a;
/// An entry's key, field 1.
const KEY: u8 = 0x0a;
/// An entry's value, field 2.
const VALUE: u8 = 0x12;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&str, &[u8])]) -> Result<SecretFields, KvError> {
        SecretFields::new(
            fields.iter().map(|(name, value)| ((*name).to_owned(), Zeroizing::new(value.to_vec()))).collect(),
        )
    }

    fn refusal(outcome: Result<SecretFields, KvError>) -> KvError {
        outcome.unwrap_err()
    }

    #[test]
    fn the_encoding_is_the_protobuf_message() {
        let large = vec![0xff; 20_000];
        let value = fields(&[("a", b""), ("password", b"hunter2"), ("key.pem", &large)]).unwrap();
        let encoded = value.encode();
        let message: crate::proto::v1::SecretValue = prost::Message::decode(encoded.as_slice()).unwrap();
        assert_eq!(message.fields.len(), 3);
        assert!(value.iter().all(|(name, value)| message.fields[name] == value));
        assert_eq!(encoded.len(), value.encoded_length());
        let decoded = SecretFields::decode(&encoded).unwrap();
        assert_eq!(decoded.encode(), encoded);
        assert_eq!(decoded.names(), ["a", "key.pem", "password"]);
        let single = fields(&[("value", b"x")]).unwrap();
        let map = std::collections::HashMap::from([("value".to_owned(), b"x".to_vec())]);
        let message = crate::proto::v1::SecretValue { fields: map };
        assert_eq!(*single.encode(), prost::Message::encode_to_vec(&message));
    }

    #[test]
    fn fields_out_of_bounds_are_refused() {
        assert_eq!(refusal(fields(&[])), KvError::FieldsMissing);
        let long = "a".repeat(65);
        for name in ["", "A", "a b", "a/b", "é", &long] {
            assert_eq!(refusal(fields(&[(name, b"x")])), KvError::FieldName, "{name}");
        }
        // Tag and length of the entry, of the name and of the value: 1 + 3, 1 + 1 + 1, 1 + 3.
        let most = limits::SECRET_BYTES - 11;
        assert_eq!(fields(&[("a", &vec![0; most])]).unwrap().encode().len(), limits::SECRET_BYTES);
        assert_eq!(refusal(fields(&[("a", &vec![0; most + 1])])), KvError::TooLarge);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", fields(&[("password", b"hunter2")]).unwrap()), "SecretFields");
    }
}
