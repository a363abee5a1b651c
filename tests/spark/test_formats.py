"""Each format's own ways to go wrong, in one landing area: what is told, and what is loaded."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pytest
from openpyxl import Workbook
from pyspark.sql import SparkSession

from concord.contracts.model import Excel, FixedWidth, Format, JsonLines, RecordLayout, Table, Xml
from concord.ingest.delivery import Outcome
from tests import feeds
from tests.conftest import test_settings
from tests.feeds import File, client, deliver
from tests.spark.conftest import Office

NAMES = ("client_id", "name", "born", "town", "amount")
WIDTHS = {"client_id": (2, 5), "name": (7, 20), "born": (27, 10), "town": (37, 10)}
WIDTHS["amount"] = (47, 9)
LENGTH = 55
ROWS = [client(1), client(2)]  # 1.25 and 2.25

FIXED = FixedWidth(
    kind="fixed_width",
    record_length=LENGTH,
    detail_prefix="D",
    trailer=RecordLayout(prefix="T", rows=(2, 6), totals={"amount": (8, 10)}),
)
JSON = JsonLines(kind="json_lines")
XML = Xml(kind="xml", row_tag="client")
EXCEL = Excel(kind="excel", sheet="Clients")


def table(format: Format) -> Table:
    """The clients of `feeds.people_table`, delivered in another format."""
    plain = feeds.people_table(format=format)
    if not isinstance(format, FixedWidth):
        return plain
    placed = []
    for field in plain.fields:
        cents = {"implied_decimals": 2} if field.name == "amount" else {}
        placed.append(field.model_copy(update={"position": WIDTHS[field.name], **cents}))
    return plain.model_copy(update={"fields": tuple(placed)})


def fixed(
    rows: list[dict[str, str]], *, count: int = 2, cents: int = 350, trailers: int = 1
) -> bytes:
    lines = []
    for row in rows:
        values = {**row, "amount": row["amount"].replace(".", "")}
        lines.append("D" + "".join(values[name].ljust(WIDTHS[name][1]) for name in NAMES))
    lines += [f"T{count:06d}{cents:010d}"] * trailers
    return ("\n".join(lines) + "\n").encode()


def jsons(*rows: Mapping[str, object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def xml(rows: list[dict[str, str]], extra: str = "") -> bytes:
    people = "".join(
        "<client>" + "".join(f"<{n}>{row[n]}</{n}>" for n in NAMES) + extra + "</client>"
        for row in rows
    )
    return f"<clients>{people}</clients>".encode()


def excel(*, merge: bool = False, second_sheet: bool = False, name: str = "Clients") -> bytes:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = name
    sheet.append(list(NAMES))
    for row in ROWS:
        sheet.append([row[name] for name in NAMES])
    if merge:
        sheet.merge_cells("D2:D3")
    if second_sheet:
        book.create_sheet("More").append(["x"])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


GOOD: dict[str, tuple[Format, str, bytes]] = {
    "fixed_good": (FIXED, "clients.txt", fixed(ROWS)),
    "json_good": (JSON, "clients.jsonl", jsons(*ROWS)),
    "xml_good": (XML, "clients.xml", xml(ROWS)),
    "excel_good": (EXCEL, "clients.xlsx", excel()),
}
REJECTED: dict[str, tuple[Format, str, bytes, str]] = {
    "fixed_count": (
        FIXED,
        "clients.txt",
        fixed(ROWS, count=3),
        "trailer record counts 000003 rows",
    ),
    "fixed_total": (FIXED, "clients.txt", fixed(ROWS, cents=351), "totals amount to 3.51"),
    "fixed_without": (FIXED, "clients.txt", fixed(ROWS, trailers=0), "has 0 trailer records"),
    "fixed_twice": (FIXED, "clients.txt", fixed(ROWS, trailers=2), "has 2 trailer records"),
    "json_drift": (
        JSON,
        "clients.jsonl",
        jsons(ROWS[0], {**ROWS[1], "colour": "red"}),
        "column 'colour' is not in the contract. To accept it, add a property",
    ),
    "xml_drift": (
        XML,
        "clients.xml",
        xml(ROWS, "<colour>red</colour>"),
        "column 'colour' is not in the contract",
    ),
    "excel_merged": (EXCEL, "clients.xlsx", excel(merge=True), "has merged cells"),
    "excel_sheets": (EXCEL, "clients.xlsx", excel(second_sheet=True), "has further sheets"),
    "excel_name": (EXCEL, "clients.xlsx", excel(name="Other"), "has no sheet 'Clients'"),
    "excel_broken": (EXCEL, "clients.xlsx", excel()[:200], "is not a readable Excel workbook"),
}
# What is wrong with one row only.
QUARANTINED: dict[str, tuple[Format, str, bytes]] = {
    "fixed_short_line": (
        FIXED,
        "clients.txt",
        fixed(ROWS, cents=225).replace(b"Lowell    1", b"Lowell1"),
    ),
    "json_cut": (JSON, "clients.jsonl", jsons(ROWS[1]) + b'{"client_id": "C0001", "na\n'),
}


@pytest.fixture(scope="module")
def told(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of each delivery; every one is a feed of its own."""
    office = Office(spark, test_settings(tmp_path_factory.mktemp("formats")), {})
    for name, (format, file, content, *_) in {**GOOD, **REJECTED, **QUARANTINED}.items():
        office.contracts[name] = feeds.contract(table(format), feed=name)
        # what can be read of a broken row is nothing: the other row's amount
        totals = {"amount": "2.25"} if name in QUARANTINED else None
        sent = File("2025-05", ROWS, name=file, content=content, totals=totals)
        deliver(office.landing, 1, sent, feed=name)
    return {outcome.feed: outcome for outcome in office.ingest()}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_of_each_format_are_loaded(told: dict[str, Outcome], name: str) -> None:
    assert (told[name].status, told[name].rows, told[name].quarantined) == ("loaded", 2, 0)


@pytest.mark.parametrize("name", REJECTED)
def test_a_file_that_is_not_what_the_contract_says_is_rejected(
    told: dict[str, Outcome], name: str
) -> None:
    outcome = told[name]
    assert (outcome.status, outcome.exit_code) == ("rejected", 11), outcome.message
    assert REJECTED[name][3] in outcome.message
    assert "Person Number" not in outcome.message


@pytest.mark.parametrize("name", QUARANTINED)
def test_a_row_that_does_not_fit_its_format_is_kept_out_alone(
    told: dict[str, Outcome], name: str
) -> None:
    outcome = told[name]
    assert (outcome.status, outcome.quarantined) == ("loaded", 1), outcome.message
    assert [violation.rule for violation in outcome.violations] == ["malformed"]
