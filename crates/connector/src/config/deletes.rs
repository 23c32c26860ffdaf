//! What becomes of keys that a source no longer has: `deletes`.

use matome_model::field_error::Words;
use matome_model::source::Dedupe;

use super::Fields;

/// What a whole read makes of keys that it does not give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deletes {
    /// Nothing: they stay as they are.
    #[default]
    Ignore,
    /// One more version of each, which says that it is gone.
    Tombstone,
}

/// Takes the option.
pub(super) fn parse(fields: &mut Fields, dedupe: Dedupe) -> Deletes {
    let words = [("ignore", Deletes::Ignore), ("tombstone", Deletes::Tombstone)];
    let deletes = fields.choice("deletes", &words).unwrap_or_default();
    if deletes == Deletes::Tombstone && dedupe != Dedupe::Key {
        fields.fail(
            "deletes",
            Words::new(
                "Only a key tells that a record is gone. Give the source a `key`.",
                "レコードがなくなったことはキーでしか分かりません。データソースに `key` を指定してください。",
            ),
        );
    }
    deletes
}

impl Deletes {
    /// Notes that no read of this type of source gives all that there is.
    pub(crate) fn refuse(self, fields: &mut Fields) {
        if self == Self::Tombstone {
            fields.fail(
                "deletes",
                Words::new(
                    "What was not sent is not gone: a source of this type is never read as a whole.",
                    "この型のデータソースは全体を読むことがないので、来なかったものがなくなったとは言えません。",
                ),
            );
        }
    }

    /// Notes that a read which begins anew passes records over because of the option `name` of `incremental`.
    pub(crate) fn refuse_beside(self, fields: &mut Fields, name: &str) {
        if self == Self::Tombstone {
            fields.fail_inside(
                "incremental",
                name,
                Words::new(
                    "With `deletes` \"tombstone\" a full read has to give all records, and this keeps some back. Leave it out.",
                    "`deletes` が \"tombstone\" のとき、全体の読み取りはすべてのレコードを返す必要がありますが、これはその一部を除きます。\
                     外してください。",
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use matome_model::source::SourceType;

    use super::*;
    use crate::config::tests::errors;
    use crate::validate_config;

    #[test]
    fn tombstones_are_for_sources_with_a_key_that_can_be_read_as_a_whole() {
        let deletes = |options: &str| {
            let config = validate_config(SourceType::File, &format!(r#"{{"path":"a.csv"{options}}}"#)).unwrap();
            (config.common().unwrap().deletes, config.gives_all(false))
        };
        assert_eq!(deletes(""), (Deletes::Ignore, true));
        assert_eq!(deletes(r#","deletes":"ignore""#), (Deletes::Ignore, true));
        assert_eq!(deletes(r#","key":"id","deletes":"tombstone""#), (Deletes::Tombstone, true));
        let database = r#"{"engine":"sqlite","path":"a.db","table":"t","key":"id","deletes":"tombstone""#;
        for (source_type, config, path, part) in [
            (SourceType::File, r#"{"path":"a.csv","deletes":"tombstone"}"#, "deletes", "a `key`"),
            (SourceType::File, r#"{"path":"a.csv","key":"id","deletes":"soft"}"#, "deletes", "`ignore`, `tombstone`"),
            (SourceType::Push, r#"{"key":"id","deletes":"tombstone"}"#, "deletes", "never read as a whole"),
            (
                SourceType::Websocket,
                r#"{"url":"wss://h/","key":"id","deletes":"tombstone"}"#,
                "deletes",
                "never read as a whole",
            ),
            (
                SourceType::Api,
                r#"{"url":"https://h/","key":"id","deletes":"tombstone","params":{"since":"{cursor}"},
                    "incremental":{"cursor":"$.at","start":"2026-01-01T00:00:00Z"}}"#,
                "incremental.start",
                "all records",
            ),
            (
                SourceType::Database,
                &format!(r#"{database},"incremental":{{"cursor":"at","start":"1"}}}}"#),
                "incremental.start",
                "all records",
            ),
            (
                SourceType::Database,
                &format!(r#"{database},"incremental":{{"cursor":"at","nulls":"skip"}}}}"#),
                "incremental.nulls",
                "all records",
            ),
        ] {
            let errors = errors(source_type, config);
            assert!(errors.iter().any(|(at, text)| at == path && text.contains(part)), "{config}: {errors:?}");
        }
        let config = format!(r#"{database},"incremental":{{"cursor":"at"}}}}"#);
        let config = validate_config(SourceType::Database, &config).unwrap();
        assert!(!config.gives_all(false) && config.gives_all(true));
    }
}
