"""`make models`: the experiments of conf/models in full, and what they have to show."""
