"""The `expire` job: what begins to end, what has ended, what is overdue; and destruction on demand.

Nothing has to run for an agreement to end: the day alone ends it, and every job asks. This job
tells, once a day, and writes the day's anchor of the logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from concord.agreements import audit
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.lake.run import Run
from concord.lake.tables import Lake
from concord.studies import destruction


@dataclass(frozen=True)
class Told:
    """How one agreement stands towards its end."""

    agreement: str
    state: str
    message: str
    overdue: bool = False


def tell(lake: Lake, register: Register, today: date) -> list[Told]:
    """Every agreement that is about to end, or has ended and holds data that is to be destroyed."""
    found = []
    for name in register.known:
        standing = register.standing(name, today)
        if standing is None:
            continue
        dula = standing.terms
        if standing.state == "expiring":
            left = (dula.term.expires - today).days
            message = f"ends in {left} days, on {dula.term.expires}: renew it, or plan its end"
            found.append(Told(name, standing.state, message))
        over = register.ended(name, today)
        if over is not None and destruction.held(lake, name):
            ended, last = over
            due = destruction.due(ended, last)
            overdue = today > due
            message = f"ended on {last}; its data is to be destroyed by {due}" + (
                ", which is past" if overdue else ""
            )
            found.append(Told(name, standing.state, message, overdue))
    return found


def expire(
    run: Run,
    register: Register,
    contracts: Mapping[str, Contract],
    agreements: Sequence[str] = (),
) -> list[Told]:
    """Tells, and destroys what was held under the agreements named. Raises as `destroy` does."""
    for name in agreements:
        made = destruction.destroy(run, register, name, contracts)
        count = len(made["destroyed"]["tables"])
        run.reporter.say(f"{name}: {count} tables destroyed; certificate in ops/_certificates")
    told = [
        each
        for each in tell(run.lake, register, run.clock().date())
        if each.agreement not in agreements
    ]
    for each in told:
        run.reporter.say(f"{each.agreement}: {each.message}", agreement=each.agreement)
    if not run.dry_run:
        audit.anchor(run.lake, run.clock().date())
    return told
