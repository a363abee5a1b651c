"""MLflow's server as a team runs it, and what stands between it and a client and fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import ROOT
from tests.postgresql import Database, free_port

SERVE = ROOT / "infra" / "mlflow" / "serve.py"


@dataclass
class Server:
    """infra/mlflow/serve.py on a free port, with a folder of its own for artifacts and its log."""

    folder: Path
    database: str
    secrets: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        return {
            **{name: it for name, it in os.environ.items() if not name.startswith("MLFLOW_")},
            **self.secrets,
            "MLFLOW_BACKEND_STORE_URI": self.database,
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "artifacts"),
            "MLFLOW_PORT": str(self.port),
            "MLFLOW_WORKERS": "1",
        }

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, SERVE], env=self.variables, stdout=log, stderr=log, cwd=self.folder
            )

    def ready(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while True:
            assert self.process is not None and self.process.poll() is None, self.log
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()  # noqa: S310
                return
            except OSError:
                assert time.monotonic() < deadline, self.log
                time.sleep(0.2)

    def terminate(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def stop(self) -> None:
        self.terminate()
        if self.process is not None:
            self.process.wait(timeout=30)


@contextmanager
def serving(folder: Path, database: Database) -> Iterator[str]:
    """The address of a server over a database, which has its artifacts in a folder."""
    server = Server(folder, database.uri, database.variables)
    server.start()
    try:
        server.ready()
        yield server.address
    finally:
        server.stop()


@dataclass
class Gate:
    """A proxy before a server. `mode` of those requests that `fails` picks by their number from 0,
    or of all from the first whose path has `dies_at` in it: `lost` does what is asked and hangs up,
    a number answers with that status and does nothing."""

    server: str
    mode: str | int = "lost"
    fails: range = range(0)
    dies_at: str = ""
    asked: list[str] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self, mode: str | int = "lost", fails: range = range(0)) -> None:
        self.mode, self.fails, self.dies_at = mode, fails, ""
        self.asked.clear()


@contextmanager
def gate(server: str) -> Iterator[Gate]:
    it = Gate(server)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with it.lock:
                number = len(it.asked)
                it.asked.append(f"{self.command} {urlsplit(self.path).path}")
                it.authorized.append(self.headers.get("Authorization"))
                if it.dies_at and it.dies_at in self.path:
                    it.reset(503, range(10**6))
            failing = number in it.fails
            if failing and isinstance(it.mode, int):
                self._answer(it.mode, b"<html>not today</html>", {"Retry-After": "3600"})
                return
            place = urlsplit(it.server)
            behind = HTTPConnection(str(place.hostname), place.port, timeout=60)
            behind.request(self.command, self.path, body, dict(self.headers))
            answer = behind.getresponse()
            content = answer.read()
            behind.close()
            if failing:
                self.close_connection = True
                self.connection.close()
            else:
                kind = answer.headers.get("Content-Type", "text/plain")
                self._answer(answer.status, content, {"Content-Type": kind})

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A connection that was hung up is what is wanted."""

    listening = Quiet(("127.0.0.1", 0), Handler)
    it.address = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield it
    finally:
        listening.shutdown()
        listening.server_close()
