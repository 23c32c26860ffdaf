//! The OpenAPI 3.1 document, made from the same table as the router.

use matome_store::listing::{ColumnKind, Listing, Lookup};
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use crate::auth::Permission;
use crate::endpoint::{Endpoint, Operation, adds_data};

/// What the document says about an operation beyond what the table says anyway.
#[derive(Clone, Copy)]
pub(crate) struct OperationDoc {
    /// In drf-spectacular's form: `acquisition_sources_list`.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    /// Schema of the body.
    pub(crate) body: Option<&'static str>,
    pub(crate) status: u16,
    pub(crate) answer: Answer,
    /// Whose filters the query string takes.
    pub(crate) filters: Option<&'static Listing>,
    /// Other parameters of the query string: name and description.
    pub(crate) query: &'static [(&'static str, &'static str)],
    /// Further parameters of the query string.
    pub(crate) parameters: &'static [Parameter],
    /// Adds what no other operation has.
    pub(crate) amend: Option<fn(&mut Value)>,
}

/// A parameter of the query string.
#[derive(Clone, Copy)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// `string`, `integer`, `boolean`, or `date-time`.
    pub(crate) kind: &'static str,
}

/// What an operation answers with.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Empty,
    One(&'static str),
    Page(&'static str),
    /// One JSON object a line.
    Ndjson,
    /// Bytes to be saved as a file.
    Bytes,
}

impl OperationDoc {
    pub(crate) const fn new(id: &'static str, summary: &'static str, status: u16, answer: Answer) -> Self {
        Self { id, summary, body: None, status, answer, filters: None, query: &[], parameters: &[], amend: None }
    }

    pub(crate) const fn taking(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }

    pub(crate) const fn asking(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query = query;
        self
    }

    pub(crate) const fn with(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters = parameters;
        self
    }

    pub(crate) const fn amended(mut self, amend: fn(&mut Value)) -> Self {
        self.amend = Some(amend);
        self
    }

    pub(crate) const fn filtered_by(mut self, listing: &'static Listing) -> Self {
        self.filters = Some(listing);
        self
    }
}

/// The document of these endpoints.
pub(crate) fn document(endpoints: &[Endpoint]) -> OpenApi {
    let mut paths = Map::new();
    for endpoint in endpoints {
        let operations = endpoint.operations.iter().filter_map(|operation| {
            let doc = operation.doc?;
            Some((operation.method.as_str().to_ascii_lowercase(), describe(endpoint, operation, &doc)))
        });
        let operations: Map<String, Value> = operations.collect();
        if !operations.is_empty() {
            paths.insert(endpoint.path.to_owned(), Value::Object(operations));
        }
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "matome",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Data consolidation: sources are acquired, aggregated and served.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearerAuth": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of `matome token create`.",
                },
            },
        },
        "tags": [
            {"name": "acquisition", "description": "Data sources, the records read from them, and the tasks that read."},
            {"name": "aggregation", "description": "Aggregations, their rows, and the tasks that compute them."},
            {"name": "schedules", "description": "When sources and aggregations run by themselves."},
            {"name": "tokens", "description": "API tokens."},
        ],
    });
    serde_json::from_value(document).expect("the table makes an OpenAPI document; a test reads it")
}

fn describe(endpoint: &Endpoint, operation: &Operation, doc: &OperationDoc) -> Value {
    let mut parameters = Vec::new();
    if endpoint.path.contains("{id}") {
        parameters.push(json!({
            "name": "id", "in": "path", "required": true, "schema": {"type": "integer", "format": "int64"},
        }));
    }
    if let Answer::Page(_) = doc.answer {
        parameters.push(parameter(
            "page",
            "A page number, from 1, or `last`.",
            &json!({"type": "integer", "minimum": 1}),
        ));
        let size = json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 20});
        parameters.push(parameter("page_size", "Rows of a page.", &size));
    }
    if let Some(listing) = doc.filters {
        parameters.extend(filters(listing));
    }
    parameters.extend(doc.query.iter().map(|(name, what)| parameter(name, what, &json!({"type": "string"}))));
    parameters.extend(doc.parameters.iter().map(|Parameter { name, what, kind }| {
        let schema = match *kind {
            "date-time" => json!({"type": "string", "format": "date-time"}),
            kind => json!({"type": kind}),
        };
        parameter(name, what, &schema)
    }));
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    let (description, body) = match doc.answer {
        Answer::Empty => ("Done.", None),
        Answer::One(name) => ("The result.", Some(reference(name))),
        Answer::Page(name) => ("A page.", Some(reference(&format!("Paginated{name}List")))),
        Answer::Ndjson => ("JSON objects, one a line.", None),
        Answer::Bytes => ("The bytes, as a file.", None),
    };
    let mut answer = json!({"description": description});
    if let Some(schema) = body {
        answer["content"] = content(schema);
    } else if matches!(doc.answer, Answer::Ndjson) {
        answer["content"] = json!({"application/x-ndjson": {"schema": {"type": "string"}}});
    } else if matches!(doc.answer, Answer::Bytes) {
        answer["content"] = json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}});
    }
    let mut responses = Map::from_iter([(doc.status.to_string(), answer)]);
    let mut refuse = |status: &str, description: &str, schema: &str| {
        responses.insert(status.to_owned(), json!({"description": description, "content": content(reference(schema))}));
    };
    if doc.body.is_some() || doc.filters.is_some() || !doc.query.is_empty() || !doc.parameters.is_empty() {
        refuse("400", "Fields or parameters are wrong.", "FieldErrors");
    }
    if operation.permission != Permission::Public {
        refuse("401", "No valid token.", "Detail");
        if operation.permission != Permission::Read {
            refuse("403", "The token's role does not allow it.", "Detail");
        }
    }
    if adds_data(&operation.method, endpoint.path) {
        refuse("507", "There is no room for more data.", "Detail");
    }
    if endpoint.path.contains("{id}") || doc.filters.is_some() {
        refuse("404", "There is no such thing.", "Detail");
    }
    let tag = endpoint.path.split('/').nth(2).unwrap_or_default();
    let mut described = json!({
        "operationId": doc.id,
        "summary": doc.summary,
        "tags": [tag],
        "responses": responses,
        "security": if operation.permission == Permission::Public { json!([]) } else { json!([{"bearerAuth": []}]) },
    });
    if !parameters.is_empty() {
        described["parameters"] = Value::Array(parameters);
    }
    if let Some(name) = doc.body {
        described["requestBody"] = json!({"required": true, "content": content(reference(name))});
    }
    if let Some(amend) = doc.amend {
        amend(&mut described);
    }
    described
}

pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Adds a header that a request may have to the description of an operation.
pub(crate) fn add_header(described: &mut Value, name: &str, schema: Value, description: &str) {
    if let Some(parameters) = described["parameters"].as_array_mut() {
        parameters.push(json!({
            "name": name, "in": "header", "required": false, "schema": schema, "description": description,
        }));
    }
}

fn parameter(name: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "required": false, "description": description, "schema": schema})
}

fn filters(listing: &Listing) -> Vec<Value> {
    let mut parameters = Vec::new();
    for column in listing.columns {
        let one = match column.kind {
            ColumnKind::Int | ColumnKind::Reference => json!({"type": "integer", "format": "int64"}),
            ColumnKind::Text | ColumnKind::Folded(_) => json!({"type": "string"}),
            ColumnKind::Choice(words) => json!({"type": "string", "enum": words}),
            ColumnKind::Time => json!({"type": "string", "format": "date-time"}),
            ColumnKind::Uuid => json!({"type": "string", "format": "uuid"}),
            ColumnKind::Bool => json!({"type": "boolean"}),
            ColumnKind::Key => json!({"type": "string", "pattern": "^[0-9a-fA-F]{32}$"}),
        };
        for lookup in Lookup::ALL.iter().filter(|lookup| lookup.fits(column)) {
            let (schema, what) = match lookup {
                Lookup::Exact => (one.clone(), "Equal to."),
                Lookup::Gte => (one.clone(), "Not less than."),
                Lookup::Lte => (one.clone(), "Not more than."),
                Lookup::Gt => (one.clone(), "More than."),
                Lookup::Lt => (one.clone(), "Less than."),
                Lookup::Icontains => (one.clone(), "Contains, whatever the case."),
                Lookup::In => (json!({"type": "string"}), "One of several, separated by commas."),
                Lookup::IsNull => (json!({"type": "boolean"}), "Has no value, or has one."),
            };
            parameters.push(parameter(&format!("{}{}", column.name, lookup.suffix()), what, &schema));
        }
    }
    let sortable: Vec<&str> =
        listing.columns.iter().filter(|column| column.sortable).map(|column| column.name).collect();
    let ordering = format!("Fields, separated by commas; `-` for descending. One of: {}.", sortable.join(", "));
    parameters.push(parameter("ordering", &ordering, &json!({"type": "string"})));
    if !listing.search.is_empty() {
        let what = "Words that name or description contain, whatever the case.";
        parameters.push(parameter("search", what, &json!({"type": "string"})));
    }
    parameters
}

/// An object whose properties are all in every answer.
pub(crate) fn view(properties: Value) -> Value {
    let required: Vec<String> =
        properties.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default();
    json!({"type": "object", "properties": properties, "required": required})
}

/// Adds schemas that stand with their endpoints.
fn extend(schemas: &mut Value, more: Value) {
    if let (Some(schemas), Value::Object(more)) = (schemas.as_object_mut(), more) {
        schemas.extend(more);
    }
}

fn schemas() -> Value {
    let id = json!({"type": "integer", "format": "int64"});
    let text = json!({"type": "string"});
    let text_or_null = json!({"type": ["string", "null"]});
    let time = json!({"type": "string", "format": "date-time"});
    let time_or_null = json!({"type": ["string", "null"], "format": "date-time"});
    let object = json!({"type": "object", "additionalProperties": true});
    let any = json!(["object", "array", "string", "number", "boolean", "null"]);
    let object_or_null = json!({"type": ["object", "null"], "additionalProperties": true});
    let name = json!({"type": "string", "minLength": 1, "maxLength": 255});
    let interval = json!({
        "type": "integer", "minimum": 0, "maximum": 2_147_483_647, "default": 3600,
        "description": "Seconds between two scheduled reads; 0 means by hand only.",
    });
    let config = json!({
        "type": "object", "additionalProperties": true, "default": {},
        "description": "`{}` is a draft. Secrets read back as `{\"$secret\": true}`; sending that back keeps them.",
    });
    let source = json!({
        "name": name, "source_type": reference("SourceTypeEnum"), "description": text_or_null,
        "status": reference("SourceStatusEnum"), "config": config, "fetch_interval": interval,
    });
    let aggregation = json!({
        "name": name, "description": text_or_null, "status": reference("SourceStatusEnum"), "config": config,
    });
    let with = |fields: &Value, more: Value| {
        let mut all = fields.clone();
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    };
    let task = view(json!({
        "id": id, "source": id, "task_id": {"type": "string", "format": "uuid"},
        "status": reference("TaskStatusEnum"), "trigger": reference("TriggerEnum"), "priority": text,
        "stream": text, "attempt": {"type": "integer", "minimum": 0}, "retry_of": {"type": ["integer", "null"]},
        "cancel_requested": {"type": "boolean"}, "run_at": time, "started_at": time_or_null,
        "finished_at": time_or_null, "progress": object_or_null, "result": object_or_null,
        "error": object_or_null, "created_at": time,
    }));
    let trial = |result: Value| {
        let error = json!({"oneOf": [{"type": "null"}, reference("TrialError")]});
        let all = with(&result, json!({"ok": {"type": "boolean"}, "error": error}));
        json!({"type": "object", "properties": all, "required": ["ok", "error"]})
    };
    let sample = json!({
        "records": {"type": "array", "items": object}, "quarantined": {"type": "array", "items": object},
        "duplicates": {"type": "array", "items": object}, "warnings": {"type": "array", "items": object},
        "drift": {"type": "array", "items": reference("SchemaDifference")},
        "complete": {"type": "boolean"}, "stats": object, "duration_ms": {"type": "integer"},
    });
    let mut schemas = json!({
        "SourceTypeEnum": {"type": "string", "enum": matome_store::data_sources::SOURCE_TYPES},
        "SourceStatusEnum": {"type": "string", "enum": matome_store::data_sources::STATUSES},
        "TaskStatusEnum": {"type": "string", "enum": matome_store::task_history::STATUSES},
        "TriggerEnum": {"type": "string", "enum": ["manual", "schedule", "retry", "after", "push"]},
        "RoleEnum": {"type": "string", "enum": matome_store::api_tokens::Role::WORDS},
        "DataSource": view(with(&source, json!({
            "id": id, "last_fetched_at": time_or_null, "created_at": time, "updated_at": time,
        }))),
        "DataSourceRequest": {"type": "object", "properties": source, "required": ["name", "source_type"]},
        "PatchedDataSourceRequest": {"type": "object", "properties": with(&source, json!({"on_change": {
            "type": "string", "enum": ["full", "reset"],
            "description": "What becomes of stored records when `config` reads other ones or tells them apart otherwise: \
                they stay and all is read from the start, or they are removed. Required then.",
        }}))},
        "DataSourceRunRequest": {"type": "object", "properties": {
            "full": {"type": "boolean", "default": false, "description": "Forget the place and read all."},
            "confirm_deletes": {
                "type": "boolean", "default": false,
                "description": "Mark keys as deleted that do not come, also when that is more than half of them.",
            },
            "priority": crate::tasks::run_priority(),
        }},
        "DataSourceRevalidateRequest": {"type": "object", "properties": {
            "apply": {
                "type": "boolean", "default": false,
                "description": "Do it; else the `result` of the task only says what would be done, under `report`.",
            },
            "since": {
                "type": ["string", "null"], "format": "date-time", "default": null,
                "description": "Only records that were acquired, or put into quarantine, at this time or later.",
            },
            "priority": crate::tasks::run_priority(),
        }},
        "DataSourceResetRequest": {"type": "object", "properties": {
            "data": {"type": "boolean", "default": false, "description": "Remove the stored records, too."},
        }},
        "RecordRemoval": view(json!({
            "id": id, "source": id, "acquired_at__gte": time_or_null, "acquired_at__lt": time_or_null,
        })),
        "AggregationSource": view(with(&aggregation, json!({
            "id": id, "current_run": {"type": ["integer", "null"], "format": "int64"},
            "created_at": time, "updated_at": time,
        }))),
        "AggregationSourceRequest": {"type": "object", "properties": aggregation, "required": ["name"]},
        "PatchedAggregationSourceRequest": {"type": "object", "properties": aggregation},
        "AcquiredData": view(json!({
            "id": id, "source": id, "raw_data": object, "metadata": object, "data_hash": text_or_null,
            "acquired_at": time, "created_at": time, "stream": text, "version": {"type": "integer"},
            "key_hash": text_or_null,
            "deleted": {
                "type": "boolean",
                "description": "A tombstone: from then on the source had the key no more. raw_data is that of the version before.",
            },
        })),
        "RecordDiff": view(json!({
            "record": id, "version": {"type": "integer"}, "against": {"type": ["integer", "null"], "format": "int64"},
            "against_version": {"type": ["integer", "null"]},
            "changes": {"type": "array", "items": reference("RecordChange")},
        })),
        "RecordChange": {
            "type": "object", "required": ["path", "change"],
            "properties": {
                "path": {"type": "string", "description": "JSON pointer of the place."},
                "change": {"type": "string", "enum": ["added", "removed", "changed"]},
                "old": {"type": any, "description": "The value before; absent when there was none."},
                "new": {"type": any, "description": "The value after; absent when there is none."},
            },
        },
        "AggregatedData": view(json!({
            "id": id, "source": id, "data": object, "metadata": object, "aggregated_at": time,
            "created_at": time, "run": {"type": ["integer", "null"], "format": "int64"},
        })),
        "AggregationRun": view(json!({
            "id": id, "source": id, "task": id,
            "status": {"type": "string", "enum": matome_store::listing::runs::STATUSES},
            "mode": {"type": "string", "enum": matome_store::aggregation_runs::Effect::WORDS},
            "rows": id, "superseded": id,
            "kept": {"type": "boolean", "description": "Its rows can still be read with `run`."},
            "params": object, "inputs": {"type": "array", "items": object}, "plan": text_or_null,
            "started_at": time, "published_at": time_or_null,
        })),
        "AggregationRunRequest": {"type": "object", "properties": {
            "replace": {
                "type": "boolean", "default": false,
                "description": "Show the rows of this run alone, whatever the mode of the aggregation.",
            },
            "params": {
                "type": "object", "additionalProperties": true, "default": {},
                "description": "Values of the aggregation's parameters by name.",
            },
            "priority": crate::tasks::run_priority(),
        }},
        "QuarantinedRecord": view(json!({
            "id": id, "source": id, "stream": text, "task": id, "reason": text, "detail": text,
            "position": object, "raw": text, "raw_encoding": {"type": "string", "enum": ["utf-8", "base64"]},
            "raw_length": {"type": "integer"}, "seen": {"type": "integer"}, "created_at": time,
            "last_seen_at": time, "status": {"type": "string", "enum": matome_store::listing::quarantined::STATUSES},
            "replay_task": {"type": ["integer", "null"], "format": "int64"},
            "outcome": {"type": ["string", "null"], "enum": ["stored", "duplicate", "quarantined", null]},
            "outcome_detail": text_or_null, "replayed_at": time_or_null,
        })),
        "TasksRetryRequest": crate::tasks::bulk_retry_request(),
        "TasksRetried": crate::tasks::bulk_retry_answer(),
        "AcquisitionTask": task,
        "AggregationTask": task,
        "SourceTest": trial(sample.clone()), "SourceSample": view(sample.clone()),
        "AggregationPreview": trial(json!({
            "rows": {"type": "array", "items": object}, "columns": {"type": "array", "items": object},
            "complete": {"type": "boolean"},
        })),
        "TrialError": view(json!({
            "message": text, "causes": {"type": "array", "items": text}, "position": object_or_null,
            "help": {"type": ["string", "null"], "description": "What to do, where the message does not say that."},
        })),
        "Token": view(json!({
            "id": id, "name": text, "role": reference("RoleEnum"), "prefix": text, "created_at": time,
            "last_used_at": time_or_null, "expires_at": time_or_null, "revoked_at": time_or_null,
        })),
        "TokenRequest": {
            "type": "object", "properties": {"name": name, "role": reference("RoleEnum")},
            "required": ["name", "role"],
        },
        "NewToken": view(json!({
            "id": id, "name": text, "role": reference("RoleEnum"), "prefix": text, "created_at": time,
            "last_used_at": time_or_null, "expires_at": time_or_null, "revoked_at": time_or_null,
            "token": {"type": "string", "description": "Shown once."},
        })),
        "Schedule": view(json!({
            "id": id, "kind": {"type": "string", "enum": matome_store::schedules::KINDS}, "object_id": id,
            "name": text, "enabled": {"type": "boolean"}, "cron": text_or_null, "timezone": text_or_null,
            "interval_secs": {"type": ["integer", "null"]}, "misfire": text, "overlap": text,
            "jitter_secs": {"type": "integer", "minimum": 0}, "next_at": time, "last_at": time_or_null,
        })),
        "Lane": view(json!({
            "id": id, "kind": {"type": "string", "enum": matome_store::schedules::KINDS}, "object_id": id,
            "name": text, "stream": text, "state": {"type": "string", "enum": matome_store::listing::lanes::STATES},
            "next_run_at": time_or_null, "not_before": time_or_null, "fail_streak": {"type": "integer", "minimum": 0},
            "host": text_or_null, "host_limit": {"type": ["integer", "null"]},
            "host_running": {"type": ["integer", "null"]}, "task": {"type": ["integer", "null"]},
            "worker": {"type": ["object", "null"], "properties": {"host": text, "pid": {"type": "integer"}}},
            "leased_at": time_or_null,
        })),
        "ScheduleTimes": view(json!({
            "enabled": {"type": "boolean"}, "timezone": text,
            "results": {"type": "array", "items": view(json!({"local": time, "utc": time}))},
        })),
        "Detail": view(json!({"detail": text})),
        "FieldErrors": {
            "type": "object", "additionalProperties": true,
            "description": "Messages by field, nested as the fields are: `{\"name\": [\"...\"]}`.",
        },
    });
    extend(&mut schemas, crate::quarantine::schemas());
    extend(&mut schemas, crate::source_schema::schemas());
    extend(&mut schemas, crate::connectors::schemas());
    extend(&mut schemas, crate::probe::schemas(trial));
    extend(&mut schemas, crate::gaps::schemas());
    extend(&mut schemas, crate::pushes::schemas());
    let link = json!({"type": ["string", "null"], "format": "uri"});
    let paged = [
        "DataSource",
        "AcquiredData",
        "AcquisitionTask",
        "QuarantinedRecord",
        "AggregationSource",
        "AggregatedData",
        "AggregationTask",
        "AggregationRun",
        "Schedule",
        "Lane",
        "Token",
    ];
    for name in paged {
        // Records as they were at a time are not counted.
        let count =
            if name == "AcquiredData" { json!({"type": ["integer", "null"]}) } else { json!({"type": "integer"}) };
        schemas[format!("Paginated{name}List")] = view(json!({
            "count": count, "next": link, "previous": link,
            "results": {"type": "array", "items": reference(name)},
        }));
    }
    schemas
}
