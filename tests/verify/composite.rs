//! Hardware evidence beside a `process` document: bound to it, and of one node.

use crate::desk::{Asked, Desk, at, json, vectors, verify};
use crate::nitro_kit::Chain;
use crate::tpm2_kit::{self as kit, Ak, Quote};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use portcullis::challenge::binding::Binding;
use portcullis::evidence::process::{
    Executable, NodeKey, NodeSigner, ProcessClaims, SignError, Statement, sign,
};

const NOW: u64 = 1_790_000_000;
const BINDING: [u8; 64] = [7; 64];

/// A node's key, in the test's hands.
struct Node {
    pair: EcdsaKeyPair,
    public: NodeKey,
}

impl NodeSigner for Node {
    fn public_key(&self) -> &NodeKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SignError)?;
        signature.as_ref().try_into().map_err(|_| SignError)
    }
}

fn node() -> Node {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let public = NodeKey::from_p256_point(pair.public_key().as_ref()).unwrap();
    Node { pair, public }
}

fn statement(node: &Node, uid: u32) -> Vec<u8> {
    let process = ProcessClaims {
        executable: Executable { path: "/usr/bin/pay".to_owned(), sha256: [0xaa; 32], fs_verity: None },
        uid,
        gid: 1,
        groups: Vec::new(),
        arguments_sha256: [1; 32],
        cgroup: "/system.slice/pay.service".to_owned(),
        systemd_unit: None,
        container_id: None,
        start_time: 1,
        program: Vec::new(),
    };
    let boot_id = "4c0c2a1e-7f1b-4c52-9d0e-6a5b8f3b9d11".to_owned();
    let statement =
        Statement { binding: BINDING, iat: NOW, node: "node-1.example".to_owned(), boot_id, process };
    sign(&statement, node).unwrap()
}

/// A node with its TPM, a process on it, and what both say for one binding.
struct Machine {
    desk: Desk,
    node: Node,
    ak: Ak,
    process: Vec<u8>,
}

impl Machine {
    fn new() -> Self {
        let (desk, node, ak) = (Desk::new(), node(), Ak::p256());
        let process = statement(&node, 1);
        desk.put("process", &process);
        desk.put("node", node.public.spki());
        desk.put("ak", ak.public());
        let machine = Machine { desk, node, ak, process };
        machine.quote(&Binding::from(BINDING).bound_to_process(&machine.process));
        machine
    }

    fn quote(&self, bound: &[u8]) {
        self.desk.put("quote", Quote::of(&kit::hash(kit::SHA256, &[bound])).signed(&self.ak));
    }

    fn asked(&self, ak_node: &str) -> Asked {
        let asked = verify("tpm2", self.desk.path("quote")).named("--ak", ak_node, &self.desk.path("ak"));
        let asked = asked.named("--node-key", "node-1.example", &self.desk.path("node"));
        asked.with("--composite-with", self.desk.path("process")).with("--at", at(NOW))
    }

    fn bound(&self) -> Asked {
        self.asked("node-1.example").with("--binding", hex::encode(BINDING))
    }
}

#[test]
fn a_quote_vouches_for_the_statement_that_it_stands_beside() {
    let machine = Machine::new();
    let found = machine.bound().run().accepted();
    for check in ["process binding", "tpm2 binding", "all one-node"] {
        assert!(found.passed().contains(&check.to_owned()), "{check} in {:?}", found.passed());
    }
    assert_eq!(found.claims("process")["uid"], 1);
    assert_eq!(found.claims("tpm2")["node"], "node-1.example");
    assert_eq!(found.json["holds_until"]["what"], "process: statement's age");
}

#[test]
fn without_a_binding_they_must_still_belong_together() {
    let machine = Machine::new();
    let found = machine.asked("node-1.example").run().accepted();
    assert_eq!(found.json["freshness"], "not-shown");
    assert!(found.passed().contains(&"tpm2 binding".to_owned()));
    machine.desk.put("process", statement(&machine.node, 2));
    machine.asked("node-1.example").run().refused("EvidenceBindingMismatch");
}

#[test]
fn good_documents_that_do_not_belong_together_are_refused() {
    let machine = Machine::new();
    // The plain binding is refused there.
    machine.quote(&BINDING);
    let refused = machine.bound().run().refused("EvidenceBindingMismatch");
    assert_eq!(refused.json["decided_by"]["document"], "tpm2");
    // A statement about another process, by the same node, for the same binding.
    machine.quote(&Binding::from(BINDING).bound_to_process(&machine.process));
    machine.desk.put("process", statement(&machine.node, 2));
    machine.bound().run().refused("EvidenceBindingMismatch");
    // The AK of another node.
    let machine = Machine::new();
    let other = machine.asked("node-2.example").with("--binding", hex::encode(BINDING)).run();
    assert_eq!(other.refused("EvidenceNodeMismatch").why().1, "one-node");
    // Which node the AK is of has to be said.
    let unnamed = verify("tpm2", machine.desk.path("quote")).with("--ak", machine.desk.path("ak"));
    let unnamed = unnamed.named("--node-key", "node-1.example", &machine.desk.path("node"));
    unnamed.with("--composite-with", machine.desk.path("process")).run().usage("NAME=FILE");
    // A statement that does not verify.
    machine.desk.put("process", statement(&node(), 1));
    let refused = machine.bound().run().refused("EndorsementUntrusted");
    assert_eq!(refused.json["decided_by"]["document"], "process");
}

#[test]
fn a_set_must_fit_both_documents() {
    let machine = Machine::new();
    let claims = machine.bound().run().accepted();
    let pcr0 = claims.claims("tpm2")["pcrs"]["sha256"]["0"].as_str().unwrap().to_owned();
    let run = |executable: &str, pcr0: &str| {
        let text = format!(
            "[[set]]\nname = \"a\"\nnot_after = 2030-01-01T00:00:00Z\n[set.process]\nexecutables = [{{ sha256 = \"{executable}\" }}]\n[set.tpm2.pcrs.sha256]\n0 = [\"{pcr0}\"]\n"
        );
        machine.bound().with("--reference", machine.desk.put("values.toml", text)).run()
    };
    run(&"aa".repeat(32), &pcr0).accepted();
    let process = run(&"ab".repeat(32), &pcr0).refused("MeasurementMismatch");
    assert_eq!(process.json["decided_by"]["document"], "process");
    let tpm2 = run(&"aa".repeat(32), &"ab".repeat(32)).refused("MeasurementMismatch");
    assert_eq!(tpm2.json["decided_by"]["document"], "tpm2");
}

#[test]
fn other_hardware_is_bound_the_same_way() {
    let (machine, chain) = (Machine::new(), Chain::new(NOW));
    machine.desk.put("roots/root.der", &chain.root);
    let run = |bound: &[u8]| {
        let document = machine.desk.put("document", chain.attest(bound, NOW * 1000));
        let asked =
            verify("nitro", document).with("--roots", machine.desk.path("roots")).with("--at", at(NOW));
        let asked = asked.named("--node-key", "node-1.example", &machine.desk.path("node"));
        let asked = asked.with("--composite-with", machine.desk.path("process"));
        asked.with("--binding", hex::encode(BINDING)).run()
    };
    let found = run(&Binding::from(BINDING).bound_to_process(&machine.process)).accepted();
    let notes = found.json["notes"].to_string();
    assert!(notes.contains("enrolment pins"), "{notes}");
    run(&BINDING).refused("EvidenceBindingMismatch");
}

#[test]
fn the_published_composite_comes_out() {
    let Some(folder) = vectors("protocol") else { return };
    let file = json(folder.join("vectors.json"));
    let (bound, case) = (&file["bound"][0], &file["process"][0]);
    let bytes = |value: &serde_json::Value| hex::decode(value.as_str().unwrap()).unwrap();
    let (desk, ak) = (Desk::new(), Ak::p256());
    let quote = Quote::of(&bytes(&bound["out"]["tpm2_extra_data"])).signed(&ak);
    let asked = verify("tpm2", desk.put("quote", quote)).named(
        "--ak",
        "node-1.example",
        &desk.put("ak", ak.public()),
    );
    let asked = asked.with("--composite-with", desk.put("process", bytes(&bound["in"]["process_body"])));
    let node = desk.put("node", bytes(&case["in"]["nodes"][0]["spki_der"]));
    let asked = asked.named("--node-key", "node-1.example", &node);
    let asked = asked.with("--binding", bound["in"]["binding"].as_str().unwrap());
    asked.with("--at", at(case["in"]["now"].as_str().unwrap().parse().unwrap())).run().accepted();
}
