//! One trust domain: its files, and the snapshot made of them. No other domain is touched by what happens to them.
//!
//! *Takes* bundle and list files. *Gives* [`Snapshot`]. *Denies* `BundleUnknown`, `BundleStale`, `RevocationUnknown`.
//! *Source*: SPIFFE Trust Domain and Bundle §4; `fail-open-catalogue.md` rows 8, 28, 38.

use super::bundle::Bundle;
use super::file::{Content, Watched};
use super::revocation::{self, Issuer, Lists};
use super::trust::{DomainConfig, Marks, RevocationMode};
use crate::denial::Denial;
use crate::limits;
use crate::spiffe::TrustDomain;
use crate::time::{Fresh, Now, WallTime};
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is known of a trust domain at one moment.
pub struct Snapshot {
    /// Counts changes of what is trusted, from 1.
    pub epoch: u64,
    bundle: Input<Bundle>,
    lists: Input<Lists>,
}

/// Something read from files, or why it is not known.
enum Input<T> {
    Unknown(String),
    Known(Known<T>),
}

struct Known<T> {
    value: Fresh<Arc<T>>,
    /// Of the content of all its files, in order.
    digest: Vec<[u8; 32]>,
    written: WallTime,
}

/// A trust domain and its files.
pub struct Domain {
    config: DomainConfig,
    files: Mutex<Files>,
    current: ArcSwap<Snapshot>,
}

struct Files {
    bundle: Watched,
    lists: Vec<Watched>,
    /// The states last reported, bundle and lists.
    reported: [String; 2],
}

/// How one input of a domain stands, for operators.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct InputStatus {
    /// `usable`, `stale`, or why it is not known.
    pub state: String,
    /// Milliseconds for which it may still be used; 0 where it may not.
    pub usable_for_ms: u64,
}

impl Snapshot {
    /// The bundle. **Denies** `BundleUnknown`, `BundleStale`.
    pub fn bundle(&self, now: Now) -> Result<&Bundle, Denial> {
        match &self.bundle {
            Input::Unknown(_) => Err(Denial::BundleUnknown),
            Input::Known(known) => known.value.at(now).map(Arc::as_ref).ok_or(Denial::BundleStale),
        }
    }

    /// When the bundle ends.
    pub fn bundle_ends(&self) -> WallTime {
        match &self.bundle {
            Input::Unknown(_) => WallTime(0),
            Input::Known(known) => known.value.usable_until(),
        }
    }

    /// The revocation lists, each with its own end. **Denies** `RevocationUnknown`.
    pub fn lists(&self, now: Now) -> Result<&Lists, Denial> {
        match &self.lists {
            Input::Unknown(_) => Err(Denial::RevocationUnknown),
            Input::Known(known) => known.value.at(now).map(Arc::as_ref).ok_or(Denial::RevocationStale),
        }
    }

    fn same(&self, other: &Snapshot) -> bool {
        self.bundle.same(&other.bundle) && self.lists.same(&other.lists)
    }
}

impl<T> Input<T> {
    fn known(&self) -> Option<&Known<T>> {
        match self {
            Input::Unknown(_) => None,
            Input::Known(known) => Some(known),
        }
    }

    /// Whether the same is trusted by both; why something is unknown makes no difference.
    fn same(&self, other: &Input<T>) -> bool {
        self.known().map(|known| &known.digest) == other.known().map(|known| &known.digest)
    }
}

impl Domain {
    /// Reads all files of a domain. What cannot be read is unknown, never an error of the whole.
    pub fn open(config: DomainConfig, marks: &dyn Marks, now: Now) -> Self {
        let lists = match &config.revocation {
            RevocationMode::Crl { files, .. } => files.as_slice(),
            RevocationMode::ShortLived { .. } => &[],
        };
        let lists = lists.iter().map(|path| Watched::new(path.clone(), limits::CRL_FILE_BYTES)).collect();
        let bundle = Watched::new(config.bundle.clone(), limits::TRUST_FILE_BYTES);
        let unread = || "not read yet".to_owned();
        let nothing =
            Snapshot { epoch: 0, bundle: Input::Unknown(unread()), lists: Input::Unknown(unread()) };
        let files = Mutex::new(Files { bundle, lists, reported: [String::new(), String::new()] });
        let domain = Domain { config, files, current: ArcSwap::from_pointee(nothing) };
        domain.reload(marks, now);
        domain
    }

    /// Its name.
    pub fn name(&self) -> &TrustDomain {
        &self.config.name
    }

    /// How it revokes.
    pub fn revocation(&self) -> &RevocationMode {
        &self.config.revocation
    }

    /// What is known now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Looks at all files, and swaps the snapshot where something changed.
    pub fn reload(&self, marks: &dyn Marks, now: Now) {
        let mut files = self.files();
        let old = self.current.load_full();
        let bundle = self.look_at_bundle(&mut files.bundle, &old, marks, now);
        let lists = self.look_at_lists(&mut files.lists, &old, now);
        let mut new = Snapshot { epoch: old.epoch, bundle, lists };
        if old.epoch == 0 || !new.same(&old) {
            new.epoch = old.epoch.saturating_add(1);
        }
        admit_known_issuers(&old, &new, marks, now);
        self.current.store(Arc::new(new));
    }

    /// Forgets what was read, so that all of it is judged anew, against other marks; denied in between.
    pub fn forget(&self) {
        let _files = self.files();
        let unread = || "to be read again".to_owned();
        let epoch = self.current.load().epoch.saturating_add(1);
        let nothing = Snapshot { epoch, bundle: Input::Unknown(unread()), lists: Input::Unknown(unread()) };
        self.current.store(Arc::new(nothing));
    }

    /// The states that changed since they were last asked for: input's name and state.
    pub fn changes(&self, now: Now) -> Vec<(String, String)> {
        let mut files = self.files();
        let (bundle, lists) = self.describe(now);
        let states = [("bundle", bundle.state), ("revocation", lists.state)];
        let mut changes = Vec::new();
        for (reported, (input, state)) in files.reported.iter_mut().zip(states) {
            if *reported != state {
                reported.clone_from(&state);
                changes.push((format!("{}/{input}", self.config.name), state));
            }
        }
        changes
    }

    /// How bundle and lists stand.
    pub fn describe(&self, now: Now) -> (InputStatus, InputStatus) {
        let snapshot = self.snapshot();
        let bundle = snapshot.bundle.status(now, None, |bundle: &Bundle| {
            let sequence = bundle.sequence.map_or("none".to_owned(), |sequence| sequence.to_string());
            format!("{} roots, sequence {sequence}", bundle.anchors.len())
        });
        let lists = match &self.config.revocation {
            RevocationMode::ShortLived { max_lifetime_seconds } => InputStatus {
                state: format!("short-lived, at most {max_lifetime_seconds} s"),
                usable_for_ms: u64::MAX,
            },
            RevocationMode::Crl { .. } => {
                let end = snapshot.lists.known().and_then(|known| {
                    known.value.at(known.value.obtained()).and_then(|lists| lists.first_end())
                });
                let status =
                    snapshot.lists.status(now, end, |lists: &Lists| format!("{} lists", lists.count()));
                match snapshot.lists(now).ok().and_then(|lists| lists.trouble()) {
                    Some(why) => InputStatus {
                        state: format!("not usable for every issuer, a list is {why}; {}", status.state),
                        usable_for_ms: 0,
                    },
                    None => status,
                }
            }
        };
        (bundle, lists)
    }

    fn look_at_bundle(
        &self,
        file: &mut Watched,
        old: &Snapshot,
        marks: &dyn Marks,
        now: Now,
    ) -> Input<Bundle> {
        let content = match file.look(now) {
            Ok(content) => content,
            Err(why) => return Input::Unknown(why.clone()),
        };
        if let Some(unchanged) = old.bundle.unchanged(&[content], now) {
            return Input::Known(unchanged);
        }
        match read_bundle(content, &self.config, marks, now) {
            Ok(bundle) => {
                let age = self.config.bundle_max_age_seconds.saturating_mul(1000);
                let value = Fresh::new(Arc::new(bundle), now, content.written.plus(age));
                Input::Known(Known { value, digest: vec![content.digest], written: content.written })
            }
            Err(why) => Input::Unknown(why),
        }
    }

    fn look_at_lists(&self, files: &mut [Watched], old: &Snapshot, now: Now) -> Input<Lists> {
        let RevocationMode::Crl { max_age_seconds, .. } = &self.config.revocation else {
            return Input::Unknown("short-lived".to_owned());
        };
        let mut contents = Vec::new();
        for file in files.iter_mut() {
            let path = file.path().display().to_string();
            match file.look(now) {
                Ok(content) => contents.push(content),
                Err(why) => return Input::Unknown(format!("`{path}`: {why}")),
            }
        }
        let renewable = |known: &Known<Lists>| known.value.at(now).is_some_and(|lists| lists.renewable(now));
        if let Some(unchanged) = old.lists.unchanged(&contents, now)
            && !renewable(&unchanged)
        {
            return Input::Known(unchanged);
        }
        let mut lists = Vec::new();
        for content in &contents {
            match revocation::parse(&content.bytes, *max_age_seconds, now) {
                Ok(parsed) => lists.extend(parsed),
                Err(why) => return Input::Unknown(why.to_string()),
            }
        }
        // The lists carry their own ends; the set of them has none.
        let value = Fresh::new(Arc::new(Lists::new(lists)), now, WallTime(u64::MAX));
        Input::Known(Known { value, digest: digests(&contents), written: last_written(&contents) })
    }

    fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        // A panic while the lock was held leaves each file's own last reading.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Input<T> {
    /// What is known, where files and usability are as they were; else it is to be made anew.
    fn unchanged(&self, contents: &[&Content], now: Now) -> Option<Known<T>> {
        let known = self.known()?;
        let same = known.digest == digests(contents) && known.written == last_written(contents);
        (same && known.value.at(now).is_some()).then(|| known.clone())
    }

    fn status(&self, now: Now, end: Option<WallTime>, describe: impl Fn(&T) -> String) -> InputStatus {
        let known = match self {
            Input::Unknown(why) => return InputStatus { state: format!("unknown: {why}"), usable_for_ms: 0 },
            Input::Known(known) => known,
        };
        let usable_for_ms = end.unwrap_or(known.value.usable_until()).since(now.wall);
        let digest = hex::encode(one_digest(&known.digest));
        let state = match known.value.at(now) {
            Some(value) if usable_for_ms > 0 => format!("usable: {}, sha256 {digest}", describe(value)),
            Some(_) | None => format!("stale: sha256 {digest}"),
        };
        InputStatus { state, usable_for_ms }
    }
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Known { value: self.value.clone(), digest: self.digest.clone(), written: self.written }
    }
}

/// The numbers of new lists are held against the marks as soon as the file is there, for every issuer met so far.
fn admit_known_issuers(old: &Snapshot, new: &Snapshot, marks: &dyn Marks, now: Now) {
    let Ok(lists) = new.lists(now) else { return };
    let mut issuers: Vec<Issuer> = old.lists(now).map(Lists::issuers).unwrap_or_default();
    for root in new.bundle(now).map(|bundle| bundle.anchors.as_slice()).unwrap_or_default() {
        let spki = webpki::spki_for_anchor(&root.anchor).to_vec();
        issuers.push(Issuer { name: root.anchor.subject.to_vec(), spki });
    }
    for issuer in issuers {
        // What is denied here is denied again, and heard, by the peer that needs it.
        let _ = lists.admit(&issuer, marks);
    }
}

fn read_bundle(
    content: &Content,
    config: &DomainConfig,
    marks: &dyn Marks,
    now: Now,
) -> Result<Bundle, String> {
    let latest = now.wall.plus(limits::NOT_YET_ALLOWANCE_SECONDS.saturating_mul(1000));
    if content.written > latest {
        return Err("the file was written in the future".to_owned());
    }
    let bundle = Bundle::parse(&content.bytes).map_err(|error| error.to_string())?;
    let name = sequence_mark(&config.name);
    let unreadable = |_| "its highest sequence cannot be read or kept".to_owned();
    // A bundle that lost its sequence is older than any that has one.
    let mark = bundle.sequence.unwrap_or(0).to_be_bytes();
    match marks.read(&name).map_err(unreadable)? {
        Some(seen) if mark.as_slice() < seen.as_slice() => Err("spiffe_sequence went back".to_owned()),
        Some(seen) if mark.as_slice() == seen.as_slice() => Ok(bundle),
        None if bundle.sequence.is_none() => Ok(bundle),
        Some(_) | None => marks.raise(&name, &mark).map_err(unreadable).map(|()| bundle),
    }
}

/// The name of the mark of a domain's `spiffe_sequence`: 8 bytes, big-endian.
pub fn sequence_mark(domain: &TrustDomain) -> String {
    format!("bundle-sequence/{domain}")
}

fn digests(contents: &[&Content]) -> Vec<[u8; 32]> {
    contents.iter().map(|content| content.digest).collect()
}

fn last_written(contents: &[&Content]) -> WallTime {
    contents.iter().map(|content| content.written).max().unwrap_or_default()
}

fn one_digest(digests: &[[u8; 32]]) -> [u8; 32] {
    match digests {
        [one] => *one,
        several => super::svid::sha256(&several.concat()),
    }
}
