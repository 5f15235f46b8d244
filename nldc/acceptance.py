"""Acceptance profiles as files: what `nldc bench` measures, and masks are dealt by.

    {"nldc": "acceptance profile", "version": 1, "strategy": "quadratic_ss",
     "steps": [[40, 25, 9], [20, 31, 16], [4, 8, 30]]}

`steps[i][j]` is how many steps accepted j + 1 tokens after a step that accepted i + 1; the last
list stands for all further counts too, and the last number of each counts whole drafts. One list
alone says that steps do not depend on those before them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from nldc.diagnostics import Diagnostic, StrategyError
from nldc.ir.graph import Graph
from nldc.ir.header import SETTING
from nldc.ir.taper import Profile, bad_profile
from nldc.ir.types import Accepted
from nldc.runtime.files import write_whole

KIND, VERSION = "acceptance profile", 1
KEYS = ("nldc", "version", "strategy", "steps")
MAX_BYTES = 1 << 20
REMEDY = "`nldc bench quadratic_ss --write-acceptance FILE` writes one"


def profile_of(texts: Iterable[Sequence[int]], most: int) -> Profile:
    """Return the profile of texts, each as the tokens accepted in its steps, 1 to `most`.

    The first step of a text is not counted: no step comes before it.
    """
    steps = [[0] * most for _ in range(most)]
    for accepted in texts:
        for before, after in pairwise(accepted):
            steps[before - 1][after - 1] += 1
    return tuple(map(tuple, steps))


def longest_draft(graph: Graph) -> int:
    """Return how many tokens a step of a strategy accepts at most.

    Raises:
        StrategyError: its drafts tell nothing of whole ones.
    """
    types = [node.type for step in graph.steps for node in step.region.nodes]
    most = max((type_.most for type_ in types if isinstance(type_, Accepted)), default=0)
    if most and not graph.profiles:
        return most
    why = "its drafts are cut short by one" if most else "it verifies no drafts"
    message = f"`{graph.name}` has no acceptance profile: {why}"
    help_text = "measure `quadratic_ss` or `quadratic_ss_lora`"
    raise StrategyError([Diagnostic(SETTING, "error", message, (), (help_text,))])


def write_profile(path: str | Path, profile: Profile, strategy: str) -> None:
    """Write a profile, whole or not at all; `strategy` is what it was measured with.

    Raises:
        StrategyError: it cannot be written.
    """
    text = profile_text(profile, strategy)
    try:
        write_whole(Path(path), lambda fresh: fresh.write_text(text, encoding="utf-8"))
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise StrategyError([Diagnostic(SETTING, "error", message)]) from None


def profile_text(profile: Profile, strategy: str) -> str:
    """Return the text of a profile's file."""
    head = {"nldc": KIND, "version": VERSION, "strategy": strategy}
    rows = ",\n    ".join(json.dumps(row) for row in profile)
    return f'{json.dumps(head)[:-1]},\n  "steps": [\n    {rows}\n  ]}}\n'


def read_profile(path: str | Path) -> Profile:
    """Return the profile of a file.

    Raises:
        StrategyError: it cannot be read, or is no profile.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _error(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise _error(f"{path} is too large for an acceptance profile")
    try:
        read = json.loads(data)
    except (ValueError, RecursionError):
        raise _error(f"{path} is not JSON") from None
    return _profile(read, path)


def _profile(read: Any, path: str | Path) -> Profile:
    if not isinstance(read, dict) or read.get("nldc") != KIND:
        raise _error(f'{path} is no acceptance profile: it lacks "nldc": "{KIND}"')
    unknown = [key for key in read if key not in KEYS]
    if unknown:
        raise _error(f"{path} has a key that profiles do not have: {unknown[0]}")
    if read.get("version") != VERSION:
        raise _error(f"{path} is a profile of version {read.get('version')}, not {VERSION}")
    steps: Any = read.get("steps")
    is_table = isinstance(steps, list) and all(isinstance(row, list) for row in steps)
    if not is_table or not all(type(number) is int for row in steps for number in row):
        raise _error(f'the "steps" of {path} are no lists of whole numbers')
    problem = bad_profile(steps)
    if problem is not None:
        raise _error(f"the profile of {path} {problem}")
    return tuple(map(tuple, steps))


def _error(message: str) -> StrategyError:
    return StrategyError([Diagnostic(SETTING, "error", message, (), (REMEDY,))])
