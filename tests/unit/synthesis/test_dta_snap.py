"""Numbers of payments: one each, without the case's, at the scale of a state too; and outreach
calls, with which nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from concord.synthesis import dta_snap
from concord.synthesis.blocks import agency_numbers, make_block
from concord.synthesis.dta_snap import payment_numbers, tables
from concord.synthesis.periods import MONTHS_AT_MOST, Timeline

KINDS = ("regular", "prorated", "retroactive", "supplemental")


def test_payments_of_the_last_homes_and_months_are_numbered_exactly() -> None:
    homes, months, kinds = (
        part.ravel()
        for part in np.meshgrid(
            np.arange(9_999_900, 10_000_000),
            np.arange(MONTHS_AT_MOST - 20, MONTHS_AT_MOST),
            np.arange(len(KINDS)),
        )
    )
    kind = np.array(KINDS, dtype=object)[kinds]
    numbers = payment_numbers(7, homes, months, kind)
    assert len(set(numbers)) == len(homes)
    # In whole numbers without bound: 64 bits must not have overflowed on the way.
    first = int(payment_numbers(7, np.array([0]), np.array([0]), np.array(["regular"]))[0])
    payment = (int(homes[-1]) * MONTHS_AT_MOST + int(months[-1])) * len(KINDS) + int(kinds[-1])
    assert int(numbers[-1]) == (payment * 387_420_489 + first) % 10**11


def test_a_payment_s_number_does_not_hold_the_case_s() -> None:
    homes = np.arange(5000)
    cases = agency_numbers(7, "dta case", homes, 9)
    regular = np.full(len(homes), "regular", dtype=object)
    numbers = payment_numbers(7, homes, homes % 18, regular)
    assert not any(case in number for case, number in zip(cases, numbers, strict=True))


def test_outreach_calls_change_nothing_else(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = make_block(7, 0, 3000, timeline)
    called = tables(block).tables
    monkeypatch.setattr(dta_snap, "CALLED", 0.0)
    silent = tables(block).tables
    kind = called["contacts"].columns["contact_kind"]
    others = np.flatnonzero(kind != "call_out")
    assert 0 < len(kind) - len(others) == len(called["contacts"]) - len(silent["contacts"])
    for name, rows in silent.items():
        kept = others if name == "contacts" else np.arange(len(called[name]))
        assert np.array_equal(called[name].period[kept], rows.period)
        for column, values in rows.columns.items():
            with_calls = np.ma.asarray(called[name].columns[column])[kept]
            assert with_calls.tolist() == np.ma.asarray(values).tolist(), (name, column)
    numbers = called["contacts"].columns["contact_id"]
    assert len(set(numbers)) == len(numbers)
    days = called["contacts"].columns["contact_on"]
    assert np.all(np.diff(days) >= 0), "in the order of the days"
