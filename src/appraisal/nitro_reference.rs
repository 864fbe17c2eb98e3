//! Reference values for `nitro`: which enclaves may speak.
//!
//! *Takes* what an administrator wrote, and verified claims. *Gives* their differences, in words. *Denies*
//! `PlatformNotAcceptable` by [`NitroReference::acceptable`]; nothing else itself.
//! *Source*: AWS "Cryptographic attestation" (PCRs); `evidence.md` §2, step 8.

use super::reference_text::as_text;
use crate::denial::Denial;
use crate::evidence::nitro::NitroClaims;
use crate::evidence::outcome::Refusal;
use crate::limits;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a `nitro` document must claim. [`NitroReference::default`] names no PCR, so it is no reference that may be put; what
/// it says by [`NitroReference::acceptable`] are the defaults, which refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NitroReference {
    /// PCRs by index, "0" to "31", each with the values of which it must have one. PCR0 (the image) or PCR8 (the certificate
    /// that signed it) is among them. A PCR that is left out is not constrained; one that the document lacks matches nothing.
    pub pcrs: BTreeMap<PcrIndex, BTreeSet<PcrValue>>,
    /// Whether an enclave in debug mode may speak. Its PCR0, PCR1, PCR2 are zeros and its console is read by the machine that
    /// it runs on: never for a secret that matters. Default `false`.
    #[serde(default)]
    pub allow_debug: bool,
}

/// Why reference values are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NitroReferenceError {
    /// Nothing says what runs.
    #[error(
        "`pcrs` names neither 0 (the image) nor 8 (the certificate that signed it): nothing says what runs"
    )]
    Image,
    /// A list is there, and empty: it would say either everything or nothing.
    #[error("`pcrs.{0}` is empty: leave it out, or say what is allowed")]
    ListEmpty(PcrIndex),
}

impl NitroReference {
    /// Whether the values may be put.
    pub fn check_shape(&self) -> Result<(), NitroReferenceError> {
        if let Some((index, _)) = self.pcrs.iter().find(|(_, values)| values.is_empty()) {
            return Err(NitroReferenceError::ListEmpty(*index));
        }
        // In debug mode PCR0 is zero, and PCR3 or PCR4 is all there is to name.
        let names = |index| self.pcrs.contains_key(&PcrIndex(index));
        match names(IMAGE) || names(SIGNER) || (self.allow_debug && !self.pcrs.is_empty()) {
            true => Ok(()),
            false => Err(NitroReferenceError::Image),
        }
    }

    /// Whether a genuine document is acceptable at all, whatever it measured. **Denies** `PlatformNotAcceptable`.
    pub fn acceptable(&self, claims: &NitroClaims) -> Result<(), Refusal> {
        let refused = |detail: String| Err(Refusal::new(Denial::PlatformNotAcceptable, detail));
        if self.allow_debug {
            return Ok(());
        }
        if claims.debug {
            return refused(
                "the enclave runs in debug mode: its PCR0, PCR1, PCR2 vouch for nothing".to_owned(),
            );
        }
        match BOOT_PCRS.into_iter().find(|index| claims.pcr(*index).is_none()) {
            Some(index) => refused(format!("PCR{index} is absent: nothing says that this is not debug mode")),
            None => Ok(()),
        }
    }

    /// The claims that are not as the reference says, in words; none where all are.
    pub fn differences(&self, claims: &NitroClaims) -> Vec<String> {
        let difference = |(index, values): (&PcrIndex, &BTreeSet<PcrValue>)| match claims.pcr(index.0) {
            None => Some(format!("no PCR{index}")),
            Some(pcr) if values.iter().any(|value| value.is(pcr)) => None,
            Some(pcr) => Some(format!("PCR{index} `{pcr}`")),
        };
        self.pcrs.iter().filter_map(difference).collect()
    }
}

/// A PCR's index, 0 to 31.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PcrIndex(u8);

impl PcrIndex {
    /// Parses a number without leading zeros.
    pub fn parse(text: &str) -> Option<Self> {
        let index = text.parse().ok().and_then(PcrIndex::new)?;
        (index.to_string() == text).then_some(index)
    }

    /// The index of that number.
    pub fn new(number: u64) -> Option<Self> {
        u8::try_from(number).ok().filter(|index| *index < limits::NITRO_PCRS).map(PcrIndex)
    }
}

/// A PCR's value: SHA-384, never zeros, which is what an unset one has, and every PCR of a debug enclave's image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PcrValue([u8; 48]);

impl PcrValue {
    /// Parses 96 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        PcrValue::new(&hex::decode(text).ok()?)
    }

    /// The value of these 48 bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 48] = bytes.try_into().ok()?;
        (bytes != [0; 48]).then_some(PcrValue(bytes))
    }

    /// Whether a claim, hex, is this value, whole.
    fn is(&self, claim: &str) -> bool {
        hex::decode(claim).is_ok_and(|claim| claim == self.0)
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Display for PcrValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

as_text!(
    PcrIndex: "a PCR's index, 0 to 31",
    PcrValue: "a PCR's value, 96 hex digits that are not all zeros"
);

/// The enclave image file.
const IMAGE: u8 = 0;
/// The certificate that signed the image.
const SIGNER: u8 = 8;
/// PCRs that are zeros in debug mode.
const BOOT_PCRS: [u8; 3] = [0, 1, 2];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::WallTime;

    fn claims() -> NitroClaims {
        let pcr = |index: u8| match index {
            0..=4 | 8 => hex::encode([0x10 + index; 48]),
            _ => hex::encode([0; 48]),
        };
        NitroClaims {
            module_id: "i-0123-enc0456".into(),
            timestamp: WallTime(1),
            digest: "SHA384".into(),
            pcrs: (0..16).map(|index| (index, pcr(index))).collect(),
            debug: false,
            public_key: None,
            user_data: None,
            nonce: None,
            root_sha256: "aa".repeat(32),
        }
    }

    fn reference(pcrs: &[(&str, &[u8])]) -> NitroReference {
        let value = |byte: &u8| PcrValue::parse(&hex::encode([*byte; 48])).unwrap();
        let list = |(index, values): &(&str, &[u8])| {
            (PcrIndex::parse(index).unwrap(), values.iter().map(value).collect())
        };
        NitroReference { pcrs: pcrs.iter().map(list).collect(), allow_debug: false }
    }

    #[test]
    fn each_constrained_pcr_must_have_one_of_its_values() {
        assert!(reference(&[("0", &[0x10])]).differences(&claims()).is_empty());
        assert!(
            reference(&[("0", &[0x99, 0x10]), ("3", &[0x13]), ("8", &[0x18])])
                .differences(&claims())
                .is_empty()
        );
        let differences = reference(&[("0", &[0x11]), ("4", &[0x14]), ("8", &[0x99])]).differences(&claims());
        assert_eq!(differences.len(), 2, "{differences:?}");
        assert!(differences[0].starts_with("PCR0 `1010"), "{differences:?}");
        assert!(differences[1].starts_with("PCR8 `1818"), "{differences:?}");
    }

    #[test]
    fn a_pcr_that_is_absent_or_unset_or_cut_matches_nothing() {
        assert_eq!(reference(&[("31", &[0x10])]).differences(&claims()), ["no PCR31"]);
        assert_eq!(reference(&[("9", &[0x10])]).differences(&claims()).len(), 1);
        let mut cut = claims();
        cut.pcrs.insert(0, hex::encode([0x10; 32]));
        assert_eq!(reference(&[("0", &[0x10])]).differences(&cut).len(), 1);
        cut.pcrs.insert(0, hex::encode([0x10; 64]));
        assert_eq!(reference(&[("0", &[0x10])]).differences(&cut).len(), 1);
    }

    #[test]
    fn debug_mode_is_refused_unless_it_is_allowed_by_name() {
        let strict = reference(&[("0", &[0x10])]);
        assert_eq!(strict.acceptable(&claims()), Ok(()));
        let debug = NitroClaims { debug: true, ..claims() };
        assert_eq!(strict.acceptable(&debug).unwrap_err().denial, Denial::PlatformNotAcceptable);
        let default = NitroReference::default().acceptable(&debug);
        assert_eq!(default.unwrap_err().denial, Denial::PlatformNotAcceptable);
        for index in BOOT_PCRS {
            let mut absent = claims();
            absent.pcrs.remove(&index);
            assert_eq!(strict.acceptable(&absent).unwrap_err().denial, Denial::PlatformNotAcceptable);
        }
        let lax = NitroReference { allow_debug: true, ..reference(&[("4", &[0x14])]) };
        assert_eq!(lax.acceptable(&debug), Ok(()));
        assert!(lax.differences(&debug).is_empty());
    }

    #[test]
    fn a_reference_that_does_not_say_what_runs_is_refused() {
        assert_eq!(reference(&[("0", &[1])]).check_shape(), Ok(()));
        assert_eq!(reference(&[("8", &[1])]).check_shape(), Ok(()));
        assert_eq!(reference(&[]).check_shape(), Err(NitroReferenceError::Image));
        assert_eq!(reference(&[("4", &[1])]).check_shape(), Err(NitroReferenceError::Image));
        let debug = |pcrs| NitroReference { allow_debug: true, ..reference(pcrs) };
        assert_eq!(debug(&[("4", &[1])]).check_shape(), Ok(()));
        assert_eq!(debug(&[]).check_shape(), Err(NitroReferenceError::Image));
        let empty = PcrIndex::parse("8").unwrap();
        assert_eq!(
            reference(&[("0", &[1]), ("8", &[])]).check_shape(),
            Err(NitroReferenceError::ListEmpty(empty))
        );
    }

    #[test]
    fn what_is_no_index_no_value_or_no_key_is_refused() {
        for text in ["32", "256", "-1", "+1", "00", "01", "", " 1", "pcr0", "0x1"] {
            assert!(PcrIndex::parse(text).is_none(), "{text}");
        }
        for text in
            [&"00".repeat(48), &"ab".repeat(32), &"ab".repeat(64), &"ab".repeat(47), "", &"zz".repeat(48)]
        {
            assert!(PcrValue::parse(text).is_none(), "{text}");
        }
        let json = |text: &str| serde_json::from_str::<NitroReference>(text);
        assert!(json(r#"{}"#).is_err());
        assert!(json(r#"{"pcrs": {"32": []}}"#).is_err());
        assert!(json(r#"{"pcrs": {}, "debug": true}"#).is_err());
        let value = "ab".repeat(48);
        let read = json(&format!(r#"{{"pcrs": {{"0": ["{value}"]}}}}"#)).unwrap();
        assert!(!read.allow_debug);
        assert_eq!(
            serde_json::from_value::<NitroReference>(serde_json::to_value(&read).unwrap()).unwrap(),
            read
        );
    }

    /// The page for operators shows values that may be put.
    #[test]
    fn the_documented_example_is_a_reference() {
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/attestation/nitro.md"));
        let (_, example) = page.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let file: toml::Table = toml::from_str(example).unwrap();
        let nitro = file["set"][0]["nitro"].clone();
        let reference: NitroReference = nitro.try_into().unwrap();
        assert_eq!(reference.check_shape(), Ok(()));
        assert!(!reference.allow_debug);
        assert_eq!(reference.pcrs.len(), 2);
    }
}
