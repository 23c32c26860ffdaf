//! The options of every source.

use matome_model::drift::DriftPolicy;
use matome_model::record_key::MAX_PATHS;
use matome_model::schedule::{MAX_JITTER_SECS, Misfire, Overlap};
use matome_model::source::Dedupe;
use matome_model::task::{Priority, Share};
use matome_model::validation::Policy;
use serde_json::{Map, Value, json};

use super::{Node, Options, either, flag, list, names, object, text, whole, word};
use crate::config::{MAX_DEADLINE_SECS, MAX_RULES, MOST_BYTES, MOST_DAYS, MOST_RECORDS};

/// Those of a type, and behind them those that every type has.
pub(super) fn with_common(mut own: Options) -> Options {
    own.extend([
        (
            "dedupe",
            word(
                Dedupe::ALL.iter().map(|dedupe| dedupe.as_str()),
                "What makes two records the same. `rows`: equal rows of one read are all kept, reading the same content again adds \
                 nothing. `hash`: each content is stored once. `key`: each change of a record with a `key` is a new version. `none`: \
                 everything that is read is stored. By default `key` if there is one, else `rows` for files and whole tables, `hash` \
                 for APIs and incremental reads of tables, `none` for streams and pushes.",
            ),
        ),
        (
            "key",
            either(
                "The path of the field that tells records apart, or a list of up to 16. A dot goes deeper.",
                vec![
                    text("The path of a field.").example("address.code"),
                    list(text("The path of a field."), "Fields that tell records apart together.")
                        .with("minItems", 1)
                        .with("maxItems", MAX_PATHS),
                ],
            ),
        ),
        (
            "deletes",
            word(
                ["ignore", "tombstone"],
                "What becomes of keys that a whole read no longer gives. `tombstone`: one more version says that the record is gone; with \
                 a `key` only.",
            )
            .default("ignore"),
        ),
        ("validation", validation()),
        (
            "drift",
            word(
                DriftPolicy::ALL.iter().map(|policy| policy.as_str()),
                "What happens to records with new fields or types. `accept_new`: they are stored, and the schema of the source gets a \
                 new version. `freeze`: the task fails. `quarantine`: they go to quarantine.",
            )
            .default(DriftPolicy::default().as_str()),
        ),
        (
            "quarantine",
            object(
                "How much of a read may be bad before its task fails. What was found until then is kept.",
                vec![
                    ("max_records", whole(0, i64::MAX.unsigned_abs(), "So many records at most.")),
                    (
                        "max_ratio",
                        Node::of("number", "Such a share of the records at most, looked at from the 100th on.")
                            .with("exclusiveMinimum", 0)
                            .with("maximum", 1)
                            .example(0.05),
                    ),
                ],
                &[],
            ),
        ),
        (
            "retention",
            object(
                "Which records are removed in the background. One of the limits is needed.",
                vec![
                    ("max_age_days", whole(1, MOST_DAYS, "Records acquired longer ago are removed.")),
                    ("max_records", whole(1, MOST_RECORDS, "While there are more, the oldest are removed.")),
                    ("max_bytes", whole(1, MOST_BYTES, "While their `raw_data` takes more, the oldest are removed.")),
                    (
                        "keep_newest",
                        flag("With a `key`: its newest version is never removed, whatever its age and however many there are.")
                            .default(true),
                    ),
                ],
                &[],
            ),
        ),
        ("schedule", schedule()),
        (
            "timeout_secs",
            whole(1, 3600, "Seconds to wait for the head of an answer, and again for each next piece of it. No limit on the whole read.")
                .default(30),
        ),
        (
            "deadline_secs",
            whole(1, MAX_DEADLINE_SECS, "Seconds that one attempt at a task may take as a whole; then it fails. Not for streams."),
        ),
        ("mode", word(["full"], "How much is read: all that there is.").default("full")),
        (
            "priority",
            word(Priority::ALL.iter().map(|priority| priority.as_str()), "Which of the waiting tasks run first.")
                .default(Share::default().priority.as_str()),
        ),
        (
            "weight",
            whole(1, u64::from(Share::MAX_WEIGHT), "So many of its tasks run for one of a source of weight 1, when there are not enough workers.")
                .default(Share::default().weight),
        ),
        ("labels", names(Node(Map::new()), "A JSON object of your own; matome does not read it.")),
    ]);
    own
}

fn validation() -> Node {
    let bound = |description: &str| Node::of("number", description);
    let rule = object(
        "What one field must be; one of the options beside `field` is needed.",
        vec![
            ("field", text("The path of the field; a dot goes deeper.")),
            ("required", flag("It is there and not null.").default(false)),
            ("unique", flag("It has a value that no other record of the same read has.").default(false)),
            ("min", bound("It is a number of at least this.")),
            ("max", bound("It is a number of at most this.")),
            ("pattern", text("It is a string in which this pattern is found; `^` and `$` bind it to the ends.")),
        ],
        &["field"],
    );
    object(
        "What records must be.",
        vec![
            (
                "schema",
                Node(Map::from_iter([
                    ("type".to_owned(), json!(["object", "boolean"])),
                    ("description".to_owned(), Value::from("A JSON Schema that every record has to fit.")),
                ])),
            ),
            ("rules", list(rule, "Rules for single fields.").with("maxItems", MAX_RULES)),
            (
                "policy",
                word(
                    Policy::ALL.iter().map(|policy| policy.as_str()),
                    "What happens to a record that breaks them. `quarantine`: it goes to quarantine. `reject_batch`: nothing of its \
                     page is stored and the task fails. `warn`: it is stored with a warning.",
                )
                .default(Policy::Quarantine.as_str()),
            ),
        ],
        &[],
    )
}

fn schedule() -> Node {
    object(
        "When it is read, beside or instead of `fetch_interval`.",
        vec![
            (
                "cron",
                text("Minute, hour, day of the month, month, day of the week; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.")
                    .example("*/5 9-17 * * mon-fri"),
            ),
            ("timezone", text("The zone of `cron`, a name of the IANA database. By default the server's.").example("Asia/Tokyo")),
            (
                "misfire",
                word(
                    Misfire::ALL.iter().map(|misfire| misfire.as_str()),
                    "Times that passed while matome was off. `coalesce`: one run for all. `skip`: none. `catch_up`: each, the latest 100 at most.",
                )
                .default(Misfire::Coalesce.as_str()),
            ),
            (
                "overlap",
                word(
                    Overlap::ALL.iter().map(|overlap| overlap.as_str()),
                    "The time comes and a task is still there. `queue_one`: one more may wait. `skip`: nothing is queued.",
                )
                .default(Overlap::QueueOne.as_str()),
            ),
            (
                "jitter_secs",
                whole(0, MAX_JITTER_SECS, "A run starts up to so many seconds later, so that many sources do not all start at once.")
                    .default(0),
            ),
        ],
        &[],
    )
}
