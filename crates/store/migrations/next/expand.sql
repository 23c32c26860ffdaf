-- For the test of a rolling upgrade alone: what a migration adds that older processes work beside. A column of the table
-- that all of them read and write all the time, and an index.

alter table tasks add column next_note text;
create index tasks_next on tasks (queue, next_note) where next_note is not null;
