//! Reference values for `tdx`: what fits, what differs, and what is refused although it is genuine.

use super::*;
use crate::evidence::tdx::TdAttributes;

fn claims() -> TdxClaims {
    TdxClaims {
        quote_version: 5,
        mrtd: "a0".repeat(48),
        rtmr0: "b0".repeat(48),
        rtmr1: "b1".repeat(48),
        rtmr2: "b2".repeat(48),
        rtmr3: "00".repeat(48),
        mrconfigid: "00".repeat(48),
        mrowner: "00".repeat(48),
        mrownerconfig: "00".repeat(48),
        report_data: "5a".repeat(64),
        td_attributes: "0000001000000000".to_owned(),
        attributes: TdAttributes {
            debug: false,
            profiling: false,
            sept_ve_disable: true,
            migratable: false,
            service_td_extended: false,
            protection_keys: false,
            key_locker: false,
            performance_monitoring: false,
        },
        xfam: "e718060000000000".to_owned(),
        mrseam: "5e".repeat(48),
        mrsignerseam: "00".repeat(48),
        seam_attributes: "00".repeat(8),
        tee_tcb_svn: "07010300000000000000000000000000".to_owned(),
        tee_tcb_svn2: Some("08010300000000000000000000000000".to_owned()),
        mrservicetd: Some("00".repeat(48)),
        vm_id: None,
        td_id: None,
        device_info: None,
        current_service_td: None,
        tcb: TcbClaims {
            status: TcbStatus::UpToDate,
            advisory_ids: BTreeSet::new(),
            evaluation_data_number: 18,
            platform_status: TcbStatus::UpToDate,
            platform_date: "2025-01-01T00:00:00Z".to_owned(),
            current_status: Some(TcbStatus::UpToDate),
            qe_status: TcbStatus::UpToDate,
            qe_isv_svn: 8,
        },
        platform: PlatformClaims {
            fmspc: "00806f050000".to_owned(),
            ppid: "11".repeat(16),
            pce_id: "0000".to_owned(),
            pce_svn: 13,
            cpu_svn: "05".repeat(16),
            sgx_type: 1,
            pck_ca: "platform".to_owned(),
            platform_instance_id: Some("22".repeat(16)),
            dynamic_platform: Some(true),
            cached_keys: Some(false),
            smt_enabled: Some(true),
            qe_id: "33".repeat(16),
            root_sha256: "44".repeat(32),
        },
    }
}

fn of(byte: u8) -> Option<BTreeSet<Measurement>> {
    Some([Hex([byte; 48])].into())
}

fn reference() -> TdxReference {
    TdxReference {
        mrtd: [Hex([0xa0; 48])].into(),
        rtmr0: None,
        rtmr1: of(0xb1),
        rtmr2: of(0xb2),
        rtmr3: None,
        firmware_only: false,
        mrconfigid: None,
        mrowner: None,
        mrownerconfig: None,
        mrservicetd: None,
        mrseam: None,
        td_attributes: None,
        xfam: None,
        platform: TdxPlatform::default(),
    }
}

/// The page's own example is one that parses and that a TD can fit.
#[test]
fn the_operators_page_shows_reference_values_that_hold() {
    #[derive(Deserialize)]
    struct Page {
        tdx: TdxReference,
    }
    let page = include_str!("../../deploy/attestation/tdx.md");
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (toml, _) = rest.split_once("\n```").unwrap();
    let example = toml::from_str::<Page>(toml).unwrap().tdx;
    assert_eq!(example.check_shape(), Ok(()));
    assert!(example.differences(&claims()).len() > 1);
    assert!(example.platform.tcb_statuses.is_some());
    let again: TdxReference = serde_json::from_str(&serde_json::to_string(&example).unwrap()).unwrap();
    assert_eq!(again, example);
}

#[test]
fn claims_as_the_reference_says_fit() {
    assert_eq!(reference().check_shape(), Ok(()));
    assert_eq!(reference().differences(&claims()), Vec::<String>::new());
    assert_eq!(reference().acceptable(&claims()), Ok(()));
}

#[test]
fn every_list_that_is_there_must_hold_the_claim() {
    type Change = fn(&mut TdxReference);
    let cases: [(Change, &str); 12] = [
        (|reference| reference.mrtd = [Hex([1; 48])].into(), "MRTD `a0"),
        (|reference| reference.rtmr0 = of(1), "RTMR0 `b0"),
        (|reference| reference.rtmr1 = of(1), "RTMR1 `b1"),
        (|reference| reference.rtmr2 = of(1), "RTMR2 `b2"),
        (|reference| reference.rtmr3 = of(1), "RTMR3 `00"),
        (|reference| reference.mrconfigid = of(1), "MRCONFIGID `00"),
        (|reference| reference.mrowner = of(1), "MROWNER `00"),
        (|reference| reference.mrownerconfig = of(1), "MROWNERCONFIG `00"),
        (|reference| reference.mrservicetd = of(1), "MRSERVICETD `00"),
        (|reference| reference.mrseam = of(1), "MRSEAM `5e"),
        (|reference| reference.td_attributes = Some([Hex([1; 8])].into()), "TDATTRIBUTES `0000001000000000`"),
        (|reference| reference.xfam = Some([Hex([1; 8])].into()), "XFAM `e718060000000000`"),
    ];
    for (change, word) in cases {
        let mut reference = reference();
        change(&mut reference);
        assert_eq!(reference.check_shape(), Ok(()), "{word}");
        let differences = reference.differences(&claims());
        assert!(matches!(differences.as_slice(), [one] if one.starts_with(word)), "{word}: {differences:?}");
    }
    // A report without a service TD's hash matches no list, not even that of zeros.
    let mut reference = reference();
    reference.mrservicetd = of(0);
    assert_eq!(reference.differences(&claims()).len(), 0);
    let claims = TdxClaims { mrservicetd: None, ..claims() };
    assert_eq!(reference.differences(&claims), ["MRSERVICETD ``"]);
}

#[test]
fn firmware_alone_vouches_only_where_it_is_said() {
    let mut short = reference();
    short.rtmr1 = None;
    assert_eq!(short.check_shape(), Err(TdxReferenceError::BootMissing("rtmr1")));
    assert_eq!(short.differences(&claims()), ["a TD of which only the firmware is known"]);
    short.rtmr2 = None;
    short.firmware_only = true;
    assert_eq!(short.check_shape(), Ok(()));
    assert_eq!(short.differences(&claims()), Vec::<String>::new());
    short.rtmr2 = of(0xb2);
    assert_eq!(short.check_shape(), Err(TdxReferenceError::FirmwareOnlyWith("rtmr2")));
}

#[test]
fn what_says_nothing_is_refused() {
    type Change = fn(&mut TdxReference);
    let empties: [(Change, &str); 9] = [
        (|reference| reference.mrtd = BTreeSet::new(), "mrtd"),
        (|reference| reference.rtmr1 = Some(BTreeSet::new()), "rtmr1"),
        (|reference| reference.xfam = Some(BTreeSet::new()), "xfam"),
        (|reference| reference.platform.tcb_statuses = Some(BTreeSet::new()), "tcb_statuses"),
        (|reference| reference.platform.denied_advisories = Some(BTreeSet::new()), "denied_advisories"),
        (|reference| reference.platform.fmspcs = Some(BTreeSet::new()), "fmspcs"),
        (|reference| reference.platform.denied_fmspcs = Some(BTreeSet::new()), "denied_fmspcs"),
        (|reference| reference.platform.ppids = Some(BTreeSet::new()), "ppids"),
        (|reference| reference.platform.sgx_types = Some(BTreeSet::new()), "sgx_types"),
    ];
    for (change, name) in empties {
        let mut reference = reference();
        change(&mut reference);
        assert_eq!(reference.check_shape(), Err(TdxReferenceError::ListEmpty(name)));
    }
    let mut zero = reference();
    zero.mrtd.insert(Hex([0; 48]));
    assert_eq!(zero.check_shape(), Err(TdxReferenceError::MrtdZero));
    let mut revoked = reference();
    revoked.platform.tcb_statuses = Some([TcbStatus::UpToDate, TcbStatus::Revoked].into());
    assert_eq!(revoked.check_shape(), Err(TdxReferenceError::Revoked));
    for toml in [
        "mrtd = []\nother = 1",
        "mrtd = [\"a0\"]",
        "[platform]\nallow_debug = true",
        "mrtd = []\n[platform]\nmigratable = true",
    ] {
        assert!(toml::from_str::<TdxReference>(toml).is_err(), "{toml}");
    }
}

/// Claims that are refused by default, their reason, and the name that allows them.
#[test]
fn what_a_genuine_platform_is_refused_for_is_allowed_by_name_alone() {
    type Case = (&'static str, fn(&mut TdxClaims), fn(&mut TdxPlatform));
    let cases: [Case; 11] = [
        ("debug is on", |claims| claims.attributes.debug = true, |platform| platform.allow_debug = true),
        (
            "profiling is on",
            |claims| claims.attributes.profiling = true,
            |platform| platform.allow_profiling = true,
        ),
        (
            "a service TD is bound",
            |claims| claims.mrservicetd = Some("01".repeat(48)),
            |platform| platform.allow_service_td = true,
        ),
        (
            "a service TD is bound",
            |claims| claims.attributes.service_td_extended = true,
            |platform| platform.allow_service_td = true,
        ),
        (
            "a service TD is bound",
            |claims| claims.current_service_td = Some("10".repeat(48)),
            |platform| platform.allow_service_td = true,
        ),
        (
            "performance monitoring is on",
            |claims| claims.attributes.performance_monitoring = true,
            |platform| platform.allow_performance_monitoring = true,
        ),
        (
            "TCB status OutOfDate",
            |claims| claims.tcb.status = TcbStatus::OutOfDate,
            |platform| platform.tcb_statuses = Some([TcbStatus::OutOfDate].into()),
        ),
        (
            "TCB status SWHardeningNeeded",
            |claims| claims.tcb.status = TcbStatus::SWHardeningNeeded,
            |platform| platform.tcb_statuses = Some([TcbStatus::SWHardeningNeeded].into()),
        ),
        (
            "TCB status ConfigurationAndSWHardeningNeeded",
            |claims| claims.tcb.status = TcbStatus::ConfigurationAndSWHardeningNeeded,
            |platform| platform.tcb_statuses = Some([TcbStatus::ConfigurationAndSWHardeningNeeded].into()),
        ),
        (
            "TCB status TDRelaunchAdvised",
            |claims| claims.tcb.status = TcbStatus::TDRelaunchAdvised,
            |platform| platform.tcb_statuses = Some([TcbStatus::TDRelaunchAdvised].into()),
        ),
        (
            "TCB status OutOfDateConfigurationNeeded",
            |claims| claims.tcb.status = TcbStatus::OutOfDateConfigurationNeeded,
            |platform| platform.tcb_statuses = Some([TcbStatus::OutOfDateConfigurationNeeded].into()),
        ),
    ];
    for (why, change, allow) in cases {
        let mut claims = claims();
        change(&mut claims);
        let refusal = TdxPlatform::default().acceptable(&claims).unwrap_err();
        assert_eq!((refusal.denial, refusal.detail.as_str()), (Denial::PlatformNotAcceptable, why));
        let mut platform = TdxPlatform::default();
        allow(&mut platform);
        assert_eq!(platform.acceptable(&claims), Ok(()), "{why}");
    }
    type Never = (&'static str, fn(&mut TdxClaims));
    let never: [Never; 3] = [
        ("the TD is migratable", |claims| claims.attributes.migratable = true),
        ("SEPT_VE_DISABLE is not set", |claims| claims.attributes.sept_ve_disable = false),
        ("TCB status Revoked", |claims| claims.tcb.status = TcbStatus::Revoked),
    ];
    let platform = TdxPlatform { tcb_statuses: Some([TcbStatus::Revoked].into()), ..loosest() };
    for (why, change) in never {
        let mut claims = claims();
        change(&mut claims);
        claims.tcb.status = if why.contains("Revoked") { TcbStatus::Revoked } else { claims.tcb.status };
        assert!(platform.acceptable(&claims).unwrap_err().detail.contains(why), "{why}");
    }
}

fn loosest() -> TdxPlatform {
    TdxPlatform {
        allow_debug: true,
        allow_profiling: true,
        allow_service_td: true,
        allow_performance_monitoring: true,
        ..TdxPlatform::default()
    }
}

#[test]
fn what_the_reference_demands_of_the_platform_is_demanded() {
    type Case = (&'static str, fn(&mut TdxPlatform), fn(&mut TdxPlatform));
    let cases: [Case; 9] = [
        (
            "FMSPC `00806f050000`",
            |platform| platform.fmspcs = Some([Hex([0; 6])].into()),
            |platform| platform.fmspcs = Some([Hex([0, 0x80, 0x6f, 5, 0, 0])].into()),
        ),
        (
            "FMSPC `00806f050000`",
            |platform| platform.denied_fmspcs = Some([Hex([0, 0x80, 0x6f, 5, 0, 0])].into()),
            |platform| platform.denied_fmspcs = Some([Hex([0; 6])].into()),
        ),
        (
            "PPID `11111111111111111111111111111111`",
            |platform| platform.ppids = Some([Hex([1; 16])].into()),
            |platform| platform.ppids = Some([Hex([0x11; 16])].into()),
        ),
        (
            "SGX type 1",
            |platform| platform.sgx_types = Some([2].into()),
            |platform| platform.sgx_types = Some([1, 2].into()),
        ),
        (
            "dynamic platform",
            |platform| platform.dynamic_platform = Some(false),
            |platform| platform.dynamic_platform = Some(true),
        ),
        (
            "cached keys",
            |platform| platform.cached_keys = Some(true),
            |platform| platform.cached_keys = Some(false),
        ),
        (
            "hyper-threading",
            |platform| platform.smt_enabled = Some(false),
            |platform| platform.smt_enabled = Some(true),
        ),
        (
            "evaluation data number 18 is below 19",
            |platform| platform.minimum_tcb_evaluation_data_number = Some(19),
            |platform| platform.minimum_tcb_evaluation_data_number = Some(18),
        ),
        (
            "TEE_TCB_SVN `07010300000000000000000000000000` is too low",
            |platform| platform.minimum_tee_tcb_svn = Hex::parse("08010300000000000000000000000000"),
            |platform| platform.minimum_tee_tcb_svn = Hex::parse("07010300000000000000000000000000"),
        ),
    ];
    for (why, refuses, fits) in cases {
        let (mut bad, mut good) = (TdxPlatform::default(), TdxPlatform::default());
        refuses(&mut bad);
        fits(&mut good);
        assert_eq!(bad.acceptable(&claims()).unwrap_err().detail, why);
        assert_eq!(good.acceptable(&claims()), Ok(()), "{why}");
    }
    let mut claims = claims();
    claims.tcb.advisory_ids = ["INTEL-SA-00615".to_owned(), "INTEL-SA-00837".to_owned()].into();
    let denying =
        |id: &str| TdxPlatform { denied_advisories: Some([id.to_owned()].into()), ..TdxPlatform::default() };
    assert_eq!(denying("intel-sa-00615").acceptable(&claims).unwrap_err().detail, "advisory INTEL-SA-00615");
    assert_eq!(denying("INTEL-SA-00001").acceptable(&claims), Ok(()));
    // What a single processor does not say fits neither wish.
    claims.platform.smt_enabled = None;
    for wish in [true, false] {
        let platform = TdxPlatform { smt_enabled: Some(wish), ..TdxPlatform::default() };
        assert_eq!(platform.acceptable(&claims).unwrap_err().detail, "hyper-threading");
    }
}

#[test]
fn a_debug_enclave_is_refused() {
    let td = claims();
    let mut enclave = SgxClaims {
        quote_version: 3,
        mrenclave: "e0".repeat(32),
        mrsigner: "e1".repeat(32),
        isv_prod_id: 0,
        isv_svn: 0,
        attributes: "07".to_owned() + &"00".repeat(15),
        debug: true,
        misc_select: "00000000".to_owned(),
        report_data: "5a".repeat(64),
        tcb: td.tcb,
        platform: td.platform,
    };
    let platform = TdxPlatform::default();
    assert_eq!(platform.acceptable_enclave(&enclave).unwrap_err().detail, "debug is on");
    enclave.debug = false;
    assert_eq!(platform.acceptable_enclave(&enclave), Ok(()));
    enclave.tcb.status = TcbStatus::ConfigurationAndSWHardeningNeeded;
    let refusal = platform.acceptable_enclave(&enclave).unwrap_err();
    assert_eq!(refusal.denial, Denial::PlatformNotAcceptable);
}
