//! Whether a release costs the same in a broker that keeps much.

use super::support::{SECRET, World};
use portcullis::release::kv::SecretFields;
use portcullis::request::SecretPath;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Puts secrets until there are `count`, below the folder that nobody asks for; not through the audited change, which would
/// make two durable records of each.
pub async fn fill(world: &World, have: usize, count: usize) {
    let vault = world.server().registry().vault().clone();
    let kv = world.kv();
    let fields = || SecretFields::new(BTreeMap::from([("value".to_owned(), vec![7; 32].into())])).unwrap();
    let mut commits = tokio::task::JoinSet::new();
    for number in have..count {
        let path = SecretPath::parse(&format!("kv/filler/{number}")).unwrap();
        let prepared = kv.put(&path, &fields(), world.hands.now()).await.unwrap();
        let vault = vault.clone();
        commits.spawn(async move { vault.commit(prepared.transaction).await.unwrap() });
        while commits.len() >= AT_ONCE {
            commits.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = commits.join_next().await {
        done.unwrap();
    }
}

/// The policy of the world's workload among `count - 1` others.
pub fn policies(count: usize) -> String {
    let mut text = String::from(super::support::POLICY);
    for number in 1..count {
        write!(
            text,
            "@id(\"filler-{number}\")\npermit (principal == Workload::\"spiffe://example.org/ns/filler/{number}\", \
             action == Action::\"release\", resource in Folder::\"kv/filler/{number}\");\n"
        )
        .unwrap();
    }
    assert!(text.contains("payments") && SECRET.contains("payments"));
    text
}

const AT_ONCE: usize = 128;
