//! Every figure, with its name and its help. `deploy/metrics.md` has the same list for people; a test holds one to the other.
//!
//! *Takes* the running parts. *Gives* one page. *Denies* nothing. *Source*: OpenMetrics 1.0; the section "Operations".
//!
//! Labels are denials, causes, stages, formats and trust domains. A trust domain is named as it is configured: an operator must
//! know whose bundle ends, a number would change with the order of the file, and the name stands in what the broker says to
//! anyone who connects. No identity, node, secret, path or reference set is ever a label: there are many, and they tell.

use super::page::{Page, flag, number, of, one, seconds};
use super::pulse::Pulse;
use super::{Parts, Telemetry, standing};
use crate::registry::Administrators;
use crate::time::{Now, WallTime};
use crate::transport::DomainStatus;
use crate::transport::domain::InputStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;
use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

/// All of it; each name gets the prefix `portcullis_`.
pub(super) fn text(telemetry: &Arc<Telemetry>) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("portcullis");
    registry.register_collector(Box::new(Figures(telemetry.clone())));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

struct Figures(Arc<Telemetry>);

impl std::fmt::Debug for Figures {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let (mut page, telemetry) = (Page(encoder), &self.0);
        process(&mut page, telemetry)?;
        let Some(parts) = telemetry.parts.get() else { return Ok(()) };
        let now = parts.broker.clock.untrusted();
        decisions(&mut page, parts)?;
        inputs(&mut page, parts, now)?;
        enrolled(&mut page, parts, now)?;
        connections(&mut page, parts)?;
        writers(&mut page, parts, &telemetry.pulse)
    }
}

fn process(page: &mut Page<'_>, telemetry: &Telemetry) -> Result<(), Error> {
    page.gauges("build", "Always 1; the version is a label.", [of("version", env!("CARGO_PKG_VERSION"), 1)])?;
    page.gauges(
        "ready",
        "Whether requests are answered, denials included.",
        one(flag(telemetry.is_ready())),
    )?;
    let could = telemetry.obstacle().is_none();
    page.gauges("could_release", "Whether anything could be released now.", one(flag(could)))
}

fn decisions(page: &mut Page<'_>, parts: &Parts) -> Result<(), Error> {
    let measures = &parts.broker.measures;
    let denials = measures.denials.values().map(|(denial, count)| {
        let labels = vec![
            ("denial", denial.name().to_owned()),
            ("class", denial.class().name().to_owned()),
            ("reason", denial.reason().name().to_owned()),
        ];
        (labels, count)
    });
    page.counters("denials", "Requests that were denied.", denials)?;
    page.counters("releases", "Releases.", one(measures.releases.value()))?;
    page.counters(
        "renewals",
        "Later rounds of held leases that were verified anew.",
        one(measures.renewals.value()),
    )?;
    page.counters(
        "undelivered",
        "Recorded releases that did not reach their workload.",
        one(measures.undelivered.value()),
    )?;
    page.counters(
        "flips",
        "Denials that a delivered release of the same secret to the same identity followed.",
        one(parts.broker.recorder.flips().found(parts.broker.clock.untrusted().wall)),
    )?;
    let stages = measures.stages.values().map(|(stage, held)| of("stage", stage.name(), held));
    page.histograms("stage_seconds", "Time that each stage of a request took.", stages)
}

fn inputs(page: &mut Page<'_>, parts: &Parts, now: Now) -> Result<(), Error> {
    let broker = &parts.broker;
    let domains = broker.trust.status(now);
    let left = |of_domain: fn(&DomainStatus) -> &InputStatus| {
        let with_end = domains.iter().filter(move |domain| of_domain(domain).usable_for_ms < u64::MAX);
        with_end.map(move |domain| {
            of("trust_domain", domain.name.to_string(), seconds(of_domain(domain).usable_for_ms))
        })
    };
    let bundles = left(|domain| &domain.bundle);
    page.gauges(
        "bundle_usable_seconds",
        "Until a trust domain's bundle ends; 0: ended or unknown.",
        bundles,
    )?;
    let lists = left(|domain| &domain.revocation);
    page.gauges(
        "revocation_usable_seconds",
        "Until the first list of a trust domain that revokes by lists ends; 0: ended or unknown.",
        lists,
    )?;
    let certificate = parts.identity.ends(now).map_or(0, |end| end.since(now.wall));
    page.gauges(
        "certificate_usable_seconds",
        "Until the broker's own certificate ends; 0: unusable.",
        one(seconds(certificate)),
    )?;
    let formats = broker.offer.formats.iter();
    let formats = formats.filter_map(|format| Some((format, standing::decidable(broker, format, now)?)));
    page.gauges(
        "format_decidable",
        "Whether evidence of an offered format can be verified.",
        formats.map(|(format, decidable)| of("format", format, flag(decidable))),
    )?;
    let hardware = broker.verifiers.hardware();
    let mut first: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
    for (format, end) in standing::collateral_ends(&hardware.1, &parts.holdings, now) {
        let left = first.entry(format).or_insert(u64::MAX);
        *left = end.since(now.wall).min(*left);
    }
    page.gauges(
        "collateral_usable_seconds",
        "Until the first kept list or collateral of a format ends; 0: ended.",
        first.into_iter().map(|(format, left)| of("format", format, seconds(left))),
    )?;
    page.gauges("policy_loaded", "Whether a policy is loaded.", one(flag(broker.pdp.epoch().is_some())))?;
    page.gauges("clock_suspect", "Whether the clock is suspect.", one(flag(broker.clock.now().is_err())))
}

/// What administrators enrol has many ends; those that have not passed are shown by the first and the last.
fn enrolled(page: &mut Page<'_>, parts: &Parts, now: Now) -> Result<(), Error> {
    let administrators = parts.registry.administrators();
    let ends = |list: &Administrators| list.all().map(|one| one.not_after).collect::<Vec<_>>();
    let kinds = [
        ("reference_sets", parts.broker.appraiser.ends().unwrap_or_default()),
        ("nodes", standing::node_ends(&parts.broker).unwrap_or_default()),
        ("administrators", administrators.as_ref().as_ref().map(ends).unwrap_or_default()),
    ];
    let current = |ends: &[WallTime]| {
        let left: Vec<u64> = ends.iter().map(|end| end.since(now.wall)).filter(|left| *left > 0).collect();
        (left.len(), left.iter().min().copied().unwrap_or(0), left.iter().max().copied().unwrap_or(0))
    };
    let counts = kinds.iter().map(|(kind, ends)| of("kind", *kind, number(current(ends).0)));
    page.gauges("enrolled", "Reference sets, nodes and administrators that have not ended.", counts)?;
    let lefts = kinds.iter().flat_map(|(kind, ends)| {
        let (_, first, last) = current(ends);
        [("first", first), ("last", last)]
            .map(|(end, left)| (vec![("kind", (*kind).to_owned()), ("end", end.to_owned())], seconds(left)))
    });
    page.gauges(
        "enrolled_usable_seconds",
        "Until the first and the last of them ends; 0: none is left.",
        lefts,
    )
}

fn connections(page: &mut Page<'_>, parts: &Parts) -> Result<(), Error> {
    let broker = &parts.broker;
    page.gauges("connections", "Workloads' connections.", one(number(parts.shards.connections())))?;
    page.gauges(
        "streams",
        "Requests under way, held streams included.",
        one(number(broker.admission.streams())),
    )?;
    page.gauges("leases", "Leases that stand.", one(number(broker.leases().count())))?;
    page.gauges("held", "Leases that are held by a stream.", one(number(broker.leases().held())))?;
    let refused = parts.handshakes.values().map(|(cause, count)| of("cause", cause, count));
    page.counters(
        "handshakes_refused",
        "Connections that came to nothing, of workloads and operators.",
        refused,
    )
}

fn writers(page: &mut Page<'_>, parts: &Parts, pulse: &Pulse) -> Result<(), Error> {
    let log = parts.broker.recorder.log();
    page.gauges("audit_healthy", "Whether the audit log is written.", one(flag(log.healthy())))?;
    page.gauges("audit_waiting", "Records that wait for the disk.", one(number(log.waiting())))?;
    page.counters("audit_records", "Records in the audit log.", one(log.size()))?;
    page.histograms(
        "audit_sync_seconds",
        "Write and sync of a group of records.",
        one(log.sync_times().durations()),
    )?;
    let commits = parts.registry.vault().store().commit_times();
    page.histograms(
        "store_commit_seconds",
        "Write and sync of a group of commits.",
        commits.map(|times| (Vec::new(), times.durations())),
    )?;
    page.gauges(
        "store_sealed",
        "Whether the store was sealed by a failed write.",
        one(flag(pulse.sealed())),
    )?;
    let silences = pulse.silences();
    let silences =
        silences.iter().map(|(thread, ns)| of("thread", *thread, Duration::from_nanos(*ns).as_secs_f64()));
    page.gauges("silent_seconds", "Since a thread that writes last answered.", silences)?;
    let disks = pulse.disks();
    let free = disks.iter().map(|disk| of("directory", disk.directory, number(disk.free_bytes)));
    page.gauges(
        "disk_free_bytes",
        "Bytes that the broker may still write to this directory's file system.",
        free,
    )?;
    let size = disks.iter().map(|disk| of("directory", disk.directory, number(disk.size_bytes)));
    page.gauges("disk_size_bytes", "The size of that file system.", size)
}
