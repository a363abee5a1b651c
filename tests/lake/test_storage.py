"""The file operations, on plain local paths and on a Hadoop scheme that is no local disk to us."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from concord.errors import InfrastructureError, LockedError
from concord.lake.locks import Locks
from concord.lake.registry import Column, Table
from concord.lake.storage import Storage, join
from concord.lake.tables import Lake
from concord.lake.writes import Append, Stamp, Transaction
from concord.lake.zones import Zones
from tests.feeds import LABELS

pytestmark = pytest.mark.spark

MOUNT = "fs.viewfs.mounttable.lake.link./root"


@pytest.fixture(params=["local", "viewfs"])
def root(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Iterator[str]:
    """A folder, by its path or as `viewfs://lake/root`, which Hadoop maps to the same folder."""
    if request.param == "local":
        yield str(tmp_path)
        return
    assert spark._jsc is not None
    hadoop = spark._jsc.hadoopConfiguration()
    hadoop.set(MOUNT, tmp_path.as_uri())
    # A file system once opened keeps the mount table that it was opened with.
    hadoop.set("fs.viewfs.impl.disable.cache", "true")
    yield "viewfs://lake/root"
    hadoop.unset(MOUNT)


@pytest.fixture
def storage(spark: SparkSession) -> Storage:
    return Storage(spark)


def test_what_is_written_can_be_found_read_and_replaced(storage: Storage, root: str) -> None:
    path = join(root, "folder", "file.bin")
    assert not storage.exists(path)

    storage.write(path, b"first, and longer")
    storage.write(path, bytes(range(256)))

    assert storage.exists(path)
    assert storage.exists(join(root, "folder"))
    assert storage.read(path) == bytes(range(256))
    assert storage.read(path, limit=3) == b"\0\1\2"
    assert storage.read(path, limit=1000) == bytes(range(256))


def test_a_folder_lists_its_entries_by_name(storage: Storage, root: str) -> None:
    storage.write(join(root, "folder", "b.csv"), b"12345")
    storage.write(join(root, "folder", "a", "deep.csv"), b"1")

    deep, plain = storage.list(join(root, "folder"))

    assert (deep.name, deep.is_folder) == ("a", True)
    assert (plain.name, plain.is_folder, plain.bytes) == ("b.csv", False, 5)
    assert plain.modified > 1_600_000_000_000
    assert storage.read(plain.path) == b"12345"
    assert [entry.name for entry in storage.walk(join(root, "folder"))] == ["deep.csv", "b.csv"]
    assert storage.list(join(root, "nowhere")) == []


def test_only_the_first_put_of_a_file_counts(storage: Storage, root: str) -> None:
    path = join(root, "new", "folder", "1.json")

    assert storage.put_if_absent(path, b'{"holder": "first"}') is True
    assert storage.put_if_absent(path, b'{"holder": "second"}') is False

    # Delta's LogStore writes lines, so the last one ends there.
    assert storage.read(path).removesuffix(b"\n") == b'{"holder": "first"}'


def test_a_put_file_can_be_replaced_and_then_deleted_and_put_again(
    storage: Storage, root: str
) -> None:
    path = join(root, "locks", "1.json")
    for number in range(2):
        assert storage.put_if_absent(path, b"taken")
        storage.write(path, b"renewed %d" % number)
        assert storage.read(path) == b"renewed %d" % number
        storage.delete(path)
        assert not storage.exists(path)


def test_a_local_file_that_is_being_replaced_is_read_whole(
    storage: Storage, tmp_path: Path
) -> None:
    """A lock is renewed while others look at it, and its holder may be killed meanwhile."""
    path = str(tmp_path / "1.json")
    storage.write(path, b"x" * 300)
    done = threading.Event()

    def renew() -> None:
        for number in range(300):
            storage.write(path, b"%d" % (number % 10) * 300)
        done.set()

    writer = threading.Thread(target=renew)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(storage.read(path))
    writer.join()
    assert {len(content) for content in seen} == {300}
    assert [entry.name for entry in storage.list(str(tmp_path))] == ["1.json"]


def test_a_local_file_that_was_copied_can_be_replaced(storage: Storage, tmp_path: Path) -> None:
    """The copy has a checksum beside it, which must not outlive the content it was made of."""
    storage.write(str(tmp_path / "a"), b"first")
    storage.copy(str(tmp_path / "a"), str(tmp_path / "b"))

    storage.write(str(tmp_path / "b"), b"other")

    assert storage.read(str(tmp_path / "b")) == b"other"


def test_a_file_has_the_digest_of_its_bytes(storage: Storage, root: str) -> None:
    content = bytes(range(256)) * 1000
    storage.write(join(root, "file.bin"), content)

    assert storage.sha256(join(root, "file.bin")) == hashlib.sha256(content).hexdigest()


def test_a_truncated_or_damaged_gzip_file_is_recognised(storage: Storage, root: str) -> None:
    whole = gzip.compress(b"client_id,name\n" * 5000)
    damaged = bytearray(whole)
    damaged[-6] ^= 0xFF  # in the checksum
    for name, content, expected in (
        ("whole", whole, True),
        ("truncated", whole[:-9], False),
        ("headless", whole[:5], False),
        ("damaged", bytes(damaged), False),
        ("other", b"client_id,name\n", False),
        ("empty", b"", False),
    ):
        path = join(root, f"{name}.csv.gz")
        storage.write(path, content)
        assert storage.gzip_is_whole(path) is expected, name


def test_a_copy_replaces_its_target_and_leaves_its_source(storage: Storage, root: str) -> None:
    source, target = join(root, "a.csv"), join(root, "deep", "b.csv")
    storage.write(source, b"new")
    storage.write(target, b"old and longer")

    storage.copy(source, target)

    assert storage.read(source) == storage.read(target) == b"new"


def test_deleting_takes_a_folder_with_all_below_it(storage: Storage, root: str) -> None:
    storage.write(join(root, "folder", "a", "file"), b"1")

    storage.delete(join(root, "folder"))
    storage.delete(join(root, "folder"))

    assert not storage.exists(join(root, "folder"))


def test_a_missing_file_is_an_infrastructure_error_that_names_it(
    storage: Storage, root: str
) -> None:
    missing = join(root, "missing.csv")
    for attempt in (
        lambda: storage.read(missing),
        lambda: storage.sha256(missing),
        lambda: storage.gzip_is_whole(missing),
        lambda: storage.copy(missing, join(root, "target")),
    ):
        with pytest.raises(InfrastructureError, match=r"missing\.csv"):
            attempt()


TOWNS = Table(
    name="curated/towns",
    columns=(Column("town", "string"), Column("people", "int")),
    key=("town",),
    owner="tests",
    description="For tests.",
)


def test_a_lake_on_another_scheme_is_written_read_and_locked(
    spark: SparkSession, root: str, tmp_path: Path
) -> None:
    def locks_of(job: str) -> Locks:
        return Locks.of(spark, root, 60, job=job, run_id="run", actor="tester")

    lake = Lake(spark, root, locks=locks_of("ingest"), lock_wait=0, zones=Zones("ingest"))
    rows = spark.createDataFrame([("Lynn", 1)], TOWNS.schema)
    with lake.locks.hold([TOWNS.name]):
        with pytest.raises(LockedError, match="job ingest"):
            with locks_of("publish").hold([TOWNS.name]):
                pytest.fail("two jobs hold the table")
        stamp = Stamp("run", "ingest", "1")
        written = lake.write(
            rows, TOWNS, Append(), stamp=stamp, transaction=Transaction("t", 1), labels=LABELS
        )
    assert (written.applied, written.version) == (True, 0)
    assert [tuple(row) for row in lake.read(TOWNS).collect()] == [("Lynn", 1)]
    assert (tmp_path / "curated" / "towns" / "_delta_log").is_dir()
    assert lake.locks.holder(TOWNS.name) is None
    with locks_of("publish").hold([TOWNS.name]):
        pass
