//! Integer arithmetic that does not wrap.
//!
//! DataFusion adds, subtracts and multiplies integers modulo 2^64, and sums them so too. A stored result must not be silently
//! wrong: here an operator whose result does not fit fails the query, and the sum of integers is an exact decimal of 38
//! digits, as it is in PostgreSQL.

use std::sync::Arc;

use datafusion::arrow::compute::kernels::numeric::{add, mul, sub};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, WindowFunctionDefinition, cast,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::utils::NamePreserver;
use datafusion::physical_expr_common::datum::apply;

/// Digits that hold any 64-bit integer, signed or not.
const INTEGER_DIGITS: u8 = 20;

/// Lets `sum` take integers as decimals. Runs before types are coerced, so all that depends on the sum's type follows.
#[derive(Debug)]
pub(crate) struct DecimalSums;

impl FunctionRewrite for DecimalSums {
    fn name(&self) -> &'static str {
        "decimal_sums"
    }

    fn rewrite(&self, mut expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let args = match &mut expr {
            Expr::AggregateFunction(function) if function.func.name() == "sum" => &mut function.params.args,
            Expr::WindowFunction(function) => match &function.fun {
                WindowFunctionDefinition::AggregateUDF(aggregate) if aggregate.name() == "sum" => {
                    &mut function.params.args
                }
                _ => return Ok(Transformed::no(expr)),
            },
            _ => return Ok(Transformed::no(expr)),
        };
        let mut changed = false;
        for arg in args {
            if arg.get_type(schema)?.is_integer() {
                *arg = cast(std::mem::take(arg), DataType::Decimal128(INTEGER_DIGITS, 0));
                changed = true;
            }
        }
        Ok(if changed { Transformed::yes(expr) } else { Transformed::no(expr) })
    }
}

/// Puts [`Checked`] in the place of `+`, `-` and `*` between integers. Runs after types are coerced, and changes none.
#[derive(Debug)]
pub(crate) struct CheckedIntegers;

impl AnalyzerRule for CheckedIntegers {
    fn name(&self) -> &'static str {
        "checked_integers"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let checked = expr.transform_up(|expr| check(expr, &schema))?;
                Ok(checked.update_data(|expr| name.restore(expr)))
            })
        })
        .map(|plan| plan.data)
    }
}

fn check(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else {
        return Ok(Transformed::no(expr));
    };
    let operator = match op {
        Operator::Plus => Some(Checked::new(Arithmetic::Add)),
        Operator::Minus => Some(Checked::new(Arithmetic::Subtract)),
        Operator::Multiply => Some(Checked::new(Arithmetic::Multiply)),
        _ => None,
    };
    // What has no type here (a column of an outer query, say) keeps its operator.
    let integer = |expr: &Expr| match expr {
        // Known, and a long chain need not be walked again for each of its links.
        Expr::ScalarFunction(function) if function.func.inner().is::<Checked>() => true,
        _ => expr.get_type(schema).is_ok_and(|data_type| data_type.is_integer()),
    };
    match operator {
        Some(operator) if integer(&left) && integer(&right) => {
            let function = Arc::new(ScalarUDF::from(operator));
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![*left, *right]))))
        }
        _ => Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
    }
}

/// One operator on integers of one type; fails when the result does not fit that type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    arithmetic: Arithmetic,
    signature: Signature,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
}

impl Checked {
    fn new(arithmetic: Arithmetic) -> Self {
        Self { arithmetic, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &'static str {
        match self.arithmetic {
            Arithmetic::Add => "checked_add",
            Arithmetic::Subtract => "checked_subtract",
            Arithmetic::Multiply => "checked_multiply",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(args[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return datafusion::common::internal_err!("an operator has two operands");
        };
        match self.arithmetic {
            Arithmetic::Add => apply(left, right, add),
            Arithmetic::Subtract => apply(left, right, sub),
            Arithmetic::Multiply => apply(left, right, mul),
        }
    }
}
