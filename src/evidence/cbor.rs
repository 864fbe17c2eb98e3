//! Deterministic CBOR, read strictly and written.
//!
//! *Takes* untrusted bytes, or a [`Value`]. *Gives* a [`Value`] that borrows from them, or the one encoding of it.
//! *Denies* nothing itself; each [`Error`] becomes the `EvidenceMalformed` of a format.
//! *Source*: RFC 8949 §3, §4.2.1; `evidence.md` §1.
//!
//! Only what evidence needs: integers, byte and text strings, arrays, maps, COSE's tag 18. Two places know that the
//! encoding is deterministic, `Reader::head` and `Reader::map`: a format that is encoded otherwise (Nitro) gives the
//! reader a rule for those two, and changes nothing else.

use crate::limits;

/// One data item. Strings borrow from the bytes that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Major type 0.
    Unsigned(u64),
    /// Major type 1, as encoded: `n` stands for −1 − n.
    Negative(u64),
    /// Major type 2.
    Bytes(&'a [u8]),
    /// Major type 3.
    Text(&'a str),
    /// Major type 4.
    Array(Vec<Value<'a>>),
    /// Major type 5. In reading order; writing sorts it.
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// Major type 6, tag 18: COSE_Sign1 (RFC 9052 §4.2). Other tags are refused.
    Sign1(Box<Value<'a>>),
}

/// Why bytes are not deterministic CBOR of the kinds above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end within an item.
    #[error("the bytes end within an item")]
    Truncated,
    /// Bytes follow the item.
    #[error("bytes follow the item")]
    Trailing,
    /// A head is longer than it need be.
    #[error("a length or integer is not in its shortest form")]
    NotShortest,
    /// An indefinite length, a reserved head, a float, a simple value, or a tag other than 18.
    #[error("an item of a kind that is not taken")]
    Kind,
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// The keys of a map do not ascend, or one stands twice.
    #[error("the keys of a map do not ascend")]
    KeyOrder,
    /// Nested deeper than [`limits::CBOR_DEPTH`].
    #[error("nested too deeply")]
    TooDeep,
}

/// Reads the one item that the bytes are.
pub fn read(bytes: &[u8]) -> Result<Value<'_>, Error> {
    let mut reader = Reader { rest: bytes };
    let value = reader.item(limits::CBOR_DEPTH)?;
    if !reader.rest.is_empty() {
        return Err(Error::Trailing);
    }
    Ok(value)
}

/// The deterministic encoding: shortest heads, definite lengths, map entries ascending by their encoded keys.
pub fn write(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out, value);
    out
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// One item, and at most `depth` containers around what is innermost.
    fn item(&mut self, depth: usize) -> Result<Value<'a>, Error> {
        let (major, argument) = self.head()?;
        match major {
            UNSIGNED => Ok(Value::Unsigned(argument)),
            NEGATIVE => Ok(Value::Negative(argument)),
            BYTES => self.take(argument).map(Value::Bytes),
            TEXT => {
                let bytes = self.take(argument)?;
                std::str::from_utf8(bytes).map(Value::Text).map_err(|_| Error::NotUtf8)
            }
            ARRAY => self.array(argument, inner(depth)?),
            MAP => self.map(argument, inner(depth)?),
            TAG if argument == TAG_SIGN1 => Ok(Value::Sign1(Box::new(self.item(inner(depth)?)?))),
            _ => Err(Error::Kind),
        }
    }

    /// Major type and argument, in the shortest form (RFC 8949 §4.2.1, first rule).
    fn head(&mut self) -> Result<(u8, u64), Error> {
        let (first, rest) = self.rest.split_first().ok_or(Error::Truncated)?;
        self.rest = rest;
        let (major, short) = (first >> 5, first & 0x1f);
        let width = match short {
            0..=23 => return Ok((major, u64::from(short))),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return Err(Error::Kind),
        };
        let argument = self.take(width)?.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        let shortest = match short {
            24 => argument >= 24,
            25 => argument > u64::from(u8::MAX),
            26 => argument > u64::from(u16::MAX),
            _ => argument > u64::from(u32::MAX),
        };
        shortest.then_some((major, argument)).ok_or(Error::NotShortest)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Error> {
        let length = usize::try_from(length).map_err(|_| Error::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Nothing is reserved for `count`, which the bytes merely claim; each element takes one of them at least.
    fn array(&mut self, count: u64, depth: usize) -> Result<Value<'a>, Error> {
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(self.item(depth)?);
        }
        Ok(Value::Array(elements))
    }

    /// Keys ascend by their encoded bytes, so none stands twice (RFC 8949 §4.2.1, third rule; §5.6).
    fn map(&mut self, count: u64, depth: usize) -> Result<Value<'a>, Error> {
        let mut entries = Vec::new();
        let mut before: &[u8] = &[];
        for _ in 0..count {
            let from = self.rest;
            let key = self.item(depth)?;
            let length = from.len().saturating_sub(self.rest.len());
            let encoded = from.get(..length).ok_or(Error::Truncated)?;
            // An encoded key has a byte at least, so the first one is above "none".
            if encoded <= before {
                return Err(Error::KeyOrder);
            }
            before = encoded;
            entries.push((key, self.item(depth)?));
        }
        Ok(Value::Map(entries))
    }
}

fn inner(depth: usize) -> Result<usize, Error> {
    depth.checked_sub(1).ok_or(Error::TooDeep)
}

fn append(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Unsigned(number) => append_head(out, UNSIGNED, *number),
        Value::Negative(number) => append_head(out, NEGATIVE, *number),
        Value::Bytes(bytes) => append_string(out, BYTES, bytes),
        Value::Text(text) => append_string(out, TEXT, text.as_bytes()),
        Value::Array(elements) => {
            append_head(out, ARRAY, length(elements.len()));
            elements.iter().for_each(|element| append(out, element));
        }
        Value::Map(entries) => append_map(out, entries),
        Value::Sign1(inner) => {
            append_head(out, TAG, TAG_SIGN1);
            append(out, inner);
        }
    }
}

fn append_map(out: &mut Vec<u8>, entries: &[(Value<'_>, Value<'_>)]) {
    let mut encoded: Vec<_> = entries.iter().map(|(key, value)| (write(key), write(value))).collect();
    encoded.sort();
    append_head(out, MAP, length(encoded.len()));
    for (key, value) in encoded {
        out.extend_from_slice(&key);
        out.extend_from_slice(&value);
    }
}

fn append_string(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    append_head(out, major, length(bytes.len()));
    out.extend_from_slice(bytes);
}

fn append_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    if let Ok(short) = u8::try_from(argument) {
        match short {
            0..=23 => out.push(major | short),
            _ => out.extend_from_slice(&[major | 24, short]),
        }
    } else if let Ok(two) = u16::try_from(argument) {
        out.push(major | 25);
        out.extend_from_slice(&two.to_be_bytes());
    } else if let Ok(four) = u32::try_from(argument) {
        out.push(major | 26);
        out.extend_from_slice(&four.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&argument.to_be_bytes());
    }
}

/// A length in memory, which fits: no address space is wider than 64 bits.
fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

// Major types (RFC 8949 §3.1).
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;

/// COSE_Sign1 (RFC 9052 §2).
const TAG_SIGN1: u64 = 18;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_hex(text: &str) -> Result<(), Error> {
        read(&hex::decode(text).unwrap()).map(|_| ())
    }

    #[test]
    fn examples_of_the_rfc_read_and_write_back() {
        // RFC 8949 Appendix A, those of the kinds taken.
        for text in [
            "00",
            "17",
            "1818",
            "1864",
            "1903e8",
            "1a000f4240",
            "1b000000e8d4a51000",
            "1bffffffffffffffff",
            "20",
            "3863",
            "3903e7",
            "3bffffffffffffffff",
            "40",
            "4401020304",
            "60",
            "6449455446",
            "62c3bc",
            "80",
            "83010203",
            "8301820203820405",
            "a0",
            "a201020304",
            "a26161016162820203",
            "d240",
            "98190102030405060708090a0b0c0d0e0f101112131415161718181819",
        ] {
            let bytes = hex::decode(text).unwrap();
            assert_eq!(write(&read(&bytes).unwrap()), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_not_deterministic_is_refused_by_name() {
        for (text, error) in [
            ("", Error::Truncated),
            ("18", Error::Truncated),
            ("43aabb", Error::Truncated),
            ("5bffffffffffffffff", Error::Truncated),
            ("9bffffffffffffffff00", Error::Truncated),
            ("bbffffffffffffffff0000", Error::Truncated),
            ("0000", Error::Trailing),
            ("1800", Error::NotShortest),
            ("1817", Error::NotShortest),
            ("190018", Error::NotShortest),
            ("1900ff", Error::NotShortest),
            ("1a0000ffff", Error::NotShortest),
            ("1b00000000ffffffff", Error::NotShortest),
            ("3817", Error::NotShortest),
            ("580100", Error::NotShortest),
            ("7800", Error::NotShortest),
            ("980100", Error::NotShortest),
            ("b8010000", Error::NotShortest),
            ("d81240", Error::NotShortest),
            ("5f4100ff", Error::Kind),
            ("7f6161ff", Error::Kind),
            ("9f00ff", Error::Kind),
            ("bf0000ff", Error::Kind),
            ("1c", Error::Kind),
            ("1f", Error::Kind),
            ("f4", Error::Kind),
            ("f6", Error::Kind),
            ("f93c00", Error::Kind),
            ("fb3ff199999999999a", Error::Kind),
            ("c074323031", Error::Kind),
            ("d1a0", Error::Kind),
            ("61ff", Error::NotUtf8),
            ("62c328", Error::NotUtf8),
            ("63eda080", Error::NotUtf8),
            ("a201000100", Error::KeyOrder),
            ("a202000100", Error::KeyOrder),
            ("a2616200616100", Error::KeyOrder),
            ("a261620018ff00", Error::KeyOrder),
        ] {
            assert_eq!(read_hex(text), Err(error), "{text}");
        }
    }

    #[test]
    fn keys_ascend_by_encoded_bytes_and_not_by_length_first() {
        // 100 (1864) stands before -1 (20), which RFC 7049's canonical order has the other way round.
        assert_eq!(read_hex("a2186400 2000".replace(' ', "").as_str()), Ok(()));
        assert_eq!(read_hex("a22000186400"), Err(Error::KeyOrder));
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| [vec![0x81; depth], vec![0]].concat();
        assert!(read(&nested(limits::CBOR_DEPTH)).is_ok());
        assert_eq!(read(&nested(limits::CBOR_DEPTH + 1)), Err(Error::TooDeep));
        assert_eq!(read(&vec![0x81; 16 << 20]), Err(Error::TooDeep));
        assert_eq!(read(&vec![0xa1; 16 << 20]), Err(Error::TooDeep));
        assert_eq!(read(&vec![0xd2; 16 << 20]), Err(Error::TooDeep));
    }

    proptest::proptest! {
        #[test]
        fn what_reads_writes_back_to_the_same_bytes(bytes: Vec<u8>) {
            if let Ok(value) = read(&bytes) {
                assert_eq!(write(&value), bytes);
            }
        }
    }
}
