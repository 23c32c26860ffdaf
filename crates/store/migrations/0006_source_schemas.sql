-- Which fields the records of a source stream have, and of which types: the schema that drift is measured by.

create table source_schemas (
    source_id bigint not null references data_sources (id),
    stream text {binary_collation} not null default '',
    -- 1 for the first, +1 with every change; the highest is in force
    version bigint not null,
    -- {"name": {"types": [...], "items": {...}, "fields": {...}}}
    fields {json} not null,
    -- what is new in it: [{"field", "old", "new"}]
    changes {json} not null default '[]',
    -- whether a read has ended since it began to learn; until then every difference is taken in, whatever the policy
    settled boolean not null default {false},
    -- the task that met the change
    task_id bigint not null,
    created_at {time} not null default {now},
    primary key (source_id, stream, version)
);
