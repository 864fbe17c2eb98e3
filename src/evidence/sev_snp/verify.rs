//! Whether a report may be believed: it is of a genuine chip at the TCB that it names, unaltered, and for this challenge.
//!
//! *Takes* the body, its endorsements, [`SevSnpTrust`], the binding due, the time. *Gives* [`VerifiedSevSnp`]. *Denies*
//! each by the name of what is wrong, in the order of the checks below; whether the platform is acceptable, and the guest the
//! one that is meant, the appraisal says. *Source*: `evidence.md` §4; `protocol.md` "The evidence binding".

use super::certificate::Certificate;
use super::claims::{Established, SevSnpClaims};
use super::parse::{Report, parse};
use super::product::{Product, SigningKey, Tcb};
use super::trust::{Chain, SevSnpTrust};
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Ends, Refusal};
use crate::limits;
use crate::time::{Now, WallTime};
use aws_lc_rs::{digest, signature};
use subtle::ConstantTimeEq;

/// A report that a trusted root's key endorses, unaltered, bound to this challenge. Made by [`verify`] alone.
///
/// ```
/// use portcullis::evidence::sev_snp::{SevSnpClaims, VerifiedSevSnp};
/// fn read(verified: &VerifiedSevSnp) -> &SevSnpClaims { verified.claims() }
/// ```
/// ```compile_fail,E0451
/// use portcullis::evidence::sev_snp::{Examined, VerifiedSevSnp};
/// fn forge(examined: Examined) -> VerifiedSevSnp { VerifiedSevSnp { examined } }
/// ```
/// ```compile_fail,E0599
/// use portcullis::evidence::sev_snp::VerifiedSevSnp;
/// fn copy(verified: VerifiedSevSnp) -> (VerifiedSevSnp, VerifiedSevSnp) { (verified.clone(), verified) }
/// ```
#[must_use]
pub struct VerifiedSevSnp {
    examined: Examined,
}

/// A report that is genuine and unaltered, and may be of any time: its binding was not looked at. For inspection offline; no
/// stage takes it.
#[derive(Debug)]
#[must_use]
pub struct Examined {
    claims: SevSnpClaims,
    ends: Ends,
    carried_binding: [u8; limits::BINDING_BYTES],
}

impl VerifiedSevSnp {
    /// The claims.
    pub fn claims(&self) -> &SevSnpClaims {
        self.examined.claims()
    }

    /// The ends of all that it rests on: certificates and lists. The report itself has no time.
    pub fn ends(&self) -> &Ends {
        self.examined.ends()
    }

    /// What a refusal is held against: guest and TCB, and nothing that changes at every launch.
    pub fn subject(&self) -> [u8; 32] {
        let claims = self.claims();
        let tcbs = [claims.reported_tcb, claims.launch_tcb].map(|tcb| tcb.to_string());
        let optional = |claim: &Option<String>| claim.clone().unwrap_or_default();
        let parts = [
            "portcullis.v1 sev-snp subject".to_owned(),
            claims.product.name().to_owned(),
            claims.measurement.clone(),
            claims.host_data.clone(),
            optional(&claims.id_key_digest),
            optional(&claims.author_key_digest),
            claims.guest_svn.to_string(),
            claims.vmpl.to_string(),
            format!("{:?}", claims.policy),
            tcbs.join(" then "),
        ];
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in parts {
            hash.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut subject = [0; 32];
        subject.copy_from_slice(hash.finish().as_ref());
        subject
    }
}

impl Examined {
    /// The claims.
    pub fn claims(&self) -> &SevSnpClaims {
        &self.claims
    }

    /// The ends of all that it rests on.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// REPORT_DATA, whatever it is.
    pub fn carried_binding(&self) -> &[u8; limits::BINDING_BYTES] {
        &self.carried_binding
    }
}

impl std::fmt::Debug for VerifiedSevSnp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let claims = self.claims();
        formatter.debug_struct("VerifiedSevSnp").field("product", &claims.product).finish_non_exhaustive()
    }
}

/// Verifies a document. `due` is the binding that must stand in REPORT_DATA. `endorsements` are DER: the certificate of the
/// signing key first, then its intermediate, where the trust has none pinned; whatever follows is not needed.
pub fn verify<E: AsRef<[u8]>>(
    body: &[u8],
    endorsements: &[E],
    due: &[u8; limits::BINDING_BYTES],
    trust: &SevSnpTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<VerifiedSevSnp, Refusal> {
    let examined = examine(body, endorsements, trust, now, checks)?;
    checks.note("binding", check_binding(&examined.carried_binding, due))?;
    Ok(VerifiedSevSnp { examined })
}

/// Every check but that of the binding: what can be said of a stored report, of which no challenge is known.
pub fn examine<E: AsRef<[u8]>>(
    body: &[u8],
    endorsements: &[E],
    trust: &SevSnpTrust,
    now: Now,
    checks: &mut Checks,
) -> Result<Examined, Refusal> {
    let report = checks.note("shape", parse(body))?;
    let signing_key = checks.note("signing-key", check_signing_key(&report))?;
    let leaf = checks.note("endorsement", choose(&report, endorsements, trust))?;
    let product = checks.note("endorsement-name", check_name(&leaf, signing_key))?;
    let carried = endorsements.iter().skip(1).map(AsRef::as_ref);
    let chain = checks.note("chain", trust.chain(&leaf, carried))?;
    checks.note("validity", check_validity(&chain, now))?;
    let lists = checks.note("revocation", trust.check_revocation(&chain, now))?;
    checks.note("product", check_product(&leaf, &report, product))?;
    let reported_tcb = checks.note("endorsed-tcb", check_endorsed_tcb(&leaf, &report, product))?;
    let csp_id = checks.note("endorsed-chip", check_chip(&leaf, &report, signing_key, product))?;
    checks.note("signature", check_signature(&leaf, &report))?;
    let [committed_tcb, current_tcb, launch_tcb] =
        checks.note("tcb-order", check_tcb_order(&report, product, &reported_tcb))?;
    let established =
        Established { product, signing_key, csp_id, reported_tcb, committed_tcb, current_tcb, launch_tcb };
    Ok(Examined {
        claims: SevSnpClaims::new(&report, &established),
        ends: ends(&chain, lists),
        carried_binding: report.report_data,
    })
}

/// Whether this certificate is for the key that the report says it is signed with, at the TCB that it reports.
pub(super) fn is_for(certificate: &Certificate<'_>, report: &Report<'_>) -> bool {
    let Some(name) = certificate.name() else { return false };
    let chip = match name.signing_key {
        SigningKey::Vcek => report.chip_id == [0; 64] || is_chip(&name.chip_id, report, name.product),
        SigningKey::Vlek => true,
    };
    let tcb = Tcb::of(report.reported_tcb, name.product) == Some(name.tcb);
    report.signing_key == Some(name.signing_key) && chip && tcb
}

fn check_signing_key(report: &Report<'_>) -> Result<SigningKey, Refusal> {
    report.signing_key.ok_or_else(|| {
        Refusal::new(Denial::EvidenceSignatureInvalid, "SIGNING_KEY is none: the report is not signed")
    })
}

/// The carried certificate; the one that was handed in beforehand where none is carried, or not the right one.
fn choose<'e, E: AsRef<[u8]>>(
    report: &Report<'_>,
    endorsements: &'e [E],
    trust: &'e SevSnpTrust,
) -> Result<Certificate<'e>, Refusal> {
    let carried = endorsements.first().map(|first| Certificate::parse(first.as_ref()));
    let fits =
        carried.as_ref().is_some_and(|found| found.as_ref().is_some_and(|found| is_for(found, report)));
    let kept = if fits { None } else { trust.kept_for(report).and_then(Certificate::parse) };
    match (kept, carried) {
        (Some(kept), _) => Ok(kept),
        (None, Some(Some(carried))) => Ok(carried),
        (None, Some(None)) => Err(untrusted("the first endorsement is no certificate")),
        (None, None) => {
            Err(Refusal::new(Denial::CollateralUnavailable, "no certificate of the signing key is at hand"))
        }
    }
}

/// A VCEK is called so and comes from the product's ASK, a VLEK from its ASVK, and the report says the same.
fn check_name(certificate: &Certificate<'_>, signing_key: SigningKey) -> Result<Product, Refusal> {
    match certificate.role() {
        Some((named, product)) if named == signing_key => Ok(product),
        Some((named, _)) => {
            let detail =
                format!("the report says {}, the certificate is a {}", signing_key.name(), named.name());
            Err(untrusted(detail))
        }
        None => Err(untrusted("the certificate's names are not those of a VCEK or VLEK and its issuer")),
    }
}

fn check_validity(chain: &Chain, now: Now) -> Result<(), Refusal> {
    chain.leaf.check("signing key's", now)?;
    chain.intermediate.check("intermediate", now)?;
    chain.root.check("root", now)
}

/// The processor that the report names, where it names one, and the certificate's own word are those of the root's product.
fn check_product(leaf: &Certificate<'_>, report: &Report<'_>, product: Product) -> Result<(), Refusal> {
    let name = leaf.product_name().ok_or_else(|| untrusted("the certificate has no productName"))?;
    if !product.is_called(name) {
        return Err(untrusted(format!("productName `{name}` under the roots of {}", product.name())));
    }
    match report.cpuid {
        Some(cpuid) if Product::of_cpuid(cpuid.family, cpuid.model) != Some(product) => {
            let (family, model) = (cpuid.family, cpuid.model);
            let detail = format!("family {family:#x} model {model:#x} is no {}", product.name());
            Err(untrusted(detail))
        }
        Some(_) | None => Ok(()),
    }
}

/// The key is derived for one TCB version: all of its components are in the certificate, and are those that are reported.
fn check_endorsed_tcb(leaf: &Certificate<'_>, report: &Report<'_>, product: Product) -> Result<Tcb, Refusal> {
    let endorsed =
        leaf.tcb(product).ok_or_else(|| untrusted("the certificate lacks part of its TCB version"))?;
    let reported = tcb(report.reported_tcb, product, "REPORTED_TCB")?;
    if endorsed != reported {
        return Err(untrusted(format!("the certificate is for {endorsed}, the report says {reported}")));
    }
    Ok(reported)
}

/// A VCEK is of the report's chip; where the host masks the chip, appraisal decides. A VLEK names its cloud provider, no chip.
fn check_chip<'l>(
    leaf: &'l Certificate<'_>,
    report: &Report<'_>,
    signing_key: SigningKey,
    product: Product,
) -> Result<Option<&'l str>, Refusal> {
    match (signing_key, leaf.hw_id(), leaf.csp_id()) {
        (SigningKey::Vcek, Some(chip), None) => {
            let masked = report.chip_id == [0; 64];
            let right = chip.len() == product.chip_id_bytes() && (masked || is_chip(chip, report, product));
            if right { Ok(None) } else { Err(untrusted("the certificate is of another chip")) }
        }
        (SigningKey::Vlek, None, Some(provider)) => Ok(Some(provider)),
        (SigningKey::Vcek, _, _) => Err(untrusted("a VCEK's certificate names its chip, and no provider")),
        (SigningKey::Vlek, _, _) => Err(untrusted("a VLEK's certificate names its provider, and no chip")),
    }
}

/// All 64 bytes of CHIP_ID: the chip's own, then zeros.
fn is_chip(chip: &[u8], report: &Report<'_>, product: Product) -> bool {
    let Some((own, rest)) = report.chip_id.split_at_checked(product.chip_id_bytes()) else { return false };
    own == chip && rest.iter().all(|byte| *byte == 0)
}

/// Over the bytes as received.
fn check_signature(leaf: &Certificate<'_>, report: &Report<'_>) -> Result<(), Refusal> {
    let point = leaf.p384_point().ok_or_else(|| untrusted("the certificate's key is no P-384 key"))?;
    let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point);
    key.verify(report.signed, &report.signature).map_err(|_| {
        Refusal::new(Denial::EvidenceSignatureInvalid, "the signature is not of the key that is endorsed")
    })
}

/// Firmware keeps reported <= committed <= current; a report that says otherwise contradicts itself.
fn check_tcb_order(report: &Report<'_>, product: Product, reported: &Tcb) -> Result<[Tcb; 3], Refusal> {
    let committed = tcb(report.committed_tcb, product, "COMMITTED_TCB")?;
    let current = tcb(report.current_tcb, product, "CURRENT_TCB")?;
    let launch = tcb(report.launch_tcb, product, "LAUNCH_TCB")?;
    let below = [
        ("COMMITTED_TCB is below REPORTED_TCB", committed.lower_than(reported)),
        ("CURRENT_TCB is below COMMITTED_TCB", current.lower_than(&committed)),
    ];
    match below.into_iter().find(|(_, components)| !components.is_empty()) {
        Some((what, components)) => {
            let detail = format!("{what} in {}", components.join(", "));
            Err(Refusal::new(Denial::EvidenceMalformed, detail))
        }
        None => Ok([committed, current, launch]),
    }
}

/// All 64 bytes, in constant time; a binding of zeros is nobody's.
fn check_binding(
    carried: &[u8; limits::BINDING_BYTES],
    due: &[u8; limits::BINDING_BYTES],
) -> Result<(), Refusal> {
    let zero = due.ct_eq(&[0; limits::BINDING_BYTES]);
    if bool::from(carried.ct_eq(due) & !zero) {
        return Ok(());
    }
    Err(Refusal::new(Denial::EvidenceBindingMismatch, "REPORT_DATA is not the binding that is due"))
}

fn ends(chain: &Chain, lists: Vec<(SigningKey, WallTime)>) -> Ends {
    let certificates = Ends::of("signing key's certificate", chain.leaf.ends)
        .and("intermediate certificate", chain.intermediate.ends)
        .and("root certificate", chain.root.ends);
    let with_list = |ends: Ends, (key, end): (SigningKey, WallTime)| {
        ends.and(format!("revocation list for {}", key.name()), end)
    };
    lists.into_iter().fold(certificates, with_list)
}

fn tcb(bytes: [u8; 8], product: Product, field: &str) -> Result<Tcb, Refusal> {
    Tcb::of(bytes, product).ok_or_else(|| {
        let detail = format!("{field} has reserved bytes that are not zero, for {}", product.name());
        Refusal::new(Denial::EvidenceMalformed, detail)
    })
}

fn untrusted(detail: impl Into<String>) -> Refusal {
    Refusal::new(Denial::EndorsementUntrusted, detail)
}
