//! A node's attester in this process for tests of the client: the generated service on a Unix socket, and one defect.

use super::fake::{Fake, denial};
use crate::proto::v1::attest_request::Step as Ask;
use crate::proto::v1::attest_response::Step as Answer;
use crate::proto::v1::attester_server::{Attester, AttesterServer};
use crate::proto::v1::{self, AttestRequest, AttestResponse};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tower_service::Service;

/// How it behaves.
#[derive(Clone, Copy)]
pub(crate) enum Node {
    Good,
    NoProve,
    Denies(Code, &'static str),
    Bare,
}

/// The `program_fds` that were asked for last.
pub(crate) type ProgramFds = Arc<Mutex<Vec<u32>>>;

/// Listens where the fake broker's configuration says, for one connection.
pub(crate) fn start(fake: &Fake, node: Node) -> ProgramFds {
    let listener = tokio::net::UnixListener::bind(fake.config().attester).unwrap();
    let program_fds = ProgramFds::default();
    let service = AttesterServer::new(Desk { node, program_fds: program_fds.clone() });
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let serve = hyper::service::service_fn(move |request: http::Request<_>| {
            assert_eq!(request.uri().authority().unwrap(), "localhost");
            let mut service = service.clone();
            async move { service.call(request).await }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), serve).await;
    });
    program_fds
}

#[derive(Clone)]
struct Desk {
    node: Node,
    program_fds: ProgramFds,
}

type Answers = mpsc::Sender<Result<AttestResponse, Status>>;

#[tonic::async_trait]
impl Attester for Desk {
    type AttestStream = ReceiverStream<Result<AttestResponse, Status>>;

    async fn attest(
        &self,
        request: Request<Streaming<AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        let (answers, answered) = mpsc::channel(4);
        tokio::spawn(self.clone().converse(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(answered)))
    }
}

impl Desk {
    async fn converse(self, mut asked: Streaming<AttestRequest>, answers: Answers) {
        let step = asked.message().await.unwrap().and_then(|request| request.step);
        let Some(Ask::Start(start)) = step else { panic!("no start") };
        *self.program_fds.lock().unwrap() = start.program_fds;
        match self.node {
            Node::Denies(code, reason) => return drop(answers.send(Err(denial(code, reason))).await),
            Node::Bare => return drop(answers.send(Err(Status::unavailable("?"))).await),
            Node::Good => {
                answers.send(answer(Answer::Prove(v1::Prove { nonce: vec![5; 32] }))).await.unwrap();
                let proof = asked.message().await.unwrap().and_then(|request| request.step);
                assert_eq!(proof, Some(Ask::Proof(v1::Proof { nonce: vec![5; 32] })));
            }
            Node::NoProve => {}
        }
        let document =
            v1::Document { format: start.formats[0].clone(), body: start.binding, endorsements: vec![] };
        let _ = answers.send(answer(Answer::Evidence(v1::Evidence { documents: vec![document] }))).await;
    }
}

fn answer(step: Answer) -> Result<AttestResponse, Status> {
    Ok(AttestResponse { step: Some(step) })
}
