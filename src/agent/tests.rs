//! Attestation over a real socket, by this process and by children that try what an accomplice would.
//!
//! A child is this test binary again, told by the environment which role to play ([`child_role`]).

use super::key::FileKey;
use super::measure::{NotMeasured, measure};
use super::socket::Peer;
use super::*;
use crate::denial::Denial;
use crate::evidence::process::{Algorithm, EnrolledNode, Nodes, VerifiedStatement, verify};
use crate::proto::v1::attester_client::AttesterClient;
use crate::proto::v1::{AttestRequest, AttestResponse, Proof, Start, attest_request, attest_response};
use crate::spiffe::{IdPattern, SpiffeId};
use crate::time::{SystemTime, WallTime};
use prost::Message;
use rustix::fs::{MemfdFlags, SealFlags};
use std::io::{BufRead, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const BINDING: [u8; 64] = [7; 64];

struct TestAgent {
    directory: tempfile::TempDir,
    state: Arc<AttesterState>,
    nodes: Nodes,
    clock: Arc<Clock>,
    _task: tokio::task::JoinHandle<()>,
}

impl TestAgent {
    fn start() -> Self {
        TestAgent::start_with(|_| ())
    }

    fn start_with(alter: impl FnOnce(&mut AttesterState)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signer = Arc::new(FileKey::generate(&directory.path().join("key"), Algorithm::Es256).unwrap());
        let clock = Arc::new(Clock::new(Arc::new(SystemTime), WallTime(0)));
        let node = EnrolledNode {
            name: "node-1".to_owned(),
            public_key: signer.public_key().clone(),
            not_after: WallTime(u64::MAX),
            may_vouch_for: vec![IdPattern::parse("spiffe://example.org/*").unwrap()],
            measurements: Default::default(),
        };
        let config = AgentConfig {
            socket: directory.path().join("attester.sock"),
            node: "node-1".to_owned(),
            signer,
            mode: SOCKET_MODE,
        };
        let mut agent = Agent::bind(config, clock.clone()).unwrap();
        alter(Arc::get_mut(&mut agent.state).unwrap());
        let state = agent.state.clone();
        let task = tokio::spawn(agent.run(std::future::pending()));
        TestAgent { directory, state, nodes: Nodes::new([node], 1), clock, _task: task }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("attester.sock")
    }

    fn verify(&self, body: &[u8]) -> Result<VerifiedStatement, Denial> {
        let identity = SpiffeId::parse("spiffe://example.org/worker").unwrap();
        let now = self.clock.now().unwrap();
        verify(body, &self.nodes, &BINDING, &identity, now).map_err(|refusal| refusal.denial)
    }

    /// This test binary in a role, its input and output pipes.
    fn child(&self, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(ROLE_ARGUMENTS)
            .env("PORTCULLIS_TEST_ROLE", role)
            .env("PORTCULLIS_TEST_SOCKET", self.socket());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// The one refusal, once there is one.
    async fn refusal(&self) -> String {
        for _ in 0..1000 {
            if let Some(refusal) = self.state.refusals.lock().unwrap().first() {
                return refusal.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was refused");
    }
}

const ROLE_ARGUMENTS: [&str; 3] = ["agent::tests::child_role", "--exact", "--nocapture"];

/// What a child writes once it has its evidence.
async fn output(child: Child) -> String {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn evidence_in(output: &str) -> Option<Vec<u8>> {
    let line = output.lines().find_map(|line| line.split_once("EVIDENCE "))?;
    Some(hex::decode(line.1.trim()).unwrap())
}

// A client, as any workload has one.

#[derive(Clone)]
struct Channel(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn client(socket: &Path) -> AttesterClient<Channel> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    AttesterClient::with_origin(Channel(sender), http::Uri::from_static("http://localhost"))
}

fn start() -> Start {
    Start { binding: BINDING.to_vec(), formats: vec!["process".to_owned()], program_fds: vec![] }
}

fn request(step: attest_request::Step) -> AttestRequest {
    AttestRequest { step: Some(step) }
}

/// One attestation; `prove` makes the proof of the nonce.
async fn attest(
    socket: &Path,
    start: Start,
    prove: impl AsyncFnOnce(Vec<u8>) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, Status> {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(request(attest_request::Step::Start(start))).await.unwrap();
    let mut answers = client(socket).await.attest(ReceiverStream::new(receiver)).await?.into_inner();
    let Some(attest_response::Step::Prove(asked)) = answers.message().await?.unwrap().step else { panic!() };
    assert_eq!(asked.nonce.len(), 32);
    if let Some(nonce) = prove(asked.nonce).await {
        sender.send(request(attest_request::Step::Proof(Proof { nonce }))).await.unwrap();
    }
    let Some(attest_response::Step::Evidence(evidence)) = answers.message().await?.unwrap().step else {
        panic!()
    };
    assert!(answers.message().await?.is_none());
    let [document] = evidence.documents.as_slice() else { panic!() };
    assert_eq!(document.format, "process");
    Ok(document.body.clone())
}

async fn honest(nonce: Vec<u8>) -> Option<Vec<u8>> {
    Some(nonce)
}

fn assert_status(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "portcullis"));
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
}

async fn refused(agent: &TestAgent, start: Start, code: Code, reason: &str, cause: &str) {
    let status = attest(&agent.socket(), start, honest).await.unwrap_err();
    assert_status(&status, code, reason);
    assert_eq!(agent.refusal().await, cause);
}

#[tokio::test]
async fn a_process_earns_a_statement_about_itself() {
    let agent = TestAgent::start();
    let body = attest(&agent.socket(), start(), honest).await.unwrap();
    let verified = agent.verify(&body).unwrap();
    let statement = verified.statement();
    let process = &statement.process;
    let own = std::env::current_exe().unwrap();
    let content = std::fs::read(&own).unwrap();
    assert_eq!(process.executable.path, own.to_str().unwrap());
    assert_eq!(
        process.executable.sha256,
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content).as_ref()
    );
    assert_eq!(process.uid, rustix::process::getuid().as_raw());
    assert_eq!(process.gid, rustix::process::getgid().as_raw());
    let cmdline = std::fs::read("/proc/self/cmdline").unwrap();
    assert_eq!(
        process.arguments_sha256,
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &cmdline).as_ref()
    );
    assert_eq!(statement.boot_id, agent.clock.boot_id());
    assert!(process.start_time > 0 && process.program.is_empty());
}

#[tokio::test]
async fn another_process_earns_one_too_and_it_is_about_that_process() {
    let agent = TestAgent::start();
    let child = agent.child("honest").stdin(Stdio::null()).spawn().unwrap();
    let output = output(child).await;
    let verified = agent.verify(&evidence_in(&output).unwrap()).unwrap();
    let own = std::env::current_exe().unwrap();
    let arguments = [&[own.to_str().unwrap()][..], &ROLE_ARGUMENTS].concat();
    let cmdline: String = arguments.iter().flat_map(|argument| [argument, "\0"]).collect();
    assert_eq!(
        verified.statement().process.arguments_sha256,
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, cmdline.as_bytes()).as_ref()
    );
}

#[tokio::test]
async fn one_connection_serves_several_attestations() {
    let agent = TestAgent::start();
    let mut client = client(&agent.socket()).await;
    for _ in 0..3 {
        let (sender, receiver) = mpsc::channel(4);
        sender.send(request(attest_request::Step::Start(start()))).await.unwrap();
        let mut answers = client.attest(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let prove = answers.message().await.unwrap().unwrap();
        let Some(attest_response::Step::Prove(asked)) = prove.step else { panic!() };
        sender.send(request(attest_request::Step::Proof(Proof { nonce: asked.nonce }))).await.unwrap();
        let evidence = answers.message().await.unwrap().unwrap();
        assert!(matches!(evidence.step, Some(attest_response::Step::Evidence(_))));
    }
}

#[tokio::test]
async fn a_wrong_shape_is_request_invalid() {
    for (start, cause) in [
        (Start { binding: vec![7; 63], ..start() }, "request: `binding` is not 64 bytes"),
        (Start { binding: vec![7; 65], ..start() }, "request: `binding` is not 64 bytes"),
        (Start { binding: vec![], ..start() }, "request: `binding` is not 64 bytes"),
        (Start { formats: vec!["x".to_owned(); 17], ..start() }, "request: too many `formats`"),
        (Start { program_fds: vec![0; 9], ..start() }, "request: too many `program_fds`"),
        (Start { formats: vec!["x".repeat(5000)], ..start() }, "request: a message cannot be read"),
    ] {
        refused(&TestAgent::start(), start, Code::InvalidArgument, "REQUEST_INVALID", cause).await;
    }
}

#[tokio::test]
async fn a_proof_before_start_or_a_second_start_is_request_invalid() {
    let agent = TestAgent::start();
    let proof = request(attest_request::Step::Proof(Proof { nonce: vec![0; 32] }));
    let second = request(attest_request::Step::Start(start()));
    for messages in [vec![proof], vec![second.clone(), second], vec![AttestRequest { step: None }], vec![]] {
        let stream = tokio_stream::iter(messages);
        let mut answers = client(&agent.socket()).await.attest(stream).await.unwrap().into_inner();
        let status = loop {
            match answers.message().await {
                Ok(Some(AttestResponse { step: Some(attest_response::Step::Prove(_)) })) => {}
                Ok(other) => panic!("{other:?}"),
                Err(status) => break status,
            }
        };
        assert_status(&status, Code::InvalidArgument, "REQUEST_INVALID");
    }
}

#[tokio::test]
async fn formats_that_are_not_offered_here_are_not_possible_and_unknown_ones_are_ignored() {
    let agent = TestAgent::start();
    let with =
        |formats: &[&str]| Start { formats: formats.iter().map(|f| (*f).to_owned()).collect(), ..start() };
    for formats in [&[][..], &["process"], &["tdx", "process", "no-such"]] {
        assert!(attest(&agent.socket(), with(formats), honest).await.is_ok(), "{formats:?}");
    }
    let (code, reason) = (Code::FailedPrecondition, "ATTESTATION_NOT_POSSIBLE");
    refused(&agent, with(&["tdx", "Process"]), code, reason, "no acceptable format").await;
}

#[tokio::test]
async fn a_wrong_proof_is_not_attested() {
    for wrong in [vec![], vec![0; 32]] {
        let agent = TestAgent::start();
        let status = attest(&agent.socket(), start(), async |_| Some(wrong)).await.unwrap_err();
        assert_status(&status, Code::FailedPrecondition, "ATTESTATION_NOT_POSSIBLE");
        assert_eq!(agent.refusal().await, "the proof is wrong");
    }
    let agent = TestAgent::start();
    let longer = async |nonce: Vec<u8>| Some([nonce, vec![0]].concat());
    let status = attest(&agent.socket(), start(), longer).await.unwrap_err();
    assert_status(&status, Code::FailedPrecondition, "ATTESTATION_NOT_POSSIBLE");
}

#[tokio::test]
async fn a_proof_that_comes_too_late_is_not_attested() {
    let agent = TestAgent::start_with(|state| state.proof_within_ms = 50);
    let status = attest(&agent.socket(), start(), async |_| None).await.unwrap_err();
    assert_status(&status, Code::FailedPrecondition, "ATTESTATION_NOT_POSSIBLE");
    assert_eq!(agent.refusal().await, "no proof in time");
}

#[tokio::test]
async fn a_caller_whose_program_changes_between_the_measurements_is_not_attested() {
    let agent = TestAgent::start();
    let mut file = tempfile::NamedTempFile::new_in(agent.directory.path()).unwrap();
    file.write_all(b"one").unwrap();
    let fd = u32::try_from(file.as_raw_fd()).unwrap();
    let change = async |nonce| {
        file.write_all(b"two").unwrap();
        Some(nonce)
    };
    let with = Start { program_fds: vec![fd], ..start() };
    let status = attest(&agent.socket(), with, change).await.unwrap_err();
    assert_status(&status, Code::FailedPrecondition, "ATTESTATION_NOT_POSSIBLE");
    assert_eq!(agent.refusal().await, "the caller changed between the two measurements");
}

// An accomplice.

#[tokio::test]
async fn connect_send_fork_exec_an_allowed_binary_is_not_attested() {
    let agent = TestAgent::start();
    let child = agent.child("start-fork-exec").stdin(Stdio::null()).spawn().unwrap();
    let output = output(child).await;
    assert!(output.contains("ANSWERED") && evidence_in(&output).is_none(), "{output}");
    assert_eq!(agent.refusal().await, "another process wrote on the connection");
}

#[tokio::test]
async fn a_caller_that_execs_another_program_and_answers_is_not_attested() {
    let agent = TestAgent::start();
    let child = agent.child("start-exec-other-arguments").stdin(Stdio::null()).spawn().unwrap();
    let output = output(child).await;
    assert!(output.contains("ANSWERED") && evidence_in(&output).is_none(), "{output}");
    assert_eq!(agent.refusal().await, "the caller changed between the two measurements");
}

#[tokio::test]
async fn a_caller_that_execs_its_own_program_again_and_answers_is_not_attested() {
    if std::fs::read_to_string("/proc/sys/kernel/randomize_va_space").unwrap().trim() == "0" {
        eprintln!("NOT RUN: address spaces are not randomised here, so this execve cannot be seen");
        return;
    }
    let agent = TestAgent::start();
    let child = agent.child("start-exec-same-arguments").stdin(Stdio::null()).spawn().unwrap();
    let output = output(child).await;
    assert!(output.contains("ANSWERED") && evidence_in(&output).is_none(), "{output}");
    assert_eq!(agent.refusal().await, "the caller changed between the two measurements");
}

#[tokio::test]
async fn the_same_steps_without_an_accomplice_are_attested() {
    // So that the three tests above fail for their reason: the raw client itself is a good one.
    let agent = TestAgent::start();
    let child = agent.child("start-answer").stdin(Stdio::null()).spawn().unwrap();
    let output = output(child).await;
    let verified = agent.verify(&evidence_in(&output).unwrap());
    assert!(verified.is_ok());
}

#[tokio::test]
async fn a_traced_caller_is_not_attested_whichever_thread_is_traced() {
    for leader in [true, false] {
        let agent = TestAgent::start();
        let mut child = agent.child("honest-when-told").spawn().unwrap();
        let pid = child.id();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next().unwrap().unwrap().contains("READY") {}
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut threads: Vec<u32> =
            threads.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        threads.sort_unstable();
        let traced = if leader { pid } else { *threads.iter().find(|thread| **thread != pid).unwrap() };
        // A thread traces, so that its end ends the tracing; else nobody could wait for the child.
        let (done, until_done) = std::sync::mpsc::channel::<()>();
        let (tracing, until_tracing) = std::sync::mpsc::channel();
        let tracer = std::thread::spawn(move || {
            tracing.send(crate::sys::trace(i32::try_from(traced).unwrap())).unwrap();
            let _ = until_done.recv();
        });
        until_tracing.recv().unwrap().unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(agent.refusal().await, format!("not measured: thread {traced} is traced"));
        drop(done);
        tracer.join().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_caller_in_a_pid_namespace_of_its_own_user_namespace_is_not_attested() {
    let agent = TestAgent::start();
    let plain = agent.child("honest");
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--pid", "--fork"])
        .arg(plain.get_program())
        .args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let Ok(child) = command.spawn() else { return eprintln!("NOT RUN: `unshare` is not installed") };
    let output = output(child).await;
    if !output.contains("CONNECTED") {
        return eprintln!("NOT RUN: no user namespace can be made here: {output}");
    }
    assert!(evidence_in(&output).is_none(), "{output}");
    assert_eq!(agent.refusal().await, "not measured: its pid namespace is owned by another user namespace");
}

// Measuring, without a socket.

fn own_peer() -> Peer {
    let pid = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    Peer { pid, uid: rustix::process::getuid().as_raw(), pidfd }
}

fn measured_program(fd: impl AsFd) -> Result<crate::evidence::process::Program, NotMeasured> {
    let number = u32::try_from(fd.as_fd().as_raw_fd()).unwrap();
    measure(&own_peer(), &[number]).map(|measurement| measurement.claims.program[0].clone())
}

fn memfd(content: &[u8], seals: SealFlags) -> OwnedFd {
    let memfd =
        rustix::fs::memfd_create("/usr/bin/job", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&memfd, content).unwrap();
    rustix::fs::fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

#[test]
fn programs_are_regular_files_by_path_and_content() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"content").unwrap();
    let program = measured_program(&file).unwrap();
    assert_eq!(program.path, file.path().to_str().unwrap());
    let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"content");
    assert_eq!(program.sha256, expected.as_ref());
}

#[test]
fn a_memfd_is_measured_only_with_every_seal() {
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let program = measured_program(memfd(b"content", all)).unwrap();
    assert_eq!(program.path, "/usr/bin/job");
    let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"content");
    assert_eq!(program.sha256, expected.as_ref());
    for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        let outcome = measured_program(memfd(b"content", all - missing));
        assert!(matches!(outcome, Err(NotMeasured::Deleted(_))), "{missing:?}: {outcome:?}");
    }
    let outcome = measured_program(memfd(b"content", (all - SealFlags::WRITE) | SealFlags::FUTURE_WRITE));
    assert!(matches!(outcome, Err(NotMeasured::Deleted(_))), "{outcome:?}");
}

#[test]
fn what_exec_seals_is_measured_under_the_paths_that_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    rustix::fs::chmod(&script, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let launch = crate::cli::launch::open(script.as_os_str(), None).unwrap();
    let program = measure(&own_peer(), &launch.program_fds()).unwrap().claims.program;
    let paths: Vec<&str> = program.iter().map(|program| program.path.as_str()).collect();
    assert_eq!(paths, launch.paths());
    let shell = std::fs::read("/bin/sh").unwrap();
    assert_eq!(program[0].sha256, aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &shell).as_ref());
}

#[test]
fn what_is_deleted_or_no_regular_file_is_not_measured() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (file, path) = file.into_parts();
    drop(path);
    assert!(matches!(measured_program(&file), Err(NotMeasured::Deleted(_))));
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    assert!(matches!(measured_program(&reader), Err(NotMeasured::NotRegular(_))));
    let (socket, _other) = StdUnixStream::pair().unwrap();
    assert!(matches!(measured_program(&socket), Err(NotMeasured::NotRegular(_))));
    assert!(matches!(measured_program(std::fs::File::open("/").unwrap()), Err(NotMeasured::NotRegular(_))));
    assert!(matches!(
        measured_program(std::fs::File::open("/dev/zero").unwrap()),
        Err(NotMeasured::NotRegular(_))
    ));
    assert!(matches!(measure(&own_peer(), &[1_000_000]), Err(NotMeasured::Unreadable(..))));
}

#[test]
fn a_path_that_is_not_utf8_is_not_measured() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(directory.path().join(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap();
    assert!(matches!(measured_program(&file), Err(NotMeasured::NotUtf8(_))));
}

#[test]
fn a_deleted_executable_and_a_process_that_ended_are_not_measured() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("sleep");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut child = loop {
        // Another test's child may hold our descriptor for writing between its fork and its exec.
        match Command::new(&program).arg("60").spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => continue,
            child => break child.unwrap(),
        }
    };
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let peer = Peer { pid, uid: 0, pidfd };
    // It has only just begun, and its loader may still be laying it out: that is a change, and not measured.
    let settled = || {
        let mut measured = std::iter::repeat_with(|| measure(&peer, &[]));
        measured.find(|one| !matches!(one, Err(NotMeasured::Changed))).unwrap().unwrap()
    };
    let measurement = settled();
    assert_eq!(measurement.claims.executable.path, program.to_str().unwrap());
    assert_eq!(settled(), measurement);
    std::fs::remove_file(&program).unwrap();
    assert!(matches!(measure(&peer, &[]), Err(NotMeasured::Deleted(_))));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(measure(&peer, &[]), Err(NotMeasured::Ended)));
}

// The socket file.

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("attester.sock");
    let listener = socket::listen(&path, 0o666).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(socket::listen(&path, 0o666).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(listener);
    drop(socket::listen(&path, 0o666).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(socket::listen(&path, 0o666).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn shutdown_ends_the_agent_and_removes_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let signer = FileKey::generate(&directory.path().join("key"), Algorithm::EdDsa).unwrap();
    let socket = directory.path().join("attester.sock");
    let config =
        AgentConfig { socket: socket.clone(), node: "n".to_owned(), signer: Arc::new(signer), mode: 0o600 };
    let clock = Arc::new(Clock::new(Arc::new(SystemTime), WallTime(0)));
    let agent = Agent::bind(config, clock).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(agent.run(async { drop(stopped.await) }));
    assert!(attest(&socket, start(), honest).await.is_ok());
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
    assert!(!socket.exists());
}

// What children do.

#[test]
fn child_role() {
    let Ok(role) = std::env::var("PORTCULLIS_TEST_ROLE") else { return };
    let socket = PathBuf::from(std::env::var("PORTCULLIS_TEST_SOCKET").unwrap());
    match role.as_str() {
        "honest" => attest_and_print(&socket),
        "honest-when-told" => {
            println!("READY");
            std::io::stdin().lock().read_line(&mut String::new()).unwrap();
            attest_and_print(&socket);
        }
        "start-answer" => {
            let stream = started(&socket);
            answer(stream);
        }
        "start-fork-exec" => {
            let stream = started(&socket);
            let mut accomplice = this_binary("answer", ROLE_ARGUMENTS);
            accomplice.stdin(OwnedFd::from(stream));
            let accomplice = accomplice.spawn().unwrap();
            drop(accomplice);
            panic!("{}", Command::new("/bin/sleep").arg("2").exec());
        }
        "start-exec-other-arguments" => {
            let stream = started(&socket);
            let arguments = ["--exact", "agent::tests::child_role", "--nocapture"];
            panic!("{}", this_binary("answer", arguments).stdin(OwnedFd::from(stream)).exec());
        }
        "start-exec-same-arguments" => {
            let stream = started(&socket);
            panic!("{}", this_binary("answer", ROLE_ARGUMENTS).stdin(OwnedFd::from(stream)).exec());
        }
        "answer" => answer(StdUnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap())),
        other => panic!("no role is named `{other}`"),
    }
}

fn this_binary(role: &str, arguments: [&str; 3]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).env("PORTCULLIS_TEST_ROLE", role);
    command
}

fn attest_and_print(socket: &Path) {
    println!("CONNECTED");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(attest(socket, start(), honest)) {
        Ok(body) => println!("EVIDENCE {}", hex::encode(body)),
        Err(status) => println!("REFUSED {:?}", status.code()),
    }
}

/// Connects and sends `Start` as bare HTTP/2 frames, waiting for the `Prove` without reading it.
fn started(socket: &Path) -> StdUnixStream {
    let mut stream = StdUnixStream::connect(socket).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    let path = b"/portcullis.v1.Attester/Attest";
    let mut headers = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    headers.extend_from_slice(path);
    headers.extend_from_slice(b"\x01\x09localhost\x0f\x10\x10application/grpc\x00\x02te\x08trailers");
    bytes.extend(frame(1, 4, 1, &headers));
    bytes.extend(frame(0, 0, 1, &grpc(&request(attest_request::Step::Start(start())))));
    stream.write_all(&bytes).unwrap();
    // The first measurement is over once something of the stream is there.
    let mut peeked = [0; 4096];
    loop {
        let length = rustix::net::recv(&stream, &mut peeked, rustix::net::RecvFlags::PEEK).unwrap().0;
        if peeked[..length].windows(5).any(|window| window == [0, 0, 0, 0, 36]) {
            return stream;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads the `Prove`, sends its `Proof`, prints the evidence, if it comes.
fn answer(mut stream: StdUnixStream) {
    let asked = loop {
        let (kind, payload) = read_frame(&mut stream).unwrap();
        if kind == 0 {
            break AttestResponse::decode(&payload[5..]).unwrap();
        }
    };
    let Some(attest_response::Step::Prove(asked)) = asked.step else { panic!() };
    let proof = request(attest_request::Step::Proof(Proof { nonce: asked.nonce }));
    stream.write_all(&frame(0, 1, 1, &grpc(&proof))).unwrap();
    println!("ANSWERED");
    while let Some((kind, payload)) = read_frame(&mut stream) {
        if kind == 0 && payload.len() > 5 {
            let Some(attest_response::Step::Evidence(evidence)) =
                AttestResponse::decode(&payload[5..]).unwrap().step
            else {
                panic!()
            };
            println!("EVIDENCE {}", hex::encode(&evidence.documents[0].body));
            return;
        }
        if kind == 1 {
            return;
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn grpc(message: &AttestRequest) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    [&[0], &u32::try_from(encoded.len()).unwrap().to_be_bytes()[..], &encoded].concat()
}

/// The next frame of stream 1 or of the connection; the first HEADERS (of the response) is passed over.
fn read_frame(stream: &mut StdUnixStream) -> Option<(u8, Vec<u8>)> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).ok()?;
        // HEADERS without END_STREAM begin the response.
        if head[3] != 1 || head[4] & 1 == 1 {
            return Some((head[3], payload));
        }
    }
}
