//! The scenes: one release, and eight ways in which there is none.

use super::DemoError;
use super::stage::{FORBIDDEN, SECRET, Stage, UNEVALUABLE, WORKLOAD, wall};
use crate::audit::record::{Event, Record};
use crate::audit::show::{self, Filter};
use crate::cli::launch;
use crate::client::raw::RawStream;
use crate::client::{Attester, Connection, ReleaseError, SocketAttester};
use crate::denial::Denial;
use crate::limits;
use crate::proto::v1::release_request::Step as Ask;
use crate::proto::v1::release_response::Step as Answer;
use crate::proto::v1::{Challenge, Evidence, Open, SecretRequest};
use crate::release::sealing::Recipient;
use crate::request::ReleaseRequest;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What one scene came to.
pub struct Outcome {
    /// The scene.
    pub situation: &'static str,
    /// Whether a secret was released.
    pub released: bool,
    /// What the caller was told.
    pub heard: String,
    /// What the log says.
    pub recorded: String,
    /// How long the caller waited.
    pub milliseconds: u64,
    expected: Option<Denial>,
}

impl Outcome {
    /// Whether exactly the expected thing happened, and the log says the same.
    pub fn as_expected(&self) -> bool {
        match self.expected {
            None => self.released && self.recorded == "Released",
            Some(denial) => {
                !self.released && self.recorded == denial.name() && self.heard == denial.reason().name()
            }
        }
    }
}

/// Plays every scene, in order.
pub async fn play(stage: &Stage) -> Result<Vec<Outcome>, DemoError> {
    let mut outcomes = vec![by_exec(stage, "an attested workload", SECRET, &stage.script.clone(), None)?];
    outcomes.push(changed_binary(stage)?);
    outcomes.push(revoked(stage).await?);
    outcomes.push(stale_list(stage).await?);
    let script = stage.script.clone();
    outcomes.push(by_exec(stage, "a policy that forbids", FORBIDDEN, &script, Some(Denial::PolicyForbids))?);
    let unevaluable = Some(Denial::PolicyUnevaluable);
    outcomes.push(by_exec(stage, "a policy that errors", UNEVALUABLE, &script, unevaluable)?);
    outcomes.push(replayed(stage).await?);
    outcomes.push(other_connection(stage).await?);
    outcomes.push(unwritable_log(stage)?);
    println!("\n  the broker tries the log once a second");
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    outcomes.push(by_exec(stage, "the same workload, the log being back", SECRET, &script, None)?);
    Ok(outcomes)
}

fn changed_binary(stage: &Stage) -> Result<Outcome, DemoError> {
    let changed = stage.root.join("charge-changed.sh");
    let system = |error| DemoError::System(changed.display().to_string(), error);
    let mut text = std::fs::read_to_string(&stage.script).map_err(system)?;
    text.push_str("echo \"$STRIPE_KEY\" > /dev/null # one line more\n");
    std::fs::write(&changed, text).map_err(system)?;
    std::fs::set_permissions(&changed, std::fs::Permissions::from_mode(0o755)).map_err(system)?;
    by_exec(stage, "a binary that was changed", SECRET, &changed, Some(Denial::MeasurementMismatch))
}

/// The connection is open when the certificate is revoked: the next request on it is refused all the same.
async fn revoked(stage: &Stage) -> Result<Outcome, DemoError> {
    let title = "a revoked certificate, on an open connection";
    heading(title);
    let leaf = stage.leaf(WORKLOAD, "revoked")?;
    let mut config = stage.client.clone();
    config.certificate = stage.root.join("revoked.pem");
    config.key = stage.root.join("revoked.key");
    let connection = Connection::open(&config).await.map_err(|error| failed("connecting", &error))?;
    println!("  connected; now the CA publishes a list with its serial number");
    stage.publish_list(&[leaf.serial], 3_600_000).await?;
    let start = wall();
    let heard = Asking::open(&connection).await.err();
    conclude(stage, title, heard, start, Some(Denial::PeerRevoked))
}

async fn stale_list(stage: &Stage) -> Result<Outcome, DemoError> {
    println!("\n  the CA publishes a list that ends in two seconds, and no other after it");
    stage.publish_list(&[], 2_000).await?;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    let script = stage.script.clone();
    let outcome = by_exec(stage, "a stale revocation list", SECRET, &script, Some(Denial::RevocationStale));
    stage.publish_list(&[], 3_600_000).await?;
    outcome
}

/// Evidence that was good once, sent again.
async fn replayed(stage: &Stage) -> Result<Outcome, DemoError> {
    let title = "replayed evidence";
    heading(title);
    let connection = connect(stage).await?;
    let mut first = Asking::open(&connection).await.map_err(|error| failed("opening", &error))?;
    let evidence = attest(stage, first.binding(&connection)?).await?;
    first.answer(evidence.clone()).await.map_err(|error| failed("the first answer", &error))?;
    println!("  the evidence earned a release; now the same bytes answer the next challenge");
    let mut second = Asking::open(&connection).await.map_err(|error| failed("opening", &error))?;
    let start = wall();
    let heard = second.answer(evidence).await.err();
    conclude(stage, title, heard, start, Some(Denial::EvidenceBindingMismatch))
}

/// Evidence for this very challenge, made on another connection of the same workload: a relay.
async fn other_connection(stage: &Stage) -> Result<Outcome, DemoError> {
    let title = "evidence of another connection";
    heading(title);
    let (mine, relayed) = (connect(stage).await?, connect(stage).await?);
    let mut asking = Asking::open(&mine).await.map_err(|error| failed("opening", &error))?;
    let evidence = attest(stage, asking.binding(&relayed)?).await?;
    println!("  the challenge is this connection's, the TLS exporter in the evidence another's");
    let start = wall();
    let heard = asking.answer(evidence).await.err();
    conclude(stage, title, heard, start, Some(Denial::EvidenceBindingMismatch))
}

fn unwritable_log(stage: &Stage) -> Result<Outcome, DemoError> {
    println!("\n  chmod 0500 {}", stage.paths.audit.display());
    let modes = |mode| {
        let set = std::fs::set_permissions(&stage.paths.audit, std::fs::Permissions::from_mode(mode));
        set.map_err(|error| DemoError::System(stage.paths.audit.display().to_string(), error))
    };
    modes(0o500)?;
    let script = stage.script.clone();
    let title = "an unwritable audit log";
    let mut outcome = attempt(stage, title, SECRET, &script, Some(Denial::AuditUnavailable));
    modes(0o700)?;
    println!("  chmod 0700 {}", stage.paths.audit.display());
    if let Ok(outcome) = &mut outcome {
        // Nothing could be recorded, and nothing was released: that is the whole of it.
        outcome.recorded = Denial::AuditUnavailable.name().to_owned();
        println!("  the log has no record of it, as it could not be written; the broker's own log says:");
        print_broker_log(stage);
    }
    outcome
}

/// One request as a user makes it: `portcullis exec`, then what the log says, then what `admin explain` does.
fn by_exec(
    stage: &Stage,
    title: &'static str,
    secret: &str,
    program: &Path,
    expected: Option<Denial>,
) -> Result<Outcome, DemoError> {
    let mut outcome = attempt(stage, title, secret, program, expected)?;
    let Some(record) = last_decision(&stage.paths.audit) else { return Ok(outcome) };
    outcome.recorded = name_of(&record);
    tell(stage, &record, secret)?;
    Ok(outcome)
}

fn attempt(
    stage: &Stage,
    title: &'static str,
    secret: &str,
    program: &Path,
    expected: Option<Denial>,
) -> Result<Outcome, DemoError> {
    heading(title);
    let start = wall();
    let asked = format!("{secret}:value=STRIPE_KEY");
    let output = stage.portcullis(&["exec", "--secret", &asked, "--", &program.display().to_string()])?;
    let milliseconds = wall().since(start);
    let code = output.status.code().unwrap_or(-1);
    let (printed, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    printed.lines().chain(complained.lines()).for_each(|line| println!("  {line}"));
    println!("  exit code {code}");
    let released = code == 0 && printed.contains("charged");
    let heard = if released { "the secret".to_owned() } else { reason_in(&complained) };
    Ok(Outcome { situation: title, released, heard, recorded: String::new(), milliseconds, expected })
}

fn conclude(
    stage: &Stage,
    title: &'static str,
    heard: Option<ReleaseError>,
    start: crate::time::WallTime,
    expected: Option<Denial>,
) -> Result<Outcome, DemoError> {
    let milliseconds = wall().since(start);
    let released = heard.is_none();
    let heard = heard.map_or("the secret".to_owned(), |error| {
        error.reason().map_or_else(|| error.to_string(), |reason| reason.name().to_owned())
    });
    println!("  the caller heard: {heard}");
    let record = last_decision(&stage.paths.audit);
    let recorded = record.as_ref().map(name_of).unwrap_or_default();
    if let Some(record) = record {
        tell(stage, &record, SECRET)?;
    }
    Ok(Outcome { situation: title, released, heard, recorded, milliseconds, expected })
}

/// What the audit log says, and what an operator is told.
fn tell(stage: &Stage, record: &Record, secret: &str) -> Result<(), DemoError> {
    println!("  audit: {}", show::line(crate::audit::log::Sequence(0), record));
    if record.denial().is_none() {
        return Ok(());
    }
    let arguments = ["explain", "--identity", WORKLOAD, "--secret", secret, "--decision", &record.id];
    stage.admin(&arguments)?.lines().for_each(|line| println!("  | {line}"));
    Ok(())
}

/// One stream by hand: `Open` and its challenge.
struct Asking {
    stream: RawStream,
    request: ReleaseRequest,
    challenge: Challenge,
}

impl Asking {
    async fn open(connection: &Connection) -> Result<Asking, ReleaseError> {
        let recipient = Recipient::generate().map_err(|_| ReleaseError::NoRandomness)?;
        let open = Open {
            secrets: vec![SecretRequest { path: SECRET.to_owned(), parameters: Default::default() }],
            recipient_key: recipient.public_key().to_vec(),
            ..Open::default()
        };
        let request = ReleaseRequest::parse(open.clone()).map_err(ReleaseError::Request)?;
        let mut stream = connection.stream(None).await?;
        stream.send(Ask::Open(open)).await?;
        match stream.next().await? {
            Some(Answer::Challenge(challenge)) => Ok(Asking { stream, request, challenge }),
            _ => Err(ReleaseError::Protocol(crate::client::Violation::OutOfOrder)),
        }
    }

    /// The binding of this challenge as it would be on `connection`.
    fn binding(&self, connection: &Connection) -> Result<[u8; limits::BINDING_BYTES], DemoError> {
        let nonce = self.challenge.nonce.as_slice().try_into();
        let nonce: [u8; limits::NONCE_BYTES] =
            nonce.map_err(|_| DemoError::Waited("a nonce of another length".to_owned()))?;
        let audience = &self.challenge.audience;
        let binding = connection.identity().binding(&nonce, self.challenge.round, audience, &self.request);
        Ok(*binding.as_bytes())
    }

    async fn answer(&mut self, evidence: Evidence) -> Result<(), ReleaseError> {
        self.stream.send(Ask::Evidence(evidence)).await?;
        match self.stream.next().await? {
            Some(Answer::Released(_)) => Ok(()),
            _ => Err(ReleaseError::Protocol(crate::client::Violation::OutOfOrder)),
        }
    }
}

/// Evidence that carries `binding`, about this process with the workload's program in hand.
async fn attest(stage: &Stage, binding: [u8; limits::BINDING_BYTES]) -> Result<Evidence, DemoError> {
    let launch = launch::open(stage.script.as_os_str(), None)
        .map_err(|error| DemoError::Command("launch".to_owned(), error.to_string()))?;
    let attester = SocketAttester::new(&stage.client.attester).with_program_fds(launch.program_fds());
    let attested = attester.attest(&binding, &[]).await;
    attested.map_err(|error| DemoError::Command("attest".to_owned(), error.to_string()))
}

async fn connect(stage: &Stage) -> Result<Connection, DemoError> {
    Connection::open(&stage.client).await.map_err(|error| failed("connecting", &error))
}

/// Every record of the log, as `audit show` reads it.
pub fn records(directory: &Path) -> Vec<Record> {
    let read = show::records(directory, Filter::default());
    read.map(|records| records.flatten().map(|(_, record)| record).collect()).unwrap_or_default()
}

fn last_decision(directory: &Path) -> Option<Record> {
    let decides = |record: &Record| matches!(record.event, Event::Released { .. } | Event::Denied { .. });
    records(directory).into_iter().rev().find(decides)
}

fn name_of(record: &Record) -> String {
    record.denial().map_or("Released", Denial::name).to_owned()
}

/// The broker's word in what a command complained of.
fn reason_in(complaint: &str) -> String {
    let mut words = complaint.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
    let known = words.find_map(crate::denial::Reason::parse);
    known.map_or_else(|| complaint.trim().to_owned(), |reason| reason.name().to_owned())
}

fn print_broker_log(stage: &Stage) {
    let text = std::fs::read_to_string(stage.root.join("broker.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("could not be recorded")).collect();
    lines.iter().rev().take(1).for_each(|line| println!("  {line}"));
}

fn heading(title: &str) {
    println!("\n== {title}");
}

fn failed(what: &str, error: &ReleaseError) -> DemoError {
    DemoError::Command(what.to_owned(), error.to_string())
}
