//! One attestation: the caller speaks between two equal measurements, then the statement is signed.
//!
//! *Takes* the stream of one `Attest` and the [`Peer`] of its connection. *Gives* `Evidence` with a `process` document, and a
//! `tpm2` document that vouches for it where the node has a TPM.
//! *Denies* `REQUEST_INVALID` for a wrong shape, `ATTESTATION_NOT_POSSIBLE` for all else, the cause in the log only.
//! *Source*: `protocol.md` "The node's attester".

use super::AttesterState;
use super::measure::{Measurement, NotMeasured, measure};
use super::quoting::NoQuote;
use super::socket::{Foreign, Peer};
use crate::challenge::binding::Binding;
use crate::evidence::process::{FORMAT, Statement, sign};
use crate::evidence::tpm2;
use crate::limits;
use crate::proto::v1::attester_server::Attester;
use crate::proto::v1::{
    AttestRequest, AttestResponse, Document, Evidence, Proof, Prove, Start, attest_request, attest_response,
};
use futures_util::Stream;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// The service as one connection sees it: it knows who is at the other end.
#[derive(Clone)]
pub struct Connection {
    pub(super) state: Arc<AttesterState>,
    pub(super) peer: Arc<Peer>,
    pub(super) foreign: Foreign,
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// A message is malformed, out of order, or does not come.
    #[error("request: {0}")]
    Shape(&'static str),
    /// None of the formats asked for can be made here.
    #[error("no acceptable format")]
    Format,
    /// The caller cannot be measured.
    #[error("not measured: {0}")]
    NotMeasured(#[from] NotMeasured),
    /// It did not take its turn, or the measurement took too long.
    #[error("the measurement took too long")]
    MeasuringTooLong,
    /// The two measurements differ.
    #[error("the caller changed between the two measurements")]
    CallerChanged,
    /// Somebody else wrote on the connection.
    #[error("another process wrote on the connection")]
    ForeignWriter,
    /// `Proof` did not come in time.
    #[error("no proof in time")]
    ProofLate,
    /// `Proof` is not what was sent.
    #[error("the proof is wrong")]
    ProofWrong,
    /// The clock cannot be trusted, so no statement can be dated.
    #[error("the clock: {0}")]
    Clock(#[from] crate::time::Suspect),
    /// The key did not sign, or there is no random number.
    #[error("the node key did not sign")]
    NotSigned,
    /// Only a quote would do, and the TPM makes none.
    #[error("not quoted: {0}")]
    NotQuoted(NoQuote),
    /// The statement is larger than any broker would take.
    #[error("the statement is too large")]
    TooLarge,
}

#[tonic::async_trait]
impl Attester for Connection {
    type AttestStream = Pin<Box<dyn Stream<Item = Result<AttestResponse, Status>> + Send>>;

    async fn attest(
        &self,
        request: Request<Streaming<AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let connection = self.clone();
        let incoming = request.into_inner();
        // Ends by itself: every wait in it has a limit, and a caller that leaves makes its next wait fail.
        tokio::spawn(async move {
            let answer = connection.attested(incoming, &sender).await;
            connection.log(&answer);
            let step = answer.map(|evidence| attest_response::Step::Evidence(evidence.1));
            let _ = sender.send(step.map(response).map_err(|refused| status(&refused))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Which documents are to be made.
#[derive(Clone, Copy)]
struct Wanted {
    process: bool,
    tpm2: bool,
}

type Answers = mpsc::Sender<Result<AttestResponse, Status>>;

impl Connection {
    async fn attested(
        &self,
        mut incoming: Streaming<AttestRequest>,
        answers: &Answers,
    ) -> Result<(Measurement, Evidence), Refused> {
        let start = self.start(&mut incoming).await?;
        let (binding, wanted) = self.check_start(&start)?;
        let before = self.measured(&start.program_fds).await?;
        let nonce = random_nonce()?;
        let prove = response(attest_response::Step::Prove(Prove { nonce: nonce.to_vec() }));
        answers.send(Ok(prove)).await.map_err(|_| Refused::Shape("the caller left"))?;
        let proof = self.proof(&mut incoming).await?;
        if proof.nonce != nonce {
            return Err(Refused::ProofWrong);
        }
        let after = self.measured(&start.program_fds).await?;
        if before != after {
            return Err(Refused::CallerChanged);
        }
        // What another wrote is never read, but where another can write, this peer may not be alone in what it says.
        if self.foreign.is_written() {
            return Err(Refused::ForeignWriter);
        }
        let documents = self.documents(binding, wanted, &after).await?;
        Ok((after, Evidence { documents }))
    }

    async fn start(&self, incoming: &mut Streaming<AttestRequest>) -> Result<Start, Refused> {
        let late = Refused::Shape("no `Start` in time");
        match self.next(incoming, limits::ATTEST_START_WITHIN_MS, late).await? {
            attest_request::Step::Start(start) => Ok(start),
            attest_request::Step::Proof(_) => Err(Refused::Shape("`Proof` before `Start`")),
        }
    }

    async fn proof(&self, incoming: &mut Streaming<AttestRequest>) -> Result<Proof, Refused> {
        match self.next(incoming, self.state.proof_within_ms, Refused::ProofLate).await? {
            attest_request::Step::Proof(proof) => Ok(proof),
            attest_request::Step::Start(_) => Err(Refused::Shape("a second `Start`")),
        }
    }

    /// The next step, read from the peer alone.
    async fn next(
        &self,
        incoming: &mut Streaming<AttestRequest>,
        within_ms: u64,
        late: Refused,
    ) -> Result<attest_request::Step, Refused> {
        let message = tokio::time::timeout(Duration::from_millis(within_ms), incoming.next());
        let message = tokio::select! {
            biased;
            () = self.foreign.written() => return Err(Refused::ForeignWriter),
            message = message => message.map_err(|_| late)?,
        };
        let message = message.ok_or(Refused::Shape("the stream ended"))?;
        let message = message.map_err(|_| Refused::Shape("a message cannot be read"))?;
        message.step.ok_or(Refused::Shape("an empty message"))
    }

    /// Measures on a thread that may block. A file on a hanging file system keeps its thread and its turn, which are of
    /// its own user, and the caller hears that it took too long.
    async fn measured(&self, program_fds: &[u32]) -> Result<Measurement, Refused> {
        let (peer, program_fds) = (self.peer.clone(), program_fds.to_vec());
        let turns = self.state.turns_of(self.peer.uid);
        let measuring = async move {
            let turn = turns.acquire_owned().await.map_err(|_| Refused::MeasuringTooLong)?;
            let measuring = tokio::task::spawn_blocking(move || {
                let measured = measure(&peer, &program_fds);
                drop(turn);
                measured
            });
            Ok(measuring.await.map_err(|_| Refused::MeasuringTooLong)??)
        };
        let limit = Duration::from_millis(limits::ATTEST_MEASURE_WITHIN_MS);
        tokio::time::timeout(limit, measuring).await.map_err(|_| Refused::MeasuringTooLong)?
    }

    /// A document of each wanted format that can be made now; where a TPM does not answer, the statement may do without.
    async fn documents(
        &self,
        binding: [u8; limits::BINDING_BYTES],
        wanted: Wanted,
        measurement: &Measurement,
    ) -> Result<Vec<Document>, Refused> {
        let mut documents = Vec::new();
        let mut bound = binding;
        if wanted.process {
            let statement = self.signed(binding, measurement)?;
            bound = Binding::from(binding).bound_to_process(&statement.body);
            documents.push(statement);
        }
        if let Some(tpm) = self.state.tpm.get().filter(|_| wanted.tpm2) {
            match tpm.document(bound, self.state.turns_of(self.peer.uid)).await {
                Ok(quote) => documents.push(quote),
                Err(error) if documents.is_empty() => return Err(Refused::NotQuoted(error)),
                // The broker knows whether this workload may do without.
                Err(error) => tracing::error!(%error, "no quote beside the statement"),
            }
        }
        Ok(documents)
    }

    fn signed(
        &self,
        binding: [u8; limits::BINDING_BYTES],
        measurement: &Measurement,
    ) -> Result<Document, Refused> {
        let state = &self.state;
        let statement = Statement {
            binding,
            iat: state.clock.now()?.wall.seconds(),
            node: state.node.clone(),
            boot_id: state.clock.boot_id(),
            process: measurement.claims.clone(),
        };
        let body = sign(&statement, state.signer.as_ref()).map_err(|_| Refused::NotSigned)?;
        if body.len() > limits::PROCESS_DOCUMENT_BYTES {
            return Err(Refused::TooLarge);
        }
        Ok(Document { format: FORMAT.to_owned(), body, endorsements: Vec::new() })
    }

    /// The binding of a `Start` whose shape is right, and what it asks for that can be made here.
    fn check_start(&self, start: &Start) -> Result<([u8; limits::BINDING_BYTES], Wanted), Refused> {
        let binding = check_shape(start)?;
        let asked = |format: &str| start.formats.is_empty() || start.formats.iter().any(|one| one == format);
        let wanted =
            Wanted { process: asked(FORMAT), tpm2: asked(tpm2::FORMAT) && self.state.tpm.get().is_some() };
        match wanted.process || wanted.tpm2 {
            true => Ok((binding, wanted)),
            false => Err(Refused::Format),
        }
    }

    fn log(&self, answer: &Result<(Measurement, Evidence), Refused>) {
        let (pid, uid) = (self.peer.pid.as_raw_pid(), self.peer.uid);
        match answer {
            Ok((measurement, _)) => {
                let executable = &measurement.claims.executable;
                let sha256 = hex::encode(executable.sha256);
                tracing::info!(pid, uid, path = executable.path, sha256, "attested");
            }
            Err(refused) => {
                tracing::warn!(pid, uid, cause = %refused, "not attested");
                #[cfg(test)]
                self.state.refusals.lock().unwrap().push(refused.to_string());
            }
        }
    }
}

/// The binding of a `Start` whose shape is right, whatever it asks for.
fn check_shape(start: &Start) -> Result<[u8; limits::BINDING_BYTES], Refused> {
    let binding =
        start.binding.as_slice().try_into().map_err(|_| Refused::Shape("`binding` is not 64 bytes"))?;
    if start.formats.len() > limits::ATTEST_FORMATS {
        return Err(Refused::Shape("too many `formats`"));
    }
    if start.program_fds.len() > limits::ATTEST_PROGRAM_FDS {
        return Err(Refused::Shape("too many `program_fds`"));
    }
    Ok(binding)
}

/// Whether bytes are a first message of the right shape. For the tests of the parser: nothing else needs it.
#[doc(hidden)]
pub fn start_is_sound(bytes: &[u8]) -> bool {
    let request = <AttestRequest as prost::Message>::decode(bytes);
    match request.ok().and_then(|request| request.step) {
        Some(attest_request::Step::Start(start)) => check_shape(&start).is_ok(),
        Some(attest_request::Step::Proof(_)) | None => false,
    }
}

fn random_nonce() -> Result<[u8; limits::NONCE_BYTES], Refused> {
    let mut nonce = [0; limits::NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Refused::NotSigned)?;
    Ok(nonce)
}

fn response(step: attest_response::Step) -> AttestResponse {
    AttestResponse { step: Some(step) }
}

/// What the caller hears: one of two reasons, each always in the same words.
fn status(refused: &Refused) -> Status {
    let (code, reason, text) = match refused {
        Refused::Shape(_) => (Code::InvalidArgument, "REQUEST_INVALID", "the request is not valid"),
        Refused::Format
        | Refused::NotMeasured(_)
        | Refused::MeasuringTooLong
        | Refused::CallerChanged
        | Refused::ForeignWriter
        | Refused::ProofLate
        | Refused::ProofWrong
        | Refused::Clock(_)
        | Refused::NotSigned
        | Refused::NotQuoted(_)
        | Refused::TooLarge => {
            (Code::FailedPrecondition, "ATTESTATION_NOT_POSSIBLE", "attestation is not possible")
        }
    };
    let details = ErrorDetails::with_error_info(reason, "portcullis", HashMap::new());
    let mut trailers = MetadataMap::new();
    trailers.insert("grpc-retry-pushback-ms", MetadataValue::from_static("-1"));
    Status::with_error_details_and_metadata(code, text, details, trailers)
}
