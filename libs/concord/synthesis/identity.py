"""How an agency writes a person down: names, birth date, SSN, address, with the agency's errors.

Each agency has its own rates per record (`AgencyErrors`); a person's difficulty multiplies them,
so errors are correlated and unequal across groups. Every planted error is kept as a flag.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from concord.synthesis.names import HISPANIC, TRANSLITERATED, vocabulary, written
from concord.synthesis.people import LANGUAGES, YEAR, People
from concord.synthesis.periods import NEVER
from concord.synthesis.places import STREET_KINDS, places
from concord.synthesis.streams import Rng, chance

# Planted errors, one bit each of `Identity.errors`, in this order.
ERRORS = (
    "ssn_missing",
    "ssn_wrong_digit",
    "ssn_swapped_digits",
    "ssn_of_relative",
    "ssn_last_four",
    "name_typo",
    "first_initial_only",
    "nickname",
    "surname_stale",
    "double_surname_cut",
    "transliterated",
    "day_month_swapped",
    "january_first",
    "address_stale",
    "address_blank",
    "race_missing",
    "duplicate_person",
    "unnamed_newborn",
)
BIT = {name: 1 << i for i, name in enumerate(ERRORS)}


@dataclass(frozen=True)
class AgencyErrors:
    """Rates per record of one agency; those after `stale_name` as shares of those they can hit."""

    ssn_adult: float = 0.0
    ssn_child: float = 0.0
    ssn_digit: float = 0.0
    ssn_swap: float = 0.0
    ssn_relative: float = 0.0
    ssn_last4: float = 0.0
    typo: float = 0.0
    initial: float = 0.0
    nickname: float = 0.0
    stale_name: float = 0.0
    cut_double: float = 0.0
    transliterated: float = 0.03
    day_month: float = 0.0
    january: float = 0.0
    stale_address: float = 0.0
    race_missing: float = 0.0
    duplicate: float = 0.0
    newborn: float = 0.0


# Shares of records, by agency. A child's and an adult's SSN are present at different rates.
DTA = AgencyErrors(
    ssn_adult=0.97, ssn_child=0.92, ssn_digit=0.004, ssn_swap=0.002, ssn_relative=0.003,
    typo=0.015, nickname=0.03, stale_name=0.20, cut_double=0.25, day_month=0.003, january=0.003,
    stale_address=0.12, race_missing=0.08, duplicate=0.015,
)  # fmt: skip
DPH = AgencyErrors(
    ssn_adult=0.62, ssn_child=0.55, ssn_digit=0.010, ssn_swap=0.004, ssn_relative=0.008,
    typo=0.03, nickname=0.04, stale_name=0.30, cut_double=0.30, day_month=0.006, january=0.005,
    stale_address=0.10, race_missing=0.12, duplicate=0.03, newborn=0.35,
)  # fmt: skip
EEC = AgencyErrors(
    ssn_adult=0.70, ssn_child=0.70, ssn_digit=0.008, ssn_swap=0.003, ssn_relative=0.008,
    typo=0.03, nickname=0.05, stale_name=0.30, cut_double=0.30, day_month=0.006, january=0.004,
    stale_address=0.15, race_missing=0.20, duplicate=0.03,
)  # fmt: skip
DESE = AgencyErrors(
    typo=0.01, nickname=0.04, stale_name=0.30, cut_double=0.15, day_month=0.002, january=0.001,
    stale_address=0.08, race_missing=0.005, duplicate=0.003,
)  # fmt: skip
DUA = AgencyErrors(
    ssn_adult=1.0, ssn_child=1.0, ssn_digit=0.007, ssn_swap=0.003, ssn_relative=0.002,
    typo=0.02, initial=0.10, nickname=0.05, stale_name=0.40, cut_double=0.60,
    transliterated=0.04,
)  # fmt: skip
# Unemployment claims are typed by the claimant: names are whole, there are addresses.
CLAIMS = replace(
    DUA, initial=0.0, cut_double=0.20, stale_name=0.25, day_month=0.003, january=0.002,
    stale_address=0.10, race_missing=0.10,
)  # fmt: skip
# MassHire is not in the agency table that the others follow: between DTA and DUA, by assumption.
MASSHIRE = AgencyErrors(
    ssn_adult=0.90, ssn_child=0.90, ssn_digit=0.006, ssn_swap=0.003, ssn_relative=0.002,
    typo=0.02, nickname=0.06, stale_name=0.25, cut_double=0.25, day_month=0.004, january=0.003,
    stale_address=0.15, race_missing=0.10, duplicate=0.01,
)  # fmt: skip


NAMED_AFTER = 100  # days from birth until an agency knows a newborn's name


@dataclass(frozen=True)
class Identity:
    """Records of people at one agency: arrays over records.

    Strings are object arrays, None where missing. `who` indexes into the people. The surname is
    `family_before` until day `family_from`; addresses change with a lag of `address_lag` days.
    """

    people: People
    who: np.ndarray
    given: np.ndarray
    named: np.ndarray
    middle: np.ndarray
    family: np.ndarray
    family_before: np.ndarray
    family_from: np.ndarray
    suffix: np.ndarray
    birth: np.ndarray
    sex: np.ndarray
    race: np.ndarray
    ethnicity: np.ndarray
    language: np.ndarray
    ssn: np.ndarray
    ssn_last4: np.ndarray
    phone: np.ndarray
    address_lag: np.ndarray
    errors: np.ndarray

    def given_on(self, records: np.ndarray, when: np.ndarray | int) -> np.ndarray:
        """The given name; a newborn's "Baby Boy" is replaced NAMED_AFTER days from birth."""
        grown = when - self.people.birth[self.who[records]] > NAMED_AFTER
        return np.where(grown, self.named[records], self.given[records])

    def family_on(self, records: np.ndarray, when: np.ndarray | int) -> np.ndarray:
        before = self.family_from[records] > when
        return np.where(before, self.family_before[records], self.family[records])

    def address_on(self, records: np.ndarray, when: np.ndarray | int) -> dict[str, np.ndarray]:
        """Columns address_line1, city, zip, town (index) as the agency has them on day `when`."""
        people, atlas = self.people, places()
        at = people.address_on(self.who[records], when - self.address_lag[records])
        zips = people.address_zip[at]
        blank = (self.errors[records] & BIT["address_blank"]) > 0
        street = atlas.streets[people.address_street[at]]
        kind = np.array(STREET_KINDS, dtype=object)[people.address_kind[at]]
        unit = people.address_unit[at]
        number = people.address_number[at].astype(str).astype(object)
        apartment = np.where(unit > 0, " Apt " + unit.astype(str).astype(object), "")
        line = number + " " + street + " " + kind + apartment
        shelter = people.homeless[self.who[records]]
        line = np.where(shelter, "Family Shelter, " + street + " St", line)
        return {
            "address_line1": np.where(blank, None, line),
            "city": np.where(blank, None, atlas.zip_city[zips]),
            "zip": np.where(blank, None, atlas.zip_code[zips]),
            "town": atlas.zip_town[zips],
        }


def observe(
    people: People,
    who: np.ndarray,
    agency: AgencyErrors,
    rng: Rng,
    when: int | np.ndarray,
) -> Identity:
    """The records that an agency makes of people `who` (a person may come several times).

    `when` is the day of registration, one for all or one each. Errors of a record stay with it for
    good, as in a case file that nobody corrects; only a newborn's name comes later.
    """
    n = len(who)
    when = np.broadcast_to(np.asarray(when), (n,))
    words = vocabulary()
    strain = people.difficulty[who] / max(people.difficulty[who].mean(), 1e-9) if n else np.zeros(0)
    errors = np.zeros(n, dtype=np.int64)

    def hit(rate: float, able: np.ndarray | None = None) -> np.ndarray:
        struck = chance(rng, np.minimum(rate * strain, 0.97), n)
        return struck if able is None else struck & able

    def mark(name: str, struck: np.ndarray) -> None:
        errors[struck] |= BIT[name]

    # Names.
    accents = people.accents[who]
    given_codes = people.first[who]
    given = np.where(accents, words.first_accented[given_codes], words.first_written[given_codes])
    nickname = words.nicknames[given_codes]
    short = hit(
        agency.nickname / 0.85, np.array([word is not None for word in nickname], dtype=bool)
    )
    given[short] = nickname[short]
    mark("nickname", short)

    family = _surname(people, who, people.last[who], second=True)
    before = _surname(people, who, people.last_before[who], second=people.renamed_on[who] >= NEVER)
    unchanged = people.last_before[who] == people.last[who]
    before[unchanged] = family[unchanged]
    family_from = np.where(unchanged, -NEVER, people.renamed_on[who])
    # Stale: a change of the last years that the agency has not heard of; it learns after a year.
    fresh = ~unchanged & (people.renamed_on[who] > when - 6 * YEAR)
    stale = hit(agency.stale_name, fresh)
    family_from[stale] = np.maximum(people.renamed_on[who], when)[stale] + 365
    mark("surname_stale", stale)
    double = people.second[who] >= 0
    cut = hit(agency.cut_double, double)
    for names in (family, before):
        for i in np.flatnonzero(cut):
            names[i] = names[i].replace("-", " ").split(" ")[0]
    mark("double_surname_cut", cut)
    able = np.array([words.last[c] in TRANSLITERATED for c in people.last[who]], dtype=bool)
    other_script = hit(agency.transliterated, able)
    for i in np.flatnonzero(other_script):
        plain = str(words.last[people.last[who[i]]])
        family[i] = written(TRANSLITERATED[plain])
    mark("transliterated", other_script)
    typo = hit(agency.typo)
    for i in np.flatnonzero(typo):
        if rng.random() < 0.5:
            given[i] = mistyped(given[i], rng)
        else:
            family[i] = before[i] = mistyped(family[i], rng)
    mark("name_typo", typo)
    initial = hit(agency.initial)
    given[initial] = np.array([name[0] for name in given[initial]], dtype=object)
    mark("first_initial_only", initial)
    named = given.copy()
    newborn = hit(agency.newborn, when - people.birth[who] < 60)
    label = np.where(people.sex[who] == 0, "Baby Girl", "Baby Boy").astype(object)
    given[newborn] = label[newborn]
    mark("unnamed_newborn", newborn)

    # Birth date.
    birth = people.birth[who].copy()
    dates = birth.astype("datetime64[D]")
    year = dates.astype("datetime64[Y]")
    month = dates.astype("datetime64[M]").astype(np.int64) % 12 + 1
    dom = (dates - dates.astype("datetime64[M]")).astype(np.int64) + 1
    swap = hit(agency.day_month / 0.37, (dom <= 12) & (dom != month))
    swapped = (year.astype("datetime64[M]") + (dom - 1)).astype("datetime64[D]") + (month - 1)
    birth[swap] = swapped.astype(np.int64)[swap]
    mark("day_month_swapped", swap)
    january = hit(agency.january)
    birth[january] = year.astype("datetime64[D]").astype(np.int64)[january]
    mark("january_first", january)

    ssn, last4 = _ssn(people, who, agency, rng, when, strain, errors)

    # Race and ethnicity as two questions; a missing one is missing in both for half of them.
    group = people.group[who]
    missing = hit(agency.race_missing)
    mark("race_missing", missing)
    race = np.array(["white", "black", "asian", "native", "multiple", "white"], dtype=object)[group]
    race[(group == HISPANIC) & (people.other_race[who] == 1)] = "other"
    ethnicity = np.where(group == HISPANIC, "hispanic", "not_hispanic").astype(object)
    race[missing] = None
    ethnicity[missing & chance(rng, 0.5, n)] = None

    late = hit(agency.stale_address)
    mark("address_stale", late)
    mark("address_blank", people.homeless[who] & chance(rng, 0.5, n))
    middle = np.array([chr(65 + i) for i in range(26)], dtype=object)[people.middle[who]]
    middle[chance(rng, 0.35, n)] = None
    suffix = np.array([None, "Jr", "Sr"], dtype=object)[people.suffix[who]]
    suffix[chance(rng, 0.4, n)] = None
    return Identity(
        people=people,
        who=who,
        given=given,
        named=named,
        middle=middle,
        family=family,
        family_before=before,
        family_from=family_from,
        suffix=suffix,
        birth=birth,
        sex=np.array(["F", "M"], dtype=object)[people.sex[who]],
        race=race,
        ethnicity=ethnicity,
        language=np.array(LANGUAGES, dtype=object)[people.language[who]],
        ssn=ssn,
        ssn_last4=last4,
        phone=people.phone[who].astype(str).astype(object),
        address_lag=np.where(late, rng.integers(200, 700, n), rng.integers(0, 45, n)),
        errors=errors,
    )


def with_duplicates(who: np.ndarray, agency: AgencyErrors, people: People, rng: Rng) -> np.ndarray:
    """`who` and, behind, those whom the agency has registered a second time."""
    strain = people.difficulty[who]
    rate = agency.duplicate * strain / max(strain.mean(), 1e-9) if len(who) else np.zeros(0)
    return np.concatenate([who, who[chance(rng, np.minimum(rate, 0.9), len(who))]])


def mark_duplicates(identity: Identity, first_duplicate: int) -> Identity:
    """The same records, with those from `first_duplicate` on marked as duplicates."""
    errors = identity.errors.copy()
    errors[first_duplicate:] |= BIT["duplicate_person"]
    return replace(identity, errors=errors)


def mistyped(name: str, rng: Rng) -> str:
    """One typing error: two letters swapped, one dropped, doubled or hit beside."""
    if len(name) < 3:
        return name + name[-1].lower()
    at = int(rng.integers(1, len(name) - 1))
    kind = int(rng.integers(0, 4))
    if kind == 0 and name[at] != name[at + 1]:
        return name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    if kind == 1:
        return name[:at] + name[at + 1 :]
    if kind == 2:
        return name[:at] + name[at] + name[at:]
    beside = {
        "a": "s",
        "e": "r",
        "i": "o",
        "o": "p",
        "n": "m",
        "m": "n",
        "s": "d",
        "r": "t",
        "l": "k",
    }
    return name[:at] + beside.get(name[at].lower(), "e") + name[at + 1 :]


def _surname(
    people: People, who: np.ndarray, codes: np.ndarray, second: np.ndarray | bool
) -> np.ndarray:
    words = vocabulary()
    accents = people.accents[who]
    text = np.where(accents, words.last_accented[codes], words.last_written[codes])
    has = (people.second[who] >= 0) & second
    more = people.second[who][has]
    joint = np.where(people.joined[who][has] == 1, "-", " ").astype(object)
    tail = np.where(accents[has], words.last_accented[more], words.last_written[more])
    text[has] = text[has] + joint + tail
    return text


def _ssn(
    people: People,
    who: np.ndarray,
    agency: AgencyErrors,
    rng: Rng,
    when: int | np.ndarray,
    strain: np.ndarray,
    errors: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(nine digits or None, last four where only these are known or None)."""
    n = len(who)
    number = people.ssn[who].copy()
    child = (when - people.birth[who]) / YEAR < 18
    wanted = np.where(child, agency.ssn_child, agency.ssn_adult)
    # Missing more often where difficulty is high, the same share in all.
    missing = (1 - wanted) * (1 + 0.6 * wanted * (strain - 1))
    absent = chance(rng, np.clip(missing, 0.0, 1.0), n)
    relative = np.where(people.mother[who] >= 0, people.mother[who], people.spouse[who])
    borrowed = chance(rng, np.minimum(agency.ssn_relative * strain / 0.6, 0.9), n) & (relative >= 0)
    number[borrowed] = people.ssn[relative[borrowed]]
    errors[borrowed & ~absent] |= BIT["ssn_of_relative"]
    digit = chance(rng, np.minimum(agency.ssn_digit * strain, 0.9), n) & ~borrowed
    power = 10 ** rng.integers(0, 7, n)
    old = number // power % 10
    number[digit] += ((old + rng.integers(1, 9, n)) % 10 - old)[digit] * power[digit]
    errors[digit & ~absent] |= BIT["ssn_wrong_digit"]
    swap = chance(rng, np.minimum(agency.ssn_swap * strain * 1.1, 0.9), n) & ~borrowed & ~digit
    low, high = number // power % 10, number // (power * 10) % 10
    swap &= low != high
    number[swap] += ((high - low) * power - (high - low) * power * 10)[swap]
    errors[swap & ~absent] |= BIT["ssn_swapped_digits"]
    text = np.char.zfill(number.astype(str), 9).astype(object) if n else np.zeros(0, dtype=object)
    text[absent] = None
    errors[absent] |= BIT["ssn_missing"]
    last4 = np.full(n, None, dtype=object)
    if agency.ssn_last4:
        partly = absent & chance(rng, agency.ssn_last4 / max(1 - agency.ssn_adult, 1e-9), n)
        last4[partly] = np.array([f"{v % 10_000:04d}" for v in number[partly]], dtype=object)
        errors[partly] |= BIT["ssn_last_four"]
    return text, last4
