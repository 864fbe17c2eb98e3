//! Collateral that is fetched: what it earns, what every failure of a service costs, and that none loosens anything.

use crate::hardware::refer;
use crate::support::hardware::{Machines, document, sev_snp, tdx};
use crate::support::*;
use portcullis::audit::record::Record;
use portcullis::denial::Denial;
use portcullis::proto::v1;
use server::{Act, Server};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[path = "../../src/collateral/tests/server.rs"]
#[allow(dead_code, reason = "the unit tests use more of it")]
mod server;

/// What a release may wait for, with ample room for a busy machine; far less than what is never answered takes.
const BOUND: Duration = Duration::from_secs(8);
/// Longer than any back-off of these worlds.
const BACKED_OFF_MS: u64 = 200;

/// What the two services have to give, and what they do instead.
#[derive(Default)]
struct Shelf {
    instead: Option<Act>,
    /// Chips' certificates by their ids, hex.
    chips: BTreeMap<String, Vec<u8>>,
    chain: String,
    list: Vec<u8>,
    intel: serde_json::Value,
}

/// A broker that fetches, and the one server that stands for both services.
struct Site {
    world: World,
    machines: Machines,
    shelf: Arc<Mutex<Shelf>>,
    server: Server,
}

impl Site {
    async fn new() -> Site {
        Site::with("fetches_per_identity_per_minute = 1000").await
    }

    async fn with(settings: &str) -> Site {
        let shelf: Arc<Mutex<Shelf>> = Arc::default();
        let server = Server::start(saying(&shelf)).await;
        let address = server.address();
        let section = format!(
            "lists_required = [\"milan\"]\n\
             [collateral]\nexchange_within_ms = 700\nrelease_waits_ms = 1500\n\
             back_off_first_ms = 50\nback_off_longest_ms = 100\n{settings}\n\
             [collateral.sev-snp]\naddress = \"{address}\"\n[collateral.tdx]\naddress = \"{address}\"\n"
        );
        let (world, machines) = Machines::world_with(&section).await;
        refer(&world).await;
        let site = Site { world, machines, shelf, server };
        let now = site.world.hands.now().seconds();
        {
            let mut shelf = site.shelf.lock().unwrap();
            shelf.chain = [&site.machines.snp.ask, &site.machines.snp.ark].map(|der| pem(der)).concat();
            shelf.list = site.machines.snp.list(&[], 7, now - 3_600, Some(now + 86_400));
            shelf.intel = serde_json::from_slice(&site.machines.tdx.collateral).unwrap();
        }
        site
    }

    fn say_instead(&self, act: Option<Act>) {
        self.shelf.lock().unwrap().instead = act;
        self.world.hands.pass(BACKED_OFF_MS);
    }

    fn publish_list(&self, number: u8, ends_in: u64) {
        let now = self.world.hands.now().seconds();
        self.shelf.lock().unwrap().list = self.machines.snp.list(&[], number, now - 60, Some(now + ends_in));
    }

    /// A chip that was never seen, whose certificate the service has.
    fn chip(&self, number: u8) -> Chip {
        let id = [number; 64];
        let profile = sev_snp::KeyProfile { hw_id: Some(id.to_vec()), ..self.machines.snp.vcek_profile() };
        let signer = self.machines.snp.signer(&profile);
        self.shelf.lock().unwrap().chips.insert(hex::encode(id), signer.certificate.clone());
        Chip { id, signer }
    }

    /// A report that brings nothing along.
    async fn ask_with(&self, chip: &Chip) -> Result<v1::Released, tonic::Status> {
        let report = |binding: &[u8; 64]| {
            let mut body = self.machines.snp.report(3, binding);
            body[0x1a0..0x1e0].copy_from_slice(&chip.id);
            vec![document("sev-snp", chip.signer.sign(body), vec![])]
        };
        self.world.attempt_with(report).await
    }

    /// A quote that brings nothing along.
    async fn ask_with_quote(&self) -> Result<v1::Released, tonic::Status> {
        let quote = |binding: &[u8; 64]| vec![document("tdx", self.machines.tdx.quote(binding), vec![])];
        self.world.attempt_with(quote).await
    }

    /// A quote with what its attester brought along of Intel's.
    async fn ask_bringing(&self, collateral: &[u8]) -> Result<v1::Released, tonic::Status> {
        let quote = |binding: &[u8; 64]| {
            vec![document("tdx", self.machines.tdx.quote(binding), vec![collateral.to_vec()])]
        };
        self.world.attempt_with(quote).await
    }

    #[track_caller]
    fn released(&self, outcome: Result<v1::Released, tonic::Status>) {
        outcome.unwrap_or_else(|status| panic!("{}", self.world.why(&status)));
    }
}

struct Chip {
    id: [u8; 64],
    signer: sev_snp::Signer,
}

/// What the services say for a path.
fn saying(shelf: &Arc<Mutex<Shelf>>) -> impl Fn(&str) -> Act + Send + Sync + 'static {
    let shelf = shelf.clone();
    move |path| {
        let shelf = shelf.lock().unwrap();
        shelf.instead.clone().unwrap_or_else(|| good(&shelf, path))
    }
}

fn good(shelf: &Shelf, path: &str) -> Act {
    let text = |key: &str| shelf.intel[key].as_str().unwrap();
    let statement = |name: &str, key: &str, header: &str| {
        let signature = text(&format!("{key}_signature"));
        let body = format!("{{\"{name}\":{},\"signature\":\"{signature}\"}}", text(key));
        Act::ok(body).header(header, &encoded(text(&format!("{key}_issuer_chain"))))
    };
    let chip = path.strip_prefix("/vcek/v1/Milan/").and_then(|rest| rest.split('?').next());
    match path {
        "/vcek/v1/Milan/cert_chain" => Act::ok(&shelf.chain),
        "/vcek/v1/Milan/crl" => Act::ok(&shelf.list),
        "/tdx/certification/v4/tcb?fmspc=00806F050000" => {
            statement("tcbInfo", "tcb_info", "TCB-Info-Issuer-Chain")
        }
        "/tdx/certification/v4/qe/identity" => {
            statement("enclaveIdentity", "qe_identity", "SGX-Enclave-Identity-Issuer-Chain")
        }
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der" => {
            let list = hex::decode(text("pck_crl")).unwrap();
            Act::ok(list).header("SGX-PCK-CRL-Issuer-Chain", &encoded(text("pck_crl_issuer_chain")))
        }
        "/sgx/certification/v4/rootcacrl" => Act::ok(text("root_ca_crl")),
        _ => match chip.and_then(|id| shelf.chips.get(&id.to_lowercase())) {
            Some(certificate) => Act::ok(certificate),
            None => Act::NotFound,
        },
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Percent-encoding as Intel's services do it.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[track_caller]
fn says(record: &Record, what: &str) {
    let detail = &record.case().unwrap().detail;
    assert!(detail.contains("not to be had") && detail.contains(what), "{what}: {detail}");
}

/// Each way in which a service does not give what it is asked for, and what the record says of it.
fn troubles() -> Vec<(&'static str, Act, &'static str)> {
    let whole = Act::ok(vec![0x30; 1_000]).bytes();
    vec![
        ("a black hole", Act::Hang(Vec::new()), "in time"),
        ("a slow drip", Act::Drip(whole.clone()), "in time"),
        ("half an answer", Act::Raw(whole[..whole.len() / 2].to_vec()), "half an answer"),
        ("an answer that stops half-way", Act::Hang(whole[..whole.len() / 2].to_vec()), "in time"),
        ("the wrong type", Act::ok("<html>").header("Content-Type", "text/html"), ": not "),
        ("a redirect", Act::status(302, "").header("Location", "http://127.0.0.1:1/"), "redirects"),
        ("429", Act::status(429, "").header("Retry-After", "3600"), "throttled"),
        ("500", Act::status(500, ""), "status 500"),
        ("too much", Act::ok(vec![0x30; 2 << 20]), "more than"),
        ("not HTTP", Act::Raw(b"SSH-2.0-x\r\n".to_vec()), "half an answer"),
    ]
}

#[tokio::test]
async fn evidence_that_brings_nothing_along_is_released_with_what_is_fetched_and_then_with_what_is_held() {
    let site = Site::new().await;
    let chip = site.chip(1);
    site.released(site.ask_with(&chip).await);
    site.released(site.ask_with_quote().await);
    let asked = site.server.connections();
    site.server.stop().await;
    site.released(site.ask_with(&chip).await);
    site.released(site.ask_with_quote().await);
    assert_eq!(site.server.connections(), asked);
}

#[tokio::test]
async fn each_trouble_of_a_service_denies_a_new_chip_in_time_and_heals_by_itself() {
    let site = Site::new().await;
    for (number, (name, act, why)) in (1..).zip(troubles()) {
        let chip = site.chip(number);
        site.say_instead(Some(act));
        let begun = Instant::now();
        let outcome = site.ask_with(&chip).await;
        assert!(begun.elapsed() < BOUND, "{name}: {:?}", begun.elapsed());
        println!("{name}");
        says(&site.world.refused(outcome, Denial::CollateralUnavailable), why);
        site.say_instead(None);
        site.released(site.ask_with(&chip).await);
    }
}

#[tokio::test]
async fn each_trouble_of_a_service_denies_a_quote_in_time_and_heals_by_itself() {
    let site = Site::new().await;
    for (name, act, why) in troubles() {
        site.say_instead(Some(act));
        let begun = Instant::now();
        let outcome = site.ask_with_quote().await;
        assert!(begun.elapsed() < BOUND, "{name}: {:?}", begun.elapsed());
        println!("{name}");
        says(&site.world.refused(outcome, Denial::CollateralUnavailable), why);
    }
    site.say_instead(None);
    site.released(site.ask_with_quote().await);
}

#[tokio::test]
async fn a_refused_connection_denies_at_once_and_heals_with_the_service() {
    let mut site = Site::new().await;
    let (chip, port) = (site.chip(1), site.server.port());
    site.server.stop().await;
    for outcome in [site.ask_with(&chip).await, site.ask_with_quote().await] {
        says(&site.world.refused(outcome, Denial::CollateralUnavailable), "cannot connect");
    }
    site.server = Server::start_at(port, None, saying(&site.shelf)).await;
    site.world.hands.pass(BACKED_OFF_MS);
    site.released(site.ask_with(&chip).await);
    site.released(site.ask_with_quote().await);
}

#[tokio::test]
async fn a_list_is_used_until_its_end_then_denies_and_a_newer_one_heals() {
    let site = Site::new().await;
    let chip = site.chip(1);
    site.publish_list(7, 120);
    site.released(site.ask_with(&chip).await);
    site.say_instead(Some(Act::status(500, "")));
    site.world.hands.pass(110_000);
    site.released(site.ask_with(&chip).await);
    site.world.hands.pass(11_000);
    let outcome = site.ask_with(&chip).await;
    says(&site.world.refused(outcome, Denial::CollateralStale), "status 500");
    site.publish_list(8, 86_400);
    site.say_instead(None);
    site.released(site.ask_with(&chip).await);
}

#[tokio::test]
async fn a_list_that_ended_before_it_was_fetched_is_stale() {
    let site = Site::new().await;
    let chip = site.chip(1);
    site.publish_list(7, 0);
    let outcome = site.ask_with(&chip).await;
    says(&site.world.refused(outcome, Denial::CollateralStale), "has ended");
}

#[tokio::test]
async fn a_list_older_than_one_seen_before_a_restart_is_refused_after_it() {
    let mut site = Site::new().await;
    let chip = site.chip(1);
    site.released(site.ask_with(&chip).await);
    site.publish_list(6, 86_400);
    site.world.stop().await;
    site.world.start().await;
    let outcome = site.ask_with(&chip).await;
    says(&site.world.refused(outcome, Denial::CollateralUnavailable), "older than what was seen before");
    site.publish_list(7, 86_400);
    site.world.hands.pass(BACKED_OFF_MS);
    site.released(site.ask_with(&chip).await);
}

#[tokio::test]
async fn what_is_in_the_directory_is_used_after_a_restart_with_the_service_gone() {
    let mut site = Site::with("directory = \"collateral\"").await;
    let chip = site.chip(1);
    site.released(site.ask_with(&chip).await);
    site.released(site.ask_with_quote().await);
    site.server.stop().await;
    site.world.stop().await;
    site.world.start().await;
    site.released(site.ask_with(&chip).await);
    site.released(site.ask_with_quote().await);
}

#[tokio::test]
async fn an_attester_brings_nothing_older_than_what_another_brought_before_a_restart() {
    let mut site = Site::new().await;
    let recovered = |number: u32| {
        site.machines.tdx.collateral_with(|info| info["tcbEvaluationDataNumber"] = number.into())
    };
    let (older, newer) = (recovered(17), recovered(19));
    // Nothing is fetched, and no directory keeps what was brought: the mark alone does.
    site.server.stop().await;
    site.released(site.ask_bringing(&older).await);
    site.released(site.ask_bringing(&newer).await);
    site.world.stop().await;
    site.world.start().await;
    let outcome = site.ask_bringing(&older).await;
    says(&site.world.refused(outcome, Denial::CollateralStale), "a newer one was seen");
    site.released(site.ask_bringing(&newer).await);
}

#[tokio::test]
async fn one_identity_has_so_much_fetched_within_a_minute_and_no_more() {
    // The first chip takes two: its certificate with the intermediate, and the list.
    let site = Site::with("fetches_per_identity_per_minute = 3").await;
    let chips = [1, 2, 3].map(|number| site.chip(number));
    site.released(site.ask_with(&chips[0]).await);
    site.released(site.ask_with(&chips[1]).await);
    let asked = site.server.connections();
    let outcome = site.ask_with(&chips[2]).await;
    says(&site.world.refused(outcome, Denial::CollateralUnavailable), "as much was fetched");
    assert_eq!(site.server.connections(), asked);
    // Those that are known are served.
    site.released(site.ask_with(&chips[0]).await);
    site.world.hands.pass(60_000);
    site.released(site.ask_with(&chips[2]).await);
}

/// What is held against what is brought along: each of these ended a second ago.
#[tokio::test]
async fn every_part_of_intels_that_has_ended_has_its_denial() {
    let (world, _) = Machines::world().await;
    refer(&world).await;
    let now = world.hands.now().seconds();
    let ended = tdx::Window { begins: now - 3_600, ends: now - 1 };
    let cases: [(&str, fn(&mut tdx::Plan, tdx::Window), Denial); 7] = [
        ("root CRL", |plan, ended| plan.root_crl = ended, Denial::CollateralStale),
        ("PCK CRL", |plan, ended| plan.pck_crl = ended, Denial::CollateralStale),
        ("TCB info", |plan, ended| tdx::Plan::date(&mut plan.tcb_info, ended), Denial::CollateralStale),
        ("QE identity", |plan, ended| tdx::Plan::date(&mut plan.qe_identity, ended), Denial::CollateralStale),
        ("leaf", |plan, ended| plan.pck = ended, Denial::EndorsementExpired),
        ("intermediate", |plan, ended| plan.pck_ca = ended, Denial::EndorsementExpired),
        ("TCB signer", |plan, ended| plan.signer = ended, Denial::EndorsementExpired),
    ];
    for (name, breaks, denial) in cases {
        let mut plan = tdx::Plan::at(now);
        breaks(&mut plan, ended);
        let machine = plan.make();
        std::fs::write(world.directory.path().join("etc/tdx.der"), &machine.root_der).unwrap();
        let broker = world.server().broker();
        broker.verifiers.set_hardware(world.config.evidence.read(broker.clock.untrusted()));
        let quote = |binding: &[u8; 64]| {
            vec![document("tdx", machine.quote(binding), vec![machine.collateral.clone()])]
        };
        let outcome = world.attempt_with(quote).await;
        println!("{name}");
        world.refused(outcome, denial);
    }
}

#[tokio::test]
async fn every_certificate_of_amds_that_has_ended_is_expired_and_an_old_enclaves_document_too_old() {
    let (world, machines) = Machines::world_with("").await;
    refer(&world).await;
    let now = world.hands.now().seconds();
    let leaf = sev_snp::KeyProfile { ends: now - 1, ..machines.snp.vcek_profile() };
    let leaf = machines.snp.signer(&leaf);
    let ask = machines.snp.ask_with(|profile| profile.ends = now - 1);
    for (name, signer, ask) in [("leaf", &leaf, &machines.snp.ask), ("intermediate", &machines.vcek, &ask)] {
        let outcome = world
            .attempt_with(|binding| {
                let endorsements = vec![signer.certificate.clone(), ask.clone()];
                vec![document("sev-snp", signer.sign(machines.snp.report(3, binding)), endorsements)]
            })
            .await;
        println!("{name}");
        world.refused(outcome, Denial::EndorsementExpired);
    }
    let old = portcullis::time::WallTime(world.hands.now().0 - 3_600_000);
    let outcome = world.attempt_with(|binding| vec![machines.nitro(binding, old)]).await;
    world.refused(outcome, Denial::EvidenceTooOld);
}
