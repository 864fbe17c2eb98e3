//! All that a caller can observe, from outside: real gRPC over real mTLS, one module per stage.
#![allow(
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests run on known input"
)]

#[path = "../support/mod.rs"]
mod support;

mod appraisal;
mod audit;
mod catalogue;
mod challenge;
mod delivery;
mod evidence;
mod freshness;
mod latch;
mod policy;
mod clock;
mod enrolment;
mod collateral;
mod grants;
mod hold;
mod hardware;
mod release;
mod transport;
mod wire;

use std::path::{Path, PathBuf};

/// `Denial::X` stands in some test of this directory, for every X: none is left without one.
#[test]
fn every_denial_has_a_test() {
    let mut files: Vec<PathBuf> = Vec::new();
    collect(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broker")), &mut files);
    let texts: Vec<String> = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let words = |text: &String, word: &str| {
        text.split(|letter: char| !letter.is_alphanumeric() && letter != ':').any(|found| found == word)
    };
    let named = |denial: &&portcullis::denial::Denial| {
        let word = format!("Denial::{denial}");
        texts.iter().any(|text| words(text, &word))
    };
    let missing: Vec<_> = portcullis::denial::Denial::ALL.iter().filter(|denial| !named(denial)).collect();
    assert!(missing.is_empty(), "denials without a test: {missing:?}");
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
