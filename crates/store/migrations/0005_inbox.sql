-- Records that come back from the quarantine go through `inbox`, so that all of acquired_data is written by tasks that
-- hold their lane.

-- held: kept aside; replaying: a row of inbox has its bytes; replayed: they were read again, `outcome` says what came of it
alter table quarantine add column status varchar(20) not null default 'held' check (status in ('held', 'replaying', 'replayed'));
-- the task that reads it again, or did
alter table quarantine add column replay_task bigint;
-- of the last replay: stored, duplicate (it was stored before), or quarantined again; null before it
alter table quarantine add column outcome varchar(20);
-- why it was quarantined again
alter table quarantine add column outcome_detail text;
alter table quarantine add column replayed_at {time};

-- Records that wait to be read; a row goes in the transaction of the page that it becomes part of.
create table inbox (
    id {id},
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    -- the row of quarantine that it comes from: one at a time
    quarantine_id bigint not null unique,
    -- one JSON object: the kept bytes, or corrected ones
    raw {bytes} not null,
    created_at {time} not null default {now}
);
create index inbox_by_stream on inbox (source_id, stream, id);
