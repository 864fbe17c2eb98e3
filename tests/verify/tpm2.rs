//! `tpm2`: the quotes of a software TPM, real ones of others, and what only reference values can say of them.

use crate::desk::{ACCEPTABLE, Asked, Desk, Found, REFUSED, at, read, vectors, verify};
use crate::tpm2_kit::{self as kit, Ak, Quote};
use portcullis::evidence::tpm2::Attest;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;

/// A day in November 2026, when the samples were made.
const MADE: u64 = 1_795_500_000;

/// A stored quote as a document by the key of that name; the values are split by the banks' lengths.
fn document(folder: &Path, stem: &str, ak: &str) -> Vec<u8> {
    let file = |name: String| folder.join("swtpm").join(name);
    let attest = read(file(format!("{stem}.attest")));
    let values = std::fs::read(file(format!("{stem}.pcrs"))).unwrap_or_default();
    let mut rest = values.as_slice();
    let mut split = Vec::new();
    match Attest::parse(&attest) {
        Ok(parsed) => {
            for (bank, _) in parsed.pcrs() {
                let (value, after) = rest.split_at(bank.bytes());
                split.push(value.to_vec());
                rest = after;
            }
        }
        Err(_) => split.extend(rest.chunks(20).map(<[u8]>::to_vec)),
    }
    kit::body(&attest, &read(file(format!("{stem}.sig"))), &split, &read(file(format!("{ak}.name"))), &[])
}

fn nonce(folder: &Path, stem: &str) -> String {
    String::from_utf8(read(folder.join(format!("swtpm/{stem}.nonce.hex")))).unwrap().trim().to_owned()
}

/// What the samples' README implies: firmware, boot loader, Secure Boot, a workload in PCR 16. swtpm measures nothing itself, so
/// PCRs 1 to 3 hold zeros, which has to be said.
fn reference() -> String {
    let extended = |data: &str| {
        let digest = kit::hash(kit::SHA256, &[data.as_bytes()]);
        hex::encode(kit::hash(kit::SHA256, &[&[0; 32], &digest]))
    };
    let pcrs = [(0, "fw"), (4, "bootloader"), (7, "secureboot"), (16, "workload-shared")];
    let pcrs = pcrs.map(|(pcr, data)| format!("{pcr} = [\"{}\"]\n", extended(data))).concat();
    format!(
        "[[set]]\nname = \"swtpm\"\nnot_after = 2030-01-01T00:00:00Z\n[set.tpm2]\nallow_unmeasured = [1, 2, 3]\n[set.tpm2.pcrs.sha256]\n{pcrs}"
    )
}

struct Lab {
    desk: Desk,
    folder: std::path::PathBuf,
}

impl Lab {
    fn new() -> Option<Self> {
        let (desk, folder) = (Desk::new(), vectors("tpm2")?);
        desk.put("values.toml", reference());
        Some(Lab { desk, folder })
    }

    fn asked(&self, stem: &str, ak: &str) -> Asked {
        let document = self.desk.put(stem, document(&self.folder, stem, ak));
        let asked =
            verify("tpm2", document).with("--ak", self.folder.join(format!("swtpm/{ak}.tpm2b_public")));
        asked.with("--at", at(MADE))
    }

    /// With the nonce that was due and the reference values of the samples.
    fn judged(&self, stem: &str, ak: &str, due: &str) -> Found {
        self.asked(stem, ak).with("--nonce", due).with("--reference", self.desk.path("values.toml")).run()
    }
}

#[test]
fn every_quote_of_the_software_tpm_gets_its_verdict() {
    let Some(lab) = Lab::new() else { return };
    let due = nonce(&lab.folder, "quote-ecdsa");
    for kind in ["ecdsa", "rsassa", "rsapss"] {
        let found = lab.judged(&format!("quote-{kind}"), &format!("ak-{kind}"), &due).accepted();
        assert_eq!(found.json["freshness"], "shown");
        assert!(found.claims("tpm2")["node"].is_null() && found.claims("tpm2")["ek_sha256"].is_null());
    }
    let long = nonce(&lab.folder, "quote-nonce64");
    lab.judged("quote-nonce64", "ak-ecdsa", &long).accepted();
    // 64 bytes that a TPM quotes as they are, are not the SHA-256 of a binding.
    lab.asked("quote-nonce64", "ak-ecdsa").with("--binding", &long).run().refused("EvidenceBindingMismatch");
    for (stem, denial) in [
        ("quote-after-reset", "PlatformNotAcceptable"),
        ("neg-other-nonce", "EvidenceBindingMismatch"),
        ("neg-short-nonce", "EvidenceBindingMismatch"),
        ("neg-sha1-bank", "EvidenceMalformed"),
        ("neg-subset-pcr16-only", "MeasurementMismatch"),
        ("neg-two-banks", "MeasurementMismatch"),
        ("neg-type-certify", "EvidenceMalformed"),
        ("neg-type-time", "EvidenceMalformed"),
    ] {
        lab.judged(stem, "ak-ecdsa", &due).refused(denial);
    }
    let forged = lab.judged("neg-forged-unrestricted", "forged-unrestricted", &due);
    assert_eq!(forged.refused("EndorsementUntrusted").why().1, "attestation-key-attributes");
    // Another key than the quote names.
    let document = lab.desk.path("quote-ecdsa");
    let other = verify("tpm2", document).with("--ak", lab.folder.join("swtpm/ak-rsapss.tpm2b_public"));
    other.run().refused("EndorsementUntrusted");
}

#[test]
fn without_reference_values_only_what_is_a_measured_boot_is_acceptable() {
    let Some(lab) = Lab::new() else { return };
    // swtpm's own boot is not measured; a quote of nothing or of everything is no boot either.
    for stem in ["quote-ecdsa", "quote-after-reset", "neg-subset-pcr16-only", "neg-two-banks"] {
        lab.asked(stem, "ak-ecdsa").run().refused("PlatformNotAcceptable");
    }
    let (desk, ak) = (Desk::new(), Ak::p256());
    let public = desk.put("ak.pub", ak.public());
    let sized = desk.put("ak.tpm2b", kit::sized(&ak.public()));
    let quote = desk.put("quote", Quote::of(&[5; 32]).signed(&ak));
    for key in [public, sized] {
        let found = verify("tpm2", &quote).with("--ak", key).run().accepted();
        assert_eq!(found.json["ends"], serde_json::json!([]));
        assert!(found.json["holds_until"].is_null());
        assert_eq!(found.json["notes"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn a_quote_carries_the_sha_256_of_the_binding() {
    let (desk, ak) = (Desk::new(), Ak::p384());
    let key = desk.put("ak.pub", ak.public());
    let quote = desk.put("quote", Quote::of(&kit::hash(kit::SHA256, &[&[7; 64]])).signed(&ak));
    let asked = |binding: String| verify("tpm2", &quote).with("--ak", &key).with("--binding", binding).run();
    assert_eq!(asked("07".repeat(64)).accepted().json["freshness"], "shown");
    asked("08".repeat(64)).refused("EvidenceBindingMismatch");
    asked("00".repeat(64)).refused("EvidenceBindingMismatch");
    asked("07".repeat(32)).usage("64 bytes");
}

#[test]
fn a_clock_that_is_not_safe_is_refused() {
    let (desk, ak) = (Desk::new(), Ak::p256());
    let quote = Quote { safe: 0, ..Quote::of(&[5; 32]) };
    let asked =
        verify("tpm2", desk.put("quote", quote.signed(&ak))).with("--ak", desk.put("ak.pub", ak.public()));
    asked.run().refused("EvidenceCounterBackwards");
}

#[test]
fn a_byte_flipped_or_cut_off_is_refused() {
    let (desk, ak) = (Desk::new(), Ak::p256());
    let key = desk.put("ak.pub", ak.public());
    let quote = Quote::of(&[5; 32]).signed(&ak);
    let run = |quote: &[u8]| verify("tpm2", desk.put("quote", quote)).with("--ak", &key).run();
    assert_eq!(run(&quote).code, ACCEPTABLE);
    for position in (0..quote.len()).step_by(7) {
        let mut flipped = quote.clone();
        flipped[position] ^= 1;
        assert_eq!(run(&flipped).code, REFUSED, "byte {position}");
    }
    for length in (0..quote.len()).step_by(29) {
        run(&quote[..length]).refused("EvidenceMalformed");
    }
    run(&[&quote[..], &[0]].concat()).refused("EvidenceMalformed");
}

/// The AK has no TPMT_PUBLIC among Keylime's files: the usual one of an RSA key is written around the key.
#[test]
fn keylimes_quote_verifies_and_covers_no_boot() {
    let Some(folder) = vectors("tpm2") else { return };
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(&read(folder.join("real/keylime-akpub.pem"))).unwrap();
    let mut public = hex::decode("0001000b00050072000000100014000b0800000000000100").unwrap();
    public.extend_from_slice(&spki.as_ref()[33..33 + 256]);
    let name = [&[0, 0x0b][..], &kit::hash(kit::SHA256, &[&public])].concat();
    let attest = read(folder.join("real/keylime-quote.out"));
    // tpm2_quote's own file of PCRs: after selection and counts each digest in 66 bytes, its length first.
    let file = read(folder.join("real/keylime-quotepcr.out"));
    let lists = &file[4 + 16 * 8 + 4 + 4..];
    let values: Vec<Vec<u8>> = (0..3).map(|at| lists[at * 66 + 2..at * 66 + 34].to_vec()).collect();
    let body = kit::body(&attest, &read(folder.join("real/keylime-quotesig.out")), &values, &name, &[]);
    let desk = Desk::new();
    let asked = || verify("tpm2", desk.put("quote", &body)).with("--ak", desk.put("ak.pub", &public));
    let nonce = "db1db298db6d60e6385b7231743e9c3056a18003";
    let found = asked().with("--nonce", nonce).run().refused("PlatformNotAcceptable");
    assert!(found.passed().contains(&"tpm2 signature".to_owned()));
    assert!(found.passed().contains(&"tpm2 binding".to_owned()));
    asked().with("--nonce", &nonce[2..]).run().refused("EvidenceBindingMismatch");
}
