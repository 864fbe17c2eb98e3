//! What goes stale between the challenge and the decision.

use crate::support::*;
use portcullis::denial::Denial;

#[tokio::test]
async fn evidence_that_aged_while_its_answer_was_under_way_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let mut asked = guest.asked(&[SECRET]).await;
    let attester = SoftAttester { age_seconds: 55, ..guest.attester.clone() };
    let evidence = attester.evidence(&asked.binding());
    world.hands.pass(8_000);
    let outcome = asked.answer(evidence).await;
    guest.refused(outcome, Denial::EvidenceTooOld);
}

#[tokio::test]
async fn an_enrolment_that_ends_before_the_answer_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.put_node(NODE, &world.node_key, 5_000, "spiffe://example.org/ns/*").await;
    let mut asked = guest.asked(&[SECRET]).await;
    world.hands.pass(5_001);
    let outcome = asked.answer(guest.attester.evidence(&asked.binding())).await;
    guest.refused(outcome, Denial::EndorsementExpired);
}

#[tokio::test]
async fn a_certificate_revoked_after_the_challenge_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let mut asked = guest.asked(&[SECRET]).await;
    world.write_crl(&[guest.serial], 86_400_000).await;
    let outcome = asked.answer(guest.attester.evidence(&asked.binding())).await;
    guest.refused(outcome, Denial::PeerRevoked);
    guest.is_sent_away().await;
}

#[tokio::test]
async fn a_list_that_goes_stale_after_the_challenge_is_denied() {
    let world = World::new().await;
    world.write_crl(&[], 60_000).await;
    let guest = Guest::new(&world).await;
    world.hands.pass(57_000);
    let mut asked = guest.asked(&[SECRET]).await;
    world.hands.pass(4_000);
    let outcome = asked.answer(guest.attester.evidence(&asked.binding())).await;
    guest.refused(outcome, Denial::RevocationStale);
    guest.stays().await;
}

#[tokio::test]
async fn a_node_removed_after_the_challenge_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let mut asked = guest.asked(&[SECRET]).await;
    world.remove(portcullis::store::Kind::Node, NODE).await;
    let outcome = asked.answer(guest.attester.evidence(&asked.binding())).await;
    guest.refused(outcome, Denial::EndorsementUntrusted);
}

#[tokio::test]
async fn nodes_that_cannot_be_read_are_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.put(portcullis::store::Kind::Node, "broken", b"{}", &[]).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::NodesUnavailable);
    world.remove(portcullis::store::Kind::Node, "broken").await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
}
