//! What a workload may be: reference values that are missing, expired, unreadable, or other than the claims.

use crate::support::*;
use portcullis::client::Request;
use portcullis::denial::Denial;
use portcullis::evidence::process::{Executable, Program};
use portcullis::store::Kind;

#[tokio::test]
async fn a_workload_without_reference_values_is_denied() {
    let world = World::new().await;
    world.released().await;
    world.remove(Kind::ReferenceSet, "payments-1").await;
    world.assert_denied(world.release().await, Denial::ReferenceValuesMissing);
}

#[tokio::test]
async fn expired_reference_values_are_denied() {
    let world = World::new().await;
    world.put_reference("payments-1", &"ab".repeat(32), 60_000).await;
    world.released().await;
    world.hands.pass(60_000);
    let record = world.assert_denied(world.release().await, Denial::ReferenceValuesExpired);
    assert_eq!(record.case().unwrap().detail, "reference:payments-1");
    world.put_reference("payments-1", &"ab".repeat(32), 60_000).await;
    world.released().await;
}

#[tokio::test]
async fn reference_values_that_do_not_parse_are_denied_before_the_challenge() {
    let world = World::new().await;
    world.released().await;
    world.put(Kind::ReferenceSet, "payments-2", b"{}", &[]).await;
    let connection = world.connect().await.unwrap();
    let outcome = Manual::of(&connection, &[SECRET]).await.map(drop);
    world.assert_denied(outcome, Denial::ReferenceValuesUnavailable);
    world.remove(Kind::ReferenceSet, "payments-2").await;
    world.released().await;
}

#[tokio::test]
async fn damaged_reference_values_are_denied_before_the_challenge() {
    let world = World::new().await;
    world.released().await;
    world.damage(Kind::ReferenceSet, "payments-1").await;
    world.server().registry().load().await;
    world.assert_denied(world.release().await, Denial::ReferenceValuesUnavailable);
}

#[tokio::test]
async fn another_executable_is_denied() {
    let world = World::new().await;
    world.released().await;
    let executable = Executable { sha256: [0xcd; 32], ..process().executable };
    let other = SoftAttester {
        process: portcullis::evidence::process::ProcessClaims { executable, ..process() },
        ..world.attester()
    };
    let outcome = world.release_with(&other, Request::of([SECRET])).await;
    world.assert_denied(outcome, Denial::MeasurementMismatch);
}

#[tokio::test]
async fn a_program_that_no_set_speaks_of_is_denied() {
    let world = World::new().await;
    world.released().await;
    let program = vec![Program { path: "/usr/bin/child".into(), sha256: [0xef; 32] }];
    let other = SoftAttester {
        process: portcullis::evidence::process::ProcessClaims { program, ..process() },
        ..world.attester()
    };
    let outcome = world.release_with(&other, Request::of([SECRET])).await;
    world.assert_denied(outcome, Denial::MeasurementMismatch);
}

#[tokio::test]
async fn a_set_for_the_whole_identity_stands_before_one_for_many() {
    let world = World::new().await;
    world.released().await;
    let set = serde_json::json!({
        "name": "payments-own",
        "workload": WORKLOAD,
        "not_after": world.hands.now().plus(86_400_000).to_string(),
        "process": { "executables": [{ "sha256": "cd".repeat(32) }] },
    });
    world.put(Kind::ReferenceSet, "payments-own", &serde_json::to_vec(&set).unwrap(), &[]).await;
    world.assert_denied(world.release().await, Denial::MeasurementMismatch);
}
