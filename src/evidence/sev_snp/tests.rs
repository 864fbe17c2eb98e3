//! What the format `sev-snp` takes and refuses: one defect at a time, under a root of the test's own.

use super::testkit::*;
use super::vectors_tests::{folder, real};
use super::*;
use crate::appraisal::sev_snp_reference::acceptable;
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Outcome};
use crate::time::{BootTime, Now, WallTime};

pub(super) const DUE: [u8; 64] = [7; 64];

pub(super) fn at(seconds: u64) -> Now {
    Now { wall: WallTime(seconds * 1000), boot: BootTime(1_000_000) }
}

pub(super) fn trust(authority: &Authority) -> SevSnpTrust {
    let mut trust = SevSnpTrust::empty();
    trust.add_root(&authority.ark).unwrap();
    trust
}

pub(super) fn outcome_at(
    body: &[u8],
    endorsements: &[Vec<u8>],
    trust: &SevSnpTrust,
    now: Now,
) -> Result<SevSnpClaims, Denial> {
    let mut checks = Checks::new();
    let outcome = verify(body, endorsements, &DUE, trust, now, &mut checks);
    let all_passed = checks.all().iter().all(|check| check.outcome == Outcome::Passed);
    assert_eq!(all_passed, outcome.is_ok(), "{checks:?}");
    outcome.map(|verified| verified.claims().clone()).map_err(|refusal| refusal.denial)
}

pub(super) fn outcome(
    body: &[u8],
    endorsements: &[Vec<u8>],
    trust: &SevSnpTrust,
) -> Result<SevSnpClaims, Denial> {
    outcome_at(body, endorsements, trust, at(T0))
}

/// A good report of version 3 from Milan with one thing altered before it is signed.
fn altered(alter: impl FnOnce(&mut Vec<u8>)) -> Result<SevSnpClaims, Denial> {
    altered_of("Milan", 3, alter)
}

fn altered_of(
    product: &'static str,
    version: u8,
    alter: impl FnOnce(&mut Vec<u8>),
) -> Result<SevSnpClaims, Denial> {
    let authority = Authority::new(product);
    let signer = authority.vcek();
    let mut body = authority.report(version, &DUE);
    alter(&mut body);
    outcome(&signer.sign(body), &[signer.certificate, authority.ask.clone()], &trust(&authority))
}

/// A good report with a signing key whose certificate is altered.
fn with_key(product: &'static str, alter: impl FnOnce(&mut KeyProfile)) -> Result<SevSnpClaims, Denial> {
    let authority = Authority::new(product);
    let mut profile = authority.vcek_profile();
    alter(&mut profile);
    let signer = authority.signer(&profile);
    let version = if product == "Turin" { 5 } else { 3 };
    let (body, intermediate) = match profile.vlek {
        false => (authority.report(version, &DUE), authority.ask.clone()),
        true => (authority.vlek_report(version, &DUE), authority.asvk.clone()),
    };
    outcome(&signer.sign(body), &[signer.certificate, intermediate], &trust(&authority))
}

#[test]
fn the_compiled_roots_are_those_of_amd() {
    let of = |bytes: &[u8]| hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes));
    let fingerprints: Vec<[String; 3]> =
        super::trust::AMD.iter().map(|(ark, [ask, asvk])| [of(ark), of(ask), of(asvk)]).collect();
    let written = include_str!("../../../certs/amd/README.md");
    for (fingerprints, expected) in fingerprints.iter().zip(FINGERPRINTS) {
        assert_eq!(fingerprints, &expected);
        expected.iter().for_each(|fingerprint| assert!(written.contains(fingerprint), "{fingerprint}"));
    }
    let roots = SevSnpTrust::amd().roots();
    assert_eq!(roots.iter().map(|root| root.product).collect::<Vec<_>>(), Product::ALL);
    for (root, [ark, ..]) in roots.iter().zip(FINGERPRINTS) {
        assert_eq!(hex::encode(root.sha256), ark);
    }
}

/// `evidence.md` §4, "Root fingerprints", and the vectors' README for ASK and ASVK.
const FINGERPRINTS: [[&str; 3]; 3] = [
    [
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
        "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    ],
    [
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
        "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    ],
    [
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
        "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
        "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
    ],
];

#[test]
fn a_good_report_of_every_product_and_version_is_verified() {
    for product in ["Milan", "Genoa", "Turin"] {
        for version in [2, 3, 5] {
            let claims =
                altered_of(product, version, |_| ()).unwrap_or_else(|d| panic!("{product} {version}: {d}"));
            assert_eq!(claims.product.name(), product);
            assert_eq!(claims.version, u32::from(version));
            assert_eq!(claims.cpuid.is_some(), version >= 3);
            assert_eq!(claims.current_mitigations.as_deref(), (version == 5).then_some("000000000000003f"));
            assert_eq!(claims.chip_id, Some("c1".repeat(if product == "Turin" { 8 } else { 64 })));
            assert_eq!(claims.current_firmware.to_string(), "1.55.29");
            assert_eq!(acceptable(&claims, None), Ok(()));
            let json = serde_json::to_string(&claims).unwrap();
            assert_eq!(serde_json::from_str::<SevSnpClaims>(&json).unwrap(), claims);
        }
    }
    let claims = with_key("Genoa", |profile| profile.product_name = "Siena".into()).unwrap();
    assert_eq!(claims.product, Product::Genoa);
    assert_eq!(altered_of("Genoa", 3, |body| body[0x189] = 0xa0).unwrap().product, Product::Genoa);
}

#[test]
fn a_good_vlek_report_is_verified_and_names_its_provider() {
    for product in ["Milan", "Genoa", "Turin"] {
        let authority = Authority::new(product);
        let signer = authority.vlek();
        let body = signer.sign(authority.vlek_report(3, &DUE));
        let endorsements = [signer.certificate, authority.asvk.clone()];
        let claims = outcome(&body, &endorsements, &trust(&authority)).unwrap();
        assert_eq!(claims.csp_id.as_deref(), Some("CN=cloud.example"));
        assert_eq!((claims.signing_key, &claims.chip_id), (SigningKey::Vlek, &None));
    }
}

#[test]
fn certificates_in_both_spellings_of_rsa_pss_are_verified() {
    for spelling in [Spelling::WithTrailer, Spelling::Der] {
        assert!(with_key("Milan", |profile| profile.spelling = spelling).is_ok());
        let authority = Authority::new("Milan");
        let signer = authority.vcek();
        let ask = authority.ask_with(|profile| profile.spelling = spelling);
        let body = signer.sign(authority.report(3, &DUE));
        assert!(outcome(&body, &[signer.certificate, ask], &trust(&authority)).is_ok());
    }
}

#[test]
fn a_report_that_breaks_its_shape_is_denied_though_it_is_signed() {
    let malformed = Err(Denial::EvidenceMalformed);
    for version in [0, 1, 4, 6, 255] {
        assert_eq!(altered(|body| body[0] = version), malformed, "version {version}");
    }
    for place in [1, 2, 3] {
        assert_eq!(altered(|body| body[place] = 1), malformed, "version, byte {place}");
    }
    assert_eq!(altered(|body| body[0xa] &= !2), malformed, "POLICY bit 17");
    assert_eq!(altered(|body| body[0x30] = 4), malformed, "VMPL 4");
    assert_eq!(altered(|body| body[0x34] = 2), malformed, "SIGNATURE_ALGO");
    assert_eq!(altered(|body| body[0x34] = 0), malformed, "SIGNATURE_ALGO");
    for key in [2, 3, 4, 5, 6] {
        assert_eq!(altered(|body| body[0x48] = key << 2), malformed, "SIGNING_KEY {key}");
    }
    assert_eq!(altered(|body| body[0x48] = 0x20), malformed, "flags");
    assert_eq!(
        altered(|body| body[0x48] = 7 << 2),
        Err(Denial::EvidenceSignatureInvalid),
        "SIGNING_KEY none"
    );
    let reserved = (0x4c..0x50).chain(0x18b..0x1a0).chain([0x1eb, 0x1ef]).chain(0x1f8..0x2a0);
    for place in reserved {
        assert_eq!(altered(|body| body[place] = 1), malformed, "reserved {place:#x}");
    }
    for place in 0x188..0x18b {
        assert_eq!(altered_of("Milan", 2, |body| body[place] = 1), malformed, "version 2 {place:#x}");
    }
    for place in (0x208..0x2a0).step_by(7) {
        assert_eq!(altered_of("Milan", 5, |body| body[place] = 1), malformed, "version 5 {place:#x}");
    }
    for place in [0x180, 0x1e0, 0x38, 0x1f0] {
        assert_eq!(
            altered(|body| body[place + 3] = 1),
            malformed.clone().map_err(|denial| match place {
                // The certificate has no such component either, and REPORTED_TCB is held against it first.
                0x180 => Denial::EvidenceMalformed,
                _ => denial,
            })
        );
    }
}

#[test]
fn a_report_of_another_length_is_denied() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let endorsements = [signer.certificate, authority.ask.clone()];
    let trust = trust(&authority);
    assert!(outcome(&body, &endorsements, &trust).is_ok());
    for length in 0..body.len() {
        assert_eq!(outcome(&body[..length], &endorsements, &trust), Err(Denial::EvidenceMalformed));
    }
    for trailing in [1, 16, 1184, 8192 - 1184] {
        let longer = [&body[..], &vec![0; trailing]].concat();
        assert_eq!(outcome(&longer, &endorsements, &trust), Err(Denial::EvidenceMalformed));
    }
    assert_eq!(outcome(&vec![0; 16 * 1024 * 1024], &endorsements, &trust), Err(Denial::EvidenceMalformed));
}

#[test]
fn one_flipped_bit_anywhere_in_a_good_report_is_denied() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let endorsements = [signer.certificate, authority.ask.clone()];
    let trust = trust(&authority);
    for place in 0..body.len() {
        let mut flipped = body.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(outcome(&flipped, &endorsements, &trust).is_err(), "{place:#x}");
    }
    let Some(folder) = folder() else { return };
    for name in ["milan-v3", "turin-v5"] {
        let (body, certificate) = real(&folder, name);
        let trust = SevSnpTrust::amd();
        for place in 0..body.len() {
            let mut flipped = body.clone();
            flipped[place] ^= 0x80 >> (place % 8);
            let now = at(1_793_491_200);
            let outcome = examine(&flipped, &[&certificate], &trust, now, &mut Checks::new());
            assert!(outcome.is_err(), "{name} {place:#x}");
        }
    }
}

#[test]
fn one_flipped_bit_anywhere_in_a_certificate_is_denied() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let (leaf, ask) = (signer.certificate.clone(), authority.ask.clone());
    let trust = trust(&authority);
    for place in 0..leaf.len() {
        let mut flipped = leaf.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(outcome(&body, &[flipped, ask.clone()], &trust).is_err(), "leaf {place}");
    }
    for place in 0..ask.len() {
        let mut flipped = ask.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(outcome(&body, &[leaf.clone(), flipped], &trust).is_err(), "intermediate {place}");
    }
    for length in 0..leaf.len() {
        assert!(outcome(&body, &[leaf[..length].to_vec(), ask.clone()], &trust).is_err());
    }
    let trailing = [&leaf[..], &[0]].concat();
    assert_eq!(outcome(&body, &[trailing, ask], &trust), Err(Denial::EndorsementUntrusted));
}

#[test]
fn a_signature_that_is_not_the_chips_is_denied() {
    let authority = Authority::new("Milan");
    let (signer, other) = (authority.vcek(), authority.vcek());
    let endorsements = [signer.certificate.clone(), authority.ask.clone()];
    let trust = trust(&authority);
    let invalid = Err(Denial::EvidenceSignatureInvalid);
    let foreign = other.sign(authority.report(3, &DUE));
    assert_eq!(outcome(&foreign, &endorsements, &trust), invalid);
    let good = signer.sign(authority.report(3, &DUE));
    for range in [0x2a0..0x2d0, 0x2e8..0x318, 0x2a0..0x330] {
        let mut zero = good.clone();
        zero[range].fill(0);
        assert_eq!(outcome(&zero, &endorsements, &trust), invalid);
    }
    for place in (0x2d0..0x2e8).chain(0x318..0x4a0) {
        let mut padded = good.clone();
        padded[place] = 1;
        assert_eq!(outcome(&padded, &endorsements, &trust), Err(Denial::EvidenceMalformed), "{place:#x}");
    }
    let masked = altered(|body| body[0x48] = 2).unwrap();
    assert!(masked.chip_key_masked);
}

#[test]
fn a_report_for_another_binding_is_denied() {
    for place in 0x50..0x90 {
        assert_eq!(altered(|body| body[place] ^= 1), Err(Denial::EvidenceBindingMismatch));
    }
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &[0; 64]));
    let endorsements = [signer.certificate, authority.ask.clone()];
    let zeros = verify(&body, &endorsements, &[0; 64], &trust(&authority), at(T0), &mut Checks::new());
    assert_eq!(zeros.unwrap_err().denial, Denial::EvidenceBindingMismatch);
}

#[test]
fn evidence_under_a_root_that_is_not_pinned_is_denied() {
    let (authority, impostor) = (Authority::new("Milan"), Authority::impostor("Milan"));
    let signer = impostor.vcek();
    let body = signer.sign(impostor.report(3, &DUE));
    let carried = [signer.certificate.clone(), impostor.ask.clone(), impostor.ark.clone()];
    let untrusted = Err(Denial::EndorsementUntrusted);
    assert_eq!(outcome(&body, &carried, &trust(&authority)), untrusted);
    assert_eq!(outcome(&body, &carried, &SevSnpTrust::amd()), untrusted);
    assert_eq!(outcome(&body, &carried, &SevSnpTrust::empty()), untrusted);
    let mixed = [signer.certificate.clone(), authority.ask.clone()];
    assert_eq!(outcome(&body, &mixed, &trust(&authority)), untrusted);
    let no_authority = impostor.ask_with(|profile| profile.extensions.clear());
    assert_eq!(outcome(&body, &[signer.certificate, no_authority], &trust(&impostor)), untrusted);
}

#[test]
fn an_intermediate_without_the_right_to_sign_is_denied() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let with = |extensions: Vec<Vec<u8>>| {
        let ask = authority.ask_with(|profile| profile.extensions = extensions);
        outcome(&body, &[signer.certificate.clone(), ask], &trust(&authority))
    };
    let untrusted = Err(Denial::EndorsementUntrusted);
    assert!(with(vec![authority_extension(Some(0)), usage_extension(2, 4)]).is_ok());
    assert_eq!(with(vec![authority_extension(Some(0))]), untrusted, "no key usage");
    assert_eq!(with(vec![authority_extension(Some(0)), usage_extension(1, 2)]), untrusted, "cRLSign alone");
    assert_eq!(with(vec![usage_extension(2, 4)]), untrusted, "no CA");
    assert_eq!(with(vec![]), untrusted, "nothing");
    let repeated = vec![authority_extension(Some(0)), usage_extension(2, 4), usage_extension(2, 4)];
    assert!(with(repeated).is_err(), "an extension twice");
}

#[test]
fn a_switched_off_root_is_trusted_no_more() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let endorsements = [signer.certificate, authority.ask.clone()];
    let mut trust = trust(&authority);
    let root = trust.roots()[0].sha256;
    assert!(outcome(&body, &endorsements, &trust).is_ok());
    assert!(trust.switch_off(&root));
    assert!(!trust.switch_off(&root));
    assert_eq!(outcome(&body, &endorsements, &trust), Err(Denial::EndorsementUntrusted));
}

#[test]
fn a_certificate_that_is_not_of_this_key_chip_and_tcb_is_denied() {
    let untrusted = Err(Denial::EndorsementUntrusted);
    for component in ["3.1", "3.2", "3.3", "3.8"] {
        assert_eq!(with_key("Milan", |profile| profile.without = vec![component]), untrusted, "{component}");
    }
    for component in ["3.1", "3.2", "3.3", "3.8", "3.9"] {
        assert_eq!(with_key("Turin", |profile| profile.without = vec![component]), untrusted, "{component}");
    }
    for byte in [0, 1, 6, 7] {
        assert_eq!(with_key("Milan", |profile| profile.tcb[byte] ^= 1), untrusted, "{byte}");
        assert_eq!(with_key("Milan", |profile| profile.tcb[byte] += 1), untrusted, "{byte}");
    }
    for byte in [0, 1, 2, 3, 7] {
        assert_eq!(with_key("Turin", |profile| profile.tcb[byte] ^= 1), untrusted, "{byte}");
    }
    for product in ["Milan", "Turin"] {
        assert_eq!(with_key(product, |profile| profile.hw_id = None), untrusted);
        assert_eq!(with_key(product, |profile| profile.hw_id.as_mut().unwrap()[7] ^= 1), untrusted);
        assert_eq!(with_key(product, |profile| profile.hw_id.as_mut().unwrap().truncate(7)), untrusted);
        assert_eq!(with_key(product, |profile| profile.hw_id.as_mut().unwrap().push(0)), untrusted);
        assert_eq!(with_key(product, |profile| profile.hw_id = Some(vec![])), untrusted);
        assert_eq!(with_key(product, |profile| profile.csp_id = Some("CN=x".into())), untrusted);
        assert_eq!(with_key(product, |profile| profile.product_name = String::new()), untrusted);
        assert_eq!(with_key(product, |profile| profile.product_name = "Genoa".into()), untrusted);
    }
    // Raw, though it begins like DER.
    let der_like = |profile: &mut KeyProfile| profile.hw_id = Some(tlv(4, &[0xc1; 62]));
    assert_eq!(with_key("Milan", der_like), untrusted);
    let twice = |profile: &mut KeyProfile| profile.more = vec![amd_extension("3.8", &unsigned(&[219]))];
    assert_eq!(with_key("Milan", twice), untrusted);
    let authority = Authority::new("Milan");
    let vlek = |alter: fn(&mut KeyProfile)| {
        with_key("Milan", |profile| {
            *profile = authority.vlek_profile();
            alter(profile);
        })
    };
    assert!(vlek(|_| ()).is_ok());
    assert_eq!(vlek(|profile| profile.csp_id = None), untrusted);
    assert_eq!(vlek(|profile| profile.csp_id = Some(String::new())), untrusted);
    assert_eq!(vlek(|profile| profile.hw_id = Some(vec![0xc1; 64])), untrusted);
    assert_eq!(vlek(|profile| profile.tcb[7] = 1), untrusted);
}

#[test]
fn a_chip_that_the_report_pads_with_anything_but_zeros_is_denied() {
    assert_eq!(altered_of("Turin", 5, |body| body[0x1df] = 1), Err(Denial::EndorsementUntrusted));
    assert_eq!(altered_of("Turin", 5, |body| body[0x1a8] = 0xc1), Err(Denial::EndorsementUntrusted));
}

#[test]
fn vcek_and_vlek_do_not_stand_for_each_other() {
    let authority = Authority::new("Milan");
    let trust = trust(&authority);
    let untrusted = Err(Denial::EndorsementUntrusted);
    let (vcek, vlek) = (authority.vcek(), authority.vlek());
    let as_vlek = vcek.sign(authority.vlek_report(3, &DUE));
    assert_eq!(outcome(&as_vlek, &[vcek.certificate, authority.ask.clone()], &trust), untrusted);
    let as_vcek = vlek.sign(authority.report(3, &DUE));
    assert_eq!(outcome(&as_vcek, &[vlek.certificate, authority.asvk.clone()], &trust), untrusted);
}

#[test]
fn a_processor_of_another_product_than_the_root_is_denied() {
    for (product, cpuid) in
        [("Milan", [0x1a, 2]), ("Milan", [0x19, 0x11]), ("Genoa", [0x19, 1]), ("Milan", [0, 0])]
    {
        let outcome = altered_of(product, 3, |body| body[0x188..0x18a].copy_from_slice(&cpuid));
        assert_eq!(outcome, Err(Denial::EndorsementUntrusted), "{product}");
    }
}

#[test]
fn a_report_that_contradicts_itself_about_tcbs_is_denied() {
    for byte in [0, 1, 6, 7] {
        assert_eq!(
            altered(|body| body[0x1e0 + byte] -= 1),
            Err(Denial::EvidenceMalformed),
            "committed {byte}"
        );
        assert_eq!(altered(|body| body[0x38 + byte] -= 1), Err(Denial::EvidenceMalformed), "current {byte}");
        assert!(altered(|body| body[0x38 + byte] += 1).is_ok(), "current above committed");
        assert!(altered(|body| body[0x1f0 + byte] -= 1).is_ok(), "an older launch is the appraisal's");
    }
    for byte in [0, 1, 2, 3, 7] {
        let committed = altered_of("Turin", 5, |body| body[0x1e0 + byte] -= 1);
        assert_eq!(committed, Err(Denial::EvidenceMalformed), "turin {byte}");
    }
}

#[test]
fn each_certificate_denies_before_its_begin_and_from_its_end() {
    let authority = Authority::new("Milan");
    let signer = authority.vcek();
    let body = signer.sign(authority.report(3, &DUE));
    let ends = |alter: fn(&mut Profile)| authority.ask_with(alter);
    let cases: [(&str, Vec<u8>, Vec<u8>); 3] = [
        ("leaf", authority.ask.clone(), authority.ark.clone()),
        ("intermediate", ends(|profile| profile.ends = T0 + 100), authority.ark.clone()),
        ("root", authority.ask.clone(), authority.root_with(|profile| profile.ends = T0 + 100)),
    ];
    for (what, ask, ark) in cases {
        let mut profile = authority.vcek_profile();
        if what == "leaf" {
            profile.ends = T0 + 100;
        }
        let signer = authority.signer(&profile);
        let body = signer.sign(authority.report(3, &DUE));
        let mut trust = SevSnpTrust::empty();
        trust.add_root(&ark).unwrap();
        let endorsements = [signer.certificate, ask];
        let at = |seconds| outcome_at(&body, &endorsements, &trust, at(seconds)).map(|_| ());
        assert_eq!(at(T0 + 99), Ok(()), "{what}");
        assert_eq!(at(T0 + 100), Err(Denial::EndorsementExpired), "{what}");
        assert_eq!(at(T0 + 30 * YEAR), Err(Denial::EndorsementExpired), "{what}");
    }
    let begins: [(&str, Vec<u8>, Vec<u8>); 2] = [
        ("intermediate", ends(|profile| profile.begins = T0 + 100), authority.ark.clone()),
        ("root", authority.ask.clone(), authority.root_with(|profile| profile.begins = T0 + 100)),
    ];
    for (what, ask, ark) in begins {
        let mut trust = SevSnpTrust::empty();
        trust.add_root(&ark).unwrap();
        let endorsements = [signer.certificate.clone(), ask];
        let at = |seconds| outcome_at(&body, &endorsements, &trust, at(seconds)).map(|_| ());
        assert_eq!(at(T0 + 69), Err(Denial::EndorsementNotYetValid), "{what}");
        assert_eq!(at(T0 + 70), Ok(()), "{what}");
    }
    let future = with_key("Milan", |profile| profile.begins = T0 + 31);
    assert_eq!(future, Err(Denial::EndorsementNotYetValid));
    assert!(with_key("Milan", |profile| profile.begins = T0 + 30).is_ok());
}

#[test]
fn the_subject_is_of_guest_and_tcb_and_of_nothing_that_changes_at_every_launch() {
    let authority = Authority::new("Milan");
    let trust = trust(&authority);
    let subject = |alter: fn(&mut Vec<u8>)| {
        let signer = authority.vcek();
        let mut body = authority.report(3, &DUE);
        alter(&mut body);
        let endorsements = [signer.certificate.clone(), authority.ask.clone()];
        verify(&signer.sign(body), &endorsements, &DUE, &trust, at(T0), &mut Checks::new()).unwrap().subject()
    };
    let good = subject(|_| ());
    assert_eq!(subject(|body| body[0x140] ^= 1), good, "report id");
    assert_eq!(subject(|body| body[0x40] ^= 1), good, "platform");
    assert_eq!(subject(|body| body[0x38 + 7] += 1), good, "current TCB");
    for place in [0x4, 0xa, 0x90, 0xbf, 0xc0, 0xe0, 0x30] {
        let altered: [fn(&mut Vec<u8>); 7] = [
            |body| body[0x4] ^= 1,
            |body| body[0xa] ^= 8,
            |body| body[0x90] ^= 1,
            |body| body[0xbf] ^= 1,
            |body| body[0xc0] ^= 1,
            |body| body[0xe0] ^= 1,
            |body| body[0x30] ^= 1,
        ];
        altered.into_iter().for_each(|alter| assert_ne!(subject(alter), good, "{place:#x}"));
    }
    assert_ne!(subject(|body| body[0x1f0 + 7] -= 1), good, "launch TCB");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_is_denied_without_a_panic(
        bytes: Vec<u8>,
        endorsement: Vec<u8>,
        at_byte in 0_usize..1184,
        junk in proptest::collection::vec(proptest::num::u8::ANY, 1..64),
    ) {
        let authority = Authority::new("Milan");
        let trust = trust(&authority);
        assert!(outcome(&bytes, std::slice::from_ref(&endorsement), &trust).is_err());
        let signer = authority.vcek();
        let good = signer.sign(authority.report(3, &DUE));
        assert!(outcome(&good, &[endorsement, authority.ask.clone()], &trust).is_err());
        let mut body = good.clone();
        let end = (at_byte + junk.len()).min(body.len());
        body.splice(at_byte..end, junk.into_iter().take(end - at_byte));
        if body != good {
            assert!(outcome(&body, &[signer.certificate, authority.ask.clone()], &trust).is_err());
        }
    }
}
