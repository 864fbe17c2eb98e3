//! Reference values: what a workload's evidence must claim, and until when that is vouched for.
//!
//! *Takes* an administrator's [`ReferenceSet`]s, then verified claims. *Gives* [`ReferenceValues`], then [`Appraisal`].
//! *Denies* by anything but `Appraisal::Matches`: `MeasurementMismatch`, `ReferenceValuesExpired`, `ReferenceValuesMissing`
//! are the stage's names for the rest. *Source*: RFC 9334 §8.3, §9.1; `protocol.md`, the `process` document.

use super::claims::{Claims, ProcessClaims};
pub use super::reference_set::{FileReference, ProcessReference, ReferenceError, ReferenceSet};
use crate::limits;
use crate::spiffe::SpiffeId;
use crate::time::{Now, WallTime};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// They are those of a current set, and the platform behind them is not acceptable.
    NotAcceptable {
        /// Its name.
        set: String,
        /// What is wrong with the platform.
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
    pub fn appraise(&self, id: &SpiffeId, claims: &Claims, now: Now) -> Appraisal {
        let sets = self.sets_for(id);
        let (ended, current): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| set.has_ended(now));
        let fits = |set: &&&ReferenceSet| self.differences(set, claims).is_empty();
        let fitting: Vec<&&ReferenceSet> = current.iter().filter(fits).collect();
        let acceptable = |set: &&&&ReferenceSet| set.acceptable(claims).is_ok();
        if let Some(set) = fitting.iter().filter(acceptable).max_by_key(|set| set.not_after) {
            return Appraisal::Matches { set: set.name.clone(), not_after: set.not_after };
        }
        let unacceptable = fitting.iter().find_map(|set| Some((set, set.acceptable(claims).err()?)));
        if let Some((set, refusal)) = unacceptable {
            return Appraisal::NotAcceptable { set: set.name.clone(), detail: refusal.detail };
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

    fn differences(&self, set: &ReferenceSet, claims: &Claims) -> Vec<String> {
        let mut differing = set.differences(claims);
        let launches = |process: &ProcessClaims| {
            process.program.is_none() && self.known_launchers.contains(&process.executable_sha256)
        };
        if claims.process.as_ref().is_some_and(launches) {
            differing.push("a launcher without its program".to_owned());
        }
        differing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appraisal::claims::Program;
    use crate::appraisal::claims::tests::process;
    use crate::appraisal::reference_set::tests::{LATER, NOW, check, file, launcher, process_of, set};
    use crate::appraisal::reference_text::{CgroupPattern, VerityDigest};
    use crate::spiffe::IdPattern;

    fn program(bytes: &[u8]) -> ProcessClaims {
        let programs = bytes.iter().map(|byte| Program { path: "/opt/job".into(), sha256: [*byte; 32] });
        ProcessClaims { program: Some(programs.collect()), ..process() }
    }

    fn appraise(sets: Vec<ReferenceSet>, claims: &ProcessClaims) -> Appraisal {
        let id = SpiffeId::parse("spiffe://example.org/ns/payments/api").unwrap();
        ReferenceValues::new(sets, BTreeSet::new()).unwrap().appraise(&id, &of(claims), NOW)
    }

    fn of(process: &ProcessClaims) -> Claims {
        Claims { process: Some(process.clone()), ..Claims::default() }
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
            fits(process_of(&mut good));
            assert_eq!(appraise(vec![good], &process()), matches("a"), "{word}");
            let mut bad = set("a", 0xaa);
            differs(process_of(&mut bad));
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
        process_of(&mut set).systemd_units = Some(["pay.service".into()].into());
        let claims = ProcessClaims { systemd_unit: None, ..process() };
        assert!(detail(appraise(vec![set], &claims)).ends_with("allow no systemd unit"));
    }

    #[test]
    fn an_fs_verity_digest_is_compared_whole() {
        let mut set = set("a", 0xaa);
        process_of(&mut set).fs_verity = Some([VerityDigest::parse(&"ab".repeat(32)).unwrap()].into());
        let claims = |bytes| ProcessClaims { fs_verity: Some(bytes), ..process() };
        assert_eq!(appraise(vec![set.clone()], &claims(vec![0xab; 32])), matches("a"));
        for bytes in [vec![0xab; 31], vec![0xab; 64], vec![]] {
            assert!(matches!(appraise(vec![set.clone()], &claims(bytes)), Appraisal::Mismatch { .. }));
        }
    }

    #[test]
    fn the_nearest_set_is_named() {
        let mut far = set("far", 0xbb);
        process_of(&mut far).uids = Some([0].into());
        let mut near = set("near", 0xaa);
        process_of(&mut near).uids = Some([0].into());
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
    fn a_known_launcher_never_matches_a_set_that_was_put_before_it_was_known() {
        let id = SpiffeId::parse("spiffe://example.org/ns/payments/api").unwrap();
        let values = ReferenceValues::new(vec![set("a", 0xaa)], [[0xaa; 32]].into()).unwrap();
        let detail = detail(values.appraise(&id, &of(&process()), NOW));
        assert!(detail.ends_with("a launcher without its program"), "{detail}");
    }

    #[test]
    fn a_set_at_its_not_after_is_expired() {
        let ending = |wall| Now { wall, ..NOW };
        let values = ReferenceValues::new(vec![set("a", 0xaa)], BTreeSet::new()).unwrap();
        let id = SpiffeId::parse("spiffe://example.org/ns/payments/api").unwrap();
        assert_eq!(values.appraise(&id, &of(&process()), ending(WallTime(LATER.0 - 1))), matches("a"));
        assert_eq!(
            values.appraise(&id, &of(&process()), ending(LATER)),
            Appraisal::Expired { set: "a".into() }
        );
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
}
