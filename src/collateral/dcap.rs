//! What is held of Intel's: TCB infos, QE identities, revocation lists.
//!
//! *Takes* genuine parts. *Gives* [`TdxTrust`] for one quote. *Denies* nothing itself. *Source*: Intel PCS API version 4;
//! `evidence.md` §5.

use super::failure::Failure;
use super::held::Held;
use super::item::Item;
use crate::evidence::tdx::{self, Age, GenuineError, GenuinePart, Question, Quote, TdxTrust};
use crate::limits;
use crate::time::{Now, WallTime};
use std::collections::BTreeMap;

/// All of it, under the operator's trust.
pub(super) struct DcapHeld {
    base: TdxTrust,
    parts: BTreeMap<Question, Held<GenuinePart>>,
}

impl DcapHeld {
    pub(super) fn new(base: TdxTrust) -> Self {
        DcapHeld { base, parts: BTreeMap::new() }
    }

    /// The operator's trust.
    pub(super) fn base(&self) -> &TdxTrust {
        &self.base
    }

    /// Swaps the operator's trust; what is held and is not genuine under the new one goes.
    pub(super) fn rebase(&mut self, base: TdxTrust, now: Now) {
        self.parts.retain(|_, held| base.genuine_parts(held.part().json().as_bytes(), now).is_ok());
        self.base = base;
    }

    /// The trust for one quote: the operator's, with what is held of the four parts that the quote's platform needs.
    pub(super) fn trust_for(&self, quote: &Quote<'_>, now: Now) -> TdxTrust {
        let Ok(platform) = tdx::platform(quote) else { return self.base.clone() };
        let held = platform.questions().into_iter().filter_map(|question| self.parts.get(&question));
        let usable = held.filter_map(|held| held.for_verifier(now));
        usable.fold(self.base.clone(), |trust, part| trust.with_collateral(part.collateral().clone()))
    }

    /// Takes a part in, unless it is older than what is held, or was ever seen: nobody goes back behind a TCB recovery.
    pub(super) fn take(&mut self, part: GenuinePart, oldest: Age, now: Now) -> Result<(), Failure> {
        let question = part.question();
        if part.age() < oldest {
            return Err(Failure::Older);
        }
        if self.parts.get(&question).is_some_and(|held| part.is_older_than(held.part())) {
            return Err(Failure::Older);
        }
        self.put(part, now);
        Ok(())
    }

    /// Takes a part in, in whatever one's place.
    pub(super) fn put(&mut self, part: GenuinePart, now: Now) {
        let question = part.question();
        if self.parts.len() >= limits::DCAP_KEPT_PARTS && !self.parts.contains_key(&question) {
            let first = self.parts.iter().min_by_key(|(_, held)| held.ends()).map(|(first, _)| *first);
            first.and_then(|first| self.parts.remove(&first));
        }
        let (issued, ends) = (part.part().issued, part.ends());
        self.parts.insert(question, Held::new(part, issued, ends, now));
    }

    /// Whether an item is held and current; none where it is not held.
    pub(super) fn is_current(&self, question: &Question, now: Now) -> Option<bool> {
        self.parts.get(question).map(|held| held.is_current(now))
    }

    /// How new each part is, for whoever keeps that durably.
    pub(super) fn ages(&self) -> Vec<(Question, Age)> {
        self.parts.iter().map(|(question, held)| (*question, held.part().age())).collect()
    }

    /// Everything that is held, with its issue, its obtaining and its end.
    pub(super) fn all(&self) -> Vec<(Item, WallTime, Now, WallTime)> {
        let row = |(question, held): (&Question, &Held<GenuinePart>)| {
            (Item::Dcap(*question), held.issued(), held.obtained(), held.ends())
        };
        self.parts.iter().map(row).collect()
    }

    /// The parts for which a newer one is due.
    pub(super) fn due(&self, now: Now, every_ms: u64, ahead_ms: u64) -> Vec<Item> {
        let due = self.parts.iter().filter(|(_, held)| held.is_due(now, every_ms, ahead_ms));
        due.map(|(question, _)| Item::Dcap(*question)).collect()
    }
}

impl From<GenuineError> for Failure {
    fn from(error: GenuineError) -> Self {
        match error {
            GenuineError::Collateral(error) => Failure::WrongContent(error.to_string()),
            GenuineError::Refused(refusal) => Failure::Untrusted(refusal.detail),
        }
    }
}
