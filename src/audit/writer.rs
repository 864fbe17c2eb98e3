//! The one thread that writes: group by group, each durable before anyone hears of it.
//!
//! *Takes* groups of records. *Gives* each its number, or one [`Fault`] to all. *Denies* nothing itself.
//! *Source*: `durability.md` "Audit"; the reasons stand in [`super::log`].

use super::checkpoint::{Checkpoint, LogKey};
use super::disk::{Disk, Fault, Segment};
use super::head::Head;
use super::log::{LogError, Sequence, Shared, Waiting, Work};
use super::open::{CHECKPOINT, HISTORY, Opened};
use crate::limits;
use crate::time::{BootTime, Stopwatch};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) struct Writer {
    disk: Disk,
    key: LogKey,
    shared: Arc<Shared>,
    head: Head,
    segment: Segment,
    /// The segment may hold bytes behind its end, or its descriptor has seen a failure.
    dirty: bool,
    /// A checkpoint could not be written; nothing else is until one is.
    checkpoint_owed: bool,
    checkpoint_size: u64,
    checkpoint_time: BootTime,
    kept_size: u64,
    failed_before: bool,
}

impl Writer {
    /// Takes over an opened log; signs its first checkpoint.
    pub(super) fn new(opened: Opened, key: LogKey, shared: Arc<Shared>) -> Result<Self, Fault> {
        let mut writer = Writer {
            disk: opened.disk,
            key,
            shared,
            head: opened.head,
            segment: opened.segment,
            dirty: false,
            checkpoint_owed: false,
            checkpoint_size: 0,
            checkpoint_time: BootTime(0),
            kept_size: 0,
            failed_before: false,
        };
        writer.write_checkpoint()?;
        Ok(writer)
    }

    pub(super) fn run(mut self) {
        while let Some(work) = self.shared.take() {
            match work {
                Work::Group(group) => self.write_group(group),
                // Who asked has perhaps gone.
                Work::Call(done) => drop(done.send(())),
                Work::Checkpoint(done) => {
                    let outcome = self.recover().and_then(|()| self.write_checkpoint());
                    self.report(outcome.as_ref().err());
                    // A caller that has gone needs no answer.
                    let _gone = done.send(outcome.map_err(LogError::from));
                }
            }
            self.shared.done();
        }
        if let Err(fault) = self.end() {
            tracing::error!(%fault, "the audit log closes without a checkpoint of its end");
        }
    }

    /// A closed log has nothing behind its last record, and a checkpoint over that.
    fn end(&mut self) -> Result<(), Fault> {
        self.recover()?;
        self.write_checkpoint()?;
        self.disk.cut(&mut self.segment)
    }

    fn write_group(&mut self, group: Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        let first = self.head.size();
        let outcome = self.commit(&group);
        self.report(outcome.as_ref().err());
        for (sequence, waiting) in (first..).zip(group) {
            let answer = outcome.clone().map(|()| Sequence(sequence)).map_err(LogError::from);
            // A caller that has gone needs no answer.
            let _gone = waiting.done.send(answer);
        }
        if outcome.is_ok() {
            self.housekeeping();
        }
    }

    /// Makes the group durable, or leaves the head where it was.
    fn commit(&mut self, group: &[Waiting]) -> Result<(), Fault> {
        self.recover()?;
        self.disk.check_file(&self.segment)?;
        let bytes: usize = group.iter().map(|waiting| waiting.body.frame_bytes()).sum();
        let length = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.make_room(length)?;
        let mut head = self.head.clone();
        let mut buffer = Vec::with_capacity(bytes);
        for waiting in group {
            let leaf = waiting.body.frame(&mut buffer, head.size(), self.head.size(), head.last);
            head.push(leaf, waiting.mark);
        }
        self.dirty = true;
        let watch = Stopwatch::start();
        self.disk.write(&mut self.segment, &buffer)?;
        self.disk.check(&self.segment)?;
        self.shared.sync_times.record(watch.nanoseconds());
        self.dirty = false;
        self.segment.end = self.segment.end.saturating_add(length);
        self.head = head;
        self.shared.syncs.fetch_add(1, Ordering::SeqCst);
        self.shared.advance(self.head.size(), self.head.last);
        Ok(())
    }

    /// Goes over to the next segment where this one is full. A group larger than a whole segment lengthens one.
    fn make_room(&mut self, length: u64) -> Result<(), Fault> {
        let end = self.segment.end.saturating_add(length);
        if end <= self.disk.segment_bytes() || self.is_empty_segment() {
            return Ok(());
        }
        self.dirty = true;
        self.next_segment()?;
        self.dirty = false;
        Ok(())
    }

    /// Undoes what a failure may have left; fails for as long as the cause stands.
    fn recover(&mut self) -> Result<(), Fault> {
        if self.dirty {
            self.disk.check_named(&self.segment)?;
            self.next_segment()?;
            self.dirty = false;
        }
        if self.checkpoint_owed {
            self.write_checkpoint()?;
        }
        Ok(())
    }

    /// Cuts this segment at its end and begins the next, or begins this one anew if it holds nothing.
    fn next_segment(&mut self) -> Result<(), Fault> {
        self.disk.cut(&mut self.segment)?;
        let number = self.segment.header.number;
        let number = if self.is_empty_segment() { number } else { number.saturating_add(1) };
        self.segment = self.disk.begin(self.head.header(number, self.key.public().origin()))?;
        Ok(())
    }

    fn is_empty_segment(&self) -> bool {
        self.segment.header.first == self.head.size()
    }

    /// After the answers: nobody waits for this.
    fn housekeeping(&mut self) {
        let records = self.head.size().saturating_sub(self.checkpoint_size);
        let age = self.last_boot_time().since(self.checkpoint_time);
        if records >= limits::AUDIT_CHECKPOINT_RECORDS || age >= limits::AUDIT_CHECKPOINT_MS {
            let outcome = self.write_checkpoint();
            self.report(outcome.err().as_ref());
        }
        if let Err(fault) = self.disk.zero_ahead(&mut self.segment) {
            self.dirty = true;
            tracing::warn!(%fault, "no zeros can be written ahead of the audit log");
        }
        if self.segment.end > self.disk.segment_bytes() / 2 {
            // Tried again when it is needed; only then does a failure count.
            if let Err(fault) = self.disk.prepare() {
                tracing::warn!(%fault, "the audit log's next segment cannot be prepared");
            }
        }
    }

    fn write_checkpoint(&mut self) -> Result<String, Fault> {
        let origin = self.key.public().origin().to_owned();
        let checkpoint = Checkpoint { origin, size: self.head.size(), root: self.head.tree.root() };
        let note = checkpoint.sign(&self.key);
        self.checkpoint_owed = true;
        self.disk.check(&self.segment)?;
        self.disk.replace(CHECKPOINT, &note)?;
        self.checkpoint_owed = false;
        self.keep(&note);
        self.checkpoint_size = self.head.size();
        self.checkpoint_time = self.last_boot_time();
        Ok(note)
    }

    /// Kept checkpoints only narrow down where a change lies; losing one loses no proof.
    fn keep(&mut self, note: &str) {
        if self.head.size().saturating_sub(self.kept_size) < limits::AUDIT_HISTORY_RECORDS {
            return;
        }
        match self.disk.append(HISTORY, note) {
            Ok(()) => self.kept_size = self.head.size(),
            Err(fault) => tracing::warn!(%fault, "a checkpoint of the audit log cannot be kept"),
        }
    }

    fn last_boot_time(&self) -> BootTime {
        self.head.last_boot_time
    }

    fn report(&mut self, fault: Option<&Fault>) {
        self.shared.set_working(fault.is_none());
        match fault {
            Some(fault) if !self.failed_before => {
                tracing::error!(%fault, "the audit log cannot be written: nothing is released until it can");
            }
            None if self.failed_before => tracing::warn!("the audit log can be written again"),
            _ => {}
        }
        self.failed_before = fault.is_some();
    }
}
