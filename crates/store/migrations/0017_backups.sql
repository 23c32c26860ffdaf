-- When backups were made, for those who ask how old the last one is. Of this installation: a copy does not have it.

create table backups (
    id {id},
    made_at {time} not null,
    -- `matome`: by `db backup`; `other`: noted by hand
    made_by varchar(20) not null,
    -- of the copy; null where it is not known
    size_bytes bigint
);
