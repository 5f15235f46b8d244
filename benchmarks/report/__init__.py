"""Every table of figures in README and docs/: where its figures come from, and how it is written.

`python -m benchmarks.report` (`make report`) measures anew what can be measured here and writes the
tables; see `--help`. `entries.py` lists the tables, `data/` keeps the figures with the command, the
device, the date and the digest of what they follow from.
"""
