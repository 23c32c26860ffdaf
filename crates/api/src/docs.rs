//! The API's documentation: `/api/schema/`, Swagger UI at `/api/docs/`, ReDoc at `/api/redoc/`.
//!
//! Everything comes from the binary: no page asks a foreign host for anything, and no script is inline, so that
//! a strict content security policy holds.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::{HeaderValue, Method, header};
use utoipa::openapi::OpenApi;

use crate::auth::Permission::Public;
use crate::endpoint::{Call, Endpoint};
use crate::error::{ApiError, Result};
use crate::message::Message;

/// Styles are set by both viewers at run time; scripts are files of ours, and ReDoc searches in a worker.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const SWAGGER_PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>matome API</title>
<link rel="icon" href="/api/docs/favicon-32x32.png">
<link rel="stylesheet" href="/api/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/api/docs/swagger-ui-bundle.js"></script>
<script src="/api/docs/init.js"></script>
</body>
</html>
"#;

const SWAGGER_SCRIPT: &str = r##"SwaggerUIBundle({
  url: "/api/schema/?format=json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"##;

const REDOC_PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>matome API</title>
<link rel="icon" href="/api/docs/favicon-32x32.png">
</head>
<body>
<div id="redoc"></div>
<script src="/api/redoc/redoc.js"></script>
<script src="/api/redoc/init.js"></script>
</body>
</html>
"#;

const REDOC_SCRIPT: &str = r#"Redoc.init("/api/schema/?format=json", { disableSearch: false }, document.getElementById("redoc"));
"#;

/// The picture that ReDoc's script would fetch from its maker, and a transparent pixel instead.
const REDOC_LOGO: &str = "https://cdn.redoc.ly/redoc/logo-mini.svg";
const PIXEL: &str = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";

/// What is served, made when it is first asked for.
struct Documents {
    openapi: OpenApi,
    json: OnceLock<Bytes>,
    yaml: OnceLock<Bytes>,
    redoc: OnceLock<Bytes>,
}

/// The endpoints, for this OpenAPI document.
pub(crate) fn endpoints(openapi: OpenApi) -> Vec<Endpoint> {
    let documents = Documents { openapi, json: OnceLock::new(), yaml: OnceLock::new(), redoc: OnceLock::new() };
    let documents = Arc::new(documents);
    let with = |documents: &Arc<Documents>, serve: fn(&Documents, &Call) -> Result<Response>| {
        let documents = documents.clone();
        move |call: Call| {
            let response = serve(&documents, &call);
            async move { response }
        }
    };
    vec![
        Endpoint::other("/api/schema/", "Schema").on(Method::GET, Public, with(&documents, schema)),
        Endpoint::other("/api/docs/", "Swagger UI").on(Method::GET, Public, |_| async {
            Ok(page(SWAGGER_PAGE.as_bytes().into(), "text/html; charset=utf-8"))
        }),
        Endpoint::other("/api/docs/{file}", "Swagger UI File").on(Method::GET, Public, with(&documents, swagger_file)),
        Endpoint::other("/api/redoc/", "ReDoc")
            .on(Method::GET, Public, |_| async { Ok(page(REDOC_PAGE.as_bytes().into(), "text/html; charset=utf-8")) }),
        Endpoint::other("/api/redoc/{file}", "ReDoc File").on(Method::GET, Public, with(&documents, redoc_file)),
    ]
}

fn schema(documents: &Documents, call: &Call) -> Result<Response> {
    let accept = call.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wants_json = match call.parameter("format") {
        Some(format) => format.ends_with("json"),
        None => accept.contains("json") && !accept.contains("yaml"),
    };
    Ok(if wants_json {
        let json = documents.json.get_or_init(|| documents.openapi.to_json().expect("the document is JSON").into());
        page(json.clone(), "application/vnd.oai.openapi+json")
    } else {
        let yaml = documents.yaml.get_or_init(|| documents.openapi.to_yaml().expect("the document is YAML").into());
        page(yaml.clone(), "application/vnd.oai.openapi")
    })
}

fn swagger_file(_: &Documents, call: &Call) -> Result<Response> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let name = call.parameter.as_deref().unwrap_or_default();
    match name {
        "init.js" => return Ok(page(SWAGGER_SCRIPT.as_bytes().into(), SCRIPT)),
        // Its own index loads other scripts.
        "swagger-ui.css" | "swagger-ui-bundle.js" | "favicon-32x32.png" => {}
        _ => return Err(ApiError::NotFound(Message::NotFound)),
    }
    let config = Arc::new(utoipa_swagger_ui::Config::from("/api/schema/?format=json"));
    let file = utoipa_swagger_ui::serve(name, config).ok().flatten().ok_or(ApiError::NotFound(Message::NotFound))?;
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let mut response = page(bytes, &file.content_type);
    if file.gzpipped {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    cached(response)
}

fn redoc_file(documents: &Documents, call: &Call) -> Result<Response> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    match call.parameter.as_deref().unwrap_or_default() {
        "init.js" => Ok(page(REDOC_SCRIPT.as_bytes().into(), SCRIPT)),
        "redoc.js" => cached(page(documents.redoc.get_or_init(redoc_script).clone(), SCRIPT)),
        _ => Err(ApiError::NotFound(Message::NotFound)),
    }
}

/// ReDoc's script out of the page that `aide` makes of it, without the address of its maker's logo.
fn redoc_script() -> Bytes {
    let page = aide::redoc::Redoc::new("").html();
    let start = page.find("<script>").map_or(0, |at| at + "<script>".len());
    let end = page.rfind("Redoc.init(").unwrap_or(page.len());
    page[start..end].trim().replace(REDOC_LOGO, PIXEL).into()
}

fn page(bytes: Bytes, media_type: &str) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    let fallback = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(media_type).unwrap_or(fallback));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Files that change with the binary only.
fn cached(mut response: Response) -> Result<Response> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redocs_script_is_whole_and_names_no_host_to_fetch_from() {
        let script = redoc_script();
        let text = std::str::from_utf8(&script).unwrap();
        assert!(text.len() > 500_000 && text.contains("Redoc") && !text.contains("redoc-container"));
        assert!(!text.contains("cdn.redoc.ly") && text.contains(PIXEL));
    }
}
