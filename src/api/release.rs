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
        let first = Some(challenge_message(&challenge));
        let deciding = Arc::new(AtomicBool::new(false));
        let noted = deciding.clone();
        let work = async move {
            let _admitted = admitted;
            let attested = AssertUnwindSafe(self.attest(challenge, steps, &noted)).catch_unwind().await;
            match attested {
                Ok(last) => last,
                Err(_) => Last::status(self.deny(Denial::Defect).await),
            }
        };
        ReleaseStream { first, work: Some(Box::pin(work)), deciding, delivery: None }
    }

    /// Takes the answer and decides: the one message that ends the stream.
    async fn attest(
        &self,
        challenge: Challenge,
        mut steps: Streaming<v1::ReleaseRequest>,
        deciding: &AtomicBool,
    ) -> Last {
        let documents = match self.evidence(&mut steps, &challenge).await {
            Ok(documents) => documents,
            // The caller left before its evidence: it hears nothing, and nothing is held against it.
            Err(None) => {
                let unheard = Answered { denial: Denial::RequestMalformed, decision_id: None };
                return Last::status(status(&unheard));
            }
            Err(Some(denial)) => {
                let answered = self.broker.deny(challenge.spoiled(denial)).await;
                return Last::status(self.refuse(&answered));
            }
        };
        deciding.store(true, Ordering::SeqCst);
        match self.broker.answer(challenge, documents).await {
            Ok(released) => self.deliver(released).await,
            Err(answered) => Last::status(self.refuse(&answered)),
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
    async fn deliver(&self, released: Released) -> Last {
        let delivery = Delivery {
            broker: self.broker.clone(),
            decision_id: released.decision_id().to_owned(),
            lease_id: released.lease_id().to_owned(),
            went_out: false,
        };
        if self.boot() < self.until {
            return Last { message: Ok(released_message(released)), delivery: Some(delivery) };
        }
        drop(delivery);
        Last::status(self.deny(Denial::DeadlinePassed).await)
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

/// The message that ends a stream.
struct Last {
    message: Result<v1::ReleaseResponse, Status>,
    delivery: Option<Delivery>,
}

impl Last {
    fn status(status: Status) -> Last {
        Last { message: Err(status), delivery: None }
    }
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

/// The response stream: the challenge, then the one message that ends it. It counts as gone out once the connection asks
/// for what comes after it. Each goes in one write with what surrounds it: headers with the challenge, trailers with the
/// release. The work is done where the response is polled, as every hand-over to another task costs two wake-ups.
pub struct ReleaseStream {
    first: Option<v1::ReleaseResponse>,
    work: Option<Pin<Box<dyn Future<Output = Last> + Send>>>,
    /// Whether the evidence has come and the decision is under way.
    deciding: Arc<AtomicBool>,
    delivery: Option<Delivery>,
}

impl Stream for ReleaseStream {
    type Item = Result<v1::ReleaseResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if let Some(mut delivery) = self.delivery.take() {
            delivery.went_out = true;
        }
        let Some(work) = &mut self.work else { return Poll::Ready(None) };
        match work.as_mut().poll(context) {
            Poll::Ready(last) => {
                self.work = None;
                self.delivery = last.delivery;
                Poll::Ready(Some(last.message))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for ReleaseStream {
    /// A caller who leaves before its evidence is there is answered by nobody. A decision under way goes on to its records.
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && self.deciding.load(Ordering::SeqCst)
        {
            spawn(async move { drop(work.await) });
        }
    }
}

/// Runs `task` where there still is a runtime; at its end there is nobody left to tell.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
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
