"""One delivery's way: decided on → archived → shape compared → staged → audited → published →
recorded; and the ways back, a withdrawal and a loading again under a corrected contract.

Until the first table is written the ledger knows nothing of it and a crash leaves only a stage that
the next try overwrites; from then on its sequence number is taken and a rerun finishes it before
anything else of the feed is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from concord.agreements.labels import CLASSIFICATION, labels
from concord.agreements.mou import Mou, contribution
from concord.contracts.model import Contract
from concord.contracts.model import Table as Source
from concord.errors import (
    ConcordError,
    ConfigError,
    DeliveryError,
    InfrastructureError,
    QualityError,
)
from concord.ingest import acceptance, integrity, ledger, publish, rules
from concord.ingest.integrity import Opened
from concord.ingest.ledger import FeedState, Known
from concord.ingest.manifest import Found, Manifest
from concord.ingest.rules import Violation
from concord.ingest.stage import FileCount, Stage, stage
from concord.lake import session
from concord.lake.points import reach
from concord.lake.registry import DELIVERIES, Table
from concord.lake.run import Run, versions
from concord.lake.tables import Lake
from concord.lake.writes import Written
from concord.privacy.hashing import Key

# Below this, a delivery's queries are interpreted: to compile many small ones costs more than to
# run them. About here (30,000 rows of ten columns) a warm stage took as long either way.
COMPILE_FROM_BYTES = 4_000_000
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


def deliver(feed: Feed, state: FeedState, found: Found) -> Outcome:
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
        acceptance.balance(staged)
        acceptance.threshold(staged)
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


def finish(feed: Feed, state: FeedState, known: Known) -> Outcome:
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


def load_again(feed: Feed, state: FeedState, known: Known) -> Outcome:
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
        acceptance.balance(staged)
        acceptance.threshold(staged)
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


# --- staging -------------------------------------------------------------------------------------


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
