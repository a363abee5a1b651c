"""One holder per table, whatever becomes of processes and machines."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from concord.errors import InfrastructureError, LockedError
from concord.lake import locks
from concord.lake.locks import Holder, Locks, process_started
from concord.lake.storage import FileInfo

TABLE = "curated/tiny_clients"


class Disk:
    """What locks need of Storage, on a local folder and without Spark."""

    def list(self, path: str) -> list[FileInfo]:
        folder = Path(path)
        found = []
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            modified = int(status.st_mtime * 1000)
            found.append(FileInfo(str(entry), entry.name, status.st_size, modified, False))
        return found

    def names(self, path: str) -> list[str]:
        folder = Path(path)
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def read(self, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise InfrastructureError(f"{path}: {error.strerror}") from None

    def write(self, path: str, content: bytes) -> None:
        Path(path).write_bytes(content)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            with Path(path).open("xb") as stream:
                stream.write(content)
        except FileExistsError:
            return False
        return True

    def delete(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)


def locks_of(root: Path, *, job: str = "ingest", stale_after: float = 60, disk: Disk | None = None):
    return Locks(
        disk or Disk(),  # type: ignore[arg-type]  # a store without Spark
        str(root),
        job=job,
        run_id=f"{job}-run",
        actor="tester",
        stale_after=stale_after,
    )


def files(root: Path) -> list[Path]:
    return sorted((root / "ops" / "_locks" / TABLE).glob("*"))


def held_by(root: Path, **changes: object) -> Path:
    """A lock file as somebody else would have left it."""
    now = time.time()
    holder = Holder(
        host="another-machine",
        pid=1,
        process_started="1",
        job="publish",
        run_id="run-7",
        actor="someone",
        taken_at=now,
        renewed_at=now,
    )
    path = root / "ops" / "_locks" / TABLE / f"{1:012d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(replace(holder, **changes))))  # type: ignore[arg-type]
    return path


def eventually(true: Callable[[], bool], within: float = 10) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return False


def test_a_second_holder_is_refused_and_told_the_table_and_who_holds_it(tmp_path: Path) -> None:
    with locks_of(tmp_path, job="ingest").hold([TABLE]):
        with pytest.raises(LockedError) as refused:
            with locks_of(tmp_path, job="publish").hold([TABLE]):
                pytest.fail("two jobs hold the table")

    assert refused.value.exit_code == 13
    for part in (TABLE, "job ingest", "ingest-run", f"tester@{socket.gethostname()}"):
        assert part in str(refused.value)
    assert str(os.getpid()) in str(refused.value)


def test_a_released_lock_is_taken_at_once(tmp_path: Path) -> None:
    for _ in range(3):
        with locks_of(tmp_path).hold([TABLE]):
            pass
    assert locks_of(tmp_path).holder(TABLE) is None
    # A released lock keeps no more than the file before it: the folder does not grow.
    assert len(files(tmp_path)) <= 2


def test_a_lock_is_released_when_the_job_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with locks_of(tmp_path).hold([TABLE]):
            raise ZeroDivisionError
    with locks_of(tmp_path, job="publish").hold([TABLE]):
        pass


def test_other_tables_are_free_while_one_is_held(tmp_path: Path) -> None:
    with locks_of(tmp_path).hold([TABLE]):
        with locks_of(tmp_path, job="publish").hold(["curated/other"]):
            pass


def test_none_of_several_locks_stays_held_when_one_is_refused(tmp_path: Path) -> None:
    with locks_of(tmp_path).hold(["curated/b"]):
        other = locks_of(tmp_path, job="publish")
        with pytest.raises(LockedError, match="curated/b is held"):
            with other.hold(["curated/c", "curated/b", "curated/a"]):
                pytest.fail("held a table of another job")
        assert other.holder("curated/a") is None
        assert other.holder("curated/c") is None


def test_the_lock_of_a_killed_process_is_recognised_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.lake.test_locks import TABLE, locks_of\n"
        "with locks_of(Path(sys.argv[1]), job='killed', stale_after=3600).hold([TABLE]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    paths = os.pathsep.join(path for path in [str(Path.cwd()), *sys.path] if path)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        mine = locks_of(tmp_path, stale_after=3600)
        held = mine.holder(TABLE)
        assert held is not None
        assert (held.job, held.pid) == ("killed", child.pid)
        child.send_signal(signal.SIGKILL)
        child.wait()

    with mine.hold([TABLE]):
        holder = mine.holder(TABLE)
        assert holder is not None
        assert holder.job == "ingest"


def test_a_reused_process_number_does_not_keep_a_dead_lock_alive(tmp_path: Path) -> None:
    if not process_started(os.getpid()):
        pytest.skip("needs /proc to tell one process of a number from another")
    held_by(tmp_path, host=socket.gethostname(), pid=os.getpid(), process_started="1")

    with locks_of(tmp_path).hold([TABLE]):
        pass


def test_the_lock_of_another_machine_is_free_only_after_it_was_long_not_renewed(
    tmp_path: Path,
) -> None:
    held_by(tmp_path, taken_at=time.time() - 500, renewed_at=time.time() - 50)
    with pytest.raises(LockedError, match="someone@another-machine"):
        with locks_of(tmp_path, stale_after=60).hold([TABLE]):
            pytest.fail("took a living lock")

    held_by(tmp_path, taken_at=time.time() - 500, renewed_at=time.time() - 61)
    with locks_of(tmp_path, stale_after=60).hold([TABLE]):
        pass


def test_a_lock_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    with locks_of(tmp_path, stale_after=0.4).hold([TABLE]):
        taken = json.loads(files(tmp_path)[-1].read_text())["taken_at"]

        def renewed() -> bool:
            try:
                return json.loads(files(tmp_path)[-1].read_text())["renewed_at"] > taken + 0.4
            except ValueError:
                return False

        assert eventually(renewed)


def test_a_renewal_that_is_slow_does_not_undo_the_release(tmp_path: Path) -> None:
    class Slow(Disk):
        renewing = threading.Event()

        def write(self, path: str, content: bytes) -> None:
            if not json.loads(content)["released"]:
                self.renewing.set()
                time.sleep(0.3)
            super().write(path, content)

    disk = Slow()
    with locks_of(tmp_path, stale_after=0.2, disk=disk).hold([TABLE]):
        assert disk.renewing.wait(10)
    time.sleep(0.4)
    assert json.loads(files(tmp_path)[-1].read_text())["released"] is True


def test_a_half_written_lock_counts_as_held_until_it_is_old(tmp_path: Path) -> None:
    path = held_by(tmp_path)
    path.write_text(path.read_text()[:25])
    with pytest.raises(LockedError):
        with locks_of(tmp_path, stale_after=60).hold([TABLE]):
            pytest.fail("took a lock that is just being written")

    os.utime(path, (time.time() - 61, time.time() - 61))
    with locks_of(tmp_path, stale_after=60).hold([TABLE]):
        pass


def test_waiting_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    path = held_by(tmp_path)

    class Releasing(Disk):
        """The other job ends while this one waits and looks a third time."""

        looks = 0

        def read(self, path: str) -> bytes:
            self.looks += 1
            if self.looks == 3:
                held_by(tmp_path, released=True)
            return super().read(path)

    disk = Releasing()
    with locks_of(tmp_path, disk=disk).hold([TABLE], wait_seconds=30):
        assert disk.looks == 3
    assert path.name == f"{1:012d}.json"


def test_waiting_ends_when_the_time_is_up(tmp_path: Path) -> None:
    held_by(tmp_path)
    begun = time.monotonic()
    with pytest.raises(LockedError):
        with locks_of(tmp_path).hold([TABLE], wait_seconds=0.5):
            pytest.fail("took a living lock")
    assert time.monotonic() - begun >= 0.5


def test_a_lock_file_that_vanishes_between_listing_and_reading_is_no_failure(
    tmp_path: Path,
) -> None:
    """Two other jobs came and went in between: the one's number is cleared away by the other."""
    held_by(tmp_path, released=True)

    class Vanishing(Disk):
        looks = 0

        def read(self, path: str) -> bytes:
            self.looks += 1
            if self.looks == 1:
                newer = Path(path).with_name(f"{3:012d}.json")
                Path(path).rename(newer)
            return super().read(path)

    with locks_of(tmp_path, disk=Vanishing()).hold([TABLE], wait_seconds=5):
        assert [path.name for path in files(tmp_path)][-1] == f"{4:012d}.json"


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_who_looked_long_ago_takes_no_number_that_was_used_since(
    tmp_path: Path, rounds: int
) -> None:
    """Between looking and taking, another takes the lock and lets it go, over and over."""
    with locks_of(tmp_path).hold([TABLE]):
        pass
    other = locks_of(tmp_path, job="other")
    held = other.hold([TABLE])

    class Slow(Disk):
        def __init__(self) -> None:
            self.paused = False

        def put_if_absent(self, path: str, content: bytes) -> bool:
            if not self.paused:
                self.paused = True
                for _ in range(rounds - 1):
                    with other.hold([TABLE]):
                        pass
                held.__enter__()
            return super().put_if_absent(path, content)

    try:
        with (
            pytest.raises(LockedError, match="job other"),
            locks_of(tmp_path, disk=Slow()).hold([TABLE]),
        ):
            pass
    finally:
        held.__exit__(None, None, None)
    with locks_of(tmp_path).hold([TABLE]):
        assert [int(path.stem) for path in files(tmp_path)][-1] == rounds + 2


ROUNDS = 30


def _race(root: Path, begin: object, collisions: object) -> None:
    """Takes the lock over and over; `inside` exists only while a process is within."""
    begin.wait()  # type: ignore[attr-defined]
    mine = locks_of(root)
    inside = root / "inside"
    for _ in range(ROUNDS):
        with mine.hold([TABLE], wait_seconds=60):
            try:
                inside.touch(exist_ok=False)
            except FileExistsError:
                with collisions.get_lock():  # type: ignore[attr-defined]
                    collisions.value += 1  # type: ignore[attr-defined]
            time.sleep(0.001)
            inside.unlink(missing_ok=True)


def test_two_processes_never_hold_a_lock_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "RETRY_SECONDS", 0.001)
    fork = multiprocessing.get_context("fork")
    begin, collisions = fork.Barrier(2), fork.Value("i", 0)
    racers = [fork.Process(target=_race, args=(tmp_path, begin, collisions)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert collisions.value == 0
    assert int(files(tmp_path)[-1].stem) == 2 * ROUNDS
