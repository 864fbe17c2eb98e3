//! Collateral from little servers on the loopback that do what real ones do on bad days.

mod end_to_end;
mod keeping;
mod restarted;
mod server;
mod unreachable;

use super::*;
use crate::denial::Denial;
use crate::evidence::outcome::Checks;
use crate::evidence::sev_snp::{Product, SevSnpTrust, testkit as amd};
use crate::evidence::tdx::TdxTrust;
use crate::evidence::tdx::tests::support as intel;
use crate::time::{BootTime, Clock, Now, TimeSource, WallTime};
use crate::transport::{Marks, MarksUnavailable};
use amd::{Authority, T0};
use intel::{Plan, Synthetic};
use server::{Act, Server};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DUE: [u8; 64] = [0x5a; 64];
const DAY: u64 = 86_400;
/// Longer than any exchange of a test may take, and no test's success waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// For exchanges that end by themselves, on a busy machine too.
const PATIENT_MS: u64 = 10_000;
/// For exchanges that never would.
const HASTY_MS: u64 = 500;

/// Both clocks, in a test's hands.
struct Hands {
    wall: AtomicU64,
    boot: AtomicU64,
}

impl Hands {
    fn advance(&self, seconds: u64) {
        self.wall.fetch_add(seconds * 1000, Ordering::SeqCst);
        self.boot.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    fn now(&self) -> Now {
        Now {
            wall: WallTime(self.wall.load(Ordering::SeqCst)),
            boot: BootTime(self.boot.load(Ordering::SeqCst)),
        }
    }
}

impl TimeSource for Hands {
    fn wall(&self) -> Option<WallTime> {
        Some(self.now().wall)
    }
    fn boot(&self) -> Option<BootTime> {
        Some(self.now().boot)
    }
    fn boot_id(&self) -> String {
        "boot".into()
    }
    fn synchronised(&self) -> bool {
        true
    }
}

/// Marks of a store, which may be out.
#[derive(Default)]
struct Kept {
    marks: Mutex<BTreeMap<String, Vec<u8>>>,
    out: std::sync::atomic::AtomicBool,
}

impl Kept {
    fn set_out(&self, out: bool) {
        self.out.store(out, Ordering::SeqCst);
    }

    fn there(&self) -> Result<std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>>, MarksUnavailable> {
        if self.out.load(Ordering::SeqCst) { Err(MarksUnavailable) } else { Ok(self.marks.lock().unwrap()) }
    }
}

impl Marks for Kept {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, MarksUnavailable> {
        Ok(self.there()?.get(name).cloned())
    }

    fn raise(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable> {
        let mut marks = self.there()?;
        let mark = marks.entry(name.to_owned()).or_default();
        *mark = mark.clone().max(value.to_vec());
        Ok(())
    }

    fn replace(&self, name: &str, value: &[u8]) -> Result<(), MarksUnavailable> {
        self.there()?.insert(name.to_owned(), value.to_vec());
        Ok(())
    }
}

/// A broker's collateral, both vendors' synthetic halves, and one server that stands for both services.
struct Rig {
    hands: Arc<Hands>,
    clock: Arc<Clock>,
    authority: Authority,
    synthetic: Synthetic,
    server: Server,
    holdings: Holdings,
}

impl Rig {
    /// Services that answer as they should.
    async fn good() -> Rig {
        Rig::with(|_, _| Act::NotFound).await
    }

    /// Services of which `act` says what they do for a path, and good ones for what it calls [`Act::NotFound`].
    async fn with(act: impl Fn(&Services, &str) -> Act + Send + Sync + 'static) -> Rig {
        Rig::made(None, PATIENT_MS, act).await
    }

    /// Little patience with services that answer late, or never.
    async fn hasty(act: impl Fn(&Services, &str) -> Act + Send + Sync + 'static) -> Rig {
        Rig::made(None, HASTY_MS, act).await
    }

    async fn made(
        directory: Option<&Path>,
        exchange_within_ms: u64,
        act: impl Fn(&Services, &str) -> Act + Send + Sync + 'static,
    ) -> Rig {
        let hands = Arc::new(Hands { wall: AtomicU64::new(T0 * 1000), boot: AtomicU64::new(1_000_000) });
        let clock = Arc::new(Clock::new(hands.clone(), WallTime(0)));
        let synthetic = Plan::at(T0).make();
        let (parts, authority) = (Services::new(&synthetic), Authority::new("Milan"));
        let server = Server::start(move |path| match act(&parts, path) {
            Act::NotFound => parts.good(path),
            act => act,
        })
        .await;
        let mut config = config(&server.address());
        config.directory = directory.map(Path::to_owned);
        config.exchange_within_ms = exchange_within_ms;
        let trust = trusts(&authority, &synthetic);
        let holdings =
            Holdings::open(config, trust, clock.clone(), Arc::new(Kept::default()), hands.now()).unwrap();
        Rig { hands, clock, authority, synthetic, server, holdings }
    }

    fn now(&self) -> Now {
        self.hands.now()
    }

    fn reopened(&self, address: &str, directory: Option<&Path>) -> Holdings {
        let mut config = config(address);
        config.directory = directory.map(Path::to_owned);
        let trust = trusts(&self.authority, &self.synthetic);
        Holdings::open(config, trust, self.clock.clone(), Arc::new(Kept::default()), self.now()).unwrap()
    }

    /// A good report, verified with what is at hand or fetched.
    async fn sev_snp(&self) -> (Result<(), Denial>, Vec<Lacking>) {
        sev_snp(&self.holdings, &report(), self.now()).await
    }

    /// A good quote, the same.
    async fn tdx(&self) -> (Result<(), Denial>, Vec<Lacking>) {
        tdx(&self.holdings, &self.synthetic.quote(&DUE), self.now()).await
    }
}

async fn sev_snp(holdings: &Holdings, report: &[u8], now: Now) -> (Result<(), Denial>, Vec<Lacking>) {
    let none: [&[u8]; 0] = [];
    let at_hand = holdings.sev_snp(report, &none, PATIENCE, now).await;
    let verify = crate::evidence::sev_snp::verify;
    let outcome = verify(report, &none, &DUE, &at_hand.trust, now, &mut Checks::new());
    (outcome.map(drop).map_err(|refusal| refusal.denial), at_hand.lacking)
}

async fn tdx(holdings: &Holdings, quote: &[u8], now: Now) -> (Result<(), Denial>, Vec<Lacking>) {
    let none: [&[u8]; 0] = [];
    let at_hand = holdings.tdx(quote, &none, PATIENCE, now).await;
    let outcome = crate::evidence::tdx::verify(quote, &none, &DUE, &at_hand.trust, now, &mut Checks::new());
    (outcome.map(drop).map_err(|refusal| refusal.denial), at_hand.lacking)
}

fn config(address: &str) -> CollateralConfig {
    CollateralConfig {
        exchange_within_ms: PATIENT_MS,
        back_off_first_ms: 10_000,
        sev_snp: Some(SevSnpService {
            address: address.to_owned(),
            ca_file: None,
            list_max_age_seconds: None,
        }),
        tdx: Some(TdxService { address: address.to_owned(), ca_file: None }),
        ..CollateralConfig::default()
    }
}

/// AMD's root with lists demanded, and Intel's; no intermediate and no collateral.
fn trusts(authority: &Authority, synthetic: &Synthetic) -> (SevSnpTrust, TdxTrust) {
    let mut amd = SevSnpTrust::empty();
    amd.add_root(&authority.ark).unwrap();
    amd.require_lists(Product::Milan);
    (amd, TdxTrust::none().with_root(&synthetic.root_der).unwrap())
}

/// The one chip of this run: its key must be the same in every test's server and report.
fn chip() -> &'static (amd::Signer, Vec<u8>) {
    static CHIP: std::sync::OnceLock<(amd::Signer, Vec<u8>)> = std::sync::OnceLock::new();
    CHIP.get_or_init(|| {
        let authority = Authority::new("Milan");
        let signer = authority.vcek();
        let report = signer.sign(authority.report(3, &DUE));
        (signer, report)
    })
}

fn report() -> Vec<u8> {
    chip().1.clone()
}

/// What the two services have to give, for a server's thread.
struct Services {
    authority: Authority,
    collateral: serde_json::Value,
}

impl Services {
    fn new(synthetic: &Synthetic) -> Services {
        let collateral = serde_json::from_slice(&synthetic.collateral).unwrap();
        Services { authority: Authority::new("Milan"), collateral }
    }

    /// What a good service says.
    fn good(&self, path: &str) -> Act {
        let text = |key: &str| self.collateral[key].as_str().unwrap();
        let statement = |name: &str, key: &str, header: &str| {
            let signature = text(&format!("{key}_signature"));
            let body = format!("{{\"{name}\":{},\"signature\":\"{signature}\"}}", text(key));
            let chain = encoded(text(&format!("{key}_issuer_chain")));
            Act::ok(body).header(header, &chain)
        };
        match path {
            path if path.starts_with("/vcek/v1/Milan/c1") => Act::ok(&chip().0.certificate[..]),
            "/vcek/v1/Milan/cert_chain" => Act::ok(self.chain()),
            "/vcek/v1/Milan/crl" => Act::ok(self.authority.list(&[], 2, T0, Some(T0 + 30 * DAY))),
            "/tdx/certification/v4/tcb?fmspc=00806F050000" => {
                statement("tcbInfo", "tcb_info", "TCB-Info-Issuer-Chain")
            }
            "/tdx/certification/v4/qe/identity" => {
                statement("enclaveIdentity", "qe_identity", "SGX-Enclave-Identity-Issuer-Chain")
            }
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der" => {
                let chain = encoded(text("pck_crl_issuer_chain"));
                Act::ok(hex::decode(text("pck_crl")).unwrap()).header("SGX-PCK-CRL-Issuer-Chain", &chain)
            }
            "/sgx/certification/v4/rootcacrl" => Act::ok(text("root_ca_crl")),
            _ => Act::NotFound,
        }
    }

    fn chain(&self) -> String {
        [&self.authority.ask, &self.authority.ark].map(|der| pem(der)).concat()
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
