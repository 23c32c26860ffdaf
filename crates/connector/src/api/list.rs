//! One list of an API: what to ask for page by page, and where its records are.

use std::sync::Arc;

use matome_egress::header::{self, HeaderMap, HeaderName, HeaderValue};
use matome_egress::{Method, StatusCode};
use matome_model::field_error::Words;
use matome_model::say;
use url::{Origin, Url, form_urlencoded};

use super::config::{belongs_into_auth, is_set_by_matome, not_a_header_name, not_for_a_header, set_by_matome, url_of};
use super::pagination::Pagination;
use super::template::{JsonTemplate, Known, Placeholder, Template, Unfit, Values};
use crate::config::Fields;
use crate::file::{DocumentConfig, Format};
use crate::json::{JsonPath, RecordForm};

/// A list that is read page by page.
///
/// A page is named by its address; what the address does not say about it (a token in the body) is in the fragment,
/// which is never sent.
#[derive(Clone, Debug)]
pub struct List {
    /// `records`: where in a page of JSON the records are; default `$`.
    pub records: JsonPath,
    /// `header` and `name_as`: how records are made of what is there.
    pub form: RecordForm,
    /// `format` and its options; JSON when there is none.
    pub document: Option<Arc<DocumentConfig>>,
    /// `pagination`; default: one page.
    pub pagination: Pagination,
    url: Template,
    origin: Origin,
    params: Vec<(String, Template)>,
    headers: Vec<(HeaderName, Template)>,
    method: Method,
    body: Option<Body>,
    /// `incremental.param`.
    cursor_param: Option<String>,
    /// `incremental.end_param`.
    end_param: Option<String>,
    /// `{page}` stands somewhere, so that no parameter is added.
    places_page: bool,
}

#[derive(Clone, Debug)]
enum Body {
    Json(JsonTemplate),
    Form(Vec<(String, Template)>),
}

/// A request, but for what every request of a source carries.
pub(super) struct Asked {
    pub(super) url: Url,
    pub(super) method: Method,
    /// For the origin of the list only.
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
}

impl List {
    /// Reads the options of a list; what else a config has is left.
    pub(super) fn parse(fields: &mut Fields, known: Known) -> Option<Self> {
        let formats = [
            ("json", (Format::Json, b',')),
            ("ndjson", (Format::Ndjson, b',')),
            ("csv", (Format::Csv, b',')),
            ("tsv", (Format::Csv, b'\t')),
            ("xml", (Format::Xml, b',')),
        ];
        let (format, delimiter) = fields.choice("format", &formats).unwrap_or((Format::Json, b','));
        let document = (format != Format::Json)
            .then(|| Arc::new(DocumentConfig::parse(fields, Some(format), &[format], delimiter)));
        let records = fields.parsed("records").unwrap_or_else(JsonPath::root);
        let form = match document {
            None => RecordForm::parse(fields, &records, true),
            Some(_) => RecordForm::default(),
        };
        let pagination = Pagination::parse(fields);
        if document.is_some()
            && let Some(name) = pagination.reads_body()
        {
            fields.fail_inside("pagination", name, nothing_beside(format));
        }
        let known = Known { page: pagination.param().is_some(), ..known };
        let url = url(fields, known);
        let params = templates(fields, "params", known);
        let headers = headers(fields, known);
        let body = body(fields, known);
        let method = fields.choice("method", &[("GET", false), ("POST", true)]);
        if body.is_some() && method == Some(false) {
            fields.fail(
                "method",
                Words::new("A body needs the method `POST`.", "本文を送るにはメソッドを `POST` にしてください。"),
            );
        }
        let is_post = method.unwrap_or(body.is_some());
        let (url, origin) = url?;
        let mut list = Self {
            records,
            form,
            document,
            pagination,
            url,
            origin,
            params,
            headers,
            method: if is_post { Method::POST } else { Method::GET },
            body,
            cursor_param: None,
            end_param: None,
            places_page: false,
        };
        let places_page = list.placeholders().any(|placeholder| *placeholder == Placeholder::Page);
        list.places_page = places_page;
        Some(list)
    }

    fn templates(&self) -> Vec<&Template> {
        let mut found = vec![&self.url];
        found.extend(self.params.iter().map(|(_, value)| value));
        found.extend(self.headers.iter().map(|(_, value)| value));
        match &self.body {
            Some(Body::Json(json)) => json.templates(&mut found),
            Some(Body::Form(form)) => found.extend(form.iter().map(|(_, value)| value)),
            None => {}
        }
        found
    }

    /// Has parameters carry the bounds of an incremental read, where there are some.
    pub(super) fn carry_bounds(&mut self, lower: Option<String>, upper: Option<String>) {
        (self.cursor_param, self.end_param) = (lower, upper);
    }

    /// Every placeholder of its requests.
    pub(super) fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.templates().into_iter().flat_map(Template::placeholders)
    }

    /// Scheme, host and port, which no placeholder is part of.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether an unchanged page can be told by its address alone.
    pub(super) fn is_conditional(&self) -> bool {
        self.method == Method::GET
    }

    /// Whether answers with this status are pages.
    pub(super) fn is_page(&self, status: StatusCode) -> bool {
        status == StatusCode::OK || self.method == Method::POST && status == StatusCode::CREATED
    }

    /// What its pages depend on, in text: as version 1 wrote it for what version 1 knew.
    pub(super) fn scope(&self) -> String {
        let by_name = Values { by_name: true, ..Values::default() };
        let url = self.first(&by_name).unwrap_or_else(|unfit| unfit.0.english);
        let mut scope = format!("{url} {} {:?}", self.records, self.pagination);
        if let Some(form) = self.form.scope() {
            scope.push_str(&format!(" {form}"));
        }
        if let Some(document) = &self.document {
            scope.push_str(&format!(" {}", document.format.as_str()));
            if document.format == Format::Xml {
                scope.push_str(&format!(" {:?}", document.xml));
            }
        }
        if self.method != Method::GET {
            let body = self.body(&by_name).ok().flatten().map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
            scope.push_str(&format!(" {} {}", self.method, body.unwrap_or_default()));
        }
        scope
    }

    /// The name of the first page.
    pub(super) fn first(&self, values: &Values<'_>) -> Result<String, Unfit> {
        let first = self.pagination.param().and_then(|(_, first)| first);
        self.name(values, first.as_deref())
    }

    /// The name of the page that `page` asks for.
    pub(super) fn name(&self, values: &Values<'_>, page: Option<&str>) -> Result<String, Unfit> {
        let values = Values { page, page_is_number: self.pagination.counts(), ..*values };
        let mut url = self.address(&values)?;
        if !self.params.is_empty() {
            let mut pairs = url.query_pairs_mut();
            for (name, value) in &self.params {
                pairs.append_pair(name, &value.fill(&values)?);
            }
        }
        if let (Some(param), Some(cursor)) = (&self.cursor_param, values.cursor) {
            set_param(&mut url, param, cursor);
        }
        if let (Some(param), Some(end)) = (&self.end_param, values.end) {
            set_param(&mut url, param, end);
        }
        if let Some((param, size)) = self.pagination.size() {
            set_param(&mut url, param, &size.to_string());
        }
        if let (Some((param, _)), Some(page)) = (self.pagination.param(), page) {
            if self.places_page {
                let page: String = form_urlencoded::byte_serialize(page.as_bytes()).collect();
                url.set_fragment(Some(&format!("page={page}")));
            } else {
                set_param(&mut url, param, page);
            }
        }
        Ok(url.into())
    }

    fn address(&self, values: &Values<'_>) -> Result<Url, Unfit> {
        let text = if values.by_name { self.url.fill(values)? } else { self.url.fill_address(values)? };
        // A parser takes these segments for the way up, so that a value could lead to another resource.
        let path = |text: &str| text.split(['?', '#']).next().unwrap_or_default().to_owned();
        let (shape, filled) = (path(&self.url.shape()), path(&text));
        let changed = filled.split('/').zip(shape.split('/')).filter(|(segment, of)| segment != of);
        if changed.into_iter().any(|(segment, _)| matches!(segment, "" | "." | "..")) && !values.by_name {
            return Err(Unfit(Words::new(
                "a value is empty, `.` or `..` where the address has a part of its path",
                "アドレスのパスに入る値が空か、`.` か `..` です",
            )));
        }
        let mut url = Url::parse(text.trim())
            .map_err(|_| Unfit(Words::new("its address is not valid", "アドレスが正しくありません")))?;
        url.set_fragment(None);
        if url.origin() != self.origin && !values.by_name {
            return Err(Unfit(Words::new("its address leads to another host", "アドレスが別のホストを指しています")));
        }
        Ok(url)
    }

    /// What asks for a page, besides its address.
    pub(super) fn page_value<'a>(&self, name: &'a Url) -> Option<std::borrow::Cow<'a, str>> {
        let (param, _) = self.pagination.param()?;
        let (pairs, wanted) = match self.places_page {
            true => (form_urlencoded::parse(name.fragment()?.as_bytes()), "page"),
            false => (name.query_pairs(), param),
        };
        pairs.filter(|(key, _)| key == wanted).map(|(_, value)| value).last()
    }

    /// The name of the page that `value` asks for, behind another page of the same walk.
    pub(super) fn follow(&self, name: &Url, value: &str, values: &Values<'_>) -> Result<String, Unfit> {
        let mut next = name.clone();
        match self.pagination.param() {
            Some(_) if self.places_page => return self.name(values, Some(value)),
            Some((param, _)) => set_param(&mut next, param, value),
            None => {}
        }
        Ok(next.into())
    }

    /// The request for the page with this name.
    pub(super) fn ask(&self, name: &Url, values: &Values<'_>) -> Result<Asked, Unfit> {
        let page = self.page_value(name);
        let values = Values { page: page.as_deref(), page_is_number: self.pagination.counts(), ..*values };
        let mut url = name.clone();
        url.set_fragment(None);
        let mut headers = HeaderMap::new();
        let accepted = match self.document.as_ref().map_or(Format::Json, |document| document.format) {
            Format::Ndjson => "application/x-ndjson, application/jsonl;q=0.9, */*;q=0.5",
            Format::Csv => "text/csv, text/tab-separated-values;q=0.9, */*;q=0.5",
            Format::Xml => "application/xml, text/xml;q=0.9, */*;q=0.5",
            _ => "application/json, */*;q=0.5",
        };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accepted));
        let body = self.body(&values)?.map(|(kind, body)| {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            body
        });
        for (name, value) in &self.headers {
            let text = value.fill(&values)?;
            let value = HeaderValue::from_str(&text).map_err(|_| {
                Unfit(say!(
                    "the value of the header `{name}` has characters that it can not carry",
                    "ヘッダー `{name}` の値に、ヘッダーで送れない文字があります"
                ))
            })?;
            headers.insert(name, value);
        }
        Ok(Asked { url, method: self.method.clone(), headers, body })
    }

    fn body(&self, values: &Values<'_>) -> Result<Option<(&'static str, Vec<u8>)>, Unfit> {
        match &self.body {
            None => Ok(None),
            Some(Body::Json(json)) => {
                let mut text = String::new();
                json.fill(values, &mut text)?;
                Ok(Some(("application/json", text.into_bytes())))
            }
            Some(Body::Form(form)) => {
                let mut text = form_urlencoded::Serializer::new(String::new());
                for (name, value) in form {
                    text.append_pair(name, &value.fill(values)?);
                }
                Ok(Some(("application/x-www-form-urlencoded", text.finish().into_bytes())))
            }
        }
    }
}

/// What is wrong with a path into a page that has records only.
fn nothing_beside(format: Format) -> Words {
    let format = format.as_str();
    say!(
        "A page of the format `{format}` has records and nothing beside them: use `link_header`, `page_number`, `offset` without \
         `total`, or `cursor` with `header`.",
        "形式 `{format}` のページにはレコードしかありません。`link_header`、`page_number`、`total` のない `offset`、`header` を使う `cursor` の\
         どれかにしてください。"
    )
}

/// Sets a parameter of an address, whatever it was before; the others stay as they are written.
pub(crate) fn set_param(url: &mut Url, name: &str, value: &str) {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let pair = query.append_pair(name, value).finish();
    let others = url.query().unwrap_or_default().split('&').filter(|pair| {
        let key = form_urlencoded::parse(pair.as_bytes()).next();
        !pair.is_empty() && key.is_none_or(|(key, _)| key != name)
    });
    let all: Vec<&str> = others.chain([pair.as_str()]).collect();
    let all = all.join("&");
    url.set_query(Some(&all));
}

fn url(fields: &mut Fields, known: Known) -> Option<(Template, Origin)> {
    let text = fields.required_string("url")?;
    let template = match Template::parse(text.trim(), known) {
        Ok(template) => template,
        Err(words) => {
            fields.fail("url", words);
            return None;
        }
    };
    // The host is fixed: a value that names a host would choose who gets the credentials.
    if template.placeholders().next().is_some() {
        let opening = template.opening();
        let after_scheme = opening.split_once("://").map_or("", |(_, after)| after);
        if !after_scheme.contains(['/', '?', '#']) {
            fields.fail(
                "url",
                Words::new(
                    "Placeholders may stand behind the host only, for example `https://api.example.com/users/{parent.id}`.",
                    "プレースホルダはホスト名より後ろでだけ使えます。例: `https://api.example.com/users/{parent.id}`。",
                ),
            );
            return None;
        }
    }
    let by_name = Values { by_name: true, ..Values::default() };
    let plain = template.fill(&by_name).unwrap_or_default();
    match url_of(&plain) {
        Ok(url) => Some((template, url.origin())),
        Err(words) => {
            fields.fail("url", words);
            None
        }
    }
}

fn templates(fields: &mut Fields, name: &str, known: Known) -> Vec<(String, Template)> {
    let mut templates = Vec::new();
    for (key, value) in fields.texts(name) {
        match Template::parse(&value, known) {
            Ok(template) => templates.push((key, template)),
            Err(words) => fields.fail_inside(name, &key, words),
        }
    }
    templates
}

/// Reads `headers`, whose values are templates.
pub(crate) fn headers(fields: &mut Fields, known: Known) -> Vec<(HeaderName, Template)> {
    let mut headers = Vec::new();
    for (name, value) in fields.texts("headers") {
        let template = Template::parse(&value, known);
        let Words { english, japanese } = match (name.parse::<HeaderName>(), HeaderValue::from_str(&value), template) {
            (Ok(name), ..) if [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].contains(&name) => {
                belongs_into_auth()
            }
            (Ok(name), ..) if is_set_by_matome(&name) => set_by_matome(),
            (Ok(name), Ok(_), Ok(template)) => {
                headers.push((name, template));
                continue;
            }
            (Err(_), ..) => not_a_header_name(),
            (_, Err(_), _) => not_for_a_header(),
            (_, _, Err(words)) => words,
        };
        fields.fail("headers", Words::new(format!("`{name}`: {english}"), format!("`{name}`: {japanese}")));
    }
    headers
}

fn body(fields: &mut Fields, known: Known) -> Option<Body> {
    let has_form = fields.has("form");
    let form = templates(fields, "form", known);
    let json = fields.raw("body").and_then(|raw| match JsonTemplate::parse(&raw, known) {
        Ok(json) if json.is_container() => Some(json),
        Ok(_) => {
            fields.fail(
                "body",
                Words::new("Expected a JSON object or array.", "JSONのオブジェクトか配列を指定してください。"),
            );
            None
        }
        Err(words) => {
            fields.fail("body", words);
            None
        }
    });
    if has_form && json.is_some() {
        fields.fail(
            "form",
            Words::new("Give either `body` or `form`.", "`body` か `form` のどちらか一方を指定してください。"),
        );
    }
    match json {
        Some(json) => Some(Body::Json(json)),
        None => has_form.then_some(Body::Form(form)),
    }
}
