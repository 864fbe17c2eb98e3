//! A probe and a scraper, as any machine's: plain HTTP by hand, a stock health client, and a reader of OpenMetrics text.
//!
//! *Takes* an address. *Gives* what was answered. *Denies* nothing. *Source*: RFC 9112; gRPC Health Checking Protocol; OpenMetrics 1.0.

use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::body::Body;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Sends `request`, and reads until the other side is done; none where it does not answer at all.
pub fn exchange(address: &str, request: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // It may have closed before it has read all.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    (!answer.is_empty()).then(|| String::from_utf8(answer).unwrap())
}

/// `GET path`: status and body.
pub fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes())?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// Whether the probe of `path` succeeds.
pub fn ok(address: &str, path: &str) -> bool {
    get(address, path).is_some_and(|(status, _)| status == 200)
}

/// One family of figures.
#[derive(Clone, Debug, Default)]
pub struct Family {
    pub kind: String,
    pub labels: BTreeSet<String>,
    /// Name (with its suffix) and labels, as they stand, and the value.
    pub samples: Vec<(String, f64)>,
}

/// A scraped page, by the names that a query uses: counters with `_total`.
#[derive(Clone, Debug)]
pub struct Figures(pub BTreeMap<String, Family>, pub String);

impl Figures {
    /// The figures as they are, of a broker that may not serve yet.
    pub fn now(address: &str) -> Figures {
        let (status, text) = get(address, "/metrics").unwrap();
        assert_eq!(status, 200, "{text}");
        Figures::read(&text)
    }

    /// The figures, once the first look at the disks is over: a broker that has just started has not had it yet.
    pub fn scrape(address: &str) -> Figures {
        for _ in 0..100 {
            let (status, text) = get(address, "/metrics").unwrap();
            assert_eq!(status, 200, "{text}");
            if text.contains("disk_free_bytes{") {
                return Figures::read(&text);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("no disk was looked at within five seconds");
    }

    pub fn read(text: &str) -> Figures {
        assert!(text.ends_with("# EOF\n"), "it is cut: {text}");
        let mut families = BTreeMap::new();
        let mut name = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (family, kind) = rest.split_once(' ').unwrap();
                name = if kind == "counter" { format!("{family}_total") } else { family.to_owned() };
                let family = Family { kind: kind.to_owned(), ..Family::default() };
                assert!(families.insert(name.clone(), family).is_none(), "{name} stands twice");
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert!(sample.starts_with(&name), "{line} does not belong to {name}");
                let family = families.get_mut(&name).unwrap();
                family.labels.extend(labels(sample));
                family.samples.push((sample.to_owned(), value.parse().unwrap()));
            }
        }
        Figures(families, text.to_owned())
    }

    /// The sum of the samples of `name` that have all these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let family = self.0.values().flat_map(|family| &family.samples);
        let of_name = family.filter(|(sample, _)| sample.split('{').next() == Some(name));
        let fits = |sample: &str| {
            labels.iter().all(|(label, value)| sample.contains(&format!("{label}=\"{value}\"")))
        };
        let found: Vec<f64> = of_name.filter(|(sample, _)| fits(sample)).map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no sample {name} {labels:?}");
        found.iter().sum()
    }
}

fn labels(sample: &str) -> Vec<String> {
    let Some((_, rest)) = sample.split_once('{') else { return Vec::new() };
    let names =
        rest.trim_end_matches('}').split("\",").map(|pair| pair.split('=').next().unwrap().to_owned());
    names.filter(|name| name != "le" && !name.is_empty()).collect()
}

/// A stock client of the health service.
pub async fn health(address: &str) -> HealthClient<Plain> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    HealthClient::with_origin(Plain(requests), "http://localhost".parse().unwrap())
}

/// How a service stands.
pub async fn standing(address: &str, service: &str) -> Result<ServingStatus, tonic::Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = health(address).await.check(request).await;
    answer.map(|answer| status(answer.get_ref())).map_err(|status| status.code())
}

pub fn status(response: &HealthCheckResponse) -> ServingStatus {
    ServingStatus::try_from(response.status).unwrap()
}

/// HTTP/2 without TLS, by prior knowledge.
#[derive(Clone)]
pub struct Plain(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Plain {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
