"""Executes the notebooks over a lake, by default the demo's, and writes them with their outputs:
`.ipynb` files beside the scripts, or in the folder that is given. `execute.py [FOLDER [NAME...]]`;
without names all of them.

All in one kernel, so that Spark starts once; each begins with nothing of the one before.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent
DEMO = Path("data/demo")
# Where the demo put what a lake needs; a setting that the environment has already stays.
OF_DEMO = {
    "CONCORD_LAKE": DEMO / "lake",
    "CONCORD_LANDING": DEMO / "landing",
    "CONCORD_KEYS__PATH": DEMO / "keys",
    "CONCORD_SIGNERS": DEMO / "keys" / "signers.yaml",
}


def execute(to: Path, *names: str) -> int:
    """Every notebook, or those of `names`; 0, or 1 if one stopped or is not there: one that stops
    is written as far as it came."""
    scripts = {path.stem: path for path in sorted(HERE.glob("*.py")) if path != Path(__file__)}
    if absent := [name for name in names if name not in scripts]:
        print(f"no notebook {', '.join(absent)}; there are {', '.join(scripts)}", file=sys.stderr)
        return 1
    if "CONCORD_LAKE" not in os.environ and "CONCORD_SETTINGS" not in os.environ:
        if not (DEMO / "lake").exists():
            print(f"{DEMO}/lake is not there: run make demo first", file=sys.stderr)
            return 1
        os.environ.update({name: str(place) for name, place in OF_DEMO.items()})
    to.mkdir(parents=True, exist_ok=True)
    # Sockets of this user's own, no ports.
    manager = KernelManager(kernel_name="python3", transport="ipc")
    # What Java says as it starts belongs to the terminal, not into a notebook.
    manager.start_kernel(extra_arguments=["--IPKernelApp.capture_fd_output=False"])
    failed = 0
    try:
        for name in names or scripts:
            began = time.perf_counter()
            notebook = jupytext.read(scripts[name])
            client = NotebookClient(notebook, km=manager, timeout=900)
            try:
                client.execute()
                said = "executed"
            except CellExecutionError as error:
                failed, said = 1, f"stopped: {error.ename}: {error.evalue}"
            nbformat.write(notebook, to / f"{name}.ipynb")
            print(f"{name}: {said}, {time.perf_counter() - began:.0f} s", flush=True)
            _forget(manager)
    finally:
        manager.shutdown_kernel(now=True)
    return failed


def _forget(manager: KernelManager) -> None:
    """Clears the kernel's names; the Spark session stays."""
    cell = nbformat.v4.new_code_cell("%reset -f")
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), km=manager).execute()


if __name__ == "__main__":
    sys.exit(execute(Path(sys.argv[1]) if sys.argv[1:] else HERE, *sys.argv[2:]))
