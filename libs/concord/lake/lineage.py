"""Where a table comes from: the run that wrote it, what that run read, and so on to deliveries.

Told by each table's own log and by the two ledgers, never guessed from names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from concord.errors import UsageError
from concord.lake.log import commits, decoded, is_table
from concord.lake.registry import DELIVERIES, RUNS
from concord.lake.tables import Lake

# A table is rewritten far less often than this between two of a job's own commits.
COMMITS = 200


@dataclass(frozen=True)
class Delivery:
    """One delivery of which a table holds rows."""

    feed: str
    folder: str
    sequence: int
    contract_version: str


@dataclass(frozen=True)
class Origin:
    """A table's newest version, who wrote it under which agreements, and from what.

    `deliveries` are those that wrote to the table and were not withdrawn; `sources` the tables that
    the run read. A table that comes twice is told in full once.
    """

    table: str
    version: int
    run_id: str
    job: str
    actor: str
    as_of: str
    agreements: tuple[str, ...]
    deliveries: tuple[Delivery, ...] = ()
    sources: tuple[Origin, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def lineage(lake: Lake, name: str) -> Origin:
    """The origin of the table `name` (`<zone>/<rest>`). Raises UsageError if it is not there."""
    if not is_table(lake.storage, lake.path(name)):
        raise UsageError(f"there is no table {name!r} in {lake.root}; see concord catalog")
    runs = {
        row["run_id"]: row
        for row in sorted(
            (row for row in lake.rows(RUNS) if row["state"] == "ended"),
            key=lambda row: row["ended_at"],
        )
    }
    delivered: dict[str, list[Delivery]] = {}
    for row in sorted(lake.rows(DELIVERIES), key=lambda row: (row["feed"], row["event"])):
        known = Delivery(
            row["feed"], row["folder"], row["agency_sequence"] or 0, row["contract_version"] or ""
        )
        for item in row["versions"] or ():
            held = delivered.setdefault(item["table"], [])
            held[:] = [d for d in held if (d.feed, d.folder) != (known.feed, known.folder)]
            if row["status"] == "loaded" and row["kind"] == "delivery":
                held.append(known)
    return _origin(lake, name, runs, delivered, set())


def _origin(
    lake: Lake,
    name: str,
    runs: Mapping[str, Mapping[str, Any]],
    delivered: Mapping[str, Sequence[Delivery]],
    told: set[str],
) -> Origin:
    told.add(name)
    said: dict[str, Any] = {}
    version = 0
    for commit in islice(commits(lake.storage, lake.path(name)), COMMITS):
        version = max(version, commit.version)
        said = decoded(commit.note)
        if said.get("run_id"):
            break
    run = runs.get(said.get("run_id", ""), {})
    read = [item["table"] for item in run.get("read_versions") or ()]
    return Origin(
        name,
        version,
        said.get("run_id", ""),
        said.get("job", ""),
        run.get("actor") or "",
        str(run.get("as_of") or ""),
        tuple(said.get("agreements") or ()),
        tuple(delivered.get(name, ())),
        tuple(
            _origin(lake, source, runs, delivered, told)
            for source in sorted(set(read))
            if source not in told and is_table(lake.storage, lake.path(source))
        ),
    )
