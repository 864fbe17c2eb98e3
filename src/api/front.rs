//! What is looked at in an HTTP/2 request before gRPC is: content type, and the caller's deadline.
//!
//! *Takes* a request. *Gives* it on, with a [`CallerDeadline`]. *Denies* `RequestTimeoutMalformed` (by the service, with
//! a status); another content type is HTTP 415. *Source*: `protocol.md` "Connection", "Denials on the wire".

use crate::denial::Denial;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tower_service::Service;

/// The caller's own deadline, milliseconds from the request's arrival: none sent, one, or malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerDeadline(pub Result<Option<u64>, Denial>);

/// Looks at a request before `inner` sees it.
#[derive(Clone)]
pub struct Front<S> {
    inner: S,
}

impl<S> Front<S> {
    /// A front before this service.
    pub fn new(inner: S) -> Self {
        Front { inner }
    }
}

impl<S> Service<Request<Incoming>> for Front<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        if request.method() != Method::POST || !is_grpc(request.headers()) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Box::pin(std::future::ready(Ok(response)));
        }
        let deadline = CallerDeadline(parse_timeout(request.headers()));
        request.extensions_mut().insert(deadline);
        Box::pin(self.inner.call(request))
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (first, more) = (values.next(), values.next());
    more.is_none()
        && first.is_some_and(|value| value == "application/grpc" || value == "application/grpc+proto")
}

/// Exactly one value `[0-9]{1,8}[HMSmun]`, in milliseconds, rounded up; anything else is malformed, never "no deadline".
fn parse_timeout(headers: &HeaderMap) -> Result<Option<u64>, Denial> {
    let mut values = headers.get_all("grpc-timeout").iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Denial::RequestTimeoutMalformed);
    }
    let parsed = first.to_str().ok().and_then(parse_timeout_value);
    parsed.map(Some).ok_or(Denial::RequestTimeoutMalformed)
}

/// One value of `grpc-timeout`, in milliseconds, rounded up; none where it is malformed.
pub fn parse_timeout_value(text: &str) -> Option<u64> {
    let unit = text.bytes().last()?;
    let digits = text.get(..text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        b'H' => count.checked_mul(3_600_000),
        b'M' => count.checked_mul(60_000),
        b'S' => count.checked_mul(1000),
        b'm' => Some(count),
        b'u' => Some(count.div_ceil(1000)),
        b'n' => Some(count.div_ceil(1_000_000)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("grpc-timeout", value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_missing_timeout_is_none_and_a_malformed_one_is_never_none() {
        assert_eq!(parse_timeout(&headers(&[])), Ok(None));
        assert_eq!(parse_timeout(&headers(&["1S"])), Ok(Some(1000)));
        assert_eq!(parse_timeout(&headers(&["99999999H"])), Ok(Some(99_999_999 * 3_600_000)));
        assert_eq!(parse_timeout(&headers(&["1n"])), Ok(Some(1)));
        assert_eq!(parse_timeout(&headers(&["0m"])), Ok(Some(0)));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S", " 1S", "1SS", "٣S"] {
            assert_eq!(parse_timeout(&headers(&[bad])), Err(Denial::RequestTimeoutMalformed), "{bad}");
        }
        assert_eq!(parse_timeout(&headers(&["1S", "1S"])), Err(Denial::RequestTimeoutMalformed));
    }

    #[test]
    fn only_grpc_is_spoken() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, value.parse().unwrap());
            }
            is_grpc(&headers)
        };
        assert!(of(&["application/grpc"]) && of(&["application/grpc+proto"]));
        for bad in [
            &[][..],
            &["application/grpc+json"],
            &["application/grpc; x"],
            &["application/grpc", "application/grpc"],
        ] {
            assert!(!of(bad), "{bad:?}");
        }
    }
}
