"""Exits and churn by loops over a household's months in plain Python, to compare Spark with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

MONTHS = [date(2024, month, 1) for month in range(1, 10)]
AGO = date(2022, 1, 1)
# State of a case in a month -> how it is paid: how many months late the money comes, or None.
STATES = {"on": 0, "nothing": 0, "open": 0, "late": 1, "same": 0, "extra": None, "off": None}
SERVED = frozenset({"on", "nothing", "open", "late", "same"})
RETROACTIVE = frozenset({"late", "same"})
Rows = dict[str, list[dict[str, Any]]]


def last_day(month: date) -> date:
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


@dataclass(frozen=True)
class World:
    """Cases and people over MONTHS; all by the number of the month.

    `states`: `on` regular, `nothing` a payment of 0, `open` no payment for the benefit is 0,
    `late` and `same` retroactive (paid a month after, or in, the month), `extra` a supplement
    alone, `off`. `closed`: (day, reason) of a closure in the month. `opened`: the day in the month
    from which the present spell runs. `people`: each one's case by month. `reported`: kind of a
    check-in due. `certified`: type, and the month in which it began.
    """

    states: Mapping[str, Sequence[str]]
    closed: Mapping[tuple[str, int], tuple[int, str]]
    opened: Mapping[tuple[str, int], int]
    people: Sequence[Sequence[str | None]]
    reported: Mapping[tuple[str, int], str]
    certified: Mapping[str, tuple[str, int]]

    def begun(self, case: str, month: int) -> date:
        """Begin of the spell that the file of the month tells of."""
        days = [m for (c, m) in self.opened if c == case and m <= month]
        return MONTHS[max(days)].replace(day=self.opened[case, max(days)]) if days else AGO


def rows(world: World, name: str) -> Rows:
    """The study's tables of a world; its cases and people get `name` before their own."""
    found: Rows = {t: [] for t in ("issuances", "cases", "persons", "checkins")}
    for case, states in world.states.items():
        for number, month in enumerate(MONTHS):
            state, own = states[number], {"study_case_id": name + case}
            kinds = {"late": "retroactive", "same": "retroactive", "extra": "supplemental"}
            if state not in ("off", "open"):
                issued = number + (STATES[state] or 0)
                if issued < len(MONTHS):
                    found["issuances"].append(
                        {**own, "month": MONTHS[issued], "benefit_month": month,
                         "issuance_type": kinds.get(state, "regular"),
                         "amount": Decimal(0 if state == "nothing" else 90)}
                    )  # fmt: skip
            day, reason = world.closed.get((case, number), (None, None))
            kind, start = world.certified[case]
            found["cases"].append(
                {**own, "month": month, "status": "A" if state in SERVED and not day else "C",
                 "benefit_amount": Decimal(90 if state in SERVED - {"open"} else 0),
                 "opened_on": world.begun(case, number),
                 "closed_on": day and month.replace(day=day), "closure_reason": reason,
                 "certification_type": kind,
                 "certification_start": date(2024 + start // 12, start % 12 + 1, 1)}
            )  # fmt: skip
            if (case, number) in world.reported:
                found["checkins"].append(
                    {**own, "report_month": month, "due_on": last_day(month),
                     "kind": world.reported[case, number], "closure_reason": reason}
                )  # fmt: skip
    for number, where in enumerate(world.people):
        for month, case in enumerate(where):
            if case is not None:
                found["persons"].append(
                    {"study_case_id": name + case, "study_person_id": f"{name}{number}",
                     "month": MONTHS[month]}
                )  # fmt: skip
    return found


@dataclass(frozen=True)
class Exit:
    """As a row of `definitions.exits`; the months are numbers."""

    case: str
    month: int
    closed_on: date
    reason: str | None
    kind: str | None
    returned_on: date | None
    service_gap: int | None
    paid_gap: int | None
    late: bool
    left: bool


def exits(world: World) -> list[Exit]:
    last = len(MONTHS) - 1

    def served(case: str, month: int) -> bool:
        state = world.states[case][month]
        # A payment that is still to come is not known.
        known = state != "late" or month + 1 <= last
        # An open case that was closed in the month is not open at its end.
        return state in SERVED and known and not (state == "open" and (case, month) in world.closed)

    def paid(case: str, month: int) -> bool:
        state = world.states[case][month]
        before = month > 0 and world.states[case][month - 1] == "late"
        return (served(case, month) and state != "late") or before

    def on(case: str, month: int, then: int, what: Any) -> tuple[bool, list[str]] | None:
        """Whether by the own case, and the cases by which the household is on; None when it is
        not."""
        if what(case, then):
            return True, [case]
        crew = [where for where in world.people if where[month] == case]
        by = [where[then] for where in crew if where[then] not in (None, case)]
        by = [other for other in by if what(other, then)]
        return (False, [o for o in by if o]) if crew and 2 * len(by) >= len(crew) else None

    found = []
    for case in world.states:
        for month in range(last):
            told = world.closed.get((case, month))
            stops = served(case, month) and not served(case, month + 1)
            unpaid = paid(case, month) and not paid(case, month + 1)
            if not served(case, month) or not (stops or unpaid or told):
                continue
            first = paid_in = None
            for then in range(month + 1, last + 1):
                if first is None and on(case, month, then, served):
                    first = then
                if paid_in is None and on(case, month, then, paid):
                    paid_in = then
            goes_on = first == month + 1
            closure, closed_on = told, None
            if told:
                closed_on = MONTHS[month].replace(day=told[0])
            elif not goes_on and (case, month + 1) in world.closed:
                closure = world.closed[case, month + 1]
                closed_on = MONTHS[month + 1].replace(day=closure[0])
            closed_on = closed_on or last_day(MONTHS[month])
            late, left, returned = False, not goes_on, None
            if first is not None:
                own, by = on(case, month, first, served) or (False, [])
                opened = min(world.begun(c, first) for c in by)
                late = goes_on and all(world.states[c][first] in RETROACTIVE for c in by)
                if goes_on and told and not late:
                    left = opened > closed_on + timedelta(days=0 if own else 1)
                if left:
                    returned = opened if opened > closed_on else MONTHS[first]
            kind = world.reported.get((case, month))
            if kind is None:
                of, start = world.certified[case]
                length, interim = {"12_month_interim": (12, 6), "12_month": (12, 0)}[of]
                nth = month - start + 1
                kind = "recertification" if nth == length else None
                kind = "interim_report" if interim and nth == interim else kind
            found.append(
                Exit(
                    case,
                    month,
                    closed_on,
                    closure[1] if closure else None,
                    kind,
                    returned,
                    None if first is None else first - month - 1,
                    None if paid_in is None else paid_in - month - 1,
                    late,
                    left,
                )  # fmt: skip
            )
    return found


def churned(definition: str, exit: Exit) -> bool | None | str:
    """True, False, None while the window is open, or `no event`."""
    last = MONTHS[-1]
    if not exit.left or exit.reason in ("deceased", "disqualified"):
        return "no event"
    procedural = exit.reason == "checkin_not_completed"
    counts = {
        "fns_4m": exit.service_gap != 0,
        "ma_30d": exit.kind is not None and (procedural or exit.reason == "agency_delay"),
        "ca_90d": exit.kind is not None,
        "sf_1m": exit.kind == "recertification" and procedural,
    }[definition]
    if not counts:
        return "no event"
    if definition == "fns_4m":
        if exit.month + 5 >= len(MONTHS):
            return None
        return exit.service_gap is not None and exit.service_gap <= 4
    if definition == "sf_1m":
        until = last_day(last_day(exit.closed_on) + timedelta(days=1))
    else:
        until = exit.closed_on + timedelta(days=30 if definition == "ma_30d" else 90)
    if until > last_day(last):
        return None
    return exit.returned_on is not None and exit.returned_on <= until
