//! A lease that is held: attested again on the broker's asking, until it is finished, lost or refused.
//!
//! *Takes* a connection of its own, an attester and a request. *Gives* [`Held`]: the lease, and each new end. *Denies*
//! nothing itself: what ends a hold is a [`ReleaseError`]; after [`ReleaseError::Denied`] the secrets are not to be used any
//! more, after any other until the lease's end. *Source*: `protocol.md`, "With `hold`".

use super::attester::Attester;
use super::config::Config;
use super::connection::{Connection, within};
use super::error::{ConnectError, ReleaseError, Violation};
use super::lease::{Lease, check_end};
use super::raw::RawStream;
use super::release::{self, Challenge, Request, check_challenge, unexpected};
use crate::limits;
use crate::proto::v1;
use crate::proto::v1::release_request::Step as Ask;
use crate::proto::v1::release_response::Step as Answer;
use crate::request::ReleaseRequest;
use crate::time::{BootTime, WallTime};
use std::time::Duration;

/// A held lease, its stream and its connection. Dropped, the stream is lost, and the lease is left to its end;
/// [`Held::finish`] ends both.
pub struct Held {
    lease: Lease,
    connection: Connection,
    stream: RawStream,
    asked: ReleaseRequest,
    formats: Vec<String>,
    round: u64,
    reattest_within: Duration,
    /// A challenge that came in place of a renewal.
    pending: Option<v1::Challenge>,
    ends_boot: BootTime,
}

/// A question of the broker's, to be answered now.
#[must_use]
pub(crate) struct Question(Challenge);

/// Opens a connection and releases the secrets of one request over it, to be held. One try, as
/// [`release`](super::release()); the configured deadline bounds the release, not the hold.
pub async fn hold(config: &Config, attester: &dyn Attester, request: Request) -> Result<Held, ReleaseError> {
    within(config.deadline, async {
        let prepared = release::prepare(request, true)?;
        let connection = Connection::open(config).await?;
        // No `grpc-timeout`: it would end the hold too.
        let mut earned = release::earn(&connection, attester, prepared, None).await?;
        let (lease, reattest_within) = earned.open(&connection)?;
        let ends_boot = end_on_boot_clock(&connection, lease.not_after);
        let release::Earned { stream, asked, challenge, .. } = earned;
        let formats = challenge.formats;
        let round = challenge.round;
        Ok(Held {
            lease,
            connection,
            stream,
            asked,
            formats,
            round,
            reattest_within,
            pending: None,
            ends_boot,
        })
    })
    .await
}

impl Held {
    /// The lease as it stands; its end moves with each renewal.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Wipes the secrets here, once they are where they are used.
    pub fn forget_secrets(&mut self) {
        self.lease.secrets.clear();
    }

    /// What is left of the lease, by the clock of this machine that says less.
    pub fn left(&self) -> Duration {
        let now = self.connection.clock().untrusted();
        let left = self.lease.not_after.since(now.wall).min(self.ends_boot.since(now.boot));
        Duration::from_millis(left)
    }

    /// Answers the broker's rounds until one renews the lease; gives its new end. To be called again and again, and not to be
    /// dropped half-way, which would leave a challenge without its answer. An error ends the hold.
    pub async fn keep(&mut self, attester: &dyn Attester) -> Result<WallTime, ReleaseError> {
        loop {
            let question = self.question().await?;
            if let Some(end) = self.answer(question, attester).await? {
                return Ok(end);
            }
        }
    }

    /// Waits for the next question. This may be dropped at any time: nothing is lost.
    pub(crate) async fn question(&mut self) -> Result<Question, ReleaseError> {
        let challenge = match self.pending.take() {
            Some(challenge) => challenge,
            None => {
                let patience = self.reattest_within.saturating_add(GRACE).min(self.left());
                let next = tokio::time::timeout(patience, self.stream.next()).await;
                match next.unwrap_or_else(|_| Err(lost("no challenge came in its time")))? {
                    Some(Answer::Challenge(challenge)) => challenge,
                    None => return Err(lost("the broker ended it")),
                    other => return Err(unexpected(other.as_ref())),
                }
            }
        };
        let round = self.round.saturating_add(1);
        let challenge = check_challenge(challenge, self.connection.broker_id(), round)?;
        // Rounds differ in nonce and round alone.
        if challenge.formats != self.formats {
            return Err(ReleaseError::Protocol(Violation::Formats));
        }
        self.round = round;
        Ok(Question(challenge))
    }

    /// Answers it; the lease's new end, or none where the broker was uncertain and asks again.
    pub(crate) async fn answer(
        &mut self,
        Question(challenge): Question,
        attester: &dyn Attester,
    ) -> Result<Option<WallTime>, ReleaseError> {
        release::answer(&mut self.stream, &self.connection, attester, &challenge, &self.asked).await?;
        let next = tokio::time::timeout(self.left(), self.stream.next()).await;
        match next.unwrap_or_else(|_| Err(lost("it was not renewed before its end")))? {
            Some(Answer::Renewed(renewed)) => self.renewed(renewed).map(Some),
            Some(Answer::Challenge(challenge)) => {
                self.pending = Some(challenge);
                Ok(None)
            }
            None => Err(lost("the broker ended it")),
            other => Err(unexpected(other.as_ref())),
        }
    }

    fn renewed(&mut self, renewed: v1::Renewed) -> Result<WallTime, ReleaseError> {
        let now = self.connection.clock().now().map_err(ReleaseError::ClockSuspect)?;
        let end = check_end(renewed.not_after, &self.asked, now.wall).map_err(ReleaseError::Protocol)?;
        self.lease.not_after = end;
        self.ends_boot = end_on_boot_clock(&self.connection, end);
        Ok(end)
    }

    /// Tells the broker that the lease is not needed any more. Where it does not hear of it, the lease ends at its end.
    pub async fn finish(mut self) {
        if self.stream.send(Ask::Finish(v1::Finish {})).await.is_err() {
            return;
        }
        let ended = async {
            // A round's messages may be on their way; what counts is the end.
            while let Ok(Some(_)) = self.stream.next().await {}
        };
        let _late = tokio::time::timeout(END_WITHIN, ended).await;
    }
}

fn end_on_boot_clock(connection: &Connection, end: WallTime) -> BootTime {
    let now = connection.clock().untrusted();
    now.boot.plus(end.since(now.wall))
}

fn lost(why: &str) -> ReleaseError {
    ReleaseError::Connect(ConnectError::Lost(why.to_owned()))
}

/// How much later than promised a challenge may come: the way over the network, and a busy broker.
const GRACE: Duration = Duration::from_millis(limits::OPEN_WITHIN_MS);
/// How long the end is awaited after `Finish`: it comes at once, but for a round that is being decided.
const END_WITHIN: Duration = Duration::from_secs(2);
