//! The only place that asks the time.
//!
//! *Takes* CLOCK_REALTIME, CLOCK_BOOTTIME and the boot id. *Gives* [`Now`], which every stage takes as an argument.
//! *Denies* `ClockSuspect` where the two clocks disagree, where one cannot be read, or where the time is before one
//! already seen. *Source*: `durability.md` "Time".

mod rfc3339;

use crate::limits;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Milliseconds since the Unix epoch, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct WallTime(pub u64);

/// Milliseconds since boot, suspended time included.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct BootTime(pub u64);

/// One reading of both clocks, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_REALTIME.
    pub wall: WallTime,
    /// CLOCK_BOOTTIME.
    pub boot: BootTime,
}

impl WallTime {
    /// From whole Unix seconds; what lies before the epoch is the epoch.
    pub fn from_seconds(seconds: i64) -> Self {
        WallTime(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
    }

    /// Whole seconds since the epoch.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This time and `milliseconds` more, at most the end of time.
    pub fn plus(self, milliseconds: u64) -> Self {
        WallTime(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to this; 0 where it is later.
    pub fn since(self, earlier: WallTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl BootTime {
    /// This time and `milliseconds` more.
    pub fn plus(self, milliseconds: u64) -> Self {
        BootTime(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to this; 0 where it is later.
    pub fn since(self, earlier: BootTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A value that can go stale: it gives itself out only against a clock reading, so no expiry can be stored and not read.
#[derive(Clone, Debug)]
pub struct Fresh<T> {
    value: T,
    obtained: Now,
    usable_until: WallTime,
    usable_until_boot: BootTime,
}

impl<T> Fresh<T> {
    /// A value obtained at `obtained`, usable until `usable_until` (exclusive) by either clock.
    pub fn new(value: T, obtained: Now, usable_until: WallTime) -> Self {
        let life = usable_until.since(obtained.wall);
        Fresh { value, obtained, usable_until, usable_until_boot: obtained.boot.plus(life) }
    }

    /// The value, where it may still be used; none at and after its end by either clock.
    pub fn at(&self, now: Now) -> Option<&T> {
        (now.wall < self.usable_until && now.boot < self.usable_until_boot).then_some(&self.value)
    }

    /// When it was obtained.
    pub fn obtained(&self) -> Now {
        self.obtained
    }

    /// Until when it may be used, exclusive.
    pub fn usable_until(&self) -> WallTime {
        self.usable_until
    }
}

/// Where readings come from: the operating system, or a test's own hands.
pub trait TimeSource: Send + Sync {
    /// CLOCK_REALTIME; none where it cannot be read, which is never "time zero".
    fn wall(&self) -> Option<WallTime>;
    /// CLOCK_BOOTTIME.
    fn boot(&self) -> Option<BootTime>;
    /// The kernel's boot id.
    fn boot_id(&self) -> String;
    /// Whether the kernel says that its clock is synchronised (`adjtimex`, read only).
    fn synchronised(&self) -> bool;
}

/// The clock is not to be trusted now; nothing is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Suspect {
    /// A clock cannot be read.
    #[error("a clock cannot be read")]
    Unreadable,
    /// The wall clock stepped forward by so many milliseconds.
    #[error("the wall clock stepped forward by {0} ms")]
    SteppedForward(u64),
    /// The wall clock stepped back by so many milliseconds.
    #[error("the wall clock stepped back by {0} ms")]
    SteppedBack(u64),
    /// The wall clock is so many milliseconds before a time already seen.
    #[error("the wall clock is {0} ms before a time already seen")]
    BeforeHighest(u64),
}

/// What [`Clock::tick`] noticed, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// The clock became suspect.
    Suspected(Suspect),
    /// It is trusted again: it caught up, or a small step forward was confirmed by the kernel's synchronisation.
    Healed,
}

/// Both clocks, held against each other.
pub struct Clock {
    source: Arc<dyn TimeSource>,
    state: Mutex<State>,
}

struct State {
    /// A trusted reading that later ones are held against; none before the first.
    anchor: Option<Now>,
    highest: WallTime,
    suspect: Option<Suspect>,
    synchronised_since: Option<BootTime>,
    reported: bool,
}

impl Clock {
    /// A clock that distrusts every time before `highest`, the highest wall time ever seen.
    pub fn new(source: Arc<dyn TimeSource>, highest: WallTime) -> Self {
        let state = State { anchor: None, highest, suspect: None, synchronised_since: None, reported: false };
        Clock { source, state: Mutex::new(state) }
    }

    /// The time. **Denies** `ClockSuspect` where it cannot be trusted.
    pub fn now(&self) -> Result<Now, Suspect> {
        let now = self.read().ok_or(Suspect::Unreadable)?;
        let mut state = self.state();
        match state.judge(now) {
            None => {
                state.suspect = None;
                state.trust(now);
                Ok(now)
            }
            Some(suspect) => {
                state.suspect = Some(suspect);
                Err(suspect)
            }
        }
    }

    /// Both clocks as they are, trusted or not: for records of denials and for time-outs, never for a release.
    pub fn untrusted(&self) -> Now {
        Now { wall: self.source.wall().unwrap_or_default(), boot: self.source.boot().unwrap_or_default() }
    }

    /// The kernel's boot id.
    pub fn boot_id(&self) -> String {
        self.source.boot_id()
    }

    /// The highest wall time ever seen, to be kept durably; not raised while suspect.
    pub fn highest(&self) -> WallTime {
        self.state().highest
    }

    /// To be called about once a second: heals what is safe to heal, and says what changed.
    pub fn tick(&self) -> Option<ClockEvent> {
        let outcome = self.now();
        let mut state = self.state();
        let now = Now { wall: self.source.wall()?, boot: self.source.boot()? };
        if let Err(Suspect::SteppedForward(step)) = outcome {
            state.heal_forward(step, now, self.source.synchronised());
        } else {
            state.synchronised_since = None;
        }
        state.report(outcome.err())
    }

    /// An administrator's word that the wall clock is right as it is, wherever it stands.
    pub fn accept(&self) -> Result<Now, Suspect> {
        let now = self.read().ok_or(Suspect::Unreadable)?;
        let mut state = self.state();
        state.highest = now.wall;
        state.anchor = Some(now);
        state.suspect = None;
        Ok(now)
    }

    fn read(&self) -> Option<Now> {
        Some(Now { wall: self.source.wall()?, boot: self.source.boot()? })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves plain numbers, each valid by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn judge(&self, now: Now) -> Option<Suspect> {
        if let Some(anchor) = self.anchor {
            let expected = anchor.wall.plus(now.boot.since(anchor.boot));
            if now.wall.since(expected) > limits::CLOCK_DRIFT_MS {
                return Some(Suspect::SteppedForward(now.wall.since(expected)));
            }
            if expected.since(now.wall) > limits::CLOCK_DRIFT_MS {
                return Some(Suspect::SteppedBack(expected.since(now.wall)));
            }
        }
        let behind = self.highest.since(now.wall);
        (behind > limits::CLOCK_DRIFT_MS).then_some(Suspect::BeforeHighest(behind))
    }

    /// Re-anchoring now and then lets a slewed clock drift slowly, and a step never.
    fn trust(&mut self, now: Now) {
        self.highest = self.highest.max(now.wall);
        let due = self.anchor.is_none_or(|anchor| now.boot.since(anchor.boot) >= limits::CLOCK_ANCHOR_MS);
        if due {
            self.anchor = Some(now);
        }
    }

    fn heal_forward(&mut self, step: u64, now: Now, synchronised: bool) {
        if !synchronised || step > limits::CLOCK_HEAL_STEP_MS {
            self.synchronised_since = None;
            return;
        }
        let since = *self.synchronised_since.get_or_insert(now.boot);
        if now.boot.since(since) >= limits::CLOCK_HEAL_AFTER_MS {
            self.anchor = Some(now);
            self.suspect = None;
            self.synchronised_since = None;
        }
    }

    fn report(&mut self, outcome: Option<Suspect>) -> Option<ClockEvent> {
        match (outcome, self.suspect) {
            (Some(suspect), Some(_)) if !self.reported => {
                self.reported = true;
                Some(ClockEvent::Suspected(suspect))
            }
            (_, None) if self.reported => {
                self.reported = false;
                Some(ClockEvent::Healed)
            }
            _ => None,
        }
    }
}

/// Measures how long something took, for figures and for noticing what hangs: no release rests on it.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(u64);

impl Stopwatch {
    /// Begins.
    pub fn start() -> Self {
        Stopwatch(monotonic_nanoseconds())
    }

    /// Nanoseconds since it began, suspended time left out.
    pub fn nanoseconds(self) -> u64 {
        monotonic_nanoseconds().saturating_sub(self.0)
    }

    /// Nanoseconds since it began; it begins anew.
    pub fn lap(&mut self) -> u64 {
        let now = monotonic_nanoseconds();
        let lap = now.saturating_sub(self.0);
        self.0 = now;
        lap
    }
}

/// CLOCK_MONOTONIC: answered without a system call, in some 30 ns. Where it cannot be read, 0.
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the time")]
fn monotonic_nanoseconds() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let whole = u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000);
    whole.saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// The operating system's clocks.
pub struct SystemTime;

impl TimeSource for SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the time")]
    fn wall(&self) -> Option<WallTime> {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        milliseconds(time.tv_sec, time.tv_nsec).filter(|ms| *ms > 0).map(WallTime)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the time")]
    fn boot(&self) -> Option<BootTime> {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        milliseconds(time.tv_sec, time.tv_nsec).map(BootTime)
    }

    fn boot_id(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    }

    fn synchronised(&self) -> bool {
        crate::sys::clock_synchronised()
    }
}

fn milliseconds(seconds: i64, nanoseconds: i64) -> Option<u64> {
    let whole = u64::try_from(seconds).ok()?.checked_mul(1000)?;
    whole.checked_add(u64::try_from(nanoseconds).ok()? / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    #[derive(Default)]
    struct Hands {
        wall: AtomicU64,
        boot: AtomicU64,
        synchronised: AtomicBool,
    }

    impl Hands {
        fn advance(&self, ms: u64) {
            self.wall.fetch_add(ms, Ordering::SeqCst);
            self.boot.fetch_add(ms, Ordering::SeqCst);
        }
    }

    impl TimeSource for Hands {
        fn wall(&self) -> Option<WallTime> {
            Some(self.wall.load(Ordering::SeqCst)).filter(|ms| *ms > 0).map(WallTime)
        }
        fn boot(&self) -> Option<BootTime> {
            Some(BootTime(self.boot.load(Ordering::SeqCst)))
        }
        fn boot_id(&self) -> String {
            "boot".into()
        }
        fn synchronised(&self) -> bool {
            self.synchronised.load(Ordering::SeqCst)
        }
    }

    fn clock() -> (Arc<Hands>, Clock) {
        let hands = Arc::new(Hands::default());
        hands.wall.store(1_790_000_000_000, Ordering::SeqCst);
        let clock = Clock::new(hands.clone(), WallTime(0));
        assert!(clock.now().is_ok());
        (hands, clock)
    }

    #[test]
    fn a_clock_that_cannot_be_read_is_suspect_and_not_time_zero() {
        let (hands, clock) = clock();
        hands.wall.store(0, Ordering::SeqCst);
        assert_eq!(clock.now(), Err(Suspect::Unreadable));
    }

    #[test]
    fn a_step_back_heals_only_by_catching_up() {
        let (hands, clock) = clock();
        hands.wall.fetch_sub(10_000, Ordering::SeqCst);
        hands.synchronised.store(true, Ordering::SeqCst);
        assert_eq!(clock.now(), Err(Suspect::SteppedBack(10_000)));
        for _ in 0..100 {
            hands.advance(1000);
            clock.tick();
        }
        assert_eq!(clock.now(), Err(Suspect::SteppedBack(10_000)));
        hands.wall.fetch_add(10_000, Ordering::SeqCst);
        assert!(clock.now().is_ok());
    }

    #[test]
    fn a_small_step_forward_heals_once_synchronised_for_thirty_seconds() {
        let (hands, clock) = clock();
        hands.wall.fetch_add(600_000, Ordering::SeqCst);
        assert!(matches!(clock.tick(), Some(ClockEvent::Suspected(Suspect::SteppedForward(600_000)))));
        for _ in 0..60 {
            hands.advance(1000);
            assert_eq!(clock.tick(), None);
            assert!(clock.now().is_err(), "unsynchronised: stays suspect");
        }
        hands.synchronised.store(true, Ordering::SeqCst);
        let mut healed = 0;
        for _ in 0..40 {
            hands.advance(1000);
            if clock.tick() == Some(ClockEvent::Healed) {
                healed += 1;
            }
        }
        assert_eq!(healed, 1);
        assert!(clock.now().is_ok());
    }

    #[test]
    fn a_large_step_forward_needs_an_administrator() {
        let (hands, clock) = clock();
        hands.synchronised.store(true, Ordering::SeqCst);
        hands.wall.fetch_add(2 * 3_600_000, Ordering::SeqCst);
        for _ in 0..100 {
            hands.advance(1000);
            clock.tick();
        }
        assert!(clock.now().is_err());
        assert!(clock.accept().is_ok());
        assert!(clock.now().is_ok());
    }

    #[test]
    fn a_start_before_the_highest_time_is_suspect_and_does_not_raise_it() {
        let hands = Arc::new(Hands::default());
        hands.wall.store(1_000_000, Ordering::SeqCst);
        let clock = Clock::new(hands.clone(), WallTime(2_000_000));
        assert_eq!(clock.now(), Err(Suspect::BeforeHighest(1_000_000)));
        assert_eq!(clock.highest(), WallTime(2_000_000));
        hands.advance(1_000_000);
        assert!(clock.now().is_ok());
    }

    #[test]
    fn fresh_ends_by_either_clock() {
        let obtained = Now { wall: WallTime(1000), boot: BootTime(50) };
        let fresh = Fresh::new((), obtained, WallTime(2000));
        let at = |wall, boot| fresh.at(Now { wall: WallTime(wall), boot: BootTime(boot) }).is_some();
        assert!(at(1999, 1049));
        assert!(!at(2000, 60));
        assert!(!at(1500, 1050));
    }
}
