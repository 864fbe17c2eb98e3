//! A TPM's key from its enrolment over the operators' listener to the releases that rest on it, under the test's clock.

use crate::support::hardware::{composite, document, quote, tpm2};
use crate::support::*;
use portcullis::audit::record::{Event, Record};
use portcullis::denial::Denial;
use portcullis::proto::v1;
use portcullis::store::Kind;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A world that takes quotes, with a reference set for them alone, and a node with a TPM.
struct Lab {
    world: World,
    ek: tpm2::Ek,
    ak: tpm2::Ak,
}

impl Lab {
    async fn new() -> Lab {
        let limits = "[evidence]\nformats = [\"process\", \"tpm2\"]\n";
        let world = World::build(Build { limits, ..Build::default() }).await;
        let pcr7 = hex::encode(tpm2::hash(tpm2::SHA256, &[b"measured", &[7]]));
        let boot = json!({ "tpm2": { "pcrs": { "sha256": { "7": [pcr7] } } } });
        world.put_hardware_reference("boot", boot).await;
        Lab { world, ek: tpm2::Ek::p256(), ak: tpm2::Ak::p256() }
    }

    async fn enrolled() -> Lab {
        let lab = Lab::new().await;
        assert_eq!(lab.begin("first", &[]).await, 0);
        lab.activate("first");
        assert_eq!(lab.prove("first").await, 0);
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.world.directory.path().join(name)
    }

    /// The administrator's first step with what the node says.
    async fn begin(&self, name: &str, more: &[&str]) -> u8 {
        let ek_sha256 = hex::encode(tpm2::hash(tpm2::SHA256, &[self.ek.spki()]));
        let request = json!({
            "kind": "portcullis tpm request 1",
            "ek": "ecc-p256",
            "ek_public": hex::encode(self.ek.public()),
            "ek_sha256": ek_sha256,
            "ak_public": hex::encode(self.ak.public()),
            "ak_name": hex::encode(self.ak.name()),
        });
        let (request_path, challenge) =
            (self.at(&format!("{name}.request")), self.at(&format!("{name}.challenge")));
        std::fs::write(&request_path, request.to_string()).unwrap();
        let (request, challenge) = (request_path.to_str().unwrap(), challenge.to_str().unwrap());
        let step = ["node", "enroll", NODE, "--tpm", request, "--out", challenge, "--ek-sha256", &ek_sha256];
        self.world.admin(&[&step, more].concat()).await
    }

    /// The node's own step.
    fn activate(&self, name: &str) {
        let challenge = std::fs::read(self.at(&format!("{name}.challenge"))).unwrap();
        let challenge: Value = serde_json::from_slice(&challenge).unwrap();
        let bytes = |field: &str| hex::decode(challenge[field].as_str().unwrap()).unwrap();
        let answer = self.ek.activate(&bytes("id_object"), &bytes("encrypted_secret"), &self.ak.name());
        let proof = json!({
            "kind": "portcullis tpm proof 1",
            "id": challenge["id"],
            "answer": hex::encode(answer.unwrap()),
        });
        std::fs::write(self.at(&format!("{name}.proof")), proof.to_string()).unwrap();
    }

    async fn prove(&self, name: &str) -> u8 {
        let proof = self.at(&format!("{name}.proof"));
        self.world.admin(&["node", "enroll", NODE, "--proof", proof.to_str().unwrap()]).await
    }

    /// One request with a quote of so many resets.
    async fn after(&self, resets: u32) -> Result<v1::Released, tonic::Status> {
        let make = |binding: &[u8; 64]| vec![quote(binding, &self.ak, |quote| quote.reset_count = resets)];
        self.world.attempt_with(make).await
    }

    #[track_caller]
    fn earned(&self, outcome: Result<v1::Released, tonic::Status>) {
        outcome.unwrap_or_else(|status| panic!("{}", self.world.why(&status)));
    }

    /// The refusals that an administrator heard, as the log has them.
    fn refusals(&self) -> Vec<String> {
        let refused = |record: Record| match record.event {
            Event::AdminRead { refused, .. } => refused,
            _ => None,
        };
        self.world.records().into_iter().filter_map(refused).collect()
    }
}

#[tokio::test]
async fn a_key_that_was_enrolled_earns_the_secret_alone_and_beside_a_statement() {
    let lab = Lab::enrolled().await;
    lab.earned(lab.after(7).await);
    let outcome = lab
        .world
        .attempt_with(|binding| {
            let statement = document("process", lab.world.attester().body(binding), vec![]);
            let bound = composite(binding, &statement);
            vec![statement, quote(&bound, &lab.ak, |_| {})]
        })
        .await;
    lab.earned(outcome);
    let connection = lab.world.connect().await.unwrap();
    let asked = ask(&connection, open_message(&[SECRET]).0).await.unwrap();
    assert_eq!(asked.challenge.formats, ["process", "tpm2"]);
}

#[tokio::test]
async fn a_proof_that_comes_too_late_enrols_nothing() {
    let lab = Lab::new().await;
    assert_eq!(lab.begin("late", &[]).await, 0);
    lab.activate("late");
    lab.world.hands.pass(portcullis::limits::TPM2_ENROL_WITHIN_MS);
    assert_eq!(lab.prove("late").await, 1);
    assert!(lab.refusals().last().unwrap().contains("ChallengeExpired"), "{:?}", lab.refusals());
    let outcome = lab.after(7).await;
    lab.world.refused(outcome, Denial::EndorsementUntrusted);
}

#[tokio::test]
async fn counters_do_not_go_back_over_a_restart_nor_come_along_to_a_new_enrolment() {
    let mut lab = Lab::enrolled().await;
    lab.earned(lab.after(8).await);
    for _ in 0..2 {
        lab.world.stop().await;
        lab.world.start().await;
        let outcome = lab.after(7).await;
        lab.world.refused(outcome, Denial::EvidenceCounterBackwards);
    }
    lab.earned(lab.after(8).await);
    assert_eq!(lab.begin("again", &["--replace"]).await, 0);
    lab.activate("again");
    assert_eq!(lab.prove("again").await, 0);
    lab.earned(lab.after(2).await);
    lab.world.stop().await;
    lab.world.start().await;
    lab.earned(lab.after(2).await);
    let outcome = lab.after(1).await;
    lab.world.refused(outcome, Denial::EvidenceCounterBackwards);
}

#[tokio::test]
async fn counters_that_only_the_log_has_count_however_long_the_broker_was_down() {
    let mut lab = Lab::enrolled().await;
    lab.earned(lab.after(8).await);
    lab.world.stop().await;
    lab.world.start().await;
    // As if it had been killed before it wrote the mark.
    let keys = lab.world.server().registry().attestation_keys();
    let mark = keys.as_ref().as_ref().unwrap()[0].ak.mark();
    let vault = lab.world.server().registry().vault().clone();
    let key = vault.key_of(Kind::Mark, &mark);
    assert!(vault.store().get(&key).await.unwrap().is_some());
    let transaction = portcullis::store::Transaction { deletes: vec![key], ..Default::default() };
    vault.commit(transaction).await.unwrap();
    drop(vault);
    lab.world.stop().await;
    lab.world.hands.pass(3 * 3_600_000);
    lab.world.start().await;
    let keys = lab.world.server().registry().attestation_keys();
    let ak = &keys.as_ref().as_ref().unwrap()[0].ak;
    let seen = lab.world.server().broker().verifiers.seen().last(ak);
    assert_eq!(seen.map(|counters| counters.reset), Some(8));
}

#[tokio::test]
async fn keys_or_counters_that_cannot_be_read_leave_quotes_undecided_and_statements_as_they_were() {
    for of_the_counters in [false, true] {
        let mut lab = Lab::enrolled().await;
        lab.earned(lab.after(7).await);
        lab.world.stop().await;
        lab.world.start().await;
        let keys = lab.world.server().registry().attestation_keys();
        let ak = keys.as_ref().as_ref().unwrap()[0].ak.clone();
        match of_the_counters {
            true => lab.world.damage(Kind::Mark, &ak.mark()).await,
            false => lab.world.damage(Kind::AttestationKey, &hex::encode(ak.key.name().as_bytes())).await,
        }
        lab.world.stop().await;
        lab.world.start().await;
        let outcome = lab.after(7).await;
        lab.world.refused(outcome, Denial::NodesUnavailable);
        lab.world.released().await;
    }
}

#[tokio::test]
async fn an_enrolment_ends_when_the_administrator_said() {
    let lab = Lab::new().await;
    let end = lab.world.hands.now().plus(120_000).to_string();
    assert_eq!(lab.begin("short", &["--not-after", &end]).await, 0);
    lab.activate("short");
    assert_eq!(lab.prove("short").await, 0);
    lab.earned(lab.after(7).await);
    lab.world.hands.pass(120_000);
    let outcome = lab.after(7).await;
    lab.world.refused(outcome, Denial::EndorsementExpired);
}

#[tokio::test]
async fn a_removed_key_is_refused_at_once_and_the_nodes_own_word_stands() {
    let lab = Lab::enrolled().await;
    lab.earned(lab.after(7).await);
    let name = hex::encode(lab.ak.name());
    assert_eq!(lab.world.admin(&["node", "remove", NODE, "--ak", &name]).await, 0);
    let outcome = lab.after(7).await;
    lab.world.refused(outcome, Denial::EndorsementUntrusted);
    lab.world.released().await;
}
