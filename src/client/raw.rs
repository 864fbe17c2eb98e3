//! The release stream itself, one message at a time: for tests that break one thing, and for tools.
//!
//! *Takes* messages as given, whatever they are. *Gives* what comes back, unread. *Denies* nothing: nothing is checked here
//! but that the peer is the broker. Workloads want [`release`](super::release). *Source*: `protocol.md`.

use super::connection::Connection;
use super::error::{ConnectError, ReleaseError};
use super::link::Link;
use super::status;
use crate::challenge::binding::{Binding, Inputs};
use crate::limits;
use crate::proto::v1::broker_client::BrokerClient;
use crate::proto::v1::release_request::Step as Ask;
use crate::proto::v1::release_response::Step as Answer;
use crate::proto::v1::{ReleaseRequest, ReleaseResponse};
use crate::spiffe::SpiffeId;
use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;
use tonic::{CancellationHandle, Request, Response, Status};

/// What the client's end of a connection can have: the parts of a binding that are not of the request.
#[derive(Clone, Debug)]
pub struct Identity {
    /// TLS exporter of this connection (RFC 9266), 32 bytes.
    pub exporter: [u8; limits::EXPORTER_BYTES],
    /// SHA-256 of our leaf's SPKI DER.
    pub spki_sha256: [u8; 32],
    /// Our SPIFFE ID.
    pub id: SpiffeId,
}

impl Identity {
    /// The binding of evidence for `request` on this connection, with the TLS exporter as channel.
    pub fn binding(
        &self,
        nonce: &[u8; limits::NONCE_BYTES],
        round: u64,
        audience: &str,
        request: &crate::request::ReleaseRequest,
    ) -> Binding {
        Binding::compute(&Inputs {
            nonce,
            round,
            channel: &self.exporter,
            client_spki_sha256: &self.spki_sha256,
            client_id: &self.id,
            audience,
            request,
        })
    }
}

/// One open stream of `Release`. Dropping it resets the stream, where it has not ended.
pub struct RawStream {
    asking: Option<mpsc::Sender<ReleaseRequest>>,
    answers: Answers,
    cancellation: Option<CancellationHandle>,
}

type Opened = Result<Response<Streaming<ReleaseResponse>>, Status>;

enum Answers {
    /// The response's headers have not come.
    Opening(BoxFuture<'static, Opened>),
    Open(Box<Streaming<ReleaseResponse>>),
    Ended,
}

impl Connection {
    /// Opens a stream. `timeout` is sent as `grpc-timeout`, and nothing more is done about it here.
    pub async fn stream(&self, timeout: Option<Duration>) -> Result<RawStream, ReleaseError> {
        let link = self.link();
        if let Some(refusal) = link.refusal() {
            return Err(ReleaseError::CertificateRefused(refusal));
        }
        if link.is_closed() {
            let why = link.end().unwrap_or("closed by the peer").to_owned();
            return Err(ReleaseError::Connect(ConnectError::Lost(why)));
        }
        Ok(RawStream::open(link.clone(), self.origin().clone(), timeout).await)
    }
}

impl RawStream {
    async fn open(link: Link, origin: http::Uri, timeout: Option<Duration>) -> RawStream {
        let (asking, asked) = mpsc::channel(QUEUED);
        let mut request = Request::new(ReceiverStream::new(asked));
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let cancellation = Some(request.cancellation_handle());
        let mut client = BrokerClient::with_origin(link, origin)
            .max_decoding_message_size(limits::MESSAGE_BYTES)
            .max_encoding_message_size(usize::MAX);
        let mut opening: BoxFuture<'static, Opened> = Box::pin(async move { client.release(request).await });
        // One look sends the request on its way, so that what is queued leaves even if nobody awaits an answer.
        let answers = match poll_fn(|context| Poll::Ready(opening.as_mut().poll(context))).await {
            Poll::Pending => Answers::Opening(opening),
            Poll::Ready(opened) => Answers::Opening(Box::pin(async move { opened })),
        };
        RawStream { asking: Some(asking), answers, cancellation }
    }

    /// Queues one step. An error says that the stream takes no more; [`RawStream::next`] says why.
    pub async fn send(&mut self, step: Ask) -> Result<(), ReleaseError> {
        let lost = || ReleaseError::Connect(ConnectError::Lost("the stream was closed".to_owned()));
        let asking = self.asking.as_ref().ok_or_else(lost)?;
        asking.send(ReleaseRequest { step: Some(step) }).await.map_err(|_| lost())
    }

    /// Half-closes: no step follows.
    pub fn finish_sending(&mut self) {
        self.asking = None;
    }

    /// The next step; none where the stream ended with OK. A message without a step gives [`Violation::OutOfOrder`]; a
    /// status gives what [`ReleaseError`] makes of it.
    ///
    /// [`Violation::OutOfOrder`]: super::error::Violation::OutOfOrder
    pub async fn next(&mut self) -> Result<Option<Answer>, ReleaseError> {
        match self.message().await {
            Ok(Some(ReleaseResponse { step: Some(step) })) => Ok(Some(step)),
            Ok(Some(ReleaseResponse { step: None })) => {
                Err(ReleaseError::Protocol(super::error::Violation::OutOfOrder))
            }
            Ok(None) => Ok(None),
            Err(status) => Err(status::read(&status)),
        }
    }

    /// The next message, or the status as it came: trailers, details and all.
    pub async fn message(&mut self) -> Result<Option<ReleaseResponse>, Status> {
        let outcome = self.read().await;
        if !matches!(outcome, Ok(Some(_))) {
            self.answers = Answers::Ended;
            self.cancellation = None;
        }
        outcome
    }

    async fn read(&mut self) -> Result<Option<ReleaseResponse>, Status> {
        if let Answers::Opening(opening) = &mut self.answers {
            self.answers = Answers::Open(Box::new(opening.await?.into_inner()));
        }
        match &mut self.answers {
            Answers::Open(answers) => answers.message().await,
            Answers::Opening(_) | Answers::Ended => Ok(None),
        }
    }
}

impl Drop for RawStream {
    /// A half-close before `Evidence` would be a malformed request; a reset is none.
    fn drop(&mut self) {
        if let Some(cancellation) = self.cancellation.take() {
            cancellation.cancel();
        }
    }
}

/// Steps queued at once: a whole stream of ours is two.
const QUEUED: usize = 8;
