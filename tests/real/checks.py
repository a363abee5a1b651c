"""What a lake holds of one feed, and what must be true of it. Read by Polars, without Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from concord.contracts.model import Contract
from concord.errors import ConcordError
from concord.linkage.quality import Agreement, b_cubed, pairwise
from concord.privacy.hashing import Key
from concord.privacy.records import SEPARATOR, record_ids

# A curated column that repeats an identifier of its own row's person in more of the rows holds it.
# A few may agree by chance: a street that bears one's name.
BY_CHANCE = 0.01
# What the index must reach here: no weight of its model was fitted to this town.
PRECISION, RECALL = 0.99, 0.95


@dataclass(frozen=True)
class Check:
    """One statement, whether it holds, and what was seen; never a value of a row."""

    name: str
    holds: bool
    seen: str


@dataclass(frozen=True)
class Broken:
    """A rule that rows of a delivery broke, and how many."""

    rule: str
    column: str
    severity: str
    rows: int


@dataclass(frozen=True)
class Loaded:
    """One feed of one table: the ledger's last word, the tables, the truth."""

    feed: str
    status: str
    declared: int
    violations: tuple[Broken, ...]
    curated: pl.DataFrame
    vault: pl.DataFrame
    quarantined: int
    truth: pl.DataFrame
    subjects: dict[str, str]  # role of each person -> column of its record id
    direct: dict[str, tuple[str, ...]]  # role -> standard identifiers that are direct


def read(folder: Path, contract: Contract) -> Loaded:
    """Raises ConcordError when the feed's delivery never came as far as the lake."""
    lake, feed = folder / "lake", contract.feed
    table = contract.tables[0]
    events = pl.read_delta(f"{lake}/ops/deliveries").filter(pl.col("feed") == feed).sort("event")
    if events.is_empty():
        raise ConcordError(f"{lake} knows no delivery of {feed}: ingest says above why")
    last = events.tail(1).to_dicts()[0]
    roles = {field.name: field.identifier_role for field in table.fields}
    people = [subject for subject in table.subjects if subject.identifiers is not None]
    direct = {
        subject.role: tuple(
            name
            for name, column in (subject.identifiers or {}).items()
            if isinstance(column, str) and roles[column] == "direct"
        )
        for subject in people
    }
    return Loaded(
        feed,
        last["status"],
        sum(file["declared_rows"] for file in last["files"]),
        tuple(Broken(**broken) for broken in last["violations"] or ()),
        pl.read_delta(f"{lake}/curated/{feed}_{table.name}"),
        pl.read_delta(f"{lake}/vault/identifiers_{feed}"),
        pl.scan_delta(f"{lake}/vault/quarantine_{feed}").select(pl.len()).collect().item(),
        pl.read_csv(folder / "truth" / f"{feed}.csv", infer_schema=False),
        {subject.role: subject.record_id for subject in people},
        direct,
    )


def checks_of(loaded: Loaded, generated: int) -> list[Check]:
    """Every check of one feed; `generated` rows came out of pseudopeople."""
    feed, curated, vault = loaded.feed, loaded.curated, loaded.vault
    arrived = curated.height + loaded.quarantined
    found = [
        Check(
            f"{feed}: loaded + quarantined = generated",
            arrived == generated == loaded.declared,
            f"{curated.height:,} + {loaded.quarantined:,} = {arrived:,}, {generated:,} generated",
        )
    ]
    rows = vault.select("record_id", "role", "source_table", "source_row").n_unique()
    wanted = sum(curated[column].is_not_null().sum() for column in loaded.subjects.values())
    found.append(
        Check(
            f"{feed}: one vault record per subject of a row",
            rows == vault.height == wanted,
            f"{vault.height:,} records, {rows:,} different, {wanted:,} subjects",
        )
    )
    repeated = repeats(loaded)
    worst = max(repeated, key=lambda pair: repeated[pair], default=("", ""))
    share = repeated.get(worst, 0.0)
    found.append(
        Check(
            f"{feed}: no curated column holds a direct identifier",
            bool(repeated) and share <= BY_CHANCE,
            f"{len(repeated)} pairs compared, at most {share:.2%} of rows agree"
            + (f" ({worst[0]} with {worst[1]})" if share else ""),
        )
    )
    known = vault.select("role", "source_key").unique()
    answers = known.join(loaded.truth, on=["role", "source_key"], how="inner")
    found.append(
        Check(
            f"{feed}: the truth knows each record's person, once",
            answers.height == known.height,
            f"{known.height:,} source keys, {answers.height:,} answers, "
            f"{answers['simulant_id'].n_unique():,} people",
        )
    )
    return found


def repeats(loaded: Loaded) -> dict[tuple[str, str], float]:
    """(curated column, identifier) -> share of rows in which both say the same, as text."""
    shares: dict[tuple[str, str], float] = {}
    for role, record_id in loaded.subjects.items():
        of_role = loaded.vault.filter(pl.col("role") == role)
        names = ["source_key", *loaded.direct[role]]
        people = of_role.unique("record_id").select(
            pl.col("record_id").alias(record_id),
            *[pl.col(name).cast(pl.String).alias(f"vault:{name}") for name in names],
        )
        both = loaded.curated.join(people, on=record_id, how="inner")
        for column in loaded.curated.columns:
            if column.startswith("_") or column == record_id:
                continue
            text = pl.col(column).cast(pl.String)
            same = both.select(
                **{name: (text == pl.col(f"vault:{name}")).sum() for name in names}
            ).to_dicts()[0]
            for name, rows in same.items():
                shares[column, name] = rows / max(1, both.height)
    return shares


def persons(truth: Mapping[str, pl.DataFrame], key: Key) -> dict[str, tuple[str, str]]:
    """Record id -> its feed and whose record it is. `truth`: what each feed's file of it says."""
    known: dict[str, tuple[str, str]] = {}
    for feed, of in truth.items():
        for role, rows in of.group_by("role"):
            sources = [text.replace("|", SEPARATOR) for text in rows["source_key"].to_list()]
            ids = record_ids(key, feed=feed, role=str(role[0]), source_keys=sources)
            people = [(feed, person) for person in rows["simulant_id"].to_list()]
            known.update(zip(ids, people, strict=True))
    return known


def judge(folder: Path, loaded: dict[str, Loaded], key: Key) -> dict[str, Agreement]:
    """The index against the truth: over all records, and between each two feeds.

    Within a feed hardly anyone stands twice, so the pairs of two feeds are what linkage is about.
    """
    known = persons({feed: of.truth for feed, of in loaded.items()}, key)
    held = pl.read_delta(f"{folder}/lake/index/crosswalk").filter(pl.col("valid_to").is_null())
    rows = [
        (*known[record], person)
        for record, person in held.select("record_id", "person_id").iter_rows()
        if record in known
    ]
    found = [person for _, _, person in rows]
    truth = [true for _, true, _ in rows]
    result = {"all records": pairwise(found, truth), "B-cubed": b_cubed(found, truth)}
    feeds = sorted(loaded)
    for place, one in enumerate(feeds):
        for other in feeds[place + 1 :]:
            result[f"{one} with {other}"] = between(rows, one, other)
    return result


def between(rows: list[tuple[str, str, str]], one: str, other: str) -> Agreement:
    """Pairs of a record of each of two feeds; `rows`: feed, true person, person id."""

    def pairs(column: tuple[int, ...]) -> int:
        counts: dict[object, list[int]] = {}
        for row in rows:
            if row[0] in (one, other):
                place = counts.setdefault(tuple(row[c] for c in column), [0, 0])
                place[row[0] == other] += 1
        return sum(a * b for a, b in counts.values())

    both, said, true = pairs((1, 2)), pairs((2,)), pairs((1,))
    return Agreement(both / said if said else 1.0, both / true if true else 1.0)


def quality_checks(judged: dict[str, Agreement]) -> list[Check]:
    """What must hold of the whole; the feeds' pairs are told besides."""
    found = []
    for name, of in judged.items():
        holds = name != "all records" or (of.precision >= PRECISION and of.recall >= RECALL)
        seen = f"precision {of.precision:.4f}, recall {of.recall:.4f}"
        found.append(Check(f"index: {name}", holds, seen))
    return found
