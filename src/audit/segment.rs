//! One file of the log: a header that lets reading start at this file, then frames, then zeros to its preallocated end.
//!
//! *Takes* a file. *Gives* its [`Header`], its frames one by one, and a judgement of what lies behind the last one.
//! *Denies* nothing itself. *Source*: `durability.md` "Audit".
//!
//! Header, 4096 bytes: 16 bytes magic, then big-endian u64s *number* (from 1), *first* sequence number, *highest time*
//! so far, last *applied* commit, *oldest open intent*'s sequence number (all ones: none); 32 bytes leaf hash of the
//! frame before; u8 count and count × 32 bytes tree frontier; u16 length and the origin line; zeros; CRC-32C of all that.

use super::frame::{Frame, FrameError, HEADER_BYTES, Header as FrameHeader, take};
use super::merkle::Hash;
use crate::limits;
use crate::time::WallTime;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A segment's header, bytes: one page, so that frames begin on a sector.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;

/// What a segment says of the log before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The file's number, from 1.
    pub number: u64,
    /// The number of its first record.
    pub first: u64,
    /// The leaf hash of the record before.
    pub previous: Hash,
    /// The highest wall time of all records before.
    pub highest_time: WallTime,
    /// The highest commit number that an `Applied` record before names; 0 for none.
    pub applied: u64,
    /// The oldest intent before that no record before closes.
    pub oldest_intent: Option<u64>,
    /// The tree of all records before.
    pub frontier: Vec<Hash>,
    /// The log's origin line.
    pub origin: String,
}

impl Header {
    /// The 4096 bytes; none where the origin is too long.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let size = usize::try_from(SEGMENT_HEADER_BYTES).ok()?;
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(MAGIC);
        let intent = self.oldest_intent.unwrap_or(u64::MAX);
        for number in [self.number, self.first, self.highest_time.0, self.applied, intent] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.previous.0);
        bytes.push(u8::try_from(self.frontier.len()).ok()?);
        self.frontier.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
        bytes.extend_from_slice(&u16::try_from(self.origin.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(self.origin.as_bytes());
        let padded = size.checked_sub(4)?;
        if bytes.len() > padded {
            return None;
        }
        bytes.resize(padded, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        Some(bytes)
    }

    /// Parses 4096 bytes; none where they are not exactly what `encode` gives.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut number = || take(&mut rest).map(u64::from_be_bytes);
        let (segment, first, highest, applied, intent) =
            (number()?, number()?, number()?, number()?, number()?);
        let previous = Hash(take(&mut rest)?);
        let [count] = take(&mut rest)?;
        let frontier = (0..count).map(|_| take(&mut rest).map(Hash)).collect::<Option<Vec<_>>>()?;
        let length = usize::from(u16::from_be_bytes(take(&mut rest)?));
        let header = Header {
            number: segment,
            first,
            previous,
            highest_time: WallTime(highest),
            applied,
            oldest_intent: (intent != u64::MAX).then_some(intent),
            frontier,
            origin: String::from_utf8(rest.get(..length)?.to_vec()).ok()?,
        };
        (header.encode()?.as_slice() == bytes).then_some(header)
    }
}

/// The file's name of a segment.
pub(super) fn name(number: u64) -> String {
    format!("segment-{number:010}.log")
}

/// The segments of a directory, ascending by number, as their names say.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let text = path.file_name().and_then(|text| text.to_str()).unwrap_or_default();
        let digits = text.strip_prefix("segment-").and_then(|text| text.strip_suffix(".log"));
        if let Some(number) = digits.and_then(|digits| digits.parse().ok()).filter(|n| name(*n) == text) {
            segments.push((number, path));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The segments of several directories as one log: of a number in two of them, the first's.
pub(super) fn list_all(directories: &[PathBuf]) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut all = std::collections::BTreeMap::new();
    for directory in directories {
        for (number, path) in list(directory)? {
            all.entry(number).or_insert(path);
        }
    }
    Ok(all.into_iter().collect())
}

/// The next thing in a segment.
#[derive(Debug)]
pub enum Next {
    /// A whole frame.
    Frame(Frame),
    /// Zeros, or the end of the file: nothing was written here.
    End,
    /// Neither.
    Broken(FrameError),
}

/// Reads one segment from its beginning; holds one frame at a time.
pub struct Reader {
    file: BufReader<File>,
    header: Header,
    offset: u64,
}

impl Reader {
    /// Opens a segment. An error of kind `InvalidData` says that the header is damaged.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = rustix::fs::open(
            path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let mut file = BufReader::with_capacity(READ_BYTES, File::from(file));
        let mut bytes = Vec::new();
        file.by_ref().take(SEGMENT_HEADER_BYTES).read_to_end(&mut bytes)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the segment's header is damaged");
        let header = Header::parse(&bytes).ok_or_else(damaged)?;
        Ok(Reader { file, header, offset: SEGMENT_HEADER_BYTES })
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next frame begins, bytes from the file's beginning.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads on. After `End` or `Broken`, only [`Reader::tail`] and [`Reader::look_again`] are of use.
    pub fn read_frame(&mut self) -> io::Result<Next> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        self.read(HEADER_BYTES, &mut bytes)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Next::End);
        }
        let Some(header) = bytes.first_chunk() else { return Ok(Next::Broken(FrameError::Short)) };
        let header = match FrameHeader::parse(header) {
            Ok(header) => header,
            Err(error) => return Ok(Next::Broken(error)),
        };
        let mut body = Vec::with_capacity(header.length);
        self.read(header.length, &mut body)?;
        match header.with_body(body) {
            Ok(frame) => {
                self.offset = self.offset.saturating_add(frame_bytes(&header));
                Ok(Next::Frame(frame))
            }
            Err(error) => Ok(Next::Broken(error)),
        }
    }

    fn read(&mut self, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let count = u64::try_from(count).map_err(io::Error::other)?;
        self.file.by_ref().take(count).read_to_end(into).map(|_| ())
    }

    /// Forgets what was read ahead, so that the next frame is read as it stands now: a log that is being written has more to
    /// show, or the rest of what was read in half.
    pub fn look_again(&mut self) -> io::Result<()> {
        self.file.seek(io::SeekFrom::Start(self.offset)).map(drop)
    }

    /// Judges what lies from here to the end of the file, where record `sequence` would stand.
    pub fn tail(&self, sequence: u64) -> io::Result<Tail> {
        judge(self.file.get_ref(), self.offset, sequence)
    }
}

fn frame_bytes(header: &FrameHeader) -> u64 {
    u64::try_from(header.length.saturating_add(HEADER_BYTES)).unwrap_or(u64::MAX)
}

/// What lies behind the last whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    Clean,
    /// A group that was being written when the machine stopped; none of it was acknowledged.
    Torn,
    /// Something else: an acknowledged record was damaged.
    Damaged,
}

/// A torn group is told from damage by three marks. No more follows than one group holds. No whole frame follows whose
/// group began later, for then this record had been synced before. And a sector of it is missing (zeros, or beyond the
/// end of the file): storage tears at sectors, while a flipped or overwritten byte leaves the rest of its sector.
fn judge(file: &File, offset: u64, sequence: u64) -> io::Result<Tail> {
    let limit = usize::try_from(GROUP_BYTES_MAX).map_err(io::Error::other)?;
    let mut rest = Vec::new();
    let mut chunk = vec![0; READ_BYTES];
    let mut at = offset;
    loop {
        let count = file.read_at(&mut chunk, at)?;
        let read = chunk.get(..count).unwrap_or_default();
        let zeros = read.iter().all(|byte| *byte == 0);
        if count == 0 {
            break;
        }
        if !zeros && rest.len() > limit {
            return Ok(Tail::Damaged);
        }
        if rest.len() <= limit {
            rest.extend_from_slice(read);
        }
        at = at.saturating_add(u64::try_from(count).map_err(io::Error::other)?);
    }
    let length = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    rest.truncate(length);
    if rest.is_empty() {
        return Ok(Tail::Clean);
    }
    let missing = at < frame_end(&rest, offset) || sector_missing(&rest, offset);
    let torn = missing && !acknowledged(&rest, sequence);
    Ok(if torn { Tail::Torn } else { Tail::Damaged })
}

/// Whether a whole frame in `rest` belongs to a group that began after record `sequence`.
fn acknowledged(rest: &[u8], sequence: u64) -> bool {
    rest.windows(HEADER_BYTES).any(|window| {
        let header = window.first_chunk().map(FrameHeader::parse);
        header.is_some_and(|header| header.is_ok_and(|header| header.group > sequence))
    })
}

/// Where the frame at the beginning of `rest` says that it ends; where its header ends, if that does not parse.
fn frame_end(rest: &[u8], offset: u64) -> u64 {
    let header = rest.first_chunk().and_then(|header| FrameHeader::parse(header).ok());
    let length = header.map_or(HEADER_BYTES, |header| header.length.saturating_add(HEADER_BYTES));
    offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX))
}

/// Whether a part of the frame at the beginning of `rest` (at `offset` in the file) was never written: its share of
/// some sector is all zeros.
fn sector_missing(rest: &[u8], offset: u64) -> bool {
    let header = rest.first_chunk().and_then(|header| FrameHeader::parse(header).ok());
    let length = header.map_or(rest.len(), |header| header.length.saturating_add(HEADER_BYTES));
    let mut frame: Vec<u8> = rest.get(..length).unwrap_or(rest).to_vec();
    frame.resize(length, 0);
    let into_sector = usize::try_from(offset % SECTOR_BYTES).unwrap_or(0);
    let sector = usize::try_from(SECTOR_BYTES).unwrap_or(1);
    let (first, others) = frame.split_at(frame.len().min(sector.saturating_sub(into_sector)));
    let missing = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
    // The first four bytes are a length, mostly zeros anyway: alone in their sector, they say nothing.
    (first.len() > 4 && missing(first)) || others.chunks(sector).any(missing)
}

/// The largest group of records that is written at once, bytes: [`limits::AUDIT_GROUP_BYTES`] and one record more.
const GROUP_BYTES_MAX: u64 = limits::AUDIT_GROUP_BYTES * 2;
/// What storage writes whole or not at all, bytes (ATA, SCSI and NVMe logical block at its smallest).
const SECTOR_BYTES: u64 = 512;
/// Read buffer, bytes.
const READ_BYTES: usize = 64 * 1024;
const MAGIC: &[u8; 16] = b"portcullis log1\n";
