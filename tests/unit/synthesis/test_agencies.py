"""What the generators of colleges, home visiting, rehabilitation, families, housing, the workforce
and rides plant: rates within intervals, and people whom the other feeds know.

Intervals are Wilson's with four standard errors in place of two: a rate that is right fails once
in some ten thousand times, and one seed is looked at.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable

import numpy as np
import pytest

from concord.contracts.odcs import load_contract
from concord.synthesis import (
    ct_home_visiting,
    dcf_families,
    dese_enrollment,
    dhe_enrollment,
    dpu_rides,
    dua_wages,
    housing_assistance,
    hrd_employees,
    mrc_vocational,
)
from concord.synthesis.blocks import Block, FeedPart, make_block
from concord.synthesis.people import YEAR
from concord.synthesis.periods import Timeline, date, day
from concord.towns import municipalities

from .conftest import CONTRACTS

Made = list[tuple[Block, FeedPart]]
ERRORS_AWAY = 4.0


def made(blocks: list[Block], tables: Callable[[Block], FeedPart]) -> Made:
    return [(block, tables(block)) for block in blocks]


def column(parts: Made, table: str, name: str) -> np.ndarray:
    """A column of all blocks, -1 where masked."""
    columns = [part.tables[table].columns[name] for _, part in parts]
    return np.concatenate([np.ma.filled(values, -1) for values in columns])


def truth(parts: Made, table: str, name: str) -> np.ndarray:
    return np.concatenate([part.truth[table][name] for _, part in parts])


def about(rate: float, hits: np.ndarray) -> None:
    """The share of true `hits` is one that `rate` gives."""
    n, p, z = len(hits), float(hits.mean()), ERRORS_AWAY
    middle, below = p + z * z / (2 * n), 1 + z * z / n
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (middle - spread) / below <= rate <= (middle + spread) / below, (p, rate, n)


# --- colleges ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colleges(blocks: list[Block]) -> Made:
    return made(blocks, dhe_enrollment.tables)


def test_early_college_raises_college_going_by_its_effect(colleges: Made) -> None:
    going, goes = truth(colleges, "college", "going"), truth(colleges, "college", "goes")
    early = truth(colleges, "college", "early_college")
    about(float(going[early].mean()), goes[early])
    about(float(going[~early].mean()), goes[~early])
    about(dhe_enrollment.GOING, goes[~early])
    # A plain comparison understates the effect: those in need take it more often.
    plain = float(going[early].mean() - going[~early].mean())
    assert 0.02 < dhe_enrollment.EARLY_COLLEGE_EFFECT - plain < 0.12


def test_students_finished_school_or_are_pupils_in_early_college(colleges: Made) -> None:
    for block, part in colleges[:4]:
        pupils = dese_enrollment.tables(block).subjects[0].person
        rows = part.tables["enrollments"].columns
        (known,) = part.subjects
        person = dict(zip(known.source_key.tolist(), known.person.tolist(), strict=True))
        who = np.array([person[key] for key in rows["student_id"].tolist()])
        age = (rows["term"] - block.people.birth[who]) / YEAR
        early = rows["student_type"] == "EC"
        assert early.any() and np.isin(who[early], pupils).all()
        assert ((age[early] > 14.9) & (age[early] < 18.9)).all()
        assert (age[~early] > 17.5).all()
        # A first-time student of 18 lately left a school that the other feed knows.
        fresh = (rows["student_type"] == "FT") & (age < 18.7)
        at_home = block.people.position[who] == 2
        assert np.isin(who[fresh & at_home], pupils).mean() > 0.9


def test_credits_are_passed_as_early_college_publishes(colleges: Made) -> None:
    early = column(colleges, "enrollments", "student_type") == "EC"
    earned = column(colleges, "enrollments", "credits_earned")[early]
    courses = column(colleges, "enrollments", "credits_attempted")[early] // 3
    passed = np.repeat(True, earned.sum() // 3)
    failed = np.repeat(False, courses.sum() - len(passed))
    about(dhe_enrollment.EARLY_PASS, np.concatenate([passed, failed]))  # 85 to 88 %


def test_awards_end_what_was_begun(colleges: Made) -> None:
    award = column(colleges, "enrollments", "award_conferred")
    sought = column(colleges, "enrollments", "award_sought")
    given = np.array([value is not None for value in award])
    assert given.any()
    assert (award[given] == sought[given]).all()
    index = np.concatenate([part.tables["enrollments"].period for _, part in colleges])
    students = column(colleges, "enrollments", "student_id")[given]
    assert len(set(students.tolist())) == len(students), "one award a student"
    terms = dict(zip(students.tolist(), index[given].tolist(), strict=True))
    everyone = column(colleges, "enrollments", "student_id").tolist()
    later = [i > terms[s] for s, i in zip(everyone, index.tolist(), strict=True) if s in terms]
    assert not any(later)


# --- home visiting -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits(blocks: list[Block]) -> Made:
    return made(blocks, ct_home_visiting.tables)


def test_parents_are_young_mothers_of_the_infant(visits: Made) -> None:
    for block, part in visits:
        people = block.people
        parents, children = (known.person for known in part.subjects)
        assert (people.sex[parents] == 0).all()
        assert np.isin(people.mother[children], parents).all()
        age = (people.birth[children] - people.birth[people.mother[children]]) / YEAR
        assert (age < ct_home_visiting.OLDEST).all()


def test_dates_are_typed_in_forms_that_the_contract_reads_but_for_the_vague(visits: Made) -> None:
    vague = truth(visits, "typed_dates", "vague")
    about(ct_home_visiting.VAGUE, vague)
    patterns = {
        "MM/dd/yyyy": "%m/%d/%Y", "M/d/yyyy": "%m/%d/%Y", "M/d/yy": "%m/%d/%y",
        "MMMM d, yyyy": "%B %d, %Y", "d-MMM-yy": "%d-%b-%y", "yyyy-MM-dd": "%Y-%m-%d",
    }  # fmt: skip
    families = load_contract(CONTRACTS / "ct_home_visiting.yaml").table("families")
    forms = [patterns[form] for form in families.field("enrolled_on").date_formats]

    def read(text: str) -> dt.date | None:
        for form in forms:
            try:
                return dt.datetime.strptime(text, form).date()  # noqa: DTZ007 (a day, no time)
            except ValueError:
                continue
        return None

    days, texts = truth(visits, "typed_dates", "day"), truth(visits, "typed_dates", "text")
    for text, when, unclear in zip(texts.tolist(), days.tolist(), vague.tolist(), strict=True):
        assert read(text) == (None if unclear else when), text


# --- vocational rehabilitation -------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(blocks: list[Block]) -> Made:
    return made(blocks, mrc_vocational.tables)


def test_placements_have_wages_in_the_wage_records(cases: Made) -> None:
    placed = 0
    for block, part in cases:
        rows, quarters = part.tables["cases"].columns, block.timeline.quarters
        (known,) = part.subjects
        person = dict(zip(known.source_key.tolist(), known.person.tolist(), strict=True))
        who = np.array([person[key] for key in rows["client_id"].tolist()])
        assert block.people.disabled[who].all()
        firsts = np.array([quarter.first for quarter in quarters])
        job = np.flatnonzero(~np.ma.getmaskarray(rows["placed_on"]))
        quarter = np.searchsorted(firsts, rows["placed_on"][job].filled(0), "right") - 1
        assert (block.work.earnings[block.work.row[who[job]], quarter] > 0).all()
        placed += len(job)
    assert placed > 500


def test_clients_do_better_than_others_though_nothing_was_done(
    blocks: list[Block], cases: Made
) -> None:
    assert not truth(cases, "vocational", "true_effect").any()
    clients, others = [], []
    for block, part in cases:
        work, last = block.work, len(block.timeline.quarters) - 1
        age = block.people.age(block.timeline.start)[work.person]
        able = block.people.disabled[work.person] & (age >= 18) & (age < 63)
        idle = able & (work.earnings[:, 2] == 0)
        served = np.isin(work.person, np.unique(part.subjects[0].person))
        works = (work.earnings[:, last - 3 :] > 0).any(axis=1)
        clients.append(works[idle & served])
        others.append(works[idle & ~served])
    assert np.concatenate(clients).mean() > np.concatenate(others).mean() + 0.1


# --- families, housing ---------------------------------------------------------------------------


def test_families_with_a_case_have_children_and_three_in_a_hundred_do(blocks: list[Block]) -> None:
    families = made(blocks, dcf_families.tables)
    month, children, minors = 9, 0, 0
    for block, part in families:
        people, rows = block.people, part.tables["members"]
        member = part.subjects[0]
        person = dict(zip(member.source_key.tolist(), member.person.tolist(), strict=True))
        child = rows.columns["case_role"] == "C"
        who = np.array([person[key] for key in rows.columns["person_id"].tolist()])
        assert (people.position[who[child]] == 2).all()
        assert np.isin(people.household[who], people.household[who[child]]).all()
        assert not rows.columns["placed"][~child].any()
        first = block.timeline.month(month).first
        children += int((child & (rows.period == month)).sum())
        minors += int(((people.age(first) < 18) & people.alive(first)).sum())
    assert 0.02 <= children / minors <= 0.04
    contract = load_contract(CONTRACTS / "dcf_families.yaml")
    assert len(contract.tables[0].fields) <= 10, "few columns"
    names = contract.tables[0].subjects[0].identifiers or {}
    assert not {"ssn", "address_line1", "phones"} & set(names)


def test_housing_has_shelters_for_addresses_and_numbers_of_four_digits(
    blocks: list[Block],
) -> None:
    stays = made(blocks, housing_assistance.tables)
    address = column(stays, "stays", "address_line1")
    shelter = [text is None or text.startswith("Family Shelter") for text in address.tolist()]
    assert 0.5 <= np.mean(shelter) <= 0.7  # 60 %
    # By record: rows of a stay, and stays of a person, are not independent.
    records = np.unique(column(stays, "stays", "client_id"), return_index=True)[1]
    four = column(stays, "stays", "ssn_last4")[records]
    nine = column(stays, "stays", "ssn")[records]
    have = np.array([[n is not None, f is not None] for n, f in zip(nine, four, strict=True)])
    about(0.70, have[:, 0])
    about(0.08, have[:, 1])
    assert not have.all(axis=1).any()


# --- the workforce -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workforce(blocks: list[Block]) -> Made:
    return made(blocks, hrd_employees.tables)


def test_employees_have_wages_from_the_commonwealth(workforce: Made) -> None:
    accounts = {str(10_000_000 + account * 37) for account in hrd_employees.ACCOUNTS}
    for block, part in workforce[:3]:
        wages = dua_wages.tables(block)
        paid = wages.tables["wages"]
        worker = dict(zip(wages.subjects[0].source_key.tolist(),
                          wages.subjects[0].person.tolist(), strict=True))  # fmt: skip
        keys = (paid.columns["employer_account"] + "|" + paid.columns["ssn"]).tolist()
        at_state = {
            (worker[key], quarter)
            for key, account, quarter in zip(
                keys, paid.columns["employer_account"], paid.period.tolist(), strict=True
            )
            if account in accounts
        }
        rows, (known,) = part.tables["employees"], part.subjects
        person = dict(zip(known.source_key.tolist(), known.person.tolist(), strict=True))
        listed = {
            (person[key], quarter)
            for key, quarter in zip(
                rows.columns["employee_id"].tolist(), rows.period.tolist(), strict=True
            )
        }
        assert len(listed) > 300
        assert listed <= at_state


def test_start_and_hires_less_separations_is_the_end(workforce: Made) -> None:
    for block, part in workforce:
        employees, events = part.tables["employees"], part.tables["events"]
        count = len(block.timeline.quarters)
        head = np.bincount(employees.period, minlength=count)
        kind = events.columns["event"]
        hires = np.bincount(events.period[kind == "hire"], minlength=count)
        leavers = np.bincount(events.period[kind == "separation"], minlength=count)
        assert (head[1:] == head[:-1] + hires[1:] - leavers[1:]).all()


def test_transfers_and_hires_explain_each_department(workforce: Made) -> None:
    for _, part in workforce[:4]:
        employees, events = part.tables["employees"].columns, part.tables["events"].columns
        quarter = part.tables["employees"].period
        at = {
            (employee, q): department
            for employee, q, department in zip(
                employees["employee_id"], quarter.tolist(), employees["department"], strict=True
            )
        }
        moved = {
            (employee, q)
            for employee, q, kind in zip(
                events["employee_id"], part.tables["events"].period.tolist(), events["event"],
                strict=True,
            )
            if kind == "transfer"
        }  # fmt: skip
        for (employee, q), department in at.items():
            before = at.get((employee, q - 1))
            if before is not None:
                assert (department != before) == ((employee, q) in moved)


def test_women_are_promoted_less_often_by_the_planted_gap(workforce: Made) -> None:
    rates = truth(workforce, "promotions", "promotion_rate")
    ids = truth(workforce, "promotions", "employee_id")
    women = dict(zip(ids.tolist(), (rates < rates.max()).tolist(), strict=True))
    quarters = np.concatenate([part.tables["employees"].period for _, part in workforce])
    listed = column(workforce, "employees", "employee_id")
    kind = column(workforce, "events", "event")
    promoted = column(workforce, "events", "employee_id")[kind == "promotion"].tolist()
    for sex, rate in ((False, hrd_employees.PROMOTION),
                      (True, hrd_employees.PROMOTION * hrd_employees.PROMOTION_GAP)):  # fmt: skip
        # Those who are there after the first quarter and were not hired in it.
        hired = np.isin(kind, ["hire"])
        joins = sum(women[e] == sex for e in column(workforce, "events", "employee_id")[hired])
        of = sum(women[e] == sex for e in listed[quarters > 0].tolist()) - joins
        hits = sum(women[e] == sex for e in promoted)
        about(rate, np.arange(of) < hits)
    female = column(workforce, "employees", "gender_code") == "F"
    assert 0.52 <= female.mean() <= 0.57  # 54.3 %


# --- rides ---------------------------------------------------------------------------------------


def test_rides_are_those_of_the_state_whoever_lives_in_it(timeline: Timeline) -> None:
    few, many = make_block(7, 0, 300, timeline), make_block(7, 0, 900, timeline)
    first, second = dpu_rides.tables(few), dpu_rides.tables(many)
    assert first.subjects == []
    for name, values in first.tables["flows"].columns.items():
        assert np.array_equal(values, second.tables["flows"].columns[name])
    assert not len(dpu_rides.tables(make_block(7, 1, 300, timeline)).tables["flows"])
    other = dpu_rides.tables(make_block(8, 0, 300, timeline)).tables["flows"]
    assert not np.array_equal(other.columns["rides"], first.tables["flows"].columns["rides"])


def test_rides_are_as_the_department_published_them(blocks: list[Block]) -> None:
    rows = dpu_rides.tables(blocks[0]).tables["flows"]
    flows = {name: values[rows.period == 0] for name, values in rows.columns.items()}
    rides = flows["rides"]
    assert set(flows["year"].tolist()) == {2023}
    assert 77.5e6 <= rides.sum() <= 79.5e6  # 78.7 million
    boston = rides[flows["origin"] == "Boston"].sum() / rides.sum()
    assert 0.48 <= boston <= 0.55  # 54 % in 2017, 50 % in 2019
    assert 4.2 <= (rides * flows["miles"]).sum() / rides.sum() <= 4.8  # 4.5
    assert 14.6 <= (rides * flows["minutes"]).sum() / rides.sum() <= 16.2  # 15.4
    people = {town["municipality"]: int(town["population"]) for town in municipalities()}
    assert set(flows["origin"].tolist()) <= set(people)
    starts = [(people[town], rides[flows["origin"] == town].sum()) for town in people]
    assert np.corrcoef(np.log1p(np.array(starts, dtype=float)).T)[0, 1] > 0.8
    assert (flows["assessment"] == 20 * rides).all()


def test_a_year_is_reported_when_all_of_its_quarters_are_there() -> None:
    def names(first: dt.date, months: int) -> list[str]:
        return [year.name for year in dpu_rides.years(Timeline(first, months))]

    assert names(dt.date(2024, 1, 1), 18) == ["2023", "2024"]
    assert names(dt.date(2024, 1, 1), 11) == ["2023"]
    assert names(dt.date(2024, 4, 1), 2) == []
    (year,) = dpu_rides.years(Timeline(dt.date(2024, 1, 1), 3))
    assert (date(year.first), year.last) == (dt.date(2023, 1, 1), day(dt.date(2023, 12, 31)))
