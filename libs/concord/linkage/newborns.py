"""Names that hospitals give to children who have none yet: BABY BOY SMITH, NEWBORN, TWIN B.

Such a name says no more than the sex and, of twins, the order of birth. Conventions after Adelman
and others (Pediatrics 136, 2015, 327-333), who list Babyboy, BB, BG and the mother's name with
`sboy` (Wendysgirl, 1Judysgirl). Pure; workers import this module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MARKS = frozenset(["BABY", "NEWBORN", "INFANT", "UNNAMED", "TWIN", "TRIPLET"])
SEXES = {
    "BOY": "M", "MALE": "M", "BABYBOY": "M", "BB": "M",
    "GIRL": "F", "FEMALE": "F", "BABYGIRL": "F", "BG": "F",
}  # fmt: skip
# Read only behind one of the others.
LETTERS = {"M": "M", "F": "F"}
ORDERS = {name: "ABCDE"[place % 5] for place, name in enumerate("ABCDE12345")}
OF_MOTHER = re.compile(r"(?P<order>[1-5]?)[A-Z]{2,}S(?P<sex>BOY|GIRL)")


@dataclass(frozen=True)
class Newborn:
    """What such a name says: `sex` F or M, `order` of birth from A. `words`: how many of the words
    it was read from."""

    sex: str | None
    order: str | None
    words: int


def newborn(words: Sequence[str], family: Sequence[str] = ()) -> Newborn | None:
    """Reads a given name, in standard words; None where it is a name.

    What follows two or more such words is another's name (BABY BOY SMITH, BABY GIRL OF ANN). One
    of them alone may be a name's beginning (BABY JANE, BOY GEORGE), unless just the words of
    `family` follow.
    """
    found = beginning(words)
    if found is None:
        return None
    rest = [*words[found.words :]]
    return found if not rest or found.words > 1 or rest == [*family] else None


def beginning(words: Sequence[str]) -> Newborn | None:
    """What the first words say that newborns are called by; None if the first one is a name."""
    sex: str | None = None
    order: str | None = None
    read = 0
    for word in words:
        mother = OF_MOTHER.fullmatch(word) if not read else None
        if mother is not None:
            sex, order = SEXES[mother["sex"]], ORDERS.get(mother["order"])
        elif word in SEXES and sex is None:
            sex = SEXES[word]
        elif read and word in LETTERS and sex is None:
            sex = LETTERS[word]
        elif read and word in ORDERS and order is None:
            order = ORDERS[word]
        elif word not in MARKS:
            break
        read += 1
    return Newborn(sex, order, read) if read else None
