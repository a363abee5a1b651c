"""Options that all benchmarks take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Memory = Annotated[str, typer.Option(help="Memory of the Spark driver.")]
Out = Annotated[Path, typer.Option(help="Folder of the JSON and of what is made.")]
Docs = Annotated[Path, typer.Option(help="Markdown file that gets the tables.")]
OUT, DOCS = Path("build/bench"), Path("docs/benchmarks.md")
