"""The released dlt beside matome: what `matome bench sources` runs with the Python of scripts/install-missing.

    python dlt_bench.py COUNT api BASE SIZE
    python dlt_bench.py COUNT table NAME

loads the COUNT records of the API at BASE, SIZE a page, or a table of the database at FROM_URL, into PostgreSQL at TO_URL, or where
there is none into a file of DuckDB; and prints how many rows are there then. Settings are those of dlt's page on performance: pages
instead of rows, several files that are not compressed, so that all cores normalise and several connections load. Of the backends for
tables and the formats for a destination those are used that took the least time. Nested values stay one column of JSON, which is quicker
than a table for each list.
"""
import os
import sys

import dlt
from dlt.sources.rest_api import rest_api_source
from dlt.sources.sql_database import sql_table


def api(base, size):
    endpoint = {"path": "events", "params": {"size": size}, "data_selector": "results"}
    config = {
        "client": {"base_url": base, "paginator": {"type": "json_link", "next_url_path": "next"}},
        "resources": [{"name": "events", "endpoint": endpoint}],
    }
    return rest_api_source(config, max_table_nesting=0, parallelized=True)


def table(name):
    url = "postgresql://" + os.environ["FROM_URL"].split("://", 1)[1]
    reflected = url.replace("postgresql:", "postgresql+psycopg2:", 1)
    level = "full_with_precision"
    return sql_table(reflected, name, backend="connectorx", backend_kwargs={"conn": url}, reflection_level=level)


def configure(count):
    settings = {
        "DATA_WRITER__DISABLE_COMPRESSION": True,
        "DATA_WRITER__FILE_MAX_ITEMS": max(count // 4, 1_000),
        "NORMALIZE__WORKERS": os.cpu_count(),
        "RUNTIME__DLTHUB_TELEMETRY": False,
        "RUNTIME__LOG_LEVEL": "ERROR",
    }
    os.environ.update({name: str(value) for name, value in settings.items()})


def main():
    count, what, *arguments = sys.argv[1:]
    configure(int(count))
    to_url = os.environ.get("TO_URL")
    destination = dlt.destinations.postgres(to_url) if to_url else dlt.destinations.duckdb("beside.duckdb")
    pipeline = dlt.pipeline("bench", destination=destination, dataset_name="bench", pipelines_dir="pipelines")
    print("begins", flush=True)
    if what == "api":
        pipeline.run(api(*arguments), loader_file_format="csv" if to_url else "parquet")
    else:
        pipeline.run(table(*arguments), loader_file_format="parquet")
    with pipeline.sql_client() as client:
        loaded = "events" if what == "api" else arguments[0]
        print(client.execute_sql(f"select count(*) from {loaded}")[0][0])


if __name__ == "__main__":
    main()
