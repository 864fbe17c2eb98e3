//! Writes and syncs that fail: what cannot be made durable is not acknowledged, nothing is released, and no sync is tried again.

use crate::field::Field;
use crate::load::{Load, check};
use crate::shim::Shim;
use crate::world::{OPEN, Place};
use portcullis::client::{Lease, ReleaseError};
use portcullis::denial::Reason;
use std::fs;
use std::time::{Duration, Instant};

const LOG: &str = "var/audit";
const STORE: &str = "var/store/sled";

/// Serving, with calls that can be made to fail.
fn field() -> (Field, Shim) {
    let mut field = Field::new(Place::new());
    let value = format!("value=@{}", field.world.path("value"));
    field.world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    let shim = Shim::new(&field.world.root);
    field.world.stop();
    field.world.start_by(shim.over(&mut field.world.serve()));
    field.release(OPEN).unwrap();
    (field, shim)
}

/// A denial that says so, and soon.
#[track_caller]
fn undecided(field: &Field) {
    let from = Instant::now();
    match field.release(OPEN) {
        Err(ReleaseError::NotPossible { reason: Reason::VerificationNotPossible, .. }) => {}
        other => panic!("{:?}", other.map(|lease: Lease| lease.lease_id)),
    }
    assert!(from.elapsed() < Duration::from_secs(8), "it took {:?}", from.elapsed());
}

#[track_caller]
fn put(field: &Field, path: &str, code: i32) -> String {
    let value = format!("value=@{}", field.world.path("value"));
    field.world.admin(&["secret", "put", path, "--field", &value]).must(code).stderr
}

fn journal(field: &Field) -> String {
    fs::read_to_string(field.world.at("broker.log")).unwrap()
}

#[test]
fn a_sync_of_the_store_that_fails_seals_it_until_the_next_start() {
    let (mut field, shim) = field();
    shim.fail("fdatasync", &field.world.at(STORE));
    let said = put(&field, "kv/app/lost", 75);
    assert!(said.contains("sealed") && said.contains("fdatasync"), "{said}");
    // The error was the kernel's to tell once: what a second sync says is worth nothing, so there is none.
    shim.heal("fdatasync");
    put(&field, "kv/app/later", 75);
    undecided(&field);
    assert_eq!(shim.failed(), 1);
    assert_eq!(field.world.records(&["--denial", "StoreUnavailable"]).len(), 1);
    assert!(journal(&field).contains("the store is sealed"), "{}", journal(&field));
    assert_eq!(field.world.stop(), Some(0));
    field.world.start();
    field.release(OPEN).unwrap();
    put(&field, "kv/app/later", 0);
    field.audit(&field.world.at(LOG));
}

#[test]
fn a_write_to_the_store_that_fails_seals_it_until_the_next_start() {
    let (mut field, shim) = field();
    shim.fail("pwrite", &field.world.at(STORE));
    let said = put(&field, "kv/app/lost", 75);
    assert!(said.contains("sealed"), "{said}");
    shim.heal("pwrite");
    undecided(&field);
    put(&field, "kv/app/later", 75);
    field.world.kill();
    field.world.start();
    field.release(OPEN).unwrap();
    put(&field, "kv/app/later", 0);
}

#[test]
fn a_log_that_cannot_be_synced_or_written_denies_until_it_can() {
    let (mut field, shim) = field();
    for call in ["fdatasync", "pwrite"] {
        let released = field.world.records(&["--kind", "released"]).len();
        shim.fail(call, &field.world.at(LOG));
        for _ in 0..3 {
            undecided(&field);
        }
        let said = put(&field, "kv/app/lost", 75);
        assert!(said.contains("the audit log cannot be written"), "{said}");
        assert!(journal(&field).contains("nothing is released until it can"), "{}", journal(&field));
        shim.heal(call);
        crate::world::until("it releases again", || field.release(OPEN).is_ok());
        // What was denied while nothing could be written is not there as a release either.
        assert_eq!(field.world.records(&["--kind", "released"]).len(), released + 1, "{call}");
        put(&field, "kv/app/later", 0);
    }
    assert_eq!(field.world.stop(), Some(0));
    field.audit(&field.world.at(LOG));
    field.world.start();
    field.release(OPEN).unwrap();
}

/// Under load, at any moment, the log or the store: nothing acknowledged is lost, nothing released without its record.
#[test]
fn failures_under_load_lose_nothing() {
    let (mut field, shim) = field();
    for round in 0..8 {
        let (call, directory) =
            [("fdatasync", STORE), ("fdatasync", LOG), ("pwrite", STORE), ("pwrite", LOG)][round % 4];
        let load = Load::begin(&field, round as u32);
        std::thread::sleep(Duration::from_millis(150 + 50 * round as u64));
        shim.fail(call, &field.world.at(directory));
        std::thread::sleep(Duration::from_millis(300));
        load.end(&field);
        shim.heal(call);
        field.world.kill();
        field.world.start_by(shim.over(&mut field.world.serve()));
        check(&field);
    }
    assert_eq!(field.world.stop(), Some(0));
    field.audit(&field.world.at(LOG));
    eprintln!("8 failures under load, {} calls failed: {:?}", shim.failed(), field.ledger.counts());
}

#[test]
fn a_start_that_cannot_be_made_durable_is_refused_and_the_next_one_is_not() {
    let (mut field, shim) = field();
    field.world.kill();
    for (call, directory) in [("fdatasync", STORE), ("pwrite", STORE), ("fdatasync", LOG), ("pwrite", LOG)] {
        shim.fail(call, &field.world.at(directory));
        let mut command = field.world.serve();
        let ended = crate::world::run(shim.over(&mut command)).must(78);
        assert!(ended.stderr.contains("not started"), "{ended:?}");
        assert!(ended.stderr.contains("Input/output error"), "{call} {directory}: {ended:?}");
        shim.heal(call);
    }
    field.world.start();
    field.release(OPEN).unwrap();
    field.audit(&field.world.at(LOG));
}
