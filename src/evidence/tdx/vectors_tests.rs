//! Real quotes and real collateral: the verdicts and claims that the vectors' own README states, at their own times.

use super::*;
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Refusal};
use crate::limits;
use crate::time::{BootTime, Now, WallTime};
use serde_json::Value;
use std::path::PathBuf;

/// The vectors that belong to others; absent ones are said loudly, and fail a run under CI.
#[expect(clippy::disallowed_methods, reason = "CI=true is how a test run says that nothing may be skipped")]
fn folder() -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors/tdx-sgx"));
    if folder.is_dir() {
        return Some(folder);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the TDX vectors are absent");
    eprintln!("NOT RUN: the TDX vectors are absent from {}", folder.display());
    None
}

fn at(seconds: u64) -> Now {
    Now { wall: WallTime(seconds * 1000), boot: BootTime(0) }
}

struct Vector {
    name: &'static str,
    quote: Vec<u8>,
    collateral: Vec<u8>,
    /// The time that the README verified it at.
    at: u64,
    readme: String,
}

fn vector(name: &'static str, at: u64) -> Option<Vector> {
    let folder = folder()?;
    let read = |suffix: &str| std::fs::read(folder.join(format!("{name}.{suffix}"))).unwrap();
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    Some(Vector { name, quote: read("quote.bin"), collateral: read("collateral.json"), at, readme })
}

const ACCEPTED: [(&str, u64); 3] = [
    ("tdx-v4", 1_750_332_000),
    ("tdx-v4-trailing-padding", 1_769_509_141),
    ("tdx-azure-1764662251", 1_771_423_480),
];
const TOO_OLD: (&str, u64) = ("tdx-v5-tcb-too-old", 1_771_414_156);
const SGX: (&str, u64) = ("sgx-v3", 1_750_332_000);

/// The README's words on one file.
fn section<'a>(readme: &'a str, file: &str) -> &'a str {
    let (_, rest) = readme.split_once(&format!("### {file}\n")).unwrap_or_else(|| panic!("{file}"));
    rest.split("\n### ").next().unwrap()
}

/// `key value` pairs of a file's claims.
fn claims_of(readme: &str, file: &str) -> Vec<(String, String)> {
    let lines = section(readme, file).lines().filter_map(|line| line.strip_prefix("  - "));
    let mut pairs = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        for pair in words.chunks_exact(2) {
            pairs.push((pair[0].to_owned(), pair[1].to_lowercase()));
        }
    }
    pairs
}

/// `[from, to)` in seconds, and what ends then, of a collateral's validity.
fn window(readme: &str, file: &str) -> (u64, u64, String) {
    let text = section(readme, file);
    let (_, rest) = text.split_once("valid: now in [").unwrap();
    let (numbers, words) = rest.split_once(')').unwrap();
    let (from, to) = numbers.split_once(", ").unwrap();
    let what = words.split_once(" .. ").unwrap().1.split_once('(').unwrap().1.split_once('.').unwrap().0;
    (from.parse().unwrap(), to.parse().unwrap(), what.to_owned())
}

impl Vector {
    fn due(&self) -> [u8; 64] {
        *parse(&self.quote).unwrap().carried_binding()
    }

    fn run(&self, quote: &[u8], collateral: &[&[u8]], now: Now) -> (Result<TdxClaims, Refusal>, Checks) {
        let mut checks = Checks::new();
        let due = self.due();
        let verified = verify(quote, collateral, &due, &TdxTrust::intel(), now, &mut checks);
        (verified.map(|verified| verified.claims().clone()), checks)
    }

    fn denial(&self, quote: &[u8], collateral: &[u8]) -> (Denial, &'static str) {
        let (outcome, checks) = self.run(quote, &[collateral], at(self.at));
        let refusal = outcome.unwrap_err();
        (refusal.denial, checks.all().last().unwrap().name)
    }
}

fn check_claims(claims: &Value, vector: &Vector) {
    let mut compared = 0;
    for file in ["quote.bin", "collateral.json"] {
        for (key, value) in claims_of(&vector.readme, &format!("{}.{file}", vector.name)) {
            let claim = match key.as_str() {
                "v3" | "v4" | "v5" => {
                    (claims["quote_version"].clone(), key.trim_start_matches('v').to_owned())
                }
                "FMSPC" => (claims["platform"]["fmspc"].clone(), value),
                "isvprodid" => (claims["isv_prod_id"].clone(), value),
                "isvsvn" => (claims["isv_svn"].clone(), value),
                key => (claims[key].clone(), value),
            };
            let text = claim.0.as_str().map_or_else(|| claim.0.to_string(), str::to_owned);
            assert_eq!(text, claim.1, "{} {key}", vector.name);
            compared += 1;
        }
    }
    assert!(compared >= 6, "{}: {compared} claims", vector.name);
}

#[test]
fn real_quotes_verify_at_their_own_time_with_the_claims_of_the_readme() {
    for (name, at_seconds) in ACCEPTED {
        let Some(vector) = vector(name, at_seconds) else { return };
        let (outcome, checks) = vector.run(&vector.quote, &[&vector.collateral], at(at_seconds));
        let claims = outcome.unwrap_or_else(|refusal| panic!("{name}: {refusal:?} {checks:?}"));
        assert_eq!(claims.tcb.status, TcbStatus::UpToDate, "{name}");
        check_claims(&serde_json::to_value(&claims).unwrap(), &vector);
        assert_eq!(claims.platform.pck_ca, "platform");
        assert!(!claims.attributes.debug && claims.attributes.sept_ve_disable);
        let text = serde_json::to_string(&claims).unwrap();
        assert_eq!(serde_json::from_str::<TdxClaims>(&text).unwrap(), claims);
        let all = checks.all();
        assert_eq!((all[0].name, all.last().unwrap().name), ("structure", "second-reading"));
        assert_eq!(all.len(), 24);
    }
}

#[test]
fn a_real_platform_below_every_tcb_level_is_not_acceptable() {
    let Some(vector) = vector(TOO_OLD.0, TOO_OLD.1) else { return };
    assert_eq!(
        vector.denial(&vector.quote, &vector.collateral),
        (Denial::PlatformNotAcceptable, "tcb-level")
    );
    let quote = parse(&vector.quote).unwrap();
    let Report::Td(report) = quote.report else { panic!() };
    let pairs = claims_of(&vector.readme, "tdx-v5-tcb-too-old.quote.bin");
    let claim = |key: &str| pairs.iter().find(|(found, _)| found == key).unwrap().1.clone();
    assert_eq!(hex::encode(report.mrtd), claim("mrtd"));
    assert_eq!(hex::encode(report.mrseam), claim("mrseam"));
    assert_eq!(hex::encode(report.report_data), claim("report_data"));
    assert_eq!(quote.version, 5);
    assert!(report.v15.is_some());
}

#[test]
fn a_real_sgx_quote_verifies_with_the_status_that_is_for_policy_to_refuse() {
    let Some(vector) = vector(SGX.0, SGX.1) else { return };
    let mut checks = Checks::new();
    let endorsements = [vector.collateral.as_slice()];
    let due = vector.due();
    let now = at(vector.at);
    let verified =
        verify_sgx(&vector.quote, &endorsements, &due, &TdxTrust::intel(), now, &mut checks).unwrap();
    let claims = verified.claims();
    assert_eq!(claims.tcb.status, TcbStatus::ConfigurationAndSWHardeningNeeded);
    let advisories = claims.tcb.advisory_ids.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(advisories, ["INTEL-SA-00289", "INTEL-SA-00615"]);
    assert!(!claims.debug);
    check_claims(&serde_json::to_value(claims).unwrap(), &vector);
    // An SGX quote is no `tdx` document, and the other way about.
    assert_eq!(vector.denial(&vector.quote, &vector.collateral), (Denial::EvidenceMalformed, "structure"));
}

#[test]
fn a_real_debug_enclave_shows_it_and_is_undecided_without_collateral() {
    let Some(folder) = folder() else { return };
    let quote = std::fs::read(folder.join("sgx-v3-DEBUG.quote.bin")).unwrap();
    let parsed = parse(&quote).unwrap();
    let Report::Enclave(report) = parsed.report else { panic!() };
    assert_eq!(report.attributes[0] & 2, 2);
    let (mut checks, none) = (Checks::new(), [[0_u8; 0]; 0]);
    let due = *parsed.carried_binding();
    let refusal =
        verify_sgx(&quote, &none, &due, &TdxTrust::intel(), at(1_700_000_000), &mut checks).unwrap_err();
    assert_eq!(refusal.denial, Denial::CollateralUnavailable);
    assert_eq!(
        platform(&parsed).unwrap().questions()[0].path().split('=').next().unwrap(),
        "/sgx/certification/v4/tcb?fmspc"
    );
}

#[test]
fn collateral_holds_in_its_own_window_and_nowhere_else() {
    for (name, at_seconds) in ACCEPTED {
        let Some(vector) = vector(name, at_seconds) else { return };
        let (from, to, what) = window(&vector.readme, &format!("{name}.collateral.json"));
        let denial = |now| vector.run(&vector.quote, &[&vector.collateral], now).0.err().map(|r| r.denial);
        let allowance = limits::NOT_YET_ALLOWANCE_SECONDS;
        assert_eq!(denial(at(from - allowance - 1)), Some(Denial::EndorsementNotYetValid), "{name}");
        let earliest = vector.run(&vector.quote, &[&vector.collateral], at(from - allowance));
        assert!(earliest.0.is_ok(), "{name}: {earliest:?}");
        assert_eq!(denial(at(from)), None, "{name}");
        let last = Now { wall: WallTime(to * 1000 - 1), boot: BootTime(0) };
        assert_eq!(denial(last), None, "{name}");
        assert_eq!(denial(at(to)), Some(Denial::CollateralStale), "{name}");
        // 2026-11-24, when this was written, and far later, when everything has ended.
        assert_eq!(denial(at(1_795_500_000)), Some(Denial::CollateralStale), "{name}");
        assert_eq!(denial(at(3_000_000_000)), Some(Denial::CollateralStale), "{name}");
        let mut checks = Checks::new();
        let endorsements = [&vector.collateral];
        let due = vector.due();
        let trust = TdxTrust::intel();
        let verified = verify(&vector.quote, &endorsements, &due, &trust, at(from), &mut checks).unwrap();
        let (first, end) = verified.ends().first();
        assert_eq!(end, WallTime(to * 1000), "{name}");
        assert_eq!(first.to_lowercase().replace(' ', "_"), what, "{name}");
    }
}

#[test]
fn collateral_of_another_platform_or_kind_is_refused() {
    let load = |(name, at)| vector(name, at);
    let Some(all) = ACCEPTED.into_iter().chain([TOO_OLD, SGX]).map(load).collect::<Option<Vec<_>>>() else {
        return;
    };
    let [v4, padded, azure, old, sgx] = all.try_into().unwrap_or_else(|_| panic!());
    for (quote, other) in [(&v4, &sgx), (&azure, &padded), (&padded, &azure), (&padded, &old)] {
        let now = at(other.at);
        let (outcome, checks) = quote.run(&quote.quote, &[&other.collateral], now);
        let refusal = outcome.unwrap_err();
        assert_eq!(refusal.denial, Denial::EndorsementUntrusted, "{} {} {refusal:?}", quote.name, other.name);
        assert_eq!(checks.all().last().unwrap().name, "tcb-info");
    }
    let mut checks = Checks::new();
    let endorsements = [&v4.collateral];
    let trust = TdxTrust::intel();
    let refusal =
        verify_sgx(&sgx.quote, &endorsements, &sgx.due(), &trust, at(sgx.at), &mut checks).unwrap_err();
    assert_eq!(refusal.denial, Denial::EndorsementUntrusted);
}

fn edited(collateral: &[u8], edit: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(collateral).unwrap();
    edit(value.as_object_mut().unwrap());
    serde_json::to_vec(&value).unwrap()
}

fn replaced(collateral: &[u8], name: &str, from: &str, to: &str) -> Vec<u8> {
    edited(collateral, |parts| {
        let text = parts[name].as_str().unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        parts[name] = text.replacen(from, to, 1).into();
    })
}

#[test]
fn what_dcap_qvl_is_known_to_have_let_pass_is_refused() {
    use Denial::*;
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    let good = &vector.collateral;
    let zeros = "00".repeat(64);
    let set = |name: &'static str, text: &str| edited(good, |parts| parts[name] = text.into());
    let taken = |from: &'static str, to: &'static str| edited(good, |parts| parts[to] = parts[from].clone());
    let without = |name: &'static str| edited(good, |parts| drop(parts.remove(name)));
    let cases: Vec<(&str, Vec<u8>, (Denial, &str))> = vec![
        (
            "edit of TCB info",
            replaced(good, "tcb_info", "UpToDate", "upToDate"),
            (EndorsementUntrusted, "tcb-info-signature"),
        ),
        (
            "status made better",
            replaced(good, "tcb_info", "OutOfDate", "UpToDate"),
            (EndorsementUntrusted, "tcb-info-signature"),
        ),
        (
            "space in TCB info",
            replaced(good, "tcb_info", "\",\"", "\", \""),
            (EndorsementUntrusted, "tcb-info-signature"),
        ),
        (
            "QE identity edited",
            replaced(good, "qe_identity", "\"isvprodid\":2", "\"isvprodid\":3"),
            (EndorsementUntrusted, "qe-identity-signature"),
        ),
        (
            "QE identity unsigned",
            set("qe_identity_signature", &zeros),
            (EndorsementUntrusted, "qe-identity-signature"),
        ),
        (
            "TCB info unsigned",
            set("tcb_info_signature", &zeros),
            (EndorsementUntrusted, "tcb-info-signature"),
        ),
        (
            "TCB info's signature for the QE identity",
            taken("tcb_info_signature", "qe_identity_signature"),
            (EndorsementUntrusted, "qe-identity-signature"),
        ),
        (
            "TCB info signed by the PCK CA's chain",
            taken("pck_crl_issuer_chain", "tcb_info_issuer_chain"),
            (EndorsementUntrusted, "tcb-info-signature"),
        ),
        ("root's list for the PCK CA's", taken("root_ca_crl", "pck_crl"), (CollateralUnavailable, "pck-crl")),
        (
            "PCK CA's list for the root's",
            taken("pck_crl", "root_ca_crl"),
            (CollateralUnavailable, "root-ca-crl"),
        ),
        ("empty list", set("pck_crl", ""), (EvidenceMalformed, "endorsements")),
        ("no PCK list", without("pck_crl"), (CollateralUnavailable, "pck-crl")),
        ("no root list", without("root_ca_crl"), (CollateralUnavailable, "root-ca-crl")),
        ("QE identity half there", without("qe_identity_signature"), (EvidenceMalformed, "endorsements")),
        (
            "no QE identity",
            edited(good, |parts| parts.retain(|name, _| !name.starts_with("qe_identity"))),
            (CollateralUnavailable, "qe-identity"),
        ),
        (
            "no TCB info",
            edited(good, |parts| parts.retain(|name, _| !name.starts_with("tcb_info"))),
            (CollateralUnavailable, "tcb-info"),
        ),
    ];
    for (what, collateral, expected) in cases {
        assert_eq!(vector.denial(&vector.quote, &collateral), expected, "{what}");
    }
    // A PCK chain in the collateral does not go before the quote's own.
    let other = edited(good, |parts| drop(parts.insert("pck_certificate_chain".to_owned(), "x".into())));
    assert!(vector.run(&vector.quote, &[&other], at(vector.at)).0.is_ok());
}

#[test]
fn a_quote_edited_in_one_field_is_refused_by_name() {
    use Denial::*;
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    // Offsets of format version 4: header 48, TD report 584, length 4, signature 64, key 64, type and length 6, QE report 384.
    let cases: [(&str, usize, (Denial, &str)); 14] = [
        ("version", 0, (EvidenceMalformed, "structure")),
        ("key type", 2, (EvidenceMalformed, "structure")),
        ("TEE type", 4, (EvidenceMalformed, "structure")),
        ("QE vendor", 12, (EvidenceMalformed, "structure")),
        ("user data", 28, (EvidenceSignatureInvalid, "quote-signature")),
        ("MRTD", 48 + 136, (EvidenceSignatureInvalid, "quote-signature")),
        ("REPORTDATA", 48 + 520, (EvidenceBindingMismatch, "binding")),
        ("last of REPORTDATA", 48 + 583, (EvidenceBindingMismatch, "binding")),
        ("signature", 636, (EvidenceSignatureInvalid, "quote-signature")),
        ("attestation key", 700, (EndorsementUntrusted, "attestation-key")),
        ("certification data type", 764, (EvidenceMalformed, "structure")),
        ("QE report", 770, (EvidenceSignatureInvalid, "qe-report-signature")),
        ("QE report signature", 770 + 384, (EvidenceSignatureInvalid, "qe-report-signature")),
        ("QE authentication data", 770 + 450, (EndorsementUntrusted, "attestation-key")),
    ];
    for (what, offset, expected) in cases {
        let mut quote = vector.quote.clone();
        quote[offset] ^= 1;
        assert_eq!(vector.denial(&quote, &vector.collateral), expected, "{what}");
    }
}

#[test]
fn one_byte_flipped_anywhere_is_refused() {
    for (name, at_seconds) in [ACCEPTED[0], ACCEPTED[1]] {
        let Some(vector) = vector(name, at_seconds) else { return };
        let due = vector.due();
        let trust = TdxTrust::intel().with_collateral(Collateral::parse(&vector.collateral).unwrap());
        let none: [&[u8]; 0] = [];
        for position in 0..vector.quote.len() {
            let mut quote = vector.quote.clone();
            quote[position] ^= 1 << (position % 8);
            let outcome = verify(&quote, &none, &due, &trust, at(at_seconds), &mut Checks::new());
            assert!(outcome.is_err(), "{name}: byte {position}");
        }
    }
}

#[test]
fn a_byte_flipped_in_the_collateral_never_changes_what_is_claimed() {
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    let good = vector.run(&vector.quote, &[&vector.collateral], at(vector.at)).0.unwrap();
    let mut same = 0;
    for position in (0..vector.collateral.len()).step_by(11) {
        let mut collateral = vector.collateral.clone();
        collateral[position] ^= 1 << (position % 7);
        if let Ok(claims) = vector.run(&vector.quote, &[&collateral], at(vector.at)).0 {
            // Hex in upper case, and the issuer chain of a list, which nothing reads.
            assert_eq!(claims, good, "byte {position}");
            same += 1;
        }
    }
    assert!(same < 400, "{same} flips did not matter");
}

#[test]
fn every_truncation_is_refused_but_of_the_padding() {
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    let whole = parse(&vector.quote).unwrap();
    assert_eq!((whole.bytes.len(), whole.padding), (4936, 70));
    for length in 0..vector.quote.len() {
        let outcome = parse(&vector.quote[..length]);
        assert_eq!(outcome.is_ok(), length >= 4936, "{length}");
    }
}

#[test]
fn only_zeros_may_follow_a_quote_and_not_many() {
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    let mut quote = vector.quote.clone();
    quote.resize(limits::DCAP_QUOTE_BYTES, 0);
    assert!(vector.run(&quote, &[&vector.collateral], at(vector.at)).0.is_ok());
    quote.push(0);
    assert_eq!(vector.denial(&quote, &vector.collateral), (Denial::EvidenceMalformed, "structure"));
    for position in [4936, 5005] {
        let mut quote = vector.quote.clone();
        quote[position] = 1;
        assert_eq!(vector.denial(&quote, &vector.collateral), (Denial::EvidenceMalformed, "structure"));
    }
    let twice = [&vector.quote[..4936], &vector.quote[..4936]].concat();
    assert_eq!(vector.denial(&twice, &vector.collateral), (Denial::EvidenceMalformed, "structure"));
}

#[test]
fn garbage_is_refused() {
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for length in [0, 1, 47, 48, 632, 636, 5000, limits::DCAP_QUOTE_BYTES] {
        let mut garbage: Vec<u8> = (0..length).map(|_| byte()).collect();
        assert!(parse(&garbage).is_err());
        let head = vector.quote.len().min(700).min(garbage.len());
        garbage[..head].copy_from_slice(&vector.quote[..head]);
        assert!(parse(&garbage).is_err(), "{length}");
    }
    assert!(parse(&vec![0x04; 16 * 1024 * 1024]).is_err());
    // Lengths that lie.
    for offset in [632, 766, 770 + 448, 770 + 482, 770 + 484] {
        for bytes in [[0xff; 4], [0xff, 0xff, 0xff, 0x7f], [0; 4]] {
            let mut quote = vector.quote.clone();
            quote[offset..offset + 4].copy_from_slice(&bytes);
            assert!(parse(&quote).is_err(), "{offset}");
        }
    }
}

#[test]
fn ones_own_collateral_serves_as_well_and_the_newer_counts() {
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    let own = Collateral::parse(&vector.collateral).unwrap();
    assert_eq!(own.parts().len(), 4);
    // Stored part by part, and read again.
    let mut stored = Collateral::new();
    for json in own.to_json() {
        stored = stored.merged(Collateral::parse(json.as_bytes()).unwrap());
    }
    assert_eq!(stored.parts(), own.parts());
    let trust = TdxTrust::intel().with_collateral(stored);
    let none: [&[u8]; 0] = [];
    let run = |trust: &TdxTrust, endorsements: &[&[u8]]| {
        let mut checks = Checks::new();
        verify(&vector.quote, endorsements, &vector.due(), trust, at(vector.at), &mut checks)
            .map(|verified| verified.claims().tcb.evaluation_data_number)
            .map_err(|refusal| refusal.denial)
    };
    assert_eq!(run(&trust, &none), Ok(17));
    assert_eq!(run(&TdxTrust::intel(), &none), Err(Denial::CollateralUnavailable));
    assert_eq!(run(&trust, &[&vector.collateral]), Ok(17));
    assert_eq!(run(&trust.clone().with_minimum_evaluation_data_number(17), &none), Ok(17));
    assert_eq!(
        run(&trust.clone().with_minimum_evaluation_data_number(18), &none),
        Err(Denial::CollateralStale)
    );
    // An attester that dates its own forgery later, or numbers it higher, only refuses itself.
    let later = replaced(&vector.collateral, "tcb_info", "2025-06-19T10:16:03Z", "2025-06-19T10:59:00Z");
    assert_eq!(run(&trust, &[&later]), Err(Denial::EndorsementUntrusted));
    let earlier = replaced(&vector.collateral, "tcb_info", "2025-06-19T10:16:03Z", "2025-06-19T10:16:00Z");
    assert_eq!(run(&trust, &[&earlier]), Ok(17));
    let many = [vector.collateral.as_slice(); limits::DCAP_ENDORSEMENTS + 1];
    assert_eq!(run(&trust, &many), Err(Denial::EvidenceMalformed));
    assert_eq!(run(&TdxTrust::none(), &[&vector.collateral]), Err(Denial::EndorsementUntrusted));
}

#[test]
fn a_pcs_answer_becomes_the_same_collateral() {
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    let parts: Value = serde_json::from_slice(&vector.collateral).unwrap();
    let text = |name: &str| parts[name].as_str().unwrap();
    let encoded = |name: &str| {
        let bytes = text(name).bytes();
        bytes
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect::<String>()
    };
    let body = |key: &str, name: &str| {
        format!(r#"{{"{key}":{},"signature":"{}"}}"#, text(name), text(&format!("{name}_signature")))
            .into_bytes()
    };
    let platform = platform(&parse(&vector.quote).unwrap()).unwrap();
    let [tcb, qe, pck, root] = platform.questions();
    assert_eq!(tcb.path(), "/tdx/certification/v4/tcb?fmspc=B0C06F000000");
    assert_eq!(tcb.chain_header(), Some("tcb-info-issuer-chain"));
    let (tcb_body, qe_body) = (body("tcbInfo", "tcb_info"), body("enclaveIdentity", "qe_identity"));
    let (tcb_chain, qe_chain) = (encoded("tcb_info_issuer_chain"), encoded("qe_identity_issuer_chain"));
    let (pck_crl, root_crl) =
        (hex::decode(text("pck_crl")).unwrap(), hex::decode(text("root_ca_crl")).unwrap());
    let answers = [
        tcb.accept(&tcb_body, Some(&tcb_chain)),
        qe.accept(&qe_body, Some(&qe_chain)),
        pck.accept(&pck_crl, None),
        root.accept(&root_crl, None),
        // As a PCCS gives it.
        root.accept(text("root_ca_crl").as_bytes(), None),
    ];
    let all = answers.into_iter().map(Result::unwrap).fold(Collateral::new(), Collateral::merged);
    let sorted = |collateral: &Collateral| {
        let mut parts = collateral.parts();
        parts.sort_by(|a, b| a.what.cmp(&b.what));
        parts
    };
    assert_eq!(sorted(&all), sorted(&Collateral::parse(&vector.collateral).unwrap()));
    let trust = TdxTrust::intel().with_collateral(all);
    let none: [&[u8]; 0] = [];
    let verified = verify(&vector.quote, &none, &vector.due(), &trust, at(vector.at), &mut Checks::new());
    assert!(verified.is_ok());
    // Another answer than was asked for.
    let of_another = Question::TcbInfo { tee: Tee::Tdx, fmspc: [0; 6] };
    assert_eq!(
        of_another.accept(&tcb_body, Some(&tcb_chain)).unwrap_err(),
        CollateralError::Malformed("tcbInfo")
    );
    assert_eq!(root.accept(&pck_crl, None).unwrap_err(), CollateralError::Malformed("rootcacrl"));
    let processor = Question::PckCrl { ca: PckCa::Processor };
    assert_eq!(processor.accept(&pck_crl, None).unwrap_err(), CollateralError::Malformed("pckcrl"));
}

#[test]
fn a_wrong_or_zero_binding_is_refused() {
    let Some(vector) = vector(ACCEPTED[0].0, ACCEPTED[0].1) else { return };
    let endorsements = [vector.collateral.as_slice()];
    for position in 0..64 {
        let mut due = vector.due();
        due[position] ^= 0x80;
        let trust = TdxTrust::intel();
        let refusal = verify(&vector.quote, &endorsements, &due, &trust, at(vector.at), &mut Checks::new());
        assert_eq!(refusal.unwrap_err().denial, Denial::EvidenceBindingMismatch);
    }
    let mut quote = vector.quote.clone();
    quote[48 + 520..48 + 584].fill(0);
    let trust = TdxTrust::intel();
    let refusal = verify(&quote, &endorsements, &[0; 64], &trust, at(vector.at), &mut Checks::new());
    assert_eq!(refusal.unwrap_err().denial, Denial::EvidenceBindingMismatch);
}
