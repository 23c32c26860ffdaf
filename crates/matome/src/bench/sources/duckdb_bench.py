"""DuckDB beside matome: what `matome bench sources` runs with the Python of scripts/install-missing.

    python duckdb_bench.py STATEMENT

executes the statement on a new database file, and prints how many rows the table `loaded` has then.
"""
import sys

import duckdb

print("begins", flush=True)
with duckdb.connect("beside.duckdb") as connection:
    connection.execute(sys.argv[1])
    (rows,) = connection.execute("select count(*) from loaded").fetchone()
print(rows)
