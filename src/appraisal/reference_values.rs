//! Reference values: what a workload's evidence must claim, and until when that is vouched for.
//!
//! *Takes* an administrator's [`ReferenceSet`]s, then verified claims. *Gives* [`ReferenceValues`], then [`Appraisal`].
//! *Denies* by anything but `Appraisal::Matches`: `MeasurementMismatch`, `ReferenceValuesExpired`, `ReferenceValuesMissing`
//! are the stage's names for the rest. *Source*: RFC 9334 §8.3, §9.1; `protocol.md`, the `process` document.

use super::claims::{ProcessClaims, Program};
use super::reference_text::{CgroupPattern, FileDigest, VerityDigest, not_after_text};
use crate::limits;
use crate::spiffe::{IdPattern, SpiffeId};
use crate::time::{Now, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What some workloads may be, until when. Written by administrators, in TOML or JSON; unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceSet {
    /// 1 to 64 of `[A-Za-z0-9._-]`, unique; policy and audit log name the set by it.
    pub name: String,
    /// Whom it speaks of: a SPIFFE ID, or all below one. Of several patterns that stand for an ID only the sets of the
    /// longest count, a whole ID before all: a set for many never widens what a set for one allows.
    pub workload: IdPattern,
    /// From when on it counts no more; RFC 3339, UTC. Never absent.
    #[serde(with = "not_after_text")]
    pub not_after: WallTime,
    /// What a `process` document must claim.
    pub process: ProcessReference,
}

/// What a `process` document must claim. Every list that is **absent** constrains nothing; none may be empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessReference {
    /// The executables that may speak; never absent.
    pub executables: Vec<FileReference>,
    /// Whether the executables run another program after the release (`portcullis exec`, an interpreter): then `programs`
    /// says which, and their own digest vouches for nothing without one.
    #[serde(default)]
    pub launcher: bool,
    /// For a launcher: the lists of files that it may run, each compared whole and in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Vec<FileReference>>,
    /// fs-verity digests of the executable, one of which it must have. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_verity: Option<BTreeSet<VerityDigest>>,
    /// User ids. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uids: Option<BTreeSet<u64>>,
    /// Group ids. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gids: Option<BTreeSet<u64>>,
    /// Nodes by their enrolled names. Absent: every node that may vouch for the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<BTreeSet<String>>,
    /// cgroup v2 paths, whole or ending in `/*`. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroups: Option<BTreeSet<CgroupPattern>>,
    /// systemd units; a process outside every unit matches none. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd_units: Option<BTreeSet<String>>,
    /// Whether it must (true) or must not (false) run in a container. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<bool>,
}

/// A file by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReference {
    /// SHA-256, 64 hex digits.
    pub sha256: FileDigest,
    /// The path it must have. Absent: not constrained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Why a reference set is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The name is malformed.
    #[error("the name is not 1 to 64 of [A-Za-z0-9._-]")]
    Name,
    /// Two sets have one name.
    #[error("two sets are named `{0}`")]
    NameRepeated(String),
    /// It has ended already.
    #[error("not_after {0} has passed")]
    NotAfterPassed(WallTime),
    /// A list is there, and empty: it would say either everything or nothing.
    #[error("`{0}` is empty: leave it out, or say what is allowed")]
    ListEmpty(&'static str),
    /// A path that no file has.
    #[error("`{0}` is no absolute path")]
    Path(String),
    /// A launcher without the programs that it may run: it would vouch for anything.
    #[error("a launcher needs `programs`: its own digest would vouch for whatever it runs")]
    LauncherWithoutPrograms,
    /// Programs of something that is not said to be a launcher.
    #[error("`programs` needs `launcher = true`")]
    ProgramsWithoutLauncher,
    /// An executable that is known to run others, in a set that does not say which.
    #[error("`{0}` is a launcher: say `launcher = true` and which `programs` it may run")]
    KnownLauncher(String),
    /// More sets than are kept.
    #[error("more than {} reference sets", limits::REFERENCE_SETS)]
    TooMany,
}

impl ReferenceSet {
    /// Whether the set may be put at `now`. `known_launchers` are digests of programs that run others, the broker's own
    /// executable first among them: no digest says by itself that it is a launcher's.
    pub fn check(&self, now: Now, known_launchers: &BTreeSet<[u8; 32]>) -> Result<(), ReferenceError> {
        if self.has_ended(now) {
            return Err(ReferenceError::NotAfterPassed(self.not_after));
        }
        self.check_shape()?;
        let known = |file: &&FileReference| known_launchers.contains(file.sha256.as_bytes());
        match self.process.executables.iter().find(known) {
            Some(file) if !self.process.launcher => {
                Err(ReferenceError::KnownLauncher(file.sha256.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// What does not depend on time.
    fn check_shape(&self) -> Result<(), ReferenceError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = self.name.as_bytes();
        if name.is_empty() || name.len() > limits::POLICY_NAME_BYTES || !name.iter().copied().all(allowed) {
            return Err(ReferenceError::Name);
        }
        let process = &self.process;
        process.check_lists()?;
        if process.launcher && process.programs.is_empty() {
            return Err(ReferenceError::LauncherWithoutPrograms);
        }
        if !process.launcher && !process.programs.is_empty() {
            return Err(ReferenceError::ProgramsWithoutLauncher);
        }
        let files = process.executables.iter().chain(process.programs.iter().flatten());
        match files.filter_map(|file| file.path.as_ref()).find(|path| !path.starts_with('/')) {
            Some(path) => Err(ReferenceError::Path(path.clone())),
            None => Ok(()),
        }
    }

    fn has_ended(&self, now: Now) -> bool {
        now.wall >= self.not_after
    }
}

impl ProcessReference {
    fn check_lists(&self) -> Result<(), ReferenceError> {
        fn empty<T>(list: &Option<BTreeSet<T>>) -> bool {
            list.as_ref().is_some_and(BTreeSet::is_empty)
        }
        let lists = [
            ("executables", self.executables.is_empty()),
            ("programs", self.programs.iter().any(Vec::is_empty)),
            ("fs_verity", empty(&self.fs_verity)),
            ("uids", empty(&self.uids)),
            ("gids", empty(&self.gids)),
            ("nodes", empty(&self.nodes)),
            ("cgroups", empty(&self.cgroups)),
            ("systemd_units", empty(&self.systemd_units)),
        ];
        match lists.into_iter().find(|(_, empty)| *empty) {
            Some((name, _)) => Err(ReferenceError::ListEmpty(name)),
            None => Ok(()),
        }
    }

    /// The claims that are not as the set says, in words; none where all are.
    fn differences(&self, claims: &ProcessClaims) -> Vec<String> {
        let among =
            |allowed: &Option<BTreeSet<u64>>, claim| allowed.as_ref().is_none_or(|set| set.contains(&claim));
        let named = |allowed: &Option<BTreeSet<String>>, claim: Option<&String>| {
            allowed.as_ref().is_none_or(|set| claim.is_some_and(|claim| set.contains(claim)))
        };
        let verity = |set: &BTreeSet<VerityDigest>| {
            claims.fs_verity.as_ref().is_some_and(|digest| set.iter().any(|allowed| allowed.is(digest)))
        };
        let cgroup =
            |set: &BTreeSet<CgroupPattern>| set.iter().any(|pattern| pattern.matches(&claims.cgroup));
        let unit = claims.systemd_unit.as_ref();
        let container = claims.container_id.is_some();
        let checks = [
            (named(&self.nodes, Some(&claims.node)), format!("node `{}`", bounded(&claims.node))),
            (self.fs_verity.as_ref().is_none_or(verity), "fs-verity digest".to_owned()),
            (among(&self.uids, claims.uid), format!("uid {}", claims.uid)),
            (among(&self.gids, claims.gid), format!("gid {}", claims.gid)),
            (self.cgroups.as_ref().is_none_or(cgroup), format!("cgroup `{}`", bounded(&claims.cgroup))),
            (
                named(&self.systemd_units, unit),
                unit.map_or("no systemd unit".to_owned(), |unit| format!("systemd unit `{}`", bounded(unit))),
            ),
            (
                self.container.is_none_or(|wanted| wanted == container),
                if container { "in a container" } else { "in no container" }.to_owned(),
            ),
        ];
        let claimed = checks.into_iter().filter(|(fits, _)| !fits).map(|(_, difference)| difference);
        self.executable_difference(claims)
            .into_iter()
            .chain(self.program_difference(claims))
            .chain(claimed)
            .collect()
    }

    fn executable_difference(&self, claims: &ProcessClaims) -> Option<String> {
        let fits = |file: &FileReference| file.is(&claims.executable_path, &claims.executable_sha256);
        if self.executables.iter().any(fits) {
            return None;
        }
        let path = bounded(&claims.executable_path);
        Some(format!("executable `{path}` with sha-256 `{}`", hex::encode(claims.executable_sha256)))
    }

    /// A launcher's statement fits a launcher's set only, and the other way about: else a launcher's own digest would
    /// vouch for all that it can run.
    fn program_difference(&self, claims: &ProcessClaims) -> Option<String> {
        match &claims.program {
            None if self.programs.is_empty() => None,
            None => Some("no program, of a launcher".to_owned()),
            Some(_) if self.programs.is_empty() => Some("a program to run, of no launcher".to_owned()),
            Some(claimed) => {
                let fits = |list: &Vec<FileReference>| {
                    list.len() == claimed.len()
                        && list
                            .iter()
                            .zip(claimed)
                            .all(|(file, program)| file.is(&program.path, &program.sha256))
                };
                let differs = !self.programs.iter().any(fits);
                differs.then(|| format!("program {}", listed(claimed)))
            }
        }
    }
}

impl FileReference {
    fn is(&self, path: &str, sha256: &[u8; 32]) -> bool {
        self.sha256.as_bytes() == sha256 && self.path.as_ref().is_none_or(|wanted| wanted == path)
    }
}

/// What appraisal finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appraisal {
    /// The claims are those of a current set.
    Matches {
        /// Its name.
        set: String,
        /// Until when it counts.
        not_after: WallTime,
    },
    /// They are those of no set of this workload.
    Mismatch {
        /// The nearest set, and the claims that differ.
        detail: String,
    },
    /// They are those of a set that has ended, or every set of this workload has.
    Expired {
        /// Its name.
        set: String,
    },
    /// There is no set for this workload.
    Missing,
}

/// All reference sets, indexed by workload; immutable.
#[derive(Debug)]
pub struct ReferenceValues {
    sets: BTreeMap<String, ReferenceSet>,
    /// Names of sets, by the whole ID they speak of.
    by_id: HashMap<String, Vec<String>>,
    /// Names of sets, by the ID that they speak of all below of, and the longest of these.
    by_base: HashMap<String, Vec<String>>,
    longest_base: usize,
    known_launchers: BTreeSet<[u8; 32]>,
}

impl ReferenceValues {
    /// Indexes sets, ended ones among them: they tell *expired* from *unknown*. A set that is malformed refuses all, as
    /// does a repeated name. A known launcher (see [`ReferenceSet::check`]) never matches without its program, whatever a
    /// set says that was put before it was known.
    pub fn new(sets: Vec<ReferenceSet>, known_launchers: BTreeSet<[u8; 32]>) -> Result<Self, ReferenceError> {
        if sets.len() > limits::REFERENCE_SETS {
            return Err(ReferenceError::TooMany);
        }
        let mut values = ReferenceValues {
            sets: BTreeMap::new(),
            by_id: HashMap::new(),
            by_base: HashMap::new(),
            longest_base: 0,
            known_launchers,
        };
        sets.into_iter().try_for_each(|set| values.add(set))?;
        Ok(values)
    }

    fn add(&mut self, set: ReferenceSet) -> Result<(), ReferenceError> {
        set.check_shape()?;
        let (name, pattern) = (set.name.clone(), set.workload.as_str());
        let names = match pattern.strip_suffix("/*") {
            None => self.by_id.entry(pattern.to_owned()).or_default(),
            Some(base) => {
                self.longest_base = self.longest_base.max(base.len());
                self.by_base.entry(base.to_owned()).or_default()
            }
        };
        names.push(name.clone());
        match self.sets.insert(name.clone(), set) {
            Some(_) => Err(ReferenceError::NameRepeated(name)),
            None => Ok(()),
        }
    }

    /// Holds verified claims against the sets of the workload.
    pub fn appraise(&self, id: &SpiffeId, claims: &ProcessClaims, now: Now) -> Appraisal {
        let sets = self.sets_for(id);
        let (ended, current): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| set.has_ended(now));
        let fits = |set: &&&ReferenceSet| self.differences(set, claims).is_empty();
        if let Some(set) = current.iter().filter(fits).max_by_key(|set| set.not_after) {
            return Appraisal::Matches { set: set.name.clone(), not_after: set.not_after };
        }
        if let Some(set) = ended.iter().filter(fits).max_by_key(|set| set.not_after) {
            return Appraisal::Expired { set: set.name.clone() };
        }
        let differences = current.iter().map(|set| (set, self.differences(set, claims)));
        if let Some((set, differing)) = differences.min_by_key(|(_, differing)| differing.len()) {
            let detail =
                format!("nearest is set `{}`, which does not allow {}", set.name, differing.join(", "));
            return Appraisal::Mismatch { detail };
        }
        match ended.iter().max_by_key(|set| set.not_after) {
            Some(set) => Appraisal::Expired { set: set.name.clone() },
            None => Appraisal::Missing,
        }
    }

    /// The sets that speak of a workload, in the order they were given: those of its own ID, else of the longest pattern.
    pub fn sets_for(&self, id: &SpiffeId) -> Vec<&ReferenceSet> {
        let whole = id.as_str();
        let bases = whole.rmatch_indices('/').filter_map(|(slash, _)| whole.get(..slash));
        // None longer than the longest is looked up: the bearer of an ID chooses how many beginnings it has.
        let mut bases = bases.filter(|base| base.len() <= self.longest_base);
        let names = self.by_id.get(whole).or_else(|| bases.find_map(|base| self.by_base.get(base)));
        names.into_iter().flatten().filter_map(|name| self.sets.get(name)).collect()
    }

    /// All sets, ascending by name.
    pub fn sets(&self) -> impl Iterator<Item = &ReferenceSet> {
        self.sets.values()
    }

    fn differences(&self, set: &ReferenceSet, claims: &ProcessClaims) -> Vec<String> {
        let mut differing = set.process.differences(claims);
        if claims.program.is_none() && self.known_launchers.contains(&claims.executable_sha256) {
            differing.push("a launcher without its program".to_owned());
        }
        differing
    }
}

fn listed(programs: &[Program]) -> String {
    let one = |program: &Program| {
        format!("`{}` with sha-256 `{}`", bounded(&program.path), hex::encode(program.sha256))
    };
    let all: Vec<String> = programs.iter().map(one).collect();
    if all.is_empty() { "(none)".to_owned() } else { all.join(" then ") }
}

/// A claim as a detail quotes it: the claims are a peer's, and the log is for a person.
fn bounded(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(QUOTED_CHARACTERS).collect()
}

/// Enough for any usual path.
const QUOTED_CHARACTERS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appraisal::claims::tests::process;
    use crate::appraisal::reference_text::{parse_json, parse_toml};
    use crate::time::BootTime;

    const NOW: Now = Now { wall: WallTime(1_790_000_000_000), boot: BootTime(5_000) };
    const LATER: WallTime = WallTime(1_800_000_000_000);

    fn digest(byte: u8) -> FileDigest {
        FileDigest::parse(&hex::encode([byte; 32])).unwrap()
    }

    fn file(byte: u8) -> FileReference {
        FileReference { sha256: digest(byte), path: None }
    }

    fn set(name: &str, executable: u8) -> ReferenceSet {
        ReferenceSet {
            name: name.into(),
            workload: IdPattern::parse("spiffe://example.org/ns/payments/*").unwrap(),
            not_after: LATER,
            process: ProcessReference {
                executables: vec![file(executable)],
                launcher: false,
                programs: vec![],
                fs_verity: None,
                uids: None,
                gids: None,
                nodes: None,
                cgroups: None,
                systemd_units: None,
                container: None,
            },
        }
    }

    fn launcher(name: &str, programs: Vec<Vec<FileReference>>) -> ReferenceSet {
        let mut set = set(name, 0xaa);
        set.process.launcher = true;
        set.process.programs = programs;
        set
    }

    fn program(bytes: &[u8]) -> ProcessClaims {
        let programs = bytes.iter().map(|byte| Program { path: "/opt/job".into(), sha256: [*byte; 32] });
        ProcessClaims { program: Some(programs.collect()), ..process() }
    }

    fn appraise(sets: Vec<ReferenceSet>, claims: &ProcessClaims) -> Appraisal {
        let id = SpiffeId::parse("spiffe://example.org/ns/payments/api").unwrap();
        ReferenceValues::new(sets, BTreeSet::new()).unwrap().appraise(&id, claims, NOW)
    }

    fn matches(set: &str) -> Appraisal {
        Appraisal::Matches { set: set.into(), not_after: LATER }
    }

    fn detail(appraisal: Appraisal) -> String {
        match appraisal {
            Appraisal::Mismatch { detail } => detail,
            other => panic!("{other:?}"),
        }
    }

    fn check(set: &ReferenceSet) -> Result<(), ReferenceError> {
        set.check(NOW, &BTreeSet::new())
    }

    #[test]
    fn claims_of_a_current_set_match() {
        assert_eq!(check(&set("a", 0xaa)), Ok(()));
        assert_eq!(appraise(vec![set("b", 0xbb), set("a", 0xaa)], &process()), matches("a"));
    }

    #[test]
    fn a_changed_executable_is_a_mismatch() {
        let expected = format!(
            "nearest is set `b`, which does not allow executable `/usr/bin/pay` with sha-256 `{}`",
            "aa".repeat(32)
        );
        assert_eq!(detail(appraise(vec![set("b", 0xbb)], &process())), expected);
    }

    #[test]
    fn every_claim_that_a_set_names_must_be_as_it_says() {
        type Change = fn(&mut ProcessReference);
        let cases: [(Change, Change, &str); 8] = [
            (
                |set| set.executables[0].path = Some("/usr/bin/pay".into()),
                |set| set.executables[0].path = Some("/usr/bin/play".into()),
                "executable",
            ),
            (|set| set.uids = Some([1000].into()), |set| set.uids = Some([0].into()), "uid 1000"),
            (|set| set.gids = Some([1000].into()), |set| set.gids = Some([27].into()), "gid 1000"),
            (
                |set| set.nodes = Some(["n1".into()].into()),
                |set| set.nodes = Some(["n".into()].into()),
                "node `n1`",
            ),
            (
                |set| set.cgroups = Some([CgroupPattern::parse("/system.slice/*").unwrap()].into()),
                |set| set.cgroups = Some([CgroupPattern::parse("/user.slice/*").unwrap()].into()),
                "cgroup `/system.slice/pay.service`",
            ),
            (
                |set| set.systemd_units = Some(["pay.service".into()].into()),
                |set| set.systemd_units = Some(["pay".into()].into()),
                "systemd unit `pay.service`",
            ),
            (|set| set.container = Some(false), |set| set.container = Some(true), "in no container"),
            (
                |_| (),
                |set| set.fs_verity = Some([VerityDigest::parse(&"ab".repeat(32)).unwrap()].into()),
                "fs-verity digest",
            ),
        ];
        for (fits, differs, word) in cases {
            let mut good = set("a", 0xaa);
            fits(&mut good.process);
            assert_eq!(appraise(vec![good], &process()), matches("a"), "{word}");
            let mut bad = set("a", 0xaa);
            differs(&mut bad.process);
            let detail = detail(appraise(vec![bad], &process()));
            assert!(
                detail.starts_with(&format!("nearest is set `a`, which does not allow {word}")),
                "{detail}"
            );
        }
    }

    #[test]
    fn an_absent_claim_matches_no_list() {
        let mut set = set("a", 0xaa);
        set.process.systemd_units = Some(["pay.service".into()].into());
        let claims = ProcessClaims { systemd_unit: None, ..process() };
        assert!(detail(appraise(vec![set], &claims)).ends_with("allow no systemd unit"));
    }

    #[test]
    fn an_fs_verity_digest_is_compared_whole() {
        let mut set = set("a", 0xaa);
        set.process.fs_verity = Some([VerityDigest::parse(&"ab".repeat(32)).unwrap()].into());
        let claims = |bytes| ProcessClaims { fs_verity: Some(bytes), ..process() };
        assert_eq!(appraise(vec![set.clone()], &claims(vec![0xab; 32])), matches("a"));
        for bytes in [vec![0xab; 31], vec![0xab; 64], vec![]] {
            assert!(matches!(appraise(vec![set.clone()], &claims(bytes)), Appraisal::Mismatch { .. }));
        }
    }

    #[test]
    fn the_nearest_set_is_named() {
        let mut far = set("far", 0xbb);
        far.process.uids = Some([0].into());
        let mut near = set("near", 0xaa);
        near.process.uids = Some([0].into());
        assert_eq!(
            detail(appraise(vec![far, near], &process())),
            "nearest is set `near`, which does not allow uid 1000"
        );
    }

    #[test]
    fn launcher_attested_in_place_of_its_program_is_denied() {
        let set = launcher("a", vec![vec![file(0xbb)]]);
        assert_eq!(check(&set), Ok(()));
        assert_eq!(appraise(vec![set.clone()], &program(&[0xbb])), matches("a"));
        assert!(detail(appraise(vec![set.clone()], &process())).ends_with("allow no program, of a launcher"));
        for other in [&[0xcc][..], &[0xbb, 0xcc], &[0xcc, 0xbb], &[]] {
            assert!(
                detail(appraise(vec![set.clone()], &program(other))).contains("allow program "),
                "{other:?}"
            );
        }
    }

    #[test]
    fn a_launchers_statement_does_not_match_a_set_without_programs() {
        let detail = detail(appraise(vec![set("a", 0xaa)], &program(&[0xbb])));
        assert!(detail.ends_with("allow a program to run, of no launcher"), "{detail}");
    }

    #[test]
    fn program_lists_are_compared_whole_and_in_order() {
        let set = launcher("a", vec![vec![file(0xbb), file(0xcc)], vec![file(0xdd)]]);
        for good in [&[0xbb, 0xcc][..], &[0xdd]] {
            assert_eq!(appraise(vec![set.clone()], &program(good)), matches("a"));
        }
        for bad in [&[0xbb][..], &[0xcc, 0xbb], &[0xbb, 0xdd], &[0xbb, 0xcc, 0xdd]] {
            assert!(
                matches!(appraise(vec![set.clone()], &program(bad)), Appraisal::Mismatch { .. }),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_set_that_names_a_launcher_without_programs_is_refused() {
        assert_eq!(check(&launcher("a", vec![])), Err(ReferenceError::LauncherWithoutPrograms));
        let mut programs_only = launcher("a", vec![vec![file(0xbb)]]);
        programs_only.process.launcher = false;
        assert_eq!(check(&programs_only), Err(ReferenceError::ProgramsWithoutLauncher));
        let known = BTreeSet::from([[0xaa; 32]]);
        assert_eq!(set("a", 0xaa).check(NOW, &known), Err(ReferenceError::KnownLauncher("aa".repeat(32))));
        assert_eq!(launcher("a", vec![vec![file(0xbb)]]).check(NOW, &known), Ok(()));
        assert_eq!(set("a", 0xbb).check(NOW, &known), Ok(()));
    }

    #[test]
    fn a_known_launcher_never_matches_a_set_that_was_put_before_it_was_known() {
        let id = SpiffeId::parse("spiffe://example.org/ns/payments/api").unwrap();
        let values = ReferenceValues::new(vec![set("a", 0xaa)], [[0xaa; 32]].into()).unwrap();
        let detail = detail(values.appraise(&id, &process(), NOW));
        assert!(detail.ends_with("a launcher without its program"), "{detail}");
    }

    #[test]
    fn a_set_at_its_not_after_is_expired() {
        let ending = |wall| Now { wall, ..NOW };
        let values = ReferenceValues::new(vec![set("a", 0xaa)], BTreeSet::new()).unwrap();
        let id = SpiffeId::parse("spiffe://example.org/ns/payments/api").unwrap();
        assert_eq!(values.appraise(&id, &process(), ending(WallTime(LATER.0 - 1))), matches("a"));
        assert_eq!(values.appraise(&id, &process(), ending(LATER)), Appraisal::Expired { set: "a".into() });
        assert_eq!(
            set("a", 0xaa).check(ending(LATER), &BTreeSet::new()),
            Err(ReferenceError::NotAfterPassed(LATER))
        );
    }

    #[test]
    fn an_old_release_is_expired_beside_its_successor() {
        let old = ReferenceSet { not_after: NOW.wall, ..set("old", 0xaa) };
        let new = set("new", 0xbb);
        assert_eq!(
            appraise(vec![old.clone(), new.clone()], &process()),
            Appraisal::Expired { set: "old".into() }
        );
        let stranger = ProcessClaims { executable_sha256: [0xcc; 32], ..process() };
        assert!(detail(appraise(vec![old.clone(), new], &stranger)).contains("`new`"));
        assert_eq!(appraise(vec![old], &stranger), Appraisal::Expired { set: "old".into() });
    }

    #[test]
    fn the_match_that_lasts_longest_counts() {
        let short = ReferenceSet { not_after: WallTime(NOW.wall.0 + 1), ..set("short", 0xaa) };
        assert_eq!(appraise(vec![set("long", 0xaa), short], &process()), matches("long"));
    }

    #[test]
    fn a_workload_without_sets_is_missing() {
        assert_eq!(appraise(vec![], &process()), Appraisal::Missing);
        let mut other = set("a", 0xaa);
        other.workload = IdPattern::parse("spiffe://example.org/ns/payments").unwrap();
        assert_eq!(appraise(vec![other], &process()), Appraisal::Missing);
    }

    #[test]
    fn a_set_for_many_never_widens_a_set_for_one() {
        let own = |pattern, name, executable| ReferenceSet {
            workload: IdPattern::parse(pattern).unwrap(),
            ..set(name, executable)
        };
        let all = own("spiffe://example.org/*", "all", 0xaa);
        assert_eq!(appraise(vec![all.clone()], &process()), matches("all"));
        let group = set("group", 0xbb);
        assert!(detail(appraise(vec![all.clone(), group.clone()], &process())).contains("`group`"));
        let mut one = own("spiffe://example.org/ns/payments/api", "one", 0xcc);
        assert!(
            detail(appraise(vec![all.clone(), group.clone(), one.clone()], &process())).contains("`one`")
        );
        one.not_after = NOW.wall;
        assert_eq!(appraise(vec![all, group, one], &process()), Appraisal::Expired { set: "one".into() });
    }

    #[test]
    fn malformed_sets_are_refused_when_put_and_when_loaded() {
        type Change = fn(&mut ReferenceSet);
        let cases: [(Change, ReferenceError); 10] = [
            (|set| set.name = String::new(), ReferenceError::Name),
            (|set| set.name = "a b".into(), ReferenceError::Name),
            (|set| set.process.executables.clear(), ReferenceError::ListEmpty("executables")),
            (|set| set.process.uids = Some([].into()), ReferenceError::ListEmpty("uids")),
            (|set| set.process.gids = Some([].into()), ReferenceError::ListEmpty("gids")),
            (|set| set.process.nodes = Some([].into()), ReferenceError::ListEmpty("nodes")),
            (|set| set.process.cgroups = Some([].into()), ReferenceError::ListEmpty("cgroups")),
            (|set| set.process.systemd_units = Some([].into()), ReferenceError::ListEmpty("systemd_units")),
            (|set| set.process.programs = vec![vec![]], ReferenceError::ListEmpty("programs")),
            (
                |set| set.process.executables[0].path = Some("bin/pay".into()),
                ReferenceError::Path("bin/pay".into()),
            ),
        ];
        for (change, error) in cases {
            let mut set = set("a", 0xaa);
            change(&mut set);
            assert_eq!(check(&set), Err(error.clone()));
            assert_eq!(ReferenceValues::new(vec![set], BTreeSet::new()).unwrap_err(), error);
        }
        let twice = ReferenceValues::new(vec![set("a", 0xaa), set("a", 0xbb)], BTreeSet::new());
        assert_eq!(twice.unwrap_err(), ReferenceError::NameRepeated("a".into()));
    }

    const WRITTEN: &str = r#"
        [[set]]
        name = "a"
        workload = "spiffe://example.org/ns/payments/*"
        not_after = 2027-01-15T08:00:00Z
        [set.process]
        executables = [{ sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" }]
    "#;

    #[test]
    fn sets_are_read_from_toml_and_from_json() {
        assert_eq!(parse_toml(WRITTEN).unwrap(), [set("a", 0xaa)]);
        let quoted = WRITTEN.replace("2027-01-15T08:00:00Z", "\"2027-01-15T08:00:00Z\"");
        assert_eq!(parse_toml(&quoted).unwrap(), [set("a", 0xaa)]);
        let json = serde_json::to_string(&serde_json::json!({ "set": [set("a", 0xaa)] })).unwrap();
        assert_eq!(parse_json(&json).unwrap(), [set("a", 0xaa)]);
    }

    #[test]
    fn what_a_set_must_say_cannot_be_left_out_and_nothing_unknown_is_passed_over() {
        for (from, to) in [
            ("not_after = 2027-01-15T08:00:00Z", ""),
            ("2027-01-15T08:00:00Z", "2027-01-15"),
            ("2027-01-15T08:00:00Z", "1800000000000"),
            ("executables = ", "executable = "),
            ("sha256 = ", "sha512 = "),
            ("[set.process]", "[set.process]\nuid = [0]"),
            ("[[set]]", "[[sets]]"),
            ("/*", "*"),
        ] {
            assert!(WRITTEN.contains(from));
            assert!(parse_toml(&WRITTEN.replacen(from, to, 1)).is_err(), "{from} -> {to}");
        }
    }
}
