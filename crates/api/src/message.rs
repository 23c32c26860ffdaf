//! What the API says to people, in English and Japanese, in Django REST framework's words where it has some.

use http::{HeaderMap, header};
use matome_model::field_error::Words;
pub use matome_model::language::Language;

/// The language that a request asks for.
pub fn language_of(headers: &HeaderMap) -> Language {
    let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    Language::of_accept_language(wanted.unwrap_or_default())
}

/// Everything that the API says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Required,
    MayNotBeNull,
    MayNotBeBlank,
    TooLong {
        characters: usize,
    },
    NoString,
    NulCharacter,
    NoInteger,
    NoBoolean,
    TooSmall {
        least: i64,
    },
    TooLarge {
        most: i64,
    },
    NoChoice {
        given: String,
    },
    NameTaken {
        noun: &'static str,
    },
    NoObject {
        kind: &'static str,
    },
    BodyNoObject {
        kind: &'static str,
    },
    BadJson {
        what: String,
    },
    BadConfig {
        what: String,
    },
    SecretUnknown,
    DraftCannotRun {
        needs: &'static str,
    },
    PausedCannotRun,
    FilterNumber,
    FilterTime,
    FilterUuid,
    FilterBoolean,
    FilterChoice {
        given: String,
    },
    FilterReference,
    FilterNul,
    InvalidPage,
    NotFound,
    NoMatch {
        noun: &'static str,
    },
    MethodNotAllowed {
        method: String,
    },
    NotAcceptable,
    UnsupportedMediaType {
        media_type: String,
    },
    BodyTooLarge {
        limit: usize,
    },
    BadHost {
        host: String,
    },
    NoCredentials,
    InvalidToken,
    PermissionDenied,
    DiskFull,
    TaskEnded {
        id: i64,
        status: &'static str,
    },
    TaskNotEnded {
        id: i64,
        status: &'static str,
    },
    NoIds {
        most: usize,
    },
    IdsOrSource,
    BadRecord {
        what: Words,
    },
    Replaying {
        id: i64,
    },
    Replayed {
        id: i64,
    },
    RawCut {
        kept: i64,
        length: i64,
    },
    RawNoObject,
    RawOfParent,
    BadSignature,
    KeyOfOther {
        id: i64,
    },
    TooMuchWaits {
        pushes: i64,
        bytes: i64,
    },
    Busy,
    /// What a lower crate says in both languages.
    Said(Words),
}

impl Message {
    /// The text.
    #[allow(clippy::too_many_lines)] // A catalogue: one line per message and language.
    pub fn text(&self, language: Language) -> String {
        let (english, japanese): (String, String) = match self {
            Self::Required => both(Words::required()),
            Self::MayNotBeNull => both(Words::null()),
            Self::MayNotBeBlank => both(Words::blank()),
            Self::TooLong { characters } => (
                format!("Ensure this field has no more than {characters} characters."),
                format!("この項目が{characters}文字より長くならないようにしてください。"),
            ),
            Self::NoString => both(Words::no_string()),
            Self::NulCharacter => (
                "Null characters are not allowed. Remove U+0000.".into(),
                "NUL文字 (U+0000) は使えません。取り除いてください。".into(),
            ),
            Self::NoInteger => both(Words::no_integer()),
            Self::NoBoolean => both(Words::no_boolean()),
            Self::TooSmall { least } => both(Words::too_small(least)),
            Self::TooLarge { most } => both(Words::too_large(most)),
            Self::NoChoice { given } => {
                (format!("\"{given}\" is not a valid choice."), format!("\"{given}\"は有効な選択肢ではありません。"))
            }
            Self::NameTaken { noun } => (
                format!("{noun} with this name already exists."),
                format!("この name を持った {noun} が既に存在します。"),
            ),
            Self::NoObject { kind } => both(Words::no_object(kind)),
            Self::BodyNoObject { kind } => (
                format!("Invalid data. Expected a dictionary, but got {kind}."),
                format!("無効なデータです。{kind} ではなく辞書を送ってください。"),
            ),
            Self::BadJson { what } => (format!("JSON parse error - {what}"), format!("JSONパースエラー - {what}")),
            Self::BadConfig { what } => (format!("{what}."), format!("保存できない値です: {what}")),
            Self::SecretUnknown => (
                "No secret is stored here. Send the value itself.".into(),
                "ここには秘密の値が保存されていません。値そのものを送ってください。".into(),
            ),
            Self::DraftCannotRun { needs } => (
                format!("This is a draft and cannot run. Set {needs} in `config` first."),
                format!("下書きのため実行できません。先に `config` に {needs} を設定してください。"),
            ),
            Self::PausedCannotRun => (
                "It is paused. Resume it first: POST to `resume/`.".into(),
                "停止中です。先に再開してください: `resume/` に POST。".into(),
            ),
            Self::FilterNumber => ("Enter a number.".into(), "整数を入力してください。".into()),
            Self::FilterTime => ("Enter a valid date/time.".into(), "日付/時間を正しく入力してください。".into()),
            Self::FilterUuid => ("Enter a valid UUID.".into(), "UUIDを正しく入力してください。".into()),
            Self::FilterBoolean => ("Enter true or false.".into(), "true か false を入力してください。".into()),
            Self::FilterChoice { given } => (
                format!("Select a valid choice. {given} is not one of the available choices."),
                format!("正しく選択してください。 {given} は候補にありません。"),
            ),
            Self::FilterReference => (
                "Select a valid choice. That choice is not one of the available choices.".into(),
                "正しく選択してください。選択したものは候補にありません。".into(),
            ),
            Self::FilterNul => {
                ("Null characters are not allowed.".into(), "何か文字を入力してください。NUL文字は使えません。".into())
            }
            Self::InvalidPage => ("Invalid page.".into(), "不正なページです。".into()),
            Self::NotFound => ("Not found.".into(), "見つかりませんでした。".into()),
            Self::NoMatch { noun } => {
                (format!("No {noun} matches the given query."), format!("指定した条件に一致する {noun} はありません。"))
            }
            Self::MethodNotAllowed { method } => {
                (format!("Method \"{method}\" not allowed."), format!("メソッド \"{method}\" は許されていません。"))
            }
            Self::NotAcceptable => (
                "Could not satisfy the request Accept header.".into(),
                "リクエストのAcceptヘッダを満足できませんでした。".into(),
            ),
            Self::UnsupportedMediaType { media_type } => (
                format!("Unsupported media type \"{media_type}\" in request."),
                format!("リクエストのメディアタイプ \"{media_type}\" はサポートされていません。"),
            ),
            Self::BodyTooLarge { limit } => (
                format!("The request body is larger than {limit} bytes."),
                format!("リクエスト本文が {limit} バイトを超えています。"),
            ),
            Self::BadHost { host } => (
                format!(
                    "Invalid HTTP Host header: \"{host}\". Add it to ALLOWED_HOSTS if it is a name of this server."
                ),
                format!(
                    "HTTP の Host ヘッダ \"{host}\" が不正です。このサーバーの名前であれば ALLOWED_HOSTS に加えてください。"
                ),
            ),
            Self::NoCredentials => {
                ("Authentication credentials were not provided.".into(), "認証情報が含まれていません。".into())
            }
            Self::InvalidToken => ("Invalid token.".into(), "不正なトークンです。".into()),
            Self::PermissionDenied => (
                "You do not have permission to perform this action.".into(),
                "このアクションを実行する権限がありません。".into(),
            ),
            Self::DiskFull => (
                "There is no room for more data: free some disk space, raise max_database, or delete what is not needed. \
                 What is stored is safe, and waiting tasks go on by themselves."
                    .into(),
                "これ以上データを保存する空きがありません。ディスクの空きを作るか、max_database を上げるか、不要なものを削除してください。\
                 保存済みのものは失われず、待っているタスクは空きができれば自動で再開します。"
                    .into(),
            ),
            Self::TaskEnded { id, status } => (
                format!("Task {id} has ended already ({status})."),
                format!("タスク {id} は既に終わっています ({status})。"),
            ),
            Self::TaskNotEnded { id, status } => (
                format!("Task {id} is {status}; only a task that failed or was cancelled can be retried."),
                format!("タスク {id} は {status} です。再試行できるのは失敗か取り消しで終わったタスクだけです。"),
            ),
            Self::NoIds { most } => (
                format!("A list of 1 to {most} ids is required."),
                format!("1個から{most}個までの id のリストが必要です。"),
            ),
            Self::IdsOrSource => (
                "Say which records: either `ids`, or `source` (and `reason`).".into(),
                "対象を指定してください: `ids`、または `source` (と `reason`)。".into(),
            ),
            Self::BadRecord { what } => (
                format!("This cannot be stored: {}. Send one JSON object.", what.english),
                format!("保存できません: {}。JSON オブジェクトを一つ送ってください。", what.japanese),
            ),
            Self::Replaying { id } => (
                format!("Record {id} is being replayed. Wait for its task; `replay_task` names it."),
                format!("レコード {id} は再投入中です。タスク (`replay_task`) の終わりを待ってください。"),
            ),
            Self::Replayed { id } => (
                format!("Record {id} was replayed already; see its `outcome`."),
                format!("レコード {id} は既に再投入されています。`outcome` を見てください。"),
            ),
            Self::RawCut { kept, length } => (
                format!(
                    "Only the first {kept} of its {length} bytes are kept. Send the corrected record in `raw`, or correct \
                     the source and run it again."
                ),
                format!(
                    "{length} バイトのうち最初の {kept} バイトだけが残っています。修正したレコードを `raw` で送るか、ソースを直して再実行してください。"
                ),
            ),
            Self::RawNoObject => (
                "Its bytes are no JSON object. Send the record as one JSON object in `raw`.".into(),
                "バイト列が JSON オブジェクトではありません。レコードを一つの JSON オブジェクトとして `raw` で送ってください。"
                    .into(),
            ),
            Self::RawOfParent => (
                "It is a record of the list of parents, and none of those is stored. Correct the parent at its source, or the \
                 placeholder; the next read reads its children."
                    .into(),
                "親のリストのレコードで、親は保存されません。ソースの側で親を直すか、プレースホルダーを直してください。次の読み込みが子を読みます。"
                    .into(),
            ),
            Self::BadSignature => (
                "The signature is missing or not valid.".into(),
                "署名がないか、正しくありません。".into(),
            ),
            Self::KeyOfOther { id } => (
                format!(
                    "Push {id} was sent under this Idempotency-Key with another body. Send the same bytes again, or use \
                     another key."
                ),
                format!(
                    "この Idempotency-Key では別の本文がプッシュ {id} として送られています。同じバイト列を送り直すか、別のキーを使って\
                     ください。"
                ),
            ),
            Self::TooMuchWaits { pushes, bytes } => (
                format!(
                    "{pushes} pushes of {bytes} bytes wait to be read already. Look at the tasks of the source (it may be \
                     paused, or they fail), and send this again later."
                ),
                format!(
                    "読まれるのを待っているプッシュがすでに {pushes} 件 ({bytes} バイト) あります。データソースのタスクを確かめ \
                     (停止中か、失敗しているかもしれません)、あとで送り直してください。"
                ),
            ),
            Self::Busy => (
                "The server takes in as much as it can at the moment. Send this again in a second.".into(),
                "サーバーは今これ以上受け取れません。1 秒ほどあとで送り直してください。".into(),
            ),
            Self::Said(words) => both(words.clone()),
        };
        match language {
            Language::English => english,
            Language::Japanese => japanese,
        }
    }
}

fn both(words: Words) -> (String, String) {
    (words.english, words.japanese)
}
