"""Drafts: what is recognised in a sample, and that no value of it gets into the contract."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concord.contracts import model
from concord.contracts.draft import draft
from concord.contracts.odcs import load_contract
from concord.errors import ConfigError, UsageError

Row = dict[str, Any]


def people(count: int = 200) -> list[Row]:
    chance = random.Random(7)
    first = ["José", "Zoë", "Maria", "Ann", "Li", "Omar", "Eve", "Dmitri"]
    last = ["García", "Smith", "O'Brien", "Nguyen", "Silva", "de la Cruz"]
    return [
        {
            "caseId": f"C{number:05d}",
            "childFirstName": chance.choice(first),
            "childLastName": chance.choice(last),
            "childDOB": (date(2016, 1, 1) + timedelta(chance.randrange(3000))).strftime("%m/%d/%Y"),
            "parentFirstName": chance.choice(first),
            "parentEmail": f"p{number}@example.org",
            "parentSSN": f"{chance.randrange(100, 660)}-{chance.randrange(10, 99)}-{number:04d}",
            "Cell Phone": f"617-555-{number:04d}",
            "streetAddress": f"{number} Main Street",
            "ZIP": f"0{2100 + number % 50}",
            "contactPoint": f"x{number}@example.org",
            "caretaker": chance.choice(last),
            "programme": chance.choice(["EI", "WIC"]),
            "office": chance.choice(["N/A", "Boston", "Lynn"]),
            "active": chance.choice("YN"),
            "benefit": f"{chance.random() * 900:.2f}",
            "visits": chance.randrange(30),
            "closedOn": "" if number % 3 else "2025-01-31",
        }
        for number in range(1, count + 1)
    ]


def as_csv(rows: list[Row], encoding: str = "utf-8", delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def as_excel(rows: list[Row]) -> bytes:
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.title = "Data"
    sheet.append(["A report"])
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append(list(row.values()))
    data = io.BytesIO()
    workbook.save(data)
    return data.getvalue()


def as_parquet(rows: list[Row]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), data)
    return data.getvalue()


def as_xml(rows: list[Row]) -> bytes:
    body = "".join(
        "<row>" + "".join(f"<{k.replace(' ', '_')}>{v}</{k.replace(' ', '_')}>"
                          for k, v in row.items()) + "</row>"
        for row in rows
    )  # fmt: skip
    return f"<file><made>2025</made><rows>{body}</rows></file>".encode()


FILES: dict[str, tuple[Callable[[list[Row]], bytes], dict[str, Any]]] = {
    "csv": (as_csv, {"kind": "csv"}),
    "cp1252": (lambda r: as_csv(r, "cp1252"), {"encoding": "windows-1252"}),
    "pipes": (lambda r: as_csv(r, delimiter="|"), {"delimiter": "|"}),
    "gzip": (lambda r: gzip.compress(as_csv(r)), {"kind": "csv"}),
    "jsonl": (lambda r: "\n".join(json.dumps(x) for x in r).encode(), {"kind": "json_lines"}),
    "xml": (as_xml, {"kind": "xml", "row_tag": "row"}),
    "excel": (as_excel, {"kind": "excel", "sheet": "Data", "header_row": 2}),
    "parquet": (as_parquet, {"kind": "parquet"}),
}


def drafted(conf: Path, data: bytes, feed: str = "dua_children") -> tuple[str, model.Contract]:
    sample = conf / "sample.bin"
    sample.write_bytes(data)
    text = draft(sample, feed).text
    path = conf / "feeds" / f"{feed}.yaml"
    path.write_text(text, encoding="utf-8")
    return text, load_contract(path)


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_is_recognised_by_its_content(kind: str, conf: Path) -> None:
    write, expected = FILES[kind]
    _, contract = drafted(conf, write(people()))
    (table,) = contract.tables
    assert (contract.agency, table.name) == ("dua", "children")
    assert expected.items() <= table.format.model_dump().items()
    assert table.key == ("case_id",)
    types = {f.name: f.type for f in table.fields}
    assert types["visits"] in ("int", "bigint")
    assert types["child_dob"] == "date"
    assert {s.role for s in table.subjects} >= {"child", "parent"}


def test_types_codes_and_formats_are_guessed(conf: Path) -> None:
    text, contract = drafted(conf, as_csv(people()))
    table = contract.tables[0]
    assert table.field("child_dob").date_formats == ("MM/dd/yyyy",)
    assert table.field("active").booleans == {"Y": True, "N": False}
    assert table.field("benefit").type.startswith("decimal(")
    assert table.field("programme").allowed == ("EI", "WIC")
    assert table.format.null_values == ("", "N/A")
    assert not table.field("closed_on").required
    assert table.field("closed_on").type == "date"
    assert table.field("cell_phone").source == "Cell Phone"
    assert text.count("# review:") > 20


def test_identifiers_are_found_by_name_and_by_shape(conf: Path) -> None:
    _, contract = drafted(conf, as_csv(people()))
    table = contract.tables[0]
    roles = {f.name: f.identifier_role for f in table.fields}
    direct = {name for name, role in roles.items() if role == "direct"}
    assert direct == {
        "child_first_name", "child_last_name", "child_dob", "parent_first_name", "parent_email",
        "parent_ssn", "cell_phone", "street_address", "contact_point", "caretaker",
    }  # fmt: skip
    assert roles["zip"] == "quasi"
    subjects = {subject.role: subject for subject in table.subjects}
    assert subjects["child"].identifiers == {
        "given_name": "child_first_name",
        "family_name": "child_last_name",
        "birth_date": "child_dob",
    }
    assert subjects["parent"].key == ("parent_ssn",)


@pytest.mark.parametrize("kind", FILES)
def test_no_identifying_value_enters_the_draft(kind: str, conf: Path) -> None:
    rows = people()
    text, _ = drafted(conf, FILES[kind][0](rows))
    for row in rows:
        for name in ("childFirstName", "childLastName", "childDOB", "parentSSN", "Cell Phone",
                     "streetAddress", "contactPoint", "parentEmail", "caretaker"):  # fmt: skip
            if len(row[name]) > 3:
                assert row[name] not in text, name


@pytest.mark.parametrize("columns", [None, ["childFirstName", "caretaker", "programme"]])
def test_a_file_without_a_header_gives_no_value_as_a_name(
    columns: list[str] | None, conf: Path
) -> None:
    rows = [{**row, "childFirstName": "Maria", "caretaker": "Smith"} for row in people()]
    lines = [",".join(str(row[name]) for name in columns or row) for row in rows]
    text, contract = drafted(conf, "\n".join(lines).encode())
    assert contract.tables[0].fields[0].name == "column_1"
    assert "p1@example.org" not in text
    assert "Maria" not in text
    assert "Smith" not in text
    assert "deliveries need a header line" in text


def test_fixed_width_gets_a_ruler_draft(conf: Path) -> None:
    lines = ["H20250101".ljust(30)]
    for row in people(40):
        ssn = row["parentSSN"].replace("-", "")
        lines.append(f"D{ssn} {row['visits']:06d} {row['programme']:3}".ljust(30))
    lines.append("T000040".ljust(30))
    text, contract = drafted(conf, "\n".join(lines).encode())
    table = contract.tables[0]
    assert isinstance(table.format, model.FixedWidth)
    assert (table.format.record_length, table.format.detail_prefix) == (30, "D")
    assert [f.position for f in table.fields] == [(2, 9), (12, 6), (19, 3)]
    # What has no name may hold anything, so it is never handed out as harmless.
    assert [f.identifier_role for f in table.fields] == ["direct", "sensitive", "sensitive"]
    assert "record layout" in text


def test_an_ssn_inside_a_merged_field_is_direct(conf: Path) -> None:
    lines = ["H20250101".ljust(40)]
    for n, row in enumerate(people(40)):
        ssn = row["parentSSN"].replace("-", "")
        lines.append(f"D{row['visits']:06d}{ssn}{n:05d} {n % 3}".ljust(40))
    lines.append("T000040".ljust(40))
    text, contract = drafted(conf, "\n".join(lines).encode())
    merged, last = contract.tables[0].fields
    assert (merged.position, merged.identifier_role) == ((2, 20), "direct")
    assert "may hold an SSN among others" in text
    assert last.identifier_role == "sensitive"


@pytest.mark.parametrize(
    ("ends", "prefix"),
    [
        (("H20250101", "T000040"), "D"),
        (("HDR2025", "TRL0040"), "DAL"),
        (("DALAY 1", "DALZY 9"), ""),
        (("2025-01-01", "40"), ""),
    ],
    ids=["one letter", "three letters", "no header", "no letters"],
)
def test_letters_that_names_share_are_no_record_type(
    ends: tuple[str, str], prefix: str, conf: Path
) -> None:
    names = [f"DAL{chr(65 + n % 26)}Y {n:04d}" for n in range(40)]
    lines = [line.ljust(20) for line in (ends[0], *names, ends[1])]
    _, contract = drafted(conf, "\n".join(lines).encode())
    form = contract.tables[0].format
    assert isinstance(form, model.FixedWidth)
    assert form.detail_prefix == prefix


def visits(*columns: str) -> list[Row]:
    """Three visits in each of two places for each of two people, on one of two days each."""
    rows = [
        {
            "SSN": f"123-45-678{person}",
            "lastName": ("Smith", "García")[person],
            "officeNo": str(office),
            "day": f"2025-01-0{day}",
            "turn": str(turn),
        }
        for person in range(2)
        for office in range(2)
        for day, turn in ((1, 1), (1, 2), (2, 1))
    ]
    return [{name: row[name] for name in columns or row} for row in rows]


def test_one_column_that_never_repeats_is_the_key(conf: Path) -> None:
    rows = [{"SSN": f"123-45-{n + 1000}", "at": n % 4, "entry": f"e{n}"} for n in range(12)]
    text, contract = drafted(conf, as_csv(rows))
    assert contract.tables[0].key == ("entry",)
    assert "a guess" not in text


def test_several_columns_that_never_repeat_together_are_a_key_to_review(conf: Path) -> None:
    rows = [row for row in visits() if row["turn"] == "1"]  # an office sees one of them once a day
    text, contract = drafted(conf, as_csv(rows))
    assert contract.tables[0].key == ("office_no", "ssn", "day")
    guess = "# review: a guess: no row of the sample repeats office_no, ssn, day together"
    assert text.count(guess) == 3
    two = [row for row in rows if row["day"] == "2025-01-01"]
    assert drafted(conf, as_csv(two))[1].tables[0].key == ("office_no", "ssn")


def test_names_and_addresses_are_in_a_key_only_when_nothing_else_tells_rows_apart(
    conf: Path,
) -> None:
    rows = [{**row, "streetAddress": f"{n} Main Street"} for n, row in enumerate(visits())]
    rows = [row for row in rows if row["turn"] == "1"]
    assert "street_address" not in drafted(conf, as_csv(rows))[1].tables[0].key
    for row in rows:
        row["day"] = "2025-01-01"
    text, contract = drafted(conf, as_csv(rows))
    assert contract.tables[0].key == ("street_address",)
    assert "is each row another person?" in text


def test_a_guessed_key_without_a_number_is_not_a_persons_key(conf: Path) -> None:
    rows = [{"lastName": f"Smith{n % 3}", "a": f"a{n % 4}", "b": f"b{n // 4}"} for n in range(12)]
    (table,) = drafted(conf, as_csv(rows))[1].tables
    assert table.key == ("a", "b")
    assert [subject.key for subject in table.subjects] == [("last_name",)]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([*visits(), *visits()[:4]], "repeat another in every column: 4 of 16"),
        (visits("SSN", "lastName", "day"), "repeat another in every column: 8 of 12"),
        (
            [{**row, "turn": "" if row["turn"] == "1" else "2"} for row in visits()],
            "no one, two or three columns without empty values tell the sample's rows apart",
        ),
        (visits()[:1], "the sample has one row"),
    ],
)
def test_without_a_key_nobody_is_written_to_the_vault_and_no_direct_column_is_published(
    rows: list[Row], why: str, conf: Path
) -> None:
    sample = conf / "sample.csv"
    sample.write_bytes(as_csv(rows))
    made = draft(sample, "dua_visits")
    assert made.warning is not None
    assert why in made.warning
    assert why in made.text
    _, contract = drafted(conf, as_csv(rows))
    (table,) = contract.tables
    assert (table.key, table.policy) == ((), "full_refresh")
    assert [(s.role, s.kind, s.identifiers) for s in table.subjects] == [
        ("stand_in", "entity", None)
    ]
    assert set(table.subjects[0].key) == {
        f.name for f in table.fields if f.identifier_role == "direct"
    }


def test_a_draft_without_a_key_is_completed_as_its_comment_says(conf: Path) -> None:
    text, _ = drafted(conf, as_csv([*visits(), *visits()[:1]]))
    start = text.index("          - role: stand_in")
    end = text.index("          # - role: person")
    text = text[:start] + text[end:].replace("          # ", "          ")
    path = conf / "feeds" / "dua_children.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="mark its primary key"):
        load_contract(path)
    for column in ("ssn", "turn"):
        name = f"      - name: {column}"
        at = text.index("        logicalType", text.index(name))
        text = text[:at] + "        primaryKey: true\n" + text[at:]
    path.write_text(text)
    (table,) = load_contract(path).tables
    assert table.key == ("ssn", "turn")
    (person,) = table.subjects
    assert (person.role, person.key) == ("person", ("ssn",))
    assert person.identifiers == {"ssn": "ssn", "family_name": "last_name"}


def test_a_role_leaves_its_record_id_to_a_column_of_that_name(conf: Path) -> None:
    rows = [{"childLastName": f"S{n}", "child_record_id": f"r{n}"} for n in range(12)]
    _, contract = drafted(conf, as_csv(rows))
    assert [subject.role for subject in contract.tables[0].subjects] == ["child_2"]


def test_columns_named_like_other_words_of_yaml_keep_their_names(conf: Path) -> None:
    rows = [{"TRUE": f"a{n}", "No": n % 3, "null": n % 2, "y": "x"} for n in range(6)]
    _, contract = drafted(conf, as_csv(rows))
    assert [f.name for f in contract.tables[0].fields] == ["true", "no", "null", "y"]


def test_quoted_newlines_are_noticed(conf: Path) -> None:
    rows = [{"id": str(n), "note": "two\nlines" if n % 2 else "one"} for n in range(30)]
    _, contract = drafted(conf, as_csv(rows))
    form = contract.tables[0].format
    assert isinstance(form, model.Csv)
    assert form.quoted_newlines


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"a,b\n", "delimited"),
        (gzip.compress(b"a,b\n1,2\n" * 1000, mtime=0)[:40], "damaged"),
        (b"<a><b>", "not well-formed"),
        (b'{"a": 1}\n{"a": ', ":2: not JSON Lines"),
        (b"PK\x03\x04nothing", "not a workbook"),
        (b"PAR1nothing", "not readable as Parquet"),
        (b"one line\nand another, longer\nand the last of them, with\n", "by hand"),
    ],
)
def test_what_cannot_be_drafted_is_a_usage_error(data: bytes, words: str, conf: Path) -> None:
    sample = conf / "sample"
    sample.write_bytes(data)
    with pytest.raises(UsageError, match=words):
        draft(sample, "dua_x")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    header=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12),
        min_size=2, max_size=6,
    ),
    cells=st.lists(
        st.sampled_from(["", "0", "01", "2025-01-01", "13/31/2025", "Y", "x", "1.5", "-3",
                         "123-45-6789", "a@b.org", "NULL", "é", "2025-02-30", "9" * 25]),
        min_size=2, max_size=40,
    ),
    times=st.integers(1, 2),
)  # fmt: skip
def test_whatever_the_columns_the_draft_loads(
    header: list[str], cells: list[str], times: int, conf: Path
) -> None:
    width = len(header)
    rows = [cells[i : i + width] for i in range(0, len(cells) - width + 1, width)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows * times])
    sample = conf / "sample.csv"
    sample.write_bytes(text.getvalue().encode())
    try:
        written = draft(sample, "dua_x").text
    except UsageError:
        return
    path = conf / "feeds" / "dua_x.yaml"
    path.write_text(written, encoding="utf-8")
    load_contract(path)
