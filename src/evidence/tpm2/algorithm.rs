//! The digests that a TPM's evidence may rest on: SHA-256 and longer, never SHA-1.
//!
//! *Takes* a TPM_ALG_ID. *Gives* [`Hash`], or nothing for any other. *Denies* nothing itself. *Source*: TCG Algorithm
//! Registry 1.32 §5.9; FIPS 180-4; `evidence.md` §3.

use aws_lc_rs::{digest, hmac};
use serde::{Deserialize, Serialize};

/// A digest algorithm; also a PCR bank's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// The one with this TPM_ALG_ID; none for SHA-1, SHA-3 and SM3.
    pub fn from_id(id: u16) -> Option<Self> {
        match id {
            0x000b => Some(Hash::Sha256),
            0x000c => Some(Hash::Sha384),
            0x000d => Some(Hash::Sha512),
            _ => None,
        }
    }

    /// Its TPM_ALG_ID.
    pub fn id(self) -> u16 {
        match self {
            Hash::Sha256 => 0x000b,
            Hash::Sha384 => 0x000c,
            Hash::Sha512 => 0x000d,
        }
    }

    /// Its name, as tpm2-tools and reference values spell it.
    pub fn name(self) -> &'static str {
        match self {
            Hash::Sha256 => "sha256",
            Hash::Sha384 => "sha384",
            Hash::Sha512 => "sha512",
        }
    }

    /// The length of its digests, bytes.
    pub fn bytes(self) -> usize {
        match self {
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    /// The digest of all parts, one after the other.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut running = digest::Context::new(match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
        });
        parts.iter().for_each(|part| running.update(part));
        running.finish().as_ref().to_vec()
    }

    /// HMAC (FIPS 198-1) of all parts.
    pub(super) fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha384 => hmac::HMAC_SHA384,
            Hash::Sha512 => hmac::HMAC_SHA512,
        };
        let mut running = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
        parts.iter().for_each(|part| running.update(part));
        running.sign().as_ref().to_vec()
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// SHA-256, as an array.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}
