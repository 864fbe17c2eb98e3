//! The one call: open, be challenged, have the node attest, answer, and open what was released.
//!
//! *Takes* a connection whose peer is the broker, an attester and a request. *Gives* [`Lease`], with all secrets asked
//! for. *Denies*: anything else that happens is a [`ReleaseError`], and nothing is kept. *Source*: `protocol.md`.

use super::attester::{Attester, check_shape};
use super::config::Config;
use super::connection::{Connection, within};
use super::error::{Imposture, ReleaseError, Violation};
use super::lease::{self, Asked, Lease};
use super::raw::RawStream;
use crate::challenge::binding::Binding;
use crate::limits;
use crate::proto::v1;
use crate::proto::v1::release_request::Step as Ask;
use crate::proto::v1::release_response::Step as Answer;
use crate::release::sealing::Recipient;
use crate::request::{ChannelBinding, ReleaseRequest};
use crate::spiffe::SpiffeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The paths, 1 to 16, distinct, each with its parameters; static secrets take none.
    pub secrets: Vec<(String, BTreeMap<String, Vec<u8>>)>,
    /// How long the lease shall be, or each period of a held one, seconds; 0 = the default. More than the maximum is a denial.
    pub ttl_seconds: u32,
}

impl Request {
    /// Asks for these paths, without parameters, for the default time.
    pub fn of<P: Into<String>>(paths: impl IntoIterator<Item = P>) -> Request {
        let secrets = paths.into_iter().map(|path| (path.into(), BTreeMap::new())).collect();
        Request { secrets, ttl_seconds: 0 }
    }

    fn into_open(self, recipient_key: &[u8], hold: bool) -> v1::Open {
        let secret = |(path, parameters): (String, BTreeMap<_, _>)| v1::SecretRequest {
            path,
            parameters: parameters.into_iter().collect(),
        };
        v1::Open {
            secrets: self.secrets.into_iter().map(secret).collect(),
            recipient_key: recipient_key.to_vec(),
            ttl_seconds: self.ttl_seconds,
            hold,
            channel_bindings: Vec::new(),
        }
    }
}

/// Opens a connection, releases the secrets of one request over it, or none of them, and closes it. One connection, one
/// stream, one try: a denial, a lost connection and a refused stream are answers, and none is asked for again.
pub async fn release(
    config: &Config,
    attester: &dyn Attester,
    request: Request,
) -> Result<Lease, ReleaseError> {
    within(config.deadline, async {
        // Before anything is opened: a malformed request needs no broker to be refused.
        prepare(request.clone(), false)?;
        Connection::open(config).await?.release(attester, request).await
    })
    .await
}

/// One release over an open connection; the caller bounds the time.
pub(super) async fn run(
    connection: &Connection,
    attester: &dyn Attester,
    request: Request,
) -> Result<Lease, ReleaseError> {
    let timeout = Some(connection.deadline());
    let mut earned = earn(connection, attester, prepare(request, false)?, timeout).await?;
    ended_well(&mut earned.stream).await?;
    earned.open(connection).map(|(lease, _)| lease)
}

/// A stream whose request was released, and what its answer is held against.
pub(super) struct Earned {
    pub(super) stream: RawStream,
    pub(super) asked: ReleaseRequest,
    pub(super) challenge: Challenge,
    released: v1::Released,
    binding: Binding,
    recipient: Recipient,
}

impl Earned {
    /// Opens all that was released; and within what time a held lease is challenged again.
    pub(super) fn open(&mut self, connection: &Connection) -> Result<(Lease, Duration), ReleaseError> {
        let now = connection.clock().now().map_err(ReleaseError::ClockSuspect)?;
        let released = std::mem::take(&mut self.released);
        let reattest = Duration::from_millis(released.reattest_within_ms.into());
        let Earned { asked, binding, recipient, .. } = self;
        let lease = lease::open(released, &Asked { request: asked, binding, recipient, now: now.wall })?;
        Ok((lease, reattest))
    }
}

/// From `Open` to `Released`. Of a hold nothing is half-closed: its stream goes on.
pub(super) async fn earn(
    connection: &Connection,
    attester: &dyn Attester,
    prepared: Prepared,
    timeout: Option<Duration>,
) -> Result<Earned, ReleaseError> {
    let Prepared { recipient, open, asked } = prepared;
    let hold = open.hold;
    let mut stream = connection.stream(timeout).await?;
    send(&mut stream, Ask::Open(open)).await?;
    let challenge = match stream.next().await? {
        Some(Answer::Challenge(challenge)) => challenge,
        other => return Err(unexpected(other.as_ref())),
    };
    let challenge = check_challenge(challenge, connection.broker_id(), FIRST_ROUND)?;
    let binding = answer(&mut stream, connection, attester, &challenge, &asked).await?;
    if !hold {
        stream.finish_sending();
    }
    match stream.next().await? {
        Some(Answer::Released(released)) => {
            Ok(Earned { stream, asked, challenge, released, binding, recipient })
        }
        other => Err(unexpected(other.as_ref())),
    }
}

/// Answers a challenge within its time; gives the binding that the evidence carries.
pub(super) async fn answer(
    stream: &mut RawStream,
    connection: &Connection,
    attester: &dyn Attester,
    challenge: &Challenge,
    asked: &ReleaseRequest,
) -> Result<Binding, ReleaseError> {
    let audience = connection.broker_id().as_str();
    let binding = connection.identity().binding(&challenge.nonce, challenge.round, audience, asked);
    let answered = async {
        let evidence = attester.attest(binding.as_bytes(), &challenge.formats).await;
        let evidence = evidence.map_err(ReleaseError::Attestation)?;
        check_shape(&evidence, &challenge.formats).map_err(ReleaseError::Attestation)?;
        send(stream, Ask::Evidence(evidence)).await
    };
    let in_time = tokio::time::timeout(challenge.answer_within, answered).await;
    in_time.unwrap_or(Err(ReleaseError::AnswerTooLate))?;
    Ok(binding)
}

/// A request ready to be sent.
pub(super) struct Prepared {
    recipient: Recipient,
    open: v1::Open,
    asked: ReleaseRequest,
}

/// A fresh key, the `Open` with it, and the same as the binding reads it.
pub(super) fn prepare(request: Request, hold: bool) -> Result<Prepared, ReleaseError> {
    let recipient = Recipient::generate().map_err(|_| ReleaseError::NoRandomness)?;
    let open = request.into_open(recipient.public_key(), hold);
    let asked = ReleaseRequest::parse(open.clone()).map_err(ReleaseError::Request)?;
    Ok(Prepared { recipient, open, asked })
}

/// Where the stream takes no more, its status is already here and says why.
pub(super) async fn send(stream: &mut RawStream, step: Ask) -> Result<(), ReleaseError> {
    match stream.send(step).await {
        Ok(()) => Ok(()),
        Err(closed) => match stream.next().await {
            Err(why) => Err(why),
            Ok(_) => Err(closed),
        },
    }
}

/// A challenge that this client answers.
#[derive(Debug)]
pub(super) struct Challenge {
    nonce: [u8; limits::NONCE_BYTES],
    answer_within: Duration,
    pub(super) formats: Vec<String>,
    pub(super) round: u64,
}

pub(super) fn check_challenge(
    challenge: v1::Challenge,
    broker_id: &SpiffeId,
    round: u64,
) -> Result<Challenge, ReleaseError> {
    if challenge.audience != broker_id.as_str() {
        return Err(ReleaseError::NotTheBroker(Imposture::Audience));
    }
    let nonce = challenge.nonce.try_into().map_err(|_| ReleaseError::Protocol(Violation::Nonce))?;
    let milliseconds = challenge.answer_within_ms;
    let violation = if !(1..=limits::ANSWER_WITHIN_MS_MAX).contains(&milliseconds) {
        Violation::AnswerWithin
    } else if challenge.formats.is_empty() {
        Violation::Formats
    } else if challenge.channel_binding != ChannelBinding::TlsExporter.name() {
        Violation::ChannelBinding
    } else if challenge.round != round {
        Violation::Round
    } else {
        let answer_within = Duration::from_millis(milliseconds.into());
        return Ok(Challenge { nonce, answer_within, formats: challenge.formats, round });
    };
    Err(ReleaseError::Protocol(violation))
}

/// After `Released` comes the end. What was released stays released, whatever ends the stream, but for those four denials
/// after which the workload stops using it at once.
async fn ended_well(stream: &mut RawStream) -> Result<(), ReleaseError> {
    match tokio::time::timeout(END_WITHIN, stream.next()).await {
        Ok(Ok(Some(_))) => Err(ReleaseError::Protocol(Violation::OutOfOrder)),
        Ok(Err(denied @ ReleaseError::Denied { .. })) => Err(denied),
        Ok(Err(broken @ ReleaseError::Protocol(_))) => Err(broken),
        Ok(Ok(None) | Err(_)) | Err(_) => Ok(()),
    }
}

/// A stream that ends with OK before `Released`, or goes on with another step.
pub(super) fn unexpected(step: Option<&Answer>) -> ReleaseError {
    ReleaseError::Protocol(step.map_or(Violation::EndedEarly, |_| Violation::OutOfOrder))
}

/// The round of the first challenge.
const FIRST_ROUND: u64 = 0;
/// How long the status after `Released` is awaited: it comes in the same flight.
const END_WITHIN: Duration = Duration::from_secs(2);
