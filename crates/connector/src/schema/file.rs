//! The options of `file`, and how documents of every kind of source are taken apart.

use serde_json::json;

use super::auth::auth;
use super::common::with_common;
use super::tls::tls;
use super::{Node, Options, either, flag, list, names, object, scalars, secret, text, whole, word};
use crate::file::{COLUMN_LIMIT, ColumnType, Compression, Format};

pub(super) fn config() -> Node {
    let words = Format::WORDS.iter().map(|(word, _)| *word).chain(["tsv"]);
    let mut options: Options = vec![
        (
            "path",
            text(
                "A file beneath a file root, relative to it or absolute, or an address (`https`, `s3`, `gs`, `az`, `sftp`). `*`, `?`, `[...]`, `{a,b}` and `**` match several; of a \
                 directory the files in it are read whose extension is one of the format.",
            )
            .example("exports/2026-*/*.csv.gz"),
        ),
        ("format", word(words, "How the bytes are records. By default as the extension of `path` says.")),
        (
            "compression",
            word(Compression::WORDS.iter().map(|(word, _)| *word), "How files are compressed; `auto`: as the first bytes of each say.")
                .default("auto"),
        ),
        ("member", text("Which members of a zip archive are read, a pattern. By default all but hidden ones.").example("orders/*.csv")),
        (
            "files",
            word(
                ["changed", "all"],
                "`changed`: only what is new or changed is read. `all`: everything each time.",
            )
            .default("changed"),
        ),
    ];
    options.extend(document());
    options.extend(elsewhere());
    options.extend([
        ("columns", columns()),
        (
            "unit",
            word(
                ["bytes", "characters"],
                "`fixed`: what a width counts. By default characters, without line breaks bytes.",
            ),
        ),
        (
            "line_breaks",
            flag("`fixed`: whether each row is a line; else each follows the one before at once.").default(true),
        ),
        ("trim", flag("`fixed`: whether spaces around a value are no part of it.").default(true)),
        (
            "sheet",
            either(
                "`excel`: the sheet that is read.",
                vec![text("Its name."), Node::of("integer", "Its number.").with("minimum", 1)],
            )
            .default(1),
        ),
    ]);
    object(
        "Files, on the machine that matome runs on beneath a file root, or elsewhere.",
        with_common(options),
        &["path"],
    )
}

/// How files are reached that are not on this machine.
fn elsewhere() -> Options {
    let endpoint = || text("The address of another store of the kind.");
    vec![
        ("auth", auth()),
        ("tls", tls()),
        ("headers", scalars("`http`, `https`: headers to send; credentials belong into `auth`.")),
        (
            "s3",
            object(
                "`s3`: the store, and who asks. Without a key nobody in particular does.",
                vec![
                    ("region", text("Where the bucket is.").default("us-east-1")),
                    ("access_key_id", text("The key; no secret.")),
                    ("secret_access_key", secret("Its secret.")),
                    ("session_token", secret("The token of a key that is good for a time.")),
                    ("endpoint", endpoint()),
                    (
                        "style",
                        word(
                            ["path", "host"],
                            "Where the bucket stands: in the path of the address, or before the host.",
                        ),
                    ),
                ],
                &[],
            ),
        ),
        (
            "gcs",
            object(
                "`gs`: the store, and who asks.",
                vec![
                    ("service_account", secret("The text of the key file (JSON) of a service account.")),
                    ("endpoint", endpoint()),
                ],
                &[],
            ),
        ),
        (
            "azure",
            object(
                "`az`: the storage account, and who asks: `account_key`, `sas` or nobody in particular.",
                vec![
                    ("account", text("The storage account; no secret.")),
                    ("account_key", secret("Its key, in Base64.")),
                    ("sas", secret("The part of a signed address behind the question mark.")),
                    ("endpoint", endpoint()),
                ],
                &["account"],
            ),
        ),
        (
            "sftp",
            object(
                "`sftp`: whom the server is known by, and who asks: `password` or `private_key`.",
                vec![
                    ("host_key", text("The fingerprint of the key of the server.")),
                    ("password", secret("The password.")),
                    ("private_key", secret("The text of a private key.")),
                    ("passphrase", secret("The passphrase of `private_key`.")),
                ],
                &["host_key"],
            ),
        ),
    ]
}

/// How a document is taken apart, of the formats that come as text.
pub(super) fn document() -> Options {
    vec![
        (
            "records",
            text("`json`: where the records are, a JSON path. `xml`: the names of elements from the root to the records, `catalog/book`.")
                .example("$.results"),
        ),
        ("name_as", text("`json`: the member that gets the name under which an object stands, where `records` ends with `.*`.").example("id")),
        (
            "delimiter",
            text("`csv`: the sign between fields, one ASCII character. By default a comma, for `tsv` a tab.").with("maxLength", 1),
        ),
        ("quote", flag("`csv`: whether a field may stand in double quotes; else they are text like any other.").default(true)),
        (
            "header",
            either(
                "`csv`, `excel`: where the names of columns come from. `json`: the same, where each record is a list of values.",
                vec![
                    flag("true: the first row has them. false: they are `column_1`, `column_2`, ...; of `json`: records are no lists."),
                    text("`json`: the path of a list of names that stands before the records.").example("$.columns"),
                    list(text("A name."), "These names; the first row is data.").with("minItems", 1).with("maxItems", COLUMN_LIMIT),
                ],
            )
            .default(true),
        ),
        (
            "header_row",
            whole(1, 1 << 20, "`csv`, `excel`: the line or row with the names; what stands above it is passed over.").default(1),
        ),
        ("comment", text("`csv`: lines that begin with this ASCII character are passed over.").with("maxLength", 1).example("#")),
        (
            "types",
            either(
                "`csv`: what values become. By default strings.",
                vec![
                    word(["infer"], "Numbers, true and false that would be written back exactly so are converted."),
                    names(
                        word(ColumnType::WORDS.iter().map(|(word, _)| *word), "The type; what does not fit goes to quarantine."),
                        "Types by the names of columns; others stay strings.",
                    )
                    .example(json!({"amount": "number", "paid": "boolean"})),
                ],
            ),
        ),
        (
            "encoding",
            text(
                "The encoding of texts, a label of the WHATWG Encoding Standard, or `auto`. A byte order mark wins. By default \
                 `utf-8`, for `xml` what the document says.",
            )
            .example("shift_jis"),
        ),
    ]
}

fn columns() -> Node {
    let column = object(
        "A column.",
        vec![
            ("name", text("Its name; without one it is passed over.")),
            ("width", whole(1, 1 << 20, "How wide it is, in `unit`.")),
            (
                "type",
                word(ColumnType::WORDS.iter().map(|(word, _)| *word), "What its values become.").default("string"),
            ),
        ],
        &["width"],
    );
    list(column, "`fixed`: all columns of a row in their order.").with("minItems", 1).with("maxItems", COLUMN_LIMIT)
}
