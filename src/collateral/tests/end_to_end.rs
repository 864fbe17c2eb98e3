//! Documents that verify because their collateral is served, and do not where it is dead, stale or somebody else's.

use super::*;
use crate::evidence::sev_snp::SigningKey;

const LIST: &str = "/vcek/v1/Milan/crl";
const TCB: &str = "/tdx/certification/v4/tcb?fmspc=00806F050000";

#[tokio::test]
async fn documents_without_endorsements_verify_with_what_is_served_and_ask_once() {
    let rig = Rig::good().await;
    assert_eq!(rig.sev_snp().await, (Ok(()), Vec::new()));
    let mut asked = rig.server.asked();
    asked.sort();
    // The intermediate for itself, and for the certificate where that came first.
    asked.dedup();
    let certificate =
        crate::evidence::sev_snp::certificate_paths(&crate::evidence::sev_snp::parse(&report()).unwrap());
    assert_eq!(asked, [certificate[0].as_str(), "/vcek/v1/Milan/cert_chain", LIST]);
    assert_eq!(rig.tdx().await, (Ok(()), Vec::new()));
    let asked = rig.server.connections();
    assert_eq!(rig.sev_snp().await, (Ok(()), Vec::new()));
    assert_eq!(rig.tdx().await, (Ok(()), Vec::new()));
    assert_eq!(rig.server.connections(), asked, "all of it is held");
    let status = rig.holdings.status(rig.now());
    assert!(status.held.iter().all(|held| held.current));
    assert_eq!(status.held.len(), 7);
    assert!(status.services.iter().all(|s| s.answered == Some(rig.now().wall) && s.failed.is_none()));
    assert!(serde_json::to_string(&status).unwrap().contains("revocation list for vcek of Milan"));
}

#[tokio::test]
async fn what_came_along_is_not_fetched() {
    let rig = Rig::good().await;
    let now = rig.now();
    let carried = [chip().0.certificate.clone(), rig.authority.ask.clone()];
    let missing = rig.holdings.missing_for_sev_snp(&report(), &carried, now);
    assert_eq!(missing, [Item::SevSnpList { product: Product::Milan, signing_key: SigningKey::Vcek }]);
    let quote = rig.synthetic.quote(&DUE);
    assert!(rig.holdings.missing_for_tdx(&quote, &[&rig.synthetic.collateral], now).is_empty());
    let none: [&[u8]; 0] = [];
    assert_eq!(rig.holdings.missing_for_tdx(&quote, &none, now).len(), 4);
    let at_end = Now { wall: WallTime((T0 + 30 * DAY) * 1000), ..now };
    let missing = rig.holdings.missing_for_tdx(&quote, &[&rig.synthetic.collateral], at_end);
    assert_eq!(missing.len(), 3, "all but the root's list, which ends later: {missing:?}");
}

#[tokio::test]
async fn what_nobody_issued_is_not_asked_about() {
    let rig = Rig::good().await;
    let none: [&[u8]; 0] = [];
    let foreign = Plan::at(T0).make().quote(&DUE);
    assert!(rig.holdings.missing_for_tdx(&foreign, &none, rig.now()).is_empty());
    let (outcome, lacking) = tdx(&rig.holdings, &foreign, rig.now()).await;
    assert_eq!((outcome, lacking), (Err(Denial::EndorsementUntrusted), Vec::new()));
    for body in [&b""[..], b"garbage", &[0; 1184]] {
        assert_eq!(sev_snp(&rig.holdings, body, rig.now()).await.0, Err(Denial::EvidenceMalformed));
        assert_eq!(tdx(&rig.holdings, body, rig.now()).await.0, Err(Denial::EvidenceMalformed));
    }
    assert_eq!(rig.server.connections(), 0);
}

#[tokio::test]
async fn a_service_that_dies_takes_nothing_away_until_what_is_held_ends() {
    let rig = Rig::good().await;
    assert_eq!((rig.sev_snp().await.0, rig.tdx().await.0), (Ok(()), Ok(())));
    rig.server.stop().await;
    rig.hands.advance(30 * DAY - 1);
    assert_eq!((rig.sev_snp().await, rig.tdx().await), ((Ok(()), Vec::new()), (Ok(()), Vec::new())));
    rig.hands.advance(1);
    let (outcome, lacking) = rig.sev_snp().await;
    assert_eq!(outcome, Err(Denial::CollateralStale));
    assert!(matches!(&lacking[..], [Lacking { failure: Failure::Unreachable(_), .. }]), "{lacking:?}");
    let (outcome, lacking) = rig.tdx().await;
    assert_eq!((outcome, lacking.len()), (Err(Denial::CollateralStale), 3));
    let ended: Vec<String> = rig
        .holdings
        .status(rig.now())
        .held
        .into_iter()
        .filter_map(|held| (!held.current).then_some(held.what))
        .collect();
    assert_eq!(ended.len(), 4, "{ended:?}");
}

#[tokio::test]
async fn stale_lists_and_statements_that_a_service_still_gives_out_are_stale() {
    let rig = Rig::with(|parts, path| match path {
        LIST => Act::ok(parts.authority.list(&[], 1, T0 - 2 * DAY, Some(T0 - DAY))),
        _ => Act::NotFound,
    })
    .await;
    let (outcome, lacking) = rig.sev_snp().await;
    assert_eq!(outcome, Err(Denial::CollateralStale));
    assert_eq!(lacking.iter().map(|lacking| &lacking.failure).collect::<Vec<_>>(), [&Failure::Ended]);
    rig.hands.advance(31 * DAY);
    let (outcome, lacking) = rig.tdx().await;
    assert_eq!(outcome, Err(Denial::CollateralStale));
    assert!(lacking.iter().all(|lacking| lacking.failure == Failure::Ended), "{lacking:?}");
    assert_eq!(lacking.len(), 3);
}

#[tokio::test]
async fn what_ended_by_the_boot_clock_alone_is_not_handed_out() {
    let rig = Rig::good().await;
    assert_eq!((rig.sev_snp().await.0, rig.tdx().await.0), (Ok(()), Ok(())));
    rig.server.stop().await;
    let set_back = Now { boot: rig.now().boot.plus(31 * DAY * 1000), ..rig.now() };
    let quote = rig.synthetic.quote(&DUE);
    assert_eq!(tdx(&rig.holdings, &quote, set_back).await.0, Err(Denial::CollateralUnavailable));
    // AMD's list is a `Fresh` of the verifier's own.
    assert_eq!(sev_snp(&rig.holdings, &report(), set_back).await.0, Err(Denial::CollateralStale));
}

#[tokio::test]
async fn a_suspect_clock_fetches_nothing() {
    let rig = Rig::good().await;
    rig.clock.now().unwrap();
    rig.hands.wall.fetch_add(3_600_000, Ordering::SeqCst);
    let (outcome, lacking) = rig.sev_snp().await;
    assert_eq!(outcome, Err(Denial::CollateralUnavailable));
    assert!(lacking.iter().all(|lacking| lacking.failure == Failure::ClockSuspect), "{lacking:?}");
    assert_eq!(rig.server.connections(), 0);
}

#[tokio::test]
async fn without_a_configured_service_nothing_is_asked() {
    let rig = Rig::good().await;
    let trust = trusts(&rig.authority, &rig.synthetic);
    let config = CollateralConfig::default();
    let holdings =
        Holdings::open(config, trust, rig.clock.clone(), Arc::new(Kept::default()), rig.now()).unwrap();
    let (outcome, lacking) = sev_snp(&holdings, &report(), rig.now()).await;
    assert_eq!(outcome, Err(Denial::CollateralUnavailable));
    assert!(lacking.iter().all(|lacking| lacking.failure == Failure::NotConfigured));
    assert!(holdings.status(rig.now()).services.is_empty());
}

#[tokio::test]
async fn an_impostors_answers_are_not_kept() {
    let impostor = Authority::impostor("Milan");
    let rig = Rig::with(move |parts, path| {
        match path {
            LIST => Act::ok(impostor.list(&[], 9, T0, Some(T0 + 900 * DAY))),
            "/vcek/v1/Milan/cert_chain" => {
                Act::ok([&impostor.ask, &impostor.ark].map(|der| pem(der)).concat())
            }
            path if path.starts_with("/vcek") => Act::ok(impostor.vcek().certificate),
            path => {
                // Intel's own words with a higher number: they would outrank the genuine ones.
                let Act::Reply { status, headers, body } = parts.good(path) else { panic!("{path}") };
                let text = String::from_utf8_lossy(&body).into_owned();
                let forged = text.replace("\"tcbEvaluationDataNumber\":18", "\"tcbEvaluationDataNumber\":99");
                let body = if forged == text { [&body[..], b"00"].concat() } else { forged.into_bytes() };
                Act::Reply { status, headers, body }
            }
        }
    })
    .await;
    for (outcome, lacking) in [rig.sev_snp().await, rig.tdx().await] {
        assert_eq!(outcome, Err(Denial::CollateralUnavailable));
        let refused =
            |lacking: &Lacking| matches!(lacking.failure, Failure::Untrusted(_) | Failure::WrongContent(_));
        assert!(lacking.iter().all(refused), "{lacking:?}");
        assert!(lacking.iter().any(|lacking| matches!(lacking.failure, Failure::Untrusted(_))));
    }
    assert!(rig.holdings.status(rig.now()).held.is_empty());
}

#[tokio::test]
async fn another_chips_or_products_answer_is_refused() {
    let rig = Rig::with(|parts, path| match path {
        LIST => Act::ok(Authority::new("Genoa").list(&[], 2, T0, Some(T0 + DAY))),
        "/vcek/v1/Milan/cert_chain" => Act::NotFound,
        path if path.starts_with("/vcek") => {
            let profile = amd::KeyProfile { hw_id: Some(vec![0xc2; 64]), ..parts.authority.vcek_profile() };
            Act::ok(parts.authority.signer(&profile).certificate)
        }
        TCB => parts.good("/tdx/certification/v4/qe/identity"),
        _ => Act::NotFound,
    })
    .await;
    let (outcome, lacking) = rig.sev_snp().await;
    assert_eq!((outcome, lacking.len()), (Err(Denial::CollateralUnavailable), 2));
    for Lacking { item, failure } in &lacking {
        match item {
            Item::SevSnpCertificate { .. } => {
                let why = "the certificate is of another chip or TCB";
                assert_eq!(*failure, Failure::WrongContent(why.to_owned()));
            }
            _ => assert!(matches!(failure, Failure::Untrusted(_)), "{item}: {failure}"),
        }
    }
    let held: Vec<String> = rig.holdings.status(rig.now()).held.into_iter().map(|held| held.what).collect();
    assert_eq!(held, ["intermediate for vcek of Milan"]);
    let (outcome, lacking) = rig.tdx().await;
    assert_eq!((outcome, lacking.len()), (Err(Denial::CollateralUnavailable), 1));
    assert!(matches!(lacking[0].failure, Failure::WrongContent(_)), "{lacking:?}");
}

#[tokio::test]
async fn a_revoked_intermediate_on_a_served_list_is_denied() {
    let rig = Rig::with(|parts, path| match path {
        LIST => Act::ok(parts.authority.list(&[&amd::ASK_SERIAL], 3, T0, Some(T0 + DAY))),
        _ => Act::NotFound,
    })
    .await;
    assert_eq!(rig.sev_snp().await, (Err(Denial::EndorsementRevoked), Vec::new()));
}

#[tokio::test]
async fn a_report_that_does_not_say_its_product_is_looked_for_under_each() {
    let rig = Rig::with(|_, path| match path {
        path if path.contains("/Milan/c1") => Act::status(404, ""),
        _ => Act::NotFound,
    })
    .await;
    let body = chip().0.sign(rig.authority.report(2, &DUE));
    assert_eq!(sev_snp(&rig.holdings, &body, rig.now()).await.0, Err(Denial::CollateralUnavailable));
    let asked = rig.server.asked();
    assert!(asked[0].contains("/Milan/c1") && asked[1].contains("/Genoa/c1"), "{asked:?}");
    let rig = Rig::good().await;
    assert_eq!(sev_snp(&rig.holdings, &body, rig.now()).await, (Ok(()), Vec::new()));
}
