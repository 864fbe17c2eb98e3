//! The shape of a `nitro` document: its envelope to the byte, its payload as the NSM encodes it.
//!
//! *Takes* the body as received, untrusted. *Gives* [`Document`], of which nothing is verified yet. *Denies*
//! `EvidenceMalformed`. *Source*: AWS "Nitro Enclaves attestation process" (fields and bounds); RFC 9052 §4.2.
//!
//! The envelope is outside the signature, so it has one form, with tag 18 or without. The payload is signed as it is, and has
//! many: since 2025 its maps come without a length, and an optional field is null, empty or absent.

use super::Refusal;
use crate::denial::Denial;
use crate::evidence::cbor::{self, Entries, Rule, Value};
use crate::limits;
use crate::time::WallTime;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A document taken apart; all of it is the sender's word. The signature is over `protected` and `payload` as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// The protected header's own bytes: ES384 and nothing else.
    pub protected: &'a [u8],
    /// The payload's own bytes.
    pub payload: &'a [u8],
    /// r and s, 48 bytes each.
    pub signature: &'a [u8; SIGNATURE_BYTES],
    /// The enclave's id, never empty.
    pub module_id: &'a str,
    /// What PCRs are digests by; "SHA384", as there is no other.
    pub digest: &'a str,
    /// When the document was made: milliseconds, never 0.
    pub timestamp: WallTime,
    /// PCRs by index, 0 to 31, each 32, 48 or 64 bytes; one at least.
    pub pcrs: BTreeMap<u8, &'a [u8]>,
    /// The enclave's certificate, DER.
    pub certificate: &'a [u8],
    /// Its issuers, DER, the root first; one at least.
    pub cabundle: Vec<&'a [u8]>,
    /// What the enclave says is its public key, in whatever form it chose.
    pub public_key: Option<&'a [u8]>,
    /// What the enclave added; may be empty.
    pub user_data: Option<&'a [u8]>,
    /// What the enclave was given against replay; may be empty.
    pub nonce: Option<&'a [u8]>,
}

impl<'a> Document<'a> {
    /// What stands where the binding belongs.
    pub fn carried_binding(&self) -> Option<&'a [u8]> {
        self.nonce
    }
}

/// Takes a document apart and checks every rule that needs nothing but its bytes. **Denies** `EvidenceMalformed`.
pub fn parse(body: &[u8]) -> Result<Document<'_>, Refusal> {
    if body.len() > limits::NITRO_DOCUMENT_BYTES {
        return Err(malformed(format!("longer than {} bytes", limits::NITRO_DOCUMENT_BYTES)));
    }
    let envelope = cbor::read(body).map_err(|error| malformed(format!("body: {error}")))?;
    let parts = match envelope {
        Value::Array(parts) => parts,
        Value::Sign1(tagged) => match *tagged {
            Value::Array(parts) => parts,
            _ => return Err(malformed("not a COSE_Sign1")),
        },
        _ => return Err(malformed("not a COSE_Sign1")),
    };
    let [Value::Bytes(protected), Value::Map(unprotected), Value::Bytes(payload), Value::Bytes(signature)] =
        parts.as_slice()
    else {
        return Err(malformed("not the four parts of a COSE_Sign1"));
    };
    if *protected != PROTECTED {
        return Err(malformed("the protected header is not ES384 alone"));
    }
    if !unprotected.is_empty() {
        return Err(malformed("the unprotected header is not empty"));
    }
    let signature = (*signature).try_into().map_err(|_| wrong("signature"))?;
    fields(protected, payload, signature)
}

fn fields<'a>(
    protected: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8; SIGNATURE_BYTES],
) -> Result<Document<'a>, Refusal> {
    let value = cbor::read_by(Rule::AsSigned, payload);
    let value = value.map_err(|error| malformed(format!("payload: {error}")))?;
    let mut fields = Entries::of(value).ok_or_else(|| wrong("payload"))?;
    let document = Document {
        protected,
        payload,
        signature,
        module_id: text(&mut fields, "module_id")?,
        digest: text(&mut fields, "digest")?,
        timestamp: timestamp(required(&mut fields, "timestamp")?)?,
        pcrs: pcrs(required(&mut fields, "pcrs")?)?,
        certificate: certificate(required(&mut fields, "certificate")?, "certificate")?,
        cabundle: cabundle(required(&mut fields, "cabundle")?)?,
        public_key: optional(&mut fields, "public_key", 1..=limits::NITRO_PUBLIC_KEY_BYTES)?,
        user_data: optional(&mut fields, "user_data", 0..=limits::NITRO_USER_DATA_BYTES)?,
        nonce: optional(&mut fields, "nonce", 0..=limits::NITRO_NONCE_BYTES)?,
    };
    if document.digest != DIGEST {
        return Err(wrong("digest"));
    }
    // AWS may add a field one day, and it may take something back; who cannot read it cannot say that it does not.
    match fields.rest().is_empty() {
        true => Ok(document),
        false => Err(malformed("the payload has a field that the format does not have")),
    }
}

fn timestamp(value: Value<'_>) -> Result<WallTime, Refusal> {
    match value {
        Value::Unsigned(milliseconds) if milliseconds > 0 => Ok(WallTime(milliseconds)),
        _ => Err(wrong("timestamp")),
    }
}

fn pcrs(value: Value<'_>) -> Result<BTreeMap<u8, &[u8]>, Refusal> {
    let entries = Entries::of(value).ok_or_else(|| wrong("pcrs"))?.rest();
    let pcrs = entries.into_iter().map(|entry| match entry {
        (Value::Unsigned(index), Value::Bytes(value)) if matches!(value.len(), 32 | 48 | 64) => {
            let index = u8::try_from(index).ok().filter(|index| *index < limits::NITRO_PCRS);
            index.map(|index| (index, value)).ok_or_else(|| wrong("pcrs"))
        }
        _ => Err(wrong("pcrs")),
    });
    let pcrs = pcrs.collect::<Result<BTreeMap<_, _>, _>>()?;
    match pcrs.is_empty() {
        true => Err(wrong("pcrs")),
        false => Ok(pcrs),
    }
}

fn cabundle(value: Value<'_>) -> Result<Vec<&[u8]>, Refusal> {
    match value {
        Value::Array(bundle) if (1..=limits::NITRO_CABUNDLE).contains(&bundle.len()) => {
            bundle.into_iter().map(|value| certificate(value, "cabundle")).collect()
        }
        _ => Err(wrong("cabundle")),
    }
}

fn certificate<'a>(value: Value<'a>, name: &'static str) -> Result<&'a [u8], Refusal> {
    match value {
        Value::Bytes(der) if (1..=limits::NITRO_CERTIFICATE_BYTES).contains(&der.len()) => Ok(der),
        _ => Err(wrong(name)),
    }
}

fn required<'a>(fields: &mut Entries<'a>, name: &'static str) -> Result<Value<'a>, Refusal> {
    fields.take(&Value::Text(name)).ok_or_else(|| malformed(format!("`{name}` is missing")))
}

fn text<'a>(fields: &mut Entries<'a>, name: &'static str) -> Result<&'a str, Refusal> {
    match required(fields, name)? {
        Value::Text(text) if (1..=limits::NITRO_MODULE_ID_BYTES).contains(&text.len()) => Ok(text),
        _ => Err(wrong(name)),
    }
}

/// AWS's text says that no field is null; its NSM writes null for what was not given (checked on real documents).
fn optional<'a>(
    fields: &mut Entries<'a>,
    name: &'static str,
    lengths: RangeInclusive<usize>,
) -> Result<Option<&'a [u8]>, Refusal> {
    match fields.take(&Value::Text(name)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bytes(bytes)) if lengths.contains(&bytes.len()) => Ok(Some(bytes)),
        Some(_) => Err(wrong(name)),
    }
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Refusal::new(Denial::EvidenceMalformed, detail)
}

fn wrong(name: &'static str) -> Refusal {
    malformed(format!("`{name}` has the wrong type, length or range"))
}

/// `{1: -35}`: alg (RFC 9052 §3.1) is ES384 (RFC 9053 §2.1).
const PROTECTED: &[u8] = &[0xa1, 0x01, 0x38, 0x22];

/// r and s on P-384 (RFC 9053 §2.1).
const SIGNATURE_BYTES: usize = 96;

/// The only value that AWS gives the field.
const DIGEST: &str = "SHA384";
