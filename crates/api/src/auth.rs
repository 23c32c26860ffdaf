//! Who asks, and what they may do.

use http::{HeaderMap, header};
use matome_model::clock::Timestamp;
use matome_store::api_tokens::{self, Bearer, Role};

use crate::error::{ApiError, Result};
use crate::message::Message;
use crate::state::ApiState;

/// Marks a request that came over the data directory's own socket, or from this process: whoever can do that
/// owns the data directory. Set as an extension by the server that accepts on the socket, never by a client.
#[derive(Clone, Copy, Debug)]
pub struct LocalOwner;

/// What a route asks of the one who calls it. Every operation declares one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Anybody.
    Public,
    /// Any valid token.
    Read,
    /// A role that changes things.
    Write,
    /// The administrator: tokens.
    Administer,
}

impl Permission {
    /// Whether a role has it.
    pub fn is_granted_to(self, role: Role) -> bool {
        match self {
            Self::Public | Self::Read => true,
            Self::Write | Self::Administer => role == Role::Admin,
        }
    }
}

/// The token that a request shows.
///
/// # Errors
/// 401 when it shows none.
pub(crate) fn shown(headers: &HeaderMap) -> Result<&str> {
    let refused = |message| Err(ApiError::Unauthenticated(message));
    let Some(given) = headers.get(header::AUTHORIZATION) else { return refused(Message::NoCredentials) };
    let Some((scheme, token)) = given.to_str().ok().and_then(|text| text.trim().split_once(' ')) else {
        return refused(Message::InvalidToken);
    };
    if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("token") {
        return refused(Message::NoCredentials);
    }
    Ok(token.trim())
}

/// The role of the one who asks.
///
/// # Errors
/// 401 without credentials or with wrong ones.
pub(crate) async fn authenticate(state: &ApiState, headers: &HeaderMap) -> Result<Role> {
    let token = shown(headers)?;
    let now = state.clock.now();
    let found = {
        let mut reader = state.db.read().await?;
        api_tokens::find_by_secret(&mut reader.conn(), token, now).await?
    };
    let Some(found) = found.map(Bearer::from) else { return Err(ApiError::Unauthenticated(Message::InvalidToken)) };
    note_use(state, &found, now);
    Ok(found.role)
}

/// Notes that a token was used, about once a minute.
pub(crate) fn note_use(state: &ApiState, found: &Bearer, now: Timestamp) {
    if found.last_used_at.is_none_or(|at| now - at >= chrono::TimeDelta::minutes(1)) {
        let (db, id) = (state.db.clone(), found.id);
        // Nobody waits for it, and nothing depends on it.
        tokio::spawn(async move {
            let noted = db.write(move |conn| Box::pin(async move { api_tokens::touch(conn, id, now).await })).await;
            if let Err(err) = noted {
                tracing::debug!(error = %err, "the use of token {id} was not noted");
            }
        });
    }
}
