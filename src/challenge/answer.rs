//! The challenge and its answer, each spent by value: a second answer has nothing to answer.

use crate::case::{Case, Denied, PathVersion, Stage};
use crate::challenge::binding::{Binding, Inputs};
use crate::challenge::nonce::Nonce;
use crate::challenge::round::{Held, HoldTerms};
use crate::denial::Denial;
use crate::limits;
use crate::request::{ChannelBinding, Document, ReleaseRequest};
use crate::spiffe::SpiffeId;
use crate::time::{BootTime, Now};
use crate::transport::peer::{Connection, Peer};
use crate::transport::trust::Trust;
use std::sync::Arc;

/// What the broker offers to everyone; from its configuration.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The broker's own SPIFFE ID.
    pub audience: SpiffeId,
    /// Accepted evidence formats, never empty.
    pub formats: Vec<String>,
    /// Time to answer, milliseconds, 1 to 30 000.
    pub answer_within_ms: u32,
    /// Whether channel binding `none` is offered to clients that cannot do better.
    pub channel_binding_none: bool,
    /// The longest time between two rounds of a held lease, milliseconds.
    pub reattest_within_ms: u32,
}

impl Offer {
    /// How often a held lease is attested again.
    pub fn hold_terms(&self) -> HoldTerms {
        let Offer { reattest_within_ms, answer_within_ms, .. } = *self;
        HoldTerms { reattest_within_ms, answer_within_ms }
    }
}

/// A question put to one peer about one request, to be answered once and in time.
///
/// There is no second use of it:
/// ```compile_fail
/// # use portcullis::{challenge::Challenge, transport::trust::Trust, time::Now};
/// fn twice(challenge: Challenge, trust: &Trust, now: Now) {
///     let _ = challenge.answered(vec![], trust, now);
///     let _ = challenge.answered(vec![], trust, now);
/// }
/// ```
/// ```
/// # use portcullis::{challenge::Challenge, transport::trust::Trust, time::Now};
/// fn once(challenge: Challenge, trust: &Trust, now: Now) {
///     let _ = challenge.answered(vec![], trust, now);
/// }
/// ```
/// nor a copy:
/// ```compile_fail
/// # use portcullis::challenge::Challenge;
/// fn copy(challenge: &Challenge) -> Challenge { challenge.clone() }
/// ```
#[must_use]
pub struct Challenge {
    peer: Peer,
    request: ReleaseRequest,
    nonce: Nonce,
    round: u64,
    held: Option<Arc<Held>>,
    channel_binding: ChannelBinding,
    offer: Offer,
    deadline: BootTime,
    case: Box<Case>,
}

impl Challenge {
    /// Puts the question. **Denies** `RequestChannelBindingUnavailable`, and `Defect` without randomness.
    pub fn issue(peer: Peer, request: ReleaseRequest, offer: &Offer, now: Now) -> Result<Challenge, Denied> {
        let mut case = case_of(peer.connection(), &request);
        case.epochs.insert("trust".to_owned(), peer.epoch());
        case.stage = Stage::Challenge;
        let channel_binding = match request.choose_channel_binding(offer.channel_binding_none) {
            Ok(channel_binding) => channel_binding,
            Err(denial) => return Err(case.deny(denial)),
        };
        case.channel_binding = channel_binding.name().to_owned();
        let nonce = match Nonce::draw() {
            Ok(nonce) => nonce,
            Err(denial) => return Err(case.deny(denial)),
        };
        let deadline = now.boot.plus(u64::from(offer.answer_within_ms));
        Ok(Challenge {
            peer,
            request,
            nonce,
            round: 0,
            held: None,
            channel_binding,
            offer: offer.clone(),
            deadline,
            case,
        })
    }

    /// Puts it again, about a lease that is held: audience, formats and channel binding stay, nonce and round are new.
    /// **Denies** as [`Challenge::issue`].
    pub fn again(
        peer: Peer,
        request: ReleaseRequest,
        held: Arc<Held>,
        round: u64,
        offer: &Offer,
        now: Now,
    ) -> Result<Challenge, Denied> {
        let mut challenge = Challenge::issue(peer, request, offer, now)?;
        challenge.case.round = round;
        challenge.case.lease = Some(held.lease_id.clone());
        (challenge.round, challenge.held) = (round, Some(held));
        Ok(challenge)
    }

    /// The nonce, for the wire.
    pub fn nonce(&self) -> &[u8; limits::NONCE_BYTES] {
        self.nonce.as_bytes()
    }

    /// The round, from 0.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// The channel binding chosen.
    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    /// What was offered.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Until when, on the boot clock alone, the whole answer must have arrived (exclusive).
    pub fn deadline(&self) -> BootTime {
        self.deadline
    }

    /// Ends the challenge without an answer: the caller's message was malformed, late, or the caller left.
    pub fn spoiled(self, denial: Denial) -> Denied {
        self.case.deny(denial)
    }

    /// Takes the answer; the challenge is spent, whatever follows. The peer is proven again, since trust may have changed
    /// while the workload asked its node. **Denies** `ChallengeExpired` and what `Peer::reprove` denies.
    pub fn answered(self, documents: Vec<Document>, trust: &Trust, now: Now) -> Result<Answer, Denied> {
        let Challenge { mut peer, request, nonce, round, held, channel_binding, offer, deadline, mut case } =
            self;
        case.formats = documents.iter().map(|document| document.format.clone()).collect();
        if now.boot >= deadline {
            return Err(case.deny(Denial::ChallengeExpired));
        }
        if let Err(denial) = peer.reprove(trust, now) {
            return Err(case.deny(denial));
        }
        let connection = peer.connection();
        let binding = Binding::compute(&Inputs {
            nonce: nonce.as_bytes(),
            round,
            channel: match channel_binding {
                ChannelBinding::TlsExporter => connection.exporter(),
                ChannelBinding::None => &[],
            },
            client_spki_sha256: connection.leaf_spki_sha256(),
            client_id: connection.spiffe_id(),
            audience: offer.audience.as_str(),
            request: &request,
        });
        let terms = offer.hold_terms();
        Ok(Answer {
            peer,
            request,
            binding,
            channel_binding,
            documents,
            lacking: Vec::new(),
            held,
            terms,
            case,
        })
    }
}

/// The spent challenge: its peer, its request, the binding that is due, and the documents that claim to carry it.
#[must_use]
pub struct Answer {
    peer: Peer,
    request: ReleaseRequest,
    binding: Binding,
    channel_binding: ChannelBinding,
    documents: Vec<Document>,
    lacking: Vec<String>,
    held: Option<Arc<Held>>,
    terms: HoldTerms,
    case: Box<Case>,
}

/// An answer taken apart by the evidence stage. It proves no more than its parts do.
pub struct AnswerParts {
    /// Who asks.
    pub peer: Peer,
    /// What was asked.
    pub request: ReleaseRequest,
    /// What the evidence must carry.
    pub binding: Binding,
    /// How it is tied to the connection.
    pub channel_binding: ChannelBinding,
    /// The evidence, untrusted.
    pub documents: Vec<Document>,
    /// Collateral that could not be had for them, each with the reason.
    pub lacking: Vec<String>,
    /// The held lease that it is about; none in the first round.
    pub held: Option<Arc<Held>>,
    /// How often a held lease is attested again.
    pub terms: HoldTerms,
    /// The record so far.
    pub case: Box<Case>,
}

impl Answer {
    /// Who answers.
    pub fn identity(&self) -> &SpiffeId {
        self.peer.connection().spiffe_id()
    }

    /// The evidence, untrusted.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Notes collateral that could not be had, for the detail of a denial that follows from it.
    pub fn note_lacking(&mut self, lacking: Vec<String>) {
        self.lacking = lacking;
    }

    /// Ends the request before its evidence is looked at.
    pub fn spoiled(self, denial: Denial) -> Denied {
        self.case.deny(denial)
    }

    /// The parts; the answer is gone.
    pub fn into_parts(self) -> AnswerParts {
        let Answer { peer, request, binding, channel_binding, documents, lacking, held, terms, case } = self;
        AnswerParts { peer, request, binding, channel_binding, documents, lacking, held, terms, case }
    }
}

/// The record of a request that has only just been made.
pub fn case_of(connection: &Connection, request: &ReleaseRequest) -> Box<Case> {
    let mut case = case_of_connection(connection);
    let paths = request.secrets().iter();
    case.secrets = paths.map(|secret| PathVersion { path: secret.path.to_string(), version: None }).collect();
    case.ttl_seconds = request.ttl_seconds();
    case.hold = request.hold();
    case
}

/// The record of a request of which only its connection is known.
pub fn case_of_connection(connection: &Connection) -> Box<Case> {
    let mut case = Box::new(Case::new());
    case.identity = Some(connection.spiffe_id().clone());
    case.key_sha256 = hex::encode(connection.leaf_spki_sha256());
    case.serial = connection.serial().to_owned();
    case
}
