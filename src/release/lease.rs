//! The leases that stand: every release is one, with an id and an end.
//!
//! Rebuilt at start from the audit log, where each release stands before it happens; a lease ends when either clock says so.

use crate::spiffe::SpiffeId;
use crate::time::{BootTime, Now, WallTime};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// `[A-Za-z0-9_-]{16,64}`.
    pub id: String,
    /// Who holds it.
    pub identity: SpiffeId,
    /// SHA-256 of the holder's leaf SPKI, hex.
    pub key_sha256: String,
    /// The secrets and versions.
    pub secrets: Vec<(String, u64)>,
    /// When it ends, wall clock.
    pub not_after: WallTime,
    /// When it ends, boot clock.
    pub not_after_boot: BootTime,
    /// The record of its release.
    pub decision_id: String,
}

/// All leases that have not ended.
#[derive(Default)]
pub struct Leases {
    book: Mutex<Book>,
}

/// A busy broker holds a million: what has ended is found by its end, never by looking at all.
#[derive(Default)]
struct Book {
    by_id: HashMap<String, Lease>,
    /// Held leases, and what their streams hear by once they end.
    held: HashMap<String, oneshot::Sender<()>>,
    /// Ends by the boot clock, and whose; what ended before its time is still here, and means nothing.
    ends: BinaryHeap<Reverse<(BootTime, String)>>,
}

impl Leases {
    /// Enters a lease.
    pub fn enter(&self, lease: Lease) {
        let mut book = self.book();
        book.ends.push(Reverse((lease.not_after_boot, lease.id.clone())));
        book.by_id.insert(lease.id.clone(), lease);
    }

    /// Enters a lease that a stream holds; the receiver is told of its end.
    pub fn hold(&self, lease: Lease) -> oneshot::Receiver<()> {
        let (ends, ended) = oneshot::channel();
        self.book().held.insert(lease.id.clone(), ends);
        self.enter(lease);
        ended
    }

    /// Moves the end of a lease that stands. False where none does: it has ended, and nothing revives it.
    pub fn renew(&self, id: &str, not_after: WallTime, not_after_boot: BootTime, now: Now) -> bool {
        let mut book = self.book();
        let Some(lease) = book.by_id.get_mut(id).filter(|lease| lease.stands(now)) else { return false };
        (lease.not_after, lease.not_after_boot) = (not_after, not_after_boot);
        book.ends.push(Reverse((not_after_boot, id.to_owned())));
        true
    }

    /// The stream of a held lease is gone: the lease is like any other, and ends at its end.
    pub fn let_go(&self, id: &str) {
        self.book().held.remove(id);
    }

    /// Ends one; none where there is none of that id.
    pub fn end(&self, id: &str) -> Option<Lease> {
        let mut book = self.book();
        book.held.remove(id);
        book.by_id.remove(id)
    }

    /// One that is remembered.
    pub fn find(&self, id: &str) -> Option<Lease> {
        self.book().by_id.get(id).cloned()
    }

    /// How many are held by a stream.
    pub fn held(&self) -> usize {
        self.book().held.len()
    }

    /// Those that stand now, by id.
    pub fn standing(&self, now: Now) -> Vec<Lease> {
        let mut standing: Vec<Lease> =
            self.book().by_id.values().filter(|lease| lease.stands(now)).cloned().collect();
        standing.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        standing
    }

    /// How many are remembered.
    pub fn count(&self) -> usize {
        self.book().by_id.len()
    }

    /// Forgets those that have ended by the boot clock; to be called about once a second.
    pub fn forget_ended(&self, now: Now) {
        let mut book = self.book();
        while let Some(Reverse((end, _))) = book.ends.peek() {
            if now.boot < *end {
                return;
            }
            let Some(Reverse((_, id))) = book.ends.pop() else { return };
            // Of one that was renewed, an earlier end means nothing.
            if book.by_id.get(&id).is_some_and(|lease| lease.not_after_boot <= now.boot) {
                book.by_id.remove(&id);
                book.held.remove(&id);
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Whether it has not ended by either clock.
    pub fn stands(&self, now: Now) -> bool {
        now.wall < self.not_after && now.boot < self.not_after_boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: &str) -> Lease {
        Lease {
            id: id.into(),
            identity: SpiffeId::parse("spiffe://example.org/a").unwrap(),
            key_sha256: String::new(),
            secrets: vec![],
            not_after: WallTime(2000),
            not_after_boot: BootTime(1000),
            decision_id: String::new(),
        }
    }

    #[test]
    fn a_lease_ends_by_either_clock() {
        let leases = Leases::default();
        leases.enter(lease("a"));
        let at = |wall, boot| Now { wall: WallTime(wall), boot: BootTime(boot) };
        assert_eq!(leases.standing(at(1999, 999)).len(), 1);
        assert_eq!(leases.standing(at(2000, 0)).len(), 0);
        assert_eq!(leases.standing(at(0, 1000)).len(), 0);
        leases.forget_ended(at(0, 999));
        assert_eq!(leases.count(), 1);
        leases.forget_ended(at(0, 1000));
        assert_eq!(leases.count(), 0);
    }

    #[test]
    fn a_renewed_lease_is_kept_past_its_first_end_and_never_revived() {
        let leases = Leases::default();
        let mut ended = leases.hold(lease("a"));
        let at = |boot| Now { wall: WallTime(boot), boot: BootTime(boot) };
        assert!(leases.renew("a", WallTime(5000), BootTime(3000), at(999)));
        leases.forget_ended(at(1000));
        assert_eq!((leases.count(), leases.held()), (1, 1));
        assert!(!leases.renew("a", WallTime(9000), BootTime(9000), at(3000)), "it has ended");
        leases.forget_ended(at(3000));
        assert_eq!((leases.count(), leases.held()), (0, 0));
        assert!(ended.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(!leases.renew("a", WallTime(9000), BootTime(9000), at(0)), "there is none");
    }

    #[test]
    fn whoever_holds_a_lease_hears_of_its_end_and_not_of_being_let_go() {
        let leases = Leases::default();
        let mut ended = leases.hold(lease("a"));
        assert_eq!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert!(leases.end("a").is_some());
        assert_eq!(ended.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        drop(leases.hold(lease("b")));
        leases.let_go("b");
        assert_eq!((leases.count(), leases.held()), (1, 0));
    }

    #[test]
    fn leases_are_forgotten_at_their_ends_whatever_ended_before() {
        let leases = Leases::default();
        for (id, end) in [("c", 30), ("a", 10), ("b", 20)] {
            leases.enter(Lease { not_after_boot: BootTime(end), ..lease(id) });
        }
        let at = |boot| Now { wall: WallTime(0), boot: BootTime(boot) };
        assert_eq!(leases.end("a").map(|lease| lease.id), Some("a".to_owned()));
        leases.forget_ended(at(10));
        assert_eq!(leases.count(), 2);
        leases.forget_ended(at(20));
        let left: Vec<String> = leases.standing(at(20)).into_iter().map(|lease| lease.id).collect();
        assert_eq!(left, ["c"]);
    }
}
