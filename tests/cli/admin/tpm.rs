//! The enrolment of a TPM in software: what its node writes between the administrator's two steps.

use super::{Act, soft};
use crate::world::{World, write};
use std::sync::LazyLock;

/// One TPM for all of a test's runs.
static TPM: LazyLock<(soft::Ek, soft::Ak)> = LazyLock::new(|| (soft::Ek::p256(), soft::Ak::p256()));

/// The arguments of the first step; its challenge is a new file for each lease.
pub(super) fn begin(world: &World, lease: &str) -> String {
    let (ek, ak) = &*TPM;
    let ek_sha256 = hex::encode(soft::hash(soft::SHA256, &[ek.spki()]));
    let request = serde_json::json!({
        "kind": "portcullis tpm request 1",
        "ek": "ecc-p256",
        "ek_public": hex::encode(ek.public()),
        "ek_sha256": ek_sha256,
        "ak_public": hex::encode(ak.public()),
        "ak_name": hex::encode(ak.name()),
    });
    write(&world.at("tpm.request"), request.to_string(), 0o644);
    let root = world.root.display();
    format!(
        "node enroll node-2 --tpm {root}/tpm.request --out {root}/challenge-{lease} --ek-sha256 {ek_sha256}"
    )
}

/// The arguments of the second.
pub(super) fn finish(world: &World, lease: &str) -> String {
    format!("node enroll node-2 --proof {}/proof-{lease}", world.root.display())
}

/// Before the second step: the node opens the challenge, where there is one.
pub(super) fn prove(world: &World, act: &Act) {
    if act.words != "node enrol proof" {
        return;
    }
    let proof = act.arguments.last().unwrap();
    let challenge = proof.replace("proof-", "challenge-");
    let (id, answer) = match std::fs::read(challenge) {
        Ok(challenge) => opened(&serde_json::from_slice(&challenge).unwrap()),
        Err(_) => ("none".to_owned(), Vec::new()),
    };
    let content =
        serde_json::json!({ "kind": "portcullis tpm proof 1", "id": id, "answer": hex::encode(answer) });
    write(std::path::Path::new(proof), content.to_string(), 0o644);
    assert!(proof.starts_with(world.root.to_str().unwrap()));
}

fn opened(challenge: &serde_json::Value) -> (String, Vec<u8>) {
    let (ek, ak) = &*TPM;
    let bytes = |name: &str| hex::decode(challenge[name].as_str().unwrap()).unwrap();
    let answer = ek.activate(&bytes("id_object"), &bytes("encrypted_secret"), &ak.name());
    (challenge["id"].as_str().unwrap().to_owned(), answer.unwrap())
}
