//! A held stream after its release: asked again, round by round, until either side ends it.
//!
//! *Takes* `Evidence` of each round, and `Finish`. *Gives* `Challenge`, `Renewed`, then OK or a status. *Denies*
//! `RequestOutOfOrder`, `RequestMalformed`, `ChallengeExpired`, `DeadlinePassed`, `LeaseRevoked`, `HoldExpired`,
//! `HoldDrained`, and per round all that a release does. *Source*: `protocol.md`, "With `hold`".

use crate::api::release::{Exchange, Sent, Work, challenge_message, guarded, timestamp};
use crate::audit::record::Event;
use crate::broker::Answered;
use crate::challenge::Challenge;
use crate::denial::{Denial, Reason};
use crate::limits;
use crate::proto::v1::{self, release_request::Step, release_response};
use crate::release::{Hold, Renewed};
use crate::request::{Document, parse_evidence};
use crate::time::BootTime;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tonic::{Status, Streaming};

/// A stream between two rounds.
pub(super) struct Holding {
    pub(super) exchange: Exchange,
    pub(super) hold: Hold,
    pub(super) steps: Streaming<v1::ReleaseRequest>,
    /// Whether evidence has come and its decision is under way.
    pub(super) deciding: Arc<AtomicBool>,
}

/// What was heard while waiting.
enum Heard {
    /// The time that was waited for.
    Nothing,
    Evidence(v1::Evidence),
    End(End),
}

/// How a hold ends.
enum End {
    /// The workload is done with its lease.
    Finished,
    /// The caller left without a word: the lease is left to its end.
    Left,
    Denied(Denial),
}

impl Holding {
    /// The next round, within the time that the release or the last renewal named.
    pub(super) fn wait(self) -> Work {
        let (broker, connection) = (self.exchange.broker.clone(), self.exchange.connection.clone());
        let interval = jittered(self.hold.reattest_within_ms().into());
        guarded(broker, connection, self.ask_after(interval))
    }

    /// The answer to a challenge that was sent.
    fn asked(self, challenge: Challenge) -> Work {
        let (broker, connection) = (self.exchange.broker.clone(), self.exchange.connection.clone());
        guarded(broker, connection, self.take_answer(challenge))
    }

    /// Waits, then challenges. Where that is uncertain it is tried again until the lease's end.
    async fn ask_after(mut self, wait_ms: u64) -> Option<Sent> {
        let mut wait_ms = wait_ms;
        loop {
            // The certificate's end is not slept through: then the round says what there is to say.
            let now = self.exchange.broker.clock.untrusted();
            let left = self.hold.certificate_ends().since(now.wall);
            match self.hear(now.boot.plus(wait_ms.min(left))).await {
                Heard::Nothing => {}
                Heard::Evidence(_) => return self.end(End::Denied(Denial::RequestOutOfOrder)).await,
                Heard::End(end) => return self.end(end).await,
            }
            match self.exchange.broker.clone().challenge_again(&mut self.hold).await {
                Ok(challenge) => {
                    let mut sent = Sent::step(challenge_message(&challenge));
                    sent.next = Some(self.asked(challenge));
                    return Some(sent);
                }
                Err(answered) if goes_on(&answered) => wait_ms = self.pause_ms(),
                Err(answered) => return Some(self.ended(&answered)),
            }
        }
    }

    /// Reads the evidence of this round, within the challenge's time, and decides.
    async fn take_answer(mut self, challenge: Challenge) -> Option<Sent> {
        let documents = match self.hear(challenge.deadline()).await {
            Heard::Evidence(evidence) => parse_evidence(evidence, &challenge.offer().formats),
            Heard::Nothing => Err(Denial::ChallengeExpired),
            Heard::End(end) => return self.end(end).await,
        };
        match documents {
            Ok(documents) => self.decide(challenge, documents).await,
            Err(denial) => {
                let answered = self.exchange.broker.deny(challenge.spoiled(denial)).await;
                Some(self.ended(&answered))
            }
        }
    }

    async fn decide(mut self, challenge: Challenge, documents: Vec<Document>) -> Option<Sent> {
        self.deciding.store(true, Ordering::SeqCst);
        let broker = self.exchange.broker.clone();
        let decided = broker.answer_again(challenge, documents, &mut self.hold).await;
        self.deciding.store(false, Ordering::SeqCst);
        match decided {
            Ok(renewed) => {
                let mut sent = Sent::step(renewed_message(&renewed));
                sent.next = Some(self.wait());
                Some(sent)
            }
            // The next challenge takes the place of `Renewed`.
            Err(answered) if goes_on(&answered) => {
                let pause = self.pause_ms();
                Box::pin(self.ask_after(pause)).await
            }
            Err(answered) => Some(self.ended(&answered)),
        }
    }

    /// Waits until `due`, for whatever comes first. Timers stand still in a suspended machine, so the clock is looked at now
    /// and then.
    async fn hear(&mut self, due: BootTime) -> Heard {
        loop {
            let now = self.exchange.broker.clock.untrusted();
            if let Some(denial) = self.hold.over(now) {
                return Heard::End(End::Denied(denial));
            }
            if now.boot >= self.exchange.until {
                return Heard::End(End::Denied(Denial::DeadlinePassed));
            }
            if now.boot >= due {
                return Heard::Nothing;
            }
            let next = due.min(self.exchange.until).min(self.hold.not_after_boot());
            let wait = Duration::from_millis(next.since(now.boot).min(limits::HOLD_LOOK_MS));
            tokio::select! {
                message = self.steps.message() => return heard(message),
                () = self.hold.ended() => {}
                () = self.exchange.connection.drained() => return Heard::End(End::Denied(self.drained())),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A connection goes away because the broker does, or because its peer cannot be proven any more.
    fn drained(&self) -> Denial {
        let broker = &self.exchange.broker;
        let proven = broker.trust.prove(&self.exchange.connection, broker.clock.untrusted());
        let refused = proven.err().filter(|denial| denial.reason() == Reason::IdentityNotCurrent);
        refused.unwrap_or(Denial::HoldDrained)
    }

    async fn end(self, end: End) -> Option<Sent> {
        let denial = match end {
            End::Left => return None,
            End::Finished => {
                self.finish().await;
                return None;
            }
            End::Denied(denial) => denial,
        };
        let answered = self.exchange.broker.deny(self.hold.case().deny(denial)).await;
        Some(self.ended(&answered))
    }

    /// The lease ends first: whatever becomes of the record, nobody holds it any more.
    async fn finish(self) {
        let lease_id = self.hold.lease_id().to_owned();
        self.hold.end();
        let broker = &self.exchange.broker;
        let event = Event::LeaseEnded { lease_id, detail: "finished by its workload".to_owned() };
        if let Err(error) = broker.recorder.note(event, broker.clock.untrusted()).await {
            tracing::error!(%error, "the end of a lease could not be recorded; at a restart it stands until its end");
        }
    }

    /// The status that ends the stream, and the lease where it must.
    fn ended(self, answered: &Answered) -> Sent {
        let status = self.exchange.refuse(answered);
        if answered.denial.reason().ends_lease() {
            self.hold.end();
        }
        Sent::status(status)
    }

    fn pause_ms(&self) -> u64 {
        let pause = self.hold.reattest_within_ms() / limits::HOLD_RETRY_PART;
        u64::from(pause.max(limits::HOLD_INTERVAL_MS_MIN))
    }
}

/// An uncertain round extends nothing and ends nothing.
fn goes_on(answered: &Answered) -> bool {
    answered.denial.reason() == Reason::VerificationNotPossible
}

fn heard(message: Result<Option<v1::ReleaseRequest>, Status>) -> Heard {
    match message {
        Ok(Some(v1::ReleaseRequest { step: Some(Step::Evidence(evidence)) })) => Heard::Evidence(evidence),
        Ok(Some(v1::ReleaseRequest { step: Some(Step::Finish(_)) })) => Heard::End(End::Finished),
        Ok(Some(v1::ReleaseRequest { step: Some(Step::Open(_)) })) => {
            Heard::End(End::Denied(Denial::RequestOutOfOrder))
        }
        // What tonic finds in a message has no cause below it; a broken stream has. A half-close is a lost stream: several
        // libraries half-close when a call is cancelled.
        Ok(None) => Heard::End(End::Left),
        Err(status) if std::error::Error::source(&status).is_some() => Heard::End(End::Left),
        Ok(Some(v1::ReleaseRequest { step: None })) | Err(_) => {
            Heard::End(End::Denied(Denial::RequestMalformed))
        }
    }
}

fn renewed_message(renewed: &Renewed) -> v1::ReleaseResponse {
    let message = v1::Renewed { not_after: Some(timestamp(renewed.not_after())) };
    v1::ReleaseResponse { step: Some(release_response::Step::Renewed(message)) }
}

/// Up to a fifth sooner, so that what began at once does not come back at once.
fn jittered(interval_ms: u64) -> u64 {
    let mut byte = [0; 1];
    // Without randomness they come together, which is no harm to any of them.
    let _drawn = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    let sooner = interval_ms.saturating_mul(byte.into()) / JITTER_PART;
    interval_ms.saturating_sub(sooner)
}

/// Five times the largest byte, and a little more.
const JITTER_PART: u64 = 5 * 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_comes_within_its_time_and_not_much_sooner() {
        for _ in 0..1000 {
            assert!((48_000..=60_000).contains(&jittered(60_000)));
        }
    }
}
