"""Whether a staged delivery is taken at all: rows and totals as declared, text in the right
encoding, few enough bad rows."""

from __future__ import annotations

from decimal import Decimal

from pyspark.sql import functions as F

from concord.errors import DeliveryError, QualityError
from concord.ingest import integrity, readers
from concord.ingest.stage import Stage


def balance(staged: Stage) -> None:
    """Rows and totals as declared, to the row and to the cent, and text in the right encoding.

    Raises DeliveryError with every file's differences.
    """
    reasons: list[str] = []
    for file in staged.files:
        if file.rows != file.declared_rows:
            reasons.append(
                f"{file.name}: holds {file.rows} rows, the manifest declares {file.declared_rows}"
            )
        for column, declared in sorted(file.declared_totals.items()):
            total = file.totals.get(column)
            if column not in file.totals:
                continue
            total = total if total is not None else Decimal(0)
            if total != Decimal(declared):
                reasons.append(
                    f"{file.name}: {column} adds up to {total.normalize():f}, the manifest "
                    f"declares {declared}, a difference of "
                    f"{(total - Decimal(declared)).normalize():f}"
                )
    reasons += _whole_file_faults(staged)
    if reasons:
        raise DeliveryError(reasons)


def _whole_file_faults(staged: Stage) -> list[str]:
    """Malformed rows that mean the file is not what the contract says: encoding, unknown keys."""
    if not any(violation.rule == "malformed" for violation in staged.violations):
        return []
    reasons = []
    for name, rows in staged.tables.items():
        message = F.col("_violations")[0]["message"]
        bad = (
            rows.where(F.size("_violations") > 0)
            .select("_file", message.alias("message"))
            .where(
                F.col("message").startswith(readers.DRIFT) | (F.col("message") == readers.ENCODING)
            )
            .distinct()
            .collect()
        )
        table_format = staged.contract.table(name).format
        for row in sorted(bad, key=lambda row: (row["_file"], row["message"])):
            if row["message"] == readers.ENCODING:
                encoding = getattr(table_format, "encoding", "utf-8")
                reasons.append(integrity.wrong_encoding(row["_file"], encoding))
            else:
                unknown = row["message"].removeprefix(readers.DRIFT).split(", ")
                reasons += integrity.unknown_columns(row["_file"], unknown)
    return sorted(set(reasons))


def threshold(staged: Stage) -> None:
    """Raises QualityError when too many rows are bad, or a table as a whole breaks a rule."""
    if staged.table_failures:
        raise QualityError("; ".join(staged.table_failures))
    limit = staged.contract.quarantine_limit
    if staged.share_quarantined <= limit:
        return
    worst = sorted(staged.violations, key=lambda v: -v.rows)[:5]
    rules_text = ", ".join(f"{v.table}.{v.column or '*'} {v.rule}: {v.rows}" for v in worst)
    raise QualityError(
        f"{staged.quarantined} of {staged.rows} rows break the contract, "
        f"{staged.share_quarantined:.1%}; its quarantineLimit is {limit:.1%}. Most often: "
        f"{rules_text}"
    )
