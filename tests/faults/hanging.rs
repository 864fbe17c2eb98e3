//! A disk that hangs: the probe says which thread does not answer, and that it lives again once it does.

use crate::probe::get;
use crate::shim::Shim;
use crate::world::World;
use std::process::Stdio;
use std::time::Duration;

/// Ten seconds of silence are what it takes (`limits::LIVE_MS`); a loaded machine has a minute.
#[track_caller]
fn says(world: &World, status: u16, text: &str) {
    let mut last = None;
    for _ in 0..600 {
        last = get(&world.operations_address, "/livez");
        if last.as_ref().is_some_and(|(code, said)| *code == status && said.contains(text)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("it does not say {status} `{text}`: {last:?}");
}

#[test]
fn a_disk_that_hangs_is_not_alive_by_the_name_of_its_thread_and_alive_again_once_it_answers() {
    for (directory, thread) in [("var/store/sled", "committer"), ("var/audit", "audit")] {
        let mut world = World::bare();
        let shim = Shim::new(&world.root);
        world.stop();
        world.start_by(shim.over(&mut world.serve()));
        says(&world, 200, "lives");
        shim.hang("fdatasync", &world.at(directory));
        let value = format!("value=@{}", world.path("value"));
        let mut put = world.admin_command("etc/ada", &["secret", "put", "kv/app/one", "--field", &value]);
        let mut put = put.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        says(&world, 503, &format!("{thread} does not answer"));
        assert!(shim.failed() > 0, "nothing hung");
        // What waits for a disk takes nothing else with it: the probes' own listener answers all the while.
        assert_eq!(get(&world.operations_address, "/readyz").map(|(status, _)| status), Some(200));
        shim.heal("fdatasync");
        says(&world, 200, "lives");
        put.wait().unwrap();
        crate::world::until("something can be put again", || {
            world.admin(&["secret", "put", "kv/app/two", "--field", &value]).code == 0
        });
        assert_eq!(world.stop(), Some(0));
        world.audit(&["verify", "--key", &world.path("etc/audit.pub")]).must(0);
    }
}
