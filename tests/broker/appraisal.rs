//! Claims against reference values.

use crate::support::*;
use portcullis::denial::Denial;
use portcullis::store::Kind;

#[test]
fn another_executable_is_denied() {
    common(|world| async move {
        let mut guest = Guest::new(world).await;
        guest.attester.process.executable.sha256[0] ^= 1;
        let outcome = guest.ask(&[SECRET]).await;
        let record = guest.refused(outcome, Denial::MeasurementMismatch);
        assert!(record.case().unwrap().detail.contains("payments-1"), "{record:?}");
    });
}

#[test]
fn a_workload_without_reference_values_is_denied() {
    common(|world| async move {
        let mut guest = Guest::stranger(world, "spiffe://example.org/batch/job").await;
        guest.attester.key = world.elsewhere.clone();
        guest.attester.node = "node-elsewhere.example".into();
        let outcome = guest.ask(&[SECRET]).await;
        guest.refused(outcome, Denial::ReferenceValuesMissing);
    });
}

#[test]
fn reference_values_that_have_ended_are_denied() {
    common(|world| async move {
        let mut guest = Guest::new(world).await;
        guest.attester.process.executable.sha256 = [0xcd; 32];
        let outcome = guest.ask(&[SECRET]).await;
        guest.refused(outcome, Denial::ReferenceValuesExpired);
    });
}

#[tokio::test]
async fn reference_values_end_while_the_broker_runs() {
    let world = World::new().await;
    world.put_reference("payments-1", &"ab".repeat(32), 60_000).await;
    let guest = Guest::new(&world).await;
    world.hands.pass(60_001);
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::ReferenceValuesExpired);
    world.put_reference("payments-2", &"ab".repeat(32), 60_000).await;
    assert!(guest.ask(&[SECRET]).await.is_ok(), "an uncertain denial latches nothing");
}

#[tokio::test]
async fn reference_values_that_cannot_be_read_are_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.put(Kind::ReferenceSet, "broken", b"{", &[]).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::ReferenceValuesUnavailable);
    world.remove(Kind::ReferenceSet, "broken").await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
}

#[tokio::test]
async fn a_removed_reference_set_no_longer_counts() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.remove(Kind::ReferenceSet, "payments-1").await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::ReferenceValuesMissing);
}
