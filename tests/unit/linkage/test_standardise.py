"""The comparable form of what agencies write."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from concord.linkage.standardise import (
    ORIGIN,
    SOURCES,
    STANDARD,
    Standards,
    canonical_names,
    name_parts,
    root,
    standardise,
)

STANDARDS = Standards(
    given=frozenset({"BABY GIRL"}),
    family=frozenset({"UNKNOWN"}),
    birth_dates=frozenset({"1900-01-01"}),
    birth_days=frozenset({"01-01"}),
    ssns=frozenset({"078051120"}),
    emails=frozenset({"none@none.com"}),
    zips=frozenset({"99999"}),
    streets=frozenset({"HOMELESS"}),
    sex=(("F", "F"), ("2", "F"), ("MALE", "M")),
)
LIST = pa.list_(pa.string())
KINDS = {"birth_date": pa.date32(), "phones": LIST, "emails": LIST}


def table(*rows: Mapping[str, Any]) -> pa.Table:
    names = [*ORIGIN, *SOURCES]
    base = {"record_id": "r1", "feed": "f", "role": "client"}
    return pa.table(
        {
            name: pa.array(
                [{**base, **row}.get(name) for row in rows], KINDS.get(name, pa.string())
            )
            for name in names
        }
    )


def one(**values: Any) -> dict[str, Any]:
    (row,) = standardise(table(values), STANDARDS).to_pylist()
    return dict(row)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"given_name": "José María"}, {"given": "JOSE MARIA", "given_root": "JOSE"}),
        ({"given_name": "Bill"}, {"given": "BILL"}),
        ({"given_name": "Baby Girl"}, {"given": None, "given_root": None}),
        ({"given_name": "K"}, {"given": "K", "given_root": None}),
        ({"given_name": " - "}, {"given": None}),
        ({"family_name": "O'Brien-Smith"}, {"family": "OBRIEN SMITH"}),
        ({"family_name": "Ørsted Łukasz"}, {"family": "ORSTED LUKASZ"}),
        ({"family_name": "Smith Jr."}, {"family": "SMITH", "suffix": "JR"}),
        ({"family_name": "Smith", "name_suffix": "III"}, {"family": "SMITH", "suffix": "III"}),
        ({"family_name": "unknown"}, {"family": None}),
        ({"middle_name": "anne marie"}, {"middle": "A"}),
        ({"birth_date": date(1980, 5, 6)}, {"birth": date(1980, 5, 6), "birth_year": "1980"}),
        ({"birth_date": date(1980, 1, 1)}, {"birth": None, "birth_year": "1980"}),
        ({"birth_date": date(1900, 1, 1)}, {"birth": None, "birth_year": None}),
        ({"sex": "2"}, {"sex": "F"}),
        ({"sex": "male "}, {"sex": "M"}),
        ({"sex": "X"}, {"sex": None}),
        ({"ssn": "123-45-6780"}, {"ssn": "123456780", "ssn_last4": "6780"}),
        ({"ssn": "000456780"}, {"ssn": None, "ssn_last4": None}),
        ({"ssn": "666456780"}, {"ssn": None}),
        ({"ssn": "123006780"}, {"ssn": None}),
        ({"ssn": "123450000"}, {"ssn": None}),
        ({"ssn": "555555555"}, {"ssn": None}),
        ({"ssn": "078051120"}, {"ssn": None}),
        ({"ssn": "912701234"}, {"ssn": "912701234"}),
        ({"ssn": "912451234"}, {"ssn": None}),
        ({"ssn": "12345"}, {"ssn": None}),
        ({"ssn_last4": "1234"}, {"ssn": None, "ssn_last4": "1234"}),
        ({"phones": ["+1 (617) 555-0123"]}, {"phone": "6175550123"}),
        ({"phones": ["0000000000"]}, {"phone": None}),
        ({"phones": ["555-0123"]}, {"phone": None}),
        (
            {"emails": ["Ann.Lee+x@GMail.com", " b@x.org"]},
            {"emails": "annlee@gmail.com\x1fb@x.org"},
        ),
        ({"emails": ["a.b@x.org", "A.B+news@x.org"]}, {"emails": "a.b@x.org"}),
        ({"emails": ["ann", "a@b", "@x.org", "+x@y.org", "a b@x.org"]}, {"emails": None}),
        ({"emails": ["none@none.com"]}, {"emails": None}),
        ({"emails": []}, {"emails": None}),
        ({"zip": "02139-1234"}, {"zip": "02139"}),
        ({"zip": "99999"}, {"zip": None}),
        (
            {"address_line1": "12 North Main Street", "address_line2": "Unit # 3"},
            {"street": "12 N MAIN ST APT 3"},
        ),
        ({"address_line1": "Homeless"}, {"street": None}),
        ({"full_name": "Ann Marie Lee"}, {"given": "ANN", "middle": "M", "family": "LEE"}),
        ({"full_name": "Lee, Ann Marie"}, {"given": "ANN", "middle": "M", "family": "LEE"}),
        ({"full_name": "Robert King, Jr."}, {"given": "ROBERT", "family": "KING", "suffix": "JR"}),
    ],
)
def test_a_value_in_comparable_form(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = one(**given)
    assert {name: found[name] for name in wanted} == wanted


def test_a_name_of_one_word_is_a_given_name() -> None:
    assert name_parts("Cher") == ("CHER", None, None)
    assert name_parts("") == (None, None, None)


def test_a_record_has_a_row_for_each_distinct_set_of_values() -> None:
    found = standardise(
        table(
            {"given_name": "Ann", "family_name": "Lee", "zip": "02139"},
            {"given_name": "ANN", "family_name": "lee", "zip": "02139-0001"},
            {"given_name": "Ann", "family_name": "Ray", "former_family_name": "Lee"},
            {"record_id": "r2", "given_name": "Ann", "phones": ["6175550123", "6175550124"]},
        ),
        STANDARDS,
    ).to_pylist()
    rows = [(r["record_id"], r["variant"], r["family"], r["zip"], r["phone"]) for r in found]
    assert rows == [
        ("r1", 0, "LEE", "02139", None),
        ("r1", 1, "LEE", None, None),
        ("r1", 2, "RAY", None, None),
        ("r2", 0, None, None, "6175550123"),
        ("r2", 1, None, None, "6175550124"),
    ]


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [{"given_name": name, "zip": zip_code} for name in "AB" for zip_code in ("02139", None)]
    forward, backward = table(*rows), table(*reversed(rows))
    assert standardise(forward, STANDARDS).equals(standardise(backward, STANDARDS))


def test_no_rows_give_no_rows_of_the_same_columns() -> None:
    empty = standardise(table(), STANDARDS)
    assert empty.num_rows == 0
    assert empty.column_names == [*ORIGIN, "variant", *STANDARD]


def test_nicknames_share_a_canonical_name() -> None:
    assert canonical_names("BOB") & canonical_names("ROBERT")
    assert canonical_names("PEGGY") & canonical_names("MARGARET")
    assert not canonical_names("BOB") & canonical_names("MARGARET")
    assert root("BOB", nicknames=True) == root("ROBERT", nicknames=True) == "ROBERT"
    assert root("BETH", nicknames=False) == "BETH"
