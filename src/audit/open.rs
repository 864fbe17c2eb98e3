//! Opening the log: what is there is verified from the last checkpoint on, or not opened at all.
//!
//! *Takes* the locked directory. *Gives* the head, the segment to go on with, and what the caller must reconcile.
//! *Denies* nothing itself; the broker does not start on an [`OpenError`]. *Source*: `durability.md` "sled", "Audit".

use super::border::{self, Border, BorderError};
use super::checkpoint::{Checkpoint, LogKey, NoteError};
use super::disk::{Disk, Fault, Segment};
use super::frame::Frame;
use super::head::{Head, Mark};
use super::log::OpenReport;
use super::record::Record;
use super::segment::{self, Header, Next, Reader, Tail};
use crate::limits;
use crate::time::WallTime;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why the log was not opened; the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be read or made.
    #[error("the audit log: {0}")]
    Io(#[from] io::Error),
    /// Another process has the log open.
    #[error("another process has the audit log open")]
    Locked,
    /// It cannot be written.
    #[error("the audit log: {0}")]
    Fault(#[from] Fault),
    /// There are records, but no checkpoint.
    #[error("the audit log has records but its checkpoint is missing")]
    CheckpointMissing,
    /// The checkpoint is not one of this log's key.
    #[error("the audit log's checkpoint: {0}")]
    CheckpointInvalid(#[from] NoteError),
    /// What says where an archived log begins is not one of this log's key.
    #[error("where the audit log begins: {0}")]
    BorderInvalid(#[from] BorderError),
    /// The log ends before its last checkpoint.
    #[error(
        "the audit log holds {found} records, but its checkpoint was signed over {signed}: records were cut off"
    )]
    Cut {
        /// Records found.
        found: u64,
        /// Records signed.
        signed: u64,
    },
    /// The records are not those that the checkpoint was signed over.
    #[error("the first {signed} records of the audit log are not those that its checkpoint was signed over")]
    RootMismatch {
        /// Records signed.
        signed: u64,
    },
    /// A record or a segment's header is damaged, missing or out of order.
    #[error("the audit log is damaged at record {sequence}, in segment {segment}: {what}")]
    Damaged {
        /// The record that should stand there.
        sequence: u64,
        /// The segment's number.
        segment: u64,
        /// What is wrong.
        what: String,
    },
}

pub(super) struct Opened {
    pub(super) disk: Disk,
    pub(super) head: Head,
    pub(super) segment: Segment,
    pub(super) report: OpenReport,
}

/// Reads what must be read, verifies it, and makes the log ready to go on.
pub(super) fn replay(
    mut disk: Disk,
    key: &LogKey,
    since: WallTime,
    horizon: impl FnMut(&Record),
) -> Result<Opened, OpenError> {
    let Found { head, last, report } = read(disk.path(), key, since, horizon)?;
    let segment = match last {
        None => disk.begin(head.header(1, key.public().origin()))?,
        Some(last) => disk.resume(last.header, last.group, last.end)?,
    };
    Ok(Opened { disk, head, segment, report })
}

/// Does all of [`replay`] that changes nothing: a directory that is not there is a log that is still to be made.
pub(super) fn examine(directory: &Path, key: &LogKey, since: WallTime) -> Result<OpenReport, OpenError> {
    read(directory, key, since, |_| ()).map(|found| found.report)
}

/// What stands in a directory.
struct Found {
    head: Head,
    /// None where nothing was written yet.
    last: Option<Last>,
    report: OpenReport,
}

fn read(
    directory: &Path,
    key: &LogKey,
    since: WallTime,
    horizon: impl FnMut(&Record),
) -> Result<Found, OpenError> {
    let border = Border::read(directory, key.public())?;
    let segments = match directory.try_exists()? {
        true => border::counting(directory, border.as_ref())?,
        false => Vec::new(),
    };
    let checkpoint = read_checkpoint(directory, key)?;
    let origin = key.public().origin();
    check_numbers(&segments, border.as_ref())?;
    if segments.is_empty() || (checkpoint.is_none() && is_unused(&segments)?) {
        check_covers(checkpoint.as_ref(), 0)?;
        let head = Head::empty(origin);
        let report = report(&head, true, false);
        return Ok(Found { head, last: None, report });
    }
    let checkpoint = checkpoint.ok_or(OpenError::CheckpointMissing)?;
    let start = start(&segments, checkpoint.size, since)?;
    let mut replay = Replay::new(origin, checkpoint, since, horizon);
    let mut last = None;
    for (number, path) in segments.get(start..).unwrap_or_default() {
        last = Some(replay.segment(*number, path)?);
    }
    let last = last.ok_or(OpenError::CheckpointMissing)?;
    check_covers(Some(&replay.checkpoint), replay.head.size())?;
    let report = report(&replay.head, false, replay.torn);
    Ok(Found { head: replay.head, last: Some(last), report })
}

fn report(head: &Head, created: bool, torn_tail: bool) -> OpenReport {
    OpenReport {
        created,
        records: head.size(),
        last_time: head.last_time,
        highest_time: head.highest_time,
        last_applied: head.applied,
        open_intents: head.intents.keys().copied().collect(),
        torn_tail,
    }
}

/// No segment is missing but those that the border says are elsewhere.
fn check_numbers(segments: &[(u64, PathBuf)], border: Option<&Border>) -> Result<(), OpenError> {
    let here = segments.first().map_or(1, |(number, _)| *number);
    let first = if here == 1 { 1 } else { border.map_or(1, |border| border.segment) };
    if let (Some(border), Some((number, path))) = (border, segments.first())
        && *number != 1
        && *number == border.segment
        && !border.admits(&header(*number, path)?)
    {
        let what = "the log begins here, and its border is of another segment".to_owned();
        return Err(OpenError::Damaged { sequence: border.size, segment: *number, what });
    }
    if segments.is_empty() && border.is_some() {
        return Err(OpenError::CheckpointMissing);
    }
    match (first..).zip(segments).find(|(expected, (number, _))| expected != number) {
        Some((segment, _)) => {
            Err(OpenError::Damaged { sequence: 0, segment, what: "the segment is missing".to_owned() })
        }
        None => Ok(()),
    }
}

/// Whether there is nothing of a log in a directory, or no record and no word of one. Changes nothing.
pub fn is_absent(directory: &Path) -> Result<bool, OpenError> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>()?;
    // A start that found a store without its log has left a checkpoint of no record and an empty segment.
    let segments = segment::list(directory)?;
    let empty = segments.is_empty() || is_unused(&segments)?;
    let checkpoint = names.iter().any(|name| name == CHECKPOINT);
    let of_none = || -> io::Result<bool> {
        let note = std::fs::read_to_string(directory.join(CHECKPOINT))?;
        Ok(note.lines().nth(1) == Some("0"))
    };
    Ok(empty && (!checkpoint || of_none()?))
}

/// Whether all there is is a first segment without a record: a start that ended before the first checkpoint.
fn is_unused(segments: &[(u64, PathBuf)]) -> Result<bool, OpenError> {
    let [(number, path)] = segments else { return Ok(false) };
    let reader = Reader::open(path).map_err(|error| unreadable(*number, error))?;
    Ok(reader.header().first == 0 && reader.tail(0)? == Tail::Clean)
}

fn read_checkpoint(directory: &Path, key: &LogKey) -> Result<Option<Checkpoint>, OpenError> {
    let file = match std::fs::File::open(directory.join(CHECKPOINT)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut note = String::new();
    file.take(u64::try_from(limits::NOTE_BYTES).unwrap_or(0)).read_to_string(&mut note)?;
    Ok(Some(Checkpoint::verify(&note, key.public())?))
}

fn check_covers(checkpoint: Option<&Checkpoint>, found: u64) -> Result<(), OpenError> {
    match checkpoint {
        Some(checkpoint) if checkpoint.size > found => Err(OpenError::Cut { found, signed: checkpoint.size }),
        _ => Ok(()),
    }
}

/// The index of the segment to begin with: the last that begins no later than the checkpoint, the horizon and the
/// oldest open intent.
fn start(segments: &[(u64, PathBuf)], signed: u64, since: WallTime) -> Result<usize, OpenError> {
    let mut intent = None;
    for (index, (number, path)) in segments.iter().enumerate().rev() {
        let header = header(*number, path)?;
        // Only the last segment's word counts: what was open earlier may have been closed since.
        let needed = *intent.get_or_insert(header.oldest_intent.unwrap_or(u64::MAX));
        let early = header.first <= signed && header.first <= needed && header.highest_time < since;
        if early || header.first == 0 {
            return Ok(index);
        }
    }
    Ok(0)
}

fn header(number: u64, path: &Path) -> Result<Header, OpenError> {
    Reader::open(path).map(|reader| reader.header().clone()).map_err(|error| unreadable(number, error))
}

fn unreadable(segment: u64, error: io::Error) -> OpenError {
    if error.kind() == io::ErrorKind::InvalidData {
        return OpenError::Damaged { sequence: 0, segment, what: error.to_string() };
    }
    OpenError::Io(error)
}

struct Replay<'a, F> {
    origin: &'a str,
    checkpoint: Checkpoint,
    since: WallTime,
    horizon: F,
    head: Head,
    /// The number of the segment before; none before the first.
    last_segment: Option<u64>,
    /// A torn tail was met: legal behind the last segment only.
    torn: bool,
}

/// Where a segment was left.
struct Last {
    header: Header,
    /// Where its last group begins, bytes.
    group: u64,
    /// Where its records end, bytes.
    end: u64,
}

impl<'a, F: FnMut(&Record)> Replay<'a, F> {
    fn new(origin: &'a str, checkpoint: Checkpoint, since: WallTime, horizon: F) -> Self {
        let head = Head::empty(origin);
        Replay { origin, checkpoint, since, horizon, head, last_segment: None, torn: false }
    }

    fn segment(&mut self, number: u64, path: &Path) -> Result<Last, OpenError> {
        let mut reader = Reader::open(path).map_err(|error| unreadable(number, error))?;
        let header = reader.header().clone();
        if self.torn {
            return Err(self.damaged(number.saturating_sub(1), "it is torn in the middle of the log"));
        }
        self.enter(number, &header)?;
        self.check_root()?;
        let (mut group, mut offset) = (reader.offset(), reader.offset());
        let tail = loop {
            match reader.read_frame()? {
                Next::Frame(frame) => {
                    if frame.header.group == frame.header.sequence {
                        group = offset;
                    }
                    offset = reader.offset();
                    self.frame(number, frame)?;
                }
                Next::End | Next::Broken(_) => break reader.tail(self.head.size())?,
            }
        };
        if tail == Tail::Damaged {
            return Err(self.damaged(number, "it is damaged, and it had been acknowledged"));
        }
        self.torn = tail == Tail::Torn;
        Ok(Last { header, group, end: reader.offset() })
    }

    /// Holds a segment's header against what the segments before it amount to; the first is where reading starts.
    fn enter(&mut self, number: u64, header: &Header) -> Result<(), OpenError> {
        if header.number != number || header.origin != self.origin {
            return Err(self.damaged(number, "the segment's header is of another segment or log"));
        }
        let expected = match self.last_segment {
            None if header.first == 0 => Head::empty(self.origin),
            None => Head::at(header).ok_or_else(|| self.damaged(number, "the header's tree is none"))?,
            Some(_) => self.head.clone(),
        };
        let follows = self.last_segment.is_none_or(|last| last.checked_add(1) == Some(number));
        // Which intents were open is known only where reading began at the log's beginning.
        let stated = Header { oldest_intent: None, ..header.clone() };
        let computed = Header { oldest_intent: None, ..expected.header(number, self.origin) };
        if !follows || stated != computed {
            return Err(self.damaged(number, "the segment does not follow the one before"));
        }
        self.head = expected;
        self.last_segment = Some(number);
        Ok(())
    }

    fn frame(&mut self, segment: u64, frame: Frame) -> Result<(), OpenError> {
        let header = &frame.header;
        let size = self.head.size();
        if header.sequence != size || header.previous != self.head.last || header.group > size {
            return Err(self.damaged(segment, "the record does not follow the one before"));
        }
        let record: Record = serde_json::from_slice(&frame.body)
            .map_err(|error| self.damaged(segment, &format!("it is no record: {error}")))?;
        self.head.push(frame.leaf, Mark::of(&record));
        if record.time >= self.since {
            (self.horizon)(&record);
        }
        self.check_root()
    }

    fn check_root(&self) -> Result<(), OpenError> {
        let signed = self.checkpoint.size;
        if self.head.size() == signed && self.head.tree.root() != self.checkpoint.root {
            return Err(OpenError::RootMismatch { signed });
        }
        Ok(())
    }

    fn damaged(&self, segment: u64, what: &str) -> OpenError {
        OpenError::Damaged { sequence: self.head.size(), segment, what: what.to_owned() }
    }
}

/// The file of the last checkpoint.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The file of the checkpoints before.
pub(super) const HISTORY: &str = "checkpoints";
