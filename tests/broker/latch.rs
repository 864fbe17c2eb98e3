//! What a refusal holds, for whom, for how long, and what ends it.

use crate::support::*;
use portcullis::client::Request;
use portcullis::denial::Denial;
use portcullis::store::Kind;

/// Permits everyone all below `kv/payments`.
const FOR_ALL: &str = r#"
@id("all")
permit (principal, action == Action::"release", resource in Folder::"kv/payments");
"#;

/// A world whose one request was refused by policy, where policy permits it now and the hold still stands.
async fn held() -> (World, String) {
    let world = World::new().await;
    world.put_policy(SILENT).await;
    let refused = world.assert_denied(world.release().await, Denial::PolicySilent);
    world.put_policy_and_keep_latches(FOR_ALL).await;
    (world, refused.id)
}

#[tokio::test]
async fn a_repeat_within_sixty_seconds_is_denied_and_its_record_names_the_refusal() {
    let (world, refusal) = held().await;
    let (set, repeats) = latches_of(&world.record(&refusal));
    assert_eq!((set.len(), set[0].length_ms, repeats), (1, 60_000, None));
    let again = world.assert_denied(world.release().await, Denial::LatchHolds);
    assert_eq!(latches_of(&again), (vec![], Some(refusal)));
}

#[tokio::test]
async fn attempts_while_held_lengthen_nothing() {
    let (world, refusal) = held().await;
    for _ in 0..2 {
        world.hands.pass(15_000);
        let again = world.assert_denied(world.release().await, Denial::LatchHolds);
        assert_eq!(latches_of(&again), (vec![], Some(refusal.clone())));
    }
    world.hands.pass(30_000);
    world.released().await;
}

#[tokio::test]
async fn the_next_refusal_holds_twice_as_long() {
    let (world, _) = held().await;
    world.put_policy_and_keep_latches(SILENT).await;
    world.hands.pass(60_000);
    let second = world.assert_denied(world.release().await, Denial::PolicySilent);
    assert_eq!(latches_of(&second).0[0].length_ms, 120_000);
    world.hands.pass(100_000);
    world.assert_denied(world.release().await, Denial::LatchHolds);
    world.hands.pass(20_000);
    let third = world.assert_denied(world.release().await, Denial::PolicySilent);
    assert_eq!(latches_of(&third).0[0].length_ms, 240_000);
}

#[tokio::test]
async fn another_subject_is_not_held() {
    let (world, _) = held().await;
    let other = SoftAttester { process: other_subject(), ..world.attester() };
    world.expect(world.release_with(&other, Request::of([SECRET])).await);
    world.assert_denied(world.release().await, Denial::LatchHolds);
}

#[tokio::test]
async fn another_secret_is_not_held_unless_asked_with_the_held_one() {
    let (world, _) = held().await;
    let other = "kv/payments/other";
    world.put_secret(other, b"another").await;
    world.expect(world.release_with(&world.attester(), Request::of([other])).await);
    let both = world.release_with(&world.attester(), Request::of([other, SECRET])).await;
    let record = world.assert_denied(both, Denial::LatchHolds);
    assert_eq!(record.case().unwrap().refused_secret.as_deref(), Some(SECRET));
}

#[tokio::test]
async fn another_identity_is_not_held() {
    let (world, _) = held().await;
    let (_, config) = world.workload("spiffe://example.org/ns/payments/worker", 4);
    let connection = world.connect_as(&config).await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.assert_denied(world.release().await, Denial::LatchHolds);
}

#[tokio::test]
async fn a_new_connection_or_certificate_is_held_all_the_same() {
    let (world, _) = held().await;
    let (_, renewed) = world.workload(WORKLOAD, 5);
    let connection = world.connect_as(&renewed).await.unwrap();
    let outcome = connection.release(&world.attester(), Request::of([SECRET])).await;
    world.assert_denied(outcome, Denial::LatchHolds);
}

#[tokio::test]
async fn a_hold_survives_a_restart() {
    let (mut world, refusal) = held().await;
    world.stop().await;
    world.start().await;
    let again = world.assert_denied(world.release().await, Denial::LatchHolds);
    assert_eq!(latches_of(&again).1, Some(refusal));
    world.hands.pass(60_000);
    world.released().await;
}

#[tokio::test]
async fn the_change_that_a_refusal_rests_on_ends_its_hold_and_a_restart_does_not_bring_it_back() {
    let (mut world, refusal) = held().await;
    world.assert_denied(world.release().await, Denial::LatchHolds);
    let changed = world.put_policy(FOR_ALL).await;
    let set = latches_of(&world.record(&refusal)).0;
    assert_eq!(changed.latches_ended, vec![set[0].key.clone()]);
    world.released().await;
    world.stop().await;
    world.start().await;
    world.released().await;
}

#[tokio::test]
async fn a_change_that_a_refusal_does_not_rest_on_ends_no_hold() {
    let world = World::new().await;
    world.put_reference("payments-1", &"cd".repeat(32), 86_400_000).await;
    world.assert_denied(world.release().await, Denial::MeasurementMismatch);
    let changed = world.put_policy(FOR_ALL).await;
    assert!(changed.latches_ended.is_empty());
    world.assert_denied(world.release().await, Denial::LatchHolds);
    let changed = world.put_reference("payments-1", &"ab".repeat(32), 86_400_000).await;
    assert_eq!(changed.latches_ended.len(), 1);
    world.released().await;
}

#[tokio::test]
async fn a_refusal_of_the_evidence_holds_every_secret_of_its_request() {
    let world = World::new().await;
    world.put_secret("kv/payments/other", b"another").await;
    world.put_reference("payments-1", &"cd".repeat(32), 86_400_000).await;
    let both = Request::of([SECRET, "kv/payments/other"]);
    let record =
        world.assert_denied(world.release_with(&world.attester(), both).await, Denial::MeasurementMismatch);
    let held: Vec<String> = latches_of(&record).0.into_iter().map(|set| set.key.secret).collect();
    assert_eq!(held, [SECRET, "kv/payments/other"]);
}

#[tokio::test]
async fn evidence_that_does_not_verify_latches_nothing() {
    let world = World::new().await;
    let spoiled = SoftAttester {
        spoil: |mut body| {
            *body.last_mut().unwrap() ^= 1;
            body
        },
        ..world.attester()
    };
    let outcome = world.release_with(&spoiled, Request::of([SECRET])).await;
    let record = world.assert_denied(outcome, Denial::EvidenceSignatureInvalid);
    assert_eq!(latches_of(&record), (vec![], None));
    world.released().await;
}

#[tokio::test]
async fn an_uncertain_denial_latches_nothing() {
    let world = World::new().await;
    world.remove(Kind::ReferenceSet, "payments-1").await;
    let record = world.assert_denied(world.release().await, Denial::ReferenceValuesMissing);
    assert_eq!(latches_of(&record), (vec![], None));
    world.put(Kind::ReferenceSet, "payments-1", &reference_set(&world), &[]).await;
    world.released().await;
}

fn reference_set(world: &World) -> Vec<u8> {
    let set = serde_json::json!({
        "name": "payments-1",
        "workload": "spiffe://example.org/ns/*",
        "not_after": world.hands.now().plus(86_400_000).to_string(),
        "process": { "executables": [{ "sha256": "ab".repeat(32) }] },
    });
    serde_json::to_vec(&set).unwrap()
}

#[tokio::test]
async fn an_unknown_path_is_held_like_an_existing_one() {
    let world = World::new().await;
    world.disable_secret(SECRET, true).await;
    let disabled = world.assert_denied(world.release().await, Denial::SecretDisabled);
    let unknown = || world.release_with_path("kv/payments/nothing");
    let absent = world.assert_denied(unknown().await, Denial::SecretUnknown);
    let (mut of_disabled, mut of_absent) = (latches_of(&disabled).0, latches_of(&absent).0);
    assert_eq!((of_disabled.len(), of_absent.len()), (1, 1));
    let (disabled, absent) = (of_disabled.remove(0), of_absent.remove(0));
    assert_eq!(disabled.length_ms, absent.length_ms);
    assert_eq!(disabled.key.subject, absent.key.subject);
    assert_eq!(absent.rests_on.len(), disabled.rests_on.len());
    let again = world.assert_denied(unknown().await, Denial::LatchHolds);
    world.assert_denied(world.release().await, Denial::LatchHolds);
    assert!(latches_of(&again).1.is_some());
    world.put_secret("kv/payments/nothing", b"now something").await;
    world.expect(unknown().await);
}
