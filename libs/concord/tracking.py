"""MLflow: where its store is, opened without a word on the terminal and without a call home.

Only the driver writes to it. Nothing that is kept there names a person, a case or a pseudonym.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from concord.errors import ConfigError, InfrastructureError
from concord.settings import Settings

CHAMPION, CHALLENGER = "champion", "challenger"
# Tags of runs and model versions, written once here.
INPUTS = "concord.inputs"
RUN_ID = "concord.run_id"
STATE = "concord.state"
EXPIRES = "concord.expires"
AGREEMENTS = "concord.agreements"
# Why a version may not be applied any more.
ARCHIVED = "concord.archived"
PURPOSES = "concord.purposes"
DATA_VERSIONS = "concord.data_versions"
POLICY_DIGEST = "concord.policy_digest"
AS_OF = "concord.as_of"
CODE_DIGEST = "concord.code_digest"
GIT_COMMIT = "concord.git_commit"
LOCK_DIGEST = "concord.lock_digest"
CONFIG_DIGEST = "concord.config_digest"


@dataclass(frozen=True)
class Registered:
    """A version of a registered model with what its tags say."""

    name: str
    version: str
    run_id: str
    source: str
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Store:
    """An opened store. `mlflow` is the module, set to it; `client` its plain client."""

    mlflow: Any
    client: Any
    artifacts: str | None

    def champion(self, name: str) -> Registered | None:
        """The version that scores are made with, or None."""
        return self.aliased(name, CHAMPION)

    def aliased(self, name: str, alias: str) -> Registered | None:
        """The version that has an alias, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return _registered(self.client.get_model_version_by_alias(name, alias))
        except MlflowException:
            return None

    def under(self, agreement: str) -> list[Registered]:
        """Every model version that was made under an agreement and is not archived."""
        found = self.client.search_model_versions()
        return [
            _registered(version)
            for version in found
            if agreement in version.tags.get(AGREEMENTS, "").split(",")
            and ARCHIVED not in version.tags
        ]

    def archive(self, version: Registered, why: str) -> None:
        """Marks a version as never to be applied again; it loses the alias that scores look for."""
        aliases = self.client.get_model_version(version.name, version.version).aliases
        for alias in aliases:
            self.client.delete_registered_model_alias(version.name, alias)
        self.client.set_model_version_tag(version.name, version.version, ARCHIVED, why)

    def made_from(self, name: str, inputs: str) -> Registered | None:
        """The newest whole version that was made from the same inputs, or None."""
        found = self.client.search_model_versions(f"name = '{name}'")
        same = [v for v in found if v.tags.get(INPUTS) == inputs and v.tags.get(STATE) == "whole"]
        return _registered(max(same, key=lambda v: int(v.version))) if same else None

    def experiment(self, name: str) -> str:
        """The id of an experiment, made if absent."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = f"{self.artifacts}/{name}" if self.artifacts else None
        return str(self.client.create_experiment(name, artifact_location=place))

    def finished(self, experiment: str, inputs: str) -> str:
        """The id of a run that came to its end from the same inputs, or an empty text."""
        found = self.client.search_runs(
            [experiment], f"tags.`{INPUTS}` = '{inputs}' and attributes.status = 'FINISHED'"
        )
        return str(found[0].info.run_id) if found else ""

    def end_interrupted(self, experiment: str, inputs: str) -> int:
        """Ends runs that a killed training from the same inputs left running; how many."""
        left = self.client.search_runs(
            [experiment],
            f"tags.`{INPUTS}` = '{inputs}' and attributes.status = 'RUNNING'",
            max_results=1000,
        )
        for run in left:
            self.client.set_terminated(run.info.run_id, "KILLED")
        return len(left)


def address(settings: Settings) -> tuple[str, str | None]:
    """Tracking address and artifact folder: the settings', or SQLite beside a local lake.

    Raises ConfigError for a lake elsewhere without an address in the settings.
    """
    if settings.mlflow:
        return settings.mlflow, None
    if "://" in settings.lake:
        raise ConfigError(["mlflow: name the tracking server; the lake is not on a local disk"])
    folder = Path(settings.lake).parent / "mlflow"
    return f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")


def opened(settings: Settings) -> Store:
    """The store, made if absent (a second or two). Raises InfrastructureError if it fails."""
    # Read by MLflow when it is imported.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    warnings.filterwarnings("ignore", module=r"mlflow.*")
    warnings.filterwarnings("ignore", message=r"(?s).*[Tt]ype hint")
    # In a notebook, of a progress bar that nobody shows.
    warnings.filterwarnings("ignore", message="IProgress not found")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    place, artifacts = address(settings)
    if place.startswith("sqlite:///"):
        Path(place.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        mlflow.set_tracking_uri(place)
        mlflow.set_registry_uri(place)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:
        raise InfrastructureError(
            f"MLflow's store did not open ({type(error).__name__}); check the setting mlflow, the "
            "server, or space and permissions beside the lake"
        ) from None
    return Store(mlflow, client, artifacts)


def _registered(version: Any) -> Registered:
    return Registered(
        version.name, str(version.version), version.run_id, version.source, dict(version.tags)
    )


# --- what a run was made with --------------------------------------------------------------------


@lru_cache
def code_digest(folder: Path) -> str:
    """SHA-256 over a package's source files, 32 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


@lru_cache
def origin(folder: Path) -> dict[str, str]:
    """Tags that say what code (of a package) and packages made a run: commit and lock file where
    there are."""
    root = Path(__file__).resolve().parents[2]
    tags = {CODE_DIGEST: code_digest(folder)}
    lock = root / "infra" / "lock" / "requirements.txt"
    if lock.exists():
        tags[LOCK_DIGEST] = hashlib.sha256(lock.read_bytes()).hexdigest()[:32]
    git = shutil.which("git")
    if git and (root / ".git").exists():
        asked = subprocess.run(  # noqa: S603  # its own arguments only
            [git, "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        if not asked.returncode:
            tags[GIT_COMMIT] = asked.stdout.strip()
    return tags
