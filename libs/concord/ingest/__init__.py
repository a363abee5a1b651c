"""From an agency's delivery to curated tables, the vault and quarantine."""
