//! The disk is full: while serving, and at a start.

use crate::disk::{self, Disk};
use crate::field::Field;
use crate::world::{OPEN, Place, run, sha256, until, write};
use portcullis::client::ReleaseError;
use portcullis::denial::Reason;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A field on a disk of its own, and the file that fills it.
fn field() -> Option<(Field, Disk, PathBuf)> {
    if !disk::can_be_made() {
        return None;
    }
    let disk = Disk::new(256);
    let place = Place::new();
    disk.take(&place);
    let field = Field::new(place);
    let value = format!("value=@{}", field.world.path("value"));
    field.world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    let ballast = disk.root().join("ballast");
    Some((field, disk, ballast))
}

/// Takes every block that is left.
fn fill(ballast: &std::path::Path) {
    use std::io::Write;
    let mut file = fs::File::create(ballast).unwrap();
    for size in [1 << 20, 4096, 512] {
        while file.write_all(&vec![1; size]).is_ok() && file.sync_data().is_ok() {}
    }
}

#[test]
fn a_disk_that_fills_up_denies_and_does_not_hang_and_space_is_enough_again() {
    let Some((mut field, _disk, ballast)) = field() else { return };
    fill(&ballast);
    let began = Instant::now();
    // What was made ready before goes on; then a checkpoint is due, and there is no room for it.
    let denied = loop {
        let from = Instant::now();
        let outcome = field.release(OPEN);
        assert!(from.elapsed() < Duration::from_secs(8), "it took {:?}", from.elapsed());
        match outcome {
            Ok(lease) => field.ledger.leased(&lease.lease_id),
            Err(error) => break error,
        }
        assert!(began.elapsed() < Duration::from_secs(60), "a full disk goes unnoticed");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(
        matches!(denied, ReleaseError::NotPossible { reason: Reason::VerificationNotPossible, .. }),
        "{denied}"
    );
    let journal = fs::read_to_string(field.world.at("broker.log")).unwrap();
    assert!(journal.contains("No space left on device"), "{journal}");
    let value = format!("value=@{}", field.world.path("value"));
    let refused = field.world.admin(&["secret", "put", "kv/app/later", "--field", &value]).must(75);
    assert!(refused.stderr.contains("the audit log cannot be written"), "{refused:?}");
    fs::remove_file(&ballast).unwrap();
    eprintln!("a full disk is denied on after {:?}", began.elapsed());
    until("it releases again", || field.release(OPEN).is_ok());
    field.world.admin(&["secret", "put", "kv/app/later", "--field", &value]).must(0);
    assert_eq!(field.world.stop(), Some(0));
    field.audit(&field.world.at("var/audit"));
}

/// Where the store is the first to find no room, it is sealed: what of a write is on the disk is not known until it is read again.
#[test]
fn a_store_that_finds_no_room_is_sealed_until_a_start_with_space() {
    let Some((mut field, _disk, ballast)) = field() else { return };
    write(&field.world.at("large"), vec![b'x'; 24_000], 0o600);
    let value = format!("value=@{}", field.world.path("large"));
    let put = |number: u32| {
        let path = format!("kv/app/large/{number}");
        (field.world.admin(&["secret", "put", &path, "--field", &value]), path)
    };
    fill(&ballast);
    let mut acknowledged = Vec::new();
    let said = loop {
        let (ended, path) = put(acknowledged.len() as u32);
        match ended.code {
            0 => acknowledged.push(path),
            _ => break ended.must(75).stderr,
        }
        assert!(acknowledged.len() < 400, "a full disk goes unnoticed");
    };
    assert!(said.contains("sealed") || said.contains("the audit log cannot be written"), "{said}");
    fs::remove_file(&ballast).unwrap();
    eprintln!("{} writes on a full disk, then: {said}", acknowledged.len());
    field.world.kill();
    field.world.start();
    for path in &acknowledged {
        field.release(path).unwrap();
    }
    field.audit(&field.world.at("var/audit"));
}

#[test]
fn a_start_on_a_full_disk_is_refused_and_space_is_enough_again() {
    let Some((mut field, _disk, ballast)) = field() else { return };
    field.world.kill();
    fill(&ballast);
    let log = field.world.at("var/audit/segment-0000000001.log");
    let (checkpoint, before) = (field.world.at("var/audit/checkpoint"), sha256(&log));
    let signed = sha256(&checkpoint);
    let ended = run(&mut field.world.serve()).must(78);
    assert_eq!((sha256(&log), sha256(&checkpoint)), (before, signed));
    assert!(ended.stderr.contains("not started") && ended.stderr.contains("No space left"), "{ended:?}");
    fs::remove_file(&ballast).unwrap();
    field.world.start();
    field.release(OPEN).unwrap();
    field.audit(&field.world.at("var/audit"));
}
