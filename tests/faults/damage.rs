//! A start on damaged data: it is refused, it says what is damaged and how to go on, and it changes nothing.

use crate::field::Field;
use crate::load::{Load, check};
use crate::world::{OPEN, Place, copy_directory, files_below};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Files below a directory, each with its content's digest.
type Picture = BTreeMap<PathBuf, String>;

fn picture(directory: &Path) -> Picture {
    let mut files = Vec::new();
    if directory.exists() {
        files_below(directory, &mut files);
    }
    files.into_iter().map(|path| (path.clone(), crate::world::sha256(path))).collect()
}

/// Something was written to, all of it acknowledged; then it stopped in order, or was killed.
fn field(killed: bool) -> Field {
    let mut field = Field::new(Place::new());
    let value = format!("value=@{}", field.world.path("value"));
    field.world.admin(&["secret", "put", OPEN, "--field", &value]).must(0);
    let load = Load::begin(&field, 0);
    std::thread::sleep(Duration::from_millis(1500));
    load.end(&field);
    check(&field);
    if killed {
        field.world.kill();
    } else {
        field.world.stop();
    }
    for kept in ["etc", "var"] {
        copy_directory(&field.world.at(kept), &field.world.at(&format!("whole/{kept}")));
    }
    field
}

/// Puts back what [`field`] kept.
fn heal(field: &Field) {
    for kept in ["etc", "var"] {
        fs::remove_dir_all(field.world.at(kept)).unwrap();
        copy_directory(&field.world.at(&format!("whole/{kept}")), &field.world.at(kept));
    }
}

/// What a start said; nothing where it serves, and it is then ended.
fn start(field: &Field) -> Option<String> {
    let mut command = field.world.serve();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if !line.is_empty() {
        child.kill().unwrap();
        child.wait().unwrap();
        return None;
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(78), "{said}");
    Some(said)
}

/// How a file is damaged; places are thousandths of its length.
#[derive(Clone, Copy, Debug)]
enum How {
    Flip(u64),
    Cut(u64),
    Remove,
}

impl How {
    fn onto(self, path: &Path) {
        let mode = fs::metadata(path).unwrap().permissions();
        let mut bytes = fs::read(path).unwrap();
        match self {
            How::Remove => return fs::remove_file(path).unwrap(),
            How::Flip(at) => {
                let at = (bytes.len() as u64 * at / 1000) as usize;
                bytes[at] ^= 0x40;
            }
            How::Cut(at) => bytes.truncate((bytes.len() as u64 * at / 1000) as usize),
        }
        // Anew, as some are read-only.
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, mode).unwrap();
    }
}

const LOG: &str = "var/audit/segment-0000000001.log";
const DATABASE: &str = "var/store/sled/db";

/// Each is refused, and says so in these words.
const REFUSED: [(&str, How, &str); 24] = [
    (LOG, How::Remove, "records were cut off"),
    (LOG, How::Cut(0), "the segment's header is damaged"),
    (LOG, How::Flip(0), "the segment's header is damaged"),
    ("var/audit/checkpoint", How::Remove, "its checkpoint is missing"),
    ("var/audit/checkpoint", How::Cut(0), "checkpoint: it is not a signed note"),
    ("var/audit/checkpoint", How::Cut(500), "checkpoint: "),
    ("var/audit/checkpoint", How::Flip(200), "checkpoint: "),
    ("var/audit/checkpoint", How::Flip(900), "checkpoint: "),
    ("var/store/format", How::Remove, "its marker `format` is missing"),
    ("var/store/format", How::Cut(0), "its marker `format` is of another format"),
    ("var/store/format", How::Flip(500), "its marker `format` is of another format"),
    ("var/store/format", How::Flip(900), "the store is damaged"),
    (DATABASE, How::Remove, "the database is missing"),
    (DATABASE, How::Cut(0), "the store is damaged"),
    (DATABASE, How::Cut(300), "was acknowledged"),
    (DATABASE, How::Cut(700), "was acknowledged"),
    ("var/store/sled/conf", How::Flip(500), "the store is damaged"),
    ("etc/store.key", How::Remove, "the key source gave no key"),
    ("etc/store.key", How::Cut(500), "the key source gave no key"),
    ("etc/store.key", How::Flip(500), "the key source gave no key"),
    ("etc/audit.key", How::Remove, "the audit log: "),
    ("etc/audit.key", How::Cut(500), "the audit log: "),
    ("etc/audit.key", How::Flip(500), "the audit log: "),
    ("var/store/sled/snap", How::Flip(500), "the store is damaged"),
];

/// What no two runs have in the same place: refused, or nothing was lost.
const ANYWHERE: [(&str, How); 18] = [
    (DATABASE, How::Flip(3)),
    (DATABASE, How::Flip(100)),
    (DATABASE, How::Flip(250)),
    (DATABASE, How::Flip(400)),
    (DATABASE, How::Flip(550)),
    (DATABASE, How::Flip(700)),
    (DATABASE, How::Flip(850)),
    (DATABASE, How::Flip(999)),
    (DATABASE, How::Cut(999)),
    (DATABASE, How::Cut(950)),
    ("var/store/sled/conf", How::Remove),
    ("var/store/sled/conf", How::Cut(0)),
    ("var/store/sled/snap", How::Remove),
    ("var/store/sled/snap", How::Cut(0)),
    ("var/store/sled/snap", How::Flip(900)),
    (LOG, How::Flip(999)),
    (LOG, How::Cut(999)),
    ("var/audit/checkpoint", How::Flip(999)),
];

#[test]
fn damage_after_an_orderly_stop_is_refused_named_and_left_as_it_is() {
    let field = field(false);
    for (file, how, says) in REFUSED {
        how.onto(&find(&field, file));
        let said = refused(&field).unwrap_or_else(|| panic!("{file} {how:?}: it started"));
        assert!(said.contains(says), "{file} {how:?}: {said}");
        heal(&field);
    }
    changed_records(&field);
    // What is cut off behind the last checkpoint, one that is kept elsewhere shows; an orderly stop signs over all.
    let half = records(&field, LOG) / 2;
    fs::OpenOptions::new().write(true).open(field.world.at(LOG)).unwrap().set_len(half as u64).unwrap();
    let said = refused(&field).expect("it started on half of its log");
    assert!(said.contains("records were cut off"), "{said}");
    heal(&field);
    lost_directories(&field);
    serves(field);
    eprintln!("{} damages refused, and nothing was changed", REFUSED.len() + 9);
}

#[test]
fn damage_anywhere_after_a_kill_is_refused_and_left_as_it_is_or_loses_nothing() {
    let mut field = field(true);
    let mut refusals = 0;
    for (file, how) in ANYWHERE {
        how.onto(&find(&field, file));
        match refused(&field) {
            Some(_) => refusals += 1,
            None => {
                heal(&field);
                how.onto(&find(&field, file));
                field.world.start();
                check(&field);
                field.world.kill();
            }
        }
        heal(&field);
    }
    changed_records(&field);
    serves(field);
    eprintln!("{refusals} of {} damages refused, and nothing was changed or lost", ANYWHERE.len());
    assert!(refusals >= ANYWHERE.len() / 2, "{refusals}");
}

fn changed_records(field: &Field) {
    let records = records(field, LOG);
    for place in 0..6 {
        flip_at(&field.world.at(LOG), records * (2 * place + 1) / 12);
        let said = refused(field).expect("it started on a changed record");
        assert!(said.contains("the audit log is damaged at record"), "{said}");
        heal(field);
    }
}

fn lost_directories(field: &Field) {
    for (lost, says) in [
        ("var/audit", "the audit log is missing beside a store that has been used"),
        ("var/store", "there is no store in this place"),
    ] {
        fs::remove_dir_all(field.world.at(lost)).unwrap();
        let said = refused(field).expect("it started without all of its data");
        assert!(said.contains(says) && !field.world.at(lost).exists(), "{said}");
        heal(field);
    }
}

/// Whole again, it has everything.
fn serves(mut field: Field) {
    field.world.start();
    check(&field);
}

/// What a start said that was refused: it names what is wrong, and left every byte as it was.
#[track_caller]
fn refused(field: &Field) -> Option<String> {
    let (all, log) = (field.world.at("var"), field.world.at("var/audit"));
    let before = (picture(&all), picture(&log));
    let said = start(field)?;
    assert!(said.contains("not started: "), "{said}");
    // A store that is whole, and lacks its key alone, has been opened before that shows.
    assert!(picture(&all) == before.0 || said.contains("the key source gave no key"), "{said}");
    assert_eq!(picture(&log), before.1, "{said}");
    let of_data =
        ["the store is damaged", "was acknowledged", "the audit log: "].iter().any(|of| said.contains(of));
    assert!(!of_data || (said.contains("keep ") && said.contains("as they are")), "{said}");
    Some(said)
}

/// The file of that name; a snapshot's goes on.
fn find(field: &Field, name: &str) -> PathBuf {
    let path = field.world.at(name);
    let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().find(|entry| entry.file_name().unwrap().to_str().unwrap().starts_with(name)).unwrap()
}

/// Where a log's records end, bytes: zeros follow.
fn records(field: &Field, log: &str) -> usize {
    let bytes = fs::read(field.world.at(log)).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap()
}

/// Within the records, past the header.
fn flip_at(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at.max(300)] ^= 1;
    fs::write(path, bytes).unwrap();
}
