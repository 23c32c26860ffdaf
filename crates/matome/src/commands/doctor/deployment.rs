//! M040 to M049, for `doctor --deploy`: what a deployment on servers needs besides.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use chrono::Utc;
use matome_bus::RedisState;
use matome_model::clock::Timestamp;
use matome_model::say;
use matome_model::task::Queue;
use matome_store::backups;
use matome_store::db::{Conn, Snapshot};
use matome_store::pulse::{self, RoleState};

use super::{Finding, Severity};
use crate::cli::ServeArgs;
use crate::config::Config;
use crate::tls::TlsFiles;

/// A certificate is to be renewed before its last days.
const RENEW_DAYS: i64 = 21;
/// A backup that is older is worth a warning.
const OLD_BACKUP_DAYS: i64 = 7;

pub async fn look(args: &ServeArgs, config: &Config) -> Vec<Finding> {
    let mut findings = vec![tls(args)];
    findings.extend(certificate(args, Utc::now()));
    findings.extend(metrics(args));
    for queue in [Queue::Acquisition, Queue::Aggregation] {
        findings.push(redis(args, queue).await);
    }
    findings.extend(database(args).await);
    findings.extend(files(args, config));
    findings
}

/// M040: nobody may listen to tokens on their way.
fn tls(args: &ServeArgs) -> Finding {
    let listen = &args.listen;
    let address = listen.bind;
    match TlsFiles::of(listen.tls_cert_file.as_ref(), listen.tls_key_file.as_ref()) {
        Err(failure) => Finding::of_failure("M040", failure),
        Ok(Some(files)) => match files.check() {
            Ok(()) => Finding::ok("M040", say!("certificate and key belong together", "証明書と鍵は対になっています")),
            Err(what) => {
                let fix = say!(
                    "set TLS_CERT_FILE and TLS_KEY_FILE to a certificate and its own key, in PEM form",
                    "TLS_CERT_FILE と TLS_KEY_FILE に、対になる PEM 形式の証明書と鍵を指定してください"
                );
                Finding::new("M040", Severity::Error, what, fix)
            }
        },
        Ok(None) if address.ip().is_loopback() => Finding::ok(
            "M040",
            say!("{address} is reached from this machine alone", "{address} にはこのマシンからだけ届きます"),
        ),
        Ok(None) => {
            let what = say!(
                "{address} is open to other machines without TLS: tokens can be read on their way",
                "{address} は TLS なしで他のマシンに開いています。途中でトークンを読まれるおそれがあります"
            );
            let fix = say!(
                "set TLS_CERT_FILE and TLS_KEY_FILE, or bind to 127.0.0.1 behind a proxy that speaks TLS",
                "TLS_CERT_FILE と TLS_KEY_FILE を指定するか、TLS を話すプロキシーの後ろで 127.0.0.1 に割り当ててください"
            );
            Finding::new("M040", Severity::Error, what, fix)
        }
    }
}

/// M046: how long the certificate of the server is good for.
fn certificate(args: &ServeArgs, now: Timestamp) -> Option<Finding> {
    // That files do not fit is M040.
    let files = TlsFiles::of(args.listen.tls_cert_file.as_ref(), args.listen.tls_key_file.as_ref()).ok()??;
    files.validity().map(|validity| judge_validity(validity, now))
}

fn judge_validity((from, until): (Timestamp, Timestamp), now: Timestamp) -> Finding {
    let renew = say!(
        "renew it and put it in place of the old one: the server takes it without a restart",
        "更新して古いものと置き換えてください。サーバーは再起動なしで読み込みます"
    );
    let (date, days) = (until.format("%Y-%m-%d %H:%M UTC"), (until - now).num_days());
    if until <= now {
        let what = say!("the certificate expired at {date}", "証明書の期限が {date} に切れました");
        return Finding::new("M046", Severity::Error, what, renew);
    }
    if from > now {
        let from = from.format("%Y-%m-%d %H:%M UTC");
        let what = say!("the certificate is not valid before {from}", "証明書が有効になるのは {from} です");
        let fix = say!("use one that is valid now", "いま有効なものを使ってください");
        return Finding::new("M046", Severity::Error, what, fix);
    }
    let what = say!("the certificate expires at {date}, in {days} days", "証明書の期限は {date} です (あと {days} 日)");
    if days < RENEW_DAYS { Finding::new("M046", Severity::Warning, what, renew) } else { Finding::ok("M046", what) }
}

/// M047: when a backup was last made, as far as the database knows.
async fn backup(conn: &mut Conn<'_>, now: Timestamp) -> Option<Finding> {
    let fix = say!(
        "make one with `matome db backup`; after one by other means (pg_dump, a snapshot of the disk) run `matome db note-backup`",
        "`matome db backup` で作ってください。別の手段 (pg_dump、ディスクのスナップショット) なら、その後に `matome db note-backup` を実行してください"
    );
    // A schema that does not know of backups is M021.
    match backups::last(conn).await.ok()? {
        None => {
            let what = say!("no backup is known", "バックアップの記録がありません");
            Some(Finding::new("M047", Severity::Warning, what, fix))
        }
        Some(at) => {
            let (date, days) = (at.format("%Y-%m-%d %H:%M UTC"), (now - at).num_days());
            let what = say!(
                "the last backup was made at {date}, {days} days ago",
                "最後のバックアップは {date} ({days} 日前) です"
            );
            Some(if days > OLD_BACKUP_DAYS {
                Finding::new("M047", Severity::Warning, what, fix)
            } else {
                Finding::ok("M047", what)
            })
        }
    }
}

/// M041: metrics at an address of their own need no token.
fn metrics(args: &ServeArgs) -> Option<Finding> {
    let address = args.watch.metrics_bind?;
    if address.ip().is_loopback() {
        let what =
            say!("metrics at {address}, from this machine alone", "メトリクスは {address}。このマシンからだけ届きます");
        return Some(Finding::ok("M041", what));
    }
    let what = say!(
        "metrics at {address} are open to other machines without a token",
        "{address} のメトリクスはトークンなしで他のマシンに開いています"
    );
    let fix = say!(
        "let only those who watch reach it: a private network or a firewall",
        "監視する者だけが届くように、内部ネットワークかファイアウォールで守ってください"
    );
    Some(Finding::new("M041", Severity::Warning, what, fix))
}

/// M042: Redis of a queue.
async fn redis(args: &ServeArgs, queue: Queue) -> Finding {
    match args.storage.redis.urls().look(queue).await {
        Err(why) => {
            let what =
                say!("Redis of the {queue} queue cannot be used: {why}", "{queue} キューの Redis を使えません: {why}");
            let fix = say!(
                "check address, password and certificate of REDIS_URL; until then workers look for tasks by themselves",
                "REDIS_URL のアドレス、パスワード、証明書を確かめてください。それまでワーカーは自分でタスクを探します"
            );
            Finding::new("M042", Severity::Error, what, fix)
        }
        Ok(None) => {
            let what = say!("no Redis for the {queue} queue", "{queue} キューの Redis がありません");
            let fix = say!(
                "set REDIS_URL when there is more than one process: tasks then start at once instead of at the next look",
                "プロセスが複数なら REDIS_URL を指定してください。タスクが次の確認を待たず、すぐに始まります"
            );
            Finding::new("M042", Severity::Note, what, fix)
        }
        Ok(Some(state)) => judge(queue, &state),
    }
}

fn judge(queue: Queue, state: &RedisState) -> Finding {
    let (version, eviction) = (&state.version, &state.eviction);
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if state.is_replica {
        let what = say!(
            "Redis of the {queue} queue follows another server and can only be read",
            "{queue} キューの Redis は複製で、書き込めません"
        );
        let fix = say!("set REDIS_URL to the server that it follows", "REDIS_URL に複製元のサーバーを指定してください");
        return Finding::new("M042", Severity::Error, what, fix);
    }
    if state.max_memory > 0 && eviction.starts_with("allkeys") {
        let what = say!(
            "Redis of the {queue} queue removes any key when it is full ({eviction}): calls of Celery producers, too",
            "{queue} キューの Redis は、一杯になるとどのキーも消します ({eviction})。Celery からの呼び出しも失われます"
        );
        let fix = say!("set maxmemory-policy to noeviction", "maxmemory-policy を noeviction にしてください");
        return Finding::new("M042", Severity::Warning, what, fix);
    }
    if major < 7 {
        let what = say!(
            "Redis {version} of the {queue} queue is untested",
            "{queue} キューの Redis {version} では試していません"
        );
        let fix = say!("use Redis 7 or later", "Redis 7 以降を使ってください");
        return Finding::new("M042", Severity::Warning, what, fix);
    }
    let what = say!("Redis {version} answers for the {queue} queue", "{queue} キューの Redis {version} が応答します");
    Finding::ok("M042", what)
}

/// M043 and M044: what PostgreSQL is and lets us do, and who works on it.
async fn database(args: &ServeArgs) -> Vec<Finding> {
    let Some(url) = &args.storage.database_url else {
        let what = say!(
            "the embedded database: one process, `serve`, does everything",
            "組み込みのデータベースです。一つのプロセス (`serve`) がすべてを行います"
        );
        let fix = say!(
            "set DATABASE_URL to a PostgreSQL database for web, workers and beat as processes of their own",
            "web、worker、beat を別のプロセスにするには、DATABASE_URL に PostgreSQL を指定してください"
        );
        let mut findings = vec![Finding::new("M043", Severity::Note, what, fix)];
        if let Ok(mut snapshot) = Snapshot::of_file(&args.storage.data_dir.join("matome.db")).await {
            findings.extend(backup(&mut snapshot.conn(), Utc::now()).await);
        }
        return findings;
    };
    // That it cannot be reached is M020.
    let Ok(mut snapshot) = Snapshot::of_postgres(url).await else { return Vec::new() };
    let mut conn = snapshot.conn();
    let mut findings: Vec<Finding> = rights(&mut conn).await.into_iter().collect();
    findings.extend(backup(&mut conn, Utc::now()).await);
    // That there is no schema is M021.
    if let Ok(pulse) = pulse::look(&mut conn, Utc::now()).await {
        findings.extend(["web", "acquisition", "aggregation", "beat"].map(|role| member(role, &pulse.roles)));
    }
    findings
}

async fn rights(conn: &mut Conn<'_>) -> Option<Finding> {
    let sql = "select cast(current_setting('server_version_num') as bigint) as version,
cast(has_schema_privilege(current_schema(), 'create') as int)::bigint as creates, current_user::text as who";
    let row = conn.fetch_one(sql, &[]).await.ok()?;
    let (version, creates, who) = (row.int("version").ok()?, row.int("creates").ok()?, row.text("who").ok()?);
    let major = version / 10_000;
    Some(if creates == 0 {
        let what = say!("`{who}` may not create tables in its schema", "`{who}` はスキーマにテーブルを作れません");
        let fix = say!(
            "run `matome migrate` as a role that may, or `grant create on schema ... to {who}`",
            "作れるロールで `matome migrate` を実行するか、`grant create on schema ... to {who}` を実行してください"
        );
        Finding::new("M043", Severity::Warning, what, fix)
    } else if major < 15 {
        let what = say!("PostgreSQL {major} is untested", "PostgreSQL {major} では試していません");
        let fix = say!("use PostgreSQL 15 or later", "PostgreSQL 15 以降を使ってください");
        Finding::new("M043", Severity::Warning, what, fix)
    } else {
        Finding::ok("M043", say!("`{who}` may do all that is needed", "`{who}` は必要な権限を持っています"))
    })
}

/// Whether a process does what `part` names.
fn member(part: &str, roles: &[RoleState]) -> Finding {
    let does = |role: &str| role == "serve" || role.split(',').any(|one| one == part);
    let alive: i64 = roles.iter().filter(|state| does(&state.role)).map(|state| state.alive).sum();
    if alive > 0 {
        return Finding::ok("M044", say!("{part}: processes that live: {alive}", "{part}: 動いているプロセス {alive}"));
    }
    let start = match part {
        "web" | "beat" => format!("matome {part}"),
        _ => format!("matome worker {part}"),
    };
    let what = say!("{part}: no process lives", "{part}: 動いているプロセスがありません");
    Finding::new("M044", Severity::Warning, what, say!("start `{start}`", "`{start}` を起動してください"))
}

/// M045: files with secrets that everybody on the machine can read.
fn files(args: &ServeArgs, config: &Config) -> Vec<Finding> {
    let has_password = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().any(|line| line.split_once("://").is_some_and(|(_, rest)| rest.contains('@')))
    };
    let settings = config.files.iter().map(Path::new).filter(|file| has_password(file));
    let secret: Vec<&Path> = settings.chain(args.listen.tls_key_file.as_deref()).collect();
    let is_open = |path: &&Path| std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o007 != 0);
    let open = |path: &Path| {
        let path = path.display();
        let what = say!("everybody on this machine can read `{path}`", "このマシンの誰でも `{path}` を読めます");
        Finding::new("M045", Severity::Warning, what, say!("chmod o= {path}", "chmod o= {path} を実行してください"))
    };
    let found: Vec<Finding> = secret.iter().copied().filter(is_open).map(open).collect();
    if found.is_empty() && !secret.is_empty() {
        let what =
            say!("files with secrets are not open to everybody", "秘密を含むファイルは誰にでも開かれてはいません");
        return vec![Finding::ok("M045", what)];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_good_from_its_beginning_to_three_weeks_before_its_end() {
        let fixture = |kind: &str| format!("tests/fixtures/tls/one.{kind}").into();
        let files = TlsFiles { certificate: fixture("crt"), key: fixture("key") };
        let (from, until) = files.validity().unwrap();
        // As `openssl x509 -noout -dates` says.
        assert_eq!(
            (from.to_rfc3339(), until.to_rfc3339()),
            ("2026-11-25T02:21:38+00:00".into(), "2126-11-01T02:21:38+00:00".into())
        );
        let day = chrono::TimeDelta::days(1);
        for (now, wanted) in [
            (from - day, Severity::Error),
            (from + day, Severity::Ok),
            (until - day * 22, Severity::Ok),
            (until - day * 20, Severity::Warning),
            (until, Severity::Error),
        ] {
            assert_eq!(judge_validity((from, until), now).severity, wanted, "{now}");
        }
    }
}
