"""Delta's two jars, fetched with the resolver that Spark brings (Apache Ivy) into a given folder.

`fetch_jars.py FOLDER delta-spark_4.2_2.13-4.4.0.jar ...`, run by setup.py with the environment's
Python. Only the named jars are fetched, without what they depend on:
docs/decisions/0005-two-jars.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.java_gateway import launch_gateway

GROUP = "io.delta"
IVY_SETTINGS = Path(__file__).with_name("ivysettings.xml")


def main(folder: Path, names: list[str]) -> None:
    settings = os.environ.get("CONCORD_IVY_SETTINGS") or str(IVY_SETTINGS)
    folder.mkdir(parents=True)
    gateway = launch_gateway()
    jvm = gateway.jvm
    try:
        # A cache of its own: the user's ~/.ivy2 may hold a half-fetched or foreign copy.
        with TemporaryDirectory(dir=folder) as cache:
            maven = getattr(jvm.org.apache.spark.util, "MavenUtils$").__getattr__("MODULE$")
            nothing = jvm.scala.Option.empty()
            no_exclusions = getattr(jvm.scala.collection.immutable, "Nil$").__getattr__("MODULE$")
            log = jvm.java.lang.System.err
            ivy = maven.loadIvySettings(settings, nothing, jvm.scala.Option.apply(cache), log)
            transitive = is_test = False
            found = maven.resolveMavenCoordinates(
                ",".join(map(coordinate, names)),
                ivy,
                nothing,
                transitive,
                no_exclusions,
                is_test,
                log,
            )
            for position in range(found.size()):
                jar = Path(found.apply(position))
                jar.rename(folder / jar.name.removeprefix(f"{GROUP}_"))
    finally:
        gateway.shutdown()


def coordinate(name: str) -> str:
    """`delta-storage-4.4.0.jar` as `io.delta:delta-storage:4.4.0`."""
    artifact, _, version = name.removesuffix(".jar").rpartition("-")
    return f"{GROUP}:{artifact}:{version}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
