//! Signed CoRIM: reference values as others publish them, for `admin reference import`. Never on the path of a release.
//!
//! *Takes* a file, the key that the operator names, the time. *Gives* [`Manifest`]: whose it is, until when, and its reference
//! triples. *Denies* nothing itself; an [`Error`] is the import's.
//! *Source*: draft-ietf-rats-corim (§4 CoRIM, §5 CoMID); RFC 9052 §4; RFC 9597 (CWT claims in headers).
//!
//! Only the operator's key counts: `kid` and certificates in the headers are the file's own word. A value that this reader does
//! not know is an error where leaving it out would make a reference say less, and is listed in [`Manifest::passed_over`]
//! where it is no reference value.

mod envelope;
mod fields;
mod import;
#[cfg(test)]
mod import_tests;
mod key;
mod manifest;
mod sections;
#[cfg(test)]
mod tests;
mod triples;

pub use envelope::read;
pub use import::{ImportError, Imported, PROFILE, Wanted, sets};
pub use key::{Algorithm, KeyError, SignerKey};
pub use sections::{Section, Unmappable};

use crate::evidence::cbor;
use crate::limits;
use crate::time::WallTime;
use std::fmt;

/// A manifest whose signature and times held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its id.
    pub id: Identifier,
    /// Who signed it, in their own words.
    pub signer: String,
    /// The profiles that it follows; a profile may say how values are to be read.
    pub profiles: Vec<Identifier>,
    /// When the signature's and the manifest's own validity begin, the later one, where one is given.
    pub not_before: Option<WallTime>,
    /// When they end, the earlier one, exclusive; what is imported may not outlive it.
    pub not_after: Option<WallTime>,
    /// What it says that some environments measure; never empty.
    pub references: Vec<ReferenceTriple>,
    /// What it holds beside reference values, in words: endorsements, keys, other kinds of tags.
    pub passed_over: Vec<String>,
}

/// One environment and the measurements that it must have. All of them hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceTriple {
    /// What is measured.
    pub environment: Environment,
    /// The measurements; never empty.
    pub measurements: Vec<Measurement>,
}

/// What is measured; one of its members is given at least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Which class of environments.
    pub class_id: Option<Identifier>,
    /// Who makes the class.
    pub vendor: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// Its layer.
    pub layer: Option<u64>,
    /// Its index within the layer.
    pub index: Option<u64>,
    /// One instance of the class.
    pub instance: Option<Identifier>,
    /// A group of instances.
    pub group: Option<Identifier>,
}

/// One measurement; one of its values is given at least, and all that are given hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measurement {
    /// Which element is measured, such as the index of a PCR.
    pub key: Option<Identifier>,
    /// Its digest, by one algorithm or several.
    pub digests: Vec<Digest>,
    /// Digests of registers, each by its number or name.
    pub registers: Vec<(Identifier, Vec<Digest>)>,
    /// Its bytes.
    pub raw_value: Option<RawValue>,
    /// Its security version number.
    pub svn: Option<Svn>,
    /// Its version, and by which scheme versions are compared.
    pub version: Option<(String, Option<Identifier>)>,
    /// Its name.
    pub name: Option<String>,
}

/// A digest, as long as its algorithm makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// By what.
    pub algorithm: DigestAlgorithm,
    /// The digest; never zeros.
    pub value: Vec<u8>,
}

/// Digests that a reference may be by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Bytes, and which of their bits count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawValue {
    /// The bytes.
    pub value: Vec<u8>,
    /// A bit that is 1 counts; as long as the bytes. Absent: all count.
    pub mask: Option<Vec<u8>>,
}

/// A security version number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Svn {
    /// This one.
    Exactly(u64),
    /// This one or a higher one.
    AtLeast(u64),
}

/// What something is called, in the kinds that CoRIM has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identifier {
    /// Text, a URI too.
    Text(String),
    /// A number.
    Number(u64),
    /// A UUID.
    Uuid([u8; 16]),
    /// An object identifier, the contents of its DER.
    Oid(Vec<u8>),
    /// A UEID (RFC 9711 §4.2.1).
    Ueid(Vec<u8>),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// Why nothing is imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than a manifest may be.
    #[error("longer than {} bytes", limits::CORIM_BYTES)]
    TooLong,
    /// Not CBOR.
    #[error("{part}: {error}")]
    Encoding {
        /// Of which part.
        part: &'static str,
        /// What is wrong with it.
        error: cbor::Error,
    },
    /// A CoRIM without a signature, or something else.
    #[error("not a signed CoRIM: no COSE_Sign1 with tag 18")]
    NotSigned,
    /// The header names an algorithm that is not the key's, or none that is taken.
    #[error("the signature's algorithm is not the one of the key that was named")]
    Algorithm,
    /// The signature is another's, or the file was altered.
    #[error("the signature is not of the key that was named")]
    Signature,
    /// It begins later.
    #[error("valid from {0} on")]
    NotYetValid(WallTime),
    /// It has ended.
    #[error("ended at {0}")]
    Expired(WallTime),
    /// A member that must be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A member has the wrong type, length or range.
    #[error("`{0}` has the wrong type, length or range")]
    Wrong(&'static str),
    /// A member that this reader does not know, and without which a reference would say less than its author meant.
    #[error("`{0}` holds {1}, which is not understood")]
    Unknown(&'static str, String),
    /// It holds no reference values.
    #[error("no reference values in it")]
    Empty,
}

impl Identifier {
    /// The number, where it is one, such as a PCR's index.
    pub fn as_number(&self) -> Option<u64> {
        match self {
            Identifier::Number(number) => Some(*number),
            Identifier::Text(_)
            | Identifier::Uuid(_)
            | Identifier::Oid(_)
            | Identifier::Ueid(_)
            | Identifier::Bytes(_) => None,
        }
    }
}

impl fmt::Display for Identifier {
    /// Text as it is, a UUID with its dashes, else hex.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identifier::Text(text) => formatter.write_str(text),
            Identifier::Number(number) => write!(formatter, "{number}"),
            Identifier::Uuid(uuid) => {
                let digits = hex::encode(uuid);
                let parts =
                    [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default());
                formatter.write_str(&parts.join("-"))
            }
            Identifier::Oid(bytes) | Identifier::Ueid(bytes) | Identifier::Bytes(bytes) => {
                formatter.write_str(&hex::encode(bytes))
            }
        }
    }
}
