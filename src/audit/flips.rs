//! Denials that were later followed by a delivered release: the trace of retries, which Portcullis exists to have none of.
//!
//! *Takes* records in order. *Gives* [`Flip`]s: same identity, same secret, denied, then released. *Denies* nothing
//! itself. *Source*: the "Audit" paragraph; NIST SP 800-53 AU-6.
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
    /// Denials of this identity and secret since the release before, this one included.
    pub denials: u64,
    /// The release's decision id.
    pub released_id: String,
    /// Its number in the log.
    pub released: Sequence,
    /// From the denial to the release, milliseconds by the wall clock.
    pub between_ms: u64,
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
    forgotten: u64,
}

type Key = (SpiffeId, String);

#[derive(Clone)]
struct Denials {
    denial: Denial,
    id: String,
    sequence: Sequence,
    time: WallTime,
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
            Event::Denied { denial, case, .. } => {
                self.withdraw(&record.id);
                for key in keys(case, case.refused_secret.as_deref()) {
                    self.deny(key, *denial, sequence, record);
                }
            }
            Event::Released { case, .. } => {
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

    fn deny(&mut self, key: Key, denial: Denial, sequence: Sequence, record: &Record) {
        let earlier = self.forget(&key).map_or(0, |earlier| earlier.count);
        let count = earlier.saturating_add(1);
        self.remember(key, Denials { denial, id: record.id.clone(), sequence, time: record.time, count });
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

    fn certain(&mut self, now: WallTime) -> Vec<Flip> {
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
/// Identities and secrets that are remembered, and releases that wait: some 20 MiB each.
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
