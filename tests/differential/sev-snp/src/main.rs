//! The format `sev-snp` held against the crate `sev`: nothing that `sev` refuses is taken, and what both take reads the same.
//!
//! *Takes* the shared vectors, read from where they belong. *Gives* the cases in which this verifier is stricter. *Denies*
//! nothing. *Source*: `evidence.md` §4 "Crates": `sev` checks signatures, and neither pins a root nor looks at validity, TCB, chip
//! or policy, so that only one direction is to be asserted.
#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    reason = "modules of another crate, of which this needs a part"
)]

#[path = "../../../../src/denial.rs"]
mod denial;
#[path = "../../../../src/limits.rs"]
mod limits;
#[path = "../../../../src/time.rs"]
mod time;

/// What `time.rs` asks of the operating system; not asked here.
mod sys {
    pub fn clock_synchronised() -> bool {
        false
    }
}

#[path = "../../../../src/evidence"]
mod evidence {
    pub mod outcome;
    pub mod sev_snp;
}

use base64::prelude::{BASE64_STANDARD, Engine as _};
use evidence::outcome::Checks;
use evidence::sev_snp::{Examined, Report, SevSnpTrust, Tcb, examine, parse};
use sev::certs::snp::{Chain, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::TcbVersion;
use sev::parser::ByteParser;
use std::panic::catch_unwind;
use time::{BootTime, Now, WallTime};

struct Case {
    name: String,
    body: Vec<u8>,
    leaf: Vec<u8>,
    intermediate: Vec<u8>,
    root: Vec<u8>,
    now: Now,
}

fn main() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../../shared/vectors/snp");
    if !std::path::Path::new(folder).is_dir() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{folder} is absent under CI=true");
        return eprintln!("NOT RUN: {folder} is absent");
    }
    let (cases, trust) = cases(folder);
    let (mut taken_by_both, mut stricter) = (0, Vec::new());
    for case in &cases {
        match (ours(case, &case.body, &trust), theirs(case, &case.body)) {
            (Ok(examined), Some(report)) => {
                taken_by_both += 1;
                assert_same(&parse(&case.body).unwrap(), &examined, &report);
            }
            (Ok(_), None) => panic!("{}: `sev` refuses it", case.name),
            (Err(why), Some(_)) => stricter.push(format!("{}: {why}", case.name)),
            (Err(_), None) => {}
        }
    }
    assert!(taken_by_both >= 20, "{taken_by_both}");
    println!("{} cases, {taken_by_both} taken by both; taken by `sev` alone:", cases.len());
    stricter.iter().for_each(|line| println!("    {line}"));
    for case in cases.iter().filter(|case| ["milan-v3", "turin-v5"].contains(&case.name.as_str())) {
        flip(case, &trust);
    }
}

/// One bit in each byte of a real report.
fn flip(case: &Case, trust: &SevSnpTrust) {
    let mut unnoticed = 0;
    for place in 0..case.body.len() {
        let mut flipped = case.body.clone();
        flipped[place] ^= 1;
        assert!(ours(case, &flipped, trust).is_err(), "{}: byte {place:#x}", case.name);
        unnoticed += usize::from(theirs(case, &flipped).is_some());
    }
    println!("{}: every flipped byte is refused; `sev` takes {unnoticed} of {}", case.name, case.body.len());
}

fn ours(case: &Case, body: &[u8], trust: &SevSnpTrust) -> Result<Examined, String> {
    let endorsements = [&case.leaf, &case.intermediate];
    let outcome = examine(body, &endorsements, trust, case.now, &mut Checks::new());
    outcome.map_err(|refusal| format!("{} ({})", refusal.denial, refusal.detail))
}

fn theirs(case: &Case, body: &[u8]) -> Option<AttestationReport> {
    let verified = || {
        let report = AttestationReport::from_bytes(body).ok()?;
        let chain = Chain::from_der(&case.root, &case.intermediate, &case.leaf).ok()?;
        (&chain, &report).verify().ok().map(|()| report)
    };
    catch_unwind(verified).ok().flatten()
}

fn assert_same(report: &Report<'_>, examined: &Examined, theirs: &AttestationReport) {
    let claims = examined.claims();
    assert_eq!(report.version, theirs.version);
    assert_eq!(report.guest_svn, theirs.guest_svn);
    assert_eq!(report.policy.0, theirs.policy.0);
    assert_eq!(report.platform_info.0, u64::from(theirs.plat_info));
    assert_eq!(report.vmpl, theirs.vmpl);
    assert_eq!(report.family_id[..], theirs.family_id.as_ref()[..]);
    assert_eq!(report.image_id[..], theirs.image_id.as_ref()[..]);
    assert_eq!(report.report_data[..], theirs.report_data.as_ref()[..]);
    assert_eq!(report.measurement[..], theirs.measurement.as_ref()[..]);
    assert_eq!(report.host_data[..], theirs.host_data.as_ref()[..]);
    assert_eq!(report.id_key_digest[..], theirs.id_key_digest.as_ref()[..]);
    assert_eq!(report.author_key_digest[..], theirs.author_key_digest.as_ref()[..]);
    assert_eq!(report.report_id[..], theirs.report_id.as_ref()[..]);
    assert_eq!(report.report_id_ma[..], theirs.report_id_ma.as_ref()[..]);
    assert_eq!(report.chip_id[..], theirs.chip_id.as_ref()[..]);
    assert_eq!(report.cpuid.map(|cpuid| cpuid.family), theirs.cpuid_fam_id);
    assert_eq!(report.cpuid.map(|cpuid| cpuid.model), theirs.cpuid_mod_id);
    assert_eq!(report.cpuid.map(|cpuid| cpuid.stepping), theirs.cpuid_step);
    assert_eq!(report.launch_mitigations, theirs.launch_mit_vector);
    assert_eq!(report.current_mitigations, theirs.current_mit_vector);
    let version = |version: sev::firmware::guest::Version| [version.major, version.minor, version.build];
    assert_eq!(report.current_firmware, version(theirs.current));
    assert_eq!(report.committed_firmware, version(theirs.committed));
    assert_tcb(&claims.reported_tcb, &theirs.reported_tcb);
    assert_tcb(&claims.committed_tcb, &theirs.committed_tcb);
    assert_tcb(&claims.current_tcb, &theirs.current_tcb);
    assert_tcb(&claims.launch_tcb, &theirs.launch_tcb);
    let (policy, platform) = (&claims.policy, &claims.platform);
    assert_eq!(policy.abi_major, u8::try_from(theirs.policy.abi_major()).unwrap());
    assert_eq!(policy.abi_minor, u8::try_from(theirs.policy.abi_minor()).unwrap());
    assert_eq!(policy.smt_allowed, theirs.policy.smt_allowed());
    assert_eq!(policy.migration_agent_allowed, theirs.policy.migrate_ma_allowed());
    assert_eq!(policy.debug_allowed, theirs.policy.debug_allowed());
    assert_eq!(policy.single_socket_required, theirs.policy.single_socket_required());
    assert_eq!(policy.cxl_allowed, theirs.policy.cxl_allowed());
    assert_eq!(policy.aes_256_xts_required, theirs.policy.mem_aes_256_xts());
    assert_eq!(policy.rapl_disabled_required, theirs.policy.rapl_dis());
    assert_eq!(policy.ciphertext_hiding_required, theirs.policy.ciphertext_hiding());
    assert_eq!(policy.page_swap_disabled, theirs.policy.page_swap_disabled());
    assert_eq!(platform.smt_enabled, theirs.plat_info.smt_enabled());
    assert_eq!(platform.tsme_enabled, theirs.plat_info.tsme_enabled());
    assert_eq!(platform.ecc_enabled, theirs.plat_info.ecc_enabled());
    assert_eq!(platform.rapl_disabled, theirs.plat_info.rapl_disabled());
    assert_eq!(platform.ciphertext_hiding_enabled, theirs.plat_info.ciphertext_hiding_enabled());
    assert_eq!(platform.alias_check_complete, theirs.plat_info.alias_check_complete());
    assert_eq!(platform.tio_enabled, theirs.plat_info.tio_enabled());
}

fn assert_tcb(ours: &Tcb, theirs: &TcbVersion) {
    assert_eq!(ours.fmc, theirs.fmc);
    assert_eq!(
        (ours.bootloader, ours.tee, ours.snp, ours.microcode),
        (theirs.bootloader, theirs.tee, theirs.snp, theirs.microcode)
    );
}

fn cases(folder: &str) -> (Vec<Case>, SevSnpTrust) {
    let at = |seconds: u64| Now { wall: WallTime(seconds * 1000), boot: BootTime(1) };
    let amd = |name: &str| {
        std::fs::read(format!("{}/../../../certs/amd/{name}.der", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let real = |name: &str, product: &str, intermediate: &str, seconds| Case {
        name: name.to_owned(),
        body: std::fs::read(format!("{folder}/{name}.report.bin")).unwrap(),
        leaf: certificate(&format!("{folder}/{name}.vek")),
        intermediate: amd(&format!("{intermediate}-{product}")),
        root: amd(&format!("ark-{product}")),
        now: at(seconds),
    };
    let mut cases = vec![
        real("milan-v2-DEBUG", "milan", "ask", 1_793_491_200),
        real("milan-v3", "milan", "ask", 1_793_491_200),
        real("turin-v5", "turin", "ask", 1_793_491_200),
        real("milan-v3-VLEK-aws", "milan", "asvk", 1_748_736_000),
        real("milan-v2-wrong-vcek", "milan", "ask", 1_793_491_200),
    ];
    let text = std::fs::read_to_string(format!("{folder}/synthetic.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
    let decoded = |value: &serde_json::Value| BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
    let mut trust = SevSnpTrust::amd();
    let roots = &vectors["ark_der_b64"];
    roots.as_object().unwrap().values().for_each(|root| trust.add_root(&decoded(root)).unwrap());
    cases.extend(vectors["cases"].as_array().unwrap().iter().map(|case| Case {
        name: case["name"].as_str().unwrap().to_owned(),
        body: decoded(&case["report_b64"]),
        leaf: decoded(&case["vek_der_b64"]),
        intermediate: decoded(&case["intermediate_der_b64"]),
        root: decoded(&roots[case["product"].as_str().unwrap()]),
        now: at(vectors["now"].as_u64().unwrap()),
    }));
    (cases, trust)
}

/// DER, or the one certificate of a PEM file.
fn certificate(path: &str) -> Vec<u8> {
    std::fs::read(format!("{path}.der")).unwrap_or_else(|_| {
        let text = std::fs::read_to_string(format!("{path}.pem")).unwrap();
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        BASE64_STANDARD.decode(body).unwrap()
    })
}
