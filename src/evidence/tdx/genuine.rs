//! Collateral that Intel signed, for whoever keeps it: what did not come from Intel must not take a genuine part's place.
//!
//! *Takes* [`Collateral`] from a service, a file or a disk, the pinned roots. *Gives* [`GenuinePart`]s. *Denies*
//! `EndorsementUntrusted`, `EndorsementNotYetValid`. *Source*: `evidence.md` §1 "root supplied with the evidence"; RFC 5280
//! §5. A verdict does not rest on this: `verify` looks at everything again, with its dates and its revocation.

use super::backend;
use super::certificate::{Certificate, RevocationList};
use super::collateral::{
    Collateral, CollateralError, Part, SignedQeIdentity, SignedTcbInfo, Statement, Tee, Written,
};
use super::pcs::{PckCa, Question, ROOT_CA, issuer_chain};
use super::pem;
use super::prepare::untrusted;
use super::trust::TdxTrust;
use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::limits;
use crate::time::{Now, WallTime};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// One part of collateral, signed under a pinned root.
#[derive(Clone, Debug)]
pub struct GenuinePart {
    question: Question,
    collateral: Collateral,
    part: Part,
    ends: WallTime,
    json: String,
}

/// How new a part is; of one question they compare so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// tcbEvaluationDataNumber; 0 of a list.
    pub evaluation_data_number: u32,
    /// issueDate, or thisUpdate of a list.
    pub issued: WallTime,
}

impl GenuinePart {
    /// The question that it answers.
    pub fn question(&self) -> Question {
        self.question
    }

    /// The part, for a trust.
    pub fn collateral(&self) -> &Collateral {
        &self.collateral
    }

    /// What it is about.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// Its end, or its signer's if that comes first; exclusive.
    pub fn ends(&self) -> WallTime {
        self.ends
    }

    /// As JSON that [`TdxTrust::genuine_parts`] reads, with the issuer chain of a list.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// How new it is.
    pub fn age(&self) -> Age {
        let evaluation_data_number = self.part.evaluation_data_number.unwrap_or(0);
        Age { evaluation_data_number, issued: self.part.issued }
    }

    /// Whether it is older than `other`, which answers the same question: by evaluation data number, then by date.
    pub fn is_older_than(&self, other: &GenuinePart) -> bool {
        let rank = |part: &Part| (part.evaluation_data_number, part.issued, part.ends);
        rank(&self.part) < rank(&other.part)
    }
}

/// What an endorsement's parts say that they answer, and how new they are; nothing of it is verified. None of what does not
/// read.
pub fn claimed_ages(endorsement: &[u8]) -> Vec<(Question, Age)> {
    let Ok(collateral) = Collateral::parse(endorsement) else { return Vec::new() };
    let infos = collateral.tcb_infos.iter().filter_map(|info| {
        let tee = Tee::of_name(&info.info.id)?;
        Some((Question::TcbInfo { tee, fmspc: info.fmspc }, info.age()))
    });
    let identities = collateral.qe_identities.iter().filter_map(|identity| {
        let tee = Tee::of_qe_identity(&identity.identity.id)?;
        Some((Question::QeIdentity { tee }, identity.age()))
    });
    let lists = collateral.lists.iter().filter_map(|list| {
        let name = list.issuer_common_name.as_str();
        let root = (name == ROOT_CA).then_some(Question::RootCrl);
        let question = root.or_else(|| PckCa::of_common_name(name).map(|ca| Question::PckCrl { ca }))?;
        Some((question, list.age()))
    });
    infos.chain(identities).chain(lists).collect()
}

impl SignedTcbInfo {
    pub(super) fn age(&self) -> Age {
        let evaluation_data_number = self.info.tcb_evaluation_data_number;
        Age { evaluation_data_number, issued: self.statement.issued }
    }
}

impl SignedQeIdentity {
    pub(super) fn age(&self) -> Age {
        let evaluation_data_number = self.identity.tcb_evaluation_data_number;
        Age { evaluation_data_number, issued: self.statement.issued }
    }
}

impl RevocationList {
    pub(super) fn age(&self) -> Age {
        Age { evaluation_data_number: 0, issued: self.issued }
    }
}

impl TdxTrust {
    /// The parts of a file: collateral as [`Collateral::parse`] reads it; a PCK CA's list needs `pck_crl_issuer_chain`
    /// beside it. All must be genuine.
    pub fn genuine_parts(&self, json: &[u8], now: Now) -> Result<Vec<GenuinePart>, GenuineError> {
        let collateral = Collateral::parse(json)?;
        let written: Written =
            serde_json::from_slice(json).map_err(|error| CollateralError::Json(error.to_string()))?;
        Ok(self.check_parts(&collateral, written.pck_crl_issuer_chain.as_deref(), now)?)
    }

    /// The part of a service's answer with status 200. `chain` is the value of [`Question::chain_header`].
    pub fn genuine_answer(
        &self,
        question: &Question,
        body: &[u8],
        chain: Option<&str>,
        now: Now,
    ) -> Result<GenuinePart, GenuineError> {
        let collateral = question.accept(body, chain)?;
        let list_chain = match question {
            Question::PckCrl { .. } => Some(issuer_chain(chain)?),
            Question::TcbInfo { .. } | Question::QeIdentity { .. } | Question::RootCrl => None,
        };
        let mut parts = self.check_parts(&collateral, list_chain.as_deref(), now)?;
        match (parts.pop(), parts.pop()) {
            (Some(part), None) if part.question == *question => Ok(part),
            _ => Err(GenuineError::Collateral(CollateralError::Incomplete("the answer"))),
        }
    }

    fn check_parts(
        &self,
        collateral: &Collateral,
        list_chain: Option<&str>,
        now: Now,
    ) -> Result<Vec<GenuinePart>, Refusal> {
        let mut parts = Vec::new();
        for info in &collateral.tcb_infos {
            let tee = Tee::of_name(&info.info.id).ok_or_else(|| untrusted("a TCB info of no known kind"))?;
            info.whole().map_err(|error| untrusted(format!("a TCB info does not read: {error}")))?;
            self.check_statement("TCB info", &info.statement)?;
            let one = Collateral { tcb_infos: vec![info.clone()], ..Collateral::new() };
            let question = Question::TcbInfo { tee, fmspc: info.fmspc };
            parts.push(part(question, one, info.statement.signer.ends, None, now)?);
        }
        for identity in &collateral.qe_identities {
            let id = &identity.identity.id;
            let tee = Tee::of_qe_identity(id).ok_or_else(|| untrusted("a QE identity of no known kind"))?;
            identity.whole().map_err(|error| untrusted(format!("a QE identity does not read: {error}")))?;
            self.check_statement("QE identity", &identity.statement)?;
            let one = Collateral { qe_identities: vec![identity.clone()], ..Collateral::new() };
            let ends = identity.statement.signer.ends;
            parts.push(part(Question::QeIdentity { tee }, one, ends, None, now)?);
        }
        for list in &collateral.lists {
            let (question, ends) = self.check_list(list, list_chain)?;
            let chain = list_chain.filter(|_| question != Question::RootCrl);
            let one = Collateral { lists: vec![list.clone()], ..Collateral::new() };
            parts.push(part(question, one, ends, chain, now)?);
        }
        Ok(parts)
    }

    fn check_statement(&self, name: &str, statement: &Statement) -> Result<(), Refusal> {
        let root = self.pinned().find(|root| root.der == statement.root);
        let root = root.ok_or_else(|| untrusted(format!("the {name}'s chain ends in no pinned root")))?;
        let signed = statement.signer.is_by(root)
            && backend::verifies_raw(&statement.signer.key, statement.text.as_bytes(), &statement.signature);
        if signed { Ok(()) } else { Err(untrusted(format!("the {name} is not signed by its chain"))) }
    }

    /// Whose list it is, and its issuer's end.
    fn check_list(
        &self,
        list: &Arc<RevocationList>,
        chain: Option<&str>,
    ) -> Result<(Question, WallTime), Refusal> {
        if list.issuer_common_name == ROOT_CA {
            let root = self.pinned().find(|root| list.is_by(root));
            let root = root.ok_or_else(|| untrusted("the root's list is signed by no pinned root"))?;
            return Ok((Question::RootCrl, root.ends));
        }
        let ca = PckCa::of_common_name(&list.issuer_common_name);
        let ca = ca.ok_or_else(|| untrusted("a list of nobody whose list is needed"))?;
        let chain = chain.ok_or_else(|| untrusted("a PCK CA's list came without its issuer's chain"))?;
        let issuer = self.list_issuer(chain);
        let issuer = issuer.ok_or_else(|| untrusted("the issuer chain of a list leads to no pinned root"))?;
        if !list.is_by(&issuer) {
            return Err(untrusted("a PCK CA's list is not signed by its chain"));
        }
        Ok((Question::PckCrl { ca }, issuer.ends))
    }

    fn list_issuer(&self, chain: &str) -> Option<Certificate> {
        let [issuer, root]: [CertificateDer<'_>; 2] = pem::read(chain.as_bytes())?.try_into().ok()?;
        let root = self.pinned().find(|pinned| pinned.der == root)?;
        Certificate::read(&issuer).filter(|issuer| issuer.is_by(root))
    }
}

/// Why something is not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenuineError {
    /// It does not read.
    #[error(transparent)]
    Collateral(#[from] CollateralError),
    /// It is not Intel's, or not of now.
    #[error("{}", .0.detail)]
    Refused(Refusal),
}

impl From<Refusal> for GenuineError {
    fn from(refusal: Refusal) -> Self {
        GenuineError::Refused(refusal)
    }
}

fn part(
    question: Question,
    collateral: Collateral,
    signer_ends: WallTime,
    list_chain: Option<&str>,
    now: Now,
) -> Result<GenuinePart, Refusal> {
    let unreadable = || untrusted("a part that cannot be written");
    let part = collateral.parts().pop().ok_or_else(unreadable)?;
    if part.issued > now.wall.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000)) {
        let detail = format!("the {} begins at {}", part.what, part.issued);
        return Err(Refusal::new(Denial::EndorsementNotYetValid, detail));
    }
    let json = collateral.to_json().pop().ok_or_else(unreadable)?;
    let json = match list_chain {
        None => json,
        Some(chain) => {
            let mut written: Written = serde_json::from_str(&json).map_err(|_| unreadable())?;
            written.pck_crl_issuer_chain = Some(chain.to_owned());
            serde_json::to_string(&written).map_err(|_| unreadable())?
        }
    };
    let ends = part.ends.min(signer_ends);
    Ok(GenuinePart { question, collateral, part, ends, json })
}
