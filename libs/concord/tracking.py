"""MLflow: where its store is, opened without a word on the terminal and without a call home; and
what is said when it is away.

Only the driver writes to it. Nothing that is kept there names a person, a case or a pseudonym.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from concord.errors import ConcordError, ConfigError, InfrastructureError, UsageError
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
# What MLflow's pages show of a run: its description, and what made it.
DESCRIPTION, SOURCE = "mlflow.note.content", "mlflow.source.name"

# MLflow's own: what its pages show under an experiment's name.
DESCRIPTION = "mlflow.note.content"

SQLITE = "sqlite:///"

# How MLflow's own client tries a request again that was refused, lost, or answered with 408, 429
# or 5xx: five times in all, within 18 seconds (0, 2, 4 and 8 between, a second of chance each); of
# a server that is silent, within three minutes. What the environment says goes before.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # A server may ask to be left alone for hours.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}


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
        """The version that has an alias, or None. One that is not whole is none, whoever gave it
        the alias."""
        # A search that finds nothing is no error, so an error is never taken for "there is none".
        models = self.client.search_registered_models(f"name = '{name}'")
        version = models[0].aliases.get(alias) if models else None
        if version is None:
            return None
        found = _registered(self.client.get_model_version(name, version))
        return found if found.tags.get(STATE) == "whole" else None

    def register(
        self, name: str, logged: Any, run_id: str, tags: Mapping[str, str], title: str,
        description: str = "",
    ) -> str:  # fmt: skip
        """Makes a version of a model that was logged (MLflow's ModelInfo) and returns its number.
        `title` is the model's, `description` (Markdown) the version's.

        It is marked whole as the last step: what was interrupted before is applied to nothing.
        """
        with _unless_there():
            self.client.create_registered_model(name, {AGREEMENTS: tags[AGREEMENTS]}, title)
        made = self.client.create_model_version(
            name, logged.model_uri, run_id, tags=dict(tags), model_id=logged.model_id,
            description=description,
        )  # fmt: skip
        self.client.set_model_version_tag(name, made.version, STATE, "whole")
        return str(made.version)

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

    def finish(self, version: Registered) -> None:
        """Ends the run of a whole version that was interrupted after it was made."""
        if self.client.get_run(version.run_id).info.status == "RUNNING":
            self.client.set_terminated(version.run_id)

    def experiment(self, name: str, title: str) -> str:
        """The id of an experiment, made if absent, with a title as its description.

        Raises UsageError for one that was deleted.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = f"{self.artifacts}/{name}" if self.artifacts else None
            with _unless_there():
                self.client.create_experiment(
                    name, artifact_location=place, tags={DESCRIPTION: title}
                )
            found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            raise UsageError(
                f"the experiment {name} was deleted in MLflow; restore it there (mlflow "
                f"experiments restore --experiment-id {found.experiment_id}), then run this again"
            )
        return str(found.experiment_id)

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
    """Tracking address and artifact folder: the settings', or SQLite beside a local lake. A server
    keeps artifacts itself.

    Raises ConfigError for a lake elsewhere without an address in the settings.
    """
    if settings.mlflow and not settings.mlflow.startswith(SQLITE):
        return settings.mlflow, None
    if settings.mlflow:
        place = settings.mlflow
    elif "://" in settings.lake:
        raise ConfigError(["mlflow: name the tracking server; the lake is not on a local disk"])
    else:
        place = f"{SQLITE}{Path(settings.lake).parent / 'mlflow' / 'mlflow.db'}"
    return place, str(Path(place.removeprefix(SQLITE)).absolute().parent / "artifacts")


def opened(settings: Settings) -> Store:
    """The store, made if absent (a second or two).

    Raises InfrastructureError if it does not open, ConfigError if it refuses who asks.
    """
    # Read by MLflow when it is imported.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"mlflow.*")
    warnings.filterwarnings("ignore", message=r"(?s).*[Tt]ype hint")
    # In a notebook, of a progress bar that nobody shows.
    warnings.filterwarnings("ignore", message="IProgress not found")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Each request that is tried again, with its path.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    place, artifacts = address(settings)
    try:
        if place.startswith(SQLITE):
            Path(place.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        mlflow.set_tracking_uri(place)
        mlflow.set_registry_uri(place)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:
        raise _failure(settings, error) or _away(place, type(error).__name__) from None
    return Store(mlflow, client, artifacts)


# --- when it is away -----------------------------------------------------------------------------


@contextmanager
def answering(settings: Settings) -> Iterator[None]:
    """Where a job runs: MLflow's errors as Concord's. InfrastructureError where its server or disk
    failed, after MLflow's client has tried again; ConfigError where the server refuses who asks.

    What MLflow says of a wrong call passes: that is a bug. So does every other error.
    """
    try:
        yield
    except Exception as error:
        told = _failure(settings, error)
        if told is None:
            raise
        raise told from None


def without_credentials(place: str) -> str:
    """An address as it may be shown: `user:password@` masked, what follows a `?` left out."""
    return re.sub(r"://.*@", "://******@", place).partition("?")[0]


# What an error says, in words that hold no address, name or value of it.
REASONS = (
    (r"Connection refused", "refuses connections"),
    (r"Failed to resolve|Name or service not known|getaddrinfo", "has a name that nobody knows"),
    (r"(?i)certificate|SSLError", "shows a certificate that is not trusted"),
    (r"(?i)timed out|timeout", "did not answer in time"),
    (r"(?i)Connection aborted|Connection reset|RemoteDisconnected|IncompleteRead", "hung up"),
    (r"too many (\d{3}) error responses|error code (\d{3})|^(\d{3}) ", "answered {}"),
)


# Kinds that are no wrong call in spite of their status: an error of the server's database, and a
# path that no MLflow server of this version lacks (something else answers there).
THEIRS = {"BAD_REQUEST", "ENDPOINT_NOT_FOUND"}


def _failure(settings: Settings, error: Exception) -> ConcordError | None:
    """What to raise in place of an error of MLflow's, or None where it is not the store's fault."""
    known = sys.modules.get("mlflow.exceptions")
    if isinstance(error, ConcordError) or known is None:
        return None
    if isinstance(error, known.MlflowException):
        status, kind = error.get_http_status_code(), error.error_code
        ours = 400 <= status < 500 and status not in {401, 403, 408, 429}
        if ours and kind not in THEIRS:
            return None
    elif isinstance(error, OSError) and _in_mlflow(error):  # those of requests are OSErrors too
        status, kind = getattr(getattr(error, "response", None), "status_code", 0), ""
    else:
        return None
    place, _ = address(settings)
    if status in {401, 403}:
        return ConfigError(
            [
                f"mlflow: {without_credentials(place)} answered {status}: it does not let this "
                "user in, or does not go by this name. Set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the job's environment, or "
                "the server's allowed hosts (infra/mlflow/README.md)"
            ]
        )
    text = str(error)
    for pattern, words in REASONS:
        if found := re.search(pattern, text):
            return _away(place, words.format(next(filter(None, found.groups()), "")))
    return _away(place, f"failed ({kind or type(error).__name__})")


def _away(place: str, what: str) -> InfrastructureError:
    where = without_credentials(place)
    if place.startswith(SQLITE):
        do = "check space and permissions of its folder"
    else:
        do = f"see that the server runs (curl {where.replace('******@', '')}/health)"
    return InfrastructureError(
        f"MLflow at {where} {what}; {do}, then run this again. Nothing that was half done there "
        "is ever applied"
    )


def _in_mlflow(error: BaseException) -> bool:
    """Whether it was raised below a call of MLflow."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "mlflow":
            return True
        step = step.tb_next
    return False


@contextmanager
def _unless_there() -> Iterator[None]:
    """To make what may be there: made by another client, or by a request whose answer was lost."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


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
