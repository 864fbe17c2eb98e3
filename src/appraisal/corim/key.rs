//! The key that an operator names for a signed CoRIM.
//!
//! *Takes* a JWK, or a public key in PEM or DER. *Gives* [`SignerKey`]. *Denies* nothing itself; a [`KeyError`] is the
//! import's. *Source*: RFC 7517, RFC 7518 §6.2, RFC 8037 §2; RFC 5480 §2, RFC 8410 §4; RFC 9053 §2.

use aws_lc_rs::signature::{self, ParsedPublicKey, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

/// A public key, and what it signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerKey {
    algorithm: Algorithm,
    /// An uncompressed point, or the 32 bytes of an Ed25519 key.
    key: Vec<u8>,
}

/// What a key signs with: its curve says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA with SHA-256 on P-256.
    Es256,
    /// ECDSA with SHA-384 on P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// Why bytes are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither of the forms.
    #[error("not a JWK, nor a public key (SubjectPublicKeyInfo) in PEM or DER")]
    Form,
    /// Another kind of key.
    #[error("not a key on P-256, P-384 or Ed25519")]
    Kind,
    /// Not on its curve.
    #[error("not a point of its curve")]
    Point,
    /// Whoever verifies needs no private key, and should have none.
    #[error("a private key: give the public one alone")]
    Private,
}

impl SignerKey {
    /// Reads a JWK (JSON), or a SubjectPublicKeyInfo in PEM or DER. A JWK's `use` and `key_ops` are not looked at: the operator
    /// says what the key is for, and the published one of veraison's examples says "enc".
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let start = bytes.trim_ascii_start();
        let key = match start.first() {
            Some(b'{') => from_jwk(start)?,
            Some(b'-') => {
                let spki = SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|_| KeyError::Form)?;
                from_spki(spki.as_ref())?
            }
            _ => from_spki(bytes)?,
        };
        ParsedPublicKey::new(key.algorithm.scheme(), &key.key).map_err(|_| KeyError::Point)?;
        Ok(key)
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm.scheme(), &self.key).verify(message, signature).is_ok()
    }
}

impl Algorithm {
    /// Of COSE's `alg`, −1 − `n`: also the fully specified ones, which mean the same here (RFC 9864).
    pub(super) fn of_cose(n: u64) -> Option<Self> {
        match n {
            6 | 8 => Some(Algorithm::Es256),
            34 | 50 => Some(Algorithm::Es384),
            7 | 18 => Some(Algorithm::EdDsa),
            _ => None,
        }
    }

    fn scheme(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDsa => &signature::ED25519,
        }
    }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde_json::Value>,
}

fn from_jwk(json: &[u8]) -> Result<SignerKey, KeyError> {
    let jwk: Jwk = serde_json::from_slice(json).map_err(|_| KeyError::Form)?;
    if jwk.d.is_some() {
        return Err(KeyError::Private);
    }
    let (algorithm, length) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("EC", Some("P-256")) => (Algorithm::Es256, 32),
        ("EC", Some("P-384")) => (Algorithm::Es384, 48),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, 32),
        _ => return Err(KeyError::Kind),
    };
    let coordinate = |text: &Option<String>| {
        let bytes = text.as_ref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        bytes.filter(|bytes| bytes.len() == length).ok_or(KeyError::Point)
    };
    let key = match algorithm {
        Algorithm::EdDsa => coordinate(&jwk.x)?,
        Algorithm::Es256 | Algorithm::Es384 => [vec![4], coordinate(&jwk.x)?, coordinate(&jwk.y)?].concat(),
    };
    Ok(SignerKey { algorithm, key })
}

fn from_spki(spki: &[u8]) -> Result<SignerKey, KeyError> {
    if spki.first() != Some(&0x30) {
        return Err(KeyError::Form);
    }
    let kinds = [
        (P256_PREFIX, Algorithm::Es256, 65),
        (P384_PREFIX, Algorithm::Es384, 97),
        (ED25519_PREFIX, Algorithm::EdDsa, 32),
    ];
    let found = kinds.into_iter().find_map(|(prefix, algorithm, length)| {
        let key = spki.strip_prefix(prefix).filter(|key| key.len() == length)?;
        Some(SignerKey { algorithm, key: key.to_vec() })
    });
    found.ok_or(KeyError::Kind)
}

/// SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING (66) { no unused bits, … (RFC 5480 §2).
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The same of secp384r1, 98 bytes.
const P384_PREFIX: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
    0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

/// SEQUENCE { SEQUENCE { id-Ed25519 }, BIT STRING (33) { no unused bits, … (RFC 8410 §4).
const ED25519_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    #[test]
    fn a_key_reads_alike_in_every_form() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let der = [P384_PREFIX, point].concat();
        let base64 = base64::engine::general_purpose::STANDARD.encode(&der);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..49]), URL_SAFE_NO_PAD.encode(&point[49..]));
        let jwk = format!(r#"{{"kty": "EC", "crv": "P-384", "x": "{x}", "y": "{y}", "use": "enc"}}"#);
        let key = SignerKey::parse(&der).unwrap();
        assert_eq!(key.algorithm(), Algorithm::Es384);
        assert_eq!(SignerKey::parse(pem.as_bytes()), Ok(key.clone()));
        assert_eq!(SignerKey::parse(jwk.as_bytes()), Ok(key));
        let private = jwk.replace(r#""use""#, r#""d": "AA", "use""#);
        assert_eq!(SignerKey::parse(private.as_bytes()), Err(KeyError::Private));
        let other_curve = jwk.replace("P-384", "P-256");
        assert_eq!(SignerKey::parse(other_curve.as_bytes()), Err(KeyError::Point));
        let mut off_curve = der.clone();
        *off_curve.last_mut().unwrap() ^= 1;
        assert_eq!(SignerKey::parse(&off_curve), Err(KeyError::Point));
        assert_eq!(SignerKey::parse(&[&der[..], &[0]].concat()), Err(KeyError::Kind));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for bytes in [&b""[..], b"key", b"{}", b"{", b"-----BEGIN PUBLIC KEY-----", &[0xd2, 0x84]] {
            assert_eq!(SignerKey::parse(bytes), Err(KeyError::Form), "{}", String::from_utf8_lossy(bytes));
        }
        let jwk = |text: &str| SignerKey::parse(text.as_bytes());
        assert_eq!(jwk(r#"{"kty": "oct", "k": "AAAA"}"#), Err(KeyError::Kind));
        assert_eq!(jwk(r#"{"kty": "EC", "crv": "P-521"}"#), Err(KeyError::Kind));
        assert_eq!(jwk(r#"{"kty": "EC", "crv": "P-256"}"#), Err(KeyError::Point));
        assert_eq!(jwk(r#"{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}"#), Err(KeyError::Point));
    }
}
