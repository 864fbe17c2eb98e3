//! The witness that every document of an answer verified.

use crate::case::{Case, Denied, Stage};
use crate::challenge::binding::Binding;
use crate::challenge::round::{self, HoldTerms};
use crate::challenge::{Answer, answer::AnswerParts};
use crate::denial::Denial;
use crate::evidence::documents::Documents;
use crate::evidence::hardware::{Hardware, Held, Supply};
use crate::evidence::outcome::{Checks, Refusal};
use crate::evidence::process::{self, Nodes};
use crate::evidence::{nitro, sev_snp, tdx, tpm2};
use crate::limits;
use crate::request::{ChannelBinding, Document, ReleaseRequest};
use crate::time::Now;
use crate::transport::peer::Peer;
use crate::transport::trust::Trust;
use arc_swap::ArcSwap;
use std::sync::{Arc, OnceLock};

/// The verifiers of all formats, and what they hold evidence against.
pub struct Verifiers {
    nodes: ArcSwap<Option<Nodes>>,
    hardware: ArcSwap<(u64, Hardware)>,
    /// The counters last seen of each enrolled attestation key.
    seen: tpm2::Seen,
    /// Where collateral is kept; none = what is configured and what came along is all there is.
    supply: OnceLock<Arc<dyn Supply>>,
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
    /// Boxed, as the claims below: a witness is moved at every stage, and lies in every future beneath.
    documents: Box<Documents>,
    held: Option<Arc<round::Held>>,
    terms: HoldTerms,
    case: Box<Case>,
}

impl Verifiers {
    /// Verifiers that know these nodes; none = they could not be read.
    pub fn new(nodes: Option<Nodes>) -> Self {
        Verifiers {
            nodes: ArcSwap::from_pointee(nodes),
            hardware: ArcSwap::default(),
            seen: tpm2::Seen::default(),
            supply: OnceLock::new(),
        }
    }

    /// The counters last seen of the enrolled attestation keys.
    pub fn seen(&self) -> &tpm2::Seen {
        &self.seen
    }

    /// The TPMs' manufacturers, for enrolment.
    pub fn manufacturers(&self) -> Held<Arc<tpm2::enroll::Manufacturers>> {
        self.hardware.load().1.manufacturers.clone()
    }

    /// Swaps what hardware evidence is held against; without it, none is taken. Blocks, where collateral is kept.
    pub fn set_hardware(&self, hardware: Hardware) {
        // First what a verification takes, then the epoch that ends what was verified before.
        if let Some(supply) = self.supply.get() {
            supply.set_trust(hardware.sev_snp.known().cloned(), hardware.tdx.known().cloned());
        }
        self.hardware.rcu(|old| {
            let tpm2 = old.1.tpm2.clone();
            (old.0.saturating_add(1), Hardware { tpm2, ..hardware.clone() })
        });
    }

    /// Swaps the enrolled attestation keys.
    pub fn set_tpm2(&self, tpm2: Held<tpm2::Tpm2Trust>) {
        if let Held::Known(trust) = &tpm2 {
            self.seen.forget_others(trust);
        }
        self.hardware.rcu(|old| (old.0.saturating_add(1), Hardware { tpm2: tpm2.clone(), ..old.1.clone() }));
    }

    /// The epoch of the enrolled attestation keys; none where they could not be read, or are not taken.
    pub fn tpm2_epoch(&self) -> Option<u64> {
        match &self.hardware.load().1.tpm2 {
            Held::Known(trust) => Some(trust.epoch()),
            Held::NotTaken | Held::Unknown(_) => None,
        }
    }

    /// Names where collateral is kept, once; a second one is not taken.
    pub fn set_supply(&self, supply: Arc<dyn Supply>) {
        let _ = self.supply.set(supply);
    }

    /// Has what an answer's documents still need asked for, within a bound. Whether anything was waited for: then the time
    /// is another.
    pub async fn supply(&self, answer: &mut Answer, now: Now) -> bool {
        let supplying =
            self.supply.get().map(|supply| supply.supply(answer.identity(), answer.documents(), now));
        let Some(supplying) = supplying.flatten() else { return false };
        let lacking = supplying.await;
        answer.note_lacking(lacking);
        true
    }

    /// Changes with what hardware evidence is held against, where that may refuse more than before.
    pub fn hardware_epoch(&self) -> u64 {
        let held = self.supply.get().map_or(0, |supply| supply.epoch());
        self.hardware.load().0.saturating_add(held)
    }

    /// What hardware evidence is held against now.
    pub fn hardware(&self) -> Arc<(u64, Hardware)> {
        self.hardware.load_full()
    }

    /// The enrolled nodes; none where they could not be read.
    pub fn nodes(&self) -> Arc<Option<Nodes>> {
        self.nodes.load_full()
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
        let AnswerParts {
            peer,
            request,
            binding,
            channel_binding,
            documents,
            lacking,
            held,
            terms,
            mut case,
        } = answer.into_parts();
        case.stage = Stage::Evidence;
        let nodes = self.nodes.load();
        let Some(nodes) = nodes.as_ref() else {
            return Err(case.deny(Denial::NodesUnavailable));
        };
        case.epochs.insert("nodes".to_owned(), nodes.epoch());
        // Before anything of it is used: what changes meanwhile supersedes this verification.
        let epoch = self.hardware_epoch();
        let hardware = self.hardware.load();
        let against = Against {
            nodes,
            verifiers: self,
            hardware: &hardware.1,
            bound: bound(&binding, &documents),
            binding: &binding,
            peer: &peer,
            now,
        };
        let verified = verify_all(&documents, &against);
        let documents = match verified {
            Ok(documents) => Box::new(documents),
            Err(refusal) => return Err(refused(case, refusal, &lacking)),
        };
        if let (Some(quote), Held::Known(trust)) = (documents.tpm2(), &hardware.1.tpm2)
            && let Some(ak) = trust.by_name(quote.ak_name())
        {
            self.seen.note(ak, quote.counters());
        }
        if documents.has_hardware() {
            case.epochs.insert(HARDWARE.to_owned(), epoch);
        }
        if note_claims(&mut case, &documents).is_err() {
            return Err(case.deny(Denial::Defect));
        }
        Ok(VerifiedEvidence { peer, request, binding, channel_binding, documents, held, terms, case })
    }
}

/// What the documents of one answer are held against.
struct Against<'a> {
    nodes: &'a Nodes,
    verifiers: &'a Verifiers,
    hardware: &'a Hardware,
    /// What stands where the binding belongs in hardware evidence.
    bound: [u8; limits::BINDING_BYTES],
    binding: &'a Binding,
    peer: &'a Peer,
    now: Now,
}

/// The plain binding; beside a `process` document, the one that names its body, so that the hardware vouches for it.
fn bound(binding: &Binding, documents: &[Document]) -> [u8; limits::BINDING_BYTES] {
    let statement = documents.iter().find(|document| document.format == process::FORMAT);
    statement.map_or(*binding.as_bytes(), |statement| binding.bound_to_process(&statement.body))
}

/// A second document of one format never gets here. No document is no evidence.
fn verify_all(documents: &[Document], against: &Against<'_>) -> Result<Documents, Refusal> {
    if documents.is_empty() {
        return Err(Refusal::new(Denial::EvidenceMalformed, "no document"));
    }
    let mut verified = Documents::default();
    for document in documents {
        verify_one(document, against, &mut verified)?;
    }
    verified.of_one_machine(against.nodes, against.peer.connection().spiffe_id(), against.now)?;
    Ok(verified)
}

fn verify_one(document: &Document, against: &Against<'_>, into: &mut Documents) -> Result<(), Refusal> {
    let Against { hardware, bound, now, .. } = against;
    let (body, endorsements, mut checks) = (&document.body, &document.endorsements, Checks::new());
    match document.format.as_str() {
        process::FORMAT => {
            let identity = against.peer.connection().spiffe_id();
            let (nodes, binding) = (against.nodes, against.binding.as_bytes());
            into.process = Some(process::verify(body, nodes, binding, identity, *now)?);
        }
        tpm2::FORMAT => {
            let trust = hardware.tpm2.get_or(tpm2::FORMAT, Denial::NodesUnavailable)?;
            against.verifiers.seen.check_kept()?;
            let seen =
                |name: &tpm2::AkName| trust.by_name(name).and_then(|ak| against.verifiers.seen.last(ak));
            into.tpm2 = Some(tpm2::verify(body, endorsements, bound, trust, &seen, *now, &mut checks)?);
        }
        nitro::FORMAT => {
            let trust = hardware.nitro.get(nitro::FORMAT)?;
            into.nitro = Some(nitro::verify(body, endorsements, bound, trust, *now, &mut checks)?);
        }
        sev_snp::FORMAT => {
            let configured = hardware.sev_snp.get(sev_snp::FORMAT)?;
            let held = against.verifiers.supply.get().map(|supply| supply.sev_snp(body, *now));
            let trust = held.as_ref().unwrap_or(configured);
            into.sev_snp = Some(sev_snp::verify(body, endorsements, bound, trust, *now, &mut checks)?);
        }
        tdx::FORMAT => {
            let configured = hardware.tdx.get(tdx::FORMAT)?;
            let held = against.verifiers.supply.get().map(|supply| supply.tdx(body, *now));
            let trust = held.as_ref().unwrap_or(configured);
            into.tdx = Some(tdx::verify(body, endorsements, bound, trust, *now, &mut checks)?);
        }
        other => return Err(Refusal::new(Denial::EvidenceFormatNotOffered, format!("`{other}`"))),
    }
    Ok(())
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

    /// The held lease that this is a later round of; none in the first.
    pub fn held(&self) -> Option<&Arc<round::Held>> {
        self.held.as_ref()
    }

    /// How often a held lease is attested again.
    pub fn hold_terms(&self) -> HoldTerms {
        self.terms
    }

    /// What verified.
    pub fn documents(&self) -> &Documents {
        &self.documents
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

/// What is lacking stands in the record beside what was denied for want of it.
fn refused(case: Box<Case>, refusal: Refusal, lacking: &[String]) -> Denied {
    let Refusal { denial, mut detail } = refusal;
    if matches!(denial, Denial::CollateralUnavailable | Denial::CollateralStale) && !lacking.is_empty() {
        detail = format!("{detail}; not to be had: {}", lacking.join("; "));
    }
    case.deny_because(denial, detail)
}

fn note_claims(case: &mut Case, documents: &Documents) -> Result<(), serde_json::Error> {
    case.claims = documents.claims_json()?;
    // One document's claims are hashed alone, as the record of it always was.
    let text = match case.claims.values().next() {
        Some(only) if case.claims.len() == 1 => only.to_string(),
        Some(_) | None => serde_json::to_string(&case.claims)?,
    };
    case.claims_sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()));
    case.node = documents.node().map(str::to_owned);
    case.subject = hex::encode(documents.subject());
    Ok(())
}

/// The epoch of what hardware evidence was held against, where there was any.
pub const HARDWARE: &str = "hardware";
