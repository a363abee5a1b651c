"""Splink over the benchmark's records, in an environment of its own (it has other needs).

`python splink_side.py FILE OUT THREADS EM_PAIRS`: reads FILE, writes OUT (unique_id, cluster_id),
and prints one line of JSON: seconds of each step, and how many pairs the rules make. The rules and
comparisons of `linkage.yaml`, term frequencies on names. Tuned with Splink's own arguments: u from
a million random pairs, EM on at most EM_PAIRS pairs of each of two blocks (0: all of them).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.metadata import version

import duckdb
import splink.comparison_library as cl
from splink import Linker, SettingsCreator, block_on
from splink.blocking_analysis import count_comparisons_from_blocking_rules
from splink.internals.duckdb.database_api import DuckDBAPI

RULES = [
    block_on("ssn"),
    block_on("surname", "dob"),
    block_on("first_name", "dob"),
    block_on("first_name", "surname", "zip"),
    block_on("zip", "dob"),
    block_on("substr(first_name, 1, 2)", "substr(surname, 1, 3)", "substr(dob, 1, 4)"),
]


def main(source: str, out: str, threads: str, em_pairs: str) -> None:
    logging.disable(logging.WARNING)
    marks = [("begin", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    connection = duckdb.connect()
    connection.execute(f"SET threads TO {int(threads)}")
    connection.execute(
        f"CREATE TABLE persons AS SELECT * EXCLUDE (person) FROM read_parquet('{source}')"  # noqa: S608
    )
    api = DuckDBAPI(connection=connection)
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
    persons = api.register("persons")
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
    connection.execute(
        f"COPY (SELECT unique_id, cluster_id FROM {clustered.physical_name}) "  # noqa: S608
        f"TO '{out}' (FORMAT parquet)"
    )
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
