"""A fitted model as a file, and what MLflow is told of it."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from concord import cli, tracking
from concord.deployment import Deployment
from concord.jobs import Options
from concord.lake.run import Run
from concord.lake.tables import Lake
from concord.linkage import tracked
from concord.linkage.estimate import Fit, Training
from concord.linkage.model import Interaction
from concord.linkage.model_file import written
from concord.linkage.person_index import PersonIndex, load_person_index
from concord.settings import Settings
from tests.conftest import ROOT

FILE = ROOT / "conf" / "person_index.yaml"
READ = {"vault/linkage_pairs": 4, "vault/linkage_records": 7}
DAY = date(2026, 5, 1)


def fitted(file: Path) -> PersonIndex:
    model = load_person_index(file)
    new = model.with_levels({"sex": {"same": (0.99123456, 0.49), "differ": (0.00877, 0.51)}})
    return new.model_copy(
        update={
            "interactions": (
                Interaction(of=("family", "contact"), bits={"exact": {"household": -3.5}}),
            ),
            "fitted_on": DAY,
            "data_digest": tracked.data_digest(READ),
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    copy = tmp_path / "person_index.yaml"
    declared = "interactions:\n  - of: [family, contact]  # one household\n\nnever:"
    copy.write_text(FILE.read_text().replace("\nnever:", f"\n{declared}", 1))
    return copy


def test_a_fitted_file_is_the_same_file_with_other_numbers(file: Path, tmp_path: Path) -> None:
    model = fitted(file)
    again = tmp_path / "again.yaml"
    again.write_text(written(file, model))
    assert load_person_index(again) == model
    assert written(again, model) == again.read_text(), "and stays so"
    before = [line.strip() for line in file.read_text().splitlines() if "#" in line]
    after = again.read_text()
    assert [line for line in before if line not in after] == [], "comments stay"
    assert f"fitted_on: {DAY}\ndata_digest: {tracked.data_digest(READ)}\n" in after
    # What it was fitted on says nothing of which records are one person.
    assert model.model_version == model.model_copy(update={"data_digest": "other"}).model_version


def test_the_store_has_the_model_its_data_and_its_measures(file: Path, tmp_path: Path) -> None:
    settings = Settings(lake=str(tmp_path / "lake"), landing="landing")
    model = fitted(file)
    text = written(file, model)
    rows = [
        {"measure": "holdout_recall", "group": group, "value": value, "as_of": DAY, "of": 100}
        for group, value in (("all", 0.75), ("sex=F", 0.5), ("sex=M", None))
    ]
    made = tracked.Made("fit", model, text, READ, DAY, "run-1")
    fit = Fit(model, (Training("ssn", ("given",), 500, 6, 0.5, -1.0),), ("a warning",))
    run_id = tracked.track(settings, made, measures=rows, fit=fit)
    client = tracking.opened(settings).client
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "person-index"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"holdout_recall": 0.75, "share/ssn": 0.5}
    assert run.data.params["people"] == str(model.people)
    tags = run.data.tags
    assert json.loads(tags[tracking.DATA_VERSIONS]) == READ
    assert tags[tracked.DATA_DIGEST] == model.data_digest
    assert tags[tracked.MODEL_VERSION] == model.model_version
    assert tags[tracking.RUN_ID] == "run-1"
    kept = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    assert (kept / "person_index.yaml").read_text() == text
    assert json.loads((kept / "measures.json").read_text())["measures"][2]["value"] is None
    assert (kept / "warnings.txt").read_text() == "a warning"


def test_a_fit_is_written_and_tracked_when_asked(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fitted(file).model_copy(update={"fitted_on": None, "data_digest": None})
    settings = Settings(lake=str(tmp_path / "lake"), landing="landing", conf=tmp_path)
    deployment = Deployment(settings, {}, {}, load_person_index(file))
    logged: list[tracked.Made] = []
    monkeypatch.setattr(cli, "estimated", lambda lake, of: Fit(model, (), ("look here",)))
    monkeypatch.setattr(cli, "estimated_from", lambda lake: READ)
    monkeypatch.setattr(cli, "measured", lambda lake: [])
    monkeypatch.setattr(
        tracked, "track", lambda settings, made, **more: logged.append(made) or "mlflow-1"
    )
    lake, options = cast(Lake, None), Options(as_of=datetime(2026, 5, 1), run_id="r")
    cli._fit(lake, deployment, options, write=None, track=False)
    assert "same: {m: 0.99123456, u: 0.49}" in capsys.readouterr().out
    assert not logged
    to = tmp_path / "fitted.yaml"
    cli._fit(lake, deployment, options, write=to, track=True)
    said = capsys.readouterr().out
    assert said.splitlines()[-3:] == ["# look here", f"# wrote {to}", "# MLflow run mlflow-1"]
    kept = load_person_index(to)
    assert (kept.fitted_on, kept.data_digest) == (DAY, tracked.data_digest(READ))
    assert kept.comparisons == model.comparisons
    (made,) = logged
    assert (made.kind, made.text, made.read) == ("fit", to.read_text(), READ)
    assert made.model == kept


@pytest.mark.parametrize("dry", [False, True])
def test_a_run_is_tracked_with_what_it_read_and_measured(
    dry: bool, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(lake=str(tmp_path / "lake"), landing="landing", conf=tmp_path)
    deployment = Deployment(settings, {}, {}, load_person_index(file))
    rows = [{"measure": "persons", "group": "all", "value": 3.0}]
    logged: list[tuple[tracked.Made, object]] = []
    monkeypatch.setattr(cli, "measured", lambda lake, run_id: rows if run_id == "r" else [])
    monkeypatch.setattr(
        tracked, "track", lambda settings, made, measures: logged.append((made, measures))
    )
    run = SimpleNamespace(
        lake=None, run_id="r", as_of=DAY, dry_run=dry, tally=SimpleNamespace(read=READ)
    )
    cli._track(cast(Run, run), deployment)
    made = tracked.Made("index", deployment.person_index, file.read_text(), READ, DAY, "r")
    assert logged == ([] if dry else [(made, rows)])


def test_write_needs_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.exit_code_of(cli.app, ["index", "--write", "fitted.yaml"]) == 2
    assert "--write needs --estimate" in capsys.readouterr().err
