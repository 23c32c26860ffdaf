//! What to do about errors of reading that do not say it themselves.

use std::io::ErrorKind;

use matome_egress::EgressError;
use matome_model::field_error::Words;

use super::{ConnectorError, DatabaseFault, PlaceFault};

/// Nothing where the error says it, or nobody knows.
pub(super) fn of(err: &ConnectorError) -> Option<Words> {
    match err {
        ConnectorError::Egress { source, .. } | ConnectorError::Unreached { source, .. } => of_egress(source),
        ConnectorError::Status { status, .. } => Some(of_status(status.as_u16())),
        ConnectorError::Token { .. } => Some(Words::new(
            "check the address, the id and the secret that `auth` gives for tokens",
            "`auth` にあるトークンのアドレス、ID、秘密を確かめてください",
        )),
        ConnectorError::Answer { .. } => Some(Words::new(
            "what the server wants is in its words: credentials (`auth`), `params` or `headers`",
            "サーバーのことばが求めているものを、認証情報 (`auth`)、`params`、`headers` で指定してください",
        )),
        ConnectorError::Document { .. } => Some(Words::new(
            "what is there is cut off or of another format: look at it, and set `format`, `encoding` or `records` if they were \
             taken wrongly",
            "内容が途中で切れているか、別の形式です。中身を確かめ、推測が違っていれば `format`、`encoding`、`records` を指定して\
             ください",
        )),
        ConnectorError::Io { source, .. } => of_io(source.kind()),
        ConnectorError::NoMatch { .. } => Some(Words::new(
            "check its name; it stands beneath a file root (`matome doctor` lists them)",
            "名前を確かめてください。ファイルルートの下にあるものだけを読めます (`matome doctor` が一覧を示します)",
        )),
        ConnectorError::NotRegular { .. } => Some(Words::new(
            "name the file itself: links that lead out of the file roots, pipes and devices are not read",
            "ファイルそのものを指定してください。ファイルルートの外に出るリンク、パイプ、デバイスは読みません",
        )),
        ConnectorError::Place { fault: PlaceFault::Lost, .. }
        | ConnectorError::Database { fault: DatabaseFault::Lost, .. } => Some(Words::new(
            "try again; if it goes on, see whether the server runs, what its log says and what stands between",
            "もう一度試してください。続くようなら、サーバーが動いているか、そのログ、途中の経路を確かめてください",
        )),
        ConnectorError::Closed { .. } | ConnectorError::Frames { .. } | ConnectorError::Silent { .. } => {
            Some(Words::new(
                "check the address, the credentials (`auth`) and what is to be sent first (`subscribe`)",
                "アドレス、認証情報 (`auth`)、最初に送るもの (`subscribe`) を確かめてください",
            ))
        }
        _ => None,
    }
}

/// When nothing came in time.
fn of_silence() -> Words {
    Words::new(
        "the source is slow, or something between drops what is sent: check host and port, and try again",
        "データソースが遅いか、途中で通信が捨てられています。ホストとポートを確かめて、もう一度試してください",
    )
}

fn of_egress(err: &EgressError) -> Option<Words> {
    match err {
        EgressError::Resolve { .. } => Some(Words::new(
            "check the name of the host; if it is right, the name server of this machine does not know it",
            "ホスト名を確かめてください。正しいなら、このマシンの使うネームサーバーがそれを知りません",
        )),
        EgressError::Connection { .. } | EgressError::Dial { .. } => Some(Words::new(
            "is the server running, on this port and with this protocol? Does a firewall stand between?",
            "サーバーがこのポートとプロトコルで動いているか、間にファイアウォールがないかを確かめてください",
        )),
        EgressError::Timeout { .. } | EgressError::Slow { .. } => Some(of_silence()),
        EgressError::Redirects { .. } => Some(Words::new(
            "give the address where the redirects are to end; one to a login page asks for credentials (`auth`)",
            "リダイレクトの行き先のアドレスを指定してください。ログインページに移るなら認証情報 (`auth`) が必要です",
        )),
        EgressError::TooLarge { .. } => Some(Words::new(
            "ask for less at once, by `params` or smaller pages",
            "`params` や小さいページで、一度に求める量を減らしてください",
        )),
        EgressError::Encoding { .. } => Some(Words::new(
            "ask for the answer as it is: headers.Accept-Encoding=identity",
            "圧縮なしの応答を求めてください: headers.Accept-Encoding=identity",
        )),
        // What is said of those tells it.
        _ => None,
    }
}

fn of_status(status: u16) -> Words {
    match status {
        401 | 403 => Words::new(
            "give credentials with `auth`, for example auth.type=bearer and auth.token=...",
            "`auth` で認証情報を指定してください。例: auth.type=bearer と auth.token=...",
        ),
        404 | 410 => {
            Words::new("check the address: there is nothing", "アドレスを確かめてください。そこには何もありません")
        }
        429 => Words::new(
            "it was asked too often: try again later, and set `rate` for the source",
            "要求が多すぎます。しばらくしてから試し、データソースに `rate` を設定してください",
        ),
        500..=599 => Words::new(
            "the server itself has trouble: try again later, or ask those who run it",
            "サーバー側の問題です。しばらくしてから試すか、運用者に問い合わせてください",
        ),
        _ => Words::new(
            "the server does not take the request as it is: check `method`, `params`, `headers` and `body`",
            "サーバーがこの要求を受け付けません。`method`、`params`、`headers`、`body` を確かめてください",
        ),
    }
}

fn of_io(kind: ErrorKind) -> Option<Words> {
    match kind {
        ErrorKind::NotFound => Some(Words::new(
            "check the path: there is no such file beneath the file roots",
            "パスを確かめてください。ファイルルートの下にそのファイルはありません",
        )),
        ErrorKind::PermissionDenied => Some(Words::new(
            "let the user that matome runs as read the file",
            "matome を実行しているユーザーがファイルを読めるようにしてください",
        )),
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Some(Words::new(
            "the file is damaged or cut off: have it written again, whole",
            "ファイルが壊れているか途中で切れています。もう一度、最後まで書き出してください",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use crate::error::ConnectorError;
    use crate::record::Position;

    #[test]
    fn what_helps_depends_on_what_happened() {
        let position =
            || Box::new(Position { document: "d".into(), request: None, line: None, record: 0, headers: None });
        let status = |code: u16| ConnectorError::Status {
            position: position(),
            status: code.try_into().unwrap(),
            retry_after: None,
        };
        let io = |kind: std::io::ErrorKind| ConnectorError::Io {
            position: position(),
            action: "opening it",
            source: kind.into(),
        };
        for (err, says) in [
            (status(401), "auth.token"),
            (status(500), "later"),
            (status(404), "address"),
            (io(std::io::ErrorKind::NotFound), "path"),
            (io(std::io::ErrorKind::UnexpectedEof), "damaged"),
        ] {
            let told = super::of(&err).unwrap();
            assert!(told.english.contains(says), "{told}");
        }
        assert!(super::of(&ConnectorError::Cancelled).is_none());
    }
}
