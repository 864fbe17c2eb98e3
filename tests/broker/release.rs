//! The main job, end to end.

use crate::support::*;

#[tokio::test]
async fn an_attested_workload_gets_its_secret() {
    let world = World::new().await;
    let lease = world.released().await;
    assert_eq!(lease.secrets[0].fields["value"].expose_secret(), VALUE);
    assert_eq!(lease.secrets[0].version, 1);
    world.assert_nothing_leaked();
}

#[test]
fn a_defect_is_denied_as_internal_and_never_retried() {
    use portcullis::{api::status::status, broker::Answered, denial::Denial};
    let status = status(&Answered { denial: Denial::Defect, decision_id: None });
    assert_eq!(status.code(), tonic::Code::Internal);
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
}

#[tokio::test]
async fn a_restored_store_releases_nothing_until_an_administrator_accepts_it() {
    use portcullis::audit::record::AdminAct;
    use portcullis::denial::Denial;
    use portcullis::registry::{Restored, conclude};
    let mut world = World::new().await;
    world.released().await;
    // The last step of `portcullis restore`; tests/cli/backup.rs does all of it.
    let act = AdminAct {
        administrator: "(host)".into(),
        key_sha256: String::new(),
        verb: "restore".into(),
        target: "restored to 1".into(),
        details: serde_json::Value::Null,
    };
    let (vault, broker) = (world.server().registry().vault().clone(), world.server().broker().clone());
    let restored = Restored { to: 1, ..Restored::default() };
    conclude(&vault, &broker.recorder, &restored, act, broker.clock.untrusted()).await.unwrap();
    drop((vault, broker));
    for _ in 0..2 {
        world.stop().await;
        world.start().await;
        let guest = Guest::stranger(&world, WORKLOAD).await;
        guest.refused(guest.ask(&[SECRET]).await, Denial::RestoreNotAccepted);
    }
    assert_eq!(world.admin(&["restore", "accept"]).await, 0);
    world.released().await;
}
