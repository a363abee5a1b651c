"""Reading DULA files: every mistake is told, with its line; the deployment's own are good."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from concord.agreements.agencies import Agencies, load_agencies
from concord.agreements.canonical import digest
from concord.agreements.commands import app
from concord.agreements.dula import Dula
from concord.agreements.loading import load_dula, load_dulas
from concord.agreements.mou import load_mous
from concord.cli import exit_code_of
from concord.contracts.odcs import load_contracts
from concord.errors import ConfigError
from tests.agreed import contracts, document, mou, outreach

ROOT = Path(__file__).resolve().parents[3]
AGENCIES = Agencies.model_validate(
    {
        "hub": "office",
        "secretariats": {"s": "S"},
        "agencies": {
            key: {"name": key, "secretariat": "s", "mou_since": "2018-01-01", "coordinator": "c"}
            for key in ("dta", "dua", "lab", "office", "late")
        },
    }
)


def load(folder: Path, values: dict[str, Any]) -> Dula:
    text = StringIO()
    YAML().dump(values, text)
    path = folder / f"{values['id']}.yaml"
    path.write_text(re.sub(r"'(\d{4}-\d\d-\d\d)'", r"\1", text.getvalue()))
    return load_dula(path, agencies=AGENCIES, mous={"MOU-2018-0001": mou()}, contracts=contracts())


def test_a_good_agreement_is_read(tmp_path: Path) -> None:
    read = load(tmp_path, document())
    assert read.tables == ("help.forms", "help.members", "work.wages")
    assert read == load(tmp_path, document())
    assert load(tmp_path, outreach()).uses.returned_under_own_ids


def at(values: dict[str, Any], *steps: Any) -> Any:
    for step in steps:
        values = values[step]
    return values


ONLY: dict[str, Any] = {"clause": "13", "table": "help.members"}
Change = Callable[[dict[str, Any]], Any]
FORMS, MEMBERS, WAGES = ("datasets", 0), ("datasets", 1), ("datasets", 2)
MISTAKES: dict[str, tuple[Change, str, str]] = {
    "an unknown key": (lambda d: d.update(prupose=1), "prupose", "unknown key"),
    "a missing clause": (lambda d: d["term"].pop("clause"), "term", "'clause' is missing"),
    "a purpose of no list": (lambda d: d["purpose"].update(code="fun"), "purpose.code", "Input"),
    "a column without a reason": (
        lambda d: at(d, *FORMS, "columns")[1].pop("why"),
        "datasets[0].columns[1]",
        "'why' is missing",
    ),
    "a draft's empty place": (
        lambda d: d["purpose"].update(text="TO BE SAID"),
        "purpose.text",
        "a draft's place for your words",
    ),
    "nobody to work with it": (lambda d: d["people"].update(roles=[]), "people", "nobody may work"),
    "an agent of nobody": (
        lambda d: d["recipients"].update(agents=[{"name": "n", "works_for": "x", "what": "w"}]),
        "recipients.agents[0].works_for",
        "is no recipient",
    ),
    "a law of another agency": (
        lambda d: at(d, "legal_basis", "authorities", 0).update(owner="lab"),
        "legal_basis.authorities[0].owner",
        "is not among the owners",
    ),
    "a column that the contract calls otherwise": (
        lambda d: at(d, *MEMBERS, "columns", 0).update(classification="internal"),
        "datasets[1].columns[0].classification",
        "the contract says 'restricted'",
    ),
    "matching by a field that is not there": (
        lambda d: d.update(matching_only=[ONLY | {"elements": ["name", "shoe_size"]}]),
        "matching_only[0].elements[1]",
        "has no field 'shoe_size'",
    ),
    "for matching only, and released": (
        lambda d: d.update(matching_only=[ONLY | {"elements": ["name", "race"]}]),
        "matching_only[0].elements[1]",
        "but clause 5.2 releases it",
    ),
    "an MOU that is not there": (
        lambda d: d.update(mou="MOU-2020-0001"),
        "mou",
        "there is no 'MOU-2020-0001'",
    ),
    "an end after the MOU's": (
        lambda d: d["term"].update(expires="2033-01-01"),
        "term",
        "in force from",
    ),
    "an end before the beginning": (
        lambda d: d["term"].update(expires="2025-01-01"),
        "term.expires",
        "is before effective",
    ),
    "an owner who did not sign": (
        lambda d: d["owners"]["agencies"].append("late"),
        "owners.agencies[2]",
        "has not signed",
    ),
    "a recipient who did not sign": (
        lambda d: at(d, "recipients", "parties", 0).update(key="late"),
        "recipients.parties[0].key",
        "has not signed",
    ),
    "an office that nobody knows": (
        lambda d: at(d, "recipients", "parties", 0).update(key="nobody"),
        "recipients.parties[0].key",
        "no agency",
    ),
    "a table that is not there": (
        lambda d: at(d, *FORMS).update(table="help.letters"),
        "datasets[0].table",
        "use one of help.forms, help.members",
    ),
    "another's table": (
        lambda d: at(d, *WAGES).update(owner="dta"),
        "datasets[2].owner",
        "names agency 'dua'",
    ),
    "a direct identifier": (
        lambda d: at(d, *MEMBERS, "columns", 0).update(name="name"),
        "datasets[1].columns[0].name",
        "stays in the vault",
    ),
    "the key of a subject": (
        lambda d: at(d, *MEMBERS, "columns", 0).update(name="client_id"),
        "datasets[1].columns[0].name",
        "is the key of a subject",
    ),
    "a record id": (
        lambda d: at(d, *MEMBERS, "columns", 0).update(name="client_record_id"),
        "datasets[1].columns[0].name",
        "replaced by a pseudonym",
    ),
    "a column that is not there": (
        lambda d: at(d, *MEMBERS, "columns", 0).update(name="rase"),
        "datasets[1].columns[0].name",
        "no column 'rase'",
    ),
    "an agency's number as it is": (
        lambda d: at(d, *FORMS, "columns", 0).update(pseudonym=False),
        "datasets[0].columns[0].pseudonym",
        "two studies could be joined",
    ),
    "a pseudonym of what is no number": (
        lambda d: at(d, *FORMS, "columns", 2).update(pseudonym=True),
        "datasets[0].columns[2].pseudonym",
        "no number",
    ),
    "a filter's value of another type": (
        lambda d: at(d, *FORMS, "rows", 0).update(column="due_on"),
        "datasets[0].rows[0].values[0]",
        "whose type is date",
    ),
    "a filter of an identifier": (
        lambda d: at(d, *FORMS, "rows", 0).update(column="case_id"),
        "datasets[0].rows[0].column",
        "key of a subject",
    ),
    "too many values": (
        lambda d: at(d, *FORMS, "rows", 0).update(operator="at_most", values=["a", "b"]),
        "datasets[0].rows[0].values",
        "takes one value",
    ),
    "people of what may not be linked": (
        lambda d: at(d, "linkages", 0, "tables").remove("work.wages"),
        "datasets[2].people_of",
        "needs a linkage",
    ),
    "a linkage of something else": (
        lambda d: at(d, "linkages", 0, "tables").append("help.letters"),
        "linkages[0].tables[3]",
        "none of the datasets",
    ),
    "two linkages of one table": (
        lambda d: d["linkages"].append(
            {"clause": "6.2", "tables": ["help.forms", "help.members"], "why": "w"}
        ),
        "linkages[1].tables[0]",
        "already in a linkage",
    ),
    "a clause twice": (
        lambda d: d["term"].update(clause="7"),
        "term.clause",
        "given twice",
    ),
    "scores for an evaluation": (
        lambda d: d["uses"].update(allowed=["study", "score"], individual_action=True),
        "uses.allowed",
        "need the purpose service-coordination",
    ),
    "a use without a study": (
        lambda d: d["uses"].update(allowed=["publish"]),
        "uses.allowed",
        "add study",
    ),
    "a purpose that was not contributed": (
        lambda d: d["purpose"].update(code="research"),
        "datasets[0].table",
        "clause 4.1 does not contribute help for research",
    ),
    "an owner of nothing": (
        lambda d: d["owners"]["agencies"].append("office"),
        "owners.agencies",
        "owns none",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_line(mistake: str, tmp_path: Path) -> None:
    change, place, words = MISTAKES[mistake]
    values = document()
    change(values)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, values)
    assert caught.value.exit_code == 10
    told = [problem for problem in caught.value.problems if words in problem]
    assert told, caught.value.problems
    file = tmp_path / f"{values['id']}.yaml"
    assert any(re.match(rf"{re.escape(str(file))}:\d+: {re.escape(place)}: ", p) for p in told)
    line = file.read_text().splitlines()[int(told[0].removeprefix(f"{file}:").split(":")[0]) - 1]
    if not place.endswith("]") and "missing" not in words:
        assert f"{place.rpartition('.')[2]}:" in line


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    values = document(mou="MOU-2020-0001")
    at(values, *MEMBERS, "columns", 0).update(name="ssn")
    values["term"]["expires"] = "2025-01-01"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, values)
    assert len(caught.value.problems) == 3, caught.value.problems


def test_a_model_may_be_used_only_under_agreements_that_exist(tmp_path: Path) -> None:
    (tmp_path / "agreements").mkdir()
    (tmp_path / "agencies.yaml").write_text((ROOT / "conf" / "agencies.yaml").read_text())
    mous = load_mous(ROOT / "conf", load_contracts(ROOT / "conf" / "feeds"))
    text = (ROOT / "conf" / "agreements" / "DULA-2026-0001.yaml").read_text()
    (tmp_path / "agreements" / "DULA-2026-0001.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match="uses.models_usable_under.* no agreement 'DULA-2026-0002'"
    ):
        load_dulas(tmp_path, mous)


def test_the_digest_of_an_agreement_covers_every_term(tmp_path: Path) -> None:
    digests = {digest(load(tmp_path, document()))}
    values = document()
    at(values, *FORMS, "columns", 1)["why"] = "another reason"
    digests.add(digest(load(tmp_path, values)))
    digests.add(digest(load(tmp_path, document(version=2))))
    assert len(digests) == 3


# --- the deployment's own ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own() -> dict[str, Dula]:
    known = load_contracts(ROOT / "conf" / "feeds")
    return load_dulas(ROOT / "conf", load_mous(ROOT / "conf", known), known)


def test_the_deployment_s_agreements_are_good(own: dict[str, Dula]) -> None:
    one, two = own["DULA-2026-0001"], own["DULA-2026-0002"]
    assert one.uses.allowed == ("study", "train", "publish")
    assert two.uses.allowed == ("study", "score")
    assert one.datasets == two.datasets, "the same data"
    assert {party.key for party in two.recipients.parties} == {"dta"}
    agencies = load_agencies(ROOT / "conf" / "agencies.yaml")
    assert {party.key for party in one.recipients.parties} <= set(agencies.agencies)
    limited = {dataset.table for dataset in one.datasets if dataset.people_of}
    assert limited == {"dua_wages.wages", "dua_claims.claims"}, "of SNAP clients, of nobody else"


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = exit_code_of(app, [*arguments, "--settings", str(ROOT / "conf/settings/local.yaml")])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_command_line_shows_and_judges(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run("show", "DULA-2026-0002", capsys=capsys)
    assert code == 0 and "pseudonym)" in said and "only people of" in said
    code, said = run("show", "DULA-2026-0099", capsys=capsys)
    assert code == 2 and "there is no agreement" in said
    good = ("check", "DULA-2026-0001", "--as-of", "2025-07-31")
    assert run(*good, capsys=capsys)[0] == 0
    for more, clause in (
        (("--purpose", "fraud-detection"), "clause 3"),
        (("--use", "score"), "clause 4"),
        (("--column", "dta_snap.cases.case_id"), "clause 5.1"),
        (("--link", "dta_snap.cases,dph_wic.participants"), "clause linkages"),
    ):
        code, said = run(*good, *more, capsys=capsys)
        assert code == 14 and clause in said, (more, said)
    scoring = ("check", "DULA-2026-0002", "--use", "score", "--as-of", "2025-07-31")
    assert run(*scoring, "--model", "DULA-2026-0001", capsys=capsys)[0] == 0
    assert run("check", "DULA-2026-0001", "--use", "read", capsys=capsys)[0] == 2
