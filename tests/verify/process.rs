//! `process`: the published documents, by the node keys that stand beside them.

use crate::desk::{ACCEPTABLE, Asked, Desk, REFUSED, at, json, vectors, verify};
use serde_json::Value;

fn cases() -> Option<Vec<Value>> {
    let file = json(vectors("protocol")?.join("vectors.json"));
    Some(file["process"].as_array().unwrap().clone())
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// The case's document with its nodes' keys, at its own time, with no binding yet.
fn asked(desk: &Desk, case: &Value) -> Asked {
    let mut asked = verify("process", desk.put("document", bytes(&case["in"]["body"])));
    for node in case["in"]["nodes"].as_array().unwrap() {
        let name = node["node"].as_str().unwrap();
        asked = asked.named("--node-key", name, &desk.put(name, bytes(&node["spki_der"])));
    }
    asked.with("--at", at(case["in"]["now"].as_str().unwrap().parse().unwrap()))
}

#[test]
fn every_published_document_gets_its_verdict() {
    let Some(cases) = cases() else { return };
    assert!(cases.len() >= 13);
    let desk = Desk::new();
    for case in &cases {
        let name = &case["name"];
        let found = asked(&desk, case).with("--binding", case["in"]["binding"].as_str().unwrap()).run();
        match case["expect"].as_str().unwrap() {
            "accept" => {
                assert_eq!(found.code, ACCEPTABLE, "{name}: {found:?}");
                assert_eq!(found.json["freshness"], "shown");
                assert_eq!(found.json["holds_until"]["what"], "statement's age");
            }
            "reject" => assert_eq!(found.code, REFUSED, "{name}: {found:?}"),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn age_key_and_name_are_looked_at() {
    let Some(cases) = cases() else { return };
    let (desk, case) = (Desk::new(), &cases[0]);
    let found = asked(&desk, case).run().accepted();
    assert_eq!(found.json["freshness"], "not-shown");
    let again = |seconds: u64| {
        let asked = verify("process", desk.path("document")).with("--at", at(seconds));
        asked.named("--node-key", "node-1.example", &desk.path("node-1.example")).run()
    };
    let now: u64 = case["in"]["now"].as_str().unwrap().parse().unwrap();
    again(now).accepted();
    again(now + 61).refused("EvidenceTooOld");
    again(now - 31).refused("EvidenceFromFuture");
    let other_name = verify("process", desk.path("document")).with("--at", at(now));
    let other_name = other_name.named("--node-key", "node-9.example", &desk.path("node-1.example"));
    other_name.run().refused("EvidenceNodeMismatch");
    let other_key = verify("process", desk.path("document")).with("--at", at(now));
    other_key
        .named("--node-key", "node-1.example", &desk.path("node-2.example"))
        .run()
        .refused("EndorsementUntrusted");
    // The same key in PEM.
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let base64 = BASE64_STANDARD.encode(bytes(&case["in"]["nodes"][0]["spki_der"]));
    let pem =
        desk.put("node.pem", format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n"));
    let by_pem = verify("process", desk.path("document")).with("--at", at(now));
    by_pem.named("--node-key", "node-1.example", &pem).run().accepted();
}

#[test]
fn reference_values_decide_what_may_run() {
    let Some(cases) = cases() else { return };
    let (desk, case) = (Desk::new(), &cases[0]);
    let claims = asked(&desk, case).run().accepted();
    let sha256 = claims.claims("process")["executable_sha256"].as_str().unwrap().to_owned();
    let run = |sha256: &str, more: &str| {
        let text = format!(
            "[[set]]\nname = \"a\"\nnot_after = 2030-01-01T00:00:00Z\n[set.process]\nexecutables = [{{ sha256 = \"{sha256}\" }}]\n{more}"
        );
        asked(&desk, case).with("--reference", desk.put("values.toml", text)).run()
    };
    run(&sha256, "").accepted();
    run(&"ab".repeat(32), "").refused("MeasurementMismatch");
    run(&sha256, "uids = [0]\n").refused("MeasurementMismatch");
    run(&sha256, "launcher = true\n").usage("launcher");
    run(&sha256, "no_such_key = 1\n").usage("values.toml");
}

#[test]
fn every_byte_flipped_is_refused() {
    let Some(cases) = cases() else { return };
    let (desk, case) = (Desk::new(), &cases[0]);
    let body = bytes(&case["in"]["body"]);
    for position in (0..body.len()).step_by(11) {
        let mut case = case.clone();
        let mut flipped = body.clone();
        flipped[position] ^= 1;
        case["in"]["body"] = hex::encode(flipped).into();
        assert_eq!(asked(&desk, &case).run().code, REFUSED, "byte {position}");
    }
    for length in (0..body.len()).step_by(53) {
        let mut case = case.clone();
        case["in"]["body"] = hex::encode(&body[..length]).into();
        asked(&desk, &case).run().refused("EvidenceMalformed");
    }
}
