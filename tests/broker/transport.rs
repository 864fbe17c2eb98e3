//! Who the peer is, and whether that can be known now: at the handshake, and again at each release.

use crate::support::wire::handshake;
use crate::support::*;
use portcullis::audit::record::{Event, Record};
use portcullis::cli::devca::{DevelopmentCa, Leaf, LeafRequest};
use portcullis::client::ReleaseError;
use portcullis::denial::Denial;
use portcullis::store::Kind;
use portcullis::time::WallTime;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::sync::Arc;

/// Connects with this leaf; a refused client certificate shows at the latest with the first stream (TLS 1.3).
async fn speaks(world: &World, leaf: &Leaf) -> Result<(), ReleaseError> {
    let bundle = world.directory.path().join("etc/example.org.pem");
    let config = write_client(world.directory.path(), &format!("peer-{}", leaf.serial), leaf, &bundle);
    let connection = world.connect_as(&config).await?;
    match attempt(&connection, open_message(&[SECRET]).0, &world.attester()).await {
        Ok(_) => Ok(()),
        Err(status) => {
            // No answer of the broker's: the connection broke, or was closed before a stream could begin.
            let lost = std::error::Error::source(&status).is_some() || status.code() == tonic::Code::Unknown;
            assert!(lost && status.details().is_empty(), "{status:?}");
            Err(ReleaseError::Connect(portcullis::client::ConnectError::Lost(status.to_string())))
        }
    }
}

async fn is_refused(world: &World, leaf: &Leaf) {
    assert!(speaks(world, leaf).await.is_err(), "the handshake was not refused");
    world.assert_nothing_leaked();
}

fn leaf_of(world: &World, change: impl FnOnce(&mut LeafRequest)) -> Leaf {
    let mut request = leaf_request(WORKLOAD, 501, world.hands.now());
    change(&mut request);
    world.ca.leaf(&request).unwrap()
}

/// A leaf of the world's CA, not of the shape of an SVID.
fn odd_leaf(world: &World, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(WORKLOAD.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from(502_u64));
    params.use_authority_key_identifier_extension = true;
    let now = world.hands.now().seconds() as i64;
    params.not_before = time::OffsetDateTime::from_unix_timestamp(now - 60).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(now + 3000).unwrap();
    change(&mut params);
    let issuer =
        Issuer::from_ca_cert_pem(&world.ca.root(), KeyPair::from_pem(&world.ca.key()).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Leaf { certificate: certificate.pem(), key: key.serialize_pem(), serial: 502, spki: vec![] }
}

/// What the broker's own stage says of a chain that no handshake lets in; from outside it is a TLS alert.
fn denial_of(world: &World, leaf: &Leaf) -> Option<Denial> {
    let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
    let remote = "127.0.0.1:1".parse().unwrap();
    let connection = match portcullis::transport::Connection::new(chain, [0; 32], remote) {
        Ok(connection) => Arc::new(connection),
        Err(denial) => return Some(denial),
    };
    let broker = world.server().broker();
    broker.trust.prove(&connection, broker.clock.untrusted()).err()
}

fn handshakes_on_record(world: &World) -> Vec<Record> {
    let refused = |record: &Record| matches!(record.event, Event::HandshakeRefused { .. });
    world.records().into_iter().filter(refused).collect()
}

#[test]
fn a_certificate_with_two_names_or_none_is_denied() {
    common(|world| async move {
        speaks(world, &odd_leaf(world, |_| {})).await.expect("the leaf that the others differ from");
        let two = odd_leaf(world, |params| {
            params.subject_alt_names.push(SanType::URI("spiffe://example.org/ns/other".try_into().unwrap()));
        });
        let none = odd_leaf(world, |params| {
            params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
        });
        for leaf in [two, none] {
            assert_eq!(denial_of(world, &leaf), Some(Denial::PeerIdentityAmbiguous));
            is_refused(world, &leaf).await;
        }
    });
}

#[test]
fn a_certificate_that_is_no_svid_is_denied() {
    common(|world| async move {
        let uri = |text: &str| vec![SanType::URI(text.try_into().unwrap())];
        let odd: [Box<dyn Fn(&mut CertificateParams)>; 6] = [
            Box::new(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            Box::new(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            Box::new(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            Box::new(move |params| params.subject_alt_names = uri("https://example.org/ns/payments/api")),
            Box::new(move |params| params.subject_alt_names = uri("spiffe://example.org")),
            Box::new(move |params| params.subject_alt_names = uri("spiffe://EXAMPLE.org/ns/payments/api")),
        ];
        for change in odd {
            let leaf = odd_leaf(world, change);
            assert_eq!(denial_of(world, &leaf), Some(Denial::PeerIdentityMalformed));
            is_refused(world, &leaf).await;
        }
    });
}

#[test]
fn an_unknown_trust_domain_is_denied() {
    common(|world| async move {
        let leaf = leaf_of(world, |request| {
            request.id = Some(portcullis::spiffe::SpiffeId::parse("spiffe://other.org/api").unwrap())
        });
        assert_eq!(denial_of(world, &leaf), Some(Denial::PeerTrustDomainUnknown));
        is_refused(world, &leaf).await;
    });
}

#[test]
fn a_certificate_of_another_ca_is_denied() {
    common(|world| async move {
        let ca = DevelopmentCa::new("spiffe://example.org", world.hands.now()).unwrap();
        let leaf = ca.leaf(&leaf_request(WORKLOAD, 503, world.hands.now())).unwrap();
        assert_eq!(denial_of(world, &leaf), Some(Denial::PeerUntrusted));
        is_refused(world, &leaf).await;
        assert!(
            handshakes_on_record(world).iter().all(|record| record.denial() != Some(Denial::PeerUntrusted))
        );
    });
}

#[test]
fn no_certificate_and_another_protocol_are_refused() {
    common(|world| async move {
        use tokio::io::AsyncReadExt;
        for (leaf, alpn) in [(None, &b"h2"[..]), (Some(&world.leaf), b"http/1.1")] {
            let pems = leaf.map(|leaf| (leaf.certificate.as_str(), leaf.key.as_str()));
            match handshake(world, pems, alpn).await {
                Err(_) => {}
                // TLS 1.3 tells late: the first read says it.
                Ok(mut stream) => {
                    let read =
                        tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut [0; 1]))
                            .await;
                    assert!(matches!(read, Ok(Err(_) | Ok(0))), "{read:?}");
                }
            }
        }
    });
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused_and_recorded() {
    let world = World::new().await;
    let now = world.hands.now();
    let cases = [
        (601, now.plus(60_000), now.plus(600_000), Denial::PeerCertificateNotYetValid),
        (602, WallTime(now.0 - 600_000), WallTime(now.0 - 1000), Denial::PeerCertificateExpired),
    ];
    for (serial, not_before, not_after, denial) in cases {
        let leaf = leaf_of(&world, |request| {
            (request.serial, request.not_before, request.not_after) = (serial, not_before, not_after);
        });
        assert_eq!(denial_of(&world, &leaf), Some(denial));
        is_refused(&world, &leaf).await;
        let record = world.handshake_record(serial).await;
        assert_eq!(record.denial(), Some(denial));
        assert_eq!(record.case().unwrap().identity.as_ref().unwrap().as_str(), WORKLOAD);
        // At most one record a minute for a leaf key.
        is_refused(&world, &leaf).await;
    }
    assert_eq!(handshakes_on_record(&world).len(), 2);
    let soon = leaf_of(&world, |request| request.not_before = now.plus(20_000));
    speaks(&world, &soon).await.expect("within the allowance of 30 s");
}

#[tokio::test]
async fn a_certificate_that_expires_on_an_open_connection_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.hands.pass(3_600_000 - 60_000 + 1000);
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::PeerCertificateExpired);
    guest.is_sent_away().await;
}

#[tokio::test]
async fn a_certificate_that_lives_too_long_is_denied() {
    let world = World::build(Build { revocation: "short-lived", ..Build::default() }).await;
    let _ = Guest::new(&world).await;
    let leaf = leaf_of(&world, |request| {
        (request.serial, request.not_after) = (603, world.hands.now().plus(2 * 3_600_000))
    });
    assert_eq!(denial_of(&world, &leaf), Some(Denial::PeerCertificateLifetimeTooLong));
    is_refused(&world, &leaf).await;
}

#[tokio::test]
async fn a_revoked_certificate_is_denied() {
    let world = World::new().await;
    let (guest, other) = (Guest::new(&world).await, Guest::new(&world).await);
    world.write_crl(&[guest.serial], 86_400_000).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::PeerRevoked);
    guest.is_sent_away().await;
    let again = world.connect_as(&guest.config).await;
    let refused = match again {
        Err(_) => true,
        Ok(connection) => attempt(&connection, open_message(&[SECRET]).0, &guest.attester).await.is_err(),
    };
    assert!(refused);
    assert_eq!(world.handshake_record(guest.serial).await.denial(), Some(Denial::PeerRevoked));
    assert!(other.ask(&[SECRET]).await.is_ok(), "its neighbour is not concerned");
}

#[tokio::test]
async fn an_identity_or_key_that_the_broker_revoked_is_denied() {
    let world = World::new().await;
    let (guest, other) = (Guest::new(&world).await, Guest::new(&world).await);
    let key = hex::encode(guest.connection.identity().spki_sha256);
    let body = serde_json::json!({ "key": { "key_sha256": key, "why": "lost" } });
    world.put(Kind::Revocation, "key", &serde_json::to_vec(&body).unwrap(), &[]).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::PeerRevokedByBroker);
    guest.is_sent_away().await;
    assert!(other.ask(&[SECRET]).await.is_ok());
    let body = serde_json::json!({ "identity": { "identity": "spiffe://example.org/ns/payments/*", "why": "taken" } });
    world.put(Kind::Revocation, "identity", &serde_json::to_vec(&body).unwrap(), &[]).await;
    let outcome = other.ask(&[SECRET]).await;
    other.refused(outcome, Denial::PeerRevokedByBroker);
    let third = Guest::stranger(&world, "spiffe://example.org/ns/other").await;
    assert!(third.asked(&[SECRET]).await.challenge.nonce.len() == 32, "it gets its challenge");
}

#[tokio::test]
async fn revocations_that_cannot_be_read_deny_everyone() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.put(Kind::Revocation, "broken", b"{}", &[]).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::RevocationUnknown);
    world.remove(Kind::Revocation, "broken").await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
}

#[tokio::test]
async fn an_unreadable_revocation_list_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let good = std::fs::read(world.directory.path().join("etc/example.org.crl")).unwrap();
    for garbage in [&b"not a list"[..], b"", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
        world.write("example.org.crl", garbage).await;
        let outcome = guest.ask(&[SECRET]).await;
        guest.refused(outcome, Denial::RevocationUnknown);
        // A new connection hears why, too: what is not known does not refuse the handshake.
        let again = guest.again().await;
        let outcome = again.ask(&[SECRET]).await;
        again.refused(outcome, Denial::RevocationUnknown);
        again.stays().await;
    }
    world.write("example.org.crl", &good).await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
    std::fs::remove_file(world.directory.path().join("etc/example.org.crl")).unwrap();
    world.reload().await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::RevocationUnknown);
}

#[tokio::test]
async fn a_stale_crl_is_denied() {
    let world = World::new().await;
    world.write_crl(&[], 60_000).await;
    let guest = Guest::new(&world).await;
    world.hands.pass(60_001);
    for guest in [&guest, &guest.again().await] {
        let outcome = guest.ask(&[SECRET]).await;
        guest.refused(outcome, Denial::RevocationStale);
    }
    world.write_crl(&[], 60_000).await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
}

/// A list may be a week from its `nextUpdate`: past the age that the configuration allows it is not used.
#[tokio::test]
async fn a_crl_past_its_own_greatest_age_is_denied() {
    let world = World::build(Build { crl_max_age_seconds: 600, ..Build::default() }).await;
    world.write_crl(&[], 7 * 86_400_000).await;
    let guest = Guest::new(&world).await;
    world.hands.pass(590_000);
    assert!(guest.ask(&[SECRET]).await.is_ok());
    world.hands.pass(10_000);
    for guest in [&guest, &guest.again().await] {
        let outcome = guest.ask(&[SECRET]).await;
        guest.refused(outcome, Denial::RevocationStale);
    }
    world.write_crl(&[], 7 * 86_400_000).await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
}

/// As one who was revoked would have it: the list of before, still good by its times, put back.
#[tokio::test]
async fn a_crl_whose_number_goes_back_is_denied_until_it_is_accepted() {
    let mut world = World::new().await;
    let path = world.directory.path().join("etc/example.org.crl");
    let older = std::fs::read(&path).unwrap();
    world.write_crl(&[], 86_400_000).await;
    let newer = std::fs::read(&path).unwrap();
    {
        let guest = Guest::new(&world).await;
        world.write("example.org.crl", &older).await;
        for guest in [&guest, &guest.again().await] {
            let outcome = guest.ask(&[SECRET]).await;
            guest.refused(outcome, Denial::RevocationUnknown);
            guest.stays().await;
        }
        world.write("example.org.crl", &newer).await;
        assert!(guest.ask(&[SECRET]).await.is_ok());
        world.write("example.org.crl", &older).await;
    }
    // How high it was is kept durably.
    world.stop().await;
    world.start().await;
    let guest = Guest::stranger(&world, WORKLOAD).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::RevocationUnknown);
    let issuer = world.directory.path().join("etc/example.org.pem").display().to_string();
    assert_eq!(world.admin(&["crl", "accept", "example.org", "--issuer", &issuer]).await, 0);
    assert!(guest.ask(&[SECRET]).await.is_ok());
    let accepted = |record: &Record| matches!(&record.event, Event::Input { name, state, .. } if name == "example.org/revocation" && state.contains("accepted by"));
    assert!(world.records().iter().any(accepted), "{:#?}", world.records());
}

#[tokio::test]
async fn an_unreadable_bundle_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    for garbage in ["", "not a bundle"] {
        world.write("example.org.pem", garbage.as_bytes()).await;
        let outcome = guest.ask(&[SECRET]).await;
        guest.refused(outcome, Denial::BundleUnknown);
    }
    world.write("example.org.pem", world.ca.root().as_bytes()).await;
    assert!(guest.ask(&[SECRET]).await.is_ok());
}

#[tokio::test]
async fn a_stale_bundle_is_denied() {
    let world = World::build(Build { bundle_max_age_seconds: 60, ..Build::default() }).await;
    let guest = Guest::new(&world).await;
    world.hands.pass(61_000);
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::BundleStale);
    guest.stays().await;
}

#[tokio::test]
async fn a_root_taken_out_of_the_bundle_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let other = DevelopmentCa::new("spiffe://example.org", world.hands.now()).unwrap();
    world.write("example.org.pem", other.root().as_bytes()).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::PeerUntrusted);
    guest.is_sent_away().await;
}

#[tokio::test]
async fn a_trust_domain_that_cannot_be_read_touches_no_other() {
    let world = World::build(Build { more_domains: vec!["other.org"], ..Build::default() }).await;
    let guest = Guest::new(&world).await;
    let other = DevelopmentCa::new("spiffe://other.org", world.hands.now()).unwrap();
    world.write("other.org.pem", other.root().as_bytes()).await;
    let leaf = other.leaf(&leaf_request("spiffe://other.org/api", 700, world.hands.now())).unwrap();
    let bundle = world.directory.path().join("etc/example.org.pem");
    let config = write_client(world.directory.path(), "other", &leaf, &bundle);
    let connection = world.connect_as(&config).await.unwrap();
    assert!(ask(&connection, open_message(&[SECRET]).0).await.is_ok(), "it is proven");
    world.write("other.org.pem", b"garbage").await;
    let Err(status) = ask(&connection, open_message(&[SECRET]).0).await else { panic!("a challenge") };
    world.refused(Err(status), Denial::BundleUnknown);
    assert!(guest.ask(&[SECRET]).await.is_ok());
    // The root of one domain says nothing in another.
    let foreign = other.leaf(&leaf_request(WORKLOAD, 701, world.hands.now())).unwrap();
    assert_eq!(denial_of(&world, &foreign), Some(Denial::PeerUntrusted));
    is_refused(&world, &foreign).await;
}

#[tokio::test]
async fn more_streams_than_an_identity_may_have_are_shed() {
    let world =
        World::build(Build { limits: "[limits]\nstreams_per_identity = 2", ..Build::default() }).await;
    let guest = Guest::new(&world).await;
    let (one, two) = (guest.asked(&[SECRET]).await, guest.asked(&[SECRET]).await);
    let before = world.records().len();
    for _ in 0..3 {
        let status = guest.ask(&[SECRET]).await.unwrap_err();
        assert_eq!(assert_status(&status, Denial::LimitExceeded), None);
    }
    assert_eq!(world.records().len(), before, "counted, not recorded");
    drop((one, two));
    works(&guest).await;
    world.hands.pass(61_000);
    let counted = |record: &Record| matches!(&record.event, Event::Counted { denial: Denial::LimitExceeded, count, .. } if *count >= 3);
    eventually("one record of those shed", || world.records().iter().any(counted)).await;
}

async fn works(guest: &Guest<'_>) {
    for _ in 0..100 {
        if guest.ask(&[SECRET]).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it does not work again");
}

#[tokio::test]
async fn a_key_that_only_fails_is_shed_and_its_neighbour_is_not() {
    let world = World::new().await;
    let (guest, other) = (Guest::new(&world).await, Guest::new(&world).await);
    let bad = SoftAttester { spoil: |_| vec![0], ..guest.attester.clone() };
    let mut shed = false;
    for _ in 0..150 {
        let status = attempt(&guest.connection, open_message(&[SECRET]).0, &bad).await.unwrap_err();
        if reason_and_id(&status).0 == "OVERLOADED" {
            assert_status(&status, Denial::LimitExceeded);
            shed = true;
            break;
        }
    }
    assert!(shed, "150 failures in a row were let in");
    assert!(other.ask(&[SECRET]).await.is_ok());
}

#[tokio::test]
async fn a_request_costs_what_its_key_may_have_written() {
    let limits = "[limits]\nrequests_per_key_per_second = 1";
    let world = World::build(Build { limits, ..Build::default() }).await;
    let guest = Guest::new(&world).await;
    let mut outcomes = Vec::new();
    for _ in 0..12 {
        outcomes.push(guest.ask(&[SECRET]).await);
    }
    let shed =
        outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).next_back().expect("some are shed");
    assert_status(shed, Denial::LimitExceeded);
    assert!(Guest::new(&world).await.ask(&[SECRET]).await.is_ok(), "another key is not concerned");
    world.hands.pass(10_000);
    assert!(guest.ask(&[SECRET]).await.is_ok());
}

fn clock_states(world: &World) -> Vec<String> {
    let state = |record: Record| match record.event {
        Event::Clock { state } => Some(state),
        _ => None,
    };
    world.records().into_iter().filter_map(state).collect()
}

#[tokio::test]
async fn a_clock_set_back_is_denied_until_it_has_caught_up() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.hands.step(-10_000);
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::ClockSuspect);
    guest.stays().await;
    world.hands.set_synchronised(true);
    world.hands.pass(60_000);
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::ClockSuspect);
    eventually("it is on record", || clock_states(&world).iter().any(|state| state.contains("back"))).await;
    world.hands.step(10_000);
    assert!(guest.ask(&[SECRET]).await.is_ok());
    eventually("its end, too", || clock_states(&world).iter().any(|state| state == "trusted")).await;
}

#[tokio::test]
async fn a_clock_set_forward_is_denied_until_the_kernel_vouches_for_it() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.hands.step(600_000);
    let ask = async || guest.ask(&[SECRET]).await;
    guest.refused(ask().await, Denial::ClockSuspect);
    world.hands.pass(120_000);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    guest.refused(ask().await, Denial::ClockSuspect);
    world.hands.set_synchronised(true);
    // A tick sees it synchronised, and one more, half a minute later, still.
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    guest.refused(ask().await, Denial::ClockSuspect);
    world.hands.pass(31_000);
    eventually("it heals", || clock_states(&world).iter().any(|state| state == "trusted")).await;
    assert!(ask().await.is_ok());
}

#[tokio::test]
async fn a_clock_set_forward_by_more_than_an_hour_does_not_heal_by_itself() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    world.hands.set_synchronised(true);
    world.hands.step(3_700_000);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    world.hands.pass(31_000);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::ClockSuspect);
}

#[tokio::test]
async fn a_clock_that_cannot_be_read_is_denied() {
    let world = World::new().await;
    let guest = Guest::new(&world).await;
    let mut asked = guest.asked(&[SECRET]).await;
    let evidence = guest.attester.evidence(&asked.binding());
    world.hands.set_unreadable(true);
    let outcome = asked.answer(evidence).await;
    guest.refused(outcome, Denial::ClockSuspect);
    let outcome = guest.ask(&[SECRET]).await;
    guest.refused(outcome, Denial::ClockSuspect);
    world.hands.set_unreadable(false);
    assert!(guest.ask(&[SECRET]).await.is_ok());
}

#[tokio::test]
async fn a_start_before_the_highest_time_releases_nothing() {
    let mut world = World::new().await;
    world.hands.pass(60_000);
    let config = Guest::new(&world).await.config.clone();
    world.stop().await;
    world.hands.step(-30_000);
    world.start().await;
    // The client's own clock is new and sees nothing wrong; the broker remembers.
    let connection = world.connect_as(&config).await.unwrap();
    let outcome = attempt(&connection, open_message(&[SECRET]).0, &world.attester()).await;
    world.refused(outcome, Denial::ClockSuspect);
    world.hands.pass(31_000);
    let connection = world.connect_as(&config).await.unwrap();
    assert!(attempt(&connection, open_message(&[SECRET]).0, &world.attester()).await.is_ok());
}

/// With an untrusted clock, what had ended stays ended, and "not yet valid" is no knowledge.
#[tokio::test]
async fn a_clock_set_back_revives_no_certificate() {
    let world = World::new().await;
    let leaf =
        leaf_of(&world, |request| (request.serial, request.not_after) = (801, world.hands.now().plus(5_000)));
    speaks(&world, &leaf).await.expect("it is good");
    world.hands.pass(6_000);
    is_refused(&world, &leaf).await;
    world.hands.step(-5_000);
    is_refused(&world, &leaf).await;
}

#[test]
fn two_hundred_bad_connections_beside_a_good_one() {
    use std::time::{Duration, Instant};
    use tokio::io::AsyncWriteExt;
    common(|world| async move {
        let guest = Guest::new(world).await;
        let address = world.client.broker.clone();
        let hello = {
            // The beginning of a ClientHello, cut short.
            let mut bytes = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
            bytes.extend([7; 40]);
            bytes
        };
        let mut bad = Vec::new();
        for n in 0..200 {
            let (address, hello) = (address.clone(), hello.clone());
            bad.push(tokio::spawn(async move {
                let Ok(mut socket) = tokio::net::TcpStream::connect(address).await else { return };
                match n % 4 {
                    0 => drop(socket.write_all(&[0xff; 4096]).await),
                    1 => drop(socket.write_all(&hello).await),
                    2 => drop(socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await),
                    // A byte now and then.
                    _ => {
                        for byte in hello {
                            if socket.write_all(&[byte]).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(150)).await;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_secs(6)).await;
            }));
        }
        let mut nobody = Vec::new();
        for _ in 0..10 {
            nobody.push(tokio::spawn(async move { drop(handshake(world, None, b"h2").await) }));
        }
        for _ in 0..10 {
            let start = Instant::now();
            let again = guest.again().await;
            assert!(again.ask(&[SECRET]).await.is_ok());
            assert!(guest.ask(&[SECRET]).await.is_ok());
            let took = start.elapsed();
            assert!(took < Duration::from_secs(2), "a connection and two releases took {took:?}");
        }
        bad.iter().for_each(|task| task.abort());
    });
}
