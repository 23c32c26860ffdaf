-- Schedules by cron expression, what becomes of missed times, overlap and jitter.

-- Null: by interval_secs. Otherwise five fields, and interval_secs holds the distance of the first two fires: what an
-- older binary that runs beside a newer one goes by.
alter table schedules add column cron text;
-- IANA name; null without cron
alter table schedules add column timezone text;
-- coalesce, skip or catch_up
alter table schedules add column misfire varchar(20) not null default 'coalesce';
-- queue_one or skip
alter table schedules add column overlap varchar(20) not null default 'queue_one';
alter table schedules add column jitter_secs bigint not null default 0;
-- next_at moved by jitter: when the task is made; null without jitter
alter table schedules add column due_at {time};

-- An older binary goes by schedules_due, which stays.
create index schedules_due_at on schedules (coalesce(due_at, next_at), id) where enabled;
