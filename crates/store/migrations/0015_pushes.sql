-- What is sent to sources of the type push: kept whole before it is confirmed, read by a task of its source.

create table pushes (
    id {id},
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    -- how its sender calls it: what comes again under the same key is the same push; null: it has no name
    idempotency_key text {binary_collation} check (length(idempotency_key) between 1 and 255),
    -- tells what comes under the same key from something else, SHA-256 as 64 hex digits
    identity_hash varchar(64) not null,
    -- json, ndjson or csv
    format varchar(20) not null,
    -- bytes of its body
    body_bytes bigint not null,
    -- records in it when it came
    record_count bigint not null,
    -- the task that was to read it when it came
    task_id bigint not null,
    -- records of it that pages have committed, bad ones included
    records_read bigint not null default 0,
    received_at {time} not null,
    -- when the last of it was committed; its body went in the same transaction
    read_at {time}
);
create unique index pushes_by_key on pushes (source_id, idempotency_key);
create index pushes_waiting on pushes (source_id, stream, id) where read_at is null;
create index pushes_read on pushes (read_at) where read_at is not null;

-- Apart from the rest, so that a page that notes how far it read does not write the body again.
create table push_bodies (
    push_id bigint primary key not null references pushes (id) on delete cascade,
    body {bytes} not null
);
