//! Makes the published cases. Written from the protocol's text alone: it shares no code with what the cases check.
//!
//! *Takes* fixed inputs, and the P-256 signatures that were published before, which are kept while they verify. *Gives* the
//! three files, as JSON. *Denies* nothing.
//! *Source*: the release protocol; RFC 9180 §4 to §5 (base mode), RFC 9052 §4.4, RFC 8949 §4.2.1.

#[path = "generate/cbor.rs"]
mod cbor;
#[path = "generate/hpke.rs"]
mod hpke;
#[path = "generate/process.rs"]
mod process;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use serde_json::{Value, json};

/// A file's name and what stands in it; `published` gives the file as it stands.
pub fn files(published: impl Fn(&str) -> Option<Value>) -> Vec<(&'static str, Value)> {
    vec![
        ("binding.json", binding_file()),
        ("sealing.json", sealing_file()),
        ("process.json", process::file(published("process.json"))),
    ]
}

/// 32 bytes that are a label's and nothing else's: every key and nonce here is one.
pub(crate) fn fixed(label: &str) -> [u8; 32] {
    sha256(format!("portcullis published vectors: {label}").as_bytes())
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}

fn lp(part: &[u8]) -> Vec<u8> {
    [&u32::try_from(part.len()).unwrap().to_be_bytes(), part].concat()
}

/// SubjectPublicKeyInfo of a P-256 key whose private key is 32 bytes (RFC 5480).
pub(crate) fn p256_spki(private: &[u8; 32]) -> Vec<u8> {
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    [head, p256_point(private)].concat()
}

pub(crate) fn p256_point(private: &[u8; 32]) -> Vec<u8> {
    let key = PrivateKey::from_private_key(&ECDH_P256, private).unwrap();
    key.compute_public_key().unwrap().as_ref().to_vec()
}

struct Case {
    name: &'static str,
    why: &'static str,
    round: u64,
    channel: bool,
    client_id: String,
    ttl_seconds: u32,
    hold: bool,
    channel_bindings: &'static [&'static str],
    secrets: Vec<Secret>,
}

struct Secret {
    path: String,
    parameters: Vec<(&'static str, Vec<u8>)>,
}

fn secret(path: &str) -> Secret {
    Secret { path: path.to_owned(), parameters: Vec::new() }
}

fn plain(name: &'static str, why: &'static str) -> Case {
    Case {
        name,
        why,
        round: 0,
        channel: true,
        client_id: "spiffe://vectors.example/shop/checkout".to_owned(),
        ttl_seconds: 0,
        hold: false,
        channel_bindings: &[],
        secrets: vec![secret("kv/shop/stripe")],
    }
}

fn binding_cases() -> Vec<Case> {
    let parameters = vec![
        ("zone", b"eu".to_vec()),
        ("csr", vec![0x30, 0x00, 0xff, 0xfe]),
        ("a_b", Vec::new()),
        ("a", vec![0; 300]),
    ];
    let long_id = format!("spiffe://vectors.example/{}", "x".repeat(2048 - 25));
    vec![
        plain("one_secret", "the least that can be asked"),
        Case { ttl_seconds: 900, hold: true, ..plain("ttl_and_hold", "both go in as sent") },
        Case {
            channel_bindings: &["tls-exporter"],
            ..plain("exporter_named", "naming the default changes the request")
        },
        Case {
            channel: false,
            channel_bindings: &["none"],
            ..plain("without_channel", "the channel is empty, its length is not left out")
        },
        Case {
            channel_bindings: &["x-later", "none", "tls-exporter"],
            ..plain("channel_bindings_in_order", "names are bound in the order sent, unknown ones too")
        },
        Case {
            secrets: vec![secret("kv/b"), secret("kv/a")],
            ..plain("secrets_in_order", "secrets are bound in the order sent, not sorted")
        },
        Case {
            secrets: vec![Secret { path: "pki/shop".to_owned(), parameters }, secret("kv/shop/stripe")],
            ..plain(
                "parameters",
                "parameters are bound by the bytes of their keys, ascending, whatever the order sent",
            )
        },
        Case {
            secrets: (0..16).map(|n| secret(&format!("kv/many/{n}"))).collect(),
            ..plain("sixteen_secrets", "as many as one request may name")
        },
        Case { client_id: long_id, ..plain("longest_identity", "an ID of 2048 bytes") },
        Case {
            round: 1,
            hold: true,
            ..plain("second_round", "a held lease's next challenge: another nonce and round")
        },
        Case { round: u64::MAX, hold: true, ..plain("last_round", "eight bytes, big-endian, unsigned") },
    ]
}

const AUDIENCE: &str = "spiffe://vectors.example/portcullis";

fn request_of(case: &Case) -> Vec<u8> {
    let count = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let mut text = [&case.ttl_seconds.to_be_bytes()[..], &[u8::from(case.hold)]].concat();
    text.extend(count(case.channel_bindings.len()));
    case.channel_bindings.iter().for_each(|name| text.extend(lp(name.as_bytes())));
    text.extend(count(case.secrets.len()));
    for secret in &case.secrets {
        let mut parameters = secret.parameters.clone();
        parameters.sort();
        text.extend(lp(secret.path.as_bytes()));
        text.extend(count(parameters.len()));
        for (key, value) in parameters {
            text.extend([lp(key.as_bytes()), lp(&value)].concat());
        }
    }
    text
}

fn binding_file() -> Value {
    let cases: Vec<Value> = binding_cases().iter().map(binding_case).collect();
    json!({ "protocol": "portcullis.v1", "cases": cases, "composite": [composite()] })
}

fn binding_case(case: &Case) -> Value {
    let nonce = fixed(&format!("nonce of {}", case.name));
    let spki = p256_spki(&fixed("client key"));
    let channel = if case.channel { fixed("exporter").to_vec() } else { Vec::new() };
    let recipient = hpke::public_key(&fixed("recipient"));
    let request = request_of(case);
    let preimage = [
        lp(b"portcullis.v1 evidence binding"),
        lp(&nonce),
        case.round.to_be_bytes().to_vec(),
        lp(&channel),
        lp(&sha256(&spki)),
        lp(case.client_id.as_bytes()),
        lp(AUDIENCE.as_bytes()),
        lp(&recipient),
        lp(&sha256(&request)),
    ]
    .concat();
    let secrets: Vec<Value> = case.secrets.iter().map(secret_json).collect();
    json!({
        "name": case.name,
        "why": case.why,
        "given": {
            "nonce": hex::encode(nonce),
            "round": case.round.to_string(),
            "channel": hex::encode(channel),
            "client_spki": hex::encode(spki),
            "client_id": case.client_id,
            "audience": AUDIENCE,
            "recipient_key": hex::encode(recipient),
            "ttl_seconds": case.ttl_seconds,
            "hold": case.hold,
            "channel_bindings": case.channel_bindings,
            "secrets": secrets,
        },
        "gives": {
            "request": hex::encode(&request),
            "preimage": hex::encode(&preimage),
            "binding": hex::encode(digest(&SHA512, &preimage)),
        },
    })
}

fn secret_json(secret: &Secret) -> Value {
    let pair = |(key, value): &(&str, Vec<u8>)| json!({ "key": key, "value": hex::encode(value) });
    json!({ "path": secret.path, "parameters": secret.parameters.iter().map(pair).collect::<Vec<_>>() })
}

/// What hardware evidence carries beside a `process` document of that body.
fn composite() -> Value {
    let (binding, body) = ([0x5a; 64], b"a process document's body, whatever it is".to_vec());
    let preimage = [lp(b"portcullis.v1 composite"), lp(&binding), lp(&sha256(&body))].concat();
    let bound = digest(&SHA512, &preimage);
    json!({
        "name": "beside_a_process_document",
        "why": "the hardware vouches for the statement",
        "given": { "binding": hex::encode(binding), "process_body": hex::encode(body) },
        "gives": { "bound": hex::encode(bound), "tpm2_extra_data": hex::encode(sha256(bound.as_ref())) },
    })
}

/// `SecretValue` with its fields ascending (protobuf: field 1, a map of string to bytes).
fn secret_value(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let varint = |mut n: usize| {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
            n >>= 7;
        }
        bytes.push(u8::try_from(n).unwrap());
        bytes
    };
    let part = |tag: u8, bytes: &[u8]| [&[tag][..], &varint(bytes.len()), bytes].concat();
    fields
        .iter()
        .flat_map(|(key, value)| part(0x0a, &[part(0x0a, key.as_bytes()), part(0x12, value)].concat()))
        .collect()
}

fn sealing_info(binding: &[u8], path: &str, version: u64, lease_id: &str) -> Vec<u8> {
    let head = [lp(b"portcullis.v1 sealed secret"), lp(binding), lp(path.as_bytes())].concat();
    [head, version.to_be_bytes().to_vec(), lp(lease_id.as_bytes())].concat()
}

/// What is sealed, and what it is sealed to.
#[derive(Clone)]
struct Envelope {
    recipient: [u8; 32],
    binding: Vec<u8>,
    path: String,
    version: u64,
    lease_id: String,
}

impl Envelope {
    fn info(&self) -> Vec<u8> {
        sealing_info(&self.binding, &self.path, self.version, &self.lease_id)
    }

    fn json(&self) -> Value {
        json!({
            "recipient_private_key": hex::encode(self.recipient),
            "binding": hex::encode(&self.binding),
            "path": self.path,
            "version": self.version.to_string(),
            "lease_id": self.lease_id,
        })
    }
}

fn envelope() -> Envelope {
    Envelope {
        recipient: fixed("recipient"),
        binding: digest(&SHA512, b"portcullis published vectors: some binding").as_ref().to_vec(),
        path: "kv/shop/stripe".to_owned(),
        version: 7,
        lease_id: "Zm9yIHZlY3RvcnMgb25seQ".to_owned(),
    }
}

fn sealing_file() -> Value {
    let one = secret_value(&[("value", b"sk_test_nothing")]);
    let two = secret_value(&[("password", &[0xff, 0x00, 0x80]), ("username", b"shop")]);
    let large = secret_value(&[("value", &[0x61; 1000])]);
    let newest = Envelope { version: u64::MAX, ..envelope() };
    let unversioned = Envelope { version: 0, path: "pki/shop".to_owned(), ..envelope() };
    json!({
        "protocol": "portcullis.v1",
        "opens": [
            opens("one_field", "a secret of one field", &envelope(), &one),
            opens("two_fields", "bytes that are no text", &envelope(), &two),
            opens("no_fields", "an empty SecretValue is sealed like any other", &envelope(), &[]),
            opens("large", "longer than one block of anything", &envelope(), &large),
            opens("without_versions", "an engine without versions says 0", &unversioned, &one),
            opens("highest_version", "eight bytes, big-endian, unsigned", &newest, &one),
        ],
        "does_not_open": does_not_open(&one),
        "recipient_keys": recipient_keys(),
    })
}

fn opens(name: &str, why: &str, envelope: &Envelope, plaintext: &[u8]) -> Value {
    let ephemeral = fixed(&format!("ephemeral key of {name}"));
    let (encapsulated, ciphertext) =
        hpke::seal(&hpke::public_key(&envelope.recipient), &ephemeral, &envelope.info(), plaintext);
    let mut given = envelope.json();
    given["ephemeral_private_key"] = json!(hex::encode(ephemeral));
    given["plaintext"] = json!(hex::encode(plaintext));
    json!({
        "name": name,
        "why": why,
        "given": given,
        "gives": {
            "info": hex::encode(envelope.info()),
            "encapsulated_key": hex::encode(encapsulated),
            "ciphertext": hex::encode(ciphertext),
        },
    })
}

fn does_not_open(plaintext: &[u8]) -> Vec<Value> {
    let right = envelope();
    let ephemeral = fixed("ephemeral key of what does not open");
    let (key, ciphertext) =
        hpke::seal(&hpke::public_key(&right.recipient), &ephemeral, &right.info(), plaintext);
    let case = |name: &str, why: &str, envelope: Envelope, key: &[u8], ciphertext: &[u8]| {
        let mut given = envelope.json();
        given["encapsulated_key"] = json!(hex::encode(key));
        given["ciphertext"] = json!(hex::encode(ciphertext));
        json!({ "name": name, "why": why, "given": given })
    };
    let mut flipped = ciphertext.clone();
    flipped[0] ^= 1;
    let cut = &ciphertext[..ciphertext.len() - 1];
    let mut other_key = key;
    other_key[0] ^= 1;
    let other_binding = right.binding.iter().map(|byte| !byte).collect();
    vec![
        case(
            "other_path",
            "a secret for another",
            Envelope { path: "kv/shop/other".into(), ..right.clone() },
            &key,
            &ciphertext,
        ),
        case(
            "other_version",
            "an older secret for a newer",
            Envelope { version: 8, ..right.clone() },
            &key,
            &ciphertext,
        ),
        case(
            "other_lease",
            "one lease's secret in another",
            Envelope { lease_id: "YW5vdGhlciBsZWFzZSBpZA".into(), ..right.clone() },
            &key,
            &ciphertext,
        ),
        case(
            "other_binding",
            "a secret of another request",
            Envelope { binding: other_binding, ..right.clone() },
            &key,
            &ciphertext,
        ),
        case(
            "other_recipient",
            "whoever relays cannot open",
            Envelope { recipient: fixed("stranger"), ..right.clone() },
            &key,
            &ciphertext,
        ),
        case("altered_ciphertext", "one bit", right.clone(), &key, &flipped),
        case("cut_ciphertext", "the tag's last byte is missing", right.clone(), &key, cut),
        case("altered_key", "one bit of the encapsulated key", right, &other_key, &ciphertext),
    ]
}

/// `Open.recipient_key`: 32 bytes, and no point from which anyone could compute the shared secret (RFC 7748 §6.1).
fn recipient_keys() -> Vec<Value> {
    let good = hpke::public_key(&fixed("recipient"));
    let with = |first: u8, middle: u8, last: u8| {
        let mut key = [middle; 32];
        (key[0], key[31]) = (first, last);
        key.to_vec()
    };
    let mut twin = good.to_vec();
    twin[31] |= 0x80;
    let case = |name: &str, key: &[u8], verdict: &str| json!({ "name": name, "given": hex::encode(key), "verdict": verdict });
    vec![
        case("a_key", &good, "accept"),
        case("a_key_with_its_top_bit_set", &twin, "accept"),
        case("the_base_point", &with(9, 0, 0), "accept"),
        case("nothing", &[], "reject"),
        case("a_byte_short", &good[..31], "reject"),
        case("a_byte_long", &[&good[..], &[0]].concat(), "reject"),
        case("zero", &[0; 32], "reject"),
        case("zero_with_its_top_bit_set", &with(0, 0, 0x80), "reject"),
        case("one", &with(1, 0, 0), "reject"),
        case("p_minus_one", &with(0xec, 0xff, 0x7f), "reject"),
        case("p_which_is_zero", &with(0xed, 0xff, 0x7f), "reject"),
        case("p_plus_one_which_is_one", &with(0xee, 0xff, 0x7f), "reject"),
    ]
}
