//! What the format `tpm2` takes and refuses: one defect at a time, made by a TPM in software.

use super::*;
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Outcome};
use crate::limits;
use crate::time::{BootTime, Now, WallTime};

#[path = "../../../tests/support/tpm2.rs"]
pub(crate) mod soft;

use soft::{Ak, Quote, SHA1, SHA256, SHA384};

const NOW: u64 = 1_795_500_000;
pub(super) const BOUND: [u8; 64] = [0x42; 64];

pub(super) fn at(seconds: u64) -> Now {
    Now { wall: WallTime(seconds * 1000), boot: BootTime(seconds * 1000) }
}

pub(super) fn none_seen(_: &AkName) -> Option<Counters> {
    None
}

fn bound_digest() -> Vec<u8> {
    Hash::Sha256.digest(&[&BOUND])
}

pub(super) fn good() -> Quote {
    Quote::of(&bound_digest())
}

pub(super) fn enrolled(ak: &Ak) -> EnrolledAk {
    EnrolledAk {
        node: "node-1.example".to_owned(),
        key: AttestationKey::parse(&ak.public()).unwrap(),
        ek_sha256: [7; 32],
        counters: Counters { reset: 7, restart: 1 },
        enrolled_at: WallTime(0),
        not_after: WallTime((NOW + 60) * 1000),
    }
}

fn trust(ak: &Ak) -> Tpm2Trust {
    Tpm2Trust::new([enrolled(ak)], 5)
}

fn verdict(body: &[u8], trust: &Tpm2Trust) -> Result<VerifiedTpm2, Refusal> {
    verify(body, &[], &BOUND, trust, &none_seen, at(NOW), &mut Checks::new())
}

fn denial(body: &[u8], trust: &Tpm2Trust) -> Denial {
    verdict(body, trust).unwrap_err().denial
}

fn detail(quote: &Quote, ak: &Ak) -> (Denial, String) {
    let refusal = verdict(&quote.signed(ak), &trust(ak)).unwrap_err();
    (refusal.denial, refusal.detail)
}

#[test]
fn a_quote_of_each_kind_of_key_verifies() {
    for (ak, algorithm) in [
        (Ak::p256(), "ecdsa-p256-sha256"),
        (Ak::p384(), "ecdsa-p384-sha384"),
        (Ak::rsassa(), "rsassa-2048-sha256"),
        (Ak::rsapss(), "rsapss-2048-sha256"),
    ] {
        let verified = verdict(&good().signed(&ak), &trust(&ak)).unwrap();
        assert_eq!(verified.claims().ak_algorithm, algorithm);
        assert_eq!(verified.claims().node, "node-1.example");
        assert_eq!(verified.ak_name().as_bytes(), ak.name());
        assert_eq!(verified.counters(), Counters { reset: 7, restart: 2 });
        assert_eq!(verified.ends().first().1, WallTime((NOW + 60) * 1000));
    }
}

#[test]
fn every_check_is_noted_in_its_order() {
    let ak = Ak::p256();
    let mut checks = Checks::new();
    let body = good().signed(&ak);
    assert!(verify(&body, &[], &BOUND, &trust(&ak), &none_seen, at(NOW), &mut checks).is_ok());
    let names: Vec<&str> = checks.all().iter().map(|check| check.name).collect();
    let expected = [
        "structure",
        "attestation-key",
        "enrolment",
        "signature-scheme",
        "signature",
        "binding",
        "pcr-digest",
        "event-log",
        "clock",
    ];
    assert_eq!(names, expected);
    assert!(checks.all().iter().all(|check| check.outcome == Outcome::Passed));
}

#[test]
fn claims_survive_their_json() {
    let ak = Ak::p256();
    let data: &[u8] = b"boot loader";
    let mut quote = good();
    quote.banks[0].1[4].1 = soft::extended(SHA256, 0, &[data]);
    quote.event_log = soft::event_log(&[SHA1, SHA256], None, &[(4, 0x8000_0003, data)]);
    let verified = verdict(&quote.signed(&ak), &trust(&ak)).unwrap();
    let json = serde_json::to_string(verified.claims()).unwrap();
    assert_eq!(&serde_json::from_str::<Tpm2Claims>(&json).unwrap(), verified.claims());
    assert!(json.contains(r#""reset_count":7"#) && json.contains(r#""pcrs":{"sha256":{"0":""#), "{json}");
}

#[test]
fn an_enrolment_survives_its_json_and_only_of_a_key_that_may_attest() {
    let ak = Ak::p256();
    let json = serde_json::to_string(&enrolled(&ak)).unwrap();
    assert_eq!(serde_json::from_str::<EnrolledAk>(&json).unwrap(), enrolled(&ak));
    let mut unrestricted = Ak::p256();
    let good_key = hex::encode(ak.public());
    unrestricted.attributes &= !(1 << 16);
    let bad = json.replace(&good_key, &hex::encode(unrestricted.public()));
    assert!(json != bad && serde_json::from_str::<EnrolledAk>(&bad).is_err());
}

#[test]
fn a_key_that_is_not_enrolled_counts_for_nothing() {
    let (ak, other) = (Ak::p256(), Ak::p256());
    assert_eq!(denial(&good().signed(&other), &trust(&ak)), Denial::EndorsementUntrusted);
    assert_eq!(denial(&good().signed(&ak), &Tpm2Trust::default()), Denial::EndorsementUntrusted);
    let twice = Tpm2Trust::new([enrolled(&ak), enrolled(&ak)], 1);
    assert_eq!(denial(&good().signed(&ak), &twice), Denial::EndorsementUntrusted);
    assert!(twice.iter().next().is_none() && twice.epoch() == 1);
}

#[test]
fn a_key_that_signs_in_anothers_name_is_refused() {
    let (ak, other) = (Ak::p256(), Ak::p256());
    let attest = good().attest(SHA256);
    let body = soft::body(&attest, &other.sign(&attest), &good().values(), &ak.name(), &[]);
    assert_eq!(denial(&body, &trust(&ak)), Denial::EvidenceSignatureInvalid);
}

#[test]
fn a_signature_by_another_scheme_than_the_keys_is_refused_before_it_is_looked_at() {
    let (ssa, mut as_pss) = (Ak::rsassa(), Ak::rsapss());
    let attest = good().attest(SHA256);
    let body = |signature: &[u8], name: &[u8]| soft::body(&attest, signature, &good().values(), name, &[]);
    let mut signature = ssa.sign(&attest);
    signature[1] = 0x16;
    assert_eq!(denial(&body(&signature, &ssa.name()), &trust(&ssa)), Denial::EvidenceSignatureInvalid);
    // The key's other scheme, in good order: the enrolled key has one.
    let pss_signature = as_pss.sign(&attest);
    as_pss.scheme.0 = soft::RSASSA;
    assert_eq!(
        denial(&body(&pss_signature, &as_pss.name()), &trust(&as_pss)),
        Denial::EvidenceSignatureInvalid
    );
    let p256 = Ak::p256();
    let mut sha1 = p256.sign(&attest);
    sha1[3] = 0x04;
    assert_eq!(denial(&body(&sha1, &p256.name()), &trust(&p256)), Denial::EvidenceMalformed);
    let mut sha384 = p256.sign(&attest);
    sha384[3] = 0x0c;
    assert_eq!(denial(&body(&sha384, &p256.name()), &trust(&p256)), Denial::EvidenceSignatureInvalid);
}

#[test]
fn a_signature_of_zeros_or_of_no_bytes_is_refused() {
    let ak = Ak::p256();
    let attest = good().attest(SHA256);
    for part in [vec![0; 32], vec![], vec![0]] {
        let signature = [&[0, 0x18, 0, 0x0b][..], &soft::sized(&part), &soft::sized(&part)].concat();
        let body = soft::body(&attest, &signature, &good().values(), &ak.name(), &[]);
        assert_eq!(denial(&body, &trust(&ak)), Denial::EvidenceSignatureInvalid);
    }
}

#[test]
fn an_enrolment_counts_until_its_end_and_not_at_it() {
    let ak = Ak::p256();
    let body = good().signed(&ak);
    let ends = |seconds| {
        let mut checks = Checks::new();
        verify(&body, &[], &BOUND, &trust(&ak), &none_seen, at(seconds), &mut checks).err().map(|r| r.denial)
    };
    assert_eq!(ends(NOW + 59), None);
    assert_eq!(ends(NOW + 60), Some(Denial::EndorsementExpired));
}

#[test]
fn extra_data_that_is_not_the_digest_of_the_bound_is_refused() {
    let ak = Ak::p256();
    let digest = bound_digest();
    for extra in [
        vec![],
        vec![0; 32],
        BOUND.to_vec(),
        digest[..31].to_vec(),
        digest[..8].to_vec(),
        [&digest[..], &[0]].concat(),
        Hash::Sha256.digest(&[&[0x43; 64]]),
    ] {
        let mut quote = good();
        quote.extra_data = extra;
        assert_eq!(denial(&quote.signed(&ak), &trust(&ak)), Denial::EvidenceBindingMismatch);
    }
}

#[test]
fn a_bound_of_zeros_is_nobodys() {
    let ak = Ak::p256();
    let quote = Quote::of(&Hash::Sha256.digest(&[&[0; 64]]));
    let mut checks = Checks::new();
    let verdict = verify(&quote.signed(&ak), &[], &[0; 64], &trust(&ak), &none_seen, at(NOW), &mut checks);
    assert_eq!(verdict.unwrap_err().denial, Denial::EvidenceBindingMismatch);
    for due in [&[][..], &[0; 32]] {
        let mut quote = good();
        quote.extra_data = due.to_vec();
        let body = quote.signed(&ak);
        let due = Some(Due::ExtraData(due));
        let verdict = examine(&body, due, &trust(&ak), &none_seen, at(NOW), &mut Checks::new());
        assert_eq!(verdict.unwrap_err().denial, Denial::EvidenceBindingMismatch);
    }
}

#[test]
fn an_examination_without_a_binding_says_nothing_of_freshness() {
    let ak = Ak::p256();
    let mut checks = Checks::new();
    let body = good().signed(&ak);
    let examined = examine(&body, None, &trust(&ak), &none_seen, at(NOW), &mut checks).unwrap();
    assert_eq!(&examined.claims, verdict(&body, &trust(&ak)).unwrap().claims());
    assert!(checks.all().iter().all(|check| check.name != "binding"));
}

#[test]
fn what_is_no_quote_is_malformed_whatever_signed_it() {
    let ak = Ak::p256();
    type Change = fn(&mut Quote);
    let cases: [(Change, &str); 16] = [
        (|quote| quote.magic = 0xff54_4348, "magic"),
        (|quote| quote.kind = 0x8017, "TPM_ST_ATTEST_QUOTE"),
        (|quote| quote.kind = 0x8019, "TPM_ST_ATTEST_QUOTE"),
        (|quote| quote.kind = 0x801a, "TPM_ST_ATTEST_QUOTE"),
        (|quote| quote.kind = 0x8014, "TPM_ST_ATTEST_QUOTE"),
        (|quote| quote.safe = 2, "neither YES nor NO"),
        (|quote| quote.qualified_signer = vec![1; 67], "longer than its type"),
        (|quote| quote.extra_data = vec![1; 67], "longer than its type"),
        (|quote| quote.pcr_digest = Some(vec![1; 65]), "longer than its type"),
        (|quote| quote.banks.clear(), "no PCR bank"),
        (|quote| quote.banks[0].1.clear(), "without a PCR"),
        (|quote| quote.banks.push(quote.banks[0].clone()), "quoted twice"),
        (|quote| quote.banks[0].0 = SHA1, "not of SHA-256"),
        (|quote| quote.banks[0].0 = 0x0027, "not of SHA-256"),
        (|quote| quote.bitmap_bytes = 2, "24 nor 32"),
        (|quote| quote.bitmap_bytes = 5, "24 nor 32"),
    ];
    for (change, words) in cases {
        let mut quote = good();
        change(&mut quote);
        let (denied, said) = detail(&quote, &ak);
        assert_eq!(denied, Denial::EvidenceMalformed, "{said}");
        assert!(said.contains(words), "{said}");
    }
    let mut wide = good();
    wide.bitmap_bytes = 4;
    assert!(verdict(&wide.signed(&ak), &trust(&ak)).is_ok());
}

#[test]
fn an_attestation_that_goes_on_or_stops_short_is_malformed() {
    let ak = Ak::p256();
    let attest = good().attest(SHA256);
    let signed = |attest: &[u8]| soft::body(attest, &ak.sign(attest), &good().values(), &ak.name(), &[]);
    assert_eq!(denial(&signed(&[&attest[..], &[0]].concat()), &trust(&ak)), Denial::EvidenceMalformed);
    for length in 1..attest.len() {
        assert_eq!(denial(&signed(&attest[..length]), &trust(&ak)), Denial::EvidenceMalformed, "{length}");
    }
    let mut selections = attest[..attest.len() - 34 - 10].to_vec();
    selections.extend(u32::MAX.to_be_bytes());
    assert_eq!(denial(&signed(&selections), &trust(&ak)), Denial::EvidenceMalformed);
    assert_eq!(
        denial(&signed(&vec![0xff; limits::TPM2_ATTEST_BYTES + 1]), &trust(&ak)),
        Denial::EvidenceMalformed
    );
}

#[test]
fn values_that_were_not_signed_are_refused() {
    let ak = Ak::p256();
    let attest = good().attest(SHA256);
    let signature = ak.sign(&attest);
    let with =
        |values: &[Vec<u8>]| denial(&soft::body(&attest, &signature, values, &ak.name(), &[]), &trust(&ak));
    let mut swapped = good().values();
    swapped.swap(0, 1);
    assert_eq!(with(&swapped), Denial::EvidenceSignatureInvalid);
    let mut other = good().values();
    other[3][0] ^= 1;
    assert_eq!(with(&other), Denial::EvidenceSignatureInvalid);
    assert_eq!(with(&good().values()[1..]), Denial::EvidenceMalformed);
    assert_eq!(with(&[good().values(), vec![vec![1; 32]]].concat()), Denial::EvidenceMalformed);
    assert_eq!(with(&[]), Denial::EvidenceMalformed);
    // The same bytes, cut elsewhere: the digest would not notice.
    let mut moved = good().values();
    let byte = moved[1].remove(0);
    moved[0].push(byte);
    assert_eq!(with(&moved), Denial::EvidenceMalformed);
    let mut quote = good();
    quote.pcr_digest = Some(vec![]);
    assert_eq!(detail(&quote, &ak).0, Denial::EvidenceSignatureInvalid);
}

#[test]
fn several_banks_are_quoted_in_the_order_of_the_selection() {
    let ak = Ak::p256();
    let mut quote = good();
    quote.banks.insert(0, (SHA384, vec![(7, vec![0x38; 48]), (23, vec![0x39; 48])]));
    let verified = verdict(&quote.signed(&ak), &trust(&ak)).unwrap();
    let pcrs = &verified.claims().pcrs;
    assert_eq!(pcrs[&Hash::Sha384][&PcrIndex::new(23).unwrap()].as_bytes(), [0x39; 48]);
    assert_eq!(pcrs[&Hash::Sha256].len(), 8);
}

#[test]
fn an_unsafe_clock_and_counters_that_went_back_are_refused() {
    let ak = Ak::p256();
    let mut quote = good();
    quote.safe = 0;
    assert_eq!(detail(&quote, &ak).0, Denial::EvidenceCounterBackwards);
    // Enrolled at (7, 1).
    for (reset, restart, denied) in [
        (7, 1, None),
        (7, 0, Some(Denial::EvidenceCounterBackwards)),
        (6, 9, Some(Denial::EvidenceCounterBackwards)),
        (8, 0, None),
        (0, 0, Some(Denial::EvidenceCounterBackwards)),
        (u32::MAX, u32::MAX, None),
    ] {
        let mut quote = good();
        (quote.reset_count, quote.restart_count) = (reset, restart);
        let outcome = verdict(&quote.signed(&ak), &trust(&ak));
        assert_eq!(outcome.err().map(|refusal| refusal.denial), denied, "{reset} {restart}");
    }
}

#[test]
fn the_greater_of_the_enrolled_and_the_last_seen_counters_holds() {
    let ak = Ak::p256();
    let body = good().signed(&ak);
    let with = |reset, restart| {
        let name = AkName::parse(&ak.name()).unwrap();
        let seen = move |asked: &AkName| (*asked == name).then_some(Counters { reset, restart });
        verify(&body, &[], &BOUND, &trust(&ak), &seen, at(NOW), &mut Checks::new()).err().map(|r| r.denial)
    };
    assert_eq!(with(7, 2), None);
    assert_eq!(with(0, 0), None);
    assert_eq!(with(7, 3), Some(Denial::EvidenceCounterBackwards));
    assert_eq!(with(8, 0), Some(Denial::EvidenceCounterBackwards));
    let mut before = good();
    before.restart_count = 0;
    let body = before.signed(&ak);
    let seen = |_: &AkName| Some(Counters::default());
    let verdict = verify(&body, &[], &BOUND, &trust(&ak), &seen, at(NOW), &mut Checks::new());
    assert_eq!(verdict.unwrap_err().denial, Denial::EvidenceCounterBackwards);
}

#[test]
fn the_subject_is_of_what_booted_and_of_nothing_that_a_process_may_reset() {
    let ak = Ak::p256();
    let subject = |change: fn(&mut Quote)| {
        let mut quote = good();
        quote.banks[0].1.push((16, vec![0x16; 32]));
        change(&mut quote);
        verdict(&quote.signed(&ak), &trust(&ak)).unwrap().subject()
    };
    let same = subject(|_| {});
    assert_eq!(subject(|quote| quote.banks[0].1[8].1 = vec![0x17; 32]), same);
    assert_eq!(subject(|quote| quote.clock += 1), same);
    assert_ne!(subject(|quote| quote.banks[0].1[4].1 = vec![0x17; 32]), same);
    let only = |value: u8| {
        let mut quote = good();
        quote.banks[0].1 = vec![(16, vec![value; 32])];
        verdict(&quote.signed(&ak), &trust(&ak)).unwrap().subject()
    };
    assert_ne!(only(1), only(2));
}

#[test]
fn a_body_has_one_encoding() {
    let ak = Ak::p256();
    let attest = good().attest(SHA256);
    let (signature, name) = (ak.sign(&attest), ak.name());
    let body = good().signed(&ak);
    let trust = trust(&ak);
    let pcrs: Vec<u8> = good().values().iter().flat_map(|value| soft::field(3, value)).collect();
    let parts = [soft::field(1, &attest), soft::field(2, &signature), pcrs.clone(), soft::field(4, &name)];
    let [a, s, p, n] = parts.clone();
    assert!(verdict(&parts.concat(), &trust).is_ok());
    let malformed = [
        vec![],
        [&body[..], &[0]].concat(),
        [&body[..], &soft::field(6, b"unknown")].concat(),
        [&body[..], &soft::field(5, b"")].concat(),
        [&body[..], &n].concat(),
        [a.clone(), body.clone()].concat(),
        [s.clone(), a.clone(), p.clone(), n.clone()].concat(),
        [a.clone(), s.clone(), n.clone(), p.clone()].concat(),
        [a.clone(), s.clone(), p.clone()].concat(),
        [s.clone(), p.clone(), n.clone()].concat(),
        [a.clone(), p.clone(), n.clone()].concat(),
        [a.clone(), s.clone(), p.clone(), soft::field(4, &name[..33])].concat(),
        [a.clone(), s.clone(), p.clone(), soft::field(4, b"")].concat(),
        [a.clone(), s.clone(), soft::field(3, b""), p.clone(), n.clone()].concat(),
        // A length that is longer than it need be.
        [a.clone(), vec![0x12, signature.len() as u8 | 0x80, 0], signature.clone(), p.clone(), n.clone()]
            .concat(),
        // A length beyond the end, and one beyond any document.
        [a.clone(), vec![0x12, 0xff, 0x7f]].concat(),
        [a.clone(), vec![0x12, 0xff, 0xff, 0xff, 0x7f]].concat(),
        // A varint and a fixed-width field in place of bytes.
        [a, s, vec![0x18, 1], p, n].concat(),
    ];
    for (at, body) in malformed.iter().enumerate() {
        assert_eq!(denial(body, &trust), Denial::EvidenceMalformed, "{at}");
    }
}

#[test]
fn the_published_message_serialises_to_that_encoding() {
    use prost::Message;
    let ak = Ak::p256();
    let body = logged(&ak).signed(&ak);
    let message = crate::proto::v1::Tpm2Quote::decode(body.as_slice()).unwrap();
    assert_eq!(message.encode_to_vec(), body);
    assert!(verdict(&message.encode_to_vec(), &trust(&ak)).is_ok());
}

#[test]
fn a_document_cut_anywhere_is_refused() {
    let ak = Ak::p256();
    let (body, trust) = (logged(&ak).signed(&ak), trust(&ak));
    assert!(verdict(&body, &trust).is_ok());
    for length in 0..body.len() {
        // Cut right before the log it is the same quote without one.
        let without_log = body[length..].first() == Some(&0x2a) && verdict(&body[..length], &trust).is_ok();
        if without_log {
            assert_eq!(verdict(&body[..length], &trust).unwrap().claims().event_log, None);
        } else {
            let denied = denial(&body[..length], &trust);
            assert_eq!(denied, Denial::EvidenceMalformed, "{length}");
        }
    }
}

#[test]
fn one_byte_changed_anywhere_never_gives_the_same_claims() {
    let ak = Ak::p256();
    let (plain, with_log, trust) = (good().signed(&ak), logged(&ak).signed(&ak), trust(&ak));
    let claims = verdict(&with_log, &trust).unwrap().claims().clone();
    for (body, start_of_log) in
        [(&plain, plain.len()), (&with_log, with_log.len() - logged(&ak).event_log.len())]
    {
        for at in 0..body.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = body.clone();
                changed[at] ^= flip;
                match verdict(&changed, &trust) {
                    Err(_) => {}
                    // What an event says beside its digests nobody vouches for; the log's own digest shows it.
                    Ok(verified) => assert!(at >= start_of_log && *verified.claims() != claims, "{at}"),
                }
            }
        }
    }
}

#[test]
fn garbage_is_refused_within_bounds() {
    for trust in [Tpm2Trust::default(), trust(&Ak::p256())] {
        for body in
            [vec![0; 16 << 20], vec![0x0a; 16 << 20], vec![0xff; 16 << 20], soft::field(1, &vec![7; 1 << 20])]
        {
            assert_eq!(denial(&body, &trust), Denial::EvidenceMalformed);
        }
    }
    let values = vec![vec![7; 32]; 1000];
    let attest = good().attest(SHA256);
    assert_eq!(
        parse(&soft::body(&attest, &[1], &values, &[1], &[])).unwrap_err().detail,
        "Tpm2Quote: more pcr_values than PCRs of three banks"
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes: Vec<u8>) {
        let _ = parse(&bytes);
        let _ = Attest::parse(&bytes);
        let _ = Signature::parse(&bytes);
        let _ = PublicArea::parse(&bytes);
        let _ = PublicArea::parse_sized(&bytes);
        let _ = EventLog::parse(&bytes);
        let _ = EventLog::parse(&[&soft::event_log(&[SHA256], None, &[]), &bytes[..]].concat());
    }
}

// Event logs.

const EVENTS: [(u32, u32, &[u8]); 4] = [
    (0, 0x8000_0008, b"firmware volume"),
    (7, 0x8000_0001, b"SecureBoot on"),
    (4, 0x8000_0003, b"boot loader"),
    (7, 0x0000_0004, b"\0\0\0\0"),
];

/// A quote of PCRs 0 to 7 whose 0, 4 and 7 are made by a log.
fn logged(_: &Ak) -> Quote {
    let mut quote = good();
    quote.event_log = soft::event_log(&[SHA1, SHA256], Some(3), &EVENTS);
    quote.banks[0].1[0].1 = soft::extended(SHA256, 3, &[EVENTS[0].2]);
    quote.banks[0].1[4].1 = soft::extended(SHA256, 0, &[EVENTS[2].2]);
    quote.banks[0].1[7].1 = soft::extended(SHA256, 0, &[EVENTS[1].2, EVENTS[3].2]);
    quote
}

#[test]
fn a_log_that_replays_gives_the_digests_of_each_pcr() {
    let ak = Ak::p256();
    let verified = verdict(&logged(&ak).signed(&ak), &trust(&ak)).unwrap();
    let log = verified.claims().event_log.as_ref().unwrap();
    let events = &log.events[&Hash::Sha256];
    let of = |pcr| -> Vec<Vec<u8>> {
        events[&PcrIndex::new(pcr).unwrap()].iter().map(|digest| digest.as_bytes().to_vec()).collect()
    };
    assert_eq!(events.keys().map(|pcr| pcr.get()).collect::<Vec<_>>(), [0, 4, 7]);
    assert_eq!(of(7), [Hash::Sha256.digest(&[EVENTS[1].2]), Hash::Sha256.digest(&[EVENTS[3].2])]);
    assert_eq!(log.sha256, hex::encode(Hash::Sha256.digest(&[&logged(&ak).event_log])));
}

#[test]
fn a_log_that_does_not_replay_or_says_nothing_of_the_quote_is_refused() {
    let ak = Ak::p256();
    type Change = fn(&mut Quote);
    let cases: [(Change, &str); 7] = [
        (|quote| quote.event_log = soft::event_log(&[SHA256], Some(3), &EVENTS[..3]), "sha256 PCR 7"),
        (|quote| quote.event_log = soft::event_log(&[SHA256], Some(4), &EVENTS), "sha256 PCR 0"),
        (|quote| quote.event_log = soft::event_log(&[SHA256], None, &EVENTS), "sha256 PCR 0"),
        (|quote| quote.banks[0].1[4].1[0] ^= 1, "sha256 PCR 4"),
        (|quote| quote.event_log = soft::event_log(&[SHA1, SHA384], Some(3), &EVENTS), "no event of any"),
        (|quote| quote.event_log = soft::event_log(&[SHA256], None, &[]), "no event of any"),
        (|quote| quote.event_log = soft::event_log(&[SHA256], None, &[(14, 1, b"mok")]), "no event of any"),
    ];
    for (change, words) in cases {
        let mut quote = logged(&ak);
        change(&mut quote);
        let (denied, said) = detail(&quote, &ak);
        assert_eq!(denied, Denial::EvidenceSignatureInvalid, "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn malformed_logs_are_refused() {
    let ak = Ak::p256();
    let log = soft::event_log(&[SHA256], Some(3), &EVENTS);
    let head = soft::event_log(&[SHA256], None, &[]);
    let only = |events: &[(u32, u32, &[u8])]| soft::event_log(&[SHA256], None, events)[head.len()..].to_vec();
    let locality = soft::event_log(&[SHA256], Some(3), &[])[head.len()..].to_vec();
    let bad_locality = soft::event_log(&[SHA256], Some(2), &[])[head.len()..].to_vec();
    let two_digests = soft::event_log(&[SHA256, SHA384], None, &EVENTS)
        [soft::event_log(&[SHA256, SHA384], None, &[]).len()..]
        .to_vec();
    let mut sha1_form = head.clone();
    sha1_form[32..47].copy_from_slice(b"Spec ID Event00");
    let mut long_digest = head.clone();
    long_digest[62] = 20;
    for (bytes, words) in [
        (vec![1], "end within"),
        (log[..log.len() - 1].to_vec(), "end within"),
        ([&log[..], &[0]].concat(), "end within"),
        (head[1..].to_vec(), ""),
        (sha1_form, "not crypto-agile"),
        (long_digest, "not what they are called"),
        (soft::event_log(&[], None, &[]), "no algorithm"),
        (soft::event_log(&[SHA256, SHA256], None, &[]), "come twice"),
        ([&head[..], &only(&[(24, 1, b"x")])].concat(), "no such PCR"),
        ([&head[..], &only(&[(u32::MAX, 1, b"x")])].concat(), "no such PCR"),
        ([&head[..], &two_digests].concat(), "one digest of each"),
        ([&head[..], &locality, &locality].concat(), "twice, or too late"),
        ([&head[..], &only(&[EVENTS[0]]), &locality].concat(), "twice, or too late"),
        ([&head[..], &bad_locality].concat(), "none of 0, 3 and 4"),
        (soft::event_log(&[SHA256], None, &[(4, 1, b"x" as &[u8]); limits::TPM2_EVENTS + 1]), "more events"),
    ] {
        let mut quote = logged(&ak);
        quote.event_log = bytes;
        let (denied, said) = detail(&quote, &ak);
        assert_eq!(denied, Denial::EvidenceMalformed, "{said}");
        assert!(said.contains(words), "{said}, not {words}");
    }
}

// Keys.

#[test]
fn a_key_with_one_wrong_attribute_may_not_attest() {
    let refused = |attributes: u32| {
        let mut ak = Ak::p256();
        ak.attributes = attributes;
        AttestationKey::parse(&ak.public()).err()
    };
    assert_eq!(refused(soft::AK_ATTRIBUTES), None);
    // Without userWithAuth, and with stClear and noDA: whoever may use it, and for how long, is the node's business.
    assert_eq!(refused(soft::AK_ATTRIBUTES & !(1 << 6)), None);
    assert_eq!(refused(soft::AK_ATTRIBUTES | 1 << 2 | 1 << 10), None);
    for bit in [1, 4, 5, 16, 18] {
        assert!(matches!(refused(soft::AK_ATTRIBUTES & !(1 << bit)), Some(KeyError::Attributes(_))), "{bit}");
    }
    for bit in [17, 19] {
        assert!(matches!(refused(soft::AK_ATTRIBUTES | 1 << bit), Some(KeyError::Attributes(_))), "{bit}");
    }
}

#[test]
fn keys_of_other_kinds_may_not_attest() {
    let malformed = |public: &[u8]| matches!(AttestationKey::parse(public), Err(KeyError::Malformed(_)));
    let p256 = Ak::p256().public();
    let rsa = Ak::rsassa().public();
    let changed = |public: &[u8], at: usize, value: u8| {
        let mut public = public.to_vec();
        public[at] = value;
        public
    };
    assert!(malformed(&[]) && malformed(&p256[..p256.len() - 1]) && malformed(&[&p256[..], &[0]].concat()));
    // Name hash SHA-1; scheme's hash SHA-1; ECDAA; curve P-521 and BN; with a KDF; a keyed hash.
    for (at, value) in [(3, 0x04), (15, 0x04), (13, 0x1a), (17, 0x05), (17, 0x10), (19, 0x20), (1, 0x08)] {
        assert!(malformed(&changed(&p256, at, value)), "{at}");
    }
    // 1024 bits; exponent 3; a modulus with its first bit clear.
    assert!(malformed(&changed(&rsa, 16, 0x04)));
    assert!(malformed(&changed(&rsa, 21, 0x03)));
    assert!(malformed(&changed(&rsa, 24, rsa[24] & 0x7f)));
    // No scheme; a scheme of the other kind of key; a point off its curve.
    let without = [&p256[..12], &[0, 0x10], &p256[16..]].concat();
    assert_eq!(AttestationKey::parse(&without), Err(KeyError::Scheme));
    assert_eq!(AttestationKey::parse(&changed(&p256, 13, 0x14)), Err(KeyError::Scheme));
    let last = p256.len() - 1;
    assert_eq!(AttestationKey::parse(&changed(&p256, last, p256[last] ^ 1)), Err(KeyError::Point));
    // Symmetric: a storage key.
    let storage = [&p256[..10], &[0, 0x06, 0, 128, 0, 0x43], &p256[12..]].concat();
    assert!(matches!(AttestationKey::parse(&storage), Err(KeyError::Attributes(_))));
}

#[test]
fn a_name_says_its_own_length() {
    for (id, length) in [(SHA256, 32), (SHA384, 48), (0x000d, 64)] {
        let name = |length| [&id.to_be_bytes()[..], &vec![1; length]].concat();
        assert!(AkName::parse(&name(length)).is_some());
        assert!(AkName::parse(&name(length - 1)).is_none() && AkName::parse(&name(length + 1)).is_none());
    }
    assert!(AkName::parse(&[]).is_none());
    assert!(AkName::parse(&[&SHA1.to_be_bytes()[..], &[1; 20]].concat()).is_none());
    let mut ak = Ak::p256();
    ak.name_hash = SHA384;
    assert_eq!(verdict(&good().signed(&ak), &trust(&ak)).unwrap().ak_name().as_bytes().len(), 50);
}

#[test]
fn pcr_numbers_have_one_form() {
    let read = |text: &str| serde_json::from_str::<PcrIndex>(text).ok().map(PcrIndex::get);
    assert_eq!(read("7"), Some(7));
    assert_eq!(read(r#""7""#), Some(7));
    assert_eq!(read(r#""0""#), Some(0));
    for text in ["32", "-1", r#""07""#, r#""+7""#, r#"" 7""#, r#""""#, "7.0", "null"] {
        assert_eq!(read(text), None, "{text}");
    }
}
