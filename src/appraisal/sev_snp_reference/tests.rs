//! Which platforms and guests a reference accepts: one difference at a time.

use super::*;
use crate::evidence::sev_snp::{Cpuid, SevSnpGuestPolicy, SevSnpPlatform};

fn tcb(fmc: Option<u8>) -> Tcb {
    Tcb { fmc, bootloader: 4, tee: 1, snp: 24, microcode: 219 }
}

/// A guest on Milan that says nothing wrong.
fn claims() -> SevSnpClaims {
    SevSnpClaims {
        product: Product::Milan,
        cpuid: Some(Cpuid { family: 0x19, model: 1, stepping: 1 }),
        version: 5,
        signing_key: SigningKey::Vcek,
        chip_id: Some("c1".repeat(64)),
        csp_id: None,
        chip_key_masked: false,
        vmpl: 0,
        measurement: "a1".repeat(48),
        host_data: "a2".repeat(32),
        id_key_digest: Some("a3".repeat(48)),
        author_key_digest: Some("a4".repeat(48)),
        family_id: Some("a5".repeat(16)),
        image_id: Some("a6".repeat(16)),
        guest_svn: 7,
        report_id: "a7".repeat(32),
        report_id_ma: None,
        policy: SevSnpGuestPolicy {
            abi_major: 1,
            abi_minor: 55,
            smt_allowed: true,
            migration_agent_allowed: false,
            debug_allowed: false,
            single_socket_required: false,
            cxl_allowed: false,
            aes_256_xts_required: false,
            rapl_disabled_required: false,
            ciphertext_hiding_required: false,
            page_swap_disabled: false,
            unknown: None,
        },
        platform: SevSnpPlatform {
            smt_enabled: true,
            tsme_enabled: false,
            ecc_enabled: true,
            rapl_disabled: false,
            ciphertext_hiding_enabled: false,
            alias_check_complete: true,
            tio_enabled: false,
            bits: "0000000000000025".into(),
        },
        reported_tcb: tcb(None),
        committed_tcb: tcb(None),
        current_tcb: tcb(None),
        launch_tcb: tcb(None),
        current_firmware: Firmware { major: 1, minor: 55, build: 29 },
        committed_firmware: Firmware { major: 1, minor: 55, build: 29 },
        launch_mitigations: Some("000000000000003f".into()),
        current_mitigations: Some("000000000000003f".into()),
    }
}

/// The least that a reference says, for that guest.
fn reference() -> SevSnpReference {
    let written = format!(
        "measurements = [\"{}\"]\n[minimum_tcb.milan]\nbootloader = 4\ntee = 1\nsnp = 24\nmicrocode = 219",
        "a1".repeat(48)
    );
    toml::from_str(&written).unwrap()
}

fn refused(claims: &SevSnpClaims, reference: Option<&SevSnpReference>) -> Option<String> {
    acceptable(claims, reference).err().map(|refusal| {
        assert_eq!(refusal.denial, Denial::PlatformNotAcceptable);
        refusal.detail
    })
}

fn altered(alter: impl FnOnce(&mut SevSnpClaims)) -> SevSnpClaims {
    let mut claims = claims();
    alter(&mut claims);
    claims
}

#[test]
fn the_least_reference_accepts_its_guest_and_no_other() {
    let reference = reference();
    assert_eq!(reference.check_shape(), Ok(()));
    assert_eq!(refused(&claims(), Some(&reference)), None);
    assert_eq!(refused(&claims(), None), None);
    assert!(reference.differences(&claims()).is_empty());
    let other = altered(|claims| claims.measurement = "a0".repeat(48));
    assert_eq!(reference.differences(&other), [format!("measurement `{}`", "a0".repeat(48))]);
    let zero = altered(|claims| claims.measurement = "00".repeat(48));
    assert_eq!(reference.differences(&zero).len(), 1);
}

#[test]
fn what_is_never_acceptable_is_refused_unless_the_reference_allows_it_by_name() {
    type Alter = fn(&mut SevSnpClaims);
    type Allow = fn(&mut SevSnpReference);
    let cases: [(&str, Alter, Option<Allow>); 6] = [
        ("debug", |c| c.policy.debug_allowed = true, Some(|r| r.allow_debug = true)),
        ("migration", |c| c.policy.migration_agent_allowed = true, Some(|r| r.allow_migration_agent = true)),
        ("masked chip", |c| c.chip_id = None, Some(|r| r.allow_masked_chip_id = true)),
        ("VMPL", |c| c.vmpl = 1, Some(|r| r.vmpls = Some([0, 1].into()))),
        ("the host's", |c| c.vmpl = HOST_REQUESTED, None),
        ("unknown policy", |c| c.policy.unknown = Some("0000000004000000".into()), None),
    ];
    let everything = SevSnpReference {
        allow_debug: true,
        allow_migration_agent: true,
        allow_masked_chip_id: true,
        vmpls: Some([0, 1, 2, 3].into()),
        ..reference()
    };
    for (what, alter, allow) in cases {
        let claims = altered(alter);
        assert!(refused(&claims, None).is_some(), "{what}");
        assert!(refused(&claims, Some(&reference())).is_some(), "{what}");
        match allow {
            None => assert!(refused(&claims, Some(&everything)).is_some(), "{what}"),
            Some(allow) => {
                let mut allowing = reference();
                allow(&mut allowing);
                assert_eq!(allowing.check_shape(), Ok(()));
                assert_eq!(refused(&claims, Some(&allowing)), None, "{what}");
            }
        }
    }
    let vlek =
        altered(|c| (c.signing_key, c.chip_id, c.csp_id) = (SigningKey::Vlek, None, Some("CN=x".into())));
    assert_eq!(refused(&vlek, Some(&reference())), None, "a VLEK names no chip, and masks none");
    let above = SevSnpReference { vmpls: Some([1].into()), ..reference() };
    assert!(refused(&claims(), Some(&above)).is_some(), "VMPL 0 is not listed");
}

#[test]
fn every_tcb_is_held_against_the_minimum_component_by_component() {
    type Part = fn(&mut Tcb) -> &mut u8;
    let parts: [(&str, Part); 4] = [
        ("bootloader", |tcb| &mut tcb.bootloader),
        ("tee", |tcb| &mut tcb.tee),
        ("snp", |tcb| &mut tcb.snp),
        ("microcode", |tcb| &mut tcb.microcode),
    ];
    type Which = fn(&mut SevSnpClaims) -> &mut Tcb;
    let tcbs: [(&str, Which); 3] = [
        ("REPORTED_TCB", |claims| &mut claims.reported_tcb),
        ("COMMITTED_TCB", |claims| &mut claims.committed_tcb),
        ("LAUNCH_TCB", |claims| &mut claims.launch_tcb),
    ];
    for (name, which) in tcbs {
        for (component, part) in parts {
            let lower = altered(|claims| *part(which(claims)) -= 1);
            let expected = Some(format!("{name} is below the minimum in {component}"));
            assert_eq!(refused(&lower, Some(&reference())), expected);
            assert_eq!(refused(&lower, None), None, "without a reference there is no minimum");
            let higher = altered(|claims| *part(which(claims)) += 1);
            assert_eq!(refused(&higher, Some(&reference())), None);
        }
    }
}

#[test]
fn a_product_without_a_minimum_is_refused() {
    for product in [Product::Genoa, Product::Turin] {
        let other = altered(|claims| claims.product = product);
        let detail = refused(&other, Some(&reference())).unwrap();
        assert_eq!(detail, format!("no minimum TCB is set for {}", product.name()));
    }
    let turin = SevSnpReference { minimum_tcb: [(Product::Turin, tcb(Some(1)))].into(), ..reference() };
    assert_eq!(turin.check_shape(), Ok(()));
    let on_turin = |fmc| {
        altered(|claims| {
            claims.product = Product::Turin;
            (claims.reported_tcb, claims.committed_tcb) = (tcb(fmc), tcb(fmc));
            claims.launch_tcb = tcb(fmc);
        })
    };
    assert_eq!(refused(&on_turin(Some(1)), Some(&turin)), None);
    assert_eq!(
        refused(&on_turin(Some(0)), Some(&turin)).unwrap(),
        "REPORTED_TCB is below the minimum in fmc"
    );
    assert!(refused(&on_turin(None), Some(&turin)).is_some());
}

#[test]
fn each_further_value_of_the_guest_is_compared_and_an_absent_claim_never_matches() {
    let hex = |byte: &str, times: usize| Some(byte.repeat(times));
    let full = SevSnpReference {
        host_data: Some([Hex([0xa2; 32])].into()),
        id_key_digests: Some([Hex([0xa3; 48])].into()),
        author_key_digests: Some([Hex([0xa4; 48])].into()),
        family_ids: Some([Hex([0xa5; 16])].into()),
        image_ids: Some([Hex([0xa6; 16])].into()),
        minimum_guest_svn: Some(7),
        ..reference()
    };
    assert_eq!(full.check_shape(), Ok(()));
    assert!(full.differences(&claims()).is_empty());
    type Alter = fn(&mut SevSnpClaims);
    let cases: [(&str, Alter, Option<Alter>); 6] = [
        ("host data", |c| c.host_data = "00".repeat(32), None),
        ("ID key digest", |c| c.id_key_digest = Some("a0".repeat(48)), Some(|c| c.id_key_digest = None)),
        (
            "author key digest",
            |c| c.author_key_digest = Some("a0".repeat(48)),
            Some(|c| c.author_key_digest = None),
        ),
        ("family id", |c| c.family_id = Some("a0".repeat(16)), Some(|c| c.family_id = None)),
        ("image id", |c| c.image_id = Some("a0".repeat(16)), Some(|c| c.image_id = None)),
        ("guest SVN 6", |c| c.guest_svn = 6, None),
    ];
    for (what, other, absent) in cases {
        assert_eq!(full.differences(&altered(other)), [what]);
        assert!(reference().differences(&altered(other)).is_empty(), "{what} is not constrained");
        absent.into_iter().for_each(|absent| assert_eq!(full.differences(&altered(absent)), [what]));
    }
    let cut = altered(|c| c.id_key_digest = hex("a3", 47));
    assert_eq!(full.differences(&cut), ["ID key digest"]);
}

#[test]
fn each_further_value_of_the_platform_is_compared() {
    type Restrict = fn(&mut SevSnpReference);
    type Alter = fn(&mut SevSnpClaims);
    let cases: [(Restrict, Alter, &str); 9] = [
        (
            |r| r.signing_keys = Some([SigningKey::Vcek].into()),
            |c| (c.signing_key, c.chip_id) = (SigningKey::Vlek, None),
            "signed by a vlek",
        ),
        (
            |r| r.chip_ids = Some(["c1".repeat(64)].into()),
            |c| c.chip_id = Some("c2".repeat(64)),
            "the chip is not listed",
        ),
        (
            |r| r.minimum_firmware = Firmware::parse("1.55.29"),
            |c| c.committed_firmware.build = 28,
            "committed firmware 1.55.28",
        ),
        (
            |r| r.minimum_policy_abi = Abi::parse("1.55"),
            |c| c.policy.abi_minor = 54,
            "launched for firmware ABI 1.54",
        ),
        (
            |r| r.required_mitigations = Hex::parse("0000000000000021"),
            |c| c.launch_mitigations = Some("000000000000001f".into()),
            "a mitigation is not in force",
        ),
        (
            |r| r.required_mitigations = Hex::parse("0000000000000021"),
            |c| (c.launch_mitigations, c.current_mitigations) = (None, None),
            "a mitigation is not in force",
        ),
        (
            |r| r.policy = Some(PolicyReference { smt_allowed: Some(true), ..PolicyReference::default() }),
            |c| c.policy.smt_allowed = false,
            "policy.smt_allowed is false",
        ),
        (
            |r| {
                let platform =
                    PlatformReference { alias_check_complete: Some(true), ..PlatformReference::default() };
                r.platform = Some(platform);
            },
            |c| c.platform.alias_check_complete = false,
            "platform.alias_check_complete is false",
        ),
        (
            |r| {
                r.platform =
                    Some(PlatformReference { tsme_enabled: Some(false), ..PlatformReference::default() })
            },
            |c| c.platform.tsme_enabled = true,
            "platform.tsme_enabled is true",
        ),
    ];
    for (restrict, alter, detail) in cases {
        let mut restricted = reference();
        restrict(&mut restricted);
        assert_eq!(restricted.check_shape(), Ok(()));
        assert_eq!(refused(&claims(), Some(&restricted)), None, "{detail}");
        assert_eq!(refused(&altered(alter), Some(&restricted)).as_deref(), Some(detail));
        assert_eq!(refused(&altered(alter), Some(&reference())), None, "{detail}: not constrained");
    }
    let provider = SevSnpReference { csp_ids: Some(["CN=x".to_owned()].into()), ..reference() };
    assert!(refused(&claims(), Some(&provider)).is_some(), "a VCEK names no provider");
    let vlek =
        altered(|c| (c.signing_key, c.chip_id, c.csp_id) = (SigningKey::Vlek, None, Some("CN=x".into())));
    assert_eq!(refused(&vlek, Some(&provider)), None);
    let other =
        altered(|c| (c.signing_key, c.chip_id, c.csp_id) = (SigningKey::Vlek, None, Some("CN=y".into())));
    assert!(refused(&other, Some(&provider)).is_some());
    let chips = SevSnpReference { chip_ids: Some(["c1".repeat(64)].into()), ..reference() };
    assert!(refused(&vlek, Some(&chips)).is_some(), "a VLEK names no chip");
}

#[test]
fn a_reference_that_says_nothing_or_contradicts_itself_is_refused() {
    type Alter = fn(&mut SevSnpReference);
    let empty: [(&str, Alter); 11] = [
        ("measurements", |r| r.measurements.clear()),
        ("minimum_tcb", |r| r.minimum_tcb.clear()),
        ("host_data", |r| r.host_data = Some([].into())),
        ("id_key_digests", |r| r.id_key_digests = Some([].into())),
        ("author_key_digests", |r| r.author_key_digests = Some([].into())),
        ("family_ids", |r| r.family_ids = Some([].into())),
        ("image_ids", |r| r.image_ids = Some([].into())),
        ("vmpls", |r| r.vmpls = Some([].into())),
        ("signing_keys", |r| r.signing_keys = Some([].into())),
        ("chip_ids", |r| r.chip_ids = Some([].into())),
        ("csp_ids", |r| r.csp_ids = Some([].into())),
    ];
    for (name, alter) in empty {
        let mut reference = reference();
        alter(&mut reference);
        assert_eq!(reference.check_shape(), Err(SevSnpReferenceError::ListEmpty(name)));
    }
    let contradictions: [Alter; 6] = [
        |r| assert!(r.minimum_tcb.insert(Product::Turin, tcb(None)).is_none()),
        |r| assert!(r.minimum_tcb.insert(Product::Genoa, tcb(Some(1))).is_none()),
        |r| r.minimum_guest_svn = Some(1),
        |r| r.vmpls = Some([4].into()),
        |r| r.chip_ids = Some(["c1".repeat(63)].into()),
        |r| r.chip_ids = Some(["C1".repeat(64)].into()),
    ];
    for alter in contradictions {
        let mut reference = reference();
        alter(&mut reference);
        assert!(
            matches!(reference.check_shape(), Err(SevSnpReferenceError::Contradiction(_))),
            "{reference:?}"
        );
    }
}

#[test]
fn what_is_written_wrong_is_not_read() {
    let good = format!(
        "measurements = [\"{}\"]\nminimum_firmware = \"1.55.29\"\nminimum_policy_abi = \"1.55\"\n[minimum_tcb.milan]\nbootloader = 4\ntee = 1\nsnp = 24\nmicrocode = 219",
        "a1".repeat(48)
    );
    let read = |text: &str| toml::from_str::<SevSnpReference>(text);
    assert!(read(&good).is_ok());
    for (from, to) in [
        ("measurements = ", "measurement = "),
        ("a1a1", "a1"),
        ("a1a1", "zza1"),
        ("\nsnp = 24", ""),
        ("snp = 24", "snp = 256"),
        ("snp = 24", "snp = -1"),
        ("milan", "rome"),
        ("milan", "Milan"),
        ("1.55.29", "1.55"),
        ("\"1.55\"", "1.55"),
        ("minimum_policy_abi", "allow_everything"),
    ] {
        assert!(good.contains(from));
        assert!(read(&good.replacen(from, to, 1)).is_err(), "{from} -> {to}");
    }
    assert!(read(&good.replace(&"a1".repeat(48), &"00".repeat(48))).is_err(), "zeros");
    let json = serde_json::to_string(&read(&good).unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<SevSnpReference>(&json).unwrap(), read(&good).unwrap());
}

/// The page for operators shows what is read.
#[test]
fn the_example_of_the_operators_page_may_be_put() {
    let page = include_str!("../../../deploy/attestation/sev-snp.md");
    let mut examples = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let example = examples.next().unwrap();
    assert_eq!(examples.next(), None);
    let table: toml::Table = toml::from_str(example).unwrap();
    let set = &table["set"].as_array().unwrap()[0];
    let reference: SevSnpReference = set["sev-snp"].clone().try_into().unwrap();
    assert_eq!(reference.check_shape(), Ok(()));
}
