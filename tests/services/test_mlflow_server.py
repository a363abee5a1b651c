"""MLflow as a service for a team: over SQLite and over a real PostgreSQL, served by
infra/mlflow/serve.py; and what a job makes of it when it is away.

What starts and kills servers, or asks hundreds of times, is `make chaos`'s.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from concord import tracking
from concord.cli import main
from concord.errors import ConfigError, InfrastructureError, UsageError
from concord.settings import Settings
from concord.tracking import CHALLENGER, CHAMPION, Store
from tests.conftest import ROOT
from tests.mlflow_server import SERVE, Gate, Server, gate
from tests.postgresql import Database, free_port, postgresql

KINDS = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Team:
    servers: dict[str, Server]
    database: Database

    def stop(self) -> None:
        for server in self.servers.values():
            server.terminate()
        for server in self.servers.values():
            server.stop()

    def restart(self) -> None:
        self.stop()
        for server in self.servers.values():
            server.start()
        for server in self.servers.values():
            server.ready()


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The server over PostgreSQL."""
    folder = tmp_path_factory.mktemp("postgresql")
    with postgresql() as database:
        server = Server(folder, database.uri, database.variables)
        made = Team({"postgresql": server}, database)
        try:
            made.restart()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def both(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """The server over SQLite beside it."""
    folder = tmp_path_factory.mktemp("sqlite")
    server = team.servers["sqlite"] = Server(folder, f"sqlite:///{folder / 'mlflow.db'}")
    server.start()
    server.ready()
    return team


def at(address: str) -> Settings:
    return Settings(lake="s3a://elsewhere/lake", landing="s3a://elsewhere", mlflow=address)


def logged(store: Store, name: str = "model") -> Any:
    """A model that answers with what it is asked; logged as train logs its own."""
    from mlflow.pyfunc.model import PythonModel

    class Echo(PythonModel):  # type: ignore[misc]  # MLflow ships no types
        # Without types: MLflow would make a signature of them.
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input

    return store.mlflow.pyfunc.log_model(name=name, python_model=Echo(), pip_requirements=["numpy"])


def train(store: Store, name: str, inputs: str = "i") -> str:
    """What the job does with the store, in its order; the version that is champion in the end."""
    tags = {tracking.INPUTS: inputs, tracking.AGREEMENTS: "DULA-2026-0001"}
    before = store.made_from(name, inputs)
    if before is not None:
        store.finish(before)
        version = before.version
    else:
        experiment = store.experiment(name, "A title")
        store.end_interrupted(experiment, inputs)
        with store.mlflow.start_run(experiment_id=experiment, tags=tags) as active:
            store.mlflow.log_metrics({"test.auc": 0.7})
            store.mlflow.log_text("# A card", "model_card.md")
            version = store.register(name, logged(store), active.info.run_id, tags, "A title")
            store.client.set_registered_model_alias(name, CHAMPION, version)
        return version
    store.client.set_registered_model_alias(name, CHAMPION, version)
    return version


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_a_team_keeps_runs_and_models(both: Team, kind: str, tmp_path: Path) -> None:
    store = tracking.opened(at(both.servers[kind].address))
    assert store.champion("model") is None, "and no error of a model that is not there"
    about = store.client.get_experiment(store.experiment("model", "A title"))
    assert about.tags[tracking.DESCRIPTION] == "A title"
    with urllib.request.urlopen(  # noqa: S310
        f"{both.servers[kind].address}/ajax-api/3.0/mlflow/server-info"
    ) as answer:
        assert "gateway" in (info := answer.read().decode()) and '"gateway":true' not in info
    first = train(store, "model", "first")
    experiment = store.experiment("model", "A title")
    tags = {tracking.INPUTS: "trials", tracking.AS_OF: "2026-01-31"}
    with store.mlflow.start_run(experiment_id=experiment, tags=tags) as parent:
        with store.mlflow.start_run(nested=True, experiment_id=experiment) as trial:
            store.mlflow.log_params({"depth": 3})
        store.mlflow.log_artifact(str(SERVE), "code")
    assert store.finished(experiment, "trials") == parent.info.run_id
    tags = {tracking.INPUTS: "second", tracking.AGREEMENTS: "DULA-2026-0001"}
    with store.mlflow.start_run(experiment_id=experiment, tags=tags) as active:
        second = store.register("model", logged(store), active.info.run_id, tags, "A title")
    store.client.set_registered_model_alias("model", CHALLENGER, second)
    assert (first, second) == ("1", "2")
    left = store.client.create_run(experiment, tags={tracking.INPUTS: "left"})
    assert store.end_interrupted(experiment, "left") == 1
    assert store.client.get_run(left.info.run_id).info.status == "KILLED"
    nested = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    (found,) = store.client.search_runs([experiment], nested)
    assert found.info.run_id == trial.info.run_id and found.data.params == {"depth": "3"}
    got = store.mlflow.artifacts.download_artifacts(
        run_id=parent.info.run_id, artifact_path="code/serve.py", dst_path=str(tmp_path)
    )
    assert Path(got).read_bytes() == SERVE.read_bytes()
    here = both.servers[kind].folder / "artifacts"
    assert [it.read_text() for it in here.rglob("model_card.md")] == ["# A card"], "on the server"


@pytest.mark.chaos
def test_after_a_restart_all_is_there(both: Team) -> None:
    both.restart()
    for kind in KINDS:
        server = both.servers[kind]
        store = tracking.opened(at(server.address))
        champion = store.champion("model")
        assert champion is not None and champion.version == "1"
        assert champion.tags[tracking.STATE] == "whole"
        assert [v.version for v in store.under("DULA-2026-0001") if v.name == "model"] == ["2", "1"]
        other = store.client.get_model_version_by_alias("model", CHALLENGER)
        assert other.version == "2" == store.made_from("model", "second").version
        served = store.mlflow.pyfunc.load_model(champion.uri)
        assert served.predict([1, 2]) == [1, 2]
        again = train(store, "model", "first")
        assert again == "1", "made from the same inputs: nothing is made anew"


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_two_clients_at_once_do_not_hinder_each_other(both: Team, kind: str) -> None:
    store = tracking.opened(at(both.servers[kind].address))

    def work(number: int) -> tuple[str, list[str]]:
        client = store.mlflow.MlflowClient()
        own = Store(store.mlflow, client, None)
        experiment = own.experiment("shared", "A title")
        made = []
        for turn in range(3):
            run = client.create_run(experiment, tags={tracking.INPUTS: f"{number}.{turn}"})
            client.log_text(run.info.run_id, f"{number} {turn}", "note.txt")
            source = type("Logged", (), {"model_uri": run.info.artifact_uri, "model_id": None})
            tags = {tracking.INPUTS: f"{number}.{turn}", tracking.AGREEMENTS: "a"}
            made.append(own.register("shared", source, run.info.run_id, tags, "t"))
            client.set_terminated(run.info.run_id)
        return experiment, made

    with ThreadPoolExecutor(2) as pool:
        (one, first), (other, second) = pool.map(work, range(2))
    assert one == other, "the experiment that both asked for is one"
    assert sorted(first + second, key=int) == ["1", "2", "3", "4", "5", "6"]
    for number in range(2):
        for turn in range(3):
            made = store.made_from("shared", f"{number}.{turn}")
            assert made is not None
            text = store.mlflow.artifacts.load_text(f"runs:/{made.run_id}/note.txt")
            assert text == f"{number} {turn}"


def test_no_password_is_on_a_command_line_or_in_the_log(team: Team) -> None:
    server, password = team.servers["postgresql"], team.database.password
    assert server.process is not None
    lines = subprocess.run(
        ["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
    assert "mlflow server" in lines and "mlflow.server.fastapi_app" in lines
    assert password not in lines and password not in server.log
    assert password.encode() in Path(f"/proc/{server.process.pid}/environ").read_bytes(), "control"


# --- its documents -------------------------------------------------------------------------------


@pytest.mark.chaos
def test_the_documented_commands_work(both: Team, tmp_path: Path) -> None:
    """Backup, check and restore as infra/mlflow/README.md has them, each block in its order."""
    text = (ROOT / "infra" / "mlflow" / "README.md").read_text()
    blocks = re.findall(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == ["check", "backup", "restore", "sqlite"]
    server, other = both.servers["postgresql"], both.servers["sqlite"]
    path = f"{Path(sys.executable).parent}:{both.database.programs}:{os.environ['PATH']}"
    for name, body in blocks:
        of = other if name == "sqlite" else server
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", body.replace("infra/mlflow/serve.py", str(SERVE))],
            env={**of.variables, "PATH": path, "BACKUP": str(tmp_path / "backup")},
            cwd=of.folder, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"
    kept = sqlite3.connect(tmp_path / "backup" / "mlflow.db")
    assert kept.execute("SELECT count(*) FROM model_versions").fetchone()[0] >= 2
    # What was restored is served, with its artifacts, as it was.
    restored = Server(
        tmp_path, server.database.replace("/mlflow", "/restored").replace("//restored", "//mlflow"),
        server.secrets,
    )  # fmt: skip
    restored.start()
    try:
        restored.ready()
        store = tracking.opened(at(restored.address))
        champion = store.champion("model")
        assert champion is not None and champion.version == "1"
        assert store.mlflow.pyfunc.load_model(champion.uri).predict([1]) == [1]
    finally:
        restored.stop()


@pytest.mark.chaos
def test_tables_of_another_version_are_upgraded_on_demand_only(tmp_path: Path) -> None:
    place = tmp_path / "mlflow.db"
    server = Server(tmp_path, f"sqlite:///{place}")
    older = _older(place)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SERVE, *arguments],
            env=server.variables, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def revision() -> str:
        kept = sqlite3.connect(place)
        return str(kept.execute("SELECT version_num FROM alembic_version").fetchone()[0])

    refused = run()
    assert refused.returncode == 1 and "back it up" in refused.stderr
    assert revision() == older, "left alone"
    assert run("upgrade").returncode == 0
    assert revision() != older
    server.start()
    try:
        server.ready()
    finally:
        server.stop()


def _older(place: Path) -> str:
    """A database before the last of MLflow's own migrations, and its revision."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{place}")
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(f"sqlite:///{place}")
    script = ScriptDirectory.from_config(config)
    before = script.get_revision(script.get_heads()[0]).down_revision
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, str(before))
    return str(before)


# --- when it is away -----------------------------------------------------------------------------


@pytest.fixture
def flaky(team: Team, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """What fails between a job and the server over PostgreSQL. The client does not wait."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    with gate(team.servers["postgresql"].address) as it:
        yield it


def state(team: Team, name: str) -> tuple[list[str], list[str], list[str]]:
    """Of a model, asked of the server itself: versions that are whole, those that are champion, and
    runs that are left running."""
    client = tracking.opened(at(team.servers["postgresql"].address)).client
    versions = client.search_model_versions(f"name = '{name}'")
    whole = [v.version for v in versions if v.tags.get(tracking.STATE) == "whole"]
    models = client.search_registered_models(f"name = '{name}'")
    champions = [models[0].aliases[CHAMPION]] if models and models[0].aliases else []
    experiment = client.get_experiment_by_name(name)
    running = (
        client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
        if experiment
        else []
    )
    return whole, champions, [run.info.run_id for run in running]


REGISTER = "POST /api/2.0/mlflow/registered-models/create"


def requests(flaky: Gate, settings: Settings) -> list[str]:
    """What an undisturbed training asks."""
    store = tracking.opened(settings)
    flaky.reset()
    train(store, f"counted-{time.monotonic_ns()}")
    return list(flaky.asked)


@pytest.mark.chaos
@pytest.mark.parametrize("mode", ["lost", 503])
def test_whenever_the_server_dies_nothing_is_half_registered(
    mode: str | int, team: Team, flaky: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after N requests, having done what was asked last, or not: for every N from the
    first of the registration on, and for some before."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = at(flaky.address)
    asked = requests(flaky, settings)
    register = asked.index(REGISTER)
    assert len(asked) - register >= 5
    whole_at_death = set()
    for number in (0, 3, register // 2, *range(register - 1, len(asked))):
        name = f"dies-{mode}-{number}"
        store = tracking.opened(settings)
        flaky.reset(mode, range(number, 10**6))
        with pytest.raises(InfrastructureError, match="then run this again"):
            with tracking.answering(settings):
                train(store, name)
        whole, champions, _ = state(team, name)
        assert set(champions) <= set(whole), f"request {number}: {flaky.asked[number]}"
        whole_at_death.add((len(whole), len(champions)))
        flaky.reset()
        version = train(tracking.opened(settings), name)
        assert state(team, name) == ([version], [version], []), f"request {number}"
    assert whole_at_death == {(0, 0), (1, 0), (1, 1)}, "it died before, between and after"


@pytest.mark.chaos
def test_an_answer_that_is_lost_once_is_no_failure(
    team: Team, flaky: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks again for what the server has done already, and there is one whole version.

    MLflow 3.17 itself answers the second asking for a run's outputs with an error of its database:
    that one run has to be repeated.
    """
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    settings = at(flaky.address)
    asked = requests(flaky, settings)
    repeated = []
    for number in range(1, len(asked)):
        name = f"lost-{number}"
        store = tracking.opened(settings)
        flaky.reset("lost", range(number, number + 1))
        try:
            with tracking.answering(settings):
                version = train(store, name)
        except InfrastructureError:
            repeated.append(asked[number])
            version = train(store, name)
        whole, champions, _ = state(team, name)
        assert (whole, champions) == ([version], [version]), asked[number]
        store.end_interrupted(store.experiment(name, "A title"), "i")
        assert state(team, name)[2] == [], "a run that was made twice is ended by the next"
    assert all(path.endswith("/outputs") for path in repeated), repeated


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_five_times_and_not_for_hours(
    status: int, team: Team, flaky: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in tracking.PATIENCE:
        if name != "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR":
            monkeypatch.delenv(name, raising=False)
    flaky.reset(status, range(10**6))
    began = time.monotonic()
    with pytest.raises(InfrastructureError, match=f"answered {status}; see that the server runs"):
        tracking.opened(at(flaky.address))
    assert len(flaky.asked) == 5
    assert time.monotonic() - began < 5, "though the server said: not before an hour"
    flaky.reset(status, range(4))
    tracking.opened(at(flaky.address))


@pytest.mark.parametrize(("status", "kind"), [(401, ConfigError), (403, ConfigError)])
def test_who_is_refused_is_told_what_to_set(
    status: int, kind: type[Exception], team: Team, flaky: Gate
) -> None:
    store = tracking.opened(at(flaky.address))
    flaky.reset(status, range(10**6))
    with pytest.raises(kind, match=f"answered {status}.*MLFLOW_TRACKING_TOKEN"):
        tracking.opened(at(flaky.address))
    with pytest.raises(kind, match=f"answered {status}.*MLFLOW_TRACKING_TOKEN"):
        with tracking.answering(at(flaky.address)):
            train(store, "refused")
    assert len([path for path in flaky.asked if "search" in path]) == 1 + 1, "no second try"


def test_an_error_is_not_read_as_no_model(team: Team, flaky: Gate) -> None:
    settings = at(flaky.address)
    store = tracking.opened(settings)
    train(store, "known")
    for status in (404, 500, 503):
        flaky.reset(status, range(10**6))
        with pytest.raises(InfrastructureError):
            with tracking.answering(settings):
                store.champion("known")


def test_a_version_that_is_not_whole_is_no_champion(team: Team) -> None:
    """Whoever gave it the alias, on the server's pages perhaps."""
    store = tracking.opened(at(team.servers["postgresql"].address))
    store.client.create_registered_model("by_hand")
    tags = {tracking.INPUTS: "i", tracking.AGREEMENTS: "a"}
    run = store.client.create_run(store.experiment("by_hand", "A title")).info
    store.client.create_model_version("by_hand", run.artifact_uri, run.run_id, tags=tags)
    store.client.set_registered_model_alias("by_hand", CHAMPION, "1")
    assert store.champion("by_hand") is None and store.made_from("by_hand", "i") is None
    store.client.set_model_version_tag("by_hand", "1", tracking.STATE, "whole")
    assert store.champion("by_hand") is not None


def test_a_wrong_call_and_other_errors_stay_what_they_are(team: Team) -> None:
    from mlflow.exceptions import MlflowException

    settings = at(team.servers["postgresql"].address)
    store = tracking.opened(settings)
    with pytest.raises(MlflowException):
        with tracking.answering(settings):
            store.client.create_registered_model("")
    for error in (UsageError("x"), OSError("x"), ValueError("x")):
        with pytest.raises(type(error)):
            with tracking.answering(settings):
                raise error


def test_an_experiment_that_was_deleted_is_told(team: Team) -> None:
    store = tracking.opened(at(team.servers["postgresql"].address))
    store.client.delete_experiment(store.experiment("thrown_away", "A title"))
    with pytest.raises(UsageError, match="thrown_away was deleted in MLflow; restore it"):
        store.experiment("thrown_away", "A title")


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    place = f"http://me:hunter2@127.0.0.1:{free_port()}"
    with pytest.raises(InfrastructureError) as told:
        tracking.opened(at(place))
    assert re.search(r"at http://\*+@127.0.0.1:\d+ refuses connections", str(told.value))
    assert "hunter2" not in str(told.value) and told.value.exit_code == 20


def test_credentials_in_the_address_are_used_and_never_shown(
    team: Team, flaky: Gate, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = at(flaky.address.replace("://", "://me:hunter2@"))
    store = tracking.opened(settings)
    assert train(store, "private") == "1"
    assert set(flaky.authorized) == {"Basic bWU6aHVudGVyMg=="}, "me:hunter2"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    messages = []
    for mode in ("lost", 503, 401):
        flaky.reset(mode, range(10**6))
        with pytest.raises((InfrastructureError, ConfigError)) as told:
            with tracking.answering(settings):
                train(store, "private", "again")
        messages.append(str(told.value))
        assert told.value.__cause__ is None and told.value.__suppress_context__
    said = "".join([*messages, *capfd.readouterr()])
    assert "******@127.0.0.1" in said and "hunter2" not in said and "bWU6" not in said
    server = team.servers["postgresql"]
    kept = b"".join(p.read_bytes() for p in server.folder.rglob("*") if p.is_file())
    dump = subprocess.run(
        [team.database.programs / "pg_dump", team.database.uri],
        env={**os.environ, **team.database.variables}, capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert b"# A card" in kept and b"private" in dump, "control"
    assert b"hunter2" not in kept and b"hunter2" not in dump


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["postgresql://u:hunter2@db/mlflow", "databricks", "databricks-uc://p", "file:/mlruns",
     "/mlruns", "http://", "mysql+pymysql://u:hunter2@db/m"],
)  # fmt: skip
def test_other_stores_are_refused_without_showing_them(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"lake: {tmp_path}/lake\nlanding: x\nmlflow: {json.dumps(place)}\n")
    assert main(["settings", "--settings", str(settings)]) == 10
    said = capsys.readouterr()
    assert "settings.yaml:3: mlflow: name a tracking server" in said.err
    assert "hunter2" not in said.err + said.out


def test_settings_are_shown_without_credentials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONCORD_MLFLOW", "https://me:hun/t@er2@mlflow.example.gov/ml?token=hunter2")
    assert main(["settings", "--settings", str(ROOT / "conf/settings/local.yaml")]) == 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err and "er2" not in said.out
    assert json.loads(said.out)["mlflow"].endswith("mlflow.example.gov/ml")


def test_a_file_that_the_settings_name_keeps_its_artifacts_beside_it(tmp_path: Path) -> None:
    settings = at(f"sqlite:///{tmp_path}/own/runs.db")
    store = tracking.opened(settings)
    assert train(store, "local") == "1"
    assert (tmp_path / "own" / "runs.db").exists()
    assert len(list((tmp_path / "own" / "artifacts").rglob("model_card.md"))) == 1
