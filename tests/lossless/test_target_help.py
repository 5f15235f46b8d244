"""What mends an accept whose targets are not chosen over its own draft."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import StrategyError

STRATEGY = """\
nldc: 1
name: other_target
summary: The targets of the accept are choices over another draft.
guarantee: exact
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
  emit:    {tokens: seed}
carry: {seed: prefill.seed}
step:
  block:   {op: rows, segments: [{tokens: seed}, {masks: 3}]}
  drafted: {op: forward, tokens: block, attention: bidirectional, cache: read}
  guess:   {op: sample, logits: "drafted[1:]"}
  draft:   {op: join, parts: [seed, guess]}
  first:   {op: forward, tokens: draft, attention: causal, cache: read}
  better:  {op: sample, logits: first}
  again:   {op: join, parts: [seed, "better[:3]"]}
  checked: {op: forward, tokens: again, attention: causal, cache: append}
  choice:  {op: sample, logits: checked}
  kept:    {op: accept, draft: again, target: TARGET, rule: longest_prefix}
  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}
"""


def checked(folder: Path, target: str) -> str:
    file = folder / "other_target.yaml"
    file.write_text(STRATEGY.replace("TARGET", target), encoding="utf-8")
    return str(file)


def test_the_sample_over_the_draft_is_named_where_another_is_the_target(tmp_path: Path) -> None:
    with pytest.raises(StrategyError) as caught:
        api.check(checked(tmp_path, "better"))
    found = [each for each in caught.value.diagnostics if each.code == "NLD101"]
    said = "the `target` of `kept` must be the choices of a forward over its draft"
    assert [each.help for each in found] == [(f"{said}: write `target: choice`",)]


def test_what_the_help_says_mends_it(tmp_path: Path) -> None:
    assert api.check(checked(tmp_path, "choice")).guarantee == "exact"
