"""Generated code calls what the contract lists, and nothing else of the runtime."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nldc import runtime
from nldc.runtime import Decoder, abi
from nldc.runtime.step import ops
from nldc.runtime.step.contract import StepBatch

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
FILES = sorted(GOLDEN.rglob("decode.py*"))


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Every `name.attribute`, and `.attribute` of what has no name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            holder = node.value.id if isinstance(node.value, ast.Name) else ""
            yield holder, node.attr


def allowed(holder: str) -> tuple[str, ...]:
    return {"batch": abi.BATCH, "ops": abi.OPS, **abi.BUILDERS}.get(holder, abi.VALUES)


def unlisted(text: str) -> list[str]:
    """What a module of generated code asks of the runtime that the contract does not list."""
    tree = ast.parse(text)
    found = [
        f"import {alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "nldc.runtime"
        for alias in node.names
        if alias.name not in abi.NAMES
    ]
    return found + [
        f"{holder}.{name}"
        for holder, name in attributes(tree)
        if holder != "self" and name not in allowed(holder)
    ]


def test_there_are_files_to_read() -> None:
    assert len(FILES) >= 17


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_generated_code_calls_nothing_that_is_not_listed(path: Path) -> None:
    assert unlisted(path.read_text(encoding="utf-8")) == []


def test_a_call_that_is_not_listed_is_seen() -> None:
    text = "from nldc.runtime import Session\nbatch.look(ops.guess(x.secret), ops.join(x.tokens))\n"
    assert sorted(unlisted(text)) == ["batch.look", "import Session", "ops.guess", "x.secret"]


def test_what_is_listed_is_there() -> None:
    assert all(hasattr(runtime, name) for name in abi.NAMES)
    assert all(hasattr(StepBatch, name) for name in abi.BATCH)
    assert all(callable(getattr(ops, name)) for name in abi.OPS)
    assert set(abi.OPS) == set(ops.__all__) - {"Accepted"}
    for name, makers in abi.BUILDERS.items():
        assert all(callable(getattr(getattr(runtime, name), maker)) for maker in makers)


def test_class_variables_that_are_listed_are_those_of_a_decoder() -> None:
    assert set(abi.DECODER_VARIABLES) == {name for name in vars(Decoder) if name.isupper()}


def test_what_is_listed_is_what_the_printer_calls() -> None:
    text = (ROOT / "codegen" / "print_decode.py").read_text(encoding="utf-8")
    assert {name for name in abi.OPS if not re.search(rf"_ops\([\"']{name}[\"']\)", text)} == set()
