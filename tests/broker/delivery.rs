//! What can still stop a release once it is decided, and what a drain and a deadline leave of it.

use crate::support::rig::{Hook, Rig};
use crate::support::wire::{GRPC, RELEASE, Wire, challenge_of};
use crate::support::*;
use portcullis::audit::record::{Event, Record};
use portcullis::denial::Denial;
use portcullis::policy::cedar::PolicySet;
use portcullis::policy::{Catalog, SecretStanding, Unknown};
use portcullis::proto::v1::release_request::Step as Ask;
use portcullis::release::Engine;
use portcullis::release::kv::Kv;
use portcullis::request::SecretPath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use zeroize::Zeroizing;

#[tokio::test]
async fn the_newest_version_is_released() {
    let world = World::new().await;
    world.put_secret(SECRET, b"the second").await;
    let lease = world.released().await;
    assert_eq!(
        (lease.secrets[0].version, lease.secrets[0].fields["value"].expose_secret()),
        (2, &b"the second"[..])
    );
}

/// One hook that runs once; the decision rests on what was before it.
fn once<F>(act: impl Fn(Arc<World>, Arc<portcullis::policy::Pdp>) -> F + Send + Sync + 'static) -> Hook
where
    F: Future<Output = ()> + Send + 'static,
{
    let done = AtomicBool::new(true);
    Arc::new(move |world, pdp| {
        // The first request is the one that succeeds.
        if done.swap(false, Ordering::SeqCst) {
            return Box::pin(async { None });
        }
        let acted = act(world, pdp);
        Box::pin(async move {
            acted.await;
            None
        })
    })
}

/// A request that succeeds, then one during whose decision `hook` acts. The grant was on record as a release, so a second
/// record takes it back, and no lease stands.
async fn taken_back(hook: Hook, denial: Denial, detail: Option<&str>) -> Arc<World> {
    let world = Arc::new(World::new().await);
    let rig = Rig::new(&world, hook).await;
    rig.ask(&world).await.unwrap_or_else(|status| panic!("{}", world.why(&status)));
    let (leases, before) = (world.leases().len(), world.records().len());
    let outcome = rig.ask(&world).await;
    let record = world.refused(outcome, denial);
    if let Some(detail) = detail {
        assert_eq!(record.case().unwrap().detail, detail);
    }
    let records = world.records();
    let granted = records[before..].iter().find_map(|record| match &record.event {
        Event::Released { lease_id, .. } => Some((record.id.clone(), lease_id.clone())),
        _ => None,
    });
    let (decision, lease) = granted.expect("the grant was recorded first");
    let back = |record: &Record| match &record.event {
        Event::Undelivered { decision_id, lease_id, detail } => {
            *decision_id == decision && *lease_id == lease && detail == denial.name()
        }
        _ => false,
    };
    assert!(records.iter().any(back), "it was taken back");
    assert!(world.leases().len() <= leases && world.leases().iter().all(|standing| standing.id != lease));
    world
}

#[tokio::test]
async fn a_grant_at_its_expiry_is_denied() {
    let hook = once(|world, _| async move { world.hands.pass(5_000) });
    taken_back(hook, Denial::GrantExpired, None).await;
}

#[tokio::test]
async fn a_grant_decided_before_a_policy_change_is_denied() {
    let hook = once(|_, pdp| async move { pdp.set(Some(PolicySet::compile(POLICY).unwrap()), 2) });
    taken_back(hook, Denial::GrantSuperseded, Some("policy")).await;
}

#[tokio::test]
async fn a_grant_decided_before_the_policy_was_lost_is_denied() {
    let hook = once(|_, pdp| async move { pdp.set(None, 0) });
    taken_back(hook, Denial::GrantSuperseded, Some("policy")).await;
}

#[tokio::test]
async fn a_grant_decided_before_a_reference_change_is_denied() {
    let hook = once(|world, _| async move {
        drop(world.put_reference("payments-1", &"00".repeat(32), 1000).await);
    });
    taken_back(hook, Denial::GrantSuperseded, Some("reference")).await;
}

#[tokio::test]
async fn a_grant_decided_before_a_node_was_removed_is_denied() {
    let hook = once(|world, _| async move {
        drop(world.remove(portcullis::store::Kind::Node, NODE).await);
    });
    taken_back(hook, Denial::GrantSuperseded, Some("nodes")).await;
}

#[tokio::test]
async fn a_grant_decided_before_the_secret_was_disabled_is_denied() {
    let hook = once(|world, _| async move {
        drop(world.disable_secret(SECRET, true).await);
    });
    let world = taken_back(hook, Denial::GrantSuperseded, None).await;
    assert!(world.release().await.is_err());
}

#[tokio::test]
async fn a_grant_decided_before_the_secret_changed_is_denied() {
    let hook = once(|world, _| async move {
        drop(world.put_secret(SECRET, b"another").await);
    });
    taken_back(hook, Denial::GrantSuperseded, None).await;
}

#[tokio::test]
async fn a_grant_decided_before_a_revocation_is_denied() {
    let hook = once(|world, _| async move { world.write_crl(&[world.leaf.serial], 86_400_000).await });
    taken_back(hook, Denial::PeerRevoked, None).await;
    let hook = once(|world, _| async move {
        let body = serde_json::json!({ "identity": { "identity": WORKLOAD, "why": "taken" } });
        let body = serde_json::to_vec(&body).unwrap();
        drop(world.put(portcullis::store::Kind::Revocation, "one", &body, &[]).await);
    });
    taken_back(hook, Denial::PeerRevokedByBroker, None).await;
}

#[tokio::test]
async fn a_grant_decided_before_the_clock_stepped_is_denied() {
    let hook = once(|world, _| async move { world.hands.step(-10_000) });
    taken_back(hook, Denial::ClockSuspect, None).await;
}

/// Denied before anything was granted, by the store's silence or by a panic of the broker itself.
async fn stopped(answer: fn() -> Option<Unknown>, denial: Denial) {
    let world = Arc::new(World::new().await);
    let first = AtomicBool::new(true);
    let hook: Hook = Arc::new(move |_, _| {
        let first = first.swap(false, Ordering::SeqCst);
        Box::pin(async move { if first { None } else { answer() } })
    });
    let rig = Rig::new(&world, hook).await;
    assert!(rig.ask(&world).await.is_ok());
    let leases = world.leases().len();
    let outcome = rig.ask(&world).await;
    world.refused(outcome, denial);
    assert_eq!(world.leases().len(), leases);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_denied() {
    stopped(|| Some(Unknown::Unavailable), Denial::StoreUnavailable).await;
}

#[tokio::test]
async fn a_defect_is_denied() {
    stopped(|| panic!("a defect, on purpose"), Denial::Defect).await;
}

/// The engine `kv` with a bug that shows when it is asked for a value, so many times.
struct Buggy {
    kv: Kv,
    bugs: AtomicUsize,
}

#[tonic::async_trait]
impl Catalog for Buggy {
    async fn standing(&self, path: &SecretPath) -> Result<SecretStanding, Unknown> {
        self.kv.standing(path).await
    }
}

#[tonic::async_trait]
impl Engine for Buggy {
    async fn open(&self, path: &SecretPath, version: u64, epoch: u64) -> Result<Zeroizing<Vec<u8>>, Unknown> {
        let left = self.bugs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |bugs| bugs.checked_sub(1));
        assert!(left.is_err(), "a bug, on purpose");
        Engine::open(&self.kv, path, version, epoch).await
    }

    async fn stands(&self, path: &SecretPath, version: u64, epoch: u64) -> Result<bool, Unknown> {
        Engine::stands(&self.kv, path, version, epoch).await
    }
}

/// The record says "released" by then: it is taken back, and nobody else on the connection hears of it.
#[tokio::test]
async fn an_engine_that_panics_after_the_record_is_denied_and_its_release_is_taken_back() {
    let world = Arc::new(World::new().await);
    let rig = Rig::with_engine(&world, Arc::new(Buggy { kv: world.kv(), bugs: AtomicUsize::new(1) })).await;
    let connection = rig.connect(&world).await;
    let mut other = ask(&connection, open_message(&[SECRET]).0).await.expect("a challenge");
    let before = world.records().len();
    let outcome = attempt(&connection, open_message(&[SECRET]).0, &world.attester()).await;
    world.refused(outcome, Denial::Defect);
    let records = world.records();
    let Event::Released { lease_id, .. } = &records[before].event else { panic!("{records:#?}") };
    let back = Event::Undelivered {
        decision_id: records[before].id.clone(),
        lease_id: lease_id.clone(),
        detail: Denial::Defect.name().to_owned(),
    };
    assert_eq!(records[before + 1].event, back, "right behind it");
    assert_eq!(world.leases().len(), 0, "its lease ended");
    assert!(!connection.is_closed());
    let evidence = world.attester().evidence(&other.binding());
    other.answer(evidence).await.unwrap_or_else(|status| panic!("{}", world.why(&status)));
    assert_eq!((world.leases().len(), world.undelivered().len()), (1, 1));
    assert!(attempt(&connection, open_message(&[SECRET]).0, &world.attester()).await.is_ok());
}

/// A deadline that passes during the decision: nothing goes out after it.
#[tokio::test]
async fn a_decision_after_the_callers_deadline_is_not_delivered() {
    let world = World::new().await;
    let wire = Wire::new(&world).await;
    let open = open_message(&[SECRET]).0;
    let mut call = wire.call(RELEASE, &[GRPC, ("grpc-timeout", "5S")]).await;
    call.step(Ask::Open(open.clone())).await;
    let challenge = challenge_of(&call.message().await.unwrap());
    let evidence = world.attester().evidence(&wire.binding(&challenge, open));
    world.hands.pass(6_000);
    call.step(Ask::Evidence(evidence)).await;
    let seen = call.end().await;
    world.refused(seen.outcome(), Denial::DeadlinePassed);
    assert_eq!(world.leases().len(), 0);
}

/// A request under way when the broker stops still gets its answer, by its status, and no stream is refused unheard.
#[tokio::test]
async fn a_request_under_way_is_answered_while_the_broker_drains() {
    let mut world = World::new().await;
    let (granted, denied) = {
        let (one, two) = (Wire::new(&world).await, Wire::new(&world).await);
        (one, two)
    };
    let open = open_message(&[SECRET]).0;
    let mut calls = Vec::new();
    for wire in [&granted, &denied] {
        let mut call = wire.release().await;
        call.step(Ask::Open(open.clone())).await;
        let challenge = challenge_of(&call.message().await.unwrap());
        calls.push((call, wire.binding(&challenge, open.clone())));
    }
    let attester = world.attester();
    let server = world.server.take().unwrap();
    let stopping = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished(), "it waits for the streams that it began");
    let (mut second, _) = calls.pop().unwrap();
    let (mut first, binding) = calls.pop().unwrap();
    first.step(Ask::Evidence(attester.evidence(&binding))).await;
    assert!(first.end().await.outcome().is_ok());
    second.step(Ask::Evidence(attester.evidence(&[9; 64]))).await;
    let outcome = second.end().await.outcome();
    world.refused(outcome, Denial::EvidenceBindingMismatch);
    tokio::time::timeout(Duration::from_secs(5), stopping).await.expect("then it stops").unwrap();
    assert!(matches!(world.records().last().unwrap().event, Event::Stopped {}));
}
