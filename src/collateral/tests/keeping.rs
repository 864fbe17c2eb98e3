//! What is held: how it is fetched once, refreshed, written, read again, imported and let go.

use super::*;
use crate::evidence::sev_snp::SigningKey;
use crate::evidence::tdx::Age;
use std::sync::atomic::AtomicBool;

const LIST: Item = Item::SevSnpList { product: Product::Milan, signing_key: SigningKey::Vcek };

#[tokio::test]
async fn many_who_need_one_item_make_one_exchange() {
    let rig = Rig::with(|parts, path| Act::Late(100, Box::new(parts.good(path)))).await;
    let ask = || rig.holdings.get(vec![LIST], PATIENCE);
    let answers = futures_util::future::join_all((0..50).map(|_| ask())).await;
    assert!(answers.iter().all(Vec::is_empty), "{answers:?}");
    assert_eq!(rig.server.connections(), 1);
}

#[tokio::test]
async fn who_gives_up_is_told_in_time_and_the_fetching_goes_on() {
    let rig = Rig::with(|parts, path| Act::Late(200, Box::new(parts.good(path)))).await;
    let begun = std::time::Instant::now();
    let lacking = rig.holdings.get(vec![LIST], Duration::from_millis(10)).await;
    assert_eq!(lacking, [Lacking { item: LIST, failure: Failure::TimedOut }]);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(rig.holdings.status(rig.now()).under_way, 1);
    assert!(rig.holdings.get(vec![LIST], PATIENCE).await.is_empty());
    assert_eq!(rig.server.connections(), 1);
}

#[tokio::test]
async fn only_so_many_are_under_way() {
    let rig = Rig::with(|_, _| Act::Hang(Vec::new())).await;
    let item = |n: usize| Item::SevSnpCertificate { paths: vec![format!("/vcek/v1/Milan/{n}")] };
    let items: Vec<Item> = (0..crate::limits::COLLATERAL_UNDER_WAY + 1).map(item).collect();
    let lacking = rig.holdings.get(items, Duration::from_millis(1)).await;
    let busy = lacking.iter().filter(|lacking| lacking.failure == Failure::Busy).count();
    assert_eq!((lacking.len(), busy), (crate::limits::COLLATERAL_UNDER_WAY + 1, 1));
    assert!(rig.server.connections() <= 4, "as many exchanges at once as are configured");
}

#[tokio::test]
async fn a_newer_one_is_asked_for_ahead_and_a_failure_takes_nothing_away() {
    let dead = Arc::new(AtomicBool::new(false));
    let switch = dead.clone();
    let rig = Rig::with(move |parts, path| match path {
        _ if switch.load(Ordering::SeqCst) => Act::status(500, ""),
        "/vcek/v1/Milan/crl" => {
            // Each time a later one.
            static NUMBER: AtomicU64 = AtomicU64::new(10);
            let number = NUMBER.fetch_add(1, Ordering::SeqCst);
            Act::ok(parts.authority.list(&[], number as u8, T0, Some(T0 + number * 3 * DAY)))
        }
        _ => Act::NotFound,
    })
    .await;
    assert_eq!((rig.sev_snp().await.0, rig.tdx().await.0), (Ok(()), Ok(())));
    let asked = rig.server.connections();
    assert!(rig.holdings.refresh_due(rig.now()).await.is_empty());
    rig.hands.advance(DAY - 1);
    rig.holdings.refresh_due(rig.now()).await;
    assert_eq!(rig.server.connections(), asked, "nothing is due");
    rig.hands.advance(1);
    assert!(rig.holdings.refresh_due(rig.now()).await.is_empty());
    assert_eq!(rig.server.connections(), asked + 5, "the list and the four parts, a day old");
    let ends = |what: &str| {
        let held = rig.holdings.status(rig.now()).held;
        held.into_iter().find(|held| held.what.contains(what)).unwrap().ends
    };
    assert_eq!(ends("Milan").seconds().saturating_sub(T0) / DAY, 33);
    dead.store(true, Ordering::SeqCst);
    rig.hands.advance(DAY);
    let lacking = rig.holdings.refresh_due(rig.now()).await;
    assert_eq!(lacking.len(), 5);
    assert!(lacking.iter().any(|lacking| lacking.failure == Failure::ServerError(500)), "{lacking:?}");
    assert_eq!((rig.sev_snp().await, rig.tdx().await), ((Ok(()), Vec::new()), (Ok(()), Vec::new())));
    dead.store(false, Ordering::SeqCst);
    rig.hands.advance(3600);
    assert!(rig.holdings.refresh(rig.now()).await.is_empty());
    assert_eq!(ends("Milan").seconds().saturating_sub(T0) / DAY, 36);
}

#[tokio::test]
async fn an_older_list_or_statement_does_not_take_a_newer_ones_place() {
    let rig = Rig::good().await;
    let now = rig.now();
    let newer = rig.authority.list(&[&[7]], 5, T0, Some(T0 + DAY));
    rig.holdings.import(Import::SevSnpList(SigningKey::Vcek), &newer, now).await.unwrap();
    let older = rig.authority.list(&[], 4, T0, Some(T0 + 300 * DAY));
    let outcome = rig.holdings.import(Import::SevSnpList(SigningKey::Vcek), &older, now).await;
    assert_eq!(outcome, Err(Failure::Older));
    assert_eq!(rig.holdings.status(now).held[0].ends.seconds(), T0 + DAY);
    // The service has number 2.
    rig.hands.advance(DAY);
    let lacking = rig.holdings.get(vec![LIST], PATIENCE).await;
    assert_eq!(lacking, [Lacking { item: LIST, failure: Failure::Older }]);
    assert_eq!(rig.sev_snp().await.0, Err(Denial::CollateralStale));
    // Kept by somebody else across a start without a directory, the mark does the same.
    let (mut amd, intel) = trusts(&rig.authority, &rig.synthetic);
    let marks = rig.holdings.list_marks();
    assert_eq!(marks.len(), 1);
    marks.into_iter().for_each(|mark| amd.remember(mark));
    let config = config(&rig.server.address());
    let restarted =
        Holdings::open(config, (amd, intel), rig.clock.clone(), Arc::new(Kept::default()), rig.now())
            .unwrap();
    assert_eq!(restarted.get(vec![LIST], PATIENCE).await[0].failure, Failure::Older);
}

#[test]
fn an_older_statement_of_intels_does_not_take_a_newer_ones_place() {
    let now = Now { wall: WallTime(T0 * 1000), boot: BootTime(0) };
    // Each under a root of its own; what is compared are the parts.
    let part = |number: u32, begins: u64| {
        let mut plan = Plan::at(T0);
        plan.tcb_info["tcbEvaluationDataNumber"] = number.into();
        Plan::date(&mut plan.tcb_info, intel::Window { begins, ends: T0 + 30 * DAY });
        let synthetic = plan.make();
        let trust = TdxTrust::none().with_root(&synthetic.root_der).unwrap();
        trust.genuine_parts(&synthetic.collateral, now).unwrap().remove(0)
    };
    let mut held = super::dcap::DcapHeld::new(TdxTrust::none());
    assert_eq!(held.take(part(18, T0 - 60), Age::default(), now), Ok(()));
    assert_eq!(held.take(part(18, T0 - 61), Age::default(), now), Err(Failure::Older));
    assert_eq!(held.take(part(17, T0 - 1), Age::default(), now), Err(Failure::Older));
    assert_eq!(held.take(part(18, T0 - 60), Age::default(), now), Ok(()));
    assert_eq!(held.take(part(19, T0 - 90), Age::default(), now), Ok(()));
    assert_eq!(held.take(part(18, T0), Age::default(), now), Err(Failure::Older));
}

#[tokio::test]
async fn a_restart_finds_what_was_fetched_and_verifies_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("collateral");
    let rig = Rig::made(Some(&directory), PATIENT_MS, |_, _| Act::NotFound).await;
    assert_eq!((rig.sev_snp().await.0, rig.tdx().await.0), (Ok(()), Ok(())));
    rig.server.stop().await;
    let mut before = rig.holdings.status(rig.now());
    assert!(before.held.iter().all(|held| held.origin == Origin::Fetched));
    before.held.iter_mut().for_each(|held| held.origin = Origin::Directory);
    let restarted = rig.reopened(&rig.server.address(), Some(&directory));
    let after = restarted.status(rig.now());
    assert_eq!((&after.held, after.faults.len()), (&before.held, 0));
    assert_eq!(after.held.len(), 7);
    let quote = rig.synthetic.quote(&DUE);
    assert_eq!(sev_snp(&restarted, &report(), rig.now()).await, (Ok(()), Vec::new()));
    assert_eq!(tdx(&restarted, &quote, rig.now()).await, (Ok(()), Vec::new()));
    // Under another operator's roots none of it counts.
    let (foreign, other) = (Authority::impostor("Milan"), Plan::at(T0).make());
    let mut config = config(&rig.server.address());
    config.directory = Some(directory);
    let holdings = Holdings::open(
        config,
        trusts(&foreign, &other),
        rig.clock.clone(),
        Arc::new(Kept::default()),
        rig.now(),
    )
    .unwrap();
    let status = holdings.status(rig.now());
    assert_eq!((status.held.len(), status.faults.len()), (0, 7), "{:?}", status.faults);
}

#[tokio::test]
async fn a_damaged_file_is_absent_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::made(Some(folder.path()), PATIENT_MS, |_, _| Act::NotFound).await;
    assert_eq!((rig.sev_snp().await.0, rig.tdx().await.0), (Ok(()), Ok(())));
    rig.server.stop().await;
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 7, "{files:?}");
    for file in &files {
        let whole = std::fs::read(file).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [flipped, whole[..whole.len() - 1].to_vec(), Vec::new(), vec![0x30; 1024 * 1024]] {
            std::fs::write(file, damaged).unwrap();
            let restarted = rig.reopened(&rig.server.address(), Some(folder.path()));
            let status = restarted.status(rig.now());
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(status.faults.iter().any(|fault| fault.file == name), "{name}: {:?}", status.faults);
            let quote = rig.synthetic.quote(&DUE);
            let outcomes = (
                sev_snp(&restarted, &report(), rig.now()).await.0,
                tdx(&restarted, &quote, rig.now()).await.0,
            );
            let expected = match name.starts_with("dcap-") {
                true => (Ok(()), Err(Denial::CollateralUnavailable)),
                false => (Err(Denial::CollateralUnavailable), Ok(())),
            };
            assert_eq!(outcomes, expected, "{name}");
        }
        std::fs::write(file, whole).unwrap();
    }
    let restarted = rig.reopened(&rig.server.address(), Some(folder.path()));
    assert!(restarted.status(rig.now()).faults.is_empty());
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_or_a_file_not_of_ours_costs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "x").unwrap();
    let rig = Rig::made(Some(&blocked), PATIENT_MS, |_, _| Act::NotFound).await;
    assert_eq!(rig.holdings.status(rig.now()).faults.len(), 1);
    assert_eq!(rig.sev_snp().await.0, Ok(()));
    let directory = folder.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    for name in ["README", ".collateral-0011", "sev-snp-list-milan.crl", "dcap-x.txt"] {
        std::fs::write(directory.join(name), "x").unwrap();
    }
    let status = rig.reopened(&rig.server.address(), Some(&directory)).status(rig.now());
    assert_eq!((status.held.len(), status.faults.len()), (0, 0), "{:?}", status.faults);
    assert!(!directory.join(".collateral-0011").exists(), "what an interrupted write left is removed");
    assert!(directory.join("README").exists());
}

#[tokio::test]
async fn imported_files_do_without_a_service() {
    let rig = Rig::good().await;
    rig.server.stop().await;
    let now = rig.now();
    let list = rig.authority.list(&[], 2, T0, Some(T0 + DAY));
    let chain = Services::new(&rig.synthetic).chain().into_bytes();
    for (what, bytes, count) in [
        (Import::SevSnpIntermediate, chain, 1),
        (Import::SevSnpCertificate, chip().0.certificate.clone(), 1),
        (Import::SevSnpList(SigningKey::Vcek), list, 1),
        (Import::Dcap, rig.synthetic.collateral.clone(), 4),
    ] {
        let taken = rig.holdings.import(what, &bytes, now).await.unwrap();
        assert_eq!(taken.len(), count, "{what:?}");
        assert!(taken.iter().all(|held| held.current));
    }
    assert_eq!((rig.sev_snp().await, rig.tdx().await), ((Ok(()), Vec::new()), (Ok(()), Vec::new())));
    assert!(rig.server.asked().is_empty());
}

#[tokio::test]
async fn what_is_no_collateral_or_not_genuine_is_not_imported() {
    let rig = Rig::good().await;
    let impostor = Authority::impostor("Milan");
    let foreign = Plan::at(T0).make().collateral;
    let mut chainless: serde_json::Value = serde_json::from_slice(&rig.synthetic.collateral).unwrap();
    chainless.as_object_mut().unwrap().remove("pck_crl_issuer_chain");
    for (what, bytes) in [
        (Import::SevSnpIntermediate, impostor.ask.clone()),
        (Import::SevSnpIntermediate, rig.authority.ark.clone()),
        (Import::SevSnpCertificate, impostor.vcek().certificate),
        (Import::SevSnpCertificate, rig.authority.vlek().certificate),
        (Import::SevSnpList(SigningKey::Vcek), impostor.list(&[], 1, T0, Some(T0 + DAY))),
        (Import::Dcap, foreign),
        (Import::Dcap, chainless.to_string().into_bytes()),
        (Import::Dcap, b"{}".to_vec()),
        (Import::SevSnpIntermediate, Vec::new()),
        (Import::SevSnpList(SigningKey::Vlek), Vec::new()),
    ] {
        let outcome = rig.holdings.import(what, &bytes, rig.now()).await;
        let refused = matches!(outcome, Err(Failure::Untrusted(_) | Failure::WrongContent(_)));
        assert!(refused, "{what:?}: {outcome:?}");
    }
    assert!(rig.holdings.status(rig.now()).held.is_empty());
}

#[tokio::test]
async fn a_root_that_is_switched_off_takes_what_it_vouched_for_along() {
    let rig = Rig::good().await;
    assert_eq!((rig.sev_snp().await.0, rig.tdx().await.0), (Ok(()), Ok(())));
    rig.server.stop().await;
    let (amd, intel) = trusts(&rig.authority, &rig.synthetic);
    rig.holdings.set_trust((Some(amd), Some(intel)), rig.now());
    assert_eq!((rig.sev_snp().await.0, rig.tdx().await.0), (Ok(()), Ok(())));
    rig.holdings.set_trust((Some(SevSnpTrust::empty()), Some(TdxTrust::none())), rig.now());
    assert!(rig.holdings.status(rig.now()).held.is_empty());
    assert_eq!(rig.tdx().await.0, Err(Denial::EndorsementUntrusted));
    assert_eq!(rig.sev_snp().await.0, Err(Denial::CollateralUnavailable));
}
