"""Concord: an integrated data system for a state government on Apache Spark and Delta Lake."""

__version__ = "0.1.0"
