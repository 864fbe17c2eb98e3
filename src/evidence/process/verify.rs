//! Whether a `process` document may be believed: it is of an enrolled node, unaltered, for this challenge, of now.
//!
//! *Takes* the body, [`Nodes`], the binding due, the peer's identity, the time. *Gives* [`VerifiedStatement`]. *Denies*
//! each by the name of what is wrong, in the order of the checks below.
//! *Source*: `protocol.md` "process", "The evidence binding"; RFC 9334 §10.2.

use super::node::{EnrolledNode, Nodes};
use super::parse::{SignedStatement, parse};
use super::sign::signed_bytes;
use super::statement::Statement;
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Ends, Refusal};
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::{Now, WallTime};
use subtle::ConstantTimeEq;

/// A statement of an enrolled node, signed, bound to this challenge, fresh, about an identity that the node may vouch
/// for. Made by [`verify`] alone.
///
/// ```
/// use portcullis::evidence::process::{Statement, VerifiedStatement};
/// fn read(verified: &VerifiedStatement) -> &Statement { verified.statement() }
/// ```
/// ```compile_fail,E0451
/// use portcullis::evidence::process::{Statement, VerifiedStatement};
/// fn forge(statement: Statement) -> VerifiedStatement { VerifiedStatement { statement, nodes_epoch: 0, node_not_after: Default::default() } }
/// ```
/// ```compile_fail,E0599
/// use portcullis::evidence::process::{Statement, VerifiedStatement};
/// fn copy(verified: VerifiedStatement) -> (VerifiedStatement, VerifiedStatement) { (verified.clone(), verified) }
/// ```
#[must_use]
pub struct VerifiedStatement {
    statement: Statement,
    nodes_epoch: u64,
    node_not_after: WallTime,
}

impl VerifiedStatement {
    /// The claims.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The snapshot of enrolments that it was verified against.
    pub fn nodes_epoch(&self) -> u64 {
        self.nodes_epoch
    }

    /// The end of the node's enrolment, exclusive.
    pub fn node_not_after(&self) -> WallTime {
        self.node_not_after
    }

    /// From when on it is too old: `iat` and the greatest age, exclusive.
    pub fn too_old_from(&self) -> WallTime {
        too_old_from(&self.statement)
    }
}

impl std::fmt::Debug for VerifiedStatement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("VerifiedStatement")
            .field("node", &self.statement.node)
            .finish_non_exhaustive()
    }
}

/// What an offline examination established. It is no witness: nothing is released on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// The claims.
    pub statement: Statement,
    /// When the statement is too old, and when the node's enrolment ends.
    pub ends: Ends,
}

/// Verifies a document. `binding` is the one due: the plain binding of this challenge.
pub fn verify(
    body: &[u8],
    nodes: &Nodes,
    binding: &[u8; limits::BINDING_BYTES],
    identity: &SpiffeId,
    now: Now,
) -> Result<VerifiedStatement, Refusal> {
    let (statement, node) = establish(body, nodes, Some(binding), now, &mut Checks::new())?;
    check_permitted(node, identity)?;
    Ok(VerifiedStatement { statement, nodes_epoch: nodes.epoch(), node_not_after: node.not_after })
}

/// The same checks for a stored document, of which no peer is known: for whom the node may vouch is not among them. Without
/// `due` freshness is not shown, and the check `binding` is not among `checks`.
pub fn examine(
    body: &[u8],
    nodes: &Nodes,
    due: Option<&[u8; limits::BINDING_BYTES]>,
    now: Now,
    checks: &mut Checks,
) -> Result<Examination, Refusal> {
    let (statement, node) = establish(body, nodes, due, now, checks)?;
    let ends = Ends::of("statement's age", too_old_from(&statement)).and("node's enrolment", node.not_after);
    Ok(Examination { statement, ends })
}

fn establish<'n>(
    body: &[u8],
    nodes: &'n Nodes,
    due: Option<&[u8; limits::BINDING_BYTES]>,
    now: Now,
    checks: &mut Checks,
) -> Result<(Statement, &'n EnrolledNode), Refusal> {
    let parsed = parse(body).map_err(|error| refusal(Denial::EvidenceMalformed, error.to_string()));
    let signed = checks.note("structure", parsed)?;
    let node = nodes
        .by_key(&signed.key_id)
        .ok_or_else(|| refusal(Denial::EndorsementUntrusted, key_text(&signed) + " is not enrolled"));
    let node = checks.note("node-key", node)?;
    checks.note("signature", check_signature(&signed, node))?;
    checks.note("node", check_node(&signed.statement, node))?;
    if let Some(due) = due {
        checks.note("binding", check_binding(&signed.statement, due))?;
    }
    checks.note("issued-at", check_age(&signed.statement, now))?;
    checks.note("enrolment", check_enrolment(node, now))?;
    Ok((signed.statement, node))
}

fn too_old_from(statement: &Statement) -> WallTime {
    let oldest = statement.iat.saturating_add(limits::PROCESS_IAT_AGE_SECONDS);
    WallTime(oldest.saturating_mul(1000).saturating_add(1))
}

fn check_signature(signed: &SignedStatement<'_>, node: &EnrolledNode) -> Result<(), Refusal> {
    if signed.algorithm != node.public_key.algorithm() {
        return Err(refusal(Denial::EvidenceSignatureInvalid, "alg does not go with the key that kid names"));
    }
    let message = signed_bytes(signed.protected, signed.payload);
    if !node.public_key.verifies(&message, &signed.signature) {
        return Err(refusal(
            Denial::EvidenceSignatureInvalid,
            "the signature is not of the key that kid names",
        ));
    }
    Ok(())
}

fn check_node(statement: &Statement, node: &EnrolledNode) -> Result<(), Refusal> {
    if statement.node != node.name {
        let detail =
            format!("the key is enrolled as `{}`, the statement names another node", bounded(&node.name));
        return Err(refusal(Denial::EvidenceNodeMismatch, detail));
    }
    Ok(())
}

/// All 64 bytes, in constant time; a binding of zeros is nobody's.
fn check_binding(statement: &Statement, due: &[u8; limits::BINDING_BYTES]) -> Result<(), Refusal> {
    let zero = due.ct_eq(&[0; limits::BINDING_BYTES]);
    let equal = statement.binding.ct_eq(due);
    if !bool::from(equal & !zero) {
        return Err(refusal(Denial::EvidenceBindingMismatch, "eat_nonce is not the binding that is due"));
    }
    Ok(())
}

/// Both limits count: at the age or the lead itself the statement still stands.
fn check_age(statement: &Statement, now: Now) -> Result<(), Refusal> {
    let made = WallTime(statement.iat.saturating_mul(1000));
    let (age, lead) = (now.wall.since(made), made.since(now.wall));
    if age > limits::PROCESS_IAT_AGE_SECONDS.saturating_mul(1000) {
        return Err(refusal(Denial::EvidenceTooOld, format!("made {age} ms ago")));
    }
    if lead > limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000) {
        return Err(refusal(Denial::EvidenceFromFuture, format!("made {lead} ms ahead of now")));
    }
    Ok(())
}

fn check_enrolment(node: &EnrolledNode, now: Now) -> Result<(), Refusal> {
    if now.wall >= node.not_after {
        let detail = format!("the enrolment of node `{}` ended at {}", bounded(&node.name), node.not_after);
        return Err(refusal(Denial::EndorsementExpired, detail));
    }
    Ok(())
}

fn check_permitted(node: &EnrolledNode, identity: &SpiffeId) -> Result<(), Refusal> {
    if !node.may_vouch_for.iter().any(|pattern| pattern.matches(identity)) {
        let detail = format!("node `{}` may not vouch for this identity", bounded(&node.name));
        return Err(refusal(Denial::EndorsementNotPermitted, detail));
    }
    Ok(())
}

fn refusal(denial: Denial, detail: impl Into<String>) -> Refusal {
    Refusal { denial, detail: detail.into() }
}

fn key_text(signed: &SignedStatement<'_>) -> String {
    format!("key {}", hex::encode(signed.key_id))
}

fn bounded(name: &str) -> String {
    name.chars().take(64).collect()
}
