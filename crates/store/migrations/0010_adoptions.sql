-- Sources and aggregations that the original application made: what is still to be done for them before they are as if
-- they were made here. A row goes when all is done.

create table adoptions (
    -- source or aggregation
    kind varchar(20) not null,
    object_id bigint not null,
    -- the last record that the original application stored; 0: none
    up_to_id bigint not null,
    -- records up to here have the hash of their canonical form and their identity
    done_id bigint not null default 0,
    -- whether the config was looked at: secrets encrypted, schedule made
    settled boolean not null default {false},
    primary key (kind, object_id)
);

-- what the original application had in data_hash, where that was another hash of the record
alter table acquired_data add column adopted_hash varchar(64);
