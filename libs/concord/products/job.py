"""The `publish` job: each product counted from its agreement's study, protected, and released.

Decided (and logged) → the study's versions fixed → counted → small counts protected and attacked →
written in one commit that replaces the last release → the read logged. A product whose newest
commit says it was made from the same inputs is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from concord.agreements import access_log
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.canonical import canonical, digest
from concord.agreements.decision import Decision, Request
from concord.agreements.dula import Dula
from concord.agreements.labels import (
    AGREEMENT_DIGEST,
    AGREEMENTS,
    CERTIFICATE,
    study_labels,
)
from concord.agreements.meet import Meet, under
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.disclosure.profiles import Profile
from concord.errors import DisclosureError, InfrastructureError, RefusedError, UsageError
from concord.lake import run as runs
from concord.lake.points import reach
from concord.lake.registry import Column, Table
from concord.lake.run import Run
from concord.lake.storage import join
from concord.lake.tables import described
from concord.lake.writes import Overwrite, Transaction, Written
from concord.products import populations
from concord.products.release import MEASURES, SHARES, Group, Release, release
from concord.products.specification import Product
from concord.studies import tables as study_tables
from concord.studies.tables import StudyTable

# Changes when the rows made from the same inputs change.
FORMAT = 1
# The terms whose digest stands in a product's label, by digest: canonical JSON.
TERMS = "products/_agreements"


@dataclass(frozen=True)
class Outcome:
    """What became of one product."""

    product: str
    status: str
    message: str
    exit_code: int = 0
    version: int | None = None
    rows: int = 0
    visible: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def table(product: Product) -> Table:
    """The product's table: dimensions, measures (NULL where hidden), flags, shares."""
    shown = [name for name in MEASURES if name in product.measures]
    measures = [
        column
        for name in shown
        for column in (
            Column(name, "bigint", product.measures[name], product.classification),
            Column(f"{name}_suppressed", "boolean", f"whether {name} is hidden"),
        )
    ]
    shares = [
        Column(f"{name}_share", "double", f"{name} in checkins, 0 to 1; NULL where one is hidden")
        for name in SHARES
        if name in shown and "checkins" in shown
    ]
    return Table(
        name=product.table,
        description=f"{product.title} ({product.agreement}).",
        owner="data office",
        key=("cut", "period", "region", "certification_type"),
        columns=(
            Column("cut", "string", "month_certification or quarter_region_certification"),
            Column("period", "string", "2025-03 or 2025-Q1"),
            Column("period_start", "date", "first day of the period"),
            Column("region", "string", "Massachusetts: the whole state"),
            Column("certification_type", "string", "all: every type"),
            *measures,
            *shares,
        ),
        statistics=("period_start",),
        retention_days=365,
    )


def registry(products: Mapping[str, Product]) -> list[Table]:
    """Every product's table."""
    return [table(product) for product in products.values()]


def publish(
    run: Run,
    products: Mapping[str, Product],
    profiles: Mapping[str, Profile],
    contracts: Mapping[str, Contract],
    register: Register,
    *,
    names: Sequence[str] = (),
    agreement: str | None = None,
    purpose: str | None = None,
) -> list[Outcome]:
    """Releases all products or those named, each as of the run's business date.

    `agreement` and `purpose` replace those of the product in the request, to learn that, and by
    which clause, it is refused: a release is only ever made under its own. A refused product is an
    Outcome with exit code 14, one that cannot be protected has 15, so that others go on. Raises
    UsageError for an unknown product or a missing study, LockedError and InfrastructureError.
    """
    for name in (*names, *([agreement] if agreement else [])):
        known = register.dulas if name == agreement else products
        if name not in known:
            where = "conf/agreements" if name == agreement else "conf/products"
            raise UsageError(f"there is no {name!r}; {where} has {', '.join(sorted(known))}")
    wanted = [products[name] for name in (names or sorted(products))]
    today = run.clock().date()
    under = [register.dula(agreement or product.agreement, today) for product in wanted]
    requests = [
        _request(run, product, dula, purpose)
        for product, dula in zip(wanted, under, strict=True)
        if dula is not None
    ]
    decisions = access_log.ask_all(run, register, requests)
    reach("publish.decided")
    outcomes = []
    for product, request, decision in zip(wanted, requests, decisions, strict=True):
        dula = decision.terms
        if decision.allowed and dula.id != product.agreement:
            raise UsageError(
                f"{product.id} is a product of {product.agreement}; a release under {dula.id} "
                "needs a product of its own in conf/products"
            )
        if not decision.allowed:
            outcomes.append(_refused(run, product, decision))
            continue
        profile = profiles[dula.disclosure.profile]
        one = _Product(run, product, profile, contracts, register, request, decision)
        try:
            outcomes.append(one.publish())
        except DisclosureError as error:
            run.reporter.error(f"{product.id}: {error}")
            outcomes.append(Outcome(product.id, "refused", str(error), error.exit_code))
        except (PySparkException, Py4JError) as error:
            raise InfrastructureError(
                f"publish: Spark failed: {described(error)}. If it speaks of space or permissions, "
                f"mend {run.settings.lake} or Spark's local folders; then run this again"
            ) from None
    return outcomes


def _request(run: Run, product: Product, dula: Dula, purpose: str | None) -> Request:
    return Request(
        agreement=dula.id,
        purpose=purpose or dula.purpose.code,
        use="publish",
        columns=populations.COLUMNS,
        as_of=run.as_of,
        linkages=frozenset({frozenset(populations.COLUMNS)}),
    )


def _refused(run: Run, product: Product, decision: Decision) -> Outcome:
    message = "; ".join(str(reason) for reason in decision.reasons)
    run.reporter.error(f"{product.id}: refused: {message}")
    return Outcome(product.id, "refused", message, RefusedError.exit_code)


@dataclass(frozen=True)
class _Product:
    """One product being released."""

    run: Run
    product: Product
    profile: Profile
    contracts: Mapping[str, Contract]
    register: Register
    request: Request
    decision: Decision

    @property
    def dula(self) -> Dula:
        """The terms that decided."""
        return self.decision.terms

    def publish(self) -> Outcome:
        began = time.monotonic()
        run, lake, target = self.run, self.run.lake, table(self.product)
        sources = self._sources()
        inputs = self._inputs(sources)
        if run.dry_run:
            message = f"may be released until {self.decision.expires}"
            run.reporter.say(f"{self.product.id}: allowed: {message}")
            return Outcome(self.product.id, "would release", message)
        with lake.locks.hold([target.name]):
            said = lake.made_from(target) or {}
            outcome = Outcome(self.product.id, "nothing to do", "nothing to do")
            if said.get("inputs") != inputs:
                outcome = self._release(target, sources, inputs)
            reach("publish.published")
            self._record_read(target)
            reach("publish.recorded")
        run.tally.read |= {each.table.name: version for each, version in sources}
        seconds = round(time.monotonic() - began, 2)
        run.reporter.say(f"{self.product.id}: {outcome.message}", seconds=seconds)
        return replace(outcome, seconds=seconds)

    def _sources(self) -> list[tuple[StudyTable, int]]:
        """The study's tables with the versions that are read. Raises UsageError without them."""
        lake, found = self.run.lake, []
        made = study_tables.of_agreement(self.dula, self.contracts)
        for each in made:
            if each.dataset.table not in populations.COLUMNS:
                continue
            version = lake.version(each.table)
            held = lake.properties(each.table.name) if version is not None else {}
            if version is None or held.get(AGREEMENT_DIGEST) != digest(self.dula):
                what = "has not been made yet" if version is None else "follows other terms"
                raise UsageError(
                    f"{each.table.name} {what}: run concord study --agreement {self.dula.id} first"
                )
            found.append((each, version))
        return found

    def _terms(self, sources: Sequence[tuple[StudyTable, int]]) -> Meet:
        """The meet of all agreements that the inputs say they are under."""
        said = [self.run.lake.properties(each.table.name)[AGREEMENTS] for each, _ in sources]
        ids = {name for names in said for name in names.split(",")}
        return under(self.register, ids, self.run.clock().date())

    def _inputs(self, sources: Sequence[tuple[StudyTable, int]]) -> str:
        """Digest of all that the rows and their labels follow from."""
        return runs.digest(
            FORMAT,
            self.product.model_dump(mode="json"),
            self.profile.model_dump(mode="json"),
            self.decision.policy_digest,
            self.decision.expires,
            [(each.table.name, version) for each, version in sources],
            min(self.run.as_of, max(map(self._last_known, sources), default=self.run.as_of)),
        )

    def _last_known(self, source: tuple[StudyTable, int]) -> date:
        """The day of the newest row: what is known later is known then."""
        each, version = source
        rows = self.run.lake.read(each.table, version=version)
        return rows.agg(F.max(populations.KNOWN_ON)).collect()[0][0] or date.min

    def _release(
        self, target: Table, sources: Sequence[tuple[StudyTable, int]], inputs: str
    ) -> Outcome:
        run, lake = self.run, self.run.lake
        frames = {
            each.dataset.table: lake.read(each.table, version=version) for each, version in sources
        }
        counted = populations.snap_checkins(
            frames["dta_snap.checkins"],
            frames["dta_snap.cases"],
            regions=self.product.regions,
            certification_types=self.product.certification_types,
            as_of=run.as_of,
        )
        groups = [
            Group(
                row["month"],
                row["region"],
                row["certification_type"],
                {name: row[name] for name in MEASURES},
            )
            for row in counted.collect()
        ]
        made = release(groups, self.profile, frozenset(self.product.measures))
        reach("publish.protected")
        rows = pa.Table.from_pylist([dict(row) for row in made.rows], target.arrow_schema)
        before = lake.version(target)
        terms = self._terms(sources)
        for dula in terms.agreements:
            # What the label's digest is of, for readers that have nothing else of Concord's.
            place = join(lake.path(TERMS), f"{digest(dula)}.json")
            lake.storage.put_if_absent(place, canonical(dula))
        labels = study_labels(
            terms,
            owner="data office",
            classifications=[self.product.classification],
            expires=self.decision.expires or self.dula.term.expires,
        )
        written = lake.write(
            rows,
            target,
            Overwrite(),
            stamp=replace(run.stamp, agreements=(self.dula.id, self.dula.mou), inputs=inputs),
            transaction=Transaction(f"publish/{target.name}", 0 if before is None else before + 1),
            labels={**labels, CERTIFICATE: self._certificate(made)},
        )
        reach(f"publish.wrote.{target.name}")
        run.tally.rows_in += sum(group.counts["checkins"] for group in groups)
        run.tally.rows_out += len(made.rows)
        run.tally.note([Written(target.name, written.version, True)])
        seen = ", ".join(f"{share:.1%} by {cut}" for cut, share in made.visible.items())
        message = (
            f"version {written.version}, {len(made.rows)} rows; {made.primary} small counts and "
            f"{made.secondary} others hidden; check-ins in visible cells: {seen}"
        )
        return Outcome(
            self.product.id,
            "released",
            message,
            version=written.version,
            rows=len(made.rows),
            visible=made.visible,
        )

    def _certificate(self, made: Release) -> str:
        """The evidence in short, for the table's label. It tells of no single count."""
        narrowest = "none hidden" if made.narrowest is None else f"{made.narrowest:g}"
        return (
            f"{self.dula.disclosure.profile}; {made.cells} counts, {made.primary} primary, "
            f"{made.secondary} secondary; attacked by linear programmes, none below "
            f"{self.profile.minimum} can be told; narrowest interval {narrowest}"
        )

    def _record_read(self, target: Table) -> None:
        """Logs the read of the run that made the release, if it did not come to log it."""
        lake = self.run.lake
        said = lake.made_from(target)
        if not said:
            return
        logged = lake.rows(ACCESS_LOG, "agreement", "decision", "run_id")
        mine = {"agreement": self.dula.id, "decision": "read", "run_id": said["run_id"]}
        if mine not in logged:
            rows = int(said["rows"] or 0)
            read = access_log.Read(self.request, self.decision, said["run_id"], rows)
            access_log.record_reads(self.run, [read])


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes as the job's last line tells them."""
    return {
        outcome.product: {
            "status": outcome.status,
            "version": outcome.version,
            "rows": outcome.rows,
            "visible": dict(outcome.visible),
            "seconds": outcome.seconds,
        }
        for outcome in outcomes
    }


def sentence(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in a line, for the ledger: `nothing to do` when that is all of them."""
    if {outcome.message for outcome in outcomes} <= {"nothing to do"}:
        return "nothing to do"
    return "; ".join(f"{outcome.product} {outcome.status}" for outcome in outcomes)
