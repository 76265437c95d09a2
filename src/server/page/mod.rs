//! The page that shows people how the arrays of a server are: one document with its styles and its
//! script inside, which asks this server, and nothing else, for numbers.
//!
//! It is read only, and says so to browsers: what it may load, and from where, is in
//! [`HEADERS`] and [`policy`]; names, paths and events come as JSON and are shown as text.

use crate::failure::Failure;
use crate::server::random;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{Ipv4Addr, Ipv6Addr};

const DOCUMENT: &str = include_str!("page.html");
const STYLES: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Of all answers: nothing is kept by browsers or named to others. Connections are not kept either:
/// each lasts so long and no longer, and a browser must not find that out in the middle of a request.
pub const HEADERS: [(HeaderName, &str); 4] = [
    (CACHE_CONTROL, "no-store"),
    (CONNECTION, "close"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// The document.
pub async fn page() -> Result<impl IntoResponse, Failure> {
    let mut random = random::words()?;
    let nonce = format!("{:016x}{:016x}", random(), random());
    let content = [
        (CONTENT_TYPE, "text/html; charset=utf-8".to_string()),
        (CONTENT_SECURITY_POLICY, policy(&nonce)),
    ];
    Ok((HEADERS, content, document(&nonce)))
}

/// What the page may do: run the script and the styles that came with it, ask its own server.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}

fn document(nonce: &str) -> String {
    let document = DOCUMENT.replace("{nonce}", nonce);
    let document = document.replace("{styles}", STYLES);
    document.replace("{script}", SCRIPT)
}

/// Turns those away who come by a name that is not the host's own. Whoever runs a web site can have
/// its name point to this host, and read from a visitor's browser what this host tells it; an
/// address cannot be had that way.
pub async fn only_by_address(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST);
    if host.is_none_or(|host| host.to_str().is_ok_and(is_own)) {
        return next.run(request).await;
    }
    let why = "this page is shown at http://localhost or an address, not under another name\n";
    (StatusCode::FORBIDDEN, HEADERS, why).into_response()
}

/// Whether `host`, maybe with a port, is an address or the name that every host has for itself.
fn is_own(host: &str) -> bool {
    let ends = |at: usize| match host[at..].strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => at == host.len(),
    };
    if let Some(rest) = host.strip_prefix('[') {
        let end = rest.find(']');
        return end.is_some_and(|end| rest[..end].parse::<Ipv6Addr>().is_ok() && ends(end + 2));
    }
    let end = host.find(':').unwrap_or(host.len());
    let name = &host[..end];
    let is_address = name.parse::<Ipv4Addr>().is_ok();
    (is_address || name.eq_ignore_ascii_case("localhost")) && ends(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_whole_and_needs_nothing_from_elsewhere() {
        let document = document("abc");
        assert_eq!(document.matches("nonce=\"abc\"").count(), 2);
        for left in ["{nonce}", "{styles}", "{script}"] {
            assert!(!document.contains(left), "{left}");
        }
        for outside in [" src=", "@import", "url(http", "href=\"http", "://cdn"] {
            assert!(!document.contains(outside), "{outside}");
        }
    }

    /// What comes from members and clients may hold markup; it must stay text.
    #[test]
    fn the_script_makes_no_markup_of_strings() {
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "setAttribute(\"style\"",
        ] {
            assert!(!SCRIPT.contains(way), "{way}");
        }
    }

    #[test]
    fn only_addresses_and_localhost_are_its_own_names() {
        for own in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.0.0.1:9177",
            "[::1]",
            "[::1]:9177",
        ] {
            assert!(is_own(own), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:9177",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:x",
            "[::1",
            "[::1]x",
            "[evil]",
        ] {
            assert!(!is_own(other), "{other}");
        }
    }
}
