"""The `ingest` job: every delivery that is there and not yet known, feed by feed.

A feed's deliveries are found here and taken one after another; `delivery` has the way of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from concord.agreements import access_log
from concord.agreements.decision import Holding, HoldingDecision, refused
from concord.agreements.mou import Mou
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import (
    ConcordError,
    ConfigError,
    DeliveryError,
    InfrastructureError,
    UsageError,
)
from concord.ingest import integrity, tables
from concord.ingest.delivery import ARCHIVE, WORK, Feed, Outcome, deliver, finish, load_again
from concord.ingest.manifest import Found
from concord.lake.registry import DELIVERIES
from concord.lake.run import Run
from concord.lake.tables import described
from concord.lake.writes import Written
from concord.privacy.hashing import Key
from concord.privacy.keys import fingerprint, vault_key

KEY_CHECK = "vault/_key_check"


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
        outcomes.append(finish(feed, feed.state, unfinished))
    for found in pending:
        outcomes.append(deliver(feed, feed.state, found))
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


def _reprocess(feed: Feed) -> list[Outcome]:
    """Loads again, under the present contract, what an earlier version of it kept out."""
    outcomes = []
    unfinished = feed.state.unfinished
    if unfinished and not feed.run.dry_run:
        outcomes.append(finish(feed, feed.state, unfinished))
    waiting = _with_quarantine(feed)
    for known in list(feed.state.deliveries.values()):
        kept_out = known.status == "rejected" or known.delivery_id in waiting
        place = feed.lake.path(f"{ARCHIVE}/{feed.contract.feed}/{known.delivery_id}")
        archived = feed.lake.storage.exists(place)
        if known.kind != "delivery" or not kept_out or not archived:
            continue
        if known.status == "withdrawn" or known.contract_version == feed.contract.version:
            continue
        outcomes.append(load_again(feed, feed.state, known))
    if not outcomes:
        feed.run.reporter.say(
            f"{feed.contract.feed}: nothing to reprocess. Deliveries with quarantined or rejected "
            f"rows are replayed when the contract's version is no longer the one that they were "
            f"judged by; it is {feed.contract.version}"
        )
    return outcomes


def _with_quarantine(feed: Feed) -> set[str]:
    """Deliveries of which rows are in quarantine."""
    table = tables.quarantine(feed.contract)
    rows = feed.lake.read(table).where("released_by IS NULL").select("delivery_id").distinct()
    return {row["delivery_id"] for row in rows.collect()}
