"""Every error Concord raises on purpose, each with its process exit code.

Exit codes are an API: schedulers branch on them and docs/runbook.md explains each.
A message says what went wrong, where, and what to do, and never prints a value from an
identifying column.
"""

from __future__ import annotations

from collections.abc import Iterable


class ConcordError(Exception):
    """Base of the tree. `exit_code` 1 marks a bug: something no one foresaw."""

    exit_code = 1


class UsageError(ConcordError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 2


class ConfigError(ConcordError):
    """A configuration or contract file is wrong. Carries every problem found, not the first."""

    exit_code = 10

    def __init__(self, problems: Iterable[object]) -> None:
        self.problems = [str(problem) for problem in problems]
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the configuration:"
        super().__init__("\n  ".join([head, *self.problems]))


class DeliveryError(ConcordError):
    """A delivery's integrity fails: hash, totals, header, encoding, schema."""

    exit_code = 11

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = list(reasons)
        super().__init__("; ".join(self.reasons))


class QualityError(ConcordError):
    """Not good enough: too many rows of a delivery break their contract's rules, or a model misses
    what a promotion asks for. Nothing was published."""

    exit_code = 12


class LockedError(ConcordError):
    """Another run holds the table."""

    exit_code = 13


class RefusedError(ConcordError):
    """An agreement does not allow it."""

    exit_code = 14


class DisclosureError(ConcordError):
    """Disclosure control does not allow the release."""

    exit_code = 15


class AuditError(ConcordError):
    """The access log is not what was written: a row was changed, taken out or put in."""

    exit_code = 16


# No error: `drift` did its work, and what it measured is beyond a limit of the model's file.
DRIFT_ALARM = 17


class InfrastructureError(ConcordError):
    """Storage, network or cluster failed; worth a retry."""

    exit_code = 20
