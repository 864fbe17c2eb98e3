//! What a key must be to attest, or to be encrypted to, and whether it signed.
//!
//! *Takes* a [`PublicArea`]. *Gives* [`AttestationKey`], [`EndorsementKey`]. *Denies* nothing itself; each [`KeyError`] becomes
//! `EvidenceMalformed` or `EndorsementUntrusted`. *Source*: TCG TPM 2.0 Library part 1 §23 (restricted keys), part 2 §8.3; TCG EK
//! Credential Profile 2.5 §B; `evidence.md` §3.
//!
//! The attributes carry the proof: only a *restricted* signing key never signs a quote that the TPM did not make.

use super::algorithm::Hash;
use super::attest::Signature;
use super::der;
use super::public::{AkName, Curve, EXPONENT, PublicArea, PublicKey, Scheme};
use super::public::{DECRYPT, FIXED_PARENT, FIXED_TPM, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN, X509_SIGN};
use super::wire::Malformed;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, EcdsaVerificationAlgorithm, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A key that may attest: restricted, of one TPM for ever, with one scheme.
#[derive(Clone, PartialEq, Eq)]
pub struct AttestationKey {
    public: PublicArea,
    scheme: Scheme,
    hash: Hash,
}

impl AttestationKey {
    /// Checks a TPMT_PUBLIC.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        AttestationKey::new(PublicArea::parse(bytes)?)
    }

    /// Checks a public area.
    pub fn new(public: PublicArea) -> Result<Self, KeyError> {
        let set = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN;
        if !public.has(set, DECRYPT | X509_SIGN) || public.symmetric_bits.is_some() {
            return Err(KeyError::Attributes("a restricted signing key of one TPM"));
        }
        let (scheme, hash) = public.scheme.ok_or(KeyError::Scheme)?;
        match (&public.key, scheme) {
            (PublicKey::Rsa(_), Scheme::RsaSsa | Scheme::RsaPss) => {}
            (PublicKey::Ec(curve, point), Scheme::Ecdsa) => check_point(*curve, point)?,
            _ => return Err(KeyError::Scheme),
        }
        Ok(AttestationKey { public, scheme, hash })
    }

    /// Its public area.
    pub fn public(&self) -> &PublicArea {
        &self.public
    }

    /// Its Name.
    pub fn name(&self) -> AkName {
        self.public.name()
    }

    /// The hash that it signs with, which also makes a quote's PCR digest.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// What it signs with, such as `ecdsa-p256-sha256`, `rsassa-2048-sha256`, `rsapss-3072-sha384`.
    pub fn algorithm(&self) -> String {
        let scheme = match self.scheme {
            Scheme::RsaSsa => "rsassa",
            Scheme::RsaPss => "rsapss",
            Scheme::Ecdsa => "ecdsa",
        };
        let size = match &self.public.key {
            PublicKey::Rsa(modulus) => modulus.len().saturating_mul(8).to_string(),
            PublicKey::Ec(Curve::P256, _) => "p256".to_owned(),
            PublicKey::Ec(Curve::P384, _) => "p384".to_owned(),
        };
        format!("{scheme}-{size}-{}", self.hash)
    }

    /// Whether the signature is by this key's own scheme and hash.
    pub(super) fn signs_with(&self, signature: &Signature<'_>) -> bool {
        let (scheme, hash) = match signature {
            Signature::RsaSsa(hash, _) => (Scheme::RsaSsa, hash),
            Signature::RsaPss(hash, _) => (Scheme::RsaPss, hash),
            Signature::Ecdsa(hash, _, _) => (Scheme::Ecdsa, hash),
        };
        scheme == self.scheme && *hash == self.hash
    }

    /// Whether the signature is this key's over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &Signature<'_>) -> bool {
        match (&self.public.key, signature) {
            (PublicKey::Rsa(modulus), Signature::RsaSsa(hash, bytes)) => {
                rsa_verifies(modulus, ssa(*hash), message, bytes)
            }
            (PublicKey::Rsa(modulus), Signature::RsaPss(hash, bytes)) => {
                rsa_verifies(modulus, pss(*hash), message, bytes)
            }
            (PublicKey::Ec(curve, point), Signature::Ecdsa(hash, r, s)) => {
                let key = UnparsedPublicKey::new(ecdsa(*curve, *hash), point);
                key.verify(message, &der::ecdsa_signature(r, s)).is_ok()
            }
            _ => false,
        }
    }
}

/// A key that credentials are encrypted to: a restricted decryption key of one TPM.
#[derive(Clone, PartialEq, Eq)]
pub struct EndorsementKey {
    public: PublicArea,
    symmetric_bits: u16,
}

impl EndorsementKey {
    /// Checks a TPMT_PUBLIC.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        EndorsementKey::new(PublicArea::parse(bytes)?)
    }

    /// Checks a public area.
    pub fn new(public: PublicArea) -> Result<Self, KeyError> {
        let set = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT;
        let symmetric_bits = public.symmetric_bits.filter(|_| public.has(set, SIGN));
        let symmetric_bits =
            symmetric_bits.ok_or(KeyError::Attributes("a restricted decryption key of one TPM"))?;
        if public.scheme.is_some() {
            return Err(KeyError::Scheme);
        }
        if let PublicKey::Ec(curve, point) = &public.key {
            check_point(*curve, point)?;
        }
        Ok(EndorsementKey { public, symmetric_bits })
    }

    /// Its public area.
    pub fn public(&self) -> &PublicArea {
        &self.public
    }

    /// Bits of the AES key that a credential's identity is encrypted with.
    pub(super) fn symmetric_bits(&self) -> u16 {
        self.symmetric_bits
    }

    /// SHA-256 over the key's SubjectPublicKeyInfo, DER: what an administrator approves it by, and what stock tools give
    /// (`openssl pkey -pubin -outform der | sha256sum`).
    pub fn sha256(&self) -> [u8; 32] {
        super::algorithm::sha256(&self.public.key.spki())
    }
}

/// Why a key is none that may attest, or be encrypted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a TPMT_PUBLIC of the kinds taken.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An attribute is set that must be clear, or the other way about.
    #[error("the attributes of the key are not those of {0}")]
    Attributes(&'static str),
    /// The scheme is missing, or does not go with the key.
    #[error("the key has not the one fixed scheme that it needs")]
    Scheme,
    /// The point is not on its curve.
    #[error("the key is not a point of its curve")]
    Point,
}

impl fmt::Debug for AttestationKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AttestationKey({} {:?})", self.algorithm(), self.name())
    }
}

impl Serialize for AttestationKey {
    /// The TPMT_PUBLIC in lower-case hex.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.public.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for AttestationKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = hex::decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)?;
        AttestationKey::parse(&bytes).map_err(serde::de::Error::custom)
    }
}

fn check_point(curve: Curve, point: &[u8]) -> Result<(), KeyError> {
    let on_curve = ParsedPublicKey::new(ecdsa(curve, Hash::Sha256), point).is_ok();
    on_curve.then_some(()).ok_or(KeyError::Point)
}

fn rsa_verifies(modulus: &[u8], by: &'static RsaParameters, message: &[u8], signature: &[u8]) -> bool {
    let exponent = &EXPONENT.to_be_bytes()[1..];
    RsaPublicKeyComponents { n: modulus, e: exponent }.verify(by, message, signature).is_ok()
}

fn ssa(hash: Hash) -> &'static RsaParameters {
    match hash {
        Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
        Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
    }
}

fn pss(hash: Hash) -> &'static RsaParameters {
    match hash {
        Hash::Sha256 => &RSA_PSS_2048_8192_SHA256,
        Hash::Sha384 => &RSA_PSS_2048_8192_SHA384,
        Hash::Sha512 => &RSA_PSS_2048_8192_SHA512,
    }
}

fn ecdsa(curve: Curve, hash: Hash) -> &'static EcdsaVerificationAlgorithm {
    match (curve, hash) {
        (Curve::P256, Hash::Sha256) => &ECDSA_P256_SHA256_ASN1,
        (Curve::P256, Hash::Sha384) => &ECDSA_P256_SHA384_ASN1,
        (Curve::P256, Hash::Sha512) => &ECDSA_P256_SHA512_ASN1,
        (Curve::P384, Hash::Sha256) => &ECDSA_P384_SHA256_ASN1,
        (Curve::P384, Hash::Sha384) => &ECDSA_P384_SHA384_ASN1,
        (Curve::P384, Hash::Sha512) => &ECDSA_P384_SHA512_ASN1,
    }
}
