"""`concord contract …` through its command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from concord.contracts.commands import app
from concord.errors import ConfigError, UsageError
from tests.unit.contracts.claims import CLAIMS, changed


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def feeds(conf: Path) -> Path:
    (conf / "feeds" / "claims.yaml").write_text(CLAIMS)
    return conf


def test_check_names_the_good_contracts(feeds: Path) -> None:
    answer = run("check", "--conf", feeds)
    assert answer.exit_code == 0
    assert answer.stdout == "claims 1.0.0: good (claims, employers)\n"


def test_check_raises_every_mistake(feeds: Path) -> None:
    path = feeds / "feeds" / "claims.yaml"
    path.write_text(changed("value: week", "value: weekly", changed("kind: csv", "kind: cvs")))
    answer = run("check", path, "--conf", feeds)
    assert isinstance(answer.exception, ConfigError)
    assert len(answer.exception.problems) == 2


def test_show_tells_where_columns_go(feeds: Path) -> None:
    answer = run("show", "claims", "--conf", feeds)
    assert answer.exit_code == 0
    at = next(i for i, line in enumerate(answer.stdout.splitlines()) if "first_name" in line)
    cells = answer.stdout.splitlines()[at].split("│")
    assert [cell.strip() for cell in cells[1:6]] == [
        "first_name", "string", "", "direct", "restricted",
    ]  # fmt: skip
    assert cells[7].strip().startswith("vault")


def test_an_unknown_feed_is_a_usage_error_that_names_the_known(feeds: Path) -> None:
    answer = run("show", "wages", "--conf", feeds)
    assert isinstance(answer.exception, UsageError)
    assert "there are: claims" in str(answer.exception)


def test_diff_refuses_a_version_that_is_too_low(feeds: Path, tmp_path: Path) -> None:
    old = tmp_path / "old" / "claims.yaml"
    old.parent.mkdir()
    old.write_text(CLAIMS)
    new = feeds / "feeds" / "claims.yaml"
    text = changed("decimal(10,2)", "double")
    new.write_text(text)
    answer = run("diff", old, "claims", "--conf", feeds)
    assert "breaks readers  claims.amount: type was 'decimal(10,2)'" in answer.stdout
    assert isinstance(answer.exception, ConfigError)
    assert "set 2.0.0" in str(answer.exception)
    new.write_text(text.replace("version: 1.0.0", "version: 2.0.0"))
    assert run("diff", old, "claims", "--conf", feeds).exit_code == 0


def test_docs_writes_pages_and_schemas_once(feeds: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages"
    assert "12 files changed" in run("docs", "--conf", feeds, "--out", out).stdout
    assert (feeds / "schemas" / "contract.schema.json").exists()
    assert "1 contracts, 0 files changed" in run("docs", "--conf", feeds, "--out", out).stdout


def test_new_drafts_a_contract_that_check_accepts(feeds: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,first_name\n1,Ann\n2,Bob\n")
    answer = run("new", sample, "dua_people", "--conf", feeds)
    assert answer.exit_code == 0, answer.exception
    assert run("check", "--conf", feeds).exit_code == 0
    again = run("new", sample, "dua_people", "--conf", feeds)
    assert isinstance(again.exception, UsageError)
    assert run("new", sample, "dua_people", "--conf", feeds, "--force").exit_code == 0


def test_new_warns_when_it_finds_no_key_for_the_people_of_a_sample(
    feeds: Path, tmp_path: Path
) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("office,first_name\nLynn,Ann\nLynn,Ann\n")
    answer = run("new", sample, "dua_people", "--conf", feeds)
    assert answer.exit_code == 0, answer.exception
    assert answer.stderr.startswith("warning: no primary key found: rows of the sample that repeat")
    assert "does not write person to the vault" in answer.stderr
    assert run("check", "--conf", feeds).exit_code == 0
    sample.write_text("id,first_name\n1,Ann\n2,Bob\n")
    assert not run("new", sample, "dua_people", "--conf", feeds, "--force").stderr
