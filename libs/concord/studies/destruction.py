"""The end of a study: everything that was held under an agreement is destroyed, and it is proved.

Ordered (an event) → noted what is there, and what all other tables are → tables removed, files,
logs, checkpoints and all → models archived → every file that is left opened and searched for the
study's pseudonyms → the key erased → an unwrap and a time travel tried, which have to fail → a
certificate, whose digest goes into the agreement's events. A note of each step is kept, so that a
run that was killed goes on where it was, and the certificate says so.

The agreement's key goes after the search: with it the pseudonyms can be computed that must not be
found, without it nobody can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from concord import tracking
from concord.agreements import chain, events
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.canonical import digest
from concord.agreements.dula import Dula
from concord.agreements.lifecycle import Event
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import (
    AuditError,
    ConfigError,
    InfrastructureError,
    RefusedError,
)
from concord.lake import catalog
from concord.lake.log import is_table
from concord.lake.points import reach
from concord.lake.run import Run
from concord.lake.storage import join
from concord.lake.tables import Lake, described
from concord.linkage.tables import CROSSWALK
from concord.privacy import wrapping
from concord.privacy.hashing import HASH_HEX
from concord.privacy.wrapping import WrappedKey
from concord.studies import certificate, search
from concord.studies.controls import controls
from concord.studies.frames import spoken_of
from concord.studies.keys import has_key, study_key
from concord.studies.tables import of_agreement, rotated

NOTES = "ops/_destruction"
CERTIFICATES = "ops/_certificates"


@dataclass(frozen=True)
class Plan:
    """What a destruction would take away, and what stays and why."""

    agreement: str
    version: int
    due: date
    tables: dict[str, int]
    files: int
    bytes: int
    models: tuple[str, ...]
    keys: tuple[int, ...]
    stays: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        yield f"{self.agreement} version {self.version}: to be destroyed by {self.due}"
        for name, version in self.tables.items():
            yield f"  table {name}, versions 0 to {version}, log and checkpoints"
        yield f"  together {self.files} files, {self.bytes:,} bytes"
        for model in self.models:
            yield f"  model {model}: archived, never applied again"
        for version in self.keys:
            yield f"  key version {version}: erased"
        for kept in self.stays:
            yield f"  stays: {kept}"


@dataclass
class Notes:
    """What has been done so far, kept beside the lake's tables until the certificate is there."""

    attempts: int = 0
    plan: dict[str, Any] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)


def due(dula: Dula, ended: date) -> date:
    """The last day on which the data has to be gone."""
    return ended + timedelta(days=dula.end.destroy_within_days)


def planned(run: Run, register: Register, agreement: str) -> Plan:
    """What is held under an agreement. Reads logs and listings, no rows."""
    today = run.clock().date()
    over = register.ended(agreement, today)
    dula = over[0] if over else _dula(register, agreement, today)
    lake = run.lake
    names = held(lake, agreement)
    sizes = [entry.bytes for name in names for entry in lake.storage.walk(lake.path(name))]
    last = over[1] if over else dula.term.expires
    products = [
        name
        for name in catalog.names(lake.storage, lake.root)
        if name.startswith("products/")
        and agreement in lake.properties(name).get("concord.agreements", "").split(",")
    ]
    return Plan(
        agreement=agreement,
        version=dula.version,
        due=due(dula, last),
        tables={
            name: catalog.versions(lake.spark, lake.root, [name]).get(name, 0) for name in names
        },
        files=len(sizes),
        bytes=sum(sizes),
        models=tuple(f"{m.name} version {m.version}" for m in _models(run, dula)),
        keys=tuple(wrapping.versions(run.settings.keys, agreement)),
        stays=tuple(f"{name}: aggregates under {dula.disclosure.profile}" for name in products),
    )


def destroy(
    run: Run, register: Register, agreement: str, contracts: Mapping[str, Contract]
) -> dict[str, Any]:
    """Destroys what was held under an agreement that has ended, proves it, and certifies it.

    Returns the certificate. Raises RefusedError (14) while the agreement holds or is under legal
    hold, UsageError for one that nobody knows, AuditError (16) when the proof does not hold: then
    there is no certificate, and the next run tries again. LockedError and InfrastructureError.
    """
    lake, today = run.lake, run.clock().date()
    _may(register, agreement, today)
    names = held(lake, agreement)
    with lake.locks.hold(names):
        # What happened to the agreement until now, a legal hold perhaps, counts.
        register = events.register(lake, run.settings, register.mous, register.dulas)
        dula = _may(register, agreement, today)
        place = _place(lake, NOTES, dula)
        notes = _read(lake, place)
        notes.attempts += 1
        if not notes.plan:
            notes.plan = _json(asdict(planned(run, register, agreement)))
            notes.others = _others(lake, agreement)
        _note(lake, place, notes, "ordered", run)
        _order(run, register, dula)
        reach("destroy.ordered")
        # What became of older pseudonyms tells what to search for: it goes after the search.
        mapping = rotated(agreement)
        for name in names:
            if name != mapping:
                lake.remove(name)
                reach(f"destroy.removed.{name}")
        for folder in _folders(agreement):
            lake.storage.delete(lake.path(folder))
        _note(lake, place, notes, "tables removed", run)
        if "models archived" not in notes.steps:
            for model in _models(run, dula):
                tracking.opened(run.settings).archive(model, f"{agreement} ended")
            _note(lake, place, notes, "models archived", run)
        reach("destroy.archived")
        if "searched" not in notes.steps:
            _log_search(run, register, dula)
            terms = register.all_terms(agreement)
            notes.proof["search"] = _searched(run, dula, contracts, terms)
            _note(lake, place, notes, "searched", run)
        reach("destroy.searched")
        if mapping in names:
            lake.remove(mapping)
        lake.storage.delete(lake.path(mapping.rpartition("/")[0]))
        said = wrapping.destroy(run.settings.keys, agreement)
        notes.proof["key"] = f"its wrappers were written over and removed; {said}"
        _note(lake, place, notes, "key erased", run)
        reach("destroy.erased")
        notes.proof["unwrap"] = _unwrap_fails(run, agreement, notes.plan["keys"])
        notes.proof["time_travel"] = _time_travel_fails(run, notes.plan["tables"])
        notes.proof["other_tables"] = _untouched(lake, agreement, notes.others)
    return _certify(run, register, dula, notes)


# --- before --------------------------------------------------------------------------------------


def _dula(register: Register, agreement: str, today: date) -> Dula:
    found = register.dula(agreement, today)
    if found is None:
        raise register.unknown(agreement)
    return found


def _may(register: Register, agreement: str, today: date) -> Dula:
    """The terms of the version that ended. Raises RefusedError unless the whole agreement has, and
    no version of it is under legal hold."""
    known = _dula(register, agreement, today)
    versions = register.versions(agreement).values()
    if any(version.state == "destruction_certified" for version in versions):
        raise RefusedError(
            f"{agreement} clause {known.end.clause}: its destruction is certified already; the "
            f"certificate is in {CERTIFICATES}"
        )
    over = register.ended(agreement, today)
    if over is None:
        standing = register.standing(agreement, today)
        state = standing.state if standing else "unknown"
        raise RefusedError(
            f"{agreement} clause {known.term.clause}: it is {state}, not ended; nothing is "
            "destroyed before it expires or is terminated (concord agreement terminate)"
        )
    if any(version.legal_hold for version in versions):
        raise RefusedError(
            f"{agreement} clause {known.end.clause}: it is under legal hold; nothing of it is "
            "destroyed before the hold is lifted (concord agreement hold --lift)"
        )
    return over[0]


def _order(run: Run, register: Register, dula: Dula) -> None:
    version = register.versions(dula.id).get(dula.version)
    if version is None or version.state == "destruction_due":
        return
    event = Event(
        dula.id, dula.version, "destruction_ordered", run.actor, run.clock(), version.digest,
        reason=f"clause {dula.end.clause}",
    )  # fmt: skip
    events.append(run.lake, register, [event], stamp=run.stamp)


def held(lake: Lake, agreement: str) -> list[str]:
    """Everything under the study's folder and what went back from it: tables, whole or not."""
    found = []
    for folder in (*_folders(agreement), rotated(agreement).rpartition("/")[0]):
        entries = lake.storage.list(lake.path(folder))
        found += [join(folder, entry.name) for entry in entries if entry.is_folder]
    return found


def _folders(agreement: str) -> tuple[str, str]:
    return f"studies/{agreement}", f"vault/returned/{agreement}"


def _models(run: Run, dula: Dula) -> list[tracking.Registered]:
    """Models that end with the agreement: made under it, where it does not let them outlive it."""
    if dula.uses.retraining_after_expiry or "models" not in dula.end.scope:
        return []
    address, _ = tracking.address(run.settings)
    local = address.removeprefix("sqlite:///")
    if local != address and not Path(local).exists():
        return []
    return tracking.opened(run.settings).under(dula.id)


def _others(lake: Lake, agreement: str) -> dict[str, str]:
    """A checksum of each other table's files: their names and sizes, and the log's bytes."""
    own = (*(f"{folder}/" for folder in _folders(agreement)), rotated(agreement), "ops/")
    found = {}
    for name in catalog.names(lake.storage, lake.root):
        if name.startswith(own):
            continue
        sums = hashlib.sha256()
        for entry in lake.storage.walk(lake.path(name)):
            sums.update(f"{entry.path.rpartition(name)[2]} {entry.bytes}\n".encode())
        found[name] = sums.hexdigest()
    return found


# --- proof ---------------------------------------------------------------------------------------


def _log_search(run: Run, register: Register, dula: Dula) -> None:
    """The hub reads what it holds to compute what must not be found: that is told first."""
    row = {
        "decided_at": run.clock(),
        "actor": run.actor,
        "agreement": dula.id,
        "purpose": "destruction",
        "tables": sorted(dula.tables),
        "columns": [],
        "row_count": None,
        "decision": "allowed",
        "reasons": [f"clause {dula.end.clause}: search for what was destroyed"],
        "policy_digest": register.policy_digest(dula, run.clock().date()),
        "run_id": run.run_id,
    }
    chain.append(run.lake, ACCESS_LOG, [row], stamp=run.stamp)


def _searched(
    run: Run, dula: Dula, contracts: Mapping[str, Contract], versions: Sequence[Dula]
) -> dict[str, Any]:
    """Opens every file that is left and looks for the study's pseudonyms. Raises AuditError where
    one is found, where the search misses what it was given to find, or where it cannot be made."""
    keys = _keys(run, dula)
    try:
        tokens = _pseudonyms(run, keys, contracts, versions) if keys else set()
        tokens |= _older(run, dula)
    except (PySparkException, Py4JError) as error:
        raise InfrastructureError(
            f"{dula.id}: computing what to look for failed with {described(error)}; run this again"
        ) from None
    missed = [
        kind for kind, content, token in controls() if token not in search.tokens(content, kind)
    ]
    if missed:
        raise AuditError(
            f"the search for what was destroyed does not see into {', '.join(missed)}: it would "
            "prove nothing. Report this"
        )
    # The mapping goes right after the search.
    looked = search.search(run, tokens, besides=rotated(dula.id))
    found, closed = looked.found, looked.closed
    if found or closed:
        said = [f"{len(found)} files still hold pseudonyms: {', '.join(found[:10])}"] * bool(found)
        said += [f"{len(closed)} files do not open: {', '.join(closed[:10])}"] * bool(closed)
        raise AuditError(
            f"{dula.id}: {'; '.join(said)}; remove them, or mend what is torn, and run this again"
        )
    return {
        "files opened": looked.files,
        "pseudonyms searched for": len(tokens),
        "found": 0,
        "kinds of file that the search was shown to see into": [kind for kind, *_ in controls()],
        **({} if keys else {"no key was ever made": "the agreement had no study"}),
    }


def _keys(run: Run, dula: Dula) -> list[WrappedKey]:
    """The keys that the study was made with, one that a rotation had begun with too; none where no
    study was ever made. Raises AuditError for another key, or one that is gone or does not open:
    nothing would be proved."""
    keys = run.settings.keys
    if not has_key(run.lake, dula.id):
        return []
    # It may have been suspended when it ended.
    wrapping.enable(keys, dula.id)
    try:
        study_key(run.lake, keys, dula.id)
        return [
            wrapping.agreement_key(keys, dula.id, version=version)
            for version in wrapping.versions(keys, dula.id)
        ]
    except ConfigError as error:
        raise AuditError(
            f"{dula.id}: what is left cannot be searched for its pseudonyms without the key that "
            f"its study was made with: {error.problems[0]}"
        ) from None


def _pseudonyms(
    run: Run,
    keys: Sequence[WrappedKey],
    contracts: Mapping[str, Contract],
    versions: Sequence[Dula],
) -> set[str]:
    """The digits of every pseudonym that the study could hold under any version of its terms: of
    the persons, records, cases and row numbers of its sources as they are, whoever a record was
    said to be at any time."""
    lake, found = run.lake, set[str]()
    known = lake.read(CROSSWALK).select("record_id", "person_id")
    for dula in versions:
        gone = sorted({each.feed for each in dula.datasets} - set(contracts))
        if gone:
            raise AuditError(
                f"{dula.reference}: conf/feeds has no {', '.join(gone)} any more, so what was held "
                "of it cannot be searched for; put the contract back for the destruction"
            )
        for study in of_agreement(dula, contracts):
            for spoken in spoken_of(lake.read(study.curated), known, study):
                for key in keys:
                    made = spoken.rows.select(spoken.pseudonym(key).alias("token"))
                    tokens = made.where("token IS NOT NULL").distinct().toArrow()["token"]
                    found.update(pc.utf8_slice_codeunits(tokens, -HASH_HEX).to_pylist())
    return found


def _older(run: Run, dula: Dula) -> set[str]:
    """The digits of the pseudonyms that rotations replaced: their keys are erased."""
    name = rotated(dula.id)
    if not is_table(run.lake.storage, run.lake.path(name)):
        return set()
    frame = run.lake.spark.read.format("delta").load(run.lake.path(name))
    older = frame.select("old_pseudonym").toArrow()["old_pseudonym"]
    return set(pc.utf8_slice_codeunits(older, -HASH_HEX).to_pylist())


def _unwrap_fails(run: Run, agreement: str, had: Sequence[int]) -> str:
    left = wrapping.versions(run.settings.keys, agreement)
    if left:
        raise AuditError(f"the key of {agreement} is still there: it was not erased. Report this")
    if not had:
        return "no key was ever made"
    try:
        wrapping.agreement_key(run.settings.keys, agreement)
    except ConfigError:
        return "the key does not open: its wrapper is gone"
    raise AuditError(f"the key of {agreement} still opens: it was not erased. Report this")


def _time_travel_fails(run: Run, names: Sequence[str] | dict[str, int]) -> str:
    for name in names:
        if run.lake.storage.exists(run.lake.path(name)):
            raise AuditError(f"{name} is still there; run this again")
        try:
            reader = run.lake.spark.read.format("delta").option("versionAsOf", 0)
            reader.load(run.lake.path(name)).isEmpty()
        except (PySparkException, Py4JError):
            continue
        raise AuditError(f"an old version of {name} can still be read; run this again")
    return f"no version of {len(names)} tables can be read"


def _untouched(lake: Lake, agreement: str, before: dict[str, str]) -> str:
    after = _others(lake, agreement)
    changed = sorted(name for name in before if after.get(name) != before[name])
    if changed:
        # Another job may have written meanwhile: told, and no reason to hold the certificate back.
        return f"changed meanwhile by other jobs: {', '.join(changed)}"
    return f"{len(before)} other tables are as they were, by the names and sizes of their files"


# --- the certificate -----------------------------------------------------------------------------


def _certify(run: Run, register: Register, dula: Dula, notes: Notes) -> dict[str, Any]:
    made = certificate.made(
        dula,
        plan=notes.plan,
        steps=notes.steps,
        proof=notes.proof,
        attempts=notes.attempts,
        actor=run.actor,
        on=run.clock().date(),
    )
    text = json.dumps(made, indent=2, sort_keys=True)
    lake, place = run.lake, _place(run.lake, CERTIFICATES, dula)
    lake.storage.write(place, text.encode())
    lake.storage.write(place.removesuffix("json") + "html", certificate.page(made).encode())
    known = events.register(lake, run.settings, register.mous, register.dulas)
    version = known.versions(dula.id).get(dula.version)
    if version is not None and version.state == "destruction_due":
        said = f"certificate SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
        event = Event(
            dula.id, dula.version, "destruction_certified", run.actor, run.clock(),
            version.digest or digest(dula), reason=said,
        )  # fmt: skip
        events.append(lake, known, [event], stamp=run.stamp)
    reach("destroy.certified")
    lake.storage.delete(_place(lake, NOTES, dula))
    return made


def _place(lake: Lake, folder: str, dula: Dula) -> str:
    return join(lake.path(folder), f"{dula.id}.v{dula.version}.json")


def _read(lake: Lake, place: str) -> Notes:
    if not lake.storage.exists(place):
        return Notes()
    return Notes(**json.loads(lake.storage.read(place)))


def _note(lake: Lake, place: str, notes: Notes, step: str, run: Run) -> None:
    notes.steps.setdefault(step, run.clock().isoformat(timespec="seconds"))
    lake.storage.write(place, json.dumps(_json(asdict(notes)), sort_keys=True).encode())


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
