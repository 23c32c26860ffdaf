-- The original tables (data_sources, acquired_data, aggregation_sources, aggregated_data) with their names,
-- columns and indexes, and the tables that move work and keep what must not be lost.
--
-- One text for both databases. The words in braces are types and clauses that differ:
--   {id}    64-bit primary key, never re-used     {time}  instant, microseconds      {json}  JSON
--   {bytes} bytes                                 {uuid}  uuid                       {now}   the current time
--   {binary_collation}  text order by bytes

create table data_sources (
    id {id},
    name varchar(255) {binary_collation} not null unique check (length(name) between 1 and 255),
    source_type varchar(20) not null,
    description text,
    status varchar(20) not null default 'active',
    config {json} not null default '{}',
    -- seconds between two scheduled reads; 0 means by hand only
    fetch_interval integer not null default 3600 check (fetch_interval >= 0),
    last_fetched_at {time},
    created_at {time} not null default {now},
    updated_at {time} not null default {now},
    -- name and description folded for case-insensitive search; the two databases fold differently, so we do it
    name_folded text {binary_collation} not null default '',
    description_folded text {binary_collation} not null default '',
    -- grows with every change of config; a checkpoint of another revision is not used
    config_rev bigint not null default 1,
    -- set by DELETE; the row is hidden at once, its data is removed in batches behind
    deleted_at {time}
);
-- few rows at any time: lists leave out what belongs to them
create index data_sources_deleted on data_sources (id) where deleted_at is not null;

create table acquired_data (
    id {id},
    source_id bigint not null references data_sources (id),
    raw_data {json} not null,
    metadata {json} not null default '{}',
    -- SHA-256 of the canonical form, 64 hex digits
    data_hash varchar(64),
    acquired_at {time} not null default {now},
    created_at {time} not null default {now},
    stream text {binary_collation} not null default '',
    -- identity under the source's dedupe mode, 16 bytes; null: not deduplicated
    key_hash {bytes},
    version integer not null default 1
);
-- The original two indexes, with the id that breaks ties: a page of a list is read off the index.
create index idx_acquired_data_acquired_at on acquired_data (acquired_at desc, id desc);
create index idx_acquired_data_source on acquired_data (source_id, acquired_at desc, id desc);
create index idx_acquired_data_hash on acquired_data (data_hash);
create unique index acquired_data_key on acquired_data (source_id, stream, key_hash, version) where key_hash is not null;

create table aggregation_sources (
    id {id},
    name varchar(255) {binary_collation} not null unique check (length(name) between 1 and 255),
    description text,
    status varchar(20) not null default 'active',
    config {json} not null default '{}',
    created_at {time} not null default {now},
    updated_at {time} not null default {now},
    name_folded text {binary_collation} not null default '',
    description_folded text {binary_collation} not null default '',
    config_rev bigint not null default 1,
    deleted_at {time},
    -- the run whose rows are visible; null before the first
    current_run_id bigint
);
create index aggregation_sources_deleted on aggregation_sources (id) where deleted_at is not null;

-- One execution of an aggregation: its rows become visible when it becomes current, all at once.
create table aggregation_runs (
    id {id},
    source_id bigint not null references aggregation_sources (id),
    task_id bigint not null,
    status varchar(20) not null default 'building' check (status in ('building', 'current', 'superseded', 'abandoned')),
    row_count bigint not null default 0,
    -- lineage: per input its source id, watermark (last record id), rows and schema
    inputs {json} not null default '[]',
    plan text,
    started_at {time} not null default {now},
    published_at {time}
);
create index idx_aggregation_runs_source on aggregation_runs (source_id, id desc);

create table aggregated_data (
    id {id},
    source_id bigint not null references aggregation_sources (id),
    data {json} not null,
    metadata {json} not null default '{}',
    aggregated_at {time} not null default {now},
    created_at {time} not null default {now},
    -- null: a row of the original application, always visible
    run_id bigint
);
create index idx_aggregated_data_aggregated_at on aggregated_data (aggregated_at desc, id);
create index idx_aggregated_data_source on aggregated_data (source_id, aggregated_at desc, id);
create index aggregated_data_run on aggregated_data (run_id);

-- A lane is (kind, object, stream): at most one task of a lane runs. Its lease fences every effect.
create table lanes (
    id {id},
    queue varchar(20) not null,
    kind varchar(20) not null,
    object_id bigint not null,
    stream text {binary_collation} not null default '',
    weight double precision not null default 1 check (weight > 0),
    -- virtual time: lanes are served in this order, each task moves its lane on by 1 / weight
    vtime double precision not null default 0,
    -- some task of the lane is due now; only ready, unpaused, unleased lanes are in the claim index
    ready boolean not null default {false},
    -- earliest run_at of its pending tasks, not before not_before; null when it has none
    next_run_at {time},
    paused boolean not null default {false},
    -- breaker: nothing of the lane starts before this
    not_before {time},
    fail_streak integer not null default 0,
    lease_epoch bigint not null default 0,
    lease_worker {uuid},
    lease_task bigint,
    leased_at {time},
    unique (kind, object_id, stream),
    check ((lease_worker is null) = (lease_task is null))
);
create index lanes_claim on lanes (queue, vtime) where ready and not paused and lease_worker is null;
create index lanes_waiting on lanes (queue, next_run_at) where not ready and next_run_at is not null and lease_worker is null;
create index lanes_leased on lanes (lease_worker) where lease_worker is not null;

create table tasks (
    id {id},
    -- the public id of the original design (Celery's)
    task_uuid {uuid} not null unique,
    queue varchar(20) not null,
    lane_id bigint not null references lanes (id),
    -- data_sources.id or aggregation_sources.id, by queue
    object_id bigint not null,
    stream text {binary_collation} not null default '',
    -- 'trigger' is a word of SQL
    cause varchar(20) not null,
    status varchar(20) not null default 'pending' check (status in ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    priority varchar(20) not null default 'normal',
    run_at {time} not null,
    -- run_at + offset of the priority: the order inside a lane
    sort_key {time} not null,
    -- how often it was tried and failed since it last made progress; waiting for a retry is pending with attempt > 0
    attempt integer not null default 0,
    crash_count integer not null default 0,
    lease_epoch bigint,
    worker {uuid},
    cancel_requested_at {time},
    retry_of bigint,
    schedule_id bigint,
    -- nominal fire time of the schedule
    fire_time {time},
    -- format number and options of the run
    payload {json} not null default '{}',
    -- what is shown while it runs: the counts so far
    progress {json},
    result {json},
    -- {"message", "causes": [...], "position": {...}, "reason"}
    error {json},
    started_at {time},
    finished_at {time},
    created_at {time} not null default {now},
    check ((status = 'running') = (lease_epoch is not null)),
    check ((finished_at is not null) = (status in ('succeeded', 'failed', 'cancelled')))
);
create index tasks_ready on tasks (lane_id, sort_key, id) where status = 'pending';
-- belt and braces: a second running task of a lane is a constraint violation, not bad luck
create unique index tasks_one_running on tasks (lane_id) where status = 'running';
-- at most one task for each nominal fire, however many beats run
create unique index tasks_fire on tasks (schedule_id, fire_time) where schedule_id is not null;
create index tasks_by_queue on tasks (queue, id desc);
create index tasks_by_object on tasks (queue, object_id, id desc);
create index tasks_by_status on tasks (queue, status, id desc);

create table schedules (
    id {id},
    kind varchar(20) not null,
    object_id bigint not null,
    interval_secs bigint not null check (interval_secs > 0),
    enabled boolean not null default {true},
    -- nominal time of the next fire; strictly increasing
    next_at {time} not null,
    last_at {time},
    unique (kind, object_id)
);
create index schedules_due on schedules (next_at) where enabled;

create table workers (
    -- new at every process start
    boot {uuid} primary key not null,
    role varchar(40) not null,
    host text not null,
    pid bigint not null,
    version text not null,
    schema_version bigint not null,
    -- liveness: observers watch this counter with their own monotonic clock
    beat_seq bigint not null default 0,
    started_at {time} not null,
    -- for people; nothing is decided by it
    last_beat_at {time} not null,
    draining boolean not null default {false},
    gone_at {time}
);

create table checkpoints (
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    -- 'live', or the id of a backfill
    purpose text {binary_collation} not null default 'live',
    -- +1 with every committed page
    page_seq bigint not null default 0,
    -- the connector's own state
    state {json} not null default '{}',
    config_rev bigint not null,
    -- highest acquired_data.id of the stream: the only watermark
    last_record_id bigint not null default 0,
    lease_epoch bigint not null default 0,
    -- the task that reads or read last, and whether it has committed its last page: a crash between that page and
    -- the end of the task must not read it all again
    task_id bigint not null default 0,
    read_ended boolean not null default {false},
    updated_at {time} not null default {now},
    primary key (source_id, stream, purpose)
);

create table quarantine (
    id {id},
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    task_id bigint not null,
    reason varchar(40) not null,
    detail text not null,
    -- {"document", "line", "record"}
    position {json} not null default '{}',
    raw {bytes} not null,
    -- length of the record at its source; more than length(raw) when raw was cut
    raw_length bigint not null,
    raw_hash varchar(64) not null,
    -- how often it was read; the same bad record is kept once
    seen bigint not null default 1,
    created_at {time} not null default {now},
    last_seen_at {time} not null default {now}
);
create unique index quarantine_once on quarantine (source_id, stream, raw_hash, reason);
create index quarantine_by_source on quarantine (source_id, id desc);

-- Row counts by (table, source, stream), kept in the transactions that add and remove rows.
create table counters (
    table_name varchar(40) not null,
    source_id bigint not null,
    stream text {binary_collation} not null default '',
    row_count bigint not null default 0,
    primary key (table_name, source_id, stream)
);

-- What has to leave after a commit (wake-ups, later webhooks); written with the effect that causes it.
create table outbox (
    id {id},
    topic varchar(80) not null,
    payload {json} not null default '{}',
    created_at {time} not null default {now},
    sent_at {time}
);
create index outbox_unsent on outbox (id) where sent_at is null;

create table api_tokens (
    id {id},
    name text not null,
    role varchar(20) not null,
    -- public part of the token, for finding it
    prefix varchar(16) {binary_collation} not null unique,
    -- SHA-256 of the whole token
    token_hash {bytes} not null,
    created_at {time} not null default {now},
    last_used_at {time},
    expires_at {time},
    revoked_at {time}
);

-- Secret leaves of configs, encrypted with a key outside the database.
create table secrets (
    id {id},
    kind varchar(20) not null,
    object_id bigint not null,
    -- JSON pointer of the leaf in the config
    path text {binary_collation} not null,
    key_id varchar(16) not null,
    -- 24 bytes nonce, then the ciphertext
    sealed {bytes} not null,
    created_at {time} not null default {now},
    unique (kind, object_id, path)
);
