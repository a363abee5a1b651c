"""`python -m tests.real`: makes the deliveries once, ingests, links and checks them.

`make real` makes build/real/venv first. All that is made here lies in data/real.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from concord import cli
from concord.contracts.model import Contract
from concord.errors import ConcordError, InfrastructureError
from concord.privacy.keys import vault_key
from tests.real.checks import Check, Loaded, checks_of, judge, quality_checks, read

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("data/real")
SETTINGS = "infra/real/conf/settings/real.yaml"
PYTHON = Path("build/real/venv/bin/python")
GENERATOR, LOCK = Path("infra/real/generate.py"), Path("infra/real/requirements.txt")
AS_OF = "2021-12-31"  # all of the deliveries have arrived

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Ended:
    """How one job ended: exit code, its summary's message, seconds."""

    code: int
    message: str
    seconds: float


def main() -> int:
    """0 when every delivery was loaded and every check holds, 1 when not."""
    os.chdir(ROOT)
    # Whatever the environment says: this never writes into a real lake.
    for name in [name for name in os.environ if name.startswith("CONCORD_")]:
        del os.environ[name]
    try:
        began = time.perf_counter()
        generated = generate()
        told = f"made in {time.perf_counter() - began:.0f} s" if generated else "made before"
        made: dict[str, int] = json.loads((FOLDER / "made.json").read_text())["rows"]
        deployment = cli.load_deployment(Path(SETTINGS))
        contracts = deployment.contracts
    except ConcordError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console.print(
        f"pseudopeople's sample population: {len(made)} deliveries, "
        f"{sum(made.values()):,} rows, in {FOLDER} ({told})"
    )
    signed = concord("agreement", "rehearse")
    ended = {feed: job("ingest", "--feed", feed) for feed in made}
    again = job("ingest")
    linked, linked_again = job("index"), job("index")
    loaded = {feed: read(FOLDER, contracts[feed]) for feed in made}
    show(loaded, ended, contracts)
    found = [Check("the memorandum is signed", signed.code == 0, signed.message)]
    found += [
        Check(f"{feed}: ingest ends with 0", end.code == 0, f"{end.code}, {end.message}")
        for feed, end in ended.items()
    ]
    found += [check for feed in made for check in checks_of(loaded[feed], made[feed])]
    done = again.code == 0 and again.message == "nothing to do"
    found.append(Check("ingested again: nothing to do", done, f"{again.code}, {again.message}"))
    found.append(Check("index ends with 0", linked.code == 0, f"{linked.code}, {linked.message}"))
    done = linked_again.code == 0 and linked_again.message == "nothing to do"
    seen = f"{linked_again.code}, {linked_again.message}"
    found.append(Check("indexed again: nothing to do", done, seen))
    judged = judge(FOLDER, loaded, vault_key(deployment.settings.keys)) if not linked.code else {}
    found += quality_checks(judged)
    for check in found:
        mark = "[green]good[/]" if check.holds else "[red]BAD [/]"
        console.print(f"  {mark} {check.name}: {check.seen}")
    bad = sum(not check.holds for check in found)
    seconds = {"again": again.seconds, "index": linked.seconds} | {
        feed: end.seconds for feed, end in ended.items()
    }
    print(
        json.dumps(
            {
                "job": "real",
                "exit_code": int(bad > 0),
                "checks": len(found),
                "failed": bad,
                "rows": sum(made.values()),
                "index": {name: round(of.f1, 4) for name, of in judged.items()},
                "quarantined": sum(feed.quarantined for feed in loaded.values()),
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
            }
        )
    )
    return int(bad > 0)


def generate() -> bool:
    """Write the deliveries unless this generator wrote them before; whether it was done now.

    Raises ConcordError when the folder holds what another version wrote: a lake stands on it.
    """
    made_from = hashlib.sha256(GENERATOR.read_bytes() + LOCK.read_bytes()).hexdigest()
    record = FOLDER / "made.json"
    if record.exists():
        if json.loads(record.read_text())["made_from"] == made_from:
            return False
        raise ConcordError(
            f"{FOLDER} holds deliveries that another version of {GENERATOR} made: "
            "delete that folder and run make real again"
        )
    answer = subprocess.run(
        [PYTHON, GENERATOR, FOLDER, made_from], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        raise InfrastructureError(f"{GENERATOR} ended with {answer.returncode}: {reason}")
    return True


def job(name: str, *arguments: str) -> Ended:
    """`concord <name>` as of the day by which all has arrived."""
    return concord(name, "--as-of", AS_OF, *arguments)


def concord(*arguments: str) -> Ended:
    """A command, in this process so that Java starts once; its messages go to stderr."""
    output = io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(output):
        code = cli.main([*arguments, "--settings", SETTINGS])
    summary = json.loads(output.getvalue().splitlines()[-1])
    return Ended(code, summary["message"], time.perf_counter() - began)


def show(
    loaded: dict[str, Loaded], ended: dict[str, Ended], contracts: dict[str, Contract]
) -> None:
    grid = Grid(title="What became of each delivery", title_justify="left")
    for heading in ("feed", "format, policy", "state", "declared", "loaded", "quarantined"):
        grid.add_column(heading, justify="left" if heading in {"feed", "state"} else "right")
    for heading in ("exit code", "this run", "seconds"):
        grid.add_column(heading, justify="right")
    for feed, of in loaded.items():
        table, end = contracts[feed].tables[0], ended[feed]
        grid.add_row(
            feed,
            f"{table.format.kind}, {table.policy}",
            of.status,
            f"{of.declared:,}",
            f"{of.curated.height:,}",
            f"{of.quarantined:,}",
            str(end.code),
            end.message,
            f"{end.seconds:.1f}",
        )
    wide = Console(highlight=False, width=140)
    wide.print(grid)
    reasons = Grid(title="Rules that rows broke", title_justify="left")
    for heading in ("feed", "column", "rule", "severity", "rows"):
        reasons.add_column(heading, justify="right" if heading == "rows" else "left")
    for feed, of in loaded.items():
        for broken in of.violations:
            reasons.add_row(feed, broken.column, broken.rule, broken.severity, f"{broken.rows:,}")
    wide.print(reasons)


if __name__ == "__main__":
    sys.exit(main())
