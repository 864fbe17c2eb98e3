//! The client against a broker in this process: one good release, then one defect at a time.

pub(crate) mod fake;
pub(crate) mod node;

use super::*;
use crate::denial::{Denial, Reason};
use crate::limits;
use crate::proto::v1;
use crate::proto::v1::release_request::Step as Ask;
use crate::proto::v1::release_response::Step as Answer;
use fake::{Authority, BROKER, Behaviour, Echo, End, Fake, LEASE, Leaf, timestamp_in};
use node::Node;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::Code;

const STRIPE: &str = "kv/payments/stripe";
const LEDGER: &str = "kv/payments/ledger";

/// Asks for two secrets and asserts what holds in every case: one connection and at most one stream.
async fn ask(fake: &Fake) -> Result<Lease, ReleaseError> {
    ask_with(fake, &Echo::default()).await
}

async fn ask_with(fake: &Fake, attester: &dyn Attester) -> Result<Lease, ReleaseError> {
    let outcome = release(&fake.config(), attester, Request::of([STRIPE, LEDGER])).await;
    assert_eq!(fake.accepts.load(Ordering::SeqCst), 1, "one connection, no second try");
    assert!(fake.streams.load(Ordering::SeqCst) <= 1, "one stream, no second try");
    outcome
}

async fn refused(behaviour: Behaviour) -> ReleaseError {
    ask(&Fake::start(behaviour).await).await.unwrap_err()
}

fn denied(reason: Reason) -> ReleaseError {
    ReleaseError::Denied { reason, decision_id: Some("decision-1".into()) }
}

fn certificate(why: PeerRefused) -> ReleaseError {
    ReleaseError::NotTheBroker(Imposture::Certificate(why))
}

#[tokio::test]
async fn a_good_release_gives_all_secrets_in_order_and_shows_none() {
    let fake = Fake::start(Behaviour::default()).await;
    let lease = ask(&fake).await.unwrap();
    assert_eq!(lease.lease_id, LEASE);
    let read: Vec<_> = lease.secrets.iter().map(|secret| secret.path.as_str()).collect();
    assert_eq!(read, [STRIPE, LEDGER]);
    for secret in &lease.secrets {
        assert_eq!(secret.version, 3);
        assert_eq!(secret.fields["value"].expose_secret(), format!("of {}", secret.path).as_bytes());
    }
    assert!(!format!("{lease:?}").contains("of kv"));
}

#[tokio::test]
async fn a_connection_serves_several_releases_each_attested_anew() {
    let fake = Fake::start(Behaviour::default()).await;
    let (echo, connection) = (Echo::default(), Connection::open(&fake.config()).await.unwrap());
    for round in 1..=3 {
        connection.release(&echo, Request::of([STRIPE])).await.unwrap();
        assert_eq!(echo.asked.load(Ordering::SeqCst), round);
    }
    assert_eq!(fake.accepts.load(Ordering::SeqCst), 1);
    assert_eq!(fake.streams.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_malformed_request_never_leaves() {
    let fake = Fake::start(Behaviour::default()).await;
    for paths in [vec![], vec!["kv/UPPER"], vec![STRIPE, STRIPE]] {
        let outcome = release(&fake.config(), &Echo::default(), Request::of(paths)).await;
        assert_eq!(outcome.unwrap_err(), ReleaseError::Request(Denial::RequestMalformed));
    }
    assert_eq!(fake.accepts.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_broker_of_another_identity_in_the_same_trust_domain_is_refused() {
    let leaf = Leaf::of("spiffe://example.org/ns/payments/api");
    let fake = Fake::start_as(&leaf, Behaviour::default()).await;
    assert_eq!(ask(&fake).await.unwrap_err(), certificate(PeerRefused::OtherIdentity));
    assert_eq!(fake.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_broker_whose_certificate_expired_or_has_not_begun_is_refused() {
    let expired = Fake::start_as(&Leaf { ends: 2021, ..Leaf::of(BROKER) }, Behaviour::default()).await;
    assert_eq!(ask(&expired).await.unwrap_err(), certificate(PeerRefused::Expired));
    let early = Fake::start_as(&Leaf { begins: 2998, ..Leaf::of(BROKER) }, Behaviour::default()).await;
    assert_eq!(ask(&early).await.unwrap_err(), certificate(PeerRefused::NotYetValid));
}

#[tokio::test]
async fn a_broker_of_a_foreign_or_expired_authority_is_refused() {
    let fake = Fake::start(Behaviour::default()).await;
    fake.write("bundle", Authority::new(2999).pem());
    assert_eq!(ask(&fake).await.unwrap_err(), certificate(PeerRefused::Untrusted));
    let expired = Authority::new(2021);
    let server = expired.issue(&Leaf::of(BROKER));
    let fake = Fake::start_with(expired, server, Behaviour::default()).await;
    assert_eq!(ask(&fake).await.unwrap_err(), certificate(PeerRefused::Untrusted));
}

#[tokio::test]
async fn a_broker_whose_certificate_is_no_svid_is_refused() {
    let malformed = PeerRefused::NotAnSvid(Denial::PeerIdentityMalformed);
    let ambiguous = PeerRefused::NotAnSvid(Denial::PeerIdentityAmbiguous);
    let server_auth = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let signs = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    for (leaf, why) in [
        (Leaf { second_uri: Some("spiffe://example.org/b"), ..Leaf::of(BROKER) }, ambiguous),
        (Leaf { second_uri: Some("https://example.org/"), ..Leaf::of(BROKER) }, ambiguous),
        (Leaf { usages: vec![], ..Leaf::of(BROKER) }, malformed),
        (Leaf { usages: signs, ..Leaf::of(BROKER) }, malformed),
        (Leaf { extended: server_auth, ..Leaf::of(BROKER) }, malformed),
        (Leaf::of("https://example.org/portcullis"), malformed),
    ] {
        let fake = Fake::start_as(&leaf, Behaviour::default()).await;
        assert_eq!(ask(&fake).await.unwrap_err(), certificate(why), "{}", leaf.id);
    }
}

#[tokio::test]
async fn a_connection_without_http2_is_not_used() {
    let error = refused(Behaviour { alpn: b"http/1.1", ..Behaviour::default() }).await;
    assert!(matches!(error, ReleaseError::Connect(ConnectError::Handshake(_))), "{error:?}");
}

#[tokio::test]
async fn a_client_certificate_that_the_broker_refuses_is_denied() {
    let stranger = Authority::named("another", 2999).issue(&Leaf::of(fake::WORKLOAD));
    let refused = async |why, (certificate, key): (String, String), fake: Fake| {
        fake.write("cert.pem", certificate);
        fake.write("key.pem", key);
        // The alert races with what the client sends meanwhile; whichever comes first, it is heard.
        for _ in 0..20 {
            let error = release(&fake.config(), &Echo::default(), Request::of([STRIPE])).await.unwrap_err();
            assert_eq!(error, ReleaseError::CertificateRefused(why));
            assert_eq!(error.kind(), Kind::Denied);
        }
        assert_eq!((fake.accepts.load(Ordering::SeqCst), fake.streams.load(Ordering::SeqCst)), (20, 0));
    };
    refused(CertificateRefused::IssuerUnknown, stranger, Fake::start(Behaviour::default()).await).await;
    let fake = Fake::start(Behaviour::default()).await;
    let expired = fake.authority.issue(&Leaf { ends: 2021, ..Leaf::of(fake::WORKLOAD) });
    refused(CertificateRefused::OutOfTime, expired, fake).await;
}

#[tokio::test]
async fn a_connection_that_was_refused_says_so_to_every_stream() {
    let fake = Fake::start(Behaviour::default()).await;
    let (certificate, key) = Authority::named("another", 2999).issue(&Leaf::of(fake::WORKLOAD));
    fake.write("cert.pem", certificate);
    fake.write("key.pem", key);
    let connection = Connection::open(&fake.config()).await.unwrap();
    for _ in 0..3 {
        let outcome = connection.release(&Echo::default(), Request::of([STRIPE])).await;
        assert_eq!(outcome.unwrap_err(), ReleaseError::CertificateRefused(CertificateRefused::IssuerUnknown));
    }
}

#[tokio::test]
async fn nobody_listening_is_no_connection() {
    let fake = Fake::start(Behaviour::default()).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = Config { broker: free.to_string(), ..fake.config() };
    let error = release(&config, &Echo::default(), Request::of([STRIPE])).await.unwrap_err();
    assert!(matches!(error, ReleaseError::Connect(ConnectError::Unreachable(_))), "{error:?}");
}

#[tokio::test]
async fn a_challenge_that_is_not_acceptable_is_not_answered() {
    let protocol = ReleaseError::Protocol;
    type Case = (fn(&mut v1::Challenge), ReleaseError);
    let cases: [Case; 9] = [
        (
            |it| it.audience = "spiffe://example.org/other".into(),
            ReleaseError::NotTheBroker(Imposture::Audience),
        ),
        (|it| it.audience.clear(), ReleaseError::NotTheBroker(Imposture::Audience)),
        (|it| it.nonce.truncate(31), protocol(Violation::Nonce)),
        (|it| it.answer_within_ms = 0, protocol(Violation::AnswerWithin)),
        (|it| it.answer_within_ms = 30_001, protocol(Violation::AnswerWithin)),
        (|it| it.formats.clear(), protocol(Violation::Formats)),
        (|it| it.channel_binding = "none".into(), protocol(Violation::ChannelBinding)),
        (|it| it.channel_binding.clear(), protocol(Violation::ChannelBinding)),
        (|it| it.round = 1, protocol(Violation::Round)),
    ];
    for (challenge, expected) in cases {
        let (echo, fake) =
            (Echo::default(), Fake::start(Behaviour { challenge, ..Behaviour::default() }).await);
        assert_eq!(ask_with(&fake, &echo).await.unwrap_err(), expected);
        assert_eq!(echo.asked.load(Ordering::SeqCst), 0, "{expected:?}");
        assert!(!fake.evidence_came.load(Ordering::SeqCst), "{expected:?}");
    }
}

#[tokio::test]
async fn evidence_that_takes_too_long_is_not_sent() {
    let behaviour = Behaviour { challenge: |it| it.answer_within_ms = 50, ..Behaviour::default() };
    let fake = Fake::start(behaviour).await;
    let echo = Echo { never: true, ..Echo::default() };
    assert_eq!(ask_with(&fake, &echo).await.unwrap_err(), ReleaseError::AnswerTooLate);
    assert!(!fake.evidence_came.load(Ordering::SeqCst));
}

#[tokio::test]
async fn evidence_in_a_format_that_was_not_offered_is_not_sent() {
    struct Stray;
    impl Attester for Stray {
        fn attest<'a>(
            &'a self,
            binding: &'a [u8; 64],
            _formats: &'a [String],
        ) -> futures_util::future::BoxFuture<'a, Result<v1::Evidence, AttestError>> {
            let document =
                v1::Document { format: "tpm2".into(), body: binding.to_vec(), endorsements: vec![] };
            Box::pin(async move { Ok(v1::Evidence { documents: vec![document] }) })
        }
    }
    let fake = Fake::start(Behaviour::default()).await;
    let expected = ReleaseError::Attestation(AttestError::Protocol);
    assert_eq!(ask_with(&fake, &Stray).await.unwrap_err(), expected);
    assert!(!fake.evidence_came.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_release_that_is_not_what_was_asked_gives_nothing() {
    type Case = (fn(&mut v1::Released), Violation);
    let cases: [Case; 13] = [
        (|it| drop(it.secrets.pop()), Violation::Secrets),
        (|it| it.secrets.clear(), Violation::Secrets),
        (|it| it.secrets.reverse(), Violation::Secrets),
        (|it| it.secrets.push(it.secrets[0].clone()), Violation::Secrets),
        (|it| it.secrets[1].path = "kv/other".into(), Violation::Secrets),
        (|it| it.secrets[1].version = 4, Violation::Seal),
        (|it| it.secrets[1].ciphertext[0] ^= 1, Violation::Seal),
        (|it| it.lease_id = "lease-0123456789abcdeg".into(), Violation::Seal),
        (|it| it.lease_id = "short".into(), Violation::LeaseId),
        (|it| it.not_after = None, Violation::NotAfter),
        (|it| it.not_after = Some(timestamp_in(-1)), Violation::NotAfter),
        (|it| it.not_after = Some(timestamp_in(90_000)), Violation::NotAfter),
        (|it| it.reattest_within_ms = 1, Violation::Hold),
    ];
    for (released, expected) in cases {
        let error = refused(Behaviour { released, ..Behaviour::default() }).await;
        assert_eq!(error, ReleaseError::Protocol(expected));
    }
}

#[tokio::test]
async fn a_secret_sealed_for_another_lease_or_that_is_no_value_gives_nothing() {
    let error = refused(Behaviour { sealed_for_lease: "lease-of-another", ..Behaviour::default() }).await;
    assert_eq!(error, ReleaseError::Protocol(Violation::Seal));
    for value in [b"".as_slice(), b"\xff\xff"] {
        let error = refused(Behaviour { sealed_value: Some(value), ..Behaviour::default() }).await;
        assert_eq!(error, ReleaseError::Protocol(Violation::Value));
    }
}

#[tokio::test]
async fn a_denial_is_an_answer_and_is_not_asked_for_again() {
    for (code, reason) in [
        (Code::PermissionDenied, Reason::NotReleased),
        (Code::Unauthenticated, Reason::IdentityNotCurrent),
        (Code::InvalidArgument, Reason::RequestInvalid),
        (Code::FailedPrecondition, Reason::ChallengeNotCurrent),
    ] {
        let end = Some(End::Denied(code, reason.name()));
        let early = refused(Behaviour { before_challenge: end, ..Behaviour::default() }).await;
        assert_eq!(early, denied(reason));
        let late = refused(Behaviour { before_released: end, ..Behaviour::default() }).await;
        assert_eq!(late, denied(reason));
        // "… and at once if the stream ended with" one of these.
        let after = Behaviour { after_released: End::Denied(code, reason.name()), ..Behaviour::default() };
        assert_eq!(refused(after).await, denied(reason));
    }
}

#[tokio::test]
async fn an_uncertain_denial_is_told_apart() {
    for (code, reason) in [
        (Code::FailedPrecondition, Reason::VerificationNotPossible),
        (Code::ResourceExhausted, Reason::Overloaded),
        (Code::DeadlineExceeded, Reason::DeadlineExceeded),
        (Code::Internal, Reason::Internal),
    ] {
        let end = Some(End::Denied(code, reason.name()));
        let error = refused(Behaviour { before_released: end, ..Behaviour::default() }).await;
        assert_eq!(error, ReleaseError::NotPossible { reason, decision_id: Some("decision-1".into()) });
        assert_eq!(error.kind(), Kind::NotPossible);
    }
}

#[tokio::test]
async fn a_status_without_error_info_is_not_the_broker_and_is_not_retried() {
    for code in [Code::Unavailable, Code::PermissionDenied, Code::Unimplemented, Code::Cancelled] {
        let expected = ReleaseError::NotTheBroker(Imposture::Status(code.into()));
        let end = Some(End::Bare(code));
        let early = refused(Behaviour { before_challenge: end, ..Behaviour::default() }).await;
        assert_eq!(early, expected);
        let late = refused(Behaviour { before_released: end, ..Behaviour::default() }).await;
        assert_eq!(late, expected);
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_before_released_gives_nothing() {
    for early in [true, false] {
        let cut = |end| match early {
            true => Behaviour { before_challenge: Some(end), ..Behaviour::default() },
            false => Behaviour { before_released: Some(end), ..Behaviour::default() },
        };
        let error = refused(cut(End::Cut)).await;
        assert!(matches!(error, ReleaseError::Connect(ConnectError::Lost(_))), "{error:?}");
        assert_eq!(refused(cut(End::Ok)).await, ReleaseError::Protocol(Violation::EndedEarly));
    }
}

#[tokio::test]
async fn a_broker_that_never_answers_is_left_at_the_deadline() {
    let fake = Fake::start(Behaviour { before_released: Some(End::Never), ..Behaviour::default() }).await;
    let config = Config { deadline: Duration::from_secs(1), ..fake.config() };
    let outcome = release(&config, &Echo::default(), Request::of([STRIPE])).await;
    assert_eq!(outcome.unwrap_err(), ReleaseError::DeadlinePassed);
}

#[tokio::test]
async fn what_was_released_stays_released_when_the_stream_then_breaks() {
    for end in [End::Cut, End::Bare(Code::Unavailable), End::Denied(Code::Internal, "INTERNAL")] {
        let fake = Fake::start(Behaviour { after_released: end, ..Behaviour::default() }).await;
        assert_eq!(ask(&fake).await.unwrap().secrets.len(), 2, "{end:?}");
    }
}

#[tokio::test]
async fn a_second_released_or_a_second_challenge_gives_nothing() {
    let again = Behaviour { after_released: End::Again, ..Behaviour::default() };
    assert_eq!(refused(again).await, ReleaseError::Protocol(Violation::OutOfOrder));
}

#[tokio::test]
async fn a_certificate_of_another_key_is_not_used() {
    let fake = Fake::start(Behaviour::default()).await;
    fake.write("key.pem", fake.authority.issue(&Leaf::of(fake::WORKLOAD)).1);
    let config = fake.config();
    let patience = Duration::from_millis(200);
    let outcome = credentials::read(&config, &tls::crypto_provider(), patience).await;
    let expected = ConfigError::PairMismatch { certificate: config.certificate, key: config.key };
    assert_eq!(outcome.err(), Some(expected));
}

#[tokio::test]
async fn a_certificate_whose_key_arrives_a_moment_later_is_used() {
    let fake = Fake::start(Behaviour::default()).await;
    let (certificate, key) = fake.authority.issue(&Leaf::of(fake::WORKLOAD));
    fake.write("cert.pem", certificate);
    let path = fake.folder().join("key.pem");
    let renaming = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        std::fs::write(path, key).unwrap();
    });
    assert_eq!(ask(&fake).await.unwrap().secrets.len(), 2);
    renaming.await.unwrap();
}

#[tokio::test]
async fn a_spiffe_bundle_is_read_and_a_spoilt_or_empty_one_is_refused() {
    use base64::Engine;
    let fake = Fake::start(Behaviour::default()).await;
    let x5c = base64::engine::general_purpose::STANDARD.encode(fake.authority.der());
    let bundle =
        |keys: serde_json::Value| serde_json::json!({"keys": keys, "spiffe_sequence": 1}).to_string();
    let jwt = serde_json::json!({"kty": "EC", "use": "jwt-svid", "kid": "a"});
    let x509 = |x5c: &str| serde_json::json!({"kty": "EC", "use": "x509-svid", "x5c": [x5c]});
    let outcome = |text: String| {
        fake.write("bundle", text);
        let config = fake.config();
        async move { Connection::open(&config).await.map(|_| ()) }
    };
    assert_eq!(outcome(bundle(serde_json::json!([jwt, x509(&x5c)]))).await, Ok(()));
    for (text, what) in [
        (bundle(serde_json::json!([jwt])), "no X.509 authority"),
        (bundle(serde_json::json!([x509("!")])), "an authority that does not decode"),
        (bundle(serde_json::json!([x509(&x5c), x509("AAAA")])), "a certificate that is no authority"),
        ("{}".into(), "JSON that is no SPIFFE bundle"),
        (String::new(), "no certificate in PEM"),
    ] {
        let path = fake.config().bundle;
        assert_eq!(outcome(text).await, Err(ReleaseError::Config(ConfigError::Content { path, what })));
    }
}

#[tokio::test]
async fn a_missing_or_endless_file_is_an_error_and_does_not_hang() {
    let fake = Fake::start(Behaviour::default()).await;
    let config = Config { bundle: "/dev/zero".into(), ..fake.config() };
    let outcome = Connection::open(&config).await.map(|_| ());
    let what = "no regular file of at most 1 MiB";
    assert_eq!(outcome, Err(ReleaseError::Config(ConfigError::Content { path: "/dev/zero".into(), what })));
    let config = Config { key: fake.folder().join("none"), ..fake.config() };
    let outcome = Connection::open(&config).await.map(|_| ());
    assert!(matches!(outcome, Err(ReleaseError::Config(ConfigError::Unreadable { .. }))), "{outcome:?}");
}

#[tokio::test]
async fn the_raw_stream_sends_what_it_is_given() {
    let fake = Fake::start(Behaviour::default()).await;
    let connection = Connection::open(&fake.config()).await.unwrap();
    let recipient = crate::release::sealing::Recipient::generate().unwrap();
    let secrets = vec![v1::SecretRequest { path: STRIPE.into(), parameters: Default::default() }];
    let open = v1::Open { secrets, recipient_key: recipient.public_key().to_vec(), ..v1::Open::default() };
    let mut stream = connection.stream(None).await.unwrap();
    stream.send(Ask::Open(open)).await.unwrap();
    let Some(Answer::Challenge(challenge)) = stream.next().await.unwrap() else { panic!("no challenge") };
    let document = v1::Document { format: challenge.formats[0].clone(), body: vec![1], endorsements: vec![] };
    stream.send(Ask::Evidence(v1::Evidence { documents: vec![document] })).await.unwrap();
    assert_eq!(stream.next().await.unwrap_err(), denied(Reason::NotReleased));
    assert_eq!(stream.next().await, Ok(None));
}

// The node's attester.

#[tokio::test]
async fn the_nodes_attester_is_proven_to_and_its_evidence_earns_the_secret() {
    let fake = Fake::start(Behaviour::default()).await;
    let program_fds = node::start(&fake, Node::Good);
    let attester = SocketAttester::new(fake.config().attester).with_program_fds(vec![3, 9]);
    assert_eq!(ask_with(&fake, &attester).await.unwrap().secrets.len(), 2);
    assert_eq!(*program_fds.lock().unwrap(), [3, 9]);
}

#[tokio::test]
async fn without_the_nodes_evidence_there_is_no_release() {
    let failed_precondition = Code::FailedPrecondition;
    for (behaviour, expected) in [
        (Node::NoProve, AttestError::Protocol),
        (Node::Denies(failed_precondition, "ATTESTATION_NOT_POSSIBLE"), AttestError::NotPossible),
        (Node::Denies(Code::InvalidArgument, "REQUEST_INVALID"), AttestError::RequestInvalid),
        (Node::Denies(failed_precondition, "NOT_RELEASED"), AttestError::Status(9)),
        (Node::Bare, AttestError::Status(14)),
    ] {
        let fake = Fake::start(Behaviour::default()).await;
        node::start(&fake, behaviour);
        let attester = SocketAttester::new(fake.config().attester);
        let error = ask_with(&fake, &attester).await.unwrap_err();
        assert_eq!(error, ReleaseError::Attestation(expected));
        assert_eq!(error.kind(), Kind::NotPossible);
        assert!(!fake.evidence_came.load(Ordering::SeqCst));
    }
    let fake = Fake::start(Behaviour::default()).await;
    let error = ask_with(&fake, &SocketAttester::new(fake.config().attester)).await.unwrap_err();
    assert!(matches!(error, ReleaseError::Attestation(AttestError::Unreachable(_))), "{error:?}");
}

#[test]
fn the_default_deadline_leaves_room_for_the_longest_answer() {
    assert!(DEFAULT_DEADLINE_SECONDS * 1000 > u64::from(limits::ANSWER_WITHIN_MS_MAX));
}
