//! Every shared `sev-snp` vector, real and synthetic, at its own time: verdict, claims and the exact denial.

use super::*;
use crate::appraisal::sev_snp_reference::{SevSnpReference, acceptable};
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Refusal};
use crate::time::{BootTime, Now, WallTime};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};

/// 2026-11-01T00:00:00Z: all VCEKs of the folder are valid.
const NOVEMBER: u64 = 1_793_491_200;
/// 2025-06-01T00:00:00Z: the VLEK is valid.
const IN_VLEK: u64 = 1_748_736_000;

/// The vectors that belong to others; absent ones are said loudly, and fail a run under CI.
#[expect(clippy::disallowed_methods, reason = "CI=true is how a test run says that nothing may be skipped")]
pub(super) fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/snp");
    if folder.is_dir() {
        return Some(folder);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the SEV-SNP vectors are absent");
    eprintln!("NOT RUN: the SEV-SNP vectors are absent from {}", folder.display());
    None
}

pub(super) fn at(seconds: u64) -> Now {
    Now { wall: WallTime(seconds * 1000), boot: BootTime(1_000_000) }
}

/// A report and its certificate, whether in DER or PEM.
pub(super) fn real(folder: &Path, name: &str) -> (Vec<u8>, Vec<u8>) {
    let report = std::fs::read(folder.join(format!("{name}.report.bin"))).unwrap();
    let pem = folder.join(format!("{name}.vek.pem"));
    let certificate = match std::fs::read(folder.join(format!("{name}.vek.der"))) {
        Ok(der) => der,
        Err(_) => CertificateDer::from_pem_file(pem).unwrap().to_vec(),
    };
    (report, certificate)
}

fn examined(folder: &Path, name: &str, seconds: u64) -> Result<Examined, Refusal> {
    let (report, certificate) = real(folder, name);
    examine(&report, &[certificate], &SevSnpTrust::amd(), at(seconds), &mut Checks::new())
}

/// One real document: when, which claims, and what its README says of it.
struct Expected {
    name: &'static str,
    seconds: u64,
    product: Product,
    signing_key: SigningKey,
    version: u32,
    vmpl: u32,
    reported_tcb: Tcb,
    measurement: &'static str,
    chip_id: Option<&'static str>,
    csp_id: Option<&'static str>,
    /// None: acceptable without reference values.
    unacceptable: Option<&'static str>,
}

fn real_documents() -> Vec<Expected> {
    let tcb = |bootloader, snp, microcode| Tcb { fmc: None, bootloader, tee: 0, snp, microcode };
    let turin = Tcb { fmc: Some(1), bootloader: 1, tee: 1, snp: 4, microcode: 81 };
    vec![
        Expected {
            name: "milan-v2-DEBUG",
            seconds: NOVEMBER,
            product: Product::Milan,
            signing_key: SigningKey::Vcek,
            version: 2,
            vmpl: 0,
            reported_tcb: tcb(2, 5, 68),
            measurement: "b07af9620f3b839b47996422ddec6058338951d984e312115131ea82705eaf5b6bdf8a9ece31a5a608eb0cf2e4872b01",
            chip_id: Some(
                "3ac3fe21e13fb0990eb28a802e3fb6a29483a6b0753590c951bdd3b8e53786184ca39e359669a2b76a1936776b564ea464cdce40c05f63c9b610c5068b006b5d",
            ),
            csp_id: None,
            unacceptable: Some("POLICY.DEBUG: the host may read it"),
        },
        Expected {
            name: "milan-v3",
            seconds: NOVEMBER,
            product: Product::Milan,
            signing_key: SigningKey::Vcek,
            version: 3,
            vmpl: 0,
            reported_tcb: tcb(4, 24, 219),
            measurement: "5feee30d6d7e1a29f403d70a4198237ddfb13051a2d6976439487c609388ed7f98189887920ab2fa0096903a0c23fca1",
            chip_id: Some(
                "4ffb5cb4fd594f3fee6528fc3fb10370bb38abe89dcd5ba2cf0ab6a11df2ca282add516bef45a890a8c9f9732bdca68f9f3f16c42e846030a800295dbeb19ba5",
            ),
            csp_id: None,
            unacceptable: None,
        },
        Expected {
            name: "turin-v5",
            seconds: NOVEMBER,
            product: Product::Turin,
            signing_key: SigningKey::Vcek,
            version: 5,
            vmpl: 0,
            reported_tcb: turin,
            measurement: "6d6c354511d6f7c6d7504668903dc5bdc066a048b651840d8d03fb85299ebfa142fccf1d1b0baca496841bdf243619d4",
            chip_id: Some("59790fb1c39f35c1"),
            csp_id: None,
            unacceptable: None,
        },
        Expected {
            name: "milan-v3-VLEK-aws",
            seconds: IN_VLEK,
            product: Product::Milan,
            signing_key: SigningKey::Vlek,
            version: 3,
            vmpl: 1,
            reported_tcb: tcb(4, 24, 217),
            measurement: "8922ebbdd00ec2c541f36a6e7a82a8773a7accb451ed67bc94e740dbe92c93c4e8c9af857f5ceeb5a493df2a570d7bf0",
            chip_id: None,
            csp_id: Some("CN=cc-us-east-2.amazonaws.com"),
            unacceptable: Some("VMPL 1"),
        },
    ]
}

#[test]
fn every_real_report_gets_its_verdict_and_its_claims() {
    let Some(folder) = folder() else { return };
    for expected in real_documents() {
        let name = expected.name;
        let examined =
            examined(&folder, name, expected.seconds).unwrap_or_else(|why| panic!("{name}: {why:?}"));
        let claims = examined.claims();
        assert_eq!(claims.product, expected.product, "{name}");
        assert_eq!(claims.signing_key, expected.signing_key, "{name}");
        assert_eq!(claims.version, expected.version, "{name}");
        assert_eq!(claims.vmpl, expected.vmpl, "{name}");
        assert_eq!(claims.reported_tcb, expected.reported_tcb, "{name}");
        assert_eq!(claims.measurement, expected.measurement, "{name}");
        assert_eq!(claims.chip_id.as_deref(), expected.chip_id, "{name}");
        assert_eq!(claims.csp_id.as_deref(), expected.csp_id, "{name}");
        let outcome = acceptable(claims, None);
        let why = outcome.as_ref().err().map(|refusal| refusal.detail.as_str());
        assert_eq!(why, expected.unacceptable, "{name}");
        assert!(outcome.err().is_none_or(|refusal| refusal.denial == Denial::PlatformNotAcceptable));
    }
}

#[test]
fn a_real_report_is_verified_for_the_binding_it_carries_and_for_no_other() {
    let Some(folder) = folder() else { return };
    let trust = SevSnpTrust::amd();
    for name in ["milan-v2-DEBUG", "milan-v3-VLEK-aws"] {
        let (report, certificate) = real(&folder, name);
        let due: [u8; 64] = report[0x50..0x90].try_into().unwrap();
        let outcome = |due: &[u8; 64]| {
            let mut checks = Checks::new();
            let verified = verify(&report, &[&certificate], due, &trust, at(IN_VLEK), &mut checks);
            assert_eq!(checks.all().len(), 13, "{checks:?}");
            verified.map(|_| ()).map_err(|refusal| refusal.denial)
        };
        assert_eq!(outcome(&due), Ok(()), "{name}");
        for place in 0..64 {
            let mut other = due;
            other[place] ^= 0x10;
            assert_eq!(outcome(&other), Err(Denial::EvidenceBindingMismatch), "{name} {place}");
        }
    }
    for name in ["milan-v3", "turin-v5"] {
        let (report, certificate) = real(&folder, name);
        let refused = verify(&report, &[certificate], &[0; 64], &trust, at(NOVEMBER), &mut Checks::new());
        assert_eq!(
            refused.unwrap_err().denial,
            Denial::EvidenceBindingMismatch,
            "{name}: zeros are nobody's"
        );
    }
}

#[test]
fn a_real_report_with_a_certificate_that_is_not_its_own_is_denied() {
    let Some(folder) = folder() else { return };
    let refusal = examined(&folder, "milan-v2-wrong-vcek", NOVEMBER).unwrap_err();
    assert_eq!(refusal.denial, Denial::EndorsementUntrusted, "{refusal:?}");
    let trust = SevSnpTrust::amd();
    let names = ["milan-v2-DEBUG", "milan-v3", "turin-v5", "milan-v3-VLEK-aws"];
    for (one, other) in names.iter().flat_map(|one| names.iter().map(move |other| (one, other))) {
        let ((report, _), (_, certificate)) = (real(&folder, one), real(&folder, other));
        let outcome = examine(&report, &[certificate], &trust, at(IN_VLEK), &mut Checks::new());
        match outcome {
            Ok(_) => assert_eq!(one, other),
            Err(refusal) => match refusal.denial {
                Denial::EndorsementNotYetValid => assert!(["milan-v3", "turin-v5"].contains(other)),
                denial => {
                    assert_ne!(one, other, "{refusal:?}");
                    assert_eq!(denial, Denial::EndorsementUntrusted, "{one} {other}");
                }
            },
        }
    }
}

#[test]
fn a_real_vlek_ends_within_its_year() {
    let Some(folder) = folder() else { return };
    let denial =
        |seconds| examined(&folder, "milan-v3-VLEK-aws", seconds).err().map(|refusal| refusal.denial);
    assert_eq!(denial(1_733_868_861 - 31), Some(Denial::EndorsementNotYetValid));
    assert_eq!(denial(1_733_868_861 - 30), None);
    assert_eq!(denial(1_765_404_860), None);
    assert_eq!(denial(1_765_404_861), Some(Denial::EndorsementExpired));
    let ends = examined(&folder, "milan-v3-VLEK-aws", IN_VLEK).unwrap();
    assert_eq!(ends.ends().first(), ("signing key's certificate", WallTime(1_765_404_861_000)));
}

#[test]
fn a_real_report_is_verified_without_pinned_intermediates_where_it_brings_its_own() {
    let Some(folder) = folder() else { return };
    let mut trust = SevSnpTrust::empty();
    super::trust::AMD.iter().for_each(|(root, _)| trust.add_root(root).unwrap());
    for (name, root, intermediate) in [("milan-v3", 0, 0), ("turin-v5", 2, 0), ("milan-v3-VLEK-aws", 0, 1)] {
        let (report, certificate) = real(&folder, name);
        let seconds = if name.contains("VLEK") { IN_VLEK } else { NOVEMBER };
        let (ark, intermediates) = super::trust::AMD[root];
        let outcome = |endorsements: &[&[u8]]| {
            let examined = examine(&report, endorsements, &trust, at(seconds), &mut Checks::new());
            examined.map(|_| ()).map_err(|refusal| refusal.denial)
        };
        assert_eq!(outcome(&[&certificate, intermediates[intermediate], ark]), Ok(()), "{name}");
        assert_eq!(outcome(&[&certificate]), Err(Denial::CollateralUnavailable), "{name}");
        assert_eq!(outcome(&[&certificate, ark]), Err(Denial::CollateralUnavailable), "{name}");
        let other = intermediates[1 - intermediate];
        assert_eq!(outcome(&[&certificate, other]), Err(Denial::CollateralUnavailable), "{name}");
    }
}

/// What each synthetic case must end in. `None` verifies and is acceptable; what it fails by reference values alone is said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Denied(Denial),
    Differs,
}

fn verdict(name: &str) -> Verdict {
    use Denial::*;
    match name {
        "ok-v2" | "ok-v3" | "ok-v5-turin" | "ok-vlek" | "ok-current-above-reported" => Verdict::Accepted,
        "debug-policy"
        | "migrate-ma"
        | "vmpl-1"
        | "host-requested"
        | "tcb-below-policy"
        | "launch-tcb-low"
        | "chip-id-zero-with-vcek" => Verdict::Denied(PlatformNotAcceptable),
        "measurement-other" | "measurement-zero" => Verdict::Differs,
        "report-data-other" | "report-data-zero" | "report-data-half" => {
            Verdict::Denied(EvidenceBindingMismatch)
        }
        "policy-bit17-clear"
        | "version-1"
        | "committed-below-reported"
        | "current-below-committed"
        | "signing-key-reserved"
        | "signature-r-too-long"
        | "report-truncated"
        | "report-trailing"
        | "reserved-nonzero-0x4C"
        | "reserved-nonzero-0x290" => Verdict::Denied(EvidenceMalformed),
        "signing-key-none" | "bitflip-measurement" | "signature-zero" => {
            Verdict::Denied(EvidenceSignatureInvalid)
        }
        "vcek-for-higher-tcb"
        | "hwid-mismatch"
        | "hwid-absent"
        | "vlek-flag-but-vcek"
        | "vcek-flag-but-vlek"
        | "vcek-under-asvk"
        | "attacker-ark-same-name"
        | "attacker-ask"
        | "vcek-directly-under-ark"
        | "vcek-signed-by-vcek"
        | "product-mismatch"
        | "turin-report-milan-chain" => Verdict::Denied(EndorsementUntrusted),
        "vcek-expired" => Verdict::Denied(EndorsementExpired),
        "vcek-not-yet-valid" => Verdict::Denied(EndorsementNotYetValid),
        unknown => panic!("a case that this test does not know: {unknown}"),
    }
}

fn reference(policy: &serde_json::Value) -> SevSnpReference {
    let minimum = &policy["min_tcb_milan"];
    let milan = serde_json::json!({
        "bootloader": minimum["bl"], "tee": minimum["tee"], "snp": minimum["snp"], "microcode": minimum["ucode"],
    });
    let mut turin = milan.clone();
    (turin["fmc"], turin["snp"]) = (1.into(), 0.into());
    let reference = serde_json::from_value(serde_json::json!({
        "measurements": [policy["measurement_hex"]],
        "minimum_tcb": { "milan": milan, "turin": turin },
        "vmpls": [policy["max_vmpl"]],
    }));
    let reference: SevSnpReference = reference.unwrap();
    assert_eq!(reference.check_shape(), Ok(()));
    reference
}

#[test]
fn every_synthetic_case_gets_its_verdict_and_its_exact_denial() {
    let Some(folder) = folder() else { return };
    let text = std::fs::read_to_string(folder.join("synthetic.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
    let decoded = |value: &serde_json::Value| BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
    // AMD's own are trusted too: neither their roots nor their intermediates of the same names may get in the way.
    let mut trust = SevSnpTrust::amd();
    let roots = vectors["ark_der_b64"].as_object().unwrap();
    roots.values().for_each(|root| trust.add_root(&decoded(root)).unwrap());
    let now = at(vectors["now"].as_u64().unwrap());
    let reference = reference(&vectors["policy"]);
    let due: [u8; 64] =
        hex::decode(vectors["policy"]["report_data_hex"].as_str().unwrap()).unwrap().try_into().unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 44);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let carried = ["vek_der_b64", "intermediate_der_b64", "supplied_ark_der_b64"];
        let endorsements: Vec<Vec<u8>> =
            carried.iter().map(|key| &case[*key]).filter(|value| value.is_string()).map(decoded).collect();
        let mut checks = Checks::new();
        let verified = verify(&decoded(&case["report_b64"]), &endorsements, &due, &trust, now, &mut checks);
        let outcome = match &verified {
            Err(refusal) => Verdict::Denied(refusal.denial),
            Ok(verified) if !reference.differences(verified.claims()).is_empty() => Verdict::Differs,
            Ok(verified) => match acceptable(verified.claims(), Some(&reference)) {
                Ok(()) => Verdict::Accepted,
                Err(refusal) => Verdict::Denied(refusal.denial),
            },
        };
        assert_eq!(outcome, verdict(name), "{name}: {verified:?} {checks:?}");
        match case["expect"].as_str().unwrap() {
            "accept" => assert_eq!(outcome, Verdict::Accepted, "{name}"),
            "reject" | "reject-by-policy" => assert_ne!(outcome, Verdict::Accepted, "{name}"),
            "either" => {}
            other => panic!("{name}: expects {other}"),
        }
    }
}
