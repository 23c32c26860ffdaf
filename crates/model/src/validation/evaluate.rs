//! Putting a schema to a record.

use std::collections::HashSet;

use super::Violation;
use super::schema::{Check, Node, NodeId, Schema, pointer};
use super::value::{Json, compare, is_multiple};
use crate::field_error::Words;
use crate::say;

/// Violations that are told of one record.
const TOLD: usize = 8;

/// Schemas put to values of one record at most. Schemas whose alternatives fan out anew at each level could take
/// for ever otherwise.
const STEPS: u32 = 1_000_000;

/// Schemas within each other at most: each takes machine stack.
const DEPTH: u32 = 300;

/// What is wrong with a record under `schema`; nothing when it is valid.
pub(super) fn violations(schema: &Schema, record: &Json<'_>) -> Vec<Violation> {
    let mut run = Run { schema, steps: 0, depth: 0, quiet: 0, gave_up: None, found: Vec::new(), path: Vec::new() };
    let is_valid = run.check(0, record, "schema", None);
    if let Some(why) = run.gave_up {
        return vec![Violation { pointer: String::new(), keyword: "schema", problem: why.into(), is_rule: false }];
    }
    debug_assert_eq!(is_valid, run.found.is_empty(), "a violation is told, and only a violation");
    run.found
}

/// A text that a pattern does not match.
pub(super) fn unmatched(value: &Json<'_>) -> Words {
    let value = value.shown();
    say!("{value} does not match the pattern", "{value} がパターンに合いません")
}

struct Run<'s> {
    schema: &'s Schema,
    steps: u32,
    depth: u32,
    /// Above 0: it only matters whether it is valid.
    quiet: u32,
    gave_up: Option<(&'static str, &'static str)>,
    found: Vec<Violation>,
    path: Vec<String>,
}

/// Which members or items of a value some schema has looked at.
#[derive(Default)]
struct Seen {
    places: Vec<bool>,
}

impl Seen {
    fn of(value: &Json<'_>) -> Self {
        let length = match value {
            Json::Array(items) => items.len(),
            Json::Object(members) => members.len(),
            _ => 0,
        };
        Self { places: vec![false; length] }
    }

    fn add(&mut self, other: &Self) {
        self.places.iter_mut().zip(&other.places).for_each(|(ours, theirs)| *ours |= theirs);
    }
}

impl Run<'_> {
    /// Whether `value` is valid; `by` is the keyword that asks.
    fn check(&mut self, node: NodeId, value: &Json<'_>, by: &'static str, seen: Option<&mut Seen>) -> bool {
        self.steps += 1;
        if self.steps > STEPS {
            self.gave_up.get_or_insert((
                "the schema takes too many steps for this record; make it simpler",
                "このレコードの検査に手数がかかりすぎます。スキーマを簡単にしてください",
            ));
        } else if self.depth >= DEPTH {
            self.gave_up.get_or_insert((
                "the record is nested too deeply for its schema; flatten it",
                "スキーマに対してレコードの入れ子が深すぎます。浅くしてください",
            ));
        }
        if self.gave_up.is_some() {
            return false;
        }
        let schema = self.schema;
        let checks = match &schema.nodes[node] {
            Node::Always(true) => return true,
            Node::Always(false) => {
                return self.fail(by, || {
                    let value = value.shown();
                    say!("{value} is not allowed here", "{value} はここには置けません")
                });
            }
            Node::Checks(checks) => checks,
        };
        self.depth += 1;
        let mut own = schema.tracks.then(|| Seen::of(value));
        let mut is_valid = true;
        for (keyword, check) in checks {
            is_valid &= self.keyword(keyword, check, value, own.as_mut());
            if !is_valid && (self.quiet > 0 || self.found.len() >= TOLD) {
                break;
            }
        }
        self.depth -= 1;
        if is_valid && let (Some(seen), Some(own)) = (seen, &own) {
            seen.add(own);
        }
        is_valid
    }

    /// Whether `value` is valid, without telling why not.
    fn passes(&mut self, node: NodeId, value: &Json<'_>, by: &'static str, seen: Option<&mut Seen>) -> bool {
        self.quiet += 1;
        let is_valid = self.check(node, value, by, seen);
        self.quiet -= 1;
        is_valid
    }

    fn inside(&mut self, node: NodeId, step: &str, value: &Json<'_>, by: &'static str) -> bool {
        self.path.push(step.to_owned());
        let is_valid = self.check(node, value, by, None);
        self.path.pop();
        is_valid
    }

    fn fail(&mut self, keyword: &'static str, problem: impl FnOnce() -> Words) -> bool {
        if self.quiet == 0 && self.gave_up.is_none() && self.found.len() < TOLD {
            let pointer = pointer(&self.path);
            self.found.push(Violation { pointer, keyword, problem: problem(), is_rule: false });
        }
        false
    }

    fn expect(&mut self, holds: bool, keyword: &'static str, problem: impl FnOnce() -> Words) -> bool {
        holds || self.fail(keyword, problem)
    }

    fn keyword(&mut self, keyword: &'static str, check: &Check, value: &Json<'_>, seen: Option<&mut Seen>) -> bool {
        match check {
            Check::Type(types) => {
                let kind = value.kind();
                let fits = types.iter().any(|of| *of == kind || *of == "number" && kind == "integer");
                self.expect(fits, keyword, || {
                    let (wanted, in_japanese) = (types.join(" or "), types.join(" か "));
                    say!("is of type {kind}, not {wanted}", "型が {kind} で、{in_japanese} ではありません")
                })
            }
            Check::Enum(values) => self.expect(values.contains(value), keyword, || {
                let value = value.shown();
                say!("{value} is none of the values", "{value} は許された値のどれでもありません")
            }),
            Check::Const(only) => self.expect(only == value, keyword, || {
                let (value, only) = (value.shown(), only.shown());
                say!("{value} is not {only}", "{value} は {only} ではありません")
            }),
            Check::MultipleOf(_)
            | Check::Minimum(_)
            | Check::ExclusiveMinimum(_)
            | Check::Maximum(_)
            | Check::ExclusiveMaximum(_) => match value {
                Json::Number(digits) => self.number(keyword, check, digits),
                _ => true,
            },
            Check::MinLength(_) | Check::MaxLength(_) | Check::Pattern(_) => match value {
                Json::String(text) => self.string(keyword, check, text, value),
                _ => true,
            },
            Check::MinItems(_)
            | Check::MaxItems(_)
            | Check::UniqueItems
            | Check::Items { .. }
            | Check::Contains { .. }
            | Check::UnevaluatedItems(_) => match value {
                Json::Array(items) => self.array(keyword, check, items, seen),
                _ => true,
            },
            Check::MinProperties(_)
            | Check::MaxProperties(_)
            | Check::Required(_)
            | Check::DependentRequired(_)
            | Check::DependentSchemas(_)
            | Check::Properties { .. }
            | Check::PropertyNames(_)
            | Check::UnevaluatedProperties(_) => match value {
                Json::Object(members) => self.object(keyword, check, members, value, seen),
                _ => true,
            },
            Check::Ref(node) => self.check(*node, value, keyword, seen),
            Check::AllOf(_) | Check::AnyOf(_) | Check::OneOf(_) | Check::Not(_) | Check::If { .. } => {
                self.combined(keyword, check, value, seen)
            }
        }
    }

    fn number(&mut self, keyword: &'static str, check: &Check, digits: &str) -> bool {
        let (holds, limit, relation) = match check {
            Check::Minimum(limit) => (compare(digits, limit).is_ge(), limit, ("less than", "より小さい値です")),
            Check::ExclusiveMinimum(limit) => {
                (compare(digits, limit).is_gt(), limit, ("not greater than", "より大きくありません"))
            }
            Check::Maximum(limit) => (compare(digits, limit).is_le(), limit, ("greater than", "より大きい値です")),
            Check::ExclusiveMaximum(limit) => {
                (compare(digits, limit).is_lt(), limit, ("not less than", "より小さくありません"))
            }
            Check::MultipleOf(of) => (is_multiple(digits, of), of, ("not a multiple of", "の倍数ではありません")),
            _ => return true,
        };
        let (relation, in_japanese) = relation;
        self.expect(holds, keyword, || say!("{digits} is {relation} {limit}", "{digits} は {limit} {in_japanese}"))
    }

    fn string(&mut self, keyword: &'static str, check: &Check, text: &str, value: &Json<'_>) -> bool {
        match check {
            // A character has four bytes at most.
            Check::MinLength(least) => {
                let is_long = text.len() >= least.saturating_mul(4) || text.chars().count() >= *least;
                self.expect(is_long, keyword, || say!("has fewer than {least} characters", "{least} 文字より短いです"))
            }
            Check::MaxLength(most) => {
                let is_short = text.len() <= *most || text.chars().count() <= *most;
                self.expect(is_short, keyword, || say!("has more than {most} characters", "{most} 文字より長いです"))
            }
            Check::Pattern(pattern) => self.expect(pattern.is_match(text), keyword, || unmatched(value)),
            _ => true,
        }
    }

    fn array(&mut self, keyword: &'static str, check: &Check, items: &[Json<'_>], seen: Option<&mut Seen>) -> bool {
        let mut seen = seen;
        let mut mark = |n: usize| {
            if let Some(seen) = seen.as_deref_mut() {
                seen.places[n] = true;
            }
        };
        match check {
            Check::MinItems(least) => self.expect(items.len() >= *least, keyword, || {
                let n = items.len();
                say!("has {n} items, not {least} or more", "要素が {n} 個で、{least} 個以上ではありません")
            }),
            Check::MaxItems(most) => self.expect(items.len() <= *most, keyword, || {
                let n = items.len();
                say!("has {n} items, not {most} or less", "要素が {n} 個で、{most} 個以下ではありません")
            }),
            Check::UniqueItems => {
                let mut texts = HashSet::with_capacity(items.len());
                let again = items.iter().find(|item| {
                    let mut text = Vec::new();
                    item.write(&mut text);
                    !texts.insert(text)
                });
                self.expect(again.is_none(), keyword, || {
                    let item = again.map_or_else(String::new, Json::shown);
                    say!("has {item} twice", "{item} が二度あります")
                })
            }
            Check::Items { first, rest } => {
                let mut is_valid = true;
                for (n, item) in items.iter().enumerate() {
                    let (node, by) = match (first.get(n), rest) {
                        (Some(node), _) => (*node, "prefixItems"),
                        (None, Some(node)) => (*node, "items"),
                        (None, None) => break,
                    };
                    mark(n);
                    is_valid &= self.inside(node, &n.to_string(), item, by);
                    if !is_valid && (self.quiet > 0 || self.found.len() >= TOLD) {
                        break;
                    }
                }
                is_valid
            }
            Check::Contains { item, least, most } => {
                let mut matching = 0;
                for (n, candidate) in items.iter().enumerate() {
                    if self.passes(*item, candidate, keyword, None) {
                        mark(n);
                        matching += 1;
                    }
                }
                let holds = (*least..=*most).contains(&matching);
                self.expect(holds, keyword, || {
                    say!(
                        "{matching} items are of the kind that it must contain",
                        "含むべき種類の要素が {matching} 個あります"
                    )
                })
            }
            Check::UnevaluatedItems(node) => {
                let left: Vec<usize> = match &seen {
                    Some(seen) => (0..items.len()).filter(|n| !seen.places[*n]).collect(),
                    None => (0..items.len()).collect(),
                };
                let mut is_valid = true;
                for n in left {
                    is_valid &= self.inside(*node, &n.to_string(), &items[n], keyword);
                    if let Some(seen) = seen.as_deref_mut() {
                        seen.places[n] = true;
                    }
                }
                is_valid
            }
            _ => true,
        }
    }

    fn object(
        &mut self,
        keyword: &'static str,
        check: &Check,
        members: &[(std::borrow::Cow<'_, str>, Json<'_>)],
        value: &Json<'_>,
        seen: Option<&mut Seen>,
    ) -> bool {
        let mut seen = seen;
        match check {
            Check::MinProperties(least) => self.expect(members.len() >= *least, keyword, || {
                let n = members.len();
                say!("has {n} fields, not {least} or more", "フィールドが {n} 個で、{least} 個以上ではありません")
            }),
            Check::MaxProperties(most) => self.expect(members.len() <= *most, keyword, || {
                let n = members.len();
                say!("has {n} fields, not {most} or less", "フィールドが {n} 個で、{most} 個以下ではありません")
            }),
            Check::Required(names) => {
                let mut is_valid = true;
                for name in names {
                    is_valid &= self.expect(value.get(name).is_some(), keyword, || {
                        say!("`{name}` is missing", "`{name}` がありません")
                    });
                }
                is_valid
            }
            Check::DependentRequired(all) => {
                let mut is_valid = true;
                for (name, names) in all.iter().filter(|(name, _)| value.get(name).is_some()) {
                    for needed in names {
                        let problem = || {
                            say!(
                                "`{needed}` is missing, which must be there beside `{name}`",
                                "`{name}` があるときに必要な `{needed}` がありません"
                            )
                        };
                        is_valid &= self.expect(value.get(needed).is_some(), keyword, problem);
                    }
                }
                is_valid
            }
            Check::DependentSchemas(all) => {
                let mut is_valid = true;
                for (_, node) in all.iter().filter(|(name, _)| value.get(name).is_some()) {
                    is_valid &= self.check(*node, value, keyword, seen.as_deref_mut());
                }
                is_valid
            }
            Check::Properties { named, patterns, others } => {
                let mut is_valid = true;
                for (n, (name, member)) in members.iter().enumerate() {
                    let mut is_known = false;
                    if let Ok(at) = named.binary_search_by(|(known, _)| known.as_str().cmp(name)) {
                        is_known = true;
                        is_valid &= self.inside(named[at].1, name, member, "properties");
                    }
                    for (pattern, node) in patterns {
                        if pattern.is_match(name) {
                            is_known = true;
                            is_valid &= self.inside(*node, name, member, "patternProperties");
                        }
                    }
                    if let (false, Some(node)) = (is_known, others) {
                        is_known = true;
                        is_valid &= self.inside(*node, name, member, "additionalProperties");
                    }
                    if let Some(seen) = seen.as_deref_mut() {
                        seen.places[n] |= is_known;
                    }
                    if !is_valid && (self.quiet > 0 || self.found.len() >= TOLD) {
                        break;
                    }
                }
                is_valid
            }
            Check::PropertyNames(node) => {
                let mut is_valid = true;
                for (name, _) in members {
                    let passes = self.passes(*node, &Json::String(name.clone()), keyword, None);
                    is_valid &= self.expect(passes, keyword, || {
                        say!("the name `{name}` is not valid", "`{name}` という名前は使えません")
                    });
                }
                is_valid
            }
            Check::UnevaluatedProperties(node) => {
                let mut is_valid = true;
                for (n, (name, member)) in members.iter().enumerate() {
                    if seen.as_ref().is_some_and(|seen| seen.places[n]) {
                        continue;
                    }
                    is_valid &= self.inside(*node, name, member, keyword);
                    if let Some(seen) = seen.as_deref_mut() {
                        seen.places[n] = true;
                    }
                }
                is_valid
            }
            _ => true,
        }
    }

    fn combined(&mut self, keyword: &'static str, check: &Check, value: &Json<'_>, seen: Option<&mut Seen>) -> bool {
        let mut seen = seen;
        match check {
            Check::AllOf(nodes) => {
                let mut is_valid = true;
                for node in nodes {
                    is_valid &= self.check(*node, value, keyword, seen.as_deref_mut());
                    if !is_valid && self.quiet > 0 {
                        break;
                    }
                }
                is_valid
            }
            Check::AnyOf(nodes) => {
                let mut is_valid = false;
                for node in nodes {
                    is_valid |= self.passes(*node, value, keyword, seen.as_deref_mut());
                    // The others may still have looked at something.
                    if is_valid && seen.is_none() {
                        break;
                    }
                }
                self.expect(is_valid, keyword, || {
                    let value = value.shown();
                    say!("{value} fits none of the schemas", "{value} に合うスキーマがありません")
                })
            }
            Check::OneOf(nodes) => {
                let mut fitting = 0;
                for node in nodes {
                    fitting += usize::from(self.passes(*node, value, keyword, seen.as_deref_mut()));
                }
                self.expect(fitting == 1, keyword, || {
                    let value = value.shown();
                    say!(
                        "{value} fits {fitting} of the schemas, not one",
                        "{value} に合うスキーマが一つではなく {fitting} 個あります"
                    )
                })
            }
            Check::Not(node) => {
                let passes = self.passes(*node, value, keyword, None);
                self.expect(!passes, keyword, || {
                    let value = value.shown();
                    say!(
                        "{value} fits a schema that it must not fit",
                        "{value} は合ってはならないスキーマに合っています"
                    )
                })
            }
            Check::If { condition, then, otherwise } => {
                let (node, by) = match self.passes(*condition, value, keyword, seen.as_deref_mut()) {
                    true => (then, "then"),
                    false => (otherwise, "else"),
                };
                node.is_none_or(|node| self.check(node, value, by, seen))
            }
            _ => true,
        }
    }
}
