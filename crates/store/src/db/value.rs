//! Values that go to and come from both databases with one meaning.

use chrono::DateTime;
use matome_model::clock::Timestamp;
use serde_json::value::RawValue;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgRow, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, Decode, Encode, Postgres, Row as _, Type, TypeInfo as _, ValueRef as _};
use uuid::Uuid;

use crate::error::{Result, StoreError};

/// One bound parameter. Nulls are typed, because PostgreSQL wants to know.
#[derive(Clone, Debug)]
pub enum Arg<'a> {
    /// A 64-bit integer.
    Int(Option<i64>),
    /// A double.
    Float(Option<f64>),
    /// A truth value; 0 or 1 on SQLite.
    Bool(Option<bool>),
    /// Text.
    Text(Option<&'a str>),
    /// Bytes.
    Bytes(Option<&'a [u8]>),
    /// JSON text: `jsonb` on PostgreSQL, text on SQLite.
    Json(Option<&'a str>),
    /// A time: `timestamptz` on PostgreSQL, microseconds since 1970 on SQLite.
    Time(Option<Timestamp>),
    /// A uuid: `uuid` on PostgreSQL, 16 bytes on SQLite.
    Uuid(Option<Uuid>),
    /// Texts in their order: `text[]` on PostgreSQL, a JSON array of strings on SQLite (read with `json_each`).
    Texts(&'a [String]),
    /// A set of integers, used through [`super::Conn::any_of`]: `bigint[]` on PostgreSQL, a JSON array on SQLite.
    Ints(&'a [i64]),
}

macro_rules! arg_from {
    ($($type:ty => $variant:ident),+) => {$(
        impl<'a> From<$type> for Arg<'a> {
            fn from(value: $type) -> Self { Arg::$variant(Some(value)) }
        }
        impl<'a> From<Option<$type>> for Arg<'a> {
            fn from(value: Option<$type>) -> Self { Arg::$variant(value) }
        }
    )+};
}
arg_from!(i64 => Int, f64 => Float, bool => Bool, &'a str => Text, &'a [u8] => Bytes, Timestamp => Time, Uuid => Uuid);

impl<'a> From<&'a String> for Arg<'a> {
    fn from(value: &'a String) -> Self {
        Arg::Text(Some(value))
    }
}
impl<'a> From<i32> for Arg<'a> {
    fn from(value: i32) -> Self {
        Arg::Int(Some(i64::from(value)))
    }
}
impl<'a> From<&'a RawValue> for Arg<'a> {
    fn from(value: &'a RawValue) -> Self {
        Arg::Json(Some(value.get()))
    }
}

/// JSON text on its way to or from a `jsonb` column, without being parsed by us.
struct Jsonb<'a>(&'a str);

impl Type<Postgres> for Jsonb<'_> {
    fn type_info() -> PgTypeInfo {
        <sqlx::types::Json<()> as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Jsonb<'_> {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.extend_from_slice(&[1]); // the version byte of jsonb's binary form
        buf.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

pub(super) fn postgres_arguments(args: &[Arg<'_>]) -> Result<PgArguments> {
    let mut out = PgArguments::default();
    for arg in args {
        match arg {
            Arg::Int(v) => out.add(*v),
            Arg::Float(v) => out.add(*v),
            Arg::Bool(v) => out.add(*v),
            Arg::Text(v) => out.add(*v),
            Arg::Bytes(v) => out.add(*v),
            Arg::Json(v) => out.add(v.map(Jsonb)),
            Arg::Time(v) => out.add(*v),
            Arg::Uuid(v) => out.add(*v),
            Arg::Ints(v) => out.add(*v),
            Arg::Texts(v) => out.add(*v),
        }
        .map_err(|err| StoreError::Database(sqlx::Error::Encode(err)))?;
    }
    Ok(out)
}

pub(super) fn sqlite_arguments(args: &[Arg<'_>]) -> Result<SqliteArguments> {
    let mut out = SqliteArguments::default();
    for arg in args {
        match arg {
            Arg::Int(v) => out.add(*v),
            Arg::Float(v) => out.add(*v),
            Arg::Bool(v) => out.add(*v),
            Arg::Text(v) => out.add(v.map(str::to_owned)),
            Arg::Bytes(v) => out.add(v.map(<[u8]>::to_vec)),
            Arg::Json(v) => out.add(v.map(str::to_owned)),
            Arg::Time(v) => out.add(v.map(|at| at.timestamp_micros())),
            Arg::Uuid(v) => out.add(*v),
            Arg::Texts(v) => out.add(serde_json::to_string(v).expect("text is JSON")),
            Arg::Ints(v) => out.add(serde_json::to_string(v).expect("integers are JSON")),
        }
        .map_err(|err| StoreError::Database(sqlx::Error::Encode(err)))?;
    }
    Ok(out)
}

/// A row of either database, read by column name.
#[derive(Debug)]
pub enum Row {
    /// From PostgreSQL.
    Postgres(PgRow),
    /// From SQLite.
    Sqlite(SqliteRow),
}

macro_rules! required {
    ($($(#[$doc:meta])* $name:ident, $opt:ident -> $type:ty);+ $(;)?) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// When the column is missing, null or of another type.
        pub fn $name(&self, column: &str) -> Result<$type> {
            self.$opt(column)?.ok_or_else(|| inconsistent(column, "null where a value must be"))
        }
    )+};
}

impl Row {
    required! {
        /// An integer of any width.
        int, opt_int -> i64;
        /// A double.
        float, opt_float -> f64;
        /// A truth value.
        bool, opt_bool -> bool;
        /// Text.
        text, opt_text -> String;
        /// Bytes.
        bytes, opt_bytes -> Vec<u8>;
        /// JSON text, as the database gives it back.
        json, opt_json -> Box<RawValue>;
        /// A time in UTC.
        time, opt_time -> Timestamp;
        /// A uuid.
        uuid, opt_uuid -> Uuid;
    }

    /// An integer of any width, or null.
    ///
    /// # Errors
    /// When the column is missing or of another type.
    pub fn opt_int(&self, column: &str) -> Result<Option<i64>> {
        match self {
            Row::Sqlite(row) => get(row.try_get(column), column),
            Row::Postgres(row) => get(row.try_get::<Option<Integer>, _>(column), column).map(|v| v.map(|n| n.0)),
        }
    }

    /// A double, or null.
    ///
    /// # Errors
    /// When the column is missing or of another type.
    pub fn opt_float(&self, column: &str) -> Result<Option<f64>> {
        match self {
            Row::Sqlite(row) => get(row.try_get_unchecked(column), column),
            Row::Postgres(row) => get(row.try_get(column), column),
        }
    }

    /// A truth value, or null.
    ///
    /// # Errors
    /// When the column is missing or of another type.
    pub fn opt_bool(&self, column: &str) -> Result<Option<bool>> {
        match self {
            Row::Sqlite(row) => get(row.try_get::<Option<i64>, _>(column), column).map(|v| v.map(|n| n != 0)),
            Row::Postgres(row) => get(row.try_get(column), column),
        }
    }

    /// Text, or null.
    ///
    /// # Errors
    /// When the column is missing or of another type.
    pub fn opt_text(&self, column: &str) -> Result<Option<String>> {
        match self {
            Row::Sqlite(row) => get(row.try_get(column), column),
            Row::Postgres(row) => get(row.try_get(column), column),
        }
    }

    /// Bytes, or null.
    ///
    /// # Errors
    /// When the column is missing or of another type.
    pub fn opt_bytes(&self, column: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Row::Sqlite(row) => get(row.try_get(column), column),
            Row::Postgres(row) => get(row.try_get(column), column),
        }
    }

    /// JSON text, or null.
    ///
    /// # Errors
    /// When the column is missing, of another type, or no JSON.
    pub fn opt_json(&self, column: &str) -> Result<Option<Box<RawValue>>> {
        let text: Option<String> = match self {
            Row::Sqlite(row) => get(row.try_get(column), column)?,
            Row::Postgres(row) => get(row.try_get::<Option<JsonText>, _>(column), column)?.map(|json| json.0),
        };
        text.map(|text| RawValue::from_string(text).map_err(|err| inconsistent(column, &err.to_string()))).transpose()
    }

    /// A time, or null.
    ///
    /// # Errors
    /// When the column is missing or of another type.
    pub fn opt_time(&self, column: &str) -> Result<Option<Timestamp>> {
        match self {
            Row::Sqlite(row) => get(row.try_get::<Option<i64>, _>(column), column)?
                .map(|micros| {
                    DateTime::from_timestamp_micros(micros).ok_or_else(|| inconsistent(column, "a time out of range"))
                })
                .transpose(),
            Row::Postgres(row) => get(row.try_get(column), column),
        }
    }

    /// A uuid, or null.
    ///
    /// # Errors
    /// When the column is missing or of another type.
    pub fn opt_uuid(&self, column: &str) -> Result<Option<Uuid>> {
        match self {
            Row::Sqlite(row) => get(row.try_get(column), column),
            Row::Postgres(row) => get(row.try_get(column), column),
        }
    }
}

/// An integer of any width: that of an adopted table may be smaller than ours.
struct Integer(i64);

impl Type<Postgres> for Integer {
    fn type_info() -> PgTypeInfo {
        <i64 as Type<Postgres>>::type_info()
    }
    fn compatible(ty: &PgTypeInfo) -> bool {
        ["INT8", "INT4", "INT2"].contains(&ty.name())
    }
}

impl<'r> Decode<'r, Postgres> for Integer {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        // It reads as many bytes as there are.
        Ok(Self(<i64 as Decode<Postgres>>::decode(value)?))
    }
}

/// The text of a `json` or `jsonb` value, without being parsed.
struct JsonText(String);

impl Type<Postgres> for JsonText {
    fn type_info() -> PgTypeInfo {
        <sqlx::types::Json<()> as Type<Postgres>>::type_info()
    }
    fn compatible(ty: &PgTypeInfo) -> bool {
        <sqlx::types::Json<()> as Type<Postgres>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Postgres> for JsonText {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let is_jsonb = value.type_info().name() == "JSONB";
        let bytes = value.as_bytes()?;
        let text = if is_jsonb && value.format() == PgValueFormat::Binary { &bytes[1..] } else { bytes };
        Ok(Self(std::str::from_utf8(text)?.to_owned()))
    }
}

fn get<T>(got: Result<T, sqlx::Error>, column: &str) -> Result<T> {
    got.map_err(|err| inconsistent(column, &err.to_string()))
}

pub(crate) fn inconsistent(column: &str, what: &str) -> StoreError {
    StoreError::Inconsistent { column: column.to_owned(), what: what.to_owned() }
}
