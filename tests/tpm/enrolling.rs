//! Enrolment as an operator and a node do it, by files, and who cannot be enrolled.

use crate::lab::{Files, Lab, OTHER, activate, address, text};
use crate::swtpm::Swtpm;
use crate::world::{NODE, portcullis, run, write};
use serde_json::Value;

fn read(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_enrolment_is_listed_recorded_and_survives_a_restart() {
    let Some(mut lab) = Lab::new() else { return };
    lab.enroll(NODE, &lab.tpm, &[]).must(0);
    let listed = |lab: &Lab| {
        let nodes = lab.world.admin(&["node", "list", "--output", "json"]).must(0).json();
        let node =
            nodes["nodes"].as_array().unwrap().iter().find(|node| node["name"] == NODE).unwrap().clone();
        assert!(node["key_sha256"].is_string(), "{node}");
        let [key] = node["attestation_keys"].as_array().unwrap().as_slice() else { panic!("{node}") };
        assert_eq!((&key["enrolled_by"], &key["not_after"]), (&"ada".into(), &node["not_after"]));
        assert!(key["vouched_by"].as_str().unwrap().starts_with("certified by "), "{key}");
        key.clone()
    };
    let before = listed(&lab);
    lab.world.stop();
    lab.world.start();
    assert_eq!(listed(&lab), before);
    let text = lab.world.admin(&["node", "list"]).must(0).text();
    assert!(text.contains(before["name"].as_str().unwrap()), "{text}");
    let records = lab.world.records(&["--kind", "admin-intent", "--administrator", "ada"]);
    let verbs: Vec<&str> =
        records.iter().filter_map(|record| record["event"]["act"]["verb"].as_str()).collect();
    assert!(verbs.ends_with(&["node enrol tpm", "node enrol proof"]), "{verbs:?}");
    let details = &records.last().unwrap()["event"]["act"]["details"];
    assert_eq!((&details["ak_name"], &details["ek_sha256"]), (&before["name"], &before["ek_sha256"]));
}

#[test]
fn a_tpm_of_a_manufacturer_that_is_not_trusted_needs_an_administrators_approval_of_its_very_key() {
    let (Some(lab), Some(foreign)) = (Lab::new(), Swtpm::start()) else { return };
    let files = lab.files();
    let refused = lab.begin(NODE, &foreign, &files, &[]).must(1);
    assert!(refused.stderr.contains("EndorsementUntrusted"), "{refused:?}");
    assert!(!files.challenge.exists(), "a file is left of an enrolment that was refused");
    let refused = lab.begin(NODE, &foreign, &lab.files(), &["--ek-sha256", &"ab".repeat(32)]).must(1);
    assert!(refused.stderr.contains("EndorsementUntrusted"), "{refused:?}");
    let hash = read(&files.request)["ek_sha256"].as_str().unwrap().to_owned();
    lab.enroll(NODE, &foreign, &["--ek-sha256", &hash]).must(0);
    let listed = lab.world.admin(&["node", "list"]).must(0).text();
    assert!(listed.contains("approved by an administrator"), "{listed}");
    // The refusals stand in the log, with their cause.
    let reads = lab.world.records(&["--kind", "admin-read", "--node", NODE]);
    let refusals = reads.iter().filter_map(|record| record["event"]["refused"].as_str());
    assert_eq!(refusals.filter(|why| why.contains("EndorsementUntrusted")).count(), 2, "{reads:?}");
}

#[test]
fn a_proof_counts_once_rightly_or_wrongly() {
    let Some(lab) = Lab::new() else { return };
    let files = lab.files();
    lab.begin(NODE, &lab.tpm, &files, &[]).must(0);
    activate(&lab.tpm, &files).must(0);
    let good = read(&files.proof);
    // For another node it is none, and stays one for its own.
    assert!(lab.prove(OTHER, &files.proof).must(1).stderr.contains("NOT_FOUND"));
    let wrong = lab.world.at("wrong.proof");
    let mut guess = good.clone();
    guess["answer"] = "5a".repeat(32).into();
    write(&wrong, guess.to_string(), 0o644);
    let refused = lab.prove(NODE, &wrong).must(1);
    assert!(refused.stderr.contains("EndorsementUntrusted"), "{refused:?}");
    assert!(lab.prove(NODE, &files.proof).must(1).stderr.contains("NOT_FOUND"));
    let files = lab.files();
    lab.begin(NODE, &lab.tpm, &files, &[]).must(0);
    activate(&lab.tpm, &files).must(0);
    lab.prove(NODE, &files.proof).must(0);
    assert!(lab.prove(NODE, &files.proof).must(1).stderr.contains("NOT_FOUND"));
}

#[test]
fn an_enrolment_that_was_begun_is_lost_with_a_restart_and_says_so() {
    let Some(mut lab) = Lab::new() else { return };
    let files = lab.files();
    let begun = lab.begin(NODE, &lab.tpm, &files, &[]).must(0);
    assert!(begun.text().contains("a restart of the broker forgets it"), "{begun:?}");
    activate(&lab.tpm, &files).must(0);
    lab.world.stop();
    lab.world.start();
    assert!(lab.prove(NODE, &files.proof).must(1).stderr.contains("restarted"));
}

#[test]
fn one_tpm_is_of_one_node_and_a_challenge_opens_in_its_own() {
    let (Some(lab), Some(foreign)) = (Lab::new(), Swtpm::start()) else { return };
    let files = lab.files();
    lab.begin(NODE, &lab.tpm, &files, &[]).must(0);
    // Another TPM has another key; one that says that it has this one cannot open the credential.
    let refused = activate(&foreign, &files).must(64);
    assert!(refused.stderr.contains("the challenge is for attestation key"), "{refused:?}");
    let theirs = lab.files();
    lab.begin(OTHER, &foreign, &theirs, &["--ek-sha256", &ek_of(&lab, &foreign)]).must(0);
    let mut meant = read(&files.challenge);
    meant["ak_name"] = read(&theirs.challenge)["ak_name"].clone();
    let mixed = Files { challenge: lab.world.at("mixed"), ..lab.files() };
    write(&mixed.challenge, meant.to_string(), 0o644);
    let refused = activate(&foreign, &mixed).must(1);
    assert!(refused.stderr.contains("for another TPM") && !mixed.proof.exists(), "{refused:?}");
    activate(&lab.tpm, &files).must(0);
    lab.prove(NODE, &files.proof).must(0);
    let taken = lab.begin(OTHER, &lab.tpm, &lab.files(), &["--replace"]).must(1);
    assert!(taken.stderr.contains(NODE), "{taken:?}");
    let nobody = lab.begin("node-3.cli.example", &foreign, &lab.files(), &[]).must(1);
    assert!(nobody.stderr.contains("enrol its own key first"), "{nobody:?}");
}

fn ek_of(lab: &Lab, tpm: &Swtpm) -> String {
    let files = lab.files();
    let request = ["agent", "tpm", "request", "--tpm", &address(tpm), "--out", text(&files.request)];
    run(portcullis().args(request)).must(0);
    read(&files.request)["ek_sha256"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_malformed_is_64_and_no_file_is_overwritten() {
    let Some(lab) = Lab::new() else { return };
    let files = lab.files();
    lab.begin(NODE, &lab.tpm, &files, &[]).must(0);
    let before = std::fs::read(&files.challenge).unwrap();
    let again = ["node", "enroll", NODE, "--tpm", text(&files.request), "--out", text(&files.challenge)];
    lab.world.admin(&again).must(64);
    assert_eq!(std::fs::read(&files.challenge).unwrap(), before);
    let (challenge, proof) = (text(&files.challenge), text(&files.proof));
    for arguments in [
        &["node", "enroll", NODE][..],
        &["node", "enroll", NODE, "--tpm", challenge, "--out", "/nonexistent/out"],
        &["node", "enroll", NODE, "--tpm", text(&files.request)],
        &["node", "enroll", NODE, "--tpm", challenge, "--out", proof],
        &["node", "enroll", NODE, "--proof", challenge],
        &["node", "enroll", NODE, "--proof", "/nonexistent"],
        &["node", "enroll", NODE, "--tpm", text(&files.request), "--out", proof, "--ek-sha256", "abc"],
    ] {
        let ended = lab.world.admin(arguments);
        assert_eq!(ended.code, 64, "{arguments:?}: {ended:?}");
    }
    for arguments in [
        &["request", "--tpm", "swtpm:10.0.0.1:2321"][..],
        &["request", "--tpm", "device:/dev/tpm0", "--ek", "dsa"],
        &["request", "--tpm", "device:/dev/tpm0", "--tpm-ak", "0x80000000"],
        &["activate", "/nonexistent", "--tpm", "device"],
    ] {
        let ended = run(portcullis().args(["agent", "tpm"]).args(arguments));
        assert_eq!(ended.code, 64, "{arguments:?}: {ended:?}");
    }
    let absent = ["agent", "tpm", "request", "--tpm", "device:/nonexistent/tpm"];
    run(portcullis().args(absent)).must(75);
}
