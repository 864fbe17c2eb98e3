//! The TPM's own encoding, read strictly and written: big-endian integers, and sized buffers (`TPM2B_…`).
//!
//! *Takes* untrusted bytes. *Gives* integers and slices of them. *Denies* nothing itself; each [`Malformed`] becomes the
//! `EvidenceMalformed` of the format. *Source*: TCG TPM 2.0 Library part 2 §4 and §10.4.

/// What is wrong with the bytes of one structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{structure}: {problem}")]
pub struct Malformed {
    /// The structure, as its specification names it.
    pub structure: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Reads one structure to its end.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    structure: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], structure: &'static str) -> Self {
        Reader { rest: bytes, structure }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(self.wrong(TRUNCATED))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(self.wrong(TRUNCATED))?;
        self.rest = rest;
        Ok(taken)
    }

    /// A `TPM2B_…`: a 16-bit length, and so many bytes, at most `most`.
    pub(crate) fn sized(&mut self, most: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.u16()?);
        if length > most {
            return Err(self.wrong("a buffer is longer than its type allows"));
        }
        self.take(length)
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        self.rest.is_empty().then_some(()).ok_or(self.wrong("bytes follow"))
    }

    pub(crate) fn wrong(&self, problem: &'static str) -> Malformed {
        Malformed { structure: self.structure, problem }
    }
}

/// Appends a `TPM2B_…`. What is longer than its 16-bit length can say is cut, and then refused by whoever reads it.
pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend(bytes.iter().take(usize::from(length)));
}

/// The same, alone.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_sized(&mut out, bytes);
    out
}

const TRUNCATED: &str = "the bytes end within a field";
