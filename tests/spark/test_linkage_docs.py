"""docs/linkage.md is true: its code runs, its model links what it says, its tables name all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from concord.linkage.charts import Chart
from concord.linkage.compare import TESTS
from concord.linkage.values import LISTS, TRANSFORMS
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "linkage.md").read_text()


def blocks() -> list[str]:
    """The Python that is to be run, in order."""
    return re.findall(r"<!-- run -->\n+```python\n(.*?)```", TEXT, flags=re.DOTALL)


def table_under(heading: str) -> str:
    """The first column of the first table of a section."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return "\n".join(rows)


@pytest.mark.spark
def test_the_code_of_the_page_links_febrl_as_well_as_it_says(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"<!-- file: (\S+) -->\n+```yaml\n(.*?)```", TEXT, re.DOTALL):
        Path(name).write_text(text)
    found: dict[str, Any] = {"spark": spark}
    for number, code in enumerate(blocks()):
        exec(compile(code, f"docs/linkage.md, block {number}", "exec"), found)  # noqa: S102
    febrl4, febrl3 = found["febrl4"].f1, found["febrl3"].f1
    with capsys.disabled():
        print(f"\ndocs/linkage.md: F1 {febrl4:.5f} on febrl4, {febrl3:.5f} on febrl3")
    assert febrl4 >= 0.9995
    assert febrl3 >= 0.998
    for name, measured in (("febrl4", febrl4), ("febrl3", febrl3)):
        (said,) = re.findall(rf"(0\.\d{{4}}) on {name}\b", TEXT)
        assert float(said) == pytest.approx(measured, abs=0.0003)
    assert len(found["clusters"]) == 5_000
    assert not found["small"].fitted
    for name in ("weights.svg", "threshold.html", "blocking.svg", "waterfall.svg"):
        assert "<svg" in Path(name).read_text()


def test_the_tables_name_every_test_and_every_transform() -> None:
    tests = re.findall(r"`(\w+)`", table_under("Tests"))
    assert tests == list(TESTS)
    assert set(re.findall(r"`(\w+)\(column", table_under("Transforms"))) == {
        *TRANSFORMS,
        *LISTS,
    }


def test_a_test_that_takes_a_number_is_listed_with_its_key() -> None:
    for name, kind in TESTS.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*\|(.*)\|$", TEXT, flags=re.MULTILINE)
        assert re.findall(r"at_\w+", row) == ([kind.number] if kind.number else [])


def test_the_charts_that_the_page_names_are_there() -> None:
    from concord.linkage import charts

    named = re.findall(r"`(\w+)\(", table_under("Charts"))
    assert len(named) == 7
    for name in named:
        assert getattr(charts, name).__annotations__["return"] in {Chart, "Chart"}


def test_a_worker_that_compares_loads_no_settings_and_no_spark() -> None:
    script = (
        "import sys, json; import concord.linkage.compare; "
        "print(json.dumps([n for n in ('pydantic', 'pyspark') if n in sys.modules]))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(told.stdout) == []


def test_the_package_gives_what_it_promises_and_nothing_else() -> None:
    import concord.linkage

    for name in concord.linkage.__all__:
        assert getattr(concord.linkage, name).__name__ == name
    assert {"Model", "link", "planned"} <= {*dir(concord.linkage)}
    with pytest.raises(AttributeError, match="PersonIndex"):
        concord.linkage.PersonIndex  # noqa: B018
