//! HTTP, 105 to 118.

use std::time::Duration;

use crate::case::{Case, Input, failed, http, nothing, quarantined, stored};
use crate::server::{Answer, ok, status};

const LINKED: &str = r#","records":"$.results","pagination":{"type":"next_link","next":"$.next"}"#;
const COUNTED: &str = r#","records":"$.results","pagination":{"type":"offset","size":1,"total":"$.total"}"#;
const TOKENS: &str = r#","records":"$.results","pagination":{"type":"cursor","next":"$.next"}"#;
const SINCE: &str = r#","incremental":{"cursor":"$.at","param":"since"}"#;
const JSON: &str = "Content-Type: application/json\r\n";

pub fn cases() -> Vec<Case> {
    [answers(), transport(), pages(), cursors(), waits()].into_iter().flatten().collect()
}

fn one_page(number: &'static str, answer: Answer, expected: crate::case::Outcome) -> Case {
    http(number, vec![("/1", answer)], "", expected)
}

fn answers() -> Vec<Case> {
    let login = "<!doctype html><title>Sign in</title>";
    let records = r#"[{"a":1}]"#;
    vec![
        one_page(
            "105",
            ok("Content-Type: text/html; charset=utf-8\r\n", login),
            failed("document", "a page for people"),
        ),
        one_page("105, called JSON", ok(JSON, login), failed("document", "not valid JSON")),
        // Without the records that were asked for an answer is no page.
        http(
            "106",
            vec![("/1", ok(JSON, r#"{"error":"no such key"}"#))],
            r#","records":"$.results""#,
            failed("document", "nothing at `$.results`"),
        ),
        http(
            "106, by a rule",
            vec![("/1", ok(JSON, r#"{"error":{"code":7,"text":"no such key"},"results":[{"a":1}]}"#))],
            r#","records":"$.results","errors":[{"path":"$.error","action":"fail","message":"$.error.text"}]"#,
            stored([r#"{"a":1}"#]).and_failed("api_error", "the server says no such key"),
        ),
        http(
            "106, by a rule that asks for another try",
            vec![("/1", ok(JSON, r#"{"status":"busy"}"#))],
            r#","records":"$.results","errors":[{"path":"$.status","equals":"busy","action":"retry"}]"#,
            failed("api_error", "something is wrong").retried(None),
        ),
        http(
            "106, a status that means nothing there",
            vec![("/1", status("404 Not Found", "Content-Length: 0\r\n", ""))],
            r#","errors":[{"status":404,"action":"empty"}]"#,
            nothing(),
        ),
        one_page("107, 204", status("204 No Content", "", ""), nothing()),
        Case {
            number: "107, 304",
            input: Input::Http {
                answers: vec![
                    ("/1", ok("ETag: \"1\"\r\n", records)),
                    ("/1", status("304 Not Modified", "ETag: \"1\"\r\n", "")),
                ],
                options: "",
                runs: 3,
            },
            expected: stored([r#"{"a":1}"#]),
        },
        // A server that answers "not modified" to a question that had no condition.
        one_page("107, 304 unasked", status("304 Not Modified", "", ""), failed("http_status", "304")),
        one_page("23, over HTTP", ok(JSON, b"[{\"s\":\"\xc3\x28\"}]"), quarantined(["invalid_utf8"])),
        one_page(
            "50, over HTTP",
            ok(JSON, r#"[{"a":1},{"b":"#),
            stored([r#"{"a":1}"#]).and_failed("document", "the document ends early"),
        ),
        one_page("27, over HTTP", ok(JSON, format!("\u{feff}{records}")), stored([r#"{"a":1}"#])),
        // JSON over HTTP is UTF-8, and a charset beside it says nothing (RFC 8259, sections 8.1 and 11): servers add
        // one to UTF-8 too. The corpus converts.
        one_page(
            "30, over HTTP",
            ok("Content-Type: application/json; charset=ISO-8859-1\r\n", b"[{\"s\":\"caf\xe9\"}]"),
            quarantined(["invalid_utf8"]),
        ),
        one_page(
            "30, over HTTP, in truth UTF-8",
            ok("Content-Type: application/json; charset=ISO-8859-1\r\n", "[{\"s\":\"caf\u{e9}\"}]"),
            stored(["{\"s\":\"caf\u{e9}\"}"]),
        ),
        one_page(
            "30, over HTTP and not so",
            ok("Content-Type: application/json; charset=utf-8\r\n", b"[{\"s\":\"caf\xe9\"}]"),
            quarantined(["invalid_utf8"]),
        ),
    ]
}

fn transport() -> Vec<Case> {
    let lost = || failed("request", "").retried(None);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n[{\"a\":1}]\r\n";
    let head = "HTTP/1.1 200 OK\r\n\r\n[{\"a\":1},";
    let patient = r#","timeout_secs":1"#;
    vec![
        one_page("108, too long", status("200 OK", "Content-Length: 100\r\n", "[{\"a\":1}]"), lost()),
        one_page(
            "108, too short",
            status("200 OK", "Content-Length: 8\r\n", "[{\"a\":1}]"),
            stored([r#"{"a":1}"#]).and_failed("document", "the document ends early"),
        ),
        one_page("108, chunked without end", Answer::Whole(chunked.into()), lost()),
        http("108, chunked without end, open", vec![("/1", Answer::Stalled(chunked.into()))], patient, lost()),
        http("109", vec![("/1", Answer::Dripping(head.into()))], patient, lost()),
        one_page(
            "110, 100 KiB",
            ok(&format!("X-Long: {}\r\n", "x".repeat(100 << 10)), "[]"),
            failed("request", "header bytes beyond the limit"),
        ),
        // More than the transport takes; it can not be told from a connection that broke.
        one_page("110", ok(&format!("X-Long: {}\r\n", "x".repeat(1 << 20)), "[]"), lost()),
        one_page(
            "111, file",
            status("302 Found", "Location: file:///etc/passwd\r\nContent-Length: 0\r\n", ""),
            failed("request", "only http and https"),
        ),
        one_page(
            "111, private",
            status("302 Found", "Location: http://169.254.169.254/latest\r\nContent-Length: 0\r\n", ""),
            failed("denied", "denied"),
        ),
    ]
}

fn pages() -> Vec<Case> {
    let page = |records: &str, next: &str| ok(JSON, format!(r#"{{"total":9,"results":[{records}],"next":{next}}}"#));
    let (one, two, three) = (r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":3}"#);
    let both = format!("{one},{two}");
    vec![
        http(
            "112, itself",
            vec![("/1", page(one, r#""/1""#))],
            LINKED,
            stored([one]).and_failed("pagination_loop", "read already"),
        ),
        http(
            "112, circle",
            vec![("/1", page(one, r#""/2""#)), ("/2", page(two, r#""/1""#))],
            LINKED,
            stored([one, two]).and_failed("pagination_loop", "read already"),
        ),
        // Another host is followed when the policy allows it, without credentials.
        http(
            "112, denied host",
            vec![("/1", page(one, r#""http://10.0.0.1/2""#))],
            LINKED,
            stored([one]).and_failed("denied", "denied"),
        ),
        Case {
            number: "113",
            input: Input::Http {
                answers: vec![("/1", page(&both, "null")), ("/1", page(&format!("{two},{one}"), "null"))],
                options: LINKED,
                runs: 2,
            },
            expected: stored([one, two]),
        },
        // 114: what moves from one page to the next while they are read comes once; what moves the other way is
        // missed until the next read.
        Case {
            number: "114",
            input: Input::Http {
                answers: vec![
                    ("/1", page(&both, r#""/2""#)),
                    ("/2", page(&format!("{two},{three}"), "null")),
                    ("/1", page(&both, r#""/2""#)),
                ],
                options: LINKED,
                runs: 2,
            },
            expected: stored([one, two, three]),
        },
        // Nobody counts on the total.
        http("115", vec![("/1", page(one, "null"))], LINKED, stored([one])),
        // One that is declared makes a short page go on, and no more than that: too low, too high.
        http(
            "115, too low",
            vec![
                ("/1?limit=1&offset=0", ok(JSON, format!(r#"{{"total":1,"results":[{one}]}}"#))),
                ("/1?limit=1&offset=1", ok(JSON, format!(r#"{{"total":1,"results":[{two}]}}"#))),
                ("/1?limit=1&offset=2", ok(JSON, r#"{"total":1,"results":[]}"#)),
            ],
            COUNTED,
            stored([one, two]),
        ),
        http(
            "115, too high",
            vec![("/1?limit=1&offset=0", page(one, "null")), ("/1?limit=1&offset=1", page("", "null"))],
            COUNTED,
            stored([one]),
        ),
        // By offset a row that is deleted moves the others up: one is missed until the next read.
        Case {
            number: "114, by offset",
            input: Input::Http {
                answers: vec![
                    ("/1?limit=1&offset=0", page(one, "null")),
                    ("/1?limit=1&offset=1", page(three, "null")),
                    ("/1?limit=1&offset=2", page("", "null")),
                    ("/1?limit=1&offset=0", page(two, "null")),
                ],
                options: COUNTED,
                runs: 2,
            },
            expected: stored([one, three, two]),
        },
        http(
            "112, the same page under each number",
            vec![("/1?limit=1&offset=0", page(one, "null")), ("/1?limit=1&offset=1", page(one, "null"))],
            COUNTED,
            stored([one]).and_failed("pagination_loop", "the same page for another question"),
        ),
        http(
            "112, a token that comes again",
            vec![("/1", page(one, r#""a""#)), ("/1?cursor=a", page(two, r#""a""#))],
            TOKENS,
            stored([one, two]).and_failed("pagination_loop", "read already"),
        ),
        // The token is a parameter, whatever it looks like.
        http(
            "112, a token that is an address",
            vec![("/1", page(one, r#""http://10.0.0.1/""#)), ("/1?cursor=http%3A%2F%2F10.0.0.1%2F", page(two, "null"))],
            TOKENS,
            stored([one, two]),
        ),
    ]
}

fn cursors() -> Vec<Case> {
    let row = |id: u32, at: &str| format!(r#"{{"at":"{at}","id":{id}}}"#);
    let rows = |rows: &[&String]| {
        let rows = rows.iter().map(|row| row.as_str()).collect::<Vec<_>>().join(",");
        ok(JSON, format!("[{rows}]"))
    };
    let (first, second) = (row(1, "2025-12-01T00:00:00Z"), row(2, "2025-12-02T00:00:00Z"));
    let (late, equal) = (row(3, "2025-12-01T23:58:00Z"), row(4, "2025-12-02T00:00:00Z"));
    vec![
        http(
            "116",
            vec![("/1", rows(&[&second, &first]))],
            r#","incremental":{"cursor":"$.at","param":"since","order":"asc"}"#,
            stored([&second, &first]).and_failed("cursor_regress", "went back from `2025-12-02T00:00:00Z`"),
        ),
        http("116, undeclared", vec![("/1", rows(&[&second, &first]))], SINCE, stored([&second, &first])),
        // Five minutes before the last one, inclusive: what is late within them, and what is equal to it.
        Case {
            number: "117",
            input: Input::Http {
                answers: vec![
                    ("/1", rows(&[&first, &second])),
                    ("/1?since=2025-12-01T23%3A55%3A00Z", rows(&[&late, &second, &equal])),
                ],
                options: SINCE,
                runs: 2,
            },
            expected: stored([&first, &second, &late, &equal]),
        },
        http(
            "117, no cursor at all",
            vec![("/1", ok(JSON, r#"[{"id":1}]"#))],
            SINCE,
            stored([r#"{"id":1}"#]).and_failed("cursor", "`$.at`"),
        ),
    ]
}

fn waits() -> Vec<Case> {
    let limited = |number, wait: &str, after: Option<u64>| {
        let headers = format!("Content-Length: 0\r\nRetry-After: {wait}\r\n");
        let expected = failed("http_status", "429").retried(after.map(Duration::from_secs));
        one_page(number, status("429 Too Many Requests", &headers, ""), expected)
    };
    vec![
        limited("118, seconds", "7", Some(7)),
        limited("118, a date that is past", "Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
        limited("118, a date in ten years", "Fri, 07 Nov 2036 08:49:37 GMT", Some(86_400)),
        limited("118, ten years", "315360000", Some(86_400)),
        limited("118, negative", "-5", None),
        limited("118, words", "soon", None),
        http(
            "118, by a header of the source",
            vec![("/1", status("403 Forbidden", "Content-Length: 0\r\nX-Left: 0\r\nX-Reset: 90\r\n", ""))],
            r#","rate":{"remaining":"X-Left","reset":"X-Reset"}"#,
            failed("rate", "no more requests for 90 s").retried(Some(Duration::from_secs(90))),
        ),
    ]
}
