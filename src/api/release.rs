//! `portcullis.v1.Broker/Release`: one stream is one request, one challenge, one attestation, one decision.
//!
//! *Takes* a stream. *Gives* `Challenge`, then `Released`, then OK; or a status, after which nothing follows.
//! *Denies* `RequestMalformed`, `RequestOutOfOrder`, `RequestOpenTooLate`, `RequestTimeoutMalformed`,
//! `ChallengeExpired`, `DeadlinePassed`, `Defect`. *Source*: `protocol.md`.

use crate::api::front::CallerDeadline;
use crate::api::held::Holding;
use crate::api::status::status;
use crate::broker::{Answered, Broker};
use crate::challenge::Challenge;
use crate::challenge::admission::Admitted;
use crate::denial::{Denial, Reason};
use crate::limits;
use crate::proto::v1::{self, broker_server, release_request::Step, release_response};
use crate::release::{Hold, Released};
use crate::request::{Document, ReleaseRequest, parse_evidence};
use crate::time::{BootTime, WallTime};
use crate::transport::peer::Connection;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
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
        let exchange = Exchange {
            broker: self.broker.clone(),
            connection: connection.clone(),
            until: BootTime(u64::MAX),
        };
        // A panic here would take the whole connection with it, and every other stream's answer.
        let begun = AssertUnwindSafe(exchange.begin(deadline, request.into_inner())).catch_unwind().await;
        match begun {
            Ok(outcome) => outcome.map(Response::new),
            Err(_) => Err(status(&self.broker.deny_connection(&connection, Denial::Defect).await)),
        }
    }
}

/// One stream's exchange with its caller.
pub(super) struct Exchange {
    pub(super) broker: Arc<Broker>,
    pub(super) connection: Arc<Connection>,
    /// The caller's own deadline.
    pub(super) until: BootTime,
}

/// What reading one message gave.
enum Read {
    Step(Step),
    Ended,
    Malformed,
    /// The stream was reset or its connection lost: it was no message at all.
    Lost,
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
            Read::Malformed | Read::Lost => return Err(self.deny(Denial::RequestMalformed).await),
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

    /// The challenge goes out with the response's headers; what follows is worked out as the response is polled.
    fn stream(
        self,
        challenge: Challenge,
        steps: Streaming<v1::ReleaseRequest>,
        admitted: Admitted,
    ) -> ReleaseStream {
        let first = Sent::step(challenge_message(&challenge));
        let deciding = Arc::new(AtomicBool::new(false));
        let noted = deciding.clone();
        let (broker, connection) = (self.broker.clone(), self.connection.clone());
        let attested = async move { Some(self.attest(challenge, steps, noted).await) };
        let next = Some(guarded(broker, connection, attested));
        ReleaseStream { first: Some(first), next, deciding, delivery: None, admitted: Some(admitted) }
    }

    /// Takes the answer and decides: the message that ends the stream, or a held lease's first.
    async fn attest(
        self,
        challenge: Challenge,
        mut steps: Streaming<v1::ReleaseRequest>,
        deciding: Arc<AtomicBool>,
    ) -> Sent {
        let documents = match self.evidence(&mut steps, &challenge).await {
            Ok(documents) => documents,
            // The caller left before its evidence: it hears nothing, and nothing is held against it.
            Err(None) => return Sent::status(status(&unheard())),
            Err(Some(denial)) => {
                let answered = self.broker.deny(challenge.spoiled(denial)).await;
                return Sent::status(self.refuse(&answered));
            }
        };
        deciding.store(true, Ordering::SeqCst);
        match self.broker.answer(challenge, documents).await {
            Ok(released) => self.deliver(released, steps, deciding).await,
            Err(answered) => Sent::status(self.refuse(&answered)),
        }
    }

    /// Reads `Evidence`: the whole of it within the challenge's time. No denial where the caller left instead.
    async fn evidence(
        &self,
        steps: &mut Streaming<v1::ReleaseRequest>,
        challenge: &Challenge,
    ) -> Result<Vec<Document>, Option<Denial>> {
        let denial = match self.read(steps, challenge.deadline()).await {
            Read::Step(Step::Evidence(evidence)) => {
                return parse_evidence(evidence, &challenge.offer().formats).map_err(Some);
            }
            Read::Lost => return Err(None),
            Read::Step(Step::Open(_) | Step::Finish(_)) | Read::Ended => Denial::RequestOutOfOrder,
            Read::Malformed => Denial::RequestMalformed,
            Read::TooLate => Denial::ChallengeExpired,
            Read::DeadlinePassed => Denial::DeadlinePassed,
        };
        Err(Some(denial))
    }

    /// Hands the release over, with what takes it back where it does not go out.
    async fn deliver(
        self,
        mut released: Released,
        steps: Streaming<v1::ReleaseRequest>,
        deciding: Arc<AtomicBool>,
    ) -> Sent {
        let delivery = Delivery {
            broker: self.broker.clone(),
            decision_id: released.decision_id().to_owned(),
            lease_id: released.lease_id().to_owned(),
            went_out: false,
        };
        if self.boot() >= self.until {
            drop(delivery);
            return Sent::status(self.deny(Denial::DeadlinePassed).await);
        }
        let hold = released.take_hold();
        let message = released_message(released, hold.as_ref());
        deciding.store(false, Ordering::SeqCst);
        let next = hold.map(|hold| Holding { exchange: self, hold, steps, deciding }.wait());
        Sent { message: Ok(message), delivery: Some(delivery), next }
    }

    async fn read(&self, steps: &mut Streaming<v1::ReleaseRequest>, limit: BootTime) -> Read {
        let now = self.boot();
        let wait = Duration::from_millis(limit.min(self.until).since(now));
        match tokio::time::timeout(wait, steps.message()).await {
            Ok(Ok(Some(v1::ReleaseRequest { step: Some(step) }))) => Read::Step(step),
            // What tonic finds in a message has no cause below it; a broken stream has.
            Ok(Err(status)) if std::error::Error::source(&status).is_some() => Read::Lost,
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
    pub(super) fn refuse(&self, answered: &Answered) -> Status {
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

/// What is to be sent next, and what follows it.
pub(super) struct Sent {
    pub(super) message: Result<v1::ReleaseResponse, Status>,
    delivery: Option<Delivery>,
    pub(super) next: Option<Work>,
}

/// What is worked out while the response is polled; none = the stream ends with OK.
pub(super) type Work = Pin<Box<dyn Future<Output = Option<Sent>> + Send>>;

impl Sent {
    pub(super) fn status(status: Status) -> Sent {
        Sent { message: Err(status), delivery: None, next: None }
    }

    pub(super) fn step(message: v1::ReleaseResponse) -> Sent {
        Sent { message: Ok(message), delivery: None, next: None }
    }
}

/// A defect in `work` is a denial, and no end of the whole connection.
pub(super) fn guarded(
    broker: Arc<Broker>,
    connection: Arc<Connection>,
    work: impl Future<Output = Option<Sent>> + Send + 'static,
) -> Work {
    Box::pin(async move {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(sent) => sent,
            Err(_) => Some(Sent::status(status(&broker.deny_connection(&connection, Denial::Defect).await))),
        }
    })
}

/// For a caller who has left: nobody hears it.
fn unheard() -> Answered {
    Answered { denial: Denial::RequestMalformed, decision_id: None }
}

/// A release on its way out. Dropped before it went, a second record takes it back.
struct Delivery {
    broker: Arc<Broker>,
    decision_id: String,
    lease_id: String,
    went_out: bool,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.went_out {
            return;
        }
        let broker = self.broker.clone();
        let (decision_id, lease_id) = (self.decision_id.clone(), self.lease_id.clone());
        spawn(async move { broker.undelivered(&decision_id, &lease_id, "it did not go out").await });
    }
}

/// The response stream: the challenge, then the message that ends it, or a held lease's, one after the other. A message
/// counts as gone out once the connection asks for what comes after it. Each goes in one write with what surrounds it:
/// headers with the challenge, trailers with the release. The work is done where the response is polled, as every hand-over
/// to another task costs two wake-ups.
pub struct ReleaseStream {
    first: Option<Sent>,
    next: Option<Work>,
    /// Whether evidence has come and its decision is under way.
    deciding: Arc<AtomicBool>,
    delivery: Option<Delivery>,
    /// The stream's place among its caller's.
    admitted: Option<Admitted>,
}

impl Stream for ReleaseStream {
    type Item = Result<v1::ReleaseResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first.message));
        }
        if let Some(mut delivery) = self.delivery.take() {
            delivery.went_out = true;
        }
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        match next.as_mut().poll(context) {
            Poll::Ready(Some(Sent { message, delivery, next })) => {
                (self.delivery, self.next) = (delivery, next);
                Poll::Ready(Some(message))
            }
            Poll::Ready(None) => {
                self.next = None;
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for ReleaseStream {
    /// A caller who leaves before its evidence is there is answered by nobody. A decision under way goes on to its records.
    fn drop(&mut self) {
        if let Some(next) = self.next.take()
            && self.deciding.load(Ordering::SeqCst)
        {
            let admitted = self.admitted.take();
            spawn(async move {
                drop(next.await);
                drop(admitted);
            });
        }
    }
}

/// Runs `task` where there still is a runtime; at its end there is nobody left to tell.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}

pub(super) fn challenge_message(challenge: &Challenge) -> v1::ReleaseResponse {
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

fn released_message(released: Released, hold: Option<&Hold>) -> v1::ReleaseResponse {
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
        reattest_within_ms: hold.map_or(0, Hold::reattest_within_ms),
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
