//! The OpenAPI document, the pages that show it, the roots of the groups.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Request, header};
use matome_api::permissions;
use serde_json::{Value, json};

use crate::support::{AGGREGATIONS, LISTS, SOURCES, TestApi, apis};

async fn public(api: &TestApi, path: &str) -> crate::support::Reply {
    api.send(Request::builder().uri(path).header(header::HOST, "localhost").body(Body::empty()).unwrap()).await
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_document_lists_every_path_with_its_methods() {
    for api in apis().await {
        let document = public(&api, "/api/schema/?format=json").await.expect(api.name, 200);
        assert_eq!(document["openapi"], "3.1.0");
        for path in LISTS {
            assert!(document["paths"].get(format!("{path}{{id}}/")).is_some(), "{path}");
        }
        assert_eq!(keys(&document["paths"][LISTS[2]]), BTreeSet::from(["get"]));
        assert_eq!(keys(&document["paths"][LISTS[1]]), BTreeSet::from(["get", "delete"]));
        let methods = BTreeSet::from(["get", "put", "patch", "delete"]);
        assert_eq!(keys(&document["paths"][format!("{SOURCES}{{id}}/")]), methods);

        let mut names = BTreeSet::new();
        for (path, method, _) in permissions() {
            let is_shown =
                path.starts_with("/api/") && path.matches('/').count() > 3 || path.starts_with("/api/tokens/");
            if !is_shown || path.contains("{file}") {
                continue;
            }
            let operation = &document["paths"][path][method.to_ascii_lowercase()];
            let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} is not described"));
            assert!(names.insert(name.to_owned()), "{name} twice");
        }
        for name in [
            "acquisition_sources_list",
            "acquisition_sources_create",
            "acquisition_sources_retrieve",
            "acquisition_sources_update",
            "acquisition_sources_partial_update",
            "acquisition_sources_destroy",
            "aggregation_data_list",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(array) => array.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let api = apis().await.remove(0);
    let document = public(&api, "/api/schema/?format=json").await.json;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn the_document_describes_rows_as_they_are_sent() {
    for api in apis().await {
        let document = public(&api, "/api/schema/?format=json").await.json;
        let properties = |name: &str| document["components"]["schemas"][name]["properties"].clone();
        let source = api
            .make(SOURCES, json!({"name": "s", "source_type": "file", "config": {"path": "x", "format": "csv"}}))
            .await;
        assert_eq!(keys(&properties("DataSource")), keys(&source), "{}", api.name);
        let aggregation = api.make(AGGREGATIONS, json!({"name": "a"})).await;
        assert_eq!(keys(&properties("AggregationSource")), keys(&aggregation), "{}", api.name);
        let task = api.call("POST", &format!("{SOURCES}{}/run/", source["id"]), None).await.expect(api.name, 202);
        assert_eq!(keys(&properties("AcquisitionTask")), keys(&task), "{}", api.name);
        let token = api.make("/api/tokens/", json!({"name": "t", "role": "viewer"})).await;
        assert_eq!(keys(&properties("NewToken")), keys(&token), "{}", api.name);
        let listed = api.get("/api/tokens/").await;
        assert_eq!(keys(&properties("Token")), keys(&listed["results"][0]), "{}", api.name);
        assert_eq!(keys(&properties("PaginatedTokenList")), keys(&listed), "{}", api.name);
    }
}

#[tokio::test]
async fn the_document_is_yaml_unless_json_is_asked_for() {
    for api in apis().await {
        let yaml = public(&api, "/api/schema/").await;
        assert!(yaml.header("content-type").contains("openapi"), "{}", api.name);
        assert!(yaml.text.starts_with("openapi:"), "{}: {}", api.name, &yaml.text[..40]);
        let asked = Request::builder().uri("/api/schema/").header(header::HOST, "localhost");
        let json = api.send(asked.header(header::ACCEPT, "application/json").body(Body::empty()).unwrap()).await;
        assert_eq!(json.json["openapi"], "3.1.0", "{}", api.name);
    }
}

#[tokio::test]
async fn documentation_pages_load_files_of_ours_only() {
    let api = apis().await.remove(0);
    for page in ["/api/docs/", "/api/redoc/"] {
        let reply = public(&api, page).await;
        assert!(reply.header("content-type").starts_with("text/html"), "{page}");
        let policy = reply.header("content-security-policy").to_owned();
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{policy}");
        assert!(!reply.text.contains("http:") && !reply.text.contains("https:"), "{page}");
        assert!(!reply.text.contains("<script>"), "{page}: no inline script");
        let files: Vec<&str> =
            reply.text.split('"').filter(|part| part.starts_with("/api/") && part.contains('.')).collect();
        assert!(files.len() >= 3, "{files:?}");
        for file in files {
            let reply = public(&api, file).await;
            assert_eq!(reply.status, 200, "{file}");
            assert!(!reply.text.is_empty() && !reply.header("content-type").is_empty(), "{file}");
        }
    }
    for missing in ["/api/docs/index.html", "/api/docs/nothing.js", "/api/redoc/x", "/api/docs/..%2f..%2fetc"] {
        assert_eq!(public(&api, missing).await.status, 404, "{missing}");
    }
}

#[tokio::test]
async fn group_roots_list_their_resources() {
    for api in apis().await {
        for root in ["/api/acquisition/", "/api/aggregation/"] {
            let body = api.get(root).await;
            for name in ["sources", "data", "tasks"] {
                assert_eq!(body[name], format!("http://localhost{root}{name}/"), "{}", api.name);
            }
        }
    }
}
