"""The benchmark of accuracy: a model in Splink's terms, and what is told of two linkages."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from concord.errors import UsageError
from concord.linkage.compare import AllOf, AnyOf, Simple
from concord.linkage.keys import Rule
from concord.linkage.model import Model
from concord.linkage.person_index import load_person_index
from concord.linkage.quality import Agreement
from tests.bench import accuracy, splink_model
from tests.bench.accuracy import Case, Score
from tests.bench.report import between_markers

ROOT = Path(__file__).resolve().parents[2]
INDEX = load_person_index(ROOT / "conf" / "person_index.yaml")
MODEL = Model.model_validate(
    {
        "blocking": [{"name": "words", "on": ["each_word(family)", "first(zip, 3)"]}],
        "comparisons": {
            "family": {
                "column": "family",
                "levels": {
                    "exact": {"test": "same"},
                    "part": {"test": "shared_word"},
                    "differ": {},
                },
            },
            "given": {
                "column": "given",
                "fixed_u": True,
                "levels": {
                    "exact": {"test": "same", "m": 0.9, "u": 0.01},
                    "nickname": {"test": "nickname", "m": 0.05, "u": 0.01},
                    "differ": {"m": 0.05, "u": 0.98},
                },
            },
        },
        "never": [{"why": "w", "when": {"given": ["differ", "missing"], "family": ["part"]}}],
        "training": [{"given": ["exact"]}],
    }
)


@pytest.mark.parametrize(
    ("when", "sql"),
    [
        (Simple("same", ("first(zip, 3)",)), "(first_zip_3_l = first_zip_3_r)"),
        (Simple("known", ("a", "b")), "a_l is not null and b_l is not null and a_r is not null"),
        (Simple("missing", ("a",)), "(not (a_l is not null and a_r is not null))"),
        (Simple("jaro_winkler", ("a",), 0.88), "(jaro_winkler_similarity(a_l, a_r) >= 0.88)"),
        (Simple("damerau_levenshtein", ("a",), 1.0), "(damerau_levenshtein(a_l, a_r) <= 1)"),
        (Simple("swapped", ("a", "b")), "(a_l = b_r and b_l = a_r)"),
        (Simple("overlap", ("a",)), "(len(list_intersect(overlap_a_l, overlap_a_r)) >= 1)"),
        (
            AllOf(
                (Simple("same", ("a",)), AnyOf((Simple("same", ("b",)), Simple("same", ("c",)))))
            ),
            "((a_l = a_r) and ((b_l = b_r) or (c_l = c_r)))",
        ),
    ],
)
def test_a_condition_is_told_as_sql(when: object, sql: str) -> None:
    assert sql in splink_model.condition(when)  # type: ignore[arg-type]


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(UsageError, match="days_apart"):
        splink_model.condition(Simple("days_apart", ("birth",), 3))


def test_a_rule_meets_by_each_value_of_a_list_and_never_a_record_with_itself() -> None:
    told = splink_model.blocking(Rule("words", ("each_word(family)", "zip"), ()))
    assert told == {
        "blocking_rule": "l.each_word_family = r.each_word_family and l.zip = r.zip "
        "and l.record <> r.record",
        "arrays_to_explode": ["each_word_family"],
    }


def test_missing_is_where_no_level_is_met_and_reckoned_u_stay() -> None:
    family, given = splink_model.translated(MODEL)["comparisons"]
    names = [level["label_for_charts"] for level in family["comparison_levels"]]
    assert names == ["missing", "exact", "part", "differ"]
    none, *_, last = family["comparison_levels"]
    assert none["is_null_level"] and none["sql_condition"].startswith("not (coalesce((family_l")
    assert last["sql_condition"] == "ELSE" and "u_probability" not in last
    assert [level.get("u_probability") for level in given["comparison_levels"]] == [
        None,
        0.01,
        0.01,
        0.98,
    ]


def test_never_and_training_are_told() -> None:
    assert splink_model.never(MODEL) == ["gamma_given in (0, -1) and gamma_family in (1)"]
    assert splink_model.training(MODEL) == ["l.given = r.given and l.record <> r.record"]


def test_columns_are_made_as_the_engine_makes_them() -> None:
    rows = pa.table(
        {
            "id": ["x", "x", "y"],
            "family": ["DE LA CRUZ DIAZ", "CRUZ", None],
            "given": ["BOB", None, "ROBERT"],
            "zip": ["02139", None, "01002"],
        }
    )
    made = splink_model.prepared(rows, MODEL, "id").to_pydict()
    assert made["record"] == ["x", "x", "y"] and made["unique_id"] == [0, 1, 2]
    assert made["each_word_family"] == [["CRUZ", "DIAZ"], ["CRUZ"], None]
    assert made["first_zip_3"] == ["021", None, "010"]
    assert {"BOB", "ROBERT"} <= {*made["nickname_given"][0]} and made["nickname_given"][1] is None


def test_the_committed_index_can_be_told() -> None:
    told = splink_model.translated(INDEX)
    assert len(told["blocking"]) == len(INDEX.blocking)
    assert len(told["never"]) == len(INDEX.never)
    levels = [level for of in told["comparisons"] for level in of["comparison_levels"]]
    rare = [of["tf_adjustment_column"] for of in levels if "tf_adjustment_column" in of]
    assert rare == ["given", "family"], "names are adjusted for how common they are"


def test_a_model_is_fitted_anew_but_for_what_is_reckoned() -> None:
    bare = accuracy.unfitted(INDEX)
    assert bare.people is None and not bare.fitted
    assert bare.comparisons["ssn"].levels["exact"].u == INDEX.comparisons["ssn"].levels["exact"].u
    assert {of.m for each in bare.comparisons.values() for of in each.levels.values()} == {None}
    assert {of.u for of in bare.comparisons["given"].levels.values()} == {None}


def test_clusters_that_share_a_record_are_one() -> None:
    found = accuracy.joined(["a", "a", "b", "c", "d"], [1, 2, 2, 3, 1])
    assert len({found["a"], found["b"], found["d"]}) == 1
    assert found["c"] != found["a"]


def test_what_the_rules_make_is_counted_once_and_of_one_person() -> None:
    truth = {"a": "x", "b": "x", "c": "x", "d": "y"}
    links = pa.table({"record_l": ["a", "b", "a"], "record_r": ["b", "a", "d"]})
    assert accuracy.reached(links, truth) == pytest.approx(1 / 3)


def test_accuracy_is_told_with_splink_and_without() -> None:
    good, fair = Agreement(1.0, 0.9), Agreement(0.5, 0.25)
    both = (Score("the engine", good, fair), Score("Splink", fair, good, 0.95))
    text = accuracy.in_words(Case("febrl4", 10_000, 5_000, (6_180, 6_180), 0.75, both))
    assert "10,000 records of 5,000 persons; 6,180 pairs of rows compared, by Splink 6,180" in text
    assert "The rules make 0.7500 of all pairs of one person" in text
    assert "| Splink, at 0.95 | 0.5000 | 0.2500 | 0.3333 | 1.0000 | 0.9000 |" in text
    alone = accuracy.in_words(Case("febrl4", 10_000, 5_000, (6_180, None), None, both[:1]))
    assert "Splink" not in alone


def test_the_projects_document_can_take_figures_of_accuracy() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    put = between_markers(text, "figures", accuracy.START, accuracy.END)
    assert f"{accuracy.START}\nfigures\n{accuracy.END}" in put
