//! The desk of whoever verifies: a directory of files, and the program.
//!
//! *Takes* bytes and options. *Gives* [`Found`]. *Denies* nothing: an exit code that its JSON does not say ends the test.
//! *Source*: `deploy/attestation/README.md` (the keys of the JSON).

use portcullis::time::WallTime;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const ACCEPTABLE: i32 = 0;
pub const REFUSED: i32 = 1;
pub const UNDECIDED: i32 = 2;
pub const USAGE: i32 = 64;

/// A folder of the shared vectors; said loudly where it is not there, and a failure where it must be.
pub fn vectors(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{} is not there", path.display());
    eprintln!("NOT RUN: {} is not there", path.display());
    None
}

pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

pub fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

/// RFC 3339 of Unix milliseconds.
pub fn at_ms(milliseconds: u64) -> String {
    WallTime(milliseconds).to_string()
}

pub fn at(seconds: u64) -> String {
    at_ms(seconds * 1000)
}

/// A directory of one's own.
pub struct Desk {
    directory: tempfile::TempDir,
}

/// How a verification ended.
#[derive(Debug)]
pub struct Found {
    pub code: i32,
    pub json: Value,
    pub stderr: String,
}

impl Desk {
    pub fn new() -> Self {
        Desk { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, and its directories.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// A command line that grows.
pub struct Asked {
    arguments: Vec<OsString>,
}

pub fn verify(format: &str, document: impl AsRef<OsStr>) -> Asked {
    let asked = Asked { arguments: vec!["verify".into(), "--format".into(), format.into()] };
    asked.word(document)
}

impl Asked {
    pub fn word(mut self, word: impl AsRef<OsStr>) -> Self {
        self.arguments.push(word.as_ref().to_owned());
        self
    }

    pub fn with(self, option: &str, value: impl AsRef<OsStr>) -> Self {
        self.word(option).word(value)
    }

    pub fn named(self, option: &str, name: &str, path: &Path) -> Self {
        self.with(option, format!("{name}={}", path.display()))
    }

    /// Runs with `--output json`. What is printed and the exit code say one thing.
    pub fn run(self) -> Found {
        let (code, stdout, stderr) = run(&self.word("--output").word("json").arguments);
        if code == USAGE {
            assert!(stdout.is_empty() && !stderr.is_empty(), "{stdout} {stderr}");
            return Found { code, json: Value::Null, stderr };
        }
        let json: Value =
            serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout} {stderr}"));
        let verdict = ["acceptable", "refused", "undecided"].iter().position(|name| json["verdict"] == *name);
        let exit = verdict.and_then(|place| i32::try_from(place).ok());
        assert_eq!((Some(code), json["exit"].as_i64()), (exit, Some(i64::from(code))), "{json}");
        assert!(stderr.is_empty(), "{stderr}");
        assert_eq!(code == ACCEPTABLE, json["decided_by"].is_null(), "{json}");
        Found { code, json, stderr }
    }

    /// Runs as a person does.
    pub fn text(self) -> (i32, String) {
        let (code, stdout, stderr) = run(&self.arguments);
        assert!(stderr.is_empty(), "{stderr}");
        (code, stdout)
    }

    /// Runs as a person does who gets it wrong: the code and what stderr says.
    pub fn run_usage(self) -> (i32, String) {
        let (code, stdout, stderr) = run(&self.arguments);
        assert!(stdout.is_empty(), "{stdout}");
        (code, stderr)
    }
}

/// Code, stdout and stderr of the program, without the variables of whoever runs the tests.
pub fn run(arguments: &[OsString]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PORTCULLIS_") {
            command.env_remove(name);
        }
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

impl Found {
    /// The denial that decided, and the check.
    pub fn why(&self) -> (&str, &str) {
        let word = |key: &str| self.json["decided_by"][key].as_str().unwrap_or_default();
        (word("denial"), word("name"))
    }

    #[track_caller]
    pub fn accepted(self) -> Self {
        assert_eq!(self.code, ACCEPTABLE, "{} {}", self.json["decided_by"], self.stderr);
        self
    }

    #[track_caller]
    pub fn refused(self, denial: &str) -> Self {
        assert_eq!((self.code, self.why().0), (REFUSED, denial), "{} {}", self.json, self.stderr);
        self
    }

    #[track_caller]
    pub fn undecided(self, denial: &str) -> Self {
        assert_eq!((self.code, self.why().0), (UNDECIDED, denial), "{} {}", self.json, self.stderr);
        self
    }

    /// A usage error that says this.
    #[track_caller]
    pub fn usage(self, says: &str) {
        assert_eq!(self.code, USAGE, "{}", self.json);
        assert!(self.stderr.contains(says), "{}", self.stderr);
    }

    pub fn claims(&self, format: &str) -> &Value {
        &self.json["claims"][format]
    }

    /// The checks that passed, as `format name`.
    pub fn passed(&self) -> Vec<String> {
        let checks = self.json["checks"].as_array().unwrap().iter();
        let passed = checks.filter(|check| check["outcome"] == "passed");
        let text = |value: &Value| value.as_str().unwrap_or("all").to_owned();
        passed.map(|check| format!("{} {}", text(&check["document"]), text(&check["name"]))).collect()
    }
}
