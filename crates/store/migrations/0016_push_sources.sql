-- No binary that knows nothing of pushes may work beside this one any more: then there can be sources of the type push. Nothing
-- else changes.

update data_sources set source_type = source_type where 1 = 0;
