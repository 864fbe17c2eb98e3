//! Enrolment with a real TPM: certificates, credentials, and who cannot be enrolled.

use crate::swtpm::{Swtpm, now};
use portcullis::agent::tpm::{AkKind, AkSource, EkKind, Quoter, Selection, TpmError};
use portcullis::denial::Denial;
use portcullis::evidence::outcome::Checks;
use portcullis::evidence::tpm2::enroll::{Credential, Manufacturers, Pending, Request, VouchedBy, begin};
use portcullis::evidence::tpm2::{EndorsementKey, EnrolledAk, PublicArea, Refusal};
use portcullis::time::WallTime;
use std::collections::BTreeSet;

/// Enrols the key of this quoter, as a broker and a node do together.
pub fn enrolled(tpm: &Swtpm, quoter: &mut Quoter, ek: EkKind) -> EnrolledAk {
    let (credential, pending) = challenge(&tpm.manufacturer(), &BTreeSet::new(), quoter, ek).unwrap();
    let answer = quoter.activated(ek, &credential).unwrap();
    pending.finish("node-1.example", &answer, tomorrow(), now(), &mut Checks::new()).unwrap()
}

fn tomorrow() -> WallTime {
    now().wall.plus(86_400_000)
}

fn challenge(
    manufacturers: &Manufacturers,
    approved: &BTreeSet<[u8; 32]>,
    quoter: &mut Quoter,
    ek: EkKind,
) -> Result<(Credential, Pending), Refusal> {
    let enrolment = quoter.enrolment(ek).unwrap();
    let request = Request {
        ek_public: &enrolment.ek_public,
        ek_certificate: enrolment.ek_certificate.as_deref(),
        issuers: &[],
        ak_public: &enrolment.ak_public,
    };
    begin(&request, manufacturers, approved, now(), &mut Checks::new())
}

fn quoter(tpm: &Swtpm) -> Quoter {
    tpm.quoter(AkSource::Primary(AkKind::EcdsaP256), Selection::of_firmware(), None)
}

#[test]
fn keys_of_every_kind_are_enrolled_under_every_kind_of_certified_ek() {
    let Some(tpm) = Swtpm::start() else { return };
    for ak in [AkKind::EcdsaP256, AkKind::EcdsaP384, AkKind::RsaSsa2048, AkKind::RsaPss2048] {
        let mut quoter = tpm.quoter(AkSource::Primary(ak), Selection::of_firmware(), None);
        let first = enrolled(&tpm, &mut quoter, EkKind::Rsa2048);
        let second = enrolled(&tpm, &mut quoter, EkKind::EccP384);
        assert_eq!(first.key, second.key, "{ak:?}");
        assert_ne!(first.ek_sha256, second.ek_sha256);
    }
}

#[test]
fn an_ek_without_a_certificate_is_enrolled_by_its_hash_as_stock_tools_give_it() {
    let Some(tpm) = Swtpm::start() else { return };
    let ek = EkKind::EccP256;
    let mut quoter = quoter(&tpm);
    let refusal = challenge(&tpm.manufacturer(), &BTreeSet::new(), &mut quoter, ek).map(|_| ()).unwrap_err();
    assert_eq!(refusal.denial, Denial::EndorsementUntrusted);
    assert!(refusal.detail.contains("has no certificate"), "{}", refusal.detail);
    drop(quoter);
    tpm.tool("tpm2_createek", &["-c", "ek.ctx", "-G", "ecc", "-u", "ek.pem", "-f", "pem"]);
    use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(&tpm.read("ek.pem")).unwrap();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki.as_ref());
    let approved = BTreeSet::from([hash.as_ref().try_into().unwrap()]);
    let mut quoter = self::quoter(&tpm);
    let (credential, pending) = challenge(&Manufacturers::none(), &approved, &mut quoter, ek).unwrap();
    assert_eq!(*pending.vouched_by(), VouchedBy::Administrator);
    let answer = quoter.activated(ek, &credential).unwrap();
    assert!(pending.finish("node", &answer, tomorrow(), now(), &mut Checks::new()).is_ok());
}

#[test]
fn a_credential_opens_in_its_own_tpm_and_for_its_own_key_only() {
    let (Some(tpm), Some(other)) = (Swtpm::start(), Swtpm::start()) else { return };
    for ek in [EkKind::Rsa2048, EkKind::EccP384] {
        let mut ours = quoter(&tpm);
        let (credential, pending) = challenge(&tpm.manufacturer(), &BTreeSet::new(), &mut ours, ek).unwrap();
        let refused = |outcome: Result<_, TpmError>| match outcome {
            Err(TpmError::Refused { command: "ActivateCredential", .. }) => true,
            outcome => panic!("{:?}", outcome.map(|_: zeroize::Zeroizing<Vec<u8>>| ())),
        };
        assert!(refused(quoter(&other).activated(ek, &credential)));
        ours.close();
        let mut rsa = tpm.quoter(AkSource::Primary(AkKind::RsaSsa2048), Selection::of_firmware(), None);
        assert!(refused(rsa.activated(ek, &credential)));
        drop(rsa);
        let mut shifted = credential.clone();
        shifted.id_object.push(0);
        assert!(matches!(ours.activated(ek, &shifted), Err(TpmError::Credential)));
        let answer = ours.activated(ek, &credential).unwrap();
        assert!(pending.finish("node", &answer, tomorrow(), now(), &mut Checks::new()).is_ok());
    }
}

#[test]
fn the_certificate_of_another_tpm_is_refused() {
    let (Some(tpm), Some(other)) = (Swtpm::start(), Swtpm::start()) else { return };
    let ek = EkKind::Rsa2048;
    let mut mine = quoter(&tpm).enrolment(ek).unwrap();
    let theirs = quoter(&other).enrolment(ek).unwrap();
    let refused = |enrolment: &portcullis::agent::tpm::Enrolment, manufacturers: &Manufacturers| {
        let request = Request {
            ek_public: &enrolment.ek_public,
            ek_certificate: enrolment.ek_certificate.as_deref(),
            issuers: &[],
            ak_public: &enrolment.ak_public,
        };
        let begun = begin(&request, manufacturers, &BTreeSet::new(), now(), &mut Checks::new());
        begun.map(|_| ()).unwrap_err().denial
    };
    assert_eq!(refused(&mine, &other.manufacturer()), Denial::EndorsementUntrusted);
    mine.ek_certificate = theirs.ek_certificate;
    assert_eq!(refused(&mine, &other.manufacturer()), Denial::EndorsementUntrusted);
    assert_eq!(refused(&mine, &tpm.manufacturer()), Denial::EndorsementUntrusted);
}

#[test]
fn our_credential_and_that_of_tpm2_tools_open_by_each_others_means() {
    let Some(tpm) = Swtpm::start() else { return };
    tpm.tool("tpm2_createek", &["-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub"]);
    tpm.tool("tpm2_readpublic", &["-c", "ek.ctx", "-f", "pem", "-o", "ek.pem"]);
    let make = [
        "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa", "-u", "ak.pub", "-n",
        "ak.name",
    ];
    tpm.tool("tpm2_createak", &make);
    tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "ak.ctx", "0x81010010"]);
    let ak = PublicArea::parse_sized(&tpm.read("ak.pub")).unwrap();
    let ek = PublicArea::parse_sized(&tpm.read("ek.pub")).unwrap();
    // Ours, by their means.
    let approved = BTreeSet::from([EndorsementKey::new(ek.clone()).unwrap().sha256()]);
    let request =
        Request { ek_public: ek.as_bytes(), ek_certificate: None, issuers: &[], ak_public: ak.as_bytes() };
    let (credential, pending) =
        begin(&request, &Manufacturers::none(), &approved, now(), &mut Checks::new()).unwrap();
    let head = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
    tpm.write("ours.blob", &[&head[..], &credential.id_object, &credential.encrypted_secret].concat());
    tpm.tool("tpm2_startauthsession", &["--policy-session", "-S", "s.ctx"]);
    tpm.tool("tpm2_policysecret", &["-S", "s.ctx", "-c", "e"]);
    let activate = ["-c", "ak.ctx", "-C", "ek.ctx", "-i", "ours.blob", "-o", "secret", "-P", "session:s.ctx"];
    tpm.tool("tpm2_activatecredential", &activate);
    tpm.tool("tpm2_flushcontext", &["s.ctx"]);
    let enrolled =
        pending.finish("node", &tpm.read("secret"), tomorrow(), now(), &mut Checks::new()).unwrap();
    assert_eq!(enrolled.key.name().as_bytes(), tpm.read("ak.name"));
    // Theirs, by ours.
    tpm.write("their.secret", b"thirty-two bytes of their secret");
    let name = hex::encode(tpm.read("ak.name"));
    let make =
        ["-T", "none", "-G", "rsa", "-u", "ek.pem", "-s", "their.secret", "-n", &name, "-o", "their.blob"];
    tpm.tool("tpm2_makecredential", &make);
    let blob = tpm.read("their.blob");
    let blob = blob.strip_prefix(&head).unwrap();
    let (id_object, encrypted_secret) =
        blob.split_at(2 + usize::from(u16::from_be_bytes([blob[0], blob[1]])));
    let theirs = Credential { id_object: id_object.to_vec(), encrypted_secret: encrypted_secret.to_vec() };
    let mut quoter = tpm.quoter(AkSource::Persistent(0x8101_0010), Selection::of_firmware(), None);
    let secret = quoter.activated(EkKind::Rsa2048, &theirs).unwrap();
    assert_eq!(*secret, tpm.read("their.secret"));
}
