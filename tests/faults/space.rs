//! The disk is full: while serving, and at a start.

use crate::disk::{self, Disk};
use crate::field::Field;
use crate::world::{OPEN, Place, run, sha256, until, write};
use portcullis::client::ReleaseError;
use portcullis::denial::Reason;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A field on a disk of its own, without a ballast, and the file that fills it.
fn field() -> Option<(Field, Disk, PathBuf)> {
    field_with(256, 0)
}

fn field_with(mebibytes: u32, ballast_mib: u32) -> Option<(Field, Disk, PathBuf)> {
    if !disk::can_be_made() {
        return None;
    }
    let disk = Disk::new(mebibytes);
    let place = Place::new();
    place.reconfigure("ballast_mib = 1\n", &format!("ballast_mib = {ballast_mib}\n"));
    disk.take(&place);
    let field = Field::new(place);
    let value = format!("value=@{}", field.world.path("value"));
    field.world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    let filler = disk.root().join("filler");
    Some((field, disk, filler))
}

/// Takes every block that is left.
fn fill(filler: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(filler).unwrap();
    for size in [1 << 20, 4096, 512] {
        while file.write_all(&vec![1; size]).is_ok() && file.sync_data().is_ok() {}
    }
}

/// Takes all room but half a MiB at once: the ballast, which goes a moment later, is not taken too.
fn fill_but_for_the_ballast(filler: &Path) {
    use rustix::fs::{FallocateFlags, fallocate, statvfs};
    let file = fs::File::create(filler).unwrap();
    let room = statvfs(filler.parent().unwrap()).unwrap();
    let free = room.f_bavail * room.f_frsize;
    fallocate(&file, FallocateFlags::empty(), 0, free - (1 << 19)).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_full_disk_is_left_its_ballast_in_which_denials_and_revocations_are_recorded_and_nothing_released() {
    let Some((mut field, _disk, filler)) = field_with(384, 32) else { return };
    let ballast = field.world.at("var/store/ballast");
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 32 << 20);
    field.release(OPEN).unwrap();
    fill_but_for_the_ballast(&filler);
    until("the ballast is let go", || !ballast.exists());
    until("releases stop", || {
        let denied = field.release(OPEN);
        matches!(denied, Err(ReleaseError::NotPossible { reason: Reason::VerificationNotPossible, .. }))
    });
    // It stays so: what room there is is for denials and for whatever administrators do.
    assert!(field.release(OPEN).is_err());
    let recorded = field.world.records(&["--kind", "denied"]);
    let last = recorded.last().unwrap().to_string();
    assert!(last.contains("AuditUnavailable"), "{last}");
    let other = "spiffe://cli.example/ns/app/other";
    field.world.admin(&["revoke", "--identity", other, "--why", "taken"]).must(0);
    let value = format!("value=@{}", field.world.path("value"));
    field.world.admin(&["secret", "put", "kv/app/later", "--field", &value]).must(0);
    let journal = fs::read_to_string(field.world.at("broker.log")).unwrap();
    assert!(journal.contains("the disk is full and the ballast is out"), "{journal}");
    assert!(!journal.contains("No space left on device"), "{journal}");
    fs::remove_file(&filler).unwrap();
    until("it releases again", || field.release(OPEN).is_ok());
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 32 << 20);
    let shown = field.world.admin(&["revocation", "list"]).must(0);
    assert!(shown.text().contains(other), "{shown:?}");
    assert_eq!(field.world.stop(), Some(0));
    field.audit(&field.world.at("var/audit"));
}

#[test]
fn a_disk_that_fills_up_denies_and_does_not_hang_and_space_is_enough_again() {
    let Some((mut field, _disk, filler)) = field() else { return };
    fill(&filler);
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
    fs::remove_file(&filler).unwrap();
    eprintln!("a full disk is denied on after {:?}", began.elapsed());
    until("it releases again", || field.release(OPEN).is_ok());
    field.world.admin(&["secret", "put", "kv/app/later", "--field", &value]).must(0);
    assert_eq!(field.world.stop(), Some(0));
    field.audit(&field.world.at("var/audit"));
}

/// Where the store is the first to find no room, it is sealed: what of a write is on the disk is not known until it is read again.
#[test]
fn a_store_that_finds_no_room_is_sealed_until_a_start_with_space() {
    let Some((mut field, _disk, filler)) = field() else { return };
    write(&field.world.at("large"), vec![b'x'; 24_000], 0o600);
    let value = format!("value=@{}", field.world.path("large"));
    let put = |number: u32| {
        let path = format!("kv/app/large/{number}");
        (field.world.admin(&["secret", "put", &path, "--field", &value]), path)
    };
    fill(&filler);
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
    fs::remove_file(&filler).unwrap();
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
    let Some((mut field, _disk, filler)) = field() else { return };
    field.world.kill();
    fill(&filler);
    let log = field.world.at("var/audit/segment-0000000001.log");
    let (checkpoint, before) = (field.world.at("var/audit/checkpoint"), sha256(&log));
    let signed = sha256(&checkpoint);
    let ended = run(&mut field.world.serve()).must(78);
    assert_eq!((sha256(&log), sha256(&checkpoint)), (before, signed));
    assert!(ended.stderr.contains("not started") && ended.stderr.contains("No space left"), "{ended:?}");
    fs::remove_file(&filler).unwrap();
    field.world.start();
    field.release(OPEN).unwrap();
    field.audit(&field.world.at("var/audit"));
}
