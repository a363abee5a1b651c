"""The `ingest` job: every delivery that is there and not yet known, feed by feed.

A delivery goes through: found → hashed → decided on → archived → shape compared → staged →
audited → published → recorded. Until the first table is written the ledger knows nothing of it and
a crash leaves only a stage that the next try overwrites; from then on its sequence number is taken
and a rerun finishes it before anything else of the feed is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord.agreements import access_log
from concord.agreements.decision import Holding, HoldingDecision, refused
from concord.agreements.labels import CLASSIFICATION, labels
from concord.agreements.mou import Mou, contribution
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.contracts.model import Table as Source
from concord.errors import (
    ConcordError,
    ConfigError,
    DeliveryError,
    InfrastructureError,
    QualityError,
    UsageError,
)
from concord.ingest import integrity, ledger, publish, readers, rules, tables
from concord.ingest.integrity import Opened
from concord.ingest.ledger import FeedState, Known
from concord.ingest.manifest import Found, Manifest
from concord.ingest.rules import Violation
from concord.ingest.stage import FileCount, Stage, stage
from concord.lake import session
from concord.lake.points import reach
from concord.lake.registry import DELIVERIES, Table
from concord.lake.run import Run, versions
from concord.lake.tables import Lake, Written, described
from concord.privacy.hashing import Key
from concord.privacy.keys import fingerprint, vault_key

# Below this, a delivery's queries are interpreted: to compile many small ones costs more than to
# run them. The limit is a first guess, not a measured one.
COMPILE_FROM_BYTES = 4_000_000
KEY_CHECK = "vault/_key_check"
ARCHIVE, WORK = "vault/_archive", "vault/_work"


@dataclass(frozen=True)
class Outcome:
    """What became of one delivery."""

    feed: str
    folder: str
    delivery_id: str
    status: str
    exit_code: int
    message: str
    rows: int = 0
    quarantined: int = 0
    violations: tuple[Violation, ...] = ()
    versions: tuple[tuple[str, int], ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Feed:
    """One feed being ingested: its contract, its agreement, where its things are."""

    run: Run
    lake: Lake
    contract: Contract
    mou: Mou
    key: Key | None
    events: list[Any]

    @property
    def state(self) -> FeedState:
        """The feed's present: the ledger as read under the feed's locks, and what was added."""
        return ledger.fold(self.events)

    @property
    def spark(self) -> SparkSession:
        return self.lake.spark

    def archive(self, delivery_id: str) -> str:
        if self.run.dry_run:
            return f"{self.work(delivery_id)}/_archive"
        return self.lake.path(f"{ARCHIVE}/{self.contract.feed}/{delivery_id}")

    def work(self, delivery_id: str) -> str:
        """A folder for what is made on the way; `_clean` removes it."""
        return self.lake.path(f"{WORK}/{self.contract.feed}/{delivery_id}")

    def labels(self, table: Table) -> dict[str, str]:
        """The labels of one of the feed's tables; the contribution was decided on before."""
        today = self.run.clock().date()
        source = next(
            (
                s
                for s in self.contract.tables
                if table.name.endswith(f"/{self.contract.feed}_{s.name}")
            ),
            self.contract.tables[0],
        )
        term = contribution(self.mou, self.contract.feed, source.name, today)
        found = labels(self.contract, source, self.mou, term)
        # The vault's tables hold what came with any of the feed's tables, raw rows included.
        return {**found, CLASSIFICATION: "restricted"} if table.zone == "vault" else found

    def publication(
        self, delivery_id: str, sequence: int, state: FeedState, *, again: bool = False
    ) -> publish.Publication:
        stamp = replace(self.run.stamp, agreements=(self.mou.id,))
        return publish.Publication(
            self.lake,
            self.contract,
            delivery_id,
            sequence,
            stamp,
            self.labels,
            state,
            self.work(delivery_id),
            again,
        )


def ingest(
    run: Run,
    contracts: Mapping[str, Contract],
    register: Register,
    *,
    feeds: Sequence[str] = (),
    delivery: str | None = None,
    reprocess: str | None = None,
) -> list[Outcome]:
    """Ingests what is new in the landing area up to `as_of`, of all feeds or those named.

    `delivery` names one folder and looks at it even without a manifest. `reprocess` replays, for
    one feed, what its quarantine and its rejected deliveries hold against the corrected contract.
    Feeds run side by side, each under the locks of its tables. Raises UsageError for an unknown
    feed; RefusedError, LockedError and InfrastructureError as they come. What a delivery itself
    does wrong is an Outcome with its exit code, so that other deliveries go on.
    """
    wanted = [reprocess] if reprocess else list(feeds) or sorted(contracts)
    for name in wanted:
        if name not in contracts:
            raise UsageError(
                f"there is no feed {name!r}; conf/feeds has {', '.join(sorted(contracts))}"
            )
    key = None if run.dry_run else _key(run)

    done: dict[str, list[Outcome]] = {}
    failures: dict[str, ConcordError] = {}

    def failed(name: str, error: Exception) -> None:
        # What Spark says of a failed task can quote rows.
        known = error if isinstance(error, ConcordError) else None
        failures[name] = known or InfrastructureError(
            f"{name}: Spark failed: {described(error)}. If it speaks of space or permissions, mend "
            f"{run.settings.lake} or Spark's local folders; then run this again"
        )
        run.reporter.error(f"{name}: {error}" if known else str(failures[name]))

    decided, mous = _decided(run, contracts, register, wanted)
    with (
        ExitStack() as locks,
        run.reporter.stage("ingest", len(wanted)) as progress,
        ThreadPoolExecutor(max_workers=run.settings.parallel_feeds) as pool,
    ):
        ready: list[str] = []
        for name in wanted:
            try:
                refused(decided[name].reasons)
                if not run.dry_run:
                    held = [table.name for table in tables.of_contract(contracts[name])]
                    locks.enter_context(run.lake.locks.hold(held))
                ready.append(name)
            except ConcordError as error:
                failed(name, error)
                progress.step(name)
        # Under the feeds' locks, so that no other run adds to what is read here.
        events = run.lake.rows(DELIVERIES)
        work: list[tuple[Feed, list[Found]]] = []
        for name in ready:
            lake = run.lake.with_session(run.lake.spark.newSession())
            own = [row for row in events if row["feed"] == name]
            feed = Feed(run, lake, contracts[name], mous[name], key, own)
            try:
                work.append((feed, [] if reprocess else _pending(feed, delivery)))
            except ConcordError as error:
                failed(name, error)
                progress.step(name)
        # The longest first: started last, it would run on alone.
        work.sort(key=lambda item: -sum(found.bytes for found in item[1]))

        def one(feed: Feed, pending: Sequence[Found]) -> list[Outcome]:
            try:
                return _reprocess(feed) if reprocess else _feed(feed, pending)
            finally:
                _clean(feed)

        futures = {pool.submit(one, *item): item[0].contract.feed for item in work}
        for future in as_completed(futures):
            name = futures[future]
            try:
                done[name] = future.result()
            except (ConcordError, PySparkException, Py4JError) as error:
                failed(name, error)
            progress.step(name)
    # By name, whichever feed was done first: a run tells the same each time.
    outcomes = [outcome for name in sorted(done) for outcome in done[name]]
    for outcome in outcomes:
        run.tally.rows_in += outcome.rows
        run.tally.rows_quarantined += outcome.quarantined
        run.tally.rows_out += outcome.rows - outcome.quarantined
        run.tally.note([Written(name, version, True) for name, version in outcome.versions])
    if failures:
        raise failures[min(failures)]
    return outcomes


def _decided(
    run: Run, contracts: Mapping[str, Contract], register: Register, names: Sequence[str]
) -> tuple[dict[str, HoldingDecision], dict[str, Mou]]:
    """Whether each feed may be held today, and the MOU that says so."""
    holdings = [
        Holding(name, tuple(f"{name}.{source.name}" for source in contracts[name].tables))
        for name in names
    ]
    decided = access_log.ask_to_hold(run, register, holdings)
    bound = {name: register.holding(name, run.clock().date()) for name in names}
    return (
        dict(zip(names, decided, strict=True)),
        {name: held.mou for name, held in bound.items() if held is not None},
    )


def _key(run: Run) -> Key:
    """The vault's key, made for a new lake, proved to be the one that the lake's records have."""
    storage, place = run.lake.storage, run.lake.path(KEY_CHECK)
    new = not storage.exists(place)
    key = vault_key(run.settings.keys, create=new)
    if new:
        storage.put_if_absent(place, fingerprint(key).encode())
    if storage.read(place).decode() != fingerprint(key):
        raise ConfigError(
            [
                "keys: the vault's key is not the one that this lake's record ids were made with. "
                "Restore the right key, or name the lake that this one belongs to"
            ]
        )
    return key


# --- one feed ------------------------------------------------------------------------------------


def _feed(feed: Feed, pending: Sequence[Found]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    unfinished = feed.state.unfinished
    if unfinished and not feed.run.dry_run:
        outcomes.append(_finish(feed, feed.state, unfinished))
    for found in pending:
        outcomes.append(_deliver(feed, feed.state, found))
    return outcomes


def _clean(feed: Feed) -> None:
    """Removes the feed's stages: they hold identifiers, and none outlives its delivery."""
    feed.lake.storage.delete(feed.lake.path(f"{WORK}/{feed.contract.feed}"))


def _pending(feed: Feed, delivery: str | None) -> list[Found]:
    """Folders that the ledger does not know, whose manifest is not of after `as_of`, in order."""
    storage, known = feed.lake.storage, feed.state.signatures
    if delivery is not None:
        if not storage.exists(delivery):
            raise UsageError(f"--delivery {delivery}: there is no such folder")
        return [integrity.look(storage, feed.contract.feed, delivery)]
    dated: list[tuple[int, str, Found]] = []
    for found in integrity.find(storage, feed.run.settings.landing, feed.contract.feed):
        if (found.folder, found.signature) in known:
            continue
        if found.manifest_name is None:
            feed.run.reporter.warn(
                f"{feed.contract.feed}: {found.folder} has no manifest yet and waits; if it is "
                f"whole, see what is wrong with: concord ingest --feed {feed.contract.feed} "
                f"--delivery {found.path}"
            )
            continue
        try:
            manifest = integrity.open_manifest(storage, found)
        except DeliveryError:
            dated.append((0, found.folder, found))
            continue
        if manifest.created.date() <= feed.run.as_of:
            dated.append((manifest.sequence, found.folder, found))
    return [found for _, _, found in sorted(dated, key=lambda item: item[:2])]


def _deliver(feed: Feed, state: FeedState, found: Found) -> Outcome:
    """One delivery, from its folder to its last ledger row."""
    began = time.monotonic()
    opened = integrity.open_delivery(feed.lake.storage, found, feed.contract)
    reach("ingest.hashed")
    known = state.deliveries.get(opened.delivery_id)
    if opened.manifest is None or opened.problems:
        if known:
            return _known_again(feed, state, opened, known)
        return _reject(feed, state, opened, DeliveryError(opened.problems), None, began)
    decision = ledger.decide(state, opened.delivery_id, opened.manifest, feed.contract)
    match decision:
        case ledger.AlreadyLoaded(same) | ledger.AlreadyRejected(same):
            return _known_again(feed, state, opened, same)
        case ledger.Reject(reasons):
            return _reject(feed, state, opened, DeliveryError(reasons), None, began)
        case ledger.Withdraw(target):
            return _withdraw(feed, state, opened, target, began)
        case ledger.Load(superseded):
            notes = tuple(
                f"{table} {period}: replaces sequence {old.agency_sequence} "
                f"({_version_text(old, table, feed.contract)})"
                for (table, period), old in sorted(superseded.items())
            )
            return _load(feed, state, opened, notes, began)


def _load(
    feed: Feed, state: FeedState, opened: Opened, notes: tuple[str, ...], began: float
) -> Outcome:
    """Archive, stage, audit, publish."""
    manifest = _manifest(opened)
    staged: Stage | None = None
    sequence = state.last_sequence + 1
    try:
        integrity.archive(feed.lake.storage, feed.archive(opened.delivery_id), opened)
        reach("ingest.archived")
        staged = _stage(feed, manifest, opened.delivery_id)
        reach("ingest.staged")
        balance(staged)
        _threshold(staged)
        if feed.run.dry_run:
            message = f"{staged.rows - staged.quarantined} rows, {staged.quarantined} in quarantine"
            return _outcome(feed, opened, "would load", 0, message, began, staged)
    except (DeliveryError, QualityError) as error:
        return _reject(feed, state, opened, error, staged, began)
    _event(feed, state, opened, "loading", sequence=sequence, counts=staged, reasons=notes)
    reach("ingest.loading")
    to = feed.publication(opened.delivery_id, sequence, state)
    return _publish(feed, state, opened, to, staged, frozenset(manifest.contents), notes, began)


def _publish(
    feed: Feed,
    state: FeedState,
    opened: Opened,
    to: publish.Publication,
    staged: Stage,
    contents: frozenset[publish.Content],
    notes: tuple[str, ...],
    began: float,
) -> Outcome:
    parallel = feed.run.settings.parallel_tables
    written = publish.publish(to, staged, contents, parallel=parallel)
    reach("ingest.published")
    _event(
        feed,
        feed.state,
        opened,
        "loaded",
        sequence=to.sequence,
        counts=staged,
        reasons=notes,
        written=written,
    )
    reach("ingest.recorded")
    message = f"{staged.rows - staged.quarantined} rows"
    if staged.quarantined:
        message += f", {staged.quarantined} in quarantine"
    message += "".join(f"; {note}" for note in notes)
    return _outcome(feed, opened, "loaded", 0, message, began, staged, written)


def _finish(feed: Feed, state: FeedState, known: Known) -> Outcome:
    """Takes up a delivery that a crash cut short, under the sequence number it had taken."""
    began = time.monotonic()
    if known.contract_version != feed.contract.version:
        raise ConfigError(
            [
                f"{feed.contract.file}: delivery {known.folder} was cut short while it was "
                f"published under version {known.contract_version}, and the contract is now "
                f"{feed.contract.version}. Put that version back, ingest, then change it again"
            ]
        )
    folder = feed.archive(known.delivery_id)
    manifest = integrity.archived_manifest(feed.lake.storage, folder)
    opened = _reopened(feed, known, manifest)
    to = feed.publication(
        known.delivery_id, known.sequence or 0, state, again=_was_loaded(feed, known)
    )
    if manifest.kind == "withdrawal":
        target = state.by_agency_sequence(manifest.withdraws or 0)
        if target is None:
            raise ConcordError(f"{known.folder}: the delivery it withdraws is not in the ledger")
        return _take_back(feed, state, opened, target, to, began)
    staged = _stage(feed, manifest, known.delivery_id)
    contents = _still_in_force(state, known, frozenset(manifest.contents))
    return _publish(feed, state, opened, to, staged, contents, known.reasons, began)


def _withdraw(feed: Feed, state: FeedState, opened: Opened, target: Known, began: float) -> Outcome:
    if feed.run.dry_run:
        return _outcome(
            feed, opened, "would withdraw", 0, f"sequence {target.agency_sequence}", began
        )
    integrity.archive(feed.lake.storage, feed.archive(opened.delivery_id), opened)
    sequence = state.last_sequence + 1
    _event(feed, state, opened, "loading", sequence=sequence)
    reach("ingest.loading")
    to = feed.publication(opened.delivery_id, sequence, state)
    return _take_back(feed, state, opened, target, to, began)


def _take_back(
    feed: Feed,
    state: FeedState,
    opened: Opened,
    target: Known,
    to: publish.Publication,
    began: float,
) -> Outcome:
    in_force = frozenset(c for c, holder in state.in_force.items() if holder == target.delivery_id)
    upserts = {t.name for t in feed.contract.tables if t.policy == "upsert"}
    contents = in_force | {c for c in target.contents if c[0] in upserts}

    def survivors(source: Source) -> DataFrame | None:
        frames = [
            _restaged(feed, other, source)
            for other in state.deliveries.values()
            if other.status == "loaded"
            and other.kind == "delivery"
            and other.delivery_id != target.delivery_id
            and any(name == source.name for name, _ in other.contents)
        ]
        whole: DataFrame | None = None
        for frame in frames:
            whole = frame if whole is None else whole.unionByName(frame)
        return whole

    written = publish.withdraw(to, target.delivery_id, contents, survivors)
    reach("ingest.published")
    message = f"withdrew sequence {target.agency_sequence}, found in {target.folder}"
    done = _row(
        feed,
        feed.state,
        opened,
        "loaded",
        1,
        sequence=to.sequence,
        written=written,
        reasons=(message,),
    )
    # One commit: a withdrawal is never recorded without what it withdrew.
    rows = [done, _withdrawn_row(feed, feed.state, opened, target, message)]
    _append(feed, rows)
    reach("ingest.recorded")
    return _outcome(feed, opened, "loaded", 0, message, began, None, written)


def _restaged(feed: Feed, known: Known, source: Source) -> DataFrame:
    """A loaded delivery's good rows of one table, read again from its archive."""
    manifest = integrity.archived_manifest(feed.lake.storage, feed.archive(known.delivery_id))
    staged = _stage(feed, manifest, known.delivery_id)
    rows = rules.with_derived(staged.good(source.name), source)
    return publish.originated(rows, known.delivery_id, known.sequence or 0)


# --- reprocessing --------------------------------------------------------------------------------


def _reprocess(feed: Feed) -> list[Outcome]:
    """Loads again, under the present contract, what an earlier version of it kept out."""
    outcomes = []
    unfinished = feed.state.unfinished
    if unfinished and not feed.run.dry_run:
        outcomes.append(_finish(feed, feed.state, unfinished))
    waiting = _with_quarantine(feed)
    for known in list(feed.state.deliveries.values()):
        kept_out = known.status == "rejected" or known.delivery_id in waiting
        place = feed.lake.path(f"{ARCHIVE}/{feed.contract.feed}/{known.delivery_id}")
        archived = feed.lake.storage.exists(place)
        if known.kind != "delivery" or not kept_out or not archived:
            continue
        if known.status == "withdrawn" or known.contract_version == feed.contract.version:
            continue
        outcomes.append(_load_again(feed, feed.state, known))
    if not outcomes:
        feed.run.reporter.say(
            f"{feed.contract.feed}: nothing to reprocess. Deliveries with quarantined or rejected "
            f"rows are replayed when the contract's version is no longer the one that they were "
            f"judged by; it is {feed.contract.version}"
        )
    return outcomes


def _load_again(feed: Feed, state: FeedState, known: Known) -> Outcome:
    began = time.monotonic()
    folder = feed.lake.path(f"{ARCHIVE}/{feed.contract.feed}/{known.delivery_id}")
    manifest = integrity.archived_manifest(feed.lake.storage, folder)
    opened = _reopened(feed, known, manifest)
    staged: Stage | None = None
    if known.status == "rejected":
        decision = ledger.decide(
            replace(state, deliveries={k: v for k, v in state.deliveries.items() if v != known}),
            known.delivery_id,
            manifest,
            feed.contract,
        )
        if isinstance(decision, ledger.Reject):
            return _reject(feed, state, opened, DeliveryError(decision.reasons), None, began)
    try:
        staged = _stage(feed, manifest, known.delivery_id, archive=folder)
        balance(staged)
        _threshold(staged)
    except (DeliveryError, QualityError) as error:
        if known.status == "loaded":
            raise
        return _reject(feed, state, opened, error, staged, began)
    if feed.run.dry_run:
        message = f"{staged.rows - staged.quarantined} rows, {staged.quarantined} in quarantine"
        return _outcome(feed, opened, "would load again", 0, message, began, staged)
    sequence = state.last_sequence + 1
    contents = frozenset(manifest.contents)
    if known.status == "loaded":
        contents = _still_in_force(state, known, contents)
    note = (f"reprocessed under contract {feed.contract.version}",)
    _event(feed, state, opened, "loading", sequence=sequence, counts=staged, reasons=note)
    reach("ingest.loading")
    to = feed.publication(known.delivery_id, sequence, state, again=True)
    return _publish(feed, state, opened, to, staged, contents, note, began)


def _with_quarantine(feed: Feed) -> set[str]:
    """Deliveries of which rows are in quarantine."""
    table = tables.quarantine(feed.contract)
    rows = feed.lake.read(table).where("released_by IS NULL").select("delivery_id").distinct()
    return {row["delivery_id"] for row in rows.collect()}


def _still_in_force(
    state: FeedState, known: Known, contents: frozenset[publish.Content]
) -> frozenset[publish.Content]:
    """Those (table, period) pairs that no later delivery has replaced."""
    return frozenset(
        content
        for content in contents
        if content not in state.in_force
        or state.in_force[content] == known.delivery_id
        or state.deliveries[state.in_force[content]].agency_sequence < known.agency_sequence
    )


def _was_loaded(feed: Feed, known: Known) -> bool:
    """Whether an interrupted publication was a repeated one, which replaces its own rows."""
    return any(reason.startswith("reprocessed") for reason in known.reasons)


# --- staging and its judgement -------------------------------------------------------------------


def _stage(feed: Feed, manifest: Manifest, delivery_id: str, archive: str | None = None) -> Stage:
    """Shape and stage of an archived delivery. Raises DeliveryError for what rejects it whole."""
    folder = archive or feed.archive(delivery_id)
    small = sum(file.bytes for file in manifest.files) < COMPILE_FROM_BYTES
    session.interpret(feed.spark, small)
    shaped = integrity.shape(feed.spark, folder, manifest, feed.contract)
    if shaped.problems:
        raise DeliveryError(shaped.problems)
    return stage(
        feed.spark,
        feed.contract,
        manifest,
        shaped.files,
        key=feed.key,
        folder=feed.work(delivery_id),
        parallel=feed.run.settings.parallel_tables,
        large=not small,
    )


def balance(staged: Stage) -> None:
    """Rows and totals as declared, to the row and to the cent, and text in the right encoding.

    Raises DeliveryError with every file's differences.
    """
    reasons: list[str] = []
    for file in staged.files:
        if file.rows != file.declared_rows:
            reasons.append(
                f"{file.name}: holds {file.rows} rows, the manifest declares {file.declared_rows}"
            )
        for column, declared in sorted(file.declared_totals.items()):
            total = file.totals.get(column)
            if column not in file.totals:
                continue
            total = total if total is not None else Decimal(0)
            if total != Decimal(declared):
                reasons.append(
                    f"{file.name}: {column} adds up to {total.normalize():f}, the manifest "
                    f"declares {declared}, a difference of "
                    f"{(total - Decimal(declared)).normalize():f}"
                )
    reasons += _whole_file_faults(staged)
    if reasons:
        raise DeliveryError(reasons)


def _whole_file_faults(staged: Stage) -> list[str]:
    """Malformed rows that mean the file is not what the contract says: encoding, unknown keys."""
    if not any(violation.rule == "malformed" for violation in staged.violations):
        return []
    reasons = []
    for name, rows in staged.tables.items():
        message = F.col("_violations")[0]["message"]
        bad = (
            rows.where(F.size("_violations") > 0)
            .select("_file", message.alias("message"))
            .where(
                F.col("message").startswith(readers.DRIFT) | (F.col("message") == readers.ENCODING)
            )
            .distinct()
            .collect()
        )
        table_format = staged.contract.table(name).format
        for row in sorted(bad, key=lambda row: (row["_file"], row["message"])):
            if row["message"] == readers.ENCODING:
                encoding = getattr(table_format, "encoding", "utf-8")
                reasons.append(integrity.wrong_encoding(row["_file"], encoding))
            else:
                unknown = row["message"].removeprefix(readers.DRIFT).split(", ")
                reasons += integrity.unknown_columns(row["_file"], unknown)
    return sorted(set(reasons))


def _threshold(staged: Stage) -> None:
    """Raises QualityError when too many rows are bad, or a table as a whole breaks a rule."""
    if staged.table_failures:
        raise QualityError("; ".join(staged.table_failures))
    limit = staged.contract.quarantine_limit
    if staged.share_quarantined <= limit:
        return
    worst = sorted(staged.violations, key=lambda v: -v.rows)[:5]
    rules_text = ", ".join(f"{v.table}.{v.column or '*'} {v.rule}: {v.rows}" for v in worst)
    raise QualityError(
        f"{staged.quarantined} of {staged.rows} rows break the contract, "
        f"{staged.share_quarantined:.1%}; its quarantineLimit is {limit:.1%}. Most often: "
        f"{rules_text}"
    )


# --- the ledger ----------------------------------------------------------------------------------


def _reject(
    feed: Feed,
    state: FeedState,
    opened: Opened,
    error: DeliveryError | QualityError,
    staged: Stage | None,
    began: float,
) -> Outcome:
    """Records the delivery as rejected; after staging, its bad rows are kept as evidence."""
    reasons = tuple(error.reasons) if isinstance(error, DeliveryError) else (str(error),)
    if not feed.run.dry_run:
        written: list[Written] = []
        if isinstance(error, QualityError) and staged:
            again = opened.delivery_id in state.deliveries
            to = feed.publication(opened.delivery_id, 0, state, again=again)
            kept = publish.quarantine(to, staged, rejected=True)
            written = [kept] if kept else []
        _event(
            feed,
            state,
            opened,
            "rejected",
            counts=staged,
            reasons=reasons,
            written=written,
        )
    message = "; ".join(reasons)
    return _outcome(feed, opened, "rejected", error.exit_code, message, began, staged)


def _known_again(feed: Feed, state: FeedState, opened: Opened, known: Known) -> Outcome:
    """The same content under another name, or the same folder touched: recorded, nothing done."""
    if known.status == "rejected":
        message = "was rejected before: " + "; ".join(known.reasons)
        status, code = "rejected before", 0
    else:
        first = next((t for t, _ in known.versions if t.startswith("curated/")), "")
        message = f"already loaded as version {dict(known.versions).get(first, '?')} of {first}"
        if known.kind == "withdrawal":
            message = "already done"
        status, code = "duplicate", 0
    if not feed.run.dry_run:
        _event(feed, state, opened, "duplicate", reasons=(message,))
    return _outcome(feed, opened, status, code, message, time.monotonic())


def _event(feed: Feed, state: FeedState, opened: Opened, status: str, **facts: Any) -> None:
    _append(feed, [_row(feed, state, opened, status, 1, **facts)])


def _row(
    feed: Feed,
    state: FeedState,
    opened: Opened,
    status: str,
    event: int,
    *,
    sequence: int | None = None,
    counts: Stage | None = None,
    reasons: Sequence[str] = (),
    written: Sequence[Written] = (),
) -> dict[str, Any]:
    manifest = opened.manifest
    return {
        "delivery_id": opened.delivery_id,
        "event": state.events + event,
        "feed": feed.contract.feed,
        "status": status,
        "kind": manifest.kind if manifest else "delivery",
        "sequence": sequence,
        "agency_sequence": opened.sequence,
        "folder": opened.found.folder,
        "signature": opened.found.signature,
        "created_at": opened.created_at,
        "as_of": feed.run.as_of,
        "files": _files(manifest, counts),
        "reasons": list(reasons),
        "violations": [
            {
                "rule": violation.rule,
                "column": f"{violation.table}.{violation.column}",
                "severity": violation.severity,
                "rows": violation.rows,
            }
            for violation in (counts.violations if counts else ())
        ],
        "contract_version": feed.contract.version,
        "versions": versions({w.table: w.version for w in written}),
        "run_id": feed.run.run_id,
        "recorded_at": feed.run.clock(),
    }


def _files(manifest: Manifest | None, counts: Stage | None) -> list[dict[str, Any]]:
    counted: dict[str, FileCount] = {f.name: f for f in counts.files} if counts else {}
    return [
        {
            "name": file.name,
            "table": file.table,
            "period": file.period,
            "sha256": file.sha256,
            "bytes": file.bytes,
            "declared_rows": file.rows,
            "rows": counted[file.name].rows if file.name in counted else None,
            "quarantined": counted[file.name].quarantined if file.name in counted else None,
            "control_totals": file.control_totals,
        }
        for file in (manifest.files if manifest else ())
    ]


def _withdrawn_row(
    feed: Feed, state: FeedState, opened: Opened, target: Known, message: str
) -> dict[str, Any]:
    """The withdrawn delivery's own last state."""
    row = _row(feed, state, opened, "withdrawn", 2, reasons=(message,))
    contents = sorted(target.contents)
    return row | {
        "delivery_id": target.delivery_id,
        "folder": target.folder,
        "kind": target.kind,
        "sequence": target.sequence,
        "agency_sequence": target.agency_sequence,
        "created_at": target.created_at,
        "files": [{"table": table, "period": period} for table, period in contents],
        "versions": versions(dict(target.versions)),
    }


def _append(feed: Feed, rows: Sequence[Mapping[str, Any]]) -> None:
    feed.lake.append(rows, DELIVERIES, stamp=feed.run.stamp)
    feed.events.extend(rows)


def _reopened(feed: Feed, known: Known, manifest: Manifest) -> Opened:
    """An archived delivery as if it had just been opened."""
    found = Found(feed.contract.feed, known.folder, "", "", None)
    return Opened(found, known.delivery_id, manifest)


def _manifest(opened: Opened) -> Manifest:
    if opened.manifest is None:
        raise InfrastructureError(f"{opened.found.folder}: the manifest disappeared")
    return opened.manifest


def _version_text(known: Known, table: str, contract: Contract) -> str:
    name = f"curated/{contract.feed}_{table}"
    return f"version {dict(known.versions).get(name, '?')} of {name}"


def _outcome(
    feed: Feed,
    opened: Opened,
    status: str,
    code: int,
    message: str,
    began: float,
    staged: Stage | None = None,
    written: Sequence[Written] = (),
) -> Outcome:
    outcome = Outcome(
        feed=feed.contract.feed,
        folder=opened.found.folder,
        delivery_id=opened.delivery_id,
        status=status,
        exit_code=code,
        message=message,
        rows=staged.rows if staged and not code else 0,
        quarantined=staged.quarantined if staged and not code else 0,
        violations=staged.violations if staged else (),
        versions=tuple((w.table, w.version) for w in written),
        seconds=round(time.monotonic() - began, 2),
    )
    told = f"{outcome.feed} {outcome.folder}: {status}" + (f": {message}" if message else "")
    (feed.run.reporter.error if code else feed.run.reporter.say)(
        told,
        feed=outcome.feed,
        delivery=outcome.delivery_id,
        exit_code=code,
        seconds=outcome.seconds,
    )
    return outcome
