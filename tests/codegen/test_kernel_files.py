"""One compiled kernel serves every strategy with its predicate, in a process and on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nldc import api
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.print_kernels import print_kernel, print_kernels
from nldc.ir.build import build
from nldc.reuse import parse

NAMED = """nldc: 1
name: other
summary: Other words for the same rows.
guarantee: none
prefill:
  read: {{op: forward, tokens: $prompt, attention: causal, cache: append}}
  begin: {{op: sample, logits: read.last}}
  emit: {{tokens: begin}}
carry: {{held: prefill.begin}}
step:
  words: {{op: rows, segments: [{{tokens: held, kind: {first}}}, {{masks: 3, kind: {second}}}]}}
  far_down:
    op: forward
    tokens: words
    attention: "{attention}"
    cache: read
  guess: {{op: sample, logits: far_down}}
  whole: {{op: forward, tokens: guess, attention: causal, cache: append}}
  after: {{op: sample, logits: whole.last}}
  emit: {{tokens: guess, cache: keep all, next: {{held: after}}}}
"""
SEES = "k.prefix or k.kind == {first} or q.kind == {second} and k.row <= q.row"
LABELS = ({"first": "text", "second": "mask"}, {"first": "seed", "second": "rest"})


def text(labels: dict[str, str], sees: str = SEES) -> str:
    return NAMED.format(attention=sees.format(**labels), **labels)


def kernels(source: str) -> dict[str, str]:
    graph = build(parse(source, "case.yaml"), {}).graph
    assert graph is not None
    return print_kernels(compiled(run(graph)))


def test_labels_nodes_and_lines_leave_no_trace_in_a_kernel() -> None:
    one, other = (kernels(text(labels)) for labels in LABELS)
    assert one == other
    assert kernels("# a line more\n\n" + text(LABELS[0])) == one
    for source in one.values():
        for word in ("far_down", "text", "mask", "step.", "causal"):
            assert word not in source


def test_another_predicate_has_another_file() -> None:
    causal, other = kernels(text(LABELS[0])), kernels(text(LABELS[0], SEES.replace("<=", "<")))
    assert len(causal) == len(other) == 2
    assert len(set(causal) & set(other)) == 1  # the causal predicate's


def test_a_file_s_name_says_which_predicate_it_holds() -> None:
    """Two that read alike would be one file; no two of the library do."""
    found: dict[str, str] = {}
    for name in api.library():
        graph = build(parse(api.library()[name].read_text("utf-8"), "case.yaml"), {}).graph
        assert graph is not None
        program = compiled(run(graph))
        for file, source in print_kernels(program).items():
            assert found.setdefault(file, source) == source
        for pattern in program.patterns:
            assert found[f"{pattern.kernel}.py"] == print_kernel(
                pattern.predicate, asks_prompt=pattern.asks_prompt
            )
    assert len(set(found.values())) == len(found) > 3


def test_triton_knows_equal_predicates_by_one_key_and_others_by_another(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    other = tmp_path / "other.yaml"
    other.write_text("\n\n" + text(LABELS[0]), encoding="utf-8")
    again = tmp_path / "again.yaml"
    again.write_text(text(LABELS[1]).replace("far_down", "elsewhere"), encoding="utf-8")
    folders = [
        api.compile(file, tmp_path / f"out{number}", certify=False)
        for number, file in enumerate(("linear_ss", "token_editing", other, again))
    ]
    files = [folder / "patterns.py" for folder in folders]
    assert len({file.read_bytes() for file in files}) == len(files)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kernel_keys.py")), *map(str, folders)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    linear, editing, named, renamed = json.loads(done.stdout)
    assert linear["causal"] == editing["causal"] == named["causal"] == renamed["causal"]
    assert linear["bidirectional"] == editing["bidirectional"]
    assert named["far_down"] == renamed["elsewhere"]
    for place in (0, 1):
        different = {linear[n][place] for n in ("causal", "bidirectional")}
        assert len({*different, named["far_down"][place]}) == 3
