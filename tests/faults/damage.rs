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
    files_below(directory, &mut files);
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

#[test]
fn explore() {
    for killed in [false, true] {
        let field = field(killed);
        eprintln!("killed {killed}: {:?}", picture(&field.world.at("var")).keys());
        let before = picture(&field.world.at("var"));
        eprintln!("WHOLE {:?}", start(&field).is_none());
        let after = picture(&field.world.at("var"));
        eprintln!("changed by a start and a kill: {:?}", changed(&before, &after));
        heal(&field);
        let db = "var/store/sled/db";
        let length = fs::metadata(field.world.at(db)).unwrap().len();
        let segment = "var/audit/00000001.log";
        let mut cases: Vec<(String, Box<dyn Fn()>)> = vec![];
        let world = &field.world;
        for part in 0..12 {
            let at = length * part / 12 + 100;
            cases.push((format!("flip {db} {at}/{length}"), Box::new(move || flip(&world.at(db), at))));
        }
        for cut in [0, 1, length / 2, length - 1, length - 4096, length - 512 * 1024] {
            cases.push((format!("cut {db} {cut}"), Box::new(move || truncate(&world.at(db), cut))));
        }
        for name in picture(&world.at("var")).into_keys() {
            let other = name.clone();
            let third = name.clone();
            cases.push((
                format!("remove {}", name.display()),
                Box::new(move || fs::remove_file(&name).unwrap()),
            ));
            cases.push((format!("flip {} 20", other.display()), Box::new(move || flip(&other, 20))));
            cases.push((format!("empty {}", third.display()), Box::new(move || truncate(&third, 0))));
        }
        for at in [3, 200, 5000, 20000] {
            let mut log = vec![];
            files_below(&world.at("var/audit"), &mut log);
            let log = log
                .into_iter()
                .find(|one| {
                    one.display().to_string().ends_with("1.log")
                        || one.display().to_string().contains("segment")
                })
                .unwrap_or(world.at(segment));
            let l2 = log.clone();
            cases.push((format!("flip {} {at}", log.display()), Box::new(move || flip(&log, at))));
            cases.push((format!("cut {} {at}", l2.display()), Box::new(move || truncate(&l2, at))));
        }
        for (name, damage) in cases {
            damage();
            let before = picture(&world.at("var"));
            let said = start(&field);
            let after = picture(&world.at("var"));
            eprintln!(
                "{name}\n   {}\n   {:?}",
                said.clone().map_or("STARTED".into(), |said| said.lines().last().unwrap().to_owned()),
                said.map(|_| changed(&before, &after))
            );
            heal(&field);
        }
    }
}

fn changed(before: &Picture, after: &Picture) -> Vec<String> {
    let mut all: Vec<_> = before.keys().chain(after.keys()).collect();
    all.sort();
    all.dedup();
    all.into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect()
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    let at = (at as usize).min(bytes.len().saturating_sub(1));
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x40;
    }
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

fn truncate(path: &Path, length: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(length as usize);
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}
