//! A broker that takes quotes, a node with a TPM, an operator and a workload: real processes all, as `deploy/` says.

use crate::swtpm::Swtpm;
use crate::world::{
    BINARY, Ended, NODE, OPEN, Place, VALUE, WORKLOAD, World, portcullis, run, sha256, wall, write,
};
use portcullis::evidence::tpm2::Hash;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Another node, with a process key of its own.
pub const OTHER: &str = "node-2.cli.example";

pub struct Lab {
    pub tpm: Swtpm,
    pub world: World,
}

static SERIAL: AtomicUsize = AtomicUsize::new(0);

impl Lab {
    /// A node whose TPM's key is not enrolled, and whose attester does not use it; none where there is no software TPM.
    pub fn new() -> Option<Lab> {
        let tpm = Swtpm::start()?;
        extend(&tpm, b"secure boot");
        let place = Place::new();
        configure(&place, &tpm);
        let world = World::whole_over(place);
        world.make_node_key("other");
        world.enrol(OTHER, "other", &[]).must(0);
        let lab = Lab { tpm, world };
        lab.refer(&[b"secure boot"]);
        Some(lab)
    }

    /// One whose key is enrolled, and whose attester quotes.
    pub fn ready() -> Option<Lab> {
        let mut lab = Lab::new()?;
        lab.enroll(NODE, &lab.tpm, &[]).must(0);
        lab.attest();
        Some(lab)
    }

    /// Starts the node's attester with its TPM.
    pub fn attest(&mut self) {
        let address = address(&self.tpm);
        self.attest_as(NODE, "node", &address);
    }

    /// Starts an attester of that name, key and TPM.
    pub fn attest_as(&mut self, name: &str, key: &str, address: &str) {
        self.world.stop_agent();
        let key = self.world.path(&format!("{key}.key"));
        self.world.start_agent(&["--node", name, "--key", &key, "--tpm", address]);
    }

    /// The reference set of the workload: the process as before, and PCR 7 as made by these.
    pub fn refer(&self, measured: &[&[u8]]) {
        let text = format!(
            "[[set]]\nname = \"api-1\"\nworkload = \"{WORKLOAD}\"\nnot_after = {}\n[set.process]\nlauncher = true\n\
             executables = [{{ sha256 = \"{own}\" }}]\nprograms = [[{{ sha256 = \"{shell}\" }}], [{{ sha256 = \"{own}\" }}]]\n\
             [set.tpm2]\nallow_unmeasured = [0, 1, 2, 3, 4, 5, 6]\n[set.tpm2.pcrs.sha256]\n7 = [\"{}\"]\n",
            wall().plus(86_400_000),
            hex::encode(pcr(measured)),
            own = sha256(BINARY),
            shell = sha256("/bin/sh"),
        );
        write(&self.world.at("boot.toml"), text, 0o644);
        self.world.admin(&["reference", "put", &self.world.path("boot.toml")]).must(0);
    }

    /// All of an enrolment, by the node and the administrator in turn; the first step that fails ends it.
    pub fn enroll(&self, node: &str, tpm: &Swtpm, more: &[&str]) -> Ended {
        let files = self.files();
        let begun = self.begin(node, tpm, &files, more);
        if begun.code != 0 {
            return begun;
        }
        let activated = activate(tpm, &files);
        if activated.code != 0 {
            return activated;
        }
        self.prove(node, &files.proof)
    }

    /// Names for the files of one enrolment.
    pub fn files(&self) -> Files {
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        let at = |kind: &str| self.world.at(&format!("{serial}.{kind}"));
        Files { request: at("request"), challenge: at("challenge"), proof: at("proof") }
    }

    /// The node's request and the administrator's challenge.
    pub fn begin(&self, node: &str, tpm: &Swtpm, files: &Files, more: &[&str]) -> Ended {
        let request = ["agent", "tpm", "request", "--tpm", &address(tpm), "--out", text(&files.request)];
        run(portcullis().args(request)).must(0);
        let (request, challenge) = (text(&files.request), text(&files.challenge));
        let begin = ["node", "enroll", node, "--tpm", request, "--out", challenge];
        self.world.admin(&[&begin, more].concat())
    }

    pub fn prove(&self, node: &str, proof: &Path) -> Ended {
        self.world.admin(&["node", "enroll", node, "--proof", text(proof)])
    }

    /// The workload's secret, or the denial of the last record, with its detail.
    pub fn ask(&self) -> Result<(), (String, String)> {
        let ended = self.world.get(&[OPEN]);
        if ended.code == 0 {
            assert_eq!(ended.stdout, VALUE);
            return Ok(());
        }
        assert!(ended.stdout.is_empty(), "{ended:?}");
        Err(self.last_denial())
    }

    pub fn last_denial(&self) -> (String, String) {
        let records = self.world.records(&["--kind", "denied"]);
        let event = &records.last().unwrap()["event"];
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (word(&event["denial"]), word(&event["case"]["detail"]))
    }

    #[track_caller]
    pub fn released(&self) {
        if let Err(denied) = self.ask() {
            let log = std::fs::read_to_string(self.world.at("agent.log")).unwrap();
            panic!("{denied:?}\n{log}");
        }
    }

    /// Refused by this name, for a reason that says so; the hold that it may have set is ended.
    #[track_caller]
    pub fn refused(&self, denial: &str, because: &str) {
        let (name, detail) = self.ask().expect_err("it was released");
        assert!(name == denial && detail.contains(because), "{name}: {detail}");
        self.world.admin(&["latch", "clear", WORKLOAD]);
    }
}

/// The files of one enrolment.
pub struct Files {
    pub request: PathBuf,
    pub challenge: PathBuf,
    pub proof: PathBuf,
}

/// The node opens the challenge.
pub fn activate(tpm: &Swtpm, files: &Files) -> Ended {
    let activate = ["agent", "tpm", "activate", text(&files.challenge), "--tpm", &address(tpm)];
    run(portcullis().args(activate).args(["--out", text(&files.proof)]))
}

/// As `--tpm` takes it.
pub fn address(tpm: &Swtpm) -> String {
    format!("swtpm:{}", tpm.socket())
}

/// Extends PCR 7, as firmware does with what it starts.
pub fn extend(tpm: &Swtpm, data: &[u8]) {
    let digest = |hash: Hash| hex::encode(hash.digest(&[data]));
    let what = format!("7:sha256={},sha384={}", digest(Hash::Sha256), digest(Hash::Sha384));
    tpm.tool("tpm2_pcrextend", &[&what]);
}

/// What PCR 7 is after these.
fn pcr(measured: &[&[u8]]) -> Vec<u8> {
    let extended = |value: Vec<u8>, data: &&[u8]| {
        let digest = Hash::Sha256.digest(&[data]);
        Hash::Sha256.digest(&[&value, &digest])
    };
    measured.iter().fold(vec![0; 32], extended)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The broker takes both formats, and trusts the authority that certified this TPM.
fn configure(place: &Place, tpm: &Swtpm) {
    let roots = tpm.path("ca/swtpm-localca-rootca-cert.pem");
    let intermediates = tpm.path("ca/issuercert.pem");
    let section = format!(
        "[evidence]\nformats = [\"process\", \"tpm2\"]\n[evidence.tpm2]\nroots_without_lists = [\"{}\"]\n\
         intermediates = [\"{}\"]\n\n[limits]\n",
        roots.display(),
        intermediates.display()
    );
    place.reconfigure("[limits]\n", &section);
}
