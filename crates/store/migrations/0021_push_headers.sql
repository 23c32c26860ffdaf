-- What a sender says of a push beside its body, the kind of an event for example, stands in headers. A binary that does not know
-- them reads the push as before, and stores its records without them.

-- those that its source keeps: a JSON object of texts, names in lower case; null: none
alter table pushes add column headers text;
