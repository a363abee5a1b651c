"""The review queue: which pairs are looked at, how they are chosen, what of them is told."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from concord.linkage import doubts, tables
from concord.linkage.person_index import PersonIndex
from concord.linkage.review import Review, in_turn, queue, side_by_side
from concord.linkage.review_page import concerned, page
from concord.linkage.standardise import STANDARD

DAY = date(2025, 5, 1)
REVIEW = Review(band=6, margin=3, per_stratum=100)
# A level for each weight, so that a test says how many bits a pair weighs; the edge is at 24.
BITS = range(1, 61)
MODEL = PersonIndex.model_validate(
    {
        "people": 2**20 + 1,
        "blocking": [{"name": "all", "on": ["family"]}],
        "comparisons": {
            "bits": {
                "column": "given",
                "levels": {f"b{n}": {"test": "same", "m": 0.5, "u": 0.5 / 2**n} for n in BITS},
            },
            "twins": {
                "column": "ssn",
                "levels": {
                    "yes": {"test": "known", "m": 0.5, "u": 0.5},
                    "no": {"m": 0.5, "u": 0.5},
                },
            },
        },
        "never": [{"why": "Twins share much", "when": {"twins": ["yes"]}}],
        "link_weight": 22,
        "cluster_weight": 24,
        "absent_weight": 15,
        "component_limit": 100,
    }
)
FEEDS = {"s": "snap", "w": "wages", "x": "wic"}
Row = Mapping[str, Any]


def pairs(text: str) -> pa.Table:
    """`s1 w1 30` is a pair of 30 bits; with ! it never links."""
    rows = [line.split() for line in text.replace(",", "\n").splitlines() if line.strip()]
    made = []
    for left, right, bits in rows:
        twins = {"twins": "yes"} if bits.endswith("!") else {}
        pattern = MODEL.pattern(bits=f"b{bits.rstrip('!')}", **twins)
        made.append((*sorted((left, right)), pattern, "all"))
    columns = list(zip(*made, strict=True)) or [[], [], [], []]
    names = ("left_record_id", "right_record_id", "pattern", "rule")
    kinds = (pa.string(), pa.string(), pa.int64(), pa.string())
    return pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names)


def clusters(text: str, alone: Mapping[str, int] | None = None) -> pa.Table:
    """`s1 w1 | s2`: persons, by their records, of which the letter tells the feed."""
    rows = [(r, n) for n, some in enumerate(text.split("|")) for r in some.split()]
    columns = {
        "record_id": pa.array([record for record, _ in rows], pa.string()),
        "feed": pa.array([FEEDS[record[0]] for record, _ in rows], pa.string()),
        "person_id": pa.array([f"person {number}" for _, number in rows], pa.string()),
    }
    if alone is not None:
        columns["alone"] = pa.array([alone.get(record) for record, _ in rows], pa.int64())
    return pa.table(columns)


def records(*rows: Row) -> pa.Table:
    """Rows of linkage_records; `id` and what is said."""
    whole = [{"record_id": row["id"], **{name: row.get(name) for name in STANDARD}} for row in rows]
    return pa.Table.from_pylist(whole, pa.schema([("record_id", pa.string()), *STANDARD.items()]))


def placed(pairs: pa.Table, people: pa.Table) -> pa.Table:
    """The pairs' records by their places among all."""
    ids = sorted(people["record_id"].to_pylist())
    ends = {
        end: pa.array([ids.index(one) for one in pairs[f"{end}_record_id"].to_pylist()], pa.int64())
        for end in ("left", "right")
    }
    return pa.table({**ends, "pattern": pairs["pattern"], "rule": pairs["rule"]})


def made(candidates: str, persons: str, *rows: Row, **changes: Any) -> list[dict[str, Any]]:
    given = {"model": MODEL, "review": REVIEW, "decided": (), "run_id": "r", "as_of": DAY}
    alone = changes.pop("alone", None)
    people = clusters(persons, alone)
    found = queue(placed(pairs(candidates), people), people, records(*rows), **{**given, **changes})
    rows_: list[dict[str, Any]] = found.to_pylist()
    return rows_


def told(rows: Sequence[Row]) -> set[tuple[str, str, str]]:
    return {(row["kind"], row["left_record_id"], row["right_record_id"]) for row in rows}


def test_pairs_near_the_edge_are_in_doubt_whether_they_made_a_person_or_not() -> None:
    rows = made(
        "s1 w1 25, s2 w2 23, s3 w3 17, s4 w4 30, s5 w5 18, s6 w6 40, s7 w7 40",
        "s1 w1 | s2 | w2 | s3 | w3 | s4 w4 | s5 | w5 | s6 w6 | s7 | w7",
    )
    assert told(rows) == {
        ("weak_link", "s1", "w1"),
        ("near_link", "s2", "w2"),
        ("near_link", "s5", "w5"),
        # Over the edge, and yet two persons.
        ("near_link", "s7", "w7"),
    }
    (near,) = (row for row in rows if row["left_record_id"] == "s2")
    assert near["weight"] == 23
    assert near["probability"] == pytest.approx(1 / (1 + 2**-3))
    assert near["why"] == "Two persons by the index; the pair is 1.0 bits under the edge."
    assert near["record_ids"] == ["s2", "w2"]
    assert (near["left_feed"], near["right_feed"], near["rule"]) == ("snap", "wages", "all")
    assert (near["run_id"], near["as_of"], near["model_version"]) == ("r", DAY, MODEL.model_version)


def test_pairs_that_never_link_but_would_are_shown_with_the_reason() -> None:
    (row,) = made("s1 w1 35!, s2 w2 21!", "s1 | w1 | s2 | w2")
    assert told([row]) == {("ruled_out", "s1", "w1")}
    assert (row["weight"], row["probability"]) == (35, 0)
    assert "Twins share much" in row["why"]


def rivals(candidates: str, persons: str) -> dict[tuple[str, str], Row]:
    return {
        (row["left_record_id"], row["right_record_id"]): row
        for row in made(candidates, persons)
        if row["kind"] == "rival"
    }


def test_two_persons_of_one_feed_that_are_close_for_a_record_are_rivals() -> None:
    persons = "s1 w1 | w2 w3 | s4 w4 | w5"
    found = rivals("s1 w1 35, s1 w2 33, s1 w3 32, s4 w4 45, s4 w5 35", persons)
    assert {*found} == {("s1", "w2")}
    assert found["s1", "w2"]["record_ids"] == ["s1", "w1", "w2", "w3"]
    assert "2.0 bits lie between" in found["s1", "w2"]["why"]
    # Both are other persons: the better one is asked about, the other is concerned.
    found = rivals("s1 w1 35, s1 w2 34", "s1 | w1 | w2")
    assert {*found} == {("s1", "w1")}
    assert found["s1", "w1"]["record_ids"] == ["s1", "w1", "w2"]
    # Of two feeds there may be one each; what is far from any person is none of the record's, and
    # what never links is no rival.
    assert not rivals("s1 w1 35, s1 x1 34", "s1 | w1 | x1")
    assert not rivals("s1 w1 17, s1 w2 16", "s1 | w1 | w2")
    assert not rivals("s1 w1 35, s1 w2 34!", "s1 w1 | w2")


def birth(record: str, day: int, month: int = 5, **more: Any) -> Row:
    return {"id": record, "birth": date(1990, month, day), **more}


def test_persons_whose_records_contradict_each_other_show_the_two_that_do_so_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candidates = "s1 w1 40, w1 x1 40"
    persons = "s1 w1 x1 | s2 w2 | s3 w3 | s4 w4 | s5 | w5"
    said = (
        birth("s1", 1, ssn="212345678", suffix="JR"),
        birth("w1", 1, ssn="212345678"),
        birth("x1", 17, 9, ssn="657112944", suffix="SR"),
        # A slip is no conflict.
        birth("s2", 1, ssn="212345679"),
        birth("w2", 2, ssn="212345670"),
        # Who corrected a date has both.
        birth("s3", 1),
        birth("s3", 17, 9),
        birth("w3", 17, 9),
        {"id": "s4", "suffix": "JR"},
        {"id": "w4", "suffix": "SR"},
        # Two persons may differ.
        birth("s5", 1),
        birth("w5", 17, 9),
    )
    rows = made(candidates, persons, *said)
    assert told(rows) == {("conflict", "s1", "x1"), ("conflict", "s4", "w4")}
    (first,) = (row for row in rows if row["left_record_id"] == "s1")
    assert "with two SSNs and two birth dates and two suffixes" in first["why"]
    assert first["record_ids"] == ["s1", "w1", "x1"]
    assert first["rule"] is None, "no rule compared the two"
    monkeypatch.setattr(doubts, "AT_ONCE", 1)
    assert made(candidates, persons, *said) == rows, "persons are looked at a few at a time"


def test_two_records_of_a_source_that_has_a_person_once_are_a_conflict() -> None:
    one = {"s1": 7, "s2": 7, "w1": 8}
    rows = made("s1 w1 40, s2 w1 40", "s1 s2 w1 | s3 w3", {"id": "s1"}, {"id": "s2"}, {"id": "w1"},
                alone=one)  # fmt: skip
    assert told(rows) == {("conflict", "s1", "s2")}
    assert "two records of one source" in rows[0]["why"]
    assert made("s1 w1 40", "s1 w1", {"id": "s1"}, {"id": "s1", "given": "A"}, {"id": "w1"},
                alone=one) == []  # fmt: skip


def test_a_conflict_weighs_what_its_pair_does_compared_before_or_not() -> None:
    suspects = (
        birth("s1", 1, given="OLIVIA", ssn="212345678"),
        birth("w1", 17, 9, given="OLIVIA", ssn="212345678"),
    )
    (row,) = made("s1 w1 41", "s1 w1", *suspects)
    assert (row["kind"], row["weight"], row["rule"]) == ("conflict", 41, "all")
    (row,) = made("", "s1 w1", *suspects)
    # The model's first level is b1, which same given names are on; both have an SSN.
    assert row["pattern"] == MODEL.pattern(bits="b1", twins="yes")
    assert (row["weight"], row["probability"]) == (1, 0)


def test_a_pair_is_asked_about_once_and_those_decided_not_at_all() -> None:
    candidates, persons = "s1 w1 25, s1 w2 24, s2 w3 23", "s1 w1 | w2 | s2 | w3"
    rows = made(candidates, persons)
    assert told(rows) == {
        ("weak_link", "s1", "w1"),
        ("rival", "s1", "w2"),
        ("near_link", "s2", "w3"),
    }
    assert len({row["item_id"] for row in rows}) == 3
    left = made(candidates, persons, decided=[("s1", "w2"), ("s2", "w3"), ("gone", "s1")])
    assert told(left) == {("weak_link", "s1", "w1")}


def test_of_a_stratum_the_same_sample_is_taken_each_time_and_its_size_is_kept() -> None:
    number = 300
    candidates = "\n".join(f"s{n} w{n} {25 if n % 2 else 29}" for n in range(number))
    persons = " | ".join(f"s{n} w{n}" for n in range(number))
    few = Review(band=6, margin=3, per_stratum=5)
    rows = made(candidates, persons, review=few)
    assert [row["stratum"] for row in rows].count("weak_link, snap + wages, 0 to 3") == 5
    assert [row["stratum"] for row in rows].count("weak_link, snap + wages, 3 to 6") == 5
    assert {row["stratum_size"] for row in rows} == {150}
    shuffled = candidates.splitlines()[::-1]
    assert made("\n".join(shuffled), persons, review=few) == rows
    # Decisions make room for the next ones, and the stratum stays as large as it was.
    decided = [(row["left_record_id"], row["right_record_id"]) for row in rows[:3]]
    after = made(candidates, persons, review=few, decided=decided)
    assert len(after) == 10 and {row["stratum_size"] for row in after} == {150}
    assert told(rows[3:]) < told(after) and not told(rows[:3]) & told(after)


def test_all_pairs_are_a_matter_of_arrays() -> None:
    """A million pairs in seconds."""
    count = 500_000
    rng = np.random.default_rng(1)
    left = rng.integers(0, count, 2 * count)
    right = left + 1 + rng.integers(0, 3, 2 * count)
    key = np.unique(left * 2 * count + right)
    ids = np.array([f"{n:08d}" for n in range(count + 4)])
    weights = rng.integers(10, 45, len(key))
    space = MODEL.weights.space.places
    given = pa.table(
        {
            "left": key // (2 * count),
            "right": key % (2 * count),
            "pattern": weights * space[0],
            "rule": np.full(len(key), "all"),
        }
    )
    of = pa.table(
        {
            "record_id": ids,
            "feed": np.full(len(ids), "snap"),
            "person_id": ids[np.arange(len(ids)) // 2],
        }
    )
    born = records({"id": "00000000"}).slice(0, 0)
    found = queue(given, of, born, model=MODEL, review=REVIEW, decided=(), run_id="r", as_of=DAY)
    assert 0 < found.num_rows <= len(found["stratum"].unique()) * REVIEW.per_stratum
    assert pa.compute.sum(pa.compute.equal(found["kind"], "rival")).as_py()


def test_the_rows_are_those_of_the_table() -> None:
    def queued(candidates: str, persons: str) -> pa.Table:
        people = clusters(persons)
        return queue(placed(pairs(candidates), people), people, records(), model=MODEL,
                     review=REVIEW, decided=(), run_id="r", as_of=DAY)  # fmt: skip

    found, empty = queued("s1 w1 25", "s1 w1"), queued("", "")
    assert found.column_names == tables.REVIEW_QUEUE.column_names
    assert (empty.num_rows, empty.schema) == (0, found.schema)


def test_two_records_side_by_side_tell_what_agrees_over_all_their_variants() -> None:
    parts = {
        part.column: part
        for part in side_by_side(
            records(
                birth("s1", 1, family="OYELARAN", zip="02139", emails="a@x.org\x1fb@x.org"),
                birth("s1", 1, family="FITZGERALD", zip="02139", emails="b@x.org"),
                birth("w1", 1, family="FITZGERALD", zip="01002", emails="b@x.org"),
                birth("w2", 2),
            ),
            "s1",
            "w1",
        )
    }
    assert parts["family"].left == ("FITZGERALD", "OYELARAN")
    assert parts["emails"].left == ("a@x.org", "b@x.org")
    assert parts["birth"].right == ("1990-05-01",)
    agreement = {name: part.agreement for name, part in parts.items()}
    assert agreement["family"] == agreement["birth"] == "same"
    assert (agreement["zip"], agreement["ssn"]) == ("differ", "missing")
    assert "given_root" not in parts


def test_a_queue_that_is_cut_short_has_an_item_of_each_stratum() -> None:
    number = 20
    candidates = ",".join(f"s{n} w{n} {25 if n < 15 else 29},x{n} w{n} 23" for n in range(number))
    persons = " | ".join(f"s{n} w{n} | x{n}" for n in range(number))
    given = {"model": MODEL, "review": REVIEW, "decided": (), "run_id": "r", "as_of": DAY}
    people = clusters(persons)
    whole = queue(placed(pairs(candidates), people), people, records(), **given)  # type: ignore[arg-type]
    ordered = in_turn(whole.take(pa.array(np.random.default_rng(1).permutation(whole.num_rows))))
    assert ordered.num_rows == whole.num_rows == 40
    first = ordered["stratum"].to_pylist()[:3]
    assert first == [
        "weak_link, snap + wages, 0 to 3",
        "weak_link, snap + wages, 3 to 6",
        "near_link, wages + wic, -3 to 0",
    ]
    assert ordered.slice(35)["stratum"].unique().to_pylist() == ["near_link, wages + wic, -3 to 0"]
    assert ordered.equals(in_turn(whole))


class Reading(HTMLParser):
    """A page as a browser parses it: scripts by their attributes, and all other elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.title = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        if self._inside == "title":
            self.title += data

    @property
    def data(self) -> dict[str, Any]:
        ((_, text),) = [one for one in self.scripts if one[0].get("type") == "application/json"]
        found: dict[str, Any] = json.loads(text)
        return found


NASTY = "O\"NEILL'</script><!--<script><img src=x onerror=alert(1)>&amp;\u2028{{ 7 * 7 }}"


def rendered(run_id: str = "r") -> Reading:
    born = records(
        birth("s1", 1, given=NASTY, family="OYELARAN"),
        birth("s1", 1, given=NASTY, family="FITZGERALD"),
        birth("w1", 1),
        birth("w2", 2),
    )
    born = born.add_column(1, "feed", pa.array(["snap", "snap", "wages", "wages"]))
    candidates = pairs("s1 w1 25, s1 w2 40!")
    people = clusters("s1 w1 | w2")
    found = queue(placed(candidates, people), people, born, model=MODEL, review=REVIEW,
                  decided=(), run_id=run_id, as_of=DAY)  # fmt: skip
    assert {*concerned(found).to_pylist()} == {"s1", "w1", "w2"}
    persons = {"s1": "p", "w1": "p", "w2": "q"}
    return Reading(page(in_turn(found), born, candidates, persons, model=MODEL))


def test_the_page_has_what_a_steward_looks_at() -> None:
    data = rendered().data
    assert [item["kind"] for item in data["items"]] == ["ruled_out", "weak_link"]
    weak = data["items"][1]
    assert (weak["left"], weak["right"], weak["feeds"]) == ("s1", "w1", "snap + wages")
    assert (weak["band"], weak["size"], weak["records"]) == ("0 to 3", 1, ["s1", "w1"])
    told = data["patterns"][weak["pattern"]]
    assert told["words"].startswith("Bits: b25 (+25.0).")
    assert told["steps"][0] == ["bits", "bits: b25", 25.0, False]
    record = data["records"]["s1"]
    assert record["feed"] == "snap" and record["values"]["birth"] == ["1990-05-01"]
    assert record["values"]["family"] == ["OYELARAN", "FITZGERALD"]
    assert data["edges"] == [["s1", "w1", 25.0, False], ["s1", "w2", 40.0, True]]
    assert (data["edge"], data["prior"], data["persons"]["w2"]) == (24, -20, "q")


def test_whatever_a_record_says_is_text_on_the_page() -> None:
    read = rendered(run_id="<b>r&d</b>")
    assert read.data["records"]["s1"]["values"]["given"] == [NASTY]
    assert read.data["run"] == "<b>r&d</b>" and read.title == "Review of <b>r&d</b>"
    assert not {"img", "b"} & {tag for tag, _ in read.elements}
    assert len(read.scripts) == 2
    # The script makes text of it, never markup.
    (script,) = (text for attributes, text in read.scripts if not attributes)
    assert not [way for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write",
                                "eval(", "Function(") if way in script]  # fmt: skip


def test_the_page_loads_nothing_and_runs_its_own_script_only() -> None:
    read = rendered()
    (policy,) = (
        attributes["content"] or ""
        for tag, attributes in read.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    (script,) = (text for attributes, text in read.scripts if not attributes)
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{own}'" in policy
    assert "unsafe" not in policy and "http" not in policy
    loading = [
        (tag, name)
        for tag, attributes in read.elements
        for name in attributes
        if name in {"src", "srcset", "action"} or name == "href" and attributes[name] != "#item"
    ]
    assert loading == []
