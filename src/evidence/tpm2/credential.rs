//! MakeCredential in software: a secret that only the TPM with this EK gives out, and only where it holds this AK too.
//!
//! *Takes* an [`EndorsementKey`], the AK's Name, the secret. *Gives* [`Credential`], for TPM2_ActivateCredential. *Denies*
//! nothing itself. *Source*: TCG TPM 2.0 Library part 1 §11.4.10 (KDFa, KDFe), §24 (credential protection), annexes B.10.4
//! (RSA: OAEP) and C.7.4 (ECDH); RFC 8017 §7.1; NIST SP 800-108, SP 800-56A.

use super::algorithm::Hash;
use super::key::EndorsementKey;
use super::public::{AkName, Curve, PublicKey};
use super::wire::{put_sized, sized};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepPublicEncryptingKey,
    PublicEncryptingKey,
};
use zeroize::Zeroizing;

/// What TPM2_ActivateCredential takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT.
    pub id_object: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Vec<u8>,
}

/// There is no random number, or the key cannot be encrypted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the credential could not be made")]
pub struct NotMade;

/// Makes a credential of `secret` for the object with this Name, under the EK.
pub fn make(ek: &EndorsementKey, name: &AkName, secret: &[u8]) -> Result<Credential, NotMade> {
    let hash = ek.public().name_hash;
    let (seed, encrypted_seed) = match &ek.public().key {
        PublicKey::Rsa(_) => rsa_seed(ek, hash)?,
        PublicKey::Ec(curve, point) => ec_seed(*curve, point, hash)?,
    };
    let key = kdf_a(hash, &seed, "STORAGE", name.as_bytes(), &[], usize::from(ek.symmetric_bits()));
    let mut identity = Zeroizing::new(sized(secret));
    encrypt_cfb(&key, &mut identity)?;
    let key = kdf_a(hash, &seed, "INTEGRITY", &[], &[], hash.bytes().saturating_mul(8));
    let mut id_object = sized(&hash.hmac(&key, &[&identity, name.as_bytes()]));
    id_object.extend_from_slice(&identity);
    Ok(Credential { id_object: sized(&id_object), encrypted_secret: sized(&encrypted_seed) })
}

type Seed = Zeroizing<Vec<u8>>;

/// A random seed, encrypted by OAEP with the label "IDENTITY", its terminating zero included.
fn rsa_seed(ek: &EndorsementKey, hash: Hash) -> Result<(Seed, Vec<u8>), NotMade> {
    let mut seed = Zeroizing::new(vec![0; hash.bytes()]);
    SystemRandom::new().fill(&mut seed).map_err(|_| NotMade)?;
    let key = PublicEncryptingKey::from_der(&ek.public().key.spki()).map_err(|_| NotMade)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| NotMade)?;
    let algorithm = match hash {
        Hash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        Hash::Sha384 => &OAEP_SHA384_MGF1SHA384,
        Hash::Sha512 => &OAEP_SHA512_MGF1SHA512,
    };
    let mut encrypted = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, &seed, &mut encrypted, Some(b"IDENTITY\0")).map_err(|_| NotMade)?;
    Ok((seed, encrypted))
}

/// A seed agreed on with a fresh key of ours, whose point is what the TPM is sent.
fn ec_seed(curve: Curve, point: &[u8], hash: Hash) -> Result<(Seed, Vec<u8>), NotMade> {
    let algorithm = match curve {
        Curve::P256 => &agreement::ECDH_P256,
        Curve::P384 => &agreement::ECDH_P384,
    };
    let ours = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new()).map_err(|_| NotMade)?;
    let our_point = ours.compute_public_key().map_err(|_| NotMade)?.as_ref().to_vec();
    let (our_x, our_y) = coordinates(curve, &our_point)?;
    let (their_x, _) = coordinates(curve, point)?;
    let theirs = UnparsedPublicKey::new(algorithm, point);
    let seed = agree_ephemeral(ours, theirs, NotMade, |shared_x| {
        Ok(kdf_e(hash, shared_x, "IDENTITY", our_x, their_x))
    })?;
    let mut sent = sized(our_x);
    put_sized(&mut sent, our_y);
    Ok((seed, sent))
}

fn coordinates(curve: Curve, point: &[u8]) -> Result<(&[u8], &[u8]), NotMade> {
    point.strip_prefix(&[4]).and_then(|both| both.split_at_checked(curve.bytes())).ok_or(NotMade)
}

/// KDFa: HMAC in counter mode. Bits that do not fill a byte are the low ones of the first.
pub(super) fn kdf_a(hash: Hash, key: &[u8], label: &str, u: &[u8], v: &[u8], bits: usize) -> Seed {
    let bytes = bits.div_ceil(8);
    let (mut out, mut counter) = (Zeroizing::new(Vec::new()), 0_u32);
    let length = u32::try_from(bits).unwrap_or(u32::MAX).to_be_bytes();
    while out.len() < bytes {
        counter = counter.saturating_add(1);
        let parts = [&counter.to_be_bytes()[..], label.as_bytes(), &[0], u, v, &length];
        out.extend_from_slice(&hash.hmac(key, &parts));
    }
    out.truncate(bytes);
    if let (Some(first), spare @ 1..) = (out.first_mut(), bytes.saturating_mul(8).saturating_sub(bits)) {
        *first &= 0xff_u8.checked_shr(u32::try_from(spare).unwrap_or(0)).unwrap_or(0);
    }
    out
}

/// KDFe for as many bits as the hash has: one round of it.
fn kdf_e(hash: Hash, shared: &[u8], label: &str, u: &[u8], v: &[u8]) -> Seed {
    Zeroizing::new(hash.digest(&[&1_u32.to_be_bytes(), shared, label.as_bytes(), &[0], u, v]))
}

/// AES in CFB mode from an IV of zeros, which is sound here: the key is used once.
fn encrypt_cfb(key: &[u8], identity: &mut [u8]) -> Result<(), NotMade> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let key = UnboundCipherKey::new(algorithm, key).map_err(|_| NotMade)?;
    let key = EncryptingKey::cfb128(key).map_err(|_| NotMade)?;
    let start = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    key.less_safe_encrypt(identity, start).map(|_| ()).map_err(|_| NotMade)
}
