//! The attester's part: a `tpm2` document for a challenge, from a TPM that stays open, and the two steps of enrolment.
//!
//! *Takes* [`QuoterConfig`]. *Gives* documents, an [`Enrolment`] and its answer. *Denies* nothing itself. *Source*: `protocol.md`
//! "The node's attester", `tpm2`.

use super::command::TpmError;
use super::keys::{AkKind, EkKind, Loaded, WrappedAk};
use super::quote::Selection;
use super::{Address, Tpm};
use crate::evidence::tpm2::enroll::Credential;
use crate::evidence::tpm2::{AkName, FORMAT, Hash};
use crate::limits;
use crate::proto::v1::Document;
use prost::Message;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Which AK quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AkSource {
    /// The one that the endorsement hierarchy's seed gives for our template: nothing to keep, the same after each boot.
    Primary(AkKind),
    /// One that was made below the EK and is kept in a file, encrypted by the TPM.
    Wrapped(Box<WrappedAk>),
    /// A persistent one, by its handle.
    Persistent(u32),
}

/// How a node's TPM is used.
#[derive(Clone, Debug)]
pub struct QuoterConfig {
    /// Where it is.
    pub address: Address,
    /// Which key quotes.
    pub ak: AkSource,
    /// Which PCRs are quoted.
    pub selection: Selection,
    /// The firmware's event log, where it is to come along.
    pub event_log: Option<PathBuf>,
    /// The endorsement hierarchy's authorisation; empty unless its owner set one.
    pub endorsement_auth: Zeroizing<Vec<u8>>,
}

/// What a node's enrolment begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// TPMT_PUBLIC of the EK.
    pub ek_public: Vec<u8>,
    /// Its certificate, as it stands in the TPM; none where there is none.
    pub ek_certificate: Option<Vec<u8>>,
    /// TPMT_PUBLIC of the AK.
    pub ak_public: Vec<u8>,
}

/// Quotes for one node. Calls block; one at a time is what a TPM does anyway.
pub struct Quoter {
    config: QuoterConfig,
    open: Option<(Tpm, Loaded)>,
}

impl Quoter {
    /// One that opens the TPM when it is first needed.
    pub fn new(config: QuoterConfig) -> Self {
        Quoter { config, open: None }
    }

    /// The document for *bound*: `extraData` = SHA-256(*bound*). A TPM that does not answer is opened anew, once: it may have
    /// been restarted, or its objects are gone after a resume.
    pub fn document(&mut self, bound: &[u8; limits::BINDING_BYTES]) -> Result<Document, TpmError> {
        let extra_data = Hash::Sha256.digest(&[bound]);
        let quoted = match self.quoted(&extra_data) {
            Err(error) if was_open_and_failed(&error) => {
                self.open = None;
                self.quoted(&extra_data)
            }
            outcome => outcome,
        };
        if quoted.is_err() {
            self.close();
        }
        let event_log = self.config.event_log.as_deref().map(event_log).unwrap_or_default();
        let body = quoted?.into_message(event_log).encode_to_vec();
        Ok(Document { format: FORMAT.to_owned(), body, endorsements: Vec::new() })
    }

    /// The Name of the key that quotes.
    pub fn ak_name(&mut self) -> Result<AkName, TpmError> {
        let (_, ak) = self.opened()?;
        ak.name()
    }

    /// The first step of enrolment: both public keys, and the EK's certificate.
    pub fn enrolment(&mut self, ek: EkKind) -> Result<Enrolment, TpmError> {
        let (tpm, ak) = self.opened()?;
        let ak_public = ak.public().to_vec();
        let ek_certificate = tpm.ek_certificate(ek)?;
        let loaded = tpm.endorsement_key(ek)?;
        let ek_public = loaded.public().to_vec();
        tpm.flush(loaded)?;
        Ok(Enrolment { ek_public, ek_certificate, ak_public })
    }

    /// The second step: the secret in the broker's credential.
    pub fn activated(&mut self, ek: EkKind, credential: &Credential) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let (tpm, ak) = self.opened()?;
        let loaded = tpm.endorsement_key(ek)?;
        let secret = tpm.activate(ak, &loaded, credential);
        tpm.flush(loaded)?;
        secret
    }

    /// Gives the TPM back.
    pub fn close(&mut self) {
        if let Some((mut tpm, ak)) = self.open.take() {
            let _ = tpm.flush(ak);
        }
    }

    fn quoted(&mut self, extra_data: &[u8]) -> Result<super::Quoted, TpmError> {
        let selection = self.config.selection.clone();
        let (tpm, ak) = self.opened()?;
        tpm.quote(ak, extra_data, &selection)
    }

    fn opened(&mut self) -> Result<&mut (Tpm, Loaded), TpmError> {
        let opened = match self.open.take() {
            Some(open) => open,
            None => {
                let tpm = Tpm::open(&self.config.address)?;
                let mut tpm = tpm.with_endorsement_auth(self.config.endorsement_auth.clone());
                let ak = load(&mut tpm, &self.config.ak)?;
                (tpm, ak)
            }
        };
        Ok(self.open.insert(opened))
    }
}

impl Drop for Quoter {
    fn drop(&mut self) {
        self.close();
    }
}

fn load(tpm: &mut Tpm, source: &AkSource) -> Result<Loaded, TpmError> {
    match source {
        AkSource::Primary(kind) => tpm.primary_ak(*kind),
        AkSource::Persistent(handle) => tpm.persistent_ak(*handle),
        AkSource::Wrapped(wrapped) => {
            let ek = tpm.endorsement_key(wrapped.ek)?;
            let ak = tpm.load_ak(&ek, wrapped);
            tpm.flush(ek)?;
            ak
        }
    }
}

/// The connection is gone, or the key is: what a fresh start can mend.
fn was_open_and_failed(error: &TpmError) -> bool {
    match error {
        TpmError::Io(_) | TpmError::Broken => true,
        // TPM_RC_HANDLE, TPM_RC_REFERENCE_H0: no such object any more.
        TpmError::Refused { code, .. } => matches!(code, 0x18b | 0x910),
        _ => false,
    }
}

/// The log, where it fits: beside a quote of some kilobytes. Without it a reference by events refuses, which says so.
fn event_log(path: &Path) -> Vec<u8> {
    let most = limits::DOCUMENT_BYTES.saturating_sub(QUOTE_BYTES);
    match std::fs::read(path) {
        Ok(log) if log.len() <= most => log,
        Ok(log) => {
            tracing::warn!(bytes = log.len(), "the event log does not fit into a document, and is left out");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(%error, "the event log cannot be read, and is left out");
            Vec::new()
        }
    }
}

/// All of a document but the log: 72 values, an attestation, a signature.
const QUOTE_BYTES: usize = 8 * 1024;
