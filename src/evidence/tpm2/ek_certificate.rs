//! Whose TPM it is: an EK's certificate, up to a manufacturer's root that the operator trusts.
//!
//! *Takes* a certificate, those that came along, [`Manufacturers`] and the time. *Gives* [`EkCertificate`]. *Denies*
//! `EvidenceMalformed`, `EndorsementUntrusted`, `EndorsementExpired`, `EndorsementNotYetValid`, `EndorsementRevoked`,
//! `CollateralUnavailable`, `CollateralStale`. *Source*: TCG EK Credential Profile 2.5 §3; RFC 5280 §6; `evidence.md` §3, §9.

use super::Refusal;
use super::public::{Curve, PublicKey};
use crate::denial::Denial;
use crate::evidence::outcome::Ends;
use crate::limits;
use crate::time::{Now, WallTime};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use std::time::Duration;
use webpki::aws_lc_rs as algorithms;
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

/// Roots of TPM manufacturers, what leads to them, and their revocation lists. Read from configuration; nothing is fetched.
#[derive(Default)]
pub struct Manufacturers {
    roots: Vec<Root>,
    intermediates: Vec<CertificateDer<'static>>,
    lists: Vec<CertRevocationList<'static>>,
}

struct Root {
    anchor: TrustAnchor<'static>,
    certificate: CertificateDer<'static>,
    revocation: Revocation,
}

/// What a root's certificates need beside a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// A current revocation list of every issuer on the path.
    Demanded,
    /// None: its manufacturer publishes none, or the operator takes the risk. A list that is there counts all the same.
    NotPublished,
}

/// Why a file holds no root, intermediate or list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManufacturerError {
    /// Neither DER nor PEM of what was expected, or nothing in it.
    #[error("no certificate or list in the file")]
    Empty,
    /// A certificate that cannot be a root.
    #[error("not a certificate authority")]
    NotAnAuthority,
    /// No manufacturer of that name is compiled in.
    #[error("no manufacturer of that name is compiled in")]
    NotPinned,
    /// webpki's own words: no nextUpdate, a delta, an indirect list, an unknown critical extension.
    #[error("not a usable revocation list: {0}")]
    List(String),
}

/// An EK's certificate that leads to a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EkCertificate {
    /// The certified key, which must be the one that a credential is made for.
    pub key: PublicKey,
    /// When each certificate of the path ends.
    pub ends: Ends,
    /// The manufacturer, such as `id:494E5443`, as the certificate says.
    pub manufacturer: String,
    /// The TPM's model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the root's certificate, DER.
    pub root_sha256: [u8; 32],
}

impl Manufacturers {
    /// None: no certificate leads anywhere.
    pub fn none() -> Self {
        Manufacturers::default()
    }

    /// With the roots of a DER or PEM file.
    pub fn and_roots(mut self, file: &[u8], revocation: Revocation) -> Result<Self, ManufacturerError> {
        for certificate in certificates(file)? {
            let authority = parsed(&certificate).is_some_and(|root| root.is_ca());
            let anchor = webpki::anchor_from_trusted_cert(&certificate).ok().filter(|_| authority);
            let anchor = anchor.ok_or(ManufacturerError::NotAnAuthority)?.to_owned();
            self.roots.push(Root { anchor, certificate, revocation });
        }
        Ok(self)
    }

    /// With a manufacturer that is compiled in, by its name: `google-gce`, the virtual TPMs of Google's Compute Engine.
    pub fn and_pinned(self, name: &str, revocation: Revocation) -> Result<Self, ManufacturerError> {
        match name {
            "google-gce" => {
                self.and_roots(GOOGLE_GCE_ROOT, revocation)?.and_intermediates(GOOGLE_GCE_INTERMEDIATE)
            }
            _ => Err(ManufacturerError::NotPinned),
        }
    }

    /// With certificates that may lead to a root, of a DER or PEM file. They are trusted no more than those that an attester
    /// passes along.
    pub fn and_intermediates(mut self, file: &[u8]) -> Result<Self, ManufacturerError> {
        self.intermediates.extend(certificates(file)?);
        Ok(self)
    }

    /// With the revocation lists of a DER or PEM file.
    pub fn and_lists(mut self, file: &[u8]) -> Result<Self, ManufacturerError> {
        let lists: Vec<CertificateRevocationListDer<'_>> = match is_pem(file) {
            true => CertificateRevocationListDer::pem_slice_iter(file)
                .collect::<Result<_, _>>()
                .map_err(|_| ManufacturerError::Empty)?,
            false => vec![CertificateRevocationListDer::from(file)],
        };
        if lists.is_empty() {
            return Err(ManufacturerError::Empty);
        }
        for list in lists {
            let list = OwnedCertRevocationList::from_der(&list);
            self.lists.push(list.map_err(|error| ManufacturerError::List(error.to_string()))?.into());
        }
        Ok(self)
    }

    /// How many roots there are.
    pub fn roots(&self) -> usize {
        self.roots.len()
    }

    /// Checks an EK's certificate, as it was read from the TPM: padding after it is cut off. `carried` came along with it.
    /// **Denies** as the module says.
    pub fn check(&self, certificate: &[u8], carried: &[Vec<u8>], now: Now) -> Result<EkCertificate, Refusal> {
        let certificate = CertificateDer::from(unpadded(certificate)?);
        if carried.len() > limits::TPM2_EK_ISSUERS
            || carried.iter().any(|issuer| issuer.len() > limits::TPM2_EK_CERTIFICATE_BYTES)
        {
            return Err(Refusal::new(Denial::EvidenceMalformed, "more issuers than any chain has"));
        }
        let parsed = parsed(&certificate)
            .ok_or_else(|| Refusal::new(Denial::EvidenceMalformed, "the EK certificate does not parse"))?;
        let key = certified_key(&parsed).ok_or_else(|| {
            let detail = "the EK certificate's key is not RSA of 2048 to 4096 bits, P-256 or P-384";
            Refusal::new(Denial::EndorsementUntrusted, detail)
        })?;
        check_usage(&parsed, &key)?;
        let [manufacturer, model, version] = tpm_names(&parsed)?;
        let (root, ends) = self.find_path(&certificate, carried, now)?;
        let root_sha256 = super::algorithm::sha256(&root.certificate);
        Ok(EkCertificate { key, ends, manufacturer, model, version, root_sha256 })
    }

    fn find_path(
        &self,
        certificate: &CertificateDer<'_>,
        carried: &[Vec<u8>],
        now: Now,
    ) -> Result<(&Root, Ends), Refusal> {
        let malformed = |_| Refusal::new(Denial::EvidenceMalformed, "the EK certificate does not parse");
        let leaf = EndEntityCert::try_from(certificate).map_err(malformed)?;
        let carried = carried.iter().map(|der| CertificateDer::from(der.as_slice()));
        let issuers: Vec<CertificateDer<'_>> = self.intermediates.iter().cloned().chain(carried).collect();
        let anchors: Vec<TrustAnchor<'_>> = self.roots.iter().map(|root| root.anchor.clone()).collect();
        let mut time = unix(now.wall);
        let mut outcome = leaf.verify_for_usage(SIGNATURES, &anchors, &issuers, time, usage(), None, None);
        if let Err(Error::CertNotValidYet { not_before, .. }) = &outcome {
            // The windows are looked at again below, by the true time, so nothing that has ended slips through.
            if *not_before <= unix(now.wall.plus(ALLOWANCE_MS)) {
                time = *not_before;
                outcome = leaf.verify_for_usage(SIGNATURES, &anchors, &issuers, time, usage(), None, None);
            }
        }
        let path = outcome.map_err(|error| refused(&error))?;
        let root = self.root_of(&path)?;
        let ends = windows(&path, root, now)?;
        self.check_revocation(&leaf, &issuers, root, time)?;
        Ok((root, ends))
    }

    fn root_of(&self, path: &VerifiedPath<'_>) -> Result<&Root, Refusal> {
        let anchor = path.anchor();
        let same = |root: &&Root| {
            root.anchor.subject == anchor.subject
                && root.anchor.subject_public_key_info == anchor.subject_public_key_info
        };
        // Where one key has two certificates, the stricter word about revocation counts.
        let strict =
            self.roots.iter().filter(same).min_by_key(|root| root.revocation != Revocation::Demanded);
        strict.ok_or_else(|| refused(&Error::UnknownIssuer))
    }

    fn check_revocation(
        &self,
        leaf: &EndEntityCert<'_>,
        issuers: &[CertificateDer<'_>],
        root: &Root,
        time: UnixTime,
    ) -> Result<(), Refusal> {
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let unknown = match root.revocation {
            Revocation::Demanded => UnknownStatusPolicy::Deny,
            Revocation::NotPublished if lists.is_empty() => return Ok(()),
            Revocation::NotPublished => UnknownStatusPolicy::Allow,
        };
        let options =
            RevocationOptionsBuilder::new(&lists).map_err(|_| refused(&Error::UnknownRevocationStatus))?;
        let options = options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(unknown)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build();
        let anchors = [root.anchor.clone()];
        let outcome =
            leaf.verify_for_usage(SIGNATURES, &anchors, issuers, time, usage(), Some(options), None);
        outcome.map(|_| ()).map_err(|error| refused(&error))
    }
}

/// The certificate without what a TPM's NV index leaves behind it: zeros, or 0xff. **Denies** `EvidenceMalformed`.
fn unpadded(certificate: &[u8]) -> Result<&[u8], Refusal> {
    let malformed = |detail| Refusal::new(Denial::EvidenceMalformed, detail);
    if certificate.len() > limits::TPM2_EK_CERTIFICATE_BYTES {
        return Err(malformed("the EK certificate is longer than any"));
    }
    let (rest, _) =
        X509Certificate::from_der(certificate).map_err(|_| malformed("the EK certificate does not parse"))?;
    let padding = rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 0xff);
    let length = certificate.len().saturating_sub(rest.len());
    certificate
        .get(..length)
        .filter(|_| padding)
        .ok_or_else(|| malformed("something other than padding follows the EK certificate"))
}

/// The EK purpose is demanded of the EK's own certificate: webpki would demand it of its issuers too. **Denies**
/// `EndorsementUntrusted`.
fn check_usage(certificate: &X509Certificate<'_>, key: &PublicKey) -> Result<(), Refusal> {
    let untrusted = |detail: &str| Refusal::new(Denial::EndorsementUntrusted, detail);
    if certificate.is_ca() {
        return Err(untrusted("the EK certificate is an authority's"));
    }
    let purposes = certificate.extended_key_usage().ok().flatten();
    let is_ek = |purpose: &x509_parser::asn1_rs::Oid<'_>| purpose.as_bytes() == EK_PURPOSE;
    if !purposes.is_some_and(|purposes| purposes.value.other.iter().any(is_ek)) {
        return Err(untrusted("the certificate is not of an endorsement key"));
    }
    let usage =
        certificate.key_usage().map_err(|_| untrusted("the EK certificate's key usage does not parse"))?;
    let fits = usage.is_none_or(|usage| match key {
        PublicKey::Rsa(_) => usage.value.key_encipherment(),
        PublicKey::Ec(..) => usage.value.key_agreement(),
    });
    fits.then_some(()).ok_or_else(|| untrusted("the EK certificate's key usage is not for credentials"))
}

/// Manufacturer, model and version of the TPM, from the directory name among the subject alternative names. **Denies**
/// `EndorsementUntrusted`.
fn tpm_names(certificate: &X509Certificate<'_>) -> Result<[String; 3], Refusal> {
    let untrusted = || {
        let detail = "the EK certificate does not say manufacturer, model and version of a TPM";
        Refusal::new(Denial::EndorsementUntrusted, detail)
    };
    let names = certificate.subject_alternative_name().ok().flatten().ok_or_else(untrusted)?;
    let directory = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DirectoryName(name) => Some(name),
        _ => None,
    });
    let directory = directory.ok_or_else(untrusted)?;
    let named = |purpose: &[u8]| {
        let mut attributes =
            directory.iter_attributes().filter(|attribute| attribute.attr_type().as_bytes() == purpose);
        let text = attributes.next()?.as_str().ok()?;
        let bounded =
            text.chars().filter(|character| !character.is_control()).take(NAME_CHARACTERS).collect();
        attributes.next().is_none().then_some(bounded)
    };
    let [manufacturer, model, version] = [TPM_MANUFACTURER, TPM_MODEL, TPM_VERSION].map(named);
    Ok([manufacturer.ok_or_else(untrusted)?, model.ok_or_else(untrusted)?, version.ok_or_else(untrusted)?])
}

/// The key, whatever algorithm identifier it has of the two that RSA EKs come with: rsaEncryption, or RSAES-OAEP.
fn certified_key(certificate: &X509Certificate<'_>) -> Option<PublicKey> {
    let spki = certificate.public_key();
    let bits: &[u8] = &spki.subject_public_key.data;
    match spki.algorithm.algorithm.as_bytes() {
        RSA_ENCRYPTION | RSAES_OAEP => {
            let (rest, key) = RSAPublicKey::from_der(bits).ok()?;
            let modulus = key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus);
            let sound = matches!(modulus.len(), 256 | 384 | 512) && modulus.first()? & 0x80 != 0;
            let sound = sound && rest.is_empty() && key.try_exponent() == Ok(65_537);
            sound.then(|| PublicKey::Rsa(modulus.to_vec()))
        }
        EC_PUBLIC_KEY => {
            let curve = spki.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let curve = match curve.as_bytes() {
                P256 => Curve::P256,
                P384 => Curve::P384,
                _ => return None,
            };
            let length = curve.bytes().checked_mul(2)?.checked_add(1)?;
            let sound = bits.len() == length && bits.first() == Some(&4);
            sound.then(|| PublicKey::Ec(curve, bits.to_vec()))
        }
        _ => None,
    }
}

/// Every certificate of the path, root included, by the true time. An end is exclusive; a beginning has the usual allowance.
fn windows(path: &VerifiedPath<'_>, root: &Root, now: Now) -> Result<Ends, Refusal> {
    let end_entity: &webpki::Cert<'_> = path.end_entity();
    let ends = window("EK certificate", &end_entity.der(), now)?;
    let mut all = Ends::of("EK certificate", ends);
    for issuer in path.intermediate_certificates() {
        let what = "EK certificate's issuer";
        all = all.and(what, window(what, &issuer.der(), now)?);
    }
    let what = "manufacturer's root";
    Ok(all.and(what, window(what, &root.certificate, now)?))
}

fn window(what: &str, certificate: &[u8], now: Now) -> Result<WallTime, Refusal> {
    let parsed = parsed(certificate)
        .ok_or_else(|| Refusal::new(Denial::EvidenceMalformed, format!("{what} does not parse")))?;
    let validity = parsed.validity();
    let begins = WallTime::from_seconds(validity.not_before.timestamp());
    let ends = WallTime::from_seconds(validity.not_after.timestamp());
    if now.wall >= ends {
        return Err(Refusal::new(Denial::EndorsementExpired, format!("{what} ended at {ends}")));
    }
    if begins > now.wall.plus(ALLOWANCE_MS) {
        return Err(Refusal::new(Denial::EndorsementNotYetValid, format!("{what} begins at {begins}")));
    }
    Ok(ends)
}

fn refused(error: &Error) -> Refusal {
    let denial = match error {
        Error::CertExpired { .. } => Denial::EndorsementExpired,
        Error::CertNotValidYet { .. } => Denial::EndorsementNotYetValid,
        Error::CertRevoked => Denial::EndorsementRevoked,
        Error::CrlExpired { .. } => Denial::CollateralStale,
        Error::UnknownRevocationStatus => Denial::CollateralUnavailable,
        _ => Denial::EndorsementUntrusted,
    };
    Refusal::new(denial, format!("the EK certificate: {error}"))
}

fn usage() -> KeyUsage {
    KeyUsage::required_if_present(EK_PURPOSE)
}

/// One certificate, whole, version 3, no extension twice.
fn parsed(certificate: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) if parsed.extensions_map().is_ok() => Some(parsed),
        Ok(_) | Err(_) => None,
    }
}

fn certificates(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, ManufacturerError> {
    let certificates: Vec<CertificateDer<'static>> = match is_pem(file) {
        true => CertificateDer::pem_slice_iter(file)
            .collect::<Result<_, _>>()
            .map_err(|_| ManufacturerError::Empty)?,
        false => vec![CertificateDer::from(file.to_vec())],
    };
    match certificates.is_empty() || certificates.iter().any(|certificate| parsed(certificate).is_none()) {
        true => Err(ManufacturerError::Empty),
        false => Ok(certificates),
    }
}

fn is_pem(file: &[u8]) -> bool {
    file.trim_ascii_start().starts_with(b"-----BEGIN")
}

fn unix(time: WallTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.seconds()))
}

/// `certs/google/README.md`.
pub(super) const GOOGLE_GCE_ROOT: &[u8] = include_bytes!("../../../certs/google/gce-ek-ak-root.der");
pub(super) const GOOGLE_GCE_INTERMEDIATE: &[u8] =
    include_bytes!("../../../certs/google/gce-ek-ak-intermediate-v3.der");

/// What manufacturers sign with: RSA of both kinds and ECDSA, never SHA-1.
static SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
];

/// Allowance for what begins in the future.
const ALLOWANCE_MS: u64 = limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000);

/// A name of a TPM is some twenty characters.
const NAME_CHARACTERS: usize = 64;

// Object identifiers, the contents of their DER.

/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_PURPOSE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// tcg-at-tpmManufacturer, 2.23.133.2.1.
const TPM_MANUFACTURER: &[u8] = &[0x67, 0x81, 0x05, 0x02, 0x01];
/// tcg-at-tpmModel, 2.23.133.2.2.
const TPM_MODEL: &[u8] = &[0x67, 0x81, 0x05, 0x02, 0x02];
/// tcg-at-tpmVersion, 2.23.133.2.3.
const TPM_VERSION: &[u8] = &[0x67, 0x81, 0x05, 0x02, 0x03];
/// rsaEncryption, 1.2.840.113549.1.1.1.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// id-RSAES-OAEP, 1.2.840.113549.1.1.7: how Infineon and others mark a key that only decrypts.
const RSAES_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07];
/// id-ecPublicKey, 1.2.840.10045.2.1.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// prime256v1, 1.2.840.10045.3.1.7.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// secp384r1, 1.3.132.0.34.
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
