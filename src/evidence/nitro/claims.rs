//! What a verified `nitro` document says.
//!
//! *Takes* a [`Document`] that verified. *Gives* [`NitroClaims`], to appraisal, policy and the audit log, and the subject of
//! a latch. *Denies* nothing itself. *Source*: AWS "Cryptographic attestation" (meaning of the PCRs).

use super::parse::Document;
use crate::time::WallTime;
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The claims of one document. Bytes are lower-case hex. PCRs and `module_id` are the hypervisor's word; `public_key`,
/// `user_data`, `nonce` and the PCRs from 16 on are the enclave's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NitroClaims {
    /// The enclave: `i-<instance>-enc<enclave>`.
    pub module_id: String,
    /// When the document was made, milliseconds.
    pub timestamp: WallTime,
    /// What PCRs are digests by: "SHA384".
    pub digest: String,
    /// PCRs by index. 0: the enclave image; 1: kernel and bootstrap; 2: the application; 3: the IAM role of the parent
    /// instance; 4: the parent instance's id; 8: the certificate that signed the image; 16 to 31: the enclave's own.
    /// All zeros is one that was never set.
    pub pcrs: BTreeMap<u8, String>,
    /// Whether it runs in debug mode: one of PCR0, PCR1, PCR2 is all zeros, so they say nothing of what runs, and the parent
    /// instance reads its console.
    pub debug: bool,
    /// What the enclave says is its public key, where it said one.
    pub public_key: Option<String>,
    /// What the enclave added, where it did; may be empty.
    pub user_data: Option<String>,
    /// What stands where the binding belongs, where something does.
    pub nonce: Option<String>,
    /// SHA-256 of the root certificate that it leads to, DER.
    pub root_sha256: String,
}

impl NitroClaims {
    /// A PCR, hex; none where the document has none of that index.
    pub fn pcr(&self, index: u8) -> Option<&str> {
        self.pcrs.get(&index).map(String::as_str)
    }

    pub(super) fn of(document: &Document<'_>, root_sha256: &[u8; 32]) -> Self {
        let is_zero = |index: &u8| document.pcrs.get(index).is_some_and(|pcr| all_zero(pcr));
        NitroClaims {
            module_id: document.module_id.to_owned(),
            timestamp: document.timestamp,
            digest: document.digest.to_owned(),
            pcrs: document.pcrs.iter().map(|(index, pcr)| (*index, hex::encode(pcr))).collect(),
            debug: [0, 1, 2].iter().any(is_zero),
            public_key: document.public_key.map(hex::encode),
            user_data: document.user_data.map(hex::encode),
            nonce: document.nonce.map(hex::encode),
            root_sha256: hex::encode(root_sha256),
        }
    }
}

/// What a refusal is held against: PCRs 0 to 15, which the hypervisor sets and locks. An enclave extends the others as it
/// likes, and would be a new subject each time; its id changes at each start.
pub(super) fn subject(document: &Document<'_>) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(SUBJECT);
    for (index, pcr) in document.pcrs.range(..LOCKED_PCRS) {
        hash.update(&[*index, u8::try_from(pcr.len()).unwrap_or(u8::MAX)]);
        hash.update(pcr);
    }
    let mut subject = [0; 32];
    subject.copy_from_slice(hash.finish().as_ref());
    subject
}

pub(super) fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

const SUBJECT: &[u8] = b"portcullis.v1 nitro subject";

/// PCRs below this are locked when the enclave starts (AWS, NSM `DescribePCR`).
const LOCKED_PCRS: u8 = 16;
