"""Churn in a small Commonwealth: who behaved how against the truth, and what the product counts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord.products import populations
from concord.synthesis import dta_snap, dua_claims, truth
from concord.synthesis.blocks import Block, FeedPart, Rows, make_block
from concord.synthesis.periods import Timeline
from concord_models.churn import definitions, typology
from concord_models.churn.definitions import DEFINITIONS
from concord_models.churn.typology import BEHAVIOURS, UNDETERMINED

pytestmark = pytest.mark.spark

AS_OF = dt.date(2025, 12, 31)
# What a synthetic check-in was made to do, and the class that should be found.
TRUE = {
    "agency_delay": "A_agency",
    "late_engager": "H1_late_engager",
    "life_change": "H3_life_change",
    "unaware": "H2_unaware",
}
DECIMALS = {"benefit_amount", "earned_income", "amount"}
READ = {
    "dta_snap.cases": [
        "month", "status", "benefit_amount", "certification_type", "certification_start",
        "opened_on", "closed_on", "closure_reason", "earned_income", "household_size", "zip",
        "office",
    ],
    "dta_snap.persons": ["month", "disabled"],
    "dta_snap.issuances": ["month", "benefit_month", "issuance_type"],
    "dta_snap.checkins": [
        "checkin_id", "report_month", "kind", "due_on", "form_mailed_on", "form_received_on",
        "interview_on", "proofs_received_on", "decision", "decision_on", "closed_on",
        "closure_reason", "reinstated_on",
    ],
    "dta_snap.contacts": ["contact_on", "contact_kind", "topic"],
    "dta_snap.ebt_events": ["event_on", "event_kind"],
    "dua_claims.claims": ["filed_on"],
}  # fmt: skip


def column(name: str, values: Any) -> pa.Array:
    if name.endswith(("_on", "month", "_start")):
        days = np.ma.filled(values, 0).astype(np.int32)
        hidden = np.ma.getmaskarray(np.ma.asarray(values))
        return pa.array(days, mask=hidden).cast(pa.date32())
    if name in DECIMALS:
        return pa.array(np.asarray(values) / 100)
    return pa.array(np.asarray(values))


def frame(
    spark: SparkSession, rows: Rows, names: list[str], known: np.ndarray, **keys: np.ndarray
) -> DataFrame:
    """A study's table: pseudonyms (here the agencies' own ids), columns, `_known_on`."""
    own = {name: column(name, rows.columns[name]) for name in names}
    found = {**{name: pa.array(values) for name, values in keys.items()}, **own}
    return spark.createDataFrame(
        pa.table({**found, "_known_on": pa.array(known.astype(np.int32)).cast(pa.date32())})
    )


def persons_of(part: FeedPart, block: Block, keys: np.ndarray) -> np.ndarray:
    """Each source key's true person."""
    pids = {
        key: str(block.people.pid[person])
        for subject in part.subjects
        for key, person in zip(subject.source_key, subject.person, strict=True)
        if person >= 0
    }
    return np.array([pids[key] for key in keys], dtype=object)


@pytest.fixture(scope="module")
def commonwealth(spark: SparkSession) -> tuple[dict[str, DataFrame], pd.DataFrame]:
    """The tables of 10,000 people over eighteen months, and each check-in's truth."""
    timeline = Timeline(dt.date(2024, 1, 1), 18)
    block = make_block(11, 0, 10_000, timeline)
    snap, claims = dta_snap.tables(block), dua_claims.tables(block)
    edges = timeline.month_edges(after=1)
    made = {}
    for name, names in READ.items():
        feed, _, table = name.partition(".")
        part = snap if feed == "dta_snap" else claims
        rows = part.tables[table]
        keys = {}
        if feed == "dta_snap":
            keys["study_case_id"] = rows.columns["case_id"]
            known = edges[rows.period + 1] + 2
        else:
            keys["study_person_id"] = persons_of(part, block, rows.columns["ssn"])
            known = np.asarray(rows.columns["filed_on"]) + 40
        if table == "persons":
            keys["study_person_id"] = persons_of(part, block, rows.columns["client_id"])
        made[name] = frame(spark, rows, names, known, **keys)
    paid = [
        pa.table(
            {
                "study_person_id": pa.array(block.people.pid[snap_members].astype(str)),
                "quarter": pa.array([f"{quarter.name[:4]}Q{quarter.name[-1]}"] * len(snap_members)),
                "wages": pa.array(block.work.monthly_cents(quarter.index)[snap_members] * 3 / 100),
                "_known_on": pa.array(
                    np.full(len(snap_members), quarter.last + 135, dtype=np.int32)
                ).cast(pa.date32()),
            }
        )
        for snap_members in [block.snap.members]
        for quarter in timeline.quarters
    ]
    made["dua_wages.wages"] = spark.createDataFrame(pa.concat_tables(paid))
    return made, truth.checkins_table(block).to_pandas()


@pytest.fixture(scope="module")
def exits(commonwealth: Any) -> DataFrame:
    return definitions.exits(commonwealth[0], as_of=AS_OF).cache()


def test_behaviours_are_found_as_well_as_is_published(commonwealth: Any, exits: DataFrame) -> None:
    tables, true = commonwealth
    found = typology.evidence(tables, exits, as_of=AS_OF).toPandas()
    own = found.merge(
        true, left_on=["study_case_id", "due_on"], right_on=["case_id", "due_on"], how="left"
    )
    assert len(own) == len(found) > 250
    latent = own["behaviour"].map(TRUE).to_numpy()
    hard = typology.rule(found)
    seen = typology.indicators(found)
    soft = typology.mixture(seen, hard).probabilities(seen)
    assert soft.sum(axis=1) == pytest.approx(1)
    likely = np.array(BEHAVIOURS)[soft.argmax(axis=1)]
    by_rule, by_mixture = (typology.confusion(latent, own) for own in (hard, likely))
    print(f"{by_rule.to_string()}\n{by_mixture.to_string()}")
    told = hard != UNDETERMINED
    figures = {
        "undetermined": 1 - told.mean(),
        "rule, of the determined": (hard == latent)[told].mean(),
        "mixture": (likely == latent).mean(),
        "agreement": typology.agreement(hard, likely),
    }
    print(len(found), figures)
    # Nothing but paperwork in time and a decision after the end is the agency's; who engaged in the
    # last days is told for sure. A changed life leaves few traces in these files: it is what the
    # rule mostly can not determine, and what it takes the unaware for.
    assert by_rule.loc["A_agency", "A_agency"] == by_rule.loc["A_agency"].sum()
    assert by_rule.loc["H1_late_engager", "H1_late_engager"] == by_rule.loc["H1_late_engager"].sum()
    bands = {
        "undetermined": (0.15, 0.30), "rule, of the determined": (0.86, 0.97),
        "mixture": (0.80, 0.95), "agreement": (0.85, 1),
    }  # fmt: skip
    for name, (least, most) in bands.items():
        assert least <= figures[name] <= most, (name, figures[name])


def test_ma_30d_is_what_the_product_counts(commonwealth: Any, exits: DataFrame) -> None:
    tables, _ = commonwealth
    counted = populations.snap_checkins(
        tables["dta_snap.checkins"], tables["dta_snap.cases"],
        regions={}, certification_types={}, as_of=AS_OF,
    )  # fmt: skip
    product = {r["month"]: r["churned"] for r in counted.collect()}
    events = definitions.events(DEFINITIONS["ma_30d"], exits)
    own = events.groupBy("month").agg(F.count_if("churned").alias("churned")).collect()
    ours = {r["month"]: r["churned"] for r in own if r["month"] in product}
    assert len(product) > 12 and sum(product.values()) > 50
    # The thirty days after the end of January reach into March, of which the last report of such a
    # check-in, February's, does not tell; the files of March do.
    assert {m: n for m, n in ours.items() if m.month != 1} == {
        m: n for m, n in product.items() if m.month != 1
    }
    assert all(ours[month] >= product[month] for month in ours)


def test_check_ins_fall_due_when_the_rules_say(commonwealth: Any) -> None:
    tables, _ = commonwealth
    reported = tables["dta_snap.checkins"].select(
        "study_case_id", F.trunc("due_on", "month").alias("month"), "kind"
    ).distinct()  # fmt: skip
    by_rule = definitions.due_by_rule(tables["dta_snap.cases"])
    months = tables["dta_snap.cases"].select("study_case_id", "month").distinct()
    reported = reported.join(months, ["study_case_id", "month"])
    same = reported.intersect(by_rule.select(*reported.columns)).count()
    assert same == reported.count() > 1000
