//! The shared vectors of the format: every quote has its README's verdict, every claim and the exact denial.

use super::enroll::{Manufacturers, Revocation};
use super::tests::{at, none_seen, soft};
use super::*;
use crate::appraisal::tpm2_reference::Tpm2Reference;
use crate::denial::Denial;
use crate::evidence::outcome::Checks;
use crate::time::WallTime;
use std::path::PathBuf;

/// A day in November 2026, when the swtpm samples were made.
const MADE: u64 = 1_795_500_000;

/// The folder of vectors; said loudly where it is not there, and a failure where it must be.
fn folder() -> Option<PathBuf> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/tpm2");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is not there", folder.display());
    eprintln!("SKIPPED: {} is not there", folder.display());
    None
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().unwrap().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn hex_of(name: &str) -> Vec<u8> {
    hex::decode(std::str::from_utf8(&read(name)).unwrap().trim()).unwrap()
}

fn enrolled(stem: &str) -> EnrolledAk {
    let public = PublicArea::parse_sized(&read(&format!("swtpm/{stem}.tpm2b_public"))).unwrap();
    let ek = PublicArea::parse_sized(&read("swtpm/ek-rsa2048.tpm2b_public")).unwrap();
    EnrolledAk {
        node: "node-1.example".to_owned(),
        key: AttestationKey::new(public).unwrap(),
        ek_sha256: EndorsementKey::new(ek).unwrap().sha256(),
        counters: Counters { reset: 2, restart: 0 },
        enrolled_at: WallTime(0),
        not_after: WallTime((MADE + 86_400) * 1000),
    }
}

/// All three keys of the swtpm samples.
fn trust() -> Tpm2Trust {
    Tpm2Trust::new(["ak-ecdsa", "ak-rsassa", "ak-rsapss"].map(enrolled), 1)
}

/// A stored quote as a document by the key of that name; the values are split by the banks' lengths.
fn document(stem: &str, ak: &str) -> Vec<u8> {
    let attest = read(&format!("swtpm/{stem}.attest"));
    let values = std::fs::read(folder().unwrap().join(format!("swtpm/{stem}.pcrs"))).unwrap_or_default();
    let mut rest = values.as_slice();
    let mut split = Vec::new();
    match Attest::parse(&attest) {
        Ok(parsed) => {
            for (bank, _) in parsed.pcrs() {
                let (value, after) = rest.split_at(bank.bytes());
                split.push(value.to_vec());
                rest = after;
            }
            assert!(rest.is_empty());
        }
        Err(_) => split.extend(rest.chunks(20).map(<[u8]>::to_vec)),
    }
    let name = read(&format!("swtpm/{ak}.name"));
    soft::body(&attest, &read(&format!("swtpm/{stem}.sig")), &split, &name, &[])
}

/// The verdict on a stored quote, with the nonce that was due.
fn verdict(stem: &str, ak: &str, due: &[u8]) -> Result<Examination, Refusal> {
    let mut checks = Checks::new();
    let body = document(stem, ak);
    examine(&body, Some(Due::ExtraData(due)), &trust(), &none_seen, at(MADE), &mut checks)
}

fn denial(stem: &str, ak: &str, due: &[u8]) -> (Denial, String) {
    let refusal = verdict(stem, ak, due).unwrap_err();
    (refusal.denial, refusal.detail)
}

#[test]
fn good_quotes_of_every_scheme_verify() {
    let Some(_) = folder() else { return };
    for (stem, ak, algorithm) in [
        ("quote-ecdsa", "ak-ecdsa", "ecdsa-p256-sha256"),
        ("quote-rsassa", "ak-rsassa", "rsassa-2048-sha256"),
        ("quote-rsapss", "ak-rsapss", "rsapss-2048-sha256"),
        ("quote-nonce64", "ak-ecdsa", "ecdsa-p256-sha256"),
    ] {
        let nonce = hex_of(&format!("swtpm/{stem}.nonce.hex"));
        let Examination { claims, ends, counters } = verdict(stem, ak, &nonce).unwrap();
        assert_eq!(claims.ak_algorithm, algorithm, "{stem}");
        assert_eq!(claims.ak_name, hex::encode(read(&format!("swtpm/{ak}.name"))), "{stem}");
        assert_eq!(counters, Counters { reset: 2, restart: 0 }, "{stem}");
        assert_eq!((claims.reset_count, claims.restart_count), (2, 0), "{stem}");
        // tpm2_print shows its bytes the other way about.
        assert_eq!(claims.firmware_version, "2019102300163636", "{stem}");
        let quoted: Vec<u8> = claims.pcrs[&Hash::Sha256].keys().map(|pcr| pcr.get()).collect();
        assert_eq!(quoted, [0, 1, 2, 3, 4, 7, 16], "{stem}");
        let firmware = Hash::Sha256.digest(&[b"fw"]);
        let expected = Hash::Sha256.digest(&[&[0; 32], &firmware]);
        let pcr_0 = &claims.pcrs[&Hash::Sha256][&PcrIndex::new(0).unwrap()];
        assert_eq!(pcr_0.as_bytes(), expected, "{stem}");
        assert_eq!(ends.first(), ("enrolment of the attestation key", WallTime((MADE + 86_400) * 1000)));
    }
}

#[test]
fn bad_quotes_are_refused_by_name() {
    let Some(_) = folder() else { return };
    let nonce = hex_of("swtpm/quote-ecdsa.nonce.hex");
    let binding = "extraData is not what the binding that is due demands";
    for (stem, denied, detail) in [
        ("neg-other-nonce", Denial::EvidenceBindingMismatch, binding),
        ("neg-short-nonce", Denial::EvidenceBindingMismatch, binding),
        ("neg-sha1-bank", Denial::EvidenceMalformed, "a PCR bank is not of SHA-256, SHA-384 or SHA-512"),
        ("neg-type-certify", Denial::EvidenceMalformed, "the type is not TPM_ST_ATTEST_QUOTE"),
        ("neg-type-time", Denial::EvidenceMalformed, "the type is not TPM_ST_ATTEST_QUOTE"),
        (
            "neg-forged-unrestricted",
            Denial::EvidenceSignatureInvalid,
            "the signature is not of the attestation key",
        ),
    ] {
        let (found, said) = self::denial(stem, "ak-ecdsa", &nonce);
        assert_eq!(found, denied, "{stem}: {said}");
        assert!(said.contains(detail), "{stem}: {said}");
    }
}

#[test]
fn the_unrestricted_key_is_no_attestation_key_and_not_enrolled() {
    let Some(_) = folder() else { return };
    let public = PublicArea::parse_sized(&read("swtpm/forged-unrestricted.tpm2b_public")).unwrap();
    assert_eq!(hex::encode(public.name().as_bytes()), hex::encode(read("swtpm/forged-unrestricted.name")));
    assert!(matches!(AttestationKey::new(public), Err(KeyError::Attributes(_))));
    let nonce = hex_of("swtpm/quote-ecdsa.nonce.hex");
    let (found, _) = denial("neg-forged-unrestricted", "forged-unrestricted", &nonce);
    assert_eq!(found, Denial::EndorsementUntrusted);
}

#[test]
fn what_appraisal_refuses_verifies_with_its_own_claims() {
    let Some(_) = folder() else { return };
    let nonce = hex_of("swtpm/quote-ecdsa.nonce.hex");
    let banks = |stem: &str| -> Vec<(Hash, Vec<u8>)> {
        let claims = verdict(stem, "ak-ecdsa", &nonce).unwrap().claims;
        let bank = |(bank, pcrs): (&Hash, &std::collections::BTreeMap<PcrIndex, PcrValue>)| {
            (*bank, pcrs.keys().map(|pcr| pcr.get()).collect())
        };
        claims.pcrs.iter().map(bank).collect()
    };
    assert_eq!(banks("neg-subset-pcr16-only"), [(Hash::Sha256, vec![16])]);
    assert_eq!(banks("neg-two-banks"), [(Hash::Sha256, vec![0, 4, 7]), (Hash::Sha384, vec![7])]);
    let after_reset = verdict("quote-after-reset", "ak-ecdsa", &nonce).unwrap();
    assert_eq!(after_reset.counters, Counters { reset: 3, restart: 0 });
    assert!(after_reset.claims.pcrs[&Hash::Sha256].values().all(PcrValue::is_reset));
}

/// The reference that the samples' own README implies: firmware, boot loader, Secure Boot and a workload in PCR 16; swtpm itself
/// measures nothing, so PCRs 1 to 3 hold zeros, which has to be said.
fn reference() -> Tpm2Reference {
    let extended = |data: &[u8]| {
        let digest = Hash::Sha256.digest(&[&[0; 32], &Hash::Sha256.digest(&[data])]);
        [PcrValue::new(&digest).unwrap()].into()
    };
    let of = |pcr, data| (PcrIndex::new(pcr).unwrap(), extended(data));
    let pcrs = [of(0, b"fw"), of(4, b"bootloader"), of(7, b"secureboot"), of(16, b"workload-shared")];
    let reference = Tpm2Reference {
        pcrs: [(Hash::Sha256, pcrs.into())].into(),
        allow_unmeasured: [1, 2, 3].map(|pcr| PcrIndex::new(pcr).unwrap()).into(),
        ..Tpm2Reference::default()
    };
    assert_eq!(reference.check_shape(), Ok(()));
    reference
}

#[test]
fn appraisal_accepts_the_good_quotes_and_none_of_the_others() {
    let Some(_) = folder() else { return };
    let nonce = hex_of("swtpm/quote-ecdsa.nonce.hex");
    let outcome = |stem: &str, ak: &str| {
        let claims = verdict(stem, ak, &nonce).unwrap().claims;
        reference().acceptable(&claims).map(|()| reference().differences(&claims)).map_err(|r| r.denial)
    };
    for kind in ["ecdsa", "rsassa", "rsapss"] {
        assert_eq!(outcome(&format!("quote-{kind}"), &format!("ak-{kind}")), Ok(Vec::new()));
    }
    let no_pcrs = ["no sha256 PCR 0", "no sha256 PCR 4", "no sha256 PCR 7"].map(str::to_owned);
    assert_eq!(outcome("neg-subset-pcr16-only", "ak-ecdsa"), Ok(no_pcrs.to_vec()));
    let two_banks = ["bank sha384 is quoted too", "no sha256 PCR 16"].map(str::to_owned);
    assert_eq!(outcome("neg-two-banks", "ak-ecdsa"), Ok(two_banks.to_vec()));
    assert_eq!(outcome("quote-after-reset", "ak-ecdsa"), Err(Denial::PlatformNotAcceptable));
    // The same without the allowance: the swtpm's own boot is not measured.
    let strict = Tpm2Reference { allow_unmeasured: [].into(), ..reference() };
    let claims = verdict("quote-ecdsa", "ak-ecdsa", &nonce).unwrap().claims;
    assert_eq!(strict.acceptable(&claims).unwrap_err().denial, Denial::PlatformNotAcceptable);
}

#[test]
fn after_the_reset_was_seen_the_quotes_before_it_are_refused() {
    let Some(_) = folder() else { return };
    let nonce = hex_of("swtpm/quote-ecdsa.nonce.hex");
    let body = document("quote-ecdsa", "ak-ecdsa");
    let seen = |_: &AkName| Some(Counters { reset: 3, restart: 0 });
    let refusal = examine(&body, Some(Due::ExtraData(&nonce)), &trust(), &seen, at(MADE), &mut Checks::new())
        .unwrap_err();
    assert_eq!(refusal.denial, Denial::EvidenceCounterBackwards);
}

#[test]
fn names_of_keys_come_out_as_the_tpm_says() {
    let Some(_) = folder() else { return };
    for stem in ["ak-ecdsa", "ak-rsassa", "ak-rsapss", "ek-rsa2048"] {
        let public = PublicArea::parse_sized(&read(&format!("swtpm/{stem}.tpm2b_public"))).unwrap();
        assert_eq!(public.name().as_bytes(), read(&format!("swtpm/{stem}.name")), "{stem}");
        let pem = read(&format!("swtpm/{stem}.pub.pem"));
        use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(&pem).unwrap();
        assert_eq!(public.key.spki(), spki.as_ref(), "{stem}");
    }
}

/// The AK has no TPMT_PUBLIC among Keylime's files: the usual one of an RSA key is written around the key.
#[test]
fn keylimes_quote_verifies_under_its_key() {
    let Some(_) = folder() else { return };
    use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(&read("real/keylime-akpub.pem")).unwrap();
    let modulus = &spki.as_ref()[33..33 + 256];
    let mut public = hex::decode("0001000b00050072000000100014000b0800000000000100").unwrap();
    public.extend_from_slice(modulus);
    let key = AttestationKey::parse(&public).unwrap();
    assert_eq!(key.public().key.spki(), spki.as_ref());
    let attest = read("real/keylime-quote.out");
    // TPMS_ATTEST of 16-bit selections: PCRs 15, 16 and 22, whose values stand in tpm2_quote's own file of PCRs.
    let quoted = Attest::parse(&attest).unwrap();
    assert_eq!(hex::encode(quoted.extra_data), "db1db298db6d60e6385b7231743e9c3056a18003");
    assert_eq!(quoted.pcrs().map(|(_, pcr)| pcr).collect::<Vec<_>>(), [15, 16, 22]);
    let values = values_in(&read("real/keylime-quotepcr.out"), 3);
    let name = key.name();
    let body = soft::body(&attest, &read("real/keylime-quotesig.out"), &values, name.as_bytes(), &[]);
    let ak = EnrolledAk {
        node: "keylime".to_owned(),
        key,
        ek_sha256: [1; 32],
        counters: Counters::default(),
        enrolled_at: WallTime(0),
        not_after: WallTime((MADE + 1) * 1000),
    };
    let trust = Tpm2Trust::new([ak], 1);
    let nonce = quoted.extra_data;
    let verdict =
        |due| examine(&body, Some(Due::ExtraData(due)), &trust, &none_seen, at(MADE), &mut Checks::new());
    assert!(verdict(nonce).is_ok(), "{:?}", verdict(nonce));
    assert_eq!(verdict(&nonce[..19]).unwrap_err().denial, Denial::EvidenceBindingMismatch);
}

/// tpm2_quote's own file: little-endian TPML_PCR_SELECTION (16 × 8 bytes), a count of lists, each a count and eight TPM2B_DIGEST
/// of 64 bytes.
fn values_in(file: &[u8], count: usize) -> Vec<Vec<u8>> {
    let lists = &file[4 + 16 * 8 + 4..];
    let first = usize::try_from(u32::from_le_bytes(lists[..4].try_into().unwrap())).unwrap();
    assert_eq!(first, count);
    let digest = |at: usize| {
        let digest = &lists[4 + at * 66..];
        let length = usize::from(u16::from_le_bytes(digest[..2].try_into().unwrap()));
        digest[2..2 + length].to_vec()
    };
    (0..count).map(digest).collect()
}

#[test]
fn kdfa_comes_out_as_published() {
    let Some(_) = folder() else { return };
    let cases: serde_json::Value = serde_json::from_slice(&read("vectors/kdfa.json")).unwrap();
    let mut compared = 0;
    for case in cases.as_array().unwrap() {
        let bytes = |name: &str| hex::decode(case[name].as_str().unwrap()).unwrap();
        let Some(hash) = Hash::from_id(case["HashAlg"].as_u64().unwrap().try_into().unwrap()) else {
            continue;
        };
        let bits = case["Bits"].as_u64().unwrap().try_into().unwrap();
        let label = case["Label"].as_str().unwrap();
        let made =
            credential::kdf_a(hash, &bytes("Key"), label, &bytes("ContextU"), &bytes("ContextV"), bits);
        assert_eq!(hex::encode(&*made), case["Result"].as_str().unwrap(), "{}", case["Name"]);
        compared += 1;
    }
    assert!(compared >= 20, "{compared} cases");
}

#[test]
fn credentials_of_tpm2_tools_have_the_form_of_ours() {
    let Some(_) = folder() else { return };
    let ek = PublicArea::parse_sized(&read("swtpm/ek-rsa2048.tpm2b_public")).unwrap();
    let ek = EndorsementKey::new(ek).unwrap();
    for stem in ["ecdsa", "rsassa"] {
        let blob = read(&format!("swtpm/cred-{stem}.blob"));
        let theirs = blob.strip_prefix(&[0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1]).unwrap();
        let secret = read(&format!("swtpm/cred-{stem}.secret"));
        assert_eq!(secret, read(&format!("swtpm/cred-{stem}.certinfo")));
        let name = AkName::parse(&read(&format!("swtpm/ak-{stem}.name"))).unwrap();
        let ours = credential::make(&ek, &name, &secret).unwrap();
        let (id_object, encrypted) = theirs.split_at(ours.id_object.len());
        assert_eq!(id_object[..4], ours.id_object[..4]);
        assert_eq!(encrypted.len(), ours.encrypted_secret.len());
        assert_eq!(encrypted[..2], ours.encrypted_secret[..2]);
    }
}

fn swtpm_manufacturer() -> Manufacturers {
    Manufacturers::none()
        .and_roots(&read("swtpm/swtpm-localca-root.pem"), Revocation::NotPublished)
        .unwrap()
        .and_intermediates(&read("swtpm/swtpm-localca-issuer.pem"))
        .unwrap()
}

#[test]
fn endorsement_certificates_of_swtpm_lead_to_their_root_and_to_no_other() {
    let Some(_) = folder() else { return };
    let ek = PublicArea::parse_sized(&read("swtpm/ek-rsa2048.tpm2b_public")).unwrap();
    let rsa = read("swtpm/ek-rsa2048.cert.der");
    let checked = swtpm_manufacturer().check(&rsa, &[], at(MADE)).unwrap();
    assert_eq!(checked.key, ek.key);
    assert_eq!((checked.manufacturer.as_str(), checked.model.as_str()), ("id:00001014", "swtpm"));
    assert_eq!(checked.version, "id:20191023");
    let p384 = swtpm_manufacturer().check(&read("swtpm/ek-ecc384.cert.der"), &[], at(MADE)).unwrap();
    assert!(matches!(p384.key, PublicKey::Ec(Curve::P384, _)));
    for padding in [vec![0; 3087], vec![0xff; 100]] {
        let padded = [rsa.clone(), padding].concat();
        assert_eq!(swtpm_manufacturer().check(&padded, &[], at(MADE)), Ok(checked.clone()));
    }
    let refused = |manufacturers: Manufacturers, certificate: &[u8], seconds| {
        manufacturers.check(certificate, &[], at(seconds)).unwrap_err().denial
    };
    let google = || {
        let root = read("real/gcp_ek_ak_ca_root.crt");
        Manufacturers::none().and_roots(&root, Revocation::NotPublished).unwrap()
    };
    assert_eq!(refused(google(), &rsa, MADE), Denial::EndorsementUntrusted);
    assert_eq!(refused(Manufacturers::none(), &rsa, MADE), Denial::EndorsementUntrusted);
    assert_eq!(refused(swtpm_manufacturer(), &rsa, MADE - 86_400 * 30), Denial::EndorsementNotYetValid);
    let followed = [rsa.clone(), vec![0, 1]].concat();
    assert_eq!(refused(swtpm_manufacturer(), &followed, MADE), Denial::EvidenceMalformed);
}

#[test]
fn a_root_that_demands_lists_refuses_without_one() {
    let Some(_) = folder() else { return };
    let demanding = Manufacturers::none()
        .and_roots(&read("swtpm/swtpm-localca-root.pem"), Revocation::Demanded)
        .unwrap()
        .and_intermediates(&read("swtpm/swtpm-localca-issuer.pem"))
        .unwrap();
    let refusal = demanding.check(&read("swtpm/ek-rsa2048.cert.der"), &[], at(MADE)).unwrap_err();
    assert_eq!(refusal.denial, Denial::CollateralUnavailable);
}

#[test]
fn googles_intermediate_is_no_endorsement_key() {
    let Some(_) = folder() else { return };
    let root = read("real/gcp_ek_ak_ca_root.crt");
    let google = Manufacturers::none().and_roots(&root, Revocation::NotPublished).unwrap();
    let refusal = google.check(&read("real/gcp_ek_ak_ca_intermediate_v3.crt"), &[], at(MADE)).unwrap_err();
    assert_eq!(refusal.denial, Denial::EndorsementUntrusted);
}

/// What Azure's virtual TPMs sign is outside this format (the key comes out of a hardware report), but it is a TPM's quote.
#[test]
fn quotes_of_azures_virtual_tpms_verify_under_the_key_of_their_report() {
    let Some(folder) = folder() else { return };
    for (name, quote, report) in [
        ("snp-milan-nonce-challenge.json", "/tpm_quote", "/hcl_report"),
        ("snp-genoa-nonce48.json", "/quote", "/report"),
        ("tdx-1764662251.json", "/tpm_attestation/quote", "/hcl_report_base64"),
    ] {
        let text = std::fs::read(folder.join("../azure-vtpm").join(name)).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let quote = file.pointer(quote).unwrap();
        let attest = flexible(&quote["message"]);
        let signature = [&[0, 0x14, 0, 0x0b][..], &soft::sized(&flexible(&quote["signature"]))].concat();
        let all: Vec<Vec<u8>> = quote["pcrs"].as_array().unwrap().iter().map(flexible).collect();
        let key = key_of_report(&flexible(file.pointer(report).unwrap()));
        let parsed = Attest::parse(&attest).unwrap();
        let values: Vec<Vec<u8>> = parsed.pcrs().map(|(_, pcr)| all[usize::from(pcr)].clone()).collect();
        let body = soft::body(&attest, &signature, &values, key.name().as_bytes(), &[]);
        let ak = EnrolledAk {
            node: "azure".to_owned(),
            key,
            ek_sha256: [1; 32],
            counters: Counters::default(),
            enrolled_at: WallTime(0),
            not_after: WallTime((MADE + 1) * 1000),
        };
        let mut checks = Checks::new();
        let verdict = examine(&body, None, &Tpm2Trust::new([ak], 1), &none_seen, at(MADE), &mut checks);
        assert!(verdict.is_ok(), "{name}: {verdict:?}");
        assert!(!checks.all().iter().any(|check| check.name == "binding"));
    }
}

/// Bytes as a list of numbers, hex or base64 of either alphabet.
fn flexible(value: &serde_json::Value) -> Vec<u8> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    if let Some(list) = value.as_array() {
        return list.iter().map(|byte| byte.as_u64().unwrap().try_into().unwrap()).collect();
    }
    let text = value.as_str().unwrap();
    let standard = || STANDARD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')));
    hex::decode(text).ok().unwrap_or_else(|| standard().unwrap())
}

/// HCLAkPub, a JWK in the runtime data of an HCL report.
fn key_of_report(report: &[u8]) -> AttestationKey {
    use base64::Engine;
    let from = 0x4c0 + 20;
    let text = &report[from..];
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let runtime: serde_json::Value = serde_json::from_slice(&text[..end]).unwrap();
    let keys = runtime["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["kid"] == "HCLAkPub").unwrap();
    let decode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
    let mut public = hex::decode("0001000b00050072000000100014000b0800000000000100").unwrap();
    public.extend(decode(key["n"].as_str().unwrap()));
    AttestationKey::parse(&public).unwrap()
}
