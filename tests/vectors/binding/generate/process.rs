//! `process` documents, good ones and one defect each.
//!
//! *Takes* the published file, for its P-256 signatures. *Gives* the file anew. *Denies* nothing.
//! *Source*: the release protocol, "process"; RFC 9052 §4.2, §4.4.

use super::cbor::{Item, encode, sorted, text};
use super::{fixed, p256_point, p256_spki, sha256};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
const BINDING: [u8; 64] = [0xb1; 64];
const AAD: &[u8] = b"portcullis.v1 process evidence";

/// Which node's key signs, and as which algorithm it says so.
#[derive(Clone, Copy)]
enum Signer {
    Ed25519(&'static str),
    P256(&'static str),
}

impl Signer {
    fn seed(self) -> [u8; 32] {
        let (Signer::Ed25519(node) | Signer::P256(node)) = self;
        fixed(&format!("node key of {node}"))
    }

    fn spki(self) -> Vec<u8> {
        match self {
            Signer::P256(_) => p256_spki(&self.seed()),
            Signer::Ed25519(_) => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&self.seed()).unwrap();
                [&hex::decode("302a300506032b6570032100").unwrap(), pair.public_key().as_ref()].concat()
            }
        }
    }

    /// COSE −8 or −7, as n of −1 − n.
    fn algorithm(self) -> Item {
        Item::Negative(if matches!(self, Signer::Ed25519(_)) { 7 } else { 6 })
    }

    /// Ed25519 signs the same way each time; P-256 does not, so a published signature is kept while it verifies.
    fn sign(self, message: &[u8], published: Option<Vec<u8>>) -> Vec<u8> {
        let seed = self.seed();
        if let Signer::Ed25519(_) = self {
            return Ed25519KeyPair::from_seed_unchecked(&seed).unwrap().sign(message).as_ref().to_vec();
        }
        let point = p256_point(&seed);
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point);
        if let Some(kept) = published.filter(|kept| key.verify(message, kept).is_ok()) {
            return kept;
        }
        let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, &seed, &point).unwrap();
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }
}

const EAST: Signer = Signer::Ed25519("east-1");
const WEST: Signer = Signer::P256("west-1");

/// A document about to be made; each case alters one thing of it.
struct Draft {
    name: &'static str,
    why: &'static str,
    /// None = accept.
    denial: Option<&'static str>,
    signer: Signer,
    payload: Item,
    protected: Option<Item>,
    aad: &'static [u8],
    now: u64,
    /// What is done to the four parts after they are signed.
    after: fn(&mut Vec<Item>),
    /// What is done to the body.
    last: fn(Vec<u8>) -> Vec<u8>,
}

fn draft(name: &'static str, why: &'static str, denial: Option<&'static str>) -> Draft {
    let payload = sorted(claims("east-1", NOW, full_process()));
    let (after, last): (fn(&mut Vec<Item>), fn(Vec<u8>) -> Vec<u8>) = (|_| (), |body| body);
    Draft { name, why, denial, signer: EAST, payload, protected: None, aad: AAD, now: NOW, after, last }
}

fn claims(node: &str, iat: u64, process: Item) -> Vec<(Item, Item)> {
    vec![
        (Item::Unsigned(10), Item::Bytes(BINDING.to_vec())),
        (Item::Unsigned(6), Item::Unsigned(iat)),
        (Item::Unsigned(265), text("urn:portcullis:process:1")),
        (text("node"), text(node)),
        (text("boot_id"), text("0b5e7a0c-4d1f-4e5b-9a3e-2f6d8c1b7a90")),
        (text("process"), process),
    ]
}

fn executable(path: &str) -> Vec<(Item, Item)> {
    vec![(text("path"), text(path)), (text("sha-256"), Item::Bytes(sha256(b"the program").to_vec()))]
}

fn least(path: &str) -> Vec<(Item, Item)> {
    vec![
        (text("executable"), sorted(executable(path))),
        (text("uid"), Item::Unsigned(1007)),
        (text("gid"), Item::Unsigned(1008)),
        (text("groups"), Item::Array(Vec::new())),
        (text("arguments-sha-256"), Item::Bytes(sha256(b"checkout\0--serve\0").to_vec())),
        (text("cgroup"), text("/")),
        (text("start-time"), Item::Unsigned(123_456_789)),
    ]
}

fn full_process() -> Item {
    let mut entries = least("/opt/shop/checkout");
    let mut file = executable("/opt/shop/checkout");
    file.push((text("fs-verity"), Item::Bytes(sha256(b"its fs-verity digest").to_vec())));
    entries[0].1 = sorted(file);
    entries[3].1 = Item::Array([4, 24, 1008, 70_000].map(Item::Unsigned).to_vec());
    entries[5].1 = text("/system.slice/checkout.service");
    entries.push((text("systemd-unit"), text("checkout.service")));
    entries.push((text("container-id"), text(&hex::encode(fixed("container")))));
    sorted(entries)
}

fn launcher() -> Item {
    let program = |path: &str| {
        let digest = Item::Bytes(sha256(path.as_bytes()).to_vec());
        sorted(vec![(text("path"), text(path)), (text("sha-256"), digest)])
    };
    let mut entries = least("/usr/local/bin/portcullis");
    let programs = vec![program("/usr/bin/python3.11"), program("/opt/shop/job.py")];
    entries.push((text("program"), Item::Array(programs)));
    sorted(entries)
}

fn east(process: Item) -> Item {
    sorted(claims("east-1", NOW, process))
}

fn altered(alter: impl FnOnce(&mut Vec<(Item, Item)>)) -> Item {
    let mut entries = claims("east-1", NOW, full_process());
    alter(&mut entries);
    sorted(entries)
}

fn accepted() -> Vec<Draft> {
    let west = |process| sorted(claims("west-1", NOW, process));
    vec![
        draft("eddsa", "every claim there is, signed with Ed25519", None),
        Draft {
            signer: WEST,
            payload: west(full_process()),
            ..draft("es256", "the same, signed with P-256", None)
        },
        Draft {
            signer: WEST,
            payload: west(sorted(least("/opt/shop/checkout"))),
            ..draft("least", "without fs-verity, unit, container and groups", None)
        },
        Draft {
            signer: WEST,
            payload: west(full_process()),
            after: twin,
            ..draft("es256_twin", "(r, n-s) of a signature is as good: the challenge is single-use", None)
        },
        Draft {
            payload: east(launcher()),
            ..draft("launcher", "a launcher and the files that it will run", None)
        },
        Draft { now: NOW + 60, ..draft("sixty_seconds_old", "the greatest age", None) },
        Draft { now: NOW - 30, ..draft("thirty_seconds_ahead", "the greatest lead", None) },
    ]
}

fn refused_for_its_shape() -> Vec<Draft> {
    let bad = |name, why| draft(name, why, Some("EvidenceMalformed"));
    let unsorted = Item::Map(claims("east-1", NOW, full_process()));
    vec![
        Draft { payload: unsorted, ..bad("map_order", "keys not ascending by their encoded bytes") },
        Draft {
            payload: altered(|claims| claims.push((text("role"), text("admin")))),
            ..bad("unknown_claim", "a key that the format does not have")
        },
        Draft { payload: altered(|claims| drop(claims.remove(4))), ..bad("missing_claim", "no boot_id") },
        Draft {
            payload: altered(|claims| claims[0].1 = Item::Bytes(BINDING[..63].to_vec())),
            ..bad("short_binding", "an eat_nonce of 63 bytes is not completed")
        },
        Draft {
            payload: altered(|claims| claims[2].1 = text("urn:portcullis:process:2")),
            ..bad("other_profile", "an eat_profile of another version")
        },
        Draft {
            payload: east(sorted(least("/opt/shop/checkout (deleted)"))),
            ..bad("deleted_executable", "what has no name any more is not attested")
        },
        Draft {
            after: |parts| parts[1] = Item::Map(vec![(Item::Unsigned(4), Item::Bytes(vec![1]))]),
            ..bad("unprotected_header", "the unprotected header holds something")
        },
        Draft { last: |body| body[1..].to_vec(), ..bad("untagged", "COSE_Sign1 without its tag") },
        Draft {
            last: |body| [body, vec![0]].concat(),
            ..bad("trailing_byte", "something follows the document")
        },
        Draft {
            signer: WEST,
            payload: sorted(claims("west-1", NOW, full_process())),
            after: |parts| parts[3] = Item::Bytes(der(&bytes(&parts[3]))),
            ..bad("der_signature", "r and s are 32 bytes each, not DER")
        },
    ]
}

fn refused_for_its_signature() -> Vec<Draft> {
    let bad = |name, why| draft(name, why, Some("EvidenceSignatureInvalid"));
    let header = |signer: Signer, kid: Signer| {
        Some(sorted(vec![
            (Item::Unsigned(1), signer.algorithm()),
            (Item::Unsigned(4), Item::Bytes(sha256(&kid.spki()).to_vec())),
        ]))
    };
    vec![
        Draft { aad: b"", ..bad("other_aad", "signed without the external AAD") },
        Draft { after: flip_payload, ..bad("altered_payload", "one bit of the binding") },
        Draft {
            signer: Signer::Ed25519("stranger"),
            protected: header(EAST, EAST),
            ..bad("signature_of_a_stranger", "the kid of a node, the signature of another key")
        },
        Draft {
            protected: header(WEST, EAST),
            ..bad("alg_of_another_key", "ES256 with the kid of an Ed25519 key")
        },
        Draft {
            after: |parts| parts[3] = Item::Bytes(vec![0; 64]),
            ..bad("zero_signature", "64 zero bytes")
        },
    ]
}

fn refused_for_what_it_says() -> Vec<Draft> {
    vec![
        Draft {
            signer: Signer::Ed25519("stranger"),
            ..draft("unknown_node", "a key that is not enrolled", Some("EndorsementUntrusted"))
        },
        Draft {
            payload: sorted(claims("west-1", NOW, full_process())),
            ..draft("another_nodes_name", "the key of east-1 speaks for west-1", Some("EvidenceNodeMismatch"))
        },
        Draft {
            payload: altered(|claims| claims[0].1 = Item::Bytes(vec![0xb2; 64])),
            ..draft("another_binding", "made for another request", Some("EvidenceBindingMismatch"))
        },
        Draft { now: NOW + 61, ..draft("too_old", "61 s", Some("EvidenceTooOld")) },
        Draft { now: NOW - 31, ..draft("from_the_future", "31 s ahead", Some("EvidenceFromFuture")) },
        Draft {
            signer: Signer::Ed25519("old-1"),
            payload: sorted(claims("old-1", NOW, full_process())),
            ..draft("enrolment_ended", "a node whose enrolment has ended", Some("EndorsementExpired"))
        },
        Draft {
            signer: Signer::Ed25519("south-1"),
            payload: sorted(claims("south-1", NOW, full_process())),
            ..draft(
                "not_this_nodes_identity",
                "a node that may vouch for others only",
                Some("EndorsementNotPermitted"),
            )
        },
    ]
}

/// The whole file.
pub fn file(published: Option<Value>) -> Value {
    let drafts =
        [accepted(), refused_for_its_shape(), refused_for_its_signature(), refused_for_what_it_says()];
    let kept = |name: &str| {
        let cases = published.as_ref()?["cases"].as_array()?;
        let case = cases.iter().find(|case| case["name"] == name)?;
        hex::decode(case["signed"]["signature"].as_str()?).ok()
    };
    let cases: Vec<Value> =
        drafts.into_iter().flatten().map(|draft| case(&draft, kept(draft.name))).collect();
    json!({
        "protocol": "portcullis.v1",
        "binding": hex::encode(BINDING),
        "identity": "spiffe://vectors.example/shop/checkout",
        "nodes": nodes(),
        "cases": cases,
    })
}

fn nodes() -> Vec<Value> {
    let shop = "spiffe://vectors.example/shop/*";
    let node = |name: &'static str, signer: Signer, not_after: u64, pattern: &str| {
        json!({
            "name": name,
            "private_key": hex::encode(signer.seed()),
            "spki": hex::encode(signer.spki()),
            "not_after": not_after,
            "may_vouch_for": [pattern],
        })
    };
    vec![
        node("east-1", EAST, NOW + 1000, shop),
        node("west-1", WEST, NOW + 1000, shop),
        node("old-1", Signer::Ed25519("old-1"), NOW, shop),
        node("south-1", Signer::Ed25519("south-1"), NOW + 1000, "spiffe://vectors.example/depot/*"),
    ]
}

fn case(draft: &Draft, kept: Option<Vec<u8>>) -> Value {
    let signer = draft.signer;
    let kid = Item::Bytes(sha256(&signer.spki()).to_vec());
    let header = sorted(vec![(Item::Unsigned(1), signer.algorithm()), (Item::Unsigned(4), kid)]);
    let protected = encode(draft.protected.as_ref().unwrap_or(&header));
    let payload = encode(&draft.payload);
    let message = encode(&Item::Array(vec![
        text("Signature1"),
        Item::Bytes(protected.clone()),
        Item::Bytes(draft.aad.to_vec()),
        Item::Bytes(payload.clone()),
    ]));
    let signature = signer.sign(&message, kept);
    let mut parts = vec![
        Item::Bytes(protected),
        Item::Map(Vec::new()),
        Item::Bytes(payload),
        Item::Bytes(signature.clone()),
    ];
    (draft.after)(&mut parts);
    let body = (draft.last)(encode(&Item::Tag(18, Box::new(Item::Array(parts)))));
    let mut case = json!({
        "name": draft.name,
        "why": draft.why,
        "given": { "body": hex::encode(body), "now": draft.now },
        "signed": { "message": hex::encode(message), "signature": hex::encode(signature) },
        "verdict": if draft.denial.is_none() { "accept" } else { "reject" },
    });
    if let Some(denial) = draft.denial {
        case["denial"] = json!(denial);
    }
    case
}

fn bytes(item: &Item) -> Vec<u8> {
    let Item::Bytes(bytes) = item else { panic!("the part is no byte string") };
    bytes.clone()
}

/// A bit of the binding, which stands in the middle of nothing that frames it.
fn flip_payload(parts: &mut Vec<Item>) {
    let mut payload = bytes(&parts[2]);
    let at = payload.windows(64).position(|window| window == BINDING).unwrap();
    payload[at + 40] ^= 1;
    parts[2] = Item::Bytes(payload);
}

/// s becomes n − s.
fn twin(parts: &mut Vec<Item>) {
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let mut signature = bytes(&parts[3]);
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i32::from(order[at]) - i32::from(signature[32 + at]) - borrow;
        borrow = i32::from(difference < 0);
        signature[32 + at] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    parts[3] = Item::Bytes(signature);
}

/// SEQUENCE { INTEGER r, INTEGER s }.
fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let significant: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        let sign = if significant[0] >= 0x80 { vec![0] } else { vec![] };
        let content = [sign, significant].concat();
        [vec![2, u8::try_from(content.len()).unwrap()], content].concat()
    };
    let content = [integer(&signature[..32]), integer(&signature[32..])].concat();
    [vec![0x30, u8::try_from(content.len()).unwrap()], content].concat()
}
