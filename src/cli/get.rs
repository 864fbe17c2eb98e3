//! `portcullis get`: one secret to stdout or to a file, for scripts.
//!
//! *Takes* a path. *Gives* one field raw, or the secret as JSON. *Denies* with an exit code per kind, and prints nothing
//! to stdout then. *Source*: issue "The gate", What a user gets.
//!
//! What reads the output is not attested: any process of this user that can run `portcullis get` gets the secret. So the
//! statement names `portcullis` itself as the program that receives it, and an administrator has to allow exactly that
//! (a launcher's reference set with `portcullis` among its programs); a set made for `exec` does not allow it.
#![allow(clippy::print_stderr, reason = "a command speaks to its terminal")]

use crate::cli::exit;
use crate::cli::workload::{BrokerArgs, Discreet, Output, refuse};
use crate::client::{Lease, ReleaseError, Request, Secret, SocketAttester, Value, release};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Release one secret to stdout or to a file.
///
/// Prints the field's bytes as they are, or, where the secret has several fields and none is named, all of it as JSON.
/// In JSON a field is a string where it is UTF-8, and {"base64": "…"} where it is not. Prefer `exec`, which attests the
/// program that uses the secret: here whatever reads the output gets it, so an administrator has to allow `portcullis`
/// itself as the receiving program.
///
/// Exit codes: 0 done; 64 usage; 69 could not connect; 70 a fault of this machine; 75 verification was not possible;
/// 76 not the broker; 77 denied; 78 configuration.
///
/// Example: portcullis get kv/payments/stripe --field api_key --out /run/payments/stripe.key
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The secret's path.
    pub path: String,
    /// The field to give; the only one where there is but one.
    #[arg(long)]
    pub field: Option<String>,
    /// Write to this file, 0600, in place of stdout; it is replaced whole or not at all.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How long the lease shall be, seconds; 0 is the secret's default. Too long is denied.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub ttl: u32,
    /// `json`: the secret with its lease as one object, and failures as one object on stderr.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Where the broker is, and who we are.
    #[command(flatten)]
    pub broker: BrokerArgs,
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    let lease = match earn(&args).await {
        Ok(lease) => lease,
        Err(error) => return refuse(&error, args.output),
    };
    let Some(secret) = lease.secrets.first() else { return exit::INTERNAL };
    let text = match render(&lease, secret, args.field.as_deref(), args.output) {
        Ok(text) => text,
        Err(why) => {
            eprintln!("portcullis: {why}");
            return exit::USAGE;
        }
    };
    let written = match &args.out {
        Some(path) => write_whole(path, &text),
        None => print(&text),
    };
    match written {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("portcullis: not written: {error}");
            exit::INTERNAL
        }
    }
}

async fn earn(args: &Args) -> Result<Lease, ReleaseError> {
    let config = args.broker.config()?;
    // The program that receives the secret is this one, and its measurement says so.
    let own = File::open("/proc/self/exe").ok();
    let program_fds = own.iter().filter_map(|file| u32::try_from(file.as_raw_fd()).ok()).collect();
    let attester = Discreet(SocketAttester::new(&config.attester).with_program_fds(program_fds));
    let request = Request { ttl_seconds: args.ttl, ..Request::of([args.path.clone()]) };
    release(&config, &attester, request).await
}

/// What is written: raw bytes, or JSON with a line's end.
fn render(
    lease: &Lease,
    secret: &Secret,
    field: Option<&str>,
    output: Output,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let chosen = match field {
        Some(_) => Some(choose(secret, field)?),
        None => only_field(secret),
    };
    match (chosen, output) {
        (Some(value), Output::Text) => Ok(Zeroizing::new(value.expose_secret().to_vec())),
        (None, _) | (Some(_), Output::Json) => as_json(lease, secret, field),
    }
}

/// The field of that name, or the only one.
pub(super) fn choose<'a>(secret: &'a Secret, field: Option<&str>) -> Result<&'a Value, String> {
    let names = || secret.fields.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match field {
        Some(name) => secret
            .fields
            .get(name)
            .ok_or_else(|| format!("`{}` has no field `{name}`, but {}", secret.path, names())),
        None => only_field(secret)
            .ok_or_else(|| format!("`{}` has several fields: name one of {}", secret.path, names())),
    }
}

fn only_field(secret: &Secret) -> Option<&Value> {
    secret.fields.first_key_value().filter(|_| secret.fields.len() == 1).map(|(_, value)| value)
}

fn as_json(lease: &Lease, secret: &Secret, only: Option<&str>) -> Result<Zeroizing<Vec<u8>>, String> {
    let fields = secret.fields.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str()));
    let fields: serde_json::Map<_, _> =
        fields.map(|(name, value)| (name.clone(), field_as_json(value))).collect();
    let object = serde_json::json!({
        "path": secret.path,
        "version": secret.version,
        "lease_id": lease.lease_id,
        "not_after": lease.not_after.to_string(),
        "fields": fields,
    });
    let mut text = Zeroizing::new(serde_json::to_vec(&object).map_err(|_| "the secret is no JSON")?);
    text.push(b'\n');
    Ok(text)
}

fn field_as_json(value: &Value) -> serde_json::Value {
    match std::str::from_utf8(value.expose_secret()) {
        Ok(text) => text.into(),
        Err(_) => serde_json::json!({ "base64": STANDARD.encode(value.expose_secret()) }),
    }
}

/// A terminal gets a line's end, for the prompt; nothing else gets a byte more than the secret.
fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    if stdout.is_terminal() && !text.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// Writes beside the file and renames over it: a reader finds the old one, the new one or none, never a part. A symbolic
/// link is replaced, not followed.
fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(beside);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
    let written =
        file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Value;
    use crate::request::SecretPath;
    use crate::time::WallTime;
    use std::os::unix::fs::PermissionsExt;

    fn lease(fields: &[(&str, &[u8])]) -> Lease {
        let fields = fields.iter().map(|(name, bytes)| ((*name).to_owned(), Value::from(bytes.to_vec())));
        let secret =
            Secret { path: SecretPath::parse("kv/a").unwrap(), version: 2, fields: fields.collect() };
        Lease { lease_id: "lease-0123456789".into(), not_after: WallTime(0), secrets: vec![secret] }
    }

    fn rendered(lease: &Lease, field: Option<&str>, output: Output) -> Result<Vec<u8>, String> {
        render(lease, &lease.secrets[0], field, output).map(|text| text.to_vec())
    }

    #[test]
    fn one_field_is_given_raw_and_several_as_json() {
        let one = lease(&[("value", b"\xffraw")]);
        assert_eq!(rendered(&one, None, Output::Text).unwrap(), b"\xffraw");
        let two = lease(&[("binary", b"\xff\x00"), ("user", b"me")]);
        assert_eq!(rendered(&two, Some("user"), Output::Text).unwrap(), b"me");
        let json: serde_json::Value =
            serde_json::from_slice(&rendered(&two, None, Output::Text).unwrap()).unwrap();
        assert_eq!(json["fields"], serde_json::json!({"binary": {"base64": "/wA="}, "user": "me"}));
        assert_eq!((&json["version"], &json["path"]), (&2.into(), &"kv/a".into()));
        assert_eq!(json["not_after"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn json_of_one_field_holds_that_field_alone() {
        let two = lease(&[("password", b"p"), ("user", b"me")]);
        let json: serde_json::Value =
            serde_json::from_slice(&rendered(&two, Some("user"), Output::Json).unwrap()).unwrap();
        assert_eq!(json["fields"], serde_json::json!({"user": "me"}));
    }

    #[test]
    fn a_field_that_is_not_there_is_an_error_that_shows_names_alone() {
        let two = lease(&[("password", b"hidden"), ("user", b"me")]);
        let error = rendered(&two, Some("token"), Output::Text).unwrap_err();
        assert_eq!(error, "`kv/a` has no field `token`, but `password`, `user`");
    }

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "a longer text than the new one").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_is_replaced_and_what_it_points_to_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_whole(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read(&link).unwrap(), b"new");
    }

    #[test]
    fn where_the_file_cannot_be_replaced_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("directory");
        std::fs::create_dir_all(path.join("full")).unwrap();
        let outcome = write_whole(&path, b"new").map_err(|error| error.kind());
        assert_eq!(outcome, Err(io::ErrorKind::IsADirectory));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
