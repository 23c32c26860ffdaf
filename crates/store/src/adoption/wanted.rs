//! What the original tables must be like once they are ours: migration 1 in the words of a comparison.
//!
//! `an_adopted_database_has_the_schema_of_a_new_one` compares both in the end.

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The primary key. Any width is taken over.
    Id,
    /// The id of a row of this table. Any width is taken over.
    Reference(&'static str),
    /// Text of at most so many characters.
    Varchar(i64),
    Text,
    Json,
    Int,
    BigInt,
    Time,
    Bytes,
}

impl Kind {
    /// The type as SQL has it.
    pub(super) fn sql(self) -> String {
        match self {
            Self::Id | Self::Reference(_) | Self::BigInt => "bigint".to_owned(),
            Self::Varchar(length) => format!("varchar({length})"),
            Self::Text => "text".to_owned(),
            Self::Json => "jsonb".to_owned(),
            Self::Int => "integer".to_owned(),
            Self::Time => "timestamptz".to_owned(),
            Self::Bytes => "bytea".to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
    pub(super) default: Option<&'static str>,
    /// Ordered by bytes.
    pub(super) binary: bool,
    /// Not of the original design: the name must be free.
    pub(super) is_ours: bool,
}

impl Column {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, nullable: false, default: None, binary: false, is_ours: false }
    }
    const fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }
    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }
    const fn binary(self) -> Self {
        Self { binary: true, ..self }
    }
    const fn ours(self) -> Self {
        Self { is_ours: true, ..self }
    }
}

/// An index; `definition` is what `pg_get_indexdef` says after `USING`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index {
    pub(super) name: &'static str,
    pub(super) unique: bool,
    pub(super) definition: &'static str,
}

/// A rule for each row; `definition` as `pg_get_constraintdef` says it, `broken` finds what it refuses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) definition: &'static str,
    pub(super) broken: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) indexes: &'static [Index],
    pub(super) checks: &'static [Check],
    /// Columns whose values are words of a list.
    pub(super) words: &'static [(&'static str, &'static [&'static str])],
}

use crate::data_sources::{SOURCE_TYPES, STATUSES};

const ID: Column = Column::new("id", Kind::Id);
const NAME: Column = Column::new("name", Kind::Varchar(255)).binary();
const DESCRIPTION: Column = Column::new("description", Kind::Text).nullable();
const STATUS: Column = Column::new("status", Kind::Varchar(20)).default("'active'");
const CONFIG: Column = Column::new("config", Kind::Json).default("'{}'");
const METADATA: Column = Column::new("metadata", Kind::Json).default("'{}'");
const CREATED_AT: Column = Column::new("created_at", Kind::Time).default("now()");
const UPDATED_AT: Column = Column::new("updated_at", Kind::Time).default("now()");
const NAME_FOLDED: Column = Column::new("name_folded", Kind::Text).binary().default("''").ours();
const DESCRIPTION_FOLDED: Column = Column::new("description_folded", Kind::Text).binary().default("''").ours();
const CONFIG_REV: Column = Column::new("config_rev", Kind::BigInt).default("1").ours();
const DELETED_AT: Column = Column::new("deleted_at", Kind::Time).nullable().ours();

macro_rules! name_check {
    ($name:literal) => {
        Check {
            name: $name,
            definition: "CHECK (((length((name)::text) >= 1) AND (length((name)::text) <= 255)))",
            broken: "length(name) not between 1 and 255",
        }
    };
}

/// In the order in which they refer to each other.
pub(super) const TABLES: &[Table] = &[
    Table {
        name: "data_sources",
        columns: &[
            ID,
            NAME,
            Column::new("source_type", Kind::Varchar(20)),
            DESCRIPTION,
            STATUS,
            CONFIG,
            Column::new("fetch_interval", Kind::Int).default("3600"),
            Column::new("last_fetched_at", Kind::Time).nullable(),
            CREATED_AT,
            UPDATED_AT,
            NAME_FOLDED,
            DESCRIPTION_FOLDED,
            CONFIG_REV,
            DELETED_AT,
        ],
        indexes: &[Index {
            name: "data_sources_deleted",
            unique: false,
            definition: "btree (id) WHERE (deleted_at IS NOT NULL)",
        }],
        checks: &[
            name_check!("data_sources_name_check"),
            Check {
                name: "data_sources_fetch_interval_check",
                definition: "CHECK ((fetch_interval >= 0))",
                broken: "fetch_interval < 0",
            },
        ],
        words: &[("source_type", SOURCE_TYPES), ("status", STATUSES)],
    },
    Table {
        name: "acquired_data",
        columns: &[
            ID,
            Column::new("source_id", Kind::Reference("data_sources")),
            Column::new("raw_data", Kind::Json),
            METADATA,
            Column::new("data_hash", Kind::Varchar(64)).nullable(),
            Column::new("acquired_at", Kind::Time).default("now()"),
            CREATED_AT,
            Column::new("stream", Kind::Text).binary().default("''").ours(),
            Column::new("key_hash", Kind::Bytes).nullable().ours(),
            Column::new("version", Kind::Int).default("1").ours(),
        ],
        indexes: &[
            Index {
                name: "idx_acquired_data_acquired_at",
                unique: false,
                definition: "btree (acquired_at DESC, id DESC)",
            },
            Index {
                name: "idx_acquired_data_source",
                unique: false,
                definition: "btree (source_id, acquired_at DESC, id DESC)",
            },
            Index { name: "idx_acquired_data_hash", unique: false, definition: "btree (data_hash)" },
            Index {
                name: "acquired_data_key",
                unique: true,
                definition: "btree (source_id, stream, key_hash, version) WHERE (key_hash IS NOT NULL)",
            },
        ],
        checks: &[],
        words: &[],
    },
    Table {
        name: "aggregation_sources",
        columns: &[
            ID,
            NAME,
            DESCRIPTION,
            STATUS,
            CONFIG,
            CREATED_AT,
            UPDATED_AT,
            NAME_FOLDED,
            DESCRIPTION_FOLDED,
            CONFIG_REV,
            DELETED_AT,
            Column::new("current_run_id", Kind::BigInt).nullable().ours(),
        ],
        indexes: &[Index {
            name: "aggregation_sources_deleted",
            unique: false,
            definition: "btree (id) WHERE (deleted_at IS NOT NULL)",
        }],
        checks: &[name_check!("aggregation_sources_name_check")],
        words: &[("status", STATUSES)],
    },
    Table {
        name: "aggregated_data",
        columns: &[
            ID,
            Column::new("source_id", Kind::Reference("aggregation_sources")),
            Column::new("data", Kind::Json),
            METADATA,
            Column::new("aggregated_at", Kind::Time).default("now()"),
            CREATED_AT,
            Column::new("run_id", Kind::BigInt).nullable().ours(),
        ],
        indexes: &[
            Index {
                name: "idx_aggregated_data_aggregated_at",
                unique: false,
                definition: "btree (aggregated_at DESC, id)",
            },
            Index {
                name: "idx_aggregated_data_source",
                unique: false,
                definition: "btree (source_id, aggregated_at DESC, id)",
            },
            Index { name: "aggregated_data_run", unique: false, definition: "btree (run_id)" },
        ],
        checks: &[],
        words: &[],
    },
];
