"""What really is: who each source key is, latent behaviours, planted errors; as Parquet by block.

For tests and evaluation only; it is written outside any lake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from concord.privacy.hashing import Key
from concord.privacy.records import SEPARATOR, record_ids
from concord.synthesis.blocks import Block, Known, agency_numbers
from concord.synthesis.formats import Spoiled
from concord.synthesis.identity import ERRORS
from concord.synthesis.names import GROUPS, vocabulary
from concord.synthesis.people import BLOCK_PEOPLE, LANGUAGES
from concord.synthesis.periods import NEVER
from concord.synthesis.places import places
from concord.synthesis.snap import BEHAVIOURS, INTERIM, OUTCOMES
from concord.synthesis.work import PROGRAMMES


def write_block(
    folder: Path,
    block: Block,
    known: Sequence[tuple[str, Sequence[Known]]],
    spoiled: Sequence[tuple[str, str, Sequence[Spoiled]]],
    planted: Mapping[str, Mapping[str, Any]],
) -> None:
    """One Parquet file a truth table for one block, below `folder`; the feeds bring `planted`."""
    for name, table in {
        "people": people_table(block),
        "records": records_table(block, known),
        "checkins": checkins_table(block),
        "training": training_table(block),
        "training_earnings": training_earnings_table(block),
        "bad_rows": bad_rows_table(spoiled),
        **{name: pa.table(dict(columns)) for name, columns in planted.items()},
    }.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        path = folder / name / f"block-{block.people.block:05d}.parquet"
        pq.write_table(table, path, compression="zstd")


def records(folder: Path, key: Key) -> dict[str, int]:
    """Record id -> true person of every record of a person, from the truth below `folder`.

    `key` is that of the vault which the records were loaded into.
    """
    table = pq.read_table(folder / "records", columns=["feed", "role", "source_key", "person_id"])
    table = table.filter(pc.is_valid(table["person_id"]))
    known: dict[str, int] = {}
    for group in table.group_by(["feed", "role"]).aggregate([]).to_pylist():
        mine = table.filter(
            pc.and_(pc.equal(table["feed"], group["feed"]), pc.equal(table["role"], group["role"]))
        )
        keys = [text.replace("|", SEPARATOR) for text in mine["source_key"].to_pylist()]
        ids = record_ids(key, feed=group["feed"], role=group["role"], source_keys=keys)
        known.update(zip(ids, mine["person_id"].to_pylist(), strict=True))
    return known


def _ids(block: Block, index: np.ndarray) -> pa.Array:
    """Person ids, null where the index is -1."""
    return pa.array(block.people.pid[np.maximum(index, 0)], mask=index < 0)


def _days(values: np.ndarray) -> pa.Array:
    hidden = np.abs(values) >= NEVER
    return pa.array(np.where(hidden, 0, values).astype(np.int32), mask=hidden).cast(pa.date32())


def _labels(labels: Sequence[str], index: np.ndarray) -> pa.Array:
    return pa.array(labels).take(pa.array(index))


def people_table(block: Block) -> pa.Table:
    people, words, atlas = block.people, vocabulary(), places()
    zips = people.address_zip[people.address[:, 1]]
    return pa.table(
        {
            "person_id": people.pid,
            "household_id": people.block * BLOCK_PEOPLE + people.household,
            "given_name": pa.array(words.first[people.first]),
            "family_name": pa.array(words.last[people.last]),
            "former_family_name": pa.array(words.last[people.last_before]),
            "renamed_on": _days(people.renamed_on),
            "birth_date": _days(people.birth),
            "death_date": _days(people.death),
            "sex": _labels(["F", "M"], people.sex),
            "group": _labels(GROUPS, people.group),
            "language": _labels(LANGUAGES, people.language),
            "foreign_born": people.foreign_born,
            "homeless": people.homeless,
            "disabled": people.disabled,
            "municipality": pa.array(atlas.town_name[atlas.zip_town[zips]]),
            "zip": pa.array(atlas.zip_code[zips]),
            "ssn": pa.array(np.char.mod("%09d", people.ssn).astype(object)),
            "suffix": _labels(["", "Jr", "Sr"], people.suffix),
            "mother_id": _ids(block, people.mother),
            "father_id": _ids(block, people.father),
            "spouse_id": _ids(block, people.spouse),
            "twin_id": _ids(block, people.twin),
            "moved_on": _days(people.moved[:, 1]),
            "difficulty": people.difficulty,
        }
    )


def records_table(block: Block, known: Sequence[tuple[str, Sequence[Known]]]) -> pa.Table:
    """feed, role, source_key -> person_id (null for cases and the like), planted errors."""
    parts = []
    for feed, subjects in known:
        for subject in subjects:
            n = len(subject.source_key)
            words = {0: ""}
            for value in np.unique(subject.errors).tolist():
                words[value] = ",".join(e for i, e in enumerate(ERRORS) if value >> i & 1)
            distinct, index = np.unique(subject.errors, return_inverse=True)
            texts = pa.array([words[v] for v in distinct.tolist()], pa.string())
            parts.append(
                pa.table(
                    {
                        "feed": pa.array([feed]).take(pa.array(np.zeros(n, dtype=np.int8))),
                        "role": pa.array([subject.role]).take(pa.array(np.zeros(n, dtype=np.int8))),
                        "source_key": pa.array(subject.source_key, pa.string()),
                        "person_id": _ids(block, subject.person).cast(pa.int64()),
                        "errors": texts.take(pa.array(index)),
                    }
                )
            )
    return pa.concat_tables(parts)


def checkins_table(block: Block) -> pa.Table:
    """Each check-in with its latent behaviour; those of the warm-up months are left out."""
    checkins, cases = block.snap.checkins, block.snap.cases
    of = np.flatnonzero((checkins.month >= 0) & (checkins.month < block.timeline.months))
    case = checkins.case[of]
    home = block.people.block * BLOCK_PEOPLE + cases.home[case]
    seed = block.people.seed
    return pa.table(
        {
            "checkin_id": pa.array(
                agency_numbers(seed, "dta checkin", home * 600 + checkins.month[of] + 100, 12)
            ),
            "case_id": pa.array(agency_numbers(seed, "dta case", home, 9)),
            "kind": _labels(
                ["interim_report", "recertification"], (checkins.kind[of] != INTERIM).astype(int)
            ),
            "due_on": _days(checkins.due[of]),
            "behaviour": _labels(BEHAVIOURS, checkins.behaviour[of]),
            "outcome": _labels(OUTCOMES, checkins.outcome[of]),
            "back_on": _days(checkins.back[of]),
            "children_under_6": cases.children_under_6[case],
            "hispanic": cases.hispanic[case],
        }
    )


def training_table(block: Block) -> pa.Table:
    """Each episode with the true effect on log earnings from the quarter after exit."""
    training = block.work.training
    effect = np.array([p.effect for p in PROGRAMMES])[training.programme]
    return pa.table(
        {
            "person_id": block.people.pid[training.person],
            "programme": _labels([p.code for p in PROGRAMMES], training.programme),
            "entry_on": _days(training.entry),
            "exit_on": _days(training.exit),
            "completed": training.completed,
            "prior_quarter_earnings": training.prior_earnings,
            "true_effect": np.where(training.completed, effect, effect / 2),
        }
    )


def training_earnings_table(block: Block) -> pa.Table:
    """Of everyone who was ever trained, from the quarter of the first entry on: what was earned in
    the quarter, and what would have been without any training, in cents."""
    work, quarters = block.work, block.timeline.quarters
    person, episode = np.unique(work.training.person, return_index=True)
    first = np.searchsorted([q.first for q in quarters], work.training.entry[episode], "right") - 1
    which, quarter = np.nonzero(np.arange(len(quarters)) >= first[:, None])
    row = work.row[person[which]]
    return pa.table(
        {
            "person_id": block.people.pid[person[which]],
            "quarter": _labels([q.name.replace("-", "") for q in quarters], quarter),
            "earnings": work.earnings[row, quarter],
            "untrained_earnings": work.untrained[row, quarter],
        }
    )


def bad_rows_table(spoiled: Sequence[tuple[str, str, Sequence[Spoiled]]]) -> pa.Table:
    rows = [
        {"feed": feed, "table": table, "key": bad.key, "column": bad.column, "error": bad.error}
        for feed, table, found in spoiled
        for bad in found
    ]
    fields = [(name, pa.string()) for name in ("feed", "table", "key", "column", "error")]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))
