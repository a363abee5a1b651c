"""Lists that reach the same share of each group's closures.

A list of fixed length that goes by probability alone reaches fewer of the closures of groups that
close less often, however right the probabilities are. So the order of calls adds a shift to each
group's log-odds, found where the model is calibrated, such that recall at capacity is equal between
groups (Rodolfa, Lamba, Ghani 2021, Nature Machine Intelligence 3:896, who do it by thresholds and
find that it costs little). Probabilities stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from concord_models.evaluation import Floats, Ints, called
from concord_models.scorer import OTHERS, EqualRecall, groups, log_odds

# A group with fewer closures, where the shifts are found, is one with all others of so few.
LEAST_CLOSURES = 50
ROUNDS, STEP = 200, 0.5


def equal_recall(
    label: Ints,
    raw: Floats,
    lists: Sequence[object],
    values: Mapping[str, Sequence[str]],
    kinds: Sequence[str],
    k: int,
) -> EqualRecall:
    """The shifts with which the first `k` of each list hold the most equal shares of each group's
    closures. Without kinds, or where only one group has closures enough, none."""
    if not kinds:
        return EqualRecall()
    own = np.array(groups(values, kinds), dtype=object)
    closures = {name: int(label[own == name].sum()) for name in sorted(set(own))}
    enough = [name for name, count in closures.items() if count >= LEAST_CLOSURES]
    own = np.where(np.isin(own, enough), own, OTHERS).astype(object)
    names, row_group = np.unique(own.astype(str), return_inverse=True)
    ones = [(row_group == g) & (label == 1) for g in range(len(names))]
    told = np.array([bool(each.any()) for each in ones])
    if told.sum() < 2:
        return EqualRecall(tuple(kinds))
    odds, shifts = log_odds(raw), np.zeros(len(names))
    best, least = shifts.copy(), np.inf
    for turn in range(ROUNDS):
        chosen = called(odds + shifts[row_group], lists, k)
        recall = np.array([chosen[each].mean() for each in ones if each.any()])
        if (spread := float(recall.max() - recall.min())) < least:
            best, least = shifts.copy(), spread
        # Smaller steps towards the end: recall moves by whole closures.
        shifts[told] -= STEP * (1 - turn / ROUNDS) * (recall - recall.mean())
    return EqualRecall(
        tuple(kinds), {str(n): round(float(s), 4) for n, s in zip(names, best, strict=True)}
    )
