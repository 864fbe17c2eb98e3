//! The terms of a secret, changed together: labels, lease, channel binding.
//!
//! *Takes* [`Terms`]. *Gives* one [`Prepared`] change. *Denies* `Labels`, `Lease`, `SecretUnknown`. *Source*: `protocol.md`
//! (one lease covers a request). One change, so that no moment has a secret under half of its terms.

use super::{Kv, KvError, Prepared, SecretFields, fields};
use crate::limits;
use crate::request::SecretPath;
use crate::time::WallTime;
use serde_json::json;
use std::collections::BTreeMap;

/// What to change of a secret; what is none stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Labels, in place of all there are.
    pub labels: Option<BTreeMap<String, String>>,
    /// The lease where none is asked, seconds.
    pub lease_default_seconds: Option<u32>,
    /// The longest lease, seconds.
    pub lease_maximum_seconds: Option<u32>,
    /// Whether the TLS exporter is demanded.
    pub exporter_demanded: Option<bool>,
}

impl Kv {
    /// Prepares a secret that is not there yet, with its labels. **Denies** `SecretExists` where it is.
    pub async fn put_new(
        &self,
        path: &SecretPath,
        value: &SecretFields,
        labels: BTreeMap<String, String>,
        now: WallTime,
    ) -> Result<Prepared, KvError> {
        check_labels(&labels)?;
        let noted = json!(labels);
        let mut prepared = self
            .put_on(path, value, now, |metadata| {
                if metadata.current != 0 {
                    return Err(KvError::SecretExists);
                }
                metadata.labels = labels;
                Ok(())
            })
            .await?;
        super::note(&mut prepared.details, "labels", noted);
        Ok(prepared)
    }

    /// Prepares other terms.
    pub async fn set_terms(&self, path: &SecretPath, terms: Terms) -> Result<Prepared, KvError> {
        let (previous, mut metadata) = self.current(path).await?;
        let default = terms.lease_default_seconds.unwrap_or(metadata.lease_default_seconds);
        let maximum = terms.lease_maximum_seconds.unwrap_or(metadata.lease_maximum_seconds);
        check_lease(default, maximum)?;
        (metadata.lease_default_seconds, metadata.lease_maximum_seconds) = (default, maximum);
        if let Some(labels) = terms.labels {
            check_labels(&labels)?;
            metadata.labels = labels;
        }
        metadata.exporter_demanded = terms.exporter_demanded.unwrap_or(metadata.exporter_demanded);
        let details = json!({
            "labels": metadata.labels,
            "lease_default_seconds": default,
            "lease_maximum_seconds": maximum,
            "exporter_demanded": metadata.exporter_demanded,
        });
        self.finish(crate::store::Transaction::default(), Some(&previous), metadata, details)
    }
}

/// **Denies** `Labels`.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), KvError> {
    let fits =
        |(name, value): (&String, &String)| fields::is_name(name) && value.len() <= limits::LABEL_VALUE_BYTES;
    let all = labels.len() <= limits::LABELS && labels.iter().all(fits);
    all.then_some(()).ok_or(KvError::Labels)
}

/// **Denies** `Lease`.
pub(super) fn check_lease(default_seconds: u32, maximum_seconds: u32) -> Result<(), KvError> {
    let fits = (1..=limits::LEASE_MAXIMUM_SECONDS).contains(&maximum_seconds)
        && (1..=maximum_seconds).contains(&default_seconds);
    fits.then_some(()).ok_or(KvError::Lease)
}
