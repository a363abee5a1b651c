"""Churn: exits, returns and rates by four definitions, and who behaved how, against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord_models.churn import cohort, definitions
from concord_models.churn.definitions import DEFINITIONS, RULES, CertificationRule
from tests.spark import churn_oracle as oracle
from tests.spark.churn_oracle import MONTHS, World, last_day

pytestmark = pytest.mark.spark

AS_OF = date(2024, 12, 31)
PROCEDURAL = "checkin_not_completed"
SCHEMAS = {
    "dta_snap.issuances": "study_case_id string, month date, benefit_month date, "
    "issuance_type string, amount decimal(10,2), _known_on date",
    "dta_snap.cases": "study_case_id string, month date, status string, "
    "benefit_amount decimal(10,2), certification_type string, certification_start date, "
    "opened_on date, closed_on date, closure_reason string, _known_on date",
    "dta_snap.persons": "study_case_id string, study_person_id string, month date, _known_on date",
    "dta_snap.checkins": "study_case_id string, report_month date, kind string, due_on date, "
    "form_received_on date, decision string, closure_reason string, reinstated_on date, "
    "_known_on date",
}


def frames(
    spark: SparkSession, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, DataFrame]:
    """The study's tables, known by the third of the month after each row's."""
    made = {}
    for name, schema in SCHEMAS.items():
        columns = [part.split()[0] for part in schema.split(", ")]
        listed = []
        for row in rows.get(name.partition(".")[2], []):
            month = row.get("month") or row.get("report_month")
            known = {"_known_on": last_day(month) + timedelta(days=3), **row}
            listed.append(tuple(known.get(column) for column in columns))
        made[name] = spark.createDataFrame(listed, schema)
    return made


def tables_of(spark: SparkSession, worlds: Sequence[World]) -> dict[str, DataFrame]:
    whole: oracle.Rows = {"issuances": [], "cases": [], "persons": [], "checkins": []}
    for number, world in enumerate(worlds):
        for name, rows in oracle.rows(world, f"{number}/").items():
            whole[name] += rows
    return frames(spark, whole)


def world(
    states: str,
    *,
    other: str = "",
    closed: Mapping[tuple[str, int], tuple[int, str]] | None = None,
    opened: Mapping[tuple[str, int], int] | None = None,
    people: Sequence[str] = (),
    reported: Mapping[tuple[str, int], str] | None = None,
) -> World:
    """Nine months in letters: x regular, 0 a payment of nothing, o open with a benefit of nothing,
    l paid a month late, r retroactive in the month, s a supplement alone, - off. `people` by the
    same places: a or b."""
    letters = dict(zip("x0olrs-", oracle.STATES, strict=True))
    cases = {"a": states, **({"b": other} if other else {})}
    return World(
        {case: [letters[letter] for letter in text] for case, text in cases.items()},
        closed or {}, opened or {},
        [[place if place != "-" else None for place in text] for text in people],
        reported or {}, dict.fromkeys(cases, ("12_month", 0)),
    )  # fmt: skip


letters = st.sampled_from([*["on"] * 5, *["off"] * 4, "nothing", "open", "late", "same", "extra"])
reasons = st.sampled_from([*[PROCEDURAL] * 3, "agency_delay", "other", "deceased", "disqualified"])
months = st.integers(0, len(MONTHS) - 1)
kinds = st.sampled_from(["interim_report", "recertification"])
certifications = st.sampled_from(["12_month_interim", "12_month"])


@st.composite
def histories(draw: st.DrawFn) -> World:
    cases = ["a", "b"]
    size = len(MONTHS)
    at = st.tuples(st.sampled_from(cases), months)
    places = st.lists(st.sampled_from(["a", "a", "b", None]), min_size=size, max_size=size)
    return World(
        {case: draw(st.lists(letters, min_size=size, max_size=size)) for case in cases},
        draw(st.dictionaries(at, st.tuples(st.sampled_from([1, 10, 28]), reasons), max_size=9)),
        draw(st.dictionaries(at, st.sampled_from([1, 5, 27]), max_size=6)),
        draw(st.lists(places, max_size=3)),
        draw(st.dictionaries(at, kinds, max_size=9)),
        {case: draw(st.tuples(certifications, st.integers(-9, 3))) for case in cases},
    )


def told(exits: DataFrame) -> dict[tuple[str, int], oracle.Exit]:
    number = {month: place for place, month in enumerate(MONTHS)}
    return {
        (row["study_case_id"], number[row["month"]]): oracle.Exit(
            row["study_case_id"].partition("/")[2],
            number[row["month"]],
            *(
                row[n]
                for n in (
                    "closed_on",
                    "reason",
                    "kind",
                    "returned_on",
                    "service_gap",
                    "paid_gap",
                    "late",
                    "left",
                )
            ),
        )  # fmt: skip
        for row in exits.collect()
    }


def test_exits_and_churn_are_those_of_the_loops_over_months(spark: SparkSession) -> None:
    worlds: list[World] = []

    @settings(
        max_examples=200, phases=[Phase.generate], database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(histories())
    def collect(history: World) -> None:
        worlds.append(history)

    collect()
    # All in one run of Spark, which costs the same for one as for hundreds.
    tables = tables_of(spark, worlds)
    found = definitions.exits(tables, as_of=AS_OF).cache()
    expected = {
        (f"{number}/{exit.case}", exit.month): exit
        for number, history in enumerate(worlds)
        for exit in oracle.exits(history)
    }
    got = told(found)
    wrong = [key for key in got.keys() | expected.keys() if got.get(key) != expected.get(key)]
    if wrong:
        key = min(wrong, key=lambda k: (int(k[0].partition("/")[0]), k))
        history = worlds[int(key[0].partition("/")[0])]
        pytest.fail(
            f"{len(wrong)} differ; {key} of {history}:\n{got.get(key)}\n{expected.get(key)}"
        )
    kinds_seen = {
        (e.left, e.late, e.service_gap == 0, e.paid_gap == e.service_gap) for e in got.values()
    }
    assert len(kinds_seen) >= 6
    for name, definition in DEFINITIONS.items():
        rows = definitions.events(definition, found).collect()
        events = {
            (row["study_case_id"], MONTHS.index(row["month"])): row["churned"] for row in rows
        }
        known = {key: oracle.churned(name, exit) for key, exit in expected.items()}
        assert events == {key: value for key, value in known.items() if value != "no event"}, name
        assert set(events.values()) == {True, False, None}, name


# --- the edge rules, each by a household of its own ----------------------------------------------

END_OF_MARCH = {("a", 2): (31, PROCEDURAL)}
RECERTIFIED = {("a", 2): "recertification"}
TWELFTH_OF_APRIL = {("a", 3): 12}
EDGES = {
    # Out in April and May, back in June.
    "plain": world("xxx--xxxx", closed=END_OF_MARCH, reported=RECERTIFIED),
    "zero payment": world("xxx00xxxx"),
    "open without benefit": world("xxxooxxxx"),
    "deceased": world("xxx--xxxx", closed={("a", 2): (31, "deceased")}, reported=RECERTIFIED),
    "disqualified": world("xxx--xxxx", closed={("a", 2): (31, "disqualified")}),
    # The household of three goes on under another number, with all or with two of them.
    "new number": world("xxx------", other="---xxxxxx", people=["aaabbbbbb"] * 3),
    "split, most go on": world(
        "xxx------", other="---xxxxxx", people=["aaabbbbbb", "aaabbbbbb", "aaa------"]
    ),
    "split, one goes on": world(
        "xxx------", other="---xxxxxx", people=["aaabbbbbb", "aaa------", "aaa------"]
    ),
    "back under another number": world(
        "xxx------", other="----xxxxx", people=["aaa-bbbbb"], closed=END_OF_MARCH
    ),
    "supplement alone": world("xxxssxxxx"),
    # April's benefit comes in May.
    "paid late": world(
        "xxxlxxxxx", closed=END_OF_MARCH, opened=TWELFTH_OF_APRIL, reported=RECERTIFIED
    ),
    "two spells": world("xx-xx-xxx"),
    "never back": world("xxx------", closed=END_OF_MARCH, reported=RECERTIFIED),
    # Closed at the end of March and back on 12 April: no month off.
    "within the month": world(
        "xxxxxxxxx", closed=END_OF_MARCH, opened=TWELFTH_OF_APRIL, reported=RECERTIFIED
    ),
    "interim report": world(
        "xxxxxxxxx", closed=END_OF_MARCH, opened=TWELFTH_OF_APRIL,
        reported={("a", 2): "interim_report"},
    ),
    "agency": world(
        "xxxxxxxxx", closed={("a", 2): (31, "agency_delay")}, opened=TWELFTH_OF_APRIL,
        reported=RECERTIFIED,
    ),
    "other reason": world(
        "xxxxxxxxx", closed={("a", 2): (31, "other")}, opened=TWELFTH_OF_APRIL, reported=RECERTIFIED
    ),
    "after 30 days": world(
        "xxxxxxxxx", closed={("a", 2): (31, PROCEDURAL)}, opened={("a", 3): 30},
        reported=RECERTIFIED,
    ),
    "after 31 days": world(
        "xxx-xxxxx", closed=END_OF_MARCH, opened={("a", 4): 1}, reported=RECERTIFIED
    ),
    # Out in August, the last month that is known but one.
    "open window": world("xxxxxxx-x", closed={("a", 6): (31, PROCEDURAL)}),
    "five months off": world("xx-----xx"),
    "approved": world("xxxxxxxxx", reported=RECERTIFIED),
    "due late": world("xxxxxxxxx", reported={("a", 8): "recertification"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def households(spark: SparkSession) -> tuple[dict[str, DataFrame], DataFrame]:
    """The tables of EDGES, the cases named `<place>/a`, and their exits."""
    tables = tables_of(spark, list(EDGES.values()))
    return tables, definitions.exits(tables, as_of=AS_OF).cache()


@pytest.fixture(scope="module")
def edges(households: tuple[dict[str, DataFrame], DataFrame]) -> dict[str, dict[str, Any]]:
    """Of each household: its exits, and by each definition the months with whether it churned."""
    found = households[1]
    answers: dict[str, dict[str, Any]] = {name: {"exits": []} for name in EDGES}
    names = list(EDGES)
    for (case, _), exit in sorted(told(found).items()):
        answers[names[int(case.partition("/")[0])]]["exits"].append(exit)
    for definition in DEFINITIONS.values():
        for row in definitions.events(definition, found).collect():
            own = answers[names[int(row["study_case_id"].partition("/")[0])]]
            own.setdefault(definition.name, {})[MONTHS.index(row["month"]) + 1] = row["churned"]
    return answers


def only(frame: DataFrame, *names: str) -> DataFrame:
    """The rows of those households."""
    return frame.where(F.col("study_case_id").isin([f"{list(EDGES).index(n)}/a" for n in names]))


def churn(edges: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, dict[int, bool | None]]:
    """By definition: the exits' months (1 is January) and whether each was churned."""
    return {key: value for key, value in edges[name].items() if key != "exits"}


def test_an_exit_is_the_last_month_issued_and_the_gap_the_months_between(edges: Any) -> None:
    (exit,) = edges["plain"]["exits"]
    assert (exit.month, exit.service_gap) == (2, 2)
    assert churn(edges, "plain")["fns_4m"] == {3: True}
    assert churn(edges, "five months off")["fns_4m"] == {2: False}


def test_a_month_of_nothing_is_no_exit(edges: Any) -> None:
    for name in ("zero payment", "open without benefit"):
        assert edges[name]["exits"] == [], name


def test_death_and_disqualification_are_no_churn(edges: Any) -> None:
    for name in ("deceased", "disqualified"):
        assert [exit.left for exit in edges[name]["exits"]] == [True]
        assert churn(edges, name) == {}


def test_after_a_split_people_decide(edges: Any) -> None:
    for name in ("new number", "split, most go on"):
        assert [exit for exit in edges[name]["exits"] if exit.left] == [], name
    (exit,) = edges["split, one goes on"]["exits"]
    assert exit.left and exit.returned_on is None
    (exit,) = edges["back under another number"]["exits"]
    assert (exit.left, exit.service_gap) == (True, 1)
    assert churn(edges, "back under another number")["fns_4m"] == {3: True}


def test_a_supplement_is_no_month(edges: Any) -> None:
    (exit,) = edges["supplement alone"]["exits"]
    assert (exit.month, exit.service_gap, exit.paid_gap) == (2, 2, 2)


def test_a_retroactive_payment_means_late_not_off(edges: Any) -> None:
    (exit,) = edges["paid late"]["exits"]
    assert (exit.late, exit.left) == (True, False)
    assert (exit.paid_gap, exit.service_gap) == (1, 0)
    assert churn(edges, "paid late") == {}


def test_an_open_window_is_null_even_for_who_is_back(edges: Any) -> None:
    (exit,) = edges["open window"]["exits"]
    assert exit.service_gap == 1
    assert churn(edges, "open window")["fns_4m"] == {7: None}
    assert churn(edges, "never back")["fns_4m"] == {3: False}


def test_the_definitions_differ_in_exit_and_window(edges: Any) -> None:
    assert churn(edges, "within the month") == {
        "ma_30d": {3: True}, "ca_90d": {3: True}, "sf_1m": {3: True}
    }  # fmt: skip
    assert churn(edges, "interim report") == {"ma_30d": {3: True}, "ca_90d": {3: True}}
    assert churn(edges, "agency") == {"ma_30d": {3: True}, "ca_90d": {3: True}}
    assert churn(edges, "other reason") == {"ca_90d": {3: True}}
    assert churn(edges, "after 30 days") == churn(edges, "within the month")
    assert churn(edges, "after 31 days") == {
        "fns_4m": {3: True}, "ma_30d": {3: False}, "ca_90d": {3: True}, "sf_1m": {3: False}
    }  # fmt: skip


def test_two_spells_in_a_year_count_once_a_case_year_and_twice_an_event(households: Any) -> None:
    tables, found = households
    names = ("two spells", "plain", "zero payment")
    churned = only(definitions.events(DEFINITIONS["fns_4m"], found), *names)
    issuances, cases = tables["dta_snap.issuances"], tables["dta_snap.cases"]
    served = only(definitions.service_months(issuances, cases), *names)
    # The second exit, in May, has a window of months that are not known yet.
    (year,) = definitions.per_case_year(churned, served).collect()
    assert year.asDict() == {"year": 2024, "cases": 3, "churned": 2, "rate": pytest.approx(2 / 3)}
    later = churned.withColumn("churned", F.coalesce("churned", F.lit(True)))
    (year,) = definitions.per_case_year(later, served).collect()
    assert year["churned"] == 2
    leavers = {r["month"].month: r.asDict() for r in definitions.per_leaver(later).collect()}
    assert {m: (r["leavers"], r["churned"]) for m, r in leavers.items()} == {
        2: (1, 1), 3: (1, 1), 5: (1, 1)
    }  # fmt: skip
    assert sorted(r["month"].month for r in definitions.per_leaver(churned).collect()) == [2, 3]


def test_the_rate_of_check_ins_waits_for_the_window(households: Any) -> None:
    tables, found = households
    names = ("within the month", "after 31 days", "approved", "due late")
    checkins = only(tables["dta_snap.checkins"], *names)
    rates = {}
    for name in ("ma_30d", "ca_90d"):
        definition = DEFINITIONS[name]
        told = definitions.per_checkin(
            definition, definitions.events(definition, found), checkins, through=MONTHS[-1]
        )
        rates[name] = [tuple(row) for row in told.collect()]
    assert rates["ma_30d"] == [(date(2024, 3, 1), 3, 1, pytest.approx(1 / 3))]
    assert rates["ca_90d"] == [(date(2024, 3, 1), 3, 2, pytest.approx(2 / 3))]


def test_a_label_of_return_is_mature_with_its_window(households: Any) -> None:
    tables, found = households
    names = ("within the month", "after 31 days", "never back", "approved", "due late")
    closed = cohort.labels(
        only(tables["dta_snap.checkins"], *names),
        closure_reasons=[PROCEDURAL], mature_after_days=0, as_of=AS_OF,
    ).cache()  # fmt: skip
    known = {row["label_known_on"] for row in closed.collect()}
    assert known == {date(2024, 4, 3), date(2024, 10, 3)}

    def labels(name: str, as_of: date = AS_OF) -> dict[str, tuple[int, date]]:
        definition = DEFINITIONS[name]
        churn = definitions.events(definition, found)
        made = cohort.churn_labels(closed, churn, tables["dta_snap.cases"], definition, as_of=as_of)
        return {
            list(EDGES)[int(row["study_case_id"].partition("/")[0])]: (
                row["label"], row["label_known_on"]
            )
            for row in made.collect()
        }  # fmt: skip

    # What falls due in March: thirty days end in April, ninety in June. September's is open.
    april, june = date(2024, 5, 3), date(2024, 7, 3)
    assert labels("ma_30d") == {
        "within the month": (1, april), "after 31 days": (0, april), "never back": (0, april),
        "approved": (0, april),
    }  # fmt: skip
    assert labels("ca_90d") == {
        "within the month": (1, june), "after 31 days": (1, june), "never back": (0, june),
        "approved": (0, june),
    }  # fmt: skip
    assert labels("ma_30d", date(2024, 5, 2)) == {}


def test_what_is_known_on_a_day_decides(households: Any) -> None:
    tables = {name: only(frame, "plain") for name, frame in households[0].items()}
    # April's file comes on 3 May: before it, nobody knows that March was the last month.
    assert definitions.exits(tables, as_of=date(2024, 5, 2)).count() == 0
    # August's, the fifth month after March, comes on 3 September.
    before = definitions.exits(tables, as_of=date(2024, 9, 2))
    (row,) = definitions.events(DEFINITIONS["fns_4m"], before).collect()
    assert (row["service_gap"], row["churned"]) == (2, None)


def test_certification_rules_hold_from_their_day(spark: SparkSession) -> None:
    of = "36_month_elder_disabled"
    rules = (
        *RULES,
        CertificationRule("12_month", date(2024, 2, 1), 6, 3, "a rule that came later"),
    )
    rows = [
        {"study_case_id": name, "month": month, "certification_type": kind,
         "certification_start": start}
        for name, kind, start in (
            ("before", "12_month", date(2024, 1, 1)), ("after", "12_month", date(2024, 2, 1)),
            ("too early", of, date(2018, 12, 1)), ("elder", of, date(2019, 1, 1)),
        )
        for month in (*MONTHS, date(2021, 11, 1), date(2021, 12, 1), date(2024, 12, 1))
    ]  # fmt: skip
    cases = frames(spark, {"cases": rows})["dta_snap.cases"]
    due = {
        (row["study_case_id"], row["month"], row["kind"])
        for row in definitions.due_by_rule(cases, rules).collect()
    }
    assert due == {
        ("before", date(2024, 12, 1), "recertification"),
        ("after", date(2024, 4, 1), "interim_report"),
        ("after", date(2024, 7, 1), "recertification"),
        ("elder", date(2021, 12, 1), "recertification"),
    }


def test_check_ins_are_processed_timely_untimely_late_or_not(spark: SparkSession) -> None:
    due = date(2024, 3, 31)

    def report(
        name: str, form: date | None, decision: str | None, back: date | None
    ) -> dict[str, Any]:
        return {"study_case_id": name, "report_month": date(2024, 4, 1), "kind": "recertification",
                "due_on": due, "form_received_on": form, "decision": decision,
                "reinstated_on": back}  # fmt: skip

    closed, later = "closed_not_completed", date(2024, 4, 20)
    rows = [
        report("timely", date(2024, 3, 15), "approved", None),
        report("untimely", date(2024, 3, 16), "approved", None),
        report("untimely too", date(2024, 3, 31), closed, later),
        report("late", date(2024, 4, 10), closed, later),
        report("denied", date(2024, 3, 2), closed, None),
        report("never", None, closed, None),
        report("after thirty days", date(2024, 5, 1), closed, date(2024, 5, 1)),
        {**report("open", date(2024, 3, 2), "approved", None), "due_on": date(2024, 4, 30)},
    ]
    checkins = frames(spark, {"checkins": rows})["dta_snap.checkins"]
    (row,) = definitions.processing(checkins, as_of=AS_OF).collect()
    assert tuple(row) == (date(2024, 3, 1), "recertification", 1, 2, 1, 3)
