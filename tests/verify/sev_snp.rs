//! `sev-snp`: real reports at a time of their certificates', synthetic ones under their own roots, lists.

use crate::desk::{ACCEPTABLE, Asked, Desk, Found, REFUSED, UNDECIDED, at, json, vectors, verify};
use crate::sev_snp_kit::{ASK_SERIAL, Authority, T0, YEAR};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// 2026-11-01T00:00:00Z: all VCEKs of the folder are valid.
const NOVEMBER: u64 = 1_793_491_200;
/// 2025-06-01T00:00:00Z: the VLEK is valid.
const IN_VLEK: u64 = 1_748_736_000;

fn real(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let der = folder.join(format!("{name}.vek.der"));
    let certificate = if der.exists() { der } else { folder.join(format!("{name}.vek.pem")) };
    (folder.join(format!("{name}.report.bin")), certificate)
}

fn asked(folder: &Path, name: &str, seconds: u64) -> Asked {
    let (report, certificate) = real(folder, name);
    verify("sev-snp", report).with("--endorsement", certificate).with("--at", at(seconds))
}

fn reference(claims: &Value, vmpl: u64) -> String {
    let tcb = &claims["reported_tcb"];
    let component = |name: &str| format!("{name} = {}\n", tcb[name]);
    let names = ["bootloader", "tee", "snp", "microcode"];
    let product = claims["product"].as_str().unwrap();
    format!(
        "[[set]]\nname = \"a\"\nnot_after = 2030-01-01T00:00:00Z\n[set.sev-snp]\nmeasurements = [{}]\nvmpls = [{vmpl}]\n[set.sev-snp.minimum_tcb.{product}]\n{}",
        claims["measurement"],
        names.map(component).concat()
    )
}

#[test]
fn every_real_report_gets_its_verdict() {
    let Some(folder) = vectors("snp") else { return };
    asked(&folder, "milan-v2-DEBUG", NOVEMBER).run().refused("PlatformNotAcceptable");
    asked(&folder, "milan-v3", NOVEMBER).run().accepted();
    asked(&folder, "turin-v5", NOVEMBER).run().accepted();
    asked(&folder, "milan-v2-wrong-vcek", NOVEMBER).run().refused("EndorsementUntrusted");
    // Both have zeros where the binding belongs, which are nobody's.
    for name in ["milan-v3", "turin-v5"] {
        let bound = asked(&folder, name, NOVEMBER).with("--binding", "00".repeat(64));
        bound.run().refused("EvidenceBindingMismatch");
    }
    // The report is of VMPL 1, which has to be said.
    let refused = asked(&folder, "milan-v3-VLEK-aws", IN_VLEK).run().refused("PlatformNotAcceptable");
    let desk = Desk::new();
    let values = desk.put("values.toml", reference(refused.claims("sev-snp"), 1));
    let with = |seconds| asked(&folder, "milan-v3-VLEK-aws", seconds).with("--reference", &values);
    let found = with(IN_VLEK).run().accepted();
    assert_eq!(found.json["holds_until"]["end"], at(1_765_404_861));
    with(1_765_404_861).run().refused("EndorsementExpired");
    with(1_733_868_861 - 31).run().refused("EndorsementNotYetValid");
    let other = desk.put("other.toml", reference(refused.claims("sev-snp"), 1).replace("8922", "8923"));
    let differs = asked(&folder, "milan-v3-VLEK-aws", IN_VLEK).with("--reference", other).run();
    differs.refused("MeasurementMismatch");
}

#[test]
fn a_missing_certificate_is_undecided_and_may_be_ones_own() {
    let Some(folder) = vectors("snp") else { return };
    let (report, certificate) = real(&folder, "milan-v3");
    let without = || verify("sev-snp", &report).with("--at", at(NOVEMBER));
    without().run().undecided("CollateralUnavailable");
    without().with("--collateral", &certificate).run().accepted();
    // Roots of one's own without the intermediates: then they come along, or from one's own files.
    let desk = Desk::new();
    let amd = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/amd");
    desk.put("roots/ark.der", std::fs::read(amd.join("ark-milan.der")).unwrap());
    let with_roots = || without().with("--endorsement", &certificate).with("--roots", desk.path("roots"));
    with_roots().run().undecided("CollateralUnavailable");
    with_roots().with("--endorsement", amd.join("ask-milan.der")).run().accepted();
    with_roots().with("--collateral", amd.join("ask-milan.der")).run().accepted();
    // AMD's own file of both, in PEM.
    without().with("--endorsement", &certificate).with("--roots", folder.join("certs")).run().accepted();
}

#[test]
fn every_synthetic_case_gets_its_verdict() {
    let Some(folder) = vectors("snp") else { return };
    let file = json(folder.join("synthetic.json"));
    let desk = Desk::new();
    let decoded = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
    for (product, root) in file["ark_der_b64"].as_object().unwrap() {
        desk.put(&format!("roots/{product}.der"), decoded(root));
    }
    let policy = &file["policy"];
    let tcb = |extra: &str, snp: &Value| {
        let minimum = &policy["min_tcb_milan"];
        format!(
            "{extra}bootloader = {}\ntee = {}\nsnp = {snp}\nmicrocode = {}\n",
            minimum["bl"], minimum["tee"], minimum["ucode"]
        )
    };
    let values = desk.put(
        "values.toml",
        format!(
            "[[set]]\nname = \"a\"\nnot_after = 2030-01-01T00:00:00Z\n[set.sev-snp]\nmeasurements = [{}]\n[set.sev-snp.minimum_tcb.milan]\n{}[set.sev-snp.minimum_tcb.turin]\n{}",
            policy["measurement_hex"],
            tcb("", &policy["min_tcb_milan"]["snp"]),
            tcb("fmc = 1\n", &0.into())
        ),
    );
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 44);
    for case in cases {
        let (name, expect) = (case["name"].as_str().unwrap(), case["expect"].as_str().unwrap());
        let mut asked = verify("sev-snp", desk.put("report", decoded(&case["report_b64"])));
        for (place, key) in ["vek_der_b64", "intermediate_der_b64", "supplied_ark_der_b64"].iter().enumerate()
        {
            if case[*key].is_string() {
                asked =
                    asked.with("--endorsement", desk.put(&format!("carried-{place}"), decoded(&case[*key])));
            }
        }
        let asked = asked.with("--roots", desk.path("roots")).with("--reference", &values);
        let asked = asked.with("--binding", policy["report_data_hex"].as_str().unwrap());
        let found = asked.with("--at", at(file["now"].as_u64().unwrap())).run();
        match expect {
            "accept" => assert_eq!(found.code, ACCEPTABLE, "{name}: {found:?}"),
            "reject" | "reject-by-policy" => assert_eq!(found.code, REFUSED, "{name}: {found:?}"),
            "either" => assert_ne!(found.code, UNDECIDED, "{name}: {found:?}"),
            other => panic!("{name}: {other}"),
        }
    }
}

/// A report under a test root with its certificates.
struct Synthetic {
    desk: Desk,
    authority: Authority,
    report: Vec<u8>,
}

const NOW: u64 = T0 + YEAR / 2;

impl Synthetic {
    fn new() -> Self {
        let (desk, authority) = (Desk::new(), Authority::new("Milan"));
        let signer = authority.vcek();
        let report = signer.sign(authority.report(3, &[7; 64]));
        desk.put("roots/ark.der", &authority.ark);
        desk.put("vcek.der", &signer.certificate);
        desk.put("ask.der", &authority.ask);
        desk.put("report", &report);
        Synthetic { desk, authority, report }
    }

    fn asked(&self) -> Asked {
        let asked =
            verify("sev-snp", self.desk.path("report")).with("--endorsement", self.desk.path("vcek.der"));
        let asked =
            asked.with("--endorsement", self.desk.path("ask.der")).with("--roots", self.desk.path("roots"));
        asked.with("--at", at(NOW)).with("--binding", "07".repeat(64))
    }

    fn with_list(&self, list: &[u8]) -> Found {
        self.asked().with("--crl", self.desk.put("list.crl", list)).run()
    }
}

#[test]
fn a_list_that_is_given_must_be_current_and_of_the_root() {
    let synthetic = Synthetic::new();
    synthetic.asked().run().accepted();
    let authority = &synthetic.authority;
    let current = authority.list(&[], 1, NOW - 100, Some(NOW + 100));
    let found = synthetic.with_list(&current).accepted();
    assert_eq!(found.json["holds_until"]["end"], at(NOW + 100));
    synthetic
        .with_list(&authority.list(&[&ASK_SERIAL], 1, NOW - 100, Some(NOW + 100)))
        .refused("EndorsementRevoked");
    synthetic.with_list(&authority.list(&[], 1, NOW - 100, Some(NOW))).undecided("CollateralStale");
    synthetic.with_list(&authority.list(&[], 1, NOW + 31, Some(NOW + 100))).refused("EndorsementNotYetValid");
    synthetic.with_list(&authority.list(&[], 1, NOW - 100, None)).undecided("CollateralStale");
    let foreign = Authority::impostor("Milan").list(&[], 1, NOW - 100, Some(NOW + 100));
    synthetic.with_list(&foreign).refused("EndorsementUntrusted");
    synthetic.with_list(b"no list").usage("list.crl");
    // The second place is looked at, too.
    let revoking = authority.list(&[&ASK_SERIAL], 2, NOW - 100, Some(NOW + 100));
    let both = synthetic.asked().with("--crl", synthetic.desk.put("first.crl", &current));
    both.with("--crl", synthetic.desk.put("second.crl", revoking)).run().refused("EndorsementRevoked");
}

#[test]
fn a_byte_flipped_or_cut_off_is_refused() {
    let synthetic = Synthetic::new();
    // Beyond the signature's 144 bytes there is nothing but zeros, which must be zeros.
    for position in (0..synthetic.report.len()).step_by(13) {
        let mut report = synthetic.report.clone();
        report[position] ^= 1;
        synthetic.desk.put("report", report);
        assert_eq!(synthetic.asked().run().code, REFUSED, "byte {position}");
    }
    for length in [0, 1, 1183] {
        synthetic.desk.put("report", &synthetic.report[..length]);
        synthetic.asked().run().refused("EvidenceMalformed");
    }
    synthetic.desk.put("report", [&synthetic.report[..], &[0]].concat());
    synthetic.asked().run().refused("EvidenceMalformed");
}

#[test]
fn an_endorsement_that_is_no_certificate_is_the_attesters_fault() {
    let synthetic = Synthetic::new();
    for garbage in [&b"garbage"[..], b"-----BEGIN CERTIFICATE-----\n", b""] {
        synthetic.desk.put("vcek.der", garbage);
        synthetic.asked().run().refused("EndorsementUntrusted");
    }
    synthetic.desk.put("vcek.der", vec![0x30; 200_000]);
    synthetic.asked().run().refused("EvidenceMalformed");
}
