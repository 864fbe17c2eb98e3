//! A reference set: what some workloads may be, until when, as an administrator writes it.
//!
//! *Takes* TOML or JSON. *Gives* [`ReferenceSet`], checked before it is put, and how claims differ from it. *Denies* nothing
//! itself. *Source*: RFC 9334 §8.3 (reference values); `protocol.md`, the `process` document.

use super::claims::{Claims, ProcessClaims, Program};
use super::nitro_reference::{NitroReference, NitroReferenceError};
use super::reference_text::{CgroupPattern, FileDigest, VerityDigest, not_after_text};
use super::sev_snp_reference::{self, SevSnpReference, SevSnpReferenceError};
use super::tdx_reference::{TdxPlatform, TdxReference, TdxReferenceError};
use super::tpm2_reference::{Tpm2Reference, Tpm2ReferenceError};
use crate::evidence::outcome::Refusal;
use crate::limits;
use crate::spiffe::IdPattern;
use crate::time::{Now, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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
    /// What a `process` document must claim. At least one of these sections is there, and each that is there demands a
    /// document of its format. A document of another format is not held against this set, but must be acceptable by the
    /// defaults of its format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessReference>,
    /// What a `tpm2` document must claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm2: Option<Tpm2Reference>,
    /// What a `nitro` document must claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nitro: Option<NitroReference>,
    /// What a `sev-snp` document must claim.
    #[serde(default, rename = "sev-snp", skip_serializing_if = "Option::is_none")]
    pub sev_snp: Option<SevSnpReference>,
    /// What a `tdx` document must claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxReference>,
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
    /// No section says what any document must claim.
    #[error("no section (`process`, `tpm2`, `nitro`, `sev-snp`, `tdx`) says what evidence must claim")]
    NoSection,
    /// The section `tpm2` is refused.
    #[error("tpm2: {0}")]
    Tpm2(#[from] Tpm2ReferenceError),
    /// The section `nitro` is refused.
    #[error("nitro: {0}")]
    Nitro(#[from] NitroReferenceError),
    /// The section `sev-snp` is refused.
    #[error("sev-snp: {0}")]
    SevSnp(#[from] SevSnpReferenceError),
    /// The section `tdx` is refused.
    #[error("tdx: {0}")]
    Tdx(#[from] TdxReferenceError),
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
        let Some(process) = &self.process else { return Ok(()) };
        let known = |file: &&FileReference| known_launchers.contains(file.sha256.as_bytes());
        match process.executables.iter().find(known) {
            Some(file) if !process.launcher => Err(ReferenceError::KnownLauncher(file.sha256.to_string())),
            _ => Ok(()),
        }
    }

    /// What does not depend on time.
    pub(super) fn check_shape(&self) -> Result<(), ReferenceError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = self.name.as_bytes();
        if name.is_empty() || name.len() > limits::POLICY_NAME_BYTES || !name.iter().copied().all(allowed) {
            return Err(ReferenceError::Name);
        }
        let hardware =
            [self.tpm2.is_some(), self.nitro.is_some(), self.sev_snp.is_some(), self.tdx.is_some()];
        if self.process.is_none() && !hardware.contains(&true) {
            return Err(ReferenceError::NoSection);
        }
        self.process.as_ref().map_or(Ok(()), ProcessReference::check_shape)?;
        self.tpm2.as_ref().map_or(Ok(()), Tpm2Reference::check_shape)?;
        self.nitro.as_ref().map_or(Ok(()), NitroReference::check_shape)?;
        self.sev_snp.as_ref().map_or(Ok(()), SevSnpReference::check_shape)?;
        Ok(self.tdx.as_ref().map_or(Ok(()), TdxReference::check_shape)?)
    }

    /// How the documents differ from what the set says, in words; none where all are as it says. A section without its
    /// document differs.
    pub(super) fn differences(&self, claims: &Claims) -> Vec<String> {
        fn of<R, C>(
            format: &str,
            reference: &Option<R>,
            claims: &Option<C>,
            differences: impl Fn(&R, &C) -> Vec<String>,
        ) -> Vec<String> {
            match (reference, claims) {
                (None, _) => Vec::new(),
                (Some(_), None) => vec![format!("evidence without a `{format}` document")],
                (Some(reference), Some(claims)) => differences(reference, claims),
            }
        }
        [
            of("process", &self.process, &claims.process, ProcessReference::differences),
            of("tpm2", &self.tpm2, &claims.tpm2, Tpm2Reference::differences),
            of("nitro", &self.nitro, &claims.nitro, NitroReference::differences),
            of("sev-snp", &self.sev_snp, &claims.sev_snp, SevSnpReference::differences),
            of("tdx", &self.tdx, &claims.tdx, TdxReference::differences),
        ]
        .concat()
    }

    /// Whether each genuine document is acceptable, by its section or the defaults of its format. **Denies**
    /// `PlatformNotAcceptable`.
    pub(super) fn acceptable(&self, claims: &Claims) -> Result<(), Refusal> {
        if let Some(claims) = &claims.tpm2 {
            self.tpm2.as_ref().unwrap_or(&Tpm2Reference::default()).acceptable(claims)?;
        }
        if let Some(claims) = &claims.nitro {
            self.nitro.as_ref().unwrap_or(&NitroReference::default()).acceptable(claims)?;
        }
        if let Some(claims) = &claims.sev_snp {
            sev_snp_reference::acceptable(claims, self.sev_snp.as_ref())?;
        }
        if let Some(claims) = &claims.tdx {
            match &self.tdx {
                Some(tdx) => tdx.acceptable(claims)?,
                None => TdxPlatform::default().acceptable(claims)?,
            }
        }
        Ok(())
    }

    pub(super) fn has_ended(&self, now: Now) -> bool {
        now.wall >= self.not_after
    }
}

impl ProcessReference {
    fn check_shape(&self) -> Result<(), ReferenceError> {
        self.check_lists()?;
        if self.launcher && self.programs.is_empty() {
            return Err(ReferenceError::LauncherWithoutPrograms);
        }
        if !self.launcher && !self.programs.is_empty() {
            return Err(ReferenceError::ProgramsWithoutLauncher);
        }
        let files = self.executables.iter().chain(self.programs.iter().flatten());
        match files.filter_map(|file| file.path.as_ref()).find(|path| !path.starts_with('/')) {
            Some(path) => Err(ReferenceError::Path(path.clone())),
            None => Ok(()),
        }
    }

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
    pub(super) fn differences(&self, claims: &ProcessClaims) -> Vec<String> {
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
pub(super) mod tests {
    use super::*;
    use crate::appraisal::reference_text::{parse_json, parse_toml};
    use crate::appraisal::reference_values::ReferenceValues;
    use crate::time::BootTime;

    pub(in crate::appraisal) const NOW: Now =
        Now { wall: WallTime(1_790_000_000_000), boot: BootTime(5_000) };
    pub(in crate::appraisal) const LATER: WallTime = WallTime(1_800_000_000_000);

    pub(in crate::appraisal) fn digest(byte: u8) -> FileDigest {
        FileDigest::parse(&hex::encode([byte; 32])).unwrap()
    }

    pub(in crate::appraisal) fn file(byte: u8) -> FileReference {
        FileReference { sha256: digest(byte), path: None }
    }

    pub(in crate::appraisal) fn set(name: &str, executable: u8) -> ReferenceSet {
        ReferenceSet {
            name: name.into(),
            workload: IdPattern::parse("spiffe://example.org/ns/payments/*").unwrap(),
            not_after: LATER,
            process: Some(ProcessReference {
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
            }),
            tpm2: None,
            nitro: None,
            sev_snp: None,
            tdx: None,
        }
    }

    /// The section `process` of a set that has one.
    pub(in crate::appraisal) fn process_of(set: &mut ReferenceSet) -> &mut ProcessReference {
        set.process.as_mut().unwrap()
    }

    pub(in crate::appraisal) fn launcher(name: &str, programs: Vec<Vec<FileReference>>) -> ReferenceSet {
        let mut set = set(name, 0xaa);
        process_of(&mut set).launcher = true;
        process_of(&mut set).programs = programs;
        set
    }

    pub(in crate::appraisal) fn check(set: &ReferenceSet) -> Result<(), ReferenceError> {
        set.check(NOW, &BTreeSet::new())
    }

    #[test]
    fn a_set_that_names_a_launcher_without_programs_is_refused() {
        assert_eq!(check(&launcher("a", vec![])), Err(ReferenceError::LauncherWithoutPrograms));
        let mut programs_only = launcher("a", vec![vec![file(0xbb)]]);
        process_of(&mut programs_only).launcher = false;
        assert_eq!(check(&programs_only), Err(ReferenceError::ProgramsWithoutLauncher));
        let known = BTreeSet::from([[0xaa; 32]]);
        assert_eq!(set("a", 0xaa).check(NOW, &known), Err(ReferenceError::KnownLauncher("aa".repeat(32))));
        assert_eq!(launcher("a", vec![vec![file(0xbb)]]).check(NOW, &known), Ok(()));
        assert_eq!(set("a", 0xbb).check(NOW, &known), Ok(()));
    }

    #[test]
    fn malformed_sets_are_refused_when_put_and_when_loaded() {
        type Change = fn(&mut ReferenceSet);
        let cases: [(Change, ReferenceError); 10] = [
            (|set| set.name = String::new(), ReferenceError::Name),
            (|set| set.name = "a b".into(), ReferenceError::Name),
            (|set| process_of(set).executables.clear(), ReferenceError::ListEmpty("executables")),
            (|set| process_of(set).uids = Some([].into()), ReferenceError::ListEmpty("uids")),
            (|set| process_of(set).gids = Some([].into()), ReferenceError::ListEmpty("gids")),
            (|set| process_of(set).nodes = Some([].into()), ReferenceError::ListEmpty("nodes")),
            (|set| process_of(set).cgroups = Some([].into()), ReferenceError::ListEmpty("cgroups")),
            (
                |set| process_of(set).systemd_units = Some([].into()),
                ReferenceError::ListEmpty("systemd_units"),
            ),
            (|set| process_of(set).programs = vec![vec![]], ReferenceError::ListEmpty("programs")),
            (
                |set| process_of(set).executables[0].path = Some("bin/pay".into()),
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

    #[test]
    fn the_example_sets_may_be_put() {
        let sets = parse_toml(include_str!("../../deploy/examples/reference-values.toml")).unwrap();
        assert_eq!(sets.iter().map(check).collect::<Vec<_>>(), [Ok(()), Ok(()), Ok(())]);
        assert_eq!(ReferenceValues::new(sets, BTreeSet::new()).unwrap().sets().count(), 3);
    }
}
