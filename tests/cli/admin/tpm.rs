//! The enrolment of a TPM in software: what its node writes between the administrator's two steps.

use super::{Act, act, soft, with_sev_snp};
use crate::people::{proposed, two};
use crate::world::{Place, World, write};
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

#[test]
fn a_tpms_key_that_was_proven_is_enrolled_once_a_second_administrator_approved_it() {
    let place = Place::new();
    with_sev_snp(&place, "");
    let world = World::over(place);
    world.make_node_key("second");
    world.enrol("node-2", "second", &[]).must(0);
    two(&world);
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // Asking a TPM for a proof is one person's still.
    let begun = words(begin(&world, "one"));
    world.admin(&begun.iter().map(String::as_str).collect::<Vec<_>>()).must(0);
    let finished = act("node enrol proof", "", &finish(&world, "one"));
    prove(&world, &finished);
    let arguments: Vec<&str> = finished.arguments.iter().map(String::as_str).collect();
    let waits = proposed(&world, "etc/ada", &arguments);
    let name = hex::encode(TPM.1.name());
    let listed = || world.admin(&["node", "list"]).must(0).text();
    assert!(!listed().contains(&name), "a proposal changes nothing");
    // The answer was good once, though it waits; whoever gave it does not approve it.
    world.admin(&arguments).must(1);
    assert!(world.admin(&["pending", "approve", &waits]).must(75).stderr.contains("SECOND_PERSON_NEEDED"));
    let shown = world.admin_as("bob", &["pending", "show", &waits]).must(0).text();
    assert!(shown.contains(&name), "{shown}");
    world.admin_as("bob", &["pending", "approve", &waits]).must(0);
    let text = listed();
    assert!(text.contains(&format!("attestation key {name}")) && text.contains("by ada at"), "{text}");
    world.admin_as("bob", &["pending", "approve", &waits]).must(1);
}
