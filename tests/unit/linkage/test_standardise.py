"""The comparable form of what agencies write."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.linkage.person_index import load_person_index
from concord.linkage.standardise import (
    ORIGIN,
    SEPARATOR,
    SOURCES,
    STANDARD,
    Standards,
    canonical_names,
    name_parts,
    root,
    standardise,
)
from tests.conftest import ROOT

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
    ("written", "wanted"),
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
        ({"given_name": "ªnna"}, {"given": "ANNA"}),
        ({"given_name": "James Jr.", "family_name": "King"}, {"given": "JAMES", "suffix": "JR"}),
        ({"given_name": "Junior", "family_name": "Senior"}, {"given": "JUNIOR", "suffix": None}),
        ({"family_name": "Kaʻahumanu"}, {"family": "KAAHUMANU"}),
        ({"family_name": "Ðorsteinsson"}, {"family": "DORSTEINSSON"}),
        (
            {"full_name": "King, Robert Jr."},
            {"given": "ROBERT", "middle": None, "family": "KING", "suffix": "JR"},
        ),
        (
            {"full_name": "Maria Ines de la Cruz"},
            {"given": "MARIA", "middle": "I", "family": "DE LA CRUZ"},
        ),
        ({"full_name": "Jan van der Berg"}, {"middle": None, "family": "VAN DER BERG"}),
        ({"full_name": "Anh Van Nguyen"}, {"middle": "V", "family": "NGUYEN"}),
        ({"full_name": "Al Smith"}, {"given": "AL", "family": "SMITH"}),
        ({"full_name": "Robert King, Jr."}, {"given": "ROBERT", "family": "KING", "suffix": "JR"}),
    ],
)
def test_a_value_in_comparable_form(written: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = one(**written)
    assert {name: found[name] for name in wanted} == wanted


INDEX = load_person_index(ROOT / "conf" / "person_index.yaml").standards
PUNCTUATION = st.sampled_from([" ", " ", "-", ", ", ".", "'", "’", "ʻ", "  "])
WORDS = st.sampled_from(
    ["José", "O'Brien", "de", "la", "van", "der", "St.", "Núñez", "SMITH", "Đặng", "Ðóra", "Straße"]
    + ["Łukasz", "ﬁona", "maria", "Baby", "boy", "A", "X Æ", "雪", "№"]
)
SUFFIX = st.sampled_from(["Jr.", "sr", "III", "2nd", "IV", "Junior"])
NAME = st.text(max_size=6) | st.tuples(
    st.lists(st.tuples(WORDS, PUNCTUATION), max_size=4), st.lists(SUFFIX, max_size=2)
).map(lambda name: "".join(word + sign for word, sign in name[0]) + " ".join(name[1]))
TEXTS: Mapping[str, st.SearchStrategy[Any]] = {
    "full_name": st.none() | NAME,
    "given_name": st.none() | NAME,
    "middle_name": st.none() | NAME,
    "family_name": st.none() | NAME,
    "name_suffix": st.none() | WORDS | SUFFIX,
    "birth_date": st.none() | st.dates(date(1898, 1, 1), date(2026, 1, 1)),
    "sex": st.sampled_from([None, "F", "2", "male ", "X", "m"]),
    "ssn": st.none() | st.from_regex(r"[0-9]{3}-?[0-9]{2}-?[0-9]{4}", fullmatch=True),
    "ssn_last4": st.none() | st.from_regex(r"x{0,5}[0-9]{3,5}", fullmatch=True),
    "phones": st.lists(
        st.from_regex(r"(\+?1[ -])?\(?[0-9]{3}\)? [0-9]{7}", fullmatch=True), max_size=1
    ),
    "emails": st.lists(st.emails(), max_size=2),
    "address_line1": st.none()
    | st.sampled_from(["12 North Main St.", "5 Elm Av # Apt 3", "No. 7"]),
    "address_line2": st.none() | st.sampled_from(["Unit # 3", "Apartment", "#"]),
    "zip": st.none() | st.from_regex(r"[0-9]{5}(-[0-9]{4})?", fullmatch=True),
}


@given(st.fixed_dictionaries(dict(TEXTS)))
def test_what_is_in_comparable_form_stays_as_it_is(row: dict[str, Any]) -> None:
    (found,) = standardise(table(row), INDEX).to_pylist()
    again = {
        "given_name": found["given"],
        "middle_name": found["middle"],
        "family_name": found["family"],
        "name_suffix": found["suffix"],
        "birth_date": found["birth"],
        "phones": [found["phone"]] if found["phone"] else [],
        "emails": found["emails"].split(SEPARATOR) if found["emails"] else [],
        "address_line1": found["street"],
        **{name: found[name] for name in ("sex", "ssn", "ssn_last4", "zip")},
    }
    (same,) = standardise(table(again), INDEX).to_pylist()
    # Neither an order among twins nor a year alone has a column to be read from.
    lost = {"birth_order"} | ({"birth_year"} if found["birth"] is None else set())
    assert {n: v for n, v in same.items() if n not in lost} == {
        n: v for n, v in found.items() if n not in lost
    }


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
