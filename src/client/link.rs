//! One HTTP/2 connection under a generated gRPC client; nothing reconnects, queues or tries again.
//!
//! *Takes* a byte stream that is ready for HTTP/2. *Gives* [`Link`]. *Denies* nothing: a lost connection, and one that was
//! refused by an alert, is an error of every stream on it. *Source*: RFC 9113; `protocol.md` "The idea" (why nothing is replayed).

use super::alert::{Heard, Listening};
use super::error::CertificateRefused;
use crate::limits;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;

/// The sending end of one connection; a clone is the same connection.
#[derive(Clone)]
pub(super) struct Link {
    requests: SendRequest<Body>,
    ended: Arc<OnceLock<String>>,
    heard: Heard,
}

impl Link {
    /// Speaks the HTTP/2 preface, and drives the connection until its last stream has ended.
    pub(super) async fn over<S>(stream: S) -> Result<Link, Box<dyn Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .max_header_list_size(limits::HEADER_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let (stream, heard) = Listening::to(stream);
        let shaken = builder.handshake::<_, Body>(TokioIo::new(stream)).await;
        let (requests, connection) = shaken.map_err(|error| heard.or(error))?;
        let ended = Arc::new(OnceLock::new());
        let noted = ended.clone();
        tokio::spawn(async move {
            let end = connection.await;
            let _ = noted.set(end.map_or_else(|error| explain(&error), |()| "closed by the peer".to_owned()));
        });
        Ok(Link { requests, ended, heard })
    }

    /// Whether no further stream can be opened.
    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Why the peer refused our certificate, where it has.
    pub(super) fn refusal(&self) -> Option<CertificateRefused> {
        self.heard.refusal()
    }

    /// How the connection ended, where it has.
    pub(super) fn end(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }
}

impl tower_service::Service<http::Request<Body>> for Link {
    type Response = http::Response<Incoming>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(context).map_err(|error| self.heard.or(error))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (sent, heard) = (self.requests.send_request(request), self.heard.clone());
        Box::pin(async move { sent.await.map_err(|error| heard.or(error)) })
    }
}

/// An error and its causes, on one line, without control characters and bounded: peers have a part in the text.
pub(super) fn explain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause.filter(|_| text.len() < TEXT_CHARACTERS) {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(TEXT_CHARACTERS).collect()
}

/// Windows, bytes: two of the largest messages, so that one of them never waits for the peer.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// An explanation is a line for a person.
const TEXT_CHARACTERS: usize = 300;
