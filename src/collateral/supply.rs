//! Collateral for a release: what its documents lack is asked for within the release's own bound.
//!
//! *Takes* the documents of one answer, untrusted. *Gives* the evidence stage its trust. *Denies* nothing itself.
//! *Source*: issue 5; RFC 9334 §8.4.

use super::holdings::{Holdings, locked};
use super::import::Import;
use super::item::Item;
use super::status::Origin;
use crate::evidence::hardware::{Supply, Supplying};
use crate::evidence::sev_snp::{self, SevSnpTrust};
use crate::evidence::tdx::{self, Age, Question, TdxTrust};
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
        let quotes = || documents.iter().filter(|document| document.format == tdx::FORMAT);
        let settled = quotes().all(|quote| self.is_settled(&quote.body, &quote.endorsements));
        if settled && self.missing(documents, now).is_empty() {
            return None;
        }
        let within = Duration::from_millis(self.0.config.release_waits_ms);
        Some(Box::pin(async move {
            for quote in quotes() {
                self.take_brought(&quote.body, &quote.endorsements, now).await;
            }
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
    /// Reads the marks of a quote's platform, and takes in what came along with it and is newer than anything that was seen:
    /// it counts from now on, and nothing older does, whoever brings it.
    pub(super) async fn take_brought<E: AsRef<[u8]>>(&self, body: &[u8], endorsements: &[E], now: Now) {
        if self.is_settled(body, endorsements) {
            return;
        }
        let inner = self.0.clone();
        let questions = tdx::parse(body).ok().and_then(|quote| tdx::platform(&quote).ok());
        let questions = questions.map(|platform| platform.questions());
        let read = move || questions.iter().flatten().try_for_each(|question| inner.marks.learn(question));
        // What could not be read stays unknown, and its quote undecided.
        let _ = tokio::task::spawn_blocking(read).await;
        for one in endorsements.iter().map(AsRef::as_ref).filter(|one| self.is_newer(one)) {
            let (inner, one) = (self.0.clone(), one.to_vec());
            let taking = move || inner.import(Import::Dcap, &one, Origin::Brought, now);
            match tokio::task::spawn_blocking(taking).await {
                Ok(Ok(changes)) => self.0.write(changes).await,
                Ok(Err(failure)) => tracing::debug!(%failure, "collateral that came along is not taken in"),
                Err(_) => tracing::warn!("collateral that came along could not be looked at"),
            }
        }
    }

    /// Whether the marks of a quote's platform are read, and nothing came along that says that it is newer. A platform that
    /// somebody made up settles nothing: its quote is refused whatever the marks say.
    fn is_settled<E: AsRef<[u8]>>(&self, body: &[u8], endorsements: &[E]) -> bool {
        let Ok(quote) = tdx::parse(body) else { return true };
        let Ok(platform) = tdx::platform(&quote) else { return true };
        let read = platform.questions().iter().all(|question| self.0.marks.known(question).is_some());
        if read && !endorsements.iter().any(|one| self.is_newer(one.as_ref())) {
            return true;
        }
        let base = locked(&self.0.dcap).base().clone();
        !tdx::is_issued(&quote, &base)
    }

    /// Whether an endorsement says that it is newer than what was seen. What is of no platform whose marks were read says
    /// nothing.
    fn is_newer(&self, endorsement: &[u8]) -> bool {
        let newer =
            |(question, age): &(Question, Age)| self.0.marks.known(question).is_some_and(|seen| *age > seen);
        tdx::claimed_ages(endorsement).iter().any(newer)
    }

    fn missing(&self, documents: &[Document], now: Now) -> Vec<Item> {
        let of = |document: &Document| match document.format.as_str() {
            sev_snp::FORMAT => self.missing_for_sev_snp(&document.body, &document.endorsements, now),
            tdx::FORMAT => self.missing_for_tdx(&document.body, &document.endorsements, now),
            _ => Vec::new(),
        };
        documents.iter().flat_map(of).collect()
    }
}
