"""Drivers that are killed, meet one another, or find no room: each a process of its own.

Most are `make chaos`'s. What is left in the suite is what a second driver and a folder that can not
be written are told.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyspark
import pytest

from tests.cluster.conftest import Done, NewSite, Site, disk, eventually, person, sites
from tests.feeds import File, deliver

pytestmark = pytest.mark.pipeline

CURATED = "curated/tiny_clients"
PEOPLE = 600


def send(site: Site) -> None:
    """The same delivery for every site: three months, one row of each for quarantine."""
    files = []
    for month in (1, 2, 3):
        rows = [person(number, town=f"Town {month}") for number in range(PEOPLE)]
        rows[7]["amount"] = "much"
        files.append(File(f"2025-0{month}", rows))
    deliver(site.landing, 1, *files)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, conf: Path) -> Iterator[Site]:
    """A site that nothing happened to."""
    with sites(tmp_path_factory.mktemp("undisturbed"), conf) as make:
        site = make()
        send(site)
        done = site.ingest("--feed", "tiny")
        assert done.code == 0, done.told
        yield site


def is_right(site: Site, undisturbed: Site) -> None:
    """The site's tables are those of the undisturbed one."""
    is_whole(site)
    assert site.tables() == undisturbed.tables()


def is_whole(site: Site) -> None:
    """Nothing is lost and nothing is there twice."""
    found = site.tables()
    assert {name: len(rows) for name, rows in found.items()} == {
        CURATED: 3 * (PEOPLE - 1),
        "vault/identifiers_tiny": 3 * (PEOPLE - 1),
        "vault/quarantine_tiny": 3,
    }
    assert all(len({*rows}) == len(rows) for rows in found.values())


def states(site: Site) -> list[str]:
    return site.frame("ops/deliveries").sort("event")["status"].to_list()


def test_of_two_drivers_on_one_feed_the_second_is_refused_and_told_of_the_first(
    new_site: NewSite,
) -> None:
    site = new_site()
    send(site)

    first = site.begin("--feed", "tiny", "--run-id", "first")

    def held() -> bool:
        """Its file is there a moment before it says whose it is."""
        lock = site.lock(CURATED)
        return lock.exists() and lock.stat().st_size > 0

    eventually(lambda: held() or first.process.poll() is not None, "a lock")
    first.process.send_signal(signal.SIGSTOP)
    second = site.ingest("--feed", "tiny", "--run-id", "second")
    first.process.send_signal(signal.SIGCONT)
    done = first.ended()

    assert second.code == second.last["exit_code"] == 13, second.told
    for part in (CURATED, "job ingest", "run first", f"pid {first.pid}"):
        assert part in second.last["message"]
    assert done.code == 0, done.told
    is_whole(site)
    assert states(site) == ["loading", "loaded"]


@pytest.mark.chaos
def test_a_driver_killed_between_two_commits_is_run_again_with_the_same_arguments(
    new_site: NewSite, undisturbed: Site
) -> None:
    site = new_site()
    send(site)

    killed = site.begin(
        "--feed", "tiny", environment={"CONCORD_KILL_AT": f"ingest.wrote.{CURATED}"}
    )
    assert killed.ended().code == -signal.SIGKILL

    assert states(site) == ["loading"]
    assert len(site.rows(CURATED)) == 3 * (PEOPLE - 1), "that commit was made"
    left = json.loads(site.lock(CURATED).read_text())
    assert (left["pid"], left["released"]) == (killed.pid, False)

    again = site.ingest("--feed", "tiny")
    assert again.code == 0, again.told
    is_right(site, undisturbed)
    assert states(site) == ["loading", "loaded"]
    assert json.loads(site.lock(CURATED).read_text())["released"] is True


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, conf: Path
) -> Iterator[tuple[Site, Done, Done]]:
    """A site whose disk was full when it first ran, and had room when it ran again."""
    folder = tmp_path_factory.mktemp("filled")
    with disk(folder / "disk") as mount, sites(folder, conf) as make:
        # Room for the run's first rows, not for what it archives.
        site = make(lake=mount("size=128k") / "lake")
        send(site)
        full = site.ingest("--feed", "tiny")
        mount("size=64m")
        yield site, full, site.ingest("--feed", "tiny")


@pytest.mark.chaos
def test_a_full_disk_ends_the_run_with_20_and_with_more_room_a_rerun_finishes(
    filled: tuple[Site, Done, Done], undisturbed: Site
) -> None:
    site, full, again = filled
    assert full.code == full.last["exit_code"] == 20, full.told
    assert "No space left on device" in full.last["message"]
    assert again.code == 0, again.told
    is_right(site, undisturbed)


@pytest.mark.chaos
def test_the_message_of_a_full_disk_says_where_it_is_and_what_to_do(
    filled: tuple[Site, Done, Done],
) -> None:
    site, full, _ = filled
    assert str(site.lake) in full.last["message"]
    assert "run this again" in full.last["message"]


@pytest.mark.chaos
def test_a_table_whose_making_was_cut_short_is_made_by_the_rerun(
    new_site: NewSite, undisturbed: Site
) -> None:
    """Delta makes the log's folder first: a full disk or a kill can come before the commit."""
    site = new_site()
    send(site)
    for name in ("curated/tiny_clients", "vault/identifiers_tiny", "vault/quarantine_tiny"):
        (site.lake / name / "_delta_log").mkdir(parents=True)

    done = site.ingest("--feed", "tiny")

    assert done.code == 0, done.told
    is_right(site, undisturbed)


def test_a_lake_that_can_not_be_written_ends_the_run_with_20_and_says_where(
    new_site: NewSite, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk") as mount:
        site = new_site(lake=mount("size=16m,ro") / "lake")
        send(site)

        done = site.ingest("--feed", "tiny")

        assert done.code == done.last["exit_code"] == 20, done.told
        assert str(site.lake) in done.last["message"]
        assert "Read-only file system" in done.last["message"]
        assert site.untouched


def executors(driver: int) -> dict[int, str]:
    """The driver's executor processes, each with the command lines of what it started."""
    lines: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (parent, (folder / "cmdline").read_text())

    def below(pid: int) -> list[int]:
        own = [child for child, (parent, _) in lines.items() if parent == pid]
        return own + [deeper for child in own for deeper in below(child)]

    return {
        pid: " ".join(lines[child][1] for child in below(pid))
        for pid in below(driver)
        if "CoarseGrainedExecutorBackend" in lines[pid][1] and "java" in lines[pid][1]
    }


@pytest.mark.chaos
def test_an_executor_that_is_killed_costs_time_and_nothing_else(
    new_site: NewSite, undisturbed: Site, tmp_path: Path
) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to find the executor's process")
    # A standalone worker keeps its executors' logs and jars below SPARK_HOME.
    home = tmp_path / "spark"
    home.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        (home / part.name).symlink_to(part)
    site = new_site(
        master="local-cluster[2,1,1024]",
        confs={
            "spark.executor.memory": "1g",
            "spark.executor.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        },
        environment={"SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable},
    )
    send(site)

    driver = site.begin("--feed", "tiny")
    works = site.lake / "vault" / "_work" / "tiny"
    eventually(lambda: list(works.glob("*/clients/_temporary/*/*")), "a stage being written", 200)
    # The one with a Python worker is the one that computes record ids.
    working = eventually(
        lambda: [pid for pid, children in executors(driver.pid).items() if "pyspark" in children],
        "an executor with a Python worker",
    )
    os.kill(working[0], signal.SIGKILL)
    done = driver.ended()

    assert done.code == 0, done.told
    is_right(site, undisturbed)
    assert states(site) == ["loading", "loaded"]
    (log,) = site.events.rglob("events_*")
    assert "SparkListenerExecutorRemoved" in log.read_text(), "it was lost during the run"
