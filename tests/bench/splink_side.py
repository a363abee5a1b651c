"""Splink over the benchmark's records, in an environment of its own (it has other needs).

`python splink_side.py FILE OUT THREADS EM_PAIRS [spark]`: reads FILE, writes OUT (unique_id,
cluster_id), and prints one line of JSON: seconds of each step, and how many pairs the rules make.
The rules and comparisons of `linkage.yaml`, term frequencies on names. Tuned with Splink's own
arguments: u from a million random pairs, EM on at most EM_PAIRS pairs of each of two blocks (0: all
of them). On DuckDB, or on Spark, whose start is not counted.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import splink.comparison_library as cl
from splink import Linker, SettingsCreator, block_on
from splink.blocking_analysis import count_comparisons_from_blocking_rules

RULES = [
    block_on("ssn"),
    block_on("surname", "dob"),
    block_on("first_name", "dob"),
    block_on("first_name", "surname", "zip"),
    block_on("zip", "dob"),
    block_on("substr(first_name, 1, 2)", "substr(surname, 1, 3)", "substr(dob, 1, 4)"),
]


def on_duckdb(threads: int) -> Any:
    import duckdb
    from splink.backends.duckdb import DuckDBAPI

    connection = duckdb.connect()
    connection.execute(f"SET threads TO {threads}")
    return DuckDBAPI(connection=connection)


def on_spark(threads: int, folder: Path) -> Any:
    from pyspark.sql import SparkSession
    from splink.backends.spark import SparkAPI, similarity_jar_location

    builder = SparkSession.builder.master(f"local[{threads}]").config(
        "spark.jars", similarity_jar_location()
    )
    confs = {
        "spark.driver.memory": "8g",
        "spark.sql.shuffle.partitions": str(4 * threads),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.local.dir": str(folder / "spark"),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
    }
    for key, value in confs.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    spark.sparkContext.setCheckpointDir(str(folder / "checkpoints"))
    return SparkAPI(
        spark_session=spark,
        break_lineage_method="parquet",
        num_partitions_on_repartition=4 * threads,
    )


def read(api: Any, source: str) -> Any:
    """The records, without the truth."""
    if hasattr(api, "spark"):
        return api.register(api.spark.read.parquet(source).drop("person"), table_name="persons")
    api._con.execute(
        f"CREATE TABLE persons AS SELECT * EXCLUDE (person) FROM read_parquet('{source}')"  # noqa: S608
    )
    return api.register("persons")


def write(api: Any, clustered: Any, out: str) -> None:
    columns = f"SELECT unique_id, cluster_id FROM {clustered.physical_name}"  # noqa: S608
    if hasattr(api, "spark"):
        api.spark.sql(columns).write.mode("overwrite").parquet(out)
    else:
        api._con.execute(f"COPY ({columns}) TO '{out}' (FORMAT parquet)")


def main(source: str, out: str, threads: str, em_pairs: str, backend: str = "duckdb") -> None:
    logging.disable(logging.WARNING)
    parent = Path(out).resolve().parent
    api = on_spark(int(threads), parent) if backend == "spark" else on_duckdb(int(threads))
    marks = [("begin", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    persons = read(api, source)
    name = lambda column: cl.JaroWinklerAtThresholds(column, [0.92, 0.8]).configure(  # noqa: E731
        term_frequency_adjustments=True
    )
    settings = SettingsCreator(
        link_type="dedupe_only",
        blocking_rules_to_generate_predictions=RULES,
        comparisons=[
            name("first_name"),
            name("surname"),
            cl.DateOfBirthComparison("dob", input_is_string=True),
            cl.ExactMatch("ssn"),
            cl.LevenshteinAtThresholds("street", [2]),
            cl.ExactMatch("zip"),
        ],
        retain_matching_columns=False,
        retain_intermediate_calculation_columns=False,
    )
    linker = Linker(persons, settings)
    mark("read")
    linker.training.estimate_probability_two_random_records_match(
        [block_on("ssn"), block_on("first_name", "surname", "dob")], recall=0.8
    )
    linker.training.estimate_u_using_random_sampling(max_pairs=1e6, seed=1)
    for rule in (block_on("first_name", "surname"), block_on("zip", "dob")):
        linker.training.estimate_parameters_using_expectation_maximisation(
            rule, max_pairs=float(em_pairs) or None
        )
    mark("train")
    predicted = linker.inference.predict(threshold_match_probability=0.5)
    mark("predict")
    clustered = linker.clustering.cluster_pairwise_predictions_at_threshold(predicted, 0.95)
    mark("cluster")
    write(api, clustered, out)
    mark("write")
    counted = count_comparisons_from_blocking_rules(
        persons,
        blocking_rules=RULES,
        link_type="dedupe_only",
        record_sample_proportion=1.0,
    )
    told = {
        "version": version("splink"),
        "seconds": marks[-1][1] - marks[0][1],
        "steps": {b: y - x for (_, x), (b, y) in zip(marks, marks[1:], strict=False)},
        "pairs": counted[-1]["cumulative_comparison_count"],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
