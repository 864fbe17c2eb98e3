//! A software SEV-SNP platform: a root with AMD's names, its intermediates and lists, chips, and the reports that they sign.
//!
//! *Takes* what a test wants a platform to say. *Gives* DER certificates, revocation lists and reports under a root of its
//! own, which no build trusts by itself. *Denies* nothing. *Source*: AMD 56860, AMD 57230; RFC 5280.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test's own platform, on known input"
)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA384};
use std::sync::OnceLock;

/// 2026-01-01T00:00:00Z, Unix seconds: when every test begins.
pub const T0: u64 = 1_767_225_600;
/// A year, seconds.
pub const YEAR: u64 = 365 * 86_400;

/// How RSA-PSS parameters are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// With trailerField 1, as AMD's roots and its keys up to 2023.
    WithTrailer,
    /// As DER wants it.
    Der,
}

/// A product's root with both intermediates. Keys are made once a run: RSA keys are slow to make.
pub struct Authority {
    pub product: &'static str,
    pub ark: Vec<u8>,
    pub ask: Vec<u8>,
    pub asvk: Vec<u8>,
    ark_key: &'static RsaKeyPair,
    ask_key: &'static RsaKeyPair,
    asvk_key: &'static RsaKeyPair,
}

/// What a certificate says; `Default` is a root's.
#[derive(Clone)]
pub struct Profile {
    pub subject: String,
    pub issuer: String,
    pub serial: Vec<u8>,
    pub begins: u64,
    pub ends: u64,
    /// Extensions, whole.
    pub extensions: Vec<Vec<u8>>,
    pub spelling: Spelling,
}

/// A chip (or a provider's VLEK) at one TCB: its key and certificate.
pub struct Signer {
    pub key: EcdsaKeyPair,
    pub certificate: Vec<u8>,
}

/// What a signing key's certificate is to say.
#[derive(Clone)]
pub struct KeyProfile {
    pub vlek: bool,
    pub product_name: String,
    pub tcb: [u8; 8],
    pub hw_id: Option<Vec<u8>>,
    pub csp_id: Option<String>,
    pub begins: u64,
    pub ends: u64,
    pub spelling: Spelling,
    /// Components to leave out, such as `3.8`.
    pub without: Vec<&'static str>,
    /// Further extensions, whole.
    pub more: Vec<Vec<u8>>,
}

/// Serial numbers of ASK and ASVK.
pub const ASK_SERIAL: [u8; 3] = [0x0f, 0, 1];
/// The same.
pub const ASVK_SERIAL: [u8; 3] = [0x0f, 1, 1];
/// The root's.
pub const ARK_SERIAL: [u8; 3] = [0x0f, 0, 0];

impl Authority {
    pub fn new(product: &'static str) -> Self {
        let [ark_key, ask_key, asvk_key] = keys(0);
        Authority::with_keys(product, ark_key, ask_key, asvk_key)
    }

    /// Another root under the same names.
    pub fn impostor(product: &'static str) -> Self {
        let [ark_key, ask_key, asvk_key] = keys(3);
        Authority::with_keys(product, ark_key, ask_key, asvk_key)
    }

    fn with_keys(
        product: &'static str,
        ark_key: &'static RsaKeyPair,
        ask_key: &'static RsaKeyPair,
        asvk_key: &'static RsaKeyPair,
    ) -> Self {
        let ark = certificate(&root_profile(product), &rsa_spki(ark_key), ark_key);
        let ask = intermediate_profile(product, format!("SEV-{product}"), &ASK_SERIAL);
        let asvk = intermediate_profile(product, format!("SEV-VLEK-{product}"), &ASVK_SERIAL);
        let ask = certificate(&ask, &rsa_spki(ask_key), ark_key);
        let asvk = certificate(&asvk, &rsa_spki(asvk_key), ark_key);
        Authority { product, ark, ask, asvk, ark_key, ask_key, asvk_key }
    }

    /// The root again, as altered.
    pub fn root_with(&self, alter: impl FnOnce(&mut Profile)) -> Vec<u8> {
        let mut profile = root_profile(self.product);
        alter(&mut profile);
        certificate(&profile, &rsa_spki(self.ark_key), self.ark_key)
    }

    /// The ASK again, as altered, signed by the root.
    pub fn ask_with(&self, alter: impl FnOnce(&mut Profile)) -> Vec<u8> {
        let mut profile = intermediate_profile(self.product, format!("SEV-{}", self.product), &ASK_SERIAL);
        alter(&mut profile);
        certificate(&profile, &rsa_spki(self.ask_key), self.ark_key)
    }

    /// What a VCEK's certificate says by default.
    pub fn vcek_profile(&self) -> KeyProfile {
        let turin = self.product == "Turin";
        KeyProfile {
            vlek: false,
            product_name: if turin { "Turin".into() } else { format!("{}-B0", self.product) },
            tcb: self.tcb(),
            hw_id: Some(if turin { vec![0xc1; 8] } else { vec![0xc1; 64] }),
            csp_id: None,
            begins: T0 - 86_400,
            ends: T0 + 7 * YEAR,
            spelling: Spelling::Der,
            without: Vec::new(),
            more: Vec::new(),
        }
    }

    /// What a VLEK's certificate says by default.
    pub fn vlek_profile(&self) -> KeyProfile {
        KeyProfile {
            vlek: true,
            product_name: self.product.into(),
            hw_id: None,
            csp_id: Some("CN=cloud.example".into()),
            ends: T0 + YEAR,
            ..self.vcek_profile()
        }
    }

    /// The TCB version of this product's platform by default.
    pub fn tcb(&self) -> [u8; 8] {
        if self.product == "Turin" { [1, 4, 1, 24, 0, 0, 0, 219] } else { [4, 1, 0, 0, 0, 0, 24, 219] }
    }

    /// A signing key and its certificate, by the intermediate that goes with it.
    pub fn signer(&self, profile: &KeyProfile) -> Signer {
        let issuer = if profile.vlek { self.asvk_key } else { self.ask_key };
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let certificate = certificate(&self.key_profile(profile), &p384_spki(&key), issuer);
        Signer { key, certificate }
    }

    /// A VCEK.
    pub fn vcek(&self) -> Signer {
        self.signer(&self.vcek_profile())
    }

    /// A VLEK.
    pub fn vlek(&self) -> Signer {
        self.signer(&self.vlek_profile())
    }

    fn key_profile(&self, profile: &KeyProfile) -> Profile {
        let [a, b, c, d, _, _, e, microcode] = profile.tcb;
        let turin = self.product == "Turin";
        let levels = if turin {
            vec![("3.9", a), ("3.1", b), ("3.2", c), ("3.3", d), ("3.8", microcode)]
        } else {
            vec![("3.1", a), ("3.2", b), ("3.3", e), ("3.8", microcode)]
        };
        let name = if profile.product_name.is_empty() { None } else { Some(&profile.product_name) };
        let mut extensions: Vec<Vec<u8>> =
            name.into_iter().map(|name| amd_extension("2", &tlv(0x16, name.as_bytes()))).collect();
        for (component, level) in levels {
            if !profile.without.contains(&component) {
                extensions.push(amd_extension(component, &unsigned(&[level])));
            }
        }
        extensions.extend(profile.hw_id.iter().map(|id| amd_extension("4", id)));
        extensions.extend(profile.csp_id.iter().map(|id| amd_extension("5", &tlv(0x16, id.as_bytes()))));
        extensions.extend(profile.more.iter().cloned());
        let (subject, issuer) = match profile.vlek {
            false => ("SEV-VCEK", format!("SEV-{}", self.product)),
            true => ("SEV-VLEK", format!("SEV-VLEK-{}", self.product)),
        };
        Profile {
            subject: subject.into(),
            issuer,
            serial: vec![0],
            begins: profile.begins,
            ends: profile.ends,
            extensions,
            spelling: profile.spelling,
        }
    }

    /// A revocation list of the root's.
    pub fn list(&self, revoked: &[&[u8]], number: u8, this_update: u64, next_update: Option<u64>) -> Vec<u8> {
        let entry = |serial: &&[u8]| sequence(&[unsigned(serial), time(this_update)]);
        let entries: Vec<Vec<u8>> = revoked.iter().map(entry).collect();
        let number = tlv(4, &unsigned(&[number]));
        let extension = sequence(&[oid(&[0x55, 0x1d, 0x14]), number]);
        let mut content =
            vec![unsigned(&[1]), pss(Spelling::WithTrailer), name(&format!("ARK-{}", self.product))];
        content.push(time(this_update));
        content.extend(next_update.map(time));
        if !entries.is_empty() {
            content.push(sequence(&entries));
        }
        content.push(tlv(0xa0, &sequence(&[extension])));
        signed(&sequence(&content), Spelling::WithTrailer, self.ark_key)
    }

    /// A report of this product's platform with this binding, not signed yet: the guest of every test.
    pub fn report(&self, version: u8, report_data: &[u8; 64]) -> Vec<u8> {
        let mut body = vec![0; 1184];
        body[0] = version;
        body[8..16].copy_from_slice(&0x0003_001f_u64.to_le_bytes());
        body[0x34] = 1;
        body[0x40] = 0x25;
        body[0x50..0x90].copy_from_slice(report_data);
        body[0x90..0xc0].fill(0xa1);
        body[0xc0..0xe0].fill(0xa2);
        body[0x140..0x160].fill(0xa3);
        body[0x160..0x180].fill(0xff);
        let cpuid: [u8; 3] = match self.product {
            "Milan" => [0x19, 0x01, 1],
            "Genoa" => [0x19, 0x11, 1],
            _ => [0x1a, 0x02, 1],
        };
        if version >= 3 {
            body[0x188..0x18b].copy_from_slice(&cpuid);
        }
        for place in [0x38, 0x180, 0x1e0, 0x1f0] {
            body[place..place + 8].copy_from_slice(&self.tcb());
        }
        let chip = if self.product == "Turin" { 8 } else { 64 };
        body[0x1a0..0x1a0 + chip].fill(0xc1);
        for place in [0x1e8, 0x1ec] {
            body[place..place + 3].copy_from_slice(&[29, 55, 1]);
        }
        if version >= 5 {
            body[0x1f8] = 0x3f;
            body[0x200] = 0x3f;
        }
        body
    }

    /// The same by a VLEK: it names no chip.
    pub fn vlek_report(&self, version: u8, report_data: &[u8; 64]) -> Vec<u8> {
        let mut body = self.report(version, report_data);
        body[0x48] = 1 << 2;
        body[0x1a0..0x1e0].fill(0);
        body
    }
}

impl Signer {
    /// Signs a report, whatever it says.
    pub fn sign(&self, mut body: Vec<u8>) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), &body[..0x2a0]).unwrap();
        body[0x2a0..].fill(0);
        for (place, half) in [0x2a0, 0x2e8].into_iter().zip(signature.as_ref().chunks(48)) {
            let little_endian: Vec<u8> = half.iter().rev().copied().collect();
            body[place..place + 48].copy_from_slice(&little_endian);
        }
        body
    }
}

/// An extension of AMD's arc, 1.3.6.1.4.1.3704.1 and `below`, its value as it is.
pub fn amd_extension(below: &str, value: &[u8]) -> Vec<u8> {
    let mut arc = vec![0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1];
    arc.extend(below.split('.').map(|part| part.parse::<u8>().unwrap()));
    sequence(&[oid(&arc), tlv(4, value)])
}

/// basicConstraints, critical: a CA with path length 0, or without.
pub fn authority_extension(path_length: Option<u8>) -> Vec<u8> {
    let mut content = vec![tlv(1, &[0xff])];
    content.extend(path_length.map(|length| unsigned(&[length])));
    sequence(&[oid(&[0x55, 0x1d, 0x13]), tlv(1, &[0xff]), tlv(4, &sequence(&content))])
}

/// keyUsage, critical: the bits as DER has them, after the count of unused ones.
pub fn usage_extension(unused: u8, bits: u8) -> Vec<u8> {
    sequence(&[oid(&[0x55, 0x1d, 0x0f]), tlv(1, &[0xff]), tlv(4, &tlv(3, &[unused, bits]))])
}

/// DER: a tag, a length and a content.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=127 => vec![tag, length as u8],
        128..=255 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

/// DER: an INTEGER that is not negative.
pub fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if bytes[0] > 127 { &[0] } else { &[] };
    tlv(2, &[sign, bytes].concat())
}

fn root_profile(product: &str) -> Profile {
    Profile {
        subject: format!("ARK-{product}"),
        issuer: format!("ARK-{product}"),
        serial: ARK_SERIAL.to_vec(),
        begins: T0 - YEAR,
        ends: T0 + 20 * YEAR,
        extensions: vec![authority_extension(None), usage_extension(1, 0b0000_0110)],
        spelling: Spelling::WithTrailer,
    }
}

fn intermediate_profile(product: &str, subject: String, serial: &[u8]) -> Profile {
    Profile {
        subject,
        serial: serial.to_vec(),
        ends: T0 + 19 * YEAR,
        extensions: vec![authority_extension(Some(0)), usage_extension(2, 0b0000_0100)],
        ..root_profile(product)
    }
}

fn certificate(profile: &Profile, spki: &[u8], issuer: &RsaKeyPair) -> Vec<u8> {
    let content = sequence(&[
        tlv(0xa0, &unsigned(&[2])),
        unsigned(&profile.serial),
        pss(profile.spelling),
        name(&profile.issuer),
        sequence(&[time(profile.begins), time(profile.ends)]),
        name(&profile.subject),
        spki.to_vec(),
        tlv(0xa3, &sequence(&profile.extensions)),
    ]);
    signed(&content, profile.spelling, issuer)
}

fn signed(content: &[u8], spelling: Spelling, key: &RsaKeyPair) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PSS_SHA384, &SystemRandom::new(), content, &mut signature).unwrap();
    sequence(&[content.to_vec(), pss(spelling), tlv(3, &[&[0], &signature[..]].concat())])
}

fn pss(spelling: Spelling) -> Vec<u8> {
    let sha384 = sequence(&[oid(&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]), tlv(5, &[])]);
    let mgf1 = sequence(&[oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8]), sha384.clone()]);
    let mut parameters = vec![tlv(0xa0, &sha384), tlv(0xa1, &mgf1), tlv(0xa2, &unsigned(&[48]))];
    if spelling == Spelling::WithTrailer {
        parameters.push(tlv(0xa3, &unsigned(&[1])));
    }
    sequence(&[oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10]), sequence(&parameters)])
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute =
        |last: u8, text: &str| tlv(0x31, &sequence(&[oid(&[0x55, 4, last]), tlv(0x0c, text.as_bytes())]));
    sequence(&[attribute(10, "Advanced Micro Devices"), attribute(3, common_name)])
}

fn rsa_spki(key: &RsaKeyPair) -> Vec<u8> {
    let algorithm = sequence(&[oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), tlv(5, &[])]);
    sequence(&[algorithm, tlv(3, &[&[0], key.public_key().as_ref()].concat())])
}

fn p384_spki(key: &EcdsaKeyPair) -> Vec<u8> {
    let algorithm = sequence(&[oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), oid(&[0x2b, 0x81, 4, 0, 0x22])]);
    sequence(&[algorithm, tlv(3, &[&[0], key.public_key().as_ref()].concat())])
}

/// GeneralizedTime.
fn time(seconds: u64) -> Vec<u8> {
    let days = (seconds / 86_400) as i64;
    let (mut year, mut left) = (1970, days);
    let length = |year: i64| if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) { 366 } else { 365 };
    while left >= length(year) {
        left -= length(year);
        year += 1;
    }
    let february = length(year) - 337;
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= months[month] {
        left -= months[month];
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let text = format!("{year:04}{:02}{:02}{hour:02}{minute:02}{second:02}Z", month + 1, left + 1);
    tlv(0x18, text.as_bytes())
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn oid(contents: &[u8]) -> Vec<u8> {
    tlv(6, contents)
}

fn keys(from: usize) -> [&'static RsaKeyPair; 3] {
    static KEYS: [OnceLock<RsaKeyPair>; 6] = [const { OnceLock::new() }; 6];
    let key = |at: usize| KEYS[at].get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    [key(from), key(from + 1), key(from + 2)]
}
