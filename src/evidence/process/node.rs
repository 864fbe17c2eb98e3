//! Enrolled nodes: whose word about a process counts, and for which identities.
//!
//! *Takes* a node key's SPKI, a name, an expiry and patterns. *Gives* [`NodeKey`], [`EnrolledNode`], [`Nodes`].
//! *Denies* nothing itself; `verify` does.
//! *Source*: `protocol.md` "process"; RFC 5480 §2, RFC 8410 §4.

use crate::spiffe::IdPattern;
use crate::time::WallTime;
use aws_lc_rs::{digest, signature};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// SHA-256 of a node key's SPKI DER: COSE's `kid`.
pub type KeyId = [u8; 32];

/// A node's public key: P-256 or Ed25519, in the one DER form of its SPKI.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKey {
    algorithm: Algorithm,
    spki: Vec<u8>,
    key_id: KeyId,
}

/// What a key signs with. ES256 goes with P-256 alone, EdDSA with Ed25519 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// COSE −7: ECDSA with SHA-256 on P-256.
    Es256,
    /// COSE −8: Ed25519.
    EdDsa,
}

/// Why bytes are no node key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the SPKI DER of a P-256 key (uncompressed point) or an Ed25519 key, or something follows it.
    #[error("not the SPKI DER of a P-256 (uncompressed) or Ed25519 key")]
    Shape,
    /// The point is not on its curve, or of small order: anyone could sign for it.
    #[error("not a usable point of its curve")]
    Point,
}

impl NodeKey {
    /// Parses SPKI DER, byte for byte: an SPKI has one DER form per key here, so a key has one `kid`.
    pub fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, key) = split_spki(spki).ok_or(KeyError::Shape)?;
        let usable = match algorithm {
            Algorithm::Es256 => {
                signature::ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key).is_ok()
            }
            Algorithm::EdDsa => !has_small_order(key),
        };
        if !usable {
            return Err(KeyError::Point);
        }
        Ok(NodeKey { algorithm, spki: spki.to_vec(), key_id: sha256(spki) })
    }

    /// The SPKI of a P-256 key, from its uncompressed point (65 bytes).
    pub fn from_p256_point(point: &[u8]) -> Result<Self, KeyError> {
        NodeKey::from_spki(&[P256_PREFIX, point].concat())
    }

    /// The SPKI of an Ed25519 key, from its 32 bytes.
    pub fn from_ed25519(key: &[u8]) -> Result<Self, KeyError> {
        NodeKey::from_spki(&[ED25519_PREFIX, key].concat())
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// SHA-256 of the SPKI DER.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The same, borrowed.
    pub fn key_id_bytes(&self) -> &[u8] {
        &self.key_id
    }

    /// The SPKI DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Whether `signature` is this key's over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let Some((algorithm, key)) = split_spki(&self.spki) else { return false };
        let scheme: &'static dyn signature::VerificationAlgorithm = match algorithm {
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::EdDsa => &signature::ED25519,
        };
        signature::UnparsedPublicKey::new(scheme, key).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NodeKey({:?} {})", self.algorithm, hex::encode(self.key_id))
    }
}

impl Serialize for NodeKey {
    /// The SPKI DER in lower-case hex.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.spki))
    }
}

impl<'de> Deserialize<'de> for NodeKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spki = hex::decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)?;
        NodeKey::from_spki(&spki).map_err(serde::de::Error::custom)
    }
}

/// One enrolment: an administrator's word that this key speaks for this node, about these identities, until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolledNode {
    /// The node's name; a statement must name it.
    pub name: String,
    /// Its key.
    pub public_key: NodeKey,
    /// Its end, exclusive.
    pub not_after: WallTime,
    /// The identities that it may vouch for; empty = none.
    pub may_vouch_for: Vec<IdPattern>,
    /// The hardware evidence that its statements must come with, by format: measurements (PCR0 of `nitro`, MEASUREMENT of
    /// `sev-snp`, MRTD of `tdx`), lower-case hex, of which it must have one. For `tpm2`, whose key is enrolled under the node's
    /// name, the list is empty. A format that is not here must not come with them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measurements: BTreeMap<String, BTreeSet<String>>,
}

/// Every enrolled node, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    by_key: BTreeMap<KeyId, EnrolledNode>,
    /// Of several keys under one name, the first.
    by_name: BTreeMap<String, KeyId>,
    epoch: u64,
}

impl Nodes {
    /// The snapshot of that epoch. Of two enrolments of one key none counts, as it could not be said which.
    pub fn new(enrolled: impl IntoIterator<Item = EnrolledNode>, epoch: u64) -> Self {
        let mut by_key = BTreeMap::new();
        let mut ambiguous = Vec::new();
        for node in enrolled {
            let key_id = node.public_key.key_id();
            if by_key.insert(key_id, node).is_some() {
                ambiguous.push(key_id);
            }
        }
        ambiguous.iter().for_each(|key_id| drop(by_key.remove(key_id)));
        let mut by_name = BTreeMap::new();
        for (key_id, node) in &by_key {
            by_name.entry(node.name.clone()).or_insert(*key_id);
        }
        Nodes { by_key, by_name, epoch }
    }

    /// The node whose key has this id.
    pub fn by_key(&self, key_id: &KeyId) -> Option<&EnrolledNode> {
        self.by_key.get(key_id)
    }

    /// The node of this name.
    pub fn by_name(&self, name: &str) -> Option<&EnrolledNode> {
        self.by_name.get(name).and_then(|key_id| self.by_key.get(key_id))
    }

    /// Which snapshot this is; a decision records it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Every node, by key id.
    pub fn iter(&self) -> impl Iterator<Item = &EnrolledNode> {
        self.by_key.values()
    }
}

/// SHA-256.
pub(in crate::evidence) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn split_spki(spki: &[u8]) -> Option<(Algorithm, &[u8])> {
    let p256 = spki.strip_prefix(P256_PREFIX).filter(|point| point.len() == 65 && point.first() == Some(&4));
    let ed25519 = spki.strip_prefix(ED25519_PREFIX).filter(|key| key.len() == 32);
    p256.map(|point| (Algorithm::Es256, point)).or(ed25519.map(|key| (Algorithm::EdDsa, key)))
}

fn has_small_order(key: &[u8]) -> bool {
    let mut bytes = key.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last &= 0x7f;
    }
    SMALL_ORDER_Y.contains(&bytes.as_slice())
}

/// SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING (66) { no unused bits, … (RFC 5480 §2).
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// SEQUENCE { SEQUENCE { id-Ed25519 }, BIT STRING (33) { no unused bits, … (RFC 8410 §4).
const ED25519_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The y of every Ed25519 point whose order divides 8, sign bit cleared: 0, 1, the two of order 8, p−1, and the
/// encodings p and p+1 of 0 and 1. A signature for such a key verifies without a private key (RFC 8032 §5.1.7).
const SMALL_ORDER_Y: [&[u8]; 7] = [
    &[0; 32],
    &{
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    &[
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    &[
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    &near_prime(0xec),
    &near_prime(0xed),
    &near_prime(0xee),
];

/// p = 2^255 − 19 with its lowest byte replaced.
const fn near_prime(lowest: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = lowest;
    bytes[31] = 0x7f;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p256_spki() -> Vec<u8> {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        NodeKey::from_p256_point(pair.public_key().as_ref()).unwrap().spki().to_vec()
    }

    #[test]
    fn an_spki_has_one_form() {
        let spki = p256_spki();
        assert!(NodeKey::from_spki(&spki).is_ok());
        assert_eq!(NodeKey::from_spki(&[&spki[..], &[0]].concat()), Err(KeyError::Shape));
        assert_eq!(NodeKey::from_spki(&spki[..90]), Err(KeyError::Shape));
        assert_eq!(NodeKey::from_spki(&[]), Err(KeyError::Shape));
        let mut off_curve = spki.clone();
        off_curve[90] ^= 1;
        assert_eq!(NodeKey::from_spki(&off_curve), Err(KeyError::Point));
        let mut hybrid = spki;
        hybrid[26] = 6;
        assert_eq!(NodeKey::from_spki(&hybrid), Err(KeyError::Shape));
    }

    #[test]
    fn an_ed25519_key_of_small_order_is_refused() {
        for y in SMALL_ORDER_Y {
            for sign in [0, 0x80] {
                let mut key = y.to_vec();
                key[31] |= sign;
                assert_eq!(NodeKey::from_ed25519(&key), Err(KeyError::Point), "{}", hex::encode(key));
            }
        }
    }

    #[test]
    fn a_key_enrolled_twice_counts_for_no_node() {
        let public_key = NodeKey::from_spki(&p256_spki()).unwrap();
        let node = |name: &str| EnrolledNode {
            name: name.to_owned(),
            public_key: public_key.clone(),
            not_after: WallTime(1),
            may_vouch_for: Vec::new(),
            measurements: BTreeMap::new(),
        };
        assert!(Nodes::new([node("a")], 1).by_key(&public_key.key_id()).is_some());
        assert!(Nodes::new([node("a"), node("b")], 1).by_key(&public_key.key_id()).is_none());
        assert!(Nodes::new([node("a"), node("b"), node("c")], 1).by_key(&public_key.key_id()).is_none());
    }

    #[test]
    fn an_enrolment_survives_its_json() {
        let node = EnrolledNode {
            name: "node-1.example".to_owned(),
            public_key: NodeKey::from_spki(&p256_spki()).unwrap(),
            not_after: WallTime(1_790_000_000_000),
            may_vouch_for: vec![IdPattern::parse("spiffe://example.org/*").unwrap()],
            measurements: BTreeMap::from([("tdx".to_owned(), BTreeSet::from(["ab".repeat(48)]))]),
        };
        let json = serde_json::to_string(&node).unwrap();
        assert_eq!(serde_json::from_str::<EnrolledNode>(&json).unwrap(), node);
    }
}
