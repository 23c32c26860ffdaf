//! The fetching side of a read: batches of a connector become pages that are ready to be stored.

use matome_connector::{Batch, Connector, ConnectorError, ReadRequest, ReadStats};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::prepare::{Prepared, Preparer, Refused, Told};

/// Pages with fewer bytes are prepared where they are; the others leave the async threads alone.
const PREPARE_INLINE_BYTES: usize = 64 << 10;

/// Of a batch that is gathered with others.
const BATCH_RECORDS: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;

/// What the fetching side hands to the committing side.
pub(crate) enum Fetched {
    Page(Prepared),
    /// The last page, after which the source has no more.
    Last(Prepared),
    Failed(ConnectorError),
    /// A page of which nothing may be stored.
    Refused(Box<Refused>),
    /// A stream has ended; all its pages came before.
    Ended,
}

/// Where pages go, and how batches become pages.
pub(crate) struct Pages {
    sender: mpsc::Sender<Fetched>,
    /// Records and bytes of a page.
    most: (usize, usize),
    /// Whether a page is made of several batches.
    gathers: bool,
}

impl Pages {
    /// Each batch is a page, or several that are read while the page before is stored. Pages that may be refused are not gathered:
    /// what is one page is told to people then.
    pub(crate) fn new(sender: mpsc::Sender<Fetched>, most: (usize, usize), gathers: bool, preparer: &Preparer) -> Self {
        Self { sender, most, gathers: gathers && !preparer.refuses_pages() }
    }

    /// Records and bytes of a batch that is to be asked for. Several batches wait and are read while one page is stored: as parts
    /// of pages they take less memory.
    pub(crate) fn batch(&self) -> (usize, usize) {
        let (records, bytes) = self.most;
        if self.gathers { (records.min(BATCH_RECORDS), bytes.min(BATCH_BYTES)) } else { self.most }
    }

    /// Whether a page takes in what comes behind it: while the committing side is busy, as far as one page goes.
    fn takes_in(&self, page: &Gathered, next: &Gathered) -> bool {
        self.gathers && self.sender.capacity() == 0 && page.has_room(next, self.most)
    }
}

/// Batches that are stored as one page.
struct Gathered {
    batch: Batch,
    /// Of all its items.
    bytes: usize,
    /// Batches with items.
    pages: u64,
}

/// What comes behind a page.
enum Then {
    Another,
    /// It is the last one.
    Nothing,
    End(Box<Fetched>),
}

impl Gathered {
    fn new(batch: Batch) -> Self {
        let bytes = batch.items.iter().map(|item| item.raw().len()).sum();
        let pages = u64::from(!batch.items.is_empty());
        Self { batch, bytes, pages }
    }

    /// Nothing, after which a read goes on where it began.
    fn nothing(checkpoint: Box<RawValue>) -> Self {
        let stats = ReadStats::default();
        Self::new(Batch {
            items: Vec::new(),
            checkpoint,
            is_exact: false,
            begins_anew: false,
            is_addition: false,
            stats,
        })
    }

    /// Whether this and what came next are no more than one page.
    fn has_room(&self, next: &Self, (max_items, max_bytes): (usize, usize)) -> bool {
        self.batch.is_addition == next.batch.is_addition
            // What came before it comes again, and must not stand behind that.
            && !next.batch.begins_anew
            && self.batch.items.len() + next.batch.items.len() <= max_items
            && self.bytes + next.bytes <= max_bytes
    }

    /// Takes in what came next.
    fn take_in(&mut self, next: Self) {
        let Batch { items, checkpoint, is_exact, begins_anew, is_addition: _, stats } = next.batch;
        self.batch.items.extend(items);
        self.bytes += next.bytes;
        self.pages += next.pages;
        (self.batch.checkpoint, self.batch.is_exact) = (checkpoint, is_exact);
        self.batch.begins_anew |= begins_anew;
        self.batch.stats += stats;
    }

    /// `None`: the thread that prepared it is gone.
    async fn prepare(self, mut preparer: Preparer) -> Option<(Result<Prepared, Box<Refused>>, Preparer)> {
        let Self { batch, bytes, pages } = self;
        let prepare = move || {
            let prepared = preparer.prepare(batch);
            let prepared = prepared.map(|page| Prepared { told: Told { pages, ..page.told }, ..page });
            (prepared, preparer)
        };
        match bytes {
            0..PREPARE_INLINE_BYTES => Some(prepare()),
            _ => tokio::task::spawn_blocking(prepare).await.ok(),
        }
    }
}

/// Reads and prepares pages until the source has no more. One page is held back until it is known whether it is the last, so that
/// the end of a read needs no transaction of its own. While the committing side is busy, it takes in the batches that come next,
/// as far as one transaction may hold them: a source with short pages needs fewer, and none waits for another.
pub(crate) async fn fetch(
    connector: Box<dyn Connector>,
    request: ReadRequest,
    mut preparer: Preparer,
    pages: Pages,
    may_go_on: impl Fn() -> bool,
) {
    let checkpoint =
        request.checkpoint.clone().unwrap_or_else(|| RawValue::from_string("{}".to_owned()).expect("it is JSON"));
    let is_stream = connector.is_stream();
    let mut reader = match connector.read(request).await {
        Ok(reader) => reader,
        Err(err) => {
            let _ = pages.sender.send(Fetched::Failed(err)).await;
            return;
        }
    };
    let mut held: Option<Gathered> = None;
    loop {
        // After a suspend this may be the first thing that runs: nothing more is asked of the source then.
        if !may_go_on() {
            return;
        }
        let (page, then) = match reader.next().await.map(|batch| batch.map(Gathered::new)) {
            // The next one may be long in coming.
            Ok(Some(batch)) if is_stream => (Some(batch), Then::Another),
            Ok(Some(batch)) => {
                match &mut held {
                    // Without items only the checkpoint moved.
                    Some(page) if batch.batch.items.is_empty() || pages.takes_in(page, &batch) => {
                        page.take_in(batch);
                        continue;
                    }
                    held => (held.replace(batch), Then::Another),
                }
            }
            Ok(None) if is_stream => (None, Then::End(Box::new(Fetched::Ended))),
            Ok(None) => (Some(held.take().unwrap_or_else(|| Gathered::nothing(checkpoint.clone()))), Then::Nothing),
            Err(err) => (held.take(), Then::End(Box::new(Fetched::Failed(err)))),
        };
        let mut ready = None;
        if let Some(page) = page {
            let Some((prepared, back)) = page.prepare(preparer).await else { return };
            preparer = back;
            ready = Some(match (prepared, &then) {
                (Ok(prepared), Then::Nothing) => Fetched::Last(prepared),
                (Ok(prepared), _) => Fetched::Page(prepared),
                (Err(refused), _) => {
                    let _ = pages.sender.send(Fetched::Refused(refused)).await;
                    return;
                }
            });
        }
        // A closed channel means that nobody wants the rest.
        if let Some(ready) = ready
            && pages.sender.send(ready).await.is_err()
        {
            return;
        }
        match then {
            Then::Another => {}
            Then::Nothing => return,
            Then::End(end) => {
                let _ = pages.sender.send(*end).await;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use matome_connector::{Item, Position, Reader};
    use matome_model::canonical::Limits;
    use matome_model::validation::{Judge, Policy, Rule, Rules, Validation};
    use std::sync::Arc;

    use super::*;

    /// Gives batches of as many records each, and then fails or ends.
    #[derive(Clone)]
    struct Batches {
        sizes: Vec<usize>,
        fails: bool,
    }

    struct BatchReader {
        of: Batches,
        next: usize,
    }

    impl Connector for Batches {
        fn read(&self, _: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>> {
            let reader: Box<dyn Reader> = Box::new(BatchReader { of: self.clone(), next: 0 });
            Box::pin(std::future::ready(Ok(reader)))
        }
    }

    impl Reader for BatchReader {
        fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>> {
            let at = self.next;
            self.next += 1;
            let batch = self.of.sizes.get(at).map(|size| {
                let position = Position { document: "d".into(), request: None, line: None, record: 1, headers: None };
                let items = (0..*size)
                    .map(|n| Item::Record { raw: format!(r#"{{"n":{n}}}"#).into_bytes(), position: position.clone() });
                Batch {
                    items: items.collect(),
                    checkpoint: RawValue::from_string(format!("{{\"at\":{at}}}")).unwrap(),
                    is_exact: true,
                    begins_anew: false,
                    is_addition: false,
                    stats: ReadStats { requests: 1, ..ReadStats::default() },
                }
            });
            let ends = if self.of.fails { Err(ConnectorError::Broken) } else { Ok(None) };
            Box::pin(std::future::ready(batch.map_or(ends, |batch| Ok(Some(batch)))))
        }
    }

    /// The pages of a read, each with its records, what it says of pages and requests, and its checkpoint. Nobody takes one before the
    /// fetching side can go no further: as if the first commit took that long.
    async fn pages(sizes: &[usize], fails: bool, judge: Option<Judge>) -> Vec<String> {
        let request = ReadRequest::default();
        let preparer = Preparer::new(1, Limits::default(), None, judge);
        let (sender, mut fetched) = mpsc::channel(1);
        let connector = Box::new(Batches { sizes: sizes.to_vec(), fails });
        let to = Pages::new(sender, (10, 1000), true, &preparer);
        let taking = async move {
            let mut pages = Vec::new();
            while let Some(next) = fetched.recv().await {
                let (name, page) = match next {
                    Fetched::Page(page) => ("page", page),
                    Fetched::Last(page) => ("last", page),
                    Fetched::Failed(_) => return [pages, vec!["failed".to_owned()]].concat(),
                    Fetched::Refused(_) | Fetched::Ended => return [pages, vec!["refused".to_owned()]].concat(),
                };
                let Told { stats, pages: given, .. } = page.told;
                let (records, checkpoint) = (page.records.len(), page.checkpoint);
                pages.push(format!("{name} of {records}, {given} given, {} asked {checkpoint}", stats.requests));
            }
            pages
        };
        tokio::join!(biased; fetch(connector, request, preparer, to, || true), taking).1
    }

    #[tokio::test]
    async fn short_pages_are_stored_as_one_while_the_one_before_commits() {
        assert_eq!(
            pages(&[3, 3, 3, 0, 4, 4], false, None).await,
            [
                r#"page of 3, 1 given, 1 asked {"at":0}"#,
                r#"page of 10, 3 given, 4 asked {"at":4}"#,
                r#"last of 4, 1 given, 1 asked {"at":5}"#,
            ]
        );
    }

    #[tokio::test]
    async fn what_came_before_a_failure_is_stored_with_the_place_where_it_ended() {
        assert_eq!(
            pages(&[1, 2, 2], true, None).await,
            [r#"page of 1, 1 given, 1 asked {"at":0}"#, r#"page of 4, 2 given, 2 asked {"at":2}"#, "failed"]
        );
        assert_eq!(pages(&[], true, None).await, ["failed"]);
        assert_eq!(pages(&[], false, None).await, ["last of 0, 0 given, 0 asked {}"]);
    }

    #[tokio::test]
    async fn pages_that_may_be_refused_stay_as_the_source_gave_them() {
        let rules = Rules(vec![Rule::new("n").required(true)]);
        let validation = Arc::new(Validation::new(None, rules, Policy::RejectBatch).unwrap());
        let kept = pages(&[1, 1, 1], false, Some(Judge::new(validation, true))).await;
        assert_eq!(kept.len(), 3, "{kept:?}");
    }
}
