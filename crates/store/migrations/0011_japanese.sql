-- Why a record is in quarantine is kept in both languages. Rows of before have English only.

alter table quarantine add column detail_japanese text;
alter table quarantine add column outcome_detail_japanese text;
