//! What the format `process` takes and refuses: the shared vectors, and one defect at a time.

use super::*;
use crate::denial::Denial;
use crate::evidence::cbor::{self, Value};
use crate::limits;
use crate::spiffe::{IdPattern, SpiffeId};
use crate::time::{BootTime, Now, WallTime};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

type Entries = Vec<(Value<'static>, Value<'static>)>;

const IAT: u64 = 1_790_000_000;

enum TestSigner {
    P256(EcdsaKeyPair, NodeKey),
    Ed25519(Ed25519KeyPair, NodeKey),
}

impl TestSigner {
    fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = NodeKey::from_p256_point(pair.public_key().as_ref()).unwrap();
        TestSigner::P256(pair, key)
    }

    fn ed25519() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = NodeKey::from_ed25519(pair.public_key().as_ref()).unwrap();
        TestSigner::Ed25519(pair, key)
    }
}

impl NodeSigner for TestSigner {
    fn public_key(&self) -> &NodeKey {
        match self {
            TestSigner::P256(_, key) | TestSigner::Ed25519(_, key) => key,
        }
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signature = match self {
            TestSigner::P256(pair, _) => pair.sign(&SystemRandom::new(), message).unwrap(),
            TestSigner::Ed25519(pair, _) => pair.sign(message),
        };
        signature.as_ref().try_into().map_err(|_| SignError)
    }
}

fn now(seconds: u64) -> Now {
    Now { wall: WallTime(seconds * 1000), boot: BootTime(1) }
}

fn identity() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/ns/pay/worker").unwrap()
}

fn good() -> Statement {
    Statement {
        binding: [7; 64],
        iat: IAT,
        node: "node-1.example".to_owned(),
        boot_id: "3f0c2a1e-7f1b-4c52-9d0e-6a5b8f3b9d11".to_owned(),
        process: ProcessClaims {
            executable: Executable {
                path: "/usr/bin/worker".to_owned(),
                sha256: [1; 32],
                fs_verity: Some(vec![2; 32]),
            },
            uid: 1000,
            gid: 1000,
            groups: vec![4, 24, 1000],
            arguments_sha256: [3; 32],
            cgroup: "/system.slice/worker.service".to_owned(),
            systemd_unit: Some("worker.service".to_owned()),
            container_id: Some("c".repeat(64)),
            start_time: 4242,
            program: vec![Program { path: "/srv/job.py".to_owned(), sha256: [5; 32] }],
        },
    }
}

fn enrolled(signer: &TestSigner) -> EnrolledNode {
    EnrolledNode {
        name: "node-1.example".to_owned(),
        public_key: signer.public_key().clone(),
        not_after: WallTime((IAT + 1000) * 1000),
        may_vouch_for: vec![IdPattern::parse("spiffe://example.org/ns/pay/*").unwrap()],
        measurements: Default::default(),
    }
}

/// The denial of one defect: everything else is as it should be.
fn denial(body: &[u8], node: EnrolledNode) -> Option<Denial> {
    let nodes = Nodes::new([node], 1);
    verify(body, &nodes, &[7; 64], &identity(), now(IAT)).err().map(|refusal| refusal.denial)
}

/// A body signed properly over whatever header and payload it is given.
fn sealed(signer: &TestSigner, protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let signature = signer.sign(&sign::signed_bytes(protected, payload)).unwrap();
    cose(&[Value::Bytes(protected), Value::Map(vec![]), Value::Bytes(payload), Value::Bytes(&signature)])
}

fn cose(parts: &[Value<'_>]) -> Vec<u8> {
    cbor::write(&Value::Sign1(Box::new(Value::Array(parts.to_vec()))))
}

fn header(signer: &TestSigner) -> Vec<u8> {
    let body = sign(&good(), signer).unwrap();
    parse(&body).unwrap().protected.to_vec()
}

/// The denial of a payload that was altered before it was signed.
fn denial_of_payload(alter: impl FnOnce(&mut Entries)) -> Option<Denial> {
    let signer = TestSigner::ed25519();
    let statement: &'static Statement = Box::leak(Box::new(good()));
    let Value::Map(mut entries) = sign::payload(statement) else { unreachable!() };
    alter(&mut entries);
    let payload = cbor::write(&Value::Map(entries));
    denial(&sealed(&signer, &header(&signer), &payload), enrolled(&signer))
}

fn field<'m>(entries: &'m mut Entries, key: &str) -> &'m mut Value<'static> {
    &mut entries.iter_mut().find(|(found, _)| *found == Value::Text(key)).unwrap().1
}

fn map<'m>(value: &'m mut Value<'static>) -> &'m mut Entries {
    let Value::Map(entries) = value else { unreachable!() };
    entries
}

fn remove(entries: &mut Entries, key: &Value<'_>) {
    let before = entries.len();
    entries.retain(|(found, _)| found != key);
    assert_eq!(entries.len() + 1, before);
}

#[test]
fn every_shared_vector_gets_its_verdict() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors/protocol/vectors.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{path} is absent under CI=true");
        eprintln!("NOT RUN: {path} is absent, so the shared `process` vectors were not tried");
        return;
    };
    let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = vectors["process"].as_array().unwrap();
    assert!(!cases.is_empty());
    let (mut accepted, mut refused) = (0, 0);
    for case in cases {
        let input = &case["in"];
        let bytes = |value: &serde_json::Value| hex::decode(value.as_str().unwrap()).unwrap();
        let node = |node: &serde_json::Value| {
            let public_key = NodeKey::from_spki(&bytes(&node["spki_der"])).unwrap();
            assert_eq!(public_key.key_id().to_vec(), bytes(&node["kid"]));
            EnrolledNode {
                name: node["node"].as_str().unwrap().to_owned(),
                public_key,
                not_after: WallTime(u64::MAX),
                may_vouch_for: vec![IdPattern::parse("spiffe://example.org/*").unwrap()],
                measurements: Default::default(),
            }
        };
        let nodes = Nodes::new(input["nodes"].as_array().unwrap().iter().map(node), 1);
        let binding = bytes(&input["binding"]).try_into().unwrap();
        let seconds = input["now"].as_str().unwrap().parse().unwrap();
        let verdict = verify(&bytes(&input["body"]), &nodes, &binding, &identity(), now(seconds));
        match case["expect"].as_str().unwrap() {
            "accept" => {
                let verified = verdict.unwrap_or_else(|refusal| panic!("{}: {refusal:?}", case["name"]));
                let payload = cbor::write(&sign::payload(verified.statement()));
                assert_eq!(payload, bytes(&case["out"]["payload"]), "{}", case["name"]);
                accepted += 1;
            }
            "reject" => {
                let refusal = verdict.expect_err(&case["name"].to_string());
                eprintln!("{}: {refusal:?}", case["name"]);
                refused += 1;
            }
            other => panic!("`{other}` is no verdict"),
        }
    }
    assert!(accepted > 0 && refused > 0);
}

#[test]
fn what_an_attester_signs_is_accepted_with_either_algorithm() {
    for signer in [TestSigner::p256(), TestSigner::ed25519()] {
        let body = sign(&good(), &signer).unwrap();
        let nodes = Nodes::new([enrolled(&signer)], 9);
        let verified = verify(&body, &nodes, &[7; 64], &identity(), now(IAT)).unwrap();
        assert_eq!(*verified.statement(), good());
        assert_eq!(verified.nodes_epoch(), 9);
        assert_eq!(verified.node_not_after(), WallTime((IAT + 1000) * 1000));
    }
}

#[test]
fn one_byte_changed_anywhere_is_denied() {
    for signer in [TestSigner::p256(), TestSigner::ed25519()] {
        let body = sign(&good(), &signer).unwrap();
        for at in 0..body.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut altered = body.clone();
                altered[at] ^= flip;
                let denial = denial(&altered, enrolled(&signer));
                let expected = [
                    Denial::EvidenceMalformed,
                    Denial::EndorsementUntrusted,
                    Denial::EvidenceSignatureInvalid,
                ];
                assert!(expected.contains(&denial.unwrap()), "byte {at}");
            }
        }
    }
}

#[test]
fn evidence_cut_at_any_length_or_followed_by_anything_is_denied() {
    let signer = TestSigner::p256();
    let body = sign(&good(), &signer).unwrap();
    for length in 0..body.len() {
        assert_eq!(denial(&body[..length], enrolled(&signer)), Some(Denial::EvidenceMalformed), "{length}");
    }
    for trailing in [&[0][..], &[0xff], &body] {
        let longer = [&body, trailing].concat();
        assert_eq!(denial(&longer, enrolled(&signer)), Some(Denial::EvidenceMalformed));
    }
    for garbage in [0x00, 0x81, 0xa1, 0xd2, 0x5b, 0x9b, 0xff] {
        let garbage = vec![garbage; 16 << 20];
        assert_eq!(denial(&garbage, enrolled(&signer)), Some(Denial::EvidenceMalformed));
        let cut = &garbage[..limits::DOCUMENT_BYTES];
        assert_eq!(denial(cut, enrolled(&signer)), Some(Denial::EvidenceMalformed));
    }
}

#[test]
fn another_frame_than_a_tagged_sign1_is_denied() {
    let signer = TestSigner::ed25519();
    let body = sign(&good(), &signer).unwrap();
    let parsed = parse(&body).unwrap();
    let (protected, payload) = (Value::Bytes(parsed.protected), Value::Bytes(parsed.payload));
    let (empty, signature) = (Value::Map(vec![]), Value::Bytes(&parsed.signature));
    let malformed = |body: &[u8]| denial(body, enrolled(&signer)) == Some(Denial::EvidenceMalformed);
    assert_eq!(
        denial(
            &cose(&[protected.clone(), empty.clone(), payload.clone(), signature.clone()]),
            enrolled(&signer)
        ),
        None
    );

    assert!(malformed(&body[1..]), "no tag");
    assert!(malformed(&[&[0xd1], &body[1..]].concat()), "tag 17, COSE_Mac0");
    assert!(malformed(&[&[0xd8, 0x12], &body[1..]].concat()), "tag 18 in two bytes");
    assert!(malformed(&[&[0xd2], &body[..]].concat()), "tagged twice");
    assert!(malformed(&[&[0xd8, 0x3d], &body[..]].concat()), "tag 61 (CWT) around it");
    let four = [protected.clone(), empty.clone(), payload.clone(), signature.clone()];
    assert!(malformed(&cose(&four[..3])), "three parts");
    assert!(malformed(&cose(&[&four[..], &[Value::Unsigned(0)]].concat())), "five parts");
    let kid = Value::Map(vec![(Value::Unsigned(4), Value::Bytes(b"x"))]);
    assert!(
        malformed(&cose(&[protected.clone(), kid, payload.clone(), signature.clone()])),
        "unprotected kid"
    );
    assert!(malformed(&cose(&[protected.clone(), Value::Array(vec![]), payload.clone(), signature.clone()])));
    assert!(malformed(&cose(&[protected.clone(), empty.clone(), payload.clone(), Value::Bytes(&[0; 63])])));
    assert!(malformed(&cose(&[protected.clone(), empty.clone(), payload.clone(), Value::Bytes(&[0; 65])])));
    assert!(malformed(&cose(&[protected, empty, payload, Value::Bytes(&[])])));
}

#[test]
fn another_protected_header_is_denied() {
    let signer = TestSigner::ed25519();
    let statement = good();
    let payload = cbor::write(&sign::payload(&statement));
    let key_id = signer.public_key().key_id();
    let of = |entries: Vec<(Value<'_>, Value<'_>)>| {
        denial(&sealed(&signer, &cbor::write(&Value::Map(entries)), &payload), enrolled(&signer))
    };
    let alg = |n| (Value::Unsigned(1), Value::Negative(n));
    let kid = |bytes| (Value::Unsigned(4), Value::Bytes(bytes));
    assert_eq!(of(vec![alg(7), kid(&key_id)]), None);
    for malformed in [
        vec![],
        vec![alg(7)],
        vec![kid(&key_id)],
        vec![alg(34), kid(&key_id)],
        vec![alg(18), kid(&key_id)],
        vec![(Value::Unsigned(1), Value::Unsigned(7)), kid(&key_id)],
        vec![(Value::Unsigned(1), Value::Text("EdDSA")), kid(&key_id)],
        vec![alg(7), kid(&key_id[..31])],
        vec![alg(7), kid(&[0; 33])],
        vec![alg(7), kid(&[])],
        vec![alg(7), (Value::Unsigned(4), Value::Text("kid"))],
        vec![alg(7), kid(&key_id), (Value::Unsigned(3), Value::Unsigned(0))],
        vec![alg(7), kid(&key_id), (Value::Unsigned(2), Value::Array(vec![Value::Unsigned(1)]))],
        vec![alg(7), kid(&key_id), (Value::Text("x"), Value::Unsigned(0))],
    ] {
        assert_eq!(of(malformed.clone()), Some(Denial::EvidenceMalformed), "{malformed:?}");
    }
    // alg that does not go with the key, though the key signed it.
    assert_eq!(of(vec![alg(6), kid(&key_id)]), Some(Denial::EvidenceSignatureInvalid));
    assert_eq!(of(vec![alg(7), kid(&[9; 32])]), Some(Denial::EndorsementUntrusted));
    let with_tail = [&header(&signer)[..], &[0]].concat();
    assert_eq!(
        denial(&sealed(&signer, &with_tail, &payload), enrolled(&signer)),
        Some(Denial::EvidenceMalformed)
    );
    assert_eq!(denial(&sealed(&signer, &[], &payload), enrolled(&signer)), Some(Denial::EvidenceMalformed));
}

#[test]
fn a_missing_key_is_denied_at_every_level() {
    assert_eq!(denial_of_payload(|_| ()), None);
    for key in [6, 10, 265] {
        let outcome = denial_of_payload(|payload| remove(payload, &Value::Unsigned(key)));
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key}");
    }
    for key in ["node", "boot_id", "process"] {
        let outcome = denial_of_payload(|payload| remove(payload, &Value::Text(key)));
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key}");
    }
    for key in ["executable", "uid", "gid", "groups", "arguments-sha-256", "cgroup", "start-time"] {
        let outcome = denial_of_payload(|payload| remove(map(field(payload, "process")), &Value::Text(key)));
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key}");
    }
    for key in ["path", "sha-256"] {
        let outcome = denial_of_payload(|payload| {
            remove(map(field(map(field(payload, "process")), "executable")), &Value::Text(key));
        });
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key}");
        let outcome = denial_of_payload(|payload| {
            let Value::Array(programs) = field(map(field(payload, "process")), "program") else {
                unreachable!()
            };
            remove(map(&mut programs[0]), &Value::Text(key));
        });
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key}");
    }
}

#[test]
fn what_may_be_absent_may_be_absent() {
    for key in ["systemd-unit", "container-id", "program"] {
        assert_eq!(
            denial_of_payload(|payload| remove(map(field(payload, "process")), &Value::Text(key))),
            None
        );
    }
    let outcome = denial_of_payload(|payload| {
        remove(map(field(map(field(payload, "process")), "executable")), &Value::Text("fs-verity"));
    });
    assert_eq!(outcome, None);
}

#[test]
fn an_unknown_key_is_denied_at_every_level() {
    let extra = || (Value::Text("zz"), Value::Unsigned(0));
    let numbered = || (Value::Unsigned(7), Value::Bytes(b"cti"));
    let malformed = Some(Denial::EvidenceMalformed);
    assert_eq!(denial_of_payload(|payload| payload.push(extra())), malformed);
    assert_eq!(denial_of_payload(|payload| payload.push(numbered())), malformed);
    assert_eq!(denial_of_payload(|payload| map(field(payload, "process")).push(extra())), malformed);
    assert_eq!(denial_of_payload(|payload| map(field(payload, "process")).push(numbered())), malformed);
    let outcome =
        denial_of_payload(|payload| map(field(map(field(payload, "process")), "executable")).push(extra()));
    assert_eq!(outcome, malformed);
    let outcome = denial_of_payload(|payload| {
        let Value::Array(programs) = field(map(field(payload, "process")), "program") else { unreachable!() };
        map(&mut programs[0]).push((Value::Text("fs-verity"), Value::Bytes(&[2; 32])));
    });
    assert_eq!(outcome, malformed);
}

#[test]
fn a_key_that_stands_twice_is_denied() {
    let twice = |payload: &mut Entries| payload.push(payload[0].clone());
    assert_eq!(denial_of_payload(twice), Some(Denial::EvidenceMalformed));
    let outcome = denial_of_payload(|payload| {
        map(field(payload, "process")).push((Value::Text("uid"), Value::Unsigned(0)));
    });
    assert_eq!(outcome, Some(Denial::EvidenceMalformed));
}

#[test]
fn a_value_of_another_type_length_or_range_is_denied() {
    let negative = Value::Negative(0);
    let wrong: &[(&'static str, Value<'static>)] = &[
        ("node", Value::Bytes(b"node-1.example")),
        ("node", Value::Text("")),
        ("boot_id", Value::Text("")),
        ("boot_id", Value::Text("3f0c2a1e7f1b4c529d0e6a5b8f3b9d11")),
        ("boot_id", Value::Text("3f0c2a1e-7f1b-4c52-9d0e-6a5b8f3b9d1g")),
        ("boot_id", Value::Bytes(&[0; 16])),
        ("process", Value::Array(vec![])),
        ("process", Value::Map(vec![])),
    ];
    for (key, value) in wrong {
        let outcome = denial_of_payload(|payload| *field(payload, key) = value.clone());
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key} {value:?}");
    }
    let wrong: &[(&'static str, Value<'static>)] = &[
        ("uid", negative.clone()),
        ("uid", Value::Unsigned(1 << 32)),
        ("uid", Value::Text("0")),
        ("gid", negative.clone()),
        ("gid", Value::Unsigned(1 << 32)),
        ("groups", Value::Unsigned(4)),
        ("groups", Value::Array(vec![Value::Unsigned(24), Value::Unsigned(4)])),
        ("groups", Value::Array(vec![Value::Unsigned(4), Value::Unsigned(4)])),
        ("groups", Value::Array(vec![negative.clone()])),
        ("groups", Value::Array(vec![Value::Text("adm")])),
        ("arguments-sha-256", Value::Bytes(&[0; 31])),
        ("arguments-sha-256", Value::Bytes(&[0; 33])),
        ("arguments-sha-256", Value::Bytes(&[])),
        ("arguments-sha-256", Value::Text("00")),
        ("cgroup", Value::Bytes(b"/")),
        ("cgroup", Value::Text("")),
        ("systemd-unit", Value::Text("")),
        ("systemd-unit", Value::Unsigned(0)),
        ("container-id", Value::Text("")),
        ("container-id", Value::Bytes(b"c")),
        ("start-time", negative),
        ("start-time", Value::Text("1")),
        ("executable", Value::Text("/usr/bin/worker")),
        ("program", Value::Map(vec![])),
        ("program", Value::Text("/srv/job.py")),
        ("program", Value::Array(vec![Value::Text("/srv/job.py")])),
    ];
    for (key, value) in wrong {
        let outcome =
            denial_of_payload(|payload| *field(map(field(payload, "process")), key) = value.clone());
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key} {value:?}");
    }
    let wrong: &[(&'static str, Value<'static>)] = &[
        ("path", Value::Bytes(b"/usr/bin/worker")),
        ("path", Value::Text("")),
        ("path", Value::Text("/usr/bin/worker (deleted)")),
        ("sha-256", Value::Bytes(&[0; 31])),
        ("sha-256", Value::Bytes(&[0; 33])),
        ("fs-verity", Value::Bytes(&[0; 33])),
        ("fs-verity", Value::Bytes(&[0; 48])),
        ("fs-verity", Value::Bytes(&[])),
        ("fs-verity", Value::Text("sha256:00")),
    ];
    for (key, value) in wrong {
        let outcome = denial_of_payload(|payload| {
            *field(map(field(map(field(payload, "process")), "executable")), key) = value.clone();
        });
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key} {value:?}");
    }
    let wrong: &[(u64, Value<'static>)] = &[
        (6, Value::Negative(0)),
        (6, Value::Text("1790000000")),
        (10, Value::Bytes(&[7; 63])),
        (10, Value::Bytes(&[7; 65])),
        (10, Value::Array(vec![Value::Bytes(&[7; 64])])),
        (265, Value::Text("urn:portcullis:process:2")),
        (265, Value::Text("urn:portcullis:process:1 ")),
        (265, Value::Text("")),
        (265, Value::Unsigned(1)),
    ];
    for (key, value) in wrong {
        let outcome = denial_of_payload(|payload| {
            payload.iter_mut().find(|(found, _)| *found == Value::Unsigned(*key)).unwrap().1 = value.clone();
        });
        assert_eq!(outcome, Some(Denial::EvidenceMalformed), "{key} {value:?}");
    }
}

#[test]
fn a_payload_that_is_not_deterministic_is_denied_though_it_is_signed() {
    let signer = TestSigner::ed25519();
    let statement = good();
    let payload = cbor::write(&sign::payload(&statement));
    let of = |payload: &[u8]| denial(&sealed(&signer, &header(&signer), payload), enrolled(&signer));
    let replaced = |from: &[u8], to: &[u8]| {
        let at = payload.windows(from.len()).position(|window| window == from).unwrap();
        [&payload[..at], to, &payload[at + from.len()..]].concat()
    };
    let malformed = Some(Denial::EvidenceMalformed);
    assert_eq!(of(&payload), None);
    assert_eq!(of(&[&payload[..], &[0]].concat()), malformed, "trailing");
    assert_eq!(of(&[&[0xb8, 6], &payload[1..]].concat()), malformed, "map head");
    assert_eq!(of(&[&[0xbf], &payload[1..], &[0xff]].concat()), malformed, "indefinite");
    assert_eq!(of(&replaced(b"\x63uid\x19\x03\xe8", b"\x63uid\x1a\x00\x00\x03\xe8")), malformed, "integer");
    assert_eq!(of(&replaced(b"\x63uid\x19\x03\xe8", b"\x63uid\xf9\x63\xd0")), malformed, "float");
    assert_eq!(of(&replaced(b"\x64node", b"\x78\x04node")), malformed, "text head");
    assert_eq!(of(&replaced(b"/usr/bin/worker", b"/usr/bin/w\xffrker")), malformed, "UTF-8");
    assert_eq!(of(b""), malformed);
    assert_eq!(of(b"\x80"), malformed);
}

#[test]
fn evidence_of_a_key_that_is_not_enrolled_is_denied() {
    let body = sign(&good(), &TestSigner::p256()).unwrap();
    assert_eq!(denial(&body, enrolled(&TestSigner::p256())), Some(Denial::EndorsementUntrusted));
    let outcome = verify(&body, &Nodes::default(), &[7; 64], &identity(), now(IAT));
    assert_eq!(outcome.unwrap_err().denial, Denial::EndorsementUntrusted);
}

#[test]
fn evidence_of_a_node_under_another_name_is_denied() {
    let signer = TestSigner::p256();
    let body = sign(&good(), &signer).unwrap();
    for name in ["node-2.example", "Node-1.example", "node-1.example.", "node-1.exampl"] {
        let node = EnrolledNode { name: name.to_owned(), ..enrolled(&signer) };
        assert_eq!(denial(&body, node), Some(Denial::EvidenceNodeMismatch));
    }
}

#[test]
fn evidence_for_another_binding_is_denied_whichever_byte_differs() {
    let signer = TestSigner::p256();
    let nodes = Nodes::new([enrolled(&signer)], 1);
    let body = sign(&good(), &signer).unwrap();
    for at in 0..64 {
        let mut due = [7; 64];
        due[at] ^= 1;
        let refusal = verify(&body, &nodes, &due, &identity(), now(IAT)).unwrap_err();
        assert_eq!(refusal.denial, Denial::EvidenceBindingMismatch);
    }
    let zero = sign(&Statement { binding: [0; 64], ..good() }, &signer).unwrap();
    let refusal = verify(&zero, &nodes, &[0; 64], &identity(), now(IAT)).unwrap_err();
    assert_eq!(refusal.denial, Denial::EvidenceBindingMismatch);
}

#[test]
fn evidence_too_old_or_from_the_future_is_denied() {
    let signer = TestSigner::p256();
    let nodes = Nodes::new([enrolled(&signer)], 1);
    let at = |iat: u64, wall: u64| {
        let body = sign(&Statement { iat, ..good() }, &signer).unwrap();
        let now = Now { wall: WallTime(wall), boot: BootTime(1) };
        verify(&body, &nodes, &[7; 64], &identity(), now).err().map(|refusal| refusal.denial)
    };
    let milliseconds = IAT * 1000;
    assert_eq!(at(IAT, milliseconds + 60_000), None);
    assert_eq!(at(IAT, milliseconds + 60_001), Some(Denial::EvidenceTooOld));
    assert_eq!(at(IAT, milliseconds - 30_000), None);
    assert_eq!(at(IAT, milliseconds - 30_001), Some(Denial::EvidenceFromFuture));
    assert_eq!(at(0, milliseconds), Some(Denial::EvidenceTooOld));
    assert_eq!(at(u64::MAX, milliseconds), Some(Denial::EvidenceFromFuture));
}

#[test]
fn a_node_past_its_enrolment_or_beyond_its_identities_is_denied() {
    let signer = TestSigner::p256();
    let body = sign(&good(), &signer).unwrap();
    let until = |not_after| EnrolledNode { not_after: WallTime(not_after), ..enrolled(&signer) };
    assert_eq!(denial(&body, until(IAT * 1000 + 1)), None);
    assert_eq!(denial(&body, until(IAT * 1000)), Some(Denial::EndorsementExpired));
    assert_eq!(denial(&body, until(0)), Some(Denial::EndorsementExpired));
    let for_ids = |ids: &[&str]| EnrolledNode {
        may_vouch_for: ids.iter().map(|id| IdPattern::parse(id).unwrap()).collect(),
        ..enrolled(&signer)
    };
    assert_eq!(denial(&body, for_ids(&["spiffe://example.org/ns/pay/worker"])), None);
    assert_eq!(denial(&body, for_ids(&[])), Some(Denial::EndorsementNotPermitted));
    let other = for_ids(&["spiffe://example.org/ns/ship/*", "spiffe://other.org/ns/pay/worker"]);
    assert_eq!(denial(&body, other), Some(Denial::EndorsementNotPermitted));
}

#[test]
fn the_subject_is_of_what_stays_and_of_nothing_that_changes_at_every_start() {
    let subject = good().subject();
    let differs = |alter: fn(&mut Statement)| {
        let mut statement = good();
        alter(&mut statement);
        statement.subject() != subject
    };
    assert!(differs(|s| s.node.push('x')));
    assert!(differs(|s| s.process.uid = 0));
    assert!(differs(|s| s.process.executable.path.push('x')));
    assert!(differs(|s| s.process.executable.sha256 = [0; 32]));
    assert!(differs(|s| s.process.arguments_sha256 = [0; 32]));
    assert!(differs(|s| s.process.program.clear()));
    assert!(differs(|s| s.process.program[0].sha256 = [0; 32]));
    assert!(differs(|s| s.process.program[0].path.push('x')));
    assert!(differs(|s| s.process.systemd_unit = None));
    assert!(differs(|s| s.process.systemd_unit = Some("other.service".to_owned())));
    assert!(!differs(|s| s.process.start_time = 1));
    assert!(!differs(|s| s.process.container_id = None));
    assert!(!differs(|s| s.boot_id = "x".to_owned()));
    assert!(!differs(|s| s.binding = [0; 64]));
}

#[test]
fn the_claims_read_as_policy_reads_them() {
    let claims = good().claims_json();
    assert_eq!(claims["node"], "node-1.example");
    assert_eq!(claims["executable_sha256"], "01".repeat(32));
    assert_eq!(claims["fs_verity"], "02".repeat(32));
    assert_eq!(claims["program_sha256"][0], "05".repeat(32));
    assert_eq!(claims["program_paths"][0], "/srv/job.py");
    assert_eq!(claims["groups"], serde_json::json!([4, 24, 1000]));
    let mut bare = good();
    bare.process.systemd_unit = None;
    assert!(bare.claims_json().get("systemd_unit").is_none());
}

proptest::proptest! {
    #[test]
    fn garbage_is_denied_without_a_panic(bytes: Vec<u8>, at in 0usize..400, junk: Vec<u8>) {
        assert!(parse(&bytes).is_err());
        let signer = TestSigner::ed25519();
        let mut body = sign(&good(), &signer).unwrap();
        let end = (at + junk.len()).min(body.len());
        let original = body.clone();
        body.splice(at..end, junk);
        if body != original {
            assert!(denial(&body, enrolled(&signer)).is_some());
        }
    }
}
