//! `portcullis exec`: run a program with released secrets.
//!
//! *Takes* a program and the secrets it needs. *Gives* its exit code. *Denies*: without a release nothing runs, and what
//! runs is what was measured. *Source*: `protocol.md` "program"; `fail-open-catalogue.md` row 40.
#![allow(clippy::print_stderr, reason = "a command speaks to its terminal")]

use crate::cli::deliver::{Delivered, Deliveries, DeliveryError, is_ours};
use crate::cli::exit;
use crate::cli::keep::{Keeper, Over};
use crate::cli::launch::{self, Launch, LaunchError};
use crate::cli::workload::{BrokerArgs, Discreet, Output, refuse};
use crate::client::{Attester, Lease, ReleaseError, Request, SocketAttester, hold, release};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Run a program with released secrets.
///
/// The program is opened once, measured by the node's attester, and run as measured, only after the release. It gets the
/// variables of this command without those that begin with PORTCULLIS_, and two more: PORTCULLIS_LEASE_ID and
/// PORTCULLIS_LEASE_NOT_AFTER (RFC 3339), after which the secrets are not to be used. TERM, INT, HUP, QUIT, USR1 and
/// USR2 are passed on to it; INT and QUIT from a terminal reach it by themselves. It finds itself at /proc/self/fd/N, a
/// sealed copy.
///
/// With --hold the lease lives as long as the program does, and the program no longer than the lease: the broker has this
/// command attested again and again. A refusal stops the program at once. Where a round is uncertain or the connection is
/// lost, new streams are opened, each attested in full, and the program is stopped at the lease's end if none was granted. A
/// renewed certificate file takes over by itself. PORTCULLIS_LEASE_NOT_AFTER is then the end of the first period. When the program ends, so does its lease. The program is stopped by TERM
/// and, after --grace, by KILL; what it started itself is not.
///
/// Exit codes: the program's own, or 128 and the number of the signal that ended it. Before it runs, and where the end of
/// its lease stopped it: 64 usage; 69 could not connect; 70 a fault of this machine; 75 verification was not possible;
/// 76 not the broker; 77 denied; 78 configuration; 126 the program cannot be run; 127 there is none. A program may use these
/// numbers too: with --output json, what this command says is one object on stderr.
///
/// Example: portcullis exec --secret kv/payments/stripe:api_key=STRIPE_API_KEY -- /usr/bin/payments --port 8080
///
/// Example: portcullis exec --hold --file kv/payments/tls:key=TLS_KEY_FILE -- /usr/bin/payments
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The secrets and how they reach the program.
    #[command(flatten)]
    pub deliveries: Deliveries,
    /// How long the lease shall be, seconds; 0 is the secrets' default. Too long is denied.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub ttl: u32,
    /// Hold the lease for as long as the program runs, and stop the program when it ends. --ttl is then the length of each
    /// period.
    #[arg(long)]
    pub hold: bool,
    /// With --hold: seconds between TERM and KILL when the program is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "hold")]
    pub grace: u64,
    /// Let the program have the PORTCULLIS_ variables too, for one that asks the broker itself.
    #[arg(long)]
    pub pass_configuration: bool,
    /// `json`: failures as one object on stderr.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Where the broker is, and who we are.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// The program, as a path or looked for in PATH, and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM [ARGUMENT]")]
    pub program: Vec<OsString>,
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    let socket = args.broker.attester.clone();
    let attester = |program_fds| Discreet(SocketAttester::new(socket).with_program_fds(program_fds));
    outcome(&args, attester).await.unwrap_or_else(|failure| failure.tell(args.output))
}

/// Everything that keeps the program from running, or stops it.
enum Failure {
    Launch(LaunchError),
    Release(ReleaseError),
    Delivery(DeliveryError),
    Start(io::Error),
    /// It ran, and was stopped as its lease was over.
    Stopped(Over),
}

impl Failure {
    fn tell(&self, output: Output) -> u8 {
        let (code, message) = match self {
            Failure::Release(error) => return refuse(error, output),
            Failure::Stopped(over) => return over.tell(output),
            Failure::Launch(error @ LaunchError::NotFound(_)) => (exit::NOT_FOUND, error.to_string()),
            Failure::Launch(error) => (exit::NOT_EXECUTABLE, error.to_string()),
            Failure::Delivery(error @ DeliveryError::Memory(_)) => (exit::INTERNAL, error.to_string()),
            Failure::Delivery(error) => (exit::USAGE, error.to_string()),
            Failure::Start(error) => (exit::NOT_EXECUTABLE, format!("the program does not start: {error}")),
        };
        match output {
            Output::Text => eprintln!("portcullis: {message}"),
            Output::Json => {
                let outcome = serde_json::json!({
                    "outcome": "not_run", "exit_code": code, "message": message,
                });
                eprintln!("{outcome}");
            }
        }
        code
    }
}

async fn outcome<A: Attester + 'static>(
    args: &Args,
    attester: impl FnOnce(Vec<u32>) -> A,
) -> Result<u8, Failure> {
    let paths = args.deliveries.paths().map_err(Failure::Delivery)?;
    let config = args.broker.config().map_err(|error| Failure::Release(error.into()))?;
    let (program, arguments) = args.program.split_first().ok_or_else(no_program)?;
    let search_path = std::env::var_os("PATH");
    // Opened before it is measured, and never again.
    let launch = launch::open(program, search_path.as_deref()).map_err(Failure::Launch)?;
    let attester = attester(launch.program_fds());
    let request = Request { ttl_seconds: args.ttl, ..Request::of(paths) };
    if args.hold {
        let held = hold(&config, &attester, request.clone()).await.map_err(Failure::Release)?;
        return run_held(args, launch, arguments, Keeper::new(config, attester, request, held)).await;
    }
    let lease = release(&config, &attester, request).await.map_err(Failure::Release)?;
    let delivered = args.deliveries.deliver(&lease).map_err(Failure::Delivery)?;
    let environment = environment(std::env::vars_os(), args.pass_configuration, &lease, &delivered);
    // From here the secrets are in sealed files and in what the child will get.
    drop(lease);
    let (child, _launch, signals) =
        start(launch, arguments, environment, delivered).map_err(Failure::Start)?;
    let status = supervise(child, signals).await.map_err(Failure::Start)?;
    Ok(code_of(status))
}

/// Runs the program for as long as its lease is held.
async fn run_held<A: Attester + 'static>(
    args: &Args,
    launch: Launch,
    arguments: &[OsString],
    mut keeper: Keeper<A>,
) -> Result<u8, Failure> {
    let delivered = match args.deliveries.deliver(keeper.lease()) {
        Ok(delivered) => delivered,
        Err(error) => {
            keeper.finish().await;
            return Err(Failure::Delivery(error));
        }
    };
    let variables = std::env::vars_os();
    let environment = environment(variables, args.pass_configuration, keeper.lease(), &delivered);
    keeper.forget_secrets();
    let (child, launch, mut signals) = match start(launch, arguments, environment, delivered) {
        Ok(started) => started,
        Err(error) => {
            keeper.finish().await;
            return Err(Failure::Start(error));
        }
    };
    let mut child = Supervised::new(child).map_err(Failure::Start)?;
    let over = {
        let mut keeping = std::pin::pin!(keeper.keep());
        loop {
            tokio::select! {
                status = child.ended() => break Err(status),
                Some(signal) = signals.recv() => child.pass_on(signal),
                over = &mut keeping => break Ok(over),
            }
        }
    };
    // The copies were open until now: each round measured them.
    drop(launch);
    match over {
        Ok(over) => {
            child.stop(Duration::from_secs(args.grace)).await.map_err(Failure::Start)?;
            Err(Failure::Stopped(over))
        }
        Err(status) => {
            keeper.finish().await;
            status.map(code_of).map_err(Failure::Start)
        }
    }
}

fn no_program() -> Failure {
    Failure::Launch(LaunchError::NotFound("".into()))
}

/// The child's variables: ours without Portcullis's own, the lease's end, and the secrets over both.
fn environment(
    ours: impl Iterator<Item = (OsString, OsString)>,
    pass_configuration: bool,
    lease: &Lease,
    delivered: &Delivered,
) -> Vec<(OsString, OsString)> {
    let kept = ours.filter(|(name, _)| pass_configuration || !is_ours(name));
    let lease = [
        ("PORTCULLIS_LEASE_ID".into(), lease.lease_id.clone().into()),
        ("PORTCULLIS_LEASE_NOT_AFTER".into(), lease.not_after.to_string().into()),
    ];
    kept.chain(lease).chain(delivered.variables.iter().cloned()).collect()
}

/// Starts the child; gives its signals too, and what it was started from.
fn start(
    launch: Launch,
    arguments: &[OsString],
    environment: Vec<(OsString, OsString)>,
    delivered: Delivered,
) -> io::Result<(Child, Launch, mpsc::Receiver<Signal>)> {
    let mut command = launch.command(arguments, environment);
    if let Some(stdin) = delivered.stdin {
        command.settings().stdin(Stdio::from(stdin));
    }
    // Before the child is there, so that no signal falls between; until now one simply ends this command.
    let signals = caught_signals()?;
    let (child, launch) = command.spawn()?;
    // The child has its own copies.
    drop(delivered.inherited);
    Ok((child, launch, signals))
}

/// Waits for the child and passes signals on.
async fn supervise(child: Child, mut signals: mpsc::Receiver<Signal>) -> io::Result<ExitStatus> {
    let mut child = Supervised::new(child)?;
    loop {
        tokio::select! {
            status = child.ended() => return status,
            Some(signal) = signals.recv() => child.pass_on(signal),
        }
    }
}

/// A child and its pidfd, so that no signal ever reaches another process of its number.
struct Supervised {
    pidfd: OwnedFd,
    waiting: JoinHandle<io::Result<ExitStatus>>,
}

impl Supervised {
    fn new(mut child: Child) -> io::Result<Supervised> {
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Supervised { pidfd, waiting: tokio::task::spawn_blocking(move || child.wait()) }),
            Err(error) => {
                // A child that could not be told to stop is stopped now.
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Waits for its end; to be awaited to the end once.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        (&mut self.waiting).await.map_err(io::Error::other)?
    }

    fn pass_on(&self, signal: Signal) {
        pass_on(&self.pidfd, signal);
    }

    /// TERM, and after `grace` KILL.
    async fn stop(mut self, grace: Duration) -> io::Result<ExitStatus> {
        let _ended = rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM);
        if let Ok(status) = tokio::time::timeout(grace, self.ended()).await {
            return status;
        }
        let _ended = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.ended().await
    }
}

/// A terminal sends INT and QUIT to every process of its foreground group, the child among them: passing them on would
/// send them twice.
fn pass_on(child: &OwnedFd, signal: Signal) {
    let of_terminal = matches!(signal, Signal::INT | Signal::QUIT) && in_foreground();
    if !of_terminal {
        // The child may have ended just now.
        let _ = rustix::process::pidfd_send_signal(child, signal);
    }
}

fn in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

fn caught_signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(SIGNALS_WAITING);
    for number in FORWARDED {
        let mut caught = signal(SignalKind::from_raw(number.as_raw()))?;
        let sender = sender.clone();
        tokio::spawn(
            async move { while caught.recv().await.is_some() && sender.send(number).await.is_ok() {} },
        );
    }
    Ok(receiver)
}

/// The child's own code, or 128 and the signal that ended it.
fn code_of(status: ExitStatus) -> u8 {
    let signalled = || {
        let number = status.signal().and_then(|number| u8::try_from(number).ok());
        number.and_then(|number| exit::SIGNALLED.checked_add(number))
    };
    status.code().and_then(|code| u8::try_from(code).ok()).or_else(signalled).unwrap_or(exit::INTERNAL)
}

/// What a supervisor is sent for its child.
const FORWARDED: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];
/// Signals of one kind merge anyway; a few of each may wait.
const SIGNALS_WAITING: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::workload::BrokerArgs;
    use crate::client::tests::fake::{Behaviour, End, Fake};
    use crate::client::tests::node::{self, Node};
    use crate::time::WallTime;
    use clap::Parser;
    use std::io::Read;
    use std::path::Path;
    use tonic::Code;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn broker(fake: &Fake) -> BrokerArgs {
        let config = fake.config();
        BrokerArgs {
            broker: config.broker,
            broker_id: config.broker_id,
            cert: config.certificate,
            key: config.key,
            bundle: config.bundle,
            attester: config.attester,
            deadline_seconds: 20,
        }
    }

    fn args(fake: &Fake, flags: &[&str], program: &[&str]) -> Args {
        let Deliverable { deliveries } = Deliverable::try_parse_from([&["exec"], flags].concat()).unwrap();
        Args {
            deliveries,
            ttl: 0,
            hold: false,
            grace: 10,
            pass_configuration: false,
            output: Output::Text,
            broker: broker(fake),
            program: program.iter().map(OsString::from).collect(),
        }
    }

    #[derive(Debug, Parser)]
    struct Deliverable {
        #[command(flatten)]
        deliveries: Deliveries,
    }

    async fn outcome_of(args: &Args) -> Result<u8, Failure> {
        let socket = args.broker.attester.clone();
        // Not `Discreet`: the other tests of this process are to stay readable.
        outcome(args, |program_fds| SocketAttester::new(socket).with_program_fds(program_fds)).await
    }

    fn shell(folder: &Path, text: &str) -> Vec<String> {
        let marked = format!("cd {} && echo ran > marker; {text}", folder.display());
        ["sh", "-c", &marked].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn the_program_gets_its_secrets_each_way_and_its_code_comes_back() {
        let fake = Fake::start(Behaviour::default()).await;
        let program_fds = node::start(&fake, Node::Good);
        let flags = ["--secret=kv/a=A", "--file=kv/b:value=B", "--fd=kv/c=C", "--stdin=kv/d"];
        let check = r#"[ "$A" = "of kv/a" ] && [ "$(cat "$B")" = "of kv/b" ] && [ "$(cat "/dev/fd/$C")" = "of kv/c" ] \
            && [ "$(cat)" = "of kv/d" ] && [ -n "$PORTCULLIS_LEASE_NOT_AFTER" ] && exit 41; exit 1"#;
        let program = shell(fake.folder(), check);
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        assert!(matches!(outcome_of(&args(&fake, &flags, &program)).await, Ok(41)));
        assert_eq!(program_fds.lock().unwrap().len(), 1, "the shell was named for measuring");
    }

    #[tokio::test]
    async fn without_a_release_nothing_runs() {
        let denial = End::Denied(Code::PermissionDenied, "NOT_RELEASED");
        for (behaviour, node, code) in [
            (Behaviour { before_released: Some(denial), ..Behaviour::default() }, Node::Good, exit::DENIED),
            (
                Behaviour { before_released: Some(End::Cut), ..Behaviour::default() },
                Node::Good,
                exit::UNAVAILABLE,
            ),
            (
                Behaviour { released: |it| it.secrets.clear(), ..Behaviour::default() },
                Node::Good,
                exit::PROTOCOL,
            ),
            (Behaviour::default(), Node::Bare, exit::NOT_POSSIBLE),
        ] {
            let fake = Fake::start(behaviour).await;
            node::start(&fake, node);
            let program = shell(fake.folder(), "exit 0");
            let program: Vec<&str> = program.iter().map(String::as_str).collect();
            let failure = outcome_of(&args(&fake, &["--secret=kv/a=A"], &program)).await.err().unwrap();
            assert_eq!(failure.tell(Output::Json), code);
            assert!(!fake.folder().join("marker").exists());
        }
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_delivered_keeps_the_program_from_running() {
        let fake = Fake::start(Behaviour::default()).await;
        node::start(&fake, Node::Good);
        let program = shell(fake.folder(), "exit 0");
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        let failure = outcome_of(&args(&fake, &["--secret=kv/a:other=A"], &program)).await.err().unwrap();
        assert_eq!(failure.tell(Output::Text), exit::USAGE);
        assert!(!fake.folder().join("marker").exists());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_or_cannot_be_run_asks_for_nothing() {
        let fake = Fake::start(Behaviour::default()).await;
        for (program, code) in
            [("/nonexistent/program", exit::NOT_FOUND), ("/etc/hostname", exit::NOT_EXECUTABLE)]
        {
            let failure = outcome_of(&args(&fake, &["--secret=kv/a=A"], &[program])).await.err().unwrap();
            assert_eq!(failure.tell(Output::Text), code, "{program}");
        }
        assert_eq!(fake.accepts.load(std::sync::atomic::Ordering::SeqCst), 0);
    }

    fn child(text: &str) -> Child {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", text]).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[tokio::test]
    async fn a_signal_is_passed_on_and_the_childs_answer_comes_back() {
        let mut child = child("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
        child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
        let (sender, receiver) = mpsc::channel(1);
        sender.send(Signal::TERM).await.unwrap();
        assert_eq!(code_of(supervise(child, receiver).await.unwrap()), 9);
    }

    #[tokio::test]
    async fn a_child_that_a_signal_ends_gives_128_and_its_number() {
        let (_sender, receiver) = mpsc::channel(1);
        let status = supervise(child("kill -KILL $$"), receiver).await.unwrap();
        assert_eq!(code_of(status), 137);
    }

    #[test]
    fn the_childs_variables_are_ours_without_portcullis_own_and_secrets_come_last() {
        let text = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect::<Vec<(OsString, OsString)>>()
        };
        let ours = text(&[
            ("PATH", "/bin"),
            ("PORTCULLIS_KEY", "/key"),
            ("PORTCULLIS_LEASE_ID", "older"),
            ("A", "old"),
        ]);
        let lease = Lease { lease_id: "lease-0123456789".into(), not_after: WallTime(0), secrets: vec![] };
        let delivered = Delivered { variables: text(&[("A", "new")]), inherited: vec![], stdin: None };
        let given = environment(ours.clone().into_iter(), false, &lease, &delivered);
        let expected = text(&[
            ("PATH", "/bin"),
            ("A", "old"),
            ("PORTCULLIS_LEASE_ID", "lease-0123456789"),
            ("PORTCULLIS_LEASE_NOT_AFTER", "1970-01-01T00:00:00.000Z"),
            ("A", "new"),
        ]);
        assert_eq!(given, expected);
        let passed = environment(ours.into_iter(), true, &lease, &delivered);
        assert!(passed.contains(&("PORTCULLIS_KEY".into(), "/key".into())));
    }

    #[test]
    fn the_command_line_of_the_help_parses_and_one_without_secrets_does_not() {
        let broker = [
            "--broker=localhost:8443",
            "--broker-id=spiffe://example.org/portcullis",
            "--cert=c",
            "--key=k",
            "--bundle=b",
        ];
        let example = ["--secret", "kv/payments/stripe:api_key=STRIPE_API_KEY"];
        let program = ["--", "/usr/bin/payments", "--port", "8080"];
        let line = [&["exec"], &broker[..], &example, &program].concat();
        let parsed = Line::try_parse_from(line).unwrap().args;
        assert_eq!(parsed.program, ["/usr/bin/payments", "--port", "8080"]);
        assert_eq!(parsed.deliveries.paths().unwrap(), ["kv/payments/stripe"]);
        for line in [[&["exec"], &broker[..], &program].concat(), [&["exec"], &broker[..], &example].concat()]
        {
            let error = Line::try_parse_from(line).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::MissingRequiredArgument);
        }
    }
}
