//! What is held of AMD's: certificates of chips, intermediates, revocation lists.
//!
//! *Takes* bytes from a service, a file or a disk. *Gives* [`SevSnpTrust`] for one report. *Denies* nothing itself; what is
//! not genuine is not taken in. *Source*: AMD 57230; `evidence.md` §4.

use super::failure::Failure;
use super::held::Held;
use super::item::Item;
use crate::denial::Denial;
use crate::evidence::sev_snp::{
    ListMark, Needed, Product, Report, SevSnpTrust, SigningKey, TrustError, certificate_path_of,
    certificate_paths, needed,
};
use crate::limits;
use crate::time::{BootTime, Now, WallTime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// All of it, under the operator's trust.
pub(super) struct SevSnpHeld {
    /// As the operator pins it, with what is held of intermediates and lists.
    trust: SevSnpTrust,
    intermediates: BTreeMap<(Product, SigningKey), Held<Vec<u8>>>,
    lists: BTreeMap<(Product, SigningKey), Held<Vec<u8>>>,
    /// By the path under which AMD publishes them.
    certificates: HashMap<String, Chip>,
    list_max_age_seconds: u64,
}

struct Chip {
    certificate: Held<Arc<[u8]>>,
    used: BootTime,
}

/// What was taken in, and its file's bytes.
pub(super) struct Taken {
    pub(super) item: Item,
    pub(super) bytes: Vec<u8>,
    /// An item that had to make room, whose file goes.
    pub(super) gone: Option<Item>,
}

impl SevSnpHeld {
    pub(super) fn new(base: SevSnpTrust, list_max_age_seconds: u64) -> Self {
        SevSnpHeld {
            trust: base,
            intermediates: BTreeMap::new(),
            lists: BTreeMap::new(),
            certificates: HashMap::new(),
            list_max_age_seconds,
        }
    }

    /// Swaps the operator's trust; what is held is verified against the new one, and what it does not vouch for goes.
    pub(super) fn rebase(&mut self, base: SevSnpTrust, now: Now) {
        let mut new = SevSnpHeld::new(base, self.list_max_age_seconds);
        self.trust.marks().into_iter().for_each(|mark| new.trust.remember(mark));
        for held in self.intermediates.values() {
            let _ = new.take_intermediate(held.part(), now);
        }
        for ((_, signing_key), held) in &self.lists {
            let _ = new.take_list(held.part(), *signing_key, None, now);
        }
        let genuine = |chip: &Chip| new.trust.check_certificate(chip.certificate.part(), now).is_ok();
        self.certificates.retain(|_, chip| genuine(chip));
        new.certificates = std::mem::take(&mut self.certificates);
        *self = new;
    }

    /// The trust for one report: the operator's, with the lists and intermediates and the certificate of this chip.
    pub(super) fn trust_for(&mut self, report: &Report<'_>, now: Now) -> SevSnpTrust {
        let mut trust = self.trust.clone();
        for path in certificate_paths(report) {
            if let Some(chip) = self.certificates.get_mut(&path)
                && let Some(certificate) = chip.certificate.for_verifier(now)
            {
                chip.used = now.boot;
                // The operator's own may fill the trust; then this one is not at hand.
                let _ = trust.hand_in_certificate(certificate);
            }
        }
        trust
    }

    /// What is still to be had for a report.
    pub(super) fn missing<E: AsRef<[u8]>>(
        &mut self,
        report: &Report<'_>,
        endorsements: &[E],
        now: Now,
    ) -> Vec<Item> {
        let trust = self.trust_for(report, now);
        let mut items: Vec<Item> =
            needed(report, endorsements, &trust, now).into_iter().map(Needed::into).collect();
        // A certificate of the chip's that has ended is there, and a newer one is to be had.
        let paths = certificate_paths(report);
        let ended =
            |path: &String| self.certificates.get(path).is_some_and(|chip| !chip.certificate.is_current(now));
        let item = Item::SevSnpCertificate { paths: paths.clone() };
        if paths.iter().any(ended) && !items.contains(&item) {
            items.push(item);
        }
        items
    }

    /// Takes a chip's certificate in, DER. `asked` are the paths of which it must be one. An absent intermediate is an error
    /// of its own, for the caller to fetch it.
    pub(super) fn take_certificate(
        &mut self,
        der: &[u8],
        asked: Option<&[String]>,
        now: Now,
    ) -> Result<Taken, Failure> {
        let checked = self.trust.check_certificate(der, now);
        let (name, ends) = checked.map_err(|refusal| match refusal.denial {
            Denial::EndorsementExpired => Failure::Ended,
            _ => Failure::Untrusted(refusal.detail),
        })?;
        let path = certificate_path_of(&name);
        let path = path.ok_or_else(|| Failure::WrongContent("no VCEK's certificate".to_owned()))?;
        if asked.is_some_and(|asked| !asked.contains(&path)) {
            return Err(Failure::WrongContent("the certificate is of another chip or TCB".to_owned()));
        }
        let gone = self.make_room(&path);
        let certificate = Held::new(Arc::from(der), now.wall, ends, now);
        self.certificates.insert(path.clone(), Chip { certificate, used: now.boot });
        Ok(Taken { item: Item::SevSnpCertificate { paths: vec![path] }, bytes: der.to_vec(), gone })
    }

    /// The intermediate without which a certificate cannot be verified.
    pub(super) fn lacks_intermediate(&self, der: &[u8], now: Now) -> Option<Item> {
        let refusal = self.trust.check_certificate(der, now).err()?;
        let (product, signing_key) = SevSnpTrust::issuer_of(der)?;
        (refusal.denial == Denial::CollateralUnavailable)
            .then_some(Item::SevSnpIntermediate { product, signing_key })
    }

    /// Takes the intermediates of a chain in, PEM as the service has it, or one in DER. The root in it is not looked at.
    pub(super) fn take_chain(&mut self, bytes: &[u8], now: Now) -> Result<Vec<Taken>, Failure> {
        let mut taken = Vec::new();
        let mut why = Failure::WrongContent(TrustError::NoIntermediate.to_string());
        for der in certificates(bytes)? {
            match self.take_intermediate(&der, now) {
                Ok(one) => taken.extend(one),
                Err(failure) => why = failure,
            }
        }
        if taken.is_empty() { Err(why) } else { Ok(taken) }
    }

    /// None of a certificate that is no intermediate.
    fn take_intermediate(&mut self, der: &[u8], now: Now) -> Result<Option<Taken>, Failure> {
        let (product, signing_key, ends) = match self.trust.check_intermediate(der) {
            Err(TrustError::NoIntermediate) => return Ok(None),
            checked => checked.map_err(|error| Failure::WrongContent(error.to_string()))?,
        };
        let ends =
            ends.ok_or_else(|| Failure::Untrusted("no trusted root signed the intermediate".to_owned()))?;
        let held = self.intermediates.get(&(product, signing_key));
        if held.is_none_or(|held| held.part() != der) {
            self.trust.add_intermediate(der).map_err(|error| Failure::WrongContent(error.to_string()))?;
        }
        let held = Held::new(der.to_vec(), now.wall, ends, now);
        self.intermediates.insert((product, signing_key), held);
        let item = Item::SevSnpIntermediate { product, signing_key };
        Ok(Some(Taken { item, bytes: der.to_vec(), gone: None }))
    }

    /// Takes a revocation list in, DER or PEM. One that has ended is taken, too, where it is newer than what is held: a
    /// verifier says then that it is stale.
    pub(super) fn take_list(
        &mut self,
        bytes: &[u8],
        signing_key: SigningKey,
        asked: Option<Product>,
        now: Now,
    ) -> Result<Taken, Failure> {
        let mut trust = self.trust.clone();
        let mark = trust.hand_in_list(bytes, signing_key, self.list_max_age_seconds, now);
        let mark = mark.map_err(of_list)?;
        let roots = trust.roots();
        let root = roots.iter().find(|root| root.sha256 == mark.root).ok_or(Failure::Defect)?;
        if asked.is_some_and(|asked| asked != root.product) {
            return Err(Failure::WrongContent("the list is of another product".to_owned()));
        }
        let ends = root.lists.iter().find(|(key, _)| *key == signing_key).map(|(_, ends)| *ends);
        let held = Held::new(bytes.to_vec(), mark.this_update, ends.unwrap_or(WallTime(0)), now);
        self.lists.insert((root.product, signing_key), held);
        self.trust = trust;
        let item = Item::SevSnpList { product: root.product, signing_key };
        Ok(Taken { item, bytes: bytes.to_vec(), gone: None })
    }

    /// How new a list is, whatever was seen before.
    pub(super) fn mark_of_list(
        &self,
        bytes: &[u8],
        signing_key: SigningKey,
        now: Now,
    ) -> Result<ListMark, Failure> {
        let mut trust = self.trust.clone();
        trust.marks().iter().for_each(|mark| trust.forget(mark));
        trust.hand_in_list(bytes, signing_key, self.list_max_age_seconds, now).map_err(of_list)
    }

    /// Takes the list of this mark in, in whatever one's place.
    pub(super) fn accept_list(&mut self, bytes: &[u8], mark: &ListMark, now: Now) -> Result<Taken, Failure> {
        self.trust.forget(mark);
        self.take_list(bytes, mark.signing_key, None, now)
    }

    /// Whether an item is held and current; none where it is not held.
    pub(super) fn is_current(&self, item: &Item, now: Now) -> Option<bool> {
        match item {
            Item::SevSnpCertificate { paths } => {
                let held = paths.iter().find_map(|path| self.certificates.get(path));
                held.map(|chip| chip.certificate.is_current(now))
            }
            Item::SevSnpIntermediate { product, signing_key } => {
                self.intermediates.get(&(*product, *signing_key)).map(|held| held.is_current(now))
            }
            Item::SevSnpList { product, signing_key } => {
                self.lists.get(&(*product, *signing_key)).map(|held| held.is_current(now))
            }
            Item::Dcap(_) => None,
        }
    }

    /// Everything that is held, with its issue, its obtaining and its end.
    pub(super) fn all(&self) -> Vec<(Item, WallTime, Now, WallTime)> {
        let row = |item, issued, obtained, ends| (item, issued, obtained, ends);
        let chips = self.certificates.iter().map(|(path, Chip { certificate, .. })| {
            let item = Item::SevSnpCertificate { paths: vec![path.clone()] };
            row(item, certificate.issued(), certificate.obtained(), certificate.ends())
        });
        let intermediates = self.intermediates.iter().map(|((product, signing_key), held)| {
            let item = Item::SevSnpIntermediate { product: *product, signing_key: *signing_key };
            row(item, held.issued(), held.obtained(), held.ends())
        });
        let lists = self.lists.iter().map(|((product, signing_key), held)| {
            let item = Item::SevSnpList { product: *product, signing_key: *signing_key };
            row(item, held.issued(), held.obtained(), held.ends())
        });
        lists.chain(intermediates).chain(chips).collect()
    }

    /// SHA-256 of every root that is trusted now.
    pub(super) fn roots(&self) -> BTreeSet<[u8; 32]> {
        self.trust.roots().iter().map(|root| root.sha256).collect()
    }

    /// How new the newest list of each kind was that was ever seen.
    pub(super) fn marks(&self) -> Vec<ListMark> {
        self.trust.marks()
    }

    /// The lists for which a newer one is due.
    pub(super) fn due(&self, now: Now, every_ms: u64, ahead_ms: u64) -> Vec<Item> {
        let due = self.lists.iter().filter(|(_, held)| held.is_due(now, every_ms, ahead_ms));
        due.map(|((product, signing_key), _)| Item::SevSnpList {
            product: *product,
            signing_key: *signing_key,
        })
        .collect()
    }

    /// As many certificates are kept as the limit says; the one that was not used for longest makes room.
    fn make_room(&mut self, path: &str) -> Option<Item> {
        if self.certificates.len() < limits::SEV_SNP_KEPT_CERTIFICATES || self.certificates.contains_key(path)
        {
            return None;
        }
        let (oldest, _) = self.certificates.iter().min_by_key(|(_, chip)| chip.used)?;
        let oldest = oldest.clone();
        self.certificates.remove(&oldest);
        Some(Item::SevSnpCertificate { paths: vec![oldest] })
    }
}

fn of_list(error: TrustError) -> Failure {
    match error {
        TrustError::ListOlder => Failure::Older,
        TrustError::ListMalformed | TrustError::ListWithoutEnd => Failure::WrongContent(error.to_string()),
        other => Failure::Untrusted(other.to_string()),
    }
}

/// The certificates of a chain: PEM, or one in DER.
fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Failure> {
    if bytes.len() > limits::COLLATERAL_CHAIN_BYTES {
        return Err(Failure::TooLarge("a chain", limits::COLLATERAL_CHAIN_BYTES));
    }
    if !bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match read {
        Ok(certificates) if certificates.len() <= limits::CHAIN_CERTIFICATES => Ok(certificates),
        Ok(_) | Err(_) => Err(Failure::WrongContent("no chain in PEM".to_owned())),
    }
}
