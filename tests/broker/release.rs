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
