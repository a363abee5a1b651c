"""The person index: which records, of whatever agency, speak about the same person."""
