"""Contracts of feeds: ODCS files read into types, compared, documented and drafted."""
