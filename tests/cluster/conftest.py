"""A deployment in miniature that is used as in production: a folder of conf, a process per run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from concord.agreements.events import AGREEMENT_EVENTS
from concord.agreements.loading import load_dulas
from concord.agreements.mou import load_mous
from concord.settings import load_settings
from tests.agreed import sign_lake
from tests.conftest import ROOT
from tests.feeds import client

# What must never be seen outside the vault. No word of Concord's own contains one of these.
FAMILY = "Quillfeather"
NUMBER = "QX7-"
BORN = "1907-11-23"
IDENTIFYING = (FAMILY, NUMBER, BORN)

KEY = hashlib.sha256(b"the key of tests/cluster").digest()
KEY_TEXT = base64.b64encode(KEY).decode()

AGENCIES = """\
hub: office
secretariats: {health: Health}
agencies:
  dta: {name: Assistance, secretariat: health, mou_since: 2018-11-01, coordinator: Director}
  office: {name: Office, secretariat: health, mou_since: 2018-11-01, coordinator: Council}
"""
AGREEMENT = """\
id: MOU-2018-0001
version: 1
title: For tests
hub: office
effective: 2018-01-01
expires: 2099-12-31
signatories: [dta, office]
contributions:
"""
CLAUSE = """\
  - clause: "{feed}"
    agency: dta
    feed: {feed}
    tables: all
    identifiers: true
    may_be_matched: true
    purposes: [program-evaluation]
    retention_years: 7
"""
CONTRACT = """\
apiVersion: v3.2.0
kind: DataContract
id: {feed}
name: A tiny feed
version: 1.0.0
status: active
description: {{purpose: For tests.}}
team: {{name: tests}}
slaProperties: [{{property: retention, value: 7, unit: y}}]
customProperties:
  - {{property: agency, value: dta}}
  - {{property: calendar, value: month}}
  - {{property: quarantineLimit, value: {limit}}}
schema:
  - name: clients
    description: One row per client.
    customProperties:
      - {{property: format, value: {{kind: csv}}}}
      - {{property: loadPolicy, value: full_refresh}}
      - {{property: controlTotals, value: [amount]}}
      - property: subjects
        value:
          - role: client
            key: [client_id]
            identifiers: {{full_name: name, birth_date: born}}
    properties:
      - name: client_id
        logicalType: string
        physicalType: string
        primaryKey: true
        primaryKeyPosition: 1
        required: true
        classification: restricted
        customProperties: [{{property: identifierRole, value: direct}}]
      - name: name
        logicalType: string
        physicalType: string
        logicalTypeOptions: {{maxLength: 60}}
        classification: restricted
        customProperties: [{{property: identifierRole, value: direct}}]
      - name: born
        logicalType: date
        physicalType: date
        classification: restricted
        customProperties: [{{property: identifierRole, value: direct}}]
      - name: town
        logicalType: string
        physicalType: string
        classification: internal
        customProperties: [{{property: identifierRole, value: none}}]
      - name: amount
        logicalType: number
        physicalType: decimal(10,2)
        logicalTypeOptions: {{minimum: 0}}
        classification: internal
        customProperties: [{{property: identifierRole, value: none}}]
"""
# As on one machine, with less memory and without a compiler that only long runs repay.
CONFS = {
    **load_settings(ROOT / "conf" / "settings" / "local.yaml").spark.confs,
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": (
        "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 "
        "-XX:ReservedCodeCacheSize=256m -Djdk.lang.Process.launchMechanism=VFORK"
    ),
    "spark.sql.shuffle.partitions": "1",
}
# By feed, the share of bad rows that it bears.
FEEDS = {"tiny": 0.5, "strict": 0.1}


def person(number: int, **changes: str) -> dict[str, str]:
    """A good row whose person can be recognised wherever a value of theirs turns up."""
    who = {"client_id": f"{NUMBER}{number:05d}", "name": f"{FAMILY} {number}", "born": BORN}
    return client(number, **{**who, **changes})


@dataclass(frozen=True)
class Done:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, Any]:
        """The summary: the last line on stdout."""
        summary: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return summary

    @property
    def told(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Driver:
    """A driver process that is running."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def ended(self, within: float = 120) -> Done:
        """Waits for its end. No output of a run may hold what identifies a person or the key."""
        code = self.process.wait(within)
        out, err = (self.output.with_suffix(s).read_text() for s in (".out", ".err"))
        for secret in (*IDENTIFYING, KEY_TEXT, KEY.hex()):
            assert secret not in out + err, f"{secret} was shown:\n{out}{err}"
        return Done(code, out, err)


@dataclass
class Site:
    """A lake and a landing area with settings of their own, over the conf folder of all sites."""

    home: Path
    conf: Path
    lake: Path
    master: str = "local[2]"
    confs: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    drivers: list[Driver] = field(default_factory=list)

    @property
    def landing(self) -> Path:
        return self.home / "landing"

    @property
    def events(self) -> Path:
        """Spark's event logs of all runs."""
        return self.home / "events"

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> Driver:
        """`concord <arguments>`, not waited for."""
        output = self.home / f"run-{len(self.drivers)}"
        values = {**os.environ, "COLUMNS": "200", "CONCORD_VAULT_KEY": KEY_TEXT}
        values |= {"SPARK_LOCAL_DIRS": str(self.home / "spark"), **self.environment}
        values |= {"PYTHONPYCACHEPREFIX": str(ROOT / "build" / "pycache"), **(environment or {})}
        values.pop("PYTHONDONTWRITEBYTECODE", None)
        with (
            output.with_suffix(".out").open("wb") as out,
            output.with_suffix(".err").open("wb") as e,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "concord.cli", *arguments, "--settings", self._settings()],
                cwd=self.home,
                env=values,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=e,
            )
        self.drivers.append(Driver(process, output))
        return self.drivers[-1]

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> Done:
        return self.start(*arguments, environment=environment).ended()

    def begin(self, *arguments: str, environment: dict[str, str] | None = None) -> Driver:
        """An ingest, not waited for."""
        return self.start("ingest", "--as-of", "2025-12-31", *arguments, environment=environment)

    def ingest(self, *arguments: str, environment: dict[str, str] | None = None) -> Done:
        return self.begin(*arguments, environment=environment).ended()

    def rows(self, table: str) -> list[str]:
        """A table's rows, sorted, read without Spark."""
        return sorted(map(repr, self.frame(table).rows()))

    def frame(self, table: str) -> pl.DataFrame:
        return pl.read_delta(str(self.lake / table))

    def tables(self) -> dict[str, list[str]]:
        """What a delivery of `tiny` is published to."""
        names = ("curated/tiny_clients", "vault/identifiers_tiny", "vault/quarantine_tiny")
        return {name: self.rows(name) for name in names}

    @property
    def untouched(self) -> bool:
        """Whether the lake holds nothing but the events of its agreements."""
        files = [path for path in self.lake.rglob("*") if path.is_file()]
        return all(path.is_relative_to(self.lake / AGREEMENT_EVENTS.name) for path in files)

    def lock(self, table: str) -> Path:
        """The table's lock file; there may be none yet."""
        held = sorted((self.lake / "ops" / "_locks" / table).glob("[0-9]*.json"))
        return held[-1] if held else self.lake / "ops" / "_locks" / table / "none"

    def _settings(self) -> str:
        path = self.home / "settings.yaml"
        confs = {**CONFS, "spark.eventLog.enabled": "true"}
        confs |= {"spark.eventLog.dir": self.events.as_uri(), "spark.eventLog.compress": "false"}
        values = {
            "lake": str(self.lake),
            "landing": str(self.landing),
            "conf": str(self.conf),
            "keys": {"provider": "environment"},
            "signers": str(self.home.parent / "signers.yaml"),
            "roles": {"office": {"users": ["*"]}},
            "spark": {
                "master": self.master,
                "jars": str(ROOT / "infra" / "jars"),
                "confs": {**confs, **self.confs},
            },
        }
        self.events.mkdir(exist_ok=True)
        # JSON is YAML.
        path.write_text(json.dumps(values))
        return str(path)


def write_conf(folder: Path) -> Path:
    """A conf folder with two feeds that differ in the bad rows they bear."""
    (folder / "feeds").mkdir(parents=True)
    (folder / "agreements").mkdir()
    (folder / "agencies.yaml").write_text(AGENCIES)
    agreement = AGREEMENT + "".join(CLAUSE.format(feed=feed) for feed in FEEDS)
    (folder / "agreements" / "MOU-2018-0001.yaml").write_text(agreement)
    for feed, limit in FEEDS.items():
        (folder / "feeds" / f"{feed}.yaml").write_text(CONTRACT.format(feed=feed, limit=limit))
    shutil.copy(ROOT / "conf" / "person_index.yaml", folder)
    return folder


@pytest.fixture(scope="session")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conf(tmp_path_factory.mktemp("conf") / "conf")


NewSite = Callable[..., Site]


@pytest.fixture
def new_site(tmp_path: Path, conf: Path) -> Iterator[NewSite]:
    """Makes sites; what a failed test left running is ended."""
    with sites(tmp_path, conf) as make:
        yield make


@contextmanager
def sites(folder: Path, conf: Path) -> Iterator[NewSite]:
    made: list[Site] = []

    def make(lake: Path | None = None, **values: Any) -> Site:
        home = folder / f"site-{len(made)}"
        home.mkdir()
        site = Site(home, conf, lake or home / "lake", **values)
        there = next(place for place in (site.lake, *site.lake.parents) if place.exists())
        if os.access(there, os.W_OK) and not (site.lake / AGREEMENT_EVENTS.name).exists():
            sign_lake(site.lake, folder / "signers.yaml", *load_mous(conf).values(),
                      *load_dulas(conf).values())  # fmt: skip
        made.append(site)
        return site

    try:
        yield make
    finally:
        for driver in (driver for site in made for driver in site.drivers):
            if driver.process.poll() is None:
                driver.process.kill()
                driver.process.wait()


@contextmanager
def disk(place: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own, or mounts it anew, with the options that it is given."""
    place.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        given = f"remount,{options}" if mounted else options
        command = ["mount", "-t", "tmpfs", "-o", given, "concord-test", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command here: no disk of its own can be filled")
        if done.returncode:
            pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")
        mounted = True
        return place

    try:
        yield mount
    finally:
        if mounted:
            # Lazily: a Java process that is just ending may still have a file open.
            subprocess.run(["umount", "-l", str(place)], check=True)


def eventually(true: Callable[[], Any], what: str, within: float = 60) -> Any:
    """The first true answer. Fails when it does not come."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        answer = true()
        if answer:
            return answer
        time.sleep(0.002)
    return pytest.fail(f"did not come about within {within} seconds: {what}")
