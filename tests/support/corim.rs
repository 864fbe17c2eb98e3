//! Signed CoRIM of nobody: keys, and manifests good but for what a test changes.
//!
//! *Takes* triples as CBOR. *Gives* a COSE_Sign1 and the public key as PEM. *Denies* nothing.
//! *Source*: draft-ietf-rats-corim §4, §5; RFC 9052 §4.4; RFC 8949 §3.
#![allow(dead_code, reason = "each test uses its own part")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;

/// A publisher's key, P-256.
pub struct Publisher(EcdsaKeyPair);

impl Publisher {
    pub fn new() -> Publisher {
        Publisher(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn pem(&self) -> String {
        let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        let der = [&prefix, self.0.public_key().as_ref()].concat();
        let base64 = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")
    }

    /// The manifest with this publisher's signature.
    pub fn sign(&self, manifest: &Manifest) -> Vec<u8> {
        self.sign_payload(&manifest.payload())
    }

    /// Whatever bytes with this publisher's signature.
    pub fn sign_payload(&self, payload: &[u8]) -> Vec<u8> {
        let header = fields(&[
            (1, head(1, 6)),
            (3, text("application/rim+cbor")),
            (8, bytes(&fields(&[(0, fields(&[(0, text("ACME Ltd"))]))]))),
        ]);
        let message = array(&[text("Signature1"), bytes(&header), bytes(&[]), bytes(payload)]);
        let signature = self.0.sign(&SystemRandom::new(), &message).unwrap();
        tagged(18, array(&[bytes(&header), vec![0xa0], bytes(payload), bytes(signature.as_ref())]))
    }
}

/// What is signed.
pub struct Manifest {
    pub profile: Option<&'static str>,
    /// Unix seconds.
    pub not_before: Option<u64>,
    pub not_after: Option<u64>,
    /// Reference triples.
    pub triples: Vec<Vec<u8>>,
    /// Other kinds of triples, by their number.
    pub others: Vec<(u64, Vec<u8>)>,
}

impl Manifest {
    pub fn of(triples: Vec<Vec<u8>>) -> Manifest {
        Manifest { profile: None, not_before: None, not_after: None, triples, others: Vec::new() }
    }

    pub fn payload(&self) -> Vec<u8> {
        let mut kinds = vec![(0, array(&self.triples))];
        kinds.extend(self.others.clone());
        let comid = fields(&[(1, fields(&[(0, text("tag"))])), (4, fields(&kinds))]);
        let mut map = vec![(0, text("acme-2026")), (1, array(&[tagged(506, bytes(&comid))]))];
        if let Some(profile) = self.profile {
            map.push((3, tagged(32, text(profile))));
        }
        let time = |seconds: u64| tagged(1, unsigned(seconds));
        if let Some(end) = self.not_after {
            let begin = self.not_before.map(|begin| (0, time(begin)));
            map.push((4, fields(&begin.into_iter().chain([(1, time(end))]).collect::<Vec<_>>())));
        }
        tagged(501, fields(&map))
    }
}

/// A triple of ACME's model, with these measurements.
pub fn triple(model: &str, measurements: &[Vec<u8>]) -> Vec<u8> {
    let class = fields(&[(1, text("ACME")), (2, text(model))]);
    array(&[fields(&[(0, class)]), array(measurements)])
}

/// A measurement of one element, by these values.
pub fn measurement(element: Vec<u8>, values: &[(u64, Vec<u8>)]) -> Vec<u8> {
    fields(&[(0, element), (1, fields(values))])
}

/// By one SHA-384 of a byte's repetition.
pub fn sha384(element: Vec<u8>, byte: u8) -> Vec<u8> {
    measurement(element, &[(2, array(&[array(&[unsigned(7), bytes(&[byte; 48])])]))])
}

/// By one SHA-256 of a byte's repetition.
pub fn sha256(element: Vec<u8>, byte: u8) -> Vec<u8> {
    measurement(element, &[(2, array(&[array(&[unsigned(1), bytes(&[byte; 32])])]))])
}

/// By a least SVN.
pub fn at_least(element: Vec<u8>, svn: u64) -> Vec<u8> {
    measurement(element, &[(1, tagged(553, unsigned(svn)))])
}

pub fn unsigned(number: u64) -> Vec<u8> {
    head(0, number)
}

pub fn text(text: &str) -> Vec<u8> {
    [head(3, text.len() as u64), text.as_bytes().to_vec()].concat()
}

pub fn bytes(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len() as u64), bytes.to_vec()].concat()
}

pub fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    [head(4, elements.len() as u64), elements.concat()].concat()
}

pub fn fields(entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(key, value)| [unsigned(*key), value.clone()]);
    [head(5, entries.clone().count() as u64 / 2), entries.collect::<Vec<_>>().concat()].concat()
}

pub fn tagged(tag: u64, value: Vec<u8>) -> Vec<u8> {
    [head(6, tag), value].concat()
}

fn head(major: u8, number: u64) -> Vec<u8> {
    let major = major << 5;
    match number {
        0..=23 => vec![major | number as u8],
        24..=0xff => vec![major | 24, number as u8],
        0x100..=0xffff => [vec![major | 25], (number as u16).to_be_bytes().to_vec()].concat(),
        0x1_0000..=0xffff_ffff => [vec![major | 26], (number as u32).to_be_bytes().to_vec()].concat(),
        _ => [vec![major | 27], number.to_be_bytes().to_vec()].concat(),
    }
}
