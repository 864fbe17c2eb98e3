//! Synthetic documents, good and wrong in one thing at a time.

use super::trust::AWS_ROOT_G1_SHA256;
use super::*;
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Outcome};
use crate::limits;
use crate::time::{BootTime, Now, WallTime};
use rcgen::{BasicConstraints, KeyUsagePurpose};
use std::sync::LazyLock;
use support::{Chain, Draft, NULL, PROTECTED, Shape, array, bytes, envelope, head, map, text, unsigned};

#[path = "../../../tests/support/nitro.rs"]
pub(crate) mod support;

/// 2026-09-21T14:13:20Z, seconds.
const BASE: u64 = 1_790_000_000;
const MADE: u64 = BASE * 1000;
const BINDING: [u8; 64] = [7; 64];

/// One chain for the tests that need no other: keys take time to make.
static CHAIN: LazyLock<Chain> = LazyLock::new(|| Chain::new(BASE));

fn now(milliseconds: u64) -> Now {
    Now { wall: WallTime(milliseconds), boot: BootTime(1) }
}

fn trust(chain: &Chain) -> NitroTrust {
    NitroTrust::default().and_root("test", &chain.root, None).unwrap()
}

fn outcome_at(chain: &Chain, body: &[u8], wall: u64) -> Result<VerifiedNitro, Refusal> {
    verify(body, &[], &BINDING, &trust(chain), now(wall), &mut Checks::new())
}

fn denial_of(chain: &Chain, body: &[u8]) -> Option<Denial> {
    outcome_at(chain, body, MADE).err().map(|refusal| refusal.denial)
}

fn denial(body: &[u8]) -> Option<Denial> {
    denial_of(&CHAIN, body)
}

/// A good draft, altered and then signed.
fn denial_of_draft(alter: impl FnOnce(Draft) -> Draft) -> Option<Denial> {
    denial(&CHAIN.sign(&alter(CHAIN.draft(&BINDING, MADE)).payload()))
}

/// A chain with one certificate altered: 0 the root, 4 the enclave.
fn chain_with(at: usize, alter: impl FnOnce(&mut Shape)) -> Chain {
    let mut shapes = support::shapes();
    alter(&mut shapes[at]);
    Chain::of(BASE, &shapes)
}

#[test]
fn the_compiled_in_root_is_the_one_that_aws_publishes() {
    let aws = NitroTrust::aws().unwrap();
    let [root] = aws.roots() else { panic!("one root") };
    assert_eq!(hex::encode(root.sha256()), AWS_ROOT_G1_SHA256);
    assert_eq!(root.ends(), WallTime(2_519_044_085_000));
    assert!(aws.clone().without_root(root.sha256()).roots().is_empty());
    assert!(NitroTrust::default().roots().is_empty());
}

#[test]
fn what_is_no_root_is_refused() {
    let add = |der: &[u8]| NitroTrust::default().and_root("x", der, None).map(|_| ());
    assert_eq!(add(&CHAIN.root), Ok(()));
    assert_eq!(add(b""), Err(RootError::Malformed));
    assert_eq!(add(&[&CHAIN.root[..], &[0]].concat()), Err(RootError::Malformed));
    assert_eq!(add(&CHAIN.certificate), Err(RootError::NotAuthority));
    let other_curve = chain_with(0, |root| root.algorithm = &rcgen::PKCS_ECDSA_P256_SHA256);
    assert_eq!(add(&other_curve.root), Err(RootError::Curve));
    let twice = trust(&CHAIN).and_root("again", &CHAIN.root, None).map(|_| ());
    assert_eq!(twice, Err(RootError::Repeated));
}

#[test]
fn a_good_document_verifies_and_says_what_limits_it() {
    let mut checks = Checks::new();
    let body = CHAIN.attest(&BINDING, MADE);
    let verified = verify(&body, &[], &BINDING, &trust(&CHAIN), now(MADE), &mut checks).unwrap();
    let claims = verified.claims();
    assert_eq!(claims.module_id, "i-0123-enc0456");
    assert_eq!(claims.pcr(0), Some("10".repeat(48).as_str()));
    assert_eq!(claims.pcrs.len(), 16);
    assert!(!claims.debug);
    assert_eq!(claims.nonce.as_deref(), Some("07".repeat(64).as_str()));
    assert_eq!((&claims.public_key, &claims.user_data), (&None, &None));
    assert_eq!(verified.ends().first(), ("document timestamp", WallTime(MADE + 300_001)));
    let names: Vec<_> = checks.all().iter().map(|check| check.name).collect();
    let expected = [
        "structure",
        "root",
        "certificates",
        "certificate-usage",
        "certificate-path",
        "certificate-validity",
        "refused-keys",
        "signature",
        "binding",
        "timestamp",
    ];
    assert_eq!(names, expected);
    assert!(checks.all().iter().all(|check| check.outcome == Outcome::Passed));
    let json = serde_json::to_value(claims).unwrap();
    assert_eq!(json["pcrs"]["8"], "18".repeat(48));
    assert_eq!(&serde_json::from_value::<NitroClaims>(json).unwrap(), claims);
    assert!(!format!("{verified:?}").contains("0707"));
}

#[test]
fn every_way_to_write_a_good_document_verifies() {
    let draft = || CHAIN.draft(&BINDING, MADE);
    let payload = draft().payload();
    let signed = |draft: Draft| denial(&CHAIN.sign(&draft.payload()));
    assert_eq!(signed(Draft { definite: true, ..draft() }), None);
    assert_eq!(denial(&[&[0xd2], &CHAIN.sign(&payload)[..]].concat()), None, "tag 18");
    assert_eq!(signed(draft().without("public_key").without("user_data")), None);
    assert_eq!(signed(draft().with("user_data", bytes(&[]))), None);
    assert_eq!(signed(draft().with("user_data", bytes(&[1; 512]))), None);
    assert_eq!(signed(draft().with("public_key", bytes(&[1; 1024]))), None);
    let many: Vec<_> = (0..32).map(|index| (index, vec![9; 48])).collect();
    assert_eq!(signed(draft().with("pcrs", support::pcrs(&many))), None);
    let mut reversed = draft();
    reversed.fields.reverse();
    assert_eq!(signed(reversed), None);
    let longer_head = draft().with("timestamp", [&[0x1b][..], &MADE.to_be_bytes()].concat());
    assert_eq!(signed(longer_head), None);
}

#[test]
fn a_document_out_of_its_shape_is_malformed_though_it_is_signed() {
    let malformed = Some(Denial::EvidenceMalformed);
    let certificate = |length: usize| bytes(&vec![0x30; length]);
    let wrong: Vec<(&str, Vec<u8>)> = vec![
        ("module_id", text("")),
        ("module_id", text(&"m".repeat(257))),
        ("module_id", bytes(b"i-0123-enc0456")),
        ("module_id", NULL.to_vec()),
        ("digest", text("SHA256")),
        ("digest", text("sha384")),
        ("digest", unsigned(384)),
        ("timestamp", unsigned(0)),
        ("timestamp", text("1790000000000")),
        ("timestamp", head(1, 5)),
        ("timestamp", vec![0xfb, 0x42, 0x7a, 0x0c, 0x4b, 0xc8, 0, 0, 0]),
        ("pcrs", map(&[], false)),
        ("pcrs", array(&[])),
        ("pcrs", NULL.to_vec()),
        ("pcrs", support::pcrs(&[(0, vec![1; 47])])),
        ("pcrs", support::pcrs(&[(0, vec![])])),
        ("pcrs", support::pcrs(&[(32, vec![1; 48])])),
        ("pcrs", support::pcrs(&[(256, vec![1; 48])])),
        ("pcrs", support::pcrs(&[(0, vec![1; 48]), (0, vec![1; 48])])),
        ("pcrs", map(&[(head(1, 0), bytes(&[1; 48]))], true)),
        ("pcrs", map(&[(text("0"), bytes(&[1; 48]))], true)),
        ("pcrs", map(&[(unsigned(0), text(&"1".repeat(48)))], true)),
        ("certificate", bytes(&[])),
        ("certificate", certificate(1025)),
        ("certificate", NULL.to_vec()),
        ("cabundle", array(&[])),
        ("cabundle", NULL.to_vec()),
        ("cabundle", bytes(&CHAIN.root)),
        ("cabundle", array(&[bytes(&CHAIN.root), certificate(1025)])),
        ("cabundle", array(&[bytes(&CHAIN.root), bytes(&[])])),
        ("cabundle", array(&vec![bytes(&CHAIN.root); 8])),
        ("public_key", bytes(&[])),
        ("public_key", bytes(&[1; 1025])),
        ("public_key", text("key")),
        ("user_data", bytes(&[1; 513])),
        ("user_data", array(&[])),
        ("nonce", bytes(&[7; 513])),
        ("nonce", text(&"7".repeat(64))),
        ("nonce", vec![0xf4]),
        ("locale", text("en")),
    ];
    for (name, value) in wrong {
        let detail = format!("{name} {}", hex::encode(&value[..value.len().min(20)]));
        assert_eq!(denial_of_draft(|draft| draft.with(name, value)), malformed, "{detail}");
    }
    for name in ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"] {
        assert_eq!(denial_of_draft(|draft| draft.without(name)), malformed, "{name}");
    }
    for name in ["module_id", "timestamp", "pcrs", "nonce", "user_data"] {
        let twice = |mut draft: Draft| {
            let field = draft.fields.iter().find(|(found, _)| found == name).unwrap().clone();
            draft.fields.push(field);
            draft
        };
        assert_eq!(denial_of_draft(twice), malformed, "{name}");
    }
    let not_a_certificate = array(&[bytes(&CHAIN.root), certificate(100)]);
    assert_eq!(denial_of_draft(|draft| draft.with("cabundle", not_a_certificate)), malformed);
    let trailing = bytes(&[&CHAIN.certificate[..], &[0]].concat());
    assert_eq!(denial_of_draft(|draft| draft.with("certificate", trailing)), malformed);
    let payload = CHAIN.draft(&BINDING, MADE).payload();
    assert_eq!(denial(&CHAIN.sign(&[&payload[..], &[0]].concat())), malformed, "trailing in payload");
    assert_eq!(denial(&CHAIN.sign(&payload[..payload.len() - 1])), malformed, "no break");
    assert_eq!(denial(&CHAIN.sign(&[])), malformed, "empty payload");
    assert_eq!(denial(&CHAIN.sign(&array(&[]))), malformed, "array payload");
    let chunked = [&[0x5f][..], &bytes(&BINDING), &[0xff]].concat();
    assert_eq!(denial_of_draft(|draft| draft.with("nonce", chunked)), malformed, "chunked");
}

#[test]
fn an_envelope_has_one_form_and_a_tag_or_none() {
    let payload = CHAIN.draft(&BINDING, MADE).payload();
    let signature = CHAIN.signature(PROTECTED, &payload);
    let good = envelope(PROTECTED, &[0xa0], &payload, &signature);
    assert_eq!(denial(&good), None);
    let with_header = |protected: &[u8], unprotected: &[u8]| {
        denial(&envelope(protected, unprotected, &payload, &CHAIN.signature(protected, &payload)))
    };
    let malformed = Some(Denial::EvidenceMalformed);
    for (protected, unprotected) in [
        (&[][..], &[0xa1, 0x01, 0x38, 0x22][..]),
        (&[0xa0], &[0xa0]),
        (&[0xa1, 0x01, 0x26], &[0xa0]),
        (&[0xa1, 0x01, 0x05], &[0xa0]),
        (&[0xbf, 0x01, 0x38, 0x22, 0xff], &[0xa0]),
        (&[0xa1, 0x01, 0x39, 0x00, 0x22], &[0xa0]),
        (&[0xa2, 0x01, 0x38, 0x22, 0x02, 0x80], &[0xa0]),
        (PROTECTED, &[0xa1, 0x04, 0x41, 0x00]),
        (PROTECTED, &[0x80]),
        (PROTECTED, &[0xf6]),
        (PROTECTED, &[0xbf, 0xff]),
    ] {
        assert_eq!(with_header(protected, unprotected), malformed, "{protected:02x?} {unprotected:02x?}");
    }
    let der = {
        let (r, s) = signature.split_at(48);
        let integer = |bytes: &[u8]| [&[2, 49, 0][..], bytes].concat();
        let both = [integer(r), integer(s)].concat();
        [&[0x30, u8::try_from(both.len()).unwrap()][..], &both].concat()
    };
    for signature in [&[][..], &signature[..95], &[&signature[..], &[0]].concat(), &der] {
        assert_eq!(denial(&envelope(PROTECTED, &[0xa0], &payload, signature)), malformed);
    }
    let rewritten = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|window| window == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    assert_eq!(denial(&[&[0xd8, 0x12], &good[..]].concat()), malformed, "tag's head");
    assert_eq!(denial(&[&[0xd2, 0xd2], &good[..]].concat()), malformed, "tag twice");
    assert_eq!(denial(&[&[0xd1], &good[..]].concat()), malformed, "another tag");
    assert_eq!(denial(&rewritten(&[0x84, 0x44], &[0x98, 0x04, 0x44])), malformed, "array's head");
    assert_eq!(
        denial(&[&rewritten(&[0x84, 0x44], &[0x9f, 0x44])[..], &[0xff]].concat()),
        malformed,
        "no length"
    );
    assert_eq!(denial(&rewritten(&[0x44, 0xa1], &[0x58, 0x04, 0xa1])), malformed, "header's head");
    assert_eq!(denial(&rewritten(&[0x58, 0x60], &[0x59, 0, 0x60])), malformed, "signature's head");
    assert_eq!(denial(&array(&[bytes(PROTECTED), vec![0xa0], bytes(&payload)])), malformed, "three");
    let five = array(&[bytes(PROTECTED), vec![0xa0], bytes(&payload), bytes(&signature), bytes(&[])]);
    assert_eq!(denial(&five), malformed, "five");
    for body in [&b""[..], &[0xd2], &[0x80], &[0xa0], &[0xf6], &[0x40]] {
        assert_eq!(denial(body), malformed);
    }
}

#[test]
fn a_chain_that_does_not_lead_by_position_to_a_pinned_root_is_untrusted() {
    let untrusted = Some(Denial::EndorsementUntrusted);
    let other = Chain::new(BASE);
    assert_eq!(denial(&other.attest(&BINDING, MADE)), untrusted, "another root of the same names");
    let none = NitroTrust::default();
    let body = CHAIN.attest(&BINDING, MADE);
    let refusal = verify(&body, &[], &BINDING, &none, now(MADE), &mut Checks::new()).unwrap_err();
    assert_eq!(Some(refusal.denial), untrusted, "no root");
    let aws = NitroTrust::aws().unwrap();
    let refusal = verify(&body, &[], &BINDING, &aws, now(MADE), &mut Checks::new()).unwrap_err();
    assert_eq!(Some(refusal.denial), untrusted, "AWS's root");
    let [root, region, zone, instance] = [0, 1, 2, 3].map(|at| CHAIN.cabundle[at].clone());
    for (why, bundle) in [
        ("the root last", vec![&region, &zone, &instance, &root]),
        ("reversed", vec![&instance, &zone, &region, &root]),
        ("out of order", vec![&root, &zone, &region, &instance]),
        ("one missing", vec![&root, &region, &instance]),
        ("only the root", vec![&root]),
        ("the root twice", vec![&root, &root, &region, &zone, &instance]),
        ("one twice", vec![&root, &region, &zone, &zone, &instance]),
        ("one too many", vec![&root, &region, &zone, &instance, &other.cabundle[1]]),
        ("another's region", vec![&root, &other.cabundle[1], &zone, &instance]),
        ("another's after the root", vec![&root, &other.cabundle[1], &other.cabundle[2], &other.cabundle[3]]),
        ("the enclave as issuer", vec![&root, &region, &zone, &instance, &CHAIN.certificate]),
    ] {
        let bundle = array(&bundle.into_iter().map(|der| bytes(der)).collect::<Vec<_>>());
        assert_eq!(denial_of_draft(|draft| draft.with("cabundle", bundle)), untrusted, "{why}");
    }
    let root_alone = bytes(&other.certificate);
    assert_eq!(
        denial_of_draft(|draft| draft.with("certificate", root_alone)),
        untrusted,
        "another's enclave"
    );
}

#[test]
fn certificates_that_may_not_do_what_they_do_are_untrusted() {
    type Alter = fn(&mut Shape);
    let cases: [(&str, usize, Alter); 9] = [
        ("the enclave is a CA", 4, |shape| shape.authority = Some(BasicConstraints::Unconstrained)),
        ("the enclave may not sign", 4, |shape| shape.usages = vec![KeyUsagePurpose::KeyAgreement]),
        ("the enclave has no key usage", 4, |shape| shape.usages.clear()),
        ("an issuer is no CA", 2, |shape| shape.authority = None),
        ("an issuer may not sign", 2, |shape| shape.usages = vec![KeyUsagePurpose::DigitalSignature]),
        ("an issuer has no key usage", 2, |shape| shape.usages.clear()),
        ("the path is too long", 1, |shape| shape.authority = Some(BasicConstraints::Constrained(0))),
        ("an issuer has another's name", 2, |shape| shape.name = "region.aws.nitro-enclaves".into()),
        ("an issuer signs with another curve", 3, |shape| shape.algorithm = &rcgen::PKCS_ECDSA_P256_SHA256),
    ];
    for (why, at, alter) in cases {
        let chain = chain_with(at, alter);
        let body = chain.attest(&BINDING, MADE);
        assert_eq!(denial_of(&chain, &body), Some(Denial::EndorsementUntrusted), "{why}");
    }
    // A name that only the leaf has in common with its issuer, and an issuer of issuers that is none.
    let mut shapes = support::shapes();
    shapes.push(Shape { name: "below".into(), ..shapes[4].clone() });
    let chain = Chain::of(BASE, &shapes);
    let body = chain.attest(&BINDING, MADE);
    assert_eq!(denial_of(&chain, &body), Some(Denial::EndorsementUntrusted), "an enclave as issuer");
}

#[test]
fn every_certificate_ends_by_itself_and_begins_with_an_allowance() {
    for at in 0..5 {
        let ended = |ends: i64| {
            let chain = chain_with(at, |shape| shape.ends = ends);
            let denial = denial_of(&chain, &chain.attest(&BINDING, MADE));
            (chain, denial)
        };
        assert_eq!(ended(0).1, Some(Denial::EndorsementExpired), "{at}");
        assert_eq!(ended(-1).1, Some(Denial::EndorsementExpired), "{at}");
        let (chain, denial) = ended(1);
        assert_eq!(denial, None, "{at}");
        let verified = outcome_at(&chain, &chain.attest(&BINDING, MADE), MADE).unwrap();
        assert_eq!(verified.ends().first().1, WallTime(MADE + 1000), "{at}");
        let last = outcome_at(&chain, &chain.attest(&BINDING, MADE), MADE + 999);
        assert!(last.is_ok(), "{at}");
        let begun = |begins: i64| {
            let chain = chain_with(at, |shape| shape.begins = begins);
            denial_of(&chain, &chain.attest(&BINDING, MADE))
        };
        assert_eq!(begun(30), None, "{at}");
        assert_eq!(begun(31), Some(Denial::EndorsementNotYetValid), "{at}");
    }
    let mut never = support::shapes();
    (never[3].begins, never[3].ends) = (-20, -10);
    (never[4].begins, never[4].ends) = (10, 20);
    let chain = Chain::of(BASE, &never);
    let body = chain.attest(&BINDING, MADE);
    assert_eq!(denial_of(&chain, &body), Some(Denial::EndorsementExpired), "never valid together");
}

/// Who is told that a certificate expired can rely on its being one of the root's.
#[test]
fn an_expired_chain_of_another_root_is_untrusted_first() {
    let mut shapes = support::shapes();
    shapes[4].ends = -1;
    let expired = Chain::of(BASE, &shapes);
    let bundle = [&CHAIN.cabundle[..1], &expired.cabundle[1..]].concat();
    let bundle = array(&bundle.iter().map(|der| bytes(der)).collect::<Vec<_>>());
    let draft = expired.draft(&BINDING, MADE).with("cabundle", bundle);
    assert_eq!(denial(&expired.sign(&draft.payload())), Some(Denial::EndorsementUntrusted));
}

#[test]
fn a_pin_ends_when_the_operator_said() {
    let body = CHAIN.attest(&BINDING, MADE);
    let until = |end: u64| {
        let trust = NitroTrust::default().and_root("test", &CHAIN.root, Some(WallTime(end))).unwrap();
        verify(&body, &[], &BINDING, &trust, now(MADE), &mut Checks::new())
    };
    assert_eq!(until(MADE).unwrap_err().denial, Denial::EndorsementExpired);
    let verified = until(MADE + 1).unwrap();
    assert_eq!(verified.ends().first(), ("root certificate `test`", WallTime(MADE + 1)));
    let far = until(u64::MAX).unwrap();
    assert_eq!(far.ends().first().0, "document timestamp");
}

#[test]
fn a_key_that_the_operator_refuses_is_revoked_wherever_it_stands() {
    let body = CHAIN.attest(&BINDING, MADE);
    for (at, key) in CHAIN.keys.iter().enumerate() {
        let trust = trust(&CHAIN).and_refused_key(*key);
        let refusal = verify(&body, &[], &BINDING, &trust, now(MADE), &mut Checks::new()).unwrap_err();
        assert_eq!(refusal.denial, Denial::EndorsementRevoked, "{at}");
    }
    let trust = trust(&CHAIN).and_refused_key([0; 32]);
    assert!(verify(&body, &[], &BINDING, &trust, now(MADE), &mut Checks::new()).is_ok());
}

#[test]
fn a_signature_of_another_key_or_over_other_bytes_is_invalid() {
    let invalid = Some(Denial::EvidenceSignatureInvalid);
    let payload = CHAIN.draft(&BINDING, MADE).payload();
    let signed = |signature: &[u8]| denial(&envelope(PROTECTED, &[0xa0], &payload, signature));
    let good = CHAIN.signature(PROTECTED, &payload);
    assert_eq!(signed(&good), None);
    let other = Chain::new(BASE);
    assert_eq!(signed(&other.signature(PROTECTED, &payload)), invalid, "another key");
    assert_eq!(signed(&CHAIN.signature(&[], &payload)), invalid, "another header");
    let definite = Draft { definite: true, ..CHAIN.draft(&BINDING, MADE) }.payload();
    assert_eq!(signed(&CHAIN.signature(PROTECTED, &definite)), invalid, "the same fields, encoded otherwise");
    assert_eq!(signed(&[0; 96]), invalid, "zeros");
    assert_eq!(signed(&[&[0; 48], &good[48..]].concat()), invalid, "r of zeros");
    assert_eq!(signed(&[&good[..48], &[0; 48]].concat()), invalid, "s of zeros");
    assert_eq!(signed(&[0xff; 96]), invalid, "ones");
    assert_eq!(signed(&[&good[48..], &good[..48]].concat()), invalid, "s, r");
}

#[test]
fn evidence_for_another_binding_is_denied_whichever_byte_differs() {
    let mismatch = Some(Denial::EvidenceBindingMismatch);
    let body = CHAIN.attest(&BINDING, MADE);
    for at in [0, 1, 31, 32, 62, 63] {
        let mut due = BINDING;
        due[at] ^= 1;
        let refusal = verify(&body, &[], &due, &trust(&CHAIN), now(MADE), &mut Checks::new()).unwrap_err();
        assert_eq!(Some(refusal.denial), mismatch, "{at}");
    }
    for nonce in [&[][..], &[7; 32], &[7; 63], &[7; 65], &[0; 64]] {
        assert_eq!(denial(&CHAIN.attest(nonce, MADE)), mismatch, "{}", nonce.len());
    }
    assert_eq!(denial_of_draft(|draft| draft.with("nonce", NULL.to_vec())), mismatch, "null");
    assert_eq!(denial_of_draft(|draft| draft.without("nonce")), mismatch, "absent");
    let moved = |draft: Draft| draft.with("user_data", bytes(&BINDING)).without("nonce");
    assert_eq!(denial_of_draft(moved), mismatch, "in another field");
    let zeros = CHAIN.attest(&[0; 64], MADE);
    let refusal = verify(&zeros, &[], &[0; 64], &trust(&CHAIN), now(MADE), &mut Checks::new()).unwrap_err();
    assert_eq!(Some(refusal.denial), mismatch, "zeros are nobody's");
    let empty = CHAIN.attest(&[], MADE);
    let refusal = examine(&empty, Some(&[]), &trust(&CHAIN), now(MADE), &mut Checks::new()).unwrap_err();
    assert_eq!(Some(refusal.denial), mismatch, "nothing is nobody's");
}

#[test]
fn evidence_too_old_or_from_the_future_is_denied() {
    let body = CHAIN.attest(&BINDING, MADE);
    let at = |wall: u64| outcome_at(&CHAIN, &body, wall).err().map(|refusal| refusal.denial);
    assert_eq!(at(MADE + 300_000), None);
    assert_eq!(at(MADE + 300_001), Some(Denial::EvidenceTooOld));
    assert_eq!(at(MADE - 30_000), None);
    assert_eq!(at(MADE - 30_001), Some(Denial::EvidenceFromFuture));
    let made = |timestamp: u64| denial(&CHAIN.attest(&BINDING, timestamp));
    assert_eq!(made(1), Some(Denial::EvidenceTooOld));
    assert_eq!(made(BASE), Some(Denial::EvidenceTooOld), "seconds for milliseconds");
    assert_eq!(made(u64::MAX), Some(Denial::EvidenceFromFuture));
}

#[test]
fn an_examination_without_a_binding_does_not_say_that_one_was_checked() {
    let mut checks = Checks::new();
    let body = CHAIN.attest(b"some other nonce", MADE);
    let examination = examine(&body, None, &trust(&CHAIN), now(MADE), &mut checks).unwrap();
    assert_eq!(examination.claims.nonce, Some(hex::encode(b"some other nonce")));
    assert!(checks.all().iter().all(|check| check.name != "binding"));
    let due = Some(&b"some other nonce"[..]);
    assert!(examine(&body, due, &trust(&CHAIN), now(MADE), &mut checks).is_ok());
    assert!(checks.all().iter().any(|check| check.name == "binding"));
}

#[test]
fn the_subject_is_of_what_the_hypervisor_measured_and_of_nothing_that_the_enclave_chooses() {
    let subject = |alter: fn(Draft) -> Draft| {
        let draft = alter(CHAIN.draft(&BINDING, MADE));
        outcome_at(&CHAIN, &CHAIN.sign(&draft.payload()), MADE).unwrap().subject()
    };
    fn with_pcr(draft: Draft, index: u64, value: u8) -> Draft {
        let base = |at: u64| if matches!(at, 0..=4 | 8) { vec![0x10 + at as u8; 48] } else { vec![0; 48] };
        let mut all: Vec<_> = (0..16).map(|at| (at, base(at))).collect();
        all.retain(|(at, _)| *at != index);
        all.push((index, vec![value; 48]));
        draft.with("pcrs", support::pcrs(&all))
    }
    let plain = subject(|draft| draft);
    assert_eq!(subject(|draft| draft.with("module_id", text("i-0123-enc0457"))), plain);
    assert_eq!(subject(|draft| draft.with("user_data", bytes(&[1]))), plain);
    assert_eq!(subject(|draft| with_pcr(draft, 16, 1)), plain);
    assert_eq!(subject(|draft| with_pcr(draft, 31, 1)), plain);
    assert_ne!(subject(|draft| with_pcr(draft, 0, 1)), plain);
    assert_ne!(subject(|draft| with_pcr(draft, 4, 1)), plain);
    assert_ne!(subject(|draft| with_pcr(draft, 8, 1)), plain);
    assert_ne!(subject(|draft| with_pcr(draft, 15, 1)), plain);
}

#[test]
fn one_byte_altered_anywhere_is_denied() {
    let body = CHAIN.attest(&BINDING, MADE);
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let body = &body;
            scope.spawn(move || {
                for at in (thread..body.len()).step_by(threads) {
                    let mut altered = body.clone();
                    altered[at] ^= 1 << (at % 8);
                    assert!(denial(&altered).is_some(), "byte {at}");
                }
            });
        }
    });
}

#[test]
fn a_document_cut_or_lengthened_anywhere_is_malformed() {
    let body = CHAIN.attest(&BINDING, MADE);
    let malformed = Some(Denial::EvidenceMalformed);
    for length in 0..body.len() {
        assert_eq!(denial(&body[..length]), malformed, "{length}");
    }
    for byte in 0..=255 {
        assert_eq!(denial(&[&body[..], &[byte]].concat()), malformed, "{byte}");
    }
    assert_eq!(denial(&[&body[..], &body[..]].concat()), malformed);
    let padded = [&body[..], &vec![0; limits::NITRO_DOCUMENT_BYTES]].concat();
    assert_eq!(denial(&padded), malformed);
}

#[test]
fn huge_and_deep_garbage_is_malformed_at_once() {
    let malformed = Some(Denial::EvidenceMalformed);
    for byte in [0x00, 0x5b, 0x81, 0x84, 0x9f, 0xa1, 0xbf, 0xd2, 0xff] {
        assert_eq!(denial(&vec![byte; 16 << 20]), malformed, "{byte:02x}");
        assert_eq!(denial(&vec![byte; limits::NITRO_DOCUMENT_BYTES]), malformed, "{byte:02x}");
        let payload = vec![byte; limits::NITRO_DOCUMENT_BYTES / 2];
        assert_eq!(denial(&CHAIN.sign(&payload)), malformed, "payload of {byte:02x}");
    }
    let claimed = [&head(4, 4)[..], &head(2, 1 << 63), &[0]].concat();
    assert_eq!(denial(&claimed), malformed);
    let many: Vec<_> = (0..1000).map(|index| (index, vec![])).collect();
    assert_eq!(denial_of_draft(|draft| draft.with("pcrs", support::pcrs(&many))), malformed);
}

proptest::proptest! {
    #[test]
    fn garbage_is_denied_without_a_panic(bytes: Vec<u8>, at in 0usize..5000, junk: Vec<u8>) {
        assert!(parse(&bytes).is_err());
        let mut body = CHAIN.attest(&BINDING, MADE);
        let original = body.clone();
        let at = at.min(body.len());
        let end = (at + junk.len()).min(body.len());
        body.splice(at..end, junk);
        if body != original {
            assert!(denial(&body).is_some());
        }
        let _ = denial(&CHAIN.sign(&bytes));
    }
}
