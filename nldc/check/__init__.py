"""Rules over a whole graph: one file a rule, all listed in `rules.py`."""
