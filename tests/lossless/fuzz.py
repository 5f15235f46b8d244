"""Untrusted input: expressions, YAML and edited strategies, and what the compiler makes of them.

Whatever comes in, the answer is a diagnostic or an artifact whose source is plain: no code of the
file's runs at compile time, and none of its text leaves a string in the generated module.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from nldc import api
from nldc.codegen.emit_artifact import emit_artifact
from nldc.diagnostics import StrategyError
from nldc.expr import ExprError, parse
from nldc.reuse import parse as parse_source

FILES = [path.read_text(encoding="utf-8") for path in api.library().values()]
PIECES = sorted({word for text in FILES for word in re.findall(r"[\w$.]+|[^\w\s]", text)})
HOSTILE = (
    "__import__('os').system('x')", "().__class__.__bases__", "lambda: 0", "9**9**9", "x" * 3000,
    "(" * 200 + "1" + ")" * 200, "a" + "[0]" * 100, "1 if 1 else 2", "`id`", "${HOME}",
    "!!python/object:x",
    "&a [*a]", "<<: *a", "*x", "|", ">", "? a", "\\x00", "\\u2028", "'\"\"\"",
    '"""\nimport os\n"""',
    "\\", "{{", "}}", "%s", "0x7fffffffffffffff", "1e400", "-0", "nan", "k.__dict__",
    "q.row.__class__",
    "2147483648", "block_length ** 9", "not not not 1", "true.real", "row = 1", "a; b", "#", "\t",
)  # fmt: skip
ALLOWED = {"torch", "triton", "__future__", "typing", "pathlib"}


@dataclass
class Tally:
    """How many inputs of each kind were tried, and how many were taken."""

    tried: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.tried.values())

    def data(self) -> str:
        """Return the tally as one line of JSON."""
        return json.dumps(vars(self), sort_keys=True)

    def add(self, data: str) -> None:
        """Add the tally of another run."""
        other = json.loads(data)
        self.tried.update(other["tried"])
        self.taken.update(other["taken"])


def run(count: int, seed: int = 0) -> Tally:
    """Try `count` inputs; an assertion fails on the first that is answered otherwise."""
    tally, draw = Tally(), Random(seed)
    for number in range(count):
        kind = ("expression", "yaml", "strategy")[number % 3]
        tally.tried[kind] += 1
        tally.taken[kind] += {"expression": expression, "yaml": document, "strategy": edited}[kind](
            draw
        )
    return tally


def expression(draw: Random) -> bool:
    """Parse a random expression."""
    text = "".join(
        draw.choice((*PIECES, *HOSTILE, " ", "(", ")", "q.row", "k.prefix", "<="))
        for _ in range(draw.randint(1, 12))
    )
    try:
        parse(text)
    except ExprError as problem:
        span = problem.start, problem.end
    else:
        return True
    assert 0 <= span[0] <= span[1] <= len(text) + 1, text
    return False


def document(draw: Random) -> bool:
    """Read random YAML."""
    text = "".join(
        draw.choice((*HOSTILE, *PIECES, "\n", "\n  ", ": ", "- ", "{", "}"))
        for _ in range(draw.randint(1, 40))
    )
    return accepted(text)


def edited(draw: Random) -> bool:
    """Read a strategy in which some words are replaced."""
    pieces = re.split(r"([\w$.]+|[^\w\s])", draw.choice(FILES))
    for _ in range(draw.choice((1, 1, 2, 4))):
        pieces[draw.randrange(len(pieces))] = draw.choice((*PIECES, *HOSTILE))
    return accepted("".join(pieces))


def accepted(text: str) -> bool:
    """Check a file, and where it is fine look at what is generated."""
    try:
        checked = api.check_source(parse_source(text, "fuzz.yaml"))
    except StrategyError:
        return False
    files = emit_artifact(checked.graph, "fuzz.yaml", text, "0")
    for name, code in files.items():
        if name.endswith(".py"):
            only_plain(code)
    return True


def only_plain(code: bytes) -> None:
    """Assert that generated source imports only what it may, and calls nothing by a string."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            assert node.module.split(".")[0] in {*ALLOWED, "nldc"}, node.module
        elif isinstance(node, ast.Name):
            assert node.id not in ("eval", "exec", "__import__", "compile", "getattr", "open")
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("__"), node.attr


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    result = run(*(numbers or [3000]))
    print(f"{result.total} inputs tried: {dict(result.tried)}, taken {dict(result.taken)}")
    print(f"TALLY {result.data()}")
