"""What a manifest may say, what is told to an agency whose manifest is wrong, and periods."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.contracts.model import Calendar
from concord.errors import DeliveryError
from concord.ingest.manifest import (
    Manifest,
    delivery_id,
    first_day,
    is_period,
    last_day,
    parse,
    signature,
)

FILE = {
    "name": "cases.csv",
    "table": "cases",
    "period": "2025-04",
    "sha256": "AB" * 32,
    "bytes": 12,
    "rows": 3,
    "control_totals": {"benefit_amount": "384201.55"},
}
GOOD = {
    "feed": "dta_snap",
    "sequence": 4,
    "kind": "delivery",
    "created_at": "2025-05-03T06:00:00Z",
    "files": [FILE],
}
HEADER = (
    "feed,sequence,kind,created_at,withdraws,name,table,period,sha256,bytes,rows,control_totals"
)


def parsed(**changes: Any) -> Manifest:
    return parse(json.dumps({**GOOD, **changes}).encode(), "manifest.json")


def reasons(content: bytes, name: str = "manifest.json") -> list[str]:
    with pytest.raises(DeliveryError) as wrong:
        parse(content, name)
    assert wrong.value.exit_code == 11
    return wrong.value.reasons


def wrong(**changes: Any) -> list[str]:
    return reasons(json.dumps({**GOOD, **changes}).encode())


def test_a_json_manifest_says_what_the_agency_wrote() -> None:
    manifest = parsed()

    assert (manifest.feed, manifest.sequence, manifest.kind) == ("dta_snap", 4, "delivery")
    assert manifest.created == datetime(2025, 5, 3, 6, tzinfo=UTC)
    (file,) = manifest.files
    assert (file.bytes, file.rows, file.sha256) == (12, 3, "ab" * 32)
    assert file.control_totals == {"benefit_amount": "384201.55"}
    assert manifest.contents == (("cases", "2025-04"),)


def test_a_csv_side_car_says_the_same_as_json() -> None:
    second = {
        **FILE,
        "name": "people.csv",
        "table": "people",
        "control_totals": {"a": "1", "b": "2"},
    }
    lines = [
        HEADER,
        f"dta_snap,4,delivery,2025-05-03T06:00:00Z,,cases.csv,cases,2025-04,{'ab' * 32},12,3,"
        "benefit_amount=384201.55",
        f"dta_snap,4,delivery,2025-05-03T06:00:00Z,,people.csv,people,2025-04,{'ab' * 32},12,3,"
        "a=1;b=2",
    ]

    assert parse("\r\n".join(lines).encode(), "manifest.csv") == parsed(files=[FILE, second])


def test_a_csv_side_car_can_withdraw() -> None:
    content = f"{HEADER}\ndta_snap,5,withdrawal,2025-05-04T06:00:00Z,4,,,,,,,\n".encode()

    manifest = parse(content, "manifest.csv")

    assert (manifest.kind, manifest.withdraws, manifest.files) == ("withdrawal", 4, ())


@pytest.mark.parametrize("name", ["manifest.json", "manifest.csv"])
def test_a_byte_order_mark_is_no_mistake(name: str) -> None:
    text = json.dumps(GOOD)
    if name.endswith(".csv"):
        text = (
            f"{HEADER}\ndta_snap,4,delivery,2025-05-03T06:00:00Z,,cases.csv,cases,2025-04,"
            f"{'ab' * 32},12,3,benefit_amount=384201.55\n"
        )
    assert parse(b"\xef\xbb\xbf" + text.encode(), name) == parsed()


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose own time zone must not matter."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_time_without_zone_is_taken_as_utc_and_one_with_zone_is_converted(
    far_from_greenwich: None,
) -> None:
    assert parsed(created_at="2025-05-03T06:00:00").created == datetime(2025, 5, 3, 6, tzinfo=UTC)
    east = parsed(created_at="2025-05-03T06:00:00-04:00").created
    assert (east, east.tzinfo) == (datetime(2025, 5, 3, 10, tzinfo=UTC), UTC)


def test_every_mistake_is_named_with_its_place() -> None:
    found = wrong(
        sequence="four",
        colour="blue",
        files=[{**FILE, "sha256": "xyz", "name": "../cases.csv", "control_totals": {"a": "1,5"}}],
    )

    places = {reason.split(": ")[1] for reason in found}
    assert places == {
        "sequence",
        "colour",
        "files[0].sha256",
        "files[0].name",
        "files[0].control_totals",
    }
    assert all(reason.startswith("manifest.json: ") for reason in found)


@pytest.mark.parametrize("name", ["", "a/b.csv", "a\\b.csv", ".hidden", "../up.csv", "/etc/x"])
def test_a_file_outside_its_folder_is_refused(name: str) -> None:
    (reason,) = wrong(files=[{**FILE, "name": name}])
    assert "files[0].name" in reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": []}, "at least one file"),
        ({"files": [FILE, FILE]}, "listed twice"),
        ({"kind": "withdrawal", "files": []}, "withdraws"),
        ({"kind": "withdrawal", "withdraws": 3}, "brings no files"),
        ({"kind": "deletion"}, "kind"),
        ({"created_at": "yesterday"}, "created_at"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes: dict, words: str) -> None:
    (reason,) = wrong(**changes)
    assert words in reason


@pytest.mark.parametrize("missing", ["feed", "sequence", "created_at"])
def test_a_missing_key_is_named(missing: str) -> None:
    content = {key: value for key, value in GOOD.items() if key != missing}
    (reason,) = reasons(json.dumps(content).encode())
    assert missing in reason


CSV_ROW = (
    "dta_snap,4,delivery,2025-05-03T06:00:00Z,,cases.csv,cases,2025-04," + "ab" * 32 + ",12,3,"
)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "manifest.json"),
        (b"{", "manifest.json"),
        (b"[1, 2]", "manifest.json"),
        (b"null", "manifest.json"),
        (b"\xff\xfe\x00", "manifest.json"),
        pytest.param(b"", "manifest.csv"),
        pytest.param(HEADER.encode(), "manifest.csv"),
        (b"feed,sequence\ndta_snap,4\n", "manifest.csv"),
        (f"{HEADER}\n{CSV_ROW.replace(',12,3,', ',many,3,')}\n".encode(), "manifest.csv"),
        (f"{HEADER}\n{CSV_ROW}amount\n".encode(), "manifest.csv"),
        (f"{HEADER}\ndta_snap,4\n".encode(), "manifest.csv"),
        pytest.param(f"{HEADER}\n{CSV_ROW},one,cell,too,many\n".encode(), "manifest.csv"),
        (b"\xff\xfe\x00", "manifest.csv"),
    ],
)
def test_what_is_no_manifest_is_a_delivery_error_and_no_crash(content: bytes, name: str) -> None:
    assert all(reason.startswith(name) for reason in reasons(content, name))


def test_lines_of_a_csv_side_car_that_disagree_are_refused() -> None:
    other = CSV_ROW.replace("dta_snap,4", "dta_snap,5").replace("cases.csv", "more.csv")
    reasons(f"{HEADER}\n{CSV_ROW}\n{other}\n".encode(), "manifest.csv")


@given(st.binary(max_size=60), st.sampled_from(["manifest.json", "manifest.csv"]))
def test_no_bytes_at_all_make_the_parser_crash(content: bytes, name: str) -> None:
    try:
        parse(content, name)
    except DeliveryError as error:
        assert error.reasons


def test_a_delivery_is_known_by_its_content_and_nothing_else() -> None:
    same = delivery_id(parsed(), {"cases.csv": "1", "people.csv": "2"})
    assert same == delivery_id(parsed(), {"people.csv": "2", "cases.csv": "1"})
    assert len(same) == 32
    others = [
        delivery_id(parsed(), {"cases.csv": "1", "people.csv": "3"}),
        delivery_id(parsed(), {"cases.csv": "1"}),
        delivery_id(parsed(sequence=5), {"cases.csv": "1", "people.csv": "2"}),
    ]
    assert len({same, *others}) == 4


def test_a_folder_s_signature_changes_with_any_of_its_files() -> None:
    before = [("a", 1, 100), ("b", 2, 100)]
    same = signature(before)
    assert same == signature(before[::-1])
    changed = [before[:1], [*before, ("c", 0, 0)], [("a", 2, 100), before[1]]]
    assert same not in {signature(entries) for entries in changed}
    assert signature([("a", 1, 101), before[1]]) != same


# --- periods -------------------------------------------------------------------------------------

CALENDARS: tuple[Calendar, ...] = get_args(Calendar)


def period_of(day: date, calendar: Calendar) -> str:
    """The period of the calendar that holds a day, as an agency would write it."""
    year, week, _ = day.isocalendar()
    return {
        "day": day.isoformat(),
        "week": f"{year:04d}-W{week:02d}",
        "month": f"{day.year:04d}-{day.month:02d}",
        "quarter": f"{day.year:04d}-Q{(day.month + 2) // 3}",
        "year": f"{day.year:04d}",
    }[calendar]


days = st.dates(min_value=date(1900, 1, 1), max_value=date(2199, 12, 31))


@given(days, st.sampled_from(CALENDARS))
def test_each_day_is_in_its_period_and_its_neighbours_are_outside_the_ends(
    day: date, calendar: Calendar
) -> None:
    period = period_of(day, calendar)
    first, last = first_day(period), last_day(period)

    assert first <= day <= last
    assert period_of(first, calendar) == period_of(last, calendar) == period
    assert period_of(first - timedelta(days=1), calendar) != period
    assert period_of(last + timedelta(days=1), calendar) != period


@given(days, st.sampled_from(CALENDARS), st.sampled_from(CALENDARS))
def test_a_period_belongs_to_its_own_calendar_only(
    day: date, calendar: Calendar, other: Calendar
) -> None:
    assert is_period(period_of(day, calendar), other) is (calendar == other)


@pytest.mark.parametrize(
    ("text", "calendar"),
    [
        ("2025-02-29", "day"),
        ("2025-04-31", "day"),
        ("2025-4-03", "day"),
        ("2025-13", "month"),
        ("2025-00", "month"),
        ("2025-04\n", "month"),
        ("\u0662\u0660\u0662\u0665-04", "month"),
        ("2025-W53", "week"),
        ("2025-W00", "week"),
        ("2025-Q5", "quarter"),
        ("2025-Q0", "quarter"),
        ("0000", "year"),
        ("25", "year"),
        ("", "year"),
    ],
)
def test_what_is_no_real_period_is_refused(text: str, calendar: Calendar) -> None:
    assert is_period(text, calendar) is False


def test_a_leap_day_and_a_53rd_week_are_real() -> None:
    assert is_period("2024-02-29", "day")
    assert is_period("2026-W53", "week")
    assert first_day("2026-W53") == date(2026, 12, 28)


@given(st.text(max_size=12), st.sampled_from(CALENDARS))
def test_any_text_is_a_period_or_is_not_but_never_a_crash(text: str, calendar: Calendar) -> None:
    if is_period(text, calendar):
        assert first_day(text) <= last_day(text)
