//! Enrolment: one defect at a time, with a TPM in software under a manufacturer of our own.

use super::enroll::{Credential, Manufacturers, Pending, Request, Revocation, VouchedBy, begin};
use super::tests::{at, soft};
use super::*;
use crate::denial::Denial;
use crate::evidence::outcome::Checks;
use crate::time::{BootTime, Now, WallTime};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use soft::{Ak, Ek};
use std::collections::BTreeSet;

/// 2026-11-23.
const NOW: u64 = 1_795_500_000;

fn noon() -> Now {
    at(NOW)
}

/// A manufacturer: root, and an intermediate that certifies EKs.
struct Manufacturer {
    root: CertifiedIssuer<'static, KeyPair>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Manufacturer {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let root = CertifiedIssuer::self_signed(authority("TPM root"), KeyPair::generate().unwrap()).unwrap();
        let mut params = authority("TPM issuer");
        change(&mut params);
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
        Manufacturer { root, issuer }
    }

    fn certify(&self, ek: &Ek, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = ek_params();
        change(&mut params);
        let spki = rcgen::SubjectPublicKeyInfo::from_der(ek.spki()).unwrap();
        params.signed_by(&spki, &self.issuer).unwrap().der().to_vec()
    }

    fn trusted(&self, revocation: Revocation) -> Manufacturers {
        Manufacturers::none()
            .and_roots(self.root.der(), revocation)
            .unwrap()
            .and_intermediates(self.issuer.pem().as_bytes())
            .unwrap()
    }

    /// A list of what `issuer` revoked, until this day of 2026-12.
    fn list(issuer: &CertifiedIssuer<'static, KeyPair>, revoked: Option<u64>, until: u8) -> Vec<u8> {
        let revoked = revoked.map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 11, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 11, 1),
            next_update: date_time_ymd(2026, 12, until),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.into_iter().collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(issuer).unwrap().der().to_vec()
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&[(DnType::CommonName, name)]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2045, 1, 1);
    params
}

fn named(attributes: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    attributes.iter().for_each(|(kind, text)| name.push(kind.clone(), *text));
    name
}

const MANUFACTURER: &[u64] = &[2, 23, 133, 2, 1];
const MODEL: &[u64] = &[2, 23, 133, 2, 2];
const VERSION: &[u64] = &[2, 23, 133, 2, 3];

fn tpm_name() -> Vec<(DnType, &'static str)> {
    let of = |oid: &[u64]| DnType::CustomDnType(oid.to_vec());
    vec![(of(MANUFACTURER), "id:54455354"), (of(MODEL), "soft"), (of(VERSION), "id:00010000")]
}

/// As the profile has it, but that rcgen writes no critical names: an empty subject makes them so.
fn ek_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(77_u64));
    params.custom_extensions = vec![directory_name(&tpm_name())];
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2036, 1, 1);
    params.is_ca = IsCa::ExplicitNoCa;
    params
}

/// subjectAltName { directoryName }, critical, which rcgen does not make.
fn directory_name(attributes: &[(DnType, &str)]) -> CustomExtension {
    let attribute = |(kind, text): &(DnType, &str)| {
        let DnType::CustomDnType(oid) = kind else { panic!("only the TCG's own") };
        let oid = [&[0x06, 0x05, 0x67, 0x81, 0x05], &[oid[3] as u8, oid[4] as u8][..]].concat();
        let text = [&[0x0c, text.len() as u8], text.as_bytes()].concat();
        let pair = [oid, text].concat();
        let sequence = [&[0x30, pair.len() as u8], pair.as_slice()].concat();
        [&[0x31, sequence.len() as u8], sequence.as_slice()].concat()
    };
    let sets: Vec<u8> = attributes.iter().flat_map(attribute).collect();
    let name = [&[0x30, sets.len() as u8], sets.as_slice()].concat();
    let general = [&[0xa4, name.len() as u8], name.as_slice()].concat();
    let names = [&[0x30, general.len() as u8], general.as_slice()].concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
    extension.set_criticality(true);
    extension
}

/// A node that wants to enrol, and what the broker trusts.
struct World {
    manufacturers: Manufacturers,
    approved: BTreeSet<[u8; 32]>,
    ek: Vec<u8>,
    certificate: Option<Vec<u8>>,
    issuers: Vec<Vec<u8>>,
    ak: Vec<u8>,
}

impl World {
    fn begin(&self, now: Now, checks: &mut Checks) -> Result<(Credential, Pending), Refusal> {
        let request = Request {
            ek_public: &self.ek,
            ek_certificate: self.certificate.as_deref(),
            issuers: &self.issuers,
            ak_public: &self.ak,
        };
        begin(&request, &self.manufacturers, &self.approved, now, checks)
    }

    fn denial(&self) -> (Denial, String) {
        let refusal = self.begin(noon(), &mut Checks::new()).map(|_| ()).unwrap_err();
        (refusal.denial, refusal.detail)
    }
}

fn world(ek: &Ek, ak: &Ak) -> World {
    let manufacturer = Manufacturer::new(|_| {});
    World {
        manufacturers: manufacturer.trusted(Revocation::NotPublished),
        approved: BTreeSet::new(),
        ek: ek.public(),
        certificate: Some(manufacturer.certify(ek, |_| {})),
        issuers: Vec::new(),
        ak: ak.public(),
    }
}

const LATER: WallTime = WallTime((NOW + 86_400) * 1000);

#[test]
fn a_key_of_a_certified_tpm_is_enrolled_whatever_the_kind_of_its_ek() {
    for ek in [Ek::rsa(), Ek::p256(), Ek::p384()] {
        let ak = Ak::p256();
        let mut checks = Checks::new();
        let (credential, pending) = world(&ek, &ak).begin(noon(), &mut checks).unwrap();
        let VouchedBy::Manufacturer(certificate) = pending.vouched_by() else { panic!("by a certificate") };
        assert_eq!(certificate.manufacturer, "id:54455354");
        let answer = ek.activate(&credential.id_object, &credential.encrypted_secret, &ak.name()).unwrap();
        let enrolled = pending.finish("node-1.example", &answer, LATER, noon(), &mut checks).unwrap();
        assert_eq!(enrolled.key.name().as_bytes(), ak.name());
        assert_eq!(enrolled.ek_sha256.to_vec(), Hash::Sha256.digest(&[ek.spki()]));
        assert_eq!((enrolled.node.as_str(), enrolled.not_after), ("node-1.example", LATER));
        let names: Vec<&str> = checks.all().iter().map(|check| check.name).collect();
        let expected = [
            "endorsement-key",
            "endorsement-certificate",
            "endorsement-key-certified",
            "attestation-key",
            "credential",
            "answer-in-time",
            "activation",
            "enrolment",
        ];
        assert_eq!(names, expected);
        // It is the enrolment that quotes are verified against.
        let trust = Tpm2Trust::new([enrolled], 1);
        let body = super::tests::good().signed(&ak);
        let due = &super::tests::BOUND;
        let seen = super::tests::none_seen;
        assert!(verify(&body, &[], due, &trust, &seen, noon(), &mut Checks::new()).is_ok());
    }
}

#[test]
fn a_credential_opens_for_no_other_key_and_in_no_other_tpm() {
    let (ek, other_ek, ak, other) = (Ek::rsa(), Ek::rsa(), Ak::p256(), Ak::p256());
    let (credential, _pending) = world(&ek, &ak).begin(noon(), &mut Checks::new()).unwrap();
    let Credential { id_object, encrypted_secret } = credential;
    assert!(ek.activate(&id_object, &encrypted_secret, &ak.name()).is_some());
    assert!(ek.activate(&id_object, &encrypted_secret, &other.name()).is_none());
    let foreign = std::panic::catch_unwind(|| other_ek.activate(&id_object, &encrypted_secret, &ak.name()));
    assert!(foreign.is_err() || foreign.unwrap().is_none());
    // Two challenges have nothing in common.
    let (again, _pending) = world(&ek, &ak).begin(noon(), &mut Checks::new()).unwrap();
    assert!(again.encrypted_secret != encrypted_secret && again.id_object != id_object);
}

#[test]
fn a_wrong_answer_enrols_nothing() {
    let (ek, ak) = (Ek::p256(), Ak::p256());
    let right = |answer: &[u8]| answer.to_vec();
    type Change = fn(&[u8]) -> Vec<u8>;
    let wrong: [Change; 5] = [
        |_| Vec::new(),
        |_| vec![0; 32],
        |answer| answer[..31].to_vec(),
        |answer| [answer, &[0]].concat(),
        |answer| [&[answer[0] ^ 1], &answer[1..]].concat(),
    ];
    let outcome = |change: &dyn Fn(&[u8]) -> Vec<u8>| {
        let (credential, pending) = world(&ek, &ak).begin(noon(), &mut Checks::new()).unwrap();
        let answer = ek.activate(&credential.id_object, &credential.encrypted_secret, &ak.name()).unwrap();
        pending.finish("node", &change(&answer), LATER, noon(), &mut Checks::new()).map_err(|r| r.denial)
    };
    assert!(outcome(&right).is_ok());
    for change in wrong {
        assert_eq!(outcome(&change), Err(Denial::EndorsementUntrusted));
    }
}

#[test]
fn an_answer_counts_for_ten_minutes_by_both_clocks() {
    let (ek, ak) = (Ek::p256(), Ak::p256());
    let after = |wall: i64, boot: u64| {
        let (credential, pending) = world(&ek, &ak).begin(noon(), &mut Checks::new()).unwrap();
        let answer = ek.activate(&credential.id_object, &credential.encrypted_secret, &ak.name()).unwrap();
        let wall = WallTime(noon().wall.0.checked_add_signed(wall).unwrap());
        let now = Now { wall, boot: BootTime(noon().boot.0 + boot) };
        pending.finish("node", &answer, LATER, now, &mut Checks::new()).err().map(|r| r.denial)
    };
    assert_eq!(after(599_999, 599_999), None);
    assert_eq!(after(600_000, 10), Some(Denial::ChallengeExpired));
    assert_eq!(after(10, 600_000), Some(Denial::ChallengeExpired));
    assert_eq!(after(-3_600_000, 600_000), Some(Denial::ChallengeExpired));
}

#[test]
fn an_enrolment_ends_with_the_first_of_its_certificates() {
    let (ek, ak) = (Ek::p256(), Ak::p256());
    let ends = |not_after| {
        let (credential, pending) = world(&ek, &ak).begin(noon(), &mut Checks::new()).unwrap();
        let answer = ek.activate(&credential.id_object, &credential.encrypted_secret, &ak.name()).unwrap();
        pending.finish("node", &answer, not_after, noon(), &mut Checks::new())
    };
    let certificate_ends = WallTime::from_seconds(date_time_ymd(2036, 1, 1).unix_timestamp());
    assert_eq!(ends(WallTime(u64::MAX)).unwrap().not_after, certificate_ends);
    assert_eq!(ends(LATER).unwrap().not_after, LATER);
    assert_eq!(ends(noon().wall).unwrap_err().denial, Denial::EndorsementExpired);
}

#[test]
fn an_ek_without_a_certificate_needs_an_administrator() {
    let (ek, ak) = (Ek::rsa(), Ak::p256());
    let mut world = world(&ek, &ak);
    world.certificate = None;
    let (denied, said) = world.denial();
    assert_eq!(denied, Denial::EndorsementUntrusted);
    let hash = Hash::Sha256.digest(&[ek.spki()]);
    assert!(said.contains(&hex::encode(&hash)), "{said}");
    world.approved = [[1; 32]].into();
    assert_eq!(world.denial().0, Denial::EndorsementUntrusted);
    world.approved = [hash.try_into().unwrap()].into();
    let (_, pending) = world.begin(noon(), &mut Checks::new()).unwrap();
    assert_eq!(*pending.vouched_by(), VouchedBy::Administrator);
}

#[test]
fn a_certificate_of_another_key_than_the_ek_is_refused() {
    let (ek, other, ak) = (Ek::rsa(), Ek::rsa(), Ak::p256());
    let mut world = world(&ek, &ak);
    world.ek = other.public();
    let (denied, said) = world.denial();
    assert_eq!(denied, Denial::EndorsementUntrusted);
    assert!(said.contains("another key"), "{said}");
}

#[test]
fn keys_with_wrong_attributes_are_refused() {
    let (ek, ak) = (Ek::rsa(), Ak::p256());
    for attributes in [
        soft::EK_ATTRIBUTES & !(1 << 1),
        soft::EK_ATTRIBUTES & !(1 << 4),
        soft::EK_ATTRIBUTES & !(1 << 5),
        soft::EK_ATTRIBUTES & !(1 << 16),
        soft::EK_ATTRIBUTES & !(1 << 17),
        soft::EK_ATTRIBUTES | 1 << 18,
    ] {
        let mut world = world(&ek, &ak);
        world.ek = ek.public_with(attributes);
        assert_eq!(world.denial().0, Denial::EndorsementUntrusted, "{attributes:x}");
    }
    let mut unrestricted = Ak::p256();
    unrestricted.attributes &= !(1 << 16);
    assert_eq!(world(&ek, &unrestricted).denial().0, Denial::EndorsementUntrusted);
    let mut broken = world(&ek, &ak);
    broken.ak.pop();
    assert_eq!(broken.denial().0, Denial::EvidenceMalformed);
    let mut broken = world(&ek, &ak);
    broken.ek.pop();
    assert_eq!(broken.denial().0, Denial::EvidenceMalformed);
    // An AK is no EK, and an EK no AK.
    let mut swapped = world(&ek, &ak);
    std::mem::swap(&mut swapped.ek, &mut swapped.ak);
    assert_eq!(swapped.denial().0, Denial::EndorsementUntrusted);
}

#[test]
fn certificates_that_are_not_of_an_ek_are_refused() {
    let ek = Ek::rsa();
    let manufacturer = Manufacturer::new(|_| {});
    let manufacturers = manufacturer.trusted(Revocation::NotPublished);
    type Change = fn(&mut CertificateParams);
    let cases: [(Change, Denial, &str); 9] = [
        (
            |params| params.extended_key_usages.clear(),
            Denial::EndorsementUntrusted,
            "not of an endorsement key",
        ),
        (
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Denial::EndorsementUntrusted,
            "not of an endorsement key",
        ),
        (
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
            Denial::EndorsementUntrusted,
            "not of an endorsement key",
        ),
        (
            |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            Denial::EndorsementUntrusted,
            "key usage",
        ),
        (
            |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Denial::EndorsementUntrusted,
            "authority",
        ),
        (|params| params.custom_extensions.clear(), Denial::EndorsementUntrusted, "manufacturer, model"),
        (
            |params| params.custom_extensions = vec![directory_name(&tpm_name()[..2])],
            Denial::EndorsementUntrusted,
            "manufacturer, model",
        ),
        (
            |params| {
                let twice = [&tpm_name()[..], &tpm_name()[..1]].concat();
                params.custom_extensions = vec![directory_name(&twice)];
            },
            Denial::EndorsementUntrusted,
            "manufacturer, model",
        ),
        (
            |params| {
                params.custom_extensions.clear();
                params.subject_alt_names = vec![SanType::DnsName("tpm.example".try_into().unwrap())];
            },
            Denial::EndorsementUntrusted,
            "manufacturer, model",
        ),
    ];
    assert!(manufacturers.check(&manufacturer.certify(&ek, |_| {}), &[], noon()).is_ok());
    for (change, denied, words) in cases {
        let certificate = manufacturer.certify(&ek, change);
        let refusal = manufacturers.check(&certificate, &[], noon()).unwrap_err();
        assert_eq!(refusal.denial, denied, "{}", refusal.detail);
        assert!(refusal.detail.contains(words), "{}, not {words}", refusal.detail);
    }
}

#[test]
fn an_issuer_may_come_along_and_is_trusted_no_more_for_it() {
    let ek = Ek::p256();
    let manufacturer = Manufacturer::new(|_| {});
    let certificate = manufacturer.certify(&ek, |_| {});
    let root_only =
        Manufacturers::none().and_roots(manufacturer.root.der(), Revocation::NotPublished).unwrap();
    let with = |issuers: &[Vec<u8>]| {
        root_only.check(&certificate, issuers, noon()).err().map(|refusal| refusal.denial)
    };
    assert_eq!(with(&[]), Some(Denial::EndorsementUntrusted));
    assert_eq!(with(&[manufacturer.issuer.der().to_vec()]), None);
    // A stranger's root of the same name is none.
    let stranger = Manufacturer::new(|_| {});
    let foreign = stranger.certify(&ek, |_| {});
    let issuers = [stranger.issuer.der().to_vec(), stranger.root.der().to_vec()];
    let refusal = root_only.check(&foreign, &issuers, noon()).unwrap_err();
    assert_eq!(refusal.denial, Denial::EndorsementUntrusted);
    assert_eq!(with(&vec![manufacturer.issuer.der().to_vec(); 5]), Some(Denial::EvidenceMalformed));
    assert_eq!(with(&[vec![0; 9000]]), Some(Denial::EvidenceMalformed));
}

#[test]
fn every_certificate_of_the_path_is_held_against_the_time() {
    let ek = Ek::p256();
    let day = |year, month, day| date_time_ymd(year, month, day).unix_timestamp().try_into().unwrap();
    let leaf = |seconds: u64| {
        let manufacturer = Manufacturer::new(|_| {});
        let certificate = manufacturer.certify(&ek, |_| {});
        let manufacturers = manufacturer.trusted(Revocation::NotPublished);
        manufacturers.check(&certificate, &[], at(seconds)).err().map(|refusal| refusal.denial)
    };
    assert_eq!(leaf(day(2026, 1, 1) - 31), Some(Denial::EndorsementNotYetValid));
    assert_eq!(leaf(day(2026, 1, 1) - 30), None);
    assert_eq!(leaf(day(2036, 1, 1) - 1), None);
    assert_eq!(leaf(day(2036, 1, 1)), Some(Denial::EndorsementExpired));
    assert_eq!(leaf(day(2036, 1, 1) + 1), Some(Denial::EndorsementExpired));
    let issuer = |seconds: u64| {
        let manufacturer = Manufacturer::new(|params| {
            params.not_before = date_time_ymd(2026, 6, 1);
            params.not_after = date_time_ymd(2027, 1, 1);
        });
        let certificate = manufacturer.certify(&ek, |_| {});
        let manufacturers = manufacturer.trusted(Revocation::NotPublished);
        manufacturers.check(&certificate, &[], at(seconds)).err().map(|refusal| refusal.denial)
    };
    assert_eq!(issuer(day(2026, 5, 1)), Some(Denial::EndorsementNotYetValid));
    assert_eq!(issuer(NOW), None);
    assert_eq!(issuer(day(2027, 1, 1)), Some(Denial::EndorsementExpired));
    let root = |seconds: u64| {
        let manufacturer = Manufacturer::new(|params| params.not_after = date_time_ymd(2060, 1, 1));
        let certificate = manufacturer.certify(&ek, |params| params.not_after = date_time_ymd(2060, 1, 1));
        let manufacturers = manufacturer.trusted(Revocation::NotPublished);
        manufacturers.check(&certificate, &[], at(seconds)).err().map(|refusal| refusal.denial)
    };
    assert_eq!(root(day(2044, 12, 31)), None);
    assert_eq!(root(day(2045, 1, 1)), Some(Denial::EndorsementExpired));
}

#[test]
fn revocation_lists_count_where_they_are_demanded_and_where_they_are_there() {
    let ek = Ek::p256();
    let manufacturer = Manufacturer::new(|params| params.serial_number = Some(SerialNumber::from(5_u64)));
    let certificate = manufacturer.certify(&ek, |_| {});
    let with = |revocation, lists: &[Vec<u8>]| {
        let trusted = manufacturer.trusted(revocation);
        let trusted = lists.iter().fold(trusted, |trusted, list| trusted.and_lists(list).unwrap());
        trusted.check(&certificate, &[], noon()).err().map(|refusal| refusal.denial)
    };
    let of_issuer = |revoked, until| Manufacturer::list(&manufacturer.issuer, revoked, until);
    let of_root = |revoked, until| Manufacturer::list(&manufacturer.root, revoked, until);
    let demanded = Revocation::Demanded;
    assert_eq!(with(demanded, &[]), Some(Denial::CollateralUnavailable));
    assert_eq!(with(demanded, &[of_issuer(None, 24)]), Some(Denial::CollateralUnavailable));
    assert_eq!(with(demanded, &[of_root(None, 24)]), Some(Denial::CollateralUnavailable));
    assert_eq!(with(demanded, &[of_issuer(None, 24), of_root(None, 24)]), None);
    assert_eq!(
        with(demanded, &[of_issuer(Some(77), 24), of_root(None, 24)]),
        Some(Denial::EndorsementRevoked)
    );
    assert_eq!(
        with(demanded, &[of_issuer(None, 24), of_root(Some(5), 24)]),
        Some(Denial::EndorsementRevoked)
    );
    let other = Manufacturer::new(|_| {});
    let foreign = Manufacturer::list(&other.issuer, None, 24);
    assert!(with(demanded, &[foreign, of_root(None, 24)]).is_some());
    let later = |seconds| {
        let trusted = manufacturer.trusted(demanded);
        let trusted = trusted.and_lists(&of_issuer(None, 24)).unwrap().and_lists(&of_root(None, 1)).unwrap();
        trusted.check(&certificate, &[], at(seconds)).err().map(|refusal| refusal.denial)
    };
    let first = u64::try_from(date_time_ymd(2026, 12, 1).unix_timestamp()).unwrap();
    assert_eq!(later(first - 1), None);
    assert_eq!(later(first), Some(Denial::CollateralStale));
    let optional = Revocation::NotPublished;
    assert_eq!(with(optional, &[of_root(None, 24)]), None);
    assert_eq!(with(optional, &[of_issuer(Some(77), 24)]), Some(Denial::EndorsementRevoked));
}

#[test]
fn pinned_certificates_are_those_that_their_page_describes() {
    use super::ek_certificate::{GOOGLE_GCE_INTERMEDIATE, GOOGLE_GCE_ROOT};
    let page = include_str!("../../../certs/google/README.md");
    for (certificate, sha256) in [
        (GOOGLE_GCE_ROOT, "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2"),
        (GOOGLE_GCE_INTERMEDIATE, "c84de8116dfaf5a908f21e810487791f5437e206d00ad8025050cca6bd2ff627"),
    ] {
        assert_eq!(hex::encode(Hash::Sha256.digest(&[certificate])), sha256);
        assert!(page.contains(sha256));
    }
    let pinned = |name| Manufacturers::none().and_pinned(name, Revocation::Demanded);
    assert_eq!(pinned("google-gce").map(|all| all.roots()), Ok(1));
    assert!(matches!(pinned("google"), Err(super::enroll::ManufacturerError::NotPinned)));
}

#[test]
fn files_without_a_root_or_list_are_refused() {
    use super::enroll::ManufacturerError as E;
    let manufacturer = Manufacturer::new(|_| {});
    let none = Manufacturers::none;
    let ek = manufacturer.certify(&Ek::p256(), |_| {});
    let roots = |file: &[u8]| none().and_roots(file, Revocation::Demanded).map(|all| all.roots());
    assert_eq!(roots(manufacturer.root.pem().as_bytes()), Ok(1));
    let both = manufacturer.root.pem() + &manufacturer.issuer.pem();
    assert_eq!(roots(both.as_bytes()), Ok(2));
    assert_eq!(roots(&ek), Err(E::NotAnAuthority));
    for file in [
        &b""[..],
        b"\0",
        b"-----BEGIN nothing",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert_eq!(roots(file), Err(E::Empty));
        assert!(none().and_intermediates(file).is_err());
        assert!(none().and_lists(file).is_err());
    }
    assert!(matches!(none().and_lists(manufacturer.root.der()), Err(E::List(_))));
}
