//! What was seen before a restart narrows what counts after it, whatever became of the directory.

use super::*;
use crate::evidence::hardware::Supply;
use crate::evidence::sev_snp::SigningKey;
use crate::evidence::tdx::{Question, Tee};
use crate::request::Document;

const LIST: Item = Item::SevSnpList { product: Product::Milan, signing_key: SigningKey::Vcek };
const TCB: Item = Item::Dcap(Question::TcbInfo { tee: Tee::Tdx, fmspc: [0, 0x80, 0x6f, 5, 0, 0] });

/// The same store's marks, another process, no directory.
fn restarted(rig: &Rig, marks: &Arc<Kept>, (mut amd, intel): (SevSnpTrust, TdxTrust)) -> Holdings {
    remember_lists(&mut amd, marks.as_ref()).unwrap();
    let config = config(&rig.server.address());
    Holdings::open(config, (amd, intel), rig.clock.clone(), marks.clone(), rig.now()).unwrap()
}

fn started(rig: &Rig) -> (Holdings, Arc<Kept>) {
    let marks = Arc::new(Kept::default());
    (restarted(rig, &marks, trusts(&rig.authority, &rig.synthetic)), marks)
}

#[tokio::test]
async fn a_list_older_than_one_seen_before_a_restart_is_refused() {
    let rig = Rig::good().await;
    let (holdings, marks) = started(&rig);
    let newer = rig.authority.list(&[&[7]], 5, T0, Some(T0 + DAY));
    holdings.import(Import::SevSnpList(SigningKey::Vcek), &newer, rig.now()).await.unwrap();
    drop(holdings);
    let after = restarted(&rig, &marks, trusts(&rig.authority, &rig.synthetic));
    // The service has number 2.
    assert_eq!(after.get(vec![LIST], PATIENCE).await[0].failure, Failure::Older);
    assert_eq!(sev_snp(&after, &report(), rig.now()).await.0, Err(Denial::CollateralUnavailable));
    after.import(Import::SevSnpList(SigningKey::Vcek), &newer, rig.now()).await.unwrap();
    assert_eq!(sev_snp(&after, &report(), rig.now()).await.0, Ok(()));
}

#[tokio::test]
async fn a_list_seen_before_a_restart_is_missed_after_it_though_none_is_demanded() {
    let rig = Rig::good().await;
    let lax = || {
        let mut amd = SevSnpTrust::empty();
        amd.add_root(&rig.authority.ark).unwrap();
        (amd, TdxTrust::none())
    };
    let marks = Arc::new(Kept::default());
    let holdings = restarted(&rig, &marks, lax());
    assert_eq!(sev_snp(&holdings, &report(), rig.now()).await.0, Ok(()));
    let list = rig.authority.list(&[], 3, T0, Some(T0 + DAY));
    holdings.import(Import::SevSnpList(SigningKey::Vcek), &list, rig.now()).await.unwrap();
    let after = restarted(&rig, &marks, lax());
    assert_eq!(sev_snp(&after, &report(), rig.now()).await.0, Err(Denial::CollateralUnavailable));
    // Another trust, as when a file of the configuration changed, forgets nothing either.
    let (amd, intel) = lax();
    after.set_trust((Some(amd), Some(intel)), rig.now());
    assert_eq!(sev_snp(&after, &report(), rig.now()).await.0, Err(Denial::CollateralUnavailable));
}

#[tokio::test]
async fn a_statement_of_intels_older_than_one_seen_before_a_restart_is_refused() {
    let rig = Rig::good().await;
    let (holdings, marks) = started(&rig);
    assert_eq!(tdx(&holdings, &rig.synthetic.quote(&DUE), rig.now()).await.0, Ok(()));
    let (name, kept) = {
        let marks = marks.marks.lock().unwrap();
        let found = marks.iter().find(|(name, _)| name.contains("tcb-info-tdx")).unwrap();
        (found.0.clone(), found.1.clone())
    };
    let mut newer = kept;
    *newer.last_mut().unwrap() += 1;
    marks.raise(&name, &newer).unwrap();
    let after = restarted(&rig, &marks, trusts(&rig.authority, &rig.synthetic));
    let (outcome, lacking) = tdx(&after, &rig.synthetic.quote(&DUE), rig.now()).await;
    assert_eq!(outcome, Err(Denial::CollateralUnavailable));
    assert_eq!(lacking, [Lacking { item: TCB, failure: Failure::Older }]);
    let parts = after.import(Import::Dcap, &rig.synthetic.collateral, rig.now()).await;
    assert!(parts.unwrap().iter().all(|part| !part.what.contains("TCB info")), "the rest of it is as new");
    assert_eq!(after.missing_for_tdx(&rig.synthetic.quote(&DUE), &[] as &[&[u8]], rig.now()), [TCB]);
}

#[tokio::test]
async fn marks_that_cannot_be_read_take_nothing_in_and_marks_that_cannot_be_kept_are_said() {
    let rig = Rig::good().await;
    let (holdings, marks) = started(&rig);
    marks.set_out(true);
    let mut amd = trusts(&rig.authority, &rig.synthetic).0;
    assert!(remember_lists(&mut amd, marks.as_ref()).is_err());
    assert_eq!(holdings.get(vec![TCB], PATIENCE).await[0].failure, Failure::MarksUnavailable);
    // A newer list narrows, so it is taken all the same.
    let list = rig.authority.list(&[], 5, T0, Some(T0 + DAY));
    holdings.import(Import::SevSnpList(SigningKey::Vcek), &list, rig.now()).await.unwrap();
    let faults = holdings.status(rig.now()).faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].why.contains("are not kept"), "{faults:?}");
    marks.set_out(false);
    holdings.0.keep_marks();
    assert_eq!(holdings.status(rig.now()).faults, []);
    assert_eq!(marks.marks.lock().unwrap().len(), 1);
}

fn broken() -> Act {
    Act::Reply { status: 500, headers: String::new(), body: Vec::new() }
}

/// One platform with two TCB infos of Intel's, both of now: the second of a later TCB recovery.
fn recovered(rig: &Rig) -> (Vec<u8>, Vec<u8>) {
    let of =
        |number: u32| rig.synthetic.collateral_with(|plan| plan["tcbEvaluationDataNumber"] = number.into());
    (of(17), of(19))
}

/// A quote with what its attester brought along, by the way of a release.
async fn brought(holdings: &Holdings, rig: &Rig, endorsement: &[u8]) -> Result<(), Denial> {
    let (quote, now) = (rig.synthetic.quote(&DUE), rig.now());
    let document = Document {
        format: crate::evidence::tdx::FORMAT.into(),
        body: quote.clone(),
        endorsements: vec![endorsement.to_vec()],
    };
    let documents = [document];
    let identity = crate::spiffe::SpiffeId::parse("spiffe://example.org/app").unwrap();
    if let Some(supplying) = Supply::supply(holdings, &identity, &documents, now) {
        supplying.await;
    }
    let trust = Supply::tdx(holdings, &quote, now);
    let verify = crate::evidence::tdx::verify;
    let outcome = verify(&quote, &documents[0].endorsements, &DUE, &trust, now, &mut Checks::new());
    outcome.map(drop).map_err(|refusal| refusal.denial)
}

#[tokio::test]
async fn an_attester_brings_nothing_older_than_was_seen_not_even_by_another_attester_before_a_restart() {
    // No service: what is not brought is not there.
    let rig = Rig::with(|_, _| broken()).await;
    let (older, newer) = recovered(&rig);
    let (holdings, marks) = started(&rig);
    assert_eq!(brought(&holdings, &rig, &older).await, Ok(()), "the newest that anybody has shown");
    assert_eq!(brought(&holdings, &rig, &newer).await, Ok(()));
    // What is held goes before it.
    assert_eq!(brought(&holdings, &rig, &older).await, Ok(()));
    let tcb =
        holdings.status(rig.now()).held.into_iter().find(|held| held.what.contains("TCB info")).unwrap();
    assert_eq!(tcb.origin, Origin::Brought);
    let after = restarted(&rig, &marks, trusts(&rig.authority, &rig.synthetic));
    assert_eq!(brought(&after, &rig, &older).await, Err(Denial::CollateralStale));
    assert_eq!(brought(&after, &rig, &newer).await, Ok(()));
}

#[tokio::test]
async fn what_only_says_that_it_is_newer_moves_no_mark() {
    let rig = Rig::with(|_, _| broken()).await;
    let (older, newer) = recovered(&rig);
    let (holdings, marks) = started(&rig);
    assert_eq!(brought(&holdings, &rig, &older).await, Ok(()));
    let before = marks.marks.lock().unwrap().clone();
    let forged = String::from_utf8(newer).unwrap().replace(r#"DataNumber\":19"#, r#"DataNumber\":99"#);
    assert_eq!(brought(&holdings, &rig, forged.as_bytes()).await, Err(Denial::EndorsementUntrusted));
    assert_eq!(*marks.marks.lock().unwrap(), before);
    assert_eq!(brought(&holdings, &rig, &older).await, Ok(()));
}

#[tokio::test]
async fn where_it_is_not_known_what_was_seen_nothing_that_is_brought_counts() {
    let rig = Rig::with(|_, _| broken()).await;
    let (holdings, marks) = started(&rig);
    marks.set_out(true);
    assert_eq!(brought(&holdings, &rig, &rig.synthetic.collateral).await, Err(Denial::CollateralUnavailable));
    marks.set_out(false);
    assert_eq!(brought(&holdings, &rig, &rig.synthetic.collateral).await, Ok(()));
}

#[tokio::test]
async fn a_list_that_went_back_counts_once_it_is_accepted_and_is_the_mark_after_a_restart() {
    let rig = Rig::with(|_, _| broken()).await;
    let (holdings, marks) = started(&rig);
    let list = |number| rig.authority.list(&[], number, T0, Some(T0 + DAY));
    let kind = Import::SevSnpList(SigningKey::Vcek);
    holdings.import(kind, &list(5), rig.now()).await.unwrap();
    assert_eq!(holdings.import(kind, &list(3), rig.now()).await, Err(Failure::Older));
    let mut forged = list(3);
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(holdings.accept(kind, &forged, rig.now()).await, Err(Failure::Untrusted(_))));
    marks.set_out(true);
    assert_eq!(holdings.accept(kind, &list(3), rig.now()).await, Err(Failure::MarksUnavailable));
    marks.set_out(false);
    assert_eq!(holdings.import(kind, &list(4), rig.now()).await, Err(Failure::Older), "nothing was set");
    let accepted = holdings.accept(kind, &list(3), rig.now()).await.unwrap();
    assert_eq!(accepted, ["revocation list for vcek of Milan"]);
    for holdings in [&holdings, &restarted(&rig, &marks, trusts(&rig.authority, &rig.synthetic))] {
        assert_eq!(holdings.import(kind, &list(2), rig.now()).await, Err(Failure::Older));
        holdings.import(kind, &list(3), rig.now()).await.unwrap();
    }
    let ask = Import::SevSnpIntermediate;
    let refused = holdings.accept(ask, &rig.authority.ask, rig.now()).await;
    assert!(matches!(refused, Err(Failure::WrongContent(_))));
}

#[tokio::test]
async fn statements_of_intels_that_went_back_count_once_they_are_accepted() {
    let rig = Rig::with(|_, _| broken()).await;
    let (older, newer) = recovered(&rig);
    let (holdings, marks) = started(&rig);
    assert_eq!(brought(&holdings, &rig, &newer).await, Ok(()));
    let after = restarted(&rig, &marks, trusts(&rig.authority, &rig.synthetic));
    assert_eq!(brought(&after, &rig, &older).await, Err(Denial::CollateralStale));
    assert_eq!(after.accept(Import::Dcap, &older, rig.now()).await.unwrap().len(), 4);
    assert_eq!(brought(&after, &rig, &older).await, Ok(()));
    let after = restarted(&rig, &marks, trusts(&rig.authority, &rig.synthetic));
    assert_eq!(brought(&after, &rig, &older).await, Ok(()));
}
