//! What each kind of source does with bad input: for each of nine ways to be bad a test beside its siblings, or the reason why there
//! is nothing to test.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

const CELLS: [&str; 9] = [
    "unreachable",
    "refused",
    "wrong credentials",
    "certificate errors",
    "wrong format",
    "truncated",
    "endless",
    "too large",
    "changed in the middle",
];

/// In the order of [`CELLS`]: `FILE TEST` as paths from here, more of them with `, ` between, or `-` and why there is none.
const KINDS: [(&str, [&str; 9]); 14] = [
    (
        "api",
        [
            "api/errors.rs a_host_that_is_unknown_closed_or_silent_is_told_and_asked_again",
            "api/errors.rs a_host_that_is_unknown_closed_or_silent_is_told_and_asked_again",
            "../../acquisition/tests/acquire_api.rs wrong_credentials_fail_without_a_retry_and_are_not_shown",
            "api/tls_of_sources.rs each_certificate_that_is_not_accepted_is_told_with_its_cause_and_what_to_do_and_not_tried_again",
            "api/answers.rs a_login_page_and_a_broken_document_are_errors_with_a_place, api/formats.rs an_answer_of_another_format_says_so",
            "api/answers.rs a_connection_that_breaks_inside_of_a_page_is_tried_again",
            "api/errors.rs a_page_that_never_ends_is_told_behind_what_came_and_a_record_over_the_limit_is_kept_out, api/pages.rs every_pagination_notices_that_it_goes_in_a_circle",
            "api/errors.rs a_page_that_never_ends_is_told_behind_what_came_and_a_record_over_the_limit_is_kept_out",
            "api/pages.rs a_place_that_the_server_forgot_begins_the_read_anew",
        ],
    ),
    (
        "file beneath a root",
        [
            "file/read.rs patterns_match_beneath_the_root_in_order",
            "file/read.rs nothing_outside_of_the_roots_is_read, file/read.rs links_inside_of_the_root_are_followed_and_pipes_are_refused",
            "- it is read as the user that matome runs as",
            "- nobody answers",
            "file/tables.rs what_is_cut_off_or_something_else_fails_clearly, file/probe.rs files_that_say_nothing_are_refused_with_what_to_do",
            "file/compressed.rs what_is_cut_off_or_changed_fails_with_its_place_behind_what_came_whole, file/xml.rs what_is_not_well_formed_ends_the_read_behind_what_came_before",
            "file/compressed.rs a_bomb_of_each_codec_is_stopped, file/archives.rs a_bomb_in_an_archive_is_stopped_also_in_many_members",
            "file/read.rs a_line_at_the_limit_passes_and_one_past_it_is_rejected_alone, file/tables.rs workbooks_that_would_fill_the_memory_are_refused",
            "file/resume.rs a_longer_file_that_does_not_begin_with_what_was_read_is_told_of_once_and_read_from_its_start",
        ],
    ),
    (
        "file over http",
        [
            "file/remote/faults.rs a_silent_and_a_slow_server_are_given_up, file/remote/faults.rs a_host_that_is_unknown_or_closed_is_told_and_asked_again",
            "file/remote/faults.rs a_host_that_is_unknown_or_closed_is_told_and_asked_again",
            "file/remote/http.rs each_refusal_says_what_to_do",
            "file/remote/tls.rs a_server_of_files_is_believed_and_shown_a_certificate_as_the_source_says, file/remote/http.rs a_certificate_that_nobody_here_has_signed_is_refused",
            "file/remote/http.rs an_address_that_ends_like_a_directory_names_one_document",
            "file/remote/faults.rs what_breaks_off_all_the_time_ends_after_some_tries_and_may_be_tried_later",
            "file/remote/faults.rs an_endless_body_ends_where_the_reader_ends",
            "file/remote/faults.rs a_format_that_is_read_here_and_there_is_fetched_within_a_limit",
            "file/remote/faults.rs a_document_that_was_written_over_while_it_came_is_an_error, file/remote/faults.rs another_version_never_goes_on_for_the_one_that_broke_off",
        ],
    ),
    ("file in s3", of_stores("file/remote/s3.rs who_is_not_let_in_is_told_why")),
    ("file in gcs", of_stores("file/remote/gcs.rs what_is_refused_says_what_to_do_and_nothing_of_the_key")),
    ("file in azure", of_stores("file/remote/azure.rs who_is_not_let_in_is_told")),
    (
        "file over sftp",
        [
            "file/remote/sftp.rs what_answers_is_an_ssh_server_that_may_be_reached",
            "file/remote/sftp.rs what_answers_is_an_ssh_server_that_may_be_reached",
            "file/remote/sftp.rs who_may_not_in_is_told",
            "file/remote/sftp.rs a_server_with_another_key_is_not_talked_to",
            "file/remote/sftp.rs a_file_of_another_format_is_told_and_a_bad_record_is_kept",
            "file/remote/sftp.rs what_breaks_off_too_often_is_gone_on_with_by_the_next_read",
            "file/remote/sftp.rs a_file_without_an_end_is_read_page_by_page_until_nobody_wants_more",
            "file/remote/sftp.rs a_file_over_the_limit_is_not_fetched",
            "file/remote/sftp.rs a_longer_file_under_the_same_name_is_not_gone_on_with_inside",
        ],
    ),
    (
        "database postgres",
        [
            "database/errors.rs what_passes_by_itself_is_tried_again, database/errors.rs what_is_no_database_is_told_so",
            "database/errors.rs what_is_no_database_is_told_so",
            "database/errors.rs each_fault_of_a_definition_is_told_with_its_remedy",
            "database/tls.rs a_server_is_believed_only_with_a_certificate_for_its_name",
            "database/errors.rs what_is_no_database_is_told_so",
            "database/errors.rs a_connection_that_is_lost_in_the_middle_goes_on_where_it_was",
            "database/errors.rs what_passes_by_itself_is_tried_again, database/errors.rs a_read_that_nobody_wants_ends_on_the_server_too",
            "database/types.rs a_row_that_is_too_long_goes_to_quarantine_and_is_not_fetched_whole",
            "database/incremental.rs a_whole_read_sees_one_moment",
        ],
    ),
    (
        "database mysql",
        [
            "database/mysql/errors.rs what_passes_by_itself_is_tried_again, database/mysql/errors.rs what_is_no_such_server_is_told_so",
            "database/mysql/errors.rs what_is_no_such_server_is_told_so",
            "database/mysql/errors.rs each_fault_of_a_definition_is_told_with_its_remedy",
            "database/mysql/tls.rs a_server_is_believed_only_with_a_certificate_for_its_name",
            "database/mysql/errors.rs what_is_no_such_server_is_told_so",
            "database/mysql/errors.rs a_connection_that_is_lost_in_the_middle_goes_on_where_it_was",
            "database/mysql/errors.rs what_passes_by_itself_is_tried_again, database/mysql/errors.rs a_read_that_nobody_wants_ends_on_the_server_too",
            "database/mysql/types.rs a_row_that_is_too_long_goes_to_quarantine_and_is_not_fetched_whole",
            "database/mysql/incremental.rs a_whole_read_sees_one_moment",
        ],
    ),
    (
        "database sqlite",
        [
            "database/sqlite.rs files_are_only_read_and_only_beneath_a_root",
            "database/sqlite.rs files_are_only_read_and_only_beneath_a_root",
            "- it is read as the user that matome runs as",
            "- nobody answers",
            "database/sqlite.rs files_are_only_read_and_only_beneath_a_root",
            "database/sqlite.rs a_file_that_is_cut_off_or_damaged_is_told_behind_what_came_whole",
            "database/sqlite.rs a_query_without_an_end_is_given_up_and_its_file_is_free_again",
            "database/sqlite.rs a_value_that_is_too_long_goes_to_quarantine_and_is_not_fetched",
            "database/sqlite.rs a_file_that_is_written_over_is_told_and_one_whose_name_another_takes_is_read_as_it_was",
        ],
    ),
    (
        "websocket",
        [
            "websocket/errors.rs addresses_that_are_denied_refused_or_unknown_are_told, websocket/errors.rs a_host_that_says_nothing_is_told_to_have_been_reached",
            "websocket/errors.rs addresses_that_are_denied_refused_or_unknown_are_told",
            "websocket/errors.rs each_answer_that_is_no_stream_is_told_with_what_to_do, websocket/reconnect.rs a_source_that_greets_and_turns_away_is_given_up_whether_the_greeting_is_a_record_or_not",
            "websocket/tls_of_sources.rs a_socket_is_believed_and_shown_a_certificate_as_the_source_says, websocket/errors.rs what_speaks_no_tls_is_told_whether_it_says_so_or_goes_away",
            "websocket/errors.rs bytes_that_are_no_websocket_and_text_that_is_no_utf8_are_told",
            "websocket/errors.rs a_message_that_is_cut_off_is_no_record_and_the_next_connection_goes_on",
            "websocket/limits.rs a_message_in_many_frames_is_one_and_may_not_grow_without_end, websocket/limits.rs a_flood_of_pings_keeps_no_record_back_and_the_read_from_no_end",
            "websocket/limits.rs a_message_over_the_limit_goes_to_quarantine_and_the_connection_stays, websocket/limits.rs a_message_that_cannot_be_held_costs_the_connection_once_and_is_told",
            "websocket/reconnect.rs what_nobody_can_send_again_is_a_gap",
        ],
    ),
    (
        "server-sent events",
        [
            "websocket/errors.rs addresses_that_are_denied_refused_or_unknown_are_told, websocket/errors.rs a_host_that_says_nothing_is_told_to_have_been_reached",
            "websocket/errors.rs addresses_that_are_denied_refused_or_unknown_are_told",
            "websocket/errors.rs each_answer_that_is_no_stream_is_told_with_what_to_do",
            "websocket/tls_of_sources.rs events_are_read_with_an_authority_of_the_source_and_not_without",
            "websocket/errors.rs each_answer_that_is_no_stream_is_told_with_what_to_do",
            "websocket/events.rs the_last_id_is_sent_and_nothing_is_missed_or_doubled",
            "websocket/events.rs events_that_are_too_long_or_have_no_end_are_told_and_the_next_is_read",
            "websocket/events.rs events_that_are_too_long_or_have_no_end_are_told_and_the_next_is_read",
            "websocket/events.rs the_last_id_is_sent_and_nothing_is_missed_or_doubled",
        ],
    ),
    (
        "push",
        [
            "- nobody is dialled",
            "- nobody is dialled",
            "../../api/tests/api/pushes.rs a_signed_webhook_needs_no_token_and_counts_once, ../../api/tests/api/pushes.rs a_delivery_that_was_signed_long_ago_is_refused",
            "- TLS is that of the server that takes it",
            "../../api/tests/api/pushes.rs what_cannot_be_read_is_refused_with_place_and_remedy_and_not_kept",
            "../../api/tests/api/pushes.rs a_body_that_breaks_off_is_not_kept",
            "../../api/tests/api/pushes.rs a_body_has_its_own_limit_also_when_it_is_inflated",
            "../../api/tests/api/pushes.rs a_body_has_its_own_limit_also_when_it_is_inflated, ../../api/tests/api/pushes.rs when_too_much_waits_the_sender_is_told_when_to_come_again",
            "../../api/tests/api/pushes.rs what_is_sent_is_kept_with_its_task_and_a_key_makes_it_one",
        ],
    ),
    // One table, from the bytes of a source to the rows of the store.
    ("all that is read", OF_THE_STORE),
];

/// What becomes of it behind the connector: the checkpoint stays, what is bad goes to quarantine.
const OF_THE_STORE: [&str; 9] = [
    "- as that of an API, which is refused",
    "../../acquisition/tests/acquire_api.rs what_came_before_a_failing_page_is_kept_and_the_next_try_goes_on",
    "../../acquisition/tests/acquire_api.rs wrong_credentials_fail_without_a_retry_and_are_not_shown",
    "- as that of an API, which is refused",
    "../../acquisition/tests/acquire.rs bad_lines_go_to_quarantine_and_good_ones_are_stored",
    "../../acquisition/tests/acquire.rs a_read_that_was_cut_off_ends_with_the_rows_of_one_that_was_not, ../../acquisition/tests/acquire.rs a_read_that_fails_keeps_its_pages_and_says_why",
    "../../acquisition/tests/acquire.rs a_task_that_must_stop_says_so_and_a_lost_lease_stores_nothing",
    "../../acquisition/tests/validation.rs a_read_of_which_too_much_is_bad_fails_and_keeps_what_it_found",
    "../../acquisition/tests/edge_cases/main.rs each_case_ends_as_stated_on_both_databases",
];

/// What object stores have in common is tested with each of them.
const fn of_stores(credentials: &'static str) -> [&'static str; 9] {
    [
        "file/remote/broken_stores.rs a_store_that_is_unknown_closed_or_silent_is_told_and_asked_again",
        "file/remote/broken_stores.rs a_store_that_is_unknown_closed_or_silent_is_told_and_asked_again",
        credentials,
        "file/remote/broken_stores.rs a_store_is_believed_only_with_a_certificate_for_its_name",
        "file/remote/broken_stores.rs an_object_of_another_format_is_told_and_a_bad_record_is_kept, file/remote/broken_stores.rs a_list_that_makes_no_sense_ends_the_read",
        "file/remote/broken_stores.rs an_object_that_is_cut_off_is_gone_on_with_and_one_that_is_written_anew_is_told",
        "file/remote/broken_stores.rs an_object_without_end_or_over_the_limit_is_not_held, file/remote/broken_stores.rs a_list_that_makes_no_sense_ends_the_read",
        "file/remote/broken_stores.rs an_object_without_end_or_over_the_limit_is_not_held",
        "file/remote/broken_stores.rs an_object_that_is_cut_off_is_gone_on_with_and_one_that_is_written_anew_is_told",
    ]
}

#[test]
fn every_kind_of_source_has_a_test_for_each_kind_of_bad_input() {
    let tests = Path::new("tests");
    let mut missing = Vec::new();
    for (kind, cells) in KINDS {
        for (cell, named) in CELLS.into_iter().zip(cells) {
            if let Some(reason) = named.strip_prefix("- ") {
                assert!(!reason.is_empty(), "{kind}, {cell}");
                continue;
            }
            for one in named.split(", ") {
                let (file, test) = one.split_once(' ').unwrap_or_else(|| panic!("{kind}, {cell}: `{one}`"));
                let path = tests.join(file);
                let text = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("`{}`: {err}", path.display()));
                // An attribute stands right before what is run.
                let is_test = ["#[tokio::test]\nasync fn", "#[test]\nfn"];
                if !is_test.iter().any(|begin| text.contains(&format!("{begin} {test}("))) {
                    missing.push(format!("{kind}, {cell}: {file} has no test `{test}`"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
