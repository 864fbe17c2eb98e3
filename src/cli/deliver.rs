//! How `exec` hands secrets to its child: variables, sealed memory files, or standard input.
//!
//! *Takes* what the command line asks for and a [`Lease`]. *Gives* an environment and open descriptors. *Denies* with
//! [`DeliveryError`] before the child starts: all of it can be delivered, or nothing runs. *Source*: memfd_create(2).

use crate::cli::get::choose;
use crate::client::{Lease, Secret};
use crate::request::SecretPath;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// Which secrets, and how each reaches the program; at least one.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(required = true, multiple = true)]
#[command(next_help_heading = "Secrets, at least one")]
pub struct Deliveries {
    /// Put the secret into this variable. Other processes of the same user can read a program's environment in
    /// /proc/PID/environ, and whatever it starts inherits it; --file and --fd are better where the program can do that.
    #[arg(long, value_name = "PATH[:FIELD]=VARIABLE", value_parser = Target::parse)]
    pub secret: Vec<Target>,
    /// Put the secret into a file in memory, and its name into this variable: for programs that read a file.
    #[arg(long, value_name = "PATH[:FIELD]=VARIABLE", value_parser = Target::parse)]
    pub file: Vec<Target>,
    /// Put the secret into an inherited descriptor, and its number into this variable.
    #[arg(long, value_name = "PATH[:FIELD]=VARIABLE", value_parser = Target::parse)]
    pub fd: Vec<Target>,
    /// Let the program read the secret from its standard input.
    #[arg(long, value_name = "PATH[:FIELD]", value_parser = Source::parse)]
    pub stdin: Option<Source>,
}

/// One field of one secret; without a name, the only field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    path: SecretPath,
    field: Option<String>,
}

/// A field and the variable that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    source: Source,
    variable: String,
}

impl Source {
    /// Parses `PATH` or `PATH:FIELD`.
    pub fn parse(text: &str) -> Result<Source, String> {
        let (path, field) = match text.split_once(':') {
            Some((_, "")) => return Err("the field after `:` is missing".to_owned()),
            Some((path, field)) => (path, Some(field.to_owned())),
            None => (text, None),
        };
        let path = SecretPath::parse(path).map_err(|_| format!("`{path}` is no secret path"))?;
        Ok(Source { path, field })
    }
}

impl Target {
    /// Parses `SOURCE=VARIABLE`.
    pub fn parse(text: &str) -> Result<Target, String> {
        let (source, variable) = text.split_once('=').ok_or("`=VARIABLE` is missing")?;
        let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        let whole = variable.bytes().all(|byte| first(byte) || byte.is_ascii_digit());
        if !variable.bytes().next().is_some_and(first) || !whole || is_ours(OsStr::new(variable)) {
            return Err(format!("`{variable}` is no name for a variable, or one of Portcullis's own"));
        }
        Ok(Target { source: Source::parse(source)?, variable: variable.to_owned() })
    }
}

/// Why released secrets do not reach the program.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Two secrets for one variable.
    #[error("two secrets are to go into `{0}`")]
    VariableTwice(String),
    /// No such field, or several and none named.
    #[error("{0}")]
    Field(String),
    /// A variable cannot hold a zero byte.
    #[error("the secret for `{0}` holds a zero byte: use --file or --fd")]
    ZeroByte(String),
    /// No memory file could be made.
    #[error("no file in memory: {0}")]
    Memory(std::io::Error),
}

/// What the child gets. The descriptors must be open until it runs.
pub struct Delivered {
    /// Its variables.
    pub variables: Vec<(OsString, OsString)>,
    /// What it inherits under the same numbers.
    pub inherited: Vec<OwnedFd>,
    /// Its standard input, where that is a secret.
    pub stdin: Option<OwnedFd>,
}

impl Deliveries {
    /// The paths to ask for, each once, in order; and that no variable is meant twice.
    pub fn paths(&self) -> Result<Vec<String>, DeliveryError> {
        let mut variables = BTreeSet::new();
        for target in self.targets() {
            if !variables.insert(&target.variable) {
                return Err(DeliveryError::VariableTwice(target.variable.clone()));
            }
        }
        let mut paths: Vec<String> = Vec::new();
        for source in self.targets().map(|target| &target.source).chain(&self.stdin) {
            if !paths.iter().any(|path| path == source.path.as_str()) {
                paths.push(source.path.as_str().to_owned());
            }
        }
        Ok(paths)
    }

    /// Makes all that the child gets, or nothing.
    pub fn deliver(&self, lease: &Lease) -> Result<Delivered, DeliveryError> {
        let mut delivered = Delivered { variables: Vec::new(), inherited: Vec::new(), stdin: None };
        for target in &self.secret {
            let bytes = value(lease, &target.source)?;
            if bytes.contains(&0) {
                return Err(DeliveryError::ZeroByte(target.variable.clone()));
            }
            delivered.add(&target.variable, OsString::from_vec(bytes.to_vec()));
        }
        for (targets, prefix) in [(&self.file, "/proc/self/fd/"), (&self.fd, "")] {
            for target in targets {
                let file = memory_file(value(lease, &target.source)?)?;
                rustix::io::fcntl_setfd(&file, FdFlags::empty()).map_err(memory)?;
                delivered.add(&target.variable, format!("{prefix}{}", file.as_raw_fd()).into());
                delivered.inherited.push(file);
            }
        }
        let stdin = self.stdin.as_ref().map(|source| memory_file(value(lease, source)?));
        delivered.stdin = stdin.transpose()?;
        Ok(delivered)
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.secret.iter().chain(&self.file).chain(&self.fd)
    }
}

impl Delivered {
    fn add(&mut self, name: &str, value: OsString) {
        self.variables.push((name.into(), value));
    }
}

/// Whether a variable is one of Portcullis's own, which say where this workload's key is: a child does not get them
/// unless it is told to.
pub fn is_ours(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"PORTCULLIS_")
}

fn value<'a>(lease: &'a Lease, source: &Source) -> Result<&'a [u8], DeliveryError> {
    let of_path = |secret: &&Secret| secret.path == source.path;
    let secret = lease.secrets.iter().find(of_path);
    let secret = secret.ok_or_else(|| DeliveryError::Field(format!("`{}` was not released", source.path)))?;
    choose(secret, source.field.as_deref()).map(|value| value.expose_secret()).map_err(DeliveryError::Field)
}

/// A sealed file in memory, at its beginning; it never touches a disk, swap aside, and ends with its last descriptor.
fn memory_file(bytes: &[u8]) -> Result<OwnedFd, DeliveryError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match rustix::fs::memfd_create("secret", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3 there is no such flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create("secret", flags),
        made => made,
    };
    let mut file = File::from(made.map_err(memory)?);
    file.write_all(bytes).and_then(|()| file.rewind()).map_err(DeliveryError::Memory)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(memory)?;
    Ok(file.into())
}

fn memory(error: Errno) -> DeliveryError {
    DeliveryError::Memory(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Value;
    use crate::time::WallTime;
    use std::io::Read;

    fn lease() -> Lease {
        let secret = |path: &str, fields: &[(&str, &[u8])]| Secret {
            path: SecretPath::parse(path).unwrap(),
            version: 1,
            fields: fields
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), Value::from(bytes.to_vec())))
                .collect(),
        };
        let secrets = vec![
            secret("kv/one", &[("value", b"1")]),
            secret("kv/two", &[("key", b"zero\0"), ("user", b"me")]),
        ];
        Lease { lease_id: "lease-0123456789".into(), not_after: WallTime(0), secrets }
    }

    fn targets(texts: &[&str]) -> Vec<Target> {
        texts.iter().map(|text| Target::parse(text).unwrap()).collect()
    }

    #[test]
    fn targets_are_strict() {
        let target = Target::parse("kv/a:api_key=API_KEY").unwrap();
        assert_eq!((target.source.path.as_str(), target.variable.as_str()), ("kv/a", "API_KEY"));
        assert_eq!(target.source.field.as_deref(), Some("api_key"));
        for bad in [
            "kv/a",
            "kv/a=",
            "kv/a:=X",
            "=X",
            "kv/A=X",
            "kv/a=1X",
            "kv/a=A-B",
            "kv/a=A=B",
            "kv/a=PORTCULLIS_X",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_asked_for_once_and_a_variable_is_not_meant_twice() {
        let stdin = Some(Source::parse("kv/two:key").unwrap());
        let deliveries =
            Deliveries { secret: targets(&["kv/two:user=U", "kv/one=A"]), stdin, ..Deliveries::default() };
        assert_eq!(deliveries.paths().unwrap(), ["kv/two", "kv/one"]);
        let twice = Deliveries {
            secret: targets(&["kv/one=A"]),
            fd: targets(&["kv/two=A"]),
            ..Deliveries::default()
        };
        assert!(matches!(twice.paths(), Err(DeliveryError::VariableTwice(name)) if name == "A"));
    }

    #[test]
    fn each_way_leads_to_the_bytes() {
        let deliveries = Deliveries {
            secret: targets(&["kv/one=A"]),
            file: targets(&["kv/two:key=FILE"]),
            fd: targets(&["kv/two:user=NUMBER"]),
            stdin: Some(Source::parse("kv/one").unwrap()),
        };
        let delivered = deliveries.deliver(&lease()).unwrap();
        let variable =
            |name: &str| delivered.variables.iter().find(|(found, _)| found == name).unwrap().1.clone();
        assert_eq!(variable("A"), "1");
        assert_eq!(std::fs::read(variable("FILE")).unwrap(), b"zero\0");
        assert_eq!(variable("NUMBER"), delivered.inherited[1].as_raw_fd().to_string().as_str());
        let mut read = String::new();
        File::from(delivered.inherited[1].try_clone().unwrap()).read_to_string(&mut read).unwrap();
        assert_eq!(read, "me");
        let stdin = delivered.stdin.unwrap();
        assert_eq!(rustix::io::write(&stdin, b"x"), Err(Errno::PERM));
    }

    #[test]
    fn what_cannot_be_delivered_is_said_before_anything_runs() {
        let outcome = |secret: &[&str]| {
            Deliveries { secret: targets(secret), ..Deliveries::default() }.deliver(&lease()).err()
        };
        assert!(matches!(outcome(&["kv/two:key=A"]), Some(DeliveryError::ZeroByte(name)) if name == "A"));
        assert!(matches!(outcome(&["kv/two=A"]), Some(DeliveryError::Field(_))));
        assert!(matches!(outcome(&["kv/one:user=A"]), Some(DeliveryError::Field(_))));
        assert!(matches!(outcome(&["kv/three=A"]), Some(DeliveryError::Field(_))));
    }
}
