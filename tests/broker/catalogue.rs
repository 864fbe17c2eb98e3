//! The ways in which systems like this one failed open, one test each, by the row of the catalogue.
//!
//! Row 8 has no place to occur (nothing is fetched from an upstream, so nothing is kept for when it is down; row 15 is
//! its local form). Row 36, a program that replaces itself after its attestation, is tested where it is refused: in
//! `src/agent/tests.rs`. Row 31 is `evidence.rs`, rows 34 and 35 `appraisal.rs`.

use crate::grants::{pending, race, revoke};
use crate::support::*;
use portcullis::cli::config::{Config, ConfigError};
use portcullis::cli::devca::DevelopmentCa;
use portcullis::client::Request;
use portcullis::client::{Imposture, PeerRefused, ReleaseError};
use portcullis::denial::{Denial, Reason};
use portcullis::evidence::process::{ProcessClaims, Program};
use portcullis::proto::v1;
use portcullis::proto::v1::release_request::Step;
use portcullis::store::Kind;
use portcullis::time::WallTime;
use std::process::Command;
use std::time::Duration;

#[tokio::test]
async fn row_01_a_secret_released_before_is_not_served_again_when_renewal_is_denied() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.put_policy(ELSEWHERE).await;
    let again = connection.release(&world.attester(), Request::of([SECRET])).await;
    world.assert_denied(again, Denial::PolicySilent);
}

#[tokio::test]
async fn row_02_a_store_that_does_not_answer_leads_to_no_other_credential() {
    let world = World::new().await;
    world.released().await;
    let mut config = world.client.clone();
    let (broken, _running) = world.serve_with_catalog(std::sync::Arc::new(Unanswering)).await;
    config.broker = broken;
    let connection = world.connect_exactly(&config).await.unwrap();
    let outcome = connection.release(&world.attester(), Request::of([SECRET])).await;
    world.assert_denied(outcome, Denial::StoreUnavailable);
}

/// A store that is not there.
struct Unanswering;

#[async_trait::async_trait]
impl portcullis::policy::Catalog for Unanswering {
    async fn standing(
        &self,
        _path: &portcullis::request::SecretPath,
    ) -> Result<portcullis::policy::SecretStanding, portcullis::policy::Unknown> {
        Err(portcullis::policy::Unknown::Unavailable)
    }
}

#[tokio::test]
async fn row_03_second_evidence_on_a_finished_stream_gets_nothing() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let mut manual = Manual::of(&connection, &[SECRET]).await.unwrap();
    let evidence = world.attester().evidence(&manual.binding());
    let first = manual.answer(evidence.clone()).await;
    world.expect(first);
    let _ = manual.stream.send(Step::Evidence(evidence)).await;
    assert!(matches!(manual.stream.next().await, Ok(None)), "a second answer");
    assert_eq!(world.releases().len(), 1);
}

#[tokio::test]
async fn row_04_a_nonce_serves_one_attempt_of_its_own_stream() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let mut first = Manual::of(&connection, &[SECRET]).await.unwrap();
    let mut second = Manual::of(&connection, &[SECRET]).await.unwrap();
    assert_ne!(first.challenge.nonce, second.challenge.nonce);
    let evidence = world.attester().evidence(&first.binding());
    world.assert_denied(second.answer(evidence.clone()).await, Denial::EvidenceBindingMismatch);
    // The failed attempt spent its nonce: the right evidence comes too late for it.
    let right = world.attester().evidence(&second.binding());
    let _ = second.stream.send(Step::Evidence(right)).await;
    assert!(matches!(second.stream.next().await, Ok(None)));
    let outcome = first.answer(evidence).await;
    world.expect(outcome);
}

#[tokio::test]
async fn row_05_a_stored_expiry_is_read() {
    let world = World::new().await;
    world.put_reference("payments-1", &"ab".repeat(32), 60_000).await;
    world.released().await;
    world.hands.pass(60_000);
    world.assert_denied(world.release().await, Denial::ReferenceValuesExpired);
}

#[tokio::test]
async fn row_06_configured_revocation_applies() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.write_crl(&[3], 86_400_000).await;
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::PeerRevoked);
}

#[tokio::test]
async fn row_07_a_list_that_does_not_parse_is_not_no_revocation() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.write("example.org.crl", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").await;
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::RevocationUnknown);
}

#[tokio::test]
async fn row_09_one_good_document_beside_another_is_not_enough() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let mut manual = Manual::of(&connection, &[SECRET]).await.unwrap();
    let mut evidence = world.attester().evidence(&manual.binding());
    let other = v1::Document { format: "tdx".into(), body: vec![1], endorsements: vec![] };
    evidence.documents.push(other);
    world.assert_denied(manual.answer(evidence).await, Denial::EvidenceFormatNotOffered);
}

#[tokio::test]
async fn row_10_what_is_shipped_permits_nothing() {
    let world = World::new().await;
    world.released().await;
    world.remove(Kind::Policy, "policy").await;
    world.assert_denied(world.release().await, Denial::PolicySilent);
    world.hands.pass(60_000);
    world.remove(Kind::ReferenceSet, "payments-1").await;
    world.assert_denied(world.release().await, Denial::ReferenceValuesMissing);
}

#[tokio::test]
async fn row_11_no_flag_and_no_key_turns_a_check_off() {
    let world = World::new().await;
    let commands: [&[&str]; 9] = [
        &["--help"],
        &["serve", "--help"],
        &["agent", "--help"],
        &["exec", "--help"],
        &["get", "--help"],
        &["admin", "--help"],
        &["audit", "--help"],
        &["init", "--help"],
        &["demo", "--help"],
    ];
    for arguments in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Usage"), "{arguments:?}: {text}");
        let flags = text.split_whitespace().filter(|word| word.starts_with("--"));
        for flag in flags {
            let words =
                ["insecure", "skip", "allow", "no-", "disable", "simulat", "sample", "unsafe", "--test"];
            assert!(!words.iter().any(|word| flag.contains(word)), "{arguments:?} has {flag}");
        }
    }
    let text = std::fs::read_to_string(&world.paths.configuration).unwrap();
    for key in ["insecure = true", "skip_verification = true", "development = true"] {
        let written = world.directory.path().join("etc/insecure.toml");
        std::fs::write(&written, text.replace("[storage]", &format!("{key}\n[storage]"))).unwrap();
        assert!(matches!(Config::read(&written), Err(ConfigError::Malformed { .. })), "{key}");
    }
}

#[tokio::test]
async fn row_12_nothing_leaves_before_its_record() {
    let world = World::new().await;
    let held = world.server().broker().barrier().narrow().await;
    let mut manual = pending(&world).await;
    assert_eq!(world.releases().len(), 1);
    assert!(tokio::time::timeout(Duration::from_millis(200), manual.stream.next()).await.is_err());
    drop(held);
    let released = manual.stream.next().await;
    world.expect(released);
}

#[tokio::test]
async fn row_13_there_is_no_configuration_without_an_audit_log() {
    let world = World::new().await;
    let text = std::fs::read_to_string(&world.paths.configuration).unwrap();
    for key in ["audit =", "audit_key_file ="] {
        let without: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with(key)).collect();
        assert!(without.len() < text.lines().count(), "{key} is not in the configuration");
        let written = world.directory.path().join("etc/silent.toml");
        std::fs::write(&written, without.join("\n")).unwrap();
        let Err(refused) = Config::read(&written) else { panic!("{key}") };
        // The log's key may come from elsewhere, and must come from somewhere.
        match (key, refused) {
            ("audit =", ConfigError::Malformed { .. }) => {}
            (_, ConfigError::Impossible { key, .. }) => assert_eq!(key, "storage.audit_key_file"),
            (key, refused) => panic!("{key}: {refused}"),
        }
    }
}

/// Here the log fails; one that hangs in a call is `a_log_that_hangs_is_denied_within_its_bound`.
#[tokio::test]
async fn row_14_a_log_that_fails_freezes_nobody() {
    let world = World::new().await;
    world.released().await;
    std::fs::rename(&world.config.storage.audit, world.directory.path().join("away")).unwrap();
    let within = Duration::from_millis(2 * portcullis::limits::AUDIT_WAIT_MS);
    for _ in 0..2 {
        let outcome = tokio::time::timeout(within, world.release()).await.expect("it hangs");
        assert_eq!(outcome.unwrap_err().reason(), Some(Reason::VerificationNotPossible));
    }
}

#[tokio::test]
async fn row_15_the_last_good_state_does_not_stand_once_it_cannot_be_read() {
    let world = World::new().await;
    world.released().await;
    world.damage(Kind::Node, NODE).await;
    world.server().registry().load().await;
    world.assert_denied(world.release().await, Denial::NodesUnavailable);
}

#[tokio::test]
async fn row_16_freshness_is_checked_in_every_format_and_no_nonce_is_none() {
    let world = World::new().await;
    world.released().await;
    let old = SoftAttester { age_seconds: 62, ..world.attester() };
    let outcome = world.release_with(&old, Request::of([SECRET])).await;
    world.assert_denied(outcome, Denial::EvidenceTooOld);
    let connection = world.connect().await.unwrap();
    let mut manual = Manual::of(&connection, &[SECRET]).await.unwrap();
    let without_nonce = world.attester().evidence(&[0; 64]);
    world.assert_denied(manual.answer(without_nonce).await, Denial::EvidenceBindingMismatch);
}

#[tokio::test]
async fn row_17_a_channel_binding_that_fails_ends_the_request() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let mut manual = Manual::of(&connection, &[SECRET]).await.unwrap();
    manual.identity.exporter[0] ^= 1;
    let evidence = world.attester().evidence(&manual.binding());
    world.assert_denied(manual.answer(evidence).await, Denial::EvidenceBindingMismatch);
}

#[tokio::test]
async fn row_18_evidence_that_was_captured_and_never_submitted_is_worth_nothing() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let earlier = Manual::of(&connection, &[SECRET]).await.unwrap();
    let captured = world.attester().evidence(&earlier.binding());
    drop(earlier);
    let mut later = Manual::of(&connection, &[SECRET]).await.unwrap();
    world.assert_denied(later.answer(captured).await, Denial::EvidenceBindingMismatch);
}

/// The broker depends on nobody over TLS; the one TLS client here is the workload's, and it has no way not to verify.
#[tokio::test]
async fn row_20_a_broker_that_is_not_verified_is_not_spoken_to() {
    let world = World::new().await;
    world.released().await;
    let mut config = world.client.clone();
    let stranger = DevelopmentCa::new("spiffe://example.org", world.hands.now()).unwrap();
    config.bundle = world.directory.path().join("stranger.pem");
    std::fs::write(&config.bundle, stranger.root()).unwrap();
    let refused = ReleaseError::NotTheBroker(Imposture::Certificate(PeerRefused::Untrusted));
    assert_eq!(world.connect_as(&config).await.err(), Some(refused));
}

#[tokio::test]
async fn row_21_an_empty_set_of_lists_is_not_no_revocation() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.write("example.org.crl", b"").await;
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::RevocationUnknown);
    let text = std::fs::read_to_string(&world.paths.configuration).unwrap();
    let written = world.directory.path().join("etc/none.toml");
    std::fs::write(&written, text.replace("crl_files = [\"example.org.crl\"]", "crl_files = []")).unwrap();
    assert!(matches!(Config::read(&written), Err(ConfigError::Impossible { .. })));
}

#[tokio::test]
async fn row_22_an_older_list_does_not_hide_a_newer_one() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let now = world.hands.now();
    let older = world.ca.revocation_list(1, WallTime(now.0 - 60_000), now.plus(86_400_000), &[]).unwrap();
    world.write_crl(&[], 86_400_000).await;
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.write("example.org.crl", older.as_bytes()).await;
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::RevocationUnknown);
}

#[tokio::test]
async fn row_23_a_list_past_its_next_update_is_denied() {
    let world = World::new().await;
    world.write_crl(&[], 60_000).await;
    world.released().await;
    world.hands.pass(61_000);
    world.assert_denied(world.release().await, Denial::RevocationStale);
}

#[tokio::test]
async fn row_24_no_session_is_resumed() {
    let world = World::new().await;
    let tls = raw::tls(&world);
    for _ in 0..2 {
        let mut stream = raw::connect(&world, &tls).await;
        // The broker's SETTINGS have come, and any ticket before them.
        let mut settings = [0; 9];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut settings).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn row_25_an_open_connection_does_not_outlive_its_certificate() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.hands.pass(3_600_000);
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::PeerCertificateExpired);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(connection.is_closed());
}

#[tokio::test]
async fn row_26_a_forbid_that_errs_is_not_skipped() {
    let world = World::new().await;
    world.released().await;
    let errs = "@id(\"errs\") forbid (principal, action, resource) when { context.ttl_seconds + 9223372036854775807 > 0 };";
    world.put_policy(&format!("{POLICY}{errs}")).await;
    world.assert_denied(world.release().await, Denial::PolicyUnevaluable);
}

#[tokio::test]
async fn row_27_an_undefined_policy_is_a_denial() {
    let world = World::new().await;
    world.released().await;
    world.put_policy("").await;
    world.assert_denied(world.release().await, Denial::PolicySilent);
}

#[tokio::test]
async fn row_28_an_emptied_bundle_is_not_nothing_changed() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.write("example.org.pem", b"").await;
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::BundleUnknown);
}

#[tokio::test]
async fn row_29_a_malformed_deadline_is_not_no_deadline() {
    let world = World::new().await;
    for malformed in ["", "1", "-1S", "123456789S", "soon"] {
        let (reason, id) = raw::call(&world, &[("grpc-timeout", malformed)], Vec::new()).await;
        assert_eq!(reason, Reason::RequestInvalid);
        assert_eq!(world.record(&id).denial(), Some(Denial::RequestTimeoutMalformed), "{malformed}");
    }
    let (reason, id) = raw::call(&world, &[("grpc-timeout", "0S")], Vec::new()).await;
    assert_ne!(reason, Reason::RequestInvalid, "{:?}", world.record(&id));
}

#[tokio::test]
async fn row_30_evidence_for_one_connection_is_denied_on_another_of_the_same_key() {
    let world = World::new().await;
    let (mine, relayed) = (world.connect().await.unwrap(), world.connect().await.unwrap());
    let mut manual = Manual::of(&relayed, &[SECRET]).await.unwrap();
    assert_eq!(mine.identity().spki_sha256, relayed.identity().spki_sha256);
    manual.identity = mine.identity().clone();
    let evidence = world.attester().evidence(&manual.binding());
    world.assert_denied(manual.answer(evidence).await, Denial::EvidenceBindingMismatch);
}

#[tokio::test]
async fn row_32_evidence_is_neither_padded_nor_cut_to_fit() {
    let world = World::new().await;
    world.released().await;
    let padded = |mut body: Vec<u8>| {
        body.push(0);
        body
    };
    let cut = |mut body: Vec<u8>| {
        body.pop();
        body
    };
    for spoil in [padded as fn(Vec<u8>) -> Vec<u8>, cut] {
        let attester = SoftAttester { spoil, ..world.attester() };
        let outcome = world.release_with(&attester, Request::of([SECRET])).await;
        world.assert_denied(outcome, Denial::EvidenceMalformed);
    }
}

#[tokio::test]
async fn row_33_an_unreadable_clock_is_not_time_zero_and_a_set_back_one_revives_nothing() {
    let world = World::new().await;
    world.put_reference("payments-1", &"ab".repeat(32), 20_000).await;
    let connection = world.connect().await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.hands.pass(20_000);
    world.assert_denied(world.release().await, Denial::ReferenceValuesExpired);
    world.hands.step(-20_000);
    world.assert_denied(world.release().await, Denial::ClockSuspect);
    world.hands.step(20_000);
    world.hands.set_unreadable(true);
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::ClockSuspect);
}

#[tokio::test]
async fn row_38_one_unreadable_file_keeps_no_removed_trust_and_touches_no_other_domain() {
    let world = World::build(Build { more_domains: vec!["other.org"], ..Build::default() }).await;
    let other = DevelopmentCa::new("spiffe://other.org", world.hands.now()).unwrap();
    world.write("other.org.pem", other.root().as_bytes()).await;
    let leaf = other.leaf(&leaf_request("spiffe://other.org/app", 9, world.hands.now())).unwrap();
    let bundle = world.directory.path().join("etc/example.org.copy");
    std::fs::write(&bundle, world.ca.root()).unwrap();
    let config = write_client(world.directory.path(), "other", &leaf, &bundle);
    let (ours, theirs) = (world.connect().await.unwrap(), world.connect_as(&config).await.unwrap());
    let challenged = Manual::of(&theirs, &[SECRET]).await.map(drop);
    world.expect(challenged);
    world.write("example.org.pem", b"unreadable").await;
    world.assert_denied(Manual::of(&ours, &[SECRET]).await.map(drop), Denial::BundleUnknown);
    let challenged = Manual::of(&theirs, &[SECRET]).await.map(drop);
    world.expect(challenged);
    let rebuilt = DevelopmentCa::new("spiffe://other.org", world.hands.now()).unwrap();
    world.write("other.org.pem", rebuilt.root().as_bytes()).await;
    world.assert_denied(Manual::of(&theirs, &[SECRET]).await.map(drop), Denial::PeerUntrusted);
}

#[tokio::test]
async fn row_40_a_launcher_is_not_attested_in_place_of_what_it_runs() {
    let world = World::new().await;
    world.released().await;
    let set = serde_json::json!({
        "name": "payments-1",
        "workload": "spiffe://example.org/ns/*",
        "not_after": world.hands.now().plus(86_400_000).to_string(),
        "process": {
            "executables": [{ "sha256": "ab".repeat(32) }],
            "launcher": true,
            "programs": [[{ "sha256": "ef".repeat(32) }]],
        },
    });
    world.put(Kind::ReferenceSet, "payments-1", &serde_json::to_vec(&set).unwrap(), &[]).await;
    let running = |digest: u8| ProcessClaims {
        program: vec![Program { path: "/usr/bin/child".into(), sha256: [digest; 32] }],
        ..process()
    };
    let child = SoftAttester { process: running(0xef), ..world.attester() };
    world.expect(world.release_with(&child, Request::of([SECRET])).await);
    world.assert_denied(world.release().await, Denial::MeasurementMismatch);
    let other = SoftAttester { process: running(0xcd), ..world.attester() };
    let outcome = world.release_with(&other, Request::of([SECRET])).await;
    world.assert_denied(outcome, Denial::MeasurementMismatch);
}

#[tokio::test]
async fn row_41_a_grant_is_not_redeemed_after_a_revocation() {
    let world = World::new().await;
    let outcome = race(&world, revoke(&world)).await;
    world.assert_denied(outcome, Denial::PeerRevokedByBroker);
    assert_eq!(world.undelivered().len(), 1);
}
