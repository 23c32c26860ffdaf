-- Removing stored records: by hand, by retention, by a reset. In batches, behind; what is asked for outlives a crash.

-- highest id of the stream that was ever removed: with the newest record it gives the watermark, and up to it there
-- may be holes in the versions of a key
alter table checkpoints add column removed_up_to bigint not null default 0;

-- What is still to be removed; a row goes with the last of its records.
create table removals (
    id {id},
    source_id bigint not null references data_sources (id),
    -- records that were there when it was asked for; those that come later stay
    up_to_id bigint not null,
    -- acquired not before, and before; null: any time
    acquired_from {time},
    acquired_before {time},
    -- a reset: nothing of the source is read until all is removed, or the old records would pass for known ones
    holds_source boolean not null default {false},
    created_at {time} not null
);
create index removals_source on removals (source_id);
