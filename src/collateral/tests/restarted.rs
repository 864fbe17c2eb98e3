//! What was seen before a restart narrows what counts after it, whatever became of the directory.

use super::*;
use crate::evidence::sev_snp::SigningKey;
use crate::evidence::tdx::{Question, Tee};

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
