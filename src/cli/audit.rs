//! `portcullis audit …`: the audit log, offline, in its directory; a running broker is not asked and not disturbed.
//!
//! *Takes* a directory, the log's public key, filters. *Gives* text, JSON or OCSF lines, and an exit code: 1 where the log
//! is not what was signed. *Denies* nothing. *Source*: NIST SP 800-53 AU-6, AU-7, AU-9, AU-10; OCSF class 6003.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

use crate::audit::archive::{ArchiveError, Before, archive};
use crate::audit::checkpoint::{Checkpoint, LogKey, LogPublicKey};
use crate::audit::flips::{Flip, Flips};
use crate::audit::show::{self, Filter, ShowError};
use crate::audit::verify::{Report, VerifyError, verify_with};
use crate::audit::{log::Sequence, ocsf, record::Record};
use crate::cli::exit;
use crate::denial::Denial;
use crate::limits;
use crate::spiffe::IdPattern;
use crate::time::{SystemTime, TimeSource, WallTime};
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Verify and read the audit log, offline.
///
/// Example: portcullis audit verify --dir /var/lib/portcullis/audit --key /etc/portcullis/audit.pub
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The audit log's directory.
    #[arg(long, global = true, env = "PORTCULLIS_AUDIT", default_value = "/var/lib/portcullis/audit")]
    dir: PathBuf,
    /// An archive of it, read together with it; as often as there are archives.
    #[arg(long, global = true, value_name = "DIR")]
    archive: Vec<PathBuf>,
    /// How to print.
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Find any changed, missing, reordered or cut record; exit code 1 where there is one.
    ///
    /// Example: portcullis audit verify --key audit.pub --checkpoint checkpoint-kept-elsewhere
    Verify(Verify),
    /// Show records.
    ///
    /// Example: portcullis audit show --identity 'spiffe://example.org/ns/payments/*' --kind denied --output ocsf
    Show(Show),
    /// Show denials later followed by a release for the same identity and secret: the trace of retries.
    ///
    /// Example: portcullis audit flips --output json
    Flips,
    /// Print the last signed checkpoint, verified, to be kept elsewhere.
    ///
    /// Example: portcullis audit checkpoint --key audit.pub > checkpoint-kept-elsewhere
    Checkpoint(Key),
    /// Move segments that lie wholly before a time or a record to another directory. A running broker is not disturbed.
    ///
    /// What was verified stays verifiable: the archive by itself (`--dir ARCHIVE`), the log from there on, and both together
    /// (`--archive ARCHIVE`). What the last day wrote stays. Interrupted, it is to be run again. Run it as the broker's user.
    ///
    /// Example: portcullis audit archive --before 2027-01-01T00:00:00Z --to /archive/portcullis-audit
    Archive(Archive),
}

#[derive(Debug, clap::Args)]
struct Archive {
    /// A time, RFC 3339, UTC, or a record's number.
    #[arg(long)]
    before: String,
    /// The directory to move them to; it is made where it is missing.
    #[arg(long)]
    to: PathBuf,
    /// The log's own key, which signs where the log begins from now on.
    #[arg(long, default_value = "/etc/portcullis/audit.key")]
    audit_key: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Key {
    /// The log's public key: a verifier key, `name+id+key`.
    #[arg(long, default_value = "/etc/portcullis/audit.pub")]
    key: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Verify {
    #[command(flatten)]
    key: Key,
    /// A checkpoint that was kept elsewhere: without one, an end that was cut off with its checkpoint is not found.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// About this identity, or all below one (`…/*`).
    #[arg(long)]
    identity: Option<String>,
    /// About this secret.
    #[arg(long)]
    secret: Option<String>,
    /// With this decision id, or about it.
    #[arg(long)]
    decision: Option<String>,
    /// Ended in this denial, such as PolicyForbids.
    #[arg(long)]
    denial: Option<String>,
    /// Of this kind, such as released, denied, admin-intent.
    #[arg(long)]
    kind: Option<String>,
    /// At or after this time, RFC 3339, UTC.
    #[arg(long)]
    since: Option<String>,
    /// Before this time.
    #[arg(long)]
    until: Option<String>,
    /// This node vouched, or the act was about it.
    #[arg(long)]
    node: Option<String>,
    /// An act of this administrator.
    #[arg(long)]
    administrator: Option<String>,
    /// At most so many records.
    #[arg(long)]
    limit: Option<usize>,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Lines for a person.
    #[default]
    Text,
    /// JSON, one value a line.
    Json,
    /// OCSF API Activity, one event a line (`show` only).
    Ocsf,
}

/// Why a command did not do what was asked.
struct Failure {
    code: u8,
    text: String,
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    // Files are read from end to end: that is no work for the runtime's own threads.
    let outcome = tokio::task::spawn_blocking(move || dispatch(&args)).await;
    match outcome {
        Ok(Ok(())) => exit::OK,
        Ok(Err(failure)) if failure.code == exit::OK => exit::OK,
        Ok(Err(failure)) => {
            eprintln!("portcullis: {}", failure.text);
            failure.code
        }
        Err(_) => exit::INTERNAL,
    }
}

fn dispatch(args: &Args) -> Result<(), Failure> {
    if args.output == Output::Ocsf && !matches!(args.command, Command::Show(_)) {
        return Err(usage("--output ocsf is a form of records: it goes with `show`"));
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = match &args.command {
        Command::Verify(command) => verified(args, command, &mut out),
        Command::Show(command) => shown(args, command, &mut out),
        Command::Flips => flipped(args, &mut out),
        Command::Checkpoint(key) => checkpoint(args, key, &mut out),
        Command::Archive(command) => archived(args, command, &mut out),
    };
    done.and_then(|()| out.flush().map_err(Failure::from))
}

fn verified(args: &Args, command: &Verify, out: &mut dyn Write) -> Result<(), Failure> {
    let key = public_key(&command.key.key)?;
    let note = command.checkpoint.as_deref().map(read_small).transpose()?;
    match (verify_with(&args.dir, &args.archive, &key, note.as_deref()), args.output) {
        (Ok(report), Output::Json) => writeln!(out, "{}", report_json(&report, note.is_some()))?,
        (Ok(report), Output::Text | Output::Ocsf) => {
            writeln!(out, "{}", report_line(&report, note.is_some()))?;
        }
        (Err(error), Output::Json) => {
            writeln!(out, "{}", json!({ "verified": false, "error": error.to_string() }))?;
            return Err(not_verified(&error));
        }
        (Err(error), Output::Text | Output::Ocsf) => return Err(not_verified(&error)),
    }
    Ok(())
}

fn shown(args: &Args, command: &Show, out: &mut dyn Write) -> Result<(), Failure> {
    let limit = command.limit.unwrap_or(usize::MAX);
    for found in show::records_in(&places(args), command.filter()?)?.take(limit) {
        let (sequence, record) = found?;
        writeln!(out, "{}", printed(args.output, sequence, &record))?;
    }
    Ok(())
}

fn flipped(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let mut flips = Flips::new();
    let print = |out: &mut dyn Write, flip: &Flip| match args.output {
        Output::Json | Output::Ocsf => writeln!(out, "{}", json!(flip)),
        Output::Text => writeln!(out, "{}", flip_line(flip)),
    };
    for found in show::records_in(&places(args), Filter::default())? {
        let (sequence, record) = found?;
        for flip in flips.push(sequence, &record) {
            print(out, &flip)?;
        }
    }
    for flip in flips.finish() {
        print(out, &flip)?;
    }
    if flips.forgotten() > 0 {
        eprintln!(
            "portcullis: {} denials were forgotten on the way: flips may be missing",
            flips.forgotten()
        );
    }
    Ok(())
}

fn checkpoint(args: &Args, key: &Key, out: &mut dyn Write) -> Result<(), Failure> {
    let key = public_key(&key.key)?;
    let note = read_small(&args.dir.join(CHECKPOINT))?;
    let checkpoint = Checkpoint::verify(&note, &key)
        .map_err(|error| Failure { code: NOT_VERIFIED, text: format!("the checkpoint: {error}") })?;
    match args.output {
        Output::Text | Output::Ocsf => write!(out, "{note}")?,
        Output::Json => {
            let root = checkpoint.root.to_string();
            let value =
                json!({ "origin": checkpoint.origin, "size": checkpoint.size, "root": root, "note": note });
            writeln!(out, "{value}")?;
        }
    }
    Ok(())
}

fn archived(args: &Args, command: &Archive, out: &mut dyn Write) -> Result<(), Failure> {
    let before = match (command.before.parse(), WallTime::parse(&command.before)) {
        (Ok(record), _) => Before::Record(record),
        (_, Some(time)) => Before::Time(time),
        _ => {
            return Err(usage(
                "--before is a time in UTC, such as 2027-03-01T00:00:00Z, or a record's number",
            ));
        }
    };
    let failed = |text: String| Failure { code: exit::CONFIGURATION, text };
    let key = LogKey::load(&command.audit_key).map_err(|error| failed(error.to_string()))?;
    let now = SystemTime.wall().ok_or_else(|| failed("the clock cannot be read".to_owned()))?;
    let moved = archive(&args.dir, &command.to, &key, before, now, limits::AUDIT_ARCHIVE_KEEP_MS);
    let moved = moved.map_err(|error| match &error {
        ArchiveError::Verify(cause) => Failure { text: error.to_string(), ..not_verified(cause) },
        _ => failed(error.to_string()),
    })?;
    match (moved, args.output) {
        (moved, Output::Json) => writeln!(out, "{}", json!({ "archived": moved }))?,
        (None, _) => {
            writeln!(out, "nothing to archive: whole segments only, and not what the last day wrote")?
        }
        (Some(moved), _) => writeln!(
            out,
            "archived {} segments; the log begins at record {}, in segment {}",
            moved.segments, moved.first, moved.segment
        )?,
    }
    Ok(())
}

fn places(args: &Args) -> Vec<PathBuf> {
    [std::slice::from_ref(&args.dir), &args.archive].concat()
}

impl Show {
    fn filter(&self) -> Result<Filter, Failure> {
        let time = |text: &Option<String>| -> Result<Option<WallTime>, Failure> {
            let parse = |text: &String| {
                WallTime::parse(text).ok_or_else(|| usage("a time is in UTC, such as 2027-03-01T00:00:00Z"))
            };
            text.as_ref().map(parse).transpose()
        };
        let identity = self.identity.as_deref().map(IdPattern::parse).transpose();
        let denial = self
            .denial
            .as_deref()
            .map(|name| Denial::parse(name).ok_or_else(|| usage(format!("no denial is named `{name}`"))));
        Ok(Filter {
            identity: identity.map_err(|error| usage(format!("--identity: {error}")))?,
            secret: self.secret.clone(),
            decision: self.decision.clone(),
            denial: denial.transpose()?,
            kind: self.kind.clone(),
            since: time(&self.since)?,
            until: time(&self.until)?,
            node: self.node.clone(),
            administrator: self.administrator.clone(),
        })
    }
}

fn printed(output: Output, sequence: Sequence, record: &Record) -> String {
    match output {
        Output::Text => show::line(sequence, record),
        Output::Json => show::json(sequence, record).to_string(),
        Output::Ocsf => ocsf::view(sequence, record).to_string(),
    }
}

fn report_line(report: &Report, kept: bool) -> String {
    let of = |time: Option<WallTime>| time.map_or("-".to_owned(), |time| time.to_string());
    let torn = if report.torn_tail {
        "; a torn record at the end was never acknowledged, or is being written"
    } else {
        ""
    };
    let own = if kept {
        ""
    } else {
        "; only against the directory's own checkpoint: one kept elsewhere proves more"
    };
    let early = match report.first {
        0 => String::new(),
        first => format!("; records before number {first} are archived"),
    };
    format!(
        "verified {} records in {} segments, {} of them signed, from {} to {}, root {}{early}{torn}{own}",
        report.records,
        report.segments,
        report.signed,
        of(report.first_time),
        of(report.last_time),
        report.root,
    )
}

fn report_json(report: &Report, kept: bool) -> Value {
    json!({
        "verified": true,
        "records": report.records,
        "first": report.first,
        "segments": report.segments,
        "signed": report.signed,
        "root": report.root.to_string(),
        "first_time": report.first_time.map(|time| time.to_string()),
        "last_time": report.last_time.map(|time| time.to_string()),
        "torn_tail": report.torn_tail,
        "against_a_kept_checkpoint": kept,
    })
}

fn flip_line(flip: &Flip) -> String {
    let cause = flip.cause.as_ref().map_or(String::new(), |cause| {
        let denial =
            cause.refusal.map_or("an earlier refusal".to_owned(), |refusal| refusal.denial.to_string());
        format!(" repeating {denial} {}", cause.id)
    });
    format!(
        "{} {} {}{cause} ({} times, last {}) then released {} after {} ms",
        flip.identity,
        flip.secret,
        flip.denial,
        flip.denials,
        flip.denied_id,
        flip.released_id,
        flip.between_ms
    )
}

fn public_key(path: &Path) -> Result<LogPublicKey, Failure> {
    let wrong =
        || Failure { code: exit::CONFIGURATION, text: format!("`{}` holds no log key", path.display()) };
    LogPublicKey::parse(read_small(path)?.trim()).ok_or_else(wrong)
}

fn read_small(path: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure {
        code: exit::CONFIGURATION,
        text: format!("`{}`: {error}", path.display()),
    };
    let mut text = String::new();
    let limit = u64::try_from(limits::NOTE_BYTES).unwrap_or(0);
    std::fs::File::open(path).map_err(failed)?.take(limit).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn usage(text: impl Into<String>) -> Failure {
    Failure { code: exit::USAGE, text: text.into() }
}

/// What cannot be read is not verified, but that is the machine's fault, not the log's.
fn not_verified(error: &VerifyError) -> Failure {
    let code = if matches!(error, VerifyError::Io(_)) { exit::CONFIGURATION } else { NOT_VERIFIED };
    Failure { code, text: format!("NOT VERIFIED: {error}") }
}

impl From<ShowError> for Failure {
    fn from(error: ShowError) -> Self {
        let code = if matches!(error, ShowError::Io(_)) { exit::CONFIGURATION } else { NOT_VERIFIED };
        Failure { code, text: error.to_string() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // A reader that has seen enough, such as `head`, is no failure of ours.
        let code = if error.kind() == io::ErrorKind::BrokenPipe { exit::OK } else { exit::INTERNAL };
        Failure { code, text: format!("the output: {error}") }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.text, self.code)
    }
}

/// The directory's own last checkpoint.
const CHECKPOINT: &str = "checkpoint";
/// The log is not what was signed.
const NOT_VERIFIED: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::checkpoint::LogKey;
    use crate::audit::log::Log;
    use crate::audit::record::Event;
    use crate::time::BootTime;

    struct Place {
        directory: tempfile::TempDir,
        key: PathBuf,
    }

    async fn written() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let key = LogKey::create(&directory.path().join("audit.key"), "portcullis/test").unwrap();
        let public = directory.path().join("audit.pub");
        std::fs::write(&public, format!("{}\n", key.public())).unwrap();
        let (log, _) = Log::open(&directory.path().join("audit"), key, WallTime(0), |_| ()).unwrap();
        for number in 0..3_u64 {
            let event = Event::Clock { state: format!("tick {number}") };
            let time = WallTime(1_790_000_000_000 + number);
            let (id, boot_id) = (format!("{number:032}"), "boot".to_owned());
            log.append(&Record { id, time, boot_time: BootTime(number), boot_id, event }).await.unwrap();
        }
        log.close();
        Place { directory, key: public }
    }

    impl Place {
        fn run(&self, command: Command, output: Output) -> (Result<(), Failure>, String) {
            let args =
                Args { dir: self.directory.path().join("audit"), archive: Vec::new(), output, command };
            let mut out = Vec::new();
            let outcome = match &args.command {
                Command::Verify(command) => verified(&args, command, &mut out),
                Command::Show(command) => shown(&args, command, &mut out),
                Command::Flips => flipped(&args, &mut out),
                Command::Checkpoint(key) => checkpoint(&args, key, &mut out),
                Command::Archive(command) => archived(&args, command, &mut out),
            };
            (outcome, String::from_utf8(out).unwrap())
        }

        fn verify(&self, checkpoint: Option<PathBuf>, output: Output) -> (Result<(), Failure>, String) {
            self.run(Command::Verify(Verify { key: Key { key: self.key.clone() }, checkpoint }), output)
        }
    }

    fn all() -> Show {
        Show {
            identity: None,
            secret: None,
            decision: None,
            denial: None,
            kind: None,
            since: None,
            until: None,
            node: None,
            administrator: None,
            limit: None,
        }
    }

    #[tokio::test]
    async fn a_whole_log_verifies_and_a_changed_one_is_exit_code_1() {
        let place = written().await;
        let (outcome, text) = place.run(Command::Checkpoint(Key { key: place.key.clone() }), Output::Text);
        outcome.unwrap();
        let kept = place.directory.path().join("kept");
        std::fs::write(&kept, text).unwrap();
        let (outcome, text) = place.verify(Some(kept.clone()), Output::Json);
        outcome.unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((report["verified"].clone(), report["records"].clone()), (json!(true), json!(3)));
        let segment = place.directory.path().join("audit/segment-0000000001.log");
        let mut bytes = std::fs::read(&segment).unwrap();
        let at = bytes.len() - 40;
        bytes[at] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        let (outcome, text) = place.verify(Some(kept), Output::Json);
        assert_eq!(outcome.unwrap_err().code, 1);
        assert!(text.contains("\"verified\":false"), "{text}");
    }

    #[tokio::test]
    async fn a_missing_key_or_directory_is_not_taken_for_a_changed_log() {
        let place = written().await;
        std::fs::remove_file(&place.key).unwrap();
        assert_eq!(place.verify(None, Output::Text).0.unwrap_err().code, exit::CONFIGURATION);
    }

    #[tokio::test]
    async fn records_are_shown_in_each_form_and_filtered() {
        let place = written().await;
        let count = |show: Show, output| {
            let (outcome, text) = place.run(Command::Show(show), output);
            outcome.unwrap();
            text.lines().count()
        };
        for output in [Output::Text, Output::Json, Output::Ocsf] {
            assert_eq!(count(all(), output), 3);
        }
        assert_eq!(count(Show { limit: Some(2), ..all() }, Output::Json), 2);
        assert_eq!(count(Show { decision: Some(format!("{:032}", 1)), ..all() }, Output::Json), 1);
        assert_eq!(count(Show { kind: Some("denied".into()), ..all() }, Output::Json), 0);
        let wrong =
            [Show { denial: Some("No".into()), ..all() }, Show { since: Some("now".into()), ..all() }];
        for show in wrong {
            assert_eq!(place.run(Command::Show(show), Output::Text).0.unwrap_err().code, exit::USAGE);
        }
        assert_eq!(place.run(Command::Flips, Output::Json).1, "");
    }
}
