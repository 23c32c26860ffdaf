//! Who may do what, and what is refused before anything is looked at.

use axum::body::Body;
use http::{Request, header};
use matome_api::{BODY_LIMIT, LocalOwner, Permission, permissions};
use serde_json::{Value, json};

use crate::support::{LISTS, SOURCES, apis};

/// Those who send to it sign what they send.
const WEBHOOK: &str = "/api/acquisition/sources/{id}/webhook/";

#[test]
fn every_route_but_health_and_documentation_asks_for_a_token() {
    let all = permissions();
    assert!(all.len() > 40, "{}", all.len());
    let public: Vec<&str> =
        all.iter().filter(|(_, _, permission)| *permission == Permission::Public).map(|(path, _, _)| *path).collect();
    let expected = [
        WEBHOOK,
        "/api/schema/",
        "/api/docs/",
        "/api/docs/{file}",
        "/api/redoc/",
        "/api/redoc/{file}",
        "/livez",
        "/readyz",
    ];
    assert_eq!(public, expected);
    for (path, method, permission) in all {
        let reads = method == "GET";
        let fits = match permission {
            Permission::Public if path == WEBHOOK => method == "POST",
            Permission::Public | Permission::Read => reads,
            Permission::Write => !reads,
            Permission::Administer => path.starts_with("/api/tokens/"),
        };
        assert!(fits, "{method} {path}: {permission:?}");
    }
}

#[tokio::test]
async fn without_a_valid_token_every_protected_route_is_401() {
    for api in apis().await {
        for (path, method, permission) in permissions().into_iter().filter(|(path, ..)| *path != WEBHOOK) {
            let path = path.replace("{id}", "1").replace("{file}", "init.js");
            for authorization in [None, Some("Bearer mtm_nobody00_x"), Some("Basic YTpi"), Some("Bearer")] {
                let mut request =
                    Request::builder().method(method.as_str()).uri(&path).header(header::HOST, "localhost");
                if let Some(authorization) = authorization {
                    request = request.header(header::AUTHORIZATION, authorization);
                }
                let reply = api.send(request.body(Body::empty()).unwrap()).await;
                if permission == Permission::Public {
                    assert_eq!(reply.status, 200, "{}: {method} {path}: {}", api.name, reply.text);
                } else {
                    assert_eq!(reply.status, 401, "{}: {method} {path}: {}", api.name, reply.text);
                    assert!(reply.header("www-authenticate").starts_with("Bearer"), "{}", api.name);
                    assert!(reply.json["detail"].is_string(), "{}", api.name);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_viewer_reads_and_changes_nothing() {
    for api in apis().await {
        for (path, method, permission) in permissions() {
            let path = path.replace("{id}", "1").replace("{file}", "init.js");
            let reply = api.send(api.request(&method, &path, &api.viewer).body(Body::empty()).unwrap()).await;
            let allowed = matches!(permission, Permission::Public | Permission::Read);
            assert_eq!(reply.status != 403, allowed, "{}: {method} {path}: {}", api.name, reply.text);
            if !allowed {
                let detail = json!({"detail": "You do not have permission to perform this action."});
                assert_eq!(reply.json, detail, "{}", api.name);
            }
        }
        for method in ["HEAD", "OPTIONS"] {
            let reply = api.send(api.request(method, SOURCES, &api.viewer).body(Body::empty()).unwrap()).await;
            assert_eq!(reply.status, 200, "{}: {method}", api.name);
        }
    }
}

#[tokio::test]
async fn both_words_before_a_token_are_taken() {
    for api in apis().await {
        for word in ["Bearer", "bearer", "Token"] {
            let request = Request::builder()
                .uri(SOURCES)
                .header(header::HOST, "localhost")
                .header(header::AUTHORIZATION, format!("{word} {}", api.viewer));
            assert_eq!(api.send(request.body(Body::empty()).unwrap()).await.status, 200, "{}: {word}", api.name);
        }
    }
}

#[tokio::test]
async fn the_owner_of_the_socket_needs_no_token_but_a_header_does_not_make_one() {
    for api in apis().await {
        let request =
            || Request::builder().method("POST").uri("/api/tokens/").header(header::CONTENT_TYPE, "application/json");
        let body = || Body::from(r#"{"name": "made", "role": "viewer"}"#);
        let reply = api.send(request().extension(LocalOwner).body(body()).unwrap()).await;
        let made = reply.expect(api.name, 201);
        let token = made["token"].as_str().unwrap();
        assert!(token.starts_with(&format!("mtm_{}_", made["prefix"].as_str().unwrap())), "{}", api.name);
        assert_eq!(api.send(api.request("GET", SOURCES, token).body(Body::empty()).unwrap()).await.status, 200);
        let listed = api.get("/api/tokens/").await;
        assert!(listed["count"] == 3 && !listed.to_string().contains(token), "{}", api.name);

        let forged = request().header(header::HOST, "localhost").header("LocalOwner", "1").body(body()).unwrap();
        assert_eq!(api.send(forged).await.status, 401, "{}", api.name);

        let revoked = api.call("DELETE", &format!("/api/tokens/{}/", made["id"]), None).await;
        assert_eq!(revoked.status, 204, "{}", api.name);
        assert_eq!(api.send(api.request("GET", SOURCES, token).body(Body::empty()).unwrap()).await.status, 401);
    }
}

#[tokio::test]
async fn a_wrong_host_is_400_before_anything_else() {
    for api in apis().await {
        for path in [SOURCES, "/metrics", "/nothing", "/api/docs/"] {
            let request = Request::builder()
                .uri(path)
                .header(header::HOST, "evil.example")
                .header(header::AUTHORIZATION, format!("Bearer {}", api.admin))
                .header("X-Forwarded-Host", "localhost");
            assert_eq!(api.send(request.body(Body::empty()).unwrap()).await.status, 400, "{}: {path}", api.name);
        }
    }
}

#[tokio::test]
async fn those_who_watch_a_process_ask_it_by_any_name() {
    for api in apis().await {
        for path in ["/livez", "/readyz"] {
            let request = Request::builder().uri(path).header(header::HOST, "10.1.2.3:8000");
            let reply = api.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(reply.status, 200, "{}: {path}: {}", api.name, reply.text);
            assert!(!reply.text.contains("10.1.2.3"), "{}: {}", api.name, reply.text);
        }
    }
}

#[tokio::test]
async fn methods_that_a_path_does_not_have_are_405_and_name_those_it_has() {
    for api in apis().await {
        for path in [LISTS[2], LISTS[4], LISTS[5]] {
            for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE"] {
                let reply = api.call(method, path, Some(json!({}))).await;
                assert_eq!(reply.header("allow"), "GET, HEAD, OPTIONS", "{}: {path}", api.name);
                let detail = json!({"detail": format!("Method \"{method}\" not allowed.")});
                assert_eq!(reply.expect(api.name, 405), detail, "{}: {path}", api.name);
            }
        }
        let row = api.make(SOURCES, json!({"name": "x", "source_type": "api"})).await;
        for (method, path) in [
            ("PUT", SOURCES.to_owned()),
            ("DELETE", SOURCES.to_owned()),
            ("POST", format!("{SOURCES}{}/", row["id"])),
            ("GET", format!("{SOURCES}{}/run/", row["id"])),
        ] {
            api.call(method, &path, None).await.expect(api.name, 405);
        }
    }
}

#[tokio::test]
async fn options_describe_and_head_answers_like_get_without_a_body() {
    for api in apis().await {
        let reply = api.call("OPTIONS", SOURCES, None).await;
        assert_eq!(reply.header("allow"), "GET, POST, HEAD, OPTIONS", "{}", api.name);
        let body = reply.expect(api.name, 200);
        for field in ["name", "description", "renders", "parses"] {
            assert!(body.get(field).is_some(), "{}: {field}", api.name);
        }
        let (get, head) = (api.call("GET", SOURCES, None).await, api.call("HEAD", SOURCES, None).await);
        assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""), "{}", api.name);
        assert_eq!(head.header("content-length"), get.text.len().to_string(), "{}", api.name);
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_with_its_noun() {
    let nouns =
        ["DataSource", "AcquiredData", "AcquisitionTask", "AggregationSource", "AggregatedData", "AggregationTask"];
    for api in apis().await {
        for (path, noun) in LISTS.iter().zip(nouns) {
            for id in ["2000000000", "abc", "1.5", "-1", "99999999999999999999", "%ff", "+1"] {
                let reply = api.call("GET", &format!("{path}{id}/"), None).await;
                let detail = json!({"detail": format!("No {noun} matches the given query.")});
                assert_eq!(reply.expect(api.name, 404), detail, "{}: {path}{id}", api.name);
            }
        }
        assert_eq!(api.call("GET", "/api/nothing/", None).await.expect(api.name, 404), json!({"detail": "Not found."}));
    }
}

#[tokio::test]
async fn bodies_of_other_types_shapes_and_sizes_are_refused() {
    for api in apis().await {
        let send = async |media_type: &str, body: Vec<u8>| {
            let request = api.request("POST", SOURCES, &api.admin).header(header::CONTENT_TYPE, media_type);
            api.send(request.body(Body::from(body)).unwrap()).await
        };
        let reply = send("application/xml", b"<a/>".to_vec()).await;
        let detail = json!({"detail": "Unsupported media type \"application/xml\" in request."});
        assert_eq!(reply.expect(api.name, 415), detail, "{}", api.name);
        let reply = send("application/json", b"{".to_vec()).await.expect(api.name, 400);
        assert!(reply["detail"].as_str().unwrap().starts_with("JSON parse error - "), "{}", api.name);
        let reply = send("application/json; charset=utf-8", b"[]".to_vec()).await.expect(api.name, 400);
        let says = "Invalid data. Expected a dictionary, but got list.";
        assert_eq!(reply, json!({"non_field_errors": [says]}), "{}", api.name);
        send("application/json", b"\xff\xfe".to_vec()).await.expect(api.name, 400);
        send("application/json", vec![b' '; BODY_LIMIT + 1]).await.expect(api.name, 413);
        let mut deep = b"{\"name\":\"x\",\"source_type\":\"api\",\"config\":{\"labels\":".to_vec();
        deep.extend(std::iter::repeat_n(b'[', 100_000));
        send("application/json", deep).await.expect(api.name, 400);
    }
}

#[tokio::test]
async fn an_accept_header_without_json_is_406() {
    for api in apis().await {
        let request = api.request("GET", SOURCES, &api.admin).header(header::ACCEPT, "image/png");
        let reply = api.send(request.body(Body::empty()).unwrap()).await.expect(api.name, 406);
        assert_eq!(reply, json!({"detail": "Could not satisfy the request Accept header."}), "{}", api.name);
    }
}

#[tokio::test]
async fn readiness_names_what_fails() {
    for api in apis().await {
        let ready = api.get("/readyz").await;
        assert_eq!(ready["checks"]["database"], "ok", "{}", api.name);
        assert_eq!(api.get("/livez").await, json!({"status": "ok"}), "{}", api.name);
        api.draining.cancel();
        let stopping = api.call("GET", "/readyz", None).await.expect(api.name, 503);
        assert_eq!(stopping["checks"]["running"], "the process is stopping", "{}", api.name);
        assert_eq!(stopping["checks"]["database"], Value::from("ok"), "{}", api.name);
    }
}
