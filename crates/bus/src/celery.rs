//! What a Celery producer puts on a queue, and the result that it waits for.
//!
//! The form is task message protocol 2 of Celery, in the envelope of kombu's Redis transport: a JSON object whose `body` is
//! base64 of `[args, kwargs, {callbacks, errbacks, chain, chord}]`. Results are what Celery's Redis backend keeps.

pub mod mailbox;

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// A message, and a body after it was inflated, may have so many bytes; one that names a source has a few hundred.
pub const MESSAGE_LIMIT: usize = 1 << 20;

/// The separator that kombu puts between the name of a queue and a priority.
const PRIORITY: &str = "\u{6}\u{16}";

/// The steps of priority that kombu's Redis transport has a list for, the first without a suffix.
const STEPS: [u8; 3] = [3, 6, 9];

/// The lists that a producer may put messages for `queue` on, the most urgent first: kombu's 0 is its highest.
pub fn lists(queue: &str) -> Vec<String> {
    let steps = STEPS.iter().map(|step| format!("{queue}{PRIORITY}{step}"));
    std::iter::once(queue.to_owned()).chain(steps).collect()
}

/// What one message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Celery's id of the task, by which the producer finds the result. Usually a uuid; any text of up to 255 bytes.
    pub id: String,
    /// The name of the Python task.
    pub task: String,
    /// `data_sources.id` or `aggregation_sources.id`.
    pub object_id: i64,
    /// Not before.
    pub eta: Option<DateTime<Utc>>,
    /// Not after.
    pub expires: Option<DateTime<Utc>>,
    /// Nobody will ask for the result.
    pub ignores_result: bool,
}

/// A message that cannot become a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Celery's id, where the message got so far; its producer is told.
    pub id: Option<String>,
    /// What is wrong, and what to do.
    pub reason: String,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    body: std::borrow::Cow<'a, str>,
    #[serde(default, rename = "content-type")]
    content_type: Option<String>,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    properties: Properties,
}

#[derive(Default, Deserialize)]
struct Headers {
    task: Option<String>,
    id: Option<String>,
    eta: Option<String>,
    expires: Option<String>,
    compression: Option<String>,
    #[serde(default)]
    ignore_result: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Properties {
    body_encoding: Option<String>,
}

/// What is called when the task has ended; a plain `send_task` has none of it.
#[derive(Deserialize)]
struct Embedded {
    callbacks: Option<Value>,
    errbacks: Option<Value>,
    chain: Option<Value>,
    chord: Option<Value>,
}

impl Order {
    /// Reads a message as it lies on the queue.
    ///
    /// # Errors
    /// When it is no message of protocol 2 in JSON, asks for more than matome does (chains, callbacks, chords), or its
    /// arguments are not one id.
    pub fn read(message: &[u8]) -> Result<Self, Refused> {
        let nameless = |reason: String| Refused { id: None, reason };
        if message.len() > MESSAGE_LIMIT {
            return Err(nameless(format!("it has {} bytes, more than {MESSAGE_LIMIT}", message.len())));
        }
        let envelope: Envelope<'_> = serde_json::from_slice(message)
            .map_err(|err| nameless(format!("it is no message of Celery's Redis transport: {err}")))?;
        let headers = &envelope.headers;
        let id = headers.id.clone().filter(|id| (1..=255).contains(&id.len()));
        let refused = |reason: String| Refused { id: id.clone(), reason };
        let (Some(task), Some(named)) = (headers.task.clone(), id.clone()) else {
            let advice = "use `task_protocol = 2`, the default since Celery 4";
            return Err(refused(format!("its headers have no `task` or no `id`: {advice}")));
        };
        let body = envelope.body().map_err(refused)?;
        let (args, kwargs, embedded): (Vec<Value>, serde_json::Map<String, Value>, Embedded) =
            serde_json::from_slice(&body)
                .map_err(|err| refused(format!("its body is not `[args, kwargs, embed]`: {err}")))?;
        embedded.is_plain().map_err(refused)?;
        Ok(Self {
            id: named,
            task,
            object_id: only_id(&args, &kwargs).map_err(refused)?,
            eta: instant("eta", headers.eta.as_deref()).map_err(refused)?,
            expires: instant("expires", headers.expires.as_deref()).map_err(refused)?,
            ignores_result: headers.ignore_result.unwrap_or(false),
        })
    }
}

impl Envelope<'_> {
    fn body(&self) -> Result<Vec<u8>, String> {
        match self.content_type.as_deref() {
            Some("application/json") => {}
            other => {
                let found = other.unwrap_or("nothing");
                return Err(format!("its content type is `{found}`: set `task_serializer = 'json'`, the default"));
            }
        }
        let body = match self.properties.body_encoding.as_deref() {
            Some("base64") => STANDARD.decode(&*self.body).map_err(|err| format!("its body is no base64: {err}"))?,
            None | Some("utf-8") => self.body.as_bytes().to_vec(),
            Some(other) => return Err(format!("its body is encoded as `{other}`: base64 is known")),
        };
        match self.headers.compression.as_deref() {
            None => Ok(body),
            // kombu writes zlib's format under both names.
            Some("application/x-gzip" | "gzip" | "zlib") => {
                let mut plain = Vec::new();
                let limit = MESSAGE_LIMIT as u64 + 1;
                flate2::read::ZlibDecoder::new(&*body)
                    .take(limit)
                    .read_to_end(&mut plain)
                    .map_err(|err| format!("its body cannot be inflated: {err}"))?;
                match plain.len() > MESSAGE_LIMIT {
                    true => Err(format!("its body has more than {MESSAGE_LIMIT} bytes when inflated")),
                    false => Ok(plain),
                }
            }
            Some(other) => Err(format!("its body is compressed with `{other}`: zlib is known")),
        }
    }
}

impl Embedded {
    fn is_plain(&self) -> Result<(), String> {
        let parts = [
            ("callbacks", &self.callbacks),
            ("errbacks", &self.errbacks),
            ("chain", &self.chain),
            ("chord", &self.chord),
        ];
        let is_empty = |part: &Value| part.is_null() || part.as_array().is_some_and(Vec::is_empty);
        match parts.into_iter().find(|(_, part)| part.as_ref().is_some_and(|part| !is_empty(part))) {
            Some((name, _)) => {
                let advice = "send the task by itself; an aggregation runs after its sources by its option `after`";
                Err(format!("it has {name}, which only a Celery worker can call: {advice}"))
            }
            None => Ok(()),
        }
    }
}

/// The one argument of the two tasks of the original design.
fn only_id(args: &[Value], kwargs: &serde_json::Map<String, Value>) -> Result<i64, String> {
    let given = match (args, kwargs.len()) {
        ([id], 0) => Some(id),
        ([], 1) => kwargs.get("source_id"),
        _ => None,
    };
    let id = given.and_then(|id| id.as_i64().or_else(|| id.as_str()?.parse().ok()));
    id.filter(|id| *id > 0)
        .ok_or_else(|| "its arguments are not one id of a source: `args=[7]` or `kwargs={'source_id': 7}`".to_owned())
}

/// A time in ISO 8601; one without an offset is UTC, as with Celery's `enable_utc`.
fn instant(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, String> {
    let Some(text) = text else { return Ok(None) };
    let with_offset = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    let time = with_offset.or_else(|_| text.parse::<NaiveDateTime>().map(|time| time.and_utc()));
    time.map(Some).map_err(|_| format!("its `{name}` is no time: `{text}`"))
}

/// How the task of an order ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Well, with its counts.
    Succeeded(&'a RawValue),
    /// With an error; `AsyncResult.get()` raises a `RuntimeError` that says so.
    Failed(&'a str),
    /// Stopped by a person, or past its `expires`; `get()` raises `TaskRevokedError`.
    Revoked(&'a str),
}

/// The key that `AsyncResult` reads, and the channel that its `get()` listens to.
pub fn result_key(id: &str) -> String {
    format!("celery-task-meta-{id}")
}

/// What stands under [`result_key`].
pub fn result(id: &str, outcome: Outcome<'_>, done: DateTime<Utc>) -> String {
    let error = |class: &str, module: &str, message: &str| json!({ "exc_type": class, "exc_message": [message], "exc_module": module });
    let (status, result) = match outcome {
        Outcome::Succeeded(counts) => ("SUCCESS", json!(counts)),
        Outcome::Failed(message) => ("FAILURE", error("RuntimeError", "builtins", message)),
        Outcome::Revoked(message) => ("REVOKED", error("TaskRevokedError", "celery.exceptions", message)),
    };
    let date_done = done.to_rfc3339_opts(SecondsFormat::Micros, false);
    let (traceback, children) = (Value::Null, [(); 0]);
    json!({
        "status": status, "result": result, "traceback": traceback, "children": children, "date_done": date_done,
        "task_id": id,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as Celery 5.7 with kombu 5.7 puts it on the list, with parts exchanged.
    fn message(body: &str, changes: &[(&str, Value)]) -> Vec<u8> {
        let mut message = json!({
            "body": STANDARD.encode(body),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py", "task": "apps.data_acquisition.tasks.fetch_data",
                "id": "abfe6197-5b39-47bd-91e5-85ded1d406b5", "shadow": null, "eta": null, "expires": null,
                "group": null, "group_index": null, "retries": 0, "timelimit": [null, null],
                "root_id": "abfe6197-5b39-47bd-91e5-85ded1d406b5", "parent_id": null, "argsrepr": "[7]",
                "kwargsrepr": "{}", "origin": "gen25240@host", "ignore_result": null, "replaced_task_nesting": 0,
                "stamped_headers": null, "stamps": {},
            },
            "properties": {
                "correlation_id": "abfe6197-5b39-47bd-91e5-85ded1d406b5",
                "reply_to": "08be4b19-1ac4-3aee-8032-8e32aee5dd0d", "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "acquisition_queue"}, "priority": 0,
                "body_encoding": "base64", "delivery_tag": "4912fd1b-29ee-41b7-816b-a7b9c68b570f",
            },
        });
        for (pointer, value) in changes {
            *message.pointer_mut(pointer).expect("the test names a member that is there") = value.clone();
        }
        message.to_string().into_bytes()
    }

    const PLAIN: &str = r#"[[7], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

    #[test]
    fn a_plain_call_becomes_an_order_whether_its_id_has_a_name_or_not() {
        let order = Order::read(&message(PLAIN, &[])).unwrap();
        assert_eq!((order.object_id, order.task.as_str()), (7, "apps.data_acquisition.tasks.fetch_data"));
        assert_eq!((order.eta, order.expires, order.ignores_result), (None, None, false));
        let named = PLAIN.replace("[7], {}", r#"[], {"source_id": 7}"#);
        assert_eq!(Order::read(&message(&named, &[])).unwrap(), order);
    }

    #[test]
    fn times_are_read_with_and_without_an_offset() {
        let times = [
            ("/headers/eta", json!("2026-11-25T10:41:42.545850+09:00")),
            ("/headers/expires", json!("2026-11-25T01:42:52.5")),
        ];
        let order = Order::read(&message(PLAIN, &times)).unwrap();
        assert_eq!(order.eta.unwrap().to_rfc3339(), "2026-11-25T01:41:42.545850+00:00");
        assert_eq!(order.expires.unwrap().to_rfc3339(), "2026-11-25T01:42:52.500+00:00");
    }

    #[test]
    fn a_compressed_body_is_inflated_up_to_the_limit() {
        use std::io::Write as _;
        let compressed = |text: &[u8]| {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text).unwrap();
            let body = STANDARD.encode(encoder.finish().unwrap());
            let mut message: Value = serde_json::from_slice(&message(PLAIN, &[])).unwrap();
            message["body"] = json!(body);
            message["headers"]["compression"] = json!("application/x-gzip");
            message.to_string().into_bytes()
        };
        assert_eq!(Order::read(&compressed(PLAIN.as_bytes())).unwrap().object_id, 7);
        let bomb = Order::read(&compressed(&vec![b' '; MESSAGE_LIMIT + 1])).unwrap_err();
        assert!(bomb.reason.contains("when inflated"), "{}", bomb.reason);
    }

    #[test]
    fn what_cannot_become_a_task_is_refused_with_a_reason_and_its_id() {
        let with = |pointer: &'static str, value: Value| message(PLAIN, &[(pointer, value)]);
        let chain = PLAIN.replace("\"chain\": null", r#""chain": [{"task": "x"}]"#);
        let cases = [
            (with("/content-type", json!("application/x-python-serialize")), "task_serializer", true),
            (message(&chain, &[]), "it has chain", true),
            (message(&PLAIN.replace("[7]", "[7, 8]"), &[]), "not one id", true),
            (message(&PLAIN.replace("[7]", "[\"日本\"]"), &[]), "not one id", true),
            (message(&PLAIN.replace("[7]", "[-7]"), &[]), "not one id", true),
            (message("{}", &[]), "[args, kwargs, embed]", true),
            (with("/headers/eta", json!("soon")), "`eta` is no time", true),
            (with("/headers/id", Value::Null), "no `id`", false),
            (with("/body", json!("%%%")), "no base64", true),
            (with("/properties/body_encoding", json!("rot13")), "rot13", true),
            (b"hello".to_vec(), "no message", false),
            (vec![b' '; MESSAGE_LIMIT + 1], "more than", false),
        ];
        for (message, reason, has_id) in cases {
            let refused = Order::read(&message).unwrap_err();
            assert!(refused.reason.contains(reason), "{reason}: {}", refused.reason);
            assert_eq!(refused.id.is_some(), has_id, "{reason}");
        }
    }

    #[test]
    fn every_priority_of_a_queue_has_a_list() {
        assert_eq!(lists("q"), ["q", "q\u{6}\u{16}3", "q\u{6}\u{16}6", "q\u{6}\u{16}9"]);
    }
}
