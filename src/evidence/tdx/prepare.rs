//! The checks of a quote that cost nothing: whose platform it is, which collateral counts, and whether all of it is of now.
//!
//! *Takes* a [`Quote`], the attester's endorsements, [`TdxTrust`], the time. *Gives* [`Prepared`], in which no signature is
//! looked at yet. *Denies* `EvidenceMalformed`, `EvidenceBindingMismatch`, `EndorsementUntrusted`,
//! `CollateralUnavailable`, `CollateralStale`, `EndorsementExpired`, `EndorsementNotYetValid`.
//! *Source*: `evidence.md` §5, in the order of its checklist.

use super::certificate::{Certificate, RevocationList, SgxExtension};
use super::collateral::{Collateral, SignedQeIdentity, SignedTcbInfo, Tee, bounded};
use super::genuine::Age;
use super::pcs::{PckCa, Question};
use super::quote::{Quote, malformed};
use super::trust::TdxTrust;
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Ends, Refusal};
use crate::limits;
use crate::time::{Now, WallTime};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// A quote with all that its verdict will rest on.
pub(super) struct Prepared<'a> {
    pub(super) quote: &'a Quote<'a>,
    pub(super) platform: Platform,
    pub(super) root: Arc<Certificate>,
    pub(super) root_crl: Arc<RevocationList>,
    pub(super) pck_crl: Arc<RevocationList>,
    pub(super) tcb_info: Arc<SignedTcbInfo>,
    pub(super) qe_identity: Arc<SignedQeIdentity>,
    /// Until when each of them holds.
    pub(super) ends: Ends,
    /// Now, or within the allowance after it the time at which the last of them begins.
    pub(super) time: WallTime,
}

/// The platform that a quote says it is of, by its PCK certificate; nothing of it is verified.
#[derive(Clone, Debug)]
pub struct Platform {
    pub(super) pck: Certificate,
    pub(super) pck_ca: Certificate,
    root: CertificateDer<'static>,
    pub(super) sgx: SgxExtension,
    pub(super) ca: PckCa,
    tee: Tee,
}

impl Platform {
    /// Which product it is; Intel's TCB infos are by this.
    pub fn fmspc(&self) -> [u8; 6] {
        self.sgx.fmspc
    }

    /// Which CA issued its certificate, and so which revocation list is needed.
    pub fn ca(&self) -> PckCa {
        self.ca
    }

    fn is_of(&self, root: &Certificate) -> bool {
        self.pck_ca.is_by(root) && self.pck.is_by(&self.pck_ca)
    }

    /// What to ask a PCS or PCCS for.
    pub fn questions(&self) -> [Question; 4] {
        Question::of(self.tee, self.fmspc(), self.ca)
    }
}

/// What a client has to fetch before this quote can be verified at `now`: the parts of its collateral that neither came
/// along nor are at hand, current. None for a platform that no pinned root issued, as whoever likes may make one up, and for
/// endorsements that do not read: such a quote is refused whatever is fetched.
pub fn needed<E: AsRef<[u8]>>(
    quote: &Quote<'_>,
    endorsements: &[E],
    trust: &TdxTrust,
    now: Now,
) -> Vec<Question> {
    let (Ok(platform), Ok(brought)) = (platform(quote), read_endorsements(endorsements)) else {
        return Vec::new();
    };
    let [_, _, root] = &quote.pck_chain;
    let Some(root) = trust.root(root) else { return Vec::new() };
    let at_hand = AtHand { own: &trust.collateral, brought: &brought, trust };
    let lacks = |question: &Question| match question {
        Question::TcbInfo { .. } => at_hand.tcb_info(&platform, now).is_err(),
        Question::QeIdentity { .. } => at_hand.qe_identity(&platform, now).is_err(),
        Question::PckCrl { .. } => at_hand.pck_crl(&platform, now).is_err(),
        Question::RootCrl => at_hand.root_crl(&root.certificate, now).is_err(),
    };
    let lacking: Vec<Question> = platform.questions().into_iter().filter(lacks).collect();
    // Two signatures, looked at only where something would be asked.
    if lacking.is_empty() || platform.is_of(&root.certificate) { lacking } else { Vec::new() }
}

/// Whether a pinned root issued the quote's platform; two signatures.
pub fn is_issued(quote: &Quote<'_>, trust: &TdxTrust) -> bool {
    let [_, _, root] = &quote.pck_chain;
    let (Some(root), Ok(platform)) = (trust.root(root), platform(quote)) else { return false };
    platform.is_of(&root.certificate)
}

/// The platform of a quote. **Denies** `EvidenceMalformed`.
pub fn platform(quote: &Quote<'_>) -> Result<Platform, Refusal> {
    let [pck, pck_ca, root] = &quote.pck_chain;
    let read = |name: &str, der: &CertificateDer<'static>| {
        Certificate::read(der).ok_or_else(|| malformed(format!("the {name} is no X.509 certificate")))
    };
    let pck = read("PCK certificate", pck)?;
    let ca = PckCa::of(&pck);
    Ok(Platform {
        sgx: pck.sgx.ok_or_else(|| malformed("the PCK certificate has no readable SGX extension"))?,
        ca: ca.ok_or_else(|| malformed("the PCK certificate is not of a PCK CA"))?,
        pck_ca: read("PCK CA's certificate", pck_ca)?,
        root: root.clone(),
        tee: if quote.is_tdx() { Tee::Tdx } else { Tee::Sgx },
        pck,
    })
}

/// Makes a quote ready for its signatures.
pub(super) fn prepare<'a, E: AsRef<[u8]>>(
    quote: &'a Quote<'a>,
    endorsements: &[E],
    due: Option<&[u8; limits::BINDING_BYTES]>,
    trust: &TdxTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<Prepared<'a>, Refusal> {
    if let Some(due) = due {
        checks.note("binding", check_binding(quote, due))?;
    }
    let platform = checks.note("pck-certificate", platform(quote))?;
    let root = checks.note("root", pinned_root(&platform, trust))?;
    let brought = checks.note("endorsements", read_endorsements(endorsements))?;
    let at_hand = AtHand { own: &trust.collateral, brought: &brought, trust };
    // Before the lists: collateral of another platform is refused, where a missing list leaves it undecided.
    let tcb_info = checks.note("tcb-info", at_hand.tcb_info(&platform, now))?;
    let qe_identity = checks.note("qe-identity", at_hand.qe_identity(&platform, now))?;
    let root_crl = checks.note("root-ca-crl", at_hand.root_crl(&root, now))?;
    let pck_crl = checks.note("pck-crl", at_hand.pck_crl(&platform, now))?;
    let ends = Ends::of("root CA CRL", root_crl.ends);
    let mut prepared =
        Prepared { quote, platform, root, root_crl, pck_crl, tcb_info, qe_identity, ends, time: now.wall };
    checks.note("certificates", prepared.check_certificates(now))?;
    prepared.gather_ends();
    checks.note("start-of-validity", prepared.check_time())?;
    Ok(prepared)
}

/// All 64 bytes, in constant time; a binding of zeros is nobody's.
fn check_binding(quote: &Quote<'_>, due: &[u8; limits::BINDING_BYTES]) -> Result<(), Refusal> {
    let zero = due.ct_eq(&[0; limits::BINDING_BYTES]);
    let equal = quote.carried_binding().ct_eq(due);
    if !bool::from(equal & !zero) {
        return Err(Refusal::new(
            Denial::EvidenceBindingMismatch,
            "REPORTDATA is not the binding that is due",
        ));
    }
    Ok(())
}

fn pinned_root(platform: &Platform, trust: &TdxTrust) -> Result<Arc<Certificate>, Refusal> {
    let root = trust.root(&platform.root).map(|root| root.certificate.clone());
    root.ok_or_else(|| untrusted("the PCK chain does not end in a pinned root"))
}

fn read_endorsements<E: AsRef<[u8]>>(endorsements: &[E]) -> Result<Collateral, Refusal> {
    if endorsements.len() > limits::DCAP_ENDORSEMENTS {
        let detail = format!("{} endorsements, more than {}", endorsements.len(), limits::DCAP_ENDORSEMENTS);
        return Err(malformed(detail));
    }
    let mut all = Collateral::new();
    for endorsement in endorsements {
        let read = Collateral::parse(endorsement.as_ref());
        let read = read.map_err(|error| malformed(format!("an endorsement is no collateral: {error}")))?;
        all.tcb_infos.extend(read.tcb_infos);
        all.qe_identities.extend(read.qe_identities);
        all.lists.extend(read.lists);
    }
    Ok(all)
}

/// The collateral from both sides.
struct AtHand<'a> {
    own: &'a Collateral,
    brought: &'a Collateral,
    trust: &'a TdxTrust,
}

impl AtHand<'_> {
    fn root_crl(&self, root: &Certificate, now: Now) -> Result<Arc<RevocationList>, Refusal> {
        self.list("root CA CRL", Question::RootCrl, &root.subject, now)
    }

    fn pck_crl(&self, platform: &Platform, now: Now) -> Result<Arc<RevocationList>, Refusal> {
        self.list("PCK CRL", Question::PckCrl { ca: platform.ca }, &platform.pck.issuer, now)
    }

    fn list(
        &self,
        name: &str,
        question: Question,
        issuer: &[u8],
        now: Now,
    ) -> Result<Arc<RevocationList>, Refusal> {
        let all = self.brought.lists.iter().chain(&self.own.lists);
        let latest = all.filter(|list| list.issuer == issuer).max_by_key(|list| (list.issued, list.ends));
        let list = latest.ok_or_else(|| unavailable(name))?;
        self.check_age(name, question, list.age())?;
        check_dates(name, list.issued, list.ends, now)?;
        Ok(list.clone())
    }

    fn tcb_info(&self, platform: &Platform, now: Now) -> Result<Arc<SignedTcbInfo>, Refusal> {
        const NAME: &str = "TCB info";
        let (tee, fmspc) = (platform.tee, platform.fmspc());
        let all = self.brought.tcb_infos.iter().chain(&self.own.tcb_infos);
        let of_platform = |part: &&Arc<SignedTcbInfo>| part.info.id == tee.name() && part.fmspc == fmspc;
        let Some(part) = all.filter(of_platform).max_by_key(|part| part.rank()) else {
            return Err(match self.brought.tcb_infos.first() {
                Some(other) => untrusted(format!(
                    "the TCB info is of {} {}, the platform is {} {}",
                    bounded(&other.info.id),
                    hex::encode(other.fmspc),
                    tee.name(),
                    hex::encode(fmspc)
                )),
                None => unavailable(&format!("{NAME} for {} {}", tee.name(), hex::encode(fmspc))),
            });
        };
        if part.pce_id != platform.sgx.pce_id {
            return Err(untrusted("the TCB info is of another PCE"));
        }
        let lowest = match tee {
            Tee::Sgx => 2,
            Tee::Tdx => 3,
        };
        if part.info.version < lowest || part.info.tcb_type != 0 {
            return Err(untrusted("the TCB info is of a version or type that is not known"));
        }
        self.check_number(NAME, part.info.tcb_evaluation_data_number)?;
        self.check_age(NAME, Question::TcbInfo { tee, fmspc }, part.age())?;
        check_dates(NAME, part.statement.issued, part.statement.ends, now)?;
        self.check_chain(NAME, &part.statement.root, platform)?;
        Ok(part.clone())
    }

    fn qe_identity(&self, platform: &Platform, now: Now) -> Result<Arc<SignedQeIdentity>, Refusal> {
        const NAME: &str = "QE identity";
        let id = platform.tee.qe_identity();
        let all = self.brought.qe_identities.iter().chain(&self.own.qe_identities);
        let Some(part) = all.filter(|part| part.identity.id == id).max_by_key(|part| part.rank()) else {
            return Err(match self.brought.qe_identities.first() {
                Some(other) => {
                    untrusted(format!("the QE identity is of {}, not {id}", bounded(&other.identity.id)))
                }
                None => unavailable(&format!("{NAME} {id}")),
            });
        };
        self.check_number(NAME, part.identity.tcb_evaluation_data_number)?;
        self.check_age(NAME, Question::QeIdentity { tee: platform.tee }, part.age())?;
        check_dates(NAME, part.statement.issued, part.statement.ends, now)?;
        self.check_chain(NAME, &part.statement.root, platform)?;
        Ok(part.clone())
    }

    fn check_number(&self, name: &str, number: u32) -> Result<(), Refusal> {
        let minimum = self.trust.minimum_evaluation_data_number;
        if number < minimum {
            let detail = format!("{name} has evaluation data number {number}, the minimum is {minimum}");
            return Err(Refusal::new(Denial::CollateralStale, detail));
        }
        Ok(())
    }

    /// Not older than what was ever seen: an attester would else choose what Intel says of it.
    fn check_age(&self, name: &str, question: Question, age: Age) -> Result<(), Refusal> {
        match self.trust.oldest.get(&question) {
            Some(None) => {
                let detail = format!("how new the {name} must be is not known: the marks are not available");
                Err(Refusal::new(Denial::CollateralUnavailable, detail))
            }
            Some(Some(oldest)) if age < *oldest => {
                let detail = format!("the {name} is of {}, and a newer one was seen", age.issued);
                Err(Refusal::new(Denial::CollateralStale, detail))
            }
            Some(Some(_)) | None => Ok(()),
        }
    }

    /// The chain of what Intel signed ends in the root that the platform's own chain ends in.
    fn check_chain(&self, name: &str, root: &CertificateDer<'_>, platform: &Platform) -> Result<(), Refusal> {
        if *root != platform.root {
            return Err(untrusted(format!("the issuer chain of the {name} does not end in the pinned root")));
        }
        Ok(())
    }
}

/// Collateral's own window; its end is exclusive, where dcap-qvl lets TCB info and QE identity pass at their nextUpdate.
fn check_dates(name: &str, issued: WallTime, ends: WallTime, now: Now) -> Result<(), Refusal> {
    if now.wall >= ends {
        return Err(Refusal::new(Denial::CollateralStale, format!("{name} ended at {ends}")));
    }
    check_begun(name, issued, now)
}

fn check_begun(name: &str, begins: WallTime, now: Now) -> Result<(), Refusal> {
    if begins > now.wall.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000)) {
        return Err(Refusal::new(Denial::EndorsementNotYetValid, format!("{name} begins at {begins}")));
    }
    Ok(())
}

impl Prepared<'_> {
    /// Every certificate that the verdict rests on, by name.
    fn certificates(&self) -> [(&'static str, &Certificate); 5] {
        [
            ("PCK certificate", &self.platform.pck),
            ("PCK CA certificate", &self.platform.pck_ca),
            ("TCB signing certificate", &self.tcb_info.statement.signer),
            ("QE identity signing certificate", &self.qe_identity.statement.signer),
            ("root CA certificate", &self.root),
        ]
    }

    fn check_certificates(&self, now: Now) -> Result<(), Refusal> {
        for (name, certificate) in self.certificates() {
            if now.wall >= certificate.ends {
                let detail = format!("{name} ended at {}", certificate.ends);
                return Err(Refusal::new(Denial::EndorsementExpired, detail));
            }
            check_begun(name, certificate.begins, now)?;
        }
        Ok(())
    }

    fn gather_ends(&mut self) {
        let mut ends = self
            .ends
            .clone()
            .and("PCK CRL", self.pck_crl.ends)
            .and("TCB info", self.tcb_info.statement.ends)
            .and("QE identity", self.qe_identity.statement.ends);
        let mut begins = vec![
            self.time,
            self.root_crl.issued,
            self.pck_crl.issued,
            self.tcb_info.statement.issued,
            self.qe_identity.statement.issued,
        ];
        for (name, certificate) in self.certificates() {
            ends = ends.and(name, certificate.ends);
            begins.push(certificate.begins);
        }
        self.time = begins.into_iter().max().unwrap_or(self.time);
        self.ends = ends;
    }

    /// dcap-qvl knows no allowance, so it is asked at the time at which everything has begun; nothing may have ended then.
    fn check_time(&self) -> Result<(), Refusal> {
        let at = Now { wall: self.time, boot: crate::time::BootTime(0) };
        self.ends.check(at, Denial::CollateralStale)
    }
}

pub(super) fn untrusted(detail: impl Into<String>) -> Refusal {
    Refusal::new(Denial::EndorsementUntrusted, detail)
}

fn unavailable(what: &str) -> Refusal {
    Refusal::new(Denial::CollateralUnavailable, format!("there is no {what}"))
}
