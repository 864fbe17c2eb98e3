//! Hardware evidence through the whole pipeline: alone, beside a node's statement, and everything that goes wrong between.

use crate::support::hardware::{
    MEASUREMENT, MRTD, Machines, PCR0, composite, document, quote, sections, sev_snp, tdx, tpm2,
};
use crate::support::*;
use portcullis::denial::Denial;
use portcullis::evidence::process::EnrolledNode;
use portcullis::proto::v1;
use portcullis::spiffe::IdPattern;
use portcullis::store::Kind;

type Make = fn(&Machines, &[u8; 64], &World) -> v1::Document;

const KINDS: [(&str, Make); 3] = [
    ("nitro", |machines, bound, world| machines.nitro(bound, world.hands.now())),
    ("sev-snp", |machines, bound, _| machines.snp(bound)),
    ("tdx", |machines, bound, _| machines.tdx(bound)),
];

/// Every reference set speaks of one format alone.
pub async fn refer(world: &World) {
    world.remove(Kind::ReferenceSet, "payments-1").await;
    for (format, section) in sections() {
        world.put_hardware_reference(format, serde_json::json!({ format: section })).await;
    }
}

async fn enrol(world: &World, measurements: &[(&str, &str)]) {
    let node = EnrolledNode {
        name: NODE.into(),
        public_key: world.node_key.public().clone(),
        not_after: world.hands.now().plus(86_400_000),
        may_vouch_for: vec![IdPattern::parse("spiffe://example.org/ns/*").unwrap()],
        measurements: measurements
            .iter()
            .map(|(format, value)| ((*format).to_owned(), [(*value).to_owned()].into()))
            .collect(),
    };
    world.put(Kind::Node, NODE, &serde_json::to_vec(&node).unwrap(), &["node"]).await;
}

#[tokio::test]
async fn each_hardware_format_alone_earns_the_secret() {
    let (world, machines) = Machines::world().await;
    refer(&world).await;
    for (format, make) in KINDS {
        let outcome = world.attempt_with(|binding| vec![make(&machines, binding, &world)]).await;
        let released = outcome.unwrap_or_else(|status| panic!("{format}: {}", world.why(&status)));
        assert_eq!(released.secrets.len(), 1);
        let records = world.releases();
        let case = records.last().unwrap().case().unwrap();
        assert_eq!(case.claims[format]["reference_set"], format);
        assert_eq!(case.rules.first().map(String::as_str), Some(format!("reference:{format}").as_str()));
        assert_eq!(case.node, None);
    }
}

#[tokio::test]
async fn hardware_evidence_of_another_challenge_is_denied() {
    let (world, machines) = Machines::world().await;
    refer(&world).await;
    for (_, make) in KINDS {
        let outcome = world.attempt_with(|_| vec![make(&machines, &[7; 64], &world)]).await;
        world.refused(outcome, Denial::EvidenceBindingMismatch);
    }
}

#[tokio::test]
async fn a_measurement_that_no_set_allows_is_denied() {
    let (world, machines) = Machines::world().await;
    world.remove(Kind::ReferenceSet, "payments-1").await;
    let other = "ee".repeat(48);
    world.put_hardware_reference("nitro", serde_json::json!({ "nitro": { "pcrs": { "0": [other] } } })).await;
    let outcome = world.attempt_with(|binding| vec![machines.nitro(binding, world.hands.now())]).await;
    let record = world.refused(outcome, Denial::MeasurementMismatch);
    assert!(record.case().unwrap().detail.contains("PCR0"), "{record:?}");
}

#[tokio::test]
async fn a_set_that_asks_for_two_formats_is_not_met_by_one() {
    let (world, machines) = Machines::world().await;
    world.remove(Kind::ReferenceSet, "payments-1").await;
    let all: serde_json::Map<_, _> =
        sections().into_iter().map(|(format, section)| (format.to_owned(), section)).collect();
    world.put_hardware_reference("all", all.into()).await;
    let outcome = world.attempt_with(|binding| vec![machines.snp(binding)]).await;
    let record = world.refused(outcome, Denial::MeasurementMismatch);
    assert!(record.case().unwrap().detail.contains("without a `nitro` document"), "{record:?}");
    let make = |binding: &[u8; 64]| KINDS.map(|(_, make)| make(&machines, binding, &world)).to_vec();
    let outcome = world.attempt_with(make).await;
    outcome.unwrap_or_else(|status| panic!("{}", world.why(&status)));
}

#[tokio::test]
async fn a_genuine_platform_that_is_not_acceptable_is_denied() {
    let (world, machines) = Machines::world().await;
    refer(&world).await;
    let outcome = world
        .attempt_with(|binding| {
            let mut body = machines.snp.report(3, binding);
            body[8 + 2] |= 1 << 3; // POLICY.DEBUG, bit 19
            let endorsements = vec![machines.vcek.certificate.clone(), machines.snp.ask.clone()];
            vec![document("sev-snp", machines.vcek.sign(body), endorsements)]
        })
        .await;
    let record = world.refused(outcome, Denial::PlatformNotAcceptable);
    assert!(record.case().unwrap().detail.contains("DEBUG"), "{record:?}");
}

#[tokio::test]
async fn a_platform_that_is_refused_before_its_evidence_verified_latches_nothing() {
    let (world, _) = Machines::world().await;
    refer(&world).await;
    let now = world.hands.now().seconds();
    let mut plan = tdx::Plan::at(now);
    plan.td.td_attributes[3] = 0; // SEPT_VE_DISABLE
    let lax = plan.make();
    std::fs::write(world.directory.path().join("etc/tdx.der"), &lax.root_der).unwrap();
    let section = world.config.evidence.read(world.server().broker().clock.untrusted());
    world.server().broker().verifiers.set_hardware(section);
    let outcome = world
        .attempt_with(|binding| vec![document("tdx", lax.quote(binding), vec![lax.collateral.clone()])])
        .await;
    let status = outcome.unwrap_err();
    assert_status(&status, Denial::PlatformNotAcceptable);
    let record = world.record(&reason_and_id(&status).1.unwrap());
    assert_eq!(record.denial(), Some(Denial::PlatformNotAcceptable));
    assert_eq!(latches_of(&record).0, vec![]);
}

#[tokio::test]
async fn a_statement_and_hardware_of_one_machine_count_together() {
    let (world, machines) = Machines::world().await;
    let pins = [("nitro", PCR0), ("sev-snp", MEASUREMENT), ("tdx", MRTD)];
    for ((format, make), pin) in KINDS.into_iter().zip(pins) {
        assert_eq!(format, pin.0);
        enrol(&world, &[pin]).await;
        let outcome = world
            .attempt_with(|binding| {
                let statement = document("process", world.attester().body(binding), vec![]);
                let bound = composite(binding, &statement);
                vec![statement, make(&machines, &bound, &world)]
            })
            .await;
        outcome.unwrap_or_else(|status| panic!("{format}: {}", world.why(&status)));
    }
}

#[tokio::test]
async fn the_plain_binding_beside_a_statement_is_denied() {
    let (world, machines) = Machines::world().await;
    enrol(&world, &[("sev-snp", MEASUREMENT)]).await;
    let outcome = world
        .attempt_with(|binding| {
            vec![document("process", world.attester().body(binding), vec![]), machines.snp(binding)]
        })
        .await;
    world.refused(outcome, Denial::EvidenceBindingMismatch);
}

#[tokio::test]
async fn good_documents_of_two_machines_are_denied() {
    let (world, machines) = Machines::world().await;
    let other = "cc".repeat(48);
    for (format, make) in KINDS {
        // Enrolled with another machine's measurement, and with none.
        for pins in [vec![(format, other.as_str())], vec![]] {
            enrol(&world, &pins).await;
            let outcome = world
                .attempt_with(|binding| {
                    let statement = document("process", world.attester().body(binding), vec![]);
                    let bound = composite(binding, &statement);
                    vec![statement, make(&machines, &bound, &world)]
                })
                .await;
            world.refused(outcome, Denial::EvidenceNodeMismatch);
        }
        // Enrolled to come with it, and alone.
        enrol(&world, &[(format, other.as_str())]).await;
        let outcome = world
            .attempt_with(|binding| vec![document("process", world.attester().body(binding), vec![])])
            .await;
        world.refused(outcome, Denial::EvidenceNodeMismatch);
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_or_was_revoked_is_denied() {
    let (world, machines) = Machines::world().await;
    refer(&world).await;
    let now = world.hands.now().seconds();
    let early = sev_snp::KeyProfile { begins: now + 3_600, ..machines.snp.vcek_profile() };
    let early = machines.snp.signer(&early);
    let outcome = world
        .attempt_with(|binding| {
            let endorsements = vec![early.certificate.clone(), machines.snp.ask.clone()];
            vec![document("sev-snp", early.sign(machines.snp.report(3, binding)), endorsements)]
        })
        .await;
    world.refused(outcome, Denial::EndorsementNotYetValid);
    let mut plan = tdx::Plan::at(now);
    plan.revoke_pck = true;
    let revoked = plan.make();
    std::fs::write(world.directory.path().join("etc/tdx.der"), &revoked.root_der).unwrap();
    let section = world.config.evidence.read(world.server().broker().clock.untrusted());
    world.server().broker().verifiers.set_hardware(section);
    let outcome = world
        .attempt_with(|binding| {
            vec![document("tdx", revoked.quote(binding), vec![revoked.collateral.clone()])]
        })
        .await;
    world.refused(outcome, Denial::EndorsementRevoked);
}

#[tokio::test]
async fn missing_or_stale_collateral_is_undecided() {
    let (world, machines) = Machines::world().await;
    refer(&world).await;
    let outcome =
        world.attempt_with(|binding| vec![document("tdx", machines.tdx.quote(binding), vec![])]).await;
    world.refused(outcome, Denial::CollateralUnavailable);
    let now = world.hands.now().seconds();
    let mut plan = tdx::Plan::at(now);
    plan.pck_crl.ends = now - 1;
    let stale = plan.make();
    std::fs::write(world.directory.path().join("etc/tdx.der"), &stale.root_der).unwrap();
    let section = world.config.evidence.read(world.server().broker().clock.untrusted());
    world.server().broker().verifiers.set_hardware(section);
    let outcome = world
        .attempt_with(|binding| vec![document("tdx", stale.quote(binding), vec![stale.collateral.clone()])])
        .await;
    world.refused(outcome, Denial::CollateralStale);
}

#[tokio::test]
async fn roots_that_cannot_be_read_leave_their_format_undecided_and_touch_no_other() {
    let (world, machines) = Machines::world().await;
    refer(&world).await;
    std::fs::remove_file(world.directory.path().join("etc/nitro.der")).unwrap();
    let section = world.config.evidence.read(world.server().broker().clock.untrusted());
    world.server().broker().verifiers.set_hardware(section);
    let outcome = world.attempt_with(|binding| vec![machines.nitro(binding, world.hands.now())]).await;
    world.refused(outcome, Denial::CollateralUnavailable);
    let outcome = world.attempt_with(|binding| vec![machines.snp(binding)]).await;
    outcome.unwrap_or_else(|status| panic!("{}", world.why(&status)));
}

#[tokio::test]
async fn a_format_that_is_not_configured_is_neither_offered_nor_taken() {
    let world = World::new().await;
    let connection = world.connect().await.unwrap();
    let asked = ask(&connection, open_message(&[SECRET]).0).await.unwrap();
    assert_eq!(asked.challenge.formats, ["process"]);
    let machines = Machines::at(world.hands.now());
    let outcome = world.attempt_with(|binding| vec![machines.snp(binding)]).await;
    world.refused(outcome, Denial::EvidenceFormatNotOffered);
}

#[tokio::test]
async fn policy_reads_hardware_claims_by_name() {
    let (world, machines) = Machines::world().await;
    refer(&world).await;
    for (condition, permits) in [
        ("context has sev_snp && context.sev_snp.reported_tcb.microcode >= 219", true),
        ("context has sev_snp && context.sev_snp.product == \"turin\"", false),
        ("context has tdx && context.tdx.tcb_status == \"UpToDate\"", false),
    ] {
        let text = POLICY.replace(");", &format!(") when {{ {condition} }};"));
        world.put_policy(&text).await;
        let outcome = world.attempt_with(|binding| vec![machines.snp(binding)]).await;
        match permits {
            true => drop(outcome.unwrap_or_else(|status| panic!("{condition}: {}", world.why(&status)))),
            false => drop(world.refused(outcome, Denial::PolicySilent)),
        }
    }
}

async fn refer_to_boot(world: &World) {
    world.remove(Kind::ReferenceSet, "payments-1").await;
    let pcr7 = hex::encode(tpm2::hash(tpm2::SHA256, &[b"measured", &[7]]));
    let section = serde_json::json!({ "pcrs": { "sha256": { "7": [pcr7] } } });
    world.put_hardware_reference("boot", serde_json::json!({ "tpm2": section })).await;
}

#[tokio::test]
async fn a_quote_of_a_nodes_key_earns_the_secret_alone_and_beside_the_nodes_statement() {
    let world = World::new().await;
    refer_to_boot(&world).await;
    for ak in [tpm2::Ak::p256(), tpm2::Ak::p384(), tpm2::Ak::rsassa(), tpm2::Ak::rsapss()] {
        let (address, _serving) = world.serve_tpm2(NODE, &ak).await;
        enrol(&world, &[]).await;
        let outcome = world.attempt_at(&address, |binding| vec![quote(binding, &ak, |_| {})]).await;
        outcome.unwrap_or_else(|status| panic!("{}", world.why(&status)));
        let beside = |binding: &[u8; 64]| {
            let statement = document("process", world.attester().body(binding), vec![]);
            let bound = composite(binding, &statement);
            vec![statement, quote(&bound, &ak, |_| {})]
        };
        let outcome = world.attempt_at(&address, beside).await;
        outcome.unwrap_or_else(|status| panic!("{}", world.why(&status)));
        let records = world.releases();
        assert_eq!(records.last().unwrap().case().unwrap().node.as_deref(), Some(NODE));
    }
}

#[tokio::test]
async fn a_quote_of_before_the_last_reset_is_denied() {
    let world = World::new().await;
    refer_to_boot(&world).await;
    let ak = tpm2::Ak::p256();
    let (address, _serving) = world.serve_tpm2(NODE, &ak).await;
    let at = |resets: u32| {
        let ak = &ak;
        move |binding: &[u8; 64]| vec![quote(binding, ak, |quote| quote.reset_count = resets)]
    };
    let outcome = world.attempt_at(&address, at(8)).await;
    outcome.unwrap_or_else(|status| panic!("{}", world.why(&status)));
    let outcome = world.attempt_at(&address, at(7)).await;
    world.refused(outcome, Denial::EvidenceCounterBackwards);
    let outcome = world.attempt_at(&address, at(8)).await;
    outcome.unwrap_or_else(|status| panic!("{}", world.why(&status)));
}

#[tokio::test]
async fn a_quote_of_another_node_than_the_statements_is_denied() {
    let world = World::new().await;
    let ak = tpm2::Ak::p256();
    let (address, _serving) = world.serve_tpm2("node-other.example", &ak).await;
    let beside = |binding: &[u8; 64]| {
        let statement = document("process", world.attester().body(binding), vec![]);
        let bound = composite(binding, &statement);
        vec![statement, quote(&bound, &ak, |_| {})]
    };
    let outcome = world.attempt_at(&address, beside).await;
    world.refused(outcome, Denial::EvidenceNodeMismatch);
    // And alone: nobody enrolled that node, so it vouches for nobody.
    let outcome = world.attempt_at(&address, |binding| vec![quote(binding, &ak, |_| {})]).await;
    world.refused(outcome, Denial::EndorsementNotPermitted);
}

#[tokio::test]
async fn a_quote_of_a_key_that_is_not_enrolled_is_denied() {
    let world = World::new().await;
    let (ak, other) = (tpm2::Ak::p256(), tpm2::Ak::p256());
    let (address, _serving) = world.serve_tpm2(NODE, &ak).await;
    let outcome = world.attempt_at(&address, |binding| vec![quote(binding, &other, |_| {})]).await;
    world.refused(outcome, Denial::EndorsementUntrusted);
}
