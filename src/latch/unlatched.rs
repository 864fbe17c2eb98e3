//! The witness that no earlier refusal stands, and the book behind it.

use crate::audit::record::{LatchKey, LatchSet};
use crate::case::{Case, Denied, Stage};
use crate::denial::Denial;
use crate::evidence::VerifiedEvidence;
use crate::freshness::CurrentEvidence;
use crate::latch::book::{Hold, LatchBook};
use crate::time::{Now, WallTime};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The latches of this broker.
#[derive(Default)]
pub struct Latches {
    book: Mutex<LatchBook>,
}

/// Current evidence whose subject no earlier refusal holds, for any secret of this request.
///
/// Nobody but [`Latches::check`] makes one:
/// ```compile_fail
/// let forged = portcullis::latch::Unlatched {};
/// ```
#[must_use]
pub struct Unlatched {
    current: CurrentEvidence,
}

impl Latches {
    /// Latches with these holds, rebuilt from the log.
    pub fn new(book: LatchBook) -> Self {
        Latches { book: Mutex::new(book) }
    }

    /// **Denies** `LatchHolds` where a refusal of this subject stands for any secret asked for; its record's id goes into
    /// the case as `detail`, and the attempt lengthens nothing. Rounds of a held lease are not answered from a latch.
    pub fn check(&self, mut current: CurrentEvidence, now: Now) -> Result<Unlatched, Denied> {
        current.evidence_mut().case_mut().stage = Stage::Latch;
        let later_round = current.evidence().held().is_some();
        let held = if later_round { None } else { self.held(current.evidence().case(), now) };
        match held {
            None => Ok(Unlatched { current }),
            Some((secret, record)) => {
                let mut case = current.into_evidence().into_case();
                case.refused_secret = Some(secret);
                Err(case.deny_because(Denial::LatchHolds, record))
            }
        }
    }

    /// Begins or lengthens the holds of a refusal: for the secret that caused it, or for all of the request where it was
    /// the evidence. Record `record` will tell of it.
    pub fn refuse(&self, denied: &Denied, record: &str, now: Now) -> Vec<LatchSet> {
        // Evidence that did not verify has no subject, and a hold on none would be one on all: some verifiers find a platform
        // unacceptable before they are done.
        if !denied.denial.latches() || denied.case.subject.is_empty() {
            return Vec::new();
        }
        let rests_on = rests_on(denied);
        let mut book = self.book();
        let about = denied.case.refused_secret.as_deref();
        keys(&denied.case, about).map(|key| book.refuse(key, record, rests_on.clone(), now)).collect()
    }

    /// Ends one hold.
    pub fn clear(&self, key: &LatchKey) -> bool {
        self.book().clear(key)
    }

    /// The holds that an act which changes `what` ends.
    pub fn resting_on(&self, what: &str) -> Vec<LatchKey> {
        self.book().resting_on(what)
    }

    /// Every hold that is still remembered, ended or not.
    pub fn all(&self) -> Vec<Hold> {
        self.book().all().collect()
    }

    fn held(&self, case: &Case, now: Now) -> Option<(String, String)> {
        let book = self.book();
        keys(case, None).find_map(|key| {
            let record = book.holds(&key, now)?.to_owned();
            Some((key.secret, record))
        })
    }

    fn book(&self) -> MutexGuard<'_, LatchBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unlatched {
    /// The evidence.
    pub fn evidence(&self) -> &VerifiedEvidence {
        self.current.evidence()
    }

    /// The evidence, for a later stage.
    pub fn evidence_mut(&mut self) -> &mut VerifiedEvidence {
        self.current.evidence_mut()
    }

    /// The earliest end of all that this rests on, exclusive.
    pub fn usable_until(&self) -> WallTime {
        self.current.usable_until()
    }

    /// Gives the witness up for its record.
    pub fn into_case(self) -> Box<Case> {
        self.current.into_evidence().into_case()
    }
}

/// One key for each secret that is meant: the one named, or all of the request.
fn keys<'a>(case: &'a Case, about: Option<&'a str>) -> impl Iterator<Item = LatchKey> + 'a {
    let paths = case.secrets.iter().map(|secret| &secret.path);
    paths.filter(move |path| about.is_none_or(|about| about == path.as_str())).filter_map(|path| {
        let identity = case.identity.clone()?;
        Some(LatchKey { identity, subject: case.subject.clone(), secret: path.clone() })
    })
}

/// What a refusal rests on, by the names that administrators' acts use.
fn rests_on(denied: &Denied) -> Vec<String> {
    let case = &denied.case;
    let mut on = vec!["policy".to_owned()];
    if denied.case.stage < Stage::Policy {
        on = vec!["reference".to_owned()];
    }
    on.extend(case.refused_secret.iter().map(|path| format!("secret:{path}")));
    on.extend(case.node.iter().map(|node| format!("node:{node}")));
    on
}
