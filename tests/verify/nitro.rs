//! `nitro`: real documents at their own times, synthetic ones under their own root.

use crate::desk::{ACCEPTABLE, Desk, REFUSED, UNDECIDED, at, at_ms, json, read, vectors, verify};
use crate::nitro_kit::Chain;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use std::path::PathBuf;

/// What the README says of each document: the file, its `timestamp`, the end of its leaf, whether it is in debug mode.
fn described(folder: &std::path::Path) -> Vec<(PathBuf, u64, u64, bool)> {
    let readme = String::from_utf8(read(folder.join("README.md"))).unwrap();
    let sections =
        readme.split("\n### ").skip(1).filter(|section| section.lines().next().unwrap().ends_with(".cbor"));
    let describe = |section: &str| {
        let line =
            |start: &str| section.lines().find_map(|line| line.strip_prefix(start)).unwrap().to_owned();
        let valid = line("- valid: now in [");
        let (window, rest) = valid.split_once(']').unwrap();
        let end = window.split_once(", ").unwrap().1.parse().unwrap();
        let timestamp =
            rest.split_once("timestamp ").unwrap().1.strip_suffix(" ms").unwrap().parse().unwrap();
        let debug = line("- expected verdict:").contains("debug");
        (folder.join(section.lines().next().unwrap()), timestamp, end, debug)
    };
    sections.map(describe).collect()
}

#[test]
fn every_real_document_gets_its_verdict_at_its_own_time() {
    let Some(folder) = vectors("nitro") else { return };
    let all = described(&folder);
    assert!(all.len() >= 5);
    for (path, timestamp, end, debug) in all {
        let asked = || verify("nitro", &path).with("--at", at_ms(timestamp));
        let found = asked().run();
        match debug {
            true => drop(found.refused("PlatformNotAcceptable")),
            false => {
                let found = found.accepted();
                assert_eq!(found.json["holds_until"]["what"], "document timestamp");
                assert_eq!(found.json["holds_until"]["end"], at_ms(timestamp + 300_001));
                assert_eq!(found.json["freshness"], "not-shown");
                assert_eq!(found.json["measurements"], "not-compared");
            }
        }
        verify("nitro", &path).with("--at", at(end)).run().refused("EndorsementExpired");
        verify("nitro", &path).with("--at", at_ms(timestamp + 300_001)).run().refused("EvidenceTooOld");
        verify("nitro", &path).run().refused("EndorsementExpired");
        asked().with("--binding", "07".repeat(64)).run().refused("EvidenceBindingMismatch");
    }
}

#[test]
fn a_real_document_is_fresh_for_the_nonce_that_it_carries() {
    let Some(folder) = vectors("nitro") else { return };
    let (path, timestamp, ..) = described(&folder).remove(1);
    let asked = || verify("nitro", &path).with("--at", at_ms(timestamp));
    let claims = asked().run().accepted();
    let nonce = claims.claims("nitro")["nonce"].as_str().unwrap().to_owned();
    let found = asked().with("--nonce", &nonce).run().accepted();
    assert_eq!(found.json["freshness"], "shown");
    assert!(found.passed().contains(&"nitro binding".to_owned()));
    asked().with("--nonce", &nonce[2..]).run().refused("EvidenceBindingMismatch");
}

#[test]
fn every_synthetic_case_gets_its_verdict() {
    let Some(folder) = vectors("nitro") else { return };
    let file = json(folder.join("synthetic.json"));
    let desk = Desk::new();
    desk.put("roots/root.der", hex::decode(file["root_der_hex"].as_str().unwrap()).unwrap());
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 59);
    for case in cases {
        let (name, expect) = (case["name"].as_str().unwrap(), case["expect"].as_str().unwrap());
        let body = BASE64_STANDARD.decode(case["doc_b64"].as_str().unwrap()).unwrap();
        let asked = verify("nitro", desk.put("document", body)).with("--roots", desk.path("roots"));
        let found = asked.with("--at", at(file["now"].as_u64().unwrap())).run();
        match expect {
            "accept" => assert_eq!(found.code, ACCEPTABLE, "{name}: {found:?}"),
            "reject" | "reject-by-policy" => assert_eq!(found.code, REFUSED, "{name}: {found:?}"),
            "either" => assert_ne!(found.code, UNDECIDED, "{name}: {found:?}"),
            other => panic!("{name}: {other}"),
        }
    }
}

/// A document under a test root, and how it is asked about.
struct Synthetic {
    desk: Desk,
    body: Vec<u8>,
}

const MADE: u64 = 1_790_000_000;

impl Synthetic {
    fn new() -> Self {
        let (desk, chain) = (Desk::new(), Chain::new(MADE));
        desk.put("roots/root.der", &chain.root);
        let body = chain.attest(&[7; 64], MADE * 1000);
        desk.put("document", &body);
        Synthetic { desk, body }
    }

    fn asked(&self) -> crate::desk::Asked {
        let asked = verify("nitro", self.desk.path("document")).with("--roots", self.desk.path("roots"));
        asked.with("--at", at(MADE)).with("--binding", "07".repeat(64))
    }

    fn reference(&self, text: &str) -> crate::desk::Found {
        self.asked().with("--reference", self.desk.put("values.toml", text)).run()
    }
}

fn set(not_after: &str, pcr0: &str) -> String {
    format!(
        "[[set]]\nname = \"a\"\nworkload = \"spiffe://example.org/a\"\nnot_after = {not_after}\n[set.nitro.pcrs]\n0 = [\"{pcr0}\"]\n"
    )
}

#[test]
fn reference_values_decide_where_they_are_given() {
    let synthetic = Synthetic::new();
    let claims = synthetic.asked().run().accepted();
    let pcr0 = claims.claims("nitro")["pcrs"]["0"].as_str().unwrap().to_owned();
    let found = synthetic.reference(&set("2027-01-01T00:00:00Z", &pcr0)).accepted();
    assert_eq!(found.json["measurements"], "compared");
    assert_eq!(found.json["freshness"], "shown");
    assert_eq!(found.json["reference_set"], "a");
    assert_eq!(found.json["notes"], serde_json::json!([]));
    let ends = found.json["ends"].as_array().unwrap();
    assert!(
        ends.iter().any(|end| end["what"] == "reference set `a`" && end["end"] == "2027-01-01T00:00:00.000Z")
    );

    let other = "ab".repeat(48);
    let differs = synthetic.reference(&set("2027-01-01T00:00:00Z", &other)).refused("MeasurementMismatch");
    assert_eq!(differs.json["decided_by"]["set"], "a");
    assert!(differs.json["decided_by"]["detail"].as_str().unwrap().contains("PCR0"));
    // At its end it counts no more, and one that goes on does.
    let ended = set(&at(MADE), &pcr0);
    synthetic.reference(&ended).undecided("ReferenceValuesExpired");
    let both = ended + &set("2027-01-01T00:00:00Z", &pcr0).replace("\"a\"", "\"b\"");
    assert_eq!(synthetic.reference(&both).accepted().json["reference_set"], "b");
    let only = synthetic.asked().with("--reference", synthetic.desk.path("values.toml")).with("--set", "a");
    only.run().undecided("ReferenceValuesExpired");
    // A set that says nothing of the format, and one that wants a document more.
    let head = "[[set]]\nname = \"a\"\nnot_after = 2027-01-01T00:00:00Z\n";
    let process = "[set.process]\nexecutables = [{ sha256 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" }]\n";
    synthetic.reference(&format!("{head}{process}")).undecided("ReferenceValuesMissing");
    let two = set("2027-01-01T00:00:00Z", &pcr0) + process;
    let refused = synthetic.reference(&two).refused("MeasurementMismatch");
    assert!(refused.json["decided_by"]["detail"].as_str().unwrap().contains("without a `process` document"));
    // The same in JSON.
    let json = serde_json::json!({ "set": [{
        "name": "a", "not_after": "2027-01-01T00:00:00Z", "nitro": { "pcrs": { "0": [pcr0] } }
    }] });
    let path = synthetic.desk.put("values.json", json.to_string());
    synthetic.asked().with("--reference", path).run().accepted();
}

#[test]
fn a_byte_flipped_or_cut_off_is_refused() {
    let synthetic = Synthetic::new();
    for position in (0..synthetic.body.len()).step_by(83) {
        let mut body = synthetic.body.clone();
        body[position] ^= 1;
        synthetic.desk.put("document", body);
        assert_eq!(synthetic.asked().run().code, REFUSED, "byte {position}");
    }
    for length in (0..synthetic.body.len()).step_by(331) {
        synthetic.desk.put("document", &synthetic.body[..length]);
        synthetic.asked().run().refused("EvidenceMalformed");
    }
    synthetic.desk.put("document", [&synthetic.body[..], &[0]].concat());
    synthetic.asked().run().refused("EvidenceMalformed");
}

#[test]
fn only_the_roots_that_are_given_count() {
    let synthetic = Synthetic::new();
    let other = Chain::new(MADE);
    synthetic.desk.put("roots/root.der", &other.root);
    synthetic.asked().run().refused("EndorsementUntrusted");
    let asked = verify("nitro", synthetic.desk.path("document")).with("--at", at(MADE));
    asked.run().refused("EndorsementUntrusted");
}
