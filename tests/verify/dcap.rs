//! `tdx` and `sgx`: real quotes with real collateral at their own times, and synthetic ones under a test root.

use crate::desk::{Asked, Desk, REFUSED, UNDECIDED, at, json, read, vectors, verify};
use crate::tdx_kit::{Plan, Window};
use std::path::Path;

const ACCEPTED: [(&str, u64); 3] = [
    ("tdx-v4", 1_750_332_000),
    ("tdx-v4-trailing-padding", 1_769_509_141),
    ("tdx-azure-1764662251", 1_771_423_480),
];

fn asked(folder: &Path, format: &str, name: &str, seconds: u64) -> Asked {
    let asked = verify(format, folder.join(format!("{name}.quote.bin")));
    asked.with("--endorsement", folder.join(format!("{name}.collateral.json"))).with("--at", at(seconds))
}

#[test]
fn every_real_quote_gets_its_verdict_at_its_own_time() {
    let Some(folder) = vectors("tdx-sgx") else { return };
    for (name, seconds) in ACCEPTED {
        let found = asked(&folder, "tdx", name, seconds).run().accepted();
        assert_eq!(found.claims("tdx")["tcb"]["status"], "UpToDate", "{name}");
        assert_eq!(found.json["freshness"], "not-shown");
        let carried = found.claims("tdx")["report_data"].as_str().unwrap().to_owned();
        let fresh = asked(&folder, "tdx", name, seconds).with("--binding", carried).run().accepted();
        assert_eq!(fresh.json["freshness"], "shown");
        let other = asked(&folder, "tdx", name, seconds).with("--binding", "07".repeat(64));
        other.run().refused("EvidenceBindingMismatch");
        // Today all of it is stale.
        let quote = folder.join(format!("{name}.quote.bin"));
        let collateral = folder.join(format!("{name}.collateral.json"));
        verify("tdx", &quote).with("--endorsement", &collateral).run().undecided("CollateralStale");
        verify("tdx", &quote).with("--at", at(seconds)).run().undecided("CollateralUnavailable");
        verify("tdx", &quote).with("--at", at(seconds)).with("--collateral", &collateral).run().accepted();
    }
    let too_old = asked(&folder, "tdx", "tdx-v5-tcb-too-old", 1_771_414_156).run();
    too_old.refused("PlatformNotAcceptable");
    // Collateral of another platform.
    let other =
        verify("tdx", folder.join("tdx-v4-trailing-padding.quote.bin")).with("--at", at(1_771_423_480));
    let other = other.with("--endorsement", folder.join("tdx-azure-1764662251.collateral.json"));
    other.run().refused("EndorsementUntrusted");
}

#[test]
fn every_real_enclave_gets_its_verdict() {
    let Some(folder) = vectors("tdx-sgx") else { return };
    let sgx = || asked(&folder, "sgx", "sgx-v3", 1_750_332_000);
    let refused = sgx().run().refused("PlatformNotAcceptable");
    assert!(
        refused.json["decided_by"]["detail"].as_str().unwrap().contains("ConfigurationAndSWHardeningNeeded")
    );
    let desk = Desk::new();
    let allowed = format!(
        "[[set]]\nname = \"a\"\nnot_after = 2030-01-01T00:00:00Z\n[set.sgx]\nmrenclave = [{}]\n[set.sgx.platform]\ntcb_statuses = [\"ConfigurationAndSWHardeningNeeded\"]\n",
        refused.claims("sgx")["mrenclave"]
    );
    let values = desk.put("values.toml", &allowed);
    sgx().with("--reference", &values).run().accepted();
    let denied = allowed.clone() + "denied_advisories = [\"INTEL-SA-00615\"]\n";
    sgx().with("--reference", desk.put("denied.toml", denied)).run().refused("PlatformNotAcceptable");
    let other = desk.put("other.toml", allowed.replace("33d8", "33d9"));
    sgx().with("--reference", other).run().refused("MeasurementMismatch");
    // No collateral is stored for it, and none would help.
    let debug = || verify("sgx", folder.join("sgx-v3-DEBUG.quote.bin")).with("--at", at(1_700_000_000));
    debug().run().refused("PlatformNotAcceptable");
    let allowing = desk.put("debug.toml", allowed + "allow_debug = true\n");
    debug().with("--reference", allowing).run().undecided("CollateralUnavailable");
    // One is not the other.
    asked(&folder, "tdx", "sgx-v3", 1_750_332_000).run().refused("EvidenceMalformed");
    asked(&folder, "sgx", "tdx-v4", 1_750_332_000).run().refused("EvidenceMalformed");
}

#[test]
fn lists_may_come_in_files_of_their_own() {
    let Some(folder) = vectors("tdx-sgx") else { return };
    let desk = Desk::new();
    let mut collateral = json(folder.join("tdx-v4.collateral.json"));
    let parts = collateral.as_object_mut().unwrap();
    let mut list = |name: &str| hex::decode(parts.remove(name).unwrap().as_str().unwrap()).unwrap();
    let root = desk.put("root.crl", list("root_ca_crl"));
    let pck = desk.put("pck.crl", list("pck_crl"));
    let without = desk.put("collateral.json", collateral.to_string());
    let asked = || {
        let asked = verify("tdx", folder.join("tdx-v4.quote.bin")).with("--endorsement", &without);
        asked.with("--at", at(1_750_332_000))
    };
    asked().run().undecided("CollateralUnavailable");
    asked().with("--crl", &root).run().undecided("CollateralUnavailable");
    asked().with("--crl", &root).with("--crl", &pck).run().accepted();
    asked().with("--crl", desk.put("no.crl", "no list")).run().usage("no.crl");
    asked().with("--collateral", desk.put("no.json", "{}")).run().usage("no.json");
    verify("tdx", folder.join("tdx-v4.quote.bin"))
        .with("--endorsement", desk.path("no.json"))
        .run()
        .refused("EvidenceMalformed");
}

#[test]
fn edited_collateral_is_refused() {
    let Some(folder) = vectors("tdx-sgx") else { return };
    let desk = Desk::new();
    let good = json(folder.join("tdx-v4.collateral.json"));
    let edits: [(&str, &str, &str); 2] =
        [("tcb_info", "OutOfDate", "UpToDate"), ("qe_identity", "\"isvprodid\":2", "\"isvprodid\":3")];
    let run = |collateral: String| {
        let asked = verify("tdx", folder.join("tdx-v4.quote.bin")).with("--at", at(1_750_332_000));
        asked.with("--endorsement", desk.put("collateral.json", collateral)).run()
    };
    for (name, from, to) in edits {
        let mut edited = good.clone();
        let text = edited[name].as_str().unwrap();
        assert!(text.contains(from));
        edited[name] = text.replacen(from, to, 1).into();
        run(edited.to_string()).refused("EndorsementUntrusted");
    }
    let mut swapped = good.clone();
    swapped["pck_crl"] = good["root_ca_crl"].clone();
    run(swapped.to_string()).undecided("CollateralUnavailable");
    let mut unsigned = good.clone();
    unsigned["qe_identity_signature"] = "00".repeat(64).into();
    run(unsigned.to_string()).refused("EndorsementUntrusted");
}

#[test]
fn a_byte_flipped_or_cut_off_is_never_acceptable() {
    let Some(folder) = vectors("tdx-sgx") else { return };
    let desk = Desk::new();
    let quote = read(folder.join("tdx-v4.quote.bin"));
    let run = |quote: &[u8]| {
        let asked = verify("tdx", desk.put("quote", quote)).with("--at", at(1_750_332_000));
        asked.with("--endorsement", folder.join("tdx-v4.collateral.json")).run()
    };
    for position in (0..quote.len()).step_by(97) {
        let mut flipped = quote.clone();
        flipped[position] ^= 1;
        // A PCK certificate that was changed may name another platform, of which no collateral is there: that is undecided.
        let code = run(&flipped).code;
        assert!(code == REFUSED || code == UNDECIDED, "byte {position}: {code}");
    }
    for length in [0, 1, 48, 632, 4935] {
        run(&quote[..length]).refused("EvidenceMalformed");
    }
}

#[test]
fn a_synthetic_platform_goes_stale_part_by_part() {
    const NOW: u64 = 1_790_000_000;
    const SOON: Window = Window { begins: NOW - 3600, ends: NOW + 100 };
    type Part = (&'static str, Option<&'static str>, fn(&mut Plan));
    let parts: [Part; 8] = [
        ("root CA certificate", Some("EndorsementExpired"), |plan| plan.root = SOON),
        ("PCK CA certificate", Some("EndorsementExpired"), |plan| plan.pck_ca = SOON),
        ("PCK certificate", Some("EndorsementExpired"), |plan| plan.pck = SOON),
        ("TCB signing certificate", Some("EndorsementExpired"), |plan| plan.signer = SOON),
        ("root CA CRL", None, |plan| plan.root_crl = SOON),
        ("PCK CRL", None, |plan| plan.pck_crl = SOON),
        ("TCB info", None, |plan| Plan::date(&mut plan.tcb_info, SOON)),
        ("QE identity", None, |plan| Plan::date(&mut plan.qe_identity, SOON)),
    ];
    for (what, expired, change) in parts {
        let (desk, mut plan) = (Desk::new(), Plan::at(NOW));
        change(&mut plan);
        let synthetic = plan.make();
        desk.put("roots/root.der", &synthetic.root_der);
        let quote = desk.put("quote", synthetic.quote(&[7; 64]));
        let collateral = desk.put("collateral.json", &synthetic.collateral);
        let asked = |seconds: u64| {
            let asked = verify("tdx", &quote).with("--roots", desk.path("roots"));
            let asked = asked.with("--collateral", &collateral).with("--binding", "07".repeat(64));
            asked.with("--at", at(seconds)).run()
        };
        let found = asked(NOW + 99).accepted();
        assert_eq!(found.json["holds_until"]["what"], what);
        assert_eq!(found.json["holds_until"]["end"], at(NOW + 100));
        match expired {
            Some(denial) => drop(asked(NOW + 100).refused(denial)),
            None => drop(asked(NOW + 100).undecided("CollateralStale")),
        }
        // Without the root of one's own it is nobody's.
        let foreign = verify("tdx", &quote).with("--collateral", &collateral).with("--at", at(NOW));
        foreign.run().refused("EndorsementUntrusted");
    }
}
