//! What an operator pins for DCAP quotes: the roots, the collateral at hand, and how new Intel's judgement must be.
//!
//! *Takes* configuration. *Gives* [`TdxTrust`]. *Denies* nothing itself. *Source*: `certs/intel/README.md`; `evidence.md` §5.

use super::backend::sha256;
use super::certificate::Certificate;
use super::collateral::Collateral;
use super::genuine::Age;
use super::pcs::Question;
use crate::time::WallTime;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that a verification of a quote rests on besides the quote and its endorsements; nothing of it is read anew.
#[derive(Clone, Debug)]
pub struct TdxTrust {
    roots: Vec<Root>,
    pub(super) collateral: Collateral,
    pub(super) minimum_evaluation_data_number: u32,
    /// How new the newest answer to a question was that was ever seen; none where that is not known.
    pub(super) oldest: BTreeMap<Question, Option<Age>>,
}

/// A pinned root.
#[derive(Clone, Debug)]
pub struct Root {
    pub(super) certificate: Arc<Certificate>,
}

/// Not one DER certificate, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the root is not one X.509 certificate in DER")]
pub struct RootMalformed;

impl TdxTrust {
    /// No root: it trusts nobody.
    pub fn none() -> Self {
        TdxTrust {
            roots: Vec::new(),
            collateral: Collateral::new(),
            minimum_evaluation_data_number: 0,
            oldest: BTreeMap::new(),
        }
    }

    /// Intel's root, as compiled in, and no collateral yet.
    pub fn intel() -> Self {
        // A root that did not read would be missing, and nothing would verify; a test sees that it reads.
        TdxTrust::none().with_root(INTEL_SGX_ROOT_CA).unwrap_or_else(|RootMalformed| TdxTrust::none())
    }

    /// One root more.
    pub fn with_root(mut self, der: &[u8]) -> Result<Self, RootMalformed> {
        let der = CertificateDer::from(der.to_vec());
        let certificate = Certificate::read(&der).ok_or(RootMalformed)?;
        self.roots.push(Root { certificate: Arc::new(certificate) });
        Ok(self)
    }

    /// Without the root of this SHA-256: a switch for the day on which one is broken.
    pub fn without_root(mut self, sha256: &[u8; 32]) -> Self {
        self.roots.retain(|root| root.sha256() != *sha256);
        self
    }

    /// With this collateral beside what it has; in each case the part that counts is kept.
    pub fn with_collateral(mut self, collateral: Collateral) -> Self {
        self.collateral = self.collateral.merged(collateral);
        self
    }

    /// TCB info and QE identities of a lower tcbEvaluationDataNumber are too old from now on, whatever their nextUpdate.
    pub fn with_minimum_evaluation_data_number(mut self, number: u32) -> Self {
        self.minimum_evaluation_data_number = number;
        self
    }

    /// Refuses answers that are older than one that was ever seen, whoever brings them; where it is not known how new
    /// that was (none), every answer.
    pub fn with_oldest(mut self, oldest: impl IntoIterator<Item = (Question, Option<Age>)>) -> Self {
        self.oldest.extend(oldest);
        self
    }

    /// The roots.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The collateral at hand.
    pub fn collateral(&self) -> &Collateral {
        &self.collateral
    }

    /// The pinned certificates.
    pub(super) fn pinned(&self) -> impl Iterator<Item = &Certificate> {
        self.roots.iter().map(|root| -> &Certificate { &root.certificate })
    }

    /// The root that is this certificate, whole.
    pub(super) fn root(&self, der: &CertificateDer<'_>) -> Option<&Root> {
        self.roots.iter().find(|root| root.certificate.der == *der)
    }
}

impl Root {
    /// SHA-256 of the DER.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.certificate.der)
    }

    /// notAfter.
    pub fn ends(&self) -> WallTime {
        self.certificate.ends
    }
}

/// Intel SGX Root CA.
const INTEL_SGX_ROOT_CA: &[u8] = include_bytes!("../../../certs/intel/sgx-root-ca.der");

#[cfg(test)]
mod tests {
    use super::*;

    /// `evidence.md` §5, `certs/intel/README.md`.
    const FINGERPRINT: &str = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3";

    #[test]
    fn intels_root_is_the_one_of_the_notes() {
        let trust = TdxTrust::intel();
        let [root] = trust.roots() else { panic!("{} roots", trust.roots().len()) };
        assert_eq!(hex::encode(root.sha256()), FINGERPRINT);
        assert_eq!(root.ends().to_string(), "2049-12-31T23:59:59.000Z");
        assert!(root.certificate.is_by(&root.certificate));
        let readme = include_str!("../../../certs/intel/README.md");
        assert!(readme.contains(FINGERPRINT));
        assert!(trust.clone().without_root(&root.sha256()).roots().is_empty());
    }

    #[test]
    fn what_is_no_certificate_is_no_root() {
        for der in [&b""[..], b"-----BEGIN CERTIFICATE-----", &[INTEL_SGX_ROOT_CA, &[0]].concat()] {
            assert_eq!(TdxTrust::none().with_root(der).unwrap_err(), RootMalformed);
        }
    }
}
