//! `portcullis.v1.Broker/Release`: one stream is one request, one challenge, one attestation, one decision.
//!
//! *Takes* a stream. *Gives* `Challenge`, then `Released`, then OK; or a status, after which nothing follows.
//! *Denies* `RequestMalformed`, `RequestOutOfOrder`, `RequestOpenTooLate`, `RequestTimeoutMalformed`,
//! `ChallengeExpired`, `DeadlinePassed`, `Defect`. *Source*: `protocol.md`.

use crate::api::front::CallerDeadline;
use crate::api::status::status;
use crate::broker::{Answered, Broker};
use crate::challenge::Challenge;
use crate::challenge::admission::Admitted;
use crate::denial::{Denial, Reason};
use crate::limits;
use crate::proto::v1::{self, broker_server, release_request::Step, release_response};
use crate::release::Released;
use crate::request::{Document, ReleaseRequest, parse_evidence};
use crate::time::{BootTime, WallTime};
use crate::transport::peer::Connection;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// The service.
#[derive(Clone)]
pub struct ReleaseService {
    broker: Arc<Broker>,
}

impl ReleaseService {
    /// The service of this broker, with its message limits.
    pub fn server(broker: Arc<Broker>) -> broker_server::BrokerServer<ReleaseService> {
        broker_server::BrokerServer::new(ReleaseService { broker })
            .max_decoding_message_size(limits::MESSAGE_BYTES)
            .max_encoding_message_size(limits::MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl broker_server::Broker for ReleaseService {
    type ReleaseStream = ReleaseStream;

    async fn release(
        &self,
        request: Request<Streaming<v1::ReleaseRequest>>,
    ) -> Result<Response<ReleaseStream>, Status> {
        let Some(connection) = request.extensions().get::<Arc<Connection>>().cloned() else {
            return Err(status(&Answered { denial: Denial::Defect, decision_id: None }));
        };
        let deadline = request.extensions().get::<CallerDeadline>().copied();
        let exchange = Exchange { broker: self.broker.clone(), connection, until: BootTime(u64::MAX) };
        exchange.begin(deadline, request.into_inner()).await.map(Response::new)
    }
}

/// One stream's exchange with its caller.
struct Exchange {
    broker: Arc<Broker>,
    connection: Arc<Connection>,
    until: BootTime,
}

/// What reading one message gave.
enum Read {
    Step(Step),
    Ended,
    Malformed,
    /// The limit named by the caller of `read` passed.
    TooLate,
    /// The caller's own deadline passed.
    DeadlinePassed,
}

impl Exchange {
    async fn begin(
        mut self,
        deadline: Option<CallerDeadline>,
        mut steps: Streaming<v1::ReleaseRequest>,
    ) -> Result<ReleaseStream, Status> {
        let admitted = self.broker.admit(&self.connection).map_err(|answered| status(&answered))?;
        match deadline {
            // What is read without waiting would else be in time.
            Some(CallerDeadline(Ok(Some(0)))) => return Err(self.deny(Denial::DeadlinePassed).await),
            Some(CallerDeadline(Ok(Some(milliseconds)))) => self.until = self.boot().plus(milliseconds),
            Some(CallerDeadline(Ok(None))) => {}
            Some(CallerDeadline(Err(denial))) => return Err(self.deny(denial).await),
            None => return Err(self.deny(Denial::Defect).await),
        }
        let challenge = self.open(&mut steps).await?;
        Ok(self.stream(challenge, steps, admitted))
    }

    /// Reads `Open` and puts the question. A denial here is a status alone, before any response has begun.
    async fn open(&self, steps: &mut Streaming<v1::ReleaseRequest>) -> Result<Challenge, Status> {
        let open = match self.read(steps, self.boot().plus(limits::OPEN_WITHIN_MS)).await {
            Read::Step(Step::Open(open)) => open,
            Read::Step(Step::Evidence(_) | Step::Finish(_)) | Read::Ended => {
                return Err(self.deny(Denial::RequestOutOfOrder).await);
            }
            Read::Malformed => return Err(self.deny(Denial::RequestMalformed).await),
            Read::TooLate => return Err(self.deny(Denial::RequestOpenTooLate).await),
            Read::DeadlinePassed => return Err(self.deny(Denial::DeadlinePassed).await),
        };
        let request = match ReleaseRequest::parse(open) {
            Ok(request) => request,
            Err(denial) => return Err(self.deny(denial).await),
        };
        match self.broker.challenge(&self.connection, request).await {
            Ok(challenge) => Ok(challenge),
            Err(answered) => Err(self.refuse(&answered)),
        }
    }

    /// The rest runs by itself, so that a caller who leaves cannot stop a decision half-way through its record.
    fn stream(
        self,
        challenge: Challenge,
        steps: Streaming<v1::ReleaseRequest>,
        admitted: Admitted,
    ) -> ReleaseStream {
        let (sender, receiver) = mpsc::channel(1);
        let first = challenge_message(&challenge);
        tokio::spawn(async move {
            let _admitted = admitted;
            let outcome =
                AssertUnwindSafe(self.attest(challenge, first, steps, &sender)).catch_unwind().await;
            if outcome.is_err() {
                let answered = self.broker.deny_connection(&self.connection, Denial::Defect).await;
                let _ = sender.send(Item::last(Err(status(&answered)))).await;
            }
        });
        ReleaseStream { receiver, delivered: None }
    }

    async fn attest(
        &self,
        challenge: Challenge,
        first: v1::ReleaseResponse,
        mut steps: Streaming<v1::ReleaseRequest>,
        sender: &mpsc::Sender<Item>,
    ) {
        if sender.send(Item::more(first)).await.is_err() {
            return;
        }
        let documents = match self.evidence(&mut steps, &challenge, sender).await {
            Some(Ok(documents)) => documents,
            Some(Err(denial)) => {
                let answered = self.broker.deny(challenge.spoiled(denial)).await;
                let _ = sender.send(Item::last(Err(self.refuse(&answered)))).await;
                return;
            }
            // The caller left: nobody is there to answer, and a cancelled stream latches nothing.
            None => return,
        };
        match self.broker.answer(challenge, documents).await {
            Ok(released) => self.deliver(released, sender).await,
            Err(answered) => {
                let _ = sender.send(Item::last(Err(self.refuse(&answered)))).await;
            }
        }
    }

    /// Reads `Evidence`: the whole of it within the challenge's time. None where the caller is gone.
    async fn evidence(
        &self,
        steps: &mut Streaming<v1::ReleaseRequest>,
        challenge: &Challenge,
        sender: &mpsc::Sender<Item>,
    ) -> Option<Result<Vec<Document>, Denial>> {
        let read = tokio::select! {
            read = self.read(steps, challenge.deadline()) => read,
            () = sender.closed() => return None,
        };
        Some(match read {
            Read::Step(Step::Evidence(evidence)) => parse_evidence(evidence, &challenge.offer().formats),
            Read::Step(Step::Open(_) | Step::Finish(_)) | Read::Ended => Err(Denial::RequestOutOfOrder),
            Read::Malformed => Err(Denial::RequestMalformed),
            Read::TooLate => Err(Denial::ChallengeExpired),
            Read::DeadlinePassed => Err(Denial::DeadlinePassed),
        })
    }

    /// Hands the release over, and waits for word that it went out; without that a second record takes it back.
    async fn deliver(&self, released: Released, sender: &mpsc::Sender<Item>) {
        let (decision_id, lease_id) = (released.decision_id().to_owned(), released.lease_id().to_owned());
        if self.boot() >= self.until {
            self.broker.undelivered(&decision_id, &lease_id, Denial::DeadlinePassed.name()).await;
            let answered = self.broker.deny_connection(&self.connection, Denial::DeadlinePassed).await;
            let _ = sender.send(Item::last(Err(status(&answered)))).await;
            return;
        }
        let (went_out, delivered) = oneshot::channel();
        let item = Item { message: Ok(released_message(released)), delivered: Some(went_out) };
        let sent = sender.send(item).await.is_ok();
        if !sent || delivered.await.is_err() {
            self.broker
                .undelivered(&decision_id, &lease_id, "the stream was lost before the release went out")
                .await;
        }
    }

    async fn read(&self, steps: &mut Streaming<v1::ReleaseRequest>, limit: BootTime) -> Read {
        let now = self.boot();
        let wait = Duration::from_millis(limit.min(self.until).since(now));
        match tokio::time::timeout(wait, steps.message()).await {
            Ok(Ok(Some(v1::ReleaseRequest { step: Some(step) }))) => Read::Step(step),
            Ok(Ok(Some(v1::ReleaseRequest { step: None })) | Err(_)) => Read::Malformed,
            Ok(Ok(None)) => Read::Ended,
            Err(_) if self.until <= limit => Read::DeadlinePassed,
            Err(_) => Read::TooLate,
        }
    }

    async fn deny(&self, denial: Denial) -> Status {
        let answered = self.broker.deny_connection(&self.connection, denial).await;
        self.refuse(&answered)
    }

    /// The status; and where the identity cannot be proven any more the connection goes away, after the status has.
    fn refuse(&self, answered: &Answered) -> Status {
        if answered.denial.reason() == Reason::IdentityNotCurrent {
            let connection = self.connection.clone();
            tokio::spawn(async move {
                tokio::time::sleep(STATUS_FIRST).await;
                connection.go_away();
            });
        }
        status(answered)
    }

    fn boot(&self) -> BootTime {
        self.broker.clock.untrusted().boot
    }
}

/// One message on its way out, and whom to tell once it went.
pub struct Item {
    message: Result<v1::ReleaseResponse, Status>,
    delivered: Option<oneshot::Sender<()>>,
}

impl Item {
    fn more(message: v1::ReleaseResponse) -> Item {
        Item { message: Ok(message), delivered: None }
    }

    fn last(message: Result<v1::ReleaseResponse, Status>) -> Item {
        Item { message, delivered: None }
    }
}

/// The response stream. A message counts as gone out once the connection asks for what comes after it.
pub struct ReleaseStream {
    receiver: mpsc::Receiver<Item>,
    delivered: Option<oneshot::Sender<()>>,
}

impl Stream for ReleaseStream {
    type Item = Result<v1::ReleaseResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(delivered) = self.delivered.take() {
            let _ = delivered.send(());
        }
        match self.receiver.poll_recv(context) {
            Poll::Ready(Some(item)) => {
                self.delivered = item.delivered;
                Poll::Ready(Some(item.message))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn challenge_message(challenge: &Challenge) -> v1::ReleaseResponse {
    let offer = challenge.offer();
    let message = v1::Challenge {
        nonce: challenge.nonce().to_vec(),
        answer_within_ms: offer.answer_within_ms,
        audience: offer.audience.to_string(),
        formats: offer.formats.clone(),
        channel_binding: challenge.channel_binding().name().to_owned(),
        round: challenge.round(),
    };
    v1::ReleaseResponse { step: Some(release_response::Step::Challenge(message)) }
}

fn released_message(released: Released) -> v1::ReleaseResponse {
    let (lease_id, not_after) = (released.lease_id().to_owned(), timestamp(released.not_after()));
    let sealed = |secret: crate::release::SealedSecret| v1::SealedSecret {
        path: secret.path.to_string(),
        version: secret.version,
        encapsulated_key: secret.sealed.encapsulated_key,
        ciphertext: secret.sealed.ciphertext,
    };
    let message = v1::Released {
        lease_id,
        not_after: Some(not_after),
        secrets: released.into_secrets().into_iter().map(sealed).collect(),
        reattest_within_ms: 0,
    };
    v1::ReleaseResponse { step: Some(release_response::Step::Released(message)) }
}

/// A wall time as the wire has it.
pub fn timestamp(time: WallTime) -> prost_types::Timestamp {
    let nanos = i32::try_from((time.0 % 1000).saturating_mul(1_000_000)).unwrap_or(0);
    prost_types::Timestamp { seconds: i64::try_from(time.seconds()).unwrap_or(i64::MAX), nanos }
}

/// The status leaves within a poll of the connection; this is many.
const STATUS_FIRST: Duration = Duration::from_millis(50);
