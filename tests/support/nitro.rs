//! A Nitro enclave in software: a chain as AWS's under a root of its own, and documents as the NSM writes them, or wrong ones.
//!
//! *Takes* a base time, PCRs and a binding. *Gives* the root that a test's configuration trusts, and signed documents. *Denies*
//! nothing. *Source*: AWS "Nitro Enclaves attestation process". It shares no code with what reads the documents.
#![allow(dead_code, reason = "each test binary uses its own part")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use std::time::Duration;

/// ES384 alone: `{1: -35}`.
pub const PROTECTED: &[u8] = &[0xa1, 0x01, 0x38, 0x22];

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// One certificate to be made; times are seconds from the chain's base.
#[derive(Clone)]
pub struct Shape {
    pub name: String,
    pub begins: i64,
    pub ends: i64,
    /// For a CA, its path length.
    pub authority: Option<BasicConstraints>,
    pub usages: Vec<KeyUsagePurpose>,
    pub algorithm: &'static rcgen::SignatureAlgorithm,
}

impl Shape {
    fn new(name: &str, begins: i64, ends: i64) -> Self {
        let usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = Some(BasicConstraints::Unconstrained);
        let algorithm = &rcgen::PKCS_ECDSA_P384_SHA384;
        Shape { name: name.to_owned(), begins, ends, authority, usages, algorithm }
    }
}

/// Root, region, zone, instance, enclave: with AWS's lives and constraints.
pub fn shapes() -> Vec<Shape> {
    let below =
        |shape: Shape, length| Shape { authority: Some(BasicConstraints::Constrained(length)), ..shape };
    vec![
        Shape::new("aws.nitro-enclaves", -365 * DAY, 9_000 * DAY),
        below(Shape::new("region.aws.nitro-enclaves", -DAY, 19 * DAY), 2),
        below(Shape::new("zone.region.aws.nitro-enclaves", -HOUR, 6 * DAY), 1),
        Shape {
            usages: vec![KeyUsagePurpose::KeyCertSign],
            ..below(Shape::new("i-0123.region.aws.nitro-enclaves", -HOUR, DAY), 0)
        },
        Shape {
            authority: None,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            ..Shape::new("i-0123-enc0456.region.aws", -3, 3 * HOUR)
        },
    ]
}

/// A chain with the enclave's key.
pub struct Chain {
    /// The root, DER.
    pub root: Vec<u8>,
    /// Root first.
    pub cabundle: Vec<Vec<u8>>,
    /// The enclave's certificate.
    pub certificate: Vec<u8>,
    /// SHA-256 of the SubjectPublicKeyInfo of each certificate, root first.
    pub keys: Vec<[u8; 32]>,
    signer: EcdsaKeyPair,
}

impl Chain {
    /// AWS's shapes, at `base` Unix seconds.
    pub fn new(base: u64) -> Self {
        Chain::of(base, &shapes())
    }

    /// Each shape issued by the one before; the first by itself.
    pub fn of(base: u64, shapes: &[Shape]) -> Self {
        let mut ders: Vec<Vec<u8>> = Vec::new();
        let mut keys = Vec::new();
        let mut issuer: Option<Issuer<'static, KeyPair>> = None;
        let mut last = Vec::new();
        for shape in shapes {
            let key = KeyPair::generate_for(shape.algorithm).unwrap();
            let params = params(base, shape);
            let made = match &issuer {
                Some(issuer) => params.signed_by(&key, issuer),
                None => params.self_signed(&key),
            };
            ders.push(made.unwrap().der().to_vec());
            let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
            keys.push(
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki).as_ref().try_into().unwrap(),
            );
            last = key.serialize_der();
            issuer = Some(Issuer::new(params, key));
        }
        let certificate = ders.pop().unwrap();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &last).unwrap();
        Chain { root: ders[0].clone(), cabundle: ders, certificate, keys, signer }
    }

    /// A document of a production enclave, as the NSM writes it.
    pub fn attest(&self, nonce: &[u8], timestamp_ms: u64) -> Vec<u8> {
        self.sign(&self.draft(nonce, timestamp_ms).payload())
    }

    /// The fields of such a document.
    pub fn draft(&self, nonce: &[u8], timestamp_ms: u64) -> Draft {
        let pcr = |index: u8| match index {
            0..=4 | 8 => vec![0x10 + index; 48],
            _ => vec![0; 48],
        };
        Draft {
            fields: vec![
                ("module_id".into(), text("i-0123-enc0456")),
                ("digest".into(), text("SHA384")),
                ("timestamp".into(), unsigned(timestamp_ms)),
                ("pcrs".into(), pcrs(&(0..16).map(|index| (index.into(), pcr(index))).collect::<Vec<_>>())),
                ("certificate".into(), bytes(&self.certificate)),
                ("cabundle".into(), array(&self.cabundle.iter().map(|der| bytes(der)).collect::<Vec<_>>())),
                ("public_key".into(), NULL.to_vec()),
                ("user_data".into(), NULL.to_vec()),
                ("nonce".into(), bytes(nonce)),
            ],
            definite: false,
        }
    }

    /// COSE_Sign1 over a payload.
    pub fn sign(&self, payload: &[u8]) -> Vec<u8> {
        envelope(PROTECTED, &[0xa0], payload, &self.signature(PROTECTED, payload))
    }

    /// r and s.
    pub fn signature(&self, protected: &[u8], payload: &[u8]) -> Vec<u8> {
        let message = array(&[text("Signature1"), bytes(protected), bytes(&[]), bytes(payload)]);
        self.signer.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec()
    }
}

/// The fields of a payload, each encoded; a test alters what it wants to see refused.
#[derive(Clone)]
pub struct Draft {
    pub fields: Vec<(String, Vec<u8>)>,
    /// Maps with a length, as before 2025.
    pub definite: bool,
}

impl Draft {
    pub fn with(mut self, name: &str, value: Vec<u8>) -> Self {
        match self.fields.iter_mut().find(|(found, _)| found == name) {
            Some(field) => field.1 = value,
            None => self.fields.push((name.to_owned(), value)),
        }
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(found, _)| found != name);
        self
    }

    pub fn payload(&self) -> Vec<u8> {
        let fields: Vec<_> = self.fields.iter().map(|(name, value)| (text(name), value.clone())).collect();
        map(&fields, self.definite)
    }
}

/// The four parts of a COSE_Sign1, the headers and the signature as given.
pub fn envelope(protected: &[u8], unprotected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    array(&[bytes(protected), unprotected.to_vec(), bytes(payload), bytes(signature)])
}

/// PCRs, indefinite.
pub fn pcrs(values: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<_> = values.iter().map(|(index, value)| (unsigned(*index), bytes(value))).collect();
    map(&entries, false)
}

// CBOR (RFC 8949 §3), as little as is needed.

pub const NULL: &[u8] = &[0xf6];

pub fn unsigned(number: u64) -> Vec<u8> {
    head(0, number)
}

pub fn bytes(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len() as u64), bytes.to_vec()].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    [head(3, text.len() as u64), text.as_bytes().to_vec()].concat()
}

pub fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, items.len() as u64), items.concat()].concat()
}

pub fn map(entries: &[(Vec<u8>, Vec<u8>)], definite: bool) -> Vec<u8> {
    let body: Vec<u8> =
        entries.iter().flat_map(|(key, value)| [key.clone(), value.clone()].concat()).collect();
    match definite {
        true => [head(5, entries.len() as u64), body].concat(),
        false => [vec![0xbf], body, vec![0xff]].concat(),
    }
}

pub fn head(major: u8, number: u64) -> Vec<u8> {
    let major = major << 5;
    match number {
        0..=23 => vec![major | number as u8],
        24..=0xff => vec![major | 24, number as u8],
        0x100..=0xffff => [vec![major | 25], (number as u16).to_be_bytes().to_vec()].concat(),
        0x1_0000..=0xffff_ffff => [vec![major | 26], (number as u32).to_be_bytes().to_vec()].concat(),
        _ => [vec![major | 27], number.to_be_bytes().to_vec()].concat(),
    }
}

fn params(base: u64, shape: &Shape) -> CertificateParams {
    let mut params = CertificateParams::default();
    for (kind, value) in [
        (DnType::CountryName, "US"),
        (DnType::OrganizationName, "Amazon"),
        (DnType::OrganizationalUnitName, "AWS"),
        (DnType::CommonName, shape.name.as_str()),
    ] {
        params.distinguished_name.push(kind, value);
    }
    params.is_ca = match &shape.authority {
        Some(constraints) => IsCa::Ca(*constraints),
        None => IsCa::ExplicitNoCa,
    };
    params.key_usages = shape.usages.clone();
    params.serial_number = Some(SerialNumber::from(7_u64));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |seconds: i64| epoch + Duration::from_secs(base.checked_add_signed(seconds).unwrap());
    params.not_before = at(shape.begins);
    params.not_after = at(shape.ends);
    params
}
