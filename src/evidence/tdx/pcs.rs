//! Intel's Provisioning Certification Service, version 4, or an operator's cache of it (PCCS): what to ask for, and what
//! an answer holds. Nothing here speaks to a network.
//!
//! *Takes* an answer's body and header. *Gives* [`Collateral`]. *Denies* nothing itself. *Source*: Intel PCS API version 4;
//! `evidence.md` §5 "Online".

use super::certificate::Certificate;
use super::collateral::{Collateral, CollateralError, Tee};
use crate::limits;

/// Intel's own service; an operator's PCCS has a base of its own, and the same paths below it.
pub const INTEL_PCS: &str = "https://api.trustedservices.intel.com";
/// Where Intel publishes the list of its root, DER. A PCCS has it below [`Question::path`] of [`Question::RootCrl`].
pub const INTEL_ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";

/// Which CA issued a PCK certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PckCa {
    /// Platforms with several packages: servers.
    Platform,
    /// Single processors.
    Processor,
}

impl PckCa {
    /// The name in the service's queries.
    pub fn name(self) -> &'static str {
        match self {
            PckCa::Platform => "platform",
            PckCa::Processor => "processor",
        }
    }

    /// By the issuer's whole common name; any other is no PCK CA.
    pub(super) fn of(certificate: &Certificate) -> Option<PckCa> {
        PckCa::of_common_name(&certificate.issuer_common_name)
    }

    /// By its own whole common name.
    pub(super) fn of_common_name(name: &str) -> Option<PckCa> {
        [PckCa::Platform, PckCa::Processor].into_iter().find(|ca| ca.common_name() == name)
    }

    fn common_name(self) -> &'static str {
        match self {
            PckCa::Platform => "Intel SGX PCK Platform CA",
            PckCa::Processor => "Intel SGX PCK Processor CA",
        }
    }
}

/// One question to the service; a GET each. All four together are a quote's collateral.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    /// TCB info of a platform, by its FMSPC.
    TcbInfo {
        /// SGX or TDX: different statements.
        tee: Tee,
        /// As [`super::Platform`] has it.
        fmspc: [u8; 6],
    },
    /// The identity of the quoting enclave.
    QeIdentity {
        /// SGX or TDX.
        tee: Tee,
    },
    /// The revocation list of a PCK CA.
    PckCrl {
        /// Which one.
        ca: PckCa,
    },
    /// The revocation list of the root.
    RootCrl,
}

impl Question {
    /// What the collateral of one platform is.
    pub fn of(tee: Tee, fmspc: [u8; 6], ca: PckCa) -> [Question; 4] {
        [
            Question::TcbInfo { tee, fmspc },
            Question::QeIdentity { tee },
            Question::PckCrl { ca },
            Question::RootCrl,
        ]
    }

    /// Path and query, to be put after the service's base.
    pub fn path(&self) -> String {
        match self {
            Question::TcbInfo { tee, fmspc } => {
                let fmspc = hex::encode_upper(fmspc);
                format!("/{}/certification/v4/tcb?fmspc={fmspc}", tee.name().to_ascii_lowercase())
            }
            Question::QeIdentity { tee } => {
                format!("/{}/certification/v4/qe/identity", tee.name().to_ascii_lowercase())
            }
            Question::PckCrl { ca } => {
                format!("/sgx/certification/v4/pckcrl?ca={}&encoding=der", ca.name())
            }
            Question::RootCrl => "/sgx/certification/v4/rootcacrl".to_owned(),
        }
    }

    /// The whole address: below `base`, but for the root's list, which Intel's own service does not have.
    pub fn address(&self, base: &str) -> String {
        match self {
            Question::RootCrl if base.trim_end_matches('/') == INTEL_PCS => INTEL_ROOT_CRL.to_owned(),
            _ => format!("{}{}", base.trim_end_matches('/'), self.path()),
        }
    }

    /// The header that holds the issuer chain, in lower case; none for the root's list, whose issuer is pinned. A PCK CA's
    /// list needs it for whoever would keep genuine ones alone; a verifier has that CA in the quote's own chain.
    pub fn chain_header(&self) -> Option<&'static str> {
        match self {
            Question::TcbInfo { .. } => Some("tcb-info-issuer-chain"),
            Question::QeIdentity { .. } => Some("sgx-enclave-identity-issuer-chain"),
            Question::PckCrl { .. } => Some("sgx-pck-crl-issuer-chain"),
            Question::RootCrl => None,
        }
    }

    /// Reads an answer with status 200. `chain` is the header's value, percent-encoded. That the answer is to the question
    /// is checked; that it is genuine, `verify` sees.
    pub fn accept(&self, body: &[u8], chain: Option<&str>) -> Result<Collateral, CollateralError> {
        if body.len() > limits::DCAP_COLLATERAL_BYTES {
            return Err(CollateralError::TooLarge(limits::DCAP_COLLATERAL_BYTES));
        }
        match self {
            Question::TcbInfo { tee, fmspc } => {
                let (text, signature) =
                    signed(body, "tcbInfo").ok_or(CollateralError::Malformed("tcbInfo"))?;
                let collateral = Collateral::of_tcb_info(text, signature, issuer_chain(chain)?)?;
                let asked = |part: &std::sync::Arc<super::collateral::SignedTcbInfo>| {
                    part.info.id == tee.name() && part.fmspc == *fmspc
                };
                matching(collateral.tcb_infos.iter().all(asked), "tcbInfo", collateral)
            }
            Question::QeIdentity { tee } => {
                let malformed = CollateralError::Malformed("enclaveIdentity");
                let (text, signature) = signed(body, "enclaveIdentity").ok_or(malformed)?;
                let collateral = Collateral::of_qe_identity(text, signature, issuer_chain(chain)?)?;
                let mut parts = collateral.qe_identities.iter();
                let asked = parts.all(|part| part.identity.id == tee.qe_identity());
                matching(asked, "enclaveIdentity", collateral)
            }
            Question::PckCrl { ca } => list(body, "pckcrl", ca.common_name()),
            Question::RootCrl => list(body, "rootcacrl", ROOT_CA),
        }
    }
}

/// The common name of Intel's root.
pub(super) const ROOT_CA: &str = "Intel SGX Root CA";

/// The signed text, and its signature in hex, of `{"<name>":<text>,"signature":"<hex>"}`: the text to the byte, as the
/// signature is over it.
fn signed<'a>(body: &'a [u8], name: &str) -> Option<(String, &'a str)> {
    let body = std::str::from_utf8(body).ok()?.trim_ascii();
    let rest = body.strip_prefix("{\"")?.strip_prefix(name)?.strip_prefix("\":")?;
    let (text, rest) = rest.rsplit_once(",\"signature\":\"")?;
    Some((text.to_owned(), rest.strip_suffix("\"}")?))
}

/// The issuer chain, PEM, in the value of such a header.
pub(super) fn issuer_chain(header: Option<&str>) -> Result<String, CollateralError> {
    let header = header.ok_or(CollateralError::Incomplete("issuer chain"))?;
    if header.len() > limits::DCAP_ISSUER_CHAIN_BYTES {
        return Err(CollateralError::TooLarge(limits::DCAP_ISSUER_CHAIN_BYTES));
    }
    percent_decoded(header).ok_or(CollateralError::Malformed("issuer chain"))
}

/// RFC 3986 §2.1; a plus is a plus.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return None };
        let mut decoded = [0; 1];
        hex::decode_to_slice([*high, *low], &mut decoded).ok()?;
        bytes.extend(decoded);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// A list as DER, or as the hex text that a PCCS gives: DER begins with 0x30, hex text with the letter `3`.
fn list(body: &[u8], name: &'static str, issuer: &str) -> Result<Collateral, CollateralError> {
    let decoded = match body.first() {
        Some(b'3') => hex::decode(body.trim_ascii()).map_err(|_| CollateralError::Malformed(name))?,
        Some(_) | None => body.to_vec(),
    };
    let collateral = Collateral::of_list(name, &decoded)?;
    let asked = collateral.lists.iter().all(|list| list.issuer_common_name == issuer);
    matching(asked, name, collateral)
}

fn matching(asked: bool, name: &'static str, collateral: Collateral) -> Result<Collateral, CollateralError> {
    if asked { Ok(collateral) } else { Err(CollateralError::Malformed(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FMSPC: [u8; 6] = [0x90, 0xc0, 0x6f, 0, 0, 0];

    #[test]
    fn questions_go_to_the_paths_of_version_4() {
        let paths = Question::of(Tee::Tdx, FMSPC, PckCa::Platform).map(|question| question.path());
        assert_eq!(
            paths,
            [
                "/tdx/certification/v4/tcb?fmspc=90C06F000000",
                "/tdx/certification/v4/qe/identity",
                "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
                "/sgx/certification/v4/rootcacrl",
            ]
        );
        assert_eq!(Question::QeIdentity { tee: Tee::Sgx }.path(), "/sgx/certification/v4/qe/identity");
        assert_eq!(Question::RootCrl.address(&format!("{INTEL_PCS}/")), INTEL_ROOT_CRL);
        let own = "https://pccs.example.org:8081/";
        let address = "https://pccs.example.org:8081/sgx/certification/v4/rootcacrl";
        assert_eq!(Question::RootCrl.address(own), address);
    }

    #[test]
    fn percent_encoding_is_undone_strictly() {
        assert_eq!(percent_decoded("a%20b%2B+%0a").as_deref(), Some("a b++\n"));
        for text in ["%", "%2", "%g0", "%ff"] {
            assert_eq!(percent_decoded(text), None, "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_not_of_that_form_is_refused() {
        let question = Question::TcbInfo { tee: Tee::Tdx, fmspc: FMSPC };
        for body in ["", "{}", "<html>", r#"{"tcbInfo":{}}"#, r#"{"enclaveIdentity":{},"signature":"00"}"#] {
            let error = question.accept(body.as_bytes(), Some("")).unwrap_err();
            assert_eq!(error, CollateralError::Malformed("tcbInfo"), "{body}");
        }
        let body = br#"{"tcbInfo":{},"signature":"00"}"#;
        assert_eq!(question.accept(body, None).unwrap_err(), CollateralError::Incomplete("issuer chain"));
        let long = "a".repeat(limits::DCAP_ISSUER_CHAIN_BYTES + 1);
        assert!(matches!(question.accept(body, Some(&long)), Err(CollateralError::TooLarge(_))));
        let large = vec![b' '; limits::DCAP_COLLATERAL_BYTES + 1];
        assert!(matches!(question.accept(&large, Some("")), Err(CollateralError::TooLarge(_))));
        for body in [&b""[..], b"<html>", b"30", b"3082", &[0x30, 0x82]] {
            assert_eq!(
                Question::RootCrl.accept(body, None).unwrap_err(),
                CollateralError::Malformed("rootcacrl")
            );
        }
    }
}
