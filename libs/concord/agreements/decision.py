"""What an agreement allows: pure Python, no clock, no table, no guess.

Whatever the agreement does not list is refused, and every reason names its clause. `as_of` says
which business date is asked for; whether it is permitted is judged by `today`, so that an expired
agreement cannot be revived by an old `--as-of`. Asked with a past day as `today`, it tells whether
the request could have been lawful on that day.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from concord.agreements.dula import Dataset, Dula, RowFilter, Use
from concord.agreements.mou import Mou, contribution
from concord.agreements.register import Register, Standing
from concord.errors import RefusedError


@dataclass(frozen=True)
class Request:
    """What someone wants to do under an agreement.

    `columns` names, by table (`<feed>.<table>`), the columns of the curated table that are asked
    for; `linkages` the sets of tables whose people or cases are to be brought together. `actor`
    and `roles` are filled in by whoever asks for a run, never by its arguments. `until` is the day
    on which a long job would end.
    """

    agreement: str
    purpose: str
    use: Use
    columns: Mapping[str, frozenset[str]]
    as_of: date
    linkages: frozenset[frozenset[str]] = frozenset()
    own_ids: bool = False
    until: date | None = None
    actor: str = ""
    roles: frozenset[str] = frozenset()

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

    `terms` are those that decided, `policy_digest` names them. A refusal allows no columns and no
    rows.
    """

    allowed: bool
    reasons: tuple[Reason, ...]
    policy_digest: str
    terms: Dula
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rows: Mapping[str, tuple[RowFilter, ...]] = field(default_factory=dict)
    duties: tuple[str, ...] = ()
    expires: date | None = None

    def or_refuse(self) -> Decision:
        """Raises RefusedError (exit 14) with every reason unless it is allowed."""
        refused(self.reasons)
        return self


@dataclass(frozen=True)
class Holding:
    """What the hub wants to hold of a feed (`<feed>.<table>`), or to match the people of."""

    feed: str
    tables: tuple[str, ...]
    matched: bool = False


@dataclass(frozen=True)
class HoldingDecision:
    """Whether the MOU lets the hub hold or match a feed's tables: allowed when without reasons."""

    agreement: str
    reasons: tuple[Reason, ...]
    policy_digest: str


def refused(reasons: Sequence[Reason]) -> None:
    """Raises RefusedError (exit 14) when there are reasons."""
    if reasons:
        raise RefusedError("; ".join(str(reason) for reason in reasons))


def decide(
    request: Request, register: Register, today: date, *, model: str | None = None
) -> Decision:
    """Whether the agreement, and the MOU it stands under, allow the request today.

    `model` is the agreement that a model was trained under, where the request applies one. Raises
    KeyError for an agreement that the register does not know.
    """
    standing = register.standing(request.agreement, today)
    if standing is None:
        raise KeyError(request.agreement)
    dula = standing.terms
    reasons = tuple(_reasons(request, standing, register, today, model))
    policy = register.policy_digest(dula, today)
    if reasons:
        return Decision(False, reasons, policy, dula)
    asked = {table: dula.dataset(table) for table in request.tables}
    datasets = {table: dataset for table, dataset in asked.items() if dataset}
    return Decision(
        True,
        (),
        policy,
        dula,
        columns={
            table: tuple(name for name in dataset.column_names if name in request.columns[table])
            for table, dataset in datasets.items()
        },
        rows={table: dataset.rows for table, dataset in datasets.items()},
        duties=tuple(_duties(request, dula)),
        expires=expires(dula, register, request.tables, today),
    )


def may_hold(holding: Holding, register: Register, today: date) -> HoldingDecision:
    """Whether the hub may hold, or match, a feed's tables today."""
    held = register.holding(holding.feed, today)
    if held is None:
        known = ", ".join(sorted(register.mous)) or "no MOU"
        message = (
            f"{holding.feed} is not contributed: its agency has agreed to no clause for it; have "
            "it sign one and add it under contributions in conf/agreements"
        )
        return HoldingDecision(known, (Reason(known, "contributions", message),), "")
    mou = held.mou
    reasons = [Reason(mou.id, "signatures", held.problem)] if held.problem else []
    for table in holding.tables:
        try:
            term = contribution(mou, holding.feed, table.partition(".")[2], today)
        except RefusedError as error:
            reasons.append(Reason(mou.id, "contributions", str(error)))
            continue
        if holding.matched and not (term.identifiers and term.may_be_matched):
            message = (
                f"it does not let people of {table} be matched; have {term.agency} agree to it, "
                f"or name {holding.feed} under leave_out in conf/person_index.yaml"
            )
            reasons.append(Reason(mou.id, term.clause, message))
    return HoldingDecision(mou.id, tuple(reasons), register.held_digest(mou))


def expires(dula: Dula, register: Register, tables: Sequence[str], today: date) -> date:
    """The last day of the earliest of the terms that the tables stand under."""
    days = [dula.term.expires]
    for table in tables:
        feed, _, source = table.partition(".")
        held = register.holding(feed, today)
        if held is not None:
            mou = held.mou
            days += [mou.expires, mou.ends(contribution(mou, feed, source, today))]
    return min(days)


def _reasons(
    request: Request, standing: Standing, register: Register, today: date, model: str | None
) -> Iterator[Reason]:
    dula = standing.terms
    term = dula.term
    if standing.problem:
        clause = term.clause if standing.state in {"expired", "signed"} else "signatures"
        yield _of(dula, clause, standing.problem)
    elif today > term.expires or today < term.effective:
        # The register's states follow from these days; a second look costs nothing.
        yield _of(dula, term.clause, f"holds from {term.effective} to {term.expires}")
    if request.until is not None and request.until > term.expires:
        yield _of(
            dula,
            term.clause,
            f"ends on {term.expires}, before the job would ({request.until}); have it renewed, or "
            "do less",
        )
    if request.purpose != dula.purpose.code:
        yield _of(
            dula,
            dula.purpose.clause,
            f"the purpose is {dula.purpose.code}, not {request.purpose}; "
            "another purpose needs an agreement of its own",
        )
    yield from _people_reasons(request, dula)
    yield from _use_reasons(request, dula)
    if model is not None:
        yield from _model_reasons(dula, register, model, today)
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
        yield from mou_reasons(dula, dataset, register, today)
    for tables in sorted(request.linkages, key=sorted):
        yield from _linkage_reasons(tables, dula, register, today)


def _people_reasons(request: Request, dula: Dula) -> Iterator[Reason]:
    people = dula.people
    if request.actor in people.users or request.roles & set(people.roles):
        return
    listed = ", ".join([*people.users, *(f"role {role}" for role in people.roles)])
    yield _of(
        dula,
        people.clause,
        f"{request.actor or 'nobody in particular'} is not among those who may work with the data "
        f"({listed or 'nobody is listed'}); have the agreement amended, or the settings' roles",
    )


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


def _model_reasons(dula: Dula, register: Register, model: str, today: date) -> Iterator[Reason]:
    if model == dula.id:
        return
    standing = register.standing(model, today)
    if standing is None:
        yield _of(dula, "models", f"the model was trained under {model}, which nobody knows")
        return
    trained = standing.terms
    if dula.id not in trained.uses.models_usable_under:
        yield _of(
            trained,
            trained.uses.clause,
            f"a model trained under it may not be applied under {dula.id}; have it amended",
        )
    if standing.problem and not (standing.state == "expired" and _outlives(trained)):
        yield _of(
            trained,
            trained.term.clause,
            f"is not in force today, and its models end with it: {standing.problem}",
        )


def _outlives(trained: Dula) -> bool:
    return trained.uses.retraining_after_expiry


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


def mou_reasons(dula: Dula, dataset: Dataset, register: Register, today: date) -> Iterator[Reason]:
    """What the hub may not hold, or not for this purpose, no recipient may hold."""
    mou = _bound(dula, dataset.owner, register, today)
    if isinstance(mou, Reason):
        yield mou
        return
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


def _bound(dula: Dula, agency: str, register: Register, today: date) -> Mou | Reason:
    """The MOU that binds an agency, or why none does."""
    held = register.held(dula.mou, agency, today)
    if held is None:
        return _of(dula, "mou", f"it stands under {dula.mou}, which nobody knows")
    return Reason(held.mou.id, "signatures", held.problem) if held.problem else held.mou


def _linkage_reasons(
    tables: frozenset[str], dula: Dula, register: Register, today: date
) -> Iterator[Reason]:
    names = ", ".join(sorted(tables))
    if not any(tables <= set(linkage.tables) for linkage in dula.linkages):
        yield _of(dula, "linkages", f"linking {names} is not permitted")
    if len({table.partition(".")[0] for table in tables}) < 2:
        return
    for table in sorted(tables):
        feed, _, source = table.partition(".")
        dataset = dula.dataset(table)
        mou = _bound(dula, dataset.owner, register, today) if dataset else None
        if not isinstance(mou, Mou):
            continue
        try:
            term = contribution(mou, feed, source, today)
        except RefusedError:
            continue  # told with its dataset
        if not term.may_be_matched:
            yield Reason(mou.id, term.clause, f"people of {feed} may not be matched")


def _duties(request: Request, dula: Dula) -> Iterator[str]:
    end = dula.end
    yield f"hold until {dula.term.expires} (clause {dula.term.clause})"
    yield f"destroy within {end.destroy_within_days} days of the end (clause {end.clause})"
    if dula.prohibitions:
        acts = ", ".join(dula.prohibitions.acts)
        yield f"never: {acts} (clause {dula.prohibitions.clause})"
    if dula.people.training:
        training = ", ".join(dula.people.training)
        yield f"have completed: {training} (clause {dula.people.clause})"
    for notice in dula.legal_basis.notices:
        yield f"pass on the notice: {notice} (clause {dula.legal_basis.clause})"
    if request.use == "publish":
        profile = dula.disclosure
        yield f"release only what meets profile {profile.profile} (clause {profile.clause})"
        if profile.reviewers:
            yield f"{profile.reviewers} reviewers approve a release (clause {profile.clause})"
        if profile.publication_approval:
            yield f"the owners approve a release (clause {profile.clause})"
    if request.use == "score":
        yield f"no adverse action rests on a score (clause {dula.purpose.clause})"


def _of(dula: Dula, clause: str, message: str) -> Reason:
    return Reason(dula.id, clause, message)
