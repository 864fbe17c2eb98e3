//! Reading the log: filters, and each record as one line for a person or one object for a program.
//!
//! *Takes* a directory and a [`Filter`]. *Gives* the records that match, one at a time, also from a log that is being
//! written. *Denies* nothing itself. *Source*: NIST SP 800-53 AU-7 (audit record reduction).
//!
//! Reading proves nothing: whether the records are those that were written is `verify`'s to say.

use super::log::Sequence;
use super::record::{AdminAct, Event, Record};
use super::segment::{self, Next, Reader, Tail};
use crate::denial::Denial;
use crate::spiffe::{IdPattern, SpiffeId};
use crate::time::WallTime;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

/// What to show; a record is shown if it fits everything that is set.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// About this identity, or one below.
    pub identity: Option<IdPattern>,
    /// About this secret: asked, latched, or an administrator's target.
    pub secret: Option<String>,
    /// With this id, or about the record with this id.
    pub decision: Option<String>,
    /// Ended in this denial.
    pub denial: Option<Denial>,
    /// Of this kind, as [`kind`] names it.
    pub kind: Option<String>,
    /// At or after this wall time.
    pub since: Option<WallTime>,
    /// Before this wall time.
    pub until: Option<WallTime>,
    /// This node vouched, or the act was about it.
    pub node: Option<String>,
    /// An act of this administrator.
    pub administrator: Option<String>,
}

impl Filter {
    /// Whether the record fits.
    pub fn matches(&self, record: &Record) -> bool {
        let fits = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(test);
        self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && self.denial.is_none_or(|denial| record.denial() == Some(denial))
            && fits(&self.kind, &|wanted| kind(&record.event) == wanted)
            && fits(&self.decision, &|wanted| record.id == wanted || refers_to(&record.event) == Some(wanted))
            && fits(&self.secret, &|wanted| concerns_secret(record, wanted))
            && fits(&self.node, &|wanted| concerns_node(record, wanted))
            && fits(&self.administrator, &|wanted| {
                act(&record.event).is_some_and(|act| act.administrator == wanted)
            })
            && self.identity.as_ref().is_none_or(|wanted| identities(record).any(|id| wanted.matches(id)))
    }
}

impl Filter {
    /// Texts that stand, as JSON writes them, in every record that fits.
    fn needles(&self) -> Vec<String> {
        let written = |text: &str| {
            let json = serde_json::to_string(text).unwrap_or_default();
            json.trim_matches('"').to_owned()
        };
        let given = [&self.secret, &self.decision, &self.kind, &self.node, &self.administrator];
        let mut needles: Vec<String> = given.into_iter().flatten().map(|text| written(text)).collect();
        needles.extend(self.denial.map(|denial| denial.name().to_owned()));
        needles.extend(self.identity.as_ref().map(|identity| {
            let text = identity.to_string();
            written(text.strip_suffix("/*").unwrap_or(&text))
        }));
        needles
    }
}

fn contains(body: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return true };
    let mut from = body;
    // A byte's search is fast, and most bytes begin no match.
    while let Some(at) = from.iter().position(|byte| byte == first) {
        let after = from.get(at.saturating_add(1)..).unwrap_or_default();
        if after.starts_with(rest) {
            return true;
        }
        from = after;
    }
    false
}

/// Why reading ended before the end of the log.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// A file cannot be read.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// What stands there is no record; `verify` says more.
    #[error("record {sequence} in segment {segment} is damaged")]
    Damaged {
        /// Which.
        sequence: u64,
        /// The segment's number.
        segment: u64,
    },
}

/// The records that fit, oldest first; ends after the first error. Holds one record.
pub struct Records {
    segments: VecDeque<(u64, PathBuf)>,
    reader: Option<(u64, Reader)>,
    /// The record that comes next.
    sequence: u64,
    filter: Filter,
    /// What is in every record that fits: most others are passed over without being parsed.
    needles: Vec<String>,
}

/// Reads a log. Segments that lie wholly before `filter.since` are not opened.
pub fn records(directory: &Path, filter: Filter) -> Result<Records, ShowError> {
    records_in(&[directory.to_owned()], filter)
}

/// As [`records`], of a log and archives of it together.
pub fn records_in(directories: &[PathBuf], filter: Filter) -> Result<Records, ShowError> {
    let mut segments = VecDeque::from(segment::list_all(directories)?);
    if let Some(since) = filter.since {
        // A header says the highest time before it: from the last that is early enough, all later records are wanted.
        let mut early = 0;
        for (index, (_, path)) in segments.iter().enumerate() {
            if Reader::open(path).is_ok_and(|reader| reader.header().highest_time < since) {
                early = index;
            }
        }
        segments.drain(..early);
    }
    let needles = filter.needles();
    Ok(Records { segments, reader: None, sequence: 0, filter, needles })
}

/// Reads a log from record `from` on; earlier segments are not opened.
pub fn records_from(
    directory: &Path,
    from: u64,
) -> Result<impl Iterator<Item = Result<(Sequence, Record), ShowError>>, ShowError> {
    let mut segments = VecDeque::from(segment::list(directory)?);
    let later = |path: &Path| Reader::open(path).is_ok_and(|reader| reader.header().first <= from);
    while segments.get(1).is_some_and(|(_, path)| later(path)) {
        segments.pop_front();
    }
    let (filter, needles) = (Filter::default(), Vec::new());
    let records = Records { segments, reader: None, sequence: 0, filter, needles };
    let earlier = move |found: &Result<(Sequence, Record), ShowError>| {
        found.as_ref().is_ok_and(|(sequence, _)| sequence.0 < from)
    };
    Ok(records.skip_while(earlier))
}

impl Iterator for Records {
    type Item = Result<(Sequence, Record), ShowError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read() {
                Ok(None) => return None,
                Ok(Some((_, record))) if !self.filter.matches(&record) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(error) => {
                    self.segments.clear();
                    self.reader = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Records {
    fn read(&mut self) -> Result<Option<(Sequence, Record)>, ShowError> {
        let mut looks = 0;
        loop {
            let Some((segment, reader)) = &mut self.reader else {
                let Some((number, path)) = self.segments.pop_front() else { return Ok(None) };
                let damaged = ShowError::Damaged { sequence: self.sequence, segment: number };
                let reader = Reader::open(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::InvalidData => damaged,
                    _ => ShowError::Io(error),
                })?;
                self.sequence = reader.header().first;
                self.reader = Some((number, reader));
                continue;
            };
            let damaged = ShowError::Damaged { sequence: self.sequence, segment: *segment };
            match reader.read_frame()? {
                Next::Frame(frame) => {
                    let sequence = Sequence(frame.header.sequence);
                    self.sequence = sequence.0.saturating_add(1);
                    if !self.needles.iter().all(|needle| contains(&frame.body, needle.as_bytes())) {
                        looks = 0;
                        continue;
                    }
                    let record = serde_json::from_slice(&frame.body).map_err(|_| damaged)?;
                    return Ok(Some((sequence, record)));
                }
                // A torn record at the end was never acknowledged, or is being written.
                Next::End | Next::Broken(_) if reader.tail(self.sequence)? != Tail::Damaged => {
                    self.reader = None;
                }
                // Between reading the frame and judging the tail, a log that is being written may have gone on. What is
                // damaged stays so, however often it is looked at.
                Next::End | Next::Broken(_) if looks < LOOKS => {
                    looks = looks.saturating_add(1);
                    reader.look_again()?;
                }
                Next::End | Next::Broken(_) => return Err(damaged),
            }
        }
    }
}

/// The record as one line: time, number, kind, whom, what, outcome, id. Control characters are replaced.
pub fn line(sequence: Sequence, record: &Record) -> String {
    let text = format!("{} {:>8} {} {}", record.time, sequence.0, summary(record), record.id);
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// The record as one JSON object, with its number as `sequence`.
pub fn json(sequence: Sequence, record: &Record) -> serde_json::Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("sequence".to_owned(), sequence.0.into());
    }
    value
}

/// The kind of an event, as the log spells it.
pub fn kind(event: &Event) -> &'static str {
    match event {
        Event::Released { .. } => "released",
        Event::Renewed { .. } => "renewed",
        Event::Undelivered { .. } => "undelivered",
        Event::Denied { .. } => "denied",
        Event::HandshakeRefused { .. } => "handshake-refused",
        Event::Counted { .. } => "counted",
        Event::AdminIntent { .. } => "admin-intent",
        Event::Applied { .. } => "applied",
        Event::NotApplied { .. } => "not-applied",
        Event::AdminRead { .. } => "admin-read",
        Event::LeaseEnded { .. } => "lease-ended",
        Event::LatchCleared { .. } => "latch-cleared",
        Event::Clock { .. } => "clock",
        Event::Input { .. } => "input",
        Event::Mark { .. } => "mark",
        Event::Started { .. } => "started",
        Event::Stopped {} => "stopped",
    }
}

/// The administrator's act of an event that is one.
pub fn act(event: &Event) -> Option<&AdminAct> {
    match event {
        Event::AdminIntent { act, .. } | Event::AdminRead { act, .. } => Some(act),
        _ => None,
    }
}

/// The id of the record that this one is about.
pub fn refers_to(event: &Event) -> Option<&str> {
    match event {
        Event::Undelivered { decision_id, .. } => Some(decision_id),
        Event::Denied { repeats, .. } => repeats.as_deref(),
        Event::LatchCleared { by, .. } => Some(by),
        _ => None,
    }
}

fn identities(record: &Record) -> impl Iterator<Item = &SpiffeId> {
    let case = record.case().and_then(|case| case.identity.as_ref());
    let other = match &record.event {
        Event::Counted { identity, .. } => identity.as_ref(),
        Event::LatchCleared { key, .. } => Some(&key.identity),
        _ => None,
    };
    case.into_iter().chain(other)
}

fn concerns_secret(record: &Record, path: &str) -> bool {
    let asked = record.case().is_some_and(|case| case.secrets.iter().any(|secret| secret.path == path));
    asked
        || act(&record.event).is_some_and(|act| act.target == path)
        || matches!(&record.event, Event::LatchCleared { key, .. } if key.secret == path)
}

fn concerns_node(record: &Record, node: &str) -> bool {
    let vouched = record.case().is_some_and(|case| case.node.as_deref() == Some(node));
    vouched || act(&record.event).is_some_and(|act| act.verb.starts_with("node") && act.target == node)
}

fn summary(record: &Record) -> String {
    let kind = kind(&record.event);
    let whom = identities(record).next().map_or("-", SpiffeId::as_str);
    let what = record.case().map(|case| {
        let paths: Vec<_> = case.secrets.iter().map(versioned).collect();
        if paths.is_empty() { "-".to_owned() } else { paths.join(",") }
    });
    let what = what.unwrap_or_default();
    match &record.event {
        Event::Released { lease_id, not_after, .. } | Event::Renewed { lease_id, not_after, .. } => {
            format!("{kind} {whom} {what} lease {lease_id} until {not_after}")
        }
        Event::Denied { denial, class, case, repeats, .. } => {
            let repeats = repeats.as_ref().map(|id| format!(" repeats {id}")).unwrap_or_default();
            format!("{kind} {whom} {what} {denial} ({class}){}{repeats}", detail(&case.detail))
        }
        Event::HandshakeRefused { denial, case } => format!("{kind} {whom} {denial}{}", detail(&case.detail)),
        Event::Counted { denial, count, since, .. } => {
            format!("{kind} {whom} {denial} {count} times since {since}")
        }
        Event::Undelivered { decision_id, lease_id, detail } => {
            format!("{kind} {decision_id} lease {lease_id}: {detail}")
        }
        Event::AdminIntent { act, commit } => {
            let commit = commit.map(|commit| format!(" commit {commit}")).unwrap_or_default();
            format!("{kind} {} {} {}{commit}", act.administrator, act.verb, act.target)
        }
        Event::AdminRead { act, refused } => {
            let refused = refused.as_ref().map(|why| format!(" refused: {why}")).unwrap_or_default();
            format!("{kind} {} {} {}{refused}", act.administrator, act.verb, act.target)
        }
        Event::Applied { commit } | Event::NotApplied { commit } => format!("{kind} commit {commit}"),
        Event::LeaseEnded { lease_id, detail } => format!("{kind} lease {lease_id}: {detail}"),
        Event::LatchCleared { key, by } => format!("{kind} {whom} {} by {by}", key.secret),
        Event::Clock { state } => format!("{kind} {state}"),
        Event::Input { name, epoch, state } => format!("{kind} {name} epoch {epoch}: {state}"),
        Event::Mark { name, value, lowered } => {
            format!("{kind} {name} {value}{}", if *lowered { " (lowered)" } else { "" })
        }
        Event::Started { version, commit } => format!("{kind} {version} commit {commit}"),
        Event::Stopped {} => kind.to_owned(),
    }
}

fn versioned(secret: &crate::case::PathVersion) -> String {
    match secret.version {
        Some(version) => format!("{}@{version}", secret.path),
        None => secret.path.clone(),
    }
}

fn detail(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// Each look reads the file anew; a writer that is ahead of three in a row is not met, and damage is read four times.
const LOOKS: u32 = 3;

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::audit::log::tests::{intent, open, place, record, with, written};
    use crate::audit::record::LatchKey;
    use crate::case::{Case, PathVersion};

    pub fn case(identity: &str, path: &str) -> Case {
        Case {
            identity: Some(SpiffeId::parse(identity).unwrap()),
            secrets: vec![PathVersion { path: path.into(), version: Some(3) }],
            node: Some("node-1".into()),
            ..Case::new()
        }
    }

    pub fn denied(number: u64, denial: Denial, case: Case) -> Record {
        let (class, reason) = (denial.class().name().into(), denial.reason().name().into());
        with(number, Event::Denied { denial, class, reason, case, latches: Vec::new(), repeats: None })
    }

    pub fn released(number: u64, case: Case) -> Record {
        with(
            number,
            Event::Released { case, lease_id: "lease".into(), not_after: WallTime(1_790_000_300_000) },
        )
    }

    pub const WEB: &str = "spiffe://example.org/web/a";
    pub const PAY: &str = "spiffe://example.org/pay";

    /// One record of every kind.
    pub fn every_kind() -> Vec<Record> {
        let latch = LatchKey {
            identity: SpiffeId::parse(PAY).unwrap(),
            subject: "ab".into(),
            secret: "kv/pay".into(),
        };
        vec![
            released(0, case(WEB, "kv/web")),
            with(
                1,
                Event::Undelivered {
                    decision_id: format!("{:032x}", 0),
                    lease_id: "lease".into(),
                    detail: "reset".into(),
                },
            ),
            denied(2, Denial::PolicyForbids, case(PAY, "kv/pay")),
            with(3, Event::HandshakeRefused { denial: Denial::PeerRevoked, case: case(PAY, "kv/pay") }),
            with(
                4,
                Event::Counted {
                    identity: Some(SpiffeId::parse(PAY).unwrap()),
                    key_sha256: "ab".into(),
                    denial: Denial::LimitExceeded,
                    count: 7,
                    since: WallTime(1_790_000_000_000),
                },
            ),
            intent(5, 1),
            with(6, Event::Applied { commit: 1 }),
            with(7, Event::NotApplied { commit: 2 }),
            record(8),
            with(9, Event::LeaseEnded { lease_id: "lease".into(), detail: "revoked".into() }),
            with(10, Event::LatchCleared { key: latch, by: format!("{:032x}", 5) }),
            with(11, Event::Clock { state: "suspect".into() }),
            with(12, Event::Input { name: "bundle".into(), epoch: 2, state: "read".into() }),
            with(13, Event::Started { version: "0.1.0".into(), commit: 0 }),
            with(14, Event::Stopped {}),
            with(15, Event::Mark { name: "crl-number/ab".into(), value: "07".into(), lowered: true }),
        ]
    }

    #[test]
    fn every_kind_is_named_as_the_log_spells_it_and_has_its_line() {
        for (number, record) in (0..).zip(every_kind()) {
            let value = json(Sequence(number), &record);
            assert_eq!(value["event"]["kind"], kind(&record.event));
            assert_eq!(value["sequence"], number);
            let line = line(Sequence(number), &record);
            assert!(line.contains(kind(&record.event)) && line.ends_with(&record.id), "{line}");
        }
        assert_eq!(
            line(Sequence(2), &every_kind()[2]),
            "2026-09-21T14:13:22.000Z        2 denied spiffe://example.org/pay kv/pay@3 PolicyForbids (refused) \
             00000000000000000000000000000002"
        );
    }

    #[test]
    fn a_line_carries_no_control_characters() {
        let hostile = with(0, Event::Clock { state: "\u{1b}[2J\nreleased".into() });
        assert!(!line(Sequence(0), &hostile).contains(|character: char| character.is_control()));
    }

    #[tokio::test]
    async fn filters_find_what_they_name_and_nothing_else() {
        let place = place();
        let (log, _) = open(&place.path);
        for record in every_kind() {
            log.append(&record).await.unwrap();
        }
        // While the log is open: its tail is zeros.
        let found = |filter: Filter| -> Vec<u64> {
            records(&place.path, filter).unwrap().map(|found| found.unwrap().0.0).collect()
        };
        let all = Filter::default;
        assert_eq!(found(all()), (0..16).collect::<Vec<_>>());
        let identity = |text: &str| Filter { identity: Some(IdPattern::parse(text).unwrap()), ..all() };
        assert_eq!(found(identity("spiffe://example.org/web/*")), [0]);
        assert_eq!(found(identity(PAY)), [2, 3, 4, 10]);
        assert_eq!(found(Filter { secret: Some("kv/pay".into()), ..all() }), [2, 3, 10]);
        assert_eq!(found(Filter { decision: Some(format!("{:032x}", 0)), ..all() }), [0, 1]);
        assert_eq!(found(Filter { denial: Some(Denial::PeerRevoked), ..all() }), [3]);
        assert_eq!(found(Filter { kind: Some("clock".into()), ..all() }), [11]);
        assert_eq!(found(Filter { node: Some("node-1".into()), ..all() }), [0, 2, 3]);
        assert_eq!(found(Filter { administrator: Some("ada".into()), ..all() }), [5, 8]);
        let (since, until) = (Some(record(3).time), Some(record(5).time));
        assert_eq!(found(Filter { since, until, ..all() }), [3, 4]);
    }

    #[tokio::test]
    async fn reading_since_a_time_begins_at_its_segment() {
        let place = written(100).await;
        let found: Vec<_> =
            records(&place.path, Filter { since: Some(record(90).time), ..Filter::default() })
                .unwrap()
                .map(|found| found.unwrap().0.0)
                .collect();
        assert_eq!(found, (90..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_damaged_record_ends_reading_with_an_error() {
        let place = written(3).await;
        let path = place.path.join("segment-0000000001.log");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096 + 100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut records = records(&place.path, Filter::default()).unwrap();
        assert!(matches!(records.next(), Some(Err(ShowError::Damaged { sequence: 0, segment: 1 }))));
        assert!(records.next().is_none());
    }

    #[tokio::test]
    async fn a_log_that_is_written_while_it_is_read_is_not_damaged() {
        let place = place();
        let (log, _) = open(&place.path);
        for number in 0..3 {
            log.append(&record(number)).await.unwrap();
        }
        let mut records = records(&place.path, Filter::default()).unwrap();
        assert!(records.next().unwrap().is_ok(), "and the zeros that follow are read ahead");
        for number in 3..8 {
            log.append(&record(number)).await.unwrap();
        }
        assert_eq!(records.map(|found| found.unwrap().0.0).collect::<Vec<_>>(), (1..8).collect::<Vec<_>>());
    }
}
