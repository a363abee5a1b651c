"""Outcomes of a programme: a panel of people and quarters, an adjusted comparison, its report."""
