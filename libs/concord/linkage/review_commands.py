"""`concord review`: what stewards look at, and what they decide of pairs of records.

A command that writes, or that shows identifiers, is a run of its own. Decisions count from the next
run of `concord index` on. Record ids and reasons stay out of the ledger's `arguments`: ops is open
to more people than the index.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from concord.agreements import access_log, chain, events
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.canonical import digest as terms_digest
from concord.agreements.mou import load_mous
from concord.contracts.odcs import load_contracts
from concord.errors import InfrastructureError, UsageError
from concord.lake.run import digest, lake_of, real_clock, running
from concord.lake.session import start, stop
from concord.lake.storage import join
from concord.lake.tables import Lake, described
from concord.lake.writes import Append
from concord.linkage import decisions, inputs, tables
from concord.linkage.decisions import VERDICTS, Decision, Maker, Proposal, Verdict
from concord.linkage.doubts import KINDS
from concord.linkage.explain import explain
from concord.linkage.index import Index
from concord.linkage.person_index import FILE, PersonIndex, load_person_index
from concord.linkage.review import SHOWN, Part, in_turn, side_by_side
from concord.linkage.review_page import concerned, page
from concord.options import (
    DEFAULT_SETTINGS,
    DryRunOption,
    JsonLogsOption,
    LakeOption,
    SettingsOption,
)
from concord.reporting import Reporter
from concord.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    help="Stewards' review: list, show, report; decide, import, export, decisions.",
)
# Wide enough for a table when the output goes to a file or a pipe.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160, highlight=False)

PAGES = "vault/review_pages"
ON_PAGE = 2_000  # items
# As the access log has it.
PURPOSE = "review of the person index"
RECORD_ID = re.compile(r"[0-9a-f]{32}")
NEEDED = ("left_record_id", "right_record_id", "verdict", "reason")
COLUMNS = (*NEEDED, "decided_by")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a command line or a file asks for: proposals, and mistakes in what is none."""

    proposals: tuple[Proposal, ...]
    mistakes: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """What every command takes."""

    settings: Path
    lake: str | None
    dry_run: bool = False
    json_logs: bool = False


@app.command(name="list")
def list_items(
    kind: Annotated[str | None, typer.Option(help=f"Only this kind: {', '.join(KINDS)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Items to list.")] = 50,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """List what waits for review: kind, feeds, weight, and what agrees, without any value."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--kind {kind}: use one of {', '.join(KINDS)}")
    with _reading(settings, lake) as (here, model):
        waiting = open_queue(here, model)
    if kind is not None:
        waiting = waiting.filter(pc.equal(waiting["kind"], kind))
    grid = Grid(
        title=f"Review queue: {min(limit, waiting.num_rows)} of {waiting.num_rows} items",
        title_justify="left",
        pad_edge=False,
    )
    for heading in ("item", "kind", "feeds", "weight", "probability", "what agrees"):
        right = heading in {"weight", "probability"}
        grid.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in waiting.slice(0, limit).to_pylist():
        feeds = " + ".join(sorted((row["left_feed"], row["right_feed"])))
        told = (row["item_id"], row["kind"], feeds, f"{row['weight']:.1f}")
        words = explain(model, row["pattern"]).words
        grid.add_row(*map(escape, (*told, f"{row['probability']:.3f}", words)))
    console.print(grid)


@app.command()
def show(
    item: Annotated[str, typer.Argument(help="An item of `list`, or how it begins.")],
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Print the values too; the access log notes it.")
    ] = False,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Show an item: which parts of both records agree, and what they weigh. Values on request."""
    if not reveal:
        with _reading(settings, lake) as (here, model):
            row = _item(open_queue(here, model), item)
            parts = _parts(here, row)
    else:
        options = Options(settings, lake)
        asked_for = {"reveal": "true"}
        with _begun("review show", options, arguments=asked_for, given=item) as index:
            model = index.model
            row = _item(open_queue(index.lake, model), item)
            parts = _parts(index.lake, row)
            note_read(index, rows=2)
    _print_item(model, row, parts, reveal=reveal)


@app.command()
def report(
    limit: Annotated[int, typer.Option(min=1, help="Items on the page.")] = ON_PAGE,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    json_logs: JsonLogsOption = False,
) -> None:
    """Write the queue as one HTML page into the vault; it holds identifiers."""
    options = Options(settings, lake, json_logs=json_logs)
    with _begun("review report", options, arguments={"limit": str(limit)}) as here:
        report_queue(here, limit)


@app.command()
def decide(
    left: Annotated[str, typer.Option(help="A record id.")],
    right: Annotated[str, typer.Option(help="Another record id.")],
    verdict: Annotated[str, typer.Option(help="must-link, cannot-link or withdraw.")],
    reason: Annotated[str, typer.Option(help="Why; who reads it later knows nothing else.")],
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Decide that two records are one person, or are not, or take such a decision back."""
    given = {"left_record_id": left, "right_record_id": right, "verdict": verdict, "reason": reason}
    options = Options(settings, lake, dry_run, json_logs)
    _decide("review decide", options, asked([("the options", given)]))


@app.command(name="import")
def import_decisions(
    file: Annotated[Path, typer.Argument(help=f"CSV or JSON with {', '.join(COLUMNS)}.")],
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Take a file's decisions, or none if a row is wrong. Those in force already are skipped."""
    options = Options(settings, lake, dry_run, json_logs)
    _decide("review import", options, asked(read_file(file)), {"file": str(file)})


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="CSV or JSON, by its ending; it must not exist.")],
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    json_logs: JsonLogsOption = False,
) -> None:
    """Write the decisions in force to a file that `import` reads."""
    _ending(file)
    if file.exists():
        raise UsageError(f"{file} is there already; name a new file")
    options = Options(settings, lake, json_logs=json_logs)
    with _begun("review export", options, arguments={"file": str(file)}) as here:
        taken = decisions.in_force(read(here.lake))
        write_file(file, taken)
        here.run.tally.rows_out = len(taken)
        here.run.tally.message = f"{len(taken):,} decisions written to {file}"


@app.command(name="decisions")
def list_decisions(settings: SettingsOption = DEFAULT_SETTINGS, lake: LakeOption = None) -> None:
    """List the decisions in force: of which records, by whom, when, why."""
    given = load_settings(settings, {"lake": lake})
    spark = start(given, application="concord review")
    try:
        taken = decisions.in_force(read(lake_of(given, "review", spark)))
    finally:
        stop(spark)
    grid = Grid(title="Decisions in force", title_justify="left", pad_edge=False)
    for heading in ("decision", "left", "right", "verdict", "actor", "decided", "reason"):
        grid.add_column(heading, overflow="fold")
    for each in taken:
        when = f"{each.decided_at:%Y-%m-%d %H:%M}"
        told = (each.decision_id, *each.pair, each.verdict, each.actor, when, each.reason)
        grid.add_row(*map(escape, told))
    console.print(grid)


def open_queue(lake: Lake, model: PersonIndex) -> pa.Table:
    """The last run's queue without what was decided since. Raises UsageError (exit 2) if there is
    none, or if it is not of the records and the model that are there now."""
    queued, standard = lake.newest(tables.REVIEW_QUEUE), lake.newest(tables.RECORDS)
    if queued is None:
        raise UsageError("there is no review queue; run concord index first")
    found = in_turn(lake.read(tables.REVIEW_QUEUE).toArrow())
    versions = set(pc.unique(found["model_version"]).to_pylist()) - {model.model_version}
    if versions or standard is None or standard.run_id != queued.run_id:
        raise UsageError(
            "the review queue is of other records or of another conf/person_index.yaml than there "
            "are now; run concord index"
        )
    decided = {each.pair for each in decisions.in_force(read(lake))}
    pairs = zip(
        found["left_record_id"].to_pylist(), found["right_record_id"].to_pylist(), strict=True
    )
    return found.filter(pa.array([pair not in decided for pair in pairs], pa.bool_()))


def report_queue(here: Index, limit: int) -> None:
    """Writes the page of the first items of the queue; the run's message says where it is."""
    waiting = open_queue(here.lake, here.model).slice(0, limit)
    tally = here.run.tally
    tally.rows_out = waiting.num_rows
    tally.message = "nothing to review"
    if waiting.num_rows:
        tally.message = f"{waiting.num_rows:,} items in {write_page(here, waiting)}"


def remove_pages(lake: Lake, now: datetime) -> int:
    """Removes the pages that were written longer ago than the queue's retention; how many.

    They hold identifiers, as the table's old files do, which go when they are as old.
    """
    least = (now - timedelta(days=tables.REVIEW_QUEUE.retention_days)).timestamp() * 1000
    old = [file for file in lake.storage.list(join(lake.root, PAGES)) if file.modified < least]
    for file in old:
        lake.storage.delete(file.path)
    return len(old)


def write_page(here: Index, waiting: pa.Table) -> str:
    """The page of these items, for its owner's eyes; where it is."""
    lake = here.lake
    ids = lake.spark.createDataFrame(pa.table({"record_id": concerned(waiting)}))
    records = _of(lake.read(tables.RECORDS), ids).orderBy("record_id", "variant").toArrow()
    pairs = _of(lake.read(tables.PAIRS), ids, "left_record_id", "right_record_id")
    ordered = pairs.orderBy("left_record_id", "right_record_id").toArrow()
    now = _of(lake.read(tables.CROSSWALK).where("valid_to IS NULL"), ids)
    persons = {row["record_id"]: row["person_id"] for row in now.collect()}
    html = page(waiting, records, ordered, persons, model=here.model)
    # Before anybody can read it.
    note_read(here, rows=records.num_rows)
    name = re.sub(r"[^\w.-]", "_", waiting["run_id"][0].as_py())
    path = join(lake.root, PAGES, f"{name}.html")
    # On a local disk no other account may read it; elsewhere the store's own rules hold.
    before = os.umask(0o077)
    try:
        lake.storage.write(path, html.encode("utf-8"))
    finally:
        os.umask(before)
    return path


def note_read(here: Index, *, rows: int) -> None:
    """Adds to the access log, for each agreement, who looks at how many rows with identifiers."""
    run, table = here.run, tables.RECORDS.name
    told = {
        "decided_at": run.clock(),
        "actor": run.actor,
        "purpose": PURPOSE,
        "tables": [table],
        "columns": [f"{table}.{name}" for name in SHOWN],
        "row_count": rows,
        "decision": "read",
        "reasons": [],
        "run_id": run.run_id,
    }
    noted = [
        {**told, "agreement": mou.id, "policy_digest": terms_digest(mou)}
        for mou in here.permitted.mous
    ]
    chain.append(run.lake, ACCESS_LOG, noted, stamp=run.stamp)


def _of(rows: DataFrame, ids: DataFrame, *columns: str) -> DataFrame:
    """The rows of which all these columns, or record_id, are among the ids."""
    for column in columns or ("record_id",):
        rows = rows.join(F.broadcast(ids.toDF(column)), column, "left_semi")
    return rows


def _item(waiting: pa.Table, begins: str) -> Row:
    """Raises UsageError (exit 2) unless it is one item."""
    found = waiting.filter(pc.starts_with(waiting["item_id"], begins))
    if found.num_rows != 1:
        raise UsageError(
            f"{found.num_rows or 'no'} items of the queue begin with {begins!r}; see concord "
            "review list"
        )
    return dict(found.to_pylist()[0])


def _parts(lake: Lake, row: Row) -> list[Part]:
    both = [row["left_record_id"], row["right_record_id"]]
    records = lake.read(tables.RECORDS).where(F.col("record_id").isin(both)).toArrow()
    return side_by_side(records, *both)


def _print_item(model: PersonIndex, row: Row, parts: Iterable[Part], *, reveal: bool) -> None:
    told = explain(model, row["pattern"])
    chance = f"weight {row['weight']:.1f} bits, probability {row['probability']:.3f}"
    for line in (f"item {row['item_id']}, {row['stratum']}", row["why"], told.words, chance):
        console.print(line, markup=False)
    grid = Grid("part", title="The two records", title_justify="left", pad_edge=False)
    for side in ("left", "right"):
        heading = f"{row[f'{side}_feed']} {row[f'{side}_record_id']}"
        grid.add_column(escape(heading), overflow="fold")
    grid.add_column("agreement")
    for part in parts:
        sides = [
            (", ".join(values) if reveal else "said") if values else "-"
            for values in (part.left, part.right)
        ]
        grid.add_row(*map(escape, (part.column, *sides, part.agreement)))
    console.print(grid)
    steps = Grid("step", title="What it weighs", title_justify="left", pad_edge=False)
    for heading in ("bits", "so far"):
        steps.add_column(heading, justify="right")
    so_far = told.prior
    steps.add_row("before any comparison", "", f"{so_far:.1f}")
    for step in told.steps:
        so_far += step.bits
        steps.add_row(escape(step.says), f"{step.bits:+.1f}", f"{so_far:.1f}")
    console.print(steps)


def read(lake: Lake) -> list[Decision]:
    """All decisions there are, those withdrawn or replaced too."""
    return decisions.of_rows(lake.read(tables.STEWARD_DECISIONS).toArrow())


def record(here: Index, given: Asked) -> list[Decision]:
    """Checks what is asked for against what is there and writes what is new of it, in one commit.

    Raises UsageError with every mistake, and then nothing is written; LockedError (13).
    """
    run, lake = here.run, here.lake
    # Who decides at the same time waits, and is judged by what was decided before.
    name = tables.STEWARD_DECISIONS.name
    held = nullcontext() if run.dry_run else lake.locks.hold([name], wait_seconds=lake.lock_wait)
    with held:
        number = here.last(tables.STEWARD_DECISIONS) + 1
        new, mistakes = decisions.judge(
            given.proposals,
            read(lake),
            known=_known(lake, {record for each in given.proposals for record in each.pair}),
            maker=Maker(run.actor, run.run_id, run.clock(), number),
        )
        if wrong := [*given.mistakes, *mistakes]:
            count = f"{len(wrong)} mistake{'s' if len(wrong) > 1 else ''}"
            raise UsageError("\n  ".join([f"{count}, nothing is written:", *wrong]))
        run.tally.rows_in, run.tally.rows_out = len(given.proposals), len(new)
        if new and not run.dry_run:
            frame = lake.spark.createDataFrame(
                [astuple(each) for each in new], tables.STEWARD_DECISIONS.schema
            )
            here.write(frame.coalesce(1), tables.STEWARD_DECISIONS, Append(), number)
    return new


def _known(lake: Lake, asked_for: Iterable[str]) -> set[str]:
    """Those of the records that have a person now."""
    wanted = lake.spark.createDataFrame([(each,) for each in asked_for], "record_id string")
    now = lake.read(tables.CROSSWALK).where("valid_to IS NULL")
    return {row["record_id"] for row in now.join(wanted, "record_id").select("record_id").collect()}


def asked(rows: Iterable[tuple[str, Row]]) -> Asked:
    """Rows with their places -> proposals. A mistake tells no value: it can be anything."""
    proposals, mistakes = [], []
    for place, row in rows:
        texts = {name: str(row.get(name) or "").strip() for name in COLUMNS}
        verdict = _verdict(texts["verdict"])
        pair = sorted((texts["left_record_id"], texts["right_record_id"]))
        wrong = [
            f"{name} is not a record id, 32 hex digits"
            for name in ("left_record_id", "right_record_id")
            if not RECORD_ID.fullmatch(texts[name])
        ]
        if not wrong and pair[0] == pair[1]:
            wrong.append("left and right are one record; name two")
        if verdict is None:
            wrong.append("the verdict is none of must-link, cannot-link, withdraw")
        if not texts["reason"]:
            wrong.append("the reason is missing")
        if unknown := sorted(str(name) for name in row.keys() - {*COLUMNS}):
            wrong.append(f"there are fields besides {', '.join(COLUMNS)}: {len(unknown)}")
        mistakes += [f"{place}: {each}" for each in wrong]
        if verdict is not None and not wrong:
            by = f" (decided by {texts['decided_by']})" if texts["decided_by"] else ""
            proposals.append(Proposal((pair[0], pair[1]), verdict, f"{texts['reason']}{by}", place))
    return Asked(tuple(proposals), tuple(mistakes))


def _verdict(text: str) -> Verdict | None:
    words: dict[str, Verdict] = {verdict: verdict for verdict in VERDICTS}
    words["withdraw"] = "withdrawn"
    return words.get(text.replace("-", "_"))


def read_file(file: Path) -> list[tuple[str, Row]]:
    """Rows of a CSV or JSON file with their places. Raises UsageError if it is not readable."""
    ending = _ending(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8; save it so") from None
    return _of_csv(file, text) if ending == ".csv" else _of_json(file, text)


def _of_csv(file: Path, text: str) -> list[tuple[str, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    try:
        header = reader.fieldnames or ()
        if not {*NEEDED} <= {*header} <= {*COLUMNS} or len({*header}) < len(header):
            raise UsageError(
                f"{file} line 1: the columns must be {', '.join(NEEDED)} and may be decided_by"
            )
        return [(f"line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise UsageError(f"{file} near line {reader.line_num}: not CSV: {error}") from None


def _of_json(file: Path, text: str) -> list[tuple[str, Row]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{file} line {error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{file}: not a list of objects with {', '.join(NEEDED)}")
    return [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def write_file(file: Path, taken: Sequence[Decision]) -> None:
    """Decisions as `read_file` reads them. Only the owner may read it."""
    ending = _ending(file)
    rows = [dict(zip(COLUMNS, (*d.pair, d.verdict, d.reason, d.actor), strict=True)) for d in taken]
    # It tells who is thought to be whom.
    file.touch(mode=0o600, exist_ok=False)
    with file.open("w", encoding="utf-8", newline="") as stream:
        if ending == ".csv":
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        else:
            json.dump(rows, stream, indent=1)


def _ending(file: Path) -> str:
    if file.suffix not in {".csv", ".json"}:
        raise UsageError(f"{file}: the name must end with .csv or .json")
    return file.suffix


def _decide(
    job: str, options: Options, given: Asked, arguments: Mapping[str, str] | None = None
) -> None:
    with _begun(job, options, arguments=arguments or {}, given=given) as here:
        new = record(here, given)
        skipped = len(given.proposals) - len(new)
        told = f"{len(new):,} new, {skipped:,} as it is already"
        here.run.tally.message = told if new else f"nothing to do: {told}"


@contextmanager
def _begun(
    job: str, options: Options, *, arguments: Mapping[str, str], given: object = None
) -> Iterator[Index]:
    """A run over decisions, from the session to the summary line, under the index's agreement.

    What concord.jobs does for jobs, below which this layer lies. The run id follows from what is
    `given` and from the decisions there are.
    """
    settings = load_settings(options.settings, {"lake": options.lake})
    contracts = load_contracts(settings.conf / "feeds")
    mous = load_mous(settings.conf, contracts)
    model = load_person_index(settings.conf / FILE, contracts)
    today = real_clock().date()
    reporter = Reporter(json_logs=options.json_logs)
    spark = start(settings, application=f"concord {job}")
    try:
        lake = lake_of(settings, "review", spark)
        register = events.register(lake, settings, mous, {})
        permitted = inputs.permission(inputs.matched(contracts, model.leave_out), register, today)
        version = lake.version(tables.STEWARD_DECISIONS)
        with (
            running(
                settings,
                job,
                arguments=arguments,
                as_of=today,
                run_id=digest(job, arguments, given, version, today),
                config_digest=model.model_version,
                dry_run=options.dry_run,
                reporter=reporter,
                spark=spark,
            ) as run,
            access_log.kept_to_zones(run),
        ):
            try:
                yield Index(run, model, permitted, ())
            except (PySparkException, Py4JError) as error:
                # What Spark says of a failed task can quote rows.
                raise InfrastructureError(
                    f"{job}: Spark failed: {described(error)}. Check space and permissions of "
                    f"{settings.lake}, then run this again"
                ) from None
        tally = run.tally
        told = {"rows_in": tally.rows_in, "rows_out": tally.rows_out, "message": tally.message}
        reporter.summary({"job": job, "run_id": run.run_id, "exit_code": 0, **told})
    finally:
        stop(spark)


@contextmanager
def _reading(settings: Path, lake: str | None) -> Iterator[tuple[Lake, PersonIndex]]:
    """The lake and the person index of commands that change nothing and show no identifier."""
    given = load_settings(settings, {"lake": lake})
    model = load_person_index(given.conf / FILE)
    spark = start(given, application="concord review")
    try:
        yield lake_of(given, "review", spark), model
    finally:
        stop(spark)
