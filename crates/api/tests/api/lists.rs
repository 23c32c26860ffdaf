//! Envelopes, pages, filters, ordering, search.

use serde_json::{Value, json};

use crate::support::{AGGREGATIONS, LISTS, SOURCES, TestApi, apis};

fn ids(body: &Value) -> Vec<i64> {
    body["results"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

async fn make_many(api: &TestApi, count: usize) {
    for n in 0..count {
        api.make(SOURCES, json!({"name": format!("s{n:02}"), "source_type": "api", "description": "paging"})).await;
    }
}

#[tokio::test]
async fn every_list_is_json_in_the_envelope_with_and_without_a_trailing_slash() {
    for api in apis().await {
        for path in LISTS {
            for path in [path, path.trim_end_matches('/')] {
                let reply = api.call("GET", path, None).await;
                assert!(reply.header("content-type").starts_with("application/json"), "{}: {path}", api.name);
                let empty = json!({"count": 0, "next": null, "previous": null, "results": []});
                assert_eq!(reply.expect(api.name, 200), empty, "{}: {path}", api.name);
            }
        }
    }
}

#[tokio::test]
async fn pages_link_to_each_other_absolutely_and_keep_other_parameters() {
    for api in apis().await {
        make_many(&api, 21).await;
        let first = api.get(&format!("{SOURCES}?search=paging")).await;
        assert_eq!((first["count"].as_i64(), ids(&first).len()), (Some(21), 20), "{}", api.name);
        assert_eq!(first["previous"], Value::Null);
        let next = first["next"].as_str().unwrap();
        assert_eq!(next, "http://localhost/api/acquisition/sources/?search=paging&page=2", "{}", api.name);
        let second = api.get(next.trim_start_matches("http://localhost")).await;
        assert_eq!((ids(&second).len(), &second["next"]), (1, &Value::Null), "{}", api.name);
        let previous = second["previous"].as_str().unwrap();
        assert_eq!(previous, "http://localhost/api/acquisition/sources/?search=paging", "{}", api.name);
        assert_eq!(api.get(previous.trim_start_matches("http://localhost")).await, first, "{}", api.name);

        let sized = api.get(&format!("{SOURCES}?page_size=7&page=last")).await;
        assert_eq!((ids(&sized).len(), &sized["next"]), (7, &Value::Null), "{}", api.name);
        for ignored in ["0", "-5", "many"] {
            let body = api.get(&format!("{SOURCES}?page_size={ignored}")).await;
            assert_eq!(ids(&body).len(), 20, "{}: {ignored}", api.name);
        }
    }
}

#[tokio::test]
async fn the_first_page_is_the_same_by_its_short_way_and_its_long_one() {
    for api in apis().await {
        make_many(&api, 21).await;
        api.make(AGGREGATIONS, json!({"name": "one"})).await;
        for path in LISTS {
            let mut long = api.get(&format!("{path}?page=1")).await;
            if !long["next"].is_null() {
                long["next"] = json!(long["next"].as_str().unwrap().replace("page=1&", ""));
            }
            assert_eq!(api.get(path).await, long, "{}: {path}", api.name);
        }
        let gone = api.get(SOURCES).await["results"][0]["id"].clone();
        api.call("DELETE", &format!("{SOURCES}{gone}/"), None).await.expect(api.name, 204);
        assert_eq!(api.get(SOURCES).await["count"], 20, "{}", api.name);

        // The public prefix of a token alone opens nothing.
        let last = if api.viewer.ends_with('0') { "1" } else { "0" };
        let wrong = format!("{}{last}", &api.viewer[..api.viewer.len() - 1]);
        for path in [SOURCES, AGGREGATIONS, "/api/acquisition/data/"] {
            let reply = api.send(api.request("GET", path, &wrong).body(axum::body::Body::empty()).unwrap()).await;
            assert_eq!(reply.status, 401, "{}: {path}: {}", api.name, reply.text);
        }
    }
}

#[tokio::test]
async fn a_page_has_at_most_100_rows() {
    for api in apis().await {
        make_many(&api, 101).await;
        assert_eq!(ids(&api.get(&format!("{SOURCES}?page_size=100000")).await).len(), 100, "{}", api.name);
    }
}

#[tokio::test]
async fn a_page_that_is_not_there_is_404_and_the_first_page_always_is() {
    for api in apis().await {
        for bad in ["999999", "abc", "0", "-1", "1.0", "2", "99999999999999999999"] {
            let reply = api.call("GET", &format!("{SOURCES}?page={bad}"), None).await;
            assert_eq!(reply.expect(api.name, 404), json!({"detail": "Invalid page."}), "{}: {bad}", api.name);
        }
        assert_eq!(api.get(&format!("{SOURCES}?page=1&search=nothing")).await["count"], 0, "{}", api.name);
    }
}

#[tokio::test]
async fn filters_choose_and_what_they_do_not_know_is_ignored() {
    for api in apis().await {
        let file = api.make(SOURCES, json!({"name": "Ä file", "source_type": "file", "status": "inactive"})).await;
        let other = api.make(SOURCES, json!({"name": "other", "source_type": "api", "fetch_interval": 5})).await;
        let (file, other) = (file["id"].as_i64().unwrap(), other["id"].as_i64().unwrap());
        for (query, found) in [
            ("source_type=file".to_owned(), vec![file]),
            ("status=active".to_owned(), vec![other]),
            ("status__in=active,inactive".to_owned(), vec![file, other]),
            ("name__icontains=%C3%A4%20FI".to_owned(), vec![file]),
            ("name=other".to_owned(), vec![other]),
            ("name=".to_owned(), vec![file, other]),
            (format!("id__in={file},{}", i64::MAX), vec![file]),
            ("fetch_interval__lt=100".to_owned(), vec![other]),
            ("last_fetched_at__isnull=true".to_owned(), vec![file, other]),
            ("last_fetched_at__isnull=false".to_owned(), vec![]),
            ("created_at__gte=2999-01-01T00:00:00Z".to_owned(), vec![]),
            ("created_at__lt=2999-01-01".to_owned(), vec![file, other]),
            ("no_such_parameter=1&name__regex=x&ordering=no_such_field".to_owned(), vec![file, other]),
            ("search=OTH,er".to_owned(), vec![other]),
            ("source_type=api&source_type=file".to_owned(), vec![file]),
        ] {
            let body = api.get(&format!("{SOURCES}?{query}")).await;
            assert_eq!(ids(&body), found, "{}: {query}", api.name);
            assert_eq!(body["count"], found.len(), "{}: {query}", api.name);
        }
    }
}

#[tokio::test]
async fn wrong_filter_values_are_field_errors() {
    for api in apis().await {
        let valid = "Select a valid choice. That choice is not one of the available choices.";
        for (path, key, value, message) in [
            (LISTS[1], "source", "2000000000", valid),
            (LISTS[1], "source", "abc", valid),
            (LISTS[5], "source", "-1", valid),
            (LISTS[1], "source__in", "1,2", valid),
            (LISTS[0], "status", "nope", "Select a valid choice. nope is not one of the available choices."),
            (LISTS[0], "id", "x", "Enter a number."),
            (LISTS[1], "acquired_at__gte", "yesterday", "Enter a valid date/time."),
            (LISTS[2], "task_id", "7", "Enter a valid UUID."),
            (LISTS[0], "search", "%00", "Null characters are not allowed."),
            (LISTS[0], "name", "%00", "Null characters are not allowed."),
        ] {
            let reply = api.call("GET", &format!("{path}?{key}={value}"), None).await;
            assert_eq!(reply.expect(api.name, 400), json!({key: [message]}), "{}: {path} {key}", api.name);
        }
    }
}

#[tokio::test]
async fn tasks_take_the_original_word_for_success() {
    for api in apis().await {
        for path in [LISTS[2], LISTS[5]] {
            for word in ["success", "succeeded", "pending"] {
                assert_eq!(api.get(&format!("{path}?status={word}")).await["count"], 0, "{}", api.name);
            }
        }
    }
}

#[tokio::test]
async fn ordering_goes_up_and_down_and_the_default_is_by_id() {
    for api in apis().await {
        for name in ["b", "c", "a"] {
            api.make(AGGREGATIONS, json!({"name": name})).await;
        }
        let names = async |query: &str| -> String {
            let body = api.get(&format!("{AGGREGATIONS}{query}")).await;
            body["results"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("?ordering=name").await, "abc", "{}", api.name);
        assert_eq!(names("?ordering=-name").await, "cba", "{}", api.name);
        assert_eq!(names("?ordering=status,-name").await, "cba", "{}", api.name);
        assert_eq!(names("").await, "bca", "{}", api.name);
    }
}
