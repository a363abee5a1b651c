"""What the command line says of bad input, and that neither it nor Spark's event log tells who."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.conftest import (
    AGREEMENT,
    CLAUSE,
    CONTRACT,
    IDENTIFYING,
    KEY,
    KEY_TEXT,
    NewSite,
    Site,
    person,
    sites,
    write_conf,
)
from tests.feeds import File, Sent, deliver

pytestmark = pytest.mark.pipeline

ROWS = [person(1), person(2), person(3)]
COLUMNS = ("client_id", "name", "born", "town", "amount")


def csv_of(*columns: str, encoding: str = "utf-8", head: bool = True) -> bytes:
    """Three people, `Zoë` among them, with the given columns; others are filled with a letter."""
    rows = [{**row, "name": f"{row['name']} Zoë"} for row in ROWS]
    lines = [",".join(row.get(column, "x") for column in columns) for row in rows]
    return ("\n".join([*([",".join(columns)] if head else []), *lines]) + "\n").encode(encoding)


def damage(sent: Sent, how: Callable[[Path], object]) -> None:
    how(sent.folder / "clients.csv")


def whole(period: str, **changes: object) -> File:
    return File(period, ROWS, name="clients.csv", **changes)  # type: ignore[arg-type]  # File names them


CUT = gzip.compress(csv_of(*COLUMNS) * 200)[:-12]
# By folder: its file, what is done to it afterwards, and what the ledger must say of it.
REJECTED: dict[str, tuple[File, Callable[[Path], object] | None, str]] = {
    "missing_file": (
        whole("2025-02"),
        lambda path: path.unlink(),
        "clients.csv: the manifest names it but it is not in the folder",
    ),
    "wrong_hash": (
        whole("2025-02"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"Lowell", b"Boston")),
        "it changed after the manifest was made: send it again",
    ),
    "truncated_gzip": (
        File("2025-02", name="clients.csv.gz", content=CUT),
        None,
        "the gzip archive is cut short or damaged",
    ),
    "wrong_row_count": (
        whole("2025-02", rows_declared=4),
        None,
        "clients.csv: holds 3 rows, the manifest declares 4",
    ),
    "off_by_a_cent": (
        whole("2025-02", totals={"amount": "6.76"}),
        None,
        "amount adds up to 6.75, the manifest declares 6.76, a difference of -0.01",
    ),
    "wrong_header": (
        whole("2025-02", content=csv_of("client_id", "name", "born", "city", "amount")),
        None,
        "column 'town' of the contract is missing",
    ),
    "wrong_encoding": (
        whole("2025-02", content=csv_of(*COLUMNS, encoding="windows-1252")),
        None,
        "the bytes are not utf-8 text",
    ),
    "extra_columns": (
        whole("2025-02", content=csv_of(*COLUMNS, "colour", "size")),
        None,
        "column 'colour' is not in the contract. To accept it, add",
    ),
}


@dataclass(frozen=True)
class Story:
    """A landing area with everything in it, looked at three times."""

    site: Site
    first: tuple[int, str]
    summary: dict[str, object]
    named: tuple[int, str]
    later: tuple[int, str]
    later_summary: dict[str, object]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, conf: Path) -> Iterator[Story]:
    """Three runs: all of feed `tiny`; the folder without manifest by name; then everything."""
    with sites(tmp_path_factory.mktemp("story"), conf) as make:
        site = make()
        good = [*(person(number) for number in range(10, 16))]
        bad = [
            person(20, amount="much"),
            person(21, born=f"{person(21)['name']} day"),
            person(22, name=person(22)["name"] * 6),
            person(10),
        ]
        deliver(site.landing, 1, File("2025-01", [*good, *bad]), folder="good")
        for sequence, (folder, (file, how, _)) in enumerate(REJECTED.items(), 2):
            sent = deliver(site.landing, sequence, file, folder=folder)
            if how:
                damage(sent, how)
        waiting = deliver(site.landing, 20, whole("2025-03"), folder="no_manifest")
        (waiting.folder / "manifest.json").unlink()
        first = site.ingest("--feed", "tiny")

        named = site.ingest("--feed", "tiny", "--delivery", str(waiting.folder))

        shutil.copytree(site.landing / "tiny" / "good", site.landing / "tiny" / "good_again")
        strict = [person(30), person(31), person(32, amount="much")]
        deliver(site.landing, 1, File("2025-01", strict), feed="strict", folder="too_bad")
        later = site.ingest()
        yield Story(
            site,
            (first.code, first.err),
            first.last,
            (named.code, named.err),
            (later.code, later.err),
            later.last,
        )


def ledger(site: Site) -> dict[str, tuple[list[str], str]]:
    """By folder: the states it went through, and all reasons given."""
    told: dict[str, tuple[list[str], str]] = {}
    for row in site.frame("ops/deliveries").sort("feed", "event").to_dicts():
        states, reasons = told.get(row["folder"], ([], ""))
        told[row["folder"]] = ([*states, row["status"]], reasons + "\n".join(row["reasons"]))
    return told


def test_bad_deliveries_among_good_ones_end_the_run_with_11_and_the_good_are_loaded(
    story: Story,
) -> None:
    code, told = story.first
    assert code == story.summary["exit_code"] == 11
    assert story.summary["deliveries"] == {"loaded": 1, "rejected": len(REJECTED)}
    assert len(story.site.rows("curated/tiny_clients")) == 6
    assert "no_manifest has no manifest yet and waits" in told


@pytest.mark.parametrize("folder", REJECTED)
def test_a_bad_delivery_is_recorded_as_rejected_with_its_reason(story: Story, folder: str) -> None:
    states, reasons = ledger(story.site)[folder]
    assert states == ["rejected"]
    assert REJECTED[folder][2] in reasons
    assert f"{folder}: rejected: " in story.first[1]
    assert REJECTED[folder][2] in story.first[1]


def test_a_folder_without_a_manifest_is_rejected_only_when_it_is_named(story: Story) -> None:
    code, told = story.named
    assert code == 11
    assert "there is no manifest.json beside the files; see docs/deliveries.md" in told
    assert ledger(story.site)["no_manifest"][0] == ["rejected"]


def test_bad_rows_are_quarantined_and_the_rest_is_loaded(story: Story) -> None:
    kept = story.site.frame("vault/quarantine_tiny").sort("row_number")
    rules = [[v["rule"] for v in violations] for violations in kept["violations"].to_list()]
    assert kept["row_number"].to_list() == [7, 8, 9, 10]
    assert rules == [["invalidValues"], ["invalidValues"], ["invalidValues"], ["duplicateValues"]]


def test_too_many_bad_rows_end_the_run_with_12_and_nothing_is_published(story: Story) -> None:
    code, told = story.later
    assert code == story.later_summary["exit_code"] == 12
    assert "1 of 3 rows break the contract, 33.3%; its quarantineLimit is 10.0%" in told
    assert ledger(story.site)["too_bad"][0] == ["rejected"]
    assert not (story.site.lake / "curated" / "strict_clients" / "_delta_log").exists()
    assert len(story.site.rows("vault/quarantine_strict")) == 1


def test_the_same_content_again_is_told_the_version_it_was_loaded_as(story: Story) -> None:
    _, told = story.later
    said = re.search(r"already loaded as version (\d+) of curated/tiny_clients", told)
    assert said, told
    log = story.site.lake / "curated" / "tiny_clients" / "_delta_log" / f"{int(said[1]):020d}.json"
    assert '"add"' in log.read_text(), "the version that brought the rows"
    assert len(story.site.rows("curated/tiny_clients")) == 6
    # What was rejected is told once.
    assert story.later_summary["deliveries"] == {"duplicate": 1, "rejected": 1}


def test_neither_event_log_nor_open_zones_tell_who_or_the_key(story: Story) -> None:
    secrets = [*IDENTIFYING, KEY_TEXT, KEY.hex()]

    def found(*folders: Path) -> set[str]:
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        texts = [path.read_bytes() for path in files]
        sought = [s.encode() for s in [*secrets, "concord ingest", "SparkListenerTaskEnd"]]
        return {word.decode() for word in sought if any(word in text for text in texts)}

    site = story.site
    assert found(site.events) == {"concord ingest", "SparkListenerTaskEnd"}
    assert len(list(site.events.iterdir())) == 3, "a log for each run"
    assert found(site.lake / "ops") & set(secrets) == set()
    assert {*IDENTIFYING} <= found(site.landing), "the search finds what is there"


def test_a_first_row_in_place_of_a_header_is_rejected_without_being_shown(
    new_site: NewSite,
) -> None:
    site = new_site()
    deliver(site.landing, 1, whole("2025-02", content=csv_of(*COLUMNS, head=False)))
    # A run's end fails when its output holds an identifying value.
    done = site.ingest("--feed", "tiny", "--dry-run")
    assert done.code == done.last["exit_code"] == 11
    assert "Is the header missing?" in done.err


# --- before Spark --------------------------------------------------------------------------------


def test_all_mistakes_of_all_files_are_told_at_once_with_their_lines(
    new_site: NewSite, tmp_path: Path
) -> None:
    conf = write_conf(tmp_path / "broken")
    feeds = conf / "feeds"
    (feeds / "tiny.yaml").write_text("id: tiny\nname: [unclosed\nversion: 1.0.0\n")
    text = CONTRACT.format(feed="strict", limit=0.1).replace("calendar", "calender")
    lines = text.splitlines()
    (feeds / "strict.yaml").write_text(text)
    agreement = conf / "agreements" / "MOU-2018-0001.yaml"
    agreement.write_text(AGREEMENT + "    colour: red\n" + CLAUSE.format(feed="strict"))
    site = new_site()
    site.conf = conf

    done = site.ingest()

    assert done.code == done.last["exit_code"] == 10, done.told
    misspelt = 1 + next(i for i, line in enumerate(lines) if "calender" in line)
    assert re.search(r"tiny\.yaml:[23]: not valid YAML", done.err), done.err
    assert f"strict.yaml:{misspelt}: " in done.err
    assert "calender" in done.err
    assert "MOU-2018-0001.yaml:" in done.err
    assert site.untouched


def test_agreements_about_feeds_that_do_not_exist_are_mistakes_of_configuration(
    new_site: NewSite, tmp_path: Path
) -> None:
    conf = write_conf(tmp_path / "unknown")
    agreement = conf / "agreements" / "MOU-2018-0001.yaml"
    before = agreement.read_text()
    agreement.write_text(before + CLAUSE.format(feed="nowhere") + CLAUSE.format(feed="never"))
    site = new_site()
    site.conf = conf

    done = site.ingest()

    assert done.code == done.last["exit_code"] == 10, done.told
    line = before.count("\n") + 3
    for feed, at in (("nowhere", line), ("never", line + CLAUSE.count("\n"))):
        assert f"MOU-2018-0001.yaml:{at}: " in done.err
        assert f"no contract '{feed}' in conf/feeds" in done.err
    assert site.untouched


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ingest", "--delivery", "somewhere"], "--delivery needs exactly one --feed"),
        (["ingest", "--colour", "red"], "No such option"),
        (["swallow"], "No such command"),
        (["ingest", "--as-of", "someday"], "Invalid value"),
    ],
)
def test_a_command_line_that_does_not_fit_ends_with_2(
    new_site: NewSite, arguments: list[str], said: str
) -> None:
    site = new_site()
    done = site.start(*arguments).ended()
    assert done.code == 2
    assert said in done.err
    assert site.untouched


def test_a_feed_that_does_not_exist_ends_with_2_and_the_feeds_that_do(new_site: NewSite) -> None:
    site = new_site()
    done = site.ingest("--feed", "nowhere")
    assert done.code == 2
    assert "there is no feed 'nowhere'; conf/feeds has strict, tiny" in done.err
