//! What becomes of triples, section by section, and what is refused rather than left out.

use super::*;
use crate::appraisal::reference_set::ReferenceSet;
use crate::spiffe::IdPattern;
use std::collections::BTreeSet;

const END: WallTime = WallTime(1_800_000_000_000);

fn named(text: &str) -> Option<Identifier> {
    Some(Identifier::Text(text.into()))
}

fn numbered(number: u64) -> Option<Identifier> {
    Some(Identifier::Number(number))
}

fn digest(algorithm: DigestAlgorithm, byte: u8) -> Digest {
    let length = match algorithm {
        DigestAlgorithm::Sha256 => 32,
        DigestAlgorithm::Sha384 => 48,
        DigestAlgorithm::Sha512 => 64,
    };
    Digest { algorithm, value: vec![byte; length] }
}

fn sha384(key: Option<Identifier>, byte: u8) -> Measurement {
    Measurement { key, digests: vec![digest(DigestAlgorithm::Sha384, byte)], ..Measurement::default() }
}

fn svn(key: &str, svn: Svn) -> Measurement {
    Measurement { key: named(key), svn: Some(svn), ..Measurement::default() }
}

fn raw(key: &str, value: Vec<u8>, mask: Option<Vec<u8>>) -> Measurement {
    Measurement { key: named(key), raw_value: Some(RawValue { value, mask }), ..Measurement::default() }
}

fn triple(measurements: Vec<Measurement>) -> ReferenceTriple {
    let environment = Environment { model: Some("RoadRunner".into()), ..Environment::default() };
    ReferenceTriple { environment, measurements }
}

fn manifest(references: Vec<ReferenceTriple>) -> Manifest {
    Manifest {
        id: Identifier::Text("m".into()),
        signer: "ACME".into(),
        profiles: vec![],
        not_before: None,
        not_after: None,
        references,
        passed_over: vec![],
    }
}

fn wanted(section: Section) -> Wanted {
    Wanted {
        section,
        name: "set".into(),
        workload: IdPattern::parse("spiffe://example.org/ns/pay/*").unwrap(),
        not_after: END,
        triples: BTreeSet::new(),
        pass_over: false,
    }
}

/// The only set; its shape may be put.
fn set(section: Section, measurements: Vec<Measurement>) -> ReferenceSet {
    let all = sets(&manifest(vec![triple(measurements)]), &wanted(section)).unwrap();
    let [one] = all.as_slice() else { panic!("one set") };
    assert_eq!(one.set.check_shape(), Ok(()));
    assert_eq!((one.set.name.as_str(), one.set.not_after, one.triple), ("set", END, 1));
    assert_eq!(one.environment, "model `RoadRunner`");
    one.set.clone()
}

fn refused(section: Section, measurements: Vec<Measurement>) -> Unmappable {
    match sets(&manifest(vec![triple(measurements)]), &wanted(section)) {
        Err(ImportError::Triple(1, error)) => error,
        other => panic!("{other:?}"),
    }
}

fn json(section: Section, measurements: Vec<Measurement>) -> serde_json::Value {
    serde_json::to_value(set(section, measurements)).unwrap()[section.name()].clone()
}

#[test]
fn pcrs_come_by_key_and_by_register_into_their_banks() {
    let registers = vec![(Identifier::Number(8), vec![digest(DigestAlgorithm::Sha384, 2)])];
    let by_register = Measurement { registers, ..Measurement::default() };
    let nitro = json(Section::Nitro, vec![sha384(numbered(0), 1), by_register]);
    assert_eq!(nitro["pcrs"]["0"], serde_json::json!(["01".repeat(48)]));
    assert_eq!(nitro["pcrs"]["8"], serde_json::json!(["02".repeat(48)]));
    assert_eq!(nitro["allow_debug"], false);
    let both = vec![digest(DigestAlgorithm::Sha256, 3), digest(DigestAlgorithm::Sha384, 4)];
    let tpm2 =
        json(Section::Tpm2, vec![Measurement { key: numbered(7), digests: both, ..Measurement::default() }]);
    assert_eq!(tpm2["pcrs"]["sha256"]["7"], serde_json::json!(["03".repeat(32)]));
    assert_eq!(tpm2["pcrs"]["sha384"]["7"], serde_json::json!(["04".repeat(48)]));
}

#[test]
fn a_trust_domain_comes_by_names_and_by_numbers_of_rtmrs() {
    let all = vec![
        sha384(named("mrtd"), 1),
        sha384(numbered(1), 2),
        sha384(named("rtmr2"), 3),
        raw("xfam", vec![7; 8], None),
    ];
    let tdx = json(Section::Tdx, all);
    assert_eq!(tdx["mrtd"], serde_json::json!(["01".repeat(48)]));
    assert_eq!(tdx["rtmr1"], serde_json::json!(["02".repeat(48)]));
    assert_eq!(tdx["rtmr2"], serde_json::json!(["03".repeat(48)]));
    assert_eq!(tdx["xfam"], serde_json::json!(["07".repeat(8)]));
}

fn guest() -> Vec<Measurement> {
    let tcb = ["bootloader", "tee", "snp", "microcode"];
    let tcb = tcb.map(|component| svn(&format!("tcb.milan.{component}"), Svn::AtLeast(5)));
    [sha384(named("measurement"), 1)].into_iter().chain(tcb).collect()
}

#[test]
fn a_guest_comes_with_the_least_tcb_of_its_products() {
    let snp = json(Section::SevSnp, guest());
    assert_eq!(snp["measurements"], serde_json::json!(["01".repeat(48)]));
    let least = serde_json::json!({ "bootloader": 5, "tee": 5, "snp": 5, "microcode": 5 });
    assert_eq!(snp["minimum_tcb"], serde_json::json!({ "milan": least }));
    let shape = |measurements| sets(&manifest(vec![triple(measurements)]), &wanted(Section::SevSnp));
    // A component that is missing, one that no TCB has, a product that is none: none of them becomes a zero.
    let mut cut = guest();
    cut.pop();
    let missing = shape(cut).unwrap_err();
    assert!(
        matches!(&missing, ImportError::Shape(1, "sev-snp", why) if why.contains("microcode")),
        "{missing}"
    );
    for (name, least) in [("tcb.milan.fan", 1), ("tcb.rome.snp", 1), ("tcb.milan.snp2", 1)] {
        let more = guest().into_iter().chain([svn(name, Svn::AtLeast(least))]).collect();
        assert!(matches!(shape(more), Err(ImportError::Shape(1, "sev-snp", _))), "{name}");
    }
    let high = guest().into_iter().chain([svn("tcb.genoa.snp", Svn::AtLeast(256))]).collect();
    assert!(matches!(shape(high), Err(ImportError::Shape(1, "sev-snp", _))));
}

#[test]
fn one_executable_comes_by_its_sha256() {
    let file = |key| Measurement {
        key,
        digests: vec![digest(DigestAlgorithm::Sha256, 9)],
        ..Measurement::default()
    };
    let process = json(Section::Process, vec![file(named("executable"))]);
    assert_eq!(process["executables"], serde_json::json!([{ "sha256": "09".repeat(32) }]));
    let twice = refused(Section::Process, vec![file(named("executable")), file(named("executable"))]);
    assert_eq!(twice, Unmappable::Repeated("executable".into()));
    let by_uuid = refused(Section::Process, vec![file(Some(Identifier::Uuid([1; 16])))]);
    assert!(matches!(by_uuid, Unmappable::Element { section: "process", .. }), "{by_uuid}");
}

#[test]
fn what_a_section_cannot_say_is_refused_by_name_and_never_left_out() {
    let good = || sha384(numbered(0), 1);
    type Change = fn(&mut Measurement);
    let conditions: [(Change, &str); 6] = [
        (|one| one.version = Some(("1".into(), None)), "`version`"),
        (|one| one.name = Some("firmware".into()), "`name`"),
        (|one| one.svn = Some(Svn::Exactly(1)), "an exact `svn`"),
        (|one| one.key = None, "values of no element"),
        (|one| one.raw_value = Some(RawValue { value: vec![1], mask: Some(vec![1]) }), "`raw-value-mask`"),
        (
            |one| one.registers = vec![(Identifier::Number(1), vec![digest(DigestAlgorithm::Sha384, 1)])],
            "`integrity-registers` of one element",
        ),
    ];
    for section in Section::ALL {
        for (change, name) in conditions {
            let mut measurement = good();
            change(&mut measurement);
            let error = refused(section, vec![measurement]);
            assert!(
                matches!(&error, Unmappable::Condition(_, what) if *what == name),
                "{section:?}: {error}"
            );
        }
        let mut narrow = triple(vec![good()]);
        narrow.environment.instance = numbered(1);
        let narrow = sets(&manifest(vec![narrow]), &wanted(section)).unwrap_err();
        assert_eq!(narrow, ImportError::Triple(1, Unmappable::Environment("instance")));
        let foreign = refused(section, vec![sha384(named("PCR0"), 1)]);
        assert!(matches!(foreign, Unmappable::Element { .. }), "{section:?}: {foreign}");
    }
    let least = Measurement { svn: Some(Svn::AtLeast(1)), ..good() };
    assert!(matches!(refused(Section::Nitro, vec![least]), Unmappable::Element { kind: "a least SVN", .. }));
    let sha256 = Measurement { digests: vec![digest(DigestAlgorithm::Sha256, 1)], ..good() };
    assert_eq!(refused(Section::Nitro, vec![sha256]), Unmappable::Digest("0".into(), "sha384"));
    let two = vec![digest(DigestAlgorithm::Sha384, 1), digest(DigestAlgorithm::Sha256, 1)];
    let two = refused(Section::Nitro, vec![Measurement { digests: two, ..good() }]);
    assert_eq!(two, Unmappable::Digest("0".into(), "sha384"));
    assert_eq!(refused(Section::Nitro, vec![good(), good()]), Unmappable::Repeated("0".into()));
    // No such PCR: the section's own word.
    let beyond = sets(&manifest(vec![triple(vec![sha384(numbered(32), 1)])]), &wanted(Section::Nitro));
    assert!(matches!(beyond, Err(ImportError::Shape(1, "nitro", _))), "{beyond:?}");
}

#[test]
fn several_triples_are_sets_of_their_own_or_the_one_that_is_chosen() {
    let two = manifest(vec![triple(vec![sha384(numbered(0), 1)]), triple(vec![sha384(numbered(0), 2)])]);
    let names = |wanted: &Wanted| {
        let sets = sets(&two, wanted).unwrap();
        sets.into_iter().map(|one| (one.set.name, one.triple)).collect::<Vec<_>>()
    };
    let all = wanted(Section::Nitro);
    assert_eq!(names(&all), [("set-1".into(), 1), ("set-2".into(), 2)]);
    let second = Wanted { triples: BTreeSet::from([2]), ..all.clone() };
    assert_eq!(names(&second), [("set-2".into(), 2)]);
    let third = Wanted { triples: BTreeSet::from([2, 3]), ..all.clone() };
    assert_eq!(sets(&two, &third).unwrap_err(), ImportError::NoSuchTriple(3, 2));
    // One that does not map takes the others with it.
    let broken = manifest(vec![triple(vec![sha384(numbered(0), 1)]), triple(vec![sha384(named("x"), 2)])]);
    assert!(matches!(sets(&broken, &all), Err(ImportError::Triple(2, _))));
}

#[test]
fn a_manifest_of_another_profile_or_with_more_in_it_is_refused_and_none_outlives_its_end() {
    let good = manifest(vec![triple(vec![sha384(numbered(0), 1)])]);
    let all = wanted(Section::Nitro);
    let of =
        |profiles: Vec<Identifier>| sets(&Manifest { profiles, ..good.clone() }, &all).map(|sets| sets.len());
    assert_eq!(of(vec![Identifier::Text(PROFILE.into())]), Ok(1));
    let foreign = "http://arm.com/psa/iot/1";
    let both = vec![Identifier::Text(PROFILE.into()), Identifier::Text(foreign.into())];
    assert_eq!(of(both), Err(ImportError::Profile(foreign.into())));
    assert_eq!(of(vec![Identifier::Oid(vec![1])]), Err(ImportError::Profile("01".into())));
    let until = |end| sets(&Manifest { not_after: Some(end), ..good.clone() }, &all).map(|sets| sets.len());
    assert_eq!(until(END), Ok(1));
    let before = WallTime(END.0 - 1);
    assert_eq!(until(before), Err(ImportError::Outlives { asked: END, end: before }));
    let more = Manifest { passed_over: vec!["triples of kind 1".into()], ..good.clone() };
    assert_eq!(sets(&more, &all).unwrap_err(), ImportError::PassedOver(vec!["triples of kind 1".into()]));
    assert_eq!(sets(&more, &Wanted { pass_over: true, ..all }).unwrap().len(), 1);
}
