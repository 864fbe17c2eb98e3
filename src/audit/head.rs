//! Where the log stands: everything that the next record, the next segment and the next checkpoint need.
//!
//! *Takes* each durable record's leaf hash and [`Mark`]. *Gives* the chain's end, the tree, open intents, times.
//! *Denies* nothing itself. *Source*: `durability.md` "sled" (intents and `applied n`), "Audit".

use super::merkle::{self, Hash, Tree};
use super::record::{Event, Record};
use super::segment::Header;
use crate::time::{BootTime, WallTime};
use std::collections::BTreeMap;

/// What the log itself needs to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) time: WallTime,
    pub(super) boot_time: BootTime,
    commit: Option<Commit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    Intended(u64),
    Applied(u64),
    NotApplied(u64),
}

impl Mark {
    pub(super) fn of(record: &Record) -> Self {
        let commit = match &record.event {
            Event::AdminIntent { commit, .. } => commit.map(Commit::Intended),
            Event::Applied { commit } => Some(Commit::Applied(*commit)),
            Event::NotApplied { commit } => Some(Commit::NotApplied(*commit)),
            _ => None,
        };
        Mark { time: record.time, boot_time: record.boot_time, commit }
    }
}

/// The state of the log after its last durable record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) tree: Tree,
    /// The leaf hash of the last record.
    pub(super) last: Hash,
    pub(super) last_time: WallTime,
    pub(super) last_boot_time: BootTime,
    pub(super) highest_time: WallTime,
    pub(super) applied: u64,
    /// Open intents: commit number → sequence number of the intent.
    pub(super) intents: BTreeMap<u64, u64>,
}

impl Head {
    /// The head of a log without records. Its chain begins at a hash of its origin, so that the beginning of one log
    /// cannot stand in for that of another.
    pub(super) fn empty(origin: &str) -> Self {
        Head {
            tree: Tree::new(),
            last: merkle::hash(&[b"portcullis audit log\n", origin.as_bytes()]),
            last_time: WallTime(0),
            last_boot_time: BootTime(0),
            highest_time: WallTime(0),
            applied: 0,
            intents: BTreeMap::new(),
        }
    }

    /// The head where a segment begins; intents that were open there are not known one by one.
    pub(super) fn at(header: &Header) -> Option<Self> {
        Some(Head {
            tree: Tree::from_frontier(header.first, header.frontier.clone())?,
            last: header.previous,
            last_time: header.highest_time,
            last_boot_time: BootTime(0),
            highest_time: header.highest_time,
            applied: header.applied,
            intents: BTreeMap::new(),
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.tree.size()
    }

    pub(super) fn push(&mut self, leaf: Hash, mark: Mark) {
        let sequence = self.size();
        self.tree.push(leaf);
        self.last = leaf;
        self.last_time = mark.time;
        self.last_boot_time = mark.boot_time;
        self.highest_time = self.highest_time.max(mark.time);
        match mark.commit {
            Some(Commit::Intended(commit)) => {
                self.intents.insert(commit, sequence);
            }
            Some(Commit::Applied(commit)) => {
                self.intents.remove(&commit);
                self.applied = self.applied.max(commit);
            }
            Some(Commit::NotApplied(commit)) => {
                self.intents.remove(&commit);
            }
            None => {}
        }
    }

    /// The header of a segment that begins here.
    pub(super) fn header(&self, number: u64, origin: &str) -> Header {
        Header {
            number,
            first: self.size(),
            previous: self.last,
            highest_time: self.highest_time,
            applied: self.applied,
            oldest_intent: self.intents.values().copied().min(),
            frontier: self.tree.frontier().to_vec(),
            origin: origin.to_owned(),
        }
    }
}
