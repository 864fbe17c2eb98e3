//! Denials that were later followed by a delivered release: the trace of retries, which Portcullis exists to have none of.
//!
//! *Takes* records in order. *Gives* [`Flip`]s: same identity, same secret, denied, then released. *Denies* nothing
//! itself. *Source*: the "Audit" paragraph; NIST SP 800-53 AU-6.
//!
//! Where a latch held, the flip also names the refusal that it repeated: that is what was later no longer so.
//!
//! A release counts once it can be taken as delivered: no `Undelivered`, and no `Denied` with its own id (a record in
//! doubt, see [`super::log`]), followed within [`DELIVERY_MS`]. Memory is bounded: what is forgotten for that is counted.

use super::log::Sequence;
use super::record::{Event, Record};
use crate::case::Case;
use crate::denial::Denial;
use crate::spiffe::SpiffeId;
use crate::time::WallTime;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A denial and the delivered release that followed it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Flip {
    /// Who.
    pub identity: SpiffeId,
    /// Which secret.
    pub secret: String,
    /// The last denial before the release.
    pub denial: Denial,
    /// Its decision id.
    pub denied_id: String,
    /// Its number in the log.
    pub denied: Sequence,
    /// Where the last denial is a latch's: the refusal that it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Denials of this identity and secret since the release before, this one included.
    pub denials: u64,
    /// The release's decision id.
    pub released_id: String,
    /// Its number in the log.
    pub released: Sequence,
    /// From the denial to the release, milliseconds by the wall clock.
    pub between_ms: u64,
}

/// The refusal that a latch repeats.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cause {
    /// Its decision id.
    pub id: String,
    /// What it was; none where it lies before the records that are remembered, or before the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// What a refusal was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// Why.
    pub denial: Denial,
    /// Its number in the log.
    pub sequence: Sequence,
}

/// Looks for flips in records that are given in order.
#[derive(Default)]
pub struct Flips {
    denied: BTreeMap<Key, Denials>,
    /// The same keys, the one longest without a denial first.
    oldest: BTreeSet<(Sequence, Key)>,
    pending: VecDeque<Pending>,
    /// The ids of the releases that wait.
    waiting: BTreeSet<String>,
    /// Refusals that latch, by decision id; and the same ids, the oldest first.
    refusals: BTreeMap<String, Refusal>,
    refused: VecDeque<String>,
    forgotten: u64,
}

type Key = (SpiffeId, String);

#[derive(Clone)]
struct Denials {
    denial: Denial,
    id: String,
    sequence: Sequence,
    time: WallTime,
    cause: Option<Cause>,
    count: u64,
}

struct Pending {
    key: Key,
    before: Denials,
    released_id: String,
    released: Sequence,
    time: WallTime,
}

impl Flips {
    /// None seen yet.
    pub fn new() -> Self {
        Flips::default()
    }

    /// Takes the next record. Returns the flips that it makes certain.
    pub fn push(&mut self, sequence: Sequence, record: &Record) -> Vec<Flip> {
        match &record.event {
            Event::Denied { denial, case, repeats, .. } => {
                self.withdraw(&record.id);
                self.note_refusal(&record.id, Refusal { denial: *denial, sequence });
                let cause = repeats.as_ref().map(|id| self.cause(id));
                for key in keys(case, case.refused_secret.as_deref()) {
                    let (id, time, cause) = (record.id.clone(), record.time, cause.clone());
                    self.deny(key, Denials { denial: *denial, id, sequence, time, cause, count: 1 });
                }
            }
            Event::Released { case, .. } | Event::Renewed { case, .. } => {
                for key in keys(case, None) {
                    self.release(key, sequence, record);
                }
            }
            Event::Undelivered { decision_id, .. } => self.withdraw(decision_id),
            _ => {}
        }
        self.certain(record.time)
    }

    /// The log has ended: what is not withdrawn by now counts.
    pub fn finish(&mut self) -> Vec<Flip> {
        self.waiting.clear();
        self.pending.drain(..).map(Pending::flip).collect()
    }

    /// Denials that were forgotten because more than [`REMEMBERED`] identities and secrets were denied: flips may be
    /// missing.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn deny(&mut self, key: Key, denied: Denials) {
        let earlier = self.forget(&key).map_or(0, |earlier| earlier.count);
        self.remember(key, Denials { count: earlier.saturating_add(denied.count), ..denied });
    }

    /// A hold lasts a quarter of an hour at most, so those that one may still repeat are among the latest.
    fn note_refusal(&mut self, id: &str, refusal: Refusal) {
        if !refusal.denial.latches() || self.refusals.insert(id.to_owned(), refusal).is_some() {
            return;
        }
        self.refused.push_back(id.to_owned());
        if self.refused.len() > REMEMBERED
            && let Some(oldest) = self.refused.pop_front()
        {
            self.refusals.remove(&oldest);
        }
    }

    fn cause(&self, id: &str) -> Cause {
        Cause { id: id.to_owned(), refusal: self.refusals.get(id).copied() }
    }

    fn release(&mut self, key: Key, released: Sequence, record: &Record) {
        if let Some(before) = self.forget(&key) {
            let released_id = record.id.clone();
            self.waiting.insert(released_id.clone());
            self.pending.push_back(Pending { key, before, released_id, released, time: record.time });
        }
    }

    /// The release of that id was not delivered: the denials before it stand again, beside any since.
    fn withdraw(&mut self, released_id: &str) {
        if !self.waiting.remove(released_id) {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        for release in pending {
            if release.released_id != released_id {
                self.pending.push_back(release);
                continue;
            }
            let stands = match self.forget(&release.key) {
                Some(since) => Denials { count: since.count.saturating_add(release.before.count), ..since },
                None => release.before,
            };
            self.remember(release.key, stands);
        }
    }

    fn remember(&mut self, key: Key, denials: Denials) {
        self.oldest.insert((denials.sequence, key.clone()));
        self.denied.insert(key, denials);
        if self.denied.len() > REMEMBERED
            && let Some((_, oldest)) = self.oldest.pop_first()
            && let Some(gone) = self.denied.remove(&oldest)
        {
            self.forgotten = self.forgotten.saturating_add(gone.count);
        }
    }

    fn forget(&mut self, key: &Key) -> Option<Denials> {
        let denials = self.denied.remove(key)?;
        self.oldest.remove(&(denials.sequence, key.clone()));
        Some(denials)
    }

    /// The flips that are certain by `now`, though no record came.
    pub fn certain(&mut self, now: WallTime) -> Vec<Flip> {
        let mut flips = Vec::new();
        while let Some(first) = self.pending.front() {
            let old = now.since(first.time) > DELIVERY_MS;
            if !old && self.pending.len() <= REMEMBERED {
                break;
            }
            self.waiting.remove(&first.released_id);
            flips.extend(self.pending.pop_front().map(Pending::flip));
        }
        flips
    }
}

impl Pending {
    fn flip(self) -> Flip {
        let (identity, secret) = self.key;
        Flip {
            identity,
            secret,
            denial: self.before.denial,
            denied_id: self.before.id,
            denied: self.before.sequence,
            cause: self.before.cause,
            denials: self.before.count,
            released_id: self.released_id,
            released: self.released,
            between_ms: self.time.since(self.before.time),
        }
    }
}

/// The identity with each secret: the one refused, where it is one, or all of the request.
fn keys(case: &Case, only: Option<&str>) -> Vec<Key> {
    let Some(identity) = &case.identity else { return Vec::new() };
    let paths = case.secrets.iter().map(|secret| secret.path.as_str());
    let paths = paths.filter(|path| only.is_none_or(|only| only == *path));
    paths.map(|path| (identity.clone(), path.to_owned())).collect()
}

/// A release without a word against it for so long was delivered, milliseconds: longer than any stream's drain.
pub const DELIVERY_MS: u64 = 600_000;
/// Identities and secrets that are remembered, refusals, and releases that wait: some 20 MiB each.
pub const REMEMBERED: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::log::tests::with;
    use crate::audit::show::tests::{PAY, WEB, case, denied, released};

    fn flips(records: &[Record]) -> Vec<Flip> {
        let mut flips = Flips::new();
        let mut found = Vec::new();
        for (sequence, record) in (0..).zip(records) {
            found.extend(flips.push(Sequence(sequence), record));
        }
        found.extend(flips.finish());
        assert_eq!(flips.forgotten(), 0);
        found
    }

    fn undelivered(number: u64, of: u64) -> Record {
        let decision_id = format!("{of:032x}");
        with(number, Event::Undelivered { decision_id, lease_id: "lease".into(), detail: "reset".into() })
    }

    fn held(number: u64, repeats: u64, case: Case) -> Record {
        let Event::Denied { denial, class, reason, latches, .. } =
            denied(number, Denial::LatchHolds, case.clone()).event
        else {
            panic!("no denial")
        };
        let repeats = Some(format!("{repeats:032x}"));
        with(number, Event::Denied { denial, class, reason, case, latches, repeats })
    }

    #[test]
    fn a_latch_is_shown_with_the_refusal_that_it_repeats() {
        let found = flips(&[
            denied(0, Denial::MeasurementMismatch, case(PAY, "kv/a")),
            // Another subject of the same identity: its refusal is not what the first one's latch repeats.
            denied(1, Denial::PolicyForbids, case(PAY, "kv/a")),
            denied(2, Denial::EvidenceMalformed, case(PAY, "kv/a")),
            held(3, 0, case(PAY, "kv/a")),
            held(4, 0, case(PAY, "kv/a")),
            released(5, case(PAY, "kv/a")),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].denial, found[0].denied, found[0].denials),
            (Denial::LatchHolds, Sequence(4), 5)
        );
        let refusal = Refusal { denial: Denial::MeasurementMismatch, sequence: Sequence(0) };
        assert_eq!(found[0].cause, Some(Cause { id: format!("{:032x}", 0), refusal: Some(refusal) }));
    }

    #[test]
    fn a_cause_that_is_not_in_the_log_is_named_by_its_id_alone() {
        let found = flips(&[held(1, 0, case(PAY, "kv/a")), released(2, case(PAY, "kv/a"))]);
        assert_eq!(found[0].cause, Some(Cause { id: format!("{:032x}", 0), refusal: None }));
    }

    #[test]
    fn the_latest_refusals_are_remembered_and_no_more() {
        let mut flips = Flips::new();
        for number in 0..=REMEMBERED as u64 {
            flips.push(Sequence(number), &denied(number, Denial::PolicyForbids, case(PAY, "kv/a")));
        }
        assert_eq!((flips.refusals.len(), flips.refused.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(flips.cause(&format!("{:032x}", 0)).refusal, None);
        assert!(flips.cause(&format!("{:032x}", 1)).refusal.is_some());
    }

    #[test]
    fn a_denial_followed_by_a_release_is_a_flip_with_all_its_facts() {
        let found = flips(&[
            denied(0, Denial::LatchHolds, case(PAY, "kv/a")),
            denied(1, Denial::PolicyForbids, case(PAY, "kv/a")),
            released(4, case(PAY, "kv/a")),
        ]);
        let flip = Flip {
            identity: SpiffeId::parse(PAY).unwrap(),
            secret: "kv/a".into(),
            denial: Denial::PolicyForbids,
            denied_id: format!("{:032x}", 1),
            denied: Sequence(1),
            cause: None,
            denials: 2,
            released_id: format!("{:032x}", 4),
            released: Sequence(2),
            between_ms: 3000,
        };
        assert_eq!(found, [flip]);
    }

    #[test]
    fn another_identity_another_secret_or_the_other_order_is_none() {
        let found = flips(&[
            released(0, case(PAY, "kv/a")),
            denied(1, Denial::PolicyForbids, case(PAY, "kv/a")),
            released(2, case(WEB, "kv/a")),
            released(3, case(PAY, "kv/b")),
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn a_release_counts_once() {
        let found = flips(&[
            denied(0, Denial::PolicyForbids, case(PAY, "kv/a")),
            released(1, case(PAY, "kv/a")),
            released(2, case(PAY, "kv/a")),
        ]);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn an_undelivered_release_is_none_and_the_next_delivered_one_is() {
        let lost = [
            denied(0, Denial::PolicyForbids, case(PAY, "kv/a")),
            released(1, case(PAY, "kv/a")),
            undelivered(2, 1),
        ];
        assert_eq!(flips(&lost), []);
        let mut then = lost.to_vec();
        then.push(released(3, case(PAY, "kv/a")));
        let found = flips(&then);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].denied, found[0].released, found[0].between_ms),
            (Sequence(0), Sequence(3), 3000)
        );
    }

    #[test]
    fn a_release_in_doubt_that_its_own_request_denied_is_none() {
        let mut denial = denied(2, Denial::AuditUnavailable, case(PAY, "kv/a"));
        denial.id = format!("{:032x}", 1);
        let found = flips(&[
            denied(0, Denial::PolicyForbids, case(PAY, "kv/a")),
            released(1, case(PAY, "kv/a")),
            denial,
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn only_the_refused_secret_of_a_request_was_denied() {
        let mut both = case(PAY, "kv/a");
        both.secrets.extend(case(PAY, "kv/b").secrets);
        both.refused_secret = Some("kv/b".into());
        let records = [
            denied(0, Denial::SecretDisabled, both),
            released(1, case(PAY, "kv/a")),
            released(2, case(PAY, "kv/b")),
        ];
        let found = flips(&records);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].secret, "kv/b");
    }

    #[test]
    fn a_flip_is_certain_once_its_delivery_can_no_longer_be_withdrawn() {
        let mut flips = Flips::new();
        assert!(flips.push(Sequence(0), &denied(0, Denial::PolicyForbids, case(PAY, "kv/a"))).is_empty());
        assert!(flips.push(Sequence(1), &released(1, case(PAY, "kv/a"))).is_empty());
        let within = with(1 + DELIVERY_MS / 1000, Event::Stopped {});
        assert!(flips.push(Sequence(2), &within).is_empty());
        let later = with(2 + DELIVERY_MS / 1000, Event::Stopped {});
        assert_eq!(flips.push(Sequence(3), &later).len(), 1);
        assert!(flips.finish().is_empty());
    }

    #[test]
    fn what_is_forgotten_is_counted() {
        let mut flips = Flips::new();
        for number in 0..=REMEMBERED as u64 {
            let record = denied(number, Denial::PolicyForbids, case(PAY, &format!("kv/{number}")));
            flips.push(Sequence(number), &record);
        }
        assert_eq!((flips.forgotten(), flips.denied.len()), (1, REMEMBERED));
        assert_eq!(flips.oldest.len(), REMEMBERED);
    }
}
