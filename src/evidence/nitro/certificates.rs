//! The certificates of a document: by position, from a pinned root to the enclave.
//!
//! *Takes* a [`Document`], [`NitroTrust`], the time. *Gives* the enclave's key, and when each certificate ends. *Denies*
//! `EvidenceMalformed`, `EndorsementUntrusted`, `EndorsementExpired`, `EndorsementNotYetValid`, `EndorsementRevoked`.
//! *Source*: RFC 5280 §6; AWS "Nitro Enclaves attestation process" (certificates); `evidence.md` §2.

use super::Refusal;
use super::parse::Document;
use super::trust::{NitroTrust, Root, p384_point};
use crate::denial::Denial;
use crate::evidence::outcome::Ends;
use crate::limits;
use crate::time::{Now, WallTime};
use crate::transport::svid::{self, Window};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, Error, KeyUsage};
use x509_parser::certificate::X509Certificate;

/// A document's chain: `cabundle` after its root, then the enclave's own certificate.
pub(super) struct Certificates<'a> {
    root: &'a Root,
    issuers: Vec<Certificate<'a>>,
    enclave: Certificate<'a>,
}

struct Certificate<'a> {
    name: String,
    der: CertificateDer<'a>,
    parsed: X509Certificate<'a>,
    window: Window,
}

/// The pinned root that `cabundle` begins with, byte for byte. **Denies** `EndorsementUntrusted`.
pub(super) fn root_of<'t>(document: &Document<'_>, trust: &'t NitroTrust) -> Result<&'t Root, Refusal> {
    let first = document.cabundle.first().copied().unwrap_or_default();
    let pinned = trust.roots().iter().find(|root| root.der.as_ref() == first);
    pinned.ok_or_else(|| untrusted("cabundle does not begin with a pinned root"))
}

impl<'a> Certificates<'a> {
    /// Parses each, whole. **Denies** `EvidenceMalformed`.
    pub(super) fn of(document: &Document<'a>, root: &'a Root) -> Result<Self, Refusal> {
        let issuers = document.cabundle.iter().enumerate().skip(1);
        let issuers = issuers.map(|(at, der)| Certificate::parse(format!("cabundle certificate {at}"), der));
        Ok(Certificates {
            root,
            issuers: issuers.collect::<Result<_, _>>()?,
            enclave: Certificate::parse("enclave certificate".to_owned(), document.certificate)?,
        })
    }

    /// Issuers may sign certificates, the enclave may sign documents and nothing else. **Denies** `EndorsementUntrusted`.
    pub(super) fn check_usage(&self) -> Result<(), Refusal> {
        let strays = |issuer: &&Certificate<'_>| !svid::may_sign_certificates(&issuer.parsed, true);
        if let Some(issuer) = self.issuers.iter().find(strays) {
            return Err(untrusted(format!("the {} may not sign certificates", issuer.name)));
        }
        let enclave = &self.enclave.parsed;
        let is_authority = match enclave.basic_constraints() {
            Ok(constraints) => constraints.is_some_and(|constraints| constraints.value.ca),
            Err(_) => true,
        };
        if is_authority {
            return Err(untrusted("the enclave certificate is of a CA"));
        }
        match enclave.key_usage() {
            Ok(Some(usage)) if usage.value.digital_signature() => Ok(()),
            Ok(_) | Err(_) => Err(untrusted("the enclave certificate may not sign")),
        }
    }

    /// Each is issued by the one before it, under the root, in the order of `cabundle`. Windows are looked at afterwards:
    /// who reads that a certificate expired may rely on its being one of this root. **Denies** `EndorsementUntrusted`.
    pub(super) fn check_path(&self, now: Now) -> Result<(), Refusal> {
        self.check_names()?;
        let issuers: Vec<CertificateDer<'_>> = self.issuers.iter().map(|issuer| issuer.der.clone()).collect();
        let no_path = |error: Error| match error {
            // Of all moments the one at which the youngest began: the chain as a whole was never valid.
            Error::CertExpired { .. } => {
                Refusal::new(Denial::EndorsementExpired, "the certificates were never valid together")
            }
            error => untrusted(format!("the certificates do not lead to the root: {error}")),
        };
        let enclave = EndEntityCert::try_from(&self.enclave.der).map_err(no_path)?;
        let (anchors, time) = ([self.root.anchor.clone()], self.moment(now));
        let usage = KeyUsage::client_auth();
        let path = enclave.verify_for_usage(ALGORITHMS, &anchors, &issuers, time, usage, None, None);
        let path = path.map_err(no_path)?;
        let followed: Vec<_> =
            path.intermediate_certificates().rev().map(|certificate| certificate.der()).collect();
        match followed == issuers {
            true => Ok(()),
            false => Err(untrusted("the certificates do not lead to the root in the order of cabundle")),
        }
    }

    /// Every certificate, the root and its pin included, is valid at `now`. **Denies** `EndorsementExpired`,
    /// `EndorsementNotYetValid`.
    pub(super) fn check_windows(&self, now: Now) -> Result<Ends, Refusal> {
        let (root, name) = (self.root, format!("root certificate `{}`", self.root.name));
        check_window(&name, Window { begins: root.window.begins, ends: root.ends() }, now)?;
        let mut ends = Ends::of(name, root.ends());
        for certificate in self.all() {
            check_window(&certificate.name, certificate.window, now)?;
            ends = ends.and(certificate.name.clone(), certificate.window.ends);
        }
        Ok(ends)
    }

    /// None has a key that the operator refuses. **Denies** `EndorsementRevoked`.
    pub(super) fn check_refused_keys(&self, trust: &NitroTrust) -> Result<(), Refusal> {
        let keys = self.all().map(|certificate| {
            (certificate.name.as_str(), svid::sha256(certificate.parsed.public_key().raw))
        });
        let root = ("root certificate", self.root.key_sha256);
        match [root].into_iter().chain(keys).find(|(_, key)| trust.refuses(key)) {
            Some((name, _)) => Err(Refusal::new(
                Denial::EndorsementRevoked,
                format!("the key of the {name} is refused here"),
            )),
            None => Ok(()),
        }
    }

    /// The enclave's public key, an uncompressed point. **Denies** `EndorsementUntrusted`.
    pub(super) fn enclave_key(&self) -> Result<&[u8], Refusal> {
        let spki = self.enclave.parsed.public_key().raw;
        p384_point(spki).ok_or_else(|| untrusted("the enclave certificate's key is not on P-384"))
    }

    /// Every name stands once and is the issuer of the next, so there is one path to try: signatures cost what they cost,
    /// whatever a sender puts in.
    fn check_names(&self) -> Result<(), Refusal> {
        let mut subjects = vec![self.root.anchor.subject.as_ref()];
        for certificate in self.all() {
            let (issuer, subject) = (certificate.parsed.issuer(), certificate.parsed.subject());
            let before = subjects.last().copied().unwrap_or_default();
            if contents(issuer.as_raw()) != Some(before) {
                return Err(untrusted(format!(
                    "the {} is not issued by the one before it",
                    certificate.name
                )));
            }
            let subject = contents(subject.as_raw()).unwrap_or_default();
            if subjects.contains(&subject) {
                return Err(untrusted(format!("the {} has the name of another", certificate.name)));
            }
            subjects.push(subject);
        }
        Ok(())
    }

    /// Now, where all are valid now; else when the youngest began, as webpki looks at windows before signatures.
    fn moment(&self, now: Now) -> UnixTime {
        let youngest = self.all().map(|certificate| certificate.window.begins).max().unwrap_or_default();
        let valid = |certificate: &Certificate<'_>| {
            certificate.window.begins <= now.wall && now.wall < certificate.window.ends
        };
        let moment = if self.all().all(valid) { now.wall } else { youngest };
        UnixTime::since_unix_epoch(Duration::from_secs(moment.seconds()))
    }

    fn all(&self) -> impl Iterator<Item = &Certificate<'a>> {
        self.issuers.iter().chain([&self.enclave])
    }
}

impl<'a> Certificate<'a> {
    fn parse(name: String, der: &'a [u8]) -> Result<Self, Refusal> {
        let parsed = svid::parse(der).map_err(|_| {
            Refusal::new(Denial::EvidenceMalformed, format!("the {name} is not an X.509 certificate"))
        })?;
        let window = svid::window(&parsed);
        Ok(Certificate { name, der: CertificateDer::from(der), parsed, window })
    }
}

/// The allowance is for what begins in the future; none for what has ended.
fn check_window(name: &str, window: Window, now: Now) -> Result<(), Refusal> {
    let latest: WallTime = now.wall.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000));
    if now.wall >= window.ends {
        return Err(Refusal::new(Denial::EndorsementExpired, format!("the {name} ended at {}", window.ends)));
    }
    if window.begins > latest {
        let detail = format!("the {name} begins at {}", window.begins);
        return Err(Refusal::new(Denial::EndorsementNotYetValid, detail));
    }
    Ok(())
}

/// The contents of a name's SEQUENCE, as webpki has them.
fn contents(name: &[u8]) -> Option<&[u8]> {
    use x509_parser::prelude::FromDer;
    let (rest, any) = x509_parser::asn1_rs::Any::from_der(name).ok()?;
    rest.is_empty().then_some(any.data)
}

fn untrusted(detail: impl Into<String>) -> Refusal {
    Refusal::new(Denial::EndorsementUntrusted, detail)
}

/// AWS signs with P-384 and SHA-384 throughout.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[webpki::aws_lc_rs::ECDSA_P384_SHA384];
