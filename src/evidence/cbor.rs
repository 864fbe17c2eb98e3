//! CBOR, read strictly and written: deterministic by default, and as another's encoder made it where a format says so.
//!
//! *Takes* untrusted bytes, or a [`Value`]. *Gives* a [`Value`] that borrows from them, or the one encoding of it.
//! *Denies* nothing itself; each [`Error`] becomes the `EvidenceMalformed` of a format.
//! *Source*: RFC 8949 §3, §4.2.1; `evidence.md` §1.
//!
//! Only what evidence needs: integers, byte and text strings, arrays, maps, COSE's tag 18. Two places know that the
//! encoding is deterministic, `Reader::head` and `Reader::map`; they ask a [`Rule`]. What is read by [`Rule::AsSigned`] (Nitro's
//! payload, a CoRIM) is verified over the bytes as they came, so no encoding of it has to be the only one.

use crate::limits;

/// How the bytes are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// RFC 8949 §4.2.1, and nothing but integers, strings, arrays, maps and tag 18: of one value there is one encoding.
    Deterministic,
    /// RFC 8949 §3, for what a signature covers as it is: heads of any length, arrays and maps without a length, keys in any
    /// order, null, booleans, any tag. No key twice, keys are integers and texts, strings are of one piece.
    AsSigned,
}

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
    /// Major type 6, tag 18: COSE_Sign1 (RFC 9052 §4.2). Other tags are refused by [`Rule::Deterministic`].
    Sign1(Box<Value<'a>>),
    /// Major type 6, any other tag. [`Rule::AsSigned`] alone.
    Tagged(u64, Box<Value<'a>>),
    /// Simple values 20 and 21. [`Rule::AsSigned`] alone.
    Bool(bool),
    /// Simple value 22. [`Rule::AsSigned`] alone.
    Null,
}

/// A map whose entries are taken out one by one; what is left at the end is what a format does not have.
#[derive(Debug)]
pub struct Entries<'a>(Vec<(Value<'a>, Value<'a>)>);

impl<'a> Entries<'a> {
    /// The entries of a map; none where it is no map.
    pub fn of(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Map(entries) => Some(Entries(entries)),
            _ => None,
        }
    }

    /// The value of `key`, taken out.
    pub fn take(&mut self, key: &Value<'_>) -> Option<Value<'a>> {
        let at = self.0.iter().position(|(found, _)| found == key)?;
        Some(self.0.remove(at).1)
    }

    /// What nobody took, in its order.
    pub fn rest(self) -> Vec<(Value<'a>, Value<'a>)> {
        self.0
    }
}

/// Why bytes are not CBOR of the kinds above, encoded as the rule has it.
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
    /// An indefinite length, a reserved head, a float, a simple value, or a tag other than 18, where the rule does not take it.
    #[error("an item of a kind that is not taken")]
    Kind,
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// The keys of a map do not ascend, or one stands twice.
    #[error("the keys of a map do not ascend")]
    KeyOrder,
    /// A key stands twice, where keys need not ascend.
    #[error("a map has one key twice")]
    KeyRepeated,
    /// A key is neither integer nor text, where keys need not ascend.
    #[error("a key of a map is neither an integer nor text")]
    KeyKind,
    /// A map is larger than [`limits::CBOR_UNORDERED_ENTRIES`], where keys need not ascend.
    #[error("a map has too many entries")]
    TooMany,
    /// Nested deeper than [`limits::CBOR_DEPTH`].
    #[error("nested too deeply")]
    TooDeep,
}

/// Reads the one item that the bytes are, deterministically encoded.
pub fn read(bytes: &[u8]) -> Result<Value<'_>, Error> {
    read_by(Rule::Deterministic, bytes)
}

/// Reads the one item that the bytes are, encoded as the rule has it.
pub fn read_by(rule: Rule, bytes: &[u8]) -> Result<Value<'_>, Error> {
    let mut reader = Reader { rest: bytes, rule };
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
    rule: Rule,
}

/// What a head says after its major type.
#[derive(Clone, Copy)]
enum Argument {
    Number(u64),
    /// Of an array or a map: until a break. By [`Rule::AsSigned`] alone.
    UntilBreak,
}

impl<'a> Reader<'a> {
    /// One item, and at most `depth` containers around what is innermost.
    fn item(&mut self, depth: usize) -> Result<Value<'a>, Error> {
        let (major, argument) = self.head()?;
        let number = match (major, argument) {
            (ARRAY, _) => return self.array(argument, inner(depth)?),
            (MAP, _) => return self.map(argument, inner(depth)?),
            (_, Argument::Number(number)) => number,
            (_, Argument::UntilBreak) => return Err(Error::Kind),
        };
        match major {
            UNSIGNED => Ok(Value::Unsigned(number)),
            NEGATIVE => Ok(Value::Negative(number)),
            BYTES => self.take(number).map(Value::Bytes),
            TEXT => {
                let bytes = self.take(number)?;
                std::str::from_utf8(bytes).map(Value::Text).map_err(|_| Error::NotUtf8)
            }
            SIMPLE if self.rule == Rule::AsSigned => simple(number),
            TAG if number == TAG_SIGN1 => Ok(Value::Sign1(Box::new(self.item(inner(depth)?)?))),
            TAG if self.rule == Rule::AsSigned => {
                Ok(Value::Tagged(number, Box::new(self.item(inner(depth)?)?)))
            }
            _ => Err(Error::Kind),
        }
    }

    /// Major type and argument; by [`Rule::Deterministic`] in the shortest form (RFC 8949 §4.2.1, first rule).
    fn head(&mut self) -> Result<(u8, Argument), Error> {
        let (first, rest) = self.rest.split_first().ok_or(Error::Truncated)?;
        self.rest = rest;
        let (major, short) = (first >> 5, first & 0x1f);
        let width = match short {
            0..=23 => return Ok((major, Argument::Number(u64::from(short)))),
            // Floats; and simple values never have a longer head (RFC 8949 §3.3): the float of bits 22 is not null.
            _ if major == SIMPLE => return Err(Error::Kind),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            31 if self.rule == Rule::AsSigned && matches!(major, ARRAY | MAP) => {
                return Ok((major, Argument::UntilBreak));
            }
            _ => return Err(Error::Kind),
        };
        let argument = self.take(width)?.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        let shortest = match short {
            24 => argument >= 24,
            25 => argument > u64::from(u8::MAX),
            26 => argument > u64::from(u16::MAX),
            _ => argument > u64::from(u32::MAX),
        };
        let fits = shortest || self.rule == Rule::AsSigned;
        fits.then_some((major, Argument::Number(argument))).ok_or(Error::NotShortest)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Error> {
        let length = usize::try_from(length).map_err(|_| Error::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Whether another element follows `read` ones. A break is taken.
    fn another(&mut self, argument: Argument, read: usize) -> Result<bool, Error> {
        match argument {
            Argument::Number(count) => Ok(length(read) < count),
            Argument::UntilBreak => match self.rest.split_first().ok_or(Error::Truncated)? {
                (&BREAK, rest) => {
                    self.rest = rest;
                    Ok(false)
                }
                _ => Ok(true),
            },
        }
    }

    /// Nothing is reserved for a count, which the bytes merely claim; each element takes one of them at least.
    fn array(&mut self, argument: Argument, depth: usize) -> Result<Value<'a>, Error> {
        let mut elements = Vec::new();
        while self.another(argument, elements.len())? {
            elements.push(self.item(depth)?);
        }
        Ok(Value::Array(elements))
    }

    /// By [`Rule::Deterministic`] keys ascend by their encoded bytes, so none stands twice (RFC 8949 §4.2.1, third rule; §5.6).
    fn map(&mut self, argument: Argument, depth: usize) -> Result<Value<'a>, Error> {
        let mut entries = Vec::new();
        let mut before: &[u8] = &[];
        while self.another(argument, entries.len())? {
            let from = self.rest;
            let key = self.item(depth)?;
            let length = from.len().saturating_sub(self.rest.len());
            let encoded = from.get(..length).ok_or(Error::Truncated)?;
            match self.rule {
                // An encoded key has a byte at least, so the first one is above "none".
                Rule::Deterministic if encoded <= before => return Err(Error::KeyOrder),
                Rule::Deterministic => before = encoded,
                Rule::AsSigned => check_key(&key, &entries)?,
            }
            entries.push((key, self.item(depth)?));
        }
        Ok(Value::Map(entries))
    }
}

/// Whether an unordered map may have one more key. One number is one key in whatever form its head has, so keys are compared
/// as values; the bound keeps that short.
fn check_key<'a>(key: &Value<'a>, entries: &[(Value<'a>, Value<'a>)]) -> Result<(), Error> {
    if !matches!(key, Value::Unsigned(_) | Value::Negative(_) | Value::Text(_)) {
        return Err(Error::KeyKind);
    }
    if entries.len() >= limits::CBOR_UNORDERED_ENTRIES {
        return Err(Error::TooMany);
    }
    match entries.iter().any(|(other, _)| other == key) {
        true => Err(Error::KeyRepeated),
        false => Ok(()),
    }
}

/// False, true and null.
fn simple(number: u64) -> Result<Value<'static>, Error> {
    match number {
        FALSE => Ok(Value::Bool(false)),
        TRUE => Ok(Value::Bool(true)),
        NULL => Ok(Value::Null),
        _ => Err(Error::Kind),
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
        Value::Tagged(tag, inner) => {
            append_head(out, TAG, *tag);
            append(out, inner);
        }
        Value::Bool(value) => append_head(out, SIMPLE, if *value { TRUE } else { FALSE }),
        Value::Null => append_head(out, SIMPLE, NULL),
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
const SIMPLE: u8 = 7;

/// The end of an array or a map without a length (RFC 8949 §3.2.1).
const BREAK: u8 = 0xff;

// Simple values (RFC 8949 §3.3).
const FALSE: u64 = 20;
const TRUE: u64 = 21;
const NULL: u64 = 22;

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

    fn read_signed(text: &str) -> Result<Value<'static>, Error> {
        read_by(Rule::AsSigned, Box::leak(hex::decode(text).unwrap().into_boxed_slice()))
    }

    #[test]
    fn what_is_signed_as_it_is_may_be_encoded_otherwise() {
        let map = |entries: &[(u64, u64)]| {
            let value = |(key, value): &(u64, u64)| (Value::Unsigned(*key), Value::Unsigned(*value));
            Ok(Value::Map(entries.iter().map(value).collect()))
        };
        assert_eq!(read_signed("a201020304"), map(&[(1, 2), (3, 4)]));
        assert_eq!(read_signed("bf01020304ff"), map(&[(1, 2), (3, 4)]));
        assert_eq!(read_signed("bf03040102ff"), map(&[(3, 4), (1, 2)]));
        assert_eq!(read_signed("b800"), map(&[]));
        assert_eq!(read_signed("bfff"), map(&[]));
        assert_eq!(read_signed("bf1800190001ff"), map(&[(0, 1)]));
        assert_eq!(read_signed("9f01ff"), Ok(Value::Array(vec![Value::Unsigned(1)])));
        assert_eq!(read_signed("f6"), Ok(Value::Null));
        assert_eq!(read_signed("f4"), Ok(Value::Bool(false)));
        assert_eq!(read_signed("f5"), Ok(Value::Bool(true)));
        assert_eq!(read_signed("d9023041aa"), Ok(Value::Tagged(560, Box::new(Value::Bytes(&[0xaa])))));
        assert_eq!(read_signed("d240"), Ok(Value::Sign1(Box::new(Value::Bytes(&[])))));
        for text in ["a101f6", "d9023041aa", "83f4f5f6"] {
            assert_eq!(hex::encode(write(&read_signed(text).unwrap())), text);
        }
    }

    #[test]
    fn what_is_signed_as_it_is_is_well_formed_and_has_no_key_twice() {
        for (text, error) in [
            ("", Error::Truncated),
            ("bf", Error::Truncated),
            ("bf01", Error::Truncated),
            ("bf0102", Error::Truncated),
            ("9f", Error::Truncated),
            ("9f01", Error::Truncated),
            ("5bffffffffffffffff", Error::Truncated),
            ("9bffffffffffffffff00", Error::Truncated),
            ("bfff00", Error::Trailing),
            ("ff", Error::Kind),
            ("82ff01", Error::Kind),
            ("bf01ff", Error::Kind),
            ("81ff", Error::Kind),
            ("5f4100ff", Error::Kind),
            ("7f6161ff", Error::Kind),
            ("1f", Error::Kind),
            ("df00", Error::Kind),
            ("1c", Error::Kind),
            ("f7", Error::Kind),
            ("f816", Error::Kind),
            ("f90016", Error::Kind),
            ("fa00000016", Error::Kind),
            ("fb0000000000000016", Error::Kind),
            ("61ff", Error::NotUtf8),
            ("a201000100", Error::KeyRepeated),
            ("a20100180100", Error::KeyRepeated),
            ("bf0100190001f6ff", Error::KeyRepeated),
            ("a2616100616100", Error::KeyRepeated),
            ("a1800000", Error::KeyKind),
            ("a14000", Error::KeyKind),
            ("a1f600", Error::KeyKind),
            ("a1a00000", Error::KeyKind),
        ] {
            assert_eq!(read_signed(text), Err(error), "{text}");
        }
        let nested = |depth: usize| [vec![0x9f; depth], vec![0], vec![0xff; depth]].concat();
        assert!(read_by(Rule::AsSigned, &nested(limits::CBOR_DEPTH)).is_ok());
        for byte in [0x81, 0x9f, 0xa1, 0xbf, 0xc1, 0xd2] {
            let endless = vec![byte; 16 << 20];
            let outcome = read_by(Rule::AsSigned, &endless);
            assert!(matches!(outcome, Err(Error::TooDeep)), "{byte:02x}");
        }
        let entries = |count: usize| {
            let entry = |key: usize| [&[0x19][..], &u16::try_from(key).unwrap().to_be_bytes(), &[0]].concat();
            [vec![0xbf], (0..count).flat_map(entry).collect(), vec![0xff]].concat()
        };
        assert!(read_by(Rule::AsSigned, &entries(limits::CBOR_UNORDERED_ENTRIES)).is_ok());
        assert_eq!(
            read_by(Rule::AsSigned, &entries(limits::CBOR_UNORDERED_ENTRIES + 1)),
            Err(Error::TooMany)
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_deterministic_reads_alike_by_either_rule(bytes: Vec<u8>) {
            if let (Ok(value), Ok(other)) = (read(&bytes), read_by(Rule::AsSigned, &bytes)) {
                assert_eq!(value, other);
            }
            let _ = read_by(Rule::AsSigned, &bytes);
        }

        #[test]
        fn what_reads_writes_back_to_the_same_bytes(bytes: Vec<u8>) {
            if let Ok(value) = read(&bytes) {
                assert_eq!(write(&value), bytes);
            }
        }
    }
}
