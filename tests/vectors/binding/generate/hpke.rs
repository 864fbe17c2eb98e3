//! HPKE base mode with a known ephemeral key: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
//!
//! *Takes* keys, info and a plaintext. *Gives* the encapsulated key and the ciphertext. *Denies* nothing.
//! *Source*: RFC 9180 §4.1, §5.1, §5.2; RFC 5869.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

pub fn public_key(private: &[u8; 32]) -> [u8; 32] {
    let key = PrivateKey::from_private_key(&X25519, private).unwrap();
    key.compute_public_key().unwrap().as_ref().try_into().unwrap()
}

pub fn seal(
    recipient: &[u8; 32],
    ephemeral: &[u8; 32],
    info: &[u8],
    plaintext: &[u8],
) -> ([u8; 32], Vec<u8>) {
    let key = PrivateKey::from_private_key(&X25519, ephemeral).unwrap();
    let peer = UnparsedPublicKey::new(&X25519, recipient);
    let dh = agree(&key, peer, (), |secret| Ok(secret.to_vec())).unwrap();
    let encapsulated = public_key(ephemeral);
    let kem = [b"KEM".as_slice(), &0x0020_u16.to_be_bytes()].concat();
    let eae = labeled_extract(&kem, &[], b"eae_prk", &dh);
    let shared = labeled_expand(&kem, &eae, b"shared_secret", &[encapsulated, *recipient].concat(), 32);

    let suite = [b"HPKE".as_slice(), &[0x00, 0x20, 0x00, 0x01, 0x00, 0x02]].concat();
    let context = [
        vec![0x00],
        labeled_extract(&suite, &[], b"psk_id_hash", &[]),
        labeled_extract(&suite, &[], b"info_hash", info),
    ]
    .concat();
    let secret = labeled_extract(&suite, &shared, b"secret", &[]);
    let key = labeled_expand(&suite, &secret, b"key", &context, 32);
    let nonce = labeled_expand(&suite, &secret, b"base_nonce", &context, 12);
    let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let mut sealed = plaintext.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce.try_into().unwrap());
    aead.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed).unwrap();
    (encapsulated, sealed)
}

fn labeled_extract(suite: &[u8], salt: &[u8], label: &[u8], input: &[u8]) -> Vec<u8> {
    let input = [b"HPKE-v1", suite, label, input].concat();
    // No salt is HashLen zeros, which HMAC makes of an empty key.
    sign(&Key::new(HMAC_SHA256, salt), &input).as_ref().to_vec()
}

fn labeled_expand(suite: &[u8], key: &[u8], label: &[u8], info: &[u8], length: u8) -> Vec<u8> {
    // At most 32 bytes are asked for here, so one block of HKDF-Expand is enough.
    let info = [&[0, length], b"HPKE-v1".as_slice(), suite, label, info, &[1]].concat();
    sign(&Key::new(HMAC_SHA256, key), &info).as_ref()[..length.into()].to_vec()
}
