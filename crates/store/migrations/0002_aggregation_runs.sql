-- Aggregations that add to what is shown, and runs that are kept as versions.
--
-- A publication switches runs, not rows: a row is shown when its run is current and no published run has taken its place.

-- identity of the row under the aggregation's `key`, 32 hex digits; null: it has none
alter table aggregated_data add column key_hash varchar(32) {binary_collation};
-- the run that has a newer row of this key; counts once that run is published
alter table aggregated_data add column superseded_by bigint;
-- finds the rows that a key has; a key stands once in a run
create unique index aggregated_data_key on aggregated_data (source_id, key_hash, run_id) where key_hash is not null;
create index aggregated_data_superseded on aggregated_data (superseded_by) where superseded_by is not null;
-- a page of one run is read off the index
drop index aggregated_data_run;
create index aggregated_data_run on aggregated_data (run_id, aggregated_at desc, id);

-- what the run did with the rows before: replace, append or upsert
alter table aggregation_runs add column mode varchar(20) not null default 'replace';
-- the parameters that it was given
alter table aggregation_runs add column params {json} not null default '{}';
-- the run whose publication took all its rows from view
alter table aggregation_runs add column replaced_by bigint;
-- rows of other runs that it superseded, and how many of them are still stored
alter table aggregation_runs add column superseded_count bigint not null default 0;
alter table aggregation_runs add column superseded_stored bigint not null default 0;
-- set when the rows of a run that is not shown any more are gone
alter table aggregation_runs add column rows_removed_at {time};
update aggregation_runs set replaced_by = (
    select min(n.id) from aggregation_runs n
    where n.source_id = aggregation_runs.source_id and n.id > aggregation_runs.id and n.published_at is not null
) where status = 'superseded';
update aggregation_runs set rows_removed_at = {now}
where status in ('superseded', 'abandoned') and not exists (select 1 from aggregated_data d where d.run_id = aggregation_runs.id);
-- few: what housekeeping looks at
create index aggregation_runs_hidden on aggregation_runs (id) where rows_removed_at is null and status <> 'current';
create index aggregation_runs_leftovers on aggregation_runs (id) where superseded_stored > 0;

-- rows that are shown, kept by each publication: what makes `count` cost the same however many runs there are
alter table aggregation_sources add column visible_rows bigint not null default 0;
-- the oldest run whose version can still be read
alter table aggregation_sources add column kept_from_run bigint not null default 0;
-- JSON array with the names of the key under which the shown rows are stored; null: without a key
alter table aggregation_sources add column key_columns text;
update aggregation_sources set kept_from_run = coalesce(current_run_id, 0), visible_rows = coalesce(
    (select r.row_count from aggregation_runs r where r.id = aggregation_sources.current_run_id), 0);
