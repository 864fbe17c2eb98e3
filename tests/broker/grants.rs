//! Nothing leaves without its record; what was recorded and did not leave is taken back.

use crate::support::*;
use portcullis::client::ReleaseError;
use portcullis::denial::{Denial, Reason};
use portcullis::proto::v1::release_request::Step;
use portcullis::registry::StoredRevocation;
use portcullis::spiffe::IdPattern;
use portcullis::store::Kind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// The segment that is being written.
fn segment(world: &World) -> PathBuf {
    let entries = std::fs::read_dir(&world.config.storage.audit).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

/// A denial that the log could not be told of: its id names nothing.
fn assert_denied_without_record(world: &World, outcome: Result<(), ReleaseError>) {
    let error = outcome.expect_err("it was released");
    assert_eq!(error.reason(), Some(Reason::VerificationNotPossible), "{error}");
    let id = error.decision_id().unwrap();
    assert!(world.records().iter().all(|record| record.id != id));
}

#[tokio::test]
async fn a_log_that_was_taken_away_is_denied_and_works_again_once_put_back() {
    let world = World::new().await;
    world.released().await;
    let (there, away) = (segment(&world), world.directory.path().join("away"));
    // The broker tries a failed log once a second by itself; where it was that fast, break it again.
    for _ in 0..10 {
        std::fs::rename(&there, &away).unwrap();
        let outcome = world.release().await.map(drop);
        std::fs::rename(&away, &there).unwrap();
        assert_denied_without_record(&world, outcome);
        let next = world.release().await;
        if next.is_err() {
            world.assert_denied(next, Denial::AuditUnavailable);
            world.released().await;
            return;
        }
    }
    panic!("the log always healed before the next request");
}

#[tokio::test]
async fn a_write_protected_log_is_denied_and_works_again_once_writable() {
    let world = World::new().await;
    world.released().await;
    let there = segment(&world);
    std::fs::set_permissions(&there, std::fs::Permissions::from_mode(0o400)).unwrap();
    let outcome = world.release().await.map(drop);
    assert_denied_without_record(&world, outcome);
    std::fs::set_permissions(&there, std::fs::Permissions::from_mode(0o600)).unwrap();
    released_again(&world).await;
}

/// A release within some seconds: the next request, or the one after the broker's own probe, works.
async fn released_again(world: &World) {
    for _ in 0..50 {
        if world.release().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the log does not work again");
}

#[tokio::test]
async fn a_lost_log_stays_denied_and_does_not_start_again() {
    let mut world = World::new().await;
    world.released().await;
    std::fs::remove_file(segment(&world)).unwrap();
    for _ in 0..3 {
        let error = world.release().await.expect_err("it was released");
        assert_eq!(error.reason(), Some(Reason::VerificationNotPossible));
    }
    world.stop().await;
    let started = portcullis::cli::serve::Server::start(&world.config, world.hands.clone()).await;
    assert!(started.is_err(), "a log was begun anew beside a used store");
}

#[tokio::test]
async fn a_release_whose_record_fails_is_denied_and_taken_back() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let mut manual = Manual::of(&connection, &[SECRET]).await.unwrap();
    let evidence = world.attester().evidence(&manual.binding());
    let (there, away) = (segment(&world), world.directory.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    let outcome = manual.answer(evidence).await.map(drop);
    std::fs::rename(&away, &there).unwrap();
    let error = outcome.expect_err("it was released");
    assert_eq!(error.reason(), Some(Reason::VerificationNotPossible));
    assert_eq!(world.server().broker().leases().count(), 0);
    released_again(&world).await;
    let taken_back = world.undelivered();
    assert_eq!(taken_back.len(), 1);
    assert!(taken_back[0].2.contains("in doubt"));
}

#[tokio::test]
async fn nothing_leaves_before_its_record_is_on_disk() {
    let world = World::new().await;
    let held = world.server().broker().barrier().narrow().await;
    let mut manual = pending(&world).await;
    let early = tokio::time::timeout(Duration::from_millis(300), manual.stream.next()).await;
    assert!(early.is_err(), "something left");
    assert_eq!(world.releases().len(), 1);
    drop(held);
    let released = manual.stream.next().await;
    assert!(matches!(
        world.expect(released),
        Some(portcullis::proto::v1::release_response::Step::Released(_))
    ));
}

#[tokio::test]
async fn a_release_that_nobody_received_is_taken_back_and_its_lease_ended() {
    let world = World::new().await;
    let held = world.server().broker().barrier().narrow().await;
    let manual = pending(&world).await;
    drop(manual);
    // The reset is on its way before the release is: some round trips on loopback.
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(held);
    eventually(|| world.undelivered().len() == 1).await;
    let record = &world.releases()[0];
    let (decision, _, detail) = &world.undelivered()[0];
    assert_eq!(*decision, record.id);
    assert!(detail.contains("did not go out"), "{detail}");
    assert_eq!(world.server().broker().leases().count(), 0);
    world.released().await;
}

#[tokio::test]
async fn a_grant_that_waited_six_seconds_is_denied_and_taken_back() {
    let world = World::new().await;
    let held = world.server().broker().barrier().narrow().await;
    let mut manual = pending(&world).await;
    world.hands.pass(6_000);
    drop(held);
    let outcome = manual.stream.next().await.map(drop);
    world.assert_denied(outcome, Denial::GrantExpired);
    assert_taken_back(&world);
}

#[tokio::test]
async fn a_grant_that_was_decided_before_a_change_of_policy_is_denied_and_taken_back() {
    let world = World::new().await;
    let outcome = race(&world, world.put_policy(ELSEWHERE)).await;
    let record = world.assert_denied(outcome, Denial::GrantSuperseded);
    assert_eq!(record.case().unwrap().detail, "policy");
    assert_taken_back(&world);
}

#[tokio::test]
async fn a_grant_that_was_decided_before_a_change_of_reference_values_is_denied() {
    let world = World::new().await;
    let outcome = race(&world, world.put_reference("payments-1", &"ab".repeat(32), 1_000_000)).await;
    let record = world.assert_denied(outcome, Denial::GrantSuperseded);
    assert_eq!(record.case().unwrap().detail, "reference");
}

#[tokio::test]
async fn a_grant_that_was_decided_before_its_secret_was_disabled_is_denied() {
    let world = World::new().await;
    let outcome = overtake(&world, world.disable_secret(SECRET, true)).await;
    let record = world.assert_denied(outcome, Denial::GrantSuperseded);
    assert_eq!(record.case().unwrap().refused_secret.as_deref(), Some(SECRET));
}

#[tokio::test]
async fn a_grant_that_was_decided_before_its_secret_was_rotated_is_denied() {
    let world = World::new().await;
    let outcome = overtake(&world, world.put_secret(SECRET, b"rotated")).await;
    world.assert_denied(outcome, Denial::GrantSuperseded);
}

#[tokio::test]
async fn a_grant_that_was_decided_before_a_revocation_is_denied() {
    let world = World::new().await;
    let outcome = race(&world, revoke(&world)).await;
    world.assert_denied(outcome, Denial::PeerRevokedByBroker);
    assert_taken_back(&world);
}

/// Revokes the workload, as an administrator does.
pub async fn revoke(world: &World) {
    let identity = IdPattern::parse(WORKLOAD).unwrap();
    let revocation = StoredRevocation::Identity { identity, why: "test".into() };
    world.put(Kind::Revocation, "workload", &serde_json::to_vec(&revocation).unwrap(), &[]).await;
}

/// A request that is decided and recorded, and waits at the barrier.
pub async fn pending(world: &World) -> Manual {
    let connection = world.connect().await.unwrap();
    let mut manual = Manual::of(&connection, &[SECRET]).await.unwrap();
    let evidence = world.attester().evidence(&manual.binding());
    manual.stream.send(Step::Evidence(evidence)).await.unwrap();
    eventually(|| world.releases().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    manual
}

/// A grant that is decided while `act` is committed and not yet in force, and so redeemed after it.
pub async fn race<T>(world: &World, act: impl Future<Output = T>) -> Result<(), ReleaseError> {
    let held = world.server().broker().barrier().narrow().await;
    let store = world.server().registry().vault().store().clone();
    let before = store.last_commit().await.unwrap();
    let request = async {
        while store.last_commit().await.unwrap() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It is committed; a moment later it waits at the barrier, before the grant that follows.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let manual = pending(world).await;
        drop(held);
        manual
    };
    let (_, mut manual) = tokio::join!(act, request);
    manual.stream.next().await.map(drop)
}

/// A grant that is decided before `act` is committed, and redeemed after.
async fn overtake<T>(world: &World, act: impl Future<Output = T>) -> Result<(), ReleaseError> {
    let held = world.server().broker().barrier().narrow().await;
    let store = world.server().registry().vault().store().clone();
    let mut manual = pending(world).await;
    let before = store.last_commit().await.unwrap();
    let committed = async {
        while store.last_commit().await.unwrap() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(held);
    };
    tokio::join!(act, committed);
    manual.stream.next().await.map(drop)
}

fn assert_taken_back(world: &World) {
    let (releases, taken_back) = (world.releases(), world.undelivered());
    assert_eq!((releases.len(), taken_back.len()), (1, 1));
    assert_eq!(taken_back[0].0, releases[0].id);
    assert_eq!(world.server().broker().leases().count(), 0);
}

async fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within five seconds");
}
