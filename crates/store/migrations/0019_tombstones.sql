-- A key that a source no longer has gets a tombstone: one more version, which says so.

-- The version is a tombstone. Its raw_data is that of the version before, so that it says what is gone; it has no data_hash,
-- since no content of the source is equal to it.
alter table acquired_data add column is_deleted boolean not null default {false};

-- A whole read has ended, and the keys that it did not give are being marked; gone when all are.
create table sweeps (
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    -- the task whose read it was
    task_id bigint not null,
    -- versions with higher ids are of the read itself, or younger
    up_to_id bigint not null,
    primary key (source_id, stream)
);

-- The newest versions of the keys that a whole read has given, as far as they were stored before it.
create table seen_versions (
    id {id},
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    -- a compressed set of ids of acquired_data (Roaring, 64 bits)
    ids {bytes} not null
);
create index seen_versions_stream on seen_versions (source_id, stream);
