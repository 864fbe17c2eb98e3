//! Help, usage errors, and documents that are none.

use crate::desk::{Desk, REFUSED, USAGE, at, run, verify};
use crate::nitro_kit::Chain;
use crate::tpm2_kit::Ak;
use std::time::{Duration, Instant};

const FORMATS: [&str; 6] = ["process", "nitro", "sev-snp", "tdx", "sgx", "tpm2"];

/// A document with all that its format cannot do without.
fn asked(desk: &Desk, format: &str, body: &[u8]) -> crate::desk::Asked {
    let asked = verify(format, desk.put("document", body));
    match format {
        "tpm2" => asked.with("--ak", desk.put("ak.pub", Ak::p256().public())),
        "process" => {
            let pair = aws_lc_rs::signature::EcdsaKeyPair::generate(
                &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            );
            use aws_lc_rs::signature::KeyPair as _;
            let point = pair.unwrap().public_key().as_ref().to_vec();
            let key = portcullis::evidence::process::NodeKey::from_p256_point(&point).unwrap();
            asked.named("--node-key", "node-1.example", &desk.put("node.der", key.spki()))
        }
        _ => asked,
    }
}

#[test]
fn the_help_has_an_example_for_each_format_and_the_exit_codes() {
    let (code, help, _) = run(&["verify".into(), "--help".into()]);
    assert_eq!(code, 0);
    for format in FORMATS {
        assert!(help.contains(&format!("Example: portcullis verify --format {format} ")), "{format}: {help}");
    }
    for word in ["Exit codes: 0", "1 refused", "2 undecided", "64 usage", "--composite-with", "--nonce"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn a_wrong_command_line_is_64_and_says_why() {
    let desk = Desk::new();
    let document = desk.put("document", "x");
    let nitro = || verify("nitro", &document);
    verify("nitro", desk.path("absent")).run().usage("absent");
    verify("no-such-format", &document).run().usage("no-such-format");
    verify("process", &document).run().usage("--node-key");
    verify("tpm2", &document).run().usage("--ak");
    verify("process", &document).named("--node-key", "n", &desk.path("absent")).run().usage("absent");
    verify("process", &document).with("--node-key", "node.pem").run().usage("NAME=FILE");
    verify("process", &document).named("--node-key", "n", &document).run().usage("SPKI");
    verify("tpm2", &document).with("--ak", &document).run().usage("public area");
    nitro().with("--at", "yesterday").run().usage("UTC");
    nitro().with("--at", "2026-11-01T12:00:00+01:00").run().usage("UTC");
    nitro().with("--binding", "xyz").run().usage("hex");
    nitro().with("--binding", "07").run().usage("64 bytes");
    nitro().with("--binding", "07".repeat(64)).with("--nonce", "07").run().usage("cannot be used with");
    nitro().with("--nonce", "").run().usage("--nonce");
    verify("sev-snp", &document).with("--nonce", "07").run().usage("64 bytes");
    nitro().with("--roots", desk.path("absent")).run().usage("absent");
    std::fs::create_dir(desk.path("empty")).unwrap();
    nitro().with("--roots", desk.path("empty")).run().usage("empty");
    desk.put("bad/root.pem", "-----BEGIN CERTIFICATE-----\n");
    desk.put("bad-der/root.der", "no certificate");
    for format in ["nitro", "sev-snp", "tdx", "sgx"] {
        verify(format, &document).with("--roots", desk.path("bad")).run().usage("root.pem");
        verify(format, &document).with("--roots", desk.path("bad-der")).run().usage("root.der");
    }
    nitro().with("--reference", desk.path("absent.toml")).run().usage("absent.toml");
    nitro().with("--composite-with", &document).run().usage("--node-key");
    verify("sgx", &document)
        .with("--composite-with", &document)
        .with("--node-key", "n=k")
        .run()
        .usage("does not read");
    for (format, option) in [
        ("nitro", "--endorsement"),
        ("nitro", "--collateral"),
        ("nitro", "--crl"),
        ("process", "--roots"),
        ("tpm2", "--endorsement"),
        ("tdx", "--ak"),
        ("sev-snp", "--node-key"),
    ] {
        verify(format, &document).with(option, &document).run().usage("does not read");
    }
}

#[test]
fn reference_values_that_the_broker_would_not_take_are_a_usage_error() {
    let desk = Desk::new();
    let document = desk.put("document", "x");
    let head = "[[set]]\nname = \"a\"\nnot_after = 2030-01-01T00:00:00Z\n";
    for text in [
        "",
        "set = []",
        "[[sets]]",
        "[[set]]\nname = \"a\"\n",
        &format!("{head}no_such_key = 1\n"),
        &format!("{head}[set.nitro]\nno_such_key = 1\n"),
        &format!("{head}[set.nitro]\npcrs = {{}}\n"),
        &format!("{head}[set.tdx]\nmrtd = []\n"),
        &format!("{head}[set.sgx]\n"),
        &format!("{head}[set.tpm2]\n"),
        &format!("{head}[set.sev-snp]\nmeasurements = []\nminimum_tcb = {{}}\n"),
        &head.replace("00Z", "00+01:00"),
    ] {
        let found = verify("nitro", &document).with("--reference", desk.put("values.toml", text)).run();
        assert_eq!(found.code, USAGE, "{text}: {found:?}");
    }
    let values = desk.put("values.toml", format!("{head}[set.nitro.pcrs]\n0 = [\"{}\"]\n", "ab".repeat(48)));
    verify("nitro", &document).with("--reference", &values).with("--set", "b").run().usage("no such");
    verify("nitro", &document)
        .with("--reference", &values)
        .with("--set", "a")
        .run()
        .refused("EvidenceMalformed");
}

/// What the pages show as reference values is read here as it stands.
#[test]
fn the_examples_of_the_pages_are_reference_values() {
    let desk = Desk::new();
    let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/attestation");
    for (page, format) in [("README", "sgx"), ("nitro", "nitro"), ("sev-snp", "sev-snp"), ("tpm2", "tpm2")] {
        let text = std::fs::read_to_string(pages.join(format!("{page}.md"))).unwrap();
        let mut examples = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let example = examples.find(|example| example.starts_with("[[set]]")).unwrap();
        let asked = asked(&desk, format, b"x").with("--reference", desk.put("values.toml", example));
        asked.run().refused("EvidenceMalformed");
    }
}

#[test]
fn documents_that_are_none_are_refused_at_once() {
    let desk = Desk::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let garbage: Vec<u8> = (0..16 * 1024 * 1024).map(|_| byte()).collect();
    let nested = vec![0x9f; 16 * 1024 * 1024];
    for format in FORMATS {
        for body in [&garbage[..], &nested, &garbage[..4096], &[0x9f; 4096], &[], &[0]] {
            let started = Instant::now();
            asked(&desk, format, body).with("--at", at(1_790_000_000)).run().refused("EvidenceMalformed");
            assert!(started.elapsed() < Duration::from_secs(5), "{format}: {:?}", started.elapsed());
        }
    }
}

#[test]
fn text_for_a_person_says_the_same_and_commands_no_terminal() {
    const MADE: u64 = 1_790_000_000;
    let (desk, chain) = (Desk::new(), Chain::new(MADE));
    desk.put("roots/root.der", &chain.root);
    let document = chain.draft(&[7; 64], MADE * 1000);
    let name = crate::nitro_kit::text("i-\u{1b}[2J\u{9b}2J");
    let body = chain.sign(&document.with("module_id", name).payload());
    let asked = || {
        let asked = verify("nitro", desk.put("document", &body)).with("--roots", desk.path("roots"));
        asked.with("--at", at(MADE))
    };
    let (code, text) = asked().text();
    assert_eq!(code, 0, "{text}");
    assert!(text.chars().all(|one| one == '\n' || !one.is_control()), "{text:?}");
    for words in
        ["nitro    signature", "passed", "module_id", "freshness was not shown", "not compared", "ACCEPTABLE"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (code, text) = asked().with("--binding", "08".repeat(64)).text();
    assert_eq!(code, REFUSED);
    assert!(text.contains("REFUSED: EvidenceBindingMismatch: nonce is not"), "{text}");
    let (code, text) = verify("tdx", desk.path("absent")).word("--output").word("text").run_usage();
    assert!(code == USAGE && text.starts_with("portcullis: "), "{text}");
}
