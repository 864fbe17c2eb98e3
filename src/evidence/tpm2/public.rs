//! Keys as a TPM describes them itself: TPMT_PUBLIC, and the Name that is computed from it.
//!
//! *Takes* untrusted bytes. *Gives* [`PublicArea`] and [`AkName`]; `key` says what may be done with one. *Denies* nothing itself;
//! each [`Malformed`] becomes `EvidenceMalformed`. *Source*: TCG TPM 2.0 Library part 1 §16 (Names), part 2 §8.3, §12.2.

use super::algorithm::Hash;
use super::attest::{ECDSA, RSAPSS, RSASSA};
use super::der;
use super::wire::{Malformed, Reader};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A TPM object's Name: the id of its hash, and the digest of its TPMT_PUBLIC. No two keys share one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AkName(Vec<u8>);

/// A TPMT_PUBLIC of an RSA or elliptic-curve key, as far as AKs and EKs go.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicArea {
    bytes: Vec<u8>,
    /// The hash of the Name.
    pub name_hash: Hash,
    /// TPMA_OBJECT.
    pub attributes: u32,
    /// The digest of the policy that governs its use, or nothing.
    pub auth_policy: Vec<u8>,
    /// Bits of the AES key that protects what is below it; none for a key without children.
    pub symmetric_bits: Option<u16>,
    /// How it signs; none where it does not, or where each command may say.
    pub scheme: Option<(Scheme, Hash)>,
    /// The key.
    pub key: PublicKey,
}

/// A signature scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa,
    /// RSASSA-PSS, salt as long as the digest.
    RsaPss,
    /// ECDSA.
    Ecdsa,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA with the exponent 65537: the modulus, big-endian, its first bit set.
    Rsa(Vec<u8>),
    /// An uncompressed point.
    Ec(Curve, Vec<u8>),
}

/// An elliptic curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl AkName {
    /// Reads a Name: of SHA-256, SHA-384 or SHA-512, and of no other length than it says.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (id, digest) = bytes.split_first_chunk::<2>()?;
        let hash = Hash::from_id(u16::from_be_bytes(*id))?;
        (digest.len() == hash.bytes()).then(|| AkName(bytes.to_vec()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PublicArea {
    /// Reads the one TPMT_PUBLIC that the bytes are.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "TPMT_PUBLIC");
        let kind = reader.u16()?;
        let name_hash = Hash::from_id(reader.u16()?)
            .ok_or(reader.wrong("the Name's hash is not SHA-256, SHA-384 or SHA-512"))?;
        let attributes = reader.u32()?;
        let auth_policy = reader.sized(64)?.to_vec();
        let symmetric_bits = symmetric(&mut reader)?;
        let scheme = scheme(&mut reader)?;
        let key = match kind {
            RSA => rsa(&mut reader)?,
            ECC => ec(&mut reader)?,
            _ => return Err(reader.wrong("the key is neither RSA nor of an elliptic curve")),
        };
        reader.end()?;
        let bytes = bytes.to_vec();
        Ok(PublicArea { bytes, name_hash, attributes, auth_policy, symmetric_bits, scheme, key })
    }

    /// Reads a TPM2B_PUBLIC: the same with its length before it, as TPMs and tpm2-tools give it.
    pub fn parse_sized(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "TPM2B_PUBLIC");
        let public = reader.sized(usize::from(u16::MAX))?;
        reader.end()?;
        PublicArea::parse(public)
    }

    /// The TPMT_PUBLIC.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The Name, computed here, never taken from a message.
    pub fn name(&self) -> AkName {
        AkName([&self.name_hash.id().to_be_bytes()[..], &self.name_hash.digest(&[&self.bytes])].concat())
    }

    /// Whether all of these attributes are set, and all of those clear.
    pub(super) fn has(&self, set: u32, clear: u32) -> bool {
        self.attributes & set == set && self.attributes & clear == 0
    }
}

impl Curve {
    /// Length of a coordinate, bytes.
    pub fn bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
        }
    }
}

impl PublicKey {
    /// The SubjectPublicKeyInfo, DER (RFC 3279 §2.3.1, RFC 5480 §2).
    pub fn spki(&self) -> Vec<u8> {
        match self {
            PublicKey::Rsa(modulus) => der::rsa_spki(modulus, EXPONENT),
            PublicKey::Ec(Curve::P256, point) => der::p256_spki(point),
            PublicKey::Ec(Curve::P384, point) => der::p384_spki(point),
        }
    }
}

/// TPMT_SYM_DEF_OBJECT: nothing, or AES in CFB mode.
fn symmetric(reader: &mut Reader<'_>) -> Result<Option<u16>, Malformed> {
    match reader.u16()? {
        NULL => Ok(None),
        AES => {
            let bits = reader.u16()?;
            match (bits, reader.u16()?) {
                (128 | 256, CFB) => Ok(Some(bits)),
                _ => Err(reader.wrong("the symmetric algorithm is not AES-128 or AES-256 in CFB mode")),
            }
        }
        _ => Err(reader.wrong("the symmetric algorithm is not AES")),
    }
}

/// TPMT_RSA_SCHEME and TPMT_ECC_SCHEME are encoded alike, as far as these go.
fn scheme(reader: &mut Reader<'_>) -> Result<Option<(Scheme, Hash)>, Malformed> {
    let scheme = match reader.u16()? {
        NULL => return Ok(None),
        RSASSA => Scheme::RsaSsa,
        RSAPSS => Scheme::RsaPss,
        ECDSA => Scheme::Ecdsa,
        _ => return Err(reader.wrong("the scheme is not RSASSA, RSAPSS or ECDSA")),
    };
    let hash = Hash::from_id(reader.u16()?);
    hash.map(|hash| Some((scheme, hash))).ok_or(reader.wrong("the scheme's hash is SHA-1 or not known"))
}

fn rsa(reader: &mut Reader<'_>) -> Result<PublicKey, Malformed> {
    let bits = reader.u16()?;
    let exponent = reader.u32()?;
    let modulus = reader.sized(512)?;
    if !matches!(bits, 2048 | 3072 | 4096) || modulus.len() != usize::from(bits / 8) {
        return Err(reader.wrong("the RSA key has not 2048, 3072 or 4096 bits"));
    }
    // Zero stands for 65537.
    if !matches!(exponent, 0 | EXPONENT) {
        return Err(reader.wrong("the RSA exponent is not 65537"));
    }
    if modulus.first().is_none_or(|first| first & 0x80 == 0) {
        return Err(reader.wrong("the RSA modulus is shorter than it says"));
    }
    Ok(PublicKey::Rsa(modulus.to_vec()))
}

fn ec(reader: &mut Reader<'_>) -> Result<PublicKey, Malformed> {
    let curve = match reader.u16()? {
        0x0003 => Curve::P256,
        0x0004 => Curve::P384,
        _ => return Err(reader.wrong("the curve is not P-256 or P-384")),
    };
    if reader.u16()? != NULL {
        return Err(reader.wrong("the key has a key derivation scheme"));
    }
    let (x, y) = (reader.sized(curve.bytes())?, reader.sized(curve.bytes())?);
    let mut point = vec![4];
    for coordinate in [x, y] {
        // Some TPMs leave leading zeros away.
        point.resize(point.len().saturating_add(curve.bytes().saturating_sub(coordinate.len())), 0);
        point.extend_from_slice(coordinate);
    }
    Ok(PublicKey::Ec(curve, point))
}

impl fmt::Debug for AkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AkName({})", hex::encode(&self.0))
    }
}

impl Serialize for AkName {
    /// Lower-case hex.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for AkName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = hex::decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)?;
        AkName::parse(&bytes).ok_or_else(|| serde::de::Error::custom("not the Name of a TPM object"))
    }
}

// TPM_ALG_ID.
const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const NULL: u16 = 0x0010;

// TPMA_OBJECT (part 2 §8.3.2).
pub(crate) const FIXED_TPM: u32 = 1 << 1;
pub(crate) const FIXED_PARENT: u32 = 1 << 4;
pub(crate) const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
pub(crate) const RESTRICTED: u32 = 1 << 16;
pub(crate) const DECRYPT: u32 = 1 << 17;
pub(crate) const SIGN: u32 = 1 << 18;
pub(crate) const X509_SIGN: u32 = 1 << 19;

/// The one RSA exponent.
pub(super) const EXPONENT: u32 = 65_537;
