"""How a session gets its jars: on the class path of one process, as `spark.jars` of a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from concord.lake.session import CLASSES, JAVA_OPTIONS, confs_of
from concord.settings import Settings, SparkSettings


def settings(master: str | None, jars: str, **confs: str) -> Settings:
    spark = SparkSettings(master=master, jars=jars, confs=confs)
    return Settings.model_validate({"lake": "lake", "landing": "landing", "spark": spark})


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    for name in ("b.jar", "a.jar"):
        (tmp_path / name).touch()
    return tmp_path


def test_one_process_has_the_jars_on_its_class_path_and_the_archive_beside_them(jars: Path) -> None:
    (jars / CLASSES).touch()
    confs = confs_of(settings("local[2]", str(jars), **{JAVA_OPTIONS: "-Xmx1g"}))
    assert confs["spark.driver.extraClassPath"] == f"{jars}/a.jar:{jars}/b.jar"
    assert confs[JAVA_OPTIONS].startswith(f"-Xmx1g -XX:SharedArchiveFile={jars}/{CLASSES}")
    assert "spark.jars" not in confs


def test_without_an_archive_java_is_not_told_of_one(jars: Path) -> None:
    confs = confs_of(settings("local[2]", str(jars), **{JAVA_OPTIONS: "-Xmx1g"}))
    assert confs[JAVA_OPTIONS] == "-Xmx1g"


@pytest.mark.parametrize("master", [None, "local-cluster[2,1,1024]", "spark://host:7077"])
def test_executors_elsewhere_are_sent_the_jars(jars: Path, master: str | None) -> None:
    (jars / CLASSES).touch()
    confs = confs_of(settings(master, str(jars)))
    assert confs["spark.jars"] == f"{jars}/a.jar,{jars}/b.jar"
    assert JAVA_OPTIONS not in confs


def test_jars_that_are_no_local_folder_are_passed_on_as_given() -> None:
    confs = confs_of(settings("local[2]", "s3a://bucket/a.jar"))
    assert confs["spark.jars"] == "s3a://bucket/a.jar"
