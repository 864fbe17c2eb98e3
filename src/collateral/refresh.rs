//! Newer lists and statements, asked for long before those that are held end.
//!
//! *Takes* the clock. *Gives* nothing: what is held gets newer, or stays what it was until its end. *Denies* nothing.
//! *Source*: `evidence.md` §1 "What goes stale"; issue 5, `admin collateral refresh`.

use super::failure::Failure;
use super::holdings::{Holdings, Inner, Lacking, Wish, ended, locked};
use super::item::Item;
use crate::limits;
use crate::time::Now;
use std::time::Duration;
use tokio::task::JoinHandle;

impl Holdings {
    /// Looks once a minute at what is due, until the handle is aborted.
    pub fn keep_fresh(&self) -> JoinHandle<()> {
        let holdings = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(limits::COLLATERAL_TICK_MS)).await;
                // A suspect clock knows nothing of dates; what is held is not given out either.
                if let Ok(now) = holdings.0.clock.now() {
                    holdings.refresh_due(now).await;
                    let inner = holdings.0.clone();
                    // A panic in there left the marks as they were.
                    let _ = tokio::task::spawn_blocking(move || inner.keep_marks()).await;
                }
            }
        })
    }

    /// Asks for what is due: older than the configured age, near its end, or past it. What could not be had, with the reason.
    pub async fn refresh_due(&self, now: Now) -> Vec<Lacking> {
        let config = &self.0.config;
        let (every, ahead) = (config.refresh_every_seconds, config.refresh_ahead_seconds);
        self.refresh_items(self.due(now, every.saturating_mul(1000), ahead.saturating_mul(1000))).await
    }

    /// Asks for a newer one of everything dated that is held, an administrator's wish. What could not be had, with the reason.
    pub async fn refresh(&self, now: Now) -> Vec<Lacking> {
        self.refresh_items(self.due(now, 0, u64::MAX)).await
    }

    fn due(&self, now: Now, every_ms: u64, ahead_ms: u64) -> Vec<Item> {
        let mut due = locked(&self.0.sev_snp).due(now, every_ms, ahead_ms);
        due.extend(locked(&self.0.dcap).due(now, every_ms, ahead_ms));
        due
    }

    async fn refresh_items(&self, items: Vec<Item>) -> Vec<Lacking> {
        let mut lacking = Vec::new();
        for item in items {
            let outcome = match Inner::begin(&self.0, &item, Wish::Newer) {
                Ok(Some(receiver)) => ended(receiver).await,
                Ok(None) => Ok(()),
                Err(failure) => Err(failure),
            };
            // One by one: a service that throttles is not asked for everything at once.
            match outcome {
                Ok(()) | Err(Failure::NotConfigured) => {}
                Err(failure) => lacking.push(Lacking { item, failure }),
            }
        }
        lacking
    }
}
