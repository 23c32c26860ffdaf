-- Aggregations that run after others: what they wait for, and what has changed since they were told.

-- An aggregation runs after whatever bears this name committed something new.
create table aggregation_triggers (
    aggregation_id bigint not null references aggregation_sources (id),
    -- source or aggregation
    cause_kind varchar(20) not null,
    cause_name varchar(255) {binary_collation} not null,
    -- from the news to the run
    debounce_secs bigint not null check (debounce_secs >= 0),
    primary key (aggregation_id, cause_kind, cause_name)
);
create index aggregation_triggers_cause on aggregation_triggers (cause_kind, cause_name);

-- What has committed something new and is waited for; written in the transaction of the change, taken by the one that
-- enqueues the runs. Empty, but for moments.
create table changes (
    kind varchar(20) not null,
    object_id bigint not null,
    -- of the first change that was not told yet
    since {time} not null,
    primary key (kind, object_id)
);
