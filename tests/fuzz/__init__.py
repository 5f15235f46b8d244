"""Damaged files of every kind that is read: each is accepted, or refused in words that name it.

`python -m tests.fuzz --count 1000000 --processes 2 --tally FILE` runs it at length, and
`python -m tests.fuzz --report docs/fuzz.md FILE...` writes the page about it.
"""
