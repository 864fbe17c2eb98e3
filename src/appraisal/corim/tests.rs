//! Manifests of others, and synthetic ones, good and wrong in one thing at a time.

use super::*;
use crate::evidence::nitro::tests::support::{self, array, bytes, head, map, text, unsigned};
use crate::limits;
use crate::time::{BootTime, Now};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// 2026-09-21T14:13:20Z, seconds.
const NOW: u64 = 1_790_000_000;

fn at(seconds: u64) -> Now {
    Now { wall: WallTime(seconds * 1000), boot: BootTime(1) }
}

fn tagged(tag: u64, value: Vec<u8>) -> Vec<u8> {
    [head(6, tag), value].concat()
}

fn negative(n: u64) -> Vec<u8> {
    head(1, n)
}

fn fields(entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<_> = entries.iter().map(|(key, value)| (unsigned(*key), value.clone())).collect();
    map(&entries, true)
}

fn time(seconds: u64) -> Vec<u8> {
    tagged(1, unsigned(seconds))
}

fn digest(byte: u8) -> Vec<u8> {
    array(&[unsigned(7), bytes(&[byte; 48])])
}

/// `{0: class {1: vendor}}` and one PCR with one digest.
fn triple() -> Vec<u8> {
    array(&[environment(), array(&[measurement(&[(2, array(&[digest(1)]))])])])
}

fn environment() -> Vec<u8> {
    fields(&[(0, fields(&[(1, text("ACME"))]))])
}

fn measurement(values: &[(u64, Vec<u8>)]) -> Vec<u8> {
    fields(&[(0, unsigned(8)), (1, fields(values))])
}

fn comid(triples: &[(u64, Vec<u8>)]) -> Vec<u8> {
    tagged(506, bytes(&fields(&[(1, fields(&[(0, text("tag"))])), (4, fields(triples))])))
}

fn corim(others: &[(u64, Vec<u8>)], tags: &[Vec<u8>]) -> Vec<u8> {
    tagged(501, fields(&[&[(0, text("manifest")), (1, array(tags))], others].concat()))
}

fn payload() -> Vec<u8> {
    corim(&[], &[comid(&[(0, array(&[triple()]))])])
}

/// A payload whose only measurement has these values.
fn with_values(values: &[(u64, Vec<u8>)]) -> Vec<u8> {
    with_triple(array(&[environment(), array(&[measurement(values)])]))
}

fn with_triple(triple: Vec<u8>) -> Vec<u8> {
    corim(&[], &[comid(&[(0, array(&[triple]))])])
}

fn meta(validity: Option<(Option<u64>, u64)>) -> Vec<u8> {
    let signer = fields(&[(0, text("ACME Ltd"))]);
    let span = |(from, to): (Option<u64>, u64)| {
        let from = from.map(|from| (0, time(from)));
        fields(&from.into_iter().chain([(1, time(to))]).collect::<Vec<_>>())
    };
    let validity = validity.map(|validity| (1, span(validity)));
    fields(&[(0, signer)].into_iter().chain(validity).collect::<Vec<_>>())
}

fn header(others: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let own = [(1, negative(6)), (3, text("application/rim+cbor")), (4, bytes(b"1"))];
    fields(&[&own[..], others].concat())
}

fn good_header() -> Vec<u8> {
    header(&[(8, bytes(&meta(Some((None, NOW + 100)))))])
}

static SIGNER: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());

fn key_of(pair: &EcdsaKeyPair) -> SignerKey {
    use base64::Engine;
    let encoder = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let point = pair.public_key().as_ref();
    let (x, y) = (encoder.encode(&point[1..33]), encoder.encode(&point[33..]));
    SignerKey::parse(format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#).as_bytes()).unwrap()
}

fn signature(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let message = array(&[text("Signature1"), bytes(protected), bytes(&[]), bytes(payload)]);
    SIGNER.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec()
}

fn signed(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    tagged(18, support::envelope(protected, &[0xa0], payload, &signature(protected, payload)))
}

fn outcome(payload: &[u8]) -> Result<Manifest, Error> {
    read(&signed(&good_header(), payload), &key_of(&SIGNER), at(NOW))
}

fn outcome_of_header(protected: &[u8]) -> Result<Manifest, Error> {
    read(&signed(protected, &payload()), &key_of(&SIGNER), at(NOW))
}

fn vectors() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/corim");
    if folder.is_dir() {
        return Some(folder);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the CoRIM vectors are absent");
    eprintln!("NOT RUN: the CoRIM vectors are absent from {}", folder.display());
    None
}

/// Within the validity of veraison's example, 2021-12-31 to 2025-12-31.
const VERAISON: u64 = 1_700_000_000;

#[test]
fn a_published_manifest_gives_its_references_and_an_unsigned_one_nothing() {
    let Some(folder) = vectors() else { return };
    let file = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let key = SignerKey::parse(&file("ec-p256-pub.jwk")).unwrap();
    let manifest = read(&file("signed-good-corim.cbor"), &key, at(VERAISON)).unwrap();
    assert_eq!(manifest.id, Identifier::Text("test corim id".into()));
    assert_eq!(manifest.signer, "ACME Ltd signing key");
    assert_eq!(manifest.not_before, Some(WallTime(0x61ce_4800 * 1000)));
    assert_eq!(manifest.not_after, Some(WallTime(0x6954_6780 * 1000)));
    assert!(manifest.passed_over.is_empty() && manifest.profiles.is_empty());
    let [triple] = manifest.references.as_slice() else { panic!("one triple") };
    assert_eq!(triple.environment.vendor.as_deref(), Some("ACME"));
    assert_eq!(triple.environment.model.as_deref(), Some("RoadRunner"));
    let class = Identifier::Bytes(b"acme-implementation-id-000000001".to_vec());
    assert_eq!(triple.environment.class_id, Some(class));
    let digests: Vec<String> = triple
        .measurements
        .iter()
        .map(|measurement| {
            let key = measurement.key.as_ref().unwrap().to_string();
            assert_eq!(key, "31fb5abf-023e-4992-aa4e-95f9c1503bfa");
            let [digest] = measurement.digests.as_slice() else { panic!("one digest") };
            assert_eq!(digest.algorithm, DigestAlgorithm::Sha256);
            hex::encode(&digest.value[..4])
        })
        .collect();
    assert_eq!(digests, ["87428fc5", "02638299", "a3a5e715"]);

    for (seconds, error) in [
        (0x6954_6780, Error::Expired(WallTime(0x6954_6780 * 1000))),
        (NOW, Error::Expired(WallTime(0x6954_6780 * 1000))),
        (0x61ce_4800 - 31, Error::NotYetValid(WallTime(0x61ce_4800 * 1000))),
    ] {
        assert_eq!(read(&file("signed-good-corim.cbor"), &key, at(seconds)), Err(error), "{seconds}");
    }
    for unsigned in ["unsigned-good-corim.cbor", "corim-1.cbor"] {
        assert_eq!(read(&file(unsigned), &key, at(VERAISON)), Err(Error::NotSigned), "{unsigned}");
    }
    let other = key_of(&SIGNER);
    assert_eq!(read(&file("signed-good-corim.cbor"), &other, at(VERAISON)), Err(Error::Signature));
}

#[test]
fn a_published_manifest_altered_or_cut_anywhere_is_refused() {
    let Some(folder) = vectors() else { return };
    let file = std::fs::read(folder.join("signed-good-corim.cbor")).unwrap();
    let key = SignerKey::parse(&std::fs::read(folder.join("ec-p256-pub.jwk")).unwrap()).unwrap();
    for byte in 0..file.len() {
        for bit in 0..8 {
            let mut altered = file.clone();
            altered[byte] ^= 1 << bit;
            assert!(read(&altered, &key, at(VERAISON)).is_err(), "byte {byte} bit {bit}");
        }
        assert!(read(&file[..byte], &key, at(VERAISON)).is_err(), "cut at {byte}");
    }
    let trailing = read(&[&file[..], &[0]].concat(), &key, at(VERAISON));
    assert_eq!(trailing, Err(Error::Encoding { part: "file", error: cbor::Error::Trailing }));
}

#[test]
fn the_unsigned_examples_read_once_somebody_signs_them() {
    let Some(folder) = vectors() else { return };
    let manifest = outcome(&std::fs::read(folder.join("corim-1.cbor")).unwrap()).unwrap();
    let [triple] = manifest.references.as_slice() else { panic!("one triple") };
    assert_eq!(triple.environment.layer, Some(1));
    let class = triple.environment.class_id.as_ref().unwrap().to_string();
    assert_eq!(class, "67b28b6c-34cc-40a1-9117-ab5b05911e37");
    let [measurement] = triple.measurements.as_slice() else { panic!("one measurement") };
    assert_eq!(measurement.version, Some(("1.0.0".into(), Some(Identifier::Number(16384)))));
    assert_eq!(hex::encode(&measurement.digests[0].value[..4]), "44aa336a");
    let other = outcome(&std::fs::read(folder.join("unsigned-good-corim.cbor")).unwrap()).unwrap();
    assert_eq!(other.references[0].measurements.len(), 3);
}

#[test]
fn every_kind_of_value_is_read() {
    let raw = |value: &[u8]| tagged(560, bytes(value));
    let masked = |value: &[u8], mask: &[u8]| tagged(563, array(&[bytes(value), bytes(mask)]));
    let one = |values: &[(u64, Vec<u8>)]| {
        outcome(&with_values(values)).unwrap().references[0].measurements[0].clone()
    };
    let plain = one(&[(2, array(&[digest(1)]))]);
    assert_eq!(plain.key, Some(Identifier::Number(8)));
    assert_eq!(plain.key.as_ref().and_then(Identifier::as_number), Some(8));
    assert_eq!(plain.digests, [Digest { algorithm: DigestAlgorithm::Sha384, value: vec![1; 48] }]);
    let several = array(&[
        array(&[text("sha-256"), bytes(&[2; 32])]),
        array(&[negative(42), bytes(&[3; 48])]),
        array(&[unsigned(8), bytes(&[4; 64])]),
    ]);
    let algorithms: Vec<_> = one(&[(2, several)]).digests.iter().map(|digest| digest.algorithm).collect();
    assert_eq!(algorithms, [DigestAlgorithm::Sha256, DigestAlgorithm::Sha384, DigestAlgorithm::Sha512]);
    assert_eq!(one(&[(1, unsigned(3))]).svn, Some(Svn::Exactly(3)));
    assert_eq!(one(&[(1, tagged(552, unsigned(3)))]).svn, Some(Svn::Exactly(3)));
    assert_eq!(one(&[(1, tagged(553, unsigned(3)))]).svn, Some(Svn::AtLeast(3)));
    assert_eq!(one(&[(4, raw(b"ab"))]).raw_value, Some(RawValue { value: b"ab".to_vec(), mask: None }));
    let with_mask = Some(RawValue { value: b"ab".to_vec(), mask: Some(vec![0xff, 0]) });
    assert_eq!(one(&[(4, raw(b"ab")), (5, bytes(&[0xff, 0]))]).raw_value, with_mask);
    assert_eq!(one(&[(4, masked(b"ab", &[0xff, 0]))]).raw_value, with_mask);
    assert_eq!(one(&[(11, text("firmware"))]).name.as_deref(), Some("firmware"));
    let registers = map(&[(unsigned(0), array(&[digest(5)])), (text("rtmr"), array(&[digest(6)]))], true);
    let registers = one(&[(14, registers)]).registers;
    assert_eq!(registers[0].0, Identifier::Number(0));
    assert_eq!(registers[1].0, Identifier::Text("rtmr".into()));
    assert_eq!(registers[1].1[0].value, vec![6; 48]);
}

#[test]
fn what_is_not_understood_in_a_reference_is_an_error_and_not_left_out() {
    let good = (2, array(&[digest(1)]));
    let unknown = |values: &[(u64, Vec<u8>)]| {
        let error = outcome(&with_values(values)).unwrap_err();
        assert!(matches!(error, Error::Unknown(..)), "{error}");
    };
    unknown(&[good.clone(), (3, fields(&[(3, vec![0xf4])]))]);
    unknown(&[good.clone(), (6, bytes(&[1; 6]))]);
    unknown(&[good.clone(), (13, array(&[text("key")]))]);
    unknown(&[good.clone(), (99, unsigned(1))]);
    unknown(&[good.clone(), (1, tagged(564, unsigned(1)))]);
    unknown(&[(2, array(&[array(&[unsigned(2), bytes(&[1; 16])])]))]);
    unknown(&[(2, array(&[array(&[text("md5"), bytes(&[1; 16])])]))]);
    unknown(&[(4, tagged(565, bytes(&[1])))]);
    let triple = |environment: Vec<u8>, measurement: Vec<u8>| {
        let error = outcome(&with_triple(array(&[environment, array(&[measurement])]))).unwrap_err();
        assert!(matches!(error, Error::Unknown(..)), "{error}");
    };
    let measured = fields(&[(1, fields(std::slice::from_ref(&good)))]);
    let authorized = fields(&[(1, fields(std::slice::from_ref(&good))), (2, array(&[text("key")]))]);
    triple(environment(), authorized);
    triple(fields(&[(0, fields(&[(1, text("ACME"))])), (3, unsigned(1))]), measured.clone());
    triple(fields(&[(0, fields(&[(1, text("ACME")), (5, unsigned(1))]))]), measured.clone());
    triple(fields(&[(1, tagged(554, text("key")))]), measured);
}

#[test]
fn values_that_say_nothing_are_refused() {
    let wrong = |values: &[(u64, Vec<u8>)]| {
        let error = outcome(&with_values(values)).unwrap_err();
        assert!(matches!(error, Error::Wrong(_) | Error::Missing(_)), "{error}");
    };
    wrong(&[]);
    wrong(&[(2, array(&[]))]);
    wrong(&[(2, digest(1))]);
    wrong(&[(2, array(&[digest(0)]))]);
    wrong(&[(2, array(&[array(&[unsigned(7), bytes(&[1; 32])])]))]);
    wrong(&[(2, array(&[array(&[unsigned(1), bytes(&[])])]))]);
    wrong(&[(2, array(&[digest(1), digest(2)]))]);
    wrong(&[(2, array(&[array(&[unsigned(7), bytes(&[1; 48]), unsigned(1)])]))]);
    wrong(&[(4, bytes(b"ab"))]);
    wrong(&[(4, tagged(560, bytes(b"")))]);
    wrong(&[(5, bytes(b"ab"))]);
    wrong(&[(4, tagged(560, bytes(b"ab"))), (5, bytes(&[0xff]))]);
    wrong(&[(4, tagged(560, bytes(b"ab"))), (5, bytes(&[0, 0]))]);
    wrong(&[(14, map(&[], true))]);
    wrong(&[(14, map(&[(unsigned(0), array(&[]))], true))]);
    wrong(&[(1, text("3"))]);
    let measured = measurement(&[(2, array(&[digest(1)]))]);
    for triple in [
        array(&[fields(&[]), array(std::slice::from_ref(&measured))]),
        array(&[fields(&[(0, fields(&[]))]), array(std::slice::from_ref(&measured))]),
        array(&[environment(), array(&[])]),
        array(&[environment()]),
        array(&[environment(), array(std::slice::from_ref(&measured)), unsigned(1)]),
    ] {
        let error = outcome(&with_triple(triple)).unwrap_err();
        assert!(matches!(error, Error::Wrong(_)), "{error}");
    }
    assert!(outcome(&with_triple(array(&[environment(), measured]))).is_ok(), "one without its array");
}

#[test]
fn what_is_no_reference_value_is_passed_over_by_name() {
    let reference = (0, array(&[triple()]));
    let tags = [comid(&[reference.clone(), (1, array(&[])), (3, array(&[]))]), tagged(505, bytes(&[0xa0]))];
    let others = [(2, array(&[])), (3, tagged(32, text("tag:acme.example,2026:profile"))), (5, array(&[]))];
    let manifest = outcome(&corim(&others, &tags)).unwrap();
    assert_eq!(manifest.references.len(), 1);
    assert_eq!(manifest.profiles, [Identifier::Text("tag:acme.example,2026:profile".into())]);
    let [dependent, endorsed, keys, coswid] = manifest.passed_over.as_slice() else {
        panic!("{:?}", manifest.passed_over)
    };
    assert!(dependent.starts_with("dependent-rims"));
    assert!(endorsed.starts_with("triples of kind 1") && keys.starts_with("triples of kind 3"));
    assert!(coswid.contains("software identity"));
    assert_eq!(outcome(&corim(&[], &[comid(&[(1, array(&[]))])])), Err(Error::Empty));
    assert_eq!(outcome(&corim(&[], &[comid(&[(0, array(&[]))])])), Err(Error::Wrong("reference-triples")));
    assert_eq!(outcome(&corim(&[], &[])), Err(Error::Wrong("tags")));
    let unknown_tag = outcome(&corim(&[], &[tagged(507, bytes(&[0xa0]))]));
    assert!(matches!(unknown_tag, Err(Error::Unknown("tags", _))));
    let member = outcome(&corim(&[(6, unsigned(1))], &[comid(std::slice::from_ref(&reference))]));
    assert!(matches!(member, Err(Error::Unknown("corim", _))));
    assert_eq!(outcome(&fields(&[])), Err(Error::Wrong("payload")));
}

#[test]
fn both_validities_count_and_the_narrower_one_is_given() {
    let key = key_of(&SIGNER);
    let file = |signature: Option<(Option<u64>, u64)>, manifest: Option<(Option<u64>, u64)>| {
        let validity = manifest.map(|(from, to)| {
            let from = from.map(|from| (0, time(from)));
            (4, fields(&from.into_iter().chain([(1, time(to))]).collect::<Vec<_>>()))
        });
        let others: Vec<_> = validity.into_iter().collect();
        let payload = corim(&others, &[comid(&[(0, array(&[triple()]))])]);
        let outcome = read(&signed(&header(&[(8, bytes(&meta(signature)))]), &payload), &key, at(NOW));
        outcome.map(|manifest| (manifest.not_before, manifest.not_after))
    };
    let wall = |seconds: u64| Some(WallTime(seconds * 1000));
    assert_eq!(file(None, None), Ok((None, None)));
    assert_eq!(file(Some((None, NOW + 9)), None), Ok((None, wall(NOW + 9))));
    assert_eq!(file(Some((Some(5), NOW + 9)), Some((Some(7), NOW + 8))), Ok((wall(7), wall(NOW + 8))));
    assert_eq!(file(Some((None, NOW)), Some((None, NOW + 9))), Err(Error::Expired(WallTime(NOW * 1000))));
    assert_eq!(file(Some((None, NOW + 9)), Some((None, NOW))), Err(Error::Expired(WallTime(NOW * 1000))));
    let later = Err(Error::NotYetValid(WallTime((NOW + 31) * 1000)));
    assert_eq!(file(Some((Some(NOW + 31), NOW + 99)), None), later);
    assert_eq!(file(None, Some((Some(NOW + 31), NOW + 99))), later);
    assert!(file(None, Some((Some(NOW + 30), NOW + 99))).is_ok());
    let endless = fields(&[(0, time(1))]);
    let payload = corim(&[(4, endless)], &[comid(&[(0, array(&[triple()]))])]);
    assert_eq!(outcome(&payload), Err(Error::Missing("not-after")));
}

#[test]
fn a_header_is_of_the_key_that_was_named_and_holds_nothing_unknown() {
    let meta = (8, bytes(&meta(None)));
    let of = |entries: &[(u64, Vec<u8>)]| outcome_of_header(&fields(entries)).map(|_| ());
    let content = (3, text("application/rim+cbor"));
    assert_eq!(of(&[(1, negative(6)), content.clone(), meta.clone()]), Ok(()));
    assert_eq!(of(&[(1, negative(8)), content.clone(), meta.clone()]), Ok(()));
    assert_eq!(of(&[(1, negative(34)), content.clone(), meta.clone()]), Err(Error::Algorithm));
    assert_eq!(of(&[(1, negative(7)), content.clone(), meta.clone()]), Err(Error::Algorithm));
    assert_eq!(of(&[(1, unsigned(5)), content.clone(), meta.clone()]), Err(Error::Algorithm));
    assert_eq!(of(&[(1, text("ES256")), content.clone(), meta.clone()]), Err(Error::Algorithm));
    assert_eq!(of(&[content.clone(), meta.clone()]), Err(Error::Missing("alg")));
    assert_eq!(of(&[(1, negative(6)), meta.clone()]), Err(Error::Missing("content type")));
    let other_content = (3, text("application/json"));
    assert_eq!(of(&[(1, negative(6)), other_content, meta.clone()]), Err(Error::Wrong("content type")));
    assert_eq!(of(&[(1, negative(6)), content.clone()]), Err(Error::Missing("corim-meta")));
    let unknown = |entry: (u64, Vec<u8>)| {
        let outcome = of(&[(1, negative(6)), content.clone(), meta.clone(), entry]);
        assert!(matches!(outcome, Err(Error::Unknown("protected header", _))), "{outcome:?}");
    };
    unknown((2, array(&[unsigned(99)])));
    unknown((258, negative(15)));
    let claims = fields(&[(1, text("ACME")), (4, unsigned(NOW)), (99, text("x"))]);
    let ended = of(&[(1, negative(6)), content.clone(), (15, claims)]);
    assert_eq!(ended, Err(Error::Expired(WallTime(NOW * 1000))));
    let claims = fields(&[(1, text("ACME")), (4, unsigned(NOW + 1)), (5, unsigned(NOW))]);
    assert_eq!(of(&[(1, negative(6)), content.clone(), (15, claims.clone())]), Ok(()));
    assert_eq!(of(&[(1, negative(6)), content, meta, (15, claims)]), Ok(()));
    assert!(matches!(outcome_of_header(&[]), Err(Error::Encoding { .. })));
}

#[test]
fn an_edwards_key_signs_too_and_no_key_signs_for_another() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let spki = [&hex::decode("302a300506032b6570032100").unwrap()[..], pair.public_key().as_ref()].concat();
    let key = SignerKey::parse(&spki).unwrap();
    let (meta, payload) = (bytes(&meta(None)), payload());
    let protected = fields(&[(1, negative(7)), (3, text("application/rim+cbor")), (8, meta)]);
    let message = array(&[text("Signature1"), bytes(&protected), bytes(&[]), bytes(&payload)]);
    let signature = pair.sign(&message);
    let file = tagged(18, support::envelope(&protected, &[0xa0], &payload, signature.as_ref()));
    assert!(read(&file, &key, at(NOW)).is_ok());
    assert_eq!(read(&file, &key_of(&SIGNER), at(NOW)), Err(Error::Algorithm));
    assert_eq!(read(&signed(&good_header(), &payload), &key, at(NOW)), Err(Error::Algorithm));
    let zeros = tagged(18, support::envelope(&good_header(), &[0xa0], &payload, &[0; 64]));
    assert_eq!(read(&zeros, &key_of(&SIGNER), at(NOW)), Err(Error::Signature));
}

#[test]
fn what_is_huge_deep_or_no_envelope_is_refused_at_once() {
    let key = key_of(&SIGNER);
    let refused = |file: &[u8]| read(file, &key, at(NOW)).unwrap_err();
    assert_eq!(refused(&vec![0x9f; 16 << 20]), Error::TooLong);
    for byte in [0x00, 0x5b, 0x81, 0x9f, 0xbf, 0xd2, 0xff] {
        assert!(matches!(refused(&vec![byte; limits::CORIM_BYTES]), Error::Encoding { .. }), "{byte:02x}");
        let nested = signed(&good_header(), &vec![byte; 4096]);
        assert!(matches!(refused(&nested), Error::Encoding { part: "payload", .. }), "{byte:02x}");
    }
    let untagged = support::envelope(&good_header(), &[0xa0], &payload(), &[0; 64]);
    assert_eq!(refused(&untagged), Error::NotSigned);
    assert_eq!(refused(&tagged(18, array(&[]))), Error::NotSigned);
    let nil_payload = array(&[bytes(&good_header()), vec![0xa0], vec![0xf6], bytes(&[0; 64])]);
    assert_eq!(refused(&tagged(18, nil_payload)), Error::NotSigned);
    assert!(matches!(refused(b""), Error::Encoding { .. }));
    let twice = tagged(501, map(&[(unsigned(0), text("a")), (unsigned(0), text("b"))], true));
    let outcome = outcome(&twice).unwrap_err();
    assert_eq!(outcome, Error::Encoding { part: "payload", error: cbor::Error::KeyRepeated });
}

proptest::proptest! {
    #[test]
    fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
        assert!(read(&bytes, &key_of(&SIGNER), at(NOW)).is_err());
        assert!(outcome(&bytes).is_err());
        let _ = SignerKey::parse(&bytes);
    }
}
