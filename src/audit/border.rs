//! Where a log begins whose earlier segments were archived: the signed word of the log's own key.
//!
//! *Takes* the header of the segment that is first from now on. *Gives* a signed note of it, and its verifier. *Denies*
//! nothing itself. *Source*: `durability.md` "Audit" (archive keeps the tree frontier); C2SP tlog-checkpoint, extension lines.
//!
//! The note is a checkpoint over all records before that segment, with one line more: the segment's number and the SHA-256 of
//! its whole header. The header carries the tree's frontier, so from here on the tree can be built and every later root met;
//! and no other header will do. A log without its first segments and without such a note is one that was cut.

use super::checkpoint::{Checkpoint, LogKey, LogPublicKey, NoteError};
use super::merkle::{self, Hash, Tree};
use super::segment::{self, Header};
use crate::limits;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The beginning of what is here of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Border {
    /// Records before it.
    pub size: u64,
    /// The first segment's number.
    pub segment: u64,
    root: Hash,
    header: Hash,
}

impl Border {
    /// The note that says that the log begins at the segment with this header; none where that has no tree.
    pub fn sign(header: &Header, key: &LogKey) -> Option<String> {
        let tree = Tree::from_frontier(header.first, header.frontier.clone())?;
        let checkpoint = Checkpoint { origin: header.origin.clone(), size: header.first, root: tree.root() };
        let digest = merkle::hash(&[&header.encode()?]);
        Some(checkpoint.sign_with(key, &format!("{LINE}{} {digest}\n", header.number)))
    }

    /// The border of a directory; none where its log was never archived.
    pub(super) fn read(directory: &Path, key: &LogPublicKey) -> Result<Option<Self>, BorderError> {
        let file = match std::fs::File::open(directory.join(BORDER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut note = String::new();
        file.take(u64::try_from(limits::NOTE_BYTES).unwrap_or(0)).read_to_string(&mut note)?;
        Border::verify(&note, key).map(Some)
    }

    /// Verifies a border's note. **Denies** by `BorderError` one that is no border, or not of this key.
    pub fn verify(note: &str, key: &LogPublicKey) -> Result<Self, BorderError> {
        let checkpoint = Checkpoint::verify(note, key)?;
        let parsed = || {
            let mut words = note.lines().nth(3)?.strip_prefix(LINE)?.split(' ');
            let (segment, digest) = (words.next()?.parse().ok()?, hex::decode(words.next()?).ok()?);
            let header = Hash(digest.try_into().ok()?);
            Some(Border { size: checkpoint.size, segment, root: checkpoint.root, header })
        };
        parsed().ok_or(BorderError::Note(NoteError::NotCheckpoint))
    }

    /// Whether this is the header that it was signed over.
    pub(super) fn admits(&self, header: &Header) -> bool {
        let tree = Tree::from_frontier(header.first, header.frontier.clone());
        let encoded = header.encode().map(|bytes| merkle::hash(&[&bytes]));
        header.number == self.segment
            && header.first == self.size
            && tree.is_some_and(|tree| tree.root() == self.root)
            && encoded == Some(self.header)
    }
}

/// Why a border cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BorderError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not signed by the log's key, or says no border.
    #[error("{0}")]
    Note(#[from] NoteError),
}

/// The segments of a directory that count: behind a border, what an interrupted archive left before it does not.
pub(super) fn counting(directory: &Path, border: Option<&Border>) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut segments = segment::list(directory)?;
    if let (Some(border), Some((first, _))) = (border, segments.first())
        && *first != 1
    {
        segments.retain(|(number, _)| *number >= border.segment);
    }
    Ok(segments)
}

/// The file of a directory's border.
pub(super) const BORDER: &str = "archived";
const LINE: &str = "archived before segment ";
