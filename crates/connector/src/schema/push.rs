//! The options of `push`.

use super::common::with_common;
use super::file::document;
use super::{Node, Options, list, object, secret, text, whole, word};
use crate::push::MOST_HEADERS;

pub(super) fn config() -> Node {
    let mut options: Options = vec![(
        "format",
        word(["auto", "json", "ndjson", "csv"], "What is sent; `auto`: as its `Content-Type` says.").default("auto"),
    )];
    options.extend(document());
    options.push((
        "webhook",
        object(
            "Who may send without a token, by signing.",
            vec![
                ("scheme", word(["standard-webhooks", "github", "stripe", "shared-secret"], "How the sender signs.")),
                ("secret", secret("The secret, as the sender shows it.")),
                ("previous_secret", secret("Is good as well, while senders go over to a new one.")),
                ("header", text("`shared-secret`: the header with the secret.").default("X-Webhook-Secret")),
                ("tolerance_secs", whole(1, 3600, "How far a signed time may be from the clock here.").default(300)),
            ],
            &["scheme", "secret"],
        ),
    ));
    options.push((
        "headers",
        list(
            text("The name of a header.").example("X-Shop-Domain"),
            "Headers of what is sent that are kept as `metadata.headers`, besides those that the scheme of `webhook` keeps.",
        )
        .with("minItems", 1)
        .with("maxItems", MOST_HEADERS),
    ));
    object("What programs and webhooks send.", with_common(options), &[])
}
