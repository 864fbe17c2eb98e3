//! A broker and an attester as processes, made as `deploy/README.md` says, and the hands of an operator and a workload.
//!
//! *Takes* the built program. *Gives* [`Place`] (files alone), [`World`] (running). *Denies* nothing: a step that fails ends
//! the test. *Source*: `deploy/README.md`.

use portcullis::cli::devca::{DevelopmentCa, Leaf, LeafRequest};
use portcullis::spiffe::SpiffeId;
use portcullis::time::{SystemTime, TimeSource, WallTime};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
pub const BROKER: &str = "spiffe://cli.example/portcullis";
pub const WORKLOAD: &str = "spiffe://cli.example/ns/app/api";
/// Its reference set names a shell, and not `portcullis`: `exec` of a shell is allowed, `get` is not.
pub const PLAIN: &str = "spiffe://cli.example/ns/app/plain";
/// No reference set is about it.
pub const UNKNOWN: &str = "spiffe://cli.example/ns/app/unknown";
pub const NODE: &str = "node-1.cli.example";

/// No output, no log and no file may ever hold this.
pub const VALUE: &[u8] = b"v4lue-th4t-must-n3ver-be-seen";
pub const OPEN: &str = "kv/app/one";
pub const TWO_FIELDS: &str = "kv/app/two";
pub const FORBIDDEN: &str = "kv/app/forbidden";

pub const POLICY: &str = r#"@id("app")
permit (principal, action == Action::"release", resource in Folder::"kv/app");
@id("nobody")
forbid (principal, action == Action::"release", resource == Secret::"kv/app/forbidden");
"#;

static SERIAL: AtomicU64 = AtomicU64::new(1000);

/// How a command ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub fn must(self, code: i32) -> Ended {
        assert_eq!(self.code, code, "{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }

    /// One object on stderr, with `--output json`.
    pub fn complaint(&self) -> Value {
        serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program, without the variables of whoever runs the tests.
pub fn portcullis() -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PORTCULLIS_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ended { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
}

/// Runs with `input` on standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ended { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
}

pub fn wall() -> WallTime {
    SystemTime.wall().unwrap()
}

pub fn write(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn sha256(path: impl AsRef<Path>) -> String {
    let bytes = fs::read(path).unwrap();
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes))
}

/// Waits up to ten seconds.
#[track_caller]
pub fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("not in ten seconds: {what}");
}

/// A loopback address that stays free until it is used: below those that the kernel gives out by itself, and no two of this
/// process are the same.
pub fn free_address() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let place = u64::from(std::process::id()) * 97 + NEXT.fetch_add(1, Ordering::SeqCst);
        let address = format!("127.0.0.1:{}", 15_000 + place % 15_000);
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// Copies a directory of files and directories.
pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below.
pub fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

pub fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// What `init` and a CA make: everything that a broker needs, and nothing running.
pub struct Place {
    pub root: PathBuf,
    ca: DevelopmentCa,
    /// A second root of operators, whose key the test has.
    operators: DevelopmentCa,
}

impl Place {
    /// `init`, then the broker's certificate, the bundle and the list.
    pub fn new() -> Place {
        let place = Place::unmade();
        run(&mut place.init()).must(0);
        place.write_files();
        place
    }

    /// Nothing yet: `init` and `write_files` follow.
    pub fn unmade() -> Place {
        let root = tempfile::Builder::new().prefix("portcullis-cli-").tempdir().unwrap().keep();
        let now = wall();
        let ca = DevelopmentCa::new("spiffe://cli.example", now).unwrap();
        let operators = DevelopmentCa::new("More operators", now).unwrap();
        Place { root, ca, operators }
    }

    pub fn init(&self) -> Command {
        let mut command = portcullis();
        command.arg("init").arg("--directory").arg(self.at("etc")).arg("--data").arg(self.at("var"));
        command.args(["--broker-id", BROKER, "--administrator", "ada"]);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--operations-listen", "127.0.0.1:0"]);
        command
    }

    pub fn write_files(&self) {
        let configuration = fs::read_to_string(self.configuration()).unwrap();
        let head = configuration.split("[[trust_domain]]").next().unwrap();
        let head = head.replace("[storage]\n", "[storage]\nballast_mib = 1\n");
        let domain = "[[trust_domain]]\nname = \"cli.example\"\nbundle = \"bundle.pem\"\n\
                      bundle_max_age_seconds = 86400\nrevocation = \"crl\"\ncrl_files = [\"list.crl\"]\n\
                      crl_max_age_seconds = 86400\n\n[limits]\nrequests_per_key_per_second = 200\n\
                      requests_per_identity_per_second = 200\n";
        write(&self.configuration(), format!("{head}{domain}"), 0o644);
        write(&self.at("etc/bundle.pem"), self.ca.root(), 0o644);
        let begins = WallTime(wall().0 - 1000);
        let list = self.ca.revocation_list(1, begins, begins.plus(3_600_000), &[]).unwrap();
        write(&self.at("etc/list.crl"), list, 0o644);
        let broker = self.leaf(Some(BROKER), &["localhost"], 3_600_000);
        write(&self.at("etc/broker.pem"), broker.certificate, 0o644);
        write(&self.at("etc/broker.key"), broker.key, 0o600);
        let mut roots = fs::read_to_string(self.at("etc/admin-roots.pem")).unwrap();
        roots.push_str(&self.operators.root());
        write(&self.at("etc/admin-roots.pem"), roots, 0o644);
        write(&self.at("value"), VALUE, 0o600);
        write(&self.at("policy.cedar"), POLICY, 0o644);
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    pub fn configuration(&self) -> PathBuf {
        self.at("etc/portcullis.toml")
    }

    /// Ports that stay the same when the broker is started again, and quick rounds: a lease of 4 s is attested every 1.3 s.
    pub fn settle(&self) {
        let text = fs::read_to_string(self.configuration()).unwrap();
        let (workloads, operators) = (free_address(), free_address());
        let text = text.replacen("127.0.0.1:0", &workloads, 1);
        let text = text.replacen("127.0.0.1:0", &operators, 1);
        let text = text.replacen("[storage]", "answer_within_ms = 1000\n\n[storage]", 1);
        write(&self.configuration(), text, 0o644);
    }

    /// Changes the configuration.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.configuration()).unwrap();
        assert!(text.contains(from), "{from}");
        write(&self.configuration(), text.replace(from, to), 0o644);
    }

    pub fn leaf(&self, id: Option<&str>, hosts: &[&str], life_ms: u64) -> Leaf {
        signed(&self.ca, id, "leaf", hosts, life_ms)
    }

    /// `NAME.pem` and `NAME.key` of a workload.
    pub fn workload(&self, id: &str, name: &str) {
        let leaf = self.leaf(Some(id), &[], 3_600_000);
        self.write_leaf(&leaf, name);
    }

    /// Those of a workload for so long, and their certificate's serial number.
    pub fn short_lived(&self, id: &str, name: &str, life_ms: u64) -> u64 {
        let leaf = self.leaf(Some(id), &[], life_ms);
        self.write_leaf(&leaf, name);
        leaf.serial
    }

    /// Those of a workload as another authority of the same trust domain's name would have it.
    pub fn foreign(&self, id: &str, name: &str) {
        let other = DevelopmentCa::new("spiffe://cli.example", wall()).unwrap();
        self.write_leaf(&signed(&other, Some(id), name, &[], 3_600_000), name);
    }

    /// A newer list, with these serial numbers; a running broker reads it within a second.
    pub fn publish_list(&self, revoked: &[u64]) {
        self.publish_list_for(2, 3_600_000, revoked);
    }

    /// A list of this number, which ends after so long.
    pub fn publish_list_for(&self, number: u64, life_ms: u64, revoked: &[u64]) {
        let begins = WallTime(wall().0 - 1000);
        let list = self.ca.revocation_list(number, begins, begins.plus(1000 + life_ms), revoked).unwrap();
        write(&self.at("etc/list.new"), list, 0o644);
        fs::rename(self.at("etc/list.new"), self.at("etc/list.crl")).unwrap();
    }

    /// `NAME.pem` and `NAME.key` of an operator whose root the broker trusts.
    pub fn operator(&self, name: &str, life_ms: u64) {
        let leaf = signed(&self.operators, None, name, &[], life_ms);
        self.write_leaf(&leaf, name);
    }

    /// Those of an operator of another root.
    pub fn stranger(&self, name: &str) {
        let other = DevelopmentCa::new("Portcullis operators", wall()).unwrap();
        let leaf = signed(&other, None, name, &[], 3_600_000);
        self.write_leaf(&leaf, name);
    }

    fn write_leaf(&self, leaf: &Leaf, name: &str) {
        write(&self.at(&format!("{name}.pem")), &leaf.certificate, 0o644);
        write(&self.at(&format!("{name}.key")), &leaf.key, 0o600);
    }

    pub fn serve(&self) -> Command {
        let mut command = portcullis();
        command.arg("serve").arg("--config").arg(self.configuration());
        // As a unit that loads credentials has it.
        if self.at("credentials").exists() {
            command.env("CREDENTIALS_DIRECTORY", self.at("credentials"));
        }
        command
    }

    /// `serve`, which is not to start: it is waited for.
    #[track_caller]
    pub fn does_not_start(&self, because: &str) {
        let mut command = self.serve();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if !line.is_empty() {
            child.kill().unwrap();
            panic!("it started: {line}");
        }
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(78), "{stderr}");
        assert!(stderr.contains("not started"), "{stderr}");
        assert!(stderr.contains(because), "`{because}` is not in: {stderr}");
    }

    pub fn check(&self) -> Ended {
        run(self.serve().arg("--check"))
    }

    /// `audit …` on this place's log.
    pub fn audit(&self, arguments: &[&str]) -> Ended {
        self.audit_of(&self.at("var/audit"), arguments)
    }

    pub fn audit_of(&self, directory: &Path, arguments: &[&str]) -> Ended {
        run(portcullis().arg("audit").args(arguments).arg("--dir").arg(directory))
    }

    /// The records that `audit show` prints.
    pub fn records(&self, filters: &[&str]) -> Vec<Value> {
        let shown = self.audit(&[&["show", "--output", "json"], filters].concat()).must(0);
        shown.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn signed(ca: &DevelopmentCa, id: Option<&str>, name: &str, hosts: &[&str], life_ms: u64) -> Leaf {
    let now = wall();
    let request = LeafRequest {
        id: id.map(|id| SpiffeId::parse(id).unwrap()),
        name: name.to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        serial: SERIAL.fetch_add(1, Ordering::SeqCst),
        not_before: WallTime(now.0 - 120_000),
        not_after: now.plus(life_ms),
    };
    ca.leaf(&request).unwrap()
}

/// A child that ends with its owner.
pub struct Process(pub Child);

impl Process {
    /// Starts it and waits for its first line, which it prints once it listens; stderr goes to `log`, after what is there.
    pub fn start(command: &mut Command, log: &Path) -> (Process, String) {
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Process(child), line)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends it by SIGTERM; gives its exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A place with its broker running, and an attester where asked.
pub struct World {
    broker: Option<Process>,
    _agent: Option<Process>,
    pub address: String,
    pub admin_address: String,
    /// Where probes and scrapers connect.
    pub operations_address: String,
    /// All that any `admin` command of this world ever printed.
    pub printed: Mutex<Vec<u8>>,
    // Last, so that the directory goes after the processes.
    pub place: Place,
}

impl std::ops::Deref for World {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl World {
    /// A broker without a node.
    pub fn bare() -> World {
        World::over(Place::new())
    }

    pub fn over(place: Place) -> World {
        let mut world = World {
            broker: None,
            _agent: None,
            address: String::new(),
            admin_address: String::new(),
            operations_address: String::new(),
            printed: Mutex::default(),
            place,
        };
        world.start();
        world
    }

    /// A broker and a node, secrets, policy and reference sets.
    pub fn whole() -> World {
        World::whole_over(Place::new())
    }

    /// The same over a place whose configuration the test has changed.
    pub fn whole_over(place: Place) -> World {
        let mut world = World::over(place);
        world.make_node_key("node");
        world.start_agent(&["--node", NODE, "--key", &world.path("node.key")]);
        world.workload(WORKLOAD, "api");
        world.workload(PLAIN, "plain");
        world.workload(UNKNOWN, "unknown");
        let value = format!("value=@{}", world.path("value"));
        for secret in [OPEN, FORBIDDEN] {
            world.admin(&["secret", "put", secret, "--field", &value]).must(0);
        }
        write(&world.at("user"), "app-user", 0o600);
        let user = format!("user=@{}", world.path("user"));
        world.admin(&["secret", "put", TWO_FIELDS, "--field", &value, "--field", &user]).must(0);
        world.enrol_node();
        world.put_reference(&[]);
        world.admin(&["policy", "put", &world.path("policy.cedar")]).must(0);
        world
    }

    /// `NAME.key` of a node, and `NAME.pub` for its enrolment.
    pub fn make_node_key(&self, name: &str) {
        let key = self.path(&format!("{name}.key"));
        let made = run(portcullis().args(["agent", "--generate-key", "--key", &key])).must(0);
        write(&self.at(&format!("{name}.pub")), made.stdout, 0o644);
    }

    /// Starts the attester with these arguments, in place of one that runs.
    pub fn start_agent(&mut self, arguments: &[&str]) {
        self.stop_agent();
        let mut command = portcullis();
        command.arg("agent").args(arguments).args(["--socket", &self.path("attester.sock")]);
        let (agent, line) = Process::start(&mut command, &self.at("agent.log"));
        assert!(line.contains("attesting on"), "{line}");
        self._agent = Some(agent);
    }

    /// Stops the attester, so that its TPM is free.
    pub fn stop_agent(&mut self) {
        self._agent.take().map(Process::stop);
    }

    pub fn enrol_node(&self) {
        self.enrol(NODE, "node", &[]).must(0);
    }

    /// Enrols the node of that name by `KEY.pub`.
    pub fn enrol(&self, name: &str, key: &str, more: &[&str]) -> Ended {
        let key = self.path(&format!("{key}.pub"));
        let below = "spiffe://cli.example/ns/*";
        let node = ["node", "enroll", name, "--public-key", &key, "--days", "1", "--may-vouch-for", below];
        self.admin(&[&node, more].concat())
    }

    /// The sets of the two known workloads: a shell, `more` programs each after its interpreter `/bin/sh`, and `portcullis`.
    pub fn put_reference(&self, more: &[&Path]) {
        let (shell, own) = (sha256("/bin/sh"), sha256(BINARY));
        let one = |digest: &str| format!("{{ sha256 = \"{digest}\" }}");
        let mut programs = vec![format!("[{}]", one(&shell))];
        programs.extend(more.iter().map(|path| format!("[{}, {}]", one(&shell), one(&sha256(path)))));
        let plain = programs.join(", ");
        programs.push(format!("[{}]", one(&own)));
        let set = |name: &str, workload: &str, programs: &str| {
            format!(
                "[[set]]\nname = \"{name}\"\nworkload = \"{workload}\"\nnot_after = {}\n[set.process]\n\
                 launcher = true\nexecutables = [{}]\nprograms = [{programs}]\n\n",
                wall().plus(86_400_000),
                one(&own)
            )
        };
        let text = set("api-1", WORKLOAD, &programs.join(", ")) + &set("plain-1", PLAIN, &plain);
        write(&self.at("reference.toml"), text, 0o644);
        self.admin(&["reference", "put", &self.path("reference.toml")]).must(0);
    }

    /// Starts the broker, again after it was stopped; it picks other ports.
    pub fn start(&mut self) {
        self.start_by(&mut self.place.serve());
    }

    /// The same by another command.
    pub fn start_by(&mut self, command: &mut Command) {
        let (broker, line) = Process::start(command, &self.at("broker.log"));
        let address = |after: &str| {
            let rest = line.split(after).nth(1).unwrap_or_else(|| self.did_not_start(&line));
            rest.split([',', '\n']).next().unwrap().trim().to_owned()
        };
        let addresses = (address("workloads on "), address("operators on "), address("probes on "));
        (self.address, self.admin_address, self.operations_address) = addresses;
        self.broker = Some(broker);
    }

    /// Starts it where it starts; else what it said.
    pub fn try_start(&mut self) -> Result<(), String> {
        let log = self.at("attempt.log");
        let _ = fs::remove_file(&log);
        let (broker, line) = Process::start(&mut self.place.serve(), &log);
        if line.is_empty() {
            drop(broker);
            return Err(fs::read_to_string(&log).unwrap());
        }
        let address =
            |after: &str| line.split(after).nth(1).unwrap().split([',', '\n']).next().unwrap().trim();
        (self.address, self.admin_address) =
            (address("workloads on ").to_owned(), address("operators on ").to_owned());
        self.broker = Some(broker);
        Ok(())
    }

    fn did_not_start(&self, line: &str) -> ! {
        panic!("it said `{line}`: {}", fs::read_to_string(self.at("broker.log")).unwrap())
    }

    /// A signal, which is not waited for.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.broker.as_ref().unwrap().signal(signal);
    }

    /// The end that a signal began.
    pub fn wait(&mut self) -> Option<i32> {
        self.broker.take().unwrap().0.wait().unwrap().code()
    }

    /// SIGTERM.
    pub fn stop(&mut self) -> Option<i32> {
        self.broker.take().unwrap().stop()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        drop(self.broker.take());
    }

    /// `admin …` as ada, who has all roles.
    pub fn admin(&self, arguments: &[&str]) -> Ended {
        self.admin_as("etc/ada", arguments)
    }

    /// `admin …` with `NAME.pem` and `NAME.key`.
    pub fn admin_as(&self, name: &str, arguments: &[&str]) -> Ended {
        let ended = run(&mut self.admin_command(name, arguments));
        self.note(&ended);
        ended
    }

    pub fn admin_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let ended = run_with_input(&mut self.admin_command("etc/ada", arguments), input);
        self.note(&ended);
        ended
    }

    fn note(&self, ended: &Ended) {
        let mut printed = self.printed.lock().unwrap();
        printed.extend(&ended.stdout);
        printed.extend(ended.stderr.as_bytes());
    }

    pub fn admin_command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = portcullis();
        command.arg("admin").args(arguments);
        command.env("PORTCULLIS_ADMIN", &self.admin_address).env("PORTCULLIS_BROKER_ID", BROKER);
        command.env("PORTCULLIS_ADMIN_CERT", self.at(&format!("{name}.pem")));
        command.env("PORTCULLIS_ADMIN_KEY", self.at(&format!("{name}.key")));
        command.env("PORTCULLIS_BUNDLE", self.at("etc/bundle.pem"));
        command
    }

    /// A command of the workload with `NAME.pem` and `NAME.key`.
    pub fn as_workload(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = portcullis();
        command.args(arguments);
        command.env("PORTCULLIS_BROKER", &self.address).env("PORTCULLIS_BROKER_ID", BROKER);
        command.env("PORTCULLIS_CERT", self.at(&format!("{name}.pem")));
        command.env("PORTCULLIS_KEY", self.at(&format!("{name}.key")));
        command.env("PORTCULLIS_BUNDLE", self.at("etc/bundle.pem"));
        command.env("PORTCULLIS_ATTESTER_SOCKET", self.at("attester.sock"));
        command
    }

    /// `exec FLAGS -- sh -c SCRIPT` of the known workload.
    pub fn exec(&self, flags: &[&str], script: &str) -> Ended {
        self.exec_as("api", flags, script)
    }

    pub fn exec_as(&self, name: &str, flags: &[&str], script: &str) -> Ended {
        let arguments = [&["exec"], flags, &["--", "/bin/sh", "-c", script]].concat();
        run(&mut self.as_workload(name, &arguments))
    }

    pub fn get(&self, arguments: &[&str]) -> Ended {
        run(&mut self.as_workload("api", &[&["get"], arguments].concat()))
    }
}

/// A world that several tests share. Statics are never dropped, so a shell waits for this process's end, and then ends the
/// children and removes the directory.
pub struct Shared {
    pub world: World,
    _until: std::process::ChildStdin,
}

impl Shared {
    pub fn new(world: World) -> Shared {
        let pids = [world.broker.as_ref(), world._agent.as_ref()].into_iter().flatten();
        let pids: Vec<String> = pids.map(|process| process.0.id().to_string()).collect();
        let mut reaper = Command::new("/bin/sh");
        reaper.arg("-c").arg("read -r _; kill -KILL \"$@\"; rm -rf \"$0\"").arg(&world.root).args(pids);
        reaper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let until = reaper.spawn().unwrap().stdin.take().unwrap();
        Shared { world, _until: until }
    }
}
