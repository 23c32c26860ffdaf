-- How many bytes the records of a source take, for sources whose retention bounds them. Each record is counted once,
-- behind its page and not in it, and taken off in the transaction that removes it. Of this installation: a copy counts anew,
-- since the two databases write the same JSON with other spaces.

create table source_bytes (
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    -- acquired_data.id up to which records are counted
    counted_up_to bigint not null default 0,
    -- the counted records that are there
    row_count bigint not null default 0,
    -- bytes of their raw_data, as text
    bytes bigint not null default 0,
    -- grows with each removal of records: a count that began before one is not taken
    removals bigint not null default 0,
    primary key (source_id, stream)
);
