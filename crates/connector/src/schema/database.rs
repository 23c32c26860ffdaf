//! The options of `database`.

use super::common::with_common;
use super::tls::certificates;
use super::{Node, either, list, object, scalar, secret, text, whole, word};
use crate::database::Engine;

pub(super) fn config() -> Node {
    let settings = [Engine::Postgres, Engine::Mysql].into_iter().flat_map(Engine::options);
    let mut names: Vec<&'static str> = settings.copied().collect();
    names.sort_unstable();
    names.dedup();
    let settings = names.into_iter().map(|name| (name, scalar("A setting of the session, as the database has it.")));
    let options = vec![
        (
            "engine",
            word(Engine::WORDS.iter().map(|(word, _)| *word), "Which database it is; `url` and `path` imply it."),
        ),
        (
            "url",
            text("Host, database and user in one address, without a password.")
                .example("postgres://reader@db.example.com/shop"),
        ),
        ("host", text("The name or address of the server.")),
        ("port", whole(1, u64::from(u16::MAX), "Its port; by default that of the engine.")),
        ("database", text("The database.")),
        ("user", text("Who reads; no secret.")),
        ("password", secret("The password of the user.")),
        ("path", text("An SQLite file beneath a file root.")),
        ("table", text("A table or view. `table` or `query` is needed.")),
        ("schema", text("The schema of `table`.")),
        ("query", text("One statement that only reads.")),
        ("incremental", incremental()),
        (
            "statement_timeout_secs",
            whole(1, 7 * 86_400, "How long a statement may take, the transfer of its rows included."),
        ),
        ("options", object("Settings of the session.", settings.collect(), &[])),
        ("tls", tls()),
    ];
    object("A table or query of PostgreSQL, MySQL, MariaDB or SQLite.", with_common(options), &[])
}

fn incremental() -> Node {
    object(
        "Reads only what is new.",
        vec![
            ("cursor", text("A column that grows: the time of the last change, or an id.")),
            (
                "tie_break",
                either(
                    "What tells rows of the same cursor apart. By default the primary key.",
                    vec![text("A column."), list(text("A column."), "Columns, together.").with("minItems", 1)],
                ),
            ),
            ("start", scalar("The first read begins here.")),
            (
                "overlap",
                whole(
                    0,
                    366 * 86_400,
                    "How far before the mark the next read begins: seconds for times, units for whole numbers.",
                ),
            ),
            (
                "nulls",
                word(
                    ["read", "skip", "fail"],
                    "Rows whose cursor is NULL: read each time, skipped, or failed on when all others are stored.",
                ),
            ),
        ],
        &["cursor"],
    )
}

fn tls() -> Node {
    object(
        "How the connection is kept from others.",
        vec![
            (
                "mode",
                word(
                    ["verify-full", "require", "disable"],
                    "`verify-full`: the certificate has to be that of the host. `require`: any certificate. `disable`: no TLS.",
                )
                .default("verify-full"),
            ),
        ]
        .into_iter()
        .chain(certificates())
        .collect(),
        &[],
    )
}
