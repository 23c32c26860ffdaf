//! The catalogue of what the command line says to people: each message once, in English and in Japanese.
//!
//! A message that lacks one of the languages does not compile. Fields are texts; a field that only one language
//! uses is a warning.

use matome_model::field_error::Words;

macro_rules! catalogue {
    ($($name:ident $({ $($field:ident),* })? => $english:literal, $japanese:literal;)*) => {
        /// What the command line says.
        #[derive(Clone, Debug)]
        pub enum Message {
            $($name $({ $($field: String),* })?,)*
        }

        impl From<Message> for Words {
            fn from(message: Message) -> Self {
                match message {
                    $(Message::$name $({ $($field),* })? => Words::new(format!($english), format!($japanese)),)*
                }
            }
        }

        #[cfg(test)]
        const TEMPLATES: &[(&str, &str, &str)] = &[$((stringify!($name), $english, $japanese)),*];
    };
}

catalogue! {
    // What a server or a library says, in the language that it was asked in.
    Said { text } => "{text}", "{text}";
    Error => "error", "エラー";
    Cause => "cause", "原因";
    Help => "help", "対処";

    // Reaching matome.
    NoDataDirectory { dir } => "there is no data directory `{dir}`", "データディレクトリ `{dir}` がありません";
    NameDataDirectory =>
        "give the one of your server with --data-dir; `matome serve` and `matome migrate` make a new one",
        "サーバーのデータディレクトリを --data-dir で指定してください。新しく作るのは `matome serve` と `matome migrate` です";
    NoServerUrl { server } => "`{server}` is no URL of a server", "`{server}` はサーバーの URL ではありません";
    WriteServerUrl { server } =>
        "write http://{server} or https://{server}", "http://{server} か https://{server} と書いてください";
    NoAnswer { target } => "`{target}` does not answer", "`{target}` が応答しません";
    CheckServer =>
        "check that `matome serve` runs there, or leave --server away to use the data directory",
        "そこで `matome serve` が動いているか確かめてください。データディレクトリを直接使うなら --server を付けないでください";
    AnswerNoJson => "the server's answer is no JSON", "サーバーの応答が JSON ではありません";
    AnswerWithout { what } => "the server's answer is without {what}", "サーバーの応答に {what} がありません";
    ServerAnswered { status } => "the server answered {status}", "サーバーが {status} を返しました";
    GiveToken =>
        "give an API token with --token or MATOME_TOKEN; `matome token create --role admin` makes one, on the machine of the server and \
         without --server or MATOME_URL",
        "API トークンを --token か MATOME_TOKEN で渡してください。`matome token create --role admin` で作れます (サーバーのマシンで、\
         --server と MATOME_URL を付けずに)";
    UseAdminToken => "use a token of role admin", "ロール admin のトークンを使ってください";
    ConnectionBroke { target } => "the answer of `{target}` broke off", "`{target}` の応答が途中で切れました";
    TryAgainWhole => "run the command again; what was written so far is not complete",
        "もう一度実行してください。途中までの出力は完全ではありません";

    // Measuring.
    BenchFailed => "the measurement failed", "測定に失敗しました";
    GiveBenchDir =>
        "give a directory on the disk to be measured with --dir",
        "測定するディスク上のディレクトリを --dir で指定してください";
    NoBenchDatabase => "cannot make a database for the measurement", "測定用のデータベースを作れません";
    GiveCreateDb =>
        "give a role that may create databases: alter role NAME createdb",
        "データベースを作れるロールを使ってください: alter role NAME createdb";

    // Names, values and files that a user gives.
    NoSource { name } => "there is no source `{name}`", "データソース `{name}` がありません";
    NoAggregation { name } => "there is no aggregation `{name}`", "集約 `{name}` がありません";
    NoTask { id } => "there is no task {id}", "タスク {id} がありません";
    SeeList { command } => "`matome {command} list` shows those that are there", "`matome {command} list` で一覧を見られます";
    SeeTaskLists =>
        "`matome task list` shows those of sources, with `--queue aggregation` those of aggregations",
        "`matome task list` で取得のタスク、`--queue aggregation` を付けると集約のタスクが見られます";
    CannotRead { file } => "cannot read `{file}`", "`{file}` を読めません";
    CannotWrite { file } => "cannot write `{file}`", "`{file}` に書けません";
    CheckFile => "check its path and permissions", "パスと権限を確かめてください";
    CheckRoom => "check its directory, its permissions and the free space", "ディレクトリ、権限、空き容量を確かめてください";
    NoSuchType { source_type } => "there is no type `{source_type}`", "種類 `{source_type}` はありません";
    TypesAre { types } => "the types are {types}", "種類は {types} です";
    NoSourceType => "the type of the source is missing", "データソースの種類が指定されていません";
    GiveSourceType =>
        "give --path, --url, --table, or --type with --config",
        "--path、--url、--table、または --type と --config を指定してください";
    NoFormat { file } => "the name `{file}` does not tell the format", "`{file}` という名前からは形式が分かりません";
    GiveFormat => "give --format json, ndjson or csv", "--format json、ndjson、csv のどれかを指定してください";
    PushAgain =>
        "run the command again: what was sent already is not stored twice",
        "もう一度実行してください。すでに送られた分が二重に保存されることはありません";
    ConfigNoJson => "--config is no JSON", "--config が JSON ではありません";
    WriteConfigJson =>
        "for example --config '{{\"url\": \"https://example.com/users\"}}', or --config @FILE",
        "例: --config '{{\"url\": \"https://example.com/users\"}}'、または --config @ファイル名";
    NoKeyValue { option } => "`{option}` is not KEY=VALUE", "`{option}` は KEY=VALUE の形ではありません";
    WriteKeyValue => "for example --set encoding=shift_jis", "例: --set encoding=shift_jis";
    WriteParam => "for example --param since=2026-01-01", "例: --param since=2026-01-01";
    BeneathNoObject { key } =>
        "`{key}` goes beneath something that is no object", "`{key}` の上位がオブジェクトではありません";
    SetObjectFirst => "set the object itself first, or write all of it with --config",
        "先にオブジェクトそのものを指定するか、--config で全体を書いてください";
    NeitherGiven => "neither --source nor --aggregation is given", "--source も --aggregation も指定されていません";
    GiveOneOfThem => "give one of them", "どちらか一つを指定してください";
    NoSuchField { field } => "no row has a field `{field}`", "`{field}` というフィールドを持つ行がありません";
    FieldsAre { fields } => "the fields are {fields}", "フィールドは {fields} です";
    NothingPrinted => "stdout cannot be written", "標準出力に書けません";

    // Settings.
    UnknownKey { place, key } => "{place}: there is no setting `{key}`", "{place}: `{key}` という設定はありません";
    UnknownVariable { place, name } =>
        "{place}: there is no variable `{name}`", "{place}: `{name}` という変数はありません";
    DidYouMean { name } => "did you mean `{name}`?", "`{name}` のことですか";
    KnownAre { names } => "known are {names}", "使えるもの: {names}";
    BadSetting { place, name, value } => "{place}: `{name}` cannot be `{value}`", "{place}: `{name}` に `{value}` は使えません";
    WriteList => "write a list: [a, b]", "[a, b] のようにリストで書いてください";
    WriteOneValue => "write one value: a text or a number", "文字列か数値を一つ書いてください (one value)";
    WriteBoolean => "write true or false", "true か false と書いてください";
    NoEnvLine { place } => "{place}: this is no line of an env file", "{place}: env ファイルの行として読めません";
    WriteEnvLine => "write NAME=value, the value in quotes if it has spaces or #",
        "NAME=値 と書き、空白や # を含む値は引用符で囲んでください";
    NoYaml { place } => "{place}: this is no YAML", "{place}: YAML として読めません";
    NoMapping { place } => "{place}: this is no mapping of settings", "{place}: 設定の一覧になっていません";
    WriteYaml => "write one `key: value` a line; docs/configuration.md has every key",
        "1 行に `キー: 値` を一つ書いてください。すべてのキーは docs/configuration.ja.md にあります";
    TwoOfOne { place, name, file } => "{place}: both `{name}` and `{file}` are set", "{place}: `{name}` と `{file}` の両方が設定されています";
    NoSqliteUrl { place, url } =>
        "{place}: `{url}` names no database of matome: its file is called matome.db",
        "{place}: `{url}` は matome のデータベースを指していません。ファイル名は matome.db です";
    WriteSqliteUrl =>
        "write sqlite:///DIR/matome.db (four slashes for an absolute path), or set data_dir",
        "sqlite:///ディレクトリ/matome.db と書くか (絶対パスはスラッシュ四つ)、data_dir を設定してください";
    TwoDirectories { a, b } => "two data directories are named: {a}, and {b}",
        "データディレクトリが二つ指定されています: {a} と {b}";
    HasNoEffect { name } => "`{name}` is set and has no effect", "`{name}` は設定されていますが効果がありません";
    SettingsGood { n } => "{n} settings are set, and all of them can be used", "{n} 個の設定があり、すべて使えます";
    NoteOf { note, why } => "{note}: {why}", "{note}: {why}";

    // The command line itself.
    UnknownArgument { arg } => "there is no argument `{arg}` here", "`{arg}` という引数はここにはありません";
    UnknownCommand { command } => "there is no command `{command}`", "`{command}` というコマンドはありません";
    BadValue { value, arg } => "`{value}` is no value of `{arg}`", "`{arg}` に `{value}` は使えません";
    ValueMissing { arg } => "`{arg}` needs a value", "`{arg}` には値が必要です";
    ArgumentsMissing { args } => "missing: {args}", "足りない引数: {args}";
    SubcommandMissing => "a command is missing", "コマンドが足りません";
    Conflicting { arg, other } => "`{arg}` and `{other}` exclude each other", "`{arg}` と `{other}` は同時に使えません";
    BadUsage => "the command line cannot be understood", "コマンドラインを解釈できません";
    SeeHelp { command } => "`{command} --help` describes it", "`{command} --help` に説明があります";

    // Doctor and healthcheck.
    NotReady { url } => "`{url}` does not say that it is ready", "`{url}` が準備完了を返しません";
    SeeLog => "look at its log, or name another server with --url",
        "そのログを見るか、--url で別のサーバーを指定してください";
    DoctorWarnsOnce => "1 warning", "警告が 1 件あります";
    DoctorFailsOnce => "1 thing does not work", "動かないものが 1 件あります";
    DoctorWarns { n } => "{n} warnings", "警告が {n} 件あります";
    DoctorFails { n } => "{n} things do not work", "動かないものが {n} 件あります";
    SeeFixes => "the column `fix` says what to do about each", "それぞれの対処は「対処」の列にあります";
    SettingsRead { files } => "settings can be used; files: {files}", "設定は使えます。ファイル: {files}";
    BindLoopback { address } => "`serve` listens on {address}, this machine only", "`serve` は {address} で待ち受けます (このマシンのみ)";
    BindOutside { address } =>
        "`serve` listens on {address} without TLS: tokens travel in the clear",
        "`serve` は TLS なしで {address} で待ち受けます。トークンが平文で流れます";
    UseTlsProxy => "listen on 127.0.0.1 and put a proxy with TLS in front",
        "127.0.0.1 で待ち受け、TLS を持つプロキシを前に置いてください";
    AnyHost => "requests may name any host", "リクエストはどのホスト名でも使えます";
    NameHosts => "name the hosts of this server in allowed_hosts", "このサーバーのホスト名を allowed_hosts に指定してください";
    ReachGood { n } => "{n} file roots can be read, the egress rules too", "{n} 個のファイルルートと到達先の規則は使えます";
    MadeAtStart => "nothing to do: it is made at the first start", "対処は不要です。最初の起動時に作られます";
    MigratedAtStart => "nothing to do: `serve` migrates it at its next start", "対処は不要です。`serve` が次の起動時に移行します";
    DirPrivate { dir, mode } => "`{dir}` is its owner's only (mode {mode})", "`{dir}` は所有者だけが使えます (モード {mode})";
    DirOpen { dir, mode } => "`{dir}` can be entered by others (mode {mode})", "`{dir}` にはほかの人も入れます (モード {mode})";
    MakePrivate { mode, path } => "chmod {mode} {path} makes it private", "chmod {mode} {path} で所有者だけのものになります";
    NoKeyFile { file } => "there is no key `{file}` yet", "鍵 `{file}` はまだありません";
    KeyPrivate { file, mode } => "`{file}` is its owner's only (mode {mode})", "`{file}` は所有者だけが読めます (モード {mode})";
    KeyOpen { file, mode } => "`{file}` can be read by others (mode {mode})", "`{file}` はほかの人も読めます (モード {mode})";
    DiskRoom { mib, percent } => "{mib} MiB are free on the disk ({percent} %)", "ディスクの空きは {mib} MiB です ({percent} %)";
    FreeSpaceSoon => "free some space, or move the data directory to a larger disk",
        "空き容量を作るか、データディレクトリを大きなディスクに移してください";
    DatabaseAnswers { version, connect, answer } =>
        "{version}: connected in {connect} ms, answered in {answer} ms", "{version}: 接続 {connect} ms、応答 {answer} ms";
    CheckLoad => "look at the load of the machine and the way to it", "マシンの負荷と経路を調べてください";
    ClockSkew { secs } => "the database's clock is {secs} s ahead of this one", "データベースの時計がこの時計より {secs} 秒進んでいます";
    SetClocks => "set both clocks by NTP", "NTP で時計を合わせてください";
    ServerRuns => "a server works on the data directory", "サーバーがデータディレクトリを使って動いています";
    ServerRests => "no server works on the data directory", "データディレクトリを使っているサーバーはありません";
    SecretsSealed { n } => "{n} secrets cannot be opened with the key that is there", "{n} 個の秘密の値は今ある鍵では開けません";
    OpenFiles { n } => "{n} files may be open at once", "同時に開けるファイルは {n} 個です";
    RaiseFiles => "raise it to 1024 or more: ulimit -n 4096, or LimitNOFILE= of the service",
        "1024 以上に上げてください: ulimit -n 4096、またはサービスの LimitNOFILE=";
    ClockSays { time } => "the clock says {time}", "時計は {time} です";
    EngineFails => "the child that runs SQL does not start", "SQL を実行する子プロセスが始まりません";
    WallStands { name } => "{name} shuts in the child that runs SQL", "SQL を実行する子プロセスは {name} で閉じ込められています";
    WallPartial { name, why } =>
        "{name} shuts in the child that runs SQL only in part: {why}",
        "SQL を実行する子プロセスは {name} で一部だけ閉じ込められています: {why}";
    WallMissing { name, why } =>
        "{name} does not shut in the child that runs SQL: {why}",
        "SQL を実行する子プロセスは {name} で閉じ込められていません: {why}";
    NewerKernel => "a newer kernel, or a container that allows it, has it; limits of the process hold in any case",
        "新しいカーネルか、許可されたコンテナで使えます。プロセスの制限はどの場合も効きます";
    WallLeaks { escapes } => "the child that runs SQL could do what it must not: {escapes}",
        "SQL を実行する子プロセスが、してはならないことをできました: {escapes}";
    EngineStarts { millis, memory } =>
        "the child that runs SQL answers after {millis} ms; resource limits hold, {memory} MiB a query",
        "SQL を実行する子プロセスは {millis} ms で応答します。資源の制限が効き、一つのクエリは {memory} MiB までです";

    // Looking at an API or at files.
    LookedAt { place } => "{place} was looked at:", "{place} を調べました:";
    ColumnsAre { columns } =>
        "columns, with ? where some have nothing: {columns}", "列 (? は値のないレコードがある列): {columns}";
    WouldBeQuarantined { detail } =>
        "a record would go to quarantine: {detail}", "隔離されるレコードがあります: {detail}";
    ChangeProposal { name } =>
        "what is guessed wrong is given with --set, for example --set records='$.data', or changed later with \
         `matome source set {name}` (--unset leaves an option out)",
        "推測の誤りは --set で指定するか (例: --set records='$.data')、後から `matome source set {name}` で変えてください \
         (--unset でオプションを外せます)";
    AddWithoutLook { name, url } =>
        "options are given with --set KEY=VALUE; to add it without a look: matome source add {name} --url '{url}'",
        "オプションは --set KEY=VALUE で指定します。調べずに追加するには: matome source add {name} --url '{url}'";
    AddFileWithoutLook { name, path } =>
        "options are given with --set KEY=VALUE; to add it without a look: \
         matome source add {name} --path '{path}' --set format=...",
        "オプションは --set KEY=VALUE で指定します。調べずに追加するには: \
         matome source add {name} --path '{path}' --set format=...";
    ChooseTable => "say which table is to be read", "どのテーブルを読むかを指定してください";
    AddTable { name, table } =>
        "the same command with --table: matome source add {name} ADDRESS --table {table}; options are given with --set KEY=VALUE",
        "同じコマンドに --table を付けてください: matome source add {name} ADDRESS --table {table}。オプションは --set KEY=VALUE で指定します";
    Doubt { doubt } => "Warning: {doubt}", "警告: {doubt}";
    ProposalDoubted => "what was found is likely not what is meant, so nothing was added",
        "見つかったものは意図したものではなさそうなので、追加しませんでした";

    StoredAsRead { name, options } =>
        "what is stored stays as it was read: {options} reaches only what is read from now on. matome source run {name} --full reads all anew and \
         stores what comes otherwise beside it; matome source reset {name} --data removes it first",
        "保存済みのレコードは読んだときのままで、{options} の変更はこれから読むものにだけ効きます。matome source run {name} --full は\
         すべてを読み直し、違う値になったものを隣に保存します。先に取り除くには: matome source reset {name} --data";
    StoredAsTyped { name } =>
        "what is stored keeps its types until `matome source revalidate {name} --apply`; without --apply that tells what would change",
        "保存済みのレコードの型は `matome source revalidate {name} --apply` まで変わりません。--apply を付けなければ、何が変わるかを示します";
    JudgedNotRead { name } =>
        "what is stored is judged, and texts in it get the `types` of today; a change of encoding, delimiter and the like reaches it by \
         matome source run {name} --full",
        "保存済みのものを判定し、文字列を今の `types` で読みます。エンコーディングや区切り文字などの変更を反映するには: \
         matome source run {name} --full";

    // Asking and answering.
    AddSource { name } => "add source `{name}` with this", "データソース `{name}` をこの内容で追加します";
    DeleteSource { name } =>
        "delete source `{name}` with all its records", "データソース `{name}` をすべてのレコードごと削除します";
    RemoveRecords { name } =>
        "remove all records of source `{name}`", "データソース `{name}` のすべてのレコードを取り除きます";
    RemoveSomeRecords { name, which } =>
        "remove the records of source `{name}` acquired {which}",
        "データソース `{name}` の、取得時刻が {which} のレコードを取り除きます";
    RemoveRecord { id } => "remove record {id}", "レコード {id} を取り除きます";
    GiveRecords =>
        "give --source with --before or --since, or --record",
        "--source と --before か --since、または --record を指定してください";
    NoRecordsNamed => "it is not said which records", "どのレコードか指定されていません";
    Removing =>
        "the records are being removed in the background", "レコードをバックグラウンドで取り除いています";
    DeleteAggregation { name } =>
        "delete aggregation `{name}` with all its rows", "集約 `{name}` をすべての行ごと削除します";
    Ask { question } => "{question}? [y/N] ", "{question}。よろしいですか? [y/N] ";
    NotConfirmed { question } => "{question}: not confirmed", "{question}: 確認されていません";
    SayYes => "say so with --yes", "実行するなら --yes を付けてください";
    NothingDone => "nothing was done", "何も行いませんでした";
    DeletedSource { name } => "deleted source `{name}`", "データソース `{name}` を削除しました";
    DeletedAggregation { name } => "deleted aggregation `{name}`", "集約 `{name}` を削除しました";
    Wrote { rows, file } => "wrote {rows} rows to `{file}`", "{rows} 行を `{file}` に書きました";
    NoSources =>
        "No sources yet. Add one: matome source add orders --path files/orders.ndjson",
        "データソースはまだありません。追加するには: matome source add orders --path files/orders.ndjson";
    NoAggregations =>
        "No aggregations yet. Add one: matome aggregate add daily --sql 'select ...'",
        "集約はまだありません。追加するには: matome aggregate add daily --sql 'select ...'";
    NoRuns { name } =>
        "No runs yet. Start one: matome aggregate run {name} --wait",
        "実行はまだありません。始めるには: matome aggregate run {name} --wait";
    NoSchedules =>
        "No schedules. A source has one with --interval or --cron, an aggregation with --every or --cron.",
        "スケジュールはありません。データソースは --interval か --cron、集約は --every か --cron で持てます。";
    ScheduleIsOff =>
        "It is switched off: none of these times fires until it is resumed and can run.",
        "停止中です。再開して実行できる状態になるまで、これらの時刻には実行されません。";
    NoSchedule { name } => "`{name}` has no schedule", "`{name}` にはスケジュールがありません";
    SameName { name } =>
        "a source and an aggregation are named `{name}`", "`{name}` という名前のデータソースと集約があります";
    NameSchedule { ids } =>
        "say which by the id of its schedule: {ids}", "スケジュールの ID で指定してください: {ids}";
    NoSuchTimes { flag } => "{flag} cannot be understood", "{flag} を読み取れません";
    WriteCron =>
        "five fields such as '*/5 9-17 * * mon-fri', or @hourly, @daily, @weekly, @monthly, @yearly",
        "'*/5 9-17 * * mon-fri' のような5つの欄か、@hourly、@daily、@weekly、@monthly、@yearly を指定してください";
    WriteZone => "for example --timezone Asia/Tokyo", "例: --timezone Asia/Tokyo";
    NoTasks => "No tasks yet. Start one: matome source run NAME", "タスクはまだありません。始めるには: matome source run 名前";
    NoRows =>
        "No rows yet. A source is read by: matome source run NAME --wait",
        "行はまだありません。データソースを読むには: matome source run 名前 --wait";
    Interrupted => "interrupted", "中断されました";
    Terminated => "ended by a signal", "シグナルで終了しました";
    GoesOnWithout =>
        "a task that was started stays: a server goes on with it, or the next `run` does",
        "始めたタスクは残ります。サーバーか、次の `run` が続けます";

    // Tasks.
    TaskCancelled { id, name } => "task {id} of `{name}` was cancelled", "`{name}` のタスク {id} は取り消されました";
    TaskFailed { id, name } => "task {id} of `{name}` failed", "`{name}` のタスク {id} が失敗しました";
    SeeTask { id } =>
        "`matome task show {id}` has the details, `matome task retry {id}` runs it again",
        "詳細は `matome task show {id}`、再実行は `matome task retry {id}` です";
    Quarantined { n } =>
        "{n} records went to quarantine; see `matome quarantine list`",
        "{n} 件のレコードが隔離されました。`matome quarantine list` で見られます";
    WouldGo { id, detail } => "record {id} would go to quarantine: {detail}", "レコード {id} は隔離されます: {detail}";
    WouldBecome { unchanged, changed, quarantined, replayed } =>
        "by the config of today {unchanged} records would stay as they are, {changed} would change, \
         {quarantined} would go to quarantine, and {replayed} would come back from it",
        "今の config では {unchanged} 件がそのままで、{changed} 件が変わり、{quarantined} 件が隔離され、隔離から {replayed} 件が戻ります";
    ApplyIt { name } =>
        "nothing was changed; `matome source revalidate {name} --apply` does it",
        "何も変えていません。実行するには: `matome source revalidate {name} --apply`";
    DeletesWithheld =>
        "what the source no longer has cannot be told, and no key was marked as deleted: a record in quarantine has no readable \
         key, or something of the source was passed over",
        "データソースから何がなくなったか分からないため、削除の印は付けていません。隔離されたレコードのキーが読めないか、データソースの一部を\
         飛ばしたためです";
    NothingQuarantined => "Nothing is in quarantine here.", "隔離されたレコードはありません。";
    NotReplayed { n } =>
        "left as they are: {n}; no JSON object, cut off, of a parent, or being replayed already; \
         `matome quarantine replay ID` says which of it holds for a record",
        "{n} 件はそのままです。JSON オブジェクトでない、途中で切れている、親のレコードである、既に再処理中である、のいずれかです。どれかは \
         `matome quarantine replay ID` が述べます";
    NotDiscarded { n } =>
        "left as they are: {n}; being replayed, or not there (any more)",
        "{n} 件はそのままです。再処理中か、(もう) ありません";
    DiscardRecords { n } =>
        "discard {n} records of the quarantine for good", "隔離された {n} 件のレコードを完全に削除します";
    DiscardOfSource { name } =>
        "discard records of source `{name}` from the quarantine for good",
        "データソース `{name}` の隔離されたレコードを完全に削除します";
    OneRecordOnly => "--raw and --wait are for one record", "--raw と --wait は一件のレコードにだけ使えます";
    GiveOneId => "give one id", "id を一つだけ指定してください";
    WaitsForRetry { error } => "waiting to try again: {error}", "再試行を待っています: {error}";
    PreviewFailed { name } => "the preview of `{name}` failed", "`{name}` のプレビューが失敗しました";
    CorrectSql => "correct the SQL and try again", "SQL を直してもう一度試してください";

    // The database and its directory.
    InvariantsBroken { broken, all } =>
        "{broken} of {all} invariants do not hold", "{all} 個の不変条件のうち {broken} 個が成り立ちません";
    ReportInvariants =>
        "keep a copy of the database and report this text: it is a defect of matome, or of the disk",
        "データベースの写しを残し、この文面を報告してください。matome かディスクの欠陥です";
    NoDatabase { dir } => "there is no database in `{dir}`", "`{dir}` にデータベースがありません";
    NameDatabase =>
        "name its directory with --data-dir, or its DATABASE_URL",
        "ディレクトリを --data-dir で、または DATABASE_URL を指定してください";
    SchemaCurrent { to } => "the schema is at version {to} already", "スキーマは既にバージョン {to} です";
    SchemaMigrated { from, to } =>
        "migrated the schema from version {from} to {to}", "スキーマをバージョン {from} から {to} に移行しました";
    MigrationWaits { version, members } =>
        "the migration to version {version} waits, because it would break processes of an older version that run: {members}",
        "バージョン {version} への移行は、それで動けなくなる古い版のプロセスが動いているため待っています: {members}";
    MigrationOpen { found, to } =>
        "the schema is at version {found}, which is enough; version {to} only takes away what older processes use",
        "スキーマはバージョン {found} で足りています。バージョン {to} は古い版のプロセスだけが使うものを取り除きます";
    EndOlder =>
        "upgrade or stop them, then run `matome migrate` again",
        "それらを更新するか止めてから、もう一度 `matome migrate` を実行してください";
    // Taking over a database of the original application.
    CannotAdopt => "the database cannot be taken over as it is; nothing was changed",
        "このままではデータベースを引き継げません。何も変更していません";
    CorrectAndMigrate =>
        "do what each line says, then run the command again; `matome migrate --plan` shows all of it",
        "各行の指示に従ってから、もう一度実行してください。全体は `matome migrate --plan` で見られます";
    TableTaken { rows, size } => "{rows} rows, {size} MiB, are taken over", "{rows} 行、{size} MiB を引き継ぎます";
    TookOver { sources, aggregations, records, results } =>
        "took over {sources} sources with {records} records and {aggregations} aggregations with {results} rows",
        "データソース {sources} 件 (レコード {records} 件) と集約 {aggregations} 件 ({results} 行) を引き継ぎました";
    SecretsSealedNow { n } => "encrypted {n} secrets of their configs", "設定にあった {n} 個の秘密の値を暗号化しました";
    NotRunnable { what, names } =>
        "{what}: these have configs of their own, kept as they are; they run once their configs are corrected: {names}",
        "{what}: 次の設定は matome のものではないため、そのまま残しています。設定を直すと動きます: {names}";
    FilledAtFirstRead =>
        "records get their hash and identity before the first read of their source",
        "レコードのハッシュと同一性は、そのデータソースの最初の取得の前に計算されます";
    TablesInUse =>
        "another session holds the tables of the database",
        "データベースのテーブルをほかのセッションが使っています";
    StopApplication =>
        "stop the application that made them, with its workers, and run the command again",
        "それを作ったアプリケーションとワーカーを止めてから、もう一度実行してください";
    WouldMigrate { from, to } =>
        "would migrate the schema from version {from} to {to}", "スキーマをバージョン {from} から {to} に移行します";
    WouldWiden { table, size, secs } =>
        "`{table}.id` gets 64 bits: needs about {size} MiB of free space and {secs} s, in which nobody can use it",
        "`{table}.id` を 64 ビットにします。空き容量 約 {size} MiB と約 {secs} 秒が必要で、その間テーブルは使えません";
    Widened { table } => "`{table}.id` has 64 bits now", "`{table}.id` を 64 ビットにしました";
    AllWide => "the ids have 64 bits already", "ID は既に 64 ビットです";
    IdsScarce { table, percent } =>
        "{percent} % of the ids that `{table}` can have are used", "`{table}` が持てる ID の {percent} % を使いました";
    IdsPlenty => "there are ids enough", "ID には余裕があります";
    WidenIds =>
        "run `matome migrate --widen-ids` while nothing else runs; --plan says what it needs",
        "ほかに何も動いていないときに `matome migrate --widen-ids` を実行してください。必要なものは --plan で分かります";
    DirInUse { dir } => "`{dir}` is in use by another matome process", "`{dir}` は別の matome プロセスが使用中です";
    StopOther => "stop that process, or give another --data-dir",
        "そのプロセスを止めるか、別の --data-dir を指定してください";
    OtherSchema { found, wanted } =>
        "the database has schema version {found}, this binary works with {wanted}",
        "データベースのスキーマはバージョン {found} ですが、このバイナリはバージョン {wanted} で動きます";
    MigrateFirst => "run `matome migrate` with the same DATABASE_URL", "同じ DATABASE_URL で `matome migrate` を実行してください";
    MigrateOrUpdate =>
        "run `matome migrate` if the database is older, or a newer matome if it is newer",
        "データベースが古ければ `matome migrate` を、新しければ新しい matome を使ってください";
    NoDatabaseUrl => "`DATABASE_URL` is no address of a database", "`DATABASE_URL` がデータベースのアドレスではありません";
    WriteDatabaseUrl =>
        "write postgres://user:password@host/name, or sqlite:///DIR/matome.db",
        "postgres://ユーザー:パスワード@ホスト/名前 か sqlite:///ディレクトリ/matome.db と書いてください";
    CannotUse { path } => "cannot use `{path}`", "`{path}` を使えません";
    CheckDataDir =>
        "check that --data-dir can be made and written by this user",
        "このユーザーが --data-dir を作成し書き込めるか確かめてください";
    Corrupt { path } => "`{path}` is not a readable database", "`{path}` は読めるデータベースではありません";
    RestoreBackup =>
        "restore the file from a backup; it was left exactly as it is",
        "バックアップから復元してください。ファイルには手を付けていません";
    DiskFull => "the disk that holds the database is full", "データベースのあるディスクが一杯です";
    FreeSpace => "free some space; nothing was lost", "空き容量を作ってください。失われたものはありません";
    DatabaseRefuses => "the database server refuses this user or database",
        "データベースサーバーがこのユーザーまたはデータベースを受け付けません";
    CheckDatabaseUser =>
        "check user, password and database name in DATABASE_URL, and the rights of that user",
        "DATABASE_URL のユーザー、パスワード、データベース名と、そのユーザーの権限を確かめてください";
    DatabaseGone => "the database is not reachable", "データベースに接続できません";
    CheckDatabase =>
        "check that the database runs and that DATABASE_URL is right",
        "データベースが動いているか、DATABASE_URL が正しいか確かめてください";
    SecretUnreadable { path } => "secret `{path}` cannot be read", "秘密の値 `{path}` を読めません";
    GiveKey =>
        "give the key that the secrets were written with: DIR/master.key or MASTER_KEY_FILE",
        "秘密の値を書いたときの鍵を指定してください: DIR/master.key か MASTER_KEY_FILE";
    StoreFailed => "the store failed", "データベースの処理に失敗しました";
    ReportDefect =>
        "this is a defect of matome: please report it with this text", "matome の欠陥です。この文面を添えて報告してください";
    KeyMissing { file, n } =>
        "`{file}` is missing, and {n} secrets in the database need it",
        "`{file}` がありません。データベースの {n} 個の秘密の値に必要です";
    RestoreKey =>
        "restore it from a backup, or name its place with --data-dir or --master-key-file; if it is lost, write 64 new hex \
         digits to it and enter the secrets anew",
        "バックアップから戻すか、--data-dir か --master-key-file で場所を指定してください。失われた場合は新しい 64 桁の \
         16 進数を書き、秘密の値を入力し直してください";
    KeyUnusable { file } => "the master key `{file}` cannot be used", "マスターキー `{file}` を使えません";
    NoKeyInFile => "it does not hold 64 hex digits", "64 桁の 16 進数がありません";
    MakeKey =>
        "a master key is 64 hex digits in a file that this user can read; make one with `openssl rand -hex 32`, or restore the one \
         that the secrets were written with",
        "マスターキーは、このユーザーが読めるファイルにある 64 桁の 16 進数です。`openssl rand -hex 32` で作るか、秘密の値を書いたときの\
         鍵を戻してください";
    KeyOpensNothing { file, n } =>
        "the master key `{file}` opens none of the secrets in the database ({n})",
        "マスターキー `{file}` では、データベースの秘密の値 ({n} 個) を一つも読めません";
    ShareKeyOrEnterAnew =>
        "give the worker the key of `matome web`: the same --data-dir, or a copy of its master.key by MASTER_KEY_FILE; if that \
         key is lost, enter a secret anew first",
        "`matome web` と同じ鍵をワーカーに渡してください。同じ --data-dir を使うか、master.key の写しを MASTER_KEY_FILE で指定します。\
         その鍵が失われた場合は、先に秘密の値を入力し直してください";
    CannotMake { dir } => "cannot make `{dir}`", "`{dir}` を作れません";

    // Copying to the other kind of database.
    NoEnd { text } => "`{text}` is no database to copy from or to", "`{text}` はコピー元・コピー先のデータベースではありません";
    WriteEnd =>
        "write sqlite:DIR (a data directory, whose file is called matome.db) or postgres://user:password@host/name",
        "sqlite:ディレクトリ (ファイル名が matome.db のデータディレクトリ) か postgres://ユーザー:パスワード@ホスト/名前 と書いてください";
    BothEmbedded => "both databases are embedded ones", "どちらも組み込みデータベースです";
    UseBackup => "use `matome db backup` and `matome db restore`", "`matome db backup` と `matome db restore` を使ってください";
    TargetNotEmpty => "the target is not empty; nothing was written", "コピー先が空ではありません。何も書いていません";
    GiveEmptyTarget =>
        "give a database without tables, or one that `matome migrate` has just made",
        "テーブルのないデータベースか、`matome migrate` で作ったばかりのものを指定してください";
    GiveOtherDir => "give another directory", "別のディレクトリを指定してください";
    TargetCannotHold =>
        "the target cannot hold some of the rows; nothing was written", "コピー先に保存できない行があります。何も書いていません";
    CorrectRows =>
        "correct or delete these rows in the source, then run the command again",
        "コピー元でこれらの行を直すか削除してから、もう一度実行してください";
    CopyDiffers =>
        "what was read back is not what was copied; nothing was kept", "読み返した内容がコピー元と一致しません。何も残していません";
    CopiedAll { rows } =>
        "copied {rows} rows and compared each of them", "{rows} 行をコピーし、すべて照合しました";
    KeyNotCopied { n } =>
        "master.key is not copied, and {n} secrets need it: put it where the new installation looks for it",
        "master.key はコピーしません。{n} 個の秘密の値に必要です。新しい環境の鍵の場所に置いてください";
    RestoredToServer => "restored into the PostgreSQL database", "PostgreSQL データベースに復元しました";

    BackupThere { dir } => "`{dir}` is a backup already", "`{dir}` には既にバックアップがあります";
    ForceBackup => "give another name, or replace it with --force", "別の名前を指定するか、--force で置き換えてください";
    NotBackup { dir } => "`{dir}` is no backup", "`{dir}` はバックアップではありません";
    NotDirectory { dir } => "`{dir}` is no directory", "`{dir}` はディレクトリではありません";
    GiveBackup =>
        "give a directory that `matome db backup` made: matome.db and manifest.json",
        "`matome db backup` が作ったディレクトリ (matome.db と manifest.json) を指定してください";
    BackedUp { dir } => "made the backup `{dir}`", "バックアップ `{dir}` を作りました";
    BackupNoted => "noted that a backup was made just now", "いまバックアップが作られたことを記録しました";
    KeyIncluded =>
        "master.key is in it: whoever reads the backup can read the secrets",
        "master.key も含みます。バックアップを読める人は秘密の値も読めます";
    KeyNotIncluded { n } =>
        "master.key is not in it, and {n} secrets need it: keep it elsewhere, or use --with-key",
        "master.key は含みません。{n} 個の秘密の値に必要です。別に保管するか --with-key を使ってください";
    NoKeyToInclude { file } => "there is no key `{file}` to include", "含めるべき鍵 `{file}` がありません";
    LeaveWithKey => "leave --with-key away, or name the key with --master-key-file",
        "--with-key を外すか、--master-key-file で鍵を指定してください";
    BackupDamaged { file } => "`{file}` is not what was backed up", "`{file}` はバックアップした内容と一致しません";
    Hashes { found, wanted } => "its SHA-256 is {found}, the manifest says {wanted}",
        "SHA-256 は {found} ですが、マニフェストには {wanted} とあります";
    UseOtherBackup => "use another backup; nothing was changed", "別のバックアップを使ってください。何も変更していません";
    DatabaseThere { dir } => "`{dir}` has a database already", "`{dir}` には既にデータベースがあります";
    ForceRestore =>
        "give another --data-dir, or --force: the database that is there is then kept aside",
        "別の --data-dir を指定するか、--force を付けてください。今あるデータベースは別名で残します";
    OtherKeyThere { file } =>
        "`{file}` is another key than the one in the backup", "`{file}` はバックアップの鍵と異なります";
    Restored { dir } => "restored into `{dir}`", "`{dir}` に復元しました";
    KeptAside { file } => "what was there is kept as `{file}`", "元のファイルは `{file}` として残しました";
    PutKey { n, file } =>
        "{n} secrets need the key that they were written with: put it to `{file}` before you start `matome serve`",
        "{n} 個の秘密の値には書いたときの鍵が必要です。`matome serve` を始める前に `{file}` に置いてください";

    // Serving.
    EgressRuleWrong { rule } =>
        "`{rule}` is no address range that sources may reach", "`{rule}` は到達先の範囲として読めません";
    WriteEgressRule =>
        "for example --egress-allow 10.0.0.0/8 or 127.0.0.1/32:9000", "例: --egress-allow 10.0.0.0/8 や 127.0.0.1/32:9000";
    FileRootWrong { dir } => "cannot use the file root `{dir}`", "ファイルルート `{dir}` を使えません";
    GiveFileRoot =>
        "give a directory that is there and can be read with --file-root",
        "存在して読めるディレクトリを --file-root で指定してください";
    StoppedAtOnce =>
        "stopped at once; what ran is taken up again at the next start",
        "直ちに停止しました。実行中だったものは次の起動時に再開されます";
    PortInUse { port, ip } => "port {port} of {ip} is in use", "{ip} のポート {port} は使用中です";
    StopListener =>
        "stop what listens there, or give another address with --bind",
        "そこで待ち受けているものを止めるか、--bind で別のアドレスを指定してください";
    MayNotListen { address } => "this user may not listen on {address}", "このユーザーは {address} で待ち受けられません";
    LowPorts => "ports below 1024 need root; give another with --bind",
        "1024 未満のポートには root が必要です。--bind で別のポートを指定してください";
    CannotListen { address } => "cannot listen on {address}", "{address} で待ち受けられません";
    TlsHalf { given, missing } => "`{given}` is set, but not `{missing}`", "`{given}` は設定されていますが `{missing}` がありません";
    SetBoth { missing } => "set `{missing}`, too, or none of them", "`{missing}` も設定するか、どちらも設定しないでください";
    TlsUnusable => "the server cannot speak TLS with these files", "このファイルではサーバーは TLS を使えません";
    GiveTlsFiles =>
        "give a chain of certificates, the server's first, and its private key, both in PEM form",
        "サーバーの証明書から始まる証明書の連鎖と、その秘密鍵を、どちらも PEM 形式で指定してください";
    CannotLog { file } => "the log file `{file}` cannot be opened", "ログファイル `{file}` を開けません";
    GiveAddress => "give another address with --bind", "--bind で別のアドレスを指定してください";
    NoRedisUrl => "`REDIS_URL` is no address of a Redis server", "`REDIS_URL` が Redis サーバーのアドレスではありません";
    WriteRedisUrl =>
        "write redis://host:6379, or rediss:// with TLS; ACQUISITION_REDIS_URL, AGGREGATION_REDIS_URL and CELERY_BROKER_URL likewise",
        "redis://host:6379、TLS なら rediss:// と書いてください。ACQUISITION_REDIS_URL、AGGREGATION_REDIS_URL、CELERY_BROKER_URL も同じです";
    NoRedisTls => "TLS to Redis cannot be set up", "Redis への TLS を準備できません";
    GiveRedisTls =>
        "REDIS_TLS_CA_FILE names the authority of the server, REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE what a server wants of us",
        "サーバーの認証局は REDIS_TLS_CA_FILE に、サーバーが求める証明書と鍵は REDIS_TLS_CERT_FILE と REDIS_TLS_KEY_FILE に指定してください";
    NoCollector => "traces cannot be sent to where `OTEL_EXPORTER_OTLP_ENDPOINT` says",
        "`OTEL_EXPORTER_OTLP_ENDPOINT` の指す先へトレースを送れません";
    NameCollector =>
        "write the address of a collector for OTLP over HTTP, such as http://127.0.0.1:4318; headers as name=value,name=value",
        "http://127.0.0.1:4318 のように、HTTP の OTLP を受けるコレクターのアドレスを書いてください。ヘッダーは name=value,name=value です";
    NeedsServer { role } =>
        "`matome {role}` needs PostgreSQL: an embedded database belongs to one process",
        "`matome {role}` には PostgreSQL が必要です。組み込みのデータベースを使えるのは一つのプロセスだけです";
    GiveServerOrServe =>
        "set DATABASE_URL=postgres://user:password@host/name, or use `matome serve`, which runs everything in one process",
        "DATABASE_URL=postgres://user:password@host/name を設定するか、すべてを一つのプロセスで動かす `matome serve` を使ってください";
    DidNotStop { seconds } =>
        "what ran did not end within {seconds} seconds", "実行中のものが {seconds} 秒以内に終わりませんでした";
    GoesOnElsewhere =>
        "nothing is lost: another worker takes it up", "失われたものはありません。ほかのワーカーが引き継ぎます";
    NoKeyHere { file } => "there is no key `{file}`", "鍵 `{file}` がありません";
    ShareKey =>
        "give a worker the key of `matome web`: the same --data-dir, or a copy of its master.key by MASTER_KEY_FILE",
        "`matome web` と同じ鍵をワーカーに渡してください。同じ --data-dir を使うか、master.key の写しを MASTER_KEY_FILE で指定します";
    SocketTooLong =>
        "the path of the data directory may be too long (107 bytes): give a shorter --data-dir",
        "データディレクトリのパスが長すぎるのかもしれません (107 バイトまで)。短い --data-dir を指定してください";
    Failed => "something that should always work failed", "失敗するはずのない処理に失敗しました";
    LogLevelWrong { level } => "`{level}` is no log level", "`{level}` はログレベルではありません";
    GiveLogLevel => "use error, warn, info or debug, or a filter such as matome_tasks=debug",
        "error、warn、info、debug か、matome_tasks=debug のようなフィルターを使ってください";

    // The demo.
    DemoFiles { dir } => "cannot write the sample files to `{dir}`", "サンプルファイルを `{dir}` に書けません";
    GiveDemoDir =>
        "give a directory that can be written: matome demo --data-dir DIR",
        "書き込めるディレクトリを指定してください: matome demo --data-dir ディレクトリ";
    DidNotEnd { path, secs } => "`{path}` did not end within {secs} s", "`{path}` が {secs} 秒以内に終わりませんでした";
    Stopping => "stopping", "停止します";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in braces, sorted.
    fn fields(template: &str) -> Vec<&str> {
        let template_parts = template.split('{').skip(1);
        let mut names: Vec<&str> =
            template_parts.filter_map(|part| part.split_once('}')).map(|(name, _)| name).collect();
        names.retain(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        names.sort_unstable();
        names
    }

    #[test]
    fn every_message_is_in_both_languages_and_says_the_same_values() {
        for (name, english, japanese) in TEMPLATES {
            assert!(!english.is_empty() && english.is_ascii(), "{name}: {english}");
            assert_eq!(fields(english), fields(japanese), "{name}");
            // Only what is all values may be the same in both.
            let is_japanese = japanese.chars().any(|c| ('\u{3040}'..='\u{9fff}').contains(&c));
            assert!(is_japanese || matches!(*name, "Said" | "NoteOf"), "{name}: {japanese}");
        }
        assert!(TEMPLATES.len() > 50);
    }
}
