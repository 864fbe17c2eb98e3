//! An address that may be asked: HTTPS, or plain HTTP to this machine alone.
//!
//! *Takes* text of the operator's. *Gives* [`Endpoint`]. *Denies* nothing; it is refused when configuration is read.
//! *Source*: RFC 3986 §3; RFC 9110 §4.2.

use std::net::IpAddr;

/// Where one question goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Whether TLS is spoken; without it the host is a loopback address.
    pub(super) tls: bool,
    /// A name or an IP address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as the `Host` header has them.
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
}

impl Endpoint {
    /// Reads an address; the error says what is wrong with it.
    pub(super) fn parse(address: &str) -> Result<Endpoint, &'static str> {
        let uri: http::Uri = address.parse().map_err(|_| "is no address")?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("must begin with `https://`, or with `http://` and a loopback address"),
        };
        let authority = uri.authority().ok_or("names no host")?;
        if authority.as_str().contains('@') || address.contains('#') {
            return Err("must name a host and no user, and have no fragment");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // A name could resolve to anything, `localhost` too.
        if !tls && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
            return Err("plain HTTP goes to a loopback address only, such as `http://127.0.0.1:8081`");
        }
        if host.is_empty() {
            return Err("names no host");
        }
        Ok(Endpoint {
            tls,
            host,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        })
    }

    /// Reads a service's base, below which all its paths are: no query.
    pub(super) fn parse_base(address: &str) -> Result<Endpoint, &'static str> {
        let endpoint = Endpoint::parse(address)?;
        if address.contains('?') { Err("is a base: it has no query") } else { Ok(endpoint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_or_of_this_machine() {
        let endpoint = Endpoint::parse("https://kds.example.org/amd/vcek/v1/Milan/crl?a=1").unwrap();
        assert_eq!((endpoint.tls, endpoint.host.as_str(), endpoint.port), (true, "kds.example.org", 443));
        assert_eq!(endpoint.target, "/amd/vcek/v1/Milan/crl?a=1");
        let local = Endpoint::parse("http://[::1]:8081").unwrap();
        assert_eq!((local.tls, local.host.as_str(), local.port), (false, "::1", 8081));
        assert_eq!((local.authority.as_str(), local.target.as_str()), ("[::1]:8081", "/"));
        assert!(Endpoint::parse("http://127.8.0.1").is_ok());
    }

    #[test]
    fn plain_http_to_anywhere_else_and_odd_addresses_are_refused() {
        for address in [
            "http://kdsintf.amd.com",
            "http://localhost:8081",
            "http://10.0.0.1",
            "http://127.0.0.1.example.org",
            "http://127.0.0.1@example.org",
            "http://0.0.0.0",
            "https://user@example.org",
            "https://example.org/#x",
            "https://",
            "ftp://127.0.0.1",
            "example.org",
            "/x",
            "",
        ] {
            assert!(Endpoint::parse(address).is_err(), "{address}");
        }
        assert!(Endpoint::parse_base("https://example.org/x").is_ok());
        assert!(Endpoint::parse_base("https://example.org/x?y").is_err());
    }
}
