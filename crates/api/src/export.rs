//! Everything that is stored of a source or an aggregation, as one stream of NDJSON.
//!
//! One query, row by row as the database gives them; a slow client makes the database wait, nothing piles up.
//! When it breaks off in the middle the connection breaks off too, so a client never takes a part for the whole.

use std::pin::pin;

use axum::body::{Body as HttpBody, Bytes};
use axum::response::Response;
use futures::{Stream, TryStreamExt as _};
use http::{HeaderValue, Method, header};
use matome_store::acquired_data::Versions;
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_store::{acquired_data, aggregated_data, aggregation_runs, aggregation_sources, data_sources};
use tokio::sync::mpsc;

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint};
use crate::error::{ApiError, Result};
use crate::history;
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc};
use crate::runs;

/// Bytes that are collected before they are sent.
const CHUNK: usize = 64 << 10;
/// Chunks that wait for a slow client at most.
const WAITING: usize = 4;

type Chunks = mpsc::Sender<Result<Bytes, StoreError>>;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    let doc = |id, summary| OperationDoc::new(id, summary, 200, Answer::Ndjson);
    vec![
        Endpoint::other("/api/acquisition/sources/{id}/export/", "Acquired Data Export")
            .on(Method::GET, Read, export_source)
            .doc(
                doc("acquisition_sources_export", "Stream all records of a data source, one a line, in no order.")
                    .with(&[history::AS_OF, history::LATEST]),
            ),
        Endpoint::other("/api/aggregation/sources/{id}/export/", "Aggregated Data Export")
            .on(Method::GET, Read, export_aggregation)
            .doc(
                doc(
                    "aggregation_sources_export",
                    "Stream the current rows of an aggregation, one a line, in no order.",
                )
                .with(&[runs::RUN, runs::AS_OF_RUN]),
            ),
    ]
}

async fn export_source(call: Call) -> Result<Response> {
    const NOUN: &str = "DataSource";
    let id = call.id(NOUN)?;
    let versions = history::wanted(&call)?;
    let mut reader = call.state.db.read().await?;
    let found = data_sources::find(&mut reader.conn(), id).await?;
    found.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    let up_to = acquired_data::watermark(&mut reader.conn(), id).await?;
    drop(reader);
    let db = call.state.db.clone();
    Ok(streamed(|chunks| async move { send_records(&db, id, up_to, versions, &chunks).await }))
}

async fn export_aggregation(call: Call) -> Result<Response> {
    const NOUN: &str = "AggregationSource";
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    let found = aggregation_sources::find(&mut reader.conn(), id).await?;
    found.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    drop(reader);
    let db = call.state.db.clone();
    if runs::is_given(&call)?
        && let Some(run) = runs::made_by(&call, id).await?
    {
        return Ok(streamed(|chunks| async move { send_run(&db, id, run, &chunks).await }));
    }
    let after_run = runs::as_of(&call, Some(id)).await?.map(|after| after.run_id);
    Ok(streamed(|chunks| async move { send_version(&db, id, after_run, &chunks).await }))
}

/// An answer whose body is made by `produce` while it is sent.
fn streamed<F, R>(produce: F) -> Response
where
    F: FnOnce(Chunks) -> R,
    R: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let (chunks, mut waiting) = mpsc::channel(WAITING);
    let produced = produce(chunks.clone());
    tokio::spawn(async move {
        if let Err(err) = produced.await {
            tracing::error!(error = %err, "an export broke off");
            // The client may have gone, and then nobody needs to know.
            let _ = chunks.send(Err(err)).await;
        }
    });
    let body = futures::stream::poll_fn(move |cx| waiting.poll_recv(cx));
    let mut response = Response::new(HttpBody::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

async fn send_records(db: &Db, id: i64, up_to: i64, versions: Versions, chunks: &Chunks) -> Result<(), StoreError> {
    let mut reader = db.read().await?;
    let mut conn = reader.conn();
    // A tombstone is no record.
    let records = acquired_data::stream_versions(&mut conn, id, up_to, versions)
        .try_filter(|record| std::future::ready(!record.is_deleted));
    send(records.map_ok(|record| record.raw_data.into_boxed_str()), chunks).await.map(drop)
}

async fn send_run(db: &Db, id: i64, run: i64, chunks: &Chunks) -> Result<(), StoreError> {
    let mut reader = db.read().await?;
    let mut conn = reader.conn();
    let rows = aggregated_data::stream_run(&mut conn, id, run)?;
    let sent = send(rows.map_ok(|row| row.data.into()), chunks).await?;
    if sent || aggregation_runs::is_empty(&mut conn, run).await? { Ok(()) } else { Err(left(run)) }
}

/// What was shown after a run, or what is shown. A version that leaves between the question for it and the statement gives
/// no rows: then it is asked about again.
async fn send_version(db: &Db, id: i64, after_run: Option<i64>, chunks: &Chunks) -> Result<(), StoreError> {
    let mut reader = db.read().await?;
    let mut conn = reader.conn();
    let mut version = match after_run {
        Some(run) => run,
        None => aggregated_data::is_kept(&mut conn, id, 0).await?.0,
    };
    loop {
        let rows = aggregated_data::stream_version(&mut conn, id, version)?;
        if send(rows.map_ok(|row| row.data.into()), chunks).await? {
            return Ok(());
        }
        match aggregated_data::is_kept(&mut conn, id, version).await? {
            (_, true) => return Ok(()),
            (newest, false) if after_run.is_none() => version = newest,
            (_, false) => return Err(left(version)),
        }
    }
}

fn left(run: i64) -> StoreError {
    let what = format!("what run {run} left went while it was asked for");
    StoreError::Inconsistent { column: "aggregated_data.run_id".to_owned(), what }
}

/// Sends records as lines until there are no more or the client has gone; whether there were any.
async fn send(records: impl Stream<Item = Result<Box<str>, StoreError>>, chunks: &Chunks) -> Result<bool, StoreError> {
    let mut records = pin!(records);
    let mut pending = Vec::with_capacity(CHUNK + (CHUNK >> 2));
    let mut any = false;
    while let Some(record) = records.try_next().await? {
        any = true;
        pending.extend_from_slice(record.as_bytes());
        pending.push(b'\n');
        if pending.len() >= CHUNK {
            let full = std::mem::replace(&mut pending, Vec::with_capacity(CHUNK + (CHUNK >> 2)));
            if chunks.send(Ok(full.into())).await.is_err() {
                return Ok(any);
            }
        }
    }
    let _ = chunks.send(Ok(pending.into())).await;
    Ok(any)
}
