//! What a directory says: all of it read and checked before anything is sent.
//!
//! *Takes* a directory. *Gives* [`Wanted`], each thing with the place where it stands. *Denies* an unknown file, an unknown
//! key, a symbolic link, a value of a secret, a thing that stands twice: one error, with file and line. *Source*:
//! `deploy/apply.md`.

use super::entries::{self, NodeEntry, Place, SecretEntry};
use crate::appraisal::reference_set::ReferenceSet;
use crate::cli::admin::{Failure, read_text};
use crate::limits;
use crate::policy::cedar::PolicySet;
use crate::policy::table::Table;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::FileType;
use std::path::{Path, PathBuf};

/// What the broker is to have. A kind that is `None` has no file here and is left alone.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// By path.
    pub(super) secrets: Option<BTreeMap<String, (Place, SecretEntry)>>,
    /// One text, compiled.
    pub(super) policy: Option<String>,
    /// By name.
    pub(super) sets: Option<BTreeMap<String, (Place, ReferenceSet)>>,
    /// By name.
    pub(super) nodes: Option<BTreeMap<String, (Place, NodeEntry)>>,
}

/// Reads and checks a whole directory.
pub(super) fn read(root: &Path) -> Result<Wanted, Failure> {
    let files = Files::below(root)?;
    let wanted = Wanted {
        secrets: files.secrets.as_deref().map(secrets).transpose()?,
        policy: files.policy.as_deref().map(policy).transpose()?,
        sets: files.reference.as_deref().map(sets).transpose()?,
        nodes: files.nodes.as_deref().map(|files| nodes(files, &root.join("nodes"))).transpose()?,
    };
    let nothing = files.secrets.is_none()
        && files.policy.is_none()
        && files.reference.is_none()
        && files.nodes.is_none();
    match nothing {
        true => Err(Failure::usage(format!("{}: nothing to apply is in it; {KNOWN}", root.display()))),
        false => Ok(wanted),
    }
}

/// The files of each kind, ascending by name.
#[derive(Debug, Default)]
struct Files {
    secrets: Option<Vec<PathBuf>>,
    policy: Option<Vec<PathBuf>>,
    reference: Option<Vec<PathBuf>>,
    nodes: Option<Vec<PathBuf>>,
}

impl Files {
    fn below(root: &Path) -> Result<Files, Failure> {
        let mut files = Files::default();
        for (name, path, kind) in entries_of(root)? {
            let (of, extensions): (_, &[&str]) = match name.trim_end_matches(".toml") {
                "secrets" => (&mut files.secrets, &["toml"]),
                "reference" => (&mut files.reference, &["toml"]),
                "nodes" => (&mut files.nodes, &["toml", "pem", "pub"]),
                "policy" | "policy.cedar" => (&mut files.policy, &["cedar", "toml"]),
                _ => return Err(unknown(&path)),
            };
            let file_like = Path::new(&name).extension().is_some();
            let found = match (file_like, kind.is_dir(), kind.is_file()) {
                (true, _, true) if name != "policy.toml" => vec![path],
                (false, true, _) => files_of(&path, extensions)?,
                _ => return Err(unknown(&path)),
            };
            of.get_or_insert_default().extend(found);
        }
        Ok(files)
    }
}

fn files_of(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for (_, path, kind) in entries_of(directory)? {
        let known =
            path.extension().and_then(|one| one.to_str()).is_some_and(|one| extensions.contains(&one));
        if !known || !kind.is_file() {
            return Err(unknown(&path));
        }
        files.push(path);
    }
    Ok(files)
}

/// Ascending by name; hidden files and `README.md` are for people.
fn entries_of(directory: &Path) -> Result<Vec<(String, PathBuf, FileType)>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", directory.display()));
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().map_err(|_| unknown(&entry.path()))?;
        if name.starts_with('.') || name == "README.md" {
            continue;
        }
        if entries.len() >= limits::APPLY_FILES {
            let most = limits::APPLY_FILES;
            return Err(Failure::usage(format!("{}: more than {most} files", directory.display())));
        }
        entries.push((name, entry.path(), entry.file_type().map_err(failed)?));
    }
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

fn unknown(path: &Path) -> Failure {
    Failure::usage(format!("{}: not known here, and nothing is passed over; {KNOWN}", path.display()))
}

fn secrets(files: &[PathBuf]) -> Result<BTreeMap<String, (Place, SecretEntry)>, Failure> {
    let mut all = BTreeMap::new();
    for file in files {
        for (place, entry) in entries::secrets(file, &read_text(file)?)? {
            add(&mut all, "secret", entry.path.to_string(), place, entry)?;
        }
    }
    Ok(all)
}

fn sets(files: &[PathBuf]) -> Result<BTreeMap<String, (Place, ReferenceSet)>, Failure> {
    let mut all = BTreeMap::new();
    for file in files {
        for (place, set) in entries::sets(file, &read_text(file)?)? {
            add(&mut all, "reference set", set.name.clone(), place, set)?;
        }
    }
    Ok(all)
}

fn nodes(files: &[PathBuf], keys: &Path) -> Result<BTreeMap<String, (Place, NodeEntry)>, Failure> {
    let (tables, public_keys): (Vec<_>, Vec<_>) =
        files.iter().partition(|file| file.extension().is_some_and(|one| one == "toml"));
    let mut all = BTreeMap::new();
    let mut used = BTreeSet::new();
    for file in tables {
        for (place, mut entry) in entries::nodes(file, &read_text(file)?)? {
            if let Some(name) = entry.public_key_file.take() {
                let plain = Path::new(&name).file_name().is_some_and(|whole| whole == name.as_str());
                let key = keys.join(&name);
                if !plain || !public_keys.contains(&&key) {
                    let why = format!("`{name}` is no file *.pem or *.pub in {}", keys.display());
                    return Err(place.wrong(&why));
                }
                entry.public_key = Some(read_text(&key)?);
                used.insert(key);
            }
            entry.check(&place)?;
            add(&mut all, "node", entry.name.clone(), place, entry)?;
        }
    }
    match public_keys.into_iter().find(|key| !used.contains(*key)) {
        Some(key) => Err(Failure::usage(format!("{}: no node's `public_key_file`", key.display()))),
        None => Ok(all),
    }
}

fn add<T>(
    all: &mut BTreeMap<String, (Place, T)>,
    kind: &str,
    name: String,
    place: Place,
    entry: T,
) -> Result<(), Failure> {
    match all.get(&name) {
        Some((earlier, _)) => Err(place.wrong(&format!("{kind} `{name}` stands at {earlier} already"))),
        None => {
            all.insert(name, (place, entry));
            Ok(())
        }
    }
}

/// The texts one after the other, compiled; then every table of cases is put to them.
fn policy(files: &[PathBuf]) -> Result<String, Failure> {
    let (texts, tables): (Vec<_>, Vec<_>) =
        files.iter().partition(|file| file.extension().is_some_and(|one| one == "cedar"));
    let mut whole = String::new();
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in texts {
        let text = read_text(file)?;
        for name in compiled(file, &text)?.names() {
            if let Some(earlier) = names.insert(name.to_owned(), file.clone()) {
                let why = format!("policy `{name}` stands in {} already", earlier.display());
                return Err(Failure::usage(format!("{}: {why}", file.display())));
            }
        }
        whole.push_str(&text);
        if !whole.ends_with('\n') {
            whole.push('\n');
        }
    }
    if names.is_empty() {
        return Err(Failure::usage(
            "no policy stands in the directory's `policy`: everything would be denied",
        ));
    }
    let set = compiled(Path::new("policy"), &whole)?;
    tables.into_iter().try_for_each(|file| passes(file, &set))?;
    Ok(whole)
}

fn compiled(file: &Path, text: &str) -> Result<PolicySet, Failure> {
    PolicySet::compile(text).map_err(|error| {
        let faults = error.faults.iter().map(|fault| {
            let line = fault.line.map_or(String::new(), |line| format!(":{line}"));
            let rule = fault.rule.as_ref().map_or(String::new(), |rule| format!("policy `{rule}`: "));
            format!("{}{line}: {rule}{}", file.display(), fault.message)
        });
        Failure::usage(faults.collect::<Vec<_>>().join("\n"))
    })
}

fn passes(file: &Path, policies: &PolicySet) -> Result<(), Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", file.display()));
    let table = Table::parse_toml(&read_text(file)?).map_err(|error| wrong(&error))?;
    match table.run(policies).iter().find(|outcome| !outcome.passed) {
        Some(outcome) => Err(wrong(outcome)),
        None => Ok(()),
    }
}

const KNOWN: &str = "known are secrets.toml, secrets/*.toml, policy.cedar, policy/*.cedar, policy/*.toml (cases), \
                     reference.toml, reference/*.toml, nodes.toml, nodes/*.toml with nodes/*.pem and nodes/*.pub";
