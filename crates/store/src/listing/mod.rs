//! One page of a table: filters, search, order and offset from an allow-list, never text of a user in SQL.
//!
//! A [`Listing`] says what a table offers; a [`Query`] chooses among it. The ids of a page are found first,
//! through an index, and only then its rows are read, so that a deep page does not drag whole rows along.

use std::fmt::Write as _;

use matome_model::clock::Timestamp;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::aggregated_data::SHOWN_AFTER;
use crate::api_tokens::{self, Bearer};
use crate::db::{Arg, Conn, Dialect, Row};
use crate::error::{Result, StoreError};

pub mod acquired;
pub mod aggregated;
pub mod lanes;
pub mod quarantined;
pub mod runs;

/// What a client may filter and order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in the API.
    pub name: &'static str,
    /// The SQL expression over the table, whose alias is `t`.
    pub sql: &'static str,
    /// What its values are.
    pub kind: ColumnKind,
    /// Nulls sort last, up and down, on both databases.
    pub nullable: bool,
    /// Whether `ordering` may name it.
    pub sortable: bool,
}

impl Column {
    /// A column that is never null and can be ordered by.
    pub const fn new(name: &'static str, sql: &'static str, kind: ColumnKind) -> Self {
        Self { name, sql, kind, nullable: false, sortable: true }
    }

    /// The same, with nulls.
    pub const fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// The same, as a filter only.
    pub const fn filter_only(mut self) -> Self {
        self.sortable = false;
        self
    }
}

/// What the values of a column are; this decides which lookups it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// A 64-bit integer.
    Int,
    /// Text, compared by bytes.
    Text,
    /// Text with a folded twin (the SQL expression) for case-insensitive lookups.
    Folded(&'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The id of a row that must exist.
    Reference,
    /// A time.
    Time,
    /// A uuid.
    Uuid,
    /// The hash of a key: 16 bytes, 32 hexadecimal digits in the API.
    Key,
    /// True or false.
    Bool,
}

/// How a column is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Equal.
    Exact,
    /// Not less.
    Gte,
    /// Not more.
    Lte,
    /// More.
    Gt,
    /// Less.
    Lt,
    /// Contains, whatever the case.
    Icontains,
    /// One of several.
    In,
    /// Null, or not null.
    IsNull,
}

impl Lookup {
    /// Every lookup.
    pub const ALL: &'static [Self] =
        &[Self::Exact, Self::Gte, Self::Lte, Self::Gt, Self::Lt, Self::Icontains, Self::In, Self::IsNull];

    /// What Django puts behind the field's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Exact => "",
            Self::Gte => "__gte",
            Self::Lte => "__lte",
            Self::Gt => "__gt",
            Self::Lt => "__lt",
            Self::Icontains => "__icontains",
            Self::In => "__in",
            Self::IsNull => "__isnull",
        }
    }

    /// Whether a column can be compared in this way.
    pub fn fits(self, column: &Column) -> bool {
        match self {
            Self::Exact => true,
            Self::Gte | Self::Lte | Self::Gt | Self::Lt => matches!(column.kind, ColumnKind::Int | ColumnKind::Time),
            Self::Icontains => matches!(column.kind, ColumnKind::Folded(_)),
            Self::In => !matches!(column.kind, ColumnKind::Time | ColumnKind::Bool),
            Self::IsNull => column.nullable,
        }
    }
}

/// The value of a condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// For integers and references.
    Int(i64),
    /// For text and choices; folded by [`fold`] when the lookup is [`Lookup::Icontains`].
    Text(String),
    /// For times.
    Time(Timestamp),
    /// For uuids.
    Uuid(Uuid),
    /// For keys.
    Bytes(Vec<u8>),
    /// For [`Lookup::IsNull`].
    Bool(bool),
    /// For [`Lookup::In`].
    Many(Vec<Value>),
}

/// One condition; all of a query must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The column.
    pub column: &'static Column,
    /// The comparison.
    pub lookup: Lookup,
    /// What it is compared with.
    pub value: Value,
}

/// One term of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The column.
    pub column: &'static Column,
    /// Largest first.
    pub descending: bool,
}

/// A table as lists show it. All texts are SQL of ours over the alias `t`.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// The table.
    pub table: &'static str,
    /// What is selected for a row.
    pub select: &'static str,
    /// Which rows exist for a client, apart from [`Listing::gone`].
    pub visible: &'static str,
    /// Rows that are on their way out: those of deleted sources, while their data is removed.
    pub gone: Option<Gone>,
    /// What can be filtered and ordered by.
    pub columns: &'static [Column],
    /// Folded columns that `search` looks into.
    pub search: &'static [&'static str],
    /// The order when none is asked for.
    pub default_order: &'static [Order],
}

/// Rows whose owner is deleted.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    /// Holds for a row whose owner is not deleted.
    pub spares: &'static str,
    /// Finds a deleted owner, if there is any.
    pub any: &'static str,
}

/// Rows of deleted data sources, by `t.source_id`.
pub(crate) const OF_DELETED_SOURCES: Option<Gone> = Some(Gone {
    spares: "t.source_id not in (select s.id from data_sources s where s.deleted_at is not null)",
    any: "select s.id from data_sources s where s.deleted_at is not null limit 1",
});

/// From this offset on it is worth asking first whether anything is hidden at all: without that condition the
/// ids come from the index alone.
const DEEP: i64 = 1_000;

/// What a client wants of a listing.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// Each of these folded terms must be in one of the listing's search columns.
    pub search: Vec<String>,
    /// Empty: the listing's own order. The id breaks ties.
    pub order: Vec<Order>,
    /// Of [`aggregated::LISTING`]: not the rows that are shown, but those that were after this run, if its version is kept.
    pub after_run: Option<AfterRun>,
}

/// A version of an aggregation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AfterRun {
    /// The aggregation.
    pub source_id: i64,
    /// Its run.
    pub run_id: i64,
}

/// What [`Listing::first_page`] found.
#[derive(Debug)]
pub struct FirstPage {
    /// Who asked.
    pub bearer: Bearer,
    /// All rows of the list.
    pub total: i64,
    /// Those of the page.
    pub rows: Vec<Row>,
}

impl Listing {
    /// The column of an API name.
    pub fn column(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// How many rows match.
    ///
    /// # Errors
    /// When the database is gone.
    pub async fn count(&self, conn: &mut Conn<'_>, query: &Query) -> Result<i64> {
        let mut args = Vec::new();
        let matching = self.matching(conn, query, self.gone.as_ref(), &mut args);
        let sql = format!("select count(*) as n from {} t where {matching}", self.table);
        conn.fetch_one(AssertSqlSafe(sql), &args).await?.int("n")
    }

    /// `limit` matching rows after the first `offset`.
    ///
    /// # Errors
    /// When the database is gone.
    pub async fn rows(&self, conn: &mut Conn<'_>, query: &Query, limit: i64, offset: i64) -> Result<Vec<Row>> {
        let mut gone = self.gone.as_ref();
        if let Some(Gone { any, .. }) = gone
            && offset >= DEEP
            && conn.fetch_optional(*any, &[]).await?.is_none()
        {
            gone = None;
        }
        let mut args = Vec::new();
        let matching = self.matching(conn, query, gone, &mut args);
        let order = self.order_by(query);
        // With a limit that it does not know PostgreSQL expects a tenth of the table, finds each plan for given values
        // cheaper than the one for all, and plans anew each time, which costs more than the page. Page sizes are few.
        let cut = if offset == 0 {
            format!("limit {limit}")
        } else {
            args.push(offset.into());
            format!("limit {limit} offset ${}", args.len())
        };
        let sql = format!(
            "select {} from (
    select t.id from {} t where {matching} order by {order} {cut}
) page join {} t on t.id = page.id order by {order}",
            self.select, self.table, self.table,
        );
        conn.fetch_all(AssertSqlSafe(sql), &args).await
    }

    /// The first `limit` of all rows in the list's own order, with their number, for whoever shows a valid `token`: in
    /// one statement with the check of the token, because two more would cost as much as the page. `total` is an
    /// expression for the number where counting the rows is not the way. None: the token is not valid. For listings that
    /// select columns of the table alone.
    ///
    /// # Errors
    /// When the database is gone.
    pub async fn first_page(
        &self,
        conn: &mut Conn<'_>,
        token: &str,
        total: Option<&str>,
        limit: i64,
        now: Timestamp,
    ) -> Result<Option<FirstPage>> {
        let Some(shown) = api_tokens::Shown::new(token) else { return Ok(None) };
        let query = Query::default();
        let matching = self.matching(conn, &query, self.gone.as_ref(), &mut Vec::new());
        let order = self.order_by(&query);
        let (columns, condition) = api_tokens::BESIDE;
        let (select, table) = (self.select, self.table);
        let counted = format!("select count(*) from {table} t where {matching}");
        let total = total.unwrap_or(&counted);
        // SQLite knows that there is one token at most and takes the rows in their order off the index; a subquery would be
        // written aside and sorted again. PostgreSQL does not and would sort the whole table.
        let page = match conn.dialect() {
            Dialect::Postgres => format!(
                "left join (select {select} from {table} t where {matching} order by {order} limit {limit}) t on 1 = 1
where {condition} order by {order}"
            ),
            Dialect::Sqlite => {
                format!("left join {table} t on {matching} where {condition} order by {order} limit {limit}")
            }
        };
        let sql = format!("select {columns}, ({total}) as list_total, {select} from api_tokens k {page}");
        let mut rows = conn.fetch_all(AssertSqlSafe(sql), &[shown.prefix.into(), now.into()]).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let Some(bearer) = shown.bearer(first)? else { return Ok(None) };
        let total = first.int("list_total")?;
        if first.opt_int("id")?.is_none() {
            rows.clear();
        }
        Ok(Some(FirstPage { bearer, total, rows }))
    }

    /// Matching rows as they were at a time, newest first: of each key the version that was the newest then. `limit`
    /// rows behind `after`, the time and id of the row before. For [`acquired::LISTING`].
    ///
    /// # Errors
    /// When the database is gone.
    pub async fn rows_as_of(
        &self,
        conn: &mut Conn<'_>,
        query: &Query,
        as_of: Timestamp,
        after: Option<(Timestamp, i64)>,
        limit: i64,
    ) -> Result<Vec<Row>> {
        let mut args = Vec::new();
        let mut matching = self.matching(conn, query, self.gone.as_ref(), &mut args);
        args.push(as_of.into());
        let newest = acquired::NEWEST_AT.replace("{as_of}", &format!("${}", args.len()));
        write!(matching, " and {newest}").expect("text grows");
        if let Some((time, id)) = after {
            args.extend([Arg::Time(Some(time)), id.into()]);
            let (time, id) = (args.len() - 1, args.len());
            write!(matching, " and (t.acquired_at, t.id) < (${time}, ${id})").expect("text grows");
        }
        args.push(limit.into());
        let order = "t.acquired_at desc, t.id desc";
        let sql = format!(
            "select {} from (
    select t.id from {} t where {matching} order by {order} limit ${}
) page join {} t on t.id = page.id order by {order}",
            self.select,
            self.table,
            args.len(),
            self.table,
        );
        conn.fetch_all(AssertSqlSafe(sql), &args).await
    }

    /// The visible row with this id that also meets the query's conditions.
    ///
    /// # Errors
    /// When the database is gone.
    pub async fn find(&self, conn: &mut Conn<'_>, query: &Query, id: i64) -> Result<Option<Row>> {
        let mut args = Vec::new();
        let matching = self.matching(conn, query, self.gone.as_ref(), &mut args);
        args.push(id.into());
        let sql = format!("select {} from {} t where {matching} and t.id = ${}", self.select, self.table, args.len());
        conn.fetch_optional(AssertSqlSafe(sql), &args).await
    }

    fn matching<'q>(&self, conn: &Conn<'_>, query: &'q Query, gone: Option<&Gone>, args: &mut Vec<Arg<'q>>) -> String {
        let mut all = vec![match query.after_run {
            None => self.visible.to_owned(),
            Some(after) => {
                args.extend([after.source_id.into(), after.run_id.into()]);
                let (source, run) = (format!("${}", args.len() - 1), format!("${}", args.len()));
                SHOWN_AFTER.replace("{source}", &source).replace("{run}", &run)
            }
        }];
        all.extend(gone.map(|gone| gone.spares.to_owned()));
        for condition in &query.conditions {
            all.push(condition_sql(conn, condition, args));
        }
        for term in &query.search {
            args.push(Arg::Text(Some(term)));
            let n = args.len();
            let any: Vec<String> = self.search.iter().map(|column| contains(conn, column, n)).collect();
            if !any.is_empty() {
                all.push(format!("({})", any.join(" or ")));
            }
        }
        all.join(" and ")
    }

    fn order_by(&self, query: &Query) -> String {
        // Asking for the first term of the list's own order means that order, and the index that serves it.
        let is_default = query.order.is_empty() || query.order == self.default_order[..1];
        let order = if is_default { self.default_order } else { &query.order };
        let mut terms: Vec<String> = order
            .iter()
            .map(|term| {
                let direction = if term.descending { " desc" } else { "" };
                let nulls = if term.column.nullable { " nulls last" } else { "" };
                format!("{}{direction}{nulls}", term.column.sql)
            })
            .collect();
        if !order.iter().any(|term| term.column.sql == "t.id") {
            // In the direction of the first term, which is that of the indexes.
            let descending = order.first().is_some_and(|term| term.descending);
            terms.push(if descending { "t.id desc".to_owned() } else { "t.id".to_owned() });
        }
        terms.join(", ")
    }
}

fn condition_sql<'q>(conn: &Conn<'_>, condition: &'q Condition, args: &mut Vec<Arg<'q>>) -> String {
    let column = condition.column.sql;
    let mut bind = |value: &'q Value| {
        args.push(match value {
            Value::Int(v) => Arg::Int(Some(*v)),
            Value::Text(v) => Arg::Text(Some(v)),
            Value::Time(v) => Arg::Time(Some(*v)),
            Value::Uuid(v) => Arg::Uuid(Some(*v)),
            Value::Bytes(v) => Arg::Bytes(Some(v)),
            Value::Bool(v) => Arg::Bool(Some(*v)),
            // Only `in` has several values, and it binds each.
            Value::Many(_) => Arg::Text(None),
        });
        args.len()
    };
    let comparison = match condition.lookup {
        Lookup::Exact => "=",
        Lookup::Gte => ">=",
        Lookup::Lte => "<=",
        Lookup::Gt => ">",
        Lookup::Lt => "<",
        Lookup::Icontains => {
            let folded = if let ColumnKind::Folded(folded) = condition.column.kind { folded } else { column };
            let n = bind(&condition.value);
            return contains(conn, folded, n);
        }
        Lookup::IsNull => {
            let not = if condition.value == Value::Bool(true) { "" } else { "not " };
            return format!("{column} is {not}null");
        }
        Lookup::In => {
            let Value::Many(values) = &condition.value else { return "1 = 0".to_owned() };
            if values.is_empty() {
                return "1 = 0".to_owned();
            }
            let places: Vec<String> = values.iter().map(|value| format!("${}", bind(value))).collect();
            return format!("{column} in ({})", places.join(", "));
        }
    };
    format!("{column} {comparison} ${}", bind(&condition.value))
}

fn contains(conn: &Conn<'_>, folded: &str, n: usize) -> String {
    // Not LIKE: a search for `50%` means these three characters.
    conn.pick(format!("strpos({folded}, ${n}) > 0"), format!("instr({folded}, ${n}) > 0"))
}

/// Text folded for case-insensitive lookups: each character in lower case, whatever stands beside it.
///
/// The two databases fold differently, and neither is asked to.
pub fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// A word in a column that is none of those which this binary writes there.
pub(crate) fn unknown_word(column: &str, word: &str) -> StoreError {
    StoreError::Inconsistent { column: column.to_owned(), what: format!("unknown word `{word}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_does_not_depend_on_neighbours() {
        assert_eq!(fold("ΟΔΟΣ Äpfel 東京"), "οδοσ äpfel 東京");
    }
}
