"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from pyspark.sql import SparkSession

from concord.lake.session import start
from concord.settings import Keys, Settings, SparkSettings

# Machines that run tests are shared and slow at times: a slow example is no wrong one.
hypothesis.settings.register_profile(
    "concord", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("concord")

# A developer's own settings must not reach into the tests, nor the tests into a real lake.
for _name in [name for name in os.environ if name.startswith("CONCORD_")]:
    del os.environ[_name]

ROOT = Path(__file__).resolve().parent.parent

# Small queries: interpreted start-up costs more than optimised code ever wins back.
TEST_CONFS = {
    "spark.driver.memory": "1500m",
    "spark.driver.extraJavaOptions": (
        # Java's optimising compiler for the hottest code alone: ten times its usual thresholds.
        "-XX:+UseSerialGC -Xmn500m -XX:ReservedCodeCacheSize=256m "
        "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000 "
        "-XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000 "
        "-Djdk.lang.Process.launchMechanism=VFORK"
    ),
    "spark.delta.logStore.file.impl": "io.delta.storage.LocalLogStore",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.default.parallelism": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
    "spark.sql.files.minPartitionNum": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


def test_settings(folder: Path, **changes: object) -> Settings:
    """Settings of a lake of its own below `folder`."""
    values: dict[str, object] = {
        "lake": str(folder / "lake"),
        "landing": str(folder / "landing"),
        "keys": Keys(path=folder / "keys"),
        "spark": SparkSettings(
            master="local[2]", jars=str(ROOT / "infra" / "jars"), confs=TEST_CONFS
        ),
        "roles": {"office": {"users": ["*"]}},
        "signers": folder / "keys" / "signers.yaml",
        "parallel_feeds": 1,
    }
    return Settings.model_validate({**values, **changes})


# Its name begins with test_, but pytest must not collect it.
test_settings.__test__ = False  # type: ignore[attr-defined]


# The dearest first, by seconds measured: who of two workers is done early takes small files, and
# none ends alone with a long one.
ORDER = (
    "pipeline", "cluster/test_drivers", "spark/test_policies", "spark/test_index",
    "spark/test_study", "services", "cluster", "spark", "lake", "unit/test_lint", "",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In an order of files that ends early; within a file as they stand."""
    tests = ROOT / "tests"

    def place(item: pytest.Item) -> int:
        name = str(item.path.relative_to(tests))
        return next(number for number, start in enumerate(ORDER) if name.startswith(start))

    items.sort(key=place)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One session for all tests of a worker. Only tests that ask for it pay for its start."""
    os.environ["SPARK_LOCAL_DIRS"] = str(tmp_path_factory.mktemp("spark"))
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / "build" / "pycache"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    session = start(test_settings(tmp_path_factory.mktemp("lake")), application="concord tests")
    yield session
    session.stop()
