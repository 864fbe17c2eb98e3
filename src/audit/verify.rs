//! Offline proof that the log is what its checkpoint was signed over: nothing changed, missing, reordered or cut.
//!
//! *Takes* a directory, the log's public key and a checkpoint, best one that was kept elsewhere. *Gives* a [`Report`], or
//! the first thing that is wrong and where. *Denies* nothing itself. *Source*: RFC 6962 §2.1; C2SP tlog-checkpoint.
//!
//! Reads every record once and holds one at a time. Checksums and chain say *which* record was touched by whoever did not
//! recompute them all; the tree and the signature find the rest, and the checkpoints that the log keeps narrow it down.

use super::border::{Border, BorderError};
use super::checkpoint::{Checkpoint, LogPublicKey, NoteError};
use super::frame::Frame;
use super::head::{Head, Mark};
use super::merkle::Hash;
use super::open::{CHECKPOINT, HISTORY};
use super::record::Record;
use super::segment::{self, Header, Next, Reader, Tail};
use crate::limits;
use crate::time::WallTime;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Records of the log, from its first on.
    pub records: u64,
    /// The first record that is here; earlier ones are archived elsewhere.
    pub first: u64,
    /// Segment files.
    pub segments: u64,
    /// The root over all records.
    pub root: Hash,
    /// The records that a checkpoint vouches for; those after it are only chained.
    pub signed: u64,
    /// The first record's wall time; none without records.
    pub first_time: Option<WallTime>,
    /// The last record's wall time; none without records.
    pub last_time: Option<WallTime>,
    /// Whether a torn record stands behind the last: never acknowledged, or being written right now.
    pub torn_tail: bool,
}

/// The first thing that is wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// What says where the log begins is not this log's.
    #[error("where the log begins: {0}")]
    Border(#[from] BorderError),
    /// The checkpoint is of records that are archived.
    #[error(
        "the checkpoint is of {size} records, and the log begins at record {first}: verify it together with its \
         archives (--archive)"
    )]
    BeforeBorder {
        /// Records signed.
        size: u64,
        /// The first record here.
        first: u64,
    },
    /// The checkpoint is not this log's.
    #[error("the checkpoint: {0}")]
    Note(#[from] NoteError),
    /// No checkpoint was given, and the directory holds none.
    #[error("there is no checkpoint to verify against")]
    CheckpointMissing,
    /// A record's bytes were changed.
    #[error("record {sequence} was changed, in segment {segment} at byte {offset}: {what}")]
    Changed {
        /// Which.
        sequence: u64,
        /// The segment's number.
        segment: u64,
        /// Where it begins in the file, bytes.
        offset: u64,
        /// How that shows.
        what: String,
    },
    /// A record does not carry the hash of the one before it.
    #[error("record {before} or record {sequence} was changed: the hash between them does not fit")]
    Unchained {
        /// The one before.
        before: u64,
        /// The one that carries the hash.
        sequence: u64,
    },
    /// Records are not there, though later ones are.
    #[error("records {from} to {to} are missing")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A record stands before one that it should follow.
    #[error("record {found} stands where record {sequence} should, which follows later: they were reordered")]
    Reordered {
        /// What should stand there.
        sequence: u64,
        /// What does.
        found: u64,
    },
    /// A record stands there a second time.
    #[error("record {found} stands again where record {sequence} should")]
    Repeated {
        /// What should stand there.
        sequence: u64,
        /// What does.
        found: u64,
    },
    /// The log ends before the checkpoint.
    #[error(
        "the log ends after {found} records, but the checkpoint was signed over {signed}: the end was cut off"
    )]
    Cut {
        /// Records in the log.
        found: u64,
        /// Records signed.
        signed: u64,
    },
    /// The log is consistent in itself, but it is not the one that was signed.
    #[error("a record between number {after} and number {before} was changed, and all after it chained anew")]
    Rewritten {
        /// The first that may be it.
        after: u64,
        /// The last that may be it.
        before: u64,
    },
    /// A segment's header does not say what the segments before it amount to.
    #[error("the header of segment {segment}, before record {sequence}, was changed")]
    SegmentChanged {
        /// The segment's number.
        segment: u64,
        /// The record that follows the header.
        sequence: u64,
    },
}

/// Verifies the whole log against `note`, and against the checkpoint that the directory holds; from its border on, where
/// earlier segments were archived.
pub fn verify(directory: &Path, key: &LogPublicKey, note: Option<&str>) -> Result<Report, VerifyError> {
    verify_with(directory, &[], key, note)
}

/// As [`verify`], of a log and archives of it together.
pub fn verify_with(
    directory: &Path,
    archives: &[PathBuf],
    key: &LogPublicKey,
    note: Option<&str>,
) -> Result<Report, VerifyError> {
    let places = [&[directory.to_owned()], archives].concat();
    let (segments, begin) = beginning(&places, key)?;
    let expected = begin.as_ref().map_or(1, |header| header.number);
    let mut verifier = Verifier::new(directory, key, note, begin)?;
    let mut torn_tail = false;
    for (index, (number, path)) in (expected..).zip(&segments) {
        if torn_tail {
            return Err(verifier.changed(number.saturating_sub(1), 0, "it is torn in the middle of the log"));
        }
        torn_tail = verifier.segment(index, *number, path)?;
    }
    verifier.finish(torn_tail, u64::try_from(segments.len()).unwrap_or(u64::MAX))
}

/// The segments that count, and the header that a border admits as their beginning; none where they begin at the first.
#[expect(clippy::type_complexity, reason = "a pair of what `verify_with` takes apart at once")]
fn beginning(
    places: &[PathBuf],
    key: &LogPublicKey,
) -> Result<(Vec<(u64, PathBuf)>, Option<Header>), VerifyError> {
    let borders = places.iter().map(|place| Border::read(place, key)).collect::<Result<Vec<_>, _>>()?;
    let borders: Vec<Border> = borders.into_iter().flatten().collect();
    let mut segments = segment::list_all(places)?;
    let Some((first, _)) = segments.first() else { return Ok((segments, None)) };
    // Without its first segment a log begins where the earliest border says; what an interrupted archive left before does not
    // count.
    let Some(border) = borders.iter().min_by_key(|border| border.segment).filter(|_| *first != 1) else {
        return Ok((segments, None));
    };
    segments.retain(|(number, _)| *number >= border.segment);
    let Some((number, path)) = segments.first().filter(|(number, _)| *number == border.segment) else {
        return Ok((segments, None));
    };
    let changed = || VerifyError::SegmentChanged { segment: *number, sequence: border.size };
    let reader = Reader::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => changed(),
        _ => VerifyError::Io(error),
    })?;
    let header = reader.header().clone();
    if !border.admits(&header) {
        return Err(changed());
    }
    Ok((segments, Some(header)))
}

struct Verifier<'a> {
    key: &'a LogPublicKey,
    /// The first record that is here.
    first: u64,
    head: Head,
    first_time: Option<WallTime>,
    /// Roots that signatures vouch for, by size.
    roots: BTreeMap<u64, Hash>,
    /// The size up to which the directory and the caller say that the log was signed.
    signed: u64,
    /// The largest size so far whose root was as signed.
    good: u64,
}

impl<'a> Verifier<'a> {
    fn new(
        directory: &Path,
        key: &'a LogPublicKey,
        note: Option<&str>,
        begin: Option<Header>,
    ) -> Result<Self, VerifyError> {
        let head = match &begin {
            None => Head::empty(key.origin()),
            Some(header) => Head::at(header).ok_or(VerifyError::CheckpointMissing)?,
        };
        let first = head.size();
        let own = match std::fs::File::open(directory.join(CHECKPOINT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(read_note(file?)?),
        };
        let mut roots = kept(directory, key)?.split_off(&first);
        let mut signed = None;
        for note in [note, own.as_deref()].into_iter().flatten() {
            let checkpoint = Checkpoint::verify(note, key)?;
            if checkpoint.size < first {
                return Err(VerifyError::BeforeBorder { size: checkpoint.size, first });
            }
            signed = signed.max(Some(checkpoint.size));
            // Two signed roots of one size cannot both be met: the later look finds it.
            let root = *roots.entry(checkpoint.size).or_insert(checkpoint.root);
            if root != checkpoint.root {
                return Err(VerifyError::Rewritten { after: 0, before: checkpoint.size.saturating_sub(1) });
            }
        }
        let signed = signed.ok_or(VerifyError::CheckpointMissing)?;
        let verifier = Verifier { key, first, head, first_time: None, roots, signed, good: first };
        verifier.check_root()?;
        Ok(verifier)
    }

    /// Verifies one segment. Returns whether a torn record stands at its end.
    fn segment(&mut self, expected: u64, number: u64, path: &Path) -> Result<bool, VerifyError> {
        let mut reader = match Reader::open(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(VerifyError::SegmentChanged { segment: number, sequence: self.head.size() });
            }
            reader => reader?,
        };
        self.enter(expected, number, reader.header())?;
        loop {
            let offset = reader.offset();
            match reader.read_frame()? {
                Next::Frame(frame) => self.frame(number, offset, frame, &mut reader)?,
                Next::End => break,
                Next::Broken(_) if self.head.size() >= self.signed => break,
                Next::Broken(error) => return Err(self.changed(number, offset, &error.to_string())),
            }
        }
        match reader.tail(self.head.size())? {
            Tail::Clean => Ok(false),
            Tail::Torn if self.head.size() >= self.signed => Ok(true),
            Tail::Torn | Tail::Damaged => {
                Err(self.changed(number, reader.offset(), "what stands there is no whole record"))
            }
        }
    }

    fn enter(&mut self, expected: u64, number: u64, header: &Header) -> Result<(), VerifyError> {
        let size = self.head.size();
        let last = header.first.saturating_sub(1);
        if header.first > size && last < self.signed {
            return Err(VerifyError::Missing { from: size, to: last });
        }
        let computed = self.head.header(number, self.key.origin());
        if expected != number || *header != computed {
            return Err(VerifyError::SegmentChanged { segment: number, sequence: size });
        }
        Ok(())
    }

    fn frame(
        &mut self,
        segment: u64,
        offset: u64,
        frame: Frame,
        reader: &mut Reader,
    ) -> Result<(), VerifyError> {
        let (sequence, found) = (self.head.size(), frame.header.sequence);
        if found != sequence {
            return Err(misplaced(sequence, found, reader)?);
        }
        if frame.header.previous != self.head.last {
            return Err(VerifyError::Unchained { before: sequence.saturating_sub(1), sequence });
        }
        if frame.header.group > sequence {
            return Err(self.changed(segment, offset, "it names a later group than its own"));
        }
        let record: Record = serde_json::from_slice(&frame.body)
            .map_err(|error| self.changed(segment, offset, &format!("it is no record: {error}")))?;
        self.first_time.get_or_insert(record.time);
        self.head.push(frame.leaf, Mark::of(&record));
        self.check_root()?;
        if self.roots.contains_key(&self.head.size()) {
            self.good = self.head.size();
        }
        Ok(())
    }

    fn check_root(&self) -> Result<(), VerifyError> {
        let size = self.head.size();
        match self.roots.get(&size) {
            Some(root) if *root != self.head.tree.root() => {
                Err(VerifyError::Rewritten { after: self.good, before: size.saturating_sub(1) })
            }
            _ => Ok(()),
        }
    }

    fn finish(self, torn_tail: bool, segments: u64) -> Result<Report, VerifyError> {
        let records = self.head.size();
        if records < self.signed {
            return Err(VerifyError::Cut { found: records, signed: self.signed });
        }
        Ok(Report {
            records,
            first: self.first,
            segments,
            root: self.head.tree.root(),
            signed: self.signed,
            first_time: self.first_time,
            last_time: self.first_time.map(|_| self.head.last_time),
            torn_tail,
        })
    }

    fn changed(&self, segment: u64, offset: u64, what: &str) -> VerifyError {
        VerifyError::Changed { sequence: self.head.size(), segment, offset, what: what.to_owned() }
    }
}

/// Says what is wrong where record `found` stands in the place of record `sequence`: reads on to the segment's end.
fn misplaced(sequence: u64, found: u64, reader: &mut Reader) -> Result<VerifyError, VerifyError> {
    if found < sequence {
        return Ok(VerifyError::Repeated { sequence, found });
    }
    while let Next::Frame(frame) = reader.read_frame()? {
        if frame.header.sequence == sequence {
            return Ok(VerifyError::Reordered { sequence, found });
        }
    }
    Ok(VerifyError::Missing { from: sequence, to: found.saturating_sub(1) })
}

fn read_note(file: impl Read) -> io::Result<String> {
    let mut note = String::new();
    file.take(u64::try_from(limits::NOTE_BYTES).unwrap_or(0)).read_to_string(&mut note)?;
    Ok(note)
}

/// The checkpoints that the log keeps, five lines each. They only narrow down: one that does not verify is passed over.
fn kept(directory: &Path, key: &LogPublicKey) -> io::Result<BTreeMap<u64, Hash>> {
    let file = match std::fs::File::open(directory.join(HISTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        file => file?,
    };
    let mut roots = BTreeMap::new();
    let mut reader = BufReader::new(file);
    loop {
        let mut note = Vec::new();
        for _ in 0..NOTE_LINES {
            let limit = u64::try_from(limits::NOTE_BYTES).unwrap_or(0);
            reader.by_ref().take(limit).read_until(b'\n', &mut note)?;
        }
        if note.is_empty() || roots.len() >= KEPT {
            return Ok(roots);
        }
        let note = String::from_utf8(note).unwrap_or_default();
        if let Ok(checkpoint) = Checkpoint::verify(&note, key) {
            roots.insert(checkpoint.size, checkpoint.root);
        }
    }
}

/// Origin, size, root, an empty line, one signature.
const NOTE_LINES: usize = 5;
/// Kept checkpoints that are held in memory: 40 bytes each, one for 10,000 records.
const KEPT: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::checkpoint::tests::key;
    use crate::audit::log::tests::{ORIGIN, Place, frames, open, record, written};
    use crate::audit::segment::SEGMENT_HEADER_BYTES;

    fn note(place: &Place) -> String {
        std::fs::read_to_string(place.path.join(CHECKPOINT)).unwrap()
    }

    fn check(place: &Place, note: &str) -> Result<Report, VerifyError> {
        verify(&place.path, key(ORIGIN).public(), Some(note))
    }

    fn first(place: &Place) -> std::path::PathBuf {
        place.path.join(segment::name(1))
    }

    /// Writes the only segment anew with these frames.
    fn rewrite(place: &Place, frames: &[Vec<u8>]) {
        let mut bytes = std::fs::read(first(place)).unwrap();
        bytes.truncate(SEGMENT_HEADER_BYTES as usize);
        frames.iter().for_each(|frame| bytes.extend_from_slice(frame));
        std::fs::write(first(place), bytes).unwrap();
    }

    #[tokio::test]
    async fn an_untouched_log_verifies_across_segments() {
        let place = written(100).await;
        let report = check(&place, &note(&place)).unwrap();
        assert_eq!((report.records, report.signed, report.torn_tail), (100, 100, false));
        assert!(report.segments > 1);
        assert_eq!((report.first_time, report.last_time), (Some(record(0).time), Some(record(99).time)));
        assert_eq!(verify(&place.path, key(ORIGIN).public(), None).unwrap(), report);
    }

    #[tokio::test]
    async fn a_running_log_verifies_against_an_older_checkpoint() {
        let place = written(3).await;
        let older = note(&place);
        let (log, _) = open(&place.path);
        log.append(&record(3)).await.unwrap();
        let report = check(&place, &older).unwrap();
        assert_eq!((report.records, report.signed), (4, 3));
    }

    #[tokio::test]
    async fn every_flipped_byte_of_every_file_is_found_and_open_never_lets_it_stand() {
        let place = written(6).await;
        let note = note(&place);
        let bytes = std::fs::read(first(&place)).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(first(&place), &changed).unwrap();
            let error = check(&place, &note).unwrap_err();
            let header = at < SEGMENT_HEADER_BYTES as usize;
            match error {
                VerifyError::SegmentChanged { segment: 1, sequence: 0 } => assert!(header, "byte {at}"),
                VerifyError::Changed { sequence, offset, .. } => {
                    let frame = frames_at(&bytes)[sequence as usize].clone();
                    assert!(frame.contains(&at) && frame.start == offset as usize, "byte {at}: {sequence}");
                }
                other => panic!("byte {at}: {other}"),
            }
        }
    }

    fn frames_at(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
        let mut at = SEGMENT_HEADER_BYTES as usize;
        let mut ranges = Vec::new();
        while at < bytes.len() {
            let length = 60 + u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            ranges.push(at..at + length);
            at += length;
        }
        ranges
    }

    #[tokio::test]
    async fn a_removed_reordered_repeated_or_cut_record_is_named() {
        let place = written(6).await;
        let note = note(&place);
        let whole = frames(&place.path);
        let with = |change: fn(&mut Vec<Vec<u8>>)| {
            let mut frames = whole.clone();
            change(&mut frames);
            rewrite(&place, &frames);
            check(&place, &note).unwrap_err()
        };
        let removed = with(|frames| drop(frames.drain(2..4)));
        assert!(matches!(removed, VerifyError::Missing { from: 2, to: 3 }), "{removed}");
        let reordered = with(|frames| frames.swap(2, 4));
        assert!(matches!(reordered, VerifyError::Reordered { sequence: 2, found: 4 }), "{reordered}");
        let repeated = with(|frames| frames.insert(3, frames[1].clone()));
        assert!(matches!(repeated, VerifyError::Repeated { sequence: 3, found: 1 }), "{repeated}");
        let cut = with(|frames| frames.truncate(5));
        assert!(matches!(cut, VerifyError::Cut { found: 5, signed: 6 }), "{cut}");
        let emptied = with(Vec::clear);
        assert!(matches!(emptied, VerifyError::Cut { found: 0, signed: 6 }), "{emptied}");
    }

    #[tokio::test]
    async fn missing_segments_are_named_by_their_records() {
        let place = written(100).await;
        let note = note(&place);
        let second = Reader::open(&place.path.join(segment::name(2))).unwrap().header().first;
        let third = Reader::open(&place.path.join(segment::name(3))).unwrap().header().first;
        std::fs::remove_file(place.path.join(segment::name(2))).unwrap();
        let error = check(&place, &note).unwrap_err();
        assert!(
            matches!(error, VerifyError::Missing { from, to } if from == second && to == third - 1),
            "{error}"
        );
        std::fs::remove_file(first(&place)).unwrap();
        let error = check(&place, &note).unwrap_err();
        assert!(matches!(error, VerifyError::Missing { from: 0, .. }), "{error}");
    }

    /// Changes record `at` and makes checksums and chain right again, as someone without the log's key could.
    fn forge(place: &Place, at: usize) {
        let mut head = Head::empty(ORIGIN);
        let mut forged = Vec::new();
        for (index, frame) in frames(&place.path).iter().enumerate() {
            let mut record: Record = serde_json::from_slice(&frame[60..]).unwrap();
            if index == at {
                record.boot_id = "forged".into();
            }
            let body = crate::audit::frame::Body::new(serde_json::to_vec(&record).unwrap()).unwrap();
            let mut bytes = Vec::new();
            let leaf = body.frame(&mut bytes, head.size(), head.size(), head.last);
            head.push(leaf, Mark::of(&record));
            forged.push(bytes);
        }
        rewrite(place, &forged);
    }

    #[tokio::test]
    async fn a_log_rewritten_with_a_new_chain_is_found_and_narrowed_down_by_kept_checkpoints() {
        let place = written(6).await;
        let note = note(&place);
        forge(&place, 4);
        let error = check(&place, &note).unwrap_err();
        assert!(matches!(error, VerifyError::Rewritten { after: 0, before: 5 }), "{error}");
        let place = written(6).await;
        let mut head = Head::empty(ORIGIN);
        let mut kept = String::new();
        for frame in frames(&place.path) {
            head.push(crate::audit::merkle::leaf(&[&frame]), Mark::of(&record(0)));
            let checkpoint = Checkpoint { origin: ORIGIN.into(), size: head.size(), root: head.tree.root() };
            if head.size().is_multiple_of(2) {
                kept += &checkpoint.sign(&key(ORIGIN));
            }
        }
        std::fs::write(place.path.join(HISTORY), kept).unwrap();
        assert!(check(&place, &note).is_ok());
        forge(&place, 3);
        let error = check(&place, &note).unwrap_err();
        assert!(matches!(error, VerifyError::Rewritten { after: 2, before: 3 }), "{error}");
    }

    #[tokio::test]
    async fn a_changed_record_with_a_right_checksum_breaks_the_chain() {
        let place = written(6).await;
        let note = note(&place);
        let mut forged = frames(&place.path);
        let previous = crate::audit::frame::Header::parse(forged[2].first_chunk().unwrap()).unwrap().previous;
        let body = crate::audit::frame::Body::new(serde_json::to_vec(&record(77)).unwrap()).unwrap();
        forged[2].clear();
        body.frame(&mut forged[2], 2, 2, previous);
        rewrite(&place, &forged);
        let error = check(&place, &note).unwrap_err();
        assert!(matches!(error, VerifyError::Unchained { before: 2, sequence: 3 }), "{error}");
    }

    #[tokio::test]
    async fn no_checkpoint_or_another_logs_proves_nothing() {
        let place = written(3).await;
        let other = Checkpoint { origin: "portcullis/b".into(), size: 0, root: Hash([0; 32]) };
        let error = check(&place, &other.sign(&key("portcullis/b"))).unwrap_err();
        assert!(matches!(error, VerifyError::Note(NoteError::Unsigned)), "{error}");
        std::fs::remove_file(place.path.join(CHECKPOINT)).unwrap();
        let error = verify(&place.path, key(ORIGIN).public(), None).unwrap_err();
        assert!(matches!(error, VerifyError::CheckpointMissing), "{error}");
    }

    #[tokio::test]
    async fn a_torn_tail_behind_the_checkpoint_is_reported_and_no_error() {
        let place = written(6).await;
        let note = note(&place);
        let mut bytes = std::fs::read(first(&place)).unwrap();
        bytes.extend_from_slice(&frames(&place.path)[0][..100]);
        std::fs::write(first(&place), bytes).unwrap();
        let report = check(&place, &note).unwrap();
        assert_eq!((report.records, report.torn_tail), (6, true));
    }
}
