//! What a TPM signed, and its signature: TPMS_ATTEST of a quote, TPMT_SIGNATURE.
//!
//! *Takes* untrusted bytes. *Gives* [`Attest`] and [`Signature`], which borrow from them. *Denies* nothing itself; each
//! [`Malformed`] becomes `EvidenceMalformed`. *Source*: TCG TPM 2.0 Library part 2 §10.6.2, §10.12 and §11.3.
//!
//! The magic is not formality: a restricted key signs what begins with it only where the TPM itself made it. The type is
//! not either: the same key signs creation, certification and time structures with a caller's own `extraData`.

use super::algorithm::Hash;
use super::wire::{Malformed, Reader};
use crate::limits;

/// A TPMS_ATTEST of type quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest<'a> {
    /// The key's qualified name: its own name and those of its parents.
    pub qualified_signer: &'a [u8],
    /// What the caller gave: where the binding's digest stands.
    pub extra_data: &'a [u8],
    /// Clock and counters.
    pub clock: ClockInfo,
    /// The TPM vendor's number; obfuscated where the key is outside the endorsement and platform hierarchies.
    pub firmware_version: u64,
    /// The quoted PCRs, in the order in which they were hashed: at least one bank, each with at least one PCR.
    pub selections: Vec<Selection>,
    /// The digest of the PCRs' values, by the signature's hash.
    pub pcr_digest: &'a [u8],
}

/// TPMS_CLOCK_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM was powered.
    pub clock: u64,
    /// TPM resets since it was last cleared.
    pub reset_count: u32,
    /// Resumes and restarts since the last reset.
    pub restart_count: u32,
    /// Whether the TPM vouches that no greater `clock` was reported before.
    pub safe: bool,
}

/// One bank's part of a quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The bank.
    pub bank: Hash,
    /// Its PCRs, ascending, never none.
    pub pcrs: Vec<u8>,
}

/// A TPMT_SIGNATURE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature<'a> {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa(Hash, &'a [u8]),
    /// RSASSA-PSS.
    RsaPss(Hash, &'a [u8]),
    /// ECDSA, r and s, big-endian, of any length up to the curve's.
    Ecdsa(Hash, &'a [u8], &'a [u8]),
}

impl<'a> Attest<'a> {
    /// Reads the one quote that the bytes are.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "TPMS_ATTEST");
        if bytes.len() > limits::TPM2_ATTEST_BYTES {
            return Err(reader.wrong("longer than any quote"));
        }
        if reader.u32()? != GENERATED_VALUE {
            return Err(reader.wrong("the magic is not TPM_GENERATED_VALUE"));
        }
        if reader.u16()? != ATTEST_QUOTE {
            return Err(reader.wrong("the type is not TPM_ST_ATTEST_QUOTE"));
        }
        let attest = Attest {
            qualified_signer: reader.sized(NAME_BYTES)?,
            extra_data: reader.sized(DATA_BYTES)?,
            clock: clock(&mut reader)?,
            firmware_version: reader.u64()?,
            selections: selections(&mut reader)?,
            pcr_digest: reader.sized(DIGEST_BYTES)?,
        };
        reader.end()?;
        Ok(attest)
    }

    /// Every quoted PCR with its bank, in the order in which the values were hashed.
    pub fn pcrs(&self) -> impl Iterator<Item = (Hash, u8)> + '_ {
        self.selections.iter().flat_map(|selection| selection.pcrs.iter().map(|pcr| (selection.bank, *pcr)))
    }
}

fn clock(reader: &mut Reader<'_>) -> Result<ClockInfo, Malformed> {
    let (clock, reset_count, restart_count) = (reader.u64()?, reader.u32()?, reader.u32()?);
    let safe = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(reader.wrong("safe is neither YES nor NO")),
    };
    Ok(ClockInfo { clock, reset_count, restart_count, safe })
}

/// TPML_PCR_SELECTION: each bank once, each with 24 or 32 bits, and not all clear.
fn selections(reader: &mut Reader<'_>) -> Result<Vec<Selection>, Malformed> {
    let count = reader.u32()?;
    if count == 0 {
        return Err(reader.wrong("no PCR bank is quoted"));
    }
    let mut selections: Vec<Selection> = Vec::new();
    for _ in 0..count {
        let bank = Hash::from_id(reader.u16()?)
            .ok_or(reader.wrong("a PCR bank is not of SHA-256, SHA-384 or SHA-512"))?;
        if selections.iter().any(|selection| selection.bank == bank) {
            return Err(reader.wrong("a PCR bank is quoted twice"));
        }
        let bitmap = match reader.u8()? {
            length @ 3..=4 => reader.take(usize::from(length))?,
            _ => return Err(reader.wrong("a PCR selection has neither 24 nor 32 bits")),
        };
        let pcrs: Vec<u8> = (0..32_u8).filter(|pcr| is_selected(bitmap, *pcr)).collect();
        if pcrs.is_empty() {
            return Err(reader.wrong("a PCR bank is quoted without a PCR"));
        }
        selections.push(Selection { bank, pcrs });
    }
    Ok(selections)
}

fn is_selected(bitmap: &[u8], pcr: u8) -> bool {
    bitmap.get(usize::from(pcr / 8)).is_some_and(|byte| byte >> (pcr % 8) & 1 == 1)
}

impl<'a> Signature<'a> {
    /// Reads the one signature that the bytes are.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "TPMT_SIGNATURE");
        let scheme = reader.u16()?;
        let hash = Hash::from_id(reader.u16()?)
            .ok_or(reader.wrong("the hash is not SHA-256, SHA-384 or SHA-512"))?;
        let signature = match scheme {
            RSASSA => Signature::RsaSsa(hash, reader.sized(RSA_BYTES)?),
            RSAPSS => Signature::RsaPss(hash, reader.sized(RSA_BYTES)?),
            ECDSA => Signature::Ecdsa(hash, reader.sized(EC_BYTES)?, reader.sized(EC_BYTES)?),
            _ => return Err(reader.wrong("the scheme is not RSASSA, RSAPSS or ECDSA")),
        };
        reader.end()?;
        Ok(signature)
    }
}

/// TPM_GENERATED_VALUE: 0xff, "TCG".
const GENERATED_VALUE: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE.
const ATTEST_QUOTE: u16 = 0x8018;

// TPM_ALG_ID of signature schemes.
pub(super) const RSASSA: u16 = 0x0014;
pub(super) const RSAPSS: u16 = 0x0016;
pub(super) const ECDSA: u16 = 0x0018;

/// TPM2B_NAME: an algorithm and the longest digest, SHA-512's.
const NAME_BYTES: usize = 66;
/// TPM2B_DATA: as long as a TPMT_HA.
const DATA_BYTES: usize = 66;
/// TPM2B_DIGEST.
const DIGEST_BYTES: usize = 64;
/// A signature of a 4096-bit key.
const RSA_BYTES: usize = 512;
/// A coordinate of P-384.
const EC_BYTES: usize = 48;
