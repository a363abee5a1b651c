"""SNAP churn: check-ins as rows, procedural closure as label, features as of a day before."""
