"""Studies from the command line: refusals with their exit code, kills, and where no key stands."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from concord.privacy.wrapping import agreement_key
from concord.settings import Keys
from tests.cluster.conftest import Site, person, sites, write_conf
from tests.feeds import File, deliver

pytestmark = pytest.mark.pipeline

WRAPPING = hashlib.sha256(b"the wrapping key of tests/cluster").digest()
ENDED, GOOD = "DULA-2026-0001", "DULA-2026-0002"
TABLE = f"studies/{GOOD}/tiny_clients"
DULA = """\
id: {id}
version: 1
title: For tests
mou: MOU-2018-0001
owners: {{clause: "1", agencies: [dta]}}
recipients: {{clause: "2", parties: [{{key: dta, kind: state, custodian: Director}}]}}
purpose: {{clause: "3", code: program-evaluation, text: For tests.}}
uses: {{clause: "4", allowed: [study]}}
legal_basis:
  clause: "9"
  authorities: [{{regime: other, owner: dta, citation: an act, basis: it says so}}]
people: {{clause: "10", roles: [office]}}
end: {{clause: "11", destroy_within_days: 30, method: erasure, certifier: Director}}
safeguards: {{clause: "12", breach_notice_hours: 24, contact: Council}}
datasets:
  - clause: "5.1"
    table: tiny.clients
    owner: dta
    period_from: 2020-01-01
    period_until: 2098-12-31
    columns: [{{name: town, why: place}}, {{name: amount, why: amount}}]
disclosure: {{clause: "7", profile: cells-11}}
term: {{clause: "8", effective: 2020-01-01, expires: {expires}}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lake with one delivery, a person index, and two agreements of which one has ended."""
    home = tmp_path_factory.mktemp("studies")
    conf = write_conf(home / "conf")
    for name, expires in ((ENDED, "2024-12-31"), (GOOD, "2098-12-31")):
        text = DULA.format(id=name, expires=expires)
        (conf / "agreements" / f"{name}.yaml").write_text(text)
    values = {
        "CONCORD_KEYS__PATH": str(home / "keys"),
        "CONCORD_WRAPPING_KEY": base64.b64encode(WRAPPING).decode(),
    }
    with sites(home, conf) as make:
        # What is shuffled and broadcast lies on disk as it is, for a search.
        plain = dict.fromkeys(
            ("spark.shuffle.compress", "spark.shuffle.spill.compress", "spark.broadcast.compress"),
            "false",
        )
        confs = {**plain, "spark.sql.autoBroadcastJoinThreshold": "-1"}
        site = make(environment=values, confs=confs)
        deliver(site.landing, 1, File("2025-01", [person(number) for number in range(50)]))
        done = site.ingest("--feed", "tiny")
        assert done.code == 0, done.told
        records = site.frame("curated/tiny_clients")["client_record_id"]
        pl.DataFrame({"record_id": records}).with_columns(
            person_id=pl.col("record_id").str.reverse(),
            valid_from=pl.date(2025, 1, 1),
            valid_to=pl.lit(None, pl.Date),
        ).write_delta(str(site.lake / "index" / "crosswalk"))
        yield site


def test_what_no_agreement_allows_ends_with_14_its_clause_and_a_row_in_the_log(site: Site) -> None:
    both = ("--agreement", ENDED, "--agreement", GOOD)
    done = site.run("study", *both, "--purpose", "research", "--column", "tiny.clients.name")
    assert done.code == 14, done.told
    for words in (
        f"{ENDED} clause 8: expired on 2024-12-31",
        f"{GOOD} clause 3: the purpose is program-evaluation, not research",
        f"{GOOD} clause 5.1: column name of tiny.clients is not agreed",
    ):
        assert words in done.err
    assert done.last["exit_code"] == 14
    log = site.frame("ops/access_log").filter(pl.col("agreement").str.starts_with("DULA-"))
    assert log["decision"].to_list() == ["refused"] * 2
    assert set(log["agreement"]) == {ENDED, GOOD}
    assert not (site.lake / "studies").exists()


def test_a_killed_study_goes_on_and_its_key_is_seen_nowhere(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = site.run(
        "study", "--agreement", GOOD, environment={"CONCORD_KILL_AT": f"study.wrote.{TABLE}"}
    )
    assert killed.code == -9, killed.told
    # A process that was killed leaves what it shuffled.
    local = {path: path.read_bytes() for path in (site.home / "spark").rglob("*") if path.is_file()}
    done = site.run("study", "--agreement", GOOD)
    assert done.code == 0, done.told
    assert done.last["message"] == "nothing to do", "the table was whole"
    rows = site.frame(TABLE)
    assert rows.columns[:3] == ["study_person_id", "town", "amount"] and len(rows) == 50
    log = site.frame("ops/access_log").filter(pl.col("agreement") == GOOD)
    reads = log.filter(pl.col("decision") == "read")
    assert reads["row_count"].to_list() == [50], "the killed run's read, logged by the next"

    # The same wrapper, opened here by the same key from a variable of this process.
    monkeypatch.setenv("CONCORD_WRAPPING_KEY", base64.b64encode(WRAPPING).decode())
    key = agreement_key(Keys(provider="environment", path=site.home.parent / "keys"), GOOD)
    secrets = [
        form
        for secret in (key.fetch(), WRAPPING)
        for form in (secret, secret.hex().encode(), base64.b64encode(secret))
    ]
    searched = [path for path in site.events.rglob("*") if path.is_file()]
    searched += list(site.home.glob("run-*.*"))
    searched += [path for path in site.lake.rglob("*") if path.is_file()]
    said = b"".join(path.read_bytes() for path in searched)
    assert b"hash_batch" in said and b"SparkListenerSQLExecutionStart" in said, "plans are searched"
    assert not any(secret in said for secret in secrets)
    shuffled = b"".join(c for path, c in local.items() if path.name.startswith("shuffle_"))
    record = site.frame("curated/tiny_clients")["client_record_id"][0].encode()
    assert record in shuffled, "the search sees into what is shuffled"
    assert not any(secret in content for content in local.values() for secret in secrets)
    assert key.wrapped.encode() not in said, "not even wrapped"


def test_the_access_log_is_verified_from_the_command_line(site: Site) -> None:
    done = site.run("audit", "verify")
    assert done.code == 0, done.told
    assert done.last["rows"] == site.frame("ops/access_log").height
    log = Path(site.lake) / "ops" / "access_log"
    frame = pl.read_delta(str(log))
    changed = frame.with_columns(actor=pl.lit("nobody"))
    changed.write_delta(str(log), mode="overwrite")
    done = site.run("audit", "verify")
    assert done.code == 16, done.told
    assert "was changed" in done.err
