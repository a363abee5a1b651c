"""`make setup`: the environment in .venv, the project in it, Delta's two jars, Java's classes.

Standard library only, since it runs before anything is installed. Each step records a digest of
what it was made from in .venv/setup.json and is skipped while that digest holds, so a set-up that
is done costs a fraction of a second. The network is used here and nowhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
UV = ENVIRONMENT / "bin" / "uv"
STATE = ENVIRONMENT / "setup.json"
LOCK = ROOT / "infra" / "lock" / "requirements.txt"
BUILD_LOCK = ROOT / "infra" / "lock" / "build.txt"
PROJECT = ROOT / "pyproject.toml"
JARS = ROOT / "infra" / "jars"
JAR_SUMS = JARS / "SHA256SUMS"
FETCH_JARS = Path(__file__).with_name("fetch_jars.py")
ARCHIVE_CLASSES = Path(__file__).with_name("archive_classes.py")
CLASSES = JARS / "classes.jsa"

JAVA_VERSIONS = (17, 21)
MISSING_TOOL = 1
DOWNLOAD_FAILED = 20  # Concord's exit code for infrastructure: worth a retry


def main() -> None:
    java = find_java()
    state = read_state()
    if is_done(state, java):
        return
    with PROJECT.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would install over each other
        state = read_state()
        if is_done(state, java):
            return
        started = time.monotonic()
        check_java(java)
        state = make_environment(state)
        state = install_lock(state)
        state = install_project(state)
        install_jars()
        state = archive_classes(state | {"java": java})
        say(f"done in {time.monotonic() - started:.0f} s")


def is_done(state: Mapping[str, str], java: str) -> bool:
    wanted = {
        "environment": environment_key(),
        "packages": packages_key(),
        "project": digest(PROJECT),
        "java": java,
        "classes": classes_key(java),
    }
    return all(state.get(step) == key for step, key in wanted.items()) and not wrong_jars()


# --- Java ----------------------------------------------------------------------------------------


def find_java() -> str:
    """The `java` that Spark will start: JAVA_HOME's, else the first on the PATH; "" if none."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(str(Path(home, "bin", "java")) if home else "java") or ""


def check_java(java: str) -> None:
    accepted = " or ".join(str(version) for version in JAVA_VERSIONS)
    advice = f"install openjdk-{JAVA_VERSIONS[0]}-jre-headless, or set JAVA_HOME to such a Java"
    home = os.environ.get("JAVA_HOME")
    if not java:
        where = f"JAVA_HOME={home} has none" if home else "none is on the PATH"
        fail(f"Spark needs Java {accepted}, and {where}: {advice}", MISSING_TOOL)
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', answer.stderr)
    if not version:
        fail(f"Spark needs Java {accepted}, and {java} does not run: {advice}", MISSING_TOOL)
    if int(version[1]) not in JAVA_VERSIONS:
        found = f"{java} is Java {version[1]}"
        fail(f"Spark needs Java {accepted}, and {found}: {advice}", MISSING_TOOL)


# --- Python --------------------------------------------------------------------------------------


def base_python() -> str:
    """The Python that environments are made from, also when this one is in an environment."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def environment_key() -> str:
    """Changes with what an environment can not survive: another place or another Python."""
    return f"{sys.version_info[0]}.{sys.version_info[1]} {ROOT}"


def make_environment(state: dict[str, str]) -> dict[str, str]:
    """An environment of this Python. One that another tool made is adopted if it is alike."""
    if state.get("environment") == environment_key() or (not state and environment_is_alike()):
        return state
    say(f"making .venv with {base_python()}")
    command = [base_python(), "-I", "-m", "venv", "--clear", str(ENVIRONMENT)]
    if subprocess.run(command, check=False).returncode:
        fail(f"{base_python()} could not make .venv; its message stands above", MISSING_TOOL)
    return {}


def environment_is_alike() -> bool:
    if not PYTHON.exists():
        return False
    question = "import sys, pip; print('%d.%d' % sys.version_info[:2], sys.prefix)"
    answer = subprocess.run(
        [str(PYTHON), "-I", "-c", question], capture_output=True, text=True, check=False
    )
    mine = f"{sys.version_info[0]}.{sys.version_info[1]} {ENVIRONMENT}"
    return answer.returncode == 0 and answer.stdout.strip() == mine


def install_lock(state: dict[str, str]) -> dict[str, str]:
    """Exactly the locked packages, each checked against its hash; others are removed."""
    key = packages_key()
    if state.get("packages") == key:
        return state
    # No key for the environment while pip works: if all this is killed, it is made anew.
    write_state({"environment": "incomplete"})
    locked = locked_names()
    say(f"installing {len(locked)} packages from infra/lock: one to four minutes")
    # First what builds the source archives among the rest: pip's own way of building them would
    # fetch build tools that no hash was recorded for.
    pip([*INSTALL, "--requirement", str(BUILD_LOCK)], f"infra/lock/build.txt: {NOT_INSTALLED}")
    if not uv([*INSTALL, "--compile-bytecode", "--requirement", str(LOCK)]):
        pip([*INSTALL, "--requirement", str(LOCK)], f"infra/lock/requirements.txt: {NOT_INSTALLED}")
    listed = json.loads(pip(["list", "--format", "json"], "pip could not list the environment"))
    strange = {canonical(package["name"]) for package in listed} - locked - KEPT
    if strange:
        pip(["uninstall", "--quiet", "--yes", *sorted(strange)], "pip could not tidy .venv")
    state = {"environment": environment_key(), "packages": key}
    write_state(state)
    return state


def install_project(state: dict[str, str]) -> dict[str, str]:
    """Concord itself, editable; its build tools are in the lock, so no network is used."""
    key = digest(PROJECT)
    if state.get("project") == key:
        return state
    pip(
        ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
        + ["--editable", str(ROOT)],
        "Concord itself could not be installed; pip's reason stands above",
    )
    state = state | {"project": key}
    write_state(state)
    return state


INSTALL = ["install", "--quiet", "--require-hashes", "--no-deps", "--no-build-isolation"]
KEPT = {"concord", "pip"}  # in no lock, and belonging there all the same


def packages_key() -> str:
    return f"{digest(BUILD_LOCK)} {digest(LOCK)}"


def locked_names() -> set[str]:
    text = BUILD_LOCK.read_text() + LOCK.read_text()
    return {canonical(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def uv(arguments: list[str]) -> bool:
    """Whether uv, from the lock, did it. It is twice as quick as pip, but knows nothing of the
    mirrors and certificates in pip's settings, so a failure is left to pip to repeat."""
    if not UV.exists():
        return False
    command = [str(UV), "pip", arguments[0], "--no-config", "--python", str(PYTHON)]
    answer = subprocess.run(
        command + arguments[1:],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=os.environ | {"UV_HTTP_TIMEOUT": "60"},
    )
    if answer.returncode:
        say("uv could not install them; trying pip, with pip's settings")
    return answer.returncode == 0


def pip(arguments: list[str], failure: str) -> str:
    """pip's standard output; its complaints go to the terminal. Ends the set-up when it fails."""
    command = [str(PYTHON), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check"]
    # A user's own PIP_USER or PIP_TARGET would send the packages past the environment.
    names = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"}
    environment = {key: value for key, value in os.environ.items() if key not in names}
    answer = subprocess.run(
        command + arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=environment | {"PIP_USER": "0"},
    )
    if answer.returncode:
        write_state({"environment": environment_key()})  # pip tidies up when it is not killed
        print(answer.stdout, end="", file=sys.stderr)
        fail(failure, DOWNLOAD_FAILED)
    return answer.stdout


# --- jars ----------------------------------------------------------------------------------------

FOREIGN_SPARK = {"SPARK_HOME", "SPARK_CONF_DIR"}  # the environment's own Spark resolves


def wrong_jars() -> list[str]:
    """Names in SHA256SUMS whose file is missing or has other content."""
    return [name for name, wanted in jar_sums().items() if digest(JARS / name) != wanted]


def jar_sums() -> dict[str, str]:
    lines = (line.split() for line in JAR_SUMS.read_text().splitlines())
    return {name: wanted for wanted, name in lines}


def install_jars() -> None:
    """Delta's jars into infra/jars, kept only with the recorded content."""
    if not wrong_jars():
        return
    say("fetching Delta's two jars with Spark's resolver")
    arriving = JARS / "arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    log = JARS / "fetch.log"
    with log.open("w") as output:
        answer = subprocess.run(
            [str(PYTHON), "-I", str(FETCH_JARS), str(arriving), *jar_sums()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            env={key: value for key, value in os.environ.items() if key not in FOREIGN_SPARK},
        )
    where = JARS.relative_to(ROOT)
    if answer.returncode:
        fail(
            f"Delta's jars could not be fetched; the resolver's reason stands in"
            f" {log.relative_to(ROOT)}. {NEEDS_NETWORK} (a mirror goes into a copy of"
            f" infra/setup/ivysettings.xml named by CONCORD_IVY_SETTINGS, a proxy into"
            f" JAVA_TOOL_OPTIONS), or copy {' and '.join(jar_sums())} into {where} by hand",
            DOWNLOAD_FAILED,
        )
    for name, wanted in jar_sums().items():
        if digest(arriving / name) != wanted:
            fail(
                f"{name} arrived with another SHA-256 than {where}/SHA256SUMS records:"
                " do not use it, and find out what the mirror serves",
                DOWNLOAD_FAILED,
            )
        (arriving / name).replace(JARS / name)
    shutil.rmtree(arriving)
    log.unlink()


# --- Java's classes ------------------------------------------------------------------------------


def classes_key(java: str) -> str:
    """Changes with what an archive of classes was made from: Java and the jars, Spark's too."""
    return f"{java} {packages_key()} {digest(JAR_SUMS)}"


def archive_classes(state: dict[str, str]) -> dict[str, str]:
    """Classes that start Spark sooner. Without them all works, so a failure is told and left."""
    key = classes_key(state["java"])
    if state.get("classes") != key:
        say("teaching Java which classes Spark needs, for quicker starts: half a minute")
        CLASSES.unlink(missing_ok=True)
        arriving = JARS / "arriving.jsa"
        log = JARS / "classes.log"
        with log.open("w") as output:
            answer = subprocess.run(
                [str(PYTHON), "-I", str(ARCHIVE_CLASSES), str(arriving)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=ROOT,
                env={key: value for key, value in os.environ.items() if key not in FOREIGN_SPARK},
            )
        if answer.returncode or not arriving.exists():
            say(f"it did not work ({log.relative_to(ROOT)} says why); Spark will start slower")
            arriving.unlink(missing_ok=True)
        else:
            arriving.replace(CLASSES)
            log.unlink()
    state = state | {"classes": key}
    write_state(state)
    return state


# --- state and messages --------------------------------------------------------------------------

NEEDS_NETWORK = "Set-up needs the network this once: check it and run make setup again"
NOT_INSTALLED = (
    f"these packages could not be installed; pip's reason stands above. {NEEDS_NETWORK}"
    " (pip's own settings and PIP_INDEX_URL name a mirror)"
)


def digest(path: Path) -> str:
    """The file's SHA-256, or "" when there is no such file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def read_state() -> dict[str, str]:
    """What the last set-up recorded; nothing when there was none or it is unreadable."""
    try:
        state = json.loads(STATE.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return {str(step): str(key) for step, key in state.items()}


def write_state(state: Mapping[str, str]) -> None:
    STATE.write_text(json.dumps(state, indent=2) + "\n")


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def fail(text: str, code: int) -> NoReturn:
    print(f"setup: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
