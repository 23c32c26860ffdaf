"""A source of the Airbyte CDK beside matome: what `matome bench sources` runs with the Python of scripts/install-missing.

    python airbyte_bench.py BASE SIZE

reads the records of the API at BASE, SIZE a page, as a declarative connector does: `read` of source-declarative-manifest. Its
messages, one line each, go to stdout, from where a destination would take them.
"""
import json
import sys

from airbyte_cdk.cli.source_declarative_manifest._run import handle_command


def manifest(base, size):
    return {
        "version": "7.39.1",
        "type": "DeclarativeSource",
        "check": {"type": "CheckStream", "stream_names": ["events"]},
        "spec": {"type": "Spec", "connection_specification": {"type": "object", "properties": {}}},
        "concurrency_level": {"type": "ConcurrencyLevel", "default_concurrency": 4},
        "streams": [
            {
                "type": "DeclarativeStream",
                "name": "events",
                "primary_key": ["event_id"],
                "schema_loader": {"type": "InlineSchemaLoader", "schema": {"type": "object", "properties": {}}},
                "retriever": {
                    "type": "SimpleRetriever",
                    "requester": {
                        "type": "HttpRequester",
                        "url_base": base,
                        "path": "/events",
                        "http_method": "GET",
                        "request_parameters": {"size": size},
                    },
                    "record_selector": {
                        "type": "RecordSelector",
                        "extractor": {"type": "DpathExtractor", "field_path": ["results"]},
                    },
                    "paginator": {
                        "type": "DefaultPaginator",
                        "page_token_option": {"type": "RequestPath"},
                        "pagination_strategy": {
                            "type": "CursorPagination",
                            "cursor_value": "{{ response['next'] }}",
                            "stop_condition": "{{ not response['next'] }}",
                        },
                    },
                },
            }
        ],
    }


def write(name, value):
    with open(name, "w", encoding="utf-8") as file:
        json.dump(value, file)
    return name


def main():
    base, size = sys.argv[1:]
    stream = {"name": "events", "json_schema": {}, "supported_sync_modes": ["full_refresh"]}
    configured = {"stream": stream, "sync_mode": "full_refresh", "destination_sync_mode": "append"}
    config = write("config.json", {"__injected_declarative_manifest": manifest(base, size)})
    catalog = write("catalog.json", {"streams": [configured]})
    print("begins", flush=True)
    handle_command(["read", "--config", config, "--catalog", catalog])


if __name__ == "__main__":
    main()
