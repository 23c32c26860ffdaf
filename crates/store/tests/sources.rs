//! Sources, their lists, their secrets and what their deletion leaves, on both databases.

#![allow(clippy::unwrap_used, reason = "a failing unwrap in a test names its line")]

use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use futures::FutureExt as _;
use matome_model::clock::{Clock, Timestamp};
use matome_model::schedule::Plan;
use matome_model::source::{SourceStatus, SourceType};
use matome_model::task::LaneKind;
use matome_store::aggregation_sources::{self, AggregationFields};
use matome_store::api_tokens::{self, Role};
use matome_store::counters;
use matome_store::data_sources::{self, DataSource, LISTING, SourceFields};
use matome_store::db::Db;
use matome_store::listing::{
    Condition, Listing, Lookup, Order, Query, Value, acquired, aggregated, fold, quarantined, runs,
};
use matome_store::secrets::{self, Vault};
use matome_store::tasks::{self, NewTask};
use matome_store::{lanes, schedules, task_history};
use matome_testbed::databases;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn now() -> Timestamp {
    Clock::system().now()
}

fn fields(name: &str, config: &str) -> SourceFields {
    SourceFields {
        name: name.to_owned(),
        source_type: SourceType::File,
        description: Some(format!("about {name}")),
        status: SourceStatus::Active,
        config: raw(config),
        fetch_interval: 60,
    }
}

async fn create(db: &Db, name: &str) -> i64 {
    let fields = fields(name, "{}");
    db.write(move |conn| Box::pin(async move { data_sources::create(conn, &fields, now()).await })).await.unwrap()
}

async fn update(db: &Db, id: i64, fields: SourceFields) -> DataSource {
    db.write(move |conn| {
        Box::pin(async move {
            data_sources::update(conn, id, &fields, false, now()).await?;
            Ok(data_sources::find(conn, id).await?.unwrap())
        })
    })
    .await
    .unwrap()
}

/// Adds records without the machinery of a page.
async fn add_records(db: &Db, source_id: i64, count: i64, at: Timestamp) {
    db.write(move |conn| {
        Box::pin(async move {
            for n in 0..count {
                let data = format!("{{\"n\":{n}}}");
                conn.execute(
                    "insert into acquired_data (source_id, raw_data, acquired_at) values ($1, $2, $3)",
                    &[source_id.into(), (&*raw(&data)).into(), at.into()],
                )
                .await?;
            }
            counters::add(conn, counters::ACQUIRED_DATA, source_id, "", count).await
        })
    })
    .await
    .unwrap();
}

async fn count(db: &Db, source: Option<i64>) -> i64 {
    acquired::count(&mut db.read().await.unwrap().conn(), source).await.unwrap()
}

async fn ids(db: &Db, listing: &Listing, query: &Query, limit: i64, offset: i64) -> Vec<i64> {
    let mut reader = db.read().await.unwrap();
    let rows = listing.rows(&mut reader.conn(), query, limit, offset).await.unwrap();
    rows.iter().map(|row| row.int("id").unwrap()).collect()
}

#[tokio::test]
async fn the_config_revision_grows_only_when_the_config_is_another_by_value() {
    for bed in databases().await {
        let id = create(&bed.db, "one").await;
        let mut wanted = fields("one", r#"{"a":1.5,"b":[1,2]}"#);
        let first = update(&bed.db, id, wanted.clone()).await;
        assert_eq!(first.config_rev, 2, "{}", bed.name);
        "renamed".clone_into(&mut wanted.name);
        let renamed = update(&bed.db, id, wanted.clone()).await;
        assert_eq!((renamed.config_rev, renamed.name.as_str()), (2, "renamed"), "{}", bed.name);
        wanted.config = raw(r#"{"a":1.5,"b":[2,1]}"#);
        assert_eq!(update(&bed.db, id, wanted.clone()).await.config_rev, 3, "{}", bed.name);
        wanted.source_type = SourceType::Api;
        assert_eq!(update(&bed.db, id, wanted).await.config_rev, 4, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_deleted_source_is_hidden_at_once_frees_its_name_and_goes_in_batches() {
    for bed in databases().await {
        let (db, at) = (&bed.db, now());
        let (id, other) = (create(db, "gone").await, create(db, "stays").await);
        add_records(db, id, 7, at).await;
        add_records(db, other, 2, at).await;
        db.write(move |conn| {
            Box::pin(async move {
                schedules::upsert(conn, LaneKind::Source, id, &Plan::every(60), true, now()).await?;
                tasks::enqueue(conn, &NewTask::manual(LaneKind::Source, id, now()), now()).await?;
                let vault = Vault::from_key([1; 32]);
                secrets::save(conn, &vault, LaneKind::Source, id, "/auth/token", &SecretString::from("x")).await
            })
        })
        .await
        .unwrap();
        assert_eq!((count(db, None).await, count(db, Some(id)).await), (9, 7), "{}", bed.name);

        let deleted = db.write(move |conn| {
            Box::pin(async move {
                let was_there = data_sources::mark_deleted(conn, id, now()).await?;
                schedules::remove(conn, LaneKind::Source, id).await?;
                tasks::cancel_all(conn, LaneKind::Source, id, now()).await?;
                Ok((was_there, data_sources::mark_deleted(conn, id, now()).await?))
            })
        });
        assert_eq!(deleted.await.unwrap(), (true, false), "{}", bed.name);
        assert_eq!((count(db, None).await, count(db, Some(id)).await), (2, 0), "{}", bed.name);
        assert_eq!(ids(db, &acquired::LISTING, &Query::default(), 20, 0).await.len(), 2, "{}", bed.name);
        let again = create(db, "gone").await;
        assert!(again > id, "{}", bed.name);

        let mut batches = 0;
        while db.write(|conn| Box::pin(async move { data_sources::remove_deleted_batch(conn, 3).await })).await.unwrap()
        {
            batches += 1;
            assert!(batches < 20, "{}: removal ends", bed.name);
        }
        assert!(batches > 3, "{}: {batches}", bed.name);
        let mut reader = db.read().await.unwrap();
        for table in ["data_sources where id", "acquired_data where source_id", "counters where source_id"] {
            let sql = format!("select count(*) as n from {table} = $1");
            let left = reader.conn().fetch_one(sqlx::AssertSqlSafe(sql), &[id.into()]).await.unwrap();
            assert_eq!(left.int("n").unwrap(), 0, "{}: {table}", bed.name);
        }
        let left = reader.conn().fetch_one("select count(*) as n from tasks", &[]).await.unwrap();
        assert_eq!(left.int("n").unwrap(), 0, "{}", bed.name);
    }
}

#[tokio::test]
async fn search_finds_text_whatever_its_case_and_takes_wildcards_literally() {
    for bed in databases().await {
        let umlaut = create(&bed.db, "ÄPFEL 50%").await;
        let tokyo = create(&bed.db, "東京 Sensor_1").await;
        let plain = create(&bed.db, "plain").await;
        let search = |terms: &[&str]| Query { search: terms.iter().map(|t| fold(t)).collect(), ..Query::default() };
        for (terms, found) in [
            (vec!["äpfel"], vec![umlaut]),
            (vec!["50%"], vec![umlaut]),
            (vec!["東京", "SENSOR"], vec![tokyo]),
            (vec!["r_1"], vec![tokyo]),
            (vec!["%"], vec![umlaut]),
            (vec!["ABOUT PLAIN"], vec![plain]),
            (vec!["nothing"], vec![]),
        ] {
            let query = search(&terms);
            assert_eq!(ids(&bed.db, &LISTING, &query, 20, 0).await, found, "{}: {terms:?}", bed.name);
            let mut reader = bed.db.read().await.unwrap();
            let counted = LISTING.count(&mut reader.conn(), &query).await.unwrap();
            assert_eq!(counted, i64::try_from(found.len()).unwrap(), "{}: {terms:?}", bed.name);
        }
    }
}

#[tokio::test]
async fn every_filter_and_order_of_every_list_is_a_statement_both_databases_take() {
    for bed in databases().await {
        let id = create(&bed.db, "b").await;
        create(&bed.db, "a").await;
        add_records(&bed.db, id, 1, now()).await;
        let listings = [
            &LISTING,
            &aggregation_sources::LISTING,
            &acquired::LISTING,
            &acquired::LISTING_OF_NEWEST,
            &aggregated::LISTING,
            &aggregated::LISTING_OF_RUNS,
            &runs::LISTING,
            &quarantined::LISTING,
            &api_tokens::LISTING,
            task_history::listing(matome_model::task::Queue::Acquisition),
            task_history::listing(matome_model::task::Queue::Aggregation),
        ];
        for listing in listings {
            for column in listing.columns {
                let value = match column.kind {
                    matome_store::listing::ColumnKind::Int | matome_store::listing::ColumnKind::Reference => {
                        Value::Int(1)
                    }
                    matome_store::listing::ColumnKind::Time => Value::Time(now()),
                    matome_store::listing::ColumnKind::Uuid => Value::Uuid(uuid::Uuid::nil()),
                    matome_store::listing::ColumnKind::Key => Value::Bytes(vec![7; 16]),
                    matome_store::listing::ColumnKind::Bool => Value::Bool(true),
                    _ => Value::Text("a".to_owned()),
                };
                for lookup in Lookup::ALL.iter().filter(|lookup| lookup.fits(column)) {
                    let value = match lookup {
                        Lookup::In => Value::Many(vec![value.clone(), value.clone()]),
                        Lookup::IsNull => Value::Bool(false),
                        _ => value.clone(),
                    };
                    let conditions = vec![Condition { column, lookup: *lookup, value }];
                    let query = Query { conditions, ..Query::default() };
                    ids(&bed.db, listing, &query, 5, 0).await;
                    listing.count(&mut bed.db.read().await.unwrap().conn(), &query).await.unwrap();
                }
                if column.sortable {
                    for descending in [false, true] {
                        let query = Query { order: vec![Order { column, descending }], ..Query::default() };
                        ids(&bed.db, listing, &query, 5, 0).await;
                    }
                }
            }
        }
        let by_name = |descending| {
            let column = LISTING.column("name").unwrap();
            Query { order: vec![Order { column, descending }], ..Query::default() }
        };
        let up = ids(&bed.db, &LISTING, &by_name(false), 5, 0).await;
        let down = ids(&bed.db, &LISTING, &by_name(true), 5, 0).await;
        assert_eq!((up, down), (vec![id + 1, id], vec![id, id + 1]), "{}", bed.name);
    }
}

#[tokio::test]
async fn pages_of_records_follow_each_other_newest_first() {
    for bed in databases().await {
        let id = create(&bed.db, "records").await;
        let start = now();
        for n in 0..3 {
            add_records(&bed.db, id, 4, start + TimeDelta::seconds(n)).await;
        }
        let mut seen = Vec::new();
        for offset in [0, 5, 10] {
            seen.extend(ids(&bed.db, &acquired::LISTING, &Query::default(), 5, offset).await);
        }
        let mut expected = seen.clone();
        expected.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(seen.len(), 12, "{}", bed.name);
        assert_eq!(seen, expected, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_deep_page_hides_what_the_first_one_hides() {
    for bed in databases().await {
        let (db, at) = (&bed.db, now());
        let (gone, stays) = (create(db, "gone").await, create(db, "stays").await);
        add_records(db, gone, 600, at).await;
        add_records(db, stays, 1_001, at).await;
        let deep = async || ids(db, &acquired::LISTING, &Query::default(), 100, 1_000).await.len();
        assert_eq!(deep().await, 100, "{}", bed.name);
        db.write(move |conn| Box::pin(async move { data_sources::mark_deleted(conn, gone, now()).await }))
            .await
            .unwrap();
        assert_eq!(deep().await, 1, "{}", bed.name);
    }
}

#[tokio::test]
async fn only_rows_of_the_current_run_and_rows_without_a_run_are_shown() {
    for bed in databases().await {
        let wanted = AggregationFields {
            name: "daily".to_owned(),
            description: None,
            status: SourceStatus::Active,
            config: raw("{}"),
        };
        let id = bed
            .db
            .write(move |conn| {
                Box::pin(async move {
                    let id = aggregation_sources::create(conn, &wanted, now()).await?;
                    let mut runs = Vec::new();
                    for (status, rows) in [("superseded", 3_i64), ("current", 2), ("building", 5)] {
                        let sql = "insert into aggregation_runs (source_id, task_id, status, row_count, published_at)
                            values ($1, 1, $2, $3, $4) returning id";
                        let published = (status != "building").then(now);
                        let args = [id.into(), status.into(), rows.into(), published.into()];
                        let run = conn.fetch_one(sql, &args).await?.int("id")?;
                        for _ in 0..rows {
                            let sql = "insert into aggregated_data (source_id, data, run_id) values ($1, $2, $3)";
                            conn.execute(sql, &[id.into(), (&*raw("{}")).into(), run.into()]).await?;
                        }
                        runs.push(run);
                    }
                    let sql = "insert into aggregated_data (source_id, data) values ($1, $2)";
                    conn.execute(sql, &[id.into(), (&*raw("{}")).into()]).await?;
                    let sql = "update aggregation_sources set current_run_id = $2, visible_rows = 2 where id = $1";
                    conn.execute(sql, &[id.into(), runs[1].into()]).await?;
                    Ok(id)
                })
            })
            .await
            .unwrap();
        let shown = ids(&bed.db, &aggregated::LISTING, &Query::default(), 20, 0).await;
        assert_eq!(shown.len(), 3, "{}", bed.name);
        let mut reader = bed.db.read().await.unwrap();
        for source in [None, Some(id)] {
            assert_eq!(aggregated::count(&mut reader.conn(), source).await.unwrap(), 3, "{}", bed.name);
        }
        let old = Condition {
            column: aggregated::LISTING_OF_RUNS.column("run").unwrap(),
            lookup: Lookup::Exact,
            value: Value::Int(1),
        };
        let query = Query { conditions: vec![old], ..Query::default() };
        assert_eq!(ids(&bed.db, &aggregated::LISTING_OF_RUNS, &query, 20, 0).await.len(), 3, "{}", bed.name);
    }
}

#[tokio::test]
async fn secrets_come_back_to_their_leaves_and_are_forgotten_with_them() {
    for bed in databases().await {
        let id = create(&bed.db, "secret").await;
        let vault = Vault::from_key([3; 32]);
        let config = raw(r#"{"auth":{"token":{"$secret":true},"type":"bearer"},"n":1.50}"#);
        let (shown, sealing) = (config.clone(), vault.clone());
        bed.db
            .write(move |conn| {
                Box::pin(async move {
                    let old = SecretString::from("old");
                    secrets::save(conn, &sealing, LaneKind::Source, id, "/auth/token", &old).await?;
                    let new = SecretString::from("n\"w 東");
                    secrets::save(conn, &sealing, LaneKind::Source, id, "/auth/token", &new).await?;
                    secrets::save(conn, &sealing, LaneKind::Source, id, "/auth/value", &old).await?;
                    secrets::forget_others(conn, LaneKind::Source, id, &["/auth/token".to_owned()]).await
                })
            })
            .await
            .unwrap();
        let mut reader = bed.db.read().await.unwrap();
        let mut conn = reader.conn();
        let revealed = secrets::reveal(&mut conn, &vault, LaneKind::Source, id, &shown).await.unwrap();
        assert_eq!(revealed.get(), r#"{"auth":{"token":"n\"w 東","type":"bearer"},"n":1.50}"#, "{}", bed.name);
        assert_eq!(secrets::paths(&mut conn, LaneKind::Source, id).await.unwrap(), ["/auth/token"], "{}", bed.name);
        let other = Vault::from_key([4; 32]);
        let err = secrets::reveal(&mut conn, &other, LaneKind::Source, id, &config).await.unwrap_err();
        assert!(err.to_string().contains("/auth/token"), "{}: {err}", bed.name);
    }
}

/// Gives `next` once it may, and tells when it has begun.
fn slow_exchange(next: &'static str) -> (secrets::Exchange, oneshot::Receiver<()>, oneshot::Sender<()>) {
    let (begun, has_begun) = oneshot::channel();
    let (go, may_go) = oneshot::channel();
    let exchange = move |_| {
        async move {
            let _ = begun.send(());
            let _ = may_go.await;
            Some(SecretString::from(next))
        }
        .boxed()
    };
    (Box::new(exchange), has_begun, go)
}

#[tokio::test]
async fn a_secret_is_exchanged_by_one_at_a_time_and_its_successor_is_kept() {
    const PATH: &str = "/auth/refresh_token";
    for bed in databases().await {
        let id = create(&bed.db, "rotating").await;
        let vault = Vault::from_key([3; 32]);
        let save = async |text: &str| {
            let (vault, text) = (vault.clone(), SecretString::from(text));
            let saved = bed.db.write(move |conn| {
                Box::pin(async move { secrets::save(conn, &vault, LaneKind::Source, id, PATH, &text).await })
            });
            saved.await.unwrap();
        };
        let replace = |exchange: secrets::Exchange| {
            let (db, vault) = (bed.db.clone(), vault.clone());
            async move { secrets::replace(&db, &vault, LaneKind::Source, id, PATH, exchange).await }
        };
        let stored = async || {
            let (seen, kept) = oneshot::channel();
            let look = move |current: SecretString| {
                let _ = seen.send(current.expose_secret().to_owned());
                Box::pin(async { None }) as futures::future::BoxFuture<'static, Option<SecretString>>
            };
            replace(Box::new(look)).await.unwrap();
            kept.await.unwrap()
        };

        save("t0").await;
        let newest = Arc::new(Mutex::new(0));
        let next = || {
            let newest = newest.clone();
            let exchange = move |current: SecretString| {
                let exchange = async move {
                    let number = *newest.lock().unwrap();
                    assert_eq!(current.expose_secret(), format!("t{number}"), "one that was used before");
                    tokio::task::yield_now().await;
                    *newest.lock().unwrap() = number + 1;
                    Some(SecretString::from(format!("t{}", number + 1)))
                };
                Box::pin(exchange) as futures::future::BoxFuture<'static, Option<SecretString>>
            };
            replace(Box::new(exchange))
        };
        let all = futures::future::join_all((0..8).map(|_| next())).await;
        assert!(all.iter().all(Result::is_ok), "{}: {all:?}", bed.name);
        assert_eq!(stored().await, "t8", "{}", bed.name);

        // Nobody waits for its end any more.
        let (slow, has_begun, go) = slow_exchange("t9");
        let call = tokio::spawn(replace(slow));
        has_begun.await.unwrap();
        call.abort();
        go.send(()).unwrap();
        assert_eq!(stored().await, "t9", "{}", bed.name);

        // A user gives another one while the old one is exchanged.
        let (slow, has_begun, go) = slow_exchange("t10");
        let call = tokio::spawn(replace(slow));
        has_begun.await.unwrap();
        save("mine").await;
        go.send(()).unwrap();
        call.await.unwrap().unwrap();
        assert_eq!(stored().await, "mine", "{}", bed.name);
    }
}

#[tokio::test]
async fn a_token_is_found_by_its_whole_secret_until_it_ends() {
    for bed in databases().await {
        let at = now();
        let (token, secret) = bed
            .db
            .write(move |conn| {
                Box::pin(async move {
                    api_tokens::create(conn, "ci", Role::Viewer, Some(at + TimeDelta::hours(1)), at).await
                })
            })
            .await
            .unwrap();
        let find = async |secret: &str, at| {
            let mut reader = bed.db.read().await.unwrap();
            let found = api_tokens::find_by_secret(&mut reader.conn(), secret, at).await.unwrap();
            let page = data_sources::LISTING.first_page(&mut reader.conn(), secret, None, 20, at).await.unwrap();
            let of_page = page.map(|page| (page.bearer.id, page.bearer.role, page.bearer.last_used_at));
            assert_eq!(of_page, found.as_ref().map(|found| (found.id, found.role, found.last_used_at)), "{}", bed.name);
            found
        };
        let secret = secret.expose_secret().to_owned();
        let found = find(&secret, at).await.unwrap();
        assert_eq!((found.id, found.role, found.last_used_at), (token.id, Role::Viewer, None), "{}", bed.name);
        let mut wrong = secret.clone();
        wrong.replace_range(secret.len() - 1.., if secret.ends_with('0') { "1" } else { "0" });
        assert!(find(&wrong, at).await.is_none(), "{}", bed.name);
        assert!(find(&secret, at + TimeDelta::hours(2)).await.is_none(), "{}: expired", bed.name);

        let (id, soon, later) = (token.id, at + TimeDelta::seconds(59), at + TimeDelta::seconds(61));
        let touch = |at| bed.db.write(move |conn| Box::pin(async move { api_tokens::touch(conn, id, at).await }));
        for (used, noted) in [(at, at), (soon, at), (later, later)] {
            touch(used).await.unwrap();
            assert_eq!(find(&secret, at).await.unwrap().last_used_at, Some(noted), "{}", bed.name);
        }
        let revoke = bed.db.write(move |conn| Box::pin(async move { api_tokens::revoke(conn, id, at).await }));
        assert!(revoke.await.unwrap(), "{}", bed.name);
        assert!(find(&secret, at).await.is_none(), "{}: revoked", bed.name);
    }
}

#[tokio::test]
async fn the_master_key_is_made_once_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    let first = Vault::open_or_create(&path).unwrap();
    let second = Vault::open_or_create(&path).unwrap();
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    std::fs::write(&path, "no key").unwrap();
    assert!(Vault::open_or_create(&path).is_err());
}

#[tokio::test]
async fn a_paused_object_without_lanes_is_no_error() {
    for bed in databases().await {
        let id = create(&bed.db, "idle").await;
        let paused = bed.db.write(move |conn| {
            Box::pin(async move { lanes::set_paused(conn, LaneKind::Source, id, true, now()).await })
        });
        assert_eq!(paused.await.unwrap(), 0, "{}", bed.name);
    }
}
