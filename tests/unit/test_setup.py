"""`make setup` in copies of the tree: what it asks for, what it installs, when it does nothing.

The copies have a lock of one tiny package and a jar of a few bytes, so no test needs a network.
"""

import base64
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
MAKE = shutil.which("make") or "make"
# The tests of one finished tree stay in one worker, which makes it once.

LOCKS = (ROOT / "infra/lock/build.txt", ROOT / "infra/lock/requirements.txt")

# Builds an editable wheel without hatchling, which the copies' lock does not hold.
BACKEND = """
import zipfile
def get_requires_for_build_editable(config=None): return []
def build_editable(folder, config=None, metadata=None):
    name = "concord-0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        info = "concord-0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: concord\\nVersion: 0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""
PROJECT = """
[project]
name = "concord"
version = "0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def make_wheel(folder: Path, name: str, script: str = "") -> str:
    """A wheel with one empty module, maybe a script of its name, and the lock line for it."""
    path = folder / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": "",
        f"{name}-1.data/scripts/{name}": f"#!/bin/sh\n{script}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for file, text in files.items():
        checksum = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{file},sha256={checksum.decode()},{len(text)}\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = 0o100755 << 16
            wheel.writestr(entry, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return f"{name}==1 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def make_killer(folder: Path) -> str:
    """A source archive whose build kills the whole process group, and the lock line for it."""
    project = '[build-system]\nrequires = []\nbuild-backend = "killer"\nbackend-path = ["."]\n'
    files = {
        "pyproject.toml": project,
        "killer.py": "import os, signal\nos.killpg(0, signal.SIGKILL)\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: killer\nVersion: 1\n",
    }
    path = folder / "killer-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            entry = tarfile.TarInfo(f"killer-1/{file}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return f"killer==1 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def make_tree(root: Path) -> Path:
    """The files that set-up reads, with a lock and a jar that are on this disk already."""
    (root / "infra/lock").mkdir(parents=True)
    (root / "infra/jars").mkdir()
    (root / "wheels").mkdir()
    shutil.copytree(ROOT / "infra/setup", root / "infra/setup")
    shutil.copy(ROOT / "Makefile", root)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "backend.py").write_text(BACKEND)
    # a uv that leaves a trace and fails: what follows is pip's work
    uv = make_wheel(root / "wheels", "uv", f"echo $* > {root}/uv-called; exit 2")
    (root / "infra/lock/build.txt").write_text(uv)
    (root / "infra/lock/requirements.txt").write_text(make_wheel(root / "wheels", "first"))
    (root / "infra/jars/some-1.jar").write_bytes(b"jar")
    checksum = hashlib.sha256(b"jar").hexdigest()
    (root / "infra/jars/SHA256SUMS").write_text(f"{checksum}  some-1.jar\n")
    return root


def make_executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_java(folder: Path, version: str) -> Path:
    return make_executable(folder / "java", f"echo 'openjdk version \"{version}\"' >&2")


def link_python(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    base = getattr(sys, "_base_executable", sys.executable)
    (folder / "python3").symlink_to(base)


def setup(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make setup` in `root`, with nothing of this process's environment but what is given."""
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(root / "wheels"), "HOME": str(root)}
    return subprocess.run(
        [MAKE, "setup", *arguments],
        cwd=root,
        env=offline | {"PATH": str(root / "bin")} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # so that a test may kill it with all it started
    )


def complaint(answer: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that set-up ends with; make's own line about its exit code left out."""
    assert answer.returncode != 0
    lines = [line for line in answer.stderr.splitlines() if line.startswith("setup:")]
    assert len(lines) == 1, answer.stderr
    return lines[0]


# --- what it asks for ----------------------------------------------------------------------------


def test_an_empty_path_is_told_which_python_to_install(tmp_path: Path) -> None:
    message = complaint(setup(make_tree(tmp_path / "tree")))
    assert "Python 3.11 or 3.12" in message
    assert "install python3.11 and python3.11-venv" in message


def test_a_python_that_does_not_suit_is_named(tmp_path: Path) -> None:
    old = make_executable(tmp_path / "python3.9", "exit 1")
    message = complaint(setup(make_tree(tmp_path / "tree"), f"PYTHON={old}"))
    assert f"PYTHON={old} is not one" in message


def test_a_missing_java_is_asked_for_before_anything_is_made(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    link_python(tree / "bin")
    message = complaint(setup(tree))
    assert "Java 17 or 21, and none is on the PATH: install openjdk-17" in message
    assert not (tree / ".venv").exists()


def test_a_java_home_without_java_is_named(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    link_python(tree / "bin")
    fake_java(tree / "bin", "17.0.1")  # Spark takes JAVA_HOME's, so this one does not help
    assert "JAVA_HOME=/nowhere has none" in complaint(setup(tree, JAVA_HOME="/nowhere"))


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.22", "25"])
def test_another_java_is_named_with_its_version(tmp_path: Path, version: str) -> None:
    tree = make_tree(tmp_path / "tree")
    link_python(tree / "bin")
    java = fake_java(tree / "bin", version)
    assert f"{java} is Java {version.split('.')[0]}: install" in complaint(setup(tree))


# --- what it installs ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that is set up; tests work on it in turn and leave it set up."""
    tree = make_tree(tmp_path_factory.mktemp("setup") / "tree")
    link_python(tree / "bin")
    fake_java(tree / "bin", "21.0.3")
    answer = setup(tree)
    assert answer.returncode == 0, answer.stderr
    assert "done" in answer.stdout
    return tree


def packages(tree: Path) -> set[str]:
    site = next((tree / ".venv/lib").glob("python3*/site-packages"))
    return {path.name.split("-")[0] for path in site.glob("*.dist-info")}


def test_the_environment_holds_the_lock_and_the_project(finished: Path) -> None:
    assert {"first", "concord"} <= packages(finished)


def test_a_failed_archive_of_classes_is_told_and_stops_nothing(finished: Path) -> None:
    # the copies have no Concord that could show Java its classes
    (finished / ".venv/setup.json").unlink()
    answer = setup(finished)
    assert answer.returncode == 0
    assert "infra/jars/classes.log says why" in answer.stdout
    assert (finished / "infra/jars/classes.log").read_text()
    assert "classes" not in setup(finished).stdout


def test_uv_is_tried_first_with_hashes_and_the_environments_python(finished: Path) -> None:
    called = (finished / "uv-called").read_text()
    assert called.startswith(f"pip install --no-config --python {finished}/.venv/bin/python ")
    assert "--require-hashes --no-deps --no-build-isolation" in called


def test_nothing_to_do_costs_well_under_a_second(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    started = os.times()
    answer = setup(finished)
    ended = os.times()
    assert (answer.returncode, answer.stdout) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    # processor time, because wall time is also that of whatever else the machine does
    used = ended.children_user + ended.children_system
    assert used - started.children_user - started.children_system < 0.7


def test_a_changed_lock_adds_and_removes_packages(finished: Path) -> None:
    lock = finished / "infra/lock/requirements.txt"
    kept = lock.read_text()
    lock.write_text(make_wheel(finished / "wheels", "second"))
    assert setup(finished).returncode == 0
    assert "second" in packages(finished)
    assert "first" not in packages(finished)
    lock.write_text(kept)
    assert setup(finished).returncode == 0
    assert "first" in packages(finished)


@pytest.mark.parametrize("hashes", ["", f" --hash=sha256:{'0' * 64}"], ids=["none", "another"])
def test_a_package_without_its_hash_stops_the_setup(finished: Path, hashes: str) -> None:
    lock = finished / "infra/lock/requirements.txt"
    kept = lock.read_text()
    make_wheel(finished / "wheels", "third")
    lock.write_text(f"{kept if hashes else ''}third==1{hashes}\n")
    answer = setup(finished)
    lock.write_text(kept)
    assert "Error 20" in answer.stderr
    assert "make setup again" in complaint(answer)
    assert "third" not in packages(finished)


def test_an_environment_is_made_anew_after_a_kill_amid_the_installation(finished: Path) -> None:
    lock = finished / "infra/lock/requirements.txt"
    kept = lock.read_text()
    lock.write_text(kept + make_killer(finished / "wheels"))
    assert setup(finished).returncode == -signal.SIGKILL
    lock.write_text(kept)
    module = next((finished / ".venv/lib").glob("python3*/site-packages/first.py"))
    module.unlink()
    assert "making .venv" in setup(finished).stdout
    assert module.exists()


def test_an_environment_that_is_alike_is_adopted(finished: Path) -> None:
    (finished / ".venv/setup.json").unlink()
    answer = setup(finished)
    assert answer.returncode == 0
    assert "making .venv" not in answer.stdout


def test_a_jar_with_other_content_is_not_left_in_use(finished: Path) -> None:
    jar = finished / "infra/jars/some-1.jar"
    jar.write_bytes(b"other")
    answer = setup(finished)  # there is no Spark in this environment to fetch it with
    assert "Error 20" in answer.stderr
    message = complaint(answer)
    assert "infra/jars/fetch.log" in message
    assert "copy some-1.jar into infra/jars by hand" in message
    jar.write_bytes(b"jar")
    assert setup(finished).returncode == 0


# --- the lock, the Makefile, .ci/run -------------------------------------------------------------


def test_every_requirement_is_locked_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    for group in project["dependency-groups"].values():
        wanted += group
    pinned = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
    text = "".join(lock.read_text() for lock in LOCKS)
    locked = {canonicalize_name(name): version for name, version in pinned.findall(text)}
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in the lock: make it anew"
        assert requirement.specifier.contains(version), f"{requirement}: the lock has {version}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_the_lock_has_a_hash_for_everything_and_names_no_host(lock: Path) -> None:
    text = lock.read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text


def test_the_jars_are_the_ones_recorded() -> None:
    for line in (ROOT / "infra/jars/SHA256SUMS").read_text().splitlines():
        checksum, name = line.split()
        assert hashlib.sha256((ROOT / "infra/jars" / name).read_bytes()).hexdigest() == checksum


def test_bare_make_explains_every_target() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    answer = subprocess.run([MAKE], cwd=ROOT, capture_output=True, text=True, check=True)
    explained = dict(re.findall(r"^  make (\w+)\s+(.+)$", answer.stdout, re.MULTILINE))
    assert list(explained) == targets[1].split()


def test_ci_runs_the_readme_test_command_from_any_folder(tmp_path: Path) -> None:
    make_executable(tmp_path / "bin/make", f'echo "$PWD $*" > {tmp_path}/called')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(
        [ROOT / ".ci/run"], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True, timeout=120
    )
    called = (tmp_path / "called").read_text().strip()
    assert called == f"{ROOT} test"
    assert "make test" in (ROOT / "README.md").read_text()
