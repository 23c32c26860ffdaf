//! The options of `api`.

use serde_json::{Map, Value, json};

use super::auth::auth;
use super::common::with_common;
use super::file::document;
use super::tls::tls;
use super::{Node, Options, flag, kind, kinds, list, names, object, scalar, scalars, text, value_path, whole, word};
use crate::api::{CursorKind, STEP_LIMIT_SECS};

const OVERLAP_LIMIT: u64 = 366 * 86_400;

pub(super) fn config() -> Node {
    let mut options = pages();
    options.extend([
        ("parent", parent()),
        ("incremental", incremental()),
        ("auth", auth()),
        ("tls", tls()),
        ("errors", list(rule(), "What some answers mean; the first rule that holds decides.").with("maxItems", 100)),
        ("rate", rate()),
    ]);
    object("A REST API, page by page.", with_common(options), &["url"])
}

/// A list of pages, which a parent has as well.
fn pages() -> Options {
    let mut options: Options = vec![
        (
            "url",
            text("The address, `http` or `https`, without user name and password.")
                .example("https://api.example.com/v1/orders"),
        ),
        ("format", word(["json", "ndjson", "csv", "tsv", "xml"], "What a page is.").default("json")),
    ];
    options.extend(document());
    options.extend([
        ("pagination", pagination()),
        ("params", scalars("Parameters that are added to `url`.")),
        ("headers", scalars("Headers to send; credentials belong into `auth`.")),
        ("method", word(["GET", "POST"], "The method; by default POST with a body, else GET.")),
        ("body", json_body("A JSON object or array that is posted.")),
        ("form", scalars("Posted as a form instead of `body`.")),
    ]);
    options
}

/// An object or an array.
pub(super) fn json_body(description: &str) -> Node {
    Node(Map::from_iter([
        ("type".to_owned(), json!(["object", "array"])),
        ("description".to_owned(), Value::from(description)),
    ]))
}

fn pagination() -> Node {
    let param = |usual: &str| text("The parameter that asks for a page.").default(usual);
    let size = || whole(1, 1_000_000, "Records in a full page.");
    kinds(
        "type",
        "How to get from one page to the next.",
        vec![
            kind(
                "next_link",
                "The page has the address of the next.",
                vec![("next", value_path("Where in a page the address is."))],
                &["next"],
            ),
            kind("link_header", "The header `Link` has the address of the next.", vec![], &[]),
            kind(
                "page_number",
                "Pages are numbered.",
                vec![
                    ("param", param("page")),
                    ("start", Node::of("integer", "The number of the first page.").with("minimum", 0).default(1)),
                    ("size", size()),
                    ("size_param", text("The parameter that asks for `size` records.")),
                ],
                &[],
            ),
            kind(
                "offset",
                "Pages begin behind so many records.",
                vec![
                    ("param", param("offset")),
                    ("start", Node::of("integer", "The first offset.").with("minimum", 0).default(0)),
                    ("size", size()),
                    ("size_param", text("The parameter that asks for `size` records.").default("limit")),
                    ("total", value_path("Where in a page the number of all records is.")),
                ],
                &["size"],
            ),
            kind(
                "cursor",
                "The page has a token that asks for the next. `next` or `header` is needed.",
                vec![
                    ("next", value_path("Where in a page the token is.")),
                    ("header", text("The header that has it.")),
                    ("param", param("cursor")),
                    ("has_more", value_path("Where in a page it says whether there are more.")),
                ],
                &[],
            ),
        ],
    )
}

fn parent() -> Node {
    let mut options = pages();
    options.push((
        "include",
        names(
            value_path("Where in the parent record the value is."),
            "Values of the parent that its children get, by name.",
        ),
    ));
    object(
        "A list whose records name the lists to read: `{parent.NAME}` in `url`, `params`, `headers`, `body` or `form`.",
        options,
        &["url"],
    )
}

fn incremental() -> Node {
    object(
        "Reads only what is new.",
        vec![
            ("cursor", value_path("Where in a record it says when it changed.").example("$.updated_at")),
            ("kind", word(CursorKind::ALL.iter().map(|(word, _)| *word), "What that is.").default("time")),
            (
                "param",
                text("The parameter that asks for records from a cursor on; none when `{cursor}` stands elsewhere."),
            ),
            ("start", scalar("The first read begins here.")),
            (
                "end_param",
                text(
                    "The parameter that asks for records up to a time, of `kind` `time`; none when `{end}` stands elsewhere.",
                ),
            ),
            (
                "step",
                whole(
                    1,
                    STEP_LIMIT_SECS,
                    "So many seconds are asked for at a time, one step after another up to the beginning of the read.",
                ),
            ),
            (
                "overlap",
                whole(
                    0,
                    OVERLAP_LIMIT,
                    "How far before the mark the next read begins: seconds, or units of whole numbers. By default 300 for times, else 0.",
                ),
            ),
            (
                "order",
                word(
                    ["none", "asc"],
                    "`asc`: records come by rising cursor, so a read that is cut off goes on at the last.",
                )
                .default("none"),
            ),
        ],
        &["cursor"],
    )
}

fn rule() -> Node {
    let any = Node(Map::from_iter([
        ("type".to_owned(), json!(["string", "number", "boolean"])),
        ("description".to_owned(), Value::from("The rule holds when exactly this is at `path`.")),
    ]));
    object(
        "What to make of an answer. `status` or `path` is needed.",
        vec![
            (
                "status",
                scalar(
                    "The status it is about, 200 to 599, or a class such as `4xx`; left out: all answers that succeed.",
                )
                .example("4xx"),
            ),
            ("path", value_path("The rule holds when there is something at it.")),
            ("equals", any),
            ("message", value_path("Where the answer says what is wrong.")),
            (
                "action",
                word(
                    ["empty", "skip", "retry", "fail"],
                    "`fail`: the task fails. `retry`: it is tried again. `empty`: there are no records and no more pages. `skip`: this page is passed over.",
                ),
            ),
        ],
        &["action"],
    )
}

fn rate() -> Node {
    object(
        "How often may be asked; it holds for all sources on the host. `requests`, `remaining` or `concurrent` is needed.",
        vec![
            ("requests", whole(1, 10_000, "Requests that may begin within `per_secs`.")),
            ("per_secs", whole(1, 3600, "Seconds of that budget.")),
            ("concurrent", whole(1, 1000, "Tasks that may read from the host at the same time.")),
            ("remaining", text("The header that says how many requests are left.").example("X-RateLimit-Remaining")),
            ("reset", text("The header that says when there are more.").example("X-RateLimit-Reset")),
            (
                "reset_as",
                word(["seconds", "epoch"], "Whether that is seconds from now, or since 1970.").default("seconds"),
            ),
        ],
        &[],
    )
}

/// `true` or `false` beside other options of streams.
pub(super) fn inclusive() -> Node {
    flag("The source begins with the message that has the cursor; it is passed over.").default(false)
}
