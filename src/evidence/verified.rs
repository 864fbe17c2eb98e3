//! The witness that every document of an answer verified.

use crate::case::{Case, Denied, Stage};
use crate::challenge::binding::Binding;
use crate::challenge::{Answer, answer::AnswerParts};
use crate::denial::Denial;
use crate::evidence::process::{self, Nodes, VerifiedStatement};
use crate::request::{ChannelBinding, Document, ReleaseRequest};
use crate::time::Now;
use crate::transport::peer::Peer;
use crate::transport::trust::Trust;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// The verifiers of all formats, and what they hold evidence against.
pub struct Verifiers {
    nodes: ArcSwap<Option<Nodes>>,
}

/// All documents of one answer verified: key, signature, binding. What they say is not appraised yet.
///
/// Nobody but [`Verifiers::verify`] makes one:
/// ```compile_fail
/// let forged = portcullis::evidence::VerifiedEvidence {};
/// ```
#[must_use]
pub struct VerifiedEvidence {
    peer: Peer,
    request: ReleaseRequest,
    binding: Binding,
    channel_binding: ChannelBinding,
    process: VerifiedStatement,
    case: Box<Case>,
}

impl Verifiers {
    /// Verifiers that know these nodes; none = they could not be read.
    pub fn new(nodes: Option<Nodes>) -> Self {
        Verifiers { nodes: ArcSwap::from_pointee(nodes) }
    }

    /// Swaps the enrolled nodes.
    pub fn set_nodes(&self, nodes: Option<Nodes>) {
        self.nodes.store(Arc::new(nodes));
    }

    /// The epoch of the enrolled nodes; none where they could not be read.
    pub fn nodes_epoch(&self) -> Option<u64> {
        self.nodes.load().as_ref().as_ref().map(Nodes::epoch)
    }

    /// Verifies every document; all must, and the first that does not decides. **Denies** as the module says.
    pub fn verify(&self, answer: Answer, now: Now) -> Result<VerifiedEvidence, Denied> {
        let AnswerParts { peer, request, binding, channel_binding, documents, mut case } =
            answer.into_parts();
        case.stage = Stage::Evidence;
        let nodes = self.nodes.load();
        let Some(nodes) = nodes.as_ref() else {
            return Err(case.deny(Denial::NodesUnavailable));
        };
        case.epochs.insert("nodes".to_owned(), nodes.epoch());
        let mut process = None;
        for document in &documents {
            // A format's arm sets its own part; a second document of one format never gets here.
            match document.format.as_str() {
                process::FORMAT => process = Some(verify_process(document, nodes, &binding, &peer, now)),
                _ => return Err(case.deny(Denial::EvidenceFormatNotOffered)),
            }
        }
        // Until hardware formats stand beside it, `process` is the one that must be there; no document is no evidence.
        let process = match process {
            Some(Ok(process)) => process,
            Some(Err(refusal)) => return Err(case.deny_because(refusal.denial, refusal.detail)),
            None => return Err(case.deny(Denial::EvidenceMalformed)),
        };
        note_claims(&mut case, &process);
        Ok(VerifiedEvidence { peer, request, binding, channel_binding, process, case })
    }
}

impl VerifiedEvidence {
    /// Who asks, as proven when it was last looked at.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What was asked.
    pub fn request(&self) -> &ReleaseRequest {
        &self.request
    }

    /// What the evidence carried.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// How it is tied to the connection.
    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    /// The node's statement.
    pub fn process(&self) -> &VerifiedStatement {
        &self.process
    }

    /// The record so far.
    pub fn case(&self) -> &Case {
        &self.case
    }

    /// The record so far, for a later stage to add what it found.
    pub fn case_mut(&mut self) -> &mut Case {
        &mut self.case
    }

    /// Gives the witness up for its record: the request ends here.
    pub fn into_case(self) -> Box<Case> {
        self.case
    }

    /// Proves the peer again, against the trust of this moment. **Denies** what `Peer::reprove` denies.
    pub fn reprove(&mut self, trust: &Trust, now: Now) -> Result<(), Denial> {
        self.peer.reprove(trust, now)?;
        self.case.epochs.insert("trust".to_owned(), self.peer.epoch());
        Ok(())
    }
}

fn verify_process(
    document: &Document,
    nodes: &Nodes,
    binding: &Binding,
    peer: &Peer,
    now: Now,
) -> Result<VerifiedStatement, process::Refusal> {
    process::verify(&document.body, nodes, binding.as_bytes(), peer.connection().spiffe_id(), now)
}

fn note_claims(case: &mut Case, process: &VerifiedStatement) {
    let statement = process.statement();
    let claims = statement.claims_json();
    let text = claims.to_string();
    case.claims_sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()));
    case.claims.insert(process::FORMAT.to_owned(), claims);
    case.node = Some(statement.node.clone());
    case.subject = hex::encode(statement.subject());
}
