//! What goes wrong is told with what, where and what to do, in both languages, and never with a secret.

use matome_connector::{Advice, ConnectorError, DatabaseFault, ReadRequest};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::bed::Bed;
use crate::errors::check;
use crate::servers;
use crate::support::{error_of, read, texts};

const ROWS: &str = "create table orders (id int primary key, at datetime, body text);
    insert into orders select seq, now(), repeat('x', 1000) from seq_1_to_20000;
    create table keys_of_bytes (id varbinary(9) primary key)";

#[tokio::test]
async fn each_fault_of_a_definition_is_told_with_its_remedy() {
    let bed = Bed::new(ROWS).await;
    let by = |cursor: &str, start: &str| json!({"table": "orders", "dedupe": "hash", "incremental": {"cursor": cursor, "start": start}});
    use DatabaseFault::{Auth, Missing, Query};
    for (options, fault, parts) in [
        (json!({"table": "orders", "password": "s3cret"}), Auth, &["refuses the user `matome`", "`password`"][..]),
        (json!({"table": "orders", "password": null}), Auth, &["refuses the user `matome`"]),
        (
            json!({"table": "orders", "user": "nobody_of_that_name", "password": "s3cret"}),
            Auth,
            &["`nobody_of_that_name`"],
        ),
        (json!({"table": "orders", "database": "t_nowhere"}), Missing, &["no database `t_nowhere`"]),
        (json!({"table": "orders", "database": "elsewhere"}), Auth, &["may not read it"]),
        (json!({"table": "orderz"}), Missing, &["orderz' doesn't exist", "`database.table`"]),
        (json!({"table": "mysql.global_priv"}), Auth, &["may not read it", "grant `select`"]),
        (json!({"query": "select 1,\n  nope from orders"}), Missing, &["'nope'"]),
        (json!({"query": "select id\nfrm orders"}), Query, &["does not accept", "line 2"]),
        (json!({"query": "select 1 as a, 2 as a"}), Query, &["does not accept", "Duplicate column name 'a'"]),
        (json!({"query": "delete from orders"}), Query, &["does not accept"]),
        (json!({"query": "select 1) x; drop table orders; select * from (select 2"}), Query, &["does not accept"]),
        (json!({"query": "select * from orders where id = ?"}), Query, &["has 1 `?`", "write the values"]),
        (json!({"query": "select writes() as n"}), Query, &["would write"]),
        (
            json!({"table": "orders", "dedupe": "hash", "incremental": {"cursor": "att"}}),
            Missing,
            &["no column `att`. Did you mean `at`?"],
        ),
        (
            json!({"table": "keys_of_bytes", "dedupe": "hash", "incremental": {"cursor": "id", "overlap": 5}}),
            Query,
            &["`varbinary`", "no distance"],
        ),
        (by("at", "yesterdayish"), Query, &["`yesterdayish` is no value of `at`", "`incremental.start`"]),
        // Of these the server would take the beginning.
        (by("at", "2026-01-01 00:00:00+09:00"), Query, &["is no value of `at`", "in UTC without a zone"]),
        (by("id", "12 apples"), Query, &["`12 apples` is no value of `id`", "`int`"]),
        (json!({"query": "select * from orders", "dedupe": "none"}), Query, &["`incremental.tie_break`"]),
        (json!({"table": "orders", "options": {"sort_buffer_size": "much"}}), Query, &["sort_buffer_size"]),
        (json!({"table": "orders", "options": {"role": "nobody"}}), Query, &["nobody"]),
    ] {
        bed.run(
            "create or replace function writes() returns int modifies sql data begin insert into orders (id) values (-1); return 1; end",
        )
        .await;
        let error = error_of(&*bed.connector(options.clone())).await;
        println!("{options}\n    {}", crate::support::told(&error));
        check(&error, fault, parts);
        assert_eq!(error.advice(), Advice::Fail, "{options}");
    }
    assert_eq!(read(&*bed.connector(json!({"table": "orders"})), ReadRequest::default()).await.len(), 21);
    // A user without a password is let in without one.
    let options =
        json!({"user": "nopassword", "password": null, "database": null, "query": "select current_user() as me"});
    let mut config = bed.config(options);
    config["database"] = json!("information_schema");
    let batches = read(&*crate::support::connector(&config), ReadRequest::default()).await;
    assert_eq!(texts(&batches), [r#"{"me":"nopassword@127.0.0.1"}"#]);
}

#[tokio::test]
async fn what_passes_by_itself_is_tried_again() {
    let bed = Bed::new(ROWS).await;
    let slow = json!({"query": "select count(*) as n from seq_1_to_100000 a join seq_1_to_100000 b on a.seq * b.seq % 7 = 3", "statement_timeout_secs": 1});
    let error = error_of(&*bed.connector(slow)).await;
    check(&error, DatabaseFault::Timeout, &["max_statement_time", "`statement_timeout_secs`"]);
    assert!(matches!(error.advice(), Advice::Retry { .. }));

    let lock = bed.hold("lock tables orders write").await;
    let error = error_of(&*bed.connector(json!({"table": "orders", "timeout_secs": 1}))).await;
    check(&error, DatabaseFault::Lost, &["lock"]);
    drop(lock);

    servers::a_server_that_is_silent_is_tried_again(&bed).await;
}

#[tokio::test]
async fn what_is_no_such_server_is_told_so() {
    let bed = Bed::new("").await;
    for greeting in ["SSH-2.0-OpenSSH_9.2p1\r\n", "220 mail.example.com ESMTP\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n"]
    {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = other.accept().await {
                let _ = client.write_all(greeting.as_bytes()).await;
            }
        });
        for tls in ["disable", "require"] {
            let error = error_of(&*bed.connector(json!({"table": "t", "port": port, "tls": {"mode": tls}}))).await;
            check(&error, DatabaseFault::Query, &["does not speak the protocol", "`port`"]);
        }
    }
    let error = error_of(&*bed.connector(json!({"table": "t", "host": "10.0.0.1"}))).await;
    assert!(error.is_denied(), "{error:?}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = error_of(&*bed.connector(json!({"table": "t", "port": closed}))).await;
    assert!(matches!(error, ConnectorError::Unreached { .. }) && !error.is_denied(), "{error:?}");
    servers::a_host_that_nobody_knows_is_told(&bed).await;
}

#[tokio::test]
async fn a_connection_that_is_lost_in_the_middle_goes_on_where_it_was() {
    servers::a_lost_connection_goes_on_where_it_was(&Bed::new(ROWS).await).await;
}

#[tokio::test]
async fn a_read_that_nobody_wants_ends_on_the_server_too() {
    servers::a_read_that_nobody_wants_ends(&Bed::new(ROWS).await, json!({"table": "orders"})).await;
}

#[tokio::test]
async fn settings_of_a_session_are_what_the_config_says() {
    let bed = Bed::new("").await;
    let query = "select @@sort_buffer_size as sort, @@group_concat_max_len as concat, @@time_zone as zone, @@lock_wait_timeout as wait";
    let options = json!({"query": query, "timeout_secs": 7, "options": {"sort_buffer_size": 4194304, "group_concat_max_len": "9999"}});
    let batches = read(&*bed.connector(options), ReadRequest::default()).await;
    assert_eq!(texts(&batches), [r#"{"concat":9999,"sort":4194304,"wait":7,"zone":"+00:00"}"#]);
}
