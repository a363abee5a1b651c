"""A pure-Python model of what a feed's tables must hold after a history of deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from concord.ingest.manifest import first_day

Rows = Mapping[str, str]  # client id -> town
Contents = Mapping[str, Rows]  # period -> rows


@dataclass
class Model:
    """One feed under one load policy. `loaded` maps the agency's sequence to what it brought."""

    policy: str
    loaded: dict[int, Contents] = field(default_factory=dict)
    withdrawn: set[int] = field(default_factory=set)
    in_force: dict[str, int] = field(default_factory=dict)

    def deliver(self, sequence: int, contents: Contents) -> str:
        """Takes a delivery in; the status that it must get."""
        for period in contents:
            holder = self.in_force.get(period)
            if holder is not None and (self.policy == "append_only" or holder > sequence):
                return "rejected"
        self.loaded[sequence] = contents
        self.in_force.update(dict.fromkeys(contents, sequence))
        return "loaded"

    def withdraw(self, target: int) -> str:
        if target not in self.loaded or target in self.withdrawn:
            return "rejected"
        self.withdrawn.add(target)
        self.in_force = {p: s for p, s in self.in_force.items() if s != target}
        return "loaded"

    def rows(self) -> set[tuple[str, ...]]:
        """(client, town, period), or (client, town, valid_from, valid_to) for snapshots."""
        if self.policy == "upsert":
            newest: dict[str, tuple[str, int, str]] = {}
            for sequence, contents in self.loaded.items():
                if sequence in self.withdrawn:
                    continue
                for period, rows in contents.items():
                    for client, town in rows.items():
                        candidate = (period, sequence, town)
                        newest[client] = max(newest.get(client, candidate), candidate)
            return {(client, town, period) for client, (period, _, town) in newest.items()}
        states = {period: self.loaded[s][period] for period, s in self.in_force.items()}
        if self.policy != "snapshot":
            return {
                (c, town, period) for period, rows in states.items() for c, town in rows.items()
            }
        return self._versions(states)

    @staticmethod
    def _versions(states: Contents) -> set[tuple[str, ...]]:
        periods = sorted(states)
        found = set()
        for client in {c for rows in states.values() for c in rows}:
            started: tuple[str, str] | None = None
            for period in periods:
                town = states[period].get(client)
                if started and started[0] != town:
                    found.add((client, *started, str(first_day(period))))
                    started = None
                if town is not None and started is None:
                    started = (town, str(first_day(period)))
            if started:
                found.add((client, *started, "None"))
        return found
