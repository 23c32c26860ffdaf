//! The comparison: what is there, what must be there, and the steps between.

use matome_model::field_error::Words;
use sqlx::AssertSqlSafe;

use super::Options;
use super::found::{Found, FoundColumn, FoundIndex, literal, quoted, table};
use super::wanted::{Check, Column, Index, Kind, TABLES, Table};
use crate::db::Conn;
use crate::error::Result;

/// What a step does, a word for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Something new.
    Add,
    /// Something that is there becomes other.
    Change,
    /// Values where there are none.
    Fill,
    /// Another name.
    Rename,
    /// Something goes that carries no data.
    Drop,
}

impl Action {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Fill => "fill",
            Self::Rename => "rename",
            Self::Drop => "drop",
        }
    }
}

/// One step of an adoption.
#[derive(Clone, Debug)]
pub struct Step {
    /// The table.
    pub table: &'static str,
    /// What it does.
    pub action: Action,
    /// In a sentence.
    pub what: Words,
    /// The statement.
    pub sql: String,
    /// Whether every row is read or written anew.
    pub is_long: bool,
}

/// Why a database cannot be adopted as it is.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The table.
    pub table: String,
    /// What is in the way, and what to do about it.
    pub what: Words,
}

/// A table that is taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Its name.
    pub name: &'static str,
    /// Its rows; an estimate for large tables.
    pub rows: i64,
    /// Its bytes with all indexes.
    pub bytes: i64,
}

/// What adopting a database takes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The tables that are taken over.
    pub tables: Vec<Adopted>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// What forbids it; nothing is done while there is anything.
    pub problems: Vec<Problem>,
    /// Columns with times that have no zone.
    pub naive_times: Vec<String>,
}

impl Plan {
    fn step(&mut self, table: &'static str, action: Action, what: Words, sql: String) {
        self.steps.push(Step { table, action, what, sql, is_long: false });
    }

    fn long_step(&mut self, table: &'static str, action: Action, what: Words, sql: String) {
        self.steps.push(Step { table, action, what, sql, is_long: true });
    }

    fn problem(&mut self, table: &str, english: impl Into<String>, japanese: impl Into<String>) {
        self.problems.push(Problem { table: table.to_owned(), what: Words::new(english, japanese) });
    }
}

/// Compares everything; changes nothing.
pub(super) async fn compare(conn: &mut Conn<'_>, options: &Options) -> Result<Plan> {
    let mut plan = Plan::default();
    for wanted in TABLES {
        let Some(found) = table(conn, wanted.name).await? else { continue };
        plan.tables.push(Adopted { name: wanted.name, rows: found.rows, bytes: found.bytes });
        if found.relation != "r" {
            plan.problem(
                wanted.name,
                "this is no plain table; partitions and views cannot be taken over: put its rows into a plain table",
                "通常のテーブルではありません。パーティションやビューは引き継げません。行を通常のテーブルに移してください",
            );
            continue;
        }
        let comparison = Comparison { wanted, found: &found, options };
        comparison.constraints_of_others(&mut plan);
        comparison.columns(conn, &mut plan).await?;
        comparison.words(conn, &mut plan).await?;
        comparison.constraints(conn, &mut plan).await?;
        comparison.indexes(&mut plan);
    }
    names_of_ours(conn, &mut plan).await?;
    if options.timezone.is_none() && !plan.naive_times.is_empty() {
        let columns = plan.naive_times.join(", ");
        plan.problem(
            "",
            format!(
                "times without a zone are in {columns}: say where they were written with --assume-timezone, such as \
                 Asia/Tokyo or UTC"
            ),
            format!(
                "タイムゾーンのない時刻があります ({columns})。どのゾーンで書かれたかを --assume-timezone で指定してください \
                 (例: Asia/Tokyo、UTC)"
            ),
        );
    }
    if let Some(zone) = &options.timezone {
        let sql = "select 1 as found from pg_catalog.pg_timezone_names where name = $1";
        if conn.fetch_optional(sql, &[zone.into()]).await?.is_none() {
            plan.problem(
                "",
                format!("there is no time zone `{zone}`: give a name of the IANA list, such as Asia/Tokyo or UTC"),
                format!("タイムゾーン `{zone}` はありません。Asia/Tokyo や UTC のような IANA の名前を指定してください"),
            );
        }
    }
    Ok(plan)
}

struct Comparison<'a> {
    wanted: &'static Table,
    found: &'a Found,
    options: &'a Options,
}

impl Comparison<'_> {
    fn name(&self) -> &'static str {
        self.wanted.name
    }

    /// Rows of other tables must not keep a deleted source from going.
    fn constraints_of_others(&self, plan: &mut Plan) {
        let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        for other in self.found.constraints.iter().filter(|other| other.is_foreign && other.kind == "f") {
            let plain = other.table.trim_matches('"');
            if names.contains(&plain) {
                continue;
            }
            plan.step(
                self.name(),
                Action::Drop,
                Words::new(
                    format!(
                        "foreign key `{}` of `{}`, which stays as it is: its rows must not hold back a deleted source",
                        other.name, other.table
                    ),
                    format!(
                        "`{}` の外部キー `{}`。テーブルの行は残ります。削除されたソースを引き留めないようにするためです",
                        other.table, other.name
                    ),
                ),
                format!("alter table {} drop constraint {}", other.table, quoted(&other.name)),
            );
        }
    }

    async fn columns(&self, conn: &mut Conn<'_>, plan: &mut Plan) -> Result<()> {
        for column in self.wanted.columns {
            match self.found.column(column.name) {
                None => self.missing(*column, plan),
                Some(_) if column.is_ours => plan.problem(
                    self.name(),
                    format!("column `{0}` has a name that matome needs: rename it first", column.name),
                    format!("列 `{}` の名前は matome が使います。先に改名してください", column.name),
                ),
                Some(found) => {
                    self.kind(*column, found, plan);
                    self.nulls(conn, *column, found, plan).await?;
                    self.default(conn, *column, found, plan).await?;
                }
            }
        }
        for extra in &self.found.columns {
            let is_known = self.wanted.columns.iter().any(|column| column.name == extra.name);
            if !is_known && extra.not_null && extra.default.is_none() && !extra.is_generated {
                plan.step(
                    self.name(),
                    Action::Change,
                    Words::new(
                        format!("column `{}`, which matome does not know, may be null: new rows have none", extra.name),
                        format!(
                            "matome の知らない列 `{}` は NULL を許すようにします。新しい行には値がないためです",
                            extra.name
                        ),
                    ),
                    format!("alter table {} alter column {} drop not null", self.name(), quoted(&extra.name)),
                );
            }
        }
        Ok(())
    }

    fn missing(&self, column: Column, plan: &mut Plan) {
        if column.default.is_none() && !column.nullable {
            return plan.problem(
                self.name(),
                format!("column `{0}` is missing, and what was in it cannot be guessed: this is no table of the original application", column.name),
                format!("列 `{}` がなく、値を推測できません。元のアプリケーションのテーブルではないようです", column.name),
            );
        }
        let (collation, null) =
            (if column.binary { " collate \"C\"" } else { "" }, if column.nullable { "" } else { " not null" });
        let default = column.default.map(|default| format!(" default {default}")).unwrap_or_default();
        let kind = column.kind.sql();
        plan.step(
            self.name(),
            Action::Add,
            Words::new(format!("column `{}`", column.name), format!("列 `{}`", column.name)),
            format!("alter table {} add column {} {kind}{collation}{null}{default}", self.name(), column.name),
        );
    }

    fn kind(&self, column: Column, found: &FoundColumn, plan: &mut Plan) {
        let name = column.name;
        let alter = |to: &str| format!("alter table {} alter column {name} type {to}", self.name());
        let change = |plan: &mut Plan, sql: String, to: &str, is_long: bool| {
            let what = Words::new(
                format!("column `{name}` from {} to {to}", shown(found)),
                format!("列 `{name}` を {} から {to} に", shown(found)),
            );
            plan.steps.push(Step { table: self.name(), action: Action::Change, what, sql, is_long });
        };
        let is_text = matches!(found.kind.as_str(), "character varying" | "text");
        match column.kind {
            Kind::Id | Kind::Reference(_) if ["smallint", "integer", "bigint"].contains(&found.kind.as_str()) => {}
            Kind::BigInt if found.kind == "bigint" => {}
            Kind::Varchar(length) if is_text => {
                let is_short = found.length.is_some_and(|found| found < length);
                if is_short || column.binary && found.collation != "C" {
                    let collation = if column.binary { " collate \"C\"" } else { "" };
                    let to = format!("varchar({length}){collation}");
                    // Only the index of names is made anew.
                    change(plan, alter(&to), &to, false);
                }
            }
            Kind::Text if is_text => {
                if found.kind != "text" {
                    change(plan, alter("text"), "text", false);
                }
            }
            Kind::Json if found.kind == "jsonb" => {}
            Kind::Json if found.kind == "json" => {
                let sql = format!(
                    "alter table {0} alter column {name} drop default; {1} using {name}::jsonb",
                    self.name(),
                    alter("jsonb")
                );
                change(plan, sql, "jsonb", true);
            }
            Kind::Int if ["integer", "bigint"].contains(&found.kind.as_str()) => {}
            Kind::Int if found.kind == "smallint" => change(plan, alter("integer"), "integer", false),
            Kind::Time if found.kind == "timestamp with time zone" => {}
            Kind::Time if found.kind == "timestamp without time zone" => {
                plan.naive_times.push(format!("{}.{name}", self.name()));
                let Some(zone) = &self.options.timezone else { return };
                let sql = format!(
                    "alter table {0} alter column {name} drop default; {1} using {name} at time zone {2}",
                    self.name(),
                    alter("timestamptz"),
                    literal(zone)
                );
                let what = Words::new(
                    format!("column `{name}` from {} to timestamptz, its times read as {zone}", found.kind),
                    format!("列 `{name}` を {} から timestamptz に。時刻は {zone} のものとして読みます", found.kind),
                );
                plan.long_step(self.name(), Action::Change, what, sql);
            }
            _ => plan.problem(
                self.name(),
                format!("column `{name}` is {}, which cannot be taken over as {}", shown(found), column.kind.sql()),
                format!("列 `{name}` の型は {} で、{} として引き継げません", shown(found), column.kind.sql()),
            ),
        }
    }

    async fn nulls(&self, conn: &mut Conn<'_>, column: Column, found: &FoundColumn, plan: &mut Plan) -> Result<()> {
        let (table, name) = (self.name(), column.name);
        if column.nullable && found.not_null {
            let what = Words::new(format!("column `{name}` may be null"), format!("列 `{name}` は NULL を許す"));
            plan.step(table, Action::Change, what, format!("alter table {table} alter column {name} drop not null"));
        }
        if column.nullable || found.not_null {
            return Ok(());
        }
        let nulls = count(conn, table, &format!("{name} is null")).await?;
        match column.default {
            Some(default) if nulls > 0 => plan.long_step(
                table,
                Action::Fill,
                Words::new(
                    format!("{nulls} rows without `{name}` get {default}"),
                    format!("`{name}` のない {nulls} 行に {default} を入れる"),
                ),
                format!("update {table} set {name} = {default} where {name} is null"),
            ),
            None if nulls > 0 => {
                let ids = ids(conn, table, &format!("{name} is null")).await?;
                plan.problem(
                    table,
                    format!("{nulls} rows have no `{name}` (id {ids}): give them one, or delete them"),
                    format!("{nulls} 行に `{name}` がありません (id {ids})。値を入れるか、行を削除してください"),
                );
            }
            _ => {}
        }
        let what = Words::new(format!("column `{name}` must not be null"), format!("列 `{name}` は NULL を許さない"));
        plan.long_step(table, Action::Change, what, format!("alter table {table} alter column {name} set not null"));
        Ok(())
    }

    async fn default(&self, conn: &mut Conn<'_>, column: Column, found: &FoundColumn, plan: &mut Plan) -> Result<()> {
        let (table, name) = (self.name(), column.name);
        if column.kind == Kind::Id {
            return self.numbers(conn, found, plan).await;
        }
        let Some(default) = column.default else { return Ok(()) };
        // PostgreSQL prints `'active'::character varying`.
        let is_there = found.default.as_deref().is_some_and(|found| found.split("::").next() == Some(default));
        // A changed type took the default away.
        let is_dropped = matches!(found.kind.as_str(), "timestamp without time zone" | "json");
        if !is_there || is_dropped {
            let what = Words::new(
                format!("default of column `{name}`: {default}"),
                format!("列 `{name}` の既定値: {default}"),
            );
            let sql = format!("alter table {table} alter column {name} set default {default}");
            plan.step(table, Action::Change, what, sql);
        }
        Ok(())
    }

    /// Where new ids come from.
    async fn numbers(&self, conn: &mut Conn<'_>, found: &FoundColumn, plan: &mut Plan) -> Result<()> {
        let table = self.name();
        let by_sequence = found.default.as_deref().filter(|default| default.starts_with("nextval('"));
        let highest = "coalesce(max(id), 0)";
        match (&found.sequence, by_sequence) {
            (Some(sequence), _) => {
                let sql = format!(
                    "select (select {highest} from {table})
> coalesce((select s.last_value from pg_catalog.pg_sequences s
    where s.schemaname = current_schema() and quote_ident(s.sequencename) = {}), 0) as is_behind",
                    literal(sequence.rsplit('.').next().unwrap_or(sequence))
                );
                if conn.fetch_one(AssertSqlSafe(sql), &[]).await?.bool("is_behind")? {
                    plan.step(
                        table,
                        Action::Change,
                        Words::new(
                            "the sequence of ids goes on behind the highest",
                            "ID のシーケンスを最大の ID の後に進める",
                        ),
                        format!("select setval({}, (select {highest} from {table}))", literal(sequence)),
                    );
                }
            }
            (None, Some(default)) => {
                let sequence = default.trim_start_matches("nextval('").split('\'').next().unwrap_or_default();
                plan.step(
                    table,
                    Action::Change,
                    Words::new(
                        format!("sequence {sequence} belongs to column `id`"),
                        format!("シーケンス {sequence} を列 `id` のものにする"),
                    ),
                    format!("alter sequence {sequence} owned by {table}.id"),
                );
            }
            (None, None) => plan.step(
                table,
                Action::Add,
                Words::new("a sequence for new ids", "新しい ID のためのシーケンス"),
                format!(
                    "alter table {table} alter column id drop default;
alter table {table} alter column id set not null;
alter table {table} alter column id add generated by default as identity;
select setval(pg_get_serial_sequence('{table}', 'id'), greatest((select {highest} from {table}), 1))"
                ),
            ),
        }
        Ok(())
    }

    /// Words of another application become ours.
    async fn words(&self, conn: &mut Conn<'_>, plan: &mut Plan) -> Result<()> {
        for (column, known) in self.wanted.words {
            if self.found.column(column).is_none() {
                continue;
            }
            let sql = format!(
                "select {column}::text as word, count(*) as n from {} where {column} is not null group by 1 order by 1",
                self.name()
            );
            for row in conn.fetch_all(AssertSqlSafe(sql), &[]).await? {
                let (word, n) = (row.text("word")?, row.int("n")?);
                if known.contains(&word.as_str()) {
                    continue;
                }
                let lower = word.to_ascii_lowercase();
                let given = self.options.words.iter().find(|(from, _)| *from == word).map(|(_, to)| to.as_str());
                let to = given.unwrap_or(&lower);
                if !known.contains(&to) {
                    let list = known.join(", ");
                    plan.problem(
                        self.name(),
                        format!("`{column}` of {n} rows is `{word}`: say which of {list} it is with --word {word}=..."),
                        format!(
                            "{n} 行の `{column}` が `{word}` です。{list} のどれにあたるかを --word {word}=... で指定してください"
                        ),
                    );
                    continue;
                }
                plan.step(
                    self.name(),
                    Action::Fill,
                    Words::new(
                        format!("`{column}` of {n} rows from `{word}` to `{to}`"),
                        format!("{n} 行の `{column}` を `{word}` から `{to}` に"),
                    ),
                    format!(
                        "update {} set {column} = {} where {column} = {}",
                        self.name(),
                        literal(to),
                        literal(&word)
                    ),
                );
            }
        }
        Ok(())
    }

    async fn constraints(&self, conn: &mut Conn<'_>, plan: &mut Plan) -> Result<()> {
        let table = self.name();
        let has = |kind: &str, definition: &str| {
            let own = self.found.constraints.iter().filter(|found| !found.is_foreign || found.table == table);
            own.into_iter().any(|found| found.kind == kind && found.definition.starts_with(definition))
        };
        if !has("p", "PRIMARY KEY (id)") {
            if has("p", "") {
                plan.problem(
                    table,
                    "its primary key is not `id`".to_owned(),
                    "主キーが `id` ではありません".to_owned(),
                );
            } else {
                let what = Words::new("primary key `id`", "主キー `id`");
                plan.long_step(table, Action::Add, what, format!("alter table {table} add primary key (id)"));
            }
        }
        for column in self.wanted.columns {
            let Kind::Reference(to) = column.kind else { continue };
            if self.found.column(column.name).is_none()
                || has("f", &format!("FOREIGN KEY ({}) REFERENCES {to}(id)", column.name))
            {
                continue;
            }
            let orphan = format!("not exists (select 1 from {to} s where s.id = {table}.{})", column.name);
            let orphan = format!("{} is not null and {orphan}", column.name);
            let orphans = count(conn, table, &orphan).await?;
            if orphans > 0 {
                let ids = ids(conn, table, &orphan).await?;
                plan.problem(
                    table,
                    format!("{orphans} rows belong to no row of `{to}` (id {ids}): correct `{}`, or delete them", column.name),
                    format!("{orphans} 行に対応する `{to}` の行がありません (id {ids})。`{}` を直すか、行を削除してください", column.name),
                );
            }
            plan.long_step(
                table,
                Action::Add,
                Words::new(format!("foreign key to `{to}`"), format!("`{to}` への外部キー")),
                format!("alter table {table} add foreign key ({}) references {to} (id)", column.name),
            );
        }
        for Check { name, definition, broken } in self.wanted.checks {
            if has("c", definition) {
                continue;
            }
            let n = count(conn, table, broken).await?;
            if n > 0 {
                let ids = ids(conn, table, broken).await?;
                plan.problem(
                    table,
                    format!("{n} rows break a rule of matome ({broken}; id {ids}): correct them"),
                    format!("{n} 行が matome の規則に反しています ({broken}、id {ids})。直してください"),
                );
            }
            // The name may be taken by another rule.
            let is_taken = self.found.constraints.iter().any(|found| found.name == *name);
            let named = if is_taken { String::new() } else { format!("constraint {name} ") };
            plan.step(
                table,
                Action::Add,
                Words::new(format!("rule `{definition}`"), format!("規則 `{definition}`")),
                format!("alter table {table} add {named}{}", definition.replacen("CHECK", "check", 1)),
            );
        }
        if self.wanted.columns.iter().any(|column| column.name == "name") {
            self.unique_name(conn, plan).await?;
        }
        Ok(())
    }

    async fn unique_name(&self, conn: &mut Conn<'_>, plan: &mut Plan) -> Result<()> {
        let (table, key) = (self.name(), format!("{}_name_key", self.name()));
        let unique = self.found.indexes.iter().find(|index| index.unique && index.definition == "btree (name)");
        match unique {
            Some(index) if index.name == key => {}
            Some(index) => self.rename(index, &key, plan),
            None => {
                let twice =
                    "name in (select d.name from {t} d group by d.name having count(*) > 1)".replace("{t}", table);
                let n = count(conn, table, &twice).await?;
                if n > 0 {
                    let ids = ids(conn, table, &twice).await?;
                    plan.problem(
                        table,
                        format!("{n} rows have the name of another (id {ids}): rename them"),
                        format!("{n} 行の名前がほかの行と同じです (id {ids})。改名してください"),
                    );
                }
                let what = Words::new("unique `name`", "`name` の一意制約");
                plan.step(table, Action::Add, what, format!("alter table {table} add constraint {key} unique (name)"));
            }
        }
        Ok(())
    }

    fn rename(&self, index: &FoundIndex, to: &str, plan: &mut Plan) {
        plan.step(
            self.name(),
            Action::Rename,
            Words::new(
                format!("index `{}` is what matome calls `{to}`", index.name),
                format!("インデックス `{}` は matome の `{to}` にあたる", index.name),
            ),
            format!("alter index {} rename to {to}", quoted(&index.name)),
        );
    }

    fn indexes(&self, plan: &mut Plan) {
        for wanted in self.wanted.indexes {
            let same = |found: &&FoundIndex| found.unique == wanted.unique && found.definition == wanted.definition;
            let named = self.found.indexes.iter().find(|found| found.name == wanted.name);
            if named.as_ref().is_some_and(same) {
                continue;
            }
            match named {
                Some(other) if is_covered(other, wanted) => plan.step(
                    self.name(),
                    Action::Drop,
                    Words::new(
                        format!("index `{}` ({}), which a longer one takes the place of", other.name, other.definition),
                        format!("インデックス `{}` ({})。より長いものが代わりになる", other.name, other.definition),
                    ),
                    format!("drop index {}", quoted(&other.name)),
                ),
                Some(other) => {
                    let mut aside = format!("{}_before", wanted.name);
                    while self.found.indexes.iter().any(|index| index.name == aside) {
                        aside.push('_');
                    }
                    plan.step(
                        self.name(),
                        Action::Rename,
                        Words::new(
                            format!("index `{}` ({}) makes room as `{aside}`", other.name, other.definition),
                            format!("インデックス `{}` ({}) を `{aside}` に", other.name, other.definition),
                        ),
                        format!("alter index {} rename to {}", quoted(&other.name), quoted(&aside)),
                    );
                }
                None => {}
            }
            match self.found.indexes.iter().find(|found| same(found) && !found.is_constraint) {
                Some(index) => self.rename(index, wanted.name, plan),
                None => plan.long_step(
                    self.name(),
                    Action::Add,
                    Words::new(
                        format!("index `{}` ({})", wanted.name, wanted.definition),
                        format!("インデックス `{}` ({})", wanted.name, wanted.definition),
                    ),
                    format!(
                        "create {}index {} on {} using {}",
                        if wanted.unique { "unique " } else { "" },
                        wanted.name,
                        self.name(),
                        wanted.definition
                    ),
                ),
            }
        }
    }
}

/// Whether every search that `other` serves is served by `wanted`.
fn is_covered(other: &FoundIndex, wanted: &Index) -> bool {
    let beginning = other.definition.strip_suffix(')').unwrap_or(&other.definition);
    !other.unique && !other.is_constraint && wanted.definition.starts_with(&format!("{beginning},"))
}

fn shown(found: &FoundColumn) -> String {
    match found.length {
        Some(length) => format!("varchar({length})"),
        None => found.kind.clone(),
    }
}

/// Names that the other tables of matome will have must be free.
async fn names_of_ours(conn: &mut Conn<'_>, plan: &mut Plan) -> Result<()> {
    let sql = "select c.relname::text as name from pg_catalog.pg_class c
where c.relnamespace = current_schema()::regnamespace and c.relname = any($1) order by 1";
    let names = crate::migrate::table_names();
    for row in conn.fetch_all(sql, &[crate::db::Arg::Texts(&names)]).await? {
        let name = row.text("name")?;
        if TABLES.iter().any(|table| table.name == name) {
            continue;
        }
        plan.problem(
            &name,
            format!("`{name}` is the name of a table that matome needs: rename the one that is there, or use a schema of its own"),
            format!("`{name}` は matome が使うテーブル名です。今あるものを改名するか、別のスキーマを使ってください"),
        );
    }
    Ok(())
}

async fn count(conn: &mut Conn<'_>, table: &str, condition: &str) -> Result<i64> {
    let sql = format!("select count(*) as n from {table} where {condition}");
    conn.fetch_one(AssertSqlSafe(sql), &[]).await?.int("n")
}

/// The first few ids of rows, for people.
async fn ids(conn: &mut Conn<'_>, table: &str, condition: &str) -> Result<String> {
    let sql = format!("select id from {table} where {condition} order by id limit 6");
    let rows = conn.fetch_all(AssertSqlSafe(sql), &[]).await?;
    let mut ids = rows.iter().map(|row| row.int("id").map(|id| id.to_string())).collect::<Result<Vec<_>>>()?;
    if ids.len() > 5 {
        ids[5] = "...".to_owned();
    }
    Ok(ids.join(", "))
}
