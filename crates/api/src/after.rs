//! `after` of aggregations, as far as it concerns more than one definition.

use matome_aggregation::config::AggregationConfig;
use matome_model::field_error::Words;
use matome_model::task::LaneKind;
use matome_store::db::Conn;
use matome_store::error::StoreError;
use matome_store::triggers::{self, After, Refused};

use crate::body::Given;
use crate::endpoint::Call;
use crate::error::{ApiError, FieldErrors, Result};
use crate::message::Message;

/// What a config lets run after what; nothing for a draft.
fn wanted(config: &AggregationConfig) -> After {
    config.after.clone().filter(|_| !config.is_draft()).unwrap_or_default()
}

/// Checks what the aggregation `id` (0: a new one) called `name` is to run after, in the transaction that then writes it.
pub(crate) async fn check(
    conn: &mut Conn<'_>,
    id: i64,
    name: &str,
    config: &AggregationConfig,
) -> Result<FieldErrors, StoreError> {
    let mut errors = FieldErrors::default();
    let after = wanted(config);
    if after == After::default() {
        return Ok(errors);
    }
    for refused in triggers::check(conn, id, name, &after).await? {
        match refused {
            Refused::Missing { kind, at, name } => {
                let (list, words) = match kind {
                    LaneKind::Source => ("sources", no_source(&name)),
                    LaneKind::Aggregation => ("aggregations", no_aggregation(&name)),
                };
                errors.add(&["config", "after", list, &at.to_string()], Message::Said(words));
            }
            Refused::Cycle(names) => {
                errors.add(&["config", "after", "aggregations"], Message::Said(cycle(&names)));
            }
        }
    }
    Ok(errors)
}

/// Stores what the aggregation runs after; [`check`] it before.
pub(crate) async fn set(conn: &mut Conn<'_>, id: i64, config: Option<&AggregationConfig>) -> Result<(), StoreError> {
    triggers::set(conn, id, &config.map(wanted).unwrap_or_default()).await
}

/// Refuses another name for what aggregations run after: they would wait for the old one for ever.
pub(crate) async fn refuse_rename(call: &Call, kind: LaneKind, old: &str, new: &Given<String>) -> Result<()> {
    if !matches!(new, Given::Value(new) if new != old) {
        return Ok(());
    }
    let mut reader = call.state.db.read().await?;
    let waiting = triggers::waiting_for(&mut reader.conn(), kind, old).await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = waiting.iter().map(|name| format!("`{name}`")).collect();
    let names = names.join(", ");
    Err(ApiError::field(
        "name",
        Message::Said(Words::new(
            format!("These aggregations run after `{old}`: {names}. Take it out of their `after` first."),
            format!("次の集約は`{old}`の後に実行されます: {names}。先に、それらの`after`から外してください。"),
        )),
    ))
}

fn no_source(name: &str) -> Words {
    Words::new(
        format!("There is no source `{name}`. Make it first, or correct the name; it is exact."),
        format!(
            "データソース`{name}`はありません。先に作るか、名前を直してください。名前は正確に一致しなければなりません。"
        ),
    )
}

fn no_aggregation(name: &str) -> Words {
    Words::new(
        format!("There is no aggregation `{name}`. Make it first, or correct the name; it is exact."),
        format!("集約`{name}`はありません。先に作るか、名前を直してください。名前は正確に一致しなければなりません。"),
    )
}

fn cycle(names: &[String]) -> Words {
    let way = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" -> ");
    Words::new(
        format!("An aggregation cannot run after itself: {way}. Leave one of these out."),
        format!("集約を自分自身の後に実行することはできません: {way}。どれかを外してください。"),
    )
}
