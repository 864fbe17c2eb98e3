//! Every parser of bytes that others made, as one list: what libFuzzer drives, and what `tests/parsers.rs` mutates on stable Rust.
//!
//! *Takes* bytes. *Gives* whether they were accepted. *Denies* nothing; a panic, an overflow or a property that does not hold ends
//! the process. *Source*: `house.md` §7, "one target per parser".
//!
//! Each entry has seeds, made at run time, each of which it accepts: else mutations of them would try nothing.

#[path = "kit.rs"]
pub mod kit;

use self::kit::{BOUND, IDENTITY, Known, NOW, STORE, corim, kit, log, root_key, tpm2 as tpm, with_file};
use portcullis::agent::key::FileKey;
use portcullis::agent::tpm::EkKind;
use portcullis::appraisal::corim::{Section, SignerKey, Wanted};
use portcullis::appraisal::{corim as manifests, reference_text};
use portcullis::audit::border::Border;
use portcullis::audit::checkpoint::{Checkpoint, LogKey, LogPublicKey};
use portcullis::audit::frame::{HEADER_BYTES, Header};
use portcullis::audit::record::{Event, Record};
use portcullis::audit::segment::{Next, Reader};
use portcullis::cli::config::Config;
use portcullis::cli::enrolment_files::{self, ChallengeFile, EnrolmentFile, ProofFile, RequestFile};
use portcullis::evidence::cbor::{self, Rule};
use portcullis::evidence::outcome::Checks;
use portcullis::evidence::process::NodeSigner;
use portcullis::evidence::sev_snp::SevSnpTrust;
use portcullis::evidence::tdx::Collateral;
use portcullis::evidence::tpm2::enroll::{Manufacturers, Revocation};
use portcullis::evidence::tpm2::{AttestationKey, EndorsementKey, EventLog, Hash, PublicArea, Signature};
use portcullis::evidence::{nitro, process, sev_snp, tdx, tpm2};
use portcullis::policy::cedar::PolicySet;
use portcullis::policy::table::Table;
use portcullis::proto::v1;
use portcullis::registry::dealing::{self, Dealing, HolderKey};
use portcullis::release::sealing::Sealed;
use portcullis::request::{RecipientKey, ReleaseRequest, SecretPath, parse_evidence};
use portcullis::spiffe::{IdPattern, SpiffeId, TrustDomain};
use portcullis::store::StoreId;
use portcullis::store::backup;
use portcullis::store::keyring::Keyring;
use portcullis::store::keysource::shares::Collected;
use portcullis::store::keysource::{KeyFile, KeySource, Lock, ShareSet};
use portcullis::store::record::{self, Place};
use portcullis::time::WallTime;
use portcullis::transport::{bundle, revocation, svid};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::collections::BTreeSet;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// One parser.
pub struct Entry {
    /// Its name, and its target's.
    pub name: &'static str,
    /// Reads the bytes; whether they were accepted.
    pub accepts: fn(&[u8]) -> bool,
    /// Bytes that it accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! entries {
    ($($name:ident: $accepts:expr, $seeds:expr;)+) => {
        /// Every entry.
        pub const ALL: &[Entry] =
            &[$(Entry { name: stringify!($name), accepts: $accepts, seeds: || $seeds }),+];
    };
}

entries! {
    // Evidence, whole, under test roots; then what its parts are read by.
    process_parse: |b| process::parse(b).is_ok(), vec![kit().process.body.clone()];
    process_verify: process_verify, vec![kit().process.body.clone()];
    nitro_parse: |b| nitro::parse(b).is_ok(), vec![kit().nitro.body.clone()];
    nitro_verify: nitro_verify, vec![kit().nitro.body.clone()];
    sev_snp_parse: |b| sev_snp::parse(b).is_ok(), vec![kit().snp.body.clone()];
    sev_snp_verify: |b| snp_verify(b, &kit().snp.endorsements), vec![kit().snp.body.clone()];
    sev_snp_endorsement: snp_endorsement, vec![kit().snp.endorsements[0].clone()];
    sev_snp_certificate: |b| SevSnpTrust::amd().hand_in_certificate(b).is_ok(), vec![kit().snp.endorsements[0].clone()];
    sev_snp_list: snp_list, vec![kit().snp_list.clone()];
    tdx_parse: |b| tdx::parse(b).is_ok(), vec![kit().tdx.body.clone()];
    tdx_verify: |b| tdx_verify(b, &kit().tdx.endorsements), vec![kit().tdx.body.clone()];
    tdx_endorsement: |b| tdx_verify(&kit().tdx.body, &[b.to_vec()]), kit().tdx.endorsements.clone();
    tdx_collateral: |b| Collateral::parse(b).is_ok(), kit().tdx.endorsements.clone();
    tdx_genuine: |b| kit().tdx.trust.genuine_parts(b, NOW).is_ok(), kit().tdx.endorsements.clone();
    tdx_answer: tdx_answer, tdx_answers();
    sgx_verify: |b| sgx_verify(b, &kit().sgx.endorsements), vec![kit().sgx.body.clone()];
    sgx_endorsement: |b| sgx_verify(&kit().sgx.body, &[b.to_vec()]), kit().sgx.endorsements.clone();
    tpm2_parse: |b| tpm2::parse(b).is_ok(), vec![kit().tpm2.body.clone()];
    tpm2_verify: tpm2_verify, vec![kit().tpm2.body.clone()];
    tpm2_attest: tpm2_attest, vec![quote().attest(tpm::SHA256)];
    tpm2_signature: |b| Signature::parse(b).is_ok(), vec![kit().ak.sign(b"message")];
    tpm2_public: tpm2_public, vec![kit().ak.public()];
    tpm2_event_log: event_log, vec![kit().event_log.clone()];
    tpm2_ek_certificate: |b| kit().ek.manufacturers.check(b, &[], NOW).is_ok(), vec![kit().ek.certificate.clone()];
    tpm2_manufacturer_file: manufacturer_file, [&kit().ek.root[..], &[kit().ek.list.clone()]].concat();
    tpm2_enrolment_file: enrolment_file, enrolment_seeds();
    cbor: read_cbor, vec![kit().process.body.clone()];
    // Requests and evidence on the wire, and the attester's.
    request_open: |b| v1::Open::decode(b).is_ok_and(|open| ReleaseRequest::parse(open).is_ok()), vec![open_message()];
    request_evidence: evidence_message, vec![evidence_seed()];
    attester_start: portcullis::agent::start_is_sound, vec![start_message()];
    client_status: portcullis::client::is_of_portcullis, vec![status_details()];
    // The name of a process is its own choice.
    proc_stat: portcullis::agent::stat_is_read, vec![PROC_STAT.into()];
    proc_status: |b| on_text(b, portcullis::agent::status_is_read), vec![PROC_STATUS.into()];
    recipient_key: |b| RecipientKey::parse(b).is_ok(), vec![vec![9; 32]];
    sealed_secret: sealed_secret, vec![kit().recipient.sealed.clone()];
    secret_path: secret_path, vec![b"kv/app/one".to_vec(), b"kv/a-b_c.d/0".to_vec()];
    spiffe_id: spiffe_id, vec![IDENTITY.into(), b"example.org".to_vec(), b"spiffe://example.org/ns/*".to_vec()];
    grpc_timeout: |b| on_text(b, |t| portcullis::api::front::parse_timeout_value(t).is_some()), vec![b"100m".to_vec(), b"99999999H".to_vec()];
    rfc3339: rfc3339, vec![b"2027-03-01T00:00:00Z".to_vec(), b"2027-03-01T23:59:59.999Z".to_vec()];
    // What peers and trust domains are known by.
    svid: |b| svid::check_workload(&[CertificateDer::from(b)]).is_ok(), vec![leaf()];
    certificate: |b| svid::parse(b).map(|parsed| svid::window(&parsed)).is_ok(), vec![leaf(), kit().snp.endorsements[0].clone()];
    crl: |b| revocation::parse(b, 86_400, NOW).is_ok(), vec![list(), pem_contents(&list())];
    bundle: |b| bundle::Bundle::parse(b).is_ok(), vec![kit().ca.root().into_bytes(), json_bundle()];
    // What administrators write.
    config: |b| with_file("portcullis.toml", b, |path| Config::read(path).is_ok()), vec![CONFIG.into()];
    policy: |b| on_text(b, |t| PolicySet::compile(t).is_ok()), vec![POLICY.into()];
    policy_table: |b| on_text(b, |t| Table::parse_toml(t).is_ok() | Table::parse_json(t).is_ok()), vec![TABLE.into()];
    reference_values: reference_values, vec![REFERENCE.into(), REFERENCE_JSON.into()];
    apply_file: |b| on_text(b, |t| portcullis::cli::admin::is_file_of(t).contains(&true)), vec![APPLY_SECRETS.into(), APPLY_NODES.into(), REFERENCE.into()];
    corim: |b| manifests::read(b, &publisher(), NOW).is_ok(), vec![kit().publisher.sign(&manifest())];
    corim_payload: corim_payload, vec![manifest().payload()];
    signer_key: |b| SignerKey::parse(b).is_ok(), vec![kit().publisher.pem().into_bytes(), pem_contents(kit().publisher.pem().as_bytes())];
    key_holder: |b| on_text(b, |t| HolderKey::parse(t).is_ok()), vec![HolderKey::of(&root_key()).unwrap().text().into_bytes()];
    key_share: |b| on_text(b, |t| Collected::new(SHARE_SET).add(t).is_ok()), vec![share().into_bytes()];
    key_share_sealed: |b| on_text(b, |t| dealing::open(&root_key(), t).is_ok()), vec![sealed_share().into_bytes()];
    node_key: |b| process::NodeKey::from_spki(b).is_ok(), vec![FileKey::from_pkcs8(&kit().node_pkcs8).unwrap().public_key().spki().to_vec()];
    node_key_file: |b| with_file("node.key", b, |path| FileKey::load(path).is_ok()), vec![kit().node_pkcs8.clone(), kit().leaf.key.clone().into_bytes()];
    // What this program wrote, and somebody may have altered.
    store_key_file: store_key_file, vec!["0a".repeat(32).into_bytes()];
    store_record: store_record, vec![record::seal(&root_key(), place(), 1, 2, b"plaintext").unwrap()];
    backup: backup_stream, vec![whole_backup()];
    store_keyring: |b| Keyring::open(StoreId(STORE), &Known, b).is_ok(), vec![Keyring::generate(StoreId(STORE), &Known).unwrap().seal().unwrap()];
    audit_frame: audit_frame, vec![log().segment[4096..].to_vec()];
    audit_segment: audit_segment, vec![log().segment.clone()];
    audit_record: |b| serde_json::from_slice::<Record>(b).is_ok(), vec![audit_seed()];
    audit_note: |b| on_text(b, |t| Checkpoint::verify(t, log().key.public()).is_ok()), vec![log().note.clone().into_bytes()];
    audit_border: |b| on_text(b, |t| Border::verify(t, log().key.public()).is_ok()), vec![border().into_bytes()];
    audit_public_key: |b| on_text(b, |t| LogPublicKey::parse(t).is_some()), vec![log().key.public().to_string().into_bytes()];
    audit_key_file: |b| with_file("audit.key", b, |path| LogKey::load(path).is_ok()), vec![log().key_file.clone()];
}

const SHARE_SET: ShareSet = ShareSet { set: [1; 8], threshold: 2, shares: 3 };

/// A share as `init` would show it.
fn share() -> String {
    let mut bytes = [[1; 8].as_slice(), &[2, 3, 1], &[7; 32]].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    bytes.extend_from_slice(&digest.as_ref()[..5]);
    format!("pcs1-{}", hex::encode(bytes))
}

/// A share that was dealt to the known key.
fn sealed_share() -> String {
    let holders = [(); 2].map(|()| HolderKey::of(&root_key()).unwrap());
    Dealing::default().deal(&holders, 2, NOW).unwrap().remove(0)
}

/// Runs one entry, for a target: on the bytes as they are, or as edits of its seed, so that what libFuzzer keeps of one run
/// means something in the next, whose keys are others. Whether they were accepted.
pub fn drive(name: &str, data: &[u8]) -> bool {
    let entry = ALL.iter().find(|entry| entry.name == name).expect("an entry of that name");
    let Some((kind, rest)) = data.split_first() else { return false };
    if kind % 2 == 0 {
        return (entry.accepts)(rest);
    }
    let seeds = (entry.seeds)();
    let mut bytes = seeds[usize::from(kind / 2) % seeds.len()].clone();
    for edit in rest.chunks_exact(5) {
        apply(&mut bytes, [edit[0], edit[1], edit[2], edit[3], edit[4]]);
    }
    (entry.accepts)(&bytes)
}

/// The same for the entry that the first byte names: all of them in one target.
pub fn drive_any(data: &[u8]) -> bool {
    let Some((which, rest)) = data.split_first() else { return false };
    drive(ALL[usize::from(*which) % ALL.len()].name, rest)
}

/// One edit: what, where (16 bits over the length), and two bytes to do it with.
pub fn apply(bytes: &mut Vec<u8>, [what, high, low, first, second]: [u8; 5]) {
    let at = (usize::from(high) << 8 | usize::from(low)) * (bytes.len() + 1) / 0x1_0000;
    let end = (at + usize::from(second)).min(bytes.len());
    match what % 8 {
        0 if at < bytes.len() => bytes[at] ^= first.max(1),
        1 => bytes.insert(at, first),
        2 if at < bytes.len() => drop(bytes.remove(at)),
        3 => bytes.truncate(at),
        4 => bytes.extend(bytes[at..end].to_vec()),
        5 => bytes.splice(at..at, vec![first; usize::from(second)]).for_each(drop),
        6 => bytes.drain(at..end).for_each(drop),
        7 => (at..end).for_each(|at| bytes[at] = first),
        _ => {}
    }
}

fn on_text(bytes: &[u8], accepts: impl FnOnce(&str) -> bool) -> bool {
    std::str::from_utf8(bytes).is_ok_and(accepts)
}

fn process_verify(body: &[u8]) -> bool {
    let identity = SpiffeId::parse(IDENTITY).unwrap();
    process::verify(body, &kit().process.trust, &BOUND, &identity, NOW).is_ok()
}

fn nitro_verify(body: &[u8]) -> bool {
    nitro::verify(body, &[], &BOUND, &kit().nitro.trust, NOW, &mut Checks::new()).is_ok()
}

fn snp_verify(body: &[u8], endorsements: &[Vec<u8>]) -> bool {
    sev_snp::verify(body, endorsements, &BOUND, &kit().snp.trust, NOW, &mut Checks::new()).is_ok()
}

fn snp_endorsement(certificate: &[u8]) -> bool {
    let [_, ask] = kit().snp.endorsements.as_slice() else { return false };
    snp_verify(&kit().snp.body, &[certificate.to_vec(), ask.clone()])
}

fn snp_list(list: &[u8]) -> bool {
    let mut trust = kit().snp.trust.clone();
    trust.hand_in_list(list, sev_snp::SigningKey::Vcek, 86_400, NOW).is_ok()
}

fn tdx_verify(body: &[u8], endorsements: &[Vec<u8>]) -> bool {
    tdx::verify(body, endorsements, &BOUND, &kit().tdx.trust, NOW, &mut Checks::new()).is_ok()
}

fn sgx_verify(body: &[u8], endorsements: &[Vec<u8>]) -> bool {
    tdx::verify_sgx(body, endorsements, &BOUND, &kit().sgx.trust, NOW, &mut Checks::new()).is_ok()
}

/// What a service answers to each question: one byte for which it was, then the header with the chain, a line feed, the body.
fn tdx_answer(bytes: &[u8]) -> bool {
    let Some((which, rest)) = bytes.split_first() else { return false };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (chain, body) = rest.split_at(end);
    let Ok(chain) = std::str::from_utf8(chain) else { return false };
    let chain = Some(chain).filter(|chain| !chain.is_empty());
    let body = body.get(1..).unwrap_or_default();
    let questions = questions();
    let question = &questions[usize::from(*which) % questions.len()];
    kit().tdx.trust.genuine_answer(question, body, chain, NOW).is_ok()
}

fn questions() -> [tdx::Question; 4] {
    tdx::Question::of(tdx::Tee::Tdx, kit::tdx::FMSPC, tdx::PckCa::Platform)
}

fn tdx_answers() -> Vec<Vec<u8>> {
    let all: serde_json::Value = serde_json::from_slice(&kit().tdx.endorsements[0]).unwrap();
    let text = |name: &str| all[name].as_str().unwrap().to_owned();
    let chain = |name: &str| text(name).replace('%', "%25").replace('\n', "%0A").replace(' ', "%20");
    let answer = |which: usize, chain: String, body: Vec<u8>| {
        [&[which as u8], chain.as_bytes(), b"\n", body.as_slice()].concat()
    };
    let signed = |name: &str, part: &str| {
        let signature = text(&format!("{part}_signature"));
        format!(r#"{{"{name}":{},"signature":"{signature}"}}"#, text(part)).into_bytes()
    };
    let whole = |(which, question): (usize, &tdx::Question)| match question {
        tdx::Question::TcbInfo { .. } => {
            answer(which, chain("tcb_info_issuer_chain"), signed("tcbInfo", "tcb_info"))
        }
        tdx::Question::QeIdentity { .. } => {
            answer(which, chain("qe_identity_issuer_chain"), signed("enclaveIdentity", "qe_identity"))
        }
        tdx::Question::PckCrl { .. } => {
            answer(which, chain("pck_crl_issuer_chain"), text("pck_crl").into_bytes())
        }
        tdx::Question::RootCrl => answer(which, String::new(), hex::decode(text("root_ca_crl")).unwrap()),
    };
    questions().iter().enumerate().map(whole).collect()
}

fn tpm2_verify(body: &[u8]) -> bool {
    tpm2::verify(body, &[], &BOUND, &kit().tpm2.trust, &|_| None, NOW, &mut Checks::new()).is_ok()
}

fn tpm2_attest(bytes: &[u8]) -> bool {
    tpm2::Attest::parse(bytes).map(|attest| attest.pcrs().count()).is_ok()
}

fn tpm2_public(bytes: &[u8]) -> bool {
    let _ = (AttestationKey::parse(bytes).is_ok(), EndorsementKey::parse(bytes).is_ok());
    PublicArea::parse(bytes).map(|area| area.name()).is_ok()
}

fn event_log(bytes: &[u8]) -> bool {
    EventLog::parse(bytes).map(|log| log.replay(Hash::Sha256).len()).is_ok()
}

/// Each reader of files that an operator puts there.
fn manufacturer_file(bytes: &[u8]) -> bool {
    let roots = Manufacturers::none().and_roots(bytes, Revocation::Demanded);
    let _ = Manufacturers::none().and_intermediates(bytes);
    roots.is_ok() | Manufacturers::none().and_lists(bytes).is_ok()
}

/// Each of the three by which a node's TPM is enrolled.
fn enrolment_file(bytes: &[u8]) -> bool {
    with_file("enrolment.json", bytes, |path| {
        enrolment_files::read::<RequestFile>(path).is_ok()
            | enrolment_files::read::<ChallengeFile>(path).is_ok()
            | enrolment_files::read::<ProofFile>(path).is_ok()
    })
}

fn enrolment_seeds() -> Vec<Vec<u8>> {
    let challenge = ChallengeFile {
        kind: ChallengeFile::KIND.into(),
        id: "1".into(),
        ek: EkKind::Rsa2048,
        ak_name: "000b".into(),
        id_object: "0a".into(),
        encrypted_secret: "0b".into(),
        answer_before: "2026-09-21T15:00:00Z".into(),
    };
    let proof = ProofFile { kind: ProofFile::KIND.into(), id: "1".into(), answer: "0c".into() };
    let request = RequestFile {
        kind: RequestFile::KIND.into(),
        ek: EkKind::Rsa2048,
        ek_public: "0d".into(),
        ek_certificate: Some(hex::encode(&kit().ek.certificate)),
        ek_sha256: "0e".repeat(32),
        ak_public: hex::encode(kit().ak.public()),
        ak_name: "000b".into(),
    };
    let written = [serde_json::to_vec(&request), serde_json::to_vec(&challenge), serde_json::to_vec(&proof)];
    written.into_iter().map(Result::unwrap).collect()
}

/// Encapsulated key and ciphertext, as a broker sends them; what opens is what was sealed.
fn sealed_secret(bytes: &[u8]) -> bool {
    let (encapsulated_key, ciphertext) = bytes.split_at(bytes.len().min(32));
    let sealed = Sealed { encapsulated_key: encapsulated_key.to_vec(), ciphertext: ciphertext.to_vec() };
    let opened = kit().recipient.recipient.open(&sealed, kit::Sealing::INFO);
    opened.map(|plaintext| assert_eq!(plaintext.as_slice(), b"plaintext")).is_ok()
}

/// What says whether it is a denial of ours.
fn status_details() -> Vec<u8> {
    let said = [("decision_id".to_owned(), "ab12".to_owned())];
    let details = ErrorDetails::with_error_info("NOT_RELEASED", "portcullis", said);
    Status::with_error_details(Code::PermissionDenied, "nothing was released", details).details().to_vec()
}

/// A log that begins behind what was archived.
fn border() -> String {
    let header =
        with_file("00000000.log", &log().segment, |path| Reader::open(path).unwrap().header().clone());
    Border::sign(&header, &log().key).unwrap()
}

fn whole_backup() -> Vec<u8> {
    let head = backup::Head {
        store: "0b".repeat(16),
        made: NOW.wall,
        version: "0.1.0".into(),
        log_records: 3,
        checkpoint: log().note.clone(),
    };
    let mut bytes = Vec::new();
    let mut writer = backup::Writer::begin(&head, &mut bytes).unwrap();
    writer.item(b"key", Some(b"value"), &mut bytes).unwrap();
    writer.item(b"gone", None, &mut bytes).unwrap();
    writer.end(7, |_| "0c".repeat(32), &mut bytes).unwrap();
    bytes
}

/// What is whole is told by its digest alone, before any key.
fn backup_stream(bytes: &[u8]) -> bool {
    backup::Reader::open(bytes).and_then(|(mut reader, _)| backup::read_through(&mut reader)).is_ok()
}

/// Deterministic CBOR has one encoding, and whatever is deterministic also reads by the wider rule.
fn read_cbor(bytes: &[u8]) -> bool {
    let as_signed = cbor::read_by(Rule::AsSigned, bytes).is_ok();
    let Ok(value) = cbor::read_by(Rule::Deterministic, bytes) else { return as_signed };
    assert!(as_signed && cbor::write(&value) == bytes);
    true
}

fn evidence_message(bytes: &[u8]) -> bool {
    let offered = ["process", "tpm2", "nitro", "sev-snp", "tdx"].map(str::to_owned);
    v1::Evidence::decode(bytes).is_ok_and(|evidence| parse_evidence(evidence, &offered).is_ok())
}

fn secret_path(bytes: &[u8]) -> bool {
    let same = |text: &str| SecretPath::parse(text).map(|path| assert_eq!(path.as_str(), text)).is_ok();
    on_text(bytes, same)
}

fn spiffe_id(bytes: &[u8]) -> bool {
    on_text(bytes, |text| {
        let id = SpiffeId::parse(text).map(|id| assert_eq!(id.as_str(), text));
        let domain = TrustDomain::parse(text).map(|domain| assert_eq!(domain.to_string(), text));
        let pattern = IdPattern::parse(text).map(|pattern| assert_eq!(pattern.to_string(), text));
        // Whatever is an ID is a pattern too.
        assert!(id.is_err() || pattern.is_ok());
        id.is_ok() | domain.is_ok() | pattern.is_ok()
    })
}

fn rfc3339(bytes: &[u8]) -> bool {
    on_text(bytes, |text| {
        let time = WallTime::parse(text);
        time.map(|time| assert_eq!(WallTime::parse(&time.to_string()), Some(time))).is_some()
    })
}

/// Whatever can be read can be written, and reads as the same.
fn reference_values(bytes: &[u8]) -> bool {
    on_text(bytes, |text| {
        let read = reference_text::parse_toml(text).ok().or_else(|| reference_text::parse_json(text).ok());
        let Some(sets) = read else { return false };
        let written = serde_json::json!({ "set": sets }).to_string();
        assert_eq!(reference_text::parse_json(&written).unwrap(), sets);
        sets.iter().for_each(|set| drop(set.check(NOW, &BTreeSet::new())));
        true
    })
}

fn publisher() -> SignerKey {
    SignerKey::parse(kit().publisher.pem().as_bytes()).unwrap()
}

/// Whatever is signed well: what is not understood must be found in the manifest, and in its mapping to each section.
fn corim_payload(payload: &[u8]) -> bool {
    let signed = kit().publisher.sign_payload(payload);
    let Ok(manifest) = manifests::read(&signed, &publisher(), NOW) else { return false };
    for section in Section::ALL {
        let wanted = Wanted {
            section,
            name: "set".into(),
            workload: IdPattern::parse("spiffe://example.org/*").unwrap(),
            not_after: WallTime(NOW.wall.0 + 1000),
            triples: BTreeSet::new(),
            pass_over: true,
        };
        let _ = manifests::sets(&manifest, &wanted);
    }
    true
}

fn store_key_file(bytes: &[u8]) -> bool {
    with_file("store.key", bytes, |path| {
        // Outside the data, wherever that would be.
        KeyFile::new(path, &path.with_file_name("data")).unlock(&Lock::Key).is_ok()
    })
}

fn place() -> Place<'static> {
    Place { store: StoreId(STORE), kind: 1, key: b"key" }
}

fn store_record(bytes: &[u8]) -> bool {
    let _ = record::term(bytes);
    let opened = record::open(&root_key(), place(), bytes);
    opened
        .map(|(version, plaintext)| assert_eq!((version, plaintext.as_slice()), (2, &b"plaintext"[..])))
        .is_ok()
}

fn audit_frame(bytes: &[u8]) -> bool {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return false };
    let Ok(header) = Header::parse(header) else { return false };
    let body = rest.get(..header.length).unwrap_or(rest).to_vec();
    header.with_body(body).is_ok()
}

fn audit_segment(bytes: &[u8]) -> bool {
    with_file("segment-0000000001.log", bytes, |path| {
        let whole = path.parent().unwrap();
        let _ = portcullis::audit::verify::verify(whole, log().key.public(), Some(&log().note));
        let Ok(mut reader) = Reader::open(path) else { return false };
        loop {
            match reader.read_frame() {
                Ok(Next::Frame(_)) => {}
                Ok(Next::End) => return true,
                Ok(Next::Broken(_)) => return reader.tail(1).is_err(),
                Err(_) => return false,
            }
        }
    })
}

fn quote() -> tpm::Quote {
    tpm::Quote::of(&tpm::hash(tpm::SHA256, &[&BOUND]))
}

fn open_message() -> Vec<u8> {
    let parameters = [("a".to_owned(), vec![1])].into_iter().collect();
    let secret = v1::SecretRequest { path: "kv/app/one".into(), parameters };
    v1::Open {
        secrets: vec![secret],
        recipient_key: vec![9; 32],
        channel_bindings: vec!["tls-exporter".into()],
        ..Default::default()
    }
    .encode_to_vec()
}

fn evidence_seed() -> Vec<u8> {
    let document = |format: &str| v1::Document {
        format: format.into(),
        body: vec![1, 2, 3],
        endorsements: vec![vec![4]],
    };
    v1::Evidence { documents: vec![document("process"), document("tpm2")] }.encode_to_vec()
}

fn start_message() -> Vec<u8> {
    let start = v1::Start { binding: vec![5; 64], formats: vec!["process".into()], program_fds: vec![3] };
    v1::AttestRequest { step: Some(v1::attest_request::Step::Start(start)) }.encode_to_vec()
}

fn leaf() -> Vec<u8> {
    pem_contents(kit().leaf.certificate.as_bytes())
}

fn list() -> Vec<u8> {
    let now = NOW.wall;
    kit().ca.revocation_list(1, WallTime(now.0 - 1000), now.plus(3_600_000), &[5]).unwrap().into_bytes()
}

/// What stands between the lines, whatever its label.
fn pem_contents(pem: &[u8]) -> Vec<u8> {
    use rustls::pki_types::{CertificateRevocationListDer, SubjectPublicKeyInfoDer};
    CertificateDer::from_pem_slice(pem)
        .map(|der| der.to_vec())
        .or_else(|_| CertificateRevocationListDer::from_pem_slice(pem).map(|der| der.to_vec()))
        .or_else(|_| SubjectPublicKeyInfoDer::from_pem_slice(pem).map(|der| der.to_vec()))
        .or_else(|_| PrivatePkcs8KeyDer::from_pem_slice(pem).map(|der| der.secret_pkcs8_der().to_vec()))
        .unwrap()
}

fn json_bundle() -> Vec<u8> {
    use base64::Engine;
    let der = pem_contents(kit().ca.root().as_bytes());
    let parsed = svid::parse(&der).unwrap();
    let point = parsed.public_key().subject_public_key.data.as_ref();
    let encoder = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let key = serde_json::json!({
        "use": "x509-svid",
        "kty": "EC",
        "crv": "P-256",
        "x": encoder.encode(&point[1..33]),
        "y": encoder.encode(&point[33..]),
        "x5c": [base64::engine::general_purpose::STANDARD.encode(&der)],
    });
    serde_json::json!({ "keys": [key], "spiffe_sequence": 1, "spiffe_refresh_hint": 300 })
        .to_string()
        .into_bytes()
}

fn audit_seed() -> Vec<u8> {
    let record = Record {
        id: "ab".repeat(16),
        time: NOW.wall,
        boot_time: NOW.boot,
        boot_id: "boot".into(),
        event: Event::Started { version: "1".into(), commit: 7 },
    };
    serde_json::to_vec(&record).unwrap()
}

fn manifest() -> corim::Manifest {
    let measurements = [corim::sha384(corim::unsigned(0), 1), corim::at_least(corim::text("guest_svn"), 3)];
    corim::Manifest {
        not_after: Some(kit::SECONDS + 86_400),
        ..corim::Manifest::of(vec![corim::triple("model", &measurements)])
    }
}

const CONFIG: &str = include_str!("../../deploy/portcullis.toml");
const POLICY: &str = include_str!("../../deploy/examples/release.cedar");
const TABLE: &str = include_str!("../../deploy/examples/policy-cases.toml");
const PROC_STAT: &str = "1 (a) b) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52";
const PROC_STATUS: &str =
    "Name:\tx\nTgid:\t7\nPid:\t7\nTracerPid:\t0\nUid:\t5\t5\t5\t5\nGid:\t6\t6\t6\t6\nGroups:\t27 4 27 \n";
const APPLY_SECRETS: &str = include_str!("../../deploy/apply/secrets/payments.toml");
const APPLY_NODES: &str = include_str!("../../deploy/apply/nodes/payments.toml");
const REFERENCE: &str = include_str!("../../deploy/examples/reference-values.toml");
const REFERENCE_JSON: &str = r#"{"set":[{"name":"a","workload":"spiffe://example.org/*","not_after":"2027-01-15T08:00:00Z","nitro":{"pcrs":{"0":["010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101"]}},"sev-snp":{"measurements":["010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101"],"minimum_tcb":{"milan":{"bootloader":4,"tee":1,"snp":24,"microcode":219}}}}]}"#;
