//! Collateral for a release: what its documents lack is asked for within the release's own bound.
//!
//! *Takes* the documents of one answer, untrusted. *Gives* the evidence stage its trust. *Denies* nothing itself.
//! *Source*: issue 5; RFC 9334 §8.4.

use super::holdings::Holdings;
use super::item::Item;
use crate::evidence::hardware::{Supply, Supplying};
use crate::evidence::sev_snp::{self, SevSnpTrust};
use crate::evidence::tdx::{self, TdxTrust};
use crate::request::Document;
use crate::spiffe::SpiffeId;
use crate::time::Now;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Supply for Holdings {
    fn supply<'a>(
        &'a self,
        identity: &'a SpiffeId,
        documents: &'a [Document],
        now: Now,
    ) -> Option<Supplying<'a>> {
        if self.missing(documents, now).is_empty() {
            return None;
        }
        let within = Duration::from_millis(self.0.config.release_waits_ms);
        Some(Box::pin(async move {
            let missing = |now| self.missing(documents, now);
            let lacking = self.fetch_missing(missing, Some(identity.as_str()), within, now).await;
            lacking.iter().map(|lacking| format!("{}: {}", lacking.item, lacking.failure)).collect()
        }))
    }

    fn sev_snp(&self, body: &[u8], now: Now) -> SevSnpTrust {
        self.sev_snp_trust(body, now)
    }

    fn tdx(&self, body: &[u8], now: Now) -> TdxTrust {
        self.tdx_trust(body, now)
    }

    fn set_trust(&self, sev_snp: Option<SevSnpTrust>, tdx: Option<TdxTrust>) {
        Holdings::set_trust(self, (sev_snp, tdx), self.0.clock.untrusted());
    }

    fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::SeqCst)
    }
}

impl Holdings {
    fn missing(&self, documents: &[Document], now: Now) -> Vec<Item> {
        let of = |document: &Document| match document.format.as_str() {
            sev_snp::FORMAT => self.missing_for_sev_snp(&document.body, &document.endorsements, now),
            tdx::FORMAT => self.missing_for_tdx(&document.body, &document.endorsements, now),
            _ => Vec::new(),
        };
        documents.iter().flat_map(of).collect()
    }
}
