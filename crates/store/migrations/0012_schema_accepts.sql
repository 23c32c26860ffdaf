-- Accepting a new schema while a read runs that began before: it counts for the next read.

-- how often it was accepted; a read that knows of fewer does not end the learning
alter table source_schemas add column accepts bigint not null default 0;
