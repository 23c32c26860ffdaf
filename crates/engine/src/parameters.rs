//! Values in place of `$name`: they go into the syntax tree as literals of their type, never into the text.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, TimezoneInfo, Value, VisitMut, VisitorMut,
};
use matome_model::engine::{Failure, Parameter, ParameterType};

use crate::failure::refused;

/// Puts `values` in place of the parameters of a statement that the guard has let through.
pub(crate) fn bind(statement: &mut Statement, values: &BTreeMap<String, Parameter>) -> Result<(), Failure> {
    let Statement::Statement(query) = statement else { return Ok(()) };
    match query.visit(&mut Bind { values }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(failure) => Err(*failure),
    }
}

struct Bind<'v> {
    values: &'v BTreeMap<String, Parameter>,
}

impl VisitorMut for Bind<'_> {
    type Break = Box<Failure>;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let Expr::Value(value) = expr else { return ControlFlow::Continue(()) };
        let Value::Placeholder(name) = &value.value else { return ControlFlow::Continue(()) };
        match name.strip_prefix('$').and_then(|name| self.values.get(name)) {
            Some(parameter) => {
                *expr = literal(parameter);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(Box::new(refused(
                (format!("the parameter `{name}` has no value"), format!("パラメーター`{name}`に値がありません")),
                ("declare it in `params` with its type", "型とともに`params`で宣言してください"),
            ))),
        }
    }
}

fn literal(parameter: &Parameter) -> Expr {
    let value = value(parameter);
    if parameter.kind == ParameterType::Timestamp {
        // An instant, as `_acquired_at` is one.
        let zone = Box::new(Expr::Value(Value::SingleQuotedString("+00:00".to_owned()).into()));
        return Expr::AtTimeZone { timestamp: Box::new(value), time_zone: zone };
    }
    value
}

fn value(parameter: &Parameter) -> Expr {
    let Some(text) = &parameter.value else { return cast(Value::Null, data_type(parameter)) };
    match parameter.kind {
        ParameterType::Text => Expr::Value(Value::SingleQuotedString(text.clone()).into()),
        ParameterType::Boolean => Expr::Value(Value::Boolean(text == "true").into()),
        _ => cast(Value::SingleQuotedString(text.clone()), data_type(parameter)),
    }
}

fn cast(value: Value, data_type: DataType) -> Expr {
    let expr = Box::new(Expr::Value(value.into()));
    Expr::Cast { kind: CastKind::Cast, expr, data_type, array: false, format: None }
}

fn data_type(parameter: &Parameter) -> DataType {
    match parameter.kind {
        ParameterType::Text => DataType::Varchar(None),
        ParameterType::Boolean => DataType::Boolean,
        ParameterType::Integer => DataType::BigInt(None),
        ParameterType::Date => DataType::Date,
        ParameterType::Timestamp => DataType::Timestamp(Some(6), TimezoneInfo::None),
        ParameterType::Decimal => {
            let text = parameter.value.as_deref().unwrap_or("0");
            let digits = text.bytes().filter(u8::is_ascii_digit).count().max(1);
            let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            let (digits, scale) = (digits.max(scale + 1), i64::try_from(scale).unwrap_or(0));
            DataType::Decimal(ExactNumberInfo::PrecisionAndScale(digits as u64, scale))
        }
    }
}
