"""What is said of a mistake is the mistake: its kind, its bound, and who set it."""

from __future__ import annotations

import pytest

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.reuse import parse

LOOP = """nldc: 1
name: loop
summary: A block a step.
guarantee: none
params:
  bar: {{type: float, default: 0.5, min: 0.0, max: {most}, runtime: true}}
adapters: {{drafter: {{kind: {kind}, optional: true}}}}
prefill:
  context: {{op: forward, tokens: $prompt, attention: causal, cache: append}}
  seed:    {{op: sample, logits: context.last}}
carry: {{seed: prefill.seed}}
step:
  block: {{op: rows, segments: [{{tokens: seed}}, {{masks: 3}}]}}
  filled:
    op: repeat
    on: block
    until: full
    at_most: {most_rounds}
    body:
      block: {{include: '#round', with: {{rows: block, least: {least}}}}}
  refresh: {{op: forward, tokens: filled, attention: causal, adapter: drafter, cache: append}}
  after:   {{op: sample, logits: refresh.last}}
  emit:    {{tokens: filled, cache: keep all, next: {{seed: after}}}}
fragments:
  round:
    params: {{least: {{type: float, default: 0.5, min: 0.0, max: {bound}}}}}
    takes: [rows]
    nodes:
      seen:   {{op: forward, tokens: rows, attention: bidirectional, cache: read}}
      blind:  {{op: forward, tokens: rows, attention: not k.prompt, predicts: self, cache: read}}
      mixed:  {{op: mix, logits: [seen, blind], weights: {weights}}}
      pick:   {{op: sample, logits: mixed, temperature: {temperature}}}
      sure:   {{op: score, logits: mixed, tokens: pick, by: probability}}
      take:   {{op: select, among: rows.masked, score: sure, at_least: least, always: best 1}}
      filled: {{op: fill, rows: rows, where: take, tokens: pick}}
    yields: filled
"""
RIGHT = {
    "most": "1.0",
    "bound": "1.0",
    "kind": "lora",
    "most_rounds": "3",
    "least": "bar",
    "weights": "[1, 0.5]",
    "temperature": "0",
}
HUGE = {"most": "2.0e9", "bound": "2.0e9"}
POWER = " * ".join(["bar"] * 40)
HEAT = " * ".join(["least"] * 40)


def said(**other: str) -> list[tuple[str, str, str]]:
    text = LOOP.format(**{**RIGHT, **other})
    try:
        api.check_source(parse(text, "loop.yaml"))
    except StrategyError as error:
        return [(each.code, each.message, each.labels[0].text) for each in error.diagnostics]
    return []


def test_the_file_as_it_is_has_no_mistake() -> None:
    assert said() == []
    assert said(least="bar * 0.5 + 0.25") == []


@pytest.mark.parametrize(
    ("other", "code", "message", "label"),
    [
        (
            {"most": "9.0"}, "NLD023", "`least` of the fragment `round` cannot be `bar`",
            "requests may make it 0.0 to 9.0, and it is to be between 0.0 and 1.0",
        ),
        (
            {"least": "bar - 0.25"}, "NLD023",
            "`least` of the fragment `round` cannot be `bar - 0.25`",
            "requests may make it -0.25 to 0.75, and it is to be between 0.0 and 1.0",
        ),
        (
            {**HUGE, "least": POWER}, "NLD023",
            f"`least` of the fragment `round` cannot be `{POWER}`",
            "a number may be too large",
        ),
        (
            {"kind": "sampler"}, "NLD090", "`drafter` is a sampler, and this asks for a lora",
            "declared as `kind: sampler`",
        ),
        (
            {"weights": "[1e39, 1]"}, "NLD030", "`1e+39` is too large for a weight",
            "logits are float32, which ends at 3.40e+38",
        ),
        (
            {"weights": "[1, 0 - 1e39]"}, "NLD030", "`0 - 1e39` is too large for a weight",
            "logits are float32, which ends at 3.40e+38",
        ),
        (
            {"weights": "[1]"}, "NLD012", "`mix` node `block_mixed`: a list does not fit here",
            "expected 2 or more of them, not 1",
        ),
        (
            {**HUGE, "temperature": HEAT}, "NLD054",
            f"`{HEAT.replace('least', 'bar')}` may be no temperature",
            "a number may be too large",
        ),
        ({"most_rounds": "0"}, "NLD052", "`at_most` cannot be 0", "must be at least 1"),
        (
            {"most_rounds": "1000000000"}, "NLD052", "`at_most` cannot be 1000000000",
            "must be at most 4096",
        ),
        ({"most_rounds": "3 - 3"}, "NLD052", "`3 - 3` is 0", "must be at least 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_as_what_it_is(
    other: dict[str, str], code: str, message: str, label: str
) -> None:
    assert said(**other)[0] == (code, message, label)
