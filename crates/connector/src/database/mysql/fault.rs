//! What MySQL and MariaDB themselves say.

use matome_model::field_error::Words;
use matome_model::say;
use sqlx::mysql::MySqlDatabaseError;

use super::super::fault::Faults;
use crate::error::DatabaseFault;

/// Takes the server's number, as its SQLSTATE is the same for many things.
pub(in super::super) fn said(faults: &Faults, error: &MySqlDatabaseError) -> (DatabaseFault, Words) {
    let (number, message) = (error.number(), error.message());
    let (user, database) = (faults.user(), faults.database());
    match number {
        // Access denied; not from this host; password expired; account locked.
        1045 | 1130 | 1698 | 1820 | 1862 | 3118 | 4151 => (
            DatabaseFault::Auth,
            say!(
                "the server refuses the user `{user}`: {message}; look at `user` and `password`, and at the hosts that the \
                 user may come from",
                "サーバーがユーザー `{user}` を拒否しました: {message}。`user` と `password`、接続元として許されたホストを\
                 確かめてください"
            ),
        ),
        1044 | 1142 | 1143 | 1227 | 1345 | 1356 | 1370 => (
            DatabaseFault::Auth,
            say!(
                "the user `{user}` may not read it: {message}; grant `select`",
                "ユーザー `{user}` には読む権限がありません: {message}。`select` の権限を与えてください"
            ),
        ),
        3159 => (
            DatabaseFault::Tls,
            say!(
                "the server wants TLS: {message}; set `tls.mode` to `verify-full`",
                "サーバーが TLS を求めています: {message}。`tls.mode` を `verify-full` にしてください"
            ),
        ),
        1049 => (
            DatabaseFault::Missing,
            say!(
                "the server has no database `{database}`: {message}",
                "サーバーにデータベース `{database}` がありません: {message}"
            ),
        ),
        1054 | 1109 | 1146 | 1305 => (
            DatabaseFault::Missing,
            say!(
                "the server does not find it: {message}; a table of another database is `database.table`",
                "サーバーで見つかりません: {message}。別のデータベースのテーブルは `database.table` と書いてください"
            ),
        ),
        1290 | 1792 => (
            DatabaseFault::Query,
            say!(
                "the query would write, and sources are only read: {message}",
                "クエリーが書き込もうとしていますが、データソースは読むだけです: {message}"
            ),
        ),
        1969 | 3024 => (
            DatabaseFault::Timeout,
            say!(
                "the server gave the statement up: {message}; see `statement_timeout_secs`, and whether an index fits the order",
                "サーバーが文を打ち切りました: {message}。`statement_timeout_secs` と、順序に合う索引があるかを確かめてください"
            ),
        ),
        1205 | 3572 => {
            let secs = faults.lock_timeout().as_secs();
            (
                DatabaseFault::Lost,
                say!(
                    "somebody holds a lock on it for longer than {secs} s (`timeout_secs`): {message}",
                    "ほかの処理が {secs} 秒 (`timeout_secs`) を超えてロックしています: {message}"
                ),
            )
        }
        1038 => (
            DatabaseFault::Query,
            say!(
                "the server can not sort so long values: {message}; give it more by `options.sort_buffer_size`, or add an index \
                 that fits the order",
                "サーバーが長い値を並べ替えられません: {message}。`options.sort_buffer_size` を増やすか、順序に合う索引を作ってください"
            ),
        ),
        // Too many connections or none for this user; shutdown, deadlock, killed, network, memory, disk, a table that was altered.
        1021
        | 1037
        | 1040
        | 1041
        | 1053
        | 1077
        | 1080
        | 1129
        | 1135
        | 1152..=1161
        | 1184
        | 1203
        | 1213
        | 1226
        | 1317
        | 1412
        | 1615
        | 1927
        | 3169
        | 4031 => (
            DatabaseFault::Lost,
            say!("the server can not go on: {message} ({number})", "サーバーが続けられません: {message} ({number})"),
        ),
        1060 | 1064 | 1221 | 1222 | 1248 | 1267 | 1271 => (
            DatabaseFault::Query,
            say!("the server does not accept the query: {message}", "サーバーがクエリーを受け付けません: {message}"),
        ),
        _ if error.code().is_some_and(|state| state.starts_with("08")) => (
            DatabaseFault::Lost,
            say!("the server can not go on: {message} ({number})", "サーバーが続けられません: {message} ({number})"),
        ),
        _ => (
            DatabaseFault::Query,
            say!("the server says: {message} ({number})", "サーバーのエラー: {message} ({number})"),
        ),
    }
}
