"""What is told of an index without the truth: hold-out, groups, limits, weights, the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from concord import towns
from concord.contracts.odcs import load_contracts
from concord.disclosure.profiles import Profile
from concord.linkage import groups, holdout, inputs, job, report
from concord.linkage.clusters import Clusters
from concord.linkage.groups import WHOLE, Grouping, age_bands, hidden
from concord.linkage.index import Index
from concord.linkage.intervals import Share
from concord.linkage.keys import Refused
from concord.linkage.limits import Bound, Limits
from concord.linkage.link_weights import STRENGTH, link_weights
from concord.linkage.patterns import MISSING
from concord.linkage.person_index import PersonIndex, load_person_index
from concord.linkage.quality_page import page
from concord.linkage.report import ALL, Compared, Measure, breaches
from concord.linkage.standardise import STANDARD
from tests.conftest import ROOT

DAY = date(2025, 6, 15)


def ordered(*, blind_first: bool) -> PersonIndex:
    """The committed model with the rules that read the SSN last, or first."""
    model = load_person_index(ROOT / "conf" / "person_index.yaml")
    rules = sorted(model.blocking, key=lambda rule: ("ssn" in rule.name) == blind_first)
    return model.model_copy(update={"blocking": tuple(rules)})


MODEL = ordered(blind_first=True)
FULL = {"given": "exact", "family": "exact", "birth": "exact", "contact": "household"}
WAGES = {"given": "exact", "family": "exact", "middle": "same"}
TWINS = {**FULL, "given": "differ"}


def says(*columns: str) -> int:
    return sum(1 << list(STANDARD).index(column) for column in columns)


def table(rows: list[tuple[str, Mapping[str, str], int]]) -> pa.Table:
    """rule, levels, pairs -> counts."""
    return pa.table(
        {
            "rule": [rule for rule, _, _ in rows],
            "pattern": pa.array([MODEL.pattern(**levels) for _, levels, _ in rows], pa.int64()),
            "pairs": pa.array([pairs for _, _, pairs in rows], pa.int64()),
        }
    )


# --- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "whole"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 17), (998, 1000)]
)
def test_an_interval_is_wilsons(part: int, whole: int) -> None:
    oracle = binomtest(part, whole).proportion_ci(method="wilson")
    assert Share(part, whole).interval == pytest.approx((oracle.low, oracle.high), abs=1e-6)
    assert Share(part, whole).value == part / whole


def test_an_interval_ends_at_none_and_all() -> None:
    assert all(Share(0, n).interval[0] == 0.0 for n in range(1, 200))
    assert all(Share(n, n).interval[1] == 1.0 for n in range(1, 200))


def test_nothing_says_nothing() -> None:
    assert (Share(0, 0).value, Share(0, 0).interval) == (None, (0.0, 1.0))


# --- hold-out -------------------------------------------------------------------------------------


def plainly(rule: str, levels: Mapping[str, str]) -> dict[str, bool]:
    """What a pair is without its SSN, from the words of the file and from no other code."""
    full = {name: levels.get(name, MISSING) for name in MODEL.comparisons}
    bare = {**full, "ssn": MISSING}

    def ruled_out(said: Mapping[str, str]) -> bool:
        return any(
            all(said[name] in allowed for name, allowed in never.when.items())
            for never in MODEL.never
        )

    weight = sum(
        MODEL.comparisons[name].levels[level].bits[0]
        for name, level in bare.items()
        if level != MISSING
    )
    return {
        "linked": weight >= MODEL.cluster_weight and not ruled_out(bare) and "ssn" not in rule,
        "told": full["ssn"] in {"exact", "near", "differ"},
        "same": full["ssn"] in {"exact", "near"},
        "true": full["ssn"] == "exact" and not ruled_out(full),
    }


def test_the_ssn_held_out_is_as_the_file_says() -> None:
    rng = np.random.default_rng(7)
    rules = [rule.name for rule in MODEL.blocking]
    rows = []
    for _ in range(600):
        levels = {
            name: str(rng.choice([MISSING, *of.levels], p=_towards_first(len(of.levels) + 1)))
            for name, of in MODEL.comparisons.items()
        }
        rows.append((str(rng.choice(rules)), levels, 1))
    of = holdout.judged(MODEL, table(rows), threshold=MODEL.cluster_weight)
    for name in ("linked", "told", "same", "true"):
        oracle = [plainly(rule, levels)[name] for rule, levels, _ in rows]
        assert getattr(of, name).tolist() == oracle, name
        assert 20 < sum(oracle) < 580


def _towards_first(levels: int) -> list[float]:
    """Likely agreement, so that pairs are of all kinds."""
    rest = [0.35 / (levels - 2)] * (levels - 2)
    return [0.15, 0.5, *rest]


def test_precision_and_recall_count_pairs() -> None:
    counts = table(
        [
            ("given_birth", {**FULL, "ssn": "exact"}, 90),
            ("given_birth", {**FULL, "ssn": "near"}, 5),
            ("given_birth", {**FULL, "ssn": "differ"}, 5),
            ("given_birth", FULL, 1000),  # neither SSN tells
            ("ssn", {"given": "near", "family": "exact", "ssn": "exact"}, 30),  # says too little
            ("ssn", {**TWINS, "ssn": "exact"}, 7),  # no link without the SSN, though one with it
        ]
    )
    of = holdout.judged(MODEL, counts, threshold=MODEL.cluster_weight)
    shares = holdout.shares(of, counts["pairs"].to_numpy())
    assert shares["holdout_precision"] == Share(95, 100)
    assert shares["holdout_recall"] == Share(90, 127)
    assert shares["holdout_reach"] == Share(97, 127)
    assert shares["holdout_recall_in_reach"] == Share(90, 97)


def test_what_the_model_rules_out_is_not_missed() -> None:
    parents = {"given": "differ", "family": "exact", "birth": "differ", "ssn": "exact"}
    of = holdout.judged(MODEL, table([("ssn", parents, 1)]), threshold=MODEL.cluster_weight)
    assert not of.true.any()


def test_a_pair_that_only_its_ssn_makes_is_a_blocking_miss() -> None:
    counts = table(
        [
            ("given_birth", {**FULL, "ssn": "exact"}, 60),
            ("ssn", {**FULL, "ssn": "exact"}, 30),
            ("ssn_last4_given", {**FULL, "ssn": "exact"}, 10),
        ]
    )
    pairs = counts["pairs"].to_numpy()
    of = holdout.judged(MODEL, counts, threshold=MODEL.cluster_weight)
    assert holdout.blocking_recall(of, pairs) == Share(60, 100)
    assert holdout.shares(of, pairs)["holdout_recall"] == Share(60, 100)
    # Where they come first, a pair of theirs may be one of another rule too.
    first = ordered(blind_first=False)
    of = holdout.judged(first, counts, threshold=first.cluster_weight)
    assert holdout.shares(of, pairs)["holdout_recall"] == Share(100, 100)


def test_a_name_alone_cannot_be_blocked_and_is_out_of_reach() -> None:
    counts = table([("ssn", {**WAGES, "ssn": "exact"}, 1), ("ssn", {**FULL, "ssn": "exact"}, 1)])
    assert sum(MODEL.comparisons[c].levels[x].bits[0] for c, x in WAGES.items()) > 22.7
    of = holdout.judged(MODEL, counts, threshold=MODEL.cluster_weight)
    assert of.reach.tolist() == [True, True], "a middle initial in common makes a pair"
    rules = tuple(rule for rule in MODEL.blocking if rule.name != "names_middle")
    without = MODEL.model_copy(update={"blocking": rules})
    of = holdout.judged(without, counts, threshold=MODEL.cluster_weight)
    assert of.reach.tolist() == [False, True]


def test_rules_that_read_the_ssn_are_known() -> None:
    assert [name for name in holdout.blind(MODEL) if "ssn" in name] == []
    assert len(holdout.blind(MODEL)) == 11
    assert holdout.blind_first(MODEL)
    assert not holdout.blind_first(ordered(blind_first=False))


def test_common_names_reach_less_far_than_rare_ones() -> None:
    names = {"given": "exact", "family": "exact", "middle": "same", "sex": "same"}
    rare, space = MODEL.pattern(**names), MODEL.weights.space
    places = dict(zip(MODEL.comparisons, space.places.tolist(), strict=True))
    common = rare + 3 * places["given"] + 3 * places["family"]
    assert {level: MODEL.words(common)[level] for level in names} == names
    # Given names that do not agree could have been rare ones.
    nothing = MODEL.pattern(**{**names, "given": "differ"})
    counts = pa.table({"rule": ["names_middle"] * 3, "pattern": [rare, common, nothing]})
    of = holdout.judged(MODEL, counts, threshold=MODEL.cluster_weight)
    assert of.reach.tolist() == [True, False, True]
    assert of.linked.tolist() == [True, False, False]


def test_calibration_sets_what_was_expected_beside_what_came() -> None:
    strong, weak = {**FULL, "sex": "same"}, {"given": "near", "family": "exact", "contact": "zip"}
    counts = table(
        [
            ("given_birth", {**strong, "ssn": "exact"}, 80),
            ("given_birth", {**strong, "ssn": "differ"}, 20),
            ("names_zip", {**weak, "ssn": "differ"}, 40),
            ("ssn", {**weak, "ssn": "exact"}, 1000),  # made by their SSNs: they prove nothing
        ]
    )
    of = holdout.judged(MODEL, counts, threshold=MODEL.cluster_weight)
    low, high = holdout.calibration(of, counts["pairs"].to_numpy())
    bits = sum(MODEL.comparisons[name].levels[level].bits[0] for name, level in weak.items())
    assert low.expected == pytest.approx(1 / (1 + 2 ** -(bits + MODEL.prior_bits)))
    assert (low.name, low.observed) == ("0.1 to 0.5", Share(0, 40))
    assert (high.name, high.observed) == ("0.999 to 1", Share(80, 100))
    told = holdout.expected(of, counts["pairs"].to_numpy())
    assert told["holdout_expected_precision"] == pytest.approx(high.expected)


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("born", "band"),
    [
        (date(2025, 6, 15), "0-17"),
        (date(2007, 6, 15), "18-24"),
        (date(2007, 6, 16), "0-17"),
        (date(2000, 2, 29), "25-44"),
        (date(1960, 6, 15), "65+"),
        (date(2025, 6, 16), None),
        (None, None),
    ],
)
def test_ages_are_in_full_years(born: date | None, band: str | None) -> None:
    births = pa.chunked_array([pa.array([born], pa.date32())])
    assert age_bands(births, DAY).to_pylist() == [band]


def test_a_pair_is_of_the_group_that_its_records_say() -> None:
    sex = Grouping.of(pa.chunked_array([["M", None, "F", "F"]]))
    left, right = np.array([2, 0, 1, 1, 0]), np.array([3, 1, 1, 2, 2])
    every = np.ones(5, dtype=bool)
    assert sex.both(left, right).count(every) == {"F": 2, "M": 1, "unknown": 1, "differ": 1}
    feed = Grouping.of(pa.chunked_array([["wages", "snap", "snap", None]]))
    found = feed.each(np.array([0, 1, 1, 0]), np.array([1, 0, 2, 3]))
    assert found.count(np.ones(4, dtype=bool)) == {
        "snap wages": 2,
        "snap snap": 1,
        "wages unknown": 1,
    }


def test_a_small_group_takes_another_along() -> None:
    counts = {"sex": {"F": 500, "M": 300, "unknown": 5}, "age": {"0-17": 405, "18+": 400}}
    assert hidden(counts, 805) == {("sex", "unknown"), ("sex", "M")}
    # Not the whole in its place: that is shown.
    assert hidden({"sex": {"F": 495, "X": 5}}, 500) == {("sex", "X"), ("sex", "F")}
    assert hidden({"sex": {"F": 11, "M": 300}}, 311) == frozenset()
    assert WHOLE in hidden({"sex": {"F": 3, "M": 4}}, 7)
    # Another rule, another minimum.
    assert hidden({"sex": {"F": 11, "M": 300}}, 311, Profile(minimum=12, source="test")) != set()


# --- measures of a run ----------------------------------------------------------------------------


def people(**counts: int) -> tuple[pa.Table, Compared, Clusters]:
    """Pairs of two records by sex, one of each feed; each pair has one SSN and is a person."""
    sexes = [sex for sex, n in counts.items() for _ in range(n)]
    n = len(sexes)
    records = [f"{feed}{i:04}" for i in range(n) for feed in ("a", "b")]
    origin = pa.table(
        {
            "record_id": records,
            "feed": ["snap", "wages"] * n,
            "role": ["client"] * (2 * n),
            "sex": [sex for sex in sexes for _ in range(2)],
            "birth": pa.array([date(1990, 1, 2)] * (2 * n), pa.date32()),
            "zip": ["02138"] * (2 * n),
            "says": pa.array(
                [says("given", "family", "birth", "birth_year")] * (2 * n), pa.int64()
            ),
        }
    ).sort_by("record_id")
    pattern = MODEL.pattern(**FULL, ssn="exact")
    pairs = pa.table(
        {
            "left": np.arange(n),
            "right": np.arange(n, 2 * n),
            "pattern": pa.array([pattern] * n, pa.int64()),
            "rule": ["given_birth"] * n,
            "weight": MODEL.weights.of(np.full(n, pattern)),
        }
    )
    of = np.concatenate([np.arange(n), np.arange(n)])
    counted = table([("given_birth", {**FULL, "ssn": "exact"}, n)])
    return origin, Compared(counted, pairs, Refused()), Clusters(of, 0, 0)


def named(found: list[Measure]) -> dict[tuple[str, str], Measure]:
    assert len({(m.name, m.group) for m in found}) == len(found)
    return {(m.name, m.group): m for m in found}


def test_groups_are_told_and_small_ones_are_not() -> None:
    origin, compared, _ = people(F=40, M=5)
    found = named(report.hold_out(MODEL, origin, compared, as_of=DAY))
    assert found["holdout_recall", ALL] == Measure.share("holdout_recall", ALL, Share(45, 45))
    assert found["holdout_recall", "snap wages"].of == 45
    assert found["holdout_recall", "age=25-44"].value == 1.0
    # Five men would follow from all and from the women.
    for sex in ("F", "M"):
        assert found["holdout_recall", f"sex={sex}"] == Measure(
            "holdout_recall", f"sex={sex}", None
        )
    assert found["blocking_recall", ALL].value == 1.0


def test_attributes_of_any_kind_can_be_given() -> None:
    origin, compared, _ = people(F=40)
    more = pa.table({"record_id": origin["record_id"], "language": ["es"] * 60 + [None] * 20})
    found = named(report.hold_out(MODEL, origin, compared, as_of=DAY, more=more.slice(20)))
    assert found["holdout_recall", "language=es"].of == 40
    assert ("holdout_recall", "language=unknown") not in found


def test_a_run_is_measured_by_what_contracts_and_towns_say() -> None:
    contracts = load_contracts(ROOT / "conf" / "feeds")
    said = {(each.attribute, each.source_table) for each in inputs.codes(contracts["dph_wic"])}
    assert said == {(name, "participants") for name in ("race", "ethnicity", "language")}
    race = inputs.codes(contracts["dese_enrollment"])[0]
    assert (race.role, race.standard["05"]) == ("student", "white")
    assert inputs.codes(contracts["dua_wages"]) == ()

    origin, compared, grouped = people(F=40)
    known = pa.table({"record_id": origin["record_id"], "race": ["white"] * 80})
    here = SimpleNamespace(model=MODEL, run=SimpleNamespace(as_of=DAY))
    found = named(job._measures(cast(Index, here), origin, compared, grouped, known))
    for group in ("race=white", "municipality=50000+", "zip3=021"):
        assert found["holdout_recall", group].of == 40, group


def test_a_town_is_as_large_as_its_people(monkeypatch: pytest.MonkeyPatch) -> None:
    # Cambridge, Acton, Adams; a post box of Boston; Cheshire and New Ashford share one; nowhere.
    zips = pa.chunked_array([["02138", "01720", "01220", "02205", "01237", "99999", None]])
    sizes = groups.municipality_sizes(zips).to_pylist()
    assert sizes[:3] == ["50000+", "10000-49999", "0-9999"]
    assert sizes[4:] == ["0-9999", None, None]
    assert sum(int(town["population"]) for town in towns.municipalities()) == 6_984_205
    shared = [
        {"population": "60000", "zips": "00001"},
        {"population": "900", "zips": "00001 00002"},
    ]
    monkeypatch.setattr(towns, "municipalities", lambda: shared)
    assert towns.sizes_by_zip.__wrapped__() == {"00001": "50000+", "00002": "0-9999"}


def test_calibration_waits_for_rules_in_order() -> None:
    origin, compared, _ = people(F=40)
    first = ordered(blind_first=False)
    found = {m.name for m in report.hold_out(first, origin, compared, as_of=DAY)}
    assert "holdout_recall" in found
    assert not found & {"calibration", "blocking_recall", "holdout_expected_precision"}


def test_a_model_without_ssn_is_not_held_out() -> None:
    origin, compared, _ = people(F=20)
    rest = {name: of for name, of in MODEL.comparisons.items() if name != "ssn"}
    bare = MODEL.model_copy(update={"comparisons": rest, "never": ()})
    assert report.hold_out(bare, origin, compared, as_of=DAY) == []


def test_links_of_few_are_not_told() -> None:
    origin, compared, grouped = people(F=40)
    found = named(report.measures(MODEL, origin, compared, grouped))
    assert found["links", "snap wages"].value == 40
    assert found["largest_person", ALL].value == 2
    origin, compared, grouped = people(F=4)
    found = named(report.measures(MODEL, origin, compared, grouped))
    assert found["links", "snap wages"].value is None
    assert found["expected_precision", "snap wages"].value is None
    assert found["links", ALL].value == 4


@pytest.mark.parametrize(
    ("columns", "bits"),
    [
        ((), -np.inf),  # no given name and no birth date: ruled out
        (("given", "family"), 14.29 + 16.25),  # names of the rarest
        (("given", "birth", "birth_year", "sex"), 14.29 + 14.02 + 0.99),
        (("given", "birth_year", "zip"), 14.29 + 2.50 + 5.41),
        (("ssn", "given", "family"), 26.53 + 14.29 + 16.25),
    ],
)
def test_how_far_a_record_reaches(columns: tuple[str, ...], bits: float) -> None:
    reached = report.reach(MODEL, np.array([says(*columns)]))
    assert reached[0] == pytest.approx(bits, abs=0.05)


def test_records_that_say_too_little_are_counted() -> None:
    origin, _, _ = people(F=10)
    few = says("given", "sex")
    masks = [few if feed == "wages" else m for feed, m in
             zip(origin["feed"].to_pylist(), origin["says"].to_pylist(), strict=True)]  # fmt: skip
    origin = origin.set_column(origin.column_names.index("says"), "says", [masks])
    found = named(report.unlinkable(MODEL, origin))
    assert found["unlinkable", ALL] == Measure("unlinkable", ALL, 0.5, of=20)
    assert found["unlinkable", "wages"].value == 1.0


def test_churn_is_of_ids_that_there_were() -> None:
    told = {"minted": 50, "joined": 9, "merged_into": 3, "split_from": 2, "retired": 1, "left": 4}
    found = named(report.changes(told, before=600))
    assert found["id_churn", ALL] == Measure("id_churn", ALL, 0.01, of=600)
    assert found["events", "minted"].value == 50
    assert named(report.changes(told, before=0))["id_churn", ALL].value == 0.0


# --- limits ---------------------------------------------------------------------------------------


def test_a_breach_is_told_in_a_sentence() -> None:
    limits = Limits.model_validate(
        {
            "holdout_precision": {"at_least": 0.99},
            "holdout_recall": {"at_least": 0.9},
            "largest_person": {"at_most": 50},
        }
    )
    good = [Measure("holdout_precision", ALL, 0.99), Measure("holdout_recall", ALL, 0.95)]
    good += [Measure("holdout_precision", "sex=F", 0.1), Measure("largest_person", ALL, 50.0)]
    assert breaches(good, limits) == []
    bad = [
        Measure("holdout_precision", ALL, 0.98, 0.97, 0.985),
        Measure("largest_person", ALL, 51.0),
    ]
    assert breaches(bad, limits) == [
        "holdout_precision is 0.98 (95 % interval 0.97 to 0.985), less than its limit of 0.99",
        "largest_person is 51, more than its limit of 50",
    ]


def test_what_was_not_measured_breaks_a_limit_that_requires_it() -> None:
    for measures in ([], [Measure("id_churn", ALL, None)]):
        assert breaches(measures, Limits(id_churn=Bound(at_most=0.1))) == []
        told = breaches(measures, Limits(id_churn=Bound(at_most=0.1, required=True)))
        assert told == ["id_churn could not be measured, and its limit requires that it is"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"holdout_prec": {"at_least": 1}}, "Extra inputs"),
        ({"id_churn": {}}, "says no limit"),
        ({"id_churn": {"at_least": 1, "at_most": 0}}, "nothing can meet it"),
    ],
)
def test_limits_that_make_no_sense_are_refused(said: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Limits.model_validate(said)


# --- weights for analysts -------------------------------------------------------------------------


def half_linked() -> tuple[pa.Table, np.ndarray]:
    """800 records of snap, of which 300 of 400 women and 100 of 400 men have one of wages."""
    sex = ["F"] * 400 + ["M"] * 400
    linked = [i < 300 if s == "F" else i < 500 for i, s in enumerate(sex)]
    partners = [i for i, one in enumerate(linked) if one]
    n = 800 + len(partners)
    origin = pa.table(
        {
            "record_id": [f"{i:04}" for i in range(n)],
            "feed": ["snap"] * 800 + ["wages"] * len(partners),
            "role": ["client"] * n,
            "sex": [*sex, *([None] * len(partners))],
            "birth": pa.array([date(1990, 1, 2)] * n, pa.date32()),
            "zip": pa.nulls(n, pa.string()),
            "says": pa.array([says("given")] * n, pa.int64()),
        }
    )
    return origin, np.array([*range(800), *partners])


def test_a_linked_record_stands_for_those_like_it() -> None:
    origin, of = half_linked()
    found = link_weights(origin, of, as_of=DAY)
    weight = dict(zip(found["record_id"].to_pylist(), found["weight"].to_pylist(), strict=True))
    assert len(weight) == 800
    # Twice drawn towards the wider share: of the feed, then of feed, sex and age.
    chance = (300 + STRENGTH * 0.5) / (400 + STRENGTH)
    chance = (300 + STRENGTH * chance) / (400 + STRENGTH)
    assert weight["0000"] == pytest.approx(0.5 / chance)
    assert weight["0800"] == pytest.approx(1.0)
    women, men = (sum(weight[f"{i:04}"] for i in ids) for ids in (range(300), range(400, 500)))
    assert women / (women + men) == pytest.approx(0.5, abs=0.03)


def test_a_record_linked_within_its_feed_is_not_linked() -> None:
    origin, _ = half_linked()
    snap = origin.slice(0, 2)
    assert link_weights(snap, np.array([0, 0]), as_of=DAY).num_rows == 0


# --- rows and page --------------------------------------------------------------------------------


class Outline(HTMLParser):
    """What a page has: elements with their attributes, headings, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def shown(limits: Limits | None = None, model: PersonIndex = MODEL) -> str:
    origin, compared, grouped = people(F=40, M=30, X=3)
    found = report.measures(model, origin, compared, grouped)
    found += report.hold_out(model, origin, compared, as_of=DAY)
    found += report.unlinkable(model, origin) + report.changes({"minted": 73}, before=0)
    early = report.rows("run-0", date(2025, 5, 1), model, found[:3])
    return page([*early, *report.rows("run-1", DAY, model, found)], model=model, limits=limits)


def test_the_page_is_accessible_and_loads_nothing() -> None:
    text = shown()
    outline = Outline(text)
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert len(outline.of("caption")) == len(outline.of("table")) > 4
    assert all(attributes.get("scope") in {"row", "col"} for attributes in outline.of("th"))
    assert all(a.get("role") == "img" for a in outline.of("svg"))
    assert len(outline.of("svg")) == text.count("<desc>")
    assert outline.of("script", "link", "img", "iframe", "object") == []
    assert all((a["href"] or "").startswith("#") for a in outline.of("a"))
    targets = {a.get("id") for _, a in outline.elements}
    assert {(a["href"] or "")[1:] for a in outline.of("a")} <= targets
    # But for the name of the SVG format, no address stands in it.
    assert set(re.findall(r"https?://[^\"\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "style=" not in text


def test_the_page_tells_figures_hidden_cells_and_runs() -> None:
    text = shown()
    assert "As of 2025-06-15 · run run-1" in text
    assert re.search(r'<th scope="row">X</th><td>hidden</td>', text)
    assert "snap + wages" in text
    assert re.search(r'<th scope="row">2025-05-01</th>', text)
    assert "No limits are set." in text


def test_the_page_says_which_limits_are_broken() -> None:
    limits = Limits(holdout_precision=Bound(at_least=0.9), largest_person=Bound(at_most=1))
    text = shown(limits)
    assert "1 of 2 limits is broken" in text
    assert "largest_person is 2, more than its limit of 1" in text
    assert text.count("<td>holds</td>") == 1
    assert "No limit of 1 is broken." in shown(Limits(largest_person=Bound(at_most=2)))


def test_the_page_warns_of_rules_out_of_order() -> None:
    assert "Read with care" not in shown()
    assert "Read with care" in shown(model=ordered(blind_first=False))


def test_what_a_page_says_is_escaped() -> None:
    rows = report.rows("<b>run</b>", DAY, MODEL, [Measure("records", ALL, 1.0)])
    assert "<b>run" not in page(rows, model=MODEL)


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to show"):
        page([], model=MODEL)
