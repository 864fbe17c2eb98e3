//! Sealing a secret to the key that the evidence vouched for, and opening it again.
//!
//! *Takes* a recipient key and a plaintext. *Gives* an encapsulated key and a ciphertext that open only under the same
//! binding, path, version and lease. *Denies* nothing itself. *Source*: RFC 9180 base mode; `protocol.md` "Sealing".

use crate::request::RecipientKey;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

/// A sealed secret: 32 bytes of encapsulated key, and the ciphertext with its tag of 16 bytes.
pub struct Sealed {
    /// DHKEM(X25519, HKDF-SHA256), 32 bytes.
    pub encapsulated_key: Vec<u8>,
    /// AES-256-GCM, as long as the plaintext and 16 bytes more.
    pub ciphertext: Vec<u8>,
}

/// Sealing or opening failed; nothing more is said, as nothing more is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed secret cannot be made or opened")]
pub struct SealingFailed;

/// A fresh X25519 key pair for one `Open`.
pub struct Recipient {
    private: HpkePrivateKey,
    public: Vec<u8>,
}

impl Recipient {
    /// Draws a key pair. Fails only where the system gives no randomness.
    pub fn generate() -> Result<Recipient, SealingFailed> {
        let (public, private) = SUITE.generate_key_pair().map_err(|_| SealingFailed)?;
        Ok(Recipient { private, public: public.0 })
    }

    /// A recipient whose private key is known, 32 bytes: for test vectors.
    pub fn from_private(private: &[u8]) -> Recipient {
        Recipient { private: HpkePrivateKey::from(private.to_vec()), public: Vec::new() }
    }

    /// The public key, 32 bytes, for `Open.recipient_key`.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// Opens what was sealed under the same `info`. The plaintext is zeroized when dropped.
    pub fn open(&self, sealed: &Sealed, info: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealingFailed> {
        let encapsulated = EncapsulatedSecret(sealed.encapsulated_key.clone());
        let opened = SUITE.open(&encapsulated, info, &[], &sealed.ciphertext, &self.private);
        opened.map(Zeroizing::new).map_err(|_| SealingFailed)
    }
}

/// Seals one secret; one encapsulation each, `aad` empty.
pub fn seal(recipient: &RecipientKey, info: &[u8], plaintext: &[u8]) -> Result<Sealed, SealingFailed> {
    let public = HpkePublicKey(recipient.as_bytes().to_vec());
    let (encapsulated, ciphertext) = SUITE.seal(info, &[], plaintext, &public).map_err(|_| SealingFailed)?;
    Ok(Sealed { encapsulated_key: encapsulated.0, ciphertext })
}
