//! A clock that is not to be trusted, what heals it, and what a restart keeps.

use crate::support::*;
use portcullis::client::Request;
use portcullis::denial::Denial;

#[tokio::test]
async fn a_clock_that_was_set_back_is_denied_and_heals_only_by_catching_up() {
    let world = World::new().await;
    world.released().await;
    world.hands.step(-10_000);
    world.assert_denied(world.release().await, Denial::ClockSuspect);
    world.hands.set_synchronised(true);
    tick_for_a_minute(&world);
    world.assert_denied(world.release().await, Denial::ClockSuspect);
    world.hands.step(10_000);
    world.released().await;
}

#[tokio::test]
async fn a_small_step_forward_is_denied_and_heals_once_synchronised_for_thirty_seconds() {
    let world = World::new().await;
    world.released().await;
    world.hands.step(600_000);
    world.assert_denied(world.release().await, Denial::ClockSuspect);
    tick_for_a_minute(&world);
    world.assert_denied(world.release().await, Denial::ClockSuspect);
    world.hands.set_synchronised(true);
    tick_for_a_minute(&world);
    world.released().await;
}

#[tokio::test]
async fn a_large_step_forward_is_denied_until_an_administrator_accepts_it() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    world.expect(connection.release(&world.attester(), Request::of([SECRET])).await);
    world.hands.step(2 * 3_600_000);
    world.hands.set_synchronised(true);
    tick_for_a_minute(&world);
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::ClockSuspect);
    world.server().broker().clock.accept().unwrap();
    // By the time that is accepted now, the workload's certificate has ended.
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::PeerCertificateExpired);
}

#[tokio::test]
async fn a_clock_that_cannot_be_read_is_denied() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    Manual::of(&connection, &[SECRET]).await.unwrap();
    world.hands.set_unreadable(true);
    world.assert_denied(Manual::of(&connection, &[SECRET]).await.map(drop), Denial::ClockSuspect);
    world.hands.set_unreadable(false);
    world.released().await;
}

#[tokio::test]
async fn a_clock_that_steps_after_the_challenge_is_denied() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let mut manual = Manual::of(&connection, &[SECRET]).await.unwrap();
    let evidence = world.attester().evidence(&manual.binding());
    world.hands.step(-10_000);
    world.assert_denied(manual.answer(evidence).await, Denial::ClockSuspect);
}

#[tokio::test]
async fn a_start_before_the_highest_time_is_denied_until_it_caught_up() {
    let mut world = World::new().await;
    world.released().await;
    world.stop().await;
    world.hands.step(-20_000);
    world.start().await;
    world.assert_denied(world.release().await, Denial::ClockSuspect);
    world.hands.pass(20_000);
    world.released().await;
}

#[tokio::test]
async fn a_restart_keeps_secrets_and_leases() {
    let mut world = World::new().await;
    let lease = world.released().await;
    world.stop().await;
    world.start().await;
    let broker = world.server().broker();
    let standing = broker.leases().standing(broker.clock.untrusted());
    assert_eq!(standing.len(), 1);
    assert_eq!((&standing[0].id, standing[0].not_after), (&lease.lease_id, lease.not_after));
    assert_eq!(standing[0].secrets, vec![(SECRET.to_owned(), 1)]);
    let again = world.released().await;
    assert_eq!(again.secrets[0].fields["value"].expose_secret(), VALUE);
}

#[tokio::test]
async fn a_lease_ends_by_either_clock() {
    let world = World::new().await;
    let request = Request { ttl_seconds: 60, ..Request::of([SECRET]) };
    world.expect(world.release_with(&world.attester(), request).await);
    let broker = world.server().broker();
    let now = broker.clock.untrusted();
    assert_eq!(broker.leases().standing(now).len(), 1);
    let wall_only = portcullis::time::Now { wall: now.wall.plus(60_000), ..now };
    let boot_only = portcullis::time::Now { boot: now.boot.plus(60_000), ..now };
    assert!(broker.leases().standing(wall_only).is_empty());
    assert!(broker.leases().standing(boot_only).is_empty());
}

/// What the broker does once a second, for a minute.
fn tick_for_a_minute(world: &World) {
    for _ in 0..60 {
        world.hands.pass(1_000);
        world.server().broker().clock.tick();
    }
}
