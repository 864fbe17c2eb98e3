//! The COSE_Sign1 around a CoRIM: whose signature, and when it counts.
//!
//! *Takes* a file, [`SignerKey`], the time. *Gives* [`Manifest`]. *Denies* nothing itself.
//! *Source*: draft-ietf-rats-corim §4.2; RFC 9052 §3.1, §4; RFC 9597.

use super::fields::{self, Fields};
use super::key::{Algorithm, SignerKey};
use super::{Error, Manifest, manifest};
use crate::evidence::cbor::Value;
use crate::evidence::cose;
use crate::limits;
use crate::time::{Now, WallTime};

/// Reads a signed CoRIM: its signature is `key`'s, and it counts at `now`. The unprotected header is not read.
pub fn read(file: &[u8], key: &SignerKey, now: Now) -> Result<Manifest, Error> {
    if file.len() > limits::CORIM_BYTES {
        return Err(Error::TooLong);
    }
    let Value::Sign1(array) = fields::read("file", file)? else { return Err(Error::NotSigned) };
    let Value::Array(parts) = *array else { return Err(Error::NotSigned) };
    let [Value::Bytes(protected), Value::Map(_), Value::Bytes(payload), Value::Bytes(signature)] =
        parts.as_slice()
    else {
        return Err(Error::NotSigned);
    };
    let header = Header::read(protected)?;
    if header.algorithm != key.algorithm() {
        return Err(Error::Algorithm);
    }
    if !key.verifies(&cose::signed_bytes(protected, &[], payload), signature) {
        return Err(Error::Signature);
    }
    let mut manifest = manifest::read(payload)?;
    manifest.signer = header.signer;
    let validity = header.validity.and(Validity { from: manifest.not_before, to: manifest.not_after });
    validity.check(now)?;
    (manifest.not_before, manifest.not_after) = (validity.from, validity.to);
    Ok(manifest)
}

/// A span of time; what is absent is open.
#[derive(Clone, Copy, Default)]
pub(super) struct Validity {
    pub(super) from: Option<WallTime>,
    pub(super) to: Option<WallTime>,
}

impl Validity {
    /// A `validity-map`: it has an end always.
    pub(super) fn read(value: Value<'_>, name: &'static str) -> Result<Self, Error> {
        let mut map = Fields::of(name, value)?;
        let from = map.optional(0, "not-before", fields::time)?;
        let to = fields::time(map.required(1, "not-after")?, "not-after")?;
        map.end()?;
        Ok(Validity { from, to: Some(to) })
    }

    /// Where both hold.
    fn and(self, other: Validity) -> Self {
        let earlier = [self.to, other.to].into_iter().flatten().min();
        Validity { from: self.from.max(other.from), to: earlier }
    }

    fn check(self, now: Now) -> Result<(), Error> {
        let latest = now.wall.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000));
        match (self.from, self.to) {
            (_, Some(to)) if now.wall >= to => Err(Error::Expired(to)),
            (Some(from), _) if from > latest => Err(Error::NotYetValid(from)),
            _ => Ok(()),
        }
    }
}

/// The protected header.
struct Header {
    algorithm: Algorithm,
    signer: String,
    validity: Validity,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut header = Fields::of("protected header", fields::read("protected header", bytes)?)?;
        let algorithm = match header.required(ALG, "alg")? {
            Value::Negative(n) => Algorithm::of_cose(n).ok_or(Error::Algorithm)?,
            _ => return Err(Error::Algorithm),
        };
        let content_type = fields::text(header.required(CONTENT_TYPE, "content type")?, "content type")?;
        if !CONTENT_TYPES.contains(&content_type.as_str()) {
            return Err(Error::Wrong("content type"));
        }
        // Hints at the key; the operator named it.
        for hint in [KID, X5CHAIN, X5T] {
            header.take(hint);
        }
        let meta = header.optional(CORIM_META, "corim-meta", |value, name| {
            fields::read(name, fields::bytes(value, name)?).and_then(meta)
        })?;
        let claims = header.optional(CWT_CLAIMS, "CWT claims", |value, _| cwt_claims(value))?;
        // `crit` too: whatever it names, it is not understood.
        header.end()?;
        let (signer, validity) = match (meta, claims) {
            (None, None) => return Err(Error::Missing("corim-meta")),
            (Some((signer, validity)), None) | (None, Some((signer, validity))) => (signer, validity),
            (Some((signer, validity)), Some((_, claimed))) => (signer, validity.and(claimed)),
        };
        Ok(Header { algorithm, signer, validity })
    }
}

fn meta(value: Value<'_>) -> Result<(String, Validity), Error> {
    let mut meta = Fields::of("corim-meta", value)?;
    let mut signer = Fields::of("signer", meta.required(0, "signer")?)?;
    let name = fields::text(signer.required(0, "signer-name")?, "signer-name")?;
    signer.optional(1, "signer-uri", fields::identifier)?;
    let validity = meta.optional(1, "signature-validity", Validity::read)?.unwrap_or_default();
    signer.end()?;
    meta.end()?;
    Ok((name, validity))
}

/// Other claims say nothing about when the signature counts.
fn cwt_claims(value: Value<'_>) -> Result<(String, Validity), Error> {
    let mut claims = Fields::of("CWT claims", value)?;
    let issuer = fields::text(claims.required(CLAIM_ISS, "iss")?, "iss")?;
    let to = claims.optional(CLAIM_EXP, "exp", fields::time)?;
    let from = claims.optional(CLAIM_NBF, "nbf", fields::time)?;
    Ok((issuer, Validity { from, to }))
}

/// What drafts have called an unsigned CoRIM.
const CONTENT_TYPES: [&str; 2] = ["application/rim+cbor", "application/corim-unsigned+cbor"];

// COSE header labels (RFC 9052 §3.1, RFC 9360, RFC 9597), and CoRIM's own.
const ALG: u64 = 1;
const CONTENT_TYPE: u64 = 3;
const KID: u64 = 4;
const CORIM_META: u64 = 8;
const CWT_CLAIMS: u64 = 15;
const X5CHAIN: u64 = 33;
const X5T: u64 = 34;

// CWT claims (RFC 8392 §4).
const CLAIM_ISS: u64 = 1;
const CLAIM_EXP: u64 = 4;
const CLAIM_NBF: u64 = 5;
