//! The operators' machines' listener: plain HTTP/1 and HTTP/2, on a thread of its own.
//!
//! *Takes* `/livez`, `/readyz`, `/metrics` and `grpc.health.v1.Health`. *Gives* their answers. *Denies* everything else, and
//! whatever is slow, large or too much, in bounded time. *Source*: RFC 9112, RFC 9113; the section "Operations".

use super::{Telemetry, pulse};
use crate::api::health;
use crate::limits;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tonic::body::Body;
use tower_service::Service;

/// The thread that looks and answers; it ends when this is dropped.
pub struct Operations {
    telemetry: Arc<Telemetry>,
    address: Option<SocketAddr>,
    until: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Operations {
    /// Starts it, before anything is opened: a start that lasts is seen. Without an address it looks and answers nobody.
    pub fn start(listen: Option<SocketAddr>) -> io::Result<Operations> {
        let listener = listen.map(TcpListener::bind).transpose()?;
        let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let telemetry = Arc::new(Telemetry::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (until, ended) = oneshot::channel::<()>();
        let looked_at = telemetry.clone();
        let thread = std::thread::Builder::new().name("operations".to_owned()).spawn(move || {
            runtime.spawn(pulse::run(looked_at.clone()));
            if let Some(listener) = listener {
                runtime.spawn(serve(listener, looked_at));
            }
            // An error says that the sender is gone, which is the sign to end.
            let _ended = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Operations { telemetry, address, until: Some(until), thread: Some(thread) })
    }

    /// What it answers from.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Operations {
    fn drop(&mut self) {
        self.until = None;
        if let Some(thread) = self.thread.take() {
            // A panic there is its own end, and said by the runtime.
            let _ended = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, telemetry: Arc<Telemetry>) {
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "nobody can be told how the broker stands"),
    };
    let slots = Arc::new(Semaphore::new(limits::OPERATIONS_CONNECTIONS));
    let front = Front { health: health::server(telemetry.clone()), telemetry };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(limits::ACCEPT_PAUSE_MS)).await;
            continue;
        };
        // One too many is closed at once: a probe that hears nothing is a probe that failed.
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let front = front.clone();
        tokio::spawn(async move {
            connection(stream, front).await;
            drop(slot);
        });
    }
}

/// Serves until the peer leaves, has asked nothing for a while, or has been here for long enough.
async fn connection(stream: TcpStream, front: Front) {
    let asked = Asked::default();
    let counted = asked.clone();
    let service = hyper::service::service_fn(move |request| answer(front.clone(), counted.clone(), request));
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let (mut before, mut age_ms) = (0, 0_u64);
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = tokio::time::sleep(Duration::from_millis(limits::OPERATIONS_IDLE_MS)) => {
                let began = asked.began();
                age_ms = age_ms.saturating_add(limits::OPERATIONS_IDLE_MS);
                let idle = began == before && !asked.under_way();
                if idle || age_ms >= limits::OPERATIONS_CONNECTION_MS {
                    return;
                }
                before = began;
            }
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits::OPERATIONS_IDLE_MS))
        .max_buf_size(limits::OPERATIONS_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::OPERATIONS_STREAMS)
        .max_header_list_size(limits::HEADER_BYTES)
        .max_pending_accept_reset_streams(limits::RESET_STREAMS)
        .max_local_error_reset_streams(limits::RESET_STREAMS);
    builder
}

/// Requests of one connection: how many began, and how many ended.
#[derive(Clone, Default)]
struct Asked(Arc<(AtomicU64, AtomicU64)>);

/// A request under way.
struct UnderWay(Asked);

impl Asked {
    fn begin(&self) -> UnderWay {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    fn began(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    fn under_way(&self) -> bool {
        self.0.1.load(Ordering::Relaxed) < self.began()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Front {
    telemetry: Arc<Telemetry>,
    health: health::Server,
}

async fn answer(
    front: Front,
    asked: Asked,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let under_way = asked.begin();
    let bound = Duration::from_millis(limits::OPERATIONS_ANSWER_MS);
    if request.version() != Version::HTTP_2 || request.method() != Method::POST {
        return Ok(page(&front.telemetry, request.method(), request.uri().path()));
    }
    match tokio::time::timeout(bound, grpc(front.health, request)).await {
        // A watched stream is under way for as long as its body is.
        Ok(response) => Ok(response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _while_it_lasts = &under_way;
                frame
            }))
        })),
        Err(_) => Ok(plain(StatusCode::REQUEST_TIMEOUT, "too slow\n".to_owned())),
    }
}

async fn grpc(mut health: health::Server, request: Request<Incoming>) -> Response<Body> {
    match health.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn page(telemetry: &Arc<Telemetry>, method: &Method, path: &str) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned());
    }
    match path {
        "/livez" => match telemetry.lives() {
            Ok(()) => plain(StatusCode::OK, "lives\n".to_owned()),
            Err(thread) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{thread} does not answer\n")),
        },
        "/readyz" if telemetry.is_ready() => plain(StatusCode::OK, "ready\n".to_owned()),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "starting or draining\n".to_owned()),
        "/metrics" => match telemetry.figures() {
            Ok(figures) => response(StatusCode::OK, OPENMETRICS, figures),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "no figures\n".to_owned()),
        },
        _ => plain(StatusCode::NOT_FOUND, "/livez, /readyz, /metrics\n".to_owned()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

/// OpenMetrics 1.0 "Protocol Negotiation".
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
