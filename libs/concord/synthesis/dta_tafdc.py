"""`dta_tafdc`: families on cash assistance (TAFDC), one row per member and month of receipt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from concord.synthesis.blocks import Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.identity import DTA, observe
from concord.synthesis.people import BLOCK_PEOPLE, CHILD, HEAD, YEAR
from concord.synthesis.tafdc import GROWN, Cash, tafdc

# The department's, under the client numbers of SNAP; it registers nobody twice here.
ERRORS = replace(DTA, duplicate=0.0)
# Cents of a month's grant: of a family of two, and per further person; by assumption.
GRANT, PER_PERSON = 63_000, 15_000


def tables(block: Block) -> FeedPart:
    """One row per member of a family and month in which the family receives assistance."""
    people, timeline = block.people, block.timeline
    cash = tafdc(people, block.work, timeline)
    skipped = cash.received.shape[1] - timeline.months
    on, edges = cash.received[:, skipped:], cash.edges[skipped:]
    firsts, lasts = edges[:-1], edges[1:] - 1

    ever = np.any(on, axis=1).astype(bool)[cash.member_family]
    who, family = cash.members[ever], cash.member_family[ever]
    identity = observe(people, who, ERRORS, block.rng("dta_tafdc"), timeline.start)
    ids = agency_numbers(people.seed, "dta client", people.pid[who], 9, "1")
    units = agency_numbers(people.seed, "dta unit", people.block * BLOCK_PEOPLE + cash.home, 9)

    month, row = np.nonzero(on[family].T)
    born, died = people.birth[who[row]], people.death[who[row]]
    child = people.position[who[row]] == CHILD
    here = (born <= lasts[month]) & (died > firsts[month])
    here &= ~child | (born > firsts[month] - GROWN * YEAR)
    month, row, child = month[here], row[here], child[here]
    when, of = lasts[month], family[row]
    where = identity.address_on(row, when)
    size = np.zeros(on.shape, dtype=np.int64)
    np.add.at(size, (of, month), 1)
    head = people.position[who[row]] == HEAD
    grant = GRANT + np.maximum(size[of, month] - 2, 0) * PER_PERSON
    rows = Rows(
        month,
        {
            "client_id": ids[row],
            "month": firsts[month],
            "unit_id": units[of],
            "relationship": np.select([head, child], ["G", "C"], "S").astype(object),
            "last_name": identity.family_on(row, when),
            "first_name": identity.given[row],
            "birth_date": identity.birth[row],
            "sex": identity.sex[row],
            "ssn": identity.ssn[row],
            "phone": identity.phone[row],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "grant_amount": np.ma.masked_where(~head, grant),
        },
    )
    listed = np.unique(of)
    none = np.zeros(len(listed), dtype=np.int64)
    return FeedPart(
        {"members": rows},
        [
            Known.listed("client", ids, identity, row),
            Known("unit", units[listed], none - 1, none),
        ],
        {"training_assistance": _truth(block, cash)},
    )


def _truth(block: Block, cash: Cash) -> dict[str, pa.Array]:
    """Of each trained parent of a family with a child, by month from that of the first entry on:
    whether the family received assistance, and whether it would have without any training."""
    people, training = block.people, block.work.training
    person, episode = np.unique(training.person, return_index=True)
    family = np.full(len(people), -1)
    family[cash.members] = cash.member_family
    family[people.position == CHILD] = -1
    parents = family[person] >= 0
    person, episode = person[parents], episode[parents]
    entered = np.searchsorted(cash.edges, training.entry[episode], "right") - 1
    which, month = np.nonzero(np.arange(cash.received.shape[1]) >= entered[:, None])
    of = family[person[which]]
    return {
        "person_id": pa.array(people.pid[person[which]]),
        "month": pa.array(cash.edges[month].astype(np.int32)).cast(pa.date32()),
        "received": pa.array(cash.received[of, month]),
        "untrained_received": pa.array(cash.untrained[of, month]),
    }
