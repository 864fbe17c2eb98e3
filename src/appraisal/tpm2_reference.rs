//! Reference values for `tpm2`: what a node may have booted.
//!
//! *Takes* what an administrator wrote, and verified claims. *Gives* their differences, in words. *Denies*
//! `PlatformNotAcceptable` by [`Tpm2Reference::acceptable`]; nothing else itself.
//! *Source*: TCG PC Client Platform Firmware Profile 1.06 §2.3.4, §10 (what PCRs and events are); `evidence.md` §3, steps 5 to 7.

use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::evidence::tpm2::{Hash, PcrIndex, PcrValue, Tpm2Claims};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// PCRs of one bank, each with what is said of it.
type Bank<T> = BTreeMap<PcrIndex, T>;

/// What a `tpm2` document must claim. [`Tpm2Reference::default`] names no PCR, so it is no reference that may be put; what it
/// says by [`Tpm2Reference::acceptable`] are the defaults, which refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tpm2Reference {
    /// PCRs by bank (`sha256`, `sha384`, `sha512`) and number, each with the values of which it must have one. A PCR that is
    /// named must be quoted. One that is not named may be quoted too, but only of a bank that is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pcrs: BTreeMap<Hash, Bank<BTreeSet<PcrValue>>>,
    /// PCRs that are judged by what made them, event by event, in place of their value: then an event log must come along.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<Hash, Bank<EventReference>>,
    /// Which of PCRs 0 to 7 may hold what they began with, zeros. Firmware extends each of them, so one that holds zeros means
    /// that nothing measured the boot, or not as a PC does. Absent: none may.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_unmeasured: BTreeSet<PcrIndex>,
    /// Nodes by their enrolled names. Absent: every node with an enrolled key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<BTreeSet<String>>,
    /// Endorsement keys by SHA-256 over their SubjectPublicKeyInfo, lower-case hex. Absent: every TPM that was enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_sha256: Option<BTreeSet<String>>,
    /// Firmware versions of the TPM, 16 lower-case hex digits. Absent: not constrained. A key outside the endorsement hierarchy
    /// shows an obfuscated one, which matches nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_versions: Option<BTreeSet<String>>,
}

/// What may have extended one PCR. Neither order nor repetition is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventReference {
    /// Digests that must be among its events.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub required: BTreeSet<PcrValue>,
    /// Further digests that may be. Any other refuses.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allowed: BTreeSet<PcrValue>,
}

/// Why reference values are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Tpm2ReferenceError {
    /// Nothing says what booted.
    #[error("neither `pcrs` nor `events` names a PCR below 16: nothing says what booted")]
    Boot,
    /// A list is there, and empty: it would say either everything or nothing.
    #[error("`{0}` is empty: leave it out, or say what is allowed")]
    ListEmpty(&'static str),
    /// A PCR has nothing that it may be.
    #[error("{0} PCR {1} has an empty list: leave it out, or say what is allowed")]
    PcrEmpty(Hash, PcrIndex),
    /// One PCR is judged twice.
    #[error("{0} PCR {1} stands in `pcrs` and in `events`")]
    PcrTwice(Hash, PcrIndex),
    /// A digest is not one of its bank's.
    #[error("{0} PCR {1} has a digest of another length than its bank's")]
    Length(Hash, PcrIndex),
    /// A value that no measured PCR has.
    #[error("{0} PCR {1} is all zeros or all ones: nothing measured it; if it is meant, `allow_unmeasured`")]
    Unmeasured(Hash, PcrIndex),
    /// A PCR that may well hold zeros.
    #[error("`allow_unmeasured` is for PCRs 0 to 7")]
    AllowUnmeasured,
    /// A name of a key or version that matches nothing.
    #[error("`{0}` has an entry that is not of so many lower-case hex digits")]
    Hex(&'static str),
}

impl Tpm2Reference {
    /// Whether the values may be put.
    pub fn check_shape(&self) -> Result<(), Tpm2ReferenceError> {
        self.check_lists()?;
        if self.allow_unmeasured.iter().any(|pcr| !is_firmwares(*pcr)) {
            return Err(Tpm2ReferenceError::AllowUnmeasured);
        }
        for (bank, pcr, values) in flat(&self.pcrs) {
            self.check_digests(bank, pcr, values.iter())?;
            let unmeasured = is_firmwares(pcr) && !self.allow_unmeasured.contains(&pcr);
            if unmeasured && values.iter().any(PcrValue::is_reset) {
                return Err(Tpm2ReferenceError::Unmeasured(bank, pcr));
            }
        }
        for (bank, pcr, events) in flat(&self.events) {
            self.check_digests(bank, pcr, events.required.iter().chain(&events.allowed))?;
            if self.pcrs.get(&bank).is_some_and(|pcrs| pcrs.contains_key(&pcr)) {
                return Err(Tpm2ReferenceError::PcrTwice(bank, pcr));
            }
        }
        let by_value = flat(&self.pcrs).map(|(_, pcr, _)| pcr);
        let mut named = by_value.chain(flat(&self.events).map(|(_, pcr, _)| pcr));
        named.any(|pcr| pcr.get() < FIRST_OF_NO_BOOT).then_some(()).ok_or(Tpm2ReferenceError::Boot)
    }

    fn check_lists(&self) -> Result<(), Tpm2ReferenceError> {
        let hex = |digits: usize| {
            move |text: &String| {
                text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            }
        };
        let empty = |list: &Option<BTreeSet<String>>| list.as_ref().is_some_and(BTreeSet::is_empty);
        let lists = [
            ("pcrs", self.pcrs.values().any(BTreeMap::is_empty)),
            ("events", self.events.values().any(BTreeMap::is_empty)),
            ("nodes", empty(&self.nodes)),
            ("ek_sha256", empty(&self.ek_sha256)),
            ("firmware_versions", empty(&self.firmware_versions)),
        ];
        if let Some((name, _)) = lists.into_iter().find(|(_, empty)| *empty) {
            return Err(Tpm2ReferenceError::ListEmpty(name));
        }
        if !self.ek_sha256.iter().flatten().all(hex(64)) {
            return Err(Tpm2ReferenceError::Hex("ek_sha256"));
        }
        let versions = self.firmware_versions.iter().flatten().all(hex(16));
        versions.then_some(()).ok_or(Tpm2ReferenceError::Hex("firmware_versions"))
    }

    fn check_digests<'a>(
        &self,
        bank: Hash,
        pcr: PcrIndex,
        digests: impl Iterator<Item = &'a PcrValue>,
    ) -> Result<(), Tpm2ReferenceError> {
        let lengths: BTreeSet<usize> = digests.map(|digest| digest.as_bytes().len()).collect();
        if lengths.is_empty() {
            return Err(Tpm2ReferenceError::PcrEmpty(bank, pcr));
        }
        let fits = lengths.iter().all(|length| *length == bank.bytes());
        fits.then_some(()).ok_or(Tpm2ReferenceError::Length(bank, pcr))
    }

    /// Whether a genuine quote is acceptable at all, whatever was measured. **Denies** `PlatformNotAcceptable` where a quoted
    /// PCR of the firmware's was never extended.
    pub fn acceptable(&self, claims: &Tpm2Claims) -> Result<(), Refusal> {
        let unmeasured = flat(&claims.pcrs).find(|(_, pcr, value)| {
            is_firmwares(*pcr) && value.is_reset() && !self.allow_unmeasured.contains(pcr)
        });
        match unmeasured {
            None => Ok(()),
            Some((bank, pcr, _)) => {
                let detail = format!("{bank} PCR {pcr} was never extended: nothing measured this boot");
                Err(Refusal::new(Denial::PlatformNotAcceptable, detail))
            }
        }
    }

    /// The claims that are not as the reference says, in words; none where all are.
    pub fn differences(&self, claims: &Tpm2Claims) -> Vec<String> {
        let named = |allowed: &Option<BTreeSet<String>>, claim: &String| {
            allowed.as_ref().is_none_or(|set| set.contains(claim))
        };
        let plain = [
            (named(&self.nodes, &claims.node), format!("node `{}`", bounded(&claims.node))),
            (named(&self.ek_sha256, &claims.ek_sha256), format!("endorsement key `{}`", claims.ek_sha256)),
            (
                named(&self.firmware_versions, &claims.firmware_version),
                format!("TPM firmware version `{}`", claims.firmware_version),
            ),
        ];
        let plain = plain.into_iter().filter(|(fits, _)| !fits).map(|(_, difference)| difference);
        let banks = self.bank_differences(claims);
        let pcrs =
            flat(&self.pcrs).filter_map(|(bank, pcr, values)| pcr_difference(claims, bank, pcr, values));
        let events =
            flat(&self.events).flat_map(|(bank, pcr, events)| event_differences(claims, bank, pcr, events));
        banks.into_iter().chain(pcrs).chain(events).chain(plain).collect()
    }

    /// Banks beside those that are named: nobody said what they may hold.
    fn bank_differences(&self, claims: &Tpm2Claims) -> Vec<String> {
        let named = |bank: &&Hash| self.pcrs.contains_key(bank) || self.events.contains_key(bank);
        claims
            .pcrs
            .keys()
            .filter(|bank| !named(bank))
            .map(|bank| format!("bank {bank} is quoted too"))
            .collect()
    }
}

fn pcr_difference(
    claims: &Tpm2Claims,
    bank: Hash,
    pcr: PcrIndex,
    values: &BTreeSet<PcrValue>,
) -> Option<String> {
    match claims.pcrs.get(&bank).and_then(|pcrs| pcrs.get(&pcr)) {
        None => Some(format!("no {bank} PCR {pcr}")),
        Some(value) if values.contains(value) => None,
        Some(value) => Some(format!("{bank} PCR {pcr} `{value}`")),
    }
}

fn event_differences(claims: &Tpm2Claims, bank: Hash, pcr: PcrIndex, wanted: &EventReference) -> Vec<String> {
    let log = claims.event_log.as_ref();
    let events = log.and_then(|log| log.events.get(&bank)).and_then(|pcrs| pcrs.get(&pcr));
    // A PCR without events is not vouched for by the log, whatever it holds.
    let Some(events) = events else { return vec![format!("no event of {bank} PCR {pcr}")] };
    let missing = wanted.required.iter().filter(|digest| !events.contains(digest));
    let known = |digest: &&PcrValue| wanted.required.contains(digest) || wanted.allowed.contains(digest);
    let foreign = events.iter().filter(|digest| !known(digest));
    missing
        .map(|digest| format!("{bank} PCR {pcr} without event `{digest}`"))
        .chain(foreign.map(|digest| format!("{bank} PCR {pcr} with event `{digest}`")))
        .take(EVENTS_NAMED)
        .collect()
}

fn flat<T>(banks: &BTreeMap<Hash, Bank<T>>) -> impl Iterator<Item = (Hash, PcrIndex, &T)> {
    banks.iter().flat_map(|(bank, pcrs)| pcrs.iter().map(|(pcr, value)| (*bank, *pcr, value)))
}

/// Whether firmware extends it in every boot (§2.3.4, table 1).
fn is_firmwares(pcr: PcrIndex) -> bool {
    pcr.get() < 8
}

fn bounded(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(80).collect()
}

/// PCRs 0 to 15 are of the boot and what it started; the others any process may reset, or nothing extends them.
const FIRST_OF_NO_BOOT: u8 = 16;
/// A boot of another system differs in every event; a few say so.
const EVENTS_NAMED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tpm2::EventLogClaims;

    fn pcr(index: u8) -> PcrIndex {
        PcrIndex::new(index).unwrap()
    }

    fn value(byte: u8) -> PcrValue {
        PcrValue::new(&[byte; 32]).unwrap()
    }

    fn claims() -> Tpm2Claims {
        let pcrs = (0..8).map(|index| (pcr(index), value(index + 1)));
        let events = [(pcr(4), vec![value(0xa1), value(0xa2)])];
        let log = EventLogClaims { sha256: "00".repeat(32), events: [(Hash::Sha256, events.into())].into() };
        Tpm2Claims {
            node: "node-1.example".to_owned(),
            ak_name: "000b".to_owned() + &"11".repeat(32),
            ak_algorithm: "ecdsa-p256-sha256".to_owned(),
            ek_sha256: "22".repeat(32),
            qualified_signer: "000b".to_owned() + &"33".repeat(32),
            firmware_version: "2019102300163636".to_owned(),
            clock_ms: 1,
            reset_count: 2,
            restart_count: 3,
            pcrs: [(Hash::Sha256, pcrs.collect())].into(),
            event_log: Some(log),
        }
    }

    fn reference() -> Tpm2Reference {
        let pcrs = [(pcr(0), [value(1)].into()), (pcr(7), [value(8), value(0x77)].into())];
        let events = EventReference { required: [value(0xa1)].into(), allowed: [value(0xa2)].into() };
        Tpm2Reference {
            pcrs: [(Hash::Sha256, pcrs.into())].into(),
            events: [(Hash::Sha256, [(pcr(4), events)].into())].into(),
            ..Tpm2Reference::default()
        }
    }

    fn difference(change: impl FnOnce(&mut Tpm2Claims)) -> Vec<String> {
        let mut claims = claims();
        change(&mut claims);
        reference().differences(&claims)
    }

    #[test]
    fn claims_that_match_have_no_difference() {
        assert_eq!(reference().check_shape(), Ok(()));
        assert_eq!(reference().acceptable(&claims()), Ok(()));
        assert_eq!(difference(|_| {}), Vec::<String>::new());
        assert_eq!(difference(|claims| drop(of(claims).insert(pcr(16), value(0)))), Vec::<String>::new());
    }

    fn of(claims: &mut Tpm2Claims) -> &mut BTreeMap<PcrIndex, PcrValue> {
        claims.pcrs.get_mut(&Hash::Sha256).unwrap()
    }

    #[test]
    fn each_difference_is_named() {
        let hex = |byte: &str| byte.repeat(32);
        assert_eq!(
            difference(|claims| drop(of(claims).insert(pcr(0), value(9)))),
            [format!("sha256 PCR 0 `{}`", hex("09"))]
        );
        assert_eq!(difference(|claims| drop(of(claims).remove(&pcr(7)))), ["no sha256 PCR 7"]);
        let bank = |claims: &mut Tpm2Claims| {
            let pcrs = claims.pcrs[&Hash::Sha256].clone();
            claims.pcrs.insert(Hash::Sha384, pcrs);
        };
        assert_eq!(difference(bank), ["bank sha384 is quoted too"]);
        let other_bank = |claims: &mut Tpm2Claims| {
            let pcrs = claims.pcrs.remove(&Hash::Sha256).unwrap();
            claims.pcrs.insert(Hash::Sha384, pcrs);
        };
        assert_eq!(
            difference(other_bank),
            ["bank sha384 is quoted too", "no sha256 PCR 0", "no sha256 PCR 7"]
        );
        assert_eq!(difference(|claims| claims.event_log = None), ["no event of sha256 PCR 4"]);
        let events = |events: Vec<PcrValue>| {
            difference(|claims| {
                let log = claims.event_log.as_mut().unwrap();
                log.events.get_mut(&Hash::Sha256).unwrap().insert(pcr(4), events);
            })
        };
        assert_eq!(events(vec![value(0xa1)]), Vec::<String>::new());
        assert_eq!(events(vec![value(0xa2)]), [format!("sha256 PCR 4 without event `{}`", hex("a1"))]);
        assert_eq!(
            events(vec![value(0xa1), value(0xa3)]),
            [format!("sha256 PCR 4 with event `{}`", hex("a3"))]
        );
        let many = (0..100).map(|byte| value(byte + 0xb)).collect();
        assert_eq!(events(many).len(), EVENTS_NAMED);
    }

    #[test]
    fn nodes_keys_and_firmware_are_held_against_their_lists() {
        let mut reference = reference();
        reference.nodes = Some(["node-2.example".to_owned()].into());
        reference.ek_sha256 = Some(["44".repeat(32)].into());
        reference.firmware_versions = Some(["2019102300163637".to_owned()].into());
        assert_eq!(reference.check_shape(), Ok(()));
        assert_eq!(
            reference.differences(&claims()),
            [
                "node `node-1.example`".to_owned(),
                format!("endorsement key `{}`", "22".repeat(32)),
                "TPM firmware version `2019102300163636`".to_owned(),
            ]
        );
        reference.nodes = Some(["node-1.example".to_owned()].into());
        reference.ek_sha256 = Some(["22".repeat(32)].into());
        reference.firmware_versions = Some(["2019102300163636".to_owned()].into());
        assert_eq!(reference.differences(&claims()), Vec::<String>::new());
    }

    #[test]
    fn a_boot_that_nothing_measured_is_not_acceptable_unless_that_is_said() {
        for byte in [0, 0xff] {
            let mut claims = claims();
            of(&mut claims).insert(pcr(3), value(byte));
            let refusal = reference().acceptable(&claims).unwrap_err();
            assert_eq!(refusal.denial, Denial::PlatformNotAcceptable);
            assert_eq!(Tpm2Reference::default().acceptable(&claims).unwrap_err(), refusal);
            let mut allowing = reference();
            allowing.allow_unmeasured = [pcr(3)].into();
            assert_eq!(allowing.acceptable(&claims), Ok(()));
            allowing.allow_unmeasured = [pcr(2)].into();
            assert_eq!(allowing.acceptable(&claims).unwrap_err(), refusal);
        }
    }

    #[test]
    fn malformed_references_are_refused_by_name() {
        use Tpm2ReferenceError as E;
        type Change = fn(&mut Tpm2Reference);
        let bank = Hash::Sha256;
        let cases: [(Change, E); 16] = [
            (|reference| *reference = Tpm2Reference::default(), E::Boot),
            (
                |reference| {
                    reference.events.clear();
                    reference.pcrs = [(Hash::Sha256, [(pcr(16), [value(1)].into())].into())].into();
                },
                E::Boot,
            ),
            (|reference| drop(reference.pcrs.insert(Hash::Sha384, [].into())), E::ListEmpty("pcrs")),
            (|reference| drop(reference.events.insert(Hash::Sha384, [].into())), E::ListEmpty("events")),
            (|reference| reference.nodes = Some([].into()), E::ListEmpty("nodes")),
            (|reference| reference.ek_sha256 = Some([].into()), E::ListEmpty("ek_sha256")),
            (|reference| reference.firmware_versions = Some([].into()), E::ListEmpty("firmware_versions")),
            (|reference| reference.ek_sha256 = Some(["AA".repeat(32)].into()), E::Hex("ek_sha256")),
            (
                |reference| reference.firmware_versions = Some(["1".into()].into()),
                E::Hex("firmware_versions"),
            ),
            (|reference| reference.allow_unmeasured = [pcr(8)].into(), E::AllowUnmeasured),
            (|reference| pcrs(reference, pcr(2), [].into()), E::PcrEmpty(bank, pcr(2))),
            (|reference| events(reference, pcr(2), EventReference::default()), E::PcrEmpty(bank, pcr(2))),
            (|reference| pcrs(reference, pcr(4), [value(1)].into()), E::PcrTwice(bank, pcr(4))),
            (
                |reference| pcrs(reference, pcr(2), [PcrValue::new(&[1; 48]).unwrap()].into()),
                E::Length(bank, pcr(2)),
            ),
            (|reference| pcrs(reference, pcr(2), [value(0)].into()), E::Unmeasured(bank, pcr(2))),
            (|reference| pcrs(reference, pcr(2), [value(0xff)].into()), E::Unmeasured(bank, pcr(2))),
        ];
        for (change, error) in cases {
            let mut reference = reference();
            change(&mut reference);
            assert_eq!(reference.check_shape(), Err(error));
        }
        let mut reference = reference();
        pcrs(&mut reference, pcr(2), [value(0)].into());
        pcrs(&mut reference, pcr(11), [value(0)].into());
        reference.allow_unmeasured = [pcr(2)].into();
        assert_eq!(reference.check_shape(), Ok(()));
    }

    fn pcrs(reference: &mut Tpm2Reference, at: PcrIndex, values: BTreeSet<PcrValue>) {
        reference.pcrs.get_mut(&Hash::Sha256).unwrap().insert(at, values);
    }

    fn events(reference: &mut Tpm2Reference, at: PcrIndex, events: EventReference) {
        reference.events.get_mut(&Hash::Sha256).unwrap().insert(at, events);
    }

    /// The page's own example, as a set would carry it.
    #[test]
    fn the_operators_example_may_be_put() {
        let page = include_str!("../../deploy/attestation/tpm2.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let mut sets: toml::Value = toml::from_str(example).unwrap();
        let set = sets["set"][0].as_table_mut().unwrap();
        let reference: Tpm2Reference = set.remove("tpm2").unwrap().try_into().unwrap();
        assert_eq!(reference.check_shape(), Ok(()));
        assert!(reference.pcrs.contains_key(&Hash::Sha256) && reference.events.contains_key(&Hash::Sha256));
        let json = serde_json::to_string(&reference).unwrap();
        assert_eq!(serde_json::from_str::<Tpm2Reference>(&json).unwrap(), reference);
        let written = toml::to_string(&reference).unwrap();
        assert_eq!(toml::from_str::<Tpm2Reference>(&written).unwrap(), reference);
        assert!(toml::from_str::<Tpm2Reference>(&(written + "\nunknown = 1\n")).is_err());
    }
}
