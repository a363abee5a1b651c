"""The rotation of an agreement's key: its study under new pseudonyms, with a mapping in the vault.

Decided (and logged) → a key of the next version made → which pseudonym becomes which written to
`vault/rotated/<dula>` → the lake told that the study has the new key → the study's tables made
anew by the `study` job → tables that other jobs wrote into the study (scores) given the new
pseudonyms → the old key erased. A rotation that was killed is finished by the next run, before
another can begin: two versions of the key say that one is under way.

Old versions of the tables keep the old pseudonyms until their retention has passed and upkeep
removes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import reduce

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.agreements import access_log
from concord.agreements.dula import Dula
from concord.agreements.labels import study_labels
from concord.agreements.meet import meet
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import ConcordError, InfrastructureError
from concord.lake.log import is_table
from concord.lake.points import reach
from concord.lake.registry import Registry, Table
from concord.lake.run import Run
from concord.lake.storage import join
from concord.lake.tables import Lake, described
from concord.lake.writes import Overwrite, ReplaceWhere, Transaction
from concord.linkage.tables import CROSSWALK
from concord.privacy import wrapping
from concord.privacy.wrapping import WrappedKey
from concord.studies import job, tables
from concord.studies.frames import spoken_of
from concord.studies.keys import study_key, turn_to

PSEUDONYM_COLUMN = re.compile(r"study_\w+_id")
OLD, NEW = "old_pseudonym", "new_pseudonym"


def rotate(
    run: Run,
    contracts: Mapping[str, Contract],
    register: Register,
    registry: Registry,
    *,
    agreement: str,
) -> int:
    """Gives the agreement's study a new key. Returns the key's version.

    Raises RefusedError (14) where the agreement does not hold or its key is disabled, UsageError
    where there is no study, ConfigError (keys), LockedError and InfrastructureError as they come.
    """
    standing = register.standing(agreement, run.clock().date())
    if standing is None:
        raise register.unknown(agreement)
    decision = access_log.ask(run, register, job.study_request(run, standing.terms))
    dula, lake, keys = decision.terms, run.lake, run.settings.keys
    mapping = tables.rotated_table(dula)
    with lake.locks.hold([mapping.name]):
        present = study_key(lake, keys, agreement)
        found = wrapping.versions(keys, agreement)
        if run.dry_run:
            under_way = (
                f"finish the rotation to version {max(found)}" if len(found) > 1 else "begin"
            )
            run.reporter.say(f"{agreement}: key version {present.version}; would {under_way}")
            return present.version
        if len(found) == 1:
            following = present.version + 1
            new = wrapping.agreement_key(keys, agreement, version=following, create=True)
        else:
            new = wrapping.agreement_key(keys, agreement, version=max(found))
        reach("rotate.keyed")
        if present.version != new.version:
            _turn(run, contracts, dula, mapping, present, new)
        reach("rotate.turned")
        _made_anew(run, contracts, register, agreement)
        for table in _of_other_jobs(lake, registry, dula):
            _replaced(run, table, mapping, new.version)
            reach(f"rotate.wrote.{table.name}")
        for version in wrapping.versions(keys, agreement):
            if version != new.version:
                wrapping.erase(keys, agreement, version)
        reach("rotate.erased")
    run.reporter.say(f"{agreement}: its study has key version {new.version}", agreement=agreement)
    return new.version


def _turn(
    run: Run,
    contracts: Mapping[str, Contract],
    dula: Dula,
    mapping: Table,
    old: WrappedKey,
    new: WrappedKey,
) -> None:
    """Writes which pseudonym becomes which, then lets the lake name the new key."""
    lake = run.lake
    pairs = [*_pairs(lake, contracts, dula, old, new)]
    if pairs:
        rows = reduce(DataFrame.unionByName, pairs).distinct()
        before = lake.version(mapping)
        _written(
            run,
            rows.withColumn("to_version", F.lit(new.version)),
            mapping,
            ReplaceWhere({"to_version": (new.version,)}),
            Transaction(f"rotate/{mapping.name}", 0 if before is None else before + 1),
            _labels(dula),
        )
    reach("rotate.mapped")
    turn_to(lake, new)


def _pairs(
    lake: Lake,
    contracts: Mapping[str, Contract],
    dula: Dula,
    old: WrappedKey,
    new: WrappedKey,
) -> Iterator[DataFrame]:
    known = lake.read(CROSSWALK).select("record_id", "person_id")
    for study in tables.of_agreement(dula, contracts):
        for spoken in spoken_of(lake.read(study.curated), known, study):
            made = spoken.rows.select(
                F.lit(spoken.what).alias("stands_for"),
                spoken.pseudonym(old).alias(OLD),
                spoken.pseudonym(new).alias(NEW),
            )
            yield made.where(F.col(OLD).isNotNull())


def _made_anew(
    run: Run, contracts: Mapping[str, Contract], register: Register, agreement: str
) -> None:
    (outcome,) = job.study(run, contracts, register, agreements=[agreement])
    if outcome.exit_code:
        raise ConcordError(
            f"{agreement}: the rotation waits half-way, for its study was not made: "
            f"{outcome.message}. Mend that, then run this again"
        )


def _of_other_jobs(lake: Lake, registry: Registry, dula: Dula) -> list[Table]:
    """Declared tables with pseudonyms in the study's folder that the study job does not make."""
    folder = tables.folder(dula)
    found = []
    for entry in lake.storage.list(lake.path(folder)):
        name = join(folder, entry.name)
        if not entry.is_folder or not is_table(lake.storage, lake.path(name)):
            continue
        if tables.SOURCE in lake.properties(name) or name not in registry:
            continue
        if any(map(PSEUDONYM_COLUMN.fullmatch, registry[name].column_names)):
            found.append(registry[name])
    return found


def _replaced(run: Run, table: Table, mapping: Table, version: int) -> None:
    """The table with each old pseudonym replaced, its labels kept."""
    lake = run.lake
    with lake.locks.hold([table.name]):
        rows, pairs = lake.read(table), lake.read(mapping).where(F.col("to_version") == version)
        pairs = pairs.select(OLD, NEW).distinct()
        for column in filter(PSEUDONYM_COLUMN.fullmatch, table.column_names):
            joined = rows.join(pairs, rows[column] == pairs[OLD], "left")
            rows = joined.withColumn(column, F.coalesce(NEW, column)).drop(OLD, NEW)
        before = lake.version(table) or 0
        labels = {
            name: value
            for name, value in lake.properties(table.name).items()
            if name.startswith("concord.")
        }
        transaction = Transaction(f"rotate/{table.name}", before + 1)
        _written(run, rows, table, Overwrite(), transaction, labels)


def _written(
    run: Run,
    rows: DataFrame,
    table: Table,
    how: Overwrite | ReplaceWhere,
    transaction: Transaction,
    labels: Mapping[str, str],
) -> None:
    agreements = tuple(labels["concord.agreements"].split(","))
    stamp = replace(run.stamp, agreements=agreements)
    try:
        done = run.lake.write(rows, table, how, stamp=stamp, transaction=transaction, labels=labels)
    except (PySparkException, Py4JError) as error:
        raise InfrastructureError(
            f"{table.name}: Spark failed: {described(error)}; run this again"
        ) from None
    run.tally.note([done])


def _labels(dula: Dula) -> dict[str, str]:
    return study_labels(
        meet([dula]),
        owner="data office",
        classifications=["confidential"],
        expires=dula.term.expires,
    )
