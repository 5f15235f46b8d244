"""NLD100 and up: what a file promises and what can be proved of it."""

from nldc.errors.entry import Entry

ENTRIES: tuple[Entry, ...] = ()
