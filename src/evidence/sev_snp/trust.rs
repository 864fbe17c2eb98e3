//! What an operator trusts for this format: AMD's root keys, lists of what they revoked, certificates handed in beforehand.
//!
//! *Takes* DER. *Gives* [`SevSnpTrust`], a snapshot: nothing in it is read from disk, network or clock while a report is
//! verified. *Denies* `EndorsementUntrusted`, `EndorsementRevoked`, `CollateralUnavailable`, `CollateralStale`.
//! *Source*: AMD 57230 §2; RFC 5280 §6; `certs/amd/README.md`.
//!
//! **Revocation lists.** AMD's root keys sign a list of revoked intermediates for each product; a signing key's own certificate
//! has serial number 0 and cannot be on any. Whether a list is needed is the operator's choice, made here and nowhere else:
//! - by default none is: no list is compiled in, and the two addresses that publish them are one vendor's rate-limited service;
//!   a broker that cannot reach it would release nothing, for a list that names no more than a handful of intermediates. What
//!   stops a broken product at once is in the operator's hands: [`SevSnpTrust::switch_off`] and minimum TCBs;
//! - [`SevSnpTrust::require_lists`] demands them for a product: without one nothing of it verifies (`CollateralUnavailable`);
//! - a list once handed in is needed from then on: past its end it denies (`CollateralStale`), until a newer one is handed in;
//!   after a restart that remembers it, it is missed (`CollateralUnavailable`) until one is handed in that is as new.

use super::certificate::{Certificate, CertificateName, SIGNATURES, Window};
use super::list::{self, List, ListMark, Unsigned};
use super::parse::Report;
use super::product::{Product, SigningKey, Tcb};
use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::limits;
use crate::time::{Now, WallTime};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};

/// The roots, intermediates, lists and certificates that reports are verified against.
#[derive(Clone, Debug, Default)]
pub struct SevSnpTrust {
    roots: Vec<Root>,
    intermediates: Vec<Intermediate>,
    lists: BTreeMap<([u8; 32], SigningKey), List>,
    marks: BTreeMap<([u8; 32], SigningKey), ListMark>,
    lists_required: BTreeSet<Product>,
    kept: HashMap<CertificateName, Arc<[u8]>>,
}

/// A root that is trusted now, for an operator to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedRoot {
    /// Of which product.
    pub product: Product,
    /// SHA-256 of its DER.
    pub sha256: [u8; 32],
    /// Its end, exclusive.
    pub ends: WallTime,
    /// The end of each list that it signed and that is held.
    pub lists: Vec<(SigningKey, WallTime)>,
}

/// Why something is not taken into the trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not one certificate in DER, whole, of at most 4 KiB.
    #[error("not one DER certificate of at most {} bytes", limits::SEV_SNP_CERTIFICATE_BYTES)]
    CertificateMalformed,
    /// Not self-issued under the name `ARK-<product>`, or no CA.
    #[error("not a root: `ARK-Milan`, `ARK-Genoa` or `ARK-Turin`, self-issued, a CA with keyCertSign")]
    NoRoot,
    /// Not an ASK or ASVK by its name, or no CA.
    #[error("not an intermediate: `SEV-<product>` or `SEV-VLEK-<product>`, a CA with keyCertSign")]
    NoIntermediate,
    /// No certificate of a signing key, or one without all of product, chip and TCB.
    #[error("not the certificate of a VCEK or VLEK with its product, chip and TCB")]
    NoSigningKey,
    /// As many as are kept.
    #[error("{} certificates are kept already", limits::SEV_SNP_KEPT_CERTIFICATES)]
    TooMany,
    /// Not one revocation list in DER or PEM, or with something that makes it partial or indirect.
    #[error("not one complete revocation list, or over {} bytes", limits::SEV_SNP_LIST_BYTES)]
    ListMalformed,
    /// No trusted root signed it.
    #[error("the list's signature is not of a trusted root")]
    ListUntrusted,
    /// It has no nextUpdate: it would hold for ever.
    #[error("the list has no nextUpdate")]
    ListWithoutEnd,
    /// It was made in the future.
    #[error("the list's thisUpdate is in the future")]
    ListFromFuture,
    /// A newer one is held.
    #[error("the list is older than one already seen")]
    ListOlder,
}

#[derive(Clone, Debug)]
struct Root {
    product: Product,
    sha256: [u8; 32],
    anchor: TrustAnchor<'static>,
    subject: Vec<u8>,
    public_key: Vec<u8>,
    serial: Vec<u8>,
    window: Window,
    may_sign_lists: bool,
}

/// An ASK or ASVK, pinned or carried: believed for its root's signature alone.
#[derive(Clone, Debug)]
struct Intermediate {
    der: Arc<[u8]>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    serial: Vec<u8>,
    window: Window,
    may_sign_certificates: bool,
}

/// A path from a signing key over one intermediate to a root. Validity and revocation are not looked at yet.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) product: Product,
    signing_key: SigningKey,
    pub(super) leaf: Window,
    pub(super) intermediate: Window,
    intermediate_serial: Vec<u8>,
    pub(super) root: Window,
    root_sha256: [u8; 32],
    root_serial: Vec<u8>,
}

impl SevSnpTrust {
    /// No root at all: nothing verifies.
    pub fn empty() -> Self {
        SevSnpTrust::default()
    }

    /// AMD's roots for Milan, Genoa and Turin, and their intermediates, as compiled in. No list is demanded.
    pub fn amd() -> Self {
        let mut trust = SevSnpTrust::empty();
        // One that did not parse would not be trusted; a test says that all do.
        for (root, intermediates) in AMD {
            let _ = trust.add_root(root);
            for intermediate in intermediates {
                let _ = trust.add_intermediate(intermediate);
            }
        }
        trust
    }

    /// A further root, DER. Its product is in its name.
    pub fn add_root(&mut self, der: &[u8]) -> Result<(), TrustError> {
        let certificate = Certificate::parse(der).ok_or(TrustError::CertificateMalformed)?;
        let name = certificate.subject_name().and_then(|name| name.strip_prefix("ARK-"));
        let product = name.and_then(Product::of_name).ok_or(TrustError::NoRoot)?;
        if certificate.subject() != certificate.issuer() || !certificate.may_sign_certificates() {
            return Err(TrustError::NoRoot);
        }
        let der = CertificateDer::from(der);
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|_| TrustError::NoRoot)?.to_owned();
        let sha256 = sha256(&der);
        self.switch_off(&sha256);
        self.roots.push(Root {
            product,
            sha256,
            anchor,
            subject: certificate.subject().to_vec(),
            public_key: certificate.public_key().to_vec(),
            serial: certificate.serial(),
            window: certificate.window(),
            may_sign_lists: certificate.may_sign_lists(),
        });
        Ok(())
    }

    /// A further intermediate, DER, for evidence that does not bring its own. It is trusted no more than one that does: a
    /// trusted root must have signed it.
    pub fn add_intermediate(&mut self, der: &[u8]) -> Result<(), TrustError> {
        let certificate = Certificate::parse(der).ok_or(TrustError::CertificateMalformed)?;
        let named = |name: &str| {
            let mut all =
                SigningKey::ALL.into_iter().flat_map(|key| Product::ALL.map(|p| key.issuer_name(p)));
            all.any(|known| known == name)
        };
        if !certificate.subject_name().is_some_and(named) || !certificate.may_sign_certificates() {
            return Err(TrustError::NoIntermediate);
        }
        self.intermediates.push(Intermediate::of(&certificate));
        Ok(())
    }

    /// Trusts the root with this SHA-256 no more, at once and with all that it signed. Whether it was trusted.
    pub fn switch_off(&mut self, sha256: &[u8; 32]) -> bool {
        let before = self.roots.len();
        self.roots.retain(|root| root.sha256 != *sha256);
        self.lists.retain(|(root, _), _| root != sha256);
        self.roots.len() != before
    }

    /// Demands a revocation list, within its validity, for everything of this product.
    pub fn require_lists(&mut self, product: Product) {
        self.lists_required.insert(product);
    }

    /// Takes a list in, DER or PEM, that was read from a file or fetched from [`super::list_path`]; `signing_key` says from
    /// which of the two addresses. It is believed for its signature by a trusted root, verified here, once. A list that is
    /// older than one seen before is refused; the mark that is given back is to be kept for [`SevSnpTrust::remember`].
    pub fn hand_in_list(
        &mut self,
        bytes: &[u8],
        signing_key: SigningKey,
        max_age_seconds: u64,
        now: Now,
    ) -> Result<ListMark, TrustError> {
        let der = list::der_of(bytes).ok_or(TrustError::ListMalformed)?;
        let unsigned = Unsigned::parse(&der)?;
        let signed = |root: &&Root| {
            root.may_sign_lists && root.subject == unsigned.issuer() && unsigned.is_by(&root.public_key)
        };
        let root = self.roots.iter().find(signed).ok_or(TrustError::ListUntrusted)?;
        let list = unsigned.of(root.sha256, signing_key, max_age_seconds, now)?;
        let place = (root.sha256, signing_key);
        if self.marks.get(&place).is_some_and(|seen| list.mark < *seen) {
            return Err(TrustError::ListOlder);
        }
        let mark = list.mark.clone();
        self.marks.insert(place, mark.clone());
        self.lists.insert(place, list);
        Ok(mark)
    }

    /// Refuses lists that are older than this mark, which was given back before a restart. As a list was there, one is needed
    /// from now on.
    pub fn remember(&mut self, mark: ListMark) {
        let seen = self.marks.entry((mark.root, mark.signing_key)).or_insert_with(|| mark.clone());
        if *seen < mark {
            *seen = mark;
        }
    }

    /// Forgets how new the list of that kind was, for whom an administrator believes that its authority was rebuilt.
    pub fn forget(&mut self, mark: &ListMark) {
        self.marks.remove(&(mark.root, mark.signing_key));
    }

    /// How new the newest list of each kind was that was ever seen, to be kept durably.
    pub fn marks(&self) -> Vec<ListMark> {
        self.marks.values().cloned().collect()
    }

    /// Keeps the certificate of a signing key, DER, that was read from a file or fetched from one of
    /// [`super::certificate_paths`]: used for reports that bring none. It is untrusted until a report is verified with it, as
    /// any that an attester sends; a later one of the same name takes its place.
    pub fn hand_in_certificate(&mut self, der: &[u8]) -> Result<CertificateName, TrustError> {
        let certificate = Certificate::parse(der).ok_or(TrustError::CertificateMalformed)?;
        let name = certificate.name().ok_or(TrustError::NoSigningKey)?;
        if self.kept.len() >= limits::SEV_SNP_KEPT_CERTIFICATES && !self.kept.contains_key(&name) {
            return Err(TrustError::TooMany);
        }
        self.kept.insert(name.clone(), der.into());
        Ok(name)
    }

    /// The roots, for an operator to see.
    pub fn roots(&self) -> Vec<PinnedRoot> {
        let lists_of = |root: &Root| -> Vec<(SigningKey, WallTime)> {
            let own = self.lists.iter().filter(|((signer, _), _)| *signer == root.sha256);
            own.map(|((_, key), list)| (*key, list.revoked.usable_until())).collect()
        };
        let shown = |root: &Root| PinnedRoot {
            product: root.product,
            sha256: root.sha256,
            ends: root.window.ends,
            lists: lists_of(root),
        };
        self.roots.iter().map(shown).collect()
    }

    /// Whether a certificate of a signing key, DER, leads over a pinned intermediate to a trusted root, all of it within its
    /// validity: what it is for, and its first end. For whoever fetches certificates and would keep only genuine ones.
    /// **Denies** `EndorsementUntrusted`, `EndorsementExpired`, `EndorsementNotYetValid`; `CollateralUnavailable` where the
    /// intermediate is not at hand.
    pub fn check_certificate(&self, der: &[u8], now: Now) -> Result<(CertificateName, WallTime), Refusal> {
        let certificate = Certificate::parse(der).ok_or_else(|| untrusted("no certificate"))?;
        let name = certificate.name().ok_or_else(|| untrusted("no certificate of a signing key"))?;
        let chain = self.chain(&certificate, std::iter::empty())?;
        let windows =
            [("signing key's", chain.leaf), ("intermediate", chain.intermediate), ("root", chain.root)];
        for (what, window) in windows {
            window.check(what, now)?;
        }
        Ok((name, chain.leaf.ends.min(chain.intermediate.ends).min(chain.root.ends)))
    }

    /// The intermediate by which a signing key's certificate, DER, says that it was issued.
    pub fn issuer_of(der: &[u8]) -> Option<(Product, SigningKey)> {
        Certificate::parse(der)?.role().map(|(signing_key, product)| (product, signing_key))
    }

    /// Which intermediate a certificate, DER, says that it is, and its end, exclusive; no end where no trusted root signed it.
    pub fn check_intermediate(
        &self,
        der: &[u8],
    ) -> Result<(Product, SigningKey, Option<WallTime>), TrustError> {
        let certificate = Certificate::parse(der).ok_or(TrustError::CertificateMalformed)?;
        let name = certificate.subject_name().ok_or(TrustError::NoIntermediate)?;
        let all = SigningKey::ALL.into_iter().flat_map(|key| Product::ALL.map(|product| (product, key)));
        let mut named = all.filter(|(product, key)| key.issuer_name(*product) == name);
        let (product, key) = named.next().ok_or(TrustError::NoIntermediate)?;
        if !certificate.may_sign_certificates() {
            return Err(TrustError::NoIntermediate);
        }
        let signed = |root: &Root| {
            root.product == product
                && root.subject == certificate.issuer()
                && certificate.is_by(&root.public_key)
        };
        let root = self.roots.iter().find(|root| signed(root));
        Ok((product, key, root.map(|root| certificate.window().ends.min(root.window.ends))))
    }

    /// Whether an intermediate of this name is pinned that has not ended.
    pub(super) fn has_intermediate(&self, product: Product, signing_key: SigningKey, now: Now) -> bool {
        let wanted = signing_key.issuer_name(product);
        let named = |found: &Intermediate| {
            Certificate::parse(&found.der).is_some_and(|it| it.subject_name() == Some(&wanted))
        };
        self.intermediates.iter().any(|found| now.wall < found.window.ends && named(found))
    }

    /// Whether reports of this product with this kind of key cannot be verified for want of a current list.
    pub(super) fn lacks_list(&self, product: Product, signing_key: SigningKey, now: Now) -> bool {
        let of_product = |root: &&Root| root.product == product;
        self.roots.iter().filter(of_product).any(|root| match self.lists.get(&(root.sha256, signing_key)) {
            None => {
                self.lists_required.contains(&product) || self.marks.contains_key(&(root.sha256, signing_key))
            }
            Some(list) => list.revoked.at(now).is_none(),
        })
    }

    /// The certificate that is kept for a report's key.
    pub(super) fn kept_for(&self, report: &Report<'_>) -> Option<&[u8]> {
        let signing_key = report.signing_key?;
        let name = |product: Product| {
            let chip_id = match signing_key {
                SigningKey::Vcek => report.chip_id.get(..product.chip_id_bytes())?.to_vec(),
                SigningKey::Vlek => Vec::new(),
            };
            Some(CertificateName {
                product,
                signing_key,
                chip_id,
                tcb: Tcb::of(report.reported_tcb, product)?,
            })
        };
        let names = Product::ALL.into_iter().filter_map(name);
        names.filter_map(|name| self.kept.get(&name)).next().map(AsRef::as_ref)
    }

    /// The path of a signing key's certificate to a trusted root: exactly one intermediate, of the name that goes with key and
    /// product, pinned or carried. A root that is carried is not looked at. **Denies** `EndorsementUntrusted`;
    /// `CollateralUnavailable` where no intermediate of that name is at hand.
    pub(super) fn chain<'c>(
        &self,
        leaf: &Certificate<'_>,
        carried: impl Iterator<Item = &'c [u8]>,
    ) -> Result<Chain, Refusal> {
        let (signing_key, product) = leaf.role().ok_or_else(|| untrusted("no signing key of a product"))?;
        let mut why = None;
        let carried = carried.filter_map(Certificate::parse).filter(|found| found.subject() == leaf.issuer());
        let carried = carried.take(limits::SEV_SNP_ISSUERS).map(|found| Cow::Owned(Intermediate::of(&found)));
        let pinned =
            self.intermediates.iter().filter(|found| found.subject == leaf.issuer()).map(Cow::Borrowed);
        for intermediate in pinned.chain(carried) {
            let above = |root: &&Root| root.product == product && root.subject == intermediate.issuer;
            why = why.or(Some("no trusted root has the name of the intermediate's issuer".to_owned()));
            for root in self.roots.iter().filter(above) {
                match check_signatures(leaf, &intermediate, root) {
                    Ok(()) => {
                        return Ok(Chain {
                            product,
                            signing_key,
                            leaf: leaf.window(),
                            intermediate: intermediate.window,
                            intermediate_serial: intermediate.serial.clone(),
                            root: root.window,
                            root_sha256: root.sha256,
                            root_serial: root.serial.clone(),
                        });
                    }
                    Err(error) => why = Some(format!("no path to a trusted root: {error}")),
                }
            }
        }
        Err(why.map_or_else(|| lacking(signing_key, product), untrusted))
    }

    /// Whether the root revoked the path's intermediate, or itself; the ends of the lists that say so. **Denies**
    /// `EndorsementRevoked`; `CollateralUnavailable` or `CollateralStale` where that is not known.
    pub(super) fn check_revocation(
        &self,
        chain: &Chain,
        now: Now,
    ) -> Result<Vec<(SigningKey, WallTime)>, Refusal> {
        // Both lists are of one issuer: a number on either is revoked, and neither may lapse into silence.
        let held = SigningKey::ALL.map(|key| (key, self.lists.get(&(chain.root_sha256, key))));
        let held = held.into_iter().filter_map(|(key, list)| Some((key, &list?.revoked)));
        let mut ends = Vec::new();
        let mut stale = None;
        for (key, list) in held {
            let end = list.usable_until();
            match list.at(now) {
                Some(list)
                    if list.contains(&chain.intermediate_serial) || list.contains(&chain.root_serial) =>
                {
                    let detail = "the root revoked the intermediate, or itself";
                    return Err(Refusal::new(Denial::EndorsementRevoked, detail));
                }
                Some(_) => ends.push((key, end)),
                None => stale = Some(format!("the revocation list for {} ended at {end}", key.name())),
            }
        }
        if let Some(detail) = stale {
            return Err(Refusal::new(Denial::CollateralStale, detail));
        }
        let seen = |key: &SigningKey| {
            let place = (chain.root_sha256, *key);
            self.marks.contains_key(&place) && !self.lists.contains_key(&place)
        };
        if let Some(key) = SigningKey::ALL.into_iter().find(seen) {
            let detail = format!("the revocation list for {} that was seen before is gone", key.name());
            return Err(Refusal::new(Denial::CollateralUnavailable, detail));
        }
        let required = self.lists_required.contains(&chain.product);
        if required && !ends.iter().any(|(key, _)| *key == chain.signing_key) {
            let path = super::list_path(chain.product, chain.signing_key);
            return Err(Refusal::new(Denial::CollateralUnavailable, format!("no revocation list: `{path}`")));
        }
        Ok(ends)
    }
}

impl Intermediate {
    fn of(certificate: &Certificate<'_>) -> Self {
        Intermediate {
            der: certificate.der.into(),
            subject: certificate.subject().to_vec(),
            issuer: certificate.issuer().to_vec(),
            serial: certificate.serial(),
            window: certificate.window(),
            may_sign_certificates: certificate.may_sign_certificates(),
        }
    }
}

fn lacking(signing_key: SigningKey, product: Product) -> Refusal {
    let name = signing_key.issuer_name(product);
    Refusal::new(Denial::CollateralUnavailable, format!("no intermediate `{name}` is pinned or carried"))
}

/// Signatures, the intermediate's rights and constraints by webpki, at a time within both validities: whether they hold now is asked afterwards, so that
/// what is expired and what is foreign have different names.
fn check_signatures(leaf: &Certificate<'_>, above: &Intermediate, root: &Root) -> Result<(), webpki::Error> {
    if !above.may_sign_certificates {
        return Err(webpki::Error::EndEntityUsedAsCa);
    }
    let (der, intermediate) = (CertificateDer::from(leaf.der), CertificateDer::from(above.der.as_ref()));
    let begins = leaf.window().begins.max(above.window.begins);
    let time = UnixTime::since_unix_epoch(Duration::from_secs(begins.seconds()));
    let (anchors, intermediates) = ([root.anchor.clone()], [intermediate]);
    let end_entity = EndEntityCert::try_from(&der)?;
    let usage = KeyUsage::client_auth();
    let path = end_entity.verify_for_usage(SIGNATURES, &anchors, &intermediates, time, usage, None, None)?;
    match path.intermediate_certificates().count() {
        1 => Ok(()),
        _ => Err(webpki::Error::UnknownIssuer),
    }
}

fn untrusted(detail: impl Into<String>) -> Refusal {
    Refusal::new(Denial::EndorsementUntrusted, detail)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

/// Each product's root with its ASK and ASVK (`certs/amd/README.md`).
pub(super) const AMD: [(&[u8], [&[u8]; 2]); 3] = [
    (
        include_bytes!("../../../certs/amd/ark-milan.der"),
        [
            include_bytes!("../../../certs/amd/ask-milan.der"),
            include_bytes!("../../../certs/amd/asvk-milan.der"),
        ],
    ),
    (
        include_bytes!("../../../certs/amd/ark-genoa.der"),
        [
            include_bytes!("../../../certs/amd/ask-genoa.der"),
            include_bytes!("../../../certs/amd/asvk-genoa.der"),
        ],
    ),
    (
        include_bytes!("../../../certs/amd/ark-turin.der"),
        [
            include_bytes!("../../../certs/amd/ask-turin.der"),
            include_bytes!("../../../certs/amd/asvk-turin.der"),
        ],
    ),
];
