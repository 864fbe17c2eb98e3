//! The body of a document: the protobuf `Tpm2Quote`, read strictly, and what stands in it.
//!
//! *Takes* untrusted bytes. *Gives* [`Document`], which borrows from them. *Denies* `EvidenceMalformed`.
//! *Source*: `proto/portcullis/v1/tpm2.proto`; Protocol Buffers "Encoding".
//!
//! Protobuf allows many encodings of one message. Here only one counts: fields ascending, none unknown, none empty, none
//! twice but `pcr_values`, lengths in their shortest form. That is what every serialiser writes for this message.

use super::Refusal;
use super::attest::{Attest, Signature};
use super::event_log::EventLog;
use super::public::AkName;
use super::wire::Malformed;
use crate::denial::Denial;
use crate::limits;

/// A quote with what it needs to be understood. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// The TPMS_ATTEST, as signed.
    pub attest_bytes: &'a [u8],
    /// What it says.
    pub attest: Attest<'a>,
    /// The signature.
    pub signature: Signature<'a>,
    /// The quoted PCRs' values, in the order of the selection, each as long as its bank's digests.
    pub pcr_values: Vec<&'a [u8]>,
    /// The Name of the key that is said to have signed.
    pub ak_name: AkName,
    /// The firmware's event log, where one came along; its bytes are the log.
    pub event_log: Option<(&'a [u8], EventLog<'a>)>,
}

impl Document<'_> {
    /// What stands where the binding belongs: `extraData`, which should be SHA-256 of the binding that is due.
    pub fn carried_binding(&self) -> &[u8] {
        self.attest.extra_data
    }
}

/// Parses a body. **Denies** `EvidenceMalformed`.
pub fn parse(body: &[u8]) -> Result<Document<'_>, Refusal> {
    read(body).map_err(|error| Refusal::new(Denial::EvidenceMalformed, error.to_string()))
}

fn read(body: &[u8]) -> Result<Document<'_>, Malformed> {
    let fields = Fields::read(body)?;
    let attest = Attest::parse(fields.attest)?;
    let quoted = attest.pcrs().count();
    if fields.pcr_values.len() != quoted {
        return Err(wrong("pcr_values are not as many as the quoted PCRs"));
    }
    let fits = |(value, (bank, _)): (&&[u8], (super::Hash, u8))| value.len() == bank.bytes();
    if !fields.pcr_values.iter().zip(attest.pcrs()).all(fits) {
        return Err(wrong("a PCR value is not as long as its bank's digests"));
    }
    let event_log = match fields.event_log {
        [] => None,
        bytes => Some((bytes, EventLog::parse(bytes)?)),
    };
    Ok(Document {
        attest_bytes: fields.attest,
        attest,
        signature: Signature::parse(fields.signature)?,
        pcr_values: fields.pcr_values,
        ak_name: AkName::parse(fields.ak_name).ok_or(wrong("ak_name is no Name of a TPM object"))?,
        event_log,
    })
}

/// The message's fields.
struct Fields<'a> {
    attest: &'a [u8],
    signature: &'a [u8],
    pcr_values: Vec<&'a [u8]>,
    ak_name: &'a [u8],
    event_log: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = body;
        if rest.len() > limits::DOCUMENT_BYTES {
            return Err(wrong("longer than any document"));
        }
        let attest = required(&mut rest, 1)?;
        let signature = required(&mut rest, 2)?;
        let mut pcr_values = Vec::new();
        while let Some(value) = field(&mut rest, 3)? {
            pcr_values.push(value);
            if pcr_values.len() > limits::TPM2_PCR_VALUES {
                return Err(wrong("more pcr_values than PCRs of three banks"));
            }
        }
        let ak_name = required(&mut rest, 4)?;
        let event_log = field(&mut rest, 5)?.unwrap_or_default();
        if !rest.is_empty() {
            return Err(wrong("a field is unknown, out of order or there twice"));
        }
        Ok(Fields { attest, signature, pcr_values, ak_name, event_log })
    }
}

fn required<'a>(rest: &mut &'a [u8], number: u8) -> Result<&'a [u8], Malformed> {
    field(rest, number)?.ok_or(wrong("a field is missing or out of order"))
}

/// The next field, where it has this number: wire type 2, not empty.
fn field<'a>(rest: &mut &'a [u8], number: u8) -> Result<Option<&'a [u8]>, Malformed> {
    let tag = number << 3 | 2;
    let Some(after_tag) = rest.strip_prefix(&[tag]) else { return Ok(None) };
    let (length, after_length) = varint(after_tag)?;
    let (value, after) = after_length.split_at_checked(length).ok_or(wrong("a field ends too soon"))?;
    if value.is_empty() {
        return Err(wrong("a field is there and empty"));
    }
    *rest = after;
    Ok(Some(value))
}

/// A length, in its shortest form and below 2 MiB.
fn varint(bytes: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let (mut value, mut rest) = (0_usize, bytes);
    for shift in [0, 7, 14] {
        let (byte, after) = rest.split_first().ok_or(wrong("a length ends too soon"))?;
        rest = after;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let shortest = *byte != 0 || shift == 0;
            return shortest.then_some((value, rest)).ok_or(wrong("a length is not in its shortest form"));
        }
    }
    Err(wrong("a length is beyond any document"))
}

fn wrong(problem: &'static str) -> Malformed {
    Malformed { structure: "Tpm2Quote", problem }
}
