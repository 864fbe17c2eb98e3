//! Every way of being unreachable: the exact outcome, within the bound, and the denial that follows from it.

use super::*;
use std::time::Instant;

/// Far less than an exchange that ends by itself may take, let alone two; ample for one that is given up, on a busy machine
/// too.
const BOUND: Duration = Duration::from_secs(8);

/// Both formats against services that do `act` for every path: the failures, after the same denial from both.
async fn failures(act: Act) -> Vec<Failure> {
    let rig = Rig::with(move |_, _| act.clone()).await;
    failures_of(&rig).await
}

/// The same for services that do not come to an end.
async fn failures_in_haste(act: Act) -> Vec<Failure> {
    let rig = Rig::hasty(move |_, _| act.clone()).await;
    failures_of(&rig).await
}

async fn failures_of(rig: &Rig) -> Vec<Failure> {
    let mut failures = Vec::new();
    let begun = Instant::now();
    for (outcome, lacking) in [rig.sev_snp().await, rig.tdx().await] {
        assert_eq!(outcome, Err(Denial::CollateralUnavailable));
        failures.extend(lacking.into_iter().map(|lacking| lacking.failure));
    }
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    let status = rig.holdings.status(rig.now());
    assert_eq!((status.held, status.under_way), (Vec::new(), 0));
    assert!(status.services.iter().all(|service| service.failed.is_some() && service.answered.is_none()));
    // Certificate, intermediate and list; TCB info, QE identity and two lists.
    assert_eq!(failures.len(), 7, "{failures:?}");
    failures
}

/// Asked at the same time, each of a service's items meets its trouble, or is told that it is left alone.
fn all_are(failures: &[Failure], expected: impl Fn(&Failure) -> bool) {
    let left_alone = |failure: &Failure| matches!(failure, Failure::BackingOff(_));
    assert!(failures.iter().all(|failure| expected(failure) || left_alone(failure)), "{failures:?}");
    assert!(failures.iter().filter(|failure| expected(failure)).count() >= 2, "{failures:?}");
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let rig = Rig::good().await;
    rig.server.stop().await;
    all_are(&failures_of(&rig).await, |failure| matches!(failure, Failure::Unreachable(_)));
}

#[tokio::test]
async fn a_black_hole_ends_in_time() {
    all_are(&failures_in_haste(Act::Hang(Vec::new())).await, |failure| *failure == Failure::TimedOut);
}

#[tokio::test]
async fn a_slow_drip_of_headers_or_body_ends_in_time() {
    let drip = Act::Drip(Act::ok(vec![0x30; 1000]).bytes());
    all_are(&failures_in_haste(drip).await, |failure| *failure == Failure::TimedOut);
    let mut late = Act::ok(vec![0x30; 1000]).bytes();
    late.truncate(late.len() - 10);
    all_are(&failures_in_haste(Act::Hang(late)).await, |failure| *failure == Failure::TimedOut);
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let whole = Act::ok(vec![0x30; 1000]).bytes();
    for length in [0, 10, 60, whole.len() - 1] {
        let half = Act::Raw(whole[..length].to_vec());
        all_are(&failures(half).await, |failure| matches!(failure, Failure::Broken(_)));
    }
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n00000".to_vec();
    all_are(&failures(Act::Raw(chunked)).await, |failure| matches!(failure, Failure::Broken(_)));
}

#[tokio::test]
async fn half_a_certificate_without_a_length_is_refused_by_its_content() {
    let rig = Rig::with(|parts, path| match parts.good(path) {
        Act::Reply { body, .. } => Act::Raw([b"HTTP/1.1 200 OK\r\n\r\n", &body[..body.len() / 2]].concat()),
        other => other,
    })
    .await;
    let failures = failures_of(&rig).await;
    let refused = |failure: &&Failure| matches!(failure, Failure::WrongContent(_) | Failure::Untrusted(_));
    assert_eq!(failures.iter().filter(refused).count(), 7, "{failures:?}");
}

#[tokio::test]
async fn what_is_no_http_is_broken() {
    for text in ["SSH-2.0-OpenSSH\r\n", "HTTP/0.9 200\r\n\r\n", "<html>", "HTTP/1.1 2000 OK\r\n\r\n"] {
        let act = Act::Raw(text.as_bytes().to_vec());
        all_are(&failures(act).await, |failure| matches!(failure, Failure::Broken(_)));
    }
}

#[tokio::test]
async fn another_type_of_content_is_refused() {
    let html = Act::ok("<html>Service is being upgraded</html>").header("Content-Type", "text/html");
    let refused = |failure: &Failure| matches!(failure, Failure::WrongContent(_) | Failure::Untrusted(_));
    let found = failures(html).await;
    assert!(found.iter().all(refused), "{found:?}");
    let json = Act::ok("{}");
    assert!(failures(json).await.iter().all(refused));
    let packed = Act::ok("x").header("Content-Encoding", "gzip");
    all_are(&failures(packed).await, |failure| matches!(failure, Failure::WrongContent(_)));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(|_| Act::ok("x")).await;
    for status in [301, 302, 303, 307, 308] {
        let act = Act::status(status, "").header("Location", &elsewhere.address());
        all_are(&failures(act).await, |failure| *failure == Failure::Redirected(status));
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn any_other_status_than_200_is_none() {
    for status in [201, 204, 206, 400, 401, 403, 404, 410] {
        // The body would do, if it were looked at.
        let rig = Rig::with(move |parts, path| match parts.good(path) {
            Act::Reply { headers, body, .. } if status != 204 => Act::Reply { status, headers, body },
            _ => Act::status(status, ""),
        })
        .await;
        all_are(&failures_of(&rig).await, |failure| *failure == Failure::Status(status));
    }
}

#[tokio::test]
async fn a_throttling_service_is_left_alone_for_as_long_as_it_asks() {
    let rig = Rig::with(|_, _| Act::status(429, "").header("Retry-After", "60")).await;
    all_are(&failures_of(&rig).await, |failure| *failure == Failure::Throttled);
    let asked = rig.server.connections();
    rig.hands.advance(59);
    let (outcome, lacking) = rig.sev_snp().await;
    assert_eq!(outcome, Err(Denial::CollateralUnavailable));
    assert!(lacking.iter().all(|lacking| lacking.failure == Failure::BackingOff(1000)), "{lacking:?}");
    assert_eq!(rig.server.connections(), asked);
    rig.hands.advance(1);
    all_are(&failures_of(&rig).await, |failure| *failure == Failure::Throttled);
    assert!(rig.server.connections() > asked);
}

#[tokio::test]
async fn a_failing_service_is_left_alone_longer_each_time_and_asked_again() {
    let rig =
        Rig::with(|_, _| Act::status(503, "").header("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")).await;
    let item =
        Item::SevSnpList { product: Product::Milan, signing_key: crate::evidence::sev_snp::SigningKey::Vcek };
    let ask = || async { rig.holdings.get(vec![item.clone()], PATIENCE).await.pop().unwrap().failure };
    for wait in [10, 20, 40] {
        assert_eq!(ask().await, Failure::ServerError(503));
        assert_eq!(ask().await, Failure::BackingOff(wait * 1000));
        rig.hands.advance(wait);
    }
    assert_eq!(rig.server.connections(), 3);
    for status in [500, 502, 504] {
        let act = Act::status(status, "");
        all_are(&failures(act).await, |failure| *failure == Failure::ServerError(status));
    }
}

#[tokio::test]
async fn an_oversized_body_is_not_read() {
    let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n".to_vec();
    let body = |failure: &Failure| matches!(failure, Failure::TooLarge("a body", _));
    all_are(&failures(Act::Hang(announced)).await, body);
    let streamed = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![0x30; 2 * 1024 * 1024]].concat();
    all_are(&failures(Act::Raw(streamed)).await, body);
    let chunk =
        [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n"[..], &[0x30; 1024 * 1024]];
    all_are(&failures(Act::Hang(chunk.concat())).await, body);
}

#[tokio::test]
async fn oversized_headers_are_not_read() {
    let headers = |failure: &Failure| matches!(failure, Failure::TooLarge("headers", _));
    let one = Act::ok("x").header("X", &"a".repeat(20_000));
    all_are(&failures(one).await, headers);
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X: a\r\n".repeat(100_000));
    all_are(&failures(Act::Hang(endless.into_bytes())).await, headers);
}

#[tokio::test]
async fn an_issuer_chain_that_is_missing_too_long_or_there_twice_is_refused() {
    for change in ["", "twice", "long"] {
        let rig = Rig::with(move |parts, path| match parts.good(path) {
            Act::Reply { status, headers, body } if !headers.is_empty() => {
                let headers = match change {
                    "twice" => headers.repeat(2),
                    "long" => headers.replace("\r\n", &format!("{}\r\n", "a".repeat(9_000))),
                    _ => String::new(),
                };
                Act::Reply { status, headers, body }
            }
            other => other,
        })
        .await;
        let (outcome, lacking) = rig.tdx().await;
        assert_eq!(outcome, Err(Denial::CollateralUnavailable), "{change}");
        assert_eq!(lacking.len(), 3, "{change}: the root's list needs none");
        let said = match change {
            "twice" => "stands twice",
            "long" => "more than 8192 bytes",
            _ => "`issuer chain` is incomplete or absent",
        };
        let refused =
            |lacking: &Lacking| matches!(&lacking.failure, Failure::WrongContent(why) if why.contains(said));
        assert!(lacking.iter().all(refused), "{change}: {lacking:?}");
    }
}

/// A service's certificate for 127.0.0.1 by its own CA, and that CA in PEM.
fn identity(name: &str, begins: u64, ends: u64) -> (rustls::ServerConfig, String) {
    let date = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date(T0 - DAY), date(T0 + DAY));
    let root = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date(begins), date(ends));
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    (config, root.pem())
}

/// A good service over TLS: how a good report fares with these CAs.
async fn over_tls(config: rustls::ServerConfig, ca: &str) -> (Result<(), Denial>, Vec<Lacking>) {
    let rig = Rig::good().await;
    let parts = Services::new(&rig.synthetic);
    let server = Server::start_with(Some(config), move |path| parts.good(path)).await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let mut config = super::config(&format!("https://127.0.0.1:{}", server.port()));
    config.sev_snp.as_mut().unwrap().ca_file = Some(ca_file.clone());
    config.tdx.as_mut().unwrap().ca_file = Some(ca_file);
    let trust = trusts(&rig.authority, &rig.synthetic);
    let holdings =
        Holdings::open(config, trust, rig.clock.clone(), Arc::new(Kept::default()), rig.now()).unwrap();
    super::sev_snp(&holdings, &report(), rig.now()).await
}

#[tokio::test]
async fn tls_is_with_the_configured_ca_for_the_name_and_of_now() {
    let (config, ca) = identity("127.0.0.1", T0 - DAY, T0 + DAY);
    assert_eq!(over_tls(config.clone(), &ca).await, (Ok(()), Vec::new()));
    let (_, other) = identity("127.0.0.1", T0 - DAY, T0 + DAY);
    let is_tls = |failure: &Failure| matches!(failure, Failure::Tls(_));
    let is_roots = |failure: &Failure| matches!(failure, Failure::Roots(_));
    let (named, named_ca) = identity("127.0.0.2", T0 - DAY, T0 + DAY);
    let (old, old_ca) = identity("127.0.0.1", T0 - DAY, T0 - 1);
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (config, ca, expected) in [
        (config.clone(), other, &is_tls as &dyn Fn(&Failure) -> bool),
        (named, named_ca, &is_tls),
        (old, old_ca, &is_tls),
        (config.clone(), String::new(), &is_roots),
        (config.clone(), "-----BEGIN CERTIFICATE-----\n".to_owned(), &is_roots),
        (config, key, &is_roots),
    ] {
        let (outcome, lacking) = over_tls(config, &ca).await;
        assert_eq!(outcome, Err(Denial::CollateralUnavailable));
        let failures: Vec<Failure> = lacking.into_iter().map(|lacking| lacking.failure).collect();
        let left_alone = |failure: &Failure| matches!(failure, Failure::BackingOff(_));
        assert!(failures.iter().all(|failure| expected(failure) || left_alone(failure)), "{failures:?}");
        assert!(failures.iter().any(expected), "{failures:?}");
    }
}

#[tokio::test]
async fn a_service_that_speaks_no_tls_or_says_nothing_in_the_handshake_ends_in_time() {
    let (_, ca) = identity("127.0.0.1", T0 - DAY, T0 + DAY);
    let rig = Rig::good().await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for port in [rig.server.port(), silent.local_addr().unwrap().port()] {
        let mut config = super::config(&format!("https://127.0.0.1:{port}"));
        config.sev_snp.as_mut().unwrap().ca_file = Some(ca_file.clone());
        config.tdx = None;
        config.exchange_within_ms = HASTY_MS;
        let trust = trusts(&rig.authority, &rig.synthetic);
        let holdings =
            Holdings::open(config, trust, rig.clock.clone(), Arc::new(Kept::default()), rig.now()).unwrap();
        let begun = Instant::now();
        let (outcome, lacking) = super::sev_snp(&holdings, &report(), rig.now()).await;
        assert_eq!(outcome, Err(Denial::CollateralUnavailable));
        assert_eq!(lacking[0].failure, Failure::TimedOut, "each waits for the other to speak");
        assert!(begun.elapsed() < BOUND);
    }
}
