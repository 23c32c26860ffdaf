//! Which rows a statement asks for and in which order, in the words of any database.

use super::order::{Column, From, Order, Part};

/// How one database writes what conditions are made of.
pub(super) trait Dialect {
    /// Whether `(a, b) > (x, y)` is looked up in an index; else it is written out.
    const COMPARES_ROWS: bool = true;

    /// A column as it is compared and ordered.
    fn column(&self, column: &Column) -> String;

    /// Takes a value that a column had; returns what stands for it in the statement.
    fn parameter(&mut self, value: &str, column: &Column) -> String;

    /// The same for what lies `overlap` before the value; more than 0 for columns that have a distance.
    fn before(&mut self, value: &str, overlap: u64, column: &Column) -> String;

    /// Whether a column has no value.
    fn is_null(&self, column: &Column) -> String {
        format!("{} is null", self.column(column))
    }
}

/// What stands behind `from`: `where` and `order by`, where there is need of them. Parameters are taken in the order in which
/// they stand there.
pub(super) fn rows(order: &Order, part: &Part, dialect: &mut impl Dialect) -> String {
    let mut conditions = Vec::new();
    let mut columns = order.columns.as_slice();
    match part {
        Part::Valued(from) => {
            if let (Some(_), Some(cursor)) = (&order.cursor, columns.first()) {
                conditions.push(format!("{} is not null", dialect.column(cursor)));
                if let From::Cursor(value, overlap) = from {
                    let least = match overlap {
                        0 => dialect.parameter(value, cursor),
                        overlap => dialect.before(value, *overlap, cursor),
                    };
                    conditions.push(format!("{} >= {least}", dialect.column(cursor)));
                }
            }
            if let From::Place(values) = from {
                conditions.push(behind(columns, values, order.is_unique, dialect));
            }
        }
        Part::Nulls(place) => {
            conditions.extend(columns.first().map(|cursor| dialect.is_null(cursor)));
            columns = columns.get(1..).unwrap_or_default();
            if let Some(values) = place.as_ref().filter(|_| !columns.is_empty()) {
                conditions.push(behind(columns, values, order.is_unique, dialect));
            }
        }
    }
    let mut sql = String::new();
    if !conditions.is_empty() {
        sql.push_str("\nwhere ");
        sql.push_str(&conditions.join("\n    and "));
    }
    if !columns.is_empty() {
        let names: Vec<String> = columns.iter().map(|column| dialect.column(column)).collect();
        sql.push_str("\norder by ");
        sql.push_str(&names.join(", "));
    }
    sql
}

/// The condition for rows behind the one that has `values`; at it where others may have the same.
fn behind<D: Dialect>(columns: &[Column], values: &[String], is_unique: bool, dialect: &mut D) -> String {
    let operator = if is_unique { ">" } else { ">=" };
    if D::COMPARES_ROWS {
        let names: Vec<String> = columns.iter().map(|column| dialect.column(column)).collect();
        let places: Vec<String> =
            columns.iter().zip(values).map(|(column, value)| dialect.parameter(value, column)).collect();
        return format!("({}) {operator} ({})", names.join(", "), places.join(", "));
    }
    let ([first, columns @ ..], [value, values @ ..]) = (columns, values) else { return "true".to_owned() };
    let name = dialect.column(first);
    if columns.is_empty() {
        return format!("{name} {operator} {}", dialect.parameter(value, first));
    }
    let (above, equal) = (dialect.parameter(value, first), dialect.parameter(value, first));
    let inner = behind(columns, values, is_unique, dialect);
    format!("({name} > {above} or ({name} = {equal} and {inner}))")
}

#[cfg(test)]
mod tests {
    use super::super::incremental::{Kind, Nulls};
    use super::super::order::Cursor;
    use super::*;

    #[derive(Default)]
    struct Spelled<const ROWS: bool>(Vec<String>);

    impl<const ROWS: bool> Dialect for Spelled<ROWS> {
        const COMPARES_ROWS: bool = ROWS;

        fn column(&self, column: &Column) -> String {
            column.name.clone()
        }

        fn parameter(&mut self, value: &str, _: &Column) -> String {
            self.0.push(value.to_owned());
            format!("${}", self.0.len())
        }

        fn before(&mut self, value: &str, overlap: u64, column: &Column) -> String {
            format!("{} - {overlap}", self.parameter(value, column))
        }
    }

    fn order(names: &[&str], has_cursor: bool, is_unique: bool) -> Order {
        let column = |name: &&str| Column { name: (*name).to_owned(), of_type: String::new(), kind: Kind::Other };
        let cursor = has_cursor.then_some(Cursor { overlap: 0, nulls: Nulls::Read });
        Order { columns: names.iter().map(column).collect(), cursor, is_unique }
    }

    fn spelled<const ROWS: bool>(order: &Order, part: &Part) -> (String, Vec<String>) {
        let mut dialect = Spelled::<ROWS>::default();
        let sql = rows(order, part, &mut dialect);
        (sql.split_whitespace().collect::<Vec<_>>().join(" "), dialect.0)
    }

    fn values(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn rows_behind_a_place_are_those_above_it_column_by_column() {
        let place = Part::Valued(From::Place(values(&["1", "2", "3"])));
        let (sql, taken) = spelled::<true>(&order(&["a", "b", "c"], true, true), &place);
        assert_eq!(sql, "where a is not null and (a, b, c) > ($1, $2, $3) order by a, b, c");
        assert_eq!(taken, ["1", "2", "3"]);
        let (sql, taken) = spelled::<false>(&order(&["a", "b", "c"], false, false), &place);
        assert_eq!(sql, "where (a > $1 or (a = $2 and (b > $3 or (b = $4 and c >= $5)))) order by a, b, c");
        assert_eq!(taken, ["1", "1", "2", "2", "3"]);
    }

    #[test]
    fn a_read_without_order_asks_for_everything() {
        assert_eq!(spelled::<true>(&order(&[], false, false), &Part::Valued(From::First)).0, "");
    }

    #[test]
    fn an_overlap_begins_before_the_cursor_and_none_at_it() {
        let order = order(&["a", "id"], true, true);
        let from = |overlap| Part::Valued(From::Cursor("9".to_owned(), overlap));
        assert_eq!(spelled::<false>(&order, &from(5)).0, "where a is not null and a >= $1 - 5 order by a, id");
        assert_eq!(spelled::<false>(&order, &from(0)).0, "where a is not null and a >= $1 order by a, id");
    }

    #[test]
    fn rows_without_a_cursor_are_ordered_by_what_is_left() {
        let by_two = order(&["a", "id"], true, true);
        assert_eq!(spelled::<true>(&by_two, &Part::Nulls(None)).0, "where a is null order by id");
        let behind = Part::Nulls(Some(values(&["7"])));
        assert_eq!(spelled::<true>(&by_two, &behind).0, "where a is null and (id) > ($1) order by id");
        assert_eq!(spelled::<true>(&order(&["a"], true, false), &behind).0, "where a is null");
    }
}
