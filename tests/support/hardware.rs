//! Machines in software, each under a root of its own, and a broker whose configuration trusts those roots.
//!
//! *Takes* a world. *Gives* documents bound to what a challenge demands. *Denies* nothing.
#![allow(dead_code, reason = "each test uses its own part")]

#[path = "nitro.rs"]
pub mod nitro;
#[path = "sev_snp.rs"]
pub mod sev_snp;
#[path = "tdx.rs"]
pub mod tdx;
#[path = "tpm2.rs"]
pub mod tpm2;

use super::*;
use portcullis::challenge::binding::Binding;

/// One machine of each kind.
pub struct Machines {
    pub nitro: nitro::Chain,
    pub snp: sev_snp::Authority,
    pub vcek: sev_snp::Signer,
    pub tdx: tdx::Synthetic,
}

/// PCR0 of every enclave, MEASUREMENT of every guest, MRTD of every trust domain here, hex.
pub const PCR0: &str =
    "101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010";
pub const MEASUREMENT: &str =
    "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";
pub const MRTD: &str =
    "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0";

impl Machines {
    pub fn at(now: WallTime) -> Machines {
        let snp = sev_snp::Authority::new("Milan");
        let vcek = snp.vcek();
        Machines {
            nitro: nitro::Chain::new(now.seconds()),
            vcek,
            snp,
            tdx: tdx::Plan::at(now.seconds()).make(),
        }
    }

    /// A world that takes all formats and trusts these machines' roots, by its configuration alone.
    pub async fn world() -> (World, Machines) {
        Machines::world_with("intermediates = [\"ask.der\"]\n").await
    }

    /// The same with this in the section of `sev-snp`, and after it.
    pub async fn world_with(sev_snp: &str) -> (World, Machines) {
        let section = format!(
            "[evidence]\nformats = [\"process\", \"nitro\", \"sev-snp\", \"tdx\"]\n\
            [evidence.nitro]\nroots = [\"nitro.der\"]\n\
            [evidence.tdx]\nroots = [\"tdx.der\"]\n\
            [evidence.sev-snp]\nroots = [\"ark.der\"]\n{sev_snp}"
        )
        .leak();
        let mut world = World::build(Build { limits: section, ..Build::default() }).await;
        let machines = Machines::at(world.hands.now());
        let etc = world.directory.path().join("etc");
        std::fs::write(etc.join("nitro.der"), &machines.nitro.root).unwrap();
        std::fs::write(etc.join("ark.der"), &machines.snp.ark).unwrap();
        std::fs::write(etc.join("ask.der"), &machines.snp.ask).unwrap();
        std::fs::write(etc.join("tdx.der"), &machines.tdx.root_der).unwrap();
        world.stop().await;
        world.start().await;
        (world, machines)
    }

    pub fn nitro(&self, bound: &[u8; 64], now: WallTime) -> v1::Document {
        document("nitro", self.nitro.attest(bound, now.0), vec![])
    }

    pub fn snp(&self, bound: &[u8; 64]) -> v1::Document {
        let report = self.vcek.sign(self.snp.report(3, bound));
        document("sev-snp", report, vec![self.vcek.certificate.clone(), self.snp.ask.clone()])
    }

    pub fn tdx(&self, bound: &[u8; 64]) -> v1::Document {
        document("tdx", self.tdx.quote(bound), vec![self.tdx.collateral.clone()])
    }
}

pub fn document(format: &str, body: Vec<u8>, endorsements: Vec<Vec<u8>>) -> v1::Document {
    v1::Document { format: format.into(), body, endorsements }
}

/// What hardware carries beside a statement.
pub fn composite(binding: &[u8; 64], statement: &v1::Document) -> [u8; 64] {
    Binding::from(*binding).bound_to_process(&statement.body)
}

impl World {
    /// A reference set for every workload below `/ns`, with these sections.
    pub async fn put_hardware_reference(&self, name: &str, sections: serde_json::Value) {
        let mut set = serde_json::json!({
            "name": name,
            "workload": "spiffe://example.org/ns/*",
            "not_after": self.hands.now().plus(86_400_000).to_string(),
        });
        for (section, content) in sections.as_object().unwrap() {
            set[section] = content.clone();
        }
        self.put(Kind::ReferenceSet, name, &serde_json::to_vec(&set).unwrap(), &["reference"]).await;
    }

    /// One request, answered with what `evidence` makes of the binding.
    pub async fn attempt_with(
        &self,
        evidence: impl FnOnce(&[u8; 64]) -> Vec<v1::Document>,
    ) -> Result<v1::Released, tonic::Status> {
        let connection = self.connect().await.unwrap();
        let mut asked = ask(&connection, open_message(&[SECRET]).0).await?;
        let documents = evidence(&asked.binding());
        asked.answer(v1::Evidence { documents }).await
    }
}

impl World {
    /// A listener of the same broker that offers `tpm2` too, with this key enrolled for this node.
    pub async fn serve_tpm2(&self, node: &str, ak: &tpm2::Ak) -> (String, tokio::sync::watch::Sender<bool>) {
        use portcullis::evidence::hardware::Held;
        use portcullis::evidence::tpm2::{AttestationKey, Counters, EnrolledAk, Tpm2Trust};
        let one = self.server().broker();
        let enrolled = EnrolledAk {
            node: node.into(),
            key: AttestationKey::parse(&ak.public()).unwrap(),
            ek_sha256: [7; 32],
            counters: Counters::default(),
            enrolled_at: WallTime(0),
            not_after: self.hands.now().plus(86_400_000),
        };
        one.verifiers.set_tpm2(Held::Known(Tpm2Trust::new([enrolled], 1)));
        let mut offer = one.offer.clone();
        offer.formats.push("tpm2".into());
        let broker = Arc::new(portcullis::broker::Broker {
            offer,
            clock: one.clock.clone(),
            trust: one.trust.clone(),
            revocations_known: AtomicBool::new(true),
            admission: portcullis::challenge::admission::Admission::new(self.config.rates()),
            verifiers: one.verifiers.clone(),
            freshness: portcullis::freshness::Freshness::new(one.trust.clone()),
            latches: one.latches.clone(),
            appraiser: one.appraiser.clone(),
            pdp: one.pdp.clone(),
            recorder: one.recorder.clone(),
            engines: one.engines.clone(),
            measures: Default::default(),
        });
        self.serve(broker).await
    }

    /// One request at `address`, answered with what `evidence` makes of the binding.
    pub async fn attempt_at(
        &self,
        address: &str,
        evidence: impl FnOnce(&[u8; 64]) -> Vec<v1::Document>,
    ) -> Result<v1::Released, tonic::Status> {
        let config = client::Config { broker: address.into(), ..self.client.clone() };
        let connection = self.connect_exactly(&config).await.unwrap();
        let mut asked = ask(&connection, open_message(&[SECRET]).0).await?;
        let documents = evidence(&asked.binding());
        asked.answer(v1::Evidence { documents }).await
    }
}

/// A quote that carries what a challenge demands: SHA-256 of it.
pub fn quote(bound: &[u8; 64], ak: &tpm2::Ak, change: impl FnOnce(&mut tpm2::Quote)) -> v1::Document {
    let mut quote = tpm2::Quote::of(&tpm2::hash(tpm2::SHA256, &[bound]));
    change(&mut quote);
    document("tpm2", quote.signed(ak), vec![])
}

/// The least that a reference set says of each machine here.
pub fn sections() -> [(&'static str, serde_json::Value); 3] {
    let rtmr = |byte: u8| vec![hex::encode([byte; 48])];
    [
        ("nitro", serde_json::json!({ "pcrs": { "0": [PCR0] } })),
        (
            "sev-snp",
            serde_json::json!({
                "measurements": [MEASUREMENT],
                "minimum_tcb": { "milan": { "bootloader": 4, "tee": 1, "snp": 24, "microcode": 219 } },
            }),
        ),
        ("tdx", serde_json::json!({ "mrtd": [MRTD], "rtmr1": rtmr(0xb1), "rtmr2": rtmr(0xb2) })),
    ]
}
