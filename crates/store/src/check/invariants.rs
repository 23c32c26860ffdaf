//! The invariants that SQL alone can check, each as a statement that finds what breaks it.

use crate::db::Dialect;

/// A rule, and the statement that yields one row with a `place` for each time it is broken.
#[derive(Debug)]
pub(super) struct Invariant {
    pub(super) name: &'static str,
    /// In English and in Japanese.
    pub(super) rule: (&'static str, &'static str),
    pub(super) violations: &'static str,
}

/// What the database says about its own files.
pub(super) fn storage(dialect: Dialect, full: bool) -> &'static [Invariant] {
    match (dialect, full) {
        (Dialect::Postgres, _) => POSTGRES_STORAGE,
        (Dialect::Sqlite, false) => SQLITE_STORAGE,
        (Dialect::Sqlite, true) => SQLITE_STORAGE_FULL,
    }
}

const STORAGE: (&str, &str) = (
    "tables and indexes can be read and keep the constraints of the schema",
    "表と索引は読むことができ、スキーマの制約を守っている",
);

const POSTGRES_STORAGE: &[Invariant] = &[Invariant {
    name: "storage",
    rule: STORAGE,
    violations: "select 'index ' || i.indexrelid::regclass as place from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indrelid
where c.relnamespace = current_schema()::regnamespace and not (i.indisvalid and i.indisready)",
}];

const SQLITE_STORAGE: &[Invariant] = &[Invariant {
    name: "storage",
    rule: STORAGE,
    violations: "select quick_check as place from pragma_quick_check where quick_check <> 'ok'",
}];

const SQLITE_STORAGE_FULL: &[Invariant] = &[Invariant {
    name: "storage",
    rule: STORAGE,
    violations: "select integrity_check as place from pragma_integrity_check where integrity_check <> 'ok'",
}];

/// The rules in the order in which they are told. Data of deleted objects is removed in batches: what compares
/// sums leaves it out.
pub(super) const RULES: &[Invariant] = &[
    Invariant {
        name: "lease",
        rule: (
            "a task runs exactly while its lane is leased to it, with the same epoch and worker",
            "タスクは、そのレーンが同じエポックとワーカーでリースされている間だけ実行中である",
        ),
        violations: "select 'task ' || t.id || ' in lane ' || t.lane_id as place
from tasks t left join lanes l on l.id = t.lane_id
where t.status = 'running' and (l.id is null or l.lease_task is null or l.lease_task <> t.id
    or t.lease_epoch is null or l.lease_epoch <> t.lease_epoch
    or l.lease_worker is null or t.worker is null or l.lease_worker <> t.worker)
union all
select 'lane ' || l.id as place
from lanes l left join tasks t on t.id = l.lease_task
where (l.lease_worker is null) <> (l.lease_task is null)
    or (l.lease_task is not null and (t.id is null or t.status <> 'running' or t.lane_id <> l.id))",
    },
    Invariant {
        name: "one_running",
        rule: (
            "at most one task of a lane runs",
            "一つのレーンで実行中のタスクは多くて一つである",
        ),
        violations: "select 'lane ' || lane_id || ': ' || count(*) || ' tasks' as place
from tasks where status = 'running' group by lane_id having count(*) > 1",
    },
    Invariant {
        name: "host_limit",
        rule: (
            "a host has the limit of the strictest source that reads from it, and none where no source has one",
            "ホストの上限は、そこから読むデータソースのうち最も厳しいものに等しく、どれにもなければない",
        ),
        violations: "select 'host ' || x.host as place from (
    select host, min(host_limit) as least from lanes where host is not null and host_limit is not null group by host
) x left join hosts h on h.host = x.host
where h.concurrent is null or h.concurrent <> x.least
union all
select 'host ' || h.host as place from hosts h
where not exists (select 1 from lanes l where l.host = h.host and l.host_limit is not null)",
    },
    Invariant {
        name: "waiting",
        rule: (
            "a free lane is looked at when its first waiting task is due, and only then",
            "空いているレーンは、最初に待つタスクの時刻になったときにだけ見られる",
        ),
        violations: "select 'lane ' || x.id as place from (
    select l.id, l.ready, l.next_run_at,
        case when l.not_before > w.first_at then l.not_before else w.first_at end as due
    from lanes l left join (
        select lane_id, min(run_at) as first_at from tasks where status = 'pending' group by lane_id
    ) w on w.lane_id = l.id
    where l.lease_worker is null
) x
where (x.due is null) <> (x.next_run_at is null) or x.due <> x.next_run_at or (x.ready and x.due is null)",
    },
    Invariant {
        name: "task_state",
        rule: (
            "a task waits, runs under an epoch, or has ended: then with its time, and its error when it failed",
            "タスクは待っているか、あるエポックで実行中か、終わっている。終わったものには時刻があり、失敗したものにはエラーがある",
        ),
        violations: "select 'task ' || id || ' (' || status || ')' as place from tasks
where status not in ('pending', 'running', 'succeeded', 'failed', 'cancelled')
    or (finished_at is not null) <> (status in ('succeeded', 'failed', 'cancelled'))
    or (lease_epoch is not null) <> (status = 'running')
    or (status = 'running' and started_at is null)
    or (status = 'failed' and error is null)",
    },
    Invariant {
        name: "task_lane",
        rule: (
            "a task has queue, object and stream of its lane and no epoch beyond it",
            "タスクのキュー、対象、ストリームはそのレーンのものであり、エポックはレーンのものを超えない",
        ),
        violations: "select 'task ' || t.id as place from tasks t left join lanes l on l.id = t.lane_id
where l.id is null or t.queue <> l.queue or t.object_id <> l.object_id or t.stream <> l.stream
    or t.lease_epoch > l.lease_epoch",
    },
    Invariant {
        name: "retry",
        rule: (
            "only failed and cancelled tasks are repeated, by later ones of the same lane",
            "再試行されるのは失敗したか取り消されたタスクだけで、同じレーンの後のタスクによる",
        ),
        violations: "select 'task ' || t.id || ' repeats ' || r.id as place from tasks t join tasks r on r.id = t.retry_of
where r.status not in ('failed', 'cancelled') or r.id >= t.id or r.lane_id <> t.lane_id",
    },
    Invariant {
        name: "one_task_per_fire",
        rule: (
            "each nominal time of a schedule makes at most one task",
            "スケジュールの一つの予定時刻から生じるタスクは多くて一つである",
        ),
        violations: "select 'schedule ' || schedule_id || ': tasks ' || min(id) || ' and ' || max(id) as place
from tasks where schedule_id is not null group by schedule_id, fire_time having count(*) > 1",
    },
    Invariant {
        name: "schedule",
        rule: (
            "the next time of a schedule is later than its last",
            "スケジュールの次の時刻は前回より後である",
        ),
        violations: "select 'schedule ' || id as place from schedules where next_at <= last_at",
    },
    Invariant {
        name: "owner",
        rule: (
            "every row belongs to a source or an aggregation that is there",
            "すべての行は、存在するデータソースか集約に属する",
        ),
        violations: "select 'lane ' || l.id as place from lanes l where not exists (
    select 1 from data_sources s where l.kind = 'source' and s.id = l.object_id)
and not exists (select 1 from aggregation_sources a where l.kind = 'aggregation' and a.id = l.object_id)
union all
select 'schedule ' || c.id as place from schedules c where not exists (
    select 1 from data_sources s where c.kind = 'source' and s.id = c.object_id)
and not exists (select 1 from aggregation_sources a where c.kind = 'aggregation' and a.id = c.object_id)
union all
select x.table_name || ' of source ' || x.source_id as place from (
    select distinct 'acquired_data' as table_name, source_id from acquired_data
    union all select distinct 'quarantine' as table_name, source_id from quarantine
    union all select distinct 'inbox' as table_name, source_id from inbox
    union all select distinct 'push' as table_name, source_id from pushes
    union all select distinct 'source_schema' as table_name, source_id from source_schemas
    union all select distinct 'repeat' as table_name, source_id from repeats
    union all select distinct 'met_version' as table_name, source_id from met_versions
    union all select distinct 'seen_version' as table_name, source_id from seen_versions
    union all select distinct 'sweep' as table_name, source_id from sweeps
    union all select distinct 'source_bytes' as table_name, source_id from source_bytes
    union all select distinct 'checkpoint' as table_name, source_id from checkpoints
    union all select distinct 'counter' as table_name, source_id from counters
        where table_name in ('acquired_data', 'quarantine', 'pushes', 'push_bytes')
) x where not exists (select 1 from data_sources s where s.id = x.source_id)
union all
select x.table_name || ' of aggregation ' || x.source_id as place from (
    select distinct 'aggregated_data' as table_name, source_id from aggregated_data
    union all select distinct 'aggregation_run' as table_name, source_id from aggregation_runs
) x where not exists (select 1 from aggregation_sources a where a.id = x.source_id)",
    },
    Invariant {
        name: "secret",
        rule: (
            "every secret belongs to a source or an aggregation that is there",
            "すべての秘密の値は、存在するデータソースか集約に属する",
        ),
        violations: "select 'secret ' || x.id as place from secrets x where not exists (
    select 1 from data_sources s where x.kind = 'source' and s.id = x.object_id)
and not exists (select 1 from aggregation_sources a where x.kind = 'aggregation' and a.id = x.object_id)",
    },
    Invariant {
        name: "record_count",
        rule: (
            "the counters of records are the numbers of rows",
            "レコードのカウンターは行数に等しい",
        ),
        violations: "select 'source ' || x.source_id || ' stream ''' || x.stream || ''': counter ' || sum(x.counted)
    || ', rows ' || sum(x.found) as place
from (
    select source_id, stream, row_count as counted, 0 as found from counters where table_name = 'acquired_data'
    union all
    select source_id, stream, 0 as counted, count(*) as found from acquired_data group by source_id, stream
) x
where x.source_id not in (select id from data_sources where deleted_at is not null)
group by x.source_id, x.stream having sum(x.counted) <> sum(x.found)",
    },
    Invariant {
        name: "record_bytes",
        rule: (
            "the counted bytes of a source are those of its records up to where they are counted",
            "データソースの数えたバイト数は、数えた所までのレコードのものに等しい",
        ),
        violations: "select 'source ' || x.source_id || ' stream ''' || x.stream || ''': counted ' || x.row_count || ' records of '
    || x.bytes || ' bytes, found ' || x.found || ' of ' || x.found_bytes as place
from (
    select b.source_id, b.stream, b.row_count, b.bytes, count(d.id) as found,
        coalesce(sum(octet_length(cast(d.raw_data as text))), 0) as found_bytes
    from source_bytes b left join acquired_data d
        on d.source_id = b.source_id and d.stream = b.stream and d.id <= b.counted_up_to
    where b.source_id not in (select id from data_sources where deleted_at is not null)
    group by b.source_id, b.stream, b.row_count, b.bytes
) x where x.row_count <> x.found or x.bytes <> x.found_bytes",
    },
    Invariant {
        name: "quarantine_count",
        rule: (
            "the counters of quarantined records are the numbers of rows",
            "隔離されたレコードのカウンターは行数に等しい",
        ),
        violations: "select 'source ' || x.source_id || ' stream ''' || x.stream || ''': counter ' || sum(x.counted)
    || ', rows ' || sum(x.found) as place
from (
    select source_id, stream, row_count as counted, 0 as found from counters where table_name = 'quarantine'
    union all
    select source_id, stream, 0 as counted, count(*) as found from quarantine group by source_id, stream
) x
where x.source_id not in (select id from data_sources where deleted_at is not null)
group by x.source_id, x.stream having sum(x.counted) <> sum(x.found)",
    },
    // Rows of the original application have neither checkpoint nor identity.
    Invariant {
        name: "watermark",
        rule: (
            "a checkpoint stands at the newest record of its stream, or at the newest that was removed",
            "チェックポイントは、そのストリームの最も新しいレコードか、削除された最も新しいレコードの所にある",
        ),
        violations: "select 'source ' || x.source_id || ' stream ''' || x.stream || ''': checkpoint ' || x.noted
    || ', newest record ' || x.newest || ', removed up to ' || x.removed as place
from (
    select y.source_id, y.stream, max(y.noted) as noted, max(y.newest) as newest, max(y.keyed) as keyed,
        max(y.removed) as removed
    from (
        select source_id, stream, last_record_id as noted, 0 as newest, 0 as keyed, removed_up_to as removed
        from checkpoints
        union all
        select source_id, stream, 0 as noted, max(id) as newest, count(key_hash) as keyed, 0 as removed
        from acquired_data group by source_id, stream
    ) y
    where y.source_id not in (select id from data_sources where deleted_at is not null)
    group by y.source_id, y.stream
) x
where x.noted <> case when x.removed > x.newest then x.removed else x.newest end and (x.noted > 0 or x.keyed > 0)",
    },
    Invariant {
        name: "checkpoint",
        rule: (
            "a checkpoint was written under a lease of its lane and a config of its source, not a later one",
            "チェックポイントは、今までにあったレーンのリースとデータソースの設定のもとで書かれている",
        ),
        violations: "select 'checkpoint of source ' || c.source_id || ' stream ''' || c.stream || '''' as place
from checkpoints c
left join lanes l on l.kind = 'source' and l.object_id = c.source_id and l.stream = c.stream
left join data_sources s on s.id = c.source_id
where l.id is null or c.lease_epoch > l.lease_epoch or c.config_rev > s.config_rev",
    },
    Invariant {
        name: "record_identity",
        rule: (
            "an identity is stored once in its stream and version",
            "同じ識別子は、そのストリームと版に一度だけ保存されている",
        ),
        violations: "select 'source ' || source_id || ' stream ''' || stream || ''': records ' || min(id) || ' and ' || max(id)
    as place
from acquired_data where key_hash is not null
group by source_id, stream, key_hash, version having count(*) > 1",
    },
    // A hole between two versions can be from a removal only if something behind the first was removed.
    Invariant {
        name: "record_versions",
        rule: (
            "versions of a key count from 1 without holes but those of removed records, each with other content",
            "キーの版は 1 から順に数え、欠けるのは削除されたレコードだけで、続く版の内容は異なる",
        ),
        violations: "select 'record ' || b.id || ' is version ' || b.version || ' behind ' || coalesce(p.version, 0) as place
from (
    select a.id, a.source_id, a.stream, a.key_hash, a.version, a.data_hash, (
        select max(o.version) from acquired_data o
        where o.source_id = a.source_id and o.stream = a.stream and o.key_hash = a.key_hash and o.version < a.version
    ) as before
    from acquired_data a where a.key_hash is not null and a.version <> 1
) b
left join acquired_data p on p.source_id = b.source_id and p.stream = b.stream and p.key_hash = b.key_hash
    and p.version = b.before
left join checkpoints c on c.source_id = b.source_id and c.stream = b.stream and c.purpose = 'live'
where b.source_id not in (select id from data_sources where deleted_at is not null)
    and (b.version < 1 or p.id > b.id or (p.version = b.version - 1 and p.data_hash = b.data_hash)
        or (coalesce(p.version, 0) < b.version - 1 and coalesce(p.id, 0) >= coalesce(c.removed_up_to, 0)))",
    },
    Invariant {
        name: "tombstone",
        rule: (
            "a tombstone has no hash, and a key does not go twice in a row",
            "削除の印にはハッシュがなく、一つのキーが続けて二度消えることはない",
        ),
        violations: "select 'record ' || t.id as place from acquired_data t
where t.is_deleted and (t.data_hash is not null or exists (
    select 1 from acquired_data p
    where p.source_id = t.source_id and p.stream = t.stream and p.key_hash = t.key_hash and p.version = t.version - 1
        and p.is_deleted))",
    },
    Invariant {
        name: "quarantine_once",
        rule: (
            "a bad record is in quarantine once for each reason",
            "不正なレコードは、理由ごとに一度だけ隔離されている",
        ),
        violations: "select 'source ' || source_id || ' stream ''' || stream || ''': quarantine ' || min(id) || ' and ' || max(id)
    as place
from quarantine group by source_id, stream, raw_hash, reason having count(*) > 1",
    },
    Invariant {
        name: "source_schema",
        rule: (
            "the versions of a source's schema follow each other without a gap",
            "データソースのスキーマの版は欠けずに続く",
        ),
        violations: "select 'source ' || source_id as place from source_schemas
group by source_id, stream having max(version) - min(version) + 1 <> count(*) or min(version) < 1",
    },
    Invariant {
        name: "inbox",
        rule: (
            "a record is being replayed exactly while its bytes wait in the inbox, of the same source and stream",
            "レコードは、そのバイト列が同じデータソースとストリームの受信箱で待っている間だけ再処理中である",
        ),
        violations: "select 'inbox ' || i.id as place from inbox i left join quarantine q on q.id = i.quarantine_id
where (q.id is null or q.status <> 'replaying' or q.source_id <> i.source_id or q.stream <> i.stream)
    and i.source_id not in (select id from data_sources where deleted_at is not null)
union all
select 'quarantine ' || q.id as place from quarantine q
where q.status = 'replaying' and not exists (select 1 from inbox i where i.quarantine_id = q.id)
    and q.source_id not in (select id from data_sources where deleted_at is not null)",
    },
    Invariant {
        name: "replay",
        rule: (
            "a replayed record says what came of it and when; one that was never read again does not",
            "再処理されたレコードには結果と時刻があり、再び読まれていないものにはない",
        ),
        violations: "select 'quarantine ' || id as place from quarantine
where (status = 'replayed' and (outcome is null or replayed_at is null or replay_task is null))
    or (status = 'replaying' and (outcome is not null or replay_task is null))
    or outcome not in ('stored', 'duplicate', 'quarantined')
    or (outcome = 'quarantined') <> (outcome_detail is not null)",
    },
    Invariant {
        name: "push",
        rule: (
            "what was sent to a source has its body exactly while it waits to be read, and no more of it was read than is in it",
            "データソースに送られたものの本体は、読まれるのを待つ間だけあり、ある以上に読まれてはいない",
        ),
        violations: "select 'push ' || p.id as place from pushes p left join push_bodies b on b.push_id = p.id
where ((p.read_at is null) <> (b.push_id is not null) or length(b.body) <> p.body_bytes or p.records_read < 0
        or (p.read_at is not null and p.idempotency_key is null))
    and p.source_id not in (select id from data_sources where deleted_at is not null)",
    },
    Invariant {
        name: "push_count",
        rule: (
            "the counters of what waits to be read are the numbers of pushes and of their bytes",
            "読まれるのを待つもののカウンターは、送られた件数とバイト数に等しい",
        ),
        violations: "select 'source ' || x.source_id || ' ' || x.what || ': counter ' || sum(x.counted) || ', found '
    || sum(x.found) as place
from (
    select source_id, table_name as what, row_count as counted, 0 as found from counters
    where table_name in ('pushes', 'push_bytes')
    union all
    select source_id, 'pushes' as what, 0 as counted, count(*) as found from pushes
    where read_at is null group by source_id
    union all
    select source_id, 'push_bytes' as what, 0 as counted, sum(body_bytes) as found from pushes
    where read_at is null group by source_id
) x
where x.source_id not in (select id from data_sources where deleted_at is not null)
group by x.source_id, x.what having sum(x.counted) <> sum(x.found)",
    },
    Invariant {
        name: "current_run",
        rule: (
            "an aggregation shows its newest published run, with the earlier ones that it did not replace",
            "集約は、公開された最も新しい実行と、それが置き換えなかった前の実行を示す",
        ),
        violations: "select 'aggregation ' || a.id || ' shows run ' || a.current_run_id as place
from aggregation_sources a left join aggregation_runs r on r.id = a.current_run_id
where a.current_run_id is not null and a.deleted_at is null
    and (r.id is null or r.source_id <> a.id or r.status <> 'current' or r.published_at is null)
union all
select 'run ' || r.id || ' of aggregation ' || r.source_id || ' is shown' as place
from aggregation_runs r left join aggregation_sources a on a.id = r.source_id
where r.status = 'current' and (a.current_run_id is null or a.current_run_id < r.id or r.replaced_by is not null)
union all
select 'run ' || r.id || ' of aggregation ' || r.source_id || ' is shown beside run ' || n.id as place
from aggregation_sources a join aggregation_runs n on n.id = a.current_run_id and n.mode = 'replace'
join aggregation_runs r on r.source_id = a.id and r.status = 'current' and r.id <> n.id
union all
select 'run ' || r.id || ' of aggregation ' || r.source_id || ' was replaced by nothing' as place
from aggregation_runs r where r.status = 'superseded' and not exists (
    select 1 from aggregation_runs n
    where n.id = r.replaced_by and n.source_id = r.source_id and n.id > r.id and n.published_at is not null)
union all
select 'aggregation ' || source_id || ': ' || count(*) || ' runs are being built' as place
from aggregation_runs where status = 'building' group by source_id having count(*) > 1",
    },
    Invariant {
        name: "run_rows",
        rule: (
            "a run whose rows are kept has them all, or fewer by those that a later run took the place of",
            "行を残す実行にはすべての行があるか、後の実行が置き換えた分だけ少ない",
        ),
        violations: "select 'run ' || x.id || ' of aggregation ' || x.source_id || ': ' || x.row_count || ' noted, '
    || x.found || ' stored' as place
from (
    select r.id, r.source_id, r.row_count, (select count(*) from aggregated_data d where d.run_id = r.id) as found,
        exists (select 1 from aggregation_runs u
            where u.source_id = r.source_id and u.id > r.id and u.superseded_count > u.superseded_stored) as is_thinned
    from aggregation_runs r
    where r.status = 'current' and r.source_id not in (select id from aggregation_sources where deleted_at is not null)
) x where x.found > x.row_count or (x.found < x.row_count and not x.is_thinned)
union all
select 'run ' || r.id || ' of aggregation ' || r.source_id || ' has rows' as place
from aggregation_runs r
where r.rows_removed_at is not null and exists (select 1 from aggregated_data d where d.run_id = r.id)",
    },
    Invariant {
        name: "visible_rows",
        rule: (
            "the counter of an aggregation is the number of rows that are shown",
            "集約のカウンターは、示される行の数に等しい",
        ),
        violations: "select 'aggregation ' || x.id || ': counter ' || x.visible_rows || ', rows ' || x.found as place
from (
    select a.id, a.visible_rows, (
        select count(*) from aggregated_data t join aggregation_runs r on r.id = t.run_id and r.status = 'current'
        where t.source_id = a.id and not exists (
            select 1 from aggregation_runs p where p.id = t.superseded_by and p.published_at is not null)
    ) as found
    from aggregation_sources a where a.deleted_at is null
) x where x.visible_rows <> x.found",
    },
    Invariant {
        name: "shown_key",
        rule: (
            "a key is shown once, and every shown row has one where the aggregation has a key",
            "キーは一度だけ示され、キーのある集約では示される行のすべてにキーがある",
        ),
        violations: "select 'aggregation ' || t.source_id || ': rows ' || min(t.id) || ' and ' || max(t.id) as place
from aggregated_data t join aggregation_runs r on r.id = t.run_id and r.status = 'current'
where t.key_hash is not null and not exists (
    select 1 from aggregation_runs p where p.id = t.superseded_by and p.published_at is not null)
group by t.source_id, t.key_hash having count(*) > 1
union all
select 'row ' || t.id || ' of aggregation ' || t.source_id || ' has no key' as place
from aggregation_sources a join aggregation_runs r on r.source_id = a.id and r.status = 'current'
join aggregated_data t on t.run_id = r.id
where a.key_columns is not null and t.key_hash is null",
    },
    Invariant {
        name: "superseded_rows",
        rule: (
            "a published run supersedes earlier rows of its aggregation, as many as it says",
            "公開された実行が置き換えるのはその集約の前の行で、数は記録のとおりである",
        ),
        violations: "select 'run ' || r.id || ': ' || r.superseded_stored || ' noted, ' || x.found || ' stored' as place
from aggregation_runs r join (
    select a.id, (select count(*) from aggregated_data d where d.superseded_by = a.id) as found from aggregation_runs a
    where a.published_at is not null
        and a.source_id not in (select id from aggregation_sources where deleted_at is not null)
) x on x.id = r.id
where x.found <> r.superseded_stored or r.superseded_stored > r.superseded_count
union all
select 'row ' || d.id || ' superseded by run ' || d.superseded_by as place
from aggregated_data d left join aggregation_runs r on r.id = d.superseded_by
where d.superseded_by is not null and (r.id is null or r.source_id <> d.source_id or d.superseded_by <= d.run_id)",
    },
    Invariant {
        name: "rows_of_run",
        rule: (
            "a row of a result belongs to a run of its aggregation",
            "結果の行は、その集約の実行に属する",
        ),
        violations: "select x.found || ' rows of run ' || x.run_id || ' in aggregation ' || x.source_id as place
from (
    select run_id, source_id, count(*) as found from aggregated_data where run_id is not null group by run_id, source_id
) x left join aggregation_runs r on r.id = x.run_id
where r.id is null or r.source_id <> x.source_id",
    },
    Invariant {
        name: "trigger",
        rule: (
            "triggers and news belong to what is there, and no aggregation runs after itself",
            "トリガーと変更の知らせは存在するものに属し、自分の後に動く集約はない",
        ),
        violations: "select 'trigger of aggregation ' || g.aggregation_id as place from aggregation_triggers g
where not exists (select 1 from aggregation_sources a where a.id = g.aggregation_id)
union all
select 'change of ' || c.kind || ' ' || c.object_id as place from changes c where not exists (
    select 1 from data_sources s where c.kind = 'source' and s.id = c.object_id)
and not exists (select 1 from aggregation_sources a where c.kind = 'aggregation' and a.id = c.object_id)
union all
select 'aggregation ' || a.id as place from aggregation_sources a where a.deleted_at is null and a.name in (
    with recursive behind (start_id, cause) as (
        select g.aggregation_id, g.cause_name from aggregation_triggers g where g.cause_kind = 'aggregation'
        union
        select b.start_id, g.cause_name from behind b
        join aggregation_sources n on n.name = b.cause and n.deleted_at is null
        join aggregation_triggers g on g.aggregation_id = n.id and g.cause_kind = 'aggregation'
    )
    select b.cause from behind b where b.start_id = a.id)",
    },
    Invariant {
        name: "adoption",
        rule: (
            "what is still to be done for the original application's objects belongs to objects that are there",
            "元のアプリケーションのもののためにまだ残る作業は、存在するものに属する",
        ),
        violations: "select w.kind || ' ' || w.object_id as place from adoptions w where (not exists (
    select 1 from data_sources s where w.kind = 'source' and s.id = w.object_id)
and not exists (select 1 from aggregation_sources a where w.kind = 'aggregation' and a.id = w.object_id))
    or w.done_id > w.up_to_id",
    },
    Invariant {
        name: "instance",
        rule: (
            "the installation has one id",
            "この環境の ID は一つである",
        ),
        violations: "select count(*) || ' ids' as place from instance having count(*) <> 1",
    },
];
