//! What an operator pins for `nitro`: roots, each until its end, and keys that are refused.
//!
//! *Takes* root certificates. *Gives* [`NitroTrust`]. *Denies* nothing itself; `verify` does.
//! *Source*: AWS "Verifying the root of trust"; RFC 5280 §4.2; `certs/README.md`.

use crate::time::WallTime;
use crate::transport::svid::{self, Window};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use std::collections::BTreeSet;
use std::fmt;

/// Roots and refused keys. Trusts nothing by itself: [`NitroTrust::default`] has no root, [`NitroTrust::aws`] has Amazon's.
#[derive(Clone, Default)]
pub struct NitroTrust {
    roots: Vec<Root>,
    refused_keys: BTreeSet<[u8; 32]>,
}

/// A pinned root.
#[derive(Clone)]
pub struct Root {
    pub(super) name: String,
    pub(super) der: CertificateDer<'static>,
    pub(super) sha256: [u8; 32],
    pub(super) key_sha256: [u8; 32],
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) window: Window,
    pub(super) pinned_until: Option<WallTime>,
}

/// Why a certificate cannot be a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Neither the DER nor the PEM of exactly one X.509 v3 certificate.
    #[error("not one X.509 certificate, DER or PEM")]
    Malformed,
    /// Not a CA that may sign certificates.
    #[error("the certificate is not of a CA that may sign certificates")]
    NotAuthority,
    /// Not a P-384 key: a document's chain is P-384 and SHA-384 throughout.
    #[error("the certificate's key is not on P-384")]
    Curve,
    /// Pinned already.
    #[error("the certificate is pinned already")]
    Repeated,
}

impl NitroTrust {
    /// The root that AWS publishes, compiled in.
    pub fn aws() -> Result<Self, RootError> {
        NitroTrust::default().and_root("AWS Nitro Enclaves Root G1", AWS_ROOT_G1, None)
    }

    /// One root more, DER or PEM, pinned until its own end, and no longer than `until` (exclusive) where that is given.
    pub fn and_root(
        mut self,
        name: &str,
        certificate: &[u8],
        until: Option<WallTime>,
    ) -> Result<Self, RootError> {
        let root = Root::read(name, certificate, until)?;
        if self.roots.iter().any(|other| other.sha256 == root.sha256) {
            return Err(RootError::Repeated);
        }
        self.roots.push(root);
        Ok(self)
    }

    /// Without the root of that SHA-256: switched off at once.
    pub fn without_root(mut self, sha256: &[u8; 32]) -> Self {
        self.roots.retain(|root| root.sha256 != *sha256);
        self
    }

    /// Refuses every document whose chain has this key, given as the SHA-256 of its SubjectPublicKeyInfo: of a region's, a
    /// zone's, an instance's or an enclave's certificate, however it was issued again.
    pub fn and_refused_key(mut self, spki_sha256: [u8; 32]) -> Self {
        self.refused_keys.insert(spki_sha256);
        self
    }

    /// The roots.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    pub(super) fn refuses(&self, spki_sha256: &[u8; 32]) -> bool {
        self.refused_keys.contains(spki_sha256)
    }
}

impl Root {
    /// What the operator calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of its DER.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Its end, exclusive: its own, or that of the pin.
    pub fn ends(&self) -> WallTime {
        self.pinned_until.map_or(self.window.ends, |until| until.min(self.window.ends))
    }

    fn read(name: &str, certificate: &[u8], pinned_until: Option<WallTime>) -> Result<Self, RootError> {
        let der = der(certificate).ok_or(RootError::Malformed)?;
        let parsed = svid::parse(&der).map_err(|_| RootError::Malformed)?;
        let spki = parsed.public_key().raw;
        if !svid::may_sign_certificates(&parsed, true) {
            return Err(RootError::NotAuthority);
        }
        if p384_point(spki).is_none() {
            return Err(RootError::Curve);
        }
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|_| RootError::Malformed)?.to_owned();
        let (sha256, key_sha256) = (svid::sha256(&der), svid::sha256(spki));
        let window = svid::window(&parsed);
        Ok(Root { name: name.to_owned(), sha256, key_sha256, anchor, window, pinned_until, der: der.clone() })
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Root({} {} until {})", self.name, hex::encode(self.sha256), self.ends())
    }
}

impl fmt::Debug for NitroTrust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NitroTrust({:?}, {} refused keys)", self.roots, self.refused_keys.len())
    }
}

/// The uncompressed point of a P-384 key, 97 bytes, from its SPKI.
pub(super) fn p384_point(spki: &[u8]) -> Option<&[u8]> {
    spki.strip_prefix(P384_PREFIX).filter(|point| point.len() == 97 && point.first() == Some(&4))
}

fn der(certificate: &[u8]) -> Option<CertificateDer<'static>> {
    if !certificate.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Some(CertificateDer::from(certificate.to_vec()));
    }
    let all = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().ok()?;
    let [one] = <[_; 1]>::try_from(all).ok()?;
    Some(one)
}

/// As AWS publishes it; a test holds its fingerprint against AWS's.
const AWS_ROOT_G1: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/certs/aws/nitro-enclaves-root-g1.der"));

/// SHA-256 of the same, as AWS publishes it ("Verifying the root of trust").
#[cfg(test)]
pub(super) const AWS_ROOT_G1_SHA256: &str =
    "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b";

/// SEQUENCE { SEQUENCE { id-ecPublicKey, secp384r1 }, BIT STRING (98) { no unused bits, … (RFC 5480 §2).
const P384_PREFIX: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
    0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
