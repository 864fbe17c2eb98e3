//! What can be fetched: each item by name, with its service, its addresses and its bounds.
//!
//! *Takes* what the formats say that they need. *Gives* [`Item`]. *Denies* nothing. *Source*: AMD 57230 §4; Intel PCS API
//! version 4.

use crate::evidence::sev_snp::{Needed, Product, SigningKey, chain_path, list_path};
use crate::evidence::tdx::{PckCa, Question};
use crate::limits;
use std::fmt;

/// One thing that a service publishes and a verification may need.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Item {
    /// The certificate of an AMD chip's key at one TCB, under the first of these paths that has it.
    SevSnpCertificate {
        /// As [`crate::evidence::sev_snp::certificate_paths`] has them.
        paths: Vec<String>,
    },
    /// An AMD product's intermediate.
    SevSnpIntermediate {
        /// Of which product.
        product: Product,
        /// ASK or ASVK.
        signing_key: SigningKey,
    },
    /// The revocation list of an AMD product's root.
    SevSnpList {
        /// Of which product.
        product: Product,
        /// Under which of the two addresses.
        signing_key: SigningKey,
    },
    /// A part of Intel's collateral.
    Dcap(Question),
}

/// Who publishes an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// AMD's key distribution service, or an operator's copy of it.
    SevSnp,
    /// Intel's provisioning certification service, or an operator's cache of it.
    Tdx,
}

impl Item {
    /// Its service.
    pub fn service(&self) -> Service {
        match self {
            Item::SevSnpCertificate { .. } | Item::SevSnpIntermediate { .. } | Item::SevSnpList { .. } => {
                Service::SevSnp
            }
            Item::Dcap(_) => Service::Tdx,
        }
    }

    /// Its whole addresses below a service's base, to be tried in order.
    pub(super) fn addresses(&self, base: &str) -> Vec<String> {
        let below = |path: &str| format!("{}{path}", base.trim_end_matches('/'));
        match self {
            Item::SevSnpCertificate { paths } => paths.iter().map(|path| below(path)).collect(),
            Item::SevSnpIntermediate { product, signing_key } => {
                vec![below(&chain_path(*product, *signing_key))]
            }
            Item::SevSnpList { product, signing_key } => vec![below(&list_path(*product, *signing_key))],
            Item::Dcap(question) => vec![question.address(base)],
        }
    }

    /// The largest answer that is read, bytes.
    pub(super) fn body_bytes(&self) -> usize {
        match self {
            Item::SevSnpCertificate { .. } => limits::SEV_SNP_CERTIFICATE_BYTES,
            Item::SevSnpIntermediate { .. } => limits::COLLATERAL_CHAIN_BYTES,
            Item::SevSnpList { .. } => limits::SEV_SNP_LIST_BYTES,
            Item::Dcap(_) => limits::DCAP_COLLATERAL_BYTES,
        }
    }

    /// The header that the answer needs beside its body, in lower case.
    pub(super) fn header(&self) -> Option<&'static str> {
        match self {
            Item::Dcap(question) => question.chain_header(),
            Item::SevSnpCertificate { .. } | Item::SevSnpIntermediate { .. } | Item::SevSnpList { .. } => {
                None
            }
        }
    }
}

impl From<Needed> for Item {
    fn from(needed: Needed) -> Self {
        match needed {
            Needed::Certificate { paths } => Item::SevSnpCertificate { paths },
            Needed::Intermediate { product, signing_key, .. } => {
                Item::SevSnpIntermediate { product, signing_key }
            }
            Needed::List { product, signing_key, .. } => Item::SevSnpList { product, signing_key },
        }
    }
}

impl Service {
    /// Both.
    pub const ALL: [Service; 2] = [Service::SevSnp, Service::Tdx];

    /// The evidence format that it serves.
    pub fn name(self) -> &'static str {
        match self {
            Service::SevSnp => crate::evidence::sev_snp::FORMAT,
            Service::Tdx => crate::evidence::tdx::FORMAT,
        }
    }
}

impl fmt::Display for Item {
    /// For a log, a table or a refusal's detail.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::SevSnpCertificate { paths } => {
                let path = paths.first().map_or("", String::as_str);
                write!(formatter, "VCEK certificate `{path}`")
            }
            Item::SevSnpIntermediate { product, signing_key } => {
                write!(formatter, "intermediate for {} of {}", signing_key.name(), product.name())
            }
            Item::SevSnpList { product, signing_key } => {
                write!(formatter, "revocation list for {} of {}", signing_key.name(), product.name())
            }
            Item::Dcap(question) => match question {
                Question::TcbInfo { tee, fmspc } => {
                    write!(formatter, "TCB info {} {}", tee.name(), hex::encode(fmspc))
                }
                Question::QeIdentity { tee } => write!(formatter, "QE identity {}", tee.name()),
                Question::PckCrl { ca: PckCa::Platform } => write!(formatter, "PCK platform CA's list"),
                Question::PckCrl { ca: PckCa::Processor } => write!(formatter, "PCK processor CA's list"),
                Question::RootCrl => write!(formatter, "Intel root CA's list"),
            },
        }
    }
}
