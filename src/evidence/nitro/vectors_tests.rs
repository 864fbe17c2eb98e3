//! Others' documents: real ones at their own times, synthetic ones under their own root.

use super::*;
use crate::appraisal::nitro_reference::NitroReference;
use crate::denial::Denial;
use crate::evidence::outcome::Checks;
use crate::time::{BootTime, Now, WallTime};
use base64::Engine;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn vectors() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/nitro");
    if folder.is_dir() {
        return Some(folder);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the Nitro vectors are absent");
    eprintln!("NOT RUN: the Nitro vectors are absent from {}", folder.display());
    None
}

fn now(milliseconds: u64) -> Now {
    Now { wall: WallTime(milliseconds), boot: BootTime(1) }
}

/// What the README says of one document.
struct Described {
    body: Vec<u8>,
    window_seconds: [u64; 2],
    timestamp: u64,
    verdict: String,
    claims: BTreeMap<String, String>,
}

fn described(folder: &Path) -> Vec<Described> {
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let sections = readme.split("\n### ").skip(1);
    let documents = sections.filter(|section| section.lines().next().unwrap().ends_with(".cbor"));
    documents.map(|section| describe(folder, section)).collect()
}

fn describe(folder: &Path, section: &str) -> Described {
    let line = |start: &str| {
        let found = section.lines().find_map(|line| line.strip_prefix(start));
        found.unwrap_or_else(|| panic!("no `{start}` in {section}")).trim()
    };
    let valid = line("- valid: now in [");
    let (window, rest) = valid.split_once(']').unwrap();
    let (from, to) = window.split_once(", ").unwrap();
    let timestamp = rest.split_once("timestamp ").unwrap().1.strip_suffix(" ms").unwrap();
    let claims = section.lines().filter_map(|line| line.strip_prefix("  - "));
    let claim = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), value.trim().to_owned())
    };
    Described {
        body: std::fs::read(folder.join(section.lines().next().unwrap())).unwrap(),
        window_seconds: [from.parse().unwrap(), to.parse().unwrap()],
        timestamp: timestamp.parse().unwrap(),
        verdict: line("- expected verdict:").to_owned(),
        claims: claims.map(claim).collect(),
    }
}

/// `null`, `32 B: <hex>`, or `256 B: <hex>... sha256 <hex>`.
fn is_as_described(claim: Option<&str>, said: &str) -> bool {
    let (Some(claim), Some((length, said))) = (claim, said.split_once(" B:")) else {
        return claim.is_none() && said == "null";
    };
    let bytes = hex::decode(claim).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let content = match said.split_once("... sha256 ") {
        Some((start, sha256)) => claim.starts_with(start.trim()) && sha256 == hex::encode(digest),
        None => claim == said.trim(),
    };
    bytes.len() == length.parse::<usize>().unwrap() && content
}

#[test]
fn real_documents_have_their_verdicts_and_claims() {
    let Some(folder) = vectors() else { return };
    let trust = NitroTrust::aws().unwrap();
    let all = described(&folder);
    assert!(all.len() >= 5, "only {} documents", all.len());
    for document in all {
        let id = &document.claims["module_id"];
        let at = |wall: u64, due: Option<&[u8]>| {
            examine(&document.body, due, &trust, now(wall), &mut Checks::new())
        };
        let denial = |wall: u64| at(wall, None).err().map(|refusal| refusal.denial);
        let claims = at(document.timestamp, None).unwrap().claims;
        assert_eq!(&claims.module_id, id);
        assert_eq!(claims.timestamp, WallTime(document.timestamp));
        for (name, said) in &document.claims {
            if let Some(index) = name.strip_prefix("PCR") {
                let value = if said == "0 (all zero)" { "00".repeat(48) } else { said.clone() };
                assert_eq!(claims.pcr(index.parse().unwrap()), Some(value.as_str()), "{id} {name}");
            }
        }
        assert!(is_as_described(claims.nonce.as_deref(), &document.claims["nonce"]), "{id} nonce");
        assert!(
            is_as_described(claims.user_data.as_deref(), &document.claims["user_data"]),
            "{id} user_data"
        );
        assert!(
            is_as_described(claims.public_key.as_deref(), &document.claims["public_key"]),
            "{id} public_key"
        );

        let acceptable = NitroReference::default().acceptable(&claims);
        let is_debug = document.verdict.contains("debug");
        assert_eq!(claims.debug, is_debug, "{id}");
        assert_eq!(
            acceptable.err().map(|refusal| refusal.denial),
            is_debug.then_some(Denial::PlatformNotAcceptable)
        );

        let [from, to] = document.window_seconds.map(|seconds| seconds * 1000);
        // A certificate is made when the enclave first asks, a document whenever it asks.
        let ahead = (document.timestamp - from > 30_000).then_some(Denial::EvidenceFromFuture);
        assert_eq!(denial(from), ahead, "{id}");
        assert_eq!(denial(from - 30_001), Some(Denial::EndorsementNotYetValid), "{id}");
        assert_eq!(denial(to - 1), Some(Denial::EvidenceTooOld), "{id}");
        assert_eq!(denial(to), Some(Denial::EndorsementExpired), "{id}");
        assert_eq!(
            denial(1_790_000_000_000),
            Some(Denial::EndorsementExpired),
            "{id}: a year and more later"
        );
        assert_eq!(denial(document.timestamp + 300_001), Some(Denial::EvidenceTooOld), "{id}");

        // None was made for a challenge of ours: with its own nonce it is fresh, with a binding of ours it is not.
        let due = claims.nonce.map(|nonce| hex::decode(nonce).unwrap());
        if let Some(nonce) = &due {
            assert!(at(document.timestamp, Some(nonce)).is_ok(), "{id}");
        }
        let mut checks = Checks::new();
        let ours = verify(&document.body, &[], &[7; 64], &trust, now(document.timestamp), &mut checks);
        assert_eq!(ours.unwrap_err().denial, Denial::EvidenceBindingMismatch, "{id}");
    }
}

#[test]
fn one_byte_of_a_real_document_altered_is_denied() {
    let Some(folder) = vectors() else { return };
    let trust = NitroTrust::aws().unwrap();
    // One before the change of encoding and one after.
    let all: Vec<Described> = described(&folder).into_iter().skip(1).step_by(2).collect();
    assert!(all.len() >= 2);
    std::thread::scope(|scope| {
        for document in &all {
            let trust = &trust;
            scope.spawn(move || {
                for at in 0..document.body.len() {
                    let mut altered = document.body.clone();
                    altered[at] ^= 1 << (at % 8);
                    let now = now(document.timestamp);
                    let outcome = examine(&altered, None, trust, now, &mut Checks::new());
                    assert!(outcome.is_err(), "{} byte {at}", document.claims["module_id"]);
                }
            });
        }
    });
}

/// The exact denial of each case that is refused before policy.
fn expected_denial(name: &str) -> Option<Denial> {
    match name {
        "payload-bitflip-pcr0" | "signature-bitflip" | "signature-zero" => {
            Some(Denial::EvidenceSignatureInvalid)
        }
        "timestamp-stale-2h" | "timestamp-in-seconds" => Some(Denial::EvidenceTooOld),
        "timestamp-future" => Some(Denial::EvidenceFromFuture),
        "leaf-expired" | "intermediate-expired" => Some(Denial::EndorsementExpired),
        "leaf-not-yet-valid" => Some(Denial::EndorsementNotYetValid),
        "cabundle-reversed"
        | "cabundle-missing-intermediate"
        | "attacker-root-same-names"
        | "leaf-used-as-CA"
        | "pathlen-exceeded"
        | "leaf-no-digitalSignature"
        | "leaf-is-CA"
        | "intermediate-CA-false" => Some(Denial::EndorsementUntrusted),
        "user_data-1025B"
        | "public_key-1025B"
        | "public_key-0B"
        | "user_data-513B"
        | "pcr-index-negative"
        | "pcr-len-47"
        | "pcrs-empty"
        | "module_id-empty"
        | "digest-SHA256"
        | "timestamp-0"
        | "timestamp-text"
        | "cabundle-empty"
        | "cabundle-entry-1025B"
        | "signature-empty"
        | "signature-DER"
        | "alg-only-unprotected"
        | "crit-unknown"
        | "HMAC-alg"
        | "trailing-bytes"
        | "truncated"
        | "duplicate-key-nonce"
        | "unknown-extra-key"
        | "empty"
        | "huge-length" => Some(Denial::EvidenceMalformed),
        name if name.starts_with("missing-") => Some(Denial::EvidenceMalformed),
        _ => None,
    }
}

#[test]
fn synthetic_documents_have_their_verdicts_and_exact_denials() {
    let Some(folder) = vectors() else { return };
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("synthetic.json")).unwrap()).unwrap();
    let root = hex::decode(file["root_der_hex"].as_str().unwrap()).unwrap();
    let trust = NitroTrust::default().and_root("synthetic", &root, None).unwrap();
    let at = now(file["now"].as_u64().unwrap() * 1000);
    let expected_nonce = file["expected_nonce_hex"].as_str().unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 59, "only {} cases", cases.len());
    for case in cases {
        let (name, expect) = (case["name"].as_str().unwrap(), case["expect"].as_str().unwrap());
        let body =
            base64::engine::general_purpose::STANDARD.decode(case["doc_b64"].as_str().unwrap()).unwrap();
        let outcome = examine(&body, None, &trust, at, &mut Checks::new());
        let denial = outcome.as_ref().err().map(|refusal| refusal.denial);
        assert_eq!(denial, expected_denial(name), "{name}: {outcome:?}");
        let acceptable = outcome
            .as_ref()
            .is_ok_and(|examination| NitroReference::default().acceptable(&examination.claims).is_ok());
        match expect {
            "accept" => assert!(acceptable, "{name}"),
            "reject" => assert!(denial.is_some(), "{name}"),
            "reject-by-policy" => assert!(!acceptable, "{name}"),
            "either" => {}
            other => panic!("{name}: {other}"),
        }
        let Ok(examination) = outcome else { continue };
        let claims = serde_json::to_value(&examination.claims).unwrap();
        for (claim, value) in case["claims"].as_object().into_iter().flatten() {
            let found = match claim.strip_prefix("pcr") {
                Some(index) => &claims["pcrs"][index],
                None => &claims[claim],
            };
            assert_eq!(found, value, "{name} {claim}");
        }
        let due = hex::decode(expected_nonce).unwrap();
        let bound = examine(&body, Some(&due), &trust, at, &mut Checks::new());
        match examination.claims.nonce.as_deref() == Some(expected_nonce) {
            true => assert!(bound.is_ok(), "{name}"),
            false => assert_eq!(bound.unwrap_err().denial, Denial::EvidenceBindingMismatch, "{name}"),
        }
    }
}
