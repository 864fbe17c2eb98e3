//! The firmware's event log (crypto-agile, of the TCG PC Client profile), read and replayed.
//!
//! *Takes* untrusted bytes, as Linux shows them in `binary_bios_measurements`. *Gives* [`EventLog`] and what a bank's PCRs
//! come to by it. *Denies* nothing itself; each [`Malformed`] becomes `EvidenceMalformed`.
//! *Source*: TCG PC Client Platform Firmware Profile 1.06 §10; TCG TPM 2.0 Library part 1 §17 (extend).
//!
//! Nobody signs a log. It counts as far as its digests, extended one after the other, come to the quoted values; what an event
//! *says* beside its digest is not vouched for, and is not looked at.

use super::algorithm::Hash;
use super::wire::Malformed;
use crate::limits;
use std::collections::BTreeMap;

/// A log whose every event has one digest of each of its algorithms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog<'a> {
    /// The banks that it can be replayed for; a log of others, such as SHA-1, has more algorithms.
    pub banks: Vec<Hash>,
    /// The events that extend a PCR, in their order.
    pub events: Vec<Event<'a>>,
    /// The locality that started the TPM, which is what PCR 0 began with.
    pub startup_locality: u8,
}

/// An event that extends a PCR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The PCR.
    pub pcr: u8,
    /// The event's type, as the profile numbers them; not vouched for.
    pub kind: u32,
    /// Its digests, one of each of [`EventLog::banks`].
    pub digests: Vec<(Hash, &'a [u8])>,
}

/// What a bank's PCR comes to by the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed<'a> {
    /// Its value after the last event.
    pub value: Vec<u8>,
    /// The digests that made it, in their order.
    pub digests: Vec<&'a [u8]>,
}

impl<'a> EventLog<'a> {
    /// Reads the one log that the bytes are.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { rest: bytes };
        let algorithms = specification(&mut reader)?;
        let banks = algorithms.iter().filter_map(|(id, _)| Hash::from_id(*id)).collect();
        let mut log = EventLog { banks, events: Vec::new(), startup_locality: 0 };
        let mut localities = 0_u32;
        while !reader.rest.is_empty() {
            let (event, data) = event(&mut reader, &algorithms)?;
            if event.kind != NO_ACTION {
                log.events.push(event);
            } else if let Some(locality) = startup_locality(&event, data)? {
                // It speaks of the value before the first event of PCR 0, so it stands before that.
                if localities > 0 || log.events.iter().any(|event| event.pcr == 0) {
                    return Err(wrong("the startup locality comes twice, or too late"));
                }
                localities = localities.saturating_add(1);
                log.startup_locality = locality;
            }
            if log.events.len() > limits::TPM2_EVENTS {
                return Err(wrong("more events than any boot has"));
            }
        }
        Ok(log)
    }

    /// The PCRs of a bank that have an event, and what they come to.
    pub fn replay(&self, bank: Hash) -> BTreeMap<u8, Replayed<'a>> {
        let mut replayed: BTreeMap<u8, Replayed<'a>> = BTreeMap::new();
        for event in &self.events {
            let Some((_, digest)) = event.digests.iter().find(|(hash, _)| *hash == bank) else { continue };
            let pcr = replayed
                .entry(event.pcr)
                .or_insert_with(|| Replayed { value: self.start(event.pcr, bank), digests: Vec::new() });
            pcr.value = bank.digest(&[&pcr.value, digest]);
            pcr.digests.push(digest);
        }
        replayed
    }

    /// Zeros, but for the last byte of PCR 0, which is the locality of the TPM's start.
    fn start(&self, pcr: u8, bank: Hash) -> Vec<u8> {
        let mut value = vec![0; bank.bytes()];
        if let (0, Some(last)) = (pcr, value.last_mut()) {
            *last = self.startup_locality;
        }
        value
    }
}

/// The first event, in the form of SHA-1 logs: it says which algorithms all others have, and how long their digests are.
fn specification(reader: &mut Reader<'_>) -> Result<Vec<(u16, usize)>, Malformed> {
    let (pcr, kind) = (reader.u32()?, reader.u32()?);
    let digest = reader.take(20)?;
    let length = reader.u32()?;
    let mut content = Reader { rest: reader.long(length)? };
    if pcr != 0 || kind != NO_ACTION || digest.iter().any(|byte| *byte != 0) {
        return Err(wrong("it does not begin with a specification event"));
    }
    if content.take(16)? != SPECIFICATION {
        return Err(wrong("it is not crypto-agile"));
    }
    content.take(8)?;
    let count = content.u32()?;
    let mut algorithms: Vec<(u16, usize)> = Vec::new();
    for _ in 0..count {
        let (id, length) = (content.u16()?, usize::from(content.u16()?));
        let known = Hash::from_id(id).map_or(1..=64, |hash| hash.bytes()..=hash.bytes());
        if !known.contains(&length) || algorithms.iter().any(|(other, _)| *other == id) {
            return Err(wrong("its algorithms are not what they are called, or come twice"));
        }
        algorithms.push((id, length));
    }
    let vendor = content.u8()?;
    content.take(usize::from(vendor))?;
    match content.rest.is_empty() && !algorithms.is_empty() {
        true => Ok(algorithms),
        false => Err(wrong("its specification event has no algorithm, or bytes follow in it")),
    }
}

/// One TCG_PCR_EVENT2 and its data.
fn event<'a>(
    reader: &mut Reader<'a>,
    algorithms: &[(u16, usize)],
) -> Result<(Event<'a>, &'a [u8]), Malformed> {
    let (pcr, kind, count) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let pcr = u8::try_from(pcr).ok().filter(|pcr| *pcr < PCRS).ok_or(wrong("an event has no such PCR"))?;
    if usize::try_from(count).ok() != Some(algorithms.len()) {
        return Err(wrong("an event has not one digest of each algorithm"));
    }
    let mut seen: Vec<u16> = Vec::new();
    let mut digests = Vec::new();
    for _ in 0..count {
        let id = reader.u16()?;
        let length = algorithms.iter().find(|(known, _)| *known == id).map(|(_, length)| *length);
        let length = length.filter(|_| !seen.contains(&id));
        let digest = reader.take(length.ok_or(wrong("an event has not one digest of each algorithm"))?)?;
        seen.push(id);
        digests.extend(Hash::from_id(id).map(|hash| (hash, digest)));
    }
    let length = reader.u32()?;
    Ok((Event { pcr, kind, digests }, reader.long(length)?))
}

/// Of an event that extends nothing: the locality, where it states one.
fn startup_locality(event: &Event<'_>, data: &[u8]) -> Result<Option<u8>, Malformed> {
    match data.strip_prefix(STARTUP_LOCALITY) {
        Some([locality @ (0 | 3 | 4)]) if event.pcr == 0 => Ok(Some(*locality)),
        Some(_) => Err(wrong("the startup locality is none of 0, 3 and 4")),
        None => Ok(None),
    }
}

/// Little-endian, as the log is, unlike the TPM.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(wrong(TRUNCATED))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(wrong(TRUNCATED))?;
        self.rest = rest;
        Ok(taken)
    }

    fn long(&mut self, length: u32) -> Result<&'a [u8], Malformed> {
        self.take(usize::try_from(length).map_err(|_| wrong(TRUNCATED))?)
    }
}

fn wrong(problem: &'static str) -> Malformed {
    Malformed { structure: "event log", problem }
}

/// EV_NO_ACTION: extends nothing.
const NO_ACTION: u32 = 3;
/// TCG_EfiSpecIdEvent.signature.
const SPECIFICATION: &[u8] = b"Spec ID Event03\0";
/// TCG_EfiStartupLocalityEvent.signature.
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
/// PCRs of a PC Client TPM.
const PCRS: u8 = 24;
const TRUNCATED: &str = "the bytes end within a field";
