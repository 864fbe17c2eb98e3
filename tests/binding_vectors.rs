//! The published vectors: made anew they come out as they stand, and the broker has their verdicts.
//!
//! *Takes* `tests/vectors/binding/`. *Gives* nothing; with `PORTCULLIS_WRITE_VECTORS=1` the files anew. *Denies* nothing.
//! *Source*: `tests/vectors/binding/README.md`.
#![cfg(feature = "server")]
#![allow(
    clippy::type_complexity,
    clippy::ptr_arg,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests run on known input"
)]

#[path = "vectors/binding/generate.rs"]
mod generate;

use aws_lc_rs::digest::{SHA256, digest};
use portcullis::challenge::binding::{Binding, Inputs, encode_request, preimage};
use portcullis::evidence::process::{
    EnrolledNode, NodeKey, NodeSigner, Nodes, Refusal, SignError, VerifiedStatement, sign, verify,
};
use portcullis::proto::v1;
use portcullis::release::sealing::{Recipient, Sealed, seal};
use portcullis::request::{RecipientKey, ReleaseRequest};
use portcullis::spiffe::{IdPattern, SpiffeId};
use portcullis::time::{BootTime, Now, WallTime};
use serde_json::Value;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/binding")).join(name)
}

fn published(name: &str) -> Option<Value> {
    std::fs::read(path(name)).ok().map(|text| serde_json::from_slice(&text).unwrap())
}

fn cases(file: &str, list: &str) -> Vec<Value> {
    let cases = published(file).unwrap()[list].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| text(value).parse().unwrap())
}

#[test]
fn the_files_come_out_as_they_stand() {
    let write = std::env::var("PORTCULLIS_WRITE_VECTORS").is_ok_and(|value| value == "1");
    for (name, made) in generate::files(published) {
        let made = serde_json::to_string_pretty(&made).unwrap() + "\n";
        if write {
            std::fs::write(path(name), &made).unwrap();
        }
        let stands = std::fs::read_to_string(path(name)).unwrap();
        assert!(
            stands == made,
            "{name} is not what generate.rs makes; if it is meant: PORTCULLIS_WRITE_VECTORS=1"
        );
    }
}

fn request_of(given: &Value) -> ReleaseRequest {
    let secret = |secret: &Value| v1::SecretRequest {
        path: text(&secret["path"]).to_owned(),
        parameters: secret["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|parameter| (text(&parameter["key"]).to_owned(), bytes(&parameter["value"])))
            .collect(),
    };
    let names = given["channel_bindings"].as_array().unwrap().iter();
    ReleaseRequest::parse(v1::Open {
        secrets: given["secrets"].as_array().unwrap().iter().map(secret).collect(),
        recipient_key: bytes(&given["recipient_key"]),
        ttl_seconds: number(&given["ttl_seconds"]).try_into().unwrap(),
        hold: given["hold"].as_bool().unwrap(),
        channel_bindings: names.map(|name| text(name).to_owned()).collect(),
    })
    .unwrap()
}

#[test]
fn published_bindings_come_out_byte_for_byte() {
    for case in cases("binding.json", "cases") {
        let (given, gives, name) = (&case["given"], &case["gives"], &case["name"]);
        let request = request_of(given);
        let inputs = Inputs {
            nonce: &bytes(&given["nonce"]).try_into().unwrap(),
            round: number(&given["round"]),
            channel: &bytes(&given["channel"]),
            client_spki_sha256: &generate::sha256(&bytes(&given["client_spki"])),
            client_id: &SpiffeId::parse(text(&given["client_id"])).unwrap(),
            audience: text(&given["audience"]),
            request: &request,
        };
        assert_eq!(hex::encode(encode_request(&request)), gives["request"], "{name}");
        assert_eq!(hex::encode(preimage(&inputs)), gives["preimage"], "{name}");
        assert_eq!(hex::encode(Binding::compute(&inputs).as_bytes()), gives["binding"], "{name}");
    }
}

fn binding(value: &Value) -> Binding {
    Binding::from(<[u8; 64]>::try_from(bytes(value)).unwrap())
}

#[test]
fn the_published_composite_comes_out() {
    for case in cases("binding.json", "composite") {
        let bound =
            binding(&case["given"]["binding"]).bound_to_process(&bytes(&case["given"]["process_body"]));
        assert_eq!(hex::encode(bound), case["gives"]["bound"]);
        assert_eq!(hex::encode(digest(&SHA256, &bound)), case["gives"]["tpm2_extra_data"]);
    }
}

fn info(given: &Value) -> Vec<u8> {
    let (path, lease) = (text(&given["path"]), text(&given["lease_id"]));
    binding(&given["binding"]).sealing_info(path, number(&given["version"]), lease)
}

#[test]
fn published_sealed_secrets_open_and_broken_ones_do_not() {
    let sealed = |from: &Value| Sealed {
        encapsulated_key: bytes(&from["encapsulated_key"]),
        ciphertext: bytes(&from["ciphertext"]),
    };
    let recipient = |given: &Value| Recipient::from_private(&bytes(&given["recipient_private_key"]));
    for case in cases("sealing.json", "opens") {
        let (given, gives) = (&case["given"], &case["gives"]);
        assert_eq!(hex::encode(info(given)), gives["info"], "{}", case["name"]);
        let opened = recipient(given).open(&sealed(gives), &info(given));
        assert_eq!(hex::encode(&*opened.unwrap()), given["plaintext"], "{}", case["name"]);
    }
    for case in cases("sealing.json", "does_not_open") {
        let given = &case["given"];
        assert!(recipient(given).open(&sealed(given), &info(given)).is_err(), "{}", case["name"]);
    }
}

#[test]
fn published_recipient_keys_have_their_verdicts() {
    for case in cases("sealing.json", "recipient_keys") {
        let key = RecipientKey::parse(&bytes(&case["given"]));
        assert_eq!(key.is_ok(), case["verdict"] == "accept", "{}", case["name"]);
        if let Ok(key) = key {
            assert!(seal(&key, b"info", b"plaintext").is_ok(), "{}", case["name"]);
        }
    }
}

fn nodes(file: &Value) -> Nodes {
    let node = |node: &Value| EnrolledNode {
        name: text(&node["name"]).to_owned(),
        public_key: NodeKey::from_spki(&bytes(&node["spki"])).unwrap(),
        not_after: WallTime(number(&node["not_after"]) * 1000),
        may_vouch_for: vec![IdPattern::parse(text(&node["may_vouch_for"][0])).unwrap()],
        measurements: Default::default(),
    };
    Nodes::new(file["nodes"].as_array().unwrap().iter().map(node), 1)
}

fn verdict(file: &Value, case: &Value) -> Result<VerifiedStatement, Refusal> {
    let identity = SpiffeId::parse(text(&file["identity"])).unwrap();
    let now = Now { wall: WallTime(number(&case["given"]["now"]) * 1000), boot: BootTime(1) };
    let due = bytes(&file["binding"]).try_into().unwrap();
    verify(&bytes(&case["given"]["body"]), &nodes(file), &due, &identity, now)
}

#[test]
fn published_process_documents_have_their_verdicts() {
    let file = published("process.json").unwrap();
    for case in cases("process.json", "cases") {
        let denial = verdict(&file, &case).err().map(|refusal| refusal.denial.name());
        assert_eq!(denial, case["denial"].as_str(), "{}", case["name"]);
        assert_eq!(denial.is_none(), case["verdict"] == "accept", "{}", case["name"]);
    }
}

/// A signer that gives the published signature: then the whole document must come out.
struct Published {
    key: NodeKey,
    signature: [u8; 64],
    message: Vec<u8>,
}

impl NodeSigner for Published {
    fn public_key(&self) -> &NodeKey {
        &self.key
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        assert_eq!(message, self.message, "what is signed");
        Ok(self.signature)
    }
}

#[test]
fn accepted_process_documents_come_out_of_the_attesters_own_code() {
    let file = published("process.json").unwrap();
    let mut compared = 0;
    for case in cases("process.json", "cases") {
        let (Ok(verified), false) = (verdict(&file, &case), case["name"] == "es256_twin") else { continue };
        let named = |node: &&Value| node["name"] == verified.statement().node.as_str();
        let node = file["nodes"].as_array().unwrap().iter().find(named).unwrap();
        let signer = Published {
            key: NodeKey::from_spki(&bytes(&node["spki"])).unwrap(),
            signature: bytes(&case["signed"]["signature"]).try_into().unwrap(),
            message: bytes(&case["signed"]["message"]),
        };
        let body = sign(verified.statement(), &signer).unwrap();
        assert_eq!(hex::encode(body), case["given"]["body"], "{}", case["name"]);
        compared += 1;
    }
    assert!(compared >= 5, "{compared} documents");
}
