//! The figures as text: each family once, with its help and its samples.
//!
//! *Takes* names and numbers. *Gives* OpenMetrics text, by `prometheus-client`. *Denies* nothing. *Source*: OpenMetrics 1.0.

use crate::measure::Durations;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::fmt::Error;
use std::time::Duration;

/// A sample's labels: fixed names, and values of which there are boundedly many.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A page under way.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    /// Numbers that only grow; `_total` is put to the name.
    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result<(), Error> {
        let count = |mut sample: MetricEncoder<'_>, value: &u64| {
            sample.encode_counter::<NoLabelSet, u64, u64>(value, None)
        };
        self.family(name, help, MetricType::Counter, samples, count)
    }

    /// Numbers of the moment.
    pub(super) fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> Result<(), Error> {
        let gauge = |mut sample: MetricEncoder<'_>, value: &V| sample.encode_gauge(value);
        self.family(name, help, MetricType::Gauge, samples, gauge)
    }

    /// Durations.
    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, Durations)>,
    ) -> Result<(), Error> {
        let histogram = |mut sample: MetricEncoder<'_>, held: &Durations| {
            sample.encode_histogram::<NoLabelSet>(held.sum_seconds, held.count, &held.buckets, None)
        };
        self.family(name, help, MetricType::Histogram, samples, histogram)
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, V)>,
        encode: impl Fn(MetricEncoder<'_>, &V) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            encode(family.encode_family(&labels)?, &value)?;
        }
        Ok(())
    }
}

/// One sample without a label.
pub(super) fn one<V>(value: V) -> [(Labels, V); 1] {
    [(Labels::new(), value)]
}

/// One sample with one label.
pub(super) fn of<V>(name: &'static str, label: impl Into<String>, value: V) -> (Labels, V) {
    (vec![(name, label.into())], value)
}

/// Yes or no as a gauge has it.
pub(super) fn flag(holds: bool) -> i64 {
    i64::from(holds)
}

/// A number as a gauge has it.
pub(super) fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// Milliseconds as seconds.
pub(super) fn seconds(milliseconds: u64) -> f64 {
    Duration::from_millis(milliseconds).as_secs_f64()
}
