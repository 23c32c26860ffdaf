//! What the columns of MySQL and MariaDB are, and how each is asked for and compared.

use sqlx::mysql::{MySqlColumn, MySqlTypeInfo};
use sqlx::{Column as _, Type, TypeInfo as _};

use super::super::incremental::Kind;

/// What a column is, as far as its values differ in form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Integer,
    Unsigned,
    Decimal,
    Float,
    Double,
    Bit,
    Year,
    Date,
    Datetime,
    Timestamp,
    Time,
    Enum,
    Set,
    /// A text of at most 65,535 bytes.
    Text,
    /// The same from a query, where nobody says whether it is an enum or a set.
    SomeText,
    /// As many bytes at most.
    Bytes,
    LongText,
    LongBytes,
    Json,
    Geometry,
}

impl Form {
    /// What the description of a result says; it is vague about some.
    pub(super) fn of_result(column: &MySqlColumn) -> Self {
        let described = column.type_info();
        // The name of a type calls a text binary when its collation is.
        let is_text = <str as Type<sqlx::MySql>>::compatible(described);
        match described.name() {
            "DECIMAL" => Self::Decimal,
            "FLOAT" => Self::Float,
            "DOUBLE" => Self::Double,
            "BIT" => Self::Bit,
            "YEAR" => Self::Year,
            "DATE" => Self::Date,
            "DATETIME" => Self::Datetime,
            "TIMESTAMP" => Self::Timestamp,
            "TIME" => Self::Time,
            "ENUM" => Self::Enum,
            "SET" => Self::Set,
            "JSON" => Self::Json,
            "GEOMETRY" => Self::Geometry,
            name if name.ends_with("UNSIGNED") => Self::Unsigned,
            "BOOLEAN" if is_unsigned(described) => Self::Unsigned,
            name if name.ends_with("INT") || name == "BOOLEAN" => Self::Integer,
            "CHAR" | "BINARY" if is_text => Self::SomeText,
            "VARCHAR" | "VARBINARY" | "NULL" if is_text || described.is_null() => Self::Text,
            "BINARY" | "VARBINARY" | "CHAR" | "VARCHAR" => Self::Bytes,
            _ if is_text => Self::LongText,
            _ => Self::LongBytes,
        }
    }

    /// What `information_schema.columns` says of a table's column, where that is more.
    pub(super) fn of_table(self, data_type: &str) -> Self {
        match (self, data_type) {
            (_, "set") => Self::Set,
            (_, "enum") => Self::Enum,
            (_, "json") => Self::Json,
            (Self::SomeText, _) => Self::Text,
            (form, _) => form,
        }
    }

    /// The word for it in messages.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Integer => "int",
            Self::Unsigned => "int unsigned",
            Self::Decimal => "decimal",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bit => "bit",
            Self::Year => "year",
            Self::Date => "date",
            Self::Datetime => "datetime",
            Self::Timestamp => "timestamp",
            Self::Time => "time",
            Self::Enum => "enum",
            Self::Set => "set",
            Self::Text | Self::SomeText => "varchar",
            Self::Bytes => "varbinary",
            Self::LongText => "text",
            Self::LongBytes => "blob",
            Self::Json => "json",
            Self::Geometry => "geometry",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Integer | Self::Unsigned => Kind::Integer,
            Self::Date | Self::Datetime | Self::Timestamp => Kind::Time,
            _ => Kind::Other,
        }
    }

    /// Values may have any length; so the server orders them by their beginning only.
    pub(super) fn is_long(self) -> bool {
        matches!(self, Self::LongText | Self::LongBytes | Self::Json | Self::Geometry)
    }

    /// How many bytes of JSON each byte of a long value makes at least.
    pub(super) fn expansion(self) -> u64 {
        if matches!(self, Self::LongBytes | Self::Geometry) { 2 } else { 1 }
    }

    /// A column as it is asked for. The server itself writes what the driver would take for a type of its own.
    pub(super) fn asked(self, name: &str) -> String {
        match self {
            Self::Date | Self::Datetime | Self::Timestamp | Self::Time => format!("cast({name} as char)"),
            Self::Bit | Self::Year => format!("cast({name} as unsigned)"),
            _ => name.to_owned(),
        }
    }

    /// A column as it is compared and ordered.
    pub(super) fn compared(self, name: &str) -> String {
        match self {
            // They are ordered by number and compared with texts as texts.
            Self::Enum | Self::Set | Self::Bit | Self::Year => format!("cast({name} as unsigned)"),
            Self::SomeText => format!("concat({name})"),
            _ => name.to_owned(),
        }
    }

    /// The value of a column as a text that [`parameter`](Self::parameter) takes, without loss.
    pub(super) fn place(self, name: &str) -> String {
        match self {
            // With more digits than the server would write; the reader makes the text.
            Self::Float | Self::Double => format!("{name} + 0e0"),
            Self::Bytes => format!("hex({name})"),
            Self::Text | Self::SomeText => name.to_owned(),
            _ => format!("cast({} as char)", self.compared(name)),
        }
    }

    /// What stands for `value` beside a column, where the value itself is a parameter.
    pub(super) fn parameter(self, value: &str) -> String {
        match self {
            Self::Integer => "cast(? as signed)".to_owned(),
            Self::Unsigned | Self::Enum | Self::Set | Self::Bit | Self::Year => "cast(? as unsigned)".to_owned(),
            Self::Decimal => {
                // Compared with a text it would be a float. 65 digits are the most there are.
                let scale = value.split_once('.').map_or(0, |(_, fraction)| fraction.trim_end().len());
                format!("cast(? as decimal(65, {}))", scale.min(38))
            }
            Self::Float | Self::Double => "(? + 0e0)".to_owned(),
            Self::Date | Self::Datetime | Self::Timestamp => "cast(? as datetime(6))".to_owned(),
            Self::Time => "cast(? as time(6))".to_owned(),
            Self::Bytes => "unhex(?)".to_owned(),
            Self::Text | Self::SomeText | Self::LongText | Self::LongBytes | Self::Json | Self::Geometry => {
                "?".to_owned()
            }
        }
    }
}

/// Of a `tinyint(1)`, whose name does not say it.
fn is_unsigned(described: &MySqlTypeInfo) -> bool {
    <u8 as Type<sqlx::MySql>>::compatible(described)
}
