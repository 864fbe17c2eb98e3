//! One record on disk: a header of 60 bytes, then the record as JSON.
//!
//! *Takes* encoded records. *Gives* frames, each carrying the hash of the one before. *Denies* nothing itself; what does
//! not parse is a [`FrameError`]. *Source*: `durability.md` "Audit"; RFC 3720 (CRC-32C).
//!
//! | bytes | field, big-endian |
//! |---|---|
//! | 0..4 | length of the body, at least 1 |
//! | 4..8 | CRC-32C of the body |
//! | 8..16 | sequence number, from 0: the leaf's index in the tree |
//! | 16..24 | sequence number of the first record of the group that was written and synced with it |
//! | 24..56 | the RFC 6962 leaf hash (SHA-256 of a zero byte and the whole frame) of the frame before |
//! | 56..60 | CRC-32C of bytes 0..56 |
//!
//! The group says what was durable when this frame was written: everything before it. A damaged record that such a
//! later frame follows had been acknowledged, so it is damage and never a torn tail.

use super::merkle::{self, Hash};
use crate::limits;

/// A frame's header, bytes.
pub const HEADER_BYTES: usize = 60;

/// The fields of a header whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the body, bytes; 1 to [`limits::AUDIT_RECORD_BYTES`].
    pub length: usize,
    /// CRC-32C of the body.
    pub body_crc: u32,
    /// The record's number.
    pub sequence: u64,
    /// The number of the first record of its group.
    pub group: u64,
    /// The leaf hash of the frame before.
    pub previous: Hash,
}

/// A whole frame whose checksums hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its hash in chain and tree.
    pub leaf: Hash,
    /// The record, JSON.
    pub body: Vec<u8>,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The file ends inside it.
    #[error("it is cut short")]
    Short,
    /// The header's checksum does not hold.
    #[error("its header does not match its checksum")]
    Header,
    /// The length is 0 or over the limit.
    #[error("its length is out of range")]
    Length,
    /// The body's checksum does not hold.
    #[error("its body does not match its checksum")]
    Body,
}

/// A record encoded and checksummed by its caller, ready for the writer to number and chain.
#[derive(Clone, Debug)]
pub struct Body {
    bytes: Vec<u8>,
    crc: u32,
}

impl Body {
    /// Wraps an encoded record; none where it is empty or over [`limits::AUDIT_RECORD_BYTES`].
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        let fits = !bytes.is_empty() && bytes.len() <= limits::AUDIT_RECORD_BYTES;
        fits.then(|| Body { crc: crc32c::crc32c(&bytes), bytes })
    }

    /// Bytes that its frame takes.
    pub fn frame_bytes(&self) -> usize {
        self.bytes.len().saturating_add(HEADER_BYTES)
    }

    /// Appends its frame to `buffer`. Returns the frame's leaf hash.
    pub fn frame(&self, buffer: &mut Vec<u8>, sequence: u64, group: u64, previous: Hash) -> Hash {
        let header = Header { length: self.bytes.len(), body_crc: self.crc, sequence, group, previous };
        let encoded = header.encode();
        buffer.extend_from_slice(&encoded);
        buffer.extend_from_slice(&self.bytes);
        merkle::leaf(&[&encoded, &self.bytes])
    }
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&u32::try_from(self.length).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&self.body_crc.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.group.to_be_bytes());
        bytes.extend_from_slice(&self.previous.0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Parses a header.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let mut rest: &[u8] = bytes;
        let length = take(&mut rest).map(u32::from_be_bytes).ok_or(FrameError::Short)?;
        let header = Header {
            length: usize::try_from(length).map_err(|_| FrameError::Length)?,
            body_crc: take(&mut rest).map(u32::from_be_bytes).ok_or(FrameError::Short)?,
            sequence: take(&mut rest).map(u64::from_be_bytes).ok_or(FrameError::Short)?,
            group: take(&mut rest).map(u64::from_be_bytes).ok_or(FrameError::Short)?,
            previous: Hash(take(&mut rest).ok_or(FrameError::Short)?),
        };
        if header.encode() != bytes {
            return Err(FrameError::Header);
        }
        let lengths = 1..=limits::AUDIT_RECORD_BYTES;
        lengths.contains(&header.length).then_some(header).ok_or(FrameError::Length)
    }

    /// Puts header and body together.
    pub fn with_body(self, body: Vec<u8>) -> Result<Frame, FrameError> {
        if body.len() != self.length {
            return Err(FrameError::Short);
        }
        if crc32c::crc32c(&body) != self.body_crc {
            return Err(FrameError::Body);
        }
        Ok(Frame { header: self, leaf: merkle::leaf(&[&self.encode(), &body]), body })
    }
}

/// Takes the next `N` bytes off `rest`; none where there are fewer.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8]) -> (Vec<u8>, Hash) {
        let mut bytes = Vec::new();
        let leaf = Body::new(body.to_vec()).unwrap().frame(&mut bytes, 7, 5, Hash([9; 32]));
        (bytes, leaf)
    }

    fn parse(bytes: &[u8]) -> Result<Frame, FrameError> {
        let (header, body) = bytes.split_first_chunk().ok_or(FrameError::Short)?;
        Header::parse(header)?.with_body(body.to_vec())
    }

    #[test]
    fn a_frame_comes_back_as_it_was_written() {
        let (bytes, leaf) = framed(b"{\"a\":1}");
        let frame = parse(&bytes).unwrap();
        assert_eq!((frame.header.sequence, frame.header.group), (7, 5));
        assert_eq!((frame.header.previous, frame.body.as_slice()), (Hash([9; 32]), b"{\"a\":1}".as_slice()));
        assert_eq!(frame.leaf, leaf);
        assert_eq!(leaf, merkle::leaf(&[&bytes]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (bytes, _) = framed(b"{\"a\":1}");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit / 8 < HEADER_BYTES { FrameError::Header } else { FrameError::Body };
            assert_eq!(parse(&changed), Err(expected), "bit {bit}");
        }
        assert_eq!(parse(&bytes[..bytes.len() - 1]), Err(FrameError::Short));
    }

    #[test]
    fn an_empty_or_oversized_record_is_no_body() {
        assert!(Body::new(Vec::new()).is_none());
        assert!(Body::new(vec![b'x'; limits::AUDIT_RECORD_BYTES]).is_some());
        assert!(Body::new(vec![b'x'; limits::AUDIT_RECORD_BYTES + 1]).is_none());
    }
}
