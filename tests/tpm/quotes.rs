//! Quotes of a real TPM: ours by every kind of key, and tpm2-tools' own, each verified by both.

use crate::enrolment::enrolled;
use crate::soft;
use crate::swtpm::{Swtpm, now, quoter_at};
use portcullis::agent::tpm::{AkKind, AkSource, EkKind, Quoter, Selection, TpmError};
use portcullis::appraisal::tpm2_reference::Tpm2Reference;
use portcullis::denial::Denial;
use portcullis::evidence::outcome::Checks;
use portcullis::evidence::tpm2::{
    AkName, AttestationKey, Counters, Due, EnrolledAk, Examination, Hash, PcrIndex, PcrValue, PublicArea,
    Refusal, Tpm2Trust, VerifiedTpm2, examine, parse, verify,
};
use portcullis::proto::v1::Document;

const BOUND: [u8; 64] = [0x5a; 64];

fn none_seen(_: &AkName) -> Option<Counters> {
    None
}

fn verdict(document: &Document, ak: &EnrolledAk) -> Result<VerifiedTpm2, Refusal> {
    let trust = Tpm2Trust::new([ak.clone()], 1);
    verify(&document.body, &[], &BOUND, &trust, &none_seen, now(), &mut Checks::new())
}

fn extend(tpm: &Swtpm, pcr: u8, data: &[u8]) {
    let digest = |hash: Hash| hex::encode(hash.digest(&[data]));
    let what = format!("{pcr}:sha256={},sha384={}", digest(Hash::Sha256), digest(Hash::Sha384));
    tpm.tool("tpm2_pcrextend", &[&what]);
}

#[test]
fn a_quote_of_every_kind_of_key_verifies_and_tpm2_checkquote_agrees() {
    let Some(tpm) = Swtpm::start() else { return };
    extend(&tpm, 0, b"firmware");
    // More than eight are read in several goes by us; tpm2_checkquote 5.4 gives up there.
    let eleven = Selection::new(&[(Hash::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7, 10, 16, 23])]).unwrap();
    let selection = Selection::new(&[(Hash::Sha256, &[0, 1, 2, 3, 4, 7, 16])]).unwrap();
    for kind in [AkKind::EcdsaP256, AkKind::EcdsaP384, AkKind::RsaSsa2048, AkKind::RsaPss2048] {
        let mut quoter = tpm.quoter(AkSource::Primary(kind), selection.clone(), None);
        let ak = enrolled(&tpm, &mut quoter, EkKind::Rsa2048);
        let document = quoter.document(&BOUND).unwrap();
        drop(quoter);
        let verified = verdict(&document, &ak).unwrap();
        let expected = Hash::Sha256.digest(&[&[0; 32], &Hash::Sha256.digest(&[b"firmware"])]);
        let pcrs = &verified.claims().pcrs[&Hash::Sha256];
        assert_eq!(pcrs[&PcrIndex::new(0).unwrap()].as_bytes(), expected);
        assert_eq!(pcrs.len(), 7);
        let wide = tpm.quoter(AkSource::Primary(kind), eleven.clone(), None).document(&BOUND).unwrap();
        assert_eq!(verdict(&wide, &ak).unwrap().claims().pcrs[&Hash::Sha256].len(), 11);
        // tpm2_checkquote 5.4 does not take RSAPSS (the vectors' README says so too).
        if kind != AkKind::RsaPss2048 {
            let hash = if kind == AkKind::EcdsaP384 { "sha384" } else { "sha256" };
            check_by_tools(&tpm, &document, &ak, hash);
        }
    }
}

fn check_by_tools(tpm: &Swtpm, document: &Document, ak: &EnrolledAk, hash: &str) {
    let parsed = parse(&document.body).unwrap();
    let signature = field(&document.body, 2);
    tpm.write("ours.attest", parsed.attest_bytes);
    tpm.write("ours.sig", &signature);
    tpm.write("ours.pcrs", &parsed.pcr_values.concat());
    tpm.write("ours.pub", &soft::sized(ak.key.public().as_bytes()));
    let extra = hex::encode(Hash::Sha256.digest(&[&BOUND]));
    let check = |extra: &str| {
        let pcrs = "sha256:0,1,2,3,4,7,16";
        tpm.try_tool(
            "tpm2_checkquote",
            &[
                "-u",
                "ours.pub",
                "-m",
                "ours.attest",
                "-s",
                "ours.sig",
                "-f",
                "ours.pcrs",
                "-l",
                pcrs,
                "-q",
                extra,
                "-g",
                hash,
            ],
        )
    };
    let (good, said) = check(&extra);
    assert!(good, "{said}");
    let (good, _) = check(&extra.replace('0', "1"));
    assert!(!good, "tpm2_checkquote takes any qualifying data");
}

/// The bytes of the first field with this number.
fn field(body: &[u8], number: u8) -> Vec<u8> {
    let mut rest = body;
    loop {
        let (mut length, mut at) = (0, 1);
        for shift in [0, 7, 14] {
            length |= usize::from(rest[at] & 0x7f) << shift;
            at += 1;
            if rest[at - 1] & 0x80 == 0 {
                break;
            }
        }
        if rest[0] == number << 3 | 2 {
            return rest[at..at + length].to_vec();
        }
        rest = &rest[at + length..];
    }
}

#[test]
fn a_quote_of_tpm2_tools_verifies_here() {
    let Some(tpm) = Swtpm::start() else { return };
    extend(&tpm, 4, b"boot loader");
    for (alg, scheme) in [("ecc", "ecdsa"), ("rsa", "rsassa"), ("rsa", "rsapss")] {
        tpm.tool("tpm2_createek", &["-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub"]);
        let make = [
            "-C", "ek.ctx", "-c", "ak.ctx", "-G", alg, "-g", "sha256", "-s", scheme, "-u", "ak.pub", "-n",
            "ak.name",
        ];
        tpm.tool("tpm2_createak", &make);
        let extra = hex::encode(Hash::Sha256.digest(&[&BOUND]));
        let quote =
            ["-c", "ak.ctx", "-l", "sha256:0,4,7+sha384:4", "-q", &extra, "-g", "sha256", "--scheme", scheme];
        let files = ["-m", "attest", "-s", "signature", "-o", "values", "--pcrs_format=values"];
        tpm.tool("tpm2_quote", &[&quote[..], &files].concat());
        let values = tpm.read("values");
        let split = [&values[..32], &values[32..64], &values[64..96], &values[96..]].map(<[u8]>::to_vec);
        let body = soft::body(&tpm.read("attest"), &tpm.read("signature"), &split, &tpm.read("ak.name"), &[]);
        let ak = EnrolledAk {
            node: "node".to_owned(),
            key: AttestationKey::new(PublicArea::parse_sized(&tpm.read("ak.pub")).unwrap()).unwrap(),
            ek_sha256: [1; 32],
            counters: Counters::default(),
            enrolled_at: portcullis::time::WallTime(0),
            not_after: now().wall.plus(60_000),
        };
        let document = Document { format: "tpm2".to_owned(), body, endorsements: vec![] };
        let verified = verdict(&document, &ak).unwrap();
        let pcr_4 = &verified.claims().pcrs[&Hash::Sha384][&PcrIndex::new(4).unwrap()];
        let expected = Hash::Sha384.digest(&[&[0; 48], &Hash::Sha384.digest(&[b"boot loader"])]);
        assert_eq!(pcr_4.as_bytes(), expected, "{scheme}");
    }
}

#[test]
fn a_key_below_the_ek_is_loaded_again_and_quotes_as_the_same() {
    let Some(tpm) = Swtpm::start() else { return };
    for ek in [EkKind::Rsa2048, EkKind::EccP256, EkKind::EccP384] {
        let mut open = tpm.open();
        let loaded = open.endorsement_key(ek).unwrap();
        let wrapped = open.create_ak(&loaded, ek, AkKind::EcdsaP256).unwrap();
        open.flush(loaded).unwrap();
        drop(open);
        let json = serde_json::to_string(&wrapped).unwrap();
        let wrapped = serde_json::from_str(&json).unwrap();
        let source = AkSource::Wrapped(Box::new(wrapped));
        let mut quoter = tpm.quoter(source.clone(), Selection::of_firmware(), None);
        let ak = enrolled(&tpm, &mut quoter, EkKind::Rsa2048);
        drop(quoter);
        let mut again = tpm.quoter(source, Selection::of_firmware(), None);
        for _ in 0..8 {
            let document = again.document(&BOUND).unwrap();
            assert!(verdict(&document, &ak).is_ok());
        }
    }
}

#[test]
fn a_reset_is_noticed_and_the_quoter_goes_on_after_it() {
    let Some(mut tpm) = Swtpm::start() else { return };
    extend(&tpm, 7, b"secure boot");
    let source = AkSource::Primary(AkKind::EcdsaP256);
    let mut quoter = tpm.quoter(source.clone(), Selection::of_firmware(), None);
    let ak = enrolled(&tpm, &mut quoter, EkKind::Rsa2048);
    let before = quoter.document(&BOUND).unwrap();
    let first = verdict(&before, &ak).unwrap();
    drop(quoter);
    tpm.shut_down();
    tpm.power_on();
    let mut quoter = tpm.quoter(source, Selection::of_firmware(), None);
    let after = quoter.document(&BOUND).unwrap();
    let second = verdict(&after, &ak).unwrap();
    assert_eq!(second.counters().reset, first.counters().reset + 1);
    assert_eq!(second.ak_name(), first.ak_name());
    assert_ne!(second.subject(), first.subject());
    // What was quoted before the reset counts no more once a quote after it was seen.
    let trust = Tpm2Trust::new([ak], 1);
    let seen = |_: &AkName| Some(second.counters());
    let old = verify(&before.body, &[], &BOUND, &trust, &seen, now(), &mut Checks::new());
    assert_eq!(old.unwrap_err().denial, Denial::EvidenceCounterBackwards);
    assert!(verify(&after.body, &[], &BOUND, &trust, &seen, now(), &mut Checks::new()).is_ok());
}

#[test]
fn after_a_loss_of_power_the_clock_is_not_safe_until_it_is_past_all_that_it_may_have_said() {
    let Some(mut tpm) = Swtpm::start() else { return };
    let mut quoter = tpm.quoter(AkSource::Primary(AkKind::EcdsaP256), Selection::of_firmware(), None);
    let ak = enrolled(&tpm, &mut quoter, EkKind::Rsa2048);
    // The quoter finds its TPM restarted, opens it again and loads its key, by itself.
    tpm.power_off();
    tpm.power_on();
    let unsafe_clock = document_after_restart(&tpm, &mut quoter);
    assert_eq!(verdict(&unsafe_clock, &ak).unwrap_err().denial, Denial::EvidenceCounterBackwards);
    quoter.close();
    // Within the hour by itself; at once where its owner sets it past the next time that it would have been stored.
    tpm.tool("tpm2_setclock", &["10000000"]);
    assert!(verdict(&quoter.document(&BOUND).unwrap(), &ak).is_ok());
}

/// By this quoter; where another took its TPM's port meanwhile, by a new one in its place.
fn document_after_restart(tpm: &Swtpm, quoter: &mut Quoter) -> Document {
    match quoter.document(&BOUND) {
        Err(TpmError::Open(..) | TpmError::Io(_)) => {
            *quoter = tpm.quoter(AkSource::Primary(AkKind::EcdsaP256), Selection::of_firmware(), None);
            quoter.document(&BOUND).unwrap()
        }
        outcome => outcome.unwrap(),
    }
}

#[test]
fn a_tpm_that_is_gone_is_an_error_and_nothing_hangs() {
    let Some(mut tpm) = Swtpm::start() else { return };
    let mut quoter = tpm.quoter(AkSource::Primary(AkKind::EcdsaP256), Selection::of_firmware(), None);
    quoter.document(&BOUND).unwrap();
    tpm.power_off();
    for _ in 0..2 {
        assert!(matches!(quoter.document(&BOUND), Err(TpmError::Open(..) | TpmError::Io(_))));
    }
}

#[test]
fn a_socket_in_the_file_system_does_as_well() {
    let Some(mut tpm) = Swtpm::start() else { return };
    tpm.shut_down();
    let address = tpm.power_on_at_socket();
    let mut quoter = quoter_at(address, AkSource::Primary(AkKind::EcdsaP256), Selection::of_firmware(), None);
    let ak = enrolled(&tpm, &mut quoter, EkKind::Rsa2048);
    assert!(verdict(&quoter.document(&BOUND).unwrap(), &ak).is_ok());
}

#[test]
fn an_event_log_that_made_the_pcrs_replays_to_them() {
    let Some(tpm) = Swtpm::start() else { return };
    let events: [(u32, u32, &[u8]); 3] =
        [(0, 8, b"firmware"), (7, 0x8000_0001, b"SecureBoot on"), (4, 0x8000_0003, b"boot loader")];
    for (pcr, _, data) in events {
        extend(&tpm, pcr.try_into().unwrap(), data);
    }
    let log = tpm.write("log", &soft::event_log(&[soft::SHA1, soft::SHA256], None, &events));
    let source = AkSource::Primary(AkKind::EcdsaP256);
    let mut quoter = tpm.quoter(source.clone(), Selection::of_firmware(), Some(log));
    let ak = enrolled(&tpm, &mut quoter, EkKind::EccP384);
    let verified = verdict(&quoter.document(&BOUND).unwrap(), &ak).unwrap();
    drop(quoter);
    let events_of = &verified.claims().event_log.as_ref().unwrap().events[&Hash::Sha256];
    let of = |pcr| &events_of[&PcrIndex::new(pcr).unwrap()];
    let digest = |data: &[u8]| PcrValue::new(&Hash::Sha256.digest(&[data])).unwrap();
    assert_eq!(*of(4), [digest(b"boot loader")]);
    let reference = format!(
        "allow_unmeasured = [1, 2, 3, 5, 6]\n[events.sha256.4]\nrequired = [\"{}\"]\n[events.sha256.7]\nallowed = [\"{}\"]\n",
        digest(b"boot loader"),
        digest(b"SecureBoot on"),
    );
    let reference: Tpm2Reference = toml::from_str(&reference).unwrap();
    assert_eq!(reference.check_shape(), Ok(()));
    assert_eq!(reference.acceptable(verified.claims()), Ok(()));
    assert_eq!(reference.differences(verified.claims()), Vec::<String>::new());
    let short = tpm.write("short", &soft::event_log(&[soft::SHA256], None, &[(4, 1, b"another loader")]));
    let document = tpm.quoter(source, Selection::of_firmware(), Some(short)).document(&BOUND).unwrap();
    assert_eq!(verdict(&document, &ak).unwrap_err().denial, Denial::EvidenceSignatureInvalid);
}

#[test]
fn another_challenge_another_tpm_and_another_type_are_refused() {
    let (Some(tpm), Some(other)) = (Swtpm::start(), Swtpm::start()) else { return };
    let source = AkSource::Primary(AkKind::EcdsaP256);
    let mut quoter = tpm.quoter(source.clone(), Selection::of_firmware(), None);
    let ak = enrolled(&tpm, &mut quoter, EkKind::Rsa2048);
    let replayed = quoter.document(&[0x5b; 64]).unwrap();
    drop(quoter);
    assert_eq!(verdict(&replayed, &ak).unwrap_err().denial, Denial::EvidenceBindingMismatch);
    let foreign = other.quoter(source, Selection::of_firmware(), None).document(&BOUND).unwrap();
    assert_eq!(verdict(&foreign, &ak).unwrap_err().denial, Denial::EndorsementUntrusted);
    // The time structure, signed by the very key, with the very qualifying data.
    tpm.tool("tpm2_createek", &["-G", "rsa", "-c", "ek.ctx"]);
    let make = [
        "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa", "-u", "ak.pub", "-n",
        "ak.name",
    ];
    tpm.tool("tpm2_createak", &make);
    let extra = hex::encode(Hash::Sha256.digest(&[&BOUND]));
    tpm.tool(
        "tpm2_gettime",
        &["-c", "ak.ctx", "-g", "sha256", "-q", &extra, "-o", "time.sig", "--attestation", "time.attest"],
    );
    let body = soft::body(&tpm.read("time.attest"), &tpm.read("time.sig"), &[], &tpm.read("ak.name"), &[]);
    let key = AttestationKey::new(PublicArea::parse_sized(&tpm.read("ak.pub")).unwrap()).unwrap();
    let trust = Tpm2Trust::new([EnrolledAk { key, ..ak }], 1);
    let refused: Result<Examination, Refusal> =
        examine(&body, Some(Due::Bound(&BOUND)), &trust, &none_seen, now(), &mut Checks::new());
    assert_eq!(refused.unwrap_err().denial, Denial::EvidenceMalformed);
}
