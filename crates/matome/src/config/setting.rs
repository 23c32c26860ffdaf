//! The settings: one table of their keys, variables and forms. The command line shows and takes them as flags.

use std::net::SocketAddr;

use matome_model::field_error::Words;
use matome_model::schedule::parse_zone;

use crate::cli::{ACQUISITION_TASK, AGGREGATION_TASK};
use crate::log_level;

/// What form a value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Path,
    /// Paths, separated by `:` in a variable.
    Paths,
    /// Words, separated by `,` in a variable.
    List,
    /// Origins of web pages, or `*`, separated by `,` in a variable.
    Origins,
    /// The name of a time zone.
    Zone,
    /// IP address and port.
    Address,
    /// A whole number of at least one.
    Count,
    Choice(&'static [&'static str]),
    /// A level of the log, or a filter.
    Log,
}

impl Kind {
    /// Why `value` is not of this form.
    pub fn refuse(self, value: &str) -> Option<Words> {
        match self {
            Self::Text | Self::Path | Self::Paths | Self::List => None,
            Self::Zone => parse_zone(value).err(),
            Self::Log => log_level::filter(value).err().map(Words::from),
            Self::Origins => (value != "*" && !is_origin(value)).then(|| {
                Words::new(
                    "write origins as a browser sends them, scheme and host with no path, such as \
                     https://app.example.org or http://localhost:3000; or * for all",
                    "https://app.example.org や http://localhost:3000 のように、ブラウザーが送る形 (スキームとホスト、パスなし) で\
                     書いてください。すべてなら * です",
                )
            }),
            Self::Address => value.parse::<SocketAddr>().err().map(|_| {
                Words::new(
                    "write an IP address and a port, such as 127.0.0.1:8000",
                    "127.0.0.1:8000 のように IP アドレスとポートを書いてください",
                )
            }),
            Self::Count => value
                .parse::<u32>()
                .ok()
                .is_none_or(|n| n == 0)
                .then(|| Words::new("write a whole number of at least 1", "1 以上の整数を書いてください")),
            Self::Choice(words) => (!words.contains(&value)).then(|| {
                let words = words.join(", ");
                Words::new(format!("write one of {words}"), format!("次のどれかを書いてください: {words}"))
            }),
        }
    }

    /// What separates the items in a variable; `None` when there is one value.
    pub fn separator(self) -> Option<char> {
        match self {
            Self::Paths => Some(':'),
            Self::List | Self::Origins => Some(','),
            _ => None,
        }
    }
}

/// Whether a text is an origin in the one form that browsers send.
fn is_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization().eq_ignore_ascii_case(text)
    })
}

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Its key in `matome.yaml`, and the id of its flag.
    pub key: &'static str,
    /// Its environment variables; the first is the one that help names.
    pub variables: &'static [&'static str],
    /// Its form.
    pub kind: Kind,
    /// Never shown; `NAME_FILE` names a file with it.
    pub is_secret: bool,
    /// What holds when nobody sets it.
    pub default: &'static str,
}

const fn setting(key: &'static str, variables: &'static [&'static str], kind: Kind, default: &'static str) -> Setting {
    Setting { key, variables, kind, is_secret: false, default }
}

/// Every setting, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    setting("data_dir", &["MATOME_DATA_DIR"], Kind::Path, "matome-data"),
    Setting { is_secret: true, ..setting("database_url", &["DATABASE_URL", "MATOME_DATABASE_URL"], Kind::Text, "") },
    Setting { is_secret: true, ..setting("redis_url", &["REDIS_URL", "MATOME_REDIS_URL"], Kind::Text, "") },
    Setting { is_secret: true, ..setting("celery_broker_url", &["CELERY_BROKER_URL"], Kind::Text, "") },
    Setting { is_secret: true, ..setting("acquisition_redis_url", &["ACQUISITION_REDIS_URL"], Kind::Text, "") },
    Setting { is_secret: true, ..setting("aggregation_redis_url", &["AGGREGATION_REDIS_URL"], Kind::Text, "") },
    setting("redis_tls_ca_file", &["REDIS_TLS_CA_FILE", "MATOME_REDIS_TLS_CA_FILE"], Kind::Path, ""),
    setting("redis_tls_cert_file", &["REDIS_TLS_CERT_FILE", "MATOME_REDIS_TLS_CERT_FILE"], Kind::Path, ""),
    setting("redis_tls_key_file", &["REDIS_TLS_KEY_FILE", "MATOME_REDIS_TLS_KEY_FILE"], Kind::Path, ""),
    setting("celery_producers", &["MATOME_CELERY_PRODUCERS"], Kind::Choice(&["on", "off"]), "on"),
    setting("celery_acquisition_task", &["MATOME_CELERY_ACQUISITION_TASK"], Kind::Text, ACQUISITION_TASK),
    setting("celery_aggregation_task", &["MATOME_CELERY_AGGREGATION_TASK"], Kind::Text, AGGREGATION_TASK),
    setting("master_key_file", &["MASTER_KEY_FILE", "MATOME_MASTER_KEY_FILE"], Kind::Path, ""),
    setting("max_database", &["MATOME_MAX_DATABASE"], Kind::Count, ""),
    setting("database_connections", &["MATOME_DATABASE_CONNECTIONS"], Kind::Count, ""),
    setting("file_roots", &["FILE_ROOTS", "MATOME_FILE_ROOTS"], Kind::Paths, ""),
    setting("egress_allow", &["EGRESS_ALLOW", "MATOME_EGRESS_ALLOW"], Kind::List, ""),
    setting("bind", &["MATOME_BIND"], Kind::Address, "127.0.0.1:8000"),
    setting("health_bind", &["MATOME_HEALTH_BIND"], Kind::Address, ""),
    setting("allowed_hosts", &["ALLOWED_HOSTS", "MATOME_ALLOWED_HOSTS"], Kind::List, ".localhost,127.0.0.1,::1"),
    setting("cors_allowed_origins", &["CORS_ALLOWED_ORIGINS", "MATOME_CORS_ALLOWED_ORIGINS"], Kind::Origins, ""),
    setting("max_push", &["MATOME_MAX_PUSH"], Kind::Count, "16"),
    setting("tls_cert_file", &["TLS_CERT_FILE", "MATOME_TLS_CERT_FILE"], Kind::Path, ""),
    setting("tls_key_file", &["TLS_KEY_FILE", "MATOME_TLS_KEY_FILE"], Kind::Path, ""),
    setting("time_zone", &["TIME_ZONE", "MATOME_TIME_ZONE"], Kind::Zone, "UTC"),
    setting("metrics_bind", &["MATOME_METRICS_BIND"], Kind::Address, ""),
    setting("celery_metrics", &["MATOME_CELERY_METRICS"], Kind::Choice(&["on", "off"]), "off"),
    setting("otel_endpoint", &["OTEL_EXPORTER_OTLP_ENDPOINT", "MATOME_OTEL_ENDPOINT"], Kind::Text, ""),
    Setting { is_secret: true, ..setting("otel_headers", &["OTEL_EXPORTER_OTLP_HEADERS"], Kind::Text, "") },
    setting("otel_service_name", &["OTEL_SERVICE_NAME"], Kind::Text, "matome"),
    setting("acquisition_slots", &["MATOME_ACQUISITION_SLOTS"], Kind::Count, "8"),
    setting("aggregation_slots", &["MATOME_AGGREGATION_SLOTS"], Kind::Count, "2"),
    setting("aggregation_memory", &["MATOME_AGGREGATION_MEMORY"], Kind::Count, "512"),
    setting("attempt_deadline", &["MATOME_ATTEMPT_DEADLINE"], Kind::Count, "86400"),
    setting("server", &["MATOME_URL", "MATOME_SERVER"], Kind::Text, ""),
    Setting { is_secret: true, ..setting("token", &["MATOME_TOKEN"], Kind::Text, "") },
    setting("lang", &["MATOME_LANG"], Kind::Choice(&["en", "ja"]), ""),
    setting("log_level", &["LOG_LEVEL", "MATOME_LOG_LEVEL"], Kind::Log, ""),
    setting("log_file", &["LOG_FILE", "MATOME_LOG_FILE"], Kind::Path, ""),
    setting("log_format", &["LOG_FORMAT", "MATOME_LOG_FORMAT"], Kind::Choice(&["text", "json"]), "text"),
    setting("color", &["MATOME_COLOR"], Kind::Choice(&["auto", "always", "never"]), "auto"),
    setting("progress", &["MATOME_PROGRESS"], Kind::Choice(&["auto", "plain", "json", "none"]), "auto"),
];

/// The setting with a key.
pub fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Variables of the original design that this version knows and does not use, and why.
pub const WITHOUT_EFFECT: &[(&str, &str, &str)] = &[(
    "SECRET_KEY",
    "nothing is signed in this version: tokens are random, secrets are encrypted with master.key",
    "この版は何にも署名しません。トークンは乱数で、秘密の値は master.key で暗号化されます",
)];

/// Names of development tools that a binary which they start inherits; nobody else uses them.
pub const OF_TOOLS: &[&str] = &["MATOME_TEST_", "MATOME_SEED", "MATOME_CARGO_", "MATOME_BENCH_"];

/// Variables that say where the settings are.
pub const FILES: [&str; 2] = ["MATOME_CONFIG_FILE", "MATOME_ENV_FILE"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_means_two_things() {
        let mut names: Vec<&str> = SETTINGS.iter().flat_map(|setting| setting.variables).copied().collect();
        names.extend(WITHOUT_EFFECT.iter().map(|(name, _, _)| name));
        names.extend(FILES);
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_default_has_the_form_of_its_setting() {
        for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
            assert_eq!(setting.kind.refuse(setting.default), None, "{}", setting.key);
        }
    }
}
