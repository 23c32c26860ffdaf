//! The options of an `api` source.

use matome_egress::header::{self, HeaderName};
use matome_model::field_error::Words;
use matome_model::source::{Dedupe, HostUse};
use url::{Origin, Url};

use super::answers::Rule;
use super::auth::Auth;
use super::incremental::{CursorKind, Incremental};
use super::list::List;
use super::parents::Parent;
use super::rate::RateConfig;
use super::template::{Known, Placeholder};
use crate::config::{CommonConfig, FieldError, Fields, parse_common};
use crate::tls::TlsOptions;

/// An `api` source.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// What is read: one list, or one for each parent record.
    pub list: List,
    /// `parent`: the list whose records name the lists to read.
    pub parent: Option<Parent>,
    /// `incremental`: reading only what is new.
    pub incremental: Option<Incremental>,
    /// `auth`: credentials, for the origin of `url`.
    pub auth: Option<Auth>,
    /// `tls`: certificates beside those of the machine.
    pub tls: TlsOptions,
    /// `errors`: what to make of some answers; the first that holds decides.
    pub errors: Vec<Rule>,
    /// `rate`: how often may be asked.
    pub rate: RateConfig,
    /// Options of every source.
    pub common: CommonConfig,
}

impl ApiConfig {
    /// The host of `url`.
    pub fn host(&self) -> Option<HostUse> {
        match self.list.origin() {
            Origin::Tuple(_, host, _) => Some(HostUse { host: host.to_string(), concurrent: self.rate.concurrent }),
            // A scheme that `url` may not have.
            Origin::Opaque(_) => None,
        }
    }

    /// Whether an incremental read asks for records up to a bound.
    pub(super) fn asks_for_end(&self) -> bool {
        let Some(incremental) = &self.incremental else { return false };
        incremental.end_param.is_some() || incremental.step.is_some() || places_end(&self.list)
    }

    /// Who may see what the source shows of itself.
    pub(crate) fn origins(&self) -> Vec<Origin> {
        std::iter::once(self.list.origin().clone()).chain(self.auth.as_ref().and_then(Auth::origin)).collect()
    }

    /// What is read, in text: a checkpoint of another scope says nothing about it. Has no secrets.
    pub fn scope(&self) -> String {
        let mut scope = self.list.scope();
        if let Some(Incremental { cursor, kind, param, end_param, step, .. }) = &self.incremental {
            let param = param.as_deref().unwrap_or_default();
            scope.push_str(&format!(" incremental {cursor} {} {param}", kind.as_str()));
            if end_param.is_some() || step.is_some() {
                scope.push_str(&format!(" end {end_param:?} {step:?}"));
            }
        }
        if let Some(parent) = &self.parent {
            scope.push_str(&format!(" parent {} {:?}", parent.list.scope(), parent.include));
        }
        scope
    }
}

/// Checks the options of an `api` source.
pub(crate) fn parse(mut fields: Fields) -> Result<ApiConfig, Vec<FieldError>> {
    let common = parse_common(&mut fields, Dedupe::Hash);
    let is_incremental = fields.has("incremental");
    let incremental = Incremental::parse(&mut fields);
    if incremental.as_ref().is_some_and(|incremental| incremental.start.is_some()) {
        common.deletes.refuse_beside(&mut fields, "start");
    }
    let known = Known {
        cursor: is_incremental,
        start: incremental.as_ref().is_some_and(|incremental| incremental.start.is_some()),
        end: incremental.as_ref().is_some_and(|incremental| incremental.kind == CursorKind::Time),
        parent: fields.has("parent"),
        ..Known::default()
    };
    let list = List::parse(&mut fields, known);
    let parent = list.as_ref().and_then(|list| Parent::parse(&mut fields, list));
    if list.is_none() {
        fields.raw("parent");
    }
    let auth = Auth::parse(&mut fields);
    let tls = TlsOptions::parse(&mut fields);
    let errors = Rule::parse_all(&mut fields);
    let rate = RateConfig::parse(&mut fields);
    if list.as_ref().is_some_and(|list| list.document.is_some())
        && errors.iter().any(|rule| rule.status.is_none() && rule.path.is_some())
    {
        fields.fail(
            "errors",
            Words::new(
                "A page of this format has nothing beside its records that a rule could look at: give the `status`.",
                "この形式のページには、規則が調べられるものがレコードのほかにありません。`status` を指定してください。",
            ),
        );
    }
    if let (Some(list), Some(incremental)) = (&list, &incremental) {
        check_incremental(&mut fields, list, incremental, parent.is_some(), common.dedupe);
    }
    fields.finish()?;
    let Some(mut list) = list else { return Err(Vec::new()) };
    if let Some(incremental) = &incremental {
        list.carry_bounds(incremental.param.clone(), incremental.end_param.clone());
    }
    Ok(ApiConfig { list, parent, incremental, auth, tls, errors, rate, common })
}

fn check_incremental(fields: &mut Fields, list: &List, incremental: &Incremental, has_parent: bool, dedupe: Dedupe) {
    let places_cursor = list.placeholders().any(|placeholder| *placeholder == Placeholder::Cursor);
    if incremental.param.is_none() && !places_cursor {
        fields.fail_inside(
            "incremental",
            "param",
            Words::new(
                "Name the parameter that asks for records from a cursor on, or put `{cursor}` into `url`, `params`, `headers`, `body` or `form`.",
                "カーソル以降のレコードを求めるパラメータ名を指定するか、`url`, `params`, `headers`, `body`, `form` のどれかに `{cursor}` を入れてください。",
            ),
        );
    }
    if places_cursor && incremental.start.is_none() {
        fields.fail_inside(
            "incremental",
            "start",
            Words::new(
                "This field is required with `{cursor}`: the first read needs a value, too.",
                "`{cursor}` を使うときは必須です。最初の読み取りにも値が必要です。",
            ),
        );
    }
    if incremental.step.is_some() && incremental.end_param.is_none() && !places_end(list) {
        fields.fail_inside(
            "incremental",
            "end_param",
            Words::new(
                "Name the parameter that asks for records up to a cursor, or put `{end}` into `url`, `params`, `headers`, `body` or `form`: without it each step would bring all that comes behind it.",
                "カーソルまでのレコードを求めるパラメータ名を指定するか、`url`, `params`, `headers`, `body`, `form` のどれかに `{end}` を入れてください。なければ、どの区間もその後ろのすべてを返します。",
            ),
        );
    }
    if incremental.step.is_some() && has_parent {
        fields.fail_inside(
            "incremental",
            "step",
            Words::new(
                "The lists of several parents are not read in steps: leave it out.",
                "親ごとのリストは区間に分けて読めません。省いてください。",
            ),
        );
    }
    if incremental.is_sorted && has_parent {
        fields.fail_inside(
            "incremental",
            "order",
            Words::new(
                "The lists of several parents are not in one order: leave it out.",
                "親ごとのリスト全体は一つの順序になりません。省いてください。",
            ),
        );
    }
    if matches!(dedupe, Dedupe::Rows | Dedupe::None) {
        fields.fail(
            "dedupe",
            Words::new(
                "An incremental read meets the last records again, which `rows` and `none` can not tell: leave it out.",
                "増分の読み取りは直前のレコードをもう一度受け取りますが、`rows` と `none` では見分けられません。省いてください。",
            ),
        );
    }
}

fn places_end(list: &List) -> bool {
    list.placeholders().any(|placeholder| *placeholder == Placeholder::End)
}

/// Reads an address that has no placeholders.
pub(super) fn url(fields: &mut Fields, name: &str) -> Option<Url> {
    let text = fields.required_string(name)?;
    match url_of(&text) {
        Ok(url) => Some(url),
        Err(words) => {
            fields.fail(name, words);
            None
        }
    }
}

/// An address that can be asked for.
pub(crate) fn url_of(text: &str) -> Result<Url, Words> {
    match Url::parse(text.trim()) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            Err(Words::new("Only `http` and `https` can be read.", "読めるのは `http` と `https` だけです。"))
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => Err(belongs_into_auth()),
        Ok(mut url) => {
            url.set_fragment(None);
            Ok(url)
        }
        Err(_) => Err(Words::new("Enter a valid URL.", "URLを正しく入力してください。")),
    }
}

/// Whether matome sets this header itself, so that a config may not: what frames a request, names its host, or makes
/// it conditional.
pub(crate) fn is_set_by_matome(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::ACCEPT_ENCODING,
        header::UPGRADE,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
    ]
    .contains(name)
}

pub(crate) fn set_by_matome() -> Words {
    Words::new("This header is set by matome.", "このヘッダは matome が設定します。")
}

pub(crate) fn not_a_header_name() -> Words {
    Words::new("Not a valid name of a header.", "ヘッダの名前として正しくありません。")
}

pub(crate) fn not_for_a_header() -> Words {
    Words::new("It has characters that a header can not carry.", "ヘッダで送れない文字が含まれています。")
}

pub(crate) fn belongs_into_auth() -> Words {
    Words::new(
        "Put credentials in `auth`, where they are encrypted.",
        "認証情報は暗号化される `auth` に入れてください。",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::template::Values;
    use crate::config::tests::errors;
    use crate::{ParsedConfig, validate_config};
    use matome_model::source::SourceType;

    fn config(text: &str) -> ApiConfig {
        match validate_config(SourceType::Api, text).unwrap() {
            ParsedConfig::Api(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_are_at_the_path_of_their_field() {
        for (text, path) in [
            (r#"{"records":"$"}"#, "url"),
            (r#"{"url":"ftp://h/"}"#, "url"),
            (r#"{"url":"http://user:pw@h/"}"#, "url"),
            (r#"{"url":"http://h/","pagination":{"type":"next_link"}}"#, "pagination.next"),
            (r#"{"url":"http://h/","pagination":{"type":"next_link","next":"$.a[*]"}}"#, "pagination.next"),
            (r#"{"url":"http://h/","pagination":{"type":"next_link","next":5}}"#, "pagination.next"),
            (r#"{"url":"http://h/","pagination":{"type":"pages","next":5}}"#, "pagination.type"),
            (r#"{"url":"http://h/","pagination":{"next":"$.next"}}"#, "pagination.type"),
            (r#"{"url":"http://h/","pagination":{"type":"page_number","pages":1}}"#, "pagination.pages"),
            (r#"{"url":"http://h/","pagination":"next"}"#, "pagination"),
            (r#"{"url":"http://h/","auth":{"type":"bearer"}}"#, "auth.token"),
            (r#"{"url":"http://h/","auth":{"type":"bearer","token":"a\nb"}}"#, "auth.token"),
            (r#"{"url":"http://h/","auth":{"type":"basic","username":"u"}}"#, "auth.password"),
            (r#"{"url":"http://h/","auth":{"type":"header","name":"Host","value":"x"}}"#, "auth.name"),
            (r#"{"url":"http://h/","headers":{"Authorization":"x"}}"#, "headers"),
            (r#"{"url":"http://h/","params":{"a":[1]}}"#, "params.a"),
            (r#"{"url":"http://h/","records":"$..x"}"#, "records"),
            (r#"{"url":"http://h/","method":"PUT"}"#, "method"),
            (r#"{"url":"http://h/","method":"GET","body":{}}"#, "method"),
            (r#"{"url":"http://h/","body":"x"}"#, "body"),
            (r#"{"url":"http://h/","body":{"q":"{x}"}}"#, "body"),
            (r#"{"url":"http://h/","body":{},"form":{}}"#, "form"),
            (r#"{"url":"http://h/","form":{"a":"{page}"}}"#, "form.a"),
            (r#"{"url":"http://h/","params":{"a":"{x"}}"#, "params.a"),
            (r#"{"url":"http://h/","headers":{"X-A":"{nox}"}}"#, "headers"),
            (r#"{"url":"http://h{now}/"}"#, "url"),
            (r#"{"url":"{now}"}"#, "url"),
            (r#"{"url":"http://h/{parent.id}"}"#, "url"),
            (r#"{"url":"http://h/","format":"xls"}"#, "format"),
            (r#"{"url":"http://h/","format":"csv","records":"$.a"}"#, "records"),
            (r#"{"url":"http://h/","format":"ndjson","delimiter":";"}"#, "delimiter"),
            (r#"{"url":"http://h/","delimiter":";"}"#, "delimiter"),
            (r#"{"url":"http://h/","format":"csv","pagination":{"type":"next_link","next":"$.n"}}"#, "pagination.next"),
            (
                r#"{"url":"http://h/","format":"csv","pagination":{"type":"offset","size":5,"total":"$.t"}}"#,
                "pagination.total",
            ),
            (r#"{"url":"http://h/","format":"csv","errors":[{"path":"$.e","action":"fail"}]}"#, "errors"),
            (r#"{"url":"http://h/","pagination":{"type":"offset"}}"#, "pagination.size"),
            (r#"{"url":"http://h/","pagination":{"type":"offset","size":0}}"#, "pagination.size"),
            (
                r#"{"url":"http://h/","pagination":{"type":"offset","size":5,"size_param":"offset"}}"#,
                "pagination.size_param",
            ),
            (r#"{"url":"http://h/","pagination":{"type":"offset","size":5,"total":"$"}}"#, "pagination.total"),
            (r#"{"url":"http://h/","pagination":{"type":"cursor"}}"#, "pagination.next"),
            (r#"{"url":"http://h/","pagination":{"type":"cursor","next":"$.n","header":"X-N"}}"#, "pagination.header"),
            (r#"{"url":"http://h/","pagination":{"type":"cursor","header":"a b"}}"#, "pagination.header"),
            (r#"{"url":"http://h/","pagination":{"type":"link_header","next":"$.n"}}"#, "pagination.next"),
            (r#"{"url":"http://h/","incremental":{"param":"since"}}"#, "incremental.cursor"),
            (r#"{"url":"http://h/","incremental":{"cursor":"$.at"}}"#, "incremental.param"),
            (r#"{"url":"http://h/?a={cursor}","incremental":{"cursor":"$.at"}}"#, "incremental.start"),
            (
                r#"{"url":"http://h/","incremental":{"cursor":"$.at","param":"s","start":"yesterday"}}"#,
                "incremental.start",
            ),
            (r#"{"url":"http://h/","incremental":{"cursor":"$.at","param":"s","kind":"float"}}"#, "incremental.kind"),
            (
                r#"{"url":"http://h/","incremental":{"cursor":"$.at","param":"s","kind":"text","overlap":5}}"#,
                "incremental.overlap",
            ),
            (
                r#"{"url":"http://h/","incremental":{"cursor":"$.at","param":"s","step":60,"end_param":"e"}}"#,
                "incremental.start",
            ),
            (
                r#"{"url":"http://h/","incremental":{"cursor":"$.at","param":"s","start":"2026-01-01T00:00:00Z","step":60}}"#,
                "incremental.end_param",
            ),
            (
                r#"{"url":"http://h/","incremental":{"cursor":"$.id","kind":"integer","param":"s","end_param":"e"}}"#,
                "incremental.end_param",
            ),
            (
                r#"{"url":"http://h/","incremental":{"cursor":"$.id","kind":"integer","param":"s","step":10}}"#,
                "incremental.step",
            ),
            (r#"{"url":"http://h/?e={end}","incremental":{"cursor":"$.id","kind":"integer","param":"s"}}"#, "url"),
            (
                r#"{"url":"http://h/{parent.id}","parent":{"url":"http://h/"},"incremental":{"cursor":"$.at","param":"s","start":"2026-01-01T00:00:00Z","end_param":"e","step":60}}"#,
                "incremental.step",
            ),
            (r#"{"url":"http://h/","dedupe":"rows","incremental":{"cursor":"$.at","param":"s"}}"#, "dedupe"),
            (
                r#"{"url":"http://h/{parent.id}","parent":{"url":"http://h/"},"incremental":{"cursor":"$.at","param":"s","order":"asc"}}"#,
                "incremental.order",
            ),
            (r#"{"url":"http://h/","parent":{"url":"http://h/"}}"#, "parent"),
            (r#"{"url":"http://h/{parent.id}","parent":{}}"#, "parent.url"),
            (r#"{"url":"http://h/{parent.id}","parent":{"url":"http://h/{cursor}"}}"#, "parent.url"),
            (
                r#"{"url":"http://h/{parent.id}","parent":{"url":"http://h/","include":{"u":"$.a[*]"}}}"#,
                "parent.include.u",
            ),
            (r#"{"url":"http://h/{parent.id}","parent":{"url":"http://h/","auth":{}}}"#, "parent.auth"),
            (r#"{"url":"http://h/","errors":{}}"#, "errors"),
            (r#"{"url":"http://h/","errors":[{"action":"skip"}]}"#, "errors.0.status"),
            (r#"{"url":"http://h/","errors":[{"status":404}]}"#, "errors.0.action"),
            (
                r#"{"url":"http://h/","errors":[{"status":404,"action":"empty"},{"status":"9xx","action":"skip"}]}"#,
                "errors.1.status",
            ),
            (r#"{"url":"http://h/","errors":[{"status":404,"equals":1,"action":"skip"}]}"#, "errors.0.path"),
            (r#"{"url":"http://h/","rate":{}}"#, "rate.requests"),
            (r#"{"url":"http://h/","rate":{"requests":1}}"#, "rate.per_secs"),
            (r#"{"url":"http://h/","rate":{"requests":0,"per_secs":1}}"#, "rate.requests"),
            (r#"{"url":"http://h/","rate":{"remaining":"X-Left"}}"#, "rate.reset"),
            (r#"{"url":"http://h/","rate":{"concurrent":0}}"#, "rate.concurrent"),
            (r#"{"url":"http://h/","rate":{"concurrent":1001}}"#, "rate.concurrent"),
            (
                r#"{"url":"http://h/","auth":{"type":"oauth2_client_credentials","token_url":"ftp://h/","client_id":"i","client_secret":"s"}}"#,
                "auth.token_url",
            ),
            (
                r#"{"url":"http://h/","auth":{"type":"oauth2_client_credentials","token_url":"https://h/","client_id":"i"}}"#,
                "auth.client_secret",
            ),
            (
                r#"{"url":"http://h/","auth":{"type":"oauth2_jwt_bearer","token_url":"https://h/","issuer":"i","key":"no key"}}"#,
                "auth.key",
            ),
            (
                r#"{"url":"http://h/","auth":{"type":"oauth2_jwt_bearer","token_url":"https://h/","issuer":"i","algorithm":"HS512","key":"k"}}"#,
                "auth.algorithm",
            ),
            (
                r#"{"url":"http://h/","auth":{"type":"oauth2_jwt_bearer","service_account":"{}"}}"#,
                "auth.service_account",
            ),
            (
                r#"{"url":"http://h/","auth":{"type":"oauth2_jwt_bearer","service_account":"kept","issuer":"i"}}"#,
                "auth.issuer",
            ),
        ] {
            let errors = errors(SourceType::Api, text);
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert_eq!(errors[0].0, path, "{text}: {errors:?}");
        }
        assert_eq!(
            errors(SourceType::Api, r#"{"url":"http://h/","pagination":{"type":"next_link"}}"#)[0].1,
            "This field is required."
        );
    }

    fn first(config: &ApiConfig) -> String {
        config.list.first(&Values { now: "2026-01-01T00:00:00Z", cursor: Some("7"), ..Values::default() }).unwrap()
    }

    #[test]
    fn parameters_and_the_first_page_are_in_the_address() {
        for (options, address) in [
            (
                r#""params":{"b":2,"c":true},"pagination":{"type":"page_number","size_param":"n","size":50}"#,
                "http://h/x?a=1&b=2&c=true&n=50&page=1",
            ),
            (r#""pagination":{"type":"offset","size":50}"#, "http://h/x?a=1&limit=50&offset=0"),
            (r#""pagination":{"type":"cursor","next":"$.n"}"#, "http://h/x?a=1"),
            (r#""incremental":{"cursor":"$.id","kind":"integer","param":"a"}"#, "http://h/x?a=7"),
            (
                r#""body":{"p":"{page}"},"pagination":{"type":"page_number"},"params":{"t":"{now}"}"#,
                "http://h/x?a=1&t=2026-01-01T00%3A00%3A00Z#page=1",
            ),
        ] {
            let config = config(&format!(r#"{{"url":"http://h/x?a=1",{options}}}"#));
            assert_eq!(first(&config), address);
            assert_eq!(config.common.dedupe, Dedupe::Hash);
        }
    }

    #[test]
    fn what_version_1_could_say_has_the_scope_of_version_1() {
        let config = config(
            r#"{"url":"http://h/x?a=1","records":"$.r","pagination":{"type":"page_number"},"errors":[{"status":404,"action":"empty"}]}"#,
        );
        let expected = r#"http://h/x?a=1&page=1 $.r PageNumber { param: "page", start: 1, size: None }"#;
        assert_eq!(config.scope(), expected);
    }

    #[test]
    fn secrets_are_not_in_the_debug_form() {
        for auth in [
            r#"{"type":"query","name":"key","value":"s3cret"}"#,
            r#"{"type":"oauth2_client_credentials","token_url":"https://h/","client_id":"i","client_secret":"s3cret"}"#,
        ] {
            let config = config(&format!(r#"{{"url":"http://h/","auth":{auth}}}"#));
            assert!(!format!("{config:?} {}", config.scope()).contains("s3cret"));
        }
    }
}
