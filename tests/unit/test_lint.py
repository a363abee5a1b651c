"""The linters are tests: ruff, mypy and the one-way import rules hold for the whole tree."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def check(*command: str) -> None:
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.fail(f"{' '.join(command)}\n{answer.stdout}{answer.stderr}", pytrace=False)


def test_ruff() -> None:
    check(str(BIN / "ruff"), "check", "--quiet", "--output-format", "concise", ".")


def test_mypy() -> None:
    check(str(BIN / "mypy"))


def test_imports_point_one_way() -> None:
    check(str(BIN / "lint-imports"))
