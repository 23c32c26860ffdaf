-- A key may come with several contents in one read, on pages far apart. Records whose content an older version of their
-- key has wait for what comes behind them, or for the end of the read.

-- where the read began, and behind which page an attempt goes on that is begun now: highest id, and page_seq
alter table checkpoints add column read_from_id bigint not null default 0;
alter table checkpoints add column read_from_page bigint not null default 0;
alter table checkpoints add column resume_from_id bigint not null default 0;
alter table checkpoints add column resume_from_page bigint not null default 0;

create table repeats (
    id {id},
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    -- the page that brought it
    page_seq bigint not null,
    key_hash {bytes} not null,
    -- its place in what the read has of its key, from 1
    seq bigint not null,
    raw_data {json} not null,
    metadata {json} not null,
    data_hash varchar(64) not null,
    -- bytes of the record
    length bigint not null
);
create unique index repeats_key on repeats (source_id, stream, key_hash, seq);

-- Versions whose content a read has met again as the newest of their key, page by page; keys with one version are left out.
create table met_versions (
    id {id},
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    page_seq bigint not null,
    -- a compressed set of ids of acquired_data (Roaring, 64 bits)
    ids {bytes} not null
);
create index met_versions_stream on met_versions (source_id, stream);
