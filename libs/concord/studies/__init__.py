"""Studies: what one agreement allows one recipient to hold, under pseudonyms of its own."""
