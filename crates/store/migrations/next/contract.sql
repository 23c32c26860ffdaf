-- For the test of a rolling upgrade alone: what older processes do breaks from here on. None of them may sign on or have a
-- heartbeat any more; with one that still lives this statement itself fails. PostgreSQL only.

alter table workers add constraint workers_next check (gone_at is not null or schema_version >= 9001);
