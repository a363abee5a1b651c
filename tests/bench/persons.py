"""Records of invented people for the linkage benchmark: any number, several a person, with errors.

Names by the frequencies of the 1990 Census (package `names`), everything else drawn. A record
errs in one of the ways that files do: a letter, a nickname-like cut, a changed surname, a moved
household, a swapped day and month, a digit of the SSN, a missing value.
"""

from __future__ import annotations

from pathlib import Path

import names
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BLOCK = 500_000  # records drawn and written at a time
A_PERSON = 2.5  # records, on average
LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
STREETS = ("ST", "AVE", "RD", "DR", "LN", "CT")
Texts = npt.NDArray[np.object_]
# Shares of records with an error of the kind, or without a value.
LETTER, CUT, MARRIED, MOVED, SWAPPED, DAY, DIGIT = 0.04, 0.02, 0.05, 0.15, 0.01, 0.02, 0.01
NO_SSN, NO_ZIP, NO_BIRTH = 0.35, 0.02, 0.02


def write_persons(path: Path, records: int, *, seed: int = 1) -> None:
    """A Parquet file of `unique_id` (bigint, from 0, in no order of persons), `first_name`,
    `surname`, `dob` (YYYY-MM-DD), `ssn`, `street`, `zip` and the truth, `person` (bigint)."""
    first, last = (_frequencies(name) for name in ("dist.all.first", "dist.all.last"))
    schema = pa.schema(
        [("unique_id", pa.int64())]
        + [(name, pa.string()) for name in ("first_name", "surname", "dob", "ssn", "street", "zip")]
        + [("person", pa.int64())]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        for begin in range(0, records, BLOCK):
            rng = np.random.default_rng([seed, begin])
            here = min(BLOCK, records - begin)
            writer.write_table(_block(rng, begin, here, first, last).cast(schema))


def write_skewed(source: Path, path: Path, share: float, *, seed: int = 1) -> None:
    """The same records, a share of them under one name and birth date: a form's default values."""
    rows = pq.read_table(source)
    chosen = np.random.default_rng(seed).random(rows.num_rows) < share
    for name, value in {"first_name": "JOHN", "surname": "SMITH", "dob": "1980-01-01"}.items():
        column = pc.if_else(pa.array(chosen), pa.scalar(value), rows[name].combine_chunks())
        rows = rows.set_column(rows.column_names.index(name), name, column)
    # As those that it is held against lie: row groups decide how fast they are read.
    pq.write_table(rows, path, row_group_size=BLOCK)


def _block(
    rng: np.random.Generator,
    begin: int,
    records: int,
    first: tuple[Texts, npt.NDArray[np.float64]],
    last: tuple[Texts, npt.NDArray[np.float64]],
) -> pa.Table:
    people = max(1, int(records / A_PERSON))
    who = np.sort(rng.integers(0, people, records))
    given, family = rng.choice(first[0], people, p=first[1]), rng.choice(last[0], people, p=last[1])
    second = rng.choice(last[0], people, p=last[1])
    born = rng.integers(-14_000, 19_500, people).astype("datetime64[D]")
    ssn = np.char.add(
        rng.integers(100, 665, people).astype(str),
        np.char.zfill(rng.integers(1_0001, 99_9999, people).astype(str), 6),
    ).astype(object)
    homes = [_homes(rng, people) for _ in range(2)]
    name, surname = given[who], family[who]
    married = rng.random(records) < MARRIED
    surname[married] = second[who[married]]
    for texts in (name, surname):
        _misspell(rng, texts, LETTER)
    cut = np.flatnonzero(rng.random(records) < CUT)
    name[cut] = [text[:1] for text in name[cut]]
    number = ssn[who]
    _redigit(rng, number, DIGIT)
    number[rng.random(records) < NO_SSN] = None
    moved = rng.random(records) < MOVED
    street = np.where(moved, homes[1][0][who], homes[0][0][who]).astype(object)
    _misspell(rng, street, LETTER)
    code = np.where(moved, homes[1][1][who], homes[0][1][who]).astype(object)
    code[rng.random(records) < NO_ZIP] = None
    dates = _dates(rng, born[who])
    dates[rng.random(records) < NO_BIRTH] = None
    order = rng.permutation(records)
    columns = [name, surname, dates, number, street, code, who + begin]
    return pa.table(
        [pa.array(np.arange(records) + begin), *[pa.array(column[order]) for column in columns]],
        names=["unique_id", "first_name", "surname", "dob", "ssn", "street", "zip", "person"],
    )


def _homes(rng: np.random.Generator, people: int) -> tuple[Texts, Texts]:
    """Streets and ZIP codes; three people share one, more or less."""
    homes = max(1, people // 3)
    last, weights = _frequencies("dist.all.last")
    roads = rng.choice(last[:3_000], homes, p=weights[:3_000] / weights[:3_000].sum())
    lines = [
        f"{number} {road} {kind}"
        for number, road, kind in zip(
            rng.integers(1, 400, homes).tolist(),
            roads,
            rng.choice(np.array(STREETS, dtype=object), homes),
            strict=True,
        )
    ]
    codes = [f"{code:05d}" for code in rng.integers(1_001, 1_500, homes).tolist()]
    of = rng.integers(0, homes, people)
    return np.array(lines, dtype=object)[of], np.array(codes, dtype=object)[of]


def _misspell(rng: np.random.Generator, texts: Texts, share: float) -> None:
    for place in np.flatnonzero(rng.random(len(texts)) < share).tolist():
        text = texts[place]
        at = int(rng.integers(0, len(text)))
        kind = int(rng.integers(0, 3))
        letter = str(LETTERS[rng.integers(0, 26)])
        if kind == 0 and len(text) > 2:
            texts[place] = text[:at] + text[at + 1 :]
        elif kind == 1:
            texts[place] = text[:at] + letter + text[at + 1 :]
        else:
            texts[place] = text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]


def _redigit(rng: np.random.Generator, texts: Texts, share: float) -> None:
    for place in np.flatnonzero(rng.random(len(texts)) < share).tolist():
        at = int(rng.integers(3, 9))
        texts[place] = texts[place][:at] + str(rng.integers(0, 10)) + texts[place][at + 1 :]


def _dates(rng: np.random.Generator, born: npt.NDArray[np.datetime64]) -> Texts:
    wrong = rng.random(len(born)) < DAY
    shifted = np.where(wrong, born + rng.integers(-40, 41, len(born)), born)
    texts = shifted.astype("datetime64[D]").astype(str).astype(object)
    for place in np.flatnonzero(rng.random(len(born)) < SWAPPED).tolist():
        year, month, day = texts[place].split("-")
        if int(day) <= 12:
            texts[place] = f"{year}-{day}-{month}"
    return texts


def _frequencies(of: str) -> tuple[Texts, npt.NDArray[np.float64]]:
    """Names and their shares among people who have one of them."""
    kinds = ("dist.male.first", "dist.female.first") if of == "dist.all.first" else (of,)
    found: dict[str, float] = {}
    for kind in kinds:
        for line in (Path(names.__file__).parent / kind).read_text().splitlines():
            name, share, *_ = line.split()
            found[name.upper()] = found.get(name.upper(), 0.0) + float(share) + 1e-5
    weights = np.array(list(found.values()))
    return np.array(list(found), dtype=object), weights / weights.sum()
