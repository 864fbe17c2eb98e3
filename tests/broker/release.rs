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
