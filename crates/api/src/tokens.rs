//! API tokens: `/api/tokens/`, for the administrator.

use axum::response::Response;
use http::{Method, StatusCode};
use matome_model::clock::iso8601;
use matome_store::api_tokens::{self, ApiToken, LISTING, Role};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use crate::auth::Permission::Administer;
use crate::body::{Fields, Given};
use crate::endpoint::{Call, Endpoint, json_answer, no_content};
use crate::error::{ApiError, Result};
use crate::list::List;
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc};

const NOUN: &str = "Token";
const LIST: List = List { listing: &LISTING, references: None, counter: None };

/// A token as the administrator sees it.
#[derive(Serialize)]
struct TokenView {
    id: i64,
    name: String,
    role: &'static str,
    prefix: String,
    created_at: String,
    last_used_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    /// In the answer to its creation alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

fn view(token: ApiToken) -> TokenView {
    TokenView {
        id: token.id,
        name: token.name,
        role: token.role.as_str(),
        prefix: token.prefix,
        created_at: iso8601(token.created_at),
        last_used_at: token.last_used_at.map(iso8601),
        expires_at: token.expires_at.map(iso8601),
        revoked_at: token.revoked_at.map(iso8601),
        token: None,
    }
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::json("/api/tokens/", "Token List")
            .on(Method::GET, Administer, |call| async move { LIST.page(&call, view).await })
            .doc(OperationDoc::new("tokens_list", "List tokens.", 200, Answer::Page(NOUN)).filtered_by(&LISTING))
            .on(Method::POST, Administer, create_token)
            .doc(
                OperationDoc::new(
                    "tokens_create",
                    "Make a token; it is shown here only.",
                    201,
                    Answer::One("NewToken"),
                )
                .taking("TokenRequest"),
            ),
        Endpoint::json("/api/tokens/{id}/", "Token Instance")
            .on(Method::DELETE, Administer, revoke_token)
            .doc(OperationDoc::new("tokens_destroy", "Take a token back.", 204, Answer::Empty)),
    ]
}

async fn create_token(call: Call) -> Result<Response> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, false);
    let name = fields.name("name", 255);
    let role = fields.choice("role", true, Role::parse);
    fields.errors.into_result()?;
    let (Given::Value(name), Given::Value(role)) = (name, role) else {
        return Err(ApiError::field("role", Message::Required));
    };
    let now = call.state.clock.now();
    let made = call
        .state
        .db
        .write(move |conn| Box::pin(async move { api_tokens::create(conn, &name, role, None, now).await }));
    let (token, secret) = made.await?;
    let view = TokenView { token: Some(secret.expose_secret().to_owned()), ..view(token) };
    Ok(json_answer(StatusCode::CREATED, &view))
}

async fn revoke_token(call: Call) -> Result<Response> {
    let (id, now) = (call.id(NOUN)?, call.state.clock.now());
    let revoked = call.state.db.write(move |conn| Box::pin(async move { api_tokens::revoke(conn, id, now).await }));
    if revoked.await? { Ok(no_content()) } else { Err(ApiError::NotFound(Message::NoMatch { noun: NOUN })) }
}
