//! What the tables of another application are like, as PostgreSQL's catalogue says.

use crate::db::Conn;
use crate::error::Result;

#[derive(Clone, Debug)]
pub(super) struct FoundColumn {
    pub(super) name: String,
    /// As `format_type` says it, without length.
    pub(super) kind: String,
    /// Of `varchar(n)`.
    pub(super) length: Option<i64>,
    pub(super) not_null: bool,
    /// The expression, as PostgreSQL prints it.
    pub(super) default: Option<String>,
    /// Whether the database makes its values: identity or a generated column.
    pub(super) is_generated: bool,
    pub(super) collation: String,
    /// The sequence that belongs to it.
    pub(super) sequence: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct FoundIndex {
    pub(super) name: String,
    pub(super) unique: bool,
    /// Whether a constraint stands on it.
    pub(super) is_constraint: bool,
    pub(super) definition: String,
}

#[derive(Clone, Debug)]
pub(super) struct FoundConstraint {
    pub(super) name: String,
    /// `p` primary key, `f` foreign key, `c` check, `u` unique.
    pub(super) kind: String,
    pub(super) definition: String,
    /// The table that has it.
    pub(super) table: String,
    /// Whether that is another table, whose rows point here.
    pub(super) is_foreign: bool,
}

/// A table of another application.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) columns: Vec<FoundColumn>,
    pub(super) indexes: Vec<FoundIndex>,
    pub(super) constraints: Vec<FoundConstraint>,
    /// Rows; an estimate for large tables.
    pub(super) rows: i64,
    /// Bytes with its indexes.
    pub(super) bytes: i64,
    /// `r` for a plain table.
    pub(super) relation: String,
}

impl Found {
    pub(super) fn column(&self, name: &str) -> Option<&FoundColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

const TABLE: &str = "select c.relkind::text as relation, c.reltuples::bigint as guess,
    pg_total_relation_size(c.oid) as bytes
from pg_catalog.pg_class c where c.relnamespace = current_schema()::regnamespace and c.relname = $1";

const COLUMNS: &str = "select a.attname::text as name, format_type(a.atttypid, null) as kind,
    case when a.atttypid = 'varchar'::regtype and a.atttypmod > 4 then a.atttypmod - 4 end as length,
    a.attnotnull as not_null, pg_get_expr(d.adbin, d.adrelid) as expression,
    a.attidentity <> '' or a.attgenerated <> '' as is_generated, coalesce(l.collname::text, '') as collation,
    pg_get_serial_sequence(quote_ident($1), a.attname::text) as sequence
from pg_catalog.pg_attribute a
left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
left join pg_catalog.pg_collation l on l.oid = a.attcollation
where a.attrelid = to_regclass(quote_ident($1)) and a.attnum > 0 and not a.attisdropped
order by a.attnum";

const INDEXES: &str = "select c.relname::text as name, i.indisunique as is_unique,
    exists (select 1 from pg_catalog.pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))
        as is_constraint,
    substring(pg_get_indexdef(i.indexrelid) from ' USING (.*)$') as definition
from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
where i.indrelid = to_regclass(quote_ident($1)) order by c.relname";

const CONSTRAINTS: &str = "select k.conname::text as name, k.contype::text as kind,
    pg_get_constraintdef(k.oid) as definition, k.conrelid::regclass::text as table_name,
    k.conrelid <> to_regclass(quote_ident($1)) as is_foreign
from pg_catalog.pg_constraint k
where k.conparentid = 0 and (k.conrelid = to_regclass(quote_ident($1)) or k.confrelid = to_regclass(quote_ident($1)))
order by k.conname";

/// The table, if there is one of this name.
pub(super) async fn table(conn: &mut Conn<'_>, name: &str) -> Result<Option<Found>> {
    /// Below this size all rows are counted.
    const SMALL_BYTES: i64 = 64 << 20;
    let Some(about) = conn.fetch_optional(TABLE, &[name.into()]).await? else { return Ok(None) };
    let (relation, guess, bytes) = (about.text("relation")?, about.int("guess")?, about.int("bytes")?);
    let rows = if guess < 0 || bytes < SMALL_BYTES {
        let sql = format!("select count(*) as n from {}", quoted(name));
        conn.fetch_one(sqlx::AssertSqlSafe(sql), &[]).await?.int("n")?
    } else {
        guess
    };
    let mut found = Found { columns: vec![], indexes: vec![], constraints: vec![], rows, bytes, relation };
    for row in conn.fetch_all(COLUMNS, &[name.into()]).await? {
        found.columns.push(FoundColumn {
            name: row.text("name")?,
            kind: row.text("kind")?,
            length: row.opt_int("length")?,
            not_null: row.bool("not_null")?,
            default: row.opt_text("expression")?,
            is_generated: row.bool("is_generated")?,
            collation: row.text("collation")?,
            sequence: row.opt_text("sequence")?,
        });
    }
    for row in conn.fetch_all(INDEXES, &[name.into()]).await? {
        found.indexes.push(FoundIndex {
            name: row.text("name")?,
            unique: row.bool("is_unique")?,
            is_constraint: row.bool("is_constraint")?,
            definition: row.opt_text("definition")?.unwrap_or_default(),
        });
    }
    for row in conn.fetch_all(CONSTRAINTS, &[name.into()]).await? {
        found.constraints.push(FoundConstraint {
            name: row.text("name")?,
            kind: row.text("kind")?,
            definition: row.text("definition")?,
            table: row.text("table_name")?,
            is_foreign: row.bool("is_foreign")?,
        });
    }
    Ok(Some(found))
}

/// A name as SQL takes it, whatever it is.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Text as SQL takes it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
