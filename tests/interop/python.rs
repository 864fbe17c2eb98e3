//! The interpreter, its messages, and one run of the client.

use crate::world::{Ended, Shared, World, run, sha256, wall, write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The identity that the client has; its reference set names the interpreter.
pub const PYTHON: &str = "spiffe://cli.example/ns/app/python";

/// What `import` must find, and the Debian packages that have it.
const IMPORTS: &str = "import grpc, OpenSSL.SSL, cryptography, google.protobuf";
const DEBIAN: &str =
    "python3-grpcio python3-openssl python3-cryptography python3-protobuf protobuf-compiler libprotobuf-dev";

/// What `protoc` includes: it stands in a package of its own.
const TIMESTAMP: &str = "/usr/include/google/protobuf/timestamp.proto";

/// An interpreter that has all that the client imports: `INTEROP_PYTHON`, or Debian's, as the packages are for that one.
pub fn interpreter() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let fine = |command: &mut Command| command.output().is_ok_and(|ended| ended.status.success());
        let chosen = std::env::var("INTEROP_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".to_owned());
        let all = fine(Command::new(&chosen).args(["-c", IMPORTS]))
            && fine(Command::new("protoc").arg("--version"))
            && Path::new(TIMESTAMP).exists();
        let found = all.then_some(chosen);
        if found.is_none() {
            let said = format!("not all of these are installed: {DEBIAN}");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{said}");
            eprintln!("SKIPPED, NO CLIENT IN ANOTHER LANGUAGE TESTED: {said}");
        }
        found
    });
    found.as_deref()
}

/// A world with a node, whose references name the interpreter for [`PYTHON`], and the messages as protoc makes them.
pub fn prepared(python: &str, world: World) -> Shared {
    let program =
        run(Command::new(python).args(["-c", "import os; print(os.path.realpath('/proc/self/exe'))"]));
    let uid = rustix::process::getuid().as_raw();
    let set = format!(
        "[[set]]\nname = \"python-1\"\nworkload = \"{PYTHON}\"\nnot_after = {}\n[set.process]\nuids = [{uid}]\n\
         executables = [{{ sha256 = \"{}\" }}]\n",
        wall().plus(86_400_000),
        sha256(program.must(0).text().trim()),
    );
    write(&world.at("python.toml"), set, 0o644);
    world.admin(&["reference", "put", &world.path("python.toml")]).must(0);
    world.workload(PYTHON, "python");
    std::fs::create_dir(world.at("messages")).unwrap();
    let mut protoc = Command::new("protoc");
    protoc.args(["-I", "proto", "-I", "tests/interop"]).arg("--python_out").arg(world.at("messages"));
    protoc.args(["portcullis/v1/broker.proto", "portcullis/v1/attester.proto", "status.proto"]);
    run(protoc.current_dir(root())).must(0);
    Shared::new(world)
}

/// One script of `tests/interop`, configured as the workload with `NAME.pem` and `NAME.key` is.
pub fn script(world: &World, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(interpreter().unwrap());
    // The variables are those of the program itself.
    for (key, value) in world.as_workload(name, &[]).get_envs() {
        value.map(|value| command.env(key, value));
    }
    command.env("PORTCULLIS_INTEROP_MESSAGES", world.at("messages")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(root().join("tests/interop").join(arguments[0])).args(&arguments[1..]);
    command
}

/// `release.py WAY PATH…` as the known workload.
pub fn release(world: &World, way: &str, paths: &[&str]) -> Ended {
    run(&mut script(world, "python", &[&["release.py", way], paths].concat()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
