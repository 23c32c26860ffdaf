//! The help of the command line in Japanese, beside its English: a test finds what has none.
//!
//! English stands where the commands are declared; here it is the key, so a text that changes there asks for its
//! translation here.

use clap::builder::{PossibleValue, StyledStr};
use clap::{Arg, ArgAction, Command};

/// English as clap has it (without the full stop of a single sentence), and Japanese.
const TEXTS: &[(&str, &str)] = &[
    // What clap says itself.
    ("Print help", "使い方を表示します"),
    ("Print help (see more with '--help')", "使い方を表示します (詳しくは '--help')"),
    ("Print help (see a summary with '-h')", "使い方を表示します (要約は '-h')"),
    ("Print version", "バージョンを表示します"),
    ("Print this message or the help of the given subcommand(s)", "この説明、またはサブコマンドの説明を表示します"),
    // Commands.
    (
        "Fetches data from many sources, keeps every raw record, aggregates with SQL and serves the result over REST",
        "多くのデータソースからデータを取得し、すべての生レコードを保存し、SQL で集約して、結果を REST で提供します",
    ),
    (
        "Runs everything in one process: API, workers, scheduler",
        "API、ワーカー、スケジューラーのすべてを一つのプロセスで動かします",
    ),
    (
        "Shows the main job on sample data in ./matome-demo, without network",
        "見本のデータで主な働きを見せます。./matome-demo を使い、ネットワークは使いません",
    ),
    (
        "Runs the API alone, on PostgreSQL. Any number may run",
        "PostgreSQL の上で API だけを動かします。いくつでも動かせます",
    ),
    (
        "Runs the tasks of a queue, on PostgreSQL: matome worker acquisition. Any number may run",
        "PostgreSQL の上でキューのタスクを動かします: matome worker acquisition。いくつでも動かせます",
    ),
    (
        "Turns schedules into tasks and keeps house, on PostgreSQL. Any number may run",
        "PostgreSQL の上でスケジュールからタスクを作り、後片付けをします。いくつでも動かせます",
    ),
    (
        "Makes or upgrades the database schema, or takes over the database of the original application",
        "データベースのスキーマを作成または更新します。元のアプリケーションのデータベースは引き継ぎます",
    ),
    ("Says what would be done and changes nothing", "何をするかを示すだけで、何も変更しない"),
    (
        "Where times without a zone were written, for a database of the original application: an IANA name such as Asia/Tokyo",
        "元のアプリケーションのデータベースで、時間帯のない時刻が書かれた場所: Asia/Tokyo のような IANA の名前",
    ),
    (
        "What an unknown word of `source_type` or `status` becomes, such as csv=file. Repeatable",
        "`source_type` や `status` の知らない語の置き換え。例: csv=file。繰り返し可",
    ),
    (
        "Gives the ids of records and results 64 bits. Writes those tables anew; nobody can use them meanwhile",
        "レコードと結果の ID を 64 ビットにする。表を書き直し、そのあいだ表は使えない",
    ),
    (
        "Waits for a database that does not answer yet, instead of giving up after ten seconds",
        "まだ応答しないデータベースを、10 秒であきらめずに待つ",
    ),
    ("Creates API tokens", "API トークンを作ります"),
    ("Manages data sources", "データソースを管理します"),
    ("Manages aggregations", "集約を管理します"),
    ("Looks at tasks and steers them", "タスクを見て、操作します"),
    ("Shows when sources and aggregations run by themselves", "データソースと集約がいつ自動で動くかを表示します"),
    ("Reads stored data", "保存したデータを読みます"),
    (
        "Looks at records that could not be stored or broke rules; replays and discards them",
        "保存できなかった、または規則に合わなかったレコードを見て、再処理や破棄をします",
    ),
    ("Looks after the database itself", "データベースそのものの面倒を見ます"),
    ("Shows and checks the settings", "設定を表示し、確かめます"),
    (
        "Measures this build on this machine, beside psql and a bare insert. Takes some minutes",
        "このマシンでこのビルドを測り、psql や単純な insert と並べます。数分かかります",
    ),
    (
        "Looks for what is wrong, or soon will be, with settings, data directory, database and machine. Changes nothing",
        "設定、データディレクトリ、データベース、マシンについて、問題と、問題になりそうなことを探します。何も変更しません",
    ),
    (
        "Says by its exit code whether a server is ready: 0 or 1. Needs no token; for containers",
        "サーバーの準備ができているかを終了コード 0 か 1 で示します。トークンは要りません。コンテナー向けです",
    ),
    ("Prints the completions for a shell", "シェルの補完を出力します"),
    // Everywhere.
    (
        "Language of messages [default: by LC_ALL, LC_MESSAGES or LANG]",
        "メッセージの言語 [既定: LC_ALL、LC_MESSAGES、LANG による]",
    ),
    (
        "What is logged to stderr: error, warn, info, debug, or a filter such as matome_tasks=debug [default: info for serve, web, worker and beat, else warn]",
        "標準エラー出力に出すログ: error、warn、info、debug、または matome_tasks=debug のようなフィルター [既定: serve、web、worker、beat では info、ほかは warn]",
    ),
    ("Form of log lines", "ログの形式"),
    ("For people", "人が読む形"),
    ("One JSON object a line", "1 行に一つの JSON オブジェクト"),
    ("When to use colours", "色を使うとき"),
    (
        "On a terminal, unless NO_COLOR is set or TERM is dumb",
        "端末で使う。NO_COLOR が設定されているか TERM が dumb なら使わない",
    ),
    ("How long work shows that it goes on", "時間のかかる処理の進み具合の示し方"),
    ("A bar when stderr is a terminal, nothing otherwise", "標準エラー出力が端末ならバー、そうでなければ何も出さない"),
    ("A line each ten seconds", "10 秒ごとに 1 行"),
    ("A JSON object a line, at most one a second", "1 行に一つの JSON オブジェクト、多くて 1 秒に一つ"),
    ("Nothing", "何も出さない"),
    (
        "File with settings [default: matome.yaml, when it is there; env: MATOME_CONFIG_FILE]",
        "設定ファイル [既定: あれば matome.yaml、env: MATOME_CONFIG_FILE]",
    ),
    (
        "File with variables that the environment does not set [default: .env, when it is there; env: MATOME_ENV_FILE]",
        "環境にない変数を書いたファイル [既定: あれば .env、env: MATOME_ENV_FILE]",
    ),
    (
        "Never asks; what needs a confirmation is refused without --yes",
        "決して尋ねない。確認の要ることは --yes がなければ断る",
    ),
    // Storage, reach, server, output.
    (
        "Directory of the embedded database, its key and its socket",
        "組み込みデータベースとその鍵、ソケットのディレクトリ",
    ),
    (
        "PostgreSQL instead of the embedded database: postgres://user:password@host/name",
        "組み込みデータベースの代わりに使う PostgreSQL: postgres://user:password@host/name",
    ),
    (
        "File with the key that encrypts secrets [default: DIR/master.key, made at first start]",
        "秘密の値を暗号化する鍵のファイル [既定: DIR/master.key、最初の起動で作る]",
    ),
    (
        "Size that the embedded database may reach, in MiB [default: as the disk allows]",
        "組み込みデータベースの大きさの上限 (MiB) [既定: ディスクが許すだけ]",
    ),
    (
        "Connections to PostgreSQL of this process [default: 16; a worker: its tasks at once and 4 more; beat: 4]",
        "このプロセスの PostgreSQL への接続数 [既定: 16。worker は同時に動かすタスクの数に 4 を加えた数、beat は 4]",
    ),
    (
        "Redis, beside PostgreSQL: redis://host:6379. Acquisition has its database 1, aggregation 0, whatever number is in the address",
        "PostgreSQL とともに使う Redis: redis://host:6379。アドレスの番号によらず、取得はデータベース 1、集約は 0 を使う",
    ),
    ("Redis of both queues; a number in the address counts", "両方のキューの Redis。アドレスの番号に従う"),
    ("Redis of the acquisition queue; a number in the address counts", "取得のキューの Redis。アドレスの番号に従う"),
    ("Redis of the aggregation queue; a number in the address counts", "集約のキューの Redis。アドレスの番号に従う"),
    (
        "File with the certificates of the authorities whose servers are believed with rediss:// [default: those of this machine]",
        "rediss:// で信頼する認証局の証明書のファイル [既定: このマシンのもの]",
    ),
    (
        "File with the certificate of this client, for a Redis server that asks for one",
        "クライアント証明書を求める Redis サーバーに示す、このクライアントの証明書のファイル",
    ),
    ("File with the private key of --redis-tls-cert-file", "--redis-tls-cert-file の秘密鍵のファイル"),
    (
        "Whether calls of Celery producers, which lie in Redis, become tasks: on or off",
        "Redis に置かれた Celery のプロデューサーの呼び出しをタスクにするか: on か off",
    ),
    (
        "Python task whose calls read a source [default: apps.data_acquisition.tasks.fetch_data]",
        "呼び出すとデータソースを読む Python のタスク [既定: apps.data_acquisition.tasks.fetch_data]",
    ),
    (
        "Python task whose calls run an aggregation [default: apps.data_aggregation.tasks.combine_data]",
        "呼び出すと集約を実行する Python のタスク [既定: apps.data_aggregation.tasks.combine_data]",
    ),
    (
        "How soon: critical (next, before all that waits), high, normal or low [default: high]",
        "急ぎの度合い: critical (待っているすべてより先)、high、normal、low [既定: high]",
    ),
    (
        "Directory that file sources may read beneath. Repeatable",
        "file データソースが読んでよいディレクトリ。繰り返し可",
    ),
    (
        "Private address range that sources may reach, such as 10.0.0.0/8 or 127.0.0.1/32:9000. Repeatable",
        "データソースが接続してよい内部アドレスの範囲。例: 10.0.0.0/8、127.0.0.1/32:9000。繰り返し可",
    ),
    (
        "The time zone of schedules that name none, such as Asia/Tokyo",
        "時間帯を指定しないスケジュールの時間帯。例: Asia/Tokyo",
    ),
    ("A running matome: http://host:8000", "動いている matome: http://host:8000"),
    ("API token for --server", "--server で使う API トークン"),
    ("Form of what is printed", "出力の形式"),
    ("Aligned on a terminal, tab-separated otherwise", "端末では桁をそろえ、そうでなければタブ区切り"),
    ("One JSON document, as the API gives it", "API が返すとおりの一つの JSON 文書"),
    ("Comma-separated with a header", "見出し付きのコンマ区切り"),
    ("YAML with the same content as json", "json と同じ内容の YAML"),
    (
        "Only these fields, in this order, comma-separated; a dot goes deeper: name,config.path",
        "出力するフィールドをこの順で、コンマ区切りで。ドットで下の階層: name,config.path",
    ),
    ("Name or id", "名前か ID"),
    (
        "Waits for the end, with progress; the exit code says how it ended",
        "進み具合を示しながら終わりを待つ。結果は終了コードで分かる",
    ),
    ("With --wait: exit code 8 when records went to quarantine", "--wait とともに: レコードが隔離されたら終了コード 8"),
    ("Does not ask", "尋ねない"),
    // serve, demo.
    ("Address to listen on", "待ち受けるアドレス"),
    (
        "Host names that requests may name, comma-separated [default: loopback names and the bind address]",
        "要求が使ってよいホスト名、コンマ区切り [既定: ループバックの名前と待ち受けるアドレス]",
    ),
    (
        "Origins of web pages that may read answers, comma-separated: https://app.example.org; * for all [default: none]",
        "応答を読んでよい Web ページのオリジン、コンマ区切り: https://app.example.org。* はすべて [既定: なし]",
    ),
    (
        "Size that the body of a push may have, in MiB, also when it is inflated",
        "プッシュの本文の大きさの上限 (MiB)。展開したあとの大きさも同じ",
    ),
    (
        "Whether metrics also have the names of celery-exporter, for dashboards that ask for these: on or off",
        "celery-exporter の名前でもメトリクスを出すか (その名前を使うダッシュボードのため): on か off",
    ),
    (
        "Collector that traces of tasks go to, OTLP over HTTP: http://127.0.0.1:4318 [default: none]",
        "タスクのトレースを送るコレクター (HTTP の OTLP): http://127.0.0.1:4318 [既定: なし]",
    ),
    (
        "Headers for the collector, such as authorization=Bearer%20abc",
        "コレクターへ送るヘッダー。例: authorization=Bearer%20abc",
    ),
    ("Name of the service in traces", "トレースでのサービスの名前"),
    (
        "Address for /metrics without a token, for those who watch alone [default: /metrics of the API with one]",
        "監視だけのための、トークンの要らない /metrics のアドレス [既定: トークンの要る API の /metrics]",
    ),
    (
        "File with the certificates of TLS, in PEM form; read again when it changes",
        "TLS の証明書のファイル、PEM 形式。変わると読み直す",
    ),
    ("File with the private key of TLS, in PEM form", "TLS の秘密鍵のファイル、PEM 形式"),
    (
        "File for the log, beside stderr; begins anew at 16 MiB, five older ones are kept",
        "標準エラー出力のほかにログを書くファイル。16 MiB で新しくし、古いもの五つを残す",
    ),
    ("Acquisition tasks at once", "同時に動かす取得タスクの数"),
    ("Aggregation tasks at once", "同時に動かす集約タスクの数"),
    ("Memory of one aggregation in MiB", "一つの集約のメモリー (MiB)"),
    (
        "Seconds that one attempt at a task may take; then it is stopped after its page and tried again",
        "タスクの一回の試行に許す秒数。過ぎるとページの終わりで止め、もう一度試す",
    ),
    ("Directory of the demo; run again it goes on with its data", "デモのディレクトリ。もう一度動かすと続きから始まる"),
    (
        "Address to listen on; another port is taken when it is in use and the flag is not given",
        "待ち受けるアドレス。指定がなく使用中なら別のポートを使う",
    ),
    (
        "Ends after everything has been shown, instead of serving until Ctrl-C",
        "Ctrl-C まで動き続けずに、すべてを見せたら終わる",
    ),
    // worker, beat.
    (
        "Queue to serve, acquisition or aggregation; both with a comma between them",
        "受け持つキュー。acquisition か aggregation、両方ならコンマで区切る",
    ),
    (
        "The same by the names of the original design: acquisition_queue, aggregation_queue",
        "元の設計の名前での指定: acquisition_queue、aggregation_queue",
    ),
    (
        "Name of this worker; %h is the name of the machine, %n the same without its domain, %d the domain",
        "この worker の名前。%h はマシンの名前、%n はドメインを除いた名前、%d はドメイン",
    ),
    (
        "Tasks at once, of each queue [default: as --acquisition-slots and --aggregation-slots say]",
        "キューごとに同時に動かすタスクの数 [既定: --acquisition-slots と --aggregation-slots による]",
    ),
    ("As --log-level", "--log-level と同じ"),
    ("Of Celery, without effect here: the application", "Celery のもので、ここでは効果なし: アプリケーション"),
    (
        "Of Celery, without effect here: how it runs tasks side by side",
        "Celery のもので、ここでは効果なし: タスクを同時に動かす方法",
    ),
    ("Of Celery, without effect here: events for monitors", "Celery のもので、ここでは効果なし: 監視のためのイベント"),
    (
        "Of Celery, without effect here: how it hands tasks to its processes",
        "Celery のもので、ここでは効果なし: プロセスへのタスクの渡し方",
    ),
    (
        "Of Celery, without effect here: workers do not speak with each other",
        "Celery のもので、ここでは効果なし: ワーカーどうしが話さない",
    ),
    (
        "Of Celery, without effect here: workers do not wait for each other",
        "Celery のもので、ここでは効果なし: ワーカーどうしが待ち合わせない",
    ),
    (
        "Of Celery, without effect here: heartbeats to the broker",
        "Celery のもので、ここでは効果なし: ブローカーへのハートビート",
    ),
    (
        "Of Celery, without effect here: tasks that are fetched ahead",
        "Celery のもので、ここでは効果なし: 先に取っておくタスクの数",
    ),
    (
        "Of Celery, without effect here: tasks of one process",
        "Celery のもので、ここでは効果なし: 一つのプロセスのタスクの数",
    ),
    (
        "Address for /livez and /readyz [default: only a socket in the data directory, which `matome healthcheck` asks]",
        "/livez と /readyz のアドレス [既定: `matome healthcheck` が尋ねる、データディレクトリのソケットだけ]",
    ),
    // source.
    ("Adds a data source", "データソースを追加します"),
    ("Its name; the table name in SQL", "名前。SQL での表の名前になる"),
    (
        "Address of a REST API, of files (https, s3, gs, az, sftp) or of a database (postgres, mysql, sqlite), or a file, a pattern or a directory beneath a file root, that is looked at first: how it is read is proposed and shown",
        "先に調べるもの: REST API、ファイル (https, s3, gs, az, sftp)、データベース (postgres, mysql, sqlite) のアドレス、またはファイルルートの下のファイル、パターン、ディレクトリ。読み方を提案して示します",
    ),
    ("Does not ask before what is proposed for ADDRESS is taken", "ADDRESS への提案を確認せずに受け入れます"),
    (
        "api, file, database, websocket or push [default: by --path, --url, --table or --query]",
        "api、file、database、websocket、push [既定: --path、--url、--table、--query による]",
    ),
    (
        "File, glob or directory beneath a file root, or the address of a file elsewhere; with --table or --query an SQLite file",
        "ファイルルートの下のファイルかグロブ、ディレクトリ、またはほかの場所にあるファイルのアドレス。--table か --query があれば SQLite のファイル",
    ),
    (
        "Address of a REST API, a WebSocket (ws:, wss:) or a database (postgres:, mysql:, sqlite:). A password in it is kept as a secret",
        "REST API、WebSocket (ws:、wss:)、データベース (postgres:、mysql:、sqlite:) のアドレス。中のパスワードはシークレットとして保存される",
    ),
    ("Table or view of a database, SCHEMA.TABLE or TABLE", "データベースのテーブルかビュー。SCHEMA.TABLE または TABLE"),
    ("Query of a database: one statement that only reads", "データベースのクエリー: 読むだけの文を1つ"),
    ("The whole config as JSON, or @FILE", "config 全体の JSON、または @ファイル名"),
    (
        "One more option of the config, KEY=VALUE; VALUE is JSON or plain text. Dots go deeper. Repeatable",
        "config のオプション KEY=VALUE。VALUE は JSON かそのままの文字。ドットで下の階層。繰り返し可",
    ),
    (
        "Seconds between two reads; 0 means by hand only [default: 3600]",
        "読み取りの間隔 (秒)。0 は手動のみ [既定: 3600]",
    ),
    (
        "When it is read, instead of --interval: a cron expression such as '*/5 9-17 * * mon-fri', or @daily",
        "--interval の代わりに読む時刻: '*/5 9-17 * * mon-fri' のような cron 式か @daily",
    ),
    ("The zone of --cron [default: that of --time-zone]", "--cron の時間帯 [既定: --time-zone の値]"),
    ("The zone of --cron [default: the server's --time-zone]", "--cron の時間帯 [既定: サーバーの --time-zone の値]"),
    ("Its description", "説明"),
    ("Lists data sources", "データソースを一覧します"),
    ("Text in name or description", "名前か説明に含まれる文字"),
    ("active, inactive or error", "active、inactive、error のどれか"),
    ("Shows one data source", "データソースを一つ表示します"),
    ("Changes a data source", "データソースを変更します"),
    (
        "One option of the config, KEY=VALUE; VALUE is JSON or plain text. Dots go deeper. Repeatable",
        "config のオプション KEY=VALUE。VALUE は JSON かそのままの文字。ドットで下の階層。繰り返し可",
    ),
    ("An option to leave out from now on. Repeatable", "取り除くオプション。繰り返し可"),
    ("Seconds between two reads; 0 means by hand only", "読み取りの間隔 (秒)。0 は手動のみ"),
    (
        "What becomes of stored records when other ones will be read, or told apart otherwise: full keeps them and reads all from the start, reset removes them",
        "別のレコードを読むようになる、または見分け方が変わるとき、保存済みのレコードをどうするか: full は残してすべてを初めから読み、reset は取り除く",
    ),
    ("Reads a source now", "データソースを今読みます"),
    ("From the start, whatever was read before", "前にどこまで読んだかによらず、初めから"),
    (
        "Marks keys as deleted that do not come, also when that is more than half of them",
        "来なかったキーに削除の印を付ける。半分を超えるときも付ける",
    ),
    (
        "Tells what the config of today would make of what is stored, without reading the source, and with --apply does it: what breaks its rules goes to quarantine, what is there and fits now comes back, and a new key tells records apart",
        "保存したものが今の config でどうなるかを、データソースを読まずに示します。--apply を付けると実行します。規則に合わないものは隔離し、隔離にあって今は合うものを戻し、新しいキーでレコードを区別します",
    ),
    ("Does what is told without it", "付けないときに示すことを実行します"),
    (
        "Only records that were acquired, or put into quarantine, at this time or later",
        "この時刻以降に取得または隔離したレコードだけ",
    ),
    (
        "Stops reading a source: its schedule, its stream and what was sent to it wait until it is resumed",
        "データソースの読み取りを止めます。スケジュール、ストリーム、送られたものは、再開するまで待ちます",
    ),
    ("Goes on reading a source that was paused", "一時停止したデータソースの読み取りを再開します"),
    (
        "Forgets how far a source was read: the next run reads it from the start",
        "データソースをどこまで読んだかを忘れます。次の実行は初めから読みます",
    ),
    ("Removes the stored records, too", "保存済みのレコードも取り除く"),
    ("Does not ask before records are removed", "レコードを取り除く前に尋ねない"),
    (
        "Reads the first records and shows them with what is wrong: duplicates, broken rules, drift. Stores nothing",
        "最初のレコードを読み、問題 (重複、規則違反、形の変化) とともに表示します。何も保存しません",
    ),
    (
        "Sends records to a source of the type push. What was sent before, in a run that broke off, is not stored again",
        "push 型のデータソースにレコードを送ります。途中で切れた前回の実行で送られた分は、もう一度保存されません",
    ),
    (
        "A file, or - for stdin. NDJSON of any size goes in pieces",
        "ファイル、または標準入力を表す -。NDJSON はどんな大きさでも分けて送る",
    ),
    ("json, ndjson or csv [default: by the extension of FILE]", "json、ndjson、csv [既定: FILE の拡張子による]"),
    (
        "What is sent again under the same key is not stored again [default: made of the content]",
        "同じキーで送り直したものは、もう一度保存されない [既定: 内容から作る]",
    ),
    ("Records at most, up to 1000", "最大のレコード数、1000 まで"),
    (
        "Shows which fields and types a source's records have, and when that changed",
        "データソースのレコードが持つフィールドと型、その変化を表示します",
    ),
    (
        "Has the next read take in all that is new, also where `drift` is freeze or quarantine",
        "`drift` が freeze や quarantine でも、次の読み取りで新しいものをすべて受け入れる",
    ),
    (
        "Shows what the config of a type of source may say; with -o json as JSON Schema",
        "ある種類のソースの config に書けるものを表示します。-o json なら JSON Schema として表示します",
    ),
    ("api, file, database, websocket or push", "api、file、database、websocket、push"),
    (
        "Shows when a stream was not listened to and could not be resumed",
        "ストリームを受信しておらず、続きからも受け取れなかった時間を表示します",
    ),
    ("Deletes a source and its data", "データソースとそのデータを削除します"),
    // aggregate.
    ("Adds an aggregation", "集約を追加します"),
    ("Changes an aggregation", "集約を変更します"),
    ("Its name", "名前"),
    (
        "One SELECT over the sources by their names, or @FILE",
        "データソースを名前で使う一つの SELECT、または @ファイル名",
    ),
    ("Seconds between two runs [default: by hand only]", "実行の間隔 (秒) [既定: 手動のみ]"),
    (
        "What a run does with the rows before: replace, append or upsert [default: replace]",
        "前の行をどうするか: replace、append、upsert [既定: replace]",
    ),
    (
        "Columns that say which row is which, for upsert; separated by commas, or repeated",
        "upsert で行を見分ける列。コンマ区切り、または繰り返し",
    ),
    (
        "Runs after this source stored something new. Repeatable",
        "このデータソースに新しいものが保存されたら実行する。繰り返し可",
    ),
    ("Runs after this aggregation was computed. Repeatable", "この集約が計算されたら実行する。繰り返し可"),
    (
        "When it runs, instead of --every: a cron expression such as '0 6 * * *', or @daily",
        "--every の代わりに実行する時刻: '0 6 * * *' のような cron 式か @daily",
    ),
    ("Lists aggregations", "集約を一覧します"),
    ("Shows one aggregation", "集約を一つ表示します"),
    ("Computes an aggregation now", "集約を今計算します"),
    (
        "Shows the rows of this run alone, whatever the mode: the rows before leave",
        "mode によらず、この実行の行だけを見せる。前の行は見えなくなる",
    ),
    ("A value of one of its parameters, NAME=VALUE. Repeatable", "パラメーターの値 NAME=VALUE。繰り返し可"),
    ("Lists runs of an aggregation, newest first", "集約の実行を新しい順に一覧します"),
    ("Name or id of an aggregation", "集約の名前か ID"),
    ("Runs at most", "最大の実行数"),
    (
        "Shows the first rows of an aggregation, or of any SQL, without storing them",
        "集約または任意の SQL の最初の行を、保存せずに表示します",
    ),
    ("This SQL instead of the stored one, or @FILE", "保存済みの代わりに使う SQL、または @ファイル名"),
    ("Deletes an aggregation and its rows", "集約とその行を削除します"),
    // task, schedule, token.
    ("Lists tasks, newest first", "タスクを新しい順に一覧します"),
    ("acquisition or aggregation", "acquisition か aggregation"),
    ("pending, running, succeeded, failed or cancelled", "pending、running、succeeded、failed、cancelled のどれか"),
    ("Name or id of a source or an aggregation", "データソースか集約の名前か ID"),
    ("Rows at most", "最大の行数"),
    (
        "Shows what each source and aggregation does or waits for",
        "各データソースと集約が何をしているか、何を待っているかを表示します",
    ),
    (
        "Only those in this state; host_full: as many tasks read from its host as may (`rate.concurrent`), held_back: it failed \
         too often or its source asked it to wait, ready: the next free worker takes it",
        "この状態のものだけ。host_full: そのホストから、許される数 (`rate.concurrent`) のタスクが読んでいる。held_back: 失敗が続いたか、\
         データソースが待つよう求めた。ready: 次に空いたワーカーが始める",
    ),
    ("Shows one task with its result or error", "タスクを一つ、結果かエラーとともに表示します"),
    ("Cancels a task that waits or runs", "待機中か実行中のタスクを取り消します"),
    (
        "Runs a failed or cancelled task again, as a new task; with --failed all that failed last",
        "失敗または取り消されたタスクを、新しいタスクとして再実行します。--failed では、最後に失敗したものすべて",
    ),
    ("Of each source the newest task, if it failed", "各データソースの最も新しいタスクが失敗していれば、それ"),
    ("With --failed: acquisition or aggregation", "--failed とともに: acquisition か aggregation"),
    (
        "With --failed: only of this source or aggregation, by name or id",
        "--failed とともに: この名前か ID のデータソースか集約のものだけ",
    ),
    ("Id of the task", "タスクの ID"),
    ("Lists the schedules of sources and aggregations", "データソースと集約のスケジュールを一覧します"),
    ("source or aggregation", "source か aggregation"),
    (
        "Shows the next times at which a schedule, or any cron expression, fires",
        "スケジュール、または任意の cron 式が次に動く時刻を表示します",
    ),
    ("How many times", "時刻の数"),
    ("Name of a source or an aggregation, or id of a schedule", "データソースか集約の名前、またはスケジュールの ID"),
    (
        "This expression instead: five fields, or a word such as @daily. Needs no server",
        "代わりに使う式: 五つの欄か、@daily のような語。サーバーは要らない",
    ),
    (
        "Creates a token and prints it, and nothing else. It is shown this once",
        "トークンを作り、それだけを出力します。表示されるのはこの一度だけです",
    ),
    ("admin may do everything, viewer may read", "admin はすべてができ、viewer は読むことができる"),
    ("What the token is for", "トークンの用途"),
    // data.
    (
        "Shows stored records of a source, newest first, or current rows of an aggregation",
        "データソースの保存済みレコードを新しい順に、または集約の今の行を表示します",
    ),
    (
        "The rows that this run of the aggregation made, as long as they are kept; `matome aggregate runs` lists runs",
        "集約のこの実行が作った行 (残っているあいだ)。実行は `matome aggregate runs` で一覧できる",
    ),
    (
        "What the aggregation showed after this run, as long as that is kept",
        "この実行のあとに集約が表示していたもの (残っているあいだ)",
    ),
    (
        "Writes all stored records of a source, or all current rows of an aggregation",
        "データソースの保存済みレコードすべて、または集約の今の行すべてを書き出します",
    ),
    ("File to write [default: stdout]", "書き出すファイル [既定: 標準出力]"),
    (
        "Removes records of a source by the time at which they were acquired, or one record",
        "取得した時刻でデータソースのレコードを、または一つのレコードを取り除きます",
    ),
    ("Name or id of a data source", "データソースの名前か ID"),
    (
        "Acquired before this time. ISO 8601; UTC without a zone",
        "この時刻より前に取得したもの。ISO 8601、時間帯がなければ UTC",
    ),
    ("Acquired at this time or later", "この時刻以後に取得したもの"),
    ("Id of one record", "一つのレコードの ID"),
    ("Shows all versions of a record's key, the newest first", "レコードのキーのすべての版を新しい順に表示します"),
    ("Shows what changed in a record since the version before", "レコードの前の版からの変化を表示します"),
    ("Id of another record to compare with", "比べる別のレコードの ID"),
    ("Id of the record", "レコードの ID"),
    (
        "What was there at this time: of each key the version that was the newest then. ISO 8601; UTC without a zone",
        "この時刻にあったもの: 各キーの、その時に最も新しい版。ISO 8601、時間帯がなければ UTC",
    ),
    ("The newest version of each key only", "各キーの最も新しい版だけ"),
    // quarantine.
    (
        "Lists records that could not be stored or broke the rules of their source, newest first",
        "保存できなかった、またはデータソースの規則に合わなかったレコードを新しい順に一覧します",
    ),
    (
        "Code of the reason: invalid_json, csv_width, schema, rule, drift, ...",
        "理由のコード: invalid_json、csv_width、schema、rule、drift など",
    ),
    ("held, replaying or replayed", "held、replaying、replayed のどれか"),
    ("Shows one record with its reason, position and bytes", "レコードを一つ、理由、位置、バイト列とともに表示します"),
    ("Writes the kept bytes of a record, exactly", "残してあるレコードのバイト列を、そのまま書き出します"),
    (
        "Reads records again, through the same checks as those of the source",
        "データソースのレコードと同じ検査を通して、もう一度読みます",
    ),
    (
        "The corrected record, one JSON object, or @FILE; for one record",
        "直したレコード (一つの JSON オブジェクト)、または @ファイル名。一つのレコードに",
    ),
    (
        "Waits until they are read, and shows what came of it; for one record",
        "読み終わるまで待ち、結果を示す。一つのレコードに",
    ),
    ("Removes records for good, with their bytes", "レコードをバイト列ごと完全に取り除きます"),
    (
        "With --source: those that are held, or those that were replayed [default: held]",
        "--source とともに: 隔離中 (held) か再処理済み (replayed) のもの [既定: held]",
    ),
    ("Id of the record in quarantine", "隔離されたレコードの ID"),
    ("Ids of records in quarantine", "隔離されたレコードの ID"),
    ("Name or id of a data source: all that it has in quarantine", "データソースの名前か ID: 隔離中のすべて"),
    ("With --source: only those with this reason", "--source とともに: この理由のものだけ"),
    // db.
    (
        "Checks everything that must always hold in the stored data. Changes nothing",
        "保存したデータでいつも成り立つべきことをすべて確かめます。何も変更しません",
    ),
    (
        "Hashes every record again instead of about a thousand, and compares the indexes of SQLite with its tables",
        "約千件ではなくすべてのレコードのハッシュを計算し直し、SQLite の索引を表と比べる",
    ),
    (
        "Makes a backup while servers work on the database",
        "サーバーが使っているあいだに、データベースのバックアップを作ります",
    ),
    (
        "Directory to make; when it is there and is no backup, a directory with the time in its name is made in it",
        "作るディレクトリ。すでにあってバックアップでなければ、その中に時刻を名前に含むディレクトリを作る",
    ),
    (
        "Puts master.key in too (mode 0600). Whoever has both can read the secrets",
        "master.key も入れる (モード 0600)。両方を持つ人は秘密の値を読める",
    ),
    ("Replaces a backup that is there", "すでにあるバックアップを置き換える"),
    (
        "Notes that a backup was made just now by other means, for `doctor --deploy`, which tells how old the last one is",
        "別の手段でいまバックアップを作ったことを記録します。最後のバックアップの古さを示す `doctor --deploy` のためです",
    ),
    (
        "Puts a backup into a data directory that no process uses, or into an empty PostgreSQL database",
        "どのプロセスも使っていないデータディレクトリ、または空の PostgreSQL データベースに、バックアップを戻します",
    ),
    ("Directory that `db backup` made", "`db backup` が作ったディレクトリ"),
    (
        "Takes the place of a database that is there; the old files get the time in their names",
        "すでにあるデータベースと入れ替える。古いファイルは時刻を名前に付けて残す",
    ),
    (
        "Copies all of a database into one of the other kind, every row under its id",
        "データベースのすべてを、ID もそのままに、もう一方の種類のデータベースに写します",
    ),
    ("sqlite:DIR, or the URL of a PostgreSQL database", "sqlite:DIR、または PostgreSQL データベースの URL"),
    ("sqlite:DIR, or the URL of an empty PostgreSQL database", "sqlite:DIR、または空の PostgreSQL データベースの URL"),
    // config, doctor, healthcheck, completions.
    ("Shows every setting with its value; secrets are masked", "すべての設定と値を表示します。秘密の値は伏せます"),
    (
        "Where each value comes from: a flag, a variable, `file:line`, or the default",
        "値の出どころ: フラグ、環境変数、`ファイル:行`、既定値",
    ),
    ("Reads all settings and says what is wrong with them", "すべての設定を読み、誤りを知らせます"),
    (
        "Looks also at what a deployment on servers needs: TLS, Redis, rights, processes of each role, files with secrets",
        "サーバーでの運用に必要なもの (TLS、Redis、権限、役割ごとのプロセス、秘密のファイル) も調べる",
    ),
    ("Exit code 9 when there are warnings", "警告があれば終了コード 9"),
    (
        "The server to ask [default: worker and beat in the data directory when there are any, else the server at --bind]",
        "尋ねるサーバー [既定: データディレクトリに worker や beat があればそれら、なければ --bind のサーバー]",
    ),
    ("Directory in which worker and beat have their sockets", "worker と beat のソケットがあるディレクトリ"),
    ("Address that the server listens on", "サーバーが待ち受けるアドレス"),
    ("The shell", "シェル"),
    // bench.
    ("What to measure [default: all]", "測るもの [既定: すべて]"),
    ("Files from nothing to stored, first and again", "ファイルの読み込み、初回と再取得"),
    (
        "Tables of a PostgreSQL server into another of its databases, first and again",
        "PostgreSQL サーバーのテーブルを別のデータベースへ、初回と再取得",
    ),
    (
        "An API, tables and files beside dlt, the Airbyte CDK and DuckDB",
        "API、テーブル、ファイルの読み込み。dlt、Airbyte CDK、DuckDB と並べる",
    ),
    ("Lists over HTTP", "HTTP での一覧"),
    ("Join and group over the raw records", "生レコードの結合と集計"),
    (
        "Removing stored records, and what writes beside it wait",
        "保存したレコードの削除と、その間にほかの書き込みが待つ時間",
    ),
    ("The task engine", "タスクの仕組み"),
    ("Memory when idle and while large files are read", "何もしないときと、大きなファイルを読むときのメモリー"),
    ("How soon processes are ready", "プロセスの準備ができるまでの時間"),
    (
        "PostgreSQL to measure beside SQLite; its role must be allowed to create databases",
        "SQLite と並べて測る PostgreSQL。ロールにデータベースを作る権限が必要",
    ),
    (
        "CSV rows of an ingest; a fifth as many records of 1 KB [default: 1000000]",
        "取り込む CSV の行数。1 KB のレコードはその 5 分の 1 [既定: 1000000]",
    ),
    ("Leave SQLite out of what is measured on both databases", "両方のデータベースで測るもののうち、SQLite を省く"),
    ("Tiny sizes, to see that it works", "ごく小さな量で、動くことを確かめる"),
    (
        "Also with ROWS rows in the table (20 M, half an hour and 20 GB for each database), and files up to 2 GiB",
        "表に ROWS 行ある場合 (2,000 万行、データベースごとに 30 分と 20 GB) と、2 GiB までのファイルでも測る",
    ),
    (
        "Directory on the disk to be measured [default: that for temporary files]",
        "測るディスク上のディレクトリ [既定: 一時ファイルのもの]",
    ),
];

/// What stands behind the arguments: the first words in English, all of it in Japanese.
const CLOSING: &[(&str, &str)] = &[
    (
        "Examples:\n  matome demo",
        "例:
  matome demo                                   主な働きを一つのプロセスで見る
  matome serve --data-dir data --file-root files
  matome source add orders --path files/orders.ndjson
  matome source run orders --wait
  matome aggregate add daily --sql 'select status, count(*) as n from orders group by status'

終了コード: 0 成功、1 失敗、2 使い方の誤り、3 設定の誤り、4 権限なし、5 見つからない、6 競合またはロック中、
7 接続できない、8 一部完了、9 違いや警告あり、130 割り込み、143 終了要求。",
    ),
    (
        "Exit codes: 0 nothing is wrong",
        "終了コード: 0 問題なし、1 動かないものがある、9 警告があり --strict が指定されている。",
    ),
    (
        "Reads one consistent snapshot",
        "サーバーがデータベースを使っていても、一つの整合したスナップショットを読みます。
終了コード: 0 すべて成り立つ、1 成り立たないものがある。それは matome かディスクの不具合です。お知らせください。",
    ),
    (
        "The copy is one consistent snapshot",
        "複製は一つの整合したスナップショットです。ディレクトリに matome.db と manifest.json (版、スキーマ、インスタンス、
時刻、SHA-256) が入り、全体ができてからその名前で現れます。PostgreSQL のバックアップも同じ形で、どちらの種類の
データベースにも戻せます。

例:
  matome db backup /backup/monday --data-dir data
  matome db backup /backup --data-dir data        /backup/matome-20261124T120000Z を作る",
    ),
    (
        "The copy is compared",
        "複製を SHA-256 と比べ、移行し、`db check` と同じように確かめてから置きます。復元したものは別のインストールになり、
新しいインスタンス ID を持ち、リースは残りません。--force では、すでにあるデータベースを脇に残します。

例:
  matome db restore /backup/monday --data-dir data",
    ),
    (
        "The source is read in one snapshot",
        "写す元は、サーバーが使っていても、一つのスナップショットとして読みます。書き始める前にすべての行を調べ、写す先に入らない
行があれば名指しします。写す先は空のデータベースで、すべてが写されるまで何も現れません。途中で止まったらもう一度実行して
ください。最後にすべての行を読み返して比べます。写したものは別のインストールになり、新しいインスタンス ID を持ち、リースは
残りません。master.key は写しません。

例:
  matome db copy --from sqlite:data --to postgres://matome:secret@localhost/matome
  matome db copy --from postgres://matome:secret@localhost/matome --to sqlite:data2",
    ),
    (
        "A PostgreSQL database that the original",
        "元の Django アプリケーションが作った PostgreSQL データベースは、すべての行と ID を残して引き継がれます。先にその
アプリケーションを止め、バックアップを取り、--plan を見てください。全体が一つのトランザクションなので、途中で止まったら
もう一度実行してください。

例:
  matome migrate
  matome migrate --plan -o json
  matome migrate --assume-timezone Asia/Tokyo
  matome migrate --widen-ids",
    ),
    (
        "Makes databases of its own",
        "--database-url のサーバーに自分のデータベースを作り、終わったら取り除きます。ほかのものには触れません。
同時にほかのことをしているマシンでは、CPU 秒を見てください。

例:
  matome bench --dir /var/tmp
  matome bench ingest list --database-url postgres://user@127.0.0.1/postgres",
    ),
];

/// Labels in front of examples, in the closing texts that are nothing else.
const LABELS: &[(&str, &str)] = &[
    ("Examples:", "例:"),
    ("Example:", "例:"),
    ("To remove all records of a source:", "データソースのレコードをすべて取り除くには:"),
    ("(the flags of Celery)", "(Celery のフラグ)"),
];

/// Lines above the arguments that several commands take.
const HEADINGS: &[(&str, &str)] = &[
    (EVERYWHERE.0, EVERYWHERE.1),
    ("Where the data is", "データの場所"),
    ("What sources may reach", "データソースの到達範囲"),
    ("A server elsewhere", "別の場所のサーバー"),
];

/// The one of every command.
const EVERYWHERE: (&str, &str) = ("Everywhere", "共通");

const TEMPLATE: &str = "{before-help}{about-with-newline}\n使い方: {usage}\n\n{all-args}{after-help}";

/// The Japanese of a help text; none when it has not been translated.
fn translated(english: &str) -> Option<&'static str> {
    TEXTS.iter().find(|(known, _)| *known == english).map(|(_, japanese)| *japanese)
}

fn closing(english: &str) -> Option<String> {
    if let Some((_, japanese)) = CLOSING.iter().find(|(begins, _)| english.starts_with(begins)) {
        return Some((*japanese).to_owned());
    }
    let only_examples = LABELS.iter().any(|(label, _)| english.starts_with(label));
    only_examples.then(|| LABELS.iter().fold(english.to_owned(), |text, (label, other)| text.replace(label, other)))
}

/// The same command line with its help in Japanese; what it takes stays as it is.
pub fn speak(command: Command) -> Command {
    let mut command = positionals_first(command);
    command.build();
    speak_of(command)
}

/// Headings come in the order in which arguments have them, and in Japanese all arguments have one.
fn positionals_first(command: Command) -> Command {
    let headings =
        command.get_arguments().filter(|arg| arg.get_help_heading().is_some()).map(|arg| arg.get_id().clone());
    let headings: Vec<_> = headings.collect();
    let others = command.get_arguments().filter(|arg| !arg.is_positional()).map(|arg| arg.get_id().clone());
    let mut others: Vec<_> = others.collect();
    others.sort_by_key(|id| headings.contains(id));
    let command = others.into_iter().fold(command, |command, id| command.mut_arg(id, |arg| arg));
    command.mut_subcommands(positionals_first)
}

fn speak_of(command: Command) -> Command {
    let about = command.get_about().map(ToString::to_string).and_then(|about| translated(&about));
    let after = command.get_after_help().map(ToString::to_string).and_then(|text| closing(&text));
    let mut command = command.help_template(TEMPLATE).subcommand_help_heading("コマンド").mut_args(argument);
    if let Some(about) = about {
        command = command.about(about).long_about(about);
    }
    if let Some(after) = after {
        command = command.after_help(after);
    }
    command.mut_subcommands(speak_of)
}

/// What clap gives every command: it comes last, behind what has a heading.
fn is_everywhere(arg: &Arg) -> bool {
    matches!(arg.get_id().as_str(), "help" | "version")
}

fn argument(arg: Arg) -> Arg {
    let heading = match arg.get_help_heading() {
        Some(heading) => match HEADINGS.iter().find(|(english, _)| *english == heading) {
            Some((_, japanese)) => japanese,
            None => return arg,
        },
        None if is_everywhere(&arg) => EVERYWHERE.1,
        None if arg.is_positional() => "引数",
        None => "オプション",
    };
    let arg = arg.help_heading(heading);
    let Some(english) = arg.get_help().map(ToString::to_string) else { return arg };
    // The name of its variable was put behind the text.
    let (text, variable) = match english.rsplit_once(" [env: ") {
        Some((text, variable)) => (text, format!(" [env: {variable}")),
        None => (english.as_str(), String::new()),
    };
    let Some(japanese) = translated(text) else { return arg };
    let mut short = format!("{japanese}{variable}");
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let is_flag = !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if !defaults.is_empty() && !is_flag && !arg.is_hide_default_value_set() {
        short.push_str(&format!(" [既定: {}]", defaults.join(", ")));
    }
    let values: Vec<PossibleValue> = if is_flag { Vec::new() } else { arg.get_possible_values() };
    let at_length = arg.get_long_help().map(StyledStr::to_string).and_then(|text| translated(&text));
    let mut long = at_length.map_or_else(|| short.clone(), |text| format!("{text}{variable}"));
    if !values.is_empty() {
        let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
        short.push_str(&format!(" [値: {}]", names.join(", ")));
        long.push_str("\n\n使える値:");
        for value in &values {
            let told = value.get_help().map(StyledStr::to_string).and_then(|help| translated(&help));
            let told = told.map(|told| format!(": {told}")).unwrap_or_default();
            long.push_str(&format!("\n- {}{told}", value.get_name()));
        }
    }
    arg.help(short).long_help(long).hide_default_value(true).hide_possible_values(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// Every text of the help, with the place where it stands.
    fn texts(command: &Command, path: &str, found: &mut Vec<(String, String)>) {
        let path = format!("{path} {}", command.get_name());
        let mut add = |text: Option<&StyledStr>, what: &str| {
            found.push((text.map(ToString::to_string).unwrap_or_default(), format!("{path} {what}")));
        };
        add(command.get_about(), "about");
        for arg in command.get_arguments() {
            add(arg.get_help(), arg.get_id().as_str());
            for value in arg.get_possible_values().iter().filter(|value| value.get_help().is_some()) {
                add(value.get_help(), value.get_name());
            }
        }
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            // What clap adds for `help` repeats the commands themselves.
            if command.get_name() != "help" {
                texts(command, &path, found);
            }
        }
    }

    fn built() -> Command {
        let mut command = Cli::command();
        command.build();
        command
    }

    #[test]
    fn every_command_and_argument_has_a_help_in_both_languages() {
        let mut found = Vec::new();
        texts(&built(), "", &mut found);
        let missing: Vec<_> = found.iter().filter(|(text, _)| translated(text).is_none()).collect();
        assert!(missing.is_empty(), "add these to TEXTS of cli/japanese.rs: {missing:#?}");
        let used: BTreeSet<&str> = found.iter().map(|(text, _)| text.as_str()).collect();
        let of_clap = |text: &str| text.starts_with("Print ");
        let unused: Vec<_> =
            TEXTS.iter().map(|(text, _)| *text).filter(|text| !used.contains(text) && !of_clap(text)).collect();
        assert!(unused.is_empty(), "nobody says these any more: {unused:#?}");
    }

    #[test]
    fn every_closing_text_has_both_languages() {
        fn look(command: &Command) {
            if let Some(text) = command.get_after_help().map(ToString::to_string) {
                let Some(japanese) = closing(&text) else { panic!("add this to CLOSING of cli/japanese.rs: {text}") };
                for example in text.lines().filter_map(|line| line.strip_prefix("  matome ")) {
                    let example = example.split("   ").next().unwrap();
                    assert!(japanese.contains(&format!("  matome {example}")), "no `{example}` in: {japanese}");
                }
            }
            command.get_subcommands().for_each(look);
        }
        look(&built());
    }

    #[test]
    fn help_in_japanese_has_no_english_of_claps_own() {
        fn look(command: &mut Command) {
            for text in [command.render_help().to_string(), command.render_long_help().to_string()] {
                for english in
                    ["Usage:", "Options:", "Arguments:", "Commands:", "[default:", "ossible values:", "Print "]
                {
                    assert!(!text.contains(english), "`{english}` is in the help of {}: {text}", command.get_name());
                }
                let headings = ["引数:", "オプション:", "共通:"].map(|heading| text.find(&format!("\n{heading}\n")));
                assert!(headings.iter().flatten().is_sorted(), "headings are out of order: {text}");
            }
            for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
                look(command);
            }
        }
        look(&mut speak(Cli::command()));
    }
}
