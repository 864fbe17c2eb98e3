//! Figures of a running broker: counts and times, kept so cheaply that every request can afford them.
//!
//! *Takes* what the stages say of themselves. *Gives* numbers to `telemetry`. *Denies* nothing: no decision rests on a figure.
//! *Source*: OpenMetrics 1.0 (counter, histogram). No lock: each figure is a number that is added to.

use crate::case::Stage;
use crate::denial::Denial;
use crate::time::Stopwatch;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the broker counts of its requests.
#[derive(Default)]
pub struct Measures {
    /// Denials, by their variant.
    pub denials: Denials,
    /// Releases, held leases' first ones among them.
    pub releases: Counter,
    /// Later rounds of held leases that verified.
    pub renewals: Counter,
    /// Releases that a second record took back.
    pub undelivered: Counter,
    /// How long each stage took, of requests that it denied, too.
    pub stages: Stages,
}

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each of a fixed list of names, so that no peer can make up another.
pub struct Named(BTreeMap<&'static str, Counter>);

impl Named {
    /// All at zero.
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Named(names.into_iter().map(|name| (name, Counter::default())).collect())
    }

    /// One more of that name; a name that is not among them is not counted.
    pub fn count(&self, name: &str) {
        if let Some(counter) = self.0.get(name) {
            counter.count();
        }
    }

    /// Each name and how many.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, counter)| (*name, counter.value()))
    }
}

/// A counter for each denial there is.
pub struct Denials(Named);

impl Default for Denials {
    fn default() -> Self {
        Denials(Named::new(Denial::ALL.iter().map(|denial| denial.name())))
    }
}

impl Denials {
    /// One more.
    pub fn count(&self, denial: Denial) {
        self.0.count(denial.name());
    }

    /// Each denial and how many.
    pub fn values(&self) -> impl Iterator<Item = (Denial, u64)> {
        self.0.values().filter_map(|(name, count)| Some((Denial::parse(name)?, count)))
    }
}

/// Durations, sorted into [`BOUNDS_NS`].
#[derive(Default)]
pub struct Histogram {
    /// One more than there are bounds: the last is for what is longer than all.
    buckets: [AtomicU64; BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

/// What a [`Histogram`] held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Durations {
    /// Upper bound in seconds (inclusive), and how many are in this bucket alone; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// How many.
    pub count: u64,
    /// All together, seconds.
    pub sum_seconds: f64,
}

impl Histogram {
    /// Takes one duration, nanoseconds.
    pub fn record(&self, nanoseconds: u64) {
        let place = BOUNDS_NS.partition_point(|bound| *bound < nanoseconds);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.sum_ns.fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }

    /// What it holds. Sum and buckets are read one after the other: what is recorded meanwhile may be in one alone.
    pub fn durations(&self) -> Durations {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let bounds = BOUNDS_NS.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| *count).fold(0, u64::saturating_add);
        Durations { buckets, count, sum_seconds: seconds(self.sum_ns.load(Ordering::Relaxed)) }
    }
}

/// How long each stage of a request took.
#[derive(Default)]
pub struct Stages([Histogram; Stage::ALL.len()]);

impl Stages {
    /// Begins to measure one request.
    pub fn begin(&self) -> Laps<'_> {
        Laps { stages: self, watch: Stopwatch::start() }
    }

    /// Each stage and its times.
    pub fn values(&self) -> impl Iterator<Item = (Stage, Durations)> {
        Stage::ALL.into_iter().zip(self.0.iter().map(Histogram::durations))
    }
}

/// One request's way through the stages.
pub struct Laps<'a> {
    stages: &'a Stages,
    watch: Stopwatch,
}

impl Laps<'_> {
    /// Gives `done` back, which `stage` has just made, and takes the time since the stage before it.
    pub fn of<T>(&mut self, stage: Stage, done: T) -> T {
        let lap = self.watch.lap();
        if let Some((_, histogram)) =
            Stage::ALL.into_iter().zip(&self.stages.0).find(|(one, _)| *one == stage)
        {
            histogram.record(lap);
        }
        done
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// Upper bounds, nanoseconds: a stage that only computes takes 1 to 300 µs, a sync of a disk 0.1 to 100 ms, and what waits for a
/// disk is denied after [`crate::limits::AUDIT_WAIT_MS`].
pub const BOUNDS_NS: [u64; 16] = [
    2_500,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    3_000_000_000,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_it_does_not_pass() {
        let histogram = Histogram::default();
        for nanoseconds in [0, 2_500, 2_501, 4_000_000_000] {
            histogram.record(nanoseconds);
        }
        let held = histogram.durations();
        assert_eq!(held.buckets[0], (0.000_002_5, 2));
        assert_eq!(held.buckets[1], (0.000_01, 1));
        assert_eq!(*held.buckets.last().unwrap(), (f64::INFINITY, 1));
        assert_eq!(held.count, 4);
        assert!((held.sum_seconds - 4.000_005_001).abs() < 1e-9);
        assert!(BOUNDS_NS.is_sorted());
    }

    #[test]
    fn a_name_that_is_not_listed_is_not_counted() {
        let named = Named::new(["a", "b"]);
        named.count("a");
        named.count("made-up");
        assert_eq!(named.values().collect::<Vec<_>>(), [("a", 1), ("b", 0)]);
    }

    #[test]
    fn every_denial_has_a_counter_and_every_stage_a_histogram() {
        let measures = Measures::default();
        measures.denials.count(Denial::PolicySilent);
        let counted: Vec<_> = measures.denials.values().collect();
        assert_eq!(counted.len(), Denial::ALL.len());
        assert_eq!(counted.iter().filter(|(_, count)| *count > 0).count(), 1);
        let mut laps = measures.stages.begin();
        for stage in Stage::ALL {
            assert_eq!(laps.of(stage, stage), stage);
        }
        assert!(measures.stages.values().all(|(_, durations)| durations.count == 1));
    }
}
