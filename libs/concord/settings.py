"""What a deployment sets: files under `conf/settings`, the environment, arguments.

Also the one way every YAML file under `conf/` is read: typed by pydantic, with all mistakes of
all files collected, each with its file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from yaml import MarkedYAMLError, Node, YAMLError

from concord.errors import ConfigError
from concord.yaml12 import Location, line_of, parsed

Model = TypeVar("Model", bound=BaseModel)


class Typed(BaseModel):
    """A frozen configuration value that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- reading conf/ files -------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One mistake in one file: where it is and what to do about it."""

    file: str
    line: int
    where: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}"
        return (
            f"{place}: {self.where}: {self.message}" if self.where else f"{place}: {self.message}"
        )


@dataclass(frozen=True)
class Document:
    """A parsed YAML file that can tell the line of any of its values."""

    file: str
    data: Any
    root: Node | None

    def line(self, location: Location) -> int:
        """Line (from 1) of the deepest part of `location` that the file really has."""
        return line_of(self.root, location)

    def problem(self, location: Location, message: str) -> Problem:
        return Problem(self.file, self.line(location), dotted(location), message)


def dotted(location: Location) -> str:
    """`("schema", 0, "name")` as `schema[0].name`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def read_document(path: Path) -> Document:
    """Parse one YAML file. Raises ConfigError with file and line when it is not YAML."""
    try:
        data, root = parsed(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        mark, problem = None, "a character that YAML does not allow"
        if isinstance(error, MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            problem = error.problem or error.context or "?"
        line = mark.line + 1 if mark else 1
        raise ConfigError([Problem(str(path), line, "", f"not valid YAML: {problem}")]) from None
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), 1, "", "no such file")]) from None
    except UnicodeDecodeError:
        raise ConfigError(
            [Problem(str(path), 1, "", "not UTF-8; save the file as UTF-8")]
        ) from None
    return Document(str(path), data, root)


def validate(document: Document, model: type[Model]) -> Model:
    """The document as `model`. Raises ConfigError listing every mistake with its line."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(problems_of(document, error)) from None


def problems_of(document: Document, error: ValidationError, prefix: Location = ()) -> list[Problem]:
    """pydantic's errors as problems of the document, each with the line of its value."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        location = prefix + tuple(item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key {location[-1]!r}; remove it or correct its spelling"
        elif item["type"] == "missing":
            message = f"{location[-1]!r} is missing; add it"
            location = location[:-1]
        found.append(document.problem(location, message))
    return found


def load(path: Path, model: type[Model]) -> Model:
    """Read and validate one file."""
    return validate(read_document(path), model)


def load_folder(
    folder: Path,
    model: type[Model],
    mistakes: Callable[[str, Model], Iterable[tuple[Location, str]]],
) -> dict[str, Model]:
    """Every YAML file of a folder as `model`, by the file's name.

    `mistakes` gets that name and the value, and tells what the type alone cannot: where, and what
    to do. Raises one ConfigError with all mistakes of all files.
    """
    found: dict[str, Model] = {}
    errors = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            document = read_document(path)
            value = validate(document, model)
            problems = [document.problem(*each) for each in mistakes(path.stem, value)]
            if problems:
                raise ConfigError(problems)
            found[path.stem] = value
        except ConfigError as error:
            errors.append(error)
    gather(errors)
    return found


def gather(errors: Iterable[ConfigError]) -> None:
    """Raise one ConfigError holding all problems of the given ones, if there is any."""
    problems = [problem for error in errors for problem in error.problems]
    if problems:
        raise ConfigError(problems)


# --- the settings themselves ---------------------------------------------------------------------


class VaultKeys(Typed):
    """HashiCorp Vault's transit engine. Who logs in stands in the environment (docs/keys.md)."""

    address: str
    mount: str = "transit"
    namespace: str | None = None
    prefix: str = Field(default="concord-", description="before each key's name in Vault")
    timeout_seconds: int = Field(default=10, ge=1)


class KmsKeys(Typed):
    """AWS KMS. Credentials come as boto3 finds them. `endpoint` is for tests and private links."""

    region: str
    prefix: str = Field(default="concord-", description="before each key's alias")
    endpoint: str | None = None


class Keys(Typed):
    """Where keys come from (docs/keys.md).

    Agreements' own keys lie wrapped in the folder `agreements` below `path`, on the driver alone;
    the provider has what wraps them. `file` (development) keeps that and the hub's own keys (the
    vault's, and the one with which person ids are minted) in files below `path`; `environment`
    reads the variables named here, base64, on the driver and, the vault's and the wrapping key, on
    every worker; `vault` and `aws-kms` wrap the hub's keys too (the folder `hub`).
    """

    provider: Literal["file", "environment", "vault", "aws-kms"] = "file"
    path: Path | None = None
    variable: str = "CONCORD_VAULT_KEY"
    wrapping_variable: str = "CONCORD_WRAPPING_KEY"
    mint_variable: str = "CONCORD_MINT_KEY"
    vault: VaultKeys | None = None
    kms: KmsKeys | None = None


class Role(Typed):
    """Who has a role that agreements speak of: users and groups of the operating system or the
    identity provider behind it. `*` among the users is everybody who can run jobs here, for
    development."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


# The folders of the lake that are its zones.
Zone = Literal["curated", "vault", "index", "studies", "products", "ops"]
# The commands that open the lake, by the first word of a job's name.
JobName = Literal[
    "ingest", "index", "study", "return", "rotate", "expire", "maintain", "review", "agreement",
    "audit", "labels", "catalog", "show", "lineage", "demo", "train", "score", "drift", "publish",
    "model", "reproduce", "outcomes", "read",
]  # fmt: skip


class JobRole(Typed):
    """Jobs that may open the same zones of the lake; `read` is `concord.read` in a notebook.

    A zone in `writes` is in `reads` too. What lies outside the lake, the landing area first of
    all, goes with the vault, which keeps the same files.
    """

    jobs: tuple[JobName, ...]
    reads: tuple[Zone, ...]
    writes: tuple[Zone, ...]
    studies: Literal["asked", "all"] = Field(
        default="asked",
        description="of the zone studies: asked, what an agreement is for that allowed the job's "
        "own request; all, every study",
    )


# Least first: who trains and scores writes scores beside the study, who publishes a product, and
# every job its runs and what it asked to ops.
JOB_ROLES = {
    "recipient": JobRole(
        jobs=("train", "score", "drift", "publish", "model", "reproduce", "outcomes", "read"),
        reads=("studies", "products", "ops"),
        writes=("studies", "products", "ops"),
    ),
    "hub": JobRole(
        jobs=(
            "ingest", "index", "study", "return", "rotate", "expire", "maintain", "review",
            "agreement", "audit", "labels", "catalog", "show", "lineage", "demo",
        ),
        reads=get_args(Zone),
        writes=get_args(Zone),
        studies="all",
    ),
}  # fmt: skip


class SparkSettings(Typed):
    """How the session is built. `master` None leaves it to spark-submit."""

    master: str | None = None
    jars: str | None = None
    confs: dict[str, str] = {}


class Locks(Typed):
    """A lock whose holder has not renewed it for `stale_after_seconds` may be taken over."""

    stale_after_seconds: int = Field(default=300, ge=5)
    wait_seconds: int = Field(default=120, ge=0)


# Where MLflow may be.
MLFLOW = r"^(https?://|sqlite:///)."


class Settings(BaseSettings):
    """Effective settings: arguments over the environment (`CONCORD_LAKE`, `CONCORD_KEYS__PATH`,
    ...) over the settings file over the defaults here."""

    model_config = SettingsConfigDict(
        env_prefix="CONCORD_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    lake: str
    landing: str
    conf: Path = Path("conf")
    mlflow: str | None = Field(
        default=None,
        json_schema_extra={"pattern": MLFLOW},
        description=(
            "MLflow's tracking server (http:// or https://), or a file (sqlite:///PATH, artifacts "
            "beside it); None: sqlite in mlflow/ beside a local lake. User and password, or token, "
            "stand in the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN"
        ),
    )
    keys: Keys = Keys()
    roles: dict[str, Role] = {}
    job_roles: dict[str, JobRole] = Field(
        default=JOB_ROLES,
        description="which jobs may open which zones; a job that no role names opens none",
    )
    signers: Path | None = Field(
        default=None,
        description="the registry of keys that may sign agreements; None: signers.yaml in conf",
    )
    spark: SparkSettings = SparkSettings()
    locks: Locks = Locks()
    parallel_feeds: int = Field(default=2, ge=1)
    parallel_tables: int = Field(
        default=2, ge=1, description="tables of one delivery that are staged or published at a time"
    )
    catalog: str | None = Field(
        default=None, description="register tables as <catalog>.<zone>.<table>; None: paths only"
    )

    @field_validator("mlflow")
    @classmethod
    def _served(cls, place: str | None) -> str | None:
        # Who writes to a server's database by itself leaves artifacts where nobody finds them, and
        # its password with every job.
        if place is not None and not re.match(MLFLOW, place):
            raise ValueError(
                "name a tracking server (http://, https://) or a file (sqlite:///PATH); a "
                "database is served by infra/mlflow/serve.py, and other stores are not supported"
            )
        return place

    @property
    def signers_file(self) -> Path:
        return self.signers or self.conf / "signers.yaml"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # load_settings() lays the arguments over the environment itself: the file comes in last.
        return (env_settings, init_settings)


def load_settings(path: Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from `path`, the environment and `overrides` (the command line's arguments).

    Raises ConfigError with every mistake; one in the file names its line.
    """
    document = read_document(path)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    data = document.data if isinstance(document.data, Mapping) else {}
    try:
        settings = Settings(**data).model_copy(update=given)
    except ValidationError as error:
        raise ConfigError(problems_of(document, error)) from None
    mistakes = [document.problem(*each) for each in _role_mistakes(settings.job_roles)]
    if mistakes:
        raise ConfigError(mistakes)
    roots = {name: absolute(getattr(settings, name)) for name in ("lake", "landing")}
    return settings.model_copy(update=roots)


def _role_mistakes(roles: Mapping[str, JobRole]) -> Iterator[tuple[Location, str]]:
    """What is wrong with the job roles though each of their words is known."""
    of: dict[str, str] = {}
    for name, role in roles.items():
        place: Location = ("job_roles", name)
        for number, job in enumerate(role.jobs):
            if job in of:
                yield (*place, "jobs", number), f"job {job} has the role {of[job]} already"
            of.setdefault(job, name)
        for kind, zones in (("reads", role.reads), ("writes", role.writes)):
            for number, zone in enumerate(zones):
                if zone in zones[:number]:
                    yield (*place, kind, number), f"zone {zone} is named twice; drop one"
                if zone not in role.reads:
                    yield (*place, kind, number), f"zone {zone} is not in reads; add it there"
            if "ops" not in zones:
                message = f"{kind} lacks ops, where every job keeps its runs and what it asked"
                yield (*place, kind), f"{message}; add it"


def absolute(root: str) -> str:
    """A local root without scheme as an absolute path: SQL takes no relative one for a table."""
    return root if "://" in root else str(Path(root).absolute())
