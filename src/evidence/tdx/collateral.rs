//! Collateral: what Intel says of platforms and quoting enclaves, signed and dated, from whoever brings it.
//!
//! *Takes* JSON as `dcap-qvl` writes it, whole or in parts. *Gives* [`Collateral`]. *Denies* nothing itself: what counts is
//! chosen here, and verified by `verify`. *Source*: Intel PCS API version 4; `evidence.md` §5; RFC 5280 §5.

use super::certificate::{Certificate, RevocationList};
use super::pem;
use crate::limits;
use crate::time::WallTime;
use dcap_qvl::{QeIdentity, TcbInfo};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Parts of collateral, each by itself: TCB infos, QE identities, revocation lists. An attester's is as good as one's own,
/// since Intel signed it; of two for one thing the one of the higher evaluation data number counts, then the later issued.
#[derive(Clone, Debug, Default)]
pub struct Collateral {
    pub(super) tcb_infos: Vec<Arc<SignedTcbInfo>>,
    pub(super) qe_identities: Vec<Arc<SignedQeIdentity>>,
    pub(super) lists: Vec<Arc<RevocationList>>,
}

/// What a part of collateral is about, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Such as `TCB info TDX 90c06f000000`.
    pub what: String,
    /// issueDate or thisUpdate.
    pub issued: WallTime,
    /// nextUpdate, exclusive.
    pub ends: WallTime,
    /// tcbEvaluationDataNumber; none for a revocation list.
    pub evaluation_data_number: Option<u32>,
}

/// Why something is no collateral.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollateralError {
    /// Larger than is read.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// Not JSON of that form; serde's words.
    #[error("not collateral: {0}")]
    Json(String),
    /// A part without its signature or its issuer chain, or nothing at all.
    #[error("`{0}` is incomplete or absent")]
    Incomplete(&'static str),
    /// A part that does not read: not hex, not DER, not a time.
    #[error("`{0}` is malformed")]
    Malformed(&'static str),
}

/// Which statements about an enclave or a TD apply: Intel keeps both apart by `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tee {
    /// SGX enclaves.
    Sgx,
    /// Trust domains.
    Tdx,
}

impl Tee {
    /// TCB info's `id`.
    pub fn name(self) -> &'static str {
        match self {
            Tee::Sgx => "SGX",
            Tee::Tdx => "TDX",
        }
    }

    /// By TCB info's `id`.
    pub(super) fn of_name(name: &str) -> Option<Tee> {
        [Tee::Sgx, Tee::Tdx].into_iter().find(|tee| tee.name() == name)
    }

    /// By the `id` of a QE identity.
    pub(super) fn of_qe_identity(id: &str) -> Option<Tee> {
        [Tee::Sgx, Tee::Tdx].into_iter().find(|tee| tee.qe_identity() == id)
    }

    pub(super) fn qe_identity(self) -> &'static str {
        match self {
            Tee::Sgx => "QE",
            Tee::Tdx => "TD_QE",
        }
    }
}

/// The serialised form: `dcap-qvl`'s `QuoteCollateralV3`, of which every part may be absent as long as none is half there.
/// `pck_certificate_chain` is read and not used: the chain is the quote's own.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pck_crl_issuer_chain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_ca_crl: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pck_crl: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcb_info_issuer_chain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcb_info: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcb_info_signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qe_identity_issuer_chain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qe_identity: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qe_identity_signature: Option<String>,
    #[serde(default, skip_serializing)]
    #[expect(
        dead_code,
        reason = "named so that dcap-qvl's files read; the chain that counts is the quote's own"
    )]
    pck_certificate_chain: Option<String>,
}

/// What Intel signed, as received, and who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// The exact text that is signed.
    pub(super) text: String,
    /// ECDSA P-256, r ‖ s.
    pub(super) signature: Vec<u8>,
    /// The issuer chain as received.
    pub(super) chain: String,
    pub(super) signer: Certificate,
    /// The chain's root; that it is a pinned one is for the verifier to see.
    pub(super) root: CertificateDer<'static>,
    /// issueDate.
    pub(super) issued: WallTime,
    /// nextUpdate, exclusive.
    pub(super) ends: WallTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedTcbInfo {
    pub(super) statement: Statement,
    pub(super) fmspc: [u8; 6],
    pub(super) pce_id: [u8; 2],
    pub(super) info: TcbInfoHead,
}

/// What of a TCB info tells whose it is and how new; its levels `dcap-qvl` reads when it verifies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TcbInfoHead {
    pub(super) id: String,
    pub(super) version: u8,
    issue_date: String,
    next_update: String,
    fmspc: String,
    pce_id: String,
    pub(super) tcb_type: u32,
    pub(super) tcb_evaluation_data_number: u32,
}

/// The same of a QE identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QeIdentityHead {
    pub(super) id: String,
    issue_date: String,
    next_update: String,
    pub(super) tcb_evaluation_data_number: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedQeIdentity {
    pub(super) statement: Statement,
    pub(super) identity: QeIdentityHead,
}

impl Collateral {
    /// None.
    pub fn new() -> Self {
        Collateral::default()
    }

    /// Reads one endorsement, file or stored part. Nothing of it is verified.
    pub fn parse(json: &[u8]) -> Result<Collateral, CollateralError> {
        if json.len() > limits::DCAP_COLLATERAL_BYTES {
            return Err(CollateralError::TooLarge(limits::DCAP_COLLATERAL_BYTES));
        }
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(CollateralError::Json("not an object".to_owned()));
        }
        let written: Written =
            serde_json::from_slice(json).map_err(|error| CollateralError::Json(error.to_string()))?;
        let mut collateral = Collateral::new();
        let [tcb_info, qe_identity] = [
            ("tcb_info", [written.tcb_info, written.tcb_info_signature, written.tcb_info_issuer_chain]),
            (
                "qe_identity",
                [written.qe_identity, written.qe_identity_signature, written.qe_identity_issuer_chain],
            ),
        ]
        .map(|(name, parts)| statement_parts(name, parts));
        if let Some((text, signature, chain)) = tcb_info? {
            collateral.tcb_infos.push(Arc::new(tcb_info_of(text, signature, chain)?));
        }
        let known = collateral.tcb_infos.first().map(|part| &part.statement);
        if let Some((text, signature, chain)) = qe_identity? {
            collateral.qe_identities.push(Arc::new(qe_identity_of(text, signature, chain, known)?));
        }
        for (name, list) in [("root_ca_crl", written.root_ca_crl), ("pck_crl", written.pck_crl)] {
            if let Some(list) = list {
                let der = hex::decode(list).map_err(|_| CollateralError::Malformed(name))?;
                collateral.lists.push(Arc::new(list_of(name, &der)?));
            }
        }
        let parts = (&collateral.tcb_infos, &collateral.qe_identities, &collateral.lists);
        if parts.0.is_empty() && parts.1.is_empty() && parts.2.is_empty() {
            return Err(CollateralError::Incomplete("every part"));
        }
        Ok(collateral)
    }

    /// Both, in each case the part that counts.
    pub fn merged(self, other: Collateral) -> Collateral {
        let mut merged = Collateral::new();
        for part in self.tcb_infos.into_iter().chain(other.tcb_infos) {
            let same = |kept: &Arc<SignedTcbInfo>| {
                kept.info.id == part.info.id && kept.fmspc == part.fmspc && kept.pce_id == part.pce_id
            };
            keep(&mut merged.tcb_infos, part.clone(), same, |part| part.rank());
        }
        for part in self.qe_identities.into_iter().chain(other.qe_identities) {
            let same = |kept: &Arc<SignedQeIdentity>| kept.identity.id == part.identity.id;
            keep(&mut merged.qe_identities, part.clone(), same, |part| part.rank());
        }
        for part in self.lists.into_iter().chain(other.lists) {
            let same = |kept: &Arc<RevocationList>| kept.issuer == part.issuer;
            keep(&mut merged.lists, part.clone(), same, |part| (0, part.issued, part.ends));
        }
        merged
    }

    /// Its parts, for an operator.
    pub fn parts(&self) -> Vec<Part> {
        let tcb_infos = self.tcb_infos.iter().map(|part| Part {
            what: format!("TCB info {} {}", bounded(&part.info.id), hex::encode(part.fmspc)),
            issued: part.statement.issued,
            ends: part.statement.ends,
            evaluation_data_number: Some(part.info.tcb_evaluation_data_number),
        });
        let qe_identities = self.qe_identities.iter().map(|part| Part {
            what: format!("QE identity {}", bounded(&part.identity.id)),
            issued: part.statement.issued,
            ends: part.statement.ends,
            evaluation_data_number: Some(part.identity.tcb_evaluation_data_number),
        });
        let lists = self.lists.iter().map(|list| Part {
            what: format!("revocation list of {}", bounded(&list.issuer_common_name)),
            issued: list.issued,
            ends: list.ends,
            evaluation_data_number: None,
        });
        tcb_infos.chain(qe_identities).chain(lists).collect()
    }

    /// Each part as JSON that [`Collateral::parse`] reads, in the order of [`Collateral::parts`].
    pub fn to_json(&self) -> Vec<String> {
        let tcb_infos = self.tcb_infos.iter().map(|part| Written {
            tcb_info: Some(part.statement.text.clone()),
            tcb_info_signature: Some(hex::encode(&part.statement.signature)),
            tcb_info_issuer_chain: Some(part.statement.chain.clone()),
            ..Written::default()
        });
        let qe_identities = self.qe_identities.iter().map(|part| Written {
            qe_identity: Some(part.statement.text.clone()),
            qe_identity_signature: Some(hex::encode(&part.statement.signature)),
            qe_identity_issuer_chain: Some(part.statement.chain.clone()),
            ..Written::default()
        });
        // By its issuer a list belongs where it belongs, whichever of the two names it stands under.
        let lists = self
            .lists
            .iter()
            .map(|list| Written { pck_crl: Some(hex::encode(&list.der)), ..Written::default() });
        let all = tcb_infos.chain(qe_identities).chain(lists);
        all.filter_map(|written| serde_json::to_string(&written).ok()).collect()
    }

    pub(super) fn of_tcb_info(
        text: String,
        signature: &str,
        chain: String,
    ) -> Result<Collateral, CollateralError> {
        let part = tcb_info_of(text, signature.to_owned(), chain)?;
        Ok(Collateral { tcb_infos: vec![Arc::new(part)], ..Collateral::new() })
    }

    pub(super) fn of_qe_identity(
        text: String,
        signature: &str,
        chain: String,
    ) -> Result<Collateral, CollateralError> {
        let part = qe_identity_of(text, signature.to_owned(), chain, None)?;
        Ok(Collateral { qe_identities: vec![Arc::new(part)], ..Collateral::new() })
    }

    pub(super) fn of_list(name: &'static str, der: &[u8]) -> Result<Collateral, CollateralError> {
        Ok(Collateral { lists: vec![Arc::new(list_of(name, der)?)], ..Collateral::new() })
    }
}

/// What decides between two parts for one thing: the higher evaluation data number, so that nobody goes back behind a TCB
/// recovery by fetching the old set anew; then the later issued.
pub(super) type Rank = (u32, WallTime, WallTime);

impl SignedTcbInfo {
    /// All of it.
    pub(super) fn whole(&self) -> Result<TcbInfo, CollateralError> {
        of_json(&self.statement.text)
    }

    pub(super) fn rank(&self) -> Rank {
        (self.info.tcb_evaluation_data_number, self.statement.issued, self.statement.ends)
    }
}

impl SignedQeIdentity {
    /// All of it.
    pub(super) fn whole(&self) -> Result<QeIdentity, CollateralError> {
        of_json(&self.statement.text)
    }

    pub(super) fn rank(&self) -> Rank {
        (self.identity.tcb_evaluation_data_number, self.statement.issued, self.statement.ends)
    }
}

fn keep<T>(kept: &mut Vec<Arc<T>>, part: Arc<T>, same: impl Fn(&Arc<T>) -> bool, rank: impl Fn(&T) -> Rank) {
    match kept.iter_mut().find(|kept| same(kept)) {
        Some(kept) if rank(kept) >= rank(&part) => {}
        Some(kept) => *kept = part,
        None => kept.push(part),
    }
}

fn of_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, CollateralError> {
    serde_json::from_str(text).map_err(|error| CollateralError::Json(error.to_string()))
}

type StatementParts = Option<(String, String, String)>;

fn statement_parts(
    name: &'static str,
    parts: [Option<String>; 3],
) -> Result<StatementParts, CollateralError> {
    match parts {
        [None, None, None] => Ok(None),
        [Some(text), Some(signature), Some(chain)] => Ok(Some((text, signature, chain))),
        _ => Err(CollateralError::Incomplete(name)),
    }
}

fn tcb_info_of(text: String, signature: String, chain: String) -> Result<SignedTcbInfo, CollateralError> {
    const NAME: &str = "tcb_info";
    let info: TcbInfoHead = of_json(&text)?;
    let malformed = CollateralError::Malformed(NAME);
    Ok(SignedTcbInfo {
        fmspc: fixed(&info.fmspc).ok_or_else(|| malformed.clone())?,
        pce_id: fixed(&info.pce_id).ok_or(malformed)?,
        statement: statement(NAME, text, &signature, chain, None, [&info.issue_date, &info.next_update])?,
        info,
    })
}

fn qe_identity_of(
    text: String,
    signature: String,
    chain: String,
    known: Option<&Statement>,
) -> Result<SignedQeIdentity, CollateralError> {
    const NAME: &str = "qe_identity";
    let identity: QeIdentityHead = of_json(&text)?;
    let dates = [&identity.issue_date, &identity.next_update];
    Ok(SignedQeIdentity { statement: statement(NAME, text, &signature, chain, known, dates)?, identity })
}

fn statement(
    name: &'static str,
    text: String,
    signature: &str,
    chain: String,
    known: Option<&Statement>,
    [issued, ends]: [&String; 2],
) -> Result<Statement, CollateralError> {
    let malformed = || CollateralError::Malformed(name);
    let signature = fixed::<64>(signature).ok_or_else(malformed)?.to_vec();
    // Intel signs TCB info and QE identity with one key: the same chain, to the letter, is read once.
    let (signer, root) = match known.filter(|known| known.chain == chain) {
        Some(known) => (known.signer.clone(), known.root.clone()),
        None => {
            let certificates = pem::read(chain.as_bytes()).ok_or_else(malformed)?;
            let [signer, root] = certificates.try_into().map_err(|_| malformed())?;
            (Certificate::read(&signer).ok_or_else(malformed)?, root)
        }
    };
    Ok(Statement {
        signer,
        issued: time(issued).ok_or_else(malformed)?,
        ends: time(ends).ok_or_else(malformed)?,
        text,
        signature,
        chain,
        root,
    })
}

fn list_of(name: &'static str, der: &[u8]) -> Result<RevocationList, CollateralError> {
    RevocationList::read(der).ok_or(CollateralError::Malformed(name))
}

fn fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    hex::decode(text).ok()?.try_into().ok()
}

/// A time as Intel writes it: `2025-06-19T10:16:03Z`, to the letter.
fn time(text: &str) -> Option<WallTime> {
    let bytes: &[u8; 20] = text.as_bytes().try_into().ok()?;
    let [y @ .., b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', i1, i2, b':', s1, s2, b'Z'] = bytes else {
        return None;
    };
    let year = number(y)?;
    let [month, day, hour, minute, second] =
        [[m1, m2], [d1, d2], [h1, h2], [i1, i2], [s1, s2]].map(|pair| number(&pair.map(|digit| *digit)));
    let small = |number: Option<u32>| u8::try_from(number?).ok();
    let month = time::Month::try_from(small(month)?).ok()?;
    let date = time::Date::from_calendar_date(i32::try_from(year).ok()?, month, small(day)?).ok()?;
    let moment = date.with_hms(small(hour)?, small(minute)?, small(second)?).ok()?;
    Some(WallTime::from_seconds(moment.assume_utc().unix_timestamp()))
}

fn number(digits: &[u8]) -> Option<u32> {
    let sound = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| sound)?.parse().ok()
}

/// A name of a peer's, as a line of a log or a table quotes it.
pub(super) fn bounded(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_intel_writes_them() {
        assert_eq!(time("2025-06-19T10:16:03Z"), Some(WallTime(1_750_328_163_000)));
        assert_eq!(time("1970-01-01T00:00:00Z"), Some(WallTime(0)));
        for text in [
            "",
            "2025-06-19T10:16:03",
            "2025-06-19t10:16:03Z",
            "2025-06-19T10:16:03.0Z",
            "2025-06-19T10:16:03+00:00",
            "2025-02-29T10:16:03Z",
            "2025-13-19T10:16:03Z",
            "2025-06-19T24:16:03Z",
            "+025-06-19T10:16:03Z",
            "2025-06-19T10:16:6 Z",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_half_there_or_unknown_is_refused() {
        let error = |json: &str| Collateral::parse(json.as_bytes()).unwrap_err();
        assert_eq!(error("{}"), CollateralError::Incomplete("every part"));
        assert_eq!(error(r#"{"tcb_info": "{}"}"#), CollateralError::Incomplete("tcb_info"));
        assert_eq!(error(r#"{"qe_identity_signature": ""}"#), CollateralError::Incomplete("qe_identity"));
        assert_eq!(error(r#"{"root_ca_crl": ""}"#), CollateralError::Malformed("root_ca_crl"));
        assert_eq!(error(r#"{"pck_crl": "3g"}"#), CollateralError::Malformed("pck_crl"));
        for json in ["", "[]", "null", r#"{"other": 1}"#, r#"{"pck_crl": "30", "pck_crl": "30"}"#, "{} {}"] {
            assert!(matches!(error(json), CollateralError::Json(_)), "{json}");
        }
        let large = vec![b' '; limits::DCAP_COLLATERAL_BYTES + 1];
        assert!(matches!(Collateral::parse(&large), Err(CollateralError::TooLarge(_))));
        let nested = "[".repeat(limits::DCAP_COLLATERAL_BYTES - 100);
        assert!(matches!(error(&nested), CollateralError::Json(_)));
    }
}
