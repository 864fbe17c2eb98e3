//! A software TPM of one test, with endorsement certificates of a throw-away authority, on loopback.

use portcullis::agent::tpm::{Address, AkSource, Quoter, QuoterConfig, Selection, Tpm};
use portcullis::evidence::tpm2::enroll::{Manufacturers, Revocation};
use portcullis::time::{Now, SystemTime, TimeSource};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A running TPM. Only one client talks to it at a time.
pub struct Swtpm {
    folder: TempDir,
    process: Option<Child>,
    port: u16,
}

/// Whether all that these tests need is there; said loudly where it is not, and a failure under `CI=true`.
fn installed() -> bool {
    let there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let missing: Vec<&str> =
        ["swtpm", "swtpm_setup", "tpm2_quote"].into_iter().filter(|program| !there(program)).collect();
    if missing.is_empty() {
        return true;
    }
    let said = format!("{missing:?} not installed (Debian: swtpm swtpm-tools tpm2-tools)");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{said}");
    eprintln!("SKIPPED, NO LIVE TPM TESTED: {said}");
    false
}

impl Swtpm {
    /// Makes one and starts it; none where it cannot be.
    pub fn start() -> Option<Self> {
        if !installed() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        setup(folder.path());
        let mut tpm = Swtpm { folder, process: None, port: 0 };
        tpm.power_on();
        Some(tpm)
    }

    /// Starts it, which is a TPM reset: PCRs are as they begin, the reset count has risen. At the same address as before,
    /// unless that was taken meanwhile.
    pub fn power_on(&mut self) {
        for attempt in 0..20 {
            if self.port == 0 || attempt > 2 {
                self.port = two_free_ports();
            }
            let bind = |kind: &str, port: u16| format!("--{kind}=type=tcp,port={port},bindaddr=127.0.0.1");
            let child = Command::new("swtpm")
                .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
                .arg(format!("--tpmstate=dir={}", self.path("state").display()))
                .arg(bind("server", self.port))
                .arg(bind("ctrl", self.port + 1))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            self.process = Some(child);
            if self.answers() {
                return;
            }
            self.power_off();
        }
        panic!("swtpm does not start");
    }

    /// Shuts it down in order, as a machine does at a reboot, and stops it.
    pub fn shut_down(&mut self) {
        self.tool("tpm2_shutdown", &["-c"]);
        self.power_off();
    }

    /// Stops it, as a machine that loses its power.
    pub fn power_off(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it behind a socket in the file system, and gives its address.
    pub fn power_on_at_socket(&mut self) -> Address {
        self.power_off();
        let socket = self.path("tpm.sock");
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg(format!("--tpmstate=dir={}", self.path("state").display()))
            .arg(format!("--server=type=unixio,path={}", socket.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(child);
        for _ in 0..250 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        format!("swtpm:{}", socket.display()).parse().unwrap()
    }

    fn answers(&mut self) -> bool {
        for _ in 0..100 {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(self.socket()).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub fn socket(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub fn address(&self) -> Address {
        format!("swtpm:{}", self.socket()).parse().unwrap()
    }

    pub fn open(&self) -> Tpm {
        Tpm::open(&self.address()).unwrap()
    }

    pub fn quoter(&self, ak: AkSource, selection: Selection, event_log: Option<PathBuf>) -> Quoter {
        quoter_at(self.address(), ak, selection, event_log)
    }
}

pub fn quoter_at(address: Address, ak: AkSource, selection: Selection, event_log: Option<PathBuf>) -> Quoter {
    Quoter::new(QuoterConfig { address, ak, selection, event_log, endorsement_auth: Default::default() })
}

impl Swtpm {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// Runs a tool in the TPM's folder; it must not fail.
    pub fn tool(&self, program: &str, arguments: &[&str]) {
        let (good, said) = self.try_tool(program, arguments);
        assert!(good, "{program} {arguments:?}: {said}");
    }

    /// Runs a tool, and frees what it left loaded.
    pub fn try_tool(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program)
                .args(arguments)
                .current_dir(self.folder.path())
                .env("TPM2TOOLS_TCTI", format!("swtpm:host=127.0.0.1,port={}", self.port))
                .output()
                .unwrap()
        };
        let output = run(program, arguments);
        if program != "tpm2_shutdown" {
            run("tpm2_flushcontext", &["-t"]);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    }

    /// The authority that certified its endorsement keys.
    pub fn manufacturer(&self) -> Manufacturers {
        Manufacturers::none()
            .and_roots(&self.read("ca/swtpm-localca-rootca-cert.pem"), Revocation::NotPublished)
            .unwrap()
            .and_intermediates(&self.read("ca/issuercert.pem"))
            .unwrap()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.power_off();
    }
}

pub fn now() -> Now {
    Now { wall: SystemTime.wall().unwrap(), boot: SystemTime.boot().unwrap() }
}

/// State with endorsement certificates, and banks of SHA-1, SHA-256 and SHA-384.
fn setup(folder: &Path) {
    for name in ["state", "ca"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    let ca = folder.join("ca");
    let file = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    file(
        "localca.conf",
        format!(
            "statedir = {0}\nsigningkey = {0}/signkey.pem\nissuercert = {0}/issuercert.pem\ncertserial = {0}/certserial\n",
            ca.display()
        ),
    );
    let options = "--platform-manufacturer Test\n--platform-version 1.0\n--platform-model test\n";
    file("localca.options", options.to_owned());
    file(
        "setup.conf",
        format!(
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {0}/localca.conf\ncreate_certs_tool_options = {0}/localca.options\nactive_pcr_banks = sha1,sha256,sha384\n",
            folder.display()
        ),
    );
    let output = Command::new("swtpm_setup")
        .args([
            "--tpm2",
            "--create-ek-cert",
            "--lock-nvram",
            "--pcr-banks",
            "sha1,sha256,sha384",
            "--overwrite",
        ])
        .arg("--tpmstate")
        .arg(folder.join("state"))
        .arg("--config")
        .arg(folder.join("setup.conf"))
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "swtpm_setup: {said}");
}

/// tpm2-tools expect the control channel on the port after the TPM's.
fn two_free_ports() -> u16 {
    loop {
        let first = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}
