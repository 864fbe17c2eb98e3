//! A TPM that is there and says nothing, or is not there: statements go on, quotes are refused in bounded time.

use crate::world::{NODE, Place, Process, portcullis, run};
use portcullis::client::{AttestError, Attester, SocketAttester};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

const BINDING: [u8; 64] = [7; 64];

fn agent(place: &Place, tpm: &str) -> Process {
    let key = place.path("node.key");
    run(portcullis().args(["agent", "--generate-key", "--key", &key])).must(0);
    let mut command = portcullis();
    command.args([
        "agent",
        "--node",
        NODE,
        "--key",
        &key,
        "--socket",
        &place.path("attester.sock"),
        "--tpm",
        tpm,
    ]);
    let (agent, line) = Process::start(&mut command, &place.at("agent.log"));
    assert!(line.contains("attesting on"), "{line}");
    agent
}

async fn asked(place: &Place, formats: &[&str]) -> Result<Vec<String>, AttestError> {
    let formats: Vec<String> = formats.iter().map(|one| (*one).to_owned()).collect();
    let evidence = SocketAttester::new(place.at("attester.sock")).attest(&BINDING, &formats).await?;
    Ok(evidence.documents.into_iter().map(|document| document.format).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_does_not_answer_costs_no_statement_and_a_quote_alone_is_not_possible() {
    let place = Place::new();
    let path = place.at("tpm.sock");
    // It takes connections, and never answers on them.
    let _black_hole = UnixListener::bind(&path).unwrap();
    let _agent = agent(&place, &format!("swtpm:{}", path.display()));
    let started = Instant::now();
    let (alone, both, unasked, statement) = tokio::join!(
        asked(&place, &["tpm2"]),
        asked(&place, &["process", "tpm2"]),
        asked(&place, &[]),
        asked(&place, &["process"]),
    );
    assert_eq!(alone, Err(AttestError::NotPossible));
    assert_eq!(both, Ok(vec!["process".to_owned()]));
    assert_eq!(unasked, Ok(vec!["process".to_owned()]));
    assert_eq!(statement, Ok(vec!["process".to_owned()]));
    // Within what a challenge gives by default, all of them at once.
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    // It still hangs: whoever asks now does not wait for it a second time.
    let started = Instant::now();
    assert_eq!(asked(&place, &["process", "tpm2"]).await, Ok(vec!["process".to_owned()]));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_that_is_not_there_is_tried_again_and_a_node_without_one_makes_no_quote() {
    let place = Place::new();
    let _agent = agent(&place, &format!("swtpm:{}", place.path("nowhere.sock")));
    for _ in 0..2 {
        assert_eq!(asked(&place, &["tpm2"]).await, Err(AttestError::NotPossible));
        assert_eq!(asked(&place, &["tpm2", "process"]).await, Ok(vec!["process".to_owned()]));
    }
    assert_eq!(asked(&place, &["nitro"]).await, Err(AttestError::NotPossible));
}
