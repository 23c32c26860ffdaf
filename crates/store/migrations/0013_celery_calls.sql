-- Calls of Celery producers (`send_task` of a Python program): each becomes one task, and its caller is told how that ended.

create table celery_calls (
    id {id},
    -- Celery's id of the call; of a message without one, `sha256:` and its hash: a message that is seen twice is one call
    call_key text {binary_collation} not null unique check (length(call_key) between 1 and 255),
    queue varchar(20) not null,
    object_id bigint,
    -- a word of priorities; null: as of a run by hand
    priority varchar(20),
    -- the caller wants it not before
    due_at {time} not null,
    -- the task that does it; null before it is due, and for a call that never becomes one
    task_id bigint,
    -- why it never becomes one
    refused text,
    -- it came too late for its caller
    expired boolean not null default {false},
    -- the message of a refused call
    message {bytes},
    received_at {time} not null,
    -- when its caller was told how it ended, or need not be told
    answered_at {time}
);
create index celery_calls_due on celery_calls (queue, due_at) where task_id is null and refused is null;
create index celery_calls_open on celery_calls (queue, id) where answered_at is null;
create index celery_calls_answered on celery_calls (answered_at) where answered_at is not null;
