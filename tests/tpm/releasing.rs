//! Releases with a node's quote beside its statement, and every way in which the quote is not good enough.

use crate::lab::{Lab, OTHER, address, extend};
use crate::swtpm::Swtpm;
use crate::world::{BROKER, NODE, OPEN, VALUE, copy_directory};
use futures_util::future::BoxFuture;
use portcullis::agent::tpm::{AkKind, AkSource, Quoter, Selection};
use portcullis::challenge::binding::Binding;
use portcullis::client::{self, AttestError, Attester, ReleaseError, SocketAttester};
use portcullis::proto::v1::Evidence;
use portcullis::spiffe::SpiffeId;
use std::sync::Mutex;

#[test]
fn a_secret_is_released_by_get_and_exec_with_a_quote_beside_the_statement() {
    let Some(lab) = Lab::ready() else { return };
    lab.released();
    let ended = lab.world.exec(&[&format!("--secret={OPEN}:value=A")], "printf %s \"$A\"").must(0);
    assert_eq!(ended.stdout, VALUE);
    for record in lab.world.records(&["--kind", "released"]) {
        let case = &record["event"]["case"];
        assert_eq!((&case["node"], &case["claims"]["tpm2"]["node"]), (&NODE.into(), &NODE.into()), "{case}");
        assert!(case["claims"]["process"].is_object(), "{case}");
    }
    let log = std::fs::read_to_string(lab.world.at("agent.log")).unwrap();
    assert!(log.contains("the TPM quotes"), "{log}");
}

#[test]
fn a_set_that_speaks_of_the_boot_is_not_met_without_a_quote_nor_a_node_that_is_enrolled_to_come_with_one() {
    let Some(mut lab) = Lab::ready() else { return };
    lab.world.stop_agent();
    lab.world.start_agent(&["--node", NODE, "--key", &lab.world.path("node.key")]);
    lab.refused("MeasurementMismatch", "tpm2");
    lab.world.enrol(NODE, "node", &["--replace", "--measurement", "tpm2"]).must(0);
    lab.refused("EvidenceNodeMismatch", "enrolled to come with a `tpm2` document");
    let listed = lab.world.admin(&["node", "list"]).must(0).text();
    assert!(listed.contains("comes with tpm2"), "{listed}");
    lab.attest();
    lab.released();
}

#[test]
fn an_attestation_key_that_is_not_enrolled_or_was_removed_is_refused() {
    let Some(mut lab) = Lab::new() else { return };
    lab.attest();
    lab.refused("EndorsementUntrusted", "attestation key");
    lab.world.stop_agent();
    lab.enroll(NODE, &lab.tpm, &[]).must(0);
    lab.attest();
    lab.released();
    let nodes = lab.world.admin(&["node", "list", "--output", "json"]).must(0).json();
    let node = nodes["nodes"].as_array().unwrap().iter().find(|node| node["name"] == NODE).unwrap();
    let ak = node["attestation_keys"][0]["name"].as_str().unwrap().to_owned();
    lab.world.admin(&["node", "remove", NODE, "--ak", &format!("{}00", &ak[..ak.len() - 2])]).must(1);
    lab.world.admin(&["node", "remove", OTHER, "--ak", &ak]).must(1);
    lab.world.admin(&["node", "remove", NODE, "--ak", &ak]).must(0);
    lab.refused("EndorsementUntrusted", &ak);
    // It stays removed.
    lab.world.stop();
    lab.world.start();
    lab.refused("EndorsementUntrusted", &ak);
}

#[test]
fn a_removed_node_takes_its_attestation_keys_along() {
    let Some(mut lab) = Lab::ready() else { return };
    lab.released();
    lab.world.admin(&["node", "remove", NODE]).must(0);
    lab.refused("EndorsementUntrusted", "is not enrolled");
    // Its own key alone brings nothing of the TPM back.
    lab.world.enrol_node();
    lab.refused("EndorsementUntrusted", "attestation key");
    lab.world.stop_agent();
    lab.enroll(NODE, &lab.tpm, &[]).must(0);
    lab.attest();
    lab.released();
}

#[test]
fn good_documents_of_two_nodes_are_not_one_whichever_way_they_are_mixed() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(second) = Swtpm::start() else { return };
    extend(&second, b"secure boot");
    lab.enroll(NODE, &lab.tpm, &[]).must(0);
    let request = lab.files();
    let refused = lab.begin(OTHER, &second, &request, &[]).must(1);
    let hash = ek_sha256(&request.request);
    assert!(refused.stderr.contains("EndorsementUntrusted"), "{refused:?}");
    lab.enroll(OTHER, &second, &["--ek-sha256", &hash]).must(0);
    lab.attest_as(NODE, "node", &address(&second));
    lab.refused("EvidenceNodeMismatch", "another node");
    let first = address(&lab.tpm);
    lab.attest_as(OTHER, "other", &first);
    lab.refused("EvidenceNodeMismatch", "another node");
    lab.attest_as(OTHER, "other", &address(&second));
    lab.released();
    lab.attest();
    lab.released();
}

fn ek_sha256(request: &std::path::Path) -> String {
    let request: serde_json::Value = serde_json::from_slice(&std::fs::read(request).unwrap()).unwrap();
    request["ek_sha256"].as_str().unwrap().to_owned()
}

#[test]
fn a_machine_that_booted_something_else_is_refused_until_the_reference_says_so() {
    let Some(mut lab) = Lab::ready() else { return };
    lab.released();
    lab.world.stop_agent();
    extend(&lab.tpm, b"a boot kit");
    lab.attest();
    lab.refused("MeasurementMismatch", "PCR 7");
    lab.refer(&[b"secure boot", b"a boot kit"]);
    lab.released();
}

/// What a quote is to be of: of the binding, and the statement beside it.
type Bound = fn(&[u8; 64], &Evidence) -> [u8; 64];

/// The node's attester for the statement, and its TPM for a quote of something else than what is due.
struct Meddler {
    statements: SocketAttester,
    quoter: Mutex<Quoter>,
    bound: Bound,
}

impl Attester for Meddler {
    fn attest<'a>(
        &'a self,
        binding: &'a [u8; 64],
        _formats: &'a [String],
    ) -> BoxFuture<'a, Result<Evidence, AttestError>> {
        Box::pin(async move {
            let mut evidence = self.statements.attest(binding, &["process".to_owned()]).await?;
            let bound = (self.bound)(binding, &evidence);
            let quote = self.quoter.lock().unwrap().document(&bound);
            evidence.documents.push(quote.map_err(|error| AttestError::Other(error.to_string()))?);
            Ok(evidence)
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_of_the_plain_binding_or_of_another_statement_is_refused() {
    let Some(lab) = Lab::new() else { return };
    lab.enroll(NODE, &lab.tpm, &[]).must(0);
    let config = client::Config {
        broker: lab.world.address.clone(),
        broker_id: SpiffeId::parse(BROKER).unwrap(),
        certificate: lab.world.at("api.pem"),
        key: lab.world.at("api.key"),
        bundle: lab.world.at("etc/bundle.pem"),
        attester: lab.world.at("attester.sock"),
        deadline: std::time::Duration::from_secs(30),
    };
    let cases: [(Bound, &str); 3] = [
        (|binding, _| *binding, "EvidenceBindingMismatch"),
        (|binding, _| Binding::from(*binding).bound_to_process(b"another"), "EvidenceBindingMismatch"),
        // What is due: then it is this test's own executable that no set knows.
        (
            |binding, evidence| Binding::from(*binding).bound_to_process(&evidence.documents[0].body),
            "MeasurementMismatch",
        ),
    ];
    for (bound, denial) in cases {
        let source = AkSource::Primary(AkKind::EcdsaP256);
        let meddler = Meddler {
            statements: SocketAttester::new(lab.world.at("attester.sock")),
            quoter: Mutex::new(lab.tpm.quoter(source, Selection::of_firmware(), None)),
            bound,
        };
        let released = client::release(&config, &meddler, client::Request::of([OPEN])).await;
        assert!(matches!(released, Err(ReleaseError::Denied { .. })), "{:?}", released.map(|_| ()));
        assert_eq!(lab.last_denial().0, denial);
    }
}

#[test]
fn a_tpm_that_went_back_is_refused_after_a_restart_of_the_broker_too_until_it_is_enrolled_again() {
    let Some(mut lab) = Lab::ready() else { return };
    lab.released();
    lab.world.stop_agent();
    lab.tpm.shut_down();
    copy_directory(&lab.tpm.path("state"), &lab.tpm.path("yesterday"));
    // Two boots on, one more than the copy will have made.
    for _ in 0..2 {
        lab.tpm.power_on();
        lab.tpm.shut_down();
    }
    lab.tpm.power_on();
    extend(&lab.tpm, b"secure boot");
    lab.attest();
    lab.released();
    // Killed at once: nothing but what was durable before the secret left is there.
    lab.world.kill();
    lab.world.stop_agent();
    lab.tpm.shut_down();
    std::fs::remove_dir_all(lab.tpm.path("state")).unwrap();
    copy_directory(&lab.tpm.path("yesterday"), &lab.tpm.path("state"));
    lab.tpm.power_on();
    extend(&lab.tpm, b"secure boot");
    lab.world.start();
    lab.attest();
    lab.refused("EvidenceCounterBackwards", "reset and restart counts are");
    // Stopped in order: the store has it, too.
    lab.world.stop();
    lab.world.start();
    lab.refused("EvidenceCounterBackwards", "reset and restart counts are");
    lab.world.stop_agent();
    let again = lab.enroll(NODE, &lab.tpm, &[]).must(1);
    assert!(again.stderr.contains("ALREADY_EXISTS"), "{again:?}");
    lab.enroll(NODE, &lab.tpm, &["--replace"]).must(0);
    lab.attest();
    lab.released();
    lab.world.kill();
    lab.world.start();
    lab.released();
}
