//! What SQL is accepted: one query over known tables, of a size that parsers and planners survive.
//!
//! Parsers and planners recurse over expressions and overflow their stack on long ones, which aborts the process. So depth is
//! bounded on tokens, before anything recurses; then the syntax tree is walked for what is no plain query.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference as DfTableReference;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement as SqlStatement, TableFactor, Value,
    ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer, Word};
use matome_model::engine::{Failure, MAX_SQL_BYTES, Schema, TableReference};
use matome_model::field_error::Words;

use crate::failure::{refused, unparsed};

/// Tokens without white space and comments.
const MAX_TOKENS: usize = 20_000;
/// Operators that one expression may chain or nest.
const MAX_OPERATORS: usize = 500;
/// Parentheses, brackets and `case` within each other.
const MAX_NESTING: usize = 64;
/// `union`, `intersect` and `except` in the whole text.
const MAX_SET_OPERATIONS: usize = 100;
/// Tables, sub-queries and functions in `from` and `join`, in the whole text.
const MAX_RELATIONS: usize = 100;
/// Named sub-queries of `with`. Each use of one repeats its plan.
const MAX_CTES: usize = 50;
/// Recursion of the parser; above what `MAX_NESTING` can need.
const PARSER_RECURSION: usize = 4 * MAX_NESTING;

/// Functions that may stand where a table does: they make rows from their arguments alone.
const TABLE_FUNCTIONS: [&str; 2] = ["generate_series", "range"];

const ONE_QUERY: (&str, &str) = (
    "an aggregation is one query that starts with `select`, `with` or `values`",
    "集約は、`select`、`with`、`values`のどれかで始まる一つのクエリです",
);

const STORE_STEPS: (&str, &str) =
    ("store steps as aggregations of their own", "途中の段階を、それぞれ集約として保存してください");

/// A query that may be planned.
#[derive(Debug)]
pub(crate) struct CheckedQuery {
    pub(crate) statement: Statement,
    /// The tables that must exist; sorted, each once.
    pub(crate) tables: Vec<TableReference>,
    /// The parameters that must have a value; sorted, each once.
    pub(crate) parameters: Vec<String>,
}

/// Accepts `sql` or says why not.
pub(crate) fn check(sql: &str) -> Result<CheckedQuery, Failure> {
    if sql.len() > MAX_SQL_BYTES {
        let bytes = sql.len();
        return Err(refused(
            (
                format!("the SQL has {bytes} bytes, at most {MAX_SQL_BYTES} are accepted"),
                format!("SQLが{bytes}バイトあります。受け付けるのは{MAX_SQL_BYTES}バイトまでです"),
            ),
            (
                "long lists of values belong into a source of their own, joined to",
                "値の長い一覧は別のデータソースにして、結合してください",
            ),
        ));
    }
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize()
        .map_err(|err| refused((format!("SQL: {err}"), format!("SQLの誤り: {err}")), ("", "")))?;
    measure(&tokens)?;

    let mut statements = DFParserBuilder::new(sql)
        .with_dialect(&dialect)
        .with_recursion_limit(PARSER_RECURSION)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|err| unparsed(&err))?;
    let statement = match (statements.pop_front(), statements.len()) {
        (None, _) => return Err(refused(("the SQL is empty", "SQLが空です"), ONE_QUERY)),
        (Some(statement), 0) => statement,
        (Some(_), more) => {
            let count = more + 1;
            return Err(refused(
                (format!("there are {count} statements"), format!("文が{count}個あります")),
                ONE_QUERY,
            ));
        }
    };
    let Statement::Statement(query) = &statement else {
        return Err(refused_statement(&statement));
    };
    if !matches!(query.as_ref(), SqlStatement::Query(_)) {
        return Err(refused_statement(&statement));
    }
    let mut walk = Walk::default();
    if let ControlFlow::Break(failure) = query.visit(&mut walk) {
        return Err(*failure);
    }
    let tables = references(&statement, &walk)?;
    Ok(CheckedQuery { statement, tables, parameters: walk.parameters.into_iter().collect() })
}

fn refused_statement(statement: &Statement) -> Failure {
    let text = statement.to_string().to_lowercase();
    let words: Vec<&str> =
        text.split_whitespace().take(3).take_while(|word| word.chars().all(char::is_alphabetic)).collect();
    let words = words.join(" ");
    refused((format!("`{words}` is refused"), format!("`{words}`は使えません")), ONE_QUERY)
}

/// Bounds the size and depth of any tree that a parser can make of `tokens`.
///
/// Each open parenthesis, bracket or `case` is a level; on each, operators are counted since the last comma or keyword that
/// ends an expression. The sum over the open levels is at least the depth of the tree there.
fn measure(tokens: &[Token]) -> Result<(), Failure> {
    let mut levels: Vec<Level> = vec![Level::default()];
    let mut total = 0_usize;
    let mut operators = 0_usize;
    let mut set_operations = 0_usize;
    // What follows an operator is its operand, even when it reads like a keyword (`t.limit + t.limit`).
    let mut operand_expected = false;
    for token in tokens {
        if matches!(token, Token::Whitespace(_) | Token::EOF) {
            continue;
        }
        total += 1;
        if total > MAX_TOKENS {
            return Err(refused(
                (
                    format!("the SQL has more than {MAX_TOKENS} words and signs"),
                    format!("SQLの語と記号が{MAX_TOKENS}個を超えています"),
                ),
                ("split it into several aggregations", "いくつかの集約に分けてください"),
            ));
        }
        let role = role(token, operand_expected);
        operand_expected = role == Role::Operator;
        match role {
            Role::Operand => {}
            Role::Operator => {
                operators += 1;
                if let Some(level) = levels.last_mut() {
                    level.operators += 1;
                }
            }
            Role::Boundary => {
                if let Some(level) = levels.last_mut() {
                    operators -= level.operators;
                    level.operators = 0;
                }
            }
            Role::SetOperation => set_operations += 1,
            Role::Index => {
                // `x[1][1][1]` nests like a chain of operators, which closing must not forget.
                operators += 1;
                if let Some(level) = levels.last_mut() {
                    level.operators += 1;
                }
                levels.push(Level::default());
            }
            Role::Open | Role::Case => levels.push(Level { case: role == Role::Case, operators: 0 }),
            Role::Close => {
                while levels.len() > 1 {
                    let level = levels.pop().expect("there is more than one");
                    operators -= level.operators;
                    if !level.case {
                        break;
                    }
                }
            }
            Role::End => {
                if levels.last().is_some_and(|level| level.case) {
                    let level = levels.pop().expect("it was just looked at");
                    operators -= level.operators;
                }
            }
        }
        if operators > MAX_OPERATORS {
            return Err(refused(
                (
                    format!("an expression has more than {MAX_OPERATORS} operators"),
                    format!("一つの式の演算子が{MAX_OPERATORS}個を超えています"),
                ),
                (
                    "`x in (a, b, ...)` says the same as many `or`; several columns or steps of `with` split a long sum",
                    "多くの`or`は`x in (a, b, ...)`と書けます。長い和は、いくつかの列か`with`の段階に分けてください",
                ),
            ));
        }
        if levels.len() > MAX_NESTING {
            return Err(refused(
                (
                    format!("parentheses are nested more than {MAX_NESTING} deep"),
                    format!("括弧の入れ子が{MAX_NESTING}段を超えています"),
                ),
                ("name the inner parts in `with`", "内側の部分を`with`で名付けてください"),
            ));
        }
        if set_operations > MAX_SET_OPERATIONS {
            return Err(refused(
                (
                    format!("more than {MAX_SET_OPERATIONS} set operations such as `union`"),
                    format!("`union`などの集合演算が{MAX_SET_OPERATIONS}個を超えています"),
                ),
                ("`values (...), (...)` makes many rows at once", "`values (...), (...)`なら一度に多くの行を作れます"),
            ));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Level {
    case: bool,
    operators: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Operand,
    Operator,
    Boundary,
    SetOperation,
    Open,
    Index,
    Case,
    Close,
    End,
}

fn role(token: &Token, operand_expected: bool) -> Role {
    match token {
        Token::LParen | Token::LBrace => Role::Open,
        Token::LBracket => Role::Index,
        Token::RParen | Token::RBracket | Token::RBrace => Role::Close,
        Token::Comma | Token::SemiColon => Role::Boundary,
        Token::Word(word) if word.quote_style.is_none() => word_role(word, operand_expected),
        Token::Word(_) | Token::Number(..) | Token::Char(_) | Token::Placeholder(_) => Role::Operand,
        token if is_literal(token) => Role::Operand,
        // All that is left are signs: operators, periods, casts.
        _ => Role::Operator,
    }
}

fn is_literal(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
    )
}

fn word_role(word: &Word, operand_expected: bool) -> Role {
    let upper = word.value.to_ascii_uppercase();
    match upper.as_str() {
        "AND" | "OR" | "XOR" | "NOT" | "IS" | "IN" | "LIKE" | "ILIKE" | "SIMILAR" | "RLIKE" | "REGEXP" | "BETWEEN"
        | "COLLATE" | "DIV" | "OVERLAPS" | "AT" | "PRIOR" | "ESCAPE" | "MOD" => Role::Operator,
        "UNION" | "INTERSECT" | "EXCEPT" | "MINUS" => Role::SetOperation,
        "CASE" => Role::Case,
        _ if operand_expected => Role::Operand,
        "END" => Role::End,
        "SELECT" | "FROM" | "WHERE" | "GROUP" | "HAVING" | "ORDER" | "LIMIT" | "OFFSET" | "FETCH" | "QUALIFY"
        | "WINDOW" | "VALUES" | "JOIN" | "ON" | "USING" | "WHEN" | "THEN" | "ELSE" => Role::Boundary,
        _ => Role::Operand,
    }
}

/// The walk over the syntax tree. `Break` is boxed to keep the recursion's frames small.
#[derive(Default)]
struct Walk {
    depth: usize,
    statements: usize,
    relations: usize,
    ctes: usize,
    /// Names that stand as a table function somewhere.
    functions: BTreeSet<String>,
    /// Names that stand as a table somewhere.
    plain: BTreeSet<String>,
    /// Names that stand as `$name`.
    parameters: BTreeSet<String>,
}

type Step = ControlFlow<Box<Failure>>;

fn stop(message: impl Into<Words>, hint: impl Into<Words>) -> Step {
    ControlFlow::Break(Box::new(refused(message, hint)))
}

impl Visitor for Walk {
    type Break = Box<Failure>;

    fn pre_visit_statement(&mut self, _: &SqlStatement) -> Step {
        self.statements += 1;
        if self.statements > 1 {
            return stop(("a statement within the query is refused", "クエリの中に別の文は書けません"), ONE_QUERY);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> Step {
        self.ctes += query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        if self.ctes > MAX_CTES {
            return stop(
                (
                    format!("more than {MAX_CTES} sub-queries in `with`"),
                    format!("`with`の副問い合わせが{MAX_CTES}個を超えています"),
                ),
                STORE_STEPS,
            );
        }
        if !query.locks.is_empty() {
            return stop(
                ("`for update` and `for share` are refused", "`for update`と`for share`は使えません"),
                ("a query reads a fixed set of rows anyway", "クエリが読む行は、もともと決まっています"),
            );
        }
        if query.for_clause.is_some() || query.settings.is_some() || query.format_clause.is_some() {
            return stop(
                (
                    "`for xml|json|browse`, `settings` and `format` are refused",
                    "`for xml|json|browse`、`settings`、`format`は使えません",
                ),
                ("", ""),
            );
        }
        if !query.pipe_operators.is_empty() {
            return stop(
                ("pipe operators (`|>`) are refused", "パイプ演算子 (`|>`) は使えません"),
                ("use sub-queries or `with`", "副問い合わせか`with`を使ってください"),
            );
        }
        match query.body.as_ref() {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                stop(("a statement that writes is refused", "書き込む文は使えません"), ONE_QUERY)
            }
            SetExpr::Table(_) => stop(
                ("`table NAME` is refused", "`table NAME`は使えません"),
                ("write `select * from NAME`", "`select * from NAME`と書いてください"),
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> Step {
        if select.into.is_some() {
            return stop(
                ("`select into` is refused", "`select into`は使えません"),
                (
                    "the rows of the query are stored as the aggregation's data",
                    "クエリの行は、集約のデータとして保存されます",
                ),
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> Step {
        for part in &name.0 {
            let ObjectNamePart::Identifier(ident) = part else {
                return stop(
                    (format!("`{name}` is no table name"), format!("`{name}`はテーブル名ではありません")),
                    ("", ""),
                );
            };
            if ident.quote_style == Some('\'') {
                return stop(
                    (
                        format!("`{name}` is no table: files and addresses cannot be read from SQL"),
                        format!("`{name}`はテーブルではありません。SQLからファイルやアドレスは読めません"),
                    ),
                    (
                        "tables are the names of sources and aggregations; one that is no identifier goes in double quotes",
                        "テーブルはデータソースと集約の名前です。識別子の形でない名前は二重引用符で囲んでください",
                    ),
                );
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Step {
        self.relations += 1;
        if self.relations > MAX_RELATIONS {
            return stop(
                (
                    format!("more than {MAX_RELATIONS} tables and sub-queries"),
                    format!("テーブルと副問い合わせが{MAX_RELATIONS}個を超えています"),
                ),
                STORE_STEPS,
            );
        }
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                let plain = name.to_string();
                if !TABLE_FUNCTIONS.contains(&plain.as_str()) {
                    let known = TABLE_FUNCTIONS.join("`, `");
                    return stop(
                        (format!("table function `{plain}` is refused"), format!("テーブル関数`{plain}`は使えません")),
                        (format!("these exist: `{known}`, `unnest`"), format!("使えるもの: `{known}`、`unnest`")),
                    );
                }
                self.functions.insert(plain);
                ControlFlow::Continue(())
            }
            TableFactor::Table { name, .. } => {
                self.plain.insert(name.to_string());
                ControlFlow::Continue(())
            }
            TableFactor::Derived { .. } | TableFactor::UNNEST { .. } | TableFactor::NestedJoin { .. } => {
                ControlFlow::Continue(())
            }
            TableFactor::TableFunction { .. }
            | TableFactor::JsonTable { .. }
            | TableFactor::OpenJsonTable { .. }
            | TableFactor::XmlTable { .. }
            | TableFactor::SemanticView { .. }
            | TableFactor::Pivot { .. }
            | TableFactor::Unpivot { .. }
            | TableFactor::MatchRecognize { .. } => stop(
                ("this kind of table expression is refused", "この種類のテーブル式は使えません"),
                ("use tables, sub-queries, `unnest`", "テーブル、副問い合わせ、`unnest`を使ってください"),
            ),
        }
    }

    fn pre_visit_expr(&mut self, _: &Expr) -> Step {
        self.depth += 1;
        // The tokens bound this already; it stands here for a construct they do not foresee.
        if self.depth > MAX_OPERATORS + 2 * MAX_NESTING {
            return stop(
                ("an expression is too deep", "式の入れ子が深すぎます"),
                ("split it into several columns or steps of `with`", "いくつかの列か`with`の段階に分けてください"),
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> Step {
        if let Value::Placeholder(placeholder) = &value.value {
            let name = placeholder.strip_prefix('$').filter(|name| {
                name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            });
            match name {
                Some(name) => drop(self.parameters.insert(name.to_owned())),
                None => {
                    return stop(
                        (
                            format!("`{placeholder}` is no parameter"),
                            format!("`{placeholder}`はパラメーターではありません"),
                        ),
                        ("a parameter is `$name`", "パラメーターは`$name`と書きます"),
                    );
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> Step {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

fn references(statement: &Statement, walk: &Walk) -> Result<Vec<TableReference>, Failure> {
    let (found, _) = resolve_table_references(statement, false).map_err(|err| unparsed(&err))?;
    let mut tables = BTreeSet::new();
    for reference in found {
        let reference = match reference {
            DfTableReference::Bare { table } => {
                if walk.functions.contains(table.as_ref()) && !walk.plain.contains(table.as_ref()) {
                    continue;
                }
                TableReference { schema: None, name: table.to_string() }
            }
            DfTableReference::Partial { schema, table } => {
                let schema = [Schema::Sources, Schema::Aggregations]
                    .into_iter()
                    .find(|known| known.name() == schema.as_ref())
                    .ok_or_else(|| {
                        refused(
                            (format!("there is no schema `{schema}`"), format!("スキーマ`{schema}`はありません")),
                            (
                                "schemas: `sources`, `aggregations`; a name with a point in it goes in double quotes",
                                "スキーマは`sources`と`aggregations`です。点を含む名前は二重引用符で囲んでください",
                            ),
                        )
                    })?;
                TableReference { schema: Some(schema), name: table.to_string() }
            }
            DfTableReference::Full { .. } => {
                return Err(refused(
                    (format!("`{reference}` has too many parts"), format!("`{reference}`は部分が多すぎます")),
                    (
                        "write `sources.NAME`, `aggregations.NAME` or `NAME`",
                        "`sources.NAME`、`aggregations.NAME`、`NAME`のどれかで書いてください",
                    ),
                ));
            }
        };
        tables.insert(reference);
    }
    Ok(tables.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use matome_model::engine::FailureCode;

    use super::*;

    /// On a stack as the child has it.
    fn check(sql: &str) -> Result<CheckedQuery, Failure> {
        std::thread::scope(|scope| {
            let planner = std::thread::Builder::new().stack_size(crate::PLANNER_STACK_BYTES);
            planner.spawn_scoped(scope, || super::check(sql)).unwrap().join().unwrap()
        })
    }

    fn tables(sql: &str) -> Vec<String> {
        check(sql)
            .unwrap_or_else(|failure| panic!("{sql}: {failure:?}"))
            .tables
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn reason(sql: &str) -> String {
        let failure = check(sql).expect_err(sql);
        assert_eq!(failure.code, FailureCode::Refused);
        assert!(!failure.message.japanese.is_empty(), "{sql}");
        failure.message.english
    }

    #[test]
    fn tables_are_collected_without_names_of_with_and_functions() {
        let sql = "with a as (select * from a join sources.\"web log\" using (x)) select * from a, aggregations.Daily, range(1, 3)";
        assert_eq!(tables(sql), ["a", "sources.\"web log\"", "aggregations.Daily"]);
        assert_eq!(tables("select 1"), [""; 0]);
        assert_eq!(tables("values (1), (2)"), [""; 0]);
        assert_eq!(tables("-- a comment\nselect * from t /* another */ ;"), ["t"]);
        assert_eq!(tables("select (select max(n) from t) from T where exists (select * from u)"), ["T", "t", "u"]);
    }

    #[test]
    fn what_is_no_single_query_is_refused_with_its_name() {
        assert_eq!(
            reason("create external table x stored as csv location '/etc/passwd'"),
            "`create external table` is refused"
        );
        assert_eq!(reason("copy (select 1) to '/tmp/x.csv'"), "`copy` is refused");
        assert_eq!(reason("insert into t values (1)"), "`insert into t` is refused");
        assert_eq!(reason("explain analyze select 1"), "`explain analyze select` is refused");
        assert_eq!(reason("set datafusion.execution.batch_size = 1"), "`set` is refused");
        assert_eq!(reason("select 1; drop table t"), "there are 2 statements");
        assert_eq!(reason("  ;"), "the SQL is empty");
        assert_eq!(reason("select * into t from u"), "`select into` is refused");
        assert_eq!(reason("show tables"), "`show tables` is refused");
        reason("with x as (insert into t values (1) returning *) select * from x");
        reason("prepare p as select 1");
        reason("select * from");
    }

    #[test]
    fn parameters_are_collected_and_have_names() {
        let named = |sql: &str| check(sql).unwrap().parameters;
        assert_eq!(named("select $b, '$c' from t where x > $a or x < $a -- $d"), ["a", "b"]);
        assert_eq!(named("select 1"), [""; 0]);
        for wrong in ["select $1", "select ?"] {
            assert!(reason(wrong).contains("is no parameter"), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert!(reason("select * from '/etc/passwd'").contains("files and addresses cannot be read"));
        assert!(reason("select * from read_csv('/etc/passwd')").contains("`read_csv` is refused"));
        assert_eq!(reason("select * from information_schema.tables"), "there is no schema `information_schema`");
        assert!(reason("select * from a.sources.t").contains("too many parts"));
        assert_eq!(tables("select * from \"/etc/passwd\""), ["\"/etc/passwd\""]);
    }

    #[test]
    fn long_and_deep_expressions_are_refused() {
        let sum = |n: usize| format!("select {}", vec!["1"; n].join("+"));
        assert!(check(&sum(MAX_OPERATORS + 1)).is_ok());
        assert!(reason(&sum(MAX_OPERATORS + 2)).contains("operators"));
        assert!(reason(&sum(5_000)).contains("operators"));
        assert!(reason(&format!("select {}", vec!["true"; 20_000].join(" or "))).contains("bytes"));
        assert!(reason(&format!("select {}", vec!["x"; 10_000].join(" or "))).contains("operators"));
        assert!(reason(&format!("select {}1{}", "(".repeat(10_000), ")".repeat(10_000))).contains("nested"));
        assert!(reason(&format!("select {}", vec!["1"; 3_000].join(" union select "))).contains("set operations"));
        assert!(reason(&format!("select {} true", "not ".repeat(10_000))).contains("operators"));
        assert!(reason(&format!("select {}x", "- ".repeat(9_000))).contains("operators"));
        assert!(reason(&format!("select x{}", "[1]".repeat(9_000))).contains("operators"));
        assert!(reason(&format!("select x{}", "::int".repeat(9_000))).contains("operators"));
        assert!(reason(&format!("select * from t{}", " join t on true".repeat(200))).contains("tables"));
    }

    #[test]
    fn keyword_as_a_name_does_not_hide_a_chain() {
        assert!(reason(&format!("select {}", vec!["t.limit"; 3_000].join("+"))).contains("operators"));
        assert!(reason(&format!("select {}", vec!["offset"; 3_000].join("+"))).contains("operators"));
        assert!(reason(&format!("select {}", vec!["t.end"; 3_000].join(" or "))).contains("operators"));
    }

    #[test]
    fn long_lists_are_accepted() {
        let items: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
        assert!(check(&format!("select * from t where x in ({})", items.join(","))).is_ok());
        let columns: Vec<String> = (0..500).map(|n| format!("a+b*2 as c{n}")).collect();
        assert!(check(&format!("select {} from t", columns.join(","))).is_ok());
        let cases = "when x > 1 and y < 2 then 'a' ".repeat(300);
        assert!(check(&format!("select case {cases} else 'b' end from t")).is_ok());
    }
}
