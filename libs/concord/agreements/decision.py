"""What an agreement allows: pure Python, no clock, no table, no guess.

Whatever the agreement does not list is refused, and every reason names its clause. `as_of` says
which business date is asked for; whether it is permitted is judged by `today`, so that an expired
agreement cannot be revived by an old `--as-of`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from concord.agreements.dula import Dataset, Dula, RowFilter, Use
from concord.agreements.mou import Mou, contribution, digest
from concord.errors import RefusedError


@dataclass(frozen=True)
class Request:
    """What someone wants to do under an agreement.

    `columns` names, by table (`<feed>.<table>`), the columns of the curated table that are asked
    for; `linkages` the sets of tables whose people or cases are to be brought together.
    """

    actor: str
    agreement: str
    purpose: str
    use: Use
    columns: Mapping[str, frozenset[str]]
    as_of: date
    linkages: frozenset[frozenset[str]] = frozenset()
    own_ids: bool = False

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(sorted(self.columns))


@dataclass(frozen=True)
class Reason:
    """Why a request is refused: the clause of which agreement, in words that say what to do."""

    agreement: str
    clause: str
    message: str

    def __str__(self) -> str:
        return f"{self.agreement} clause {self.clause}: {self.message}"


@dataclass(frozen=True)
class Decision:
    """The answer to a request: allowed within `columns` and `rows` and under `duties`, or not.

    `policy_digest` names the terms that decided. A refusal allows no columns and no rows.
    """

    allowed: bool
    reasons: tuple[Reason, ...]
    policy_digest: str
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rows: Mapping[str, tuple[RowFilter, ...]] = field(default_factory=dict)
    duties: tuple[str, ...] = ()
    expires: date | None = None

    def or_refuse(self) -> Decision:
        """Raises RefusedError (exit 14) with every reason unless it is allowed."""
        if not self.allowed:
            raise RefusedError("; ".join(str(reason) for reason in self.reasons))
        return self


def decide(
    request: Request, dula: Dula, mou: Mou, today: date, *, model: Dula | None = None
) -> Decision:
    """Whether the agreement, and the MOU it stands under, allow the request today.

    `model` is the agreement that a model was trained under, where the request applies one.
    """
    reasons = tuple(_reasons(request, dula, mou, today, model))
    policy = policy_digest(dula, mou)
    if reasons:
        return Decision(False, reasons, policy)
    asked = {table: dula.dataset(table) for table in request.tables}
    datasets = {table: dataset for table, dataset in asked.items() if dataset}
    return Decision(
        True,
        (),
        policy,
        columns={
            table: tuple(name for name in dataset.column_names if name in request.columns[table])
            for table, dataset in datasets.items()
        },
        rows={table: dataset.rows for table, dataset in datasets.items()},
        duties=tuple(_duties(request, dula)),
        expires=expires(dula, mou, request.tables, today),
    )


def policy_digest(dula: Dula, mou: Mou) -> str:
    """Digests of both terms, DULA first, 16 hex digits of each."""
    return f"{digest(dula)[:16]}{digest(mou)[:16]}"


def expires(dula: Dula, mou: Mou, tables: tuple[str, ...], today: date) -> date:
    """The last day of the earliest of the terms that the tables stand under."""
    days = [dula.term.expires, mou.expires]
    for table in tables:
        feed, _, source = table.partition(".")
        days.append(mou.ends(contribution(mou, feed, source, today)))
    return min(days)


def _reasons(
    request: Request, dula: Dula, mou: Mou, today: date, model: Dula | None
) -> Iterator[Reason]:
    term = dula.term
    if request.agreement != dula.id:
        yield Reason(dula.id, "id", f"the request is made under {request.agreement}")
    if dula.mou != mou.id:
        yield Reason(dula.id, "mou", f"it stands under {dula.mou}, not {mou.id}")
    if today > term.expires:
        yield _of(dula, term.clause, f"expired on {term.expires}; have it renewed")
    if today < term.effective:
        yield _of(dula, term.clause, f"begins on {term.effective}; wait for that day")
    if request.purpose != dula.purpose.code:
        yield _of(
            dula,
            dula.purpose.clause,
            f"the purpose is {dula.purpose.code}, not {request.purpose}; "
            "another purpose needs an agreement of its own",
        )
    yield from _use_reasons(request, dula)
    if model is not None:
        yield from _model_reasons(dula, model, today)
    for table in request.tables:
        dataset = dula.dataset(table)
        if dataset is None:
            yield _of(
                dula,
                "datasets",
                f"table {table} is not listed, only {', '.join(sorted(dula.tables))}",
            )
            continue
        yield from _dataset_reasons(request, dula, dataset)
        yield from _mou_reasons(dula, dataset, mou, today)
    for tables in sorted(request.linkages, key=sorted):
        yield from _linkage_reasons(tables, dula, mou, today)


def _use_reasons(request: Request, dula: Dula) -> Iterator[Reason]:
    uses = dula.uses
    if request.use not in uses.allowed:
        allowed = ", ".join(uses.allowed)
        yield _of(dula, uses.clause, f"{request.use} is no allowed use, only {allowed}")
    if request.use == "score":
        # Scores order outreach; they are never made for another purpose.
        if dula.purpose.code != "service-coordination":
            yield _of(
                dula,
                dula.purpose.clause,
                "scores of people are made for service-coordination only; "
                f"the purpose is {dula.purpose.code}",
            )
        if not uses.individual_action:
            yield _of(dula, uses.clause, "decisions about individual people are not allowed")
    if request.own_ids and not uses.returned_under_own_ids:
        yield _of(dula, uses.clause, "nothing may go back under the agency's own ids")


def _model_reasons(dula: Dula, model: Dula, today: date) -> Iterator[Reason]:
    if model.id == dula.id:
        return
    if dula.id not in model.uses.models_usable_under:
        yield _of(
            model,
            model.uses.clause,
            f"a model trained under it may not be applied under {dula.id}; have it amended",
        )
    if not model.term.effective <= today <= model.term.expires:
        yield _of(
            model, model.term.clause, "is not in force today, and its models end with it; renew it"
        )


def _dataset_reasons(request: Request, dula: Dula, dataset: Dataset) -> Iterator[Reason]:
    unlisted = sorted(request.columns[dataset.table] - set(dataset.column_names))
    for name in unlisted:
        yield _of(
            dula,
            dataset.clause,
            f"column {name} of {dataset.table} is not agreed; "
            "have the owner agree to it and add it with its reason",
        )
    if not dataset.period_from <= request.as_of <= dataset.period_until:
        yield _of(
            dula,
            dataset.clause,
            f"{dataset.table} is agreed for {dataset.period_from} to {dataset.period_until}, "
            f"not for {request.as_of}",
        )


def _mou_reasons(dula: Dula, dataset: Dataset, mou: Mou, today: date) -> Iterator[Reason]:
    """What the hub may not hold, or not for this purpose, no recipient may hold."""
    try:
        term = contribution(mou, dataset.feed, dataset.source, today)
    except RefusedError as error:
        yield Reason(mou.id, "contributions", str(error))
        return
    if dula.purpose.code not in term.purposes:
        yield Reason(
            mou.id,
            term.clause,
            f"{dataset.feed} is contributed for {', '.join(term.purposes)}, "
            f"not for {dula.purpose.code}",
        )


def _linkage_reasons(tables: frozenset[str], dula: Dula, mou: Mou, today: date) -> Iterator[Reason]:
    names = ", ".join(sorted(tables))
    if not any(tables <= set(linkage.tables) for linkage in dula.linkages):
        yield _of(dula, "linkages", f"linking {names} is not permitted")
    if len({table.partition(".")[0] for table in tables}) < 2:
        return
    for table in sorted(tables):
        feed, _, source = table.partition(".")
        try:
            term = contribution(mou, feed, source, today)
        except RefusedError as error:
            yield Reason(mou.id, "contributions", str(error))
            continue
        if not term.may_be_matched:
            yield Reason(mou.id, term.clause, f"people of {feed} may not be matched")


def _duties(request: Request, dula: Dula) -> Iterator[str]:
    yield f"hold until {dula.term.expires} (clause {dula.term.clause})"
    if request.use == "publish":
        profile = dula.disclosure
        yield f"release only what meets profile {profile.profile} (clause {profile.clause})"
    if request.use == "score":
        yield f"no adverse action rests on a score (clause {dula.purpose.clause})"


def _of(dula: Dula, clause: str, message: str) -> Reason:
    return Reason(dula.id, clause, message)
