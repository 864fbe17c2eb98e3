//! Quotes beside statements: one TPM, many callers, and a time after which none waits for it any longer.
//!
//! *Takes* a [`QuoterConfig`] and the *bound* of a challenge. *Gives* `tpm2` documents. *Denies* nothing itself; a [`NoQuote`]
//! leaves the document out, or is `ATTESTATION_NOT_POSSIBLE` where nothing else was asked for. *Source*: `protocol.md` "The
//! node's attester".

use super::tpm::{Quoter, QuoterConfig, TpmError};
use crate::limits;
use crate::proto::v1::Document;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};

/// The node's TPM, as all connections share it.
pub(super) struct NodeTpm {
    quoter: Arc<Mutex<Quoter>>,
    /// Somebody waited in vain, and what was waited for has not ended yet: nobody else need wait.
    late: Arc<AtomicBool>,
}

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoQuote {
    /// Its turn did not come, or the TPM did not answer, in time.
    #[error("the TPM did not quote in time")]
    TooLong,
    /// The TPM said no, or is not there.
    #[error("{0}")]
    Tpm(#[from] TpmError),
}

impl NodeTpm {
    pub(super) fn new(config: QuoterConfig) -> Self {
        NodeTpm { quoter: Arc::new(Mutex::new(Quoter::new(config))), late: Arc::default() }
    }

    /// Opens the TPM and loads the key, which may take a minute the first time: before anybody waits for it.
    pub(super) async fn warm_up(&self) {
        let (mut quoter, late) = (self.quoter.clone().lock_owned().await, self.late.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let name = quoter.ak_name();
            late.store(false, Ordering::SeqCst);
            name
        });
        match opening.await {
            Ok(Ok(name)) => tracing::info!(ak_name = hex::encode(name.as_bytes()), "the TPM quotes"),
            Ok(Err(error)) => tracing::error!(%error, "the TPM does not quote; it is tried again when asked"),
            Err(error) => tracing::error!(%error, "the TPM was not opened"),
        }
    }

    /// A quote for *bound*, in the turn of a user who has so many at once. A TPM that hangs keeps its thread, one, until the
    /// command's own time is over. Whoever else asks waits for the lock, and no longer than this; once one has waited in vain
    /// nobody does before that thread is done, as statements would queue up behind it.
    pub(super) async fn document(
        &self,
        bound: [u8; limits::BINDING_BYTES],
        turns: Arc<Semaphore>,
    ) -> Result<Document, NoQuote> {
        if self.late.load(Ordering::SeqCst) {
            return Err(NoQuote::TooLong);
        }
        let (quoter, late) = (self.quoter.clone(), self.late.clone());
        let quoting = async move {
            let turn = turns.acquire_owned().await.map_err(|_| NoQuote::TooLong)?;
            let mut quoter = quoter.lock_owned().await;
            let quoted = tokio::task::spawn_blocking(move || {
                let document = quoter.document(&bound);
                late.store(false, Ordering::SeqCst);
                drop(turn);
                document
            });
            Ok(quoted.await.map_err(|_| NoQuote::TooLong)??)
        };
        let limit = Duration::from_millis(limits::ATTEST_QUOTE_WITHIN_MS);
        tokio::time::timeout(limit, quoting).await.unwrap_or_else(|_| {
            // Where the lock is free again, what was waited for has ended meanwhile.
            self.late.store(self.quoter.try_lock().is_err(), Ordering::SeqCst);
            Err(NoQuote::TooLong)
        })
    }
}
