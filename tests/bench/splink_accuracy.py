"""Splink over records that accuracy.py prepared, in an environment of its own.

`python splink_accuracy.py JOB`: JOB is a JSON file, what `splink_model.translated` says and besides
`records`, `links` and `clusters` (files to read and to write), `threads` and `thresholds`. Fits its
own u, m and prior; writes each pair that the rules make, with its probability and whether one of
`never` rules it out, and each row's clusters at each threshold, with `never` and without.
"""

from __future__ import annotations

import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import duckdb
from splink import Linker, SettingsCreator
from splink.internals.duckdb.database_api import DuckDBAPI

RANDOM_PAIRS, RECALL = 1e6, 0.8  # of the pairs that teach, the share that is of one person


def main(path: str) -> None:
    logging.disable(logging.WARNING)
    job = json.loads(Path(path).read_text())
    connection = duckdb.connect()
    connection.execute(f"SET threads TO {int(job['threads'])}")
    connection.execute(f"CREATE TABLE records AS SELECT * FROM read_parquet('{job['records']}')")
    api = DuckDBAPI(connection=connection)
    settings = SettingsCreator(
        link_type="dedupe_only",
        blocking_rules_to_generate_predictions=job["blocking"],
        comparisons=job["comparisons"],
        retain_matching_columns=True,  # and with them the numbers of levels, which `never` asks
        retain_intermediate_calculation_columns=False,
        additional_columns_to_retain=["record"],
    )
    linker = Linker(api.register("records"), settings)
    teach = linker.training
    teach.estimate_probability_two_random_records_match(job["training"], recall=RECALL)
    teach.estimate_u_using_random_sampling(max_pairs=RANDOM_PAIRS, seed=1)
    for rule in job["training"]:
        teach.estimate_parameters_using_expectation_maximisation(rule)
    predicted = linker.inference.predict()
    refused = " or ".join(f"({each})" for each in job["never"]) or "false"
    connection.execute(
        f"CREATE TABLE linked AS SELECT *, {refused} AS refused "  # noqa: S608
        f"FROM {predicted.physical_name}"
    )
    connection.execute(
        "CREATE TABLE allowed AS SELECT * EXCLUDE (refused) FROM linked WHERE NOT refused"
    )
    connection.execute(
        "COPY (SELECT record_l, record_r, match_probability, refused FROM linked) "
        f"TO '{job['links']}' (FORMAT parquet)"
    )
    parts = []
    for never, pairs in ((False, predicted), (True, api.register("allowed"))):
        for at in job["thresholds"]:
            found = linker.clustering.cluster_pairwise_predictions_at_threshold(pairs, at)
            parts.append(
                f"SELECT unique_id, cluster_id, {never} AS never, {at} AS at "  # noqa: S608
                f"FROM {found.physical_name}"
            )
    connection.execute(
        f"COPY ({' UNION ALL '.join(parts)}) TO '{job['clusters']}' (FORMAT parquet)"
    )
    print(json.dumps({"version": version("splink")}))


if __name__ == "__main__":
    main(sys.argv[1])
