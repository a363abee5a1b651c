"""A study's tables as a model reads them: whole, at recorded versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame

from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.canonical import digest
from concord.agreements.dula import Dula
from concord.agreements.labels import AGREEMENT_DIGEST
from concord.contracts.model import Contract
from concord.errors import UsageError
from concord.lake import run as runs
from concord.lake.log import state
from concord.lake.run import Run
from concord.studies.tables import StudyTable, of_agreement
from concord.tracking import Store


@dataclass(frozen=True)
class Held:
    """The tables that a model reads of one study, by `<feed>.<table>`, with the version of each
    and the rows that its newest commit wrote."""

    tables: Mapping[str, StudyTable]
    versions: Mapping[str, int]
    rows: int

    @property
    def by_name(self) -> dict[str, int]:
        """Versions by the tables' own names."""
        return {self.tables[name].table.name: version for name, version in self.versions.items()}

    def frames(self, run: Run, columns: Mapping[str, Collection[str]]) -> dict[str, DataFrame]:
        """The tables at their versions: pseudonyms, origin, and of the agreed columns those asked
        for."""
        found = {}
        for name, table in self.tables.items():
            agreed = set(table.dataset.column_names)
            kept = [
                column
                for column in table.table.column_names
                if column not in agreed or column in columns[name]
            ]
            rows = run.lake.read(table.table, version=self.versions[name])
            found[name] = rows.select(*kept)
        return found


def held(run: Run, dula: Dula, contracts: Mapping[str, Contract], names: Collection[str]) -> Held:
    """What the study holds now.

    Raises UsageError when a table was never made, or when the run that wrote it did not come to
    its end: its neighbours may then be of other deliveries.
    """
    again = f"run concord study --agreement {dula.id} first"
    tables = {t.dataset.table: t for t in of_agreement(dula, contracts) if t.dataset.table in names}
    with run.lake.locks.hold(
        [table.table.name for table in tables.values()], wait_seconds=run.lake.lock_wait
    ):
        made = {name: run.lake.made_from(table.table) for name, table in tables.items()}
        versions = {name: run.lake.version(table.table) for name, table in tables.items()}
        states = {
            name: state(run.lake.storage, run.lake.path(t.table)) for name, t in tables.items()
        }
    missing = sorted(name for name, said in made.items() if said is None)
    if missing:
        raise UsageError(f"the study of {dula.id} has no {', '.join(missing)}; {again}")
    terms = digest(dula)
    other = sorted(
        n for n, held in states.items() if held and held.label(AGREEMENT_DIGEST) != terms
    )
    if other:
        raise UsageError(f"the study of {dula.id} has {', '.join(other)} by other terms; {again}")
    log = run.lake.rows(ACCESS_LOG, "agreement", "decision", "run_id")
    ended = {
        row["run_id"] for row in log if (row["agreement"], row["decision"]) == (dula.id, "read")
    }
    if not {said["run_id"] for said in made.values() if said} <= ended:
        raise UsageError(f"the study of {dula.id} was cut short while it was made; {again}")
    return Held(
        tables,
        {name: version for name, version in versions.items() if version is not None},
        sum(int(said.get("rows") or 0) for said in made.values() if said),
    )


def held_at(
    run: Run,
    dula: Dula,
    contracts: Mapping[str, Contract],
    names: Collection[str],
    versions: Mapping[str, int],
) -> Held:
    """What the study held at recorded versions, by the tables' own names.

    Raises UsageError when a version is gone: its files were removed, or the study was destroyed.
    """
    tables = {t.dataset.table: t for t in of_agreement(dula, contracts) if t.dataset.table in names}
    found, rows = {}, 0
    for name, table in tables.items():
        version = versions.get(table.table.name)
        if version is not None:
            try:
                rows += run.lake.read(table.table, version=version).count()
                found[name] = version
                continue
            except Exception as error:
                # Spark's own words can quote a path alone, but are pages long.
                why = type(error).__name__
        else:
            why = "it is not among the recorded ones"
        raise UsageError(
            f"{table.table.name} can't be read at version {version} ({why}): what it was made from "
            "is gone, and it can't be made again"
        )
    return Held(tables, found, rows)


def log_inputs(run: Run, held: Held, store: Store, context: str) -> None:
    """Every table as a dataset input of the active MLflow run: where it is and at which version.

    `mlflow.data.load_delta` would name the same source and read each table row by row to count it.
    """
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    class Source(DeltaDatasetSource):
        """One that tells of version 0 too, which MLflow's own leaves out as if there were none."""

        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "delta_table_version": self.delta_table_version}

    for name, table in held.tables.items():
        version = held.versions[name]
        source = Source(path=run.lake.path(table.table), delta_table_version=version)
        dataset = MetaDataset(  # type: ignore[abstract]  # MLflow itself makes them so
            source, name=table.table.name, digest=runs.digest(table.table.name, version)[:8]
        )
        store.mlflow.log_input(dataset, context=context)
