//! What the format `tdx` takes and refuses, one defect at a time, on synthetic quotes under a test root.

#[path = "../../../tests/support/tdx.rs"]
pub(crate) mod support;

use super::*;
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Refusal};
use crate::time::{BootTime, Now, WallTime};
use serde_json::json;
use support::{DAY, Plan, Synthetic, Window, svn};

const NOW: u64 = 1_790_000_000;
const DUE: [u8; 64] = [0x5a; 64];

fn at(seconds: u64) -> Now {
    Now { wall: WallTime(seconds * 1000), boot: BootTime(0) }
}

fn trust(synthetic: &Synthetic) -> TdxTrust {
    TdxTrust::none().with_root(&synthetic.root_der).unwrap()
}

fn run_at(synthetic: &Synthetic, now: Now) -> (Result<VerifiedTdx, Refusal>, Checks) {
    let mut checks = Checks::new();
    let quote = synthetic.quote(&DUE);
    let endorsements = [&synthetic.collateral];
    (verify(&quote, &endorsements, &DUE, &trust(synthetic), now, &mut checks), checks)
}

/// The denial and the check that gives it, of a plan with one thing changed.
fn outcome(change: impl FnOnce(&mut Plan)) -> Result<(), (Denial, &'static str)> {
    let mut plan = Plan::at(NOW);
    change(&mut plan);
    let (outcome, checks) = run_at(&plan.make(), at(NOW));
    outcome.map(drop).map_err(|refusal| (refusal.denial, checks.all().last().unwrap().name))
}

fn claims(change: impl FnOnce(&mut Plan)) -> TdxClaims {
    let mut plan = Plan::at(NOW);
    change(&mut plan);
    run_at(&plan.make(), at(NOW)).0.unwrap().claims().clone()
}

#[test]
fn a_synthetic_quote_verifies_in_both_versions() {
    let v4 = claims(|_| {});
    assert_eq!((v4.quote_version, v4.tcb.status), (4, TcbStatus::UpToDate));
    assert_eq!(v4.mrtd, "a0".repeat(48));
    assert_eq!(v4.report_data, hex::encode(DUE));
    assert_eq!(v4.mrservicetd, None);
    assert_eq!(v4.platform.fmspc, hex::encode(support::FMSPC));
    assert_eq!(v4.platform.ppid, "11".repeat(16));
    assert_eq!(v4.platform.sgx_type, 1);
    assert_eq!((v4.platform.dynamic_platform, v4.platform.cached_keys), (Some(true), Some(false)));
    let v5 = claims(|plan| plan.td.v15 = Some((svn([7, 1, 3]), [0; 48])));
    assert_eq!((v5.quote_version, v5.tcb.current_status), (5, Some(TcbStatus::UpToDate)));
    assert_eq!(v5.mrservicetd, Some("00".repeat(48)));
    assert_ne!(v4.subject(), v5.subject());
    assert!(outcome(|plan| plan.td.padding = 3000).is_ok());
    let processor = claims(|plan| plan.pck_ca_name = "Intel SGX PCK Processor CA");
    assert_eq!(processor.platform.pck_ca, "processor");
}

#[test]
fn every_part_of_it_can_go_stale_and_each_is_named() {
    type Part = (&'static str, &'static str, Denial, fn(&mut Plan) -> &mut Window);
    let parts: [Part; 6] = [
        ("root CA certificate", "certificates", Denial::EndorsementExpired, |plan| &mut plan.root),
        ("PCK CA certificate", "certificates", Denial::EndorsementExpired, |plan| &mut plan.pck_ca),
        ("PCK certificate", "certificates", Denial::EndorsementExpired, |plan| &mut plan.pck),
        ("TCB signing certificate", "certificates", Denial::EndorsementExpired, |plan| &mut plan.signer),
        ("root CA CRL", "root-ca-crl", Denial::CollateralStale, |plan| &mut plan.root_crl),
        ("PCK CRL", "pck-crl", Denial::CollateralStale, |plan| &mut plan.pck_crl),
    ];
    for (what, check, denial, window) in parts {
        let (begins, ends) = (NOW - 10, NOW + DAY);
        let mut plan = Plan::at(NOW);
        *window(&mut plan) = Window { begins, ends };
        check_life(&plan.make(), what, check, denial, begins, ends);
    }
    for (what, check) in [("TCB info", "tcb-info"), ("QE identity", "qe-identity")] {
        let (begins, ends) = (NOW - 10, NOW + DAY);
        let mut plan = Plan::at(NOW);
        let statement = if what == "TCB info" { &mut plan.tcb_info } else { &mut plan.qe_identity };
        Plan::date(statement, Window { begins, ends });
        check_life(&plan.make(), what, check, Denial::CollateralStale, begins, ends);
    }
}

/// It holds from its beginning, 30 s of allowance before it, to the last millisecond before its end.
fn check_life(synthetic: &Synthetic, what: &str, check: &str, denial: Denial, begins: u64, ends: u64) {
    let run = |now| run_at(synthetic, now);
    for early in [begins - 30, begins, begins + 1] {
        let (outcome, checks) = run(at(early));
        assert!(outcome.is_ok(), "{what} at {early}: {outcome:?} {checks:?}");
    }
    let last = Now { wall: WallTime(ends * 1000 - 1), boot: BootTime(0) };
    let verified = run(last).0.unwrap();
    assert_eq!(verified.ends().first(), (what, WallTime(ends * 1000)));
    for late in [ends, ends + 1] {
        let (outcome, checks) = run(at(late));
        let refusal = outcome.unwrap_err();
        assert_eq!((refusal.denial, checks.all().last().unwrap().name), (denial, check), "{what}");
        assert!(refusal.detail.starts_with(what), "{}", refusal.detail);
    }
    let (outcome, checks) = run(at(begins - 31));
    let refusal = outcome.unwrap_err();
    assert_eq!((refusal.denial, checks.all().last().unwrap().name), (Denial::EndorsementNotYetValid, check));
}

#[test]
fn what_begins_within_the_allowance_while_another_ends_is_refused() {
    let refused = outcome(|plan| {
        plan.pck_crl.ends = NOW + 10;
        plan.pck.begins = NOW + 20;
    });
    assert_eq!(refused, Err((Denial::CollateralStale, "start-of-validity")));
}

#[test]
fn a_revoked_certificate_is_refused() {
    let revoked = Err((Denial::EndorsementRevoked, "revocation"));
    assert_eq!(outcome(|plan| plan.revoke_pck = true), revoked);
    assert_eq!(outcome(|plan| plan.revoke_pck_ca = true), revoked);
    assert_eq!(outcome(|plan| plan.revoke_signer = true), revoked);
}

#[test]
fn a_root_that_is_not_pinned_is_refused() {
    let (mine, theirs) = (Plan::at(NOW).make(), Plan::at(NOW).make());
    let mut checks = Checks::new();
    let endorsements = [&mine.collateral];
    let refusal = verify(&mine.quote(&DUE), &endorsements, &DUE, &trust(&theirs), at(NOW), &mut checks);
    assert_eq!(refusal.unwrap_err().denial, Denial::EndorsementUntrusted);
    assert_eq!(checks.all().last().unwrap().name, "root");
    let both = trust(&theirs).with_root(&mine.root_der).unwrap();
    assert!(verify(&mine.quote(&DUE), &endorsements, &DUE, &both, at(NOW), &mut Checks::new()).is_ok());
    // Collateral under another pinned root is not this platform's.
    let foreign = [&theirs.collateral];
    let refusal = verify(&mine.quote(&DUE), &foreign, &DUE, &both, at(NOW), &mut Checks::new());
    assert_eq!(refusal.unwrap_err().denial, Denial::EndorsementUntrusted);
}

#[test]
fn collateral_for_another_platform_pce_or_type_is_refused() {
    let foreign = Err((Denial::EndorsementUntrusted, "tcb-info"));
    assert_eq!(outcome(|plan| plan.fmspc = [9; 6]), foreign);
    assert_eq!(outcome(|plan| plan.pce_id = [1, 0]), foreign);
    assert_eq!(outcome(|plan| plan.tcb_info["id"] = "SGX".into()), foreign);
    assert_eq!(outcome(|plan| plan.tcb_info["version"] = 2.into()), foreign);
    assert_eq!(outcome(|plan| plan.tcb_info["tcbType"] = 1.into()), foreign);
    let identity = Err((Denial::EndorsementUntrusted, "qe-identity"));
    assert_eq!(outcome(|plan| plan.qe_identity["id"] = "QE".into()), identity);
    assert_eq!(
        outcome(|plan| plan.pck_ca_name = "Intel SGX Root CA"),
        Err((Denial::EvidenceMalformed, "pck-certificate"))
    );
    let version = outcome(|plan| plan.qe_identity["version"] = 9.into());
    assert_eq!(version, Err((Denial::EndorsementUntrusted, "dcap-qvl")));
}

#[test]
fn another_quoting_enclave_is_refused() {
    let other = Err((Denial::EndorsementUntrusted, "qe-identity-match"));
    assert_eq!(outcome(|plan| plan.qe_mrsigner = [1; 32]), other);
    assert_eq!(outcome(|plan| plan.qe_identity["isvprodid"] = 1.into()), other);
    assert_eq!(outcome(|plan| plan.qe_identity["miscselect"] = "01000000".into()), other);
    let attributes = "13".to_owned() + &"00".repeat(15);
    assert_eq!(outcome(|plan| plan.qe_identity["attributes"] = attributes.into()), other);
    let below = Err((Denial::PlatformNotAcceptable, "qe-identity-match"));
    assert_eq!(outcome(|plan| plan.qe_svn = 3), below);
    let revoked = |plan: &mut Plan| plan.qe_identity["tcbLevels"][0]["tcbStatus"] = "Revoked".into();
    assert_eq!(outcome(revoked), below);
}

#[test]
fn a_qe_report_that_says_more_than_the_hash_is_refused() {
    let refused = outcome(|plan| plan.qe_report_data_tail = 1);
    assert_eq!(refused, Err((Denial::EndorsementUntrusted, "second-reading")));
}

#[test]
fn intels_word_on_the_tcb_becomes_a_claim() {
    let status = |change: fn(&mut Plan)| claims(change).tcb;
    let configuration = status(|plan| plan.cpu_svn = [3; 16]);
    assert_eq!(configuration.status, TcbStatus::ConfigurationNeeded);
    assert_eq!(configuration.advisory_ids, ["INTEL-SA-00615".to_owned()].into());
    assert_eq!(status(|plan| plan.cpu_svn = [2; 16]).status, TcbStatus::OutOfDate);
    let qe = status(|plan| plan.qe_svn = 5);
    assert_eq!(
        (qe.status, qe.platform_status, qe.qe_status),
        (TcbStatus::OutOfDate, TcbStatus::UpToDate, TcbStatus::OutOfDate)
    );
    assert_eq!(qe.advisory_ids, ["INTEL-SA-01000".to_owned()].into());
    let module = status(|plan| plan.td.tee_tcb_svn = svn([5, 1, 3]));
    assert_eq!((module.status, module.advisory_ids.len()), (TcbStatus::OutOfDate, 1));
    let relaunch = status(|plan| {
        plan.td.tee_tcb_svn = svn([5, 1, 3]);
        plan.td.v15 = Some((svn([7, 1, 3]), [0; 48]));
    });
    assert_eq!(
        (relaunch.status, relaunch.current_status),
        (TcbStatus::TDRelaunchAdvised, Some(TcbStatus::UpToDate))
    );
    let numbers = status(|plan| plan.qe_identity["tcbEvaluationDataNumber"] = 17.into());
    assert_eq!(numbers.evaluation_data_number, 17);
}

#[test]
fn a_tcb_that_intel_does_not_know_or_revoked_is_not_acceptable() {
    let refused = Err((Denial::PlatformNotAcceptable, "tcb-level"));
    assert_eq!(outcome(|plan| plan.cpu_svn = [0; 16]), refused);
    assert_eq!(outcome(|plan| plan.cpu_svn = [1; 16]), refused);
    assert_eq!(outcome(|plan| plan.pce_svn = 4), refused);
    assert_eq!(outcome(|plan| plan.td.tee_tcb_svn = svn([1, 1, 3])), refused);
    assert_eq!(outcome(|plan| plan.td.tee_tcb_svn = svn([7, 2, 3])), refused);
    assert_eq!(outcome(|plan| plan.td.v15 = Some((svn([1, 1, 3]), [0; 48]))), refused);
    assert_eq!(outcome(|plan| plan.td.mrsignerseam = [1; 48]), refused);
    assert_eq!(outcome(|plan| plan.td.seam_attributes = [1, 0, 0, 0, 0, 0, 0, 0]), refused);
    let module = |plan: &mut Plan| {
        plan.tcb_info["tdxModuleIdentities"][1]["tcbLevels"][0]["tcbStatus"] = "Revoked".into()
    };
    assert_eq!(outcome(module), refused);
}

#[test]
fn a_td_that_could_be_moved_or_tricked_never_verifies() {
    let refused = Err((Denial::PlatformNotAcceptable, "td-attributes"));
    for attributes in [0x3000_0000_u64, 0, 0x1000_0002, 0x1000_0080, 0x1000_0001 << 32] {
        assert_eq!(
            outcome(|plan| plan.td.td_attributes = attributes.to_le_bytes()),
            refused,
            "{attributes:#x}"
        );
    }
    // For the appraisal to refuse: debug, profiling, a service TD, performance monitoring.
    let debug = claims(|plan| plan.td.td_attributes = 0x1000_0001_u64.to_le_bytes());
    assert!(debug.attributes.debug && !debug.attributes.profiling);
    let profiled = claims(|plan| plan.td.td_attributes = 0x1000_0010_u64.to_le_bytes());
    assert!(profiled.attributes.profiling && !profiled.attributes.debug);
    let served = claims(|plan| plan.td.v15 = Some((svn([7, 1, 3]), [1; 48])));
    assert_eq!(served.mrservicetd, Some("01".repeat(48)));
    let watched = claims(|plan| plan.td.td_attributes = 0x8000_0000_1000_0000_u64.to_le_bytes());
    assert!(watched.attributes.performance_monitoring);
}

#[test]
fn collateral_of_a_higher_number_counts_before_a_later_issue() {
    let mut plan = Plan::at(NOW);
    let older = Plan::at(NOW);
    Plan::date(&mut plan.tcb_info, Window { begins: NOW - DAY, ends: NOW + DAY });
    plan.tcb_info["tcbEvaluationDataNumber"] = 19.into();
    // Both sets of one root: the attester's is of number 18 and later issued.
    let synthetic = plan.make();
    let own = Collateral::parse(&synthetic.collateral).unwrap();
    let mut attesters: serde_json::Value = serde_json::from_slice(&synthetic.collateral).unwrap();
    attesters["tcb_info"] = older.tcb_info.to_string().into();
    let trust = trust(&synthetic).with_collateral(own);
    let mut checks = Checks::new();
    let endorsements = [attesters.to_string().into_bytes()];
    let quote = synthetic.quote(&DUE);
    let verified = verify(&quote, &endorsements, &DUE, &trust, at(NOW), &mut checks).unwrap();
    assert_eq!(verified.ends().first(), ("TCB info", WallTime((NOW + DAY) * 1000)));
    // The newer set at hand has ended: no going back to the older one.
    let refusal = verify(&quote, &endorsements, &DUE, &trust, at(NOW + DAY), &mut Checks::new()).unwrap_err();
    assert_eq!(refusal.denial, Denial::CollateralStale);
}

#[test]
fn parts_may_come_from_both_sides() {
    let synthetic = Plan::at(NOW).make();
    let whole: serde_json::Value = serde_json::from_slice(&synthetic.collateral).unwrap();
    let part = |names: &[&str]| {
        let parts = names.iter().map(|name| ((*name).to_owned(), whole[*name].clone()));
        serde_json::Value::Object(parts.collect()).to_string().into_bytes()
    };
    let tcb = part(&["tcb_info", "tcb_info_signature", "tcb_info_issuer_chain"]);
    let qe = part(&["qe_identity", "qe_identity_signature", "qe_identity_issuer_chain"]);
    let (pck_crl, root_crl) = (part(&["pck_crl"]), part(&["root_ca_crl"]));
    let own = Collateral::parse(&root_crl).unwrap().merged(Collateral::parse(&qe).unwrap());
    let trust = trust(&synthetic).with_collateral(own);
    let quote = synthetic.quote(&DUE);
    let run = |endorsements: &[Vec<u8>]| {
        let verified = verify(&quote, endorsements, &DUE, &trust, at(NOW), &mut Checks::new());
        verified.map(drop).map_err(|refusal| refusal.denial)
    };
    assert_eq!(run(&[tcb.clone(), pck_crl.clone()]), Ok(()));
    assert_eq!(run(&[tcb]), Err(Denial::CollateralUnavailable));
    assert_eq!(run(&[pck_crl]), Err(Denial::CollateralUnavailable));
    assert_eq!(run(&[json!({"pck_crl": "00"}).to_string().into_bytes()]), Err(Denial::EvidenceMalformed));
    assert_eq!(run(&[b"not JSON".to_vec()]), Err(Denial::EvidenceMalformed));
}
