-- How many tasks read from one host at the same time (`rate.concurrent`), over all sources and all workers.

-- the host that tasks of this lane read from; null: none, or its source is of an earlier version and has not run since
alter table lanes add column host text {binary_collation};
-- what its source asks for; the lowest of a host holds for every lane that reads from it
alter table lanes add column host_limit bigint check (host_limit > 0);
create index lanes_reading on lanes (host) where host is not null and lease_worker is not null;
create index lanes_limiting on lanes (host, host_limit) where host_limit is not null;

-- Hosts with a limit. Whoever starts tasks of one holds its row, counts the leased lanes that read from it, and leases more
-- only as far as there is room: so a task that ends, or whose worker is dead, makes room by the end of its lease alone.
create table hosts (
    host text {binary_collation} primary key not null,
    -- tasks at a time: the lowest host_limit of its lanes
    concurrent bigint not null check (concurrent > 0)
);
