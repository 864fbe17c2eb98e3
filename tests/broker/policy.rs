//! Entitlement: what policy says, whether the secret is there to be had, and on which terms.

use crate::support::*;
use portcullis::client::Request;
use portcullis::client::raw::Identity;
use portcullis::denial::Denial;
use portcullis::proto::v1;
use portcullis::request::SecretPath;
use portcullis::store::{Entry, Kind, Transaction};
use std::collections::BTreeMap;

/// Permits as [`POLICY`] does, and forbids beside it.
const FORBIDS: &str = r#"
@id("payments")
permit (principal == Workload::"spiffe://example.org/ns/payments/api", action == Action::"release", resource in Folder::"kv/payments");
@id("frozen")
forbid (principal, action, resource in Folder::"kv/payments");
"#;

/// Permits as [`POLICY`] does, and forbids by a sum that overflows, so nobody knows whether it forbids.
const OVERFLOWS: &str = r#"
@id("payments")
permit (principal == Workload::"spiffe://example.org/ns/payments/api", action == Action::"release", resource in Folder::"kv/payments");
@id("overflows")
forbid (principal, action, resource) when { context.ttl_seconds + 9223372036854775807 > 0 && context.ttl_seconds > 100000 };
"#;

#[tokio::test]
async fn a_forbid_beside_a_permit_is_denied() {
    let world = World::new().await;
    world.released().await;
    world.put_policy(FORBIDS).await;
    let record = world.assert_denied(world.release().await, Denial::PolicyForbids);
    assert!(record.case().unwrap().rules.contains(&"frozen".to_owned()));
}

#[tokio::test]
async fn silence_of_policy_is_denied() {
    let world = World::new().await;
    world.released().await;
    world.put_policy(SILENT).await;
    world.assert_denied(world.release().await, Denial::PolicySilent);
}

#[tokio::test]
async fn an_absent_policy_is_silent_and_denied() {
    let world = World::new().await;
    world.released().await;
    world.remove(Kind::Policy, "policy").await;
    world.assert_denied(world.release().await, Denial::PolicySilent);
}

#[tokio::test]
async fn a_policy_that_cannot_be_evaluated_is_denied() {
    let world = World::new().await;
    world.released().await;
    world.put_policy(OVERFLOWS).await;
    let record = world.assert_denied(world.release().await, Denial::PolicyUnevaluable);
    assert!(record.case().unwrap().detail.contains("overflow"), "{record:?}");
}

#[tokio::test]
async fn a_stored_policy_that_does_not_compile_is_denied_before_the_challenge() {
    let world = World::new().await;
    world.released().await;
    world.put_policy("permit (").await;
    let connection = world.connect().await.unwrap();
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::PolicyUnavailable);
    world.put_policy(POLICY).await;
    world.released().await;
}

#[tokio::test]
async fn enrolled_nodes_that_cannot_be_read_are_denied_before_the_challenge() {
    let world = World::new().await;
    world.released().await;
    world.put(Kind::Node, "node-2.example", b"{}", &[]).await;
    let connection = world.connect().await.unwrap();
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::NodesUnavailable);
    world.remove(Kind::Node, "node-2.example").await;
    world.released().await;
}

#[tokio::test]
async fn a_secret_that_demands_the_exporter_is_denied_without_it() {
    let extra = "allow_channel_binding_none = true\n";
    let world = World::build(Build { broker_extra: extra, ..Build::default() }).await;
    let outcome = release_without_exporter(&world).await;
    world.expect(outcome);
    let prepared = world.kv().set_exporter_demanded(&SecretPath::parse(SECRET).unwrap(), true).await.unwrap();
    world.change(prepared.transaction, Kind::SecretMetadata, SECRET, &[]).await;
    let outcome = release_without_exporter(&world).await.map(drop);
    world.assert_denied(outcome, Denial::ChannelBindingDemanded);
    let other = SoftAttester { process: other_subject(), ..world.attester() };
    world.expect(world.release_with(&other, Request::of([SECRET])).await);
}

/// A whole release over a connection whose exporter the client says it cannot reach.
async fn release_without_exporter(world: &World) -> Result<v1::Released, portcullis::client::ReleaseError> {
    let connection = world.connect().await?;
    let (mut open, recipient) = open_message(&[SECRET]);
    open.channel_bindings = vec!["none".to_owned()];
    let mut manual = Manual::open(&connection, open, recipient).await?;
    assert_eq!(manual.challenge.channel_binding, "none");
    let binding = binding_without_exporter(&manual);
    manual.answer(world.attester().evidence(&binding)).await
}

fn binding_without_exporter(manual: &Manual) -> [u8; 64] {
    use portcullis::challenge::binding::{Binding, Inputs};
    let Identity { spki_sha256, id, .. } = &manual.identity;
    let inputs = Inputs {
        nonce: manual.challenge.nonce.as_slice().try_into().unwrap(),
        round: manual.challenge.round,
        channel: &[],
        client_spki_sha256: spki_sha256,
        client_id: id,
        audience: &manual.challenge.audience,
        request: &manual.request,
    };
    *Binding::compute(&inputs).as_bytes()
}

#[tokio::test]
async fn an_unknown_secret_is_denied() {
    let world = World::new().await;
    world.released().await;
    let outcome = world.release_with(&world.attester(), Request::of(["kv/payments/nothing"])).await;
    world.assert_denied(outcome, Denial::SecretUnknown);
}

#[tokio::test]
async fn a_request_is_released_whole_or_not_at_all() {
    let world = World::new().await;
    let record = world.assert_denied(
        world.release_with(&world.attester(), Request::of([SECRET, "kv/payments/nothing"])).await,
        Denial::SecretUnknown,
    );
    assert_eq!(record.case().unwrap().refused_secret.as_deref(), Some("kv/payments/nothing"));
    world.released().await;
}

#[tokio::test]
async fn a_disabled_secret_is_denied_and_released_once_enabled() {
    let world = World::new().await;
    world.released().await;
    world.disable_secret(SECRET, true).await;
    world.assert_denied(world.release().await, Denial::SecretDisabled);
    world.disable_secret(SECRET, false).await;
    world.hands.pass(60_000);
    world.released().await;
}

#[tokio::test]
async fn a_destroyed_secret_is_denied_like_an_unknown_one() {
    let world = World::new().await;
    world.released().await;
    let path = SecretPath::parse(SECRET).unwrap();
    let all = portcullis::release::kv::Versions::All;
    let prepared = world.kv().destroy(&path, all, world.hands.now()).await.unwrap();
    world.change(prepared.transaction, Kind::SecretMetadata, SECRET, &[]).await;
    world.assert_denied(world.release().await, Denial::SecretUnknown);
}

#[tokio::test]
async fn a_damaged_record_of_a_secret_is_denied() {
    let world = World::new().await;
    world.released().await;
    world.damage(Kind::SecretMetadata, SECRET).await;
    world.assert_denied(world.release().await, Denial::SecretDamaged);
}

#[tokio::test]
async fn a_damaged_value_of_a_secret_is_denied_and_its_release_taken_back() {
    let world = World::new().await;
    let lease = world.released().await;
    assert_eq!(world.server().broker().leases().count(), 1);
    world.damage(Kind::SecretValue, &format!("{SECRET}@1")).await;
    world.assert_denied(world.release().await, Denial::SecretDamaged);
    let taken_back = world.undelivered();
    assert_eq!(taken_back.len(), 1);
    assert_ne!(taken_back[0].1, lease.lease_id);
    assert_eq!(world.server().broker().leases().count(), 1);
}

#[tokio::test]
async fn another_secrets_record_in_its_place_is_denied() {
    let world = World::new().await;
    world.released().await;
    world.put_secret("kv/payments/other", b"another").await;
    let vault = world.server().registry().vault().clone();
    let other = vault.key_of(Kind::SecretMetadata, "kv/payments/other");
    let value = vault.store().get(&other).await.unwrap().unwrap();
    let mut transaction = Transaction::default();
    let key = vault.key_of(Kind::SecretMetadata, SECRET);
    transaction.puts.push(Entry { key, value });
    vault.commit(transaction).await.unwrap();
    world.assert_denied(world.release().await, Denial::SecretDamaged);
}

#[tokio::test]
async fn a_lease_over_the_maximum_is_denied() {
    let world = World::new().await;
    let asked = |ttl_seconds| Request { ttl_seconds, ..Request::of([SECRET]) };
    world.expect(world.release_with(&world.attester(), asked(900)).await);
    let prepared = world.kv().set_lease(&SecretPath::parse(SECRET).unwrap(), 60, 300).await.unwrap();
    world.change(prepared.transaction, Kind::SecretMetadata, SECRET, &[]).await;
    world.expect(world.release_with(&world.attester(), asked(300)).await);
    let outcome = world.release_with(&world.attester(), asked(301)).await;
    world.assert_denied(outcome, Denial::TtlTooLong);
}

#[tokio::test]
async fn a_held_lease_that_no_engine_offers_is_denied() {
    let world = World::new().await;
    world.released().await;
    let connection = world.connect().await.unwrap();
    let (mut open, recipient) = open_message(&[SECRET]);
    open.hold = true;
    let mut manual = Manual::open(&connection, open, recipient).await.unwrap();
    let evidence = world.attester().evidence(&manual.binding());
    world.assert_denied(manual.answer(evidence).await, Denial::HoldUnavailable);
}

#[tokio::test]
async fn parameters_that_the_engine_does_not_take_are_denied() {
    let world = World::new().await;
    world.released().await;
    let parameters = BTreeMap::from([("csr".to_owned(), b"x".to_vec())]);
    let request = Request { secrets: vec![(SECRET.to_owned(), parameters)], ttl_seconds: 0 };
    let outcome = world.release_with(&world.attester(), request).await;
    world.assert_denied(outcome, Denial::ParametersNotTaken);
}
