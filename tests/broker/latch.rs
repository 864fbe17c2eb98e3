//! How long a refusal holds, whom, and what ends it.

use crate::support::*;
use portcullis::audit::record::{Event, LatchSet, Record};
use portcullis::denial::Denial;
use portcullis::proto::v1;

fn latches(record: &Record) -> &[LatchSet] {
    match &record.event {
        Event::Denied { latches, .. } => latches,
        other => panic!("{other:?}"),
    }
}

fn repeats(record: &Record) -> Option<&str> {
    match &record.event {
        Event::Denied { repeats, .. } => repeats.as_deref(),
        other => panic!("{other:?}"),
    }
}

/// The same replica, with a binary that is not allowed: what it is refused for can be taken back.
fn changed(guest: &Guest<'_>) -> SoftAttester {
    let mut attester = guest.attester.clone();
    attester.process.executable.sha256 = [0xee; 32];
    attester
}

async fn try_with(guest: &Guest<'_>, attester: &SoftAttester, path: &str) -> Outcome {
    attempt(&guest.connection, open_message(&[path]).0, attester).await
}

#[tokio::test]
async fn a_refusal_holds_for_a_minute_and_an_attempt_does_not_lengthen_it() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let bad = changed(&guest);
    let first = guest.refused(try_with(&guest, &bad, SECRET).await, Denial::MeasurementMismatch);
    assert_eq!(latches(&first)[0].length_ms, 60_000);
    world.hands.pass(55_000);
    let held = guest.refused(try_with(&guest, &bad, SECRET).await, Denial::LatchHolds);
    assert_eq!(repeats(&held), Some(first.id.as_str()));
    assert_eq!(held.case().unwrap().refused_secret.as_deref(), Some(SECRET));
    world.hands.pass(5_001);
    let second = guest.refused(try_with(&guest, &bad, SECRET).await, Denial::MeasurementMismatch);
    assert_eq!(latches(&second)[0].length_ms, 120_000);
}

#[tokio::test]
async fn holds_double_up_to_a_quarter_of_an_hour_and_are_forgotten_after_an_hour() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let bad = changed(&guest);
    for expected in [60_000, 120_000, 240_000, 480_000, 900_000, 900_000] {
        let guest = guest.again().await;
        let record = guest.refused(try_with(&guest, &bad, SECRET).await, Denial::MeasurementMismatch);
        assert_eq!(latches(&record)[0].length_ms, expected);
        world.hands.pass(expected);
    }
    // Certificates end with the hour; a new replica of the same subject comes.
    world.hands.pass(3_600_001);
    world.renew_broker().await;
    world.put_reference("payments-1", &"ab".repeat(32), 86_400_000).await;
    let fresh = Guest::stranger(&world, WORKLOAD).await;
    let record = fresh.refused(try_with(&fresh, &bad, SECRET).await, Denial::MeasurementMismatch);
    assert_eq!(latches(&record)[0].length_ms, 60_000);
}

#[tokio::test]
async fn another_subject_secret_or_identity_is_not_held() {
    let world = World::new().await;
    world.put_secret(SECOND, VALUE).await;
    let forbid = r#"@id("no") forbid (principal, action, resource == Secret::"kv/payments/second");"#;
    world
        .put_policy(&format!(
            "{}{forbid}",
            POLICY.replace("principal == Workload::\"spiffe://example.org/ns/payments/api\"", "principal")
        ))
        .await;
    let guest = Guest::new(&world).await;
    guest.refused(guest.ask(&[SECOND]).await, Denial::PolicyForbids);
    guest.refused(guest.ask(&[SECOND]).await, Denial::LatchHolds);
    assert!(guest.ask(&[SECRET]).await.is_ok(), "another secret");
    let replica = Guest::new(&world).await;
    replica.refused(replica.ask(&[SECOND]).await, Denial::PolicyForbids);
    let mut neighbour = Guest::stranger(&world, "spiffe://example.org/ns/payments/web").await;
    neighbour.attester.process = guest.attester.process.clone();
    neighbour.refused(neighbour.ask(&[SECOND]).await, Denial::PolicyForbids);
    // The key does not matter: the same subject, with a new certificate.
    let mut rotated = Guest::stranger(&world, WORKLOAD).await;
    rotated.attester.process = guest.attester.process.clone();
    rotated.refused(rotated.ask(&[SECOND]).await, Denial::LatchHolds);
    // A restart of the process sheds no latch.
    rotated.attester.process.start_time += 1;
    rotated.attester.process.cgroup = "/elsewhere".into();
    rotated.refused(rotated.ask(&[SECOND]).await, Denial::LatchHolds);
}

#[tokio::test]
async fn refused_evidence_holds_every_secret_of_the_request() {
    let world = World::new().await;
    world.put_secret(SECOND, VALUE).await;
    let guest = Guest::new(&world).await;
    let bad = changed(&guest);
    let open = open_message(&[SECRET, SECOND]).0;
    let record = guest.refused(attempt(&guest.connection, open, &bad).await, Denial::MeasurementMismatch);
    assert_eq!(latches(&record).len(), 2);
    for path in [SECRET, SECOND] {
        guest.refused(try_with(&guest, &bad, path).await, Denial::LatchHolds);
        assert!(guest.ask(&[path]).await.is_ok(), "the good subject is another");
    }
}

#[tokio::test]
async fn an_unknown_path_latches_like_an_existing_one() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let record = guest.refused(guest.ask(&[UNKNOWN]).await, Denial::SecretUnknown);
    assert_eq!((latches(&record).len(), latches(&record)[0].length_ms), (1, 60_000));
    let held = guest.refused(guest.ask(&[UNKNOWN]).await, Denial::LatchHolds);
    assert_eq!(repeats(&held), Some(record.id.as_str()));
    world.hands.pass(60_000);
    let again = guest.refused(guest.ask(&[UNKNOWN]).await, Denial::SecretUnknown);
    assert_eq!(latches(&again)[0].length_ms, 120_000);
}

#[tokio::test]
async fn a_latch_survives_a_restart() {
    let mut world = World::new().await;
    let (first, attester, config) = {
        let guest = Guest::new(&world).await;
        let bad = changed(&guest);
        let record = guest.refused(try_with(&guest, &bad, SECRET).await, Denial::MeasurementMismatch);
        (record, bad, guest.config.clone())
    };
    world.stop().await;
    world.hands.pass(30_000);
    world.start().await;
    let connection = world.connect_as(&config).await.unwrap();
    let outcome = attempt(&connection, open_message(&[SECRET]).0, &attester).await;
    let held = world.refused(outcome, Denial::LatchHolds);
    assert_eq!(repeats(&held), Some(first.id.as_str()));
    world.hands.pass(30_001);
    let outcome = attempt(&connection, open_message(&[SECRET]).0, &attester).await;
    let record = world.refused(outcome, Denial::MeasurementMismatch);
    assert_eq!(latches(&record)[0].length_ms, 120_000, "its length survives, too");
}

#[tokio::test]
async fn the_act_that_a_refusal_rests_on_ends_it_and_others_do_not() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let bad = changed(&guest);
    let first = guest.refused(try_with(&guest, &bad, SECRET).await, Denial::MeasurementMismatch);
    // Acts on what it does not rest on.
    world.put_policy(POLICY).await;
    world.put_secret(SECRET, VALUE).await;
    world.put_secret(SECOND, VALUE).await;
    let held = guest.refused(try_with(&guest, &bad, SECRET).await, Denial::LatchHolds);
    assert_eq!(repeats(&held), Some(first.id.as_str()));
    let changed = world.put_reference("payments-2", &"ee".repeat(32), 86_400_000).await;
    assert_eq!(changed.latches_ended.len(), 1);
    let ended = |record: &Record| matches!(&record.event, Event::LatchCleared { key, by } if key.secret == SECRET && *by == changed.record);
    assert!(world.records().iter().any(ended), "the end is on record, with the act that brought it");
    assert!(try_with(&guest, &bad, SECRET).await.is_ok(), "the new release's values are known now");
}

#[tokio::test]
async fn a_latch_that_was_ended_stays_ended_after_a_restart() {
    let mut world = World::new().await;
    let (config, attester) = {
        let guest = Guest::new(&world).await;
        guest.refused(guest.ask(&[UNKNOWN]).await, Denial::SecretUnknown);
        (guest.config.clone(), guest.attester.clone())
    };
    let changed = world.put_secret(UNKNOWN, VALUE).await;
    assert_eq!(changed.latches_ended.len(), 1, "a refusal of an unknown path rests on the secret");
    world.stop().await;
    world.start().await;
    let connection = world.connect_as(&config).await.unwrap();
    assert!(attempt(&connection, open_message(&[UNKNOWN]).0, &attester).await.is_ok());
}

#[tokio::test]
async fn a_new_policy_ends_what_policy_refused() {
    let world = World::new().await;
    world.put_secret(SILENT, VALUE).await;
    let guest = Guest::new(&world).await;
    guest.refused(guest.ask(&[SILENT]).await, Denial::PolicySilent);
    guest.refused(guest.ask(&[SILENT]).await, Denial::LatchHolds);
    world.put_policy(&POLICY.replace("kv/payments", "kv")).await;
    assert!(guest.ask(&[SILENT]).await.is_ok());
}

/// Unverified and uncertain denials, late answers, malformed requests and streams that were left hold nobody.
#[tokio::test]
async fn what_was_not_verified_and_refused_latches_nothing() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let bad = SoftAttester { spoil: |body| body[1..].to_vec(), ..guest.attester.clone() };
    guest.refused(try_with(&guest, &bad, SECRET).await, Denial::EvidenceMalformed);
    let old = SoftAttester { age_seconds: 100, ..guest.attester.clone() };
    guest.refused(try_with(&guest, &old, SECRET).await, Denial::EvidenceTooOld);
    world.put_policy("no policy").await;
    guest.refused(guest.ask(&[SECRET]).await, Denial::PolicyUnavailable);
    world.put_policy(POLICY).await;
    guest.refused(
        guest.send(v1::Open { secrets: vec![], ..open_message(&[SECRET]).0 }).await,
        Denial::RequestMalformed,
    );
    drop(guest.asked(&[SECRET]).await);
    let mut asked = guest.asked(&[SECRET]).await;
    world.hands.pass(10_000);
    guest.refused(asked.answer(guest.attester.evidence(&asked.binding())).await, Denial::ChallengeExpired);
    assert!(guest.ask(&[SECRET]).await.is_ok());
    assert_eq!(world.server().broker().latches.all().len(), 0);
}

#[tokio::test]
async fn a_latched_request_is_verified_first() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    guest.refused(guest.ask(&[UNKNOWN]).await, Denial::SecretUnknown);
    let bad = SoftAttester { spoil: |body| body[1..].to_vec(), ..guest.attester.clone() };
    guest.refused(try_with(&guest, &bad, UNKNOWN).await, Denial::EvidenceMalformed);
    guest.refused(guest.ask(&[UNKNOWN]).await, Denial::LatchHolds);
}
