"""A new key for a study: new pseudonyms everywhere, the mapping in the vault, nothing else changed;
and a study under keys that Vault keeps."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from concord.agreements.labels import study_labels
from concord.agreements.meet import meet
from concord.errors import AuditError, ConcordError, RefusedError
from concord.lake import points
from concord.lake.registry import Column, Registry, Table
from concord.lake.run import Run, Tally
from concord.lake.writes import Append
from concord.privacy.wrapping import agreement_key, disable, enable, versions
from concord.reporting import Reporter
from concord.settings import Keys, VaultKeys
from concord.studies import destruction, tables
from concord.studies.keys import study_key
from concord.studies.rotation import rotate
from tests import agreed
from tests.agreed import sign_lake
from tests.canary import words
from tests.spark.test_destruction import End
from tests.spark.test_study import NOW, ONE, TWO, Desk, Killed, begin, deliver_all, index
from tests.vault_server import vault_double

pytestmark = pytest.mark.spark

SCORES = Table(
    name=f"studies/{ONE}/scores_tiny",
    description="Scores of cases.",
    owner="dta",
    columns=(
        Column("study_case_id", "string", "", "confidential"),
        Column("score", "double"),
    ),
    key=("study_case_id",),
)


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with two studies, of which one has scores, under signed agreements."""
    folder = tmp_path_factory.mktemp("rotation")
    desk = begin(spark, folder)
    deliver_all(desk)
    index(desk)
    desk.study()
    settings = desk.office.settings
    cases = desk.spark.read.format("delta").load(desk.path(ONE, "help_forms"))
    scores = cases.select("study_case_id").distinct().withColumn("score", F.lit(0.5))
    with desk.lake.locks.hold([SCORES.name]):
        labels = study_labels(
            meet([desk.dulas[ONE]]), owner="dta", classifications=["confidential"],
            expires=date(2098, 12, 31),
        )  # fmt: skip
        desk.lake.write(
            scores, SCORES, Append(), stamp=run(desk).stamp, transaction=None, labels=labels
        )
    sign_lake(Path(settings.lake), settings.signers_file, agreed.mou(), *desk.dulas.values())
    return folder


@pytest.fixture
def desk(spark: SparkSession, made: Path, tmp_path: Path) -> Desk:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return begin(spark, tmp_path)


def run(desk: Desk, *, dry_run: bool = False) -> Run:
    return Run(
        job="rotate", run_id="rotate-1", as_of=date(2025, 12, 31), dry_run=dry_run, actor="tester",
        settings=desk.office.settings, lake=desk.lake, reporter=Reporter(quiet=True),
        clock=lambda: NOW, tally=Tally(),
    )  # fmt: skip


def rotated(desk: Desk, *, dry_run: bool = False) -> int:
    register = agreed.register(agreed.mou(), *desk.dulas.values())
    registry = Registry([*tables.registry(desk.dulas.values(), desk.office.contracts), SCORES])
    contracts = desk.office.contracts
    return rotate(run(desk, dry_run=dry_run), contracts, register, registry, agreement=ONE)


def contents(desk: Desk, mapping: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """All rows of the study, pseudonyms replaced by the mapping."""
    found = {}
    for table in ("help_forms", "help_members", "work_wages", "scores_tiny"):
        rows = desk.rows(ONE, table)
        if mapping is not None:
            rows = [{n: mapping.get(str(v), v) for n, v in row.items()} for row in rows]
        found[table] = sorted(map(repr, rows))
    return found


def mapping(desk: Desk, version: int = 2) -> dict[str, str]:
    frame = desk.lake.read(tables.rotated_table(desk.dulas[ONE]))
    rows = frame.where(F.col("to_version") == version).collect()
    found = {row["old_pseudonym"]: row["new_pseudonym"] for row in rows}
    assert len(found) == len(set(found.values())) == len({row["old_pseudonym"] for row in rows})
    return found


def pseudonyms(desk: Desk) -> set[str]:
    return {
        value
        for rows in (desk.rows(ONE, t) for t in ("help_forms", "help_members", "work_wages"))
        for row in rows
        for name, value in row.items()
        if name.startswith("study_") or name == "form_id"
    }


# The study job's own points have their own test.
POINTS = (
    "rotate.keyed",
    "rotate.mapped",
    "rotate.turned",
    f"rotate.wrote.{SCORES.name}",
    "rotate.erased",
)


def test_killed_at_any_point_a_rotation_is_finished_and_only_pseudonyms_changed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, other, old = contents(desk), desk.contents(TWO), pseudonyms(desk)
    keys = desk.office.settings.keys
    assert rotated(desk, dry_run=True) == 1 and versions(keys, ONE) == [1]

    def die() -> None:
        raise Killed

    monkeypatch.setattr(points, "die", die)
    for point in POINTS:
        monkeypatch.setenv("CONCORD_KILL_AT", point)
        with pytest.raises((Killed, ConcordError)) as ended:
            rotated(desk)
        monkeypatch.delenv("CONCORD_KILL_AT")
        assert isinstance(ended.value, Killed), point
        if point == "rotate.mapped":
            # Nothing has changed for a reader yet, and another study run goes on with the old key.
            assert contents(desk) == before
            assert {outcome.message for outcome in desk.study()} == {"nothing to do"}
        if point != "rotate.erased":
            assert versions(keys, ONE) == [1, 2], "one rotation, however often it is begun"

    # The last kill came after all was done: to run it again would begin another.
    became = mapping(desk)
    assert set(became) >= old and all(
        re.fullmatch("2-[0-9a-f]{32}", new) for new in became.values()
    )
    assert contents(desk) == {
        table: sorted(rows) for table, rows in contents_of(before, became).items()
    }
    assert pseudonyms(desk) == {became[each] for each in old}
    assert {outcome.message for outcome in desk.study()} == {"nothing to do"}
    assert desk.contents(TWO) == other
    assert versions(keys, ONE) == [2] and study_key(desk.lake, keys, ONE).version == 2
    with pytest.raises(ConcordError, match="is missing"):
        agreement_key(keys, ONE, version=1)
    # The mapping stands in the vault and nowhere else.
    for name, found in words(Path(desk.lake.root)):
        if not name.startswith(("vault/rotated/", f"studies/{ONE}/")):
            assert not found & {each[2:] for each in old}, name
    labels = desk.lake.properties(SCORES.name)
    assert labels["concord.agreements"] == ONE

    # A second rotation has a mapping of its own, from the second key's to the third's.
    assert rotated(desk) == 3
    assert set(mapping(desk, 3)) == set(became.values())


def contents_of(rows: Mapping[str, list[str]], became: Mapping[str, str]) -> dict[str, list[str]]:
    """Rows as text, each old pseudonym replaced."""
    pattern = re.compile("1-[0-9a-f]{32}")
    return {
        table: [pattern.sub(lambda found: became[found.group()], row) for row in each]
        for table, each in rows.items()
    }


def test_a_rotated_study_is_destroyed_with_its_older_pseudonyms(desk: Desk) -> None:
    old = next(iter(pseudonyms(desk)))
    rotated(desk)
    end = End(desk)
    end.happened("terminated")
    leak = end.root / "products" / "extract.csv"
    leak.parent.mkdir(parents=True)
    leak.write_text(f"case\n{old}\n")
    with pytest.raises(AuditError, match=r"1 files still hold pseudonyms: .*extract\.csv"):
        end.destroy()
    assert (end.root / tables.rotated(ONE)).exists(), "it tells what to search for"
    leak.unlink()
    certificate = end.destroy()
    assert not (end.root / tables.rotated(ONE)).exists()
    assert "written over" in certificate["proof"]["key"]  # type: ignore[index]
    assert f"vault/rotated/{ONE}/pseudonyms" in str(certificate["destroyed"])
    for name, found in words(end.root):
        assert old[2:] not in found, name


def test_a_disabled_key_opens_for_no_job_even_one_that_does_not_ask(desk: Desk) -> None:
    keys = desk.office.settings.keys
    disable(keys, ONE)
    with pytest.raises(RefusedError, match=f"key of {ONE} is disabled"):
        study_key(desk.lake, keys, ONE)
    outcomes = {outcome.agreement: outcome for outcome in desk.study()}
    assert outcomes[ONE].exit_code == 14 and "is disabled" in outcomes[ONE].message
    assert outcomes[TWO].exit_code == 0, "another agreement's key opens"
    with pytest.raises(RefusedError, match="is disabled"):
        rotated(desk)
    enable(keys, ONE)
    assert {outcome.exit_code for outcome in desk.study()} == {0}
    # Suspended when it ended, it is opened for the search, and for nothing else.
    disable(keys, ONE)
    end = End(desk)
    end.happened("suspended")
    end.happened("terminated")
    assert end.destroy()["proof"]["search"]["pseudonyms searched for"] > 4  # type: ignore[index]


@pytest.fixture
def in_vault(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Desk, Any]]:
    with vault_double() as double:
        # Where an agent would put it, for driver and workers alike.
        sink = tmp_path.parent / f"{tmp_path.name}-token"
        sink.write_text(double.token)
        monkeypatch.setenv("VAULT_TOKEN_FILE", str(sink))
        monkeypatch.setitem(spark.sparkContext.environment, "VAULT_TOKEN_FILE", str(sink))
        desk = begin(spark, tmp_path)
        vault = VaultKeys(address=double.address)
        keys = Keys(provider="vault", path=tmp_path / "keys", vault=vault)
        settings = desk.office.settings.model_copy(update={"keys": keys})
        yield replace(desk, office=replace(desk.office, settings=settings)), double


def test_a_study_under_keys_of_vault_leaves_none_behind(
    in_vault: tuple[Desk, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    desk, double = in_vault
    deliver_all(desk)
    index(desk)
    assert {outcome.exit_code for outcome in desk.study()} == {0}
    assert "POST decrypt/concord-vault" in " ".join(double.asked).replace("transit/", "")
    keys = desk.office.settings.keys
    canaries = [agreement_key(keys, name).fetch() for name in (ONE, TWO)]
    canaries += [secret for key in double.keys.values() for secret in key.secrets]
    assert len(canaries) >= 5
    forms = {
        form for key in canaries for form in (key, key.hex().encode(), base64.b64encode(key))
    } | {double.token.encode()}
    root = Path(desk.lake.root).parent
    searched = [path for path in root.rglob("*") if path.is_file()]
    assert len(searched) > 50
    for path in searched:
        content = path.read_bytes()
        assert not any(form in content for form in forms), path.relative_to(root)
    out = capfd.readouterr()
    assert double.token not in out.out + out.err
    desk.lake.read(tables.of_agreement(desk.dulas[ONE], desk.office.contracts)[0].table)
    assert destruction.planned(run(desk), register_of(desk), ONE).keys == (1,)


def register_of(desk: Desk) -> Any:
    return agreed.register(agreed.mou(), *desk.dulas.values())
