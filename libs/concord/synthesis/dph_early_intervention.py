"""`dph_early_intervention`: children under three referred for services; a referral comes again."""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import MISSING, Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes, days
from concord.synthesis.identity import DPH, mark_duplicates, observe, with_duplicates
from concord.synthesis.names import pick
from concord.synthesis.periods import NEVER
from concord.synthesis.streams import chance

REFERRED_SHARE = 0.13  # of children, before their third birthday
RACE = {"white": "W", "black": "B", "asian": "A", "native": "N", "multiple": "M", "other": "O"}
NARRATIVES = (
    'Referred by "Early Steps" visit.\nConcerns: speech, feeding.',
    "Family asked for an interpreter.\nHome visit preferred; mornings.",
    "Premature birth.\nFollow up in 3 months.",
    "Seen at clinic.\nNo concerns about hearing, motor delay possible.",
    "Sibling was enrolled before.",
)


def tables(block: Block) -> FeedPart:
    """A referral in the month it is made and again in each month in which something changes."""
    rng = block.rng("dph_early_intervention")
    people, timeline = block.people, block.timeline
    seed = people.seed
    young = (people.birth > timeline.start - 3 * 365) & (people.birth < timeline.end)
    chosen = np.flatnonzero(young & chance(rng, REFERRED_SHARE * 1.25, len(people)))
    newborn = chance(rng, 0.22, len(chosen))
    age = np.where(newborn, rng.integers(2, 50, len(chosen)), rng.integers(60, 1000, len(chosen)))
    referred = people.birth[chosen] + age
    within = (referred >= timeline.start) & (referred <= timeline.end)
    chosen, referred = chosen[within], referred[within]
    who = with_duplicates(chosen, DPH, people, rng)
    count = len(chosen)
    again = np.searchsorted(chosen, who[count:])
    referred = np.concatenate([referred, referred[again] + rng.integers(30, 200, len(again))])
    n = len(who)
    identity = mark_duplicates(observe(people, who, DPH, rng, referred), count)
    evaluated = np.where(chance(rng, 0.88, n), referred + rng.integers(8, 50, n), NEVER)
    eligible = (evaluated < NEVER) & chance(rng, 0.78, n)
    begins = np.where(eligible, evaluated + rng.integers(5, 40, n), NEVER)
    third = people.birth[who] + 1_096
    exits = np.where(eligible, np.minimum(begins + rng.integers(60, 800, n), third), NEVER)
    exits = np.where(exits <= begins, NEVER, exits)
    reason = pick(rng, ("age_three", "goals_met", "moved", "withdrawn"), (0.5, 0.25, 0.1, 0.15), n)
    source = pick(rng, ("hospital", "pediatrician", "parent", "child_care", "dcf"),
                  (0.26, 0.38, 0.2, 0.1, 0.06), n)  # fmt: skip
    narrative = pick(rng, NARRATIVES, (0.25, 0.2, 0.15, 0.25, 0.15), n)
    insurance = pick(rng, ("public", "private", "none"), (0.52, 0.45, 0.03), n)

    edges = timeline.month_edges()
    pairs = []
    for day in (referred, evaluated, begins, exits):
        month = np.searchsorted(edges, day, "right") - 1
        ok = (day >= timeline.start) & (day <= timeline.end)
        pairs.append(month[ok] * n + np.flatnonzero(ok))
    month, row = np.divmod(np.unique(np.concatenate(pairs)), max(n, 1))
    when = edges[month + 1] - 1
    where = identity.address_on(row, when)
    known = {name: days(values[row], when) for name, values in
             (("evaluated", evaluated), ("begins", begins), ("exits", exits))}  # fmt: skip
    ids = agency_numbers(seed, "dph ei", people.pid[who], 8, "EI")
    ids[count:] = agency_numbers(seed, "dph ei", people.pid[who[count:]], 8, "EJ")
    twin = people.twin[who] >= 0
    has_evaluation = ~np.ma.getmaskarray(known["evaluated"])
    has_exit = ~np.ma.getmaskarray(known["exits"])
    rows = Rows(
        month,
        {
            "referral_id": agency_numbers(
                seed, "dph referral", people.block * 100_000 + np.arange(n), 9
            )[row],
            "child_id": ids[row],
            "child_last_name": identity.family_on(row, when),
            "child_first_name": identity.given_on(row, when),
            "birth_date": identity.birth[row],
            "sex": identity.sex[row],
            "multiple_birth": np.where(twin, "Y", "N").astype(object)[row],
            "race_code": codes(identity.race, RACE)[row],
            "ethnicity_code": codes(identity.ethnicity, {"hispanic": "H", "not_hispanic": "N"})[
                row
            ],
            "language": identity.language[row],
            "ssn": identity.ssn[row],
            "parent_phone": identity.phone[row],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "insurance": insurance[row],
            "referral_source": source[row],
            "referred_on": referred[row],
            "evaluated_on": known["evaluated"],
            "eligible": np.ma.masked_where(~has_evaluation, eligible[row]),
            "services_began_on": known["begins"],
            "exited_on": known["exits"],
            "exit_reason": np.where(has_exit, reason[row], MISSING),
            "narrative": narrative[row],
        },
    )
    return FeedPart({"referrals": rows}, [Known("child", ids, who, identity.errors)])
