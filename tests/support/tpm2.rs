//! A TPM in software, as far as its evidence goes: keys, quotes, event logs, endorsement certificates, ActivateCredential.
//!
//! *Takes* what a test wants it to say. *Gives* bytes as a TPM gives them, right or deliberately wrong. *Denies* nothing.
//! *Source*: TCG TPM 2.0 Library parts 1 to 3, written from there once more: nothing of the verifier is used here.
#![allow(dead_code, reason = "each test uses its own part")]

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{AES_128, AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use aws_lc_rs::{digest, hmac};

pub const SHA1: u16 = 0x0004;
pub const SHA256: u16 = 0x000b;
pub const SHA384: u16 = 0x000c;
pub const RSASSA: u16 = 0x0014;
pub const RSAPSS: u16 = 0x0016;
pub const ECDSA: u16 = 0x0018;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign: what tpm2_createak makes.
pub const AK_ATTRIBUTES: u32 = 0x0005_0072;
/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt: the low-range EK templates.
pub const EK_ATTRIBUTES: u32 = 0x0003_00b2;

/// A TPM2B.
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// The digest by the algorithm with this id.
pub fn hash(id: u16, parts: &[&[u8]]) -> Vec<u8> {
    let algorithm = match id {
        SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        SHA256 => &digest::SHA256,
        SHA384 => &digest::SHA384,
        _ => &digest::SHA512,
    };
    digest::digest(algorithm, &parts.concat()).as_ref().to_vec()
}

/// An attestation key.
pub struct Ak {
    key: AkKey,
    /// Its scheme's and the hash's ids.
    pub scheme: (u16, u16),
    /// The hash of its Name.
    pub name_hash: u16,
    pub attributes: u32,
}

enum AkKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Ak {
    fn new(key: AkKey, scheme: (u16, u16)) -> Self {
        Ak { key, scheme, name_hash: SHA256, attributes: AK_ATTRIBUTES }
    }

    pub fn p256() -> Self {
        Ak::new(
            AkKey::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            (ECDSA, SHA256),
        )
    }

    pub fn p384() -> Self {
        Ak::new(
            AkKey::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            (ECDSA, SHA384),
        )
    }

    pub fn rsassa() -> Self {
        Ak::new(AkKey::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())), (RSASSA, SHA256))
    }

    pub fn rsapss() -> Self {
        Ak::new(AkKey::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())), (RSAPSS, SHA256))
    }

    /// TPMT_PUBLIC.
    pub fn public(&self) -> Vec<u8> {
        let kind: u16 = if matches!(self.key, AkKey::Rsa(_)) { 0x0001 } else { 0x0023 };
        let mut out = [&kind.to_be_bytes()[..], &self.name_hash.to_be_bytes()].concat();
        out.extend(self.attributes.to_be_bytes());
        out.extend(sized(&[]));
        out.extend(0x0010_u16.to_be_bytes());
        out.extend([self.scheme.0.to_be_bytes(), self.scheme.1.to_be_bytes()].concat());
        match &self.key {
            AkKey::P256(pair) => out.extend(ec_unique(3, pair.public_key().as_ref())),
            AkKey::P384(pair) => out.extend(ec_unique(4, pair.public_key().as_ref())),
            AkKey::Rsa(pair) => {
                out.extend(2048_u16.to_be_bytes());
                out.extend(0_u32.to_be_bytes());
                out.extend(sized(pair.public_key().modulus().big_endian_without_leading_zero()));
            }
        }
        out
    }

    pub fn name(&self) -> Vec<u8> {
        [&self.name_hash.to_be_bytes()[..], &hash(self.name_hash, &[&self.public()])].concat()
    }

    /// TPMT_SIGNATURE over `message`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut out = [self.scheme.0.to_be_bytes(), self.scheme.1.to_be_bytes()].concat();
        let random = SystemRandom::new();
        match &self.key {
            AkKey::P256(pair) | AkKey::P384(pair) => {
                let signature = pair.sign(&random, message).unwrap();
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                out.extend([sized(r), sized(s)].concat());
            }
            AkKey::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let by = if self.scheme.0 == RSASSA { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
                pair.sign(by, &random, message, &mut signature).unwrap();
                out.extend(sized(&signature));
            }
        }
        out
    }
}

/// curveID, no kdf, x and y.
fn ec_unique(curve: u16, point: &[u8]) -> Vec<u8> {
    let (x, y) = point[1..].split_at(point.len() / 2);
    [&curve.to_be_bytes()[..], &0x0010_u16.to_be_bytes(), &sized(x), &sized(y)].concat()
}

/// One bank's part of a quote: the hash's id, its PCRs with their values.
pub type Bank = (u16, Vec<(u8, Vec<u8>)>);

/// Everything that a quote says.
#[derive(Clone)]
pub struct Quote {
    pub magic: u32,
    pub kind: u16,
    pub qualified_signer: Vec<u8>,
    pub extra_data: Vec<u8>,
    pub clock: u64,
    pub reset_count: u32,
    pub restart_count: u32,
    pub safe: u8,
    pub firmware_version: u64,
    pub banks: Vec<Bank>,
    /// Bytes of each bank's bitmap.
    pub bitmap_bytes: u8,
    /// In place of the right one.
    pub pcr_digest: Option<Vec<u8>>,
    pub event_log: Vec<u8>,
}

impl Quote {
    /// A good quote of SHA-256 PCRs 0 to 7, each other than zero.
    pub fn of(extra_data: &[u8]) -> Self {
        let pcrs = (0..8).map(|pcr| (pcr, hash(SHA256, &[b"measured", &[pcr]]))).collect();
        Quote {
            magic: 0xff54_4347,
            kind: 0x8018,
            qualified_signer: [&SHA256.to_be_bytes()[..], &[0x51; 32]].concat(),
            extra_data: extra_data.to_vec(),
            clock: 3_600_000,
            reset_count: 7,
            restart_count: 2,
            safe: 1,
            firmware_version: 0x2019_1023_0016_3636,
            banks: vec![(SHA256, pcrs)],
            bitmap_bytes: 3,
            pcr_digest: None,
            event_log: Vec::new(),
        }
    }

    /// The values, in the order of the selection.
    pub fn values(&self) -> Vec<Vec<u8>> {
        self.banks.iter().flat_map(|(_, pcrs)| pcrs.iter().map(|(_, value)| value.clone())).collect()
    }

    /// TPMS_ATTEST, hashed by the algorithm with this id.
    pub fn attest(&self, hash_id: u16) -> Vec<u8> {
        let mut out = [&self.magic.to_be_bytes()[..], &self.kind.to_be_bytes()].concat();
        out.extend(sized(&self.qualified_signer));
        out.extend(sized(&self.extra_data));
        out.extend(self.clock.to_be_bytes());
        out.extend(self.reset_count.to_be_bytes());
        out.extend(self.restart_count.to_be_bytes());
        out.push(self.safe);
        out.extend(self.firmware_version.to_be_bytes());
        out.extend(u32::try_from(self.banks.len()).unwrap().to_be_bytes());
        for (bank, pcrs) in &self.banks {
            let mut bitmap = vec![0_u8; self.bitmap_bytes.into()];
            pcrs.iter().for_each(|(pcr, _)| bitmap[usize::from(pcr / 8)] |= 1 << (pcr % 8));
            out.extend(bank.to_be_bytes());
            out.push(self.bitmap_bytes);
            out.extend(bitmap);
        }
        let digest = self.pcr_digest.clone().unwrap_or_else(|| hash(hash_id, &[&self.values().concat()]));
        out.extend(sized(&digest));
        out
    }

    /// The whole document by this key.
    pub fn signed(&self, ak: &Ak) -> Vec<u8> {
        let attest = self.attest(ak.scheme.1);
        body(&attest, &ak.sign(&attest), &self.values(), &ak.name(), &self.event_log)
    }
}

/// The protobuf `Tpm2Quote`.
pub fn body(
    attest: &[u8],
    signature: &[u8],
    values: &[Vec<u8>],
    ak_name: &[u8],
    event_log: &[u8],
) -> Vec<u8> {
    let mut out = [field(1, attest), field(2, signature)].concat();
    values.iter().for_each(|value| out.extend(field(3, value)));
    out.extend(field(4, ak_name));
    if !event_log.is_empty() {
        out.extend(field(5, event_log));
    }
    out
}

/// One field of wire type 2.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut length) = (vec![number << 3 | 2], bytes.len());
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend(bytes);
    out
}

/// A log of the algorithms with these ids: each event is a PCR, a type, and data that is measured.
pub fn event_log(algorithms: &[u16], locality: Option<u8>, events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut specification = [&b"Spec ID Event03\0"[..], &[0; 4], &[0, 2, 0, 2]].concat();
    specification.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for id in algorithms {
        let length = u16::try_from(hash(*id, &[]).len()).unwrap();
        specification.extend([id.to_le_bytes(), length.to_le_bytes()].concat());
    }
    specification.push(0);
    let mut log = [&0_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), &[0; 20]].concat();
    log.extend(long(&specification));
    if let Some(locality) = locality {
        let data = [&b"StartupLocality\0"[..], &[locality]].concat();
        log.extend(logged(algorithms, 0, 3, &data, |id| vec![0; hash(id, &[]).len()]));
    }
    for (pcr, kind, data) in events {
        log.extend(logged(algorithms, *pcr, *kind, data, |id| hash(id, &[data])));
    }
    log
}

/// What a PCR of a bank comes to by events with these data.
pub fn extended(bank: u16, locality: u8, data: &[&[u8]]) -> Vec<u8> {
    let mut value = vec![0; hash(bank, &[]).len()];
    *value.last_mut().unwrap() = locality;
    data.iter().fold(value, |value, data| hash(bank, &[&value, &hash(bank, &[data])]))
}

fn logged(algorithms: &[u16], pcr: u32, kind: u32, data: &[u8], digest: impl Fn(u16) -> Vec<u8>) -> Vec<u8> {
    let mut out = [&pcr.to_le_bytes()[..], &kind.to_le_bytes()].concat();
    out.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for id in algorithms {
        out.extend(id.to_le_bytes());
        out.extend(digest(*id));
    }
    out.extend(long(data));
    out
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat()
}

/// An endorsement key with its private half.
pub enum Ek {
    Rsa { private: Box<PrivateDecryptingKey>, modulus: Vec<u8>, spki: Vec<u8> },
    P256 { private: Box<PrivateKey>, point: Vec<u8>, spki: Vec<u8> },
    P384 { private: Box<PrivateKey>, point: Vec<u8>, spki: Vec<u8> },
}

impl Ek {
    pub fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let modulus = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let private = Box::new(PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref()).unwrap());
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Ek::Rsa { private, modulus, spki: public.as_ref().to_vec() }
    }

    pub fn p256() -> Self {
        let (private, point, spki) = ec(&agreement::ECDH_P256);
        Ek::P256 { private, point, spki }
    }

    pub fn p384() -> Self {
        let (private, point, spki) = ec(&agreement::ECDH_P384);
        Ek::P384 { private, point, spki }
    }

    fn name_hash(&self) -> u16 {
        if matches!(self, Ek::P384 { .. }) { SHA384 } else { SHA256 }
    }

    fn aes_bits(&self) -> u16 {
        if matches!(self, Ek::P384 { .. }) { 256 } else { 128 }
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        match self {
            Ek::Rsa { spki, .. } | Ek::P256 { spki, .. } | Ek::P384 { spki, .. } => spki,
        }
    }

    /// TPMT_PUBLIC.
    pub fn public(&self) -> Vec<u8> {
        self.public_with(EK_ATTRIBUTES)
    }

    pub fn public_with(&self, attributes: u32) -> Vec<u8> {
        let kind: u16 = if matches!(self, Ek::Rsa { .. }) { 0x0001 } else { 0x0023 };
        let mut out = [&kind.to_be_bytes()[..], &self.name_hash().to_be_bytes()].concat();
        out.extend(attributes.to_be_bytes());
        out.extend(sized(&hash(self.name_hash(), &[b"policy"])));
        for part in [0x0006, self.aes_bits(), 0x0043, 0x0010] {
            out.extend(part.to_be_bytes());
        }
        match self {
            Ek::Rsa { modulus, .. } => {
                out.extend(2048_u16.to_be_bytes());
                out.extend(0_u32.to_be_bytes());
                out.extend(sized(modulus));
            }
            Ek::P256 { point, .. } => out.extend(ec_unique(3, point)),
            Ek::P384 { point, .. } => out.extend(ec_unique(4, point)),
        }
        out
    }

    /// TPM2_ActivateCredential with the object of this Name loaded: the secret, or nothing where a TPM says
    /// TPM_RC_INTEGRITY.
    pub fn activate(&self, id_object: &[u8], encrypted_secret: &[u8], name: &[u8]) -> Option<Vec<u8>> {
        let hash_id = self.name_hash();
        let seed = self.seed(&encrypted_secret[2..]);
        let (integrity, identity) = id_object[4..].split_at(usize::from(id_object[3]));
        let key = kdf_a(hash_id, &seed, "INTEGRITY", &[], hash(hash_id, &[]).len() * 8);
        if hmac_of(hash_id, &key, &[identity, name].concat()) != integrity {
            return None;
        }
        let key = kdf_a(hash_id, &seed, "STORAGE", name, self.aes_bits().into());
        let mut identity = identity.to_vec();
        let cipher = if key.len() == 16 { &AES_128 } else { &AES_256 };
        let key = DecryptingKey::cfb128(UnboundCipherKey::new(cipher, &key).unwrap()).unwrap();
        let start = DecryptionContext::Iv128(FixedLength::from([0; 16]));
        key.decrypt(&mut identity, start).unwrap();
        Some(identity[2..].to_vec())
    }

    fn seed(&self, encrypted: &[u8]) -> Vec<u8> {
        match self {
            Ek::Rsa { private, .. } => {
                let key = OaepPrivateDecryptingKey::new((**private).clone()).unwrap();
                let mut out = vec![0; key.min_output_size()];
                key.decrypt(&OAEP_SHA256_MGF1SHA256, encrypted, &mut out, Some(b"IDENTITY\0"))
                    .unwrap()
                    .to_vec()
            }
            Ek::P256 { private, point, .. } => self.agreed(&agreement::ECDH_P256, private, point, encrypted),
            Ek::P384 { private, point, .. } => self.agreed(&agreement::ECDH_P384, private, point, encrypted),
        }
    }

    fn agreed(
        &self,
        by: &'static agreement::Algorithm,
        private: &PrivateKey,
        point: &[u8],
        encrypted: &[u8],
    ) -> Vec<u8> {
        let length = usize::from(encrypted[1]);
        let (x, y) = (&encrypted[2..2 + length], &encrypted[4 + length..]);
        let theirs = UnparsedPublicKey::new(by, [&[4], x, y].concat());
        agree(private, theirs, (), |z| {
            Ok(hash(self.name_hash(), &[&1_u32.to_be_bytes(), z, b"IDENTITY\0", x, &point[1..=length]]))
        })
        .unwrap()
    }
}

fn ec(by: &'static agreement::Algorithm) -> (Box<PrivateKey>, Vec<u8>, Vec<u8>) {
    let private = PrivateKey::generate(by).unwrap();
    let _: EcPrivateKeyRfc5915Der<'_> = private.as_der().unwrap();
    let public = private.compute_public_key().unwrap();
    let spki: aws_lc_rs::encoding::PublicKeyX509Der<'_> = public.as_der().unwrap();
    let spki = spki.as_ref().to_vec();
    (Box::new(private), public.as_ref().to_vec(), spki)
}

fn kdf_a(hash_id: u16, key: &[u8], label: &str, u: &[u8], bits: usize) -> Vec<u8> {
    let (mut out, mut counter) = (Vec::new(), 1_u32);
    while out.len() < bits / 8 {
        let bits = u32::try_from(bits).unwrap().to_be_bytes();
        let parts = [&counter.to_be_bytes()[..], label.as_bytes(), &[0], u, &bits].concat();
        out.extend(hmac_of(hash_id, key, &parts));
        counter += 1;
    }
    out.truncate(bits / 8);
    out
}

fn hmac_of(hash_id: u16, key: &[u8], message: &[u8]) -> Vec<u8> {
    let by = if hash_id == SHA384 { hmac::HMAC_SHA384 } else { hmac::HMAC_SHA256 };
    hmac::sign(&hmac::Key::new(by, key), message).as_ref().to_vec()
}
