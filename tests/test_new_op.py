"""An op is added by CONTRIBUTING's list, and each line of the list is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from nldc.schema import OPS
from tests.lossless.op_models import ROWS

ROOT = Path(__file__).resolve().parent.parent
TREES = ("nldc", "codegen", "runtime", "strategies")
Edit = tuple[str, str, str]

# `reverse`: tokens in the opposite order. For each number of the list, its file, a text that stands
# there, and what is put before that text.
EDITS: Mapping[int, Sequence[Edit]] = {
    1: (
        ("nldc/schema.py", "class AcceptOp(OpModel):", '''\
class ReverseOp(OpModel):
    """Tokens in the opposite order."""

    REFERS = ("tokens",)

    op: Literal["reverse"]
    tokens: Expression


'''),
        ("nldc/schema.py", "    | AcceptOp\n", "    | ReverseOp\n"),
    ),
    2: (
        ("nldc/ir/ops.py", "@dataclass(frozen=True)\nclass Accept:", '''\
@dataclass(frozen=True)
class Reverse:
    """Tokens [n] in the opposite order."""

    tokens: Value


'''),
        ("nldc/ir/ops.py", "    | Accept\n    | Leading\n", "    | Reverse\n"),
    ),
    3: (
        ("nldc/ir/make/tokens.py", "def make_accept(", '''\
def make_reverse(reader: Reader, path: Path, model: Any, scope: Scope) -> Made | None:
    """Tokens in the opposite order."""
    found = reader.reference((*path, "tokens"), model.tokens, scope, Tokens)
    if found is None or isinstance(found[1], Unknown):
        return None
    return ops.Reverse(found[0]), Tokens(size_of(found[1]))


'''),
        ("nldc/ir/make/__init__.py", "from nldc.ir.make.tokens import", '''\
from nldc.ir.make.tokens import make_reverse
from nldc.schema import ReverseOp
'''),
        ("nldc/ir/make/__init__.py", "        case AcceptOp():", '''\
        case ReverseOp():
            return make_reverse(reader, path, model, scope)
'''),
    ),
    4: (
        ("nldc/interpret.py", "            case Accept(draft", '''\
            case Reverse(tokens):
                return tuple(reversed(self._value(tokens, values)))
'''),
        ("nldc/interpret.py", "    Repeat,\n", "    Reverse,\n"),
    ),
    5: (
        ("nldc/check/lossless/trace.py", "            case Accept():", '''\
            case Reverse(tokens):
                return tuple(reversed(self.tokens(tokens)))
'''),
        ("nldc/check/lossless/trace.py", "    Repeat,\n", "    Reverse,\n"),
    ),
    6: (
        ("codegen/program.py", "@dataclass(frozen=True)\nclass Accept:", '''\
@dataclass(frozen=True)
class Reverse:
    """Tokens in the opposite order."""

    name: str
    origin: Origin
    tokens: Use


'''),
        ("codegen/program.py", "    | Accept\n    | Loop\n", "    | Reverse\n"),
    ),
    7: (
        ("codegen/lower_method.py", "            case Accept(draft", '''\
            case Reverse(tokens):
                return p.Reverse(name, origin, self._value(tokens))
'''),
        ("codegen/lower_method.py", "    Repeat,\n", "    Reverse,\n"),
    ),
    8: (
        ("codegen/print_decode.py", "            case p.Accept(", '''\
            case p.Reverse(name, _, tokens):
                assign(name, self._ops("reverse"), [self._use(tokens)])
'''),
        ("runtime/abi.py", '    "rows",\n    "select",', '    "reverse",\n'),
    ),
    9: (
        ("runtime/step/ops.py", "def choose_rows(", '''\
def reverse(tokens: Tensor) -> Tensor:
    """Return tokens [B, n] in the opposite order."""
    return tokens.flip(1)


'''),
        ("runtime/step/ops.py", '    "rows",\n', '    "reverse",\n'),
    ),
}  # fmt: skip
BY_TESTS = {10: "docs/language.md", 11: "tests/lossless/op_models.py"}
"""The last lines of the list are held against the schema by tests below."""

STRATEGY = """\
nldc: 1
name: backwards
summary: Drafts what was found, from its end.
guarantee: exact
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
  emit:    {tokens: seed}
carry: {seed: prefill.seed}
step:
  found:   {op: lookup, length: 3, ngram: 2}
  turned:  {op: reverse, tokens: found}
  draft:   {op: join, parts: [seed, turned]}
  checked: {op: forward, tokens: draft, attention: causal, cache: append}
  choice:  {op: sample, logits: checked}
  kept:    {op: accept, draft: draft, target: choice, rule: longest_prefix}
  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}
"""

TRIED = """
import sys
from pathlib import Path
from nldc import api, interpret
from tests.lossless.hash_model import first_difference

checked = api.check(sys.argv[1])
assert Path(api.__file__).is_relative_to(sys.argv[2]), api.__file__
assert checked.certificate.proved == "exact"
assert first_difference(checked.graph, tries=2, tokens=8) is None
files = api.generate([checked])
assert b"ops.reverse(" in files["decode.py"]
api.write([checked], Path(sys.argv[2]) / "out")
print("added")
"""


def tried(folder: Path, edits: Mapping[int, Sequence[Edit]]) -> str:
    """Return what is said of the strategy by a copy of the project with these edits."""
    for tree in TREES:
        ignored = shutil.ignore_patterns("demo", "__pycache__")
        shutil.copytree(ROOT / tree, folder / tree, symlinks=True, ignore=ignored)
    for line in edits.values():
        for file, place, text in line:
            path = folder / file
            old = path.read_text(encoding="utf-8")
            assert place in old, f"{file} has no {place!r}"
            path.write_text(old.replace(place, text + place, 1), encoding="utf-8")
    strategy = folder / "backwards.yaml"
    strategy.write_text(STRATEGY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", TRIED, str(strategy), str(folder)],
        env={"PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def listed() -> dict[int, list[str]]:
    """The files that each line of CONTRIBUTING's list names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.split(r"^(\d+)\. ", text.split("## Adding an op")[1], flags=re.MULTILINE)[1:]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return {
        int(number): re.findall(r"`([a-z]+/[\w/]+\.(?:py|md))`", line.split("\n\n")[0])
        for number, line in pairs
    }


def test_the_list_names_files_that_exist_and_those_that_are_edited() -> None:
    found = listed()
    assert list(found) == [*EDITS, *BY_TESTS]
    for number, files in found.items():
        assert all((ROOT / file).is_file() for file in files)
        edited = {file for file, _, _ in EDITS[number]} if number in EDITS else {BY_TESTS[number]}
        assert edited == set(files), number


def test_an_op_is_added_by_the_list_and_is_proved_interpreted_compiled_and_run(
    tmp_path: Path,
) -> None:
    assert tried(tmp_path, EDITS) == "added\n"


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        (1, "ReverseOp"),
        (2, "Reverse"),
        (3, "nldc/ir/make was not told of the op reverse: CONTRIBUTING.md lists its places"),
        (4, "nldc/interpret.py was not told of the op Reverse: CONTRIBUTING.md lists its places"),
        (5, "backwards.yaml:12:3: error[NLD110]: the verifier's logits are changed"),
        (6, "has no attribute 'Reverse'"),
        (7, "codegen/lower_method.py was not told of the op Reverse"),
        (8, "codegen/print_decode.py was not told of the op Reverse"),
        (9, "has no attribute 'reverse'"),
    ],
)
def test_a_line_that_is_left_out_is_missed(left_out: int, says: str, tmp_path: Path) -> None:
    edits = {number: line for number, line in EDITS.items() if number != left_out}
    said = tried(tmp_path, edits)
    assert says in said
    assert "added" not in said


def test_a_call_that_the_abi_does_not_list_is_not_printed(tmp_path: Path) -> None:
    said = tried(tmp_path, {**EDITS, 8: EDITS[8][:1]})
    assert "runtime/abi.py does not list `ops.reverse`" in said


def test_the_language_page_has_a_row_for_each_op() -> None:
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.split("## Ops")[1].split("\n## ")[0], re.MULTILINE)
    assert set(OPS) == set(rows)


def test_each_op_of_a_graph_has_a_row_where_its_models_are_held_together() -> None:
    from typing import get_args

    from nldc.ir.ops import Op

    assert set(ROWS) == set(get_args(Op))
