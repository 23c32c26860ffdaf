//! What makes two records the same, by dedupe mode; `rows` against a model, with crashes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod page_support;

use std::collections::HashMap;

use matome_model::source::Dedupe;
use matome_testbed::{TestDb, databases};
use page_support::{Random, Reading};

const A: &str = r#"{"a":1}"#;
const A_AGAIN: &str = r#" { "a" : 1.0e0 } "#;
const B: &str = r#"{"b":1}"#;
const C: &str = r#"{"c":1}"#;

#[tokio::test]
async fn none_stores_every_record() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::None).await;
        reading.commit_records(&[A, A]).await.unwrap();
        reading.commit_records(&[A]).await.unwrap();
        reading.assert_stored(&[A, A, A]).await;
    }
}

#[tokio::test]
async fn hash_stores_the_same_content_once() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        let first = reading.commit_records(&[A, B, A_AGAIN]).await.unwrap().counts;
        assert_eq!((first.stored, first.duplicate), (2, 1), "{}", bed.name);
        let second = reading.commit_records(&[B, C, A]).await.unwrap().counts;
        assert_eq!((second.stored, second.duplicate), (1, 2));
        let mut next = reading.restarted().await;
        assert_eq!(next.commit_records(&[C, B, A]).await.unwrap().counts.stored, 0);
        next.assert_stored(&[A, B, C]).await;
    }
}

#[tokio::test]
async fn sources_do_not_share_identities() {
    for bed in databases().await {
        for _ in 0..2 {
            let mut reading = Reading::start(&bed, Dedupe::Hash).await;
            assert_eq!(reading.commit_records(&[A]).await.unwrap().counts.stored, 1, "{}", bed.name);
        }
    }
}

#[tokio::test]
async fn rows_keeps_equal_rows_of_one_read_and_adds_nothing_when_read_again() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Rows).await;
        reading.commit_records(&[A, A, B]).await.unwrap();
        reading.commit_records(&[A_AGAIN, C]).await.unwrap();
        reading.commit_records(&[A, B]).await.unwrap();
        let all = [A, A, A, A, B, B, C];
        reading.assert_stored(&all).await;
        // Another order, other pages.
        let mut again = reading.restarted().await;
        for page in [&[C, A][..], &[B, A, A], &[A], &[B]] {
            assert_eq!(again.commit_records(page).await.unwrap().counts.stored, 0, "{}", bed.name);
        }
        // One more of each: only those are new.
        let mut more = again.restarted().await;
        for (page, stored) in [(&[A, A, A, A, A][..], 1), (&[B, B], 0), (&[B, C, C], 2)] {
            assert_eq!(more.commit_records(page).await.unwrap().counts.stored, stored, "{}", bed.name);
        }
        more.assert_stored(&[A, A, A, A, A, B, B, B, C, C]).await;
    }
}

#[tokio::test]
async fn a_read_that_only_adds_stores_every_row_and_a_whole_one_counts_them_later() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Rows).await;
        reading.commit_records(&[A, A, B]).await.unwrap();
        // Cut off behind its first page and gone on with.
        for page in [&[A, B, A][..], &[C, A, C]] {
            reading = reading.restarted().await.adding();
            assert_eq!(reading.commit_records(page).await.unwrap().counts.stored, 3, "{}", bed.name);
        }
        let mut whole = reading.restarted().await;
        for (page, stored) in [(&[A, A, B, A, B][..], 0), (&[A, C, A, C, A], 1)] {
            assert_eq!(whole.commit_records(page).await.unwrap().counts.stored, stored, "{}", bed.name);
        }
        whole.assert_stored(&[A, A, A, A, A, A, B, B, C, C]).await;
    }
}

#[tokio::test]
async fn what_is_not_counted_in_memory_is_counted_in_the_database() {
    for bed in databases().await {
        for most in [0, 1, 2] {
            let mut reading = Reading::start(&bed, Dedupe::Rows).await.counting(Some(most));
            let mut copies = [0; 3];
            for round in [1, 1, 2, 5, 3, 20, 1] {
                let page: Vec<&str> = [(A, round), (B, 1), (C, round % 3)]
                    .into_iter()
                    .flat_map(|(content, times)| std::iter::repeat_n(content, times))
                    .collect();
                let counts = reading.commit_records(&page).await.unwrap().counts;
                assert_eq!(counts.stored, page.len() as u64, "{}, {most} counted, round {round}", bed.name);
                for (content, stored) in [A, B, C].iter().zip(&mut copies) {
                    *stored += page.iter().filter(|record| record == &content).count();
                }
            }
            let all: Vec<&str> = [A, B, C]
                .into_iter()
                .zip(copies)
                .flat_map(|(content, times)| std::iter::repeat_n(content, times))
                .collect();
            reading.assert_stored(&all).await;
            let mut again = reading.restarted().await;
            for page in all.chunks(4).rev() {
                assert_eq!(again.commit_records(page).await.unwrap().counts.stored, 0, "{}", bed.name);
            }
            assert_eq!(again.commit_records(&[B, A]).await.unwrap().counts.stored, 2, "{}", bed.name);
        }
    }
}

#[tokio::test]
async fn rows_of_a_deleted_row_are_stored_again() {
    for bed in databases().await {
        let mut reading = Reading::start(&bed, Dedupe::Rows).await;
        reading.commit_records(&[A, A, A]).await.unwrap();
        bed.db
            .write(|conn| {
                Box::pin(async move {
                    let sql = "delete from acquired_data where id = (select min(id) from acquired_data)";
                    conn.execute(sql, &[]).await
                })
            })
            .await
            .unwrap();
        let mut again = reading.restarted().await;
        assert_eq!(again.commit_records(&[A, A, A]).await.unwrap().counts.stored, 1, "{}", bed.name);
    }
}

/// After any sequence of reads, each content is stored as often as the read that had most of it.
#[tokio::test]
async fn rows_is_the_union_of_multisets_whatever_crashes() {
    for bed in databases().await {
        for seed in 1..=6 {
            // With counts for all contents, for some and for none.
            let counted = [None, Some(3), Some(0)][usize::try_from(seed).unwrap() % 3];
            println!("{} seed {seed}, counts {counted:?}", bed.name);
            union_of_multisets(&bed, Random(seed), counted).await;
        }
    }
}

async fn union_of_multisets(bed: &TestDb, mut random: Random, counted: Option<usize>) {
    let mut reading = Reading::start(bed, Dedupe::Rows).await.counting(counted);
    let mut model: HashMap<usize, usize> = HashMap::new();
    let contents: Vec<String> = (0..12).map(|n| format!(r#"{{"row":{n}}}"#)).collect();
    let mut file: Vec<usize> = Vec::new();
    for _ in 0..6 {
        // The file changes: rows inserted anywhere, some removed, sometimes shuffled.
        for _ in 0..random.below(20) {
            let place = random.below(file.len() + 1);
            file.insert(place, random.below(contents.len()));
        }
        for _ in 0..random.below(5).min(file.len()) {
            file.remove(random.below(file.len()));
        }
        if random.below(3) == 0 {
            for place in (1..file.len()).rev() {
                file.swap(place, random.below(place + 1));
            }
        }
        // Attempts that crash after some pages, then one that reads to the end.
        let crashes = random.below(3);
        for attempt in 0..=crashes {
            reading = reading.restarted().await;
            let mut rest = &file[..];
            while !rest.is_empty() {
                if attempt < crashes && random.below(3) == 0 {
                    break;
                }
                let (page, behind) = rest.split_at((1 + random.below(7)).min(rest.len()));
                rest = behind;
                let page: Vec<&str> = page.iter().map(|&n| contents[n].as_str()).collect();
                reading.commit_records(&page).await.unwrap();
            }
        }
        let mut read: HashMap<usize, usize> = HashMap::new();
        file.iter().for_each(|&n| *read.entry(n).or_default() += 1);
        for (n, copies) in read {
            let stored = model.entry(n).or_default();
            *stored = copies.max(*stored);
        }
        let expected: Vec<&str> =
            model.iter().flat_map(|(&n, &copies)| std::iter::repeat_n(contents[n].as_str(), copies)).collect();
        reading.assert_stored(&expected).await;
    }
}
