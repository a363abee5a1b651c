"""Named points of a job at which a test, or an operator's drill, can kill it.

`CONCORD_KILL_AT=<point>` ends the process there, at once and without clean-up, as a lost machine
would. docs/runbook.md lists the points; a rerun must give the tables of an undisturbed run.
"""

from __future__ import annotations

import os
import signal


def reach(point: str) -> None:
    """Die here if the environment says so."""
    if os.environ.get("CONCORD_KILL_AT") == point:
        die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
