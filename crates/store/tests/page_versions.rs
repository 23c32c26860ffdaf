//! `dedupe: key`: each change of a key's content is its next version. Numbers are those of the project's corpus.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod page_support;

use matome_model::record_key::RecordKey;
use matome_model::source::Dedupe;
use matome_store::acquired_data::PageCounts;
use matome_testbed::databases;
use page_support::{Random, Reading};

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
async fn a_page_delivered_again_adds_no_version() {
    for bed in databases().await {
        for page in [&[A, OTHER][..], &[A, B], &[A, B, A], &[B, A_AGAIN, A, OTHER, C, B]] {
            let mut reading = Reading::start(&bed, Dedupe::Key).await;
            let first = reading.commit_records(page).await.unwrap().counts;
            let stored = reading.rows().await.len();
            for ends in [false, true, true] {
                // After a crash that nobody heard the page of, then in later reads.
                reading = reading.restarted().await;
                if !ends {
                    let again = reading.commit_records(page).await.unwrap().counts;
                    assert_eq!((again.stored, again.updated), (0, 0), "{} {page:?}", bed.name);
                    continue;
                }
                assert_eq!(counted(reading.end(page).await), (0, 0, page.len() as u64), "{} {page:?}", bed.name);
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
            assert_eq!(counted(reading.end(&[record]).await), counts, "{}", bed.name);
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
        // "a, c, b" is how the versions of earlier reads end; only what follows is new.
        reading.end(&[]).await;
        let counts = reading.restarted().await.end(&[A, C, B, C]).await;
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
            reading.end(&[]).await;
        }
        for (id, states) in [("5", vec!["0", "1", "2", "3", "4"]), ("6", vec!["0", "2", "4"]), ("9", vec!["0"])] {
            let states: Vec<(i64, String)> = (1..).zip(states.into_iter().map(str::to_owned)).collect();
            assert_eq!(versions(&reading, id).await, states, "{} key {id}", bed.name);
        }
        let counted = reading.count("acquired_data").await;
        assert_eq!(counted, 60 * (5 + 3 + 2 + 2 + 1), "{}", bed.name);
    }
}

/// A log of changes: the same sequence of a key, on pages far apart.
#[tokio::test]
async fn contents_of_a_key_on_several_pages_are_known_when_they_are_read_again() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Key).await;
        for page in [&[A, OTHER][..], &[B], &[A, OTHER], &[C]] {
            reading.commit_records(page).await.unwrap();
        }
        reading.end(&[B]).await;
        assert_eq!(versions(&reading, "1").await, numbered("abacb"), "{}", bed.name);
        // Cut in other places; what it repeats waits until it is known to be the same.
        for pages in [&[&[A, B, OTHER, A][..], &[C], &[B]][..], &[&[A], &[B], &[A, C, B]], &[&[A, B, A, C, B, OTHER]]] {
            let mut again = reading.restarted().await;
            let mut duplicate = 0;
            for page in pages {
                let counts = again.commit_records(page).await.unwrap().counts;
                assert_eq!(counts.stored, 0, "{} {pages:?}", bed.name);
                duplicate += counts.duplicate;
            }
            duplicate += again.end(&[]).await.duplicate;
            assert_eq!(duplicate, pages.iter().map(|page| page.len() as u64).sum::<u64>(), "{} {pages:?}", bed.name);
            reading = again;
        }
        // It grew: only the end is new, and the rest of this read is compared with that.
        let mut grown = reading.restarted().await;
        for page in [&[A, B][..], &[A, C], &[B, A], &[B]] {
            grown.commit_records(page).await.unwrap();
        }
        let counts = grown.end(&[A]).await;
        assert_eq!((counts.stored, counts.updated), (3, 3), "{}", bed.name);
        assert_eq!(versions(&grown, "1").await, numbered("abacbaba"), "{}", bed.name);
        // A content that nobody knows ends the comparison at once.
        let mut other = grown.restarted().await;
        assert_eq!(counted(other.commit_records(&[B]).await.unwrap().counts), (0, 0, 0), "{}", bed.name);
        let unknown = r#"{"id":1,"state":"x"}"#;
        assert_eq!(counted(other.commit_records(&[unknown, A]).await.unwrap().counts), (3, 3, 0), "{}", bed.name);
        assert_eq!(versions(&other, "1").await, numbered("abacbababxa"), "{}", bed.name);
        assert_eq!(counted(other.end(&[A, B]).await), (1, 1, 1), "{}", bed.name);
    }
}

/// A read that goes on behind its last page knows what that page and those before it had.
#[tokio::test]
async fn a_read_that_goes_on_behind_a_page_remembers_what_it_gave() {
    for bed in databases().await {
        for is_exact in [true, false] {
            let mut reading = Reading::start(&bed, Dedupe::Key).await;
            reading.commit_records(&[B]).await.unwrap();
            reading.end(&[A]).await;
            let mut read = reading.restarted().await;
            for records in [&[A][..], &[B]] {
                let mut page = read.page(records);
                page.checkpoint.state = r#"{"next":"3"}"#.to_owned();
                page.checkpoint.is_exact = is_exact;
                read.commit(page).await.unwrap();
            }
            // It died. What was delivered exactly does not come again: a, b, a. The other read gives all of it again.
            let mut resumed = read.restarted().await;
            let pages: &[&[&str]] = if is_exact { &[&[A]] } else { &[&[A], &[B], &[A]] };
            for (n, records) in pages.iter().enumerate() {
                let mut page = resumed.page(records);
                page.checkpoint.state = r#"{"next":"4"}"#.to_owned();
                page.checkpoint.is_exact = is_exact;
                if n + 1 == pages.len() {
                    resumed.end(records).await;
                } else {
                    resumed.commit(page).await.unwrap();
                }
            }
            assert_eq!(versions(&resumed, "1").await, numbered("baba"), "{}, exact: {is_exact}", bed.name);
        }
    }
}

/// The rule itself: as much of the beginning of what a read gives of a key as the versions before the read end with is
/// known, the rest is new; whatever the pages, and whatever crashes.
#[tokio::test]
async fn versions_follow_from_what_reads_give_and_not_from_pages_or_crashes() {
    for bed in databases().await {
        for seed in 1..=8 {
            println!("{} seed {seed}", bed.name);
            reads_of_logs(&bed, Random(seed)).await;
        }
    }
}

async fn reads_of_logs(bed: &matome_testbed::TestDb, mut random: Random) {
    const KEYS: usize = 3;
    let record = |(id, state): &(usize, char)| format!(r#"{{"id":{id},"state":"{state}"}}"#);
    let mut reading = Reading::start(bed, Dedupe::Key).await;
    let mut model = vec![String::new(); KEYS];
    let mut log: Vec<(usize, char)> = Vec::new();
    for _ in 0..7 {
        // The log grows, or is another one.
        if random.below(4) == 0 {
            log.drain(..random.below(log.len() + 1));
        }
        for _ in 0..random.below(8) {
            log.push((random.below(KEYS), ['a', 'b', 'c'][random.below(3)]));
        }
        let goes_on = random.below(2) == 0;
        let crashes = random.below(3);
        reading = reading.restarted().await;
        let mut place = 0;
        for attempt in 0..=crashes {
            if attempt > 0 {
                reading = reading.restarted().await;
                place = if goes_on { place } else { 0 };
            }
            while place < log.len() {
                if attempt < crashes && random.below(3) == 0 {
                    break;
                }
                let records: Vec<String> = log[place..].iter().take(1 + random.below(4)).map(record).collect();
                place += records.len();
                let mut page = reading.page(&records.iter().map(String::as_str).collect::<Vec<_>>());
                if goes_on {
                    page.checkpoint.state = format!(r#"{{"at":{place}}}"#);
                    page.checkpoint.is_exact = true;
                }
                reading.commit(page).await.unwrap();
            }
        }
        reading.end(&[]).await;
        for (id, stored) in model.iter_mut().enumerate() {
            let mut sequence: Vec<char> = log.iter().filter(|(of, _)| *of == id).map(|(_, state)| *state).collect();
            sequence.dedup();
            let known = (0..=sequence.len())
                .rev()
                .find(|&length| stored.ends_with(&sequence[..length].iter().collect::<String>()))
                .unwrap();
            stored.extend(&sequence[known..]);
            assert_eq!(versions(&reading, &id.to_string()).await, numbered(stored), "{} key {id}: {log:?}", bed.name);
        }
    }
}
