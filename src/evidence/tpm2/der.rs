//! The little DER that keys and signatures of a TPM are turned into.
//!
//! *Takes* numbers and points, as a TPM gives them. *Gives* SubjectPublicKeyInfos and ECDSA signatures. *Denies* nothing.
//! *Source*: ITU-T X.690 §8, §10; RFC 3279 §2.2.3, §2.3.1; RFC 5480 §2.

/// The SubjectPublicKeyInfo of an RSA key.
pub(super) fn rsa_spki(modulus: &[u8], exponent: u32) -> Vec<u8> {
    let key = element(SEQUENCE, &[integer(modulus), integer(&exponent.to_be_bytes())].concat());
    spki(RSA_ENCRYPTION, &key)
}

/// The SubjectPublicKeyInfo of an uncompressed point of P-256.
pub(super) fn p256_spki(point: &[u8]) -> Vec<u8> {
    spki(EC_P256, point)
}

/// The SubjectPublicKeyInfo of an uncompressed point of P-384.
pub(super) fn p384_spki(point: &[u8]) -> Vec<u8> {
    spki(EC_P384, point)
}

/// Ecdsa-Sig-Value: the library takes every pair of curve and hash in this form only.
pub(super) fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[integer(r), integer(s)].concat())
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = element(BIT_STRING, &[&[0][..], key].concat());
    element(SEQUENCE, &[algorithm, &bits].concat())
}

/// A non-negative INTEGER, in its shortest form.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let digits = bytes.get(start..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_none_or(|first| first & 0x80 != 0) { &[0] } else { &[] };
    element(INTEGER, &[sign, digits].concat())
}

/// A DER element; its content is some hundred bytes at most here.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head: &[u8] = match length {
        [0, short @ 0..=0x7f] => &[tag, short],
        [0, long] => &[tag, 0x81, long],
        [high, low] => &[tag, 0x82, high, low],
    };
    [head, content].concat()
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// AlgorithmIdentifier { rsaEncryption, NULL }.
const RSA_ENCRYPTION: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// AlgorithmIdentifier { id-ecPublicKey, prime256v1 }.
const EC_P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07,
];
/// AlgorithmIdentifier { id-ecPublicKey, secp384r1 }.
const EC_P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22,
];
