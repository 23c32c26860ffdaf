//! `dedupe: key`: each change of a key's content is its next version. Numbers are those of the project's corpus.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod page_support;

use matome_model::record_key::RecordKey;
use matome_model::source::Dedupe;
use matome_store::acquired_data::PageCounts;
use matome_testbed::databases;
use page_support::Reading;

const A: &str = r#"{"id":1,"state":"a"}"#;
const A_AGAIN: &str = r#" { "state":"\u0061", "id": 1.0 } "#;
const B: &str = r#"{"id":1,"state":"b"}"#;
const C: &str = r#"{"id":1,"state":"c"}"#;
const OTHER: &str = r#"{"id":2,"state":"a"}"#;

/// (version, state) of the records with this id, in the order in which they were stored.
async fn versions(reading: &Reading, id: &str) -> Vec<(i64, String)> {
    let mut reader = reading.db.read().await.unwrap();
    let sql = "select version, raw_data from acquired_data where source_id = $1 order by id";
    let rows = reader.conn().fetch_all(sql, &[reading.source_id.into()]).await.unwrap();
    let rows = rows.iter().map(|row| (row.int("version").unwrap(), row.json("raw_data").unwrap()));
    rows.filter_map(|(version, raw)| {
        let record: serde_json::Value = serde_json::from_str(raw.get()).unwrap();
        (record["id"].as_i64() == id.parse().ok())
            .then(|| (version, record["state"].as_str().unwrap_or_default().to_owned()))
    })
    .collect()
}

fn numbered(states: &str) -> Vec<(i64, String)> {
    (1..).zip(states.chars().map(|state| state.to_string())).collect()
}

fn counted(counts: PageCounts) -> (u64, u64, u64) {
    (counts.stored, counts.updated, counts.duplicate)
}

/// 129, 133: also when keys repeat within the page.
#[tokio::test]
async fn a_page_delivered_twice_adds_no_version() {
    for bed in databases().await {
        for page in [&[A, OTHER][..], &[A, B], &[A, B, A], &[B, A_AGAIN, A, OTHER, C, B]] {
            let mut reading = Reading::start(&bed, Dedupe::Key).await;
            let first = reading.commit_records(page).await.unwrap().counts;
            let stored = reading.rows().await.len();
            for _ in 0..2 {
                let again = reading.commit_records(page).await.unwrap().counts;
                assert_eq!(counted(again), (0, 0, page.len() as u64), "{} {page:?}", bed.name);
                reading = reading.restarted().await;
            }
            assert_eq!(reading.rows().await.len(), stored, "{} {page:?}", bed.name);
            assert_eq!(first.stored + first.duplicate, page.len() as u64);
        }
    }
}

/// 130
#[tokio::test]
async fn content_that_comes_back_is_a_third_version() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Key).await;
        for (record, counts) in
            [(A, (1, 0, 0)), (A_AGAIN, (0, 0, 1)), (B, (1, 1, 0)), (B, (0, 0, 1)), (A, (1, 1, 0)), (A_AGAIN, (0, 0, 1))]
        {
            reading = reading.restarted().await;
            assert_eq!(counted(reading.commit_records(&[record]).await.unwrap().counts), counts, "{}", bed.name);
        }
        assert_eq!(versions(&reading, "1").await, numbered("aba"), "{}", bed.name);
        reading.assert_stored(&[A, B, A]).await;
    }
}

/// 131
#[tokio::test]
async fn the_same_content_under_two_keys_is_two_records() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Key).await;
        reading.commit_records(&[A, OTHER]).await.unwrap();
        assert_eq!(versions(&reading, "1").await, numbered("a"), "{}", bed.name);
        assert_eq!(versions(&reading, "2").await, numbered("a"), "{}", bed.name);
    }
}

/// 133
#[tokio::test]
async fn changes_within_a_page_are_versions_in_its_order() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Key).await;
        let counts = reading.commit_records(&[A, OTHER, A_AGAIN, B, A, C]).await.unwrap().counts;
        assert_eq!(counted(counts), (5, 3, 1), "{}", bed.name);
        assert_eq!(versions(&reading, "1").await, numbered("abac"), "{}", bed.name);
        // The next page goes on where this one ended: what it begins with is the newest version already.
        let counts = reading.commit_records(&[C, B, B, OTHER]).await.unwrap().counts;
        assert_eq!(counted(counts), (1, 1, 3), "{}", bed.name);
        assert_eq!(versions(&reading, "1").await, numbered("abacb"), "{}", bed.name);
        // "a, c, b" is how the stored versions end; only what follows is new.
        let counts = reading.commit_records(&[A, C, B, C]).await.unwrap().counts;
        assert_eq!(counted(counts), (1, 1, 3), "{}", bed.name);
        assert_eq!(versions(&reading, "1").await, numbered("abacbc"), "{}", bed.name);
    }
}

/// 134: `1`, `1.0` and `1e0` are one key; `"1"`, `"1.0"` and `true` are others.
#[tokio::test]
async fn keys_are_equal_by_value_and_type() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Key).await;
        let page = ["1", "1.0", "1e0", "\"1\"", "\"1.0\"", "true", "\"true\"", "10"]
            .map(|id| format!(r#"{{"id":{id},"state":"a"}}"#));
        let page: Vec<&str> = page.iter().map(String::as_str).collect();
        let counts = reading.commit_records(&page).await.unwrap().counts;
        assert_eq!(counted(counts), (6, 0, 2), "{}", bed.name);
    }
}

/// 132 belongs to the acquisition; here, that a page without identities is refused and leaves nothing.
#[tokio::test]
async fn a_record_without_identity_is_never_stored_under_a_key() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Key).await;
        reading.record_key = None;
        reading.commit_records(&[A]).await.unwrap_err();
        reading.assert_stored(&[]).await;
        reading.record_key = Some(RecordKey::new(vec!["id".parse().unwrap()]));
        reading.commit_records(&[A]).await.unwrap();
        reading.assert_stored(&[A]).await;
    }
}

/// Whatever the sizes of the pages, the newest version is what was read last.
#[tokio::test]
async fn versions_grow_over_pages_and_keys_stay_apart() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Key).await;
        let record = |id: usize, state: usize| format!(r#"{{"id":{id},"state":"{state}"}}"#);
        for round in 0..5 {
            reading = reading.restarted().await;
            // Key n changes in the rounds that n divides.
            let page: Vec<String> = (1..=300).map(|id| record(id, round - round % (id % 5 + 1))).collect();
            for page in page.chunks(70) {
                let page: Vec<&str> = page.iter().map(String::as_str).collect();
                reading.commit_records(&page).await.unwrap();
            }
        }
        for (id, states) in [("5", vec!["0", "1", "2", "3", "4"]), ("6", vec!["0", "2", "4"]), ("9", vec!["0"])] {
            let states: Vec<(i64, String)> = (1..).zip(states.into_iter().map(str::to_owned)).collect();
            assert_eq!(versions(&reading, id).await, states, "{} key {id}", bed.name);
        }
        let counted = reading.count("acquired_data").await;
        assert_eq!(counted, 60 * (5 + 3 + 2 + 2 + 1), "{}", bed.name);
    }
}
