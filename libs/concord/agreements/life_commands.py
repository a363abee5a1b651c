"""`concord agreement`: what moves an agreement through its life, and tells where it stands.

Each command adds events to `ops/agreement_events` of a lake; none changes a file of conf/.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table as Grid

from concord.agreements import access_log, events
from concord.agreements import cedar as cedar_export
from concord.agreements.canonical import canonical, digest
from concord.agreements.commands import (
    AgreementArgument,
    DayOption,
    Known,
    app,
    console,
    days_of,
    load,
)
from concord.agreements.dula import Dula
from concord.agreements.lifecycle import TRANSITIONS, Event, Kind, Version, expiry_warning
from concord.agreements.mou import Mou
from concord.agreements.register import Register, dula_owed, mou_owed
from concord.agreements.rehearsal import Times
from concord.agreements.rehearsal import rehearse as rehearse_all
from concord.agreements.signing import new_key, public_text, read_key, sign
from concord.errors import UsageError
from concord.lake.run import Run, lake_of, real_clock, running
from concord.lake.run import digest as run_digest
from concord.lake.session import start, stop
from concord.options import DEFAULT_SETTINGS, LakeOption, SettingsOption
from concord.privacy import wrapping
from concord.reporting import Reporter

ReasonOption = Annotated[str, typer.Option(help="Why; it is kept with the event.")]


@dataclass(frozen=True)
class Desk:
    """One command under way: conf's agreements, the lake's events, the run that writes."""

    known: Known
    register: Register
    run: Run

    def add(self, *added: Event) -> None:
        events.append(self.run.lake, self.register, added, stamp=self.run.stamp)

    def event(self, about: Dula | Mou, kind: Kind, **more: str) -> Event:
        """Something that happens now to the version that conf holds, or that governs."""
        return Event(
            about.id, about.version, kind, self.run.actor, self.run.clock(), digest(about), **more
        )

    def happened(self, name: str, kind: Kind, reason: str) -> list[Event]:
        """What happens to an agreement happens to each version that it can happen to; what is
        under way of a terminated one is withdrawn. Raises UsageError when it can to none."""
        self.known.terms(name)
        allowed, _ = TRANSITIONS[kind]
        made = [
            self._of(version, kind, reason)
            for version in self.register.versions(name).values()
            if version.state in allowed and (kind != "hold_lifted" or version.legal_hold)
        ]
        if kind == "terminated":
            made += [
                self._of(version, "withdrawn", reason)
                for version in self.register.versions(name).values()
                if version.state in {"in_review", "returned", "approved"}
            ]
        if not made:
            present = self.register.present(name)
            state = present.state if present else "signed by nobody"
            raise UsageError(f"{name} is {state}: it cannot be {kind.replace('_', ' ')} now")
        return made

    def _of(self, version: Version, kind: Kind, reason: str) -> Event:
        return Event(
            version.agreement, version.version, kind, self.run.actor, self.run.clock(),
            version.digest, reason=reason,
        )  # fmt: skip


@app.command()
def request(
    agreement: AgreementArgument,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Ask for the review of the terms as they stand in conf/; approvals of other terms are void."""
    with _writing("request", settings, lake, agreement) as desk:
        terms = desk.known.terms(agreement)
        text = canonical(terms).decode()
        desk.add(desk.event(terms, "requested", terms=text))
        _told(desk, f"{terms.reference} is in review; digest {digest(terms)}")


@app.command()
def review(
    agreement: AgreementArgument,
    approve: Annotated[bool, typer.Option("--approve", help="The terms may be signed.")] = False,
    send_back: Annotated[
        str | None, typer.Option("--return", help="Send it back, and say why.")
    ] = None,
    withdraw: Annotated[str | None, typer.Option(help="Give it up, and say why.")] = None,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Approve an agreement under review, send it back, or withdraw it."""
    if sum([approve, send_back is not None, withdraw is not None]) != 1:
        raise UsageError("say one of --approve, --return REASON, --withdraw REASON")
    kind: Kind = "approved" if approve else "withdrawn" if withdraw is not None else "returned"
    with _writing("review", settings, lake, agreement, kind) as desk:
        terms = desk.known.terms(agreement)
        desk.add(desk.event(terms, kind, reason=send_back or withdraw or ""))
        _told(desk, f"{terms.reference} is {kind}")


@app.command(name="sign")
def sign_terms(
    agreement: AgreementArgument,
    party: Annotated[str, typer.Option(help="Who signs: an owner, a recipient, the hub.")],
    key: Annotated[Path, typer.Option(help="The signer's private key, Ed25519 in PEM.")],
    signer: Annotated[
        str | None, typer.Option(help="The key's name in the registry. Default: the party.")
    ] = None,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Sign the approved terms for a party. A signature covers their digest: any change voids it."""
    with _writing("sign", settings, lake, agreement, party) as desk:
        terms, now = desk.known.terms(agreement), desk.run.clock()
        owed = mou_owed(terms) if isinstance(terms, Mou) else dula_owed(terms)
        if party not in owed:
            raise UsageError(f"{party} is no party of {agreement}; {', '.join(sorted(owed))} are")
        name = signer or party
        made = sign(
            read_key(key), terms.id, party=party, signer=name, digest=owed[party], on=now.date()
        )
        event = desk.event(terms, "signed", party=party, signer=name, signature=made.value)
        desk.add(replace(event, digest=owed[party]))
        _told(desk, f"{terms.reference} is signed by {party}")


@app.command()
def suspend(
    agreement: AgreementArgument,
    reason: ReasonOption,
    resume: Annotated[bool, typer.Option("--resume", help="End the suspension.")] = False,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Suspend an agreement, or resume it: no job reads under it meanwhile, its key is off."""
    _happened(
        "resumed" if resume else "suspended",
        agreement,
        reason,
        settings,
        lake,
        first=_opens if resume else _closes,
    )


def _closes(desk: Desk, agreement: str) -> None:
    """Before it is noted: killed in between, the key is closed and the command can be repeated."""
    if not wrapping.disable(desk.run.settings.keys, agreement):
        desk.run.reporter.say(
            f"{agreement}: keys.provider environment wraps all keys with one and cannot disable "
            "this one; the decision alone refuses (docs/keys.md)"
        )


def _opens(desk: Desk, agreement: str) -> None:
    wrapping.enable(desk.run.settings.keys, agreement)


@app.command()
def terminate(
    agreement: AgreementArgument,
    reason: ReasonOption,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """End an agreement before its term; its data is to be destroyed."""
    _happened("terminated", agreement, reason, settings, lake)


@app.command()
def hold(
    agreement: AgreementArgument,
    reason: ReasonOption,
    lift: Annotated[bool, typer.Option("--lift", help="Lift the hold.")] = False,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Place an agreement under legal hold, or lift it: nothing of it is destroyed meanwhile."""
    _happened("hold_lifted" if lift else "hold_placed", agreement, reason, settings, lake)


@app.command()
def dispute(
    agreement: AgreementArgument,
    reason: ReasonOption,
    settle: Annotated[bool, typer.Option("--settle", help="The dispute is settled.")] = False,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Note that a party disputes an agreement, or that it is settled; it governs meanwhile."""
    _happened("settled" if settle else "disputed", agreement, reason, settings, lake)


@app.command()
def keys(
    party: Annotated[str, typer.Argument(help="Who signs with the key.")],
    out: Annotated[Path, typer.Option(help="File for the private key; it must not be there.")],
    office: Annotated[str, typer.Option(help="The signer's office, not a person.")],
) -> None:
    """Make a signer's key, and print what the registry of signers has to say of it."""
    made = new_key(out)
    console.print(f"# private key in {out}: it stays with the signer. For the registry:")
    console.print(f"{party}:", markup=False)
    today = datetime.now(UTC).date()
    for name, value in (
        ("party", party), ("office", office), ("public_key", public_text(made)),
        ("valid_from", today.isoformat()),
    ):  # fmt: skip
        console.print(f"  {name}: {value}", markup=False)


@app.command()
def rehearse(settings: SettingsOption = DEFAULT_SETTINGS, lake: LakeOption = None) -> None:
    """For development: make keys for all parties and sign what waits for it. Never for real."""
    with _writing("rehearse", settings, lake) as desk:
        signed = rehearse_all(
            desk.run.lake, desk.run.settings, desk.register, lambda _: Times.at(desk.run.clock()),
            stamp=desk.run.stamp,
        )  # fmt: skip
        _told(desk, f"signed: {', '.join(signed)}" if signed else "nothing waits to be signed")


# --- telling -------------------------------------------------------------------------------------


@app.command(name="list")
def list_agreements(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    on: DayOption = None,
) -> None:
    """List all agreements: who shares what with whom, for what, until when, and how they stand."""
    with _reading(settings, lake) as (known, register):
        day = on.date() if on else real_clock().date()
        grid = Grid(title=f"Agreements on {day}", title_justify="left", pad_edge=False)
        for heading in (
            "agreement", "version", "state", "owners", "recipients", "purpose", "uses", "expires",
            "what is to be known",
        ):  # fmt: skip
            grid.add_column(heading, overflow="fold")
        for mou in known.mous.values():
            owners = sorted({term.agency for term in mou.contributions})
            held = {owner: register.held(mou.id, owner, day) for owner in owners}
            waiting = [owner for owner, each in held.items() if each is None or each.problem]
            bound = max((each.mou.version for each in held.values() if each), default=mou.version)
            grid.add_row(
                mou.id, str(bound), "in force" if not waiting else "not for all",
                ", ".join(owners), mou.hub, "", "hold and match", str(mou.expires),
                f"not signed: {', '.join(waiting)}" if waiting else "",
            )  # fmt: skip
        standings = (register.standing(name, day) for name in known.dulas)
        for standing in filter(None, standings):
            dula = standing.terms
            grid.add_row(
                dula.id, str(standing.version), standing.state, ", ".join(dula.owners.agencies),
                ", ".join(party.key for party in dula.recipients.parties), dula.purpose.code,
                ", ".join(dula.uses.allowed), str(dula.term.expires),
                "; ".join(text for text in (standing.problem, standing.notice) if text),
            )  # fmt: skip
        console.print(grid)


@app.command()
def cedar(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    on: DayOption = None,
    schema: Annotated[bool, typer.Option("--schema", help="The schema, as JSON.")] = False,
) -> None:
    """Write the agreements in force as Cedar policies, for engines that speak Cedar."""
    if schema:
        print(json.dumps(cedar_export.SCHEMA, indent=2))
        return
    with _reading(settings, lake) as (_, register):
        print(cedar_export.policies(register, on.date() if on else real_clock().date()))


@app.command()
def calendar(
    settings: SettingsOption = DEFAULT_SETTINGS,
    days: Annotated[int, typer.Option(help="How many days to look ahead.")] = 400,
    on: DayOption = None,
) -> None:
    """Tell what begins, is to be reviewed, expires, is to be destroyed in the days to come."""
    known = load(settings)
    today = on.date() if on else real_clock().date()
    all_terms: list[Dula | Mou] = [*known.mous.values(), *known.dulas.values()]
    coming = sorted(
        (day, what)
        for terms in all_terms
        for day, what in _dates(terms)
        if today <= day <= today + timedelta(days=days)
    )
    grid = Grid(title=f"From {today} on", title_justify="left", pad_edge=False)
    for heading in ("day", "in days", "what"):
        grid.add_column(heading, justify="right" if heading == "in days" else "left")
    for day, what in coming:
        grid.add_row(str(day), str((day - today).days), what)
    console.print(grid)


def _dates(terms: Dula | Mou) -> Iterator[tuple[date, str]]:
    begins, expires = days_of(terms)
    yield begins, f"{terms.id} begins"
    yield expiry_warning(expires), f"{terms.id} has 60 days left: renew it, or plan its end"
    yield expires, f"{terms.id} expires: its last day"
    if isinstance(terms, Mou):
        for term in terms.contributions:
            if terms.ends(term) < expires:
                what = f"{terms.id} clause {term.clause} ends: {term.feed} may not be held after"
                yield terms.ends(term), what
        return
    if terms.term.next_review:
        yield terms.term.next_review, f"{terms.id} is to be reviewed"
    due = expires + timedelta(days=terms.end.destroy_within_days)
    yield due, f"{terms.id}: its data is to be destroyed by this day"
    certificate = due + timedelta(days=terms.end.certificate_within_days)
    yield certificate, f"{terms.id}: {terms.end.certifier} certifies the destruction by this day"


@app.command(name="days")
def days_in_states(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
) -> None:
    """Tell how many days agreements spent in each state, and each agency's from request to signed.

    The office's own measure: it took 133 days on the average before there was a memorandum.
    """
    with _reading(settings, lake) as (known, register):
        today = real_clock().date()
        spent = [
            {"agreement": name, "version": version, "state": s.state, "from": str(s.begins),
             "until": str(s.until), "days": s.days}
            for name in (*known.mous, *known.dulas)
            for version, spells in sorted(register.spells(name, today).items())
            for s in spells
        ]  # fmt: skip
        agencies = {
            agency: {"agreements": len(took), "days": round(sum(took) / len(took), 1)}
            for agency, took in sorted(_to_sign(known, register).items())
        }
    if as_json:
        print(json.dumps({"spells": spent, "agencies": agencies}))
        return
    grid = Grid(title="Days in each state", title_justify="left", pad_edge=False)
    for heading in ("agreement", "version", "state", "from", "until", "days"):
        grid.add_column(heading, justify="right" if heading == "days" else "left")
    for each in spent:
        grid.add_row(*(str(value) for value in each.values()))
    console.print(grid)
    grid = Grid(title="From request to an agency's signature", title_justify="left", pad_edge=False)
    for heading in ("agency", "agreements", "days on the average"):
        grid.add_column(heading, justify="left" if heading == "agency" else "right")
    for agency, of in agencies.items():
        grid.add_row(agency, str(of["agreements"]), str(of["days"]))
    console.print(grid)


def _to_sign(known: Known, register: Register) -> dict[str, list[int]]:
    """By agency, the days that each of its signatures took from the last request before it."""
    found: dict[str, list[int]] = defaultdict(list)
    for name in known.dulas:
        requested: dict[int, date] = {}
        for event in register.events(name):
            if event.kind == "requested":
                requested[event.version] = event.at.date()
            if event.kind == "signed" and event.version in requested:
                found[event.party].append((event.at.date() - requested[event.version]).days)
    return found


# --- how they run --------------------------------------------------------------------------------


def _happened(
    kind: Kind,
    agreement: str,
    reason: str,
    settings: Path,
    lake: str | None,
    *,
    first: Callable[[Desk, str], None] | None = None,
) -> None:
    with _writing(kind, settings, lake, agreement) as desk:
        made = desk.happened(agreement, kind, reason)
        if first is not None:
            first(desk, agreement)
        desk.add(*made)
        versions = ", ".join(str(event.version) for event in made if event.kind == kind)
        _told(desk, f"{agreement} version {versions}: {kind.replace('_', ' ')}")


def _told(desk: Desk, message: str) -> None:
    desk.run.tally.message = message


@contextmanager
def _writing(what: str, settings: Path, lake: str | None, *arguments: str) -> Iterator[Desk]:
    """A run over the agreements' events, from the session to the summary line."""
    known = load(settings, lake)
    reporter = Reporter()
    job, now = f"agreement {what}", real_clock()
    spark = start(known.settings, application=f"concord {job}")
    try:
        with (
            running(
                known.settings,
                job,
                arguments={"of": list(arguments)},
                as_of=now.date(),
                run_id=run_digest(job, arguments, now.isoformat()),
                config_digest=run_digest(*(digest(each) for each in known.dulas.values())),
                dry_run=False,
                reporter=reporter,
                spark=spark,
            ) as run,
            access_log.kept_to_zones(run),
        ):
            register = events.register(run.lake, known.settings, known.mous, known.dulas)
            yield Desk(known, register, run)
        told = {"job": job, "run_id": run.run_id, "exit_code": 0, "message": run.tally.message}
        reporter.summary(told)
    finally:
        stop(spark)


@contextmanager
def _reading(settings: Path, lake: str | None) -> Iterator[tuple[Known, Register]]:
    known = load(settings, lake)
    given = known.settings
    spark = start(given, application="concord agreement")
    try:
        opened = lake_of(given, "agreement", spark)
        yield known, events.register(opened, given, known.mous, known.dulas)
    finally:
        stop(spark)
