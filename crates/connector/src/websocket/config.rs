//! The options of a `websocket` source.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use matome_egress::header::{HeaderName, HeaderValue};
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::schedule::{Misfire, Overlap};
use matome_model::source::Dedupe;
use secrecy::SecretString;
use serde_json::value::RawValue;
use url::{Origin, Url};

use crate::api::{
    Auth, JsonTemplate, Known, Placeholder, Template, Unfit, Values, belongs_into_auth, header_templates,
    is_set_by_matome, not_a_header_name, set_by_matome, value_path,
};
use crate::config::{CommonConfig, FieldError, Fields, parse_common};
use crate::json::JsonPath;
use crate::tls::TlsOptions;

/// A message may have so many bytes unless its source says otherwise.
const MESSAGE_BYTES: u64 = 1 << 20;
/// And never more: it is held whole.
const MOST_MESSAGE_BYTES: u64 = 16 << 20;
/// Messages that are sent after connecting.
const SUBSCRIBE_LIMIT: usize = 100;
/// Secrets of one source, and characters of the name of one.
const SECRETS_LIMIT: usize = 20;
const SECRET_NAME_CHARS: usize = 64;
/// What the messages that are sent without a cursor may have in them.
const PLAIN: Known = Known { cursor: false, start: false, end: false, page: false, parent: false, secret: true };

/// A `websocket` source.
#[derive(Clone, Debug)]
pub struct WebsocketConfig {
    /// `url`, with the scheme of the request: `http` for `ws`, `https` for `wss`.
    pub url: Url,
    /// Whether server-sent events are read (`url` is `http` or `https`) instead of a WebSocket.
    pub is_events: bool,
    /// `headers`: sent to the host of `url` only.
    pub(super) headers: Vec<(HeaderName, Template)>,
    /// `auth`: credentials, for the origin of `url`.
    pub auth: Option<Auth>,
    /// `tls`: certificates beside those of the machine.
    pub tls: TlsOptions,
    /// `secrets`: what stands for `{secret.NAME}` in messages that are sent.
    pub(super) secrets: BTreeMap<String, SecretString>,
    /// `subscribe`: what is sent after connecting.
    pub(super) subscribe: Vec<Outgoing>,
    /// `format`: what a message is.
    pub format: MessageFormat,
    /// `records`: where in a message the records are; default `$`.
    pub records: JsonPath,
    /// `events`: the types of events that are read; empty: all of them.
    pub events: Vec<String>,
    /// `heartbeat`: how a dead connection is told from a quiet one.
    pub heartbeat: Heartbeat,
    /// `reconnect`: what happens when a connection is lost.
    pub reconnect: Reconnect,
    /// `resume`: how the source is asked for what was missed.
    pub resume: Option<Resume>,
    /// `batch`: when a page is full.
    pub batch: BatchLimits,
    /// `max_message_bytes`: a longer message goes to quarantine; 1 to 16 MiB, default 1 MiB.
    pub max_message_bytes: usize,
    /// `duration_secs`: a read ends after this time; it goes on for ever without.
    pub duration: Option<Duration>,
    /// Options of every source.
    pub common: CommonConfig,
}

/// `format`: what a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFormat {
    /// A JSON document.
    Json,
    /// Lines, a JSON object each.
    Ndjson,
    /// Text: the record `{"text": ...}`.
    Text,
}

/// `heartbeat`.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// `ping_secs`: a ping, or `message`, is sent so often; 0 is never, default 20. Events have none.
    pub ping: Option<Duration>,
    /// `silence_secs`: a connection on which nothing came for so long is given up; default 60.
    pub silence: Duration,
    /// `message`: sent instead of a ping, for sources that want one of their own.
    pub(super) message: Option<Outgoing>,
}

/// `reconnect`.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// `min_ms`: the wait before the first try; it doubles with each, and the upper half of it is random.
    pub first: Duration,
    /// `max_ms`: the longest wait.
    pub longest: Duration,
    /// `attempts`: tries without a message in between, after which the task fails and is tried again by the queue.
    pub attempts: u32,
}

/// `batch`: a page ends with whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// `records`: default 1000.
    pub records: usize,
    /// `bytes`: default 1 MiB.
    pub bytes: usize,
    /// `wait_ms`: since its first record; default 1000.
    pub wait: Duration,
}

/// `resume`: how the source is asked for what came behind the last message.
#[derive(Clone, Debug)]
pub struct Resume {
    /// `cursor`: where in a message its place in the stream is: members only.
    pub cursor: JsonPath,
    /// `start`: the cursor of the first connection; without it that one asks for nothing.
    pub start: Option<String>,
    /// `inclusive`: the source begins with the message that has the cursor; it is passed over.
    pub is_inclusive: bool,
    /// `param`: the parameter of the address that carries the cursor.
    pub param: Option<String>,
    /// `header`: the header that does.
    pub header: Option<HeaderName>,
    /// `subscribe`: what is sent instead of the `subscribe` of the source; `{cursor}` stands in it.
    pub(super) subscribe: Vec<Outgoing>,
}

/// A message to the source.
#[derive(Clone, Debug)]
pub(super) enum Outgoing {
    Json(JsonTemplate),
    Text(Template),
}

impl Outgoing {
    fn parse(raw: &RawValue, known: Known) -> Result<Self, Words> {
        match JsonTemplate::parse(raw, known)? {
            JsonTemplate::Text(text) => Ok(Self::Text(text)),
            json @ (JsonTemplate::Array(_) | JsonTemplate::Object(_)) => Ok(Self::Json(json)),
            JsonTemplate::Plain(_) => Err(Words::new(
                "A message is an object, an array or a string.",
                "メッセージはオブジェクト、配列、文字列のいずれかで指定してください。",
            )),
        }
    }

    /// The text of the message.
    pub(super) fn fill(&self, values: &Values<'_>) -> Result<String, Unfit> {
        match self {
            Self::Text(text) => text.fill(values),
            Self::Json(json) => {
                let mut text = String::new();
                json.fill(values, &mut text)?;
                Ok(text)
            }
        }
    }

    fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        let mut templates = Vec::new();
        match self {
            Self::Text(text) => templates.push(text),
            Self::Json(json) => json.templates(&mut templates),
        }
        templates.into_iter().flat_map(Template::placeholders)
    }
}

impl WebsocketConfig {
    /// Who may see what the source shows of itself.
    pub(crate) fn origins(&self) -> Vec<Origin> {
        std::iter::once(self.url.origin()).chain(self.auth.as_ref().and_then(Auth::origin)).collect()
    }

    /// What is listened to, in text: a checkpoint of another scope says nothing about it. Has no secrets.
    pub(super) fn scope(&self) -> String {
        let by_name = Values { by_name: true, ..Values::default() };
        let mut scope = format!("{} {}", self.url, self.records);
        for message in &self.subscribe {
            scope.push(' ');
            scope.push_str(&message.fill(&by_name).unwrap_or_else(|unfit| unfit.0.english));
        }
        if let Some(resume) = &self.resume {
            scope.push_str(&format!(" resume {}", resume.cursor));
        }
        scope
    }
}

/// Checks the options of a `websocket` source.
pub(crate) fn parse(mut fields: Fields) -> Result<WebsocketConfig, Vec<FieldError>> {
    let mut common = parse_common(&mut fields, Dedupe::None);
    check_schedule(&mut fields, &mut common);
    common.deletes.refuse(&mut fields);
    if common.dedupe == Dedupe::Rows {
        fields.fail(
            "dedupe",
            Words::new(
                "A stream has no end by which equal rows could be counted: choose `none`, `hash` or `key`.",
                "ストリームには終わりがなく、等しい行を数えられません。`none`、`hash`、`key` から選んでください。",
            ),
        );
    }
    if common.deadline.take().is_some() {
        fields.fail(
            "deadline_secs",
            Words::new(
                "A stream goes on until it is stopped. To have it end by itself, set `duration_secs`.",
                "ストリームは止められるまで続きます。自分で終わらせるには `duration_secs` を指定してください。",
            ),
        );
    }
    let url = url(&mut fields);
    let is_events = url.as_ref().is_some_and(|(_, is_events)| *is_events);
    let headers = header_templates(&mut fields, Known::default());
    let auth = Auth::parse(&mut fields);
    let tls = TlsOptions::parse(&mut fields);
    if is_events && fields.has("subscribe") {
        fields.raw("subscribe");
        fields.fail("subscribe", only_for_sockets());
    }
    let subscribe = outgoing_list(&mut fields, "subscribe", PLAIN);
    let secrets = secrets(&mut fields);
    let formats = [("json", MessageFormat::Json), ("ndjson", MessageFormat::Ndjson), ("text", MessageFormat::Text)];
    let format = fields.choice("format", &formats).unwrap_or(MessageFormat::Json);
    let has_records = fields.has("records");
    let records = fields.parsed("records").unwrap_or_else(JsonPath::root);
    if has_records && format != MessageFormat::Json {
        fields.fail(
            "records",
            Words::new("A path goes with `format` \"json\" only.", "パスは `format` が \"json\" のときだけ使えます。"),
        );
    }
    let events = event_types(&mut fields, is_events, url.is_some());
    let heartbeat = heartbeat(&mut fields, is_events);
    let reconnect = reconnect(&mut fields);
    let resume = resume(&mut fields, is_events);
    let of_resume = resume.iter().flat_map(|resume| &resume.subscribe);
    let messages = subscribe.iter().chain(&heartbeat.message).chain(of_resume);
    let named = messages.flat_map(Outgoing::placeholders).filter_map(|placeholder| match placeholder {
        Placeholder::Secret(name) => Some(name),
        _ => None,
    });
    for name in named.collect::<BTreeSet<_>>() {
        if !secrets.contains_key(name) {
            fields.fail(
                "secrets",
                say!(
                    "A message has `{{secret.{name}}}` in it: give a value for `{name}` here.",
                    "メッセージに `{{secret.{name}}}` があります。`{name}` の値をここに指定してください。"
                ),
            );
        }
    }
    if resume.is_some() && format == MessageFormat::Text {
        fields.fail("resume", Words::new("Text has no cursor.", "テキストにはカーソルがありません。"));
    }
    let batch = batch(&mut fields);
    let max_message_bytes = fields.integer("max_message_bytes", 1, MOST_MESSAGE_BYTES).unwrap_or(MESSAGE_BYTES);
    let duration = fields.integer("duration_secs", 1, 366 * 86_400).map(Duration::from_secs);
    fields.finish()?;
    let Some((url, is_events)) = url else { return Err(Vec::new()) };
    Ok(WebsocketConfig {
        url,
        is_events,
        headers,
        auth,
        tls,
        secrets,
        subscribe,
        format,
        records,
        events,
        heartbeat,
        reconnect,
        resume,
        batch,
        max_message_bytes: usize::try_from(max_message_bytes).unwrap_or(usize::MAX),
        duration,
        common,
    })
}

/// A stream that runs stands for all times at which it was to start.
fn check_schedule(fields: &mut Fields, common: &mut CommonConfig) {
    let schedule = &mut common.schedule;
    if schedule.overlap == Some(Overlap::QueueOne) || schedule.misfire == Some(Misfire::CatchUp) {
        let path = if schedule.overlap == Some(Overlap::QueueOne) { "overlap" } else { "misfire" };
        fields.fail_inside(
            "schedule",
            path,
            Words::new(
                "A stream that runs is not started a second time: leave this out.",
                "動いているストリームが重ねて始まることはありません。省いてください。",
            ),
        );
    }
    schedule.overlap = Some(Overlap::Skip);
}

fn only_for_sockets() -> Words {
    Words::new(
        "Only a WebSocket (`ws://` or `wss://`) takes messages.",
        "メッセージを送れるのは WebSocket (`ws://` か `wss://`) だけです。",
    )
}

/// The address of the request, and whether it answers with events.
fn url(fields: &mut Fields) -> Option<(Url, bool)> {
    let text = fields.required_string("url")?;
    let words = match Url::parse(text.trim()) {
        Ok(url) if !matches!(url.scheme(), "ws" | "wss" | "http" | "https") => Words::new(
            "Give a WebSocket (`ws://`, `wss://`) or the address of server-sent events (`http://`, `https://`).",
            "WebSocket (`ws://`、`wss://`) か、server-sent events のアドレス (`http://`、`https://`) を指定してください。",
        ),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => belongs_into_auth(),
        Ok(mut url) => {
            let (is_events, scheme) = match url.scheme() {
                "ws" => (false, "http"),
                "wss" => (false, "https"),
                "http" => (true, "http"),
                _ => (true, "https"),
            };
            url.set_fragment(None);
            // One special scheme for another always works.
            if url.set_scheme(scheme).is_ok() {
                return Some((url, is_events));
            }
            Words::new("Enter a valid URL.", "URLを正しく入力してください。")
        }
        Err(_) => Words::new("Enter a valid URL.", "URLを正しく入力してください。"),
    };
    fields.fail("url", words);
    None
}

fn secrets(fields: &mut Fields) -> BTreeMap<String, SecretString> {
    let given = fields.texts("secrets");
    if given.len() > SECRETS_LIMIT {
        fields.fail("secrets", say!("At most {SECRETS_LIMIT} are possible.", "{SECRETS_LIMIT}個までです。"));
    }
    let mut secrets = BTreeMap::new();
    for (name, value) in given {
        let is_name = (1..=SECRET_NAME_CHARS).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name {
            secrets.insert(name, SecretString::from(value));
        } else {
            fields.fail(
                "secrets",
                say!(
                    "A name has letters, digits and `_` only, {SECRET_NAME_CHARS} at most.",
                    "名前に使えるのは英数字と `_` で、{SECRET_NAME_CHARS}文字までです。"
                ),
            );
        }
    }
    secrets
}

fn outgoing_list(fields: &mut Fields, name: &str, known: Known) -> Vec<Outgoing> {
    let Some(raw) = fields.raw(name) else { return Vec::new() };
    let items: Vec<Box<RawValue>> = match serde_json::from_str(raw.get()) {
        Ok(items) => items,
        Err(_) => {
            let words = Words::new("Expected a list of messages.", "メッセージの配列を指定してください。");
            fields.fail(name, words);
            return Vec::new();
        }
    };
    if items.len() > SUBSCRIBE_LIMIT {
        fields.fail(name, Words::new("At most 100 are possible.", "100個までです。"));
        return Vec::new();
    }
    let mut list = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        match Outgoing::parse(item, known) {
            Ok(message) => list.push(message),
            Err(words) => fields.fail_inside(name, &at.to_string(), words),
        }
    }
    list
}

fn event_types(fields: &mut Fields, is_events: bool, has_url: bool) -> Vec<String> {
    let Some(raw) = fields.raw("events") else { return Vec::new() };
    match serde_json::from_str::<Vec<String>>(raw.get()) {
        Ok(types) if !types.is_empty() && types.iter().all(|name| !name.is_empty()) => {
            if !is_events && has_url {
                fields.fail(
                    "events",
                    Words::new(
                        "Only server-sent events (`http://`, `https://`) have types.",
                        "種類があるのは server-sent events (`http://`、`https://`) だけです。",
                    ),
                );
            }
            types
        }
        _ => {
            fields.fail(
                "events",
                Words::new(
                    "Give a list of types of events, for example [\"message\"].",
                    "イベントの種類の配列を指定してください。例: [\"message\"]。",
                ),
            );
            Vec::new()
        }
    }
}

fn heartbeat(fields: &mut Fields, is_events: bool) -> Heartbeat {
    let mut own = fields.nested("heartbeat");
    let (mut ping, mut silence, mut message) = (None, None, None);
    if let Some(own) = &mut own {
        for name in ["ping_secs", "message"] {
            if is_events && own.has(name) {
                own.raw(name);
                own.fail(name, only_for_sockets());
            }
        }
        ping = own.integer("ping_secs", 0, 3600);
        silence = own.integer("silence_secs", 1, 86_400);
        message = own.raw("message").and_then(|raw| match Outgoing::parse(&raw, PLAIN) {
            Ok(message) => Some(message),
            Err(words) => {
                own.fail("message", words);
                None
            }
        });
    }
    if let Some(own) = own {
        fields.absorb(own);
    }
    let ping = Some(ping.unwrap_or(20)).filter(|secs| *secs > 0 && !is_events).map(Duration::from_secs);
    Heartbeat { ping, silence: Duration::from_secs(silence.unwrap_or(60)), message }
}

fn reconnect(fields: &mut Fields) -> Reconnect {
    let mut own = fields.nested("reconnect");
    let (mut first, mut longest, mut attempts) = (None, None, None);
    if let Some(own) = &mut own {
        first = own.integer("min_ms", 1, 3_600_000);
        longest = own.integer("max_ms", 1, 3_600_000);
        attempts = own.integer("attempts", 1, 1000);
    }
    if let Some(own) = own {
        fields.absorb(own);
    }
    let first = Duration::from_millis(first.unwrap_or(500));
    Reconnect {
        first,
        longest: Duration::from_millis(longest.unwrap_or(30_000)).max(first),
        attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(10),
    }
}

fn batch(fields: &mut Fields) -> BatchLimits {
    let mut own = fields.nested("batch");
    let (mut records, mut bytes, mut wait) = (None, None, None);
    if let Some(own) = &mut own {
        records = own.integer("records", 1, 100_000);
        bytes = own.integer("bytes", 1, 16 << 20);
        wait = own.integer("wait_ms", 1, 60_000);
    }
    if let Some(own) = own {
        fields.absorb(own);
    }
    let size = |given: Option<u64>, default| given.and_then(|size| usize::try_from(size).ok()).unwrap_or(default);
    BatchLimits {
        records: size(records, 1000),
        bytes: size(bytes, 1 << 20),
        wait: Duration::from_millis(wait.unwrap_or(1000)),
    }
}

fn resume(fields: &mut Fields, is_events: bool) -> Option<Resume> {
    let mut own = fields.nested("resume")?;
    let cursor = value_path(&mut own, "cursor", true, "$.seq");
    let start = own.scalar("start");
    let is_inclusive = own.value("inclusive").is_some_and(|value| match value {
        serde_json::Value::Bool(is_inclusive) => is_inclusive,
        _ => {
            own.fail("inclusive", Words::new("Must be a valid boolean.", "有効な真偽値を指定してください。"));
            false
        }
    });
    let param = own.string("param");
    let header = own.string("header").and_then(|name| match name.parse::<HeaderName>() {
        Ok(name) if !is_set_by_matome(&name) => Some(name),
        Ok(_) => {
            own.fail("header", set_by_matome());
            None
        }
        Err(_) => {
            own.fail("header", not_a_header_name());
            None
        }
    });
    if is_events && own.has("subscribe") {
        own.raw("subscribe");
        own.fail("subscribe", only_for_sockets());
    }
    let has_subscribe = own.has("subscribe");
    let known = Known { cursor: true, ..PLAIN };
    let subscribe = outgoing_list(&mut own, "subscribe", known);
    if has_subscribe
        && !subscribe.is_empty()
        && !subscribe.iter().flat_map(Outgoing::placeholders).any(|name| *name == Placeholder::Cursor)
    {
        own.fail(
            "subscribe",
            Words::new(
                "Put `{cursor}` into one of the messages.",
                "メッセージのどれかに `{cursor}` を入れてください。",
            ),
        );
    }
    let places = usize::from(param.is_some()) + usize::from(header.is_some()) + usize::from(!subscribe.is_empty());
    if places == 0 && !has_subscribe && cursor.is_some() {
        own.fail_here(Words::new(
            "Say where the cursor goes: `param`, `header` or `subscribe`.",
            "カーソルを送る場所を `param`、`header`、`subscribe` のどれかで指定してください。",
        ));
    }
    if let Some(start) = &start
        && HeaderValue::from_str(start).is_err()
    {
        own.fail("start", Words::new("It has control characters.", "制御文字が含まれています。"));
    }
    fields.absorb(own);
    Some(Resume { cursor: cursor?, start, is_inclusive, param, header, subscribe })
}
