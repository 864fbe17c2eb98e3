//! `admin reference import`: signed CoRIM through the program, the broker and its log; and all that changes nothing.

use crate::corim::{Manifest, Publisher, at_least, bytes, sha256, sha384, text, triple, unsigned};
use crate::world::{Ended, World, wall, write};
use serde_json::{Value, json};
use std::path::Path;

const FOR: &str = "spiffe://cli.example/ns/imported/*";

struct Desk {
    world: World,
    publisher: Publisher,
}

impl Desk {
    fn new() -> Desk {
        let desk = Desk { world: World::bare(), publisher: Publisher::new() };
        write(&desk.world.at("acme.pem"), desk.publisher.pem(), 0o644);
        desk
    }

    fn signs(&self, manifest: &Manifest) -> Vec<u8> {
        self.publisher.sign(manifest)
    }

    /// `import` of these bytes as `set`, signed by `acme.pem`.
    fn imports(&self, corim: &[u8], format: &str, more: &[&str]) -> Ended {
        self.imports_by(&["acme.pem"], corim, format, &[&["--days", "3"], more].concat())
    }

    fn imports_by(&self, signers: &[&str], corim: &[u8], format: &str, more: &[&str]) -> Ended {
        let file = self.world.path("manifest.corim");
        write(Path::new(&file), corim, 0o644);
        let signers: Vec<String> =
            signers.iter().map(|name| format!("--signer={}", self.world.path(name))).collect();
        let mut arguments = vec!["reference", "import", &file, "--format", format, "--name", "set"];
        arguments.extend(["--workload", FOR]);
        arguments.extend(signers.iter().map(String::as_str));
        arguments.extend(more);
        self.world.admin(&arguments)
    }

    /// The stored sets whose name begins with `set`, by name.
    fn stored(&self) -> Vec<Value> {
        let listed = self.world.admin(&["reference", "list", "--output", "json"]).must(0).json();
        let sets = listed["sets"].as_array().unwrap().iter();
        let sets = sets.map(|set| serde_json::from_str(set["json"].as_str().unwrap()).unwrap());
        let mut sets: Vec<Value> =
            sets.filter(|set: &Value| set["name"].as_str().unwrap().starts_with("set")).collect();
        sets.sort_by_key(|set| set["name"].to_string());
        sets
    }

    #[track_caller]
    fn refuses(&self, because: &str, ended: Ended) {
        let ended = ended.must(64);
        assert!(ended.stdout.is_empty() && ended.stderr.contains(because), "`{because}`: {ended:?}");
        assert_eq!(self.stored(), Vec::<Value>::new(), "{because}");
    }
}

fn enclave(byte: u8) -> Vec<u8> {
    triple("RoadRunner", &[sha384(unsigned(0), byte), sha384(unsigned(8), 8)])
}

#[test]
fn a_signed_manifest_is_put_shown_and_recorded_with_who_signed_it() {
    let desk = Desk::new();
    let corim = desk.signs(&Manifest::of(vec![enclave(1)]));
    let ended = desk.imports(&corim, "nitro", &[]).must(0).text();
    assert!(ended.contains("signed by `ACME Ltd`") && ended.contains("set of triple 1"), "{ended}");
    assert!(ended.contains("model `RoadRunner`): new") && ended.contains("+ nitro.pcrs.0"), "{ended}");
    let stored = desk.stored();
    let pcrs = json!({ "0": ["01".repeat(48)], "8": ["08".repeat(48)] });
    assert_eq!(stored[0]["nitro"]["pcrs"], pcrs);
    assert_eq!((stored.len(), &stored[0]["workload"]), (1, &json!(FOR)));
    let intents = desk.world.records(&["--kind", "admin-intent"]);
    let record = intents.iter().map(Value::to_string).find(|record| record.contains("reference import"));
    let record = record.expect("a record of the import");
    let key = crate::world::sha256(desk.world.at("acme.pem"));
    let file = crate::world::sha256(desk.world.at("manifest.corim"));
    for part in ["acme-2026", key.as_str(), file.as_str(), "\"set\""] {
        assert!(record.contains(part), "{part}: {record}");
    }
}

#[test]
fn a_dry_run_says_what_would_differ_and_changes_nothing() {
    let desk = Desk::new();
    let corim = desk.signs(&Manifest::of(vec![enclave(1)]));
    let dry = desk.imports(&corim, "nitro", &["--dry-run"]).must(0).text();
    assert!(dry.contains("+ nitro.pcrs.0") && dry.contains("nothing was changed"), "{dry}");
    assert_eq!(desk.stored(), Vec::<Value>::new());
    assert!(
        desk.world.records(&["--kind", "admin-intent"]).iter().all(|r| !r.to_string().contains("import"))
    );
    let reads = desk.world.records(&["--kind", "admin-read"]);
    assert!(reads.iter().any(|record| record.to_string().contains("reference import")), "{reads:?}");
    let end = wall().plus(86_400_000).to_string();
    let until = ["--not-after", end.as_str()];
    desk.imports_by(&["acme.pem"], &corim, "nitro", &until).must(0);
    let before = desk.stored();
    let other = desk.signs(&Manifest::of(vec![enclave(2)]));
    let dry = [&until[..], &["--dry-run", "--output", "json"]].concat();
    let dry = desk.imports_by(&["acme.pem"], &other, "nitro", &dry).must(0).json();
    assert_eq!(dry["change"], Value::Null);
    let gone = format!("- nitro.pcrs.0: [\"{}\"]", "01".repeat(48));
    let come = format!("+ nitro.pcrs.0: [\"{}\"]", "02".repeat(48));
    assert_eq!(dry["sets"][0]["difference"], json!([gone, come]));
    assert_eq!(desk.stored(), before);
    desk.imports_by(&["acme.pem"], &other, "nitro", &until).must(0);
    assert_eq!(desk.stored()[0]["nitro"]["pcrs"]["0"], json!(["02".repeat(48)]));
}

#[test]
fn every_section_can_be_imported() {
    let desk = Desk::new();
    let tcb = ["bootloader", "tee", "snp", "microcode"];
    let mut guest = vec![sha384(text("measurement"), 1)];
    guest.extend(tcb.map(|component| at_least(text(&format!("tcb.milan.{component}")), 7)));
    let domain = ["mrtd", "rtmr1", "rtmr2"].map(|name| sha384(text(name), 1));
    for (format, measurements) in [
        ("process", vec![sha256(text("executable"), 1)]),
        ("tpm2", vec![sha256(unsigned(4), 1), sha256(unsigned(7), 2)]),
        ("nitro", vec![sha384(unsigned(0), 1)]),
        ("sev-snp", guest),
        ("tdx", domain.to_vec()),
    ] {
        let corim = desk.signs(&Manifest::of(vec![triple(format, &measurements)]));
        desk.imports(&corim, format, &[]).must(0);
        let stored = desk.stored();
        assert!(stored.len() == 1 && stored[0][format].is_object(), "{format}: {stored:?}");
    }
}

#[test]
fn what_is_not_signed_by_a_named_key_or_not_whole_is_refused_and_nothing_is_put() {
    let desk = Desk::new();
    let corim = desk.signs(&Manifest::of(vec![enclave(1)]));
    let signature = corim.len() - 1;
    let mut altered = corim.clone();
    altered[signature] ^= 1;
    desk.refuses("signature is not of the key", desk.imports(&altered, "nitro", &[]));
    let mut content = corim.clone();
    let at = content.windows(48).position(|window| window == [1; 48]).unwrap();
    content[at] ^= 1;
    desk.refuses("signature is not of the key", desk.imports(&content, "nitro", &[]));
    let foreign = Publisher::new().sign(&Manifest::of(vec![enclave(1)]));
    desk.refuses("signature is not of the key", desk.imports(&foreign, "nitro", &[]));
    desk.refuses("file: ", desk.imports(&[&corim[..], &[0]].concat(), "nitro", &[]));
    for length in [0, 1, corim.len() / 2, signature] {
        desk.refuses("CoRIM: ", desk.imports(&corim[..length], "nitro", &[]));
    }
    desk.refuses("CoRIM: ", desk.imports(b"[[set]]", "nitro", &[]));
    desk.refuses("longer than", desk.imports(&vec![0; 1024 * 1024 + 1], "nitro", &[]));
    write(&desk.world.at("rubbish.pem"), "rubbish", 0o644);
    let rubbish = desk.imports_by(&["acme.pem", "rubbish.pem"], &corim, "nitro", &["--days", "3"]);
    desk.refuses("signer: not a JWK", rubbish);
    // No key, no import; and each attempt is in the log.
    desk.refuses("--signer", desk.imports_by(&[], &corim, "nitro", &["--days", "3"]));
    let reads = desk.world.records(&["--kind", "admin-read"]);
    let refused = reads.iter().map(Value::to_string).filter(|record| record.contains("reference import"));
    assert!(refused.filter(|record| record.contains("signature is not of the key")).count() >= 3);
    // The right key among several is enough.
    write(&desk.world.at("other.pem"), Publisher::new().pem(), 0o644);
    desk.imports_by(&["other.pem", "acme.pem"], &corim, "nitro", &["--days", "3"]).must(0);
}

#[test]
fn what_has_ended_or_has_no_end_or_would_outlive_its_author_is_refused() {
    let desk = Desk::new();
    let now = wall().0 / 1000;
    let spans = |not_before, not_after| {
        desk.signs(&Manifest { not_before, not_after, ..Manifest::of(vec![enclave(1)]) })
    };
    desk.refuses("ended at", desk.imports(&spans(None, Some(now - 10)), "nitro", &[]));
    desk.refuses("valid from", desk.imports(&spans(Some(now + 7_200), Some(now + 9_000)), "nitro", &[]));
    desk.refuses(
        "later than the manifest's own end",
        desk.imports(&spans(None, Some(now + 86_400)), "nitro", &[]),
    );
    let whole = spans(None, None);
    desk.refuses("--not-after", desk.imports_by(&["acme.pem"], &whole, "nitro", &[]));
    let past = ["--not-after", "2026-01-01T00:00:00Z"];
    desk.refuses("has passed", desk.imports_by(&["acme.pem"], &whole, "nitro", &past));
    desk.imports(&spans(Some(now - 10), Some(now + 4 * 86_400)), "nitro", &[]).must(0);
}

#[test]
fn what_cannot_be_taken_over_is_refused_by_name() {
    let desk = Desk::new();
    let of = |manifest: Manifest| desk.signs(&manifest);
    let profile = Some("http://arm.com/psa/iot/1");
    let foreign = of(Manifest { profile, ..Manifest::of(vec![enclave(1)]) });
    desk.refuses("profile `http://arm.com/psa/iot/1`", desk.imports(&foreign, "nitro", &[]));
    let named = of(Manifest::of(vec![triple("m", &[sha384(text("bootcode"), 1)])]));
    desk.refuses("`bootcode`", desk.imports(&named, "nitro", &[]));
    let half = of(Manifest::of(vec![enclave(1), triple("m", &[sha256(unsigned(0), 1)])]));
    desk.refuses("triple 2", desk.imports(&half, "nitro", &[]));
    // Only the firmware of a TD: the same rule as for a set that is written by hand.
    let firmware = of(Manifest::of(vec![triple("m", &[sha384(text("mrtd"), 1)])]));
    desk.refuses("rtmr1", desk.imports(&firmware, "tdx", &[]));
    let endorsed = || Manifest { others: vec![(1, bytes(b"x"))], ..Manifest::of(vec![enclave(1)]) };
    desk.refuses("triples of kind 1", desk.imports(&of(endorsed()), "nitro", &[]));
    let told = desk.imports(&of(endorsed()), "nitro", &["--pass-over"]).must(0).text();
    assert!(told.contains("not imported: triples of kind 1"), "{told}");
    // Chosen by the operator, by place; the answer says what stays beside it.
    let chosen = desk.imports(&half, "nitro", &["--triple", "1"]).must(0).text();
    assert!(
        chosen.contains("set-1 of triple 1") && chosen.contains("stays in force for the same workload: set")
    );
    assert_eq!(desk.stored().len(), 2);
}

#[test]
fn the_published_manifests_give_their_verdicts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/corim");
    if !folder.is_dir() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the CoRIM vectors are absent");
        return eprintln!("NOT RUN: the CoRIM vectors are absent from {}", folder.display());
    }
    let desk = Desk::new();
    let file = |name: &str| std::fs::read(folder.join(name)).unwrap();
    write(&desk.world.at("veraison.jwk"), file("ec-p256-pub.jwk"), 0o644);
    let by = |key: &str, name: &str| desk.imports_by(&[key], &file(name), "process", &["--days", "3"]);
    // Its signature holds, and its time has passed.
    desk.refuses("ended at 2025-12-31T00:00:00.000Z", by("veraison.jwk", "signed-good-corim.cbor"));
    desk.refuses("signature is not of the key", by("acme.pem", "signed-good-corim.cbor"));
    for unsigned in ["unsigned-good-corim.cbor", "corim-1.cbor"] {
        desk.refuses("not a signed CoRIM", by("veraison.jwk", unsigned));
    }
}
