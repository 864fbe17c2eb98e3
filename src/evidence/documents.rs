//! The verified documents of one answer, and what holds between them.
//!
//! *Takes* each format's verified document. *Gives* [`Documents`]: their claims, their subject, the ends of all that they rest
//! on. *Denies* `EvidenceNodeMismatch`, `EndorsementNotPermitted` where good documents are of two machines, or of a wrong one. *Source*: `protocol.md` ("Good documents of two
//! machines are not one").

use super::nitro::{self, VerifiedNitro};
use super::outcome::{Ends, Refusal};
use super::process::{self, EnrolledNode, Nodes, VerifiedStatement};
use super::sev_snp::{self, VerifiedSevSnp};
use super::tdx::{self, VerifiedTdx};
use super::tpm2::{self, VerifiedTpm2};
use crate::denial::Denial;
use crate::spiffe::SpiffeId;
use crate::time::{Now, WallTime};
use serde_json::Value;
use std::collections::BTreeMap;

/// What verified, one of each format at most, and at least one.
///
/// ```compile_fail,E0451
/// let forged = portcullis::evidence::Documents { process: None, tpm2: None, nitro: None, sev_snp: None, tdx: None };
/// ```
#[must_use]
#[derive(Default)]
pub struct Documents {
    pub(super) process: Option<VerifiedStatement>,
    pub(super) tpm2: Option<VerifiedTpm2>,
    pub(super) nitro: Option<VerifiedNitro>,
    pub(super) sev_snp: Option<VerifiedSevSnp>,
    pub(super) tdx: Option<VerifiedTdx>,
}

impl Documents {
    /// The node's statement about a process.
    pub fn process(&self) -> Option<&VerifiedStatement> {
        self.process.as_ref()
    }

    /// The TPM's quote.
    pub fn tpm2(&self) -> Option<&VerifiedTpm2> {
        self.tpm2.as_ref()
    }

    /// The Nitro Enclave's document.
    pub fn nitro(&self) -> Option<&VerifiedNitro> {
        self.nitro.as_ref()
    }

    /// The SEV-SNP guest's report.
    pub fn sev_snp(&self) -> Option<&VerifiedSevSnp> {
        self.sev_snp.as_ref()
    }

    /// The trust domain's quote.
    pub fn tdx(&self) -> Option<&VerifiedTdx> {
        self.tdx.as_ref()
    }

    /// Whether any of them is more than a node's word.
    pub fn has_hardware(&self) -> bool {
        self.tpm2.is_some() || self.nitro.is_some() || self.sev_snp.is_some() || self.tdx.is_some()
    }

    /// The node that vouches, or that the quote is of; none where hardware stands for itself.
    pub fn node(&self) -> Option<&str> {
        let statement = self.process.as_ref().map(|process| process.statement().node.as_str());
        statement.or_else(|| self.tpm2.as_ref().map(|quote| quote.claims().node.as_str()))
    }

    /// The ends of all that the documents rest on; never without one, as there never is no document.
    pub fn ends(&self) -> Ends {
        let node =
            self.process.as_ref().map(|process| Ends::of("enrolment of the node", process.node_not_after()));
        let others = [
            self.tpm2.as_ref().map(VerifiedTpm2::ends),
            self.nitro.as_ref().map(VerifiedNitro::ends),
            self.sev_snp.as_ref().map(VerifiedSevSnp::ends),
            self.tdx.as_ref().map(VerifiedTdx::ends),
        ];
        let all = node.into_iter().chain(others.into_iter().flatten().cloned());
        all.reduce(Ends::and_all).unwrap_or_else(|| Ends::of("no document", WallTime(0)))
    }

    /// The subject that a refusal is held against, 32 bytes: the one document's own, or a hash over those of all.
    pub fn subject(&self) -> [u8; 32] {
        let subjects = [
            (process::FORMAT, self.process.as_ref().map(|process| process.statement().subject())),
            (tpm2::FORMAT, self.tpm2.as_ref().map(VerifiedTpm2::subject)),
            (nitro::FORMAT, self.nitro.as_ref().map(VerifiedNitro::subject)),
            (sev_snp::FORMAT, self.sev_snp.as_ref().map(VerifiedSevSnp::subject)),
            (tdx::FORMAT, self.tdx.as_ref().map(VerifiedTdx::subject)),
        ];
        let there: Vec<(&str, [u8; 32])> =
            subjects.into_iter().filter_map(|(format, subject)| Some((format, subject?))).collect();
        if let [(_, only)] = there.as_slice() {
            return *only;
        }
        let mut text = b"portcullis composite subject".to_vec();
        for (format, subject) in there {
            // No name of a format is the beginning of another's name and a subject.
            text.extend_from_slice(format.as_bytes());
            text.push(0);
            text.extend_from_slice(&subject);
        }
        process::sha256(&text)
    }

    /// The claims of each format, as the record keeps them.
    pub fn claims_json(&self) -> Result<BTreeMap<String, Value>, serde_json::Error> {
        let mut claims = BTreeMap::new();
        if let Some(process) = &self.process {
            claims.insert(process::FORMAT.to_owned(), process.statement().claims_json());
        }
        if let Some(quote) = &self.tpm2 {
            claims.insert(tpm2::FORMAT.to_owned(), serde_json::to_value(quote.claims())?);
        }
        if let Some(nitro) = &self.nitro {
            claims.insert(nitro::FORMAT.to_owned(), serde_json::to_value(nitro.claims())?);
        }
        if let Some(report) = &self.sev_snp {
            claims.insert(sev_snp::FORMAT.to_owned(), serde_json::to_value(report.claims())?);
        }
        if let Some(quote) = &self.tdx {
            claims.insert(tdx::FORMAT.to_owned(), serde_json::to_value(quote.claims())?);
        }
        Ok(claims)
    }

    /// Whether a statement and the hardware beside it are of one machine: as the node's enrolment pins it, in both directions.
    /// What is pinned must be there, and what is there must be pinned. **Denies** `EvidenceNodeMismatch`.
    ///
    /// A quote that stands alone is its node's word, too: the node vouches for whom its enrolment says. **Denies**
    /// `EndorsementExpired`, `EndorsementNotPermitted`.
    pub(super) fn of_one_machine(&self, nodes: &Nodes, identity: &SpiffeId, now: Now) -> Result<(), Refusal> {
        let Some(statement) = &self.process else {
            let quote = self.tpm2.as_ref();
            return quote.map_or(Ok(()), |quote| vouches(nodes, &quote.claims().node, identity, now));
        };
        let name = &statement.statement().node;
        let node = nodes.by_name(name);
        let node = node.ok_or_else(|| mismatch(format!("node `{name}` is not enrolled any more")))?;
        if self.tpm2.as_ref().is_some_and(|quote| quote.claims().node != *name) {
            return Err(mismatch(format!("the quote is of another node than `{name}`")));
        }
        let measured = [
            (nitro::FORMAT, self.nitro.as_ref().and_then(|one| one.claims().pcr(0).map(str::to_owned))),
            (sev_snp::FORMAT, self.sev_snp.as_ref().map(|one| one.claims().measurement.clone())),
            (tdx::FORMAT, self.tdx.as_ref().map(|one| one.claims().mrtd.clone())),
        ];
        measured.iter().try_for_each(|(format, measured)| pinned(node, format, measured.as_deref()))?;
        match node.measurements.contains_key(tpm2::FORMAT) && self.tpm2.is_none() {
            true => Err(mismatch(format!("node `{name}` is enrolled to come with a `tpm2` document"))),
            false => Ok(()),
        }
    }
}

fn vouches(nodes: &Nodes, name: &str, identity: &SpiffeId, now: Now) -> Result<(), Refusal> {
    match nodes.by_name(name) {
        Some(node) if now.wall >= node.not_after => Err(Refusal::new(
            Denial::EndorsementExpired,
            format!("the enrolment of node `{name}` ended at {}", node.not_after),
        )),
        Some(node) if node.may_vouch_for.iter().any(|pattern| pattern.matches(identity)) => Ok(()),
        Some(_) | None => Err(Refusal::new(
            Denial::EndorsementNotPermitted,
            format!("node `{name}` may not vouch for this identity"),
        )),
    }
}

fn pinned(node: &EnrolledNode, format: &str, measured: Option<&str>) -> Result<(), Refusal> {
    let name = &node.name;
    match (node.measurements.get(format), measured) {
        (None, None) => Ok(()),
        (Some(_), None) => {
            Err(mismatch(format!("node `{name}` is enrolled to come with a `{format}` document")))
        }
        (None, Some(_)) => {
            Err(mismatch(format!("node `{name}` is not enrolled with a measurement of format `{format}`")))
        }
        (Some(pins), Some(measured)) if pins.iter().any(|pin| pin.as_str() == measured) => Ok(()),
        (Some(_), Some(measured)) => Err(mismatch(format!(
            "node `{name}` is enrolled with another `{format}` measurement than `{measured}`"
        ))),
    }
}

fn mismatch(detail: String) -> Refusal {
    Refusal::new(Denial::EvidenceNodeMismatch, detail)
}
