"""Writes what pseudopeople's sample population delivers: four feeds, their manifests, the truth.

Run by the environment of infra/real/requirements.txt: `generate.py FOLDER MADE_FROM`. Below FOLDER,
landing/ gets the deliveries, truth/ whose each record is (record source key -> simulant_id) and
made.json, last, the rows that pseudopeople generated and MADE_FROM. Two things are changed on the
way, neither of which touches a value that pseudopeople made noisy: a row gets the number that an
agency would give it, and number, street and box of an address become one line.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pseudopeople

SEED, YEAR = 7, 2020
# What pseudopeople knows and no agency would: who someone is, and where they really live.
TRUTH = ["simulant_id", "household_id"]
READABLE = r"\d+"  # an amount that is a number; the others are typing mistakes

# The fixed-width record of the tax forms: column -> width, in the order of the record.
W2_RECORD = {
    "control_number": 8,
    "tax_form": 4,
    "ssn": 13,
    "first_name": 20,
    "middle_initial": 2,
    "last_name": 30,
    "mailing_address": 60,
    "mailing_unit": 35,
    "mailing_city": 20,
    "mailing_state": 2,
    "mailing_zip": 8,
    "employer_id": 6,
    "employer_name": 100,
    "employer_address": 60,
    "employer_unit": 20,
    "employer_city": 20,
    "employer_state": 2,
    "employer_zip": 8,
    "wages": 10,
}


@dataclass(frozen=True)
class Delivery:
    """One file as its agency sends it, and whose its records are."""

    feed: str
    table: str
    role: str
    name: str
    created_at: str
    content: bytes
    rows: int
    control_totals: dict[str, str]
    truth: pd.DataFrame


def main(folder: Path, made_from: str) -> None:
    """Write every delivery, files first, manifest last, and what was generated."""
    made: dict[str, int] = {}
    for delivery in (census(), social_security(), wic(), taxes()):
        deliver(folder, delivery)
        made[delivery.feed] = delivery.rows
    (folder / "made.json").write_text(json.dumps({"made_from": made_from, "rows": made}) + "\n")


def census() -> Delivery:
    """CSV. Everyone who was counted, in households and elsewhere."""
    people = numbered(pseudopeople.generate_decennial_census(**SAMPLE), "response_id", "C")
    people = one_line(people, "", "address")
    content = people.drop(columns=TRUTH).to_csv(index=False).encode()
    return Delivery(
        "usc_census",
        "persons",
        "respondent",
        "persons.csv",
        f"{YEAR + 1}-04-26T12:00:00Z",
        content,
        len(people),
        {},
        truth(people, people["response_id"]),
    )


def social_security() -> Delivery:
    """JSON Lines, what is not known left out. One event of one holder of a number a line."""
    events = numbered(pseudopeople.generate_social_security(**SAMPLE), "event_id", "S")
    shown = events.drop(columns="simulant_id").astype(object)
    lines = [
        json.dumps({name: value for name, value in row.items() if pd.notna(value)})
        for row in shown.to_dict("records")
    ]
    return Delivery(
        "ssa_numident",
        "events",
        "holder",
        "events.jsonl",
        f"{YEAR + 1}-02-01T06:00:00Z",
        "".join(f"{line}\n" for line in lines).encode(),
        len(events),
        {},
        truth(events, events["ssn"]),
    )


def wic() -> Delivery:
    """Parquet as pandas writes it: texts and, where there are few, categories."""
    people = numbered(
        pseudopeople.generate_women_infants_and_children(**SAMPLE), "participant_id", "P"
    )
    people = one_line(people, "", "address")
    return Delivery(
        "fns_wic",
        "participants",
        "participant",
        "participants.parquet",
        f"{YEAR + 1}-01-15T06:00:00Z",
        people.drop(columns=TRUTH).to_parquet(index=False),
        len(people),
        {},
        truth(people, people["participant_id"]),
    )


def taxes() -> Delivery:
    """Fixed width, with a header and a trailer that tells rows and total wages in cents."""
    forms = numbered(pseudopeople.generate_taxes_w2_and_1099(**SAMPLE), "control_number", "W")
    forms = one_line(forms, "mailing_address_", "mailing_address")
    forms = one_line(forms, "employer_", "employer_address")
    forms = forms.rename(
        columns={
            "mailing_address_unit_number": "mailing_unit",
            "mailing_address_city": "mailing_city",
            "mailing_address_state": "mailing_state",
            "mailing_address_zipcode": "mailing_zip",
            "employer_unit_number": "employer_unit",
            "employer_zipcode": "employer_zip",
        }
    )
    texts = {name: text(forms[name]) for name in W2_RECORD}
    too_long = [name for name, width in W2_RECORD.items() if texts[name].str.len().max() > width]
    if too_long:
        sys.exit(f"generate.py: values of {', '.join(too_long)} do not fit: widen W2_RECORD")
    wages = texts["wages"]
    total = int(wages[wages.str.fullmatch(READABLE)].astype(int).sum())
    length = 1 + sum(W2_RECORD.values())
    details = pd.Series("D", index=forms.index)
    for name, width in W2_RECORD.items():
        details += texts[name].str.ljust(width)
    records = [
        f"H{YEAR}".ljust(length),
        *details,
        f"T{len(forms):09d}{total * 100:016d}".ljust(length),
    ]
    return Delivery(
        "irs_w2",
        "forms",
        "worker",
        "forms.txt",
        f"{YEAR + 1}-03-31T06:00:00Z",
        "".join(f"{record}\n" for record in records).encode(),
        len(forms),
        {"wages": str(total)},
        truth(forms, forms["control_number"]),
    )


SAMPLE: dict[str, Any] = {"seed": SEED, "year": YEAR}


def numbered(rows: pd.DataFrame, column: str, letter: str) -> pd.DataFrame:
    """With the number that the agency gives each row, first."""
    rows = rows.reset_index(drop=True)
    rows.insert(0, column, [f"{letter}{number:06d}" for number in range(1, len(rows) + 1)])
    return rows


def one_line(rows: pd.DataFrame, prefix: str, column: str) -> pd.DataFrame:
    """Number and street, else the box, as one line of an address; NaN when there is neither."""
    parts = [f"{prefix}street_number", f"{prefix}street_name"]
    line = (text(rows[parts[0]]) + " " + text(rows[parts[1]])).str.strip()
    box = f"{prefix}po_box"
    if box in rows:
        line = line.mask(line == "", ("PO Box " + text(rows[box])).where(rows[box].notna(), ""))
        parts.append(box)
    place = rows.columns.get_loc(parts[0])
    rows = rows.drop(columns=parts)
    rows.insert(place, column, line.mask(line == "", None))
    return rows


def text(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), "").astype(str)


def truth(rows: pd.DataFrame, source_key: pd.Series) -> pd.DataFrame:
    """Source key of the record's subject -> simulant_id, a line per subject."""
    pairs = pd.DataFrame({"source_key": source_key, "simulant_id": rows["simulant_id"]})
    return pairs.drop_duplicates()


def deliver(folder: Path, delivery: Delivery) -> None:
    landing = folder / "landing" / delivery.feed / str(YEAR)
    landing.mkdir(parents=True, exist_ok=True)
    (landing / delivery.name).write_bytes(delivery.content)
    answers = folder / "truth"
    answers.mkdir(parents=True, exist_ok=True)
    known = delivery.truth.assign(feed=delivery.feed, role=delivery.role)
    known[["feed", "role", "source_key", "simulant_id"]].to_csv(
        answers / f"{delivery.feed}.csv", index=False
    )
    file = {
        "name": delivery.name,
        "table": delivery.table,
        "period": str(YEAR),
        "sha256": hashlib.sha256(delivery.content).hexdigest(),
        "bytes": len(delivery.content),
        "rows": delivery.rows,
        "control_totals": delivery.control_totals,
    }
    manifest = {
        "feed": delivery.feed,
        "sequence": 1,
        "kind": "delivery",
        "created_at": delivery.created_at,
        "files": [file],
    }
    (landing / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
