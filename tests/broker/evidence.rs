//! Evidence that does not verify: each test changes one thing of a document that would.

use crate::support::wire::Wire;
use crate::support::*;
use portcullis::audit::record::Record;
use portcullis::case::Stage;
use portcullis::denial::Denial;
use portcullis::proto::v1;
use std::sync::Arc;

/// Unverified evidence latches nothing: the same replica's next document, a good one, is believed.
async fn refused_once(guest: &Guest<'_>, attester: SoftAttester, denial: Denial) -> Record {
    let spoiled = attempt(&guest.connection, open_message(&[SECRET]).0, &attester).await;
    let record = guest.refused(spoiled, denial);
    assert_eq!(record.case().unwrap().stage, Stage::Evidence, "{record:?}");
    assert!(guest.ask(&[SECRET]).await.is_ok(), "an unverified refusal latches nothing");
    record
}

fn spoiled(guest: &Guest<'_>, spoil: fn(Vec<u8>) -> Vec<u8>) -> SoftAttester {
    SoftAttester { spoil, ..guest.attester.clone() }
}

#[test]
fn malformed_evidence_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let spoils: [fn(Vec<u8>) -> Vec<u8>; 5] = [
            |body| body[..body.len() - 1].to_vec(),
            |body| [body.as_slice(), &[0]].concat(),
            |_| b"{\"looks\": \"like json\"}".to_vec(),
            |_| vec![0],
            // Tag 18 written in two bytes: not the deterministic encoding.
            |body| [&[0xd8, 0x12][..], &body[1..]].concat(),
        ];
        for spoil in spoils {
            refused_once(&guest, spoiled(&guest, spoil), Denial::EvidenceMalformed).await;
        }
    });
}

#[test]
fn a_flipped_signature_bit_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let flip = |mut body: Vec<u8>| {
            *body.last_mut().unwrap() ^= 1;
            body
        };
        refused_once(&guest, spoiled(&guest, flip), Denial::EvidenceSignatureInvalid).await;
    });
}

#[test]
fn a_flipped_claim_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let flip = |mut body: Vec<u8>| {
            let path = b"/usr/bin/payments";
            let at = body.windows(path.len()).position(|window| window == path).unwrap();
            body[at + 1] ^= 1;
            body
        };
        refused_once(&guest, spoiled(&guest, flip), Denial::EvidenceSignatureInvalid).await;
    });
}

#[test]
fn a_key_that_is_not_enrolled_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let attester = SoftAttester { key: Arc::new(NodeKeyPair::generate()), ..guest.attester.clone() };
        refused_once(&guest, attester, Denial::EndorsementUntrusted).await;
    });
}

#[test]
fn an_expired_enrolment_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let node = "node-expired.example".to_owned();
        let attester = SoftAttester { key: world.expired.clone(), node, ..guest.attester.clone() };
        refused_once(&guest, attester, Denial::EndorsementExpired).await;
    });
}

#[test]
fn a_node_that_may_not_vouch_for_the_identity_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let node = "node-elsewhere.example".to_owned();
        let attester = SoftAttester { key: world.elsewhere.clone(), node, ..guest.attester.clone() };
        refused_once(&guest, attester, Denial::EndorsementNotPermitted).await;
    });
}

#[test]
fn a_statement_that_names_another_node_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let attester = SoftAttester { node: "node-elsewhere.example".to_owned(), ..guest.attester.clone() };
        refused_once(&guest, attester, Denial::EvidenceNodeMismatch).await;
    });
}

#[test]
fn evidence_older_than_a_minute_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let within = SoftAttester { age_seconds: 58, ..guest.attester.clone() };
        assert!(attempt(&guest.connection, open_message(&[SECRET]).0, &within).await.is_ok());
        let attester = SoftAttester { age_seconds: 62, ..guest.attester.clone() };
        refused_once(&guest, attester, Denial::EvidenceTooOld).await;
    });
}

#[test]
fn evidence_from_the_future_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let within = SoftAttester { age_seconds: -29, ..guest.attester.clone() };
        assert!(attempt(&guest.connection, open_message(&[SECRET]).0, &within).await.is_ok());
        let attester = SoftAttester { age_seconds: -33, ..guest.attester.clone() };
        refused_once(&guest, attester, Denial::EvidenceFromFuture).await;
    });
}

/// Answers a challenge with evidence for the binding that `change` makes of the one due.
async fn misbound(guest: &Guest<'_>, change: impl FnOnce(&mut Parts)) {
    let mut asked = guest.asked(&[SECRET]).await;
    let binding = asked.binding_as(change);
    assert_ne!(binding, asked.binding());
    let outcome = asked.answer(guest.attester.evidence(&binding)).await;
    guest.refused(outcome, Denial::EvidenceBindingMismatch);
}

#[test]
fn replayed_evidence_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut first = guest.asked(&[SECRET]).await;
        let evidence = guest.attester.evidence(&first.binding());
        assert!(first.answer(evidence.clone()).await.is_ok());
        // The same connection, the same request, the next challenge.
        let mut second = ask(&guest.connection, first.open.clone()).await.unwrap();
        let outcome = second.answer(evidence.clone()).await;
        guest.refused(outcome, Denial::EvidenceBindingMismatch);
        // Another connection of the same replica.
        let again = guest.again().await;
        let mut third = ask(&again.connection, first.open.clone()).await.unwrap();
        let outcome = third.answer(evidence).await;
        again.refused(outcome, Denial::EvidenceBindingMismatch);
        assert!(again.ask(&[SECRET]).await.is_ok());
    });
}

#[test]
fn captured_evidence_that_was_never_submitted_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let captured = guest.asked(&[SECRET]).await;
        let evidence = guest.attester.evidence(&captured.binding());
        drop(captured);
        let mut next = guest.asked(&[SECRET]).await;
        let outcome = next.answer(evidence).await;
        guest.refused(outcome, Denial::EvidenceBindingMismatch);
    });
}

#[test]
fn evidence_of_another_connection_is_denied() {
    common(|world| async move {
        let (guest, other) = (Guest::new(world).await, Guest::new(world).await);
        let exporter = other.connection.identity().exporter;
        misbound(&guest, |parts| parts.channel = exporter.to_vec()).await;
        misbound(&guest, |parts| parts.channel = vec![]).await;
    });
}

#[test]
fn evidence_for_another_key_of_the_same_identity_is_denied() {
    common(|world| async move {
        let (guest, other) = (Guest::new(world).await, Guest::new(world).await);
        let key = other.connection.identity().spki_sha256;
        misbound(&guest, |parts| parts.spki_sha256 = key).await;
    });
}

#[test]
fn evidence_for_another_part_of_the_request_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        misbound(&guest, |parts| parts.nonce[31] ^= 1).await;
        misbound(&guest, |parts| parts.round = 1).await;
        misbound(&guest, |parts| parts.id = SpiffeIdOf("spiffe://example.org/ns/payments/apj").into()).await;
        misbound(&guest, |parts| parts.audience = "spiffe://example.org/another".into()).await;
        misbound(&guest, |parts| parts.open.recipient_key = open_message(&[SECRET]).1.public_key().to_vec())
            .await;
        misbound(&guest, |parts| parts.open.secrets[0].path = SECOND.into()).await;
        misbound(&guest, |parts| parts.open.ttl_seconds = 300).await;
        misbound(&guest, |parts| parts.open.hold = true).await;
        misbound(&guest, |parts| parts.open.channel_bindings = vec!["tls-exporter".into()]).await;
        let parameter = || ("a".to_owned(), vec![]);
        misbound(&guest, |parts| parts.open.secrets[0].parameters.extend([parameter()])).await;
        assert!(guest.ask(&[SECRET]).await.is_ok());
    });
}

struct SpiffeIdOf(&'static str);

impl From<SpiffeIdOf> for portcullis::spiffe::SpiffeId {
    fn from(text: SpiffeIdOf) -> Self {
        portcullis::spiffe::SpiffeId::parse(text.0).unwrap()
    }
}

#[test]
fn a_format_that_was_not_offered_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        for format in ["tpm2", "Process", ""] {
            let mut asked = guest.asked(&[SECRET]).await;
            assert_eq!(asked.challenge.formats, ["process"]);
            let mut evidence = guest.attester.evidence(&asked.binding());
            evidence.documents[0].format = format.into();
            let outcome = asked.answer(evidence).await;
            guest.refused(outcome, Denial::EvidenceFormatNotOffered);
        }
    });
}

#[test]
fn the_same_format_twice_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut asked = guest.asked(&[SECRET]).await;
        let mut evidence = guest.attester.evidence(&asked.binding());
        evidence.documents.push(evidence.documents[0].clone());
        let outcome = asked.answer(evidence).await;
        guest.refused(outcome, Denial::EvidenceFormatNotOffered);
    });
}

#[test]
fn evidence_out_of_its_shape_is_denied() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let shapes: [fn(&mut v1::Evidence); 5] = [
            |evidence| evidence.documents.clear(),
            |evidence| evidence.documents = vec![evidence.documents[0].clone(); 9],
            |evidence| evidence.documents[0].body.clear(),
            |evidence| evidence.documents[0].body.resize(128 * 1024 + 1, 0),
            |evidence| evidence.documents[0].endorsements = vec![vec![]; 17],
        ];
        for shape in shapes {
            let mut asked = guest.asked(&[SECRET]).await;
            let mut evidence = guest.attester.evidence(&asked.binding());
            shape(&mut evidence);
            let outcome = asked.answer(evidence).await;
            guest.refused(outcome, Denial::RequestMalformed);
        }
        assert!(guest.ask(&[SECRET]).await.is_ok());
    });
}

#[test]
fn endorsements_that_the_format_does_not_need_are_not_read() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut asked = guest.asked(&[SECRET]).await;
        let mut evidence = guest.attester.evidence(&asked.binding());
        evidence.documents[0].endorsements = vec![b"no certificate".to_vec(); 16];
        assert!(asked.answer(evidence).await.is_ok());
    });
}

#[test]
fn an_empty_body_is_invalid_and_any_other_is_not_released() {
    common(|world| async move {
        let wire = Wire::new(world).await;
        let attester = SoftAttester { spoil: |_| vec![], ..world.attester() };
        let outcome = wire.attempt(&[SECRET], &attester).await.outcome();
        world.refused(outcome, Denial::RequestMalformed);
        let attester = SoftAttester { spoil: |_| vec![0xff; 128 * 1024], ..world.attester() };
        let outcome = wire.attempt(&[SECRET], &attester).await.outcome();
        world.refused(outcome, Denial::EvidenceMalformed);
    });
}

#[test]
fn second_evidence_on_a_stream_that_was_denied_is_not_read() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut asked = guest.asked(&[SECRET]).await;
        let good = guest.attester.evidence(&asked.binding());
        let bad = spoiled(&guest, |body| body[1..].to_vec()).evidence(&asked.binding());
        let outcome = asked.answer(bad).await;
        guest.refused(outcome, Denial::EvidenceMalformed);
        // Whether it can still be queued does not matter.
        let _ = asked.stream.send(portcullis::proto::v1::release_request::Step::Evidence(good)).await;
        assert_eq!(asked.stream.message().await.unwrap(), None, "nothing follows a status");
    });
}

#[test]
fn a_verified_statement_is_recorded_by_its_claims_and_never_by_its_bytes() {
    common(|world| async move {
        let guest = Guest::new(world).await;
        let mut asked = guest.asked(&[SECRET]).await;
        let evidence = guest.attester.evidence(&asked.binding());
        let body = evidence.documents[0].body.clone();
        let lease_id = asked.answer(evidence).await.unwrap().lease_id;
        let all = world.records();
        let record = all.iter().find(|record| serde_json::to_string(record).unwrap().contains(&lease_id));
        let case = record.unwrap().case().unwrap();
        assert_eq!(case.node.as_deref(), Some(NODE));
        assert_eq!((case.claims_sha256.len(), case.subject.len()), (64, 64));
        let text = serde_json::to_string(record.unwrap()).unwrap();
        use base64::Engine;
        assert!(!text.contains(&hex::encode(&body[body.len() - 64..])));
        assert!(!text.contains(&base64::engine::general_purpose::STANDARD_NO_PAD.encode(&body)));
    });
}
