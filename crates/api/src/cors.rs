//! Which other origins' pages may read answers in a browser (the Fetch standard's CORS protocol).
//!
//! No answer ever allows credentials: a page sends its token in `Authorization`, which is no credential in that sense,
//! and there are no cookies to send.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::state::ApiSettings;

/// What pages may read beside the headers that every page may.
const EXPOSED: &str = "Content-Disposition, ETag, Location, Retry-After, WWW-Authenticate";
/// What pages may send.
const TAKEN: &str = "Accept, Accept-Language, Authorization, Content-Type, If-None-Match";
/// Seconds that a browser may remember the answer to a preflight.
const REMEMBERED: &str = "600";

/// What a request from a page of another origin may do.
#[derive(Debug, Default)]
pub(crate) struct Cors {
    /// The value of `Access-Control-Allow-Origin`; none when nothing is allowed.
    allowed: Option<HeaderValue>,
    /// The request asks what a later one may do.
    is_preflight: bool,
    /// Answers differ by origin.
    varies: bool,
}

impl Cors {
    pub(crate) fn of(settings: &ApiSettings, method: &Method, headers: &HeaderMap) -> Self {
        if settings.cors_origins.is_empty() {
            return Self::default();
        }
        let allows_all = settings.cors_origins.iter().any(|origin| origin == "*");
        let origin = headers.get(header::ORIGIN);
        let is_listed = |given: &&HeaderValue| {
            settings.cors_origins.iter().any(|origin| origin.as_bytes().eq_ignore_ascii_case(given.as_bytes()))
        };
        let allowed = match allows_all {
            true => origin.map(|_| HeaderValue::from_static("*")),
            false => origin.filter(is_listed).cloned(),
        };
        let asks = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let is_preflight = allowed.is_some() && asks && *method == Method::OPTIONS;
        Self { allowed, is_preflight, varies: !allows_all }
    }

    /// The answer to a preflight, if this is one. It needs no token: a browser sends none with it.
    pub(crate) fn preflight(&self, allow: &str) -> Option<Response> {
        if !self.is_preflight {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        if let Ok(methods) = HeaderValue::from_str(allow) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(TAKEN));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED));
        Some(response)
    }

    /// Says in an answer what its reader may do with it.
    pub(crate) fn mark(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = self.allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if !self.is_preflight {
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
            }
        }
    }
}
