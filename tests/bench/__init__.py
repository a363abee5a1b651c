"""`make bench`: how fast synthesis and ingestion are, on this machine, with what is measured."""
