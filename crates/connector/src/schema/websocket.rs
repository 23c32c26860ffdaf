//! The options of `websocket`.

use serde_json::{Map, Value, json};

use super::api::inclusive;
use super::auth::auth;
use super::common::with_common;
use super::tls::tls;
use super::{Node, list, names, object, scalar, scalars, secret, text, value_path, whole, word};

pub(super) fn config() -> Node {
    let options = vec![
        (
            "url",
            text("`ws` or `wss`: a WebSocket. `http` or `https`: server-sent events. Without user name and password.")
                .example("wss://stream.example.com/v1"),
        ),
        ("format", word(["json", "ndjson", "text"], "What a message is: a JSON document, lines with an object each, or text.").default("json")),
        ("records", text("`json`: where in a message the records are, a JSON path. A message that has nothing there is passed over.").default("$")),
        ("headers", scalars("Headers to send; credentials belong into `auth`.")),
        ("auth", auth()),
        ("tls", tls()),
        ("secrets", names(secret("A secret."), "Secrets that stand for `{secret.NAME}` in messages that are sent.")),
        ("subscribe", list(message(), "Messages that are sent after connecting; `{now}` and `{secret.NAME}` may stand in them.").with("maxItems", 100)),
        ("events", list(text("A type."), "Server-sent events: the types to read. By default all.").with("minItems", 1)),
        ("resume", resume()),
        (
            "heartbeat",
            object(
                "How a dead connection is told from a quiet one.",
                vec![
                    ("ping_secs", whole(0, 3600, "A ping is sent so often; 0 is never.").default(20)),
                    ("message", message()),
                    ("silence_secs", whole(1, 86_400, "A connection on which nothing came for so long is given up.").default(60)),
                ],
                &[],
            ),
        ),
        (
            "reconnect",
            object(
                "What happens when a connection is lost.",
                vec![
                    ("min_ms", whole(1, 3_600_000, "The first wait; it doubles with each try.").default(500)),
                    ("max_ms", whole(1, 3_600_000, "The longest wait.").default(30_000)),
                    ("attempts", whole(1, 1000, "So many tries without a record in between, then the task fails and the queue tries again.").default(10)),
                ],
                &[],
            ),
        ),
        (
            "batch",
            object(
                "When a page is full: whichever comes first.",
                vec![
                    ("records", whole(1, 100_000, "So many records.").default(1000)),
                    ("bytes", whole(1, 16 << 20, "So many bytes.").default(1 << 20)),
                    ("wait_ms", whole(1, 60_000, "So long after its first record.").default(1000)),
                ],
                &[],
            ),
        ),
        ("max_message_bytes", whole(1, 16 << 20, "A longer message goes to quarantine.").default(1 << 20)),
        ("duration_secs", whole(1, 366 * 86_400, "A task ends after this time; else it goes on.")),
    ];
    object("A stream: a WebSocket, or server-sent events.", with_common(options), &["url"])
}

fn message() -> Node {
    Node(Map::from_iter([
        ("type".to_owned(), json!(["object", "array", "string"])),
        ("description".to_owned(), Value::from("A message: an object, an array or a text.")),
    ]))
}

fn resume() -> Node {
    object(
        "How the source is asked for what was missed. `param`, `header` or `subscribe` is needed.",
        vec![
            ("cursor", value_path("Where in a message it says where it stands in the stream.").example("$.seq")),
            ("start", scalar("The cursor of the first connection; without it that one asks for nothing.")),
            ("inclusive", inclusive()),
            ("param", text("The parameter of the address that carries the cursor.")),
            ("header", text("The header that does.")),
            (
                "subscribe",
                list(message(), "What is sent instead of the `subscribe` of the source; `{cursor}` stands in it.")
                    .with("maxItems", 100),
            ),
        ],
        &["cursor"],
    )
}
