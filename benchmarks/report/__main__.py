"""Measure the figures of README and docs/ anew, and write their tables.

`python -m benchmarks.report [NAME...]`: all sources that can be measured here, or those named; then
every table is written from what is kept. `--write` measures nothing; `--list` tells each source's
kind, command and whether its inputs are what they were.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from benchmarks.report.blocks import with_block
from benchmarks.report.entries import BLOCKS, SOURCES
from benchmarks.report.sources import ROOT, Source, load, measured, store

BUSY = 0.3
"""The load a processor above which nothing is timed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="sources to measure")
    parser.add_argument("--write", action="store_true", help="write tables from what is kept")
    parser.add_argument("--list", action="store_true", help="tell the sources")
    parser.add_argument(
        "--untimed", action="store_true", help="leave out what needs an idle machine"
    )
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(map(listed, SOURCES)))
        return 0
    try:
        chosen = [] if given.write else chosen_of(given.names, untimed=given.untimed)
        for source in chosen:
            print(f"{source.name}: {source.command}", file=sys.stderr, flush=True)
            store(source.name, measured(source))
        write_tables()
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def chosen_of(names: Sequence[str], *, untimed: bool = False) -> list[Source]:
    """Return the sources that are named, or all that can be measured here.

    Raises:
        ValueError: there is no such source, or one is timed and the machine is not idle.
    """
    known = {source.name: source for source in SOURCES}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no source {name}; they are {', '.join(known)}")
    chosen = [known[name] for name in names] or [each for each in SOURCES if each.measure]
    if untimed:
        chosen = [each for each in chosen if each.kind != "timed"]
    timed = [each.name for each in chosen if each.kind == "timed"]
    load_ = os.getloadavg()[0] / (os.cpu_count() or 1)
    if timed and load_ > BUSY:
        raise ValueError(
            f"{', '.join(timed)} is timed, and this machine has a load of {load_:.1f} a processor: "
            "wait until it is idle, or give --untimed"
        )
    return chosen


def listed(source: Source) -> str:
    """Return a line about a source."""
    try:
        now = load(source.name)
        state = "as its inputs are" if now.inputs == source.digest() else "its inputs have changed"
        return f"{source.name}: {source.kind}, {now.date}, {state}: {source.command}"
    except ValueError as problem:
        return f"{source.name}: {source.kind}, {problem}"


def pages() -> dict[str, str]:
    """Return every page that has tables, as it is to be."""
    found: dict[str, str] = {}
    for block in BLOCKS:
        text = found.get(block.page) or (ROOT / block.page).read_text(encoding="utf-8")
        inside = block.text(*(load(source.name) for source in block.sources))
        found[block.page] = with_block(text, block.name, inside)
    return found


def write_tables() -> None:
    """Write every table from the figures that are kept; all pages, or none."""
    from nldc.runtime.files import write_whole

    for page, text in pages().items():
        path = ROOT / page
        if path.read_text(encoding="utf-8") != text:
            write_whole(path, lambda fresh, text=text: fresh.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
