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
use crate::limits;
use crate::proto::v1;
use crate::proto::v1::release_request::Step as Ask;
use crate::proto::v1::release_response::Step as Answer;
use crate::release::sealing::Recipient;
use crate::request::{ChannelBinding, ReleaseRequest};
use crate::spiffe::SpiffeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is asked for. Holding a lease is not offered here: a held lease ends with its stream, which this call closes.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The paths, 1 to 16, distinct, each with its parameters; static secrets take none.
    pub secrets: Vec<(String, BTreeMap<String, Vec<u8>>)>,
    /// How long the lease shall be, seconds; 0 = the default. More than the maximum is a denial.
    pub ttl_seconds: u32,
}

impl Request {
    /// Asks for these paths, without parameters, for the default time.
    pub fn of<P: Into<String>>(paths: impl IntoIterator<Item = P>) -> Request {
        let secrets = paths.into_iter().map(|path| (path.into(), BTreeMap::new())).collect();
        Request { secrets, ttl_seconds: 0 }
    }

    fn into_open(self, recipient_key: &[u8]) -> v1::Open {
        let secret = |(path, parameters): (String, BTreeMap<_, _>)| v1::SecretRequest {
            path,
            parameters: parameters.into_iter().collect(),
        };
        v1::Open {
            secrets: self.secrets.into_iter().map(secret).collect(),
            recipient_key: recipient_key.to_vec(),
            ttl_seconds: self.ttl_seconds,
            hold: false,
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
        prepare(request.clone())?;
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
    let (recipient, open, asked) = prepare(request)?;
    let mut stream = connection.stream(Some(connection.deadline())).await?;
    send(&mut stream, Ask::Open(open)).await?;
    let challenge = match stream.next().await? {
        Some(Answer::Challenge(challenge)) => challenge,
        other => return Err(unexpected(other.as_ref())),
    };
    let challenge = check_challenge(challenge, connection.broker_id())?;
    let audience = connection.broker_id().as_str();
    let binding = connection.identity().binding(&challenge.nonce, FIRST_ROUND, audience, &asked);
    let answered = async {
        let evidence = attester.attest(binding.as_bytes(), &challenge.formats).await;
        let evidence = evidence.map_err(ReleaseError::Attestation)?;
        check_shape(&evidence, &challenge.formats).map_err(ReleaseError::Attestation)?;
        send(&mut stream, Ask::Evidence(evidence)).await
    };
    let in_time = tokio::time::timeout(challenge.answer_within, answered).await;
    in_time.unwrap_or(Err(ReleaseError::AnswerTooLate))?;
    stream.finish_sending();
    let released = match stream.next().await? {
        Some(Answer::Released(released)) => released,
        other => return Err(unexpected(other.as_ref())),
    };
    ended_well(&mut stream).await?;
    let now = connection.clock().now().map_err(ReleaseError::ClockSuspect)?;
    lease::open(released, &Asked { request: &asked, binding: &binding, recipient: &recipient, now: now.wall })
}

/// A fresh key, the `Open` with it, and the same as the binding reads it.
fn prepare(request: Request) -> Result<(Recipient, v1::Open, ReleaseRequest), ReleaseError> {
    let recipient = Recipient::generate().map_err(|_| ReleaseError::NoRandomness)?;
    let open = request.into_open(recipient.public_key());
    let asked = ReleaseRequest::parse(open.clone()).map_err(ReleaseError::Request)?;
    Ok((recipient, open, asked))
}

/// Where the stream takes no more, its status is already here and says why.
async fn send(stream: &mut RawStream, step: Ask) -> Result<(), ReleaseError> {
    match stream.send(step).await {
        Ok(()) => Ok(()),
        Err(closed) => match stream.next().await {
            Err(why) => Err(why),
            Ok(_) => Err(closed),
        },
    }
}

/// A challenge that this client answers.
struct Challenge {
    nonce: [u8; limits::NONCE_BYTES],
    answer_within: Duration,
    formats: Vec<String>,
}

fn check_challenge(challenge: v1::Challenge, broker_id: &SpiffeId) -> Result<Challenge, ReleaseError> {
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
    } else if challenge.round != FIRST_ROUND {
        Violation::Round
    } else {
        let answer_within = Duration::from_millis(milliseconds.into());
        return Ok(Challenge { nonce, answer_within, formats: challenge.formats });
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
fn unexpected(step: Option<&Answer>) -> ReleaseError {
    ReleaseError::Protocol(step.map_or(Violation::EndedEarly, |_| Violation::OutOfOrder))
}

/// The round of the first challenge, and here the only one.
const FIRST_ROUND: u64 = 0;
/// How long the status after `Released` is awaited: it comes in the same flight.
const END_WITHIN: Duration = Duration::from_secs(2);
