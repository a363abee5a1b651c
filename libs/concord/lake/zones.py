"""Which zones of the lake a job may open, by its role in the settings (`job_roles`).

Inside one Python process this stops mistakes and honest code. Code that goes round the `Lake`, to
Spark or to the files, is stopped by storage permissions alone (docs/agreements.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from concord.errors import RefusedError
from concord.settings import JOB_ROLES, JobRole

STUDIES, VAULT = "studies", "vault"


@dataclass(frozen=True)
class Refusal:
    """What a job tried to open, as a path below the lake root, and why it may not."""

    place: str
    reason: str
    agreement: str | None = None


class Zones:
    """The zones of one job; `refusals` are for the access log (`access_log.kept_to_zones`)."""

    def __init__(self, job: str, roles: Mapping[str, JobRole] = JOB_ROLES) -> None:
        named = job.partition(" ")[0]
        found = ((name, role) for name, role in roles.items() if named in role.jobs)
        self._job = job
        self._name, self._role = next(found, ("", JobRole(jobs=(), reads=(), writes=())))
        self._asked: set[str] = set()
        self.refusals: list[Refusal] = []

    def open_study(self, agreement: str) -> None:
        """An agreement allowed what the job asked for: the job may open its study."""
        self._asked.add(agreement)

    def check(self, place: str | None, *, write: bool = False) -> None:
        """`place` is a path below the lake root, None what lies outside the lake.

        Raises RefusedError naming role, zone and setting, and notes the refusal.
        """
        # The landing area holds what the vault keeps.
        parts = unquote(place).strip("/").split("/") if place is not None else [VAULT]
        allowed = self._role.writes if write else self._role.reads
        if parts[0] not in allowed or ".." in parts:
            where = f"the zone {parts[0]}" if place is not None else "what lies outside the lake"
            self._refuse(place, f"may not {'write' if write else 'read'} {where}")
        elif parts[0] == STUDIES and self._role.studies != "all":
            study = parts[1] if len(parts) > 1 else ""
            if study not in self._asked:
                of = f"the study of {study}" if study else "all studies"
                what = f"may not open {of} in the zone {STUDIES}: no agreement allowed that here"
                self._refuse(place, what, study or None)

    def _refuse(self, place: str | None, what: str, agreement: str | None = None) -> None:
        role = f"has the role {self._name}, which" if self._name else "has no role, and"
        setting = f"job_roles.{self._name}" if self._name else "job_roles"
        shown = place if place is not None else "outside the lake"
        reason = (
            f"{shown}: the job {self._job} {role} {what}. Let a job do it whose role has the zone; "
            f"if it is this one's work, change {setting} in the settings"
        )
        self.refusals.append(Refusal(shown, reason, agreement))
        raise RefusedError(reason)
