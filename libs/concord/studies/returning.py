"""The way back: from a study's case pseudonyms to the owner's own case ids, for the owner alone.

Nothing can turn a pseudonym round. The hub makes the pseudonyms of the owner's ids again, from
the vault, and joins: only for an agreement that returns results under the agency's own ids, and
only to the agency whose ids they are.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.agreements.decision import Decision
from concord.agreements.dula import Dula
from concord.contracts.model import Contract
from concord.errors import RefusedError, UsageError
from concord.ingest import tables as ingested
from concord.lake.tables import Lake
from concord.privacy import pseudonyms
from concord.privacy.pseudonyms import StudyKey
from concord.studies.tables import subject_column

OWN_ID = "own_id"


def own_ids(
    lake: Lake,
    dula: Dula,
    decision: Decision,
    contract: Contract,
    *,
    table: str,
    role: str,
    key: StudyKey,
) -> DataFrame:
    """Pseudonym (`study_<role>_id`) and the agency's own id (`own_id`) of every case it delivered.

    `table` names the dataset (`<feed>.<table>`) whose pseudonyms are meant; `decision` is the one
    that allowed the request for `own_ids`. Raises RefusedError, naming the clause, when the
    agreement does not return results under own ids or its recipient is not the owner of the feed.
    """
    uses = dula.uses
    recipients = {party.key for party in dula.recipients.parties}
    if not decision.allowed or not uses.returned_under_own_ids:
        raise RefusedError(
            f"{dula.id} clause {uses.clause}: nothing may go back under the agency's own ids"
        )
    if dula.purpose.code != "service-coordination":
        raise RefusedError(
            f"{dula.id} clause {dula.purpose.clause}: own ids go back for service-coordination "
            f"only; the purpose is {dula.purpose.code}"
        )
    if recipients != {contract.agency}:
        raise RefusedError(
            f"{dula.id} clause {dula.recipients.clause}: the ids are those of {contract.agency}; "
            f"they do not go back to {', '.join(sorted(recipients))}"
        )
    people = ingested.identifiers(contract)
    subjects = [s for s in contract.table(table.partition(".")[2]).subjects if s.role == role]
    if people is None or not subjects or subjects[0].kind == "person":
        raise UsageError(f"{table} has no case or household in the role {role!r}")
    made = pseudonyms.entity(key, role, domain=dula.linkage_domain(table))
    return (
        lake.read(people)
        .where(F.col("role") == role)
        .select("record_id", F.col("source_key").alias(OWN_ID))
        .distinct()
        .select(made(F.col("record_id")).alias(subject_column(subjects[0], primary=False)), OWN_ID)
    )
