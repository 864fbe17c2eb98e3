//! A server made by hand: it says for each path what it is told to say, byte by byte.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// What is done with one request.
#[derive(Clone, Debug)]
pub enum Act {
    /// A whole answer with its length.
    Reply { status: u16, headers: String, body: Vec<u8> },
    /// These bytes, and the connection ends.
    Raw(Vec<u8>),
    /// These bytes, and nothing more for ever.
    Hang(Vec<u8>),
    /// These bytes, one in 20 ms.
    Drip(Vec<u8>),
    /// A whole answer after so many milliseconds.
    Late(u64, Box<Act>),
    /// Status 404.
    NotFound,
}

impl Act {
    pub fn ok(body: impl AsRef<[u8]>) -> Act {
        Act::status(200, body)
    }

    pub fn status(status: u16, body: impl AsRef<[u8]>) -> Act {
        Act::Reply { status, headers: String::new(), body: body.as_ref().to_vec() }
    }

    pub fn header(self, name: &str, value: &str) -> Act {
        match self {
            Act::Reply { status, headers, body } => {
                Act::Reply { status, headers: format!("{headers}{name}: {value}\r\n"), body }
            }
            other => other,
        }
    }

    /// The bytes of a whole answer.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Act::Reply { status, headers, body } => {
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
                    body.len()
                );
                [head.as_bytes(), body].concat()
            }
            Act::NotFound => Act::status(404, "").bytes(),
            Act::Raw(bytes) | Act::Hang(bytes) | Act::Drip(bytes) => bytes.clone(),
            Act::Late(_, act) => act.bytes(),
        }
    }
}

/// A running server; it ends with the test's runtime.
pub struct Server {
    port: u16,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Server {
        Server::start_with(None, act).await
    }

    /// Over TLS, where a configuration is given.
    pub async fn start_with(
        tls: Option<rustls::ServerConfig>,
        act: impl Fn(&str) -> Act + Send + Sync + 'static,
    ) -> Server {
        Server::start_at(0, tls, act).await
    }

    /// At this port.
    pub async fn start_at(
        port: u16,
        tls: Option<rustls::ServerConfig>,
        act: impl Fn(&str) -> Act + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        let (act, log, count) = (Arc::new(act), asked.clone(), connections.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (act, log, acceptor) = (act.clone(), log.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, act.as_ref(), &log).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, act.as_ref(), &log).await;
                            }
                        }
                    }
                });
            }
        });
        Server { port, asked, connections, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Nobody listens any more.
    pub async fn stop(&self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

async fn serve<S>(mut stream: S, act: &(impl Fn(&str) -> Act + ?Sized), log: &Mutex<Vec<String>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await {
            Ok(length) if length > 0 => request.extend_from_slice(&chunk[..length]),
            _ => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    assert!(request.starts_with("GET ") && request.contains("host: 127.0.0.1:"), "{request}");
    log.lock().unwrap().push(path.clone());
    let act = act(&path);
    if let Act::Late(milliseconds, _) = &act {
        tokio::time::sleep(Duration::from_millis(*milliseconds)).await;
    }
    let bytes = act.bytes();
    let pieces = if matches!(act, Act::Drip(_)) { 1 } else { bytes.len().max(1) };
    for piece in bytes.chunks(pieces) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
        if pieces == 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let _ = stream.flush().await;
    if matches!(act, Act::Hang(_)) {
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}
