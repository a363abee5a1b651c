"""Aggregate products: what they hold, how it is counted, and the job that releases them."""
