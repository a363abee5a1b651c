"""A linkage model in Splink's terms: rules and comparisons as DuckDB's SQL, and columns for them.

What a transform or a test makes of a text (a nickname's names, a surname's words) is a column made
here by the engine's own functions, so that both are asked the same. Splink has no `never`; it is
told as a condition on its own levels, to be applied to the pairs that it predicts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from concord.errors import UsageError
from concord.linkage import compare
from concord.linkage.compare import AllOf, AnyOf, Condition, Simple
from concord.linkage.keys import Rule
from concord.linkage.model import Model
from concord.linkage.patterns import MISSING
from concord.linkage.standardise import SEPARATOR, canonical_names, words_of
from concord.linkage.values import LISTS, Part, Records

ROW, RECORD = "unique_id", "record"  # a variant's number, and whose it is
# How SQL names the two sides of a pair: where levels are told, and in blocking rules.
COMPARED, BLOCKED = ("{}_l", "{}_r"), ("l.{}", "r.{}")
Side = tuple[str, str]

# Tests that ask what lists have in common -> the list that they make of a text.
SHARED: Mapping[str, Callable[[str], Iterable[str]]] = {
    "nickname": canonical_names,
    "shared_word": words_of,
    "overlap": lambda text: text.split(SEPARATOR),
}


def column_of(part: str, test: str = "") -> str:
    """The column of a part, or of what a test of SHARED makes of it."""
    return re.sub(r"\W+", "_", f"{test} {part}").strip("_")


def condition(when: Condition, side: Side = COMPARED) -> str:
    """A level's condition as SQL. Raises UsageError for a test that is not told here."""
    if isinstance(when, AllOf | AnyOf):
        word = " and " if isinstance(when, AllOf) else " or "
        return f"({word.join(condition(each, side) for each in when.of)})"
    one, other = (
        [
            way.format(column_of(part, when.name if when.name in SHARED else ""))
            for part in when.parts
        ]
        for way in side
    )
    a, b = one[0], other[0]
    known = " and ".join(f"{each} is not null" for each in (*one, *other))
    number = when.number or 0
    told = {
        "same": f"{a} = {b}",
        "known": known,
        "missing": f"not ({known})",
        "one_known": f"({a} is null) <> ({b} is null)",
        "jaro_winkler": f"jaro_winkler_similarity({a}, {b}) >= {number}",
        "damerau_levenshtein": f"damerau_levenshtein({a}, {b}) <= {number:g}",
        "initial": f"least({_first_word(a)}, {_first_word(b)}) = 1 and {a}[1] = {b}[1]",
        "shared_word": f"list_has_any({a}, {b})",
        "overlap": f"len(list_intersect({a}, {b})) >= {when.number or 1:g}",
        "near_date": _near_date(a, b),
    }
    if when.name == "nickname":
        words = (way.format(column_of(f"first_word({when.parts[0]})")) for way in side)
        return f"(list_has_any({a}, {b}) and {' <> '.join(words)})"
    if when.name == "swapped":
        return f"({a} = {other[1]} and {one[1]} = {b})"
    if when.name not in told:
        raise UsageError(f"{when.name} is not told in Splink's terms; add it to {__name__}")
    return f"({told[when.name]})"


def _first_word(text: str) -> str:
    return f"length(split_part({text}, ' ', 1))"


def _near_date(a: str, b: str) -> str:
    year, month, day = (1, 4), (6, 2), (9, 2)
    same = [f"substr({a}, {n}, {k}) = substr({b}, {n}, {k})" for n, k in (year, month, day)]
    crossed = f"substr({a}, 6, 2) = substr({b}, 9, 2) and substr({a}, 9, 2) = substr({b}, 6, 2)"
    agreeing = " + ".join(f"({each})::int" for each in same)
    return f"{agreeing} >= 2 or ({same[0]} and {crossed})"


def blocking(rule: Rule) -> dict[str, Any]:
    """A rule, without `refine` and the budget, which Splink has not. Two rows of one record are no
    pair."""
    columns = [column_of(part) for part in rule.on]
    lists = [column_of(part) for part in rule.on if Part.of(part).lists]
    equal = [f"l.{column} = r.{column}" for column in columns]
    told: dict[str, Any] = {"blocking_rule": " and ".join([*equal, f"l.{RECORD} <> r.{RECORD}"])}
    return told | ({"arrays_to_explode": lists} if lists else {})


def comparison(compared: compare.Comparison, u: Mapping[str, float]) -> dict[str, Any]:
    """Missing is where no level's condition is met; the last level is what is left. `u`: those that
    stay as they are. Where a level counts rare values apart, Splink adjusts for term frequencies in
    its own way: by each value's, not by classes of them."""
    met = {level.name: condition(level.when) for level in compared.levels}
    counted = {level.name: column_of(level.part) for level in compared.levels if level.part}
    none = " or ".join(f"coalesce({sql}, false)" for sql in met.values())
    last = compared.levels[-1].name
    levels: list[dict[str, Any]] = [
        {"sql_condition": f"not ({none})", "label_for_charts": MISSING, "is_null_level": True}
    ]
    for name, sql in met.items():
        level = {"sql_condition": "ELSE" if name == last else sql, "label_for_charts": name}
        fixed = {"u_probability": u[name], "fix_u_probability": True} if name in u else {}
        rare = {"tf_adjustment_column": counted[name]} if name in counted else {}
        levels.append({**level, **fixed, **rare})
    return {"output_column_name": compared.name, "comparison_levels": levels}


def never(model: Model) -> list[str]:
    """The model's `never` as conditions on Splink's level numbers: -1 missing, 0 the last."""
    found = []
    for each in model.never:
        said = []
        for name, levels in each.when.items():
            order = [*reversed(model.comparisons[name].levels)]
            numbers = [-1 if level == MISSING else order.index(level) for level in levels]
            said.append(f"gamma_{name} in ({', '.join(map(str, numbers))})")
        found.append(" and ".join(said))
    return found


def training(model: Model) -> list[str]:
    """The pairs that teach m, a blocking rule for each set; of a level of several conditions, the
    pairs that meet the first."""
    compiled = {each.name: {of.name: of.when for of in each.levels} for each in model.compiled}
    return [
        " and ".join(
            [
                condition(next(inside(compiled[name][level])), BLOCKED)[1:-1]
                for name, (level, *_) in when.items()
            ]
            + [f"l.{RECORD} <> r.{RECORD}"]
        )
        for when in model.training
    ]


def translated(model: Model) -> dict[str, Any]:
    """All that Splink is told of a model. Of a comparison with `fixed_u` u is told too."""
    fixed = {
        name: {level: of.each("u")[0] for level, of in each.levels.items()} if each.fixed_u else {}
        for name, each in model.comparisons.items()
    }
    return {
        "blocking": [blocking(rule) for rule in model.rules],
        "comparisons": [comparison(each, fixed[each.name]) for each in model.compiled],
        "training": training(model),
        "never": never(model),
    }


def prepared(rows: pa.Table, model: Model, id: str) -> pa.Table:
    """The columns that the SQL reads, of rows of texts: ROW, RECORD, and a column for each part."""
    records = Records(rows)
    tests = list(simple(model))
    plain = [part for rule in model.rules for part in rule.on]
    plain += [part for test in tests if test.name not in SHARED for part in test.parts]
    plain += [f"first_word({test.parts[0]})" for test in tests if test.name == "nickname"]
    made: dict[str, Any] = {ROW: pa.array(range(rows.num_rows)), RECORD: rows[id]}
    for part in plain:
        of = Part.of(part)
        work = LISTS[of.transform or ""] if of.lists else None
        made[column_of(part)] = _column(records, of.column if work else part, work)
    for test in tests:
        if test.name in SHARED:
            part = test.parts[0]
            made[column_of(part, test.name)] = _column(records, part, SHARED[test.name])
    return pa.table(made)


def _column(records: Records, part: str, work: Callable[[str], Iterable[str]] | None) -> pa.Array:
    """A part's values; with `work` the lists that it makes of them, NULL where they are empty."""
    values = records.values(part)
    if work is None:
        made = pa.array(values.texts, pa.string())
    else:
        lists = [sorted({one for one in work(text) if one}) for text in values.texts]
        made = pa.array([some or None for some in lists], pa.list_(pa.string()))
    return made.take(pa.array(values.codes, mask=values.codes < 0))


def simple(model: Model) -> Iterator[Simple]:
    """All tests of a model."""
    for compared in model.compiled:
        for level in compared.levels:
            yield from inside(level.when)


def inside(when: Condition) -> Iterator[Simple]:
    """The tests of a condition, in order."""
    if isinstance(when, Simple):
        yield when
    else:
        for each in when.of:
            yield from inside(each)
