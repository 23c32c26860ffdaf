//! What goes wrong is told with what, where and what to do, in both languages, and never with a secret.

use matome_connector::{Advice, ConnectorError, DatabaseFault, ReadRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::servers;
use crate::support::{Bed, connector, error_of, faults, read, read_until, told};

const ROWS: &str = "create sequence counter; create table orders (id int primary key, at timestamptz, body text);
    insert into orders select n, now(), repeat('x', 1000) from generate_series(1, 20000) n";

#[track_caller]
pub fn check(error: &ConnectorError, fault: DatabaseFault, parts: &[&str]) {
    let text = told(error);
    assert!(matches!(error, ConnectorError::Database { fault: found, .. } if *found == fault), "{error:?}");
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    // Both languages.
    assert!(text.chars().any(|c| ('\u{3040}'..='\u{30ff}').contains(&c)), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn each_fault_of_a_definition_is_told_with_its_remedy() {
    let bed = Bed::new(ROWS).await;
    use DatabaseFault::{Auth, Missing, Query};
    for (options, fault, parts) in [
        (json!({"table": "orders", "password": "s3cret"}), Auth, &["refuses the user `matome`", "`password`"][..]),
        (
            json!({"table": "orders", "user": "nobody_of_that_name", "password": "s3cret"}),
            Auth,
            &["`nobody_of_that_name`"],
        ),
        (json!({"table": "orders", "database": "nowhere"}), Missing, &["no database `nowhere`"]),
        (json!({"table": "orderz"}), Missing, &["\"orderz\" does not exist", "compared exactly"]),
        (json!({"table": "Orders"}), Missing, &["\"Orders\" does not exist"]),
        (json!({"table": "pg_catalog.pg_authid"}), Auth, &["may not read it", "grant `select`"]),
        (json!({"query": "select 1,\n  nope from orders"}), Missing, &["(`query` 2:3)", "\"nope\""]),
        (json!({"query": "select id frm orders"}), Query, &["does not accept", "(`query` 1:15)"]),
        (json!({"query": "select 1 as a, 2 as a"}), Query, &["two columns `a`", "`as`"]),
        (json!({"query": "delete from orders returning *"}), Query, &["does not accept"]),
        (
            json!({"query": "with gone as (delete from orders returning *) select * from gone"}),
            Query,
            &["does not accept"],
        ),
        (json!({"query": "select nextval('counter')"}), Query, &["would write"]),
        (
            json!({"query": "select set_config('transaction_read_only', 'off', true)"}),
            Query,
            &["read-write mode must be set before any query"],
        ),
        (json!({"query": "select 1) x; drop table orders; select * from (select 2"}), Query, &["multiple commands"]),
        (json!({"query": "select 1 / (id - 5) from orders"}), Query, &["division by zero", "22012"]),
        (
            json!({"table": "orders", "dedupe": "hash", "incremental": {"cursor": "att"}}),
            Missing,
            &["no column `att`. Did you mean `at`?"],
        ),
        (
            json!({"table": "orders", "dedupe": "hash", "incremental": {"cursor": "body", "overlap": 5}}),
            Query,
            &["`text`", "no distance"],
        ),
        (
            json!({"table": "orders", "dedupe": "hash", "incremental": {"cursor": "at", "start": "yesterdayish"}}),
            Query,
            &["invalid input syntax"],
        ),
        (json!({"query": "select * from orders", "dedupe": "none"}), Query, &["`incremental.tie_break`"]),
        (json!({"table": "orders", "options": {"work_mem": "much"}}), Query, &["work_mem"]),
        (
            json!({"table": "orders", "tls": null}),
            DatabaseFault::Tls,
            &["does not speak TLS", "`tls.mode` to `disable`"],
        ),
        (json!({"table": "orders", "tls": {"mode": "require"}}), DatabaseFault::Tls, &["does not speak TLS"]),
    ] {
        let error = error_of(&*bed.connector(options.clone())).await;
        println!("{options}\n    {}", told(&error));
        check(&error, fault, parts);
        assert_eq!(error.advice(), Advice::Fail, "{options}");
    }
    assert_eq!(read(&*bed.connector(json!({"table": "orders"})), ReadRequest::default()).await.len(), 21);
}

#[tokio::test]
async fn what_passes_by_itself_is_tried_again() {
    let bed = Bed::new(ROWS).await;
    let slow = json!({"query": "select pg_sleep(60)", "statement_timeout_secs": 1});
    let error = error_of(&*bed.connector(slow)).await;
    check(&error, DatabaseFault::Timeout, &["statement timeout", "`statement_timeout_secs`"]);
    assert!(matches!(error.advice(), Advice::Retry { .. }));

    let lock = bed.hold("lock table orders in access exclusive mode").await;
    let error = error_of(&*bed.connector(json!({"table": "orders", "timeout_secs": 1}))).await;
    check(&error, DatabaseFault::Lost, &["lock"]);
    drop(lock);

    servers::a_server_that_is_silent_is_tried_again(&bed).await;
}

#[tokio::test]
async fn what_is_no_database_is_told_so() {
    let bed = Bed::new("").await;
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = web.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = web.accept().await {
            let _ = client.read(&mut [0; 64]).await;
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    for tls in ["disable", "require"] {
        let error = error_of(&*bed.connector(json!({"table": "t", "port": port, "tls": {"mode": tls}}))).await;
        check(&error, DatabaseFault::Query, &["does not speak the protocol", "`port`"]);
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = error_of(&*bed.connector(json!({"table": "t", "port": closed}))).await;
    let text = told(&error);
    assert!(matches!(error, ConnectorError::Unreached { .. }) && !error.is_denied(), "{error:?}");
    assert!(
        text.contains(&format!("no connection to `127.0.0.1:{closed}`")) && text.contains("接続できません"),
        "{text}"
    );
    assert!(matches!(error.advice(), Advice::Retry { .. }));
    servers::a_host_that_nobody_knows_is_told(&bed).await;
}

#[tokio::test]
async fn a_denied_address_is_not_dialled() {
    let bed = Bed::new(ROWS).await;
    for host in ["169.254.169.254", "10.0.0.1", "::1", "[::1]", "0x0a000001", "::ffff:10.1.2.3", "127.0.0.9"] {
        let error = error_of(&*bed.connector(json!({"table": "orders", "host": host}))).await;
        assert!(error.is_denied() && told(&error).contains("--egress-allow"), "{host}: {error:?}");
        assert_eq!(error.advice(), Advice::Fail);
    }
    // Another spelling of the address that the rule of these tests names.
    assert!(
        read_until(&*bed.connector(json!({"table": "orders", "host": "127.1"})), ReadRequest::default())
            .await
            .1
            .is_none()
    );
}

#[tokio::test]
async fn a_connection_that_is_lost_in_the_middle_goes_on_where_it_was() {
    servers::a_lost_connection_goes_on_where_it_was(&Bed::new(ROWS).await).await;
}

#[tokio::test]
async fn a_read_that_nobody_wants_ends_on_the_server_too() {
    servers::a_read_that_nobody_wants_ends(
        &Bed::new(ROWS).await,
        json!({"query": "select * from orders, pg_sleep(0)"}),
    )
    .await;
}

#[test]
fn each_wrong_option_is_told_at_its_field() {
    let base = json!({"engine": "postgres", "host": "h", "database": "d", "user": "u", "table": "t"});
    let with = |more: Value| {
        let mut config = base.clone();
        for (name, value) in more.as_object().unwrap() {
            config[name] = value.clone();
        }
        config.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        config
    };
    assert!(matches!(connector(&with(json!({}))), _));
    for (config, place, part) in [
        (json!({"engine": null}), "engine", "`postgres`, `mysql` or `sqlite`"),
        (json!({"engine": "oracle"}), "engine", "not a valid choice"),
        (json!({"host": null}), "host", "required"),
        (json!({"host": "/var/run/postgresql"}), "host", "Sockets"),
        (json!({"host": "a b"}), "host", "no host name"),
        (json!({"database": null}), "database", "required"),
        (json!({"user": null}), "user", "required"),
        (json!({"port": 0}), "port", "greater than or equal to 1"),
        (json!({"table": null}), "table", "`query`"),
        (json!({"query": "select 1"}), "query", "not both"),
        (json!({"table": null, "query": "select 1", "schema": "s"}), "schema", "goes with `table`"),
        (json!({"table": null, "query": " ; "}), "query", "blank"),
        (json!({"table": "a\0b"}), "table", "NUL"),
        (json!({"tls": {"mode": "prefer"}}), "tls.mode", "`verify-full`"),
        (json!({"tls": {"mode": "disable", "ca_file": "a.pem"}}), "tls.ca_file", "`verify-full` only"),
        (json!({"tls": {"cas": "x"}}), "tls.cas", "Unknown option"),
        (json!({"tls": {"ca": "x", "ca_file": "x"}}), "tls.ca", "not both"),
        (json!({"tls": {"mode": "require", "ca": "x"}}), "tls.ca", "`verify-full` only"),
        (json!({"tls": {"cert": "x"}}), "tls.cert", "goes with its key"),
        (json!({"tls": {"cert": "x", "key_file": "x"}}), "tls.cert", "`cert_file` and `key_file`"),
        (json!({"tls": {"mode": "disable", "cert_file": "x", "key_file": "x"}}), "tls.cert_file", "Without TLS"),
        (json!({"options": {"statement_timeout": "1s"}}), "options.statement_timeout", "Unknown option"),
        (json!({"options": {"work_mem": []}}), "options.work_mem", "valid string"),
        (json!({"statement_timeout_secs": 0}), "statement_timeout_secs", "greater than"),
        (json!({"url": "postgres://h/d"}), "host", "`url` says it already"),
        (json!({"host": null, "url": "postgres://u:s3cret@h/d"}), "url", "`password`"),
        (json!({"host": null, "url": "postgres://h/d?sslmode=disable"}), "url", "`tls`"),
        (json!({"host": null, "url": "http://h/d"}), "url", "postgres://host"),
        (json!({"path": "a.db"}), "path", "Unknown option"),
        (json!({"host": null, "url": "mysql://h/d"}), "engine", "another one than that of `url`"),
        (json!({"engine": "mysql", "options": {"sql_mode": ""}}), "options.sql_mode", "Unknown option"),
        (json!({"engine": "mariadb", "options": {"work_mem": 1}}), "options.work_mem", "Unknown option"),
        (json!({"incremental": {}}), "incremental.cursor", "required"),
        (json!({"incremental": {"cursor": "a", "tie_break": []}}), "incremental.tie_break", "1 to 16"),
        (json!({"incremental": {"cursor": "a", "nulls": "drop"}}), "incremental.nulls", "`skip`"),
        (json!({"incremental": {"cursor": "a"}, "dedupe": "rows"}), "dedupe", "`key` (best)"),
        (
            json!({"incremental": {"cursor": "a", "overlap": 9}, "dedupe": "none"}),
            "incremental.overlap",
            "stored again",
        ),
        (
            json!({"incremental": {"cursor": "a", "nulls": "read"}, "dedupe": "none"}),
            "incremental.nulls",
            "stored again",
        ),
        (json!({"incremental": {"cursor": "a", "lag": 5}}), "incremental.lag", "Unknown option"),
        (json!({"engine": "sqlite", "path": "../a.db", "host": null, "database": null, "user": null}), "path", "`..`"),
        (
            json!({"engine": "sqlite", "path": "a.db", "host": null, "database": null, "user": null, "table": null,
            "query": "select 1) ; attach 'x' as y; select (1"}),
            "query",
            "without `;`",
        ),
        (json!({"tabel": "t"}), "tabel", "Did you mean `table`?"),
    ] {
        let errors = faults(&with(config.clone()));
        assert!(errors.iter().any(|(at, text)| at == place && text.contains(part)), "{config}: {errors:?}");
        assert!(errors.iter().all(|(_, text)| !text.contains("s3cret")), "{errors:?}");
    }
    // What a scheme says is not asked for once more because of something else.
    for url in ["postgres://u@h/d?sslmode=prefer", "mysql://u@h/d?charset=utf8", "postgres://u:s3cret@h/d"] {
        let errors = faults(&json!({"url": url, "table": "t"}));
        assert_eq!(errors.iter().map(|(at, _)| at.as_str()).collect::<Vec<_>>(), ["url"], "{url}: {errors:?}");
    }
    let url = json!({"url": "postgresql://some%20one@[::1]:5433/d%2Fb", "table": "t", "password": "s3cret"});
    assert!(matches!(connector(&url), _));
}
