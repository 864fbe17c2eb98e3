//! What every format's verifier says: each check by name, why it refused, and until when its verdict could hold.
//!
//! *Takes* the outcome of one check after another. *Gives* [`Checks`], [`Refusal`], [`Ends`]. *Denies* nothing itself; a
//! [`Refusal`] carries the denial. *Source*: RFC 9334 §8.4; `evidence.md` §1.

use crate::denial::Denial;
use crate::time::{Now, WallTime};
use serde::Serialize;

/// Why a document was refused: the denial, and a line for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The denial.
    pub denial: Denial,
    /// What was wrong, without any of the evidence's bytes.
    pub detail: String,
}

impl Refusal {
    /// A refusal by `denial`.
    pub fn new(denial: Denial, detail: impl Into<String>) -> Self {
        Refusal { denial, detail: detail.into() }
    }
}

/// How one check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Refused {
        /// The denial's name.
        denial: String,
        /// Why.
        detail: String,
    },
    /// It could not be decided: something is missing or stale.
    Undecided {
        /// The denial's name.
        denial: String,
        /// What is missing.
        detail: String,
    },
}

/// One check of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, such as `signature`.
    pub name: &'static str,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The checks of one document in their order; after the first that did not pass none follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Checks(Vec<Check>);

impl Checks {
    /// None yet.
    pub fn new() -> Self {
        Checks::default()
    }

    /// Notes how `outcome` ended under `name`, and hands it on.
    pub fn note<T>(&mut self, name: &'static str, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        let noted = match &outcome {
            Ok(_) => Outcome::Passed,
            Err(refusal) => {
                let (denial, detail) = (refusal.denial.name().to_owned(), refusal.detail.clone());
                match refusal.denial.class() {
                    crate::denial::Class::Refused => Outcome::Refused { denial, detail },
                    crate::denial::Class::Uncertain => Outcome::Undecided { denial, detail },
                }
            }
        };
        self.0.push(Check { name, outcome: noted });
        outcome
    }

    /// The checks so far.
    pub fn all(&self) -> &[Check] {
        &self.0
    }
}

/// The ends of everything that a verdict rests on, each exclusive and by name; never without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends(Vec<(String, WallTime)>);

impl Ends {
    /// One end to begin with, such as `("leaf certificate", …)`.
    pub fn of(what: impl Into<String>, end: WallTime) -> Self {
        Ends(vec![(what.into(), end)])
    }

    /// Another end.
    pub fn and(mut self, what: impl Into<String>, end: WallTime) -> Self {
        self.0.push((what.into(), end));
        self
    }

    /// All ends of another verdict, too.
    pub fn and_all(mut self, other: Ends) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Every end, in the order in which they were given.
    pub fn all(&self) -> impl Iterator<Item = (&str, WallTime)> {
        self.0.iter().map(|(what, end)| (what.as_str(), *end))
    }

    /// The first end: what limits the verdict, and from when on it does not hold any more.
    pub fn first(&self) -> (&str, WallTime) {
        let first = self.0.iter().min_by_key(|(_, end)| *end);
        first.map_or(("nothing", WallTime(0)), |(what, end)| (what.as_str(), *end))
    }

    /// Whether one of them has passed: **denies** `denial`.
    pub fn check(&self, now: Now, denial: Denial) -> Result<(), Refusal> {
        match self.first() {
            (_, end) if now.wall < end => Ok(()),
            (what, end) => Err(Refusal::new(denial, format!("{what} ended at {end}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::BootTime;

    #[test]
    fn a_check_is_noted_with_its_class_and_handed_on() {
        let mut checks = Checks::new();
        assert_eq!(checks.note("length", Ok(7)), Ok(7));
        let refused = Refusal::new(Denial::EvidenceMalformed, "short");
        assert_eq!(checks.note::<()>("signature", Err(refused.clone())), Err(refused));
        let stale = Refusal::new(Denial::CollateralStale, "TCB info");
        assert!(checks.note::<()>("collateral", Err(stale)).is_err());
        let outcomes: Vec<&Outcome> = checks.all().iter().map(|check| &check.outcome).collect();
        assert!(matches!(outcomes[0], Outcome::Passed));
        assert!(matches!(outcomes[1], Outcome::Refused { denial, .. } if denial == "EvidenceMalformed"));
        assert!(matches!(outcomes[2], Outcome::Undecided { detail, .. } if detail == "TCB info"));
    }

    #[test]
    fn the_first_end_limits_and_is_exclusive() {
        let ends = Ends::of("leaf", WallTime(20)).and("list", WallTime(10));
        assert_eq!(ends.first(), ("list", WallTime(10)));
        assert_eq!(ends.all().collect::<Vec<_>>(), [("leaf", WallTime(20)), ("list", WallTime(10))]);
        let at = |wall| Now { wall: WallTime(wall), boot: BootTime(0) };
        assert_eq!(ends.check(at(9), Denial::EndorsementExpired), Ok(()));
        let refusal = ends.check(at(10), Denial::EndorsementExpired).unwrap_err();
        assert_eq!(refusal.denial, Denial::EndorsementExpired);
        assert!(refusal.detail.starts_with("list ended"));
    }
}
