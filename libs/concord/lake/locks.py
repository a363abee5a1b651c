"""One writing driver per table, across processes and machines.

A table's lock is the highest numbered file in `ops/_locks/<table>/`. To take the lock is to
create the next number, which only one process can (Storage.put_if_absent), and to find it the
highest still: who looked long ago may create a number that was used and cleared away, below the
living holder's. So taking over a dead holder's lock cannot take a living one's by mistake. The file
names its holder. A holder renews its file; a lock is stale when its process on this machine is
gone, or when it has not been renewed for `stale_after_seconds`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyspark.sql import SparkSession

from concord.errors import InfrastructureError, LockedError
from concord.lake.storage import Storage, join

RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. Times are seconds since 1970 by the holder's clock."""

    host: str
    pid: int
    process_started: str
    job: str
    run_id: str
    actor: str
    taken_at: float
    renewed_at: float
    released: bool = False

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.taken_at))
        who = f"{self.actor}@{self.host} pid {self.pid}"
        return f"job {self.job}, run {self.run_id}, {who}, since {since}"


def process_started(pid: int) -> str | None:
    """The kernel's start time of a process, to tell a reused pid; None when there is no process.

    '' where there is no /proc to ask and the process exists.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        # Field 22 of stat, counted after the command's name, which may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class Locks:
    """The locks of one lake as one job sees them."""

    def __init__(
        self, storage: Storage, root: str, *, job: str, run_id: str, actor: str, stale_after: float
    ) -> None:
        self._storage, self._folder = storage, join(root, "ops", "_locks")
        self._stale_after = stale_after
        self._me = Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=process_started(os.getpid()) or "",
            job=job,
            run_id=run_id,
            actor=actor,
            taken_at=0,
            renewed_at=0,
        )

    @classmethod
    def of(
        cls,
        spark: SparkSession,
        root: str,
        stale_after: float,
        *,
        job: str,
        run_id: str,
        actor: str,
    ) -> Locks:
        """The locks of the lake at `root`, for a job of this process."""
        storage = Storage(spark)
        return cls(storage, root, job=job, run_id=run_id, actor=actor, stale_after=stale_after)

    @contextmanager
    def hold(self, tables: Sequence[str], *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold all the tables' locks. Raises LockedError (exit 13) naming table and holder."""
        with ExitStack() as stack:
            # Sorted, so that two jobs that want the same tables cannot wait for each other.
            for table in sorted(tables):
                stack.enter_context(self._one(table, wait_seconds))
            yield

    def holder(self, table: str) -> Holder | None:
        """Who holds the table now, or None."""
        _, holder = self._latest(table)
        return None if holder is None or self._is_free(holder) else holder

    @contextmanager
    def _one(self, table: str, wait_seconds: float) -> Iterator[None]:
        path, mine = self._take(table, wait_seconds)
        done = threading.Event()
        renewing = threading.Thread(
            target=self._renew, args=(path, mine, done), name=f"lock {table}", daemon=True
        )
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            # A lock that can't be released becomes stale by itself; the job's error matters more.
            with suppress(InfrastructureError):
                self._storage.write(path, _encode(replace(mine, released=True)))

    def _take(self, table: str, wait_seconds: float) -> tuple[str, Holder]:
        deadline = time.monotonic() + wait_seconds
        while True:
            number, holder = self._latest(table)
            if holder is None or self._is_free(holder):
                now = time.time()
                mine = replace(self._me, taken_at=now, renewed_at=now)
                path = self._path(table, number + 1)
                if self._storage.put_if_absent(path, _encode(mine)):
                    if max(self._numbers(table), default=0) == number + 1:
                        self._forget_before(table, number)
                        return path, mine
                    with suppress(InfrastructureError):
                        self._storage.delete(path)
                continue
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{table} is held by {holder}. Wait for it to end and run this again; if that "
                    f"process is dead, the lock frees itself {self._stale_after:.0f} seconds after "
                    "its last sign of life."
                )
            time.sleep(RETRY_SECONDS)

    def _latest(self, table: str) -> tuple[int, Holder | None]:
        number = max(self._numbers(table), default=0)
        if not number:
            return 0, None
        try:
            content = json.loads(self._storage.read(self._path(table, number)))
            return number, Holder(**content)
        except InfrastructureError:
            if number in self._numbers(table):
                raise
            # The next holder cleared it away between listing and reading.
            return self._latest(table)
        except (ValueError, TypeError):
            # Being written right now, or its writer died in between: its age decides.
            entries = self._storage.list(join(self._folder, table))
            modified = max((entry.modified for entry in entries), default=0) / 1000
            unknown = replace(self._me, host="?", pid=0, job="?", run_id="?", actor="?")
            return number, replace(unknown, taken_at=modified, renewed_at=modified)

    def _numbers(self, table: str) -> list[int]:
        names = self._storage.names(join(self._folder, table))
        return [int(name.removesuffix(".json")) for name in names if name[0].isdigit()]

    def _is_free(self, holder: Holder) -> bool:
        if holder.released or time.time() - holder.renewed_at > self._stale_after:
            return True
        if holder.host != self._me.host:
            return False
        return process_started(holder.pid) != holder.process_started

    def _renew(self, path: str, mine: Holder, done: threading.Event) -> None:
        while not done.wait(self._stale_after / 4):
            with suppress(InfrastructureError):
                self._storage.write(path, _encode(replace(mine, renewed_at=time.time())))

    def _forget_before(self, table: str, number: int) -> None:
        for old in self._numbers(table):
            if old < number:
                with suppress(InfrastructureError):
                    self._storage.delete(self._path(table, old))

    def _path(self, table: str, number: int) -> str:
        return join(self._folder, table, f"{number:012d}.json")


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()
