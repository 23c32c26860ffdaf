//! Calls of Celery producers become one task each, and are answered once, on both databases.

#![allow(clippy::unwrap_used, reason = "a failing unwrap in a test names its line")]

mod page_support;

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::source::Dedupe;
use matome_model::task::{Priority, Queue};
use matome_store::celery_calls::{self, BadMessage, Call, Ended, How, Received};
use matome_store::db::Db;
use matome_testbed::databases;
use page_support::{Reading, at};

fn call(key: &str, object_id: i64) -> Call {
    Call {
        call_key: key.to_owned(),
        queue: Queue::Acquisition,
        object_id,
        priority: Some(Priority::Low),
        due_at: None,
        expires: None,
        ignores_result: false,
    }
}

async fn receive(db: &Db, call: Call, now: Timestamp) -> Received {
    db.write(move |conn| Box::pin(async move { celery_calls::receive(conn, &call, now).await })).await.unwrap()
}

async fn due(db: &Db, now: Timestamp) -> Option<Received> {
    db.write(move |conn| Box::pin(async move { celery_calls::enqueue_due(conn, Queue::Acquisition, now).await }))
        .await
        .unwrap()
}

async fn open(db: &Db) -> Vec<Ended> {
    let mut reader = db.read().await.unwrap();
    celery_calls::to_answer(&mut reader.conn(), Queue::Acquisition, 10).await.unwrap()
}

async fn count(db: &Db, sql: &'static str) -> i64 {
    db.read().await.unwrap().conn().fetch_one(sql, &[]).await.unwrap().int("n").unwrap()
}

async fn pending(db: &Db) -> i64 {
    count(db, "select count(*) as n from tasks where status = 'pending'").await
}

async fn end_tasks(db: &Db, sql: &'static str) {
    db.write(move |conn| Box::pin(async move { conn.execute(sql, &[]).await })).await.unwrap();
}

#[tokio::test]
async fn a_message_seen_twice_is_one_call_and_one_task() {
    for test in databases().await {
        let reading = Reading::start(&test, Dedupe::Hash).await;
        let id = reading.source_id;
        assert!(matches!(receive(&test.db, call("a", id), at()).await, Received::Enqueued(_)));
        assert_eq!(receive(&test.db, call("a", id), at()).await, Received::Known);
        assert_eq!(pending(&test.db).await, 1);
        // Another call for the same source while one waits: the task that waits does both.
        assert!(matches!(receive(&test.db, call("b", id), at()).await, Received::Enqueued(_)));
        assert_eq!(pending(&test.db).await, 1);
        assert!(open(&test.db).await.is_empty(), "nothing has ended");
        end_tasks(&test.db, "update tasks set status = 'cancelled', finished_at = created_at where status = 'pending'")
            .await;
        let answers = open(&test.db).await;
        assert_eq!(answers.iter().map(|ended| ended.call_key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(answers.iter().all(|ended| matches!(ended.how, How::Cancelled)));
        let ids: Vec<i64> = answers.iter().map(|ended| ended.id).collect();
        let answered = move |db: Db| async move {
            db.write(move |conn| Box::pin(async move { celery_calls::mark_answered(conn, &ids, at()).await })).await
        };
        answered(test.db.clone()).await.unwrap();
        assert!(open(&test.db).await.is_empty());
    }
}

#[tokio::test]
async fn a_call_for_later_becomes_a_task_when_it_is_due_and_one_that_came_too_late_never() {
    for test in databases().await {
        let reading = Reading::start(&test, Dedupe::Hash).await;
        let id = reading.source_id;
        let later = at() + TimeDelta::minutes(5);
        let call_later = Call { due_at: Some(later), ..call("later", id) };
        assert_eq!(receive(&test.db, call_later, at()).await, Received::Waits);
        assert_eq!(due(&test.db, at()).await, None);
        assert_eq!(pending(&test.db).await, 0);
        assert!(matches!(due(&test.db, later).await, Some(Received::Enqueued(_))));
        assert_eq!(due(&test.db, later).await, None);
        assert_eq!(pending(&test.db).await, 1);
        let late = Call { expires: Some(at() - TimeDelta::seconds(1)), ..call("late", id) };
        assert_eq!(receive(&test.db, late, at()).await, Received::Expired);
        assert_eq!(pending(&test.db).await, 1);
        let answers = open(&test.db).await;
        assert!(matches!(&answers[..], [Ended { how: How::Expired, .. }]), "{answers:?}");
    }
}

#[tokio::test]
async fn what_cannot_become_a_task_is_kept_with_its_reason() {
    for test in databases().await {
        assert_eq!(receive(&test.db, call("nobody", 4711), at()).await, Received::Refused);
        let bad = |caller: Option<&str>| BadMessage {
            caller: caller.map(str::to_owned),
            queue: Queue::Acquisition,
            reason: "its content type is `application/x-python-serialize`".to_owned(),
            message: vec![0, 159, 146, 150],
        };
        let cases = [
            (Some("pickled"), Received::Refused),
            (None, Received::Refused),
            (Some("pickled"), Received::Known),
            (None, Received::Known),
        ];
        for (caller, expected) in cases {
            let bad = bad(caller);
            let kept =
                test.db.write(move |conn| Box::pin(async move { celery_calls::keep_bad(conn, &bad, at()).await }));
            assert_eq!(kept.await.unwrap(), expected, "{caller:?}");
        }
        let answers = open(&test.db).await;
        let told: Vec<(&str, &How)> = answers.iter().map(|ended| (ended.call_key.as_str(), &ended.how)).collect();
        let [("nobody", How::Refused(nobody)), ("pickled", How::Refused(_))] = told[..] else { panic!("{told:?}") };
        assert_eq!(nobody, "there is no data source with the id 4711");
        assert_eq!(count(&test.db, "select count(*) as n from celery_calls where length(message) = 4").await, 2);
        let later = at() + celery_calls::KEEP + TimeDelta::seconds(1);
        let forget = test.db.write(move |conn| Box::pin(async move { celery_calls::forget(conn, later, 10).await }));
        assert_eq!(forget.await.unwrap(), 1, "only what needs no answer");
    }
}
