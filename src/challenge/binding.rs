//! The evidence binding: 64 bytes that only this request on this connection can have.
//!
//! *Takes* what both sides know of a request. *Gives* [`Binding`]. *Denies* nothing: it is compared elsewhere.
//! *Source*: `protocol.md` "The evidence binding"; RFC 9334 §10.2 (freshness), RFC 9266 (channel binding).

use crate::limits;
use crate::request::ReleaseRequest;
use crate::spiffe::SpiffeId;
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use std::fmt;
use subtle::ConstantTimeEq;

/// What evidence must carry to count for one request: SHA-512 over all that makes the request this one.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding([u8; limits::BINDING_BYTES]);

/// Everything that goes into a binding; each part has its reason in `protocol.md`.
pub struct Inputs<'a> {
    /// The challenge's nonce: freshness.
    pub nonce: &'a [u8; limits::NONCE_BYTES],
    /// The challenge's round.
    pub round: u64,
    /// The TLS exporter, 32 bytes, or empty with channel binding `none`: relay.
    pub channel: &'a [u8],
    /// SHA-256 of the client leaf's SPKI DER: reflection.
    pub client_spki_sha256: &'a [u8; 32],
    /// The client's SPIFFE ID, as in its certificate.
    pub client_id: &'a SpiffeId,
    /// The broker's SPIFFE ID: diversion.
    pub audience: &'a str,
    /// What was asked, as sent; the recipient key is in it.
    pub request: &'a ReleaseRequest,
}

impl Binding {
    /// Computes the binding.
    pub fn compute(inputs: &Inputs<'_>) -> Binding {
        Binding::of_preimage(&preimage(inputs))
    }

    fn of_preimage(preimage: &[u8]) -> Binding {
        let mut bytes = [0; limits::BINDING_BYTES];
        bytes.copy_from_slice(digest(&SHA512, preimage).as_ref());
        Binding(bytes)
    }

    /// The 64 bytes.
    pub fn as_bytes(&self) -> &[u8; limits::BINDING_BYTES] {
        &self.0
    }

    /// Whether `presented` is this binding: all 64 bytes, in constant time.
    pub fn equals(&self, presented: &[u8]) -> bool {
        self.0.ct_eq(presented).into()
    }

    /// What hardware evidence carries where a `process` document of this body stands beside it, so that the hardware
    /// vouches for the statement; the plain binding is refused there.
    pub fn bound_to_process(&self, process_body: &[u8]) -> [u8; limits::BINDING_BYTES] {
        let mut text = Vec::new();
        prefixed(&mut text, b"portcullis.v1 composite");
        prefixed(&mut text, &self.0);
        prefixed(&mut text, digest(&SHA256, process_body).as_ref());
        Binding::of_preimage(&text).0
    }

    /// The `info` of HPKE for one sealed secret; `self` is the binding of round 0.
    pub fn sealing_info(&self, path: &str, version: u64, lease_id: &str) -> Vec<u8> {
        let mut info = Vec::new();
        prefixed(&mut info, b"portcullis.v1 sealed secret");
        prefixed(&mut info, &self.0);
        prefixed(&mut info, path.as_bytes());
        info.extend_from_slice(&version.to_be_bytes());
        prefixed(&mut info, lease_id.as_bytes());
        info
    }
}

impl From<[u8; limits::BINDING_BYTES]> for Binding {
    /// For vectors and the attester, which is handed one; a binding by itself proves nothing.
    fn from(bytes: [u8; limits::BINDING_BYTES]) -> Self {
        Binding(bytes)
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Binding")
    }
}

/// What SHA-512 is taken of.
pub fn preimage(inputs: &Inputs<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    prefixed(&mut text, b"portcullis.v1 evidence binding");
    prefixed(&mut text, inputs.nonce);
    text.extend_from_slice(&inputs.round.to_be_bytes());
    prefixed(&mut text, inputs.channel);
    prefixed(&mut text, inputs.client_spki_sha256);
    prefixed(&mut text, inputs.client_id.as_str().as_bytes());
    prefixed(&mut text, inputs.audience.as_bytes());
    prefixed(&mut text, inputs.request.recipient_key().as_bytes());
    prefixed(&mut text, digest(&SHA256, &encode_request(inputs.request)).as_ref());
    text
}

/// The request as it goes into the binding: everything as sent.
pub fn encode_request(request: &ReleaseRequest) -> Vec<u8> {
    let mut text = Vec::with_capacity(256);
    text.extend_from_slice(&request.ttl_seconds().to_be_bytes());
    text.push(u8::from(request.hold()));
    text.extend_from_slice(&length(request.channel_bindings().len()));
    for name in request.channel_bindings() {
        prefixed(&mut text, name.as_bytes());
    }
    text.extend_from_slice(&length(request.secrets().len()));
    for secret in request.secrets() {
        prefixed(&mut text, secret.path.as_str().as_bytes());
        text.extend_from_slice(&length(secret.parameters.len()));
        for (key, value) in &secret.parameters {
            prefixed(&mut text, key.as_bytes());
            prefixed(&mut text, value);
        }
    }
    text
}

/// `lp(x)`: u32 big-endian length, then the bytes.
fn prefixed(text: &mut Vec<u8>, part: &[u8]) {
    text.extend_from_slice(&length(part.len()));
    text.extend_from_slice(part);
}

/// Every part is bounded far below 4 GiB by `limits`; a longer one could only collide with another too long one.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;
    use crate::release::sealing::{Recipient, Sealed, seal};
    use crate::request::RecipientKey;
    use serde_json::Value;

    fn vectors() -> Option<Value> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors/protocol/vectors.json");
        match std::fs::read(path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
            Err(error) => {
                println!("WARNING: the protocol vectors are absent ({error}): their cases were not checked");
                assert!(std::env::var("CI").is_err(), "in CI the vectors must be there");
                None
            }
        }
    }

    fn bytes(value: &Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap()).unwrap()
    }

    fn open_of(case: &Value) -> v1::Open {
        let secret = |secret: &Value| v1::SecretRequest {
            path: secret["path"].as_str().unwrap().into(),
            parameters: secret["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .map(|pair| (pair[0].as_str().unwrap().to_owned(), bytes(&pair[1])))
                .collect(),
        };
        v1::Open {
            secrets: case["secrets"].as_array().unwrap().iter().map(secret).collect(),
            recipient_key: bytes(&case["recipient_key"]),
            ttl_seconds: case["ttl_seconds"].as_u64().unwrap() as u32,
            hold: case["hold"].as_bool().unwrap(),
            channel_bindings: case["channel_bindings"]
                .as_array()
                .unwrap()
                .iter()
                .map(|name| name.as_str().unwrap().to_owned())
                .collect(),
        }
    }

    #[test]
    fn bindings_of_the_independent_implementation_come_out_byte_for_byte() {
        let Some(vectors) = vectors() else { return };
        for case in vectors["binding"].as_array().unwrap() {
            let (input, out) = (&case["in"], &case["out"]);
            let request = ReleaseRequest::parse(open_of(input)).unwrap();
            let spki_hash = digest(&SHA256, &bytes(&input["client_spki_der"]));
            let inputs = Inputs {
                nonce: &bytes(&input["nonce"]).try_into().unwrap(),
                round: input["round"].as_str().unwrap().parse().unwrap(),
                channel: &bytes(&input["channel"]),
                client_spki_sha256: spki_hash.as_ref().try_into().unwrap(),
                client_id: &SpiffeId::parse(input["client_spiffe_id"].as_str().unwrap()).unwrap(),
                audience: input["audience"].as_str().unwrap(),
                request: &request,
            };
            assert_eq!(hex::encode(encode_request(&request)), out["request"], "{}", case["name"]);
            assert_eq!(hex::encode(preimage(&inputs)), out["preimage"], "{}", case["name"]);
            assert_eq!(hex::encode(Binding::compute(&inputs).as_bytes()), out["binding"], "{}", case["name"]);
            let chosen = request.choose_channel_binding(true).unwrap();
            assert_eq!(chosen.name(), input["channel_binding"], "{}", case["name"]);
        }
    }

    #[test]
    fn sealed_secrets_of_the_independent_implementation_open_and_broken_ones_do_not() {
        let Some(vectors) = vectors() else { return };
        for (list, opens) in [("sealing", true), ("not_opening", false)] {
            for case in vectors[list].as_array().unwrap() {
                let (input, sealed) = (&case["in"], if opens { &case["out"] } else { &case["in"] });
                let binding = Binding(bytes(&input["binding"]).try_into().unwrap());
                let version = input["version"].as_str().unwrap().parse().unwrap();
                let text = |name: &str| input[name].as_str().unwrap().to_owned();
                let info = binding.sealing_info(&text("path"), version, &text("lease_id"));
                let sealed = Sealed {
                    encapsulated_key: bytes(&sealed["encapsulated_key"]),
                    ciphertext: bytes(&sealed["ciphertext"]),
                };
                let recipient = Recipient::from_private(&bytes(&input["recipient_private_key"]));
                let opened = recipient.open(&sealed, &info);
                assert_eq!(opened.is_ok(), opens, "{}", case["name"]);
                if let Ok(plaintext) = opened {
                    assert_eq!(hex::encode(&*plaintext), input["plaintext"], "{}", case["name"]);
                }
            }
        }
    }

    #[test]
    fn recipient_keys_of_the_independent_implementation_have_its_verdicts() {
        let Some(vectors) = vectors() else { return };
        for case in vectors["recipient_key"].as_array().unwrap() {
            let accepted = RecipientKey::parse(&bytes(&case["in"]["recipient_key"])).is_ok();
            assert_eq!(accepted, case["expect"] == "accept", "{}", case["name"]);
        }
    }

    #[test]
    fn the_composite_binding_of_the_independent_implementation_comes_out() {
        let Some(vectors) = vectors() else { return };
        for case in vectors["bound"].as_array().unwrap() {
            let binding = Binding(bytes(&case["in"]["binding"]).try_into().unwrap());
            let bound = binding.bound_to_process(&bytes(&case["in"]["process_body"]));
            assert_eq!(hex::encode(bound), case["out"]["bound"]);
            assert_eq!(hex::encode(digest(&SHA256, &bound)), case["out"]["tpm2_extra_data"]);
        }
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_info_alone() {
        let recipient = Recipient::generate().unwrap();
        let key = RecipientKey::parse(recipient.public_key()).unwrap();
        let sealed = seal(&key, b"info", b"secret").unwrap();
        assert_eq!(recipient.open(&sealed, b"info").unwrap().as_slice(), b"secret");
        assert!(recipient.open(&sealed, b"other").is_err());
        assert!(Recipient::generate().unwrap().open(&sealed, b"info").is_err());
    }
}
