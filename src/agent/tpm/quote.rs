//! Quote: the TPM signs its PCRs together with a challenge, and the values are read beside it.
//!
//! *Takes* a loaded AK, `extraData`, a [`Selection`] of PCRs. *Gives* [`Quoted`]. *Denies* nothing itself. *Source*: TCG TPM 2.0
//! Library part 3 §18.4 (Quote), §22.4 (PCR_Read).

use super::Tpm;
use super::command::{Auth, Command, TpmError, code};
use super::keys::Loaded;
use crate::evidence::tpm2::wire::Reader;
use crate::evidence::tpm2::{Attest, AttestationKey, Hash};
use crate::limits;
use crate::proto::v1::Tpm2Quote;
use std::collections::BTreeMap;

/// Which PCRs are quoted: at least one, each below 24.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<(Hash, Vec<u8>)>);

/// A quote and the values that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// The values, in the order of the selection.
    pub pcr_values: Vec<Vec<u8>>,
    /// The Name of the key.
    pub ak_name: Vec<u8>,
}

impl Selection {
    /// These PCRs of these banks; none where a bank or all is empty, a PCR is none, or one stands twice.
    pub fn new(banks: &[(Hash, &[u8])]) -> Option<Self> {
        let mut selected: Vec<(Hash, Vec<u8>)> = Vec::new();
        for (bank, pcrs) in banks {
            let mut ascending = pcrs.to_vec();
            ascending.sort_unstable();
            ascending.dedup();
            let sound =
                !pcrs.is_empty() && ascending.len() == pcrs.len() && pcrs.iter().all(|pcr| *pcr < PCRS);
            if !sound || selected.iter().any(|(other, _)| other == bank) {
                return None;
            }
            selected.push((*bank, ascending));
        }
        (!selected.is_empty()).then_some(Selection(selected))
    }

    /// What firmware measures, SHA-256: PCRs 0 to 7.
    pub fn of_firmware() -> Self {
        Selection(vec![(Hash::Sha256, (0..8).collect())])
    }

    /// Reads `sha256:0,1,7+sha384:4`, as tpm2-tools write it.
    pub fn parse(text: &str) -> Option<Self> {
        let bank = |part: &str| -> Option<(Hash, Vec<u8>)> {
            let (bank, pcrs) = part.split_once(':')?;
            let bank = match bank {
                "sha256" => Hash::Sha256,
                "sha384" => Hash::Sha384,
                "sha512" => Hash::Sha512,
                _ => return None,
            };
            let pcr = |pcr: &str| pcr.parse().ok().filter(|_| pcr.bytes().all(|byte| byte.is_ascii_digit()));
            Some((bank, pcrs.split(',').map(pcr).collect::<Option<_>>()?))
        };
        let banks: Vec<(Hash, Vec<u8>)> = text.split('+').map(bank).collect::<Option<_>>()?;
        let banks: Vec<(Hash, &[u8])> = banks.iter().map(|(bank, pcrs)| (*bank, pcrs.as_slice())).collect();
        Selection::new(&banks)
    }

    fn pcrs(&self) -> impl Iterator<Item = (Hash, u8)> + '_ {
        self.0.iter().flat_map(|(bank, pcrs)| pcrs.iter().map(|pcr| (*bank, *pcr)))
    }
}

/// TPML_PCR_SELECTION.
fn encoded(banks: &[(Hash, Vec<u8>)]) -> Vec<u8> {
    let mut out = u32::try_from(banks.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    for (bank, pcrs) in banks {
        out.extend_from_slice(&bank.id().to_be_bytes());
        out.push(3);
        let byte = |octet: u8| {
            let of_octet = pcrs.iter().filter(|pcr| **pcr / 8 == octet);
            of_octet.fold(0_u8, |bits, pcr| bits | 1 << (pcr % 8))
        };
        out.extend_from_slice(&[byte(0), byte(1), byte(2)]);
    }
    out
}

impl Quoted {
    /// The body of a `tpm2` document. An event log that would not fit is left out.
    pub fn into_message(self, event_log: Vec<u8>) -> Tpm2Quote {
        Tpm2Quote {
            attest: self.attest,
            signature: self.signature,
            pcr_values: self.pcr_values,
            ak_name: self.ak_name,
            event_log,
        }
    }
}

impl Tpm {
    /// Quotes the selected PCRs. Where one changes between the quote and the reading, both are done again, a few times.
    pub fn quote(
        &mut self,
        ak: &Loaded,
        extra_data: &[u8],
        selection: &Selection,
    ) -> Result<Quoted, TpmError> {
        let key = AttestationKey::parse(ak.public())?;
        for _ in 0..limits::TPM_QUOTES {
            let (attest, signature) = self.quote_once(ak, extra_data, selection)?;
            let pcr_values = self.read_pcrs(selection)?;
            let parts: Vec<&[u8]> = pcr_values.iter().map(Vec::as_slice).collect();
            if Attest::parse(&attest)?.pcr_digest == key.hash().digest(&parts) {
                let ak_name = key.name().as_bytes().to_vec();
                return Ok(Quoted { attest, signature, pcr_values, ak_name });
            }
        }
        Err(TpmError::PcrsChange)
    }

    fn quote_once(
        &mut self,
        ak: &Loaded,
        extra_data: &[u8],
        selection: &Selection,
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        // By the key's own scheme: it has exactly one.
        let quote = Command::new("Quote", code::QUOTE)
            .authorised(ak.handle(), Auth::empty())
            .sized(extra_data)
            .u16(NULL)
            .bytes(&encoded(&selection.0));
        let response = self.run(quote)?;
        let mut reader = Reader::new(&response.parameters, "Quote");
        let attest = reader.sized(limits::TPM2_ATTEST_BYTES)?.to_vec();
        let signature = reader.take(reader.left())?.to_vec();
        Ok((attest, signature))
    }

    /// Reads PCRs: a TPM gives eight at most at a time, and says which.
    fn read_pcrs(&mut self, selection: &Selection) -> Result<Vec<Vec<u8>>, TpmError> {
        let mut read: BTreeMap<(Hash, u8), Vec<u8>> = BTreeMap::new();
        loop {
            let left = |bank: Hash, pcrs: &[u8]| -> Vec<u8> {
                pcrs.iter().copied().filter(|pcr| !read.contains_key(&(bank, *pcr))).collect()
            };
            let banks = selection.0.iter().map(|(bank, pcrs)| (*bank, left(*bank, pcrs)));
            let banks: Vec<(Hash, Vec<u8>)> = banks.filter(|(_, pcrs)| !pcrs.is_empty()).collect();
            if banks.is_empty() {
                break;
            }
            let response = self.run(Command::new("PCR_Read", code::PCR_READ).bytes(&encoded(&banks)))?;
            let before = read.len();
            read.extend(pcr_values(&response.parameters)?);
            if read.len() == before {
                return Err(TpmError::Malformed("a PCR of a bank that the TPM does not have"));
            }
        }
        let values = selection.pcrs().map(|pcr| read.remove(&pcr));
        values.collect::<Option<_>>().ok_or(TpmError::Malformed("PCRs that were not asked for"))
    }
}

/// PCRs with their values.
type Values = Vec<((Hash, u8), Vec<u8>)>;

/// The counter, which PCRs, and their values.
fn pcr_values(parameters: &[u8]) -> Result<Values, TpmError> {
    let mut reader = Reader::new(parameters, "PCR_Read");
    reader.u32()?;
    let mut given = Vec::new();
    for _ in 0..reader.u32()?.min(BANKS) {
        let bank = Hash::from_id(reader.u16()?).ok_or(reader.wrong("a bank that was not asked for"))?;
        let length = usize::from(reader.u8()?);
        let bitmap = reader.take(length)?;
        let set = |pcr: &u8| bitmap.get(usize::from(pcr / 8)).is_some_and(|byte| byte >> (pcr % 8) & 1 == 1);
        given.extend((0..PCRS).filter(set).map(|pcr| (bank, pcr)));
    }
    let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    if count != given.len() {
        return Err(TpmError::Malformed("PCR values that are not as many as their selection"));
    }
    let mut values = Vec::new();
    for pcr in given {
        values.push((pcr, reader.sized(64)?.to_vec()));
    }
    reader.end()?;
    Ok(values)
}

/// PCRs of a PC Client TPM.
const PCRS: u8 = 24;
/// Banks that one TPM has.
const BANKS: u32 = 16;
const NULL: u16 = 0x0010;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_has_pcrs_and_each_once() {
        let new = |banks: &[(Hash, &[u8])]| Selection::new(banks);
        assert!(new(&[(Hash::Sha256, &[7, 0, 4])]).is_some());
        assert_eq!(new(&[(Hash::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7])]), Some(Selection::of_firmware()));
        let bad: [&[(Hash, &[u8])]; 5] = [
            &[],
            &[(Hash::Sha256, &[])],
            &[(Hash::Sha256, &[24])],
            &[(Hash::Sha256, &[1, 1])],
            &[(Hash::Sha256, &[1]), (Hash::Sha256, &[2])],
        ];
        for banks in bad {
            assert_eq!(new(banks), None);
        }
        let two = new(&[(Hash::Sha384, &[23]), (Hash::Sha256, &[8, 0])]).unwrap();
        assert_eq!(hex::encode(encoded(&two.0)), "00000002000c03000080000b03010100");
    }

    #[test]
    fn a_selection_is_written_as_tpm2_tools_write_it() {
        assert_eq!(Selection::parse("sha256:0,1,2,3,4,5,6,7"), Some(Selection::of_firmware()));
        let two = Selection::new(&[(Hash::Sha384, &[4]), (Hash::Sha256, &[0, 23])]);
        assert_eq!(Selection::parse("sha384:4+sha256:23,0"), two);
        for text in
            ["", "sha256", "sha256:", "sha1:0", "sha256:24", "sha256:1,1", "sha256:+1", "sha256:1+sha256:2"]
        {
            assert_eq!(Selection::parse(text), None, "{text}");
        }
    }

    #[test]
    fn pcr_values_are_as_many_as_their_selection_says() {
        let good = "0000001600000001000b03810000".to_owned() + "00000002" + "0001aa" + "0001bb";
        let read = |text: &str| pcr_values(&hex::decode(text).unwrap());
        assert_eq!(read(&good).unwrap(), [((Hash::Sha256, 0), vec![0xaa]), ((Hash::Sha256, 7), vec![0xbb])]);
        for bad in [
            good.replace("00000002", "00000001"),
            good.replace("000b03", "000403"),
            good.clone() + "00",
            good[..good.len() - 2].to_owned(),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
