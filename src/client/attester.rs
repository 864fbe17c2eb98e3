//! Asking the node's attester for evidence about this very process.
//!
//! *Takes* the binding of one challenge and the formats it accepts. *Gives* evidence, unread. *Denies* nothing: without
//! evidence there is an [`AttestError`]. *Source*: `protocol.md` "The node's attester".

use super::link::{Link, explain};
use super::status::{self, Origin};
use crate::limits;
use crate::proto::v1::attest_request::Step as Ask;
use crate::proto::v1::attest_response::Step as Answer;
use crate::proto::v1::attester_client::AttesterClient;
use crate::proto::v1::{AttestRequest, AttestResponse, Evidence, Proof, Start};
use crate::request::parse_evidence;
use futures_util::future::BoxFuture;
use prost::Message;
use std::path::PathBuf;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;

/// What evidence comes from: the node's attester, or in a test whatever the test wants.
pub trait Attester: Send + Sync {
    /// Makes evidence that carries `binding` (64 bytes), in formats out of `formats`; the caller bounds the time.
    fn attest<'a>(
        &'a self,
        binding: &'a [u8; limits::BINDING_BYTES],
        formats: &'a [String],
    ) -> BoxFuture<'a, Result<Evidence, AttestError>>;
}

/// Why there is no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// Nobody listens on the socket, or it may not be opened.
    #[error("the attester cannot be reached: {0}")]
    Unreachable(String),
    /// The attester says ATTESTATION_NOT_POSSIBLE: no acceptable format, or this process could not be measured.
    #[error("the attester cannot attest this process")]
    NotPossible,
    /// The attester says REQUEST_INVALID.
    #[error("the attester refuses the request")]
    RequestInvalid,
    /// The connection or the stream broke.
    #[error("the attester was lost: {0}")]
    Lost(String),
    /// A status that no attester sends.
    #[error("a status {0} that no attester sends")]
    Status(i32),
    /// The attester broke the protocol, or its evidence is none that a broker takes.
    #[error("the attester broke the protocol")]
    Protocol,
    /// For other implementations of [`Attester`].
    #[error("{0}")]
    Other(String),
}

/// The node's attester on its Unix socket; the kernel tells it who we are.
#[derive(Clone, Debug)]
pub struct SocketAttester {
    socket: PathBuf,
    program_fds: Vec<u32>,
}

impl SocketAttester {
    /// The attester on that socket; nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        SocketAttester { socket: socket.into(), program_fds: Vec::new() }
    }

    /// Has the files behind these descriptors of ours measured too, at most 8: the program that this process runs next,
    /// then for instance its script. They must stay open until the evidence is there.
    #[must_use]
    pub fn with_program_fds(mut self, program_fds: Vec<u32>) -> Self {
        self.program_fds = program_fds;
        self
    }

    async fn ask(&self, binding: &[u8], formats: &[String]) -> Result<Evidence, AttestError> {
        let socket = UnixStream::connect(&self.socket).await;
        let socket = socket.map_err(|error| AttestError::Unreachable(explain(&error)))?;
        let link = Link::over(socket).await;
        let link = link.map_err(|error| AttestError::Unreachable(explain(error.as_ref())))?;
        let (asking, asked) = mpsc::channel(STEPS);
        let start = Start {
            binding: binding.to_vec(),
            formats: formats.iter().take(limits::ATTEST_FORMATS).cloned().collect(),
            program_fds: self.program_fds.clone(),
        };
        send(&asking, Ask::Start(start)).await?;
        // grpcio's own choice of authority for Unix sockets is one that h2 resets; the contract names this one.
        let origin = http::Uri::from_static("http://localhost");
        let mut client = AttesterClient::with_origin(link, origin)
            .max_decoding_message_size(limits::MESSAGE_BYTES)
            .max_encoding_message_size(limits::MESSAGE_BYTES);
        let mut answers = client.attest(ReceiverStream::new(asked)).await.map_err(refused)?.into_inner();
        let Some(Answer::Prove(prove)) = next(&mut answers).await? else { return Err(AttestError::Protocol) };
        if prove.nonce.len() != limits::NONCE_BYTES {
            return Err(AttestError::Protocol);
        }
        send(&asking, Ask::Proof(Proof { nonce: prove.nonce })).await?;
        match next(&mut answers).await? {
            Some(Answer::Evidence(evidence)) => Ok(evidence),
            Some(Answer::Prove(_)) | None => Err(AttestError::Protocol),
        }
    }
}

impl Attester for SocketAttester {
    fn attest<'a>(
        &'a self,
        binding: &'a [u8; limits::BINDING_BYTES],
        formats: &'a [String],
    ) -> BoxFuture<'a, Result<Evidence, AttestError>> {
        Box::pin(self.ask(binding, formats))
    }
}

/// Checks that evidence is such as a broker reads at all; the broker would only say REQUEST_INVALID.
pub(super) fn check_shape(evidence: &Evidence, formats: &[String]) -> Result<(), AttestError> {
    let fits = evidence.encoded_len() < limits::MESSAGE_BYTES;
    let shaped = fits && parse_evidence(evidence.clone(), formats).is_ok();
    shaped.then_some(()).ok_or(AttestError::Protocol)
}

async fn send(asking: &mpsc::Sender<AttestRequest>, step: Ask) -> Result<(), AttestError> {
    let sent = asking.send(AttestRequest { step: Some(step) }).await;
    sent.map_err(|_| AttestError::Lost("the stream was closed".to_owned()))
}

async fn next(answers: &mut Streaming<AttestResponse>) -> Result<Option<Answer>, AttestError> {
    Ok(answers.message().await.map_err(refused)?.and_then(|response| response.step))
}

fn refused(status: tonic::Status) -> AttestError {
    match (status::origin(&status), status.code()) {
        (Origin::Local(why), _) => AttestError::Lost(why),
        // There is no TLS on a Unix socket.
        (Origin::Refused(why), _) => AttestError::Lost(why.to_string()),
        (Origin::Portcullis(info), tonic::Code::FailedPrecondition) if info.reason == NOT_POSSIBLE => {
            AttestError::NotPossible
        }
        (Origin::Portcullis(info), tonic::Code::InvalidArgument) if info.reason == REQUEST_INVALID => {
            AttestError::RequestInvalid
        }
        (Origin::Portcullis(_) | Origin::Foreign, code) => AttestError::Status(code.into()),
    }
}

/// `ErrorInfo.reason` of an attester that cannot attest (`protocol.md`).
const NOT_POSSIBLE: &str = "ATTESTATION_NOT_POSSIBLE";
/// `ErrorInfo.reason` of an attester that was asked wrongly (`protocol.md`).
const REQUEST_INVALID: &str = "REQUEST_INVALID";
/// Our steps in one stream: `Start` and `Proof`.
const STEPS: usize = 2;
