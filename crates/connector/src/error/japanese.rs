//! The errors of reading in Japanese; their English stands beside each variant.

use matome_model::field_error::FieldError;

use super::ConnectorError;
use crate::record::Position;

pub(super) fn of(error: &ConnectorError) -> String {
    use ConnectorError as E;
    match error {
        E::Draft => "データソースは下書きです。何を読むかが config にまだありません".to_owned(),
        E::Pushed => "読むものがありません。このデータソースには `matome source push NAME FILE` (POST `records/`) で\
                      レコードを送ります"
            .to_owned(),
        E::Config(errors) => format!("config が正しくありません: {}", in_one_line(errors)),
        E::NoFileRoot { path } => format!(
            "`{path}` を読めません。ファイルルートが設定されていません。matome を `--file-root DIR` (または \
             `FILE_ROOTS`) を付けて起動してください"
        ),
        E::OutsideRoots { path, roots } => format!(
            "`{path}` はファイルルート ({roots}) の下にありません。そこに移すか、`--file-root DIR` を加えてください"
        ),
        E::NoMatch { path, roots } => {
            format!("ファイルルート ({roots}) の下に `{path}` に合うファイルがありません")
        }
        E::Directory { path } => format!("`{path}` はディレクトリです。その中のファイルを指定してください"),
        E::EmptyDirectory { path, extensions } => {
            let what = match extensions.is_empty() {
                true => "読むべきファイル".to_owned(),
                false => format!("拡張子 {extensions} のファイル"),
            };
            let start = path.trim_end_matches('/');
            format!("ディレクトリ `{path}` に{what}がありません。`{start}/*.txt` のようなパターンで指定してください")
        }
        E::NoFormat { path } => {
            let start = path.trim_end_matches('/');
            format!(
                "ディレクトリ `{path}` のファイル名からは形式が分かりません。`{start}/*.txt` のようなパターンで指定してください"
            )
        }
        E::NotRegular { path } => format!("`{path}` は通常のファイルではありません"),
        E::TooManyFiles { path, limit } => {
            format!("`{path}` に合うファイルが {limit} を超えています。パターンを絞ってください")
        }
        E::FileTooLarge { path, size, limit } => {
            format!("`{path}` は {size} バイトで、上限の {limit} バイトを超えています。分割してください")
        }
        E::Io { position, action, .. } => format!("{}: {}", at(position), doing(action)),
        E::Changed { document, records, change, .. } => format!(
            "`{document}` が変わったため ({})、レコード {records} の続きを読めません。読んだものは保存してあり、次の読み取りはその\
             ときのファイルを初めから読みます。ファイルは別の名前で書き、完成してから名前を変えてください",
            change.1
        ),
        E::Certificates { position, problem } | E::Document { position, problem } => {
            format!("{}: {}", at(position), problem.japanese)
        }
        E::Place { position, problem, .. } => format!("{}: {}", at(position), problem.japanese),
        E::Egress { position, .. } => format!("{}: 要求が失敗しました", at(position)),
        E::Unreached { position, .. } => format!("{}: 接続できません", at(position)),
        E::Database { position, problem, .. } => format!("{}: {}", at(position), problem.japanese),
        E::Status { position, status, .. } => format!("{}: サーバーが {status} を返しました", at(position)),
        E::Loop { position, problem } => format!("{}: ページが循環しています。{}", at(position), problem.japanese),
        E::Answer { position, message, .. } => {
            format!("{}: サーバーがエラーを示しています: {}", at(position), message.japanese)
        }
        E::Token { position, problem } => {
            format!("{}: アクセストークンを得られません: {}", at(position), problem.japanese)
        }
        E::Unkept { position, .. } => format!(
            "{}: リフレッシュトークンを読めないか、次のトークンを保存できませんでした。次の試行が拒否されたら、アクセスを許可し直して \
             `auth.refresh_token` を設定してください",
            at(position)
        ),
        E::Spent { position, wait } => {
            format!("{}: データソースはあと {} 秒のあいだ要求を受け付けません", at(position), wait.as_secs())
        }
        E::Regress { position, before, now } => format!(
            "{}: `incremental.order` では増えるはずのカーソルが `{before}` から `{now}` に戻りました。`order` を外すか、\
             データソース側で並べ替えてください",
            at(position)
        ),
        E::NoCursor { path, kind } => {
            let kind = match *kind {
                "a whole number" => "整数",
                "a text" => "文字列",
                _ => "タイムゾーン付きの時刻 (RFC 3339)",
            };
            format!(
                "どのレコードも `{path}` (`incremental.cursor`) に{kind}を持たないため、続きを読めません。読んだものは\
                 保存されています"
            )
        }
        E::Closed { position, code, reason } => {
            let code = super::closed(*code, reason).replace("code", "コード");
            format!("{}: データソースが接続を閉じました{code}", at(position))
        }
        E::TurnedAway { position, code, reason, times } => {
            let code = super::closed(*code, reason).replace("code", "コード");
            format!(
                "{}: データソースが接続のたびにすぐ閉じます{code}。{times} 回続きました。`auth`、`secrets`、`subscribe` で求めるものを\
                 確かめてください",
                at(position)
            )
        }
        E::Silent { position, silence } => format!(
            "{}: {} 秒のあいだ何も届かなかったため (`heartbeat.silence_secs`)、接続を打ち切りました",
            at(position),
            silence.as_secs()
        ),
        E::Frames { position, .. } => format!("{}: WebSocket が壊れました", at(position)),
        E::NoStream { position, is_events, came } => {
            let wanted = if *is_events { "イベントのストリーム (`text/event-stream`)" } else { "WebSocket" };
            format!(
                "{}: {wanted}を求めましたが、返ったのは {} でした。`url` を確かめてください",
                at(position),
                came.japanese
            )
        }
        E::TooMuch { position, limit } => {
            format!("{}: 一度の読み取りが {limit} バイトを超えました。データソースを分けてください", at(position))
        }
        E::Checkpoint(_) => {
            "チェックポイントを読めません。データソースの config を変更して保存すると、初めから読み直します".to_owned()
        }
        E::Store(_) => "データソースに送られたものをデータベースから読めません".to_owned(),
        E::Cancelled => "読み取りは取り消されました".to_owned(),
        E::Broken => "読み取りが予期せず終わりました".to_owned(),
    }
}

fn in_one_line(errors: &[FieldError]) -> String {
    let line = |error: &FieldError| match error.path.is_empty() {
        true => error.message.japanese.clone(),
        false => format!("`{}`: {}", error.path.join("."), error.message.japanese),
    };
    errors.iter().map(line).collect::<Vec<_>>().join(" ")
}

fn at(position: &Position) -> String {
    let mut text = format!("`{}`", position.document);
    if let Some(request) = position.request {
        text.push_str(&format!(" (要求 {request})"));
    }
    if let Some(line) = position.line {
        text.push_str(&format!(" {line} 行目"));
    }
    text
}

fn doing(action: &str) -> &'static str {
    match action {
        "opening it" => "開けませんでした",
        "listing it" => "一覧を読めませんでした",
        "reading its size" => "大きさを読めませんでした",
        "decompressing it" => "展開できませんでした",
        _ => "読めませんでした",
    }
}
