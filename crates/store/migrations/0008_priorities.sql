-- Priorities of sources and aggregations. How often a lane is served (weight) was there already.

-- of the tasks that schedules and triggers make
alter table lanes add column priority varchar(20) not null default 'normal';
