//! What AMD's key distribution service would be asked for: addresses, made from a report. Nothing is fetched here.
//!
//! *Takes* a report, its endorsements, the trust, the time. *Gives* paths below `https://kdsintf.amd.com` or below an
//! operator's own copy. *Denies* nothing. *Source*: AMD 57230 §4.
//!
//! What comes back is handed in by [`SevSnpTrust::hand_in_certificate`] and [`SevSnpTrust::hand_in_list`], and is believed
//! no more than what an attester sends.

use super::certificate::{Certificate, CertificateName};
use super::parse::Report;
use super::product::{Product, SigningKey, Tcb};
use super::trust::SevSnpTrust;
use super::verify::is_for;
use crate::time::Now;

/// Something that the verification of a report lacks, and that AMD publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needed {
    /// The VCEK's certificate: under the first of these paths that answers. A report of version 2 does not say its product, so
    /// there may be two.
    Certificate {
        /// The paths, most likely first.
        paths: Vec<String>,
    },
    /// The intermediate that issues certificates of this kind of key: in a chain with its root. AMD's own are compiled in.
    Intermediate {
        /// Of which product.
        product: Product,
        /// ASK or ASVK.
        signing_key: SigningKey,
        /// The path.
        path: String,
    },
    /// A root's revocation list.
    List {
        /// Whose.
        product: Product,
        /// Under which of the two addresses.
        signing_key: SigningKey,
        /// The path.
        path: String,
    },
}

/// What a client has to fetch before this report can be verified; empty where nothing is lacking, or nothing of it is to be
/// had: a VLEK's certificate comes from the cloud provider alone.
pub fn needed<E: AsRef<[u8]>>(
    report: &Report<'_>,
    endorsements: &[E],
    trust: &SevSnpTrust,
    now: Now,
) -> Vec<Needed> {
    let carried = endorsements.first().and_then(|first| Certificate::parse(first.as_ref()));
    let carried = carried.filter(|certificate| is_for(certificate, report));
    let kept = trust.kept_for(report).and_then(Certificate::parse);
    let certificate = carried.as_ref().or(kept.as_ref());
    let mut needed = Vec::new();
    let paths = certificate_paths(report);
    if certificate.is_none() && !paths.is_empty() {
        needed.push(Needed::Certificate { paths });
    }
    let by_name = certificate.and_then(Certificate::role).map(|(_, product)| product);
    let (Some(product), Some(signing_key)) = (by_name.or(product_of(report)), report.signing_key) else {
        return needed;
    };
    let issuer = signing_key.issuer_name(product);
    let is_issuer =
        |der: &E| Certificate::parse(der.as_ref()).is_some_and(|found| found.subject_name() == Some(&issuer));
    let issuer_is_carried = endorsements.iter().skip(1).any(is_issuer);
    if !issuer_is_carried && !trust.has_intermediate(product, signing_key, now) {
        needed.push(Needed::Intermediate { product, signing_key, path: chain_path(product, signing_key) });
    }
    if trust.lacks_list(product, signing_key, now) {
        needed.push(Needed::List { product, signing_key, path: list_path(product, signing_key) });
    }
    needed
}

/// The paths of the VCEK's certificate of a report, most likely first; none for a VLEK or a masked chip.
pub fn certificate_paths(report: &Report<'_>) -> Vec<String> {
    if report.signing_key != Some(SigningKey::Vcek) || report.chip_id == [0; 64] {
        return Vec::new();
    }
    let candidates = match report.cpuid {
        Some(_) => product_of(report).into_iter().collect(),
        None => Product::ALL.to_vec(),
    };
    candidates.into_iter().filter_map(|product| certificate_path(report, product)).collect()
}

/// The path of a product's intermediate and root, PEM in that order.
pub fn chain_path(product: Product, signing_key: SigningKey) -> String {
    format!("/{}/v1/{}/cert_chain", signing_key.name(), product.name())
}

/// The path of a product's revocation list, DER.
pub fn list_path(product: Product, signing_key: SigningKey) -> String {
    format!("/{}/v1/{}/crl", signing_key.name(), product.name())
}

fn product_of(report: &Report<'_>) -> Option<Product> {
    report.cpuid.and_then(|cpuid| Product::of_cpuid(cpuid.family, cpuid.model))
}

/// None where the report cannot be of that product: its TCB's layout, or its chip's length, is another's.
fn certificate_path(report: &Report<'_>, product: Product) -> Option<String> {
    let tcb = Tcb::of(report.reported_tcb, product)?;
    let (chip, rest) = report.chip_id.split_at_checked(product.chip_id_bytes())?;
    let whole = rest.iter().all(|byte| *byte == 0);
    // 56 zero bytes are no accident: such a chip is named by eight bytes, and so is no Milan or Genoa.
    let short = report.chip_id.get(8..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    if !whole || short != (product.chip_id_bytes() == 8) {
        return None;
    }
    Some(vcek_path(product, chip, &tcb))
}

/// The path under which a VCEK's certificate is to be had, by what it says that it is for; none for a VLEK's. What was
/// fetched is held against the path that was asked for.
pub fn certificate_path_of(name: &CertificateName) -> Option<String> {
    (name.signing_key == SigningKey::Vcek).then(|| vcek_path(name.product, &name.chip_id, &name.tcb))
}

fn vcek_path(product: Product, chip: &[u8], tcb: &Tcb) -> String {
    let fmc = tcb.fmc.map(|fmc| format!("fmcSPL={fmc:02}&")).unwrap_or_default();
    let Tcb { bootloader, tee, snp, microcode, .. } = tcb;
    format!(
        "/vcek/v1/{}/{}?{fmc}blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}",
        product.name(),
        hex::encode(chip)
    )
}
