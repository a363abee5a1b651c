"""The lake: session, storage, table registry, idempotent writes, locks, ledgers, upkeep."""
