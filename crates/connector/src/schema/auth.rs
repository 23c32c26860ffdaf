//! `auth`: how requests say who asks.

use crate::jwt::JwtAlgorithm;

use super::{Node, Options, kind, kinds, scalars, secret, text, value_path, whole, word};

pub(super) fn auth() -> Node {
    let client = || -> Options {
        vec![
            ("token_url", text("The address that gives out tokens.")),
            ("client_id", text("The client; no secret.")),
            ("scope", text("What access is asked for.")),
            ("credentials", word(["header", "body"], "Where client and secret are sent.").default("header")),
        ]
    };
    let and = |mut options: Options, more: Options| {
        options.extend(more);
        options
    };
    kinds(
        "type",
        "Credentials. They go to the origin of `url` only, are encrypted and never shown.",
        vec![
            kind("bearer", "`Authorization: Bearer TOKEN`.", vec![("token", secret("The token."))], &["token"]),
            kind(
                "basic",
                "User name and password.",
                vec![
                    ("username", text("The name, without a colon; no secret.")),
                    ("password", secret("The password; may be empty.").with("minLength", 0)),
                ],
                &["username", "password"],
            ),
            kind(
                "header",
                "A header of its own.",
                vec![("name", text("The header.").example("X-Api-Key")), ("value", secret("Its value."))],
                &["name", "value"],
            ),
            kind(
                "query",
                "A parameter of each request.",
                vec![("name", text("The parameter.")), ("value", secret("Its value."))],
                &["name", "value"],
            ),
            kind(
                "oauth2_client_credentials",
                "A token for a client (OAuth 2.0).",
                and(
                    client(),
                    vec![
                        ("client_secret", secret("The secret of the client.")),
                        ("audience", text("Whom the token is for.")),
                    ],
                ),
                &["token_url", "client_id", "client_secret"],
            ),
            kind(
                "oauth2_refresh_token",
                "A token for a refresh token (OAuth 2.0), which may change with each use.",
                and(
                    client(),
                    vec![
                        ("client_secret", secret("The secret of the client, if it has one.")),
                        ("refresh_token", secret("The refresh token, of this source alone.")),
                    ],
                ),
                &["token_url", "client_id", "refresh_token"],
            ),
            kind(
                "oauth2_jwt_bearer",
                "A token for an assertion that is signed here (RFC 7523), as service accounts have them. `service_account` is needed, or `token_url`, `issuer` and `key`.",
                vec![
                    ("service_account", secret("The JSON text of the key file of a service account of Google.")),
                    ("token_url", text("The address that gives out tokens.")),
                    ("issuer", text("Who asks (`iss`); no secret.")),
                    ("key", secret("What is signed with: a private key in PEM, or with `HS256` a shared secret.")),
                    ("algorithm", word(JwtAlgorithm::ALL.iter().map(|(word, _)| *word), "How it is signed.").default("RS256")),
                    ("key_id", text("Which key that is (`kid`); no secret.")),
                    ("subject", text("For whom (`sub`), where that is somebody else.")),
                    ("audience", text("Whom the assertion is for (`aud`); by default `token_url`.")),
                    ("scope", text("What access is asked for.")),
                    ("claims", scalars("What else the assertion says.")),
                    ("client_id", text("The client, where the server wants it besides; no secret.")),
                    ("client_secret", secret("And its secret.")),
                    ("lifetime_secs", whole(1, 3600, "How long the assertion is good.").default(300)),
                ],
                &[],
            ),
            kind(
                "session",
                "A login that brings a token or cookies. `token` or `cookie` is needed.",
                vec![
                    ("login_url", text("Where user name and password are posted to.")),
                    ("username", text("The name; no secret.")),
                    ("password", secret("The password; may be empty.").with("minLength", 0)),
                    ("username_field", text("What the name is posted as.").default("username")),
                    ("password_field", text("What the password is posted as.").default("password")),
                    ("fields", scalars("What else is posted.")),
                    ("send", word(["json", "form"], "How it is posted.").default("json")),
                    ("token", value_path("Where in the answer the token is.")),
                    ("header", text("The header that carries the token.").default("Authorization")),
                    ("prefix", text("What stands before it; by default `Bearer ` in `Authorization`, else nothing.").with("minLength", 0)),
                    ("cookie", text("The name of the cookie without which nobody is logged in; all are sent.")),
                    ("lifetime_secs", whole(1, 366 * 86_400, "How long a session is used at most.").default(3600)),
                ],
                &["login_url", "username", "password"],
            ),
            kind(
                "hmac",
                "Requests that are signed. `headers` or `params` has `{signature}`.",
                vec![
                    ("secret", secret("What they are signed with.")),
                    ("secret_encoding", word(["text", "hex", "base64"], "How the key is written in `secret`.").default("text")),
                    ("key_id", text("What `{key_id}` stands for; no secret.")),
                    ("algorithm", word(["sha256", "sha512", "sha1"], "The hash of the HMAC.").default("sha256")),
                    ("encoding", word(["hex", "base64"], "How the signature is written.").default("hex")),
                    ("timestamp", word(["unix", "unix_ms", "iso8601", "http"], "How times are written.").default("unix")),
                    (
                        "sign",
                        text("What is signed: a text with `{method}`, `{host}`, `{path}`, `{query}`, `{url}`, `{body}`, `{body_sha256}`, `{timestamp}`, `{nonce}`, `{key_id}`.")
                            .example("{method}\n{path}\n{timestamp}\n{body_sha256}"),
                    ),
                    ("headers", scalars("Headers that carry the signature and what belongs to it.")),
                    ("params", scalars("Parameters that do.")),
                ],
                &["secret", "sign"],
            ),
            kind(
                "same_as",
                "The credentials of another source of the same origin, which alone has them.",
                vec![("source", text("Its name.").example("orders"))],
                &["source"],
            ),
            kind(
                "aws_sigv4",
                "Requests to AWS, and to what is compatible with it (Signature Version 4).",
                vec![
                    ("region", text("For which region a signature is good.").example("ap-northeast-1")),
                    ("service", text("For which service, as AWS names it in signatures.").example("execute-api")),
                    ("access_key_id", text("Who asks; no secret.")),
                    ("secret_access_key", secret("What is signed with.")),
                    ("session_token", secret("Of a key that is good for a time.")),
                ],
                &["region", "service", "access_key_id", "secret_access_key"],
            ),
        ],
    )
}
