//! The disk is full: while serving, and at a start.

use crate::disk::{self, Disk};
use crate::field::Field;
use crate::world::{OPEN, Place, run, until};
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
    fs::remove_file(&ballast).unwrap();
    eprintln!("a full disk denied after {:?}", began.elapsed());
    let healed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        field.release(OPEN).map(|lease| field.ledger.leased(&lease.lease_id)).is_ok()
    });
    eprintln!("healed {healed}: {}", fs::read_to_string(field.world.at("broker.log")).unwrap());
    assert_eq!(field.world.stop(), Some(0));
    field.audit(&field.world.at("var/audit"));
}

#[test]
fn a_start_on_a_full_disk_is_refused_and_space_is_enough_again() {
    let Some((mut field, _disk, ballast)) = field() else { return };
    field.world.kill();
    fill(&ballast);
    let ended = run(&mut field.world.serve()).must(78);
    assert!(ended.stderr.contains("not started") && ended.stderr.contains("No space left"), "{ended:?}");
    eprintln!("{}", ended.stderr);
    fs::remove_file(&ballast).unwrap();
    field.world.start();
    field.release(OPEN).unwrap();
    until("it is there", || true);
    field.audit(&field.world.at("var/audit"));
}
