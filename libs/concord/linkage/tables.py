"""The tables of the person index: what the vault keeps of the engine, and the index itself."""

from __future__ import annotations

from collections.abc import Mapping

from concord.lake.registry import Column, Table

OWNER = "data office"
DIRECT = ("restricted", "direct")
# The logs tell which run wrote last and how far the crosswalk has followed the events: they must
# outlive the files, of which old ones hold identifiers or what is long out of date.
LONG_LOG: Mapping[str, str] = {"delta.logRetentionDuration": "interval 365 days"}

PLACEHOLDERS = Table(
    name="vault/linkage_placeholders",
    description="Values that too many different people have, found by the last run in its records.",
    owner=OWNER,
    key=("column", "value"),
    columns=(
        Column("column", "string", "ssn, phone, emails (one of them) or birth"),
        Column("value", "string", "in standard form, as a text", *DIRECT),
        Column(
            "others", "bigint", "different names and birth dates, or family names, that have it"
        ),
        Column("records", "bigint", "records that have it"),
    ),
    properties=LONG_LOG,
)

RECORDS = Table(
    name="vault/linkage_records",
    description=("Every record in comparable form, a row per distinct set of values."),
    owner=OWNER,
    key=("record_id", "variant"),
    columns=(
        Column("record_id", "string", "", "restricted"),
        Column("feed", "string"),
        Column("role", "string"),
        Column("variant", "int", "counts the record's rows from 0"),
        Column("said", "bigint", "digest of what the agency's rows say; tells what changed"),
        Column("given", "string", "words of the given name", *DIRECT),
        Column("given_root", "string", "a name that its nicknames share, to block by", *DIRECT),
        Column("middle", "string", "initial", *DIRECT),
        Column("family", "string", "words of the family name", *DIRECT),
        Column("suffix", "string", "JR, SR, III, IV", *DIRECT),
        Column(
            "birth_order", "string", "A, B, ... where a newborn without a name has one", *DIRECT
        ),
        Column("birth", "date", "", *DIRECT),
        Column("birth_year", "string", "also where month and day are a placeholder", *DIRECT),
        Column("sex", "string", "F or M", *DIRECT),
        Column("ssn", "string", "nine digits that can be one", *DIRECT),
        Column("ssn_last4", "string", "", *DIRECT),
        Column("phone", "string", "ten digits", *DIRECT),
        Column("emails", "string", "addresses in lower case, with U+001F between", *DIRECT),
        Column("street", "string", "in postal abbreviations", *DIRECT),
        Column("zip", "string", "five digits", *DIRECT),
    ),
    statistics=("feed", "role"),
    hashes=("record_id", "said"),
    properties=LONG_LOG,
)

KEYS = Table(
    name="vault/linkage_keys",
    description=(
        "Blocking keys with more pairs than the budget allows, and values that the model takes "
        "for common: an increment counts the keys anew, and keeps the values."
    ),
    owner=OWNER,
    key=("of", "key"),
    columns=(
        Column("of", "string", "the blocking rule, or the column or transform of a common value"),
        Column("key", "bigint", "hash of the values", *DIRECT),
        Column("dropped", "bigint", "pairs of the key that were not made"),
        Column("refined", "array<bigint>", "keys that refine it and have too many still", *DIRECT),
        Column("class", "int", "how common the value is, from 1; NULL of a rule's key"),
    ),
    properties=LONG_LOG,
)

PATTERNS = Table(
    name="vault/linkage_patterns",
    description="How many pairs of variants were compared, by blocking rule and pattern.",
    owner=OWNER,
    key=("rule", "pattern"),
    columns=(
        Column("rule", "string", "the blocking rule that the pairs belong to"),
        Column("pattern", "bigint", "levels of agreement as one integer", "restricted"),
        Column("pairs", "bigint"),
        Column("kept", "boolean", "whether its pairs are in vault/linkage_pairs"),
        Column("asked", "string", "digest of what made and compared the pairs; not of weights"),
    ),
    properties=LONG_LOG,
)

PAIRS = Table(
    name="vault/linkage_pairs",
    description=(
        "Candidate pairs that are not hopeless, and those that would link if they were not of a "
        "kind that never does, with the pattern of their heaviest variants."
    ),
    owner=OWNER,
    key=("left_record_id", "right_record_id"),
    columns=(
        Column("left_record_id", "string", "the smaller of the two ids", "restricted"),
        Column("right_record_id", "string", "", "restricted"),
        Column("pattern", "bigint", "levels of agreement as one integer", "restricted", "direct"),
        Column("rule", "string", "the blocking rule that made the pair"),
    ),
    hashes=("left_record_id", "right_record_id"),
    properties=LONG_LOG,
)

LINKS = Table(
    name="index/links",
    description="Pairs of records that are rather one person than two.",
    owner=OWNER,
    key=("left_record_id", "right_record_id"),
    columns=(
        Column("left_record_id", "string", "the smaller of the two ids", "confidential"),
        Column("right_record_id", "string", "", "confidential"),
        Column("weight", "double", "match weight in bits", "confidential"),
        Column("probability", "double", "that both are one person, by the model", "confidential"),
        Column("rule", "string", "the blocking rule that made the pair"),
        Column("model_version", "string", "version and digest of conf/person_index.yaml"),
    ),
    statistics=("weight",),
    hashes=("left_record_id", "right_record_id"),
    properties=LONG_LOG,
)

CROSSWALK = Table(
    name="index/crosswalk",
    description=(
        "Which person a record belongs to, and when it did: from valid_from until valid_to, "
        "exclusive, NULL while it does. Days are business dates of runs."
    ),
    owner=OWNER,
    key=("record_id", "valid_from"),
    columns=(
        Column("record_id", "string", "", "confidential"),
        Column("person_id", "string", "opaque, minted once, never reused", "confidential"),
        Column("valid_from", "date"),
        Column("valid_to", "date", "NULL while it holds"),
        Column("run_id", "string", "the run that said so"),
        Column("how", "string", "the kind of event: minted, joined, merged_into, split_from"),
    ),
    statistics=("valid_from", "valid_to"),
    hashes=("record_id", "person_id"),
    properties=LONG_LOG,
)

EVENTS = Table(
    name="index/events",
    description="Every change of every person, only added to; replayed, they are the crosswalk.",
    owner=OWNER,
    key=("event_id",),
    columns=(
        Column("event_id", "string"),
        Column("sequence", "bigint", "count of the runs that changed persons, from 1"),
        Column("as_of", "date", "the run's business date"),
        Column("kind", "string", "minted, joined, merged_into, split_from, left, retired"),
        Column("person_id", "string", "", "confidential"),
        Column("other_person_id", "string", "merged into it, or split from it", "confidential"),
        Column("record_ids", "array<string>", "records that come, go or move", "confidential"),
        Column("run_id", "string"),
        Column("model_version", "string"),
        Column("actor", "string", "from the operating system"),
        Column("reason", "string"),
    ),
    statistics=("sequence", "as_of", "kind"),
    hashes=("event_id", "person_id", "record_ids"),
    retention_days=365,
)

QUALITY = Table(
    name="index/quality",
    description="What a run can say of the index without knowing the truth.",
    owner=OWNER,
    key=("run_id", "measure", "group"),
    columns=(
        Column("run_id", "string"),
        Column("as_of", "date"),
        Column("measure", "string"),
        Column("group", "string", "a feed, two feeds, attribute=value, a rule, a size; all"),
        Column("value", "double", "NULL where it would say something of fewer than 11"),
        Column("lower", "double", "of the 95 % interval; NULL where there is none"),
        Column("upper", "double"),
        Column("of", "bigint", "what a share is of: pairs, records, persons; NULL of a count"),
        Column("model_version", "string"),
    ),
    statistics=("as_of", "measure", "group"),
    properties=LONG_LOG,
)

REVIEW_QUEUE = Table(
    name="vault/review_queue",
    description=(
        "Pairs of records for stewards to look at: a sample of each stratum, without pairs that "
        "are decided."
    ),
    owner=OWNER,
    key=("item_id",),
    columns=(
        Column("item_id", "string", "of kind and records; the same in every run"),
        Column("kind", "string", "conflict, ruled_out, rival, weak_link, near_link"),
        Column("left_record_id", "string", "the smaller of the two ids", "restricted"),
        Column("right_record_id", "string", "", "restricted"),
        Column("left_person_id", "string", "", "restricted"),
        Column("right_person_id", "string", "", "restricted"),
        Column("left_feed", "string"),
        Column("right_feed", "string"),
        Column("weight", "double", "bits, whatever never links", "restricted"),
        Column("probability", "double", "by the model; 0 for what never links", "restricted"),
        Column("pattern", "bigint", "levels of agreement as one integer", "restricted", "direct"),
        Column("rule", "string", "the blocking rule that made the pair; NULL if none did"),
        Column("why", "string", "why it is here, in words without values", "restricted"),
        Column("stratum", "string", "kind, feeds and band of weight"),
        Column("stratum_size", "bigint", "pairs of the stratum, those decided too"),
        Column("record_ids", "array<string>", "all records of the persons concerned", "restricted"),
        Column("run_id", "string"),
        Column("as_of", "date", "the run's business date"),
        Column("model_version", "string", "version and digest of conf/person_index.yaml"),
    ),
    statistics=("kind",),
    properties=LONG_LOG,
)

# Not the run's: stewards write it between runs, and no run holds its lock.
STEWARD_DECISIONS = Table(
    name="index/steward_decisions",
    description=(
        "What stewards decided of pairs of records, only added to: of a pair the newest counts, "
        "for every run and model."
    ),
    owner=OWNER,
    key=("decision_id",),
    columns=(
        Column("decision_id", "string"),
        Column("left_record_id", "string", "the smaller of the two ids", "confidential"),
        Column("right_record_id", "string", "", "confidential"),
        Column("verdict", "string", "must_link, cannot_link, withdrawn", "confidential"),
        Column("actor", "string", "the steward, from the operating system"),
        Column("reason", "string", "in the steward's words", "confidential"),
        Column("decided_at", "timestamp", "the real clock, never before an earlier decision"),
        Column("run_id", "string", "the command that wrote it"),
    ),
    statistics=("decided_at",),
    retention_days=365,
)

LINK_WEIGHTS = Table(
    name="index/link_weights",
    description=(
        "For analysts of linked records: how many records each record with a link to another feed "
        "stands for (inverse probability of being linked, stabilised)."
    ),
    owner=OWNER,
    key=("record_id",),
    columns=(
        Column("record_id", "string", "", "confidential"),
        Column("weight", "double", "", "confidential"),
    ),
    hashes=("record_id",),
    properties=LONG_LOG,
)

# In the order of their commits in a run, the first to the last.
TABLES = (
    PLACEHOLDERS,
    RECORDS,
    KEYS,
    PATTERNS,
    PAIRS,
    LINKS,
    EVENTS,
    CROSSWALK,
    REVIEW_QUEUE,
    LINK_WEIGHTS,
    QUALITY,
)
