//! The shape of an X.509-SVID: what can be said of a certificate chain without any trust.
//!
//! *Takes* certificates as presented. *Gives* [`Leaf`]. *Denies* `PeerIdentityAmbiguous`, `PeerIdentityMalformed`.
//! *Source*: SPIFFE X.509-SVID §2 to §5; RFC 5280 §4.2; `evidence.md` §8.

use crate::denial::Denial;
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::WallTime;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// What a leaf certificate says of its holder; peer-supplied, and proven by nothing yet.
#[derive(Clone)]
pub struct Leaf {
    /// SHA-256 of its SubjectPublicKeyInfo, as encoded in the certificate.
    pub spki_sha256: [u8; 32],
    /// Its serial number, hex, as encoded.
    pub serial: String,
    /// When it begins and ends.
    pub window: Window,
    /// What each certificate of its chain says, leaf first: parsed once, as their bytes do not change, and held against the
    /// clock each time.
    pub facts: Vec<Facts>,
}

/// What one certificate says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// When it begins and ends.
    pub window: Window,
    /// Whether it may sign revocation lists.
    pub may_sign_lists: bool,
}

/// A certificate's validity; `ends` is exclusive here, one instant stricter than RFC 5280 §4.1.2.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// notBefore.
    pub begins: WallTime,
    /// notAfter.
    pub ends: WallTime,
}

impl Window {
    /// Whether `now` is in it, with the allowance for what begins in the future and none for what has ended.
    /// **Denies** `PeerCertificateExpired`, `PeerCertificateNotYetValid`.
    pub fn check(&self, now: WallTime) -> Result<(), Denial> {
        if now >= self.ends {
            return Err(Denial::PeerCertificateExpired);
        }
        if self.begins > now.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000)) {
            return Err(Denial::PeerCertificateNotYetValid);
        }
        Ok(())
    }
}

/// Checks a workload's chain, leaf first. **Denies** `PeerIdentityAmbiguous`, `PeerIdentityMalformed`.
pub fn check_workload(chain: &[CertificateDer<'_>]) -> Result<(SpiffeId, Leaf), Denial> {
    let (certificate, facts) = check_chain(chain)?;
    let id = spiffe_id(&certificate)?;
    check_leaf_usage(&certificate)?;
    Ok((id, leaf(&certificate, facts)))
}

/// Checks an administrator's chain, leaf first: the same leaf, but it is nobody's SVID. **Denies** `PeerIdentityMalformed`.
pub fn check_administrator(chain: &[CertificateDer<'_>]) -> Result<Leaf, Denial> {
    let (certificate, facts) = check_chain(chain)?;
    match uris(&certificate)?.iter().any(|uri| uri.to_ascii_lowercase().starts_with("spiffe:")) {
        true => Err(Denial::PeerIdentityMalformed),
        false => check_leaf_usage(&certificate).map(|()| leaf(&certificate, facts)),
    }
}

/// Parses one certificate, whole; duplicate extensions are refused. **Denies** `PeerIdentityMalformed`.
pub fn parse<'a>(certificate: &'a [u8]) -> Result<X509Certificate<'a>, Denial> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) if parsed.version() == X509Version::V3 && parsed.extensions_map().is_ok() => {
            Ok(parsed)
        }
        Ok(_) | Err(_) => Err(Denial::PeerIdentityMalformed),
    }
}

/// The window of a parsed certificate.
pub fn window(certificate: &X509Certificate<'_>) -> Window {
    let validity = certificate.validity();
    let at = |time: x509_parser::time::ASN1Time| WallTime::from_seconds(time.timestamp());
    Window { begins: at(validity.not_before), ends: at(validity.not_after) }
}

/// Whether a certificate may sign others: CA, and keyCertSign where key usage is there; `strict` demands that it is.
pub fn may_sign_certificates(certificate: &X509Certificate<'_>, strict: bool) -> bool {
    let authority = matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    let usage = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => !strict,
        Err(_) => false,
    };
    authority && usage
}

/// Whether a certificate may sign revocation lists: cRLSign where key usage is there (RFC 5280 §4.2.1.3).
pub fn may_sign_lists(certificate: &X509Certificate<'_>) -> bool {
    match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.crl_sign(),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    let computed = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    for (to, from) in digest.iter_mut().zip(computed.as_ref()) {
        *to = *from;
    }
    digest
}

fn check_chain<'a>(chain: &'a [CertificateDer<'_>]) -> Result<(X509Certificate<'a>, Vec<Facts>), Denial> {
    let total = chain.iter().map(|certificate| certificate.len()).fold(0, usize::saturating_add);
    let (first, issuers) = chain.split_first().ok_or(Denial::PeerIdentityMalformed)?;
    if total > limits::CHAIN_BYTES || chain.len() > limits::CHAIN_CERTIFICATES {
        return Err(Denial::PeerIdentityMalformed);
    }
    let leaf = parse(first)?;
    let mut all = vec![facts(&leaf)];
    for issuer in issuers {
        let issuer = parse(issuer)?;
        if !may_sign_certificates(&issuer, true) {
            return Err(Denial::PeerIdentityMalformed);
        }
        all.push(facts(&issuer));
    }
    Ok((leaf, all))
}

fn facts(certificate: &X509Certificate<'_>) -> Facts {
    Facts { window: window(certificate), may_sign_lists: may_sign_lists(certificate) }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Denial> {
    match uris(certificate)?.as_slice() {
        [uri] => SpiffeId::parse(uri).map_err(|_| Denial::PeerIdentityMalformed),
        [] | [_, _, ..] => Err(Denial::PeerIdentityAmbiguous),
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, Denial> {
    let names = certificate.subject_alternative_name().map_err(|_| Denial::PeerIdentityMalformed)?;
    let mut uris = Vec::new();
    for name in names.map(|names| names.value.general_names.iter()).into_iter().flatten() {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // A name that does not parse may be the second URI.
            GeneralName::Invalid(..) => return Err(Denial::PeerIdentityMalformed),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::DNSName(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    Ok(uris)
}

fn check_leaf_usage(certificate: &X509Certificate<'_>) -> Result<(), Denial> {
    let malformed = Denial::PeerIdentityMalformed;
    let constraints = certificate.basic_constraints().map_err(|_| malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(malformed);
    }
    let usage = certificate.key_usage().map_err(|_| malformed)?.ok_or(malformed)?;
    let signs_for_others = usage.value.key_cert_sign() || usage.value.crl_sign();
    if !usage.critical || !usage.value.digital_signature() || signs_for_others {
        return Err(malformed);
    }
    match certificate.extended_key_usage().map_err(|_| malformed)? {
        Some(extended) if !(extended.value.server_auth && extended.value.client_auth) => Err(malformed),
        Some(_) | None => Ok(()),
    }
}

fn leaf(certificate: &X509Certificate<'_>, facts: Vec<Facts>) -> Leaf {
    Leaf {
        spki_sha256: sha256(certificate.public_key().raw),
        serial: hex::encode(certificate.raw_serial()),
        window: window(certificate),
        facts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::testkit::*;
    use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
    use rustls::pki_types::pem::PemObject;

    fn outcome(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Result<(), Denial> {
        check_workload(&Authority::root("root").leaf_with(ID, change).chain).map(|_| ())
    }

    #[test]
    fn a_good_svid_gives_its_own_bytes() {
        let leaf = Authority::root("root").leaf(ID);
        let (spiffe_id, facts) = check_workload(&leaf.chain).unwrap();
        assert_eq!(spiffe_id.as_str(), ID);
        assert_eq!(facts.serial, "07");
        assert_eq!(facts.spki_sha256, sha256(&rcgen::PublicKeyData::subject_public_key_info(&leaf.key)));
    }

    #[test]
    fn no_uri_or_two_are_ambiguous() {
        let ambiguous = Err(Denial::PeerIdentityAmbiguous);
        assert_eq!(outcome(|p| p.subject_alt_names.clear()), ambiguous);
        assert_eq!(outcome(|p| p.subject_alt_names.push(uri("spiffe://example.org/b"))), ambiguous);
        assert_eq!(outcome(|p| p.subject_alt_names.push(uri("https://example.org/"))), ambiguous);
        let name = SanType::DnsName("example.org".try_into().unwrap());
        assert_eq!(outcome(|p| p.subject_alt_names.push(name)), Ok(()));
    }

    #[test]
    fn a_wrong_id_usage_or_constraint_is_malformed() {
        let malformed = Err(Denial::PeerIdentityMalformed);
        assert_eq!(outcome(|p| p.subject_alt_names = vec![uri("https://example.org/a")]), malformed);
        assert_eq!(outcome(|p| p.subject_alt_names = vec![uri("spiffe://Example.org/a")]), malformed);
        assert_eq!(outcome(|p| p.subject_alt_names = vec![uri("spiffe://example.org")]), malformed);
        assert_eq!(outcome(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), malformed);
        assert_eq!(outcome(|p| p.key_usages.clear()), malformed);
        assert_eq!(outcome(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]), malformed);
        assert_eq!(outcome(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), malformed);
        assert_eq!(outcome(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), malformed);
        let one = |purpose| move |p: &mut rcgen::CertificateParams| p.extended_key_usages = vec![purpose];
        assert_eq!(outcome(one(ExtendedKeyUsagePurpose::ClientAuth)), malformed);
        assert_eq!(outcome(one(ExtendedKeyUsagePurpose::ServerAuth)), malformed);
        assert_eq!(outcome(|p| p.extended_key_usages.clear()), Ok(()));
    }

    #[test]
    fn trailing_bytes_garbage_and_endless_chains_are_malformed() {
        let leaf = Authority::root("root").leaf(ID);
        let long = [leaf.chain[0].as_ref(), &[0]].concat();
        let malformed = Err(Denial::PeerIdentityMalformed);
        assert_eq!(check_workload(&[CertificateDer::from(long)]).map(|_| ()), malformed);
        assert_eq!(check_workload(&[CertificateDer::from(vec![0x30, 3, 1])]).map(|_| ()), malformed);
        assert_eq!(check_workload(&[]).map(|_| ()), malformed);
        let root = Authority::root("root");
        let mut chain = leaf.chain;
        chain.extend(std::iter::repeat_n(root.certificate, limits::CHAIN_CERTIFICATES));
        assert_eq!(check_workload(&chain).map(|_| ()), malformed);
    }

    #[test]
    fn an_administrators_certificate_is_no_svid() {
        let root = Authority::root("root");
        let svid = root.leaf(ID);
        assert_eq!(check_administrator(&svid.chain).map(|_| ()), Err(Denial::PeerIdentityMalformed));
        let person = root.leaf_with(ID, |p| p.subject_alt_names.clear());
        assert_eq!(check_administrator(&person.chain).map(|_| ()), Ok(()));
    }

    #[test]
    fn windows_have_an_allowance_at_their_beginning_and_none_at_their_end() {
        let window = Window { begins: at(0).wall, ends: at(100).wall };
        assert_eq!(window.check(at(-30).wall), Ok(()));
        assert_eq!(window.check(at(-31).wall), Err(Denial::PeerCertificateNotYetValid));
        assert_eq!(window.check(WallTime(at(100).wall.0 - 1)), Ok(()));
        assert_eq!(window.check(at(100).wall), Err(Denial::PeerCertificateExpired));
    }

    #[test]
    fn shape_vectors_of_others_give_their_verdicts() {
        let Some(folder) = vectors() else { return };
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".pem") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().unwrap();
            let denial = check_workload(&chain).map(|_| ()).err();
            let expected = match name.as_str() {
                "wrong-leaf-empty-id.pem" => Some(Denial::PeerIdentityAmbiguous),
                name if name.starts_with("wrong-") => Some(Denial::PeerIdentityMalformed),
                _ => None,
            };
            assert_eq!(denial, expected, "{name}");
            seen += 1;
        }
        assert!(seen >= 9, "only {seen} vectors");
    }
}
