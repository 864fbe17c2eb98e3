//! Damaged data at start: it refuses, says what is damaged and what to do, and changes nothing.

use crate::world::{OPEN, Place, World, copy_directory, files_below, wall, write};
use portcullis::audit::checkpoint::LogKey;
use portcullis::audit::log::Log;
use portcullis::audit::record::{Event, Record};
use portcullis::time::{BootTime, WallTime};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A stopped broker whose store and log were used.
fn used() -> World {
    let mut world = World::bare();
    let value = format!("value=@{}", world.path("value"));
    for number in 0..8 {
        world.admin(&["secret", "put", &format!("{OPEN}{number}"), "--field", &value]).must(0);
    }
    world.stop();
    world
}

/// Every file with its bytes, and every name; but the index that the storage engine makes anew of its log at each open.
fn state(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    files_below(directory, &mut files);
    files.sort();
    files.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with("snap."));
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// It does not start, says each of `because`, and leaves every byte where it was; twice.
#[track_caller]
fn refuses(place: &Place, because: &str) {
    let before = state(&place.at("var"));
    for _ in 0..2 {
        place.does_not_start(because);
        let after = state(&place.at("var"));
        let names =
            |state: &[(PathBuf, Vec<u8>)]| state.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "files came or went");
        let changed = before.iter().zip(&after).find(|(one, other)| one != other);
        assert!(changed.is_none(), "{:?} was changed", changed.map(|((path, _), _)| path));
    }
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn first_segment(place: &Place) -> PathBuf {
    place.at("var/audit/segment-0000000001.log")
}

#[test]
fn a_store_that_lacks_a_batch_that_was_acknowledged_is_refused() {
    let mut world = used();
    copy_directory(&world.at("var/store"), &world.at("yesterday"));
    world.start();
    let value = format!("value=@{}", world.path("value"));
    world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    world.stop();
    fs::remove_dir_all(world.at("var/store")).unwrap();
    copy_directory(&world.at("yesterday"), &world.at("var/store"));
    refuses(&world, "was acknowledged: keep");
}

#[test]
fn a_store_with_a_flipped_byte_is_refused_or_as_whole_as_before() {
    let mut world = used();
    let database = world.at("var/store/sled/db");
    copy_directory(&world.at("var/store"), &world.at("whole"));
    let length = fs::metadata(&database).unwrap().len();
    let whole = fs::read(&database).unwrap();
    let used: Vec<u64> = (0..length).filter(|at| whole[usize::try_from(*at).unwrap()] != 0).collect();
    let mut refused = 0;
    for part in 1..8 {
        flip(&database, used[used.len() * part / 8]);
        let ended = world.try_start();
        if let Err(stderr) = ended {
            assert!(stderr.contains("not started") && stderr.contains("restore"), "{stderr}");
            refused += 1;
        } else {
            // A page that nothing reads any more: all that was put is there.
            let listed = world.admin(&["secret", "list"]).must(0).text();
            assert_eq!(listed.matches(OPEN).count(), 8, "{listed}");
            world.stop();
        }
        fs::remove_dir_all(world.at("var/store")).unwrap();
        copy_directory(&world.at("whole"), &world.at("var/store"));
    }
    assert!(refused >= 3, "{refused} of 7 flips were refused");
}

#[test]
fn values_beside_the_log_of_the_store_are_refused() {
    let world = used();
    fs::create_dir_all(world.at("var/store/sled/blobs")).unwrap();
    write(&world.at("var/store/sled/blobs/12345"), "never synced", 0o600);
    refuses(&world, "`blobs` holds values that were never synced");
}

#[test]
fn a_store_and_a_log_in_each_others_place_are_refused() {
    let world = used();
    fs::rename(world.at("var/store"), world.at("var/other")).unwrap();
    fs::rename(world.at("var/audit"), world.at("var/store")).unwrap();
    fs::rename(world.at("var/other"), world.at("var/audit")).unwrap();
    refuses(&world, "there is no store in this place");
}

#[test]
fn the_store_of_another_broker_is_refused() {
    let (world, other) = (used(), used());
    fs::rename(world.at("var/store"), world.at("var/own")).unwrap();
    copy_directory(&other.at("var/store"), &world.at("var/store"));
    refuses(&world, "this key does not open the keyring");
}

#[test]
fn a_log_with_a_flipped_byte_a_cut_end_or_no_checkpoint_is_refused() {
    let world = used();
    let segment = first_segment(&world);
    let length = fs::metadata(&segment).unwrap().len();
    flip(&segment, length - 30);
    refuses(&world, "the audit log is damaged at record");
    flip(&segment, length - 30);
    let whole = fs::read(&segment).unwrap();
    fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(length / 2).unwrap();
    refuses(&world, "records were cut off");
    fs::write(&segment, whole).unwrap();
    let note = fs::read(world.at("var/audit/checkpoint")).unwrap();
    fs::remove_file(world.at("var/audit/checkpoint")).unwrap();
    refuses(&world, "its checkpoint is missing");
    fs::write(world.at("var/audit/checkpoint"), note).unwrap();
    let mut world = world;
    world.start();
}

#[test]
fn a_log_without_a_segment_in_the_middle_is_refused() {
    let world = used();
    grow(&world);
    assert!(world.at("var/audit/segment-0000000003.log").exists());
    fs::rename(world.at("var/audit/segment-0000000002.log"), world.at("aside")).unwrap();
    refuses(&world, "the segment is missing");
    fs::rename(world.at("aside"), world.at("var/audit/segment-0000000002.log")).unwrap();
    let mut world = world;
    world.start();
}

#[test]
fn a_log_that_is_gone_is_refused() {
    let world = used();
    fs::rename(world.at("var/audit"), world.at("aside")).unwrap();
    refuses(&world, "the audit log is missing");
}

/// Fills the log into its third segment.
fn grow(world: &World) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let key = LogKey::load(&world.at("etc/audit.key")).unwrap();
    let (log, _) = Log::open(&world.at("var/audit"), key, WallTime(u64::MAX), |_| ()).unwrap();
    let state = "x".repeat(200 * 1024);
    for number in 0..700_u64 {
        let event = Event::Clock { state: state.clone() };
        let (id, boot_id) = (format!("{number:032x}"), "boot".to_owned());
        let record = Record { id, time: wall(), boot_time: BootTime(number), boot_id, event };
        runtime.block_on(log.append(&record)).unwrap();
    }
    log.close();
}
