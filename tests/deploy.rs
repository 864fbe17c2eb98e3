//! What stands in `deploy/` is what the broker reads: every key documented, every default the real one.
//!
//! *Takes* `deploy/` and `src/cli/config.rs`. *Gives* nothing. *Denies* nothing. *Source*: `deploy/README.md`.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests run on known input"
)]

use portcullis::cli::config::{Config, LogFormat};
use std::collections::BTreeSet;

const DOCUMENTED: &str = include_str!("../deploy/portcullis.toml");

/// Where the broker keeps its state: a directory of the test's own.
fn read(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.toml");
    std::fs::write(&path, text).unwrap();
    Config::read(&path).map_err(|error| error.to_string())
}

/// Keys that take another's place: both at once are refused.
const INSTEAD: [&str; 2] = ["key_source", "audit_key_credential"];

/// `#key = value`, without a space, is a key at its default.
fn with_defaults_written_out() -> String {
    let written = |line: &str| match line.strip_prefix('#') {
        Some(rest) if key_of(rest).is_some_and(|key| INSTEAD.contains(&key)) => line.to_owned(),
        Some(rest) if key_of(rest).is_some() || rest.starts_with('[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    DOCUMENTED.lines().map(written).collect::<Vec<_>>().join("\n")
}

fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    let word = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (word && !key.is_empty()).then_some(key)
}

/// Section and key of each documented line.
fn documented() -> BTreeSet<(String, String)> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in DOCUMENTED.lines() {
        if line.trim_start_matches('#').starts_with('[') {
            let line = line.trim_start_matches('#');
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some(key) = key_of(line.trim_start_matches('#')) {
            keys.insert((section.clone(), key.to_owned()));
        }
    }
    keys
}

/// Section and key of each field of the configuration's structs, as their source has them.
fn configurable() -> BTreeSet<(String, String)> {
    let source = concat!(include_str!("../src/cli/config.rs"), include_str!("../src/cli/evidence.rs"));
    let collateral = include_str!("../src/collateral/config.rs")
        .replace("CollateralConfig", "CollateralSection")
        .replace("SevSnpService", "CollateralSevSnpSection")
        .replace("TdxService", "CollateralTdxSection");
    let source = [source, &collateral].concat();
    let mut keys = BTreeSet::new();
    let mut sections = 0;
    for part in source.split("pub struct ").skip(1) {
        let name = part.split([' ', '{']).next().unwrap();
        let Some(name) = name.strip_suffix("Section") else { continue };
        let section = match name {
            "TrustDomain" => "trust_domain".to_owned(),
            "Nitro" | "Tdx" | "Tpm2" => format!("evidence.{}", name.to_lowercase()),
            "CollateralSevSnp" => "collateral.sev-snp".to_owned(),
            "CollateralTdx" => "collateral.tdx".to_owned(),
            "SevSnp" => "evidence.sev-snp".to_owned(),
            name => name.to_lowercase(),
        };
        sections += 1;
        let body = part.split("\n}").next().unwrap();
        let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
        // A field that is a section stands as one of its own.
        let is_section = |field: &str| field.trim_end_matches([',', '>']).ends_with("Section");
        for field in fields.filter(|field| !is_section(field)) {
            keys.insert((section.clone(), field.split(':').next().unwrap().to_owned()));
        }
    }
    assert!(sections >= 10, "src/cli/config.rs is not read as it is written");
    keys
}

#[test]
fn every_key_is_documented_and_no_other() {
    let (documented, configurable) = (documented(), configurable());
    assert_eq!(configurable.difference(&documented).collect::<Vec<_>>(), Vec::<&_>::new(), "not documented");
    assert_eq!(
        documented.difference(&configurable).collect::<Vec<_>>(),
        Vec::<&_>::new(),
        "not configurable"
    );
}

#[test]
fn every_key_says_whether_it_is_required_or_what_its_default_is() {
    let mut comment = String::new();
    let mut explained = BTreeSet::new();
    for line in DOCUMENTED.lines() {
        match (line.strip_prefix("# "), key_of(line.trim_start_matches('#'))) {
            (Some(text), _) => comment.push_str(text),
            (None, Some(key)) => {
                if comment.contains("Required") || comment.contains("Default: ") {
                    explained.insert(key);
                }
                comment.clear();
            }
            (None, None) => comment.clear(),
        }
    }
    let silent = documented().into_iter().map(|(_, key)| key).filter(|key| !explained.contains(key.as_str()));
    assert_eq!(silent.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_documented_configuration_is_read_and_its_defaults_are_the_real_ones() {
    let silent = read(DOCUMENTED).unwrap();
    let written = read(&with_defaults_written_out()).unwrap();
    assert!(written.limits.streams_per_identity.is_some() && written.log.level.is_some());
    assert_eq!(written.broker.answer_within_ms, silent.broker.answer_within_ms);
    assert_eq!(written.broker.allow_channel_binding_none, silent.broker.allow_channel_binding_none);
    assert_eq!(format!("{:?}", written.rates()), format!("{:?}", silent.rates()));
    assert_eq!(format!("{:?}", written.log.format), format!("{:?}", LogFormat::default()));
    let revocation =
        |config: &Config| config.domains().iter().map(|d| format!("{:?}", d.revocation)).collect::<Vec<_>>();
    let modes =
        |config: &Config| revocation(config).iter().map(|mode| mode[..5].to_owned()).collect::<Vec<_>>();
    assert_eq!(modes(&written), modes(&silent));
    assert_eq!(revocation(&written)[0], revocation(&silent)[0], "the short-lived bound");
}

#[test]
fn a_key_that_is_not_documented_is_refused() {
    let error = read(&DOCUMENTED.replace("[log]", "[log]\nsecrets = true")).unwrap_err();
    assert!(error.contains("secrets"), "{error}");
}

/// What `durability.md` asks of the unit, and `systemd-analyze` cannot know: a figure alone would let it go.
#[test]
fn the_units_hold_what_the_broker_relies_on() {
    let broker = include_str!("../deploy/portcullis.service");
    let agent = include_str!("../deploy/portcullis-agent.service");
    let has = |unit: &str, line: &str| unit.lines().any(|found| found == line);
    for unit in [broker, agent] {
        for line in [
            "LimitCORE=0",
            "LimitMEMLOCK=infinity",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "MemoryDenyWriteExecute=yes",
        ] {
            assert!(has(unit, line), "{line}");
        }
        assert!(
            !unit.lines().any(|line| line.starts_with("ProtectClock=")),
            "even reading adjtimex would fail"
        );
    }
    assert!(
        has(broker, "CapabilityBoundingSet="),
        "the broker holds no capability, CAP_SYS_TIME least of all"
    );
    let capabilities = "CAP_SYS_PTRACE CAP_DAC_READ_SEARCH";
    assert!(has(agent, &format!("CapabilityBoundingSet={capabilities}")));
    assert!(has(agent, &format!("AmbientCapabilities={capabilities}")));
    assert!(!agent.lines().any(|line| line.starts_with("PrivateUsers=") || line.starts_with("ProtectProc=")));
}

#[test]
fn the_operators_guide_says_what_to_do_for_each_denial() {
    let guide = include_str!("../deploy/README.md");
    let missing = portcullis::denial::Denial::ALL.iter().map(|denial| denial.name());
    let missing: Vec<_> = missing.filter(|name| !guide.contains(&format!("`{name}`"))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// The guide's table stands under the reason that the caller hears.
#[test]
fn the_operators_guide_has_each_denial_under_its_reason() {
    let guide = include_str!("../deploy/README.md");
    let mut reason = "";
    for line in guide.lines().skip_while(|line| !line.starts_with("| the caller hears")).skip(2) {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let (Some(heard), Some(names)) = (cells.next(), cells.next()) else { break };
        reason = if heard.is_empty() { reason } else { heard.trim_matches('`') };
        for name in names.split(", ").map(|name| name.trim_matches('`')) {
            let denial = portcullis::denial::Denial::parse(name).unwrap_or_else(|| panic!("`{name}`"));
            assert_eq!(denial.reason().name(), reason, "{name}");
        }
    }
    assert!(!reason.is_empty());
}
