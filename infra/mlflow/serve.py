#!/usr/bin/env python3
"""MLflow's tracking server for a team: serves, upgrades its database, checks that it answers.

    python infra/mlflow/serve.py            # makes the tables of an empty database, then serves
    python infra/mlflow/serve.py upgrade    # after MLflow was updated, and after a backup
    python infra/mlflow/serve.py check      # 0: the server answers, and so does its database

All settings stand in the environment, under MLflow's own names (README.md beside this file), so
that no password is on a command line, where every user of the machine reads it.
"""

from __future__ import annotations

import os
import re
import sys
from typing import NoReturn

DEFAULTS = {
    "MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow/mlflow.db",
    "MLFLOW_ARTIFACTS_DESTINATION": "mlflow/artifacts",
    "MLFLOW_HOST": "127.0.0.1",
    "MLFLOW_PORT": "5000",
    "MLFLOW_WORKERS": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Scorers and judges of language models: four processes more that Concord has no use for.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
}

POSTGRESQL = "postgresql+psycopg2://"


def main(arguments: list[str]) -> int:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # One address for MLflow and for pg_dump: SQLAlchemy would take a driver that is not installed.
    plain = os.environ["MLFLOW_BACKEND_STORE_URI"]
    os.environ["MLFLOW_BACKEND_STORE_URI"] = re.sub("^postgres(ql)?://", POSTGRESQL, plain)
    match arguments:
        case []:
            return serve()
        case ["upgrade"]:
            return upgrade()
        case ["check"]:
            return check()
    print(__doc__, file=sys.stderr)
    return 2


def serve() -> int:
    from mlflow.store.db import utils

    database = os.environ["MLFLOW_BACKEND_STORE_URI"]
    engine = utils.create_sqlalchemy_engine_with_retry(database)
    # Here and once: each worker would try by itself.
    if utils._is_empty_database(engine):
        upgrade()
    elif utils._get_schema_version(engine) != utils._get_latest_schema_revision():
        print(
            "mlflow: the database has the tables of another version of MLflow. Stop every server "
            "that uses it, back it up, then run infra/mlflow/serve.py upgrade",
            file=sys.stderr,
        )
        return 1
    engine.dispose()
    return _become_mlflow()


def _become_mlflow() -> NoReturn:
    # The rest MLflow reads from the environment itself.
    command = [sys.executable, "-m", "mlflow", "server"]
    if "MLFLOW_AUTH_CONFIG_PATH" in os.environ:
        command += ["--app-name", "basic-auth"]
    print(f"mlflow: {_address()}", flush=True)
    # In place of this process, so that a supervisor's signals reach it.
    os.execv(sys.executable, command)  # noqa: S606  # its own words only


def upgrade() -> int:
    """What `mlflow db upgrade` does; as a command, that takes the address as an argument."""
    from mlflow import db

    db.upgrade.callback(os.environ["MLFLOW_BACKEND_STORE_URI"])
    return 0


def check() -> int:
    """/health alone says that a process listens, not that it reaches database and artifacts."""
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    import mlflow

    mlflow.set_tracking_uri(_address())
    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
        mlflow.artifacts.list_artifacts("mlflow-artifacts:/")
    except Exception as error:
        print(f"mlflow: {_address()} failed: {type(error).__name__}", file=sys.stderr)
        return 1
    print(f"mlflow: {_address()} answers, and reaches its database and artifacts")
    return 0


def _address() -> str:
    return f"http://{os.environ['MLFLOW_HOST']}:{os.environ['MLFLOW_PORT']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
